"""Public doors: methods that take a table of rows, and the promise about their answers.

A *table* is anything that a user may hand in as one, beside the numbers that it holds. The promise (:func:`knock`): the answer
has the bits of the answer to plain contiguous uint8 rows of the same values, or a TypeError or ValueError states the name, the
demand and the value found. The table and the model do not change. Warnings are errors.

Not here: the tables (``any_tables.py``), options (``test_options.py``), files of data (``test_data_files.py``), model files
(``fuzz.py``).

    python tests/robustness/doors.py --n 1000      so many tables at every door
"""

from __future__ import annotations

import re
import sys
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from made_fast import MADE, MADEEnsemble, MADEImputer, MixtureModel, TableModel
from made_fast.tables import table as checked

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where its neighbours are, also for a script
import helpers
from helpers import digest, rows
from robustness.any_tables import tables
from robustness.common import Report, command_line, fit_state, limited_memory
from robustness.dense_tables import Table
from robustness.operations import COUNT, GAPS, NOTHING, OPERATIONS, WALKS, ask

WIDTH, WIDE = 5, 70
"""Of the models: one word of bits, and two."""

MEMORY = 4 << 30
"""Bytes that a process may take beyond those that it has, so that a test does not take all memory."""

small = partial(helpers.small, batch_size=2, learning_rate=0.1)
small_ensemble = partial(MADEEnsemble, n_members=2, hidden_sizes=(3,), max_epochs=1, n_threads=1, random_state=0)


def hold(property_: Callable[[], None], n: int, name: str = "") -> None:
    """Try a property on n examples, the same ones every time for the same name; or as the long profile says."""
    quiet = list(HealthCheck)  # state outside of a property does not change
    if settings.default is not None and settings.default.max_examples >= 10_000:
        settings(suppress_health_check=quiet)(property_)()
    else:
        few = settings(max_examples=n, deadline=None, database=None, suppress_health_check=quiet)
        few(seed(zlib.crc32(name.encode()))(property_))()


# Doors


@dataclass(frozen=True)
class Door:
    """A method that takes a table."""

    name: str
    call: Callable[[Any], Any]
    bits: Callable[[], bytes]  # the answer of the model behind the door to some rows; it must stay the same
    width: int = WIDTH
    missing: bool = False  # NaN marks a missing entry, or is refused
    threshold: float | None = None  # values above it count as 1
    argument: str = "X"  # in error texts
    fits: bool = False  # the width is free
    learns: bool = False  # a table without an observed entry is refused


@cache
def world() -> dict[str, Any]:
    X = rows(8, WIDTH)
    one = small().fit(X)
    several = small(n_masks=3, direct_connections="output", connectivity_weights=True).fit(X)
    wide = small(n_masks=None, n_eval_masks=2, dtype="float64").fit(rows(8, WIDE))
    below = small(binarize=-0.5, n_masks=None, n_eval_masks=2).fit(X)
    return {
        "MADE": one,
        "MADE of several masks": several,
        "MADEEnsemble": small_ensemble(n_masks=2).fit(X),
        "MADEImputer": MADEImputer(small(n_masks=None, n_eval_masks=2), n_threads=1, random_state=0).fit(X),
        "MADEModel": one.model_,
        "MADEModel of several masks": several.model_,
        "MADEModel of two words": wide.model_,
        "MADEModel with a threshold": small(binarize=0.5).fit(X).model_,
        "MADEModel with a threshold below 0": below.model_,
        "MixtureModel": MixtureModel([one.model_, several.model_], [0.25, 0.75]),
    }


@cache
def _bits_of(model: Any) -> Callable[[], bytes]:
    """Return a function that returns the bits of a model: log-likelihoods and samples."""
    model = getattr(model, "model_", model)
    X = rows(2, model.n_features_in, 1)
    return lambda: model.score_samples(X, n_threads=1).tobytes() + model.sample(2, 0, n_threads=1).tobytes()


FEW = ("score_samples", "conditional_proba", "log_marginal", "impute, mode", "impute, mean", "impute, sample")
"""Operations of models of one more kind."""


def _answering_doors() -> Iterator[Door]:
    for name, model in world().items():
        if name == "MADEImputer":  # the dtype is that of the table
            yield Door(f"{name}.transform", lambda X, m=model: m.transform(X).astype(float), _bits_of(model), missing=True)
            continue
        fitted = getattr(model, "model_", model)
        options = {"n_threads": 1} if fitted is model else {}  # an estimator has its own
        threshold = getattr(fitted, "members", [fitted])[0].binarize
        for operation in FEW if " " in name else OPERATIONS:
            takes = OPERATIONS[operation].takes
            if takes not in (COUNT, NOTHING):
                call = partial(ask, operation, model, n_walks=4, **options)
                missing = takes in (GAPS, WALKS)
                yield Door(f"{name}.{operation}", call, _bits_of(model), fitted.n_features_in, missing, threshold)


class ReadAsColumnsError(Exception):
    """A data frame of other values than 0 and 1 was fitted as a table of columns, which is another promise."""


def state_of(made: Any) -> list[Any]:
    if isinstance(made.model_, TableModel):
        raise ReadAsColumnsError
    members = [*map(fit_state, getattr(made, "members_", [made]))]
    return [*members, getattr(made, "weights_", [])]


def _unless_refused(fit: Callable[[], Any], state: Callable[[], Any]) -> Any:
    """Fit; a fit that is refused changes no state."""
    before = state()
    try:
        return fit()
    except (TypeError, ValueError, MemoryError):
        assert state() == before
        raise


def _fitting_doors() -> Iterator[Door]:
    one, several = world()["MADE"], world()["MADE of several masks"]
    mine = small().fit(rows(6, WIDTH))

    def further(X: Any, made: MADE) -> Any:
        fresh = small(**made.get_params()).partial_fit(rows(4, WIDTH))
        return _unless_refused(lambda: fresh.partial_fit(X), _bits_of(fresh))

    def validated(X: Any, **params: Any) -> Any:
        return small(**params).fit(rows(4, WIDTH), X_val=X)

    def imputer(X: Any) -> Any:
        return MADEImputer(small(n_masks=None, n_eval_masks=1), n_threads=1, random_state=0).fit(X).estimator_

    checked = {"argument": "X_val", "fits": False, "learns": False}
    fits: list[tuple[str, Callable[[Any], Any], Any, dict[str, Any]]] = [
        ("MADE.fit", lambda X: _unless_refused(lambda: mine.fit(X), lambda: mine.model_), mine.model_, {}),
        ("MADE.fit of several masks", lambda X: small(**several.get_params()).fit(X), several, {}),
        ("MADE.fit of fresh masks", lambda X: small(n_masks=None, n_eval_masks=2).fit(X), one, {}),
        ("MADE.fit with a threshold", lambda X: small(binarize=0.5).fit(X), one, {"threshold": 0.5}),
        ("MADE.fit of validation rows", validated, one, checked),
        ("MADE.fit of the same, several masks", partial(validated, n_masks=2), one, checked),
        ("MADE.partial_fit, the first", lambda X: small().partial_fit(X), one, {}),
        ("MADE.partial_fit, one more", partial(further, made=one), one, {"fits": False, "missing": False}),
        ("MADE.partial_fit, one more, of several masks", partial(further, made=several), several, {"fits": False}),
        ("MADEEnsemble.fit", lambda X: small_ensemble().fit(X), world()["MADEEnsemble"], {}),
        ("MADEImputer.fit", imputer, world()["MADEImputer"], {}),
    ]
    for name, call, model, more in fits:
        options = {"missing": True, "fits": True, "learns": True} | more
        yield Door(name, lambda X, call=call: state_of(call(X)), _bits_of(model), **options)


@cache
def doors() -> dict[str, Door]:
    return {door.name: door for door in (*_answering_doors(), *_fitting_doors())}


# The promise


def fingerprint(thing: Any) -> Any:
    """Return a value that differs when a given thing has changed."""
    if isinstance(thing, np.ndarray) and thing is not np.ma.masked:
        held = None if thing.size > 10**6 else [*map(id, thing.flat)] if thing.dtype.kind == "O" else thing.tobytes()
        return thing.dtype.str, thing.shape, thing.strides, thing.flags.writeable, held
    if sp.issparse(thing):
        arrays = ("data", "indices", "indptr", "row", "col", "offsets", "rows")
        return [dict(getattr(thing, "_dict", {})), *(fingerprint(getattr(thing, name, None)) for name in arrays)]
    if isinstance(thing, pd.DataFrame):
        return list(thing.columns), [fingerprint(np.asarray(thing[column])) for column in thing]
    if isinstance(thing, list | tuple):
        return repr(thing) if len(thing) < 100 else len(thing)
    return None


def plain(values: NDArray[np.longdouble], missing: bool, threshold: float | None) -> tuple[Any, tuple[int, int] | None]:
    """Return the plain rows that these values stand for; or None, and the place of the first value that is refused."""
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
    """Check that a refusal states the name, the demand and the value found, and the place if that is known."""
    text = str(error)
    if isinstance(error, MemoryError):
        assert "Unable to allocate" in text, text  # NumPy says how much
        return
    assert re.search(rf"\b{re.escape(argument)}\b", text), text
    assert re.search("must|may have|Complex data not supported", text), text
    assert re.search("got |Found |must say which|must not be zero for all rows|of . rows leaves", text), text
    assert text.endswith((".", ")")), text
    if at is not None and " at row " in text:
        assert f"at row {at[0]}, column {at[1]} " in text, text


@contextmanager
def chunks_of(entries: int) -> Iterator[None]:
    usual, checked.CHUNK = checked.CHUNK, entries
    try:
        yield
    finally:
        checked.CHUNK = usual


def knock(door: Door, table: Table, chunk: int) -> bool:
    """Hand a table in at a door and check the promise; return whether it was taken."""
    if table.given is None and door.argument == "X_val":  # it stands for none
        return False
    before, bits = fingerprint(table.given), door.bits()
    rows_, at = (None, None) if table.values is None else plain(table.values, door.missing, door.threshold)
    if rows_ is not None and door.learns and np.isnan(rows_).all():
        rows_ = None
    answer: Any = None
    refusal: Exception | None = None
    with chunks_of(chunk), _custom(table.given):
        try:
            answer = door.call(table.given)
        except (TypeError, ValueError) as error:
            refusal = error
        except MemoryError as error:
            assert np.shape(table.given)[0] >= 2**50, "no more than was to be expected"
            refusal = error
        except ReadAsColumnsError:
            assert rows_ is None, "rows of 0/1 are no columns"
            assert isinstance(table.given, pd.DataFrame), "only a data frame has columns of its own accord"
            return False
    assert fingerprint(table.given) == before, "what was handed in has changed"
    if rows_ is None:
        assert refusal is not None, "taken"
        check_refusal(refusal, door.argument, at)
    else:
        if refusal is not None:
            raise AssertionError("refused") from refusal
        with _custom(rows_):
            assert digest(answer) == digest(door.call(rows_))
    if not door.fits or rows_ is None:
        assert door.bits() == bits, "the model is not what it was"
    return rows_ is not None


@contextmanager
def _custom(given: Any) -> Iterator[None]:
    """Allow the warnings about names of columns where the fit has seen none, and about columns without an entry."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*no observed entry", UserWarning)
        if hasattr(given, "columns"):
            warnings.filterwarnings("ignore", ".*feature names", UserWarning)
        yield


def property_of(door: Door, count: Counter[bool] | None = None) -> Callable[[], None]:
    """Return the promise of a door as a property of Hypothesis; ``count`` counts tables that were taken, and the others."""

    @given(table=tables(door.width, door.fits), chunk=st.sampled_from([8, checked.CHUNK]))
    def holds(table: Table, chunk: int) -> None:
        taken = knock(door, table, chunk)
        if count is not None:
            count[taken] += 1

    return holds


def main() -> int:
    args = command_line(__doc__, n=(300, "tables at each door"), only=("", "doors whose name contains this"))
    warnings.simplefilter("error")
    report = Report("doors")
    for door in [door for name, door in doors().items() if args.only in name]:
        count = Counter[bool]()
        report.figures["doors"] += 1
        try:
            with limited_memory(MEMORY):
                hold(property_of(door, count), args.n, door.name)
            print(f"{door.name:52} {count[True]:6} taken {count[False]:6} refused", flush=True)
        except Exception as error:
            for one in getattr(error, "exceptions", [error]):
                notes = [f"{door.name}: {one!r} because of {one.__cause__!r}", *getattr(one, "__notes__", [])]
                report.check(False, "\n    ".join(notes))
    return report.end().show()


if __name__ == "__main__":
    sys.exit(main())
