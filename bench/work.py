"""A call that is timed with its check, and the clock: medians over interleaved rounds. It knows nothing of MADE."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.implementations import using

__all__ = ["FLOAT32", "TRAINED", "Work", "measure", "timed"]

FLOAT32 = 1e-5
"""Error allowed: relative in a loss, a score and the result of a kernel, absolute in a probability."""

TRAINED = 1e-4
"""The same in the way that parameters went: Adam goes by the sign of a gradient, however close to 0 it is."""

TURN = 0.02
"""Least seconds that a call is repeated for when it is its turn."""

LEAST_ROUNDS = 5


@dataclass
class Work:
    """A call that is timed.

    Attributes
    ----------
    implementation : str
        Whose kernels to switch to for the call.
    run : callable
        What is timed.
    check : callable
        Takes what the first ``run`` returned, and raises AssertionError unless it is right.
    units : int
        Units of work in one call; a time is divided by it.
    """

    implementation: str
    run: Callable[[], Any]
    check: Callable[[Any], None]
    units: int = 1

    def warm_up(self) -> None:
        """Call once, which compiles and fills caches, and check the result."""
        with using(self.implementation):
            result = self.run()
        self.check(result)


def measure(works: Sequence[Work], seconds: float, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Return the median seconds of a unit of each work; they have been warmed up.

    They take turns, a few milliseconds each: when the machine slows down it does so for all of them. Every round has another
    order, because who comes after a certain other finds the caches as that one left them.
    """
    repeats = [max(1, int(TURN / timed(work, 1, clock))) for work in works]
    times: list[list[float]] = [[] for _ in works]
    turns, order = list(zip(works, repeats, times, strict=True)), random.Random(0)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < LEAST_ROUNDS:
        order.shuffle(turns)
        for work, repeat, found in turns:
            found.append(timed(work, repeat, clock) / work.units)
    return [median(found) for found in times]


def timed(work: Work, repeat: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds of one call, as the mean of ``repeat``; collection of garbage waits."""
    with using(work.implementation):
        gc.disable()
        begin = clock()
        for _ in range(repeat):
            work.run()
        elapsed = clock() - begin
        gc.enable()
    return elapsed / repeat
