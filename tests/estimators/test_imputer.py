"""The imputer as scikit-learn uses it, and that it fills in what the data say."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pandas as pd
import polars
import pytest
import scipy.sparse
import sklearn
from fits import rows, with_gaps
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.exceptions import NotFittedError
from sklearn.impute import MissingIndicator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

from made_fast import MADE, MADEEnsemble, MADEImputer
from made_fast.tables import arrays


def blobs(n: int, seed: int = 0) -> np.ndarray:
    return rows(n, seed=seed, flip=0.02).astype(float)


def with_holes(X: np.ndarray, seed: int = 0) -> np.ndarray:
    return with_gaps(X, 0.25, seed)


def made(**kwargs) -> MADE:
    few = {"hidden_sizes": (30,), "max_epochs": 40, "batch_size": 20, "learning_rate": 0.01, "random_state": 0}
    return MADE(**{**few, "n_masks": None, "n_eval_masks": 4, **kwargs})


@pytest.fixture(scope="module")
def fitted() -> MADEImputer:
    return MADEImputer(made(), random_state=0).fit(with_holes(blobs(1000)))


@parametrize_with_checks([MADEImputer(made(binarize=0.0, max_epochs=2, hidden_sizes=(8,)), random_state=0)])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learn_conventions(estimator, check):
    check(estimator)


@pytest.mark.parametrize(("method", "better"), [("mode", 0.1), ("mean", 0.15), ("sample", 0.2)])
def test_it_fills_in_what_the_data_say(fitted, method, better):
    X = blobs(400, seed=1)
    holes = with_holes(X, seed=1)
    filled = fitted.set_params(method=method).transform(holes)
    fitted.set_params(method="mode")
    seen = ~np.isnan(holes)
    assert (filled[seen] == X[seen]).all()
    wrong = abs(filled - X)[~seen].mean()
    assert wrong < better < np.minimum(X.mean(axis=0), 1 - X.mean(axis=0)).mean()  # what the best constant gets wrong
    assert (fitted.transform(holes) == fitted.model_.impute(holes, random_state=0)).all()


def test_several_members_and_threads(fitted):
    holes = with_holes(blobs(50, seed=2))
    imputer = copy.deepcopy(fitted).set_params(n_members=3, method="mean")
    once = imputer.set_params(n_threads=1).transform(holes)
    assert (imputer.set_params(n_threads=3).transform(holes) == once).all()
    assert (once == fitted.model_.impute(holes, "mean", n_members=3)).all()


def test_the_default_estimator_is_order_agnostic():
    imputer = MADEImputer(random_state=3)
    X = with_holes(blobs(20))
    made_by_default = imputer.fit(X).estimator_
    assert made_by_default.n_masks is None
    assert made_by_default.random_state == 3
    assert not np.isnan(imputer.transform(X)).any()
    assert (imputer.transform(X) == imputer.transform(X)).all()


def test_in_a_pipeline_and_a_search():
    X = with_holes(blobs(300))
    y = np.nan_to_num(X[:, 0]).astype(int)
    pipeline = make_pipeline(MADEImputer(made(max_epochs=5)), LogisticRegression())
    search = GridSearchCV(
        pipeline, {"madeimputer__method": ["mode", "mean"], "madeimputer__estimator__max_epochs": [2, 5]}, cv=2
    )
    assert search.fit(X, y).best_score_ > 0.5
    assert search.best_estimator_[0].estimator_.max_epochs in (2, 5)
    assert search.best_estimator_[0].estimator.n_masks is None  # the parameter itself is not fitted
    assert not hasattr(search.best_estimator_[0].estimator, "model_")


def test_frames_and_sparse_tables(monkeypatch):
    X, read = with_holes(blobs(100)), []
    names = [f"item {d}" for d in range(12)]
    frame = pd.DataFrame(X, columns=names)
    monkeypatch.setattr(arrays, "of_frame", lambda X, name, real=arrays.of_frame: read.append(name) or real(X, name))
    imputer = MADEImputer(made(max_epochs=3), random_state=0).fit(frame)
    assert read == ["X"]
    assert imputer.estimator_.feature_names_in_.tolist() == list(imputer.model_.feature_names) == names
    with pytest.raises(ValueError, match="names of the columns must differ"):
        MADEImputer(made(max_epochs=3)).fit(frame.rename(columns={"item 1": "item 0"}))
    assert imputer.get_feature_names_out().tolist() == names
    filled = imputer.set_output(transform="pandas").transform(frame)
    assert isinstance(filled, pd.DataFrame)
    assert filled.columns.tolist() == names
    with pytest.raises(ValueError, match="feature names"):
        imputer.transform(frame[names[::-1]])
    sparse = MADEImputer(made(max_epochs=3), random_state=0).fit(scipy.sparse.csr_array(X))
    assert (sparse.transform(scipy.sparse.csr_array(X)) == filled).all(axis=None)


def test_tags_and_refusals():
    tags = get_tags(MADEImputer())
    assert tags.input_tags.allow_nan
    assert tags.input_tags.sparse
    X = with_holes(blobs(40))
    with pytest.raises(NotFittedError):
        MADEImputer().transform(X)
    for wrong, text in (({"method": "median"}, "method"), ({"n_members": 0}, "n_members"), ({"n_walks": 0}, "n_walks")):
        with pytest.raises(ValueError, match=f"{text} must be"):
            MADEImputer(**wrong).fit(X)
    with pytest.raises(ValueError, match=r"X must have shape \(rows, 12\), got \(40, 11\)"):
        MADEImputer(made(max_epochs=1)).fit(X).transform(X[:, :11])


# Columns that were never observed


def hollow(n: int = 200, *, empty: tuple[int, ...] = (3, 7)) -> np.ndarray:
    X = with_holes(blobs(n))
    X[:, list(empty)] = np.nan
    return X


def small(**kwargs) -> MADE:
    return made(max_epochs=2, hidden_sizes=(8,), n_threads=1, **kwargs)


def fit_hollow(X, estimator=None, **kwargs) -> tuple[MADEImputer, str]:
    """Fit an imputer; return it and the only warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        imputer = MADEImputer(small() if estimator is None else estimator, random_state=0, **kwargs).fit(X)
    assert len(caught) == 1
    assert caught[0].category is UserWarning
    assert caught[0].filename == __file__
    return imputer, str(caught[0].message)


@pytest.mark.parametrize("method", ["mode", "mean", "sample"])
@pytest.mark.parametrize(
    "estimator",
    [
        small(), small(n_masks=1), small(binarize=0.5), small(ordering=range(12, 0, -1)),
        MADEEnsemble(2, hidden_sizes=(8,), max_epochs=1),
    ],
    ids=["any order", "one order", "threshold", "own order", "ensemble"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::made_fast.inference.density.ApproximationWarning")
def test_columns_never_observed_are_told_of_and_filled_with_zeros(estimator, method):
    X = hollow()
    imputer, text = fit_hollow(X, estimator, method=method)
    assert "in 2 column(s): 3, 7. Nothing is learned of them: transform fills them with 0" in text
    filled = imputer.transform(X)
    assert filled.shape == X.shape
    assert (filled[:, [3, 7]] == 0).all()
    assert not np.isnan(filled).any()
    seen = ~np.isnan(X)
    assert (filled[seen] == X[seen]).all()
    assert imputer.n_features_in_ == 12
    assert imputer.model_.n_features_in == 10
    X[5, 3] = X[6, 7] = 1  # given now, and nothing follows from it
    given = imputer.transform(X)
    filled[5, 3] = filled[6, 7] = 1
    assert (given == filled).all()


def test_columns_never_observed_do_not_touch_the_others():
    X = hollow()
    imputer, _ = fit_hollow(X)
    others = np.delete(X, [3, 7], axis=1)
    alone = MADEImputer(small(), random_state=0).fit(others)
    assert (np.delete(imputer.transform(X), [3, 7], axis=1) == alone.transform(others)).all()
    assert imputer.score(X) == alone.score(others)
    places = [7, 1, 12, 3, 2, 10, 4, 5, 6, 8, 11, 9]  # their order stays when two leave
    imputer, _ = fit_hollow(X, small(ordering=places, n_masks=1))
    assert imputer.model_.masks.orderings[0].tolist() == _ranks(np.delete(places, [3, 7]))


def _ranks(values: np.ndarray) -> list[int]:
    return [int((values <= value).sum()) for value in values]


def test_columns_never_observed_may_be_left_out():
    names = [f"item {d}" for d in range(12)]
    frame = pd.DataFrame(hollow(), columns=names, index=range(100, 300))
    imputer, text = fit_hollow(frame, keep_empty_features=False, add_indicator=True)
    assert "in 2 column(s): 'item 3', 'item 7'. Nothing is learned of them: transform leaves them out" in text
    filled = imputer.set_output(transform="pandas").transform(frame)
    left = [name for name in names if name not in ("item 3", "item 7")]
    assert filled.columns.tolist() == left + [f"missingindicator_{name}" for name in names]
    assert filled.index.tolist() == frame.index.tolist()
    assert imputer.estimator_.feature_names_in_.tolist() == left
    many = np.full((5, 30), np.nan)
    many[:, :2] = 1
    _, text = fit_hollow(many)
    assert "in 28 column(s): 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ... Nothing" in text.replace("....", "...")


def test_empty_columns_of_sparse_tables_and_of_validation_rows():
    X = hollow()
    imputer, _ = fit_hollow(X)
    sparse, _ = fit_hollow(scipy.sparse.csr_array(X))
    assert (sparse.transform(scipy.sparse.csr_array(X)) == imputer.transform(X)).all()
    with pytest.warns(UserWarning, match="no observed entry") as caught:
        validated = MADEImputer(small(), random_state=0).fit(X, X_val=blobs(50))  # which has them
    assert len(caught) == 1
    others, X_val = (np.delete(table, [3, 7], axis=1) for table in (X, blobs(50)))
    right = small().fit(others, X_val=X_val)
    assert validated.estimator_.history_[0]["validation_nll"] == right.history_[0]["validation_nll"]
    assert validated.empty_features_.tolist() == [3, 7]


def test_what_is_refused_keeps_the_numbers_of_its_columns():
    X = hollow()
    wrong = X.copy()
    wrong[4, 9] = 2
    with (
        pytest.warns(UserWarning, match="no observed entry"),
        pytest.raises(ValueError, match=r"X must hold only 0 and 1, got 2\.0 at row 4, column 9"),
    ):
        MADEImputer(small()).fit(wrong)
    imputer, _ = fit_hollow(X)
    with pytest.raises(ValueError, match=r"got 2\.0 at row 4, column 9"):
        imputer.transform(wrong)
    with (
        pytest.warns(UserWarning, match="no observed entry"),
        pytest.raises(ValueError, match=r"X_val must hold .* at row 4, column 9"),
    ):
        MADEImputer(small()).fit(X, X_val=wrong)
    with pytest.raises(ValueError, match="got NaN everywhere"):
        MADEImputer(small()).fit(np.full((3, 4), np.nan))
    for name in ("keep_empty_features", "add_indicator"):
        with pytest.raises(TypeError, match=f"{name} must be True or False"):
            MADEImputer(small(), **{name: "no"}).fit(X)


# What comes out


def test_indicators_are_those_of_scikit_learn():
    X = with_holes(blobs(100))
    X[:, 2] = np.nan_to_num(X[:, 2])
    imputer = MADEImputer(small(), add_indicator=True, random_state=0).fit(X)
    other = with_holes(blobs(30, seed=4), seed=4)  # misses entries of column 2 too
    filled = imputer.transform(other)
    expected = MissingIndicator(error_on_new=False).fit(X).transform(other)
    assert (filled[:, 12:] == expected).all()
    assert (filled[:, :12] == clone(imputer).set_params(add_indicator=False).fit(X).transform(other)).all()
    names = [*(f"x{d}" for d in range(12)), *(f"missingindicator_x{d}" for d in range(12) if d != 2)]
    assert imputer.get_feature_names_out().tolist() == names
    sparse = clone(imputer).fit(scipy.sparse.csr_array(X))
    assert (sparse.transform(scipy.sparse.csr_array(other)) == filled).all()


@pytest.mark.parametrize("indicator", [False, True])
@pytest.mark.parametrize("method", ["mode", "mean", "sample"])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "g", ">f4", "i1", "u1", "i8", "?", "O"])
def test_the_dtype_of_the_table_is_kept(fitted, dtype, method, indicator):
    X = blobs(20, seed=3)
    imputer = copy.deepcopy(fitted).set_params(method=method)
    if indicator:
        imputer.indicator_ = MissingIndicator(error_on_new=False, sparse=False).fit(with_holes(X))
    kept = np.dtype(dtype).newbyteorder("=")
    if kept.hasobject or (method == "mean" and kept.kind != "f"):
        kept = np.dtype(np.float64)
    whole = imputer.transform(X.astype(dtype))
    assert whole.dtype == kept
    assert (whole[:, :12] == X).all()  # nothing is missing, nothing changes
    if np.dtype(dtype).kind in "fO":  # others hold no NaN
        holes = with_holes(X).astype(dtype)
        filled = imputer.transform(holes)
        assert filled.dtype == kept
        assert filled.dtype.isnative
        expected = fitted.model_.impute(with_holes(X), method, random_state=0).astype(kept)
        assert (filled[:, :12] == expected).all()
        assert np.isnan(np.asarray(holes, float)).any()  # the table itself is as it was


@pytest.mark.parametrize(
    ("kinds", "kept"),
    [
        (["Int8"] * 12, "int8"),
        (["boolean"] * 12, "bool"),
        (["bool[pyarrow]"] * 12, "bool"),
        (["Float32"] * 12, "float32"),
        (["Int8"] * 6 + ["boolean"] * 6, "int8"),
        (["float32"] * 11 + ["Int8"], "float32"),
        (["float64"] * 6 + ["boolean"] * 6, "float64"),
        (["object"] * 12, "float64"),
    ],
)
def test_frames_come_back_in_the_dtype_that_holds_their_columns(kinds, kept):
    X = with_holes(blobs(20, seed=3))
    names = list("abcdefghijkl")
    fitted = MADEImputer(small(), random_state=0).fit(pd.DataFrame(X, columns=names))
    frame = pd.DataFrame(X, columns=names, index=range(50, 70))
    for gaps in (frame, frame.fillna(0)):
        typed = gaps.astype(dict(zip(names, kinds, strict=True)))
        for method in ("mode", "mean"):
            imputer = copy.deepcopy(fitted).set_params(method=method).set_output(transform="pandas")
            filled = imputer.transform(typed)
            assert filled.index.tolist() == typed.index.tolist()
            assert set(filled.dtypes) == {np.dtype("float64" if method == "mean" and not kept.startswith("f") else kept)}
            np.testing.assert_array_equal(
                filled.to_numpy(float),
                fitted.model_.impute(gaps.to_numpy(), method, random_state=0).astype(filled.dtypes.iloc[0]),
            )


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")  # older versions of scikit-learn
def test_polars_frames():
    X = with_holes(blobs(40))
    frame = polars.DataFrame({f"c{d}": column for d, column in enumerate(X.T)}, nan_to_null=True)
    frame = frame.with_columns(c3=polars.lit(None, polars.Float64))
    imputer, text = fit_hollow(frame)
    assert "'c3'" in text
    filled = imputer.set_output(transform="polars").transform(frame)
    assert filled.columns == frame.columns
    assert filled["c3"].to_list() == [0.0] * 40
    assert imputer.estimator_.feature_names_in_.tolist() == [name for name in frame.columns if name != "c3"]


# scikit-learn around it


def test_weights_and_validation_rows_reach_the_estimator():
    X, X_val = with_holes(blobs(100)), blobs(30, seed=1)
    weights = np.where(np.arange(100) < 50, 2.0, 0.0)
    imputer = MADEImputer(small(), random_state=0).fit(X, sample_weight=weights, X_val=X_val)
    right = small().fit(X, sample_weight=weights, X_val=X_val)
    assert imputer.score(X) == right.score(X)
    assert imputer.estimator_.history_[0]["validation_nll"] == right.history_[0]["validation_nll"]
    pipeline = make_pipeline(MADEImputer(small(), random_state=0), LogisticRegression())
    y = np.arange(100) % 2
    pipeline.fit(X, y, madeimputer__sample_weight=weights, madeimputer__X_val=X_val)
    assert pipeline[0].score(X) == right.score(X)
    with sklearn.config_context(enable_metadata_routing=True):
        asking = MADEImputer(small(), random_state=0).set_fit_request(sample_weight=True, X_val=True)
        routed = make_pipeline(asking, LogisticRegression().set_fit_request(sample_weight=False))
        assert routed.fit(X, y, sample_weight=weights, X_val=X_val)[0].score(X) == right.score(X)
    with pytest.raises(ValueError, match="sample_weight must have shape"):
        MADEImputer(small()).fit(X, sample_weight=weights[:5])


def test_the_score_is_the_likelihood_of_what_is_observed_and_searches_by_it():
    X = with_holes(blobs(300))
    imputer = MADEImputer(small(), random_state=0).fit(X)
    assert imputer.score(X) == imputer.estimator_.score(X)
    gaps = X[np.isnan(X).any(axis=1)]
    assert imputer.score(gaps) == imputer.model_.log_marginal(gaps).mean()
    search = GridSearchCV(imputer, {"estimator__max_epochs": [1, 30]}, cv=2).fit(X)
    assert search.best_params_ == {"estimator__max_epochs": 30}
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_in_a_column_transformer_as_a_clone_and_pickled():
    X = with_holes(blobs(60))
    frame = pd.DataFrame(X, columns=[f"item {d}" for d in range(12)]).assign(age=np.arange(60))
    items = [name for name in frame if name != "age"]
    columns = make_column_transformer(
        (MADEImputer(small(), random_state=0), items), remainder="passthrough", verbose_feature_names_out=False
    )
    out = columns.set_output(transform="pandas").fit_transform(frame)
    assert out.columns.tolist() == frame.columns.tolist()
    assert not out.isna().any(axis=None)
    imputer = columns.named_transformers_["madeimputer"]
    expected = imputer.transform(frame[items])
    assert (pickle.loads(pickle.dumps(imputer)).transform(frame[items]) == expected).all(axis=None)
    params = clone(imputer.set_params(keep_empty_features=False, add_indicator=True)).get_params()
    assert (params["keep_empty_features"], params["add_indicator"]) == (False, True)
