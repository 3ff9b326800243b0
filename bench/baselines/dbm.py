"""A deep Boltzmann machine of two hidden layers, which are both summed out.

Salakhutdinov and Hinton, "Deep Boltzmann machines", AISTATS 2009::

    p(x, h, g) = exp(c x + b h + a g + x W h + g V h) / Z

Neither x nor g has connections within itself or to each other, so the model is an RBM between (x, g) on one side and h on the
other: its chains, gradients and log Z are those of ``rbm.py``, with weights ``[W; V]`` and biases ``[c; a]``.

The gradient of the NLL is a difference of two means. That under the rows is taken by mean field, ``q(h, g | x)`` factorial:
``n_mean_field`` rounds of updates of h given g and g given h; of g one draw from q is taken, of h the probabilities. That
under the model is taken from chains that persist from one mini-batch to the next. Not as published: instead of greedy
pretraining the gradient is centred, with units measured from the average of both means (Montavon and Mueller, "Deep Boltzmann
machines and the centering trick", 2012; the offsets are those of the "enhanced gradient" of Cho, Raiko and Ilin, ICML 2011).
It is the same gradient, in other coordinates of the same model.

The log-likelihood is a lower bound (``posterior.py``): g is drawn from the mean-field posterior, h is summed out. Where log Z
is estimated, by annealed importance sampling with h summed out, as by Salakhutdinov and Hinton (section 3.1), what comes out
is an estimate of the bound. Published, binarized MNIST: -84.62 nats with 500 and 1000 units.

Not here: kernels (``rbm_kernels.py``), discriminative fine-tuning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from threadpoolctl import threadpool_limits

from bench.baselines.common import Floats, Rows
from bench.baselines.posterior import bound, draw, two_layers
from bench.baselines.rbm import RBM, panels
from bench.baselines.rbm_kernels import Real
from made_fast.kernels.jit.rows import SIGMOID, activate
from made_fast.tables import arguments

__all__ = ["DBM"]


class DBM(RBM):
    """A deep Boltzmann machine of two hidden layers.

    Parameters
    ----------
    hidden_sizes : sequence of two ints
        The layer next to the inputs first.
    gibbs_steps : int
        Of each persistent chain between two updates.
    n_mean_field : int
        Rounds of mean-field updates.
    n_samples : int
        Of the second layer, for the lower bound of a row; drawn from the seed.
    batch_size : int
        Also the number of persistent chains.
    **training
        As of ``RBM``.
    """

    def __init__(
        self,
        hidden_sizes: Sequence[int] = (500, 500),
        gibbs_steps: int = 5,
        *,
        n_mean_field: int = 10,
        n_samples: int = 100,
        learning_rate: float = 0.1,
        **training: Any,
    ) -> None:
        self.hidden_sizes = two_layers(hidden_sizes)
        steps = arguments.positive_int(gibbs_steps, "gibbs_steps")
        super().__init__(self.hidden_sizes[0], steps, learning_rate=learning_rate, **training)
        self.n_mean_field = arguments.positive_int(n_mean_field, "n_mean_field")
        self.n_samples = arguments.positive_int(n_samples, "n_samples")

    def fit(self, X: Any, X_val: Any = None) -> Self:
        """See ``RBM.fit``; the validation loss is by one draw of the second layer a row."""
        with threadpool_limits(1, "blas"):
            return super().fit(X, X_val)

    def score_samples(self, X: Any, n_samples: int | None = None) -> Floats:
        """Return a lower bound of log p(x) of each row, by ``n_samples`` (those of the model, unless given) draws a row."""
        S = self.n_samples if n_samples is None else arguments.positive_int(n_samples, "n_samples")
        with threadpool_limits(1, "blas"):
            return self._unnormalised(self._rows(X), S) - self.log_z_

    def sample(self, n_samples: int, random_state: Any = None, n_steps: int = 1000) -> Rows:
        """See ``RBM.sample``."""
        return np.ascontiguousarray(super().sample(n_samples, random_state, n_steps)[:, : self.n_features_in_])

    @property
    def _n_visible(self) -> int:
        return self.n_features_in_ + self.hidden_sizes[1]

    def _start(self, X: Rows, rng: np.random.Generator) -> None:
        super()._start(X, rng)
        self.log_likelihood = "lower bound" if self._exact else "estimate of a lower bound"
        self._seed = int(rng.integers(2**63))
        self._particles = (rng.logistic(size=(self.batch_size, self._n_visible)) < self._base).view(np.uint8)

    def _contrast(self, x: Rows, rng: np.random.Generator, gradient: Real) -> None:
        """Write an estimate of the gradient of the rows' mean NLL, centred; as many chains go on as there are rows."""
        logits, h = self._mean_field(x)
        v, n = np.hstack([x, draw(logits, rng)[0]]), len(x)
        _, last, h_last = self._chains(self._particles[:n], rng)
        self._particles[:n] = last
        p = panels(h)
        self._gradient(v, p, last, h_last, gradient)
        middle_v = 0.5 * (v.mean(axis=0) + last.mean(axis=0)).astype(self.dtype)
        middle_h = 0.5 * (p + h_last).mean(axis=1).ravel()[: self.n_hidden]
        self._centre(gradient, middle_v, middle_h)

    def _centre(self, gradient: Real, middle_v: Real, middle_h: Real) -> None:
        """Turn a gradient into that of ``v - middle_v`` and ``h - middle_h``, as a step of W, b and c."""
        dW, db, dc = self._views(gradient)
        dW -= np.outer(middle_v, db) + np.outer(dc, middle_h)
        db -= middle_v @ dW
        dc -= dW @ middle_h

    def _mean_field(self, x: Rows) -> tuple[Real, Real]:
        """Return the logits of q(g | x), (n, G), and q(h = 1 | x), (n, H)."""
        W, V = np.split(self.W_, [self.n_features_in_])
        a = self.c_[self.n_features_in_ :]
        below = x.astype(self.dtype) @ W + self.b_
        logits = np.tile(a, (len(x), 1))
        for _ in range(self.n_mean_field):
            g = logits.copy()
            activate(g.ravel(), SIGMOID)
            h = g @ V
            h += below
            activate(h.ravel(), SIGMOID)
            logits = h @ V.T
            logits += a
        return logits, h

    def _unnormalised(self, X: Rows, n_samples: int = 1) -> Floats:
        """Return a lower bound of log p(x) + log Z of each row, by the same draws every time."""

        def log_joint(x: Rows, g: Rows) -> Floats:
            return RBM._unnormalised(self, np.hstack([x, g]))

        return bound(X, lambda x: self._mean_field(x)[0], log_joint, n_samples, self._seed)
