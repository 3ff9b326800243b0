"""What every fitted density estimator answers, by handing a checked table to its model. Nothing is fitted here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from made_fast.tables import checks
from made_fast.tables.arrays import column_names
from made_fast.tables.names import check

__all__ = ["FittedDensity", "check_columns", "learn_columns"]


def learn_columns(estimator: Any, X: checks.MatrixLike, names: Sequence[str] | None = None) -> None:
    """Set ``n_features_in_`` and ``feature_names_in_``, as scikit-learn does; ``names`` are those of a table without any.

    Those of polars and Arrow, which some versions of it pass over, are read too.
    """
    validate_data(estimator, X, reset=True, skip_check_array=True)
    found = column_names(X) or names
    if found is not None:
        estimator.feature_names_in_ = np.array(found, dtype=object)


def check_columns(estimator: Any, X: checks.MatrixLike) -> None:
    """Refuse a table whose columns are not those that an estimator was fitted on, in scikit-learn's words or in ours."""
    validate_data(estimator, X, reset=False, skip_check_array=True)
    check(column_names(X), getattr(estimator, "feature_names_in_", None), "X")


class FittedDensity(DensityMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Base of ``MADE`` and ``MADEEnsemble``: the methods that both have once they are fitted.

    ``options`` are those of the method of the same name of ``model_``; the number of threads is the estimator's own.
    """

    model_: Any  # MADEModel or MixtureModel
    n_features_in_: int
    n_threads: int | None

    _names: tuple[str, ...] | None = None
    """What the columns of X are called, where X cannot tell: the command line reads arrays and names apart, and an ensemble
    hands its members arrays."""

    def score_samples(self, X: checks.MatrixLike, **options: Any) -> NDArray[np.float64]:
        """Return log p(x) of each row in nats, (n,) float64; see ``MADEModel.score_samples``."""
        table = self._table(X)
        log_p: NDArray[np.float64] = self._fitted().score_samples(table, n_threads=self.n_threads, **options)
        return log_p

    def score(self, X: checks.MatrixLike, y: Any = None) -> float:
        """Return the mean log-likelihood of the rows of X in nats; if some miss entries (NaN), of what is observed of them."""
        table = self._table(X)
        return float(self._fitted().score(table, n_threads=self.n_threads))

    def conditional_proba(self, X: checks.MatrixLike, **options: Any) -> NDArray[Any]:
        """Return ``p(x_d = 1 | x_<d)`` for every row and input, (n, D); see ``MADEModel.conditional_proba``."""
        table = self._table(X)
        found: NDArray[Any] = self._fitted().conditional_proba(table, n_threads=self.n_threads, **options)
        return found

    def sample(self, n_samples: int = 1, random_state: Any = None, **options: Any) -> NDArray[np.uint8]:
        """Draw rows from the model, (n_samples, D) uint8; see ``MADEModel.sample``."""
        found: NDArray[np.uint8] = self._fitted().sample(n_samples, random_state, n_threads=self.n_threads, **options)
        return found

    def log_marginal(self, X: checks.MatrixLike, **options: Any) -> Any:
        """Return log p of what is observed (not NaN) of each row in nats, (n,) float64; see ``MADEModel.log_marginal``."""
        table = self._table(X)
        return self._fitted().log_marginal(table, n_threads=self.n_threads, **options)

    def conditional(self, X: checks.MatrixLike, target: Any, **options: Any) -> Any:
        """Return ``p(x_target = 1 | what is observed)`` of each row, (n,) float64; see ``MADEModel.conditional``."""
        table = self._table(X)
        return self._fitted().conditional(table, target, n_threads=self.n_threads, **options)

    def sample_conditional(self, X: checks.MatrixLike, n_draws: int = 1, **options: Any) -> NDArray[np.uint8]:
        """Draw what is missing given what is observed, (n_draws, n, D) uint8; see ``MADEModel.sample_conditional``."""
        table = self._table(X)
        found: NDArray[np.uint8] = self._fitted().sample_conditional(table, n_draws, n_threads=self.n_threads, **options)
        return found

    def impute(self, X: checks.MatrixLike, method: str = "mode", **options: Any) -> NDArray[Any]:
        """Fill in what is missing, (n, D) uint8, or float64 for ``method="mean"``; see ``MADEModel.impute``."""
        table = self._table(X)
        found: NDArray[Any] = self._fitted().impute(table, method, n_threads=self.n_threads, **options)
        return found

    def to_dense(self, **options: Any) -> dict[str, Any]:
        """Return a member as plain arrays; see ``MADEModel.to_dense``."""
        found: dict[str, Any] = self._fitted().to_dense(**options)
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted model to a file that ``made_fast.load`` reads."""
        self._fitted().save(path)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = True
        return tags

    def _fitted(self) -> Any:
        check_is_fitted(self, "model_")
        return self.model_

    def _table(self, X: checks.MatrixLike) -> Any:
        check_is_fitted(self, "model_")
        table = checks.matrix(X, self.n_features_in_)
        check_columns(self, X)
        return table
