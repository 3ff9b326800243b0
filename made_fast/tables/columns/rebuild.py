"""Columns as a table again, of the kind and with the dtypes that the table of training had.

Its library is imported here, by the name that was noted; where it is not there, the table is a dict of arrays.

Not here: reading of tables (``frames.py``).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["NativeColumn", "rebuild"]


@dataclass(frozen=True)
class NativeColumn:
    """What is needed to make a column again as it was: its dtype in its library's words and the categories of that."""

    native: str
    categories: tuple[Any, ...] | None = None
    ordered: bool = False


def rebuild(
    kind: str,
    dtype: np.dtype[Any] | None,
    names: Sequence[str] | None,
    natives: Sequence[NativeColumn],
    columns: Sequence[NDArray[Any]],
    index: Any = None,
) -> Any:
    """Return columns as a table of a kind, or as a dict of them where the library of that is not there."""
    labels: Sequence[str | int] = names or range(len(columns))
    if kind == "array":
        shared = _shared_dtype(dtype, columns)
        out = np.empty((len(columns[0]), len(columns)), shared)
        for j, column in enumerate(columns):
            out[:, j] = column
        return out
    if kind == "records":
        kinds = [
            (str(label), _shared_dtype(np.dtype(n.native), [c])) for label, n, c in zip(labels, natives, columns, strict=True)
        ]
        records = np.empty(len(columns[0]), kinds)
        for label, column in zip(labels, columns, strict=True):
            records[str(label)] = column
        return records
    try:
        if kind == "pandas":
            return _to_pandas(importlib.import_module("pandas"), labels, natives, columns, index)
        if kind in ("polars", "pyarrow"):
            importlib.import_module(kind)
            return _to_narwhals(importlib.import_module("narwhals"), kind, labels, natives, columns)
    except ImportError:
        pass
    return {str(label) if names else f"x{label}": column for label, column in zip(labels, columns, strict=True)}


def _shared_dtype(dtype: np.dtype[Any] | None, columns: Sequence[NDArray[Any]]) -> np.dtype[Any]:
    """Return a dtype for columns together: that of training if it has room for what is missing in them."""
    found = [column.dtype for column in columns]
    if any(kind.hasobject for kind in found):
        if dtype is not None and dtype.kind in "UT" and not any(value is None for c in columns for value in c):
            return dtype
        return np.dtype(object)
    if len({kind.kind == "b" for kind in found}) > 1:  # NumPy would make numbers of booleans
        return np.dtype(object)
    if dtype is not None and all(np.can_cast(kind, dtype, "same_kind") for kind in found):
        return dtype
    return np.result_type(*found)


def _to_pandas(
    pd: Any, labels: Sequence[str | int], natives: Sequence[NativeColumn], columns: Sequence[NDArray[Any]], index: Any
) -> Any:
    made = []
    for native, column in zip(natives, columns, strict=True):
        dtype: Any = native.native
        if dtype.startswith("category"):
            kind = dtype[len("category[") : -1]
            categories = pd.Index(np.array(native.categories, object)).astype(kind)
            dtype = pd.CategoricalDtype(categories, ordered=native.ordered)
        elif dtype.endswith("[pyarrow]"):
            try:
                dtype = pd.ArrowDtype(importlib.import_module("pyarrow").type_for_alias(dtype.removesuffix("[pyarrow]")))
            except (ImportError, ValueError):
                dtype = None
        values = pd.Series(column, index=index, dtype=object if column.dtype.hasobject else None)
        if dtype is None or (dtype == "bool" and values.isna().any()):  # which it would turn into False
            made.append(values)
            continue
        try:
            made.append(values.astype(dtype))
        except (TypeError, ValueError, ImportError):  # no room for what is missing, or Arrow is not there
            made.append(values)
    out = pd.concat(made, axis=1) if made else pd.DataFrame(index=index)
    out.columns = list(labels)
    return out


def _to_narwhals(
    nw: Any, kind: str, labels: Sequence[str | int], natives: Sequence[NativeColumn], columns: Sequence[NDArray[Any]]
) -> Any:
    made = []
    for label, native, column in zip(labels, natives, columns, strict=True):
        if column.dtype.kind == "f":
            values = [None if value != value else value for value in column.tolist()]
        else:
            values = column.tolist()
        dtype = nw.Enum(native.categories) if native.native == "Enum" else getattr(nw, native.native, None)
        if dtype is not None and native.native.startswith(("Int", "UInt")):
            values = [None if value is None else int(value) for value in values]
        made.append(nw.new_series(str(label), values, dtype, backend=kind))
    return made[0].to_frame().with_columns(*made[1:]).to_native()
