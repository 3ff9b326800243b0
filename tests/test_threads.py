"""Who runs what: ranks, errors, interrupts, forks, and how many threads there are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from helpers import random_model

from made_fast import threads


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


def test_available_follows_affinity_and_environment(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    most = threads.available()
    assert 1 <= most <= len(os.sched_getaffinity(0))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert threads.available() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "64,2")
    assert threads.available() == most
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert threads.available() == most


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork in a process that has threads: the point of the test
@pytest.mark.parametrize("n_masks", [1, 3])
def test_a_forked_child_starts_threads_of_its_own(n_masks):
    model = random_model(20, (30,), dtype="float32", n_masks=n_masks)
    X = np.zeros((20_000, 20), np.uint8)
    expected = model.score_samples(X, n_threads=2)
    child = os.fork()
    if child == 0:
        same = (model.score_samples(X, n_threads=2) == expected).all()
        os._exit(0 if same else 1)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the child hangs")


FIT = """
import sys, numpy as np
from made_fast import MADE
made = MADE(hidden_sizes=(400,), max_epochs=100_000, n_threads={n_threads}, random_state=0, n_masks={n_masks})
X = (np.random.default_rng(0).random((20_000, 200)) < 0.2).astype(np.float32)
if {missing}:
    X[np.random.default_rng(1).random(X.shape) < 0.1] = np.nan
print("ready", flush=True)
try:
    made.fit(X, X_val=np.nan_to_num(X[:500]))
except KeyboardInterrupt:
    import time
    print(time.monotonic(), bool(np.isfinite(made.score(np.nan_to_num(X[:100])))), flush=True)
"""


@pytest.mark.parametrize(
    ("n_threads", "n_masks", "missing"), [(1, 1, False), (2, 1, False), (1, 8, False), (2, 8, False), (2, 8, True)]
)
def test_ctrl_c_ends_a_fit_soon_and_leaves_a_model(n_threads, n_masks, missing):
    code = FIT.format(n_threads=n_threads, n_masks=n_masks, missing=missing)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(1.5)
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        stopped, usable = process.stdout.readline().split()
        assert usable == "True"
        assert float(stopped) - sent < 2  # some 50 ms on an idle machine; a guard against a hang, not a benchmark
