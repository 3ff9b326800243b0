"""The fuzzer over a few thousand mutants of each class, and proof that it finds faults.

Not here: the long runs (``python tests/robustness/fuzz.py --n 1000000 --jobs 2``).
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time

import numpy as np
import pytest

if sys.platform != "linux":
    pytest.skip("the fuzzer needs memfd_create and /proc", allow_module_level=True)

from helpers import raising
from robustness import fuzz
from robustness.mutations import CLASSES, put_together, seal, split, take_apart

import made_fast

pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # forks are the point

N = 3000 * len(CLASSES)


@pytest.fixture(scope="module")
def seeds():
    return fuzz.make_seeds()


def test_no_mutant_breaks_a_promise(tmp_path):
    report = fuzz.run(N, tmp_path)
    assert not report.show()
    assert sum(n for name, n in report.figures.items() if name.partition(":")[0] in CLASSES) == N
    for kind in ("header", "json", "tensors"):  # mutants that are all refused would show little, and so would those that work
        assert min(report.figures[f"{kind}: refused"], report.figures[f"{kind}: works"]) > 100


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


@pytest.mark.parametrize(
    ("what", "outcome"),
    [
        (made_fast.load, "works"),
        (lambda _: None, "does not work"),
        (lambda _: np.empty(1 << 32, np.uint8), "memory"),
        (lambda path: raising(made_fast.ModelFileError(f"{path}: {'x' * fuzz.LONGEST_TEXT}"))(), "wrong text"),
        (raising(made_fast.ModelFileError("The file is damaged.")), "wrong text"),
        (raising(OSError("Too many open files")), "wrong exception"),
    ],
)
def test_what_breaks_a_promise_is_seen(seeds, what, outcome):
    mutant = fuzz.Mutant(0, "raw", seeds[0], seeds[0].raw, False, False)
    door = fuzz.Door()
    door._load = lambda _: what(door.path)
    verdict = door.check(mutant)
    os.close(door.descriptor)
    assert verdict.outcome == outcome, verdict.text


def test_a_crash_and_a_hang_are_seen_and_left_behind(monkeypatch):
    def check(number):
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        while number == 5:
            time.sleep(1)
        return "works", "it is 6" if number == 6 else ""

    monkeypatch.setattr(fuzz, "KILL_AFTER", 0.5)
    result = fuzz.check_all(lambda: check, range(8), jobs=2)
    assert sorted((number, what) for what, number, _ in result["found"]) == [(3, "crash"), (5, "slow"), (6, "works")]
    assert result["counts"] == {"works": 6}


def test_a_mistake_of_the_fuzzer_is_an_error():
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        fuzz.check_all(lambda: lambda number: 1 // 0, range(1))


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
