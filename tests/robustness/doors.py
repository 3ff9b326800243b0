"""Public doors: what may come in at a method, and what must come out of it.

A *door* is a public method that takes a table of rows; a *table* is anything that a user may take for one, with what it
holds as plain numbers beside it. The promise, :func:`knock`: the answer is that to the plain contiguous uint8 rows of the same
values, to the bit; or a TypeError or ValueError tells the name, the demand and what was found. What was handed in stays as it
was, and the model behind the door too. Warnings are errors throughout.

Not here: the tables (``any_tables.py``), options of methods, hyper-parameters and files of data (``test_doors.py``), model
files (``fuzz.py``).

    python tests/robustness/doors.py --n 1000      so many tables at every door
"""

from __future__ import annotations

import argparse
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from made_fast import MADE, MADEEnsemble, MADEImputer, MixtureModel
from made_fast.tables import data

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where its neighbours are, also for a script
from robustness.any_tables import Table, tables

WIDTH, WIDE = 5, 70
"""Of the models: one word of bits, and two."""


# Doors


@dataclass(frozen=True)
class Door:
    """A method that takes a table.

    Attributes
    ----------
    name : str
    call : callable
        ``call(X)`` hands a table in and returns what comes out, as arrays.
    bits : callable
        What the model behind the door says of some rows; it must stay the same.
    width : int
    missing : bool
        Whether NaN marks a missing entry, or is refused.
    threshold : float or None
        Values above it count as 1.
    argument : str
        What error texts call the table.
    fits : bool
        The width is free.
    learns : bool
        A table of which nothing is observed is refused: there is nothing to learn.
    """

    name: str
    call: Callable[[Any], list[Any]]
    bits: Callable[[], bytes]
    width: int = WIDTH
    missing: bool = False
    threshold: float | None = None
    argument: str = "X"
    fits: bool = False
    learns: bool = False


def rows(n: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return random rows of 0/1."""
    return (np.random.default_rng(seed).random((n, width)) < 0.4).astype(np.uint8)


def small(**options: Any) -> MADE:
    """Return an estimator that fits in a millisecond."""
    defaults = {
        "hidden_sizes": (4,),
        "max_epochs": 1,
        "batch_size": 2,
        "n_threads": 1,
        "random_state": 0,
        "learning_rate": 0.1,
    }
    return MADE(**(defaults | options))


@cache
def world() -> dict[str, Any]:
    """Return fitted models of every kind."""
    one = small().fit(rows(8, WIDTH))
    several = small(n_masks=3, direct_connections="output", connectivity_weights=True).fit(rows(8, WIDTH))
    wide = small(n_masks=None, n_eval_masks=2, dtype="float64").fit(rows(8, WIDE))
    threshold = small(binarize=0.5).fit(rows(8, WIDTH))
    below = small(binarize=-0.5, n_masks=None, n_eval_masks=2).fit(rows(8, WIDTH))
    ensemble = MADEEnsemble(2, hidden_sizes=(4,), max_epochs=1, n_threads=1, random_state=0, n_masks=2).fit(rows(8, WIDTH))
    imputer = MADEImputer(small(n_masks=None, n_eval_masks=2), n_threads=1, random_state=0).fit(rows(8, WIDTH))
    mixture = MixtureModel([one.model_, several.model_], [0.25, 0.75])
    return {
        "MADE": one, "MADE of several masks": several, "MADEEnsemble": ensemble, "MADEImputer": imputer,
        "MADEModel": one.model_, "MADEModel of several masks": several.model_, "MADEModel of two words": wide.model_,
        "MADEModel with a threshold": threshold.model_, "MADEModel with a threshold below 0": below.model_,
        "MixtureModel": mixture,
    }  # fmt: skip


def _bits_of(model: Any) -> Callable[[], bytes]:
    """Return what tells the bits of a model: log-likelihoods and samples."""
    model = getattr(model, "model_", model)
    X = rows(2, model.n_features_in, 1)
    return lambda: model.score_samples(X, n_threads=1).tobytes() + model.sample(2, 0, n_threads=1).tobytes()


def _questions(model: Any, options: dict[str, Any]) -> dict[str, Callable[[Any], list[Any]]]:
    """Return the methods that answer about rows with missing entries."""
    fixed = {"random_state": 3, "n_walks": 4} | options
    return {
        "log_marginal": lambda X: list(model.log_marginal(X, return_std=True, **fixed)),
        "conditional": lambda X: list(model.conditional(X, 1, return_std=True, **fixed)),
        "sample_conditional": lambda X: [model.sample_conditional(X, 2, **fixed)],
        "impute": lambda X: [model.impute(X, method, **fixed) for method in ("mode", "mean", "sample")],
    }


FEW = ("score_samples", "conditional_proba", "log_marginal", "impute")
"""The methods of models of one more kind."""


def _answering_doors() -> Iterator[Door]:
    for name, model in world().items():
        if name == "MADEImputer":
            yield Door(  # the dtype is that of the table
                f"{name}.transform", lambda X, model=model: [model.transform(X).astype(float)], _bits_of(model), missing=True
            )
            continue
        fitted = getattr(model, "model_", model)
        options = {"n_threads": 1} if fitted is model else {}  # an estimator has its own
        single = getattr(fitted, "members", [fitted])[0]
        width, threshold = fitted.n_features_in, single.binarize
        which = ({"member": 1} if hasattr(fitted, "members") else {}) | ({"mask": 1} if single.n_masks > 1 else {})
        if name == "MixtureModel":
            which = {"member": 0}
        bits = _bits_of(model)
        score: dict[str, Callable[[Any], list[Any]]] = {
            "score_samples": lambda X, model=model, options=options: [model.score_samples(X, **options)],
            "score": lambda X, model=model, options=options: [model.score(X, **options)],
            "conditional_proba": lambda X, model=model, more=which | options: [model.conditional_proba(X, **more)],
        }
        few = FEW if " " in name else {*score, *_questions(model, options)}
        for method, call in score.items():
            if method in few:
                yield Door(f"{name}.{method}", call, bits, width, method == "score", threshold)
        for method, call in _questions(model, options).items():
            if method in few:
                yield Door(f"{name}.{method}", call, bits, width, True, threshold)


def state_of(made: Any) -> list[Any]:
    """Return all that a fit has found."""
    models = [member.model_ for member in made.members_] if hasattr(made, "members_") else [made.model_]
    sources = [model.source.vector for model in models]
    history = [[record["train_nll"], record["validation_nll"] or 0.0] for record in getattr(made, "history_", [])]
    return [*sources, history, getattr(made, "weights_", [])]


def _fitting_doors() -> Iterator[Door]:
    w = world()
    one, several = w["MADE"], w["MADE of several masks"]

    def fits(name: str, call: Callable[[Any], Any], bits: Callable[[], bytes], **more: Any) -> Door:
        return Door(name, lambda X: state_of(call(X)), bits, **({"missing": True, "fits": True, "learns": True} | more))

    # A fit that is refused leaves the model of the last one.
    mine = small().fit(rows(6, WIDTH))
    keep = mine.model_
    mine_bits = _bits_of(keep)

    def again(X: Any) -> Any:
        before = mine.model_
        try:
            return mine.fit(X)
        except (TypeError, ValueError, MemoryError):
            assert mine.model_ is before
            raise

    def further(made: MADE) -> Callable[[Any], Any]:
        def call(X: Any) -> Any:
            fresh = small(**made.get_params())
            fresh.partial_fit(rows(4, WIDTH))
            before = _bits_of(fresh)()
            try:
                return fresh.partial_fit(X)
            except (TypeError, ValueError, MemoryError):
                assert _bits_of(fresh)() == before
                raise

        return call

    several_params = several.get_params()
    yield fits("MADE.fit", again, mine_bits)
    yield fits("MADE.fit of several masks", lambda X: small(**several_params).fit(X), _bits_of(several))
    yield fits("MADE.fit of fresh masks", lambda X: small(n_masks=None, n_eval_masks=2).fit(X), _bits_of(one))
    yield fits("MADE.fit with a threshold", lambda X: small(binarize=0.5).fit(X), _bits_of(one), threshold=0.5)
    checked = {"argument": "X_val", "fits": False, "learns": False}
    yield fits("MADE.fit of validation rows", lambda X: small().fit(rows(4, WIDTH), X_val=X), _bits_of(one), **checked)
    yield fits(
        "MADE.fit of the same, several masks",
        lambda X: small(n_masks=2).fit(rows(4, WIDTH), X_val=X),
        _bits_of(one),
        **checked,
    )
    yield fits("MADE.partial_fit, the first", lambda X: small().partial_fit(X), _bits_of(one))
    yield fits("MADE.partial_fit, one more", further(one), _bits_of(one), fits=False, missing=False)
    yield fits("MADE.partial_fit, one more, of several masks", further(several), _bits_of(several), fits=False)

    def ensemble(X: Any) -> Any:
        return MADEEnsemble(2, hidden_sizes=(3,), max_epochs=1, n_threads=1, random_state=0).fit(X)

    def imputer(X: Any) -> Any:
        return MADEImputer(small(n_masks=None, n_eval_masks=1), n_threads=1, random_state=0).fit(X).estimator_

    yield fits("MADEEnsemble.fit", ensemble, _bits_of(w["MADEEnsemble"]))
    yield fits("MADEImputer.fit", imputer, _bits_of(w["MADEImputer"]))


@cache
def doors() -> dict[str, Door]:
    """Return all doors that take a table, by name."""
    return {door.name: door for door in (*_answering_doors(), *_fitting_doors())}


# The promise


def fingerprint(thing: Any) -> Any:
    """Return what tells whether something that was handed in has changed."""
    if isinstance(thing, np.ndarray) and thing is not np.ma.masked:
        held = None if thing.size > 10**6 else [*map(id, thing.flat)] if thing.dtype.kind == "O" else thing.tobytes()
        return thing.dtype.str, thing.shape, thing.strides, thing.flags.writeable, held
    if sp.issparse(thing):
        names = ("data", "indices", "indptr", "row", "col", "offsets", "rows", "_dict")
        return [
            fingerprint(getattr(thing, name, None)) if name != "_dict" else dict(getattr(thing, name, {})) for name in names
        ]
    if isinstance(thing, pd.DataFrame):
        return list(thing.columns), [fingerprint(np.asarray(thing[column])) for column in thing]
    if isinstance(thing, list | tuple):
        return repr(thing) if len(thing) < 100 else len(thing)
    return None


def plain(values: NDArray[np.longdouble], missing: bool, threshold: float | None) -> tuple[Any, tuple[int, int] | None]:
    """Return the plain rows that these values stand for, or None and where the first of them is that is not to be had."""
    nan = np.isnan(values)
    fine = np.isin(values, (0, 1)) if threshold is None else np.isfinite(values)
    if missing:
        fine |= nan
    if not fine.all():
        row, column = np.argwhere(~fine)[0]
        return None, (int(row), int(column))
    one = values == 1 if threshold is None else values > threshold
    if threshold is not None and not 0 <= threshold < 1:
        return np.where(nan, np.nan, np.where(one, threshold + 1, threshold - 1)), None
    return np.where(nan, np.nan, one) if nan.any() else np.ascontiguousarray(one, np.uint8), None


def check_refusal(error: Exception, argument: str, at: tuple[int, int] | None = None) -> None:
    """Check that a refusal says the name, the demand, and what was found; and where, if that is known."""
    text = str(error)
    if isinstance(error, MemoryError):
        assert "Unable to allocate" in text, text  # NumPy tells how much
        return
    assert re.search(rf"\b{re.escape(argument)}\b", text), text
    assert re.search("must|may have|Complex data not supported", text), text
    assert re.search("got |Found |must say which|must not be zero for all rows|of . rows leaves", text), text
    assert text.endswith((".", ")")), text
    if at is not None and " at row " in text:
        assert f"at row {at[0]}, column {at[1]} " in text, text


@contextmanager
def chunks_of(entries: int) -> Iterator[None]:
    """Let tables be worked on so many entries at a time."""
    usual, data.CHUNK = data.CHUNK, entries
    try:
        yield
    finally:
        data.CHUNK = usual


@contextmanager
def little_memory(more: int = 4 << 30) -> Iterator[None]:
    """Let this process take no more than 4 GB beyond what it has: who asks for all there is must not get it."""
    if not Path("/proc/self/statm").exists():
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@dataclass
class Count:
    """What happened at a door."""

    taken: int = 0
    refused: int = 0
    slowest: float = 0.0
    slowest_table: str = ""


def knock(door: Door, table: Table, chunk: int, count: Count | None = None) -> None:
    """Hand a table in at a door and check the promise."""
    if table.given is None and door.argument == "X_val":  # it stands for none
        return
    before, bits = fingerprint(table.given), door.bits()
    rows_, at = (None, None) if table.values is None else plain(table.values, door.missing, door.threshold)
    if rows_ is not None and door.learns and np.isnan(rows_).all():
        rows_ = None
    answer: list[Any] | None = None
    refusal: Exception | None = None
    begin = time.perf_counter()
    with chunks_of(chunk), _custom(table.given):
        try:
            answer = door.call(table.given)
        except (TypeError, ValueError) as error:
            refusal = error
        except MemoryError as error:
            assert np.shape(table.given)[0] >= 2**50, "no more than was to be expected"
            refusal = error
    seconds = time.perf_counter() - begin
    assert fingerprint(table.given) == before, "what was handed in has changed"
    if rows_ is None:
        assert refusal is not None, "taken"
        check_refusal(refusal, door.argument, at)
    else:
        if refusal is not None:
            raise AssertionError("refused") from refusal
        assert answer is not None
        with _custom(rows_):
            expected = door.call(rows_)
        assert [np.asarray(part).tobytes() for part in answer] == [np.asarray(part).tobytes() for part in expected]
    if not door.fits or rows_ is None:
        assert door.bits() == bits, "the model is not what it was"
    if count is not None:
        count.taken += rows_ is not None
        count.refused += rows_ is None
        if seconds > count.slowest:
            count.slowest, count.slowest_table = seconds, table.how


@contextmanager
def _custom(given: Any) -> Iterator[None]:
    """Let be told of a frame with names where the fit has seen none, and of columns without an entry."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*no observed entry", UserWarning)
        if hasattr(given, "columns"):
            warnings.filterwarnings("ignore", ".*feature names", UserWarning)
        yield


def property_of(door: Door, count: Count | None = None) -> Callable[[], None]:
    """Return the promise of a door as a property of Hypothesis."""

    @given(table=tables(door.width, door.fits), chunk=st.sampled_from([8, data.CHUNK]))
    def holds(table: Table, chunk: int) -> None:
        knock(door, table, chunk, count)

    return holds


def main() -> int:
    """Hand so many tables in at every door; print a line a door."""
    parser = argparse.ArgumentParser(description="Hand anything in at every public door that takes a table.")
    parser.add_argument("--n", type=int, default=300, help="tables at each door (default: 300)")
    parser.add_argument("--door", default="", help="only doors whose name has this in it")
    args = parser.parse_args()
    warnings.simplefilter("error")
    profile = settings(max_examples=args.n, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    broken, begin = 0, time.perf_counter()
    chosen = [door for door in doors().values() if args.door in door.name]
    for door in chosen:
        start, count = time.perf_counter(), Count()
        try:
            with little_memory():
                profile(property_of(door, count))()
        except Exception as error:
            broken += 1
            for one in getattr(error, "exceptions", [error]):
                print(f"{door.name} BROKEN: {type(one).__name__}: {one}", *getattr(one, "__notes__", []), sep="\n    ")
                if one.__cause__ is not None:
                    print(f"    {type(one.__cause__).__name__}: {one.__cause__}")
            continue
        print(
            f"{door.name:52} {count.taken:6} taken {count.refused:6} refused {time.perf_counter() - start:7.1f} s, slowest "
            f"{1000 * count.slowest:6.1f} ms ({count.slowest_table})",
            flush=True,
        )
    print(f"{len(chosen)} doors, {broken} broken, {time.perf_counter() - begin:.0f} s")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
