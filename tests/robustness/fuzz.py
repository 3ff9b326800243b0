"""A mutation fuzzer of model files and checkpoints: whatever a file holds, it is refused by name, or the model in it works.

``python tests/robustness/fuzz.py --n 100000`` makes that many mutants of small files of every kind and gives each to the
public door, ``made_fast.load`` (read or mapped) or ``MADE.resume``. What is promised of every one of them:

- it is refused by ModelFileError with a text of less than 500 characters that begins with the path, or the model in it scores
  and samples, and its probabilities add up to 1 (and a resumed fit goes on, or says why not). If a parameter is beyond 1000,
  scores need not be finite: products of such numbers may overflow, which is counted and is no fault of the file;
- nothing crashes, and nothing takes longer than a second;
- loading it allocates no more than the size of the file and 64 MB beside it.

Mutants are made and loaded in child processes, so a crash or a hang costs a child and not the fuzzer; files that break a
promise are kept. Mutant i of a seed is the same whenever it is made: ``--only I`` makes it again and loads it in this process.

There are four classes, in turn, and counts of each: ``raw``, ``header``, ``json`` and ``tensors``, see ``mutations.py``.

Not here: what is changed in a file, and how (``mutations.py``); coverage guided search (``atheris_model_file.py``); single
faults with their messages (``tests/test_storage.py``).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import mmap
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import made_fast

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where its neighbours are, also for a script
from robustness.mutations import CLASSES, compact, mutate, put_together, take_apart

SECONDS = 1.0
MARGIN = 64 << 20
LONGEST_TEXT = 500
LARGEST = 64 << 20  # bytes of a mutant: more take their time to be read, as they should
LARGEST_PARAMETER = 1000.0
KILL_AFTER = 10.0  # seconds; what takes longer than SECONDS is run again alone before it counts as a hang
TRIES, ENOUGH = 3, 5  # runs alone; hangs after which no further suspect is run alone


class Seed(NamedTuple):
    """A file in order to make mutants of."""

    name: str
    raw: bytes
    is_checkpoint: bool


class Mutant(NamedTuple):
    """What is to be loaded, and how."""

    number: int
    kind: str
    seed: Seed
    raw: bytes
    resume: bool
    mapped: bool


# ---------------------------------------------------------------------------------------------------------------------------
# Seeds and mutants
# ---------------------------------------------------------------------------------------------------------------------------


def make_seeds() -> list[Seed]:
    """Return a small file of every kind, written by the public API; the same ones every time."""
    from made_fast import MADE, MADEModel, MixtureModel

    rng = np.random.default_rng(0)
    X = rng.integers(0, 2, (24, 5))
    fits: dict[str, dict[str, Any]] = {
        "one mask": {"hidden_sizes": (7,)},
        "no hidden layer": {"hidden_sizes": ()},
        "float64": {"hidden_sizes": (3,), "dtype": "float64", "activation": "softplus", "binarize": 0.5},
        "deep": {"hidden_sizes": (2, 3, 2, 2), "activation": "sigmoid"},
        "direct": {"hidden_sizes": (3, 2), "direct_connections": "all"},
        "several masks": {"hidden_sizes": (7,), "n_masks": 3, "activation": "tanh"},
        "connectivity weights": {"hidden_sizes": (4,), "n_masks": 2, "connectivity_weights": True, "dtype": "float64"},
        "rule": {"hidden_sizes": (3, 4), "n_masks": None, "n_eval_masks": 3, "direct_connections": "output"},
    }
    checkpoints: dict[str, dict[str, Any]] = {
        "checkpoint of one mask": {"hidden_sizes": (3,)},
        "checkpoint of several masks": {"hidden_sizes": (3,), "n_masks": 2, "optimizer": "sgd", "clip_norm": 1.0},
        "checkpoint of a rule": {"hidden_sizes": (2, 3), "n_masks": None, "n_eval_masks": 2, "dropout": 0.25},
    }
    files: dict[str, bytes] = {}
    models = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        for name, options in (fits | checkpoints).items():
            path.unlink(missing_ok=True)  # a checkpoint does not replace a model
            made = MADE(max_epochs=2, batch_size=8, random_state=0, n_threads=1, **options)
            made.fit(X, X_val=X if name != "checkpoint of several masks" else None, checkpoint=path)
            if name in fits:
                models[name] = made.model_
                made.save(path)
            files[name] = path.read_bytes()
        MixtureModel([models["one mask"], models["no hidden layer"]], [0.25, 0.75]).save(path)
        files["mixture"] = path.read_bytes()
        MixtureModel([models["several masks"], models["rule"], models["direct"]]).save(path)
        files["mixture of mixtures"] = path.read_bytes()
        names = ["a", "größe", "", "a b", '"']
        named = [MADEModel(models[name].source, feature_names=names) for name in ("one mask", "direct")]
        named[0].save(path)
        files["names"] = path.read_bytes()
        MixtureModel(named).save(path)
        files["mixture with names"] = path.read_bytes()
    for name in checkpoints:
        files[name] = _timeless(files[name])
    return [Seed(name, raw, name in checkpoints) for name, raw in files.items()]


def _timeless(raw: bytes) -> bytes:
    """Return a checkpoint with other times in its history, which would be others in every run."""
    tensors, metadata = take_apart(raw)
    text = json.loads(tensors["text"].tobytes())
    for record in text["about"]["history"]:
        record |= {"seconds": 0.001, "rows_per_second": 24000.0}
    tensors["text"] = np.frombuffer(compact(text), np.uint8)
    return put_together(tensors, metadata)


def make_mutant(seeds: list[Seed], seed: int, number: int) -> Mutant:
    """Return mutant ``number``; it depends on nothing else."""
    rng = random.Random(seed << 64 | number)
    kind = CLASSES[number % len(CLASSES)]
    source = seeds[number // len(CLASSES) % len(seeds)]
    with np.errstate(all="ignore"):
        raw = mutate(rng, kind, source.raw, rng.choice(seeds).raw)[:LARGEST]
    other_door = rng.random() < 0.05
    return Mutant(number, kind, source, raw, source.is_checkpoint != other_door, rng.random() < 0.3)


# ---------------------------------------------------------------------------------------------------------------------------
# One mutant
# ---------------------------------------------------------------------------------------------------------------------------


class Verdict(NamedTuple):
    """What became of a mutant: ``outcome`` is one of OUTCOMES or, if a promise was broken, of BROKEN."""

    outcome: str
    text: str = ""
    load_seconds: float = 0.0


OUTCOMES = ("refused", "works", "works, but huge parameters overflow")
BROKEN = ("crash", "hang", "memory", "wrong exception", "wrong text", "does not work")


FEW_INPUTS = 5
ALL_ROWS = (np.arange(2**FEW_INPUTS)[:, None] >> np.arange(FEW_INPUTS) & 1).astype(np.uint8)


class Door:
    """A file in memory that mutants are written to and loaded from, and the limit on memory while they are."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("mutant")
        self.path = f"/proc/self/fd/{self.descriptor}"

    def check(self, mutant: Mutant) -> Verdict:
        """Load a mutant and use what comes out."""
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, mutant.raw, 0)
        limits = resource.getrlimit(resource.RLIMIT_AS)
        most = _address_space() + len(mutant.raw) + MARGIN
        begin = time.perf_counter()
        try:
            resource.setrlimit(resource.RLIMIT_AS, (most, limits[1]))
            try:
                loaded = self._load(mutant)
            finally:
                resource.setrlimit(resource.RLIMIT_AS, limits)
                seconds = time.perf_counter() - begin
        except made_fast.ModelFileError as error:
            text = str(error)
            good = text.startswith(f"{self.path}: ") and len(text) < LONGEST_TEXT
            return Verdict("refused" if good else "wrong text", f"{len(text)} characters: {text[:LONGEST_TEXT]}", seconds)
        except MemoryError:
            return Verdict("memory", traceback.format_exc(), seconds)
        except Exception:
            return Verdict("wrong exception", traceback.format_exc(), seconds)
        try:
            return Verdict(use(loaded, resumed=mutant.resume), "", seconds)
        except Exception:
            return Verdict("does not work", traceback.format_exc(), seconds)

    def _load(self, mutant: Mutant) -> Any:
        if mutant.resume:
            return made_fast.MADE.resume(self.path)
        return made_fast.load(self.path, mmap=mutant.mapped)


def use(loaded: Any, *, resumed: bool) -> str:
    """Score and sample a few rows, and go on with a resumed fit; return the outcome.

    Of few inputs all rows are scored: their probabilities add up to 1, or a degree or a dead weight is wrong.
    """
    model = loaded.model_ if resumed else loaded
    D = model.n_features_in
    X = ALL_ROWS[: 2**D, :D] if D <= FEW_INPUTS else np.repeat(np.array([[0], [1]], np.uint8), D, axis=1)
    try:
        log_p = model.score_samples(X, n_threads=1)
        rows = model.sample(2, 0, n_threads=1)
    except FloatingPointError:  # it is told, and only of weights that are to blame
        assert _largest_parameter(model) > LARGEST_PARAMETER
        return OUTCOMES[2]
    assert np.isfinite(log_p).all()
    assert log_p.shape == (len(X),)
    assert rows.shape == (2, D)
    assert ((rows == 0) | (rows == 1)).all()
    for member in _members(model):
        assert (np.sort(member.masks.orderings, axis=1) == np.arange(1, D + 1)).all()
    all_rows = len(X) == 2**D and 0 <= (model.binarize or 0) < 1  # a threshold beyond makes them all one
    good = (log_p <= 1e-6).all() and (not all_rows or abs(np.exp(log_p).sum() - 1) < 1e-4)
    assert good or _largest_parameter(model) > LARGEST_PARAMETER, log_p
    if resumed:  # a parameter that is none, or a loss that is none, may end it
        with contextlib.suppress(TypeError, ValueError, FloatingPointError):
            loaded.set_params(n_threads=1).partial_fit(X)
    return OUTCOMES[1] if good else OUTCOMES[2]


def _members(model: Any) -> Any:
    return getattr(model, "members", [model])


def _largest_parameter(model: Any) -> float:
    sources = [member.source for member in _members(model)]
    vectors = [source.vector for source in sources]
    return max(float(np.abs(values).max()) for values in vectors)


def _address_space() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * mmap.PAGESIZE


# ---------------------------------------------------------------------------------------------------------------------------
# Workers
# ---------------------------------------------------------------------------------------------------------------------------

NUMBER, BEGIN, LONGEST, LONGEST_NUMBER, LONGEST_LOAD, COUNTS = range(6)
STATE = COUNTS + len(CLASSES) * len(OUTCOMES)
"""What a worker tells while it works, int64 each, in a file that both have mapped: it outlives a crash."""


def worker(seed: int, numbers: range, folder: Path, name: str) -> None:
    """Check mutants; tell of the state in ``name.state``, and of what is to be looked at in lines of ``name.jsonl``."""
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    state = _mapped_state(folder / f"{name}.state")
    seeds, door, parent = make_seeds(), Door(), os.getppid()
    for _ in range(2):  # whatever is imported or allocated on first use
        for source in seeds:
            verdict = door.check(Mutant(-1, "", source, source.raw, source.is_checkpoint, False))
            assert verdict.outcome == "works", (source.name, verdict)
    with open(folder / f"{name}.jsonl", "a", buffering=1) as report:
        for number in numbers:
            state[NUMBER], state[BEGIN] = number, 0
            mutant = make_mutant(seeds, seed, number)
            state[BEGIN] = begin = time.monotonic_ns()
            verdict = door.check(mutant)
            spent = time.monotonic_ns() - begin
            state[BEGIN] = 0
            if spent > state[LONGEST]:
                state[LONGEST], state[LONGEST_NUMBER] = spent, number
            state[LONGEST_LOAD] = max(state[LONGEST_LOAD], int(verdict.load_seconds * 1e9))
            if verdict.outcome in OUTCOMES:
                state[COUNTS + CLASSES.index(mutant.kind) * len(OUTCOMES) + OUTCOMES.index(verdict.outcome)] += 1
            else:
                print(json.dumps({"number": number, "what": verdict.outcome, "text": verdict.text}), file=report)
            if spent > SECONDS * 1e9:
                print(json.dumps({"number": number, "what": "slow", "text": f"{spent / 1e9:.2f} s"}), file=report)
            if os.getppid() != parent:
                return


def _mapped_state(path: Path) -> NDArray[np.int64]:
    with open(path, "r+b") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 8 * STATE), np.int64)


FRUGAL = {"OMP_NUM_THREADS": "1", "MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}
"""What keeps the address space of a child small: glibc gives freed memory back, so that it hides no later allocation."""


class Worker:
    """A child that checks some of the mutants; after a crash or a hang the next child goes on behind the culprit."""

    def __init__(self, seed: int, numbers: range, folder: Path, name: str) -> None:
        self.seed, self.folder, self.name = seed, folder, name
        (folder / f"{name}.state").write_bytes(bytes(8 * STATE))
        self.state = _mapped_state(folder / f"{name}.state")
        self.start(numbers)

    def start(self, numbers: range) -> None:
        """Start a child on these mutants."""
        self.numbers = numbers
        self.state[NUMBER], self.state[BEGIN] = -1, 0
        words: tuple[Any, ...] = ("--worker", self.name, "--folder", self.folder, "--seed", self.seed, "--range")
        command = [sys.executable, __file__, *map(str, (*words, numbers.start, numbers.stop))]
        with open(self.folder / f"{self.name}.stderr", "wb") as stderr:
            self.process = subprocess.Popen(command, stderr=stderr, env={**os.environ, **FRUGAL})

    def poll(self) -> tuple[str, int, str] | None:
        """Return a crash or a hang (what, mutant, text), if there was one; whoever is left starts again behind it."""
        code, number, begin = self.process.poll(), int(self.state[NUMBER]), int(self.state[BEGIN])
        if code is None and begin and time.monotonic_ns() - begin > KILL_AFTER * 1e9:
            self.process.kill()
            self.process.wait()
            found = "slow", number, f"killed after {KILL_AFTER:.0f} s"
        elif code:
            stderr = (self.folder / f"{self.name}.stderr").read_text(errors="replace")
            if number < 0 or code > 0:
                raise RuntimeError(f"a worker failed, not in a mutant:\n{stderr}")
            found = "crash", number, f"signal {-code}\n{stderr}"
        else:
            return None
        self.start(range(number + 1, self.numbers.stop))
        return found

    @property
    def is_done(self) -> bool:
        """Say whether all mutants were checked."""
        return self.process.poll() == 0

    def lines(self) -> list[tuple[str, int, str]]:
        """Return what the children wrote down: (what, mutant, text)."""
        path = self.folder / f"{self.name}.jsonl"
        entries = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [(entry["what"], entry["number"], entry["text"]) for entry in entries]


@dataclass
class Result:
    """What became of a range of mutants."""

    seed: int
    n: int
    seconds: float
    cpu_seconds: float
    longest: float
    longest_number: int
    longest_load: float
    counts: NDArray[np.int64]
    broken: list[tuple[str, int, str]] = field(default_factory=list)
    not_repeated: list[int] = field(default_factory=list)


def run(n: int, folder: Path, *, seed: int = 0, first: int = 0, jobs: int = 1) -> Result:
    """Check mutants first .. first + n - 1; those that break a promise are kept in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    begin, cpu_begin = time.monotonic(), _cpu_of_children()
    share = -(-n // jobs)
    parts = [range(i, min(i + share, first + n)) for i in range(first, first + n, share)]
    with tempfile.TemporaryDirectory() as scratch:
        workers = [Worker(seed, part, Path(scratch), f"worker{j}") for j, part in enumerate(parts)]
        found = _watch(workers)
        states = np.stack([w.state.copy() for w in workers])
        hangs: dict[int, float] = {}
        for suspect in sorted({number for what, number, _ in found if what == "slow"}):
            hangs[suspect] = _alone(seed, suspect, Path(scratch))
            if sum(seconds > SECONDS for seconds in hangs.values()) == ENOUGH:
                break
    worst = states[np.argmax(states[:, LONGEST])]
    counts = states[:, COUNTS:].sum(axis=0).reshape(len(CLASSES), len(OUTCOMES))
    longest, number, load = worst[LONGEST] / 1e9, int(worst[LONGEST_NUMBER]), states[:, LONGEST_LOAD].max() / 1e9
    seconds, cpu_seconds = time.monotonic() - begin, _cpu_of_children() - cpu_begin
    result = Result(seed, n, seconds, cpu_seconds, longest, number, load, counts)
    result.broken = [entry for entry in found if entry[0] != "slow"]
    for number, seconds in hangs.items():
        if seconds > SECONDS:
            result.broken.append(("hang", number, f"{seconds:.2f} s alone, the best of {TRIES}"))
        else:
            result.not_repeated.append(number)
    if result.broken:
        seeds = make_seeds()
        for what, number, text in result.broken:
            stem = f"{what.replace(' ', '-')}-seed{seed}-{number}"
            (folder / f"{stem}.safetensors").write_bytes(make_mutant(seeds, seed, number).raw)
            (folder / f"{stem}.txt").write_text(text)
    return result


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _watch(workers: list[Worker]) -> list[tuple[str, int, str]]:
    """Wait until all are done; return what is to be looked at."""
    found = []
    try:
        while not all(w.is_done for w in workers):
            time.sleep(0.02)
            found += [event for w in workers if (event := w.poll())]
    finally:
        for w in workers:
            w.process.kill()
            w.process.wait()
    return found + [line for w in workers for line in w.lines()]


def _alone(seed: int, number: int, folder: Path) -> float:
    """Return the seconds that one mutant takes while nothing else of ours runs, the best of a few."""
    best = math.inf
    for i in range(TRIES):
        w = Worker(seed, range(number, number + 1), folder, f"alone{number}-{i}")
        killed = any(what == "slow" and "killed" in text for what, _, text in _watch([w]))
        best = min(best, math.inf if killed else w.state[LONGEST] / 1e9)
        if best <= SECONDS:
            break
    return best


# ---------------------------------------------------------------------------------------------------------------------------
# The command line
# ---------------------------------------------------------------------------------------------------------------------------


def describe(result: Result, folder: Path) -> str:
    """Return the figures, a line each."""
    rate = result.n / result.cpu_seconds
    lines = [f"mutants: {result.n:,} (seed {result.seed}) in {result.seconds:.1f} s, {rate:,.0f} a second of CPU"]
    for kind, row in zip(CLASSES, result.counts.tolist(), strict=True):
        lines.append(f"  {kind}: " + ", ".join(f"{count:,} {outcome}" for count, outcome in zip(row, OUTCOMES, strict=True)))
    kinds = [what for what, _, _ in result.broken]
    lines += [f"{what}: {kinds.count(what)}" for what in BROKEN]
    lines.append(
        f"longest: {result.longest:.3f} s (mutant {result.longest_number}), to load {result.longest_load:.3f} s; "
        f"over {SECONDS:g} s, but not when run alone: {result.not_repeated or 'none'}"
    )
    lines += [
        f"broken: {what}, --only {number}: {text.strip().splitlines()[-1][:300]}" for what, number, text in result.broken[:20]
    ]
    if result.broken:
        lines.append(f"{len(result.broken)} promises broken; files in {folder}")
    return "\n".join(lines)


def main() -> int:
    """Run from the command line; 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=20_000, help="mutants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--only", type=int, help="make this mutant alone, and load it in this process")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "made_fast-fuzz", help="where to keep culprits"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--range", type=int, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.seed, range(*args.range), args.folder, args.worker)
        return 0
    if args.only is not None:
        mutant = make_mutant(make_seeds(), args.seed, args.only)
        path = args.folder / f"mutant-seed{args.seed}-{args.only}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(mutant.raw)
        how = "MADE.resume" if mutant.resume else f"load, mmap={mutant.mapped}"
        print(
            f"mutant {args.only}: {mutant.kind} of {mutant.seed.name}, {len(mutant.raw)} bytes, {how}, kept as {path}",
            flush=True,
        )
        begin = time.perf_counter()
        verdict = Door().check(mutant)
        print(f"{verdict.outcome} in {time.perf_counter() - begin:.3f} s\n{verdict.text}")
        return verdict.outcome in BROKEN
    result = run(args.n, args.folder, seed=args.seed, first=args.first, jobs=args.jobs)
    print(describe(result, args.folder))
    return bool(result.broken)


if __name__ == "__main__":
    sys.exit(main())
