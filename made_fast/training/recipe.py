"""From hyper-parameters to a trainer: every value is checked, every random number that a fit begins with is drawn.

``params`` are those of ``MADE``, by name. Not here: what they are and mean (``hyper.py``), data, the fit itself.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast import __version__, kernels
from made_fast.kernels import layout as panels
from made_fast.kernels.optimizers import OPTIMIZERS
from made_fast.network.architecture import Architecture
from made_fast.network.latent import Latent
from made_fast.network.masks import MaskRule, MaskSet, Variables, draw_connectivity
from made_fast.network.network import Parameters, Shared
from made_fast.system import blas
from made_fast.tables import arguments
from made_fast.tables.table import chunks
from made_fast.training.hyper import FIXED, HYPER
from made_fast.training.reduce import Alone
from made_fast.training.rows import TrainingRows
from made_fast.training.steps import Trainer
from made_fast.training.turns import Turns

__all__ = [
    "Params",
    "adjustable",
    "check_unchanged",
    "checked",
    "common",
    "initial_parameters",
    "notes",
    "plain",
    "schedule",
    "start",
    "start_biases",
]

Params = Mapping[str, Any]


def checked(params: Params, n_features: int | None = None, called: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Check parameters of ``MADE`` and return what the checks return.

    ``n_features`` is for the ordering, if it is a sequence; error texts call the parameters by their names in ``called``.
    """
    found = {}
    for name, value in params.items():
        about, shown = HYPER[name], (called or {}).get(name, name)
        more: tuple[Any, ...] = (shown, about.choices) if about.check.startswith("choice") else (shown,)
        if name == "ordering":
            more = (n_features,)
        elif name == "optimizer_params":
            optimizer = OPTIMIZERS[arguments.choice(params["optimizer"], "optimizer", HYPER["optimizer"].choices)]
            more = shown, [constant for constant in optimizer.names[1:] if constant]
        found[name] = None if value is None and about.optional else getattr(arguments, about.check)(value, *more)
    for name, plain_value in (("n_masks", 1), ("connectivity_weights", False)):
        if found.get("latent_points") not in (None, 1) and found.get(name, plain_value) != plain_value:
            raise _no_points(found, called, f"with {(called or {}).get(name, name)} = {found[name]}")
    return found


def adjustable(params: Params) -> dict[str, Any]:
    """Check those parameters that a fit reads anew when it continues; the trainer has all others."""
    return checked({name: value for name, value in params.items() if HYPER[name].change != FIXED})


def start(params: Params, n_features: int, missing: bool, variables: Variables | None = None) -> tuple[Trainer, int]:
    """Check all parameters; return a trainer for rows of so many features, and a seed for splitting them.

    ``missing``: rows have missing entries, which takes orderings that vary, and so shared parameters. ``variables``: what the
    features are, if they are not binary.
    """
    p, constants = checked(params, n_features if variables is None else variables.n_columns), _constants(params)
    hidden_sizes, degrees, n_masks = p["hidden_sizes"], p["degrees"], p["n_masks"]
    n_inputs = n_features if variables is None else variables.n_inputs
    kinds = p["activation"], p["direct_connections"], p["connectivity_weights"]
    architecture = Architecture(n_inputs, hidden_sizes, *kinds, variables)
    # Each kind of draw has a stream of its own: what one uses up does not change the others.
    for_masks, for_weights, for_shuffling, for_fresh, for_noise, for_splitting = p["random_state"].spawn(6)
    base = draw_connectivity(n_features, hidden_sizes, p["ordering"], degrees, for_masks, variables)
    rule = MaskRule(base, degrees, p["resample"], variables)
    masks = MaskSet.of([base]) if n_masks == 1 else rule.mask_set(n_masks or p["n_eval_masks"], for_masks)
    to_outputs = p["bias_init"] == "zeros"
    vector = initial_parameters(architecture, p["weight_init"], p["dtype"], for_weights, to_outputs=to_outputs)
    parameters: Parameters = Shared(architecture, vector)
    turns, n_points = None, p["latent_points"]
    if n_points > 1:
        if missing:
            raise _no_points(p, None, "for rows with missing entries")
        if variables is not None:
            raise _no_points(p, None, "for columns that are not binary")
        parameters = Latent.of(parameters.network(base), n_points, for_weights)
    elif n_masks == 1 and not (architecture.connectivity_weights or missing):
        parameters = parameters.network(base)
    else:
        turns = Turns(architecture, masks, rule if n_masks is None else None, for_fresh)
    random = for_shuffling, turns, p["dropout"], for_noise
    trainer = Trainer(parameters, masks, OPTIMIZERS[p["optimizer"]], constants, *random, p["averaging"])
    return trainer, int(for_splitting.integers(2**63))


def _no_points(p: Params, called: Mapping[str, str] | None, found: str) -> ValueError:
    """Return the refusal of a latent mixture, for what was found."""
    name, points = (called or {}).get("latent_points", "latent_points"), p["latent_points"]
    return ValueError(
        f"{name} must be 1 {found}, got {points}: a latent mixture has one mask, and learns from complete binary rows. Mix "
        "masks or points, not both; an ensemble mixes latent mixtures of different orderings."
    )


def initial_parameters(
    architecture: Architecture, weight_init: str, dtype: np.dtype[Any], rng: np.random.Generator, *, to_outputs: bool = True
) -> NDArray[Any]:
    """Return shared parameters with random weights W and A, and with b and U of 0.

    Without ``to_outputs``, the weights that lead to the outputs are 0, too; :func:`start_biases` does the rest.

    ``"glorot_uniform"``: U(-r, r) with r = sqrt(6 / (n_in + n_out)); ``"glorot_normal"``: N(0, 2 / (n_in + n_out)) (Glorot and
    Bengio 2010); ``"orthogonal"``: orthonormal rows or columns, whichever are fewer (Saxe, McClelland, Ganguli 2014);
    ``"zeros"``. Sizes are those of the full layers.
    """
    shared = panels.aligned_zeros(architecture.n_shared, dtype)
    last = len(architecture.hidden_sizes)
    lead_to_outputs = last, int(architecture.layers[last, panels.DIRECT]) or last
    for l, ((n_in, n_out, *_), row) in enumerate(zip(architecture.layers, architecture.shared_layout, strict=True)):
        if l in lead_to_outputs and not to_outputs:
            continue
        start, stride = row[panels.SHARED_WEIGHTS], row[panels.ROW]
        W = shared[start : start + n_in * stride].reshape(n_in, stride)[:, :n_out]
        if weight_init == "orthogonal":
            W[:] = _orthogonal(int(n_in), int(n_out), dtype, rng)
            continue
        for part in chunks(int(n_in), int(n_out)):  # Ctrl-C is answered in between; the numbers are the same
            if weight_init == "glorot_uniform":
                W[part] = (2 * rng.random(W[part].shape, dtype=dtype) - 1) * dtype.type(np.sqrt(6.0 / (n_in + n_out)))
            elif weight_init == "glorot_normal":
                W[part] = rng.standard_normal(W[part].shape, dtype=dtype) * dtype.type(np.sqrt(2.0 / (n_in + n_out)))
    return shared


def common(params: Params, ranks: Alone) -> Params:
    """Return parameters that all ranks have, and refuse others; what is drawn without a ``random_state`` rank 0 draws for all.

    Raises ValueError on every rank.
    """
    if ranks.size == 1:
        return params
    seed = params["random_state"]
    with ranks.agreed():
        if seed is not None and not isinstance(seed, int | np.integer):
            raise ValueError(
                f"random_state must be an int or None for a fit on several ranks, got {arguments.shown(seed)}: all draw the "
                "same numbers from it."
            )
    level = kernels.active.level() if kernels.implementation == "native" else "none"
    facts = {"the version of made_fast": __version__, "the version of NumPy": np.__version__}
    facts |= {"MADE_FAST_KERNELS": kernels.implementation, "MADE_FAST_CPU": level}  # others round otherwise
    ranks.check_same(facts | {name: plain(value) for name, value in params.items() if name not in ("n_threads", "verbose")})
    return {**params, "random_state": ranks.of_first(secrets.randbits(63) if seed is None else seed)}


def start_biases(trainer: Trainer, bias_init: str, rows: TrainingRows, ranks: Alone) -> None:
    """Give the biases of the outputs, which are 0 so far, their start by the rows that training begins with.

    On several ranks, it is the mean of what the rows of each would give, each counting by how many they are. With the weights
    that lead to the outputs at 0, the untrained network is the model of independent Bernoulli variables.
    """
    if bias_init != "marginals":
        return
    parameters, variables = trainer.parameters, trainer.architecture.variables
    if variables is None:
        log_odds = rows.log_odds(trainer.architecture.n_inputs)
    else:
        outputs = parameters.order[variables.n_context :] - variables.n_context
        log_odds = rows.log_levels(variables, parameters.order)[outputs]
    if ranks.size > 1:
        told = ranks.all((log_odds, len(rows.bits)))
        log_odds = sum(found * n for found, n in told) / sum(n for _, n in told)
    parameters.start_at(log_odds)


def _orthogonal(n_in: int, n_out: int, dtype: np.dtype[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Draw an (n_in, n_out) matrix with orthonormal columns (rows, if those are fewer), uniform among all of them.

    The thin QR factorisation of a Gaussian matrix; with the signs of R's diagonal taken out it is uniform (Mezzadri 2007).
    """
    from scipy.linalg import qr  # works in single precision, which NumPy's does not, and so in a third of the time

    tall = rng.standard_normal((max(n_in, n_out), min(n_in, n_out)), dtype=dtype)
    Q: NDArray[Any]
    with blas.one_thread():
        Q, R = qr(tall, mode="economic", overwrite_a=True, check_finite=False)
    Q *= np.where(np.diagonal(R) < 0, -1, 1).astype(dtype)
    return Q if n_in >= n_out else Q.T


def check_unchanged(begun: Params, params: Params) -> None:
    """Refuse parameters that a fit cannot honour when it continues: they differ from ``begun``, see :func:`plain`."""
    for name, was in begun.items():
        if (value := params[name]) is was:  # most are; no user holds a list that stands in ``begun``, and so can change it
            continue
        now = plain(value)
        seeds = name == "random_state" and not (type(was) is type(now) is int)  # a generator's work is done
        if HYPER[name].change == FIXED and not seeds and was != now:
            raise ValueError(
                f"{name} must stay {arguments.shown(was)}, with which training began, got {arguments.shown(now)}: the network "
                "and its optimizer go on as they are. Set it back, or begin anew with a new MADE."
            )


def _constants(params: Params) -> NDArray[np.float64]:
    """Return the optimizer's [lr, a, b, eps, decay, clip], see ``made_fast.kernels.optimizers``."""
    p = checked({name: params[name] for name in ("optimizer", "optimizer_params", "weight_decay", "clip_norm")})
    optimizer = OPTIMIZERS[p["optimizer"]]
    values = dict(zip(optimizer.names, optimizer.constants, strict=True)) | p["optimizer_params"]
    values["learning_rate"] = _rate(params)
    return np.array([*(values[name] if name else 0.0 for name in optimizer.names), p["weight_decay"], p["clip_norm"] or 0.0])


def _rate(params: Params) -> float:
    """Return the learning rate, which is the optimizer's own where none is given."""
    p = checked({name: params[name] for name in ("optimizer", "learning_rate")})
    return float(OPTIMIZERS[p["optimizer"]].constants[0] if p["learning_rate"] is None else p["learning_rate"])


def schedule(params: Params, max_epochs: int) -> Callable[[int], float]:
    """Return the learning rate as a function of the epoch, which counts from 1."""
    rate, name = _rate(params), "learning_rate_schedule"
    kind = checked({name: params[name]})[name]
    if callable(kind):
        return lambda epoch: rate * arguments.non_negative_float(kind(epoch), f"the value of {name}")
    if kind == "linear":
        return lambda epoch: rate * max(0.0, 1 - (epoch - 1) / max_epochs)
    if kind == "cosine":
        return lambda epoch: rate * (1 + math.cos(math.pi * min(1.0, (epoch - 1) / max_epochs))) / 2
    return lambda epoch: rate


def notes(params: Params) -> dict[str, Any]:
    """Return the parameters that the file of a model notes; the learning rate is that of the optimizer."""
    found = {name: plain(value) for name, value in params.items() if HYPER[name].noted}
    return found | {"learning_rate": _rate(params)}


def plain(value: Any) -> Any:
    """Return a hyper-parameter as JSON can hold it; of a function its qualified name, which is the same in every process."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, type):  # np.float32, say
        return np.dtype(value).name
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, list | tuple | range):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if callable(value):
        named = value if hasattr(value, "__qualname__") else type(value)
        return f"{named.__module__}.{named.__qualname__}"
    return value if value is None or isinstance(value, str | int | float) else str(value)
