"""A restricted Boltzmann machine: ``p(x, h) = exp(c x + b h + x W h) / Z`` with hidden units h that are summed out.

Trained by contrastive divergence, CD-k (Hinton, "Training products of experts by minimizing contrastive divergence", Neural
Computation 2002), with momentum and a learning rate that falls along a line. CD's gradient is biased: what it climbs is not
the likelihood. All states of its Gibbs chains are drawn; the last hidden layer stays at its probabilities.

``log p(x) = c x + sum_j softplus(b_j + W_j x) - log Z``, with log Z

- exact, if the smaller layer has at most ``exact_units`` units: the sum over all its states;
- else an estimate by annealed importance sampling (Salakhutdinov and Murray, "On the quantitative analysis of deep belief
  networks", ICML 2008, section 4.1), from independent inputs with the marginals of the training rows, at temperatures spaced
  as theirs. The estimate of Z is unbiased, that of log Z too small on average, so that of log p(x) too large: the more so,
  the fewer temperatures. ``log_z_stderr_`` tells of what the chains saw, not of what all of them missed.

Validation makes do with a tenth of the temperatures. ``sample`` anneals, then makes Gibbs steps: its rows are the model's as
far as the chains have mixed. Published: -86.34 nats with 500 units and CD-25 on binarized MNIST (the same paper).

Not here: the kernels (``rbm_kernels.py``).
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from bench.baselines.common import Floats, Learner, Rows, batches
from bench.baselines.rbm_kernels import (
    LANES,
    PANEL,
    Net,
    Real,
    Words,
    add_change,
    anneal,
    chains,
    log_sum,
    sums,
    weight_gradient,
)
from made_fast.system import threads
from made_fast.tables import arguments

__all__ = ["RBM", "panels"]

BLOCK = 50
"""Rows that a thread takes at once, with random numbers of their own."""

STATES = 1 << 12
"""States that a thread sums over at once."""


class RBM(Learner):
    """A restricted Boltzmann machine.

    Parameters
    ----------
    n_hidden : int
    cd_steps : int
        k of CD-k.
    learning_rate : float
        Of the first epoch; 0 would be reached after ``max_epochs``.
    momentum : float
    batch_size : int
    exact_units : int
        Up to so many units in a layer, log Z is exact, in every validation too: 2^20 states by 784 units take seconds.
    n_chains, n_temperatures : int
        Of annealed importance sampling.
    max_epochs, patience, **learning
        As of ``Learner``.
    """

    def __init__(
        self,
        n_hidden: int = 500,
        cd_steps: int = 25,
        *,
        learning_rate: float = 0.1,
        momentum: float = 0.0,
        batch_size: int = 100,
        exact_units: int = 20,
        n_chains: int = 100,
        n_temperatures: int = 14_500,
        max_epochs: int = 100,
        patience: int = 10,
        **learning: Any,
    ) -> None:
        super().__init__(max_epochs=max_epochs, patience=patience, **learning)
        self.n_hidden = arguments.positive_int(n_hidden, "n_hidden")
        self.cd_steps = arguments.positive_int(cd_steps, "cd_steps")
        self.learning_rate = arguments.positive_float(learning_rate, "learning_rate")
        self.momentum = arguments.probability(momentum, "momentum")
        self.batch_size = arguments.positive_int(batch_size, "batch_size")
        self.exact_units = arguments.non_negative_int(exact_units, "exact_units")
        self.n_chains = arguments.positive_int(n_chains, "n_chains")
        self.n_temperatures = arguments.positive_int(n_temperatures, "n_temperatures")

    def fit(self, X: Any, X_val: Any = None) -> Self:
        """See ``Baseline.fit``; the validation loss is as true as ``log_likelihood`` says, that of training is not known."""
        X, X_val, rng = self._begin(X, X_val)
        self._start(X, rng)
        velocity, gradient = np.zeros((2, len(self.theta_)), self.dtype)

        def run_epoch(epoch: int) -> None:
            rate = self.learning_rate * (1 - (epoch - 1) / self.max_epochs)
            for rows in batches(len(X), self.batch_size, rng):
                self._contrast(X[rows], rng, gradient)
                velocity[:] = self.momentum * velocity - rate * gradient
                np.add(self.theta_, velocity, out=self.theta_)

        def validate() -> float:
            return self._partition(-(-self.n_temperatures // 10), rng)[0] - float(self._unnormalised(X_val).mean())

        self._learn(run_epoch, None if X_val is None else validate)
        self.log_z_, self.log_z_stderr_ = self._partition(self.n_temperatures, rng)
        return self

    def score_samples(self, X: Any) -> Floats:
        """See ``Baseline.score_samples``."""
        return self._unnormalised(self._rows(X)) - self.log_z_

    def sample(self, n_samples: int, random_state: Any = None, n_steps: int = 1000) -> Rows:
        """See ``Baseline.sample``; a chain for each row: half of its Gibbs steps are annealed, the others the model's."""
        rng = arguments.generator(random_state)
        warm = arguments.positive_int(n_steps, "n_steps") // 2
        betas = np.concatenate([_temperatures(warm), np.ones(n_steps - warm)])
        return self._annealed(arguments.positive_int(n_samples, "n_samples"), betas, rng)[0]

    @property
    def n_parameters(self) -> int:
        """Weights and biases."""
        return len(self.theta_)

    @property
    def _n_visible(self) -> int:
        """Units on the side of the inputs."""
        return self.n_features_in_

    def _start(self, X: Rows, rng: np.random.Generator) -> None:
        """Start from the marginals of the rows and small weights."""
        D = self._n_visible
        self._exact = min(D, self.n_hidden) <= self.exact_units
        self.log_likelihood = "exact" if self._exact else "estimate"
        self.theta_ = np.zeros(D * self.n_hidden + self.n_hidden + D, self.dtype)
        self.W_, self.b_, self.c_ = self._views(self.theta_)
        self.W_[:] = rng.normal(scale=0.01, size=self.W_.shape)
        ones = X.sum(axis=0)
        self._base: Floats = np.zeros(D)
        self._base[: len(ones)] = np.log((ones + 1) / (len(X) - ones + 1))
        self.c_[:] = self._base

    def _views(self, parameters: Real) -> tuple[Real, Real, Real]:
        """Return W (D, H), b (H,) and c (D,) as views of a flat vector."""
        D, H = self._n_visible, self.n_hidden
        return parameters[: D * H].reshape(D, H), parameters[D * H : -D], parameters[-D:]

    def _net(self) -> Net:
        return panels(self.W_), panels(self.W_.T), panels(self.b_[None])[:, 0], panels(self.c_[None])[:, 0]

    def _blocks(self, work: Any, n_rows: int) -> None:
        """Call ``work(block, rows)`` for each block of rows."""
        threads.for_each(lambda i, rank: work(i, slice(i * BLOCK, (i + 1) * BLOCK)), -(-n_rows // BLOCK), self.n_threads)

    def _contrast(self, x: Rows, rng: np.random.Generator, gradient: Real) -> None:
        """Write the CD-k estimate of the gradient of the rows' mean NLL."""
        p, x_last, p_last = self._chains(x, rng)
        self._gradient(x, p, x_last, p_last, gradient)

    def _chains(self, x: Rows, rng: np.random.Generator) -> tuple[Real, Rows, Real]:
        """Begin a Gibbs chain at each row: return p(h = 1 | x) in panels, the row after k steps, and its p(h = 1 | x)."""
        net, x_last, states = self._net(), np.empty_like(x), _random_states(len(x), rng)
        p, p_last = np.empty((2, len(net[0]), len(x), PANEL), self.dtype)

        def work(block: int, rows: slice) -> None:
            ends = np.empty((2, len(p), len(x[rows]), PANEL), self.dtype)
            chains(x[rows], net, self.cd_steps, states[block], ends[0], x_last[rows], ends[1])
            p[:, rows], p_last[:, rows] = ends

        self._blocks(work, len(x))
        return p, x_last, p_last

    def _gradient(self, x: Rows, p: Real, x_last: Rows, p_last: Real, gradient: Real) -> None:
        """Write the gradient of the mean of ``log p(x_last) - log p(x)``, given p(h = 1 | ...) of both, in panels."""
        dW, db, dc = self._views(gradient)
        db[:] = (p_last.sum(axis=1) - p.sum(axis=1)).ravel()[: len(db)] / len(x)
        dc[:] = (x_last.sum(axis=0, dtype=np.int64) - x.sum(axis=0, dtype=np.int64)) / len(x)
        D = len(dc)

        def work(strip: int, rank: int) -> None:
            weight_gradient(x, p, x_last, p_last, strip * PANEL, min((strip + 1) * PANEL, D), dW)

        threads.for_each(work, -(-D // PANEL), self.n_threads)

    def _unnormalised(self, X: Rows) -> Floats:
        """Return log p(x) + log Z of each row."""
        net, log_p = self._net(), np.empty(len(X))

        def work(block: int, rows: slice) -> None:
            x = X[rows]
            z = np.empty((len(net[0]), len(x), PANEL), self.dtype)
            sums(x, net[0], net[2], z)
            log_p[rows] = x @ self.c_.astype(np.float64) + self.n_hidden * np.log(2)
            add_change(z, 1.0, 0.0, log_p[rows])

        self._blocks(work, len(X))
        return log_p

    def _partition(self, n_temperatures: int, rng: np.random.Generator) -> tuple[float, float]:
        """Return log Z and its standard error."""
        if self._exact:
            return self._exact_log_z(), 0.0
        log_w = self._annealed(self.n_chains, _temperatures(n_temperatures), rng)[1]
        log_z_base, top = self.n_hidden * np.log(2) + np.logaddexp(0, self._base).sum(), log_w.max()
        w = np.exp(log_w - top)
        stderr = np.inf if len(w) == 1 else w.std(ddof=1) / w.mean() / np.sqrt(len(w))
        return float(log_z_base + top + np.log(w.mean())), float(stderr)

    def _annealed(self, n: int, betas: Floats, rng: np.random.Generator) -> tuple[Rows, Floats]:
        """Take n rows of the base model through Gibbs steps at the temperatures; return them and their log weights."""
        net, base, shift = self._net(), panels(self._base.astype(self.dtype)[None])[:, 0], self.c_ - self._base
        x, log_w = (rng.logistic(size=(n, len(shift))) < self._base).view(np.uint8), np.zeros(n)
        states = _random_states(n, rng)
        self._blocks(lambda i, rows: anneal(x[rows], net, base, shift, betas, states[i], log_w[rows]), n)
        return x, log_w

    def _exact_log_z(self) -> float:
        """Return log Z by the sum over all states of the smaller layer."""
        sides = [(self.W_.T, self.b_, self.c_), (self.W_, self.c_, self.b_)]
        W, own, other = (np.ascontiguousarray(a, np.float64) for a in min(sides, key=lambda side: len(side[1])))
        n_states = 1 << len(own)
        log_z = np.empty(-(-n_states // STATES))

        def work(block: int, rank: int) -> None:
            log_z[block] = log_sum(W, own, other, block * STATES, min((block + 1) * STATES, n_states))

        threads.for_each(work, len(log_z), self.n_threads)
        return float(np.logaddexp.reduce(log_z))


def _temperatures(n: int) -> Floats:
    """Return n + 1 inverse temperatures from 0 to 1, spaced as in Salakhutdinov and Murray: most of them next to 1."""
    return np.interp(np.linspace(0, 14_500, n + 1), [0, 500, 4500, 14_500], [0, 0.5, 0.9, 1])


def panels(W: Real) -> Real:
    """Return a matrix in panels of 64 columns, (panels, rows, 64), filled up with 0."""
    n_panels = -(-W.shape[1] // PANEL)
    whole = np.zeros((len(W), n_panels * PANEL), W.dtype)
    whole[:, : W.shape[1]] = W
    return np.ascontiguousarray(whole.reshape(len(W), n_panels, PANEL).transpose(1, 0, 2))


def _random_states(n_rows: int, rng: np.random.Generator) -> Words:
    """Return the states of 16 generators for each block of rows."""
    return rng.integers(0, 2**32, size=(-(-n_rows // BLOCK), 4, LANES), dtype=np.uint32)
