"""Helpers of the tests of baselines: rows of 0/1, gradients by differences, a check of samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench.baselines.common import Baseline, Rows


def every_row(D: int) -> Rows:
    """Return all rows, (2^D, D), as binary numbers in ascending order."""
    return ((np.arange(2**D)[:, None] >> np.arange(D)[::-1]) & 1).astype(np.uint8)


def some_rows(n: int, D: int, seed: int = 0) -> Rows:
    """Return rows of a mixture of two random patterns, (n, D)."""
    rng = np.random.default_rng(seed)
    p = np.where(rng.random((n, 1)) < 0.5, *rng.random((2, D)))
    return (rng.random((n, D)) < p).astype(np.uint8)


def two_kinds(n: int, D: int = 8, seed: int = 0) -> Rows:
    """Return rows of two kinds, (n, D), one mostly of ones in its first half, one in its second."""
    rng = np.random.default_rng(seed)
    kind = rng.random(n) < 0.3
    mu = np.where(kind[:, None] == (np.arange(D) < D // 2), 0.9, 0.05)
    return (rng.random((n, D)) < mu).astype(np.uint8)


def follow(X: Rows, p: Any) -> bool:
    """Return whether rows (n, D) are drawn with the probabilities p (2^D,) of ``every_row``: chi-square, 4 sigma."""
    D, expected = X.shape[1], len(X) * np.asarray(p)
    drawn = np.bincount(X @ (1 << np.arange(D)[::-1]), minlength=2**D)
    return bool(((drawn - expected) ** 2 / expected).sum() < 2**D - 1 + 4 * np.sqrt(2 * (2**D - 1)))


def check_samples(model: Baseline, D: int, n: int = 20_000, **how: Any) -> None:
    """Assert that a model of D inputs draws rows with its own probabilities, and from one seed the same ones."""
    X = model.sample(n, random_state=1, **how)
    assert X.dtype == np.uint8
    assert follow(X, np.exp(model.score_samples(every_row(D))))
    np.testing.assert_array_equal(model.sample(n, random_state=1, **how), X)


def differences(loss: Callable[[], float], theta: Any, places: Sequence[int] | None = None, step: float = 1e-6) -> Any:
    """Return the derivatives of ``loss()`` by central differences, at these places of theta."""
    found = []
    for i in range(len(theta)) if places is None else places:
        kept = theta[i]
        theta[i] = kept + step
        above = loss()
        theta[i] = kept - step
        found.append((above - loss()) / (2 * step))
        theta[i] = kept
    return np.array(found)
