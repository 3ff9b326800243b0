"""The settings that ``preset="best"`` tries. Not here: in which order and for how long, and what is chosen (``search.py``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from made_fast.training import recipe

__all__ = ["Setting", "alternatives", "fresh_masks", "several_masks", "two_layers"]

Setting = dict[str, Any]
"""Parameters of ``MADE`` that replace those that are given."""

SHARES = 1.0, 0.6
"""Shares of the given width that are tried for two layers: often a narrower one is nearly as good, and twice as fast."""

TWO_LAYERS: Setting = {"n_masks": 8, "dropout": 0.0, "direct_connections": "none", "averaging": 0.8, "latent_points": 1}
"""Several masks keep two layers from learning the rows by heart: neither dropout nor direct connections are of use then."""

RATE = "optimizer", "learning_rate", "optimizer_params"
"""What was found for one mask and is no guide for masks that vary."""


def alternatives(params: Mapping[str, Any]) -> Iterator[Callable[[Mapping[str, Any]], list[Setting]]]:
    """Yield the ingredients in turn: functions from the best parameters so far to the settings to try against them.

    ``params`` are those that the walk begins with.
    """
    hidden = bool(len(params["hidden_sizes"]))
    if hidden:
        yield lambda p: [{"dropout": rate} for rate in (0.0, 0.25, 0.5) if rate != p["dropout"]]
    if params["optimizer"] == "adam":
        yield lambda p: [{"weight_decay": rate} for rate in (0.2, 1.0)]
        adagrad = {"optimizer": "adagrad", "learning_rate": 0.02, "optimizer_params": None}
        yield lambda p: [{**adagrad, "weight_decay": rate} for rate in (0.0, 0.03, 0.1, 0.3)]
    if hidden:
        yield lambda p: [{"hidden_sizes": tuple(times * int(size) for size in p["hidden_sizes"])} for times in (2, 4)]
    yield lambda p: [{"batch_size": max(1, p["batch_size"] // 2)}]
    yield lambda p: [{"averaging": share} for share in (0.5, 0.8) if share != p["averaging"]]
    yield lambda p: [{"learning_rate": times * recipe.schedule(p, 1)(1)} for times in (0.3, 3.0)]
    yield lambda p: [{"direct_connections": "none" if p["direct_connections"] == "output" else "output"}] if hidden else []


def two_layers(params: Mapping[str, Any]) -> list[Setting]:
    """Return two hidden layers under several masks, as wide as given and narrower; nothing if there is no hidden layer."""
    sizes = tuple(map(int, params["hidden_sizes"]))
    sizes = sizes * 2 if len(sizes) == 1 else sizes
    narrower = [tuple(max(1, round(share * size)) for size in sizes) for share in SHARES]
    return [TWO_LAYERS | {"hidden_sizes": each} for each in narrower] if sizes else []


def several_masks(chosen: Setting) -> list[Setting]:
    """Return what is chosen, under masks that take turns."""
    return [chosen | {"n_masks": n, "latent_points": 1} for n in (8, 32)]


def fresh_masks(chosen: Setting) -> list[Setting]:
    """Return ever fresh masks, with what is chosen and without."""
    fresh: Setting = {"n_masks": None, "n_eval_masks": 64, "patience": 100, "latent_points": 1}
    kept = {name: value for name, value in chosen.items() if name not in RATE}
    return [kept | fresh, fresh, {**fresh, "dropout": 0.5}]
