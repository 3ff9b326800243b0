"""The parameters of a latent mixture: one network whose biases take K values, one for each of K points.

``p(x) = 1/K sum_k p(x | point k)``. :class:`Points` are what a model needs, :class:`Latent` what training needs beside. Not
here: the arithmetic (kernel ``train_latent``), the fitted model (``inference/latent.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from statistics import NormalDist
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from made_fast import kernels
from made_fast.kernels import layout as panels
from made_fast.kernels.layout import BIAS, MAX_FEATURES, N_OUT
from made_fast.kernels.records import Batches, Net, TrainScratch
from made_fast.network.architecture import Architecture, Prepared, scratch
from made_fast.network.masks import Connectivity
from made_fast.network.network import Network, Parameters, Turn
from made_fast.system.once import once

__all__ = ["Latent", "Points", "features"]

DIMENSIONS = 4
"""Of the space that the points stand in."""

OFFSETS = 0.5
"""Scale of the random offsets of features."""

SPREAD = 0.1
"""Standard deviation of a bias over the points when training begins."""


class Points(Parameters):
    """Parameters of a network under one connectivity, with biases for each of K points.

    The vector is theta in the panel layout, then a table of biases for each point (``made_fast.kernels.layout``).

    Attributes
    ----------
    n_points : int
        K.
    base : Network
        The network that theta alone gives; its biases mean nothing.
    """

    connectivity: Connectivity

    def __init__(self, architecture: Architecture, connectivity: Connectivity, vector: NDArray[Any], n_points: int) -> None:
        super().__init__(architecture, vector)
        self.connectivity, self.n_points = connectivity, n_points
        staircase = architecture.staircase(connectivity)
        self.layout = architecture.layout(staircase)
        self.base = Network(architecture, connectivity, vector[: panels.n_parameters(self.layout)], staircase, self.layout)
        self.tables = panels.of_points(self.layout, n_points)
        self.table_length = panels.n_biases(self.layout.layers)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.architecture, self.connectivity, self._given, self.n_points)

    @property
    def n_parameters(self) -> int:
        """Number of live weights, and of biases at all points."""
        n_units = sum(self.architecture.hidden_sizes) + self.architecture.n_inputs
        return self.base.n_parameters + (self.n_points - 1) * n_units

    @property
    def n_served(self) -> int:
        """Length of theta and the tables."""
        return panels.n_parameters(self.layout) + self.n_points * self.table_length

    @property
    def order(self) -> NDArray[np.intp]:
        """``order[p]`` is the feature at place p + 1."""
        return self.base.order

    @once
    def _units(self) -> NDArray[np.bool_]:
        """Which entries of a table belong to a unit; the others fill up panels."""
        chain = self.layout.layers[: panels.n_chain(self.layout.layers)]
        return np.concatenate([np.arange(panels.width(int(n))) < n for n in chain[:, N_OUT]])

    def fill_up(self) -> NDArray[Any]:
        """Return what stands behind theta for units that fill up panels; 0 always."""
        return self.vector[len(self.base.vector) :].reshape(-1, self.table_length)[:, ~self._units]

    def at(self, k: int) -> Network:
        """Return the network at point k, on the same vector."""
        layout = self.layout._replace(layers=self.tables[k])
        network = Network(self.architecture, self.connectivity, self.vector, self.base.staircase, layout)
        network.watched, vars(network)["guarded"] = self.watched, self.guarded
        return network

    def with_vector(self, vector: NDArray[Any]) -> Self:
        """See :meth:`Parameters.with_vector`."""
        same = super().with_vector(vector)
        same.base = self.base.with_vector(vector[: len(self.base.vector)])
        return same

    def network(self, connectivity: Connectivity | Prepared, room: NDArray[Any] | None = None) -> Network:
        """Return the network at the first point; ValueError if it is asked for under another connectivity."""
        self.base.network(connectivity)
        return self.at(0)

    def networks(self, connectivity: Connectivity | Prepared, room: NDArray[Any] | None = None) -> Iterator[Network]:
        """See :meth:`Parameters.networks`: one for each point."""
        self.base.network(connectivity)
        return map(self.at, range(self.n_points))

    def served(self) -> Points:
        """See :meth:`Parameters.served`."""
        return self

    @property
    def runs(self) -> NDArray[np.int64]:
        """See :attr:`Parameters.runs`; the tables follow from others."""
        return np.append(self.base.runs, [[self.n_served, len(self.vector), 0]], axis=0)

    def start_at(self, log_odds: NDArray[np.float64]) -> None:
        """See :meth:`Parameters.start_at`."""
        raise TypeError("the points of a model are not trained: start with Latent.")

    def training(self, batches: Batches, turn: Turn | None) -> Callable[..., None]:
        """See :meth:`Parameters.training`."""
        raise TypeError("the points of a model are not trained: start with Latent.")


class Latent(Points):
    """Parameters of a latent mixture while it is trained.

    Behind theta and the tables comes E, (R, table), from which the tables follow: ``tables = b + features E``, b the biases in
    theta. So a few steps move the biases of all points together, and those of near points stay near: with K tables of their
    own, the mixture was 1.6 nats worse (bbc, K = 16). E in place of a small net that maps points to biases scores the same.
    """

    @classmethod
    def of(cls, network: Network, n_points: int, rng: np.random.Generator) -> Latent:
        """Return the mixture that starts at a network, with random E."""
        theta, length = network.vector, panels.n_biases(network.layout.layers)
        vector = panels.aligned_zeros(len(theta) + (n_points + MAX_FEATURES) * length, theta.dtype)
        vector[: len(theta)] = theta
        latent = cls(network.architecture, network.connectivity, vector, n_points)
        units = latent._units
        E = rng.standard_normal((MAX_FEATURES, np.count_nonzero(units)), dtype=theta.dtype)
        latent.E[:, units] = E * theta.dtype.type(SPREAD / math.sqrt(MAX_FEATURES))
        latent.settle()
        return latent

    @property
    def E(self) -> NDArray[Any]:
        """How the tables depend on the features, (R, table): a view of the vector."""
        return self.vector[self.n_served :].reshape(MAX_FEATURES, self.table_length)

    @once
    def features(self) -> NDArray[Any]:
        """Return the features of the points, (K, R)."""
        return np.ascontiguousarray(features(self.n_points), self.dtype)

    def settle(self) -> None:
        """Compute the tables; as the kernel does after every step, but for rounding."""
        chain = self.layout.layers[: panels.n_chain(self.layout.layers)]
        b = np.concatenate([self.vector[bias : bias + panels.width(int(n))] for n, bias in chain[:, [N_OUT, BIAS]]])
        tables = self.vector[len(self.base.vector) : self.n_served].reshape(self.n_points, self.table_length)
        tables[:] = b
        for r, row in enumerate(self.E):  # no BLAS: the order of its sums depends on its threads
            tables += self.features[:, r, None] * row

    def start_at(self, log_odds: NDArray[np.float64]) -> None:
        """See :meth:`Parameters.start_at`."""
        self.base.start_at(log_odds)
        self.settle()

    def served(self) -> Points:
        """See :meth:`Parameters.served`: a view of this vector."""
        return Points(self.architecture, self.connectivity, self.vector[: self.n_served], self.n_points)

    def training(self, batches: Batches, turn: Turn | None) -> Callable[..., None]:
        """See :meth:`Parameters.training`; there are no turns."""
        return partial(kernels.active.train_latent, Net(self.vector, *self.layout), self.tables, self.features, batches)

    def train_scratch(self, batch_size: int, n_ranks: int, *, gradient: bool) -> TrainScratch:
        """See :meth:`Parameters.train_scratch`."""
        n, dtype, jit = len(self.vector), self.dtype, kernels.implementation == "jit"
        whole, dtheta = panels.aligned_empty(n if gradient or jit else 0, dtype), panels.aligned_zeros(n if jit else 0, dtype)
        room = scratch(*panels.latent_train_workspace(self.layout, batch_size, self.n_points, n), dtype)
        return TrainScratch(whole, whole[:0], dtheta, *room)


def features(n_points: int) -> NDArray[np.float64]:
    """Return the features of K points, (K, MAX_FEATURES) float64: ``tanh(Z G + g)``.

    The points Z, normal quantiles of a low-discrepancy sequence in four dimensions, cover the space evenly; G and g are fixed
    normal numbers, so that each feature is a smooth function of the point.
    """
    Z, more = _normal(n_points, DIMENSIONS), _normal(MAX_FEATURES, DIMENSIONS + 1)
    return np.tanh(Z @ more[:, :-1].T / math.sqrt(DIMENSIONS) + OFFSETS * more[:, -1])


def _normal(n: int, dimensions: int) -> NDArray[np.float64]:
    """Return n points, (n, dimensions): the normal quantiles of the fractions of k a, k = 1 .. n, moved to centre on 1/2.

    ``a_d = g**-d`` with g the root of ``g**(dimensions + 1) = g + 1``: Roberts, "The unreasonable effectiveness of quasirandom
    sequences", 2018.
    """
    g = 1.0
    for _ in range(64):
        g = (1 + g) ** (1 / (dimensions + 1))
    fractions = (0.5 + np.arange(1, n + 1)[:, None] * g ** -np.arange(1.0, dimensions + 1)) % 1
    quantile = NormalDist().inv_cdf
    return np.array([[quantile(u) for u in row] for row in fractions.tolist()])
