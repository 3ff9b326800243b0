"""Answers of one network about rows of variables of several levels that miss the same ones; the twin of ``pattern.py``.

Evidence is a level of a variable, or, the same for all rows, weights of the levels of some variables: the shares of them that
satisfy a condition. A walk along the ordering keeps to both, and its mass is the probability of the evidence along it; the
mass of the last place with evidence is a sum over its levels, so that only the early missing variables are summed out.

Not here: many patterns and networks in one call (``answering.py``), columns and their values (``tablemodel.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from made_fast.inference.pattern import (
    CHOOSE,
    DRAW,
    ENUMERATED,
    PROPOSE,
    Bits,
    Floats,
    Index,
    Streams,
    choose_candidates,
    effective_number,
)
from made_fast.network.network import Network
from made_fast.tables.bits import distinct_rows, pack_bits, pack_rows
from made_fast.tables.coded import Coded, Coding

__all__ = ["LevelPattern", "LevelRows", "Placed", "Weights"]

COMBINATIONS = 1 << ENUMERATED
"""Most combinations of levels that are summed out by enumeration."""

Levels: TypeAlias = "NDArray[np.int32]"

Weights: TypeAlias = "tuple[Floats | None, ...]"
"""The weight of each level of each variable, >= 0, or None where all have weight 1."""


class LevelRows(NamedTuple):
    """Rows in the order of the variables: codes (n, V), -1 where missing, and those of their context (n, C).

    ``weights`` are those of all rows, () for none; a weighted variable is -1 in ``codes``. For ``copies`` see ``PackedRows``.
    """

    codes: Levels
    context: Levels
    coding: Coding
    weights: Weights = ()
    copies: Index | None = None

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
        return self._replace(copies=count_copies(self._words()))

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
        observed: NDArray[np.bool_] = (self.codes[row] >= 0) | self.weighted
        return observed

    @property
    def weighted(self) -> NDArray[np.bool_]:
        """Which variables have weights of their levels, (V,)."""
        if not self.weights:
            return np.zeros(self.codes.shape[1], np.bool_)
        return np.array([weights is not None for weights in self.weights], np.bool_)

    def pattern(self, network: Network, row: int, n_walks: int, whole: bool) -> LevelPattern:
        """Return the pattern of a row for a network."""
        return LevelPattern(network, self, row, n_walks, whole)

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

    def with_levels(self, v: int) -> LevelRows:
        """Return the rows with each level of variable v in turn: all rows with the first, then with the next."""
        n, n_levels = self.n_rows, int(self.coding.levels_of[v])
        codes = np.tile(self.codes, (n_levels, 1))
        codes[:, v] = np.repeat(np.arange(n_levels, dtype=np.int32), n)
        return LevelRows(codes, np.tile(self.context, (n_levels, 1)), self.coding)


class Placed(NamedTuple):
    """Rows in order of place: levels (n, V), -1 for what is not given, their context as codes and as bits."""

    levels: Levels
    context: Levels
    bits: Bits | None

    def take(self, rows: Index, axis: int = 0) -> Placed:
        """Return some of the rows, as ``ndarray.take`` does."""
        return Placed(self.levels[rows], self.context[rows], None if self.bits is None else self.bits[rows])


class LevelPattern:
    """One pattern of rows in the ordering of one network; see ``Pattern``, whose methods it has."""

    def __init__(self, network: Network, rows: LevelRows, row: int, n_walks: int, whole: bool) -> None:
        self.network, self.n_walks, self._coding = network, n_walks, rows.coding
        self.order: Index = np.argsort(network.connectivity.ordering)
        V = len(self.order)
        given, weighted = (rows.codes[row] >= 0)[self.order], rows.weighted[self.order]
        n_levels = rows.coding.levels_of[self.order]
        options = [np.arange(n) for n in n_levels]
        self._weights = None
        if weighted.any():
            self._weights = np.concatenate(
                [np.ones(n) if (w := rows.weights[v]) is None else w for v, n in zip(self.order, n_levels, strict=True)]
            )
        starts = np.append(0, np.cumsum(n_levels))
        for p in np.flatnonzero(weighted):
            assert self._weights is not None
            options[p] = np.flatnonzero(self._weights[starts[p] : starts[p] + n_levels[p]] > 0)
        known = np.flatnonzero(given | weighted)
        # The number of places up to the last one with evidence. The missing variables among them must be summed out.
        self.reach = int(known[-1]) + 1 if len(known) else 0
        free = ~given
        if whole and _product(options[p] for p in np.flatnonzero(free)) <= COMBINATIONS:
            self.reach = V
        self.early: Index = np.flatnonzero(free[: self.reach])
        self._last: Index = self.early[:0]  # the last place with evidence, if that is weights: a walk sums them
        if len(self.early) and self.early[-1] == self.reach - 1 and weighted[self.reach - 1]:
            self.early, self._last = self.early[:-1], self.early[-1:]
        self.late: Index = np.arange(self.reach, V)
        self.exact = _product(options[p] for p in self.early) <= COMBINATIONS  # by enumeration
        self._options = [options[p] for p in self.early]
        if self.exact:
            self._completions: Levels = np.zeros((1, 0), np.int32)
            if len(self.early):
                grid = np.meshgrid(*self._options, indexing="ij")
                self._completions = np.stack([axis.ravel() for axis in grid], axis=1).astype(np.int32)
            self._log_weights = np.zeros(len(self._completions))
            for i, p in enumerate(self.early):
                if self._weights is not None and weighted[p]:
                    self._log_weights += np.log(self._weights[starts[p] + self._completions[:, i]])
        self.n_candidates = len(self._completions) if self.exact else n_walks
        self._starts, self._n_levels = starts, n_levels
        self.impossible = any(not len(levels) for levels in options)

    @property
    def mean_columns(self) -> Index:
        """The level, in the order of the variables, that each column of a mean is of."""
        first, n_levels = self._coding.first_levels, self._n_levels
        return np.concatenate([first[v] + np.arange(n) for v, n in zip(self.order, n_levels, strict=True)])

    def columns(self, levels: Levels) -> Levels:
        """Return rows in the order of the variables."""
        out = np.empty_like(levels)
        out[:, self.order] = levels
        return out

    def log_p(self, placed: Placed, columns: Levels) -> Floats:
        """Return log p of complete rows (n, V), in the order of the variables, in the contexts of ``placed``."""
        return self._score(columns[:, self.order], placed, len(self.order))

    def log_marginal(self, placed: Placed, streams: Streams) -> tuple[Floats, Floats]:
        """Return ``log p(evidence)`` of each row, and its variance, (n,) both."""
        n = len(placed.levels)
        if self.impossible:
            return np.full(n, -np.inf), np.zeros(n)
        _, log_w = self._weigh(placed, streams)
        log_p = np.logaddexp.reduce(log_w, axis=1)
        if self.exact:
            return log_p, np.zeros(n)
        if self.n_walks == 1:
            return log_p, np.full(n, np.inf)
        share = _shares(log_w, log_p)
        return log_p, np.maximum((share**2).sum(axis=1) - 1 / self.n_walks, 0) * (self.n_walks / (self.n_walks - 1))

    def draw(self, placed: Placed, which: Index, streams: Streams) -> tuple[Levels, Floats]:
        """Fill in rows ``which`` by draws; return these, and the effective number of walks of each of ``placed``."""
        rows, share, effective = self._posterior(placed, streams)
        chosen = placed.take(which)
        levels, ends = chosen.levels.copy(), np.searchsorted(which, np.arange(len(rows) + 1))
        for i in range(len(rows)) if len(self.early) else ():
            mine = slice(ends[i], ends[i + 1])
            levels[mine] = rows[i][choose_candidates(share[i], ends[i + 1] - ends[i], streams.of(i, CHOOSE))]
        return self._walk(levels, chosen, len(self.order), DRAW, streams, which)[0], effective

    def mean(self, placed: Placed, streams: Streams) -> tuple[Floats, Floats]:
        """Return the probability of every level given the evidence, (n, levels) in order of place, and effective numbers."""
        assert self._weights is None
        rows, share, effective = self._posterior(placed, streams)
        mean = np.zeros((len(rows), int(self._starts[-1])))
        for i in range(len(rows)):
            weight, levels = share[i], rows[i]
            for p in self.early:
                mean[i, self._starts[p] : self._starts[p + 1]] = np.bincount(levels[:, p], weight, self._n_levels[p])
            if not len(self.late):
                continue
            if self.exact:
                levels = levels[choose_candidates(weight, self.n_walks, streams.of(i, CHOOSE))]
                weight = np.full(self.n_walks, 1 / self.n_walks)
            own = placed.take(np.full(len(levels), i))
            along = self._walk(levels, own, len(self.order), DRAW, streams, np.full(len(levels), i))[0]
            after = slice(self._starts[self.reach], None)
            for part in self._parts(len(along)):  # the conditionals along a walk vary less than what was drawn from them
                proba = np.exp(self._log_conditionals(along[part], own.context[part]))
                mean[i, after] += weight[part] @ proba[:, self.mean_columns][:, after]
        return mean, effective

    def mode(self, placed: Placed, streams: Streams) -> tuple[Levels, Floats]:
        """Return each row with its missing variables filled in greedily, and the effective number of walks, (n,)."""
        assert self._weights is None
        n = len(placed.levels)
        each, effective, levels = np.arange(n), np.full(n, np.inf), placed.levels
        if self.exact and len(self.early):
            rows, log_w = self._weigh(placed, streams)
            levels = rows[each, self._greedy(log_w)]
        elif not self.exact:
            greedy = self._likeliest(levels, placed)
            rows, log_w = self._weigh(placed, streams)
            effective = effective_number(log_w)
            greedy[:, self.reach :] = placed.levels[:, self.reach :]
            rows = np.concatenate([greedy[:, None], rows], axis=1)
            owner = np.repeat(each, rows.shape[1])
            log_p = self._score(rows.reshape(len(owner), -1), placed.take(owner), self.reach).reshape(rows.shape[:2])
            levels = rows[each, np.argmax(log_p, axis=1)]
        return self._likeliest(levels, placed), effective

    def _weigh(self, placed: Placed, streams: Streams) -> tuple[Levels, Floats]:
        """Return candidates, rows with the early variables filled in, (n, C, V), and their log weights, (n, C).

        The weights of a row's candidates add up to p(evidence), or to an unbiased estimate of it.
        """
        n, C = len(placed.levels), self.n_candidates
        owner = np.repeat(np.arange(n), C)
        rows, of_rows = placed.levels[owner], placed.take(owner)
        if not self.exact:
            drawn, log_mass = self._walk(rows, of_rows, self.reach, PROPOSE, streams, owner)
            rows[:, : self.reach] = drawn[:, : self.reach]
            return rows.reshape(n, C, -1), log_mass.reshape(n, C) - np.log(self.n_walks)
        rows[:, self.early] = np.tile(self._completions, (n, 1))
        weigh = self._walk(rows, of_rows, self.reach)[1] if len(self._last) else self._score(rows, of_rows, self.reach)
        return rows.reshape(n, C, -1), weigh.reshape(n, C) + self._log_weights

    def _posterior(self, placed: Placed, streams: Streams) -> tuple[Levels, Floats, Floats]:
        """Return candidates, their probabilities given the evidence, and the effective number of walks of each row."""
        n = len(placed.levels)
        if not len(self.early):
            return placed.levels[:, None], np.ones((n, 1)), np.full(n, np.inf)
        rows, log_w = self._weigh(placed, streams)
        share = _shares(log_w, np.logaddexp.reduce(log_w, axis=1))
        return rows, share, np.full(n, np.inf) if self.exact else effective_number(log_w)

    def _greedy(self, log_w: Floats) -> Index:
        """Return the candidate with the likeliest level, given those before, at each early place in turn."""
        n, chosen = len(log_w), np.zeros(len(log_w), np.intp)
        for levels in self._options:
            by_level = log_w.reshape(n, len(levels), -1)
            best = np.argmax(np.logaddexp.reduce(by_level, axis=2), axis=1)
            chosen = chosen * len(levels) + best
            log_w = by_level[np.arange(n), best]
        return chosen

    def _likeliest(self, levels: Levels, placed: Placed) -> Levels:
        """Return rows whose places that are not given have the likeliest level, one after the other."""
        out = np.empty_like(levels)
        for part in self._parts(len(levels)):
            uniforms = np.full(levels[part].shape, -1.0)
            bits = None if placed.bits is None else placed.bits[part]
            out[part] = self.network.walk_levels(levels[part], uniforms, context=bits)[0]
        return out

    def _walk(
        self,
        levels: Levels,
        placed: Placed,
        n_places: int,
        purpose: bytes = b"",
        streams: Streams | None = None,
        owner: Index | None = None,
    ) -> tuple[Levels, Floats]:
        """Walk along the first places from rows; those of row i take the numbers of ``owner[i]``. Return levels, log masses.

        Without streams, only the masses mean something.
        """
        free = np.flatnonzero((levels[:1, :n_places] < 0).any(axis=0))
        out, log_mass = np.empty_like(levels), np.empty(len(levels))
        numbers: Iterator[Any] | None = None
        if streams is not None and owner is not None and len(free):
            numbers = streams.along(purpose, owner, len(free), self._parts(len(levels)))
        for part in self._parts(len(levels)):
            uniforms = np.full(levels[part].shape, 0.5)
            if numbers is not None:
                uniforms[:, free] = next(numbers)
            bits = None if placed.bits is None else placed.bits[part]
            out[part], log_mass[part] = self.network.walk_levels(levels[part], uniforms, self._weights, n_places, bits)
        return out, log_mass

    def _score(self, levels: Levels, placed: Placed, n_places: int) -> Floats:
        """Return log p of the first places of rows, which are given there."""
        out = np.zeros(len(levels))
        for part in self._parts(len(levels)) if n_places else ():
            table = self._table(levels[part], placed.context[part])
            out[part] = self.network.score(pack_rows(table, self.network.order, missing=True), 1, n_places)
        return out

    def _log_conditionals(self, levels: Levels, context: Levels) -> Floats:
        table = self._table(levels, context)
        bits = pack_rows(table, self.network.order)
        return self._coding.log_levels(self.network.conditionals(bits, 1, by_feature=True))

    def _table(self, levels: Levels, context: Levels) -> Coded:
        return Coded(np.concatenate([context, self.columns(levels)], axis=1), self._coding)

    def _parts(self, n: int) -> Iterator[slice]:
        step = self.network.architecture.chunk_rows
        return (slice(i, min(i + step, n)) for i in range(0, n, step))


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


def _product(options: Iterator[NDArray[Any]]) -> int:
    """Return how many combinations there are, 0 counted as 1; beyond what is enumerated, any larger number."""
    out = 1
    for levels in options:
        out *= max(len(levels), 1)
        if out > COMBINATIONS:
            break
    return out


def _shares(log_w: Floats, log_total: Floats) -> Floats:
    """Return the weights of candidates as shares of their sum; 0 where there is none."""
    return np.exp(log_w - np.where(np.isfinite(log_total), log_total, 0)[:, None])
