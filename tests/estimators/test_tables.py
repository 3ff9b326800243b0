"""``MADE`` and ``MADEEnsemble`` on tables: what is read as 0/1 and what as columns, every form of a table, fits that go on."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

import made_fast
from made_fast import MADE, ApproximationWarning, MADEEnsemble
from made_fast.inference import levels, tablemodel
from made_fast.inference.tablemodel import TableModel
from made_fast.tables.coded import Coded, Coding

QUICK = {"hidden_sizes": (24,), "batch_size": 40, "learning_rate": 0.01, "max_epochs": 25, "random_state": 0, "n_threads": 1}


def rows(n=400, seed=0):
    """Return a table whose columns depend on each other: text, reals, whole numbers, booleans."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(["low", "high", "odd"], n, p=[0.5, 0.4, 0.1])
    mean = np.select([kind == "low", kind == "high"], [0.0, 8.0], -30.0)
    x = mean + rng.normal(size=n)
    return pd.DataFrame({"kind": kind, "x": x, "count": rng.poisson(np.abs(mean) / 4), "flag": x > mean})


def fitted(**params):
    return MADE(**{**QUICK, **params}).fit(rows())


def test_a_frame_of_columns_becomes_a_model_of_them():
    made = fitted()
    assert isinstance(made.model_, TableModel)
    assert made.n_features_in_ == 4
    assert made.feature_names_in_.tolist() == ["kind", "x", "count", "flag"]
    assert [column.kind for column in made.model_.columns.columns] == ["categorical", "numeric", "numeric", "binary"]
    assert made.score(rows(seed=1)) > MADE(**{**QUICK, "hidden_sizes": (), "direct_connections": "none"}).fit(rows()).score(
        rows(seed=1)
    )
    drawn = made.sample(2000, random_state=0)
    assert (drawn.dtypes == rows().dtypes).all()
    assert abs(drawn.x[drawn.kind == "high"].mean() - 8) < 1
    assert (drawn.x[drawn.kind == "odd"] < -10).mean() > 0.9


def test_the_density_integrates_to_one():
    values = np.random.default_rng(2).normal(size=300) * 7
    made = MADE(**QUICK, dtype="float64").fit(pd.DataFrame({"x": values, "t": np.where(values > 0, "a", "b")}))
    columns = made.model_.columns.columns[0]
    edges = np.unique(np.concatenate([columns.low, columns.high, columns.cells.borders]))
    nodes, weights = np.polynomial.legendre.leggauss(12)
    grid = np.concatenate([np.array([edges[0] - 600]), edges, np.array([edges[-1] + 600])])
    for extra in np.geomspace(0.01, 500, 60):
        grid = np.append(grid, [edges[0] - extra, edges[-1] + extra])
    grid = np.unique(grid)
    x = (grid[:-1, None] + grid[1:, None]) / 2 + (grid[1:] - grid[:-1])[:, None] / 2 * nodes
    w = ((grid[1:] - grid[:-1])[:, None] / 2 * weights).ravel()
    total = 0.0
    for t in "ab":
        total += float(w @ np.exp(made.score_samples(pd.DataFrame({"x": x.ravel(), "t": t}))))
    assert abs(total - 1) < 1e-6


def test_frames_of_0_and_1_stay_binary_to_the_bit():
    X = np.random.default_rng(3).integers(0, 2, (200, 6))
    plain = MADE(**QUICK).fit(X.astype(np.uint8))
    for frame in (
        pd.DataFrame(X, columns=list("abcdef")),
        pd.DataFrame(X.astype(bool), columns=list("abcdef")),
        pl.DataFrame(X, schema=list("abcdef")),
        pa.table({name: X[:, d] for d, name in enumerate("abcdef")}),
        pd.DataFrame(X).astype("Int8").rename(columns=str),
        pd.DataFrame(X).astype("category").rename(columns=str),
    ):
        made = MADE(**QUICK).fit(frame)
        assert not isinstance(made.model_, TableModel)
        assert np.array_equal(made.model_.source.vector, plain.model_.source.vector)


def test_an_array_has_columns_if_the_caller_says_so():
    frame = rows()
    numbers = frame[["x", "count"]].to_numpy()
    with pytest.raises(ValueError, match="only 0 and 1"):
        MADE(**QUICK).fit(numbers)
    for params in ({"columns": "infer"}, {"columns": {1: "ordered"}}, {"categorical_features": [1]}):
        made = MADE(**QUICK, **params).fit(numbers)
        assert made.sample(3, random_state=0).shape == (3, 2)
        assert not hasattr(made, "feature_names_in_")
    listed = made.score_samples(numbers[:5].tolist())
    assert np.array_equal(listed, made.score_samples(numbers[:5]))
    with pytest.raises(ValueError, match="binarize must be None for a table with columns"):
        MADE(**QUICK, columns="infer", binarize=0.5).fit(numbers)


@pytest.mark.parametrize("form", ["pandas", "polars", "arrow", "dict", "records"])
def test_every_form_of_a_table_gives_the_same_model(form):
    frame = rows()
    made = {
        "pandas": lambda: frame,
        "polars": lambda: pl.DataFrame(frame.to_dict("list")),
        "arrow": lambda: pa.table(frame.to_dict("list")),
        "dict": lambda: {name: frame[name].to_numpy() for name in frame},
        "records": lambda: frame.to_records(index=False),
    }[form]()
    model = MADE(**QUICK).fit(made)
    assert np.array_equal(model.score_samples(made), fitted().score_samples(frame))
    assert type(model.sample(2, random_state=0)).__name__ == {
        "pandas": "DataFrame", "polars": "DataFrame", "arrow": "Table", "dict": "dict", "records": "ndarray",
    }[form]  # fmt: skip


def test_the_history_is_in_units_of_the_columns():
    made = fitted(learning_rate_schedule="constant", validation_fraction=0.25, averaging=0.0, dropout=0.0)
    scaled = rows()
    scaled["x"] *= 1000
    other = MADE(**QUICK, validation_fraction=0.25, averaging=0.0, dropout=0.0).fit(scaled)
    for key in ("train_nll", "validation_nll"):
        ours, theirs = made.history_[-1][key], other.history_[-1][key]
        assert theirs - ours == pytest.approx(np.log(1000), abs=0.05)
    held = fitted(averaging=0.0, dropout=0.0, max_epochs=1)
    assert MADE(**{**QUICK, "averaging": 0.0, "max_epochs": 1}).fit(rows(), X_val=rows(seed=4)).history_[-1][
        "validation_nll"
    ] == pytest.approx(-MADE(**{**QUICK, "averaging": 0.0, "max_epochs": 1}).fit(rows()).score(rows(seed=4)), rel=1e-5)
    assert held.history_[0]["train_nll"] > 0


def test_missing_values_are_summed_out_or_a_level():
    frame = rows()
    frame.loc[::5, "x"] = np.nan
    frame.loc[3::7, "kind"] = None
    made = MADE(**QUICK, n_masks=None, n_eval_masks=4).fit(frame)
    filled = made.impute(frame)
    assert not filled.isna().any().any()
    assert filled.x[1] == frame.x[1]
    low, high = (filled.x[::5][filled.kind[::5] == kind].mean() for kind in ("low", "high"))
    assert high > low + 4
    as_level = MADE(**QUICK, missing="value").fit(frame)
    log_p = as_level.score_samples(frame)
    assert np.isfinite(log_p).all()
    assert as_level.probability("x is null") == pytest.approx(0.2, abs=0.06)
    assert as_level.sample(400, random_state=0).x.isna().mean() == pytest.approx(0.2, abs=0.08)


def test_a_context_makes_the_density_conditional():
    frame = rows(600)
    made = MADE(**{**QUICK, "max_epochs": 60}).fit(frame[["x", "count"]], context=frame[["kind"]])
    for kind, mean in (("low", 0), ("high", 8), ("odd", -30)):
        drawn = made.sample(300, random_state=0, context=pd.DataFrame({"kind": [kind]}))
        assert abs(drawn.x.median() - mean) < 2
    log_p = made.score_samples(frame[["x", "count"]], context=frame[["kind"]])
    wrong = made.score_samples(frame[["x", "count"]], context=pd.DataFrame({"kind": np.roll(frame.kind, 1)}))
    assert log_p.mean() > wrong.mean() + 1
    held = rows(100, seed=5)
    again = MADE(**QUICK).fit(
        frame[["x", "count"]], context=frame[["kind"]], X_val=held[["x", "count"]], context_val=held[["kind"]]
    )
    assert again.history_[-1]["validation_nll"] is not None
    bits = np.random.default_rng(0).integers(0, 2, (200, 3))
    of_bits = MADE(**QUICK).fit(bits, context=pd.DataFrame({"c": bits[:, 0]}))
    assert of_bits.score_samples(bits, context=pd.DataFrame({"c": bits[:, 0]})).mean() > -3 * np.log(2) + 0.5
    with pytest.raises(ValueError, match="context must come with X"):
        made.score_samples(frame[["x", "count"]])
    with pytest.raises(ValueError, match="context must be left out"):
        fitted().score_samples(rows(3), context=rows(3))


def test_a_fit_is_resumed_to_the_bit(tmp_path):
    path = tmp_path / "fit.checkpoint"
    for params in ({}, {"n_masks": None, "n_eval_masks": 3}, {"n_masks": 3, "connectivity_weights": True}):
        whole = fitted(**params)
        MADE(**{**QUICK, "max_epochs": 10}, **params).fit(rows(), checkpoint=path)
        made = MADE.resume(path).set_params(max_epochs=QUICK["max_epochs"])
        assert np.array_equal(made.score_samples(rows(5)), MADE.resume(path).score_samples(rows(5)))
        made.fit(rows())
        assert np.array_equal(made.score_samples(rows(9)), whole.score_samples(rows(9)))
        path.unlink()
    MADE(**QUICK).fit(rows(), checkpoint=path)
    made = MADE.resume(path).set_params(max_epochs=40)
    with pytest.raises(ValueError, match="X must be what the fit began with"):
        made.fit(rows(seed=8))


def test_partial_fit_learns_the_columns_once():
    made = MADE(**QUICK)
    for seed in range(6):
        made.partial_fit(rows(200, seed))
    assert made.score(rows(seed=9)) > -6
    with pytest.raises(ValueError, match="got 'new' in row 0"):
        made.partial_fit(rows(10).assign(kind="new"))
    assert made.partial_fit(rows(50)[["flag", "x", "kind", "count"]]).n_features_in_ == 4


def test_scikit_learn_takes_it_as_any_estimator(tmp_path):
    frame = rows()
    made = clone(MADE(**QUICK, columns={"count": "ordered"})).fit(frame)
    assert made.model_.columns.columns[2].kind == "categorical"
    search = GridSearchCV(MADE(**{**QUICK, "max_epochs": 3}), {"n_bins": [4, 16]}, cv=2).fit(frame)
    assert search.best_params_["n_bins"] in (4, 16)
    assert make_pipeline(MADE(**{**QUICK, "max_epochs": 3})).fit(frame).score(frame) < 0
    made.save(tmp_path / "m.safetensors")
    assert np.array_equal(made_fast.load(tmp_path / "m.safetensors").score_samples(frame), made.score_samples(frame))


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_ensemble_of_a_table(jobs, tmp_path):
    frame = rows()
    ensemble = MADEEnsemble(3, **{**QUICK, "max_epochs": 8}, n_jobs=jobs, weights="em", validation_fraction=0.2).fit(frame)
    members = ensemble.members_
    log_p = np.stack([member.score_samples(frame) for member in members])
    expected = np.logaddexp.reduce(log_p + np.log(ensemble.weights_)[:, None], axis=0)
    np.testing.assert_allclose(ensemble.score_samples(frame), expected, rtol=1e-9)
    np.testing.assert_allclose(ensemble.explain(frame).sum(axis=1), -expected, rtol=1e-6, atol=1e-6)
    assert ensemble.sample(3, random_state=0).shape == (3, 4)
    assert 0 < ensemble.probability("kind = low") < 1
    ensemble.save(tmp_path / "e.safetensors")
    assert np.array_equal(made_fast.load(tmp_path / "e.safetensors").score_samples(frame), ensemble.score_samples(frame))


def test_the_preset_searches_for_a_table():
    best = MADEEnsemble(preset="best", time_budget=4, **{**QUICK, "n_threads": 2}).fit(rows(300))
    assert isinstance(best.model_, TableModel)
    assert best.score(rows(seed=3)) > -6


@pytest.mark.parametrize(
    ("column", "error"),
    [
        (pd.Series([None] * 400, dtype=object), "column 'bad' with nothing but missing ones"),
        (pd.date_range("2020-01-01", periods=400), "column 'bad'"),
        (pd.Series([[1], [2]] * 200), "column 'bad'"),
        (pd.Series([1, "a"] * 200), "column 'bad'"),
        (pd.Series([np.inf, 1.0] * 200), "finite numbers, got inf in row 0 of column 'bad'"),
        (pd.Series([f"id {i}" for i in range(400)]), "column 'bad' with 400 different texts"),
    ],
    ids=["empty", "dates", "lists", "mixed", "infinite", "identifiers"],
)
def test_a_column_that_cannot_be_modelled_is_named(column, error):
    with pytest.raises((ValueError, TypeError), match=error):
        MADE(**QUICK).fit(rows().assign(bad=column))


def test_constant_columns_are_fine_unless_all_are():
    made = MADE(**QUICK).fit(rows().assign(same="s", zero=0.0))
    assert np.isfinite(made.score_samples(rows().assign(same="s", zero=0.0))).all()
    with pytest.raises(ValueError, match="more than one value, got only constant ones"):
        MADE(**QUICK).fit(pd.DataFrame({"a": ["x"] * 9, "b": ["y"] * 9}))


def test_points_of_a_latent_mixture_are_for_binary_rows():
    with pytest.raises(ValueError, match="latent_points must be 1 for columns that are not binary"):
        fitted(latent_points=4)


def test_a_query_needs_columns():
    made = MADE(**QUICK).fit(np.eye(4, dtype=np.uint8).repeat(20, axis=0))
    with pytest.raises(TypeError, match="got a model of 0/1 rows"):
        made.probability("x0 = 1")
    parts = made.explain(np.eye(4, dtype=np.uint8))
    np.testing.assert_allclose(parts.sum(axis=1), -made.score_samples(np.eye(4, dtype=np.uint8)), rtol=1e-5)


def test_indicators_of_many_small_codes_do_not_wrap_around():
    """Sums of codes in int8 and the numbers of indicators above 127 would."""
    coding = Coding((100, 90, 80), (0, 1, 0))
    codes = np.array([[99, 89, 79], [0, 3, -1]], np.int8)
    found = coding.indicators(codes)
    assert found.shape == (2, 270)
    assert np.flatnonzero(found[0]).tolist() == [99, *range(100, 190), 269]
    assert np.flatnonzero(found[1]).tolist() == [0, *range(100, 104)]
    assert Coded(codes, coding).missing().tolist() == [[False] * 3, [False, False, True]]


def test_a_fitted_table_is_pickled_and_copied():
    made = fitted(n_masks=None, n_eval_masks=2)
    for again in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made), pickle.loads(pickle.dumps(made.model_))):
        assert np.array_equal(again.score_samples(rows(9)), made.score_samples(rows(9)))
        assert again.probability("kind = low") == made.probability("kind = low")


def test_weights_of_rows_count_for_columns_too():
    frame = rows()
    weights = (frame.kind != "odd").to_numpy(float)
    made = MADE(**QUICK, max_categories=2).fit(frame, sample_weight=weights)
    assert made.model_.columns.columns[0].folded_counts.sum() < frame.shape[0] / 2
    for bad in (["x"] * 400, np.ones(3)):
        with pytest.raises((TypeError, ValueError), match="sample_weight"):
            MADE(**QUICK).fit(frame, sample_weight=bad)


def test_draws_of_a_row_depend_on_no_other_row():
    frame = rows(40).assign(u=[f"row {i}" for i in range(40)])  # equal rows have draws of their own
    frame.loc[::2, ["x", "count"]] = np.nan
    made = MADE(**QUICK, n_masks=None, n_eval_masks=2).fit(frame)
    forth, back = made.impute(frame, "sample"), made.impute(frame[::-1], "sample")
    assert forth.equals(back[::-1])
    alone = made.impute(frame.iloc[[4]], "sample")
    assert alone.x[4] == forth.x[4]
    first, second = (made.sample_conditional(frame, n, random_state=1)[0] for n in (1, 3))
    assert first.equals(second)
    found = made.conditional(frame, "x").mean()
    assert np.array_equal(made.conditional(frame.iloc[7:9], "x").mean(), found[7:9])


def test_missing_values_of_a_binary_frame_are_a_level_if_asked_for():
    frame = pd.DataFrame(np.random.default_rng(0).integers(0, 2, (200, 3)), columns=list("abc")).astype(float)
    frame.loc[::4, "a"] = np.nan
    assert not isinstance(MADE(**QUICK).fit(frame).model_, TableModel)
    made = MADE(**QUICK, missing="value").fit(frame)
    assert made.probability("a is null") == pytest.approx(0.25, abs=0.05)
    assert np.isfinite(made.score_samples(frame)).all()


def test_estimates_of_a_row_depend_on_no_other_row(monkeypatch):
    frame = rows(60).astype({"kind": object})
    frame.loc[::3, "x"] = np.nan
    frame.loc[1::4, "kind"] = None
    made = MADE(**QUICK).fit(frame)
    monkeypatch.setattr(levels, "COMBINATIONS", 0)
    monkeypatch.setattr(tablemodel, "EACH_AT_ONCE", 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ApproximationWarning)
        parts, proba = made.explain(frame), made.conditional(frame, "count").proba
        for i in (3, 9, 33):
            assert np.array_equal(made.explain(frame.iloc[[i]])[0], parts[i])
            assert np.array_equal(made.conditional(frame.iloc[[i]], "count").proba[0], proba[i])


def test_no_context_is_lost_without_a_word():
    frame, bits = rows(60), np.random.default_rng(0).integers(0, 2, (60, 3))
    made = MADE(**{**QUICK, "max_epochs": 1}).fit(bits)
    with pytest.raises(ValueError, match="context must be left out"):
        made.partial_fit(bits, context=frame[["kind"]])
    for fresh in (MADE(**QUICK), MADEEnsemble(2, **QUICK)):
        for X in (bits, frame):
            with pytest.raises(ValueError, match="context_val must come with X_val"):
                fresh.fit(X, context_val=frame[["kind"]])
