"""The levels of a numeric column: atoms for values that many rows share, bins of about equal numbers of rows between them.

A bin never cuts through equal values, and has a width of its own: one value alone is an atom where several rows have it.

Not here: the density within levels (``numeric.py``), which columns are numeric (``learn.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast.tables.columns.numeric import WHOLE, Numeric

__all__ = ["FEWEST_ROWS", "decimals", "numeric", "usual"]

FEWEST_BINS, MOST_BINS = 8, 512  # of a column, where the caller does not say how many
MOST_INPUTS = 4096  # of a network that the number of bins is chosen for
ROWS_FOR_DIGITS = 5000  # of a table: with fewer, a column of two digits is learned worse than one of one
FEWEST_ROWS = 5  # of a bin: fewer say little about how wide it should be
MOST_DECIMALS = 6  # that a column may be said to be rounded to
MOST_IN_ONE, HIGH_DIGITS = 32, 16  # levels of one variable; of more, how many the high digit has, about
FEW_VALUES = 8  # that may be multiples of some number by chance

Floats = NDArray[np.float64]


def usual(n_rows: int, n_columns: int) -> int:
    """Return how many levels a numeric column has, about, if the caller does not say: the square root of the rows.

    That was the best or close to it on four tables of 800 to 4,000 rows, among 16, 32, 64 and 256, by the NLL of test rows.
    A hundredth of the rows, if that is more: two digits are worth finer levels. Fewer where the columns are so many that all
    their indicators would be more than ``MOST_INPUTS``: what direct connections cost grows with the square of these.
    """
    own = MOST_INPUTS // n_columns
    most = min(MOST_BINS, HIGH_DIGITS * (own - HIGH_DIGITS)) if own > HIGH_DIGITS + 1 else own
    return int(np.clip(round(max(n_rows**0.5, n_rows / 100)), FEWEST_BINS, max(FEWEST_BINS, most)))


def numeric(
    name: str,
    dtype: np.dtype[Any],
    x: Floats,
    weights: Floats | None,
    n_bins: int,
    missing: bool,
    missing_share: float,
    digits: bool = True,
) -> Numeric:
    """Return a column of the numbers ``x`` (n,), finite and at least one, of a dtype; ``weights`` are > 0, 1 on average."""
    whole = dtype.kind in "iu"
    if weights is None:
        values, rows = np.unique(x, return_counts=True)
        counts = rows.astype(np.float64)
    else:
        values, place, rows = np.unique(x, return_inverse=True, return_counts=True)
        counts = np.bincount(place.reshape(-1), weights).astype(np.float64)
    starts = np.array([start for start, _ in _levels(values, counts, n_bins)])
    base = _base(len(starts) + missing) if digits and len(x) >= ROWS_FOR_DIGITS else 1
    starts = _merged(starts, counts, (len(starts) + missing) % base)
    ends = np.append(starts[1:], len(values))
    low, high = values[starts], values[ends - 1]
    sums = np.add.reduceat(counts, starts)
    level = np.repeat(np.arange(len(starts)), ends - starts)
    means = np.clip(np.add.reduceat(values * (counts / sums[level]), starts), low, high)
    before = np.cumsum(counts)
    half = np.append(0, before[ends[:-1] - 1]) + sums / 2
    medians = values[np.clip(np.searchsorted(before, half), starts, ends - 1)]
    rounded = None if whole else decimals(values, dtype)
    step = _step(values, 0 if whole else rounded)
    if not whole:
        low, high = _with_margins(low, high, step) if step else _widened(low, high, rows[starts], ends - starts)
    scales = _scale(low, high, 0, whole), _scale(low, high, -1, whole)
    return Numeric(name, dtype, whole, rounded, step, low, high, sums, medians, means, scales, missing, missing_share, base)


def _levels(values: Floats, counts: Floats, n_bins: int) -> Iterator[tuple[int, int]]:
    """Yield the first and the last but one place of the values of each level.

    The bins share the rows that are left by values with more rows than a bin of all: a tenth that is not 0 has as many bins.
    """
    n, total = len(values), float(counts.sum())
    rows = max(total / n_bins, FEWEST_ROWS)  # of a bin
    atoms = counts > rows
    if n <= n_bins and n * FEWEST_ROWS <= total:
        atoms[:] = True
    elif not atoms.all():
        rows = max(float(counts[~atoms].sum()) / n_bins, FEWEST_ROWS)
        atoms = counts > rows
    at = 0
    while at < n:
        if atoms[at]:
            yield at, at + 1
            at += 1
            continue
        after = np.flatnonzero(atoms[at:])
        end = at + int(after[0]) if len(after) else n
        cuts = at + _cuts(counts[at:end], rows)
        yield from zip([at, *cuts], [*cuts, end], strict=True)
        at = end


def _base(n_levels: int) -> int:
    """Return how many levels the low digit of so many has, 1 for a single digit.

    By the NLL of test rows (nats), levels in one digit, and with a high digit of 8, 16, 32: diamonds (38,000 rows) 256 levels
    7.60, 5.80, 5.70, 5.74, 512 levels -, -, 5.64, 5.96; adult (23,000 rows) 128 levels 28.26, 28.02, 28.04, 28.06.
    """
    return 1 if n_levels <= MOST_IN_ONE else round(n_levels / HIGH_DIGITS)


def _merged(starts: NDArray[np.intp], counts: Floats, n: int) -> NDArray[np.intp]:
    """Return the beginnings of levels of which n are merged with the next: always the two with the fewest rows together."""
    for _ in range(n):
        sums = np.add.reduceat(counts, starts)
        starts = np.delete(starts, 1 + int(np.argmin(sums[1:] + sums[:-1])))
    return starts


def _cuts(counts: Floats, rows: float) -> NDArray[np.intp]:
    """Return where to cut neighbouring values into bins of about so many rows: before these places."""
    before = np.cumsum(counts)
    total = float(before[-1])
    n = max(1, round(total / rows))
    wanted = total / n * np.arange(1, n)
    nearest = np.searchsorted((before[1:] + before[:-1]) / 2, wanted)  # index of the value after which to cut
    cuts: list[int] = []
    for cut in np.unique(nearest) + 1:
        done = float(before[cuts[-1] - 1]) if cuts else 0.0
        if min(float(before[cut - 1]) - done, total - float(before[cut - 1])) >= rows / 3:
            cuts.append(int(cut))
    return np.array(cuts, np.intp)


def _step(values: Floats, n_decimals: int | None) -> float:
    """Return the number of which all differences are multiples, 0 if there is none."""
    if n_decimals is None or len(values) < 2:
        return 0.0
    if len(values) < FEW_VALUES:
        return float(10.0**-n_decimals)
    return float(np.gcd.reduce(np.diff(np.round(values * 10**n_decimals).astype(np.int64))) / 10**n_decimals)


def _with_margins(low: Floats, high: Floats, step: float) -> tuple[Floats, Floats]:
    """Add half a step on both sides of each level."""
    near = low[1:] - high[:-1] < 1.5 * step
    middle = high[:-1] + (low[1:] - high[:-1]) / 2
    low = np.append(low[0] - step / 2, np.where(near, middle, low[1:] - step / 2))
    high = np.append(np.where(near, middle, high[:-1] + step / 2), high[-1] + step / 2)
    return low, high


def _widened(low: Floats, high: Floats, rows: NDArray[np.intp], distinct: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Give a level of one row a width: half of the way to the nearer of its neighbours, it in the middle."""
    gaps = low[1:] - high[:-1]
    nearest = np.minimum(np.append(np.inf, gaps), np.append(gaps, np.inf))
    margin = np.where((rows == 1) & (distinct == 1) & np.isfinite(nearest), nearest / 4, 0)
    return low - margin, high + margin


def _scale(low: Floats, high: Floats, end: int, whole: bool) -> float:
    """Return the scale of the tail beside the first or the last level: its width, at least the mean width of all."""
    span = float(high[-1] - low[0])
    if span == 0:
        span = abs(float(low[0])) or 1.0
    scale = max(float(high[end] - low[end]), span / len(low))
    return max(scale, 1.0 if whole else float(np.finfo(np.float64).tiny))


def decimals(values: Floats, dtype: np.dtype[Any]) -> int | None:
    """Return the fewest decimals that write all values, or None if those are many."""
    for n in range(MOST_DECIMALS + 1):
        if (
            abs(values[0]) < WHOLE / 10**n
            and abs(values[-1]) < WHOLE / 10**n
            and (np.round(values, n).astype(dtype) == values).all()
        ):
            return n
    return None
