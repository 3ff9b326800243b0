"""A deep belief network of two hidden layers: an RBM of the hidden units of an RBM.

Hinton, Osindero and Teh, "A fast learning algorithm for deep belief nets", Neural Computation 2006::

    p(x, h) = p(h) prod_d p(x_d | h)         p(x_d = 1 | h) = sigmoid(c_d + W[d] . h)

with p(h) the marginal of a second RBM, whose visible units are h. Learned greedily: an RBM of the rows gives W, c and the
posterior ``q(h_j = 1 | x) = sigmoid(b_j + x . W[:, j])``; the second RBM is trained on one draw of h for each row. That climbs
the variational bound in p(h); W stays as it is.

The log-likelihood is a lower bound (``posterior.py``), as of Salakhutdinov and Murray, "On the quantitative analysis of deep
belief networks", ICML 2008, section 5. It needs log Z of the second RBM only; where that is itself an estimate, by annealed
importance sampling (``rbm.py``), what comes out is an estimate of the bound.

Published, binarized MNIST: -84.55 nats with 500 and 2000 units, an estimate by Markov chains that is nearer to the likelihood
than the bound (Murray and Salakhutdinov, NIPS 2008).

Not here: the RBM (``rbm.py``), fine-tuning of both layers together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from threadpoolctl import threadpool_limits

from bench.baselines.common import Floats, Learner, Rows
from bench.baselines.panels import losses
from bench.baselines.posterior import bound, draw, two_layers
from bench.baselines.rbm import RBM
from bench.baselines.rbm_kernels import Real
from made_fast.tables import arguments

__all__ = ["DBN"]


class DBN(Learner):
    """A deep belief network of two hidden layers.

    Parameters
    ----------
    hidden_sizes : sequence of two ints
        The layer next to the inputs first.
    cd_steps, learning_rate, momentum, batch_size, exact_units, n_chains, n_temperatures
        As of ``RBM``, the same for both.
    n_samples : int
        Of h, for the lower bound of a row; drawn from the seed.
    max_epochs, patience, **learning
        As of ``Learner``, for each RBM.
    """

    def __init__(
        self,
        hidden_sizes: Sequence[int] = (500, 500),
        cd_steps: int = 25,
        *,
        learning_rate: float = 0.1,
        momentum: float = 0.0,
        batch_size: int = 100,
        exact_units: int = 20,
        n_chains: int = 100,
        n_temperatures: int = 14_500,
        n_samples: int = 100,
        max_epochs: int = 100,
        patience: int = 10,
        **learning: Any,
    ) -> None:
        super().__init__(max_epochs=max_epochs, patience=patience, **learning)
        self.hidden_sizes = two_layers(hidden_sizes)
        self.n_samples = arguments.positive_int(n_samples, "n_samples")
        self.lower_, self.upper_ = (
            RBM(
                size,
                cd_steps,
                learning_rate=learning_rate,
                momentum=momentum,
                batch_size=batch_size,
                exact_units=exact_units,
                n_chains=n_chains,
                n_temperatures=n_temperatures,
                max_epochs=max_epochs,
                patience=patience,
                **learning,
            )
            for size in self.hidden_sizes
        )

    def fit(self, X: Any, X_val: Any = None) -> Self:
        """See ``Baseline.fit``; ``best_epoch_`` is that of the second RBM, which is validated on draws of h."""
        x, x_val, rng = self._begin(X, X_val)
        self.lower_.random_state = self.upper_.random_state = rng
        self.lower_.fit(x, x_val)
        self._seed = int(rng.integers(2**63))
        with threadpool_limits(1, "blas"):
            h, h_val = (None if rows is None else draw(self._logits(rows), rng)[0] for rows in (x, x_val))
        self.upper_.fit(h, h_val)
        self.best_epoch_ = self.upper_.best_epoch_
        self.log_likelihood = "lower bound" if self.upper_.log_likelihood == "exact" else "estimate of a lower bound"
        return self

    def score_samples(self, X: Any, n_samples: int | None = None) -> Floats:
        """Return a lower bound of log p(x) of each row, by ``n_samples`` (those of the model, unless given) of h a row."""
        S = self.n_samples if n_samples is None else arguments.positive_int(n_samples, "n_samples")
        with threadpool_limits(1, "blas"):
            return bound(self._rows(X), self._logits, self._log_joint, S, self._seed)

    def sample(self, n_samples: int, random_state: Any = None, n_steps: int = 1000) -> Rows:
        """See ``Baseline.sample``: hidden units as ``RBM.sample`` draws them, then the inputs."""
        rng = arguments.generator(random_state)
        h = self.upper_.sample(n_samples, rng, n_steps)
        with threadpool_limits(1, "blas"):
            return draw(self._down(h), rng)[0]

    @property
    def n_parameters(self) -> int:
        """Weights and biases of both RBMs, those of the posterior too."""
        return self.lower_.n_parameters + self.upper_.n_parameters

    def _logits(self, x: Rows) -> Real:
        """Return the logits of q(h | x), (n, H)."""
        a: Real = x.astype(self.dtype) @ self.lower_.W_ + self.lower_.b_
        return a

    def _down(self, h: Rows) -> Real:
        """Return the logits of p(x | h), (n, D)."""
        z: Real = h.astype(self.dtype) @ self.lower_.W_.T + self.lower_.c_
        return z

    def _log_joint(self, x: Rows, h: Rows) -> Floats:
        """Return log p(x, h) of each row, (n,)."""
        nll = np.empty(len(x))
        losses(self._down(h)[:, None], np.zeros_like(self.lower_.c_), x, 0.0, nll)
        return self.upper_.score_samples(h) - nll
