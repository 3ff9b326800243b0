"""Numba kernels for one layer, and what ``jit.py`` and ``jit_shared.py`` make of them: a forward pass, a step of training.

What a kernel does to the rows of a panel is in ``jit_tile.py``; this file goes through panels and layers. Not here: how the
rows of a call are cut into blocks or batches, and sampling.

Importing this file compiles nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from made_fast.kernels.jit_tile import (
    Bits,
    Float64,
    Int32,
    Int64,
    Net,
    Real,
    Rule,
    activate,
    add_product,
    add_products,
    add_rows,
    copy,
    derive,
    exp,
    flat,
    for_bias,
    inline,
    kernel,
    live_only,
    log1p,
    n_chain,
    n_panels,
    panel,
    prepare,
    stack,
    update,
)
from made_fast.kernels.layout import ACTIVATION, DIRECT, N_IN, N_PANELS, PANEL, PANELS

__all__ = [
    "affine_backward_input",
    "affine_backward_weights",
    "affine_backward_weights_sparse",
    "affine_forward",
    "affine_forward_sparse",
    "batch_bits",
    "bernoulli_nll",
    "fit_batch",
    "forward",
    "list_ones",
    "list_rows",
    "lowest_one",
    "pack_bits",
    "permute_row",
]

# ---------------------------------------------------------------------------------------------------------------------------
# Kernels: one step of the network
# ---------------------------------------------------------------------------------------------------------------------------


@inline
def lowest_one(word: Any) -> Any:
    """Return the number of the lowest bit of a word that is not 0: the exponent of that bit as a float."""
    return (np.float64(word & (~word + np.uint64(1))).view(np.int64) >> 52) - 1023


@kernel
def list_ones(bits: Bits, n_columns: int, count: Int32, index: Int32) -> None:
    """See ``reference.list_ones``."""
    for i in range(bits.shape[0]):
        n = 0
        for q in range(bits.shape[1]):
            word = bits[i, q]
            while word != 0:
                index[i, n] = 64 * q + lowest_one(word)
                n += 1
                word &= word - np.uint64(1)
        count[i] = n


@inline
def permute_row(bits: Bits, place: Int32, out: Bits) -> None:
    """Write to ``out`` the bits of one row in another order, given the place of every column."""
    out[:] = 0
    for q in range(len(bits)):
        word = bits[q]
        while word != 0:
            p = np.int64(place[64 * q + lowest_one(word)])
            out[p // 64] |= np.uint64(1) << np.uint64(p % 64)
            word &= word - np.uint64(1)


@kernel
def pack_bits(x: Any, order: Int64, place: Int32, out: Bits, seen: Any) -> None:
    """See ``reference.pack_bits``."""
    for p in range(len(order)):
        place[order[p]] = p
    seen[0] = 0
    out[:] = 0
    for i in range(len(x)):
        for d in range(len(order)):
            seen[0] |= x[i, d]
            if x[i, d] != 0:
                at = np.int64(place[d])
                out[i, at // 64] |= np.uint64(1) << np.uint64(at % 64)


@kernel
def list_rows(bits: Bits, n_columns: int, count: Int32, index: Int32) -> None:
    """See ``reference.list_rows``."""
    count[:n_columns] = 0
    for i in range(bits.shape[0]):
        for q in range(bits.shape[1]):
            word = bits[i, q]
            while word != 0:
                p = 64 * q + lowest_one(word)
                index[p, count[p]] = i
                count[p] += 1
                word &= word - np.uint64(1)


@kernel
def affine_forward(
    theta: Real, layers: Int64, n_live: Int32, panel_start: Int64, l: int, x: Real, direct: Real, out: Real
) -> None:
    """See ``reference.affine_forward``."""
    net = (theta, layers, n_live, panel_start)
    for p in range(layers[l, N_PANELS]):
        w, _, bias = panel(net, l, p)
        z = out[p]
        for i in range(len(z)):
            copy(theta[bias : bias + PANEL], z[i])
        for k in range(0, len(w), PANEL):  # 64 rows of weights stay in the L1 cache while all rows of x pass
            add_product(z, x[k // PANEL], w[k:], min(len(w) - k, PANEL))
        if len(direct) > 0:
            for i in range(len(z)):
                for u in range(PANEL):
                    z[i, u] += direct[p, i, u]
        activate(flat(z), layers[l, ACTIVATION])


@kernel
def affine_forward_sparse(
    theta: Real, layers: Int64, n_live: Int32, panel_start: Int64, l: int, count: Int32, index: Int32, out: Real
) -> None:
    """See ``reference.affine_forward_sparse``."""
    net = (theta, layers, n_live, panel_start)
    for p in range(layers[l, N_PANELS]):
        w, _, bias = panel(net, l, p)
        for i in range(len(count)):
            n = np.int64(count[i])
            while n > 0 and index[i, n - 1] >= len(w):
                n -= 1
            copy(theta[bias : bias + PANEL], out[p, i])
            add_rows(out[p, i], w, index[i], n)
        activate(flat(out[p]), layers[l, ACTIVATION])


@kernel
def bernoulli_nll(
    logits: Real, bits: Bits, n_columns: int, scale: float, weights: Float64, nll: Float64, dlogits: Real
) -> None:
    """See ``reference.bernoulli_nll``. ``dlogits`` may be ``logits``, and ``nll`` may be ``weights``."""
    real = logits.dtype.type
    zero, one, scale_ = real(0.0), real(1.0), real(scale)
    block, total = stack(logits, 3, PANEL), stack(nll, 1, PANEL)
    flip, loss, slope = block[0], block[1], block[2]
    for i in range(logits.shape[1]):
        if len(weights) > 0:
            scale_ = real(scale * weights[i])
        total[0, :] = 0
        for p in range(len(logits)):
            a, da, n = logits[p, i], dlogits[p, i], n_columns - p * PANEL
            if n <= 0:
                da[:] = 0
                continue
            word = bits[i, p]
            for u in range(PANEL):  # on its own: words of 64 bits would halve the lanes of what follows
                flip[u] = one - real(2.0) * real(np.int32((word >> np.uint64(u)) & np.uint64(1)))
            for u in range(PANEL):  # t = -a where the input is 1, else a: -log p is log(1 + e^t), its slope +-sigmoid(t)
                t = flip[u] * a[u]
                e = exp(real, -abs(t))
                loss[u] = (zero if t < zero else t) + log1p(real, e)
                slope[u] = flip[u] * scale_ * ((e if t < zero else one) / (one + e))
            for u in range(n, PANEL):
                loss[u] = slope[u] = 0
            for u in range(PANEL):
                total[0, u] += loss[u]
                da[u] = slope[u]
        row = 0.0
        for u in range(PANEL):
            row += total[0, u]
        nll[i] = row


@inline
def _backward_input(net: Net, l: int, dz: Real, h: Real, share: float, dh: Real) -> None:
    """Do ``affine_backward_input`` where the layer below gave ``share h`` before its dropout."""
    layers, block = net[1], stack(dz, PANEL, PANEL)
    for q in range(len(dh)):
        k0 = q * PANEL
        dh[q] = 0
        for p in range(layers[l, N_PANELS]):
            w, live, _ = panel(net, l, p)
            if len(w) <= k0:
                continue  # no unit of this panel sees these inputs
            j0 = 0
            while live[j0] <= k0:
                j0 += 1
            # The sum runs along the rows of the panel: 64 x 64 numbers of it are transposed and used for all rows of dz.
            n = min(len(w) - k0, PANEL)
            block[j0:, n:] = 0
            for j in range(j0, PANEL):
                for k in range(n):
                    block[j, k] = w[k0 + k, j]
            add_product(dh[q], dz[p, :, j0:], block[j0:], PANEL - j0)
        # Fill-up units: no live count reaches them, dh is 0.
        derive(flat(dh[q]), flat(h[q]), share, layers[l - 1, ACTIVATION])


@kernel
def affine_backward_input(
    theta: Real, layers: Int64, n_live: Int32, panel_start: Int64, l: int, dz: Real, h: Real, dh: Real
) -> None:
    """See ``reference.affine_backward_input``."""
    _backward_input((theta, layers, n_live, panel_start), l, dz, h, 1.0, dh)


@inline
def _update_bias(theta: Real, at: int, dz: Real, g: Real, optimizer: int, rule: Rule, state: Real) -> None:
    g[:] = 0
    for i in range(len(dz)):
        for u in range(PANEL):
            g[u] += dz[i, u]
    update(theta, at, g, optimizer, for_bias(theta, rule), state)


@kernel
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
    hyper: Float64,
    state: Real,
) -> None:
    """See ``reference.affine_backward_weights``."""
    net = (theta, layers, n_live, panel_start)
    rule = prepare(theta, optimizer, step, hyper)
    g = stack(theta, 2, PANEL)
    for p in range(layers[l, N_PANELS]):
        w, live, bias = panel(net, l, p)
        start, depth, d = panel_start[layers[l, PANELS] + p], len(w), dz[p]
        for k in range(0, depth, 2):
            g[:] = 0
            x_, c = x[k // PANEL], k % PANEL
            add_products(g[0], g[1], x_[:, c], x_[:, c + 1], d, len(d))
            for r in range(min(2, depth - k)):
                live_only(g[r], live, k + r)
                update(theta, start + (k + r) * PANEL, g[r], optimizer, rule, state)
        if layers[l, DIRECT] >= 0:
            _update_bias(theta, bias, d, g[0], optimizer, rule, state)


@kernel
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
    hyper: Float64,
    state: Real,
) -> None:
    """See ``reference.affine_backward_weights_sparse``."""
    net = (theta, layers, n_live, panel_start)
    rule = prepare(theta, optimizer, step, hyper)
    g = stack(theta, 1, PANEL)
    for p in range(layers[l, N_PANELS]):
        w, live, bias = panel(net, l, p)
        start, depth, d = panel_start[layers[l, PANELS] + p], len(w), dz[p]
        for k in range(depth):
            g[:] = 0
            add_rows(g[0], d, index[k], np.int64(count[k]))
            live_only(g[0], live, k)
            update(theta, start + k * PANEL, g[0], optimizer, rule, state)
        if layers[l, DIRECT] >= 0:
            _update_bias(theta, bias, d, g[0], optimizer, rule, state)


# ---------------------------------------------------------------------------------------------------------------------------
# The whole network, on rows that fit the scratch
# ---------------------------------------------------------------------------------------------------------------------------


@inline
def _outputs(reals: Real, layers: Int64, l: int, block: int, m: int) -> Real:
    """Return the (panels, m, 64) buffer for the output of layer l, cut from scratch as ``layout.score_workspace`` says.

    Layer -1 are the inputs; after the last layer come the gradients of ``layout.train_workspace``.
    """
    start, panels = 0, n_panels(layers[0, N_IN])
    for q in range(l + 1):
        start += panels * block * PANEL
        panels = layers[q % len(layers), N_PANELS]
    return reals[start : start + panels * m * PANEL].reshape(panels, m, PANEL)


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
def forward(net: Net, bits: Bits, keep: Bits, dropout: float, sparse: bool, block: int, reals: Real, ints: Int32) -> Real:
    """Take at most ``block`` rows through all layers; return the logits (panels, rows, 64).

    ``keep`` as for ``reference.train_shared``.
    """
    layers = net[1]
    m, n_inputs, last = len(bits), layers[0, N_IN], n_chain(layers) - 1
    count, index = ints[:m], ints[block : block + m * n_inputs].reshape(m, n_inputs)
    x = _outputs(reals, layers, -1, block, m)
    if sparse:
        list_ones(bits, n_inputs, count, index)
    else:
        for q in range(len(x)):
            for i in range(m):
                word, row = bits[i, q], x[q, i]
                for u in range(PANEL):
                    row[u] = np.int32((word >> np.uint64(u)) & np.uint64(1))
    h, words = x, 0
    for l in range(last + 1):
        out, direct, row = _outputs(reals, layers, l, block, m), x[:0], layers[l, DIRECT]
        if l == 0 or row > 0:  # what reads the inputs; for layer 0, that is row 0 itself
            direct = _outputs(reals, layers, row, block, m)
            if sparse:
                affine_forward_sparse(*net, row, count, index, direct)
            else:
                affine_forward(*net, row, x, x[:0], direct)
        if l > 0:
            affine_forward(*net, l, h, direct, out)
        if l < last and len(keep) > 0:
            _drop(out, keep, words, 1 / (1 - dropout))
            words += len(out)
        h = out
    return h


@inline
def batch_bits(ints: Int32, batch_size: int, n_words: int) -> Bits:
    """Return where ``fit_batch`` takes the bits of the batch from."""
    return ints[: 2 * batch_size * n_words].view(np.uint64).reshape(batch_size, n_words)


@kernel
def fit_batch(
    net: Net,
    chosen: Int64,
    weights: Float64,
    n_places: int,
    n_rows: int,
    batch_size: int,
    keep: Bits,
    dropout: float,
    sparse: bool,
    optimizer: int,
    step: int,
    hyper: Float64,
    state: Real,
    reals: Real,
    ints: Int32,
) -> float:
    """Take the rows ``chosen``, whose bits stand in ``batch_bits``, forward and back; update. Return the sum of their NLL.

    The gradient is that of the sum over n_rows; the rest as for ``reference.train_shared``.
    """
    layers, m = net[1], len(chosen)
    n_inputs, n_words, last = layers[0, N_IN], n_panels(layers[0, N_IN]), n_chain(layers) - 1
    cut = 2 * batch_size * n_words  # scratch, as layout.train_workspace says: bits, NLL, places, then as score
    bits = batch_bits(ints, batch_size, n_words)[:m]
    nll = ints[cut : cut + 2 * m].view(np.float64)
    places = ints[2 * cut :]
    count, index = places[:n_inputs], places[n_inputs : n_inputs * (batch_size + 1)].reshape(n_inputs, batch_size)
    logits = forward(net, bits, keep, dropout, sparse, batch_size, reals, places[n_inputs * (batch_size + 1) :])
    dz = _outputs(reals, layers, len(layers) + last, batch_size, m)
    total = 0.0
    if len(weights) > 0:
        for i in range(m):
            nll[i] = weights[chosen[i]]
        bernoulli_nll(logits, bits, n_places, 1.0 / n_rows, nll, nll, dz)
        for i in range(m):
            total += weights[chosen[i]] * nll[i]
    else:
        bernoulli_nll(logits, bits, n_places, 1.0 / n_rows, nll[:0], nll, dz)
        for i in range(m):
            total += nll[i]
    if sparse:
        list_rows(bits, n_inputs, count, index)
    x, words = _outputs(reals, layers, -1, batch_size, m), keep.shape[1]
    share = 1 - dropout if len(keep) > 0 else 1.0
    for l in range(last, -1, -1):
        h, dh, row = _outputs(reals, layers, l - 1, batch_size, m), dz, layers[l, DIRECT]
        if l > 0:
            dh = _outputs(reals, layers, len(layers) + l - 1, batch_size, m)
            _backward_input(net, l, dz, h, share, dh)
            if len(keep) > 0:
                words -= len(dh)
                _drop(dh, keep, words, 1 / share)
            affine_backward_weights(*net, l, h, dz, optimizer, step, hyper, state)
        if l == 0 or row > 0:  # as in ``forward``
            if sparse:
                affine_backward_weights_sparse(*net, row, count, index, dz, optimizer, step, hyper, state)
            else:
                affine_backward_weights(*net, row, x, dz, optimizer, step, hyper, state)
        dz = dh
    return total
