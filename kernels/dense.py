"""What the dense reference kernels are made of: plain matrices of what panels hold, masks, and the network on them.

This file and ``reference.py`` are the only ones that build a 0/1 mask matrix or multiply by dead weights. Nothing is fast,
nothing is done in place that could be written as a formula. Not here: the kernels, their signatures and docstrings.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast.kernels.layout import (
    ACTIVATION,
    BIAS,
    DIRECT,
    N_IN,
    N_OUT,
    N_PANELS,
    PANEL,
    PANELS,
    UNITS,
    n_chain,
    n_panels,
)
from made_fast.kernels.optimizers import GRADIENT

__all__ = [
    "Bits",
    "Int32",
    "Int64",
    "Real",
    "activate",
    "derivative",
    "forward",
    "gradient_of",
    "lists_to_dense",
    "loss",
    "masks",
    "pack_layer",
    "read_buffer",
    "sigmoid",
    "to_buffer",
    "unpack_bits",
    "unpack_layer",
    "update",
    "update_layer",
    "write_buffer",
]

Real = NDArray[Any]  # float32 or float64, the same in one call
Int64 = NDArray[np.int64]
Int32 = NDArray[np.int32]
Bits = NDArray[np.uint64]

# ---------------------------------------------------------------------------------------------------------------------------
# Dense forms of panels, buffers, masks and bits
# ---------------------------------------------------------------------------------------------------------------------------


def masks(ordering: Int32, degrees: tuple[Int32, ...]) -> list[NDArray[np.uint8]]:
    """Return the L + 1 masks (n_out, n_in) in original unit order: ``>=`` hidden, ``>`` output (eqs. 12 and 13)."""
    below = [ordering, *degrees]
    hidden = [above[:, None] >= m[None, :] for above, m in zip(degrees, below, strict=False)]
    return [mask.astype(np.uint8) for mask in [*hidden, ordering[:, None] > below[-1][None, :]]]


def unpack_layer(
    theta: Real, layers: Int64, n_live: Int32, panel_start: Int64, l: int
) -> tuple[Real, NDArray[np.bool_], Real]:
    """Return dense W (n_in, n_out), its mask, and the bias (n_out,) of layer l, all in sorted order."""
    n_in, n_out = layers[l, N_IN], layers[l, N_OUT]
    dense = np.zeros((n_in, PANEL * layers[l, N_PANELS]), theta.dtype)
    live = n_live[layers[l, UNITS] :][: dense.shape[1]]
    for p in range(layers[l, N_PANELS]):
        depth = live[PANEL * p + PANEL - 1]
        start = panel_start[layers[l, PANELS] + p]
        dense[:depth, PANEL * p : PANEL * (p + 1)] = theta[start : start + PANEL * depth].reshape(depth, PANEL)
    mask = np.arange(n_in)[:, None] < live[None, :n_out]
    return dense[:, :n_out], mask, theta[layers[l, BIAS] :][:n_out]


def pack_layer(dense: Real, bias: Real, layers: Int64, n_live: Int32, panel_start: Int64, l: int, theta: Real) -> None:
    """Write the live entries of dense W (n_in, n_out) and the bias of layer l, in sorted order, to their place in theta."""
    n_out = layers[l, N_OUT]
    padded = np.zeros((layers[l, N_IN], PANEL * layers[l, N_PANELS]), theta.dtype)
    live = n_live[layers[l, UNITS] :][: padded.shape[1]]
    padded[:, :n_out] = np.where(np.arange(layers[l, N_IN])[:, None] < live[None, :n_out], dense, 0)
    for p in range(layers[l, N_PANELS]):
        depth = live[PANEL * p + PANEL - 1]
        start = panel_start[layers[l, PANELS] + p]
        theta[start : start + PANEL * depth] = padded[:depth, PANEL * p : PANEL * (p + 1)].ravel()
    theta[layers[l, BIAS] :][:n_out] = bias


def read_buffer(buffer: Real, n: int) -> Real:
    """Return the first n units of an activation buffer (panels, B, 64) as a matrix (B, n)."""
    panels, m, _ = buffer.shape
    return buffer.transpose(1, 0, 2).reshape(m, PANEL * panels)[:, :n]


def write_buffer(dense: Real, buffer: Real) -> None:
    """Write a matrix (B, n) to an activation buffer (panels, B, 64), with 0 in the fill-up units."""
    panels, m, _ = buffer.shape
    padded = np.zeros((m, PANEL * panels), buffer.dtype)
    padded[:, : dense.shape[1]] = dense
    buffer[:] = padded.reshape(m, panels, PANEL).transpose(1, 0, 2)


def unpack_bits(bits: Bits, n_columns: int) -> NDArray[np.uint8]:
    """Return the 0/1 matrix (n, n_columns)."""
    return np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little", count=n_columns)


def lists_to_dense(count: Int32, index: Int32, n_columns: int, dtype: Any) -> Real:
    """Return the 0/1 matrix (len(count), n_columns) whose row i is 1 in the columns ``index[i, :count[i]]``."""
    dense = np.zeros((len(count), n_columns), dtype)
    for row, n, ones in zip(dense, count, index, strict=True):
        row[ones[:n]] = 1
    return dense


def to_buffer(dense: Real) -> Real:
    """Return an activation buffer that holds a matrix (B, n)."""
    buffer = np.zeros((n_panels(dense.shape[1]), len(dense), PANEL), dense.dtype)
    write_buffer(dense, buffer)
    return buffer


# ---------------------------------------------------------------------------------------------------------------------------
# Activations and the loss
# ---------------------------------------------------------------------------------------------------------------------------


def activate(z: Real, code: int) -> Real:
    """Return g(z); codes as in ``layout.ACTIVATIONS``."""
    return (
        lambda: z,
        lambda: np.maximum(z, 0),
        lambda: np.logaddexp(z, z.dtype.type(0)),
        lambda: np.tanh(z),
        lambda: sigmoid(z),
        lambda: z / (1 + np.abs(z)),
    )[code]()


def derivative(h: Real, code: int) -> Real:
    """Return g'(z) as a function of h = g(z)."""
    return (
        lambda: np.ones_like(h),
        lambda: (h > 0).astype(h.dtype),
        lambda: -np.expm1(-h),
        lambda: 1 - h * h,
        lambda: h * (1 - h),
        lambda: (1 - np.abs(h)) ** 2,
    )[code]()


def sigmoid(z: Real) -> Real:
    """Return 1 / (1 + exp(-z)), of the dtype of z."""
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1 / (1 + e), e / (1 + e)).astype(z.dtype)


# ---------------------------------------------------------------------------------------------------------------------------
# The optimisers
# ---------------------------------------------------------------------------------------------------------------------------


def update_layer(
    theta: Real,
    gradient: Real,
    layers: Int64,
    panel_start: Int64,
    l: int,
    optimizer: int,
    step: int,
    hyper: NDArray[np.float64],
    state: Real,
) -> None:
    """Update layer l of theta by its part of a gradient like theta; the bias of direct connections stays as it is."""
    start, bias = panel_start[layers[l, PANELS]], layers[l, BIAS]
    stop = bias + PANEL * layers[l, N_PANELS]
    update(theta[start:bias], gradient[start:bias], optimizer, step, hyper, state[:, start:bias], decays=True)
    if layers[l, DIRECT] >= 0:
        update(theta[bias:stop], gradient[bias:stop], optimizer, step, hyper, state[:, bias:stop], decays=False)


def update(w: Real, g: Real, optimizer: int, step: int, hyper: NDArray[np.float64], state: Real, decays: bool) -> None:
    """Update w by its gradient, in place; the rules are those of ``optimizers.py``. ``decays``: weight decay applies to w."""
    lr, a, b, eps, decay, _ = (float(value) for value in hyper)
    t = step + 1
    if optimizer in (1, 2):
        lr = lr / (1 + a * step)
    if optimizer == GRADIENT:
        state[0] = g
        return
    if decays:
        w *= 1 - lr * decay
    if optimizer == 1:  # sgd
        w -= lr * g
    elif optimizer == 2:  # momentum
        state[0] = b * state[0] - lr * g
        w += state[0]
    elif optimizer == 3:  # adagrad
        state[0] += g * g
        w -= lr * g / np.sqrt(state[0] + eps)
    elif optimizer == 4:  # adadelta
        state[0] = a * state[0] + (1 - a) * g * g
        d = np.sqrt(state[1] + eps) / np.sqrt(state[0] + eps) * g
        state[1] = a * state[1] + (1 - a) * d * d
        w -= lr * d
    elif optimizer == 5:  # rmsprop
        state[0] = a * state[0] + (1 - a) * g * g
        w -= lr * g / (np.sqrt(state[0]) + eps)
    elif optimizer == 6:  # adam
        state[0] = a * state[0] + (1 - a) * g
        state[1] = b * state[1] + (1 - b) * g * g
        w -= lr * (state[0] / (1 - a**t)) / (np.sqrt(state[1] / (1 - b**t)) + eps)


# ---------------------------------------------------------------------------------------------------------------------------
# The network, its loss and its gradient
# ---------------------------------------------------------------------------------------------------------------------------


def forward(
    theta: Real, layers: Int64, n_live: Int32, panel_start: Int64, x: Real, keep: list[Real] | None = None
) -> list[Real]:
    """Return the output of every layer of the chain, the logits last, fill-up columns left out.

    ``keep[l]``, if there is dropout, is what the output of hidden layer l is multiplied by.
    """
    outputs = []
    h = x
    for l in range(n_chain(layers)):
        W, mask, b = unpack_layer(theta, layers, n_live, panel_start, l)
        z = h @ (W * mask) + b
        if direct := layers[l, DIRECT]:
            A, mask, _ = unpack_layer(theta, layers, n_live, panel_start, direct)
            z = z + x @ (A * mask)
        h = activate(z, layers[l, ACTIVATION])
        if keep and l < len(keep):
            h = h * keep[l]
        outputs.append(h)
    return outputs


def gradient_of(
    theta: Real,
    layers: Int64,
    n_live: Int32,
    panel_start: Int64,
    x: Real,
    outputs: list[Real],
    dz: Real,
    keep: list[Real] | None = None,
) -> Real:
    """Return the gradient like theta, from the gradient dz of the logits."""
    gradient = np.zeros_like(theta)
    inputs = [x, *outputs[:-1]]
    for l in reversed(range(n_chain(layers))):
        W, mask, _ = unpack_layer(theta, layers, n_live, panel_start, l)
        pack_layer((inputs[l].T @ dz) * mask, dz.sum(axis=0), layers, n_live, panel_start, l, gradient)
        if direct := layers[l, DIRECT]:
            _, direct_mask, _ = unpack_layer(theta, layers, n_live, panel_start, direct)
            pack_layer((x.T @ dz) * direct_mask, 0 * dz[0], layers, n_live, panel_start, direct, gradient)
        if l and keep:
            h = np.divide(inputs[l], keep[l - 1], out=np.zeros_like(inputs[l]), where=keep[l - 1] != 0)
            dz = (dz @ (W * mask).T) * keep[l - 1] * derivative(h, layers[l - 1, ACTIVATION])
        elif l:
            dz = (dz @ (W * mask).T) * derivative(inputs[l], layers[l - 1, ACTIVATION])
    return gradient


def loss(logits: Real, x: Real, n_places: int, weights: NDArray[np.float64], n_rows: int) -> tuple[float, Real]:
    """Return the weighted sum of the rows' NLL and the gradient of it, divided by n_rows, with respect to the logits."""
    a = logits.astype(np.float64)
    counts = np.arange(x.shape[1]) < n_places
    nll = (np.logaddexp(0, np.where(x == 1, -a, a)) * counts).sum(axis=1)
    return float(weights @ nll), (weights / n_rows).astype(logits.dtype)[:, None] * (sigmoid(logits) - x) * counts
