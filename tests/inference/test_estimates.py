"""Estimates: answers about rows whose evidence has too many missing inputs before it agree with enumeration.

With few inputs nearly everything is enumerated, so the tests lower the limit.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from helpers import assert_drawn_from
from query_cases import D, fits, greedy, joint, late_rows, make, rows_of

from made_fast.inference import pattern
from made_fast.inference.density import ApproximationWarning
from made_fast.kernels import layout


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


@pytest.mark.parametrize(
    ("name", "n_members"),
    [("one mask", 1), ("unlimited degrees", 1), ("unlimited degrees", 3), ("three masks", 1), ("three masks", 3)],
)
def test_importance_sampling_agrees_with_enumeration(name, n_members, monkeypatch):
    model = make(name)
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
