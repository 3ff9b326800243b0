"""The kernels of the RBM: sums into a layer, Gibbs chains, gradients, annealing, the sum over all states.

A layer is in panels of 64 units: sums (panels, rows, 64), biases (panels, 64), weights (panels, units of the other layer,
64). The units that fill up the last panel have weights and biases 0; they are never 1. States are bytes, (rows, units): a
sum adds up rows of weights where a state is 1. A panel is taken through all rows before the next one, so that it stays in
cache.

A kernel owns what it writes and draws from generators that it is given: nothing depends on the number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.baselines.common import Floats, Rows
from made_fast.kernels.jit.rows import add_rows, copy, exp, inline, kernel, log1p, stack

__all__ = [
    "LANES", "PANEL", "Net", "Real", "Words", "add_change", "anneal", "chains", "draw", "log_sum", "sums", "uniforms",
    "weight_gradient",
]  # fmt: skip

Real = NDArray[Any]  # float32 or float64, the same in one model
Net = tuple[Real, Real, Real, Real]  # W, W', b, c, all in panels
Words = NDArray[np.uint32]

PANEL = 64
"""Units whose weights stand together, as ``add_rows`` wants them."""

LANES = 16
"""Generators of random numbers side by side, for SIMD."""


@inline
def uniforms(u: Real, state: Words) -> None:
    """Fill a vector of 64 with numbers from [0, 1): xoshiro128++ (Blackman and Vigna 2021), 16 of them side by side."""
    real, word = u.dtype.type, np.uint32
    for start in range(0, PANEL, LANES):
        for l in range(LANES):
            s0, s1, s2, s3 = state[0, l], state[1, l], state[2, l], state[3, l]
            total = word(s0 + s3)
            drawn = word(word((total << word(7)) | (total >> word(25))) + s0)
            s2, s3, t = s2 ^ s0, s3 ^ s1, word(s1 << word(9))
            state[0, l], state[1, l], state[2, l] = s0 ^ s3, s1 ^ s2, s2 ^ t
            state[3, l] = word((s3 << word(11)) | (s3 >> word(21)))
            u[start + l] = real(np.int32(drawn >> word(1))) * real(2.0**-31)


@kernel
def sums(x: Rows, W: Real, bias: Real, z: Real) -> None:
    """Write the sums into the units of the other layer, ``z = bias + x W``."""
    n, m = x.shape
    index, count = np.empty((n, m + 1), np.int32), np.zeros(n, np.int64)
    for r in range(n):
        for d in range(m):
            index[r, count[r]] = d
            count[r] += x[r, d]
    for p in range(len(W)):
        for r in range(n):
            copy(bias[p], z[p, r])
            add_rows(z[p, r], W[p], index[r], count[r])


@kernel
def draw(z: Real, beta: float, base: Real, state: Words, x: Rows) -> None:
    """Draw units that are 1 with probability ``sigmoid(beta z + (1 - beta) base)``."""
    real = z.dtype.type
    zero, one, share, rest = real(0.0), real(1.0), real(beta), real(1.0 - beta)
    u = stack(z)[0]
    for p in range(len(z)):
        for r in range(len(x)):
            uniforms(u, state)
            for j in range(PANEL):
                a = share * z[p, r, j] + rest * base[p, j]
                e = exp(real, -abs(a))
                u[j] = one if u[j] * (one + e) < (e if a < zero else one) else zero
            for j in range(min(PANEL, x.shape[1] - p * PANEL)):
                x[r, p * PANEL + j] = np.uint8(u[j])


@kernel
def chains(x: Rows, net: Net, n_steps: int, state: Words, p: Real, x_last: Rows, p_last: Real) -> None:
    """Begin a Gibbs chain at each row: write p(h = 1 | x), the row after ``n_steps`` steps, and its p(h = 1 | x)."""
    W, V, b, c = net
    real = b.dtype.type
    zero, one = real(0.0), real(1.0)
    h, z = np.empty((len(x), V.shape[1]), np.uint8), np.empty((len(V), len(x), PANEL), b.dtype)
    copy(x.reshape(x.size), x_last.reshape(x.size))
    for step in range(n_steps + 1):
        sums(x_last, W, b, p_last)
        if step == 0:
            copy(p_last.reshape(p.size), p.reshape(p.size))
        if step < n_steps:
            draw(p_last, 1.0, b, state, h)
            sums(h, V, c, z)
            draw(z, 1.0, c, state, x_last)
    for q in (p.reshape(p.size), p_last.reshape(p.size)):
        for j in range(len(q)):
            e = exp(real, -abs(q[j]))
            q[j] = (e if q[j] < zero else one) / (one + e)


@kernel
def weight_gradient(x: Rows, p: Real, x_last: Rows, p_last: Real, first: int, last: int, dW: Real) -> None:
    """Write rows first, ..., last - 1 of ``(x_last' p_last - x' p) / n``; each is summed in the order of the batch."""
    n, g = len(x), stack(p)
    index, index_last = np.empty(n + 1, np.int32), np.empty(n + 1, np.int32)
    for d in range(first, last):
        count = count_last = 0
        for r in range(n):
            index[count] = index_last[count_last] = r
            count += x[r, d]
            count_last += x_last[r, d]
        for q in range(len(p)):
            g[:] = 0
            add_rows(g[0], p[q], index, count)
            add_rows(g[1], p_last[q], index_last, count_last)
            for j in range(min(PANEL, dW.shape[1] - q * PANEL)):
                dW[d, q * PANEL + j] = (g[1, j] - g[0, j]) / n


@inline
def softplus(real: Any, a: Any) -> Any:
    return max(a, real(0.0)) + log1p(real, exp(real, -abs(a)))


@kernel
def add_change(z: Real, beta: float, before: float, log_p: Floats) -> None:
    """Add ``sum_j softplus(beta z_j) - softplus(before z_j)`` of each row; units that fill up have z = 0."""
    real = z.dtype.type
    share, share_before = real(beta), real(before)
    total = stack(z)[0]
    for r in range(len(log_p)):
        total[:] = 0
        for p in range(len(z)):
            for j in range(PANEL):
                total[j] += softplus(real, share * z[p, r, j]) - softplus(real, share_before * z[p, r, j])
        for j in range(PANEL):
            log_p[r] += total[j]


@kernel
def anneal(x: Rows, net: Net, base: Real, shift: Floats, betas: Floats, state: Words, log_w: Floats) -> None:
    """Take rows of the base model through a Gibbs step at each temperature; add up the logs of their importance weights."""
    W, V, b, c = net
    h, nothing = np.empty((len(x), V.shape[1]), np.uint8), np.zeros_like(b)
    zh, zx = np.empty((len(W), len(x), PANEL), b.dtype), np.empty((len(V), len(x), PANEL), b.dtype)
    for k in range(1, len(betas)):
        rise = betas[k] - betas[k - 1]
        sums(x, W, b, zh)
        if rise > 0:
            add_change(zh, betas[k], betas[k - 1], log_w)
            for r in range(len(x)):
                for d in range(x.shape[1]):
                    log_w[r] += rise * shift[d] * x[r, d]
        draw(zh, betas[k], nothing, state, h)
        sums(h, V, c, zx)
        draw(zx, betas[k], base, state, x)


@kernel
def log_sum(W: Floats, own: Floats, other: Floats, first: int, last: int) -> float:
    """Return the log of the sum of ``exp(own s + sum softplus(other + s W))`` over the states s number first, ..., last - 1.

    They stand in the order of the Gray code, in which each differs from the one before in one bit.
    """
    z, loss = other.copy(), np.empty_like(other)
    energy, total, top = 0.0, 0.0, -np.inf
    for i in range(first, last):
        code = i ^ (i >> 1)
        flipped = code if i == first else code ^ ((i - 1) ^ ((i - 1) >> 1))
        for j in range(len(own)):
            if (flipped >> j) & 1:
                sign = 1.0 if (code >> j) & 1 else -1.0
                energy += sign * own[j]
                for u in range(len(z)):
                    z[u] += sign * W[j, u]
        for u in range(len(z)):
            loss[u] = softplus(np.float64, z[u])
        log_p = energy + loss.sum()
        if log_p > top:
            total, top = total * np.exp(top - log_p), log_p
        total += np.exp(log_p - top)
    return top + np.log(total)
