"""Answers of one network about rows that miss the same inputs, and the random numbers of such rows.

Rows are packed bits, 0 where missing. Answers are exact where they can be, see ``density.py``. Not here: many patterns and
networks in one call (``answering.py``), and the arithmetic of a network (``network.py``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from made_fast.network.network import Network
from made_fast.system.blas import weighted_sum
from made_fast.tables.bits import pack_bits, pack_rows, unpack_rows
from made_fast.tables.table import Table

__all__ = ["DRAW", "ENUMERATED", "MEMBER", "Pattern", "Streams"]

ENUMERATED = 12
"""Most inputs that are summed out by enumeration: the scores of 2^12 rows take about as long as a thousand walks."""

Bits: TypeAlias = "NDArray[np.uint64]"
Floats: TypeAlias = "NDArray[np.float64]"
Index: TypeAlias = "NDArray[np.intp]"

PROPOSE, CHOOSE, DRAW, MEMBER = b"propose", b"choose", b"draw", b"member"
"""Purposes of a stream: walks that propose, a choice among them, the walk of a draw, the member that draws. A stream for each
makes the first draws the same however many there are."""


@cache
def _maker() -> Callable[[bytes], np.random.Generator]:
    """Return a function from a digest of 24 bytes to a generator; it imports numpy.random, which a server may never need."""
    from numpy.random.bit_generator import ISeedSequence

    class Key(ISeedSequence):
        """Hands a digest to a bit generator as its whole state: a tenth of the time of seeding one."""

        def __init__(self, digest: bytes) -> None:
            self._digest = digest

        def generate_state(self, n_words: int, dtype: Any = np.uint32) -> NDArray[Any]:
            return np.frombuffer(self._digest, dtype, n_words)

    return lambda digest: np.random.Generator(np.random.SFC64(Key(digest)))  # type: ignore[arg-type]  # not in NumPy's stubs


class Streams(NamedTuple):
    """A stream of random numbers for each of some rows and for each purpose; rows of one name have one stream.

    The numbers of a row depend on the call and on the row, not on the rows beside it.
    """

    root: bytes  # at most 64, of the call and the network that answers
    names: NDArray[np.uint64]  # of each row, (n, words), little-endian

    def of(self, row: int, purpose: bytes) -> np.random.Generator:
        """Return the stream of a row, at its beginning."""
        digest = hashlib.blake2b(self.names[row].tobytes(), digest_size=24, key=self.root, person=purpose).digest()
        return _maker()(digest)

    def take(self, rows: NDArray[np.intp]) -> Streams:
        """Return the streams of some of the rows."""
        return Streams(self.root, self.names[rows])

    def uniforms(self, purpose: bytes, n: int) -> NDArray[np.float64]:
        """Return the first n numbers of every row, (rows, n)."""
        out = np.empty((len(self.names), n))
        for row, numbers in enumerate(out):
            self.of(row, purpose).random(out=numbers)
        return out

    def along(
        self, purpose: bytes, owner: NDArray[np.intp], width: int, parts: Iterable[slice]
    ) -> Iterator[NDArray[np.float64]]:
        """Yield ``width`` numbers for every entry of ``owner``, (entries, width), one slice after the other.

        Entry i takes the next ones of row ``owner[i]``; the entries of a row stand together.
        """
        last = -1
        for part in parts:
            mine = owner[part]
            out = np.empty((len(mine), width))
            for start, stop in pairwise([*np.flatnonzero(np.diff(mine, prepend=-1)).tolist(), len(mine)]):
                if mine[start] != last:  # otherwise the slice before has ended amid this row
                    last = int(mine[start])
                    stream = self.of(last, purpose)
                stream.random(out=out[start:stop])
            yield out

    def spread(
        self, purpose: bytes, owner: NDArray[np.intp], width: int, parts: Iterable[slice]
    ) -> Iterator[NDArray[np.float64]]:
        """Yield numbers as :meth:`along`, for C entries of every row; in each column, one in every C-th part of 0..1.

        A Latin hypercube: the mean over the entries of a row keeps its expectation and has a smaller variance, for what
        depends on few columns (McKay, Beckman, Conover 1979; Owen, "Monte Carlo theory, methods and examples", section 10.3).
        """
        firsts = np.flatnonzero(np.diff(owner, prepend=-1))
        C = len(owner) // len(firsts)
        out = np.empty((len(firsts), C, width))
        each = np.broadcast_to(np.arange(C)[:, None], (C, width))
        for numbers, first in zip(out, firsts.tolist(), strict=True):
            stream = self.of(int(owner[first]), purpose)
            numbers[:] = (stream.permuted(each, axis=0) + stream.random((C, width))) / C
        found = out.reshape(-1, width)
        return (found[part] for part in parts)


class Pattern:
    """One pattern of observed inputs, (D,) bool in order of features, in the ordering of one network.

    Its rows are in order of place. ``n_walks`` are those of each row, where an answer is an estimate. ``whole`` sums out all
    missing inputs by enumeration, if there are no more than ``ENUMERATED``, not just the early ones.
    """

    def __init__(self, network: Network, observed: NDArray[np.bool_], n_walks: int, whole: bool = False) -> None:
        self.network = network
        self.n_walks = n_walks
        missing = ~observed[network.order]
        D = len(missing)
        enumerable = np.count_nonzero(missing) <= ENUMERATED
        # The number of places up to the last observed one. The missing inputs among them must be summed out.
        self.reach = D if whole and enumerable else int(D - np.argmin(missing[::-1])) if observed.any() else 0
        self.missing: Index = np.flatnonzero(missing)
        self.early: Index = np.flatnonzero(missing[: self.reach])
        self.late: Index = np.arange(self.reach, D)
        self.exact = len(self.early) <= ENUMERATED  # by enumeration
        if not len(self.early):
            self._completions = np.zeros((1, -(-D // 64)), np.uint64)
        elif self.exact:
            codes = np.arange(1 << len(self.early))
            completions = np.zeros((len(codes), D), np.uint8)
            completions[:, self.early] = (codes[:, None] >> np.arange(len(self.early))) & 1
            self._completions = pack_bits(completions)
        self.n_candidates = len(self._completions) if self.exact else n_walks  # rows through the network to weigh one

    def place(self, X: NDArray[np.uint8]) -> Bits:
        """Pack rows (n, D) in the order of features."""
        return pack_rows(Table(X), self.network.order)

    @property
    def mean_columns(self) -> Index:
        """The feature that each column of a mean is of."""
        return self.network.order

    def log_p(self, _: Bits, columns: NDArray[np.uint8]) -> Floats:
        """Return log p of complete rows (n, D) in the order of features."""
        return self.network.score(self.place(columns), 1)

    def columns(self, bits: Bits) -> NDArray[np.uint8]:
        """Undo ``place``."""
        X = np.empty((len(bits), len(self.network.order)), np.uint8)
        X[:, self.network.order] = self._unpack(bits)
        return X

    def log_marginal(self, bits: Bits, streams: Streams) -> tuple[Floats, Floats]:
        """Return ``log p(observed)`` of each row, and its variance, (n,) both."""
        _, log_w, _ = self._weigh(bits, streams)
        log_p = np.logaddexp.reduce(log_w, axis=1)
        if self.exact:
            return log_p, np.zeros(len(bits))
        if self.n_walks == 1:
            return log_p, np.full(len(bits), np.inf)
        share = np.exp(log_w - log_p[:, None])
        # The delta method: the variance of the mean weight in units of its square.
        return log_p, np.maximum((share**2).sum(axis=1) - 1 / self.n_walks, 0) * (self.n_walks / (self.n_walks - 1))

    def draw(self, bits: Bits, which: Index, streams: Streams) -> tuple[Bits, Floats]:
        """Fill in ``bits[which]`` by draws; return these rows and the effective number of walks of each of ``bits``.

        ``which`` never decreases.
        """
        rows, share, effective = self._posterior(bits, streams)
        chosen = bits[which]
        ends = np.searchsorted(which, np.arange(len(bits) + 1))
        for i in range(len(bits)) if len(self.early) else ():
            mine = slice(ends[i], ends[i + 1])
            chosen[mine] = rows[i][choose_candidates(share[i], len(chosen[mine]), streams.of(i, CHOOSE))]
        return self._drawn(chosen, self.late, DRAW, streams, which), effective

    def mean(self, bits: Bits, streams: Streams) -> tuple[Floats, Floats]:
        """Return ``E[x | observed]`` of each row, (n, D), and the effective number of walks, (n,)."""
        rows, share, effective = self._posterior(bits, streams)
        mean = self._unpack(bits).astype(np.float64)
        for i in range(len(bits)):
            along, weight = rows[i], share[i]
            mean[i, self.early] = weighted_sum(weight, self._unpack(along)[:, self.early])
            if not len(self.late):
                continue
            if self.exact:
                along = along[choose_candidates(weight, self.n_walks, streams.of(i, CHOOSE))]
                along = self._drawn(along, self.late, DRAW, streams, np.full(self.n_walks, i))
                weight = np.full(self.n_walks, 1 / self.n_walks)
            for part in self._parts(len(along)):  # the conditionals along a walk vary less than what was drawn from them
                mean[i, self.late] += weighted_sum(weight[part], self.network.conditionals(along[part], 1)[:, self.late])
        return mean, effective

    def mode(self, bits: Bits, streams: Streams) -> tuple[Bits, Floats]:
        """Return each row with its missing inputs filled in greedily, and the effective number of walks, (n,)."""
        each, effective = np.arange(len(bits)), np.full(len(bits), np.inf)
        if self.exact and len(self.early):
            rows, log_w, _ = self._weigh(bits, streams)
            bits = rows[each, _greedy(log_w, len(self.early))]
        elif not self.exact:
            greedy = self._likelier(bits, self.missing)
            rows, log_w, log_p = self._weigh(bits, streams)
            effective = effective_number(log_w)
            log_p = np.concatenate([self._score(greedy)[:, None], log_p], axis=1)
            bits = np.concatenate([greedy[:, None], rows], axis=1)[each, np.argmax(log_p, axis=1)]
        return self._likelier(bits, self.late), effective

    def _weigh(self, bits: Bits, streams: Streams) -> tuple[Bits, Floats, Floats]:
        """Return candidates, rows with the early inputs filled in, (n, C, W), their log weights, and log p up to ``reach``.

        The weights of a row's candidates add up to p(observed), or to an unbiased estimate of it.
        """
        if self.exact:
            rows = bits[:, None] | self._completions
            log_p = self._score(rows)
            return rows, log_p, log_p
        owner = np.repeat(np.arange(len(bits)), self.n_walks)
        rows = self._drawn(bits[owner], self.missing, PROPOSE, streams, owner)
        # A weight is the product of p(evidence | before) over the places. As p(all) over p(what was drawn) it keeps its
        # precision when evidence is unlikely: 1 - p has none left then, but a draw is hardly ever that unlikely.
        log_q = np.empty(len(rows))
        for part in self._parts(len(rows)):
            proba = self.network.conditionals(rows[part], 1)[:, self.early].astype(np.float64)
            drawn = np.where(self._unpack(rows[part])[:, self.early], proba, 1 - proba)
            # NumPy adds in an order that depends on the memory layout, and one row may be laid out in both ways.
            log_q[part] = np.ascontiguousarray(np.log(np.maximum(drawn, np.finfo(np.float64).tiny))).sum(axis=1)
        rows = rows.reshape(len(bits), self.n_walks, -1)
        log_p = self._score(rows)
        return rows, log_p - log_q.reshape(log_p.shape) - np.log(self.n_walks), log_p

    def _posterior(self, bits: Bits, streams: Streams) -> tuple[Bits, Floats, Floats]:
        """Return candidates, their probabilities given the evidence, and the effective number of walks of each row."""
        if not len(self.early):
            return bits[:, None], np.ones((len(bits), 1)), np.full(len(bits), np.inf)
        rows, log_w, _ = self._weigh(bits, streams)
        share = np.exp(log_w - np.logaddexp.reduce(log_w, axis=1)[:, None])
        return rows, share, np.full(len(bits), np.inf) if self.exact else effective_number(log_w)

    def _likelier(self, bits: Bits, free: Index) -> Bits:
        """Return rows with new bits at the places ``free``, one after the other: the likelier ones."""
        return self._walk(bits, free, (0.5 for _ in self._parts(len(bits))))

    def _drawn(self, bits: Bits, free: Index, purpose: bytes, streams: Streams, owner: Index) -> Bits:
        """Return rows with bits drawn at the places ``free``, those of row i by the stream of ``owner[i]``."""
        return self._walk(bits, free, streams.along(purpose, owner, len(free), self._parts(len(bits))))

    def _walk(self, bits: Bits, free: Index, numbers: Iterator[Any]) -> Bits:
        if not len(free):
            return bits
        out, places = np.empty_like(bits), np.arange(len(self.network.order))
        for part in self._parts(len(bits)):
            uniforms = np.where(self._unpack(bits[part]), -1.0, 2.0)
            uniforms[:, free] = next(numbers)
            out[part] = pack_bits(self.network.walk(uniforms, places))
        return out

    def _score(self, rows: Bits) -> Floats:
        """Return log p of the first ``reach`` places of rows (..., W)."""
        if not self.reach:
            return np.zeros(rows.shape[:-1])
        return self.network.score(rows.reshape(-1, rows.shape[-1]), 1, self.reach).reshape(rows.shape[:-1])

    def _unpack(self, bits: Bits) -> NDArray[np.uint8]:
        return unpack_rows(bits, len(self.network.order))

    def _parts(self, n: int) -> Iterator[slice]:
        step = self.network.architecture.chunk_rows
        return (slice(i, min(i + step, n)) for i in range(0, n, step))


def choose_candidates(share: Floats, n: int, rng: np.random.Generator) -> Index:
    """Draw n candidates with these probabilities."""
    up_to = np.cumsum(share)
    return np.asarray(np.searchsorted(up_to[:-1], rng.random(n) * up_to[-1], side="right"), np.intp)


def _greedy(log_w: Floats, e: int) -> Index:
    """Return the candidate with the likelier bit, given those before, at each early place in turn (bit i: place i)."""
    chosen = np.zeros(len(log_w), np.intp)
    for i in range(e):
        by_bit = log_w.reshape(len(log_w), -1, 2)
        totals = np.logaddexp.reduce(by_bit, axis=1)
        bit = (totals[:, 1] > totals[:, 0]).astype(np.intp)
        chosen |= bit << i
        log_w = by_bit[np.arange(len(log_w)), :, bit]
    return chosen


def effective_number(log_w: Floats) -> Floats:
    """Return ``(sum w)^2 / sum w^2`` of each row: the number of walks of equal weight that would be worth as much."""
    w = np.exp(log_w - log_w.max(axis=1, keepdims=True))
    return w.sum(axis=1) ** 2 / (w**2).sum(axis=1)  # type: ignore[no-any-return]
