"""DARN, a deep autoregressive network with one layer of stochastic binary hidden units, of binary rows.

Gregor, Danihelka, Mnih, Blundell and Wierstra, ICML 2014, sections 2 and 3. Prior and decoder are autoregressive, the
encoder, which serves training and the estimate of the likelihood, is not::

    p(h_j = 1 | h_<j)    = sigmoid(p_j + sum_{i<j} P[i, j] h_i)
    p(x_d = 1 | x_<d, h) = sigmoid(c_d + sum_{i<d} A[i, d] x_i + h . G[:, d])
    q(h_j = 1 | x)       = sigmoid(e_j + x . E[:, j])

Trained by the bound ``log p(x) >= E_q[log p(x, h) - log q(h | x)]`` with one h a row. Exact given h: the gradient of p's
parameters, and of the entropy of q. For q's the gradient needs ``f(h_j = 1) - f(h_j = 0)`` of f = -log p(x, h). It is taken
by the trapezoid rule, ``(f'(1) + f'(0)) / 2``, and of that one side a sample, divided by its probability: the "1/2"
estimator of DARN, as Gu, Levine, Sutskever and Mnih call it (MuProp, ICLR 2016). It is unbiased for f up to a quadratic in
each h_j.

The log-likelihood is exact, the sum over all h, for up to 12 hidden units. For more it is a lower bound, the log of the mean
of ``p(x, h) / q(h | x)`` over samples from q: at most log p(x) in expectation, and the closer the more samples.

Not as published: no adaptive weight noise, Adam instead of RMSProp, features in the order of the table. Dead halves of P and
A are kept, as zeros. Products of matrices are left to NumPy's BLAS, held to one thread; a mini-batch is worked on in halves.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from bench.baselines.common import Floats, Rows
from bench.baselines.panels import Real, losses, total
from bench.baselines.trained import Trained, in_halves, log_odds
from made_fast.kernels.jit.rows import SIGMOID, activate, exp, kernel, log1p
from made_fast.system import threads
from made_fast.tables import arguments

__all__ = ["DARN", "EXACT", "Net", "gradient", "views"]

EXACT = 12
"""Most hidden units whose states are summed over."""

ROWS = 64
"""Rows that one thread scores or samples at a time."""


class Net(NamedTuple):
    """The parameters, or their gradient; P and A are 0 on and below the diagonal."""

    E: Real  # (D, H)
    e: Real  # (H,)
    P: Real  # (H, H)
    p: Real  # (H,)
    G: Real  # (H, D)
    A: Real  # (D, D)
    c: Real  # (D,)


def views(theta: Real, D: int, H: int) -> Net:
    """Return the net whose parameters stand in ``theta``, one vector."""
    shapes: list[tuple[int, ...]] = [(D, H), (H,), (H, H), (H,), (H, D), (D, D), (D,)]
    cuts = np.cumsum([0] + [int(np.prod(shape)) for shape in shapes])
    return Net(*(theta[a:b].reshape(shape) for (a, b), shape in zip(pairwise(cuts), shapes, strict=True)))


def gradient(net: Net, x: Rows, uniforms: Floats, share: float, d: Net | None) -> Floats:
    """Return minus the bound for each row, (n,), in nats, by one h that ``uniforms`` (n, H) decide.

    ``share`` times its gradient is written to d, if it is there; that of the dead halves of P and A as well.
    """
    ones = x.astype(net.c.dtype)
    a = ones @ net.E + net.e
    q = a.copy()
    activate(q.ravel(), SIGMOID)
    h = (uniforms < q).astype(q.dtype)
    s = h @ net.P
    z = ones @ net.A
    z += h @ net.G
    logits = s + net.p
    loss, prior, entropy = np.empty(len(x)), np.empty(len(x)), np.empty(len(x))
    losses(z[:, None], net.c, ones, share, loss)  # z and s are the gradients from here on
    losses(s[:, None], net.p, h, share, prior)
    losses(a[:, None].copy(), np.zeros_like(net.e), q, 0.0, entropy)
    if d is not None:
        dh = z @ net.G.T + s @ net.P.T - share * logits  # of minus log p(x, h), as if h were real numbers
        da = 0.5 * dh * abs(h - q) + share * a * q * (1 - q)  # q (1 - q) f' / (2 q) at h_j = 1, / (2 (1 - q)) at 0
        for left, right, weights, bias in ((ones, da, d.E, d.e), (h, s, d.P, d.p), (ones, z, d.A, d.c)):
            np.matmul(left.T, right, out=weights)
            np.sum(right, axis=0, out=bias)
        np.matmul(h.T, z, out=d.G)
    return loss + prior - entropy


def _clear_dead(A: Real) -> None:
    for i in range(len(A)):
        A[i, : i + 1] = 0


@kernel
def _log_p_given(logits: Real, base: Real, x: Rows, log_p: Floats) -> None:
    """Write log p(x | h) of one row x (D,) for each h: the logits are ``logits[h] + base``."""
    real = base.dtype.type
    zero, terms = real(0), np.empty_like(base)
    for k in range(len(logits)):
        for d in range(len(base)):
            s = logits[k, d] + base[d]
            terms[d] = max(s, zero) - real(x[d]) * s + log1p(real, exp(real, -abs(s)))
        log_p[k] = -total(terms)


def _ancestral(logits: Real, A: Real, uniforms: Floats) -> Rows:
    """Draw rows, one unit after the other: unit i, if it is 1, adds A[i] to the logits of those after it (overwritten)."""
    x = np.empty(uniforms.shape, np.uint8)
    for i in range(len(A)):
        x[:, i] = uniforms[:, i] < 0.5 + 0.5 * np.tanh(0.5 * logits[:, i])
        logits[:, i + 1 :] += x[:, i, None] * A[i, i + 1 :]
    return x


class DARN(Trained):
    """DARN with one stochastic hidden layer, trained by Adam on the variational bound.

    Parameters
    ----------
    n_hidden : int
    autoregressive_prior : bool
        Whether hidden units depend on those before them in the prior.
    n_samples : int
        Of h, for the lower bound of a row's log-likelihood; drawn from the seed.
    **training
        As of ``Trained``.
    """

    def __init__(
        self, n_hidden: int = 500, *, autoregressive_prior: bool = True, n_samples: int = 1000, **training: Any
    ) -> None:
        super().__init__(**training)
        self.n_hidden = arguments.positive_int(n_hidden, "n_hidden")
        self.autoregressive_prior = arguments.boolean(autoregressive_prior, "autoregressive_prior")
        self.n_samples = arguments.positive_int(n_samples, "n_samples")
        self.log_likelihood = "exact" if self.n_hidden <= EXACT else "lower bound"

    @property
    def n_parameters(self) -> int:
        """Number of trained parameters, the encoder's too."""
        D, H = self.n_features_in_, self.n_hidden
        return 2 * D * H + 2 * H + D + D * (D - 1) // 2 + self.autoregressive_prior * H * (H - 1) // 2

    def fit(self, X: Any, X_val: Any = None) -> Self:
        """See ``Baseline.fit``; the validation loss is minus the bound, by one h a row, for numbers drawn once."""
        x, x_val, rng = self._begin(X, X_val)
        D, H = x.shape[1], self.n_hidden
        self.theta_ = np.zeros(D * H + H + H * H + H + H * D + D * D + D, self.dtype)
        net = self._net
        for weights in (net.E, net.G):
            weights[:] = rng.uniform(-1, 1, weights.shape) * (6 / (D + H)) ** 0.5
        net.c[:] = log_odds(x)
        self._seed = int(rng.integers(2**63))

        spare = np.empty_like(self.theta_)

        def mean_gradient(rows: NDArray[np.intp], out: Real) -> float:
            uniforms = rng.random((len(rows), H))

            def half(cut: slice, out: Real) -> float:
                return float(gradient(net, x[rows[cut]], uniforms[cut], 1 / len(rows), views(out, D, H)).sum())

            loss = in_halves(half, len(rows), out, spare, self.n_threads)
            d = views(out, D, H)
            _clear_dead(d.A)
            if self.autoregressive_prior:
                _clear_dead(d.P)
            else:
                d.P[:] = 0
            return loss

        with threadpool_limits(1, "blas"):
            self._train(len(x), rng, mean_gradient, None if x_val is None else lambda: -self.bound(x_val))
        return self

    def bound(self, X: Any) -> float:
        """Return the mean over rows of the variational bound, estimated by one h a row, the same ones every time."""
        x = self._rows(X)
        uniforms = np.random.default_rng(self._seed).random((len(x), self.n_hidden))
        loss = np.empty(len(x))

        def work(i: int, rank: int) -> None:
            rows = slice(i * ROWS, (i + 1) * ROWS)
            loss[rows] = gradient(self._net, x[rows], uniforms[rows], 0.0, None)

        with threadpool_limits(1, "blas"):
            threads.for_each(work, -(-len(x) // ROWS), self.n_threads)
        return -float(loss.mean())

    def score_samples(self, X: Any, n_samples: int | None = None) -> Floats:
        """Return log p(x) of each row, or a lower bound by ``n_samples`` (those of the model, unless given) of h a row."""
        x, net = self._rows(X), self._net
        S = self.n_samples if n_samples is None else arguments.positive_int(n_samples, "n_samples")
        result = np.empty(len(x))
        every = None
        if self.n_hidden <= EXACT:
            every = self._from_hidden((np.arange(2**self.n_hidden)[:, None] >> np.arange(self.n_hidden)) & 1)

        def work(i: int, rank: int) -> None:
            part = x[i * ROWS : (i + 1) * ROWS]
            ones = part.astype(self.dtype)
            base, a = ones @ net.A, ones @ net.E + net.e
            q = a.copy()
            activate(q.ravel(), SIGMOID)
            for r in range(len(part)):
                if every is not None:
                    logits, log_w = every
                else:
                    rng = np.random.default_rng([self._seed, i * ROWS + r])
                    h = rng.random((S, self.n_hidden), dtype=np.float32) < q[r]
                    logits, log_w = self._from_hidden(h)
                    log_w -= h @ a[r] - np.logaddexp(0, a[r], dtype=np.float64).sum() + np.log(S)  # log q(h | x); a mean
                log_p = np.empty(len(logits))
                _log_p_given(logits, base[r], part[r], log_p)
                result[i * ROWS + r] = np.logaddexp.reduce(log_p + log_w)

        with threadpool_limits(1, "blas"):
            threads.for_each(work, -(-len(x) // ROWS), self.n_threads)
        return result

    def _from_hidden(self, h: NDArray[Any]) -> tuple[Real, Floats]:
        """Return what the states h (n, H) give to the logits of x, c with it, (n, D), and log p(h), (n,)."""
        states, net, nll = h.astype(self.dtype), self._net, np.empty(len(h))
        losses((states @ net.P)[:, None], net.p, states, 0.0, nll)
        return states @ net.G + net.c, -nll

    def sample(self, n_samples: int, random_state: Any = None) -> Rows:
        """See ``Baseline.sample``: the hidden units, then the inputs, one after the other."""
        n, D, H, net = arguments.positive_int(n_samples, "n_samples"), self.n_features_in_, self.n_hidden, self._net
        uniforms = arguments.generator(random_state).random((n, H + D))
        X = np.empty((n, D), np.uint8)

        def work(i: int, rank: int) -> None:
            rows = slice(i * ROWS, (i + 1) * ROWS)
            u = uniforms[rows]
            h = _ancestral(np.tile(net.p, (len(u), 1)), net.P, u[:, :H])
            X[rows] = _ancestral(h.astype(self.dtype) @ net.G + net.c, net.A, u[:, H:])

        with threadpool_limits(1, "blas"):
            threads.for_each(work, -(-n // ROWS), self.n_threads)
        return X

    @property
    def _net(self) -> Net:
        return views(self.theta_, self.n_features_in_, self.n_hidden)
