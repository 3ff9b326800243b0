"""Objects of other libraries as NumPy arrays: data frames column by column, objects that are numbers, nullable values.

pandas is never imported here: a program that passes one of its objects has imported it. Not here: checks of the result
(``tables/table.py``, ``tables/arguments.py``).
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CONVERSION_ERRORS", "column_names", "numbers", "of_frame", "plain"]

CONVERSION_ERRORS = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, Warning)
"""Errors by which a foreign object refuses its conversion. All others pass through, such as a host's time limit, which its
signal handler raises at any moment."""

AT_ONCE = 1 << 18  # objects that are converted at once: Ctrl-C is answered in between
_CUT = (str, bytes, complex, np.complexfloating, np.datetime64, np.timedelta64)  # NumPy would turn these into numbers


def of_frame(X: Any, name: str) -> NDArray[Any] | None:
    """Return a pandas frame as an array of the smallest dtype that holds the values of all its columns exactly.

    NaN stands for missing values. Returns None for other objects, which NumPy makes an array of.
    """
    frames = getattr(sys.modules.get("pandas"), "DataFrame", ())  # () too while another thread imports pandas
    if type(X) is np.ndarray or not isinstance(X, frames):
        return None
    kinds = set(X.dtypes)
    if len(kinds) <= 1 and all(isinstance(kind, np.dtype) and not kind.hasobject for kind in kinds):
        return np.asarray(X)
    columns = [_column(column, name, label) for label, column in X.items()]
    out = np.empty((len(columns), len(X)), np.result_type(*{column.dtype for column in columns}))
    for row, column in zip(out, columns, strict=True):
        row[:] = column
    return out.T


def column_names(X: Any) -> tuple[str, ...] | None:
    """Return the names of the columns of a data frame (pandas, polars, Arrow), or None if there are none that are text.

    Raises TypeError if only some are text, as scikit-learn does.
    """
    if type(X) is np.ndarray:
        return None
    names = getattr(X, "column_names", None) or getattr(X, "columns", None)  # Arrow's columns are the data themselves
    if names is None or callable(names) or isinstance(names, str) or not hasattr(X, "shape"):
        return None
    listed = list(names)
    texts = [isinstance(name, str) for name in listed]
    if any(texts) and not all(texts):
        raise TypeError(
            "the columns of a table must all have names that are text, or none of them, got both. "
            "Set X.columns = X.columns.astype(str), say."
        )
    return tuple(map(str, listed)) if any(texts) else None


def plain(values: NDArray[Any]) -> NDArray[Any]:
    """Return an array of objects that are all numbers or booleans as an array of those; any other array as it is."""
    if values.dtype != object or not values.size:
        return values
    found = np.array(values.tolist())
    return found if found.dtype.kind in "biuf" and found.shape == values.shape else values


def numbers(values: NDArray[Any], name: str, where: str = "") -> NDArray[np.float64]:
    """Return an array of objects as float64, None and ``pandas.NA`` as NaN; ``where`` goes into the error text."""
    out = np.empty(values.shape)  # a table that is too large is refused before the search
    step = max(1, AT_ONCE // max(1, math.prod(values.shape[1:])))
    for start in range(0, len(values), step):
        _convert(values[start : start + step], out[start : start + step], name, where)
    return out


def _convert(values: NDArray[Any], out: NDArray[np.float64], name: str, where: str) -> None:
    kinds = set(map(type, values.flat))
    cut = tuple(kind for kind in kinds if issubclass(kind, _CUT))
    if cut:
        odd = next(value for value in values.flat if isinstance(value, cut))
        found = "text" if isinstance(odd, str | bytes) else repr(odd)
        raise TypeError(f"{name} must hold numbers, got {found}{where}. Convert it to float, say, or drop it.")
    missing = getattr(sys.modules.get("pandas"), "NA", None)
    if missing is not None and type(missing) in kinds:
        values = np.array([np.nan if value is missing else value for value in values.flat], object).reshape(values.shape)
    try:
        with np.errstate(over="ignore"):  # the largest longdoubles become infinite, and are refused as such
            out[...] = values
    except CONVERSION_ERRORS as error:  # a number's own __float__ may raise any of them
        cause = ValueError if isinstance(error, ValueError | ArithmeticError) else TypeError
        raise cause(f"{name} must hold numbers, got objects that are none{where}: {error}. Convert or drop them.") from error


def _column(column: Any, name: str, label: Any) -> NDArray[Any]:
    """Return a column as numbers."""
    kind, where = column.dtype, f" in column {label!r}"
    exact = getattr(kind, "numpy_dtype", None)  # of a nullable or an Arrow-backed dtype
    if isinstance(exact, np.dtype) and exact.kind in "biuf" and kind.kind == exact.kind:
        if not column.hasnans:
            return np.asarray(column.to_numpy(exact))
        return np.asarray(column.to_numpy(np.result_type(exact, np.float16), na_value=np.nan))
    values = np.asarray(column)
    if values.dtype == object:
        return numbers(values, name, where)
    if values.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold numbers, got dtype {values.dtype}{where}. Convert or drop it.")
    return values
