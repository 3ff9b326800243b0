"""FVSBN: it is the logistic autoregression of the formula, and scores like one fitted input by input."""

from __future__ import annotations

import numpy as np
import pytest
from baselines.rows import check_samples, every_row
from sklearn.linear_model import LogisticRegression

from bench.baselines.fvsbn import FVSBN


def chain(n, D=6, seed=0):
    """Return rows in which each input is mostly the one before it."""
    rng = np.random.default_rng(seed)
    changes = rng.random((n, D)) < np.where(np.arange(D) == 0, 0.4, 0.15)
    return (np.cumsum(changes, axis=1) % 2).astype(np.uint8)


def by_hand(model, X):
    """Return log p(x), one input after the other, from plain arrays."""
    net = model.made.model_.to_dense()
    A, c = net["weights"][0].astype(float), net["biases"][0].astype(float)
    log_p = np.zeros(len(X))
    for d in range(X.shape[1]):
        before = [e for e in range(X.shape[1]) if net["ordering"][e] < net["ordering"][d]]
        p = 1 / (1 + np.exp(-c[d] - sum(A[d, e] * X[:, e] for e in before)))
        log_p += np.log(np.where(X[:, d], p, 1 - p))
    return log_p


@pytest.mark.parametrize("ordering", ["random", "natural", [3, 1, 2, 6, 5, 4]])
def test_it_is_the_logistic_autoregression_of_the_formula(ordering):
    model = FVSBN(ordering, dtype="float64", max_epochs=5, random_state=0).fit(chain(300))
    log_p = model.score_samples(every_row(6))
    np.testing.assert_allclose(log_p, by_hand(model, every_row(6)), rtol=1e-9)
    assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-12)
    assert isinstance(ordering, str) or list(model.made.model_.to_dense()["ordering"]) == ordering


def test_it_is_as_good_as_regressions_fitted_input_by_input():
    X, X_test = chain(2000), chain(2000, seed=1)
    model = FVSBN("natural", 0.05, max_epochs=60, learning_rate_schedule="linear", random_state=0).fit(X)
    mean = X[:, 0].mean()
    log_p = np.log(np.where(X_test[:, 0], mean, 1 - mean))
    for d in range(1, 6):
        p = LogisticRegression(C=np.inf).fit(X[:, :d], X[:, d]).predict_proba(X_test[:, :d])
        log_p += np.log(p[np.arange(len(p)), X_test[:, d]])
    assert model.score(X_test) == pytest.approx(log_p.mean(), abs=2e-3)


def test_samples_have_the_models_own_probabilities():
    model = FVSBN(max_epochs=30, random_state=0).fit(chain(500, D=5))
    check_samples(model, 5)
