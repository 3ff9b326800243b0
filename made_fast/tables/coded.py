"""A table of variables of several levels: codes, and the indicators by which a network reads them.

A code is the number of a level, -1 where an entry is missing. Not here: from values to codes and back (``columns``), packing
(``bits.py``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast.kernels.layout import THERMOMETER
from made_fast.tables.table import Table, chunks

__all__ = ["Coded", "Coding"]

Codes = NDArray[np.signedinteger[Any]]


@dataclass(frozen=True)
class Coding:
    """How codes become indicators, for the columns of a context, which come first, and for the variables.

    Attributes
    ----------
    n_levels : tuple of int
        Of each column.
    codings : tuple of int
        ``layout.ONE_HOT`` or ``layout.THERMOMETER`` for each column; it matters from three levels on.
    n_context : int
        How many columns are of the context.
    n_digits : tuple of int
        How many variables, one after the other, are the digits of one column (``digits.py``); (): each is a column.
    """

    n_levels: tuple[int, ...]
    codings: tuple[int, ...]
    n_context: int = 0
    n_digits: tuple[int, ...] = ()

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """The number of indicators of each column: none for one level, 1 for two, else one a level."""
        return tuple(n if n > 2 else n - 1 for n in self.n_levels)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """The first indicator of each column, and the number of all."""
        return tuple(np.cumsum([0, *self.widths]).tolist())

    @property
    def n_variables(self) -> int:
        """The number of variables, V."""
        return len(self.n_levels) - self.n_context

    @property
    def n_context_inputs(self) -> int:
        """The number of indicators of the context."""
        return self.starts[self.n_context]

    @cached_property
    def levels_of(self) -> NDArray[np.intp]:
        """The number of levels of each variable, (V,)."""
        return np.array(self.n_levels[self.n_context :], np.intp)

    @cached_property
    def first_levels(self) -> NDArray[np.intp]:
        """The number of levels of the variables before each, and of all, (V + 1,)."""
        return np.append(0, np.cumsum(self.levels_of))

    def indicators(self, codes: Codes, first: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Return the indicators of columns ``first`` to ``stop`` of rows, 0 where an entry is missing, (n, inputs) uint8."""
        stop = len(self.n_levels) if stop is None else stop
        start = self.starts[first]
        out = np.zeros((len(codes), self.starts[stop] - start), np.uint8)
        flags, ladder = out.view(np.bool_), np.arange(max(self.widths[first:stop], default=0), dtype=codes.dtype)
        for j in range(first, stop):
            code, at, width = codes[:, j - first], self.starts[j] - start, self.widths[j]
            if width == 1:
                out[:, at] = code == 1
            elif self.codings[j] == THERMOMETER:
                np.less_equal(ladder[:width], code[:, None], out=flags[:, at : at + width])
            elif width:
                rows = np.flatnonzero(code >= 0)
                out[rows, at + code[rows].astype(np.intp)] = 1  # a sum of small ints would wrap around
        return out

    def codes(self, indicators: NDArray[Any], missing: NDArray[np.bool_] | None) -> Codes:
        """Return the codes of rows of the indicators of all columns, (n, inputs): undo :meth:`indicators`.

        ``missing`` (n, V) is where variables have no level, None where all have one.
        """
        ones = indicators.view(np.uint8)
        most = max(self.n_levels)
        out = np.empty((len(ones), len(self.n_levels)), np.int8 if most <= 2**7 else np.int16 if most <= 2**15 else np.int32)
        for j, coding in enumerate(self.codings):
            own = ones[:, self.starts[j] : self.starts[j + 1]]
            if own.shape[1] > 1:
                out[:, j] = own.sum(axis=1, dtype=np.int32) - 1 if coding == THERMOMETER else own.argmax(axis=1)
            else:
                out[:, j] = own[:, 0] if own.shape[1] else 0
        if missing is not None:
            out[:, self.n_context :][missing] = -1
        return out

    def log_levels(self, proba: NDArray[Any]) -> NDArray[np.float64]:
        """Return the log-probability of every level, (n, sum of levels), from the outputs of a network by feature, (n, O)."""
        out = np.zeros((len(proba), int(self.first_levels[-1])))
        with np.errstate(divide="ignore"):
            for v, n in enumerate(self.levels_of):
                at, first = self.starts[self.n_context + v] - self.n_context_inputs, self.first_levels[v]
                if n == 2:
                    p = proba[:, at].astype(np.float64)
                    out[:, first], out[:, first + 1] = np.log1p(-p), np.log(p)
                elif n > 2:
                    out[:, first : first + n] = np.log(proba[:, at : at + n])
        return out


class Coded(Table):
    """Rows of codes, (n, C + V) of any int: those of the context, then those of the variables; ``shape`` is (n, V).

    ``within`` (n,) is the log-density of each row within its levels, in nats; None: nobody asks.
    """

    __slots__ = ("coding", "within")

    rows: Codes

    def __init__(
        self,
        rows: Codes,
        coding: Coding,
        name: str = "X",
        first_row: int = 0,
        within: NDArray[np.float64] | None = None,
    ) -> None:
        super().__init__(rows, name, first_row)
        self.coding, self.within = coding, within
        self.shape = len(rows), coding.n_variables

    def __getitem__(self, part: slice) -> Coded:
        within = None if self.within is None else self.within[part]
        return Coded(self.rows[part], self.coding, self.name, self.first_row + (part.start or 0), within)

    def take(self, rows: NDArray[np.intp]) -> Coded:
        """See :meth:`Table.take`."""
        return Coded(self.rows[rows], self.coding, self.name, within=None if self.within is None else self.within[rows])

    def joined(self, more: Table) -> Coded:
        """See :meth:`Table.joined`."""
        assert isinstance(more, Coded)
        parts = [part for part in (self.within, more.within) if part is not None]
        within = np.concatenate(parts) if len(parts) == 2 else None
        return Coded(np.concatenate([self.rows, more.rows]), self.coding, self.name, within=within)

    def chunks(self) -> Iterable[tuple[slice, Coded]]:
        """See :meth:`Table.chunks`; of indicators, which are made column by column, some megabytes at once."""
        width = max(self.coding.starts[-1] // 16, len(self.coding.n_levels))
        return ((part, self[part]) for part in chunks(len(self), width))

    @property
    def codes(self) -> Codes:
        """The codes of the variables, (n, V)."""
        return self.rows[:, self.coding.n_context :]

    @property
    def context(self) -> Codes:
        """The codes of the context, (n, C)."""
        return self.rows[:, : self.coding.n_context]

    def one_byte(self, binarize: float | None) -> None:
        """See :meth:`Table.one_byte`: codes are no indicators."""

    @property
    def may_miss(self) -> bool:
        """See :meth:`Table.may_miss`."""
        return True

    def ones(self, binarize: float | None = None, *, missing: bool = False, **texts: Any) -> NDArray[np.bool_]:
        """Return the indicators, (n, inputs) bool."""
        if not missing and (gone := self.codes < 0).any():
            row, v = (int(at[0]) for at in np.nonzero(gone))
            raise ValueError(
                f"{self.name} must hold no missing values here, got one in row {self.first_row + row}, column {v} (counted "
                "from 0). log_marginal tells how likely what is there is."
            )
        return self.coding.indicators(self.rows).view(np.bool_)

    def missing(self) -> NDArray[np.bool_] | None:
        """Return where variables are missing, (n, V) bool, or None where nothing is."""
        gone = self.codes < 0
        return gone if gone.any() else None
