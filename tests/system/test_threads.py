"""Threads: ranks, errors, interrupts, forks. Fits, forks and many callers under load: ``tests/robustness/``."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest
from helpers import python, raising, random_model

from made_fast.kernels import layout as panels
from made_fast.network.architecture import Architecture
from made_fast.system import threads


def test_all_ranks_run_at_once():
    barrier, seen = threading.Barrier(4, timeout=10), []

    def work(rank):
        barrier.wait()
        seen.append((rank, threading.current_thread() is threading.main_thread()))

    threads.run(work, 4)
    assert sorted(seen) == [(0, True), (1, False), (2, False), (3, False)]


def test_one_rank_needs_no_thread():
    before = threading.active_count()
    threads.run(lambda rank: None, 1)
    assert threading.active_count() == before


def test_threads_are_used_again():
    for _ in range(5):
        threads.run(lambda rank: None, 3)
    before = threading.active_count()
    threads.run(lambda rank: None, 3)
    assert threading.active_count() == before


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_an_error_calls_the_others_off_and_is_raised(bad):
    off = threading.Event()

    def work(rank):
        if rank == bad:
            raise ZeroDivisionError
        assert off.wait(10)

    with pytest.raises(ZeroDivisionError):
        threads.run(work, 3, off.set)
    threads.run(lambda rank: None, 3)  # the threads are still good


def test_for_each_does_every_item_once_and_stops_after_an_error():
    done = []
    threads.for_each(lambda item, rank: done.append(item), 100, 3)
    assert sorted(done) == list(range(100))
    started = []

    def work(item, rank):
        started.append(item)
        if item == 5:
            raise KeyError(item)
        time.sleep(0.001)

    with pytest.raises(KeyError):
        threads.for_each(work, 1000, 3)
    assert len(started) < 20


INTERRUPTS = """
import signal, threading, time
from made_fast.system import threads

at_work = set()

def work(rank):
    at_work.add(rank)
    end = time.perf_counter() + 0.0003 * (rank > 0)
    while time.perf_counter() < end:
        pass
    at_work.discard(rank)

signal.signal(signal.SIGALRM, signal.default_int_handler)
interrupts = 0
for i in range(4000):
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.0002 + 0.00001 * (i % 100))
            threads.run(work, 3)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        interrupts += 1
        at_work.discard(0)
    assert not at_work, "some that began have not ended"
barrier = threading.Barrier(3, timeout=20)
threads.run(lambda rank: barrier.wait(), 3)
assert not threads._given
assert threading.active_count() <= 1 + threads.HELPERS
print(interrupts)
"""


def test_no_interrupt_is_lost_and_none_loses_a_rank():
    """Whenever it strikes: while ranks are handed out, at work, or waited for, and between any two of these."""
    assert int(python("-c", INTERRUPTS, seconds=90)) > 500


def test_ctrl_c_before_the_caller_has_begun_stops_the_others_too(monkeypatch):
    hand_out, done, begun = threads._hand_out, [], threading.Event()

    def interrupted(*args):
        hand_out(*args)
        assert begun.wait(10)
        raise KeyboardInterrupt

    def work(item, rank):
        begun.set()
        done.append(item)
        time.sleep(0.001)

    monkeypatch.setattr(threads, "_hand_out", interrupted)
    with pytest.raises(KeyboardInterrupt):
        threads.for_each(work, 2000, 2)
    assert 0 < len(done) < 200


def test_aside_all_ranks_leave_the_caller_free(monkeypatch):
    seen = set()
    threads.run(lambda rank: seen.add((rank, threading.current_thread() is threading.main_thread())), 2, aside=True)
    threads.run(lambda rank: seen.add((2 + rank, threading.current_thread() is threading.main_thread())), 1, aside=True)
    assert seen == {(0, False), (1, False), (2, False)}
    elsewhere = []
    other = threading.Thread(target=lambda: threads.run(lambda _: elsewhere.append(threading.current_thread()), 1, aside=True))
    other.start()
    other.join()
    assert elsewhere == [other]  # no Ctrl-C comes there: no need


class NoneIdle(list):
    """No worker is there, and there is room for none: each ends with its task."""

    def __len__(self):
        return threads.HELPERS


def test_a_thread_that_ends_before_it_begins_is_a_lack_of_memory(monkeypatch):
    """Python ends a thread for which it finds no memory, after ``start`` has returned."""
    monkeypatch.setattr(threads, "_idle", NoneIdle())
    monkeypatch.setattr(threads._Worker, "_loop", lambda worker: None)
    called_off = []
    for aside in (False, True):
        with pytest.raises(MemoryError, match="a thread ended before it began"):
            threads.run(lambda _: None, 2, lambda: called_off.append(1), aside=aside)
    assert called_off == [1, 1]
    assert not threads._given


@pytest.mark.parametrize("begins", [True, False], ids=["it begins", "it comes too late"])
def test_a_start_that_fails_after_all_leaves_nobody_behind(monkeypatch, begins):
    """``Thread.start`` may raise RuntimeError when the thread is there: for want of memory to wait for it."""
    monkeypatch.setattr(threads, "_idle", NoneIdle())
    start, begun, done, ended = threading.Thread.start, threading.Event(), [], threading.Event()

    def failing(thread):
        if begins:
            start(thread)
            begun.wait(10)
        raise RuntimeError("can't allocate lock")

    def work(item, rank):
        if rank:
            begun.set()
            time.sleep(0.3)
            ended.set()
        done.append(item)

    monkeypatch.setattr(threading.Thread, "start", failing)
    threads.for_each(work, 20, 3)
    assert sorted(done) == list(range(20))
    assert ended.is_set() is begins
    assert not threads._given


@pytest.mark.parametrize("wait", [True, False])
def test_ctrl_c_is_answered_while_others_do_the_work(wait):
    """``aside`` calls them off, and waits until they have ended; ``unattended`` goes at once."""
    off, ended = threading.Event(), threading.Event()

    def work(_rank=0):
        signal.setitimer(signal.ITIMER_REAL, 0.05)  # here: what has not begun by then never does
        off.wait(10)
        time.sleep(0.1)
        ended.set()

    old = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            threads.run(work, 1, off.set, aside=True) if wait else threads.unattended(work)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert ended.is_set() == wait
    off.set()
    assert ended.wait(10)


def test_what_is_unattended_returns_when_it_is_done_and_raises_what_went_wrong():
    done = []
    threads.unattended(lambda: done.append(threading.current_thread()))
    assert done != [threading.main_thread()]
    with pytest.raises(ZeroDivisionError):
        threads.unattended(lambda: 1 / 0)


def test_ranks_for_which_no_worker_is_left_are_dropped(monkeypatch):
    monkeypatch.setattr(threads, "HELPERS", len(threads._given))
    tasks = [object(), object()]  # counted before other callers took the workers
    threads._hand_out(tasks, False)
    assert tasks == []


def test_without_threads_to_be_had_items_are_done_all_the_same(monkeypatch):
    monkeypatch.setattr(threads, "_idle", [])
    monkeypatch.setattr(threading.Thread, "start", raising(RuntimeError("can't start new thread")))
    done = []
    threads.for_each(lambda item, rank: done.append((item, rank)), 5, 3)
    assert done == [(item, 0) for item in range(5)]
    off = threading.Event()
    with pytest.raises(RuntimeError, match="can't start new thread"):
        threads.run(lambda rank: off.wait(10), 3, off.set)
    assert len(threads._given) == 0


def test_only_the_error_of_a_thread_that_does_not_start_means_that_there_is_none(monkeypatch):
    monkeypatch.setattr(threads, "_idle", [])
    monkeypatch.setattr(threads, "_Worker", raising(RuntimeError("time is up")))
    with pytest.raises(RuntimeError, match="time is up"):
        threads.for_each(lambda *_: None, 4, 2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_needs_nothing_that_another_thread_was_making_at_the_fork(monkeypatch):
    """What is made on first use is made under no lock: nobody would ever unlock it in the child."""
    model = random_model(20, (30,), dtype="float32")
    make, begun, end = panels.make_layout, threading.Event(), threading.Event()

    def slow(*args):
        if threading.current_thread() is not threading.main_thread():
            begun.set()
            end.wait(60)
        return make(*args)

    monkeypatch.setattr(panels, "make_layout", slow)
    other = threading.Thread(target=lambda: Architecture(9, (5,), "relu").chunk_rows)
    other.start()
    assert begun.wait(60)
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # ends a child that hangs
        model.score_samples(np.zeros((10, 20), np.uint8), n_threads=2)
        os._exit(0)
    end.set()
    other.join()
    assert os.waitpid(child, 0)[1] == 0
