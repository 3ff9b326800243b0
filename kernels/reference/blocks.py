"""What a network is made of, one layer or list at a time: for tests and the bench. Not here: whole networks (the package)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from made_fast.kernels.layout import ACTIVATION, N_IN, N_OUT
from made_fast.kernels.records import Net, Update
from made_fast.kernels.reference.dense import (
    Bits,
    Int32,
    Real,
    activate,
    derivative,
    lists_to_dense,
    pack_layer,
    read_buffer,
    sigmoid,
    to_buffer,
    unpack_bits,
    unpack_layer,
    update_layer,
    write_buffer,
)

__all__ = [
    "affine_backward_input",
    "affine_backward_weights",
    "affine_backward_weights_sparse",
    "affine_forward",
    "affine_forward_sparse",
    "bernoulli_nll",
    "list_ones",
    "list_rows",
]


def list_ones(bits: Bits, n_columns: int, count: Int32, index: Int32) -> None:
    """List the ones of each row: ``index[i, :count[i]]`` are the columns where row i is 1, ascending.

    bits (n, W) IN; count (n,) OUT; index (n, n_columns) OUT, entries from ``count[i]`` on are not written.
    """
    _list(unpack_bits(bits, n_columns), count, index)


def list_rows(bits: Bits, n_columns: int, count: Int32, index: Int32) -> None:
    """List the ones of each column: ``index[p, :count[p]]`` are the rows where column p is 1, ascending.

    bits (n, W) IN; count (n_columns,) OUT; index (n_columns, n) OUT.
    """
    _list(unpack_bits(bits, n_columns).T, count, index)


def _list(x: NDArray[np.uint8], count: Int32, index: Int32) -> None:
    for i, row in enumerate(x):
        ones = np.flatnonzero(row)
        count[i] = len(ones)
        index[i, : len(ones)] = ones


def affine_forward(net: Net, l: int, x: Real, direct: Real, out: Real) -> None:
    """Masked affine layer with its activation: ``out = g(x (W * M) + b + direct)`` (eqs. 9 and 10).

    x (panels, B, 64) of n_in units IN; direct like out IN: the output of the layer of direct connections, or of length 0;
    out (panels, B, 64) of n_out units OUT, units from n_out on hold nothing of use.
    """
    W, mask, b = unpack_layer(net, l)
    n_in, n_out = W.shape
    z = read_buffer(x, n_in) @ (W * mask) + b
    write_buffer(activate(z + read_buffer(direct, n_out) if len(direct) else z, net.layers[l, ACTIVATION]), out)


def affine_forward_sparse(net: Net, l: int, count: Int32, index: Int32, out: Real) -> None:
    """Do ``affine_forward`` on binary input given by its ones: count (B,), index (B, n_in) as from ``list_ones``."""
    x = to_buffer(lists_to_dense(count, index, net.layers[l, N_IN], net.theta.dtype))
    affine_forward(net, l, x, x[:0], out)


def bernoulli_nll(
    logits: Real,
    bits: Bits,
    n_columns: int,
    scale: float,
    weights: NDArray[np.float64],
    nll: NDArray[np.float64],
    dlogits: Real,
) -> None:
    """Negative log-likelihood of each row in nats and its gradient (eq. 4, from logits), over the first n_columns columns.

    ``nll[b] = sum_d log(1 + exp(a_bd)) - x_bd a_bd`` and ``dlogits = scale weights[b] (sigmoid(a) - x)``.

    logits (panels, B, 64) IN; bits (B, W) IN; weights (B,) float64 IN, or of length 0 for 1 everywhere; nll (B,) float64 OUT;
    dlogits (panels, B, 64) OUT, 0 from column n_columns on.
    """
    a = read_buffer(logits, n_columns)
    x = unpack_bits(bits, n_columns)
    nll[:] = np.logaddexp(0, np.where(x == 1, -a, a).astype(np.float64)).sum(axis=1)
    scales = scale * (weights if len(weights) else np.ones(len(a)))
    write_buffer(scales.astype(a.dtype)[:, None] * (sigmoid(a) - x), dlogits)


def affine_backward_input(net: Net, l: int, dz: Real, h: Real, dh: Real) -> None:
    """Gradient of layer l's input, taken on through the activation that made it.

    In the forward pass this was ``z_l = h (W * M) + b`` with ``h = g(z_{l-1})``; so now
    ``dh = dz (W * M)^T * g'(z_{l-1})``, the gradient of z_{l-1}.

    dz (panels, B, 64) of n_out units IN; h (panels, B, 64) of n_in units IN; dh like h OUT, 0 in the fill-up units.
    """
    W, mask, _ = unpack_layer(net, l)
    n_in, n_out = W.shape
    slope = derivative(read_buffer(h, n_in), net.layers[l - 1, ACTIVATION])
    write_buffer((read_buffer(dz, n_out) @ (W * mask).T) * slope, dh)


def affine_backward_weights(net: Net, l: int, x: Real, dz: Real, update: Update) -> None:
    """Gradient of layer l's weights and bias, and the optimiser's update with it.

    In the forward pass this was ``z = x (W * M) + b``; so now ``dW = (x^T dz) * M`` and ``db = sum_b dz_b``. The bias of
    direct connections stays as it is. Nothing is clipped.

    net.theta, update.state IN OUT; x (panels, B, 64) of n_in units IN; dz (panels, B, 64) of n_out units IN, 0 in the fill-up
    units.
    """
    rows, d = read_buffer(x, net.layers[l, N_IN]), read_buffer(dz, net.layers[l, N_OUT])
    gradient = net._replace(theta=np.zeros_like(net.theta))
    pack_layer(gradient, l, rows.T @ d, d.sum(axis=0))
    update_layer(net, l, gradient.theta, update)


def affine_backward_weights_sparse(net: Net, l: int, count: Int32, index: Int32, dz: Real, update: Update) -> None:
    """Do ``affine_backward_weights`` on binary input given by place: count (n_in,), index (n_in, B) as from ``list_rows``."""
    x = to_buffer(lists_to_dense(count, index, dz.shape[1], net.theta.dtype).T)
    affine_backward_weights(net, l, x, dz, update)
