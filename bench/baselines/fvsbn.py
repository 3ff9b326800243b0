"""FVSBN, the fully visible sigmoid belief network: logistic autoregression, ``p(x_d = 1 | x_<d) = sigmoid(c_d + A_d x_<d)``.

Frey, Hinton and Dayan, "Does the wake-sleep algorithm produce good density estimators?" (NIPS 1995); the name, and results,
in Larochelle and Murray, "The Neural Autoregressive Distribution Estimator" (AISTATS 2011). It is a MADE without hidden
layers, and that is what stands here: kernels, optimisers and early stopping are the package's. The log-likelihood is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from bench.baselines.common import Baseline, Floats, Rows
from made_fast import MADE

__all__ = ["FVSBN"]


class FVSBN(Baseline):
    """Logistic autoregression.

    Parameters
    ----------
    ordering : {"random", "natural"} or (D,) sequence of places 1..D
        The order in which the inputs are factored.
    learning_rate, batch_size, max_epochs, patience, dtype, n_threads, random_state
        As those of ``MADE``.
    verbose : int
        1 shows a line an epoch.
    **params
        Further parameters of ``MADE``: ``optimizer``, ``weight_decay``, ...
    """

    def __init__(
        self,
        ordering: str | Sequence[int] = "random",
        learning_rate: float | None = 1e-2,
        batch_size: int = 100,
        max_epochs: int = 200,
        patience: int = 30,
        dtype: str = "float32",
        n_threads: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
        **params: Any,
    ) -> None:
        self.made = MADE(
            hidden_sizes=(),
            averaging=0.0,
            ordering=ordering,
            learning_rate=learning_rate,
            batch_size=batch_size,
            max_epochs=max_epochs,
            patience=patience,
            dtype=dtype,
            n_threads=n_threads,
            random_state=random_state,
            verbose=2 * verbose,
            **params,
        )

    def fit(self, X: Any, X_val: Any = None) -> Self:
        """See ``Baseline.fit``."""
        self.made.fit(X, X_val=X_val)
        self.n_features_in_ = self.made.n_features_in_
        self.best_epoch_ = self.made.best_epoch_
        return self

    def score_samples(self, X: Any) -> Floats:
        """See ``Baseline.score_samples``; exact."""
        log_p: Floats = self.made.score_samples(X)
        return log_p

    def sample(self, n_samples: int, random_state: Any = None) -> Rows:
        """See ``Baseline.sample``; an input after the other."""
        rows: Rows = self.made.sample(n_samples, random_state=random_state)
        return rows

    @property
    def n_parameters(self) -> int:
        """A bias for each input, and a weight for each pair."""
        D = self.n_features_in_
        return D + D * (D - 1) // 2
