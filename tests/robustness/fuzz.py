"""A mutation fuzzer of model files and checkpoints: a file is refused by name, or the model in it works.

Mutants of small files of every kind go to ``made_fast.load`` (read or mapped) or ``MADE.resume``. The promises:

- ModelFileError with a text of less than 500 characters that begins with the path, or a model that scores and samples, whose
  probabilities add up to 1 (and a resumed fit that continues, or says why not). Scores need not be finite if a parameter is
  beyond 1000, for products may overflow; that is counted apart;
- no crash, and no load that takes longer than a second;
- loading allocates at most the size of the file and 64 MB.

Forks make and load mutants, a slice at a time; after a crash or a hang the rest of the slice is done again. Files that break a
promise are kept. Mutant i of a seed is always the same: ``--only I`` makes it again and loads it in this process.

Not here: the changes of a file (``mutations.py``); coverage guided search (``atheris_model_file.py``); single faults with
their messages (``tests/inference``).

    python tests/robustness/fuzz.py --n 100000 --jobs 2
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import random
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import made_fast
from made_fast.tables.coded import Coded

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where its neighbours are, also for a script
from robustness.common import Child, Report, command_line, limited_memory, new_folder, parameters_of, shared_counts
from robustness.mutations import CLASSES, compact, mutate, put_together, take_apart

SECONDS = 1.0
MARGIN = 64 << 20
LONGEST_TEXT = 500
LARGEST = 64 << 20  # bytes of a mutant: more take their time to be read, as they should
LARGEST_PARAMETER = 1000.0
KILL_AFTER = 10.0  # seconds; a mutant slower than SECONDS runs again alone before it counts as a hang
TRIES, ENOUGH = 3, 5  # runs alone; hangs after which no further suspect is run alone
SLICE = 1000  # mutants of a fork


class Seed(NamedTuple):
    name: str
    raw: bytes
    is_checkpoint: bool


class Mutant(NamedTuple):
    """A file to load, and how."""

    number: int
    kind: str
    seed: Seed
    raw: bytes
    resume: bool
    mapped: bool


# Seeds and mutants


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
        "latent": {"hidden_sizes": (3,), "latent_points": 2, "direct_connections": "output"},
    }
    checkpoints: dict[str, dict[str, Any]] = {
        "checkpoint of one mask": {"hidden_sizes": (3,)},
        "checkpoint of several masks": {"hidden_sizes": (3,), "n_masks": 2, "optimizer": "sgd", "clip_norm": 1.0},
        "checkpoint of a rule": {"hidden_sizes": (2, 3), "n_masks": None, "n_eval_masks": 2, "dropout": 0.25},
        "checkpoint of a latent mixture": {"hidden_sizes": (3,), "latent_points": 2, "averaging": 0.5},
    }
    files: dict[str, bytes] = {}
    models = {}
    with new_folder() as folder:
        path = folder / "file"
        for name, options in (fits | checkpoints).items():
            path.unlink(missing_ok=True)  # a checkpoint does not replace a model
            made = MADE(max_epochs=2, batch_size=8, random_state=0, n_threads=1, **options)
            made.fit(X, X_val=X if name != "checkpoint of several masks" else None, checkpoint=path)
            if name in fits:
                models[name] = made.model_
                made.save(path)
            files[name] = path.read_bytes()
        names = ["a", "größe", "", "a b", '"']
        named = [MADEModel(models[name].source, feature_names=names) for name in ("one mask", "direct")]
        more: dict[str, Any] = {
            "mixture": MixtureModel([models["one mask"], models["no hidden layer"]], [0.25, 0.75]),
            "mixture of mixtures": MixtureModel([models[name] for name in ("several masks", "rule", "direct", "latent")]),
            "names": named[0],
            "mixture with names": MixtureModel(named),
        }
        for name, model in more.items():
            model.save(path)
            files[name] = path.read_bytes()
        for name, raw in _tables(path):
            files[name] = raw
            if name.startswith("checkpoint"):
                checkpoints[name] = {}
    for name in checkpoints:
        files[name] = _timeless(files[name])
    return [Seed(name, raw, name in checkpoints) for name, raw in files.items()]


def _tables(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield files of tables whose columns are not 0/1: of each kind of column, with gaps, a context, several members."""
    from made_fast import MADE, MADEEnsemble

    rng = np.random.default_rng(1)
    n = 40
    table = {
        "t": rng.choice(np.array(["a", "b", "ccc"], object), n),
        "x": np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n)),
        "k": rng.integers(0, 9, n),
        "b": rng.random(n) < 0.5,
    }
    params: dict[str, Any] = {"hidden_sizes": (3,), "max_epochs": 2, "batch_size": 8, "random_state": 0, "n_threads": 1}
    params |= {"n_bins": 3, "handle_unknown": "rare", "max_categories": 3, "missing": "value"}
    context = {"c": table["k"] % 3, "d": table["t"]}
    fits: dict[str, tuple[Any, dict[str, Any]]] = {
        "table": (MADE(**params), {}),
        "table with gaps and fresh masks": (MADE(**{**params, "missing": "marginal"}, n_masks=None, n_eval_masks=2), {}),
        "table with a context": (MADE(**params, columns={"k": "ordered"}), {"context": context}),
        "mixture of tables": (MADEEnsemble(2, **params), {}),
    }
    for name, (made, more) in fits.items():
        made.fit(table, **more).save(path)
        yield name, path.read_bytes()
    path.unlink()
    MADE(**params).fit(table, X_val=table, checkpoint=path)
    yield "checkpoint of a table", path.read_bytes()


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


# One mutant


class Verdict(NamedTuple):
    """The end of a mutant: ``outcome`` is one of OUTCOMES, unless a promise was broken."""

    outcome: str
    text: str = ""


OUTCOMES = ("refused", "works", "works, but huge parameters overflow")


FEW_INPUTS = 5
MOST_ROWS = 1 << 10  # of a table that are all scored
ALL_ROWS = (np.arange(2**FEW_INPUTS)[:, None] >> np.arange(FEW_INPUTS) & 1).astype(np.uint8)


class Door:
    """A file in memory that mutants are written to and loaded from, and the limit on memory while they are."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("mutant")
        self.path = f"/proc/self/fd/{self.descriptor}"

    def check(self, mutant: Mutant) -> Verdict:
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, mutant.raw, 0)
        try:
            with limited_memory(len(mutant.raw) + MARGIN):
                loaded = self._load(mutant)
        except made_fast.ModelFileError as error:
            text = str(error)
            good = text.startswith(f"{self.path}: ") and len(text) < LONGEST_TEXT
            return Verdict("refused" if good else "wrong text", f"{len(text)} characters: {text[:LONGEST_TEXT]}")
        except MemoryError:
            return Verdict("memory", traceback.format_exc())
        except Exception:
            return Verdict("wrong exception", traceback.format_exc())
        try:
            return Verdict(use(loaded, resumed=mutant.resume))
        except Exception:
            return Verdict("does not work", traceback.format_exc())

    def _load(self, mutant: Mutant) -> Any:
        if mutant.resume:
            return made_fast.MADE.resume(self.path)
        return made_fast.load(self.path, mmap=mutant.mapped)


def use(loaded: Any, *, resumed: bool) -> str:
    """Score and sample a few rows, and continue a resumed fit; return the outcome.

    Of few inputs all rows are scored: their probabilities add up to 1, or a degree or a dead weight is wrong.
    """
    model = loaded.model_ if resumed else loaded
    if hasattr(model, "encoder"):
        return use_table(loaded, model, resumed=resumed)
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


def use_table(loaded: Any, model: Any, *, resumed: bool) -> str:
    """Draw rows of a table and score them; continue a resumed fit; return the outcome.

    Where there are few levels, all combinations of them are scored: their probabilities add up to 1.
    """
    columns = model.encoder.context
    context = (
        None
        if columns is None
        else columns.frame(columns.decode(np.zeros((1, len(columns)), int), np.full((1, len(columns)), 0.5)))
    )
    n_levels = model.columns.n_levels
    try:
        drawn = model.sample(4, 0, context=context, n_threads=1)
        log_p, _ = model.log_observed(drawn, context=context, n_threads=1, warn=False, n_walks=8)
        model.impute(drawn, context=context, n_walks=8, n_threads=1)
        total = 1.0
        if np.prod(n_levels.astype(float)) <= MOST_ROWS:
            every = np.stack([axis.ravel() for axis in np.meshgrid(*map(np.arange, n_levels), indexing="ij")], axis=1)
            given = model.encoder.given(context, len(every))
            rows = Coded(np.concatenate([given, every], axis=1), model.encoder.coding)
            total = float(np.exp(model.density.score_samples(rows, n_threads=1)).sum())
    except FloatingPointError:  # it is told, and only of weights that are to blame
        assert _largest_parameter(model) > LARGEST_PARAMETER
        return OUTCOMES[2]
    assert not np.isnan(log_p).any()
    assert (log_p < np.inf).all()
    good = abs(total - 1) < 1e-4
    assert good or _largest_parameter(model) > LARGEST_PARAMETER, total
    if resumed:
        with contextlib.suppress(TypeError, ValueError, FloatingPointError):
            loaded.set_params(n_threads=1).partial_fit(drawn, context=context)
    return OUTCOMES[1] if good else OUTCOMES[2]


def _members(model: Any) -> Any:
    model = getattr(model, "density", model)
    return getattr(model, "members", [model])


def _largest_parameter(model: Any) -> float:
    return max(float(np.abs(parameters_of(member)).max()) for member in _members(model))


# Slices of mutants


NUMBER, BEGIN = range(2)
"""Places in the shared state of a fork: the mutant at hand, and the time of its begin (ns)."""

Check = Callable[[int], tuple[str, str]]
"""From the number of a mutant to the name to count, and an error text."""


class Slice:
    """A fork that checks some mutants; ``begin()`` is called in the fork and returns the check."""

    def __init__(self, begin: Callable[[], Check], numbers: range) -> None:
        self.begin, self.numbers, self.state = begin, numbers, shared_counts(2)
        self.child = Child(self._work)

    def _work(self) -> Any:
        check, counts, found = self.begin(), Counter[str](), []
        longest = 0.0, self.numbers.start
        for number in self.numbers:
            self.state[:] = number, time.monotonic_ns()
            what, wrong = check(number)
            seconds = (time.monotonic_ns() - int(self.state[BEGIN])) / 1e9
            self.state[BEGIN] = 0
            longest = max(longest, (seconds, number))
            counts[what] += 1
            found += [(what, number, wrong)] if wrong else []
            found += [("slow", number, "")] if seconds > SECONDS else []
        return {"counts": counts, "found": found, "longest": longest}

    def end(self) -> dict[str, Any] | None:
        """Return the result of a fork that has ended, or that of the mutant that ended it and the rest; None before."""
        if not self.child.ends_within(0.01):
            begin = self.state[BEGIN]  # read once: the fork sets it to 0 at any time
            if not begin or time.monotonic_ns() - begin < KILL_AFTER * 1e9:
                return None
            self.child.kill()
            what, text = "slow", "killed"
        else:
            try:
                result: dict[str, Any] = self.child.result()
                return result
            except RuntimeError as error:
                if not self.state[BEGIN] or "exit code -" not in str(error):
                    raise
                what, text = "crash", f"crash: {error}"
        number = int(self.state[NUMBER])
        rest = range(self.numbers.start, number), range(number + 1, self.numbers.stop)
        return {"counts": {}, "found": [(what, number, text)], "longest": (0.0, 0), "rest": [part for part in rest if part]}


def check_all(begin: Callable[[], Check], numbers: range, jobs: int = 1) -> dict[str, Any]:
    """Check mutants in slices; return counts, what was found (what, number, text), and the longest (seconds, number)."""
    waiting = [numbers[i : i + SLICE] for i in range(0, len(numbers), SLICE)]
    running: list[Slice] = []
    counts, found, longest = Counter[str](), [], (0.0, 0)
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(Slice(begin, waiting.pop(0)))
            for one in list(running):
                if (result := one.end()) is None:
                    continue
                running.remove(one)
                counts += Counter(result["counts"])
                found += [tuple(entry) for entry in result["found"]]
                longest = max(longest, tuple(result["longest"]))
                waiting += result.get("rest", [])
    finally:
        for one in running:
            with contextlib.suppress(OSError):  # it is the one that failed
                one.child.kill()
    return {"counts": counts, "found": found, "longest": longest}


def frugal() -> None:
    """Let glibc give freed memory back, so that it hides no later allocation from the limit."""
    libc = ctypes.CDLL(None)
    for option in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
        libc.mallopt(option, 131072)
    libc.malloc_trim(0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run(n: int, folder: Path, *, seed: int = 0, jobs: int = 1) -> Report:
    """Check n mutants; those that break a promise are kept in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    report, seeds = Report("mutants"), make_seeds()

    def begin() -> Check:
        warnings.simplefilter("ignore")
        np.seterr(all="ignore")
        frugal()
        door = Door()

        def check(number: int) -> tuple[str, str]:
            mutant = make_mutant(seeds, seed, number)
            outcome, text = door.check(mutant)
            return (f"{mutant.kind}: {outcome}", "") if outcome in OUTCOMES else (outcome, text or outcome)

        return check

    door = Door()
    for _ in range(2):  # imports and allocations of first use
        for source in seeds:
            with warnings.catch_warnings():
                verdict = door.check(Mutant(-1, "", source, source.raw, source.is_checkpoint, False))
            assert verdict.outcome == "works", (source.name, verdict)
    result = check_all(begin, range(n), jobs)
    report.figures += result["counts"]
    broken = [entry for entry in result["found"] if entry[0] != "slow"]
    hangs = 0
    slow = {number: text for what, number, text in result["found"] if what == "slow"}
    for suspect, text in sorted(slow.items()):
        alone = [check_all(begin, range(suspect, suspect + 1)) for _ in range(TRIES)]
        best = min(math.inf if one["found"] and not one["counts"] else one["longest"][0] for one in alone)
        if best > SECONDS and hangs < ENOUGH:
            hangs += 1
            broken.append(("hang", suspect, f"{best:.2f} s alone, the best of {TRIES}"))
        else:
            report.figures["slow, but not when run alone"] += 1
            if text == "killed":  # before it was counted
                report.figures += next(one["counts"] for one in alone if one["counts"])
    for what, number, text in broken:
        stem = f"{what.replace(' ', '-')}-seed{seed}-{number}"
        (folder / f"{stem}.safetensors").write_bytes(make_mutant(seeds, seed, number).raw)
        (folder / f"{stem}.txt").write_text(text)
        report.check(False, f"{what}, --only {number}: {text.strip().splitlines()[-1][:300]}; kept in {folder}")
    report.highest("longest, in seconds", result["longest"][0])
    report.figures["longest: the mutant"] = result["longest"][1]
    return report.end()


def main() -> int:
    args = command_line(
        __doc__,
        n=(20_000, "mutants"),
        seed=(0, "of the mutants"),
        jobs=(1, "processes"),
        only=(-1, "make this mutant alone, and load it in this process"),
        folder=(f"{tempfile.gettempdir()}/made_fast-fuzz", "where to keep culprits"),
    )
    folder = Path(args.folder)
    if args.only < 0:
        return run(args.n, folder, seed=args.seed, jobs=args.jobs).show()
    mutant = make_mutant(make_seeds(), args.seed, args.only)
    path = folder / f"mutant-seed{args.seed}-{args.only}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(mutant.raw)
    how = "MADE.resume" if mutant.resume else f"load, mmap={mutant.mapped}"
    print(f"mutant {args.only}: {mutant.kind} of {mutant.seed.name}, {len(mutant.raw)} bytes, {how}: {path}", flush=True)
    verdict = Door().check(mutant)
    print(f"{verdict.outcome}\n{verdict.text}")
    return int(verdict.outcome not in OUTCOMES)


if __name__ == "__main__":
    sys.exit(main())
