"""The readers of texts on the command line: numbers, shapes, names of files to write.

A reader raises ArgumentTypeError, which argparse shows as "argument --option: ...". Not here: which options there are
(``options.py``).
"""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

__all__ = [
    "PNG", "READERS", "STDOUT", "columns", "file_to_write", "number", "port", "positive_int", "probability", "seconds",
    "shape", "whole",
]  # fmt: skip

STDOUT = Path("-")
"""Standard output, as the name of a file: text, as in a .csv."""


def file_to_write(*suffixes: str, dash: bool = False) -> Callable[[str], Path]:
    """Return a reader of names of output files, which end in one of the suffixes, if any; ``dash``: "-" is standard output."""

    def path(text: str) -> Path:
        if dash and text == "-":
            return STDOUT
        if os.path.basename(text) in ("", ".", ".."):  # Path would drop the slash, and write beside the folder
            raise argparse.ArgumentTypeError(f"cannot write {text!r}: it names a folder, not a file")
        if suffixes and Path(text).suffix.lower() not in suffixes:
            raise argparse.ArgumentTypeError(f"cannot write {text}: the name must end in {' or '.join(suffixes)}")
        return Path(text)

    return path


def whole(text: str, smallest: int = 0, also: str = "", hint: str = "") -> int:
    """Read a whole number, at least ``smallest``; ``also`` names what else the option takes."""
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) < smallest:
        raise argparse.ArgumentTypeError(f"must be a whole number >= {smallest}{also}, got {text!r}{hint}")
    return int(text)


positive_int = partial(whole, smallest=1)


def port(text: str) -> int:
    """Read the number of a port."""
    if (number := whole(text)) >= 1 << 16:
        raise argparse.ArgumentTypeError(f"must be a port, 0 to 65535, got {text!r}")
    return number


def number(text: str, demand: str = "a finite number", fits: Callable[[float], bool] = math.isfinite) -> float:
    """Read a finite number that fits the demand."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a finite number, got {text!r}")
    if not fits(value):
        raise argparse.ArgumentTypeError(f"must be {demand}, got {text!r}")
    return value


seconds = partial(number, demand="in 0 < S <= 86400", fits=lambda value: 0 < value <= 86400)
probability = partial(number, demand="in 0 <= F < 1", fits=lambda value: 0 <= value < 1)


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


def shape(text: str) -> tuple[int, int]:
    """Read ROWSxCOLS."""
    found = re.fullmatch(r"([1-9][0-9]{0,8})x([1-9][0-9]{0,8})", text)
    if not found:
        raise argparse.ArgumentTypeError(f"must be ROWSxCOLS, 28x28 say, got {text!r}")
    return int(found[1]), int(found[2])


READERS: dict[str, Callable[[str], Any]] = {
    "constant": constant,
    "count": positive_int,
    "masks": lambda text: None if text == "unlimited" else whole(text, 1, " or 'unlimited'"),
    "non_negative_float": partial(number, demand=">= 0", fits=lambda value: value >= 0),
    "positive_float": partial(number, demand="> 0", fits=lambda value: value > 0),
    "positive_int": positive_int,
    "probability": probability,
    "units": lambda text: 0 if text == "none" else whole(text, 1, hint=" (DATA goes before the options)"),
}
"""The readers of options that set hyper-parameters, by the name that the table has for them."""

PNG = file_to_write(".png")
