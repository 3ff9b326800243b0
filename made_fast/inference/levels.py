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
from made_fast.system.blas import weighted_sum
from made_fast.tables.bits import pack_rows
from made_fast.tables.coded import Coded, Coding
from made_fast.tables.digits import Weights

__all__ = ["LevelPattern", "Levels", "Placed", "are_there"]

COMBINATIONS = 1 << ENUMERATED
"""Most combinations of levels that are summed out by enumeration."""

Levels: TypeAlias = "NDArray[np.int32]"


class Placed(NamedTuple):
    """Rows in order of place: levels (n, V), -1 for what is not given, their context as codes and as bits."""

    levels: Levels
    context: Levels
    bits: Bits | None

    def take(self, rows: Index, axis: int = 0) -> Placed:
        """Return some of the rows, as ``ndarray.take`` does."""
        return Placed(self.levels[rows], self.context[rows], None if self.bits is None else self.bits[rows])


class LevelPattern:
    """One pattern of rows, which variables are ``given`` (V,), in the ordering of one network; see ``Pattern``.

    ``weights`` are those of the levels of others. It has the methods of ``Pattern``.
    """

    def __init__(
        self, network: Network, coding: Coding, given: NDArray[np.bool_], weights: Weights, n_walks: int, whole: bool
    ) -> None:
        self.network, self.n_walks, self._coding = network, n_walks, coding
        self.order: Index = np.argsort(network.connectivity.ordering)
        V = len(self.order)
        given, weighted = given[self.order], are_there(weights, V)[self.order]
        n_levels = coding.levels_of[self.order]
        options: dict[int, Index] = {}  # levels of positive weight, where not all have that
        counts: list[int] = n_levels.tolist()  # of levels that are possible
        self._weights, self._partners = None, np.full(V, -1, np.int32)
        if weighted.any():
            own = [np.ones(n) if (w := weights[v]) is None else w for v, n in zip(self.order, n_levels, strict=True)]
            self._weights = np.concatenate([w.ravel() for w in own])
        for p in np.flatnonzero(weighted).tolist():
            options[p] = np.flatnonzero((own[p] > 0).reshape(-1, n_levels[p]).any(axis=0))
            counts[p] = len(options[p])
            if own[p].ndim == 2:  # a low digit: its high one stands before it
                self._partners[p] = p - 1
        starts = np.append(0, np.cumsum(n_levels))
        known = np.flatnonzero(given | weighted)
        # The number of places up to the last one with evidence. The missing variables among them must be summed out.
        self.reach = int(known[-1]) + 1 if len(known) else 0
        free = ~given
        if whole and _product(counts[p] for p in np.flatnonzero(free)) <= COMBINATIONS:
            self.reach = V
        self.early: Index = np.flatnonzero(free[: self.reach])
        self._last: Index = self.early[:0]  # the last place with evidence, if that is weights: a walk sums them
        if len(self.early) and self.early[-1] == self.reach - 1 and weighted[self.reach - 1]:
            self.early, self._last = self.early[:-1], self.early[-1:]
        self.late: Index = np.arange(self.reach, V)
        self.exact = _product(counts[p] for p in self.early) <= COMBINATIONS  # by enumeration
        if self.exact:
            self._options = [options[p] if p in options else np.arange(counts[p]) for p in self.early.tolist()]
            self._completions: Levels = np.zeros((1, 0), np.int32)
            if len(self.early):
                grid = np.meshgrid(*self._options, indexing="ij")
                self._completions = np.stack([axis.ravel() for axis in grid], axis=1).astype(np.int32)
            self._log_weights = np.zeros(len(self._completions))
            for i, p in enumerate(self.early if self._weights is not None else ()):
                level = self._completions[:, i]
                at = level if self._partners[p] < 0 else (self._completions[:, i - 1], level)
                with np.errstate(divide="ignore"):  # of two digits, not all pairs have weight
                    self._log_weights += np.log(own[p][at])
        self.impossible = not all(counts)
        self.n_candidates = 1 if self.impossible else len(self._completions) if self.exact else n_walks
        self._starts, self._n_levels = starts, n_levels

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
                mean[i, after] += weighted_sum(weight[part], proba[:, self.mean_columns][:, after])
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
            numbers = (streams.spread if purpose == PROPOSE else streams.along)(
                purpose, owner, len(free), self._parts(len(levels))
            )
        for part in self._parts(len(levels)):
            uniforms = np.full(levels[part].shape, 0.5)
            if numbers is not None:
                uniforms[:, free] = next(numbers)
            bits = None if placed.bits is None else placed.bits[part]
            out[part], log_mass[part] = self.network.walk_levels(
                levels[part], uniforms, self._weights, n_places, bits, self._partners
            )
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


def are_there(weights: Weights, n_variables: int) -> NDArray[np.bool_]:
    """Return which variables have weights of their levels, (V,)."""
    if not weights:
        return np.zeros(n_variables, np.bool_)
    return np.array([of_levels is not None for of_levels in weights], np.bool_)


def _product(counts: Iterator[int]) -> int:
    """Return how many combinations there are, 0 counted as 1; beyond what is enumerated, any larger number."""
    out = 1
    for count in counts:
        out *= max(count, 1)
        if out > COMBINATIONS:
            break
    return out


def _shares(log_w: Floats, log_total: Floats) -> Floats:
    """Return the weights of candidates as shares of their sum; 0 where there is none."""
    return np.exp(log_w - np.where(np.isfinite(log_total), log_total, 0)[:, None])
