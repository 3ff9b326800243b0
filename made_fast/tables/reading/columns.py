"""What all readers share: their options, their result, and the rules about a file's columns: names, drops, an index.

Not here: formats (``formats.py``, ``text.py``), which values are 0/1 (``tables/table.py``).
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Columns", "Found", "Options", "narrow", "shown"]

MANY = 100  # whole numbers that all differ, and not by chance
LISTED = 20  # most columns that an error or a note lists
SHOWN = 40  # most characters of a text that an error or a note shows
COUNTED = 3  # fewest rows that may be numbered: two rows of a 0/1 column may be 0 and 1


@dataclass(frozen=True)
class Options:
    """The options of :func:`made_fast.tables.reading.datasets.load`."""

    threshold: float | None = None  # larger values become 1, the others 0
    n_features: int | None = None  # width of the data, which a LIBSVM file lacks if the last columns are never set
    missing: bool = False  # entries may be missing: NaN in arrays; for text see ``text.GAPS``
    drop: tuple[str, ...] = ()  # columns to leave out, by name, or by number, from 0, where none has that name
    header: str = "auto"  # the first line of text holds names: "yes", "no", or "auto": if no value or numbers that count on
    large: bool = False  # rows of a .parquet of more than ``formats.IN_MEMORY`` entries come packed, without a threshold
    index_base: int | None = None  # number of LIBSVM's first column; None: 0 if that occurs, 1 if that is the only way


@dataclass
class Found:
    """The result of a reader: tables by split, the file's columns, remarks. Without ``columns`` none has been dropped."""

    splits: dict[str, Any]
    columns: Columns | None = None
    notes: list[str] = field(default_factory=list)
    index_base: int | None = None


class Columns:
    """All columns of a file; ``kept`` are the numbers of those that make the table.

    Raises ValueError for names or numbers in ``drop`` that no column has, or two columns, or if nothing is left.
    """

    def __init__(self, width: int, names: Sequence[str] | None = None, drop: Sequence[str] = ()) -> None:
        self.names = None if names is None else tuple(names)
        self._count = Counter(self.names)
        dropped = {self._number(text, width) for text in drop}
        self.kept = [j for j in range(width) if j not in dropped]
        if not self.kept:
            raise ValueError(f"--drop leaves none of its {width} columns")

    def _number(self, text: str, width: int) -> int:
        places = [j for j, name in enumerate(self.names or ()) if name == text]
        if len(places) > 1:
            numbers = ", ".join(map(str, places))
            raise ValueError(f"--drop {shlex.quote(text)} names the columns {numbers}; give their numbers instead")
        if places:
            return places[0]
        if text.isascii() and text.isdigit() and len(text) < 10 and int(text) < width:
            return int(text)
        names = ", ".join(map(shown, (self.names or ())[:LISTED])) + (", ..." if width > LISTED else "")
        there = f"0..{width - 1} or {names}" if self.names else f"0..{width - 1}"
        raise ValueError(f"--drop must name a column, {there}, got {shown(text)}")

    def kept_names(self) -> tuple[str, ...] | None:
        """Return the names of the table's columns."""
        return None if self.names is None else tuple(self.names[j] for j in self.kept)

    def describe(self, j: int) -> str:
        """Return the name of column ``j`` of the file in errors."""
        name = self.names[j] if self.names else ""
        return f"column {shown(name)} ({j}, counted from 0)" if name else f"column {j} (counted from 0)"

    def option(self, *numbers: int) -> str:
        """Return the options that leave columns out, each by its name if that is clear."""

        def called(j: int) -> str:
            name = self.names[j] if self.names else ""
            clear = self._count[name] == 1 and 0 < len(name) <= SHOWN and name.isprintable()
            return shlex.quote(name) if clear else str(j)

        return " ".join(f"--drop {called(j)}" for j in numbers[:LISTED])

    def same_names(self) -> list[str]:
        """Return a remark if several columns of the table have one name."""
        twice = ", ".join([shown(name) for name, n in Counter(self.kept_names()).items() if n > 1][:LISTED])
        return [f"several columns are called {twice}; only their places tell them apart"] if twice else []

    def refuse_index(self, X: NDArray[Any], threshold: float | None) -> None:
        """Refuse a table, made of the columns that are kept, with a column that counts or numbers the rows.

        A threshold would make garbage of it. A column 0, 1, 2, .. is always an index; other whole numbers that all differ are
        one only without a threshold, where no other column keeps the table from being 0/1, or where there are many rows.
        """
        if len(X) < COUNTED:
            return
        steps = np.flatnonzero((np.diff(X[:COUNTED].astype(np.float64), axis=0) == 1).all(axis=0) & np.isin(X[0], (0, 1)))
        odd = next((int(j) for j in steps if (X[:, j] - X[0, j] == np.arange(len(X))).all()), None)
        if odd is None and threshold is None and not (X.dtype == np.uint8 and X.max() <= 1):
            strange = np.flatnonzero(~((X == 0) | (X == 1) | np.isnan(X)).all(axis=0))
            if len(strange) == 1 or len(X) >= MANY:
                odd = next((int(j) for j in strange if _all_different(X[:, j])), None)
        if odd is not None:
            j = self.kept[odd]
            found = f"it numbers the rows {X[0, odd]:g}, {X[1, odd]:g}, {X[2, odd]:g}, .."
            raise ValueError(f"{self.describe(j)} looks like an index, not like data: {found} {self.option(j)} leaves it out")


def _all_different(numbers: NDArray[Any]) -> bool:
    """Return whether these are different whole numbers >= 0."""
    return bool((numbers >= 0).all() and (numbers % 1 == 0).all() and len(np.unique(numbers)) == len(numbers))


def shown(text: str) -> str:
    """Return text in quotes, on one line and not too long."""
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 3] + "...")


def narrow(block: NDArray[Any]) -> NDArray[Any]:
    """Return numbers as uint8 or float32 if that changes none."""
    for dtype in (np.uint8, np.float32):
        for part in (block[:1], block):  # one row is enough for most tables that would change
            with np.errstate(invalid="ignore", over="ignore"):
                small = part.astype(dtype)
            if not np.array_equal(small, part, equal_nan=dtype == np.float32):
                break
        else:
            return small
    return block
