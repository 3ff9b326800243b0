"""The C library beside Python: ``python -m bench.embedded``, from the root of the repository; needs make and a C compiler.

Builds the library in a temporary folder and prints median times on one thread, for a model of 784 inputs and 500 units: of one
row and of a thousand, scored, and of a hundred, drawn; by a C program, through ctypes, and by the package. First, answers are
compared; last come the time to open a file, and the size of the library without symbols.
"""

from __future__ import annotations

import runpy
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from bench import machine
from bench.serving import make_model
from made_fast import load

__all__ = ["main"]

ROOM = Path(__file__).resolve().parents[1] / "made_fast" / "embedded"
D, H = 784, 500
ROUNDS = 301


def times(*calls: Callable[[], Any]) -> list[float]:
    """Return the median seconds of each call, over rounds in which they take turns."""
    took: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for call, own in zip(calls, took, strict=True):
            begin = perf_counter()
            call()
            own.append(perf_counter() - begin)
    return [median(own) for own in took]


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as name:
        folder, path = Path(name), Path(name) / "model"
        subprocess.run(["make", "-s", "-C", str(ROOM), f"BUILD={folder}"], check=True)
        make_model(path, D, (H,))
        file = next(folder.glob("libmade_fast.[sd]*"))
        library, python = runpy.run_path(str(ROOM / "example.py"))["Library"](str(file)), load(path)
        c = library.open(str(path))
        X = (np.random.default_rng(0).random((1000, D)) < 1 / 6).astype(np.uint8)
        assert (c.score_samples(X) == python.score_samples(X)).all()
        assert (c.sample(100, 0) == python.sample(100, random_state=0)).all()
        print(f"{machine.cpu()}, {c.cpu}; D = {D}, H = {H}, float32, one thread")
        done = subprocess.run([folder / "example", path, "time"], capture_output=True, text=True, check=True)
        print("C program:", done.stdout, end="")
        for what, by_c, by_python in [
            ("score one row", lambda: c.score_samples(X[:1]), lambda: python.score_samples(X[:1])),
            ("score 1000 rows", lambda: c.score_samples(X), lambda: python.score_samples(X, n_threads=1)),
            ("draw 100 rows", lambda: c.sample(100, 0), lambda: python.sample(100, 0, n_threads=1)),
            ("open a file", lambda: library.open(str(path)), lambda: load(path)),
        ]:
            through_ctypes, own = (f"{1e6 * seconds:.1f} us" for seconds in times(by_c, by_python))
            print(f"{what}: through ctypes {through_ctypes}, the Python package {own}")
        plain = shutil.copy(file, folder / "stripped")  # the other is in use
        subprocess.run(["strip", "-x", plain], check=True)
        print(f"{file.name} without symbols: {Path(plain).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
