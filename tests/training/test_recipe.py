"""Where a fit begins: initial weights, and biases at the log-odds of the training rows."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from fits import KINDS, ONE_STEP, initial, kind, rows, shared_matrices, small, with_gaps

from made_fast import MADE
from made_fast.network.architecture import Architecture
from made_fast.training.recipe import initial_parameters
from made_fast.training.rows import hold_out


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


MARGINALS = {**ONE_STEP, "bias_init": "marginals"}
FORMS = {
    "packed": {},
    "no hidden layer": {"hidden_sizes": ()},
    "two layers, direct": {"hidden_sizes": (7, 70), "direct_connections": "all"},
    "masks": {"n_masks": 3, "connectivity_weights": True},
    "fresh": {"n_masks": None, "n_eval_masks": 2, "direct_connections": "output"},
    "missing": {"missing": True},
}


def biases(made):
    """Return the biases of the outputs, in the order of the features."""
    return made.to_dense(**({} if made.model_.n_masks == 1 else {"mask": 0}))["biases"][-1]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("weighted", [False, True])
def test_biases_start_at_the_log_odds(form, weighted):
    options, X = dict(FORMS[form]), rows(50, 70)
    X[:, 3], X[:, 69] = 0, 1
    if options.pop("missing", False):
        X = with_gaps(X)
        X[:, 5] = np.nan
    w = np.random.default_rng(1).normal(2, 2, 50) if weighted else None
    params = {**MARGINALS, **options, "weight_init": "zeros"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a column is never observed
        made = initial(params, X, sample_weight=w)
        same = MADE(**{**params, "learning_rate": 1e-300}).partial_fit(X, sample_weight=w)
    counts = np.ones(50) if w is None else np.maximum(w, 0)
    expected = np.log((counts @ (X == 1) + 1) / (counts @ (X == 0) + 1))
    np.testing.assert_allclose(biases(made), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(biases(same), expected, rtol=1e-12, atol=1e-12)
    assert expected[3] < -2 < 2 < expected[69]
    independent = expected * np.nan_to_num(X) - np.log1p(np.exp(expected)) * ~np.isnan(X)  # the weights are 0
    assert made.history_[0]["train_nll"] == pytest.approx(
        -np.mean((1 if w is None else w) * independent.sum(axis=1)), rel=1e-10
    )
    np.testing.assert_array_equal(biases(initial({**params, "bias_init": "zeros"}, rows(50, 70), sample_weight=w)), 0)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("direct", ["none", "output", "all"])
def test_training_begins_with_independent_variables(name, direct):
    """The weights to the outputs are 0, direct ones included; those of the hidden layers are drawn."""
    params, X = kind(name, 40)
    params |= {"direct_connections": direct, "hidden_sizes": (7, 5), "bias_init": "marginals"}
    made = initial(params, X)
    dense = made.to_dense(**({} if made.model_.n_masks == 1 else {"mask": 0}))
    assert not dense["weights"][-1].any()
    assert [W.any() for W in dense["weights"][:-1]] == [True, True]
    assert [None if A is None else A.any() for A in dense["direct"]] == [
        None, True if direct == "all" else None, None if direct == "none" else False,
    ]  # fmt: skip
    p = (np.nansum(X, axis=0) + 1) / ((~np.isnan(X)).sum(axis=0) + 2)
    asked = rows(9, 6, seed=3)
    np.testing.assert_allclose(made.score_samples(asked), np.log(np.where(asked == 1, p, 1 - p)).sum(axis=1), rtol=1e-12)
    paper = initial({**params, "bias_init": "zeros"}, X)
    assert paper.to_dense(**({} if paper.model_.n_masks == 1 else {"mask": 0}))["weights"][-1].any()


@pytest.mark.parametrize("weights", [1e-3, 1 / 50, 1e-320, 1e300], ids=str)
def test_small_weights_and_huge_ones_are_counts_too(weights):
    """Weights that add up to 1 start the biases as weights of 1 do, and no weight makes them infinite."""
    X = rows(50, 70)
    params = {**MARGINALS, "weight_init": "zeros"}
    found = biases(initial(params, X, sample_weight=np.full(50, weights)))
    one = biases(initial(params, X))
    assert np.isfinite(found).all()
    if weights < 1:
        np.testing.assert_allclose(found, one, rtol=1e-3 if weights == 1e-320 else 1e-10)
    else:
        assert (np.sign(found) == np.sign(one)).all()


def test_biases_are_started_once():
    """By the first batch of ``partial_fit``; rows that come later, and rows held out, do not count."""
    first, later = np.zeros((30, 5), np.uint8), np.ones((30, 5), np.uint8)
    made = small(hidden_sizes=(), learning_rate=1e-9, weight_init="zeros").partial_fit(first).partial_fit(later)
    np.testing.assert_allclose(biases(made), -np.log(31), rtol=1e-5)
    X = rows(40, 5)
    made = small(hidden_sizes=(), learning_rate=1e-9, max_epochs=1, validation_fraction=0.5, weight_init="zeros").fit(X)
    train, _ = hold_out(40, 0.5, made._fit_state.split_seed)
    ones = X[train].sum(axis=0, dtype=float)
    np.testing.assert_allclose(biases(made), np.log((ones + 1) / (21 - ones)), rtol=1e-5, atol=1e-5)
