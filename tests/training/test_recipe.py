"""Where a fit begins: initial parameters."""

from __future__ import annotations

import numpy as np
import pytest
from fits import ONE_STEP, initial, rows, shared_matrices

from made_fast.network.architecture import Architecture
from made_fast.training.recipe import initial_parameters


def drawn(sizes, weight_init, dtype="float64", direct="all", seed=0):
    architecture = Architecture(sizes[0], tuple(sizes[1:]), "relu", direct, True)
    values = initial_parameters(architecture, weight_init, np.dtype(dtype), np.random.default_rng(seed))
    assert values.dtype == dtype
    return shared_matrices(architecture, values)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", [(5, 9), (9, 5), (7, 7), (1, 3), (20, 6, 30), (800, 800)])
def test_orthogonal_weights(sizes, dtype):
    for W, b, U in drawn(sizes, "orthogonal", dtype, direct="none" if sizes == (800, 800) else "all"):
        tall = W if W.shape[0] >= W.shape[1] else W.T
        np.testing.assert_allclose(tall.T @ tall, np.eye(tall.shape[1]), atol=1e-5 if dtype == "float32" else 1e-12)
        assert b is None or not b.any()
        assert U is None or not U.any()


def test_orthogonal_weights_favour_no_direction():
    """Every entry of a uniform orthogonal matrix has mean 0 and variance 1 / n; without the signs of R it has not."""
    W = np.array([drawn((4, 4), "orthogonal", direct="none", seed=seed)[0][0] for seed in range(1000)])
    assert np.abs(W.mean(axis=0)).max() < 4.5 * 0.5 / np.sqrt(1000)
    assert np.abs((W**2).mean(axis=0) - 0.25).max() < 0.05
    assert 400 < (np.linalg.det(W) > 0).sum() < 600


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_glorot_weights(dtype):
    for n, (W, b, U) in zip((400, 500, 300), drawn((100, 300, 200), "glorot_uniform", dtype), strict=False):
        bound = np.sqrt(6 / n)
        assert 0.99 * bound < np.abs(W).max() <= bound * (1 + 1e-6)
        assert abs(W.mean()) < 4.5 * bound / np.sqrt(3 * W.size)
        assert abs(W.var() / (bound**2 / 3) - 1) < 0.05
        assert not b.any()
        assert not U.any()
    for n, (W, b, _) in zip((400, 500, 300), drawn((100, 300, 200), "glorot_normal", dtype), strict=False):
        assert abs(W.mean()) < 4.5 * np.sqrt(2 / n / W.size)
        assert abs(W.var() / (2 / n) - 1) < 0.05
        assert np.abs(W).max() > 3 * np.sqrt(2 / n)
        assert not b.any()
    direct = drawn((100, 300, 200), "glorot_uniform", dtype)[3:]
    assert [W.shape for W, _, _ in direct] == [(200, 100), (100, 100)]
    for n, (W, _, _) in zip((300, 200), direct, strict=True):
        assert 0.99 * np.sqrt(6 / n) < np.abs(W).max() <= np.sqrt(6 / n) * (1 + 1e-6)


def test_zeros_are_zeros():
    assert not any(W.any() for W, _, _ in drawn((5, 9, 4), "zeros"))
    made = initial({**ONE_STEP, "weight_init": "zeros"}, rows(20))
    np.testing.assert_allclose(made.score_samples(rows(20)), -12 * np.log(2), rtol=1e-12)
