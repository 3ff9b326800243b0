"""One call of a user: rows grouped by what they miss, spread over threads, members mixed.

Rows are packed bits, 0 where missing. Not here: what one member says of one pattern (``evidence.py``), what the user gives and
is told (``queries.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from made_fast.inference.evidence import Evidence, Walks, pack
from made_fast.inference.streams import MEMBER, Streams
from made_fast.network.architecture import Architecture
from made_fast.network.network import Network
from made_fast.system import threads
from made_fast.tables import data

__all__ = ["Inquiry", "Table", "choose"]

AT_ONCE = 64
"""Most members that are held at once, each for one pattern; fewer if they are large."""

PACKED_BYTES = 64 << 20
"""What such members may take together."""

Bits: TypeAlias = "NDArray[np.uint64]"
Floats: TypeAlias = "NDArray[np.float64]"
Index: TypeAlias = "NDArray[np.intp]"


class Table(NamedTuple):
    """Packed rows in the order of features: where they are 1 and where they are missing, (n, W) both, and D.

    ``copies``, (n,) if it is there, numbers the rows that are equal: 0 for the first of them. Equal rows then have random
    numbers of their own; otherwise they have the same.
    """

    bits: Bits
    missing: Bits
    n_inputs: int
    copies: Index | None = None

    def take(self, rows: Index) -> Table:
        """Return some of the rows."""
        copies = None if self.copies is None else self.copies[rows]
        return Table(self.bits[rows], self.missing[rows], self.n_inputs, copies)

    def counted(self) -> Table:
        """Return the table with ``copies``."""
        if self.copies is not None:
            return self
        _, of_row = data.distinct_rows(np.concatenate([self.bits, self.missing], axis=1))
        together = np.argsort(of_row, kind="stable")
        counts = np.bincount(of_row)
        copies = np.empty(len(of_row), np.intp)
        copies[together] = np.arange(len(of_row)) - np.repeat(np.cumsum(counts) - counts, counts)
        return self._replace(copies=copies)

    def names(self) -> Bits:
        """Return what random numbers know each row by, (n, 2 W + 1): all that it holds, and which copy it is."""
        copies = np.zeros(len(self.bits), np.intp) if self.copies is None else self.copies
        return np.concatenate([self.bits, self.missing, copies[:, None].astype(np.uint64)], axis=1).astype("<u8", copy=False)

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
        Gives the roots of the rows' streams, as many for every table.
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
        return total - np.log(self.n_members), np.sqrt(sum(np.exp(log_p - total) ** 2 * variance))

    def draws(self, n_draws: int) -> tuple[NDArray[np.uint8], Floats]:
        """Return draws (n_draws, n, D) and the smallest effective number of walks of each row (inf: exact)."""
        if self.table.copies is None:
            return replace(self, table=self.table.counted()).draws(n_draws)
        n = len(self.table.bits)
        who = self.who(self._shares(), n_draws) if self.n_members > 1 else np.zeros((n_draws, n), np.intp)
        out = np.empty((n_draws, n, self.table.n_inputs), np.uint8)
        effective = np.full((self.n_members, n), np.inf)

        def work(q: Question) -> None:
            which, draws = np.nonzero((who == q.draw)[:, q.rows].T)
            if len(which):
                used, which = np.unique(which, return_inverse=True)
                walks = Walks(self.n_walks, q.walks.streams.take(used))
                drawn, effective[q.draw, q.rows[used]] = q.evidence.draw(q.bits[used], which, walks)
                out[draws, q.rows[used[which]]] = q.evidence.columns(drawn)

        self._ask(work, lambda evidence: max(evidence.n_candidates(self.n_walks), n_draws))
        return out, effective.min(axis=0)

    def who(self, shares: Floats, n_draws: int) -> Index:
        """Draw who answers, (n_draws, n), where who comes m-th has the shares (M, n)."""
        return choose(shares, Streams(self.rng.bytes(16), self.table.names()).uniforms(MEMBER, n_draws).T)

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
        """
        units = [(draw, rows) for draw in draws or range(self.n_members) for rows in self.table.patterns()]
        root = self.rng.bytes(16)
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
                blocks += [(u, rows[i : i + step]) for i in range(0, len(rows), step)]

            def answer(b: int, _: int) -> None:
                u, rows = blocks[b]
                draw, part = some[u][0], self.table.take(rows)
                bits = evidence[u].place(self.table.columns(part.bits))
                streams = Streams(root + draw.to_bytes(4, "little"), part.names())
                work(Question(evidence[u], draw, rows, bits, Walks(self.n_walks, streams)))

            threads.for_each(answer, len(blocks), self.n_threads)

        for first in range(0, len(units), at_once):
            batch(first)


def choose(shares: Floats, uniforms: Floats) -> Index:
    """Return who is chosen by each uniform, (..., n), where who comes m-th has the shares (M, n) or (M, 1)."""
    who = np.zeros(uniforms.shape, np.intp)
    for up_to in np.cumsum(shares, axis=0)[:-1]:
        who += uniforms >= up_to
    return who
