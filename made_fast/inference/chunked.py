"""Calls about tables that come in chunks: each chunk is asked about in turn, and has the answers of one call about them all.

Not here: where chunks come from (``tables/reading/chunks.py``).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial, wraps
from hashlib import blake2b
from inspect import signature
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from made_fast.tables import arguments

if TYPE_CHECKING:
    from made_fast.tables.reading.chunks import Chunks

__all__ = ["Copies", "Turn", "by_chunk"]

Method = TypeVar("Method", bound=Callable[..., Any])


class Copies:
    """How often each row has come in earlier chunks: equal rows get draws of their own, wherever they stand.

    It takes about a hundred bytes for each different row that misses something.
    """

    def __init__(self) -> None:
        self._seen: dict[bytes, int] = {}

    def count(self, words: NDArray[np.uint64], missing: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return which of the rows that are equal each row is, from 0, (n,); 0 of all but the rows ``missing`` something."""
        copies = np.zeros(len(words), np.intp)
        for row in missing:
            name = blake2b(words[row].tobytes(), digest_size=8).digest()
            copies[row] = self._seen.get(name, 0)
            self._seen[name] = int(copies[row]) + 1
        return copies


class Turn(NamedTuple):
    """What a call about a chunk takes for ``random_state``: the generator as it is for every chunk, and earlier copies."""

    rng: np.random.Generator
    copies: Copies | None


def by_chunk(method: Method) -> Method:
    """Let a method take ``Chunks`` for X: it then returns an iterator over its results, one for each chunk."""
    random_state = signature(method).parameters.get("random_state")

    @wraps(method)
    def asked(self: Any, X: object, *args: Any, **options: Any) -> Any:
        if not _is_chunks(X):
            return method(self, X, *args, **options)
        if options.get("context") is not None:
            raise ValueError("context must be left out for X in chunks, got one. Pass each chunk with its own context.")
        if random_state is None:
            return _in_turn(partial(method, self), X, args, options, None)
        rng = arguments.generator(options.pop("random_state", random_state.default))
        return _in_turn(partial(method, self), X, args, options, rng)

    return cast(Method, asked)


def _is_chunks(X: object) -> TypeGuard[Chunks]:
    """Return whether X comes in chunks; who passes such has imported them."""
    if type(X) is np.ndarray:
        return False
    return isinstance(X, getattr(sys.modules.get("made_fast.tables.reading.chunks"), "Chunks", ()))


def _in_turn(
    ask: Callable[..., Any], X: Chunks, args: tuple[Any, ...], options: dict[str, Any], rng: np.random.Generator | None
) -> Iterator[Any]:
    begun, copies = deepcopy(rng), Copies()
    for label, chunk, _ in X.tables():
        if begun is not None:
            options["random_state"] = Turn(rng or deepcopy(begun), copies)
            rng = None  # the caller's own has moved on, as it does in one call
        try:
            answer = ask(chunk, *args, **options)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{label}: {error}") from error
        yield answer
