"""Variables of several levels, with Numba: the softmax of their logits, its loss and gradient, a draw of a level.

A variable's logits stand side by side, across panels. Not here: networks (``network.py``), walks (``walks.py``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from made_fast.kernels.jit.rows import PANEL, Bits, Float64, Int32, Real, exp, inline, kernel, log1p
from made_fast.kernels.layout import START, THERMOMETER

__all__ = ["choose", "losses", "proba", "put"]


@inline
def _level(bits: Bits, start: Any, width: Any) -> int:
    """Return the number of the last of some bits of a row that is 1, or 0."""
    for q in range(width - 1, 0, -1):
        if (bits[(start + q) // 64] >> np.uint64((start + q) % 64)) & np.uint64(1):
            return q
    return 0


@inline
def _softmax(logits: Real, i: int, first: Any, width: Any, chosen: int) -> Any:
    """Turn the logits of a variable of row i into probabilities; return -log of that of one of them."""
    real = logits.dtype.type
    most = logits[first // PANEL, i, first % PANEL]
    for j in range(first, first + width):
        z = logits[j // PANEL, i, j % PANEL]
        most = z if not z <= most else most  # a NaN stays
    own, total = logits[(first + chosen) // PANEL, i, (first + chosen) % PANEL], 0.0
    for j in range(first, first + width):
        e = exp(real, logits[j // PANEL, i, j % PANEL] - most)
        logits[j // PANEL, i, j % PANEL] = e
        total += np.float64(e)
    for j in range(first, first + width):
        logits[j // PANEL, i, j % PANEL] = real(np.float64(logits[j // PANEL, i, j % PANEL]) / total)
    return np.log(total) + (np.float64(most) - np.float64(own))


@inline
def _sigmoid(real: Any, z: Any) -> Any:
    """Return 1 / (1 + exp(-z))."""
    e = exp(real, -abs(z))
    return (e if z < real(0.0) else real(1.0)) / (real(1.0) + e)


@kernel
def losses(variables: Int32, logits: Real, bits: Bits, n_places: int, nll: Float64, gradient: bool) -> None:
    """Write the NLL over the first n_places variables; with ``gradient``, ``logits`` become its gradient."""
    real, context = logits.dtype.type, np.int64(variables[0, START])
    counted = np.int64(variables[n_places, START]) - context
    for i in range(len(nll)):
        found = 0.0
        for v in range(n_places):
            start = np.int64(variables[v, START])
            width, first = np.int64(variables[v + 1, START]) - start, start - context
            if width == 1:
                one = (bits[i, start // 64] >> np.uint64(start % 64)) & np.uint64(1) != 0
                z = logits[first // PANEL, i, first % PANEL]
                t = -z if one else z
                p = _sigmoid(real, t)
                found += np.float64((real(0.0) if t < real(0.0) else t) + log1p(real, exp(real, -abs(t))))
                logits[first // PANEL, i, first % PANEL] = -p if one else p
            elif width > 1:
                level = _level(bits[i], start, width)
                found += _softmax(logits, i, first, width, level)
                logits[(first + level) // PANEL, i, (first + level) % PANEL] -= real(1.0)
        nll[i] = found
        for j in range(counted if gradient else len(logits) * PANEL, len(logits) * PANEL):
            logits[j // PANEL, i, j % PANEL] = real(0.0)


@kernel
def proba(variables: Int32, logits: Real) -> None:
    """Turn logits into probabilities of the levels, of binary variables into those of a 1."""
    context = np.int64(variables[0, START])
    for i in range(logits.shape[1]):
        for v in range(len(variables) - 1):
            start = np.int64(variables[v, START])
            width, first = np.int64(variables[v + 1, START]) - start, start - context
            if width == 1:
                at = first // PANEL, i, first % PANEL
                logits[at] = _sigmoid(logits.dtype.type, logits[at])
            elif width > 1:
                _softmax(logits, i, first, width, 0)


@inline
def put(drawn: Real, i: int, start: Any, width: Any, coding: Any, level: Any) -> None:
    """Set the indicators of a level."""
    real = drawn.dtype.type
    for q in range(width):
        one = level == 1 if width == 1 else (q <= level if coding == THERMOMETER else q == level)
        drawn[(start + q) // PANEL, i, (start + q) % PANEL] = real(1.0) if one else real(0.0)


@inline
def choose(z: Real, share: Real, weights: Float64, given: Any, u: float) -> tuple[Any, float]:
    """Return the level that is given or that a uniform draws, and the log of the mass of the place.

    z are the logits of the levels, ``share`` is room for as many numbers.
    """
    real, some, n, none = z.dtype.type, len(weights) > 0, len(z), np.float64(-np.inf)
    most, most_weighed, total, weighed = none, none, 0.0, 0.0
    for q in range(n):
        a = np.float64(z[q])
        most = max(most, a)
        if not some or weights[q] > 0:
            most_weighed = max(most_weighed, a)
    for q in range(n):
        total += np.float64(exp(real, z[q] - real(most)))
        share[q] = real(0.0)
        if not some or weights[q] > 0:
            share[q] = exp(real, z[q] - real(most_weighed)) * real(weights[q] if some else 1.0)
        weighed += np.float64(share[q])
    if given >= 0:
        return given, np.float64(z[given]) - most - np.log(total)
    log_mass = 0.0
    if some:
        log_mass = np.log(weighed) + most_weighed - most - np.log(total) if weighed > 0 else none
    level, up_to = 0, 0.0
    if u < 0:
        for q in range(1, n):
            if share[q] > share[level]:
                level = q
        return level, log_mass
    for q in range(n - 1, 0, -1):
        up_to += np.float64(share[q])
        if u * weighed < up_to:
            return q, log_mass
    while level < n - 1 and not share[level] > 0:  # rounding leads to no level without a share
        level += 1
    return level, log_mass
