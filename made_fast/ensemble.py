"""``MADEEnsemble``, the scikit-learn estimator of a mixture: members trained apart, and what each of them weighs.

Not here: training of one member (``estimator.py`` and below), the fitted mixture (``mixture.py``), the mixture over masks that
share one set of weights (``n_masks`` of ``MADE``).
"""

from __future__ import annotations

import inspect
import os
import secrets
from collections.abc import Sequence
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import validate_data

from made_fast import arguments, checks, data, threads
from made_fast.estimator import MADE
from made_fast.fitted import FittedDensity
from made_fast.masks import read_only
from made_fast.mixture import MixtureModel
from made_fast.model import MADEModel

__all__ = ["WEIGHTS", "MADEEnsemble", "em_weights"]

WEIGHTS = ("equal", "em")

MADE_PARAMS = {
    name: parameter.default
    for name, parameter in inspect.signature(MADE.__init__).parameters.items()
    if name not in ("self", "random_state")
}
"""What a member is made with, and the defaults."""


class MADEEnsemble(FittedDensity):
    """A mixture of MADEs trained independently, ``p(x) = sum_m w_m p_m(x)``: an exact density model of binary data.

    Members differ in their random numbers: masks, initial weights, order of the rows. They are trained by joblib: on threads
    of this process, or wherever ``joblib.parallel_config`` says (processes, a Dask or a Ray cluster).

    Parameters
    ----------
    n_members : int
        Number of MADEs, M.
    weights : {"equal", "em"}
        What the members weigh in the mixture: 1/M each, or what makes the validation rows most likely, found by EM
        (:func:`em_weights`). That needs ``X_val`` or ``validation_fraction``; rows that early stopping has looked at already.
    n_jobs : int, optional
        Members trained at the same time, as scikit-learn has it: None is one after the other, unless
        ``joblib.parallel_config`` says otherwise, -1 as many as there are CPUs. Each gets an equal part of ``n_threads``, one
        at least. Two members at the same time on two CPUs were trained 1.5 to 2 times as fast as in turn on both (180 inputs,
        30 to 500 hidden units). No result depends on it.
    random_state : None, int, Generator, SeedSequence or RandomState
        Every member's own is drawn from it; an int makes ``fit`` repeatable to the bit. What member m gets does not depend on
        ``n_members`` or ``n_jobs``.
    **made_params
        Any parameter of ``MADE``, with the defaults it has there; ``get_params``, ``set_params`` and ``clone`` know them all.
        ``n_threads`` is that of all members together. The rows of ``validation_fraction`` are held out once, the same for all.

    Attributes
    ----------
    members_ : list of MADE
        Fitted; each with its ``history_`` and ``best_epoch_``.
    weights_ : (M,) ndarray of float64
        Positive, adding up to 1.
    model_ : MixtureModel
        The fitted mixture, for inference.
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

    def __init__(
        self,
        n_members: int = 5,
        *,
        weights: str = "equal",
        n_jobs: int | None = None,
        random_state: Any = None,
        **made_params: Any,
    ) -> None:
        for name in made_params.keys() - MADE_PARAMS.keys():
            raise TypeError(
                f"MADEEnsemble has no parameter {name!r}. Those that it takes of MADE are {', '.join(MADE_PARAMS)}."
            )
        self.n_members = n_members
        self.weights = weights
        self.n_jobs = n_jobs
        self.random_state = random_state
        for name, value in (MADE_PARAMS | made_params).items():
            setattr(self, name, value)

    def fit(
        self, X: checks.MatrixLike, y: Any = None, *, X_val: checks.MatrixLike | None = None, sample_weight: Any = None
    ) -> MADEEnsemble:
        """Train the members from scratch, then find their weights.

        Parameters
        ----------
        X : (n, D) of 0/1
            As for ``MADE.fit``; NaN marks a missing entry.
        y : ignored
        X_val : (n_val, D) of 0/1, optional
            Rows for early stopping of every member, and for EM. NaN marks missing entries: the observed ones then count.
        sample_weight : (n,) of float, optional
            As for ``MADE.fit``.

        Raises
        ------
        ValueError, TypeError
            A parameter or the data is not as demanded. What was fitted before stays.
        FloatingPointError
            The loss of a member became infinite or NaN. What was fitted before stays.
        """
        n_members = arguments.positive_int(self.n_members, "n_members", largest=arguments.MOST)
        n_threads, n_jobs = arguments.n_threads(self.n_threads), arguments.n_jobs(self.n_jobs)
        weights = arguments.choice(self.weights, "weights", WEIGHTS)
        if weights == "em" and X_val is None and self.validation_fraction is None:
            raise ValueError("weights='em' needs validation rows, got none. Pass X_val to fit, or set validation_fraction.")
        table = checks.matrix(X)
        row_weights: Any = arguments.sample_weight(sample_weight, table.shape[0])
        for_splitting, *for_members = arguments.generator(self.random_state).spawn(n_members + 1)
        if X_val is None and self.validation_fraction is not None:
            train, held_out = self._hold_out(table.shape[0], for_splitting)
            X_val, table = table[held_out], table[train]
            row_weights = row_weights[train] if len(row_weights) else row_weights
        elif X_val is not None:
            X_val = checks.matrix(X_val, table.shape[1], name="X_val")
        at_once = max(1, min(n_members, joblib.effective_n_jobs(n_jobs)))
        params = {name: getattr(self, name) for name in MADE_PARAMS}
        params["n_threads"] = max(1, n_threads // at_once)
        members = _train(
            [MADE(**params, random_state=int(rng.integers(2**63))) for rng in for_members],
            table,
            {"X_val": X_val, "sample_weight": row_weights if len(row_weights) else None},
            n_jobs,
            own_threads=self.n_threads is not None,
        )
        models = [made.model_ for made in members]
        found = np.full(n_members, 1 / n_members)
        if weights == "em":
            found, _ = em_weights(np.stack([_log_p(model, X_val, n_threads) for model in models]))
        validate_data(self, X, reset=True, skip_check_array=True)
        for made in members:
            made.set_params(n_threads=self.n_threads)
            if hasattr(self, "feature_names_in_"):
                made.feature_names_in_ = self.feature_names_in_
        self.members_ = members
        self.weights_ = read_only(found)
        self.model_ = MixtureModel(models, found, hyper={"n_members": n_members, "weights": weights})
        return self

    def _hold_out(self, n: int, rng: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the numbers of the rows to train on and of those to validate on, by MADE's rule."""
        splitter = MADE(validation_fraction=self.validation_fraction)
        splitter._split_seed = int(rng.integers(2**63))
        return splitter._hold_out(n)


def _name_the_parameters() -> None:
    """Put MADE's parameters into the signature: scikit-learn, ``help`` and editors read there what parameters there are."""
    own = inspect.signature(MADEEnsemble.__init__)
    named = [p for p in own.parameters.values() if p.kind != inspect.Parameter.VAR_KEYWORD]
    made = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default) for name, default in MADE_PARAMS.items()]
    MADEEnsemble.__init__.__signature__ = own.replace(parameters=[*named, *made])  # type: ignore[attr-defined]


_name_the_parameters()


def em_weights(
    log_p: NDArray[np.float64], *, tolerance: float = 1e-9, max_iterations: int = 1000
) -> tuple[NDArray[np.float64], list[float]]:
    """Fit the weights of a mixture, whose components stay as they are, by EM from equal weights.

    An iteration sets ``w_m`` to the mean over the rows of ``w_m p_m(x) / sum_j w_j p_j(x)`` (Dempster, Laird, Rubin 1977,
    section 4.3). The likelihood never falls, and its only maximum is the global one: its logarithm is concave in w.

    Parameters
    ----------
    log_p : (M, n) float64
        Log-likelihood of each row under each component, finite.
    tolerance : float
        Stop when an iteration gains less than this, relative to the size of the log-likelihood.
    max_iterations : int
        Stop after so many in any case.

    Returns
    -------
    weights : (M,) float64
        Positive, adding up to 1.
    scores : list of float
        Mean log-likelihood of a row in nats, before the first iteration and after each that has gained something.
    """
    M = len(log_p)
    largest = log_p.max(axis=0)
    P = np.exp(log_p - largest)  # one component of each row has 1 here: nothing underflows that matters
    weights = np.full(M, 1 / M)
    scores = [_mixed(weights, P, largest)]
    for _ in range(max_iterations):
        better = np.maximum(weights * (P / (weights @ P)).mean(axis=1), np.finfo(np.float64).tiny)  # never 0: it would stay 0
        better /= better.sum()
        score = _mixed(better, P, largest)
        if not score > scores[-1]:
            break
        gain = score - scores[-1]
        weights = better
        scores.append(score)
        if gain < tolerance * abs(score):
            break
    return weights, scores


def _mixed(weights: NDArray[np.float64], P: NDArray[np.float64], largest: NDArray[np.float64]) -> float:
    return float(np.mean(np.log(weights @ P) + largest))


def _log_p(model: MADEModel, X: Any, n_threads: int) -> NDArray[np.float64]:
    """Return log p of what is observed of each row."""
    if all(checks.missing(X[part]) is None for part in data.chunks(*X.shape)):
        return model.score_samples(X, n_threads=n_threads)
    log_p, _ = model.log_marginal(X, return_std=True, n_threads=n_threads)
    return log_p


# Members at the same time


_running: set[str] = set()
"""The calls of this process that train members. joblib waits for no thread when one of them fails or Ctrl-C comes; a member
whose call is no longer here stops after its epoch."""


def _train(members: Sequence[MADE], X: Any, options: dict[str, Any], n_jobs: int | None, *, own_threads: bool) -> list[MADE]:
    """Fit the members and return them, as copies if they were fitted in other processes.

    ``own_threads``: the user has said how many threads there are, for whatever machine the members are trained on.
    """
    call = f"{os.getpid()} {secrets.token_hex(8)}"
    parallel = joblib.Parallel(n_jobs=n_jobs, prefer="threads")
    _running.add(call)
    try:
        return list(parallel(joblib.delayed(_fit)(call, made, X, options, own_threads) for made in members))
    finally:
        _running.discard(call)


def _fit(call: str, made: MADE, X: Any, options: dict[str, Any], own_threads: bool) -> MADE:
    """Fit one member, on a thread of the process that called or in another process."""
    if not own_threads:
        made.set_params(n_threads=min(made.n_threads or 1, threads.available()))  # another machine may have fewer
    in_caller = call.split()[0] == str(os.getpid())
    made._called_off = lambda: in_caller and call not in _running  # type: ignore[method-assign]
    try:
        return made.fit(X, **options)
    except KeyboardInterrupt:
        if not made._called_off():
            raise
        return made  # nobody waits for this member
    finally:
        del made._called_off
