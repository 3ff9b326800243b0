"""NADE: it sums to 1, its gradient is that of its loss, its samples follow it, its learning rate falls."""

from __future__ import annotations

import numpy as np
import pytest
from baselines.rows import check_samples, differences, every_row, some_rows

from bench.baselines import nade, trained
from bench.baselines.nade import NADE
from bench.baselines.panels import PANEL

ACTIVATIONS = ("sigmoid", "relu")


def random_nade(D=9, hidden_size=5, scale=0.7, seed=0, **params):
    """Return a NADE with random parameters that are far from where training starts."""
    model = NADE(hidden_size, max_epochs=1, random_state=seed, **params).fit(some_rows(200, D))
    live = live_parameters(D, hidden_size)
    model.theta_[live] = np.random.default_rng(seed + 1).normal(scale=scale, size=len(live))
    return model


def live_parameters(D, hidden_size):
    """Return which numbers of ``theta_`` are parameters, and no filling of the last panel."""
    n_panels = -(-hidden_size // PANEL)
    unit = np.arange(n_panels * PANEL).reshape(n_panels, 1, PANEL)
    in_rows = np.broadcast_to(unit, (n_panels, D, PANEL)).ravel()
    return np.flatnonzero(np.concatenate([in_rows, in_rows, unit.ravel(), np.zeros(D, int)]) < hidden_size)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden_size", [1, 5, 64, 70])
@pytest.mark.parametrize("D", [1, 9])
def test_probabilities_of_all_rows_sum_to_one(activation, hidden_size, D):
    model = random_nade(D, hidden_size, activation=activation, dtype="float64")
    assert np.exp(model.score_samples(every_row(D))).sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_log_likelihood_is_the_formula_of_the_paper(activation):
    model = random_nade(hidden_size=70, activation=activation, ordering="random", dtype="float64")
    V, W, b, c = nade.views(model.theta_, 9)
    V, W = (np.concatenate(list(panels), axis=1)[:, :70] for panels in (V, W))
    b = b.ravel()[:70]
    g = (lambda a: 1 / (1 + np.exp(-a))) if activation == "sigmoid" else (lambda a: np.maximum(a, 0))
    X = some_rows(20, 9)
    expected = np.zeros(len(X))
    for r, x in enumerate(X[:, model.order_].astype(float)):
        for d in range(9):
            p = 1 / (1 + np.exp(-(c[d] + V[d] @ g(b + x[:d] @ W[:d]))))
            expected[r] += np.log(p if x[d] else 1 - p)
    assert model.score_samples(X) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_gradient_is_that_of_the_mean_loss(activation):
    model = random_nade(D=6, hidden_size=66, activation=activation, dtype="float64")
    x, relu = some_rows(7, 6), activation == "relu"
    x[0], x[1] = 0, 1
    theta, out = model.theta_, np.empty_like(model.theta_)
    net, d = nade.views(theta, 6), nade.views(out, 6)
    loss = nade.gradient(net, x, d, relu, 1)
    assert loss == pytest.approx(-nade.log_p(net, x, relu, 1).sum(), abs=1e-12)
    live = live_parameters(6, 66)
    assert len(live) == model.n_parameters
    assert out[live] == pytest.approx(differences(lambda: -nade.log_p(net, x, relu, 1).mean(), theta, live), abs=1e-8)


def test_units_that_fill_up_the_last_panel_stay_zero():
    model = NADE(70, max_epochs=3, random_state=0).fit(some_rows(200, 9))
    V, W, b, _ = nade.views(model.theta_, 9)
    assert np.count_nonzero(V) == np.count_nonzero(W) == 9 * 70
    assert np.count_nonzero(b) == 70
    assert model.n_parameters == 2 * 9 * 70 + 70 + 9


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_samples_follow_the_model(activation):
    model = random_nade(D=6, hidden_size=70, scale=0.3, activation=activation, ordering="random")
    check_samples(model, 6)


def test_an_ordering_is_a_permutation_of_the_features():
    rng = np.random.default_rng(0)
    X = some_rows(100, 9)
    places = rng.permutation(9)
    fit = {"max_epochs": 2, "dtype": "float64", "random_state": 0}
    natural = NADE(5, ordering="natural", **fit).fit(X[:, np.argsort(places)])
    given = NADE(5, ordering=places + 1, **fit).fit(X)
    assert (given.score_samples(X) == natural.score_samples(X[:, np.argsort(places)])).all()
    assert (given.sample(50, 1)[:, np.argsort(places)] == natural.sample(50, 1)).all()
    assert sorted(NADE(5, ordering="random", **fit).fit(X).order_) == list(range(9))


@pytest.mark.parametrize(("schedule", "rates"), [("constant", [0.1] * 4), ("linear", [0.1, 0.075, 0.05, 0.025])])
def test_a_linear_schedule_falls_to_nearly_zero(schedule, rates, monkeypatch):
    used = []

    class Adam(trained.Adam):
        def step(self, gradient):
            used.append(self.learning_rate)
            super().step(gradient)

    monkeypatch.setattr(trained, "Adam", Adam)
    NADE(5, learning_rate=0.1, learning_rate_schedule=schedule, max_epochs=4, random_state=0).fit(some_rows(200, 9))
    assert used == pytest.approx(np.repeat(rates, 2))


def test_a_fit_that_diverges_says_so():
    with pytest.raises(FloatingPointError, match=r"epoch \d: .* learning_rate"):
        NADE(5, learning_rate=1e38, random_state=0, max_epochs=9).fit(some_rows(200, 9))
