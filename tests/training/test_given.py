"""What a fit is given counts: weights of validation rows, columns without an entry, the rows and parameters it began with."""

from __future__ import annotations

import pickle
import warnings

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.model_selection import GridSearchCV, cross_val_score

from made_fast import MADE, ApproximationWarning, MADEEnsemble, load
from made_fast.estimators.ensemble import em_weights

D = 10


def rows(n: int, seed: int = 0, flip: float = 0.1):
    """Noisy copies of all zeros and all ones."""
    rng = np.random.default_rng(seed)
    return ((rng.random((n, 1)) < 0.5) ^ (rng.random((n, D)) < flip)).astype(np.uint8)


def with_gaps(X, share=0.2, seed=1):
    return np.where(np.random.default_rng(seed).random(X.shape) < share, np.nan, X)


def small(**params):
    params = {"hidden_sizes": (12,), "max_epochs": 6, "learning_rate": 0.01, "random_state": 0, "n_threads": 1} | params
    return MADE(**params)


def parameters(made):
    return made._trainer.parameters


# Weights of validation rows


@pytest.mark.parametrize("gaps", [False, True], ids=["whole", "gaps"])
@pytest.mark.parametrize("weights", ["equal", "em"])
def test_validation_rows_of_weight_0_are_as_good_as_not_there(gaps, weights):
    """For X_val of a MADE and of an ensemble, its EM included; the same bits, whatever those rows hold."""
    X, V, noise = rows(80), rows(40, 1), rows(40, 2, flip=0.5)
    if gaps:
        V, noise = with_gaps(V), with_gaps(noise)
    w = np.r_[np.ones(40), np.zeros(40)]
    options = {"n_masks": None, "n_eval_masks": 2} if gaps else {}
    ensemble = MADEEnsemble(2, weights=weights, **small(**options).get_params())
    both = ensemble.fit(X, X_val=np.r_[V, noise], sample_weight_val=w).score_samples(X)
    np.testing.assert_allclose(both, ensemble.fit(X, X_val=V).score_samples(X), rtol=1e-6)
    made = small(**options).fit(X, X_val=np.r_[V, noise], sample_weight_val=w)
    other = small(**options).fit(X, X_val=V)
    np.testing.assert_allclose(
        [record["validation_nll"] for record in made.history_], [record["validation_nll"] for record in other.history_]
    )
    assert made.best_epoch_ == other.best_epoch_


def test_a_weight_of_two_is_the_validation_row_twice():
    X, V = rows(80), rows(9, 1)
    w = np.arange(9) % 3
    made = small().fit(X, X_val=V, sample_weight_val=w)
    other = small().fit(X, X_val=V.repeat(w, axis=0))
    for a, b in zip(made.history_, other.history_, strict=True):
        assert abs(a["validation_nll"] - b["validation_nll"]) < 1e-12


def test_rows_held_out_count_by_their_sample_weight():
    X, w = np.r_[rows(100), rows(100, 1, flip=0.5)], np.r_[np.ones(100), np.zeros(100)]
    made = small(validation_fraction=0.3).fit(X, sample_weight=w)
    _, held = made._hold_out(200)
    score = made.model_.score_samples(X[held])
    expected = -np.average(score, weights=w[held])
    best = made.history_[made.best_epoch_ - 1]["validation_nll"]
    assert abs(best - expected) < 1e-9
    assert abs(best + score.mean()) > 0.1  # the mean over all rows is another


@pytest.mark.parametrize("make", [small, lambda **params: MADEEnsemble(2, **small(**params).get_params())])
def test_weights_that_leave_nothing_are_refused(make):
    X = rows(40)
    made = make(validation_fraction=0.5).fit(X)
    made.random_state = 0
    before = made.score_samples(X)
    for w, match in [
        (np.zeros(40), "sample_weight must not be zero for all rows: nothing"),
        (-np.ones(40), "weights of validation rows must be >= 0"),
    ]:
        with pytest.raises(ValueError, match=match):
            made.fit(X, sample_weight=w)
    with pytest.raises(ValueError, match="sample_weight_val must come with X_val"):
        made.fit(X, sample_weight_val=np.ones(40))
    for w in (np.zeros(5), np.r_[-1, np.ones(4)]):
        with pytest.raises(ValueError, match="weights of validation rows must be >= 0 and not all zero"):
            made.fit(X, X_val=X[:5], sample_weight_val=w)
    with pytest.raises(ValueError, match=r"sample_weight_val must have shape \(5,\)"):
        made.fit(X, X_val=X[:5], sample_weight_val=np.ones(4))
    assert (made.score_samples(X) == before).all()


def test_all_weight_in_the_rows_held_out_is_refused():
    X = rows(40)
    _, held = small(validation_fraction=0.5).fit(X)._hold_out(40)
    w = np.zeros(40)
    w[held] = 1
    with pytest.raises(ValueError, match="zero for all rows but those held out for validation: nothing would be learned"):
        small(validation_fraction=0.5).fit(X, sample_weight=w)
    w[:] = 1
    w[held] = 0
    with pytest.raises(ValueError, match="weights of validation rows must be >= 0 and not all zero"):
        small(validation_fraction=0.5).fit(X, sample_weight=w)


def test_em_counts_rows_by_their_weights():
    log_p = np.random.default_rng(0).normal(size=(3, 20))
    times = np.arange(20) % 4
    weights, scores = em_weights(log_p, times.astype(float))
    expected, same = em_weights(log_p.repeat(times, axis=1))
    np.testing.assert_allclose(weights, expected, atol=1e-9)
    np.testing.assert_allclose(scores, same, atol=1e-12)


# Going on


def overfitted(**params):
    return small(hidden_sizes=(60,), max_epochs=60, patience=30, **params).fit(rows(30), X_val=rows(200, 1))


@pytest.mark.parametrize("options", [{}, {"n_masks": 3}, {"n_masks": None, "n_eval_masks": 2}], ids=["one", "some", "fresh"])
def test_partial_fit_goes_on_from_the_best_parameters(options):
    made, X = overfitted(**options), rows(50, 2)
    assert made.best_epoch_ < len(made.history_)
    before, model = made.score_samples(X), made.model_
    made.set_params(learning_rate=1e-12).partial_fit(X)
    np.testing.assert_allclose(made.score_samples(X), before, rtol=1e-6)
    assert (model.score_samples(X) == before).all()  # a model in use stays as it is
    assert made.best_epoch_ == len(made.history_)


def test_partial_fit_after_a_fit_whose_last_epoch_is_the_best_keeps_the_optimizer():
    """It goes on as a longer fit does, to the bit."""
    X = rows(60)
    made = small(max_epochs=2, learning_rate=1e-4).fit(X, X_val=X)
    assert made.best_epoch_ == 2
    assert (parameters(made.partial_fit(X)) == parameters(small(max_epochs=3, learning_rate=1e-4).fit(X))).all()


CHANGES = {
    "dropout": 0.5, "optimizer": "sgd", "weight_decay": 10.0, "hidden_sizes": (99,), "dtype": "float64", "binarize": 0.5,
    "activation": "tanh", "ordering": "natural", "degrees": "uniform", "weight_init": "zeros", "n_masks": 2,
    "resample": "order", "n_eval_masks": 7, "direct_connections": "output", "connectivity_weights": True, "clip_norm": 1.0,
    "optimizer_params": {"eps": 1e-3}, "random_state": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_parameter_that_going_on_could_not_honour_is_refused(name, tmp_path):
    X = rows(30)
    made = small().partial_fit(X)
    before = made.score_samples(X)
    made.set_params(**{name: CHANGES[name]})
    with pytest.raises(ValueError, match=f"{name} must stay .*, with which training began"):
        made.partial_fit(X)
    assert (made.score_samples(X) == before).all()
    made.save(tmp_path / "m")
    assert load(tmp_path / "m").hyper.get(name) != CHANGES[name]
    made.set_params(**{name: small().get_params()[name]}).partial_fit(X)  # set back, it goes on
    small(max_epochs=2).fit(X, checkpoint=tmp_path / "c")
    resumed = MADE.resume(tmp_path / "c").set_params(**{name: CHANGES[name]})
    with pytest.raises(ValueError, match=f"{name} must stay"):
        resumed.fit(X)


def test_what_may_change_is_honoured():
    X = rows(60)
    changes = {"batch_size": 7, "learning_rate": 0.5, "max_epochs": 9, "learning_rate_schedule": "linear", "n_threads": 2}
    for name, value in changes.items():
        made = small().partial_fit(X).set_params(**{name: value}).partial_fit(X)
        assert made.model_.hyper.get(name, value) == value
    plain = small().partial_fit(X).partial_fit(X)
    for name in ("batch_size", "learning_rate"):
        changed = small().partial_fit(X).set_params(**{name: changes[name]}).partial_fit(X)
        assert (parameters(changed) != parameters(plain)).any()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda X, given: given | {"X": 1 - X}, "^X must be what the fit began with, got others"),
        (lambda X, given: given | {"X": X[::-1]}, "^X must be what the fit began with, got others"),
        (lambda X, given: given | {"X": with_gaps(X)}, "^X must be"),
        (lambda X, given: {"X": X, "X_val": given["X_val"]}, "^sample_weight must be what the fit began with"),
        (lambda X, given: given | {"sample_weight": np.ones(60)}, "^sample_weight must be what the fit began with"),
        (lambda X, given: given | {"X_val": X[:5]}, "^X_val must be what the fit began with, got others"),
        (lambda X, given: {"X": X, "sample_weight": given["sample_weight"]}, "^X_val must be .*, got none"),
        (lambda X, given: given | {"sample_weight_val": np.arange(20)}, "^sample_weight_val must be .*, got others"),
    ],
)
@pytest.mark.parametrize("options", [{"n_masks": None, "n_eval_masks": 2}, {"n_masks": 2}], ids=["fresh", "some"])
def test_a_resumed_fit_demands_what_it_began_with(tmp_path, change, match, options):
    X = rows(60)
    begun = {"X": X, "X_val": rows(20, 1), "sample_weight": np.linspace(0, 2, 60)}
    whole = small(**options).fit(**begun)
    small(**options, max_epochs=3).fit(**begun, checkpoint=tmp_path / "c")
    resumed = MADE.resume(tmp_path / "c").set_params(max_epochs=6)
    with pytest.raises(ValueError, match=match):
        resumed.fit(**change(X, begun))
    other_dress = begun | {"X": sp.csr_array(X.astype(float)), "sample_weight": begun["sample_weight"].tolist()}
    assert (parameters(resumed.fit(**other_dress)) == parameters(whole)).all()  # what was refused has changed nothing


def test_another_split_is_refused_too(tmp_path):
    small(max_epochs=2, validation_fraction=0.2).fit(rows(60), checkpoint=tmp_path / "c")
    for fraction in (None, 0.3):
        with pytest.raises(ValueError, match="must be what the fit began with"):
            MADE.resume(tmp_path / "c").set_params(validation_fraction=fraction).fit(rows(60))


def test_what_could_not_be_written_to_a_checkpoint_is_refused_before_training(tmp_path, monkeypatch):
    def trained(*_, **__):
        pytest.fail("training began")

    monkeypatch.setattr("made_fast.training.training.fit", trained)
    with pytest.raises(OSError, match="nowhere"):
        small().fit(rows(30), checkpoint=tmp_path / "nowhere" / "c")
    with pytest.raises(OSError, match=r"."):
        small().fit(rows(30), checkpoint=tmp_path)
    with pytest.raises(ValueError, match="PCG64"):
        small(random_state=np.random.Generator(np.random.MT19937(0))).fit(rows(30), checkpoint=tmp_path / "c")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty").touch()  # as tempfile makes them
    with pytest.raises(pytest.fail.Exception):
        small().fit(rows(30), checkpoint=tmp_path / "empty")


def test_a_checkpoint_replaces_no_other_file(tmp_path):
    small().fit(rows(30)).save(tmp_path / "model")
    (tmp_path / "table.csv").write_text("0,1\n")
    np.save(tmp_path / "table.npy", rows(3))
    for path in tmp_path.iterdir():
        before = path.read_bytes()
        with pytest.raises(FileExistsError, match=f"a file that is no checkpoint is there, and would be lost.*{path.name}"):
            small().fit(rows(30), checkpoint=path)
        assert path.read_bytes() == before
    small().fit(rows(30), checkpoint=tmp_path / "c")
    small().fit(rows(30), checkpoint=tmp_path / "c")  # one of an earlier fit is the user's own affair


def more(made, X):
    return made.partial_fit(X).score(X)


@pytest.mark.parametrize("options", [{}, {"n_masks": 3}, {"n_masks": None, "n_eval_masks": 2}], ids=["one", "some", "fresh"])
def test_partial_fit_of_an_estimator_whose_arrays_are_mapped_read_only(tmp_path, options):
    X = rows(40)
    made = small(**options).fit(X, X_val=rows(40, 1))
    joblib.dump(made, tmp_path / "made")
    mapped = joblib.load(tmp_path / "made", mmap_mode="r")
    expected = more(pickle.loads(pickle.dumps(made)), X)
    assert more(mapped, X) == expected
    resumable = small(max_epochs=2, **options).fit(X, checkpoint=tmp_path / "c")
    joblib.dump(MADE.resume(tmp_path / "c").set_params(max_epochs=4), tmp_path / "resumed")
    resumed = joblib.load(tmp_path / "resumed", mmap_mode="r").fit(X)
    assert (parameters(resumed) == parameters(resumable.set_params(max_epochs=4).fit(X))).all()


@pytest.mark.slow
def test_partial_fit_in_a_worker_process():
    """joblib maps arrays of more than 1 MB read-only there."""
    X = rows(20)
    made = small(hidden_sizes=(9000,), max_epochs=1).fit(X)
    assert made._trainer.state.nbytes > 1 << 20
    expected = more(pickle.loads(pickle.dumps(made)), X)
    assert joblib.Parallel(2)(joblib.delayed(more)(made, X) for _ in range(2)) == [expected] * 2


# Missing entries


def test_scores_of_rows_with_gaps_are_those_of_what_is_observed():
    X = with_gaps(rows(120))
    gaps = np.isnan(X).any(axis=1)
    assert 0 < gaps.sum() < len(X)
    for made in (
        small(n_masks=None, n_eval_masks=2).fit(X),
        MADEEnsemble(2, **small(n_masks=None, n_eval_masks=2).get_params()).fit(X),
    ):
        each = np.empty(len(X))  # a row has its score, whatever its neighbours miss
        each[gaps], each[~gaps] = made.log_marginal(X[gaps]), made.score_samples(X[~gaps])
        assert made.score(X) == made.model_.score(X) == each.mean()
        assert made.score(X[gaps]) == each[gaps].mean()
        assert made.score(sp.csr_array(X)) == each.mean()
    made = small(n_masks=None, n_eval_masks=2).fit(X)
    assert np.isfinite(cross_val_score(made, X, cv=3)).all()
    wide = with_gaps(np.tile(rows(60), 3), 0.6)
    with pytest.warns(ApproximationWarning):
        assert np.isfinite(small(ordering="natural").fit(wide).score(wide))


def test_a_search_finds_the_better_setting_on_rows_with_gaps():
    X = with_gaps(rows(200))
    search = GridSearchCV(small(n_masks=None, n_eval_masks=2, max_epochs=20), {"learning_rate": [1e-6, 0.01]}, cv=3).fit(X)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_params_ == {"learning_rate": 0.01}


@pytest.mark.parametrize("make", [small, lambda **params: MADEEnsemble(2, **small(**params).get_params())])
def test_columns_without_an_entry_are_told_of_and_tables_without_one_refused(make):
    X = with_gaps(rows(60))
    X[:, [2, 7]] = np.nan
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make(n_masks=None, n_eval_masks=2).fit(X)
    assert [str(w.message)[:49] for w in caught] == ["X has no observed entry in 2 column(s): 2, 7. Not"]
    assert caught[0].filename == __file__
    pd = pytest.importorskip("pandas")
    with pytest.warns(UserWarning, match=r"in 2 column\(s\): 'c2', 'c7'\."):
        make(n_masks=None, n_eval_masks=2).fit(pd.DataFrame(X, columns=[f"c{d}" for d in range(D)]))
    for nothing in (np.full((5, D), np.nan), sp.csr_array(np.full((5, D), np.nan)), [[None] * D]):
        with pytest.raises(ValueError, match="X must have an entry that is not missing, got NaN everywhere"):
            make(n_masks=None, n_eval_masks=2).fit(nothing)
    with pytest.raises(ValueError, match="an entry that is not missing"):
        small(n_masks=None).partial_fit(np.full((5, D), np.nan))


# Callbacks


def test_a_callback_is_told_of_every_epoch_and_may_end_the_fit():
    X, seen = rows(40), []
    made = small().fit(X, callback=seen.append)
    assert seen == made.history_
    stopped = small().fit(X, callback=lambda record: record["epoch"] == 3)
    assert len(stopped.history_) == len(small().fit(X, callback=lambda record: np.bool_(record["epoch"] == 3)).history_) == 3
    assert (parameters(stopped) == parameters(small(max_epochs=3).fit(X))).all()
    assert len(small().fit(X, callback=lambda record: "go on").history_) == 6  # True alone ends it
    with pytest.raises(TypeError, match="callback must be None or callable, got 3"):
        small().fit(X, callback=3)


def test_what_a_callback_raises_ends_the_fit_and_keeps_the_best():
    def fail(record):
        if record["epoch"] == 2:
            raise LookupError("enough")

    made = small()
    with pytest.raises(LookupError, match="enough"):
        made.fit(rows(40), callback=fail)
    assert made.best_epoch_ == len(made.history_) == 2
    assert (made.model_.score_samples(rows(9)) == small(max_epochs=2).fit(rows(40)).score_samples(rows(9))).all()


def test_members_of_an_ensemble_tell_who_they_are():
    seen = []
    ensemble = MADEEnsemble(2, **small(max_epochs=2).get_params()).fit(rows(40), callback=lambda m, r: seen.append((m, r)))
    assert seen == [(m, record) for m, member in enumerate(ensemble.members_) for record in member.history_]
