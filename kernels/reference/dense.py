"""What the dense reference kernels are made of: plain matrices of what panels hold, masks, and the network on them.

Only this package builds a 0/1 mask matrix or multiplies by dead weights. Nothing is fast, nothing is done in place that could
be written as a formula. Not here: the kernels, their signatures and docstrings.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast.kernels import layout as at
from made_fast.kernels.layout import PANEL, n_chain, n_panels
from made_fast.kernels.optimizers import ADADELTA, ADAGRAD, ADAM, GRADIENT, MOMENTUM, RMSPROP, SGD
from made_fast.kernels.records import Batches, Dropout, Net, Update

__all__ = [
    "Bits", "Int32", "Int64", "Real", "activate", "clipped", "coded", "dense_inputs", "derivative", "forward", "gradient_of",
    "kept", "levels_of", "log_levels", "loss", "masks", "pack_layer", "probabilities", "read_buffer", "row_nll",
    "row_weights", "sigmoid", "spans", "to_buffer", "unpack_bits", "unpack_layer", "update", "update_layer", "write_buffer",
]  # fmt: skip

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


def unpack_layer(net: Net, l: int) -> tuple[Real, NDArray[np.bool_], Real]:
    """Return dense W (n_in, n_out), its mask, and the bias (n_out,) of layer l, all in sorted order."""
    layer = net.layers[l]
    dense = np.zeros((layer[at.N_IN], PANEL * layer[at.N_PANELS]), net.theta.dtype)
    for p, panel in enumerate(_panels(net, l)):
        dense[: len(panel), PANEL * p : PANEL * (p + 1)] = panel
    mask = np.arange(layer[at.N_IN])[:, None] < net.n_live[layer[at.UNITS] :][: layer[at.N_OUT]]
    return dense[:, : layer[at.N_OUT]], mask, net.theta[layer[at.BIAS] :][: layer[at.N_OUT]]


def pack_layer(net: Net, l: int, dense: Real, bias: Real) -> None:
    """Write the live entries of dense W (n_in, n_out) and the bias of layer l, in sorted order, to their place in theta."""
    layer = net.layers[l]
    n_out = layer[at.N_OUT]
    padded = np.zeros((layer[at.N_IN], PANEL * layer[at.N_PANELS]), net.theta.dtype)
    padded[:, :n_out] = np.where(np.arange(layer[at.N_IN])[:, None] < net.n_live[layer[at.UNITS] :][:n_out], dense, 0)
    for p, panel in enumerate(_panels(net, l)):
        panel[:] = padded[: len(panel), PANEL * p : PANEL * (p + 1)]
    net.theta[layer[at.BIAS] :][:n_out] = bias


def _panels(net: Net, l: int) -> list[Real]:
    """Return the panels of layer l, (depth, 64) each, as views of theta."""
    layer = net.layers[l]
    depths = net.n_live[layer[at.UNITS] :][PANEL - 1 : PANEL * layer[at.N_PANELS] : PANEL]
    starts = net.panel_start[layer[at.PANELS] :]
    return [net.theta[start:][: PANEL * depth].reshape(depth, PANEL) for start, depth in zip(starts, depths, strict=False)]


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


def dense_inputs(x: Real | Bits, n: int, by_column: int = 0) -> Real:
    """Return an input as a matrix (B, n), from an activation buffer or from the bits of each row.

    With ``by_column``, which is then B, bits are those of each column.
    """
    if x.dtype != np.uint64:
        return read_buffer(x, n)
    return unpack_bits(x, by_column).T if by_column else unpack_bits(x, n)


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


def update_layer(net: Net, l: int, gradient: Real, step: Update) -> None:
    """Update layer l of theta by its part of a gradient like theta; the bias of direct connections stays as it is."""
    weights, bias, n_panels, direct = net.layers[l, [at.WEIGHTS, at.BIAS, at.N_PANELS, at.DIRECT]]
    biases = slice(bias, bias + PANEL * n_panels if direct >= 0 else bias)
    for part, decays in ((slice(weights, bias), True), (biases, False)):
        update(net.theta[part], gradient[part], step._replace(state=step.state[:, part]), decays)


def update(w: Real, g: Real, step: Update, decays: bool) -> None:
    """Update w by its gradient, in place, as written in ``optimizers.py``. ``decays``: weight decay applies to w."""
    optimizer, before, constants, state = step
    lr, a, b, eps, decay, _ = (float(value) for value in constants)
    t = before + 1
    if optimizer in (SGD, MOMENTUM):
        lr = lr / (1 + a * before)
    if optimizer == GRADIENT:
        state[0] = g
        return
    if decays:
        w *= 1 - lr * decay
    if optimizer == SGD:
        w -= lr * g
    elif optimizer == MOMENTUM:
        state[0] = b * state[0] - lr * g
        w += state[0]
    elif optimizer == ADAGRAD:
        state[0] += g * g
        w -= lr * g / np.sqrt(state[0] + eps)
    elif optimizer == ADADELTA:
        state[0] = a * state[0] + (1 - a) * g * g
        d = np.sqrt(state[1] + eps) / np.sqrt(state[0] + eps) * g
        state[1] = a * state[1] + (1 - a) * d * d
        w -= lr * d
    elif optimizer == RMSPROP:
        state[0] = a * state[0] + (1 - a) * g * g
        w -= lr * g / (np.sqrt(state[0]) + eps)
    elif optimizer == ADAM:
        state[0] = a * state[0] + (1 - a) * g
        state[1] = b * state[1] + (1 - b) * g * g
        w -= lr * (state[0] / (1 - a**t)) / (np.sqrt(state[1] / (1 - b**t)) + eps)


def clipped(gradient: Real, clip: float) -> Real:
    """Return a gradient scaled down to the norm ``clip``, if it is longer; 0 is no limit."""
    norm = np.sqrt((gradient.astype(np.float64) ** 2).sum())
    return gradient * gradient.dtype.type(clip / norm) if 0 < clip < norm else gradient


# ---------------------------------------------------------------------------------------------------------------------------
# The network, its loss and its gradient
# ---------------------------------------------------------------------------------------------------------------------------


def forward(net: Net, x: Real, keep: list[Real] | None = None) -> list[Real]:
    """Return the output of every layer of the chain, the logits last, fill-up columns left out.

    ``keep[l]``, if there is dropout, is what the output of hidden layer l is multiplied by.
    """
    outputs = []
    h = x
    for l in range(n_chain(net.layers)):
        W, mask, b = unpack_layer(net, l)
        z = h @ (W * mask) + b
        if direct := net.layers[l, at.DIRECT]:
            A, mask, _ = unpack_layer(net, direct)
            z = z + x @ (A * mask)
        h = activate(z, net.layers[l, at.ACTIVATION])
        if keep and l < len(keep):
            h = h * keep[l]
        outputs.append(h)
    return outputs


def gradient_of(net: Net, x: Real, outputs: list[Real], dz: Real, keep: list[Real] | None = None) -> Real:
    """Return the gradient like theta, from the gradient dz of the logits."""
    gradient = net._replace(theta=np.zeros_like(net.theta))
    inputs = [x, *outputs[:-1]]
    for l in reversed(range(n_chain(net.layers))):
        W, mask, _ = unpack_layer(net, l)
        pack_layer(gradient, l, inputs[l].T @ dz, dz.sum(axis=0))
        if direct := net.layers[l, at.DIRECT]:
            pack_layer(gradient, direct, x.T @ dz, 0 * dz[0])
        if l and keep:
            h = np.divide(inputs[l], keep[l - 1], out=np.zeros_like(inputs[l]), where=keep[l - 1] != 0)
            dz = (dz @ (W * mask).T) * keep[l - 1] * derivative(h, net.layers[l - 1, at.ACTIVATION])
        elif l:
            dz = (dz @ (W * mask).T) * derivative(inputs[l], net.layers[l - 1, at.ACTIVATION])
    return gradient.theta


def kept(layers: Int64, dropout: Dropout, rows: slice, dtype: Any) -> list[Real] | None:
    """Return what the output of each hidden layer is multiplied by for some rows; None without dropout."""
    if not len(dropout.keep):
        return None
    factors, word = [], 0
    for layer in layers[: n_chain(layers) - 1]:
        words = np.ascontiguousarray(dropout.keep[rows, word : word + layer[at.N_PANELS]])
        factors.append(unpack_bits(words, layer[at.N_OUT]).astype(dtype) * dtype.type(1 / (1 - dropout.rate)))
        word += layer[at.N_PANELS]
    return factors


def row_weights(batches: Batches, rows: Int64) -> NDArray[np.float64]:
    """Return the weights of some rows."""
    return batches.weights[rows] if len(batches.weights) else np.ones(len(rows))


def spans(net: Net) -> list[slice]:
    """Return where the logits of each variable stand, in order of place."""
    table = net.variables[:, at.START].tolist() or list(range(net.layers[0, at.N_IN] + 1))
    return [slice(start - table[0], stop - table[0]) for start, stop in pairwise(table)]


def levels_of(net: Net, x: Real) -> Int64:
    """Return the level of each variable of rows of inputs, (n, V): that of its last indicator that is 1, in either coding."""
    found = np.zeros((len(x), len(spans(net))), np.int64)
    for v, (span, mine) in enumerate(zip(spans(net), _indicators(net, x), strict=True)):
        width = span.stop - span.start
        if width == 1:
            found[:, v] = mine[:, 0] == 1
        elif width:
            found[:, v] = width - 1 - np.argmax(mine[:, ::-1] == 1, axis=1)
    return found


def _indicators(net: Net, x: Real) -> list[Real]:
    context = net.variables[0, at.START] if len(net.variables) else 0
    return [x[:, context + span.start : context + span.stop] for span in spans(net)]


def coded(net: Net, v: int, levels: Int64) -> NDArray[np.uint8]:
    """Return the indicators of variable v for some levels, (n, width)."""
    width = spans(net)[v].stop - spans(net)[v].start
    if width < 2:
        return np.asarray((levels == 1).astype(np.uint8)[:, None][:, :width])
    each, thermometer = np.arange(width), net.variables[v, at.CODING] == at.THERMOMETER
    return (each <= levels[:, None] if thermometer else each == levels[:, None]).astype(np.uint8)


def log_levels(net: Net, logits: Real) -> list[NDArray[np.float64]]:
    """Return the log-probabilities of the levels of each variable, (n, levels) float64 each."""
    found = []
    for span in spans(net):
        a = logits[:, span].astype(np.float64)
        if a.shape[1] == 1:
            found.append(-np.logaddexp(0, np.concatenate([a, -a], axis=1)))
        else:
            found.append(a - np.logaddexp.reduce(a, axis=1, keepdims=True) if a.shape[1] else np.zeros((len(a), 1)))
    return found


def probabilities(net: Net, logits: Real) -> Real:
    """Return the probability that each indicator of a one-hot coding is 1, (n, logits), of the dtype of the logits."""
    proba = sigmoid(logits)
    for span, log_p in zip(spans(net), log_levels(net, logits), strict=True) if len(net.variables) else ():
        if span.stop - span.start > 1:
            proba[:, span] = np.exp(log_p)
    return proba


def row_nll(net: Net, logits: Real, x: Real, n_places: int) -> NDArray[np.float64]:
    """Return the NLL of each row over the first n_places places."""
    if not len(net.variables):
        a = logits.astype(np.float64)
        return (np.logaddexp(0, np.where(x == 1, -a, a)) * (np.arange(x.shape[1]) < n_places)).sum(axis=1)  # type: ignore[no-any-return]
    each, total = np.arange(len(x)), np.zeros(len(x))
    for log_p, level in list(zip(log_levels(net, logits), levels_of(net, x).T, strict=True))[:n_places]:
        total -= log_p[each, level]
    return total


def loss(net: Net, logits: Real, x: Real, n_places: int, weights: NDArray[np.float64], n_rows: int) -> tuple[float, Real]:
    """Return the weighted sum of the rows' NLL and the gradient of it, divided by n_rows, with respect to the logits."""
    nll, found, target = row_nll(net, logits, x, n_places), spans(net), x
    if len(net.variables):
        levels, one_hot = levels_of(net, x), net._replace(variables=net.variables * np.array([1, 0], np.int32))
        target = np.concatenate([coded(one_hot, v, levels[:, v]) for v in range(len(found))], axis=1)
    counts = np.arange(logits.shape[1]) < (found[n_places - 1].stop if n_places else 0)
    gradient = (probabilities(net, logits) - target.astype(logits.dtype)) * counts
    return float(weights @ nll), (weights / n_rows).astype(logits.dtype)[:, None] * gradient
