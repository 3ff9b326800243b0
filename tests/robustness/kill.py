"""Kill -9 at random moments: while model files are saved, and while a fit writes checkpoints.

``save``: a child saves two models in turn to one path and is killed. The file is then one of the two, and the next save
removes the temporary files that are left. Some kills strike two writers of one path.

``train``: a child fits with a checkpoint after every epoch and is killed; the next child resumes and is killed, until one
ends. Parameters, optimiser, history and samples have the bits of the uninterrupted fit. After the first checkpoint there is
always a whole one, and a kill loses no more than the steps of one epoch.

Moments are spread evenly over the time of the work, and half of those of ``save`` over the time after the temporary file
appears. ``--seed`` fixes the delays, not the steps that they strike.

Not here: power failures, kills before each system call of a save (``faults.py``).

    python tests/robustness/kill.py save --n 1000
"""

from __future__ import annotations

import os
import random
import sys
import time
from dataclasses import dataclass
from functools import partial
from itertools import count, cycle
from pathlib import Path
from typing import Any

from made_fast import MADE, MADEModel, load
from made_fast.training import steps

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where its neighbours are, also for a script
from helpers import digest, rows, small, with_missing
from robustness.common import Child, Report, command_line, fit_state, new_folder, shared_counts

PREFIX = ".made_fast-"
"""Prefix of the names of temporary files; with another one none is counted, and a test fails."""

PATIENCE = 60.0
"""Seconds after which a child that should have ended counts as one that hangs."""

MOST_KILLS = 500
"""Kills of one fit after which it must have ended."""


# While a model is saved

SIZES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "kilobytes": ({"D": 16, "hidden_sizes": (8,)}, {"D": 70, "hidden_sizes": (30, 20)}),
    "several masks": ({"D": 150, "hidden_sizes": (200,), "n_masks": 3}, {"D": 150, "hidden_sizes": (300,)}),
    "megabytes": ({"D": 600, "hidden_sizes": (700,)}, {"D": 784, "hidden_sizes": (1500,)}),
}
"""The two models that are saved in turn."""


@dataclass
class Saved:
    """A model to save: its file as it must be, and the scores of a loaded copy."""

    model: MADEModel
    raw: bytes
    X: Any
    scores: Any

    @classmethod
    def of(cls, folder: Path, D: int, **params: Any) -> Saved:
        """Train a little, so that parameters are not the initial ones."""
        model, X = small(random_state=D, **params).fit(rows(60, D)).model_, rows(5, D, 1)
        model.save(folder / "as-it-must-be")
        return cls(model, (folder / "as-it-must-be").read_bytes(), X, model.score_samples(X, n_threads=1))

    def is_at(self, path: Path) -> bool:
        return bool((load(path).score_samples(self.X, n_threads=1) == self.scores).all())


def kill_savers(n: int, folder: Path, *, seed: int = 0, two_writers: float = 0.2) -> Report:
    """Kill n savers; for a share of the kills there are two writers, which count as one."""
    report, rng = Report("save"), random.Random(seed)
    for i, (name, pair) in enumerate(SIZES.items()):
        place = folder / name
        place.mkdir()
        models = [Saved.of(folder, **params) for params in pair]
        models[0].model.save(place / "model")
        begin = time.monotonic()
        for model in models * 3:
            model.model.save(place / "model")
        seconds = (time.monotonic() - begin) / 6
        for _ in range(n * (i + 1) // len(SIZES) - n * i // len(SIZES)):
            _kill_one(report, models, place / "model", seconds, rng, rng.random() < two_writers)
        models[1].model.save(place / "model")
        report.check(os.listdir(place) == ["model"], "temporary files are left over after the next save")
    return report.end()


def _save_in_turn(models: list[Saved], path: Path, first: int, done: Any) -> None:
    while True:
        models[(first + int(done[0])) % 2].model.save(path)
        done[0] += 1


def _kill_one(report: Report, models: list[Saved], path: Path, seconds: float, rng: random.Random, two: bool) -> None:
    """Start one saver or two, kill, and look at the folder."""
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
    left = [name for name in os.listdir(path.parent) if name.startswith(PREFIX)]
    raw = path.read_bytes() if path.exists() else None
    found = next((i for i in range(2) if models[i].raw == raw), None)
    report.figures["kills"] += 1
    report.figures["kills of two writers"] += two
    report.figures["saves completed"] += sum(int(done[0]) for done in counts)
    report.figures["kills that left a temporary file"] += bool(left)
    report.check(raw is not None, "the file is gone")
    report.check(
        raw is None or (found is not None and models[found].is_at(path)), "the file is neither the one model nor the other"
    )
    report.figures["kills after the rename, before the next save"] += not two and found == (first + int(counts[0][0])) % 2
    if left and rng.random() < 0.3:  # otherwise the next child must clean up
        models[first].model.save(path)
        report.check(os.listdir(path.parent) == [path.name], "temporary files are left over after the next save")


# While a model is trained

COMMON: dict[str, Any] = {"hidden_sizes": (20,), "batch_size": 25, "max_epochs": 6, "random_state": 3, "n_eval_masks": 4}

CASES: dict[str, dict[str, Any]] = {
    "one mask": {},
    "two threads": {"hidden_sizes": (256,), "batch_size": 100, "n_threads": 2, "activation": "tanh"},
    "several masks": {"n_masks": 3, "direct_connections": "output"},
    "several masks, two threads": {"hidden_sizes": (256,), "batch_size": 100, "n_masks": 3, "n_threads": 2},
    "fresh masks": {"n_masks": None, "connectivity_weights": True},
    "missing entries": {"n_masks": None},
    "dropout": {"dropout": 0.3, "hidden_sizes": (20, 10), "dtype": "float64"},
    "adadelta": {"optimizer": "adadelta", "learning_rate": None},
    "schedule": {"learning_rate_schedule": "cosine", "weight_decay": 0.01, "clip_norm": 1.0, "n_masks": 2},
    "early stop": {"learning_rate": 0.05, "patience": 2, "max_epochs": 30, "validation_fraction": 0.2},
}

STEP, DONE = range(2)
"""Places in the shared state of a child: its steps, and the last epoch whose checkpoint it has written."""


def kill_fits(n: int, folder: Path, *, seed: int = 0) -> Report:
    """Kill fits n times at least, of each case in turn; every fit is brought to its end in between."""
    report, rng, distinct = Report("train"), random.Random(seed), set[tuple[str, int]]()
    known: dict[str, tuple[dict[str, str], int, float]] = {}
    for number, name in enumerate(cycle(CASES)):
        if report.figures["kills"] >= n:
            break
        if name not in known:
            known[name] = _uninterrupted(name)
        place = folder / str(number)
        place.mkdir()
        distinct |= _fit_by_pieces(report, name, place / "checkpoint", known[name], rng)
    report.figures["distinct steps at which it was killed"] = len(distinct)
    return report.end()


def _rows(name: str) -> tuple[Any, dict[str, Any]]:
    D = 24 if CASES[name].get("hidden_sizes") != (256,) else 60
    X = with_missing(400, D, 0.02, 400) if name == "missing entries" else rows(400, D)
    return X, {} if "validation_fraction" in CASES[name] else {"X_val": rows(100, D, 5)}


def _told(made: MADE) -> dict[str, str]:
    return {part: digest(value) for part, value in fit_state(made).items()}


def _uninterrupted(name: str) -> tuple[dict[str, str], int, float]:
    """Return the digests of a fit that is not interrupted, its steps an epoch, and the seconds of an epoch."""
    X, more = _rows(name)
    whole = small(**COMMON | CASES[name]).fit(X, **more)
    n_epochs = len(whole.history_)
    with new_folder() as folder:
        begin = time.monotonic()
        Child(partial(_fit, name, folder / "checkpoint", shared_counts(2))).answer(PATIENCE)
    return _told(whole), whole._fit_state.trainer.step // n_epochs, (time.monotonic() - begin) / n_epochs


def _fit(name: str, path: Path, seen: Any) -> dict[str, str]:
    """Begin the fit or continue it, in a child."""

    def tell(trainer: steps.Trainer, step: int) -> None:
        vars(trainer)["step"] = seen[STEP] = step

    steps.CALL_SECONDS = 0.0  # a step a call: kills strike at any step, and how a pass is cut into calls changes no bit
    steps.Trainer.step = property(lambda trainer: vars(trainer).get("step", 0), tell)  # type: ignore[assignment]
    X, more = _rows(name)

    def written(record: Any) -> None:  # is called after the checkpoint
        seen[DONE] = record["epoch"]

    made = MADE.resume(path) if path.exists() else small(**COMMON | CASES[name])
    return _told(made.fit(X, **more, checkpoint=path, callback=written))


def _fit_by_pieces(
    report: Report, name: str, path: Path, whole: tuple[dict[str, str], int, float], rng: random.Random
) -> set[tuple[str, int]]:
    """Kill and resume a fit until it is done; compare it with the whole one; return the steps at which it was killed."""
    (expected, steps, seconds), distinct = whole, set()
    figures, done = report.figures, 0
    for attempt in count():
        if attempt > MOST_KILLS:
            raise RuntimeError(f"{name}: a fit gets nowhere after {attempt} kills; does it hang?")
        seen = shared_counts(2)
        figures["resumes"] += path.exists()
        figures["starts without a checkpoint"] += not path.exists()
        child = Child(partial(_fit, name, path, seen))
        if child.ends_within(rng.uniform(0, (3 + attempt / 10) * seconds)):  # longer and longer: the machine may have slowed
            break
        child.kill()
        figures["kills"] += 1
        step, written = (int(count) for count in seen)
        done, reached = max(done, written), 0
        if step:  # else it was resuming
            distinct.add((name, step))
        if path.exists():
            try:
                made = MADE.resume(path)
            except Exception as error:
                report.check(False, f"{name}: a checkpoint is corrupt: {type(error).__name__}: {error}")
                path.unlink()
                done = 0
                continue
            n_epochs, reached = len(made.history_), made._fit_state.trainer.step
            figures["kills after a checkpoint was in its place, before the fit knew"] += n_epochs > done
            report.check(n_epochs in (done, done + 1) and reached == steps * n_epochs, f"{name}: a checkpoint is lost")
            done = n_epochs
        else:
            report.check(not done, f"{name}: a checkpoint is gone")
        report.highest("most work lost by a kill, in epochs", (step - reached) / steps)
        report.check(step - reached <= steps, f"{name}: a kill loses more than an epoch")
    figures["fits brought to their end"] += 1
    for result in (child.result(), _told(MADE.resume(path))):
        for part in expected:
            report.check(result[part] == expected[part], f"{name}: other bits: {part}")
    report.check(os.listdir(path.parent) == [path.name], "temporary files are left over")
    return distinct


def main() -> int:
    args = command_line(__doc__, what=(("save", "train"), "which files"), n=(1000, "kills"), seed=(0, "of the delays"))
    with new_folder() as folder:
        return {"save": kill_savers, "train": kill_fits}[args.what](args.n, folder, seed=args.seed).show()


if __name__ == "__main__":
    sys.exit(main())
