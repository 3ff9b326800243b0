"""What the columns of a table are, learned from its rows: kinds, categories, bins.

Booleans and numbers 0 and 1 are binary; text and the categories of a data frame are categorical; other numbers are numeric.
``columns`` says otherwise where that is not what they mean.

Not here: the levels of numbers (``bins.py``), what columns do (``schema.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast.tables import arguments, names
from made_fast.tables.arguments import shown
from made_fast.tables.choices import COLUMN_KINDS, HANDLE_UNKNOWN, MISSING
from made_fast.tables.columns import bins, frames
from made_fast.tables.columns.categories import Categories, Category, distinct
from made_fast.tables.columns.frames import Frame
from made_fast.tables.columns.likeness import orders
from made_fast.tables.columns.numeric import LARGEST, WHOLE, Numeric, real_numbers
from made_fast.tables.columns.rebuild import NativeColumn
from made_fast.tables.columns.schema import Column, Columns
from made_fast.tables.columns.values import Values, called, column_number

__all__ = ["MOST_CATEGORIES", "learn"]

MOST_CATEGORIES = 1 << 16  # levels of a column without ``max_categories``
ROWS_FOR_LIKENESS = 1 << 18
MOST_IN_ONE = 1024  # levels of a column that is one variable
MOST_FOLDED = 256  # times max_categories, different values of a column: with more it numbers rows, or is prose
FEWEST_ROWS = 50  # of which all different texts name them, and are no categories
MOST_DECLARED = 65536  # categories of a dtype that are kept although no row has them


@dataclass(frozen=True)
class _Rules:
    n_bins: int
    max_categories: int | None
    unseen: bool
    missing_value: bool
    weights: NDArray[np.float64] | None
    name: str
    digits: bool


def learn(
    X: Any,
    *,
    columns: Mapping[Any, Any] | None = None,
    categorical_features: Any = "from_dtype",
    n_bins: int | None = None,
    max_categories: int | None = None,
    handle_unknown: str = "error",
    missing: str = "marginal",
    sample_weight: Any = None,
    names: Sequence[str] | None = None,
    name: str = "X",
    digits: bool = True,
) -> Columns:
    """Return the columns of a table.

    Parameters
    ----------
    X
        Any table (see :func:`made_fast.tables.columns.frames.read`).
    columns
        By name or number: "binary", "categorical", "numeric", "ordered" (categories in ascending order), or a list of all
        categories in their order. Of the others it is inferred.
    categorical_features
        As in scikit-learn: "from_dtype", or the names or numbers of columns of categories, or a mask of them.
    n_bins
        Levels of a numeric column, about; None: the square root of the number of rows, or a hundredth of it if that is more,
        8 to 512, and fewer where there are more than 80 columns. A value that more rows than a bin's share have is a level of
        its own.
    max_categories
        Most levels of a categorical column without an order: the rarest categories share one. None: all, up to 65,536.
    handle_unknown
        What a category that training does not show gets later: "error", or "rare", a level with the rarest ones. A binary
        column has no third value; one of more than 1,024 categories always has room for others.
    missing
        "marginal": a missing entry is summed out. "value": it is a level of its own in columns that have such in training.
    sample_weight
        Weights of the rows, (n,), for bins and for which categories are rare.
    names
        Names for the columns of a table that has none.
    name
        What error texts call the table.
    digits
        Whether a column of many levels may be two variables (``tables/digits.py``).
    """
    frame = frames.read(X, name)
    labels = _labels(frame, names)
    weights = arguments.sample_weight(sample_weight, frame.shape[0])
    if weights.size and not ((weights >= 0).all() and weights.sum() > 0):
        raise ValueError(
            "sample_weight must be >= 0, and not 0 for all rows. Drop rows instead of giving them a negative weight."
        )
    rules = _Rules(
        bins.usual(*frame.shape) if n_bins is None else arguments.count(n_bins, "n_bins"),
        None if max_categories is None else arguments.count(max_categories, "max_categories"),
        arguments.choice(handle_unknown, "handle_unknown", HANDLE_UNKNOWN) == "rare",
        arguments.choice(missing, "missing", MISSING) == "value",
        weights if weights.size else None,
        name,
        digits,
    )
    if rules.max_categories == 1:
        raise ValueError("max_categories must be None or an int >= 2, got 1. Drop a column that should have one level.")
    said = _categorical(categorical_features, labels, name) | _said(columns, labels)
    found: list[Column] = []
    natives = []
    for j, label in enumerate(labels):
        values = frame.column(j)
        column = _column(values, label, said.get(j), rules)
        declared = values.categories
        if declared is not None and (len(declared) > MOST_DECLARED or not declared) and isinstance(column, Categories):
            declared = column.values + column.folded
        found.append(column)
        natives.append(NativeColumn(values.native, declared, values.ordered))
    if any(map(_has_free_digits, found)):
        found = _arranged(found, frame)
    return Columns(tuple(found), frame.names is not None or names is not None, frame.kind, frame.dtype, tuple(natives))


def _has_free_digits(column: Column) -> bool:
    return isinstance(column, Categories) and column.base > 1 and not column.ordered


def _arranged(columns: list[Column], frame: Frame) -> list[Column]:
    """Return columns of which those of two digits without an order have their categories by likeness."""
    step = -(-frame.shape[0] // ROWS_FOR_LIKENESS)
    codes = [column.encode(frame.column(j), frame.name, False)[0][::step].copy() for j, column in enumerate(columns)]
    free = {
        v: (len(column.values), column.base)
        for v, column in enumerate(columns)
        if isinstance(column, Categories) and _has_free_digits(column)
    }
    found = list(columns)
    for v, order in orders(codes, [column.n_levels for column in columns], free).items():
        column = columns[v]
        assert isinstance(column, Categories)
        found[v] = replace(column, values=tuple([column.values[level] for level in order]), counts=column.counts[order])
    return found


def _labels(frame: Frame, given: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the columns of a frame: its own, or those that are given, or x0, x1, ..."""
    width = frame.shape[1]
    named = arguments.feature_names(given, width)
    if frame.names is not None and named is not None and tuple(frame.names) != named:
        raise ValueError(f"names are for a table without names, but {frame.name} has names of its own. Leave names out.")
    labels = named or frame.names
    names.check_different(labels)
    return labels or tuple(f"x{j}" for j in range(width))


def _said(columns: Any, labels: Sequence[str]) -> dict[int, Any]:
    out = {}
    for label, kind in arguments.mapping(columns, "columns", " of names or numbers to kinds").items():
        what = f"columns[{shown(label)}]"
        if isinstance(kind, str):
            arguments.choice(kind, what, COLUMN_KINDS)
        elif not isinstance(kind, Sequence | np.ndarray) or isinstance(kind, bytes) or len(kind) == 0:
            demand = f"{what} must be one of {', '.join(map(repr, COLUMN_KINDS))} or a list of all categories in their order"
            raise TypeError(f"{demand}, got {shown(kind)}.")
        out[column_number(label, labels, "columns")] = kind
    return out


def _categorical(given: Any, labels: Sequence[str], name: str) -> dict[int, Any]:
    """Return the columns that ``categorical_features`` says are categorical."""
    what = "categorical_features"
    if given is None or (isinstance(given, str) and given == "from_dtype"):
        return {}
    if isinstance(given, str):
        raise ValueError(f"{what} must be 'from_dtype', or a list of names or numbers, got {shown(given)}. Write [{given!r}].")
    listed = np.asarray(given, object)
    if listed.ndim != 1:
        raise TypeError(f"{what} must be 'from_dtype', or a list of names or numbers, or a mask, got {shown(given)}.")
    flags = [isinstance(flag, bool | np.bool_) for flag in listed]
    if flags and all(flags):
        if len(flags) != len(labels):
            raise ValueError(f"{what} must have one flag for each of the {len(labels)} columns of {name}, got {len(flags)}.")
        listed = np.flatnonzero(listed.astype(np.bool_)).astype(object)
    return {column_number(label, labels, what): "categorical" for label in listed}


def _column(values: Values, label: str, said: Any, rules: _Rules) -> Column:
    """Return what a column is."""
    if values.base == "null" or values.null.all():
        raise ValueError(
            f"{rules.name} must have at least one value in every column, got {called(label)} with nothing but missing ones. "
            "Drop the column."
        )
    numbers = values.base in ("int", "float")
    if numbers and said is None and values.categories is None:
        present = values.values[~values.null]
        zero, one = present == 0, present == 1
        said = "binary" if zero.any() and one.any() and (zero | one).all() else "numeric"
    if isinstance(said, str) and said == "numeric":
        return _numeric(values, label, rules)
    return _categories(values, label, said, rules)


def _rows(values: Values, rules: _Rules, *, every: bool = False) -> tuple[NDArray[Any], NDArray[np.float64] | None, float]:
    """Return values that are there, their weights (1 on average), and the share of missing ones.

    Those without a weight are left out, unless ``every`` one is asked for: a category without one is a category all the same.
    """
    weights = rules.weights
    if weights is None:
        present = values.values[~values.null] if values.null.any() else values.values
        return present, None, float(values.null.mean())
    there = ~values.null & (weights > 0)
    if not there.any():  # all that it has are in rows of weight 0
        there = ~values.null
        weights = np.ones(len(there))
    total, n = float(weights[there].sum()), there.sum()
    there = ~values.null if every else there
    return values.values[there], weights[there] * (n / total), float(1 - total / weights.sum())


def _numeric(values: Values, label: str, rules: _Rules) -> Numeric:
    if values.base == "bool":
        raise TypeError(
            f"columns[{label!r}] must not be 'numeric', got booleans in {called(label)}. Convert it: .astype(int), say."
        )
    x = real_numbers(values, rules.name, label)
    most = WHOLE if values.base == "int" else LARGEST
    far = (x > most) | (x < -most)
    if far.any():
        i = int(np.argmax(far))
        way_out = (
            "Numbers that name things are text: .astype(str); quantities may be floats." if most == WHOLE else "Rescale it."
        )
        raise ValueError(
            f"{rules.name} must hold numbers of at most {most:.6g} in {called(label)}, got {values.values[i]} in row {i}. "
            f"{way_out}"
        )
    del x, far  # a column of very many rows takes as much memory as it must
    present, weights, share = _rows(values, rules)
    missing = rules.missing_value and bool(values.null.any())
    present = present.astype(np.float64, copy=False)
    return bins.numeric(label, values.values.dtype, present, weights, rules.n_bins, missing, share, rules.digits)


def _categories(values: Values, label: str, said: Any, rules: _Rules) -> Categories:
    if values.base == "float" and np.isinf(values.values).any():
        real_numbers(values, rules.name, label)  # refuses it
    present, weights, share = _rows(values, rules, every=True)
    found, place = distinct(present)
    names_rows = len(found) == len(present) and FEWEST_ROWS <= len(found) <= MOST_CATEGORIES and rules.max_categories is None
    if names_rows and said is None and values.base == "text" and values.categories is None:
        raise ValueError(
            f"{rules.name} must hold categories that come again, got {called(label)} with {len(found)} different texts in as "
            f"many rows. Drop a column that names rows; columns={{{label!r}: 'categorical'}} keeps it."
        )
    counts = dict(zip(found, np.bincount(place, weights, minlength=len(found)).tolist(), strict=True))
    kind = said if isinstance(said, str) else None if said is None else "ordered"
    numbers = values.base in ("int", "float")
    listed: list[Category]
    if said is not None and kind != said:
        listed = _listed(said, values, label, set(counts), rules)
    elif values.base == "bool" or (kind == "binary" and numbers and set(counts) <= {0, 1}):
        listed = [False, True] if values.base == "bool" else [type(found[0])(value) for value in (0, 1)]
    elif values.ordered and values.categories:
        listed = [value for value in values.categories if value in counts]
    else:
        listed = sorted(counts)
    if kind == "binary" and len(listed) > 2:
        raise ValueError(
            f"columns[{label!r}] must not be 'binary': {called(label)} has {len(listed)} values, {shown(listed[0])}, "
            f"{shown(listed[1])} and {shown(listed[2])} among them. Use 'categorical'."
        )
    closed = values.base == "bool" or kind == "binary"
    ordered = kind == "ordered" or (kind is None and values.ordered)
    kept, folded = _folded(listed, counts, label, rules, None if ordered else rules.max_categories)
    column = Categories(
        label,
        np.dtype(object) if values.base == "text" else values.values.dtype,
        tuple(kept),
        np.array([counts.get(value, 0.0) for value in kept], np.float64),
        tuple(folded),
        np.array([counts.get(value) or 1.0 for value in folded], np.float64) if folded else None,
        rules.unseen and not closed,
        ordered,
        rules.missing_value and bool(values.null.any()),
        share,
    )
    return _in_two_digits(column) if rules.digits and column.n_levels > MOST_IN_ONE else column


def _in_two_digits(column: Categories) -> Categories:
    """Return a column whose levels have two digits, with levels for unseen values, as many as fill up the last high digit."""
    column = replace(column, unseen=True)
    n, root = column.n_levels, column.n_levels**0.5
    base = min(range(round(0.7 * root), round(1.4 * root) + 1), key=lambda base: (-n % base, abs(base - root)))
    return replace(column, base=base, spare=-n % base)


def _listed(said: Any, values: Values, label: str, there: set[Any], rules: _Rules) -> list[Category]:
    """Return the categories that ``columns`` lists, all that there are among them."""
    demand = f"columns[{label!r}] must list different values"
    listed = [value.item() if isinstance(value, np.generic) else value for value in said]
    text = values.base == "text"
    for value in listed:
        if isinstance(value, str) != text or not isinstance(value, str | int | float) or value != value:
            raise TypeError(
                f"{demand} of the column's type, got {shown(value)} where it holds {'text' if text else 'numbers'}."
            )
    if len(set(listed)) < len(listed):
        raise ValueError(f"{demand}, got one of them more than once.")
    absent = there.difference(listed)
    if absent and not rules.unseen:
        raise ValueError(
            f"{demand}, all that {called(label)} has, got none that is {shown(min(absent))}. "
            "Add it, or set handle_unknown='rare'."
        )
    return listed


def _folded(
    listed: list[Category], counts: dict[Category, float], label: str, rules: _Rules, most: int | None
) -> tuple[list[Category], list[Category]]:
    """Return the categories that keep a level, in their order, and those that share one."""
    n = len(listed)
    limit = MOST_CATEGORIES if most is None else MOST_FOLDED * most
    if n > limit:
        way_out = "max_categories=100, say, lets the rarest share a level; d" if most is None else "D"
        raise ValueError(
            f"{rules.name} must have at most {limit} different values in a categorical column, got {n} in {called(label)}. "
            f"{way_out}rop a column that names rows; columns={{{label!r}: 'numeric'}} if it holds quantities."
        )
    if most is None or n <= most:
        return listed, []
    ranked = sorted(range(n), key=lambda i: (-counts.get(listed[i], 0.0), i))
    kept = set(ranked[: most - 1])
    return [v for i, v in enumerate(listed) if i in kept], [v for i, v in enumerate(listed) if i not in kept]
