"""The fit run: early stopping, going on, callbacks, Ctrl-C and losses that are not finite."""

from __future__ import annotations

import pickle
import sys
import traceback
from dataclasses import replace
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
from fits import FRESH, SHARED, parameters, rows, small, trainer_of

from made_fast import MADE, MADEEnsemble, kernels, load
from made_fast.training.checkpoint import FitState
from made_fast.training.run import Validation


@pytest.mark.parametrize("options", [{}, SHARED], ids=["one", "shared"])
def test_early_stopping_keeps_the_best_parameters(options):
    X, X_val = rows(60, 30), rows(200, 30, seed=1)
    made = small(hidden_sizes=(200,), max_epochs=500, patience=4, **options).fit(X, X_val=X_val)
    nll = [record["validation_nll"] for record in made.history_]
    assert len(nll) < 500
    assert made.best_epoch_ == int(np.argmin(nll)) + 1 == len(nll) - 4
    assert made.score(X_val) == (pytest.approx(-min(nll), rel=1e-14) if options else -min(nll))


def test_early_stopping_looks_at_the_first_masks_only():
    X_val = rows(100, seed=1)
    made = small(n_masks=None, n_eval_masks=6, n_val_masks=2, max_epochs=3).fit(rows(100), X_val=X_val)
    log_p = [made.score_samples(X_val, mask=k) for k in range(2)]
    best = made.history_[made.best_epoch_ - 1]["validation_nll"]
    assert best == pytest.approx(-np.mean(np.logaddexp(*log_p) - np.log(2)), rel=1e-12)


def test_complete_rows_beside_rows_with_gaps_are_scored_under_the_first_masks_only():
    X_val = rows(60, seed=1).astype(float)
    X_val[:30, 0] = np.nan
    made = small(n_masks=None, n_eval_masks=6, n_val_masks=2, max_epochs=3).fit(rows(100), X_val=X_val)
    log_p = [made.score_samples(X_val[30:], mask=k) for k in range(2)]
    both = np.append(made.model_.log_marginal(X_val[:30]), np.logaddexp(*log_p) - np.log(2))
    best = made.history_[made.best_epoch_ - 1]["validation_nll"]
    assert best == pytest.approx(-both.mean(), rel=1e-12)


def test_validation_rows_may_miss_entries():
    X, X_val = rows(200), rows(100, seed=1).astype(float)
    X_val[np.random.default_rng(0).random(X_val.shape) < 0.2] = np.nan
    made = small(hidden_sizes=(30,), max_epochs=6, **FRESH).fit(X, X_val=X_val)
    nll = [record["validation_nll"] for record in made.history_]
    assert made.best_epoch_ == int(np.argmin(nll)) + 1
    assert min(nll) == pytest.approx(-made.model_.score(X_val), rel=1e-12)
    assert min(nll) < nll[0] - 0.5


def test_validation_fraction_holds_rows_out():
    X = rows(400)
    made = small(validation_fraction=0.25, max_epochs=4).fit(X)
    assert all(record["validation_nll"] is not None for record in made.history_)
    assert made.history_[0]["rows_per_second"] * made.history_[0]["seconds"] == pytest.approx(300)
    with pytest.raises(ValueError, match="validation_fraction"):
        small(validation_fraction=1.5).fit(X)
    with pytest.raises(ValueError, match="leaves"):
        small(validation_fraction=0.1).fit(X[:3])


@pytest.mark.parametrize("options", [{}, SHARED, FRESH, {"dropout": 0.3}], ids=["one", "shared", "fresh", "dropout"])
def test_partial_fit_is_an_epoch_of_fit(options):
    X = rows(300)
    made = small(**options)
    for _ in range(3):
        made.partial_fit(X)
    whole = small(max_epochs=3, **options).fit(X)
    assert (parameters(made) == parameters(whole)).all()
    assert [r["train_nll"] for r in made.history_] == [r["train_nll"] for r in whole.history_]


@pytest.mark.parametrize("options", [{}, SHARED], ids=["one", "shared"])
@pytest.mark.parametrize("X_val", [None, rows(50, seed=1)], ids=["no validation", "validation"])
def test_going_on_does_not_change_a_model_in_use(tmp_path, options, X_val):
    X, path = rows(100), tmp_path / "made.checkpoint"
    fitted = small(max_epochs=2, **options).fit(X, X_val=X_val, checkpoint=path)
    resumed = MADE.resume(path).set_params(max_epochs=4)
    for made, go_on in ((fitted, lambda: fitted.partial_fit(X)), (resumed, lambda: resumed.fit(X, X_val=X_val))):
        model, theta, before = made.model_, parameters(made), parameters(made).copy()
        go_on()
        assert made.model_ is not model
        assert (theta == before).all()
        assert (parameters(made) != before).any()


def overfitted(**params):
    return small(hidden_sizes=(60,), max_epochs=90, patience=30, **params).fit(rows(30), X_val=rows(200, seed=1))


@pytest.mark.parametrize("options", [{}, {"n_masks": 3}, {"n_masks": None, "n_eval_masks": 2}], ids=["one", "some", "fresh"])
def test_partial_fit_goes_on_from_the_best_parameters(options):
    made, X = overfitted(**options), rows(50, seed=2)
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


def more(made, X):
    return made.partial_fit(X).score(X)


@pytest.mark.parametrize("options", [{}, {"n_masks": 3}, {"n_masks": None, "n_eval_masks": 2}], ids=["one", "some", "fresh"])
def test_partial_fit_of_an_estimator_whose_arrays_are_mapped_read_only(tmp_path, options):
    X = rows(40)
    made = small(**options).fit(X, X_val=rows(40, seed=1))
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
    assert trainer_of(made).state.nbytes > 1 << 20
    expected = more(pickle.loads(pickle.dumps(made)), X)
    assert joblib.Parallel(2)(joblib.delayed(more)(made, X) for _ in range(2)) == [expected] * 2


def test_a_callback_is_told_of_every_epoch_and_may_end_the_fit():
    X, seen = rows(40), []
    made = small().fit(X, callback=seen.append)
    assert seen == made.history_
    stopped = small().fit(X, callback=lambda record: record["epoch"] == 3)
    assert len(stopped.history_) == len(small().fit(X, callback=lambda record: np.bool_(record["epoch"] == 3)).history_) == 3
    assert (parameters(stopped) == parameters(small(max_epochs=3).fit(X))).all()
    assert len(small().fit(X, callback=lambda record: "go on").history_) == 5  # True alone ends it
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


@pytest.mark.parametrize("nlls", [(None, None), (3.0, 2.0), (2.0, 3.0)], ids=str)
def test_ctrl_c_between_any_two_lines_leaves_an_epoch_taken_in_once(nlls):
    """A trace function stands for Ctrl-C: it interrupts before each line in turn; who tidies up calls again."""

    def epoch(number):
        return {"epoch": number, "train_nll": 4.0, "validation_nll": nlls[number - 1], "seconds": 1.0, "rows_per_second": 9.0}

    def after_two(when):
        """Return the state after two epochs, the second interrupted before a line; and the number of lines."""
        trainer = SimpleNamespace(scored=SimpleNamespace(vector=np.array([1.0])))
        state, lines = FitState(trainer, {}, None, 0), 0
        state.made = epoch(1)
        state.take_in()

        def trace(frame, event, argument):
            nonlocal lines
            if frame.f_code is not FitState.take_in.__code__:
                return None
            lines += event == "line"
            if event == "line" and lines == when:
                raise KeyboardInterrupt
            return trace

        trainer.scored.vector = np.array([2.0])
        state.made, before = epoch(2), sys.gettrace()
        sys.settrace(trace)
        try:
            state.take_in()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        state.take_in()
        return state, lines

    state, n_lines = after_two(0)
    assert [record["epoch"] for record in state.history] == [1, 2]
    assert n_lines > 6
    for when in range(1, n_lines + 1):
        assert replace(after_two(when)[0], trainer=state.trainer) == state, when


def test_ctrl_c_right_after_the_best_epoch_leaves_it_as_such(monkeypatch):
    take_in, calls = FitState.take_in, []

    def interrupted(state):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        take_in(state)

    monkeypatch.setattr(FitState, "take_in", interrupted)
    made = small()
    with pytest.raises(KeyboardInterrupt):
        made.fit(rows(50), X_val=rows(20))
    scores = [record["validation_nll"] for record in made.history_]
    assert len(scores) == 3
    assert made.best_epoch_ == 1 + int(np.argmin(scores))
    assert -made.score(rows(20)) == min(scores)


EVERY_KIND = pytest.mark.parametrize("options", [{}, {"n_masks": 3}, {"n_masks": None}, {"missing": 0.2}], ids=str)


@EVERY_KIND
@pytest.mark.parametrize("validated", [False, True])
def test_a_loss_that_is_not_finite_is_said_and_the_last_good_parameters_are_kept(tmp_path, options, validated):
    """The learning rate explodes with the fourth epoch; what is left is what the third one made."""
    params = dict(options)
    X, X_val = rows(200, missing=params.pop("missing", 0.0)), rows(50) if validated else None

    def until(n_epochs):
        return small(
            optimizer="sgd", learning_rate=0.01, max_epochs=n_epochs, patience=50, random_state=1,
            learning_rate_schedule=lambda epoch: 1.0 if epoch < 4 else 1e38, **params,
        )  # fmt: skip

    good, made = until(3).fit(X, X_val=X_val), until(9)
    match = (
        r"^epoch 4: (the loss|a parameter|the validation loss) became (nan|-?inf) (at|with the update of) step \d+\. "
        r"Try a smaller learning_rate \(now 1e\+36\), clip_norm, or dtype='float64'\. The last good parameters are kept\.$"
    )
    with pytest.raises(FloatingPointError, match=match):
        made.fit(X, X_val=X_val)
    assert made.best_epoch_ == good.best_epoch_
    assert len(made.history_) == 3
    np.testing.assert_array_equal(parameters(made), parameters(good))
    made.set_params(learning_rate_schedule="constant").partial_fit(X)  # and one can go on from there
    assert np.isfinite(made.score(rows(50)))


@EVERY_KIND
def test_an_update_that_diverges_is_found_though_no_step_comes_after_it(options):
    params = dict(options)
    X = rows(100, missing=params.pop("missing", 0.0))
    made = small(optimizer="sgd", learning_rate=0.1, batch_size=100, random_state=1, **params).partial_fit(X)
    before, model = parameters(made).copy(), made.model_
    for rate, found in ((3e38, "a parameter|the loss"), (1e25, "the loss")):
        made.set_params(learning_rate=rate)
        with pytest.raises(FloatingPointError, match=rf"^epoch 2: ({found}) became (nan|-?inf) with the update of step \d+\."):
            made.partial_fit(X)
        assert made.model_ is model
        np.testing.assert_array_equal(parameters(made), before)
    assert len(made.set_params(learning_rate=0.1).partial_fit(X).history_) == 2


def test_a_validation_loss_that_is_not_finite_ends_the_fit(monkeypatch):
    X, X_val = rows(100), rows(100)
    made = small(optimizer="sgd", learning_rate=0.01, max_epochs=9, random_state=1)
    scores = iter([2.0, 1.0, np.nan])
    monkeypatch.setattr(Validation, "_log_p", lambda *_: np.array([-next(scores)]))
    with pytest.raises(FloatingPointError, match=r"^epoch 3: the validation loss became nan with the update of step"):
        made.fit(X, X_val=X_val)
    assert made.best_epoch_ == 2
    assert np.isfinite(made.score(X))


def test_best_epoch_is_up_to_date_when_a_callback_is_called():
    made, told = small(max_epochs=4), []
    with pytest.raises(AttributeError):
        _ = made.best_epoch_
    made.fit(X := rows(60), X_val=X, callback=lambda record: told.append((record["epoch"], made.best_epoch_)))
    assert told == [(1, 1), (2, 2), (3, 3), (4, 4)]


def test_verbose_shows_progress(capsys):
    small(verbose=1, max_epochs=2).fit(rows(50))
    assert capsys.readouterr().err.startswith("epoch 1: train ")
    small(verbose=2, max_epochs=2).fit(rows(50), X_val=rows(50))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "validation" in lines[1]
    small(max_epochs=2).fit(rows(50))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("options", [{}, SHARED], ids=["one", "shared"])
def test_six_frames_lead_from_fit_to_the_kernel(monkeypatch, options):
    name, stacks = "train_shared" if options else "train", []
    kernel = getattr(kernels.active, name)

    def fake(*args):
        stacks.append([frame.name for frame in traceback.extract_stack()])
        kernel(*args)

    monkeypatch.setattr(kernels.active, name, fake)
    small(max_epochs=1, **options).fit(rows(40))
    assert stacks
    assert all(stack[-8] == "test_six_frames_lead_from_fit_to_the_kernel" and stack[-7] == "fit" for stack in stacks)
