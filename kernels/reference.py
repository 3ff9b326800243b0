"""Dense NumPy kernels: slow, obviously right. The oracle of the tests.

This is the only file that builds a 0/1 mask matrix or multiplies by dead weights. Every kernel of the other two
implementations has its twin here, under the same name and signature; nothing is fast, nothing is done in place that could
be written as a formula. Letters and array conventions: see ``made_fast.kernels``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast.kernels.layout import ACTIVATION, BIAS, N_IN, N_OUT, N_PANELS, PANEL, PANELS, UNITS, n_panels
from made_fast.kernels.optimizers import GRADIENT

__all__ = [
    "affine_backward_input",
    "affine_backward_weights",
    "affine_backward_weights_sparse",
    "affine_forward",
    "affine_forward_sparse",
    "bernoulli_nll",
    "conditionals",
    "list_ones",
    "list_rows",
    "masks",
    "pack_layer",
    "read_buffer",
    "sample",
    "score",
    "train",
    "unpack_layer",
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


def _lists_to_dense(count: Int32, index: Int32, n_columns: int, dtype: Any) -> Real:
    dense = np.zeros((len(count), n_columns), dtype)
    for row, n, ones in zip(dense, count, index, strict=True):
        row[ones[:n]] = 1
    return dense


def _to_buffer(dense: Real) -> Real:
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
        lambda: _sigmoid(z),
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


def _sigmoid(z: Real) -> Real:
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1 / (1 + e), e / (1 + e)).astype(z.dtype)


# ---------------------------------------------------------------------------------------------------------------------------
# Kernels: one step of the network
# ---------------------------------------------------------------------------------------------------------------------------


def list_ones(bits: Bits, n_columns: int, count: Int32, index: Int32) -> None:
    """List the ones of each row: ``index[i, :count[i]]`` are the columns where row i is 1, ascending.

    bits (n, W) IN; count (n,) OUT; index (n, n_columns) OUT, entries from ``count[i]`` on are not written.
    """
    for i, row in enumerate(unpack_bits(bits, n_columns)):
        ones = np.flatnonzero(row)
        count[i] = len(ones)
        index[i, : len(ones)] = ones


def list_rows(bits: Bits, n_columns: int, count: Int32, index: Int32) -> None:
    """List the ones of each column: ``index[p, :count[p]]`` are the rows where column p is 1, ascending.

    bits (n, W) IN; count (n_columns,) OUT; index (n_columns, n) OUT.
    """
    for p, column in enumerate(unpack_bits(bits, n_columns).T):
        ones = np.flatnonzero(column)
        count[p] = len(ones)
        index[p, : len(ones)] = ones


def affine_forward(theta: Real, layers: Int64, n_live: Int32, panel_start: Int64, l: int, x: Real, out: Real) -> None:
    """Masked affine layer with its activation: ``out = g(x (W * M) + b)`` (eqs. 9 and 10).

    x (panels, B, 64) of n_in units IN; out (panels, B, 64) of n_out units OUT, units from n_out on hold nothing of use.
    """
    W, mask, b = unpack_layer(theta, layers, n_live, panel_start, l)
    n_in = layers[l, N_IN]
    write_buffer(activate(read_buffer(x, n_in) @ (W * mask) + b, layers[l, ACTIVATION]), out)


def affine_forward_sparse(
    theta: Real,
    layers: Int64,
    n_live: Int32,
    panel_start: Int64,
    l: int,
    count: Int32,
    index: Int32,
    out: Real,
) -> None:
    """Do ``affine_forward`` on binary input given by its ones: count (B,), index (B, n_in) as from ``list_ones``."""
    x = _to_buffer(_lists_to_dense(count, index, layers[l, N_IN], theta.dtype))
    affine_forward(theta, layers, n_live, panel_start, l, x, out)


def bernoulli_nll(logits: Real, bits: Bits, n_columns: int, scale: float, nll: NDArray[np.float64], dlogits: Real) -> None:
    """Negative log-likelihood of each row in nats and its gradient (eq. 4, from logits).

    ``nll[b] = sum_d log(1 + exp(a_bd)) - x_bd a_bd`` and ``dlogits = scale (sigmoid(a) - x)``.

    logits (panels, B, 64) of D units IN; bits (B, W) IN; nll (B,) float64 OUT; dlogits (panels, B, 64) OUT, 0 in the fill-up
    units.
    """
    a = read_buffer(logits, n_columns)
    x = unpack_bits(bits, n_columns)
    nll[:] = np.logaddexp(0, np.where(x == 1, -a, a).astype(np.float64)).sum(axis=1)
    write_buffer(scale * (_sigmoid(a) - x), dlogits)


def affine_backward_input(
    theta: Real, layers: Int64, n_live: Int32, panel_start: Int64, l: int, dz: Real, h: Real, dh: Real
) -> None:
    """Gradient of layer l's input, taken on through the activation that made it.

    In the forward pass this was ``z_l = h (W * M) + b`` with ``h = g(z_{l-1})``; so now
    ``dh = dz (W * M)^T * g'(z_{l-1})``, the gradient of z_{l-1}.

    dz (panels, B, 64) of n_out units IN; h (panels, B, 64) of n_in units IN; dh like h OUT, 0 in the fill-up units.
    """
    W, mask, _ = unpack_layer(theta, layers, n_live, panel_start, l)
    n_in, n_out = W.shape
    write_buffer((read_buffer(dz, n_out) @ (W * mask).T) * derivative(read_buffer(h, n_in), layers[l - 1, ACTIVATION]), dh)


def affine_backward_weights(
    theta: Real,
    layers: Int64,
    n_live: Int32,
    panel_start: Int64,
    l: int,
    x: Real,
    dz: Real,
    optimizer: int,
    step: int,
    hyper: NDArray[np.float64],
    state: Real,
) -> None:
    """Gradient of layer l's weights and bias, and the optimiser's update with it.

    In the forward pass this was ``z = x (W * M) + b``; so now ``dW = (x^T dz) * M`` and ``db = sum_b dz_b``.

    theta IN OUT; x (panels, B, 64) of n_in units IN; dz (panels, B, 64) of n_out units IN, 0 in the fill-up units;
    optimizer, hyper (4,), state (n_state, len(theta)) IN OUT: see ``optimizers.py``; step: updates made before this one.
    """
    rows, d = read_buffer(x, layers[l, N_IN]), read_buffer(dz, layers[l, N_OUT])
    _, mask, _ = unpack_layer(theta, layers, n_live, panel_start, l)
    gradient = np.zeros_like(theta)
    pack_layer((rows.T @ d) * mask, d.sum(axis=0), layers, n_live, panel_start, l, gradient)
    start, stop = panel_start[layers[l, PANELS]], layers[l, BIAS] + PANEL * layers[l, N_PANELS]
    _update(theta[start:stop], gradient[start:stop], optimizer, step, hyper, state[:, start:stop])


def affine_backward_weights_sparse(
    theta: Real,
    layers: Int64,
    n_live: Int32,
    panel_start: Int64,
    l: int,
    count: Int32,
    index: Int32,
    dz: Real,
    optimizer: int,
    step: int,
    hyper: NDArray[np.float64],
    state: Real,
) -> None:
    """Do ``affine_backward_weights`` on binary input given by place: count (n_in,), index (n_in, B) as from ``list_rows``."""
    x = _to_buffer(_lists_to_dense(count, index, dz.shape[1], theta.dtype).T)
    affine_backward_weights(theta, layers, n_live, panel_start, l, x, dz, optimizer, step, hyper, state)


def _update(w: Real, g: Real, optimizer: int, step: int, hyper: NDArray[np.float64], state: Real) -> None:
    lr, a, b, eps = (float(value) for value in hyper)
    t = step + 1
    if optimizer == GRADIENT:
        state[0] = g
    elif optimizer == 1:  # sgd
        w -= lr / (1 + a * step) * g
    elif optimizer == 2:  # momentum
        state[0] = b * state[0] - lr / (1 + a * step) * g
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
# Kernels: the whole network
# ---------------------------------------------------------------------------------------------------------------------------


def _forward(theta: Real, layers: Int64, n_live: Int32, panel_start: Int64, x: Real) -> list[Real]:
    """Return the output of every layer, the logits last, fill-up columns left out."""
    outputs = []
    for l in range(len(layers)):
        W, mask, b = unpack_layer(theta, layers, n_live, panel_start, l)
        x = activate(x @ (W * mask) + b, layers[l, ACTIVATION])
        outputs.append(x)
    return outputs


def score(
    theta: Real,
    layers: Int64,
    n_live: Int32,
    panel_start: Int64,
    bits: Bits,
    sparse: bool,
    block: int,
    reals: Real,
    ints: Int32,
    log_p: NDArray[np.float64],
) -> None:
    """Log-likelihood of each row in nats: ``log p(x) = sum_d log p(x_d | x_<d)`` (eq. 5).

    bits (n, W) IN, in order of place; sparse: read the first layer's input by its ones rather than as numbers (the same
    bits come out); block: rows worked on at once; reals, ints: scratch, see ``score_workspace(layout, block)``; log_p (n,)
    float64 OUT.
    """
    x = unpack_bits(bits, layers[0, N_IN])
    a = _forward(theta, layers, n_live, panel_start, x.astype(theta.dtype))[-1].astype(np.float64)
    log_p[:] = -np.logaddexp(0, np.where(x == 1, -a, a)).sum(axis=1)


def conditionals(
    theta: Real,
    layers: Int64,
    n_live: Int32,
    panel_start: Int64,
    bits: Bits,
    sparse: bool,
    block: int,
    reals: Real,
    ints: Int32,
    proba: Real,
) -> None:
    """Every conditional of each row: ``proba[b, p] = p(x at place p + 1 is 1 | the places before it)``, (n, D) OUT."""
    x = unpack_bits(bits, layers[0, N_IN]).astype(theta.dtype)
    proba[:] = _sigmoid(_forward(theta, layers, n_live, panel_start, x)[-1])


def sample(
    theta: Real,
    layers: Int64,
    n_live: Int32,
    panel_start: Int64,
    uniforms: NDArray[np.float64],
    block: int,
    reals: Real,
    ints: Int32,
    x: NDArray[np.uint8],
) -> None:
    """Ancestral sampling: x at place p + 1 is 1 where ``uniforms[b, p] < p(1 | the places before it)``.

    Here by D full passes; the other implementations walk the ordering once and give the same rows.

    uniforms (n, D) float64 in [0, 1) IN; block, reals, ints: see ``sample_workspace(layout, block)``; x (n, D) uint8 OUT.
    """
    x[:] = 0
    for p in range(x.shape[1]):
        a = _forward(theta, layers, n_live, panel_start, x.astype(theta.dtype))[-1]
        x[:, p] = uniforms[:, p] < _sigmoid(a[:, p])


def train(
    theta: Real,
    layers: Int64,
    n_live: Int32,
    panel_start: Int64,
    bits: Bits,
    rows: Int64,
    batch_size: int,
    sparse: bool,
    optimizer: int,
    step: int,
    hyper: NDArray[np.float64],
    state: Real,
    reals: Real,
    ints: Int32,
    nll: NDArray[np.float64],
    rank: int,
    n_ranks: int,
    sync: Int32,
) -> None:
    """Make one optimiser step on each mini-batch of ``bits[rows]``; the loss of a step is the mean NLL of its rows.

    theta, state IN OUT; bits (n, W) IN; rows (m,) int64 IN: the rows in the order of use, ``batch_size`` a step, the last
    step may be shorter; step: updates made before; reals, ints: scratch, see ``train_workspace``; nll (ceil(m / batch_size),)
    float64 OUT: sum of the NLL of the step's rows, before the update.

    With ``n_ranks > 1`` all ranks 0 .. n_ranks - 1 must call at the same time with the same arrays, each from its own
    thread; they divide the work and meet at barriers in ``sync`` (64,) int32, all 0 at the start. Only ``native`` does that.
    A rank that waits for one that never comes returns when ``sync[48]`` is set to 1, with no half step made.
    """
    for i in range(len(nll)):
        batch = bits[rows[i * batch_size : (i + 1) * batch_size]]
        x = unpack_bits(batch, layers[0, N_IN]).astype(theta.dtype)
        outputs = _forward(theta, layers, n_live, panel_start, x)
        a = outputs[-1].astype(np.float64)
        nll[i] = np.logaddexp(0, np.where(x == 1, -a, a)).sum()
        dz = (_sigmoid(outputs[-1]) - x) / len(x)
        inputs = [x, *outputs[:-1]]
        gradients = []
        for l in reversed(range(len(layers))):
            W, mask, _ = unpack_layer(theta, layers, n_live, panel_start, l)
            gradients.append((l, (inputs[l].T @ dz) * mask, dz.sum(axis=0)))
            if l:
                dz = (dz @ (W * mask).T) * derivative(inputs[l], layers[l - 1, ACTIVATION])
        g = np.zeros_like(theta)
        for l, dW, db in gradients:
            pack_layer(dW, db, layers, n_live, panel_start, l, g)
        _update(theta, g, optimizer, step + i, hyper, state)
