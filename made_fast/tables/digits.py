"""Columns of many levels as two variables: a level is a number of two digits, the high one and the low one.

A column of C levels then takes about two times the square root of C indicators and logits. Nothing is lost: the low digit is
modelled given the high one, beside which it stands in every ordering. Weights of levels are weights of the high digit, and,
for each high digit, of the low one.

Not here: which columns have two digits (``columns/learn.py``), walks with such weights (``inference/levels.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from made_fast.tables.table import chunks

__all__ = ["Digits", "Weights"]

Codes: TypeAlias = "NDArray[np.signedinteger[Any]]"
Floats: TypeAlias = "NDArray[np.float64]"

Weights: TypeAlias = "tuple[Floats | None, ...]"
"""For each variable the weight of each of its levels, >= 0; None: 1 everywhere; (levels of the variable before it, levels):
one row for each level of that one."""


class Digits:
    """The variables that columns take.

    Parameters
    ----------
    n_levels : sequence of int
        Of each column.
    bases : sequence of int
        How many levels the low digit of each column has, a divisor of its levels; 1: it has one digit.
    """

    def __init__(self, n_levels: Sequence[int], bases: Sequence[int]) -> None:
        self.bases = tuple(bases)
        self.n_digits = tuple(1 if base == 1 else 2 for base in bases)
        self.starts: NDArray[np.intp] = np.cumsum((0, *self.n_digits), dtype=np.intp)
        self.n_levels = tuple(
            n
            for levels, base in zip(n_levels, bases, strict=True)
            for n in ((levels,) if base == 1 else (levels // base, base))
        )

    @cached_property
    def single(self) -> bool:
        """Whether each column is a variable."""
        return set(self.bases) <= {1}

    @cached_property
    def column_of(self) -> NDArray[np.intp]:
        """The column of each variable."""
        return np.repeat(np.arange(len(self.bases)), self.n_digits)

    @cached_property
    def _of_two(self) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
        """The high digits of columns that have two, and how many levels the low ones have."""
        bases = np.array(self.bases, np.int64)
        return self.starts[:-1][bases > 1], bases[bases > 1]

    def of(self, v: int) -> slice:
        """Return the variables of column v."""
        return slice(int(self.starts[v]), int(self.starts[v + 1]))

    def split(self, codes: Codes) -> Codes:
        """Return the levels of variables (n, P) of those of columns (n, V); -1 stays -1."""
        if self.single:
            return codes
        out = codes[:, self.column_of]
        at, bases = self._of_two
        bases = bases.astype(codes.dtype)
        for part in chunks(*out.shape):  # what is on the way takes little memory
            rows = out[part]
            of_two = rows[:, at]
            high = of_two // bases  # of -1, it is -1
            rows[:, at] = high
            rows[:, at + 1] = np.where(of_two < 0, of_two, of_two - high * bases)
        return out

    def join(self, digits: Codes) -> Codes:
        """Return the levels of columns (..., V) of those of variables (..., P): undo :meth:`split`."""
        if self.single:
            return digits
        out = digits[..., self.starts[:-1]].astype(np.int32)
        for v, base in enumerate(self.bases):
            if base > 1:
                high, low = out[..., v], digits[..., self.starts[v] + 1]
                out[..., v] = np.where(high < 0, -1, high * base + low)
        return out

    def total(self, parts: Floats) -> Floats:
        """Return the sums over the variables of each column, (n, V), of (n, P)."""
        return parts if self.single else np.add.reduceat(parts, self.starts[:-1], axis=1)

    def weights(self, of_columns: Sequence[Floats | None]) -> Weights:
        """Return the weights of variables from those of the levels of columns, (C,) or None for 1 everywhere."""
        return tuple(each for v, weights in enumerate(of_columns) for each in self._weights(self.bases[v], weights))

    @staticmethod
    def _weights(base: int, weights: Floats | None) -> Iterator[Floats | None]:
        if base == 1:
            yield weights
        elif weights is None:
            yield from (None, None)
        else:
            table = weights.reshape(-1, base)
            high = table.max(axis=1)
            kept = high > 0
            if (table[kept] == table[kept][:1]).all():  # as for one value, or high digits as a whole: each by itself
                low = table[int(np.argmax(kept))]
                yield kept.astype(np.float64)
                yield None if (low == 1).all() else low
            else:
                yield high
                yield np.divide(table, high[:, None], where=kept[:, None], out=np.zeros_like(table))
