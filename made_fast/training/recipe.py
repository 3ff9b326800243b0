"""From hyper-parameters to a trainer: every value is checked, every random number that a fit begins with is drawn.

``params`` are those of ``MADE``, by name; what they mean stands there. Not here: data, the fit itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast.kernels.layout import ACTIVATIONS
from made_fast.kernels.optimizers import OPTIMIZERS
from made_fast.network.masks import DEGREE_RULES, DIRECT_CONNECTIONS, RESAMPLE, MaskRule, MaskSet, draw_connectivity
from made_fast.network.network import Architecture, Shared
from made_fast.tables import arguments
from made_fast.training import training
from made_fast.training.trainers import FixedTrainer, SharedTrainer, Trainer

__all__ = ["SCHEDULES", "check_unchanged", "hyper", "notes", "plain", "schedule", "start"]

SCHEDULES = ("constant", "linear", "cosine")

MAY_CHANGE = (
    "batch_size", "learning_rate", "learning_rate_schedule", "max_epochs", "n_threads", "n_val_masks", "patience",
    "validation_fraction", "verbose",
)  # fmt: skip
"""The parameters that a fit looks at whenever it goes on; all others are in the trainer that it began with."""

NOT_NOTED = ("random_state", "verbose", "n_threads", "binarize", "ordering")

Params = Mapping[str, Any]


def start(params: Params, n_features: int, missing: bool) -> tuple[Trainer, int]:
    """Return a trainer for rows of so many features, and a seed for splitting them.

    ``missing``: rows have missing entries, which takes orderings that vary. The trainer is the fixed one where it will do.
    """
    architecture = Architecture(
        n_features,
        arguments.hidden_sizes(params["hidden_sizes"]),
        arguments.choice(params["activation"], "activation", ACTIVATIONS[1:]),
        arguments.choice(params["direct_connections"], "direct_connections", DIRECT_CONNECTIONS),
        arguments.boolean(params["connectivity_weights"], "connectivity_weights"),
    )
    ordering = arguments.ordering(params["ordering"], n_features)
    degrees = arguments.choice(params["degrees"], "degrees", DEGREE_RULES)
    resample = arguments.choice(params["resample"], "resample", RESAMPLE)
    n_masks = params["n_masks"]
    if n_masks is not None:
        n_masks = arguments.positive_int(n_masks, "n_masks", largest=arguments.MOST)
    n_eval_masks = arguments.positive_int(params["n_eval_masks"], "n_eval_masks", largest=arguments.MOST)
    dropout = arguments.probability(params["dropout"], "dropout")
    weight_init = arguments.choice(params["weight_init"], "weight_init", training.WEIGHT_INITS)
    dtype, numbers = arguments.dtype(params["dtype"]), hyper(params)
    optimizer = OPTIMIZERS[params["optimizer"]]
    # Each kind of draw has a stream of its own: what one uses up does not change the others.
    rng = arguments.generator(params["random_state"])
    for_masks, for_weights, for_shuffling, for_fresh, for_noise, for_splitting = rng.spawn(6)
    base = draw_connectivity(n_features, architecture.hidden_sizes, ordering, degrees, for_masks)
    rule = MaskRule(base, degrees, resample)
    masks = MaskSet.of([base]) if n_masks == 1 else rule.mask_set(n_masks or n_eval_masks, for_masks)
    parameters = training.initial_parameters(architecture, weight_init, dtype, for_weights)
    trainer: Trainer
    if n_masks == 1 and not (architecture.connectivity_weights or dropout or params["clip_norm"] or missing):
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
        if name not in MAY_CHANGE and not seeds and was != now:
            raise ValueError(
                f"{name} must stay {arguments.shown(was)}, with which training began, got {arguments.shown(now)}: the network "
                "and its optimizer go on as they are. Set it back, or begin anew with a new MADE."
            )


def hyper(params: Params) -> NDArray[np.float64]:
    """Return the optimizer's [lr, a, b, eps, decay, clip], see ``made_fast.kernels.optimizers``."""
    rule = OPTIMIZERS[arguments.choice(params["optimizer"], "optimizer", tuple(OPTIMIZERS))]
    values = dict(zip(rule.names, rule.hyper, strict=True))
    known = [name for name in rule.names[1:] if name]
    values |= arguments.constants(params["optimizer_params"], "optimizer_params", known)
    if params["learning_rate"] is not None:
        values["learning_rate"] = arguments.positive_float(params["learning_rate"], "learning_rate")
    decay = arguments.non_negative_float(params["weight_decay"], "weight_decay")
    clip = 0.0 if params["clip_norm"] is None else arguments.positive_float(params["clip_norm"], "clip_norm")
    return np.array([*(values[name] if name else 0.0 for name in rule.names), decay, clip])


def schedule(params: Params, max_epochs: int) -> Callable[[int], float]:
    """Return the learning rate as a function of the epoch, which counts from 1."""
    rate, kind = float(hyper(params)[0]), params["learning_rate_schedule"]
    if callable(kind):
        return lambda epoch: rate * arguments.non_negative_float(kind(epoch), "the value of learning_rate_schedule")
    arguments.choice(kind, "learning_rate_schedule", SCHEDULES)
    if kind == "linear":
        return lambda epoch: rate * max(0.0, 1 - (epoch - 1) / max_epochs)
    if kind == "cosine":
        return lambda epoch: rate * (1 + math.cos(math.pi * min(1.0, (epoch - 1) / max_epochs))) / 2
    return lambda epoch: rate


def notes(params: Params) -> dict[str, Any]:
    """Return what a model remembers of them: those that say how it came to be and that its file does not say otherwise."""
    found = {name: plain(value) for name, value in params.items() if name not in NOT_NOTED}
    return found | {"learning_rate": float(hyper(params)[0])}


def plain(value: Any) -> Any:
    """Return a hyper-parameter as JSON knows it."""
    if isinstance(value, type):  # np.float32, say
        return np.dtype(value).name
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, list | tuple | range):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    return value if value is None or isinstance(value, str | int | float) else str(value)
