"""A random latent mixture and a batch for it, and its loss. Its points share the net of ``kernel_cases.Case``."""

from __future__ import annotations

from typing import Any

import numpy as np
from kernel_cases import Case, Options, Shape, copied, new_update, room
from variable_cases import nll_of_levels

from made_fast.kernels import layout as panels
from made_fast.kernels.layout import BIAS, N_PANELS, PANEL
from made_fast.kernels.records import TrainScratch
from made_fast.kernels.reference import dense

K, R = 3, 5


class LatentCase(Case):
    """A random net with biases for K points, given by R features of each.

    Biases, features and E are small multiples of 1/16, so that the tables are exact in both types; none is 0.
    """

    kernel = "train_latent"
    MANY = 20
    SMALL = (9, (8, 31), 9, "output")
    LARGE = (100, (31, 70), 31, "all")
    SHAPES = (
        (1, (), 7, "none"),
        (1, (9,), 8, "output"),
        (8, (7,), 31, "none"),
        (9, (), 9, "none"),
        (31, (100,), 100, "none"),
        (65, (31, 8), 31, "output"),
        (70, (70, 7, 70), 8, "all"),
        (100, (100, 130), 7, "all"),
    )

    def __init__(self, shape: Shape, dtype: str, activation: str | None = None, degrees: Any = "stratified") -> None:
        super().__init__(shape, dtype, activation, degrees)
        rng, layers, n = np.random.default_rng(shape[0]), self.layout.layers, len(self.net.theta)
        length = panels.n_biases(layers)
        self.points = panels.of_points(self.layout, K)
        self.features = copied(rng.integers(-16, 17, (K, R)) / 16, dtype)
        vector = room(n + (K + R) * length, dtype, 0)
        vector[:n] = np.where(self.bias, np.round(8 * self.net.theta) / 8 + 1 / 16, self.net.theta)
        true = np.concatenate([~self.padding[self._own(l)] for l in range(panels.n_chain(layers))])  # not fill-up
        vector[n + K * length :].reshape(R, length)[:, true] = rng.integers(-4, 4, (R, true.sum())) / 8 + 1 / 16
        self.net = self.net._replace(theta=vector)
        self.spread(vector)
        self.parameters = vector
        self.derived = np.arange(len(vector)) < n + K * length
        self.derived[:n] = False
        tail = np.tile(true, K + R)
        self.bias, self.padding = np.concatenate([self.bias, tail]), np.concatenate([self.padding, ~tail])

    def _own(self, l: int) -> slice:
        start = self.layout.layers[l, BIAS]
        return slice(start, start + PANEL * self.layout.layers[l, N_PANELS])

    def runs(self) -> Any:
        tail = len(self.parameters) - R * panels.n_biases(self.layout.layers), len(self.parameters), 0
        return np.array([*super().runs(), tail])

    def spread(self, vector: Any) -> None:
        """Compute the tables from the biases in theta and from E."""
        n, length = panels.n_parameters(self.layout), panels.n_biases(self.layout.layers)
        b = np.concatenate([vector[self._own(l)] for l in range(panels.n_chain(self.layout.layers))])
        E = vector[n + K * length :].reshape(R, length)
        vector[n : n + K * length] = (b + self.features @ E).ravel()

    def arguments(self, optimizer: str, options: Options, **kwargs: Any) -> dict[str, Any]:
        found, n = super().arguments(optimizer, options, **kwargs), len(self.parameters)
        update, none = found["update"], found["scratch"].theta
        constants = update.constants
        scratch = self.scratch(*panels.latent_train_workspace(self.layout, 8, K, n))
        return {
            "net": found["net"],
            "points": self.points,
            "features": self.features,
            **{name: found[name] for name in ("batches", "dropout")},
            "update": new_update(optimizer, n, self.dtype, update.step)._replace(constants=constants),
            "scratch": TrainScratch(room(n, self.dtype), none, room(n, self.dtype), *scratch),
            "nll": found["nll"],
        }

    def loss(self, theta: Any, options: Options) -> float:
        arguments = self.arguments("sgd", options, steps=slice(1))
        net, batches, vector = arguments["net"], arguments["batches"], theta.copy()
        self.spread(vector)
        rows = batches.rows
        x = self.x[rows].astype(float)
        factors = dense.kept(net.layers, arguments["dropout"], slice(8), np.dtype("f8"))
        nets = [net._replace(theta=vector, layers=layers) for layers in self.points]
        logits = [dense.forward(one, x, factors)[-1] for one in nets]
        log_p = -np.stack([nll_of_levels(a, x, np.ones(x.shape[1], int)).sum(axis=1) for a in logits])
        return float(self.weights[rows] @ (np.log(K) - np.logaddexp.reduce(log_p, axis=0))) / 8
