"""One member: a network under one connectivity, its parameters packed into panels. Arithmetic on packed rows, nothing else.

What a user asks (tables in, in the order of their columns; mixtures; missing inputs) is in ``model.py`` and ``queries.py``;
here rows are bits in order of place, whole blocks of them, spread over threads. Where many connectivities share one set of
weights, :class:`Shared` holds that set and makes the network of any of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from made_fast import data, kernels, threads
from made_fast.kernels import layout as panels
from made_fast.kernels import records
from made_fast.kernels.records import Net, Scratch
from made_fast.masks import Connectivity, MaskSet, Staircase, read_only
from made_fast.once import once

__all__ = ["BLOCK", "SPARSE_BELOW", "Architecture", "Network", "Shared", "scratch"]

BLOCK = 96
"""Rows that a kernel takes through all layers at once: sixteen register tiles, so the activations stay in the L2 cache."""

SPARSE_BELOW = 0.33
"""Density of ones below which the inputs are read by adding rows of weights instead of multiplying. The bits are the same; the
times crossed between 0.30 and 0.35 in training and scoring, at D = 784 and 180 (AVX-512, one thread)."""

SMALL = 4096
"""Scratch of fewer numbers is made for every call, and begins anywhere."""

MOST_KEPT = 8 << 20
"""Bytes of scratch that a thread keeps at the most."""

HUGE = 4 << 20
"""Numbers that take more than some 20 ms to pack; Ctrl-C does not wait for that."""

BOUNDED = ("tanh", "sigmoid", "softsign")
"""Activations that are at most 1 in size."""

ROUNDING = 16
"""How much larger than the bound sums may be that are not exact."""

PROBES = 16
"""Rows, and as many opposites of them, that a guarded network is tried with."""

OVERFLOW = (
    "the model's weights are so large (or not finite) that arithmetic overflows: {} must be {}, got {} for {} of {} rows. "
    "Train it again with a smaller learning_rate or clip_norm, or with dtype='float64'."
)

Bits = NDArray[np.uint64]


@dataclass(frozen=True)
class Architecture:
    """What all members of a model have in common, but for the values of the parameters.

    Attributes
    ----------
    n_inputs : int
    hidden_sizes : tuple of int
    activation : str
        Of the hidden layers.
    direct : {"none", "output", "all"}
        Where direct connections A from the inputs lead (section 4.4 of the paper): nowhere; to the output layer; to every
        layer but the first. Without a hidden layer the output layer reads the inputs anyway.
    connectivity_weights : bool
        Whether every layer has U: ``h = g((W * M) x + (U * M) 1 + b)`` (section 4.3).
    """

    n_inputs: int
    hidden_sizes: tuple[int, ...]
    activation: str
    direct: str = "none"
    connectivity_weights: bool = False

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, field.name) for field in fields(self))

    def layouts(self, staircase: Staircase) -> panels.Layout:
        """Return the tables of a staircase of K connectivities."""
        return panels.make_layouts(self.n_inputs, staircase.n_live, self.activation, staircase.direct)

    def layout(self, staircase: Staircase) -> panels.Layout:
        """Return the tables of a staircase of one connectivity."""
        return panels.make_layout(self.n_inputs, staircase.n_live, self.activation, staircase.direct)

    @once
    def _no_layout(self) -> panels.Layout:
        """Return a layout with every weight live, for what does not depend on the connectivity."""
        full = [np.full(n, below, np.int32) for below, n in pairwise((self.n_inputs, *self.hidden_sizes, self.n_inputs))]
        direct = [self.has_direct(l) for l in range(len(full))]
        extra = [np.full(len(live), self.n_inputs, np.int32) if d else None for live, d in zip(full, direct, strict=True)]
        return panels.make_layout(self.n_inputs, full, self.activation, extra)

    def may_overflow(self, parameters: NDArray[Any]) -> bool:
        """Say whether arithmetic on these parameters can leave the range of their type, by a coarse but cheap bound."""
        largest = max(abs(float(parameters.min())), abs(float(parameters.max())))
        most = h = 1.0  # of any sum so far, of any unit of the layer below
        for below in (self.n_inputs, *self.hidden_sizes):
            z = largest * (below * h + below + self.n_inputs + 1) + 1  # W, U, A, b; softplus may be larger than z by log 2
            most, h = max(z, most), 1.0 if self.activation in BOUNDED else z  # a NaN stays one, and says yes
        return not most * self.n_inputs * ROUNDING < float(np.finfo(parameters.dtype).max)

    def has_direct(self, l: int) -> bool:
        """Say whether layer l of the chain has direct connections."""
        last = len(self.hidden_sizes)
        return l > 0 and (self.direct == "all" or (self.direct == "output" and l == last))

    @once
    def shared_layout(self) -> panels.SharedLayout:
        """Where each parameter stands when they are shared."""
        return panels.make_shared_layout(self.layers, self.connectivity_weights)

    @once
    def layers(self) -> NDArray[np.int64]:
        """Table of layers with every weight live: sizes are right for every connectivity, offsets for none."""
        return self._no_layout.layers

    @once
    def chunk_rows(self) -> int:
        """How many rows to hand to a thread at a time: about a millisecond of work, whole blocks; not a matter of threads."""
        blocks = 100_000_000 // (BLOCK * (self.n_packed + 2000))
        return BLOCK * min(max(blocks, 1), 64)

    def walk_scratch(self, dtype: np.dtype[Any]) -> Scratch:
        """Return the workspace for ``Network.walk`` on this thread."""
        return scratch(*self._walk_block, dtype)

    def score_scratch(self, dtype: np.dtype[Any], block: int) -> Scratch:
        """Return the workspace for scoring ``block`` rows at a time on this thread."""
        reals, ints = self._score_row
        return scratch(reals * block, ints * block, dtype)

    @once
    def _walk_block(self) -> tuple[int, int]:
        return panels.sample_workspace(self._no_layout, BLOCK)

    @once
    def _score_row(self) -> tuple[int, int]:
        return panels.score_workspace(self._no_layout, 1)

    def shared_train_workspace(self, batch_size: int, n_ranks: int) -> tuple[int, int]:
        """Return the scratch that ``train_shared`` needs, see ``made_fast.kernels.layout``."""
        layers, n_live, panel_start = self._no_layout
        layouts = panels.Layout(layers[None], n_live[None], panel_start[None])
        return panels.shared_train_workspace(layouts, self.shared_layout, batch_size, n_ranks)

    @once
    def n_shared(self) -> int:
        """Length of the vector of shared parameters."""
        return panels.n_shared(self.shared_layout, self.layers)

    @once
    def n_packed(self) -> int:
        """Length that is enough for the packed parameters of any connectivity."""
        return panels.n_parameters(self._no_layout)


class _Parameters:
    """Base of what holds a vector of parameters, under the name ``_name``."""

    _name: ClassVar[str]
    architecture: Architecture
    watched = False
    """Whether it is a model's: answers are then looked at, where there is need, see :attr:`guarded`."""

    def __init__(self, parameters: NDArray[Any]) -> None:
        self._given = parameters
        setattr(self, self._name, parameters)

    @once
    def guarded(self) -> bool:
        """Whether :meth:`score` and the like raise FloatingPointError if arithmetic has overflowed."""
        return self.watched and self.architecture.may_overflow(self._given)

    def watch(self) -> Self:
        """Return the same as a model has it."""
        same = self._copy()
        same.watched = True
        vars(same).pop("guarded", None)
        return same

    def _copy(self) -> Self:
        same = object.__new__(type(self))
        same.__dict__.update(self.__dict__)
        return same

    def sealed(self) -> Self:
        """Return the same with a read-only view of the parameters: who sees a model does not change it."""
        same = self._copy()
        setattr(same, self._name, read_only(self._given))
        return same


class Shared(_Parameters):
    """One set of parameters, in the original order of features and units, for any connectivity of an architecture.

    Parameters
    ----------
    architecture : Architecture
    values : (architecture.n_shared,) float32 or float64
        In the shared layout (``made_fast.kernels.layout``); used as it is, not copied.
    """

    _name = "values"
    values: NDArray[Any]

    def __init__(self, architecture: Architecture, values: NDArray[Any]) -> None:
        super().__init__(values)
        self.architecture = architecture

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.architecture, self._given)

    def tables(self, masks: MaskSet) -> tuple[NDArray[np.int32], panels.Layout]:
        """Return the orders and the layouts of K connectivities, as the kernels take them."""
        staircase = masks.staircase(self.architecture.direct)
        return _order(staircase), self.architecture.layouts(staircase)

    def network(self, connectivity: Connectivity) -> Network:
        """Pack the parameters for one connectivity."""
        staircase = connectivity.staircase(self.architecture.direct)
        layout = self.architecture.layout(staircase)
        theta = panels.aligned_empty(panels.n_parameters(layout), self.values.dtype)

        def pack() -> None:
            shared = records.Shared(self.values, self.architecture.shared_layout)
            kernels.active.pack(shared, _order(staircase), Net(theta, *layout))

        if len(theta) < HUGE:
            pack()
        else:
            threads.unattended(pack)
        network = Network(self.architecture, connectivity, theta, staircase, layout)
        network.watched, vars(network)["guarded"] = self.watched, self.guarded
        return network


def _order(staircase: Staircase) -> NDArray[np.int32]:
    return np.concatenate(staircase.sorts[:-1], axis=-1).astype(np.int32)


class Network(_Parameters):
    """A network under one connectivity.

    Parameters
    ----------
    architecture : Architecture
    connectivity : Connectivity
    theta : (n,) float32 or float64
        Parameters in the panel layout (``made_fast.kernels.layout``); used as it is, not copied.
    staircase, layout : optional
        Those of the connectivity, if they are at hand.

    Attributes
    ----------
    order : (D,) intp
        ``order[p]`` is the feature at place p + 1; bits, uniforms and results are in this order.
    """

    _name = "theta"
    theta: NDArray[Any]

    def __init__(
        self,
        architecture: Architecture,
        connectivity: Connectivity,
        theta: NDArray[Any],
        staircase: Staircase | None = None,
        layout: panels.Layout | None = None,
    ) -> None:
        super().__init__(theta)
        self.architecture = architecture
        self.connectivity = connectivity
        self.staircase = staircase or connectivity.staircase(architecture.direct)
        self.layout = layout or architecture.layout(self.staircase)
        self._net = Net(theta, *self.layout)

    @property
    def order(self) -> NDArray[np.intp]:
        """Feature at each place."""
        return self.staircase.sorts[0]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.architecture, self.connectivity, self._given)  # the rest follows from these

    @property
    def n_parameters(self) -> int:
        """Number of live weights and biases."""
        direct = sum(int(live.sum()) for live in self.staircase.direct if live is not None)
        return direct + sum(int(live.sum()) + len(live) for live in self.staircase.n_live)

    def score(
        self, n: int, bits_of: Callable[[slice], Bits], n_threads: int, n_places: int | None = None
    ) -> NDArray[np.float64]:
        """Return log p of n rows in nats, (n,); ``bits_of(part)`` gives the rows of a slice.

        With ``n_places``, log p of the inputs at the first so many places, the others summed out.
        """
        log_p = np.empty(n)
        places = self.architecture.n_inputs if n_places is None else n_places

        def work(part: slice, bits: Bits, *rest: Any) -> None:
            kernels.active.score(self._net, bits, places, *rest, log_p[part])

        self._for_rows(n, bits_of, n_threads, work)
        if self.guarded:
            _ = self._probed
            _check(log_p, np.isfinite(log_p), "log p", "finite")
        return log_p

    def score_bits(self, bits: Bits, n_threads: int, n_places: int | None = None) -> NDArray[np.float64]:
        """Do ``score`` on rows that are packed already, (n, W) in order of place."""
        return self.score(len(bits), bits.__getitem__, n_threads, n_places)

    def conditionals(
        self, n: int, bits_of: Callable[[slice], Bits], n_threads: int, *, by_feature: bool = False
    ) -> NDArray[Any]:
        """Return ``p(x at place p + 1 is 1 | the places before it)``, (n, D) of the dtype of theta.

        Columns are in order of place or, ``by_feature``, in that of the features.
        """
        proba = np.empty((n, self.architecture.n_inputs), self.theta.dtype)
        feature = self.connectivity.ordering - 1

        def work(part: slice, *bits_and_scratch: Any) -> None:
            kernels.active.conditionals(self._net, *bits_and_scratch, proba[part])
            if by_feature:  # while these rows are in the cache
                proba[part] = proba[part].take(feature, axis=1)

        self._for_rows(n, bits_of, n_threads, work)
        if self.guarded:
            _ = self._probed
            _check(proba, ~np.isnan(proba), "probabilities", "numbers")
        return proba

    @once
    def _probed(self) -> bool:
        """Say that some random rows have finite scores, or raise an error: infinite logits look like certainty."""
        plain, D = self._copy(), self.architecture.n_inputs
        vars(plain)["guarded"] = False
        rows = np.random.default_rng(0).integers(0, 2, (PROBES, D), np.uint8)
        log_p = plain.score_bits(data.pack_rows(np.concatenate([rows, 1 - rows]), np.arange(D)), 1)
        _check(log_p, np.isfinite(log_p), "log p", "finite")
        return True

    def walk(self, uniforms: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Draw rows by one walk along the ordering: x at place p + 1 is 1 where ``uniforms[i, p] < p(1 | places before)``.

        A uniform below 0 puts in a 1, one above 1 a 0: so evidence is given. On the caller's thread; (n, D) uint8.
        """
        x = np.empty(uniforms.shape, np.uint8)
        kernels.active.sample(self._net, uniforms, BLOCK, self.architecture.walk_scratch(self.theta.dtype), x)
        if self.guarded:  # a comparison with NaN has left no trace
            self.score_bits(data.pack_rows(x, np.arange(self.architecture.n_inputs)), 1)
        return x

    def dense(self) -> dict[str, Any]:
        """Return the network as plain arrays in the original order; see ``MADEModel.to_dense``."""
        from made_fast.kernels.reference import dense  # a server seldom needs it

        sorts, L = self.staircase.sorts, len(self.connectivity.degrees)

        def original(row: int, below: NDArray[np.intp], above: NDArray[np.intp]) -> tuple[NDArray[Any], NDArray[Any]]:
            W_sorted, mask, b_sorted = dense.unpack_layer(self._net, row)
            W, b = np.empty(W_sorted.T.shape, W_sorted.dtype), np.empty_like(b_sorted)
            for part in data.chunks(len(above), len(below)):  # Ctrl-C is answered in between
                W[np.ix_(above[part], below)] = np.where(mask[:, part], W_sorted[:, part], 0).T
            b[above] = b_sorted
            return W, b

        chain = [original(l, sorts[l], sorts[l + 1]) for l in range(L + 1)]
        rows = self.layout.layers[: L + 1, panels.DIRECT]
        direct = [original(row, sorts[0], sorts[l + 1])[0] if row else None for l, row in enumerate(rows)]
        return {
            "ordering": self.connectivity.ordering.copy(),
            "degrees": [m.copy() for m in self.connectivity.degrees],
            "masks": dense.masks(self.connectivity.ordering, self.connectivity.degrees),
            "weights": [W for W, _ in chain],
            "biases": [b for _, b in chain],
            "direct": direct,
        }

    def _for_rows(self, n: int, bits_of: Callable[[slice], Bits], n_threads: int, work: Callable[..., None]) -> None:
        """Call ``work(part, bits, sparse, block, scratch)`` on slices of the rows 0..n - 1, spread over threads."""
        rows, block = self.architecture.chunk_rows, min(n, BLOCK)
        if n_threads > 1:  # so that the ranks end at about the same time
            least = max(1, rows // BLOCK // 4) * BLOCK
            rows = max(least, min(rows, -(-n // (4 * n_threads * BLOCK)) * BLOCK))

        def chunk(i: int, _: int) -> None:
            part = slice(i * rows, min(n, (i + 1) * rows))
            bits = bits_of(part)
            workspace = self.architecture.score_scratch(self.theta.dtype, block)
            work(part, bits, data.density(bits, self.architecture.n_inputs) < SPARSE_BELOW, block, workspace)

        if n <= rows:
            chunk(0, 0)
        else:
            threads.for_each(chunk, -(-n // rows), n_threads)


def _check(values: NDArray[Any], good: NDArray[np.bool_], what: str, demand: str) -> None:
    if not good.all():
        rows = np.count_nonzero(~good.reshape(len(good), -1).all(axis=1))
        raise FloatingPointError(OVERFLOW.format(what, demand, values[~good][0], rows, len(good)))


class _Kept(threading.local):
    """What a thread keeps for its next call."""

    def __init__(self) -> None:
        self.raw = np.empty(0, np.uint8)


_kept = _Kept()


def scratch(reals: int, ints: int, dtype: np.dtype[Any]) -> Scratch:
    """Return a workspace for a kernel that this thread calls; what is in it means nothing, and the next call gets it too.

    Memory fresh from the system costs a page fault every 4 KB, which costs up to a tenth of the time of scoring.
    """
    if reals < SMALL:
        return Scratch(np.empty(reals, dtype), np.empty(ints, np.int32))
    start = -(-reals * dtype.itemsize // 64) * 64  # of the integers
    n = start + 4 * ints
    raw = _kept.raw if len(_kept.raw) >= n else panels.aligned_empty(n, np.uint8)
    if n <= MOST_KEPT:
        _kept.raw = raw
    return Scratch(raw[: reals * dtype.itemsize].view(dtype), raw[start:n].view(np.int32))
