"""Small things that several test files build: models with random weights, all binary vectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from made_fast import MADEModel
from made_fast.kernels import layout as panels
from made_fast.masks import draw_connectivity


def random_model(
    n_inputs: int,
    hidden_sizes: tuple[int, ...],
    *,
    activation: str = "relu",
    dtype: str = "float64",
    ordering: str = "random",
    degrees: str = "stratified",
    seed: int = 0,
    scale: float = 2.0,
) -> MADEModel:
    """Return a model with random weights and biases, large enough that its conditionals are far from 1/2."""
    rng = np.random.default_rng(seed)
    connectivity = draw_connectivity(n_inputs, hidden_sizes, ordering, degrees, rng)
    layout = panels.make_layout(n_inputs, connectivity.staircase().n_live, activation)
    theta = panels.aligned_empty(panels.n_parameters(layout), np.dtype(dtype))
    theta[:] = rng.normal(size=len(theta))
    for l, (n_in, n_out, count, start, bias, *_) in enumerate(layout.layers):
        theta[start:bias] *= scale / np.sqrt(n_in)
        theta[bias + n_out : bias + panels.PANEL * count] = 0
        for part, dead in panels.dead_entries(theta, layout, l):
            part[dead] = 0
    return MADEModel(connectivity, theta, activation)


def all_inputs(n_inputs: int) -> NDArray[np.uint8]:
    """Return all 2^D binary vectors, (2^D, D)."""
    return ((np.arange(2**n_inputs)[:, None] >> np.arange(n_inputs)) & 1).astype(np.uint8)


def unpack_rows(bits: NDArray[np.uint64], order: NDArray[np.intp]) -> NDArray[np.uint8]:
    """Return packed rows as (n, D) in the order of the features: what ``data.pack_rows`` does, undone."""
    out = np.empty((len(bits), len(order)), np.uint8)
    out[:, order] = np.unpackbits(bits.astype("<u8").view(np.uint8), axis=1, count=len(order), bitorder="little")
    return out
