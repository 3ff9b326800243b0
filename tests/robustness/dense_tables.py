"""Dense tables of rows for Hypothesis to draw: any dtype, layout and container, with the numbers that each holds.

Not here: sparse tables, things that are no table (``any_tables.py``).
"""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
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
    """A thing to hand in; its values as numbers, (n, D), or None where it must be refused; how it was made."""

    given: Any
    values: NDArray[np.longdouble] | None
    how: str

    def __repr__(self) -> str:
        return f"<{self.how}: {'to be refused' if self.values is None else self.values.astype(str).tolist()}>"


def fill(rng: Rng, n: int, D: int, dtype: np.dtype[Any], flavour: str) -> NDArray[Any]:
    """Return a table of 0 and 1 of this dtype; with some NaN ("missing"), some odd numbers, some things that are none."""
    rare: list[Any] = []
    if "missing" in flavour and dtype.kind in "fO":
        rare += MISSING if dtype.kind == "O" else [np.nan] * 6
    if "odd" in flavour and dtype.kind in ODD:
        rare += ODD[dtype.kind]
        if dtype.kind == "f":
            rare += [np.nextafter(dtype.type(1), dtype.type(2)), np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max]
        elif dtype.kind in "iu":
            rare += [np.iinfo(dtype).max, np.iinfo(dtype).min]
    if "alien" in flavour:
        rare += ALIEN
    X, one = np.empty((n, D), dtype), rng.random((n, D)) < rng.choice([0.1, 0.5, 0.9])
    often = rng.choice([0.1, 0.4])
    for at in np.ndindex(n, D):
        things = rare if rare and rng.random() < often else ONES if one[at] else ZEROS
        X[at] = things[rng.integers(len(things))]
    return X


def numbers(X: NDArray[Any]) -> NDArray[np.longdouble] | None:
    """Return the numbers of an array, or None; independent of the code under test."""
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


class Liar:
    """Has ``__array__`` and nothing else; that may give no array, or none of a 0/1 table of the width."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Sub(np.ndarray[Any, Any]):
    """A subclass of ndarray."""


def _frame(X: NDArray[Any], rng: Rng, kinds: list[str], missing: bool) -> Any:
    """Return a frame whose columns of 0/1 (or NaN) have dtypes of their own; longdouble would be rounded."""
    if X.dtype.kind not in "biuf" or X.dtype.char == "g":
        return pd.DataFrame(X)
    bits = (np.isin(X.astype(float), (0, 1)) | (np.isnan(X.astype(float)) & missing)).all(axis=0)
    return pd.DataFrame(X).astype({c: rng.choice(kinds) for c in np.flatnonzero(bits).tolist()})


def _category_frame(X: NDArray[Any], rng: Rng) -> Any:
    return pd.DataFrame(_native(X)).astype("category") if _is_common(X) else pd.DataFrame(X)


def _sparse_frame(X: NDArray[Any], rng: Rng) -> Any:
    if X.dtype.kind != "f" or not _is_common(X):
        return pd.DataFrame(X)
    return pd.DataFrame(X.astype(np.float64)).astype(pd.SparseDtype(np.float64, rng.choice([0.0, np.nan])))


def _polars(X: NDArray[Any], rng: Rng) -> Any:
    import polars as pl

    return pl.DataFrame({f"column {j}": _native(X)[:, j] for j in range(X.shape[1])}) if _is_common(X) else X


def _is_common(X: NDArray[Any]) -> bool:
    """Say whether other libraries know the dtype."""
    return X.dtype.kind in "biuf" and X.dtype.char not in "eg"


def _native(X: NDArray[Any]) -> NDArray[Any]:
    return X.astype(X.dtype.newbyteorder("="))


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
    "__array__": lambda X, rng: Liar(X.copy()),
    "memoryview": _memoryview,
    "frame": lambda X, rng: pd.DataFrame(X),
    "mixed frame": partial(_frame, kinds=["bool", "int64", "float32", "Int8", "boolean", "Float64", "object"], missing=False),
    "nullable frame": partial(_frame, kinds=["Int8", "boolean", "UInt64", "Float32", "Float64"], missing=True),
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
    X = fill(rng, n, width, dtype, flavour)
    if dtype.kind != "O" or layout not in ("unaligned", "memory map"):  # objects are no bytes
        X = LAYOUTS[layout](X, rng)
    values = numbers(X)
    return Table(CONTAINERS[container](X, rng), values, f"{container} of {dtype.str}, {layout}, {flavour}")
