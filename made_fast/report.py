"""What the command line prints about data, models and scores. Here is also the baseline: independent Bernoulli variables."""

from __future__ import annotations

import json
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from made_fast import checks, data
from made_fast.model import MADEModel

if TYPE_CHECKING:
    from made_fast.datasets import Dataset
    from made_fast.estimator import MADE

__all__ = ["describe_data", "describe_file", "describe_model", "independent_nll", "model_facts", "print_scores", "splits"]


def splits(dataset: Dataset) -> dict[str, Any]:
    """Return the splits that there are, by name."""
    named = {"train": dataset.train, "valid": dataset.valid, "test": dataset.test}
    return {name: X for name, X in named.items() if X is not None}


def describe_data(dataset: Dataset, shape: tuple[int, int] | None, threshold: float | None) -> str:
    """Return one line: name, width, rows of each split, the threshold they came through."""
    sizes = ", ".join(f"{X.shape[0]} {name}" for name, X in splits(dataset).items())
    image = f" ({shape[0]} x {shape[1]})" if shape else ""
    ones = "" if threshold is None else f"; values > {threshold:g} are 1"
    return f"{dataset.name}: {dataset.train.shape[1]} inputs{image}; {sizes} rows{ones}"


def describe_model(model: MADEModel) -> str:
    """Return one line: sizes, activation, parameters."""
    D = model.n_features_in
    sizes = "-".join(str(n) for n in (D, *model.connectivity.hidden_sizes, D))
    activation = f" {model.activation}" if model.connectivity.hidden_sizes else ""
    return f"{sizes}{activation}, {model.n_parameters:,} parameters, {model.theta.dtype}"


def describe_file(path: Path) -> str:
    """Return the name and the size of a file."""
    n = path.stat().st_size
    return f"{path} ({n / 1e6:.1f} MB)" if n >= 1e6 else f"{path} ({n / 1e3:.1f} kB)"


def describe_training(made: MADE, dataset: Dataset, seconds: float) -> str:
    """Return one line: epochs, time, speed (of the training passes alone), threads, seed."""
    records = made.history_
    speed = dataset.train.shape[0] * len(records) / sum(record["seconds"] for record in records)
    kept = f"epoch {made.best_epoch_} of {len(records)} is the best" if dataset.valid is not None else f"{len(records)} epochs"
    threads = f"{made.n_threads} thread{'s' if made.n_threads != 1 else ''}"
    return f"{kept}, {seconds:.1f} s, {speed:,.0f} rows/s, {threads}, seed {made.random_state}"


def model_facts(model: MADEModel) -> dict[str, str]:
    """Return what a model is and, indented, how it was trained.

    The file may be anybody's: what it remembers is shown as JSON, which cannot send control codes to a terminal.
    """
    places = model.connectivity.ordering
    natural = bool((places == np.arange(1, len(places) + 1)).all())
    first = " ".join(map(str, places[:8])) + (" ..." if len(places) > 8 else "")
    facts = {
        "inputs": f"{model.n_features_in}, "
        + ("0/1 values" if model.binarize is None else f"numbers; those > {model.binarize:g} count as 1"),
        "hidden layers": " ".join(map(str, model.connectivity.hidden_sizes)) or "none",
        "activation": model.activation,
        "ordering": "natural" if natural else f"permutation {first}",
        "degrees": ", ".join(f"{m.min()}..{m.max()}" for m in model.connectivity.degrees) or "none",
        "parameters": f"{model.n_parameters:,} live weights and biases",
        "dtype": str(model.theta.dtype),
    }
    if model.hyper:
        facts["trained with"] = ""
        facts |= {"  " + json.dumps(name)[1:-1]: json.dumps(value) for name, value in model.hyper.items()}
    return facts


def print_scores(model: MADEModel, dataset: Dataset, chosen: dict[str, Any], n_threads: int | None) -> None:
    """Print, for each chosen split, mean NLL and its standard error for the model and for the baseline."""
    rows = [("NLL in nats", "rows", "MADE", "bits/dim", "independent Bernoulli")]
    for name, X in chosen.items():
        nll = -model.score_samples(X, n_threads=n_threads)
        bits = nll.mean() / (model.n_features_in * log(2))
        rows.append((name, str(len(nll)), _mean(nll), f"{bits:.4f}", _mean(independent_nll(dataset.train, X))))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        print("   ".join(cells))


def _mean(nll: NDArray[np.float64]) -> str:
    error = f" ± {nll.std(ddof=1) / len(nll) ** 0.5:.3f}" if len(nll) > 1 else ""
    return f"{nll.mean():.3f}{error}"


def independent_nll(train: Any, X: Any) -> NDArray[np.float64]:
    """Return the NLL in nats of each row of X when every input is a coin of its own.

    The coins are fitted to ``train``, with p = (ones + 1) / (rows + 2).
    """
    ones = sum(checks.ones(train[part]).sum(axis=0) for part in data.chunks(*train.shape))
    p = (ones + 1) / (train.shape[0] + 2)
    weights = np.log(p) - np.log1p(-p)
    nll = np.empty(X.shape[0])
    for part in data.chunks(*X.shape):
        nll[part] = -(checks.ones(X[part]) @ weights + np.log1p(-p).sum())
    return nll
