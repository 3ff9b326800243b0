"""``MADEImputer``, the scikit-learn transformer that fills in missing entries. Thin: a MADE is fitted, its model answers."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin, clone
from sklearn.impute import MissingIndicator
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import check_is_fitted

from made_fast.estimators.estimator import MADE
from made_fast.estimators.fitted import FittedDensity, check_columns, learn_columns
from made_fast.inference.queries import N_WALKS
from made_fast.tables import arguments, arrays, checks, data
from made_fast.tables.choices import METHODS
from made_fast.training import rows as given

__all__ = ["MADEImputer"]


class MADEImputer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Fill in missing binary entries (NaN) by what a MADE says of them, given all that is observed of their row.

    Of a column without any observed entry in ``fit`` nothing can be learned: a warning names it, and the estimator is fitted
    on the others. In ``transform`` its missing entries become 0, and observed ones stay as they are, but no other entry is
    filled in by what they say.

    Parameters
    ----------
    estimator : MADE or MADEEnsemble, optional
        What is fitted (a clone of it). By default ``MADE(n_masks=None)``, with the imputer's ``random_state`` and
        ``n_threads``: trained under ever fresh orderings, it conditions on any observed subset exactly. Train it as any MADE:
        with ``validation_fraction``, say, so that it stops in time.
    method : {"mode", "mean", "sample"}
        The likelier value, one entry after the other; the expected value; or a draw. See ``MADEModel.impute``.
    n_members : int
        How many members of the model answer together, as a mixture.
    n_walks : int
        Walks for each row, where an answer is an estimate.
    random_state : None, int, Generator, SeedSequence or RandomState
        For draws and estimates; an int gives the same every time.
    n_threads : int, optional
        By default the CPUs this process may use. No result depends on it.
    keep_empty_features : bool
        False leaves columns that were never observed in ``fit`` out of what ``transform`` returns.
    add_indicator : bool
        Append a column for every one that has missing entries in ``fit``: 1 where its entry is missing, see
        ``sklearn.impute.MissingIndicator``.

    Attributes
    ----------
    estimator_ : MADE or MADEEnsemble
        As fitted, on the columns that were observed at all.
    model_ : MADEModel or MixtureModel
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

    def __init__(
        self,
        estimator: Any = None,
        *,
        method: str = "mode",
        n_members: int = 1,
        n_walks: int = N_WALKS,
        random_state: Any = None,
        n_threads: int | None = None,
        keep_empty_features: bool = True,
        add_indicator: bool = False,
    ) -> None:
        self.estimator = estimator
        self.method = method
        self.n_members = n_members
        self.n_walks = n_walks
        self.random_state = random_state
        self.n_threads = n_threads
        self.keep_empty_features = keep_empty_features
        self.add_indicator = add_indicator

    def fit(
        self, X: checks.MatrixLike, y: Any = None, *, sample_weight: Any = None, X_val: checks.MatrixLike | None = None
    ) -> MADEImputer:
        """Fit the estimator.

        Parameters
        ----------
        X : (n, D) of 0, 1 and NaN
            As for ``MADE.fit``: NaN marks a missing entry, and only what is observed of a row counts.
        y : ignored
        sample_weight, X_val
            As for the estimator's ``fit``.

        Raises
        ------
        ValueError
            A parameter or the data is not as demanded.

        Warns
        -----
        UserWarning
            Columns have no observed entry.
        """
        arguments.choice(self.method, "method", METHODS)
        arguments.positive_int(self.n_members, "n_members")
        arguments.positive_int(self.n_walks, "n_walks")
        keep = arguments.boolean(self.keep_empty_features, "keep_empty_features")
        add_indicator = arguments.boolean(self.add_indicator, "add_indicator")
        if self.estimator is None:
            made: Any = MADE(n_masks=None, random_state=self.random_state, n_threads=self.n_threads)
        elif isinstance(self.estimator, FittedDensity):
            made = clone(self.estimator)
        else:
            raise TypeError(f"estimator must be None, a MADE or a MADEEnsemble, got {type(self.estimator).__name__}.")
        table = checks.matrix(X)
        D, empty = table.shape[1], data.never_observed(table)
        options: dict[str, Any] = {} if sample_weight is None else {"sample_weight": sample_weight}
        if X_val is not None:
            options["X_val"] = X_val
        if 0 < len(empty) < D:  # a table of which nothing is observed the estimator refuses
            what = "fills them with 0 (keep_empty_features=False leaves them out)" if keep else "leaves them out"
            warnings.warn(f"{given.not_observed(empty, arrays.column_names(X))}: transform {what}.", UserWarning, stacklevel=2)
            X_seen = _without(X, table, empty, made.binarize, "X")
            if X_val is not None:
                options["X_val"] = _without(X_val, checks.matrix(X_val, D, name="X_val"), empty, made.binarize, "X_val")
            places = arguments.ordering(made.ordering, D)
            if not isinstance(places, str):
                made.set_params(ordering=(np.argsort(np.argsort(np.delete(places, empty))) + 1).tolist())
            made.fit(X_seen, **options)
        else:
            made.fit(X, **options)
        learn_columns(self, X)
        self.estimator_, self.model_, self.empty_features_ = made, made.model_, empty
        self.indicator_ = MissingIndicator(error_on_new=False, sparse=False).fit(_marked(table)) if add_indicator else None
        return self

    def transform(self, X: checks.MatrixLike) -> NDArray[Any]:
        """Return the rows with their missing entries filled in.

        Parameters
        ----------
        X : (n, D) of 0, 1 and NaN
            The rows fitted on, or others.

        Returns
        -------
        (n, D) of the dtype of X
            Less the columns that ``keep_empty_features`` leaves out, then those that ``add_indicator`` appends. Observed
            entries are as they were (with a threshold ``binarize``: the 0 or 1 they count as). A pandas frame has the dtype
            that holds all its columns, where a nullable one counts as what it is of (Int8 as int8, boolean as bool); objects
            become float64, and so do ints and bools with ``method="mean"``.

        Warns
        -----
        ApproximationWarning
            The estimator's orderings do not fit what is observed of some rows, and these are estimates. Not with the default
            estimator.
        """
        table = self._table(X)
        filled: NDArray[Any] = self.model_.impute(
            self._seen(table),
            self.method,
            n_members=self.n_members,
            n_walks=self.n_walks,
            random_state=self.random_state,
            n_threads=self.n_threads,
        )
        filled = filled.astype(_dtype(X, table, self.method), copy=False)
        if len(self.empty_features_) and self.keep_empty_features:
            every = np.arange(self.n_features_in_)
            bits = data.pack_rows(table, every, binarize=self.model_.binarize, missing=True)  # 0 where missing
            whole = data.unpack_rows(bits, len(every)).astype(filled.dtype)
            whole[:, np.delete(every, self.empty_features_)] = filled
            filled = whole
        if self.indicator_ is not None:
            filled = np.concatenate([filled, self.indicator_.transform(_marked(table)).astype(filled.dtype)], axis=1)
        return filled

    def score(self, X: checks.MatrixLike, y: Any = None) -> float:
        """Return the mean log-likelihood of what is observed of the rows of X, in nats: higher is better, as in a search.

        Columns that were never observed in ``fit`` do not count.
        """
        return float(self.model_.score(self._seen(self._table(X)), n_threads=self.n_threads))

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Return the names of the columns that ``transform`` returns; without names in ``fit`` they are x0, x1, ..."""
        names: NDArray[np.object_] = super().get_feature_names_out(input_features)
        kept = names if self.keep_empty_features else np.delete(names, self.empty_features_)
        return kept if self.indicator_ is None else np.concatenate([kept, self.indicator_.get_feature_names_out(names)])

    def _table(self, X: checks.MatrixLike) -> checks.Matrix:
        check_is_fitted(self, "model_")
        table = checks.matrix(X, self.n_features_in_)
        check_columns(self, X)
        return table

    def _seen(self, table: checks.Matrix) -> checks.Matrix:
        """Return the columns that the model knows."""
        return _without(table, table, self.empty_features_, self.model_.binarize, "X") if len(self.empty_features_) else table

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _without(X: Any, table: checks.Matrix, empty: NDArray[np.intp], binarize: float | None, name: str) -> Any:
    """Return X, or the checked table that was made of it, without some columns; names are kept."""
    every = np.arange(table.shape[1])
    data.pack_rows(table, every, binarize=binarize, name=name, missing=True)  # refuses values while columns have their numbers
    kept = np.delete(every, empty)
    return _safe_indexing(table if arrays.column_names(X) is None else X, kept, axis=1)


def _marked(table: checks.Matrix) -> NDArray[np.float32]:
    """Return NaN where a checked table is missing, and 0 elsewhere, for ``MissingIndicator``."""
    out = np.zeros(table.shape, np.float32)
    for part in data.chunks(*table.shape):
        nan = checks.missing(table[part])
        if nan is not None:
            out[part][nan] = np.nan
    return out


def _dtype(X: Any, table: checks.Matrix, method: str) -> np.dtype[Any]:
    """Return the dtype in which the rows of X, checked, come back."""
    columns = [getattr(kind, "numpy_dtype", kind) for kind in getattr(X, "dtypes", [getattr(X, "dtype", table.dtype)])]
    if not all(isinstance(kind, np.dtype) for kind in columns):  # of another library: what NumPy has made of it
        columns = [table.dtype]
    numbers = all(kind.kind in "biuf" for kind in columns)
    found = np.result_type(*set(columns)) if numbers else np.dtype(np.float64)
    return np.dtype(np.float64) if method == "mean" and found.kind != "f" else found
