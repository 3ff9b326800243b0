"""Ctrl-C at random moments of every long operation: how soon it is answered, and the state that it leaves.

Interrupts are spread evenly over the time of an operation. The signal comes from the kernel's timer (setitimer), which waits
for no thread and no GIL. The latency is the time until KeyboardInterrupt reaches the caller. Afterwards models give the same
bits, a fit has its best parameters, a file is the old one or the new one, and ranks still meet.

Each operation has a fork of its own; one that does not end within ``PATIENCE`` hangs. On a busy machine an interrupt also
waits for a CPU: look at the median, and at whether the worst returns in another run.

Not here: kill -9 (``kill.py``), Ctrl-C of the command line (``tests/cli``), errors while ranks wait (``tests/system``).

    python tests/robustness/interrupts.py --n 50 --only "score" --scale 3
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from made_fast import MADE, ApproximationWarning, MADEEnsemble, MixtureModel, ModelFileError, load
from made_fast.system import threads

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where its neighbours are, also for a script
import helpers
from helpers import small
from robustness.common import Child, Report, command_line, new_folder, parameters_of
from robustness.operations import COUNT, NOTHING, OPERATIONS, WALKS, ask

PROMISE = 0.1
"""Seconds within which Ctrl-C is answered."""

PATIENCE = 300.0
"""Seconds after which an operation, with all its interrupts, counts as hanging."""

THEIRS = {
    "begin a large fit, orthogonal": "one QR decomposition of LAPACK's for each layer",
    "read a table of objects": "Python objects, one by one",
    "read a sparse table, its columns in disorder": "SciPy sorts the whole table",
}
"""Operations that wait for one call into another library, and which: measured, but no part of the promise."""


class Prepared(NamedTuple):
    """An operation that can be begun and interrupted many times."""

    run: Callable[[], Any]
    check: Callable[[], str | None] = lambda: None  # returns an error text
    seconds: float = 0.0  # time to interrupt within, if it has no end; 0: its own duration


Build = Callable[[float, Path], Prepared]

rows, with_missing = cache(helpers.rows), cache(helpers.with_missing)


def wide(of: float, scale: float) -> int:
    """Return the width of a layer whose weights shrink with the scale."""
    return max(64, round(of * scale**0.5))


@cache
def model(kind: str, scale: float = 1.0) -> Any:
    if kind == "mixture":
        return MixtureModel([model("one"), model("masks")])
    if kind == "wide":
        return small(hidden_sizes=(wide(4000, scale),) * 2).fit(rows(20, 784)).model_
    more = {"one": {}, "masks": {"n_masks": 16}, "fresh": {"n_masks": None, "n_eval_masks": 4}}[kind]
    return small(hidden_sizes=(200,), **more).fit(rows(200, 100)).model_


def same_bits(of: Any, n: int = 300) -> Callable[[], str | None]:
    """Return a check that a model scores n rows, and samples, as it does now."""
    X = rows(n, of.n_features_in, 9)

    def bits() -> bytes:
        return bytes(of.score_samples(X, n_threads=2).tobytes() + of.sample(n // 5, 1, n_threads=2).tobytes())

    before = bits()
    return lambda: None if bits() == before else "the model has other bits"


# Fits: rows, validation rows, parameters; each without end

FITS: dict[str, Callable[[float], tuple[Any, Any, dict[str, Any]]]] = {
    "one thread": lambda _: (rows(20_000, 784), None, {"n_threads": 1}),
    "two threads, validation": lambda _: (rows(3000, 784), rows(2000, 784, 1), {}),
    "small and fast, two threads, validation": lambda _: (rows(200, 784), rows(50, 784, 1), {}),
    "eight masks, two threads": lambda _: (rows(5000, 784), None, {"n_masks": 8}),
    "fresh masks, one thread, validation": lambda _: (
        rows(1000, 784), rows(500, 784, 1), {"n_threads": 1, "n_masks": None, "n_eval_masks": 8, "dropout": 0.1}
    ),
    "rows with missing entries, two threads": lambda _: (
        with_missing(2000, 784, 0.1, 500), None, {"n_masks": None, "n_eval_masks": 8}
    ),
    "missing entries, validation with missing entries": lambda _: (
        with_missing(400, 100, 0.1, 50), with_missing(100, 100, 0.1, 20), {"n_masks": None, "n_eval_masks": 2}
    ),
    "wide layers, two threads": lambda scale: (rows(400, 784), None, {"hidden_sizes": (wide(4000, scale),) * 2}),
    "wide layers, fresh masks": lambda scale: (
        rows(2000, 784), None, {"hidden_sizes": (wide(2000, scale),) * 2, "n_masks": None, "n_eval_masks": 2}
    ),
    "a checkpoint every epoch": lambda scale: (
        rows(100, 784), rows(50, 784, 1), {"hidden_sizes": (wide(2000, scale),) * 2, "checkpoint": True}
    ),
}  # fmt: skip


def _fit(name: str, scale: float, folder: Path) -> Prepared:
    """Prepare a fit. Afterwards there is a model; it is the best one; a new fit has the bits it always has."""
    X, X_val, params = FITS[name](scale)
    path = folder / "checkpoint" if params.pop("checkpoint", False) else None
    params = {"random_state": 0, "max_epochs": 10**6, "patience": 10**6, "n_threads": 2, **params}
    made, few = MADE(**params), np.nan_to_num(np.asarray(X[:40]))

    def first_bits() -> bytes:
        one = MADE(**{**params, "max_epochs": 1}).fit(X[:200])
        return bytes(one.model_.score_samples(few, n_threads=1).tobytes())

    before = first_bits()

    def check() -> str | None:
        if path is not None and path.exists():
            MADE.resume(path)
        if not hasattr(made, "history_"):
            return None  # it was still reading the rows
        if not np.isfinite(made.model_.score_samples(few)).all():
            return "the model is of no use"
        scores = [record["validation_nll"] for record in made.history_]
        if X_val is not None and scores:
            if made.best_epoch_ != 1 + int(np.argmin(scores)):
                return f"best_epoch_ is {made.best_epoch_} of {scores}"
            if params.get("n_masks", 1) == 1 and -made.score(X_val) != min(scores):
                return f"the model is not the best one: {-made.score(X_val)} of {scores}"
        for name in ("history_", "model_"):
            delattr(made, name)
        return left_over(folder, "checkpoint") if first_bits() == before else "a new fit has other bits"

    return Prepared(lambda: made.fit(X, X_val=X_val, checkpoint=path), check, 0.6)


def _many_rows(scale: float, _: Path) -> Prepared:
    X, made = rows(round(1_000_000 * scale), 200), MADE(hidden_sizes=(2,), max_epochs=1, batch_size=1000, random_state=0)
    return Prepared(lambda: made.fit(X))


def _ensemble(scale: float, _: Path) -> Prepared:
    X = rows(400, 300)
    ensemble = MADEEnsemble(4, hidden_sizes=(200,), max_epochs=10**6, patience=10**6, n_jobs=2, random_state=0)

    def check() -> str | None:
        end = time.monotonic() + 20
        while busy := [t for t in threading.enumerate() if "Pool" in type(t).__name__ or "ThreadPool" in t.name]:
            if time.monotonic() > end:
                return f"threads of members are left behind: {busy}"
            time.sleep(0.01)
        return None

    return Prepared(lambda: ensemble.fit(X), check, 0.6)


def _begin(scale: float, _: Path, width: float, **params: Any) -> Prepared:
    made = MADE(hidden_sizes=(wide(width, scale),) * (1 if "n_masks" in params else 2), max_epochs=1, random_state=0, **params)
    return Prepared(lambda: made.fit(rows(1, 784)))


# Questions: name of the model, operation, rows, share of missing entries, patterns, threads

QUESTIONS: dict[str, tuple[str, str, int, int, int]] = {
    "score many rows, threads: 1": ("one", "score_samples", 1_000_000, 0, 1),
    "sample many rows, threads: 1": ("one", "sample", 300_000, 0, 1),
    "score many rows, threads: 2": ("one", "score_samples", 1_000_000, 0, 2),
    "sample many rows, threads: 2": ("one", "sample", 300_000, 0, 2),
    "score under 16 masks": ("masks", "score_samples", 60_000, 0, 2),
    "score under a mixture of models": ("mixture", "score_samples", 60_000, 0, 2),
    "score, wide layers": ("wide", "score_samples", 2000, 0, 2),
    "sample, wide layers": ("wide", "sample", 400, 0, 2),
    "to_dense, wide layers": ("wide", "to_dense", 0, 0, 1),
    "conditionals of many rows": ("one", "conditional_proba", 500_000, 0, 2),
    "log_marginal, estimated by walks": ("one", "log_marginal", 1000, 20, 2),
    "log_marginal, a pattern for each row": ("fresh", "log_marginal", 4000, 4000, 2),
    "impute, mode": ("one", "impute, mode", 2000, 30, 2),
    "impute, mean": ("one", "impute, mean", 2000, 30, 2),
    "impute, sample": ("one", "impute, sample", 2000, 30, 2),
    "impute a mixture": ("mixture", "impute, mean", 500, 30, 2),
}


def _question(name: str, scale: float, _: Path) -> Prepared:
    kind, operation, n, n_patterns, n_threads = QUESTIONS[name]
    asked, takes = model(kind, scale if kind == "wide" else 1.0), OPERATIONS[operation].takes
    n = n if kind == "wide" else max(1, round(n * scale))
    more = {}
    if takes in (COUNT, NOTHING):
        X: Any = n
    elif takes == WALKS:
        X, more = with_missing(n, 100, 0.1 if "impute" in operation else 0.3, n_patterns), {"n_walks": 64}
    else:
        X = rows(n, asked.n_features_in)
    check = same_bits(asked, 5 if kind == "wide" else 300)
    return Prepared(lambda: ask(operation, asked, X, n_threads=n_threads, **more), check)


# Tables, of which the checks and the packing take long, and the score by a tiny model hardly any time


def _in_disorder(scale: float) -> Any:
    from scipy import sparse

    X = sparse.random(round(300_000 * scale), 100, 0.1, "csr", rng=np.random.default_rng(0), data_rvs=np.ones)
    return X[:, np.random.default_rng(1).permutation(100)]


def _frame(scale: float) -> Any:
    import pandas as pd

    return pd.DataFrame(rows(round(500_000 * scale), 100))


TABLES: dict[str, Callable[[float], Any]] = {
    "read a table of float64": lambda scale: rows(round(500_000 * scale), 100).astype(np.float64),
    "read a table column by column (Fortran order)": lambda scale: np.asfortranarray(rows(round(500_000 * scale), 100)),
    "read a table of objects": lambda scale: rows(round(100_000 * scale), 100).astype(object),
    "read a sparse table, its columns in disorder": _in_disorder,
    "read a data frame": _frame,
}


def _table(name: str, scale: float, _: Path) -> Prepared:
    X, tiny = TABLES[name](scale), small(hidden_sizes=()).fit(rows(100, 100)).model_
    return Prepared(lambda: tiny.score_samples(X, n_threads=2), same_bits(tiny))


# Files


def left_over(folder: Path, *names: str) -> str | None:
    """Return an error text if a folder holds other files."""
    more = set(os.listdir(folder)) - set(names)
    return f"left over: {more}" if more else None


def _save(scale: float, folder: Path) -> Prepared:
    large, path = model("wide", scale), folder / "model"
    large.save(path)

    def check() -> str | None:
        if not np.array_equal(parameters_of(load(path, mmap=True)), parameters_of(large)):
            return "the file holds another model"
        return left_over(folder, "model")

    return Prepared(lambda: large.save(path), check)


def _load(scale: float, folder: Path, *, mmap: bool = False, damaged: bool = False) -> Prepared:
    path = folder / "model"
    model("wide", scale).save(path)
    if damaged:
        with open(path, "r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"x")

    def run() -> None:
        try:
            load(path, mmap=mmap)
        except ModelFileError:
            assert damaged
        else:
            assert not damaged

    return Prepared(run)


def _resume(scale: float, folder: Path) -> Prepared:
    path = folder / "checkpoint"
    small(hidden_sizes=(wide(2500, scale),) * 2).fit(rows(20, 784), checkpoint=path)
    return Prepared(lambda: MADE.resume(path))


ALL: dict[str, Build] = {
    **{f"fit, {name}": partial(_fit, name) for name in FITS},
    "fit, a million rows are read": _many_rows,
    "fit of an ensemble, two members at a time": _ensemble,
    **{name: partial(_question, name) for name in QUESTIONS},
    **{name: partial(_table, name) for name in TABLES},
    "save a large model": _save,
    "load a large model, read": _load,
    "load a large model, mapped": partial(_load, mmap=True),
    "refuse a large damaged file": partial(_load, damaged=True),
    "resume from a large checkpoint": _resume,
    "begin a large fit, glorot_uniform": partial(_begin, width=8000, weight_init="glorot_uniform"),
    "begin a large fit, glorot_normal": partial(_begin, width=8000, weight_init="glorot_normal"),
    "begin a large fit, orthogonal": partial(_begin, width=500, weight_init="orthogonal"),
    "begin a fit under many masks": lambda scale, f: _begin(1.0, f, 8000, n_masks=max(2, round(300 * scale))),
}
"""Operations to interrupt; each is made of a scale (1 for the command line, less for the tests) and a folder."""


# The worker


class Figures(NamedTuple):
    """Results of an operation: seconds from each signal to its answer, and error texts."""

    name: str
    latencies: list[float]
    seconds: float
    """Duration of the operation, or the time within which it was interrupted."""
    wrong: list[str]

    def is_late(self, limit: float = PROMISE) -> bool:
        return max(self.latencies, default=0.0) > limit and self.name not in THEIRS


def interrupted(run: Callable[[], Any], delay: float) -> float | None:
    """Begin ``run`` and interrupt it after ``delay`` seconds; return the seconds to the answer, None if it ended before."""
    due = time.monotonic() + delay
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, delay)
            run()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        return max(0.0, time.monotonic() - due)
    return None


def measure(name: str, n: int, scale: float, folder: Path) -> Figures:
    prepared, chance, wrong, latencies = ALL[name](scale, folder), random.Random(0), list[str](), list[float]()
    begin = time.monotonic()
    if not prepared.seconds:
        prepared.run()  # once, and whole
    seconds = prepared.seconds * min(1.0, 0.2 + scale) or time.monotonic() - begin
    moments = [(i + chance.random()) / n * seconds for i in range(n)]
    for _ in range(3):  # those that came too late, once more and sooner
        chance.shuffle(moments)
        found = [(moment, interrupted(prepared.run, moment), wrong.extend(faults_of(prepared))) for moment in moments]
        latencies += [latency for _, latency, _ in found if latency is not None]
        moments = [moment / 2 for moment, latency, _ in found if latency is None]
    return Figures(name, latencies, seconds, wrong)


def faults_of(prepared: Prepared) -> Iterator[str]:
    """Yield error texts after an interrupt."""
    try:
        if found := prepared.check():
            yield found
    except Exception:
        yield traceback.format_exc()
    barrier = threading.Barrier(3, timeout=10)
    try:
        threads.run(lambda rank: barrier.wait() and None, 3, barrier.abort)
    except threading.BrokenBarrierError:
        yield "ranks do not meet any more"
    if sum(thread.name == "made_fast" for thread in threading.enumerate()) > threads.HELPERS:
        yield "threads were lost"


def run(names: list[str], n: int, scale: float = 1.0) -> Iterator[Figures]:
    """Measure operations, each in a fork, and yield the figures of each."""

    def work(name: str) -> dict[str, Any]:
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        warnings.simplefilter("ignore", ApproximationWarning)
        with new_folder() as folder:
            return measure(name, n, scale, folder)._asdict()

    for name in names:
        try:
            yield Figures(**Child(partial(work, name)).answer(PATIENCE))
        except RuntimeError as error:
            yield Figures(name, [], 0.0, [str(error)])


def show(f: Figures) -> None:
    times = sorted(f.latencies) or [0.0]
    median, worst = times[len(times) // 2] * 1e3, times[-1] * 1e3
    mark = f"  <- over {PROMISE * 1e3:.0f} ms" if times[-1] > PROMISE else ""
    mark += f" ({THEIRS[f.name]})" if mark and f.name in THEIRS else ""
    within = f"{len(f.latencies)} interrupts within {f.seconds:.2f} s"
    print(f"{f.name}: {within}: {median:.1f} ms (median), {worst:.1f} ms (worst){mark}", flush=True)
    for what in sorted(set(f.wrong))[:3]:
        print(f"{f.name}: {f.wrong.count(what)} times: {what}", file=sys.stderr)


def main() -> int:
    args = command_line(
        __doc__,
        n=(50, "interrupts of each operation"),
        only=("", "operations whose name contains this"),
        scale=(1.0, "of the sizes"),
    )
    report = Report("all")
    for found in run([name for name in ALL if args.only in name], args.n, args.scale):
        show(found)
        report.figures["operations"] += 1
        report.figures["interrupts"] += len(found.latencies)
        if found.name not in THEIRS:
            report.highest("the longest delay, in ms", max(found.latencies, default=0.0) * 1e3)
        report.check(not found.is_late(), f"{found.name}: late")
        report.check(not found.wrong, f"{found.name}: something is wrong")
    report.highest(f"load average on {os.cpu_count()} CPUs", os.getloadavg()[1])
    return report.end().show()


if __name__ == "__main__":
    sys.exit(main())
