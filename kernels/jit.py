"""Numba kernels: the signatures of ``reference.py`` as compiled loops over live panels, for machines without a C compiler.

They follow the kernel contract (``made_fast.kernels``) and the design of the C sources: one tile serves all three products,
every sum is a single chain of multiply-adds in ascending order. So, on one machine, sparse and dense input, any ``block``
and the one-pass sampler give the same bits.

This file has every kernel under its name. What a kernel does to the rows of a panel is in ``jit_tile.py``, the kernels for one
layer are in ``jit_layers.py``, those on shared parameters in ``jit_shared.py``; those for the whole network under one
connectivity are here. Not here: several threads (``train`` is for ``n_ranks == 1``), the choice of a CPU level (LLVM compiles
for the machine it runs on), the bits of ``native``.

Importing this file compiles nothing. A kernel is compiled on its first call, and kept in Numba's cache where one can be
written. With ``NUMBA_DISABLE_JIT=1`` all of it runs as plain Python.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from made_fast.kernels.jit_layers import (
    affine_backward_input,
    affine_backward_weights,
    affine_backward_weights_sparse,
    affine_forward,
    affine_forward_sparse,
    batch_bits,
    bernoulli_nll,
    fit_batch,
    forward,
    list_ones,
    list_rows,
    pack_bits,
)
from made_fast.kernels.jit_shared import pack, train_shared, unpack_gradient
from made_fast.kernels.jit_tile import (
    IDENTITY,
    SIGMOID,
    Bits,
    Float64,
    Int32,
    Int64,
    Net,
    Real,
    activate,
    add_product,
    add_rows,
    copy,
    flat,
    inline,
    kernel,
    n_chain,
    panel,
    stack,
)
from made_fast.kernels.layout import ACTIVATION, DIRECT, MAX_LAYERS, N_IN, N_OUT, N_PANELS, PANEL, UNITS

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
    "pack",
    "pack_bits",
    "sample",
    "score",
    "train",
    "train_shared",
    "unpack_gradient",
]


@kernel
def score(
    theta: Real,
    layers: Int64,
    n_live: Int32,
    panel_start: Int64,
    bits: Bits,
    n_places: int,
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
        logits = forward(net, rows, rows[:0], 0.0, sparse, block, reals, ints)
        bernoulli_nll(logits, rows, n_places, 0.0, total[:0], total, logits)
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
        rows = bits[i : i + block]
        logits = forward(net, rows, rows[:0], 0.0, sparse, block, reals, ints)
        for p in range(len(logits)):
            activate(flat(logits[p]), SIGMOID)
            for r in range(logits.shape[1]):
                row = proba[i + r, p * PANEL : (p + 1) * PANEL]
                copy(logits[p, r, : len(row)], row)


# Sampling. A unit is final once the inputs it sees are drawn. One walk over the places draws an input, then finishes the
# units that have become final. A layer's current panel holds the sums of what it has seen; it is brought up to date, in the
# order of the full pass, as its units are read: the sample is the one that D full passes would draw, bit for bit.

_SUMS, _CURRENT, _SEEN, _DONE = range(4)  # of a layer: start of its buffer, current panel, what that has seen, final units
_ALL_LAYERS = 2 * MAX_LAYERS


@inline
def _cut(reals: Real, start: int, p: int, m: int) -> Real:
    """Return panel p, (m, 64), of the buffer of m rows that starts at ``reals[start]``."""
    return reals[start + p * m * PANEL :][: m * PANEL].reshape(m, PANEL)


@inline
def _reach(net: Net, l: int, j: int, walk: Int64, reals: Real, count: Int32, taken: Int32, index: Int32) -> Real:
    """Bring the sums of the panel that holds unit j up to unit j's live prefix. Return them, (m, 64)."""
    theta, layers, m, p = net[0], net[1], len(count), j // PANEL
    w, live, bias = panel(net, l, p)
    z = _cut(reals, walk[l, _SUMS], p, m)
    if p != walk[l, _CURRENT]:
        walk[l, _CURRENT], walk[l, _SEEN] = p, 0
        for i in range(m):
            copy(theta[bias : bias + PANEL], z[i])
            taken[l, i] = 0
    seen, end = walk[l, _SEEN], np.int64(live[j % PANEL])
    if end > seen and (l == 0 or layers[l, DIRECT] < 0):  # inputs: the ones drawn so far
        for i in range(m):
            from_ = np.int64(taken[l, i])
            n = np.int64(count[i]) - from_
            while n > 0 and index[i, from_ + n - 1] >= end:
                n -= 1
            if n > 0:
                add_rows(z[i], w, index[i, from_:], n)
                taken[l, i] += n
    elif end > seen:
        k = seen
        while k < end:
            q, n = k // PANEL, min(end - k, PANEL - k % PANEL)
            add_product(z, _cut(reals, walk[l - 1, _SUMS], q, m)[:, k % PANEL :], w[k:], n)
            k += n
    walk[l, _SEEN] = max(end, seen)
    return z


@inline
def _finish(
    net: Net, l: int, j: int, walk: Int64, reals: Real, count: Int32, taken: Int32, index: Int32, column: Real
) -> None:
    """Make unit j of layer l of the chain final; put its output for every row, or its conditional, in ``column``."""
    u, direct, code = j % PANEL, net[1][l, DIRECT], net[1][l, ACTIVATION]
    z = _reach(net, l, j, walk, reals, count, taken, index)
    for i in range(len(column)):
        column[i] = z[i, u]
    if direct > 0:
        a = _reach(net, direct, j, walk, reals, count, taken, index)
        for i in range(len(column)):
            column[i] += a[i, u]
    activate(column, SIGMOID if code == IDENTITY else code)
    for i in range(len(column)):
        z[i, u] = column[i]
    walk[l, _DONE] = j + 1


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
    n_inputs, n_layers, last = layers[0, N_IN], len(layers), n_chain(layers) - 1
    walk = stack(layers, _ALL_LAYERS, 4)
    for start in range(0, len(uniforms), block):
        m = min(block, len(uniforms) - start)
        column, sums = reals[:m], -(-block // 16) * 16
        count, cut = ints[:m], block * (1 + n_inputs)
        index = ints[block : block + m * n_inputs].reshape(m, n_inputs)
        taken = ints[cut : cut + n_layers * block].reshape(n_layers, block)
        for l in range(n_layers):
            walk[l, _SUMS], walk[l, _CURRENT], walk[l, _SEEN], walk[l, _DONE] = sums, -1, 0, 0
            sums += m * PANEL * layers[l, N_PANELS]
        count[:] = 0
        for p in range(n_inputs):
            _finish(net, last, p, walk, reals, count, taken, index, column)
            for i in range(m):
                one = uniforms[start + i, p] < column[i]
                x[start + i, p] = one
                if one:
                    index[i, count[i]] = p
                    count[i] += 1
            final = p + 1
            for l in range(last):
                live, direct = n_live[layers[l, UNITS] :], n_live[layers[layers[l, DIRECT], UNITS] :]
                while walk[l, _DONE] < layers[l, N_OUT]:
                    j = walk[l, _DONE]
                    if live[j] > final or (layers[l, DIRECT] > 0 and direct[j] > p + 1):
                        break
                    _finish(net, l, j, walk, reals, count, taken, index, column)
                final = walk[l, _DONE]


@kernel
def train(
    theta: Real,
    layers: Int64,
    n_live: Int32,
    panel_start: Int64,
    bits: Bits,
    weights: Float64,
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
    net, n_places = (theta, layers, n_live, panel_start), layers[0, N_IN]
    batch = batch_bits(ints, batch_size, bits.shape[1])
    for s in range(len(nll)):
        chosen = rows[s * batch_size : (s + 1) * batch_size]
        m = len(chosen)
        for i in range(m):
            for q in range(bits.shape[1]):
                batch[i, q] = bits[chosen[i], q]
        rule = (optimizer, step + s, hyper, state)
        nll[s] = fit_batch(net, chosen, weights, n_places, m, batch_size, batch[:0], 0.0, sparse, *rule, reals, ints)
