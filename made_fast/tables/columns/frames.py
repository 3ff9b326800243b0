"""Tables of every library, read column by column.

pandas, polars, Arrow and SciPy are never imported to read: a program that passes one of their objects has imported them.
pandas is read as it is; all other frames through narwhals.

Not here: single columns (``values.py``), the way back (``rebuild.py``), sound sparse matrices (``tables/sparse.py``).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast.tables import arrays, sparse
from made_fast.tables.arguments import shown
from made_fast.tables.columns.values import DATES, Values, called, of_array
from made_fast.tables.table import check_not_empty

__all__ = ["KINDS", "Frame", "read"]

KINDS = ("array", "dict", "records", "pandas", "polars", "pyarrow")  # of a table, as ``rebuild.py`` knows them


@dataclass(frozen=True)
class Frame:
    """A table that is read column by column."""

    kind: str
    name: str  # in error texts
    names: tuple[str, ...] | None
    shape: tuple[int, int]
    read: Callable[[int, str | int], Values]
    dtype: np.dtype[Any] | None = None  # of an array of plain numbers

    def column(self, j: int) -> Values:
        """Return column j; raises TypeError, which names it, for what is neither numbers, text nor booleans."""
        return self.read(j, self.label(j))

    def items(self) -> Iterator[tuple[str | int, Values]]:
        """Yield the name, or the number, and the values of each column."""
        return ((self.label(j), self.column(j)) for j in range(self.shape[1]))

    def label(self, j: int) -> str | int:
        """Return the name of a column, or its number if it has none."""
        return self.names[j] if self.names else j


def read(X: Any, name: str = "X", min_rows: int = 1) -> Frame:
    """Return any table as a frame; TypeError or ValueError, which call it ``name``, for what is none.

    ``X`` is a data frame (pandas, polars, Arrow and what else narwhals knows), a mapping of names to arrays (n,), an array
    (n, V) or of records, lists of rows, or a ``scipy.sparse`` matrix. It is not copied as a whole, and never changed.
    """
    if isinstance(X, Frame):
        return X
    frame = _read(X, name)
    check_not_empty(frame.shape, name, min_rows)
    return frame


def _read(X: Any, name: str) -> Frame:
    if isinstance(X, np.ndarray):
        frame = _of_array(X, name)
        return frame if X.dtype.names or X.dtype.hasobject else replace(frame, dtype=X.dtype)
    if isinstance(X, Mapping) and not sparse.is_sparse(X):  # SciPy's dictionaries of keys are mappings
        return _of_mapping(X, name)
    if isinstance(X, getattr(sys.modules.get("pandas"), "DataFrame", ())):
        return _of_pandas(X, name)
    if sparse.is_sparse(X):
        return _of_sparse(X, name)
    if isinstance(X, list | tuple):
        return _of_array(_of_rows(X, name), name)
    if hasattr(X, "__narwhals_dataframe__") or hasattr(X, "__arrow_c_stream__") or type(X).__module__.startswith("polars"):
        return _of_narwhals(X, name)
    try:
        return _of_array(np.asarray(X), name)
    except arrays.CONVERSION_ERRORS as error:
        if isinstance(error, ValueError) and str(error).startswith(f"{name} must"):
            raise
        raise TypeError(
            f"{name} must be a table, got {type(X).__name__}, of which NumPy can make no array ({type(error).__name__}: "
            f"{error}). Pass a data frame, an array (rows, columns) or a dict of columns."
        ) from error


def _of_array(X: NDArray[Any], name: str) -> Frame:
    fields: tuple[str, ...] = X.dtype.names or ()
    if fields and X.ndim == 1:
        return Frame("records", name, fields, (len(X), len(fields)), lambda j, label: of_array(X[fields[j]], name, label))
    if X.ndim != 2:
        found = f"shape {X.shape}" if X.ndim else f"{shown(X.item())} of type {type(X.item()).__name__}"
        cause = ValueError if X.ndim or X.dtype != object else TypeError
        way_out = f"np.reshape({name}, (-1, 1)) is one column" if X.ndim == 1 else "Pass an array (rows, columns)"
        raise cause(f"{name} must be a table of shape (rows, columns), got {found}. Expected 2D array. {way_out}.")
    return Frame("array", name, None, X.shape, lambda j, label: of_array(X[:, j], name, label))


def _of_rows(X: Sequence[Any], name: str) -> NDArray[Any]:
    """Return rows, as lists or tuples, as an array of objects: the columns keep their types."""
    try:
        rows = [list(row) for row in X if not isinstance(row, str | bytes | Mapping)]
    except arrays.CONVERSION_ERRORS:
        rows = []
    widths = Counter(map(len, rows))
    if len(rows) != len(X):
        odd = next((row for row in X if isinstance(row, str | bytes | Mapping) or not hasattr(row, "__iter__")), X)
        raise TypeError(f"{name} must be a table, rows of values, got {shown(odd)} for a row. A dict of columns is one, too.")
    if len(widths) > 1:
        usual = widths.most_common(1)[0][0]
        i = next(i for i, row in enumerate(rows) if len(row) != usual)
        raise ValueError(f"{name} must have rows of one length, got {len(rows[i])} values in row {i} and {usual} in others.")
    out = np.array(rows, object)
    if out.ndim != 2:  # there are lists in it, which NumPy has unpacked
        out = np.empty((len(rows), next(iter(widths), 0)), object)
        for i, row in enumerate(rows):
            for j, value in enumerate(row):
                out[i, j] = value
    return out


def _of_mapping(X: Mapping[Any, Any], name: str) -> Frame:
    columns: list[Any] = []
    for label, values in X.items():
        if not isinstance(label, str):
            raise TypeError(
                f"{name} must be a mapping of names to columns, got {shown(label)} for a name. Convert it: str(name)."
            )
        foreign = hasattr(values, "__array__")
        array = values if isinstance(values, np.ma.MaskedArray) else np.asarray(values, None if foreign else object)
        if array.ndim != 1 or isinstance(values, str | bytes):
            found = f"shape {array.shape}" if array.ndim else shown(values)
            raise ValueError(f"{name} must hold an array of one dimension for each name, got {found} in {called(label)}.")
        columns.append(array)
        if len(array) != len(columns[0]):
            raise ValueError(
                f"{name} must have columns of one length, got {len(array)} in {called(label)} and {len(columns[0])} in "
                f"{called(next(iter(X)))}."
            )
    shape = (len(columns[0]) if columns else 0, len(columns))
    return Frame("dict", name, tuple(X), shape, lambda j, label: of_array(columns[j], name, label))


def _of_sparse(X: Any, name: str) -> Frame:
    sparse.check(X, name)
    table: Any = sparse.canonical_csr(X, name)
    columns = table.tocsc()

    def dense(j: int, label: str | int) -> Values:
        part = slice(*columns.indptr[j : j + 2])
        out = np.zeros(columns.shape[0], columns.dtype)
        out[columns.indices[part]] = columns.data[part]
        return of_array(out, name, label)

    return Frame("array", name, None, table.shape, dense)


def _of_pandas(X: Any, name: str) -> Frame:
    return Frame("pandas", name, arrays.column_names(X), X.shape, lambda j, label: _pandas_column(X.iloc[:, j], name, label))


def _pandas_column(column: Any, name: str, label: str | int) -> Values:
    kind = column.dtype
    native = str(kind)
    if native == "category":
        categories = of_array(np.asarray(kind.categories, object), name, label)
        codes = column.cat.codes.to_numpy()
        null = codes < 0
        values = categories.values[codes] if len(categories.values) else np.full(len(codes), None, object)
        native = f"category[{kind.categories.dtype}]"
        return Values(values, null, native, tuple(categories.values.tolist()), bool(kind.ordered))
    null = column.isna().to_numpy()
    subtype = getattr(kind, "subtype", None)  # of a sparse column
    if isinstance(subtype, np.dtype):
        return of_array(np.asarray(column), name, label, str(subtype))
    exact = getattr(kind, "numpy_dtype", None)  # of a nullable or an Arrow-backed dtype
    if isinstance(exact, np.dtype) and exact.kind in "biuf" and kind.kind == exact.kind and not isinstance(kind, np.dtype):
        return Values(
            column.to_numpy(exact, na_value=exact.type(0).item()) if null.any() else column.to_numpy(exact), null, native
        )
    values = column.to_numpy()
    if values.dtype.kind in "Mm" or native.startswith("period"):
        raise TypeError(f"{name} must hold numbers, text or booleans, got {native} in {called(label)}. {DATES}")
    return of_array(values, name, label, native)


def _of_narwhals(X: Any, name: str) -> Frame:
    import narwhals as nw

    if type(X).__name__ == "RecordBatch":  # of Arrow, which narwhals does not take
        X = sys.modules["pyarrow"].Table.from_batches([X])
    try:
        frame = nw.from_native(X, eager_only=True)
    except TypeError as error:
        raise TypeError(
            f"{name} must be a table in memory, got {type(X).__name__}. Collect it: {name}.collect(), say."
        ) from error
    kind = str(frame.implementation)
    return Frame(
        kind if kind in KINDS else "dict",
        name,
        tuple(frame.columns),
        frame.shape,
        lambda j, label: _narwhals_column(frame[frame.columns[j]], nw, name, label),
    )


def _narwhals_column(column: Any, nw: Any, name: str, label: str | int) -> Values:
    kind = column.dtype
    native = str(kind).partition("(")[0]
    null = column.is_null().to_numpy()
    if kind == nw.Boolean or kind.is_integer():
        values = of_array(column.fill_null(False if kind == nw.Boolean else 0).to_numpy(), name, label, native)
    elif kind.is_float() or kind.is_decimal() or native == "Unknown":
        values = of_array(column.cast(nw.Float64).to_numpy() if kind.is_decimal() else column.to_numpy(), name, label, native)
    elif kind in (nw.String, nw.Categorical, nw.Enum):
        text = column.cast(nw.String).to_numpy()
        values = Values(np.asarray(text, object), null, native)
        if native == "Enum":
            return values._replace(categories=tuple(kind.categories), ordered=True)
        if native == "Categorical":
            return values._replace(categories=())
    else:
        way_out = DATES if kind.is_temporal() else "Drop it, or turn it into columns of numbers or text."
        raise TypeError(f"{name} must hold numbers, text or booleans, got {kind} in {called(label)}. {way_out}")
    return values._replace(null=values.null | null)
