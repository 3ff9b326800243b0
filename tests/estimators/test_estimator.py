"""The estimator through its public methods, on small data and, where they are at hand, on real sets."""

from __future__ import annotations

import pickle
import tracemalloc

import numpy as np
import pytest
import scipy.sparse
from fits import FRESH, PLAIN, SHARED, parameters, rows, small
from helpers import all_inputs
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Binarizer
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

from made_fast import MADE, load


@parametrize_with_checks(
    [
        MADE(binarize=0.0, max_epochs=3, hidden_sizes=(8,), n_threads=1),
        MADE(binarize=0.5, max_epochs=2),
        MADE(binarize=0.0, max_epochs=2, hidden_sizes=(8, 6), dropout=0.2, clip_norm=1.0, **SHARED),
        MADE(binarize=0.0, max_epochs=2, hidden_sizes=(8,), **FRESH),
    ]
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learn_conventions(estimator, check):
    check(estimator)


@pytest.mark.parametrize("hidden_sizes", [(), (30,), (30, 20), (16,) * 5])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", [{}, SHARED, FRESH], ids=["one", "shared", "fresh"])
def test_training_learns_and_stays_normalised(hidden_sizes, dtype, options):
    X, X_test = rows(2000), rows(500, seed=1)
    slow = options is FRESH and len(hidden_sizes) == 5  # narrow and deep, and never the same masks
    start = {"bias_init": "zeros"} if slow else {}  # from the marginals, it learns nothing else in 60 epochs
    made = small(hidden_sizes=hidden_sizes, dtype=dtype, max_epochs=30, **start, **options).fit(X)
    p = (X.sum(axis=0) + 1) / (len(X) + 2)
    independent = np.log(np.where(X_test == 1, p, 1 - p)).sum(axis=1).mean()
    assert made.score(X_test) > independent + (0.1 if slow else 1 if hidden_sizes else 0.5)
    total = np.exp(made.score_samples(all_inputs(12))).sum()
    assert abs(total - 1) < (1e-5 if dtype == "float32" else 1e-10)
    assert made.history_[-1]["train_nll"] < made.history_[0]["train_nll"]


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adagrad", "adadelta", "rmsprop", "adam"])
@pytest.mark.parametrize("options", [{}, SHARED], ids=["one", "shared"])
def test_every_optimizer_learns(optimizer, options):
    made = small(optimizer=optimizer, learning_rate=None, max_epochs=20, **options).fit(rows(1000))
    assert made.history_[-1]["train_nll"] < made.history_[0]["train_nll"] - 0.5


@pytest.mark.parametrize("options", [{}, SHARED, FRESH], ids=["one", "shared", "fresh"])
def test_fit_again_starts_afresh(options):
    X = rows(300)
    made = small(**options).fit(rows(200, seed=5))
    assert (parameters(made.fit(X)) == parameters(small(**options).fit(X))).all()


@pytest.mark.parametrize("options", [{}, SHARED], ids=["one", "shared"])
def test_every_way_to_write_the_same_data_gives_the_same_model(options):
    X = rows(300)
    expected = parameters(small(max_epochs=2, **options).fit(X))
    for same in (X.astype(bool), X.astype(np.float64), X.astype(np.int64), np.asfortranarray(X), X.astype(">f4"),
                 scipy.sparse.csr_matrix(X), scipy.sparse.csc_array(X), scipy.sparse.coo_array(X), X.tolist()):  # fmt: skip
        assert (parameters(small(max_epochs=2, **options).fit(same)) == expected).all()


def test_every_way_to_write_the_same_missing_entries_gives_the_same_model():
    X = rows(300).astype(np.float64)
    X[np.random.default_rng(0).random(X.shape) < 0.1] = np.nan
    expected = parameters(small(max_epochs=2).fit(X))
    for same in (X.astype(np.float32), X.astype(">f8"), np.asfortranarray(X), scipy.sparse.csr_matrix(X),
                 scipy.sparse.csc_array(X), X.astype(object), X.tolist()):  # fmt: skip
        assert (parameters(small(max_epochs=2).fit(same)) == expected).all()
    real = np.where(np.isnan(X), X, np.where(X == 1, 0.9, -0.3))
    for binarize in (0.5, -0.1):
        assert (parameters(small(max_epochs=2, binarize=binarize).fit(real)) == expected).all()
        assert (parameters(small(max_epochs=2, binarize=binarize).fit(scipy.sparse.csr_array(real))) == expected).all()


def test_memmap_and_data_frame(tmp_path):
    pd = pytest.importorskip("pandas")
    X = rows(300)
    expected = parameters(small(max_epochs=2).fit(X))
    np.save(tmp_path / "X.npy", X)
    assert (parameters(small(max_epochs=2).fit(np.load(tmp_path / "X.npy", mmap_mode="r"))) == expected).all()
    frame = pd.DataFrame(X, columns=[f"c{i}" for i in range(12)])
    made = small(max_epochs=2).fit(frame)
    assert (parameters(made) == expected).all()
    assert made.feature_names_in_.tolist() == list(frame.columns)
    with pytest.raises(ValueError, match="feature names"):
        made.score(frame[list(frame.columns)[::-1]])


def test_it_says_that_it_takes_missing_entries():
    assert get_tags(MADE()).input_tags.allow_nan
    assert get_tags(MADE()).input_tags.sparse
    X = rows(50).astype(float)
    X[3, 4] = np.nan
    made = small().fit(X)
    assert np.isfinite(made.score(rows(50)))
    for method in (made.score_samples, made.conditional_proba):
        with pytest.raises(ValueError, match="got NaN at row 3, column 4"):
            method(X)


def test_binarize_is_the_threshold_of_the_saved_model_too(tmp_path):
    X = rows(300)
    real = np.where(X == 1, 0.9, 0.1)
    made = small(binarize=0.5).fit(real)
    assert (parameters(made) == parameters(small().fit(X))).all()
    made.save(tmp_path / "m.safetensors")
    assert (load(tmp_path / "m.safetensors").score_samples(real) == made.score_samples(X)).all()
    with pytest.raises(ValueError, match="only 0 and 1"):
        small().fit(real)


def test_history_tells_of_every_epoch():
    made = small(max_epochs=4).fit(rows(100), X_val=rows(50, seed=1))
    assert [record["epoch"] for record in made.history_] == [1, 2, 3, 4]
    for record in made.history_:
        assert record.keys() == {"epoch", "train_nll", "validation_nll", "seconds", "rows_per_second"}
        assert record["seconds"] > 0


@pytest.mark.parametrize("options", [{}, SHARED, FRESH], ids=["one", "shared", "fresh"])
def test_model_outlives_the_estimator(tmp_path, options):
    made = small(**options).fit(rows(100))
    made.save(tmp_path / "m.safetensors")
    model = load(tmp_path / "m.safetensors")
    X = rows(50, seed=3)
    assert (model.score_samples(X) == made.score_samples(X)).all()
    k = made.model_.n_masks - 1
    assert (model.conditional_proba(X, mask=k) == made.conditional_proba(X, mask=k)).all()
    assert (model.score_samples(X, mask=k) == made.score_samples(X, mask=k)).all()
    assert (model.sample(20, 0) == made.sample(20, 0)).all()
    assert (model.sample(20, 0, mask=k) == made.sample(20, 0, mask=k)).all()
    assert (pickle.loads(pickle.dumps(made)).score_samples(X) == made.score_samples(X)).all()
    assert model.hyper["learning_rate"] == 0.01


def test_parameters_of_odd_types_are_saved(tmp_path):
    made = small(hidden_sizes=np.array([5, 4]), dtype=np.float64, batch_size=np.int64(10), binarize=np.float32(0.5))
    X = rows(50)
    made.partial_fit(X).set_params(hidden_sizes=[5, 4], dtype="float64").partial_fit(X)  # the same in other dress
    made.save(tmp_path / "m.safetensors")
    model = load(tmp_path / "m.safetensors")
    assert (model.score_samples(X) == made.score_samples(X)).all()
    assert model.architecture.activation == "relu"
    assert made.set_params(hidden_sizes=(np.int64(3),)).fit(X).model_.architecture.hidden_sizes == (3,)
    made.save(tmp_path / "m.safetensors")


def test_unfitted_says_so():
    for method in ("score", "score_samples", "conditional_proba", "partial_fit"):
        call = getattr(MADE(batch_size=0), method)
        with pytest.raises((NotFittedError, ValueError), match=r"not fitted|batch_size"):
            call(rows(3))
    with pytest.raises(NotFittedError):
        MADE().sample()
    with pytest.raises(NotFittedError):
        MADE().save("nowhere")


def test_pipeline_clone_and_grid_search():
    X = np.where(rows(200) == 1, 5.0, -5.0)
    pipeline = make_pipeline(Binarizer(), small())
    assert pipeline.fit(X).score(X) < 0
    search = GridSearchCV(small(), {"hidden_sizes": [(5,), (40,)]}, cv=2).fit(rows(200))
    assert search.best_params_["hidden_sizes"] in [(5,), (40,)]
    assert clone(small(hidden_sizes=[7])).hidden_sizes == [7]


BAD = {
    "hidden_sizes": [500, (0,), (10,) * 64], "activation": ["gelu"], "ordering": ["sorted", [0, 1, 2]], "degrees": ["even"],
    "optimizer": ["lion"], "learning_rate": [0, float("nan")], "batch_size": [0], "max_epochs": [0], "patience": [-1],
    "weight_init": ["ones"], "dtype": ["float16"], "n_threads": [0], "random_state": ["seed"], "binarize": ["high"],
    "n_masks": [0, 2.0, "all"], "resample": ["orders", None], "n_eval_masks": [0, None], "n_val_masks": [0, 1.5],
    "direct_connections": ["input", True], "connectivity_weights": [1], "learning_rate_schedule": ["step", 0.5],
    "optimizer_params": [{"rho": 0.9}, {"learning_rate": 0.1}, {"beta_1": -0.1}, {"eps": "small"}, 0.9],
    "weight_decay": [-1e-3, float("inf"), None], "clip_norm": [0, "1"], "dropout": [1.0, -0.1, float("nan")],
    "validation_fraction": ["some"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("params", "message"),
    [({name: value}, name) for name, values in BAD.items() for value in values]
    + [
        ({"hidden_sizes": 500}, r"hidden_sizes.*\(500,\)"),
        ({"activation": "gelu"}, "activation.*relu"),
        ({"optimizer_params": {"rho": 0.9}}, "optimizer_params.*beta_1.*'rho'"),
        ({"optimizer_params": {"eps": "small"}}, r"optimizer_params\['eps'\]"),
        ({"optimizer": "sgd", "optimizer_params": {"momentum": 0.9}}, "optimizer_params.*'lr_decay'.*'momentum'"),
    ],
)
def test_bad_parameters_are_named_in_fit(params, message):
    made = MADE(**params)  # nothing is checked here, as scikit-learn wants
    with pytest.raises((ValueError, TypeError), match=message):
        made.fit(rows(20))
    assert not hasattr(made, "model_")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"checkpoint_every": 0}, "checkpoint_every"),
        ({"checkpoint_every": 1.0}, "checkpoint_every"),
        ({"sample_weight": np.ones(19)}, r"sample_weight must have shape \(20,\).*\(19,\)"),
        ({"sample_weight": np.ones((20, 1))}, "sample_weight must have shape"),
        ({"sample_weight": np.full(20, np.nan)}, "sample_weight must be finite"),
        ({"sample_weight": [1.0] * 19 + [np.inf]}, "sample_weight must be finite"),
        ({"sample_weight": ["1"] * 20}, "sample_weight must hold numbers"),
        ({"sample_weight": np.ones(20, complex)}, "sample_weight must hold numbers"),
        ({"sample_weight": np.zeros(20)}, "sample_weight must not be zero for all rows"),
    ],
)
@pytest.mark.parametrize("options", [{}, SHARED], ids=["one", "shared"])
def test_bad_arguments_of_fit_are_named(given, message, options, tmp_path):
    made = small(**options)
    with pytest.raises((ValueError, TypeError), match=message):
        made.fit(rows(20), checkpoint=tmp_path / "checkpoint", **given)
    assert not hasattr(made, "model_")
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_can_hold_no_function(tmp_path):
    made = small(learning_rate_schedule=lambda epoch: 1.0)
    with pytest.raises(TypeError, match="learning_rate_schedule must be one of constant, linear, cosine"):
        made.fit(rows(20), checkpoint=tmp_path / "checkpoint")
    assert not hasattr(made, "history_")


@pytest.mark.parametrize("value", [-1.0, float("nan"), "high", None])
def test_a_schedule_must_give_numbers(value):
    with pytest.raises((ValueError, TypeError), match="value of learning_rate_schedule"):
        small(learning_rate_schedule=lambda epoch: value).fit(rows(20))


def test_bad_data_leaves_the_fitted_model_alone():
    made = small().fit(rows(100))
    before = made.score(rows(100))
    for bad in (np.full((5, 12), 2), np.zeros((0, 12)), np.zeros(12), np.full((3, 12), np.inf)):
        with pytest.raises(ValueError, match="X"):
            made.fit(bad)
        with pytest.raises(ValueError, match="X"):
            made.partial_fit(bad)
    some = np.where(np.eye(12), np.nan, 0)
    with pytest.raises(ValueError, match="X must be complete here, got NaN"):  # its one ordering is fixed
        made.partial_fit(some)
    with pytest.raises(ValueError, match="sample_weight"):
        made.partial_fit(rows(20), sample_weight=[1])
    with pytest.raises(ValueError, match="X_val"):
        made.fit(rows(20), X_val=np.zeros((2, 5)))
    with pytest.raises(ValueError, match="12 features"):
        made.partial_fit(rows(20, 5))
    assert made.score(rows(100)) == before
    assert small(**SHARED).fit(rows(100)).partial_fit(some).history_[-1]["epoch"] == 6


@pytest.mark.parametrize("options", [{}, {"n_masks": 2}, FRESH], ids=["one", "shared", "fresh"])
def test_training_data_stay_packed(options):
    """50,000 x 784 must cost tens of MB beyond the input, not a float copy (157 MB) or even a byte copy (39 MB)."""
    X = np.zeros((50_000, 784), np.uint8)
    X[:, ::7] = 1
    tracemalloc.start()
    MADE(**{**PLAIN, "hidden_sizes": (20,), "max_epochs": 1, "batch_size": 1000, "random_state": 0, **options}).fit(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6


def test_real_data_beat_the_independent_baseline(real_set):
    data = real_set("adult")
    made = MADE(hidden_sizes=(100,), max_epochs=15, random_state=0, learning_rate=5e-3).fit(data["train"], X_val=data["valid"])
    assert -made.score(data["test"]) < 15  # independent bits: 25.77; published MADE, tuned: 13.12
