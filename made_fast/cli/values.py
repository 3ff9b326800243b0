"""What the text of an option may be, for ``options.py``: whole numbers, shapes, names of files to write.

ArgumentTypeError makes argparse show "argument --option: ...". Only the standard library.
"""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Callable
from pathlib import Path

__all__ = [
    "STDOUT", "columns", "constant", "fraction", "masks", "non_negative_float", "number", "output", "positive_float",
    "positive_int", "shape", "units", "whole",
]  # fmt: skip


STDOUT = Path("-")
"""Standard output, as the name of a file: text, as in a .csv."""


def output(*suffixes: str, dash: bool = False) -> Callable[[str], Path]:
    """Return what reads the name of an output file; with ``dash``, of standard output, too. Without suffixes any name will do.

    ``path.suffix.lower()`` is one of the suffixes then, but for standard output.
    """

    def path(text: str) -> Path:
        if dash and text == "-":
            return STDOUT
        if os.path.basename(text) in ("", ".", ".."):  # Path would drop the slash, and write beside the folder
            raise argparse.ArgumentTypeError(f"cannot write {text!r}: it names a folder, not a file")
        if suffixes and Path(text).suffix.lower() not in suffixes:
            raise argparse.ArgumentTypeError(f"cannot write {text}: the name must end in {' or '.join(suffixes)}")
        return Path(text)

    return path


def whole(text: str, smallest: int = 0) -> int:
    """Read a whole number, at least ``smallest``."""
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) < smallest:
        raise argparse.ArgumentTypeError(f"must be a whole number >= {smallest}, got {text!r}")
    return int(text)


def positive_int(text: str) -> int:
    """Read a whole number, 1 or more."""
    return whole(text, 1)


def units(text: str) -> int:
    """Read how many units a hidden layer has; ``none`` is 0."""
    if text == "none":
        return 0
    try:
        return whole(text, 1)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error} (DATA goes before the options)") from error


def number(text: str) -> float:
    """Read a finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a finite number, got {text!r}")
    return value


def positive_float(text: str) -> float:
    """Read a number above 0."""
    value = number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"must be > 0, got {text!r}")
    return value


def non_negative_float(text: str) -> float:
    """Read a number, 0 or more."""
    value = number(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be >= 0, got {text!r}")
    return value


def masks(text: str) -> int | None:
    """Read how many masks there are; ``unlimited`` is None."""
    if text == "unlimited":
        return None
    try:
        return whole(text, 1)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"must be a whole number >= 1 or 'unlimited', got {text!r}") from error


def constant(text: str) -> tuple[str, float]:
    """Read NAME=X."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"must be NAME=X, rho=0.95 say, got {text!r}")
    return name, number(value)


def columns(text: str) -> tuple[int, int]:
    """Read A:B."""
    found = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", text)
    if not found or int(found[1]) >= int(found[2]):
        raise argparse.ArgumentTypeError(f"must be A:B with A < B, 392:784 say, got {text!r}")
    return int(found[1]), int(found[2])


def fraction(text: str) -> float:
    """Read a number in 0 <= F < 1."""
    value = number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be in 0 <= F < 1, got {text!r}")
    return value


def shape(text: str) -> tuple[int, int]:
    """Read ROWSxCOLS."""
    found = re.fullmatch(r"([1-9][0-9]{0,8})x([1-9][0-9]{0,8})", text)
    if not found:
        raise argparse.ArgumentTypeError(f"must be ROWSxCOLS, 28x28 say, got {text!r}")
    return int(found[1]), int(found[2])
