"""The command line: ``made-fast train | ensemble | evaluate | sample | impute | info``.

Here are the exit codes. Whatever the user got wrong is one line on standard error and 2; 130 after Ctrl-C; 141 when nobody
reads the output any more. Other exceptions are bugs and keep their traceback. The commands themselves (``fitting.py``,
``commands.py``) are thin: they call the estimators and the models, check output files beforehand, and print. NumPy and the
rest of the package are imported when a command runs: ``--help`` answers at once.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence

from made_fast import commands, fitting
from made_fast.options import UsageError, parser

__all__ = ["main"]

COMMANDS = {
    "train": fitting.train,
    "ensemble": fitting.ensemble,
    "evaluate": commands.evaluate,
    "sample": commands.sample,
    "impute": commands.impute,
    "info": commands.info,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may hold anything
    try:
        try:
            args = parser().parse_args(argv)
            code = COMMANDS[args.command](args)
        finally:
            print(end="", flush=True)  # here, not at exit, is where a closed pipe must show
    except UsageError as error:
        return _fail(error)
    except MemoryError as error:
        return _fail(f"not enough memory. {error}")
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to write would fail again, at exit
        return 141 if error.errno == errno.EPIPE else _fail(f"cannot write the output: {error.strerror}.")
    except KeyboardInterrupt:
        print("made-fast: interrupted", file=sys.stderr)
        return 130
    return code


def _fail(message: object) -> int:
    print("made-fast: error:", " ".join(str(message).split()), file=sys.stderr)
    return 2
