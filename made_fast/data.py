"""Bit-packed binary matrices: one bit an entry, in the order of the places, as the kernels read them.

``bits`` is (n, ceil(D / 64)) uint64, C-contiguous: bit p % 64 of word p // 64 is the input at place p + 1, bits past D are 0.
50,000 rows of 784 inputs take 5 MB. Whatever the input is (memmap, float, sparse), it is turned into bits a chunk of rows at
a time and never exists as a whole in a second form.

Not here: what may be put in (:mod:`made_fast.checks`), files (:mod:`made_fast.datasets`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast import checks, kernels

__all__ = ["chunks", "density", "pack_missing", "pack_rows", "unpack_rows"]

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
        Values 0 and 1, or with ``binarize`` any finite numbers. Pass slices ``X[i:j]`` of what :func:`made_fast.checks.matrix`
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
    if n * D <= CHUNK:
        _pack(checks.ones(rows, binarize, name, first_row, missing=missing), order, out)
    else:
        for part in chunks(n, D):
            one = checks.ones(rows[part], binarize, name, first_row + part.start, missing=missing)
            _pack(one, order, out[part])
    return out


def unpack_rows(bits: NDArray[np.uint64], n_columns: int) -> NDArray[np.uint8]:
    """Return packed rows as (n, n_columns) of 0/1, columns in the order in which they are packed."""
    return np.unpackbits(bits.astype("<u8", copy=False).view(np.uint8), axis=1, count=n_columns, bitorder="little")


def pack_missing(X: Any, order: NDArray[np.intp], *, name: str = "X") -> NDArray[np.uint64] | None:
    """Return where ``X`` is missing (NaN) as bits, in the form of :func:`pack_rows`; None if nothing is."""
    D = len(order)
    rows = checks.matrix(X, D, name=name)
    out = None
    for part in chunks(rows.shape[0], D):
        nan = checks.missing(rows[part], name)
        if nan is not None:
            if out is None:
                out = np.zeros((rows.shape[0], -(-D // 64)), dtype=np.uint64)
            _pack(nan, order, out[part])
    return out


def _pack(one: NDArray[np.bool_], order: NDArray[np.intp], out: NDArray[np.uint64]) -> None:
    bits = np.zeros((len(one), out.shape[1] * 8), np.uint8)
    bits[:, : -(-len(order) // 8)] = np.packbits(one, axis=1, bitorder="little")
    words = bits.view("<u8").astype(np.uint64, copy=False)
    # bits, not entries, change their places: a row has 64 times as many entries as words
    kernels.active.permute(words, np.ascontiguousarray(order, np.int64), np.empty(len(order), np.int32), out)


def density(bits: NDArray[np.uint64], n_features: int) -> float:
    """Return the fraction of ones among the entries of ``bits``, a packed matrix of ``n_features`` columns."""
    count = np.bitwise_count(bits) if hasattr(np, "bitwise_count") else _POPCOUNT[bits.view(np.uint8)]  # NumPy 2, NumPy 1
    return int(count.sum(dtype=np.int64)) / (len(bits) * n_features)
