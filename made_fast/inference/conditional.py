"""The distribution of one column of a table given what else is known: what a classification or a regression gives.

Not here: how its probabilities come about (``tablemodel.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast.inference.pattern import Floats
from made_fast.tables.columns.schema import Column, Columns
from made_fast.tables.columns.values import called

__all__ = ["Conditional", "of_digits"]


@dataclass(frozen=True)
class Conditional:
    """The distribution of one column of each row, given what else is known of the row.

    Attributes
    ----------
    name : str
        Of the column.
    values : (L,) ndarray
        What its levels stand for: a category (None, or NaN, is a missing one), or the median of a bin.
    proba : (n, L) float64
        The probability of each level.
    """

    name: str
    values: NDArray[Any]
    proba: Floats
    _columns: Columns
    _v: int

    def __repr__(self) -> str:
        return f"Conditional({self.name!r}, {self.proba.shape[1]} levels, {len(self.proba)} rows)"

    def mode(self) -> NDArray[Any]:
        """Return the value of the likeliest level, (n,)."""
        return self.values[np.argmax(self.proba, axis=1)]  # type: ignore[no-any-return]

    def mean(self) -> Floats:
        """Return the mean of a column of numbers, (n,), among values that are not missing. Raises TypeError for text."""
        means = self._columns.level_means(self._v)
        there = np.isfinite(means)
        proba = np.ascontiguousarray(self.proba[:, there])  # no BLAS: the bits of a row would depend on the others
        out: Floats = (proba * means[there]).sum(axis=1) / proba.sum(axis=1)
        return out

    def quantile(self, q: float) -> NDArray[Any]:
        """Return the q-quantile of a column whose levels are in order, (n,), among values that are not missing.

        Raises TypeError for a column without an order, ValueError for a q outside of 0..1.
        """
        n = int(self._columns.n_ordered[self._v])
        if not n:
            raise TypeError(f"quantiles must be of a column whose values have an order, got {called(self.name)}.")
        if not 0 <= (q := float(q)) <= 1:
            raise ValueError(f"q must be in 0..1, got {q}.")
        up_to = np.cumsum(self.proba[:, :n], axis=1)
        at = q * up_to[:, -1]
        level = np.minimum((up_to < at[:, None]).sum(axis=1), n - 1)
        rows = np.arange(len(level))
        own = self.proba[rows, level]
        inside = np.where(own > 0, (at - (up_to[rows, level] - own)) / np.where(own > 0, own, 1), 0.5)
        return self._columns.columns[self._v].decode(level, np.clip(inside, 0, 1 - 1e-12))


def of_digits(proba: Floats, drawn: NDArray[Any], base: int, column: Column) -> Floats:
    """Return estimates of the probabilities of a column's levels, (n, C), by draws (W, n), better than these alone.

    ``proba`` has the probabilities of the high digit, and then of the low one. What draws say of the high digit gives way to
    these, with its low digits as in training: a mean by them has the noise of the low digit alone.
    """
    n, n_high = len(proba), column.n_levels // base
    found = np.zeros((n, column.n_levels))
    np.add.at(found, (np.arange(n), drawn), 1 / len(drawn))
    counts = np.ones(column.n_levels)
    counts[: len(column.counts)] += column.counts
    usual = counts.reshape(n_high, base)
    surplus = proba[:, :n_high] - found.reshape(n, n_high, base).sum(axis=2)
    out: Floats = found + (surplus[:, :, None] * (usual / usual.sum(axis=1, keepdims=True))).reshape(n, -1)
    return out
