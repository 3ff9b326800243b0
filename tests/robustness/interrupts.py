"""Ctrl-C at random moments of everything that takes long: how soon it is answered, and what it leaves behind.

Each operation is begun again and again, and interrupted at moments spread evenly over the time that it takes. The signal comes
from the kernel's own timer (setitimer), so it waits for no thread of ours and no GIL, and is answered by Python's handler of
Ctrl-C. What counts is the time from there until KeyboardInterrupt has reached who called. Then whatever was at work must be
as good as before: models give the same bits, a fit has left the best parameters it had, a file is the old one or the new one,
ranks of threads still meet.

A worker process does this for one operation after the other and prints a line of JSON for each; one that does not come within
``PATIENCE`` is a hang. On a machine where others run, an interrupt waits for a CPU too: look at the median, and at whether the
worst comes back in another run.

Not here: kill -9 (``kill.py``), Ctrl-C of the command line (``tests/test_cli.py``), errors while ranks wait
(``tests/test_threads.py``).

    python tests/robustness/interrupts.py --n 50
    python tests/robustness/interrupts.py --n 50 --only "score" --scale 3
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from made_fast import MADE, ApproximationWarning, MADEEnsemble, MADEModel, MixtureModel, ModelFileError, load
from made_fast.system import threads

PROMISE = 0.1
"""Seconds within which Ctrl-C is answered."""

PATIENCE = 300.0
"""Seconds after which an operation, with all its interrupts, counts as hanging."""


class Prepared(NamedTuple):
    """What can be begun and interrupted many times.

    Attributes
    ----------
    run : callable
        Do it.
    check : callable
        Say what is wrong afterwards, if anything.
    seconds : float
        For what has no end: interrupt within so many seconds. 0: within the time that it takes.
    """

    run: Callable[[], Any]
    check: Callable[[], str | None]
    seconds: float = 0.0


Build = Callable[[float, Path], Prepared]
OPERATIONS: dict[str, Build] = {}
"""By name; each is made of a scale (1 for the command line, less for the tests) and a folder."""

THEIRS = {
    "begin a large fit, orthogonal": "one QR decomposition of LAPACK's for each layer",
    "read a table of objects": "Python objects, one by one",
    "read a sparse table, its columns in disorder": "SciPy sorts the whole table",
}
"""Operations that wait for a single call into something else, and what that is: measured, but no part of the promise."""


def operation(name: str) -> Callable[[Build], Build]:
    """Enter a function into ``OPERATIONS``."""

    def enter(build: Build) -> Build:
        OPERATIONS[name] = build
        return build

    return enter


# ---------------------------------------------------------------------------------------------------------------------------
# Models and rows
# ---------------------------------------------------------------------------------------------------------------------------


@cache
def rows(n: int, D: int, seed: int = 0) -> np.ndarray:
    """Return rows of 0/1, a fifth of them ones."""
    return (np.random.default_rng(seed).integers(0, 5, (n, D), np.uint8) == 0).view(np.uint8)


def with_missing(n: int, D: int, share: float, n_patterns: int) -> np.ndarray:
    """Return rows of which some inputs are missing, in so many patterns."""
    X = rows(n, D).astype(np.float32)
    patterns = np.random.default_rng(1).random((n_patterns, D)) < share
    X[patterns[np.arange(n) % n_patterns]] = np.nan
    return X


@cache
def model(kind: str, scale: float = 1.0) -> Any:
    """Return a fitted model."""
    D = 100
    common: dict[str, Any] = {"max_epochs": 1, "random_state": 0, "n_threads": 1, "learning_rate": 0.01}
    if kind == "one":
        return MADE(hidden_sizes=(200,), **common).fit(rows(200, D)).model_
    if kind == "masks":
        return MADE(hidden_sizes=(200,), n_masks=16, **common).fit(rows(200, D)).model_
    if kind == "fresh":
        return MADE(hidden_sizes=(200,), n_masks=None, n_eval_masks=4, **common).fit(rows(200, D)).model_
    if kind == "mixture":
        return MixtureModel([model("one"), model("masks")])
    wide = max(64, round(4000 * scale**0.5))
    return MADE(hidden_sizes=(wide, wide), **common).fit(rows(20, 784)).model_


def same_bits(of: MADEModel | MixtureModel, n: int = 300) -> Callable[[], str | None]:
    """Return a check that a model scores n rows, and samples, as it does now."""

    def bits() -> bytes:
        scores = of.score_samples(rows(n, of.n_features_in, 9), n_threads=2)
        return bytes(scores.tobytes() + of.sample(n // 5, 1, n_threads=2).tobytes())

    before = bits()
    return lambda: None if bits() == before else "the model has other bits"


def of_model(kind: str, call: Callable[[Any], Any]) -> Prepared:
    """Return a call on a model, after which this must have the same bits."""
    asked = model(kind)
    return Prepared(lambda: call(asked), same_bits(asked))


# ---------------------------------------------------------------------------------------------------------------------------
# Fits
# ---------------------------------------------------------------------------------------------------------------------------


def of_fit(X: Any, X_val: Any = None, *, fit_options: dict[str, Any] | None = None, **params: Any) -> Prepared:
    """Return a fit without end. Afterwards there is a model; it is the best one; a new fit has the bits it always has."""
    params = {"random_state": 0, "max_epochs": 10**6, "patience": 10**6, **params}
    made = MADE(**params)
    few = np.nan_to_num(np.asarray(X[:40]))

    def first_bits() -> bytes:
        one = MADE(**{**params, "max_epochs": 1}).fit(X[:200])
        return bytes(one.model_.score_samples(few, n_threads=1).tobytes())

    before = first_bits()

    def check() -> str | None:
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
        return None if first_bits() == before else "a new fit has other bits"

    return Prepared(lambda: made.fit(X, X_val=X_val, **(fit_options or {})), check, 0.6)


@operation("fit, one thread")
def _(scale: float, _: Path) -> Prepared:
    return of_fit(rows(20_000, 784), n_threads=1)


@operation("fit, two threads, validation")
def _(scale: float, _: Path) -> Prepared:
    return of_fit(rows(3000, 784), rows(2000, 784, 1), n_threads=2)


@operation("fit, small and fast, two threads, validation")
def _(scale: float, _: Path) -> Prepared:
    return of_fit(rows(200, 784), rows(50, 784, 1), n_threads=2)


@operation("fit, eight masks, two threads")
def _(scale: float, _: Path) -> Prepared:
    return of_fit(rows(5000, 784), n_threads=2, n_masks=8)


@operation("fit, fresh masks, one thread, validation")
def _(scale: float, _: Path) -> Prepared:
    return of_fit(rows(1000, 784), rows(500, 784, 1), n_threads=1, n_masks=None, n_eval_masks=8, dropout=0.1)


@operation("fit, rows with missing entries, two threads")
def _(scale: float, _: Path) -> Prepared:
    return of_fit(with_missing(2000, 784, 0.1, 500), n_threads=2, n_masks=None, n_eval_masks=8)


@operation("fit, missing entries, validation with missing entries")
def _(scale: float, _: Path) -> Prepared:
    return of_fit(with_missing(400, 100, 0.1, 50), with_missing(100, 100, 0.1, 20), n_threads=2, n_masks=None, n_eval_masks=2)


@operation("fit, wide layers, two threads")
def _(scale: float, _: Path) -> Prepared:
    wide = max(64, round(4000 * scale**0.5))
    return of_fit(rows(400, 784), n_threads=2, hidden_sizes=(wide, wide))


@operation("fit, a checkpoint every epoch")
def _(scale: float, folder: Path) -> Prepared:
    wide = max(64, round(2000 * scale**0.5))
    path = folder / "checkpoint"
    prepared = of_fit(
        rows(100, 784), rows(50, 784, 1), n_threads=2, hidden_sizes=(wide, wide), fit_options={"checkpoint": path}
    )

    def check() -> str | None:
        if path.exists():
            MADE.resume(path)
        return prepared.check() or left_over(folder, "checkpoint")

    return prepared._replace(check=check)


@operation("fit, a million rows are read")
def _(scale: float, _: Path) -> Prepared:
    X, made = rows(round(1_000_000 * scale), 200), MADE(hidden_sizes=(2,), max_epochs=1, batch_size=1000, random_state=0)
    return Prepared(lambda: made.fit(X), lambda: None)


@operation("fit of an ensemble, two members at a time")
def _(scale: float, _: Path) -> Prepared:
    X = rows(400, 300)
    ensemble = MADEEnsemble(4, hidden_sizes=(200,), max_epochs=10**6, patience=10**6, n_jobs=2, random_state=0)

    def check() -> str | None:
        end = time.monotonic() + 20
        while busy := [t for t in threading.enumerate() if "Pool" in type(t).__name__ or "ThreadPool" in t.name]:
            if time.monotonic() > end:
                return f"threads of members that nobody waits for: {busy}"
            time.sleep(0.01)
        return None

    return Prepared(lambda: ensemble.fit(X), check, 0.6)


# ---------------------------------------------------------------------------------------------------------------------------
# Questions
# ---------------------------------------------------------------------------------------------------------------------------


for n_threads in (1, 2):

    @operation(f"score many rows, threads: {n_threads}")
    def _(scale: float, _: Path, n_threads: int = n_threads) -> Prepared:
        X = rows(round(1_000_000 * scale), 100)
        return of_model("one", lambda m: m.score_samples(X, n_threads=n_threads))

    @operation(f"sample many rows, threads: {n_threads}")
    def _(scale: float, _: Path, n_threads: int = n_threads) -> Prepared:
        return of_model("one", lambda m: m.sample(round(300_000 * scale), 0, n_threads=n_threads))


@operation("score under 16 masks")
def _(scale: float, _: Path) -> Prepared:
    X = rows(round(60_000 * scale), 100)
    return of_model("masks", lambda m: m.score_samples(X, n_threads=2))


@operation("score under a mixture of models")
def _(scale: float, _: Path) -> Prepared:
    X = rows(round(60_000 * scale), 100)
    return of_model("mixture", lambda m: m.score_samples(X, n_threads=2))


@operation("score, wide layers")
def _(scale: float, _: Path) -> Prepared:
    wide, X = model("wide", scale), rows(2000, 784)
    return Prepared(lambda: wide.score_samples(X, n_threads=2), same_bits(wide, 5))


@operation("sample, wide layers")
def _(scale: float, _: Path) -> Prepared:
    wide = model("wide", scale)
    return Prepared(lambda: wide.sample(400, 0, n_threads=2), same_bits(wide, 5))


@operation("to_dense, wide layers")
def _(scale: float, _: Path) -> Prepared:
    wide = model("wide", scale)
    return Prepared(wide.to_dense, same_bits(wide, 5))


@operation("conditionals of many rows")
def _(scale: float, _: Path) -> Prepared:
    X = rows(round(500_000 * scale), 100)
    return of_model("one", lambda m: m.conditional_proba(X, n_threads=2))


@operation("log_marginal, estimated by walks")
def _(scale: float, _: Path) -> Prepared:
    X = with_missing(round(1000 * scale), 100, 0.3, 20)
    return of_model("one", lambda m: m.log_marginal(X, n_threads=2, return_std=True))


@operation("log_marginal, a pattern for each row")
def _(scale: float, _: Path) -> Prepared:
    X = with_missing(round(4000 * scale), 100, 0.3, 10**6)
    return of_model("fresh", lambda m: m.log_marginal(X, n_threads=2, return_std=True))


for method in ("mode", "mean", "sample"):

    @operation(f"impute, {method}")
    def _(scale: float, _: Path, method: str = method) -> Prepared:
        X = with_missing(round(2000 * scale), 100, 0.1, 30)
        return of_model("one", lambda m: m.impute(X, method, n_threads=2, n_walks=64))


@operation("impute a mixture")
def _(scale: float, _: Path) -> Prepared:
    X = with_missing(round(500 * scale), 100, 0.1, 30)
    return of_model("mixture", lambda m: m.impute(X, "mean", n_threads=2, n_walks=64))


# ---------------------------------------------------------------------------------------------------------------------------
# Tables
# ---------------------------------------------------------------------------------------------------------------------------


def of_table(X: Any) -> Prepared:
    """Return the checks and the packing of a table, by a model that needs hardly any time to score it."""
    tiny = MADE(hidden_sizes=(), max_epochs=1, n_threads=1, random_state=0).fit(rows(100, X.shape[1])).model_
    return Prepared(lambda: tiny.score_samples(X, n_threads=2), same_bits(tiny))


@operation("read a table of float64")
def _(scale: float, _: Path) -> Prepared:
    return of_table(rows(round(500_000 * scale), 100).astype(np.float64))


@operation("read a table column by column (Fortran order)")
def _(scale: float, _: Path) -> Prepared:
    return of_table(np.asfortranarray(rows(round(500_000 * scale), 100)))


@operation("read a table of objects")
def _(scale: float, _: Path) -> Prepared:
    return of_table(rows(round(100_000 * scale), 100).astype(object))


@operation("read a sparse table, its columns in disorder")
def _(scale: float, _: Path) -> Prepared:
    from scipy import sparse

    X = sparse.random(round(300_000 * scale), 100, 0.1, "csr", rng=np.random.default_rng(0), data_rvs=np.ones)
    return of_table(X[:, np.random.default_rng(1).permutation(100)])


@operation("read a data frame")
def _(scale: float, _: Path) -> Prepared:
    import pandas as pd

    return of_table(pd.DataFrame(rows(round(500_000 * scale), 100)))


# ---------------------------------------------------------------------------------------------------------------------------
# Files, beginnings
# ---------------------------------------------------------------------------------------------------------------------------


def left_over(folder: Path, *names: str) -> str | None:
    """Say what is in a folder beside these files."""
    more = set(os.listdir(folder)) - set(names)
    return f"left over: {more}" if more else None


@operation("save a large model")
def _(scale: float, folder: Path) -> Prepared:
    wide, path = model("wide", scale), folder / "model"
    wide.save(path)
    parameters = wide.source.vector

    def check() -> str | None:
        found = load(path, mmap=True)
        assert isinstance(found, MADEModel)
        if not np.array_equal(found.source.vector, parameters):  # type: ignore[union-attr]
            return "the file holds another model"
        return left_over(folder, "model")

    return Prepared(lambda: wide.save(path), check)


for mmap in (False, True):

    @operation(f"load a large model, {'mapped' if mmap else 'read'}")
    def _(scale: float, folder: Path, mmap: bool = mmap) -> Prepared:
        path = folder / "model"
        model("wide", scale).save(path)
        return Prepared(lambda: load(path, mmap=mmap), lambda: None)


@operation("refuse a large damaged file")
def _(scale: float, folder: Path) -> Prepared:
    path = folder / "model"
    model("wide", scale).save(path)
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")

    def refused() -> None:
        try:
            load(path)
        except ModelFileError:
            return
        raise AssertionError("a damaged file was taken")

    return Prepared(refused, lambda: None)


@operation("resume from a large checkpoint")
def _(scale: float, folder: Path) -> Prepared:
    wide, path = max(64, round(2500 * scale**0.5)), folder / "checkpoint"
    MADE(hidden_sizes=(wide, wide), max_epochs=1, random_state=0).fit(rows(20, 784), checkpoint=path)
    return Prepared(lambda: MADE.resume(path), lambda: None)


for weight_init in ("glorot_uniform", "glorot_normal", "orthogonal"):

    @operation(f"begin a large fit, {weight_init}")
    def _(scale: float, _: Path, weight_init: str = weight_init) -> Prepared:
        wide = max(64, round((500 if weight_init == "orthogonal" else 8000) * scale**0.5))
        made = MADE(hidden_sizes=(wide, wide), weight_init=weight_init, max_epochs=1, random_state=0)
        return Prepared(lambda: made.fit(rows(1, 784)), lambda: None)


@operation("begin a fit under many masks")
def _(scale: float, _: Path) -> Prepared:
    made = MADE(hidden_sizes=(8000,), n_masks=max(2, round(300 * scale)), max_epochs=1, random_state=0)
    return Prepared(lambda: made.fit(rows(1, 784)), lambda: None)


# ---------------------------------------------------------------------------------------------------------------------------
# The worker
# ---------------------------------------------------------------------------------------------------------------------------


class Figures(NamedTuple):
    """What happened to an operation: seconds from each signal to its answer, and what was wrong afterwards."""

    name: str
    latencies: list[float]
    seconds: float
    """What the operation takes, or the time within which it was interrupted."""
    wrong: list[str]

    def broken(self, limit: float = PROMISE) -> bool:
        """Say whether a promise was broken."""
        late = max(self.latencies, default=0.0) > limit and self.name not in THEIRS
        return bool(self.wrong) or late


def interrupted(run: Callable[[], Any], delay: float) -> float | None:
    """Begin ``run`` and interrupt it after so many seconds; return how many the answer took, None if it was over before."""
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


def measure(name: str, n: int, scale: float, folder: Path, seed: int) -> Figures:
    """Interrupt an operation n times."""
    prepared, chance, wrong, latencies = OPERATIONS[name](scale, folder), random.Random(seed), list[str](), list[float]()
    begin = time.monotonic()
    if not prepared.seconds:
        prepared.run()  # once, and whole
    seconds = prepared.seconds * min(1.0, 0.2 + scale) or time.monotonic() - begin
    moments = [(i + chance.random()) / n * seconds for i in range(n)]
    for _ in range(3):  # those that came too late, once more and sooner
        chance.shuffle(moments)
        found = [(moment, interrupted_and_checked(prepared, moment, wrong)) for moment in moments]
        latencies += [latency for _, latency in found if latency is not None]
        moments = [moment / 2 for moment, latency in found if latency is None]
    return Figures(name, latencies, seconds, wrong)


def interrupted_and_checked(prepared: Prepared, moment: float, wrong: list[str]) -> float | None:
    """Interrupt once; then see whether all is as it should be."""
    latency = interrupted(prepared.run, moment)
    try:
        found = prepared.check()
    except Exception:
        found = traceback.format_exc()
    barrier = threading.Barrier(3, timeout=10)
    try:
        threads.run(lambda rank: barrier.wait() and None, 3, barrier.abort)
    except threading.BrokenBarrierError:
        found = "ranks do not meet any more"
    if sum(thread.name == "made_fast" for thread in threading.enumerate()) > threads.HELPERS:
        found = "threads were lost"
    if found:
        wrong.append(found)
    return latency


def work(names: list[str], n: int, scale: float, seed: int) -> None:
    """Print a line for each operation."""
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    warnings.simplefilter("ignore", ApproximationWarning)
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(name, n, scale, Path(folder), seed)._asdict()), flush=True)


# ---------------------------------------------------------------------------------------------------------------------------
# Who watches it
# ---------------------------------------------------------------------------------------------------------------------------


def run(names: list[str], n: int, scale: float = 1.0, seed: int = 0) -> Iterator[Figures]:
    """Measure operations in another process, and yield what each has come to."""
    names = list(names)
    while names:
        command = [sys.executable, __file__, "--work", "--n", str(n), "--scale", str(scale), "--seed", str(seed)]
        command += [part for name in names for part in ("--name", name)]
        with ended(subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0)) as process:
            assert process.stdout is not None
            lines = partial(process.stdout.readline)
            while names:
                ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
                line = lines() if ready else b""
                if not line:
                    why = "hangs" if not ready else f"its process ended, with {process.wait()}"
                    yield Figures(names.pop(0), [], 0.0, [why])
                    break  # a new process for the others
                names.pop(0)
                yield Figures(**json.loads(line))


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Take care that a process does not outlive the block."""
    with process:
        try:
            yield process
        finally:
            process.kill()


def print_figures(f: Figures) -> None:
    """Print one line for an operation."""
    times = sorted(f.latencies) or [0.0]
    median, worst = times[len(times) // 2] * 1e3, times[-1] * 1e3
    mark = f"  <- over {PROMISE * 1e3:.0f} ms" if times[-1] > PROMISE else ""
    mark += f" ({THEIRS[f.name]})" if mark and f.name in THEIRS else ""
    within = f"{len(f.latencies)} interrupts within {f.seconds:.2f} s"
    print(f"{f.name}: {within}: {median:.1f} ms (median), {worst:.1f} ms (worst){mark}")
    for what in sorted(set(f.wrong))[:3]:
        print(f"{f.name}: {f.wrong.count(what)} times: {what}", file=sys.stderr)


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--n", type=int, default=50, help="interrupts of each operation")
    parser.add_argument("--only", default="", help="operations whose name contains this")
    parser.add_argument("--scale", type=float, default=1.0, help="of the sizes")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--name", action="append", default=[], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.name, args.n, args.scale, args.seed)
        return 0
    figures = []
    for found in run([name for name in OPERATIONS if args.only in name], args.n, args.scale, args.seed):
        print_figures(found)
        sys.stdout.flush()
        figures.append(found)
    ours = [f for f in figures if f.name not in THEIRS]
    times = [seconds for f in ours for seconds in f.latencies]
    late = [f.name for f in ours if max(f.latencies, default=0.0) > PROMISE]
    wrong = [f.name for f in figures if f.wrong]
    worst = max(times, default=0.0) * 1e3
    print(f"all: {len(times)} interrupts of {len(ours)} operations, the worst answered after {worst:.1f} ms")
    print(f"all: operations over {PROMISE * 1e3:.0f} ms: {len(late)} {late or ''}")
    print(f"all: operations with something wrong: {len(wrong)} {wrong or ''}")
    print(f"all: load average of the last minutes: {os.getloadavg()[1]:.1f} on {os.cpu_count()} CPUs")
    return 1 if any(f.broken() for f in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
