"""Sixty-four threads share models, and none may notice the others: every result has the bits that it has alone.

``stress``: rounds of about a second. In each, all models are loaded anew, all threads begin with the same call on the same
model, so that whatever is made on first use is wanted by all of them at once, and then go on with calls of their own choice,
each with its own ``n_threads``; some fit models of their own meanwhile. Then the threads end, and what is left of them is
counted: threads, memory.

``first_use``: the same in a fresh process, where all threads import, load and score at once.

``quiet``: a process that has been busy, sleeps: its threads must cost no CPU time; and importing, loading, small calls start
no thread.

Not here: forks (``fork_stress.py``), Ctrl-C (``interrupts.py``), how fast any of this is.

    python tests/robustness/thread_stress.py --seconds 60
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import random
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from made_fast import MADE, ApproximationWarning, MADEModel, MixtureModel, load
from made_fast.system import threads

N_INPUTS = 90
"""More than a word of bits, and no whole number of them."""

MOST_RANKS = 4
"""Each call has an ``n_threads`` of 1 to this."""

MOST_GROWTH = 64.0
"""MB that memory may grow in the second half of a run: heaps of 64 threads come and go by some tens."""

PATIENCE = 120.0
"""Seconds after which threads that have not come to the end of a round count as hanging."""

Model = MADEModel | MixtureModel


# ---------------------------------------------------------------------------------------------------------------------------
# Models, calls, and what they give alone
# ---------------------------------------------------------------------------------------------------------------------------


def rows(n: int, seed: int = 0) -> np.ndarray:
    """Return rows of 0/1."""
    return (np.random.default_rng(seed).random((n, N_INPUTS)) < 0.3).astype(np.uint8)


def with_missing(n: int, n_patterns: int = 4) -> np.ndarray:
    """Return rows of which some inputs are missing, in a few patterns."""
    X, rng = rows(n, 1).astype(np.float32), np.random.default_rng(2)
    patterns = rng.random((n_patterns, N_INPUTS)) < 0.08
    X[patterns[np.arange(n) % n_patterns]] = np.nan
    return X


X_MANY, X_FEW, X_MISSING = rows(1500), rows(3, 5), with_missing(16)


def make_models(folder: Path) -> None:
    """Fit a model of each kind, for an epoch or two, and save them."""
    common: dict[str, Any] = {"max_epochs": 2, "n_threads": 1, "random_state": 0, "learning_rate": 0.01}
    kinds: dict[str, dict[str, Any]] = {
        "one": {"hidden_sizes": (96, 64)},
        "wide": {"hidden_sizes": (500,), "direct_connections": "output", "activation": "tanh"},
        "several": {"hidden_sizes": (70,), "n_masks": 6, "dtype": "float64"},
        "fresh": {"hidden_sizes": (60, 50), "n_masks": None, "n_eval_masks": 5, "connectivity_weights": True},
    }
    fitted = {name: MADE(**common, **kind).fit(rows(400)).model_ for name, kind in kinds.items()}
    for name, model in fitted.items():
        model.save(folder / name)
    MixtureModel([fitted["one"], fitted["several"], fitted["fresh"]], [0.5, 0.3, 0.2]).save(folder / "mixture")


def load_models(folder: Path) -> dict[str, Model]:
    """Load all models: nothing that is made on first use is there yet."""
    models = {path.name: load(path) for path in sorted(folder.iterdir())}
    return {**models, "mapped": load(folder / "wide", mmap=True), "mapped mixture": load(folder / "mixture", mmap=True)}


class Job(NamedTuple):
    """A call on a model, with so many threads; ``name`` does not say how many, for the result does not depend on it."""

    name: str
    model: str
    call: Callable[[Any, int], Any]

    def digest(self, models: dict[str, Model], n_threads: int) -> str:
        """Make the call and return what stands for the bits of its result."""
        digest = hashlib.sha256()
        for part in parts_of(self.call(models[self.model], n_threads)):
            digest.update(part)
        return digest.hexdigest()


def parts_of(value: Any) -> Sequence[bytes]:
    """Return type, shape and bytes of all arrays in a result."""
    if isinstance(value, np.ndarray | np.generic):
        return [f"{value.dtype}{value.shape}".encode(), value.tobytes()]
    if isinstance(value, dict):
        return [part for name in sorted(value) for part in (name.encode(), *parts_of(value[name]))]
    if isinstance(value, list | tuple):
        return [part for one in value for part in parts_of(one)]
    return [repr(value).encode()]


def jobs_of(name: str, model: Model) -> list[Job]:
    """Return all that is asked of a model."""
    one: dict[str, Any] = {}  # whose conditionals: those of a mixture have an ordering each
    if isinstance(model, MixtureModel):
        one["member"] = 1
    if not isinstance(model, MADEModel) or model.n_masks > 1:
        one["mask"] = 1
    calls: dict[str, Callable[[Any, int], Any]] = {
        "score one row": lambda m, t: m.score_samples(X_FEW[:1], n_threads=t),
        "score few rows": lambda m, t: m.score_samples(X_FEW, n_threads=t),
        "score many rows": lambda m, t: m.score_samples(X_MANY, n_threads=t),
        "score floats": lambda m, t: m.score_samples(X_MANY[:500].astype(np.float64), n_threads=t),
        "conditionals": lambda m, t: m.conditional_proba(X_MANY[:700], n_threads=t, **one),
        "sample": lambda m, t: m.sample(600, 7, n_threads=t),
        "sample conditionally": lambda m, t: m.sample_conditional(X_MISSING, 2, n_walks=16, random_state=3, n_threads=t),
        "impute modes": lambda m, t: m.impute(X_MISSING, "mode", n_walks=16, n_threads=t),
        "impute means": lambda m, t: m.impute(X_MISSING[:6], "mean", n_walks=16, n_threads=t),
        "log_marginal": lambda m, t: m.log_marginal(X_MISSING, n_walks=16, n_threads=t, return_std=True),
        "conditional": lambda m, t: m.conditional(X_MISSING[:8], 5, n_walks=16, n_threads=t, return_std=True),
        "to_dense": lambda m, t: m.to_dense(**one),
        "repr": lambda m, t: (repr(m), m.n_parameters),
    }
    if isinstance(model, MADEModel) and model.n_masks > 1:
        calls["score under one mask"] = lambda m, t: m.score_samples(X_MANY[:200], mask=2, n_threads=t)
        calls["several members"] = lambda m, t: m.log_marginal(
            X_MISSING[:6], n_members=3, n_walks=16, n_threads=t, return_std=True
        )
    return [Job(f"{what}, {name}", name, call) for what, call in calls.items()]


def fit_jobs() -> list[Job]:
    """Return fits, which have a model of their own."""

    def fit(n_masks: int | None, t: int) -> Any:
        made = MADE(hidden_sizes=(400,), max_epochs=1, n_threads=t, random_state=3, n_masks=n_masks, n_eval_masks=3)
        made.fit(X_MANY[:300], X_val=X_MANY[300:340])
        return made.history_[0]["train_nll"], made.history_[0]["validation_nll"], made.model_.score_samples(X_FEW)

    return [
        Job("fit, one mask", "one", lambda _, t: fit(1, t)),
        Job("fit, four masks", "one", lambda _, t: fit(4, t)),
        Job("fit, fresh masks", "one", lambda _, t: fit(None, t)),
    ]


# ---------------------------------------------------------------------------------------------------------------------------
# Stress
# ---------------------------------------------------------------------------------------------------------------------------


@dataclass
class Figures:
    """What a run of ``stress`` found."""

    threads: int = 0
    rounds: int = 0
    seconds: float = 0.0
    calls: Counter[str] = field(default_factory=Counter)
    different: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    hanging: int = 0
    most_helpers: int = 0
    """Most threads of made_fast at a time, beside the callers."""
    left: int = 0
    """Threads that are there after the run and may not be: callers, or more idle helpers than are kept."""
    helpers: int = 0
    """Idle helpers after the run."""
    growth: float = 0.0
    """MB by which the process has grown in the second half of the run."""

    def broken(self) -> bool:
        """Say whether a promise was broken."""
        return bool(self.different or self.errors or self.hanging or self.left or self.growth > MOST_GROWTH)


def stress(folder: Path, seconds: float, n_threads: int = 64, round_seconds: float = 1.0, seed: int = 0) -> Figures:
    """Let so many threads share models for so many seconds, and at least for a round."""
    make_models(folder)
    figures, chance = Figures(threads=n_threads), random.Random(seed)
    with warnings.catch_warnings():  # for the whole process, so here and not in the threads
        warnings.simplefilter("ignore", ApproximationWarning)
        alone = load_models(folder)
        jobs, fits = [job for name, model in alone.items() for job in jobs_of(name, model)], fit_jobs()
        expected = {job.name: job.digest(alone, 1) for job in [*jobs, *fits]}
        chance.shuffle(jobs)
        begin, sizes = time.monotonic(), [resident()]
        while not figures.rounds or time.monotonic() - begin < seconds:
            first = jobs[figures.rounds % len(jobs)]
            one_round(folder, first, jobs, fits, expected, round_seconds, chance.randrange(2**32), figures)
            sizes.append(resident())
            if figures.hanging:
                break
        figures.seconds = time.monotonic() - begin
    figures.growth = sizes[-1] - sizes[len(sizes) // 2]
    figures.helpers, figures.left = count_left()
    return figures


def one_round(
    folder: Path,
    first: Job,
    jobs: list[Job],
    fits: list[Job],
    expected: dict[str, str],
    seconds: float,
    seed: int,
    figures: Figures,
) -> None:
    """Load fresh models, start all threads at once on the same call, let them go on, and add up what happened.

    They go on for so many seconds, and each for one call of its own choice at least.
    """
    models, n = load_models(folder), figures.threads
    barrier, lock, end = threading.Barrier(n), threading.Lock(), time.monotonic() + seconds

    def caller(number: int) -> None:
        chance = random.Random(seed + number)
        calls, different, errors = Counter[str](), Counter[str](), []
        barrier.wait(PATIENCE)
        job = first
        while True:
            try:
                if job.digest(models, chance.randint(1, MOST_RANKS)) != expected[job.name]:
                    different[job.name] += 1
            except Exception:
                errors.append(f"{job.name}: {traceback.format_exc()}")
            calls[job.name] += 1
            if time.monotonic() > end and calls.total() > 1:  # a slow machine, too, comes to calls of many kinds
                break
            job = chance.choice(fits if number % 16 == 0 else jobs)
        with lock:
            figures.calls += calls
            figures.different += different
            figures.errors += errors

    callers = [threading.Thread(target=caller, args=(i,), name="caller", daemon=True) for i in range(n)]
    for thread in callers:
        thread.start()
    while time.monotonic() < end:
        figures.most_helpers = max(figures.most_helpers, sum(t.name == "made_fast" for t in threading.enumerate()))
        time.sleep(0.02)
    for thread in callers:
        thread.join(max(0.0, end + PATIENCE - time.monotonic()))
    figures.hanging += sum(thread.is_alive() for thread in callers)
    figures.rounds += 1


def count_left() -> tuple[int, int]:
    """Return how many idle helpers there are, and how many threads more than there may be."""
    deadline = time.monotonic() + 5
    while True:  # threads that end take a moment
        names = Counter(thread.name for thread in threading.enumerate())
        left = names["caller"] + max(0, names["made_fast"] - threads.HELPERS)
        if not left or time.monotonic() > deadline:
            return names["made_fast"], left
        time.sleep(0.01)


def resident() -> float:
    """Return how many MB of memory this process has, when garbage is collected."""
    gc.collect()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def print_stress(figures: Figures) -> None:
    """Print one line a figure."""
    f = figures
    fits = sum(n for name, n in f.calls.items() if name.startswith("fit"))
    print(f"stress: {f.calls.total()} calls by {f.threads} threads in {f.rounds} rounds, {f.seconds:.1f} s")
    print(f"stress: {len(f.calls)} kinds of calls; {fits} of the calls were fits")
    print(f"stress: results with other bits than alone: {f.different.total()} {dict(f.different.most_common(5)) or ''}")
    print(f"stress: errors: {len(f.errors)}; threads that hang: {f.hanging}; threads left behind: {f.left}")
    print(f"stress: helpers: at most {f.most_helpers} at a time, {f.helpers} kept idle (at most {threads.HELPERS})")
    print(f"stress: memory in the second half of the run: {f.growth:+.1f} MB")
    for error in f.errors[:3]:
        print(error, file=sys.stderr)


# ---------------------------------------------------------------------------------------------------------------------------
# Fresh processes
# ---------------------------------------------------------------------------------------------------------------------------


FIRST_USE = """
import sys, threading
import numpy as np
n, mmap, paths = int(sys.argv[1]), sys.argv[2] == "True", sys.argv[3:]
X = np.load(paths.pop())
barrier, found, errors = threading.Barrier(n), {path: set() for path in paths}, []

def call(number):
    barrier.wait()
    try:
        import made_fast
        path = paths[number % len(paths)]
        found[path].add(made_fast.load(path, mmap=mmap).score_samples(X, n_threads=1 + number % 4).tobytes().hex())
    except BaseException as error:
        errors.append(repr(error))

sys.setswitchinterval(1e-5)
callers = [threading.Thread(target=call, args=(i,)) for i in range(n)]
for thread in callers:
    thread.start()
for thread in callers:
    thread.join()
for path in paths:
    print(",".join(found[path]))
print(errors)
"""
"""Import, load and score, by many threads at once."""


def first_use(folder: Path, n: int, n_threads: int = 64) -> tuple[int, list[str]]:
    """Begin in n fresh processes with so many threads at once; return the calls made, and what went wrong."""
    make_models(folder)
    paths = sorted(folder.iterdir())
    np.save(folder / "rows.npy", X_MANY)
    expected = [load(path).score_samples(X_MANY, n_threads=1).tobytes().hex() for path in paths]
    wrong = []
    for i in range(n):
        command = [
            sys.executable,
            "-c",
            FIRST_USE,
            str(n_threads),
            str(i % 2 == 1),
            *map(str, paths),
            str(folder / "rows.npy"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
        *found, errors = done.stdout.splitlines() or [done.stderr]
        if errors != "[]":
            wrong.append(errors)
        wrong += [f"{path.name}: other bits" for path, a, b in zip(paths, found, expected, strict=False) if a != b]
    return n * n_threads, wrong


QUIET = """
import os, sys, threading, time
import numpy as np

def tasks():
    return len(os.listdir("/proc/self/task"))  # those of NumPy's own BLAS are there from its import on

before, X = tasks(), np.load(sys.argv[2])
import made_fast
model = made_fast.load(sys.argv[1])
model.score_samples(X[:50], n_threads=4)
model.sample(10, n_threads=4)
small = tasks() - before
callers = [threading.Thread(target=lambda: [model.score_samples(X, n_threads=4) for _ in range(5)]) for _ in range(64)]
for thread in callers:
    thread.start()
for thread in callers:
    thread.join()
time.sleep(0.1)
busy = tasks() - before
begin = time.process_time()
time.sleep(float(sys.argv[3]))
print(small, busy, time.process_time() - begin)
"""
"""Threads after a small call, threads after many large ones at once, and seconds of CPU time in so many idle seconds."""


def quiet(folder: Path, seconds: float = 1.0) -> tuple[int, int, float]:
    """Return what ``QUIET`` prints."""
    make_models(folder)
    np.save(folder / "rows.npy", X_MANY)
    command = [sys.executable, "-c", QUIET, str(folder / "wide"), str(folder / "rows.npy"), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE)
    small, busy, cpu = done.stdout.split()
    return int(small), int(busy), float(cpu)


MOST_IDLE_CPU = 0.01
"""CPU seconds a second that an idle process may take: none of ours, but the interpreter's own waking costs something."""


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="of the stress")
    parser.add_argument("--threads", type=int, default=64)
    parser.add_argument("--n", type=int, default=10, help="fresh processes")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of calls")
    args = parser.parse_args()
    bad = False
    with tempfile.TemporaryDirectory() as name:
        figures = stress(Path(name), args.seconds, args.threads, seed=args.seed)
        print_stress(figures)
        bad |= figures.broken()
    with tempfile.TemporaryDirectory() as name:
        calls, wrong = first_use(Path(name), args.n, args.threads)
        print(f"first use: {calls} threads of {args.n} fresh processes imported, loaded and scored; wrong: {len(wrong)}")
        print(*wrong[:5], sep="\n", end="\n" if wrong else "", file=sys.stderr)
        bad |= bool(wrong)
    with tempfile.TemporaryDirectory() as name:
        small, busy, cpu = quiet(Path(name), 5.0)
        print(f"quiet: {small} threads after import, load and small calls; {busy} kept after 64 callers with 4 threads each")
        print(f"quiet: {cpu * 1e3:.1f} ms of CPU time in 5 s of idleness")
        bad |= small > 0 or busy > threads.HELPERS or cpu > 5 * MOST_IDLE_CPU
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
