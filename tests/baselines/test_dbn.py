"""The DBN: its bound against the sum over all hidden states, greedy training, samples."""

from __future__ import annotations

import numpy as np
import pytest
from baselines.rows import every_row, follow, two_kinds

from bench.baselines import posterior
from bench.baselines.dbn import DBN


def random_model(D, H, G, scale=0.7, **params):
    """Return a model with random parameters in both RBMs."""
    rng = np.random.default_rng(D)
    X = (rng.random((40, D)) < 0.4).astype(np.uint8)
    model = DBN((H, G), 1, max_epochs=1, dtype="float64", random_state=0, **params).fit(X)
    for layer in (model.lower_, model.upper_):
        layer.theta_[:] = rng.normal(scale=scale, size=layer.n_parameters)
    model.upper_.log_z_ = model.upper_._exact_log_z()
    return model


def by_hand(model, X):
    """Return log p(x), the sum over all states of the first hidden layer."""
    W, c = model.lower_.W_, model.lower_.c_
    h = every_row(W.shape[1])
    z = c + h @ W.T
    log_p = X @ z.T - np.logaddexp(0, z).sum(axis=1) + model.upper_.score_samples(h)
    return np.logaddexp.reduce(log_p, axis=1)


def test_the_bound_is_below_the_likelihood_and_comes_near_with_many_samples():
    model = random_model(7, 5, 4)
    X = every_row(7)
    truth = by_hand(model, X)
    assert np.exp(truth).sum() == pytest.approx(1, abs=1e-12)
    one, many = model.score_samples(X, 1), model.score_samples(X, 3000)
    assert one.mean() < many.mean() < truth.mean() + 0.01
    np.testing.assert_allclose(many, truth, atol=0.3)
    assert many.mean() == pytest.approx(truth.mean(), abs=0.02)


def test_one_sample_gives_the_variational_bound():
    model = random_model(6, 4, 3)
    X, h, n = every_row(6), every_row(4), 3000
    a = X @ model.lower_.W_ + model.lower_.b_
    log_q = -np.logaddexp(0, np.where(h[None], -a[:, None], a[:, None])).sum(axis=2)
    joint = np.array([[model._log_joint(x[None], state[None])[0] for state in h] for x in X])
    wanted = (np.exp(log_q) * (joint - log_q)).sum(axis=1)
    drawn = np.zeros(len(X))
    for seed in range(n):
        model._seed = seed
        drawn += model.score_samples(X, 1) / n
    spread = np.sqrt((np.exp(log_q) * (joint - log_q) ** 2).sum(axis=1) - wanted**2)
    assert (np.abs(drawn - wanted) < 4.5 * spread / np.sqrt(n) + 1e-9).all()
    assert (wanted < by_hand(model, X)).all()


def test_with_the_lower_rbm_upside_down_on_top_it_is_that_rbm():
    model = random_model(6, 4, 6)
    lower, upper = model.lower_, model.upper_
    upper.W_[:], upper.b_[:], upper.c_[:] = lower.W_.T, lower.c_, lower.b_
    lower.log_z_ = upper.log_z_ = lower._exact_log_z()
    X = every_row(6)
    np.testing.assert_allclose(model.score_samples(X, 1), lower.score_samples(X), atol=1e-12)  # whatever h is drawn


@pytest.fixture(scope="module")
def trained():
    params = {"learning_rate": 0.5, "batch_size": 50, "max_epochs": 30, "dtype": "float64", "random_state": 0}
    return DBN((6, 6), 5, **params).fit(two_kinds(1000), two_kinds(300, seed=2))


def test_training_finds_what_is_there(trained):
    X_test, mean = two_kinds(1000, seed=1), two_kinds(1000).mean(axis=0)
    independent = np.log(np.where(X_test, mean, 1 - mean)).sum(axis=1).mean()
    assert trained.log_likelihood == "lower bound"
    assert independent + 1.1 < trained.score(X_test) < by_hand(trained, X_test).mean() + 0.002
    assert by_hand(trained, every_row(8)) == pytest.approx(trained.score_samples(every_row(8), 2000), abs=0.3)


def test_where_log_z_is_estimated_so_is_the_bound():
    model = random_model(9, 12, 12, scale=0.4, exact_units=0, n_chains=200, n_temperatures=2000)
    assert model.log_likelihood == "estimate of a lower bound"
    exact, upper = model.score(every_row(9)), model.upper_
    upper.log_z_, stderr = upper._partition(2000, np.random.default_rng(0))
    assert 0 < stderr < 0.1
    assert model.score(every_row(9)) == pytest.approx(exact, abs=4 * stderr)


def test_samples_have_the_models_own_probabilities():
    model = random_model(4, 3, 3)
    X = model.sample(10_000, random_state=1, n_steps=60)
    assert X.dtype == np.uint8
    assert follow(X, np.exp(by_hand(model, every_row(4))))
    np.testing.assert_array_equal(model.sample(10_000, random_state=1, n_steps=60), X)


def test_blocks_of_rows_change_draws_only(monkeypatch):
    model = random_model(7, 5, 4)
    X = every_row(7)
    whole = model.score(X)
    monkeypatch.setattr(posterior, "ROWS", 5)
    assert model.score(X) == pytest.approx(whole, abs=0.05)


@pytest.mark.parametrize("sizes", [(), (5,), (5, 5, 5)])
def test_two_layers_are_demanded(sizes):
    with pytest.raises(ValueError, match="hidden_sizes must name two layers"):
        DBN(sizes)
