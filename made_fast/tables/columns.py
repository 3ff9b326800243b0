"""The columns of a file: how they are called, which make the table, and which are no data but count its rows.

What every reader shares: what it is asked for (:class:`Reading`), what it found (:class:`Found`), and the rules about columns.

Not here: formats (``tables/readers.py``, ``tables/textfiles.py``), what counts as 0/1 (``tables/table.py``).
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Columns", "Found", "Reading", "narrow", "shown"]

MANY = 100
"""Rows of whole numbers that are not all different by chance."""

LISTED = 20
"""Most columns that an error or a note lists."""

SHOWN = 40
"""Most characters of a text that an error or a note shows."""

COUNTED = 3
"""Fewest rows whose numbers are taken for a count: two rows of a 0/1 column may be 0 and 1."""


@dataclass(frozen=True)
class Reading:
    """What a reader is asked for: the options of :func:`made_fast.tables.datasets.load` but the file's name."""

    threshold: float | None = None
    n_features: int | None = None
    missing: bool = False
    drop: tuple[str, ...] = ()
    header: str = "auto"
    index_base: int | None = None


@dataclass
class Found:
    """What a reader found: tables by split, names of their columns, remarks, and what is still to be left out of them."""

    splits: dict[str, Any]
    names: tuple[str, ...] | None = None
    notes: list[str] = field(default_factory=list)
    drop: tuple[str, ...] = ()
    index_base: int | None = None


class Columns:
    """The columns of a file, those that are left out included; ``names`` is None where the file has none.

    Parameters
    ----------
    width : int
    names : sequence of ``width`` str, optional
    drop : sequence of str
        Columns to leave out, each by its name, or, where none has this name, by its number, counted from 0.

    Attributes
    ----------
    kept : list of int
        The numbers of the columns that make the table.

    Raises
    ------
    ValueError
        There is no such column, there are two, or nothing is left.
    """

    def __init__(self, width: int, names: Sequence[str] | None = None, drop: Sequence[str] = ()) -> None:
        self.names = None if names is None else tuple(names)
        self._count = Counter(self.names)
        dropped = {self._number(text, width) for text in drop}
        self.kept = [j for j in range(width) if j not in dropped]
        if not self.kept:
            raise ValueError(f"--drop leaves none of its {width} columns")

    def _number(self, text: str, width: int) -> int:
        if self.names is not None and text in self._count:
            if self._count[text] > 1:
                places = ", ".join(str(j) for j, name in enumerate(self.names) if name == text)
                raise ValueError(f"--drop {shlex.quote(text)} names the columns {places}; give their numbers instead")
            return self.names.index(text)
        if text.isascii() and text.isdigit() and len(text) < 10 and int(text) < width:
            return int(text)
        there = f"0..{width - 1}"
        if self.names is not None:
            there += f" or {', '.join(map(shown, self.names[:LISTED]))}{', ...' if width > LISTED else ''}"
        raise ValueError(f"--drop must name a column, {there}, got {shown(text)}")

    def leave_out(self, j: int) -> None:
        """Leave out one more column."""
        self.kept.remove(j)

    def kept_names(self) -> tuple[str, ...] | None:
        """Return the names of the table's columns."""
        return None if self.names is None else tuple(self.names[j] for j in self.kept)

    def describe(self, j: int) -> str:
        """Return what errors call column ``j`` of the file."""
        name = self.names[j] if self.names is not None else ""
        return f"column {shown(name)} ({j}, counted from 0)" if name else f"column {j} (counted from 0)"

    def option(self, *numbers: int) -> str:
        """Return the options that leave columns out, each by its name if that is enough."""
        names = self.names or ()

        def says_it(name: str) -> bool:
            return self._count[name] == 1 and 0 < len(name) <= SHOWN and name.isprintable()

        return " ".join(f"--drop {shlex.quote(names[j]) if names and says_it(names[j]) else j}" for j in numbers[:LISTED])

    def same_names(self) -> list[str]:
        """Return a remark if several columns of the table have one name: nothing but their places tells them apart."""
        twice = [name for name, n in Counter(self.kept_names()).items() if n > 1]
        if not twice:
            return []
        return [f"several columns are called {', '.join(map(shown, twice[:LISTED]))}; only their places tell them apart"]

    def refuse_index(self, X: NDArray[Any], threshold: float | None) -> None:
        """Refuse a table, made of the columns that are kept, one column of which counts the rows, or numbers them.

        A threshold would make of it a column of garbage. Counting 0, 1, 2, .. is told for sure; other whole numbers that are
        all different only where nothing else in the table keeps it from being 0/1, or where there are many.
        """
        if len(X) < COUNTED:
            return
        counting = np.arange(len(X))
        steps = np.flatnonzero((np.diff(X[:COUNTED].astype(np.float64), axis=0) == 1).all(axis=0) & np.isin(X[0], (0, 1)))
        odd = next((int(j) for j in steps if (X[:, j] - X[0, j] == counting).all()), None)
        if odd is None and threshold is None and not (X.dtype == np.uint8 and X.max() <= 1):
            strange = np.flatnonzero(~((X == 0) | (X == 1) | np.isnan(X)).all(axis=0))
            if len(strange) == 1 or len(X) >= MANY:
                odd = next((int(j) for j in strange if _all_different(X[:, j])), None)
        if odd is not None:
            j = self.kept[odd]
            raise ValueError(
                f"{self.describe(j)} looks like an index, not like data: it numbers the rows {X[0, odd]:g}, {X[1, odd]:g}, "
                f"{X[2, odd]:g}, .. {self.option(j)} leaves it out"
            )


def _all_different(numbers: NDArray[Any]) -> bool:
    """Say whether these are whole numbers from 0 on, none of them twice."""
    return bool((numbers >= 0).all() and (numbers % 1 == 0).all() and len(np.unique(numbers)) == len(numbers))


def shown(text: str) -> str:
    """Return text in quotes, on one line and not too long."""
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 3] + "...")


def narrow(block: NDArray[Any]) -> NDArray[Any]:
    """Return numbers as uint8 or float32 where they stay the same, to the bit."""
    for dtype in (np.uint8, np.float32):
        for part in (block[:1], block):  # a row tells most tables that do not stay the same
            with np.errstate(invalid="ignore", over="ignore"):
                small = part.astype(dtype)
            if not np.array_equal(small, part, equal_nan=dtype == np.float32):
                break
        else:
            return small
    return block
