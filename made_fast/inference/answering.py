"""One call about rows with missing inputs: spread over patterns, networks and threads, and put together as a mixture.

Rows are packed bits, 0 where missing, or codes of levels. Not here: the answers of one network about rows that miss the same
inputs (``pattern.py``, ``levels.py``), checks of arguments and warnings (``density.py``).
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from made_fast.inference.levels import LevelPattern
from made_fast.inference.pattern import MEMBER, Floats, Index, Pattern, Streams
from made_fast.inference.rows import Rows
from made_fast.kernels.layout import aligned_empty
from made_fast.network.architecture import Architecture
from made_fast.network.network import Network
from made_fast.system import threads

__all__ = ["Answers", "MixtureAnswers", "ModelAnswers", "Options", "choose"]

AHEAD = 64
"""Networks whose tables are made together, which takes a fifth of the time of one by one."""

AT_ONCE, PACKED_BYTES = 4, 64 << 20
"""Most networks, each for one pattern, that are packed at once for each of several threads, and most bytes of them together.
One thread alone packs one at a time: the network is still in its cache when the rows are read."""


class Options(NamedTuple):
    """Checked options of a call, see ``Density``; ``rng`` gives the roots of the rows' streams, as many for any rows."""

    n_members: int
    n_walks: int
    n_threads: int
    rng: np.random.Generator


@dataclass(frozen=True)
class Answers(ABC):
    """Answers about rows with missing inputs, which are computed on demand."""

    rows: Rows
    options: Options

    def about(self, rows: Rows) -> Self:
        """Return the same about other rows."""
        return replace(self, rows=rows)

    @abstractmethod
    def log_marginal(self) -> tuple[Floats, Floats]:
        """Return log p of the observed inputs of each row, and its standard error, (n,) both."""

    def draws(self, n_draws: int) -> tuple[NDArray[Any], Floats]:
        """Return draws (n_draws, n, D), of 0/1 or of levels, and the smallest effective number of walks of each row.

        That is inf where draws are exact.
        """
        return self.about(self.rows.counted())._draws(n_draws)

    @abstractmethod
    def _draws(self, n_draws: int) -> tuple[NDArray[Any], Floats]: ...

    @abstractmethod
    def means(self) -> tuple[Floats, Floats]:
        """Return ``E[x | observed]``, (n, D), or the probability of every level, and effective numbers as above."""

    @abstractmethod
    def modes(self) -> tuple[NDArray[Any], Floats]:
        """Return each row as filled in by the network or member whose proposal is the most probable; effective numbers."""

    def _chosen(self, shares: Floats, n_draws: int) -> Index:
        """Draw which network or member every draw comes from, (n_draws, n); they have the shares (M, n)."""
        return choose(shares, Streams(self.options.rng.bytes(16), self.rows.names()).uniforms(MEMBER, n_draws).T)


class Answering(Protocol):
    """A model, as far as its answers are concerned."""

    def _answers(self, rows: Rows, options: Options) -> Answers: ...


class Block(NamedTuple):
    """Rows that miss the same inputs, and one network that is asked about them; ``placed`` are in order of its places.

    Rows of bits come with a ``Pattern``, those of codes with a ``LevelPattern``.
    """

    pattern: Any
    draw: int
    rows: Index
    placed: Any
    streams: Streams


@dataclass(frozen=True)
class ModelAnswers(Answers):
    """Answers of one model.

    ``networks_for`` takes pairs of a pattern, what is observed, and a number, which of several that answer for it; it returns
    what makes each of these networks. If networks are ``drawn`` for patterns, the room that this takes holds the vector;
    otherwise it is None.
    """

    architecture: Architecture
    dtype: np.dtype[Any]
    networks_for: Callable[[Sequence[tuple[NDArray[np.bool_], int]]], list[Callable[[NDArray[Any] | None], Network]]]
    drawn: bool

    def log_marginal(self) -> tuple[Floats, Floats]:
        log_p, variance = self._log_marginals()
        total = np.logaddexp.reduce(log_p, axis=0)
        return total - np.log(self.options.n_members), np.sqrt(sum(np.exp(log_p - _finite(total)) ** 2 * variance))

    def _draws(self, n_draws: int) -> tuple[NDArray[Any], Floats]:
        n = self.rows.n_rows
        chosen = self._chosen(self._shares(), n_draws) if self.options.n_members > 1 else np.zeros((n_draws, n), np.intp)
        out = self.rows.blank(n_draws, n)
        effective = np.full((self.options.n_members, n), np.inf)

        def work(b: Block) -> None:
            which, draws = np.nonzero((chosen == b.draw)[:, b.rows].T)
            if len(which):
                used, which = np.unique(which, return_inverse=True)
                drawn, effective[b.draw, b.rows[used]] = b.pattern.draw(
                    b.placed.take(used, axis=0), which, b.streams.take(used)
                )
                out[draws, b.rows[used[which]]] = b.pattern.columns(drawn)

        self._ask(work, lambda pattern: max(pattern.n_candidates, n_draws))
        return out, effective.min(axis=0)

    def means(self) -> tuple[Floats, Floats]:
        shares = self._shares()
        n = self.rows.n_rows
        out, effective = np.zeros((n, self.rows.n_means)), np.full(n, np.inf)

        def work(b: Block) -> None:
            mean, found = b.pattern.mean(b.placed, b.streams)
            out[b.rows[:, None], b.pattern.mean_columns] += shares[b.draw, b.rows, None] * mean
            effective[b.rows] = np.minimum(effective[b.rows], found)

        for draw in range(self.options.n_members):  # one after the other, so that the order of the sums is fixed
            self._ask(work, lambda p: max(p.n_candidates, p.n_walks if len(p.late) else 1), [draw], whole=True)
        return self.rows.filled(out), effective

    def modes(self) -> tuple[NDArray[Any], Floats]:
        M, n, kept = self.options.n_members, self.rows.n_rows, self.rows.kept
        found, effective = np.empty((M, *kept.shape), kept.dtype), np.full((M, n), np.inf)
        log_p = np.full((M, n), -np.inf)

        def work(b: Block) -> None:
            mode, effective[b.draw, b.rows] = b.pattern.mode(b.placed, b.streams)
            found[b.draw, b.rows] = self.rows.keep(b.pattern.columns(mode))

        def judge(b: Block) -> None:
            for i in range(M):
                own = b.pattern.log_p(b.placed, self.rows.columns(found[i, b.rows]))
                log_p[i, b.rows] = np.logaddexp(log_p[i, b.rows], own)

        self._ask(work)
        for draw in range(M) if M > 1 else ():
            self._ask(judge, lambda _: M, [draw])
        return self.rows.columns(found[np.argmax(log_p, axis=0), np.arange(n)]), effective.min(axis=0)

    def _log_marginals(self) -> tuple[Floats, Floats]:
        """Return log p of the observed inputs under each network, and its variance, (M, n) both."""
        log_p, variance = np.empty((2, self.options.n_members, self.rows.n_rows))

        def work(b: Block) -> None:
            log_p[b.draw, b.rows], variance[b.draw, b.rows] = b.pattern.log_marginal(b.placed, b.streams)

        self._ask(work)
        return log_p, variance

    def _shares(self) -> Floats:
        """Return the probability of each network given the observed inputs, (M, n)."""
        return _posterior(self._log_marginals()[0]) if self.options.n_members > 1 else np.ones((1, self.rows.n_rows))

    def _ask(
        self,
        work: Callable[[Block], None],
        passes: Callable[[Any], int] = lambda pattern: pattern.n_candidates,
        draws: Sequence[int] | None = None,
        *,
        whole: bool = False,
    ) -> None:
        """Call ``work`` for every block of rows that miss the same inputs and each of the networks ``draws``, by default all.

        ``passes(pattern)`` rows go through the network for each row of the block; for ``whole`` see ``Pattern``.
        """
        units = list(itertools.product(draws or range(self.options.n_members), self.rows.patterns()))
        root = self.options.rng.bytes(16)
        n_threads, n_packed = self.options.n_threads, self.architecture.n_packed
        at_once = max(1, min(AT_ONCE * n_threads, PACKED_BYTES // (n_packed * self.dtype.itemsize))) if n_threads > 1 else 1
        rooms: Any = [None] * at_once
        if self.drawn:  # packed over and over: memory fresh from the system is slow
            rooms = aligned_empty(at_once * n_packed, self.dtype).reshape(at_once, n_packed)

        def batch(some: Sequence[tuple[int, Index]], networks: Sequence[Callable[[NDArray[Any] | None], Network]]) -> None:
            patterns: dict[int, Pattern | LevelPattern] = {}

            def look(u: int, _: int) -> None:
                rows = some[u][1]
                patterns[u] = self.rows.pattern(networks[u](rooms[u]), int(rows[0]), self.options.n_walks, whole)

            threads.for_each(look, len(some), n_threads)
            blocks = []
            for u, (_, rows) in enumerate(some):
                step = max(1, self.architecture.chunk_rows // passes(patterns[u]))
                blocks += [(u, rows[i : i + step]) for i in range(0, len(rows), step)]

            def answer(b: int, _: int) -> None:
                u, rows = blocks[b]
                draw, part = some[u][0], self.rows.take(rows)
                streams = Streams(root + draw.to_bytes(4, "little"), part.names())
                work(Block(patterns[u], draw, rows, part.placed(patterns[u]), streams))  # type: ignore[arg-type]  # its own

            threads.for_each(answer, len(blocks), n_threads)

        for first in range(0, len(units), AHEAD):
            ahead = units[first : first + AHEAD]
            networks = self.networks_for([(self.rows.observed(int(rows[0])), draw) for draw, rows in ahead])
            for i in range(0, len(ahead), at_once):
                batch(ahead[i : i + at_once], networks[i : i + at_once])


@dataclass(frozen=True)
class MixtureAnswers(Answers):
    """Answers of the mixture of M models that weigh ``weights``, (M,), about the same rows."""

    models: Sequence[Answers]
    weights: Floats

    @classmethod
    def of(cls, rows: Rows, options: Options, models: Sequence[Answering], weights: Floats) -> MixtureAnswers:
        """Return the answers of models about rows; each has its own random numbers, so that errors do not add up."""
        seeds = options.rng.integers(2**63, size=len(models)).tolist()
        own = [options._replace(rng=np.random.default_rng(seed)) for seed in seeds]
        return cls(rows, own[0], [model._answers(rows, one) for model, one in zip(models, own, strict=True)], weights)

    def about(self, rows: Rows) -> Self:
        return replace(self, rows=rows, models=[model.about(rows) for model in self.models])

    def log_marginal(self) -> tuple[Floats, Floats]:
        joint, std = self._joint()
        total = np.logaddexp.reduce(joint, axis=0)
        return total, np.sqrt(sum((np.exp(joint - _finite(total)) * std) ** 2))

    def _draws(self, n_draws: int) -> tuple[NDArray[Any], Floats]:
        chosen = self._chosen(_posterior(self._joint()[0]), n_draws)
        out, effective = self.rows.blank(*chosen.shape), np.full(chosen.shape[1], np.inf)
        for m, model in enumerate(self.models):
            count = (chosen == m).sum(axis=0)
            rows = np.flatnonzero(count)
            if len(rows):
                # As many draws for each row as the neediest has: a row's first ones are the same however many there are.
                drawn, found = model.about(self.rows.take(rows)).draws(int(count.max()))
                mine = chosen[:, rows] == m
                draws, which = np.nonzero(mine)
                out[draws, rows[which]] = drawn[np.cumsum(mine, axis=0)[draws, which] - 1, which]
                effective[rows] = np.minimum(effective[rows], found)
        return out, effective

    def means(self) -> tuple[Floats, Floats]:
        shares = _posterior(self._joint()[0])
        n = self.rows.n_rows
        mean, effective = np.zeros((n, self.rows.n_means)), np.full(n, np.inf)
        for model, share in zip(self.models, shares, strict=True):
            part, found = model.means()
            mean += share[:, None] * part
            effective = np.minimum(effective, found)
        return self.rows.filled(mean), effective

    def modes(self) -> tuple[NDArray[Any], Floats]:
        proposals, effective = zip(*(model.modes() for model in self.models), strict=True)
        log_p = []
        for rows in proposals if len(proposals) > 1 else ():
            log_p.append(self.about(self.rows.complete(rows)).log_marginal()[0])
        best = np.argmax(log_p, axis=0) if log_p else 0
        return np.stack(proposals)[best, np.arange(len(proposals[0]))], np.min(effective, axis=0)

    def _joint(self) -> tuple[Floats, Floats]:
        """Return ``log(w_m p_m(observed))`` and the standard error of each, (M, n) both."""
        log_p, std = np.stack([model.log_marginal() for model in self.models], axis=1)
        return log_p + np.log(self.weights)[:, None], std


def choose(shares: Floats, uniforms: Floats) -> Index:
    """Return the number of the part that each uniform (..., n) falls into, where parts have the shares (M, n) or (M, 1)."""
    chosen = np.zeros(uniforms.shape, np.intp)
    for up_to in np.cumsum(shares, axis=0)[:-1]:
        chosen += uniforms >= up_to
    return chosen


def _finite(log_total: Floats) -> Floats:
    """Return logarithms of sums with 0 in place of that of 0, which no part of the sum can be divided by."""
    return np.where(np.isfinite(log_total), log_total, 0)


def _posterior(joint: Floats) -> Floats:
    """Return the probability of each part of a mixture from its joint log-probability with the observed inputs, (M, n)."""
    return np.exp(joint - np.logaddexp.reduce(joint, axis=0))  # type: ignore[no-any-return]
