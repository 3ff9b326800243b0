"""Dense NumPy kernels: slow, obviously right. The oracle of the tests.

Every kernel of the other two implementations has its twin here, under the same name and signature. Its parts stand in
``dense.py`` and ``blocks.py``. Letters and array conventions: see ``made_fast.kernels``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from made_fast.kernels import layout as at
from made_fast.kernels.optimizers import CLIP
from made_fast.kernels.records import Batches, Crew, Dropout, Masks, Net, Scratch, Shared, TrainScratch, Update
from made_fast.kernels.reference import dense
from made_fast.kernels.reference.blocks import affine_backward_input, affine_backward_weights, affine_forward, bernoulli_nll
from made_fast.kernels.reference.dense import Bits, Int32, Int64, Real, forward, sigmoid, unpack_bits

__all__ = [
    "affine_backward_input", "affine_backward_weights", "affine_forward", "apply_gradient", "bernoulli_nll", "conditionals",
    "pack", "pack_bits", "sample", "score", "score_row", "train", "train_latent", "train_shared", "walk",
]  # fmt: skip


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


def score(net: Net, bits: Bits, n_places: int, block: int, scratch: Scratch, log_p: NDArray[np.float64]) -> None:
    """Log-likelihood of each row in nats: ``log p(x) = sum_d log p(x_d | x_<d)`` (eq. 5), over the first n_places places.

    bits (n, W) IN, in order of place; n_places: all variables give log p(x), fewer the log marginal of the first; block:
    rows worked on at once; scratch: see ``layout.score_workspace(layout, block)``; log_p (n,) float64 OUT.
    """
    x = unpack_bits(bits, net.layers[0, at.N_IN]).astype(net.theta.dtype)
    log_p[:] = -dense.row_nll(net, forward(net, x)[-1], x, n_places)


def score_row(
    net: Net, x: NDArray[np.uint8], order: Int64, scratch: Scratch, log_p: NDArray[np.float64], seen: NDArray[np.uint8]
) -> None:
    """``pack_bits`` and ``score`` of a lone row of binary variables in one call: for one row, calls take most of the time.

    x (1, D) IN; order (D,) IN; scratch: see ``layout.row_workspace(layout)``; log_p (1,) OUT; seen (1,) OUT: if it is above 1,
    there was something but 0 and 1, and ``log_p`` means nothing.
    """
    D = len(order)
    place, bits = np.empty(D, np.int32), np.empty((1, -(-D // 64)), np.uint64)
    pack_bits(x, order, place, bits, seen)
    score(net, bits, D, 1, scratch, log_p)


def conditionals(net: Net, bits: Bits, block: int, scratch: Scratch, proba: Real) -> None:
    """Every conditional of each row: ``proba[b, p] = p(x at place p + 1 is 1 | the places before it)``, (n, D) OUT.

    For a variable with more than two levels, those of its levels: (n, logits).
    """
    x = unpack_bits(bits, net.layers[0, at.N_IN]).astype(net.theta.dtype)
    proba[:] = dense.probabilities(net, forward(net, x)[-1])


def sample(
    net: Net, uniforms: NDArray[np.float64], columns: NDArray[np.int64], block: int, scratch: Scratch, x: NDArray[np.uint8]
) -> None:
    """Ancestral sampling: x at place p + 1 is 1 where ``uniforms[b, p] < p(1 | the places before it)``.

    Here by D full passes; the other implementations walk the ordering once and give the same rows. A uniform below 0 gives a 1
    for certain, one above 1 a 0: so evidence is put in.

    uniforms (n, D) float64 IN; columns (D,) int64 IN: the column of x in which the bits of place p + 1 go; block, scratch: see
    ``layout.sample_workspace(layout, block)``; x (n, D) uint8 OUT.
    """
    x[:] = 0
    for p in range(x.shape[1]):
        a = forward(net, x[:, columns].astype(net.theta.dtype))[-1]
        x[:, columns[p]] = uniforms[:, p] < sigmoid(a[:, p])


def walk(
    net: Net,
    context: Bits,
    given: Int32,
    weights: NDArray[np.float64],
    partners: Int32,
    uniforms: NDArray[np.float64],
    n_places: int,
    block: int,
    scratch: Scratch,
    levels: Int32,
    log_mass: NDArray[np.float64],
) -> None:
    """Walk along the first n_places places, with evidence: variables that are given, and weights of the levels of others.

    At each place, a variable that is not given gets level c with a probability proportional to ``weight[c] p(c | the levels
    before it)``: that in which its uniform, times the sum of these, falls, the last level first, so that a binary variable is
    drawn as by ``sample``. A uniform below 0 takes the level for which it is largest, the first of them. The mass of a place
    is that sum (1 without weights), or, if the variable is given, p(level | those before it); so ``log_mass``, the sum of
    their logs, makes the walk a sample of weight ``exp(log_mass)``, whose mean over walks is the probability of the evidence.

    Here by full passes. For variables that are all binary, too.

    context (n, W) uint64 IN, the bits before the first variable, or (0, 0); given (n, V) int32 IN, the level of each variable
    in order of place, -1: not given; weights (sum of levels,) float64 IN, >= 0, in order of place, or (0,): 1 everywhere;
    partners (V,) int32 IN, or (0,): where not -1, an earlier place; there are then weights of the later variable's levels for
    each level of that one in turn, and those of its level count;
    uniforms (n, V) float64 IN; block, scratch: see ``layout.walk_workspace(layout, block)``; levels (n, V) int32 OUT, those
    of later places as they were; log_mass (n,) float64 OUT: -inf where no level is left.
    """
    dtype, spans = net.theta.dtype, dense.spans(net)
    n_context = net.variables[0, at.START] if len(net.variables) else 0
    x = np.zeros((len(given), net.layers[0, at.N_IN]), dtype)
    x[:, :n_context] = unpack_bits(context, n_context) if n_context else 0
    log_mass[:], first = 0, 0
    sizes = [width if (width := span.stop - span.start) > 1 else width + 1 for span in spans]
    for v, span in enumerate(spans[:n_places]):
        log_p = dense.log_levels(net, forward(net, x)[-1])[v]
        n_levels, u, each = log_p.shape[1], uniforms[:, v], np.arange(len(x))
        own, n_weights = None, n_levels
        if len(weights):
            several = len(partners) and partners[v] >= 0
            n_weights = n_levels * (sizes[partners[v]] if several else 1)
            own = weights[first : first + n_weights].reshape(-1, n_levels)[levels[:, partners[v]] if several else 0]
        with np.errstate(divide="ignore"):
            weighed = log_p if own is None else log_p + np.log(own)
        log_total = np.logaddexp.reduce(weighed, axis=1)
        share = np.exp(weighed - np.where(np.isfinite(log_total), log_total, 0)[:, None])
        passed = (np.cumsum(share[:, :0:-1], axis=1) <= u[:, None]).sum(axis=1)
        drawn = np.maximum(n_levels - 1 - passed, np.argmax(share > 0, axis=1))  # rounding leads to no level without a share
        drawn = np.where(u < 0, np.argmax(weighed, axis=1), drawn)
        level = np.where(given[:, v] >= 0, given[:, v], drawn)
        log_mass += np.where(given[:, v] >= 0, log_p[each, level], log_total if len(weights) else 0)
        levels[:, v] = level
        x[:, n_context + span.start : n_context + span.stop] = dense.coded(net, v, level)
        first += n_weights


def train(
    net: Net,
    batches: Batches,
    dropout: Dropout,
    update: Update,
    scratch: TrainScratch,
    nll: NDArray[np.float64],
    crew: Crew,
) -> None:
    """Make one optimiser step on each mini-batch of the rows; its loss is ``1/B sum_b weights[b] nll[b]``.

    net.theta, update.state IN OUT; batches: bits in order of place; scratch: see ``layout.train_workspace``, and ``gradient``
    like theta if anything is clipped; nll (ceil(m / batch_size),) float64 OUT: B times the loss of each step, before its
    update.

    With ``n_ranks > 1`` all ranks 0 .. n_ranks - 1 must call at the same time with the same arrays, each from its own
    thread; they divide the work and meet at barriers in ``sync``, all 0 at the start. Only ``native`` does that.
    When ``sync[CALL_OFF]`` is set to 1 all ranks return soon, from a wait for one that never comes or from the midst of a
    step; of that step's update, some weights have been made, each with its state, and the others have not.
    """
    for i in range(len(nll)):
        part = slice(i * batches.batch_size, (i + 1) * batches.batch_size)
        rows, keep = batches.rows[part], dense.kept(net.layers, dropout, part, net.theta.dtype)
        x = unpack_bits(batches.bits[rows], net.layers[0, at.N_IN]).astype(net.theta.dtype)
        outputs = forward(net, x, keep)
        nll[i], dz = dense.loss(net, outputs[-1], x, len(dense.spans(net)), dense.row_weights(batches, rows), len(rows))
        gradient = dense.clipped(dense.gradient_of(net, x, outputs, dz, keep), update.constants[CLIP])
        for l in range(len(net.layers)):
            dense.update_layer(net, l, gradient, update._replace(step=update.step + i))


def apply_gradient(values: Real, gradient: Real, runs: Int64, update: Update) -> None:
    """Make one optimiser step by a gradient that is there as a whole: that of a mini-batch which others have a part of.

    values (n,), update.state (n_state, n) IN OUT, of the dtype of gradient (n,) IN; runs (r, 3) int64 IN: start and stop of
    each run of parameters to update, multiples of 16, and whether they decay. Nothing is clipped here. With the gradient that
    ``GRADIENT`` has written, the bits are those of the kernel that would have made the step (here but for rounding); runs may
    be cut anywhere, and given to different threads.
    """
    for start, stop, decays in runs:
        run = slice(start, stop)
        state = update.state[:, run]
        dense.update(values[run], gradient[run], update._replace(state=state), bool(decays))


def train_latent(
    net: Net,
    points: Int64,
    features: Real,
    batches: Batches,
    dropout: Dropout,
    update: Update,
    scratch: TrainScratch,
    nll: NDArray[np.float64],
    crew: Crew,
) -> None:
    """Do ``train`` on a latent mixture, ``p(x) = 1/K sum_k p(x | point k)``; a row is dropped the same units at all points.

    net.theta, update.state IN OUT: the whole vector, theta, tables and E, see ``layout.py``; the tables are in step with E
    before and after. points (K, layers, 9) int64 IN: ``layout.of_points``; features (K, R) IN, of the dtype of theta, R at
    most ``layout.MAX_FEATURES``; scratch: see ``layout.latent_train_workspace``, and ``gradient`` like the vector if anything
    is clipped; in ``jit`` there are ``gradient`` and ``dtheta`` always. E and b do not decay. The rest as in ``train``.
    """
    K, R, D, length = *features.shape, net.layers[0, at.N_IN], at.n_biases(net.layers)
    first = points[0, 0, at.BIAS]
    nets = [net._replace(layers=layers) for layers in points]
    chain = range(at.n_chain(net.layers))

    def split(vector: Real) -> tuple[list[Real], Real, Real]:
        """Return views of the biases in theta, of the tables (K, n) and of E (R, n)."""
        own = [vector[net.layers[l, at.BIAS] :][: at.PANEL * net.layers[l, at.N_PANELS]] for l in chain]
        return own, vector[first:][: K * length].reshape(K, length), vector[first + K * length :].reshape(R, length)

    biases, tables, E = split(net.theta)
    for i in range(len(nll)):
        part = slice(i * batches.batch_size, (i + 1) * batches.batch_size)
        rows, keep = batches.rows[part], dense.kept(net.layers, dropout, part, net.theta.dtype)
        x = unpack_bits(batches.bits[rows], D).astype(net.theta.dtype)
        outputs = [forward(one, x, keep) for one in nets]
        log_p = np.stack([-dense.row_nll(net, found[-1], x, D) for found in outputs])
        log_sum, weights = np.logaddexp.reduce(log_p, axis=0), dense.row_weights(batches, rows)
        nll[i] = weights @ (np.log(K) - log_sum)
        gradient = np.zeros_like(net.theta)
        for one, found, share in zip(nets, outputs, np.exp(log_p - log_sum), strict=True):
            _, dz = dense.loss(net, found[-1], x, D, share * weights, len(rows))
            gradient += dense.gradient_of(one, x, found, dz, keep)
        dbiases, dtables, dE = split(gradient)
        for db, total in zip(dbiases, np.split(dtables.sum(axis=0), np.cumsum([len(b) for b in biases[:-1]])), strict=True):
            db[:] = total
        dE[:] = features.T @ dtables
        dtables[:] = 0
        gradient, now = dense.clipped(gradient, update.constants[CLIP]), update._replace(step=update.step + i)
        for l in range(len(net.layers)):
            dense.update_layer(net, l, gradient, now)
        tail = slice(first + K * length, None)
        dense.update(net.theta[tail], gradient[tail], now._replace(state=now.state[:, tail]), decays=False)
        tables[:] = np.concatenate(biases) + features @ E


# ---------------------------------------------------------------------------------------------------------------------------
# Parameters that several connectivities share
# ---------------------------------------------------------------------------------------------------------------------------


def _shared_weights(shared: Real, layer: Int64, start: int, row: Int64) -> Real:
    """Return the (n_in, n_out) matrix that begins at ``start``, in original order, as a view."""
    return shared[start : start + layer[at.N_IN] * row[at.ROW]].reshape(layer[at.N_IN], row[at.ROW])[:, : layer[at.N_OUT]]


def _orders(order: Int32, layer: Int64, row: Int64) -> tuple[Int32, Int32]:
    """Return the original numbers of a layer's sorted inputs and units."""
    return order[row[at.IN_ORDER] :][: layer[at.N_IN]], order[row[at.OUT_ORDER] :][: layer[at.N_OUT]]


def pack(shared: Shared, order: Int32, net: Net) -> None:
    """Gather the shared parameters into the panels of one connectivity: W, and ``b + (U * M)^T 1`` as the bias.

    shared, order (see ``layout.SharedLayout``) IN; net.theta OUT, of at least the connectivity's length.
    """
    values = shared.values
    for l, (layer, row) in enumerate(zip(net.layers, shared.layout, strict=True)):
        inputs, units = _orders(order, layer, row)
        live = net.n_live[layer[at.UNITS] :][: layer[at.N_OUT]]
        bias = np.zeros(layer[at.N_OUT], values.dtype)
        if row[at.SHARED_BIAS] >= 0:
            bias = values[row[at.SHARED_BIAS] :][units]
        if row[at.SHARED_U] >= 0:
            U = _shared_weights(values, layer, row[at.SHARED_U], row)[np.ix_(inputs, units)]
            bias = bias + (U * (np.arange(layer[at.N_IN])[:, None] < live)).sum(axis=0)
        net.theta[layer[at.BIAS] : layer[at.BIAS] + at.PANEL * layer[at.N_PANELS]] = 0
        dense.pack_layer(net, l, _shared_weights(values, layer, row[at.SHARED_WEIGHTS], row)[np.ix_(inputs, units)], bias)


def _unpack_gradient(gradient: Net, layout: Int64, order: Int32, shared: Real) -> None:
    """Add a gradient of theta, as that of the shared parameters, to ``shared``: ``pack`` transposed."""
    for l, (layer, row) in enumerate(zip(gradient.layers, layout, strict=True)):
        inputs, units = _orders(order, layer, row)
        dW, mask, db = dense.unpack_layer(gradient, l)
        _shared_weights(shared, layer, row[at.SHARED_WEIGHTS], row)[np.ix_(inputs, units)] += dW * mask
        if row[at.SHARED_BIAS] >= 0:
            shared[row[at.SHARED_BIAS] + units] += db
        if row[at.SHARED_U] >= 0:
            _shared_weights(shared, layer, row[at.SHARED_U], row)[np.ix_(inputs, units)] += db * mask


def train_shared(
    shared: Shared,
    masks: Masks,
    batches: Batches,
    groups: Int64,
    dropout: Dropout,
    update: Update,
    scratch: TrainScratch,
    nll: NDArray[np.float64],
    crew: Crew,
) -> None:
    """Do ``train`` on parameters shared by several connectivities.

    A step is one group of rows or more; a group has a connectivity of its own. The loss is again the weighted sum of the rows'
    NLL over the rows of the step; the NLL of a group's rows counts the first so many places.

    shared.values, update.state IN OUT; batches: bits **in order of feature**, and batch_size is the most rows of a group;
    groups (G, 6) int64 IN: first row in ``batches.rows``, the one after the last, connectivity, places that count, step (from
    0, in order), rows of the step; scratch: see ``layout.shared_train_workspace``; nll (steps,) float64 OUT; the rest as in
    ``train``.
    """
    values, dtype, D = shared.values, shared.values.dtype, masks.layers[0, 0, at.N_IN]
    biases = np.zeros(len(values), np.bool_)
    for row in shared.layout[shared.layout[:, at.SHARED_BIAS] >= 0]:
        biases[row[at.SHARED_BIAS] :][: row[at.ROW]] = True
    for g, (first, stop, k, n_places, step, n_rows) in enumerate(groups):
        net = Net(scratch.theta, masks.layers[k], masks.n_live[k], masks.panel_start[k], masks.variables[k])
        pack(shared, masks.orders[k], net)
        rows, keep = batches.rows[first:stop], dense.kept(net.layers, dropout, slice(first, stop), dtype)
        x = unpack_bits(batches.bits[rows], D).astype(dtype)[:, masks.orders[k, :D]]
        outputs = forward(net, x, keep)
        total, dz = dense.loss(net, outputs[-1], x, n_places, dense.row_weights(batches, rows), n_rows)
        if g == 0 or groups[g - 1, at.STEP] != step:
            nll[step], gradient = 0, np.zeros_like(values)
        nll[step] += total
        found = net._replace(theta=dense.gradient_of(net, x, outputs, dz, keep))
        _unpack_gradient(found, shared.layout, masks.orders[k], gradient)
        if g + 1 < len(groups) and groups[g + 1, at.STEP] == step:
            continue
        gradient = dense.clipped(gradient, update.constants[CLIP])
        for part in (~biases, biases):
            w, state = values[part], update.state[:, part]
            dense.update(w, gradient[part], update._replace(step=update.step + step, state=state), decays=part is not biases)
            values[part], update.state[:, part] = w, state
