"""Anything that a user may take for a table of rows, for Hypothesis to draw.

A :class:`Table` is a given thing with its values as plain numbers, or without where it must be refused. :func:`tables` draws
any dtype, layout and container, sparse matrices tidy, untidy and broken, and things that are no table at all;
:func:`all_refused` yields all that must be refused, each once.

Not here: the methods that take tables, and what is promised of the answer (``doors.py``).
"""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from hypothesis import strategies as st
from numpy.typing import NDArray

Rng = np.random.Generator


# Values


DTYPES = (
    "?", "i1", "u1", "<i2", ">i2", "<u2", ">u2", "<i4", ">i4", "<u4", ">u4", "<i8", ">i8", "<u8", ">u8", "<f2", ">f2", "<f4",
    ">f4", "<f8", ">f8", "g", "O",
)  # fmt: skip

ODD = {
    "i": [-1, 2, 100],
    "u": [2, 100],
    "f": [2.0, 0.5, -1.0, np.inf, -np.inf, 1e-7, np.nan],
    "O": [2, -1, 0.5, Fraction(1, 3), np.inf, 2**64, -(2**70), Decimal("0.1"), np.longdouble("1e300"), np.uint8(255)],
}
"""Numbers that are neither 0 nor 1, by kind of dtype."""

ZEROS = (0, 0.0, -0.0, False, np.int8(0), np.float32(0), np.False_, Fraction(0), Decimal(0), np.longdouble(0))
ONES = (1, 1.0, True, np.int8(1), np.float32(1), np.True_, Fraction(1), Decimal(1), np.longdouble(1))
MISSING = (np.nan, None, pd.NA, np.float32("nan"), Decimal("NaN"), np.longdouble("nan"))
ALIEN = ("1", b"1", "", 1j, np.complex64(1), pd.NaT, [1], {}, object(), 10**400, Fraction(10**400), Decimal("sNaN"),
         np.datetime64("1971"), np.timedelta64(1, "D"), pd.Timestamp(0), Ellipsis, int, np.ones(2))  # fmt: skip
"""Objects that are no numbers, or none that a float can be made of."""


class Table(NamedTuple):
    """What is handed in; its values as numbers, (n, D), or None where it must be refused; how it came to be."""

    given: Any
    values: NDArray[np.longdouble] | None
    how: str

    def __repr__(self) -> str:
        return f"<{self.how}: {'to be refused' if self.values is None else self.values.astype(str).tolist()}>"


def _fill(rng: Rng, n: int, D: int, dtype: np.dtype[Any], flavour: str) -> NDArray[Any]:
    """Return a table of 0 and 1 of this dtype; with some NaN ("missing"), some odd numbers, some things that are none."""
    X = np.zeros((n, D), dtype)
    one = rng.random((n, D)) < rng.choice([0.1, 0.5, 0.9])
    if dtype.kind == "O":
        X[...] = [[ONES[rng.integers(len(ONES))] if b else ZEROS[rng.integers(len(ZEROS))] for b in row] for row in one]
    else:
        X[one] = 1
        if dtype.kind == "f":
            X[~one & (rng.random((n, D)) < 0.2)] = -0.0

    def put(things: Any) -> None:
        for _ in range(rng.integers(1, 4)):
            X[rng.integers(n), rng.integers(D)] = things[rng.integers(len(things))]

    if "missing" in flavour and dtype.kind in "fO":
        hole = rng.random((n, D)) < 0.4
        for i, j in np.argwhere(hole):
            X[i, j] = MISSING[rng.integers(len(MISSING))] if dtype.kind == "O" else np.nan
    if "odd" in flavour and dtype.kind in ODD:
        put(ODD[dtype.kind])
        if dtype.kind == "f":
            put([np.nextafter(dtype.type(1), dtype.type(2)), np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max])
        elif dtype.kind in "iu":
            put([np.iinfo(dtype).max, np.iinfo(dtype).min])
    if "alien" in flavour and dtype.kind == "O":
        put(ALIEN)
    return X


def _numbers(X: NDArray[Any]) -> NDArray[np.longdouble] | None:
    """Return what an array holds; None if it is no numbers. Goes its own way: what is under test does not judge itself."""
    if X.dtype.kind != "O":
        return X.astype(np.longdouble)
    values = np.empty(X.shape, np.longdouble)
    for at, thing in np.ndenumerate(X):
        if any(thing is alien for alien in ALIEN):
            return None
        gone = thing is None or thing is pd.NA
        values[at] = np.nan if gone else np.longdouble(thing) if isinstance(thing, np.longdouble) else float(thing)
    return values


# Layouts of arrays


def _inside(X: NDArray[Any], rng: Rng) -> NDArray[Any]:
    """Return a view of X in the midst of a larger array, a step apart."""
    down, across = (int(step) for step in rng.integers(1, 4, 2))
    larger = np.full((X.shape[0] * down + 2, X.shape[1] * across + 3), 1, X.dtype)
    view = larger[1 : 1 + X.shape[0] * down : down, 2 : 2 + X.shape[1] * across : across]
    view[...] = X
    return view


def _mapped(X: NDArray[Any], rng: Rng) -> NDArray[Any]:
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file, X)
        file.flush()
        mapped: NDArray[Any] = np.load(file.name, mmap_mode=str(rng.choice(["r", "r+", "c"])))  # type: ignore[call-overload]
    return mapped


def _read_only(X: NDArray[Any], rng: Rng) -> NDArray[Any]:
    X.flags.writeable = False
    return X


def _windows(X: NDArray[Any], rng: Rng) -> NDArray[Any]:
    return np.lib.stride_tricks.sliding_window_view(np.resize(X.ravel(), sum(X.shape) - 1), X.shape[1])


LAYOUTS: dict[str, Callable[[NDArray[Any], Rng], NDArray[Any]]] = {
    "C": lambda X, rng: X,
    "Fortran": lambda X, rng: np.asfortranarray(X),
    "transposed": lambda X, rng: X.T.copy().T,
    "rows backwards": lambda X, rng: X[::-1],
    "columns backwards": lambda X, rng: X[:, ::-1],
    "backwards": lambda X, rng: X[::-1, ::-1],
    "inside": _inside,
    "read-only": _read_only,
    "unaligned": lambda X, rng: np.frombuffer(b"?" + X.tobytes(), X.dtype, X.size, 1).reshape(X.shape),
    "one row for all": lambda X, rng: np.broadcast_to(X[:1], X.shape),
    "one column for all": lambda X, rng: np.broadcast_to(X[:, :1], X.shape),
    "one number for all": lambda X, rng: np.broadcast_to(X[:1, :1], X.shape),
    "windows": _windows,
    "memory map": _mapped,
}


# Containers of arrays


class Convertible:
    """What has ``__array__`` and nothing else."""

    def __init__(self, X: NDArray[Any]) -> None:
        self.X = X

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self.X.copy()


class Sub(np.ndarray[Any, Any]):
    """A subclass of ndarray."""


def _bits(X: NDArray[Any], missing: bool = False) -> list[int]:
    """Return the columns of 0/1, or NaN; none of longdouble, which would be rounded to float."""
    if X.dtype.kind not in "biuf" or X.dtype.char == "g":
        return []
    numbers = X.astype(float)
    return np.flatnonzero((np.isin(numbers, (0, 1)) | (np.isnan(numbers) & missing)).all(axis=0)).tolist()


def _mixed_frame(X: NDArray[Any], rng: Rng) -> Any:
    """Return a frame each column of which has a dtype of its own, where it can."""
    kinds = ["bool", "int64", "float32", "Int8", "boolean", "Float64", "object"]
    return pd.DataFrame(X).astype({c: rng.choice(kinds) for c in _bits(X)})


def _nullable_frame(X: NDArray[Any], rng: Rng) -> Any:
    """Return a frame with pandas.NA for what is missing, in columns of nullable dtypes, where it can."""
    kinds = ["Int8", "boolean", "UInt64", "Float32", "Float64"]
    return pd.DataFrame(X).astype({c: rng.choice(kinds) for c in _bits(X, missing=True)})


def _category_frame(X: NDArray[Any], rng: Rng) -> Any:
    if X.dtype.kind not in "biuf" or X.dtype.char in "eg":
        return pd.DataFrame(X)
    return pd.DataFrame(X.astype(X.dtype.newbyteorder("="))).astype("category")


def _sparse_frame(X: NDArray[Any], rng: Rng) -> Any:
    if X.dtype.kind != "f" or X.dtype.char in "ge":
        return pd.DataFrame(X)
    return pd.DataFrame(X.astype(np.float64)).astype(pd.SparseDtype(np.float64, rng.choice([0.0, np.nan])))


def _polars(X: NDArray[Any], rng: Rng) -> Any:
    if X.dtype.kind not in "biuf" or X.dtype.char in "eg":
        return X
    import polars as pl

    native = X.astype(X.dtype.newbyteorder("="))
    return pl.DataFrame({f"column {j}": native[:, j] for j in range(X.shape[1])})


def _matrix(X: NDArray[Any], rng: Rng) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        return np.asmatrix(X)


def _memoryview(X: NDArray[Any], rng: Rng) -> Any:
    return memoryview(X) if X.dtype.isnative and X.dtype.char not in "gO" else X


CONTAINERS: dict[str, Callable[[NDArray[Any], Rng], Any]] = {
    "array": lambda X, rng: X,
    "subclass": lambda X, rng: X.view(Sub),
    "numpy.matrix": _matrix,
    "masked array, nothing masked": lambda X, rng: np.ma.masked_array(X, mask=False),
    "list": lambda X, rng: X.tolist(),
    "tuple": lambda X, rng: tuple(map(tuple, X.tolist())),
    "list of rows": lambda X, rng: list(X),
    "__array__": lambda X, rng: Convertible(X),
    "memoryview": _memoryview,
    "frame": lambda X, rng: pd.DataFrame(X),
    "mixed frame": _mixed_frame,
    "nullable frame": _nullable_frame,
    "category frame": _category_frame,
    "sparse frame": _sparse_frame,
} | ({"polars": _polars} if importlib.util.find_spec("polars") else {})


@st.composite
def dense_tables(draw: st.DrawFn, width: int) -> Table:
    """Draw dense rows: any dtype, layout and container."""
    dtype = np.dtype(draw(st.sampled_from([*DTYPES, "O", "O"])))
    flavours = ["bits", "bits", "missing", "odd", "odd and missing"]
    flavour = draw(st.sampled_from([*flavours, "alien", "alien"] if dtype.kind == "O" else flavours))
    layout, container = draw(st.sampled_from(list(LAYOUTS))), draw(st.sampled_from(list(CONTAINERS)))
    rng, n = np.random.default_rng(draw(st.integers(0, 2**32))), draw(st.integers(1, 4))
    X = _fill(rng, n, width, dtype, flavour)
    if dtype.kind != "O" or layout not in ("unaligned", "memory map"):  # objects are no bytes
        X = LAYOUTS[layout](X, rng)
    values = _numbers(X)
    return Table(CONTAINERS[container](X, rng), values, f"{container} of {dtype.str}, {layout}, {flavour}")


# Sparse tables


FORMATS = ("csr", "csc", "coo", "bsr", "lil", "dok", "dia")
SPARSE_DTYPES = ("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", "g")


def _untidy(X: NDArray[Any], rng: Rng, index: str) -> Any:
    """Return CSR of X, with zeros that are written out, duplicates that add up to the value, and columns in any order."""
    data_, indices, indptr = [], [], [0]
    kind = X.dtype.kind
    for row in X:
        entries = [(j, v) for j, v in enumerate(row) if v != 0 or rng.random() < 0.3]
        for j, v in list(entries):
            if rng.random() < 0.2:
                entries.append((j, X.dtype.type(0)))
            elif kind in "if" and v == 1 and rng.random() < 0.3:
                entries.remove((j, v))
                parts = (-1, 2) if kind == "i" else (0.25, 0.75)
                entries += [(j, X.dtype.type(part)) for part in parts]
        if rng.random() < 0.7:
            entries = [entries[k] for k in rng.permutation(len(entries))]
        indices += [j for j, _ in entries]
        data_ += [v for _, v in entries]
        indptr.append(len(indices))
    S = sp.csr_array((np.array(data_, X.dtype), np.array(indices, "i4"), np.array(indptr, "i4")), shape=X.shape)
    S.indices, S.indptr = S.indices.astype(index), S.indptr.astype(index)
    return S


def _converted(S: Any, form: str, rng: Rng) -> Any:
    if form == "bsr":
        n, D = S.shape
        down, across = (int(rng.choice([b for b in range(1, size + 1) if size % b == 0])) for size in (n, D))
        return S.tobsr((down, across))
    return S.asformat(form)


@st.composite
def sparse_tables(draw: st.DrawFn, width: int) -> Table:
    """Draw rows as scipy.sparse: any format, dtype, kind of index."""
    dtype = np.dtype(draw(st.sampled_from(SPARSE_DTYPES)))
    flavour = draw(st.sampled_from(["bits", "bits", "missing", "odd", "odd and missing"]))
    form, kind = draw(st.sampled_from(FORMATS)), draw(st.sampled_from(["array", "matrix"]))
    index, canonical = draw(st.sampled_from(["i4", "i8"])), draw(st.booleans())
    rng, n = np.random.default_rng(draw(st.integers(0, 2**32))), draw(st.integers(1, 4))
    if form == "lil" and dtype.char == "g":  # it holds Python's floats
        dtype = np.dtype("f8")
    X = _fill(rng, n, width, dtype, flavour)
    S = sp.csr_array(X) if canonical else _untidy(X, rng, index)
    S = _converted(S if kind == "array" else sp.csr_matrix(S), form, rng)
    if form in ("csr", "csc", "bsr"):
        S.indices, S.indptr = S.indices.astype(index), S.indptr.astype(index)
    if form in ("csr", "coo") and draw(st.booleans()):
        S.has_canonical_format = True  # what SciPy has noted may be out of date
    return Table(S, _numbers(X), f"{form}_{kind} of {dtype.str}, {index}, {flavour}, {'canonical' if canonical else 'untidy'}")


def _put(array: NDArray[Any], at: int, value: Any) -> NDArray[Any]:
    array = array.copy()
    array[at] = value
    return array


def _breaks(S: Any, rng: Rng) -> list[tuple[str, Any]]:
    """Return ways to break a sparse matrix: new values of its arrays, which SciPy does not look at, or what to call."""
    form, (n, D) = S.format, S.shape
    huge = int(rng.choice([-(2**31), -1000, -1, 2**31 - 1, 10**6]))
    if form in ("csr", "csc", "bsr"):
        at, start, nnz = int(rng.integers(len(S.indices))), int(rng.integers(1, len(S.indptr))), len(S.indices)
        I, P, V = S.indices, S.indptr, S.data
        indices = [_put(I, at, huge), _put(I, at, n if form == "csc" else D), I[:-1], I.astype(float), I.tolist(), I[:, None]]
        indptr = [
            _put(P, start, huge), _put(P, -1, nnz + 1), _put(P, 0, 1), _put(P, 0, -1), P[:-1], np.append(P, nnz),
            P[::-1].copy(), P.astype("u8"), P[:0],
        ]  # fmt: skip
        values = [V[:-1], V.tolist(), V.astype(object), V.astype("f2"), V[..., None]]
        return [(name, new) for name, ways in (("indices", indices), ("indptr", indptr), ("data", values)) for new in ways]
    if form == "coo":
        at = int(rng.integers(len(S.data)))
        places = [("row", n), ("col", D), ("row", huge), ("col", huge)]
        wrong = [(name, _put(getattr(S, name), at, to)) for name, to in places]
        return wrong + [("data", new) for new in (S.data[:-1], np.append(S.data, 1), S.data.astype(object))]
    if form == "dia":
        offsets = (np.append(S.offsets, 0), S.offsets.astype(float), S.offsets.astype("i8") + 2**32)
        return [("data", S.data[:-1]), ("data", S.data.ravel()), *(("offsets", new) for new in offsets)]
    if form == "lil":
        at = int(np.argmax([len(row) for row in S.rows]))
        return [
            (f"row {at} has more values", lambda: S.data[at].extend([1] * 10_000)),
            (f"row {at} has more columns", lambda: S.rows[at].extend([0] * 10_000)),
            *((f"row {at} has column {to}", lambda to=to: S.rows[at].__setitem__(0, to)) for to in (huge, 2**40, "a")),
            (f"row {at} is no list", lambda: S.rows.__setitem__(at, None)),
            ("rows", S.rows[:0]),
            ("data", S.data[:0]),
        ]
    return [
        ("a key outside", lambda: S._dict.__setitem__((n + 3, 0), 1)),
        ("a key below", lambda: S._dict.__setitem__((0, -9), 1)),
    ]


@st.composite
def broken_tables(draw: st.DrawFn, width: int) -> Table:
    """Draw sparse matrices whose arrays do not fit together."""
    form, kind = draw(st.sampled_from(FORMATS)), draw(st.sampled_from(["array", "matrix"]))
    rng, n = np.random.default_rng(draw(st.integers(0, 2**32))), draw(st.integers(2, 4))
    X = _fill(rng, n, width, np.dtype(draw(st.sampled_from(SPARSE_DTYPES))), "bits")
    X[rng.integers(n), rng.integers(width)] = 1
    S = _converted(getattr(sp, f"csr_{kind}")(X), form, rng)
    if draw(st.booleans()):
        getattr(S, "has_canonical_format", None)  # SciPy notes it, and does not notice what happens next
    ways = _breaks(S, rng)
    return _broken(S, *ways[rng.integers(len(ways))])


def _broken(S: Any, how: str, what: Any) -> Table:
    if callable(what):
        what()
    else:
        setattr(S, how, what)
        how += f" = {what if len(what) < 50 else len(what)}".replace("\n", "")
    return Table(S, None, f"{S.format} with {how}")


def all_refused(width: int) -> Iterator[Table]:
    """Yield every way to break a sparse matrix, everything that is no table, and everything that is no number."""
    for form in FORMATS:
        n_ways = len(_breaks(sp.csr_array(np.eye(4, width)).asformat(form), np.random.default_rng(0)))
        for way in range(n_ways):
            S = sp.csr_array(np.eye(4, width)).asformat(form)
            yield _broken(S, *_breaks(S, np.random.default_rng(way))[way])
    for name, make in _no_table(width).items():
        yield Table(make(), None, name)
    for alien in ALIEN:
        X = np.zeros((3, width), object)
        X[1, 2] = alien
        yield Table(X, None, f"an array of objects with {alien!r}")


# What is no table of this width


class Liar:
    """Has ``__array__``, which does not give an array, or not a 0/1 table of the width, or none at all."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class HalfSparse:
    """Says that it becomes CSR, and does not."""

    def tocsr(self, copy: bool = False) -> Any:
        return 5


OTHER_WIDTH = "another width: "


def _no_table(D: int) -> dict[str, Callable[[], Any]]:
    """Return what is no table of D columns; what is one of another width is named so."""
    shapes: list[tuple[int, ...]] = [(), (D,), (0, D), (2, 0), (0, 0), (1, 2, D), (2, D, 1), (1,) * 33]
    wrong: dict[str, Callable[[], Any]] = {f"shape {shape}": lambda shape=shape: np.zeros(shape, np.uint8) for shape in shapes}
    wrong |= {f"{OTHER_WIDTH}shape {(2, d)}": lambda d=d: np.zeros((2, d)) for d in (D - 1, D + 1)}
    wrong |= {
        f"broadcast to {shape} of {dtype}": lambda shape=shape, dtype=dtype: np.broadcast_to(np.zeros((), dtype), shape)
        for shape in [(1, 2**40), (1, 2**59), (3, 2**31), (2**31, 0), (2**53, D)]
        for dtype in ("u1", "f8", "O")
    }
    wrong |= {
        f"dtype {dtype}": lambda dtype=dtype: np.zeros((2, D), dtype)
        for dtype in ("c8", "c16", "G", "U1", "S1", "M8[D]", "m8[s]", "V3", "i1,f4", [("a", "u1", (2,))])
    }
    for form in FORMATS:
        wrong |= {
            f"{OTHER_WIDTH}{form} of width {D + 1}": lambda form=form: sp.csr_array((2, D + 1)).asformat(form),
            f"{form} of 0 rows": lambda form=form: sp.csr_array((0, D)).asformat(form),
            f"complex {form}": lambda form=form: sp.csr_array(np.ones((2, D), complex)).asformat(form),
        }
    wrong |= {
        "coo of 1 dimension": lambda: sp.coo_array(np.ones(D)),
        "coo of width 2^40": lambda: sp.coo_array((1, 2**40)),
        "csr of width 2^40": lambda: sp.csr_array((1, 2**40)),
        "ragged lists": lambda: [[1] * D, [1] * (D - 1)],
        "deeply ragged lists": lambda: [[1] * (D - 1) + [[1]]],
        "empty list": list,
        "list of empty lists": lambda: [[], []],
        "list of text": lambda: [["1"] * D],
        "list of None": lambda: [None, None],
        "list of sets": lambda: [set(range(D))],
        "masked": lambda: np.ma.masked_array(np.ones((2, D)), mask=np.eye(2, D)),
        "masked rows": lambda: [np.ma.masked_array(np.ones(D), mask=np.arange(D) == 1)] * 2,
        "masked constant": lambda: np.ma.masked,
        "frame of text": lambda: pd.DataFrame([["a"] * D]),
        "frame of dates": lambda: pd.DataFrame([[pd.Timestamp(0)] * D]),
        "frame of text categories": lambda: pd.DataFrame([["a"] * D]).astype("category"),
        "series": lambda: pd.Series([0.0] * D),
        "empty frame": pd.DataFrame,
        "a generator": lambda: (row for row in [[0] * D]),
        "half sparse": HalfSparse,
        f"{OTHER_WIDTH}__array__": lambda: Liar(np.zeros((2, D + 1))),
        "__array__ of text": lambda: Liar(np.full((2, D), "a")),
    }
    plain = (None, 1, "01101", b"01101", {"a": 1}, {0, 1}, range(D), len, sp.csr_array)
    wrong |= {f"{thing!r}": lambda thing=thing: thing for thing in plain}
    errors = (AttributeError("no"), KeyError("no"), ZeroDivisionError(), UserWarning("no"))
    wrong |= {f"__array__ that gives {what!r}": lambda what=what: Liar(what) for what in (*errors, [[0] * D], None)}
    if hasattr(np, "dtypes") and hasattr(np.dtypes, "StringDType"):
        wrong["StringDType"] = lambda: np.zeros((2, D), np.dtypes.StringDType())
    return wrong


def no_tables(width: int, fits: bool) -> st.SearchStrategy[Table]:
    """Draw what is no table of this width, or of any width where that is free."""
    ways = {name: make for name, make in _no_table(width).items() if not (fits and name.startswith(OTHER_WIDTH))}
    return st.sampled_from(list(ways)).map(lambda name: Table(ways[name](), None, name))


def tables(width: int, fits: bool) -> st.SearchStrategy[Table]:
    dense, sparse = dense_tables(width), sparse_tables(width)
    return st.one_of(dense, dense, dense, sparse, sparse, broken_tables(width), no_tables(width, fits))
