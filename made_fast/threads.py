"""How many threads, and who runs what. The kernels start no thread; this file does.

Threads are ordinary Python threads that spend their time in kernels without the GIL. They are started on first use, sleep
when idle, end with the process, and are forgotten (not used) in a forked child, which starts its own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import cache
from itertools import count
from pathlib import Path
from queue import SimpleQueue

__all__ = ["available", "for_each", "run"]


def available() -> int:
    """Return how many threads to use by default: our CPUs, cut down to the container's quota and to OMP_NUM_THREADS."""
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [n, *_quota()]
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if first.isdigit() and int(first) > 0:
        limits.append(int(first))
    return max(1, min(limits))


@cache
def _quota() -> list[int]:
    """Return the control group's CPU limit, rounded up; nothing if there is none. Read once, because it is slow."""
    root = Path("/sys/fs/cgroup")
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return []
    try:
        limit = -(-int(quota) // int(period))
    except (ValueError, ZeroDivisionError):  # "max": no limit
        return []
    return [limit] if limit > 0 else []


class _Worker:
    """A thread that sleeps until it is given something to do; one user at a time."""

    def __init__(self) -> None:
        self._inbox: SimpleQueue[tuple[Callable[[int], None], int]] = SimpleQueue()
        self._outbox: SimpleQueue[BaseException | None] = SimpleQueue()
        threading.Thread(target=self._loop, name="made_fast", daemon=True).start()

    def start(self, work: Callable[[int], None], rank: int) -> None:
        self._inbox.put((work, rank))

    def wait(self) -> BaseException | None:
        """Return when the work has ended, with the error that ended it; an interrupt counts as one, but ends no wait."""
        interrupt = None
        while True:
            try:
                return self._outbox.get() or interrupt
            except KeyboardInterrupt as raised:
                interrupt = raised

    def _loop(self) -> None:
        while True:
            work, rank = self._inbox.get()
            error = None
            try:
                work(rank)
            except BaseException as raised:
                error = raised
            del work
            self._outbox.put(error)
            del error


_idle: list[_Worker] = []


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # the parent's threads do not exist in the child


def run(work: Callable[[int], None], n: int, call_off: Callable[[], None] = lambda: None) -> None:
    """Call ``work(0)``, ..., ``work(n - 1)`` at the same time, rank 0 on the caller's thread, and return when all are done.

    All n really run at once, so that ``work`` may wait for the other ranks. After an error it would wait in vain (Ctrl-C can
    strike before all have begun): ``call_off`` is called then, and must end such waits. An error is raised when every rank has
    ended.
    """
    if n == 1:
        work(0)
        return

    def guarded(rank: int) -> None:
        try:
            work(rank)
        except BaseException:
            call_off()
            raise

    workers: list[_Worker] = []
    ended: list[BaseException | None] = []
    try:
        for rank in range(1, n):
            try:
                worker = _idle.pop()
            except IndexError:
                worker = _Worker()
            worker.start(guarded, rank)
            workers.append(worker)
        guarded(0)
    except BaseException as error:
        call_off()
        ended.append(error)
    for worker in workers:
        ended.append(worker.wait())
        _idle.append(worker)
    for result in ended:
        if result is not None:
            raise result


def for_each(work: Callable[[int, int], None], n_items: int, n_threads: int) -> None:
    """Call ``work(item, rank)`` for every item in 0..n_items - 1, each rank taking the next item when it is free.

    Items start in order. After an error (or Ctrl-C) no further item starts.
    """
    items = count()
    stop = False

    def take(rank: int) -> None:
        nonlocal stop
        try:
            for item in items:
                if item >= n_items or stop:
                    return
                work(item, rank)
        except BaseException:
            stop = True
            raise

    run(take, max(1, min(n_threads, n_items)))
