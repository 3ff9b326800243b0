"""The mixture of Bernoullis: its scores, EM, its samples."""

from __future__ import annotations

import numpy as np
import pytest
from baselines.rows import check_samples, every_row, two_kinds

from bench.baselines import bernoulli_mixture
from bench.baselines.bernoulli_mixture import BernoulliMixture


def probabilities(model):
    return np.exp(model.log_weights_.astype(float)), 1 / (1 + np.exp(-model.log_odds_.astype(float)))


def by_hand(model, X):
    """Return log p(x, k), (n, K), with no shortcut."""
    pi, mu = probabilities(model)
    return np.array([[np.log(pi[k]) + np.log(np.where(x, mu[:, k], 1 - mu[:, k])).sum() for k in range(len(pi))] for x in X])


CONSTANT = np.tile(np.array([[0, 1, 0, 0, 0, 0, 0, 0]], np.uint8), (1000, 1))  # other values never happen: still possible


@pytest.mark.parametrize(
    ("n_components", "X", "dtype", "off"),
    [
        (5, two_kinds(200), "float32", 1e-6),
        (5, two_kinds(200), "float64", 1e-12),
        (30, two_kinds(10), "float32", 1e-5),  # more components than rows
        (20, CONSTANT, "float32", 1e-5),
    ],
)
def test_probabilities_of_all_rows_sum_to_one(n_components, X, dtype, off):
    log_p = BernoulliMixture(n_components, dtype=dtype, random_state=0, max_epochs=50).fit(X).score_samples(every_row(8))
    assert np.isfinite(log_p).all()
    assert np.exp(log_p).sum() == pytest.approx(1, abs=off)


def test_a_row_scores_what_the_formula_says():
    X = two_kinds(200)
    model = BernoulliMixture(5, dtype="float64", random_state=0).fit(X)
    np.testing.assert_allclose(model.score_samples(X), np.logaddexp.reduce(by_hand(model, X), axis=1), rtol=1e-12)


def test_a_step_is_the_step_of_the_formula():
    X = two_kinds(100)
    model = BernoulliMixture(3, smoothing=0.7, dtype="float64", random_state=0, max_epochs=2, n_init=1).fit(X)
    joint = by_hand(model, X)
    share = np.exp(joint - np.logaddexp.reduce(joint, axis=1)[:, None])
    m = (X.sum(axis=0) + 1) / 102
    mu = (X.T @ share + 0.7 * m[:, None]) / (share.sum(axis=0) + 0.7)
    model._step(X)
    np.testing.assert_allclose(probabilities(model)[0], (share.sum(axis=0) + 0.7) / (100 + 3 * 0.7), rtol=1e-10)
    np.testing.assert_allclose(probabilities(model)[1], mu, rtol=1e-10)


def test_steps_never_lower_the_posterior():
    X = two_kinds(150)
    model = BernoulliMixture(4, dtype="float64", random_state=0, n_init=1, max_epochs=1).fit(X)
    climb = [model._step(X) for _ in range(40)]
    assert np.diff(climb).min() > -1e-9
    assert climb[-1] > climb[0] + 0.1
    pi, mu = probabilities(model)
    m = ((X.sum(axis=0) + 1) / 152)[:, None]
    prior = np.log(pi).sum() + (m * np.log(mu) + (1 - m) * np.log(1 - mu)).sum()
    before = model.score_samples(X).sum() + prior
    assert model._step(X) == pytest.approx(before)


def test_one_component_is_the_smoothed_marginals():
    X = two_kinds(50)
    model = BernoulliMixture(1, smoothing=2, dtype="float64", random_state=0).fit(X)
    mu = (X.sum(axis=0) + 2 * (X.sum(axis=0) + 1) / 52) / 52
    np.testing.assert_allclose(probabilities(model)[1][:, 0], mu)


def test_the_known_mixture_is_found():
    X, X_test = two_kinds(4000), two_kinds(4000, seed=1)
    model = BernoulliMixture(2, random_state=0).fit(X)
    pi, mu = probabilities(model)
    first = int(np.argmin(pi))
    np.testing.assert_allclose(pi[first], 0.3, atol=0.03)
    np.testing.assert_allclose(mu[:, first], np.where(np.arange(8) < 4, 0.9, 0.05), atol=0.04)
    one = BernoulliMixture(1, random_state=0).fit(X)
    assert model.score(X_test) > one.score(X_test) + 1.5


def test_the_best_of_several_beginnings_goes_on(monkeypatch):
    values, ends = [], []
    step = BernoulliMixture._step

    def watch(self, X):
        start = self.theta_.copy()
        values.append(step(self, X))
        ends.append((start, self.theta_.copy()))
        return values[-1]

    monkeypatch.setattr(BernoulliMixture, "_step", watch)
    BernoulliMixture(4, n_init=5, max_epochs=1, random_state=0).fit(two_kinds(100))
    best = int(np.argmax(values[4:25:5]))
    assert best != 4  # the last continues anyway
    np.testing.assert_array_equal(ends[25][0], ends[4 + 5 * best][1])


def test_samples_have_the_models_own_probabilities():
    model = BernoulliMixture(3, random_state=0).fit(two_kinds(300, D=5))
    check_samples(model, 5)


def test_blocks_of_rows_add_up(monkeypatch):
    X = two_kinds(1000)
    whole = BernoulliMixture(3, max_epochs=5, dtype="float64", random_state=3).fit(X)
    monkeypatch.setattr(bernoulli_mixture, "BLOCK", 64)
    cut = BernoulliMixture(3, max_epochs=5, dtype="float64", random_state=3).fit(X)
    np.testing.assert_allclose(cut.log_odds_, whole.log_odds_, rtol=1e-8)
    np.testing.assert_allclose(cut.score_samples(X), whole.score_samples(X))
