"""A column of categories: texts, booleans or numbers, each a level of its own, the rarest of them together in one.

The level called rare holds the categories that were folded, with their shares, and (``handle_unknown="rare"``) every value
that training did not show, which has the share of one row.

Not here: which values become categories (``learn.py``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from made_fast.tables.columns.values import Values, called, known, seen

__all__ = ["Categories", "Category", "distinct"]

Category: TypeAlias = str | bool | int | float


@dataclass(frozen=True, eq=False)
class Categories:
    """A column of categories; its levels are the ``values``, then the rare one, then that of missing ones, if any."""

    name: str
    dtype: np.dtype[Any]  # of training, which ``decode`` gives back: bool, an int, a float; object for text
    values: tuple[Category, ...]  # all texts, all booleans, or all numbers
    counts: NDArray[np.float64]  # of each in training
    folded: tuple[Category, ...] = ()
    folded_counts: NDArray[np.float64] | None = None
    unseen: bool = False  # whether there is a level for what training did not show
    ordered: bool = False
    missing: bool = False
    missing_share: float = 0.0  # of the rows of training
    base: int = 1  # levels of the low digit, see ``tables/digits.py``; 1: the column is one variable
    spare: int = 0  # further levels for what training did not show, which fill up the last high digit

    @property
    def kind(self) -> str:
        """Return "binary" for two values that are all there may be, or "categorical"."""
        return "binary" if len(self.values) == self.n_levels == 2 else "categorical"

    @property
    def n_levels(self) -> int:
        """The number of levels, the rare one and that of missing values included."""
        return len(self.values) + self.rare + self.spare + self.missing

    @property
    def n_ordered(self) -> int:
        """The number of levels, from the first on, that are in order."""
        return len(self.values) if self.ordered else 0

    @property
    def rare(self) -> bool:
        """Whether there is a level for rare values."""
        return self.unseen or bool(self.folded)

    @property
    def text(self) -> bool:
        """Whether the categories are texts."""
        return self.dtype.kind == "O"

    @cached_property
    def levels(self) -> dict[Category, int]:
        """The level of each category; those that are folded share one."""
        found: dict[Category, int] = {value: level for level, value in enumerate(self.values)}
        return found | dict.fromkeys(self.folded, len(self.values))

    @cached_property
    def shares(self) -> dict[Category, float]:
        """The share of each folded category in the rare level."""
        if self.folded_counts is None:
            return {}
        return dict(zip(self.folded, (self.folded_counts / self._rows_folded).tolist(), strict=True))

    @property
    def unseen_share(self) -> float:
        """The share in the rare level of what training did not show."""
        return 1 / self._rows_folded if self.unseen else 0.0

    @property
    def _rows_folded(self) -> float:
        return self.unseen + (0.0 if self.folded_counts is None else float(self.folded_counts.sum()))

    def share(self, value: Category) -> float:
        """Return the share of a value in its level, 1 for one that has a level of its own."""
        return 1.0 if self._level(value) != len(self.values) else self.shares.get(value, self.unseen_share)

    def _level(self, value: Category) -> int:
        """Return the level of a value, -2 if it has none; unseen ones are spread over theirs."""
        level = self.levels.get(value)
        if level is None:
            level = len(self.values) + crc32(str(value).encode(errors="replace")) % (1 + self.spare) if self.unseen else -2
        return level

    def encode(self, column: Values, name: str, density: bool | str) -> tuple[NDArray[np.intp], NDArray[np.float64] | None]:
        """Return the level of each value, -1 for missing, and the logarithm of its share of the level."""
        null = column.null
        gap = self.n_levels - 1 if self.missing else -1
        levels, log_share = np.full(len(null), gap), np.zeros(len(null)) if density else None
        if column.base == "null":
            return levels, log_share
        self._check_base(column, name)
        found, place = distinct(column.values[~null] if null.any() else column.values)
        found = self._as_in_training(found, column.values.dtype)
        known_levels = np.array([self._level(value) for value in found], np.intp)
        levels[~null] = known_levels[place]
        if (known_levels == -2).any():
            i = int(np.argmax(levels == -2))
            raise self._unknown(column.values[i], name, i)
        if log_share is not None and self.folded:
            log_share[~null] = np.log([self.share(value) for value in found])[place]
        return levels, log_share

    def _as_in_training(self, found: list[Any], dtype: np.dtype[Any]) -> list[Any]:
        """Return numbers that come in another precision as they were in training."""
        if self.dtype.kind != "f" or dtype.kind != "f" or dtype == self.dtype:
            return found
        if dtype.itemsize > self.dtype.itemsize:
            with np.errstate(over="ignore"):
                return list(np.array(found, self.dtype).tolist())
        same = dict(zip(np.array(list(self.levels), dtype).tolist(), self.levels, strict=True))
        return [same.get(value, value) for value in found]

    def _check_base(self, column: Values, name: str) -> None:
        if (column.base == "text") != self.text:
            ours, theirs = ("text", "numbers") if self.text else ("numbers", "text")
            i = int(np.argmin(column.null))
            raise TypeError(
                f"{name} must hold {ours} in {called(self.name)}, as in training, got {theirs}, {seen(column.values[i])} in "
                f"row {i}. Convert it: X[column].astype({'str' if self.text else 'float'}), say."
            )

    def _unknown(self, value: Any, name: str, row: int) -> ValueError:
        if not self.text and self.kind == "binary" and set(self.values) <= {0, 1}:
            way_out = f"columns={{{self.name!r}: 'numeric'}} at fit takes any number"
        else:
            way_out = "handle_unknown='rare' at fit gives unseen ones a level of their own"
        return ValueError(
            f"{name} must hold the categories of training in {called(self.name)}, got {seen(value)} in row {row}. "
            f"{known(str(value), list(map(str, self.values)))} {way_out}."
        )

    def decode(self, levels: NDArray[np.integer[Any]], uniforms: NDArray[np.float64]) -> NDArray[Any]:
        """Return the category of each level (n,); a uniform says which of those that are folded. -1 and unseen are missing."""
        table = np.empty(self.n_levels + 1, object)  # with None at the end, which -1 and the levels without a value have
        table[: len(self.values)] = self.values
        out = table[levels]
        if self.folded:
            rare = np.flatnonzero(np.asarray(levels) == len(self.values))
            bounds = np.cumsum(list(self.shares.values()))
            if not self.unseen:
                bounds[-1] = 1.0
            drawn = np.empty(len(self.folded) + 1, object)  # the last is for unseen ones, None
            drawn[:-1] = self.folded
            out[rare] = drawn[np.searchsorted(bounds, uniforms[rare], side="right")]
        return self._typed(out)

    def _typed(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values, some of them None, in the dtype of training if it has room for None."""
        gone = np.fromiter((value is None for value in values), np.bool_, len(values))
        if self.text or (gone.any() and self.dtype.kind == "b"):
            return values
        dtype = np.dtype(np.float64) if gone.any() and self.dtype.kind != "f" else self.dtype
        values[gone] = np.nan
        return values.astype(dtype)

    def level_values(self) -> NDArray[Any]:
        """Return the category of each level: of the rare one the most frequent, of missing and of unseen ones None or NaN."""
        most = [] if self.folded_counts is None else [self.folded[int(np.argmax(self.folded_counts))]]
        found = np.empty(self.n_levels, object)
        listed = [*self.values, *most]
        found[: len(listed)] = listed
        return self._typed(found)

    def level_means(self) -> NDArray[np.float64]:
        """Return the number that each level stands for, NaN for unseen and missing ones. Raises TypeError for text."""
        if self.text:
            raise TypeError(f"{called(self.name)} holds text, which has no mean. Ask for its most likely value instead.")
        out = np.full(self.n_levels, np.nan)
        out[: len(self.values)] = [float(value) for value in self.values]
        if self.folded_counts is not None:
            out[len(self.values)] = np.average([float(value) for value in self.folded], weights=self.folded_counts)
        return out

    def weights(self, values: Iterable[Category], others: bool = False) -> NDArray[np.float64]:
        """Return the share of each level that ``values`` have, or (``others``) all that are not missing but these."""
        out = np.zeros(self.n_levels)
        for value in set(values):
            if (level := self._level(value)) >= 0:
                out[level] += self.share(value)
        if others:
            out = 1 - out
            out[self.n_levels - self.missing :] = 0
        return np.clip(out, 0, 1)

    def find(self, value: Category) -> Category:
        """Return a value that training showed; ValueError, which says what is known, for another one."""
        if value not in self.levels:
            listed = list(map(str, (*self.values, *self.folded)))
            raise ValueError(
                f"a query must have known values for {called(self.name)}, got {seen(value)}. {known(str(value), listed)}"
            )
        return value

    def describe(self) -> str:
        """Return what the column is, in words."""
        listed = ", ".join(str(value)[:24] for value in self.values[:6]) + (", ..." if len(self.values) > 6 else "")
        parts = [f"{len(self.values)} {'ordered ' if self.ordered else ''}values: {listed}"]
        if self.folded:
            parts.append(f"{len(self.folded)} rare ones in one level")
        if self.unseen:
            levels = f"{1 + self.spare} levels" if self.spare else "a level"
            parts.append("unseen ones are rare" if self.folded and not self.spare else f"{levels} for unseen ones")
        if self.base > 1:
            parts.append("two digits")
        return "; ".join(parts)


def distinct(values: NDArray[Any]) -> tuple[list[Any], NDArray[np.intp]]:
    """Return the different values, and the place of each value among them."""
    if values.dtype != object:
        found, place = np.unique(values, return_inverse=True)
        return found.tolist(), place.reshape(-1)
    places: dict[Any, int] = {}
    place = np.fromiter((places.setdefault(value, len(places)) for value in values), np.intp, len(values))
    return list(places), place
