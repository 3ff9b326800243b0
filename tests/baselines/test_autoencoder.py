"""The autoencoder: its loss and gradient, and that what it multiplies is no density."""

from __future__ import annotations

import numpy as np
import pytest
from baselines.rows import differences, every_row, some_rows, two_kinds

from bench.baselines import autoencoder
from bench.baselines.autoencoder import Autoencoder
from bench.baselines.fvsbn import FVSBN


def random_model(D, H, scale=1.0):
    model = Autoencoder(H, dtype="float64", max_epochs=1, random_state=0).fit(some_rows(20, D))
    model.theta_[:] = np.random.default_rng(D).normal(scale=scale, size=model.n_parameters)
    return model


def test_a_row_scores_what_the_formula_says(monkeypatch):
    model, X = random_model(6, 4), every_row(6)
    (W, b), (V, c) = model._layers(model.theta_)
    out = 1 / (1 + np.exp(-(c + 1 / (1 + np.exp(-(b + X @ W))) @ V)))
    wanted = np.log(np.where(X, out, 1 - out)).sum(axis=1)
    np.testing.assert_allclose(model.score_samples(X), wanted, atol=1e-12)
    monkeypatch.setattr(autoencoder, "ROWS", 7)
    np.testing.assert_allclose(model.score_samples(X), wanted, atol=1e-12)


def test_the_gradient_is_that_of_the_loss():
    model, X = random_model(5, 4), some_rows(7, 5)
    found = np.empty_like(model.theta_)
    loss = autoencoder.gradient(model._layers(model.theta_), X, 1 / 7, model._layers(found))
    np.testing.assert_allclose(loss, -model.score_samples(X), atol=1e-12)
    np.testing.assert_allclose(found, differences(lambda: -model.score(X), model.theta_), atol=1e-8)


def test_what_it_multiplies_does_not_sum_to_1_and_what_a_density_has_does():
    X = two_kinds(2000)
    model = Autoencoder(30, learning_rate=1e-2, max_epochs=40, random_state=0).fit(X)
    assert model.log_likelihood == "not a density"
    assert model.total() == pytest.approx(np.exp(model.score_samples(every_row(8))).sum(), rel=1e-5)
    assert model.total() > 20
    density = FVSBN(max_epochs=5, random_state=0).fit(X)
    assert np.exp(density.score_samples(every_row(8))).sum() == pytest.approx(1, abs=1e-5)
    assert model.score(two_kinds(500, seed=1)) > density.score(two_kinds(500, seed=1)) + 2  # so this tells nothing


def test_one_that_copies_gives_probability_1_to_each_row():
    model = random_model(4, 4)
    (W, b), (V, c) = model._layers(model.theta_)
    W[:], b[:], V[:], c[:] = 60 * np.eye(4), -30, 60 * np.eye(4), -30
    assert model.total() == pytest.approx(2**4, rel=1e-9)


def test_no_rows_are_drawn_from_it_and_wide_ones_are_not_added_up():
    with pytest.raises(NotImplementedError, match="no density"):
        random_model(4, 4).sample(3)
    with pytest.raises(ValueError, match="at most 20 features, got 21"):
        random_model(21, 2).total()
