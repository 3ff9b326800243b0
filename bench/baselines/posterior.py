"""What models of two hidden layers share: draws from a factorial posterior, and the lower bound that they give.

With h drawn from ``q(h | x) = prod_j sigmoid(a_j)^h_j (1 - sigmoid(a_j))^(1 - h_j)``, the log of the mean of
``p(x, h) / q(h | x)`` over S draws is at most log p(x) in expectation. With one draw its expectation is the variational bound
(Salakhutdinov and Murray, ICML 2008, eq. 15); with more it is nearer to log p(x).

Not here: where the logits a come from (``dbn.py``, ``dbm.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.baselines.common import Floats, Rows
from bench.baselines.rbm_kernels import Real
from made_fast.tables import arguments

__all__ = ["bound", "draw", "two_layers"]

ROWS = 500
"""Rows whose hidden units are drawn at once, with random numbers of their own."""


def two_layers(hidden_sizes: Any) -> tuple[int, int]:
    """Return the widths of two hidden layers; refuse any other number of layers."""
    sizes = arguments.hidden_sizes(hidden_sizes)
    if len(sizes) != 2:
        raise ValueError(f"hidden_sizes must name two layers, the one next to the inputs first, got {sizes}.")
    return sizes[0], sizes[1]


def draw(logits: Real, rng: np.random.Generator) -> tuple[Rows, Floats]:
    """Return h (n, H), each unit drawn by its logit, and log q(h) of each row, (n,)."""
    h = (rng.random(logits.shape, dtype=np.float32) < 0.5 + 0.5 * np.tanh(0.5 * logits)).view(np.uint8)
    return h, -np.logaddexp(0, np.where(h, -logits, logits), dtype=np.float64).sum(axis=1)


def bound(
    x: Rows, logits: Callable[[Rows], Real], log_joint: Callable[[Rows, Rows], Floats], n_samples: int, seed: int
) -> Floats:
    """Return the bound of each row x (n, D), (n,), by so many draws of h a row, the same ones for the same seed.

    ``logits(x)`` are those of q(h | x), (n, H); ``log_joint(x, h)`` is log p(x, h), (n,).
    """
    result = np.empty(len(x))
    for i, start in enumerate(range(0, len(x), ROWS)):
        part, rng = x[start : start + ROWS], np.random.default_rng([seed, i])
        a, log_w = logits(part), np.full(len(part), -np.inf)
        for _ in range(n_samples):
            h, log_q = draw(a, rng)
            np.logaddexp(log_w, log_joint(part, h) - log_q, out=log_w)
        result[start : start + ROWS] = log_w - np.log(n_samples)
    return result
