"""The fitted model: parameters and a mask set in, log-likelihood, conditionals, samples and answers out. Inference only.

This is what a server embeds: it needs NumPy and the compiled kernels, nothing else, and may be called from many threads at
once. One member's arithmetic is in ``network.py``, questions about missing inputs in ``queries.py``, training in
``training.py``, the file in ``modelfile.py``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from math import log
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast.inference import modelfile, queries, tensorfile
from made_fast.inference.tensorfile import ModelFileError
from made_fast.network.masks import Connectivity, MaskRule, MaskSet, check_connectivity
from made_fast.network.network import Network, Parameters
from made_fast.system import threads
from made_fast.tables import arguments, checks, data

__all__ = ["MADEModel", "from_content"]

KEPT_BYTES = 64 << 20
"""Packed members that a model may keep between calls: 40 of 784-500-784 in float32. The others are packed when needed."""

MASKS_AT_ONCE = 32
"""Most masks whose log-likelihoods stand in memory before they are summed; so memory does not grow with the mask set."""


class MADEModel(queries.Queries):
    """A density over binary vectors: the mixture, in equal parts, of one masked network under each of K connectivities.

    Each member is autoregressive in its own ordering, ``p_k(x) = prod_d p(x_d | x_<d)``, each factor one output of the net;
    the model is ``p(x) = 1/K sum_k p_k(x)``. With K = 1 it is that one member.

    Parameters
    ----------
    source : Parameters
        One network, or parameters shared by all connectivities of ``masks``.
    masks : MaskSet, optional
        Given with ``Shared``.
    rule : MaskRule, optional
        How to draw further connectivities, if the model was trained under ever fresh ones. It then answers any-order
        questions by a connectivity drawn for each.
    binarize : float, optional
        Inputs above it count as 1, the others as 0. None demands 0/1 input.
    hyper : mapping, optional
        Anything to remember about how the model came to be; saved with it. JSON values only.
    feature_names : sequence of str, optional
        What the inputs are called; saved with the model. A table whose columns have names must then have these, in this
        order; see ``tables/names.py``.

    Notes
    -----
    Germain, Gregor, Murray, Larochelle, "MADE: Masked Autoencoder for Distribution Estimation", ICML 2015, eqs. 4 to 13 and
    section 4.
    """

    def __init__(
        self,
        source: Parameters,
        masks: MaskSet | None = None,
        *,
        rule: MaskRule | None = None,
        binarize: float | None = None,
        hyper: Mapping[str, Any] | None = None,
        feature_names: Sequence[str] | None = None,
    ) -> None:
        if not isinstance(source, Parameters):
            raise TypeError(f"source must be a Network or Shared, got {type(source).__name__}. Read models by made_fast.load.")
        self.source = source.sealed()
        self.architecture = source.architecture
        if source.connectivity is not None:
            masks = MaskSet.of([source.connectivity])
        elif masks is None:
            raise TypeError("masks must be a MaskSet when the parameters are Shared, got None. Pass the trained mask set.")
        self.masks = masks
        self.rule = rule
        self.binarize = arguments.threshold(binarize)
        self.hyper = arguments.mapping(hyper, "hyper")
        self.feature_names = arguments.feature_names(feature_names, self.n_features_in)
        self._keep_nothing()

    def __getstate__(self) -> dict[str, Any]:
        # Not what is kept: it can be packed again, and another thread may be adding to it.
        return {name: value for name, value in vars(self).items() if name != "_kept"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.source = self.source.sealed()  # arrays come out of a pickle, or a deep copy, writable
        self._keep_nothing()

    def _keep_nothing(self) -> None:
        """Begin with no packed members."""
        self._kept: dict[int, Network] = {}

    @property
    def n_features_in(self) -> int:
        """Number of inputs, D."""
        return self.architecture.n_inputs

    @property
    def n_masks(self) -> int:
        """Number of connectivities that the model is the mixture over, K."""
        return len(self.masks)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the parameters, float32 or float64."""
        return self.source.dtype

    @property
    def n_parameters(self) -> int:
        """Number of weights and biases: those live under the one mask, or all that several masks share."""
        return self.source.n_parameters

    def __repr__(self) -> str:
        a = self.architecture
        sizes = "-".join(str(n) for n in (a.n_inputs, *a.hidden_sizes, a.n_inputs))
        extra = "".join([f", direct={a.direct}" * (a.direct != "none"), ", connectivity weights" * a.connectivity_weights])
        masks = f", {self.n_masks} masks" * (self.n_masks > 1)
        return f"MADEModel({sizes}, {a.activation}{extra}{masks}, {self.dtype}, {self.n_parameters} parameters)"

    def member(self, mask: int | Connectivity = 0) -> Network:
        """Return the network under one mask of the set, or, with shared parameters, under any connectivity.

        Coming back to a mask gives the same bits.
        """
        if isinstance(mask, Connectivity):
            if self.source.connectivity is None:
                mask = check_connectivity(mask, self.n_features_in, self.architecture.hidden_sizes)
            return self.source.network(mask).sealed()
        k = arguments.mask_number(mask, self.n_masks)
        found = self._kept.get(k)
        if found is None:
            found = self.source.network(self.masks[k]).sealed()
            if (k + 1) * found.vector.nbytes <= KEPT_BYTES:
                self._kept[k] = found
        return found

    def score_samples(
        self, X: checks.MatrixLike, *, mask: int | None = None, n_threads: int | None = None
    ) -> NDArray[np.float64]:
        """Return the log-likelihood of each row: ``log p(x) = logsumexp_k(log p_k(x)) - log K`` (eq. 5, section 4.1).

        Parameters
        ----------
        X : (n, D) of 0/1
            Dense of any dtype and layout, or scipy.sparse.
        mask : int, optional
            Of one member alone, ``log p_k(x)``.
        n_threads : int, optional
            Threads to use; by default the CPUs of this process. The result does not depend on it, to the bit.

        Returns
        -------
        (n,) float64
            In nats.

        Raises
        ------
        ValueError
            X is not a 0/1 matrix of D columns, or there is no such mask.
        FloatingPointError
            The weights are so large that arithmetic overflows; so do all methods that answer.
        """
        X, n_threads = self._table(X), arguments.n_threads(n_threads)
        if mask is not None or self.n_masks == 1:
            member = self.member(0 if mask is None else mask)
            return member.score(X.shape[0], lambda part: self._bits(X, part, member), n_threads)
        return self._mixture(X, n_threads)

    def score(self, X: checks.MatrixLike, *, n_threads: int | None = None) -> float:
        """Return the mean log-likelihood of the rows of X in nats; if some miss entries (NaN), of what is observed of them."""
        return float(np.mean(queries.log_p_observed(self, self._table(X), n_threads)))

    def conditional_proba(
        self, X: checks.MatrixLike, *, mask: int | None = None, n_threads: int | None = None
    ) -> NDArray[Any]:
        """Return every conditional, ``P[i, d] = p(x_d = 1 | x_i's inputs at places before d's)`` (eq. 8), of one member.

        Takes and raises what ``score_samples`` does; returns (n, D) of the model's dtype, columns in the order of X's. What
        comes before an input depends on the member: with several, ``mask`` says which.
        """
        X = self._table(X)
        member = self.member(arguments.the_mask(mask, self.n_masks))
        n_threads = arguments.n_threads(n_threads)
        return member.conditionals(X.shape[0], lambda part: self._bits(X, part, member), n_threads, by_feature=True)

    def sample(
        self, n_samples: int = 1, random_state: Any = None, *, mask: int | None = None, n_threads: int | None = None
    ) -> NDArray[np.uint8]:
        """Draw independent rows from the model by ancestral sampling; the cost of a row is about that of scoring it.

        Parameters
        ----------
        n_samples : int
            Rows to draw; each from a member drawn for it.
        random_state : None, int, Generator, SeedSequence or RandomState
            An int gives the same rows every time, whatever the number of threads.
        mask : int, optional
            Draw from one member alone.
        n_threads : int, optional
            As in ``score_samples``.

        Returns
        -------
        (n_samples, D) uint8
        """
        D = self.n_features_in
        n = arguments.how_many(n_samples, "n_samples", max(D, 8))
        X = np.empty((n, D), np.uint8)  # what is too large for that is refused at once
        rng, step = arguments.generator(random_state), self.architecture.chunk_rows
        if mask is not None or self.n_masks == 1:
            rows_of = {arguments.mask_number(0 if mask is None else mask, self.n_masks): np.arange(n)}
        else:
            drawn = rng.integers(self.n_masks, size=n)
            rows_of = {int(k): np.flatnonzero(drawn == k) for k in np.unique(drawn)}
        items = [(k, rows[i : i + step]) for k, rows in rows_of.items() for i in range(0, len(rows), step)]
        waiting, lock = iter(items), Lock()

        def work(_: int, __: int) -> None:
            with lock:  # rows and random numbers are handed out together, in order
                k, rows = next(waiting)
                uniforms = rng.random((len(rows), D))
            member = self.member(k)
            X[rows] = member.walk(uniforms).take(member.connectivity.ordering - 1, axis=1, mode="clip")

        threads.for_each(work, len(items), arguments.n_threads(n_threads))
        return X

    def to_dense(self, mask: int | Connectivity | None = None) -> dict[str, Any]:
        """Return one member as plain arrays in the original order of features and units.

        Parameters
        ----------
        mask : int or Connectivity, optional
            Which, if there are several.

        Returns
        -------
        dict
            ``ordering`` (D,) places 1..D; ``degrees``: L vectors (H_l,); ``masks`` and ``weights`` (masked): L + 1 matrices
            (n_out, n_in); ``biases``: L + 1 vectors (n_out,), with the sums of the live connectivity weights U in them;
            ``direct``: L + 1 matrices (n_out, D), or None for layers without direct connections.

        Examples
        --------
        Recompute the logits of a relu network::

            net, h = model.to_dense(), X
            for W, b, A in zip(net["weights"][:-1], net["biases"][:-1], net["direct"][:-1]):
                h = np.maximum(h @ W.T + b + (0 if A is None else X @ A.T), 0)
            A = net["direct"][-1]
            logits = h @ net["weights"][-1].T + net["biases"][-1] + (0 if A is None else X @ A.T)
        """
        return self.member(arguments.the_mask(mask, self.n_masks)).dense()

    def score_parts(self, X: checks.Matrix, *, n_threads: int | None = None) -> Iterator[NDArray[np.float64]]:
        """Yield the log-likelihood of each row, (n,) in nats, under the mixture of the first 1, 2, ..., K masks.

        X is read once a mask, and memory does not grow with K. The last is that of the model, but for the rounding of sums.
        """
        total = np.full(X.shape[0], -np.inf)
        for k in range(self.n_masks):
            total = np.logaddexp(total, self.score_samples(X, mask=k, n_threads=n_threads))
            yield total - log(k + 1)

    def with_input(self, binarize: float | None) -> MADEModel:
        """Return a model of the same parameters and notes that takes other input: see ``binarize``."""
        source, masks, names = self.source, self.masks, self.feature_names
        return MADEModel(source, masks, rule=self.rule, binarize=binarize, hyper=self.hyper, feature_names=names)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to one file, durably: the old file or the new one is there, whole, whatever happens."""
        hyper = {**self.hyper, "binarize": self.binarize}
        content = modelfile.Content(self.source, self.masks, self.rule, hyper, self.feature_names)
        tensorfile.write(arguments.path(path), *modelfile.encode(content))

    def _table(self, X: checks.MatrixLike) -> checks.Matrix:
        return checks.matrix(X, self.n_features_in, feature_names=self.feature_names)

    def _bits(self, X: Any, part: slice, member: Network) -> NDArray[np.uint64]:
        return data.pack_rows(X[part], member.order, binarize=self.binarize, first_row=part.start)

    def _mixture(self, X: checks.Matrix, n_threads: int) -> NDArray[np.float64]:
        """Return log p of each row, (n,) in nats; masks and blocks of rows run in parallel."""
        n, step = X.shape[0], self.architecture.chunk_rows
        total = np.full(n, -np.inf)  # what is too large for that is refused at once
        parts = [slice(i, min(i + step, n)) for i in range(0, n, step)]
        packed_bytes = self.architecture.n_packed * self.dtype.itemsize
        at_once = max(1, min(MASKS_AT_ONCE, KEPT_BYTES // packed_bytes))
        for first in range(0, self.n_masks, at_once):
            masks = range(first, min(first + at_once, self.n_masks))
            members: dict[int, Network] = {}
            log_p = np.empty((len(masks), n))

            def pack(i: int, _: int, masks: range = masks, members: dict[int, Network] = members) -> None:
                members[i] = self.member(masks[i])

            def work(item: int, _: int, members: dict[int, Network] = members, log_p: NDArray[Any] = log_p) -> None:
                i, j = divmod(item, len(parts))
                log_p[i, parts[j]] = members[i].score_bits(self._bits(X, parts[j], members[i]), 1)

            threads.for_each(pack, len(masks), n_threads)
            threads.for_each(work, len(masks) * len(parts), n_threads)
            total = np.logaddexp(total, np.logaddexp.reduce(log_p, axis=0))
        total -= np.log(self.n_masks)
        return total


def from_content(content: modelfile.Content, path: str) -> MADEModel:
    """Return the model that a file holds; ModelFileError if the threshold in it is none. ``made_fast.load`` is for users."""
    hyper = dict(content.hyper)
    try:
        binarize = arguments.threshold(hyper.pop("binarize", None))
    except (TypeError, ValueError) as error:
        raise ModelFileError(f"{path}: {error} Save the model again.") from error
    return MADEModel(
        content.source, content.masks, rule=content.rule, binarize=binarize, hyper=hyper, feature_names=content.feature_names
    )
