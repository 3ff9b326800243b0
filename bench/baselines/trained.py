"""What NADE, EoNADE and DARN share: training by Adam on mini-batches, gradients in halves, the log-odds to start from.

Not here: kernels (``panels.py``), early stopping (``common.py``). Adam is a plain loop over one vector; MADE's own
optimisers are in the package's kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from bench.baselines.common import Floats, Learner, Rows, batches
from bench.baselines.panels import Real
from made_fast.system import threads
from made_fast.tables import arguments

__all__ = ["Trained", "in_halves", "log_odds"]


class Adam:
    """Adam (Kingma and Ba 2015) on one vector of parameters, updated in place."""

    def __init__(self, parameters: NDArray[Any], learning_rate: float) -> None:
        self.parameters, self.learning_rate = parameters, learning_rate
        self._m, self._v, self._t = np.zeros_like(parameters), np.zeros_like(parameters), 0

    def step(self, gradient: NDArray[Any]) -> None:
        """Go down the gradient."""
        self._t += 1
        _adam(self.parameters, gradient, self._m, self._v, self.learning_rate, self._t)


@njit(nogil=True, cache=True, error_model="numpy")
def _adam(w: NDArray[Any], g: NDArray[Any], m: NDArray[Any], v: NDArray[Any], lr: float, t: int) -> None:
    rate = w.dtype.type(lr * np.sqrt(1 - 0.999**t) / (1 - 0.9**t))
    a, b, eps = w.dtype.type(0.9), w.dtype.type(0.999), w.dtype.type(1e-8)
    one = w.dtype.type(1)
    for i in range(len(w)):
        m[i] = a * m[i] + (one - a) * g[i]
        v[i] = b * v[i] + (one - b) * g[i] * g[i]
        w[i] -= rate * m[i] / (np.sqrt(v[i]) + eps)


class Trained(Learner):
    """A baseline that is trained by Adam on mini-batches.

    Parameters
    ----------
    learning_rate, batch_size
        As of ``MADE``.
    learning_rate_schedule : {"constant", "linear"}
        Linear falls to nearly 0 in ``max_epochs``.
    max_epochs, patience, **learning
        As of ``Learner``.
    """

    def __init__(
        self,
        *,
        learning_rate: float = 1e-3,
        learning_rate_schedule: str = "constant",
        batch_size: int = 100,
        max_epochs: int = 500,
        patience: int = 30,
        **learning: Any,
    ) -> None:
        super().__init__(max_epochs=max_epochs, patience=patience, **learning)
        schedules = ("constant", "linear")
        self.learning_rate = arguments.positive_float(learning_rate, "learning_rate")
        self.learning_rate_schedule = arguments.choice(learning_rate_schedule, "learning_rate_schedule", schedules)
        self.batch_size = arguments.positive_int(batch_size, "batch_size")

    def _train(
        self,
        n_rows: int,
        rng: np.random.Generator,
        gradient: Callable[[NDArray[np.intp], Real], float],
        validate: Callable[[], float] | None,
    ) -> None:
        """Train ``theta_``; raise FloatingPointError if a loss is not finite.

        ``gradient(rows, out)`` writes the gradient of the mean loss of a mini-batch and returns the sum of its rows' loss,
        in nats; ``validate`` is as of ``_learn``.
        """
        out = np.zeros_like(self.theta_)
        adam = Adam(self.theta_, self.learning_rate)

        def run_epoch(epoch: int) -> float:
            if self.learning_rate_schedule == "linear":
                adam.learning_rate = self.learning_rate * (1 - (epoch - 1) / self.max_epochs)
            loss = 0.0
            for rows in batches(n_rows, self.batch_size, rng):
                loss += gradient(rows, out) / n_rows
                adam.step(out)
            if not np.isfinite(loss):
                raise FloatingPointError(f"epoch {epoch}: the training loss became {loss}. Try a smaller learning_rate.")
            return loss

        self._learn(run_epoch, validate)


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
