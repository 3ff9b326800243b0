"""Variables of several levels, with Numba: the softmax of their logits, its loss and gradient, a draw of a level.

A variable's logits stand side by side, across panels. Not here: networks (``network.py``), walks (``walks.py``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from made_fast.kernels.jit.rows import PANEL, Bits, Float64, Int32, Real, inline, kernel
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
    own, total = logits[(first + chosen) // PANEL, i, (first + chosen) % PANEL], real(0.0)
    for j in range(first, first + width):
        e = np.exp(logits[j // PANEL, i, j % PANEL] - most)
        logits[j // PANEL, i, j % PANEL] = e
        total += e
    for j in range(first, first + width):
        logits[j // PANEL, i, j % PANEL] /= total
    return np.log(np.float64(total)) + (np.float64(most) - np.float64(own))


@inline
def _sigmoid(z: Any) -> Any:
    return 1.0 / (1.0 + np.exp(-z)) if z >= 0 else np.exp(z) / (1.0 + np.exp(z))


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
                z = np.float64(logits[first // PANEL, i, first % PANEL])
                t = -z if one else z
                found += max(t, 0.0) + np.log1p(np.exp(-abs(t))) + (t - t)
                logits[first // PANEL, i, first % PANEL] = real(-_sigmoid(t) if one else _sigmoid(t))
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
                z = np.float64(logits[first // PANEL, i, first % PANEL])
                logits[first // PANEL, i, first % PANEL] = logits.dtype.type(_sigmoid(z))
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
def choose(z: Real, weights: Float64, binary: bool, u: float) -> tuple[int, float]:
    """Return the level that a uniform draws, and the log of the mass of the place; z are the logits of the levels."""
    most, total, weighed, all_weighed, n = -np.inf, 0.0, -np.inf, 0.0, len(z)
    likeliest = 0
    for q in range(n):
        most = max(most, np.float64(z[q]))
        if len(weights) == 0 or weights[q] > 0:
            weighed = max(weighed, np.float64(z[q]))
    for q in range(n):
        total += np.exp(np.float64(z[q]) - most)
        if len(weights) == 0 or weights[q] > 0:
            share = np.exp(np.float64(z[q]) - weighed) * (1.0 if len(weights) == 0 else weights[q])
            all_weighed += share
    log_mass = 0.0
    if len(weights) > 0:
        log_mass = np.log(all_weighed) + weighed - most - np.log(total) if all_weighed > 0 else -np.inf
    largest, up_to, level, before = -1.0, 0.0, n - 1, 0.0
    found, last = False, 0
    for q in range(n):
        share = 0.0
        if len(weights) == 0 or weights[q] > 0:
            share = np.exp(np.float64(z[q]) - weighed) * (1.0 if len(weights) == 0 else weights[q])
        if share > largest:
            largest, likeliest = share, q
        up_to += share
        if share > 0:
            last = q
        if not found and u * all_weighed < up_to:
            level, found = q, True
        if binary and q == 1:
            level, found = 1 if u * all_weighed < share or (share > 0 and not before > 0) else 0, True
        before = share
    if not found:
        level = last  # rounding leads to no level without a share
    return (likeliest if u < 0 else level), log_mass
