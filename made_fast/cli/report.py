"""Texts and tables of the command line about data, models and scores, and the baseline: independent Bernoulli variables."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isnan, log, nan
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from made_fast.cli.files import note
from made_fast.inference.density import ApproximationWarning, log_p_observed
from made_fast.inference.mixture import MixtureModel
from made_fast.inference.model import MADEModel
from made_fast.tables.choices import N_WALKS
from made_fast.tables.reading.datasets import Dataset, n_missing
from made_fast.tables.table import Table

__all__ = [
    "HALF", "AnyModel", "Asking", "Scores", "describe_data", "describe_file", "describe_model", "describe_values",
    "independent_nll", "majority", "mean_of", "model_facts", "noting", "print_report", "print_table", "score", "single_models",
]  # fmt: skip

AnyModel: TypeAlias = "MADEModel | MixtureModel"
"""A model of 0/1 rows; those of tables have commands of their own."""
Floats: TypeAlias = "NDArray[np.float64]"
Curves: TypeAlias = dict[str, dict[int, tuple[float, float]]]
"""``Scores.parts`` by split."""

NAMED = 10
"""Most names of columns that are shown."""

HALF = 1.96
"""Standard errors in half of a 95 % interval of a mean: what stands after a ±."""


class Asking(NamedTuple):
    """The options of answers: threads, and for rows with missing entries the numbers of members and walks."""

    n_threads: int | None
    n_members: int = 1
    n_walks: int = N_WALKS


class Scores(NamedTuple):
    """Scores of the observed entries of the rows of a table."""

    nll: Floats  # negative log-likelihood in nats, (n,)
    std: Floats  # its standard error, 0 where it is exact, (n,)
    n_entries: int  # number of entries that were scored
    parts: dict[int, tuple[float, float]]  # mean NLL, half of its 95 % interval, by member or number of masks; may be empty


@contextmanager
def noting() -> Iterator[None]:
    """Turn warnings of estimates into a note each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ApproximationWarning)
        yield
    for warning in caught:
        finding = getattr(warning.message, "finding", None)
        way_out = ". More walks (--walks) come closer; a model trained with --masks unlimited needs none."
        note(warning.message if finding is None else finding + way_out)


def describe_data(dataset: Dataset, shape: tuple[int, int] | None, threshold: float | None) -> str:
    """Return one line: name, width, rows of each split, threshold, missing entries."""
    found = dataset.splits
    sizes = ", ".join(f"{X.shape[0]} {name}" for name, X in found.items())
    image = f" ({shape[0]} x {shape[1]})" if shape else ""
    ones = "" if threshold is None else f"; values > {threshold:g} are 1"
    n_gaps, n = sum(map(n_missing, found.values())), sum(X.shape[0] * X.shape[1] for X in found.values())
    missing = f"; {n_gaps:,} entries ({n_gaps / n:.1%}) are missing" if n_gaps else ""
    return f"{dataset.name}: {dataset.train.shape[1]} inputs{image}; {sizes} rows{ones}{missing}"


def single_models(model: AnyModel) -> tuple[MADEModel, ...]:
    """Return the members of an ensemble; of a single model, itself."""
    if not isinstance(model, MixtureModel):
        return (model,)
    return tuple(member for member in model.members if isinstance(member, MADEModel))  # no file holds others


def describe_model(model: AnyModel) -> str:
    """Return one line: sizes, activation, other kinds of weights, masks, parameters; of an ensemble, of its members."""
    if isinstance(model, MixtureModel):
        each = list(dict.fromkeys(map(describe_model, single_models(model))))
        kind = f"each {each[0]}" if len(each) == 1 else f"the first {each[0]}"
        return f"ensemble of {model.n_members}, {model.n_parameters:,} parameters; {kind}"
    a = model.architecture
    words = ["-".join(map(str, (a.n_inputs, *a.hidden_sizes, a.n_outputs))) + (f" {a.activation}" if a.hidden_sizes else "")]
    if a.direct != "none":
        words.append(f"direct connections ({a.direct})")
    if a.connectivity_weights:
        words.append("connectivity weights")
    if model.n_masks > 1:
        words.append(f"{model.n_masks} masks")
    if model.n_points > 1:
        words.append(f"{model.n_points} points")
    return ", ".join([*words, f"{model.n_parameters:,} parameters", str(model.dtype)])


def describe_file(path: Path) -> str:
    """Return the name and the size of a file."""
    n = path.stat().st_size
    return f"{path} ({n / 1e6:.1f} MB)" if n >= 1e6 else f"{path} ({n / 1e3:.1f} kB)"


def describe_values(values: Sequence[Any]) -> str:
    """Return the names, dtypes and shapes of inputs or outputs of an ONNX graph, some of them; names as JSON."""
    from onnx import TensorProto

    words = []
    for value in values[:NAMED]:
        tensor = value.type.tensor_type
        shape = ", ".join(dim.dim_param or str(dim.dim_value) for dim in tensor.shape.dim)
        words.append(f"{json.dumps(value.name)} {TensorProto.DataType.Name(tensor.elem_type).lower()} ({shape})")
    return ", ".join(words) + (f" and {len(values) - NAMED} more" if len(values) > NAMED else "")


def model_facts(model: AnyModel) -> dict[str, str]:
    """Return facts about a model and, indented, its training: as JSON, which cannot send control codes to a terminal."""
    binarize = model.binarize
    values = "0/1 values" if binarize is None else f"numbers; those > {binarize:g} count as 1"
    facts = {"inputs": f"{model.n_features_in}, {values}"}
    if model.feature_names is not None:
        shown = [json.dumps(name if len(name) <= 40 else f"{name[:37]}...") for name in model.feature_names[:NAMED]]
        facts["names"] = ", ".join(shown) + (", ..." if model.n_features_in > NAMED else "")
    if isinstance(model, MixtureModel):
        facts["members"] = str(model.n_members)
        for m, (member, weight) in enumerate(zip(single_models(model), model.weights, strict=True)):
            facts[f"  member {m}"] = f"weight {weight:.4f}, {describe_model(member)}"
        facts["parameters"] = f"{model.n_parameters:,}"
    else:
        facts |= _network_facts(model)
    remembered = {"trained with": model.hyper}
    if isinstance(model, MixtureModel) and all(member.hyper == model.members[0].hyper for member in model.members):
        remembered["each member with"] = model.members[0].hyper
    for title, hyper in remembered.items():
        if hyper:
            facts[title] = ""
            facts |= {"  " + json.dumps(name)[1:-1]: json.dumps(value) for name, value in hyper.items()}
    return facts


def _network_facts(model: MADEModel) -> dict[str, str]:
    a, orderings = model.architecture, model.masks.orderings
    natural = bool((orderings == np.arange(1, a.n_variables + 1)).all())
    first = " ".join(map(str, orderings[0, :8])) + (" ..." if a.n_variables > 8 else "")
    of_first = " (of mask 0)" if (orderings != orderings[0]).any() else ""
    masks, shared = str(model.n_masks), "live weights and biases"
    if model.source.connectivity is None:
        shared = "weights and biases, shared by all masks" if model.n_masks > 1 else "weights and biases, live and dead"
    if model.rule is not None:
        masks += f" of unlimited; to differ: {model.rule.resample}"
    leads = {"none": "none", "output": "inputs to outputs", "all": "inputs to every layer but the first hidden one"}
    return {
        "hidden layers": " ".join(map(str, a.hidden_sizes)) or "none",
        "activation": a.activation,
        "direct connections": leads[a.direct],
        "connectivity weights": "yes" if a.connectivity_weights else "no",
        "masks": masks,
        "points": str(model.n_points),
        "ordering": "natural" if natural else f"permutation {first}{of_first}",
        "degrees": ", ".join(f"{m.min()}..{m.max()}" for m in model.masks.degrees) or "none",
        "parameters": f"{model.n_parameters:,} {shared}",
        "dtype": str(model.dtype),
    }


def score(model: AnyModel, X: Any, ask: Asking, *, parts: bool = False) -> Scores:
    """Score the observed entries of the rows of X under a model.

    With ``parts``, complete rows are also scored under its parts, one at a time: memory does not grow with their number.
    """
    n_gaps, n_entries = n_missing(X), X.shape[0] * X.shape[1]
    if n_gaps:
        options = {"n_members": ask.n_members, "n_walks": ask.n_walks, "random_state": 0}
        log_p, std = log_p_observed(model, X, ask.n_threads, warn=False, **options)
        return Scores(-log_p, std, n_entries - n_gaps, {})
    found = {}
    if not parts or getattr(model, "n_masks", 2) == 1:
        log_p = model.score_samples(X, n_threads=ask.n_threads)
    elif isinstance(model, MixtureModel):
        for m, log_p in enumerate(model.score_parts(X, n_threads=ask.n_threads)):
            found[m] = _mean_and_half(-log_p)
        del found[m]  # the mixture
    else:
        for m, log_p in enumerate(model.score_parts(X, n_threads=ask.n_threads), 1):
            if m & (m - 1) == 0 or m == model.n_masks:
                found[m] = _mean_and_half(-log_p)
    return Scores(-log_p, np.zeros_like(log_p), n_entries, found)


def print_report(dataset: Dataset, chosen: dict[str, Any], model: AnyModel, ask: Asking, *, parts: bool) -> Curves:
    """Print the scores of the chosen splits, with ``parts`` also under the parts of the model; return the latter."""
    scores = {name: score(model, X, ask, parts=parts) for name, X in chosen.items()}
    _print_scores(dataset, chosen, scores, ask)
    curves = {name: found.parts for name, found in scores.items() if found.parts}
    if curves:
        _print_parts(model, curves)
    if any(len(found.nll) > 1 for found in scores.values()):
        print(f"\n± is half of the 95 % interval of a mean, {HALF} standard errors over the rows.")
    return curves


def _print_scores(dataset: Dataset, chosen: dict[str, Any], scores: dict[str, Scores], ask: Asking) -> None:
    """Print the mean NLL of each split, with half of its 95 % interval, and that of the baseline; then the estimates."""
    missing = any(map(n_missing, chosen.values()))
    title, dim = ("log-marginal NLL in nats", "bits/observed dim") if missing else ("NLL in nats", "bits/dim")
    if missing:
        print(f"Of rows with missing entries, what is observed is scored (log_marginal, n_members={ask.n_members}).\n")
    rows = [(title, "rows", "MADE", dim, "independent Bernoulli")]
    for name, X in chosen.items():
        nll, _, n_entries, _ = scores[name]
        bits = nll.sum() / (n_entries * log(2))
        rows.append((name, str(len(nll)), mean_of(nll), f"{bits:.4f}", mean_of(independent_nll(dataset.train, X))))
    print_table(rows)
    estimates = [
        f"{np.count_nonzero(std)} rows of {name} (the mean is off by about {np.sqrt((std**2).sum()) / len(std):.3f})"
        for name, (_, std, *_) in scores.items()
        if std.any()
    ]
    if estimates:
        print(f"\nBy {ask.n_walks} walks each, and so not exact: {', '.join(estimates)}.")
        print("A model trained with --masks unlimited answers exactly.")


def _print_parts(model: AnyModel, curves: Curves) -> None:
    """Print the scores of the parts of a model: mixtures of its first masks, or members."""
    title = [f"{name} NLL" for name in curves]
    rows = [["members", "weight", *title] if isinstance(model, MixtureModel) else ["masks", *title]]
    for m in next(iter(curves.values())):
        lead = [f"member {m}", f"{model.weights[m]:.4f}"] if isinstance(model, MixtureModel) else [str(m)]
        rows.append(lead + [_with_half(*parts[m]) for parts in curves.values()])
    print()
    print_table(rows)


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print cells in columns; the first one to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        print("   ".join(cells).rstrip())


def _mean_and_half(nll: Floats) -> tuple[float, float]:
    """Return the mean and half of its 95 % interval; of one row that is not known."""
    return float(nll.mean()), float(HALF * nll.std(ddof=1) / len(nll) ** 0.5) if len(nll) > 1 else nan


def _with_half(mean: float, half: float) -> str:
    return f"{mean:.3f}" + ("" if isnan(half) else f" ± {half:.3f}")


def mean_of(nll: Floats) -> str:
    """Return the mean of NLLs, ± half of its 95 % interval."""
    return _with_half(*_mean_and_half(nll))


def _coins(train: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the number of ones of each column, and of its observed entries."""
    ones, observed = np.zeros((2, train.shape[1]), np.int64)
    for _, rows in Table.of(train).chunks():
        missing = rows.missing()
        ones += rows.ones(missing=True).sum(axis=0)
        observed += len(rows) if missing is None else (~missing).sum(axis=0)
    return ones, observed


def majority(train: Any) -> NDArray[np.bool_]:
    """Return the most frequent value of each column, (D,); 0 if both values are equally frequent."""
    ones, observed = _coins(train)
    frequent: NDArray[np.bool_] = 2 * ones > observed
    return frequent


def independent_nll(train: Any, X: Any) -> Floats:
    """Return the NLL in nats of each row of X if inputs are coins of p = (ones + 1) / (observed rows + 2) of ``train``."""
    ones, observed = _coins(train)
    p = (ones + 1) / (observed + 2)
    weights, of_zero = np.log(p) - np.log1p(-p), np.log1p(-p)
    nll = np.empty(X.shape[0])
    for part, rows in Table.of(X).chunks():
        missing = rows.missing()
        nll[part] = -(rows.ones(missing=True) @ weights + of_zero.sum())
        if missing is not None:
            nll[part] += missing @ of_zero
    return nll
