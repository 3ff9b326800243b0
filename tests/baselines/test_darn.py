"""DARN: it sums to 1, its likelihood is its formula, its gradients are right or as near as said, samples follow it."""

from __future__ import annotations

import numpy as np
import pytest
from baselines.rows import check_samples, differences, every_row, some_rows

from bench.baselines import darn
from bench.baselines.darn import DARN


def random_darn(D=6, n_hidden=4, scale=0.7, seed=1, **params):
    """Return a DARN with random parameters that are far from where training starts."""
    model = DARN(n_hidden, max_epochs=1, random_state=0, **params).fit(some_rows(200, D))
    rng, net = np.random.default_rng(seed), darn.views(model.theta_, D, n_hidden)
    for array in net:
        array[:] = rng.normal(scale=scale, size=array.shape)
    net.P[:], net.A[:] = np.triu(net.P, 1), np.triu(net.A, 1)
    return model


def log_bernoulli(bits, logits):
    return -np.logaddexp(0, np.where(bits, -logits, logits)).sum(axis=-1)


def bound(net, x, h):
    """Return log p(x, h) - log q(h | x) for rows x and h, by the formula."""
    log_p = log_bernoulli(h, h @ net.P + net.p) + log_bernoulli(x, h @ net.G + x @ net.A + net.c)
    return log_p - log_bernoulli(h, x @ net.E + net.e)


@pytest.mark.parametrize("n_hidden", [1, 4, 12])
@pytest.mark.parametrize("autoregressive_prior", [True, False])
def test_probabilities_of_all_rows_sum_to_one(n_hidden, autoregressive_prior):
    model = random_darn(n_hidden=n_hidden, autoregressive_prior=autoregressive_prior, dtype="float64")
    assert model.log_likelihood == "exact"
    assert np.exp(model.score_samples(every_row(6))).sum() == pytest.approx(1, abs=1e-12)


def test_the_likelihood_is_the_sum_over_hidden_states():
    model = random_darn(dtype="float64")
    net, h = darn.views(model.theta_, 6, 4), every_row(4)
    for x, log_p in zip(every_row(6), model.score_samples(every_row(6)), strict=True):
        rows = np.tile(x, (16, 1))
        log_joint = bound(net, rows, h) + log_bernoulli(h, rows @ net.E + net.e)
        assert log_p == pytest.approx(np.logaddexp.reduce(log_joint), abs=1e-11)


def test_dependence_on_later_units_stays_zero():
    model = DARN(5, max_epochs=3, random_state=0).fit(some_rows(200, 6))
    net = darn.views(model.theta_, 6, 5)
    for weights in (net.P, net.A):
        assert not np.tril(weights).any()
        assert np.triu(weights, 1).any()
    assert model.n_parameters == np.count_nonzero(model.theta_)
    factorial = DARN(5, max_epochs=3, random_state=0, autoregressive_prior=False).fit(some_rows(200, 6))
    assert not darn.views(factorial.theta_, 6, 5).P.any()
    assert factorial.n_parameters == np.count_nonzero(factorial.theta_)


def test_the_gradient_of_the_model_given_h_is_exact():
    model = random_darn(D=5, n_hidden=3, dtype="float64")
    theta, out = model.theta_, np.zeros_like(model.theta_)
    net, d = darn.views(theta, 5, 3), darn.views(out, 5, 3)
    x, u = some_rows(8, 5), np.random.default_rng(0).random((8, 3))
    loss = darn.gradient(net, x, u, 0.125, d)
    h = u < 1 / (1 + np.exp(-(x @ net.E + net.e)))
    log_q_all = log_bernoulli(every_row(3), (x @ net.E + net.e)[:, None])
    entropy = -(np.exp(log_q_all) * log_q_all).sum(axis=1)
    log_q = log_bernoulli(h, x @ net.E + net.e)
    assert loss == pytest.approx(-(bound(net, x, h) + log_q + entropy), abs=1e-11)
    live = np.flatnonzero(theta)
    live = live[live >= net.E.size + net.e.size]  # the encoder's come before
    assert out[live] == pytest.approx(differences(lambda: darn.gradient(net, x, u, 0.0, None).mean(), theta, live), abs=1e-8)


def mean_gradient(model, x):
    """Return the mean, over all h, of the estimate of the encoder's gradient, and the truth by differences."""
    D, H = x.shape[1], model.n_hidden
    theta, out = model.theta_, np.zeros_like(model.theta_)
    net, d = darn.views(theta, D, H), darn.views(out, D, H)
    states = every_row(H)

    def minus_bound():
        q = np.exp(log_bernoulli(states[None], (x @ net.E + net.e)[:, None]))
        f = np.array([bound(net, np.tile(row, (len(states), 1)), states) for row in x])
        return -(q * f).sum() / len(x)

    size = D * H + H
    estimate = np.zeros(size)
    for row in x:
        log_q = log_bernoulli(states, row @ net.E + net.e)
        for state, weight in zip(states, np.exp(log_q), strict=True):
            darn.gradient(net, row[None], np.where(state, 0.0, 1.0)[None], 1.0, d)
            estimate += weight * out[:size] / len(x)
    return estimate, differences(minus_bound, theta, range(size))


def test_the_gradient_of_the_encoder_is_unbiased_where_the_loss_is_quadratic():
    model = random_darn(D=5, n_hidden=3, dtype="float64")
    net = darn.views(model.theta_, 5, 3)
    net.G[:] = 0  # then -log p(x, h) is linear in each h_j but for the normalisers of those after it
    net.P[:] = 0
    estimate, truth = mean_gradient(model, some_rows(4, 5))
    assert estimate == pytest.approx(truth, abs=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_of_the_encoder_is_nearly_unbiased(seed):
    model = random_darn(D=5, n_hidden=3, scale=1.0, seed=seed, dtype="float64")
    estimate, truth = mean_gradient(model, some_rows(4, 5))
    assert np.linalg.norm(estimate - truth) < 0.1 * np.linalg.norm(truth)
    assert np.linalg.norm(estimate - truth) > 1e-6 * np.linalg.norm(truth)  # and not exactly: the docstring says so


def test_importance_sampling_is_below_the_truth_and_nears_it(monkeypatch):
    exact = random_darn(n_hidden=8, scale=0.4, dtype="float64").score_samples(every_row(6))
    monkeypatch.setattr(darn, "EXACT", 7)
    model = random_darn(n_hidden=8, scale=0.4, dtype="float64")
    assert model.log_likelihood == "lower bound"
    gap = {S: np.mean(exact - model.score_samples(every_row(6), n_samples=S)) for S in (1, 10, 3000)}
    assert gap[1] > gap[10] > abs(gap[3000])
    assert abs(gap[3000]) < 0.01
    assert -model.bound(every_row(6)) > -model.score(every_row(6))


def test_a_weight_is_an_unbiased_estimate_of_the_probability(monkeypatch):
    X = np.repeat(some_rows(1, 6), 4000, axis=0)
    exact = random_darn(dtype="float64").score_samples(X[:1])[0]
    monkeypatch.setattr(darn, "EXACT", 0)
    ratio = np.exp(random_darn(dtype="float64").score_samples(X, n_samples=1) - exact)
    assert ratio.mean() == pytest.approx(1, abs=4 * ratio.std() / np.sqrt(len(ratio)))


@pytest.mark.parametrize("autoregressive_prior", [True, False])
def test_samples_follow_the_model(autoregressive_prior):
    model = random_darn(autoregressive_prior=autoregressive_prior)
    check_samples(model, 6)


def test_it_learns_a_mixture_that_needs_hidden_units():
    rng = np.random.default_rng(0)
    p = np.array([0.95, 0.05])[rng.integers(0, 2, (4, 8))][rng.integers(0, 4, 4000)]
    X = (rng.random((4000, 8)) < p).astype(np.uint8)
    model = DARN(6, learning_rate=0.01, max_epochs=60, random_state=0).fit(X)
    counts = np.unique(X, axis=0, return_counts=True)[1]
    entropy = -(counts / 4000 * np.log(counts / 4000)).sum()
    nll = -model.score(X)
    assert entropy - 0.01 < nll < entropy + 0.12
    darn.views(model.theta_, 8, 6).G[:] = 0
    assert -model.score(X) > nll + 0.2  # the inputs do hang on the hidden units
