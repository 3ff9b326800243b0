"""Training: it can be cut anywhere and gone on with to the bit, and every option does what it says and nothing else."""

from __future__ import annotations

import errno
import itertools
import json
import os
import sys

import numpy as np
import pytest
from helpers import all_inputs
from scipy.stats import chisquare

from made_fast import MADE, MADEModel, ModelFileError, load
from made_fast.inference import tensorfile
from made_fast.kernels import layout as panels
from made_fast.kernels.optimizers import OPTIMIZERS
from made_fast.network.masks import Connectivity
from made_fast.network.network import Architecture, Network, Shared
from made_fast.training import checkpoint, given, trainers, training


def rows(n, D=12, missing=0.0, seed=0):
    """Return noisy copies of four patterns, with a share of entries missing."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(99).random((4, D)) < 0.5
    X = (patterns[rng.integers(4, size=n)] ^ (rng.random((n, D)) < 0.05)).astype(np.float64)
    X[rng.random((n, D)) < missing] = np.nan
    return X


def small(**params):
    defaults = {"hidden_sizes": (10, 9), "batch_size": 20, "learning_rate": 0.01, "random_state": 0}
    return MADE(**{**defaults, "n_eval_masks": 3, "n_threads": 1, **params})


def parameters(made):
    source = made.model_.source
    return source.theta if isinstance(source, Network) else source.values


def told(made):
    """Return what the history says, times left out."""
    return [(record["epoch"], record["train_nll"], record["validation_nll"]) for record in made.history_]


def initial(params, X, **fit):
    """Return the estimator before its first update: one epoch at a learning rate of 0."""
    return MADE(**{**params, "learning_rate_schedule": lambda epoch: 0.0, "max_epochs": 1}).fit(X, **fit)


def shared_matrices(architecture, values):
    """Return, for every row of the layout, W (n_out, n_in), b (n_out,) or None and U (n_out, n_in) or None, as views."""
    found = []
    for (n_in, n_out, *_), row in zip(architecture.layers, architecture.shared_layout, strict=True):
        W, b, U = (
            None if row[column] < 0 else values[row[column] :][: n * row[panels.ROW]].reshape(n, -1)[:, :n_out].T
            for column, n in ((panels.SHARED_WEIGHTS, n_in), (panels.SHARED_BIAS, 1), (panels.SHARED_U, n_in))
        )
        found.append((W, None if b is None else b[:, 0], U))
    return found


def same_fit(a, b):
    np.testing.assert_array_equal(parameters(a), parameters(b), strict=True)
    np.testing.assert_array_equal(a._trainer.parameters, b._trainer.parameters, strict=True)
    np.testing.assert_array_equal(a._trainer.state, b._trainer.state, strict=True)
    assert told(a) == told(b)
    assert (a.best_epoch_, a._trainer.step) == (b.best_epoch_, b._trainer.step)


# ---------------------------------------------------------------------------------------------------------------------------
# Checkpoints
# ---------------------------------------------------------------------------------------------------------------------------

EVERYTHING = {
    "connectivity_weights": True,
    "direct_connections": "all",
    "dropout": 0.2,
    "clip_norm": 0.5,
    "weight_decay": 0.01,
}
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
    "missing": {"missing": 0.2},
    "missing, fresh": {"missing": 0.2, "n_masks": None, "dropout": 0.2},
    "early stopping": {"validation_fraction": 0.25, "patience": 3, "learning_rate": 0.05},
    "early stopping, best first": {"validation_fraction": 0.25, "learning_rate": 0.5, "hidden_sizes": (100,)},
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
    path, epoch, made = tmp_path / "checkpoint", trainers.Trainer.epoch, []

    def interrupted(self, *args):
        made.append(1)
        if len(made) > n_epochs:
            raise KeyboardInterrupt
        return epoch(self, *args)

    monkeypatch.setattr(trainers.Trainer, "epoch", interrupted)
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
    assert (resumed._trainer.parameters != parameters(resumed)).any()
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


@pytest.mark.parametrize("hidden_sizes", [range(5, 3, -1), (np.int64(5), 4)])
@pytest.mark.parametrize("dtype", [np.float64, "d", np.dtype("f8")])
def test_a_checkpoint_of_odd_types_can_be_fitted_afresh(tmp_path, hidden_sizes, dtype):
    made = small(hidden_sizes=hidden_sizes, dtype=dtype, max_epochs=1).fit(rows(30), checkpoint=tmp_path / "checkpoint")
    resumed = MADE.resume(tmp_path / "checkpoint").fit(rows(30))
    same_fit(resumed.fit(rows(30)), made)


# Refusals


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


def test_other_generators_cannot_be_kept(tmp_path):
    rng = np.random.Generator(np.random.MT19937(0))
    with pytest.raises(ValueError, match=r"PCG64, got MT19937\. Use an int random_state"):
        small(max_epochs=1, random_state=rng).fit(rows(30), checkpoint=tmp_path / "checkpoint")
    assert not list(tmp_path.iterdir())


def test_checkpoints_are_written_every_so_many_epochs_and_at_the_end(tmp_path, monkeypatch):
    written, write = [], checkpoint.write

    def spy(path, trainer, state, about):
        written.append(state.epoch)
        write(path, trainer, state, about)

    monkeypatch.setattr(checkpoint, "write", spy)
    small(max_epochs=7).fit(rows(40), checkpoint=tmp_path / "c", checkpoint_every=3)
    assert written == [3, 6, 7]
    written.clear()
    small(max_epochs=4).fit(rows(40), checkpoint=tmp_path / "c", checkpoint_every=2)
    assert written == [2, 4]


# ---------------------------------------------------------------------------------------------------------------------------
# Masks that share weights
# ---------------------------------------------------------------------------------------------------------------------------


def spy_on_steps(monkeypatch):
    """Return a list that will hold (orders, groups, rows) of every call of the shared training kernel."""
    seen, kernel = [], trainers.SharedTrainer._kernel

    def spy(self, *args):
        train = kernel(self, *args)
        orders, layers, rows_, groups = (train.args[i] for i in (2, 3, 8, 9))
        assert len(orders) == len(layers)
        seen.append((orders.copy(), groups.copy(), rows_.copy()))
        return train

    monkeypatch.setattr(trainers.SharedTrainer, "_kernel", spy)
    return seen


@pytest.mark.parametrize("hidden_sizes", [(), (6,), (5, 6)])
def test_what_is_dead_under_all_masks_stays_and_all_else_learns(hidden_sizes):
    D, K = 8, 2
    params = {
        "hidden_sizes": hidden_sizes, "activation": "tanh", "optimizer": "sgd", "learning_rate": 0.1, "n_masks": K,
        "batch_size": 25, "direct_connections": "all", "connectivity_weights": True, "random_state": 1, "dtype": "float64",
        "max_epochs": 2,
    }  # fmt: skip
    X = (np.random.default_rng(0).random((100, D)) < 0.5).astype(np.uint8)
    before, after = initial(params, X), MADE(**params).fit(X)
    a = after.model_.architecture
    n_chain = len(hidden_sizes) + 1
    learns = [np.zeros(W.shape, bool) for W, _, _ in shared_matrices(a, parameters(after))]
    live = [np.zeros(W.shape, bool) for W, _, _ in shared_matrices(a, parameters(after))]
    for k in range(K):
        net = after.model_.to_dense(k)
        degrees = [*net["degrees"], net["ordering"] - 1]
        masks = [M.astype(bool) for M in net["masks"]]
        masks += [degrees[l][:, None] >= net["ordering"] for l in range(1, n_chain)]  # of direct connections
        useful = [np.ones(D, bool)]
        for M in masks[n_chain - 1 : 0 : -1]:
            useful.insert(0, M[useful[0]].any(axis=0))
        useful += useful[1:]
        for l, M in enumerate(masks):
            live[l] |= M
            learns[l] |= M & useful[l][:, None]
    for l, ((W0, b0, U0), (W1, b1, U1)) in enumerate(
        zip(shared_matrices(a, parameters(before)), shared_matrices(a, parameters(after)), strict=True)
    ):
        assert (~live[l]).any()
        assert learns[l].any()
        assert (W0 != 0).all()
        assert (W1[~live[l]] == W0[~live[l]]).all()
        assert (W1[learns[l]] != W0[learns[l]]).all()
        if l < n_chain:
            assert (b0 == 0).all()
            assert b1.any()
            assert (U0 == 0).all()
            assert (U1[~live[l]] == 0).all()
            assert (U1[learns[l]] != 0).all()


@pytest.mark.parametrize("n_masks", [1, 3, 40])
def test_masks_take_turns_and_those_trained_are_those_evaluated(monkeypatch, n_masks):
    seen = spy_on_steps(monkeypatch)
    made = small(n_masks=n_masks, connectivity_weights=True, max_epochs=5).fit(rows(150))
    assert made._trainer.masks is made.model_.masks
    assert made.model_.n_masks == n_masks
    turns = np.concatenate([groups[:, 2] for _, groups, _ in seen])
    assert (turns == np.arange(5 * 8) % n_masks).all()
    for orders, _, _ in seen:
        assert (orders[:, :12] == np.argsort(made.model_.masks.orderings, axis=1)).all()
    degrees = made.model_.masks.degrees
    for orders, _, _ in seen:
        for k in range(n_masks):
            for m, order in zip(degrees, np.split(orders[k, 12:], [10]), strict=True):
                assert (np.diff(m[k][order]) >= 0).all()


def all_turns(monkeypatch, made, X):
    """Return the connectivity of every step, as the order of inputs and units that the kernel was given."""
    seen = spy_on_steps(monkeypatch)
    made.fit(X)
    return np.concatenate([orders[groups[:, 2]] for orders, groups, _ in seen])


def test_no_two_steps_share_a_connectivity_when_masks_are_fresh(monkeypatch):
    turns = all_turns(monkeypatch, small(n_masks=None, max_epochs=6), rows(300))  # 15 steps an epoch: 32 is in the middle
    assert len(turns) == 90
    assert (turns[1:, :12] != turns[:-1, :12]).any(axis=1).all()
    assert (turns[1:, 12:] != turns[:-1, 12:]).any(axis=1).all()
    assert len(np.unique(turns, axis=0)) == 90


@pytest.mark.parametrize("resample", ["both", "order"])
@pytest.mark.parametrize("missing", [False, True])
def test_fresh_orderings_are_uniform(monkeypatch, resample, missing):
    made = small(hidden_sizes=(3,), n_masks=None, resample=resample, batch_size=1, max_epochs=10)
    X = np.tile(all_inputs(3), (75, 1)).astype(float)
    if missing:
        X[::2, 1] = np.nan
    turns = all_turns(monkeypatch, made, X)
    assert len(turns) == 6000
    if missing:  # half of them have input 1 last, for the rows that lack it; that says nothing of the other two
        last = turns[:, 2] == 1
        assert abs(last.mean() - (1 / 2 + 1 / 6)) < 0.03
        counts = [(turns[last, 0] == 0).sum(), (turns[last, 0] == 2).sum()]
    else:
        counts = np.unique(turns[:, :3], axis=0, return_counts=True)[1]
        assert len(counts) == 6
    assert chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("resample", ["both", "order", "connectivity"])
def test_resample_says_what_varies(monkeypatch, resample):
    turns = all_turns(monkeypatch, small(n_masks=None, resample=resample, max_epochs=3), rows(200))
    assert (len(np.unique(turns[:, :12], axis=0)) == 1) == (resample == "connectivity")
    assert (len(np.unique(turns[:, 12:], axis=0)) == 1) == (resample == "order")


@pytest.mark.parametrize("resample", ["both", "order", "connectivity"])
def test_resample_says_what_varies_in_the_set_that_is_evaluated(resample):
    places = list(range(12, 0, -1))
    for n_masks in (5, None):
        made = small(n_masks=n_masks, n_eval_masks=5, resample=resample, ordering=places, max_epochs=1).fit(rows(40))
        masks = made.model_.masks
        assert len(masks) == 5
        assert masks.orderings[0].tolist() == places
        assert (masks.orderings == places).all() == (resample == "connectivity")
        assert all((m == m[0]).all() == (resample == "order") for m in masks.degrees)


def test_layers_of_the_same_width_have_masks_of_their_own():
    masks = small(n_masks=4, hidden_sizes=(30, 30), max_epochs=1).fit(rows(40)).model_.masks
    assert (masks.degrees[0] != masks.degrees[1]).any(axis=1).all()


# ---------------------------------------------------------------------------------------------------------------------------
# The same bits
# ---------------------------------------------------------------------------------------------------------------------------

OPTIONS = {
    "masks": {"n_masks": 3},
    "fresh": {"n_masks": None},
    "connectivity weights": {"connectivity_weights": True},
    "direct": {"n_masks": 3, "direct_connections": "all"},
    "dropout": {"dropout": 0.3},
    "clipped": {"clip_norm": 0.05},
    "missing": {"missing": 0.1},
    "everything": {"n_masks": None, "missing": 0.1, "optimizer": "momentum", **EVERYTHING},
}


@pytest.mark.parametrize("case", OPTIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_number_of_threads_changes_no_bit(case, dtype):
    params = {"hidden_sizes": (200, 70), "batch_size": 100, "max_epochs": 2, "dtype": dtype, **OPTIONS[case]}
    X = rows(250, 64, params.pop("missing", 0.0))  # the last mini-batch is a short one
    weights = np.random.default_rng(0).normal(1, 1, len(X))
    made = [small(**params, n_threads=n).fit(X, sample_weight=weights) for n in (1, 2, 3)]
    assert isinstance(made[0]._trainer, trainers.SharedTrainer)
    assert [made[0]._trainer._ranks(100, n) for n in (1, 2, 3)] == [1, 2, 3]
    for other in made[1:]:
        same_fit(other, made[0])


@pytest.mark.parametrize("case", ["fixed", *OPTIONS])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_how_steps_are_cut_into_calls_changes_no_bit(monkeypatch, case, dtype):
    params = {"max_epochs": 3, "batch_size": 7, "dtype": dtype, **OPTIONS.get(case, {})}
    X = rows(300, missing=params.pop("missing", 0.0))
    made = []
    for seconds in (0, 1e9, 1e-4):  # a step a call; ever more; as it happens
        monkeypatch.setattr(trainers, "CALL_SECONDS", seconds)
        made.append(small(**params).fit(X))
    assert made[0]._trainer._steps_per_call == 1
    assert made[1]._trainer._steps_per_call > 100
    for other in made[1:]:
        same_fit(other, made[0])


@pytest.mark.parametrize("case", OPTIONS)
def test_a_seed_repeats_a_fit_and_another_does_not(case):
    params = {"max_epochs": 2, **OPTIONS[case]}
    X = rows(100, missing=params.pop("missing", 0.0))
    made = small(**params).fit(X)
    same_fit(small(**params).fit(X), made)
    assert (parameters(small(**params, random_state=1).fit(X)) != parameters(made)).any()


def test_options_leave_each_others_random_numbers_alone():
    """The same masks, initial weights and order of rows, whatever else is drawn."""
    X = rows(100)
    made = [small(n_masks=3, max_epochs=1, **more).fit(X) for more in ({}, {"dropout": 0.3}, {"validation_fraction": 0.1})]
    for other in made[1:]:
        assert (other.model_.masks.orderings == made[0].model_.masks.orderings).all()
    assert told(made[0])[0][1] != told(made[1])[0][1]
    a, b = (initial(small(n_masks=3, **more).get_params(), X) for more in ({}, {"dropout": 0.3, "clip_norm": 1.0}))
    np.testing.assert_array_equal(parameters(a), parameters(b))


# ---------------------------------------------------------------------------------------------------------------------------
# Weights of rows
# ---------------------------------------------------------------------------------------------------------------------------

ONE_STEP = {
    "optimizer": "sgd", "batch_size": 10_000, "max_epochs": 1, "dtype": "float64", "activation": "tanh", "n_threads": 1,
    "hidden_sizes": (7,), "random_state": 0,
}  # fmt: skip
KINDS = {
    "fixed": {},
    "masks": {"n_masks": 2, "connectivity_weights": True, "direct_connections": "output"},
    "fresh": {"n_masks": None, "n_eval_masks": 2},
    "missing": {"missing": 0.2},
}


def kind(name, n, D=6):
    """Return the parameters of one step of full-batch gradient descent, and rows."""
    params = {**ONE_STEP, **KINDS[name]}
    return params, rows(n, D, params.pop("missing", 0.0))


@pytest.mark.parametrize("name", KINDS)
def test_weights_of_one_change_no_bit(name):
    params, X = kind(name, 50)
    params.update(batch_size=12, max_epochs=2, dtype="float32", optimizer="adam")
    made = MADE(**params).fit(X)
    for weights in (np.ones(50), 1, [True] * 50):
        same_fit(MADE(**params).fit(X, sample_weight=weights), made)
        by_parts = MADE(**params).partial_fit(X, sample_weight=weights).partial_fit(X)
        assert (parameters(by_parts) == parameters(made)).all()


@pytest.mark.parametrize("name", KINDS)
def test_a_weight_of_two_is_the_row_twice_and_of_none_the_row_left_out(name):
    """The loss is a mean over all rows of the batch, whatever their weights: learning rates make up for that."""
    n, lr = 30, 0.3
    params, X = kind(name, n)
    if name == "missing":
        assert np.isnan(X[1:]).any()
    twice, weights = np.concatenate([X, X[4:5]]), np.ones(n)
    weights[4] = 2
    a = MADE(**params, learning_rate=lr).fit(X, sample_weight=weights)
    b = MADE(**params, learning_rate=lr * (n + 1) / n).fit(twice)
    np.testing.assert_allclose(parameters(a), parameters(b), rtol=1e-10, atol=1e-14)
    assert a.history_[0]["train_nll"] * n == pytest.approx(b.history_[0]["train_nll"] * (n + 1), rel=1e-12)
    weights[4] = 0
    a = MADE(**params, learning_rate=lr).fit(X, sample_weight=weights)
    b = MADE(**params, learning_rate=lr * (n - 1) / n).fit(np.delete(X, 4, axis=0))
    np.testing.assert_allclose(parameters(a), parameters(b), rtol=1e-10, atol=1e-14)
    plain = MADE(**params, learning_rate=lr).fit(X)
    assert not np.allclose(parameters(plain), parameters(a), rtol=1e-6)


@pytest.mark.parametrize("name", ["fixed", "masks"])
def test_a_negative_weight_makes_a_row_less_likely(name):
    params, X = kind(name, 20)
    params["max_epochs"] = 5
    weights = np.zeros(20)
    weights[3] = -1
    before = initial({**params, "learning_rate": 0.1}, X)
    after = MADE(**params, learning_rate=0.1).fit(X, sample_weight=weights)
    assert after.score_samples(X[3:4])[0] < before.score_samples(X[3:4])[0] - 0.01
    up = MADE(**params, learning_rate=0.1).fit(X, sample_weight=-weights)
    assert up.score_samples(X[3:4])[0] > before.score_samples(X[3:4])[0] + 0.01
    assert after.history_[0]["train_nll"] == -up.history_[0]["train_nll"]


def test_weights_are_those_of_the_rows_that_are_left_for_training():
    params, X = kind("fixed", 40)
    weights = np.random.default_rng(0).random(40)
    made = MADE(**params, validation_fraction=0.25).fit(X, sample_weight=weights)
    train, _ = made._hold_out(40)
    nll = -initial(params, X).score_samples(X[train])
    assert made.history_[0]["train_nll"] == pytest.approx(np.mean(weights[train] * nll), rel=1e-12)


# ---------------------------------------------------------------------------------------------------------------------------
# Rates, decay, clipping, constants
# ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [1, 1, 1, 1]),
        ("linear", [1, 0.75, 0.5, 0.25]),
        ("cosine", [1, (1 + np.sqrt(0.5)) / 2, 0.5, (1 - np.sqrt(0.5)) / 2]),
        (lambda epoch: 1 / epoch, [1, 1 / 2, 1 / 3, 1 / 4]),
        ([3, 0, 0.5, 1].__getitem__, [0, 0.5, 1]),
    ],
)
@pytest.mark.parametrize("options", [{}, {"n_masks": 2}], ids=str)
def test_learning_rate_schedules(monkeypatch, schedule, factors, options):
    seen, epoch = [], trainers.Trainer.epoch

    def spy(self, *args):
        seen.append(self.hyper[0])
        return epoch(self, *args)

    monkeypatch.setattr(trainers.Trainer, "epoch", spy)
    params = {"max_epochs": len(factors), "learning_rate_schedule": schedule, "learning_rate": 0.02, **options}
    made = small(**params).fit(rows(40))
    np.testing.assert_allclose(seen, 0.02 * np.array(factors), rtol=1e-14)
    by_parts = small(**params)
    for _ in factors:
        by_parts.partial_fit(rows(40))
    np.testing.assert_allclose(seen[len(factors) :], 0.02 * np.array(factors), rtol=1e-14)
    assert (parameters(by_parts) == parameters(made)).all()


def test_a_default_learning_rate_is_scheduled_too():
    made = small(optimizer="sgd", learning_rate=None, learning_rate_schedule="linear", max_epochs=2).fit(rows(40))
    assert made._trainer.hyper[0] == OPTIMIZERS["sgd"].hyper[0] / 2
    assert made.model_.hyper["learning_rate"] == OPTIMIZERS["sgd"].hyper[0]


def gradients(net, X):
    """Return the gradient of the mean NLL of complete rows with respect to W, b and A of a tanh net, as the formula says."""
    hs, x = [X.astype(float)], X.astype(float)
    for W, b, A in zip(net["weights"], net["biases"], net["direct"], strict=True):
        z = hs[-1] @ W.T + b + (0 if A is None else x @ A.T)
        hs.append(np.tanh(z))
    dz = (1 / (1 + np.exp(-z)) - x) / len(x)
    found = []
    for l in reversed(range(len(net["weights"]))):
        dA = None
        if net["direct"][l] is not None:
            above = net["degrees"][l] if l < len(net["degrees"]) else net["ordering"] - 1
            dA = (dz.T @ x) * (above[:, None] >= net["ordering"])
        found.insert(0, ((dz.T @ hs[l]) * net["masks"][l], dz.sum(axis=0), dA))
        if l:
            dz = (dz @ net["weights"][l]) * (1 - hs[l] ** 2)
    return found


@pytest.mark.parametrize("options", [{}, {"n_masks": 2}, {"clip_norm": 1e6}], ids=str)
@pytest.mark.parametrize("hidden_sizes", [(), (7,), (8, 5)])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adagrad"])
def test_weight_decay_shrinks_weights_apart_from_the_gradient(options, hidden_sizes, optimizer):
    params = {**ONE_STEP, "hidden_sizes": hidden_sizes, "optimizer": optimizer, "direct_connections": "all", **options}
    X, lr, decay = rows(30, 6), 0.2, 0.7
    before = initial({**params, "learning_rate": lr}, X)
    after = MADE(**params, learning_rate=lr, weight_decay=decay).fit(X)
    net, found = before.model_.to_dense(0), after.model_.to_dense(0)
    step = {
        "sgd": lambda g: lr * g,
        "adam": lambda g: lr * g / (np.abs(g) + 1e-8),
        "adagrad": lambda g: lr * g / np.sqrt(g * g + 1e-6),
    }[optimizer]
    for l, (dW, db, dA) in enumerate(gradients(net, X)):
        close = {"rtol": 1e-9, "atol": 1e-7 if optimizer == "adam" else 1e-12}  # adam blows up what is 0 but for rounding
        np.testing.assert_allclose(found["weights"][l], net["weights"][l] * (1 - lr * decay) - step(dW), **close)
        np.testing.assert_allclose(found["biases"][l], net["biases"][l] - step(db), **close)
        if dA is not None:
            np.testing.assert_allclose(found["direct"][l], net["direct"][l] * (1 - lr * decay) - step(dA), **close)


def test_connectivity_weights_decay_and_biases_do_not():
    params, X = kind("masks", 30)
    params.update(max_epochs=3, learning_rate=0.1)
    decayed, plain = MADE(**params, weight_decay=5.0).fit(X), MADE(**params).fit(X)
    a, first = plain.model_.architecture, initial(params, X)
    start = MADE(**{**params, "learning_rate": 1e-300}, weight_decay=1e300 / 2).fit(X)  # halves weights three times, no more
    for (W0, b0, _), (W, b, _) in zip(
        shared_matrices(a, parameters(first)), shared_matrices(a, parameters(start)), strict=True
    ):
        np.testing.assert_allclose(W, W0 / 8, rtol=1e-12)
        assert b is None or np.abs(b - b0).max() < 1e-290
    for (_, _, U), (_, _, U_decayed) in zip(
        shared_matrices(a, parameters(plain))[:2], shared_matrices(a, parameters(decayed))[:2], strict=True
    ):
        assert 0 < np.linalg.norm(U_decayed) < 0.8 * np.linalg.norm(U)


@pytest.mark.parametrize("name", ["masks", "fresh", "missing"])
@pytest.mark.parametrize("clip_norm", [1e-3, 0.05, 1e6])
def test_clipping_bounds_the_update(name, clip_norm):
    params, X = kind(name, 40)
    lr = 0.5
    before = parameters(initial({**params, "clip_norm": 1.0}, X))
    free = parameters(MADE(**params, learning_rate=lr, clip_norm=1e9).fit(X)) - before
    bound = parameters(MADE(**params, learning_rate=lr, clip_norm=clip_norm).fit(X)) - before
    norm = np.linalg.norm(free) / lr
    assert 0.05 < norm < 1e6
    assert np.linalg.norm(bound) / lr == pytest.approx(min(norm, clip_norm), rel=1e-9)
    np.testing.assert_allclose(bound, free * min(1, clip_norm / norm), rtol=1e-8, atol=1e-14)


def test_clipping_serves_one_mask_too():
    """The trainer of one mask cannot clip; the other does it, and gives the same network where nothing is clipped."""
    X = rows(60)
    a, b = small(max_epochs=2, dtype="float64").fit(X), small(max_epochs=2, dtype="float64", clip_norm=1e9).fit(X)
    assert isinstance(a._trainer, trainers.FixedTrainer)
    assert isinstance(b._trainer, trainers.SharedTrainer)
    np.testing.assert_allclose(a.score_samples(X), b.score_samples(X), rtol=1e-9)


OTHER = {
    "sgd": {"lr_decay": 0.5},
    "momentum": {"lr_decay": 0.5, "momentum": 0.5},
    "adagrad": {"eps": 0.1},
    "adadelta": {"rho": 0.5, "eps": 0.1},
    "rmsprop": {"rho": 0.5, "eps": 0.1},
    "adam": {"beta_1": 0.5, "beta_2": 0.5, "eps": 0.1},
}


@pytest.mark.parametrize(("optimizer", "name"), [(optimizer, name) for optimizer, others in OTHER.items() for name in others])
@pytest.mark.parametrize("options", [{}, {"n_masks": 2}], ids=str)
def test_the_optimizers_constants_reach_the_kernels(optimizer, name, options):
    value, rule = OTHER[optimizer][name], OPTIMIZERS[optimizer]
    params = {"optimizer": optimizer, "max_epochs": 2, **options}
    plain = small(**params).fit(rows(60))
    other = small(**params, optimizer_params={name: value}).fit(rows(60))
    assert (parameters(other) != parameters(plain)).any()
    assert plain._trainer.hyper.tolist() == [0.01, *rule.hyper[1:], 0, 0]
    expected = dict(zip(rule.names, plain._trainer.hyper, strict=False)) | {name: value}
    assert other._trainer.hyper[:4].tolist() == [expected[key] for key in rule.names[:4]]
    default = {name: dict(zip(rule.names, rule.hyper, strict=True))[name]}
    same_fit(small(**params, optimizer_params=default).fit(rows(60)), plain)


@pytest.mark.parametrize("options", [{}, {"n_masks": 3}], ids=str)
def test_constants_mean_what_they_say(options):
    X = rows(50)
    params = {"batch_size": 50, "max_epochs": 5, "learning_rate": 0.2, "dtype": "float64", **options}
    sgd = small(optimizer="sgd", **params).fit(X)
    momentum = small(optimizer="momentum", optimizer_params={"momentum": 0.0}, **params).fit(X)
    np.testing.assert_allclose(parameters(momentum), parameters(sgd), rtol=1e-12, atol=1e-15)
    decay = small(optimizer="sgd", optimizer_params={"lr_decay": 0.5}, **params).fit(X)  # one step an epoch
    schedule = small(optimizer="sgd", learning_rate_schedule=lambda epoch: 1 / (1 + 0.5 * (epoch - 1)), **params).fit(X)
    np.testing.assert_allclose(parameters(decay), parameters(schedule), rtol=1e-12, atol=1e-15)


def test_dropout_drops_and_scales():
    """A network whose hidden units are all the same: dropping some only scales its logits by how many are kept."""
    X = np.ones((400, 2), np.uint8)
    H, p = 64, 0.25
    params = {**ONE_STEP, "hidden_sizes": (H,), "activation": "relu", "n_masks": 1, "dropout": p, "ordering": "natural"}
    made = initial(params, X)
    trainer = made._trainer
    ((W, b, _), (V, _, _)) = shared_matrices(made.model_.architecture, trainer.parameters)
    W[:], b[:], V[:] = 0, 1, 0.1  # every hidden unit is 1, whatever the input; output 1 sees them all, output 0 none
    kept = np.unpackbits(trainer._keep(4000).view(np.uint8), axis=1, count=H, bitorder="little")
    assert abs(kept.mean() - (1 - p)) < 0.005
    assert abs(np.corrcoef(kept[:, 0], kept[:, 1])[0, 1]) < 0.08
    trainer.hyper[0] = 0
    nll = trainer.epoch(given.pack(given.look(X, None, None), trainer, None), 400, 1)
    # the logit of output 1 is 0.1 times the number of units kept, divided by 1 - p
    n = np.arange(H + 1)
    weights = np.array([np.prod([(H - j) / (j + 1) for j in range(k)]) * (1 - p) ** k * p ** (H - k) for k in n])
    expected = np.log(2) + (weights * np.log1p(np.exp(-0.1 * n / (1 - p)))).sum()
    spread = np.sqrt((weights * np.log1p(np.exp(-0.1 * n / (1 - p))) ** 2).sum() - (expected - np.log(2)) ** 2)
    assert abs(nll - expected) < 4 * spread / np.sqrt(400)
    assert abs(np.log1p(np.exp(-0.1 * H)) + np.log(2) - expected) < 0.01  # as without dropout, by the scaling
    assert abs(np.log1p(np.exp(-0.1 * H * (1 - p))) + np.log(2) - expected) > 4 * spread / np.sqrt(400)


def test_dropout_is_off_when_the_model_is_used():
    made = small(dropout=0.5, max_epochs=3).fit(rows(100))
    assert (made.score_samples(rows(50)) == made.score_samples(rows(50))).all()
    assert abs(np.exp(made.score_samples(all_inputs(12))).sum() - 1) < 1e-5


# ---------------------------------------------------------------------------------------------------------------------------
# Initial parameters
# ---------------------------------------------------------------------------------------------------------------------------


def drawn(sizes, weight_init, dtype="float64", direct="all", seed=0):
    architecture = Architecture(sizes[0], tuple(sizes[1:]), "relu", direct, True)
    values = training.initial_parameters(architecture, weight_init, np.dtype(dtype), np.random.default_rng(seed))
    assert values.dtype == dtype
    return shared_matrices(architecture, values)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", [(5, 9), (9, 5), (7, 7), (1, 3), (20, 6, 30), (800, 800)])
def test_orthogonal_weights(sizes, dtype):
    for W, b, U in drawn(sizes, "orthogonal", dtype, direct="none" if sizes == (800, 800) else "all"):
        tall = W if W.shape[0] >= W.shape[1] else W.T
        np.testing.assert_allclose(tall.T @ tall, np.eye(tall.shape[1]), atol=1e-5 if dtype == "float32" else 1e-12)
        assert b is None or not b.any()
        assert U is None or not U.any()


def test_orthogonal_weights_favour_no_direction():
    """Every entry of a uniform orthogonal matrix has mean 0 and variance 1 / n; without the signs of R it has not."""
    W = np.array([drawn((4, 4), "orthogonal", direct="none", seed=seed)[0][0] for seed in range(1000)])
    assert np.abs(W.mean(axis=0)).max() < 4.5 * 0.5 / np.sqrt(1000)
    assert np.abs((W**2).mean(axis=0) - 0.25).max() < 0.05
    assert 400 < (np.linalg.det(W) > 0).sum() < 600


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_glorot_weights(dtype):
    for n, (W, b, U) in zip((400, 500, 300), drawn((100, 300, 200), "glorot_uniform", dtype), strict=False):
        bound = np.sqrt(6 / n)
        assert 0.99 * bound < np.abs(W).max() <= bound * (1 + 1e-6)
        assert abs(W.mean()) < 4.5 * bound / np.sqrt(3 * W.size)
        assert abs(W.var() / (bound**2 / 3) - 1) < 0.05
        assert not b.any()
        assert not U.any()
    for n, (W, b, _) in zip((400, 500, 300), drawn((100, 300, 200), "glorot_normal", dtype), strict=False):
        assert abs(W.mean()) < 4.5 * np.sqrt(2 / n / W.size)
        assert abs(W.var() / (2 / n) - 1) < 0.05
        assert np.abs(W).max() > 3 * np.sqrt(2 / n)
        assert not b.any()
    direct = drawn((100, 300, 200), "glorot_uniform", dtype)[3:]
    assert [W.shape for W, _, _ in direct] == [(200, 100), (100, 100)]
    for n, (W, _, _) in zip((300, 200), direct, strict=True):
        assert 0.99 * np.sqrt(6 / n) < np.abs(W).max() <= np.sqrt(6 / n) * (1 + 1e-6)


def test_zeros_are_zeros():
    assert not any(W.any() for W, _, _ in drawn((5, 9, 4), "zeros"))
    made = initial({**ONE_STEP, "weight_init": "zeros"}, rows(20))
    np.testing.assert_allclose(made.score_samples(rows(20)), -12 * np.log(2), rtol=1e-12)


# ---------------------------------------------------------------------------------------------------------------------------
# Missing entries
# ---------------------------------------------------------------------------------------------------------------------------


def missing_last(connectivity, missing):
    """Return the connectivity with the missing inputs moved to the end of its ordering, all else as it was."""
    order = np.argsort(connectivity.ordering)
    order = np.concatenate([order[~missing[order]], order[missing[order]]])
    ordering = np.empty(len(order), np.int32)
    ordering[order] = np.arange(1, len(order) + 1)
    return Connectivity(ordering, connectivity.degrees)


def log_p_observed(model, connectivity, x):
    """Return log p of what is there of row x, all else summed out, from plain arrays of the network."""
    missing = np.isnan(x)
    net = model.to_dense(missing_last(connectivity, missing))
    X = all_inputs(len(x)).astype(float)
    X = X[np.equal(X, x)[:, ~missing].all(axis=1)]
    a, last = X, len(net["weights"]) - 1
    for l, (W, b, A) in enumerate(zip(net["weights"], net["biases"], net["direct"], strict=True)):
        z = a @ W.T + b + (0 if A is None else X @ A.T)
        a = z if l == last else np.tanh(z)
    return np.logaddexp.reduce(-np.logaddexp(0, np.where(X == 1, -a, a)).sum(axis=1))


@pytest.mark.parametrize("n_masks", [1, 3])
@pytest.mark.parametrize(
    "more", [{}, {"hidden_sizes": ()}, {"direct_connections": "all", "connectivity_weights": True}], ids=str
)
def test_the_loss_of_incomplete_rows_is_that_of_what_is_there(n_masks, more):
    """With p(observed) of each row from enumeration, under the mask whose turn it is and with what the row lacks last."""
    D, n = 6, 40
    X = rows(n, D, missing=0.3)
    X[0], X[1] = np.nan, rows(1, D)[0]  # nothing there; all there
    assert len(np.unique(np.isnan(X), axis=0)) > 15
    params = {**ONE_STEP, "hidden_sizes": (8, 7), "n_masks": n_masks, "max_epochs": 4, **more}
    params["learning_rate_schedule"] = lambda epoch: 0.0
    weights = np.random.default_rng(3).random(n)
    for batch_size, sample_weight in ((n, None), (n, weights), (11, None)):
        made = MADE(**{**params, "batch_size": batch_size}).fit(X, sample_weight=sample_weight)
        log_p = np.array([[log_p_observed(made.model_, made.model_.masks[k], x) for x in X] for k in range(n_masks)])
        assert log_p[0, 0] == pytest.approx(0, abs=1e-12)
        counts = np.ones(n) if sample_weight is None else weights
        if batch_size == n:  # epoch e is one step, under mask e
            expected = [-np.mean(counts * log_p[e % n_masks]) for e in range(4)]
        elif n_masks == 1:
            expected = [-np.mean(log_p[0])] * 4
        else:
            continue
        np.testing.assert_allclose([record["train_nll"] for record in made.history_], expected, rtol=1e-12)


def test_the_gradient_of_incomplete_rows_is_that_of_what_is_there():
    """One step of gradient descent against finite differences of the enumerated log p(observed)."""
    lr, eps = 0.5, 1e-5
    X = np.array([[1, 0, np.nan, 1], [np.nan, 1, 1, np.nan], [0, 0, 1, 1], [np.nan, np.nan, np.nan, 0], [1, 0, np.nan, 0]])
    params = {**ONE_STEP, "hidden_sizes": (5,), "connectivity_weights": True, "direct_connections": "output"}
    params["learning_rate"] = lr
    before, after = initial(params, X), MADE(**params).fit(X)
    a, start, connectivity = before.model_.architecture, parameters(before), before.model_.masks[0]

    def nll(values):
        model = MADEModel(Shared(a, values), before.model_.masks)
        return -np.mean([log_p_observed(model, connectivity, x) for x in X])

    assert before.history_[0]["train_nll"] == pytest.approx(nll(start), rel=1e-12)
    inside = np.zeros(len(start), bool)
    for part in itertools.chain(*shared_matrices(a, np.arange(len(start)))):
        if part is not None:
            inside[part] = True
    gradient = np.zeros(len(start))
    for i in np.flatnonzero(inside):
        for sign in (1, -1):
            values = start.copy()
            values[i] += sign * eps
            gradient[i] += sign * nll(values) / (2 * eps)
    assert (np.abs(gradient) > 1e-4).sum() > 25
    np.testing.assert_allclose(parameters(after), start - lr * gradient, atol=1e-8)


@pytest.mark.parametrize("options", [{"n_masks": None}, {"n_masks": 4}, {"n_masks": 1}], ids=str)
def test_training_on_incomplete_rows_learns_about_complete_ones(options):
    X, X_test = rows(2000, missing=0.2), rows(1000, seed=1)
    made = small(hidden_sizes=(60,), max_epochs=25, **options).fit(X)
    p = (np.nansum(X, axis=0) + 1) / ((~np.isnan(X)).sum(axis=0) + 2)
    independent = np.log(np.where(X_test == 1, p, 1 - p)).sum(axis=1).mean()
    assert made.score(X_test) > independent + 1
    assert made.history_[-1]["train_nll"] < made.history_[0]["train_nll"] - 0.5
    assert abs(np.exp(made.score_samples(all_inputs(12))).sum() - 1) < 1e-5


@pytest.mark.parametrize("nlls", [(None, None), (3.0, 2.0), (2.0, 3.0)], ids=str)
def test_ctrl_c_between_any_two_lines_leaves_an_epoch_taken_in_once(nlls):
    """A trace function stands for Ctrl-C: it interrupts before each line in turn; who tidies up calls again."""

    def epoch(number):
        return {"epoch": number, "train_nll": 4.0, "validation_nll": nlls[number - 1], "seconds": 1.0, "rows_per_second": 9.0}

    def after_two(when):
        """Return the state after two epochs, the second interrupted before a line; and the number of lines."""
        state, lines = training.FitState(), 0
        state.made = epoch(1)
        state.take_in(np.array([1.0]))

        def trace(frame, event, argument):
            nonlocal lines
            if frame.f_code is not training.FitState.take_in.__code__:
                return None
            lines += event == "line"
            if event == "line" and lines == when:
                raise KeyboardInterrupt
            return trace

        state.made, before = epoch(2), sys.gettrace()
        sys.settrace(trace)
        try:
            state.take_in(np.array([2.0]))
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        state.take_in(np.array([2.0]))
        return state, lines

    state, n_lines = after_two(0)
    assert [record["epoch"] for record in state.history] == [1, 2]
    assert n_lines > 6
    for when in range(1, n_lines + 1):
        assert after_two(when)[0] == state, when


def test_ctrl_c_right_after_the_best_epoch_leaves_it_as_such(monkeypatch):
    take_in, calls = training.FitState.take_in, []

    def interrupted(state, parameters):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        take_in(state, parameters)

    monkeypatch.setattr(training.FitState, "take_in", interrupted)
    made = small()
    with pytest.raises(KeyboardInterrupt):
        made.fit(rows(50), X_val=rows(20))
    scores = [record["validation_nll"] for record in made.history_]
    assert len(scores) == 3
    assert made.best_epoch_ == 1 + int(np.argmin(scores))
    assert -made.score(rows(20)) == min(scores)


def test_complete_rows_among_masks_that_could_vary_train_as_ever(monkeypatch):
    """Where nothing is missing there is one group a step; where something is, rows of a pattern go together."""
    seen = spy_on_steps(monkeypatch)
    small(n_masks=2, max_epochs=1).fit(rows(50))
    assert sum(len(groups) for _, groups, _ in seen) == 3
    assert all((groups[:, 4] == np.arange(len(groups))).all() for _, groups, _ in seen)
    assert all((groups[:, 3] == 12).all() for _, groups, _ in seen)
    seen.clear()
    X = rows(50)
    X[:25, 3], X[10:40, 5] = np.nan, np.nan
    small(n_masks=2, max_epochs=1).fit(X)
    done = 0
    for orders, groups, chosen in seen:
        assert (groups[:, 0] == np.append(0, groups[:-1, 1])).all()
        for k, (first, stop, mask, n_there, _, _) in enumerate(groups):
            missing = np.isnan(X[chosen[first:stop]])
            assert (missing == missing[0]).all()  # one pattern
            assert n_there == 12 - missing[0].sum()
            assert set(orders[mask, n_there:12]) == set(np.flatnonzero(missing[0]))
            assert mask == k
        done += len(chosen)
    assert done == 50


def test_a_table_may_miss_something_later_where_masks_vary():
    made = small(n_masks=None).partial_fit(rows(60))
    made.partial_fit(rows(60, missing=0.3)).partial_fit(rows(60)).partial_fit(rows(60, missing=0.3, seed=1))
    assert len(made.history_) == 4
    assert np.isfinite(parameters(made)).all()


# ---------------------------------------------------------------------------------------------------------------------------
# Divergence
# ---------------------------------------------------------------------------------------------------------------------------


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
    monkeypatch.setattr(training, "validator", lambda *_: lambda: next(scores))
    with pytest.raises(FloatingPointError, match=r"^epoch 3: the validation loss became nan with the update of step"):
        made.fit(X, X_val=X_val)
    assert made.best_epoch_ == 2
    assert np.isfinite(made.score(X))


@pytest.mark.parametrize("options", [{}, {"n_masks": 3}], ids=str)
def test_a_checkpoint_is_never_of_a_fit_that_diverged(tmp_path, options):
    made = small(optimizer="sgd", learning_rate=1e30, max_epochs=50, **options)
    with pytest.raises(FloatingPointError):
        made.fit(rows(200), X_val=rows(50), checkpoint=tmp_path / "checkpoint")
    assert os.listdir(tmp_path) == []
