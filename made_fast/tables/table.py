"""A table of 0/1 rows: cast or refused here once, and then passed on as a checked table.

A refusal is worded as in ``arguments.py``, and holds the words that scikit-learn's own checks look for.

Not here: packing of rows (``bits.py``), files (``reading``), data frames as arrays (``arrays.py``), sound sparse matrices
(``sparse.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from made_fast.tables import arrays, names, sparse
from made_fast.tables.sparse import SparseRows

__all__ = ["CHUNK", "UINT8", "Matrix", "MatrixLike", "Table", "check_not_empty", "chunks"]

UINT8 = np.dtype("uint8")  # to look up a type by its name takes 100 ns

CHUNK = 1 << 18  # entries worked on at once: temporaries of one byte an entry then stay in a level-2 cache
MOST_COLUMNS = 2**31 - 1  # places and numbers of units are int32 in the kernels

Matrix: TypeAlias = NDArray[Any] | SparseRows

MatrixLike: TypeAlias = Any
"""What :meth:`Table.of` takes: array-like, data frame or ``scipy.sparse``; no type of NumPy's covers them all."""


class Table:
    """Rows of a table whose shape and kind are checked; their reader checks the values, a chunk at a time.

    ``rows`` are an (n, D) array of bool, any int or any float, or CSR with rising column numbers in every row. Error texts
    call the table ``name`` and count its rows from ``first_row``.
    """

    __slots__ = ("first_row", "name", "rows", "shape")

    def __init__(self, rows: Matrix, name: str = "X", first_row: int = 0) -> None:
        self.rows, self.name, self.first_row = rows, name, first_row
        self.shape: tuple[int, int] = rows.shape

    @classmethod
    def of(
        cls,
        X: MatrixLike,
        n_features: int | None = None,
        *,
        name: str = "X",
        min_rows: int = 1,
        feature_names: Sequence[str] | None = None,
    ) -> Table:
        """Check names, shape and kind of a table; wrong ones raise TypeError or ValueError. A Table is returned as it is.

        ``X`` (rows, features) is an array of any order, strides and byte order, a memmap, lists of lists, a data frame, or in
        any ``scipy.sparse`` format. An array is not copied, a memmap stays on disk, and ``X`` is never changed. It must have
        ``n_features`` columns (None: at least 1), at least ``min_rows`` rows and, if its columns have names, these
        ``feature_names``.
        """
        if isinstance(X, Table):
            return X
        if feature_names is not None:
            names.check(arrays.column_names(X), feature_names, name)
        plain = type(X) is np.ndarray
        by_entry = not plain and sparse.is_sparse(X)
        rows: Any = X if plain or by_entry else _array(X, name)
        if rows.ndim != 2:
            raise _wrong_ndim(rows, n_features, name)
        if by_entry:
            sparse.check(rows, name)
        kind = rows.dtype.kind
        if kind not in "biufO":
            raise _wrong_kind(rows.dtype, name)
        shape = rows.shape
        check_not_empty(shape, name, min_rows)
        width = shape[1]
        if width > MOST_COLUMNS and n_features is None:
            raise ValueError(f"{name} must have at most {MOST_COLUMNS} columns, got shape {rows.shape}. Leave some out.")
        if n_features is not None and width != n_features:
            raise ValueError(
                f"{name} must have shape (rows, {n_features}), got {rows.shape}: {name} has {width} features, but MADE is "
                f"expecting {n_features} features as input. Pass the columns that the model was fitted on."
            )
        if by_entry:
            rows = sparse.canonical_csr(rows, name)
        elif kind == "O":
            rows = arrays.numbers(rows, name)
        return cls(rows, name)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> Table:
        """Return neighbouring rows, which keep their numbers."""
        if part.start == 0 and part.stop == self.shape[0]:
            return self
        return Table(self.rows[part], self.name, self.first_row + part.start)

    def take(self, rows: NDArray[np.intp]) -> Table:
        """Return the rows of these numbers as a table of their own."""
        return Table(self.rows[rows], self.name)

    def joined(self, more: Table) -> Table:
        """Return the rows of this table and of another one as a table of their own."""
        if isinstance(self.rows, np.ndarray) and isinstance(more.rows, np.ndarray):
            return Table(np.concatenate([self.rows, more.rows]), self.name)
        from scipy.sparse import csr_array, vstack  # one of them is of SciPy

        return Table(vstack([csr_array(table.rows) for table in (self, more)], format="csr"), self.name)

    def chunks(self) -> Iterable[tuple[slice, Table]]:
        """Cut the rows into slices of about ``CHUNK`` entries."""
        n, D = self.shape
        if n * D <= CHUNK:
            return [(slice(0, n), self)]
        return ((part, self[part]) for part in chunks(n, D))

    @property
    def may_miss(self) -> bool:
        """Whether an entry may be missing; if not, none needs to be looked at."""
        return self.rows.dtype.kind == "f"

    def one_byte(self, binarize: float | None) -> NDArray[Any] | None:
        """Return the rows if they are 0/1 as they are, of one byte an entry; their reader checks that they are."""
        rows = self.rows
        return rows if binarize is None and isinstance(rows, np.ndarray) and rows.itemsize == 1 else None

    def lone_row(self, binarize: float | None) -> NDArray[np.uint8] | None:
        """Return the only row if it is 0/1 as it is, (1, D) of one byte an entry; its reader checks that it is."""
        row = self.one_byte(binarize) if self.shape[0] == 1 else None
        if row is None or not row.flags.c_contiguous:
            return None
        return row if row.dtype is UINT8 else row.view(UINT8)

    def ones(
        self,
        binarize: float | None = None,
        *,
        missing: bool = False,
        columns: Sequence[str] | None = None,
        setting: str = "binarize=",
    ) -> NDArray[np.bool_]:
        """Return where rows are 1, (n, D) bool, to be read only: it may share memory with ``rows``. Call it on a chunk.

        A value is 1 if it is larger than ``binarize``; None demands 0 and 1. ``missing`` takes NaN, which marks a missing
        entry, for 0. Raises ValueError for the first other value, row by row; its text has the names of the ``columns`` and
        ``setting``, the way to set a threshold.
        """
        rows, values = self.rows, self._values
        if missing and values.dtype.kind == "f":
            values = np.where(np.isnan(values), 0 if binarize is None else binarize, values)
        one = _ones(values, binarize)
        if one is None:
            raise self._wrong_value(values, binarize, columns, setting)
        return one if isinstance(rows, np.ndarray) else _dense(rows, one, binarize is not None and binarize < 0)

    def missing(self) -> NDArray[np.bool_] | None:
        """Return where rows are missing (NaN), (n, D) bool, or None where nothing is. Call it on a chunk."""
        if not self.may_miss or not (nan := np.isnan(self._values)).any():
            return None
        return nan if isinstance(self.rows, np.ndarray) else _dense(self.rows, nan, False)

    def never_observed(self) -> NDArray[np.intp]:
        """Return the numbers of the columns in which every entry is missing."""
        gone = np.ones(self.shape[1], np.bool_)
        for _, rows in self.chunks():
            nan = rows.missing()
            gone &= False if nan is None else nan.all(axis=0)
            if not gone.any():
                break
        return np.flatnonzero(gone)

    @property
    def _values(self) -> NDArray[Any]:
        rows = self.rows
        return rows if isinstance(rows, np.ndarray) else rows.data[: rows.indptr[-1]]

    def _wrong_value(
        self, values: NDArray[Any], binarize: float | None, columns: Sequence[str] | None, setting: str
    ) -> ValueError:
        """Name the first value, row by row, that is not 0 or 1 (not finite, with a threshold)."""
        fine = (values == 0) | (values == 1) if binarize is None else np.isfinite(values)
        first = int(np.argmin(fine))
        value = values.flat[first]
        if isinstance(self.rows, np.ndarray):
            row, column = divmod(first, self.shape[1])
        else:
            row, column = int(np.searchsorted(self.rows.indptr, first, side="right")) - 1, int(self.rows.indices[first])
        demand = "only 0 and 1" if binarize is None else "finite numbers"
        found, way_out = str(value), f"Set a threshold ({setting}0.5, say) to turn real values into 0/1."
        if np.isnan(value):
            found = "NaN"
            way_out = (
                "Rows with missing entries can be fitted and imputed, and log_marginal tells how likely what is there is."
            )
        elif np.isinf(value):
            way_out = "Drop or replace infinite values."
        called = f" {columns[column]!r}" if columns is not None and columns[column] else ""
        at = f"row {self.first_row + row}, column {column}{called} (counted from 0)"
        return ValueError(f"{self.name} must hold {demand}, got {found} at {at}. {way_out}")


def check_not_empty(shape: tuple[int, int], name: str, min_rows: int) -> None:
    """Refuse a table of fewer rows, or without columns; scikit-learn's checks look for the second sentence."""
    n_rows, width = shape
    if n_rows < min_rows or width < 1:
        few_rows = n_rows < min_rows
        n, least, ours, theirs = (n_rows, min_rows, "row(s)", "sample") if few_rows else (0, 1, "column", "feature")
        found = f"Found array with {n} {theirs}(s) (shape={shape}) while a minimum of {least} is required"
        raise ValueError(f"{name} must have at least {least} {ours}. {found}.")


def chunks(n_rows: int, n_features: int) -> Iterator[slice]:
    """Cut ``n_rows`` rows into slices of about ``CHUNK`` entries."""
    step = max(1, CHUNK // n_features)
    return (slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step))


def _dense(rows: SparseRows, values: NDArray[np.bool_], elsewhere: bool) -> NDArray[np.bool_]:
    """Return values at the entries that CSR rows store as (n, D)."""
    dense = np.full(rows.shape, elsewhere)
    dense[np.repeat(np.arange(len(dense)), np.diff(rows.indptr)), rows.indices[: len(values)]] = values
    return dense


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


def _array(X: Any, name: str) -> NDArray[Any]:
    rows = X if isinstance(X, list | tuple) else (X,)
    if any(isinstance(row, np.ma.MaskedArray) and np.ma.is_masked(row) for row in rows):  # np.asarray would strip the mask
        raise ValueError(
            f"{name} must hold no masked entries, got some. Mark missing ones by NaN: {name}.astype(float).filled(np.nan)."
        )
    if (frame := arrays.of_frame(X, name)) is not None:
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
    if rows.ndim == 0 and rows.dtype.kind in "OUS":
        way_out = "Pass an array, a data frame or a scipy.sparse matrix, or made_fast.Chunks of such"
        return TypeError(f"{demand}, got {type(rows.item()).__name__}. {way_out}.")
    found, kind = str(rows.shape), f"{rows.ndim}D"
    way_out = f"np.reshape({name}, (len({name}), -1)) gives one row for each item"
    if rows.ndim == 0:
        found, kind, way_out = "a single number", "scalar", f"np.reshape({name}, (1, 1)) is one row of one feature"
    elif rows.ndim == 1:
        way_out = f"np.reshape({name}, (1, -1)) is one row, np.reshape({name}, (-1, 1)) one feature"
    return ValueError(f"{demand}, got {found}. Expected 2D array, got {kind} array instead. Reshape your data: {way_out}.")


def _wrong_kind(found: np.dtype[Any], name: str) -> Exception:
    if found.kind == "c":
        return ValueError(f"Complex data not supported: {name} must hold real numbers, got {found}. Pass {name}.real.")
    return TypeError(f"{name} must hold numbers, got dtype {found}. Convert it to float, say.")
