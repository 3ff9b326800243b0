"""Who computes when: how many requests are let in, threads for what takes long, and scores of several requests together.

The event loop takes requests apart and computes what is over in a moment; the rest is done by a few threads, in turn. Rows of
small tables that have come together are read together. A score of complete rows waits for its model: all those that have come
meanwhile are computed by one call, on the event loop if it is short. Nothing waits for others to come: a lone request is
computed at once. No bit of a score depends on its company.

Not here: HTTP (``app.py``), the models (``models.py``).
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import accumulate
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from made_fast.serving.bodies import RefusedError
from made_fast.serving.models import Prepared, Served

__all__ = ["Batcher", "Crew", "Gate", "Reader"]

T = TypeVar("T")
Scores = NDArray[np.float64]

SHORT = 5e-4
"""Seconds of a computation that the event loop does itself: a thread would take a tenth of it to begin."""

ROWS_TOGETHER = 1 << 12
"""Rows of several requests that are scored together; a request of more is computed alone."""

RETRY = {"Retry-After": "1"}


class Gate:
    """How many requests, and how many bytes of their bodies, are in a worker at a time; others get 429."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self.most, self.most_bytes = most, most_bytes
        self.inside = self.bytes = 0

    @contextmanager
    def entered(self) -> Iterator[Callable[[int], None]]:
        """Let a request in for the block; what it gets takes room for some bytes more. Both raise RefusedError (429)."""
        if self.inside >= self.most:
            raise RefusedError(429, f"the server has {self.most} requests in work. Try again in a moment.", RETRY)
        self.inside += 1
        taken = 0

        def take(n_bytes: int) -> None:
            nonlocal taken
            if self.bytes + n_bytes > self.most_bytes:
                raise RefusedError(429, "the server has as many bytes of requests as it takes. Try again in a moment.", RETRY)
            self.bytes += n_bytes
            taken += n_bytes

        try:
            yield take
        finally:
            self.inside -= 1
            self.bytes -= taken


class Crew:
    """The threads of a worker."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.pool = ThreadPoolExecutor(1 + (os.cpu_count() or 1), thread_name_prefix="made_fast-serve")

    async def do(self, work: Callable[[], T]) -> T:
        """Call ``work()`` on a thread.

        Raises RefusedError: 503 if it does not begin in time, and then never will; 504 if it does not end. A computation that
        has begun cannot be called off, only left: its answer is dropped.
        """
        begun = False

        def begin() -> T:
            nonlocal begun
            begun = True
            return work()

        try:
            async with asyncio.timeout(self.seconds):
                return await asyncio.get_running_loop().run_in_executor(self.pool, begin)
        except TimeoutError as error:
            raise too_late(self.seconds, begun) from error


def too_late(seconds: float, begun: bool) -> RefusedError:
    """Return the refusal of a request whose time is over."""
    if begun:
        return RefusedError(504, f"the answer took longer than {seconds:g} seconds. Ask for less at a time.")
    return RefusedError(503, f"nobody was free for {seconds:g} seconds. Try again in a moment.", RETRY)


class Reader:
    """The checks of the rows of small requests to one model: of those that have come together, by one call."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.waiting: list[tuple[Any, asyncio.Future[Prepared]]] = []

    async def read(self, X: Any, context: Any) -> Prepared:
        """Return checked rows. Raises what ``Served.prepare`` does."""
        if self.served.table is None or context is not None or self.served.context is not None:
            return self.served.prepare(X, context)
        loop = asyncio.get_running_loop()
        found: asyncio.Future[Prepared] = loop.create_future()
        self.waiting.append((X, found))
        if len(self.waiting) == 1:
            loop.call_soon(self._next)  # after the requests that have come with this one
        return await found

    def _next(self) -> None:
        taken, self.waiting = self.waiting, []
        read: Sequence[Prepared | Exception]
        try:
            read = self.served.prepare_together([X for X, _ in taken])
        except Exception as error:  # a bug; nobody must wait for ever
            read = [error] * len(taken)
        for (_, found), rows in zip(taken, read, strict=True):
            _tell(found, rows)


class Batcher:
    """The scores of complete rows of one model: of several requests together."""

    def __init__(
        self, served: Served, n_threads: int | None, most_rows: int, seconds: float, tell: Callable[[int], None]
    ) -> None:
        self.served, self.n_threads, self.most_rows, self.seconds, self.tell = served, n_threads, most_rows, seconds, tell
        self.waiting: deque[tuple[Prepared, asyncio.Future[Scores]]] = deque()
        self.rows_waiting = 0
        self.busy = False
        self.seconds_a_row = SHORT  # a guess, until the first score
        self.thread = ThreadPoolExecutor(1, thread_name_prefix=f"made_fast-{served.name}")

    async def score(self, rows: Prepared) -> Scores:
        """Return the log-likelihoods of complete rows.

        Raises RefusedError: 429 where too many wait, 503 and 504 as ``Crew`` does.
        """
        if self.waiting and self.rows_waiting + len(rows) > self.most_rows:
            raise RefusedError(429, f"{self.rows_waiting:,} rows wait for their score. Try again in a moment.", RETRY)
        loop = asyncio.get_running_loop()
        one: tuple[Prepared, asyncio.Future[Scores]] = rows, loop.create_future()
        self.waiting.append(one)
        self.rows_waiting += len(rows)
        if not self.busy:
            self.busy = True
            loop.call_soon(self._next, loop)  # after the requests that have come with this one
        try:
            async with asyncio.timeout(self.seconds):
                return await one[1]
        except TimeoutError as error:
            raise too_late(self.seconds, one not in self.waiting) from error

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        """Score those who wait."""
        taken: list[tuple[Prepared, asyncio.Future[Scores]]] = []
        n = 0
        while self.waiting and (not taken or n + len(self.waiting[0][0]) <= ROWS_TOGETHER):
            rows, found = self.waiting.popleft()
            self.rows_waiting -= len(rows)
            if not found.done():  # its time is over
                taken.append((rows, found))
                n += len(rows)
        if not taken:
            self.busy = False
            return
        self.tell(n)
        parts = [rows for rows, _ in taken]
        if n * self.seconds_a_row < SHORT:
            self._give(loop, taken, self._scores(parts))
        else:
            done = loop.run_in_executor(self.thread, self._scores, parts)
            done.add_done_callback(lambda done: self._give(loop, taken, done.result()))

    def _scores(self, parts: list[Prepared]) -> list[Scores | Exception]:
        """Return the scores of each request, or its error."""
        start, n = perf_counter(), sum(map(len, parts))
        try:
            found = self.served.score_together(parts, self.n_threads)
        except Exception as error:
            if len(parts) == 1:
                return [error]
            return [each for part in parts for each in self._scores([part])]
        took = (perf_counter() - start) / n
        self.seconds_a_row = min(took, 1.02 * self.seconds_a_row)  # other work on the CPU does not count
        stops = accumulate(map(len, parts))
        return [found[stop - len(part) : stop] for part, stop in zip(parts, stops, strict=True)]

    def _give(
        self, loop: asyncio.AbstractEventLoop, taken: list[tuple[Prepared, asyncio.Future[Scores]]], scores: list[Any]
    ) -> None:
        for (_, found), own in zip(taken, scores, strict=True):
            _tell(found, own)
        if self.waiting:
            loop.call_soon(self._next, loop)
        else:
            self.busy = False


def _tell(waiting: asyncio.Future[Any], found: Any) -> None:
    """Give a request what it waits for, or raise it there; unless its time is over."""
    if waiting.done():
        return
    if isinstance(found, Exception):
        waiting.set_exception(found)
    else:
        waiting.set_result(found)
