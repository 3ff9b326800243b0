"""Anything that a user may hand in as an option, for Hypothesis to draw, and rules that say what is right.

A rule is a function of a value: it returns the plain value that this stands for, REFUSED, EITHER (it may be taken for
anything), or SKIP (it would take too long). Not here: the options (``test_options.py``).
"""

from __future__ import annotations

import io
import itertools
import warnings
from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from hypothesis import strategies as st
from robustness.dense_tables import Liar
from robustness.doors import WIDTH

REFUSED, EITHER, SKIP = object(), object(), object()


def outcome(call, *arguments, **options):
    """Return the result of a call, and the error that came instead."""
    try:
        return call(*arguments, **options), None
    except (TypeError, ValueError, MemoryError, FloatingPointError) as error:
        return None, error


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
"""Things that cannot be changed."""

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


def or_none(rule):
    return lambda value: None if value is None else rule(value)


def count(most):
    """Take ints from 1 to ``most``; much larger ones ask for more memory than there is."""

    def rule(value):
        if not is_int(value) or value < 1:
            return REFUSED
        return int(value) if value <= most else SKIP if value < 2**46 else REFUSED

    return rule


def when(holds, plain=lambda value: value):
    """Take values of which ``holds`` is true, for their ``plain`` one."""
    return lambda value: plain(value) if holds(value) else REFUSED


def number_of(n):
    return when(lambda value: is_int(value) and 0 <= value < n, int)


def one_of(*options):
    return when(lambda value: isinstance(value, str) and value in options)


any_positive = when(lambda value: is_int(value) and value >= 1, int)
flag = when(lambda value: isinstance(value, bool | np.bool_), bool)
mapping = when(lambda value: isinstance(value, dict))


def real(holds=lambda x: True):
    """Take real numbers of which ``holds`` is true."""

    def rule(value):
        if not isinstance(value, Real) or isinstance(value, bool | np.timedelta64):
            return REFUSED
        try:
            number = float(value)
        except OverflowError:
            return REFUSED
        return number if np.isfinite(number) and holds(number) else REFUSED

    return rule


def random_state(value):
    known = np.random.Generator | np.random.RandomState | np.random.SeedSequence
    if isinstance(value, known):
        return value
    return int(value) if is_int(value) and value >= 0 else EITHER if value is None or value is np.random else REFUSED


def plain_array(value):
    """Return a value as an array, or None if it is no plain array."""
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
    given_ = plain_array(value)
    if given_ is None or given_.dtype.kind not in "biuf" or given_.shape not in ((), (4,)):
        return REFUSED
    with np.errstate(over="ignore"):
        given_ = given_.astype(np.float64)
    return np.broadcast_to(given_, 4).copy() if np.isfinite(given_).all() else REFUSED


def items_of(value):
    if isinstance(value, str | bytes | itertools.count | itertools.repeat) or not isinstance(value, Iterable):
        return None
    try:
        return list(value)
    except Exception:
        return None


def hidden_sizes(value):
    sizes = items_of(value)
    if sizes is None or not all(is_int(size) and size >= 1 for size in sizes):
        return REFUSED
    most = max(sizes, default=0)
    return tuple(map(int, sizes)) if most <= 64 else SKIP if most < 2**31 else REFUSED


def ordering(value):
    if isinstance(value, str) and value in ("natural", "random"):
        return value
    places = items_of(value) or []
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
        if not isinstance(value, dict) or not value.keys() <= set(known):
            return REFUSED
        numbers = {name: not_negative(number) for name, number in value.items()}
        return REFUSED if REFUSED in numbers.values() else numbers

    return rule


def verbosity(value):
    if isinstance(value, bool | np.bool_) or (is_int(value) and value >= 0):
        return SKIP if value else 0  # it prints
    return REFUSED


def schedule(value):
    return SKIP if callable(value) else one_of("constant", "linear", "cosine")(value)


def jobs(value):
    return REFUSED if not is_int(value) or value == 0 else 1 if value == 1 else SKIP  # any number of threads


positive, not_negative = real(lambda x: x > 0), real(lambda x: x >= 0)
threads = or_none(any_positive)
method = one_of("mode", "mean", "sample")


def not_endless(value):
    return SKIP if isinstance(value, itertools.count | itertools.repeat) else REFUSED


def the_one(value):
    """Say that one number, 1, is right."""
    array = plain_array(value)
    if array is None or array.shape != (1,) or array.dtype.kind not in "iuf":
        return REFUSED
    return [1.0] if abs(float(array[0]) - 1) <= 1e-9 else REFUSED
