"""Columns as dicts, lists, numbers and text, as a model file has them, and back: what comes in is checked, every field of it.

Floats come back exactly, as JSON writes their shortest form.

Not here: files (``inference/modelfile.py``), what the fields mean (``schema.py``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast.tables.arguments import shown
from made_fast.tables.columns.bins import MOST_DECIMALS
from made_fast.tables.columns.categories import Categories, Category
from made_fast.tables.columns.frames import KINDS
from made_fast.tables.columns.numeric import LARGEST, WHOLE, Numeric
from made_fast.tables.columns.rebuild import NativeColumn
from made_fast.tables.columns.schema import Column, Columns

__all__ = ["from_json", "to_json"]

MOST_LEVELS = 1 << 20  # of a column
MOST_TEXT = 1 << 16  # characters of a name or a category
MOST_ROWS = 1e18
NUMBERS = re.compile(r"bool|u?int(8|16|32|64)|float(16|32|64)")  # dtypes of columns
TABLES = re.compile(rf"{NUMBERS.pattern}|object|<U[0-9]{{1,6}}")  # dtypes of arrays
NATIVE = re.compile(r"[A-Za-z0-9_<>=|]{1,40}(\[[A-Za-z0-9_.=|<>]{1,40}\])?")  # a library's name of a dtype


def to_json(columns: Columns) -> dict[str, Any]:
    """Return columns as what JSON can hold."""
    return {
        "kind": columns.kind,
        "named": columns.named,
        "dtype": None if columns.dtype is None else columns.dtype.str if columns.dtype.kind == "U" else columns.dtype.name,
        "columns": [
            _written(column)
            | {"native": native.native, "declared": _listed(native.categories), "declared_order": native.ordered}
            for column, native in zip(columns.columns, columns.natives, strict=True)
        ],
    }


def _written(column: Column) -> dict[str, Any]:
    shared = {
        "name": column.name,
        "dtype": column.dtype.name,
        "missing": column.missing,
        "missing_share": column.missing_share,
        "base": column.base,
    }
    if isinstance(column, Categories):
        return shared | {
            "values": list(column.values),
            "counts": column.counts.tolist(),
            "folded": list(column.folded),
            "folded_counts": [] if column.folded_counts is None else column.folded_counts.tolist(),
            "unseen": column.unseen,
            "ordered": column.ordered,
            "spare": column.spare,
        }
    arrays = {key: getattr(column, key).tolist() for key in ("low", "high", "counts", "medians", "means")}
    return (
        shared
        | arrays
        | {"whole": column.whole, "decimals": column.decimals, "step": column.step, "scales": list(column.scales)}
    )


def _listed(values: Sequence[Any] | None) -> list[Any] | None:
    return None if values is None else list(values)


def from_json(found: Any) -> Columns:
    """Return columns from what anybody may have written. Raises ValueError, one line, for what is not sound."""
    table = _Fields(found, "columns")
    listed = table.get("columns", list)
    if not 1 <= len(listed) < 2**31:
        raise table.wrong("columns", "a list of at least one column", listed)
    named, kind = table.get("named", bool), table.get("kind", str)
    dtype = None if table.values.get("dtype") is None else _dtype(table, TABLES)
    if kind not in KINDS:
        raise table.wrong("kind", f"one of {', '.join(KINDS)}", kind)
    fields = [_Fields(each, f"column {j}") for j, each in enumerate(listed)]
    columns = tuple(_numeric(each) if "low" in each.values else _categories(each) for each in fields)
    if len({column.name for column in columns}) < len(columns):
        raise ValueError("the columns must have different names, got one of them more than once")
    return Columns(columns, named, kind, dtype, tuple(map(_native, fields)))


class _Fields:
    """A dict whose fields are checked as they are taken out of it."""

    def __init__(self, values: Any, where: str) -> None:
        self.where = where
        if type(values) is not dict:
            raise ValueError(f"{where} must be a dict of fields, got {shown(values)}")
        self.values = values

    def wrong(self, key: str, demand: str, found: Any) -> ValueError:
        return ValueError(f"{key} of {self.where} must be {demand}, got {shown(found)}")

    def get(self, key: str, kind: type[Any]) -> Any:
        value: Any = self.values.get(key)
        if type(value) is not kind:
            raise self.wrong(key, f"of type {kind.__name__}", value)
        if kind is str and len(value) > MOST_TEXT:
            raise self.wrong(key, f"at most {MOST_TEXT} characters", value)
        return value

    def number(self, key: str, least: float, most: float) -> float:
        value: Any = self.values.get(key)
        if not _is_number(value) or not least <= value <= most:
            raise self.wrong(key, f"a number from {least:g} to {most:g}", value)
        return float(value)

    def count(self, key: str, least: int, most: int) -> int:
        """Return a count, the least one if there is none."""
        value: Any = self.values.get(key, least)
        if type(value) is not int or not least <= value <= most:
            raise self.wrong(key, f"a whole number from {least} to {most}", value)
        return value

    def base(self, n_levels: int) -> int:
        """Return the base of a column of so many levels."""
        base = self.count("base", 1, max(n_levels // 2, 1))
        if n_levels % base:
            raise self.wrong("base", f"a divisor of the number of levels, {n_levels}", base)
        return base

    def numbers(self, key: str, n: int | None, least: float, most: float) -> NDArray[np.float64]:
        listed = self.get(key, list)
        if n is not None and len(listed) != n:
            raise self.wrong(key, f"{n} numbers", listed)
        for value in listed:
            if not _is_number(value) or not least <= value <= most:
                raise self.wrong(key, f"numbers from {least:g} to {most:g}", value)
        return np.array(listed, np.float64)

    def categories(self, key: str, kinds: tuple[type, ...]) -> tuple[Category, ...]:
        listed = self.get(key, list)
        if len(listed) > MOST_LEVELS:
            raise self.wrong(key, f"at most {MOST_LEVELS} values", len(listed))
        for value in listed:
            if type(value) not in kinds or (type(value) is str and len(value) > MOST_TEXT):
                raise self.wrong(key, f"values of type {' or '.join(kind.__name__ for kind in kinds)}", value)
            if type(value) is not str and not (-(2**63) <= value < 2**64 if type(value) is int else isfinite(value)):
                raise self.wrong(key, "finite numbers that a column can hold", value)
        return tuple(listed)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _dtype(fields: _Fields, known: re.Pattern[str]) -> np.dtype[Any]:
    text = fields.get("dtype", str)
    if not known.fullmatch(text):
        raise fields.wrong("dtype", "a dtype of numbers, booleans or text", text)
    found: np.dtype[Any] = np.dtype(text)
    return found


def _native(fields: _Fields) -> NativeColumn:
    native = fields.get("native", str)
    if not NATIVE.fullmatch(native):
        raise fields.wrong("native", "the name of a dtype", native)
    declared = None
    if fields.values.get("declared") is not None:
        declared = fields.categories("declared", (str, bool, int, float))
        if len({type(value) is str for value in declared}) > 1 or len(set(declared)) < len(declared):
            raise fields.wrong("declared", "different values of one type", declared)
    return NativeColumn(native, declared, fields.get("declared_order", bool))


def _categories(fields: _Fields) -> Categories:
    text = fields.values.get("dtype") == "object"
    dtype = np.dtype(object) if text else _dtype(fields, NUMBERS)
    kinds = (str,) if text else {"b": (bool,), "f": (float, int)}.get(dtype.kind, (int,))
    values, folded = fields.categories("values", kinds), fields.categories("folded", kinds)
    if not values or len({*values, *folded}) < len(values) + len(folded):
        raise fields.wrong("values", "at least one, and all of them different", values)
    counts = fields.numbers("counts", len(values), 0, MOST_ROWS)
    folded_counts = fields.numbers("folded_counts", len(folded), 0, MOST_ROWS)
    if folded and not folded_counts.sum():
        raise fields.wrong("folded_counts", "more than 0 together", 0)
    found = Categories(
        fields.get("name", str),
        dtype,
        values,
        counts,
        folded,
        folded_counts if folded else None,
        fields.get("unseen", bool),
        fields.get("ordered", bool),
        fields.get("missing", bool),
        fields.number("missing_share", 0, 1),
        spare=fields.count("spare", 0, MOST_LEVELS if fields.get("unseen", bool) else 0),
    )
    return replace(found, base=fields.base(found.n_levels))


def _numeric(fields: _Fields) -> Numeric:
    dtype, whole = _dtype(fields, NUMBERS), fields.get("whole", bool)
    if dtype.kind == "b" or whole != (dtype.kind in "iu"):
        raise fields.wrong("whole", "true for a dtype of ints, false for one of floats", whole)
    most = WHOLE if whole else 4 * LARGEST  # margins included
    low = fields.numbers("low", None, -most, most)
    n = len(low)
    if not 1 <= n <= MOST_LEVELS:
        raise fields.wrong("low", f"1 to {MOST_LEVELS} numbers", n)
    high = fields.numbers("high", n, -most, most)
    atoms = low == high
    touching = high[:-1] == low[1:]
    if (low > high).any() or (high[:-1] > low[1:]).any() or (touching & (whole | atoms[1:] | atoms[:-1])).any():
        raise fields.wrong(
            "low", "numbers that increase, each at most that of high, which is not above the next", low.tolist()
        )
    if whole and ((low != np.floor(low)).any() or (high != np.floor(high)).any()):
        raise fields.wrong("low", "whole numbers, as high", low.tolist())
    medians, means = (fields.numbers(key, n, -most, most) for key in ("medians", "means"))
    for key, inside in (("medians", medians), ("means", means)):
        if not ((low <= inside) & (inside <= high)).all():
            raise fields.wrong(key, "numbers from low to high", inside.tolist())
    with np.errstate(over="ignore"):
        if (medians.astype(dtype) != medians).any():
            raise fields.wrong("medians", f"numbers that {dtype} holds", medians.tolist())
    decimals = fields.values.get("decimals")
    if decimals is not None and (type(decimals) is not int or not 0 <= decimals <= MOST_DECIMALS):
        raise fields.wrong("decimals", f"null or 0 to {MOST_DECIMALS}", decimals)
    below, above = fields.numbers("scales", 2, float(np.finfo(np.float64).tiny), most).tolist()
    return Numeric(
        fields.get("name", str),
        dtype,
        whole,
        decimals,
        fields.number("step", 0, LARGEST),
        low,
        high,
        fields.numbers("counts", n, 0, MOST_ROWS),
        medians,
        means,
        (below, above),
        missing := fields.get("missing", bool),
        fields.number("missing_share", 0, 1),
        fields.base(n + missing),
    )
