"""The other models of the paper's tables, each with one setting for all sets, without a search; runs are kept.

All but mixtures train for ``STEPS`` mini-batches, or until validation stops them; the NADEs at a rate that falls to nothing.

Where the likelihood cannot be computed, the row says so: "estimate" (an RBM by annealed importance sampling), "lower bound"
(DARN by importance sampling), "estimate of a lower bound" (two layers of RBMs: both). What an autoencoder gives is none: its
row says to what it adds up over all rows of a few columns. Rows are of what the machine allows: for binarized MNIST the sizes
of the literature, but few epochs.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from bench.baselines.autoencoder import Autoencoder
from bench.baselines.bernoulli_mixture import BernoulliMixture
from bench.baselines.common import Baseline
from bench.baselines.darn import DARN
from bench.baselines.dbm import DBM
from bench.baselines.dbn import DBN
from bench.baselines.eonade import EoNADE
from bench.baselines.fvsbn import FVSBN
from bench.baselines.nade import NADE
from bench.baselines.rbm import RBM
from bench.paper import published
from bench.paper.runs import QUICK, Place, data_set, keep
from bench.paper.tables import say
from made_fast.tables.reading.datasets import Dataset
from made_fast.tables.table import Table

__all__ = ["SETS", "baselines"]

MNIST = "binarized_mnist"
SETS = ("adult", "connect4", "dna_made", "mushrooms", "nips", "ocr_letters", "rcv1", "web", MNIST)

FEW = 12
"""Columns whose rows are all looked at."""

STEPS = 15_000
"""30 epochs of binarized MNIST."""

STEP = {"batch_size": 100}
FALLING = {**STEP, "learning_rate_schedule": "linear"}
DEEP = {"gibbs_steps": 5, "n_mean_field": 5, "learning_rate": 0.1, **STEP}
MODELS: dict[str, tuple[Callable[..., Baseline], dict[str, Any]]] = {
    "mixture of Bernoullis, K=10": (BernoulliMixture, {"n_components": 10}),
    "mixture of Bernoullis, K=500": (BernoulliMixture, {"n_components": 500}),
    "FVSBN": (FVSBN, STEP),
    "NADE": (NADE, {"hidden_size": 500, "activation": "relu", "learning_rate": 2e-3, **FALLING}),
    "EoNADE, 1 layer, 128 orderings": (
        EoNADE,
        {"hidden_sizes": (500,), "activation": "sigmoid", "learning_rate": 3e-3, "n_orderings": 128, **FALLING},
    ),
}
SMALL: dict[str, tuple[Callable[..., Baseline], dict[str, Any]]] = {
    "EoNADE, 2 layers, 4 orderings": (
        EoNADE,
        {"hidden_sizes": (250, 250), "activation": "relu", "learning_rate": 1e-3, "n_orderings": 4, **FALLING},
    ),
    "RBM, 12 hidden units, CD-25": (RBM, {"n_hidden": 12, "cd_steps": 25, **STEP}),
    "RBM, 100 hidden units, CD-25": (RBM, {"n_hidden": 100, "cd_steps": 25, **STEP}),
    "DARN, 10 hidden units": (DARN, {"n_hidden": 10, **STEP}),
    "DARN, 50 hidden units": (DARN, {"n_hidden": 50, **STEP}),
    "DBN, 100 + 100 hidden units, CD-5": (DBN, {"hidden_sizes": (100, 100), "cd_steps": 5, **STEP}),
    "DBM, 100 + 100 hidden units": (DBM, {"hidden_sizes": (100, 100), **DEEP}),
    "autoencoder, 500 hidden units": (Autoencoder, {"hidden_size": 500, **STEP}),
}
LARGE: dict[str, tuple[Callable[..., Baseline], dict[str, Any]]] = {
    "EoNADE, 2 layers, 8 orderings": (
        EoNADE,
        {"hidden_sizes": (500, 500), "activation": "relu", "learning_rate": 1e-3, "n_orderings": 8, **FALLING},
    ),
    "RBM, 500 hidden units, CD-25": (RBM, {"n_hidden": 500, "cd_steps": 25, **STEP}),
    "DARN, 500 hidden units": (DARN, {"n_hidden": 500, **FALLING}),
    "DBN, 500 + 500 hidden units, CD-5": (DBN, {"hidden_sizes": (500, 500), "cd_steps": 5, **STEP}),
    "DBM, 500 + 500 hidden units": (DBM, {"hidden_sizes": (500, 500), **DEEP}),
}


def baselines(sets: Sequence[str], place: Place, only: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Yield a row for each set and model (``only`` those whose name begins so)."""
    for name in sets:
        for model, (make, params) in (MODELS | (LARGE if name == MNIST else SMALL)).items():
            if not only or model.startswith(tuple(only)):
                yield _row(name, model, make, params, place)


def _row(name: str, model: str, make: Callable[..., Baseline], params: dict[str, Any], place: Place) -> dict[str, Any]:
    rows = data_set(name, place)
    params = {**params, "random_state": 0}
    if "batch_size" in params:
        params["max_epochs"] = -(-STEPS // -(-len(rows.train) // params["batch_size"]))
    if place.quick:
        small = {"n_components": 5, "hidden_size": QUICK["hidden"], "hidden_sizes": (8,) * len(params.get("hidden_sizes", ()))}
        params |= {key: value for key, value in small.items() if key in params} | {"max_epochs": 2}
    asked = json.dumps([name, model, params, place.quick])
    words = ", ".join(f"{key} {value}" for key, value in params.items() if key != "random_state")
    known = {"published": _published(name, model), "settings": words}  # not of the run: looked up whenever the row is shown
    kept = place.work / f"other-{hashlib.sha256(asked.encode()).hexdigest()[:16]}.json"
    if kept.exists():
        row: dict[str, Any] = json.loads(kept.read_text())
        return row | known
    begin = time.process_time()
    fitted = make(**params).fit(rows.train, rows.valid)
    seconds = time.process_time() - begin
    log_p = fitted.score_samples(rows.test)
    scoring = time.process_time() - begin - seconds
    row = {
        "set": name,
        "model": model,
        "test NLL": f"{-log_p.mean():.2f} ± {1.96 * log_p.std(ddof=1) / np.sqrt(len(log_p)):.2f}",
        "likelihood": _total(make, params, rows) if isinstance(fitted, Autoencoder) else fitted.log_likelihood,
        "published": None,
        "parameters": fitted.n_parameters,
        "best epoch": fitted.best_epoch_,
        "training, CPU s": seconds,
        "scoring, CPU s": scoring,
    }
    keep(kept, row)
    say(f"{name}: {model}: test {row['test NLL']} ({row['likelihood']}), {seconds:.0f} CPU s")
    return row | known


def _total(make: Callable[..., Any], params: dict[str, Any], rows: Dataset) -> str:
    """Return in words what a fit to a few columns adds up to over all of their rows."""
    few = make(**params).fit(*(Table.of(table).ones()[:, :FEW] for table in (rows.train, rows.valid)))
    return f"{few.log_likelihood}: fitted to {few.n_features_in_} columns, q sums to {few.total():.1f} over all rows"


def _published(name: str, model: str) -> str | None:
    if name != MNIST:
        return None
    return next((f"{value:.2f}" for known, value in published.OTHERS.items() if model.startswith(known)), None)
