"""Numba pieces that NADE, EoNADE and DARN share: hidden units in panels of 64, the loss of Bernoulli logits.

A panel is a run of 64 hidden units with their weights, contiguous, so that inner loops are of constant length and one panel
of a net fits into the level-2 cache. Not here: any pass through a net.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from bench.baselines.common import Floats
from made_fast.kernels.jit.rows import exp, inline, kernel, log1p

__all__ = ["PANEL", "Real", "activate", "dot", "losses", "total"]

Real = NDArray[Any]  # float32 or float64, the same in one call

PANEL = 64


@inline
def activate(a: Real, relu: bool, h: Real) -> None:
    """Write h = g(a), 64 numbers."""
    real = h.dtype.type
    zero, one = real(0), real(1)
    if relu:
        for u in range(PANEL):
            h[u] = max(a[u], zero)
    else:
        for u in range(PANEL):
            e = exp(real, -abs(a[u]))
            h[u] = (e if a[u] < zero else one) / (one + e)


@njit(nogil=True, error_model="numpy", fastmath={"contract", "reassoc"}, forceinline=True)
def dot(v: Real, h: Real) -> Any:
    """Return v . h, 64 numbers each, added in the order that is the fastest."""
    t = v.dtype.type(0)
    for u in range(PANEL):
        t += v[u] * h[u]
    return t


@njit(nogil=True, error_model="numpy", fastmath={"contract", "reassoc"}, forceinline=True)
def total(v: Real) -> float:
    """Return the sum of a vector, in float64, added in the order that is the fastest."""
    t = 0.0
    for i in range(len(v)):
        t += v[i]
    return t


@kernel
def losses(z: Real, c: Real, x: NDArray[Any], share: float, nll: Floats) -> None:
    """Sum z (n, Q, D) and c (D,) to logits; write the NLL of each row x, and ``share (sigmoid(logit) - x)`` to z[:, 0]."""
    real = c.dtype.type
    zero, one, share_ = real(0), real(1), real(share)
    terms = np.empty_like(c)
    for r in range(len(x)):
        row, bits = z[r, 0], x[r]
        for q in range(1, z.shape[1]):
            for d in range(len(c)):
                row[d] += z[r, q, d]
        for d in range(len(c)):
            s = row[d] + c[d]
            bit = real(bits[d])
            e = exp(real, -abs(s))
            terms[d] = max(s, zero) - bit * s + log1p(real, e)
            row[d] = share_ * ((e if s < zero else one) / (one + e) - bit)
        nll[r] = total(terms)
