"""The estimator through its public methods, on small data and, where they are at hand, on real sets."""

from __future__ import annotations

import pickle
import tracemalloc

import numpy as np
import pytest
import scipy.sparse
from helpers import all_inputs
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Binarizer
from sklearn.utils.estimator_checks import parametrize_with_checks

from made_fast import MADE, load, training


def blobs(n: int, n_inputs: int = 12, seed: int = 0):
    """Noisy copies of four patterns: data with structure, unlike independent bits."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(99).random((4, n_inputs)) < 0.5
    return (patterns[rng.integers(4, size=n)] ^ (rng.random((n, n_inputs)) < 0.05)).astype(np.uint8)


def small(**kwargs) -> MADE:
    return MADE(
        **{"hidden_sizes": (30,), "max_epochs": 5, "batch_size": 20, "learning_rate": 0.01, "random_state": 0, **kwargs}
    )


@parametrize_with_checks([MADE(binarize=0.0, max_epochs=3, hidden_sizes=(8,), n_threads=1), MADE(binarize=0.5, max_epochs=2)])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learn_conventions(estimator, check):
    check(estimator)


@pytest.mark.parametrize("hidden_sizes", [(), (30,), (30, 20), (16,) * 5])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_training_learns_and_stays_normalised(hidden_sizes, dtype):
    X, X_test = blobs(2000), blobs(500, seed=1)
    made = small(hidden_sizes=hidden_sizes, dtype=dtype, max_epochs=30).fit(X)
    p = (X.sum(axis=0) + 1) / (len(X) + 2)
    independent = np.log(np.where(X_test == 1, p, 1 - p)).sum(axis=1).mean()
    assert made.score(X_test) > independent + (1 if hidden_sizes else 0.5)
    total = np.exp(made.score_samples(all_inputs(12))).sum()
    assert abs(total - 1) < (1e-5 if dtype == "float32" else 1e-10)
    assert made.history_[-1]["train_nll"] < made.history_[0]["train_nll"]


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adagrad", "adadelta", "rmsprop", "adam"])
def test_every_optimizer_learns(optimizer):
    made = small(optimizer=optimizer, learning_rate=None, max_epochs=20).fit(blobs(1000))
    assert made.history_[-1]["train_nll"] < made.history_[0]["train_nll"] - 0.5


def test_random_state_repeats_a_run_to_the_bit_on_any_number_of_threads():
    X, X_val = blobs(500, 64), blobs(100, 64, seed=1)
    runs = [
        small(hidden_sizes=(300, 300), n_threads=n, random_state=3, max_epochs=3).fit(X, X_val=X_val) for n in (1, 1, 2, 3)
    ]
    for made in runs[1:]:
        assert (made.model_.theta == runs[0].model_.theta).all()
        assert [r["train_nll"] for r in made.history_] == [r["train_nll"] for r in runs[0].history_]
        assert [r["validation_nll"] for r in made.history_] == [r["validation_nll"] for r in runs[0].history_]
    other = small(hidden_sizes=(300, 300), random_state=4, max_epochs=3).fit(X)
    assert (other.model_.theta[:100] != runs[0].model_.theta[:100]).any()


def test_fit_again_starts_afresh():
    X = blobs(300)
    made = small().fit(blobs(200, seed=5))
    assert (made.fit(X).model_.theta == small().fit(X).model_.theta).all()


def test_every_way_to_write_the_same_data_gives_the_same_model():
    X = blobs(300)
    expected = small(max_epochs=2).fit(X).model_.theta
    for same in (X.astype(bool), X.astype(np.float64), X.astype(np.int64), np.asfortranarray(X), X.astype(">f4"),
                 scipy.sparse.csr_matrix(X), scipy.sparse.csc_array(X), scipy.sparse.coo_array(X), X.tolist()):  # fmt: skip
        assert (small(max_epochs=2).fit(same).model_.theta == expected).all()


def test_memmap_and_data_frame(tmp_path):
    pd = pytest.importorskip("pandas")
    X = blobs(300)
    expected = small(max_epochs=2).fit(X).model_.theta
    np.save(tmp_path / "X.npy", X)
    assert (small(max_epochs=2).fit(np.load(tmp_path / "X.npy", mmap_mode="r")).model_.theta == expected).all()
    frame = pd.DataFrame(X, columns=[f"c{i}" for i in range(12)])
    made = small(max_epochs=2).fit(frame)
    assert (made.model_.theta == expected).all()
    assert made.feature_names_in_.tolist() == list(frame.columns)
    with pytest.raises(ValueError, match="feature names"):
        made.score(frame[list(frame.columns)[::-1]])


def test_binarize_is_the_threshold_of_the_saved_model_too(tmp_path):
    X = blobs(300)
    real = np.where(X == 1, 0.9, 0.1)
    made = small(binarize=0.5).fit(real)
    assert (made.model_.theta == small().fit(X).model_.theta).all()
    made.save(tmp_path / "m.safetensors")
    assert (load(tmp_path / "m.safetensors").score_samples(real) == made.score_samples(X)).all()
    with pytest.raises(ValueError, match="only 0 and 1"):
        small().fit(real)


def test_early_stopping_keeps_the_best_parameters():
    X, X_val = blobs(60, 30), blobs(200, 30, seed=1)
    made = small(hidden_sizes=(200,), max_epochs=500, patience=4).fit(X, X_val=X_val)
    nll = [record["validation_nll"] for record in made.history_]
    assert len(nll) < 500
    assert made.best_epoch_ == int(np.argmin(nll)) + 1 == len(nll) - 4
    assert made.score(X_val) == -min(nll)


def test_validation_fraction_holds_rows_out():
    X = blobs(400)
    made = small(validation_fraction=0.25, max_epochs=4).fit(X)
    assert all(record["validation_nll"] is not None for record in made.history_)
    assert made.history_[0]["rows_per_second"] * made.history_[0]["seconds"] == pytest.approx(300)
    with pytest.raises(ValueError, match="validation_fraction"):
        small(validation_fraction=1.5).fit(X)
    with pytest.raises(ValueError, match="leaves"):
        small(validation_fraction=0.1).fit(X[:3])


def test_partial_fit_is_an_epoch_of_fit():
    X = blobs(300)
    made = small()
    for _ in range(3):
        made.partial_fit(X)
    whole = small(max_epochs=3).fit(X)
    assert (made.model_.theta == whole.model_.theta).all()
    assert [r["train_nll"] for r in made.history_] == [r["train_nll"] for r in whole.history_]


def test_partial_fit_does_not_change_a_model_in_use():
    made = small().partial_fit(blobs(100))
    model, before = made.model_, made.model_.theta.copy()
    made.partial_fit(blobs(100))
    assert (model.theta == before).all()
    assert (made.model_.theta != before).any()


def test_history_tells_of_every_epoch():
    made = small(max_epochs=4).fit(blobs(100), X_val=blobs(50, seed=1))
    assert [record["epoch"] for record in made.history_] == [1, 2, 3, 4]
    for record in made.history_:
        assert record.keys() == {"epoch", "train_nll", "validation_nll", "seconds", "rows_per_second"}
        assert record["seconds"] > 0


def test_model_outlives_the_estimator(tmp_path):
    made = small().fit(blobs(100))
    made.save(tmp_path / "m.safetensors")
    model = load(tmp_path / "m.safetensors")
    X = blobs(50, seed=3)
    assert (model.score_samples(X) == made.score_samples(X)).all()
    assert (model.conditional_proba(X) == made.conditional_proba(X)).all()
    assert (model.sample(20, 0) == made.sample(20, 0)).all()
    assert (pickle.loads(pickle.dumps(made)).score_samples(X) == made.score_samples(X)).all()
    assert model.hyper["learning_rate"] == 0.01


def test_parameters_of_odd_types_are_saved_and_changed_ones_do_not_harm(tmp_path):
    made = small(hidden_sizes=np.array([5, 4]), dtype=np.float64, batch_size=np.int64(10), binarize=np.float32(0.5))
    X = blobs(50)
    made.partial_fit(X).set_params(activation="tanh", hidden_sizes=(3,)).partial_fit(X)
    made.save(tmp_path / "m.safetensors")
    model = load(tmp_path / "m.safetensors")
    assert (model.score_samples(X) == made.score_samples(X)).all()
    assert model.activation == "relu"
    assert made.set_params(hidden_sizes=(np.int64(3),)).fit(X).model_.connectivity.hidden_sizes == (3,)
    made.save(tmp_path / "m.safetensors")


def test_unfitted_says_so():
    for method in ("score", "score_samples", "conditional_proba", "partial_fit"):
        call = getattr(MADE(batch_size=0), method)
        with pytest.raises((NotFittedError, ValueError), match=r"not fitted|batch_size"):
            call(blobs(3))
    with pytest.raises(NotFittedError):
        MADE().sample()
    with pytest.raises(NotFittedError):
        MADE().save("nowhere")


def test_pipeline_clone_and_grid_search():
    X = np.where(blobs(200) == 1, 5.0, -5.0)
    pipeline = make_pipeline(Binarizer(), small())
    assert pipeline.fit(X).score(X) < 0
    search = GridSearchCV(small(), {"hidden_sizes": [(5,), (40,)]}, cv=2).fit(blobs(200))
    assert search.best_params_["hidden_sizes"] in [(5,), (40,)]
    assert clone(small(hidden_sizes=[7])).hidden_sizes == [7]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"hidden_sizes": 500}, r"hidden_sizes.*\(500,\)"),
        ({"hidden_sizes": (0,)}, "hidden_sizes"),
        ({"hidden_sizes": (10,) * 64}, "hidden_sizes"),
        ({"activation": "gelu"}, "activation.*relu"),
        ({"ordering": "sorted"}, "ordering"),
        ({"ordering": [0, 1, 2]}, "ordering"),
        ({"degrees": "even"}, "degrees"),
        ({"optimizer": "lion"}, "optimizer.*adam"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"batch_size": 0}, "batch_size"),
        ({"max_epochs": 0}, "max_epochs"),
        ({"patience": -1}, "patience"),
        ({"weight_init": "ones"}, "weight_init"),
        ({"dtype": "float16"}, "dtype"),
        ({"n_threads": 0}, "n_threads"),
        ({"random_state": "seed"}, "random_state"),
        ({"binarize": "high"}, "binarize"),
    ],
)
def test_bad_parameters_are_named_in_fit(params, message):
    made = MADE(**params)  # nothing is checked here, as scikit-learn wants
    with pytest.raises((ValueError, TypeError), match=message):
        made.fit(blobs(20))
    assert not hasattr(made, "model_")


def test_bad_data_leaves_the_fitted_model_alone():
    made = small().fit(blobs(100))
    before = made.score(blobs(100))
    for bad in (np.full((5, 12), 2), np.zeros((0, 12)), np.zeros(12), np.full((3, 12), np.nan)):
        with pytest.raises(ValueError, match="X"):
            made.fit(bad)
        with pytest.raises(ValueError, match="X"):
            made.partial_fit(bad)
    with pytest.raises(ValueError, match="X_val"):
        made.fit(blobs(20), X_val=np.zeros((2, 5)))
    with pytest.raises(ValueError, match="12 features"):
        made.partial_fit(blobs(20, 5))
    assert made.score(blobs(100)) == before


def test_a_diverging_fit_says_so_and_keeps_the_best():
    X = blobs(200)
    with pytest.raises(FloatingPointError, match="learning_rate"):
        small(optimizer="sgd", learning_rate=1e30, max_epochs=50).fit(X, X_val=X)


def test_interrupt_keeps_the_best_parameters(monkeypatch):
    made, X = small(max_epochs=50), blobs(100)
    epoch, calls = training.Trainer.epoch, []

    def interrupted(self, *args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return epoch(self, *args)

    monkeypatch.setattr(training.Trainer, "epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made.fit(X, X_val=X)
    assert len(made.history_) == 3
    assert made.score(X) == -min(record["validation_nll"] for record in made.history_)


def test_verbose_shows_progress(capsys):
    small(verbose=1, max_epochs=2).fit(blobs(50))
    assert "2/2" in capsys.readouterr().err
    small(verbose=2, max_epochs=2).fit(blobs(50), X_val=blobs(50))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "validation" in lines[1]
    small(max_epochs=2).fit(blobs(50))
    assert capsys.readouterr() == ("", "")


def test_training_data_stay_packed():
    """50,000 x 784 must cost tens of MB beyond the input, not a float copy (157 MB) or even a byte copy (39 MB)."""
    X = np.zeros((50_000, 784), np.uint8)
    X[:, ::7] = 1
    tracemalloc.start()
    MADE(hidden_sizes=(20,), max_epochs=1, batch_size=1000, random_state=0).fit(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6


def test_real_data_beat_the_independent_baseline(real_set):
    data = real_set("adult")
    made = MADE(hidden_sizes=(100,), max_epochs=15, random_state=0, learning_rate=5e-3).fit(data["train"], X_val=data["valid"])
    assert -made.score(data["test"]) < 15  # independent bits: 25.77; published MADE, tuned: 13.12
