"""What NADE, EoNADE and DARN share: their hyper-parameters, the loop of their training.

Not here: kernels (``panels.py``), early stopping and Adam (``common.py``), which other baselines use too.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.baselines.common import Adam, Baseline, Floats, Rows, batches, early_stopping
from bench.baselines.panels import Real
from made_fast import arguments, threads

__all__ = ["Trained", "in_halves", "log_odds"]


class Trained(Baseline):
    """A baseline whose parameters are one vector, ``theta_``, trained by Adam on mini-batches.

    Parameters
    ----------
    learning_rate, batch_size, max_epochs, patience, random_state, n_threads, dtype
        As of ``MADE``. The bits do not depend on ``n_threads``.
    learning_rate_schedule : {"constant", "linear"}
        Linear falls to nearly 0 in ``max_epochs``.
    verbose : int
        1 writes a line an epoch to stderr.
    """

    theta_: Real

    def __init__(
        self,
        *,
        learning_rate: float = 1e-3,
        learning_rate_schedule: str = "constant",
        batch_size: int = 100,
        max_epochs: int = 500,
        patience: int = 30,
        random_state: Any = None,
        n_threads: int | None = None,
        dtype: Any = "float32",
        verbose: int = 0,
    ) -> None:
        schedules = ("constant", "linear")
        self.learning_rate = arguments.positive_float(learning_rate, "learning_rate")
        self.learning_rate_schedule = arguments.choice(learning_rate_schedule, "learning_rate_schedule", schedules)
        self.batch_size = arguments.positive_int(batch_size, "batch_size")
        self.max_epochs = arguments.positive_int(max_epochs, "max_epochs")
        self.patience = arguments.positive_int(patience, "patience")
        self.random_state = random_state
        self.n_threads = arguments.n_threads(n_threads)
        self.dtype = arguments.dtype(dtype)
        self.verbose = verbose

    def _begin(self, X: Any, X_val: Any) -> tuple[Rows, Rows | None, np.random.Generator]:
        """Return the checked rows, and the source of random numbers, of a fit."""
        vars(self).pop("n_features_in_", None)
        x = self._rows(X)
        self.n_features_in_ = x.shape[1]
        return x, None if X_val is None else self._rows(X_val, "X_val"), arguments.generator(self.random_state)

    def _train(
        self,
        n_rows: int,
        rng: np.random.Generator,
        gradient: Callable[[NDArray[np.intp], Real], float],
        validate: Callable[[], float] | None,
    ) -> None:
        """Train ``theta_`` and set ``best_epoch_``.

        ``gradient(rows, out)`` writes the gradient of the mean loss of a mini-batch and returns the sum of its rows' loss;
        ``validate`` is as of ``early_stopping``.
        """
        out = np.zeros_like(self.theta_)
        adam = Adam(self.theta_, self.learning_rate)
        end = "\n" if validate is None else ""

        def run_epoch(epoch: int) -> None:
            start = time.perf_counter()
            if self.learning_rate_schedule == "linear":
                adam.learning_rate = self.learning_rate * (1 - (epoch - 1) / self.max_epochs)
            loss = 0.0
            for rows in batches(n_rows, self.batch_size, rng):
                loss += gradient(rows, out) / n_rows
                adam.step(out)
            if not np.isfinite(loss):
                raise FloatingPointError(f"epoch {epoch}: the training loss became {loss}. Try a smaller learning_rate.")
            if self.verbose:
                seconds = time.perf_counter() - start
                print(f"epoch {epoch}: {seconds:.2f} s, training {loss:.3f}", end=end, file=sys.stderr, flush=True)

        def told() -> float:
            assert validate is not None
            loss = validate()
            if self.verbose:
                print(f", validation {loss:.3f}", file=sys.stderr, flush=True)
            return loss

        self.best_epoch_ = early_stopping(
            self.theta_,
            run_epoch,
            None if validate is None else told,
            max_epochs=self.max_epochs,
            patience=self.patience,
        )


def in_halves(work: Callable[[slice, Real], float], n_rows: int, out: Real, spare: Real, n_threads: int) -> float:
    """Return what ``work(rows, gradient)`` returns for both halves of the rows, added up, and leave so the gradients in out.

    Halves whatever the number of threads, so that bits do not depend on it; ``spare`` is for the gradient of one.
    """
    halves, gradients = (slice(0, n_rows // 2), slice(n_rows // 2, n_rows)), (out, spare)
    loss = [0.0, 0.0]

    def one(i: int, rank: int) -> None:
        loss[i] = work(halves[i], gradients[i])

    threads.for_each(one, 2, n_threads)
    out += spare
    return sum(loss)


def log_odds(x: Rows) -> Floats:
    """Return the log-odds of each feature, kept finite by two rows more: one of zeros, one of ones."""
    p = (x.sum(axis=0) + 1) / (len(x) + 2)
    odds: Floats = np.log(p / (1 - p))
    return odds
