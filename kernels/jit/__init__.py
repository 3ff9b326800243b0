"""Numba kernels: those of ``reference`` as compiled loops over live panels, for machines without a C compiler.

One tile serves all products, and every sum of products is a single chain of multiply-adds in ascending order. So, on one
machine, sparse and dense input, any ``block`` and the one-pass sampler give the same bits.

Here are the kernels on one connectivity; those on shared parameters are in ``shared.py``, passes through the network in
``layers.py``, inner loops in ``rows.py``. Not here: several threads (``train`` and ``train_shared`` are for one rank), a choice
of CPU level (LLVM compiles for the machine it runs on), the bits of ``native``.

Importing this package compiles nothing. A kernel is compiled on its first call, and kept in Numba's cache where one can be
written. With ``NUMBA_DISABLE_JIT=1`` all of it runs as plain Python.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast.kernels.jit.layers import fit_batch, forward, inputs, losses, output, room_for_batch
from made_fast.kernels.jit.rows import (
    SIGMOID,
    Bits,
    Float64,
    Int32,
    Int64,
    Real,
    activate,
    add_product,
    add_rows,
    clip,
    copy,
    flat,
    for_bias,
    inline,
    kernel,
    n_chain,
    panel,
    prepare,
    update_row,
)
from made_fast.kernels.jit.shared import pack, train_shared
from made_fast.kernels.layout import ACTIVATION, BIAS, DIRECT, N_IN, N_OUT, N_PANELS, PANEL, UNITS, WEIGHTS
from made_fast.kernels.optimizers import CLIP, GRADIENT
from made_fast.kernels.records import Batches, Crew, Dropout, Net, Scratch, TrainScratch, Update

__all__ = ["conditionals", "pack", "pack_bits", "sample", "score", "train", "train_shared"]


@kernel
def pack_bits(x: NDArray[np.uint8], order: Int64, place: Int32, out: Bits, seen: NDArray[np.uint8]) -> None:
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
def score(net: Net, bits: Bits, n_places: int, sparse: bool, block: int, scratch: Scratch, log_p: Float64) -> None:
    """See ``reference.score``."""
    everything = Dropout(bits[:0], 0.0)
    for i in range(0, len(bits), block):
        rows, nll = bits[i : i + block], log_p[i : i + block]
        logits = forward(net, rows, everything, sparse, block, scratch)
        losses(logits, rows, n_places, inputs(scratch.reals, net.layers, len(rows)), nll)
        for r in range(len(nll)):
            nll[r] = -nll[r]


@kernel
def conditionals(net: Net, bits: Bits, sparse: bool, block: int, scratch: Scratch, proba: Real) -> None:
    """See ``reference.conditionals``."""
    everything = Dropout(bits[:0], 0.0)
    for i in range(0, len(bits), block):
        logits = forward(net, bits[i : i + block], everything, sparse, block, scratch)
        for p in range(len(logits)):
            activate(flat(logits[p]), SIGMOID)
            for r in range(logits.shape[1]):
                row = proba[i + r, p * PANEL : (p + 1) * PANEL]
                copy(logits[p, r, : len(row)], row)


# Sampling. A unit is final once the inputs it sees are drawn. One walk over the places draws an input, then finishes the
# units that have become final. The sums of a layer's panel are brought up to date, in the order of the full pass, as its units
# are finished, one after the other: the sample is the one that D full passes would draw, bit for bit.


@inline
def _reach(net: Net, l: int, j: int, h: Real, count: Int32, index: Int32, z: Real) -> None:
    """Bring the sums z (m, 64) of unit j's panel up to the live prefix of unit j; h is the layer below, as far as it is final."""
    w, live, bias = panel(net, l, j // PANEL)
    seen, end = 0, np.int64(live[j % PANEL])
    if j % PANEL > 0:
        seen = np.int64(live[j % PANEL - 1])
    else:
        for i in range(len(z)):
            copy(net.theta[bias : bias + PANEL], z[i])
    if l == 0 or net.layers[l, DIRECT] < 0:  # inputs: the ones drawn so far
        for i in range(len(z)):
            stop = np.int64(count[i])
            while stop > 0 and index[i, stop - 1] >= end:
                stop -= 1
            first = stop
            while first > 0 and index[i, first - 1] >= seen:
                first -= 1
            if first < stop:
                add_rows(z[i], w, index[i, first:], stop - first)
    else:
        while seen < end:
            n = min(end - seen, PANEL - seen % PANEL)
            add_product(z, h[seen // PANEL][:, seen % PANEL :], w[seen:], n)
            seen += n


@inline
def _finish(net: Net, l: int, j: int, block: int, reals: Real, count: Int32, index: Int32, column: Real) -> None:
    """Make unit j of layer l of the chain final; put its output for every row, or its conditional, in ``column``."""
    layers, m, first, u = net.layers, len(column), -(-block // 16) * 16, j % PANEL
    direct, code = layers[l, DIRECT], layers[l, ACTIVATION]
    z, h = output(reals, first, layers, l, block, m)[j // PANEL], output(reals, first, layers, max(l - 1, 0), block, m)
    _reach(net, l, j, h, count, index, z)
    for i in range(m):
        column[i] = z[i, u]
    if direct > 0:
        a = output(reals, first, layers, direct, block, m)[j // PANEL]
        _reach(net, direct, j, h, count, index, a)
        for i in range(m):
            column[i] += a[i, u]
    activate(column, code if l < n_chain(layers) - 1 else SIGMOID)
    for i in range(m):
        z[i, u] = column[i]


@kernel
def sample(net: Net, uniforms: Float64, block: int, scratch: Scratch, x: NDArray[np.uint8]) -> None:
    """See ``reference.sample``."""
    layers, n_inputs, last = net.layers, net.layers[0, N_IN], n_chain(net.layers) - 1
    for start in range(0, len(uniforms), block):
        m = min(block, len(uniforms) - start)
        column, count = scratch.reals[:m], scratch.ints[:m]
        index = scratch.ints[block : block + m * n_inputs].reshape(m, n_inputs)
        done = scratch.ints[block * (1 + n_inputs) :]  # of every hidden layer, how many units are final
        done[:last] = 0
        count[:] = 0
        for p in range(n_inputs):
            _finish(net, last, p, block, scratch.reals, count, index, column)
            for i in range(m):
                one = uniforms[start + i, p] < column[i]
                x[start + i, p] = one
                if one:
                    index[i, count[i]] = p
                    count[i] += 1
            final = p + 1
            for l in range(last):
                live, direct = net.n_live[layers[l, UNITS] :], net.n_live[layers[layers[l, DIRECT], UNITS] :]
                j = np.int64(done[l])
                while j < layers[l, N_OUT] and live[j] <= final and (layers[l, DIRECT] <= 0 or direct[j] <= p + 1):
                    _finish(net, l, j, block, scratch.reals, count, index, column)
                    j += 1
                done[l] = final = j


@kernel
def train(
    net: Net, batches: Batches, dropout: Dropout, update: Update, scratch: TrainScratch, nll: Float64, crew: Crew
) -> None:
    """See ``reference.train``; for one rank."""
    batch, size, gradient = room_for_batch(batches, scratch), batches.batch_size, scratch.gradient
    longest, state = update.constants[CLIP], update.state
    whole = Update(np.int64(GRADIENT), update.step, update.constants, gradient.reshape(1, len(gradient)))
    gradient[:] = 0  # for the biases of direct connections, which have none
    for s in range(len(nll)):
        chosen, rule = batches.rows[s * size : (s + 1) * size], prepare(update, s)
        kept = Dropout(dropout.keep[s * size : (s + 1) * size], dropout.rate)
        for i in range(len(chosen)):
            batch[i] = batches.bits[chosen[i]]
        now = whole if longest > 0 else update
        n_places, n_rows = net.layers[0, N_IN], len(chosen)
        nll[s] = fit_batch(net, batches, chosen, n_places, n_rows, kept, prepare(now, s), now.state, scratch)
        if longest > 0:
            clip(gradient, longest)
            for l in range(len(net.layers)):
                start, bias = net.layers[l, WEIGHTS], net.layers[l, BIAS]
                update_row(net.theta, start, gradient[start:bias], rule, state)
                if net.layers[l, DIRECT] >= 0:
                    stop = bias + PANEL * net.layers[l, N_PANELS]
                    update_row(net.theta, bias, gradient[bias:stop], for_bias(rule, gradient.dtype.type), state)
