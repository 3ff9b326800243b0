"""Figure 2 (NLL against the number of masks), Figure 3 (samples and their nearest neighbours), Table 1 (measured times)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.paper.runs import Place, data_set
from bench.paper.tables import Row
from made_fast import MADE, load
from made_fast.cli import images

__all__ = ["curve", "samples", "times"]


def curve(rows: Sequence[Row], path: Path) -> None:
    """Draw Figure 2; its error bars are 95 % intervals."""
    points = {row["n_masks"]: (row["nll"], row["interval"]) for row in rows}
    images.save_curves(path, {"test": points}, "Binarized MNIST, 500 hidden units")


def samples(place: Place, results: Path, n: int = 50) -> None:
    """Draw Figure 3: samples of the best model of Table 6, and beside each the training row nearest to it."""
    records = [json.loads(path.read_text()) for path in sorted(place.work.glob("binarized_mnist-*.json"))]
    records = [record for record in records if "validation_nll" in record and record["validation_nll"] is not None]
    if not records:
        raise FileNotFoundError(f"no model of binarized_mnist in {place.work}: make table6 first")
    best = min(records, key=lambda record: record["validation_nll"])
    rows = data_set("binarized_mnist", place)
    drawn = load(place.work / f"{best['key']}.safetensors").sample(n, random_state=0)
    side = round(rows.train.shape[1] ** 0.5)
    pairs = np.stack([drawn, rows.train[nearest(drawn, rows.train)]], axis=1).reshape(2 * n, -1)
    images.save_png(results / "figure3.png", images.grid(pairs, (side, side), columns=20))


def nearest(X: NDArray[np.uint8], among: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Return for each row of X the row of ``among`` that differs from it in the fewest places."""
    ones, others = X.astype(np.float32), among.astype(np.float32)
    return np.argmin(others.sum(axis=1) - 2 * ones @ others.T, axis=1)


SIZES = ((128, 250), (128, 500), (256, 500), (512, 500), (512, 1000))
"""D and H of Table 1."""

FORMULAS = {
    "MADE, 1 layer": "R D H",
    "MADE, 2 layers": "R (D H + H^2)",
    "NADE": "D H",
    "EoNADE, 1 layer": "R D H",
    "EoNADE, 2 layers": "R D H^2",
}
"""Multiply-adds of the exact NLL of one row under R orderings, but for a constant (Table 1 of the paper)."""


def times(quick: bool) -> Iterator[dict[str, Any]]:
    """Yield the measured time of an exact NLL of a row, and what the formula says, in times of each model's first line."""
    from bench.baselines.eonade import EoNADE
    from bench.baselines.nade import NADE

    for name, formula in FORMULAS.items():
        first: tuple[float, float] | None = None
        n_layers = 2 if name.endswith("2 layers") else 1
        for (D, H), R in [(SIZES[0], 1), *((size, 1) for size in SIZES[1:]), *((SIZES[1], R) for R in (8, 32))]:
            if (name == "NADE" and R > 1) or (quick and SIZES[0] != (D, H)):
                continue
            X = (np.random.default_rng(0).random((200, D)) < 0.3).astype(np.uint8)
            fit = {"max_epochs": 1, "random_state": 0, "n_threads": 1}
            model: Any
            if name.startswith("MADE"):
                model = MADE((H,) * n_layers, n_masks=R, direct_connections="none", **fit).fit(X)
            elif name == "NADE":
                model = NADE(hidden_size=H, **fit).fit(X)
            else:
                model = EoNADE(hidden_sizes=(H,) * n_layers, n_orderings=R, **fit).fit(X)
            rows = X[:20] if n_layers == 2 and name.startswith("EoNADE") else X
            seconds = _time(partial(model.score_samples, rows), quick) / len(rows)
            work = R * (D * H**2 if formula.endswith("D H^2") else D * H + (H**2 if n_layers == 2 else 0))
            first = first or (seconds, work)
            yield {
                "model": name, "time, in words": formula, "D": D, "H": H, "R": R, "µs a row": 1e6 * seconds,
                "times the first": seconds / first[0], "by the formula": work / first[1],
            }  # fmt: skip


def _time(call: Any, quick: bool) -> float:
    """Return the median time of a call."""
    call()
    taken = []
    for _ in range(3 if quick else 9):
        begin = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begin)
    return median(taken)
