"""The best fit: plain ``MADE()`` and ``MADEEnsemble(preset="best")`` on the DEBD and UCI sets, beside the best figures known.

Where a search would take hours, an ensemble of stated settings stands in its place.

All are fitted to the training rows and chosen on the validation rows; test rows are scored once, by the model that is kept. A
table apart has what becomes of the preset if its members are trained again with the validation rows put back (``refit=True``):
it sees more rows than the published figures did.
Not here: the paper's own tables (``tables.py``), what others have published (``published.py``).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from bench.paper import published
from bench.paper.runs import QUICK, Place, data_set, keep
from bench.paper.tables import say
from made_fast import MADE, MADEEnsemble, load

__all__ = ["BUDGET", "Fitted", "fitted", "kept", "refitted_rows", "rows", "words"]

BUDGET = 180.0
"""Seconds that ``preset="best"`` has for a set."""

QUICK_BUDGET = 2.0

STATED: dict[str, dict[str, Any]] = {
    "binarized_mnist": {
        "n_members": 12,
        "hidden_sizes": (8000,),
        "learning_rate": 1e-3,
        "averaging": 0.8,
        "max_epochs": 100,
        "patience": 3,
    }
}
"""Ensembles without a search: found by hand on the validation rows, with fits of one member of 1000, 4000 and 8000 units."""


class Fitted(TypedDict):
    """What is kept of a fit beside its model: NLL in nats, half of its 95 % interval over the test rows, what it took."""

    validation_nll: float
    nll: float
    interval: float
    seconds: float
    cpu_seconds: float
    n_threads: int
    members: int
    refitted: int
    chosen: dict[str, Any]


def rows(sets: Sequence[str], place: Place, budget: float) -> Iterator[dict[str, Any]]:
    """Yield the row of each set."""
    for name in sets:
        plain, best = fitted(name, "plain", None, place), fitted(name, "best", budget, place)
        known = published.KNOWN[name]
        off = round(best["nll"], 2) - known.best
        say(f"{name}: plain {plain['nll']:.3f}, preset {best['nll']:.3f} +- {best['interval']:.3f}, best known {known.best}")
        yield {
            "set": name,
            "plain MADE()": f"{plain['nll']:.2f} ± {plain['interval']:.2f}",
            'preset="best"': f"{best['nll']:.2f} ± {best['interval']:.2f}",
            "MADE, published": None if known.made is None else f"{known.made:.2f}",
            "best known": f"{known.best:.2f}",
            "at or below": "no" if off > 0.001 else "yes",
            "difference": f"{off:+.2f}",
            "seconds": f"{plain['seconds']:.0f}, {best['seconds']:.0f}",
            "CPU s": f"{plain['cpu_seconds']:.0f}, {best['cpu_seconds']:.0f}",
            "threads": best["n_threads"],
            "members": best["members"],
            "chosen": "stated: " * (name in STATED) + words(best["chosen"]),
        }


def refitted_rows(sets: Sequence[str], place: Place, budget: float) -> Iterator[dict[str, Any]]:
    """Yield the row of each set, with its validation rows put back."""
    for name in sets:
        found, known = fitted(name, "refit", budget, place), published.KNOWN[name]
        say(f"{name}: refitted {found['nll']:.3f} +- {found['interval']:.3f}, best known {known.best}")
        yield {
            "set": name,
            "refit=True": f"{found['nll']:.2f} ± {found['interval']:.2f}",
            "best known": f"{known.best:.2f}",
            "difference": f"{round(found['nll'], 2) - known.best:+.2f}",
            "seconds": f"{found['seconds']:.0f}",
            "CPU s": f"{found['cpu_seconds']:.0f}",
            "threads": found["n_threads"],
            "members": found["members"],
            "trained again": found["refitted"],
        }


def words(chosen: dict[str, Any]) -> str:
    """Return what was chosen as one line."""
    shown = {key: " + ".join(map(str, value)) if isinstance(value, (list, tuple)) else value for key, value in chosen.items()}
    return ", ".join(f"{key} {value}" for key, value in shown.items() if value is not None)


def kept(name: str, what: str, budget: float | None, place: Place) -> Path:
    """Return where the model of a fit is kept, "plain", "best" or "refit"; what is known of it lies beside it, as JSON."""
    stated = STATED.get(name, {}) if what == "best" else {}
    asked = json.dumps({"data_set": name, "what": what, "budget": budget, "quick": place.quick} | stated, sort_keys=True)
    return place.work / f"{name}-{what}-{hashlib.sha256(asked.encode()).hexdigest()[:16]}.safetensors"


def fitted(name: str, what: str, budget: float | None, place: Place) -> Fitted:
    """Return what is known of a fit; fit if nothing is kept of it."""
    path = kept(name, what, budget, place)
    budget = QUICK_BUDGET if place.quick and budget is not None else budget
    about, stated = path.with_suffix(".json"), STATED.get(name, {}) if what == "best" else {}
    if about.exists():
        known: Fitted = json.loads(about.read_text())
        return known
    place.work.mkdir(parents=True, exist_ok=True)
    data = data_set(name, place)
    common: dict[str, Any] = {"random_state": 0, "n_threads": place.n_threads}
    if place.quick:
        common |= {"hidden_sizes": (QUICK["hidden"],), "max_epochs": QUICK["max_epochs"]}
    begin, cpu_begin = time.perf_counter(), time.process_time()
    model: Any
    if budget is None:
        model = MADE(**common)
    elif stated:
        model = MADEEnsemble(**(stated | common))
    else:
        model = MADEEnsemble(preset="best", time_budget=budget, refit=what == "refit", **common, verbose=1)
    model.fit(data.train, X_val=data.valid)
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu_begin
    model.save(path)
    log_p = load(path).score_samples(data.test, n_threads=place.n_threads)
    found = Fitted(
        validation_nll=-model.score(data.valid),
        nll=-float(log_p.mean()),
        interval=1.96 * float(log_p.std(ddof=1) / np.sqrt(len(log_p))),
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        n_threads=place.n_threads,
        members=1 if budget is None else len(model.members_),
        refitted=0 if what != "refit" else sum(made.history_[-1]["validation_nll"] is None for made in model.members_),
        chosen={} if budget is None else stated or model.chosen_,
    )
    keep(about, found)
    return found
