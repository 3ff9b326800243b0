"""The Numba kernels on one connectivity, and the step of training that those on shared parameters have in common with them.

Not here: walks along the ordering (``walks.py``), variables of several levels (``levels.py``), shared parameters
(``shared.py``), inner loops (``rows.py``).
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from made_fast.kernels.jit import levels, rows
from made_fast.kernels.jit.rows import PANEL, Bits, Float64, Int32, Int64, Real, Step, kernel, n_chain, panel
from made_fast.kernels.layout import ACTIVATION, BIAS, DIRECT, N_IN, N_PANELS, PANELS, RUN_DECAYS, RUN_START, RUN_STOP, WEIGHTS
from made_fast.kernels.optimizers import CLIP, GRADIENT
from made_fast.kernels.records import Batches, Crew, Dropout, Net, Scratch, TrainScratch, Update

__all__ = [
    "apply_gradient", "conditionals", "fit_batch", "forward", "losses", "output", "pack_bits", "room_for_batch", "score",
    "score_row", "train",
]  # fmt: skip


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
def _list_ones(bits: Bits, count: Int32, index: Int32) -> None:
    """List the places of the ones of each row, ascending, and how many there are."""
    for i in range(len(bits)):
        n = 0
        for q in range(bits.shape[1]):
            word = bits[i, q]
            while word != 0:  # the number of the lowest one is the exponent of that bit as a float
                index[i, n] = 64 * q + (np.float64(word & (~word + np.uint64(1))).view(np.int64) >> 52) - 1023
                n += 1
                word &= word - np.uint64(1)
        count[i] = n


@kernel
def output(outputs: Real, layers: Int64, l: int, block: int, m: int) -> Real:
    """Return the (panels, m, 64) buffer of layer l, out of those of all layers for ``block`` rows each.

    After the last layer the first one comes again: ``layout.train_workspace`` has room for gradients there.
    """
    start, panels = 0, layers[l % len(layers), N_PANELS]
    for q in range(l):
        start += layers[q % len(layers), N_PANELS] * block * PANEL
    return outputs[start : start + panels * m * PANEL].reshape(panels, m, PANEL)


@kernel
def _split(reals: Real, layers: Int64, block: int, m: int) -> tuple[Real, Real]:
    """Return the (panels, m, 64) buffer of the inputs, and scratch behind that of ``block`` rows."""
    panels = (layers[0, N_IN] + PANEL - 1) // PANEL
    return reals[: panels * m * PANEL].reshape(panels, m, PANEL), reals[panels * block * PANEL :]


# ---------------------------------------------------------------------------------------------------------------------------
# Forward
# ---------------------------------------------------------------------------------------------------------------------------


@kernel
def _sums(net: Net, l: int, x: Real, sparse: bool, count: Int32, index: Int32, z: Real) -> None:
    """Write the sums of layer l to z. Its input is x, or, if ``sparse``, given by its ones."""
    for p in range(len(z)):
        w, _, bias = panel(net, l, p)
        for i in range(z.shape[1]):
            rows.copy(net.theta[bias : bias + PANEL], z[p, i])
        if sparse:
            for i in range(z.shape[1]):
                n = np.int64(count[i])
                while n > 0 and index[i, n - 1] >= len(w):
                    n -= 1
                rows.add_rows(z[p, i], w, index[i], n)
        else:
            for k in range(0, len(w), PANEL):  # 64 rows of weights stay in the L1 cache while all rows of x pass
                rows.add_product(z[p], x[k // PANEL][:, :PANEL], w[k:], min(len(w) - k, PANEL))


@kernel
def forward(net: Net, bits: Bits, dropout: Dropout, block: int, scratch: Scratch) -> Real:
    """Take at most ``block`` rows through all layers; return the logits (panels, rows, 64)."""
    layers, m, word = net.layers, len(bits), 0
    n_inputs, last, (x, outputs) = layers[0, N_IN], n_chain(layers) - 1, _split(scratch.reals, layers, block, m)
    count, index = scratch.ints[:m], scratch.ints[block : block + m * n_inputs].reshape(m, n_inputs)
    _list_ones(bits, count, index)
    sparse = 2 * count.sum() < m * n_inputs
    if not sparse:
        x[:] = 1
        rows.times_bits(x, bits, 0.0, 1.0)
    h = x
    for l in range(last + 1):
        z, row = output(outputs, layers, l, block, m), layers[l, DIRECT]
        _sums(net, l, h, sparse and l == 0, count, index, z)
        if row > 0:
            direct = output(outputs, layers, row, block, m)
            _sums(net, row, x, sparse, count, index, direct)
            rows.add(direct.ravel(), z.ravel())
        for p in range(len(z)):
            rows.activate(z[p].ravel(), layers[l, ACTIVATION])
        if l < last and len(dropout.keep) > 0:
            rows.times_bits(z, dropout.keep[:, word:], 0.0, 1 / (1 - dropout.rate))
            word += len(z)
        h = z
    return h


@partial(kernel, fastmath={"contract", "reassoc"})  # losses may be added up in any order: it is the same one for every row
def losses(logits: Real, bits: Bits, n_places: int, nll: Float64) -> None:
    """Write the NLL over the first n_places places: the sum of softplus(t), t the logit or, where the input is 1, minus it.

    In the panels of those places, ``logits`` become softplus(t).
    """
    rows.times_bits(logits, bits, 1.0, -1.0)
    nll[:] = 0
    for p in range((n_places + PANEL - 1) // PANEL):
        rows.activate(logits[p].ravel(), rows.SOFTPLUS)
        for i in range(len(nll)):
            found, row = 0.0, logits[p, i]
            for u in range(min(n_places - p * PANEL, PANEL)):
                found += np.float64(row[u])
            nll[i] += found


@kernel
def score(net: Net, bits: Bits, n_places: int, block: int, scratch: Scratch, log_p: Float64) -> None:
    """See ``reference.score``."""
    nothing = Dropout(bits[:0], 0.0)
    for i in range(0, len(bits), block):
        some, nll = bits[i : i + block], log_p[i : i + block]
        logits = forward(net, some, nothing, block, scratch)
        if len(net.variables) > 0:
            levels.losses(net.variables, logits, some, n_places, nll, False)
        else:
            losses(logits, some, n_places, nll)
        for r in range(len(nll)):
            nll[r] = -nll[r]


@kernel
def score_row(net: Net, x: NDArray[np.uint8], order: Int64, scratch: Scratch, log_p: Float64, seen: NDArray[np.uint8]) -> None:
    """See ``reference.score_row``."""
    D = len(order)
    words = (D + 63) // 64
    first = (2 * words + D + 63) // 64 * 64  # layout.row_workspace
    bits, place = scratch.ints[: 2 * words].view(np.uint64).reshape(1, words), scratch.ints[2 * words : 2 * words + D]
    pack_bits(x, order, place, bits, seen)
    score(net, bits, D, 1, Scratch(scratch.reals, scratch.ints[first:]), log_p)


@kernel
def conditionals(net: Net, bits: Bits, block: int, scratch: Scratch, proba: Real) -> None:
    """See ``reference.conditionals``."""
    nothing = Dropout(bits[:0], 0.0)
    for i in range(0, len(bits), block):
        logits = forward(net, bits[i : i + block], nothing, block, scratch)
        if len(net.variables) > 0:
            levels.proba(net.variables, logits)
        for p in range(len(logits)):
            if len(net.variables) == 0:
                rows.activate(logits[p].ravel(), rows.SIGMOID)
            for r in range(logits.shape[1]):
                rows.copy(logits[p, r], proba[i + r, p * PANEL : (p + 1) * PANEL])


# ---------------------------------------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------------------------------------


@kernel
def _backward_input(net: Net, l: int, dz: Real, block: Real, dh: Real) -> None:
    """Write ``dh = dz (W * M)^T`` of layer l; ``block`` (n, 64) is room for transposed weights."""
    for q in range(len(dh)):
        k0 = q * PANEL
        dh[q] = 0
        for p in range(len(dz)):
            w, live, _ = panel(net, l, p)
            n, j = min(len(w) - k0, PANEL), 0
            while j < PANEL and live[j] <= k0:  # units that see none of these inputs
                j += 1
            while j < PANEL:
                n_units = min(PANEL - j, len(block))
                block[:n_units, n:] = 0
                for r in range(n_units):
                    for k in range(n):
                        block[r, k] = w[k0 + k, j + r]
                rows.add_product(dh[q], dz[p][:, j:], block, n_units)
                j += n_units


@kernel
def _update_layer(net: Net, l: int, x: Real, dz: Real, both: tuple[Step, Step], state: Real) -> None:
    """Update the weights of layer l by ``(x^T dz) * M``, and its bias, if it is of the chain, by ``sum_b dz``."""
    g, (step, bias_step) = rows.stack(dz), both
    for p in range(len(dz)):
        w, live, bias = panel(net, l, p)
        start, d = net.panel_start[net.layers[l, PANELS] + p], dz[p]
        for k in range(0, len(w), 2):
            g[:] = 0
            c = k % PANEL
            rows.add_product(g, x[k // PANEL][:, c : c + 2].T, d, len(d))
            for r in range(min(2, len(w) - k)):
                if k + r >= live[0]:
                    for u in range(PANEL):  # dead entries stay 0
                        if k + r >= live[u]:
                            g[r, u] = 0
                rows.update(net.theta, start + (k + r) * PANEL, g[r], step, state)
        if net.layers[l, DIRECT] >= 0:
            g[0] = 0
            for i in range(len(d)):
                rows.add(d[i], g[0])
            rows.update(net.theta, bias, g[0], bias_step, state)


@kernel
def room_for_batch(batches: Batches, scratch: TrainScratch) -> Bits:
    """Return where ``fit_batch`` takes the bits of the batch from."""
    n_words = batches.bits.shape[1]
    return scratch.ints[: 2 * batches.batch_size * n_words].view(np.uint64).reshape(batches.batch_size, n_words)


@kernel
def fit_batch(
    net: Net, part: Batches, n_places: int, n_rows: int, kept: Dropout, now: Update, s: int, scratch: TrainScratch
) -> float:
    """Take the rows of ``part`` forward and back, its bits those of ``room_for_batch``; return the sum of their NLL.

    The gradient is that of the sum over n_rows; ``now`` makes step s with it. ``kept`` is about these rows only.
    """
    layers, bits, m, size, last = net.layers, part.bits, len(part.bits), part.batch_size, n_chain(net.layers) - 1
    x, outputs = _split(scratch.reals, layers, size, m)
    cut = 2 * bits.shape[1] * size  # integers: the batch, its NLL, then as ``forward``
    nll = scratch.ints[cut : cut + 2 * m].view(np.float64)
    logits = forward(net, bits, kept, size, Scratch(scratch.reals, scratch.ints[2 * cut :]))
    if len(net.variables) > 0:
        levels.losses(net.variables, logits, bits, n_places, nll, True)
    else:
        losses(logits, bits, n_places, nll)
    dz, found = output(outputs, layers, len(layers) + last, size, m), 0.0
    dz[:] = 0
    for i in range(m):
        weight = part.weights[part.rows[i]] if len(part.weights) > 0 else 1.0
        found += weight * nll[i]
        for p in range(len(dz)):
            if len(net.variables) > 0:
                dz[p, i] = logits[p, i] * logits.dtype.type(weight / n_rows)
            else:
                dz[p, i, : max(n_places - p * PANEL, 0)] = weight / n_rows
    if len(net.variables) == 0:
        rows.times_bits(dz, bits, 1.0, -1.0)
        for p in range((n_places + PANEL - 1) // PANEL):
            rows.derive(dz[p].ravel(), logits[p].ravel(), 1.0, rows.SOFTPLUS)
    x[:] = 1
    rows.times_bits(x, bits, 0.0, 1.0)
    both, word = rows.steps(now, s), kept.keep.shape[1]
    share = 1 - kept.rate if len(kept.keep) > 0 else 1.0
    for l in range(last, -1, -1):
        h, dh = x, dz
        if l > 0:
            h, dh = output(outputs, layers, l - 1, size, m), output(outputs, layers, len(layers) + l - 1, size, m)
            block = output(outputs, layers, l, size, m)  # the output of this layer has served
            _backward_input(net, l, dz, block.reshape(len(dz) * m, PANEL)[:PANEL], dh)
            rows.derive(dh.ravel(), h.ravel(), share, layers[l - 1, ACTIVATION])
            if len(kept.keep) > 0:
                word -= len(dh)
                rows.times_bits(dh, kept.keep[:, word:], 0.0, 1 / share)
        _update_layer(net, l, h, dz, both, now.state)
        if layers[l, DIRECT] > 0:
            _update_layer(net, layers[l, DIRECT], x, dz, both, now.state)
        dz = dh
    return found


@kernel
def train(
    net: Net, batches: Batches, dropout: Dropout, update: Update, scratch: TrainScratch, nll: Float64, crew: Crew
) -> None:
    """See ``reference.train``; for one rank."""
    batch, size, gradient = room_for_batch(batches, scratch), batches.batch_size, scratch.gradient
    clips, now = update.constants[CLIP] > 0, update
    n_places = len(net.variables) - 1 if len(net.variables) > 0 else net.layers[0, N_IN]
    if clips:
        now = Update(int(GRADIENT), update.step, update.constants, gradient.reshape(1, len(gradient)))
        gradient[:] = 0  # for the biases of direct connections, which have none
    for s in range(len(nll)):
        chosen, keep = batches.rows[s * size : (s + 1) * size], dropout.keep[s * size : (s + 1) * size]
        for i in range(len(chosen)):
            batch[i] = batches.bits[chosen[i]]
        part = Batches(batch[: len(chosen)], batches.weights, chosen, size)
        kept = Dropout(keep, dropout.rate)
        nll[s] = fit_batch(net, part, n_places, len(chosen), kept, now, s, scratch)
        if clips:
            rows.clip(gradient, update.constants[CLIP])
            step, bias_step = rows.steps(update, s)
            for l in range(len(net.layers)):
                start, bias = net.layers[l, WEIGHTS], net.layers[l, BIAS]
                stop = bias + PANEL * net.layers[l, N_PANELS] if net.layers[l, DIRECT] >= 0 else bias
                rows.update(net.theta, start, gradient[start:bias], step, update.state)
                rows.update(net.theta, bias, gradient[bias:stop], bias_step, update.state)


@kernel
def apply_gradient(values: Real, gradient: Real, runs: Int64, update: Update) -> None:
    """See ``reference.apply_gradient``."""
    step, bias_step = rows.steps(update, 0)
    for r in range(len(runs)):
        start, stop = runs[r, RUN_START], runs[r, RUN_STOP]
        rows.update(values, start, gradient[start:stop], step if runs[r, RUN_DECAYS] else bias_step, update.state)
