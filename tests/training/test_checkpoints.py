"""Checkpoints: a fit can be cut anywhere and gone on with, and no damaged file is taken."""

from __future__ import annotations

import errno
import itertools
import json
import os

import numpy as np
import pytest
import scipy.sparse as sp
from fits import EVERYTHING, parameters, rows, same_fit, small, told, trainer_of, with_gaps

from made_fast import MADE, ModelFileError, load
from made_fast.inference import tensorfile
from made_fast.training import checkpoint
from made_fast.training.steps import Trainer

RESUMED = {
    "fixed": {},
    "fixed sgd": {"optimizer": "sgd", "optimizer_params": {"lr_decay": 0.01}},
    "fixed momentum": {"optimizer": "momentum"},
    "fixed adadelta, direct": {"optimizer": "adadelta", "learning_rate": 1.0, "direct_connections": "output"},
    "masks": {"n_masks": 3},
    "masks, everything": {"n_masks": 3, "optimizer": "momentum", **EVERYTHING},
    "fresh": {"n_masks": None},
    "fresh, everything": {"n_masks": None, "optimizer": "rmsprop", "learning_rate": 1e-3, **EVERYTHING},
    "fresh orders": {"n_masks": None, "resample": "order", "optimizer": "adagrad"},
    "dropout": {"dropout": 0.4},
    "dropout, clipped": {"dropout": 0.4, "clip_norm": 0.5, "optimizer": "rmsprop"},
    "missing": {"missing": 0.2},
    "missing, fresh": {"missing": 0.2, "n_masks": None, "dropout": 0.2},
    "early stopping": {"validation_fraction": 0.25, "patience": 3, "learning_rate": 0.05},
    "early stopping, best first": {
        "validation_fraction": 0.25,
        "learning_rate": 0.5,
        "hidden_sizes": (100,),
        "bias_init": "zeros",
    },
    "early stopping, masks": {"validation_fraction": 0.25, "patience": 3, "n_masks": 4, "learning_rate": 0.05},
    "early stopping, missing": {"validation_fraction": 0.25, "missing": 0.2, "n_masks": None},
    "cosine": {"learning_rate_schedule": "cosine", "n_masks": 2},
    "float64": {"dtype": "float64", "n_masks": None},
}


@pytest.mark.parametrize(
    ("case", "n_rows", "n_epochs"),
    [(case, 150, 3) for case in RESUMED]
    + [(case, *size) for case in RESUMED if "fresh" in case for size in [(160, 4), (30, 5)]],
)
def test_a_fit_that_was_cut_in_two_ends_with_the_same_bits(tmp_path, monkeypatch, case, n_rows, n_epochs):
    """After 24 steps or 10. 32 connectivities are drawn at once: after so many (4 epochs of 160 rows) none is left over."""
    params = dict(RESUMED[case])
    X = rows(n_rows, missing=params.pop("missing", 0.0))
    params["max_epochs"] = 2 * n_epochs
    whole = small(**params).fit(X)
    assert case != "early stopping, best first" or whole.best_epoch_ <= n_epochs
    path, epoch, made = tmp_path / "checkpoint", Trainer.epoch, []

    def interrupted(self, *args):
        made.append(1)
        if len(made) > n_epochs:
            raise KeyboardInterrupt
        return epoch(self, *args)

    monkeypatch.setattr(Trainer, "epoch", interrupted)
    if len(whole.history_) > n_epochs:
        with pytest.raises(KeyboardInterrupt):
            small(**params).fit(X, checkpoint=path)
    else:
        small(**params).fit(X, checkpoint=path)
    monkeypatch.undo()
    resumed = MADE.resume(path)
    assert resumed.get_params() == {**small(**params).get_params(), "hidden_sizes": list(small(**params).hidden_sizes)}
    assert told(resumed) == told(whole)[: len(resumed.history_)]
    assert len(resumed.history_) == min(n_epochs, len(whole.history_))
    same_fit(resumed.fit(X), whole)


@pytest.mark.parametrize("case", ["fixed", "masks, everything", "fresh", "missing"])
def test_a_finished_fit_can_be_made_longer(tmp_path, case):
    params, path = dict(RESUMED[case]), tmp_path / "checkpoint"
    X = rows(90, missing=params.pop("missing", 0.0))
    short = small(max_epochs=3, **params).fit(X, checkpoint=path, checkpoint_every=2)
    resumed = MADE.resume(path)
    same_fit(resumed, short)
    assert (resumed.score_samples(rows(50, seed=1)) == short.score_samples(rows(50, seed=1))).all()
    same_fit(resumed.fit(X), short)  # there is nothing left to do
    whole = small(max_epochs=7, **params).fit(X)
    again = MADE.resume(path).set_params(max_epochs=5).fit(X, checkpoint=path)
    assert len(again.history_) == 5
    same_fit(MADE.resume(path).set_params(max_epochs=7, n_threads=2).fit(X), whole)
    by_parts = MADE.resume(path)
    for _ in range(2):
        by_parts.partial_fit(X)
    np.testing.assert_array_equal(parameters(by_parts), parameters(whole))


def test_the_best_parameters_survive_a_checkpoint(tmp_path):
    X = rows(60, 30)
    made = small(hidden_sizes=(100,), learning_rate=0.03, max_epochs=40, patience=5)
    whole = made.fit(X, X_val=rows(100, 30, seed=1), checkpoint=tmp_path / "checkpoint")
    assert whole.best_epoch_ < len(whole.history_) < 40
    resumed = MADE.resume(tmp_path / "checkpoint")
    assert (parameters(resumed) == parameters(whole)).all()
    assert (trainer_of(resumed).parameters.vector != parameters(resumed)).any()
    assert resumed.best_epoch_ == whole.best_epoch_


def test_sample_weights_and_column_names_go_on(tmp_path):
    pd = pytest.importorskip("pandas")
    X = pd.DataFrame(rows(60), columns=[f"c{i}" for i in range(12)])
    weights = np.random.default_rng(0).normal(1, 1, 60)
    whole = small(max_epochs=4).fit(X, sample_weight=weights)
    small(max_epochs=2).fit(X, sample_weight=weights, checkpoint=tmp_path / "checkpoint")
    resumed = MADE.resume(tmp_path / "checkpoint").set_params(max_epochs=4)
    with pytest.raises(ValueError, match="feature names"):
        resumed.fit(X[X.columns[::-1]], sample_weight=weights)
    with pytest.raises(ValueError, match="sample_weight"):
        resumed.fit(X, sample_weight=weights[:-1])
    same_fit(resumed.fit(X, sample_weight=weights), whole)  # what was refused has not made it forget
    assert resumed.feature_names_in_.tolist() == list(X.columns)
    same_fit(small(max_epochs=4).fit(X, sample_weight=weights), whole)
    assert len(resumed.fit(X).history_) == 4  # and the next fit starts afresh
    assert (parameters(resumed) == parameters(small(max_epochs=4).fit(X))).all()


def test_parameters_of_odd_types_come_back(tmp_path):
    odd = {
        "hidden_sizes": np.array([5, 4]), "dtype": np.float64, "ordering": tuple(range(12, 0, -1)),
        "learning_rate": np.float32(0.5), "optimizer_params": {"beta_1": np.float64(0.8)},
        "random_state": np.random.default_rng(0),
    }  # fmt: skip
    small(**odd, max_epochs=np.int64(2)).fit(rows(30), checkpoint=tmp_path / "checkpoint")
    resumed = MADE.resume(tmp_path / "checkpoint")
    assert resumed.get_params() == {
        **small().get_params(), "hidden_sizes": [5, 4], "dtype": "float64", "ordering": list(range(12, 0, -1)),
        "learning_rate": 0.5, "optimizer_params": {"beta_1": 0.8}, "random_state": None, "max_epochs": 2,
    }  # fmt: skip
    assert len(resumed.fit(rows(30)).fit(rows(30)).history_) == 2
    made = small(hidden_sizes=range(5, 3, -1), dtype="d", max_epochs=1).fit(rows(30), checkpoint=tmp_path / "checkpoint")
    same_fit(MADE.resume(tmp_path / "checkpoint").fit(rows(30)).fit(rows(30)), made)  # and afresh


@pytest.fixture(params=[{"validation_fraction": 0.5}, {"n_masks": None, "dropout": 0.5}], ids=["fixed", "fresh"])
def small_checkpoint(request, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # these tests write many files
    path = tmp_path / "checkpoint"
    small(hidden_sizes=(3,), max_epochs=2, **request.param).fit(rows(20, 4), checkpoint=path)
    return path


def test_damage_is_refused(small_checkpoint):
    raw = small_checkpoint.read_bytes()
    MADE.resume(small_checkpoint)
    for place in range(0, len(raw), 13):
        small_checkpoint.write_bytes(raw[:place] + bytes([raw[place] ^ 1 << place % 8]) + raw[place + 1 :])
        with pytest.raises(ModelFileError):
            MADE.resume(small_checkpoint)
    for length in range(0, len(raw), 97):
        small_checkpoint.write_bytes(raw[:length])
        with pytest.raises(ModelFileError):
            MADE.resume(small_checkpoint)


def test_a_model_is_no_checkpoint_and_a_checkpoint_no_model(small_checkpoint, tmp_path):
    made = MADE.resume(small_checkpoint)
    made.save(tmp_path / "model")
    with pytest.raises(ModelFileError, match="kind of the file must be 'checkpoint', got 'model'"):
        MADE.resume(tmp_path / "model")
    with pytest.raises(ModelFileError, match="kind of the file must be 'model', got 'checkpoint'"):
        load(small_checkpoint)
    with pytest.raises(FileNotFoundError):
        MADE.resume(tmp_path / "none")


WRONG = (None, True, -1, 1.5, 2**70, 1e300, "x", [], [[]], {}, {"a": 1})


def rewrite(path, **vectors):
    """Write the file anew, checksums right, with other tensors; None leaves one out."""
    tensors, metadata = tensorfile.read(path)
    tensors = {name: vectors.get(name, tensor) for name, tensor in tensors.items()}
    tensorfile.write(path, {name: tensor for name, tensor in tensors.items() if tensor is not None}, metadata)


@pytest.mark.parametrize("inside", [(), ("shuffle",), ("shuffle", "state"), ("about",), ("about", "params")])
def test_a_text_that_was_changed_is_refused_or_taken_but_nothing_else(small_checkpoint, inside):
    raw = small_checkpoint.read_bytes()
    tensors, _ = tensorfile.read(small_checkpoint)
    text = tensors["text"].tobytes()
    keys = json.loads(text)
    for key in inside:
        keys = keys[key]
    refused = 0
    values = (*WRONG[:: 3 if "params" in inside else 1], "leave out")
    for name, value in itertools.product(keys, values):
        changed = json.loads(text)
        part = changed
        for key in inside:
            part = part[key]
        if value == "leave out":
            del part[name]
        else:
            part[name] = value
        small_checkpoint.write_bytes(raw)
        rewrite(small_checkpoint, text=np.frombuffer(json.dumps(changed).encode(), np.uint8))
        try:
            made = MADE.resume(small_checkpoint)
        except ModelFileError:
            refused += 1
            continue
        if "about" not in inside and name != "about":  # what was taken can be used
            assert np.isfinite(made.set_params(max_epochs=made._fit_state.epoch + 1).fit(rows(20, 4)).score(rows(20, 4)))
    assert inside == ("about", "params") or refused > 3 * len(keys)


def test_tensors_that_do_not_fit_are_refused(small_checkpoint):
    raw = small_checkpoint.read_bytes()
    tensors, _ = tensorfile.read(small_checkpoint)
    for name, tensor in tensors.items():
        other = tensor.astype(np.float32 if tensor.dtype == np.int32 else np.int32)
        for value in (None, tensor[:-1], other, np.append(tensor, tensor)):
            small_checkpoint.write_bytes(raw)
            rewrite(small_checkpoint, **{name: value})
            if (name, value is None) == ("best", True):
                continue  # then the last parameters are the best
            with pytest.raises(ModelFileError):
                MADE.resume(small_checkpoint)


def test_best_parameters_must_be_those_of_the_masks(small_checkpoint):
    tensors, _ = tensorfile.read(small_checkpoint)
    if "best" in tensors:
        best = tensors["best"].copy()
        best[best == 0] = 1e-3
        rewrite(small_checkpoint, best=best)
        with pytest.raises(ModelFileError, match="dead weights and fill-up units must be 0"):
            MADE.resume(small_checkpoint)


def test_a_failing_disk_costs_no_checkpoint(tmp_path, monkeypatch):
    path, fsync, calls = tmp_path / "checkpoint", os.fsync, []

    def full(descriptor):
        calls.append(1)
        if len(calls) > 2:  # file and folder of the first epoch
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    made = small(max_epochs=5, n_masks=None)
    with pytest.raises(OSError, match="No space"):
        made.fit(rows(60), checkpoint=path)
    monkeypatch.undo()
    assert len(made.history_) == 2
    assert np.isfinite(made.score(rows(60)))
    assert os.listdir(tmp_path) == ["checkpoint"]
    resumed = MADE.resume(path)
    assert len(resumed.history_) == 1
    same_fit(resumed.fit(rows(60)), small(max_epochs=5, n_masks=None).fit(rows(60)))


def test_checkpoints_are_written_every_so_many_epochs_and_at_the_end(tmp_path, monkeypatch):
    written, write = [], checkpoint.write

    def spy(path, state, params):
        written.append(state.epoch)
        write(path, state, params)

    monkeypatch.setattr(checkpoint, "write", spy)
    small(max_epochs=7).fit(rows(40), checkpoint=tmp_path / "c", checkpoint_every=3)
    assert written == [3, 6, 7]
    written.clear()
    small(max_epochs=4).fit(rows(40), checkpoint=tmp_path / "c", checkpoint_every=2)
    assert written == [2, 4]


@pytest.mark.parametrize("options", [{}, {"n_masks": 3}], ids=str)
def test_a_checkpoint_is_never_of_a_fit_that_diverged(tmp_path, options):
    made = small(optimizer="sgd", learning_rate=1e30, max_epochs=50, **options)
    with pytest.raises(FloatingPointError):
        made.fit(rows(200), X_val=rows(50), checkpoint=tmp_path / "checkpoint")
    assert os.listdir(tmp_path) == []


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
    begun = {"X": X, "X_val": rows(20, seed=1), "sample_weight": np.linspace(0, 2, 60)}
    whole = small(**options, max_epochs=6).fit(**begun)
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

    monkeypatch.setattr("made_fast.training.run.FitRun.start", trained)
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
