"""The trainer: everything that changes while a network is trained, and the mini-batch steps that change it.

One trainer makes the steps of packed parameters under their one connectivity and of parameters that masks share. No arithmetic
on weights happens here; kernels do it. Not here: the masks' turns (``turns.py``), epochs and early stopping (``run.py``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from made_fast import kernels
from made_fast.inference.latent import model_of
from made_fast.inference.model import MADEModel
from made_fast.kernels import layout as panels
from made_fast.kernels.layout import CALL_OFF, SYNC
from made_fast.kernels.optimizers import CLIP, Optimizer
from made_fast.kernels.records import Batches, Crew, Dropout, TrainScratch, Update
from made_fast.network.architecture import Architecture
from made_fast.network.masks import MaskSet
from made_fast.network.network import Parameters
from made_fast.system import threads
from made_fast.training.rows import TrainingRows, order_of
from made_fast.training.turns import Turns

__all__ = ["Pace", "Trainer"]

CALL_SECONDS = 0.04
"""Length of one call into the training kernel: between calls Ctrl-C is answered."""

SLOW_STEPS = 8
"""Steps on shared weights in one call, at least, if they take so long that Ctrl-C calls them off: only the first of a call
packs all weights anew, which takes 6 % of a step of [2000, 2000]."""

MOST_STEPS = 10_000
"""Most steps in one call."""

SLOW = 300_000_000
"""Rows times weights of a step that takes more than about 10 ms on one thread."""

AVERAGED_AT_ONCE = 1 << 15
"""Parameters that are averaged at once: what is on the way stays in the cache."""

CHECKED = 16
"""Most rows that are scored to see whether the last update of an epoch has led to infinite losses."""

UPDATE_ROWS = 50
"""An update, which reads and writes a weight and its state once, takes the time of so many rows."""


class Pace(NamedTuple):
    """How steps on some rows are made.

    Attributes
    ----------
    n_ranks : int
        Threads that share a step.
    slow : bool
        Whether a step takes so long that Ctrl-C should not wait for its end.
    scratch : TrainScratch
    """

    n_ranks: int
    slow: bool
    scratch: TrainScratch


@dataclass
class Trainer:
    """Everything that changes while a network is trained; enough to continue from where it stopped.

    Attributes
    ----------
    parameters : Parameters
        Their vector is updated in place.
    masks : MaskSet
        The connectivities that the network is trained and evaluated under.
    optimizer, constants
        How parameters are updated, and ``[lr, a, b, eps, decay, clip]``, see ``kernels/optimizers.py``.
    shuffle : Generator
        Draws the order of the rows of every epoch.
    turns : Turns or None
        The mask of each mini-batch; None for parameters of one connectivity.
    dropout : float
        Probability that a hidden unit is dropped.
    noise : Generator
        Draws which units are dropped.
    averaging : float
        What is left of the average when an epoch's parameters are added to it; 0: there is no average.
    average : (n,) or None
        The average of the parameters after each epoch so far.
    state : (n_state, n)
        The optimizer's memory.
    step : int
        Updates made.
    """

    parameters: Parameters
    masks: MaskSet
    optimizer: Optimizer
    constants: NDArray[np.float64]
    shuffle: np.random.Generator
    turns: Turns | None
    dropout: float
    noise: np.random.Generator
    averaging: float = 0.0
    average: NDArray[Any] | None = None
    state: NDArray[Any] = field(init=False)
    step: int = field(default=0, init=False)
    _steps_per_call: int = field(default=1, init=False, repr=False)

    def __post_init__(self) -> None:
        n, n_state = len(self.parameters.vector), self.optimizer.n_state
        self.state = panels.aligned_zeros(n_state * n, self.parameters.dtype).reshape(n_state, n)

    @property
    def architecture(self) -> Architecture:
        """That of the network."""
        return self.parameters.architecture

    @property
    def scored(self) -> Parameters:
        """The parameters that are validated and kept: the average, if there is one."""
        return self.parameters if self.average is None else self.parameters.with_vector(self.average)

    def average_in(self, epoch: int) -> None:
        """Add the present parameters to the average, which is that of all epochs while these are few."""
        if not self.averaging:
            return
        vector, dtype = self.parameters.vector, self.parameters.dtype.type
        if self.average is None:
            self.average = panels.aligned_copy(vector)
        kept = min(self.averaging, 1 - 1 / epoch)
        room = np.empty((2, min(AVERAGED_AT_ONCE, len(vector))), vector.dtype)
        for start in range(0, len(vector), AVERAGED_AT_ONCE):  # Ctrl-C is answered in between, and leaves no part half done
            mean, present = (whole[start : start + AVERAGED_AT_ONCE] for whole in (self.average, vector))
            old, new = room[:, : len(present)]
            np.multiply(mean, dtype(kept), out=old)
            np.multiply(present, dtype(1 - kept), out=new)
            np.add(old, new, out=mean)

    def model(self, vector: NDArray[Any] | None = None, n_masks: int | None = None, **options: Any) -> MADEModel:
        """Return the model of these parameters, by default those to keep, which it holds read-only, not as a copy.

        ``n_masks``: only of the first so many masks.
        """
        parameters = self.scored if vector is None else self.parameters.with_vector(vector)
        masks = self.masks if n_masks is None else self.masks.first(n_masks)
        return model_of(parameters, masks, None if self.turns is None else self.turns.rule, **options)

    def detach(self) -> NDArray[Any]:
        """Continue with a copy of the parameters, and return the old ones, which no longer change."""
        old = self.parameters.vector
        self.parameters = self.parameters.with_vector(panels.aligned_copy(old))
        if self.average is not None:
            self.average = panels.aligned_copy(self.average)
        return old

    def own(self) -> None:
        """Copy arrays that a step cannot write to: joblib maps large ones into its workers read-only, others lie askew."""
        if not (self.state.flags.writeable and self.state.flags.aligned):
            self.state = panels.aligned_copy(self.state.reshape(-1)).reshape(self.state.shape)
        if not (self.constants.flags.writeable and self.constants.flags.aligned):
            self.constants = self.constants.copy()
        average = self.parameters.vector if self.average is None else self.average
        if not (self.parameters.vector.flags.writeable and average.flags.writeable and average.flags.aligned):
            self.detach()

    def go_back(self, vector: NDArray[Any]) -> None:
        """Take these parameters and clear the optimizer's memory."""
        panels.copy_into(self.parameters.vector, vector)
        if self.average is not None:
            panels.copy_into(self.average, vector)
        self.state[:] = 0
        self.step = 0

    def epoch(self, rows: TrainingRows, batch_size: int, n_threads: int) -> float:
        """Make one pass over the rows in a new random order; return the mean NLL of the rows, each before its update.

        Raises FloatingPointError if the loss is not finite, also after the last update.
        """
        n, batch_size = len(rows.bits), min(batch_size, len(rows.bits))
        order = order_of(n, self.shuffle)
        pace = self.pace(rows, batch_size, n_threads)
        slow = pace.slow
        losses = np.empty(-(-n // batch_size))  # summed at the end: how steps are cut into calls is a matter of time
        done = 0
        while done < n:
            ahead = min(self._steps_per_call, MOST_STEPS)
            if self.turns is not None:
                ahead = self.turns.steps_ahead(self.step, rows, batch_size, ahead)
            part = order[done : done + ahead * batch_size]
            nll = losses[done // batch_size :][: -(-len(part) // batch_size)]
            begin = time.perf_counter()
            batches = Batches(rows.bits, rows.weights, part, batch_size)
            threads.run(*self.call(batches, rows, pace, nll, self.update(), self.noise), aside=slow)
            seconds = time.perf_counter() - begin
            slow = slow or seconds > len(nll) * CALL_SECONDS
            if not np.isfinite(nll).all():
                bad = int(np.flatnonzero(~np.isfinite(nll))[0])
                raise FloatingPointError(f"the loss became {nll[bad]} at step {self.step + bad + 1}")
            self.step += len(nll)
            done += len(part)
            fitting = len(nll) * CALL_SECONDS / max(seconds, 1e-6)
            least = SLOW_STEPS if slow and self.turns is not None and kernels.implementation == "native" else 1
            self._steps_per_call = int(min(max(fitting, least), 2 * self._steps_per_call, MOST_STEPS))
        self.check_last_update(rows, batch_size)
        return float(losses.sum()) / n

    def pace(self, rows: TrainingRows, batch_size: int, n_threads: int) -> Pace:
        """Return how steps on so many of the rows are best made."""
        n_ranks, slow = self._ranks(batch_size, n_threads), self._is_slow(rows, batch_size)
        gradient = rows.missing is not None or self.constants[CLIP] > 0  # the clipped one, or the sum over groups of a step
        return Pace(n_ranks, slow, self.parameters.train_scratch(batch_size, n_ranks, gradient=bool(gradient)))

    def update(self) -> Update:
        """Return the next update of the parameters."""
        return Update(self.optimizer.code, self.step, self.constants, self.state)

    def call(
        self,
        batches: Batches,
        rows: TrainingRows,
        pace: Pace,
        nll: NDArray[np.float64],
        update: Update,
        noise: np.random.Generator,
    ) -> tuple[Callable[[int], None], int, Callable[[], None]]:
        """Return the next call into the kernel, steps on these mini-batches, as arguments of ``threads.run``.

        ``noise`` draws which hidden units are kept.
        """
        scratch, n_ranks = pace.scratch, pace.n_ranks
        turn = None
        if self.turns is not None:
            part, turn = self.turns.take(self.step, rows, batches.rows, batches.batch_size)
            batches = batches._replace(rows=part)
        kernel, dropout = self.parameters.training(batches, turn), Dropout(self._keep(len(batches.rows), noise), self.dropout)
        sync = panels.aligned_zeros(SYNC, np.int32)

        def work(rank: int) -> None:
            kernel(dropout, update, scratch, nll, Crew(rank, n_ranks, sync))

        def call_off() -> None:
            sync[CALL_OFF] = 1

        return work, n_ranks, call_off

    def _keep(self, n_rows: int, noise: np.random.Generator) -> NDArray[np.uint64]:
        """Draw which hidden units are kept, (n_rows, words) uint64; of length 0 without dropout.

        A unit is kept where a float32 from 0 to 1 would be at least its probability, of which it takes only the bits: two
        at a draw, in two thirds of the time, with the same result as ``noise.random(dtype=np.float32)``.
        """
        words = sum(panels.n_panels(size) for size in self.architecture.hidden_sizes)
        if not self.dropout or not words:
            return np.empty((0, max(words, 1)), np.uint64)
        drawn = noise.integers(2**64 - 1, size=(n_rows, words * panels.PANEL // 2), dtype=np.uint64, endpoint=True)
        least = math.ceil(float(np.float32(self.dropout)) * 2**24) << 8  # such a float is the upper 24 bits of 32
        kept = drawn.astype("<u8", copy=False).view("<u4") >= least
        return np.packbits(kept, axis=1, bitorder="little").view("<u8").astype(np.uint64, copy=False)

    def check_last_update(self, rows: TrainingRows, batch_size: int) -> None:
        """Check the loss of some rows under the last parameters, under which no step of this epoch computed one.

        Raises FloatingPointError if it is not finite. Parameters so small that no arithmetic on them overflows need no rows.
        """
        vector = self.parameters.vector
        if not self.architecture.may_overflow(vector):
            return
        log_p = self.parameters.network(self.masks[0]).score(rows.bits[: min(batch_size, CHECKED)], 1)
        for what, value in (("the loss", -log_p.min()), ("a parameter", vector.max()), ("a parameter", vector.min())):
            if not np.isfinite(value):
                raise FloatingPointError(f"{what} became {value} with the update of step {self.step}")

    def _ranks(self, batch_size: int, n_threads: int) -> int:
        """Return how many threads share a step: so few that the work of each outweighs two barriers."""
        if kernels.implementation != "native":
            return 1  # the other implementations have no barrier
        multiply_adds = 3 * batch_size * self.parameters.n_points * self.architecture.n_packed // 2
        return max(1, min(n_threads, batch_size, multiply_adds // 1_000_000))

    def _is_slow(self, rows: TrainingRows, batch_size: int) -> bool:
        """Say whether a step may take so long that Ctrl-C should not wait for its end; later calls are measured."""
        n_rows = self.parameters.n_points * (batch_size if rows.missing is None else 10 * batch_size)  # a network of its own
        return (n_rows + UPDATE_ROWS) * self.architecture.n_packed > SLOW
