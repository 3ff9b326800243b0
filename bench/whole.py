"""What only a whole run shows: the epochs of a real fit, its peak memory, what a fresh process waits for.

The last two are measured in processes of their own. Not here: anything that can be called again and again (``cases.py``).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench import nets
from bench.cases import Run
from bench.nets import MNIST, STEP_SIZES, TINY
from bench.work import FLOAT32, timed
from made_fast import MADE

__all__ = [
    "EPOCH_SHARE", "FIRST_FIT", "MEMORY", "MEMORY_SHARE", "PYTHON", "ROOT", "SERVING", "VALIDATION_SHARE", "WHOLE", "Found",
    "fresh",
]  # fmt: skip

Found = dict[str, float]

EPOCHS, PROCESSES = 4, 5

ROOT = Path(__file__).resolve().parents[1]

PYTHON = (sys.executable, "-P", "-c")
"""Runs code in a fresh process, without the current folder on its path: see ``bench``, the package."""

EPOCH_SHARE = "epoch of binarized MNIST in times of its steps"
VALIDATION_SHARE = "validation of each epoch in times of scoring its rows"
MEMORY_SHARE = "memory of training {} in times of live weights, a copy to go back to, Adam and a batch"
SERVING = "import made_fast, load a model, score a row: beyond import numpy, s"
FIRST_FIT = "first fit on tiny data in a fresh process, s"
"""Figures that there are targets for."""

IMPORT = "import time, numpy; begin = time.perf_counter(); import made_fast; print(time.perf_counter() - begin)"
SERVE = """
import sys, time, numpy
x = numpy.zeros((1, 16), numpy.uint8)
begin = time.perf_counter()
import made_fast
made_fast.load(sys.argv[1]).score_samples(x)
print(time.perf_counter() - begin)
"""
FIT = """
import time, numpy
begin = time.perf_counter()
from made_fast import MADE
X = (numpy.random.default_rng(0).random((32, 16)) < 0.3).astype(numpy.uint8)
ready = time.perf_counter()
MADE().fit(X)
print(ready - begin, time.perf_counter() - ready)
"""
MEMORY = """
import sys
sys.path.append(sys.argv[1])
from bench.whole import memory
batch, *sizes = map(int, sys.argv[2:])
print(*memory(batch, sizes))
"""


def fit() -> Found:
    """Fit binarized MNIST with a validation set; between epochs time steps and scoring by themselves."""
    X, X_val = nets.draw_rows(MNIST, 50_000, 10_000)
    step = Run("step", MNIST).build()
    step.warm_up()
    ends, begins, steps, scores = [], [], [], []
    scorer = nets.trained_model(MNIST)

    def between_epochs(_: int) -> float:
        ends.append(time.perf_counter())
        steps.append(timed(step, 1) / step.units)
        begin = time.perf_counter()
        scorer.score_samples(X_val, n_threads=1)
        begins.append(time.perf_counter())
        scores.append(begins[-1] - begin)
        return 1.0

    made = nets.estimator(MNIST, max_epochs=EPOCHS, learning_rate_schedule=between_epochs).fit(X, X_val=X_val)
    best: Any = made.history_[made.best_epoch_ - 1]["validation_nll"]
    np.testing.assert_allclose(best, -nets.true_log_p(made.model_, X_val).mean(), rtol=FLOAT32)
    training = [record["seconds"] for record in made.history_]
    rest = [end - begin - seconds for end, begin, seconds in zip(ends[1:], begins, training, strict=False)]  # not the last
    n_steps = len(X) // MNIST.batch
    return {
        "epoch of binarized MNIST, s": median(training),
        EPOCH_SHARE: median(training) / (n_steps * median(steps)),
        "validation on 10,000 rows, s": median(rest),
        VALIDATION_SHARE: median(rest) / median(scores),
    }


def memory(batch: int, sizes: list[int]) -> tuple[int, int]:
    """Return the bytes that a fit of 10 mini-batches takes beyond its input at the most, and what it needs to."""
    D, *hidden = sizes
    X = (np.random.default_rng(nets.SEED).random((10 * batch, D)) < 0.13).astype(np.uint8)
    MADE((4,), max_epochs=2, n_threads=1).fit(X[:10, :8])  # loads what a fit needs
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _memory("VmRSS")
    made = MADE(tuple(hidden), batch_size=batch, max_epochs=2, n_threads=1, random_state=nets.SEED, **nets.PLAIN).fit(X)
    peak = _memory("VmHWM")
    weights_and_adam = 4 * made.model_.n_parameters  # the weights before the epoch, should it diverge, are one
    layers = D + 2 * (sum(hidden) + D)  # rows; outputs and their gradients
    return peak - before, 4 * (weights_and_adam + batch * layers)


def _memory(what: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return 1024 * int(line.split()[1])


def peak_memory() -> Found:
    """Return how much more than the live weights, Adam's state and one batch a fit takes; nothing but on Linux."""
    found = {}
    for size in (STEP_SIZES[0], STEP_SIZES[4]) if Path("/proc/self/clear_refs").exists() else ():
        numbers = (str(n) for n in (size.batch, size.n_features, *size.hidden_sizes))
        # arrays of some size come from the system and go back to it, so that resident memory is what is in use
        taken, needed = fresh(MEMORY, str(ROOT), *numbers, MALLOC_MMAP_THRESHOLD_="65536")
        found[f"memory of training {size}, MB"] = taken / 1e6
        found[MEMORY_SHARE.format(size)] = taken / needed
    return found


def first_calls() -> Found:
    """Return what a fresh process waits for."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.safetensors")
        nets.to_model(nets.new_trainer(TINY)).save(path)
        imports, serves, fits = (
            [fresh(code, *arguments) for _ in range(PROCESSES)]
            for code, arguments in ((IMPORT, ()), (SERVE, (path,)), (FIT, ()))
        )
    return {
        "import made_fast: beyond import numpy, s": median(seconds for (seconds,) in imports),
        SERVING: median(seconds for (seconds,) in serves),
        "import MADE, scikit-learn with it, s": median(importing for importing, _ in fits),
        FIRST_FIT: median(fitting for _, fitting in fits),
    }


def fresh(code: str, *arguments: str, **environment: str) -> list[float]:
    """Run code in a fresh process and return the numbers that it prints.

    Python keeps what it compiles, as an installer does: without that, imports take three times as long.
    """
    env = {**os.environ, **environment}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run([*PYTHON, code, *arguments], capture_output=True, text=True, check=True, env=env)
    return [float(word) for word in done.stdout.split()]


WHOLE: dict[str, Callable[[], Found]] = {"whole fit": fit, "memory": peak_memory, "first call": first_calls}
