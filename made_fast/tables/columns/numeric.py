"""A numeric column: its levels, which are bins and single values in ascending order, and the density within each of them.

The levels cut the line into cells, so that every finite number has a level. A level has a *core*, over which its mass is
uniform: the range of its rows of training. Of numbers of so many decimals, each stands for all that are rounded to it, and a
core has half a step more on both sides, so that they have a density, too. A value that repeats among others with no end of
decimals is an *atom*: its core has no width, and it has a probability.

What lies between two cores belongs to the nearer one and has the mass that half a row would have; what lies outside of all
has an exponential tail (whole numbers: a geometric one) with the mass of one. So, whatever the probabilities of the levels,
the density integrates (whole numbers: sums) to 1; atoms count with their probabilities.

Not here: how bins are chosen (``bins.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from made_fast.tables.arguments import shown
from made_fast.tables.columns.values import Values, called

__all__ = ["FARTHEST", "LARGEST", "WHOLE", "Cells", "Interval", "Numeric", "real_numbers"]

WHOLE = 2.0**53  # all smaller whole numbers are floats
LARGEST = 1e300  # of training, so that no difference of two numbers overflows
ON_GRID = 1e-6  # of a step, at most, between a number and the one of the grid that it is
FARTHEST = 1e300  # log-density that a number far outside has, at least, with a minus: sums of many are finite

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """The numbers from ``low`` to ``high``, with these or without them."""

    low: float
    high: float
    low_in: bool = True
    high_in: bool = True


class Cells(NamedTuple):
    """What follows from the levels: (C,) each, by side of the core: below it, above it."""

    borders: Floats  # (C - 1,): the last numbers of the first C - 1 cells
    sizes: tuple[Floats, Floats]  # length, or number of whole numbers, between core and border; infinite outside
    masses: tuple[Floats, Floats]
    core: Floats  # mass of the core
    log_core: Floats  # log-density there
    log_sides: tuple[Floats, Floats]  # log-density beside it; at its beginning, for the tails
    log_typical: float  # logarithm of the width of a bin, the geometric mean


@dataclass(frozen=True, eq=False)
class Numeric:
    """A column of numbers: C levels, and one more for missing ones if ``missing``."""

    name: str
    dtype: np.dtype[Any]  # of training, which ``decode`` gives back
    whole: bool  # whether there are whole numbers only, which have probabilities instead of a density
    decimals: int | None  # most decimals in training, to which ``decode`` rounds; None: no limit, or whole
    step: float  # all values of training are multiples of it apart; 0: no such number
    low: Floats  # (C,) beginning and end of each core; the same number for an atom
    high: Floats
    counts: Floats  # (C,) rows of training
    medians: Floats  # (C,) of the rows of training, one of the values there
    means: Floats
    scales: tuple[float, float]  # of the tails, below and above
    missing: bool = False
    missing_share: float = 0.0  # of the rows of training
    base: int = 1  # levels of the low digit, see ``tables/digits.py``; 1: the column is one variable

    kind: ClassVar[str] = "numeric"
    ordered: ClassVar[bool] = True

    @property
    def n_levels(self) -> int:
        """The number of levels, that of missing values included."""
        return len(self.low) + self.missing

    @property
    def n_ordered(self) -> int:
        """The number of levels that are in order: all but that of missing values."""
        return len(self.low)

    @cached_property
    def cells(self) -> Cells:
        """The cells of the levels: their borders, and the mass and the density in and beside each core."""
        low, high, unit = self.low, self.high, float(self.whole)
        half = high[:-1] + (low[1:] - high[:-1]) / 2
        borders = np.floor(half) if self.whole else np.where(half < low[1:], half, high[:-1])
        sizes = (np.append(np.inf, low[1:] - unit - borders), np.append(borders - high[:-1], np.inf))
        masses = tuple(np.where(np.isinf(size), 1.0, 0.5 * (size > 0)) / (self.counts + 2) for size in sizes)
        core = self.counts / (self.counts + 2) + sum(1 / (self.counts + 2) - mass for mass in masses)
        log_sides = []
        with np.errstate(divide="ignore", invalid="ignore"):
            log_core = np.log(core) - np.where(low == high, 0, np.log(high - low + unit))
            for size, mass, scale in zip(sizes, masses, self.scales, strict=True):
                start = np.log(-np.expm1(-1 / scale)) if self.whole else -np.log(scale)
                log_sides.append(np.log(mass) + np.where(np.isinf(size), start, -np.log(size)))
        widths = (high - low + unit)[~self.single()]
        typical = float(np.log(widths).mean()) if len(widths) else float(np.log((self.step or high[-1] - low[0]) or 1.0))
        return Cells(borders, sizes, (masses[0], masses[1]), core, log_core, (log_sides[0], log_sides[1]), typical)

    def encode(self, column: Values, name: str, density: bool | str) -> tuple[NDArray[np.intp], Floats | None]:
        """Return the level of each value, -1 for missing, and the log-density within it, 0 for missing.

        With "relative", it is that beside the density of a typical bin, and no level counts as narrower than that.
        """
        if column.base == "null":
            levels = np.full(len(column.null), len(self.low) if self.missing else -1)
            return levels, np.zeros(len(levels)) if density else None
        x = real_numbers(column, name, self.name)
        if self.whole and (odd := x != np.floor(x)).any():
            i = int(np.argmax(odd))
            raise ValueError(
                f"{name} must hold whole numbers in {called(self.name)}, as in training, got {x[i]} in row {i}. "
                "Round it, or fit the column as floats."
            )
        x = self._in_precision_of_training(x, column.values.dtype)
        levels = np.searchsorted(self.cells.borders, x)
        log_density = self._log_density(x, levels, density == "relative") if density else None
        if column.null.any():
            levels[column.null] = len(self.low) if self.missing else -1
            if log_density is not None:
                log_density[column.null] = 0
        return levels, log_density

    def _in_precision_of_training(self, x: Floats, found: np.dtype[Any]) -> Floats:
        """Return numbers as they would have been in training: a value does not change where it gets more or less precise."""
        if self.dtype.kind != "f":
            return x
        if found.kind != "f" or found.itemsize > self.dtype.itemsize:
            most = float(np.finfo(self.dtype).max)
            return np.clip(x, -most, most).astype(self.dtype).astype(np.float64)
        if found.itemsize < self.dtype.itemsize:
            level = np.searchsorted(self.cells.borders, x)
            with np.errstate(over="ignore"):
                as_found = self.low.astype(found).astype(np.float64)
            x = np.where((self.low == self.high)[level] & (as_found[level] == x), self.low[level], x)
        return x

    def _log_density(self, x: Floats, levels: NDArray[np.intp], relative: bool) -> Floats:
        cells = self.cells
        core, add = cells.log_core, 0.0
        if relative:
            core, add = np.minimum(core + cells.log_typical, np.log(cells.core)), cells.log_typical
        out = core[levels]
        beside = (x < self.low[levels], x > self.high[levels])
        ends = (0, len(self.low) - 1)
        for side, outside in enumerate(beside):
            if outside.any():
                at = levels[outside]
                far = np.abs(x[outside] - (self.low, self.high)[side][at]) - self.whole
                with np.errstate(over="ignore"):
                    far = np.where(at == ends[side], np.minimum(far / self.scales[side], FARTHEST), 0)
                out[outside] = cells.log_sides[side][at] + add - far
        return out

    def decode(self, levels: NDArray[np.integer[Any]], uniforms: Floats) -> NDArray[Any]:
        """Return a value of each level (n,), at the place in it that a uniform says (inverse CDF); -1 is missing."""
        gone = (levels < 0) | (levels >= len(self.low))
        c = np.where(gone, 0, levels)
        x = self._inverse(c, np.clip(uniforms, 2.0**-60, 1 - 2.0**-53))
        if self.step:
            start = float(self.medians[0])
            x = start + np.round((x - start) / self.step) * self.step
        if self.decimals is not None:
            x = np.round(x, self.decimals)
        if self.dtype.kind == "f":
            most = float(np.finfo(self.dtype).max)
        else:
            most = float(np.iinfo(self.dtype).max) if self.dtype.itemsize < 8 else WHOLE
        x = np.clip(x, -most if self.dtype.kind != "u" else 0, most)
        out = x.astype(self.dtype)
        strayed = np.searchsorted(self.cells.borders, out.astype(np.float64)) != c  # by rounding
        if strayed.any():
            out[strayed] = self.medians[c[strayed]].astype(self.dtype)
        if gone.any():
            out = out.astype(np.float64 if self.dtype.kind != "f" else self.dtype)
            out[gone] = np.nan
        return out

    def _inverse(self, c: NDArray[np.intp], u: Floats) -> Floats:
        cells, unit = self.cells, float(self.whole)
        low, high = self.low[c], self.high[c]
        below, above = cells.masses[0][c], cells.masses[1][c]
        t = (u - below) / cells.core[c]
        if self.step:  # each of its multiples alike
            n = np.maximum(np.round((high - low) / self.step) + unit, 1)
            x = low + (np.clip(np.floor(t * n), 0, n - 1) + (0.0 if self.whole else 0.5)) * self.step
        else:
            x = np.clip(low + t * (high - low), low, high)
        for side, part, t in ((0, u < below, u), (1, u >= 1 - above, 1 - u)):
            if part.any():
                at = c[part]
                t = t[part] / cells.masses[side][at]  # 1 beside the core, 0 at the other end
                size, sign = cells.sizes[side][at], (-1, 1)[side]
                with np.errstate(invalid="ignore"):
                    far = np.where(np.isinf(size), -self.scales[side] * np.log(t), (1 - t) * size)
                if self.whole:
                    far = np.minimum(np.floor(far), size - 1) + unit
                x[part] = (low, high)[side][part] + sign * far
        return x

    def mass(self, interval: Interval) -> Floats:
        """Return the probability of an interval within each level, (C,) float64."""
        cells, unit = self.cells, float(self.whole)
        a, b, a_in, b_in = interval
        if self.step:
            a, b = self._on_grid(a, a_in, 1), self._on_grid(b, b_in, -1)
            a_in = b_in = True
        out = np.zeros(len(self.low))
        edges = (np.append(-np.inf, cells.borders + unit), np.append(cells.borders, np.inf))
        with np.errstate(invalid="ignore", divide="ignore"):
            for side, (first, last) in enumerate(((edges[0], self.low - unit), (self.high + unit, edges[1]))):
                A, B = np.maximum(a, first), np.minimum(b, last)
                n = np.maximum(B - A + unit, 0)
                near = np.maximum((last - B, A - first)[side], 0)  # from the core to the interval
                tail = np.exp(-near / self.scales[side]) * -np.expm1(-n / self.scales[side])
                share = np.where(np.isinf(cells.sizes[side]), tail, n / cells.sizes[side])
                out += np.where((n > 0) & (cells.sizes[side] > 0), cells.masses[side] * share, 0)
            n = np.minimum(b, self.high) - np.maximum(a, self.low) + unit
            inside = ((a < self.low) | ((a == self.low) & a_in)) & ((b > self.low) | ((b == self.low) & b_in))
            share = np.where(self.low == self.high, inside, np.maximum(n, 0) / (self.high - self.low + unit))
        return out + cells.core * share

    def check_single(self, value: float) -> None:
        """Refuse a value that has no probability of its own, only a density."""
        if not np.isfinite(value):
            fine, found = False, "finite numbers"
        elif self.whole:
            fine, found = value == np.floor(value), "whole numbers"
        elif self.step:
            k = (value - float(self.medians[0])) / self.step
            fine, found = abs(k - np.round(k)) < ON_GRID, f"multiples of {self.step:.6g}"
        else:
            fine, found = value in self.low[self.single()], "any numbers"
        if not fine:
            raise ValueError(
                f"a query must have values that occur for {called(self.name)}, which has {found}, got {value:.6g}, whose "
                f"probability is 0. Ask for a range: between {value:.6g} and another number, say."
            )

    def _on_grid(self, end: float, included: bool, inwards: int) -> float:
        """Return the end of an interval that has the same values of training's grid, but half a step outside of the last."""
        if not np.isfinite(end):
            return end
        step, start = (1.0, 0.0) if self.whole else (self.step, float(self.medians[0]))
        k = (end - start) / step
        nearest = float(np.round(k))
        if abs(k - nearest) < ON_GRID:
            k = nearest if included else nearest + inwards
        else:
            k = np.ceil(k) if inwards > 0 else np.floor(k)
        if self.whole:
            return float(k)
        end = start + (k - inwards / 2) * step
        ends = np.concatenate([self.low, self.high])
        at = int(np.argmin(np.abs(ends - end)))
        return float(ends[at]) if abs(ends[at] - end) < ON_GRID * step else float(end)

    def single(self) -> NDArray[np.bool_]:
        """Return which levels are of one value of training, (C,)."""
        return self.high - self.low < 1.5 * self.step if self.step and not self.whole else self.low == self.high

    def level_values(self) -> NDArray[Any]:
        """Return the median of the rows of training in each level, in the dtype of training; NaN for that of missing ones."""
        medians = self.medians.astype(self.dtype)
        return np.append(medians.astype(np.float64), np.nan) if self.missing else medians

    def level_means(self) -> Floats:
        """Return the mean of the rows of training in each level; NaN for that of missing ones."""
        return np.append(self.means, np.nan) if self.missing else self.means.copy()

    def describe(self) -> str:
        """Return what the column is, in words."""
        n_atoms, ends = int(self.single().sum()), (self.low[0], self.high[-1])
        what = "whole numbers" if self.whole else "numbers"
        if self.step and not self.whole:
            what = f"multiples of {self.step:.6g}"
            ends = (ends[0] + self.step / 2, ends[1] - self.step / 2)
        levels = (
            f"{len(self.low) - n_atoms} bins and {n_atoms} single values" if n_atoms < len(self.low) else f"{n_atoms} values"
        )
        return f"{what}, {levels} from {ends[0]:.6g} to {ends[1]:.6g}" + ("; two digits" if self.base > 1 else "")


def real_numbers(column: Values, name: str, label: str | int) -> Floats:
    """Return numbers as float64, 0 where one is missing; TypeError or ValueError, which names the column, for others.

    They are to be read only: they may be the column's own.
    """
    if column.base == "text":
        i = int(np.argmin(column.null))
        raise TypeError(
            f"{name} must hold numbers in {called(label)}, got text, {shown(column.values[i])} in row {i}. "
            "Convert it: X[column].astype(float), say."
        )
    gaps = bool(column.null.any())
    x = column.values.astype(np.float64, copy=gaps)
    if gaps:
        x[column.null] = 0
    if not (finite := np.isfinite(x)).all():
        i = int(np.argmin(finite))
        raise ValueError(f"{name} must hold finite numbers, got {x[i]} in row {i} of {called(label)}. Replace or drop it.")
    return x
