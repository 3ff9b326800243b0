"""The fitted model: parameters and connectivity in, conditionals, log-likelihood and samples out. Inference only.

This is what a server embeds: it needs NumPy and the compiled kernels, nothing else, and may be called from many threads at
once. Training is in ``training.py``; the file format is in ``storage.py``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cached_property
from itertools import pairwise
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast import checks, data, kernels, storage, threads
from made_fast.kernels import layout as panels
from made_fast.kernels import reference
from made_fast.masks import Connectivity

__all__ = ["MADEModel", "load", "score_bits"]

BLOCK = 96
"""Rows that a kernel takes through all layers at once: sixteen register tiles, so the activations stay in the L2 cache."""

SPARSE_BELOW = 0.33
"""Density of ones below which the first layer adds rows of weights instead of multiplying. The bits are the same; the times
crossed between 0.30 and 0.35 in training and scoring, at D = 784 and 180 (AVX-512, one thread)."""


class MADEModel:
    """An autoregressive density over binary vectors, ``p(x) = prod_d p(x_d | x_<d)``, each factor one output of a masked net.

    Parameters
    ----------
    connectivity : Connectivity
        Ordering and hidden degrees.
    theta : (n,) float32 or float64
        Parameters in the panel layout (``made_fast.kernels.layout``); used as it is, not copied.
    activation : str
        Of the hidden layers.
    binarize : float, optional
        Inputs above it count as 1, the others as 0. None demands 0/1 input.
    hyper : mapping, optional
        Anything to remember about how the model came to be; saved with it. JSON values only.

    Notes
    -----
    Germain, Gregor, Murray, Larochelle, "MADE: Masked Autoencoder for Distribution Estimation", ICML 2015, eqs. 4 to 13.
    """

    def __init__(
        self,
        connectivity: Connectivity,
        theta: NDArray[Any],
        activation: str,
        *,
        binarize: float | None = None,
        hyper: Mapping[str, Any] | None = None,
    ) -> None:
        self.connectivity = connectivity
        self.theta = theta
        self.activation = activation
        self.binarize = checks.threshold(binarize)
        self.hyper = dict(hyper or {})
        self.staircase = connectivity.staircase()
        self.layout = panels.make_layout(connectivity.n_inputs, self.staircase.n_live, activation)

    @property
    def n_features_in(self) -> int:
        """Number of inputs, D."""
        return self.connectivity.n_inputs

    @cached_property
    def n_parameters(self) -> int:
        """Number of live weights and biases."""
        return int(sum(int(live.sum()) + len(live) for live in self.staircase.n_live))

    def __repr__(self) -> str:
        sizes = "-".join(str(n) for n in (self.n_features_in, *self.connectivity.hidden_sizes, self.n_features_in))
        return f"MADEModel({sizes}, {self.activation}, {self.theta.dtype}, {self.n_parameters} parameters)"

    def score_samples(self, X: checks.MatrixLike, *, n_threads: int | None = None) -> NDArray[np.float64]:
        """Return the log-likelihood of each row, ``log p(x) = sum_d log p(x_d | x_<d)`` (eq. 5).

        Parameters
        ----------
        X : (n, D) of 0/1
            Dense of any dtype and layout, or scipy.sparse.
        n_threads : int, optional
            Threads to use; by default the CPUs of this process. The result does not depend on it, to the bit.

        Returns
        -------
        (n,) float64
            In nats.

        Raises
        ------
        ValueError
            X is not a 0/1 matrix of D columns.
        """
        X = checks.matrix(X, self.n_features_in)
        return _score(self.theta, self.layout, X.shape[0], lambda part: self._bits(X, part), _n_threads(n_threads))

    def score(self, X: checks.MatrixLike, *, n_threads: int | None = None) -> float:
        """Return the mean log-likelihood of the rows of X, in nats."""
        return float(np.mean(self.score_samples(X, n_threads=n_threads)))

    def conditional_proba(self, X: checks.MatrixLike, *, n_threads: int | None = None) -> NDArray[Any]:
        """Return every conditional, ``P[i, d] = p(x_d = 1 | x_i's inputs at places before d's)`` (eq. 8).

        Takes and raises what ``score_samples`` does; returns (n, D) of the model's dtype, columns in the order of X's.
        """
        X = checks.matrix(X, self.n_features_in)
        P = np.empty(X.shape, self.theta.dtype)

        def work(part: slice, *bits_and_scratch: Any) -> None:
            proba = np.empty_like(P[part])
            kernels.active.conditionals(self.theta, *self.layout, *bits_and_scratch, proba)
            P[part, self.staircase.sorts[0]] = proba

        _for_rows(self.layout, self.theta.dtype, len(P), lambda part: self._bits(X, part), _n_threads(n_threads), work)
        return P

    def sample(self, n_samples: int = 1, random_state: Any = None, *, n_threads: int | None = None) -> NDArray[np.uint8]:
        """Draw independent rows from the model by ancestral sampling; the cost of a row is about that of scoring it.

        Parameters
        ----------
        n_samples : int
            Rows to draw.
        random_state : None, int, Generator, SeedSequence or RandomState
            An int gives the same rows every time, whatever the number of threads.
        n_threads : int, optional
            As in ``score_samples``.

        Returns
        -------
        (n_samples, D) uint8
        """
        n, D = checks.positive_int(n_samples, "n_samples"), self.n_features_in
        rng = checks.generator(random_state)
        X = np.empty((n, D), np.uint8)
        rows = _chunk_rows(self.layout)
        scratch = _Scratch(panels.sample_workspace(self.layout, min(n, BLOCK)), self.theta.dtype)
        lock, order = Lock(), self.staircase.sorts[0]
        drawn = 0

        def work(_: int, rank: int) -> None:
            nonlocal drawn
            with lock:  # rows and random numbers are handed out together, in order
                lo, hi = drawn, min(n, drawn + rows)
                drawn = hi
                uniforms = rng.random((hi - lo, D))
            x = np.empty((hi - lo, D), np.uint8)
            kernels.active.sample(self.theta, *self.layout, uniforms, min(n, BLOCK), *scratch[rank], x)
            X[lo:hi, order] = x

        threads.for_each(work, -(-n // rows), _n_threads(n_threads))
        return X

    def to_dense(self) -> dict[str, Any]:
        """Return the network as plain arrays in the original order of features and units.

        Returns
        -------
        dict
            ``ordering`` (D,) places 1..D; ``degrees``: L vectors (H_l,); ``masks`` and ``weights`` (masked): L + 1 matrices
            (n_out, n_in); ``biases``: L + 1 vectors (n_out,).

        Examples
        --------
        Recompute the logits of a relu network::

            net, h = model.to_dense(), X
            for W, b in zip(net["weights"][:-1], net["biases"][:-1]):
                h = np.maximum(h @ W.T + b, 0)
            logits = h @ net["weights"][-1].T + net["biases"][-1]
        """
        sorts = self.staircase.sorts
        weights, biases = [], []
        for l, (below, above) in enumerate(pairwise(sorts)):
            W_sorted, mask, b_sorted = reference.unpack_layer(self.theta, *self.layout, l)
            W, b = np.empty(W_sorted.T.shape, W_sorted.dtype), np.empty_like(b_sorted)
            W[np.ix_(above, below)] = np.where(mask, W_sorted, 0).T
            b[above] = b_sorted
            weights.append(W)
            biases.append(b)
        return {
            "ordering": self.connectivity.ordering.copy(),
            "degrees": [m.copy() for m in self.connectivity.degrees],
            "masks": reference.masks(self.connectivity.ordering, self.connectivity.degrees),
            "weights": weights,
            "biases": biases,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to one file, durably: the old file or the new one is there, whole, whatever happens."""
        c = self.connectivity
        hyper = {**self.hyper, "binarize": self.binarize}
        storage.write(path, *storage.encode(c.ordering, c.degrees, self.activation, self.theta, hyper))

    def _bits(self, X: Any, part: slice) -> NDArray[np.uint64]:
        return data.pack_rows(X[part], self.staircase.sorts[0], binarize=self.binarize, first_row=part.start)


def load(path: str | os.PathLike[str], *, mmap: bool = False) -> MADEModel:
    """Read a model that ``save`` wrote.

    Parameters
    ----------
    path : path
        The file is untrusted: everything in it is checked, nothing in it is executed.
    mmap : bool
        Map the parameters instead of reading them: many processes then share one copy.

    Raises
    ------
    OSError
        The file cannot be opened.
    ModelFileError
        It is not a whole, consistent model file; a ValueError.
    """
    content = storage.decode(*storage.read(path, mmap=mmap), path)
    hyper = dict(content.hyper)
    try:
        binarize = checks.threshold(hyper.pop("binarize", None))
    except (TypeError, ValueError) as error:
        raise storage.ModelFileError(f"{path}: {error} Save the model again.") from error
    return MADEModel(content.connectivity, content.theta, content.activation, binarize=binarize, hyper=hyper)


def score_bits(theta: NDArray[Any], layout: panels.Layout, bits: NDArray[np.uint64], n_threads: int) -> NDArray[np.float64]:
    """Return the log-likelihood in nats of rows that are packed already; what training asks of a validation set."""
    return _score(theta, layout, len(bits), bits.__getitem__, n_threads)


def _score(
    theta: NDArray[Any], layout: panels.Layout, n: int, bits_of: Callable[[slice], NDArray[np.uint64]], n_threads: int
) -> NDArray[np.float64]:
    log_p = np.empty(n)

    def work(part: slice, *bits_and_scratch: Any) -> None:
        kernels.active.score(theta, *layout, *bits_and_scratch, log_p[part])

    _for_rows(layout, theta.dtype, n, bits_of, n_threads, work)
    return log_p


def _for_rows(
    layout: panels.Layout,
    dtype: np.dtype[Any],
    n: int,
    bits_of: Callable[[slice], NDArray[np.uint64]],
    n_threads: int,
    work: Callable[..., None],
) -> None:
    """Call ``work(part, bits, sparse, block, reals, ints)`` on slices of the rows 0..n - 1, spread over threads."""
    rows, block = _chunk_rows(layout), min(n, BLOCK)
    n_features = int(layout.layers[0, panels.N_IN])
    scratch = _Scratch(panels.score_workspace(layout, block), dtype)

    def chunk(i: int, rank: int) -> None:
        part = slice(i * rows, min(n, (i + 1) * rows))
        bits = bits_of(part)
        work(part, bits, data.density(bits, n_features) < SPARSE_BELOW, block, *scratch[rank])

    threads.for_each(chunk, -(-n // rows), n_threads)


class _Scratch(dict[int, tuple[NDArray[Any], NDArray[np.int32]]]):
    """The workspace of each rank, made when it is first asked for."""

    def __init__(self, sizes: tuple[int, int], dtype: np.dtype[Any]) -> None:
        self._sizes, self._dtype = sizes, dtype

    def __missing__(self, rank: int) -> tuple[NDArray[Any], NDArray[np.int32]]:
        reals, ints = self._sizes
        self[rank] = panels.aligned_empty(reals, self._dtype), np.empty(ints, np.int32)
        return self[rank]


def _chunk_rows(layout: panels.Layout) -> int:
    """Return how many rows to hand out at a time: about a millisecond of work, whole blocks; not a matter of threads."""
    blocks = 100_000_000 // (2 * BLOCK * (panels.n_parameters(layout) + 1000))
    return BLOCK * min(max(blocks, 1), 64)


def _n_threads(n_threads: int | None) -> int:
    return checks.n_threads(n_threads) or threads.available()
