"""The training of latent mixtures as a Numba kernel: a mini-batch is taken through the network once for every point.

Not here: one network (``network.py``), which this is made of; scores of a mixture, which are those of its networks.
"""

from __future__ import annotations

import numpy as np

from made_fast.kernels import layout as at
from made_fast.kernels.jit import rows
from made_fast.kernels.jit.network import fit_batch, forward, losses, room_for_batch
from made_fast.kernels.jit.rows import PANEL, Float64, Int64, Real, kernel, n_chain
from made_fast.kernels.optimizers import CLIP, GRADIENT
from made_fast.kernels.records import Batches, Crew, Dropout, Net, Scratch, TrainScratch, Update

__all__ = ["train_latent"]


@kernel
def train_latent(
    net: Net,
    points: Int64,
    features: Real,
    batches: Batches,
    dropout: Dropout,
    update: Update,
    scratch: TrainScratch,
    nll: Float64,
    crew: Crew,
) -> None:
    """See ``reference.train_latent``; for one rank."""
    batch, size, D, K = room_for_batch(batches, scratch), batches.batch_size, net.layers[0, at.N_IN], len(points)
    ints = scratch.ints[4 * size * batches.bits.shape[1] :]  # behind the bits and the NLL of ``fit_batch``
    behind = scratch.ints[len(scratch.ints) // 2 * 2 - 2 * size * (K + 1) :]
    share = behind[: 2 * size * K].view(np.float64).reshape(K, size)
    which = behind[2 * size * K :][: 2 * size].view(np.int64)
    gradient, dtheta = scratch.gradient, scratch.dtheta
    collect = Update(int(GRADIENT), update.step, update.constants, dtheta.reshape(1, len(dtheta)))
    for i in range(size):
        which[i] = i
    for s in range(len(nll)):
        chosen, keep = batches.rows[s * size : (s + 1) * size], dropout.keep[s * size : (s + 1) * size]
        kept, m = Dropout(keep, dropout.rate), len(chosen)
        for i in range(m):
            batch[i] = batches.bits[chosen[i]]
        for k in range(K):
            one = Net(net.theta, points[k], net.n_live, net.panel_start, net.variables)
            logits = forward(one, batch[:m], kept, size, Scratch(scratch.reals, ints))
            losses(logits, batch[:m], D, share[k, :m])
        nll[s] = _mix(share[:, :m], batches, chosen)
        gradient[:] = 0
        for k in range(K):
            one = Net(net.theta, points[k], net.n_live, net.panel_start, net.variables)
            part = Batches(batch[:m], share[k], which[:m], size)
            fit_batch(one, part, D, m, kept, collect, s, scratch)
            for l in range(len(points[k])):
                start, stop, bias = points[k, l, at.WEIGHTS], net.layers[l, at.BIAS], points[k, l, at.BIAS]
                rows.add(dtheta[start:stop], gradient[start:stop])
                if net.layers[l, at.DIRECT] >= 0:
                    n = PANEL * net.layers[l, at.N_PANELS]
                    rows.copy(dtheta[bias : bias + n], gradient[bias : bias + n])
        _gather_tables(net, points, features, gradient)
        rows.clip(gradient, update.constants[CLIP])
        step, bias_step = rows.steps(update, s)
        for l in range(len(net.layers)):
            start, bias = net.layers[l, at.WEIGHTS], net.layers[l, at.BIAS]
            stop = bias + PANEL * net.layers[l, at.N_PANELS] if net.layers[l, at.DIRECT] >= 0 else bias
            rows.update(net.theta, start, gradient[start:bias], step, update.state)
            rows.update(net.theta, bias, gradient[bias:stop], bias_step, update.state)
        first, n = points[0, 0, at.BIAS], _length(net.layers)
        rows.update(net.theta, first + K * n, gradient[first + K * n :], bias_step, update.state)
        _spread_tables(net, points, features)


@kernel
def _length(layers: Int64) -> int:
    """Return the length of a table of biases."""
    n = 0
    for l in range(n_chain(layers)):
        n += PANEL * layers[l, at.N_PANELS]
    return n


@kernel
def _mix(share: Float64, batches: Batches, chosen: Int64) -> float:
    """Turn the NLL (K, m) at each point into ``weight p(point | row)``; return the weighted sum of the NLL of the mixture."""
    found = 0.0
    for i in range(len(chosen)):
        nll, total = share[:, i].min(), 0.0
        for k in range(len(share)):
            share[k, i] = np.exp(nll - share[k, i])
            total += share[k, i]
        weight = batches.weights[chosen[i]] if len(batches.weights) > 0 else 1.0
        for k in range(len(share)):
            share[k, i] *= weight / total
        found += weight * (nll + np.log(len(share) / total))
    return found


@kernel
def _gather_tables(net: Net, points: Int64, features: Real, gradient: Real) -> None:
    """Turn the gradient of the tables into that of b and of E; that of the tables becomes 0."""
    n, E = _length(net.layers), points[0, 0, at.BIAS] + len(points) * _length(net.layers)
    for l in range(n_chain(net.layers)):
        b = gradient[net.layers[l, at.BIAS] :][: PANEL * net.layers[l, at.N_PANELS]]
        for k in range(len(points)):
            table = gradient[points[k, l, at.BIAS] :][: len(b)]
            rows.add(table, b)
            for r in range(features.shape[1]):
                row, phi = gradient[E + r * n + points[0, l, at.BIAS] - points[0, 0, at.BIAS] :][: len(b)], features[k, r]
                for u in range(len(b)):
                    row[u] += phi * table[u]
            table[:] = 0


@kernel
def _spread_tables(net: Net, points: Int64, features: Real) -> None:
    """Compute the tables, ``b + features E``."""
    n, E = _length(net.layers), points[0, 0, at.BIAS] + len(points) * _length(net.layers)
    for l in range(n_chain(net.layers)):
        b = net.theta[net.layers[l, at.BIAS] :][: PANEL * net.layers[l, at.N_PANELS]]
        for k in range(len(points)):
            table = net.theta[points[k, l, at.BIAS] :][: len(b)]
            rows.copy(b, table)
            for r in range(features.shape[1]):
                row, phi = net.theta[E + r * n + points[0, l, at.BIAS] - points[0, 0, at.BIAS] :][: len(b)], features[k, r]
                for u in range(len(b)):
                    table[u] += phi * row[u]
