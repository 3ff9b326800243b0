"""The RBM: log Z both ways, gradients, chains, training."""

from __future__ import annotations

import numpy as np
import pytest
from baselines.rows import check_samples, differences, every_row, follow, two_kinds

from bench.baselines import rbm, rbm_kernels
from bench.baselines.rbm import RBM


def random_model(D, H, scale=0.5, dtype="float64", **params):
    """Return a model with random parameters, and a base of other marginals than its own."""
    rng = np.random.default_rng(D + H)
    model = RBM(H, dtype=dtype, **params)
    model._start(model._begin(rng.random((50, D)) < 0.4, None)[0], rng)
    model.theta_[:] = rng.normal(scale=scale, size=model.n_parameters)
    model.log_z_ = model._exact_log_z() if min(D, H) <= 15 else 0.0
    return model


def by_hand(model, X):
    """Return log p(x) from the sum over all states of both layers."""
    W, b, c = (a.astype(float) for a in (model.W_, model.b_, model.c_))
    h, x = every_row(len(b)), every_row(len(c))

    def log_p(rows):
        return np.logaddexp.reduce((rows @ c)[:, None] + h @ b + rows @ W @ h.T, axis=1)

    return log_p(X) - np.logaddexp.reduce(log_p(x))


@pytest.mark.parametrize(("D", "H"), [(6, 3), (3, 6), (5, 5), (1, 1)])
def test_a_row_scores_what_the_formula_says(D, H):
    model = random_model(D, H)
    assert model.log_likelihood == "exact"
    log_p = model.score_samples(every_row(D))
    np.testing.assert_allclose(log_p, by_hand(model, every_row(D)), atol=1e-12)
    assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-12)


def test_both_layers_have_the_same_log_z_in_any_number_of_panels_and_blocks(monkeypatch):
    wide, tall = random_model(70, 6), random_model(6, 70)
    tall.W_[:], tall.b_[:], tall.c_[:] = wide.W_.T, wide.c_, wide.b_
    assert tall._exact_log_z() == pytest.approx(wide._exact_log_z(), rel=1e-13)
    assert np.exp(random_model(9, 70).score_samples(every_row(9))).sum() == pytest.approx(1, abs=1e-12)
    log_z = wide._exact_log_z()
    monkeypatch.setattr(rbm, "STATES", 5)
    assert wide._exact_log_z() == pytest.approx(log_z, rel=1e-13)


def test_float32_is_near():
    model = random_model(9, 70, dtype="float32")
    assert np.exp(model.score_samples(every_row(9))).sum() == pytest.approx(1, abs=1e-4)


def hidden(model, X):
    """Return p(h = 1 | x) in panels."""
    p = 1 / (1 + np.exp(-(X @ model.W_ + model.b_)))
    return rbm.panels(p)


def test_the_gradient_is_that_of_the_free_energies():
    model, rng = random_model(70, 67), np.random.default_rng(0)
    X, last = (rng.random((2, 9, 70)) < 0.4).astype(np.uint8)
    gradient = np.empty_like(model.theta_)
    model._gradient(X, hidden(model, X), last, hidden(model, last), gradient)
    n = len(model.theta_)
    places = [0, 66, 67, 64 * 67 + 65, *rng.integers(0, n, 150), *range(n - 140, n, 3)]
    truth = differences(
        lambda: np.mean(model._unnormalised(last)) - np.mean(model._unnormalised(X)), model.theta_, places, 1e-5
    )
    assert gradient[places] == pytest.approx(truth, abs=1e-8)


@pytest.mark.parametrize(("steps", "right"), [(30, True), (1, False)])
def test_long_chains_give_the_gradient_of_the_likelihood_and_short_ones_do_not(steps, right):
    model = random_model(4, 3, scale=0.8, cd_steps=steps)
    X = np.tile(every_row(4)[[1, 3, 6, 7, 12]], (6000, 1))
    gradient = np.empty(model.n_parameters)
    model._contrast(X, np.random.default_rng(0), gradient)
    truth = differences(lambda: model._exact_log_z() - np.mean(model._unnormalised(X[:5])), model.theta_, step=1e-5)
    far = np.abs(gradient - truth).max()
    assert (far < 4.5 * 0.5 / np.sqrt(len(X))) == right  # standard errors are below that of a coin


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_chains_go_where_the_conditionals_say(steps):
    model, n, rows, states = random_model(5, 4, scale=1.0), 20_000, every_row(5), every_row(4)

    def conditionals(logits, drawn):
        return np.exp(-np.logaddexp(0, np.where(drawn[None], -logits[:, None], logits[:, None])).sum(axis=2))

    up = conditionals(rows @ model.W_ + model.b_, states)
    down = conditionals(states @ model.W_.T + model.c_, rows)
    p = np.linalg.matrix_power(up @ down, steps)[11]
    X, rng = np.tile(rows[11], (n, 1)), np.random.default_rng(0)
    last, ends = np.empty_like(X), np.empty((2, 1, n, 64))
    rbm_kernels.chains(X, model._net(), steps, rbm._random_states(1, rng)[0], ends[0], last, ends[1])
    assert follow(last, p)
    for x, p_hidden in zip((X, last), ends, strict=True):
        np.testing.assert_allclose(p_hidden[0, :, :4], hidden(model, x)[0, :, :4], atol=1e-12)


def test_random_numbers_are_those_of_xoshiro():
    state = rbm._random_states(1, np.random.default_rng(0))[0]
    s, wanted = [int(word) for word in state[:, 5]], []
    for _ in range(8):
        total = (s[0] + s[3]) % 2**32
        wanted.append(((total << 7 | total >> 25) + s[0]) % 2**32 // 2 / 2**31)
        t = s[1] << 9 & 0xFFFFFFFF
        s[2], s[3] = s[2] ^ s[0], s[3] ^ s[1]
        s[1], s[0] = s[1] ^ s[2], s[0] ^ s[3]
        s[2], s[3] = s[2] ^ t, (s[3] << 11 | s[3] >> 21) & 0xFFFFFFFF
    drawn = np.empty((2, 64))
    for u in drawn:
        rbm_kernels.uniforms(u, state)
    assert list(drawn.reshape(8, 16)[:, 5]) == wanted


@pytest.mark.parametrize("scale", [0.2, 1.0])
def test_annealing_finds_log_z(scale):
    model = random_model(40, 15, scale=scale, exact_units=0, n_chains=200)
    log_z, stderr = model._partition(1000, np.random.default_rng(0))
    assert model.log_likelihood == "estimate"
    assert 0 < stderr < 0.1
    assert log_z == pytest.approx(model._exact_log_z(), abs=4 * stderr)


def test_the_standard_error_is_that_of_repeated_estimates():
    model = random_model(10, 8, scale=0.8, exact_units=0, n_chains=100)
    runs = np.array([model._partition(10, np.random.default_rng(seed)) for seed in range(200)])
    assert np.mean(runs[:, 1]) == pytest.approx(np.std(runs[:, 0]), rel=0.2)
    z = np.exp(runs[:, 0] - model._exact_log_z())
    assert z.mean() == pytest.approx(1, abs=4 * z.std() / np.sqrt(200))  # the estimate of Z is unbiased at any temperatures


def test_temperatures_go_from_0_to_1_most_of_them_next_to_1():
    betas = rbm._temperatures(14_500)
    np.testing.assert_allclose(betas[[0, 500, 4500, 14_500]], [0, 0.5, 0.9, 1])
    assert np.diff(betas).min() > 0
    assert list(rbm._temperatures(0)) == [0]


def test_steps_have_momentum_and_become_smaller(monkeypatch):
    seen = []

    def contrast(self, x, rng, gradient):
        seen.append(self.theta_.copy())
        gradient[:] = 2

    monkeypatch.setattr(RBM, "_contrast", contrast)
    model = RBM(2, learning_rate=0.4, momentum=0.5, batch_size=20, max_epochs=2, dtype="float64").fit(two_kinds(40))
    steps = -np.diff([*seen, model.theta_], axis=0)
    np.testing.assert_allclose(steps, np.broadcast_to(np.array([[0.8], [1.2], [1.0], [0.9]]), steps.shape))


@pytest.fixture(scope="module")
def trained():
    params = {"learning_rate": 0.5, "momentum": 0.5, "batch_size": 50, "cd_steps": 5, "max_epochs": 20, "dtype": "float64"}
    return RBM(3, **params, n_temperatures=500, exact_units=0, random_state=0).fit(two_kinds(1000))


def test_training_finds_what_is_there(trained):
    X_test, mean = two_kinds(1000, seed=1), two_kinds(1000).mean(axis=0)
    independent = np.log(np.where(X_test, mean, 1 - mean)).sum(axis=1).mean()
    assert trained.score(X_test) > independent + 1.2
    mu = np.where(np.array([[True], [False]]) == (np.arange(8) < 4), 0.9, 0.05)
    truth = np.log(np.where(X_test[:, None], mu, 1 - mu)).sum(axis=2) + np.log([0.3, 0.7])
    assert trained.score(X_test) == pytest.approx(np.logaddexp.reduce(truth, axis=1).mean(), abs=0.05)


def test_a_trained_model_knows_how_true_its_scores_are(trained):
    assert trained.log_likelihood == "estimate"
    assert trained.log_z_ == pytest.approx(trained._exact_log_z(), abs=4 * trained.log_z_stderr_)
    assert 0 < trained.log_z_stderr_ < 0.05
    one = RBM(3, exact_units=0, n_chains=1, n_temperatures=9, max_epochs=1, dtype="float64").fit(two_kinds(50))
    assert one.log_z_stderr_ == np.inf


def test_samples_have_the_models_own_probabilities():
    model = random_model(5, 3, scale=0.8)  # one whose chains mix
    check_samples(model, 5, 10_000, n_steps=60)
    assert model.sample(3, n_steps=1).shape == (3, 5)


def test_the_best_epoch_by_the_validation_rows_is_kept(monkeypatch):
    seen = []
    log_z = RBM._exact_log_z
    X, X_val = two_kinds(40), two_kinds(500, seed=1)

    def watch(self):
        seen.append(log_z(self) - self._unnormalised(X_val).mean())
        return log_z(self)

    monkeypatch.setattr(RBM, "_exact_log_z", watch)
    params = {"learning_rate": 0.5, "batch_size": 10, "cd_steps": 3, "dtype": "float64", "random_state": 1}
    model = RBM(12, **params, max_epochs=60, patience=4).fit(X, X_val)
    *epochs, last = seen
    assert model.best_epoch_ == 1 + np.argmin(epochs) < 50
    assert len(epochs) == model.best_epoch_ + 4
    assert -model.score(X_val) == pytest.approx(min(epochs), abs=1e-12) == pytest.approx(last, abs=1e-12)
