"""The plain autoencoder that MADE starts from (Germain et al., ICML 2015, section 2): every output sees every input.

::

    h = sigmoid(b + x W)        x^ = sigmoid(c + h V)        q(x) = prod_d x^_d^x_d (1 - x^_d)^(1 - x_d)

It is trained on -log q(x), the cross-entropy (eq. 3). q is not a density: as output d sees x_d itself, q(x) is no product of
conditionals, and its sum over all x is not 1. ``total`` adds it up. An autoencoder that copies any input has q(x) = 1 for each
of the 2^D rows; so -log q(x) is a loss and no NLL, and comparing it with one tells nothing.

Not here: masks, which make q a density, as of the package.
"""

from __future__ import annotations

from typing import Any, NoReturn, Self

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from bench.baselines.common import Floats, Rows
from bench.baselines.eonade import Layers, views
from bench.baselines.panels import Real, losses
from bench.baselines.trained import Trained, in_halves, log_odds
from made_fast.kernels.jit.rows import SIGMOID, activate
from made_fast.tables import arguments

__all__ = ["ENUMERATED", "Autoencoder", "gradient"]

ENUMERATED = 20
"""Most features whose rows are all looked at."""

ROWS = 1 << 12
"""Rows that are scored at once."""


def gradient(layers: Layers, x: Rows, share: float, d: Layers | None) -> Floats:
    """Return -log q(x) of each row, (n,), in nats; write ``share`` times the gradient of their sum to ``d``, if there."""
    (W, b), (V, c) = layers
    ones, nll = x.astype(c.dtype), np.empty(len(x))
    h = ones @ W
    h += b
    activate(h.ravel(), SIGMOID)
    z = h @ V
    losses(z[:, None], c, x, share, nll)  # z is the gradient from here on
    if d is not None:
        (dW, db), (dV, dc) = d
        np.matmul(h.T, z, out=dV)
        np.sum(z, axis=0, out=dc)
        da = z @ V.T
        da *= h * (1 - h)
        np.matmul(ones.T, da, out=dW)
        np.sum(da, axis=0, out=db)
    return nll


class Autoencoder(Trained):
    """An autoencoder with one hidden layer, trained by Adam. Its scores are log q(x), which is no log-likelihood.

    Parameters
    ----------
    hidden_size : int
    **training
        As of ``Trained``.
    """

    log_likelihood = "not a density"

    def __init__(self, hidden_size: int = 500, **training: Any) -> None:
        super().__init__(**training)
        self.hidden_size = arguments.positive_int(hidden_size, "hidden_size")

    def fit(self, X: Any, X_val: Any = None) -> Self:
        """See ``Baseline.fit``."""
        x, x_val, rng = self._begin(X, X_val)
        D, H = x.shape[1], self.hidden_size
        self.theta_ = np.zeros(2 * D * H + H + D, self.dtype)
        layers = self._layers(self.theta_)
        for W, _ in layers:
            W[:] = rng.uniform(-1, 1, W.shape) * (6 / (D + H)) ** 0.5
        layers[-1][1][:] = log_odds(x)
        spare = np.empty_like(self.theta_)

        def mean_gradient(rows: NDArray[np.intp], out: Real) -> float:
            def half(cut: slice, out: Real) -> float:
                return float(gradient(layers, x[rows[cut]], 1 / len(rows), self._layers(out)).sum())

            return in_halves(half, len(rows), out, spare, self.n_threads)

        with threadpool_limits(1, "blas"):
            self._train(len(x), rng, mean_gradient, None if x_val is None else lambda: -self.score(x_val))
        return self

    def score_samples(self, X: Any) -> Floats:
        """Return log q(x) of each row of X (n, D), (n,), in nats: no log-likelihood."""
        x, layers = self._rows(X), self._layers(self.theta_)
        with threadpool_limits(1, "blas"):
            return -np.concatenate([gradient(layers, x[i : i + ROWS], 0.0, None) for i in range(0, len(x), ROWS)])

    def total(self) -> float:
        """Return the sum of q(x) over all 2^D rows; a density has 1. ValueError for more than 20 features."""
        D = self.n_features_in_
        if D > ENUMERATED:
            raise ValueError(f"the sum over all rows must have at most {ENUMERATED} features, got {D}. Fit to fewer columns.")
        numbers = np.arange(1 << D)[:, None]
        return float(np.exp(self.score_samples((numbers >> np.arange(D)) & 1)).sum())

    def sample(self, n_samples: int, random_state: Any = None) -> NoReturn:
        """Refuse: there is no density to draw from."""
        raise NotImplementedError("an autoencoder has no density to draw rows from. Use a model that has one: NADE, FVSBN.")

    @property
    def n_parameters(self) -> int:
        """Weights and biases."""
        return len(self.theta_)

    def _layers(self, parameters: Real) -> Layers:
        return views(parameters, (self.n_features_in_, self.hidden_size, self.n_features_in_))
