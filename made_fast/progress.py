"""What is told on standard error while something runs: how a fit goes on, messages. Whatever that stream is, nothing fails.

What cannot be shown is left out: the stream may be closed, full, without a reader, or not there at all. What a signal handler
of the host raises meanwhile goes through. tqdm is imported only when a bar is drawn.
"""

from __future__ import annotations

import io
import os
import sys
import time
from types import TracebackType
from typing import Any

__all__ = ["Progress", "is_terminal", "say"]

INTERVAL = 60.0
"""Seconds at least between two lines where there is no terminal: the log of a day has to stay small."""


def say(text: str) -> None:
    """Write a line to standard error if it can be written; never to standard output."""
    _write(sys.stderr, f"{text}\n")


def is_terminal() -> bool:
    """Say whether standard error is a terminal."""
    try:
        return bool(sys.stderr.isatty())
    except Exception as error:
        if not _is_of_stream(error):
            raise
        return False


class Progress:
    """Shows epochs as they end, on standard error.

    Nothing (verbose 0), one bar (1), or a line an epoch (2 and more). A log gets a line now and then in place of the bar: for
    the first epoch, for the last one, and every ``INTERVAL`` between them.
    """

    def __init__(self, verbose: int, max_epochs: int) -> None:
        self._verbose = verbose
        self._bar = _bar(max_epochs) if verbose == 1 else None
        self._untold = ""
        self._due = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            _unless_broken(self._bar.close)
        elif self._untold:
            say(self._untold)

    def show(self, record: Any, best_epoch: int) -> None:
        """Show one ``EpochRecord`` and which epoch is the best so far."""
        if self._verbose == 0:
            return
        text = f"train {record['train_nll']:.3f}"
        if record["validation_nll"] is not None:
            text += f", validation {record['validation_nll']:.3f} (best: epoch {best_epoch})"
        text += f", {record['rows_per_second']:,.0f} rows/s"
        if self._bar is not None:
            _unless_broken(self._bar.set_postfix_str, text, refresh=False)
            _unless_broken(self._bar.update)
            return
        self._untold = f"epoch {record['epoch']}: {text}"
        if self._verbose > 1 or time.monotonic() >= self._due:
            say(self._untold)
            self._untold = ""
            self._due = time.monotonic() + INTERVAL


class _Stream:
    """Standard error as tqdm may have it: writing to it does not fail."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        _write(self._stream, text)

    def flush(self) -> None:
        pass  # ``write`` has done it

    def has_size(self) -> bool:
        """Say whether the terminal tells its size: some say 0, and a bar of that size is not seen."""
        try:
            return min(os.get_terminal_size(self._stream.fileno())) > 0
        except Exception as error:
            if not _is_of_stream(error):
                raise
            return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _bar(max_epochs: int) -> Any:
    """Return a bar where one can be seen: in a terminal, in a notebook."""
    if not is_terminal() and "ipykernel" not in sys.modules:
        return None

    def draw() -> Any:
        from tqdm.auto import tqdm

        file = _Stream(sys.stderr)
        return tqdm(total=max_epochs, unit="epoch", desc="fit", dynamic_ncols=file.has_size(), file=file)

    return _unless_broken(draw)


def _unless_broken(do: Any, *arguments: Any, **options: Any) -> Any:
    """Return what a call of tqdm returns, or None if tqdm is missing or does not work here."""
    try:
        return do(*arguments, **options)
    except Exception as error:
        if not (_is_of_stream(error) or isinstance(error, ImportError | NameError | SyntaxError | Warning)):
            raise
        return None


def _write(stream: Any, text: str) -> None:
    """Write text to a stream as far as it takes it; what it cannot encode becomes an escape."""
    try:
        encoding = getattr(stream, "encoding", None) or "utf-8"
        data = text.encode(encoding, "backslashreplace")
        if isinstance(buffer := getattr(stream, "buffer", None), io.BufferedWriter):
            stream.flush()
            buffer.raw.write(data)  # in the buffer it would wait for the interpreter's end, and make that fail
        else:
            stream.write(data.decode(encoding))
            getattr(stream, "flush", lambda: None)()
    except Exception as error:
        if not _is_of_stream(error):
            raise


def _is_of_stream(error: Exception) -> bool:
    """Say whether an exception is one of those that streams raise, rather than one of a host's signal handler."""
    if isinstance(error, OSError):
        return error.errno is not None or isinstance(error, io.UnsupportedOperation)
    of_stream = (AttributeError, LookupError, TypeError, ValueError)  # None, nonsense, of bytes, closed
    return isinstance(error, UnicodeError) or type(error) in of_stream
