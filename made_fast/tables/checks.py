"""Tables of 0/1 rows: cast or refused here.

Every public method hands what it was given to a function of this file and trusts what comes back; nothing below checks
again. A refusal says the name, the demand, what was found, and the way out: ``TypeError`` for a wrong type, ``ValueError``
for a wrong value. Where scikit-learn's own checks look for certain words, the texts hold those words.

Not here: packing of rows (``tables/data.py``), files (``tables/reading``), defaults (the estimator), what makes an
array of a data frame (``tables/arrays.py``). SciPy is never imported here: who hands over an object of its own has done so.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray

from made_fast.tables import arrays, names

__all__ = ["Matrix", "MatrixLike", "SparseRows", "is_sparse", "matrix", "missing", "ones"]

MOST_COLUMNS = 2**31 - 1
"""Places and numbers of units are int32 in the kernels."""


class SparseRows(Protocol):
    """What is used of a ``scipy.sparse`` matrix or array in CSR format."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    data: NDArray[Any]
    indices: NDArray[np.integer[Any]]
    indptr: NDArray[np.integer[Any]]

    def __getitem__(self, rows: slice | NDArray[np.intp]) -> SparseRows: ...


Matrix: TypeAlias = NDArray[Any] | SparseRows
"""What :func:`matrix` returns: an array, or CSR rows."""

MatrixLike: TypeAlias = Any
"""What :func:`matrix` takes: array-like, data frame or ``scipy.sparse``; no type of NumPy's covers them all."""


# Tables


def is_sparse(X: object) -> TypeGuard[SparseRows]:
    """Say whether ``X`` is a ``scipy.sparse`` container, in whatever format."""
    issparse = getattr(sys.modules.get("scipy.sparse"), "issparse", None)  # None too while another thread imports SciPy
    return issparse is not None and issparse(X)


def matrix(
    X: MatrixLike,
    n_features: int | None = None,
    *,
    name: str = "X",
    min_rows: int = 1,
    feature_names: Sequence[str] | None = None,
) -> Matrix:
    """Check the names, the shape and the kind of a table; its values are checked chunk by chunk in :func:`ones`.

    Parameters
    ----------
    X : array-like or sparse of shape (rows, features)
        An array of any order, strides and byte order, a memmap, lists of lists, a data frame, any ``scipy.sparse`` format.
        The arrays of a sparse matrix are looked at before SciPy uses them: it does not, and reads and writes past their ends.
    n_features : int, optional
        The width demanded; None takes any from 1 on.
    name : str
        What the caller calls ``X``; error texts start with it.
    min_rows : int
        Fewest rows.
    feature_names : sequence of str, optional
        What the columns must be called, if they have names; see ``tables/names.py``.

    Returns
    -------
    ndarray or CSR
        A view of ``X`` where it is an array; a memmap stays on disk. Sparse input as CSR with sorted column numbers and no
        duplicates (summed). ``X`` itself is never changed.
    """
    if feature_names is not None:
        names.check(arrays.column_names(X), feature_names, name)
    sparse = type(X) is not np.ndarray and is_sparse(X)
    rows: Any = X if sparse or type(X) is np.ndarray else _array(X, name)
    if rows.ndim != 2:
        raise _wrong_ndim(rows, n_features, name)
    if sparse and (flaw := _flaw(rows)):
        raise _unsound(rows, flaw, name)
    if rows.dtype.kind not in "biufO":
        raise _wrong_kind(rows.dtype, name)
    n_rows, width = rows.shape
    if n_rows < min_rows:
        raise ValueError(
            f"{name} must have at least {min_rows} row(s). "
            f"Found array with {n_rows} sample(s) (shape={rows.shape}) while a minimum of {min_rows} is required."
        )
    if width < 1:
        raise ValueError(
            f"{name} must have at least 1 column. "
            f"Found array with 0 feature(s) (shape={rows.shape}) while a minimum of 1 is required."
        )
    if width > MOST_COLUMNS and n_features is None:
        raise ValueError(f"{name} must have at most {MOST_COLUMNS} columns, got shape {rows.shape}. Leave some out.")
    if n_features is not None and width != n_features:
        raise ValueError(
            f"{name} must have shape (rows, {n_features}), got {rows.shape}: {name} has {width} features, but MADE is "
            f"expecting {n_features} features as input. Pass the columns that the model was fitted on."
        )
    if sparse:
        return _canonical_csr(rows, name)
    return arrays.numbers(rows, name) if rows.dtype == object else rows


def ones(
    rows: Matrix,
    binarize: float | None = None,
    name: str = "X",
    first_row: int = 0,
    *,
    missing: bool = False,
    columns: Sequence[str] | None = None,
    setting: str = "binarize=",
) -> NDArray[np.bool_]:
    """Return where a chunk of rows is 1; refuse what is neither 0 nor 1.

    Parameters
    ----------
    rows : (n, D) array or CSR
        A chunk of what :func:`matrix` returned. Bool, any int, any float.
    binarize : float, optional
        A value is 1 if it is larger than this. None demands values that are exactly 0 or 1. Infinity is always refused.
    name, first_row
        What the error text calls the table, and the number of the chunk's first row in it.
    missing : bool
        Take NaN, which marks a missing entry, for 0 (see :func:`missing`); otherwise it is refused.
    columns : sequence of D str, optional
        What the error text calls the columns, beside their numbers.
    setting : str
        How the error text sets a threshold.

    Returns
    -------
    (n, D) bool
        May share memory with ``rows``: to be read only.
    """
    values = rows if isinstance(rows, np.ndarray) else rows.data[: rows.indptr[-1]]
    if missing and values.dtype.kind == "f":
        values = np.where(np.isnan(values), 0 if binarize is None else binarize, values)
    one = _ones(values, binarize)
    if one is None:
        raise _wrong_value(rows, values, binarize, name, first_row, columns, setting)
    if isinstance(rows, np.ndarray):
        return one
    dense = np.full(rows.shape, binarize is not None and binarize < 0, dtype=np.bool_)
    dense[np.repeat(np.arange(len(dense)), np.diff(rows.indptr)), rows.indices[: len(one)]] = one
    return dense


def missing(rows: Matrix, name: str = "X") -> NDArray[np.bool_] | None:
    """Return where a chunk of rows is missing (NaN), (n, D) bool, or None where nothing is."""
    values = rows if isinstance(rows, np.ndarray) else rows.data[: rows.indptr[-1]]
    if values.dtype.kind != "f":
        return None
    nan = np.isnan(values)
    if not nan.any():
        return None
    if isinstance(rows, np.ndarray):
        return nan
    dense = np.zeros(rows.shape, np.bool_)
    dense[np.repeat(np.arange(len(dense)), np.diff(rows.indptr)), rows.indices[: len(nan)]] = nan
    return dense


_INDICES = {
    "csr": ("indptr", "indices"),
    "csc": ("indptr", "indices"),
    "bsr": ("indptr", "indices"),
    "coo": ("row", "col"),
    "dia": ("offsets",),
}
"""The index arrays of a sparse matrix, by format. The other formats are made of lists and dicts."""


def _flaw(X: Any) -> str | None:
    """Say what is wrong with the arrays of a sparse matrix, or None. Anybody may have assigned to them or changed them."""
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
        return _beyond(X.offsets, "offsets", -MOST_COLUMNS, MOST_COLUMNS)
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
    """Say whether these are n lists of columns and as many lists of values, of the same lengths."""
    if not all(isinstance(part, np.ndarray) and part.shape == (n,) and part.dtype == object for part in (rows, values)):
        return False
    return all(type(r) is list and type(v) is list and len(r) == len(v) for r, v in zip(rows, values, strict=True))


def _beyond(index: NDArray[Any], name: str, least: int, most: int) -> str | None:
    if len(index) and (index.min() < least or index.max() > most):
        return f"{name} {index.min()}..{index.max()}, of which {least}..{most} may be"
    return None


def _canonical_csr(X: Any, name: str) -> SparseRows:
    """Return CSR with rising column numbers in every row. What SciPy has noted of that may be out of date."""
    try:
        csr: Any = X.tocsr()
    except (TypeError, ValueError, OverflowError, IndexError, KeyError, AttributeError) as error:
        raise _unsound(X, f"what SciPy cannot convert ({error})", name) from error
    if csr is not X and (flaw := _flaw(csr)):
        raise _unsound(X, flaw, name)
    if not _rises(csr):
        csr = type(csr)((csr.data, csr.indices, csr.indptr), shape=csr.shape, copy=True)
        csr.sum_duplicates()
    return csr  # type: ignore[no-any-return]


def _rises(csr: Any) -> bool:
    """Say whether the column numbers of every row rise: a number that does not exceed the one before it begins a row."""
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


def _array(X: Any, name: str) -> NDArray[Any]:
    rows = X if isinstance(X, list | tuple) else (X,)
    if any(isinstance(row, np.ma.MaskedArray) and np.ma.is_masked(row) for row in rows):  # np.asarray would strip the mask
        raise ValueError(
            f"{name} must hold no masked entries, got some. Mark missing ones by NaN: {name}.astype(float).filled(np.nan)."
        )
    frame = arrays.of_frame(X, name)
    if frame is not None:
        return frame
    try:
        return np.asarray(X)
    except ValueError as error:
        raise ValueError(
            f"{name} must have shape (rows, features), got rows that form no table ({error}). Give every row the same length."
        ) from error
    except arrays.CONVERSION_ERRORS as error:
        raise TypeError(
            f"{name} must be a table of numbers, got {type(X).__name__}, of which NumPy can make no array "
            f"({type(error).__name__}: {error}). Convert it first."
        ) from error


def _wrong_ndim(rows: NDArray[Any], n_features: int | None, name: str) -> Exception:
    demand = f"{name} must have shape (rows, {'features' if n_features is None else n_features})"
    if rows.ndim == 0 and rows.dtype == object:
        return TypeError(f"{demand}, got {type(rows.item()).__name__}. Pass an array, a data frame or a scipy.sparse matrix.")
    if rows.ndim == 0:
        return ValueError(
            f"{demand}, got a single number. Expected 2D array, got scalar array instead. "
            f"Reshape your data: np.reshape({name}, (1, 1)) is one row of one feature."
        )
    if rows.ndim == 1:
        return ValueError(
            f"{demand}, got {rows.shape}. Expected 2D array, got 1D array instead. "
            f"Reshape your data: np.reshape({name}, (1, -1)) is one row, np.reshape({name}, (-1, 1)) one feature."
        )
    return ValueError(
        f"{demand}, got {rows.shape}. Expected 2D array, got {rows.ndim}D array instead. "
        f"Reshape your data: np.reshape({name}, (len({name}), -1)) gives one row for each item."
    )


def _wrong_kind(found: np.dtype[Any], name: str) -> Exception:
    if found.kind == "c":
        return ValueError(f"Complex data not supported: {name} must hold real numbers, got {found}. Pass {name}.real.")
    return TypeError(f"{name} must hold numbers, got dtype {found}. Convert it: np.asarray({name}).astype(float), say.")


def _wrong_value(
    rows: Matrix,
    values: NDArray[Any],
    binarize: float | None,
    name: str,
    first_row: int,
    columns: Sequence[str] | None,
    setting: str,
) -> ValueError:
    """Name the first value, row by row, that is not 0 or 1 (not finite, with a threshold)."""
    fine = (values == 0) | (values == 1) if binarize is None else np.isfinite(values)
    first = int(np.argmin(fine))
    value = values.flat[first]
    if isinstance(rows, np.ndarray):
        row, column = divmod(first, rows.shape[1])
    else:
        row, column = int(np.searchsorted(rows.indptr, first, side="right")) - 1, int(rows.indices[first])
    demand = "only 0 and 1" if binarize is None else "finite numbers"
    found, way_out = str(value), f"Set a threshold ({setting}0.5, say) to turn real values into 0/1."
    if np.isnan(value):
        found = "NaN"
        way_out = "Rows with missing entries can be fitted and imputed, and log_marginal tells how likely what is there is."
    elif np.isinf(value):
        way_out = "Drop or replace infinite values."
    called = f" {columns[column]!r}" if columns is not None and columns[column] else ""
    return ValueError(
        f"{name} must hold {demand}, got {found} at row {first_row + row}, column {column}{called} (counted from 0). {way_out}"
    )


def _ones(values: NDArray[Any], binarize: float | None) -> NDArray[np.bool_] | None:
    """Return where ``values`` are 1, or None if some value is neither 0 nor 1 (not finite, with a threshold)."""
    kind = values.dtype.kind
    if binarize is not None:
        if kind == "f" and not np.isfinite(values).all():
            return None
        with np.errstate(over="ignore"):  # a threshold beyond the range of float16 becomes infinite, as it should
            return values > binarize
    if kind == "b":
        return values
    if values.itemsize == 1:  # no copy, one pass; negative int8 are large uint8
        return values.view(np.bool_) if values.view(np.uint8).max(initial=0) <= 1 else None
    one: NDArray[np.bool_] = values == 1
    return one if ((values == 0) | one).all() else None
