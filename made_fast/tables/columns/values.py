"""One column as it was passed: a 1-D array of booleans, numbers or text, with a mask of what is missing in it.

Anything else (dates, bytes, complex numbers, lists, text beside numbers) is refused here, by the name of its column.

Not here: tables (``frames.py``), what a column's values mean (``learn.py``).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from decimal import Decimal
from difflib import get_close_matches
from functools import lru_cache
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from made_fast.tables.arguments import shown

__all__ = ["Values", "called", "column_number", "known", "of_array", "plain_text", "seen"]

DATES = "Turn dates into numbers (days since a date, the month, the hour), or drop the column."
MIXED = "Make it all numbers or all text: X[column].astype(str), say."
WAYS_OUT = {  # by the kind of a NumPy dtype
    "M": DATES,
    "m": DATES,
    "c": "Pass the real and the imaginary part as two columns.",
    "S": "Decode it to text: .astype(str), say.",
    "V": "Pass its fields as columns of their own.",
}

BASES = {"b": "bool", "i": "int", "u": "int", "f": "float"}


class Values(NamedTuple):
    """The values of a column: bool, any int or float, or an array of objects that are all ``str`` but for missing ones."""

    values: NDArray[Any]
    null: NDArray[np.bool_]  # where a value is missing; what stands there in ``values`` has no meaning
    native: str = ""  # its dtype in the words of the library that it came from
    categories: tuple[Any, ...] | None = None  # that its dtype declares
    ordered: bool = False  # whether these have an order

    @property
    def base(self) -> str:
        """Return "bool", "int", "float" or "text", or "null" if nothing in it says which of these it is."""
        kind = self.values.dtype.kind
        if kind == "O" and self.null.all():
            return "null"
        return BASES.get(kind, "text")

    def masked(self) -> NDArray[Any]:
        """Return the values with NaN or None where one is missing, in an array of objects where the dtype has neither."""
        if not self.null.any():
            return self.values
        out = self.values.copy() if self.values.dtype.kind == "f" else self.values.astype(object)
        out[self.null] = np.nan if out.dtype.kind == "f" else None
        return out


def called(label: str | int) -> str:
    """Return how error texts call a column, by its name or its number."""
    return f"column {shown(label)}" + ("" if isinstance(label, str) else " (counted from 0)")


def known(what: str, among: Sequence[str]) -> str:
    """Return a hint at the name that may be meant, or at those that there are."""
    alike = [name for name in among if name.lower() == what.lower()]
    close = alike or get_close_matches(what[:100], among, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {shown(close[0])}?"
    return f"There are {', '.join(map(shown, among[:8]))}{' ...' if len(among) > 8 else ''}."


def column_number(label: Any, labels: Sequence[str], what: str) -> int:
    """Return the number of the column that a name or a number in an argument means."""
    if isinstance(label, str):
        if label not in labels:
            raise ValueError(f"{what} must name columns of the table, got {shown(label)}. {known(label, labels)}")
        return labels.index(label)
    if not isinstance(label, int | np.integer) or isinstance(label, bool):
        raise TypeError(f"{what} must have names or numbers of columns, got {shown(label)} of type {type(label).__name__}.")
    if not 0 <= label < len(labels):
        raise ValueError(f"{what} must have columns 0..{len(labels) - 1}, got {label}. Columns are counted from 0.")
    return int(label)


def of_array(array: Any, name: str, label: str | int, native: str = "") -> Values:
    """Return a column of a table called ``name`` from an array (n,) of any dtype.

    NaN, None, NA and masked entries are missing. Raises TypeError for what is neither booleans, numbers nor text.
    """
    mask = np.ma.getmaskarray(array) if isinstance(array, np.ma.MaskedArray) else None
    array = np.asarray(array)
    kind = array.dtype.kind
    native = native or _name(array.dtype)
    if kind in WAYS_OUT:
        raise _refused(name, label, f"dtype {array.dtype}", WAYS_OUT[kind])
    if kind == "O" or kind == "T":
        found = _of_objects(array.astype(object, copy=False), name, label, native)
    else:
        if kind == "U":
            array = array.astype(object)
        elif array.dtype == np.longdouble:
            with np.errstate(over="ignore"):  # the largest become infinite
                array = array.astype(np.float64)
        elif not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        null = np.isnan(array) if array.dtype.kind == "f" else np.zeros(array.shape, np.bool_)
        found = Values(array, null, native)
    return found if mask is None else found._replace(null=found.null | mask)


@lru_cache(maxsize=64)
def _name(dtype: np.dtype[Any]) -> str:
    """Return the name of a dtype, which NumPy puts together anew each time: a fifth of what a column of one value costs."""
    return str(dtype)


def seen(value: Any) -> str:
    """Return a value of an array for an error text."""
    return shown(value.item() if isinstance(value, np.generic) else value)


def plain_text(text: str) -> str:
    """Return exactly a ``str`` of what may be of a subclass."""
    return text if type(text) is str else str.__str__(text)


def _of_objects(array: NDArray[Any], name: str, label: str | int, native: str) -> Values:
    """Return objects as an array of the dtype that they share."""
    kinds = set(map(type, array))
    gaps = tuple(kind for kind in kinds if kind is type(None) or kind is _na() or kind.__name__ == "NaTType")
    if not gaps and kinds <= {str}:
        return Values(array, np.zeros(array.shape, np.bool_), native)
    maybe_nan = tuple(kind for kind in kinds if issubclass(kind, float | np.floating | Decimal))
    null = np.fromiter(
        (isinstance(value, gaps) or (isinstance(value, maybe_nan) and value != value) for value in array), np.bool_, len(array)
    )
    present = array[~null]
    kinds = set(map(type, present))
    if all(issubclass(kind, str) for kind in kinds):
        out = np.full(array.shape, None, object)
        out[~null] = [plain_text(text) for text in present]
        return Values(out, null, native)
    odd = next((kind for kind in kinds if not issubclass(kind, str | Real | Decimal | np.bool_)), None)
    if odd is not None or any(issubclass(kind, str | np.timedelta64) for kind in kinds):
        raise _strange(present, null, odd, name, label)
    numbers = _numbers(present, kinds, name, label)
    filled = np.zeros(array.shape, numbers.dtype)
    filled[~null] = numbers
    return Values(filled, null, native)


def _na() -> Any:
    return type(getattr(sys.modules.get("pandas"), "NA", None))


def _numbers(present: NDArray[Any], kinds: set[type], name: str, label: str | int) -> NDArray[Any]:
    """Return objects that are numbers or booleans as an array."""
    if all(issubclass(kind, bool | np.bool_) for kind in kinds):
        return present.astype(np.bool_)
    listed = present.tolist()
    try:
        if all(issubclass(kind, Integral | np.bool_) for kind in kinds):
            least, most = min(listed), max(listed)
            if least >= -(2**63) and most < 2**64 and (least >= 0 or most < 2**63):
                return np.array(listed, np.int64 if most < 2**63 else np.uint64)
        return np.array(list(map(float, listed)), np.float64)
    except OverflowError as error:
        raise _refused(name, label, "an int of hundreds of digits", "Leave out what is no measured number.") from error


def _strange(present: NDArray[Any], null: NDArray[np.bool_], odd: type | None, name: str, label: str | int) -> TypeError:
    """Return the refusal of objects that are neither all text nor all numbers."""
    rows = np.flatnonzero(~null)
    if odd is None:
        text = next(i for i, value in enumerate(present) if isinstance(value, str))
        other = next((i for i, value in enumerate(present) if not isinstance(value, str)), None)
        if other is None or isinstance(present[other], np.timedelta64):
            return _refused(name, label, "time spans", DATES)
        found = (
            f"text ({shown(present[text])} in row {rows[text]}) beside numbers ({shown(present[other])} in row {rows[other]})"
        )
        return _refused(name, label, found, MIXED)
    at = next(i for i, value in enumerate(present) if type(value) is odd)
    way_out = "Drop it, or turn it into columns of numbers or text."
    if odd.__module__.partition(".")[0] in ("datetime", "pandas") or issubclass(odd, np.datetime64 | np.timedelta64):
        way_out = DATES
    elif issubclass(odd, bytes):
        way_out = WAYS_OUT["S"]
    elif issubclass(odd, complex | np.complexfloating):
        way_out = WAYS_OUT["c"]
    return _refused(name, label, f"{shown(present[at])} of type {odd.__name__} in row {rows[at]}", way_out)


def _refused(name: str, label: str | int, found: str, way_out: str) -> TypeError:
    return TypeError(f"{name} must hold numbers, text or booleans, got {found} in {called(label)}. {way_out}")
