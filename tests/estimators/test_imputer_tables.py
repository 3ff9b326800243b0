"""The imputer on tables with columns of any kind; that of 0/1 rows is in ``test_imputer.py``."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import polars
import pytest
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.exceptions import NotFittedError
from sklearn.impute import MissingIndicator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import OneHotEncoder

from made_fast import MADE, MADEEnsemble, MADEImputer

SIZES = {"small": 10.0, "middle": 20.0, "large": 40.0}


def frame(n: int = 300, seed: int = 0) -> pd.DataFrame:
    """Return rows whose columns say the same: a size, its word, whether it is large, and a number beside it."""
    rng = np.random.default_rng(seed)
    word = rng.choice(list(SIZES), n)
    return pd.DataFrame(
        {
            "word": word.astype(object),
            "length": [SIZES[w] for w in word] + rng.normal(0, 1, n),
            "large": word == "large",
            "pieces": np.array([list(SIZES).index(w) * 2 + 1 for w in word]),
        },
        index=range(1000, 1000 + n),
    )


def with_holes(X: pd.DataFrame, share: float = 0.2, seed: int = 0) -> pd.DataFrame:
    gone = np.random.default_rng(seed).random(X.shape) < share
    return X.astype({"large": "boolean", "pieces": "Int64"}).mask(gone)


def made(**kwargs) -> MADE:
    few = {"hidden_sizes": (32,), "max_epochs": 15, "batch_size": 20, "learning_rate": 0.01, "n_bins": 8, "random_state": 0}
    return MADE(**{**few, "n_masks": None, "n_eval_masks": 4, "n_threads": 1, "dropout": 0.0, **kwargs})


def small(**kwargs) -> MADE:
    return made(max_epochs=1, hidden_sizes=(8,), **kwargs)


def equal(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    pd.testing.assert_frame_equal(one, other)
    return True


@pytest.fixture(scope="module")
def fitted() -> MADEImputer:
    return MADEImputer(made(), random_state=0).fit(with_holes(frame()))


@pytest.mark.parametrize("method", ["mode", "mean"])
def test_it_fills_in_what_the_data_say(fitted, method):
    X = frame(200, seed=1)
    holes = with_holes(X, seed=1)
    filled = clone(fitted).set_params(method=method).fit(with_holes(frame())).transform(holes)
    gone, known = holes.isna(), holes.notna().any(axis=1)
    assert not filled.isna().any(axis=None)
    assert filled.index.equals(X.index)
    assert filled.columns.tolist() == X.columns.tolist()
    for name in X:
        asked = gone[name]
        assert (filled.loc[~asked, name] == X.loc[~asked, name]).all()
        asked &= known
        if name == "length":
            assert np.abs(filled.loc[asked, name] - X.loc[asked, name]).mean() < 4 < X["length"].std()
        elif name != "pieces" or method == "mode":
            assert (filled.loc[asked, name] == X.loc[asked, name]).mean() > 0.9
    assert equal(filled, clone(fitted).fit(with_holes(frame())).model_.impute(holes, method, random_state=0))


def test_draws_differ_and_repeat(fitted):
    part = frame(50).assign(word=None, large=None)
    imputer = MADEImputer(made(), method="sample", random_state=1).fit(with_holes(frame()))
    once = imputer.transform(part)
    assert equal(once, imputer.transform(part))
    assert equal(once, imputer.set_params(n_threads=2).transform(part))
    empty = with_holes(frame(50), 1.0)
    drawn = imputer.transform(empty)
    assert drawn["word"].nunique() == 3
    assert not drawn.equals(imputer.set_params(random_state=2).transform(empty))


def test_what_the_estimator_is_told_of_the_table(fitted):
    holes = with_holes(frame())
    assert fitted.n_features_in_ == 4
    assert fitted.feature_names_in_.tolist() == holes.columns.tolist()
    assert fitted.estimator_.feature_names_in_.tolist() == holes.columns.tolist()
    assert fitted.get_feature_names_out().tolist() == holes.columns.tolist()
    assert fitted.empty_features_.tolist() == []
    assert fitted.indicator_ is None
    assert fitted.score(holes) == fitted.model_.score(holes) == fitted.estimator_.score(holes)
    with pytest.raises(NotFittedError):
        MADEImputer(made()).transform(holes)
    with pytest.raises(NotFittedError):
        MADEImputer(made()).score(holes)


def test_weights_and_validation_rows_reach_the_estimator():
    X, X_val = with_holes(frame(100)), with_holes(frame(40, seed=1))
    weights = np.where(np.arange(100) < 50, 2.0, 0.0)
    imputer = MADEImputer(small()).fit(X, sample_weight=weights, X_val=X_val)
    right = small().fit(X, sample_weight=weights, X_val=X_val)
    assert imputer.score(X) == right.score(X)
    assert imputer.estimator_.history_[0]["validation_nll"] == right.history_[0]["validation_nll"]


def test_arrays_and_ensembles():
    X = frame()[["length", "pieces"]].to_numpy()
    holes = np.where(np.random.default_rng(0).random(X.shape) < 0.2, np.nan, X)
    holes[5, 0] = np.nan
    ensemble = MADEEnsemble(2, **made(columns="infer").get_params() | {"random_state": 0})
    for estimator in (made(columns="infer"), ensemble):
        imputer = MADEImputer(estimator, method="mean", random_state=0).fit(holes)
        filled = imputer.transform(holes)
        assert isinstance(filled, np.ndarray)
        assert filled.dtype == X.dtype
        assert (filled[~np.isnan(holes)] == holes[~np.isnan(holes)]).all()
        assert np.abs(filled - X)[np.isnan(holes)[:, 0] & ~np.isnan(holes)[:, 1], 0].mean() < 4
        assert imputer.get_feature_names_out().tolist() == ["x0", "x1"]
        as_frame = imputer.set_output(transform="pandas").transform(holes)
        assert as_frame.columns.tolist() == ["x0", "x1"]
        with pytest.raises(ValueError, match="must have 2 columns"):
            imputer.transform(holes[:, :1])
    with pytest.raises(ValueError, match="must hold only 0 and 1"):  # without columns="infer" an array is 0/1
        MADEImputer(small()).fit(holes)


def test_an_imputer_may_be_fitted_again_on_rows_of_another_kind(fitted):
    X = np.where(np.random.default_rng(0).random((60, 5)) < 0.2, np.nan, 1.0)
    X[::2] = np.where(np.isnan(X[::2]), np.nan, 0)
    imputer = MADEImputer(small(), add_indicator=True, random_state=0).fit(X)
    assert imputer.transform(X).shape == (60, 10)
    imputer.set_params(add_indicator=False).fit(with_holes(frame()))
    assert imputer.transform(with_holes(frame())).shape == (300, 4)
    assert imputer.get_feature_names_out().tolist() == ["word", "length", "large", "pieces"]
    assert MADEImputer(small(), random_state=0).fit(X).transform(X).shape == (60, 5)


def test_frames_of_other_libraries_and_outputs(fitted):
    holes = with_holes(frame(60, seed=2))
    filled = fitted.transform(holes)
    text = [None if value is None or value != value else value for value in holes["word"].tolist()]
    other = polars.DataFrame(
        {
            "word": text,
            "length": polars.Series(holes["length"].tolist(), nan_to_null=True),
            "large": [None if value is pd.NA else value for value in holes["large"].tolist()],
            "pieces": [None if value is pd.NA else value for value in holes["pieces"].tolist()],
        }
    )
    imputer = MADEImputer(made(), random_state=0).fit(with_holes(frame()))
    assert equal(imputer.transform(other).reset_index(drop=True), filled.reset_index(drop=True))  # like those of fit
    assert isinstance(imputer.set_output(transform="polars").transform(holes), polars.DataFrame)
    assert equal(imputer.set_output(transform="pandas").transform(holes), filled)
    of_polars = MADEImputer(small()).fit(other).transform(other)
    assert isinstance(of_polars, polars.DataFrame)
    assert of_polars.schema == other.schema
    assert of_polars.null_count().sum_horizontal().item() == 0


def test_columns_are_matched_by_name_and_come_back_in_the_order_of_fit(fitted):
    holes = with_holes(frame(60, seed=2))
    filled = fitted.transform(holes)
    assert equal(fitted.transform(holes[holes.columns[::-1]]), filled)
    with pytest.raises(ValueError, match="it lacks 'length'"):
        fitted.transform(holes.drop(columns="length"))
    with pytest.raises(ValueError, match=r"it has beside them 'Length'\. Did you mean 'length'"):
        fitted.transform(holes.rename(columns={"length": "Length"}))
    with pytest.raises(ValueError, match="has more than once"):
        fitted.score(pd.concat([holes, holes[["word"]]], axis=1))


def test_what_is_refused():
    X = with_holes(frame(60))
    with pytest.raises(ValueError, match="column 'word' with nothing but missing ones"):
        MADEImputer(small()).fit(X.assign(word=None))
    with pytest.raises(ValueError, match="got missing='value'"):
        MADEImputer(small(missing="value")).fit(X)
    with pytest.raises(ValueError, match="add_indicator must be False"):
        MADEImputer(small(), add_indicator=True).fit(X)
    with pytest.raises(ValueError, match="method must be"):
        MADEImputer(small(), method="median").fit(X)
    imputer = MADEImputer(small()).fit(X)
    with pytest.raises(ValueError, match=r"categories of training in column 'word', got 'huge' in row 3"):
        imputer.transform(X.assign(word=["small"] * 3 + ["huge"] + ["small"] * 56))
    with pytest.raises(TypeError, match="column 'length'"):
        imputer.transform(X.assign(length="long"))
    seen = MADEImputer(small(handle_unknown="rare")).fit(X)
    filled = seen.transform(X.assign(word=["huge"] * 60))
    assert (filled["word"] == "huge").all()  # what is there stays, whatever it counts as
    assert not filled.isna().any(axis=None)


def test_in_pipelines_searches_unions_and_pickles():
    X, y = with_holes(frame(120)), np.arange(120) % 2
    columns = make_column_transformer((OneHotEncoder(), ["word", "large"]), remainder="passthrough")
    pipeline = make_pipeline(MADEImputer(small(), random_state=0), columns, LogisticRegression(max_iter=10_000))
    search = GridSearchCV(pipeline, {"madeimputer__method": ["mode", "mean"]}, cv=2).fit(X, y)
    assert 0 < search.best_score_ < 1
    assert not hasattr(search.best_estimator_[0].estimator, "model_")  # the parameter itself is not fitted
    by_likelihood = GridSearchCV(MADEImputer(made(), random_state=0), {"estimator__max_epochs": [1, 15]}, cv=2).fit(X)
    assert by_likelihood.best_params_ == {"estimator__max_epochs": 15}
    both = make_union(MADEImputer(small(), random_state=0), MissingIndicator())
    assert both.set_output(transform="pandas").fit_transform(X[["word", "length"]]).shape == (120, 4)
    imputer = MADEImputer(small(), random_state=0).fit(X)
    assert equal(pickle.loads(pickle.dumps(imputer)).transform(X), imputer.transform(X))
    assert equal(clone(imputer).fit(X).transform(X), imputer.transform(X))
