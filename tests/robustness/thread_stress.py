"""Sixty-four threads share models; every result has the bits of a call that runs alone.

``stress``: in each round all models are loaded anew and all threads begin with the same call on the same model, so that all
need at once what is made on first use. Then each makes calls of its own choice and ``n_threads``; some fit models. At the
end the threads and the memory that remain are counted. ``first_use``: all threads of a fresh process import, load and score at
once. ``quiet``: an idle process takes no CPU time; importing, loading and small calls start no thread.

Not here: forks (``fork_stress.py``), Ctrl-C (``interrupts.py``), speed.

    python tests/robustness/thread_stress.py --seconds 60
"""

from __future__ import annotations

import gc
import random
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from made_fast import ApproximationWarning, MADEModel, load
from made_fast.system import threads

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where its neighbours are, also for a script
from helpers import digest, python, rows, small, with_missing
from robustness.common import Report, command_line, memory, show_all
from robustness.operations import N_INPUTS, ask, load_models, make_models

MOST_RANKS = 4
"""Each call has an ``n_threads`` of 1 to this."""

MOST_GROWTH = 64.0
"""MB that memory may grow in the second half of a run: heaps of 64 threads come and go by some tens."""

MOST_IDLE_CPU = 0.01
"""CPU seconds per second that an idle process may take; the interpreter's own waking costs something."""

PATIENCE = 120.0
"""Seconds after which threads that have not ended a round count as hanging."""

HANGING = "threads hang"

X_MANY, X_FEW, X_GAPS = rows(1500, N_INPUTS), rows(3, N_INPUTS, 5), with_missing(16, N_INPUTS, 0.08, 4)

CALLS: dict[str, tuple[str, Any]] = {
    "score one row": ("score_samples", X_FEW[:1]),
    "score few rows": ("score_samples", X_FEW),
    "score many rows": ("score_samples", X_MANY),
    "score floats": ("score_samples", X_MANY[:500].astype(np.float64)),
    "conditionals": ("conditional_proba", X_MANY[:700]),
    "sample": ("sample", 600),
    "sample conditionally": ("sample_conditional", X_GAPS),
    "impute modes": ("impute, mode", X_GAPS),
    "impute means": ("impute, mean", X_GAPS[:6]),
    "log_marginal": ("log_marginal", X_GAPS),
    "conditional": ("conditional", X_GAPS[:8]),
    "to_dense": ("to_dense", None),
}

Jobs = dict[str, Callable[[dict[str, Any], int], Any]]
"""Calls by name: of the models and ``n_threads``, on which the result does not depend."""


def jobs_of(name: str, model: Any) -> Jobs:

    def job(operation: str, X: Any, **options: Any) -> Any:
        return lambda models, n: ask(operation, models[name], X, n_threads=n, **options)

    jobs = {f"{what}, {name}": job(*call) for what, call in CALLS.items()}
    jobs[f"repr, {name}"] = lambda models, _: (repr(models[name]), models[name].n_parameters)
    if isinstance(model, MADEModel) and model.n_masks > 1:
        jobs[f"score under one mask, {name}"] = job("score_samples", X_MANY[:200], mask=2)
        jobs[f"several members, {name}"] = job("log_marginal", X_GAPS[:6], n_members=3)
    return jobs


def _fit(n_masks: int | None, _: Any, n_threads: int) -> Any:
    made = small(hidden_sizes=(400,), n_threads=n_threads, random_state=3, n_masks=n_masks, n_eval_masks=3)
    made.fit(X_MANY[:300], X_val=X_MANY[300:340])
    return made.history_[0]["train_nll"], made.history_[0]["validation_nll"], made.model_.score_samples(X_FEW)


FITS: Jobs = {f"fit, n_masks={n_masks}": partial(_fit, n_masks) for n_masks in (1, 4, None)}


def stress(folder: Path, seconds: float, n_threads: int = 64, round_seconds: float = 1.0) -> Report:
    """Let threads share models for these seconds, and at least for a round."""
    make_models(folder)
    report, chance = Report("stress", threads=n_threads), random.Random(0)
    with warnings.catch_warnings():  # for the whole process, so here and not in the threads
        warnings.simplefilter("ignore", ApproximationWarning)
        alone = load_models(folder)
        jobs = {name: job for kind, model in alone.items() for name, job in jobs_of(kind, model).items()}
        expected = {name: digest(job(alone, 1)) for name, job in (jobs | FITS).items()}
        names, sizes = chance.sample(list(jobs), len(jobs)), [resident()]
        while not report.figures["rounds"] or time.monotonic() - report.begin < seconds:
            first = names[report.figures["rounds"] % len(names)]
            one_round(load_models(folder), first, jobs | FITS, expected, round_seconds, chance.randrange(2**32), report)
            sizes.append(resident())
            if HANGING in report.wrong:
                break
    report.highest("MB of growth in the second half", growth := sizes[-1] - sizes[len(sizes) // 2])
    report.figures["helpers kept idle"], left = count_left()
    report.check(not left, f"{left} threads are left behind")
    report.check(growth <= MOST_GROWTH, f"memory grows by {growth:.0f} MB")
    return report.end()


def one_round(
    models: dict[str, Any], first: str, jobs: Jobs, expected: dict[str, str], seconds: float, seed: int, report: Report
) -> None:
    """Start all threads at once on the same call on fresh models, and let them make one more call at least."""
    n = report.figures["threads"]
    barrier, lock, end = threading.Barrier(n), threading.Lock(), time.monotonic() + seconds

    def caller(number: int) -> None:
        chance, calls, wrong = random.Random(seed + number), 0, Counter[str]()
        own = list(FITS if number % 16 == 0 else jobs.keys() - FITS.keys())
        own.sort()
        barrier.wait(PATIENCE)
        name = first
        while time.monotonic() < end or calls < 2:  # a slow machine, too, comes to calls of many kinds
            try:
                if digest(jobs[name](models, chance.randint(1, MOST_RANKS))) != expected[name]:
                    wrong[f"{name}: other bits than alone"] += 1
            except Exception:
                wrong[f"{name}: {traceback.format_exc()}"] += 1
            calls += 1
            name = chance.choice(own)
        with lock:
            report.figures["calls"] += calls
            report.figures["calls that fit"] += calls - 1 if number % 16 == 0 else 0
            report.wrong += wrong

    callers = [threading.Thread(target=caller, args=(i,), name="caller", daemon=True) for i in range(n)]
    for thread in callers:
        thread.start()
    while time.monotonic() < end:
        report.highest("most helpers at a time", sum(t.name == "made_fast" for t in threading.enumerate()))
        time.sleep(0.02)
    for thread in callers:
        thread.join(max(0.0, end + PATIENCE - time.monotonic()))
    report.check(not any(thread.is_alive() for thread in callers), HANGING)
    report.figures["rounds"] += 1


def count_left() -> tuple[int, int]:
    """Return the number of idle helpers, and of threads beyond those that may be there."""
    deadline = time.monotonic() + 5
    while True:  # threads that end take a moment
        names = Counter(thread.name for thread in threading.enumerate())
        left = names["caller"] + max(0, names["made_fast"] - threads.HELPERS)
        if not left or time.monotonic() > deadline:
            return names["made_fast"], left
        time.sleep(0.01)


def resident() -> float:
    """Return the MB of memory that this process has, after garbage is collected."""
    gc.collect()
    return memory(resident=True) / 2**20


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
print(*(",".join(found[path]) for path in paths), errors, sep="\\n")
"""
"""Import, load and score, by many threads at once."""


def first_use(folder: Path, n: int, n_threads: int = 64) -> Report:
    make_models(folder)
    report, paths = Report("first use", processes=n, calls=n * n_threads), sorted(folder.iterdir())
    np.save(folder / "rows.npy", X_MANY)
    expected = [load(path).score_samples(X_MANY, n_threads=1).tobytes().hex() for path in paths]
    for i in range(n):
        told = python("-c", FIRST_USE, n_threads, i % 2 == 1, *paths, folder / "rows.npy", seconds=PATIENCE)
        *found, errors = told.splitlines()
        report.wrong += Counter([] if errors == "[]" else [errors])
        report.wrong += Counter(
            f"{path.name}: other bits" for path, a, b in zip(paths, found, expected, strict=True) if a != b
        )
    return report.end()


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
"""Threads after a small call, threads after many large ones at once, and seconds of CPU time of an idle process."""


def quiet(folder: Path, seconds: float) -> Report:
    """Count threads after small and after large calls, and the CPU time of an idle process."""
    make_models(folder, "wide", "one")
    np.save(folder / "rows.npy", X_MANY)
    told = python("-c", QUIET, folder / "wide", folder / "rows.npy", seconds, seconds=PATIENCE).split()
    started, kept, cpu = int(told[0]), int(told[1]), float(told[2])
    report = Report("quiet")
    report.figures["threads after import, load and small calls"] = started
    report.figures["threads kept after 64 callers with 4 threads each"] = kept
    report.highest(f"CPU seconds of {seconds:g} idle ones", cpu)
    report.check(started == 0, "small calls start threads")
    report.check(0 < kept <= threads.HELPERS, "other threads are kept than should be")
    report.check(cpu <= 5 * MOST_IDLE_CPU * seconds, "idle threads work")
    return report.end()


def main() -> int:
    args = command_line(__doc__, seconds=(60.0, "of the stress"), n=(10, "fresh processes"))
    return show_all(partial(stress, seconds=args.seconds), partial(first_use, n=args.n), partial(quiet, seconds=5.0))


if __name__ == "__main__":
    sys.exit(main())
