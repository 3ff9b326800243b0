"""A table whose rows are packed already, a bit an indicator: what becomes of a table that comes in chunks.

It takes the place of a :class:`Table`, or of a :class:`Coded` if it has a coding, wherever rows are trained on.

Not here: where chunks come from (``reading/chunks.py``), the form of packed rows (``bits.py``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast.tables.bits import pack_missing, pack_rows, unpack_rows
from made_fast.tables.coded import Coded, Coding
from made_fast.tables.table import Table, chunks

__all__ = ["Packed"]

BLOCK = 1 << 26
"""Bytes of a block of rows whose number is not known yet. The system gets a block of so many back as soon as it is freed."""


class Packed(Table):
    """Rows of 0/1 or, with a ``coding``, of codes; every value has been checked; ``shape`` is (n, D), or (n, V) of codes.

    ``bits`` (n, W) has the inputs of a row in the ``order`` (inputs,), as ``pack_rows`` makes them; ``gaps`` (n, ceil(D / 64))
    is where entries are missing, features in their order, None where none is; ``within`` (n,) as of :class:`Coded`.
    """

    __slots__ = ("bits", "coding", "gaps", "order", "within")

    def __init__(
        self,
        bits: NDArray[np.uint64],
        order: NDArray[np.intp],
        gaps: NDArray[np.uint64] | None = None,
        coding: Coding | None = None,
        within: NDArray[np.float64] | None = None,
        name: str = "X",
        first_row: int = 0,
    ) -> None:
        super().__init__(bits, name, first_row)
        self.bits, self.order, self.gaps, self.coding, self.within = bits, order, gaps, coding, within
        self.shape = len(bits), len(order) if coding is None else coding.n_variables

    @classmethod
    def of_tables(cls, tables: Iterable[Table], binarize: float | None = None, name: str = "X") -> Packed:
        """Pack tables of the same columns, at least one, as they come; for ``binarize`` see :meth:`Table.ones`.

        It never takes more memory than the packed rows, a block of them, and the table that is packed.
        """
        bits, within, gaps = _Growing(np.uint64), _Growing(np.float64), []
        table = None
        for table in tables:
            n_inputs = table.coding.starts[-1] if isinstance(table, Coded) else table.shape[1]
            if (gone := pack_missing(table, np.arange(table.shape[1]))) is not None:
                gaps.append((bits.n, gone))
            bits.add(pack_rows(table, np.arange(n_inputs), binarize, missing=True))
            if isinstance(table, Coded) and table.within is not None:
                within.add(table.within[:, None])
        assert table is not None
        missing = None
        if gaps:
            missing = np.zeros((bits.n, gaps[0][1].shape[1]), np.uint64)
            while gaps:
                first, gone = gaps.pop()
                missing[first : first + len(gone)] = gone
        log_density = within.whole()[:, 0] if within.n else None
        return cls(
            bits.whole(), np.arange(n_inputs), missing, table.coding if isinstance(table, Coded) else None, log_density, name
        )

    def __getitem__(self, part: slice) -> Packed:
        return self._some(part, self.first_row + (part.start or 0))

    def take(self, rows: NDArray[np.intp]) -> Table:
        """See :meth:`Table.take`; of codes, they come as these."""
        taken = self._some(rows, 0)
        return taken if self.coding is None else taken.coded()

    def _some(self, rows: Any, first_row: int) -> Packed:
        gaps, within = (None if each is None else each[rows] for each in (self.gaps, self.within))
        return Packed(self.bits[rows], self.order, gaps, self.coding, within, self.name, first_row)

    def joined(self, more: Table) -> Table:
        """See :meth:`Table.joined`."""
        return Packed.of_tables([self, more] if self.coding is None else [self.coded(), more], name=self.name)

    def coded(self) -> Coded:
        """Return the rows as codes."""
        assert self.coding is not None
        codes = [part.coding.codes(part.ones(), part.missing()) for _, part in self.chunks() if part.coding is not None]
        return Coded(np.concatenate(codes), self.coding, self.name, within=self.within)

    def chunks(self) -> Iterable[tuple[slice, Packed]]:
        """See :meth:`Table.chunks`."""
        return ((part, self[part]) for part in chunks(len(self), len(self.order)))

    def arranged(self, order: NDArray[np.intp]) -> NDArray[np.uint64]:
        """Put the inputs of every row into an order, in place, and return the bits, not a copy."""
        if not np.array_equal(order, self.order):
            for part, rows in self.chunks():
                self.bits[part] = pack_rows(rows, order)
            self.order = order
        return self.bits

    @property
    def may_miss(self) -> bool:
        """See :meth:`Table.may_miss`."""
        return self.gaps is not None

    def one_byte(self, binarize: float | None) -> NDArray[np.uint8]:
        """Return the inputs of the rows in their own order, (n, inputs)."""
        out = np.empty((len(self), len(self.order)), np.uint8)
        out[:, self.order] = unpack_rows(self.bits, len(self.order))
        return out

    def ones(self, binarize: float | None = None, *, missing: bool = False, **texts: Any) -> NDArray[np.bool_]:
        """See :meth:`Table.ones`; values are 0 and 1 by now, and 0 where they are missing."""
        return self.one_byte(None).view(np.bool_)

    def missing(self) -> NDArray[np.bool_] | None:
        """See :meth:`Table.missing`."""
        if self.gaps is None or not self.gaps.any():
            return None
        return unpack_rows(self.gaps, self.shape[1]).view(np.bool_)


class _Growing:
    """Rows that come a part at a time. They are kept in blocks, which become one array at the end, each freed at once."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = np.dtype(dtype)
        self.blocks: list[NDArray[Any]] = []
        self.n = self.free = 0

    def add(self, rows: NDArray[Any]) -> None:
        """Take rows (n, width)."""
        done = 0
        while done < len(rows):
            if not self.free:
                self.free = max(1, BLOCK // max(rows[:1].nbytes, 1))
                self.blocks.append(np.empty((self.free, rows.shape[1]), self.dtype))
            some = rows[done : done + self.free]
            at = len(self.blocks[-1]) - self.free
            self.blocks[-1][at : at + len(some)] = some
            done += len(some)
            self.free -= len(some)
        self.n += len(rows)

    def whole(self) -> NDArray[Any]:
        """Return all rows, once."""
        out = np.empty((self.n, self.blocks[0].shape[1]), self.dtype)
        begin = 0
        while self.blocks:
            block = self.blocks.pop(0)
            out[begin : begin + len(block)] = block[: self.n - begin]
            begin += len(block)
        return out
