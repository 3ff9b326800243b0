"""``MADEImputer``, the scikit-learn transformer that fills in missing entries by the model of a MADE that it fits."""

from __future__ import annotations

import warnings
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin, clone
from sklearn.impute import MissingIndicator
from sklearn.utils.validation import check_is_fitted

from made_fast.estimators.base import FittedDensity, fitted_table, learn_columns
from made_fast.estimators.columns import has_columns
from made_fast.estimators.ensemble import MADEEnsemble
from made_fast.estimators.estimator import MADE
from made_fast.inference.density import N_WALKS
from made_fast.inference.modelfile import encode_names
from made_fast.inference.tablemodel import TableModel
from made_fast.tables import arguments, arrays
from made_fast.tables.bits import pack_rows, unpack_rows
from made_fast.tables.choices import METHODS
from made_fast.tables.names import check_different
from made_fast.tables.table import MatrixLike, Table
from made_fast.training.rows import not_observed

__all__ = ["MADEImputer"]


@dataclass(eq=False, repr=False, match_args=False)
class MADEImputer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Fill in missing entries (NaN, None, NA) by a MADE, given all that is observed of their row.

    Rows are 0/1, or those of a table with columns of any kind, as the estimator's ``fit`` has it: a data frame is taken for
    what its columns are, an array with ``MADE(columns="infer", n_masks=None)``. Such tables come back as tables like that of
    ``fit``, with its columns in its order; ``set_output`` changes their kind.

    A column of 0/1 rows without any observed entry in ``fit`` is named by a warning, and the estimator is fitted on the
    others. In ``transform`` its missing entries become 0; its observed ones stay, and do not count for other entries. In a
    table with columns of any kind it is an error: nobody knows what it would hold.

    Parameters
    ----------
    estimator : MADE or MADEEnsemble, optional
        A clone of it is fitted. By default ``MADE(n_masks=None)``, with the imputer's ``random_state`` and ``n_threads``:
        trained under fresh orderings, it conditions on any observed subset exactly. ``validation_fraction``, say, makes
        it stop in time.
    method : {"mode", "mean", "sample"}
        The likelier value, one entry after the other; the expected value (of columns without one, the likeliest value of
        each); or a draw. See ``MADEModel.impute`` and ``TableModel.impute``.
    n_members, n_walks, random_state, n_threads
        As for ``MADEModel.impute``.
    keep_empty_features : bool
        False leaves columns that were never observed in ``fit`` out of what ``transform`` returns.
    add_indicator : bool
        Append a column for every one that has missing entries in ``fit``: 1 where its entry is missing, see
        ``sklearn.impute.MissingIndicator``. Of 0/1 rows only.

    Attributes
    ----------
    estimator_ : MADE or MADEEnsemble
        As fitted, on the columns that were observed at all.
    model_ : MADEModel, MixtureModel or TableModel
        Its model.
    empty_features_ : (e,) ndarray of intp
        Columns that were never observed.
    indicator_ : MissingIndicator or None
        What ``add_indicator`` appends.
    n_features_in_ : int
    feature_names_in_ : (D,) ndarray of str
        If X had column names.

    Examples
    --------
    >>> import numpy as np
    >>> from made_fast import MADE, MADEImputer
    >>> X = np.repeat([[0, 0, 1, 1], [1, 1, 0, 0]], 50, axis=0)
    >>> made = MADE(hidden_sizes=(16,), n_masks=None, batch_size=10, learning_rate=0.01, random_state=0)
    >>> imputer = MADEImputer(made).fit(X)
    >>> imputer.transform([[np.nan, 0, np.nan, np.nan], [1, np.nan, np.nan, 0]])
    array([[0., 0., 1., 1.],
           [1., 1., 0., 0.]])
    """

    estimator: Any = None
    _: KW_ONLY
    method: str = "mode"
    n_members: int = 1
    n_walks: int = N_WALKS
    random_state: Any = None
    n_threads: int | None = None
    keep_empty_features: bool = True
    add_indicator: bool = False

    def fit(self, X: MatrixLike, y: Any = None, *, sample_weight: Any = None, X_val: MatrixLike | None = None) -> MADEImputer:
        """Fit the estimator on X, (n, D) of 0, 1 and NaN, which marks a missing entry, or a table with columns of any kind.

        ``sample_weight`` and ``X_val`` are those of the estimator's ``fit``, y is ignored. Wrong parameters or data raise
        TypeError or ValueError; columns of 0/1 rows without an observed entry come with a UserWarning.
        """
        arguments.choice(self.method, "method", METHODS)
        arguments.positive_int(self.n_members, "n_members")
        arguments.positive_int(self.n_walks, "n_walks")
        keep = arguments.boolean(self.keep_empty_features, "keep_empty_features")
        add_indicator = arguments.boolean(self.add_indicator, "add_indicator")
        made: MADE | MADEEnsemble
        if self.estimator is None:
            made = MADE(n_masks=None, random_state=self.random_state, n_threads=self.n_threads)
        elif isinstance(self.estimator, FittedDensity):
            made = clone(self.estimator)
        else:
            raise TypeError(f"estimator must be None, a MADE or a MADEEnsemble, got {type(self.estimator).__name__}.")
        options: dict[str, Any] = {} if sample_weight is None else {"sample_weight": sample_weight}
        if X_val is not None:
            options["X_val"] = X_val
        if has_columns(X, None, made.get_params(deep=False)):
            return self._fit_columns(made, X, options)
        table, names = Table.of(X), arrays.column_names(X)
        check_different(names)
        encode_names(names)
        D, seen, empty = table.shape[1], table, table.never_observed()
        if 0 < len(empty) < D:  # the estimator refuses a table of which nothing is observed
            what = "fills them with 0 (keep_empty_features=False leaves them out)" if keep else "leaves them out"
            warnings.warn(f"{not_observed(empty, names)}: transform {what}.", UserWarning, stacklevel=2)
            seen = _without(table, empty, made.binarize)
            if X_val is not None:
                options["X_val"] = _without(Table.of(X_val, D, name="X_val", feature_names=names), empty, made.binarize)
            places = arguments.ordering(made.ordering, D)
            if not isinstance(places, str):
                made.set_params(ordering=(np.argsort(np.argsort(np.delete(places, empty))) + 1).tolist())
        made._names = None if names is None else tuple(np.delete(names, empty).tolist())
        try:
            made.fit(seen, **options)
        finally:
            del made._names
        learn_columns(self, X)
        self.estimator_, self.model_, self.empty_features_ = made, made.model_, empty
        self.indicator_ = MissingIndicator(error_on_new=False, sparse=False).fit(_marked(table)) if add_indicator else None
        return self

    def _fit_columns(self, made: MADE | MADEEnsemble, X: Any, options: dict[str, Any]) -> MADEImputer:
        """Fit the estimator on a table with columns of any kind; its model answers for the rest."""
        if made.missing == "value":
            raise ValueError(
                "estimator must have missing='marginal', got missing='value': where a missing entry is a value of its own, "
                "there is nothing to fill in."
            )
        if self.add_indicator:
            raise ValueError(
                "add_indicator must be False for a table whose columns are not all 0/1, got True. A "
                "sklearn.impute.MissingIndicator beside the imputer, in a FeatureUnion, has these columns."
            )
        made.fit(X, **options)
        learn_columns(self, X, encoder=made.model_.encoder)
        self.estimator_, self.model_, self.empty_features_ = made, made.model_, np.empty(0, np.intp)
        self.indicator_ = None
        return self

    def transform(self, X: MatrixLike) -> Any:
        """Return the rows of X, (n, D) of 0, 1 and NaN or a table like that of ``fit``, with their missing entries filled in.

        Returns
        -------
        A table like that of ``fit``, if its columns are not all 0/1. Otherwise (n, D) of the dtype of X
            Less the columns that ``keep_empty_features`` leaves out, then those that ``add_indicator`` appends. Observed
            entries are as they were (with a threshold ``binarize``: the 0 or 1 they count as). A pandas frame has the dtype
            that holds all its columns, where a nullable one counts as what it is of (Int8 as int8, boolean as bool); objects
            become float64, and so do ints and bools with ``method="mean"``.

        Warns
        -----
        ApproximationWarning
            The estimator's orderings do not fit the observed entries of some rows, and these are estimates. Not with the
            default estimator.
        """
        check_is_fitted(self, "model_")
        asking = {name: getattr(self, name) for name in ("n_members", "n_walks", "random_state", "n_threads")}
        if isinstance(self.model_, TableModel):
            return self.model_.impute(X, self.method, **asking)
        table = fitted_table(self, X)
        filled: NDArray[Any] = self.model_.impute(self._seen(table), self.method, **asking)
        filled = filled.astype(_dtype(X, table, self.method), copy=False)
        if len(self.empty_features_) and self.keep_empty_features:
            every = np.arange(self.n_features_in_)
            bits = pack_rows(table, every, self.model_.binarize, missing=True)  # 0 where missing
            whole = unpack_rows(bits, len(every)).astype(filled.dtype)
            whole[:, np.delete(every, self.empty_features_)] = filled
            filled = whole
        if self.indicator_ is not None:
            filled = np.concatenate([filled, self.indicator_.transform(_marked(table)).astype(filled.dtype)], axis=1)
        return filled

    def score(self, X: MatrixLike, y: Any = None) -> float:
        """Return the mean log-likelihood of the observed entries of the rows of X, in nats: higher is better.

        Columns that were never observed in ``fit`` do not count.
        """
        check_is_fitted(self, "model_")
        table = X if isinstance(self.model_, TableModel) else self._seen(fitted_table(self, X))
        return float(self.model_.score(table, n_threads=self.n_threads))

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Return the names of the columns that ``transform`` returns; without names in ``fit`` they are x0, x1, ..."""
        names: NDArray[np.object_] = super().get_feature_names_out(input_features)
        kept = names if self.keep_empty_features else np.delete(names, self.empty_features_)
        return kept if self.indicator_ is None else np.concatenate([kept, self.indicator_.get_feature_names_out(names)])

    def _seen(self, table: Table) -> Table:
        """Return the columns that the model was fitted on."""
        return _without(table, self.empty_features_, self.model_.binarize) if len(self.empty_features_) else table

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _without(table: Table, empty: NDArray[np.intp], binarize: float | None) -> Table:
    """Return a table without some columns, after a check of all values, whose errors name the original columns."""
    every = np.arange(table.shape[1])
    pack_rows(table, every, binarize, missing=True)
    return Table(table.rows[:, np.delete(every, empty)], table.name)  # type: ignore[index]  # SciPy's rows have columns


def _marked(table: Table) -> NDArray[np.float32]:
    """Return NaN where a checked table is missing, and 0 elsewhere, for ``MissingIndicator``."""
    out = np.zeros(table.shape, np.float32)
    for part, rows in table.chunks():
        nan = rows.missing()
        if nan is not None:
            out[part][nan] = np.nan
    return out


def _dtype(X: Any, table: Table, method: str) -> np.dtype[Any]:
    """Return the dtype of the filled rows of X, whose checked form is ``table``."""
    columns = [getattr(kind, "numpy_dtype", kind) for kind in getattr(X, "dtypes", [getattr(X, "dtype", table.rows.dtype)])]
    if not all(isinstance(kind, np.dtype) for kind in columns):  # of another library: what NumPy has made of it
        columns = [table.rows.dtype]
    numbers = all(kind.kind in "biuf" for kind in columns)
    found = np.result_type(*set(columns)) if numbers else np.dtype(np.float64)
    return np.dtype(np.float64) if method == "mean" and found.kind != "f" else found
