"""What conditions leave of a column: sets of values, intersected exactly, and the share of each level that is in them.

Not here: the text of a query (``query.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import inf, isnan
from numbers import Real
from operator import ge, gt, le, lt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from made_fast.tables.arguments import shown
from made_fast.tables.columns.categories import Categories, Category
from made_fast.tables.columns.numeric import Interval, Numeric
from made_fast.tables.columns.schema import Column
from made_fast.tables.columns.values import called, plain_text

__all__ = ["Condition", "Weights", "weights"]

NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?inf", re.I)
LINE = [Interval(-inf, inf)]

Weights = NDArray[np.float64]


class Condition(NamedTuple):
    """What one condition demands of column v.

    ``operator`` is one of ``= != < <= > >=``, "in", "not in", "range", "not range", "null" and "not null".
    """

    v: int
    operator: str
    values: tuple[Any, ...]  # of "range" two, either of which may be None


def weights(column: Column, demands: list[Condition], null: bool, not_null: bool) -> Weights:
    """Return the share of each level of a column that all demands leave."""
    out = np.zeros(column.n_levels)
    if null and (demands or not_null):  # no missing value satisfies any other condition
        return out
    if not null:
        if isinstance(column, Numeric):
            intervals = LINE
            for demand in demands:
                intervals = _both(intervals, _intervals(column, demand))
            out[: column.n_ordered] = sum((column.mass(each) for each in intervals), np.zeros(column.n_ordered))
        else:
            kept: set[Category] | None = None  # only these
            gone: set[Category] = set()  # all but these
            for demand in demands:
                values, others = _categories(column, demand)
                if others:
                    gone |= values
                else:
                    kept = values if kept is None else kept & values
            out = column.weights(gone, others=True) if kept is None else column.weights(kept - gone)
    if column.missing:
        out[-1] = null
    return np.clip(out, 0, 1)


def _number(value: Any, column: Column) -> float:
    if isinstance(value, str) and NUMBER.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, Real) or isnan(value):
        raise ValueError(f"a query must have a number for {called(column.name)}, got {shown(value)}.")
    number = float(value)
    if column.dtype.kind == "f" and np.isfinite(number):
        with np.errstate(over="ignore"):
            number = float(column.dtype.type(number))
    return number


def _intervals(column: Numeric, demand: Condition) -> list[Interval]:
    """Return the numbers that satisfy a demand, as intervals in ascending order."""
    operator, values = demand.operator, demand.values
    if operator.endswith("range"):
        low, high = (end if value is None else _number(value, column) for value, end in zip(values, (-inf, inf), strict=True))
        inside = [Interval(low, high)] if low <= high else []
        return _complement(inside) if operator.startswith("not") else inside
    numbers = sorted({_number(value, column) for value in values})
    if operator in ("=", "in"):
        for number in numbers:
            column.check_single(number)
    if operator in ("=", "!=", "in", "not in"):
        points = [Interval(number, number) for number in numbers]
        return points if operator in ("=", "in") else _complement(points)
    closed = operator.endswith("=")
    return [Interval(-inf, numbers[0], True, closed) if operator[0] == "<" else Interval(numbers[0], inf, closed, True)]


def _complement(intervals: Iterable[Interval]) -> list[Interval]:
    """Return all numbers that are not in these intervals, which are in ascending order."""
    out, low, low_in = [], -inf, True
    for each in intervals:
        out.append(Interval(low, each.low, low_in, not each.low_in))
        low, low_in = each.high, not each.high_in
    return [*out, Interval(low, inf, low_in, True)]


def _both(one: list[Interval], other: list[Interval]) -> list[Interval]:
    """Return what is in both of two lists of intervals in ascending order."""
    out = []
    i = j = 0
    while i < len(one) and j < len(other):
        a, b = one[i], other[j]
        low, low_out = max((a.low, not a.low_in), (b.low, not b.low_in))
        high, high_in = min((a.high, a.high_in), (b.high, b.high_in))
        if low < high or (low == high and not low_out and high_in):
            out.append(Interval(low, high, not low_out, high_in))
        if (a.high, a.high_in) <= (b.high, b.high_in):
            i += 1
        else:
            j += 1
    return out


def _categories(column: Categories, demand: Condition) -> tuple[set[Category], bool]:
    """Return categories, and whether it is all others that satisfy a demand."""
    operator, values = demand.operator, demand.values
    if operator in ("=", "!=", "in", "not in"):
        return {column.find(_category(value, column)) for value in values}, operator not in ("=", "in")
    if column.text and not column.ordered:
        raise ValueError(
            f"a query must have = or in for {called(column.name)}, whose values have no order, got a bound. "
            "columns={name: 'ordered'} at fit, or a list of the values in order, gives them one."
        )
    place = {value: i if column.text else float(value) for i, value in enumerate((*column.values, *column.folded))}
    ends: list[Any] = []
    for value in values:
        if column.text:
            ends.append(None if value is None else place[column.find(_category(value, column))])
        else:
            ends.append(None if value is None else _number(value, column))
    if operator.endswith("range"):
        low, high = (end if given is None else given for given, end in zip(ends, (-inf, inf), strict=True))
        inside = {value for value, at in place.items() if low <= at <= high}
        return inside if not operator.startswith("not") else set(place) - inside, False
    compare = {"<": lt, "<=": le, ">": gt, ">=": ge}[operator]
    return {value for value, at in place.items() if compare(at, ends[0])}, False


def _category(value: Any, column: Categories) -> Category:
    """Return a value as the categories of a column are written."""
    if column.text:
        if not isinstance(value, str):
            raise TypeError(f"a query must have text for {called(column.name)}, got {shown(value)}.")
        return plain_text(value)
    if column.dtype.kind == "b":
        word = {"true": True, "false": False, "1": True, "0": False}.get(str(value).lower())
        if word is None:
            raise ValueError(f"a query must have true or false for {called(column.name)}, got {shown(value)}.")
        return word
    return _number(value, column)
