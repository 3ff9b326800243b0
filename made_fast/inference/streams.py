"""Random numbers of rows: those of a row depend on the call and on the row, not on the rows beside it.

Not here: the name of a row (``answering.py``), and how the numbers are used (``pattern.py``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["CHOOSE", "DRAW", "MEMBER", "PROPOSE", "Streams"]

PROPOSE, CHOOSE, DRAW, MEMBER = b"propose", b"choose", b"draw", b"member"
"""Purposes of a stream: walks that propose, a choice among them, the walk of a draw, the member that draws. Each purpose has a
stream of its own, so that the first draws are the same however many there are."""


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
    """A stream of random numbers for each of some rows and for each purpose.

    Attributes
    ----------
    root : bytes
        At most 64, of the call and the network that answers. Streams of different roots are independent.
    names : (n, words) uint64, little-endian
        The name of each row. Rows of one name have one stream.
    """

    root: bytes
    names: NDArray[np.uint64]

    def of(self, row: int, purpose: bytes) -> np.random.Generator:
        """Return the stream of a row, at its beginning."""
        digest = hashlib.blake2b(self.names[row].tobytes(), digest_size=24, key=self.root, person=purpose).digest()
        return _maker()(digest)

    def take(self, rows: NDArray[np.intp]) -> Streams:
        """Return those of some of the rows."""
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
