"""Bit-packed binary matrices: one bit an entry, in the order of the places, as the kernels read them.

``bits`` is (n, ceil(D / 64)) uint64, C-contiguous: bit p % 64 of word p // 64 is the input at place p + 1, bits past D are 0.
A table (memmap, float, sparse) is packed a chunk of rows at a time and never exists as a whole in a second form.

Not here: what may be packed (``tables/table.py``), files (``tables/reading``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast import kernels
from made_fast.tables.table import UINT8, Table

__all__ = ["Packing", "distinct_rows", "pack_bits", "pack_missing", "pack_rows", "unpack_rows"]

INT32, INT64 = np.dtype("int32"), np.dtype("int64")  # see UINT8


def pack_rows(
    table: Table, order: NDArray[np.intp], binarize: float | None = None, *, missing: bool = False
) -> NDArray[np.uint64]:
    """Return the rows of a table (n, D) as bits, (n, ceil(D / 64)) uint64; wrong values raise ValueError.

    Bit p % 64 of word p // 64 of a row is ``table[row, order[p]]``: ``order`` (D,) has the feature at place p + 1. For
    ``binarize`` and ``missing`` see :meth:`Table.ones`; :func:`pack_missing` returns where NaN is. Of codes, the features are
    the indicators.
    """
    out = np.empty((table.shape[0], -(-len(order) // 64)), np.uint64)
    for part, piece in table.chunks():
        rows = piece.one_byte(binarize)
        if rows is not None and _pack(rows, order, out[part]):
            continue  # checked as they were packed
        one = piece.ones(binarize, missing=missing)
        if not _pack(one, order, out[part]):  # booleans made of other bytes
            _pack(one.view(np.uint8) != 0, order, out[part])
    return out


def pack_bits(X: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return rows (n, D) of 0/1 as bits, in the form of :func:`pack_rows`, columns in their order."""
    return pack_rows(Table(X), np.arange(X.shape[1]))


def pack_missing(table: Table, order: NDArray[np.intp]) -> NDArray[np.uint64] | None:
    """Return where a table is missing (NaN) as bits, in the form of :func:`pack_rows`; None if nothing is."""
    if not table.may_miss:
        return None
    # Pages of zeros that are not written to take no memory, and a table that is too large is refused before the search.
    out = np.zeros((len(table), -(-len(order) // 64)), np.uint64)
    found = False
    for part, rows in table.chunks():
        if (nan := rows.missing()) is not None:
            found = True
            _pack(nan, order, out[part])
    return out if found else None


@dataclass(eq=False, slots=True)
class Packing:
    """Rows of a table that are packed, and their values checked, a slice at a time as they are read.

    ``len`` and slices are those of the packed array, so it can replace one that is read once.
    """

    table: Table
    order: NDArray[np.intp]
    binarize: float | None = None

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, part: slice) -> NDArray[np.uint64]:
        return pack_rows(self.table[part], self.order, self.binarize)


def unpack_rows(bits: NDArray[np.uint64], n_columns: int) -> NDArray[np.uint8]:
    """Return packed rows as (n, n_columns) of 0/1, columns in the order in which they are packed."""
    return np.unpackbits(bits.astype("<u8", copy=False).view(np.uint8), axis=1, count=n_columns, bitorder="little")


def distinct_rows(bits: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.intp]]:
    """Return the distinct rows, in the order in which they first come, and the number of the distinct row of every row."""
    # numpy.unique compares rows as structures, where NumPy turns a Ctrl-C into a TypeError, and nothing interrupts its sort.
    which: dict[bytes, int] = {}
    of_row = np.fromiter((which.setdefault(row.tobytes(), len(which)) for row in bits), np.intp, len(bits))
    return np.frombuffer(b"".join(which), bits.dtype).reshape(len(which), bits.shape[1]), of_row


def _pack(rows: NDArray[Any], order: NDArray[np.intp], out: NDArray[np.uint64]) -> bool:
    """Pack rows of one-byte numbers; return whether all were 0 or 1."""
    assert rows.shape[1] == len(order)  # the kernel reads on behind the rows otherwise
    x = rows if rows.flags.c_contiguous else np.ascontiguousarray(rows)
    if x.dtype is not UINT8:
        x = x.view(UINT8)
    if order.dtype is not INT64 or not order.flags.c_contiguous:
        order = np.ascontiguousarray(order, INT64)
    seen = np.empty(1, UINT8)
    kernels.active.pack_bits(x, order, np.empty(len(order), INT32), out, seen)
    return bool(seen[0] <= 1)
