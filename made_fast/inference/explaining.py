"""What each variable of a row adds to its negative log-likelihood, in nats: which entry makes the row odd.

Under one network these are the factors of the chain rule, ``-log p(x_v | those before it)``. A mixture counts those of each of
its networks by the probability that the row is of it, and what is left, how much the row tells about the network, is spread
evenly: so they add up to the negative log-likelihood of the row under the whole model.

Not here: columns and units (``tablemodel.py``).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from made_fast.inference.density import Density
from made_fast.inference.mixture import MixtureModel
from made_fast.inference.model import MADEModel
from made_fast.network.network import Network
from made_fast.tables.bits import pack_rows
from made_fast.tables.coded import Coded
from made_fast.tables.table import Table

__all__ = ["contributions"]

PRECISE = 10.0
"""Nats up to which -log of a probability, a float32 that may be 1 less a tiny one, is right to a thousandth."""


def contributions(density: Density, table: Table, n_threads: int) -> NDArray[np.float64]:
    """Return what each variable of complete rows adds to ``-log p(x)``, (n, V) in nats."""
    n, V = table.shape
    total, mean = np.full(n, -np.inf), np.zeros((n, V))
    for log_weight, network in _networks(density):
        parts = _factors(network, table, n_threads, density.binarize)
        log_joint = log_weight - parts.sum(axis=1)
        larger = np.logaddexp(total, log_joint)
        kept, added = np.exp(total - larger)[:, None], np.exp(log_joint - larger)[:, None]
        mean, total = kept * mean + added * parts, larger
    rest = -total - mean.sum(axis=1)  # the divergence of the networks' shares given the row from their weights
    out: NDArray[np.float64] = mean + rest[:, None] / V
    return out


def _networks(density: Density) -> Iterator[tuple[float, Network]]:
    """Yield the networks that a density mixes, with the logarithm of the weight of each."""
    if isinstance(density, MixtureModel):
        for model, weight in zip(density.members, density.weights, strict=True):
            for log_weight, network in _networks(model):
                yield log_weight + float(np.log(weight)), network
    elif isinstance(density, MADEModel):
        for k in range(density.n_parts):
            yield -float(np.log(density.n_parts)), density.part(k)
    else:
        raise TypeError(f"contributions must be asked of a MADE model, got a {type(density).__name__}.")


def _factors(network: Network, table: Table, n_threads: int, binarize: float | None) -> NDArray[np.float64]:
    """Return ``-log p(x_v | those before it)`` of each variable under one network, (n, V)."""
    out = np.empty(table.shape)
    for part, rows in table.chunks():
        proba = network.conditionals(pack_rows(rows, network.order, binarize), n_threads, by_feature=True)
        with np.errstate(divide="ignore"):
            if isinstance(rows, Coded):
                first = rows.coding.first_levels[:-1]
                own = -np.take_along_axis(rows.coding.log_levels(proba), first + rows.codes, axis=1)
            else:
                own = -np.log(np.where(rows.ones(binarize), proba, 1 - proba).astype(np.float64))
        if len(odd := np.flatnonzero((own > PRECISE).any(axis=1))):
            own[odd] = _by_scores(network, rows.take(odd), binarize)
        out[part] = own
    return out


def _by_scores(network: Network, rows: Table, binarize: float | None) -> NDArray[np.float64]:
    """Return what :func:`_factors` does, of rows of which a conditional is too small for its type, place by place."""
    up_to = network.scores_up_to(pack_rows(rows, network.order, binarize))
    out = np.empty(rows.shape)
    out[:, np.argsort(network.connectivity.ordering)] = -np.diff(up_to, axis=1)
    return out
