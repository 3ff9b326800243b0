"""Parameters, and the network that they are under one connectivity: arithmetic on packed rows, nothing else.

A model is made of :class:`Parameters`, and a trainer changes them. They are packed for one connectivity (:class:`Network`) or
shared by all (:class:`Shared`). Rows are bits in order of place, whole blocks of them, spread over threads.

Not here: tables, mixtures, missing inputs (``inference``), steps and optimizers (``training``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from made_fast import kernels
from made_fast.kernels import layout as panels
from made_fast.kernels import records
from made_fast.kernels.records import Batches, Masks, Net, Scratch, TrainScratch
from made_fast.network.architecture import BLOCK, Architecture, Prepared, order_of, scratch
from made_fast.network.masks import Connectivity, Staircase, read_only
from made_fast.system import threads
from made_fast.system.once import once
from made_fast.tables.bits import Packing, pack_rows
from made_fast.tables.table import UINT8, Table, chunks

__all__ = ["Network", "Parameters", "Shared", "Turn"]

HUGE = 4 << 20
"""Numbers that take more than about 20 ms to pack; Ctrl-C does not wait for that."""

NO_CONTEXT, NO_WEIGHTS, NO_PARTNERS = np.zeros((0, 0), np.uint64), np.zeros(0), np.zeros(0, np.int32)

PROBES = 16
"""Rows, and as many opposites of them, that a guarded network is tried with."""

OVERFLOW = (
    "the model's weights are so large (or not finite) that arithmetic overflows: {} must be {}, got {} for {} of {} rows. "
    "Train it again with a smaller learning_rate or clip_norm, or with dtype='float64'."
)

OF_VECTOR = ("guarded", "_probed", "_net", "_record")
"""Attributes that are computed once from the vector."""

Bits = NDArray[np.uint64]
Rows: TypeAlias = "Bits | Packing"
"""Rows in order of place, (n, W): packed, or packed as they are read."""


class Turn(NamedTuple):
    """The masks of a call into ``train_shared``, and its table of groups (G, 6) int64: rows of one step and one mask."""

    masks: Masks
    groups: NDArray[np.int64]


class Parameters(ABC):
    """A vector of parameters of an architecture.

    Attributes
    ----------
    architecture : Architecture
    vector : (n,) float32 or float64
        Not copied; read-only once it is sealed.
    connectivity : Connectivity or None
        The only one that the parameters serve; None: they serve any.
    n_points : int
        The points that biases have values for, see ``latent.py``; 1: biases have one value.
    watched : bool
        Whether they are a model's, whose answers are checked if need be, see :attr:`guarded`.
    """

    connectivity: Connectivity | None = None
    n_points = 1
    watched = False

    def __init__(self, architecture: Architecture, vector: NDArray[Any]) -> None:
        self.architecture = architecture
        self.vector = self._given = panels.aligned(vector)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the parameters."""
        return self.vector.dtype

    @property
    @abstractmethod
    def n_parameters(self) -> int:
        """Number of weights and biases: the live ones under the one connectivity, or all that connectivities share."""

    @property
    @abstractmethod
    def order(self) -> NDArray[np.intp]:
        """The order of the columns in which rows to train on are packed, (D,)."""

    @abstractmethod
    def start_at(self, log_odds: NDArray[np.float64]) -> None:
        """Set the biases of the outputs, one for each, in that same order."""

    @property
    @abstractmethod
    def runs(self) -> NDArray[np.int64]:
        """Which of the vector are trained, as ``kernels.active.apply_gradient`` takes them."""

    def settle(self) -> None:  # noqa: B027
        """Compute what follows from trained parameters, where these were changed by another than their kernel."""

    @abstractmethod
    def network(self, connectivity: Connectivity | Prepared, room: NDArray[Any] | None = None) -> Network:
        """Return the network under a connectivity; it may be packed in ``room``, of ``architecture.n_packed`` numbers."""

    def networks(self, connectivity: Connectivity | Prepared, room: NDArray[Any] | None = None) -> Iterator[Network]:
        """Yield the networks under a connectivity that are mixed in equal parts, :attr:`n_points` of them."""
        yield self.network(connectivity, room)

    def served(self) -> Parameters:
        """Return what a model needs of these parameters."""
        return self

    @abstractmethod
    def training(self, batches: Batches, turn: Turn | None) -> Callable[..., None]:
        """Return the kernel that trains these parameters on such rows; it takes (dropout, update, scratch, nll, crew)."""

    def train_scratch(self, batch_size: int, n_ranks: int, *, gradient: bool) -> TrainScratch:
        """Return the workspace of training steps on this thread; ``gradient``: each needs its whole gradient at once."""
        a, dtype, shared = self.architecture, self.dtype, self.connectivity is None
        whole = theta = d_theta = np.empty(0, dtype)
        if gradient:
            whole = panels.aligned_empty(len(self.vector), dtype)
        if shared:
            theta, d_theta = panels.aligned_empty(a.n_packed, dtype), panels.aligned_zeros(a.n_packed, dtype)
        return TrainScratch(whole, theta, d_theta, *scratch(*a.train_room(batch_size, n_ranks, shared=shared), dtype))

    @once
    def guarded(self) -> bool:
        """Whether :meth:`Network.score` and the like raise FloatingPointError if arithmetic has overflowed."""
        return self.watched and self.architecture.may_overflow(self._given)

    def sealed(self) -> Self:
        """Return the parameters of a model: watched, and with a read-only view of the vector."""
        if self.watched and not self.vector.flags.writeable:
            return self
        same = self.with_vector(self._given)
        same.vector, same.watched = read_only(self._given), True
        return same

    def with_vector(self, vector: NDArray[Any]) -> Self:
        """Return parameters of the same architecture and connectivity with other values."""
        same = object.__new__(type(self))
        same.__dict__.update({name: value for name, value in vars(self).items() if name not in OF_VECTOR})
        same.vector = same._given = panels.aligned(vector)
        return same


class Shared(Parameters):
    """One set of parameters, in the original order of features and units, for any connectivity of an architecture.

    The vector, of ``architecture.n_shared`` numbers, is in the shared layout (``made_fast.kernels.layout``).
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.architecture, self._given)

    @property
    def n_parameters(self) -> int:
        """Number of weights and biases, live or dead."""
        table, layers = self.architecture.shared_layout, self.architecture.layers
        return sum(
            int(n_in * n_out) * (1 if u < 0 else 2) + (int(n_out) if b >= 0 else 0)
            for (_, b, u, *_), (n_in, n_out, *_) in zip(table, layers, strict=True)
        )

    @once
    def _record(self) -> records.Shared:
        return records.Shared(self.vector, self.architecture.shared_layout)

    @property
    def order(self) -> NDArray[np.intp]:
        """The order of the features: the order of the places changes from step to step."""
        return np.arange(self.architecture.n_inputs)

    @property
    def runs(self) -> NDArray[np.int64]:
        """See :attr:`Parameters.runs`."""
        return panels.shared_runs_of(self.architecture.shared_layout, self.architecture.layers)

    def start_at(self, log_odds: NDArray[np.float64]) -> None:
        """See :meth:`Parameters.start_at`."""
        start = self.architecture.shared_layout[len(self.architecture.hidden_sizes), panels.SHARED_BIAS]
        self.vector[start : start + self.architecture.n_outputs] = log_odds

    def network(self, connectivity: Connectivity | Prepared, room: NDArray[Any] | None = None) -> Network:
        """Pack the parameters for one connectivity."""
        if isinstance(connectivity, Connectivity):
            (connectivity,) = self.architecture.prepared([connectivity])
        connectivity, staircase, layout = connectivity
        n = panels.n_parameters(layout)
        theta = panels.aligned_empty(n, self.dtype) if room is None else room[:n]

        def pack() -> None:
            kernels.active.pack(self._record, order_of(staircase), Net(theta, *layout))

        if len(theta) < HUGE:
            pack()
        else:
            threads.unattended(pack)
        theta = read_only(theta) if self.watched else theta  # then it is sealed already
        network = Network(self.architecture, connectivity, theta, staircase, layout)
        network.watched, vars(network)["guarded"] = self.watched, self.guarded  # the bound holds for a part of the vector
        return network

    def training(self, batches: Batches, turn: Turn | None) -> Callable[..., None]:
        """See :meth:`Parameters.training`."""
        assert turn is not None
        return partial(kernels.active.train_shared, self._record, turn.masks, batches, turn.groups)


class Network(Parameters):
    """A network under one connectivity.

    The vector is in the panel layout (``made_fast.kernels.layout``); ``staircase`` and ``layout`` of the connectivity are
    computed if they are not given.
    """

    connectivity: Connectivity

    def __init__(
        self,
        architecture: Architecture,
        connectivity: Connectivity,
        vector: NDArray[Any],
        staircase: Staircase | None = None,
        layout: panels.Layout | None = None,
    ) -> None:
        super().__init__(architecture, vector)
        self.connectivity = connectivity
        self.staircase = staircase or architecture.staircase(connectivity)
        self.layout = layout or architecture.layout(self.staircase)

    @once
    def _net(self) -> Net:
        return Net(self.vector, *self.layout)

    @property
    def order(self) -> NDArray[np.intp]:
        """``order[p]`` is the feature at place p + 1; bits, uniforms and results are in this order."""
        return self.staircase.sorts[0]

    @property
    def runs(self) -> NDArray[np.int64]:
        """See :attr:`Parameters.runs`."""
        return panels.runs_of(self.layout.layers)

    def start_at(self, log_odds: NDArray[np.float64]) -> None:
        """See :meth:`Parameters.start_at`."""
        start = self.layout.layers[len(self.architecture.hidden_sizes), panels.BIAS]
        self.vector[start : start + self.architecture.n_outputs] = log_odds

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.architecture, self.connectivity, self._given)  # the rest follows from these

    @once
    def n_parameters(self) -> int:
        """How many weights and biases are live."""
        direct = sum(int(live.sum()) for live in self.staircase.direct if live is not None)
        return direct + sum(int(live.sum()) + len(live) for live in self.staircase.n_live)

    def network(self, connectivity: Connectivity | Prepared, room: NDArray[Any] | None = None) -> Network:
        """Return itself; ValueError if it is of another connectivity."""
        if isinstance(connectivity, Prepared):
            connectivity = connectivity.connectivity
        asked, own = connectivity.vectors, self.connectivity.vectors
        if len(asked) != len(own) or not all(map(np.array_equal, asked, own)):
            raise ValueError(
                "mask must be the model's own connectivity: trained under one mask, it has no weights for others. "
                "Train with n_masks=None for answers under any."
            )
        return self

    def training(self, batches: Batches, turn: Turn | None) -> Callable[..., None]:
        """See :meth:`Parameters.training`; there are no turns."""
        return partial(kernels.active.train, self._net, batches)

    def score(self, rows: Rows, n_threads: int, n_places: int | None = None) -> NDArray[np.float64]:
        """Return log p of rows in order of place, in nats, (n,).

        With ``n_places``, log p of the inputs at the first so many places, the others summed out.
        """
        n = len(rows)
        log_p = np.empty(n)
        places = self.architecture.n_variables if n_places is None else n_places

        def work(part: slice) -> None:
            kernels.active.score(self._net, rows[part], places, *self._room(n), log_p[part])

        self._spread(work, n, n_threads)
        self._guard(log_p)
        return log_p

    def score_row(self, x: NDArray[np.uint8]) -> NDArray[np.float64] | None:
        """Return log p of a lone row of binary features, (1, D) of one byte each; None if they are not 0 and 1."""
        log_p, seen, order = np.empty(1), np.empty(1, UINT8), self._row_order
        assert x.shape[1] == len(order)  # the kernel reads on behind the row otherwise
        kernels.active.score_row(self._net, x, order, scratch(*self.architecture.row_room, self.dtype), log_p, seen)
        if seen[0] > 1:
            return None
        self._guard(log_p)
        return log_p

    @once
    def _row_order(self) -> NDArray[np.int64]:
        return np.ascontiguousarray(self.order, np.int64)

    def _guard(self, log_p: NDArray[np.float64]) -> None:
        if self.guarded:
            _ = self._probed
            _check(log_p, np.isfinite(log_p), "log p", "finite")

    def scores_up_to(self, rows: Rows) -> NDArray[np.float64]:
        """Return log p of the inputs at the first 0, 1, ..., V places, (n, V + 1), in as many passes.

        Their differences are right where a probability is so near to 0 or 1 that its type does not hold it.
        """
        return np.stack([self.score(rows, 1, n_places) for n_places in range(self.architecture.n_variables + 1)], axis=1)

    def conditionals(self, rows: Rows, n_threads: int, *, by_feature: bool = False) -> NDArray[Any]:
        """Return ``p(x at place p + 1 is 1 | the places before it)``, (n, D) of the dtype of the parameters.

        Columns are in order of place or, ``by_feature``, in that of the features. Of a variable of several levels, they are
        the probabilities of these.
        """
        proba = np.empty((len(rows), self.architecture.n_outputs), self.dtype)  # a result that is too large is refused here
        feature = self.connectivity.ordering - 1 if self.architecture.variables is None else self.staircase.sorts[-1].argsort()

        def work(part: slice) -> None:
            kernels.active.conditionals(self._net, rows[part], *self._room(len(rows)), proba[part])
            if by_feature:  # while these rows are in the cache
                proba[part] = proba[part].take(feature, axis=1)

        self._spread(work, len(rows), n_threads)
        if self.guarded:
            _ = self._probed
            _check(proba, ~np.isnan(proba), "probabilities", "numbers")
        return proba

    @once
    def _probed(self) -> bool:
        """Raise FloatingPointError unless some random rows have finite scores: infinite logits look like certainty."""
        plain, D = self.with_vector(self._given), self.architecture.n_inputs
        vars(plain)["guarded"] = False
        rows = np.random.default_rng(0).integers(0, 2, (PROBES, D), np.uint8)
        log_p = plain.score(pack_rows(Table(np.concatenate([rows, 1 - rows])), np.arange(D)), 1)
        _check(log_p, np.isfinite(log_p), "log p", "finite")
        return True

    def walk(self, uniforms: NDArray[np.float64], columns: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Draw rows by one walk along the ordering: place p + 1 is 1 where ``uniforms[i, p] < p(1 | places before)``.

        It becomes column ``columns[p]``: by :attr:`order`, rows are those of a table. For variables that are all binary;
        others: :meth:`walk_levels`. A uniform below 0 gives a 1, one above 1 a 0, which is how evidence is put in. On the
        caller's thread; (n, D) uint8.
        """
        assert self.architecture.variables is None
        x = np.empty(uniforms.shape, np.uint8)
        room = scratch(*self.architecture.walk_room, self.dtype)
        kernels.active.sample(self._net, uniforms, columns, BLOCK, room, x)
        if self.guarded:  # a comparison with NaN has left no trace
            self.score(pack_rows(Table(x), columns), 1)
        return x

    def walk_levels(
        self,
        given: NDArray[np.int32],
        uniforms: NDArray[np.float64],
        weights: NDArray[np.float64] | None = None,
        n_places: int | None = None,
        context: Bits | None = None,
        partners: NDArray[np.int32] = NO_PARTNERS,
    ) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Walk along the first n_places places (all), with evidence; return levels (n, V) and log masses (n,).

        All are in order of place: ``given`` (n, V) are levels that are known, -1 for others; ``weights`` those of all levels,
        for each level of an earlier place where ``partners`` says so;
        ``uniforms`` (n, V) draw, or, below 0, take the likeliest. See ``kernels.reference.walk``. On the caller's thread.
        """
        given = np.ascontiguousarray(given, np.int32)
        levels, log_mass = given.copy(), np.empty(len(given))
        places = self.architecture.n_variables if n_places is None else n_places
        evidence = NO_CONTEXT if context is None else context, given, NO_WEIGHTS if weights is None else weights
        room = scratch(*self.architecture.evidence_room, self.dtype)
        kernels.active.walk(self._net, *evidence, partners, uniforms, places, BLOCK, room, levels, log_mass)
        if self.guarded:
            _check(log_mass, ~np.isnan(log_mass), "log masses", "numbers")
        return levels, log_mass

    def dense(self) -> dict[str, Any]:
        """Return the network as plain arrays in the original order; see ``MADEModel.to_dense``."""
        from made_fast.kernels.reference import dense  # a server seldom needs it

        sorts, L = self.staircase.sorts, len(self.connectivity.degrees)

        def original(row: int, below: NDArray[np.intp], above: NDArray[np.intp]) -> tuple[NDArray[Any], ...]:
            W_sorted, mask, b_sorted = dense.unpack_layer(self._net, row)
            W, M, b = np.empty(W_sorted.T.shape, W_sorted.dtype), np.empty(mask.T.shape, np.uint8), np.empty_like(b_sorted)
            for part in chunks(len(above), len(below)):  # Ctrl-C is answered in between
                W[np.ix_(above[part], below)] = np.where(mask[:, part], W_sorted[:, part], 0).T
                M[np.ix_(above[part], below)] = mask[:, part].T
            b[above] = b_sorted
            return W, b, M

        chain = [original(l, sorts[l], sorts[l + 1]) for l in range(L + 1)]
        rows = self.layout.layers[: L + 1, panels.DIRECT]
        direct = [original(row, sorts[0], sorts[l + 1])[0] if row else None for l, row in enumerate(rows)]
        return {
            "ordering": self.connectivity.ordering.copy(),
            "degrees": [m.copy() for m in self.connectivity.degrees],
            "masks": [M for *_, M in chain],
            "weights": [W for W, *_ in chain],
            "biases": [b for _, b, _ in chain],
            "direct": direct,
        }

    def _spread(self, work: Callable[[slice], None], n: int, n_threads: int) -> None:
        """Cut n rows into slices and call ``work`` on each, on threads."""
        step = self.architecture.chunk_rows
        if n_threads > 1:  # so that the ranks end at about the same time
            least = max(1, step // BLOCK // 4) * BLOCK
            step = max(least, min(step, -(-n // (4 * n_threads * BLOCK)) * BLOCK))
        if 0 < n <= step:  # as most calls of a server: at once
            work(slice(0, n))
        else:
            threads.for_each(lambda i, _: work(slice(i * step, min(n, (i + 1) * step))), -(-n // step), n_threads)

    def _room(self, n: int) -> tuple[int, Scratch]:
        """Return by how many a kernel takes rows, some of n, and its workspace."""
        block, (reals, ints) = n if n < BLOCK else BLOCK, self.architecture.score_room
        return block, scratch(reals * block + self.architecture.loss_room, ints * block, self.dtype)


def _check(values: NDArray[Any], good: NDArray[np.bool_], what: str, demand: str) -> None:
    if not good.all():
        rows = np.count_nonzero(~good.reshape(len(good), -1).all(axis=1))
        raise FloatingPointError(OVERFLOW.format(what, demand, values[~good][0], rows, len(good)))
