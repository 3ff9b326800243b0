"""Messages to standard error; they are dropped where it is closed, full, without a reader, or missing.

An exception that the host's signal handler raises meanwhile passes through.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["Stream", "is_of_stream", "is_terminal", "say"]

T = TypeVar("T")


def say(text: str) -> None:
    """Write a line to standard error if it can be written; never to standard output."""
    Stream(sys.stderr).write(f"{text}\n")


def is_terminal() -> bool:
    """Return whether standard error is a terminal."""
    return _tried(lambda: bool(sys.stderr.isatty()), False)


class Stream:
    """A stream for tqdm: writing to it does not fail."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write text as far as the stream takes it; characters that it cannot encode become escapes."""
        _tried(lambda: _write(self._stream, text), None)

    def flush(self) -> None:
        """Do nothing: ``write`` has flushed."""

    def has_size(self) -> bool:
        """Return whether the terminal has a size: some say 0, and a bar of that size is invisible."""
        return _tried(lambda: min(os.get_terminal_size(self._stream.fileno())) > 0, False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _write(stream: Any, text: str) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    data = text.encode(encoding, "backslashreplace")
    if isinstance(buffer := getattr(stream, "buffer", None), io.BufferedWriter):
        stream.flush()
        buffer.raw.write(data)  # in the buffer it would wait for the interpreter's end, and make that fail
    else:
        stream.write(data.decode(encoding))
        getattr(stream, "flush", lambda: None)()


def _tried(do: Callable[[], T], otherwise: T) -> T:
    """Return ``do()``, or ``otherwise`` if the stream fails."""
    try:
        return do()
    except Exception as error:
        if not is_of_stream(error):
            raise
        return otherwise


def is_of_stream(error: Exception) -> bool:
    """Return whether a stream raises such an exception, rather than a host's signal handler."""
    if isinstance(error, OSError):
        return error.errno is not None or isinstance(error, io.UnsupportedOperation)
    of_stream = (AttributeError, LookupError, TypeError, ValueError)  # None, nonsense, of bytes, closed
    return isinstance(error, UnicodeError) or type(error) in of_stream
