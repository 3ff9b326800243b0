"""Numba kernels on parameters that several connectivities share: ``pack`` and ``train_shared``.

Not here: the passes through the network (``layers.py``).

For every sorted input, the row of its weights in ``shared`` is gone through once, against the row of the same number in all
panels that are that deep. The units are sorted by live count, so those that see input k are the last ones: from a first
one on that only moves forward.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from made_fast.kernels.jit.layers import fit_batch, lowest_one, room_for_batch
from made_fast.kernels.jit.rows import (
    Bits,
    Float64,
    Int32,
    Int64,
    Real,
    Rule,
    clip,
    for_bias,
    inline,
    kernel,
    prepare,
    update_row,
)
from made_fast.kernels.layout import (
    BIAS,
    FIRST,
    IN_ORDER,
    MASK,
    N_IN,
    N_OUT,
    N_PANELS,
    OUT_ORDER,
    PANEL,
    PANELS,
    PLACES,
    ROW,
    SHARED_BIAS,
    SHARED_U,
    SHARED_WEIGHTS,
    STEP,
    STEP_ROWS,
    STOP,
    UNITS,
)
from made_fast.kernels.optimizers import CLIP, GRADIENT
from made_fast.kernels.records import Batches, Crew, Dropout, Masks, Net, Shared, TrainScratch, Update

__all__ = ["pack", "train_shared"]


@inline
def _orders(order: Int32, layer: Int64, row: Int64) -> tuple[Int32, Int32]:
    """Return the original numbers of a layer's sorted inputs and units."""
    return order[row[IN_ORDER] :][: layer[N_IN]], order[row[OUT_ORDER] :][: layer[N_OUT]]


@inline
def _live_units(p: int, done: int, n_out: int) -> tuple[Any, Any]:
    """Return the first and the end of panel p's true units from unit ``done`` of the layer on.

    As uint64: a number that may be negative would be tested at every access.
    """
    return np.uint64(max(done - p * PANEL, 0)), np.uint64(min(PANEL, n_out - p * PANEL))


@kernel
def pack(shared: Shared, order: Int32, net: Net) -> None:
    """See ``reference.pack``."""
    for l in range(len(net.layers)):
        layer, at = net.layers[l], shared.layout[l]
        inputs, units = _orders(order, layer, at)
        n_out, panels, live, bias = layer[N_OUT], layer[N_PANELS], net.n_live[layer[UNITS] :], net.theta[layer[BIAS] :]
        bias[: PANEL * panels] = 0
        if at[SHARED_BIAS] >= 0:
            for j in range(n_out):
                bias[j] = shared.values[at[SHARED_BIAS] + units[j]]
        done = 0  # units that see no more inputs
        for k in range(len(inputs)):
            while done < n_out and live[done] <= k:
                done += 1
            row = shared.values[at[SHARED_WEIGHTS] + inputs[k] * at[ROW] :]
            extra = shared.values[max(at[SHARED_U], 0) + inputs[k] * at[ROW] :]
            for p in range(done // PANEL, panels if done < n_out else 0):
                mine, w = units[p * PANEL :], net.theta[net.panel_start[layer[PANELS] + p] + k * PANEL :]
                first, n = _live_units(p, done, n_out)
                w[:first] = 0  # the zero corner
                for u in range(first, n):
                    w[u] = row[np.uint64(mine[u])]
                w[n:PANEL] = 0
                if at[SHARED_U] >= 0:
                    b = bias[p * PANEL :]
                    for u in range(first, n):
                        b[u] += extra[np.uint64(mine[u])]


@inline
def _give(shared: Shared, at: int, g: Real, starts: bool, gradient: Real, rule: Rule, state: Real) -> None:
    """Add the gradient g of a row of ``shared`` to the whole gradient; where that has no room, update the row at once."""
    if len(gradient) == 0:
        update_row(shared.values, at, g, rule, state)
    elif starts:
        for u in range(len(g)):
            gradient[at + u] = g[u]
    else:
        for u in range(len(g)):
            gradient[at + u] += g[u]


@kernel
def _unpack_gradient(
    net: Net, shared: Shared, order: Int32, starts: bool, gradient: Real, rule: Rule, state: Real, reals: Real
) -> None:
    """Take a gradient of theta, in ``net``, to one of the shared parameters, a row at a time: ``pack`` transposed."""
    real = reals.dtype.type
    for l in range(len(net.layers)):
        layer, at = net.layers[l], shared.layout[l]
        inputs, units = _orders(order, layer, at)
        n_out, live, g, db = layer[N_OUT], net.n_live[layer[UNITS] :], reals[: at[ROW]], reals[at[ROW] : 2 * at[ROW]]
        db[:] = 0
        for j in range(n_out):
            db[units[j]] = net.theta[layer[BIAS] + j]
        if at[SHARED_BIAS] >= 0:
            _give(shared, at[SHARED_BIAS], db, starts, gradient, for_bias(rule, real), state)
        done = 0
        for k in range(len(inputs)):
            while done < n_out and live[done] <= k:
                db[units[done]] = 0
                done += 1
            g[:] = 0
            for p in range(done // PANEL, layer[N_PANELS]):
                mine, w = units[p * PANEL :], net.theta[net.panel_start[layer[PANELS] + p] + k * PANEL :]
                first, n = _live_units(p, done, n_out)
                for u in range(first, n):
                    g[np.uint64(mine[u])] = w[u]
            _give(shared, at[SHARED_WEIGHTS] + inputs[k] * at[ROW], g, starts, gradient, rule, state)
            if at[SHARED_U] >= 0:
                _give(shared, at[SHARED_U] + inputs[k] * at[ROW], db, starts, gradient, rule, state)


@kernel
def _permute(bits: Bits, place: Int32, out: Bits) -> None:
    """Write to ``out`` the bits of one row in another order, given the place of every column."""
    out[:] = 0
    for q in range(len(bits)):
        word = bits[q]
        while word != 0:
            p = np.int64(place[64 * q + lowest_one(word)])
            out[p // 64] |= np.uint64(1) << np.uint64(p % 64)
            word &= word - np.uint64(1)


@kernel
def train_shared(
    shared: Shared,
    masks: Masks,
    batches: Batches,
    groups: Int64,
    dropout: Dropout,
    update: Update,
    scratch: TrainScratch,
    nll: Float64,
    crew: Crew,
) -> None:
    """See ``reference.train_shared``; for one rank."""
    n_inputs, gradient, state, real = masks.layers[0, 0, N_IN], scratch.gradient, update.state, scratch.reals.dtype.type
    batch, places = room_for_batch(batches, scratch), scratch.ints[len(scratch.ints) - n_inputs :]
    whole = Update(np.int64(GRADIENT), update.step, update.constants, scratch.dtheta.reshape(1, len(scratch.dtheta)))
    for i in range(len(groups)):
        group, k, s = groups[i], groups[i, MASK], groups[i, STEP]
        order, chosen = masks.orders[k], batches.rows[group[FIRST] : group[STOP]]
        kept = Dropout(dropout.keep[group[FIRST] : group[STOP]], dropout.rate)
        for p in range(n_inputs):
            places[order[p]] = p
        for r in range(len(chosen)):
            _permute(batches.bits[chosen[r]], places, batch[r])
        net = Net(scratch.theta, masks.layers[k], masks.n_live[k], masks.panel_start[k])
        pack(shared, order, net)
        found = fit_batch(net, batches, chosen, group[PLACES], group[STEP_ROWS], kept, prepare(whole, s), whole.state, scratch)
        starts = i == 0 or groups[i - 1, STEP] != s
        nll[s] = found if starts else nll[s] + found
        dnet, rule = Net(scratch.dtheta, net.layers, net.n_live, net.panel_start), prepare(update, s)
        _unpack_gradient(dnet, shared, order, starts, gradient, rule, state, scratch.reals)
        if len(gradient) > 0 and (i == len(groups) - 1 or groups[i + 1, STEP] != s):
            clip(gradient, update.constants[CLIP])
            for l in range(len(net.layers)):
                at = shared.layout[l]
                for part in (SHARED_WEIGHTS, SHARED_U, SHARED_BIAS):
                    start, n_rows = at[part], 1 if part == SHARED_BIAS else net.layers[l, N_IN]
                    if start >= 0:
                        run = gradient[start : start + n_rows * at[ROW]]
                        update_row(shared.values, start, run, for_bias(rule, real) if part == SHARED_BIAS else rule, state)
