"""Answers of single members about rows that miss the same inputs, and how those of many patterns are put together.

Rows are packed bits, 0 where missing. :class:`Evidence` is one pattern of observed inputs as it stands in the ordering of one
member; what it computes is exact where it can be, see ``queries.py``. :class:`Inquiry` is one call of a user: rows grouped by
pattern, spread over threads, members mixed. Not here: what the user gives and is told (``queries.py``), and how a network
computes (``network.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from made_fast import data, threads
from made_fast.network import Architecture, Network

__all__ = ["ENUMERATED", "Evidence", "Inquiry", "Table", "Walks"]

ENUMERATED = 12
"""Most inputs that are summed out by enumeration: to score 2^12 rows takes about as long as a thousand walks."""

AT_ONCE = 64
"""Most members that are held at once, each for one pattern; fewer if they are large."""

PACKED_BYTES = 64 << 20
"""What such members may take together."""

Bits: TypeAlias = "NDArray[np.uint64]"
Floats: TypeAlias = "NDArray[np.float64]"
Index: TypeAlias = "NDArray[np.intp]"


class Walks(NamedTuple):
    """How an estimate is made: the number of walks for each row and their random numbers."""

    n: int
    rng: np.random.Generator


class Evidence:
    """One pattern of observed inputs as it stands in the ordering of one member. Rows come and go in order of place.

    Parameters
    ----------
    network : Network
    observed : (D,) bool
        In order of features.
    whole : bool
        Sum out all that is missing by enumeration, if it is no more than ``ENUMERATED`` inputs, not just what must be.

    Attributes
    ----------
    reach : int
        How many places go up to the last observed one.
    early : (e,) intp
        Places of the missing inputs among them: what must be summed out, because evidence comes after it.
    exact : bool
        Whether that is done by enumeration.
    """

    def __init__(self, network: Network, observed: NDArray[np.bool_], whole: bool = False) -> None:
        self.network = network
        missing = ~observed[network.order]
        D = len(missing)
        enumerable = np.count_nonzero(missing) <= ENUMERATED
        self.reach = D if whole and enumerable else int(D - np.argmin(missing[::-1])) if observed.any() else 0
        self.missing: Index = np.flatnonzero(missing)
        self.early: Index = np.flatnonzero(missing[: self.reach])
        self.late: Index = np.arange(self.reach, D)
        self.exact = len(self.early) <= ENUMERATED
        if not len(self.early):
            self._completions = np.zeros((1, -(-D // 64)), np.uint64)
        elif self.exact:
            codes = np.arange(1 << len(self.early))
            completions = np.zeros((len(codes), D), np.uint8)
            completions[:, self.early] = (codes[:, None] >> np.arange(len(self.early))) & 1
            self._completions = pack(completions)

    def n_candidates(self, n_walks: int) -> int:
        """Return how many rows go through the network to weigh one."""
        return len(self._completions) if self.exact else n_walks

    def place(self, X: NDArray[np.uint8]) -> Bits:
        """Pack rows (n, D) in the order of features."""
        return data.pack_rows(X, self.network.order)

    def columns(self, bits: Bits) -> NDArray[np.uint8]:
        """Undo ``place``."""
        X = np.empty((len(bits), len(self.network.order)), np.uint8)
        X[:, self.network.order] = self._unpack(bits)
        return X

    def log_marginal(self, bits: Bits, walks: Walks) -> tuple[Floats, Floats]:
        """Return ``log p(observed)`` of each row, and its variance, (n,) both."""
        _, log_w, _ = self._weigh(bits, walks)
        log_p = np.logaddexp.reduce(log_w, axis=1)
        if self.exact:
            return log_p, np.zeros(len(bits))
        if walks.n == 1:
            return log_p, np.full(len(bits), np.inf)
        share = np.exp(log_w - log_p[:, None])
        # The delta method: the variance of the mean weight in units of its square.
        return log_p, np.maximum((share**2).sum(axis=1) - 1 / walks.n, 0) * (walks.n / (walks.n - 1))

    def draw(self, bits: Bits, which: Index, walks: Walks) -> tuple[Bits, Floats]:
        """Draw what is missing of ``bits[which]``; return these rows and the effective number of walks of each of ``bits``."""
        rows, share, effective = self._posterior(bits, walks)
        chosen = bits[which]
        for i in range(len(bits)) if len(self.early) else ():
            mine = np.flatnonzero(which == i)
            chosen[mine] = rows[i][_choose(share[i], len(mine), walks.rng)]
        return self._walk(chosen, self.late, walks.rng), effective

    def mean(self, bits: Bits, walks: Walks) -> tuple[Floats, Floats]:
        """Return ``E[x | observed]`` of each row, (n, D), and the effective number of walks, (n,)."""
        rows, share, effective = self._posterior(bits, walks)
        mean = self._unpack(bits).astype(np.float64)
        for i in range(len(bits)):
            along, weight = rows[i], share[i]
            mean[i, self.early] = weight @ self._unpack(along)[:, self.early]
            if not len(self.late):
                continue
            if self.exact:
                drawn = along[_choose(weight, walks.n, walks.rng)]
                along, weight = self._walk(drawn, self.late, walks.rng), np.full(walks.n, 1 / walks.n)
            for part in self._parts(len(along)):  # the conditionals along a walk vary less than what was drawn from them
                mean[i, self.late] += weight[part] @ self._conditionals(along[part])[:, self.late]
        return mean, effective

    def mode(self, bits: Bits, walks: Walks) -> tuple[Bits, Floats]:
        """Return each row with its missing inputs filled in greedily, and the effective number of walks, (n,)."""
        each, effective = np.arange(len(bits)), np.full(len(bits), np.inf)
        if self.exact and len(self.early):
            rows, log_w, _ = self._weigh(bits, walks)
            bits = rows[each, _greedy(log_w, len(self.early))]
        elif not self.exact:
            greedy = self._walk(bits, self.missing, None)
            rows, log_w, log_p = self._weigh(bits, walks)
            effective = _effective(log_w)
            log_p = np.concatenate([self._score(greedy)[:, None], log_p], axis=1)
            bits = np.concatenate([greedy[:, None], rows], axis=1)[each, np.argmax(log_p, axis=1)]
        return self._walk(bits, self.late, None), effective

    def _weigh(self, bits: Bits, walks: Walks) -> tuple[Bits, Floats, Floats]:
        """Return candidates, rows with the early inputs filled in, (n, C, W), their log weights, and log p up to ``reach``.

        The weights of a row's candidates add up to p(observed), or to an unbiased estimate of it.
        """
        if self.exact:
            rows = bits[:, None] | self._completions
            log_p = self._score(rows)
            return rows, log_p, log_p
        rows = self._walk(np.repeat(bits, walks.n, axis=0), self.missing, walks.rng)
        # A weight is p(evidence | before), place by place, multiplied. Taken as p(all) over p(what was drawn) it keeps its
        # precision when evidence is unlikely: 1 - p has none left then, but what was drawn was hardly ever that unlikely.
        log_q = np.empty(len(rows))
        for part in self._parts(len(rows)):
            proba = self._conditionals(rows[part])[:, self.early].astype(np.float64)
            drawn = np.where(self._unpack(rows[part])[:, self.early], proba, 1 - proba)
            log_q[part] = np.log(np.maximum(drawn, np.finfo(np.float64).tiny)).sum(axis=1)
        rows = rows.reshape(len(bits), walks.n, -1)
        log_p = self._score(rows)
        return rows, log_p - log_q.reshape(log_p.shape) - np.log(walks.n), log_p

    def _posterior(self, bits: Bits, walks: Walks) -> tuple[Bits, Floats, Floats]:
        """Return candidates, their probabilities given the evidence, and the effective number of walks of each row."""
        if not len(self.early):
            return bits[:, None], np.ones((len(bits), 1)), np.full(len(bits), np.inf)
        rows, log_w, _ = self._weigh(bits, walks)
        share = np.exp(log_w - np.logaddexp.reduce(log_w, axis=1)[:, None])
        return rows, share, np.full(len(bits), np.inf) if self.exact else _effective(log_w)

    def _walk(self, bits: Bits, free: Index, rng: np.random.Generator | None) -> Bits:
        """Return rows with new bits at the places ``free``: drawn ones or, without rng, the likelier ones."""
        if not len(free):
            return bits
        out = np.empty_like(bits)
        for part in self._parts(len(bits)):
            uniforms = np.where(self._unpack(bits[part]), -1.0, 2.0)
            uniforms[:, free] = 0.5 if rng is None else rng.random((len(uniforms), len(free)))
            out[part] = pack(self.network.walk(uniforms))
        return out

    def _score(self, rows: Bits) -> Floats:
        """Return log p of the first ``reach`` places of rows (..., W)."""
        if not self.reach:
            return np.zeros(rows.shape[:-1])
        return self.network.score_bits(rows.reshape(-1, rows.shape[-1]), 1, self.reach).reshape(rows.shape[:-1])

    def _conditionals(self, bits: Bits) -> NDArray[Any]:
        return self.network.conditionals(len(bits), bits.__getitem__, 1)

    def _unpack(self, bits: Bits) -> NDArray[np.uint8]:
        return data.unpack_rows(bits, len(self.network.order))

    def _parts(self, n: int) -> Iterator[slice]:
        step = self.network.architecture.chunk_rows
        return (slice(i, min(i + step, n)) for i in range(0, n, step))


def pack(X: NDArray[np.uint8]) -> Bits:
    """Pack rows (n, D) without changing the order of the columns."""
    return data.pack_rows(X, np.arange(X.shape[1]))


def _choose(share: Floats, n: int, rng: np.random.Generator) -> Index:
    """Draw n candidates with these probabilities."""
    up_to = np.cumsum(share)
    chosen: Index = np.searchsorted(up_to[:-1], rng.random(n) * up_to[-1], side="right")
    return chosen


def _greedy(log_w: Floats, e: int) -> Index:
    """Return the candidate with the likelier bit, given those before, at one early place after the other (bit i: place i)."""
    chosen = np.zeros(len(log_w), np.intp)
    for i in range(e):
        by_bit = log_w.reshape(len(log_w), -1, 2)
        totals = np.logaddexp.reduce(by_bit, axis=1)
        bit = (totals[:, 1] > totals[:, 0]).astype(np.intp)
        chosen |= bit << i
        log_w = by_bit[np.arange(len(log_w)), :, bit]
    return chosen


def _effective(log_w: Floats) -> Floats:
    """Return ``(sum w)^2 / sum w^2`` of each row: how many walks of equal weight would be worth as much."""
    w = np.exp(log_w - log_w.max(axis=1, keepdims=True))
    effective: Floats = w.sum(axis=1) ** 2 / (w**2).sum(axis=1)
    return effective


class Table(NamedTuple):
    """Packed rows in the order of features: where they are 1, where they are missing, and D."""

    bits: Bits
    missing: Bits
    n_inputs: int

    def columns(self, bits: Bits) -> NDArray[np.uint8]:
        """Return packed rows as (n, D)."""
        return data.unpack_rows(bits, self.n_inputs)

    def patterns(self) -> list[Index]:
        """Return the rows of each pattern of missing inputs."""
        _, pattern = data.distinct_rows(self.missing)
        return np.split(np.argsort(pattern, kind="stable"), np.cumsum(np.bincount(pattern))[:-1])

    def with_target(self, columns: Index) -> Table:
        """Return the rows with 0 in these columns (n,), then the rows with 1 there; in any case not missing."""
        n = len(self.bits)
        bits, missing = np.tile(self.bits, (2, 1)), np.tile(self.missing, (2, 1))
        at, one = (np.arange(2 * n), np.tile(columns // 64, 2)), np.tile(np.uint64(1) << (columns % 64).astype(np.uint64), 2)
        missing[at] &= ~one
        bits[at] &= ~one
        bits[n:][np.arange(n), columns // 64] |= one[n:]
        return Table(bits, missing, self.n_inputs)


class Question(NamedTuple):
    """A block of rows that miss the same inputs, asked of one member; ``bits`` are the rows in order of its places."""

    evidence: Evidence
    draw: int
    rows: Index
    bits: Bits
    walks: Walks


@dataclass(frozen=True)
class Inquiry:
    """One call: a table, and all that says how to answer.

    Attributes
    ----------
    architecture, dtype
        Of the model.
    network_for : callable
        ``network_for(observed, draw)`` is the network that answers for a pattern; ``draw`` says which of several.
    table : Table
    n_members : int
        How many of them answer together, as a mixture in equal parts.
    n_walks : int
        For each row and member, where an answer is an estimate.
    rng : Generator
    n_threads : int
    """

    architecture: Architecture
    dtype: np.dtype[Any]
    network_for: Callable[[NDArray[np.bool_], int], Network]
    table: Table
    n_members: int
    n_walks: int
    rng: np.random.Generator
    n_threads: int

    def log_marginal(self) -> tuple[Floats, Floats]:
        """Return log p of what is observed of each row, and its standard error, (n,) both."""
        log_p, variance = self._log_marginals()
        total = np.logaddexp.reduce(log_p, axis=0)
        return total - np.log(self.n_members), np.sqrt((np.exp(log_p - total) ** 2 * variance).sum(axis=0))

    def draws(self, n_draws: int) -> tuple[NDArray[np.uint8], Floats]:
        """Return draws (n_draws, n, D) and the smallest effective number of walks of each row (inf: exact)."""
        n = len(self.table.bits)
        who = np.zeros((n_draws, n), np.intp)
        if self.n_members > 1:
            uniforms = self.rng.random(who.shape)
            for up_to in np.cumsum(self._shares(), axis=0)[:-1]:
                who += uniforms >= up_to
        out = np.empty((n_draws, n, self.table.n_inputs), np.uint8)
        effective = np.full((self.n_members, n), np.inf)

        def work(q: Question) -> None:
            draws, which = np.nonzero(who[:, q.rows] == q.draw)
            if len(which):
                used, which = np.unique(which, return_inverse=True)
                drawn, effective[q.draw, q.rows[used]] = q.evidence.draw(q.bits[used], which, q.walks)
                out[draws, q.rows[used[which]]] = q.evidence.columns(drawn)

        self._ask(work, lambda evidence: max(evidence.n_candidates(self.n_walks), n_draws))
        return out, effective.min(axis=0)

    def means(self) -> tuple[Floats, Floats]:
        """Return ``E[x | observed]``, (n, D), and the smallest effective number of walks of each row."""
        shares = self._shares()
        out, effective = np.zeros((len(self.table.bits), self.table.n_inputs)), np.full(len(self.table.bits), np.inf)

        def work(q: Question) -> None:
            mean, found = q.evidence.mean(q.bits, q.walks)
            out[q.rows[:, None], q.evidence.network.order] += shares[q.draw, q.rows, None] * mean
            effective[q.rows] = np.minimum(effective[q.rows], found)

        def passes(evidence: Evidence) -> int:
            return max(evidence.n_candidates(self.n_walks), self.n_walks if len(evidence.late) else 1)

        for draw in range(self.n_members):  # one after the other, so that the order of the sums is fixed
            self._ask(work, passes, [draw], whole=True)
        missing, ones = self.table.columns(self.table.missing), self.table.columns(self.table.bits)
        return np.where(missing, np.clip(out, 0, 1), ones), effective

    def modes(self) -> tuple[NDArray[np.uint8], Floats]:
        """Return each row as that member fills it in whose way is the most probable, and effective numbers as above."""
        M, n = self.n_members, len(self.table.bits)
        found, effective = np.empty((M, *self.table.bits.shape), np.uint64), np.full((M, n), np.inf)
        log_p = np.full((M, n), -np.inf)

        def work(q: Question) -> None:
            mode, effective[q.draw, q.rows] = q.evidence.mode(q.bits, q.walks)
            found[q.draw, q.rows] = pack(q.evidence.columns(mode))

        def judge(q: Question) -> None:
            for i in range(M):
                bits = q.evidence.place(self.table.columns(found[i, q.rows]))
                log_p[i, q.rows] = np.logaddexp(log_p[i, q.rows], q.evidence.network.score_bits(bits, 1))

        self._ask(work, lambda evidence: evidence.n_candidates(self.n_walks))
        for draw in range(M) if M > 1 else ():
            self._ask(judge, lambda _: M, [draw])
        return self.table.columns(found[np.argmax(log_p, axis=0), np.arange(n)]), effective.min(axis=0)

    def _log_marginals(self) -> tuple[Floats, Floats]:
        """Return log p of what is observed under each member, and its variance, (M, n) both."""
        log_p, variance = np.empty((2, self.n_members, len(self.table.bits)))

        def work(q: Question) -> None:
            log_p[q.draw, q.rows], variance[q.draw, q.rows] = q.evidence.log_marginal(q.bits, q.walks)

        self._ask(work, lambda evidence: evidence.n_candidates(self.n_walks))
        return log_p, variance

    def _shares(self) -> Floats:
        """Return the weight of each member in the mixture given what is observed, (M, n)."""
        if self.n_members == 1:
            return np.ones((1, len(self.table.bits)))
        log_p, _ = self._log_marginals()
        shares: Floats = np.exp(log_p - np.logaddexp.reduce(log_p, axis=0))
        return shares

    def _ask(
        self,
        work: Callable[[Question], None],
        passes: Callable[[Evidence], int],
        draws: Sequence[int] | None = None,
        *,
        whole: bool = False,
    ) -> None:
        """Call ``work`` for every block of rows that miss the same inputs and each of the members ``draws``, by default all.

        ``passes(evidence)``: how many rows go through the network for each row asked about; ``whole``: see ``Evidence``.
        Random numbers belong to the block, not to the thread.
        """
        units = [(draw, rows) for draw in draws or range(self.n_members) for rows in self.table.patterns()]
        root: list[int] = self.rng.integers(2**32, size=4).tolist()
        at_once = max(1, min(AT_ONCE, PACKED_BYTES // (self.architecture.n_packed * self.dtype.itemsize)))
        chunk_rows = self.architecture.chunk_rows

        def batch(first: int) -> None:
            some = units[first : first + at_once]
            evidence: dict[int, Evidence] = {}

            def look(u: int, _: int) -> None:
                draw, rows = some[u]
                observed = self.table.columns(self.table.missing[rows[:1]])[0] == 0
                evidence[u] = Evidence(self.network_for(observed, draw), observed, whole)

            threads.for_each(look, len(some), self.n_threads)
            blocks = []
            for u, (_, rows) in enumerate(some):
                step = max(1, chunk_rows // passes(evidence[u]))
                blocks += [(u, i, rows[i : i + step]) for i in range(0, len(rows), step)]

            def answer(b: int, _: int) -> None:
                u, start, rows = blocks[b]
                bits = evidence[u].place(self.table.columns(self.table.bits[rows]))
                own = np.random.default_rng([*root, first + u, start])
                work(Question(evidence[u], some[u][0], rows, bits, Walks(self.n_walks, own)))

            threads.for_each(answer, len(blocks), self.n_threads)

        for first in range(0, len(units), at_once):
            batch(first)
