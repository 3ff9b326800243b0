"""One training run, kept: what it was asked, what came out on the validation rows, and, if it is chosen, on the test rows.

A run is a folder entry of three files, named by a hash of what was asked: ``.json`` (the record), ``.safetensors`` (the
model) and, while it trains, ``.checkpoint``. So whatever was cut off goes on where it was, and nothing is trained twice. Test
rows are touched in :func:`evaluate` alone, once for a run, after the choice.

Not here: which runs there are (``recipes.py``), tables (``tables.py``).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np

from made_fast import MADE, load
from made_fast.tables.reading import datasets

__all__ = ["Place", "Record", "Score", "data_set", "describe", "evaluate", "find", "keep", "key_of", "train"]

CHECKPOINT_WORK = 6e11
"""Weights times rows between two checkpoints: about ten seconds of training."""

QUICK = {"rows": 300, "hidden": 16, "max_epochs": 3}
"""What ``--quick`` cuts every run down to: it shows that all of it works, and nothing else."""

FORMATS = (".npz", ".npy", ".amat", ".libsvm", ".csv", ".data")


class Place(NamedTuple):
    """Where data are read and runs are kept, and how a run is made."""

    data: Path
    work: Path
    n_threads: int
    quick: bool


class Record(TypedDict):
    """What is known of a run without its test rows. NLL in nats.

    ``seconds`` is the time of the fit with its validation, ``cpu_seconds`` that of all its threads together: other work on
    the machine lengthens the first and hardly the second. What was done before a checkpoint counts as if no thread waited.
    """

    key: str
    data_set: str
    params: dict[str, Any]
    validation_nll: float | None
    best_epoch: int
    epochs: int
    seconds: float
    cpu_seconds: float
    n_parameters: int
    n_masks: int
    n_threads: int


class Score(TypedDict):
    """Mean test NLL of a row, in nats, and half of its 95 % interval: 1.96 standard errors over the test rows."""

    nll: float
    interval: float
    n_rows: int


def find(name: str, folder: Path) -> Path | None:
    """Return the file of a data set, by its name, or None."""
    return next((path for form in FORMATS if (path := folder / f"{name}{form}").exists()), None)


@lru_cache(1)
def data_set(name: str, place: Place) -> datasets.Dataset:
    """Load a data set; all three splits must be there."""
    path = find(name, place.data)
    if path is None:
        raise FileNotFoundError(f"{name}: no such data set in {place.data} (looked for {name} with {', '.join(FORMATS)})")
    found = datasets.load(path)
    splits = {"train": found.train, "valid": found.valid, "test": found.test}
    lacking = [split for split, table in splits.items() if table is None or not table.shape[0]]
    if lacking:
        raise ValueError(f"{path} must have rows of train, valid and test; {' and '.join(lacking)} are missing")
    if place.quick:
        n = QUICK["rows"]
        return datasets.Dataset(found.name, found.train[:n], found.valid[:n], found.test[:n], found.shape)
    return found


def key_of(name: str, params: dict[str, Any], quick: bool) -> str:
    """Return the name that a run is kept by: that of a set, and a hash of what is asked."""
    # runs that were kept before there was such a choice had these, and are found again
    before = {"bias_init": "zeros", "dropout": 0.0, "averaging": 0.0}
    asked = {option: value for option, value in params.items() if before.get(option) != value}
    text = json.dumps({"data_set": name, "params": asked, "quick": quick}, sort_keys=True)
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def train(name: str, params: dict[str, Any], place: Place, say: Callable[[str], None]) -> Record:
    """Return the record of a run; train it if it is not there yet, or the rest of it."""
    if place.quick:
        cut = {"hidden_sizes": tuple(QUICK["hidden"] for _ in params["hidden_sizes"]), "max_epochs": QUICK["max_epochs"]}
        params = {**params, **cut, "n_eval_masks": 4}
    key = key_of(name, params, place.quick)
    kept, model, checkpoint = (place.work / f"{key}{end}" for end in (".json", ".safetensors", ".checkpoint"))
    if kept.exists():
        record: Record = json.loads(kept.read_text())
        return record
    place.work.mkdir(parents=True, exist_ok=True)
    rows = data_set(name, place)
    made = MADE.resume(checkpoint) if checkpoint.exists() else MADE(**params)
    before = sum(epoch["seconds"] for epoch in getattr(made, "history_", []))
    made.set_params(n_threads=place.n_threads)
    begin, cpu_begin = time.perf_counter(), time.process_time()
    nll: float | None = None
    try:
        work = rows.train.shape[0] * rows.train.shape[1] * max([1, *params["hidden_sizes"]])
        every = max(1, int(CHECKPOINT_WORK / work))
        made.fit(rows.train, X_val=rows.valid, checkpoint=checkpoint, checkpoint_every=every)
        made.save(model)
        nll = -made.score(rows.valid)  # of the model as it will be used: all of its masks
    except FloatingPointError as error:
        say(f"{name}: a run diverged and is out of the choice ({error})")
    record = Record(
        key=key,
        data_set=name,
        params=params,
        validation_nll=nll,
        best_epoch=made.best_epoch_,
        epochs=len(made.history_),
        seconds=before + time.perf_counter() - begin,
        cpu_seconds=before * place.n_threads + time.process_time() - cpu_begin,
        n_parameters=made.model_.n_parameters,
        n_masks=made.model_.n_masks,
        n_threads=place.n_threads,
    )
    keep(kept, record)
    checkpoint.unlink(missing_ok=True)
    found = "diverged" if nll is None else f"validation {nll:.3f}"
    say(f"{name}: {found}, {record['epochs']} epochs, {record['cpu_seconds']:.0f} CPU s: {describe(params)}")
    return record


def evaluate(record: Record, place: Place) -> Score:
    """Return the score of a run on the test rows; it is computed once, and kept."""
    kept = place.work / f"{record['key']}.test.json"
    if kept.exists():
        score: Score = json.loads(kept.read_text())
        return score
    rows = data_set(record["data_set"], place)
    model = load(place.work / f"{record['key']}.safetensors")
    log_p = model.score_samples(rows.test, n_threads=place.n_threads)
    score = Score(nll=float(-log_p.mean()), interval=1.96 * float(log_p.std(ddof=1) / np.sqrt(len(log_p))), n_rows=len(log_p))
    keep(kept, score)
    return score


def describe(params: dict[str, Any]) -> str:
    """Return what distinguishes a run from its neighbours, in a line."""
    constants = params["optimizer_params"] or {}
    rate = f"eps {constants['eps']:g}" if params["optimizer"] == "adadelta" else f"rate {params['learning_rate']:g}"
    masks = {None: "fresh masks", 1: "one mask"}.get(params["n_masks"], f"{params['n_masks']} masks")
    words = [" + ".join(map(str, params["hidden_sizes"])), params["activation"], f"{params['optimizer']} {rate}", masks]
    words += ["U"] * params.get("connectivity_weights", False)
    return ", ".join(words + ([f"dropout {params['dropout']:g}"] if params.get("dropout") else []))


def keep(path: Path, what: Any) -> None:
    """Write JSON: all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(what, indent=1) + "\n")
    os.replace(temporary, path)
