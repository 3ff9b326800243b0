"""``MADEEnsemble``, the scikit-learn estimator of a mixture: members trained apart, and their weights.

Not here: training of one member (``estimator.py``), of several at the same time (``parallel.py``), the search of
``preset="best"`` (``search.py``), the fitted mixture (``mixture.py``), the mixture over masks (``MADE``).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field, fields, make_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast.estimators.base import FittedDensity, learn_columns
from made_fast.estimators.columns import learned
from made_fast.estimators.estimator import MADE
from made_fast.estimators.parallel import at_a_time, fit_all
from made_fast.estimators.search import MOST_MEMBERS, Search, Workers
from made_fast.inference.density import log_p_observed
from made_fast.inference.mixture import MixtureModel
from made_fast.inference.tablemodel import TableModel
from made_fast.system.blas import weighted_sum
from made_fast.tables import arguments
from made_fast.tables.choices import PRESETS, TIME_BUDGET, WEIGHTS
from made_fast.tables.columns.encoder import Encoder
from made_fast.tables.table import MatrixLike
from made_fast.training import recipe
from made_fast.training.checkpoint import EpochRecord
from made_fast.training.hyper import DEFAULTS, HyperParameters
from made_fast.training.rows import Rows, check_weights, hold_out

__all__ = ["MADEEnsemble", "em_weights"]

N_MEMBERS = 5

VALIDATION = 0.1
"""Share of the rows that ``preset="best"`` holds out, where the user does not say."""

_KeywordParameters: Any = make_dataclass(
    "_KeywordParameters",
    [(stated.name, stated.type, field(default=stated.default, kw_only=True)) for stated in fields(HyperParameters)],
    eq=False,
    repr=False,
)
"""The parameters of ``MADE`` by name only: the first of an ensemble by position is ``n_members``."""


@dataclass(eq=False, repr=False, match_args=False)
class MADEEnsemble(_KeywordParameters, FittedDensity):  # type: ignore[misc]
    """A mixture of MADEs trained independently, ``p(x) = sum_m w_m p_m(x)``: an exact density model of tables.

    Members differ in their random numbers: orderings and degrees, initial weights, order of the rows. Members of different
    orderings in equal parts are the recommended recipe, often nats better than one. They are trained by joblib: on threads
    of this process, or wherever ``joblib.parallel_config`` says (processes, a Dask or a Ray cluster).

    Parameters
    ----------
    n_members : int, optional
        Number of MADEs, M. None is 5; with ``preset="best"`` as many as help and find time, 32 at the most.
    weights : {"equal", "em"}
        Weights of the members: 1/M each, or those under which the validation rows are most likely, found by EM
        (``em_weights``). That needs ``X_val`` or ``validation_fraction``; early stopping has seen these rows already.
    n_jobs : int, optional
        Members trained at the same time: -1 is as many as there are CPUs; None as many as ``n_threads``, unless
        ``joblib.parallel_config`` says otherwise or joblib runs this fit itself. Each gets an equal part of ``n_threads``, at
        least one. Two at a time on two CPUs take 1/2 to 2/3 of the time of one after the other on both (180 inputs, 30 to 500
        hidden units). No result depends on it.
    preset : {"none", "best"}
        "best" searches before it trains: it walks over dropout, weight decay, AdaGrad, two and four times the units, half the
        batch, averaging, other rates, no direct connections, and points of a latent mixture, one after the other, and keeps
        what brings the validation rows closer. Members of different orderings, trained with what it has chosen, are added as
        long as they help; masks that vary replace them if one such model is better than as many as are the same work. At
        last, whatever it has tried joins them if they are better with it, and more like it. It begins with the parameters
        given here, and takes a tenth of the rows for validation if it gets none. The same choices and the same
        ``random_state`` give the same members; how far the search comes is a matter of time, and so of the machine.
    time_budget : float
        Seconds that ``fit`` may take with ``preset="best"``: about 40 % for the search, the rest for members. An epoch that
        has begun is ended, so that a large table may take longer.
    refit : bool
        With ``preset="best"``: train the members again at last, for the mean number of their best epochs, on the validation
        rows too, in half of the time for members; a warning says how many there was no time for. What they score then is not
        known.
    random_state : None, int, Generator, SeedSequence or RandomState
        Every member's own is drawn from it; an int makes ``fit`` repeat its bits. That of member m does not depend on
        ``n_members`` or ``n_jobs``.
    **made_params
        Any parameter of ``MADE``, with the defaults it has there; ``get_params``, ``set_params`` and ``clone`` know them all.
        ``n_threads`` is that of all members together. The rows of ``validation_fraction`` are held out once, the same for all.

    Attributes
    ----------
    members_ : list of MADE
        Fitted; each with its ``history_`` and ``best_epoch_``.
    search_ : list of dict
        With ``preset="best"``: what was tried, ``setting`` (what differs from the parameters given) or ``members`` (how many
        there were then), ``validation_nll``, ``best_epoch``, ``epochs``, ``seconds``, ``whole`` (its time was not up) and
        ``better`` (it was kept). ``verbose`` shows it line by line.
    chosen_ : dict
        With ``preset="best"``: the parameters that the search has changed; the members have them, but for those that were
        tried with other settings and have joined them.
    weights_ : (M,) ndarray of float64
        Positive, adding up to 1. Read-only.
    model_ : MixtureModel
        The fitted mixture, for inference; of columns that are not 0/1, a ``TableModel`` around it.
    n_features_in_ : int
    feature_names_in_ : (D,) ndarray of str
        If X had column names.

    References
    ----------
    A. Dempster, N. Laird, D. Rubin. Maximum likelihood from incomplete data via the EM algorithm. JRSS B 39, 1977.

    Examples
    --------
    >>> import numpy as np
    >>> from made_fast import MADEEnsemble
    >>> X = np.repeat([[0, 0, 1, 1], [1, 1, 0, 0]], 50, axis=0)
    >>> ensemble = MADEEnsemble(3, hidden_sizes=(16,), batch_size=10, learning_rate=0.01, random_state=0).fit(X)
    >>> bool(ensemble.score(X) > -0.8)  # the best possible is log(1 / 2) = -0.69
    True
    >>> ensemble.set_params(max_epochs=5).get_params()["max_epochs"]
    5
    """

    n_members: int | None = None
    _: KW_ONLY
    weights: str = WEIGHTS[0]
    n_jobs: int | None = None
    preset: str = PRESETS[0]
    time_budget: float = TIME_BUDGET
    refit: bool = False

    def fit(
        self,
        X: MatrixLike,
        y: Any = None,
        *,
        X_val: MatrixLike | None = None,
        context: Any = None,
        context_val: Any = None,
        sample_weight: Any = None,
        sample_weight_val: Any = None,
        callback: Callable[[int, EpochRecord], Any] | None = None,
    ) -> MADEEnsemble:
        """Train the members from scratch, then find their weights.

        Parameters
        ----------
        X : (n, D) of 0/1, or a table
            As for ``MADE.fit``; NaN marks a missing entry.
        y : ignored
        X_val : (n_val, D) of 0/1, optional
            Rows for early stopping of every member, and for EM. NaN marks missing entries: the observed ones then count.
        context, context_val : tables, optional
            As for ``MADE.fit``.
        sample_weight, sample_weight_val : optional
            As for ``MADE.fit``; EM counts validation rows by theirs.
        callback : callable, optional
            Called as ``callback(m, record)`` after every epoch of member m, on the thread or in the process that trains it;
            see ``MADE.fit``. Fits of the search of ``preset="best"`` do not call it.

        Raises
        ------
        ValueError, TypeError
            A parameter or the data is not as demanded. What was fitted before stays.
        FloatingPointError
            The loss of a member became infinite or NaN (with ``preset="best"``, of every setting). What was fitted before
            stays.
        KeyboardInterrupt
            Ctrl-C. With ``preset="best"`` the members that are trained so far become the model; else what was fitted before
            stays.

        Warns
        -----
        UserWarning
            Columns of X have no observed entry: nothing is learned of them. With ``refit``: there was no time to train all
            members again; the others stay as they were.
        """
        best = arguments.choice(self.preset, "preset", PRESETS) == "best"
        usual = MOST_MEMBERS if best else N_MEMBERS
        n_members = usual if self.n_members is None else self.n_members
        n_members = arguments.positive_int(n_members, "n_members", largest=arguments.MOST)
        n_threads = arguments.n_threads(self.n_threads)
        n_jobs = at_a_time(arguments.n_jobs(self.n_jobs), n_members, n_threads)
        workers = Workers(n_jobs, n_threads, own_threads=self.n_threads is not None)
        weights = arguments.choice(self.weights, "weights", WEIGHTS)
        callback = arguments.function(callback, "callback")
        seconds, refit = arguments.positive_float(self.time_budget, "time_budget"), arguments.boolean(self.refit, "refit")
        fraction = VALIDATION if best and self.validation_fraction is None else self.validation_fraction
        if weights == "em" and X_val is None and fraction is None:
            raise ValueError("weights='em' needs validation rows, got none. Pass X_val to fit, or set validation_fraction.")
        params = {name: getattr(self, name) for name in DEFAULTS if name != "random_state"}
        encoder = learned(X, context, params, self._names, sample_weight)
        if encoder is None:
            rows = Rows.of(X, sample_weight, self._names)
        else:
            rows = Rows.of(encoder.encode(X, context, within=True), sample_weight, None)
        if encoder is not None and X_val is not None:
            X_val = encoder.encode(X_val, context_val, name="X_val", within=True)
        elif context_val is not None:
            raise ValueError("context_val must come with X_val and a context, got it alone.")
        held = rows.validation(X_val, sample_weight_val)
        for_splitting, *for_members = arguments.generator(self.random_state).spawn(n_members + 1)
        rows.check_observed(warn=True)
        if held is None and fraction is not None:
            seed = int(for_splitting.integers(2**63))
            train, rest = hold_out(rows.table.shape[0], fraction, seed)
            rows, held = rows.take(train), rows.take(rest)
        check_weights(rows.weights, held and held.weights)
        seeds = [int(rng.integers(2**63)) for rng in for_members]
        if best:
            recipe.checked(params, rows.table.shape[1])  # the search would put values of its own in place of wrong ones
            assert held is not None
            search = Search(params, rows, held, seeds, seconds, workers, callback)
            try:
                search.run(refit=refit)
            finally:
                if search.members:
                    self._take([fit.made for fit in search.members], held, X, encoder, search)
            if refit and search.refitted < len(search.members):
                found = f"{search.refitted} of {len(search.members)} members were trained again on the validation rows too"
                message = (
                    f"{found}; there was no time for the others, which stay as they were. Raise time_budget = {seconds:g}."
                )
                warnings.warn(message, UserWarning, stacklevel=2)
            return self
        params["n_threads"] = max(1, n_threads // workers.at_once(n_members))
        made = [MADE(**params, random_state=seed) for seed in seeds]
        self._take(fit_all(made, rows, held, callback, n_jobs, own_threads=workers.own_threads), held, X, encoder)
        return self

    def _take(
        self,
        members: list[MADE],
        held: Rows | None,
        X: MatrixLike,
        encoder: Encoder | None,
        search: Search | None = None,
    ) -> None:
        """Make the mixture of the members."""
        models = [made.model_ for made in members]
        found = np.full(len(models), 1 / len(models))
        if self.weights == "em":
            assert held is not None
            log_p = np.stack([log_p_observed(model, held.table, arguments.n_threads(self.n_threads))[0] for model in models])
            found, _ = em_weights(log_p, held.weights)
        learn_columns(self, X, self._names, encoder)
        for made in members:
            made.set_params(n_threads=self.n_threads)
            if encoder is not None:
                made._belong_to(encoder)
        notes: dict[str, Any] = {"n_members": len(models), "weights": self.weights}
        if search is not None:
            self.search_, self.chosen_ = search.records, search.chosen
            notes |= {"preset": self.preset, "chosen": recipe.plain(search.chosen)}
        self.members_ = members
        mixture = MixtureModel(models, found, hyper=notes)
        self.model_ = mixture if encoder is None else TableModel(mixture, encoder)
        self.weights_ = mixture.weights


def em_weights(
    log_p: NDArray[np.float64],
    row_weights: NDArray[np.float64] | None = None,
    *,
    tolerance: float = 1e-9,
    max_iterations: int = 1000,
) -> tuple[NDArray[np.float64], list[float]]:
    """Fit the weights of a mixture, whose components stay as they are, by EM from equal weights.

    An iteration sets ``w_m`` to the mean over the rows of ``w_m p_m(x) / sum_j w_j p_j(x)`` (Dempster, Laird, Rubin 1977,
    section 4.3). The likelihood never falls, and its only maximum is the global one: its logarithm is concave in w.

    Parameters
    ----------
    log_p : (M, n) float64
        Log-likelihood of each row under each component, finite.
    row_weights : (n,) float64, optional
        Weights of the rows in that mean, >= 0 and not all 0; none, or length 0, is 1 for all.
    tolerance, max_iterations
        Stop when an iteration gains less than this share of the log-likelihood, or after so many.

    Returns
    -------
    weights : (M,) float64
        Positive, adding up to 1.
    scores : list of float
        Mean log-likelihood of a row in nats, before the first iteration and after each that has gained.
    """
    if row_weights is not None and len(row_weights):
        log_p, row_weights = log_p[:, row_weights > 0], row_weights[row_weights > 0]
    else:
        row_weights = None
    M = len(log_p)
    largest = log_p.max(axis=0)
    P = np.exp(log_p - largest)  # the largest of each row is 1: no underflow matters

    def score(weights: NDArray[np.float64]) -> float:
        return float(np.average(np.log(weighted_sum(weights, P)) + largest, weights=row_weights))

    weights = np.full(M, 1 / M)
    scores = [score(weights)]
    for _ in range(max_iterations):
        share = np.average(P / weighted_sum(weights, P), axis=1, weights=row_weights)
        better = np.maximum(weights * share, np.finfo(np.float64).tiny)  # never 0: it would stay 0
        better /= better.sum()
        if not (last := score(better)) > scores[-1]:
            break
        weights = better
        scores.append(last)
        if last - scores[-2] < tolerance * abs(last):
            break
    return weights, scores
