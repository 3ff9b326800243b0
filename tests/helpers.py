"""Small things that several test files build: models with random weights, all binary vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast import MADEModel
from made_fast.kernels import layout as panels
from made_fast.network.architecture import Architecture
from made_fast.network.masks import MaskRule, draw_connectivity
from made_fast.network.network import Shared


def random_model(
    n_inputs: int,
    hidden_sizes: tuple[int, ...],
    *,
    activation: str = "relu",
    dtype: str = "float64",
    ordering: str = "random",
    degrees: str = "stratified",
    direct: str = "none",
    connectivity_weights: bool = False,
    n_masks: int | None = 1,
    resample: str = "both",
    seed: int = 0,
    scale: float = 2.0,
) -> MADEModel:
    """Return a model with random parameters, large enough that its conditionals are far from 1/2.

    With ``n_masks=None`` it is one that was trained under ever fresh masks, and a mixture over 5.
    """
    rng = np.random.default_rng(seed)
    architecture = Architecture(n_inputs, hidden_sizes, activation, direct, connectivity_weights)
    rule = MaskRule(draw_connectivity(n_inputs, hidden_sizes, ordering, degrees, rng), degrees, resample)
    shared = Shared(architecture, random_parameters(architecture, dtype, rng, scale))
    if n_masks == 1 and not connectivity_weights:
        return MADEModel(shared.network(rule.base))
    return MADEModel(shared, rule.mask_set(n_masks or 5, rng), rule=rule if n_masks is None else None)


def random_parameters(architecture: Architecture, dtype: str, rng: np.random.Generator, scale: float = 2.0) -> NDArray[Any]:
    """Return random shared parameters, 0 in the fill-up: weights of N(0, scale^2 / n_in), biases of N(0, 1)."""
    values = panels.aligned_zeros(architecture.n_shared, np.dtype(dtype))
    for (n_in, n_out, *_), row in zip(architecture.layers, architecture.shared_layout, strict=True):
        starts = [
            (row[panels.SHARED_WEIGHTS], n_in, scale),
            (row[panels.SHARED_U], n_in, 0.3),
            (row[panels.SHARED_BIAS], 1, 1),
        ]
        for start, n_rows, size in starts:
            if start >= 0:
                block = values[start : start + n_rows * row[panels.ROW]].reshape(n_rows, -1)
                block[:, :n_out] = rng.normal(size=(n_rows, n_out)) * size / np.sqrt(n_rows)
    return values


def all_inputs(n_inputs: int) -> NDArray[np.uint8]:
    """Return all 2^D binary vectors, (2^D, D)."""
    return ((np.arange(2**n_inputs)[:, None] >> np.arange(n_inputs)) & 1).astype(np.uint8)


def unpack_rows(bits: NDArray[np.uint64], order: NDArray[np.intp]) -> NDArray[np.uint8]:
    """Return packed rows as (n, D) in the order of the features: what ``data.pack_rows`` does, undone."""
    out = np.empty((len(bits), len(order)), np.uint8)
    out[:, order] = np.unpackbits(bits.astype("<u8").view(np.uint8), axis=1, count=len(order), bitorder="little")
    return out
