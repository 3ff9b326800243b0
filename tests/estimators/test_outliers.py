"""The outlier detector as scikit-learn and PyOD use theirs, and that it finds what is odd and says why."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import polars
import pytest
from sklearn.base import clone, is_outlier_detector
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from made_fast import MADE, MADEEnsemble
from made_fast.estimators.outliers import MADEOutlierDetector


def made(**kwargs) -> MADE:
    few = {"hidden_sizes": (64,), "max_epochs": 20, "batch_size": 50, "learning_rate": 0.005, "random_state": 0}
    return MADE(**{**few, "n_bins": 4, "n_masks": None, "n_eval_masks": 4, "handle_unknown": "rare", **kwargs})


def detector(**kwargs) -> MADEOutlierDetector:
    return MADEOutlierDetector(made(), **{"n_threads": 1, **kwargs})


def pairs(n: int = 600, seed: int = 0) -> np.ndarray:
    """Numbers of which the first and the last go together, and the one between is by itself."""
    rng = np.random.default_rng(seed)
    first = rng.normal(size=n)
    return np.stack([first, 10 + 100 * rng.normal(size=n), 1000 * first + 50 * rng.normal(size=n)], axis=1)


def people(n: int = 500, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    country = rng.choice(["at", "no", "pt"], n)
    lingo = pd.Series(country).map({"at": "de", "no": "nb", "pt": "pt"})
    return pd.DataFrame(
        {
            "country": country,
            "language": lingo,
            "age": rng.integers(18, 90, n),
            "height": rng.normal(1.7, 0.1, n),
            "owner": rng.integers(0, 2, n),
            "member": rng.random(n) < 0.5,
        }
    )


@pytest.fixture(scope="module")
def fitted() -> MADEOutlierDetector:
    return detector().fit(pairs())


WORDS = "the error is right, in the words of tables"
REFUSED_OTHERWISE = {
    "check_complex_data": WORDS,
    "check_dtype_object": WORDS,
    "check_fit2d_1sample": WORDS,
    "check_fit2d_predict1d": WORDS,
}
BRIEF = {"max_epochs": 2, "hidden_sizes": (8,)}


@parametrize_with_checks(
    [MADEOutlierDetector(made(binarize=0.0, **BRIEF), n_threads=1), MADEOutlierDetector(made(**BRIEF), n_threads=1)],
    expected_failed_checks=lambda estimator: {} if estimator.density.binarize is not None else REFUSED_OTHERWISE,
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learn_conventions(estimator, check):
    check(estimator)


def test_a_number_far_outside_is_found_in_its_column():
    X = pairs()
    X[17, 1] = 3000
    found = detector(contamination=0.01).fit(X)
    assert np.argmax(found.decision_scores_) == 17
    assert np.argmax(found.explain(X[17:18])) == 1


def test_numbers_that_do_not_go_together_are_found_though_each_is_common():
    X = pairs()
    X[17] = [1.2, 10, -1200]
    found = detector().fit(X)
    assert np.mean(found.decision_scores_ >= found.decision_scores_[17]) < 0.05
    assert np.argmax(found.explain(X[17:18])) in (0, 2)


def test_it_tells_new_rows_from_those_of_training(fitted):
    good, odd = pairs(300, seed=1), pairs(300, seed=2)
    odd[:, 2] = odd[::-1, 2]
    scores = fitted.score_samples(np.concatenate([good, odd]))
    assert roc_auc_score(np.repeat([1, 0], 300), scores) > 0.8


def test_categories_that_do_not_go_together():
    frame = people()
    frame.loc[40, "language"] = "pt" if frame["country"][40] != "pt" else "de"
    found = MADEOutlierDetector(made(max_epochs=100), contamination=0.01, n_threads=1).fit(frame)
    assert found.predict(frame)[40] == -1
    assert frame.columns[np.argmax(found.explain(frame)[40])] in ("country", "language")
    assert found.feature_names_in_.tolist() == frame.columns.tolist()


def test_binary_rows():
    rng = np.random.default_rng(0)
    X = np.repeat(rng.integers(0, 2, (500, 3)), 2, axis=1)
    X[3, 1] = 1 - X[3, 0]
    found = detector(contamination=0.01).fit(X)
    assert np.argmax(found.decision_scores_) == 3
    assert np.argmax(found.explain(X[3:4])) in (0, 1)
    np.testing.assert_allclose(found.score_samples(X), found.density_.score_samples(X))
    with pytest.raises(ValueError, match="0"):
        found.predict(X + 2)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_contamination_is_the_share_of_odd_rows_of_training(share):
    found = detector(contamination=share).fit(X := pairs())
    assert np.mean(found.predict(X) == -1) == pytest.approx(share)
    assert found.labels_.mean() == pytest.approx(share)
    np.testing.assert_array_equal(detector(contamination=share).fit_predict(X), 1 - 2 * found.labels_)


def test_auto_calls_few_rows_odd_where_none_is():
    X = pairs()
    assert np.mean(detector(contamination="auto").fit_predict(X) == -1) < 0.1
    X[:3] *= 1000
    assert (detector(contamination="auto").fit_predict(X)[:3] == -1).all()


def test_the_signs_are_those_of_scikit_learn_and_of_pyod(fitted):
    X = pairs()
    scores = fitted.score_samples(X)
    np.testing.assert_array_equal(fitted.decision_scores_, -scores)
    assert fitted.threshold_ == -fitted.offset_
    np.testing.assert_array_equal(fitted.labels_, fitted.decision_scores_ > fitted.threshold_)
    np.testing.assert_array_equal(fitted.decision_function(X), scores - fitted.offset_)
    np.testing.assert_array_equal(fitted.predict(X), np.where(scores < fitted.offset_, -1, 1))
    assert is_outlier_detector(fitted)


@pytest.mark.parametrize("bandwidth", [1.0, None])
def test_contributions_add_up_to_the_score(bandwidth):
    frame = people()
    found = detector(bandwidth=bandwidth).fit(frame)
    np.testing.assert_allclose(found.explain(frame).sum(axis=1), found.decision_scores_, atol=1e-4)


def test_missing_entries_are_summed_out():
    X = pairs()
    found = MADEOutlierDetector(made(), n_threads=1).fit(X)
    holes = X[:50].copy()
    holes[:, 1] = np.nan
    assert np.isfinite(found.score_samples(holes)).all()
    added = found.explain(holes)
    assert (added[:, 1] == 0).all()
    holes[4, 0] = 50
    assert np.argmin(found.score_samples(holes)) == 4
    assert np.argmax(found.explain(holes)[4]) == 0
    holed = np.where(np.random.default_rng(0).random(X.shape) < 0.1, np.nan, X)
    found.fit(holed)
    assert np.isfinite(found.decision_scores_).all()


def test_units_do_not_matter():
    X = pairs()
    scaled = X * [1e-3, 1e6, 2.0] + [5, -7, 0]
    np.testing.assert_allclose(
        detector().fit(X).decision_scores_, detector().fit(scaled).decision_scores_, rtol=1e-3, atol=1e-3
    )


def test_values_that_training_does_not_show_are_odd_and_no_errors():
    frame = people()
    found = detector().fit(frame)
    odd = frame.iloc[:3].copy()
    odd["owner"] = [7, 0, 1]
    odd["country"] = ["at", "xx", "no"]
    assert (found.score_samples(odd)[:2] < found.score_samples(frame[:3])[:2] - 2).all()
    assert np.argmax(found.explain(odd)[0]) == 4


def test_numbers_without_end_have_finite_scores(fitted):
    far = np.array([[1e308, 0, 0], [-1e308, 1e308, -1e308], [0, 1e-308, 0]])
    scores = fitted.score_samples(far)
    assert np.isfinite(scores).all()
    assert scores[1] <= scores[0] < scores[2]
    assert np.isfinite(fitted.explain(far)).all()


def test_constant_columns():
    X = np.c_[pairs(), np.full(600, 5.0)]
    found = detector().fit(X)
    same, other = X[:1].copy(), X[:1].copy()
    other[0, 3] = 6000
    assert found.score_samples(other) < found.score_samples(same) - 10
    assert np.argmax(found.explain(other)) == 3


def test_shares_of_rows_as_odd(fitted):
    p = fitted.p_values(pairs(2000, seed=5))
    assert p.min() > 0
    assert p.max() <= 1
    assert abs(np.mean(p <= 0.1) - 0.1) < 0.05


def test_tables_of_other_libraries():
    frame = people()
    found = detector().fit(frame)
    for other in (polars.from_pandas(frame), {name: frame[name].to_numpy() for name in frame}, frame[frame.columns[::-1]]):
        np.testing.assert_allclose(found.score_samples(other), -found.decision_scores_, rtol=1e-6)


def test_arrays_of_text_and_columns_that_the_density_names():
    frame = people()
    text = frame[["country", "language"]].to_numpy(dtype=object)
    assert detector().fit(text).explain(text).shape == text.shape
    codes = np.c_[pairs(), np.random.default_rng(0).integers(0, 3, 600)]
    found = MADEOutlierDetector(made(columns="infer", categorical_features=[3])).fit(codes)
    assert [column.kind for column in found.density_.model_.columns.columns] == ["numeric"] * 3 + ["categorical"]


def test_an_ensemble_and_the_default_density():
    X = pairs(300)
    both = MADEEnsemble(2, hidden_sizes=(16,), max_epochs=3, n_bins=4, random_state=0)
    found = MADEOutlierDetector(both).fit(X)
    assert isinstance(found.density_, MADEEnsemble)
    np.testing.assert_allclose(found.explain(X).sum(axis=1), found.decision_scores_, atol=1e-4)
    assert not hasattr(both, "model_")
    usual = MADEOutlierDetector(random_state=0, n_threads=1)
    np.testing.assert_array_equal(usual.fit(X).decision_scores_, clone(usual).fit(X).decision_scores_)


def test_it_is_an_estimator_like_others():
    found = MADEOutlierDetector(made(), contamination=0.2, n_threads=1)
    assert clone(found).get_params()["contamination"] == 0.2
    found.set_params(density__max_epochs=2, contamination=0.05, bandwidth=2.0)
    assert found.density.max_epochs == 2
    X = pairs(200)
    pipeline = make_pipeline(StandardScaler(), found).fit(X)
    assert np.mean(pipeline.predict(X) == -1) == pytest.approx(0.05)
    assert pipeline.score_samples(X).shape == (200,)
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again.score_samples(X), found.score_samples(X))
    search = GridSearchCV(found, {"bandwidth": [1.0, 3.0]}, scoring=lambda fit, X, y=None: fit.score_samples(X).mean(), cv=2)
    assert search.fit(X).best_params_["bandwidth"] in (1.0, 3.0)


@pytest.mark.parametrize(
    ("parameters", "error", "text"),
    [
        ({"contamination": 0.0}, ValueError, "contamination must be"),
        ({"contamination": 0.6}, ValueError, "at most 0.5"),
        ({"contamination": "some"}, ValueError, "'auto'"),
        ({"contamination": None}, TypeError, "contamination must be"),
        ({"bandwidth": 0}, ValueError, "bandwidth must be"),
        ({"bandwidth": "wide"}, TypeError, "bandwidth must be"),
        ({"density": StandardScaler()}, TypeError, "density must be None, a MADE or a MADEEnsemble, got .*StandardScaler"),
        ({"n_threads": 0}, ValueError, "n_threads must be"),
    ],
)
def test_wrong_parameters_are_named(parameters, error, text):
    with pytest.raises(error, match=text):
        MADEOutlierDetector(**parameters).fit(pairs(50))


def test_wrong_tables_are_named(fitted):
    with pytest.raises(NotFittedError):
        MADEOutlierDetector().predict(pairs(5))
    with pytest.raises(ValueError, match="3 columns"):
        fitted.predict(pairs(5)[:, :2])
    with pytest.raises(TypeError, match="X must hold numbers"):
        fitted.predict(np.array([["a", "b", "c"]], dtype=object))
    with pytest.raises(ValueError, match="X"):
        MADEOutlierDetector().fit(np.full((20, 2), np.inf))
