"""Turns of masks: which connectivity a step is made under, what it changes, and what rows with missing entries get."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from fits import ONE_STEP, initial, parameters, rows, shared_matrices, small, trainer_of
from helpers import all_inputs
from scipy.stats import chisquare

from made_fast import MADE, MADEModel
from made_fast.network.masks import Connectivity
from made_fast.network.network import Shared
from made_fast.training.turns import Turns


def spy_on_steps(monkeypatch):
    """Return a list that will hold (orders, groups, rows) of every call into the training kernel of shared parameters."""
    seen, take = [], Turns.take

    def spy(self, *args):
        part, turn = take(self, *args)
        assert len(turn.masks.orders) == len(turn.masks.layers)
        seen.append((turn.masks.orders.copy(), turn.groups.copy(), part.copy()))
        return part, turn

    monkeypatch.setattr(Turns, "take", spy)
    return seen


@pytest.mark.parametrize("hidden_sizes", [(), (6,), (5, 6)])
def test_what_is_dead_under_all_masks_stays_and_all_else_learns(hidden_sizes):
    D, K = 8, 2
    params = {
        "hidden_sizes": hidden_sizes, "activation": "tanh", "optimizer": "sgd", "learning_rate": 0.1, "n_masks": K,
        "batch_size": 25, "direct_connections": "all", "connectivity_weights": True, "random_state": 1, "dtype": "float64",
        "max_epochs": 2, "bias_init": "zeros",
    }  # fmt: skip
    X = (np.random.default_rng(0).random((100, D)) < 0.5).astype(np.uint8)
    before, after = initial(params, X), MADE(**params).fit(X)
    a = after.model_.architecture
    n_chain = len(hidden_sizes) + 1
    learns = [np.zeros(W.shape, bool) for W, _, _ in shared_matrices(a, parameters(after))]
    live = [np.zeros(W.shape, bool) for W, _, _ in shared_matrices(a, parameters(after))]
    for k in range(K):
        net = after.model_.to_dense(k)
        degrees = [*net["degrees"], net["ordering"] - 1]
        masks = [M.astype(bool) for M in net["masks"]]
        masks += [degrees[l][:, None] >= net["ordering"] for l in range(1, n_chain)]  # of direct connections
        useful = [np.ones(D, bool)]
        for M in masks[n_chain - 1 : 0 : -1]:
            useful.insert(0, M[useful[0]].any(axis=0))
        useful += useful[1:]
        for l, M in enumerate(masks):
            live[l] |= M
            learns[l] |= M & useful[l][:, None]
    for l, ((W0, b0, U0), (W1, b1, U1)) in enumerate(
        zip(shared_matrices(a, parameters(before)), shared_matrices(a, parameters(after)), strict=True)
    ):
        assert (~live[l]).any()
        assert learns[l].any()
        assert (W0 != 0).all()
        assert (W1[~live[l]] == W0[~live[l]]).all()
        assert (W1[learns[l]] != W0[learns[l]]).all()
        if l < n_chain:
            assert (b0 == 0).all()
            assert b1.any()
            assert (U0 == 0).all()
            assert (U1[~live[l]] == 0).all()
            assert (U1[learns[l]] != 0).all()


@pytest.mark.parametrize("n_masks", [1, 3, 40])
def test_masks_take_turns_and_those_trained_are_those_evaluated(monkeypatch, n_masks):
    seen = spy_on_steps(monkeypatch)
    made = small(n_masks=n_masks, connectivity_weights=True, max_epochs=5).fit(rows(150))
    assert trainer_of(made).masks is made.model_.masks
    assert made.model_.n_masks == n_masks
    turns = np.concatenate([groups[:, 2] for _, groups, _ in seen])
    assert (turns == np.arange(5 * 8) % n_masks).all()
    for orders, _, _ in seen:
        assert (orders[:, :12] == np.argsort(made.model_.masks.orderings, axis=1)).all()
        for k in range(n_masks):
            for m, order in zip(made.model_.masks.degrees, np.split(orders[k, 12:], [10]), strict=True):
                assert (np.diff(m[k][order]) >= 0).all()


def all_turns(monkeypatch, made, X):
    """Return the connectivity of every step, as the order of inputs and units that the kernel was given."""
    seen = spy_on_steps(monkeypatch)
    made.fit(X)
    return np.concatenate([orders[groups[:, 2]] for orders, groups, _ in seen])


def test_no_two_steps_share_a_connectivity_when_masks_are_fresh(monkeypatch):
    turns = all_turns(monkeypatch, small(n_masks=None, max_epochs=6), rows(300))  # 15 steps an epoch: 32 is in the middle
    assert len(turns) == 90
    assert (turns[1:, :12] != turns[:-1, :12]).any(axis=1).all()
    assert (turns[1:, 12:] != turns[:-1, 12:]).any(axis=1).all()
    assert len(np.unique(turns, axis=0)) == 90


@pytest.mark.parametrize("resample", ["both", "order"])
@pytest.mark.parametrize("missing", [False, True])
def test_fresh_orderings_are_uniform(monkeypatch, resample, missing):
    made = small(hidden_sizes=(3,), n_masks=None, resample=resample, batch_size=1, max_epochs=10)
    X = np.tile(all_inputs(3), (75, 1)).astype(float)
    if missing:
        X[::2, 1] = np.nan
    turns = all_turns(monkeypatch, made, X)
    assert len(turns) == 6000
    if missing:  # half of them have input 1 last, for the rows that lack it; that says nothing of the other two
        last = turns[:, 2] == 1
        assert abs(last.mean() - (1 / 2 + 1 / 6)) < 0.03
        counts = [(turns[last, 0] == 0).sum(), (turns[last, 0] == 2).sum()]
    else:
        counts = np.unique(turns[:, :3], axis=0, return_counts=True)[1]
        assert len(counts) == 6
    assert chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("resample", ["both", "order", "connectivity"])
def test_resample_says_what_varies_in_training_and_evaluation(monkeypatch, resample):
    turns = all_turns(monkeypatch, small(n_masks=None, resample=resample, max_epochs=3), rows(200))
    assert (len(np.unique(turns[:, :12], axis=0)) == 1) == (resample == "connectivity")
    assert (len(np.unique(turns[:, 12:], axis=0)) == 1) == (resample == "order")
    places = list(range(12, 0, -1))
    for n_masks in (5, None):
        made = small(n_masks=n_masks, n_eval_masks=5, resample=resample, ordering=places, max_epochs=1).fit(rows(40))
        masks = made.model_.masks
        assert len(masks) == 5
        assert masks.orderings[0].tolist() == places
        assert (masks.orderings == places).all() == (resample == "connectivity")
        assert all((m == m[0]).all() == (resample == "order") for m in masks.degrees)


def missing_last(connectivity, missing):
    """Return the connectivity with the missing inputs moved to the end of its ordering, all else as it was."""
    order = np.argsort(connectivity.ordering)
    order = np.concatenate([order[~missing[order]], order[missing[order]]])
    ordering = np.empty(len(order), np.int32)
    ordering[order] = np.arange(1, len(order) + 1)
    return Connectivity(ordering, connectivity.degrees)


def log_p_observed(model, connectivity, x):
    """Return log p of what is there of row x, all else summed out, from plain arrays of the network."""
    missing = np.isnan(x)
    net = model.to_dense(missing_last(connectivity, missing))
    X = all_inputs(len(x)).astype(float)
    X = X[np.equal(X, x)[:, ~missing].all(axis=1)]
    a, last = X, len(net["weights"]) - 1
    for l, (W, b, A) in enumerate(zip(net["weights"], net["biases"], net["direct"], strict=True)):
        z = a @ W.T + b + (0 if A is None else X @ A.T)
        a = z if l == last else np.tanh(z)
    return np.logaddexp.reduce(-np.logaddexp(0, np.where(X == 1, -a, a)).sum(axis=1))


@pytest.mark.parametrize("n_masks", [1, 3])
@pytest.mark.parametrize(
    "more", [{}, {"hidden_sizes": ()}, {"direct_connections": "all", "connectivity_weights": True}], ids=str
)
def test_the_loss_of_incomplete_rows_is_that_of_what_is_there(n_masks, more):
    """With p(observed) of each row from enumeration, under the mask whose turn it is and with what the row lacks last."""
    D, n = 6, 40
    X = rows(n, D, missing=0.3)
    X[0], X[1] = np.nan, rows(1, D)[0]  # nothing there; all there
    assert len(np.unique(np.isnan(X), axis=0)) > 15
    params = {**ONE_STEP, "hidden_sizes": (8, 7), "n_masks": n_masks, "max_epochs": 4, **more}
    params["learning_rate_schedule"] = lambda epoch: 0.0
    weights = np.random.default_rng(3).random(n)
    for batch_size, sample_weight in ((n, None), (n, weights), (11, None)):
        made = MADE(**{**params, "batch_size": batch_size}).fit(X, sample_weight=sample_weight)
        log_p = np.array([[log_p_observed(made.model_, made.model_.masks[k], x) for x in X] for k in range(n_masks)])
        assert log_p[0, 0] == pytest.approx(0, abs=1e-12)
        counts = np.ones(n) if sample_weight is None else weights
        if batch_size == n:  # epoch e is one step, under mask e
            expected = [-np.mean(counts * log_p[e % n_masks]) for e in range(4)]
        elif n_masks == 1:
            expected = [-np.mean(log_p[0])] * 4
        else:
            continue
        np.testing.assert_allclose([record["train_nll"] for record in made.history_], expected, rtol=1e-12)


def test_the_gradient_of_incomplete_rows_is_that_of_what_is_there():
    """One step of gradient descent against finite differences of the enumerated log p(observed)."""
    lr, eps = 0.5, 1e-5
    X = np.array([[1, 0, np.nan, 1], [np.nan, 1, 1, np.nan], [0, 0, 1, 1], [np.nan, np.nan, np.nan, 0], [1, 0, np.nan, 0]])
    params = {**ONE_STEP, "hidden_sizes": (5,), "connectivity_weights": True, "direct_connections": "output"}
    params["learning_rate"] = lr
    before, after = initial(params, X), MADE(**params).fit(X)
    a, start, connectivity = before.model_.architecture, parameters(before), before.model_.masks[0]

    def nll(values):
        model = MADEModel(Shared(a, values), before.model_.masks)
        return -np.mean([log_p_observed(model, connectivity, x) for x in X])

    assert before.history_[0]["train_nll"] == pytest.approx(nll(start), rel=1e-12)
    inside = np.zeros(len(start), bool)
    for part in itertools.chain(*shared_matrices(a, np.arange(len(start)))):
        if part is not None:
            inside[part] = True
    gradient = np.zeros(len(start))
    for i in np.flatnonzero(inside):
        for sign in (1, -1):
            values = start.copy()
            values[i] += sign * eps
            gradient[i] += sign * nll(values) / (2 * eps)
    assert (np.abs(gradient) > 1e-4).sum() > 25
    np.testing.assert_allclose(parameters(after), start - lr * gradient, atol=1e-8)


@pytest.mark.parametrize("options", [{"n_masks": None}, {"n_masks": 4}, {"n_masks": 1}], ids=str)
def test_training_on_incomplete_rows_learns_about_complete_ones(options):
    X, X_test = rows(2000, missing=0.2), rows(1000, seed=1)
    made = small(hidden_sizes=(60,), max_epochs=25, **options).fit(X)
    p = (np.nansum(X, axis=0) + 1) / ((~np.isnan(X)).sum(axis=0) + 2)
    independent = np.log(np.where(X_test == 1, p, 1 - p)).sum(axis=1).mean()
    assert made.score(X_test) > independent + 1
    assert made.history_[-1]["train_nll"] < made.history_[0]["train_nll"] - 0.5
    assert abs(np.exp(made.score_samples(all_inputs(12))).sum() - 1) < 1e-5


def test_complete_rows_among_masks_that_could_vary_train_as_ever(monkeypatch):
    """Where nothing is missing there is one group a step; where something is, rows of a pattern go together."""
    seen = spy_on_steps(monkeypatch)
    small(n_masks=2, max_epochs=1).fit(rows(50))
    assert sum(len(groups) for _, groups, _ in seen) == 3
    assert all((groups[:, 4] == np.arange(len(groups))).all() for _, groups, _ in seen)
    assert all((groups[:, 3] == 12).all() for _, groups, _ in seen)
    seen.clear()
    X = rows(50).astype(float)
    X[:25, 3], X[10:40, 5] = np.nan, np.nan
    small(n_masks=2, max_epochs=1).fit(X)
    done = 0
    for orders, groups, chosen in seen:
        assert (groups[:, 0] == np.append(0, groups[:-1, 1])).all()
        for k, (first, stop, mask, n_there, _, _) in enumerate(groups):
            missing = np.isnan(X[chosen[first:stop]])
            assert (missing == missing[0]).all()  # one pattern
            assert n_there == 12 - missing[0].sum()
            assert set(orders[mask, n_there:12]) == set(np.flatnonzero(missing[0]))
            assert mask == k
        done += len(chosen)
    assert done == 50


def test_a_table_may_miss_something_later_where_masks_vary():
    made = small(n_masks=None).partial_fit(rows(60))
    made.partial_fit(rows(60, missing=0.3)).partial_fit(rows(60)).partial_fit(rows(60, missing=0.3, seed=1))
    assert len(made.history_) == 4
    assert np.isfinite(parameters(made)).all()
