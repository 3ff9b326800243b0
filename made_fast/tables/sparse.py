"""Sparse matrices of SciPy: their arrays are checked before SciPy uses them, and come out as canonical CSR.

SciPy is never imported here: a program that passes one of its objects has imported it. Not here: values (``tables/table.py``).
"""

from __future__ import annotations

import sys
from typing import Any, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

__all__ = ["SparseRows", "canonical_csr", "check", "is_sparse"]

MOST_OFFSET = 2**31 - 1  # SciPy's offsets of diagonals are int32


class SparseRows(Protocol):
    """What is used of a ``scipy.sparse`` matrix or array in CSR format."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    data: NDArray[Any]
    indices: NDArray[np.integer[Any]]
    indptr: NDArray[np.integer[Any]]

    def __getitem__(self, rows: slice | NDArray[np.intp]) -> SparseRows: ...


def is_sparse(X: object) -> TypeGuard[SparseRows]:
    """Return whether ``X`` is a ``scipy.sparse`` container, in any format."""
    issparse = getattr(sys.modules.get("scipy.sparse"), "issparse", None)  # None too while another thread imports SciPy
    return issparse is not None and issparse(X)


_INDICES = {**dict.fromkeys(("csr", "csc", "bsr"), ("indptr", "indices")), "coo": ("row", "col"), "dia": ("offsets",)}
"""The index arrays of a sparse matrix, by format. The other formats are made of lists and dicts."""


def check(X: Any, name: str) -> None:
    """Refuse a matrix whose arrays do not fit together. Raises ValueError."""
    if flaw := _flaw(X):
        raise _unsound(X, flaw, name)


def _flaw(X: Any) -> str | None:
    """Describe a flaw in the arrays of a sparse matrix, if any. Anybody may have assigned to them or changed them."""
    (n, D), form = X.shape, X.format
    if form in _INDICES and not (isinstance(X.data, np.ndarray) and X.data.ndim == {"bsr": 3, "dia": 2}.get(form, 1)):
        return "data that are no array of the right dimension"
    if X.dtype.kind == "O" or X.dtype == np.float16 or not X.dtype.isnative:
        return f"values of dtype {X.dtype}, which SciPy cannot work on"
    if form == "lil":
        return None if _are_lists(X.rows, X.data, n) else "other numbers of columns than of values"
    if form not in _INDICES:  # dok, a dict
        return None
    values = X.data
    for part in _INDICES[form]:
        index = getattr(X, part)
        if not isinstance(index, np.ndarray) or index.ndim != 1 or index.dtype.kind != "i" or index.itemsize < 4:
            return f"{part} that are no vector of int32 or int64"
    if form == "dia":
        if len(X.offsets) != len(values):
            return f"{len(X.offsets)} offsets for {len(values)} diagonals"
        return _beyond(X.offsets, "offsets", -MOST_OFFSET, MOST_OFFSET)
    if form == "coo":
        if not len(X.row) == len(X.col) == len(values):
            return f"{len(X.row)} rows, {len(X.col)} columns and {len(values)} values"
        return _beyond(X.row, "row numbers", 0, n - 1) or _beyond(X.col, "column numbers", 0, D - 1)
    down, across = values.shape[1:] if form == "bsr" else (1, 1)
    if not (down and across) or n % down or D % across:
        return f"blocks of {down} x {across}, which do not make up the shape {X.shape}"
    major, minor = (D, n) if form == "csc" else (n // down, D // across)
    start = X.indptr
    if len(start) != major + 1 or start[0] != 0 or (start[1:] < start[:-1]).any():
        return f"indptr that are not {major + 1} numbers, of which the first is 0 and none is less than the one before it"
    if len(X.indices) != len(values) or start[-1] > len(values):
        return f"{len(X.indices)} indices and {len(values)} values for the {start[-1]} that indptr counts"
    return _beyond(X.indices[: start[-1]], "indices", 0, minor - 1)


def _are_lists(rows: Any, values: Any, n: int) -> bool:
    """Return whether these are n lists of columns and as many lists of values, of the same lengths."""
    if not all(isinstance(part, np.ndarray) and part.shape == (n,) and part.dtype == object for part in (rows, values)):
        return False
    return all(type(r) is list and type(v) is list and len(r) == len(v) for r, v in zip(rows, values, strict=True))


def _beyond(index: NDArray[Any], name: str, least: int, most: int) -> str | None:
    if len(index) and (index.min() < least or index.max() > most):
        return f"{name} {index.min()}..{index.max()}, of which {least}..{most} may be"
    return None


def canonical_csr(X: Any, name: str) -> SparseRows:
    """Return CSR with rising column numbers in every row. What SciPy has noted of that may be out of date."""
    try:
        csr: Any = X.tocsr()
    except (TypeError, ValueError, OverflowError, IndexError, KeyError, AttributeError) as error:
        raise _unsound(X, f"what SciPy cannot convert ({error})", name) from error
    if csr is not X:
        check(csr, name)
    if not _rises(csr):
        csr = type(csr)((csr.data, csr.indices, csr.indptr), shape=csr.shape, copy=True)
        csr.sum_duplicates()
    return csr  # type: ignore[no-any-return]


def _rises(csr: Any) -> bool:
    """Return whether the column numbers of every row rise: a number that does not exceed the one before it begins a row."""
    start, index = csr.indptr, csr.indices[: csr.indptr[-1]]
    for i in range(0, len(index), 1 << 18):  # at a time, so that it takes no memory
        falls = i + 1 + np.flatnonzero(index[i + 1 :][: 1 << 18] <= index[i:-1][: 1 << 18])
        if (start[np.searchsorted(start, falls)] != falls).any():
            return False
    return True


def _unsound(X: Any, flaw: str, name: str) -> ValueError:
    return ValueError(
        f"{name} must be a sound sparse matrix, got {X.format} with {flaw}. "
        f"Make it anew, as scipy.sparse.coo_array((values, (rows, columns)), shape={X.shape}), say."
    )
