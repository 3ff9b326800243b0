"""Questions about rows with missing inputs, against enumeration of the answering member as ``to_dense`` writes it out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import assert_drawn_from, python, random_model
from query_cases import EVERY, MODELS, D, every_kind, fits, greedy, joint, make, mixture, rows_of, some_members

from made_fast import MADEModel, MixtureModel

ANY_ORDER = [name for name in MODELS if name.startswith("unlimited") and name != "unlimited degrees"]
FIXED = [name for name in MODELS if name not in ANY_ORDER]


# Which connectivity answers


@pytest.mark.parametrize("name", ANY_ORDER)
def test_the_answering_connectivity_has_the_observed_inputs_first(name):
    model, again = make(name), make(name)
    for row in rows_of(model):
        observed = ~np.isnan(row)
        found = [model.member_for(observed, draw=j) for j in range(3)]
        for j, connectivity in enumerate(found):
            assert sorted(connectivity.ordering) == list(range(1, D + 1))
            assert (connectivity.ordering[observed] <= observed.sum()).all()
            same = again.member_for(observed, draw=j)
            for a, b in zip((connectivity.ordering, *connectivity.degrees), (same.ordering, *same.degrees), strict=True):
                assert (a == b).all()
            model.to_dense(connectivity)  # it is one of this network
        assert len({tuple(c.ordering) for c in found}) > 1
    orders = {tuple(model.member_for(np.arange(D) < 4, draw=j).ordering) for j in range(200)}
    assert {o[0] for o in orders} == {1, 2, 3, 4}
    assert {o[9] for o in orders} == set(range(5, D + 1))


@pytest.mark.parametrize("name", FIXED)
def test_a_fixed_set_answers_by_the_member_with_the_fewest_missing_inputs_before_evidence(name):
    model = make(name)
    for row in rows_of(model):
        observed = ~np.isnan(row)
        in_the_way = []
        for m0 in model.masks.orderings:
            last = max(m0[observed], default=0)
            in_the_way.append(sum(m0[~observed] < last))
        best = sorted(range(model.n_masks), key=lambda k: (in_the_way[k], k))
        for j, k in enumerate(best):
            answering, member = model.member_for(observed, draw=j), model.masks[k]
            assert (answering.ordering == member.ordering).all()
            assert all((a == b).all() for a, b in zip(answering.degrees, member.degrees, strict=True))


def test_the_answering_connectivity_is_the_same_in_every_process():
    code = """
import numpy as np
from helpers import random_model
c = random_model(10, (14, 11), n_masks=None, seed=3).member_for(np.arange(10) % 3 == 0, draw=2)
print(c.ordering.tolist(), c.degrees[1].tolist())
"""
    c = make("unlimited").member_for(np.arange(D) % 3 == 0, draw=2)
    told = python("-c", code, seconds=60, PYTHONPATH=str(Path(__file__).parents[1]))
    assert told == f"{c.ordering.tolist()} {c.degrees[1].tolist()}"


# Exact answers


@some_members
def test_log_marginal_and_conditional_are_those_of_the_answering_members(name, n_members):
    model = make(name)
    X = rows_of(model)
    expected = [np.log(mixture(model, ~np.isnan(row), n_members)[fits(row)].sum()) for row in X]
    found, std = model.log_marginal(X, n_members=n_members, return_std=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    assert (std == 0).all()
    assert (model.log_marginal(X, n_members=n_members) == found).all()  # and no warning
    targets = np.arange(len(X)) % D
    expected = []
    for row, t in zip(X, targets, strict=True):
        row = row.copy()
        row[t] = np.nan
        p = mixture(model, ~np.isnan(row) | (np.arange(D) == t), n_members) * fits(row)
        expected.append(p[EVERY[:, t] == 1].sum() / p.sum())
    found, std = model.conditional(X, targets, n_members=n_members, return_std=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    assert (std == 0).all()
    one = model.conditional(X, 4, n_members=n_members)
    assert (one[targets == 4] == found[targets == 4]).all()
    X[:, 4] = 1 - np.nan_to_num(X[:, 4])
    assert (model.conditional(X, 4, n_members=n_members) == one).all()  # what is there does not matter


@every_kind
def test_the_score_is_that_of_whole_rows_and_of_what_is_observed_of_the_others(name):
    model, X = make(name), rows_of(make(name))
    whole = ~np.isnan(X).any(axis=1)
    expected = np.concatenate([model.score_samples(X[whole]), model.log_marginal(X[~whole])])
    assert model.score(X) == pytest.approx(expected.mean(), rel=1e-12)
    X[np.flatnonzero(whole)[1], 3] = 2
    with pytest.raises(ValueError, match=f"got 2.0 at row {np.flatnonzero(whole)[1]}, column 3"):
        model.score(X)


@some_members
def test_mean_is_the_expectation_given_what_is_observed(name, n_members):
    model = make(name)
    X = rows_of(model)
    found = model.impute(X, "mean", n_members=n_members)
    assert found.dtype == np.float64
    for row, mean in zip(X, found, strict=True):
        p = mixture(model, ~np.isnan(row), n_members) * fits(row)
        np.testing.assert_allclose(mean, p @ EVERY / p.sum(), rtol=0, atol=1e-9)
    assert (found[~np.isnan(X)] == X[~np.isnan(X)]).all()


def expected_mode(model: MADEModel | MixtureModel, row: np.ndarray, n_members: int) -> np.ndarray:
    observed = ~np.isnan(row)
    if isinstance(model, MixtureModel):
        proposals, observed = [expected_mode(member, row, n_members) for member in model.members], np.ones(D, bool)
    else:
        connectivities = [model.member_for(observed, draw=j) for j in range(n_members)]
        proposals = [greedy(joint(model, c), c.ordering, row) for c in connectivities]
    p = mixture(model, observed, n_members)
    return max(proposals, key=lambda x: p[x @ (1 << np.arange(D))])


@some_members
def test_mode_sets_each_missing_input_to_the_likelier_value_in_the_members_order(name, n_members):
    model = make(name)
    X = rows_of(model)
    found = model.impute(X, n_members=n_members)
    assert found.dtype == np.uint8
    for row, mode in zip(X, found, strict=True):
        assert (mode == expected_mode(model, row, n_members)).all()


@some_members
def test_draws_follow_the_conditional_of_the_answering_members(name, n_members):
    model = make(name)
    X = rows_of(model, n=1)
    draws = model.sample_conditional(X, 6000, n_members=n_members, random_state=2)
    assert draws.shape == (6000, *X.shape)
    assert draws.dtype == np.uint8
    for i, row in enumerate(X):
        assert_drawn_from(draws[:, i], mixture(model, ~np.isnan(row), n_members) * fits(row))


def test_draws_of_one_call_are_independent_over_rows_and_calls_repeat():
    model = make("unlimited")
    X = np.repeat(rows_of(model, n=1)[:1], 3000, axis=0)
    drawn = model.impute(X, "sample", random_state=7)
    assert (drawn == model.sample_conditional(X, random_state=7)[0]).all()
    assert_drawn_from(drawn, mixture(model, ~np.isnan(X[0]), 1) * fits(X[0]))
    assert (drawn != model.impute(X, "sample", random_state=8)).any()
    a, b = model.sample_conditional(X, 2, random_state=np.random.default_rng(0))
    assert (a != b).any()


def test_nothing_missing_and_everything_missing():
    for name in MODELS:
        model = make(name)
        assert (model.log_marginal(np.full((3, D), np.nan)) == 0).all()
        X = model.sample(5, 0)
        for method in ("mode", "mean", "sample"):
            assert (model.impute(X, method) == X).all()
        assert model.log_marginal(X, n_members=model.n_masks).shape == (5,)
    fixed = make("mixture of one mask each")
    np.testing.assert_allclose(fixed.log_marginal(X), fixed.score_samples(X), rtol=1e-13)
    model = make("three masks")  # all of the set together are the model
    np.testing.assert_allclose(model.log_marginal(X, n_members=3), model.score_samples(X), rtol=1e-12)


def test_one_input_and_no_hidden_layer():
    model = random_model(1, (3,), n_masks=None)
    X = np.array([[np.nan], [1.0], [0.0]])
    p = model.conditional(X, 0)
    np.testing.assert_allclose(np.exp(model.log_marginal(X)), [1, p[0], 1 - p[0]])
    assert (model.impute(X) == [[p[0] > 0.5], [1], [0]]).all()
    model = random_model(D, (), n_masks=None, seed=1)
    X = rows_of(model)
    for row, found in zip(X, model.log_marginal(X), strict=True):
        member = model.member_for(~np.isnan(row))
        p = joint(model, member)
        assert abs(found - np.log(p[fits(row)].sum())) < 1e-9


# Input


def test_a_threshold_applies_to_the_observed_inputs():
    model = make("unlimited")
    X = rows_of(model)
    high = MADEModel(model.source, model.masks, rule=model.rule, binarize=0.3)
    assert (high.log_marginal(X * 0.7) == model.log_marginal(X)).all()
    assert (high.impute(X * 0.7) == model.impute(X)).all()


MANY = "n_members must be at most {}, for the model holds {} mask"


@pytest.mark.parametrize(
    ("ask", "error", "match"),
    [
        (lambda _, X: make("three masks").log_marginal(X, n_members=4), ValueError, MANY.format(3, 3)),
        (lambda _, X: make("mixture of one mask each").log_marginal(X, n_members=2), ValueError, MANY.format(1, 1)),
        (lambda _, X: make("three masks").member_for(np.ones(D, bool), draw=3), ValueError, "draw must be at most 2"),
        (lambda model, X: model.member_for(X[0]), TypeError, r"observed must be a mask of bools.*~np\.isnan\(x\)"),
        (lambda model, _: model.member_for(np.ones(9, bool)), ValueError, r"observed must have shape \(10,\), got \(9,\)"),
        (lambda model, X: model.conditional(X, 1.5), TypeError, "target must be an int or an array of ints"),
        (lambda model, X: model.conditional(X, 10), ValueError, r"target must be in 0\.\.9, got 10"),
        (lambda model, X: model.conditional(X, -1), ValueError, r"target must be in 0\.\.9, got -1"),
        (lambda model, X: model.conditional(X, [0, 1, 2]), ValueError, r"one for each of the 2 rows, got shape \(3,\)"),
    ],
)
def test_questions_that_no_model_can_answer_are_refused(ask, error, match):
    with pytest.raises(error, match=match):
        ask(make("unlimited"), np.full((2, D), np.nan))
