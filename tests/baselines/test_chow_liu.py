"""The mixture of Chow-Liu trees: its scores, the tree, EM, its samples."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from baselines.rows import check_samples, every_row, some_rows, two_kinds

from bench.baselines.chow_liu import ChowLiuMixture, mutual_information, spanning_tree


def by_hand(model, X):
    """Return log p(x, k), (n, K), an input after the other."""
    out = np.tile(model.log_weights_, (len(X), 1))
    for k, parents in enumerate(model.parents_):
        for d, above in enumerate(parents):
            p = 1 / (1 + np.exp(-model.log_odds_[k, d, X[:, above]]))
            out[:, k] += np.log(np.where(X[:, d], p, 1 - p))
    return out


def chain(n, D=7, seed=0):
    """Return rows (n, D) each of whose inputs is the one before, but for one in ten."""
    flips = np.random.default_rng(seed).random((n, D)) < np.r_[0.5, np.full(D - 1, 0.1)]
    return (np.cumsum(flips, axis=1) % 2).astype(np.uint8)


@pytest.mark.parametrize(
    ("n_components", "X"), [(1, chain(100)), (5, some_rows(200, 8)), (30, two_kinds(10)), (3, chain(9, 1))]
)
def test_probabilities_of_all_rows_sum_to_one(n_components, X):
    model = ChowLiuMixture(n_components, random_state=0, max_epochs=20).fit(X)
    log_p = model.score_samples(every_row(X.shape[1]))
    assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(log_p, np.logaddexp.reduce(by_hand(model, every_row(X.shape[1])), axis=1), rtol=1e-9)


def test_inputs_that_never_change_are_still_possible():
    X = np.tile(np.array([[0, 1, 0, 0, 0, 1]], np.uint8), (1000, 1))
    log_p = ChowLiuMixture(4, random_state=0, max_epochs=20).fit(X).score_samples(every_row(6))
    assert np.isfinite(log_p).all()
    assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-12)


def test_the_information_of_a_pair_is_that_of_its_table():
    X = some_rows(50, 5)
    both = (X.T.astype(float) @ X + 0.5) / 52
    np.fill_diagonal(both, (X.sum(axis=0) + 1) / 52)
    found = mutual_information(both)
    for i, j in itertools.combinations(range(5), 2):
        table = np.array([[np.sum((X[:, i] == a) & (X[:, j] == b)) + 0.5 for b in (0, 1)] for a in (0, 1)]) / 52
        independent = table.sum(axis=1, keepdims=True) * table.sum(axis=0)
        assert found[i, j] == pytest.approx((table * np.log(table / independent)).sum())


def test_no_other_tree_weighs_more():
    weight = np.random.default_rng(0).random((5, 5))
    weight += weight.T
    parents = spanning_tree(weight)

    def reaches_the_root(tree):
        for d in range(5):
            for _ in range(5):
                d = tree[d]
            if d != 0:
                return False
        return True

    others = [t for t in itertools.product(range(5), repeat=5) if t[0] == 0 and reaches_the_root(t)]
    assert len(others) == 5**3  # Cayley
    weights = [sum(weight[d, t[d]] for d in range(1, 5)) for t in others]
    assert sum(weight[d, parents[d]] for d in range(1, 5)) == max(weights)


def test_one_component_is_the_tree_of_the_rows():
    X = chain(5000)
    model = ChowLiuMixture(1, random_state=0).fit(X)
    assert model.parents_.tolist() == [[0, *range(6)]]
    np.testing.assert_allclose(1 / (1 + np.exp(-model.log_odds_[0, 1:])), np.tile([0.1, 0.9], (6, 1)), atol=0.02)
    truth = np.log(2) - 6 * (0.1 * np.log(0.1) + 0.9 * np.log(0.9))
    assert -model.score(chain(5000, seed=1)) == pytest.approx(truth, abs=0.06)


def test_a_step_takes_counts_of_shares():
    X = some_rows(60, 5)
    model = ChowLiuMixture(3, 0.7, random_state=0, max_epochs=1).fit(X)
    joint = by_hand(model, X)
    share = np.exp(joint - np.logaddexp.reduce(joint, axis=1)[:, None])
    model._step(X.astype(float))
    np.testing.assert_allclose(np.exp(model.log_weights_), (share.sum(axis=0) + 0.7) / (60 + 3 * 0.7))
    for k, parents in enumerate(model.parents_):
        for d, above in list(enumerate(parents))[1:]:
            for value in (0, 1):
                rows = X[:, above] == value
                of_one, of_zero = (
                    share[rows & (X[:, d] == x), k].sum() + 0.7 * (np.sum(rows & (X[:, d] == x)) + 0.5) / 62 for x in (1, 0)
                )
                assert model.log_odds_[k, d, value] == pytest.approx(np.log(of_one / of_zero))


def test_steps_never_lower_the_posterior():
    X = some_rows(150, 8).astype(float)
    model = ChowLiuMixture(4, random_state=0, max_epochs=1).fit(X)
    climb = [model._step(X) for _ in range(30)]
    assert np.diff(climb).min() > -1e-9
    assert climb[-1] > climb[0] + 0.1


def test_two_trees_are_better_than_one_on_rows_of_two_kinds():
    X, X_test = (np.vstack([chain(1500, seed=s), 1 - chain(1500, seed=s + 1)[:, ::-1] * (np.arange(7) % 2)]) for s in (0, 5))
    one, two = (ChowLiuMixture(K, random_state=0).fit(X).score(X_test) for K in (1, 2))
    assert two > one + 0.3


def test_samples_have_the_models_own_probabilities():
    check_samples(ChowLiuMixture(3, random_state=0).fit(some_rows(300, 5)), 5)


def test_threads_change_no_bit_and_fits_begin_anew():
    X, X_val = some_rows(100, 8), some_rows(100, 8, seed=1)
    one, two = (ChowLiuMixture(3, n_threads=n, random_state=0).fit(X, X_val) for n in (1, 2))
    np.testing.assert_array_equal(one.theta_, two.theta_)
    two.fit(X[:, :4]).fit(X, X_val)
    np.testing.assert_array_equal(one.score_samples(X), two.score_samples(X))
    assert one.n_parameters == 3 - 1 + 3 * (2 * 8 - 1)


def test_validation_rows_say_when_to_stop():
    X, X_val = some_rows(40, 8), some_rows(300, 8, seed=1)
    model = ChowLiuMixture(10, 0.1, random_state=0, max_epochs=60, patience=5).fit(X, X_val)
    assert model.best_epoch_ < 55
    assert model.score(X_val) > ChowLiuMixture(10, 0.1, random_state=0, max_epochs=60).fit(X).score(X_val)


def test_what_is_refused():
    with pytest.raises(ValueError, match="smoothing"):
        ChowLiuMixture(smoothing=0)
    with pytest.raises(TypeError, match="n_components"):
        ChowLiuMixture(2.5)
    with pytest.raises(ValueError, match="X must hold only 0 and 1"):
        ChowLiuMixture().fit(some_rows(5, 3) + 1)
