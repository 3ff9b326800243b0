"""Anything that a user may take for a table of rows, for Hypothesis to draw.

:func:`tables` draws dense tables, sparse matrices tidy, untidy and broken, and things that are no table at all;
:func:`all_refused` yields all that must be refused, each once.

Not here: dense tables (``dense_tables.py``), the methods that take tables, and their promise (``doors.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from hypothesis import strategies as st
from numpy.typing import NDArray
from robustness.dense_tables import ALIEN, Liar, Rng, Table, dense_tables, fill, numbers

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
    X = fill(rng, n, width, dtype, flavour)
    S = sp.csr_array(X) if canonical else _untidy(X, rng, index)
    S = _converted(S if kind == "array" else sp.csr_matrix(S), form, rng)
    if form in ("csr", "csc", "bsr"):
        S.indices, S.indptr = S.indices.astype(index), S.indptr.astype(index)
    if form in ("csr", "coo") and draw(st.booleans()):
        S.has_canonical_format = True  # the flag may be wrong
    return Table(S, numbers(X), f"{form}_{kind} of {dtype.str}, {index}, {flavour}, {'canonical' if canonical else 'untidy'}")


def _put(array: NDArray[Any], at: int, value: Any) -> NDArray[Any]:
    array = array.copy()
    array[at] = value
    return array


def _breaks(S: Any, rng: Rng) -> list[tuple[str, Any]]:
    """Return ways to break a sparse matrix: new values of its arrays, which SciPy does not check, or a function to call."""
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
    X = fill(rng, n, width, np.dtype(draw(st.sampled_from(SPARSE_DTYPES))), "bits")
    X[rng.integers(n), rng.integers(width)] = 1
    S = _converted(getattr(sp, f"csr_{kind}")(X), form, rng)
    if draw(st.booleans()):
        getattr(S, "has_canonical_format", None)  # SciPy computes and keeps it
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
    for name, thing in _no_table(width).items():
        yield Table(thing, None, name)
    for alien in ALIEN:
        X = np.zeros((3, width), object)
        X[1, 2] = alien
        yield Table(X, None, f"an array of objects with {alien!r}")


# Things that are no table of this width


class HalfSparse:
    """Says that it becomes CSR, and does not."""

    def tocsr(self, copy: bool = False) -> Any:
        return 5


OTHER_WIDTH = "another width: "


def _no_table(D: int) -> dict[str, Any]:
    """Return things that are no table of D columns, by name; the names of tables of another width say so."""
    shapes: list[tuple[int, ...]] = [(), (D,), (0, D), (2, 0), (0, 0), (1, 2, D), (2, D, 1), (1,) * 33]
    wrong: dict[str, Any] = {f"shape {shape}": np.zeros(shape, np.uint8) for shape in shapes}
    wrong |= {f"{OTHER_WIDTH}shape {(2, d)}": np.zeros((2, d)) for d in (D - 1, D + 1)}
    wrong |= {
        f"broadcast to {shape} of {dtype}": np.broadcast_to(np.zeros((), dtype), shape)
        for shape in [(1, 2**40), (1, 2**59), (3, 2**31), (2**31, 0), (2**53, D)]
        for dtype in ("u1", "f8", "O")
    }
    wrong |= {
        f"dtype {dtype}": np.zeros((2, D), dtype)
        for dtype in ("c8", "c16", "G", "U1", "S1", "M8[D]", "m8[s]", "V3", "i1,f4", [("a", "u1", (2,))])
    }
    for form in FORMATS:
        wrong |= {
            f"{OTHER_WIDTH}{form} of width {D + 1}": sp.csr_array((2, D + 1)).asformat(form),
            f"{form} of 0 rows": sp.csr_array((0, D)).asformat(form),
            f"complex {form}": sp.csr_array(np.ones((2, D), complex)).asformat(form),
        }
    wrong |= {
        "coo of 1 dimension": sp.coo_array(np.ones(D)),
        "coo of width 2^40": sp.coo_array((1, 2**40)),
        "csr of width 2^40": sp.csr_array((1, 2**40)),
        "ragged lists": [[1] * D, [1] * (D - 1)],
        "deeply ragged lists": [[1] * (D - 1) + [[1]]],
        "empty list": [],
        "list of empty lists": [[], []],
        "list of text": [["1"] * D],
        "list of None": [None, None],
        "list of sets": [set(range(D))],
        "masked": np.ma.masked_array(np.ones((2, D)), mask=np.eye(2, D)),
        "masked rows": [np.ma.masked_array(np.ones(D), mask=np.arange(D) == 1)] * 2,
        "masked constant": np.ma.masked,
        "frame of text": pd.DataFrame([["a"] * D]),
        "frame of dates": pd.DataFrame([[pd.Timestamp(0)] * D]),
        "frame of text categories": pd.DataFrame([["a"] * D]).astype("category"),
        "series": pd.Series([0.0] * D),
        "empty frame": pd.DataFrame(),
        "a generator": (row for row in [[0] * D]),
        "half sparse": HalfSparse(),
        f"{OTHER_WIDTH}__array__": Liar(np.zeros((2, D + 1))),
        "__array__ of text": Liar(np.full((2, D), "a")),
    }
    plain = (None, 1, "01101", b"01101", {"a": 1}, {0, 1}, range(D), len, sp.csr_array)
    wrong |= {f"{thing!r}": thing for thing in plain}
    errors = (AttributeError("no"), KeyError("no"), ZeroDivisionError(), UserWarning("no"))
    wrong |= {f"__array__ that gives {what!r}": Liar(what) for what in (*errors, [[0] * D], None)}
    if hasattr(np, "dtypes") and hasattr(np.dtypes, "StringDType"):
        wrong["StringDType"] = np.zeros((2, D), np.dtypes.StringDType())
    return wrong


def no_tables(width: int, fits: bool) -> st.SearchStrategy[Table]:
    """Draw things that are no table of this width; of any width where a door fits."""
    names = [name for name in _no_table(width) if not (fits and name.startswith(OTHER_WIDTH))]
    return st.sampled_from(names).map(lambda name: Table(_no_table(width)[name], None, name))  # some can be used once only


def tables(width: int, fits: bool) -> st.SearchStrategy[Table]:
    dense, sparse = dense_tables(width), sparse_tables(width)
    return st.one_of(dense, dense, dense, sparse, sparse, broken_tables(width), no_tables(width, fits))
