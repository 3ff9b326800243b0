"""What the baselines share: their interface, checked tables, epochs with early stopping, mini-batches.

Not here: any model, and training by gradients (``trained.py``).
"""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from made_fast.tables import arguments
from made_fast.tables.table import Table

__all__ = ["Baseline", "Floats", "Learner", "Rows", "batches"]

Rows = NDArray[np.uint8]
Floats = NDArray[np.float64]


class Baseline(ABC):
    """A density model of binary rows. Every method refuses bad tables and numbers by TypeError or ValueError."""

    log_likelihood: Literal["exact", "estimate", "lower bound", "estimate of a lower bound", "not a density"] = "exact"

    n_features_in_: int
    best_epoch_: int

    @abstractmethod
    def fit(self, X: Any, X_val: Any = None) -> Self:
        """Train on rows (n, D) of 0/1; stop early by ``X_val`` (n_val, D), if it is there, and keep the best parameters.

        A fitted model begins anew; D may be another. Raises FloatingPointError if a loss on the way is not finite.
        """

    @abstractmethod
    def score_samples(self, X: Any) -> Floats:
        """Return ``log p(x)`` of each row of X (n, D), (n,), in nats; ``log_likelihood`` says how true it is."""

    @abstractmethod
    def sample(self, n_samples: int, random_state: Any = None) -> Rows:
        """Draw rows, (n_samples, D) uint8."""

    @property
    @abstractmethod
    def n_parameters(self) -> int:
        """Number of trained parameters."""

    def score(self, X: Any) -> float:
        """Return the mean log-likelihood of the rows of X (n, D), in nats."""
        return float(np.mean(self.score_samples(X)))


class Learner(Baseline):
    """A baseline that learns one vector of parameters, ``theta_``, in epochs.

    Parameters
    ----------
    max_epochs, patience, random_state, n_threads, dtype
        As of ``MADE``. The bits do not depend on ``n_threads``.
    verbose : int
        1 writes a line an epoch to stderr: seconds of training, losses in nats a row.
    """

    theta_: NDArray[Any]

    def __init__(
        self,
        *,
        max_epochs: int,
        patience: int,
        random_state: Any = None,
        n_threads: int | None = None,
        dtype: Any = "float32",
        verbose: int = 0,
    ) -> None:
        self.max_epochs = arguments.positive_int(max_epochs, "max_epochs")
        self.patience = arguments.positive_int(patience, "patience")
        self.random_state = random_state
        self.n_threads = arguments.n_threads(n_threads)
        self.dtype = arguments.dtype(dtype)
        self.verbose = verbose

    def _begin(self, X: Any, X_val: Any) -> tuple[Rows, Rows | None, np.random.Generator]:
        """Return the checked rows of a fit, of any width, and its source of random numbers; set ``n_features_in_``."""
        x = _table(X, None, "X")
        x_val = None if X_val is None else _table(X_val, x.shape[1], "X_val")
        self.n_features_in_ = x.shape[1]
        return x, x_val, arguments.generator(self.random_state)

    def _rows(self, X: Any) -> Rows:
        """Return the checked rows of a table that is as wide as that of the fit."""
        return _table(X, self.n_features_in_, "X")

    def _learn(self, run_epoch: Callable[[int], float | None], validate: Callable[[], float] | None) -> None:
        """Call ``run_epoch(1)``, ``run_epoch(2)``, ..., which change ``theta_``; leave the best there; set ``best_epoch_``.

        ``run_epoch`` returns the training loss, in nats a row, if it knows one; ``validate()`` is the mean NLL of the
        validation rows, in nats. Training ends when it has not become better for ``patience`` epochs; without it, all
        epochs are made and the last is kept. Raises FloatingPointError if it is not finite.
        """
        best_nll, best_epoch, best = np.inf, 0, self.theta_.copy()
        for epoch in range(1, self.max_epochs + 1):
            start = time.perf_counter()
            loss = run_epoch(epoch)
            seconds = time.perf_counter() - start
            nll = None if validate is None else validate()
            if self.verbose:
                losses = {"training": loss, "validation": nll}
                told = "".join(f", {name} {value:.3f}" for name, value in losses.items() if value is not None)
                print(f"epoch {epoch}: {seconds:.2f} s{told}", file=sys.stderr, flush=True)
            if nll is None:
                best_epoch = epoch
            elif not np.isfinite(nll):
                raise FloatingPointError(f"epoch {epoch}: the validation loss became {nll}. Try a smaller learning_rate.")
            elif nll < best_nll:
                best_nll, best_epoch = nll, epoch
                best[:] = self.theta_
            elif epoch - best_epoch >= self.patience:
                break
        if validate is not None:
            self.theta_[:] = best
        self.best_epoch_ = best_epoch


def _table(X: Any, n_features: int | None, name: str) -> Rows:
    """Return a table of 0/1 as C-contiguous uint8, (n, D); refuse any other, and one that is not as wide as demanded."""
    return np.ascontiguousarray(Table.of(X, n_features, name=name).ones()).view(np.uint8)


def batches(n_rows: int, batch_size: int, rng: np.random.Generator) -> Iterator[NDArray[np.intp]]:
    """Yield the rows of each mini-batch of one pass in a new random order."""
    order = rng.permutation(n_rows)
    for start in range(0, n_rows, batch_size):
        yield order[start : start + batch_size]
