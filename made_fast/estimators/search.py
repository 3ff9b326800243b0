"""``preset="best"``: a walk over settings by validation rows, then members of different orderings, within a time budget.

The walk goes along one ingredient at a time, in the order of what each has gained on the usual sets, and keeps what is better
on the validation rows. All of its fits have the random numbers of the first member, so that settings are compared, not draws,
and the winner is the first member already. Two layers under several masks, points of a latent mixture and masks that vary,
other kinds of models, compete with it. At last, of all that was tried, those join the members with which they are better, and
more of the kinds that were beaten, as long as they do. Time decides how far the walk comes, what is too slow for members, and
how many there are, nothing else.

Not here: which settings are tried (``settings.py``), how members are fitted at the same time (``parallel.py``), the estimator
(``ensemble.py``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import joblib
import numpy as np
from numpy.typing import NDArray

from made_fast.estimators.estimator import MADE
from made_fast.estimators.parallel import fit_all
from made_fast.estimators.settings import Setting, alternatives, fresh_masks, several_masks, two_layers
from made_fast.inference.density import log_p_observed
from made_fast.system.console import say
from made_fast.tables.coded import Coded
from made_fast.training.checkpoint import EpochRecord
from made_fast.training.rows import Rows

__all__ = ["MOST_MEMBERS", "Search", "Workers"]

PATIENCE = 10
"""Epochs without a better validation score that end a fit, or fewer if the user says so: with an average over epochs the score
is smooth, and thrice as many, the default, take twice the time."""

MAX_EPOCHS = 1000
"""Epochs that every fit may make: early stopping and the budget end it."""

SEARCH, FIRST, REFIT = 0.4, 0.25, 0.5
"""Share of the budget for the walk, share of that for one of its first fits, and share of the rest to train members again:
they take nearly as long as at first."""

LONGER, PART = 3.0, 1 / 4
"""How many times longer than the best fit so far another setting may take, and which part of the time that is left, if that is
more."""

MARGIN, ENOUGH, CHANCE = 1e-5, 1e-4, 2e-4
"""Shares of the validation NLL: a setting must be better by the first; two members that bring less than the second each are
the last; the last members may make it worse by the third, as more of them are better in the long run."""

POINTS, FEWEST, NEAR = 16, 4, 0.02
"""Points of a latent mixture that are tried, if there is time for so many members with them, and which share of the NLL the
setting they are tried with may be behind. On sparse sets one such model gains as much as eight members do, in the time of
eight, and members of it gain as much again."""

MANY, PRICE = 8, 5e-4
"""Where there is no time for so many members of a setting, each halving of their number costs it this share of the NLL: about
half of what twice the members bring."""

RIVALS = 4
"""Members that there are when masks that vary are tried, which must beat as many of them as are the same work."""

VARIETY = 0.25
"""Share of the time for members that is kept for those of a rival of what is chosen, points or masks that vary or neither."""

MOST_MEMBERS = 32

FEW_ONES = 10
"""Ones of a row, on average, up to which two layers under several masks are tried. Of rows of few items, such as baskets, one
such network learns what many members of one layer do not; of others it is worse, and the time for it would be lost."""

FEW_ROWS, FRESH_EPOCHS = 10_000, 200
"""Training rows up to which ever fresh masks are tried, which keep a small set from being learnt by heart; and the epochs that
there must be time for, as they need many."""


class Workers(NamedTuple):
    """Who trains: jobs of joblib, threads of all of them, and whether the user has set those."""

    n_jobs: int | None
    n_threads: int
    own_threads: bool

    def at_once(self, n: int) -> int:
        """Return how many of n fits run at the same time."""
        return max(1, min(n, int(joblib.effective_n_jobs(self.n_jobs))))


class Fit(NamedTuple):
    """One fit and how good it is."""

    setting: Setting
    seed: int
    made: MADE
    log_p: NDArray[np.float64]  # of the validation rows, under the model
    nll: float  # their mean; infinite if there is no epoch
    seconds: float
    is_whole: bool  # it ended by itself, not because its time was up

    @property
    def work(self) -> float:
        """About what it takes; not its seconds, so that the same fits lead to the same choice."""
        made = self.made
        return float(len(made.history_) * made.model_.n_parameters * max(1, made.latent_points / 2))


class Search:
    """The walk and the members.

    Parameters
    ----------
    params : mapping
        Those of ``MADE``, without ``random_state``; the walk changes some.
    rows, held : Rows
        To train on, and to validate on.
    seeds : sequence of int
        One for each member there may be.
    seconds : float
        The budget, in wall time, from now on.
    workers : Workers
    callback : callable, optional
        ``callback(m, record)`` after every epoch of member m; fits of the walk are of no member.

    Attributes
    ----------
    members : list of Fit
        So far, also if the search was interrupted.
    chosen : dict
        The parameters that the walk has changed.
    records : list of dict
        What was tried: ``setting``, ``validation_nll``, ``best_epoch``, ``epochs``, ``seconds``, ``whole``, ``better``; and
        for each lot of members, ``members``, how many there are then, in place of ``setting``.
    refitted : int
        Members that were trained again on all rows.
    """

    def __init__(
        self,
        params: Mapping[str, Any],
        rows: Rows,
        held: Rows,
        seeds: Sequence[int],
        seconds: float,
        workers: Workers,
        callback: Callable[[int, EpochRecord], Any] | None = None,
    ) -> None:
        self.begin, self.seconds = time.monotonic(), seconds
        self.params, self.rows, self.held, self.seeds = dict(params), rows, held, seeds
        self.params["patience"] = min(params["patience"], PATIENCE)
        self.workers, self.callback = workers, callback
        self.chosen: Setting = {}
        self.members: list[Fit] = []
        self.records: list[dict[str, Any]] = []
        self._best: Fit | None = None
        self._next = 0  # the number of the next member
        self.refitted = 0
        self._others: list[Fit] = []  # fits of other settings, that may join the members
        self._rivals: list[Fit] = []  # of one network, points and masks that vary: the best ones of those not chosen
        self._curve: list[float] = []  # validation NLL of the mixture of the first members, of more and more of them

    def run(self, *, refit: bool) -> None:
        """Search, then train members; ``refit``: then train them again, with the validation rows put back."""
        until = 1 - (1 - SEARCH) * (REFIT if refit else 0.0)  # share of the budget that is over when the last member ends
        self._walk(SEARCH, until)
        self._try_two_layers(until)
        self._try_points(until)
        grown = until - (VARIETY * (until - SEARCH) if self._rivals else 0.0)
        self._grow(grown, min(RIVALS, len(self.seeds)))
        self._try_masks(grown)
        self._grow(grown, len(self.seeds))
        if not self.members:
            raise FloatingPointError(
                "the loss of every setting became infinite. Try a smaller learning_rate, or dtype='float64'."
            )
        self._cut_back()
        self._join()
        self._vary(until)
        self._grow(until, len(self.seeds))  # in the time that the rivals have left
        self._cut_back()
        if refit:
            self._put_back()

    def _left(self, until: float = 1.0) -> float:
        """Return the seconds that are left until a share of the budget is over."""
        return self.begin + until * self.seconds - time.monotonic()

    def _walk(self, walked: float, until: float) -> None:
        self._take(self._tried([{}], self._left(walked) * FIRST), np.inf)
        for_members = (until - walked) * self.seconds / (POINTS / 2 if self._may_have_points() else 1)
        for ingredient in alternatives(self.params):
            settings = [self.chosen | change for change in ingredient(self.params | self.chosen)]
            if settings and (seconds := self._fair(self._left(walked), len(settings))):
                self._take(self._tried(settings, seconds), for_members)

    def _rounds(self, n: int) -> int:
        """Return how many fits one after the other n fits are."""
        return -(-n // self.workers.at_once(n))

    def _fair(self, left: float, n: int) -> float:
        """Return the seconds that each of n fits may take, or 0 if they are too few to compare with the best fit so far."""
        assert self._best is not None
        usual = self._best.seconds
        seconds = min(max(usual * LONGER, left * PART) if self._best.is_whole else usual, left / self._rounds(n))
        return seconds if seconds > 0.7 * usual else 0.0

    def _tried(self, settings: Sequence[Setting], seconds: float) -> list[tuple[Setting, Fit]]:
        fits = self._fit([(setting, self.seeds[0]) for setting in settings], seconds, self.rows, self.held)
        return list(zip(settings, fits, strict=True))

    def _take(self, tried: Sequence[tuple[Setting, Fit]], for_members: float, rival: float | None = None) -> bool:
        """Note what was tried; choose the best setting if it is better than what is chosen, or than the rival's NLL.

        ``for_members`` are the seconds that there are for members.
        """
        before, price = self._best, self._price
        setting, best = min(tried, key=lambda one: one[1].nll + price(one[1], for_members))
        better = before is None
        if before is not None:
            goal = before.nll + price(before, for_members) if rival is None else rival
            better = best.nll + price(best, for_members) < (goal - MARGIN * abs(goal) if np.isfinite(goal) else goal)
        for tried_setting, fit in tried:
            self._note({"setting": tried_setting}, fit.nll, fit, better=better and fit is best)
        others = [fit for _, fit in tried if not (better and fit is best)]
        if better:
            others += self.members
            self.chosen, self._best, self._next = setting, best, 1
            self.members, self._curve = ([best], [best.nll]) if np.isfinite(best.nll) else ([], [])
        self._others += [fit for fit in others if np.isfinite(fit.nll)]
        return better

    def _price(self, fit: Fit, for_members: float) -> float:
        """Return what it costs in nats that there is no time for many members like this one: nothing, if there is."""
        needed = fit.seconds * self._rounds(min(MANY, len(self.seeds)))
        return PRICE * abs(fit.nll) * float(np.log2(needed / for_members)) if 0 < for_members < needed < np.inf else 0.0

    def _grow(self, until: float, most: int) -> None:
        """Train members until there are so many, two in turn bring too little, or time is up."""
        assert self._best is not None
        while (room := most - max(self._next, len(self.members))) > 0 and not self._is_enough():
            left, usual = self._left(until), self._best.seconds
            if self.members and left < 0.7 * usual:
                return
            first = self._next
            lot = [(self.chosen, seed) for seed in self.seeds[first : first + self.workers.at_once(room)]]
            seconds = left if self._best.is_whole else max(left / 2, usual)
            for fit in self._fit(lot, seconds, self.rows, self.held, first):
                if self._is_enough():  # one at a time, it would not have been trained
                    return
                self._next += 1
                nll = self._mixed([*self.members, fit]) if np.isfinite(fit.nll) else np.inf
                better = nll < (self._curve[-1] if self._curve else np.inf)
                self._note({"members": len(self.members) + 1}, nll, fit, better=better)
                if better or (fit.is_whole and np.isfinite(nll)):
                    self.members.append(fit)
                    self._curve.append(nll)

    def _is_enough(self) -> bool:
        return len(self._curve) > 2 and self._curve[-3] - self._curve[-1] < 2 * ENOUGH * abs(self._curve[-1])

    def _cut_back(self) -> None:
        """Leave out the last members if they make the mixture worse by more than chance."""
        curve = np.array(self._curve)
        del self.members[int(np.flatnonzero(curve <= curve.min() + CHANCE * abs(curve.min()))[-1]) + 1 :]

    def _join(self) -> None:
        """Let fits of other settings join the members, always the one that brings the most, as long as it is enough."""
        while self._others and len(self.members) < len(self.seeds):
            nll, i = min((self._mixed([*self.members, fit]), i) for i, fit in enumerate(self._others))
            if not nll < self._curve[len(self.members) - 1] - ENOUGH * abs(nll):
                return
            joined = self._others.pop(i)
            self.members.append(joined)
            self._curve[len(self.members) - 1 :] = [nll]
            self._note({"members": len(self.members)}, nll, joined, better=True)

    def _vary(self, until: float) -> None:
        """Train more like each rival that has joined, as long as they join too: other kinds of models make other mistakes."""
        joined = [rival for rival in self._rivals if any(rival is fit for fit in self.members)]
        for rival in sorted(joined, key=lambda fit: fit.nll):
            while (left := self._left(until)) > 0.7 * rival.seconds and self._next < len(self.seeds):
                seeds = self.seeds[self._next : self._next + self.workers.at_once(len(self.seeds) - self._next)]
                fits = self._fit([(rival.setting, seed) for seed in seeds], left, self.rows, self.held)
                if not all(map(self._offered, fits)):  # one at a time, no more would have been trained
                    break

    def _offered(self, fit: Fit) -> bool:
        """Return whether the members have gained something from one more fit."""
        there = len(self.members)
        self._next += 1
        self._others += [fit] if np.isfinite(fit.nll) else []
        self._join()
        return len(self.members) > there

    def _may_have_points(self) -> bool:
        p = self.params
        plain = self.rows.missing is None and not isinstance(self.rows.table, Coded)
        return p["n_masks"] == p["latent_points"] == 1 and not p["connectivity_weights"] and plain

    def _try_two_layers(self, until: float) -> None:
        """Try two layers under several masks on rows of few ones: as wide as given, and narrower, for more members."""
        assert self._best is not None
        settings, left = two_layers(self.params), self._left(until)
        if left <= 0 or not (settings and self._may_have_points() and self._ones_of_a_row() <= FEW_ONES):
            return
        seconds = min(max(LONGER * self._best.seconds, left * PART), left) / self._rounds(len(settings))
        best, *rest = sorted(self._tried(settings, seconds), key=lambda one: _for_its_work(one[1]))
        self._compete([best], left)
        for setting, fit in rest:
            self._note({"setting": setting}, fit.nll, fit, better=False)
            self._others += [fit] if np.isfinite(fit.nll) else []

    def _ones_of_a_row(self) -> float:
        """Return the ones of a validation row, on average."""
        table = self.held.table
        return sum(int(part.ones(self.params["binarize"], missing=True).sum()) for _, part in table.chunks()) / len(table)

    def _try_points(self, until: float) -> None:
        """Try points of a latent mixture against one network, with the two best settings so far that are fast enough."""
        assert self._best is not None
        left, members = self._left(until), self._rounds(min(FEWEST, len(self.seeds)))
        of_one_point = left / (POINTS / 2)
        good = [fit for fit in [self._best, *self._others] if fit.nll - self._best.nll < NEAR * abs(self._best.nll)]
        fast = [fit for fit in good if fit.is_whole and fit.made.n_masks == 1 and fit.seconds * members < of_one_point]
        if self._may_have_points() and fast:
            bases = sorted(fast, key=lambda fit: fit.nll + self._price(fit, of_one_point))[:2]
            settings = [base.setting | {"latent_points": POINTS} for base in bases]
            self._compete(self._tried(settings, left / (self._rounds(len(settings)) + members)), left)

    def _compete(self, tried: Sequence[tuple[Setting, Fit]], for_members: float, rival: float | None = None) -> None:
        """Take the best of another kind of model or leave it; remember the best one of the kind that is not chosen."""
        assert self._best is not None
        before, best = self._best, min((fit for _, fit in tried), key=lambda fit: fit.nll)
        loser = before if self._take(tried, for_members, rival) else best
        self._rivals += [loser] if np.isfinite(loser.nll) else []

    def _try_masks(self, until: float) -> None:
        """Try masks that vary against as many members, of those that there are by now, as are the same work.

        What is better replaces them, if there is time for more like it; what does not win may join them later.
        """
        settings, seconds = self._masks(self._left(until) / 3)
        if not settings:
            return
        tried = self._tried(settings, seconds)
        best, usual = min((fit for _, fit in tried), key=lambda fit: fit.nll), np.mean([fit.work for fit in self.members])
        before = self._curve[min(max(1, round(best.work / usual)), len(self._curve)) - 1]
        more = (best.is_whole or best.nll < before) and best.seconds < self._left(until)  # there is time for others like it
        self._compete(tried, np.inf, before if more else -np.inf)

    def _masks(self, left: float) -> tuple[list[Setting], float]:
        if (self.params | self.chosen)["n_masks"] != 1 or not self.members:
            return [], 0.0
        if len(self.rows.table) > FEW_ROWS:
            settings, needed = several_masks(self.chosen), LONGER * min(fit.seconds for fit in [*self.members, *self._rivals])
        else:
            settings, needed = fresh_masks(self.chosen), FRESH_EPOCHS * self._epoch()
        seconds = left / self._rounds(len(settings))
        return (settings if seconds > needed else []), seconds

    def _epoch(self) -> float:
        """Return the seconds that an epoch of the first member has taken."""
        return self.members[0].seconds / len(self.members[0].made.history_)

    def _put_back(self) -> None:
        """Train members on all rows for as many epochs as the best ones of the members; those not done in time stay."""
        best = [[fit.made.best_epoch_ for fit in self.members if fit.setting == one.setting] for one in self.members]
        epochs = [max(1, round(float(np.mean(of_setting)))) for of_setting in best]
        rows, at_once = self.rows.joined(self.held), self.workers.at_once(len(self.members))
        for first in range(0, len(self.members), at_once):
            lot = self.members[first : first + at_once]
            needed = max(fit.seconds * epochs[first + i] / len(fit.made.history_) for i, fit in enumerate(lot))
            if self._left() < needed:
                continue  # others may be faster
            settings = [(fit.setting | {"max_epochs": epochs[first + i]}, fit.seed) for i, fit in enumerate(lot)]
            for i, fit in enumerate(self._fit(settings, max(2 * needed, self._left()), rows, None, first)):
                if fit.is_whole:
                    self.members[first + i] = fit
                    self.refitted += 1
        self._say(f"{self.refitted} of {len(self.members)} members trained again on all rows")

    def _fit(
        self, lot: Sequence[tuple[Setting, int]], seconds: float, rows: Rows, held: Rows | None, first: int | None = None
    ) -> list[Fit]:
        """Fit settings with seeds at the same time, each for so many seconds at the most; ``first`` is of the members."""
        fixed = {"validation_fraction": None, "verbose": 0}
        if held is not None:
            fixed["max_epochs"] = max(MAX_EPOCHS, self.params["max_epochs"])
        fixed["n_threads"] = max(1, self.workers.n_threads // self.workers.at_once(len(lot)))
        mades = [MADE(**(self.params | setting | fixed), random_state=seed) for setting, seed in lot]
        callback = None if self.callback is None or first is None else _numbered(self.callback, first)
        own = self.workers.own_threads
        found = fit_all(mades, rows, held, callback, self.workers.n_jobs, own_threads=own, seconds=seconds)
        return [self._judged(setting, seed, made, held) for (setting, seed), made in zip(lot, found, strict=True)]

    def _judged(self, setting: Setting, seed: int, made: MADE, held: Rows | None) -> Fit:
        epochs, best = len(made.history_), made.best_epoch_
        took = sum(record["seconds"] for record in made.history_)
        whole = epochs >= made.max_epochs or (held is not None and epochs - best >= made.patience)
        if held is None or not best:
            return Fit(setting, seed, made, np.empty(0), np.nan if best else np.inf, took, whole)
        log_p, _ = log_p_observed(made.model_, self.held.table, self.workers.n_threads, warn=False)
        nll = self._mean(log_p)
        return Fit(setting, seed, made, log_p, nll if np.isfinite(nll) else np.inf, took, whole)

    def _mean(self, log_p: NDArray[np.float64]) -> float:
        weights = self.held.weights
        return -float(np.average(log_p, weights=weights if len(weights) else None))

    def _mixed(self, fits: Sequence[Fit]) -> float:
        """Return the validation NLL of fits in equal parts."""
        return self._mean(np.logaddexp.reduce([fit.log_p for fit in fits], axis=0) - np.log(len(fits)))

    def _note(self, what: dict[str, Any], nll: float, fit: Fit, *, better: bool) -> None:
        made, epochs = fit.made, len(fit.made.history_)
        course = {"best_epoch": made.best_epoch_, "epochs": epochs, "seconds": fit.seconds, "whole": fit.is_whole}
        self.records.append({**what, "validation_nll": nll, **course, "better": better})
        words = [f"{name} {value}" for name, value in what.get("setting", what).items()] or ["as given"]
        mark = ", better" if better else ""
        self._say(
            f"{', '.join(words)}: validation {nll:.3f} (epoch {made.best_epoch_} of {epochs}, {fit.seconds:.1f} s){mark}"
        )

    def _say(self, text: str) -> None:
        if self.params["verbose"]:
            say(f"{time.monotonic() - self.begin:5.0f} s  {text}")


def _for_its_work(fit: Fit) -> float:
    """Return the NLL, and about what as many members as are twice the work would bring, for each doubling of the work."""
    if not np.isfinite(fit.nll):  # it may have no epoch, and no work
        return np.inf
    return fit.nll + 2 * PRICE * abs(fit.nll) * float(np.log2(max(1.0, fit.work)))


def _numbered(callback: Callable[[int, EpochRecord], Any], first: int) -> Callable[[int, EpochRecord], Any]:
    """Return the callback of members that are counted from ``first``."""
    return lambda m, record: callback(first + m, record)
