"""Tables of 0/1 rows: cast or refused here.

Every public method hands what it was given to a function of this file and trusts what comes back; nothing below checks
again. A refusal says the name, the demand, what was found, and the way out: ``TypeError`` for a wrong type, ``ValueError``
for a wrong value. Where scikit-learn's own checks look for certain words, the texts hold those words.

Not here: packing of rows (:mod:`made_fast.data`), files (:mod:`made_fast.datasets`), defaults (the estimator). SciPy and
pandas are recognised by what their objects can do and are never imported.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray

__all__ = ["Matrix", "MatrixLike", "SparseRows", "is_sparse", "matrix", "missing", "ones"]

IntVector = NDArray[np.int32]


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
    return not isinstance(X, np.ndarray) and hasattr(X, "tocsr")


def matrix(X: MatrixLike, n_features: int | None = None, *, name: str = "X", min_rows: int = 1) -> Matrix:
    """Check the shape and the kind of a table; its values are checked chunk by chunk in :func:`ones`.

    Parameters
    ----------
    X : array-like or sparse of shape (rows, features)
        An array of any order, strides and byte order, a memmap, lists of lists, a data frame, any ``scipy.sparse`` format.
    n_features : int, optional
        The width demanded; None takes any from 1 on.
    name : str
        What the caller calls ``X``; error texts start with it.
    min_rows : int
        Fewest rows.

    Returns
    -------
    ndarray or CSR
        A view of ``X`` where it is an array; a memmap stays on disk. Sparse input as CSR with sorted column numbers and no
        duplicates (summed). ``X`` itself is never changed.
    """
    sparse = is_sparse(X)
    rows: Any = X if sparse or type(X) is np.ndarray else _array(X, name)
    if rows.ndim != 2:
        raise _wrong_ndim(rows, n_features, name)
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
    if n_features is not None and width != n_features:
        raise ValueError(
            f"{name} must have shape (rows, {n_features}), got {rows.shape}: {name} has {width} features, but MADE is "
            f"expecting {n_features} features as input. Pass the columns that the model was fitted on."
        )
    return _canonical_csr(rows) if sparse else rows


def ones(
    rows: Matrix, binarize: float | None = None, name: str = "X", first_row: int = 0, *, missing: bool = False
) -> NDArray[np.bool_]:
    """Return where a chunk of rows is 1; refuse what is neither 0 nor 1.

    Parameters
    ----------
    rows : (n, D) array or CSR
        A chunk of what :func:`matrix` returned. Bool, any int, any float, or objects that are numbers.
    binarize : float, optional
        A value is 1 if it is larger than this. None demands values that are exactly 0 or 1. Infinity is always refused.
    name, first_row
        What the error text calls the table, and the number of the chunk's first row in it.
    missing : bool
        Take NaN, which marks a missing entry, for 0 (see :func:`missing`); otherwise it is refused.

    Returns
    -------
    (n, D) bool
        May share memory with ``rows``: to be read only.
    """
    values = rows if isinstance(rows, np.ndarray) else rows.data[: rows.indptr[-1]]
    if values.dtype == object:
        values = _numbers(values, name)
    if missing and values.dtype.kind == "f":
        values = np.where(np.isnan(values), 0 if binarize is None else binarize, values)
    one = _ones(values, binarize)
    if one is None:
        raise _wrong_value(rows, values, binarize, name, first_row)
    if isinstance(rows, np.ndarray):
        return one
    dense = np.full(rows.shape, binarize is not None and binarize < 0, dtype=np.bool_)
    dense[np.repeat(np.arange(len(dense)), np.diff(rows.indptr)), rows.indices[: len(one)]] = one
    return dense


def missing(rows: Matrix, name: str = "X") -> NDArray[np.bool_] | None:
    """Return where a chunk of rows is missing (NaN), (n, D) bool, or None where nothing is."""
    values = rows if isinstance(rows, np.ndarray) else rows.data[: rows.indptr[-1]]
    if values.dtype == object:
        values = _numbers(values, name)
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


def _canonical_csr(X: Any) -> SparseRows:
    csr = X.tocsr()
    if not csr.has_canonical_format:
        csr = csr.copy()
        csr.sum_duplicates()
    return csr  # type: ignore[no-any-return]


def _array(X: Any, name: str) -> NDArray[Any]:
    if isinstance(X, np.ndarray) and np.any(getattr(X, "mask", False)):  # numpy.ma, which np.asarray would strip in silence
        raise ValueError(f"{name} must hold no masked entries. Mark missing ones by NaN: {name}.astype(float).filled(np.nan).")
    try:
        return np.asarray(X)
    except ValueError as error:
        raise ValueError(
            f"{name} must have shape (rows, features), got rows that form no table ({error}). Give every row the same length."
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


def _wrong_value(rows: Matrix, values: NDArray[Any], binarize: float | None, name: str, first_row: int) -> ValueError:
    """Name the first value, row by row, that is not 0 or 1 (not finite, with a threshold)."""
    fine = (values == 0) | (values == 1) if binarize is None else np.isfinite(values)
    first = int(np.argmin(fine))
    value = values.flat[first]
    if isinstance(rows, np.ndarray):
        row, column = divmod(first, rows.shape[1])
    else:
        row, column = int(np.searchsorted(rows.indptr, first, side="right")) - 1, int(rows.indices[first])
    demand = "only 0 and 1" if binarize is None else "finite numbers"
    found, way_out = str(value), "Set a threshold (binarize=0.5, say) to turn real values into 0/1."
    if np.isnan(value):
        found = "NaN"
        way_out = "Rows with missing entries can be fitted and imputed, and log_marginal tells how likely what is there is."
    elif np.isinf(value):
        way_out = "Drop or replace infinite values."
    return ValueError(
        f"{name} must hold {demand}, got {found} at row {first_row + row}, column {column} (counted from 0). {way_out}"
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


def _numbers(values: NDArray[Any], name: str) -> NDArray[np.float64]:
    """Convert an array of objects; NumPy alone would take text for numbers."""
    if any(isinstance(value, str | bytes) for value in values.flat):
        raise TypeError(f"{name} must hold numbers, got text. Convert it: {name}.astype(float), say.")
    try:
        return values.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        cause = TypeError if isinstance(error, TypeError) else ValueError
        raise cause(f"{name} must hold numbers, got objects that are none: {error}. Convert or drop them.") from error
