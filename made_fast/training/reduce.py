"""The processes that train one model together: what they agree on, and how their vectors and numbers are added up.

Each is a rank of an MPI communicator (mpi4py), which moves the bytes. Every sum here is taken in order of rank, each number of
it by one rank alone: the same ranks get the same bits, whatever algorithm an MPI library chooses for its own sums, and all
ranks get the same ones. One process alone is :class:`Alone`, for which nothing needs to move.

Not here: what is summed, and when (``replicas.py``); MPI itself, which the caller has imported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from made_fast.kernels.layout import STRIDE, aligned_empty
from made_fast.system.console import say
from made_fast.tables.arguments import shown

__all__ = ["Alone", "Ranks", "Shards", "joined", "ranks_of"]

SQUARED_AT_ONCE = 1 << 15
"""Numbers that are squared at once, in float64: what is on the way stays in the cache."""

PIECES = {True: 48_000, False: 256_000}
"""Bytes that travel as one message, for slow networks and for fast ones.

Over TCP, messages beyond Open MPI's eager limit of 64 kB wait for each other's answers behind the data of the other direction:
8.6 MB each way took 122 to 145 ms at 1 Gbit/s, in pieces of 48 kB 71 to 77. In shared memory such pieces take 1.6 ms, those of
256 kB 0.6, the whole 0.4.
"""

METHODS = ("Abort", "Dup", "Get_rank", "Get_size", "Irecv", "Isend", "allgather", "bcast")
"""What is called of a communicator."""


def ranks_of(comm: Any) -> Alone:
    """Return the ranks of a communicator of mpi4py; of None, and of a communicator of one rank, this process alone.

    Raises TypeError if it is none.
    """
    if comm is None:
        return Alone()
    if not all(hasattr(comm, name) for name in METHODS):
        raise TypeError(
            f"comm must be an MPI communicator of mpi4py, got {shown(comm)} of type {type(comm).__name__}. "
            "Pass mpi4py.MPI.COMM_WORLD, or leave it out."
        )
    return Alone() if comm.Get_size() == 1 else Ranks(comm)


class Alone:
    """One process that trains a model by itself.

    Attributes
    ----------
    rank, size : int
        Which rank this is, and how many there are. Rank 0 writes the files and shows the progress.
    """

    rank, size = 0, 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    @contextmanager
    def agreed(self, kind: type[Exception] = ValueError) -> Iterator[None]:
        """Raise on every rank if the block raises on any: a rank whose own went well raises the text of the first other one.

        ``kind``: the type of that. Every rank must come here, and none may meet the others within the block.
        """
        yield

    def check_same(self, facts: Mapping[str, Any]) -> None:
        """Raise ValueError on every rank unless they all have the same facts, which are named in the text."""

    def of_first(self, value: Any) -> Any:
        """Return what rank 0 has."""
        return value

    def all(self, value: Any) -> list[Any]:
        """Return what each rank has."""
        return [value]

    def mean(self, value: float, weight: float) -> float:
        """Return the weighted mean of the values of all ranks."""
        return value

    def refuse(self, error: Exception) -> NoReturn:
        """Raise an error that every rank raises here."""
        raise error from None


class Ranks(Alone):
    """The ranks of a communicator, of which this process is one.

    As a context it ends the job, with one line, if this rank is to leave it while the others go on: they would wait for ever.
    """

    def __init__(self, comm: Any) -> None:
        self._comm = comm.Dup()  # no message of the caller is taken for one of ours
        self.rank, self.size = self._comm.Get_rank(), self._comm.Get_size()
        self._common: BaseException | None = None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None or error is self._common:
            self._comm.Free()
            return
        said = " ".join(str(error).split())
        say(f"made_fast: rank {self.rank} of {self.size} ends the job: {type(error).__name__}{said and ': ' + said}")
        self._comm.Abort(1)

    @contextmanager
    def agreed(self, kind: type[Exception] = ValueError) -> Iterator[None]:
        """See :meth:`Alone.agreed`."""
        own: Exception | None = None
        try:
            yield
        except Exception as error:
            own = error
        told = self._comm.allgather(None if own is None else str(own) or type(own).__name__)
        if own is not None:
            self._common = own
            raise own
        for rank, text in enumerate(told):
            if text is not None:
                self.refuse(kind(f"rank {rank} of {self.size}: {text}"))

    def refuse(self, error: Exception) -> NoReturn:
        """See :meth:`Alone.refuse`."""
        self._common = error
        raise error from None

    def check_same(self, facts: Mapping[str, Any]) -> None:
        """See :meth:`Alone.check_same`."""
        told: list[Mapping[str, Any]] = self._comm.allgather(dict(facts))
        for name in dict.fromkeys(name for each in told for name in each):
            first = told[0].get(name)
            for rank, each in enumerate(told):
                if each.get(name) != first:
                    self.refuse(
                        ValueError(
                            f"{name} must be the same on all ranks, got {shown(first)} on rank 0 and "
                            f"{shown(each.get(name))} on rank {rank}."
                        )
                    )

    def of_first(self, value: Any) -> Any:
        """See :meth:`Alone.of_first`."""
        return self._comm.bcast(value, root=0)

    def all(self, value: Any) -> list[Any]:
        """See :meth:`Alone.all`."""
        return list(self._comm.allgather(value))

    def mean(self, value: float, weight: float) -> float:
        """See :meth:`Alone.mean`."""
        told = self.all((value * weight if weight else 0.0, weight))
        return float(sum(value for value, _ in told) / sum(weight for _, weight in told))

    def shards(self, n: int, dtype: np.dtype[Any], *, slow: bool) -> Shards:
        """Return how vectors of n numbers are shared out; ``slow``: over a network that is so."""
        return Shards(self._comm, n, dtype, PIECES[slow] // dtype.itemsize)


class Shards:
    """A vector in as many parts as there are ranks, of which each rank owns one.

    A sum is made by its owners: every rank sends each of them its numbers of that part, the owner adds these in order of rank,
    does with the sum what is to be done, and sends the result to all. That is what a ring does, with the same bytes,
    ``2 (R - 1) / R`` times the vector, but in an order that is always the same.

    Attributes
    ----------
    own : slice
        The part of this rank. That of the last rank is never empty.
    """

    def __init__(self, comm: Any, n: int, dtype: np.dtype[Any], piece: int) -> None:
        self._comm, self._rank, size, self._piece = comm, comm.Get_rank(), comm.Get_size(), piece
        cuts = [*(n // STRIDE * rank // size * STRIDE for rank in range(size)), n]
        self._parts = list(map(slice, cuts[:-1], cuts[1:]))
        self._others = [rank for rank in range(size) if rank != self._rank]
        self.own = self._parts[self._rank]
        self._room = aligned_empty((size - 1) * (self.own.stop - self.own.start), dtype).reshape(size - 1, -1)

    def scatter(self, vector: NDArray[Any]) -> list[NDArray[Any]]:
        """Send every rank its part of the vector; return this rank's part of each rank's vector, in order of rank.

        One of these is the vector's own, the others are good until the next call.
        """
        self._exchange(
            {rank: vector[self._parts[rank]] for rank in self._others}, dict(zip(self._others, self._room, strict=True))
        )
        parts = list(self._room)
        parts.insert(self._rank, vector[self.own])
        return parts

    def gather(self, vector: NDArray[Any]) -> None:
        """Take every part of the vector from its owner."""
        self._exchange(
            dict.fromkeys(self._others, vector[self.own]), {rank: vector[self._parts[rank]] for rank in self._others}
        )

    def _exchange(self, sent: Mapping[int, NDArray[Any]], received: Mapping[int, NDArray[Any]]) -> None:
        """Send and receive at the same time, in pieces."""
        requests = [self._comm.Irecv(piece, rank) for rank, piece in self._pieces(received)]
        requests += [self._comm.Isend(piece, rank) for rank, piece in self._pieces(sent)]
        if requests:
            type(requests[0]).Waitall(requests)

    def _pieces(self, vectors: Mapping[int, NDArray[Any]]) -> list[tuple[int, NDArray[Any]]]:
        """Return the pieces of vectors to or from ranks, those of all ranks in turn."""
        starts = range(0, max(map(len, vectors.values())), self._piece)
        return [(rank, vector[at : at + self._piece]) for at in starts for rank, vector in vectors.items() if at < len(vector)]

    def norm(self, own: NDArray[Any]) -> float:
        """Return the Euclidean norm of a vector of which every rank has its own part."""
        squares = 0.0
        for start in range(0, len(own), SQUARED_AT_ONCE):
            squares += float(np.square(own[start : start + SQUARED_AT_ONCE], dtype=np.float64).sum())
        return float(np.sqrt(sum(self._comm.allgather(squares))))


def joined(digests: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return one digest, by name, of those that all ranks have of their own parts."""
    found = {}
    for name in dict.fromkeys(name for each in digests for name in each):
        found[name] = hashlib.sha256("".join(each.get(name, "none") for each in digests).encode()).hexdigest()
    return found
