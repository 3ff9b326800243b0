"""The Numba kernels' passes through the network, for rows that fit the scratch: forward, loss, backward with the update.

Not here: how the rows of a call are cut into blocks or batches, and sampling.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from made_fast.kernels.jit.rows import (
    SOFTPLUS,
    Bits,
    Float64,
    Int32,
    Int64,
    Real,
    Rule,
    activate,
    add_product,
    add_products,
    add_rows,
    copy,
    derive,
    flat,
    for_bias,
    inline,
    kernel,
    n_chain,
    panel,
    stack,
    total,
    update_row,
)
from made_fast.kernels.layout import ACTIVATION, DIRECT, N_IN, N_PANELS, PANEL, PANELS
from made_fast.kernels.records import Batches, Dropout, Net, Scratch, TrainScratch

__all__ = ["fit_batch", "forward", "inputs", "losses", "lowest_one", "output", "room_for_batch"]

# ---------------------------------------------------------------------------------------------------------------------------
# Bits and buffers
# ---------------------------------------------------------------------------------------------------------------------------


@inline
def lowest_one(word: Any) -> Any:
    """Return the number of the lowest bit of a word that is not 0: the exponent of that bit as a float."""
    return (np.float64(word & (~word + np.uint64(1))).view(np.int64) >> 52) - 1023


@kernel
def _list_ones(bits: Bits, count: Int32, index: Int32) -> None:
    """List the places of the ones of each row, ascending, and how many there are."""
    for i in range(len(bits)):
        n = 0
        for q in range(bits.shape[1]):
            word = bits[i, q]
            while word != 0:
                index[i, n] = 64 * q + lowest_one(word)
                n += 1
                word &= word - np.uint64(1)
        count[i] = n


@kernel
def _unpack(bits: Bits, zero: float, one: float, out: Real) -> None:
    """Write one number for every 0 and another for every 1 to a buffer (panels, rows, 64)."""
    real = out.dtype.type
    base, step = real(zero), real(one - zero)
    for p in range(len(out)):
        for i in range(len(bits)):
            word, row = bits[i, p], out[p, i]
            for u in range(PANEL):
                row[u] = base + step * real(np.int32((word >> np.uint64(u)) & np.uint64(1)))


@kernel
def output(reals: Real, start: int, layers: Int64, l: int, block: int, m: int) -> Real:
    """Return the (panels, m, 64) buffer of layer l, if those of all layers, for ``block`` rows each, begin at ``start``.

    After the last layer the first one comes again: ``layout.train_workspace`` has room for gradients there.
    """
    for q in range(l):
        start += layers[q % len(layers), N_PANELS] * block * PANEL
    panels = layers[l % len(layers), N_PANELS]
    return reals[start : start + panels * m * PANEL].reshape(panels, m, PANEL)


@kernel
def inputs(reals: Real, layers: Int64, m: int) -> Real:
    """Return the (panels, m, 64) buffer of the inputs, where scratch begins."""
    panels = (layers[0, N_IN] + PANEL - 1) // PANEL
    return reals[: panels * m * PANEL].reshape(panels, m, PANEL)


# ---------------------------------------------------------------------------------------------------------------------------
# Forward
# ---------------------------------------------------------------------------------------------------------------------------


@kernel
def _sums(net: Net, l: int, x: Real, sparse: bool, count: Int32, index: Int32, z: Real) -> None:
    """Write the sums of layer l to z. Its input is x, or, if ``sparse``, given by its ones."""
    for p in range(len(z)):
        w, _, bias = panel(net, l, p)
        for i in range(z.shape[1]):
            copy(net.theta[bias : bias + PANEL], z[p, i])
        if sparse:
            for i in range(z.shape[1]):
                n = np.int64(count[i])
                while n > 0 and index[i, n - 1] >= len(w):
                    n -= 1
                add_rows(z[p, i], w, index[i], n)
        else:
            for k in range(0, len(w), PANEL):  # 64 rows of weights stay in the L1 cache while all rows of x pass
                add_product(z[p], x[k // PANEL][:, :PANEL], w[k:], min(len(w) - k, PANEL))


@kernel
def _drop(h: Real, keep: Bits, word: int, factor: float) -> None:
    """Multiply the units of h by ``factor`` or, where their bit in ``keep`` is 0, by 0; the layer's first word is ``word``."""
    real = h.dtype.type
    zero, factor_ = real(0.0), real(factor)
    for p in range(len(h)):
        for i in range(h.shape[1]):
            kept, row = keep[i, word + p], h[p, i]
            for u in range(PANEL):
                row[u] *= factor_ if (kept >> np.uint64(u)) & np.uint64(1) else zero


@kernel
def forward(net: Net, bits: Bits, dropout: Dropout, sparse: bool, block: int, scratch: Scratch) -> Real:
    """Take at most ``block`` rows through all layers; return the logits (panels, rows, 64)."""
    layers, reals, m = net.layers, scratch.reals, len(bits)
    n_inputs, last, x, word = layers[0, N_IN], n_chain(layers) - 1, inputs(reals, layers, m), 0
    count, index = scratch.ints[:m], scratch.ints[block : block + m * n_inputs].reshape(m, n_inputs)
    if sparse:
        _list_ones(bits, count, index)
    else:
        _unpack(bits, 0.0, 1.0, x)
    first, h = len(x) * block * PANEL, x
    for l in range(last + 1):
        z, row = output(reals, first, layers, l, block, m), layers[l, DIRECT]
        _sums(net, l, h, sparse and l == 0, count, index, z)
        if row > 0:
            direct = output(reals, first, layers, row, block, m)
            _sums(net, row, x, sparse, count, index, direct)
            for p in range(len(z)):
                for i in range(m):
                    for u in range(PANEL):
                        z[p, i, u] += direct[p, i, u]
        for p in range(len(z)):
            activate(flat(z[p]), layers[l, ACTIVATION])
        if l < last and len(dropout.keep) > 0:
            _drop(z, dropout.keep, word, 1 / (1 - dropout.rate))
            word += len(z)
        h = z
    return h


@kernel
def losses(logits: Real, bits: Bits, n_places: int, signs: Real, nll: Float64) -> None:
    """Write the NLL of each row over the first n_places places: of an input it is softplus(t), t the logit or, of a 1, minus it.

    ``logits`` becomes softplus(t). ``signs``, a buffer like it, becomes the derivative of t, 0 from n_places on.
    """
    zero = logits.dtype.type(0.0)
    _unpack(bits, 1.0, -1.0, signs)
    nll[:] = 0
    for p in range(len(logits)):
        n = min(max(n_places - p * PANEL, 0), PANEL)
        signs[p, :, n:] = 0
        if n > 0:
            t, sign = flat(logits[p]), flat(signs[p])
            for u in range(len(t)):
                t[u] = zero if sign[u] == zero else t[u] * sign[u]
            activate(t, SOFTPLUS)
            for i in range(len(nll)):
                nll[i] += total(logits[p, i, :n])


# ---------------------------------------------------------------------------------------------------------------------------
# Backward
# ---------------------------------------------------------------------------------------------------------------------------


@kernel
def _backward_input(net: Net, l: int, dz: Real, block: Real, dh: Real) -> None:
    """Write ``dh = dz (W * M)^T`` of layer l; ``block`` (rows, 64) is room for transposed weights."""
    for q in range(len(dh)):
        k0 = q * PANEL
        dh[q] = 0
        for p in range(len(dz)):
            w, live, _ = panel(net, l, p)
            n, j = min(len(w) - k0, PANEL), 0
            while j < PANEL and live[j] <= k0:  # units that see none of these inputs
                j += 1
            while j < PANEL:
                rows = min(PANEL - j, len(block))
                block[:rows, n:] = 0
                for r in range(rows):
                    for k in range(n):
                        block[r, k] = w[k0 + k, j + r]
                add_product(dh[q], dz[p][:, j:], block, rows)
                j += rows


@kernel
def _update_weights(net: Net, l: int, x: Real, dz: Real, rule: Rule, state: Real) -> None:
    """Update the weights of layer l by their gradient ``(x^T dz) * M``, and the bias of a layer of the chain by ``sum_b dz``."""
    g, bias_rule = stack(dz), for_bias(rule, dz.dtype.type)
    for p in range(len(dz)):
        w, live, bias = panel(net, l, p)
        start, d = net.panel_start[net.layers[l, PANELS] + p], dz[p]
        for k in range(0, len(w), 2):
            g[:] = 0
            c = k % PANEL
            add_products(g[0], g[1], x[k // PANEL][:, c], x[k // PANEL][:, c + 1], d, len(d))
            for r in range(min(2, len(w) - k)):
                if k + r >= live[0]:
                    for u in range(PANEL):  # dead entries stay 0
                        if k + r >= live[u]:
                            g[r, u] = 0
                update_row(net.theta, start + (k + r) * PANEL, g[r], rule, state)
        if net.layers[l, DIRECT] >= 0:
            g[0] = 0
            for i in range(len(d)):
                for u in range(PANEL):
                    g[0, u] += d[i, u]
            update_row(net.theta, bias, g[0], bias_rule, state)


@kernel
def room_for_batch(batches: Batches, scratch: TrainScratch) -> Bits:
    """Return where ``fit_batch`` takes the bits of the batch from."""
    n_words = batches.bits.shape[1]
    return scratch.ints[: 2 * batches.batch_size * n_words].view(np.uint64).reshape(batches.batch_size, n_words)


@kernel
def fit_batch(
    net: Net,
    batches: Batches,
    chosen: Int64,
    n_places: int,
    n_rows: int,
    dropout: Dropout,
    rule: Rule,
    state: Real,
    scratch: TrainScratch,
) -> float:
    """Take the rows ``chosen``, whose bits stand in ``room_for_batch``, forward and back; return the sum of their NLL.

    The gradient is that of the sum over n_rows. ``dropout.keep`` has the rows of ``chosen`` only, or none.
    """
    layers, reals, m, size = net.layers, scratch.reals, len(chosen), batches.batch_size
    bits, x, last = room_for_batch(batches, scratch)[:m], inputs(reals, layers, m), n_chain(layers) - 1
    cut, first = 2 * bits.shape[1] * size, len(x) * size * PANEL  # scratch: the batch, its NLL, then as ``forward``
    nll = scratch.ints[cut : cut + 2 * m].view(np.float64)
    logits = forward(net, bits, dropout, batches.sparse, size, Scratch(reals, scratch.ints[2 * cut :]))
    dz = output(reals, first, layers, len(layers) + last, size, m)
    losses(logits, bits, n_places, dz, nll)
    found = 0.0
    for i in range(m):
        weight = batches.weights[chosen[i]] if len(batches.weights) > 0 else 1.0
        found += weight * nll[i]
        scale = reals.dtype.type(weight / n_rows)
        for p in range(len(dz)):
            for u in range(PANEL):
                dz[p, i, u] *= scale
    derive(dz.reshape(dz.size), logits.reshape(dz.size), 1.0, SOFTPLUS)
    if batches.sparse:
        _unpack(bits, 0.0, 1.0, x)
    word = dropout.keep.shape[1]
    share = 1 - dropout.rate if len(dropout.keep) > 0 else 1.0
    for l in range(last, -1, -1):
        h, dh = x, dz
        if l > 0:
            h, dh = output(reals, first, layers, l - 1, size, m), output(reals, first, layers, len(layers) + l - 1, size, m)
            used = output(reals, first, layers, l, size, m)
            block = used.reshape(len(used) * m, PANEL)  # the output of layer l has served
            _backward_input(net, l, dz, block[:PANEL], dh)
            derive(dh.reshape(dh.size), h.reshape(dh.size), share, layers[l - 1, ACTIVATION])
            if len(dropout.keep) > 0:
                word -= len(dh)
                _drop(dh, dropout.keep, word, 1 / share)
        _update_weights(net, l, h, dz, rule, state)
        if layers[l, DIRECT] > 0:
            _update_weights(net, layers[l, DIRECT], x, dz, rule, state)
        dz = dh
    return found
