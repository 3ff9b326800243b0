"""EoNADE: it sums to 1 under every ordering and mixed, its gradient is that of its loss, its samples follow the mixture."""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest
from baselines.rows import check_samples, differences, every_row, some_rows

from bench.baselines import eonade
from bench.baselines.eonade import EoNADE
from bench.baselines.trained import in_halves
from made_fast.kernels.layout import ACTIVATIONS

RELU, SIGMOID = ACTIVATIONS.index("relu"), ACTIVATIONS.index("sigmoid")
LAYERS = pytest.mark.parametrize("hidden_sizes", [(5,), (70,), (5, 4)])


def random_eonade(hidden_sizes, D=7, scale=0.5, **params):
    """Return an EoNADE with random parameters that are far from where training starts."""
    model = EoNADE(hidden_sizes, max_epochs=1, random_state=0, **params).fit(some_rows(200, D))
    model.theta_[:] = np.random.default_rng(1).normal(scale=scale, size=len(model.theta_))
    return model


@LAYERS
@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_probabilities_sum_to_one_under_every_ordering_and_mixed(hidden_sizes, activation):
    model = random_eonade(hidden_sizes, activation=activation, dtype="float64", n_orderings=5)
    X, layers, code = every_row(7), eonade.views(model.theta_, (14, *hidden_sizes, 7)), ACTIVATIONS.index(activation)
    by_ordering = [np.exp(eonade.log_p(layers, order, X, code, 1)) for order in model.orderings()]
    assert np.sum(by_ordering, axis=1) == pytest.approx(np.ones(5), abs=1e-12)
    mixture = np.exp(model.score_samples(X))
    assert mixture == pytest.approx(np.mean(by_ordering, axis=0), abs=1e-12)
    assert mixture.sum() == pytest.approx(1, abs=1e-12)
    assert np.ptp(by_ordering, axis=0).max() > 1e-3  # they are different models


@LAYERS
@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_the_likelihood_is_what_a_full_pass_a_place_gives(hidden_sizes, activation):
    model = random_eonade(hidden_sizes, activation=activation, dtype="float64", n_orderings=2)
    layers = eonade.views(model.theta_, (14, *hidden_sizes, 7))
    g = (lambda a: np.maximum(a, 0)) if activation == "relu" else (lambda a: 1 / (1 + np.exp(-a)))
    X = some_rows(20, 7)
    for order in model.orderings():
        expected = np.zeros(20)
        for p in range(7):
            given = np.isin(np.arange(7), order[:p])
            h = np.hstack([X * given, np.tile(given, (20, 1))]).astype(float)
            for W, b in layers[:-1]:
                h = g(h @ W + b)
            z = h @ layers[-1][0] + layers[-1][1]
            bit = X[:, order[p]]
            expected -= np.logaddexp(0, np.where(bit, -1, 1) * z[:, order[p]])
        code = ACTIVATIONS.index(activation)
        assert eonade.log_p(layers, order, X, code, 1) == pytest.approx(expected, abs=1e-11)
        assert eonade.walk(layers, order, X, code) == pytest.approx(expected, abs=1e-11)


@pytest.mark.parametrize("hidden_sizes", [(5,), (4, 3), (4, 3, 3)])
@pytest.mark.parametrize("code", [RELU, SIGMOID])
def test_the_gradient_is_that_of_the_loss(hidden_sizes, code):
    rng, sizes = np.random.default_rng(0), (12, *hidden_sizes, 6)
    theta = rng.normal(scale=0.7, size=sum((a + 1) * b for a, b in pairwise(sizes)))
    layers, out = eonade.views(theta, sizes), np.empty_like(theta)
    x, given = some_rows(8, 6), eonade.draw_given(8, 6, rng)
    loss = eonade.gradient(layers, x, given, code, 0.25, eonade.views(out, sizes))
    assert loss == eonade.gradient(layers, x, given, code, 0.0, None)
    truth = differences(lambda: eonade.gradient(layers, x, given, code, 0.0, None), theta)
    assert out == pytest.approx(0.25 * truth, abs=1e-7)


def test_the_loss_is_in_the_mean_the_nll_over_all_orderings():
    D = 4
    model = random_eonade((5,), D=D, dtype="float64")
    layers = eonade.views(model.theta_, (2 * D, 5, D))
    x = some_rows(1, D)
    nll = -np.mean([eonade.log_p(layers, np.array(order), x, RELU, 1) for order in permutations(range(D))])
    expected = 0.0
    for n_given in range(D):  # the number of given inputs is uniform, and so is the set
        sets = [given for given in every_row(D).astype(bool) if given.sum() == n_given]
        expected += np.mean([eonade.gradient(layers, x, given[None], RELU, 0.0, None) for given in sets]) / D
    assert expected == pytest.approx(nll, abs=1e-12)


@pytest.mark.parametrize("n_rows", [1, 2, 7])
def test_the_gradient_of_two_halves_is_that_of_the_whole(n_rows):
    rng, sizes = np.random.default_rng(0), (12, 5, 6)
    theta = rng.normal(size=13 * 5 + 6 * 6)
    layers, whole, out, spare = eonade.views(theta, sizes), *np.empty((3, len(theta)))
    x, given = some_rows(n_rows, 6), eonade.draw_given(n_rows, 6, rng)

    def half(rows, out):
        return eonade.gradient(layers, x[rows], given[rows], RELU, 1.0, eonade.views(out, sizes))

    loss = half(slice(None), whole)
    for n_threads in (1, 2):
        assert in_halves(half, n_rows, out, spare, n_threads) == pytest.approx(loss)
        assert out == pytest.approx(whole)


def test_sets_of_given_inputs_are_uniform_in_size_and_by_input():
    given = eonade.draw_given(40_000, 5, np.random.default_rng(0))
    assert np.bincount(given.sum(axis=1), minlength=6) / 40_000 == pytest.approx([0.2] * 5 + [0], abs=0.01)
    assert given.mean(axis=0) == pytest.approx(np.full(5, 0.4), abs=0.01)


@pytest.mark.parametrize("hidden_sizes", [(6,), (6, 5)])
def test_samples_follow_the_mixture(hidden_sizes):
    model = random_eonade(hidden_sizes, D=6, scale=0.7, n_orderings=3)
    check_samples(model, 6)


def test_fewer_orderings_are_the_first_of_more():
    model = random_eonade((5,), n_orderings=8)
    assert (model.orderings() == model.orderings(20)[:8]).all()
    assert (np.sort(model.orderings(20), axis=1) == np.arange(7)).all()
    X = some_rows(30, 7)
    assert (model.score_samples(X, n_orderings=8) == model.score_samples(X)).all()
    assert (model.score_samples(X, n_orderings=3) != model.score_samples(X)).any()


def test_one_input_and_one_row_are_enough():
    model = EoNADE((3,), max_epochs=2, random_state=0, dtype="float64").fit([[1]], [[1]])
    assert np.exp(model.score_samples([[0], [1]])).sum() == pytest.approx(1)
