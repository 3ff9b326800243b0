"""``MADEOutlierDetector``: odd rows of a table, by the density of a MADE, and which columns make them odd.

How odd a row is has two parts: how odd each number is by itself, told by a smooth density of its column (``_Kernels``), and
how odd the values are together, told by a MADE over the levels of all columns. Few levels are enough for the second part, and
few are hard to learn by heart: odd rows do not come to look likely by having been among those of training.

Not here: densities and their training (``estimator.py``, ``ensemble.py``), what columns are (``tables/columns``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.utils.validation import check_is_fitted

from made_fast.estimators.base import FittedDensity, fitted_table, learn_columns
from made_fast.estimators.ensemble import MADEEnsemble
from made_fast.estimators.estimator import MADE
from made_fast.inference.density import log_p_observed
from made_fast.inference.tablemodel import TableModel
from made_fast.tables import arguments
from made_fast.tables.arguments import shown
from made_fast.tables.coded import Coded
from made_fast.tables.columns import frames
from made_fast.tables.columns.numeric import Numeric
from made_fast.tables.columns.schema import Columns
from made_fast.tables.columns.values import Values
from made_fast.tables.table import MatrixLike

__all__ = ["DENSITY", "MADEOutlierDetector"]

Floats = NDArray[np.float64]
Codes = NDArray[np.signedinteger[Any]]

DENSITY: dict[str, Any] = {
    "hidden_sizes": (256,),
    "n_bins": 4,
    "max_epochs": 60,
    "n_masks": None,
    "n_eval_masks": 8,
    "handle_unknown": "rare",
}
"""The parameters of the MADE that is fitted where none is given, as far as they are not its defaults. Quarters of a column are
enough to tell what goes with what; with more of them, clusters of odd rows come to look likely. Fresh masks: marginals of rows
that miss something are exact, and what a column adds is a mean over orderings."""

N_CENTRES = 256
"""Most kernels of a column, at as many quantiles: more do not change a density of the width of a kernel."""

AT_ONCE = 4096
"""Values whose density is asked at once."""

FARTHEST = 1e290
"""Widths of a kernel that a number is away, at most, so that sums are finite."""

FENCE = 1.5
"""Ranges between quartiles that a score is below the lower one where ``contamination="auto"`` calls it an outlier (Tukey)."""


@dataclass(eq=False, repr=False, match_args=False)
class MADEOutlierDetector(OutlierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Find rows that are unlike the others, or unlike those of training, in tables of any columns.

    X is what ``MADE.fit`` takes: 0/1 rows, an array of numbers, or a data frame with numbers, categories and text; entries may
    be missing. ``fit`` on rows among which some are odd and read ``labels_`` (or ``fit_predict``), or ``fit`` on good rows and
    ``predict`` new ones: it is the same detector. Signs are those of scikit-learn: scores are higher for normal rows,
    ``predict`` gives -1 for odd ones and 1 for others. What PyOD calls so has PyOD's sign: ``decision_scores_``,
    ``threshold_`` and ``labels_`` are higher for odd rows.

    Parameters
    ----------
    density : MADE or MADEEnsemble, optional
        A clone of it is fitted. None is a MADE of few levels a column, with ``random_state`` and ``n_threads`` of the
        detector: see ``made_fast.estimators.outliers.DENSITY``. Where it does not say what the columns of an array are,
        numbers are numeric.
    contamination : float or "auto"
        The share of the training rows that are to be called odd, above 0 and at most 0.5; it moves the threshold, nothing
        else. "auto" knows no share: odd are scores below the lower quartile of those of training by more than 1.5 times the
        range between the quartiles (Tukey's fence).
    bandwidth : float or None
        The densities of single numeric columns are smooth, by kernels of this many widths of Silverman's rule. None leaves
        that to the density: bins, ``score_samples(relative=True)``.
    random_state : None, int, Generator, SeedSequence or RandomState
        Of the density where none is given; an int makes ``fit`` repeat its bits.
    n_threads : int, optional
        As for ``MADE``.

    Attributes
    ----------
    density_ : MADE or MADEEnsemble
        As fitted: its ``score_samples`` are log-likelihoods in nats of the original units.
    offset_ : float
        Scores below it are odd: ``decision_function(X) = score_samples(X) - offset_``.
    decision_scores_ : (n,) ndarray of float64
        How odd the rows of training are: their ``score_samples`` with a minus.
    threshold_ : float
        ``-offset_``: rows with more are odd.
    labels_ : (n,) ndarray of int
        1 for odd rows of training, 0 for the others.
    n_features_in_ : int
    feature_names_in_ : (V,) ndarray of str
        If X had column names.

    References
    ----------
    B. Silverman. Density Estimation for Statistics and Data Analysis. 1986, section 3.4.2.

    Examples
    --------
    >>> import numpy as np
    >>> from made_fast import MADEOutlierDetector
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(500, 3))
    >>> X[7, 1] = 20
    >>> detector = MADEOutlierDetector(contamination=0.01, random_state=0).fit(X)
    >>> int(np.argmax(detector.decision_scores_)), int(np.argmax(detector.explain(X[7:8])))
    (7, 1)
    """

    density: Any = None
    _: KW_ONLY
    contamination: float | str = 0.1
    bandwidth: float | None = 1.0
    random_state: Any = None
    n_threads: int | None = None

    def fit(self, X: MatrixLike, y: Any = None) -> MADEOutlierDetector:
        """Fit the density to the rows of X, score them, and set the threshold; y is ignored.

        Wrong parameters or data raise TypeError or ValueError; what was fitted before then stays.
        """
        share = _contamination(self.contamination)
        width = None if self.bandwidth is None else arguments.positive_float(self.bandwidth, "bandwidth")
        arguments.n_threads(self.n_threads)
        made: FittedDensity
        if self.density is None:
            made = MADE(**DENSITY, random_state=self.random_state, n_threads=self.n_threads)
        elif isinstance(self.density, FittedDensity):
            made = clone(self.density)
        else:
            raise TypeError(f"density must be None, a MADE or a MADEEnsemble, got {shown(self.density)}.")
        assert isinstance(made, MADE | MADEEnsemble)
        if made.columns is None and made.binarize is None and isinstance(made.categorical_features, str | None):
            made.set_params(columns=_kinds(X))
        made.fit(X)
        model, kernels = made.model_, None
        if width is not None and isinstance(model, TableModel):
            kernels = {v: _Kernels.of(column, values, width) for v, column, values in _numeric(model.columns, X)}
        scores = _scores(made, kernels, X, self.n_threads)
        if share is None:
            low, high = np.quantile(scores, (0.25, 0.75))
            offset = float(low - FENCE * (high - low))
        else:
            offset = float(np.quantile(scores, share))
        learn_columns(self, X, encoder=model.encoder if isinstance(model, TableModel) else None)
        self.density_, self._kernels, self.offset_ = made, kernels, offset
        self.decision_scores_, self.threshold_ = -scores, -offset
        self.labels_ = (scores < offset).astype(np.intp)
        return self

    def score_samples(self, X: MatrixLike) -> Floats:
        """Return how normal each row is, (n,): a log-likelihood in nats, where numbers count beside those of training.

        A number by itself counts by how dense its column is there, beside the mean over the rows of training: no unit
        matters. A missing entry does not count. Rows that miss some are scored by the marginal of the others.
        """
        check_is_fitted(self, "density_")
        return _scores(self.density_, self._kernels, X, self.n_threads)

    def decision_function(self, X: MatrixLike) -> Floats:
        """Return ``score_samples(X) - offset_``, (n,): below 0 for odd rows."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: MatrixLike) -> NDArray[np.intp]:
        """Return -1 for odd rows and 1 for the others, (n,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def p_values(self, X: MatrixLike) -> Floats:
        """Return the share of the rows of training that are at least as odd as each row, with itself, (n,) in (0, 1].

        For a row that is like those of training, and was not among them, it is about uniform: rows with 0.01 or less are one
        in a hundred.
        """
        scores, train = self.score_samples(X), np.sort(-self.decision_scores_)
        share: Floats = (1 + np.searchsorted(train, scores, side="right")) / (1 + len(train))
        return share

    def explain(self, X: MatrixLike) -> Floats:
        """Return what each column adds to how odd each row is, (n, V) in nats: the largest one makes the row odd.

        They add up to ``-score_samples(X)`` (of rows that miss something, about). A value that is odd together with others
        counts in the column that comes later in the ordering of the density. A missing entry adds nothing.
        """
        check_is_fitted(self, "density_")
        model, n_threads = self.density_.model_, arguments.n_threads(self.n_threads)
        if not isinstance(model, TableModel):
            return np.asarray(model.explain(fitted_table(self.density_, X), n_threads=n_threads))
        if self._kernels is None:
            return model.explain(X, relative=True, n_threads=n_threads)
        codes, within = model.columns.encode(X, density=True)
        assert within is not None
        added: Floats = model.explain(X, n_threads=n_threads) + within  # the levels alone
        for v, beside in _beside(model, self._kernels, X, codes):
            added[:, v] -= beside
        return added

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = True
        return tags


@dataclass(frozen=True, eq=False)
class _Kernels:
    """A smooth density of a numeric column, and its levels: logistic kernels at quantiles of the rows of training.

    Beyond all of them it falls exponentially, so that every number has a score and a column of heavy tails does not drown the
    others. ``add`` is such that the mean of the log-density over the rows of training is 0.
    """

    centres: Floats
    log_weights: Floats
    width: float  # scale of a kernel
    log_shares: Floats  # of the levels in training
    add: float

    @classmethod
    def of(cls, column: Numeric, values: Values, bandwidth: float) -> _Kernels:
        """Return the density of the rows of training."""
        x = np.sort(values.values[~values.null].astype(np.float64))
        largest = float(np.abs(x).max()) or 1.0
        low, high = np.quantile(x / largest, (0.25, 0.75))  # divided, so that no square overflows
        spread = float(np.std(x / largest))
        if high > low:
            spread = min(spread, (high - low) / 1.34)
        if spread > 0:
            spread *= 0.9 * largest * len(x) ** -0.2
        else:  # one value, which says nothing of what is near
            spread = column.step or largest
        centres, counts = np.unique(x, return_counts=True)
        if len(centres) > N_CENTRES:
            quantiles = np.quantile(x, (np.arange(N_CENTRES) + 0.5) / N_CENTRES)
            centres, counts = np.unique(quantiles, return_counts=True)
        width = bandwidth * spread * np.sqrt(3) / np.pi  # of the standard deviation ``spread``
        log_shares = np.log(column.counts / column.counts.sum())
        found = cls(centres, np.log(counts / counts.sum()), float(width), log_shares, 0.0)
        return cls(centres, found.log_weights, found.width, log_shares, -float(found.log_density(x).mean()))

    def log_density(self, x: Floats) -> Floats:
        """Return the log-density of numbers (n,), up to a constant."""
        different, place = np.unique(x, return_inverse=True)
        out = np.empty(len(different))
        for start in range(0, len(different), AT_ONCE):
            with np.errstate(over="ignore"):
                far = np.abs(different[start : start + AT_ONCE, None] - self.centres) / self.width
            far = np.minimum(far, FARTHEST)
            out[start : start + AT_ONCE] = np.logaddexp.reduce(self.log_weights - far - 2 * np.log1p(np.exp(-far)), axis=1)
        return out[place.reshape(-1)] + self.add

    def beside(self, values: Values, codes: Codes) -> Floats:
        """Return the log-density of numbers less the log-share of their level, (n,); 0 for missing ones."""
        out = np.zeros(len(codes))
        there = np.flatnonzero(~values.null)
        out[there] = self.log_density(values.values[there].astype(np.float64)) - self.log_shares[codes[there]]
        return out


def _contamination(value: Any) -> float | None:
    """Return the share of odd rows, None for "auto"."""
    if isinstance(value, str) and value == "auto":
        return None
    if isinstance(value, str) or not 0 < (share := arguments.positive_float(value, "contamination")) <= 0.5:
        raise ValueError(f"contamination must be 'auto', or above 0 and at most 0.5, got {shown(value)}.")
    return share


def _kinds(X: Any) -> dict[str | int, str] | str | None:
    """Return what the columns of a table are: numbers are numeric. None for a table of 0, 1 and missing entries.

    0 and 1 among other columns are numbers, too: then a 2 that comes later is odd, and no error.
    """
    frame, binary = frames.read(X), True
    numbers: dict[str | int, str] = {}
    for label, values in frame.items():
        number = values.base in ("int", "float") and values.categories is None
        if number:
            numbers[label] = "numeric"
        x = values.values
        binary = binary and (values.base in ("bool", "null") or (number and bool(((x == 0) | (x == 1) | values.null).all())))
    return None if binary else numbers or "infer"


def _numeric(columns: Columns, X: Any) -> Iterator[tuple[int, Numeric, Values]]:
    """Yield the number of each numeric column, the column, and what a table that fits has in it."""
    frame = frames.read(X)
    at = {label: j for j, label in enumerate(frame.names or ())} if columns.named else {}
    for v, column in enumerate(columns.columns):
        if isinstance(column, Numeric):
            yield v, column, frame.column(at.get(column.name, v))


def _beside(model: TableModel, kernels: dict[int, _Kernels], X: Any, codes: Codes) -> Iterator[tuple[int, Floats]]:
    """Yield each numeric column, and how dense its numbers are in it beside their level, (n,)."""
    for v, _, values in _numeric(model.columns, X):
        yield v, kernels[v].beside(values, codes[:, v])


def _scores(made: Any, kernels: dict[int, _Kernels] | None, X: Any, n_threads: int | None) -> Floats:
    """Return the score of each row, (n,)."""
    model, threads = made.model_, arguments.n_threads(n_threads)
    if not isinstance(model, TableModel):
        return log_p_observed(model, fitted_table(made, X), threads)[0]
    codes, within = model.columns.encode(X, density="relative" if kernels is None else False, per_column=False)
    table = Coded(model.encoder.digits.split(codes), model.encoder.coding)
    log_p, _ = log_p_observed(model.density, table, threads)
    if within is not None:
        return log_p + within
    for _, beside in _beside(model, kernels or {}, X, codes):
        log_p += beside
    return log_p
