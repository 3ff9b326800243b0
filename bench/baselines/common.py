"""What the baselines share: the door, mini-batches with early stopping, Adam.

Not here: any model. The optimiser is a plain loop over one vector; MADE's own are in the kernels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Literal, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

from made_fast import checks

__all__ = ["Adam", "Baseline", "Floats", "Rows", "batches", "early_stopping"]

Rows = NDArray[np.uint8]
Floats = NDArray[np.float64]


class Baseline(ABC):
    """A density model of binary rows."""

    log_likelihood: Literal["exact", "estimate", "lower bound"] = "exact"

    n_features_in_: int
    best_epoch_: int

    @abstractmethod
    def fit(self, X: Any, X_val: Any = None) -> Self:
        """Train on rows (n, D) of 0/1; stop early by ``X_val``, if there is one, and keep the best parameters."""

    @abstractmethod
    def score_samples(self, X: Any) -> Floats:
        """Return ``log p(x)`` of each row, (n,) float64, in nats; ``log_likelihood`` says how true it is."""

    @abstractmethod
    def sample(self, n_samples: int, random_state: Any = None) -> Rows:
        """Draw rows, (n_samples, D) uint8."""

    @property
    @abstractmethod
    def n_parameters(self) -> int:
        """Number of trained parameters."""

    def score(self, X: Any) -> float:
        """Return the mean log-likelihood of a row, in nats."""
        return float(np.mean(self.score_samples(X)))

    def _rows(self, X: Any, name: str = "X") -> Rows:
        """Return a checked table as C-contiguous uint8; of the width that the model was fitted on, if it was."""
        table = checks.matrix(X, getattr(self, "n_features_in_", None), name=name)
        return np.ascontiguousarray(checks.ones(table, name=name)).view(np.uint8)


def batches(n_rows: int, batch_size: int, rng: np.random.Generator) -> Iterator[NDArray[np.intp]]:
    """Yield the rows of each mini-batch of one pass in a new random order."""
    order = rng.permutation(n_rows)
    for start in range(0, n_rows, batch_size):
        yield order[start : start + batch_size]


def early_stopping(
    parameters: NDArray[Any],
    run_epoch: Callable[[int], None],
    validate: Callable[[], float] | None,
    *,
    max_epochs: int,
    patience: int,
) -> int:
    """Call ``run_epoch(1)``, ``run_epoch(2)``, ..., which change ``parameters``; leave the best there; return its epoch.

    ``validate()`` is the mean NLL of the validation rows; training ends when it has not become better for ``patience`` epochs.
    Without it, all epochs are made. Raises FloatingPointError if it is not finite.
    """
    best_nll, best_epoch, best = np.inf, 0, parameters.copy()
    for epoch in range(1, max_epochs + 1):
        run_epoch(epoch)
        if validate is None:
            best_epoch = epoch
            continue
        nll = validate()
        if not np.isfinite(nll):
            raise FloatingPointError(f"epoch {epoch}: the validation loss became {nll}. Try a smaller learning_rate.")
        if nll < best_nll:
            best_nll, best_epoch = nll, epoch
            best[:] = parameters
        elif epoch - best_epoch >= patience:
            break
    if validate is not None:
        parameters[:] = best
    return best_epoch


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
