"""A table and its context as codes: the columns that are modelled, those that are only given, and how both are coded.

Not here: single columns (``schema.py``), indicators (``tables/coded.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast.kernels.layout import ONE_HOT, THERMOMETER
from made_fast.tables.coded import Coded, Coding
from made_fast.tables.columns.schema import Columns
from made_fast.tables.columns.values import called
from made_fast.tables.digits import Digits

__all__ = ["Encoder"]


@dataclass(frozen=True, eq=False)
class Encoder:
    """What makes codes of the tables that a model is asked about.

    Attributes
    ----------
    columns : Columns
        Of the table.
    context : Columns or None
        Of the context that comes with it, if any.
    """

    columns: Columns
    context: Columns | None = None

    @cached_property
    def coding(self) -> Coding:
        """How codes become indicators: levels in order are cumulated, so that near ones look alike to the network."""
        digits = self.digits
        n_levels, ordered = digits.n_levels, self.columns.ordered[digits.column_of].tolist()
        n_digits = () if digits.single else digits.n_digits
        if self.context is not None:
            n_levels = (*self.context.n_levels.tolist(), *n_levels)
            ordered = [*self.context.ordered.tolist(), *ordered]
        codings = tuple(THERMOMETER if flag else ONE_HOT for flag in ordered)
        return Coding(n_levels, codings, 0 if self.context is None else len(self.context), n_digits)

    @cached_property
    def digits(self) -> Digits:
        """The variables that the columns of the table take; a column of a context is always one."""
        return Digits(self.columns.n_levels.tolist(), [column.base for column in self.columns.columns])

    def encode(self, X: Any, context: Any = None, *, name: str = "X", within: bool = False, min_rows: int = 1) -> Coded:
        """Return a table as codes; with ``within``, it has the log-density of each row within its levels.

        Raises TypeError or ValueError, which names the column, for what does not fit.
        """
        found = self.columns.encode(X, name=name, density=within, per_column=False, min_rows=min_rows)
        codes = np.concatenate([self.given(context, len(found.codes), name), self.digits.split(found.codes)], axis=1)
        return Coded(codes, self.coding, name, within=found.log_density)

    def given(self, context: Any, n_rows: int | None = None, name: str = "X") -> NDArray[np.signedinteger[Any]]:
        """Return the codes of a context of so many rows, (n, C); one row is that of all. None: as many as it has, or one."""
        called_so = "context" if name == "X" else f"context of {name}"
        if self.context is None:
            if context is not None:
                raise ValueError(f"{called_so} must be left out: the model was fitted without one.")
            return np.zeros((1 if n_rows is None else n_rows, 0), np.int8)
        if context is None:
            raise ValueError(
                f"{called_so} must come with {name}: the model was fitted with one, of {', '.join(self.context.names[:8])}. "
                "Pass context=."
            )
        codes = self.context.encode(context, name=called_so).codes
        if (gone := codes < 0).any():
            row, v = (int(at[0]) for at in np.nonzero(gone))
            raise ValueError(
                f"{called_so} must hold no missing values, got one in row {row} of {called(self.context.names[v])}: what is "
                "given is known. Fill it in, or fit with missing='value'."
            )
        if n_rows is None or len(codes) == n_rows:
            return codes
        if len(codes) != 1:
            raise ValueError(f"{called_so} must have one row for each of the {n_rows} rows, or one for all, got {len(codes)}.")
        return np.repeat(codes, n_rows, axis=0)

    def to_json(self) -> dict[str, Any]:
        """Return all this as dicts, lists, numbers and text."""
        found = {"table": self.columns.to_json()}
        return found if self.context is None else found | {"context": self.context.to_json()}

    @staticmethod
    def from_json(found: Any) -> Encoder:
        """Return what :meth:`to_json` gave, which anybody may have changed since. Raises ValueError."""
        if not isinstance(found, Mapping) or not {"table"} <= found.keys() <= {"table", "context"}:
            raise ValueError("columns must be an object of table and, if there is one, context")
        context = Columns.from_json(found["context"]) if "context" in found else None
        return Encoder(Columns.from_json(found["table"]), context)
