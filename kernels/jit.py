"""Numba kernels: the signatures of ``reference.py`` as compiled loops over live panels, for machines without a C compiler.

They follow the kernel contract (``made_fast.kernels``) and the design of the C sources: one tile serves all three products,
every sum is a single chain of multiply-adds in ascending order. So, on one machine, sparse and dense input, any ``block``
and the one-pass sampler give the same bits. What a kernel does to the rows of a panel is in ``jit_tile.py``; this file goes
through layers, panels and rows. Not here: several threads (``train`` is for ``n_ranks == 1``), the choice of a CPU level
(LLVM compiles for the machine it runs on), the bits of ``native``.

Importing this file compiles nothing. A kernel is compiled on its first call, and kept in Numba's cache where one can be
written. With ``NUMBA_DISABLE_JIT=1`` all of it runs as plain Python.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast.kernels.jit_tile import (
    SIGMOID,
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
    inline,
    kernel,
    live_only,
    log1p,
    n_panels,
    panel,
    prepare,
    stack,
    update,
)
from made_fast.kernels.layout import ACTIVATION, MAX_LAYERS, N_IN, N_OUT, N_PANELS, PANEL, PANELS, UNITS

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
    "sample",
    "score",
    "train",
]

# ---------------------------------------------------------------------------------------------------------------------------
# Kernels: one step of the network
# ---------------------------------------------------------------------------------------------------------------------------


@inline
def _lowest_one(word: Any) -> Any:
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
                index[i, n] = 64 * q + _lowest_one(word)
                n += 1
                word &= word - np.uint64(1)
        count[i] = n


@kernel
def list_rows(bits: Bits, n_columns: int, count: Int32, index: Int32) -> None:
    """See ``reference.list_rows``."""
    count[:n_columns] = 0
    for i in range(bits.shape[0]):
        for q in range(bits.shape[1]):
            word = bits[i, q]
            while word != 0:
                p = 64 * q + _lowest_one(word)
                index[p, count[p]] = i
                count[p] += 1
                word &= word - np.uint64(1)


@kernel
def affine_forward(theta: Real, layers: Int64, n_live: Int32, panel_start: Int64, l: int, x: Real, out: Real) -> None:
    """See ``reference.affine_forward``."""
    net = (theta, layers, n_live, panel_start)
    for p in range(layers[l, N_PANELS]):
        w, _, bias = panel(net, l, p)
        z = out[p]
        for i in range(len(z)):
            copy(theta[bias : bias + PANEL], z[i])
        for k in range(0, len(w), PANEL):  # 64 rows of weights stay in the L1 cache while all rows of x pass
            add_product(z, x[k // PANEL], w[k:], min(len(w) - k, PANEL))
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
def bernoulli_nll(logits: Real, bits: Bits, n_columns: int, scale: float, nll: Float64, dlogits: Real) -> None:
    """See ``reference.bernoulli_nll``. ``dlogits`` may be ``logits``."""
    real = logits.dtype.type
    zero, one, scale_ = real(0.0), real(1.0), real(scale)
    block, total = stack(logits, 3, PANEL), stack(nll, 1, PANEL)
    flip, loss, slope = block[0], block[1], block[2]
    for i in range(logits.shape[1]):
        total[0, :] = 0
        for p in range(len(logits)):
            word, a, da = bits[i, p], logits[p, i], dlogits[p, i]
            for u in range(PANEL):  # on its own: words of 64 bits would halve the lanes of what follows
                flip[u] = one - real(2.0) * real(np.int32((word >> np.uint64(u)) & np.uint64(1)))
            for u in range(PANEL):  # t = -a where the input is 1, else a: -log p is log(1 + e^t), its slope +-sigmoid(t)
                t = flip[u] * a[u]
                e = exp(real, -abs(t))
                loss[u] = (zero if t < zero else t) + log1p(real, e)
                slope[u] = flip[u] * scale_ * ((e if t < zero else one) / (one + e))
            for u in range(n_columns - p * PANEL, PANEL):
                loss[u] = slope[u] = 0
            for u in range(PANEL):
                total[0, u] += loss[u]
                da[u] = slope[u]
        row = 0.0
        for u in range(PANEL):
            row += total[0, u]
        nll[i] = row


@kernel
def affine_backward_input(
    theta: Real, layers: Int64, n_live: Int32, panel_start: Int64, l: int, dz: Real, h: Real, dh: Real
) -> None:
    """See ``reference.affine_backward_input``."""
    net = (theta, layers, n_live, panel_start)
    block = stack(theta, PANEL, PANEL)
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
        derive(flat(dh[q]), flat(h[q]), layers[l - 1, ACTIVATION])  # fill-up units: no live count reaches them, dh is 0


@inline
def _update_bias(theta: Real, at: int, dz: Real, g: Real, optimizer: int, rule: Rule, state: Real) -> None:
    g[:] = 0
    for i in range(len(dz)):
        for u in range(PANEL):
            g[u] += dz[i, u]
    update(theta, at, g, optimizer, rule, state)


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
        _update_bias(theta, bias, d, g[0], optimizer, rule, state)


# ---------------------------------------------------------------------------------------------------------------------------
# Kernels: the whole network
# ---------------------------------------------------------------------------------------------------------------------------


@inline
def _outputs(reals: Real, layers: Int64, l: int, block: int, m: int) -> Real:
    """Return the (panels, m, 64) buffer for the output of layer l, cut from scratch as ``layout.score_workspace`` says.

    Layer -1 are the inputs; from layer L + 1 on come the gradients of ``layout.train_workspace``.
    """
    start, panels = 0, n_panels(layers[0, N_IN])
    for q in range(l + 1):
        start += panels * block * PANEL
        panels = layers[q % len(layers), N_PANELS]
    return reals[start : start + panels * m * PANEL].reshape(panels, m, PANEL)


@kernel
def _forward(net: Net, bits: Bits, sparse: bool, block: int, reals: Real, ints: Int32) -> Real:
    """Take at most ``block`` rows through all layers; return the logits (panels, rows, 64)."""
    layers = net[1]
    m, n_inputs = len(bits), layers[0, N_IN]
    x, first = _outputs(reals, layers, -1, block, m), 0
    if sparse:
        count, index = ints[:m], ints[block : block + m * n_inputs].reshape(m, n_inputs)
        x, first = _outputs(reals, layers, 0, block, m), 1
        list_ones(bits, n_inputs, count, index)
        affine_forward_sparse(*net, 0, count, index, x)
    else:
        for q in range(len(x)):
            for i in range(m):
                word, row = bits[i, q], x[q, i]
                for u in range(PANEL):
                    row[u] = np.int32((word >> np.uint64(u)) & np.uint64(1))
    for l in range(first, len(layers)):
        out = _outputs(reals, layers, l, block, m)
        affine_forward(*net, l, x, out)
        x = out
    return x


@kernel
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
    log_p: Float64,
) -> None:
    """See ``reference.score``."""
    net = (theta, layers, n_live, panel_start)
    for i in range(0, len(bits), block):
        rows, total = bits[i : i + block], log_p[i : i + block]
        logits = _forward(net, rows, sparse, block, reals, ints)
        bernoulli_nll(logits, rows, layers[0, N_IN], 0.0, total, logits)
        for r in range(len(total)):
            total[r] = -total[r]


@kernel
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
    """See ``reference.conditionals``."""
    net = (theta, layers, n_live, panel_start)
    for i in range(0, len(bits), block):
        logits = _forward(net, bits[i : i + block], sparse, block, reals, ints)
        for p in range(len(logits)):
            activate(flat(logits[p]), SIGMOID)
            for r in range(logits.shape[1]):
                row = proba[i + r, p * PANEL : (p + 1) * PANEL]
                copy(logits[p, r, : len(row)], row)


# Sampling. A unit is final once the inputs it sees are drawn. One walk over the places draws an input, then finishes the
# units that have become final. A layer's current panel holds the sums of what it has seen; it is brought up to date, in the
# order of the full pass, as its units are read: the sample is the one that D full passes would draw, bit for bit.

_SUMS, _CURRENT, _SEEN, _DONE = range(4)  # of a layer: start of its buffer, current panel, what that has seen, final units


@inline
def _cut(reals: Real, start: int, p: int, m: int) -> Real:
    """Return panel p, (m, 64), of the buffer of m rows that starts at ``reals[start]``."""
    return reals[start + p * m * PANEL :][: m * PANEL].reshape(m, PANEL)


@inline
def _reach(net: Net, l: int, j: int, walk: Int64, reals: Real, count: Int32, taken: Int32, index: Int32) -> Real:
    """Bring the sums of the panel that holds unit j up to unit j's live prefix. Return them, (m, 64)."""
    theta, m, p = net[0], len(count), j // PANEL
    w, live, bias = panel(net, l, p)
    z = _cut(reals, walk[l, _SUMS], p, m)
    if p != walk[l, _CURRENT]:
        walk[l, _CURRENT], walk[l, _SEEN] = p, 0
        for i in range(m):
            copy(theta[bias : bias + PANEL], z[i])
        if l == 0:
            taken[:] = 0
    seen, end = walk[l, _SEEN], np.int64(live[j % PANEL])
    if end > seen and l == 0:  # inputs: the ones drawn so far
        for i in range(m):
            n = np.int64(count[i] - taken[i])
            while n > 0 and index[i, taken[i] + n - 1] >= end:
                n -= 1
            if n > 0:
                add_rows(z[i], w, index[i, taken[i] :], n)
                taken[i] += n
    elif end > seen:
        k = seen
        while k < end:
            q, n = k // PANEL, min(end - k, PANEL - k % PANEL)
            add_product(z, _cut(reals, walk[l - 1, _SUMS], q, m)[:, k % PANEL :], w[k:], n)
            k += n
    walk[l, _SEEN] = max(end, seen)
    return z


@kernel
def sample(
    theta: Real,
    layers: Int64,
    n_live: Int32,
    panel_start: Int64,
    uniforms: Float64,
    block: int,
    reals: Real,
    ints: Int32,
    x: NDArray[np.uint8],
) -> None:
    """See ``reference.sample``."""
    net = (theta, layers, n_live, panel_start)
    n_inputs, last = layers[0, N_IN], len(layers) - 1
    walk = stack(layers, MAX_LAYERS, 4)
    for start in range(0, len(uniforms), block):
        m = min(block, len(uniforms) - start)
        column, sums = reals[:m], -(-block // 16) * 16
        count, taken = ints[:m], ints[block : block + m]
        index = ints[2 * block : 2 * block + m * n_inputs].reshape(m, n_inputs)
        for l in range(last + 1):
            walk[l, _SUMS], walk[l, _CURRENT], walk[l, _SEEN], walk[l, _DONE] = sums, -1, 0, 0
            sums += m * PANEL * layers[l, N_PANELS]
        count[:] = 0
        for p in range(n_inputs):
            z = _reach(net, last, p, walk, reals, count, taken, index)
            for i in range(m):
                column[i] = z[i, p % PANEL]
            activate(column, SIGMOID)
            for i in range(m):
                one = uniforms[start + i, p] < column[i]
                x[start + i, p] = one
                if one:
                    index[i, count[i]] = p
                    count[i] += 1
            final = p + 1
            for l in range(last):
                live = n_live[layers[l, UNITS] :]
                while walk[l, _DONE] < layers[l, N_OUT] and live[walk[l, _DONE]] <= final:
                    j = walk[l, _DONE]
                    z = _reach(net, l, j, walk, reals, count, taken, index)
                    for i in range(m):
                        column[i] = z[i, j % PANEL]
                    activate(column, layers[l, ACTIVATION])
                    for i in range(m):
                        z[i, j % PANEL] = column[i]
                    walk[l, _DONE] = j + 1
                final = walk[l, _DONE]


@kernel
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
    hyper: Float64,
    state: Real,
    reals: Real,
    ints: Int32,
    nll: Float64,
    rank: int,
    n_ranks: int,
    sync: Int32,
) -> None:
    """See ``reference.train``; ``n_ranks`` is 1."""
    net = (theta, layers, n_live, panel_start)
    n_inputs, n_words, n_layers = layers[0, N_IN], bits.shape[1], len(layers)
    cut = 2 * batch_size * n_words  # scratch, as layout.train_workspace says: bits, NLL, places, then as score
    batch_bits = ints[:cut].view(np.uint64).reshape(batch_size, n_words)
    batch_nll = ints[cut : cut + 2 * batch_size].view(np.float64)
    places = ints[cut + 2 * batch_size :]
    count, index = places[:n_inputs], places[n_inputs : n_inputs * (batch_size + 1)].reshape(n_inputs, batch_size)
    lists = places[n_inputs * (batch_size + 1) :]
    for batch in range(len(nll)):
        chosen = rows[batch * batch_size : (batch + 1) * batch_size]
        m = len(chosen)
        for i in range(m):
            for q in range(n_words):
                batch_bits[i, q] = bits[chosen[i], q]
        logits = _forward(net, batch_bits[:m], sparse, batch_size, reals, lists)
        dz = _outputs(reals, layers, 2 * n_layers - 1, batch_size, m)
        bernoulli_nll(logits, batch_bits[:m], n_inputs, 1.0 / m, batch_nll[:m], dz)
        total = 0.0
        for i in range(m):
            total += batch_nll[i]
        nll[batch] = total
        for l in range(n_layers - 1, -1, -1):
            x, dx = _outputs(reals, layers, l - 1, batch_size, m), dz
            if l > 0:
                dx = _outputs(reals, layers, n_layers + l - 1, batch_size, m)
                affine_backward_input(*net, l, dz, x, dx)
            if l == 0 and sparse:
                list_rows(batch_bits[:m], n_inputs, count, index)
                affine_backward_weights_sparse(*net, 0, count, index, dz, optimizer, step + batch, hyper, state)
            else:
                affine_backward_weights(*net, l, x, dz, optimizer, step + batch, hyper, state)
            dz = dx
