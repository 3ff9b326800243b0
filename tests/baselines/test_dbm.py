"""The DBM: its bound, log Z and gradient against sums over all states, persistent chains, training, samples."""

from __future__ import annotations

import numpy as np
import pytest
from baselines.rows import differences, every_row, follow, two_kinds

from bench.baselines.dbm import DBM


def random_model(D, H, G, scale=0.7, **params):
    """Return a model with random parameters."""
    rng = np.random.default_rng(D)
    model = DBM((H, G), dtype="float64", **params)
    model._start(model._begin((rng.random((40, D)) < 0.4).astype(np.uint8), None)[0], rng)
    model.theta_[:] = rng.normal(scale=scale, size=model.n_parameters)
    model.log_z_ = model._exact_log_z()
    return model


def unnormalised(model, x, h, g):
    """Return log p(x, h, g) + log Z of all pairings, (x, h, g)."""
    D = x.shape[1]
    W, V, c, a = model.W_[:D], model.W_[D:], model.c_[:D], model.c_[D:]
    below, above = (x @ c)[:, None] + x @ W @ h.T, (h @ model.b_)[:, None] + (g @ a) + h @ V.T @ g.T
    return below[:, :, None] + above[None]


def by_hand(model, X):
    """Return log p(x) + log Z, from the sum over all states of both hidden layers."""
    log_p = unnormalised(model, X, every_row(model.hidden_sizes[0]), every_row(model.hidden_sizes[1]))
    return np.logaddexp.reduce(log_p.reshape(len(X), -1), axis=1)


def test_log_z_is_the_sum_over_all_states():
    model = random_model(6, 4, 3)
    assert model._exact_log_z() == pytest.approx(np.logaddexp.reduce(by_hand(model, every_row(6))), abs=1e-12)


def test_annealing_finds_log_z():
    model = random_model(12, 14, 8, scale=0.5, exact_units=0, n_chains=200)
    log_z, stderr = model._partition(1000, np.random.default_rng(0))
    assert model.log_likelihood == "estimate of a lower bound"
    assert 0 < stderr < 0.1
    assert log_z == pytest.approx(model._exact_log_z(), abs=4 * stderr)


def test_the_bound_is_below_the_likelihood_and_comes_near_with_many_samples():
    model = random_model(7, 5, 4)
    X = every_row(7)
    truth = by_hand(model, X) - model.log_z_
    one, many = model.score_samples(X, 1), model.score_samples(X, 3000)
    assert model.log_likelihood == "lower bound"
    assert one.mean() < many.mean() < truth.mean() + 0.01
    np.testing.assert_allclose(many, truth, atol=0.1)
    assert many.mean() == pytest.approx(truth.mean(), abs=0.01)


def test_mean_field_climbs_its_bound_and_ends_where_it_no_longer_changes():
    model = random_model(6, 4, 5, scale=1.0)
    X, h, g = every_row(6)[::5], every_row(4), every_row(5)
    log_joint = unnormalised(model, X, h, g)

    def elbo(rounds):
        model.n_mean_field = rounds
        logits, p_h = model._mean_field(X)
        log_q_h = np.log(np.where(h[None], p_h[:, None], 1 - p_h[:, None])).sum(axis=2)
        log_q_g = -np.logaddexp(0, np.where(g[None], -logits[:, None], logits[:, None])).sum(axis=2)
        log_q = log_q_h[:, :, None] + log_q_g[:, None]
        return (np.exp(log_q) * (log_joint - log_q)).sum(axis=(1, 2))

    bounds = np.array([elbo(rounds) for rounds in (1, 2, 3, 10, 200, 201)])
    assert (np.diff(bounds, axis=0) > -1e-12).all()
    np.testing.assert_allclose(bounds[-2], bounds[-1], atol=1e-9)
    assert (bounds < by_hand(model, X)).all()
    assert (bounds[0] < bounds[-1] - 1e-3).any()


def test_the_gradient_is_that_of_the_likelihood_where_mean_field_is_right(monkeypatch):
    model = random_model(4, 3, 2, scale=0.8, gibbs_steps=30, batch_size=60_000)
    model.W_[4:] = 0  # h and g are independent given x
    X = np.tile(every_row(4)[[1, 3, 6, 7, 12]], (12_000, 1))
    gradient = np.empty(model.n_parameters)
    monkeypatch.setattr(DBM, "_centre", lambda *arguments: None)
    model._contrast(X, np.random.default_rng(0), gradient)
    truth = differences(lambda: model._exact_log_z() - np.mean(by_hand(model, X[:5])), model.theta_, step=1e-5)
    assert np.abs(gradient - truth).max() < 4.5 * 0.7 / np.sqrt(len(X))


def test_a_centred_step_is_one_of_the_same_model_in_centred_coordinates():
    model = random_model(5, 4, 3)
    rng, X = np.random.default_rng(0), every_row(5)[3:20]
    v, h = rng.random(8), rng.random(4)

    def loss():
        return model._exact_log_z() - np.mean(by_hand(model, X))

    W, b, c = (part.copy() for part in (model.W_, model.b_, model.c_))
    theta, others = model.theta_.copy(), np.zeros_like(model.theta_)  # W, and biases of units less their offsets
    for own, part in zip(model._views(others), (W, b + v @ W, c + W @ h), strict=True):
        own[:] = part

    def put():
        W, b, c = model._views(others)
        model.W_[:], model.b_[:], model.c_[:] = W, b - v @ W, c - W @ h

    def centred_loss():
        put()
        return loss()

    step = differences(centred_loss, others, step=1e-5)
    others -= 1e-3 * step
    put()
    wanted = model.theta_ - theta
    model.theta_[:] = theta
    gradient = differences(loss, model.theta_, step=1e-5)
    model._centre(gradient, v, h)
    np.testing.assert_allclose(-1e-3 * gradient, wanted, atol=1e-11)


def test_chains_go_on_from_one_mini_batch_to_the_next():
    model = random_model(5, 4, 3, batch_size=20)
    rng, gradient = np.random.default_rng(0), np.empty(model.n_parameters)
    before = model._particles.copy()
    model._contrast(every_row(5)[:8], rng, gradient)
    after = model._particles
    assert before.shape == (20, 8)
    assert (before[:8] != after[:8]).any()
    np.testing.assert_array_equal(before[8:], after[8:])


@pytest.fixture(scope="module")
def trained():
    params = {"learning_rate": 0.1, "batch_size": 50, "max_epochs": 60, "dtype": "float64", "random_state": 0}
    return DBM((5, 5), **params).fit(two_kinds(1000), two_kinds(300, seed=2))


def test_training_finds_what_is_there(trained):
    X_test, mean = two_kinds(1000, seed=1), two_kinds(1000).mean(axis=0)
    independent = np.log(np.where(X_test, mean, 1 - mean)).sum(axis=1).mean()
    assert independent + 1.2 < trained.score(X_test) < (by_hand(trained, X_test) - trained.log_z_).mean() + 0.001


def test_samples_have_the_models_own_probabilities():
    model = random_model(4, 3, 3)
    X = model.sample(10_000, random_state=1, n_steps=60)
    assert X.dtype == np.uint8
    assert follow(X, np.exp(by_hand(model, every_row(4)) - model.log_z_))
    np.testing.assert_array_equal(model.sample(10_000, random_state=1, n_steps=60), X)


@pytest.mark.parametrize("sizes", [(), (5,), (5, 5, 5)])
def test_two_layers_are_demanded(sizes):
    with pytest.raises(ValueError, match="hidden_sizes must name two layers"):
        DBM(sizes)
