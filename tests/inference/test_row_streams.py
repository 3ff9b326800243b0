"""An answer about a row depends on that row alone: the bits are the same alone, among others, in any order, in batches."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
from helpers import random_model

from made_fast import MADEModel, MixtureModel
from made_fast.inference import answering, pattern
from made_fast.inference.density import ApproximationWarning
from made_fast.inference.pattern import DRAW, MEMBER, Streams
from made_fast.inference.rows import PackedRows

D = 30
SEED = 5


def one_member(**kwargs) -> MADEModel:
    return random_model(D, (20,), **{"dtype": "float32", "scale": 1.0, "seed": 2, **kwargs})


MODELS: dict[str, tuple[Callable[[], MADEModel | MixtureModel], int]] = {
    "one mask": (one_member, 1),
    "eleven masks": (lambda: one_member(n_masks=11), 11),  # NumPy adds up nine and more in another order if they lie in a row
    "unlimited": (lambda: one_member(n_masks=None), 3),
    "unlimited degrees": (lambda: one_member(n_masks=None, resample="connectivity"), 2),
    "mixture": (lambda: MixtureModel([one_member(seed=m) for m in range(10)]), 1),
    "mixture of sets": (lambda: MixtureModel([one_member(seed=m, n_masks=4) for m in range(3)], [0.5, 0.3, 0.2]), 2),
}
some_models = pytest.mark.parametrize("name", MODELS)


def rows() -> np.ndarray:
    """Return rows of two patterns, rows with patterns of their own, complete ones, one without anything, and equal ones."""
    rng = np.random.default_rng(0)
    X = (rng.random((24, D)) < 0.4).astype(float)
    X[:12][rng.random((2, D))[np.arange(12) % 2] < 0.6] = np.nan
    X[12:20][rng.random((8, D)) < 0.5] = np.nan
    X[20] = np.nan
    X[23] = X[0]
    return X


def ask(model: MADEModel | MixtureModel, method: str, X: np.ndarray, n_members: int, **kwargs) -> list[np.ndarray]:
    """Return the answers as arrays with a row of X first."""
    kwargs = {"n_members": n_members, "n_walks": 20, "random_state": SEED, **kwargs}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ApproximationWarning)
        if method == "log_marginal":
            return list(model.log_marginal(X, return_std=True, **kwargs))
        if method == "conditional":
            return list(model.conditional(X, 7, return_std=True, **kwargs))
        if method == "sample_conditional":
            return [model.sample_conditional(X, 3, **kwargs).swapaxes(0, 1)]
        return [model.impute(X, method, **kwargs)]


ESTIMATES = ("log_marginal", "conditional", "mode", "mean")
DRAWN = ("sample", "sample_conditional")


@pytest.fixture(autouse=True)
def many_estimates(monkeypatch):
    """Enumerate little and keep few members at once, so that a table of some rows takes every way there is."""
    monkeypatch.setattr(pattern, "ENUMERATED", 3)
    monkeypatch.setattr(answering, "AT_ONCE", 2)


def assert_same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


@some_models
@pytest.mark.parametrize("method", [*ESTIMATES, *DRAWN])
def test_the_other_rows_do_not_matter(name, method):
    make, n_members = MODELS[name]
    model, X = make(), rows()
    together = ask(model, method, X, n_members)
    if method == "log_marginal" and name != "unlimited":
        assert (together[1] > 0).sum() > 15  # they are estimates
    for n_threads in (1, 3):
        assert_same(ask(model, method, X, n_members, n_threads=n_threads), together)
    for n_walks in (20, 1) if method in ESTIMATES else (20,):  # NumPy adds up one walk for one row in another order
        whole = together if n_walks == 20 else ask(model, method, X, n_members, n_walks=1)
        for i in range(23):
            assert_same(ask(model, method, X[i : i + 1], n_members, n_walks=n_walks), [part[i : i + 1] for part in whole])
    order = np.random.default_rng(1).permutation(23)
    assert_same(ask(model, method, X[order], n_members), [part[order] for part in together])
    batches = [ask(model, method, X[i : i + 5][: 23 - i], n_members) for i in range(0, 23, 5)]
    assert_same([np.concatenate(parts) for parts in zip(*batches, strict=True)], [part[:23] for part in together])
    if method in ESTIMATES:  # the last row equals the first
        assert_same([part[23] for part in together], [part[0] for part in together])


@some_models
@pytest.mark.parametrize("method", DRAWN)
def test_equal_rows_have_draws_of_their_own(name, method):
    make, n_members = MODELS[name]
    X = np.full((40, D), np.nan)
    X[::2] = rows()[0]
    (drawn,) = ask(make(), method, X, n_members)
    flat = drawn.reshape(len(X), -1)
    for kind in (flat[::2], flat[1::2]):
        assert len(np.unique(kind, axis=0)) > 10
    (again,) = ask(make(), method, X[1::2], n_members)
    np.testing.assert_array_equal(again, drawn[1::2])  # the k-th of them gets what the k-th gets, wherever they stand


@some_models
def test_the_first_draws_are_the_same_however_many_there_are(name):
    make, n_members = MODELS[name]
    model, X = make(), rows()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ApproximationWarning)
        many, few = (
            model.sample_conditional(X, n, n_members=n_members, n_walks=20, random_state=SEED, n_threads=1) for n in (40, 3)
        )
        np.testing.assert_array_equal(many[:3], few)
        np.testing.assert_array_equal(model.impute(X, "sample", n_members=n_members, n_walks=20, random_state=SEED), few[0])
    assert len(np.unique(many[:, 20], axis=0)) > 20


@some_models
@pytest.mark.parametrize("method", ["log_marginal", "sample"])
def test_other_seeds_and_generators_give_other_numbers(name, method):
    make, n_members = MODELS[name]
    if name == "unlimited" and method == "log_marginal":
        pytest.skip("its marginals are exact")
    model, X = make(), rows()

    def differs(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
        return bool((a[0] != b[0]).any())

    asked = ask(model, method, X, n_members)
    assert differs(asked, ask(model, method, X, n_members, random_state=SEED + 1))
    fresh = [ask(model, method, X, n_members, random_state=None) for _ in range(2)]
    assert differs(*fresh)
    rng = np.random.default_rng(SEED)
    moving = [ask(model, method, X, n_members, random_state=rng) for _ in range(2)]
    assert_same(moving[0], asked)  # a generator of that seed, as it begins
    assert differs(*moving)


def test_members_and_purposes_have_streams_of_their_own():
    names = PackedRows(np.ones((2, 1), np.uint64), np.zeros((2, 1), np.uint64), D).counted().names()
    first = [
        Streams(root, names).of(row, purpose).random()
        for root in (b"call, 0", b"call, 1")
        for row in (0, 1)
        for purpose in (DRAW, MEMBER)
    ]
    assert len(set(first)) == 8


def test_equal_rows_are_counted_in_the_order_in_which_they_stand():
    bits = np.array([[3], [1], [3], [3], [1], [1]], np.uint64)
    missing = np.array([[0], [0], [0], [4], [0], [0]], np.uint64)
    table = PackedRows(bits, missing, 3)
    assert table.counted().copies.tolist() == [0, 0, 1, 0, 1, 2]
    assert table.counted().take(np.array([5, 2])).counted().copies.tolist() == [2, 1]
    assert (table.names()[0] == table.names()[2]).all()
    assert len(np.unique(table.counted().names(), axis=0)) == 6


def test_a_stream_goes_on_where_a_slice_of_rows_ends():
    streams = Streams(b"root", np.arange(3, dtype=np.uint64)[:, None])
    owner = np.repeat(np.arange(3), [7, 0, 4])
    whole = np.concatenate(list(streams.along(DRAW, owner, 2, [slice(0, 11)])))
    parts = np.concatenate(list(streams.along(DRAW, owner, 2, [slice(0, 3), slice(3, 7), slice(7, 8), slice(8, 11)])))
    np.testing.assert_array_equal(parts, whole)
    np.testing.assert_array_equal(whole[7:], streams.of(2, DRAW).random((4, 2)))
    np.testing.assert_array_equal(whole[:7].ravel(), streams.uniforms(DRAW, 14)[0])
