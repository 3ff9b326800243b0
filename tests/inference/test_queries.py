"""Questions about rows with missing inputs, against enumeration of the answering member as ``to_dense`` writes it out."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from helpers import all_inputs, assert_drawn_from, dense_log_p, random_model

from made_fast import MADEModel, MixtureModel
from made_fast.inference import pattern
from made_fast.inference.density import ApproximationWarning
from made_fast.kernels import layout
from made_fast.network.masks import Connectivity

D = 10
EVERY = all_inputs(D)
MODELS = {
    "unlimited": {"n_masks": None},
    "unlimited, of everything": {"n_masks": None, "connectivity_weights": True, "direct": "all"},
    "unlimited orderings": {"n_masks": None, "resample": "order", "direct": "output"},
    "unlimited degrees": {"n_masks": None, "resample": "connectivity"},
    "one mask": {"n_masks": 1, "direct": "all"},
    "one mask with U": {"n_masks": 1, "connectivity_weights": True},
    "three masks": {"n_masks": 3, "connectivity_weights": True, "direct": "output"},
}
ANY_ORDER = [name for name in MODELS if name.startswith("unlimited") and name != "unlimited degrees"]
FIXED = [name for name in MODELS if name not in ANY_ORDER]
MIXTURES = {
    "mixture": ["unlimited", "three masks", "unlimited, of everything"],
    "mixture of one mask each": ["one mask", "one mask with U"],
}
WEIGHTS = {"mixture": [0.5, 0.3, 0.2], "mixture of one mask each": [0.4, 0.6]}
every_kind = pytest.mark.parametrize("name", [*MODELS, *MIXTURES])


def make(name: str, **kwargs) -> MADEModel | MixtureModel:
    if name in MIXTURES:
        return MixtureModel([make(part, seed=m) for m, part in enumerate(MIXTURES[name])], WEIGHTS[name])
    return random_model(D, (14, 11), **{"seed": 3, **MODELS[name], **kwargs})


def joint(model: MADEModel, connectivity: Connectivity) -> np.ndarray:
    """Return p(x) of all 2^D inputs under one member, from its dense form."""
    return np.exp(dense_log_p(model.to_dense(connectivity), EVERY))


def members_of(model: MADEModel | MixtureModel) -> tuple[MADEModel, ...]:
    return model.members if isinstance(model, MixtureModel) else (model,)


def mixture(model: MADEModel | MixtureModel, observed: np.ndarray, n_members: int) -> np.ndarray:
    """Return p(x) of all inputs under the mixture that answers when these inputs are observed."""
    if isinstance(model, MixtureModel):
        return sum(w * mixture(member, observed, n_members) for w, member in zip(model.weights, model.members, strict=True))
    return np.mean([joint(model, model.member_for(observed, draw=j)) for j in range(n_members)], axis=0)


def fits(row: np.ndarray) -> np.ndarray:
    """Return which of all inputs agree with what is observed of the row."""
    return ((row == EVERY) | np.isnan(row)).all(axis=1)


def rows_of(model: MADEModel | MixtureModel, seed: int = 0, n: int = 2) -> np.ndarray:
    """Return rows whose evidence stands early, late and mixed in the (first) ordering; all of it; none."""
    rng = np.random.default_rng(seed)
    m0 = members_of(model)[0].masks.orderings[0]
    seen = [m0 <= 4, m0 > 7, m0 == D, m0 % 2 == 0, m0 % 3 == 0, np.isin(m0, [1, 2, 9]), m0 > 0, m0 < 0, m0 > 1, m0 < D]
    seen += list(rng.random((6, D)) < 0.5)
    X = (rng.random((n * len(seen), D)) < 0.5).astype(float)
    X[~np.repeat(seen, n, axis=0)] = np.nan
    return rng.permutation(X)


def late_rows(model: MADEModel, n: int = 2) -> np.ndarray:
    """Return rows with evidence at places 5, 8 and 10 of the ordering of the only mask."""
    X = (np.random.default_rng(5).random((n, D)) < 0.5).astype(float)
    X[:, ~np.isin(model.masks.orderings[0], [5, 8, 10])] = np.nan
    return X


# Who answers


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


def test_the_answering_connectivity_is_the_same_in_every_process():
    code = """
import numpy as np
from helpers import random_model
c = random_model(10, (14, 11), n_masks=None, seed=3).member_for(np.arange(10) % 3 == 0, draw=2)
print(c.ordering.tolist(), c.degrees[1].tolist())
"""
    c = make("unlimited").member_for(np.arange(D) % 3 == 0, draw=2)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"{c.ordering.tolist()} {c.degrees[1].tolist()}"


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


# Exact answers


@every_kind
@pytest.mark.parametrize("n_members", [1, 3])
def test_log_marginal_and_conditional_are_those_of_the_answering_members(name, n_members):
    model = make(name)
    n_members = min(n_members, *(member.n_masks for member in members_of(model)))
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


@every_kind
@pytest.mark.parametrize("n_members", [1, 3])
def test_mean_is_the_expectation_given_what_is_observed(name, n_members):
    model = make(name)
    n_members = min(n_members, *(member.n_masks for member in members_of(model)))
    X = rows_of(model)
    found = model.impute(X, "mean", n_members=n_members)
    assert found.dtype == np.float64
    for row, mean in zip(X, found, strict=True):
        p = mixture(model, ~np.isnan(row), n_members) * fits(row)
        np.testing.assert_allclose(mean, p @ EVERY / p.sum(), rtol=0, atol=1e-9)
    assert (found[~np.isnan(X)] == X[~np.isnan(X)]).all()


def greedy(p: np.ndarray, ordering: np.ndarray, row: np.ndarray) -> np.ndarray:
    row = row.copy()
    for d in np.argsort(ordering):
        if np.isnan(row[d]):
            alike = p * fits(row)
            row[d] = alike[EVERY[:, d] == 1].sum() > alike.sum() / 2
    return row.astype(np.uint8)


def expected_mode(model: MADEModel | MixtureModel, row: np.ndarray, n_members: int) -> np.ndarray:
    observed = ~np.isnan(row)
    if isinstance(model, MixtureModel):
        proposals, observed = [expected_mode(member, row, n_members) for member in model.members], np.ones(D, bool)
    else:
        connectivities = [model.member_for(observed, draw=j) for j in range(n_members)]
        proposals = [greedy(joint(model, c), c.ordering, row) for c in connectivities]
    p = mixture(model, observed, n_members)
    return max(proposals, key=lambda x: p[x @ (1 << np.arange(D))])


@every_kind
@pytest.mark.parametrize("n_members", [1, 3])
def test_mode_sets_each_missing_input_to_the_likelier_value_in_the_members_order(name, n_members):
    model = make(name)
    n_members = min(n_members, *(member.n_masks for member in members_of(model)))
    X = rows_of(model)
    found = model.impute(X, n_members=n_members)
    assert found.dtype == np.uint8
    for row, mode in zip(X, found, strict=True):
        assert (mode == expected_mode(model, row, n_members)).all()


@every_kind
@pytest.mark.parametrize("n_members", [1, 3])
def test_draws_follow_the_conditional_of_the_answering_members(name, n_members):
    model = make(name)
    n_members = min(n_members, *(member.n_masks for member in members_of(model)))
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


# Estimates: with few inputs nearly all is enumerated, so the limit is lowered


@pytest.fixture
def few_enumerated(monkeypatch):
    monkeypatch.setattr(pattern, "ENUMERATED", 1)


def test_importance_sampling_is_unbiased_and_its_standard_error_honest(few_enumerated):
    model = make("one mask")
    X = late_rows(model, 3)
    truth = np.array([np.log(joint(model, model.masks[0])[fits(row)].sum()) for row in X])
    found = [model.log_marginal(X, n_walks=400, random_state=i, return_std=True) for i in range(200)]
    values, std = (np.array(part) for part in zip(*found, strict=True))
    ratio = np.exp(values - truth)
    assert (abs(ratio.mean(axis=0) - 1) < 4 * ratio.std(axis=0) / np.sqrt(len(ratio))).all()
    covered = (abs(values - truth) < 2 * std).mean()
    assert 0.9 < covered < 0.99
    np.testing.assert_allclose(std.mean(axis=0), values.std(axis=0), rtol=0.25)


@pytest.mark.parametrize("name", ["one mask", "unlimited degrees", "three masks"])
@pytest.mark.parametrize("n_members", [1, 3])
def test_importance_sampling_agrees_with_enumeration(name, n_members, monkeypatch):
    model = make(name)
    n_members = min(n_members, *(member.n_masks for member in members_of(model)))
    X = rows_of(model)
    exact = [model.log_marginal(X, n_members=n_members), model.conditional(X, 2, n_members=n_members)]
    monkeypatch.setattr(pattern, "ENUMERATED", 1)
    for ask, right in zip((model.log_marginal, lambda X, **kwargs: model.conditional(X, 2, **kwargs)), exact, strict=True):
        found, std = ask(X, n_members=n_members, n_walks=2000, return_std=True)
        estimated = std > 0
        assert estimated.any()
        assert not estimated.all()
        np.testing.assert_allclose(found[~estimated], right[~estimated], rtol=0, atol=1e-9)
        assert (abs(found - right)[estimated] < 4.5 * std[estimated]).all()
        assert std.max() < 0.3


def test_estimated_means_and_draws_agree_with_enumeration(monkeypatch):
    model = make("one mask")
    X = late_rows(model)
    exact = model.impute(X, "mean")
    p = joint(model, model.masks[0])
    monkeypatch.setattr(pattern, "ENUMERATED", 1)
    with pytest.warns(ApproximationWarning, match="2 of 2 rows"):
        found = model.impute(X, "mean", n_walks=20_000)
    np.testing.assert_allclose(found, exact, rtol=0, atol=0.03)
    with pytest.warns(ApproximationWarning):
        draws = model.sample_conditional(X, 2000, n_walks=50_000, random_state=0)
    for i, row in enumerate(X):
        assert_drawn_from(draws[:, i], p * fits(row))
    with pytest.warns(ApproximationWarning):
        mode = model.impute(X, n_walks=5000)
    for row, filled in zip(X, mode, strict=True):  # so many walks find the most probable row up to the last observed place
        assert p[filled @ (1 << np.arange(D))] >= p[greedy(p, model.masks[0].ordering, row) @ (1 << np.arange(D))]


@pytest.mark.parametrize("limit", [2, 5])
@pytest.mark.parametrize("name", ["unlimited", "one mask"])
def test_averages_over_walks_agree_with_enumeration(name, limit, monkeypatch):
    model = make(name)
    m0 = model.masks.orderings[0]
    X = (np.random.default_rng(0).random((4, D)) < 0.5).astype(float)
    X[:, np.isin(m0, [2, 4, 6, 7, 8, 9, 10])] = np.nan  # of these, one place comes before evidence in a fixed ordering
    X[:, m0 == 5] = X[:, m0 == 3] = 1
    exact = model.impute(X, "mean")
    monkeypatch.setattr(pattern, "ENUMERATED", limit)
    found = model.impute(X, "mean", n_walks=4000)
    assert (found != exact).any()
    np.testing.assert_allclose(found, exact, rtol=0, atol=4 * 0.5 / np.sqrt(4000))


def test_single_precision_keeps_the_weight_of_unlikely_evidence(few_enumerated):
    double, single = make("one mask"), make("one mask", dtype="float32")
    last = layout.n_chain(double.source.layout.layers) - 1
    for model in (double, single):
        model.source._given[model.source.layout.layers[last, layout.BIAS] + 7] = 40  # place 8 is hardly ever 0
    X = late_rows(double)
    X[:, double.masks[0].ordering == 8] = 0
    p = joint(double, double.masks[0])
    truth = np.array([np.log(p[fits(row)].sum()) for row in X])
    assert truth.max() < -25  # far below the resolution of 1 - p in float32
    found, std = single.log_marginal(X, n_walks=10_000, return_std=True)
    assert (abs(found - truth) < 4 * std).all()
    assert std.max() < 0.1


def test_one_walk_has_no_standard_error(few_enumerated):
    model = make("one mask")
    _, std = model.log_marginal(late_rows(model), n_walks=1, return_std=True)
    assert np.isinf(std).all()


@pytest.mark.parametrize("n_walks", [7, 5000])
def test_a_warning_says_how_many_rows_are_estimates_and_how_good_they_are(few_enumerated, n_walks):
    model = make("one mask")
    m0 = model.masks.orderings[0]
    X = np.concatenate([late_rows(model, 3), np.where(m0 < 4, 1.0, np.nan)[None], np.ones((2, D))])
    asked = {
        "log_marginal": lambda: model.log_marginal(X, n_walks=n_walks),
        "conditional": lambda: model.conditional(X, int(np.argmin(m0)), n_walks=n_walks),
        "sample_conditional": lambda: model.sample_conditional(X, 2, n_walks=n_walks),
        "impute": lambda: model.impute(X, "mean", n_walks=n_walks),
    }
    for name, ask in asked.items():
        with pytest.warns(ApproximationWarning, match=f"^{name}: 3 of 6 rows are estimates .*, {n_walks} walks") as caught:
            ask()
        assert len(caught) == 1
        assert caught[0].filename == __file__
    _, std = model.log_marginal(X, n_walks=n_walks, return_std=True)
    with pytest.warns(ApproximationWarning, match=f"the largest standard error is {std.max():.2g} nats"):
        asked["log_marginal"]()
    with pytest.warns(ApproximationWarning, match="the smallest effective number of walks is") as caught:
        asked["impute"]()
    assert 1 <= float(str(caught[0].message).split("number of walks is ")[1].split(". ")[0]) <= n_walks
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.log_marginal(X, return_std=True)
        model.conditional(X, 0, return_std=True)
        model.impute(X[3:])
        model.log_marginal(X[3:])


# At the door


def test_tables_of_every_kind_are_read():
    model = make("unlimited")
    X = rows_of(model)
    answer = model.log_marginal(X)
    for other in (X.astype(np.float32), np.asfortranarray(X), X.tolist(), X.astype(object), scipy.sparse.csr_array(X)):
        assert (model.log_marginal(other) == answer).all()
    model = MADEModel(model.source, model.masks, rule=model.rule, binarize=0.3)
    assert (model.log_marginal(X * 0.7) == answer).all()
    assert (model.impute(X * 0.7) == make("unlimited").impute(X)).all()


def test_refusals_say_what_was_demanded_found_and_the_way_out():
    model, fixed = make("unlimited"), make("three masks")
    X = np.full((2, D), np.nan)
    for ask in (
        model.log_marginal,
        model.impute,
        model.sample_conditional,
        lambda X, **kwargs: model.conditional(X, 0, **kwargs),
    ):
        with pytest.raises(ValueError, match=r"X must have shape \(rows, 10\), got \(2, 9\)"):
            ask(X[:, :9])
        with pytest.raises(ValueError, match=r"X must hold only 0 and 1, got 2\.0 at row 1, column 3"):
            ask(np.where(np.arange(D) == 3, [[0], [2]], np.nan))
        with pytest.raises(ValueError, match="n_members must be an int >= 1, got 0"):
            ask(X, n_members=0)
        with pytest.raises(ValueError, match="n_walks must be an int >= 1, got 0"):
            ask(X, n_walks=0)
        with pytest.raises(TypeError, match="random_state must be"):
            ask(X, random_state="a")
        with pytest.raises(ValueError, match="n_threads must be"):
            ask(X, n_threads=0)
    with pytest.raises(
        ValueError, match=r"n_members must be at most 3, for the model holds 3 mask\(s\), got 4\. A model trained"
    ):
        fixed.log_marginal(X, n_members=4)
    with pytest.raises(ValueError, match="n_members must be at most 1"):
        make("mixture of one mask each").log_marginal(X, n_members=2)
    with pytest.raises(ValueError, match="draw must be at most 2"):
        fixed.member_for(np.ones(D, bool), draw=3)
    for draw, error in ((-1, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="draw must be an int >= 0"):
            model.member_for(np.ones(D, bool), draw=draw)
    with pytest.raises(TypeError, match=r"observed must be a mask of bools.*~np\.isnan\(x\)"):
        model.member_for(X[0])
    with pytest.raises(ValueError, match=r"observed must have shape \(10,\), got \(9,\)"):
        model.member_for(np.ones(9, bool))
    with pytest.raises(ValueError, match="method must be one of 'mode', 'mean', 'sample', got 'median'"):
        model.impute(X, "median")
    with pytest.raises(ValueError, match="n_draws must be an int >= 1"):
        model.sample_conditional(X, 0)
    for target, error, text in (
        (1.5, TypeError, "target must be an int or an array of ints"),
        (10, ValueError, r"target must be in 0\.\.9, got 10"),
        (-1, ValueError, r"target must be in 0\.\.9, got -1"),
        ([0, 1, 2], ValueError, r"one for each of the 2 rows, got shape \(3,\)"),
    ):
        with pytest.raises(error, match=text):
            model.conditional(X, target)
