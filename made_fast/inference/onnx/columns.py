"""The columns of a table in an ONNX graph: from raw values, one input a column, to levels and the log-density within them.

Columns of one sort go through the same few nodes together. What is missing and no level, or is refused by the model, gets the
level -1. Not here: levels as inputs of a network (``export.py``), what columns mean (``tables/columns``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from made_fast.inference.onnx.graph import TEXT, Graph, unicode
from made_fast.tables.columns.categories import Categories
from made_fast.tables.columns.numeric import FARTHEST, WHOLE, Numeric
from made_fast.tables.columns.schema import Column, Columns
from made_fast.tables.columns.values import called

__all__ = ["Encoding", "declare", "encode"]

Floats = NDArray[np.float64]

LARGEST = np.array(np.finfo(np.float64).max)


class Encoding(NamedTuple):
    """Values of the graph: the levels of columns, (N, V) int64, and the log-density of whole rows within them, (N, 1)."""

    levels: str
    log_density: str | None


class Table(NamedTuple):
    """The columns of a table, and the inputs of a graph that they come in by."""

    columns: tuple[Column, ...]
    inputs: tuple[str, ...]
    dtypes: tuple[np.dtype[Any], ...]

    def facts(self) -> list[dict[str, Any]]:
        """Return what a reader of the file should know of each column."""
        return [
            {"name": column.name, "input": name, "kind": column.kind, "values": _listed(column)}
            for column, name in zip(self.columns, self.inputs, strict=True)
        ]


def declare(g: Graph, columns: Columns, of: str = "column") -> Table:
    """Add an input (N, 1) for each column. Raises ValueError, which names the column, for what no graph can tell apart."""
    dtypes = tuple(_dtype(column) for column in columns.columns)
    inputs = tuple(
        g.input(column.name, dtype, 1, f"{of} {column.name!r}: {column.describe()}; {_gaps(column, dtype)}")
        for column, dtype in zip(columns.columns, dtypes, strict=True)
    )
    return Table(columns.columns, inputs, dtypes)


def encode(g: Graph, table: Table) -> Encoding:
    """Return the levels of a table's columns; None for the log-density where it is 0 always."""
    each = list(zip(table.columns, table.inputs, table.dtypes, strict=True))
    groups: dict[str, list[int]] = {}
    for v, (column, _, dtype) in enumerate(each):
        sort = "numeric" if isinstance(column, Numeric) else "text" if dtype == TEXT else dtype.kind.replace("b", "i")
        groups.setdefault(sort, []).append(v)
    levels, densities = [], []
    for sort, members in groups.items():
        own = [each[v] for v in members]
        found = (_numbers if sort == "numeric" else _categories)(g, own)
        levels.append(found.levels)
        densities += [found.log_density] if found.log_density else []
    order = np.argsort(np.concatenate(list(groups.values())))
    total = g.total(g.join(densities), 1) if densities else None
    return Encoding(g("Gather", g.join(levels), order, axis=1), total)


def _dtype(column: Column) -> np.dtype[Any]:
    """Return the dtype of a column's input: that of training, in 64 bits where these are ints; float64 for ints with gaps."""
    if isinstance(column, Categories) and column.text:
        return TEXT
    kind, gaps = column.dtype.kind, column.missing or column.missing_share > 0
    dtype = column.dtype if kind == "f" or (kind == "b" and not gaps) else np.dtype(np.float64 if gaps else np.int64)
    if isinstance(column, Categories) and kind in "iu":
        most = max(abs(int(value)) for value in column.levels)
        if most > (WHOLE if gaps else 2**63 - 1):
            raise ValueError(
                f"{called(column.name)} must hold numbers that {dtype} tells apart, got categories up to {most}. "
                "Make it text before the fit: X[column].astype(str), say."
            )
    return dtype


def _gaps(column: Column, dtype: np.dtype[Any]) -> str:
    """Return how a missing entry is written, and what comes of it."""
    if isinstance(column, Categories) and dtype == TEXT:
        if "" in column.levels:
            return "no entry may be missing, for '' is a category"
        return "'' is missing" + ("" if column.missing else ", which makes log_p NaN")
    if dtype.kind != "f":
        return "no entry may be missing"
    return "NaN is missing" + ("" if column.missing else ", which makes log_p NaN")


def _listed(column: Column) -> list[Any]:
    """Return what the levels stand for: a category, or the median of a bin; None for missing and unseen ones."""
    return [None if value is None or value != value else value for value in column.level_values().tolist()]


def _categories(g: Graph, group: Sequence[tuple[Any, str, np.dtype[Any]]]) -> Encoding:
    """Look up the level of each value, and the logarithm of its share of that, by its number among all known values."""
    tables = [_known(column) for column, *_ in group]
    starts = np.cumsum([0, *(len(levels) for _, levels, _ in tables)])[:-1]
    if group[0][2] == TEXT:
        found = [_texts(g, column, name, start) for (column, name, _), start in zip(group, starts, strict=True)]
        number = g.join(found)
    else:
        dtype = np.dtype(np.float64 if group[0][2].kind == "f" else np.int64)
        x = g.join([g.cast(name, dtype) for _, name, _ in group])
        keys = [np.array(known, dtype) for known, *_ in tables]
        n = np.array([len(known) for known in keys])
        flat, first = np.concatenate(keys), np.cumsum([0, *n])[:-1]
        at = g("Min", search(g, x, keys), n - 1)
        same = g("Equal", g("Gather", flat, g("Add", at, first)), x)
        number = g("Where", same, at, n)
        if dtype.kind == "f":
            number = g("Where", g("IsNaN", x), n + 1, number)
        number = g("Add", number, starts)
    levels = g("Gather", np.concatenate([levels for _, levels, _ in tables]), number)
    shares = np.concatenate([shares for *_, shares in tables])
    return Encoding(levels, g("Gather", shares, number) if shares.any() else None)


def _known(column: Categories) -> tuple[list[Any], NDArray[np.int64], Floats]:
    """Return the values of a column in ascending order; the level of each, of others and of missing ones; log shares."""
    values = sorted(column.levels)
    # Of several levels for unseen values, a checksum of the text chooses one, which no node computes.
    unseen = len(column.values) if column.unseen and not column.spare else -1
    gap = column.n_levels - 1 if column.missing else -1
    levels = np.array([*(column.levels[value] for value in values), unseen, gap])
    shares = np.zeros(len(levels))
    if column.folded:
        with np.errstate(divide="ignore"):
            shares[:-1] = np.log([*map(column.share, values), column.unseen_share])
    return values, levels, shares


def _texts(g: Graph, column: Categories, name: str, start: int) -> str:
    values = sorted(map(str, column.levels))
    keys = values if "" in column.levels else [*values, ""]
    numbers = np.arange(len(values)).tolist() + [len(values) + 1] * (len(keys) - len(values))
    return g(
        "LabelEncoder",
        name,
        keys_strings=[unicode(key).encode() for key in keys],
        values_int64s=[start + number for number in numbers],
        default_int64=int(start + len(values)),
    )


def _numbers(g: Graph, group: Sequence[tuple[Any, str, np.dtype[Any]]]) -> Encoding:
    """Return the levels of numbers and the log-density within them: see ``Numeric.encode``."""
    columns: list[Numeric] = [column for column, *_ in group]
    x = g.join([g.cast(name, np.float64) for _, name, _ in group])
    valid = g("LessOrEqual", g("Abs", x), LARGEST)  # neither NaN nor infinite
    whole = np.array([column.whole for column in columns])
    if whole.any():
        valid = g("And", valid, g("Or", g("Equal", g("Floor", x), x), ~whole))
    x_safe = g("Where", valid, x, np.array([column.medians[0] for column in columns]))
    level = search(g, x_safe, [column.cells.borders for column in columns])
    starts = np.cumsum([0, *(len(column.low) for column in columns)])[:-1]
    at = g("Add", level, starts)

    def look_up(parts: Sequence[Floats]) -> str:
        return g("Gather", np.concatenate(parts), at)

    density = look_up([column.cells.log_core for column in columns])
    ends = ([column.low for column in columns], [column.high for column in columns])
    for side, values in enumerate(ends):
        end = look_up(values)
        far = g("Sub", g("Abs", g("Sub", x_safe, end)), whole.astype(np.float64))
        scales = [np.where(np.isinf(column.cells.sizes[side]), column.scales[side], np.inf) for column in columns]
        far = g("Min", g("Div", far, look_up(scales)), np.array(FARTHEST))
        beside = g("Sub", look_up([column.cells.log_sides[side] for column in columns]), far)
        density = g("Where", g(("Less", "Greater")[side], x_safe, end), beside, density)
    missing = np.array([len(column.low) if column.missing else -1 for column in columns])
    gone = g("Where", g("IsNaN", x), missing, np.array(-1))
    return Encoding(g("Where", valid, level, gone), g("Where", valid, density, np.array(0.0)))


def search(g: Graph, x: str, sorted_values: Sequence[NDArray[Any]]) -> str:
    """Return how many of a column's values are below each number of x (N, V), int64: ``np.searchsorted``.

    The values of a column are cut into blocks: those that end below a number are counted, then the values of the next block.
    """
    V, most = len(sorted_values), max(map(len, sorted_values))
    width = max(1, int(np.ceil(np.sqrt(most))))
    n_blocks = max(1, -(-most // width))
    dtype = sorted_values[0].dtype
    table = np.full((V, n_blocks * width), np.inf if dtype.kind == "f" else np.iinfo(dtype).max, dtype)
    for row, values in zip(table, sorted_values, strict=True):
        row[: len(values)] = values
    blocks = table.reshape(V * n_blocks, width)
    column = g("Unsqueeze", x, np.array([2]))

    def below(values: Any) -> str:
        return g.total(g.cast(g("Less", values, column), np.int64), 2, keep=False)

    block = below(blocks[:, -1].reshape(V, n_blocks)[:, :-1])
    within = below(g("Gather", blocks, g("Add", block, n_blocks * np.arange(V))))
    return g("Add", g("Mul", block, np.array(width)), within)
