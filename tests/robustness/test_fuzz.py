"""The fuzzer over a few thousand mutants of each class, and proof that it sees what it is there to see.

Not here: the long runs (``python tests/robustness/fuzz.py --n 1000000 --jobs 2``).
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import numpy as np
import pytest

if sys.platform != "linux":
    pytest.skip("the fuzzer needs memfd_create and /proc", allow_module_level=True)

from robustness import fuzz
from robustness.mutations import CLASSES, put_together, seal, split, take_apart

import made_fast

N = 3000 * len(CLASSES)


@pytest.fixture(scope="module")
def seeds():
    return fuzz.make_seeds()


def test_no_mutant_breaks_a_promise(tmp_path):
    result = fuzz.run(N, tmp_path)
    told = fuzz.describe(result, tmp_path)
    assert not result.broken, told
    assert result.counts.sum() == N
    counts = dict(zip(CLASSES, result.counts.tolist(), strict=True))
    for kind in ("header", "json", "tensors"):  # mutants that are all refused would show little, and so would those that work
        assert min(counts[kind][:2]) > 100, told


def test_mutants_are_the_same_whenever_they_are_made(seeds):
    again = fuzz.make_seeds()
    assert [(seed.name, seed.raw) for seed in seeds] == [(seed.name, seed.raw) for seed in again]
    made = [fuzz.make_mutant(seeds, 1, number) for number in range(200)]
    assert made == [fuzz.make_mutant(again, 1, number) for number in range(200)]
    assert len({mutant.raw for mutant in made}) > 180


def test_files_taken_apart_are_put_together_again(seeds):
    for seed in seeds:
        assert put_together(*take_apart(seed.raw)) == seed.raw
        text, data = split(seed.raw)
        assert seal(text, data) == seed.raw


class Loads(fuzz.Door):
    """A door behind which something goes wrong."""

    def __init__(self, what):
        super().__init__()
        self.what = what

    def _load(self, mutant):
        return self.what(self.path)


def allocate(_):
    np.empty(1 << 32, np.uint8)


def refuse_at_length(path):
    raise made_fast.ModelFileError(f"{path}: {'x' * fuzz.LONGEST_TEXT}")


def refuse_without_path(_):
    raise made_fast.ModelFileError("The file is damaged.")


def leave_open(_):
    raise OSError("Too many open files")


@pytest.mark.parametrize(
    ("what", "outcome"),
    [
        (made_fast.load, "works"),
        (lambda _: None, "does not work"),
        (allocate, "memory"),
        (refuse_at_length, "wrong text"),
        (refuse_without_path, "wrong text"),
        (leave_open, "wrong exception"),
    ],
)
def test_what_breaks_a_promise_is_seen(seeds, what, outcome):
    mutant = fuzz.Mutant(0, "raw", seeds[0], seeds[0].raw, False, False)
    door = Loads(what)
    verdict = door.check(mutant)
    os.close(door.descriptor)
    assert verdict.outcome == outcome, verdict.text


BROKEN_CHILD = """
import mmap, os, signal, sys, time
import numpy as np
path, start, stop = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with open(path, "r+b") as file:
    state = np.frombuffer(mmap.mmap(file.fileno(), 0), np.int64)
for number in range(start, stop):
    state[0], state[1] = number, time.monotonic_ns()
    if number == 3:
        os.kill(os.getpid(), signal.SIGSEGV)
    while number == 5:
        time.sleep(1)
    state[1] = 0
"""


class BrokenWorker(fuzz.Worker):
    """A child that crashes at mutant 3 and hangs at mutant 5."""

    def start(self, numbers):
        self.numbers = numbers
        self.state[fuzz.NUMBER], self.state[fuzz.BEGIN] = -1, 0
        words = (self.folder / f"{self.name}.state", numbers.start, numbers.stop)
        (self.folder / f"{self.name}.stderr").write_bytes(b"")
        self.process = subprocess.Popen([sys.executable, "-c", BROKEN_CHILD, *map(str, words)])


def test_a_crash_and_a_hang_are_seen_and_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "KILL_AFTER", 0.5)
    child = BrokenWorker(0, range(8), tmp_path, "worker")
    found = [(what, number) for what, number, _ in fuzz._watch([child])]
    assert found == [("crash", 3), ("slow", 5)]
    assert child.state[fuzz.NUMBER] == 7


def test_a_worker_that_does_not_start_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "__file__", str(tmp_path / "none.py"))
    with pytest.raises(RuntimeError, match="not in a mutant"):
        fuzz.run(1, tmp_path)


def test_the_coverage_guided_target_needs_atheris_only_when_it_runs(seeds):
    target = importlib.import_module("robustness.atheris_model_file")
    assert "atheris" not in sys.modules
    for seed in seeds:
        assert target.repair(seed.raw) == seed.raw
        text, data = split(seed.raw)
        shorter = target.repair(seal(text, data)[:-64])  # fewer bytes than announced, but whole as far as it goes
        assert target.repair(shorter) == shorter != seed.raw
    for rubbish in (b"", b"\0", b"{}", bytes(100), b"\xff" * 100):
        target.repair(rubbish)
