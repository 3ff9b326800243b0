"""NADE, the neural autoregressive distribution estimator, of binary rows in one fixed ordering.

Larochelle and Murray, AISTATS 2011: eqs. 8 and 9, and algorithm 1 for the gradient. With the features in the order of their
places::

    h_d = g(b + W[0] x_0 + ... + W[d - 1] x_{d-1})          p(x_d = 1 | x_<d) = sigmoid(c_d + V[d] . h_d)

Exact: the log-likelihood, its gradient, the samples. V and W are not tied. g is the sigmoid, as published, or relu.

Both passes take O(D H) a row. A 0 leaves the hidden sums as they are, so the hidden units are worked out again after a 1
only: in 104 of 785 places of a row of binarized MNIST. Hidden units are kept in panels of 64, which do not meet but in the
logits. So one panel is one piece of work for a thread: its weights stay in the level-2 cache for all rows of a mini-batch,
every sum is done by one owner in one order, and inner loops are 64 long. A batch of 100 rows of MNIST, 500 units, takes
13 ms forward and back on one core (Xeon with AVX-512; to keep the hidden units for the way back takes as long as to work
them out again).

Not here: several orderings, several hidden layers (``eonade.py``).
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.baselines.common import Floats, Rows
from bench.baselines.panels import PANEL, Real, activate, dot, losses
from bench.baselines.trained import Trained, log_odds
from made_fast.kernels.jit.rows import exp, kernel, stack
from made_fast.system import threads
from made_fast.tables import arguments

__all__ = ["NADE", "Net", "gradient", "log_p", "views"]

ROWS = 64
"""Rows whose logits one thread sums at a time; also those it samples."""

SCORED = 512
"""Rows scored at once: the logits of all panels are held for them."""


class Net(NamedTuple):
    """The parameters, or their gradient; rows of V and W and c in the order of places, units beyond H are 0."""

    V: Real  # (Q, D, 64)
    W: Real  # (Q, D, 64)
    b: Real  # (Q, 64)
    c: Real  # (D,)


def views(theta: Real, n_features: int) -> Net:
    """Return the net whose parameters stand in ``theta``, one vector."""
    n_panels = (len(theta) - n_features) // ((2 * n_features + 1) * PANEL)
    V, W, b, c = np.split(theta, np.cumsum([n_panels * n_features * PANEL] * 2 + [n_panels * PANEL]))
    shape = (n_panels, n_features, PANEL)
    return Net(V.reshape(shape), W.reshape(shape), b.reshape(n_panels, PANEL), c)


def log_p(net: Net, x: Rows, relu: bool, n_threads: int) -> Floats:
    """Return log p(x) of each row, (n,); x (n, D) in the order of places."""
    nll = np.empty(len(x))
    for i in range(0, len(x), SCORED):
        part = x[i : i + SCORED]
        _logits(net, part, _ones_of(part), relu, n_threads, nll[i : i + SCORED])
    return -nll


def gradient(net: Net, x: Rows, d: Net, relu: bool, n_threads: int) -> float:
    """Write the gradient of the rows' mean NLL to ``d``; return their sum. Units beyond H get a gradient too (of V)."""
    nll = np.empty(len(x))
    starts, ones = _ones_of(x)
    dz = _logits(net, x, (starts, ones), relu, n_threads, nll)
    np.sum(dz, axis=0, out=d.c)
    most = int(np.diff(starts).max()) + 1

    def work(q: int, rank: int) -> None:
        _backward(net.V[q], net.W[q], net.b[q], starts, ones, relu, most, dz, d.V[q], d.W[q], d.b[q])

    threads.for_each(work, len(net.V), n_threads)
    return float(nll.sum())


def _ones_of(x: Rows) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return where the ones are: those of row r are ``ones[starts[r] : starts[r + 1]]``."""
    rows, places = np.nonzero(x)
    return np.searchsorted(rows, np.arange(len(x) + 1)), places.astype(np.int32)


def _logits(net: Net, x: Rows, where: tuple[Any, Any], relu: bool, n_threads: int, nll: Floats) -> Real:
    """Write the NLL of each row, and return the gradient of their mean by the logits, (n, D)."""
    z = np.empty((len(x), len(net.V), x.shape[1]), net.V.dtype)
    threads.for_each(lambda q, rank: _forward(net.V[q], net.W[q], net.b[q], *where, relu, z[:, q]), len(net.V), n_threads)

    def work(i: int, rank: int) -> None:
        rows = slice(i * ROWS, (i + 1) * ROWS)
        losses(z[rows], net.c, x[rows], 1 / len(x), nll[rows])

    threads.for_each(work, -(-len(x) // ROWS), n_threads)
    return z[:, 0]


@kernel
def _forward(V: Real, W: Real, b: Real, starts: Any, ones: Any, relu: bool, z: Real) -> None:
    """Write what the units of a panel add to the logits, z (n, D)."""
    a, h = stack(V)[0], stack(V)[0]
    for r in range(len(z)):
        row = z[r]
        for u in range(PANEL):
            a[u] = b[u]
        activate(a, relu, h)
        start = 0
        for i in range(starts[r], starts[r + 1]):
            end = ones[i] + 1
            for d in range(start, end):
                row[d] = dot(V[d], h)
            for u in range(PANEL):
                a[u] += W[end - 1, u]
            activate(a, relu, h)
            start = end
        for d in range(start, len(V)):
            row[d] = dot(V[d], h)


@kernel
def _backward(
    V: Real, W: Real, b: Real, starts: Any, ones: Any, relu: bool, most: int, dz: Real, dV: Real, dW: Real, db: Real
) -> None:
    """Write the gradient of a panel's parameters, from that of the logits; ``most`` is the most ones of a row, plus 1."""
    real = V.dtype.type
    zero, one = real(0), real(1)
    a, h, da, dh = stack(V)[0], stack(V)[0], stack(V)[0], stack(V)[0]
    hidden = np.empty((most, PANEL), V.dtype)  # h before the first one, after it, after the second, ...
    dV[:] = zero
    dW[:] = zero
    db[:] = zero
    for r in range(len(dz)):
        first, n = starts[r], starts[r + 1] - starts[r]
        for u in range(PANEL):
            a[u] = b[u]
            da[u] = zero
        activate(a, relu, hidden[0])
        for k in range(n):
            for u in range(PANEL):
                a[u] += W[ones[first + k], u]
            activate(a, relu, hidden[k + 1])
        row, end = dz[r], len(V)
        for k in range(n, -1, -1):
            start = ones[first + k - 1] + 1 if k else 0
            for u in range(PANEL):
                h[u] = hidden[k, u]
                dh[u] = zero
            for d in range(start, end):  # forward: z[d] = V[d] . h
                t = row[d]
                for u in range(PANEL):
                    dh[u] += t * V[d, u]
                for u in range(PANEL):
                    dV[d, u] += t * h[u]
            for u in range(PANEL):  # forward: h = g(a)
                da[u] += dh[u] * ((one if h[u] > zero else zero) if relu else h[u] * (one - h[u]))
            if k:  # forward: a += W[start - 1]
                for u in range(PANEL):
                    dW[start - 1, u] += da[u]
            end = start
        for u in range(PANEL):
            db[u] += da[u]


@kernel
def _sample(V: Real, W: Real, b: Real, c: Real, relu: bool, uniforms: Floats, x: Rows) -> None:
    """Draw rows x (n, D), in the order of places; ``uniforms[r, d]`` decides x[r, d]."""
    real = V.dtype.type
    a, h = np.empty_like(b), np.empty_like(b)
    for r in range(len(x)):
        for q in range(len(b)):
            for u in range(PANEL):
                a[q, u] = b[q, u]
            activate(a[q], relu, h[q])
        for d in range(len(c)):
            s = c[d]
            for q in range(len(b)):
                s += dot(V[q, d], h[q])
            e = exp(real, -abs(s))
            x[r, d] = uniforms[r, d] < (e if s < real(0) else real(1)) / (real(1) + e)
            if x[r, d]:
                for q in range(len(b)):
                    for u in range(PANEL):
                        a[q, u] += W[q, d, u]
                    activate(a[q], relu, h[q])


class NADE(Trained):
    """NADE with one hidden layer, trained by Adam.

    Parameters
    ----------
    hidden_size : int
    activation : {"sigmoid", "relu"}
    ordering : {"random", "natural"} or array of shape (D,)
        The place 1..D of each feature.
    **training
        As of ``Trained``.
    """

    def __init__(
        self,
        hidden_size: int = 500,
        *,
        activation: str = "sigmoid",
        ordering: str | ArrayLike = "random",
        **training: Any,
    ) -> None:
        super().__init__(**training)
        self.hidden_size = arguments.positive_int(hidden_size, "hidden_size")
        self.activation = arguments.choice(activation, "activation", ("sigmoid", "relu"))
        self.ordering = ordering

    @property
    def n_parameters(self) -> int:
        """Number of trained parameters: V, W, b, c."""
        return 2 * self.n_features_in_ * self.hidden_size + self.hidden_size + self.n_features_in_

    def fit(self, X: Any, X_val: Any = None) -> Self:
        """See ``Baseline.fit``."""
        X, X_val, rng = self._begin(X, X_val)
        D = X.shape[1]
        places = arguments.ordering(self.ordering, D)
        if isinstance(places, str):
            places = np.arange(D) if places == "natural" else rng.permutation(D)
        self.order_ = np.argsort(places)  # order_[p] is the feature at place p, counted from 0
        x = np.take(X, self.order_, axis=1)
        self.theta_ = self._initial(x, rng)

        def mean_gradient(rows: NDArray[np.intp], out: Real) -> float:
            d = views(out, D)
            loss = gradient(self._net, x[rows], d, self._relu, self.n_threads)
            d.V[-1, :, self._last :] = 0
            return loss

        self._train(len(x), rng, mean_gradient, None if X_val is None else lambda: -self.score(X_val))
        return self

    def score_samples(self, X: Any) -> Floats:
        """See ``Baseline.score_samples``; exact."""
        return log_p(self._net, np.take(self._rows(X), self.order_, axis=1), self._relu, self.n_threads)

    def sample(self, n_samples: int, random_state: Any = None) -> Rows:
        """See ``Baseline.sample``; O(D H) a row."""
        n = arguments.positive_int(n_samples, "n_samples")
        uniforms = arguments.generator(random_state).random((n, self.n_features_in_))
        x = np.empty(uniforms.shape, np.uint8)

        def work(i: int, rank: int) -> None:
            rows = slice(i * ROWS, (i + 1) * ROWS)
            _sample(*self._net, self._relu, uniforms[rows], x[rows])

        threads.for_each(work, -(-n // ROWS), self.n_threads)
        X = np.empty_like(x)
        X[:, self.order_] = x
        return X

    @property
    def _net(self) -> Net:
        return views(self.theta_, self.n_features_in_)

    @property
    def _relu(self) -> bool:
        return self.activation == "relu"

    @property
    def _last(self) -> int:
        """Units of the last panel."""
        return (self.hidden_size - 1) % PANEL + 1

    def _initial(self, x: Rows, rng: np.random.Generator) -> Real:
        """Return parameters to start from: uniform weights (Glorot and Bengio 2010), c the log-odds of the features."""
        D = x.shape[1]
        n_panels = -(-self.hidden_size // PANEL)
        theta = np.zeros(n_panels * (2 * D + 1) * PANEL + D, self.dtype)
        net, bound = views(theta, D), (6 / (D + self.hidden_size)) ** 0.5
        for weights in (net.V, net.W):
            weights[:] = rng.uniform(-bound, bound, weights.shape)
            weights[-1, :, self._last :] = 0
        net.c[:] = log_odds(x)
        return theta
