"""Questions about rows with missing inputs: how likely is what is there, what is the rest? NaN marks missing.

:class:`Queries` is the part of ``MADEModel`` that answers them; a model's parameters and masks are in ``model.py``, a member's
arithmetic in ``network.py``. Every answer is that of one member, or of a mixture of some: here the member is chosen whose
ordering suits the row; ``inquiry.py`` and ``evidence.py`` do the rest, for all rows that miss the same inputs at a time.

A member with the observed inputs first in its ordering answers by one pass: their marginal is the product of the first
conditionals, and one walk along the rest of the ordering draws what is missing (Uria, Murray, Larochelle, "A deep and
tractable density estimator", ICML 2014, section 3). If missing inputs stand before the last observed one ("early" ones), they
are summed out by enumeration where they are few, and else by importance sampling: walks that keep to the evidence propose, and
a walk weighs as much as the evidence is likely along it (Owen, "Monte Carlo theory, methods and examples", chapter 9). Such
an estimate comes with its standard error, or with an :class:`ApproximationWarning`.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from made_fast.inference.evidence import ENUMERATED
from made_fast.inference.inquiry import Inquiry, Table
from made_fast.network.architecture import Architecture
from made_fast.network.masks import Connectivity, MaskRule, MaskSet
from made_fast.network.network import Network
from made_fast.tables import arguments, checks, data
from made_fast.tables.choices import METHODS, N_WALKS

__all__ = ["ENUMERATED", "N_WALKS", "ApproximationWarning", "Queries", "log_p_observed"]

ORDERINGS = 0x6D616465
"""Goes into the seed of a connectivity drawn for a pattern, so that it is like no other seed."""

Floats: TypeAlias = "NDArray[np.float64]"


class ApproximationWarning(UserWarning):
    """An answer is an estimate: no ordering of the model puts the evidence first, and too much is missing to enumerate.

    ``finding`` says which answers and how good they are, without the way out.
    """

    finding = ""


class Queries(ABC):
    """What can be asked of a model about rows with missing inputs; a base of ``MADEModel``, which has what is declared here.

    One member answers for all rows with the same inputs missing, see :meth:`member_for`. ``n_members`` asks for the mixture of
    several instead, ``p = 1/M sum_m p_m``: each answer is then exactly that of this mixture. Parameters common to all methods:

    X : (n, D) of 0, 1 and NaN
        As for ``score_samples``, but NaN marks a missing input; or any numbers, if the model has a threshold ``binarize``.
    n_members : int
        How many members answer together. A model with a fixed set of K masks has K.
    n_walks : int
        Walks per row (and member), where an answer is an estimate; each takes 8 ceil(D / 64) bytes while a row is worked on.
    random_state : None, int, Generator, SeedSequence or RandomState
        For estimates and draws. An int gives the same bits every time, and those of a row do not depend on the other rows of
        the call, their order, ``n_draws`` or the number of threads: its random numbers come from ``random_state``, the member
        that answers, and what the row holds. Equal rows get equal estimates, but draws of their own: those of the k-th of
        them, so that a row alone gets the draws of the first.
    n_threads : int, optional
        By default the CPUs of this process. No result depends on it.
    """

    architecture: Architecture
    masks: MaskSet
    rule: MaskRule | None
    binarize: float | None

    @property
    @abstractmethod
    def dtype(self) -> np.dtype[Any]:
        """Type of the parameters."""

    @abstractmethod
    def member(self, mask: int | Connectivity = 0) -> Network:
        """Return the network under one mask."""

    @abstractmethod
    def _table(self, X: checks.MatrixLike) -> checks.Matrix:
        """Check a table of rows."""

    @property
    def most_members(self) -> int | None:
        """The most members that can answer together, K; None: any number, each drawn for the question."""
        return len(self.masks) if self.rule is None or self.rule.resample == "connectivity" else None

    def member_for(self, observed: Any, *, draw: int = 0) -> Connectivity:
        """Return the connectivity that answers for rows of which these inputs are observed.

        A model trained under ever fresh orderings (``n_masks=None``) answers by one that has the observed inputs first, in
        random order, and then the missing ones. It is drawn by a generator whose seed is the pattern, so it is always the
        same. Any other model answers by the member of its set that has the fewest missing inputs before the last observed one.

        Parameters
        ----------
        observed : (D,) bool
            True where an input is observed.
        draw : int
            Which of several: another connectivity, or the member of the set that comes next (ties: the smaller number).

        Raises
        ------
        TypeError, ValueError
            ``observed`` is no such mask, or the set has no such member.
        """
        mask = arguments.observed(observed, self.architecture.n_inputs)
        found = self._answering(mask, self._within(arguments.non_negative_int(draw, "draw"), "draw", 0))
        return found if isinstance(found, Connectivity) else self.masks[found]

    def log_marginal(
        self,
        X: checks.MatrixLike,
        *,
        n_members: int = 1,
        n_walks: int = N_WALKS,
        random_state: Any = 0,
        return_std: bool = False,
        n_threads: int | None = None,
    ) -> Floats | tuple[Floats, Floats]:
        """Return the log-likelihood of what is observed of each row, ``log sum_missing p(x)``; 0 where nothing is.

        Where nothing is missing it is that of the whole row under the answering member; ``score_samples`` gives that of the
        model's whole mixture.

        Parameters
        ----------
        X, n_members, n_walks, random_state, n_threads
            See :class:`Queries`.
        return_std : bool
            Return standard errors too.

        Returns
        -------
        (n,) float64, or two of them
            In nats; the standard errors are 0 where the answer is exact. An estimate is the log of an unbiased mean, and so
            too low on average, by about half the square of its standard error; that is itself estimated from the walks, and
            both are too low where hardly any walk happens to suit the evidence.

        Warns
        -----
        ApproximationWarning
            Some rows are estimates, and ``return_std`` is false.
        """
        asked = self._asked(X, n_members, n_walks, random_state, n_threads)
        log_p, std = asked.log_marginal()
        if return_std:
            return log_p, std
        if std.any():
            _warn("log_marginal", std > 0, asked, _worst(std, " nats"))
        return log_p

    def conditional(
        self,
        X: checks.MatrixLike,
        target: Any,
        *,
        n_members: int = 1,
        n_walks: int = N_WALKS,
        random_state: Any = 0,
        return_std: bool = False,
        n_threads: int | None = None,
    ) -> Floats | tuple[Floats, Floats]:
        """Return ``p(x_t = 1 | what is observed of the row)`` for one input t of each row.

        It is ``p(x_t = 1, observed) / p(observed)`` under the member that answers for the observed inputs and t together.

        Parameters
        ----------
        X, n_members, n_walks, random_state, n_threads
            See :class:`Queries`. What a row has at t is ignored.
        target : int, or (n,) of int
            Column t, counted from 0; the same for all rows, or one for each.
        return_std : bool
            Return standard errors too; 0 where the answer is exact.

        Returns
        -------
        (n,) float64, or two of them

        Warns
        -----
        ApproximationWarning
            As for :meth:`log_marginal`.
        """
        asked = self._asked(X, n_members, n_walks, random_state, n_threads)
        n = len(asked.table.bits)
        columns = arguments.target(target, n, self.architecture.n_inputs)
        log_p, std = replace(asked, table=asked.table.with_target(columns)).log_marginal()
        proba: Floats = np.exp(-np.logaddexp(0, log_p[:n] - log_p[n:]))
        std = proba * (1 - proba) * np.hypot(std[:n], std[n:])  # the delta method, on the logit
        if return_std:
            return proba, std
        if std.any():
            _warn("conditional", std > 0, asked, _worst(std))
        return proba

    def sample_conditional(
        self,
        X: checks.MatrixLike,
        n_draws: int = 1,
        *,
        n_members: int = 1,
        n_walks: int = N_WALKS,
        random_state: Any = None,
        n_threads: int | None = None,
    ) -> NDArray[np.uint8]:
        """Draw what is missing of each row, given what is observed.

        Draws are independent; those of a mixture come from member m with probability ``p_m(observed) / sum_m p_m(observed)``.
        Where evidence stands late in the ordering, the early missing inputs are drawn jointly: from their enumerated
        posterior, or else from ``n_walks`` weighted walks (sampling-importance-resampling, Rubin 1988).

        Parameters
        ----------
        X, n_members, n_walks, random_state, n_threads
            See :class:`Queries`.
        n_draws : int
            Draws for each row.

        Returns
        -------
        (n_draws, n, D) uint8
            Whole rows; observed entries are as they were.

        Warns
        -----
        ApproximationWarning
            Some rows were resampled. Their draws come from what so many walks have found; the text gives the smallest
            effective number of walks, ``(sum w)^2 / sum w^2``.
        """
        asked = self._asked(X, n_members, n_walks, random_state, n_threads)
        rows, effective = asked.draws(arguments.how_many(n_draws, "n_draws", 64 * asked.table.bits.size))
        if np.isfinite(effective).any():
            _warn("sample_conditional", np.isfinite(effective), asked, _fewest(effective))
        return rows

    def impute(
        self,
        X: checks.MatrixLike,
        method: str = "mode",
        *,
        n_members: int = 1,
        n_walks: int = N_WALKS,
        random_state: Any = 0,
        n_threads: int | None = None,
    ) -> NDArray[Any]:
        """Fill in what is missing of each row.

        Parameters
        ----------
        X, n_members, n_walks, random_state, n_threads
            See :class:`Queries`.
        method : {"mode", "mean", "sample"}
            "mode": one walk that sets each missing input, in the order of the answering member, to 1 if that is likelier than
            0 given the observed ones and those set before. It is greedy: other rows may be more probable as a whole. Of
            several members' rows, the one most probable under their mixture is taken. Where evidence stands late and the early
            missing inputs are too many to sum out, it is the most probable of a greedy walk that ignores such evidence and of
            ``n_walks`` drawn ones.
            "mean": ``E[x_d | observed]``. If no more than ``ENUMERATED`` inputs are missing it is exact; otherwise the
            conditionals along ``n_walks`` walks are averaged, which is unbiased, with a standard error of at most
            ``0.5 / sqrt(n_walks)``.
            "sample": one draw of :meth:`sample_conditional`.

        Returns
        -------
        (n, D) uint8, or float64 for "mean"
            Observed entries are as they were.

        Warns
        -----
        ApproximationWarning
            Some rows rest on weighted walks, see :meth:`sample_conditional`.
        """
        how = arguments.choice(method, "method", METHODS)
        asked = self._asked(X, n_members, n_walks, random_state, n_threads)
        filled: NDArray[Any]
        if how == "sample":
            drawn, effective = asked.draws(1)
            filled = drawn[0]
        else:
            filled, effective = asked.modes() if how == "mode" else asked.means()
        if np.isfinite(effective).any():
            _warn("impute", np.isfinite(effective), asked, _fewest(effective))
        return filled

    def _asked(self, X: checks.MatrixLike, n_members: Any, n_walks: Any, random_state: Any, n_threads: Any) -> Inquiry:
        n_members = self._within(arguments.positive_int(n_members, "n_members", largest=arguments.MOST), "n_members", 1)
        n_walks = arguments.positive_int(n_walks, "n_walks", largest=arguments.MOST)
        n_threads = arguments.n_threads(n_threads)
        rng, D = arguments.generator(random_state), self.architecture.n_inputs
        X = self._table(X)
        bits, missing = (
            data.pack_rows(X, np.arange(D), binarize=self.binarize, missing=True),
            data.pack_missing(X, np.arange(D)),
        )
        table = Table(bits, np.zeros_like(bits) if missing is None else missing, D)
        return Inquiry(self.architecture, self.dtype, self._network_for, table, n_members, n_walks, rng, n_threads)

    def _network_for(self, observed: NDArray[np.bool_], draw: int) -> Network:
        return self.member(self._answering(observed, draw))

    def _answering(self, observed: NDArray[np.bool_], draw: int) -> int | Connectivity:
        """Return the connectivity drawn for a pattern, or the number of a member of the set."""
        if self.rule is None or self.rule.resample == "connectivity":
            last = np.where(observed, self.masks.orderings, 0).max(axis=1)  # less the observed: how many are missing before it
            return int(np.argsort(last, kind="stable")[draw])
        rng = np.random.default_rng([ORDERINGS, draw, int.from_bytes(np.packbits(observed).tobytes(), "little")])
        ordering = np.empty(len(observed), np.int32)
        ordering[np.argsort(rng.random(len(observed)) + ~observed, kind="stable")] = np.arange(1, len(observed) + 1)
        return self.rule.with_orderings(ordering[None], rng)[0]

    def _within(self, number: int, name: str, first: int) -> int:
        """Return the number of a member, counted from ``first``, if there is such a one."""
        most = self.most_members
        if most is not None and number > most - 1 + first:
            raise ValueError(
                f"{name} must be at most {most - 1 + first}, for the model holds {most} mask(s), "
                f"got {arguments.shown(number)}. A model trained with n_masks=None answers by as many as are asked for."
            )
        return number


def log_p_observed(model: Any, X: checks.Matrix, n_threads: int | None, *, return_std: bool = False, **asking: Any) -> Any:
    """Return log p of what is observed of each row of a checked table, in nats: what tables with gaps are scored by.

    A row that misses nothing has what ``score_samples`` says, under the whole mixture, whatever the others miss; the others
    have their ``log_marginal``, which takes ``asking``. Returns (n,) float64, with ``return_std`` standard errors too; without
    them, estimates come with an ApproximationWarning.
    """
    log_p, std = np.zeros((2, X.shape[0]))  # what is too large for that is refused before the search
    gaps = np.zeros(X.shape[0], np.bool_)
    for part in data.chunks(*X.shape):
        nan = checks.missing(X[part])
        if nan is not None:
            gaps[part] = nan.any(axis=1)
    if gaps.any() and not gaps.all():  # a value that is refused is refused here, where rows still have their numbers
        data.pack_rows(X, np.arange(X.shape[1]), binarize=model.binarize, missing=True)
    whole, torn = (X if some.all() else X[np.flatnonzero(some)] if some.any() else None for some in (~gaps, gaps))
    if whole is not None:
        log_p[~gaps] = model.score_samples(whole, n_threads=n_threads)
    if torn is not None and return_std:
        log_p[gaps], std[gaps] = model.log_marginal(torn, return_std=True, n_threads=n_threads, **asking)
    elif torn is not None:
        log_p[gaps] = model.log_marginal(torn, n_threads=n_threads, **asking)
    return (log_p, std) if return_std else log_p


def _warn(method: str, estimated: NDArray[np.bool_], asked: Inquiry, how_good: str) -> None:
    finding = (
        f"{method}: {estimated.sum()} of {len(estimated)} rows are estimates by importance sampling, {asked.n_walks} walks "
        f"each, since no ordering of the model puts what they observe first; {how_good}"
    )
    warning = ApproximationWarning(
        f"{finding}. More walks (n_walks) come closer; a model trained with n_masks=None needs none."
    )
    warning.finding = finding
    warnings.warn(warning, stacklevel=3)


def _worst(std: Floats, unit: str = "") -> str:
    return f"the largest standard error is {std.max():.2g}{unit} (return_std=True returns them all)"


def _fewest(effective: Floats) -> str:
    return f"the smallest effective number of walks is {effective.min():.1f}"
