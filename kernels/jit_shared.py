"""Numba kernels on parameters that several connectivities share: into panels, back, and training.

Not here: the passes through the network (``jit_layers.py``). Importing this file compiles nothing.

For every sorted input, the row of its weights in ``shared`` is gone through once, against the row of the same number in all
panels that are that deep. The units are sorted by live count, so those that see input k are the last ones: from a first
one on that only moves forward.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from made_fast.kernels.jit_layers import batch_bits, fit_batch, permute_row
from made_fast.kernels.jit_tile import Bits, Float64, Int32, Int64, Net, Real, for_bias, inline, kernel, prepare, stack, update
from made_fast.kernels.layout import (
    BIAS,
    IN_ORDER,
    N_IN,
    N_OUT,
    N_PANELS,
    OUT_ORDER,
    PANEL,
    PANELS,
    ROW,
    SHARED_BIAS,
    SHARED_U,
    SHARED_WEIGHTS,
    STRIDE,
    UNITS,
    SharedLayout,
)
from made_fast.kernels.optimizers import GRADIENT

__all__ = ["pack", "train_shared", "unpack_gradient"]


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


@inline
def _sum_live(U: Real, stride: int, inputs: Int32, units: Int32, live: Int32, out: Real) -> None:
    """Write to ``out`` the sum of the weights U of every sorted unit over the inputs it sees.

    One running sum over all inputs serves: a unit takes what it is when the unit's live prefix ends.
    """
    sums = stack(U, 1, PANEL)
    for start in range(0, stride, PANEL):  # 64 original units
        n, j = min(PANEL, stride - start), 0
        sums[:] = 0
        for k in range(len(inputs) + 1):
            while j < len(units) and live[j] <= k:
                u = units[j] - start
                if 0 <= u < n:
                    out[j] = sums[0, u]
                j += 1
            if j == len(units):
                break
            row = U[inputs[k] * stride + start :]
            for u in range(n):
                sums[0, u] += row[u]


@kernel
def pack(
    shared: Real,
    shared_layout: SharedLayout,
    order: Int32,
    theta: Real,
    layers: Int64,
    n_live: Int32,
    panel_start: Int64,
) -> None:
    """See ``reference.pack``."""
    for l in range(len(layers)):
        layer, at = layers[l], shared_layout[l]
        inputs, units = _orders(order, layer, at)
        n_out, panels, live = layer[N_OUT], layer[N_PANELS], n_live[layer[UNITS] :]
        bias = theta[layer[BIAS] :][: PANEL * panels]
        bias[:] = 0
        if at[SHARED_U] >= 0:
            _sum_live(shared[at[SHARED_U] :], at[ROW], inputs, units, live, bias)
        if at[SHARED_BIAS] >= 0:
            for j in range(n_out):
                bias[j] += shared[at[SHARED_BIAS] + units[j]]
        done = 0  # units that see no more inputs
        for k in range(len(inputs)):
            while done < n_out and live[done] <= k:
                done += 1
            if done == n_out:
                break
            row = shared[at[SHARED_WEIGHTS] + inputs[k] * at[ROW] :]
            for p in range(done // PANEL, panels):
                mine, w = units[p * PANEL :], theta[panel_start[layer[PANELS] + p] + k * PANEL :]
                first, n = _live_units(p, done, n_out)
                for u in range(first):  # the zero corner
                    w[u] = 0
                for u in range(first, n):
                    w[u] = row[np.uint64(mine[u])]
                for u in range(n, PANEL):
                    w[u] = 0


@inline
def _add_row(net: Net, layer: Int64, k: int, done: int, units: Int32, row: Real) -> None:
    """Add row k of the panels, from unit ``done`` on, to a row in original order."""
    gradient, _, _, panel_start = net
    for p in range(done // PANEL, layer[N_PANELS]):
        mine, w = units[p * PANEL :], gradient[panel_start[layer[PANELS] + p] + k * PANEL :]
        first, n = _live_units(p, done, layer[N_OUT])
        for u in range(first, n):
            row[np.uint64(mine[u])] += w[u]


@kernel
def unpack_gradient(
    gradient: Real,
    layers: Int64,
    n_live: Int32,
    panel_start: Int64,
    shared_layout: SharedLayout,
    order: Int32,
    add: bool,
    shared: Real,
) -> None:
    """See ``reference.unpack_gradient``."""
    net = (gradient, layers, n_live, panel_start)
    if not add:
        shared[:] = 0
    for l in range(len(layers)):
        layer, at = layers[l], shared_layout[l]
        inputs, units = _orders(order, layer, at)
        n_out, live, db = layer[N_OUT], n_live[layer[UNITS] :], gradient[layer[BIAS] :]
        if at[SHARED_BIAS] >= 0:
            for j in range(n_out):
                shared[at[SHARED_BIAS] + units[j]] += db[j]
        done = 0
        for k in range(len(inputs)):
            while done < n_out and live[done] <= k:
                done += 1
            _add_row(net, layer, k, done, units, shared[at[SHARED_WEIGHTS] + inputs[k] * at[ROW] :])
            if at[SHARED_U] >= 0:
                row = shared[at[SHARED_U] + inputs[k] * at[ROW] :]
                for j in range(done, n_out):
                    row[np.uint64(units[j])] += db[j]


@kernel
def _update_at_once(
    shared: Real,
    shared_layout: SharedLayout,
    order: Int32,
    net: Net,
    optimizer: int,
    step: int,
    hyper: Float64,
    state: Real,
    reals: Real,
) -> None:
    """Update ``shared`` by a gradient of one connectivity, of which only a row at a time is ever taken out of its panels."""
    gradient, layers, n_live, _ = net
    rule = prepare(shared, optimizer, step, hyper)
    for l in range(len(layers)):
        layer, at = layers[l], shared_layout[l]
        inputs, units = _orders(order, layer, at)
        n_out, live, g = layer[N_OUT], n_live[layer[UNITS] :], reals[: at[ROW]]
        g[:] = 0
        for j in range(n_out):
            g[units[j]] = gradient[layer[BIAS] + j]
        if at[SHARED_BIAS] >= 0:
            update(shared, at[SHARED_BIAS], g, optimizer, for_bias(shared, rule), state)
        if at[SHARED_U] >= 0:
            done = 0
            for k in range(len(inputs)):
                while done < n_out and live[done] <= k:
                    g[units[done]] = 0
                    done += 1
                update(shared, at[SHARED_U] + inputs[k] * at[ROW], g, optimizer, rule, state)
        done = 0
        for k in range(len(inputs)):
            while done < n_out and live[done] <= k:
                done += 1
            g[:] = 0
            _add_row(net, layer, k, done, units, g)
            update(shared, at[SHARED_WEIGHTS] + inputs[k] * at[ROW], g, optimizer, rule, state)


@kernel
def _update_by(
    gradient: Real,
    shared: Real,
    shared_layout: SharedLayout,
    layers: Int64,
    optimizer: int,
    step: int,
    hyper: Float64,
    state: Real,
    reals: Real,
) -> None:
    """Update ``shared`` by its whole gradient, scaled down where that is longer than it may be."""
    real, rule = shared.dtype.type, prepare(shared, optimizer, step, hyper)
    squares, scale = stack(hyper, 1, STRIDE), real(1.0)
    if hyper[5] > 0:
        squares[:] = 0
        for i in range(0, len(gradient), STRIDE):
            for u in range(STRIDE):
                squares[0, u] += np.float64(gradient[i + u]) * np.float64(gradient[i + u])
        norm = 0.0
        for u in range(STRIDE):
            norm += squares[0, u]
        norm = np.sqrt(norm)
        if norm > hyper[5]:
            scale = real(hyper[5] / norm)
    for l in range(len(layers)):
        at = shared_layout[l]
        for part in (SHARED_WEIGHTS, SHARED_BIAS, SHARED_U):
            n_rows = 0 if at[part] < 0 else 1 if part == SHARED_BIAS else layers[l, N_IN]
            now = for_bias(shared, rule) if part == SHARED_BIAS else rule
            for r in range(n_rows):
                start, g = at[part] + r * at[ROW], reals[: at[ROW]]
                for u in range(len(g)):
                    g[u] = scale * gradient[start + u]
                update(shared, start, g, optimizer, now, state)


@kernel
def train_shared(
    shared: Real,
    shared_layout: SharedLayout,
    orders: Int32,
    layers: Int64,
    n_live: Int32,
    panel_start: Int64,
    bits: Bits,
    weights: Float64,
    rows: Int64,
    groups: Int64,
    batch_size: int,
    keep: Bits,
    dropout: float,
    sparse: bool,
    optimizer: int,
    step: int,
    hyper: Float64,
    state: Real,
    gradient: Real,
    theta: Real,
    dtheta: Real,
    reals: Real,
    ints: Int32,
    nll: Float64,
    rank: int,
    n_ranks: int,
    sync: Int32,
) -> None:
    """See ``reference.train_shared``; ``n_ranks`` is 1."""
    n_inputs, n_words, found = layers[0, 0, N_IN], bits.shape[1], dtheta.reshape(1, len(dtheta))
    batch, places = batch_bits(ints, batch_size, n_words), ints[len(ints) - n_inputs :]
    for group in range(len(groups)):
        row, k, s = groups[group], groups[group, 2], groups[group, 4]
        order, chosen, kept = orders[k], rows[row[0] : row[1]], keep[row[0] : row[1]]
        tables = (layers[k], n_live[k], panel_start[k])
        for p in range(n_inputs):
            places[order[p]] = p
        for i in range(len(chosen)):
            permute_row(bits[chosen[i]], places, batch[i])
        pack(shared, shared_layout, order, theta, *tables)
        net, rule = (theta, *tables), (GRADIENT, 0, hyper, found)
        total = fit_batch(net, chosen, weights, row[3], row[5], batch_size, kept, dropout, sparse, *rule, reals, ints)
        starts = group == 0 or groups[group - 1, 4] != s
        ends = group == len(groups) - 1 or groups[group + 1, 4] != s
        nll[s] = total if starts else nll[s] + total
        if len(gradient) == 0:
            _update_at_once(shared, shared_layout, order, (dtheta, *tables), optimizer, step + s, hyper, state, reals)
            continue
        unpack_gradient(dtheta, *tables, shared_layout, order, not starts, gradient)
        if ends:
            _update_by(gradient, shared, shared_layout, layers[k], optimizer, step + s, hyper, state, reals)
