"""The fitted model: one masked network, or the mixture of a network under each of K masks. Inference only.

It needs NumPy and the compiled kernels alone, and many threads may call it at once.
Not here: the arithmetic of a network (``network.py``), the public questions (``density.py``), the file (``modelfile.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from math import log
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast.inference import modelfile
from made_fast.inference.answering import Answers, ModelAnswers, Options
from made_fast.inference.chunked import by_chunk
from made_fast.inference.density import Density
from made_fast.inference.rows import Rows
from made_fast.kernels.layout import aligned_empty, n_parameters
from made_fast.network.architecture import BLOCK, Prepared
from made_fast.network.masks import Connectivity, MaskRule, MaskSet, check_connectivity
from made_fast.network.network import Network, Parameters
from made_fast.system import threads
from made_fast.tables import arguments
from made_fast.tables.bits import Packing, pack_rows
from made_fast.tables.coded import Coded
from made_fast.tables.table import MatrixLike, Table

__all__ = ["MADEModel"]

Bits = NDArray[np.uint64]

KEPT_BYTES = 64 << 20  # of packed networks that a model keeps between calls: 40 of 784-500-784 in float32
MASKS_AT_ONCE = 32  # most masks whose log-likelihoods are in memory before they are summed
ORDERINGS = 0x6D616465  # makes the seed of a connectivity drawn for a pattern unlike other seeds


class MADEModel(Density):
    """A density over binary vectors: the mixture, in equal parts, of one masked network under each of K connectivities.

    Under each mask it is autoregressive in an ordering, ``p_k(x) = prod_d p(x_d | x_<d)``, each factor one output of the net;
    the model is ``p(x) = 1/K sum_k p_k(x)``.

    Parameters
    ----------
    source : Parameters
        One network, or parameters shared by all connectivities of ``masks``.
    masks : MaskSet, optional
        Given with ``Shared``.
    rule : MaskRule, optional
        How to draw further connectivities, if the model was trained under fresh ones. It then answers any-order
        questions by a connectivity drawn for each.
    binarize : float, optional
        Inputs above it count as 1, the others as 0. None demands 0/1 input.
    hyper : mapping, optional
        Notes on how the model came to be; saved with it. JSON values only.
    feature_names : sequence of str, optional
        Names of the inputs; saved with the model. A table whose columns have names must then have these, in this order.

    Attributes
    ----------
    n_features_in, n_masks, n_points, n_parameters : int
        D (of levels: of the variables), K, 1 (see ``LatentModel``), and the weights and biases: those live under the one
        mask, or all that masks share.
    dtype : numpy.dtype
        Of the parameters, float32 or float64.

    References
    ----------
    Germain, Gregor, Murray, Larochelle, "MADE: Masked Autoencoder for Distribution Estimation", ICML 2015, eqs. 4 to 13.
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
        self.n_features_in, self.dtype, self.n_parameters = source.architecture.n_variables, source.dtype, source.n_parameters
        if source.connectivity is not None:
            masks = MaskSet.of([source.connectivity])
        elif masks is None:
            raise TypeError("masks must be a MaskSet when the parameters are Shared, got None. Pass the trained mask set.")
        masks.check_sizes(self.n_features_in, self.architecture.hidden_sizes)
        self.masks, self.n_masks, self.n_points = masks, len(masks), source.n_points
        self.rule = rule
        self.binarize = arguments.threshold(binarize)
        self.hyper = arguments.mapping(hyper, "hyper")
        self.feature_names = arguments.feature_names(feature_names, self.n_features_in)
        self._kept: dict[int, Network] = {}  # packed networks

    def __getstate__(self) -> dict[str, Any]:  # without the packed networks: another thread may be adding one
        return {name: value for name, value in vars(self).items() if name != "_kept"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.source = self.source.sealed()  # arrays come out of a pickle, or a deep copy, writable
        self._kept = {}

    def __repr__(self) -> str:
        a = self.architecture
        sizes = "-".join(str(n) for n in (a.n_inputs, *a.hidden_sizes, a.n_outputs))
        extra = "".join([f", direct={a.direct}" * (a.direct != "none"), ", connectivity weights" * a.connectivity_weights])
        masks = f", {self.n_masks} masks" * (self.n_masks > 1)
        return f"MADEModel({sizes}, {a.activation}{extra}{masks}, {self.dtype}, {self.n_parameters} parameters)"

    def member(self, mask: int | Connectivity = 0) -> Network:
        """Return the network under one mask of the set, or, with shared parameters, under any connectivity.

        Coming back to a mask gives the same bits.
        """
        if isinstance(mask, Connectivity):
            if self.source.connectivity is None:
                a = self.architecture
                mask = check_connectivity(mask, self.n_features_in, a.hidden_sizes, a.least_degree)
            return self.source.network(mask).sealed()
        k = mask if type(mask) is int and mask in self._kept else arguments.mask_number(mask, self.n_masks)
        return self._network(k, None)

    def _network(self, k: int, room: NDArray[Any] | None) -> Network:
        """Return the network under mask k, kept or packed: in ``room``, if there is some, until that is used again."""
        found = self._kept.get(k)
        if found is None:
            asked: Connectivity | Prepared = self.masks[k]
            keeps = self.source.connectivity is not None  # it is the network
            if not keeps:
                (asked,) = self.architecture.prepared([self.masks[k]])
                keeps = (k + 1) * n_parameters(asked.layout) * self.dtype.itemsize <= KEPT_BYTES
            found = self.source.network(asked, None if keeps else room).sealed()
            if keeps:
                self._kept[k] = found
        return found

    @property
    def _packed_bytes(self) -> int:
        """The most that a network takes."""
        return self.architecture.n_packed * self.dtype.itemsize

    @property
    def _keeps_all(self) -> bool:
        """Whether all networks are kept once they are packed, or are there already."""
        return self.source.connectivity is not None or self.n_parts * self._packed_bytes <= KEPT_BYTES

    def _room(self) -> NDArray[Any] | None:
        """Return room for networks that are not kept, one after the other: fresh memory costs four times the packing."""
        return None if self._keeps_all else aligned_empty(self.architecture.n_packed, self.dtype)

    @property
    def n_parts(self) -> int:
        """How many networks are mixed, in equal parts."""
        return self.n_masks

    def part(self, k: int, room: NDArray[Any] | None = None) -> Network:
        """Return network k of those that are mixed; in ``room`` it lasts until that is used again."""
        return self._network(k, room)

    def _only(self, mask: int | None) -> int | None:
        """Return the number of the only network that is asked, or None: the mixture of all."""
        if mask is None:
            return 0 if self.n_parts == 1 else None
        return arguments.mask_number(mask, self.n_masks)

    @property
    def most_members(self) -> int | None:
        """The most networks that can answer together, K; None for any number, each drawn for the question."""
        return len(self.masks) if self.rule is None or self.rule.resample == "connectivity" else None

    def member_for(self, observed: Any, *, draw: int = 0) -> Connectivity:
        """Return the connectivity that answers for rows of which these inputs are observed.

        A model trained under fresh orderings (``n_masks=None``) answers by one that has the observed inputs first, in
        random order, and then the missing ones. It is drawn by a generator whose seed is the pattern, so it is always the
        same. Any other model answers by the mask of its set that has the fewest missing inputs before the last observed one.

        Parameters
        ----------
        observed : (D,) bool
            True where an input is observed.
        draw : int
            Which of several: another connectivity, or the mask of the set that comes next (ties: the smaller number). A set
            that has no such mask raises ValueError.
        """
        mask = arguments.observed(observed, self.n_features_in)
        found = self._answering(mask, self._within(arguments.non_negative_int(draw, "draw"), "draw", 0))
        return found if isinstance(found, Connectivity) else self.masks[found]

    @by_chunk
    def score_samples(self, X: MatrixLike, *, mask: int | None = None, n_threads: int | None = None) -> NDArray[np.float64]:
        """Return ``log p(x)`` of each row, or ``log p_k(x)`` with ``mask=k``. See :meth:`Density.score_samples`."""
        table, k = self._table(X), self._only(mask)
        # A few rows are for the caller's thread: how many there are is slow to find out. Networks to pack are for all.
        few = len(table) <= BLOCK and (k is not None or self._keeps_all)
        n_threads = 1 if few and n_threads is None else arguments.n_threads(n_threads)
        if k is None:
            return self._mixture(table, n_threads)
        network = self.part(k)
        if few and (row := table.lone_row(self.binarize)) is not None and (log_p := network.score_row(row)) is not None:
            return log_p
        read = pack_rows if few else Packing
        return network.score(read(table, network.order, self.binarize), n_threads)

    def conditional_proba(self, X: MatrixLike, *, mask: int | None = None, n_threads: int | None = None) -> NDArray[Any]:
        """Return every conditional under one mask; with several, say which. See :meth:`Density.conditional_proba`."""
        table, network = self._table(X), self.member(arguments.the_mask(mask, self.n_masks))
        rows = Packing(table, network.order, self.binarize)
        return network.conditionals(rows, arguments.n_threads(n_threads), by_feature=True)

    def sample(
        self, n_samples: int = 1, random_state: Any = None, *, mask: int | None = None, n_threads: int | None = None
    ) -> NDArray[np.uint8]:
        """Draw independent rows, each under a mask drawn for it, or all under ``mask``. See :meth:`Density.sample`."""
        n = arguments.how_many(n_samples, "n_samples", max(self.n_features_in, 8))
        only = self._only(mask)
        return self._drawn(n, arguments.generator(random_state), arguments.n_threads(n_threads), only)

    def _rows(self, n: int, rng: np.random.Generator, n_threads: int, context: Bits | None = None) -> NDArray[Any]:
        return self._drawn(n, rng, n_threads, self._only(None), context)

    def _drawn(
        self, n: int, rng: np.random.Generator, n_threads: int, only: int | None, context: Bits | None = None
    ) -> NDArray[Any]:
        """Draw rows from all networks or the ``only`` one, in contexts (n, W) if there are any."""
        D, step, binary = self.n_features_in, self.architecture.chunk_rows, self.architecture.variables is None
        X = np.empty((n, D), np.uint8 if binary else np.int32)  # a number that is too large is refused at once
        if only is not None:
            rows_of = {only: np.arange(n)}
        else:
            drawn = rng.integers(self.n_parts, size=n)
            rows_of = {int(k): np.flatnonzero(drawn == k) for k in np.unique(drawn)}
        items = [(k, rows[i : i + step]) for k, rows in rows_of.items() for i in range(0, len(rows), step)]
        waiting, lock = iter(items), Lock()
        rooms: dict[int, NDArray[Any] | None] = {}

        def work(_: int, rank: int) -> None:
            with lock:  # rows and random numbers are handed out together, in order
                k, rows = next(waiting)
                uniforms = rng.random((len(rows), D))
            if rank not in rooms:
                rooms[rank] = self._room()
            member = self.part(k, rooms[rank])
            if binary:
                X[rows] = member.walk(uniforms, member.order)
            else:
                given = np.full(uniforms.shape, -1, np.int32)
                levels = member.walk_levels(given, uniforms, context=None if context is None else context[rows])[0]
                X[rows] = levels.take(member.connectivity.ordering - 1, axis=1, mode="clip")

        threads.for_each(work, len(items), n_threads)
        return X

    def to_dense(self, mask: int | Connectivity | None = None) -> dict[str, Any]:
        """Return the network under one mask as plain arrays; with several, say which. See :meth:`Density.to_dense`."""
        return self.member(arguments.the_mask(mask, self.n_masks)).dense()

    def score_parts(self, X: MatrixLike, *, n_threads: int | None = None) -> Iterator[NDArray[np.float64]]:
        """Yield the log-likelihood of each row, (n,) in nats, under the mixture of the first 1, 2, ..., K masks.

        X is read once a mask, and memory does not grow with K. The last is that of the model, but for the rounding of sums.
        """
        table = self._table(X)
        total = np.full(len(table), -np.inf)
        n_threads, room = arguments.n_threads(n_threads), self._room()
        for k in range(self.n_parts):
            network = self.part(k, room)
            total = np.logaddexp(total, network.score(Packing(table, network.order, self.binarize), n_threads))
            yield total - log(k + 1)

    def with_input(self, binarize: float | None) -> MADEModel:
        """Return a model of the same parameters and notes that takes other input: see ``binarize``."""
        source, masks, names = self.source, self.masks, self.feature_names
        return MADEModel(source, masks, rule=self.rule, binarize=binarize, hyper=self.hyper, feature_names=names)

    def _encoded(self) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
        return modelfile.encode(self._content())

    def _content(self) -> modelfile.Content:
        hyper = {**self.hyper, "binarize": self.binarize}
        return modelfile.Content(self.source, self.masks, self.rule, hyper, self.feature_names)

    def _table(self, X: MatrixLike) -> Table:
        if self.architecture.variables is not None and not isinstance(X, Coded):
            raise TypeError(
                f"X must be coded for a model of levels, got {type(X).__name__}. Ask the TableModel, which knows the columns."
            )
        return super()._table(X)

    def _answers(self, rows: Rows, options: Options) -> Answers:
        self._within(options.n_members, "n_members", 1)
        drawn = self.most_members is None
        return ModelAnswers(rows, options, self.architecture, self.dtype, self._networks_for, drawn)

    def _networks_for(self, asked: Sequence[tuple[NDArray[np.bool_], int]]) -> list[Callable[[NDArray[Any] | None], Network]]:
        found = [self._answering(observed, draw) for observed, draw in asked]
        drawn = [each for each in found if isinstance(each, Connectivity)]
        if drawn:
            return [partial(self._packed, each) for each in self.architecture.prepared(drawn)]
        return [partial(self._of_mask, k) for k in found]

    def _packed(self, prepared: Prepared, room: NDArray[Any] | None) -> Network:
        return self.source.network(prepared, room).sealed()

    def _of_mask(self, k: Any, _: NDArray[Any] | None) -> Network:
        return self.member(k)

    def _answering(self, observed: NDArray[np.bool_], draw: int) -> int | Connectivity:
        """Return the connectivity drawn for a pattern, or the number of a mask of the set."""
        if self.rule is None or self.rule.resample == "connectivity":
            last = np.where(observed, self.masks.orderings, 0).max(axis=1)  # less the observed: how many are missing before it
            return int(np.argsort(last, kind="stable")[draw])
        rng = np.random.default_rng([ORDERINGS, draw, int.from_bytes(np.packbits(observed).tobytes(), "little")])
        ordering = np.empty(len(observed), np.int32)
        ordering[np.argsort(rng.random(len(observed)) + ~observed, kind="stable")] = np.arange(1, len(observed) + 1)
        return self.rule.with_orderings(ordering[None], rng)[0]

    def _within(self, number: int, name: str, first: int) -> int:
        """Return the number of an answering network, counted from ``first``, if the model has so many."""
        most = self.most_members
        if most is not None and number > most - 1 + first:
            raise ValueError(
                f"{name} must be at most {most - 1 + first}, for the model holds {most} mask(s), "
                f"got {arguments.shown(number)}. A model trained with n_masks=None answers by as many as are asked for."
            )
        return number

    def _mixture(self, table: Table, n_threads: int) -> NDArray[np.float64]:
        """Return log p of each row, (n,) in nats; masks and blocks of rows run in parallel."""
        n, step = len(table), self.architecture.chunk_rows
        total = np.full(n, -np.inf)  # a table that is too large is refused at once
        parts = [slice(i, min(i + step, n)) for i in range(0, n, step)]
        at_once = max(1, min(MASKS_AT_ONCE, KEPT_BYTES // self._packed_bytes))
        some = at_once if self._keeps_all else min(2 * n_threads, at_once)
        rooms = [self._room() for _ in range(some)]

        def score(numbers: range) -> NDArray[np.float64]:
            networks: dict[int, Network] = {}
            log_p = np.empty((len(numbers), n))

            def pack(i: int, _: int) -> None:
                networks[i] = self.part(numbers[start + i], rooms[i])

            def work(item: int, _: int) -> None:
                i, j = divmod(item, len(parts))
                packing = Packing(table, networks[i].order, self.binarize)
                log_p[start + i, parts[j]] = networks[i].score(packing[parts[j]], 1)

            for start in range(0, len(numbers), some):
                m = min(some, len(numbers) - start)
                threads.for_each(pack, m, n_threads)
                threads.for_each(work, m * len(parts), n_threads)
            return np.logaddexp.reduce(log_p, axis=0)  # type: ignore[no-any-return]

        for first in range(0, self.n_parts, at_once):
            total = np.logaddexp(total, score(range(self.n_parts)[first : first + at_once]))
        return total - log(self.n_parts)  # of the C library of mathematics: NumPy's depends on its version and the CPU
