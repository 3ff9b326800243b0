"""Numba kernels on parameters that several connectivities share: ``pack`` and ``train_shared``.

Not here: the passes through the network (``network.py``).

For every sorted input, its row of weights in ``shared`` meets the row of the same number of every panel that is deep enough.
Units are sorted by live count, so those that see input k are the last ones, from a first one on that only moves forward.
"""

from __future__ import annotations

import numpy as np

from made_fast.kernels import layout as at
from made_fast.kernels.jit import rows
from made_fast.kernels.jit.network import fit_batch, room_for_batch
from made_fast.kernels.jit.rows import PANEL, Float64, Int32, Int64, Real, Step, inline, kernel
from made_fast.kernels.optimizers import CLIP, GRADIENT
from made_fast.kernels.records import Batches, Crew, Dropout, Masks, Net, Shared, TrainScratch, Update

__all__ = ["pack", "train_shared"]


@kernel
def pack(shared: Shared, order: Int32, net: Net) -> None:
    """See ``reference.pack``."""
    for l in range(len(net.layers)):
        layer, row = net.layers[l], shared.layout[l]
        inputs, units, live = order[row[at.IN_ORDER] :], order[row[at.OUT_ORDER] :], net.n_live[layer[at.UNITS] :]
        n_out, panels, bias = layer[at.N_OUT], layer[at.N_PANELS], net.theta[layer[at.BIAS] :]
        bias[: PANEL * panels] = 0
        if row[at.SHARED_BIAS] >= 0:
            for j in range(n_out):
                bias[j] = shared.values[row[at.SHARED_BIAS] + units[j]]
        done = 0  # units that see no more inputs
        for k in range(layer[at.N_IN]):
            while done < n_out and live[done] <= k:
                done += 1
            W = shared.values[row[at.SHARED_WEIGHTS] + inputs[k] * row[at.ROW] :]
            U = shared.values[max(row[at.SHARED_U], 0) + inputs[k] * row[at.ROW] :]
            for p in range(done // PANEL, panels if done < n_out else 0):
                mine, w = units[p * PANEL :], net.theta[net.panel_start[layer[at.PANELS] + p] + k * PANEL :]
                # Without a sign: a number that may be negative would be tested at every access.
                first, n = np.uint64(max(done - p * PANEL, 0)), np.uint64(min(PANEL, n_out - p * PANEL))
                w[:first] = 0  # the zero corner
                for u in range(first, n):
                    w[u] = W[np.uint64(mine[u])]
                w[n:PANEL] = 0
                if row[at.SHARED_U] >= 0:
                    b = bias[p * PANEL :]
                    for u in range(first, n):
                        b[u] += U[np.uint64(mine[u])]


@inline
def _give(shared: Shared, row: int, g: Real, starts: bool, gradient: Real, step: Step, state: Real) -> None:
    """Add the gradient g of a row of ``shared`` to the whole gradient; where that has no room, update the row at once."""
    if len(gradient) == 0:
        rows.update(shared.values, row, g, step, state)
    elif starts:
        rows.copy(g, gradient[row : row + len(g)])
    else:
        rows.add(g, gradient[row : row + len(g)])


@kernel
def _unpack_gradient(
    net: Net, shared: Shared, order: Int32, starts: bool, gradient: Real, both: tuple[Step, Step], state: Real, reals: Real
) -> None:
    """Take a gradient of theta, in ``net``, to one of the shared parameters, a row at a time: ``pack`` transposed."""
    step, bias_step = both
    for l in range(len(net.layers)):
        layer, row = net.layers[l], shared.layout[l]
        inputs, units, live = order[row[at.IN_ORDER] :], order[row[at.OUT_ORDER] :], net.n_live[layer[at.UNITS] :]
        n_out, done, g, db = layer[at.N_OUT], 0, reals[: row[at.ROW]], reals[row[at.ROW] : 2 * row[at.ROW]]
        db[:] = 0
        for j in range(n_out):
            db[units[j]] = net.theta[layer[at.BIAS] + j]
        if row[at.SHARED_BIAS] >= 0:
            _give(shared, row[at.SHARED_BIAS], db, starts, gradient, bias_step, state)
        for k in range(layer[at.N_IN]):
            while done < n_out and live[done] <= k:
                db[units[done]] = 0
                done += 1
            g[:] = 0
            for p in range(done // PANEL, layer[at.N_PANELS]):
                mine, w = units[p * PANEL :], net.theta[net.panel_start[layer[at.PANELS] + p] + k * PANEL :]
                for u in range(np.uint64(max(done - p * PANEL, 0)), np.uint64(min(PANEL, n_out - p * PANEL))):
                    g[np.uint64(mine[u])] = w[u]
            _give(shared, row[at.SHARED_WEIGHTS] + inputs[k] * row[at.ROW], g, starts, gradient, step, state)
            if row[at.SHARED_U] >= 0:
                _give(shared, row[at.SHARED_U] + inputs[k] * row[at.ROW], db, starts, gradient, step, state)


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
    gradient, batch, n_inputs = scratch.gradient, room_for_batch(batches, scratch), masks.layers[0, 0, at.N_IN]
    whole = Update(int(GRADIENT), update.step, update.constants, scratch.dtheta.reshape(1, len(scratch.dtheta)))
    for i in range(len(groups)):
        group, k, s = groups[i], groups[i, at.MASK], groups[i, at.STEP]
        order, chosen = masks.orders[k], batches.rows[group[at.FIRST] : group[at.STOP]]
        kept = Dropout(dropout.keep[group[at.FIRST] : group[at.STOP]], dropout.rate)
        batch[:] = 0
        for r in range(len(chosen)):
            bits = batches.bits[chosen[r]]
            for p in range(n_inputs):
                d = np.int64(order[p])
                batch[r, p // 64] |= ((bits[d // 64] >> np.uint64(d % 64)) & np.uint64(1)) << np.uint64(p % 64)
        net = Net(scratch.theta, masks.layers[k], masks.n_live[k], masks.panel_start[k], masks.variables[k])
        pack(shared, order, net)
        part = Batches(batch[: len(chosen)], batches.weights, chosen, batches.batch_size)
        found = fit_batch(net, part, group[at.PLACES], group[at.STEP_ROWS], kept, whole, s, scratch)
        starts = i == 0 or groups[i - 1, at.STEP] != s
        nll[s] = found if starts else nll[s] + found
        dnet, both = Net(scratch.dtheta, net.layers, net.n_live, net.panel_start, net.variables), rows.steps(update, s)
        _unpack_gradient(dnet, shared, order, starts, gradient, both, update.state, scratch.reals)
        if len(gradient) > 0 and (i == len(groups) - 1 or groups[i + 1, at.STEP] != s):
            rows.clip(gradient, update.constants[CLIP])
            for l in range(len(net.layers)):
                row = shared.layout[l]
                for kind in (at.SHARED_WEIGHTS, at.SHARED_U, at.SHARED_BIAS):
                    start, is_bias = row[kind], kind == at.SHARED_BIAS
                    n = row[at.ROW] if is_bias else row[at.ROW] * net.layers[l, at.N_IN]
                    if start >= 0:
                        step = both[1] if is_bias else both[0]
                        rows.update(shared.values, start, gradient[start : start + n], step, update.state)
