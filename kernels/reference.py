"""Dense NumPy kernels: slow, obviously right. The oracle of the tests.

Every kernel of the other two implementations has its twin here, under the same name and signature; the dense matrices it works
on come from ``dense.py``. Letters and array conventions: see ``made_fast.kernels``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast.kernels.dense import (
    Bits,
    Int32,
    Int64,
    Real,
    activate,
    derivative,
    forward,
    gradient_of,
    lists_to_dense,
    loss,
    masks,
    pack_layer,
    read_buffer,
    sigmoid,
    to_buffer,
    unpack_bits,
    unpack_layer,
    update,
    update_layer,
    write_buffer,
)
from made_fast.kernels.layout import (
    ACTIVATION,
    BIAS,
    IN_ORDER,
    N_IN,
    N_OUT,
    N_PANELS,
    OUT_ORDER,
    PANEL,
    ROW,
    SHARED_BIAS,
    SHARED_U,
    SHARED_WEIGHTS,
    UNITS,
    SharedLayout,
    n_chain,
)

__all__ = [
    "activate",
    "affine_backward_input",
    "affine_backward_weights",
    "affine_backward_weights_sparse",
    "affine_forward",
    "affine_forward_sparse",
    "bernoulli_nll",
    "conditionals",
    "list_ones",
    "list_rows",
    "masks",
    "pack",
    "pack_bits",
    "pack_layer",
    "read_buffer",
    "sample",
    "score",
    "train",
    "train_shared",
    "unpack_bits",
    "unpack_gradient",
    "unpack_layer",
    "write_buffer",
]

# ---------------------------------------------------------------------------------------------------------------------------
# Kernels: one step of the network
# ---------------------------------------------------------------------------------------------------------------------------


def pack_bits(x: NDArray[np.uint8], order: Int64, place: Int32, out: Bits, seen: NDArray[np.uint8]) -> None:
    """Pack rows of 0/1 as bits, in another order of columns: column p of ``out`` is column ``order[p]`` of x.

    x (n, D) IN; order (D,) IN, a permutation; place (D,) OUT, its inverse; out (n, W) OUT, bits from D on are 0; seen (1,)
    OUT, the bitwise or of all of x: if it is above 1, there was something but 0 and 1, and ``out`` means nothing.
    """
    place[order] = np.arange(len(order))
    seen[0] = np.bitwise_or.reduce(x, axis=None)
    packed = np.packbits(x[:, order] != 0, axis=1, bitorder="little")
    out[:] = 0
    for q in range(packed.shape[1]):
        out[:, q // 8] |= packed[:, q].astype(np.uint64) << np.uint64(8 * (q % 8))


def list_ones(bits: Bits, n_columns: int, count: Int32, index: Int32) -> None:
    """List the ones of each row: ``index[i, :count[i]]`` are the columns where row i is 1, ascending.

    bits (n, W) IN; count (n,) OUT; index (n, n_columns) OUT, entries from ``count[i]`` on are not written.
    """
    for i, row in enumerate(unpack_bits(bits, n_columns)):
        ones = np.flatnonzero(row)
        count[i] = len(ones)
        index[i, : len(ones)] = ones


def list_rows(bits: Bits, n_columns: int, count: Int32, index: Int32) -> None:
    """List the ones of each column: ``index[p, :count[p]]`` are the rows where column p is 1, ascending.

    bits (n, W) IN; count (n_columns,) OUT; index (n_columns, n) OUT.
    """
    for p, column in enumerate(unpack_bits(bits, n_columns).T):
        ones = np.flatnonzero(column)
        count[p] = len(ones)
        index[p, : len(ones)] = ones


def affine_forward(
    theta: Real, layers: Int64, n_live: Int32, panel_start: Int64, l: int, x: Real, direct: Real, out: Real
) -> None:
    """Masked affine layer with its activation: ``out = g(x (W * M) + b + direct)`` (eqs. 9 and 10).

    x (panels, B, 64) of n_in units IN; direct like out IN: the output of the layer of direct connections, or of length 0;
    out (panels, B, 64) of n_out units OUT, units from n_out on hold nothing of use.
    """
    W, mask, b = unpack_layer(theta, layers, n_live, panel_start, l)
    n_in, n_out = W.shape
    z = read_buffer(x, n_in) @ (W * mask) + b
    write_buffer(activate(z + read_buffer(direct, n_out) if len(direct) else z, layers[l, ACTIVATION]), out)


def affine_forward_sparse(
    theta: Real,
    layers: Int64,
    n_live: Int32,
    panel_start: Int64,
    l: int,
    count: Int32,
    index: Int32,
    out: Real,
) -> None:
    """Do ``affine_forward`` on binary input given by its ones: count (B,), index (B, n_in) as from ``list_ones``."""
    x = to_buffer(lists_to_dense(count, index, layers[l, N_IN], theta.dtype))
    affine_forward(theta, layers, n_live, panel_start, l, x, x[:0], out)


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
    x = unpack_bits(bits, n_columns)
    nll[:] = np.logaddexp(0, np.where(x == 1, -a, a).astype(np.float64)).sum(axis=1)
    scales = scale * (weights if len(weights) else np.ones(len(a)))
    write_buffer(scales.astype(a.dtype)[:, None] * (sigmoid(a) - x), dlogits)


def affine_backward_input(
    theta: Real, layers: Int64, n_live: Int32, panel_start: Int64, l: int, dz: Real, h: Real, dh: Real
) -> None:
    """Gradient of layer l's input, taken on through the activation that made it.

    In the forward pass this was ``z_l = h (W * M) + b`` with ``h = g(z_{l-1})``; so now
    ``dh = dz (W * M)^T * g'(z_{l-1})``, the gradient of z_{l-1}.

    dz (panels, B, 64) of n_out units IN; h (panels, B, 64) of n_in units IN; dh like h OUT, 0 in the fill-up units.
    """
    W, mask, _ = unpack_layer(theta, layers, n_live, panel_start, l)
    n_in, n_out = W.shape
    write_buffer((read_buffer(dz, n_out) @ (W * mask).T) * derivative(read_buffer(h, n_in), layers[l - 1, ACTIVATION]), dh)


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
    hyper: NDArray[np.float64],
    state: Real,
) -> None:
    """Gradient of layer l's weights and bias, and the optimiser's update with it.

    In the forward pass this was ``z = x (W * M) + b``; so now ``dW = (x^T dz) * M`` and ``db = sum_b dz_b``. The bias of
    direct connections stays as it is.

    theta IN OUT; x (panels, B, 64) of n_in units IN; dz (panels, B, 64) of n_out units IN, 0 in the fill-up units;
    optimizer, hyper (6,), state (n_state, len(theta)) IN OUT: see ``optimizers.py``; step: updates made before this one.
    """
    rows, d = read_buffer(x, layers[l, N_IN]), read_buffer(dz, layers[l, N_OUT])
    _, mask, _ = unpack_layer(theta, layers, n_live, panel_start, l)
    gradient = np.zeros_like(theta)
    pack_layer((rows.T @ d) * mask, d.sum(axis=0), layers, n_live, panel_start, l, gradient)
    update_layer(theta, gradient, layers, panel_start, l, optimizer, step, hyper, state)


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
    hyper: NDArray[np.float64],
    state: Real,
) -> None:
    """Do ``affine_backward_weights`` on binary input given by place: count (n_in,), index (n_in, B) as from ``list_rows``."""
    x = to_buffer(lists_to_dense(count, index, dz.shape[1], theta.dtype).T)
    affine_backward_weights(theta, layers, n_live, panel_start, l, x, dz, optimizer, step, hyper, state)


# ---------------------------------------------------------------------------------------------------------------------------
# Kernels: the whole network
# ---------------------------------------------------------------------------------------------------------------------------


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
    log_p: NDArray[np.float64],
) -> None:
    """Log-likelihood of each row in nats: ``log p(x) = sum_d log p(x_d | x_<d)`` (eq. 5), over the first n_places places.

    bits (n, W) IN, in order of place; n_places: D gives log p(x), fewer give the log marginal of the first inputs; sparse:
    read the input by its ones rather than as numbers (the same bits come out); block: rows worked on at once; reals, ints:
    scratch, see ``score_workspace(layout, block)``; log_p (n,) float64 OUT.
    """
    x = unpack_bits(bits, layers[0, N_IN])
    a = forward(theta, layers, n_live, panel_start, x.astype(theta.dtype))[-1].astype(np.float64)
    log_p[:] = -np.logaddexp(0, np.where(x == 1, -a, a))[:, :n_places].sum(axis=1)


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
    """Every conditional of each row: ``proba[b, p] = p(x at place p + 1 is 1 | the places before it)``, (n, D) OUT."""
    x = unpack_bits(bits, layers[0, N_IN]).astype(theta.dtype)
    proba[:] = sigmoid(forward(theta, layers, n_live, panel_start, x)[-1])


def sample(
    theta: Real,
    layers: Int64,
    n_live: Int32,
    panel_start: Int64,
    uniforms: NDArray[np.float64],
    block: int,
    reals: Real,
    ints: Int32,
    x: NDArray[np.uint8],
) -> None:
    """Ancestral sampling: x at place p + 1 is 1 where ``uniforms[b, p] < p(1 | the places before it)``.

    Here by D full passes; the other implementations walk the ordering once and give the same rows. A uniform below 0 gives a 1
    for certain, one above 1 a 0: so evidence is put in.

    uniforms (n, D) float64 IN; block, reals, ints: see ``sample_workspace(layout, block)``; x (n, D) uint8 OUT.
    """
    x[:] = 0
    for p in range(x.shape[1]):
        a = forward(theta, layers, n_live, panel_start, x.astype(theta.dtype))[-1]
        x[:, p] = uniforms[:, p] < sigmoid(a[:, p])


def train(
    theta: Real,
    layers: Int64,
    n_live: Int32,
    panel_start: Int64,
    bits: Bits,
    weights: NDArray[np.float64],
    rows: Int64,
    batch_size: int,
    sparse: bool,
    optimizer: int,
    step: int,
    hyper: NDArray[np.float64],
    state: Real,
    reals: Real,
    ints: Int32,
    nll: NDArray[np.float64],
    rank: int,
    n_ranks: int,
    sync: Int32,
) -> None:
    """Make one optimiser step on each mini-batch of ``bits[rows]``; its loss is ``1/B sum_b weights[b] nll[b]``.

    theta, state IN OUT; bits (n, W) IN; weights (n,) float64 IN, or of length 0 for 1 everywhere; rows (m,) int64 IN: the rows
    in the order of use, ``batch_size`` a step, the last step may be shorter; step: updates made before; reals, ints: scratch,
    see ``train_workspace``; nll (ceil(m / batch_size),) float64 OUT: B times the loss of each step, before its update.

    With ``n_ranks > 1`` all ranks 0 .. n_ranks - 1 must call at the same time with the same arrays, each from its own
    thread; they divide the work and meet at barriers in ``sync`` (64,) int32, all 0 at the start. Only ``native`` does that.
    When ``sync[48]`` is set to 1 all ranks return soon, from a wait for one that never comes or from the midst of a step; of
    that step's update, some weights have been made, each with its state, and the others have not.
    """
    net = theta, layers, n_live, panel_start
    for i in range(len(nll)):
        batch = rows[i * batch_size : (i + 1) * batch_size]
        x = unpack_bits(bits[batch], layers[0, N_IN]).astype(theta.dtype)
        outputs = forward(*net, x)
        nll[i], dz = loss(outputs[-1], x, x.shape[1], weights[batch] if len(weights) else np.ones(len(batch)), len(batch))
        gradient = gradient_of(*net, x, outputs, dz)
        for l in range(len(layers)):
            update_layer(theta, gradient, layers, panel_start, l, optimizer, step + i, hyper, state)


# ---------------------------------------------------------------------------------------------------------------------------
# Kernels: parameters that several connectivities share
# ---------------------------------------------------------------------------------------------------------------------------


def _shared_weights(shared: Real, layer: Int64, start: int, row: Int64) -> Real:
    """Return the (n_in, n_out) matrix that begins at ``start``, in original order, as a view."""
    return shared[start : start + layer[N_IN] * row[ROW]].reshape(layer[N_IN], row[ROW])[:, : layer[N_OUT]]


def _orders(order: Int32, layer: Int64, row: Int64) -> tuple[Int32, Int32]:
    """Return the original numbers of a layer's sorted inputs and units."""
    return order[row[IN_ORDER] :][: layer[N_IN]], order[row[OUT_ORDER] :][: layer[N_OUT]]


def pack(
    shared: Real,
    shared_layout: SharedLayout,
    order: Int32,
    theta: Real,
    layers: Int64,
    n_live: Int32,
    panel_start: Int64,
) -> None:
    """Gather the shared parameters into the panels of one connectivity: W, and ``b + (U * M)^T 1`` as the bias.

    shared, order (see ``layout.SharedLayout``) IN; theta OUT, of at least the connectivity's length.
    """
    for l, (layer, row) in enumerate(zip(layers, shared_layout, strict=True)):
        inputs, units = _orders(order, layer, row)
        W = _shared_weights(shared, layer, row[SHARED_WEIGHTS], row)[np.ix_(inputs, units)]
        live = n_live[layer[UNITS] :][: layer[N_OUT]]
        bias = np.zeros(layer[N_OUT], shared.dtype)
        if row[SHARED_BIAS] >= 0:
            bias = shared[row[SHARED_BIAS] :][units]
        if row[SHARED_U] >= 0:
            U = _shared_weights(shared, layer, row[SHARED_U], row)[np.ix_(inputs, units)]
            bias = bias + (U * (np.arange(layer[N_IN])[:, None] < live)).sum(axis=0)
        theta[layer[BIAS] : layer[BIAS] + PANEL * layer[N_PANELS]] = 0
        pack_layer(W, bias, layers, n_live, panel_start, l, theta)


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
    """Take a gradient of theta to one of the shared parameters: ``pack`` transposed. Dead weights and fill-up get 0.

    gradient like theta IN; add: add to what is there; shared OUT (IN OUT with ``add``).
    """
    if not add:
        shared[:] = 0
    for l, (layer, row) in enumerate(zip(layers, shared_layout, strict=True)):
        inputs, units = _orders(order, layer, row)
        dW, mask, db = unpack_layer(gradient, layers, n_live, panel_start, l)
        _shared_weights(shared, layer, row[SHARED_WEIGHTS], row)[np.ix_(inputs, units)] += dW * mask
        if row[SHARED_BIAS] >= 0:
            shared[row[SHARED_BIAS] + units] += db
        if row[SHARED_U] >= 0:
            _shared_weights(shared, layer, row[SHARED_U], row)[np.ix_(inputs, units)] += db * mask


def train_shared(
    shared: Real,
    shared_layout: SharedLayout,
    orders: Int32,
    layers: Int64,
    n_live: Int32,
    panel_start: Int64,
    bits: Bits,
    weights: NDArray[np.float64],
    rows: Int64,
    groups: Int64,
    batch_size: int,
    keep: Bits,
    dropout: float,
    sparse: bool,
    optimizer: int,
    step: int,
    hyper: NDArray[np.float64],
    state: Real,
    gradient: Real,
    theta: Real,
    dtheta: Real,
    reals: Real,
    ints: Int32,
    nll: NDArray[np.float64],
    rank: int,
    n_ranks: int,
    sync: Int32,
) -> None:
    """Do ``train`` on parameters shared by several connectivities, with whatever else a step may ask for.

    A step is one group of rows or more; a group has a connectivity of its own. The loss is again the weighted sum of the rows'
    NLL over the rows of the step; the NLL of a group's rows counts the first so many places.

    shared, state (n_state, len(shared)) IN OUT; orders, layers, n_live, panel_start: the tables of K connectivities, with K
    first, IN; bits (n, W) IN, here **in order of feature**; weights (n,) float64 IN, or of length 0; rows (m,) int64 IN, in
    the order of use; groups (G, 6) int64 IN: first row in ``rows``, the one after the last, connectivity, places that count,
    step (from 0, in order), rows of the step; batch_size: the most rows of a group.

    keep (m, sum of hidden panels) uint64 IN, or of length 0: unit 64 p + u of a hidden layer is dropped for row i where bit u
    of word p of that layer is 0; dropout: the probability of that, kept units are multiplied by 1 / (1 - dropout).

    hyper: see ``optimizers.py``; gradient like shared OUT, or of length 0 if no step has two groups and nothing is clipped;
    theta, dtheta: scratch, as long as the longest theta of a connectivity; reals, ints: scratch, see
    ``shared_train_workspace``; nll (steps,) float64 OUT; the rest as in ``train``.
    """
    rule = optimizer, step, hyper, state
    for g, (first, stop, k, n_places, i, n_rows) in enumerate(groups):
        net = theta, layers[k], n_live[k], panel_start[k]
        starts = g == 0 or groups[g - 1, 4] != i
        batch = rows[first:stop]
        x = unpack_bits(bits[batch], layers[k, 0, N_IN]).astype(theta.dtype)[:, orders[k, : layers[k, 0, N_IN]]]
        pack(shared, shared_layout, orders[k], *net)
        kept = _keep(keep[first:stop], layers[k], dropout, theta.dtype) if len(keep) else None
        outputs = forward(*net, x, kept)
        total, dz = loss(outputs[-1], x, n_places, weights[batch] if len(weights) else np.ones(len(batch)), n_rows)
        nll[i] = total if starts else nll[i] + total
        found = np.zeros_like(shared)
        unpack_gradient(gradient_of(*net, x, outputs, dz, kept), *net[1:], shared_layout, orders[k], False, found)
        if len(gradient):
            gradient[:] = found if starts else gradient + found
            found = gradient
        if g + 1 < len(groups) and groups[g + 1, 4] == i:
            continue
        norm = np.sqrt((found.astype(np.float64) ** 2).sum())
        if hyper[5] and norm > hyper[5]:
            found = found * found.dtype.type(hyper[5] / norm)
        decays = np.ones(len(shared), np.bool_)
        for row in shared_layout:
            if row[SHARED_BIAS] >= 0:
                decays[row[SHARED_BIAS] :][: row[ROW]] = False
        for part in (decays, ~decays):
            w, part_state = shared[part], state[:, part]
            update(w, found[part], rule[0], rule[1] + i, hyper, part_state, decays=bool(decays[part].any()))
            shared[part], state[:, part] = w, part_state


def _keep(keep: Bits, layers: Int64, dropout: float, dtype: Any) -> list[Real]:
    """Return what the output of each hidden layer is multiplied by."""
    factors, word = [], 0
    for layer in layers[: n_chain(layers) - 1]:
        kept = unpack_bits(np.ascontiguousarray(keep[:, word : word + layer[N_PANELS]]), layer[N_OUT])
        factors.append(kept.astype(dtype) * dtype.type(1 / (1 - dropout)))
        word += layer[N_PANELS]
    return factors
