"""The methods of every fitted density estimator, which its model answers. Nothing is fitted here."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

import numpy as np
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from made_fast.inference.density import Density
from made_fast.inference.tablemodel import TableModel
from made_fast.tables.arrays import column_names
from made_fast.tables.columns.encoder import Encoder
from made_fast.tables.names import check
from made_fast.tables.reading.chunks import Chunks
from made_fast.tables.table import MatrixLike, Table

__all__ = ["FittedDensity", "check_columns", "fitted_table", "learn_columns"]

Method = TypeVar("Method", bound=Callable[..., Any])


def learn_columns(estimator: Any, X: MatrixLike, names: Sequence[str] | None = None, encoder: Encoder | None = None) -> None:
    """Set ``n_features_in_`` and ``feature_names_in_``, as scikit-learn does; ``names`` are those of a table without any.

    Names of polars and Arrow, which some versions of scikit-learn pass over, are read too. An ``encoder`` knows the columns.
    """
    if encoder is not None:
        estimator.n_features_in_ = len(encoder.columns)
        if encoder.columns.named:
            estimator.feature_names_in_ = np.array(encoder.columns.names, dtype=object)
        elif hasattr(estimator, "feature_names_in_"):
            del estimator.feature_names_in_
        return
    if isinstance(X, Chunks):
        estimator.n_features_in_, found = X.width, X.names or names
    else:
        validate_data(estimator, X, reset=True, skip_check_array=True)
        found = column_names(X) or names
    if found is not None:
        estimator.feature_names_in_ = np.array(found, dtype=object)


def check_columns(estimator: Any, X: MatrixLike) -> None:
    """Refuse a table whose columns are not those that an estimator was fitted on; who calls has counted them.

    Where neither has names, there is nothing to compare, and scikit-learn takes longer than a row's score to find that out.
    """
    if type(X) is np.ndarray and not hasattr(estimator, "feature_names_in_"):
        return
    validate_data(estimator, X, reset=False, skip_check_array=True)
    check(column_names(X), getattr(estimator, "feature_names_in_", None), "X")


def fitted_table(estimator: Any, X: MatrixLike) -> Table:
    """Check that an estimator is fitted, and that the columns of a table are those of the fit; return the table."""
    if not hasattr(estimator, "model_"):
        check_is_fitted(estimator, "model_")
    table = Table.of(X, estimator.n_features_in_)
    check_columns(estimator, X)
    return table


def _as_the_model(method: Method) -> Method:
    """Give a method the docstring and the parameters of the model's, less ``n_threads``, which the estimator has."""
    asked = getattr(Density, method.__name__)
    parameters = [p for p in inspect.signature(asked).parameters.values() if p.name != "n_threads"]
    options = [p for p in inspect.signature(method).parameters.values() if p.kind == inspect.Parameter.VAR_KEYWORD]
    method.__doc__ = asked.__doc__
    method.__signature__ = inspect.signature(method).replace(parameters=[*parameters, *options])  # type: ignore[attr-defined]
    return method


class FittedDensity(DensityMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Base of ``MADE`` and ``MADEEnsemble``: the methods of both once they are fitted.

    ``options`` are those of the method of ``model_`` that has the same name. Of a table with columns that are not 0/1, these
    are the methods of a ``TableModel``, which take and return such tables.
    """

    model_: Any
    n_features_in_: int
    n_threads: int | None

    _names: tuple[str, ...] | None = None
    """Names of the columns of X, where X has none: the command line reads arrays and names apart, and an ensemble
    passes arrays to its members."""

    @classmethod
    @cache
    def _get_param_names(cls) -> list[str]:
        """Return the names of the parameters; scikit-learn inspects the signature anew each time, which takes long."""
        found: list[str] = super()._get_param_names()
        return found

    @_as_the_model
    def score_samples(self, X: MatrixLike, **options: Any) -> Any:
        table = self._read(X)
        return self.model_.score_samples(table, n_threads=self.n_threads, **options)

    def score(self, X: MatrixLike, y: Any = None, **options: Any) -> float:
        """Return the mean log-likelihood of the rows of X in nats; of rows that miss some, of their observed entries.

        With a context that the model was fitted with: ``context=``.
        """
        table = self._read(X)
        return float(self.model_.score(table, n_threads=self.n_threads, **options))

    @_as_the_model
    def explain(self, X: MatrixLike, **options: Any) -> Any:
        table = self._read(X)
        return self.model_.explain(table, n_threads=self.n_threads, **options)

    def probability(self, query: str | Mapping[Any, Any], **options: Any) -> Any:
        """Return the probability that a row of the table satisfies a query. See ``TableModel.probability``."""
        if not isinstance(model := self._fitted(), TableModel):
            raise TypeError(
                "a query must be asked of a model of columns, got a model of 0/1 rows. Fit a data frame, or set "
                "columns='infer'; log_marginal answers for 0/1 rows with NaN for what may be anything."
            )
        return model.probability(query, n_threads=self.n_threads, **options)

    @_as_the_model
    def conditional_proba(self, X: MatrixLike, **options: Any) -> Any:
        table = self._read(X)
        return self.model_.conditional_proba(table, n_threads=self.n_threads, **options)

    @_as_the_model
    def sample(self, n_samples: int = 1, random_state: Any = None, **options: Any) -> Any:
        return self._fitted().sample(n_samples, random_state, n_threads=self.n_threads, **options)

    @_as_the_model
    def log_marginal(self, X: MatrixLike, **options: Any) -> Any:
        table = self._read(X)
        return self.model_.log_marginal(table, n_threads=self.n_threads, **options)

    @_as_the_model
    def conditional(self, X: MatrixLike, target: Any, **options: Any) -> Any:
        table = self._read(X)
        return self.model_.conditional(table, target, n_threads=self.n_threads, **options)

    @_as_the_model
    def sample_conditional(self, X: MatrixLike, n_draws: int = 1, **options: Any) -> Any:
        table = self._read(X)
        return self.model_.sample_conditional(table, n_draws, n_threads=self.n_threads, **options)

    @_as_the_model
    def impute(self, X: MatrixLike, method: str = "mode", **options: Any) -> Any:
        table = self._read(X)
        return self.model_.impute(table, method, n_threads=self.n_threads, **options)

    @_as_the_model
    def to_dense(self, **options: Any) -> Any:
        return self._fitted().to_dense(**options)

    @_as_the_model
    def save(self, path: str | os.PathLike[str]) -> None:
        self._fitted().save(path)

    @_as_the_model
    def to_onnx(self, path: str | os.PathLike[str] | None = None, *, conditionals: bool = True) -> Any:
        return self._fitted().to_onnx(path, conditionals=conditionals)

    def _read(self, X: MatrixLike) -> Any:
        """Return what ``model_`` takes: a checked table, or X itself if the model knows the columns."""
        return X if isinstance(self._fitted(), TableModel) or isinstance(X, Chunks) else fitted_table(self, X)

    def _fitted(self) -> Any:
        if not hasattr(self, "model_"):
            check_is_fitted(self, "model_")
        return self.model_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = True
        return tags
