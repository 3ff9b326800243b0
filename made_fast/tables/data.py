"""Bit-packed binary matrices: one bit an entry, in the order of the places, as the kernels read them.

``bits`` is (n, ceil(D / 64)) uint64, C-contiguous: bit p % 64 of word p // 64 is the input at place p + 1, bits past D are 0.
50,000 rows of 784 inputs take 5 MB. Whatever the input is (memmap, float, sparse), it is turned into bits a chunk of rows at
a time and never exists as a whole in a second form.

Not here: what may be put in (``tables/checks.py``), files (``tables/reading``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast import kernels
from made_fast.tables import checks

__all__ = ["chunks", "density", "distinct_rows", "n_missing", "never_observed", "pack_missing", "pack_rows", "unpack_rows"]

CHUNK = 1 << 18
"""Entries worked on at once. Temporaries of one byte an entry then stay in a level-2 cache."""

_POPCOUNT = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)


def chunks(n_rows: int, n_features: int) -> Iterator[slice]:
    """Cut ``n_rows`` rows into slices of about ``CHUNK`` entries."""
    step = max(1, CHUNK // n_features)
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def pack_rows(
    X: Any,
    order: NDArray[np.intp],
    *,
    binarize: float | None = None,
    name: str = "X",
    first_row: int = 0,
    missing: bool = False,
) -> NDArray[np.uint64]:
    """Return the rows of ``X`` as bits in the order of the places.

    Parameters
    ----------
    X : array-like or sparse of shape (n, D)
        Values 0 and 1, or with ``binarize`` any finite numbers. Pass slices ``X[i:j]`` of what ``checks.matrix``
        returned, with ``first_row=i``, to stream.
    order : (D,) intp
        Permutation: ``order[p]`` is the feature at place p + 1. Its length is the width that ``X`` must have.
    binarize : float, optional
        Values larger than this are 1, the others 0.
    name : str
        What error texts call ``X``.
    first_row : int
        Number that error texts give to the first row.
    missing : bool
        Take NaN for 0 instead of refusing it; :func:`pack_missing` says where it is.

    Returns
    -------
    (n, ceil(D / 64)) uint64
        Bit p % 64 of word p // 64 of a row is ``X[row, order[p]]``.
    """
    D = len(order)
    rows = checks.matrix(X, D, name=name)
    n = rows.shape[0]
    out = np.empty((n, -(-D // 64)), dtype=np.uint64)
    for part in chunks(n, D):
        piece = rows if n * D <= CHUNK else rows[part]
        if isinstance(piece, np.ndarray) and piece.itemsize == 1 and binarize is None and _pack(piece, order, out[part]):
            continue  # checked as they were packed
        one = checks.ones(piece, binarize, name, first_row + part.start, missing=missing)
        if not _pack(one, order, out[part]):  # booleans made of other bytes
            _pack(one.view(np.uint8) != 0, order, out[part])
    return out


def unpack_rows(bits: NDArray[np.uint64], n_columns: int) -> NDArray[np.uint8]:
    """Return packed rows as (n, n_columns) of 0/1, columns in the order in which they are packed."""
    return np.unpackbits(bits.astype("<u8", copy=False).view(np.uint8), axis=1, count=n_columns, bitorder="little")


def pack_missing(X: Any, order: NDArray[np.intp], *, name: str = "X") -> NDArray[np.uint64] | None:
    """Return where ``X`` is missing (NaN) as bits, in the form of :func:`pack_rows`; None if nothing is."""
    D = len(order)
    rows = checks.matrix(X, D, name=name)
    if rows.dtype.kind != "f":
        return None
    # Pages of zeros that are not written to take no memory, and a table that is too large is refused before the search.
    out = np.zeros((rows.shape[0], -(-D // 64)), dtype=np.uint64)
    found = False
    for part in chunks(rows.shape[0], D):
        nan = checks.missing(rows[part], name)
        if nan is not None:
            found = True
            _pack(nan, order, out[part])
    return out if found else None


def never_observed(rows: checks.Matrix, name: str = "X") -> NDArray[np.intp]:
    """Return the numbers of the columns of a checked table in which every entry is missing."""
    gone = np.ones(rows.shape[1], np.bool_)
    for part in chunks(*rows.shape):
        nan = checks.missing(rows[part], name)
        if nan is None:
            return np.empty(0, np.intp)
        gone &= nan.all(axis=0)
        if not gone.any():
            break
    return np.flatnonzero(gone)


def n_missing(rows: checks.Matrix) -> int:
    """Return the number of missing entries of a checked table."""
    found = (checks.missing(rows[part]) for part in chunks(*rows.shape))
    return sum(int(nan.sum()) for nan in found if nan is not None)


def distinct_rows(bits: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.intp]]:
    """Return the rows that differ, in the order in which they first come, and for every row of ``bits`` which it is.

    A dictionary, not :func:`numpy.unique`: that compares rows as structures, where NumPy turns a Ctrl-C into a TypeError,
    and sorts them, which nothing can interrupt.
    """
    which: dict[bytes, int] = {}
    of_row = np.fromiter((which.setdefault(row.tobytes(), len(which)) for row in bits), np.intp, len(bits))
    return np.frombuffer(b"".join(which), bits.dtype).reshape(len(which), bits.shape[1]), of_row


def _pack(rows: NDArray[Any], order: NDArray[np.intp], out: NDArray[np.uint64]) -> bool:
    """Pack rows of one-byte numbers; say whether all were 0 or 1."""
    seen = np.empty(1, np.uint8)
    x, order = np.ascontiguousarray(rows).view(np.uint8), np.ascontiguousarray(order, np.int64)
    kernels.active.pack_bits(x, order, np.empty(len(order), np.int32), out, seen)
    return int(seen[0]) <= 1


def density(bits: NDArray[np.uint64], n_features: int) -> float:
    """Return the fraction of ones among the entries of ``bits``, a packed matrix of ``n_features`` columns."""
    count = np.bitwise_count(bits) if hasattr(np, "bitwise_count") else _POPCOUNT[bits.view(np.uint8)]  # NumPy 2, NumPy 1
    return int(count.sum(dtype=np.int64)) / (len(bits) * n_features)
