"""Kill -9 at random moments: while model files are saved, and while a fit writes checkpoints.

``save``: a child saves two models in turn to one path, as fast as it can, and is killed. The file must then be one of the two,
bit for bit, and what the writer left lying about must be gone after the next save. Some of the kills strike two writers that
save to the same path.

``train``: a child fits with a checkpoint after every epoch and is killed; the next child resumes, and is killed, ... until one
comes to the end. Parameters, optimiser, history, samples must have the bits of the fit that nobody interrupted. Once there was
a checkpoint there is always a whole one, and no more than an epoch's steps are lost.

Children are forks of this process, which has everything imported: a kill costs milliseconds. Moments are spread evenly over
the time that the work takes, and half of those of ``save`` over the time after the temporary file has come up, which is the
shorter part of a save. They are different ones in every run; ``--seed`` fixes delays, not where they strike.

Not here: power failures (a killed process loses nothing that it handed to the kernel), kills before every single system call
of a save (``faults.py``).

    python tests/robustness/kill.py save --n 1000
    python tests/robustness/kill.py train --n 1000
"""

from __future__ import annotations

import argparse
import hashlib
import json
import mmap
import os
import random
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from made_fast import MADE, MADEModel, load
from made_fast.training import checkpoint, steps
from made_fast.training.state import FitState

PREFIX = ".made_fast-"
"""What the names of temporary files begin with; a test would fail if it were another: none would be counted."""

PATIENCE = 60.0
"""Seconds after which a child that should have ended counts as one that hangs."""

MOST_KILLS = 500
"""Kills of one fit after which it must have ended."""


# ---------------------------------------------------------------------------------------------------------------------------
# Children
# ---------------------------------------------------------------------------------------------------------------------------


class Child:
    """A fork of this process that does ``work()`` and hands back what that returns, as JSON, if it lives to see the end."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._pipe, theirs = os.pipe()
        self._received = b""
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.write(theirs, b"!")  # begun
                answer = json.dumps({"result": work()})
            except BaseException:
                answer = json.dumps({"error": traceback.format_exc()})
            os.write(theirs, answer.encode())
            os._exit(0)
        os.close(theirs)
        if os.read(self._pipe, 1) != b"!":
            raise RuntimeError("a child ended before it began")

    def ends_within(self, seconds: float) -> bool:
        """Wait so long at the most; return whether the child has ended by itself."""
        deadline = time.monotonic() + seconds
        while select.select([self._pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
            received = os.read(self._pipe, 1 << 16)
            self._received += received
            if not received:
                return True
        return False

    def kill(self) -> None:
        """Kill it and return when it is gone."""
        os.kill(self.pid, signal.SIGKILL)
        self._close()

    def result(self) -> Any:
        """Return what ``work`` returned, of a child that has ended."""
        self._close()
        answer = json.loads(self._received or b'{"error": "a child died of itself"}')
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]

    def _close(self) -> None:
        os.waitpid(self.pid, 0)
        os.close(self._pipe)


def shared_counts(n: int) -> Any:
    """Return n counters (int64, 0) that this process and its forks share."""
    return np.frombuffer(mmap.mmap(-1, 8 * n), np.int64)


def binary(n: int, n_inputs: int, seed: int = 0) -> Any:
    """Return rows whose inputs depend on each other a little."""
    X = np.random.default_rng(seed).random((n, n_inputs)) < 0.3
    X[:, 1:] |= X[:, :-1] & X[::-1, 1:]
    return X.astype(np.uint8)


# ---------------------------------------------------------------------------------------------------------------------------
# While a model is saved
# ---------------------------------------------------------------------------------------------------------------------------

PHASES = (
    "before there was a temporary file", "temporary file empty", "partly written", "wholly written, not renamed", "renamed",
)  # fmt: skip

SIZES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "kilobytes": ({"D": 16, "hidden_sizes": (8,)}, {"D": 70, "hidden_sizes": (30, 20)}),
    "several masks": ({"D": 150, "hidden_sizes": (200,), "n_masks": 3}, {"D": 150, "hidden_sizes": (300,)}),
    "megabytes": ({"D": 600, "hidden_sizes": (700,)}, {"D": 784, "hidden_sizes": (1500,)}),
}
"""The two models that are saved in turn."""


@dataclass
class SaveFigures:
    """What came of killing savers."""

    kills: int = 0
    two_writers: int = 0
    saves: int = 0
    sizes: list[str] = field(default_factory=list)
    phases: Counter[str] = field(default_factory=Counter)
    left_over: int = 0
    gone: int = 0
    corrupt: int = 0
    not_cleaned: int = 0
    seconds: float = 0.0

    def broken(self) -> int:
        """Return how many promises were broken."""
        return self.gone + self.corrupt + self.not_cleaned


@dataclass
class Saved:
    """A model to save: its file as it must be, and the scores of a loaded copy."""

    model: MADEModel
    raw: bytes
    X: Any
    scores: Any

    @classmethod
    def of(cls, folder: Path, D: int, **params: Any) -> Saved:
        """Train a little, so that parameters are not those of the beginning."""
        model = MADE(max_epochs=1, random_state=D, **params).fit(binary(60, D)).model_
        model.save(folder / "as-it-must-be")
        X = binary(5, D, seed=1)
        return cls(model, (folder / "as-it-must-be").read_bytes(), X, model.score_samples(X, n_threads=1))

    def is_at(self, path: Path) -> bool:
        """Say whether ``load`` gets this model, to the bit, from a file that has its bytes."""
        return bool((load(path).score_samples(self.X, n_threads=1) == self.scores).all())


def kill_savers(n: int, folder: Path, *, seed: int = 0, two_writers: float = 0.2) -> SaveFigures:
    """Kill n savers (each time that there are two writers counts once); a share ``two_writers`` of the times there are two."""
    figures, rng, begin = SaveFigures(), random.Random(seed), time.monotonic()
    for i, (name, pair) in enumerate(SIZES.items()):
        place = folder / name
        place.mkdir()
        models = [Saved.of(folder, **params) for params in pair]
        models[0].model.save(place / "model")
        figures.sizes.append(" and ".join(f"{len(saved.raw):,}" for saved in models))
        seconds = _seconds_of_a_save(models, place / "model")
        for _ in range(n * (i + 1) // len(SIZES) - n * i // len(SIZES)):
            _kill_one(figures, models, place / "model", seconds, rng, rng.random() < two_writers)
        models[1].model.save(place / "model")
        if os.listdir(place) != ["model"]:
            figures.not_cleaned += 1
    figures.seconds = time.monotonic() - begin
    return figures


def _save_in_turn(models: list[Saved], path: Path, first: int, done: Any) -> None:
    while True:
        models[(first + int(done[0])) % 2].model.save(path)
        done[0] += 1


def _seconds_of_a_save(models: list[Saved], path: Path) -> float:
    done = shared_counts(1)
    child = Child(lambda: _save_in_turn(models, path, 1, done))
    deadline = time.monotonic() + PATIENCE
    while done[0] < 6:
        if child.ends_within(0.01):
            child.result()
        if time.monotonic() > deadline:
            child.kill()
            raise RuntimeError("a save hangs")
    begin, before = time.monotonic(), int(done[0])
    child.ends_within(0.2)
    seconds = (time.monotonic() - begin) / max(1, int(done[0]) - before)
    child.kill()
    return seconds


def _kill_one(figures: SaveFigures, models: list[Saved], path: Path, seconds: float, rng: random.Random, two: bool) -> None:
    """Start one saver or two, kill, look at what there is."""
    if not path.exists():  # the kill before this one has broken the promise
        models[0].model.save(path)
    first = 1 if path.read_bytes() == models[0].raw else 0  # something else than there is, so that one can tell
    before = set(os.listdir(path.parent))
    late = not two and rng.random() < 0.5
    counts = [shared_counts(1) for _ in range(2 if two else 1)]
    children = [Child(partial(_save_in_turn, models, path, first, done)) for done in counts]
    for child in children:
        deadline = time.monotonic() + 1 + 20 * seconds
        while late and set(os.listdir(path.parent)) <= before and time.monotonic() < deadline:
            pass  # a sleep would miss it
        if child.ends_within(rng.uniform(0, seconds / 2 if late else 2.5 * seconds)):
            child.result()
        child.kill()
    figures.kills += 1
    figures.two_writers += two
    figures.saves += sum(int(done[0]) for done in counts)
    left = [name for name in os.listdir(path.parent) if name.startswith(PREFIX)]
    figures.left_over += bool(left)
    raw = path.read_bytes() if path.exists() else None
    found = next((i for i in range(2) if models[i].raw == raw), None)
    if raw is None:
        figures.gone += 1
    elif found is None or not models[found].is_at(path):
        figures.corrupt += 1
    if not two:
        under_way = (first + int(counts[0][0])) % 2
        new = [name for name in left if name not in before]
        written = (path.parent / new[0]).stat().st_size if new else -1
        whole = len(models[under_way].raw)
        phase = 4 if found == under_way else 0 if not new else 1 if not written else 2 if written < whole else 3
        figures.phases[PHASES[phase]] += 1
    if left and rng.random() < 0.3:  # otherwise it is the next child's business
        models[first].model.save(path)
        if os.listdir(path.parent) != [path.name]:
            figures.not_cleaned += 1


def print_saves(figures: SaveFigures) -> None:
    """Print one line a figure."""
    f = figures
    print(f"save: {f.kills} kills in {f.seconds:.1f} s, {f.two_writers} of them of two writers; {f.saves} saves completed")
    print(f"save: sizes in bytes: {'; '.join(f.sizes)}")
    for phase in PHASES:
        print(f"save: killed {phase}: {f.phases[phase]}")
    print(f"save: temporary files left over after {f.left_over} kills; not gone after the next save: {f.not_cleaned}")
    print(f"save: files gone: {f.gone}; neither the one model nor the other, bit for bit: {f.corrupt}")


# ---------------------------------------------------------------------------------------------------------------------------
# While a model is trained
# ---------------------------------------------------------------------------------------------------------------------------

COMMON: dict[str, Any] = {
    "hidden_sizes": (20,), "batch_size": 25, "max_epochs": 6, "n_threads": 1, "random_state": 3, "n_eval_masks": 4,
}  # fmt: skip

CASES: dict[str, dict[str, Any]] = {
    "one mask": {},
    "two threads": {"hidden_sizes": (256,), "batch_size": 100, "n_threads": 2, "activation": "tanh"},
    "several masks": {"n_masks": 3, "direct_connections": "output"},
    "several masks, two threads": {"hidden_sizes": (256,), "batch_size": 100, "n_masks": 3, "n_threads": 2},
    "fresh masks": {"n_masks": None, "connectivity_weights": True},
    "missing entries": {"n_masks": None},
    "dropout": {"dropout": 0.3, "hidden_sizes": (20, 10), "dtype": "float64"},
    "adadelta": {"optimizer": "adadelta"},
    "schedule": {"learning_rate_schedule": "cosine", "weight_decay": 0.01, "clip_norm": 1.0, "n_masks": 2},
    "early stop": {"learning_rate": 0.05, "patience": 2, "max_epochs": 30, "validation_fraction": 0.2},
}

STEP, BEGUN, DONE = range(3)
"""What a child tells while it lives: steps made, the epoch whose checkpoint it began to write, the last one it has written."""


def watch(seen: Any) -> None:
    """Let the fits of this process tell where they stand, before every step: kills strike at any."""
    call, write = steps.Trainer._call, checkpoint.write

    def watched_call(trainer: steps.Trainer, *args: Any) -> Any:
        seen[STEP] = trainer.step
        return call(trainer, *args)

    def watched_write(path: Any, state: FitState, params: Any) -> None:
        seen[STEP], seen[BEGUN] = state.trainer.step, state.epoch
        write(path, state, params)
        seen[DONE] = state.epoch

    steps.Trainer._call, checkpoint.write = watched_call, watched_write  # type: ignore[method-assign]


@dataclass
class TrainFigures:
    """What came of killing fits."""

    kills: int = 0
    fits: int = 0
    resumes: int = 0
    from_scratch: int = 0
    steps: set[tuple[str, int]] = field(default_factory=set)
    while_writing: int = 0
    most_lost: float = 0.0
    lost: int = 0
    corrupt: int = 0
    not_cleaned: int = 0
    other_bits: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def broken(self) -> int:
        """Return how many promises were broken."""
        return self.lost + self.corrupt + self.not_cleaned + len(self.other_bits)


def fingerprint(made: MADE) -> dict[str, str]:
    """Return a digest of each thing that must have the same bits after an interruption."""
    trainer, source = made._fit_state.trainer, made.model_.source
    X = binary(50, made.n_features_in_, seed=4)
    told = [(r["epoch"], r["train_nll"], r["validation_nll"]) for r in made.history_]
    parts = {
        "parameters of the model": source.vector.tobytes(),
        "parameters of the trainer": trainer.parameters.vector.tobytes(),
        "optimiser": trainer.state.tobytes(),
        "history": repr((told, made.best_epoch_, trainer.step)).encode(),
        "samples": made.sample(50, random_state=1).tobytes(),
        "scores": made.score_samples(X).tobytes(),
    }
    return {name: hashlib.sha256(part).hexdigest() for name, part in parts.items()}


def kill_fits(n: int, folder: Path, *, seed: int = 0, cases: tuple[str, ...] = tuple(CASES)) -> TrainFigures:
    """Kill fits n times at least, of each case in turn; every fit is brought to its end in between."""
    figures, rng, begin = TrainFigures(), random.Random(seed), time.monotonic()
    known: dict[str, tuple[dict[str, str], int, float]] = {}
    round_number = 0
    while figures.kills < n:
        name = cases[round_number % len(cases)]
        if name not in known:
            known[name] = _uninterrupted(name)
        place = folder / str(round_number)
        place.mkdir()
        _fit_by_pieces(figures, name, place / "checkpoint", *known[name], rng)
        round_number += 1
    figures.seconds = time.monotonic() - begin
    return figures


def _rows(name: str) -> tuple[Any, dict[str, Any]]:
    """Return what ``fit`` gets."""
    X = binary(400, 24 if CASES[name].get("hidden_sizes") != (256,) else 60)
    if name == "missing entries":
        X = X.astype(np.float32)
        X[np.random.default_rng(2).random(X.shape) < 0.02] = np.nan
    return X, {} if "validation_fraction" in CASES[name] else {"X_val": binary(100, X.shape[1], seed=5)}


def _uninterrupted(name: str) -> tuple[dict[str, str], int, float]:
    """Return the fingerprint of a fit that nobody interrupts, its steps an epoch, and the seconds of an epoch."""
    X, rows = _rows(name)
    whole = MADE(**COMMON | CASES[name]).fit(X, **rows)
    steps = whole._fit_state.trainer.step // len(whole.history_)
    with tempfile.TemporaryDirectory() as folder:
        child = Child(partial(_fit, name, Path(folder) / "checkpoint", shared_counts(3)))
        begin = time.monotonic()
        if not child.ends_within(PATIENCE):
            child.kill()
            raise RuntimeError(f"{name}: a fit hangs")
        child.result()
        return fingerprint(whole), steps, (time.monotonic() - begin) / len(whole.history_)


def _fit(name: str, path: Path, seen: Any) -> dict[str, str]:
    """Begin the fit, or go on with it; what a child does."""
    steps.CALL_SECONDS = 0.0  # a step a call: how a pass is cut into calls must make no difference
    watch(seen)
    X, rows = _rows(name)
    made = MADE.resume(path) if path.exists() else MADE(**COMMON | CASES[name])
    if hasattr(made, "_fit_state"):
        made._fit_state.trainer._steps_per_call = 1
    return fingerprint(made.fit(X, **rows, checkpoint=path))


def _fit_by_pieces(
    figures: TrainFigures, name: str, path: Path, expected: dict[str, str], steps: int, seconds: float, rng: random.Random
) -> None:
    """Kill and resume a fit until it is done; compare."""
    done = 0
    for attempt in count():
        if attempt > MOST_KILLS:
            raise RuntimeError(f"{name}: a fit gets nowhere after {attempt} kills; does it hang?")
        seen = shared_counts(3)
        figures.resumes += path.exists()
        figures.from_scratch += not path.exists()
        child = Child(partial(_fit, name, path, seen))
        if child.ends_within(rng.uniform(0, (3 + attempt / 10) * seconds)):  # longer and longer: the machine may have slowed
            break
        child.kill()
        figures.kills += 1
        step, begun, written = (int(count) for count in seen)
        done = max(done, written)
        figures.while_writing += begun > written
        if step:  # else it was resuming
            figures.steps.add((name, step))
        reached = 0
        if path.exists():
            try:
                made = MADE.resume(path)
            except Exception as error:
                figures.corrupt += 1
                print(f"train: {name}: {type(error).__name__}: {error}", file=sys.stderr)
                path.unlink()
                done = 0
                continue
            reached = made._fit_state.trainer.step
            if len(made.history_) not in range(done, max(done, begun) + 1) or reached != steps * len(made.history_):
                figures.lost += 1
            done = len(made.history_)
        elif done:
            figures.lost += 1
        figures.most_lost = max(figures.most_lost, (step - reached) / steps)
        if step - reached > steps:
            figures.lost += 1
    figures.fits += 1
    for result in (child.result(), fingerprint(MADE.resume(path))):
        figures.other_bits += [f"{name}: {part}" for part in expected if result[part] != expected[part]]
    figures.not_cleaned += os.listdir(path.parent) != [path.name]


def print_fits(figures: TrainFigures) -> None:
    """Print one line a figure."""
    f = figures
    print(f"train: {f.kills} kills in {f.seconds:.1f} s, {f.while_writing} of them while a checkpoint was written")
    print(f"train: {f.fits} fits brought to their end by {f.resumes} resumes ({f.from_scratch} starts without a checkpoint)")
    print(f"train: resumed after kills at {len(f.steps)} distinct steps")
    print(f"train: most work lost by a kill: {f.most_lost:.2f} epochs")
    print(f"train: checkpoints lost: {f.lost}; corrupt: {f.corrupt}; fits that left temporary files: {f.not_cleaned}")
    print(f"train: things with other bits than the uninterrupted fit: {len(f.other_bits)} {f.other_bits[:5] or ''}")


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["save", "train"])
    parser.add_argument("--n", type=int, default=1000, help="kills")
    parser.add_argument("--seed", type=int, default=0, help="of the delays")
    parser.add_argument("--folder", help="where to work (default: the system's place for temporary files)")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # forks are the point
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        if args.what == "save":
            saves = kill_savers(args.n, Path(name), seed=args.seed)
            print_saves(saves)
            return 1 if saves.broken() else 0
        fits = kill_fits(args.n, Path(name), seed=args.seed)
        print_fits(fits)
        return 1 if fits.broken() else 0


if __name__ == "__main__":
    sys.exit(main())
