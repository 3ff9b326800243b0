"""Training by mini-batches: initial parameters, epochs, early stopping. No arithmetic on weights happens here; kernels do it.

Not here: what the user typed (``estimator.py``), the finished model (``model.py``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from made_fast import data, kernels, threads
from made_fast.kernels import layout as panels
from made_fast.kernels.optimizers import OPTIMIZERS, Optimizer
from made_fast.masks import Connectivity, draw_connectivity
from made_fast.model import SPARSE_BELOW, score_bits

__all__ = ["WEIGHT_INITS", "EpochRecord", "Trainer", "fit", "run_epoch"]

WEIGHT_INITS = ("glorot_uniform", "glorot_normal", "zeros")

CALL_OFF = 48
"""Where in ``sync`` the kernel ``train`` looks, while it waits for other ranks, whether to give up."""

CALL_SECONDS = 0.04
"""Length of one call into the training kernel: between calls Ctrl-C is answered."""


class EpochRecord(TypedDict):
    """What ``history_`` tells of one epoch; NLL is the mean negative log-likelihood of a row in nats.

    ``train_nll`` is the mean over the epoch's mini-batches, each scored before its update; ``seconds`` are those of training,
    without validation.
    """

    epoch: int
    train_nll: float
    validation_nll: float | None
    seconds: float
    rows_per_second: float


@dataclass
class Trainer:
    """Everything that changes while a network is trained; enough to go on from where it stopped.

    Attributes
    ----------
    connectivity, activation, layout
        Which weights exist, between what, and where they stand.
    theta : (n,)
        Parameters, updated in place.
    optimizer, hyper
        The rule and ``[lr, a, b, eps]``, see ``kernels/optimizers.py``.
    state : (n_state, n)
        The rule's memory.
    step : int
        Updates made.
    shuffle : Generator
        Draws the order of the rows of every epoch.
    """

    connectivity: Connectivity
    activation: str
    layout: panels.Layout
    theta: NDArray[Any]
    optimizer: Optimizer
    hyper: NDArray[np.float64]
    state: NDArray[Any]
    shuffle: np.random.Generator
    step: int = 0
    _steps_per_call: int = field(default=8, repr=False)

    @classmethod
    def start(
        cls,
        n_inputs: int,
        *,
        hidden_sizes: tuple[int, ...],
        activation: str,
        ordering: Any,
        degrees: str,
        optimizer: str,
        learning_rate: float,
        weight_init: str,
        dtype: np.dtype[Any],
        rng: np.random.Generator,
    ) -> Trainer:
        """Draw a connectivity and initial parameters; connectivity, weights and shuffling each get a stream of their own."""
        for_connectivity, for_weights, for_shuffling = rng.spawn(3)
        connectivity = draw_connectivity(n_inputs, hidden_sizes, ordering, degrees, for_connectivity)
        layout = panels.make_layout(n_inputs, connectivity.staircase().n_live, activation)
        theta = initial_parameters(layout, weight_init, dtype, for_weights)
        rule = OPTIMIZERS[optimizer]
        hyper = np.array([learning_rate, *rule.hyper[1:]])
        state = panels.aligned_zeros(rule.n_state * len(theta), dtype).reshape(rule.n_state, len(theta))
        return cls(connectivity, activation, layout, theta, rule, hyper, state, for_shuffling)

    def epoch(self, bits: NDArray[np.uint64], batch_size: int, n_threads: int) -> float:
        """Make one pass over the rows in a new random order; return the mean NLL of a row as the pass met it.

        bits (n, W) are in order of place. Raises FloatingPointError when the loss is no longer finite.
        """
        n, n_inputs = len(bits), self.connectivity.n_inputs
        batch_size = min(batch_size, n)
        rows = self.shuffle.permutation(n)
        sparse = data.density(bits, n_inputs) < SPARSE_BELOW
        reals, ints = panels.train_workspace(self.layout, batch_size)
        scratch = panels.aligned_empty(reals, self.theta.dtype), panels.aligned_empty(ints, np.int32)
        n_ranks = _ranks(self.layout, batch_size, n_threads)
        total, done = 0.0, 0
        while done < n:
            part = rows[done : done + self._steps_per_call * batch_size]
            nll = np.empty(-(-len(part) // batch_size))
            sync = panels.aligned_zeros(64, np.int32)
            begin = time.perf_counter()

            def work(rank: int, part: Any = part, nll: Any = nll, sync: Any = sync) -> None:
                kernels.active.train(
                    self.theta, *self.layout, bits, part, batch_size, sparse, self.optimizer.code, self.step, self.hyper,
                    self.state, *scratch, nll, rank, n_ranks, sync,
                )  # fmt: skip

            def call_off(sync: Any = sync) -> None:
                sync[CALL_OFF] = 1

            threads.run(work, n_ranks, call_off)
            seconds = time.perf_counter() - begin
            if not np.isfinite(nll).all():
                bad = int(np.flatnonzero(~np.isfinite(nll))[0])
                raise FloatingPointError(
                    f"the loss became {nll[bad]} at step {self.step + bad + 1}. Try a smaller learning_rate "
                    f"(now {self.hyper[0]:g}) or dtype='float64'."
                )
            self.step += len(nll)
            done += len(part)
            total += nll.sum()
            fitting = self._steps_per_call * CALL_SECONDS / max(seconds, 1e-6)
            self._steps_per_call = int(min(max(fitting, 1), 2 * self._steps_per_call, 10_000))
        return float(total) / n


def initial_parameters(
    layout: panels.Layout, weight_init: str, dtype: np.dtype[Any], rng: np.random.Generator
) -> NDArray[Any]:
    """Return theta with random weights and zero biases.

    ``"glorot_uniform"``: U(-r, r) with r = sqrt(6 / (n_in + n_out)); ``"glorot_normal"``: N(0, 2 / (n_in + n_out)), with the
    sizes of the full layers (Glorot and Bengio 2010); ``"zeros"``.
    """
    theta = panels.aligned_zeros(panels.n_parameters(layout), dtype)
    if weight_init == "zeros":
        return theta
    for l, (n_in, n_out, _, start, stop, *_others) in enumerate(layout.layers):
        if weight_init == "glorot_uniform":
            limit = np.sqrt(6.0 / (n_in + n_out))
            theta[start:stop] = (2 * rng.random(stop - start, dtype=dtype) - 1) * dtype.type(limit)
        else:
            theta[start:stop] = rng.standard_normal(stop - start, dtype=dtype) * dtype.type(np.sqrt(2.0 / (n_in + n_out)))
        for part, dead in panels.dead_entries(theta, layout, l):
            part[dead] = 0
    return theta


def run_epoch(trainer: Trainer, bits: NDArray[np.uint64], batch_size: int, n_threads: int, number: int) -> EpochRecord:
    """Make one pass over the rows and tell of it as epoch ``number``."""
    begin = time.perf_counter()
    train_nll = trainer.epoch(bits, batch_size, n_threads)
    seconds = time.perf_counter() - begin
    return EpochRecord(
        epoch=number,
        train_nll=train_nll,
        validation_nll=None,
        seconds=seconds,
        rows_per_second=len(bits) / seconds,
    )


def fit(
    trainer: Trainer,
    bits: NDArray[np.uint64],
    bits_validation: NDArray[np.uint64] | None,
    *,
    batch_size: int,
    max_epochs: int,
    patience: int,
    n_threads: int,
    on_epoch: Callable[[EpochRecord, int], None],
) -> None:
    """Train for ``max_epochs``, or with validation rows until ``patience`` epochs have brought no better one.

    At the end, and also after an error or Ctrl-C, ``trainer.theta`` holds the best parameters seen on the validation rows
    (without them: the last). ``on_epoch(record, best_epoch)`` is told of every epoch.
    """
    best, best_epoch, best_theta = np.inf, 0, None
    try:
        for number in range(1, max_epochs + 1):
            record = run_epoch(trainer, bits, batch_size, n_threads, number)
            if bits_validation is None:
                best_epoch = number
            else:
                nll = float(-score_bits(trainer.theta, trainer.layout, bits_validation, n_threads).mean())
                record["validation_nll"] = nll
                if nll < best:
                    best, best_epoch = nll, number
                    if best_theta is None:
                        best_theta = panels.aligned_empty(len(trainer.theta), trainer.theta.dtype)
                    best_theta[:] = trainer.theta
            on_epoch(record, best_epoch)
            if number - best_epoch >= patience:
                break
    finally:
        if best_theta is not None:
            trainer.theta[:] = best_theta


def _ranks(layout: panels.Layout, batch_size: int, n_threads: int) -> int:
    """Return how many threads share a step: few enough that each has work for well over the cost of two barriers."""
    if kernels.implementation != "native":
        return 1  # the other implementations have no barrier
    multiply_adds = 3 * batch_size * panels.n_parameters(layout)
    return max(1, min(n_threads, batch_size, multiply_adds // 1_000_000))
