"""The models in service: loaded, under names, with what their doors need; and what is told of them.

A table that a model gives back is a dict of columns here, whatever library the table of training was of: no library is
imported to answer.

Not here: what is asked of them (``doors.py``, ``v2.py``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast.inference.density import Density, log_p_observed
from made_fast.inference.loading import load
from made_fast.inference.tablemodel import TableModel
from made_fast.tables import names
from made_fast.tables.arguments import shown
from made_fast.tables.columns import frames
from made_fast.tables.columns.categories import Categories
from made_fast.tables.columns.encoder import Encoder
from made_fast.tables.columns.schema import Column, Columns
from made_fast.tables.table import Table

__all__ = ["Prepared", "Served", "load_all", "named"]

MOST_SHOWN = 1000
"""Categories of a column, and levels, that a description lists."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """Checked rows of one request, which wait for their score.

    ``within`` (n,) is their log-density within their levels, 0 for rows of 0/1; ``n_gaps`` of them miss something.
    """

    table: Table
    within: NDArray[np.float64]
    n_gaps: int

    def __len__(self) -> int:
        return len(self.table)

    @property
    def exact(self) -> NDArray[np.float64]:
        """The standard errors of complete rows, 0."""
        return np.zeros(len(self.table))


class Served:
    """A model in service, ``table`` being the model of a table, or else ``density`` that of 0/1 rows."""

    def __init__(self, name: str, model: Any) -> None:
        self.name = name
        self.table: TableModel | None = None
        self.density: Density
        if isinstance(model, TableModel):
            encoder = model.encoder
            columns = replace(encoder.columns, kind="dict", named=True)
            context = None if encoder.context is None else replace(encoder.context, named=True)
            self.table = TableModel(model.density, Encoder(columns, context))
            self.density, self.names = self.table.density, columns.names
            twice = set() if context is None else {f"context.{label}" for label in context.names} & set(self.names)
            if twice:
                raise ValueError(
                    f"{name} has a column {shown(twice.pop())}, as a column of its context is called. Rename one."
                )
        else:
            self.density = model
            self.names = model.feature_names or tuple(f"x{d}" for d in range(model.n_features_in))
            self._zero_one = model.with_input(None)

    @property
    def context(self) -> Columns | None:
        """The columns of the context, if the model was fitted with one."""
        return None if self.table is None else self.table.encoder.context

    def check_context(self, context: Any) -> None:
        """Refuse a context of 0/1 rows; the model of a table checks its own."""
        if self.table is None and context is not None:
            raise ValueError("context must be left out: the model is of 0/1 rows, without one.")

    def rows(self, X: Any) -> Any:
        """Return rows as the model takes them: a mapping of names to columns is one of 0/1 rows, too."""
        if self.table is not None or isinstance(X, np.ndarray):
            return X
        if isinstance(X, list):
            return _array(X)
        given = frames.read(X)
        found = {str(label): values.masked() for label, values in given.items()}
        if found.keys() != set(self.names):
            names.check(tuple(found), self.names, "X", "Rename or select them.")
        return np.array([found[name] for name in self.names], object).T

    def prepare(self, X: Any, context: Any = None) -> Prepared:
        """Check rows for their score. Raises TypeError or ValueError as the model does."""
        X = self.rows(X)
        if self.table is not None:
            codes, within = self.table._coded(X, context)
            return Prepared(codes, within.sum(axis=1), _n_gaps(codes))
        self.check_context(context)
        table = self.density._table(X)
        n_gaps = sum(_n_gaps(rows) for _, rows in table.chunks())
        one = [rows.ones(self.density.binarize, missing=True) for _, rows in table.chunks()]
        if n_gaps == 0:
            table = Table(one[0] if len(one) == 1 else np.concatenate(one))
        return Prepared(table, np.zeros(len(table)), n_gaps)

    def prepare_together(self, given: Sequence[Any]) -> list[Prepared | Exception]:
        """Check complete requests' rows, each without a context; return those of each request, or its error.

        Tables whose columns have the same names and dtypes are read as one: that takes as long for one row as for a hundred.
        """
        alike: dict[Any, list[int]] = {}
        for i, X in enumerate(given):
            alike.setdefault(_form(X) or i, []).append(i)
        out: dict[int, Prepared | Exception] = {}
        for members in alike.values():
            if len(members) > 1:
                with suppress(Exception):  # of one of them: each is asked by itself
                    out |= zip(members, self._prepared([given[i] for i in members]), strict=True)
            for i in members:
                if i not in out:
                    try:
                        out[i] = self.prepare(given[i])
                    except Exception as error:
                        out[i] = error
        return [out[i] for i in range(len(given))]

    def _prepared(self, given: Sequence[Mapping[str, NDArray[Any]]]) -> Iterator[Prepared]:
        """Yield the rows of several tables of one form, which are read as one."""
        whole = self.prepare({name: np.concatenate([X[name] for X in given]) for name in given[0]})
        gone, start = whole.table.missing(), 0
        for X in given:
            part = slice(start, start := start + len(next(iter(X.values()))))
            n_gaps = 0 if gone is None else int(gone[part].any(axis=1).sum())
            yield Prepared(whole.table[part], whole.within[part], n_gaps)

    def log_p(self, rows: Prepared, n_threads: int | None, **asking: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return log p of what is there of each row, and its standard error, (n,) both. See ``TableModel.log_observed``."""
        density = self._zero_one if self.table is None and not rows.n_gaps else self.density
        log_p, std = log_p_observed(density, rows.table, n_threads, warn=False, **asking)
        return log_p + rows.within, std

    def score_together(self, rows: Sequence[Prepared], n_threads: int | None) -> NDArray[np.float64]:
        """Return log p of complete rows of several requests, one after the other. No bit depends on who is beside whom."""
        first = rows[0].table
        joined = first if len(rows) == 1 else _like(first, np.concatenate([each.table.rows for each in rows]))
        density = self._zero_one if self.table is None else self.density
        log_p: NDArray[np.float64] = density.score_samples(joined, n_threads=n_threads)
        within: NDArray[np.float64] = np.concatenate([each.within for each in rows])
        return np.add(log_p, within)

    def describe(self) -> dict[str, Any]:
        """Return what a client, or the page of people, needs to know to ask."""
        if self.table is not None:
            columns = [_describe(column) for column in self.table.columns.columns]
        else:
            columns = [{"name": name, "kind": "binary", "values": [0, 1]} for name in self.names]
        context = [] if self.context is None else [_describe(column) for column in self.context.columns]
        found: dict[str, Any] = {"name": self.name, "rows": "table" if self.table is not None else "0/1", "columns": columns}
        if self.table is None:
            found["binarize"] = self.density.binarize
        return found | {"context": context}


def load_all(paths: Mapping[str, str | os.PathLike[str]]) -> dict[str, Served]:
    """Load models by name, mapped. Raises OSError or ModelFileError."""
    return {name: Served(name, load(path, mmap=True)) for name, path in paths.items()}


def named(texts: Sequence[str]) -> dict[str, str]:
    """Return paths by the names of models, from texts PATH or NAME=PATH; raises ValueError for two of one name, and odd ones.

    >>> named(["models/adult.safetensors", "digits=b.safetensors"])
    {'adult': 'models/adult.safetensors', 'digits': 'b.safetensors'}
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or os.sep in name or os.path.exists(text):
            name, path = os.path.basename(text).removesuffix(".safetensors"), text
        if not name or not path or not name.isprintable() or "/" in name:
            raise ValueError(f"a model must be a FILE or NAME=FILE, got {shown(text)}.")
        if name in found:
            raise ValueError(f"models must have different names, got {name!r} for {found[name]} and {path}. Give NAME=FILE.")
        found[name] = path
    return found


def _array(rows: list[Any]) -> NDArray[Any]:
    """Return rows of 0/1, as lists, as an array; whatever else they are, it is told in the model's own words."""
    try:
        if set(map(type, rows)) == {list} and len(set(map(len, rows))) == 1:
            return np.frombuffer(b"".join(map(bytes, rows)), np.uint8).reshape(len(rows), -1)
    except (TypeError, ValueError):  # an entry is none of the ints 0..255
        pass
    return np.array(rows, object)  # NumPy's own choice is text if one entry is, and all others would be as long


def _form(X: Any) -> tuple[tuple[str, Any], ...] | None:
    """Return the names and dtypes of a table of arrays that are of one length, which is not 0; None for anything else."""
    if not isinstance(X, dict) or not all(isinstance(values, np.ndarray) and values.ndim == 1 for values in X.values()):
        return None
    n_rows = {len(values) for values in X.values()}
    return tuple((name, values.dtype) for name, values in X.items()) if len(n_rows) == 1 and 0 not in n_rows else None


def _n_gaps(table: Table) -> int:
    """Return how many rows miss something."""
    gone = table.missing()
    return 0 if gone is None else int(gone.any(axis=1).sum())


def _like(table: Table, rows: NDArray[Any]) -> Table:
    """Return rows as a table of the same sort."""
    coding = getattr(table, "coding", None)
    return Table(rows) if coding is None else type(table)(rows, coding)


def _describe(column: Column) -> dict[str, Any]:
    found: dict[str, Any] = {"name": column.name, "kind": column.kind}
    if isinstance(column, Categories):
        found["values"] = [*column.values, *column.folded][:MOST_SHOWN]
        found["n_values"] = len(column.values) + len(column.folded)
        found["other_values"] = column.unseen
    else:
        half = 0.0 if column.whole else column.step / 2  # around values on a grid
        ends = float(column.low[0]) + half, float(column.high[-1]) - half
        found |= {"lowest": ends[0], "highest": ends[1], "whole": column.whole}
    return found | {"n_levels": column.n_levels, "missing_is_a_value": column.missing}
