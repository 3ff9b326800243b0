"""The entry of the command line, ``made-fast COMMAND``: which function does what a command asks, and how it ends.

Its exit codes: a mistake of the user is one line on standard error and 2; a signal is 128 plus its number: 130 after Ctrl-C,
143 after SIGTERM, 129 when the terminal was closed; a closed pipe is 141. Other exceptions are bugs and keep their traceback.
The commands (``fit.py``, ``use.py``, ``serve.py``) and NumPy are imported when a command runs: ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TextIO

from made_fast.cli import files
from made_fast.cli.options import UsageError, parser
from made_fast.system import signals
from made_fast.system.console import say

__all__ = ["main"]

OF_OUTPUT = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
"""Errors of standard output that are no bugs: a closed pipe, a full disk, a closed terminal."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        with signals.raised(), warnings.catch_warnings():
            return _main(argv)
    except KeyboardInterrupt as stop:
        return signals.code_of(stop)
    finally:
        _drop_what_cannot_be_written()


def _main(argv: Sequence[str] | None) -> int:
    _take_standard_descriptors()
    warnings.showwarning = lambda message, *_, **__: files.note(message)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may hold anything
    code = 0
    try:
        try:
            code = _run(parser().parse_args(argv))
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, not at exit, is where a closed pipe must show
    except UsageError as error:
        return _fail(error)
    except MemoryError as error:
        return _fail(f"not enough memory. {error}")
    except OSError as error:
        if error.errno not in OF_OUTPUT:
            raise
        _drain(sys.stdout)
        if error.errno != errno.EPIPE and not code:
            return _fail(f"cannot write the output: {error.strerror}.")
        return code or 141
    except KeyboardInterrupt as stop:
        say("made-fast: interrupted")
        return signals.code_of(stop)
    return code


def _run(args: argparse.Namespace) -> int:
    try:
        from made_fast import kernels  # noqa: F401
    except (ImportError, ValueError) as error:  # the environment asks for kernels that are not there
        raise UsageError(f"the kernels cannot be loaded. {error}") from error
    files.check_outputs(args)
    if args.command in ("train", "ensemble"):
        from made_fast.cli import fit as commands
    elif args.command == "serve":
        from made_fast.cli import serve as commands  # type: ignore[no-redef]
    else:
        from made_fast.cli import use as commands  # type: ignore[no-redef]
    code: int = getattr(commands, args.command)(args)
    return code


def _fail(message: object) -> int:
    say(f"made-fast: error: {' '.join(str(message).split())}")
    return 2


def _take_standard_descriptors() -> None:
    """Open the standard descriptors that are closed: a model file could get number 2, and a library's error messages."""
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= 2:
        descriptor = os.open(os.devnull, os.O_RDWR)
    os.close(descriptor)


def _drop_what_cannot_be_written() -> None:
    """Flush standard error; if that fails, drop the rest: at exit the interpreter would try again, and exit with 120."""
    if sys.stderr is not None:
        try:
            sys.stderr.flush()
        except (OSError, ValueError):
            _drain(sys.stderr)


def _drain(stream: TextIO | None) -> None:
    """Send the rest of a stream nowhere."""
    with contextlib.suppress(AttributeError, OSError, ValueError):  # no file of this process
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # type: ignore[union-attr]
