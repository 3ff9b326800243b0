"""Readers of the text of an option: whole numbers, shapes, names of files to write. Not here: which option takes what.

A reader that has the name of a check in ``tables/arguments.py`` reads what that takes; ArgumentTypeError makes argparse show
"argument --option: ...". Only the standard library.
"""

from __future__ import annotations

import math
import os
import re
from argparse import ArgumentTypeError
from collections.abc import Callable
from functools import partial
from pathlib import Path

__all__ = [
    "STDOUT", "columns", "constant", "count", "masks", "non_negative_float", "number", "output", "positive_float",
    "positive_int", "probability", "shape", "units", "whole",
]  # fmt: skip


STDOUT = Path("-")
"""Standard output, as the name of a file: text, as in a .csv."""


def output(*suffixes: str, dash: bool = False) -> Callable[[str], Path]:
    """Return a reader of names of output files that end in one of the suffixes, in any case; without suffixes, of any name.

    With ``dash``, "-" is standard output.
    """

    def path(text: str) -> Path:
        if dash and text == "-":
            return STDOUT
        if os.path.basename(text) in ("", ".", ".."):  # Path would drop the slash, and write beside the folder
            raise ArgumentTypeError(f"cannot write {text!r}: it names a folder, not a file")
        if suffixes and Path(text).suffix.lower() not in suffixes:
            raise ArgumentTypeError(f"cannot write {text}: the name must end in {' or '.join(suffixes)}")
        return Path(text)

    return path


def whole(text: str, smallest: int = 0, also: str = "") -> int:
    """Read a whole number, at least ``smallest``; ``also`` names what else the option takes."""
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) < smallest:
        raise ArgumentTypeError(f"must be a whole number >= {smallest}{also}, got {text!r}")
    return int(text)


positive_int = count = partial(whole, smallest=1)


def masks(text: str) -> int | None:
    """Read a number of masks; ``unlimited`` is None."""
    return None if text == "unlimited" else whole(text, 1, " or 'unlimited'")


def units(text: str) -> int:
    """Read the number of units of a hidden layer; ``none`` is 0."""
    try:
        return 0 if text == "none" else whole(text, 1)
    except ArgumentTypeError as error:
        raise ArgumentTypeError(f"{error} (DATA goes before the options)") from error


def number(text: str, demand: str = "a finite number", fits: Callable[[float], bool] = math.isfinite) -> float:
    """Read a finite number that fits the demand."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ArgumentTypeError(f"must be a finite number, got {text!r}")
    if not fits(value):
        raise ArgumentTypeError(f"must be {demand}, got {text!r}")
    return value


positive_float = partial(number, demand="> 0", fits=lambda value: value > 0)
non_negative_float = partial(number, demand=">= 0", fits=lambda value: value >= 0)
probability = partial(number, demand="in 0 <= F < 1", fits=lambda value: 0 <= value < 1)


def constant(text: str) -> tuple[str, float]:
    """Read NAME=X."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ArgumentTypeError(f"must be NAME=X, rho=0.95 say, got {text!r}")
    return name, number(value)


def columns(text: str) -> tuple[int, int]:
    """Read A:B."""
    found = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", text)
    if not found or int(found[1]) >= int(found[2]):
        raise ArgumentTypeError(f"must be A:B with A < B, 392:784 say, got {text!r}")
    return int(found[1]), int(found[2])


def shape(text: str) -> tuple[int, int]:
    """Read ROWSxCOLS."""
    found = re.fullmatch(r"([1-9][0-9]{0,8})x([1-9][0-9]{0,8})", text)
    if not found:
        raise ArgumentTypeError(f"must be ROWSxCOLS, 28x28 say, got {text!r}")
    return int(found[1]), int(found[2])
