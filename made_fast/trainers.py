"""Trainers: everything that changes while a network is trained, and the mini-batch steps that change it.

Two trainers make the same steps. :class:`FixedTrainer` holds the packed parameters of its one connectivity and updates them in
the panels. :class:`SharedTrainer` holds parameters that all connectivities share; each step packs them for the connectivity
whose turn it is. It can do whatever there is; the fixed one is faster. No arithmetic on weights happens here; kernels do it.

Not here: initial parameters, epochs, early stopping (``training.py``).
"""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from made_fast import data, kernels, threads
from made_fast.kernels import layout as panels
from made_fast.kernels import records
from made_fast.kernels.layout import CALL_OFF
from made_fast.kernels.optimizers import Optimizer
from made_fast.kernels.records import Batches, Crew, Dropout, Masks, Net, TrainScratch, Update
from made_fast.masks import MaskRule, MaskSet
from made_fast.network import SPARSE_BELOW, Architecture, Network, Shared, scratch

__all__ = ["FixedTrainer", "SharedTrainer", "Trainer", "TrainingRows"]

CALL_SECONDS = 0.04
"""Length of one call into the training kernel: between calls Ctrl-C is answered."""

SLOW = 300_000_000
"""Rows times weights of a step that takes more than some 10 ms on one thread."""

UPDATE_ROWS = 50
"""As many rows as take the time of an update, which reads and writes a weight and its state once."""

POOL = 32
"""Fresh connectivities are drawn so many at a time: a draw costs a third of what it costs alone."""

GROUPS_AT_ONCE = 256
"""Most groups of rows with a connectivity of their own in one call, where rows have missing entries."""


class TrainingRows(NamedTuple):
    """Rows to train on, packed in the trainer's order of columns.

    Attributes
    ----------
    bits : (n, W) uint64
    missing : (n, W) uint64 or None
        Where an entry is missing; its bit in ``bits`` is 0.
    weights : (n,) float64, or (0,)
        What each row counts in the loss; none is 1 for all.
    """

    bits: NDArray[np.uint64]
    missing: NDArray[np.uint64] | None
    weights: NDArray[np.float64]

    def take(self, rows: NDArray[np.intp]) -> TrainingRows:
        """Return some of the rows."""
        missing = None if self.missing is None else self.missing[rows]
        return TrainingRows(self.bits[rows], missing, self.weights[rows] if len(self.weights) else self.weights)


Train: TypeAlias = Callable[..., None]
"""A training kernel that lacks only scratch, ``nll`` and the crew."""


@dataclass
class Trainer(ABC):
    """Everything that changes while a network is trained; enough to go on from where it stopped.

    Attributes
    ----------
    architecture, masks
        The network, and the connectivities it is trained and evaluated under.
    parameters : (n,)
        Updated in place: theta of the one connectivity, or the shared parameters.
    optimizer, hyper
        The rule and ``[lr, a, b, eps, decay, clip]``, see ``kernels/optimizers.py``.
    state : (n_state, n)
        The rule's memory.
    shuffle : Generator
        Draws the order of the rows of every epoch.
    step : int
        Updates made.
    """

    _MADE_AGAIN: ClassVar[tuple[str, ...]] = ()

    architecture: Architecture
    masks: MaskSet
    parameters: NDArray[Any]
    optimizer: Optimizer
    hyper: NDArray[np.float64]
    shuffle: np.random.Generator
    state: NDArray[Any] = field(init=False)
    step: int = field(default=0, init=False)
    _steps_per_call: int = field(default=1, init=False, repr=False)

    def __post_init__(self) -> None:
        n, n_state = len(self.parameters), self.optimizer.n_state
        self.state = panels.aligned_zeros(n_state * n, self.parameters.dtype).reshape(n_state, n)
        self._begin()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in self._MADE_AGAIN}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin()

    @abstractmethod
    def _begin(self) -> None:
        """Set the attributes ``_MADE_AGAIN``: they follow from the others or from the rows, and are not pickled."""

    @property
    @abstractmethod
    def column_order(self) -> NDArray[np.intp]:
        """Order of the columns in which rows are packed."""

    @abstractmethod
    def source(self, parameters: NDArray[Any]) -> Network | Shared:
        """Return what a model is made of, with these parameters; nobody can change them through it."""

    def detach(self) -> NDArray[Any]:
        """Go on with a copy of the parameters, and return the old ones: who has those keeps them as they are."""
        left, self.parameters = self.parameters, panels.aligned_copy(self.parameters)
        return left

    def own(self) -> None:
        """Take copies of what a step writes to, where it is read-only: joblib maps large arrays into its workers so."""
        if not self.state.flags.writeable:
            self.state = panels.aligned_copy(self.state.reshape(-1)).reshape(self.state.shape)
        if not self.hyper.flags.writeable:
            self.hyper = self.hyper.copy()
        if not self.parameters.flags.writeable:
            self.detach()

    def go_back(self, parameters: NDArray[Any]) -> None:
        """Take these parameters and begin anew from them: the optimiser forgets what it remembers."""
        panels.copy_into(self.parameters, parameters)
        self.state[:] = 0
        self.step = 0

    @abstractmethod
    def _scratch(self, batch_size: int, n_ranks: int) -> TrainScratch:
        """Return the workspace of an epoch."""

    @abstractmethod
    def _kernel(self, rows: TrainingRows, part: NDArray[np.int64], batch_size: int, sparse: bool) -> Train:
        """Return what makes the steps on the rows ``part``."""

    def _update(self) -> Update:
        """Return the optimiser as it is at this step."""
        return Update(self.optimizer.code, self.step, self.hyper, self.state)

    def _steps_ahead(self, batch_size: int) -> int:
        """Return the most steps that the next call may make."""
        return 10_000

    def epoch(self, rows: TrainingRows, batch_size: int, n_threads: int) -> float:
        """Make one pass over the rows in a new random order; return the mean NLL of a row as the pass met it.

        Raises FloatingPointError when the loss is no longer finite, or would not be after the last update.
        """
        n, batch_size = len(rows.bits), min(batch_size, len(rows.bits))
        order = self.shuffle.permutation(n)
        sparse = data.density(rows.bits, self.architecture.n_inputs) < SPARSE_BELOW
        n_ranks, slow = self._ranks(batch_size, n_threads), self._is_slow(batch_size)
        workspace = self._scratch(batch_size, n_ranks)
        losses = np.empty(-(-n // batch_size))  # summed at the end: how steps are cut into calls is a matter of time
        done = 0
        while done < n:
            n_steps = min(self._steps_per_call, self._steps_ahead(batch_size))
            part = order[done : done + n_steps * batch_size]
            nll = losses[done // batch_size :][: -(-len(part) // batch_size)]
            begin = time.perf_counter()
            train = self._kernel(rows, part, batch_size, sparse)
            sync = panels.aligned_zeros(panels.SYNC, np.int32)

            def work(rank: int, train: Train = train, sync: Any = sync, nll: Any = nll) -> None:
                train(workspace, nll, Crew(rank, n_ranks, sync))

            def call_off(sync: Any = sync) -> None:
                sync[CALL_OFF] = 1

            threads.run(work, n_ranks, call_off, aside=slow)
            seconds = time.perf_counter() - begin
            slow = slow or seconds > len(nll) * CALL_SECONDS
            if not np.isfinite(nll).all():
                bad = int(np.flatnonzero(~np.isfinite(nll))[0])
                raise FloatingPointError(f"the loss became {nll[bad]} at step {self.step + bad + 1}")
            self.step += len(nll)
            done += len(part)
            fitting = len(nll) * CALL_SECONDS / max(seconds, 1e-6)
            self._steps_per_call = int(min(max(fitting, 1), 2 * self._steps_per_call, 10_000))
        self._check_last_update(rows, batch_size)
        return float(losses.sum()) / n

    def _check_last_update(self, rows: TrainingRows, batch_size: int) -> None:
        """Look at some rows' loss under the parameters as they are; no step of this epoch has met those."""
        source = self.source(self.parameters)
        network = source if isinstance(source, Network) else source.network(self.masks[0])
        log_p = network.score_bits(rows.bits[:batch_size], 1)
        for what, value in (
            ("the loss", -log_p.min()), ("a parameter", self.parameters.max()), ("a parameter", self.parameters.min())
        ):  # fmt: skip
            if not np.isfinite(value):
                raise FloatingPointError(f"{what} became {value} with the update of step {self.step}")

    def _ranks(self, batch_size: int, n_threads: int) -> int:
        """Return how many threads share a step: few enough that each has work for well over the cost of two barriers."""
        if kernels.implementation != "native":
            return 1  # the other implementations have no barrier
        multiply_adds = 3 * batch_size * self.architecture.n_packed // 2
        return max(1, min(n_threads, batch_size, multiply_adds // 1_000_000))

    def _is_slow(self, batch_size: int) -> bool:
        """Say whether a step may take so long that Ctrl-C should not wait for its end; later on it is measured."""
        return (batch_size + UPDATE_ROWS) * self.architecture.n_packed > SLOW


@dataclass
class FixedTrainer(Trainer):
    """Trains the packed parameters of one connectivity."""

    _MADE_AGAIN: ClassVar = ("_network",)

    def _begin(self) -> None:
        self._network = Network(self.architecture, self.masks[0], self.parameters)

    def detach(self) -> NDArray[Any]:
        """See :meth:`Trainer.detach`."""
        left = super().detach()
        self._network = self.source(self.parameters)
        return left

    @property
    def column_order(self) -> NDArray[np.intp]:
        """Order of place."""
        return self._network.order

    def source(self, parameters: NDArray[Any]) -> Network:
        """Return the network with these parameters."""
        same = self._network
        return Network(self.architecture, same.connectivity, parameters, same.staircase, same.layout).sealed()

    def _scratch(self, batch_size: int, n_ranks: int) -> TrainScratch:
        none = np.empty(0, self.parameters.dtype)
        room = scratch(*panels.train_workspace(self._network.layout, batch_size), self.parameters.dtype)
        return TrainScratch(none, none, none, *room)

    def _kernel(self, rows: TrainingRows, part: NDArray[np.int64], batch_size: int, sparse: bool) -> Train:
        return partial(
            kernels.active.train,
            Net(self.parameters, *self._network.layout),
            Batches(rows.bits, rows.weights, part, batch_size, sparse),
            Dropout(np.empty((0, 1), np.uint64), 0.0),
            self._update(),
        )


@dataclass
class SharedTrainer(Trainer):
    """Trains parameters that connectivities share, each step under the next one.

    Attributes
    ----------
    rule : MaskRule or None
        None: the masks of ``masks`` take turns. Otherwise every step draws a fresh connectivity by it.
    fresh : Generator
        Draws those.
    noise : Generator
        Draws which units dropout drops.
    dropout : float
        Probability that a hidden unit is dropped.
    """

    _MADE_AGAIN: ClassVar = ("_shared", "_turns", "_tables", "_missing", "_patterns")

    rule: MaskRule | None
    fresh: np.random.Generator
    noise: np.random.Generator
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.pool_start: Any = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self.pool_start is not None and self.step % POOL:  # amid a pool, which is then drawn again
            self.fresh = copy.deepcopy(self.fresh)  # a shallow copy of the trainer has the trainer's own
            self.fresh.bit_generator.state = self.pool_start

    def _begin(self) -> None:
        self._shared = self.source(self.parameters)
        self._turns = self.masks if self.rule is None else None
        self._tables: tuple[NDArray[np.int32], panels.Layout] | None = None
        self._missing: NDArray[np.uint64] | None = None
        self._patterns: tuple[Any, Any] = (None, None)

    def detach(self) -> NDArray[Any]:
        """See :meth:`Trainer.detach`."""
        left = super().detach()
        self._shared = self.source(self.parameters)
        return left

    @property
    def column_order(self) -> NDArray[np.intp]:
        """The order of the features: that of the places changes from step to step."""
        return np.arange(self.architecture.n_inputs)

    def source(self, parameters: NDArray[Any]) -> Shared:
        """Return the parameters as what a model is made of."""
        return Shared(self.architecture, parameters).sealed()

    def epoch(self, rows: TrainingRows, batch_size: int, n_threads: int) -> float:
        """See :meth:`Trainer.epoch`. Rows with missing entries are trained under orderings that have those last."""
        if rows.missing is not None and rows.missing is not self._missing:
            self._patterns = data.distinct_rows(rows.missing)
        self._missing = rows.missing
        return super().epoch(rows, batch_size, n_threads)

    def draw_pool(self) -> None:
        """Draw the connectivities of the next steps, from the state of ``fresh`` that ``pool_start`` keeps."""
        assert self.rule is not None
        self.pool_start = self.fresh.bit_generator.state
        self._turns = self.rule.draw(POOL, self.fresh)
        self._tables = None

    def _steps_ahead(self, batch_size: int) -> int:
        most = POOL - self.step % POOL if self.rule is not None else super()._steps_ahead(batch_size)
        return most if self._missing is None else max(1, min(most, GROUPS_AT_ONCE // batch_size))

    def _is_slow(self, batch_size: int) -> bool:
        """See :meth:`Trainer._is_slow`. Rows that miss something may need a network each, packed and unpacked."""
        return super()._is_slow(batch_size if self._missing is None else 10 * batch_size)

    def _needs_gradient(self) -> bool:
        """Say whether a step needs its whole gradient before the update."""
        return self._missing is not None or self.hyper[5] > 0

    def _scratch(self, batch_size: int, n_ranks: int) -> TrainScratch:
        dtype, n = self.parameters.dtype, self.architecture.n_packed
        return TrainScratch(
            panels.aligned_empty(len(self.parameters) if self._needs_gradient() else 0, dtype),
            panels.aligned_empty(n, dtype),
            panels.aligned_zeros(n, dtype),
            *scratch(*self.architecture.shared_train_workspace(batch_size, n_ranks), dtype),
        )

    def _kernel(self, rows: TrainingRows, part: NDArray[np.int64], batch_size: int, sparse: bool) -> Train:
        if self.rule is not None and (self._turns is None or self.step % POOL == 0):
            self.draw_pool()
        assert self._turns is not None
        if self._missing is None:
            groups = _groups(len(part), batch_size, self.step, len(self._turns), self.architecture.n_inputs)
            if self._tables is None:
                self._tables = self._shared.tables(self._turns)
            orders, layouts = self._tables
        else:
            part, groups, masks = _pattern_groups(part, batch_size, self.step, self._turns, *self._patterns)
            orders, layouts = self._shared.tables(masks)
        return partial(
            kernels.active.train_shared,
            records.Shared(self.parameters, self.architecture.shared_layout),
            Masks(orders, *layouts),
            Batches(rows.bits, rows.weights, part, batch_size, sparse),
            groups,
            Dropout(self._keep(len(part)), self.dropout),
            self._update(),
        )

    def _keep(self, n_rows: int) -> NDArray[np.uint64]:
        """Draw which hidden units are kept, (n_rows, words) uint64; of length 0 without dropout."""
        words = sum(panels.n_panels(size) for size in self.architecture.hidden_sizes)
        if not self.dropout or not words:
            return np.empty((0, max(words, 1)), np.uint64)
        kept = self.noise.random((n_rows, words * panels.PANEL), dtype=np.float32) >= np.float32(self.dropout)
        return np.packbits(kept, axis=1, bitorder="little").view("<u8").astype(np.uint64, copy=False)


def _groups(n_rows: int, batch_size: int, step: int, n_masks: int, n_inputs: int) -> NDArray[np.int64]:
    """Return the table of groups of ``train_shared``: one a step, the masks in turn."""
    first = np.arange(0, n_rows, batch_size)
    stop = np.minimum(first + batch_size, n_rows)
    steps = np.arange(len(first))
    columns = first, stop, (step + steps) % n_masks, np.full(len(first), n_inputs), steps, stop - first
    return np.stack(columns, axis=1).astype(np.int64)


def _pattern_groups(
    rows: NDArray[np.int64],
    batch_size: int,
    step: int,
    turns: MaskSet,
    patterns: NDArray[np.uint64],
    of_row: NDArray[np.intp],
) -> tuple[NDArray[np.int64], NDArray[np.int64], MaskSet]:
    """Cut every step into groups of rows that miss the same inputs; return rows in order, groups, and a mask for each group.

    The mask is that of the step, but the missing inputs have gone to the end of the ordering: what is there is seen only by
    what is there, and only that counts in the loss.
    """
    ordered, chosen = [], []
    table: list[tuple[int, ...]] = []
    done = 0
    for i, start in enumerate(range(0, len(rows), batch_size)):
        batch = rows[start : start + batch_size]
        batch = batch[np.argsort(of_row[batch], kind="stable")]
        found, counts = np.unique(of_row[batch], return_counts=True)
        for pattern, count in zip(found, counts, strict=True):
            table.append((done, done + count, len(table), i, len(batch)))
            chosen.append(((step + i) % len(turns), pattern))
            done += count
        ordered.append(batch)
    masks, which = np.array(chosen).T
    places = turns.orderings[masks]
    D = places.shape[1]
    gone = data.unpack_rows(patterns[which], D)
    groups = np.insert(np.array(table, np.int64), 3, D - gone.sum(axis=1), axis=1)
    late = places + D * gone.astype(np.int32)
    orderings = np.argsort(np.argsort(late, axis=1), axis=1).astype(np.int32) + np.int32(1)
    degrees = tuple(m[masks] for m in turns.degrees)
    return np.concatenate(ordered), groups, MaskSet(orderings, degrees)
