"""Walks along the ordering, with Numba: rows that are drawn, and walks with evidence.

A unit is final once the inputs it sees are drawn. One walk over the places draws an input, then finishes the units that have
become final. The sums of a layer's panel are brought up to date, in the order of the full pass, as its units are finished, one
after the other: what is drawn is what full passes would draw, bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast.kernels.jit import rows
from made_fast.kernels.jit.levels import choose, put
from made_fast.kernels.jit.network import output
from made_fast.kernels.jit.rows import PANEL, Bits, Float64, Int32, Int64, Real, inline, kernel, n_chain, panel
from made_fast.kernels.layout import ACTIVATION, CODING, DIRECT, N_IN, N_OUT, START, UNITS
from made_fast.kernels.records import Net, Scratch

__all__ = ["sample", "walk"]


@inline
def _reach(net: Net, l: int, j: int, h: Real, z: Real) -> None:
    """Bring the sums z (m, 64) of unit j's panel up to the live prefix of unit j; h is the layer below."""
    w, live, bias = panel(net, l, j // PANEL)
    seen: Any = np.int64(live[j % PANEL - 1]) if j % PANEL > 0 else np.int64(0)
    end: Any = np.int64(live[j % PANEL])
    if j % PANEL == 0:
        for i in range(len(z)):
            rows.copy(net.theta[bias : bias + PANEL], z[i])
    while seen < end:
        n = min(end - seen, PANEL - seen % PANEL)
        rows.add_product(z, h[seen // PANEL][:, seen % PANEL :], w[seen:], n)
        seen += n


@inline
def _finish(net: Net, l: int, j: int, block: int, x: Real, outputs: Real, code: Any, column: Real) -> None:
    """Make unit j of layer l of the chain final; put its output for every row, by an activation, in ``column``."""
    layers, m, u, direct = net.layers, len(column), j % PANEL, net.layers[l, DIRECT]
    z, h = output(outputs, layers, l, block, m)[j // PANEL], x
    if l > 0:
        h = output(outputs, layers, l - 1, block, m)
    _reach(net, l, j, h, z)
    for i in range(m):
        column[i] = z[i, u]
    if direct > 0:
        a = output(outputs, layers, direct, block, m)[j // PANEL]
        _reach(net, direct, j, x, a)
        for i in range(m):
            column[i] += a[i, u]
    rows.activate(column, code)
    for i in range(m):
        z[i, u] = column[i]


@inline
def _finish_hidden(net: Net, drawn: Any, block: int, x: Real, outputs: Real, done: Int32, column: Real) -> None:
    """Finish the hidden units that see nothing but the first ``drawn`` inputs; ``done``: how many of every layer are."""
    layers, final = net.layers, drawn
    for l in range(len(done)):
        live, direct = net.n_live[layers[l, UNITS] :], net.n_live[layers[layers[l, DIRECT], UNITS] :]
        j: Any = np.int64(done[l])
        while j < layers[l, N_OUT] and live[j] <= final and (layers[l, DIRECT] <= 0 or direct[j] <= drawn):
            _finish(net, l, j, block, x, outputs, layers[l, ACTIVATION], column)
            j += 1
        done[l] = final = j


@kernel
def sample(net: Net, uniforms: Float64, columns: Int64, block: int, scratch: Scratch, x: NDArray[np.uint8]) -> None:
    """See ``reference.sample``."""
    layers, last, outputs = net.layers, n_chain(net.layers) - 1, scratch.reals
    done = scratch.ints[:last]  # of every hidden layer, how many units are final
    for start in range(0, len(uniforms), block):
        m = min(block, len(uniforms) - start)
        # the logits give way to what is drawn by them
        column, drawn = outputs[len(outputs) - m :], output(outputs, layers, last, block, m)
        done[:] = 0
        for p in range(layers[0, N_IN]):
            _finish(net, last, p, block, drawn, outputs, rows.SIGMOID, column)
            for i in range(m):
                x[start + i, columns[p]] = drawn[p // PANEL, i, p % PANEL] = uniforms[start + i, p] < column[i]
            _finish_hidden(net, p + 1, block, drawn, outputs, done, column)


@inline
def _n_levels(table: Int32, v: Any) -> Any:
    """Return the number of levels of the variable at place v + 1."""
    width = np.int64(table[v + 1, START]) - np.int64(table[v, START]) if len(table) > 0 else np.int64(1)
    return width + 1 if width < 2 else width


@kernel
def walk(
    net: Net,
    context: Bits,
    given: Int32,
    weights: Float64,
    partners: Int32,
    uniforms: Float64,
    n_places: int,
    block: int,
    scratch: Scratch,
    levels: Int32,
    log_mass: Float64,
) -> None:
    """See ``reference.walk``."""
    layers, last, outputs, table = net.layers, n_chain(net.layers) - 1, scratch.reals, net.variables
    done = scratch.ints[:last]  # of every hidden layer, how many units are final
    n_context = np.int64(table[0, START]) if len(table) > 0 else np.int64(0)
    widest = np.int64(2)
    for v in range(len(table) - 1):
        widest = max(widest, np.int64(table[v + 1, START]) - np.int64(table[v, START]))
    room = 2 * widest + block  # at the end: a logit and a share of each level, one number of each row
    for first_row in range(0, len(given), block):
        m = min(block, len(given) - first_row)
        column, spare = outputs[len(outputs) - m :], outputs[len(outputs) - room :]
        x = outputs[: (layers[0, N_IN] + PANEL - 1) // PANEL * m * PANEL].reshape(-1, m, PANEL)
        rest = outputs[(layers[0, N_IN] + PANEL - 1) // PANEL * block * PANEL :]
        x[:] = 0
        for i in range(m if n_context > 0 else 0):
            for q in range(n_context):
                x[q // PANEL, i, q % PANEL] = np.int64((context[first_row + i, q // 64] >> np.uint64(q % 64)) & np.uint64(1))
        log_mass[first_row : first_row + m] = 0
        done[:] = 0
        _finish_hidden(net, n_context, block, x, rest, done, column)
        start: Any = n_context
        first = 0
        for v in range(n_places):
            width: Any = np.int64(1)
            if len(table) > 0:
                width = np.int64(table[v + 1, START]) - start
            n_levels = width + 1 if width < 2 else width
            for q in range(width):
                _finish(net, last, start - n_context + q, block, x, rest, rows.IDENTITY, column)
            logits = output(rest, layers, last, block, m)
            z, share = spare[:n_levels], spare[n_levels : 2 * n_levels]
            z[0] = 0  # of a binary variable, level 0 has the logit 0
            partner = np.int64(partners[v]) if len(partners) > 0 else np.int64(-1)
            own = weights[first : first + n_levels] if len(weights) > 0 else weights
            for i in range(m):
                for q in range(width):
                    j = start - n_context + q
                    z[q + n_levels - width] = logits[j // PANEL, i, j % PANEL]
                r = first_row + i
                if partner >= 0:
                    own = weights[first + levels[r, partner] * n_levels :][:n_levels]
                level, mass = choose(z, share, own, np.int64(given[r, v]), uniforms[r, v])
                log_mass[r] += mass
                levels[r, v] = level
                put(x, i, start, width, np.int64(table[v, CODING]) if len(table) > 0 else 0, level)
            first += n_levels * _n_levels(table, partner) if partner >= 0 else n_levels
            start += width
            _finish_hidden(net, start, block, x, rest, done, column)
