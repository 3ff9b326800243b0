"""What a network is made of, one layer or list at a time: for tests and the bench. Not here: whole networks (the package)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from made_fast.kernels.layout import ACTIVATION
from made_fast.kernels.records import Net, Update
from made_fast.kernels.reference import dense
from made_fast.kernels.reference.dense import Bits, Real, read_buffer, unpack_layer, write_buffer

__all__ = ["affine_backward_input", "affine_backward_weights", "affine_forward", "bernoulli_nll"]


def affine_forward(net: Net, l: int, x: Real | Bits, direct: Real, out: Real) -> None:
    """Masked affine layer with its activation: ``out = g(x (W * M) + b + direct)`` (eqs. 9 and 10).

    x (panels, B, 64) of n_in units, or the bits of each row, (B, W) uint64, IN; direct like out IN: the output of the layer of
    direct connections, or of length 0, as it is with bits; out (panels, B, 64) of n_out units OUT, units from n_out on mean
    nothing.
    """
    W, mask, b = unpack_layer(net, l)
    n_in, n_out = W.shape
    z = dense.dense_inputs(x, n_in).astype(W.dtype) @ (W * mask) + b
    write_buffer(dense.activate(z + read_buffer(direct, n_out) if len(direct) else z, net.layers[l, ACTIVATION]), out)


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
    x = dense.unpack_bits(bits, n_columns)
    nll[:] = np.logaddexp(0, np.where(x == 1, -a, a).astype(np.float64)).sum(axis=1)
    scales = scale * (weights if len(weights) else np.ones(len(a)))
    write_buffer(scales.astype(a.dtype)[:, None] * (dense.sigmoid(a) - x), dlogits)


def affine_backward_input(net: Net, l: int, dz: Real, h: Real, dh: Real) -> None:
    """Gradient of layer l's input, taken on through the activation that made it.

    In the forward pass this was ``z_l = h (W * M) + b`` with ``h = g(z_{l-1})``; so now
    ``dh = dz (W * M)^T * g'(z_{l-1})``, the gradient of z_{l-1}.

    dz (panels, B, 64) of n_out units IN; h (panels, B, 64) of n_in units IN; dh like h OUT, 0 in the fill-up units.
    """
    W, mask, _ = unpack_layer(net, l)
    n_in, n_out = W.shape
    slope = dense.derivative(read_buffer(h, n_in), net.layers[l - 1, ACTIVATION])
    write_buffer((read_buffer(dz, n_out) @ (W * mask).T) * slope, dh)


def affine_backward_weights(net: Net, l: int, x: Real | Bits, dz: Real, update: Update) -> None:
    """Gradient of layer l's weights and bias, and the optimiser's update with it.

    In the forward pass this was ``z = x (W * M) + b``; so now ``dW = (x^T dz) * M`` and ``db = sum_b dz_b``. The bias of
    direct connections stays as it is. Nothing is clipped.

    net.theta, update.state IN OUT; x (panels, B, 64) of n_in units, or the bits of each column, (n_in,
    ceil(B / 64)) uint64, IN; dz (panels, B, 64) of n_out units IN, 0 in the fill-up units.
    """
    W, _, _ = unpack_layer(net, l)
    rows, d = dense.dense_inputs(x, len(W), by_column=dz.shape[1]).astype(W.dtype), read_buffer(dz, W.shape[1])
    gradient = net._replace(theta=np.zeros_like(net.theta))
    dense.pack_layer(gradient, l, rows.T @ d, d.sum(axis=0))
    dense.update_layer(net, l, gradient.theta, update)
