"""The imputer as scikit-learn uses it, and that it fills in what the data say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

from made_fast import MADE, MADEImputer

MISSING = 0.25


def blobs(n: int, seed: int = 0) -> np.ndarray:
    """Noisy copies of four patterns of 12 inputs."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(99).random((4, 12)) < 0.5
    return (patterns[rng.integers(4, size=n)] ^ (rng.random((n, 12)) < 0.02)).astype(float)


def with_holes(X: np.ndarray, seed: int = 0) -> np.ndarray:
    return np.where(np.random.default_rng(seed).random(X.shape) < MISSING, np.nan, X)


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


@pytest.mark.parametrize(
    ("method", "dtype", "better"), [("mode", np.uint8, 0.1), ("mean", np.float64, 0.15), ("sample", np.uint8, 0.2)]
)
def test_it_fills_in_what_the_data_say(fitted, method, dtype, better):
    X = blobs(400, seed=1)
    holes = with_holes(X, seed=1)
    filled = fitted.set_params(method=method).transform(holes)
    fitted.set_params(method="mode")
    assert filled.dtype == dtype
    seen = ~np.isnan(holes)
    assert (filled[seen] == X[seen]).all()
    wrong = abs(filled - X)[~seen].mean()
    assert wrong < better < np.minimum(X.mean(axis=0), 1 - X.mean(axis=0)).mean()  # what the best constant gets wrong
    assert (fitted.transform(holes) == fitted.model_.impute(holes, random_state=0)).all()


def test_several_members_and_threads(fitted):
    holes = with_holes(blobs(50, seed=2))
    imputer = clone(fitted).set_params(n_members=3, method="mean")
    imputer.estimator_, imputer.model_, imputer.n_features_in_ = fitted.estimator_, fitted.model_, 12
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


def test_frames_and_sparse_tables():
    X = with_holes(blobs(100))
    names = [f"item {d}" for d in range(12)]
    frame = pd.DataFrame(X, columns=names)
    imputer = MADEImputer(made(max_epochs=3), random_state=0).fit(frame)
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
