"""EoNADE: one net trained for all orderings, and the mixture of it over R of them, of binary rows.

Uria, Murray and Larochelle, ICML 2014, "A deep and tractable density estimator", sections 3 to 5. The net sees which inputs
are given, m, and their values, and tells the rest::

    p(x_d = 1 | x_given) = sigmoid(c_d + V[:, d] . h)       h = g(... g(b + (x m) W + m M) ...)

Trained order-agnostically: each row of a mini-batch gets a number of given inputs, uniform in 0..D-1, and a random set of
that size; D / (D - number given) times the NLL of the others is an unbiased estimate of the NLL under a random ordering. The
model is the mixture ``p(x) = mean_r p(x | o_r)`` over R orderings, drawn once.

Exact: the likelihood under each ordering and so that of the mixture, samples, the gradient for given sets. Estimated: the
validation loss, by few sets a row.

Likelihood takes O(D H) a row and ordering with one hidden layer (hidden sums are kept from place to place; unlike NADE's,
they change with every input, 1 or 0), O(D H^2) with two. Products of matrices are left to NumPy's BLAS, held to one thread;
a mini-batch is worked on in two halves, whatever the number of threads, so that bits do not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from bench.baselines.common import Floats, Rows
from bench.baselines.panels import PANEL, Real, activate, dot, losses, total
from bench.baselines.trained import Trained, in_halves, log_odds
from made_fast.kernels.jit import rows as jit_rows
from made_fast.kernels.jit.rows import exp, kernel, log1p, stack
from made_fast.kernels.layout import ACTIVATIONS
from made_fast.system import threads
from made_fast.tables import arguments

__all__ = ["EoNADE", "draw_given", "gradient", "log_p", "views", "walk"]

Layers = list[tuple[Real, Real]]
"""W (n_in, n_out) and bias of each layer; the first takes [x m, m], 2 D inputs, the last gives D logits."""

ROWS = 64
"""Rows that one thread scores or samples at a time; four times as many by products of matrices."""

VALIDATED = 5000
"""Rows, or more, times sets of given inputs that the validation loss is a mean over."""


def views(theta: Real, sizes: tuple[int, ...]) -> Layers:
    """Return the layers whose parameters stand in ``theta``, one vector; of widths (2 D, H_1, ..., D)."""
    layers, start = [], 0
    for n_in, n_out in pairwise(sizes):
        end = start + n_in * n_out
        layers.append((theta[start:end].reshape(n_in, n_out), theta[end : end + n_out]))
        start = end + n_out
    return layers


def draw_given(n_rows: int, n_features: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return which inputs are given, (n, D): a uniform number 0..D - 1 of them, and which is uniform too."""
    n_given = rng.integers(n_features, size=(n_rows, 1))
    return rng.permuted(np.arange(n_features) < n_given, axis=1)


def gradient(layers: Layers, x: Rows, given: NDArray[np.bool_], code: int, share: float, d: Layers | None) -> float:
    """Return the sum of the rows' loss, and write ``share`` times its gradient to ``d`` if it is there."""
    D = x.shape[1]
    real = layers[0][0].dtype
    inputs = np.empty((len(x), 2 * D), real)
    np.multiply(x, given, out=inputs[:, :D])
    inputs[:, D:] = given
    hidden = [inputs]
    for W, b in layers:
        z = hidden[-1] @ W
        z += b
        if len(hidden) < len(layers):
            jit_rows.activate(z.ravel(), code)
        hidden.append(z)
    dz = hidden.pop()
    loss = _losses_of_missing(dz, x, given, share)
    if d is not None:
        for l in range(len(layers) - 1, -1, -1):
            np.matmul(hidden[l].T, dz, out=d[l][0])
            np.sum(dz, axis=0, out=d[l][1])
            if l:
                dz = dz @ layers[l][0].T
                jit_rows.derive(dz.ravel(), hidden[l].ravel(), 1.0, code)
    return float(loss)


@kernel
def _losses_of_missing(z: Real, x: Rows, given: NDArray[np.bool_], share: float) -> float:
    """Return the sum over rows of D / (D - number given) times the NLL of the inputs not given; z becomes its gradient."""
    real = z.dtype.type
    zero, one = real(0), real(1)
    loss, D, terms = 0.0, z.shape[1], np.empty_like(z[0])
    for r in range(len(z)):
        row, bits, known = z[r], x[r], given[r]
        weight = D / (D - known.sum())
        scale = real(share * weight)
        for d in range(D):
            s = row[d]
            bit, out = real(bits[d]), zero if known[d] else one
            e = exp(real, -abs(s))
            terms[d] = out * (max(s, zero) - bit * s + log1p(real, e))
            row[d] = out * scale * ((e if s < zero else one) / (one + e) - bit)
        loss += weight * total(terms)
    return loss


def walk(layers: Layers, order: NDArray[np.intp], x: Rows, code: int, uniforms: Floats | None = None) -> Floats:
    """Return log p(x | ordering) of each row, (n,), by a walk along ``order``: (D,), or (n, D) for an ordering a row.

    With ``uniforms`` (n, D) the rows are drawn, into x; ``uniforms[:, p]`` decides the input at place p.
    """
    W, M = np.split(layers[0][0], 2)
    V = np.ascontiguousarray(layers[-1][0].T)
    a = np.tile(layers[0][1], (len(x), 1))
    result, rows = np.zeros(len(x)), np.arange(len(x))
    for p in range(x.shape[1]):
        d = order[..., p]
        h = a.copy()
        jit_rows.activate(h.ravel(), code)
        for W_l, b in layers[1:-1]:
            h = h @ W_l
            h += b
            jit_rows.activate(h.ravel(), code)
        z = np.einsum("nh,nh->n", h, np.broadcast_to(V[d], h.shape)) + layers[-1][1][d]
        if uniforms is not None:
            x[rows, d] = uniforms[:, p] < 0.5 + 0.5 * np.tanh(0.5 * z)
        one = x[rows, d]
        result -= np.logaddexp(0, np.where(one, -z, z), dtype=np.float64)
        a += M[d]
        a += one[:, None] * W[d]
    return result


def log_p(layers: Layers, order: NDArray[np.intp], x: Rows, code: int, n_threads: int) -> Floats:
    """Return log p(x | ordering) of each row, (n,); ``order[p]`` is the input at place p."""
    result = np.empty(len(x))
    if len(layers) > 2:

        def work(i: int, rank: int) -> None:
            rows = slice(i * 4 * ROWS, (i + 1) * 4 * ROWS)
            result[rows] = walk(layers, order, x[rows], code)

        threads.for_each(work, -(-len(x) // (4 * ROWS)), n_threads)
        return result
    steps, V, b, c = _pack(layers, order)

    def work_panels(i: int, rank: int) -> None:
        rows = slice(i * ROWS, (i + 1) * ROWS)
        part = np.take(x[rows], order, axis=1)
        z = np.empty((len(part), len(V), part.shape[1]), V.dtype)
        _walk_panels(steps, V, b, part, ACTIVATIONS[code] == "relu", z)
        losses(z, c, part, 1.0, result[rows])

    threads.for_each(work_panels, -(-len(x) // ROWS), n_threads)
    return -result


def _pack(layers: Layers, order: NDArray[np.intp]) -> tuple[Real, Real, Real, Real]:
    """Return panels of 64 units: what an input adds to the sums, (Q, D, 2, 64), if it is 0 and if it is 1; V, b; and c."""
    (W, b), (V, c) = layers
    D, H = len(c), len(b)
    Q = -(-H // PANEL)
    packed = [np.zeros((*shape, Q * PANEL), W.dtype) for shape in ((D, 2), (D,), ())]
    packed[0][:, :, :H] = W[D + order, None]
    packed[0][:, 1, :H] += W[order]
    packed[1][:, :H] = V.T[order]
    packed[2][:H] = b
    steps, V, b = (np.ascontiguousarray(np.moveaxis(A.reshape(*A.shape[:-1], Q, PANEL), -2, 0)) for A in packed)
    return steps, V, b, c[order]


@kernel
def _walk_panels(steps: Real, V: Real, b: Real, x: Rows, relu: bool, z: Real) -> None:
    """Write what each panel adds to the logits, z (n, Q, D); x in the order of places."""
    a, h = stack(V)[0], stack(V)[0]
    for q in range(len(V)):
        for r in range(len(x)):
            for u in range(PANEL):
                a[u] = b[q, u]
            for d in range(x.shape[1]):
                activate(a, relu, h)
                z[r, q, d] = dot(V[q, d], h)
                step = steps[q, d, x[r, d]]
                for u in range(PANEL):
                    a[u] += step[u]


class EoNADE(Trained):
    """An order-agnostic NADE with one or more hidden layers, trained by Adam; the model is the mixture over orderings.

    Parameters
    ----------
    hidden_sizes : sequence of int
    n_orderings : int
        Of the mixture that is scored and sampled, drawn from the seed; scoring can ask for more or fewer.
    activation : {"relu", "sigmoid"}
    **training
        As of ``Trained``.
    """

    def __init__(
        self, hidden_sizes: Sequence[int] = (500,), *, n_orderings: int = 128, activation: str = "relu", **training: Any
    ) -> None:
        super().__init__(**training)
        self.hidden_sizes = arguments.hidden_sizes(hidden_sizes)
        if not self.hidden_sizes:
            raise ValueError("hidden_sizes must name at least one layer, got ().")
        self.n_orderings = arguments.positive_int(n_orderings, "n_orderings")
        self.activation = arguments.choice(activation, "activation", ("relu", "sigmoid"))

    @property
    def n_parameters(self) -> int:
        """Number of trained parameters."""
        return len(self.theta_)

    def fit(self, X: Any, X_val: Any = None) -> Self:
        """See ``Baseline.fit``; the validation loss is that of order-agnostic training, for given sets drawn once."""
        x, x_val, rng = self._begin(X, X_val)
        D = x.shape[1]
        self.theta_ = self._initial(x, rng)
        self._orderings_seed = rng.integers(2**63)
        spare = np.empty_like(self.theta_)

        def mean_gradient(rows: NDArray[np.intp], out: Real) -> float:
            given = draw_given(len(rows), D, rng)

            def half(cut: slice, out: Real) -> float:
                return gradient(self._layers, x[rows[cut]], given[cut], self._code, 1 / len(rows), views(out, self._sizes))

            return in_halves(half, len(rows), out, spare, self.n_threads)

        validate = None if x_val is None else self._validation(x_val, rng)
        with threadpool_limits(1, "blas"):
            self._train(len(x), rng, mean_gradient, validate)
        return self

    def _validation(self, x: Rows, rng: np.random.Generator) -> Callable[[], float]:
        """Return a function that gives the mean loss of rows, each with sets of given inputs that are drawn now."""
        x = np.tile(x, (-(-VALIDATED // len(x)), 1))
        given = draw_given(len(x), x.shape[1], rng)
        blocks = [slice(start, start + 4 * ROWS) for start in range(0, len(x), 4 * ROWS)]
        loss = np.empty(len(blocks))

        def work(i: int, rank: int) -> None:
            loss[i] = gradient(self._layers, x[blocks[i]], given[blocks[i]], self._code, 0.0, None)

        def validate() -> float:
            threads.for_each(work, len(blocks), self.n_threads)
            return float(loss.sum()) / len(x)

        return validate

    def orderings(self, n_orderings: int | None = None) -> NDArray[np.intp]:
        """Return the inputs in the order of their places, (R, D); fewer orderings are the first of more."""
        R = self.n_orderings if n_orderings is None else arguments.positive_int(n_orderings, "n_orderings")
        rng = np.random.default_rng(self._orderings_seed)
        return rng.permuted(np.tile(np.arange(self.n_features_in_), (R, 1)), axis=1)

    def score_samples(self, X: Any, n_orderings: int | None = None) -> Floats:
        """Return log p(x) of each row under the mixture over ``n_orderings`` (the model's, unless given), (n,); exact."""
        x = self._rows(X)
        orders = self.orderings(n_orderings)
        result = np.full(len(x), -np.inf)
        with threadpool_limits(1, "blas"):
            for order in orders:
                np.logaddexp(result, log_p(self._layers, order, x, self._code, self.n_threads), out=result)
        result -= np.log(len(orders))
        return result

    def sample(self, n_samples: int, random_state: Any = None) -> Rows:
        """See ``Baseline.sample``; each row by one of the model's R orderings."""
        n = arguments.positive_int(n_samples, "n_samples")
        rng = arguments.generator(random_state)
        orders = self.orderings()
        order, uniforms = orders[rng.integers(len(orders), size=n)], rng.random((n, self.n_features_in_))
        x = np.empty(uniforms.shape, np.uint8)

        def work(i: int, rank: int) -> None:
            rows = slice(i * ROWS, (i + 1) * ROWS)
            walk(self._layers, order[rows], x[rows], self._code, uniforms[rows])

        with threadpool_limits(1, "blas"):
            threads.for_each(work, -(-n // ROWS), self.n_threads)
        return x

    @property
    def _sizes(self) -> tuple[int, ...]:
        return (2 * self.n_features_in_, *self.hidden_sizes, self.n_features_in_)

    @property
    def _layers(self) -> Layers:
        return views(self.theta_, self._sizes)

    @property
    def _code(self) -> int:
        return ACTIVATIONS.index(self.activation)

    def _initial(self, x: Rows, rng: np.random.Generator) -> Real:
        """Return parameters to start from: uniform weights (Glorot and Bengio 2010), c the log-odds of the features."""
        theta = np.zeros(sum((a + 1) * b for a, b in pairwise(self._sizes)), self.dtype)
        layers = views(theta, self._sizes)
        for W, _ in layers:
            W[:] = rng.uniform(-1, 1, W.shape) * (6 / sum(W.shape)) ** 0.5
        layers[-1][1][:] = log_odds(x)
        return theta
