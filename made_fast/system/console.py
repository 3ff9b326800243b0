"""Standard error: messages are written to it, and whatever that stream is, nothing fails.

What cannot be shown is left out: the stream may be closed, full, without a reader, or missing. An exception that the host's
signal handler raises meanwhile passes through.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any

__all__ = ["Stream", "is_of_stream", "is_terminal", "say"]


def say(text: str) -> None:
    """Write a line to standard error if it can be written; never to standard output."""
    _write(sys.stderr, f"{text}\n")


def is_terminal() -> bool:
    """Say whether standard error is a terminal."""
    try:
        return bool(sys.stderr.isatty())
    except Exception as error:
        if not is_of_stream(error):
            raise
        return False


class Stream:
    """Standard error as tqdm may have it: writing to it does not fail."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write text as far as the stream takes it."""
        _write(self._stream, text)

    def flush(self) -> None:
        """Do nothing: ``write`` has flushed."""

    def has_size(self) -> bool:
        """Say whether the terminal tells its size: some say 0, and a bar of that size is not seen."""
        try:
            return min(os.get_terminal_size(self._stream.fileno())) > 0
        except Exception as error:
            if not is_of_stream(error):
                raise
            return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


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
        if not is_of_stream(error):
            raise


def is_of_stream(error: Exception) -> bool:
    """Say whether an exception is one of those that streams raise, rather than one of a host's signal handler."""
    if isinstance(error, OSError):
        return error.errno is not None or isinstance(error, io.UnsupportedOperation)
    of_stream = (AttributeError, LookupError, TypeError, ValueError)  # None, nonsense, of bytes, closed
    return isinstance(error, UnicodeError) or type(error) in of_stream
