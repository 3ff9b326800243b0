"""``MADEImputer``, the scikit-learn transformer that fills in missing entries. Thin: a MADE is fitted, its model answers."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin, clone
from sklearn.utils.validation import check_is_fitted, validate_data

from made_fast import arguments, checks
from made_fast.estimator import MADE
from made_fast.fitted import FittedDensity
from made_fast.queries import METHODS, N_WALKS

__all__ = ["MADEImputer"]


class MADEImputer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Fill in missing binary entries (NaN) by what a MADE says of them, given all that is observed of their row.

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

    Attributes
    ----------
    estimator_ : MADE or MADEEnsemble
        As fitted.
    model_ : MADEModel or MixtureModel
        Its model.
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
    array([[0, 0, 1, 1],
           [1, 1, 0, 0]], dtype=uint8)
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
    ) -> None:
        self.estimator = estimator
        self.method = method
        self.n_members = n_members
        self.n_walks = n_walks
        self.random_state = random_state
        self.n_threads = n_threads

    def fit(self, X: checks.MatrixLike, y: Any = None) -> MADEImputer:
        """Fit the estimator.

        Parameters
        ----------
        X : (n, D) of 0, 1 and NaN
            As for ``MADE.fit``: NaN marks a missing entry, and only what is observed of a row counts.
        y : ignored

        Raises
        ------
        ValueError
            A parameter or the data is not as demanded.
        """
        arguments.choice(self.method, "method", METHODS)
        arguments.positive_int(self.n_members, "n_members")
        arguments.positive_int(self.n_walks, "n_walks")
        if self.estimator is None:
            made = MADE(n_masks=None, random_state=self.random_state, n_threads=self.n_threads)
        elif isinstance(self.estimator, FittedDensity):
            made = clone(self.estimator)
        else:
            raise TypeError(f"estimator must be None, a MADE or a MADEEnsemble, got {type(self.estimator).__name__}.")
        made.fit(X)
        validate_data(self, X, reset=True, skip_check_array=True)
        self.estimator_, self.model_ = made, made.model_
        return self

    def transform(self, X: checks.MatrixLike) -> NDArray[Any]:
        """Return the rows with their missing entries filled in.

        Parameters
        ----------
        X : (n, D) of 0, 1 and NaN
            The rows fitted on, or others.

        Returns
        -------
        (n, D) uint8, or float64 for ``method="mean"``
            Observed entries are as they were (with a threshold ``binarize``: the 0 or 1 they count as).

        Warns
        -----
        ApproximationWarning
            The estimator's orderings do not fit what is observed of some rows, and these are estimates. Not with the default
            estimator.
        """
        check_is_fitted(self, "model_")
        table = checks.matrix(X, self.n_features_in_)
        validate_data(self, X, reset=False, skip_check_array=True)  # the names of the columns
        filled: NDArray[Any] = self.model_.impute(
            table,
            self.method,
            n_members=self.n_members,
            n_walks=self.n_walks,
            random_state=self.random_state,
            n_threads=self.n_threads,
        )
        return filled

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = []
        return tags
