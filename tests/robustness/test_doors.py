"""Every public door takes what is right, in whatever dress, and refuses the rest by name: what ``doors.py`` promises.

A few dozen examples for each door by default, always the same ones; with ``--hypothesis-profile=long`` 10,000, drawn
afresh (the profile is in this folder's ``conftest.py``; so name the folder or the file).
"""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from robustness import doors
from robustness.any_tables import Liar, all_refused
from robustness.doors import WIDTH, check_refusal, rows, small, world

from made_fast import MADE, MADEEnsemble, MADEImputer, MADEModel, MixtureModel, load
from made_fast.cli import entry as cli
from made_fast.tables import datasets

LONG = settings.default.max_examples >= 10_000


def hold(property_, n, name=""):
    """Try a property on n examples, the same ones every time for the same name; or on as many as the long profile says."""
    quiet = list(HealthCheck)  # what is outside of a property stays as it is
    if LONG:
        settings(suppress_health_check=quiet)(property_)()
    else:
        few = settings(max_examples=n, deadline=None, database=None, suppress_health_check=quiet)
        few(seed(zlib.crc32(name.encode()))(property_))()


@pytest.fixture(autouse=True, scope="module")
def little_memory():
    """Requests for all the memory there is fail, and do no harm."""
    with doors.little_memory():
        yield


# Tables


@pytest.mark.parametrize("name", doors.doors())
def test_a_table_is_answered_as_plain_rows_are_or_refused_by_name(name):
    hold(doors.property_of(doors.doors()[name]), 60, name)


@pytest.mark.parametrize(
    "name", ["MADEModel.score_samples", "MADEModel.impute", "MADE.partial_fit, one more, of several masks"]
)
def test_all_that_is_no_table_is_refused(name):
    for table in all_refused(WIDTH):
        doors.knock(doors.doors()[name], table, 8)


def test_polars_frames_too():
    pl = pytest.importorskip("polars")
    model, X = world()["MADEModel"], rows(3, WIDTH)
    frame = pl.DataFrame({str(j): X[:, j] for j in range(WIDTH)})
    assert (model.score_samples(frame) == model.score_samples(X)).all()
    holes = frame.with_columns(pl.lit(None).alias("1"))
    assert np.isfinite(model.log_marginal(holes)).all()


# Everything else that is handed in: a value is taken for what it plainly is, or refused by the name of its parameter


REFUSED, EITHER, SKIP = object(), object(), object()
"""What a rule says of a value that must be refused; of one that may be taken for whatever; of one that would take too long."""


class Odd:
    """Answers no question about itself."""

    def __repr__(self):
        raise ZeroDivisionError

    __eq__ = __iter__ = __array__ = __fspath__ = __index__ = __float__ = __repr__
    __hash__ = None


class Sevenish(int):
    """A subclass of int."""


CONSTANTS = [
    None, True, False, np.True_, 0, 1, 2, -1, -(2**63), 2**31 - 1, 2**31, 2**48, 2**60, 2**62, 2**63 - 1, 2**63, 2**64,
    10**400, Sevenish(3), np.int8(2), np.uint64(2**64 - 1), np.int64(-1), np.uint8(1), 0.0, 1.0, 0.5, -0.5,
    1e-300, 5e-324, 1e300, float("nan"), float("inf"), -float("inf"), np.float16(0.5), np.float32(1),
    np.longdouble("1e4000"), np.float64("nan"), Fraction(1, 3), Fraction(10**400, 3), Decimal(1), Decimal("NaN"), 1j,
    np.complex128(1), "", "1", "random", "natural", "mode", "mean", "float32", "a5", "(2,3)f4", ">f4", "\0", "\ud800", "x"
    * 5000, b"1", b"\xff", np.str_("relu"), np.bytes_(b"1"), (), (3,), (5, 4, 3, 2, 1), frozenset([3]), range(2),
    range(1, 6), slice(2), ..., NotImplemented, Odd, len, int, np.float32, np.dtype("f8"), np.dtype(">f8"),
    np.dtype("f4,f4"), ValueError("a"), np.ma.masked, pd.NA, pd.NaT, np.datetime64("2020"), np.timedelta64(1, "s"), np.random,
    Path("nowhere"), np.void(b"abc"),
]  # fmt: skip
"""Things that nobody changes."""

FRESH = [
    lambda: 10**5000, lambda: [1], lambda: [2, 1], lambda: [0, 1, 2, 3], lambda: [1, 2, 3, 4, 5], lambda: [0, 1, 2, 3, 4],
    lambda: [1, 1, 1, 1, 1], lambda: [1.0] * 4, lambda: [1, [2, 3], 4], lambda: [[1], [2]], lambda: [None] * 5,
    lambda: ["1"] * 4, lambda: [True, False, True, False, True], lambda: [True] * 4, lambda: [np.nan] * 4,
    lambda: [0.0] * 4, lambda: [-1.0, 2.0, 0.5, 0], lambda: [2**70] * 4, lambda: [np.inf, 1, 1, 1], list, dict,
    lambda: {"a": 1}, lambda: {"eps": 1e-8}, lambda: {"eps": "1"}, lambda: {1: 2}, lambda: {None: np.nan}, lambda: set(),
    lambda: {1, 2}, lambda: iter([2, 3]), lambda: (n for n in [2]), lambda: itertools.count(1),
    lambda: itertools.repeat("a"), lambda: object(), lambda: Odd(), lambda: io.BytesIO(), lambda: np.array(2),
    lambda: np.array(True), lambda: np.array("a"), lambda: np.array(None), lambda: np.empty(0), lambda: np.zeros(4, int),
    lambda: np.array([1, 0, 3, 2]), lambda: np.arange(1, 6, dtype=">i2"), lambda: np.arange(4)[::-1],
    lambda: np.ones(5, bool), lambda: np.ones((4, 1)), lambda: np.ones((1, 5), bool), lambda: np.eye(5, dtype=bool),
    lambda: np.ones(4, "c8"), lambda: np.full(4, np.longdouble("1e4000")), lambda: np.full(4, 2**64 - 1, "u8"),
    lambda: np.full(4, 1, "f2"), lambda: np.ma.masked_array([1, 2, 3, 0], mask=[1, 0, 0, 0]),
    lambda: np.ma.masked_array([True] * 5, mask=[1, 0, 0, 0, 0]), lambda: np.ma.masked_array([1.0] * 4),
    lambda: Liar(KeyError()), lambda: Liar([1]), lambda: pd.Series([1, 2, 0.5, 1]), lambda: pd.Series([True, False] * 2),
    lambda: pd.Series([1, None, 2, 1], dtype="Int64"), lambda: pd.DataFrame([[1, 2, 3, 4]]),
    lambda: pd.Index([5, 4, 3, 2, 1]), lambda: sp.csr_array([[1, 2, 3, 4]]), lambda: np.random.default_rng(1),
    lambda: np.random.RandomState(1), lambda: np.random.SeedSequence(1), lambda: np.random.PCG64(1),
    lambda: memoryview(b"abcd"), lambda: bytearray(b"\1\1\1\1"),
]  # fmt: skip
"""Makers of things that may be used up or changed."""

things = (
    st.sampled_from(CONSTANTS).map(lambda thing: lambda: thing)
    | st.sampled_from(FRESH)
    | st.integers().map(lambda n: lambda: n)
    | st.integers(-2, 6).map(lambda n: lambda: n)
    | st.floats(width=16).map(lambda x: lambda: x)
    | st.floats().map(lambda x: lambda: x)
    | st.text(max_size=4).map(lambda text: lambda: text)
    | st.lists(st.integers(-1, 5) | st.floats(width=16) | st.booleans(), max_size=6).map(lambda items: lambda: list(items))
)
"""Anything at all, made anew with every call."""


def is_int(value):
    return isinstance(value, Integral) and not isinstance(value, bool | np.timedelta64)


def count(most, *, none=False):
    """Say that ints from 1 to ``most`` are right; much larger ones ask for more memory than there is."""

    def rule(value):
        if value is None and none:
            return None
        if not is_int(value) or value < 1:
            return REFUSED
        return int(value) if value <= most else SKIP if value < 2**46 else REFUSED

    return rule


def number_of(n):
    return lambda value: REFUSED if not is_int(value) or not 0 <= value < n else int(value)


def any_positive(value):
    return int(value) if is_int(value) and value >= 1 else REFUSED


def flag(value):
    return bool(value) if isinstance(value, bool | np.bool_) else REFUSED


def one_of(*options, none=False):
    return lambda value: value if (none and value is None) or (isinstance(value, str) and value in options) else REFUSED


def real(holds, *, none=False):
    """Say that real numbers of which ``holds`` is true are right."""

    def rule(value):
        if value is None and none:
            return None
        if not isinstance(value, Real) or isinstance(value, bool | np.timedelta64):
            return REFUSED
        try:
            number = float(value)
        except OverflowError:
            return REFUSED
        if not (np.isfinite(number) and holds(number)):
            return REFUSED
        return number

    return rule


def random_state(value):
    known = np.random.Generator | np.random.RandomState | np.random.SeedSequence
    if isinstance(value, known):
        return value
    return int(value) if is_int(value) and value >= 0 else EITHER if value is None or value is np.random else REFUSED


def plain_array(value):
    """Return an array of what is one without doubt, or None."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        return None
    try:
        return np.asarray(value)
    except Exception:
        return None


def observed(value):
    mask = plain_array(value)
    return REFUSED if mask is None or mask.dtype != bool or mask.shape != (WIDTH,) else mask.tolist()


def target(value):
    columns = plain_array(value)
    if columns is None or columns.dtype.kind not in "iu" or columns.shape not in ((), (4,)):
        return REFUSED
    return REFUSED if not ((columns >= 0) & (columns < WIDTH)).all() else np.broadcast_to(columns, 4).tolist()


def weights(value):
    found = weights_or_zeros(value)
    return REFUSED if isinstance(found, np.ndarray) and not found.any() else found


def weights_or_zeros(value):
    if value is None:
        return None
    given_ = plain_array(value)
    if given_ is None or given_.dtype.kind not in "biuf" or given_.shape not in ((), (4,)):
        return REFUSED
    with np.errstate(over="ignore"):
        given_ = given_.astype(np.float64)
    if not np.isfinite(given_).all():
        return REFUSED
    return np.broadcast_to(given_, 4).copy()


def hidden_sizes(value):
    if isinstance(value, str | bytes | itertools.count | itertools.repeat) or not isinstance(value, Iterable):
        return REFUSED
    try:
        sizes = list(value)
    except Exception:
        return REFUSED
    if not all(is_int(size) and size >= 1 for size in sizes):
        return REFUSED
    most = max(sizes, default=0)
    return tuple(map(int, sizes)) if most <= 64 else SKIP if most < 2**31 else REFUSED


def ordering(value):
    if isinstance(value, str):
        return value if value in ("natural", "random") else REFUSED
    if isinstance(value, bytes | itertools.count | itertools.repeat) or not isinstance(value, Iterable):
        return REFUSED
    try:
        places = list(value)
    except Exception:
        return REFUSED
    return places if all(map(is_int, places)) and sorted(places) == list(range(1, WIDTH + 1)) else REFUSED


def dtype(value):
    if not isinstance(value, str | type | np.dtype) or (isinstance(value, str) and not value.isprintable()):
        return REFUSED  # NumPy takes chr(12), say: float64 is its type number 12
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = np.dtype(value)
    except Exception:
        return REFUSED
    return str(found) if found in (np.float32, np.float64) else REFUSED


def constants(*known):
    def rule(value):
        if value is None:
            return None
        if not isinstance(value, dict) or not value.keys() <= set(known):
            return REFUSED
        numbers = {name: real(lambda x: x >= 0)(number) for name, number in value.items()}
        return REFUSED if REFUSED in numbers.values() else numbers

    return rule


def verbosity(value):
    if isinstance(value, bool | np.bool_) or (is_int(value) and value >= 0):
        return SKIP if value else 0  # it prints
    return REFUSED


def schedule(value):
    return SKIP if callable(value) else one_of("constant", "linear", "cosine")(value)


def jobs(value):
    if value is None or (is_int(value) and value != 0):
        return None if value in (None, 1) else SKIP  # any number of threads
    return REFUSED


def answer(value):
    """Return what comes out of a door as bytes; dictionaries of arrays and connectivities too."""
    if isinstance(value, dict):
        return {key: answer(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [answer(item) for item in value]
    if hasattr(value, "ordering"):
        return answer([value.ordering, *value.degrees])
    return np.asarray(value).tobytes()


def options():
    """Return the options of all methods: name of the door, name of the parameter, its rule, and the call."""
    w, X = world(), rows(4, WIDTH)
    gaps = np.where(rows(4, WIDTH, 1) == 1, np.nan, X)
    one, several, free = w["MADEModel"], w["MADEModel of several masks"], w["MADEModel with a threshold below 0"]
    mixture, made, ensemble = w["MixtureModel"], w["MADE"], w["MADEEnsemble"]

    def or_none(rule):
        return lambda value: None if value is None else rule(value)

    yield "MADEModel.score_samples", "mask", or_none(number_of(3)), lambda v: several.score_samples(X, mask=v)
    yield "MixtureModel.score_samples", "member", or_none(number_of(2)), lambda v: mixture.score_samples(X, member=v)
    yield "MADE.score_samples", "mask", or_none(number_of(1)), lambda v: made.score_samples(X, mask=v)
    yield "MADEModel.conditional_proba", "mask", number_of(3), lambda v: several.conditional_proba(X, mask=v)
    yield "MixtureModel.conditional_proba", "member", number_of(2), lambda v: mixture.conditional_proba(X, member=v, mask=0)
    yield "MADEModel.member", "mask", number_of(3), lambda v: several.member(v).vector
    yield "MADEModel.to_dense", "mask", number_of(3), lambda v: several.to_dense(v)["weights"]
    yield "MixtureModel.to_dense", "member", number_of(2), lambda v: mixture.to_dense(member=v, mask=0)["weights"]
    yield "MADEModel.member_for", "draw", number_of(3), lambda v: several.member_for([True] * WIDTH, draw=v)
    yield "MADE.member_for", "observed", observed, made.member_for
    models = {"MADEModel": several, "MADEModel of fresh masks": free, "MixtureModel": mixture}
    for name, model in models.items():
        most = {"MADEModel": 3, "MixtureModel": 1}.get(name, 64)
        members = (
            count(64) if model is free else lambda v, most=most: any_positive(v) if not is_int(v) or v <= most else REFUSED
        )
        yield f"{name}.score_samples", "n_threads", or_none(any_positive), lambda v, m=model: m.score_samples(X, n_threads=v)
        yield f"{name}.sample", "n_samples", count(64), lambda v, m=model: m.sample(v, 0)
        yield f"{name}.sample", "random_state", random_state, lambda v, m=model: m.sample(3, v)
        yield f"{name}.sample", "n_threads", or_none(any_positive), lambda v, m=model: m.sample(3, 0, n_threads=v)
        yield f"{name}.log_marginal", "n_walks", count(64), lambda v, m=model: m.log_marginal(gaps, n_walks=v)
        yield f"{name}.log_marginal", "n_members", members, lambda v, m=model: m.log_marginal(gaps, n_members=v)
        yield (
            f"{name}.sample_conditional",
            "n_draws",
            count(64),
            lambda v, m=model: m.sample_conditional(gaps, v, random_state=0),
        )
        yield (f"{name}.sample_conditional", "random_state", random_state,
               lambda v, m=model: m.sample_conditional(gaps, random_state=v))  # fmt: skip
        yield f"{name}.impute", "method", one_of("mode", "mean", "sample"), lambda v, m=model: m.impute(gaps, v)
        yield f"{name}.conditional", "target", target, lambda v, m=model: m.conditional(gaps, v)
        if model is not mixture:
            yield f"{name}.member_for", "observed", observed, model.member_for
    yield "MADE.sample", "n_samples", count(64), lambda v: made.sample(v, 0)
    yield "MADEEnsemble.sample", "random_state", random_state, lambda v: ensemble.sample(2, v)
    threshold = real(lambda x: True, none=True)
    yield "MADEModel(...)", "binarize", threshold, lambda v: MADEModel(one.source, binarize=v).binarize or 0
    yield "MADEModel(...)", "hyper", or_none(mapping), lambda v: [repr(MADEModel(one.source, hyper=v).hyper)]
    yield "MADEModel(...)", "source", lambda v: REFUSED, MADEModel
    yield "MixtureModel(...)", "members", not_endless, MixtureModel
    yield "MixtureModel(...)", "hyper", or_none(mapping), lambda v: [repr(MixtureModel([one], hyper=v).hyper)]
    yield "MixtureModel(...)", "weights", or_none(the_one), lambda v: MixtureModel([one], v).weights

    # Fits: hyper-parameters, weights of the rows

    def fit(**options):
        return doors.state_of(small(**options).fit(X))

    def fit_ensemble(**options):
        fast = {"hidden_sizes": (3,), "max_epochs": 1, "n_threads": 1, "random_state": 0, "n_members": 2}
        return doors.state_of(MADEEnsemble(**(fast | options)).fit(X))

    positive, not_negative = real(lambda x: x > 0), real(lambda x: x >= 0)
    rules = {
        "hidden_sizes": hidden_sizes,
        "activation": one_of("relu", "softplus", "tanh", "sigmoid", "softsign"),
        "ordering": ordering,
        "degrees": one_of("stratified", "uniform"),
        "optimizer": one_of("adam", "adadelta", "adagrad", "rmsprop", "momentum", "sgd"),
        "learning_rate": or_none(positive),
        "batch_size": any_positive,
        "max_epochs": lambda v: any_positive(v) if not is_int(v) or v <= 3 else SKIP,
        "patience": any_positive,
        "weight_init": one_of("glorot_uniform", "glorot_normal", "orthogonal", "zeros"),
        "dtype": dtype,
        "n_threads": or_none(any_positive),
        "random_state": random_state,
        "verbose": verbosity,
        "n_masks": or_none(count(8)),
        "resample": one_of("both", "order", "connectivity"),
        "n_eval_masks": count(8),
        "n_val_masks": any_positive,
        "direct_connections": one_of("none", "output", "all"),
        "connectivity_weights": flag,
        "optimizer_params": constants("beta_1", "beta_2", "eps"),
        "learning_rate_schedule": schedule,
        "weight_decay": not_negative,
        "clip_norm": or_none(positive),
        "dropout": real(lambda x: 0 <= x < 1),
        "validation_fraction": or_none(real(lambda x: 0.125 < x < 0.875)),
        "binarize": threshold,
    }
    for parameter, rule in rules.items():
        more = {"n_masks": None} if parameter == "n_eval_masks" else {"n_eval_masks": 2}
        yield "MADE.fit", parameter, rule, lambda v, parameter=parameter, more=more: fit(**(more | {parameter: v}))
    yield "MADE.fit", "sample_weight", weights, lambda v: doors.state_of(small().fit(X, sample_weight=v))
    yield "MADE.fit", "checkpoint_every", any_positive, lambda v: doors.state_of(small().fit(X, checkpoint_every=v))
    yield (
        "MADE.partial_fit",
        "sample_weight",
        weights_or_zeros,
        lambda v: doors.state_of(small().partial_fit(X, sample_weight=v)),
    )
    yield "MADEEnsemble.fit", "n_members", count(3), lambda v: fit_ensemble(n_members=v)
    yield "MADEEnsemble.fit", "weights", one_of("equal"), lambda v: fit_ensemble(weights=v)
    yield "MADEEnsemble.fit", "n_jobs", jobs, lambda v: fit_ensemble(n_jobs=v)
    yield "MADEEnsemble.fit", "random_state", random_state, lambda v: fit_ensemble(random_state=v)
    yield "MADEEnsemble.fit", "n_threads", or_none(any_positive), lambda v: fit_ensemble(n_threads=v)
    yield "MADEEnsemble.fit", "learning_rate", or_none(positive), lambda v: fit_ensemble(learning_rate=v)

    def fit_imputer(**options):
        fast = {"estimator": small(n_masks=None, n_eval_masks=1), "random_state": 0}
        return [MADEImputer(**(fast | options)).fit(X).transform(gaps)]

    yield "MADEImputer.fit", "estimator", lambda v: SKIP if v is None else REFUSED, lambda v: fit_imputer(estimator=v)
    yield "MADEImputer.fit", "method", one_of("mode", "mean", "sample"), lambda v: fit_imputer(method=v)
    yield "MADEImputer.fit", "n_members", count(8), lambda v: fit_imputer(n_members=v)
    yield "MADEImputer.fit", "n_walks", count(8), lambda v: fit_imputer(n_walks=v)
    yield "MADEImputer.transform", "random_state", random_state, lambda v: fit_imputer(method="sample", random_state=v)


def not_endless(value):
    return SKIP if isinstance(value, itertools.count | itertools.repeat) else REFUSED


def mapping(value):
    return value if isinstance(value, dict) else REFUSED


def the_one(value):
    """Say that one number, 1, is right."""
    array = plain_array(value)
    if array is None or array.shape != (1,) or array.dtype.kind not in "iuf":
        return REFUSED
    return [1.0] if abs(float(array[0]) - 1) <= 1e-9 else REFUSED


OPTIONS = {f"{door}: {parameter}": (parameter, rule, call) for door, parameter, rule, call in options()}


def outcome(call, value):
    """Return what comes out, and the error that came out instead."""
    try:
        return call(value), None
    except (TypeError, ValueError, MemoryError, FloatingPointError) as error:
        return None, error


def hand_in(parameter, rule, call, thing):
    """Check that a value is taken for what the rule says it plainly is, or refused."""
    plain = rule(thing())
    if plain is SKIP:
        return
    result, error = outcome(call, thing())
    if isinstance(error, FloatingPointError):  # a step so large that the loss is no longer finite
        assert "loss" in str(error)
        assert isinstance(plain, float | np.ndarray | dict)
    elif error is not None:
        assert plain is REFUSED or plain is EITHER, f"refused: {error}"
        assert not isinstance(error, MemoryError) or thing() >= 2**46
        check_refusal(error, parameter)
    else:
        assert plain is not REFUSED, "taken"
        if plain is not EITHER:
            assert answer(result) == answer(call(plain))


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_is_taken_for_what_it_plainly_is_or_refused_by_name(name):
    parameter, rule, call = OPTIONS[name]
    before = [door.bits() for door in doors.doors().values()]

    @given(thing=things)
    def holds(thing):
        hand_in(parameter, rule, call, thing)

    hold(holds, 60, name)
    assert before == [door.bits() for door in doors.doors().values()], "a model is not what it was"


# Files


@pytest.mark.parametrize("door", ["load", "resume", "save", "save a mixture", "checkpoint"])
def test_a_path_is_one_or_is_refused_by_name(door, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, mixture, X = world()["MADEModel"], world()["MixtureModel"], rows(4, WIDTH)
    call, parameter = {
        "load": (load, "source"),
        "resume": (MADE.resume, "path"),
        "save": (model.save, "path"),
        "save a mixture": (mixture.save, "path"),
        "checkpoint": (lambda path: small().fit(X, checkpoint=path), "checkpoint"),
    }[door]
    before = model.score_samples(X).tobytes()

    taken = str | bytes | Path | (bytearray | memoryview | io.BytesIO if door == "load" else str)

    @given(thing=things)
    def holds(thing):
        path = thing()
        if isinstance(path, taken) or (path is None and door == "checkpoint"):
            with contextlib.suppress(OSError, ValueError):
                call(path)
        else:
            with pytest.raises(TypeError) as caught:
                call(path)
            check_refusal(caught.value, parameter)

    hold(holds, 60, door)
    assert model.score_samples(X).tobytes() == before


def _npy(X, version=(1, 0)):
    out = io.BytesIO()
    np.lib.format.write_array(out, X, version, allow_pickle=True)
    return out.getvalue()


def _npy_of(descr, order, shape, data=b"\0" * 64, version=b"\1\0"):
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    length = struct.pack("<H", len(header) + 1) if version[0] == 1 else struct.pack("<I", len(header) + 1)
    return b"\x93NUMPY" + version + length + header + b"\n" + data


def _zip(members, method=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", method) as file:
        warnings.simplefilter("ignore")  # of a name twice
        for name, content in members:
            file.writestr(zipfile.ZipInfo(name), content, method)  # of 1980, not of now
    return out.getvalue()


def _text(X, delimiter=","):
    return "".join(delimiter.join(map(str, row)) + "\n" for row in X.tolist()).encode()


def _libsvm(X):
    return b"".join(b"1 " + b" ".join(b"%d:1" % (j + 1) for j in np.flatnonzero(row)) + b"\n" for row in X)


DESCRS = [
    "'<u1'", "'|O'", "'<f8'", "'>f4'", "'|V8'", "'<U3'", "'<c16'", "'<M8[s]'", "[('a', '<f4')]", "1", "None", "'nonsense'",
    "''", "('<f4', (2,))", "[1, 2]", "'<f8,<f8'", "[('a', [('b', '<f4')])]", "{}", "'<i3'",
]  # fmt: skip
SHAPES = [
    "(4, 5)", "()", "(5,)", "(-1, 5)", "(2**40, 5)", "(1099511627776, 5)", "(4611686018427387904, 4)",
    "(9223372036854775808,)", "(0, 5)", "(4, 0)", "[4, 5]", "4", "'a'", "(4.0, 5)", "(True, 5)", "(None,)", "(4, 5",
    "(1,) * 70",
]  # fmt: skip
TOKENS = [
    b"nan", b"inf", b"-1", b"2", b"0.5", b"1e999", b"1_0", "\u0661".encode(), b"", b" ", b"\0", b'"1"', b"'0'", b"#", b"?",
    b"NA", b"0x1", b"1,0", b"1\n", b"\r", b"\xff", b"\xef\xbb\xbf", b"True", b"99999999999999999999", b"1:1", b"0:1",
    b"-5:1", b":", b"3:nan", b"2147483648:1", b"9223372036854775807:1", b"2:1 1:1", b"qid:3", b"1:1:1", b"(", b"[1]", b"e",
    b"+", b"1j",
]  # fmt: skip
SUFFIXES = [".npy", ".npz", ".npz", ".csv", ".data", ".amat", ".txt", ".libsvm", ".svm", ".csv.gz"]
MEMBERS = ["train.npy", "valid.npy", "test.npy", "a.npy", "n_features.npy", "train", "n_features", "x/train.npy"]
METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
WIDTHS = [_npy(np.array(n)) for n in (WIDTH, 0, -1, 2**62, 5.0)] + [_npy(np.ones(2, int)), b"5"]


def _changed(draw, raw):
    """Return the bytes with something changed."""
    at = draw(st.integers(0, len(raw)))
    match draw(st.sampled_from(["cut", "drop", "flip", "token", "twice", "bytes"])):
        case "cut":
            return raw[:at]
        case "drop":
            return raw[:at] + raw[at + draw(st.integers(1, 9)) :]
        case "flip":
            return raw[:at] + bytes(b ^ 1 << draw(st.integers(0, 7)) for b in raw[at : at + 1]) + raw[at + 1 :]
        case "token":
            return raw[:at] + draw(st.sampled_from(TOKENS)) + raw[at + draw(st.integers(0, 1)) :]
        case "twice":
            return raw[:at] + raw
        case _:
            return raw[:at] + draw(st.binary(max_size=5)) + raw[at:]


@st.composite
def files(draw):
    """Draw a suffix and the bytes of a file: right ones, right ones with something changed, or a hostile header."""
    X = rows(draw(st.integers(1, 4)), WIDTH, draw(st.integers(0, 9)))
    suffix = draw(st.sampled_from(SUFFIXES))
    dressed = X.astype(draw(st.sampled_from(["u1", "?", "<f4", ">f8", "<i8", "O", "f2", "g", "c8", "U1"])))
    array = _npy(dressed, draw(st.sampled_from([(1, 0), (2, 0), (3, 0)])))
    if draw(st.integers(0, 3)) == 0:
        descr, shape = draw(st.sampled_from(DESCRS)), draw(st.sampled_from(SHAPES))
        order, version = draw(st.sampled_from(["False", "True", "3", "'x'"])), bytes([draw(st.sampled_from([1, 2, 3, 7])), 0])
        array = _npy_of(descr, order, shape, version=version)
    if suffix == ".npy":
        raw = array
    elif suffix == ".npz":
        width = draw(st.sampled_from([*WIDTHS, array]))
        names = draw(st.lists(st.sampled_from(MEMBERS), max_size=4))
        members = [(name, width if name.startswith("n_features") else array) for name in names]
        if draw(st.booleans()):
            members = [("train.npy", _npy(np.packbits(X, axis=1))), ("n_features.npy", width)]
        raw = _zip(members, draw(st.sampled_from(METHODS)))
    else:
        raw = _libsvm(X) if suffix in (".libsvm", ".svm") else _text(X, " " if suffix in (".amat", ".txt") else ",")
    for _ in range(draw(st.integers(0, 3))):
        raw = _changed(draw, raw)
    if suffix.endswith(".gz"):
        raw = gzip.compress(raw, 1, mtime=0)
        if draw(st.booleans()):
            raw = _changed(draw, raw)
    return suffix, raw


def _is_binary(table, missing):
    values = np.asarray(table.toarray() if sp.issparse(table) else table).astype(float)
    return bool((np.isin(values, (0, 1)) | (np.isnan(values) & missing)).all())


def test_a_file_of_data_is_a_table_of_bits_or_is_refused_by_name(tmp_path):
    @given(files(), st.booleans(), st.sampled_from([None, None, 0.5]), st.sampled_from([None, WIDTH]))
    def holds(file, missing, threshold, n_features):
        path = tmp_path / f"data{file[0]}"
        path.write_bytes(file[1])
        options = {"missing": missing, "threshold": threshold, "n_features": n_features}
        found, error = outcome(lambda path: datasets.load(path, **options), path)
        if error is None:
            assert all(table is None or _is_binary(table, missing) for table in (found.train, found.valid, found.test))
        else:
            assert type(error) is ValueError
            assert str(path) in str(error)
            assert len(str(error).splitlines()) == 1

    hold(holds, 500)


def test_the_command_line_says_in_a_line_what_is_wrong_with_a_file(tmp_path):
    model = tmp_path / "model.safetensors"
    world()["MADEModel"].save(model)

    @given(file=files())
    def holds(file):
        path = tmp_path / f"data{file[0]}"
        path.write_bytes(file[1])
        out, error = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            code = cli.main(["evaluate", str(model), str(path), "--threads", "1"])
        assert code in (0, 2)
        if code == 2:
            assert error.getvalue().startswith("made-fast: error: ")
            assert error.getvalue().count("\n") == 1

    hold(holds, 60)
