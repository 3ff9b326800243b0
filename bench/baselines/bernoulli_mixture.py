"""A mixture of products of Bernoullis, trained by EM: ``p(x) = sum_k pi_k prod_d mu_dk^x_d (1 - mu_dk)^(1 - x_d)``.

The algorithm is that of Bishop, Pattern Recognition and Machine Learning (2006), section 9.3.3, with a prior in the M-step,
so that no probability becomes 0 or 1: Beta(1 + s m_d, 1 + s (1 - m_d)) for each mu_dk, where m_d is the share of ones of
input d in the training rows (add-one smoothed), and Dirichlet(1 + s, ...) for the weights. So each component is given ``s``
rows of average content. EM then climbs the log-posterior. The log-likelihood of a row is exact.

Where it begins matters: each component starts half-way between a random training row and the marginals, ``n_init`` such
beginnings make five steps each, and the best goes on.

Not here: a choice of K, or of s. The matrix products are NumPy's. ``n_threads`` threads take blocks of rows; BLAS may use
threads of its own besides, unless it is held to one. Published: "MoBernoullis" in the tables of NADE (Larochelle and Murray
2011) and MADE (Germain et al. 2015).
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from bench.baselines.common import Floats, Learner, Rows
from made_fast.system import threads
from made_fast.tables import arguments

__all__ = ["BernoulliMixture"]

BLOCK = 4096
"""Rows that a thread takes at once; their sums are added up in order, whoever made them."""

FIRST_STEPS = 5
"""EM steps that each beginning makes."""

LEAST = -75.0
"""Log of the smallest share of a row that a component gets: below, float32 is denormal, and BLAS ten times slower."""


class _Sums(NamedTuple):
    """What the M-step wants to know about some rows."""

    log_p: float  # sum of the rows' log-likelihoods
    rows: Floats  # (K,) rows of each component
    ones: Floats  # (D, K) ones among them


class BernoulliMixture(Learner):
    """A mixture of products of Bernoullis.

    Parameters
    ----------
    n_components : int
        K.
    smoothing : float
        s of the prior, in rows; more than 0.
    n_init : int
        Beginnings that are tried.
    max_epochs : int
        Most EM steps, each over all rows.
    patience : int
        Stop after this many without a better validation score.
    **learning
        As of ``Learner``; ``dtype`` is that of training, scores are worked out in float64.
    """

    def __init__(
        self,
        n_components: int = 10,
        smoothing: float = 1.0,
        n_init: int = 3,
        *,
        max_epochs: int = 200,
        patience: int = 10,
        **learning: Any,
    ) -> None:
        super().__init__(max_epochs=max_epochs, patience=patience, **learning)
        self.n_components = arguments.positive_int(n_components, "n_components")
        self.smoothing = arguments.positive_float(smoothing, "smoothing")
        self.n_init = arguments.positive_int(n_init, "n_init")

    def fit(self, X: Any, X_val: Any = None) -> Self:
        """See ``Baseline.fit``; an epoch is an EM step, its loss minus the log-posterior before it, but for a constant."""
        X, X_val, rng = self._begin(X, X_val)
        D, K = X.shape[1], self.n_components
        self._marginals: Floats = (X.sum(axis=0) + 1.0) / (len(X) + 2.0)
        self.theta_ = np.empty((D + 1) * K, self.dtype)
        self.log_odds_ = self.theta_[: D * K].reshape(D, K)  # log(mu / (1 - mu)): exact next to 0 and next to 1
        self.log_weights_ = self.theta_[D * K :]
        best, highest = self.theta_, -np.inf
        for _ in range(self.n_init):
            self._start(X, rng)
            for _ in range(FIRST_STEPS):
                objective = self._step(X)
            if not objective <= highest:  # the first, at least
                best, highest = self.theta_.copy(), objective
        self.theta_[:] = best
        self._learn(lambda epoch: -self._step(X) / len(X), None if X_val is None else lambda: -self.score(X_val))
        return self

    def score_samples(self, X: Any) -> Floats:
        """See ``Baseline.score_samples``; exact."""
        X = self._rows(X)
        log_p = np.empty(len(X))
        log_odds, constant = self.log_odds_.astype(np.float64), self._constant()

        def work(block: int, rank: int) -> None:
            part = slice(block * BLOCK, (block + 1) * BLOCK)
            log_p[part] = np.logaddexp.reduce(X[part].astype(np.float64) @ log_odds + constant, axis=1)

        threads.for_each(work, -(-len(X) // BLOCK), self.n_threads)
        return log_p

    def sample(self, n_samples: int, random_state: Any = None) -> Rows:
        """See ``Baseline.sample``: a component for each row, then its inputs."""
        rng = arguments.generator(random_state)
        weights = np.exp(self.log_weights_.astype(np.float64))
        k = rng.choice(self.n_components, arguments.positive_int(n_samples, "n_samples"), p=weights / weights.sum())
        log_odds = self.log_odds_.T.astype(np.float64)[k]
        return (rng.logistic(size=log_odds.shape) < log_odds).view(np.uint8)

    @property
    def n_parameters(self) -> int:
        """K weights, of which one follows from the others, and D probabilities for each component."""
        return self.n_components * (self.n_features_in_ + 1) - 1

    def _start(self, X: Rows, rng: np.random.Generator) -> None:
        """Start each component half-way between a random row and the marginals."""
        rows = X[rng.choice(len(X), self.n_components, replace=self.n_components > len(X))].T
        mu = (rows + self._marginals[:, None]) / 2
        self.log_odds_[:] = np.log(mu / (1 - mu))
        self.log_weights_[:] = -np.log(self.n_components)

    def _step(self, X: Rows) -> float:
        """Make one EM step; return the log-posterior (but for a constant) of the parameters before it."""
        s, m, n, K = self.smoothing, self._marginals[:, None], len(X), self.n_components
        objective = s * float(self.log_weights_.sum(dtype=np.float64) - _softplus(self.log_odds_).sum())
        objective += s * float((m * self.log_odds_).sum())
        log_p, rows, ones = self._e_step(X)
        zeros = np.maximum(rows - ones, 0)  # rounding may have made it negative
        self.log_odds_[:] = np.log((ones + s * m) / (zeros + s * (1 - m)))
        self.log_weights_[:] = np.log((rows + s) / (n + K * s))
        return objective + log_p

    def _e_step(self, X: Rows) -> _Sums:
        """Share the rows out among the components."""
        sums: list[Any] = [None] * -(-len(X) // BLOCK)
        constant = self._constant().astype(self.dtype)

        def work(block: int, rank: int) -> None:
            x = X[block * BLOCK : (block + 1) * BLOCK].astype(self.dtype)
            z = x @ self.log_odds_
            z += constant
            top = z.max(axis=1, keepdims=True)
            z -= top
            np.exp(np.maximum(z, LEAST, out=z), out=z)
            total = z.sum(axis=1, keepdims=True)
            z /= total
            log_p = float((top + np.log(total)).sum(dtype=np.float64))
            sums[block] = _Sums(log_p, z.sum(axis=0, dtype=np.float64), x.T @ z)

        threads.for_each(work, len(sums), self.n_threads)
        log_p, rows, ones = 0.0, np.zeros(self.n_components), np.zeros(self.log_odds_.shape)
        for block in sums:
            log_p, rows, ones = log_p + block.log_p, rows + block.rows, ones + block.ones
        return _Sums(log_p, rows, ones)

    def _constant(self) -> Floats:
        """Return ``log p(k, x = 0)`` for each component, (K,)."""
        constant: Floats = self.log_weights_ - _softplus(self.log_odds_).sum(axis=0)
        return constant


def _softplus(a: NDArray[Any]) -> Floats:
    return np.logaddexp(0.0, a, dtype=np.float64)
