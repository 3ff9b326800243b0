"""From hyper-parameters to a trainer: every value is checked, every random number that a fit begins with is drawn.

``params`` are those of ``MADE``, by name. Not here: what they are and mean (``parameters.py``), data, the fit itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast.kernels.optimizers import OPTIMIZERS
from made_fast.network.masks import MaskRule, MaskSet, draw_connectivity
from made_fast.network.network import Architecture, Shared
from made_fast.tables import arguments
from made_fast.training import training
from made_fast.training.parameters import FIXED, PARAMETERS
from made_fast.training.trainers import FixedTrainer, SharedTrainer, Trainer

__all__ = ["check_unchanged", "checked", "hyper", "notes", "plain", "schedule", "start"]

Params = Mapping[str, Any]


def checked(params: Params, n_features: int | None = None, called: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Check parameters of ``MADE`` and return them as their checks do.

    ``n_features`` is for the ordering, if it is a sequence; ``called`` is what error texts call the parameters.
    """
    found = {}
    for name, value in params.items():
        about, shown = PARAMETERS[name], (called or {}).get(name, name)
        more: tuple[Any, ...] = (shown, about.choices) if about.check.startswith("choice") else (shown,)
        if name == "ordering":
            more = (n_features,)
        elif name == "optimizer_params":
            rule = OPTIMIZERS[arguments.choice(params["optimizer"], "optimizer", PARAMETERS["optimizer"].choices)]
            more = shown, [constant for constant in rule.names[1:] if constant]
        found[name] = None if value is None and about.optional else getattr(arguments, about.check)(value, *more)
    return found


def start(params: Params, n_features: int, missing: bool) -> tuple[Trainer, int]:
    """Check all parameters; return a trainer for rows of so many features, and a seed for splitting them.

    ``missing``: rows have missing entries, which takes orderings that vary. The trainer is the fixed one where it will do.
    """
    p, numbers = checked(params, n_features), hyper(params)
    hidden_sizes, direct, degrees, n_masks = p["hidden_sizes"], p["direct_connections"], p["degrees"], p["n_masks"]
    architecture = Architecture(n_features, hidden_sizes, p["activation"], direct, p["connectivity_weights"])
    # Each kind of draw has a stream of its own: what one uses up does not change the others.
    for_masks, for_weights, for_shuffling, for_fresh, for_noise, for_splitting = p["random_state"].spawn(6)
    base = draw_connectivity(n_features, hidden_sizes, p["ordering"], degrees, for_masks)
    rule = MaskRule(base, degrees, p["resample"])
    masks = MaskSet.of([base]) if n_masks == 1 else rule.mask_set(n_masks or p["n_eval_masks"], for_masks)
    parameters = training.initial_parameters(architecture, p["weight_init"], p["dtype"], for_weights)
    optimizer, dropout = OPTIMIZERS[p["optimizer"]], p["dropout"]
    trainer: Trainer
    if n_masks == 1 and not (architecture.connectivity_weights or dropout or p["clip_norm"] or missing):
        theta = Shared(architecture, parameters).network(base).theta
        trainer = FixedTrainer(architecture, masks, theta, optimizer, numbers, for_shuffling)
    else:
        fresh = rule if n_masks is None else None
        trainer = SharedTrainer(
            architecture, masks, parameters, optimizer, numbers, for_shuffling, fresh, for_fresh, for_noise, dropout
        )
    return trainer, int(for_splitting.integers(2**63))


def check_unchanged(begun: Params, params: Params) -> None:
    """Refuse parameters that a fit that goes on could not honour: they differ from those, as :func:`plain`, it began with."""
    for name, was in begun.items():
        now = plain(params[name])
        seeds = name == "random_state" and not (type(was) is type(now) is int)  # a generator's work is done
        if PARAMETERS[name].change == FIXED and not seeds and was != now:
            raise ValueError(
                f"{name} must stay {arguments.shown(was)}, with which training began, got {arguments.shown(now)}: the network "
                "and its optimizer go on as they are. Set it back, or begin anew with a new MADE."
            )


def hyper(params: Params) -> NDArray[np.float64]:
    """Return the optimizer's [lr, a, b, eps, decay, clip], see ``made_fast.kernels.optimizers``."""
    names = ("optimizer", "optimizer_params", "learning_rate", "weight_decay", "clip_norm")
    p = checked({name: params[name] for name in names})
    rule = OPTIMIZERS[p["optimizer"]]
    values = dict(zip(rule.names, rule.hyper, strict=True)) | p["optimizer_params"]
    if p["learning_rate"] is not None:
        values["learning_rate"] = p["learning_rate"]
    return np.array([*(values[name] if name else 0.0 for name in rule.names), p["weight_decay"], p["clip_norm"] or 0.0])


def schedule(params: Params, max_epochs: int) -> Callable[[int], float]:
    """Return the learning rate as a function of the epoch, which counts from 1."""
    rate, name = float(hyper(params)[0]), "learning_rate_schedule"
    kind = checked({name: params[name]})[name]
    if callable(kind):
        return lambda epoch: rate * arguments.non_negative_float(kind(epoch), f"the value of {name}")
    if kind == "linear":
        return lambda epoch: rate * max(0.0, 1 - (epoch - 1) / max_epochs)
    if kind == "cosine":
        return lambda epoch: rate * (1 + math.cos(math.pi * min(1.0, (epoch - 1) / max_epochs))) / 2
    return lambda epoch: rate


def notes(params: Params) -> dict[str, Any]:
    """Return the parameters that the file of a model notes; the learning rate is the one that the optimizer has."""
    found = {name: plain(value) for name, value in params.items() if PARAMETERS[name].noted}
    return found | {"learning_rate": float(hyper(params)[0])}


def plain(value: Any) -> Any:
    """Return a hyper-parameter as JSON can hold it."""
    if isinstance(value, type):  # np.float32, say
        return np.dtype(value).name
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, list | tuple | range):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    return value if value is None or isinstance(value, str | int | float) else str(value)
