"""Rows of which entries are missing, as answers take them: packed bits of binary inputs, or codes of levels.

Each knows its patterns of what is missing, its names for random numbers, and its form in the ordering of a network.

Not here: answers (``answering.py``), one pattern and one network (``pattern.py``, ``levels.py``).
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from made_fast.inference.chunked import Copies
from made_fast.inference.levels import LevelPattern, Levels, Placed, are_there
from made_fast.inference.pattern import Bits, Floats, Index, Pattern
from made_fast.network.network import Network
from made_fast.tables.bits import distinct_rows, pack_bits, unpack_rows
from made_fast.tables.coded import Coded, Coding
from made_fast.tables.digits import Weights

__all__ = ["LevelRows", "PackedRows", "Rows"]


class PackedRows(NamedTuple):
    """Rows in the order of features: where they are 1 and where they are missing, (n, W) both, and D.

    ``copies`` (n,) numbers the rows that are equal, from 0. Equal rows have random numbers of their own with it, and the same
    numbers without it. ``known_copies`` are what ``copies`` will be where more rows are counted than these.
    """

    bits: Bits
    missing: Bits
    n_inputs: int
    copies: Index | None = None
    known_copies: Index | None = None

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return len(self.bits)

    @property
    def n_means(self) -> int:
        """How many means a row has, D."""
        return self.n_inputs

    @property
    def kept(self) -> Bits:
        """The rows as an array."""
        return self.bits

    def keep(self, columns: NDArray[np.uint8]) -> Bits:
        """Return complete rows (n, D) in the form of ``kept``."""
        return pack_bits(columns)

    def blank(self, *shape: int) -> NDArray[np.uint8]:
        """Return an array for so many complete rows."""
        return np.empty((*shape, self.n_inputs), np.uint8)

    def observed(self, row: int) -> NDArray[np.bool_]:
        """Return which inputs of a row are observed, (D,)."""
        observed: NDArray[np.bool_] = self.columns(self.missing[row : row + 1])[0] == 0
        return observed

    def pattern(self, network: Network, row: int, n_walks: int, whole: bool) -> Pattern:
        """Return the pattern of a row for a network."""
        return Pattern(network, self.observed(row), n_walks, whole)

    def placed(self, pattern: Pattern) -> Bits:
        """Return the rows in the order of the places of a pattern's network."""
        return pattern.place(self.columns(self.bits))

    def complete(self, columns: NDArray[np.uint8]) -> PackedRows:
        """Return complete rows (n, D)."""
        bits = pack_bits(columns)
        return PackedRows(bits, np.zeros_like(bits), self.n_inputs)

    def take(self, rows: Index) -> PackedRows:
        """Return some of the rows."""
        copies = None if self.copies is None else self.copies[rows]
        return PackedRows(self.bits[rows], self.missing[rows], self.n_inputs, copies)

    def counted(self) -> PackedRows:
        """Return the rows with ``copies``."""
        if self.copies is not None:
            return self
        return self._replace(copies=count_copies(self._words()) if self.known_copies is None else self.known_copies)

    def counted_by(self, copies: Copies) -> PackedRows:
        """Return the rows with ``known_copies``."""
        return self._replace(known_copies=copies.count(self._words(), np.flatnonzero(self.missing.any(axis=1))))

    def _words(self) -> Bits:
        return np.concatenate([self.bits, self.missing], axis=1)

    def names(self) -> Bits:
        """Return the name of each row for random numbers, (n, 2 W + 1): its content, and which copy it is."""
        copies = np.zeros(len(self.bits), np.intp) if self.copies is None else self.copies
        return np.concatenate([self.bits, self.missing, copies[:, None].astype(np.uint64)], axis=1).astype("<u8", copy=False)

    def columns(self, bits: Bits) -> NDArray[np.uint8]:
        """Return packed rows as (n, D)."""
        return unpack_rows(bits, self.n_inputs)

    def patterns(self) -> list[Index]:
        """Return the rows of each pattern of missing inputs."""
        return patterns_of(self.missing)

    def filled(self, mean: Floats) -> Floats:
        """Return means (n, D) with the observed entries in their places."""
        return np.where(self.columns(self.missing), np.clip(mean, 0, 1), self.columns(self.bits))

    def with_target(self, columns: Index) -> PackedRows:
        """Return the rows with 0 in these columns (n,), then the rows with 1 there, where they then are observed."""
        one = np.zeros_like(self.bits)
        one[np.arange(len(one)), columns // 64] = np.uint64(1) << (columns % 64).astype(np.uint64)
        bits = np.concatenate([self.bits & ~one, self.bits | one])
        return PackedRows(bits, np.tile(self.missing & ~one, (2, 1)), self.n_inputs)


class LevelRows(NamedTuple):
    """Rows in the order of the variables: codes (n, V), -1 where missing, and those of their context (n, C).

    ``weights`` are those of all rows, () for none; a weighted variable is -1 in ``codes``. For ``copies`` and ``known_copies``
    see ``PackedRows``.
    """

    codes: Levels
    context: Levels
    coding: Coding
    weights: Weights = ()
    copies: Index | None = None
    known_copies: Index | None = None

    @classmethod
    def of(cls, table: Coded, weights: Weights = ()) -> LevelRows:
        """Return the rows of a table, under weights of levels: those of a level that is given must be 1."""
        codes = table.codes.astype(np.int32)
        return cls(codes, table.context.astype(np.int32), table.coding, weights)

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return len(self.codes)

    @property
    def n_means(self) -> int:
        """How many levels there are of all variables."""
        return int(self.coding.first_levels[-1])

    @property
    def kept(self) -> Levels:
        """The rows as an array."""
        return self.codes

    def keep(self, columns: Levels) -> Levels:
        """Return complete rows (n, V) in the form of ``kept``."""
        return columns

    def columns(self, kept: Levels) -> Levels:
        """Undo ``keep``."""
        return kept

    def blank(self, *shape: int) -> Levels:
        """Return an array for so many complete rows."""
        return np.empty((*shape, self.codes.shape[1]), np.int32)

    def take(self, rows: Index) -> LevelRows:
        """Return some of the rows."""
        copies = None if self.copies is None else self.copies[rows]
        return self._replace(codes=self.codes[rows], context=self.context[rows], copies=copies)

    def counted(self) -> LevelRows:
        """Return the rows with ``copies``."""
        if self.copies is not None:
            return self
        return self._replace(copies=count_copies(self._words()) if self.known_copies is None else self.known_copies)

    def counted_by(self, copies: Copies) -> LevelRows:
        """Return the rows with ``known_copies``."""
        return self._replace(known_copies=copies.count(self._words(), np.flatnonzero((self.codes < 0).any(axis=1))))

    def names(self) -> Bits:
        """Return the name of each row for random numbers: its content, and which copy it is."""
        copies = np.zeros(self.n_rows, np.uint64) if self.copies is None else self.copies.astype(np.uint64)
        return np.concatenate([self._words(), copies[:, None]], axis=1).astype("<u8", copy=False)

    def _words(self) -> Bits:
        content = np.concatenate([self.codes, self.context], axis=1)
        return (content.astype(np.int64) + 1).astype(np.uint64)

    def patterns(self) -> list[Index]:
        """Return the rows of each pattern of missing variables."""
        return patterns_of(pack_bits((self.codes < 0).view(np.uint8)))

    def observed(self, row: int) -> NDArray[np.bool_]:
        """Return of which variables something is known in a row, (V,)."""
        observed: NDArray[np.bool_] = (self.codes[row] >= 0) | are_there(self.weights, self.codes.shape[1])
        return observed

    def pattern(self, network: Network, row: int, n_walks: int, whole: bool) -> LevelPattern:
        """Return the pattern of a row for a network."""
        return LevelPattern(network, self.coding, self.codes[row] >= 0, self.weights, n_walks, whole)

    def placed(self, pattern: LevelPattern) -> Placed:
        """Return the rows in the order of the places of a pattern's network."""
        coding = self.coding
        bits = pack_bits(coding.indicators(self.context, 0, coding.n_context)) if coding.n_context else None
        return Placed(np.ascontiguousarray(self.codes[:, pattern.order]), self.context, bits)

    def filled(self, mean: Floats) -> Floats:
        """Return probabilities of levels (n, levels), those of observed variables 0 and 1."""
        first = self.coding.first_levels
        for v, n in enumerate(self.coding.levels_of):
            known = np.flatnonzero(self.codes[:, v] >= 0)
            mean[known, first[v] : first[v] + n] = 0
            mean[known, first[v] + self.codes[known, v]] = 1
        return mean

    def complete(self, codes: Levels) -> LevelRows:
        """Return complete rows of the same contexts."""
        return LevelRows(codes, self.context, self.coding)

    def with_levels(self, variables: slice) -> LevelRows:
        """Return the rows with each level of some variables in turn: all rows with the first, then with the next.

        The levels of several variables are those of the first, and for each of them those of the next.
        """
        levels = (
            np.indices(tuple(self.coding.levels_of[variables].tolist()), np.int32)
            .reshape(variables.stop - variables.start, -1)
            .T
        )
        codes = np.tile(self.codes, (len(levels), 1))
        codes[:, variables] = np.repeat(levels, self.n_rows, axis=0)
        return LevelRows(codes, np.tile(self.context, (len(levels), 1)), self.coding)


Rows: TypeAlias = PackedRows | LevelRows


def count_copies(words: Bits) -> Index:
    """Return which of the rows that are equal each row is, from 0, (n,)."""
    _, of_row = distinct_rows(words)
    together = np.argsort(of_row, kind="stable")
    counts = np.bincount(of_row)
    copies = np.empty(len(of_row), np.intp)
    copies[together] = np.arange(len(of_row)) - np.repeat(np.cumsum(counts) - counts, counts)
    return copies


def patterns_of(missing: Bits) -> list[Index]:
    """Return the rows of each pattern of missing entries, which are packed, (n, W)."""
    _, pattern = distinct_rows(missing)
    return np.split(np.argsort(pattern, kind="stable"), np.cumsum(np.bincount(pattern))[:-1])
