"""Threads: how many to use, and the work that each does. The kernels start no thread; this file does.

They are Python threads that spend their time in kernels without the GIL. They start on first use, sleep when idle, and end
with the process. A forked child forgets its parent's threads and starts its own.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Callable
from functools import cache
from itertools import count
from pathlib import Path
from queue import SimpleQueue

__all__ = ["available", "for_each", "run", "unattended"]

HELPERS = max(16, 2 * (os.cpu_count() or 1))  # most threads that help all calls of ``for_each``, and most that idle
LOOK = 0.01  # seconds that a caller waits at a time
CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def available() -> int:
    """Return the default number of threads: our CPUs, at most the container's quota and OMP_NUM_THREADS."""
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = _number(os.environ.get("OMP_NUM_THREADS", "").split(",")[0]) or math.inf
    return int(max(1, min(n, _quota(), wanted)))


def _number(text: str) -> int:
    """Return the number in a text from outside; 0 if that is no plain decimal number, or too long."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else 0


def _text(path: Path) -> str:
    """Return the content of a file of the system; "" if it cannot be read."""
    try:
        return path.read_text("utf-8", "surrogateescape")
    except OSError as error:
        if error.errno is None:  # a time limit, raised by a signal handler
            raise
        return ""


@cache
def _quota() -> float:
    """Return the smallest CPU limit of our control group and of those above it, rounded up. Read once, because it is slow."""
    groups = [["", "", "/"], ["", "cpu", "/"]]  # where a container sees its own group, whatever its name outside
    groups += [line.split(":", 2) for line in _text(OWN_CGROUPS).splitlines() if line.count(":") >= 2]
    limits = [math.inf]
    for _, controllers, path in groups:
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = CGROUPS / "cpu" if controllers else CGROUPS  # versions 1 and 2
        group = top / path.strip("/")
        limits += [_limit(folder) for folder in (group, *group.parents) if folder.is_relative_to(top)]
    return min(limits)


def _limit(group: Path) -> float:
    """Return the CPU limit of a control group, rounded up; infinity if it has none or is not there."""
    told = _text(group / "cpu.max").split() or [_text(group / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
    quota, period = map(_number, told) if len(told) == 2 else (0, 0)
    return -(-quota // period) if quota and period else math.inf  # "max" or -1: no limit


class _Task:
    """The work of a rank on another thread. The caller may be interrupted anywhere and ask again."""

    def __init__(self, work: Callable[[int], None], rank: int) -> None:
        self._work, self._rank = work, rank
        self._owner: dict[str, str] = {}
        self._ended = False
        self._bell = threading.Lock()  # its release takes no memory
        self._bell.acquire()
        self.error: BaseException | None = None

    def belongs_to(self, who: str) -> bool:
        """Return whether the task belongs to this side, "worker" or "caller": the first that asks gets it."""
        return self._owner.setdefault("", who) == who

    def do(self) -> None:
        try:
            self._work(self._rank)
        except BaseException as raised:
            self.error = raised

    def end(self) -> None:
        self._ended = True
        self._bell.release()

    def wait(self) -> None:
        """Wait for ``end``, a little at a time: Python handles a signal that came just before a wait only after it."""
        while not self._ended and not self._bell.acquire(timeout=LOOK):
            pass


class _Worker:
    """A thread that sleeps until it is given something to do; one user at a time."""

    def __init__(self, task: _Task) -> None:
        self.inbox: SimpleQueue[_Task] = SimpleQueue()
        self.inbox.put(task)
        self._begun = threading.Lock()
        self._begun.acquire()
        thread = threading.Thread(target=self._loop, name="made_fast", daemon=True)
        thread.start()
        while not self._begun.acquire(timeout=1):  # Python ends a thread silently if it finds no memory for it
            if not thread.is_alive():
                raise MemoryError("a thread ended before it began")

    def _loop(self) -> None:
        self._begun.release()
        kept = True
        while kept:
            task = self.inbox.get()
            try:
                if task.belongs_to("worker"):
                    task.do()
                kept = len(_idle) < HELPERS
                if kept:
                    _idle.append(self)
            except BaseException as raised:  # no memory for that
                task.error, kept = raised, False
            finally:
                _given.discard(task)
                task.end()
            del task


_idle: list[_Worker] = []
_given: set[_Task] = set()  # the tasks that workers have


if hasattr(os, "register_at_fork"):  # the parent's threads do not exist in the child
    os.register_at_fork(after_in_child=_idle.clear)
    os.register_at_fork(after_in_child=_given.clear)


def run(
    work: Callable[[int], None],
    n: int,
    call_off: Callable[[], None] = lambda: None,
    *,
    all_n: bool = True,
    aside: bool = False,
    leave: bool = False,
) -> None:
    """Call ``work(0)``, ..., ``work(n - 1)`` at the same time, rank 0 on the caller's thread, and return when all have ended.

    All n really run at once, so that ``work`` may wait for the other ranks; but without ``all_n`` there are fewer if the
    system has no more threads. An error (Ctrl-C may strike before all ranks have begun) calls ``call_off``, which must end the
    waits of the others. It is raised when every rank has ended; with ``leave`` at once.

    With ``aside`` rank 0 is on another thread too, if the caller is on the main thread, which gets Ctrl-C: it only waits, so
    it can call off the work at once. Without ``all_n`` the caller does the work if the system has no thread.
    """
    aside = aside and threading.current_thread() is threading.main_thread() and not sys.is_finalizing()  # no thread runs then
    if n == 1 and not aside:
        work(0)
        return

    def guarded(rank: int) -> None:
        try:
            work(rank)
        except BaseException:
            call_off()
            raise

    tasks = [_Task(guarded, rank) for rank in range(0 if aside else 1, n)]
    errors: list[BaseException] = []
    begun = False
    while True:  # Ctrl-C may strike at any instruction, while we wait too
        try:
            if not begun:
                begun = True
                _hand_out(tasks, all_n)
                if not aside or not tasks:
                    work(0)
            for task in tasks:
                if errors and task.belongs_to("caller"):  # it has not begun, and never will
                    _given.discard(task)
                elif not (errors and leave):
                    task.wait()
            break
        except BaseException as raised:
            errors.append(raised)
            call_off()
    for error in (*errors, *(task.error for task in tasks)):
        if error is not None:
            raise error


def unattended(work: Callable[[], None]) -> None:
    """Call ``work()``; Ctrl-C is raised at once, and ``work`` ends by itself. It may write only what nobody else reads."""
    run(lambda _: work(), 1, aside=True, leave=True)


def _hand_out(tasks: list[_Task], all_of_them: bool) -> None:
    """Give each task to a worker; if there are too few, raise an error or drop the rest of the tasks."""
    for i, task in enumerate(tasks):
        if not all_of_them and len(_given) >= HELPERS:  # others have begun since we were counted
            del tasks[i:]
            return
        _given.add(task)
        try:
            worker = _idle.pop()
        except IndexError:
            try:
                _Worker(task)
            except RuntimeError as error:  # no more threads: a limit, or the interpreter is about to end
                if all_of_them or not str(error).startswith("can't "):  # or a signal handler has raised it
                    raise
                if task.belongs_to("caller"):
                    _given.discard(task)
                    del tasks[i:]
                else:  # Python found no memory to wait for the thread's start, but it has begun
                    del tasks[i + 1 :]
                return
        else:
            worker.inbox.put(task)


def for_each(work: Callable[[int, int], None], n_items: int, n_threads: int) -> None:
    """Call ``work(item, rank)`` for every item in 0..n_items - 1, each rank taking the next item when it is free.

    Items start in order. After an error (or Ctrl-C) no further item starts. Where many threads call this at once, each has
    fewer ranks than it asks for.
    """
    items = count()
    stop = False

    def take(rank: int) -> None:
        for item in items:
            if item >= n_items or stop:
                return
            work(item, rank)

    def call_off() -> None:
        nonlocal stop
        stop = True

    run(take, max(1, min(n_threads, n_items, 1 + HELPERS - len(_given))), call_off, all_n=False)
