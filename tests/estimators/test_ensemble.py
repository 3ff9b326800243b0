"""Ensembles: EM, and the estimator by its public methods."""

from __future__ import annotations

import hashlib
import json
import pickle
import signal
import threading
import time
import warnings

import joblib
import numpy as np
import pytest
import scipy.sparse
from fits import rows
from helpers import random_model
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from made_fast import MADE, ApproximationWarning, MADEEnsemble, MixtureModel, load
from made_fast.estimators import ensemble, parallel
from made_fast.estimators.ensemble import em_weights

WEIGHTS = [0.5, 0.3, 0.2]
D = 8


# EM


def test_em_is_monotone_and_recovers_the_weights_of_a_known_mixture():
    members = [random_model(D, (16,), seed=1), random_model(D, (9, 12), seed=2, n_masks=4), random_model(D, (20,), seed=3)]
    model = MixtureModel(members, WEIGHTS)
    X = model.sample(20_000, 5)
    log_p = np.stack([member.score_samples(X) for member in model.members])
    found, scores = em_weights(log_p)
    assert len(scores) > 3
    assert (np.diff(scores) > 0).all()
    assert scores[0] == pytest.approx(MixtureModel(model.members).score(X), rel=1e-12)
    assert scores[-1] == pytest.approx(MixtureModel(model.members, found).score(X), rel=1e-12)
    np.testing.assert_allclose(found, WEIGHTS, atol=0.02)
    p, w = np.exp(log_p), found
    np.testing.assert_allclose((p / (w @ p)).mean(axis=1), 1, atol=2e-3)  # the gradient of the likelihood on the simplex


def test_em_has_its_limits():
    rng = np.random.default_rng(0)
    log_p = rng.normal(size=(4, 300)) - 1000 * np.arange(4)[:, None]  # all but the first never count
    found, _ = em_weights(log_p)
    assert found[0] == pytest.approx(1)
    assert (found > 0).all()
    assert abs(found.sum() - 1) < 1e-12
    same, scores = em_weights(np.zeros((3, 5)))
    assert same.tolist() == [1 / 3] * 3
    assert scores == [0.0]
    assert em_weights(rng.normal(size=(1, 9)))[0].tolist() == [1.0]
    slow = np.log(rng.random((5, 1000)))
    assert len(em_weights(slow, max_iterations=3)[1]) == 4
    assert len(em_weights(slow, tolerance=1e-3)[1]) < len(em_weights(slow)[1])


# The estimator


def small(n_members: int = 3, **params) -> MADEEnsemble:
    made = {"hidden_sizes": (12,), "max_epochs": 3, "batch_size": 20, "learning_rate": 0.01, "random_state": 0}
    return MADEEnsemble(n_members, **{**made, **params})


def bits(fitted: MADEEnsemble) -> str:
    """Return a digest of all that was fitted."""
    digest = hashlib.sha256(fitted.weights_.tobytes())
    for made in fitted.members_:
        for vectors in made.model_.to_dense(0).values():
            for vector in vectors if isinstance(vectors, list) else [vectors]:
                digest.update(b"" if vector is None else vector.tobytes())
        digest.update(json.dumps([[record["train_nll"], record["validation_nll"]] for record in made.history_]).encode())
    return digest.hexdigest()


@parametrize_with_checks([MADEEnsemble(2, binarize=0.0, max_epochs=2, hidden_sizes=(6,), n_threads=1, n_jobs=1)])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learn_conventions(estimator, check):
    check(estimator)


def test_parameters_of_the_members_are_parameters():
    made = small(optimizer="adagrad")
    params = made.get_params()
    assert params.keys() == MADE().get_params().keys() | {"n_members", "weights", "n_jobs", "preset", "time_budget", "refit"}
    assert (params["optimizer"], params["hidden_sizes"], params["dropout"], params["n_members"]) == ("adagrad", (12,), 0.25, 3)
    own = {"n_members": None, "weights": "equal", "n_jobs": None, "preset": "none", "time_budget": 300.0, "refit": False}
    assert MADEEnsemble().get_params() == {**MADE().get_params(), **own}
    assert len(MADEEnsemble(hidden_sizes=(3,), max_epochs=1).fit(rows(20)).members_) == 5
    again = clone(made.set_params(hidden_sizes=[7], weights="em", n_members=4))
    assert (again.hidden_sizes, again.weights, again.n_members, again.optimizer) == ([7], "em", 4, "adagrad")
    assert pickle.loads(pickle.dumps(made)).get_params() == made.get_params()
    assert "optimizer='adagrad'" in repr(made)
    with pytest.raises(ValueError, match="hidden_size"):
        made.set_params(hidden_size=3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'hidden_size'"):
        MADEEnsemble(hidden_size=3)


def test_members_are_mades_that_differ():
    X = rows(200)
    fitted = small(4).fit(X)
    assert [type(made) for made in fitted.members_] == [MADE] * 4
    assert len({made.random_state for made in fitted.members_}) == 4
    assert len({tuple(made.model_.masks.orderings[0]) for made in fitted.members_}) > 1
    assert fitted.weights_.tolist() == [0.25] * 4
    for made in fitted.members_:
        params = {**made.get_params(), "random_state": 0}
        assert params == {name: value for name, value in small(4).get_params().items() if name in params}
        assert (clone(made).fit(X).score_samples(X) == made.score_samples(X)).all()
    expected = np.logaddexp.reduce([made.score_samples(X) for made in fitted.members_], axis=0) - np.log(4)
    np.testing.assert_allclose(fitted.score_samples(X), expected, rtol=1e-13)
    assert fitted.score(X) > np.mean([made.score(X) for made in fitted.members_])  # by Jensen's inequality
    fewer = small(2).fit(X)
    assert (fewer.score_samples(X, member=1) == fitted.score_samples(X, member=1)).all()


def test_the_same_bits_whoever_trains_the_members():
    X = rows(120)
    options = {"weights": "em", "validation_fraction": 0.25, "n_masks": 2}
    expected = bits(small(**options).fit(X))
    for n_jobs, n_threads in ((2, None), (-1, 3), (3, 2), (1, 1)):
        assert bits(small(**options, n_jobs=n_jobs, n_threads=n_threads).fit(X)) == expected
    for backend in ("threading", "loky"):
        with joblib.parallel_config(backend=backend, n_jobs=2):
            assert bits(small(**options).fit(X)) == expected
    assert bits(small(**options, random_state=1).fit(X)) != expected


def test_no_more_threads_than_there_are(monkeypatch):
    used, running, most, lock = [], [0], [0], threading.Lock()
    fit = MADE.fit

    def watched(self, *args, **options):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
            used.append(self.n_threads)
        time.sleep(0.05)
        try:
            return fit(self, *args, **options)
        finally:
            with lock:
                running[0] -= 1

    monkeypatch.setattr(MADE, "fit", watched)
    monkeypatch.setattr(ensemble.arguments.threads, "available", lambda: 6)
    asked = [
        (1, None, 6, 1),
        (2, None, 3, 2),
        (4, None, 2, 3),
        (2, 9, 4, 2),
        (3, 2, 1, 3),
        (None, None, 2, 3),
        (None, 2, 1, 2),
    ]
    for n_jobs, n_threads, each, at_once in asked:
        used.clear()
        most[0] = 0
        fitted = small(n_jobs=n_jobs, n_threads=n_threads, max_epochs=1).fit(rows(30))
        assert (set(used), most[0]) == ({each}, at_once)
        assert [made.n_threads for made in fitted.members_] == [n_threads] * 3


def test_without_a_number_of_jobs_joblib_has_its_say():
    jobs = parallel.at_a_time
    assert (jobs(None, 3, 8), jobs(None, 9, 8), jobs(2, 9, 8), jobs(-1, 9, 8)) == (3, 8, 2, -1)
    for context in ({"n_jobs": 1}, {"n_jobs": 2}, {"backend": "loky", "n_jobs": 2}):
        with joblib.parallel_config(**context):
            assert jobs(None, 3, 8) is None
    inside = joblib.Parallel(2, backend="threading")(joblib.delayed(jobs)(None, 3, 8) for _ in range(2))
    assert inside == [None, None]  # a grid search on threads, say, has the CPUs already


def test_validation_rows_are_held_out_once_for_all(monkeypatch):
    X, seen, fit = rows(200), [], MADE.fit
    X[:, 0] = 0

    def watched(self, X, y=None, *, X_val=None, **options):
        seen.append((X.rows, X_val.rows, options))
        return fit(self, X, y, X_val=X_val, **options)

    monkeypatch.setattr(MADE, "fit", watched)
    fitted = small(validation_fraction=0.25).fit(X, sample_weight=np.arange(200) % 7)
    assert len(seen) == 3
    for train, held_out, options in seen:
        assert (len(train), len(held_out), len(options["sample_weight"])) == (150, 50, 150)
        assert (held_out == seen[0][1]).all()
    assert (np.sort(np.concatenate(seen[0][:2]), axis=0) == np.sort(X, axis=0)).all()
    weight_of = {x.tobytes(): set() for x in X}
    for x, w in zip(X, np.arange(200) % 7, strict=True):
        weight_of[x.tobytes()].add(w)
    assert all(w in weight_of[x.tobytes()] for x, w in zip(seen[0][0], seen[0][2]["sample_weight"], strict=True))
    assert all(record["validation_nll"] is not None for made in fitted.members_ for record in made.history_)
    assert fitted.members_[0].validation_fraction == 0.25


def test_em_prefers_the_better_member(monkeypatch):
    fit, X, X_val = MADE.fit, rows(300), rows(100, seed=1)

    def lazy(self, X, *args, **options):
        self.set_params(max_epochs=15 if self.random_state == best else 1)
        return fit(self, X, *args, **options)

    best = small().fit(X).members_[1].random_state
    monkeypatch.setattr(MADE, "fit", lazy)
    fitted = small(weights="em").fit(X, X_val=X_val)
    assert fitted.weights_[1] > 0.8
    assert abs(fitted.weights_.sum() - 1) < 1e-12
    assert fitted.score(X_val) >= MixtureModel(fitted.model_.members).score(X_val)
    assert (fitted.model_.weights == fitted.weights_).all()


def test_weights_by_em_need_validation_rows():
    with pytest.raises(ValueError, match=r"weights='em' needs validation rows.*X_val.*validation_fraction"):
        small(weights="em").fit(rows(30))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_members": 0}, "n_members"),
        ({"n_members": 2.0}, "n_members"),
        ({"weights": "best"}, "weights.*'equal', 'em'"),
        ({"weights": [1.0]}, "weights"),
        ({"n_threads": 0}, "n_threads"),
        ({"random_state": "seed"}, "random_state"),
        ({"validation_fraction": 2}, "validation_fraction"),
        ({"activation": "gelu"}, "activation"),
        ({"hidden_sizes": 12}, "hidden_sizes"),
    ],
)
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_bad_parameters_are_named_and_leave_what_was_fitted(params, message, n_jobs):
    made, X = small(2, n_jobs=n_jobs), rows(40)
    before = made.fit(X).score(X)
    good = made.get_params()
    with pytest.raises((ValueError, TypeError), match=message):
        made.set_params(**params).fit(rows(40, 5))
    assert made.set_params(**good).score(X) == before


def test_bad_data_are_named():
    made, X = small(2), rows(40)
    for bad in (np.full((5, 12), 2), np.zeros((0, 12)), np.zeros(12)):
        with pytest.raises(ValueError, match="X"):
            made.fit(bad)
    with pytest.raises(ValueError, match="X_val"):
        made.fit(X, X_val=X[:, :5])
    with pytest.raises(ValueError, match="sample_weight"):
        made.fit(X, sample_weight=np.ones(3))
    assert not hasattr(made, "model_")
    for method in ("score", "score_samples", "conditional_proba", "log_marginal", "impute", "sample_conditional"):
        with pytest.raises(NotFittedError):
            getattr(made, method)(X)
    for call in (made.sample, lambda: made.save("nowhere"), lambda: made.conditional(X, 0)):
        with pytest.raises(NotFittedError):
            call()
    with pytest.raises(ValueError, match="12 features"):
        made.fit(X).score(X[:, :5])


def test_every_way_to_write_the_same_data_gives_the_same_mixture(tmp_path):
    pd = pytest.importorskip("pandas")
    X = rows(60)
    expected = small(2, validation_fraction=0.2).fit(X)
    frame = pd.DataFrame(X, columns=[f"c{i}" for i in range(12)])
    np.save(tmp_path / "X.npy", X)
    for same in (X.astype(float), X.tolist(), scipy.sparse.csr_matrix(X), scipy.sparse.coo_array(X), frame,
                 np.load(tmp_path / "X.npy", mmap_mode="r")):  # fmt: skip
        assert bits(small(2, validation_fraction=0.2).fit(same)) == bits(expected)
    fitted = small(2).fit(frame)
    assert fitted.feature_names_in_.tolist() == list(frame.columns)
    assert fitted.members_[0].score(frame) < 0  # without a warning about names
    with pytest.raises(ValueError, match="feature names"):
        fitted.score(frame[list(frame.columns)[::-1]])
    real = np.where(X == 1, 0.9, 0.1)
    assert (small(2, binarize=0.5).fit(real).score_samples(real) == small(2).fit(X).score_samples(X)).all()


def test_questions_go_to_the_mixture_and_the_saved_file(tmp_path):
    X = rows(150)
    fitted = small(n_masks=None, n_eval_masks=3, weights="em", n_threads=2).fit(X, X_val=rows(60, seed=1))
    fitted.save(tmp_path / "m.safetensors")
    model = load(tmp_path / "m.safetensors")
    assert model.hyper == {"n_members": 3, "weights": "em"}
    assert model.members[0].hyper["learning_rate"] == 0.01
    holes = X[:20].astype(float)
    holes[:, ::3] = np.nan
    for ask in (
        lambda m: m.score_samples(X),
        lambda m: m.score_samples(X, member=1),
        lambda m: m.conditional_proba(X, member=1, mask=2),
        lambda m: m.sample(9, 0),
        lambda m: m.sample(9, 0, member=2),
        lambda m: m.log_marginal(holes, n_members=2),
        lambda m: m.conditional(holes, 5),
        lambda m: m.sample_conditional(holes, 2, random_state=0),
        lambda m: m.impute(holes),
        lambda m: m.impute(holes, "mean"),
    ):
        answers = [ask(asked) for asked in (fitted, model, pickle.loads(pickle.dumps(fitted)))]
        assert (answers[0] == answers[1]).all()
        assert (answers[0] == answers[2]).all()


def test_missing_entries_in_training_and_validation_rows():
    X = rows(120).astype(float)
    X[np.random.default_rng(0).random(X.shape) < 0.2] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ApproximationWarning)
        fitted = small(n_masks=None, n_eval_masks=2, weights="em", validation_fraction=0.3).fit(X)
    assert np.isfinite(fitted.log_marginal(X)).all()


def test_members_that_fail_say_so_and_stop_the_others():
    made = small(2, optimizer="sgd", learning_rate=1e30, max_epochs=50)
    for n_jobs in (1, 2):
        with pytest.raises(FloatingPointError, match="learning_rate"):
            made.set_params(n_jobs=n_jobs).fit(rows(100))
    assert not hasattr(made, "model_")
    assert not parallel._running


def test_an_interrupt_stops_members_on_threads(monkeypatch):
    """joblib leaves its threads alone when Ctrl-C comes; what they train must end all the same."""
    X, begun, epochs, fit, main = rows(3000), [], [], MADE.fit, threading.get_ident()

    def fit_and_count(self, *args, **options):
        begun.append(self)
        if len(begun) == 2:
            threading.Timer(0.2, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
        try:
            return fit(self, *args, **options)
        finally:
            epochs.append(len(self.history_))

    monkeypatch.setattr(MADE, "fit", fit_and_count)
    begin = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        small(4, max_epochs=100_000, n_jobs=2).fit(X)
    assert time.perf_counter() - begin < 10
    deadline = time.perf_counter() + 10
    while len(epochs) < 2 and time.perf_counter() < deadline:
        time.sleep(0.02)
    assert len(epochs) == 2
    assert max(epochs) < 100_000
    assert not parallel._running
