"""Pickles and copies: they answer and train as the original does, and use neither grows nor disturbs them."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import joblib
import numpy as np
import pytest
from helpers import random_model

from made_fast import MADE, MADEEnsemble, MADEModel, MixtureModel
from made_fast.training import checkpoint
from made_fast.training.rows import TrainingRows
from made_fast.training.turns import POOL

D = 70
X = (np.random.default_rng(0).random((64, D)) < 0.3).astype(np.uint8)
GAPS = np.where(np.random.default_rng(1).random(X.shape) < 0.3, np.nan, X)


def made(**kwargs) -> MADE:
    few = {"hidden_sizes": (40,), "max_epochs": 2, "batch_size": 10, "random_state": 0, "n_threads": 1, "n_eval_masks": 4}
    return MADE(**{**few, **kwargs})


def by_joblib(value: Any) -> Any:
    file = io.BytesIO()
    joblib.dump(value, file)
    file.seek(0)
    return joblib.load(file)


def by_message(value: Any) -> Any:
    """Return what a cluster's library makes of the parts of a message, wherever these lie in memory."""
    parts: list[Any] = []
    head = pickle.dumps(value, protocol=5, buffer_callback=parts.append)
    return pickle.loads(head, buffers=[memoryview(bytearray(b"?" + part.raw().tobytes()))[1:] for part in parts])


WAYS: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "old pickle": lambda value: pickle.loads(pickle.dumps(value, protocol=2)),
    "pickle in Python": lambda value: pickle._loads(pickle._dumps(value)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "joblib": by_joblib,
    "message": by_message,
}
ANY: dict[str, Callable[[], Any]] = {
    "one mask": lambda: random_model(D, (40,), dtype="float32"),
    "masks": lambda: random_model(D, (40, 30), dtype="float32", n_masks=9, connectivity_weights=True, direct="all"),
    "unlimited": lambda: random_model(D, (40,), dtype="float32", n_masks=None),
    "mixture": lambda: MixtureModel([random_model(D, (40,), n_masks=m + 1, seed=m) for m in range(3)], [0.5, 0.3, 0.2]),
    "fit of one mask": lambda: made().fit(X),
    "fit of masks": lambda: made(n_masks=3).fit(X),
    "fit of fresh masks": lambda: made(n_masks=None).fit(X),
    "fit of an ensemble": lambda: MADEEnsemble(2, **made().get_params() | {"n_masks": 2}).fit(X),
}


def use(model: Any) -> list[np.ndarray]:
    """Ask everything that makes a model keep something; return the answers."""
    part = model.members[0] if isinstance(model, MixtureModel) else model
    seen = getattr(part, "model_", part)
    members = [] if isinstance(seen, MixtureModel) else [seen.conditional_proba(X, mask=k) for k in range(seen.n_masks)]
    return [
        model.score_samples(X),
        model.sample(5, random_state=0),
        model.log_marginal(GAPS, return_std=True)[0],
        model.sample_conditional(GAPS[:5], random_state=0),
        *members,
    ]


def assert_same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ANY)
@pytest.mark.filterwarnings("ignore::made_fast.inference.density.ApproximationWarning")
def test_copies_give_the_same_answers_and_pickles_do_not_grow_with_use(name, way):
    model = ANY[name]()
    before = len(pickle.dumps(model))
    unused = WAYS[way](model)
    answers = use(model)
    used = WAYS[way](model)
    for other in (unused, used):
        assert_same(use(other), answers)
        assert abs(len(pickle.dumps(other)) - before) < 100 or name.startswith("fit")
    assert len(pickle.dumps(model)) == before


def arrays_of(fitted: MADE) -> int:
    """Return the bytes of what a fitted estimator cannot do without."""
    trainer, masks = fitted._fit_state.trainer, fitted.model_.masks
    vectors = [trainer.parameters.vector, trainer.average, trainer.state, masks.orderings, *masks.degrees]
    return sum(array.nbytes for array in vectors)


@pytest.mark.parametrize(("n_masks", "table"), [(1, X), (3, X), (None, X), (None, GAPS), (1, GAPS)])
def test_what_can_be_made_again_is_not_in_a_pickle(n_masks, table):
    many = np.repeat(table, 20, axis=0)
    fitted = made(n_masks=n_masks, max_epochs=1).fit(many)
    assert len(pickle.dumps(fitted)) < arrays_of(fitted) + 12_000


class Meanwhile(pickle.Pickler):
    """Does something between any two objects that it pickles, as another thread may."""

    def __init__(self, do: Callable[[], Any]) -> None:
        self.file = io.BytesIO()
        super().__init__(self.file)
        self._do = do

    def persistent_id(self, obj: Any) -> None:
        self._do()


@pytest.mark.parametrize("kwargs", [{}, {"n_masks": 60}, {"n_masks": None}])
def test_a_model_may_be_asked_while_it_is_pickled(kwargs):
    answers = random_model(D, (8,), **kwargs).score_samples(X)
    for n_objects in range(0, 150, 7):  # what is kept comes into being from that one on
        model, seen = random_model(D, (8,), **kwargs), 0

        def ask(model: MADEModel = model, from_there: int = n_objects) -> None:
            nonlocal seen
            seen += 1
            if seen > from_there:
                model.conditional_proba(X[:1], mask=seen % model.n_masks)
                model.sample(1, mask=seen % model.n_masks)

        pickler = Meanwhile(ask)
        pickler.dump(model)
        np.testing.assert_array_equal(pickle.loads(pickler.file.getvalue()).score_samples(X), answers)


# Training continues


TRAINED = {
    "fixed": ({}, X),
    "masks in turn": ({"n_masks": 5, "dropout": 0.2}, X),
    "fresh masks": ({"n_masks": None, "connectivity_weights": True}, X),
    "missing entries": ({"n_masks": None}, GAPS),
    "missing entries, one mask": ({}, GAPS),
}


@pytest.mark.parametrize("n_rows", [10, 64, 10 * POOL])  # amid a pool of masks, and at its end
@pytest.mark.parametrize("name", TRAINED)
def test_training_continues_with_the_same_bits(name, n_rows):
    kwargs, table = TRAINED[name]
    rows = np.resize(table, (n_rows, D))

    def ahead(fitted: MADE) -> list[np.ndarray]:
        for _ in range(3):
            fitted.partial_fit(rows)
        assert fitted.model_.score_samples(X).shape == (64,)
        return [fitted._fit_state.trainer.parameters.vector, fitted._fit_state.trainer.state, fitted.score_samples(X)]

    whole, stopped = made(**kwargs).partial_fit(rows), made(**kwargs).partial_fit(rows)
    others = [way(stopped) for key, way in WAYS.items() if key != "copy"]
    others.append(pickle.loads(pickle.dumps(others[0])))  # one that has not yet gone on
    expected = ahead(whole)
    for fitted in (stopped, *others):
        assert_same(ahead(fitted), expected)


def test_a_copy_leaves_the_generators_of_a_trainer_alone():
    turns = made(n_masks=None).partial_fit(X)._fit_state.trainer.turns
    before = turns.fresh.bit_generator.state
    for name, way in WAYS.items():
        if name != "copy":
            way(turns).take(1, TrainingRows(np.zeros((1, 1), np.uint64), None, np.empty(0)), np.arange(1), 1)  # the pool again
        assert turns.fresh.bit_generator.state == before


@pytest.mark.parametrize("name", TRAINED)
def test_a_checkpoint_after_unpickling_resumes_to_the_same_bits(name, tmp_path):
    kwargs, table = TRAINED[name]
    resumed = []
    for way in (copy.copy, WAYS["pickle"]):
        fitted = way(made(**kwargs).partial_fit(table))
        checkpoint.write(tmp_path / "checkpoint", fitted._fit_state, fitted.get_params())
        resumed.append(MADE.resume(tmp_path / "checkpoint").set_params(max_epochs=3).fit(table))
    assert_same(*([fitted._fit_state.trainer.parameters.vector] for fitted in resumed))


@pytest.mark.parametrize("way", [key for key in WAYS if key != "copy"])
@pytest.mark.parametrize("kwargs", [{}, {"n_masks": 3}, {"n_masks": None}])
def test_what_was_one_array_is_one_array(kwargs, way):
    fitted = made(**kwargs).fit(X)
    other = WAYS[way](fitted)

    def held(of: MADE) -> list[np.ndarray]:
        source = of.model_.source
        return [of._fit_state.trainer.scored.vector, source.vector]

    assert np.shares_memory(*held(fitted))  # the model's is a read-only view
    if way in ("joblib", "message"):  # every mention of an array becomes one
        assert_same(held(other)[:1], held(other)[1:])
    else:
        assert np.shares_memory(*held(other))
    assert other._fit_state.trainer.architecture is other.model_.architecture
    before = other.score_samples(X)
    model = other.model_
    other.partial_fit(X)
    assert_same([model.score_samples(X), fitted.score_samples(X)], [before, before])
    assert (other.score_samples(X) != before).any()
