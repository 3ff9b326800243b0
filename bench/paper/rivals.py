"""Rivals that can be run here, each beside our best fit on the same test rows: paired differences, not two means.

A rival has a few settings, of which the validation rows choose one; test rows are scored once, by that one. All likelihoods
are exact. The difference of two models is a mean over the test rows of differences in log-likelihood: the rows are the same,
so what makes some of them hard for every model cancels, and its 95 % interval is much narrower than those of the means.

Not here: the models of the paper's own tables (``others.py``), those that only estimate their likelihood.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, Self, TypedDict

import numpy as np

from bench.baselines.bernoulli_mixture import BernoulliMixture
from bench.baselines.chow_liu import ChowLiuMixture
from bench.baselines.common import Floats, Rows
from bench.baselines.fvsbn import FVSBN
from bench.baselines.nade import NADE
from bench.paper import best, published, recipes
from bench.paper.runs import QUICK, Place, data_set, describe, keep, train
from bench.paper.tables import say
from made_fast import load

__all__ = ["OURS", "RIVALS", "SETS", "BoostedTrees", "Rival", "rivals"]

SETS = tuple(dict.fromkeys([*published.TABLE_4, *published.DEBD]))

BOOSTED_WORK = 1e9
"""Most training rows times inputs squared of boosted trees: minutes. Beyond, they are left out."""


class Model(Protocol):
    """What a rival must do."""

    def fit(self, X: Any, X_val: Any = None) -> Self:
        """Train on rows (n, D) of 0/1; stop early by ``X_val``."""

    def score_samples(self, X: Any) -> Floats:
        """Return ``log p(x)`` of each row in nats, (n,)."""


class Scored(TypedDict):
    """What is kept of a model: log p of each test row in nats, what was chosen, the CPU seconds of all settings' training."""

    log_p: list[float]
    chosen: str
    cpu_seconds: float


class BoostedTrees:
    """Boosted trees for each ``p(x_d | x_<d)``, by scikit-learn, in the order of the columns: exact by the chain rule.

    Of each conditional the number of trees, from none, is chosen by the validation rows; none is the add-one smoothed
    marginal. It stands beside the trees too, with the weight of one row against all training rows: trees are sure of what
    never happened among those, and one test row where it does would cost a thousand nats.
    """

    def __init__(self, max_iter: int, learning_rate: float, max_leaf_nodes: int) -> None:
        self.settings = {"max_iter": max_iter, "learning_rate": learning_rate, "max_leaf_nodes": max_leaf_nodes}
        self.settings["l2_regularization"] = 1.0

    def fit(self, X: Rows, X_val: Rows) -> Self:
        """Train on rows (n, D) of 0/1, and choose by others."""
        from sklearn.ensemble import HistGradientBoostingClassifier

        self.n_rows = len(X)
        self.marginals = np.log(X.sum(axis=0) + 1.0) - np.log(len(X) - X.sum(axis=0) + 1.0)
        self.trees: list[tuple[Any, int]] = []
        for d in range(X.shape[1]):
            y = X[:, d]
            if d == 0 or y.min() == y.max():
                self.trees.append((None, 0))
                continue
            made = HistGradientBoostingClassifier(**self.settings, early_stopping=False, random_state=0)
            made.fit(X[:, :d], y)
            found = [self._log_p(d, z.ravel(), X_val) for z in made.staged_decision_function(X_val[:, :d])]
            n_trees = int(np.argmax([self._log_p(d, None, X_val).mean(), *(log_p.mean() for log_p in found)]))
            self.trees.append((made, n_trees))
        return self

    def score_samples(self, X: Rows) -> Floats:
        """Return ``log p(x)`` of each row in nats, (n,)."""
        log_p = np.zeros(len(X))
        for d, (made, n_trees) in enumerate(self.trees):
            stages = made.staged_decision_function(X[:, :d]) if n_trees else ()
            log_odds = next((z.ravel() for i, z in enumerate(stages, 1) if i == n_trees), None)
            log_p += self._log_p(d, log_odds, X)
        return log_p

    def _log_p(self, d: int, log_odds: Floats | None, X: Rows) -> Floats:
        """Return the log-probability of column d by its trees' log-odds and its marginal, or by its marginal alone."""
        sign = np.where(X[:, d], -1.0, 1.0)
        marginal: Floats = -np.logaddexp(0.0, sign * self.marginals[d])
        if log_odds is None:
            return marginal
        by_trees = np.log(self.n_rows) - np.logaddexp(0.0, sign * log_odds)
        log_p: Floats = np.logaddexp(by_trees, marginal) - np.log(self.n_rows + 1)
        return log_p


class Rival(NamedTuple):
    """A model, and its settings by what they are in words; ``fits`` says whether so many rows and inputs take minutes."""

    make: Callable[..., Model]
    settings: dict[str, dict[str, Any]]
    fits: Callable[[int, int], bool] = lambda n_rows, n_inputs: True


STEPS = 15_000
"""Mini-batches of a NADE at the most."""


def _trees_fit(n_rows: int, n_inputs: int) -> bool:
    return n_rows * n_inputs**2 <= BOOSTED_WORK


RIVALS = {
    "mixture of Bernoullis": Rival(
        partial(BernoulliMixture, random_state=0),
        {f"K={K}, {s} rows of prior": {"n_components": K, "smoothing": s} for K in (10, 50, 200) for s in (1.0, 5.0)},
    ),
    "mixture of Chow-Liu trees": Rival(
        partial(ChowLiuMixture, random_state=0),
        {f"K={K}, {s} rows of prior": {"n_components": K, "smoothing": s} for K in (1, 3, 8, 20) for s in (5.0, 50.0)},
    ),
    "FVSBN": Rival(partial(FVSBN, random_state=0), {f"adam rate {rate:g}": {"learning_rate": rate} for rate in (1e-2, 1e-3)}),
    "NADE": Rival(
        partial(NADE, activation="relu", learning_rate_schedule="linear", patience=20, random_state=0),
        {
            f"{H}, relu, adam rate {rate:g}": {"hidden_size": H, "learning_rate": rate}
            for H, rate in ((500, 2e-3), (100, 2e-3))
        },
    ),
    "boosted trees": Rival(
        BoostedTrees,
        {
            f"{leaves} leaves, rate {rate:g}, L2 1": {"max_iter": n, "learning_rate": rate, "max_leaf_nodes": leaves}
            for n, rate, leaves in ((60, 0.1, 4), (60, 0.1, 15))
        },
        _trees_fit,
    ),
}


MEMBERS = 8
"""Members of our model: they differ in every random draw, the ordering among them, and have equal weights."""


def one_recipe(name: str, place: Place) -> Scored:
    """Return our model: MADEs of one recipe for all sets, ``recipes.against_rivals``, mixed; they are kept as all runs are."""
    rows = data_set(name, place)
    params = recipes.against_rivals(len(rows.train))
    records = [train(name, {**params, "random_state": seed}, place, say) for seed in range(MEMBERS)]
    models = [load(place.work / f"{record['key']}.safetensors") for record in records]
    log_p = np.logaddexp.reduce([model.score_samples(rows.test, n_threads=place.n_threads) for model in models]) - np.log(
        MEMBERS
    )
    return Scored(
        log_p=log_p.tolist(),
        chosen=f"{MEMBERS} members: {describe(records[0]['params'])}",
        cpu_seconds=sum(record["cpu_seconds"] for record in records),
    )


def preset(name: str, place: Place) -> Scored:
    """Return our best fit, as the table of best fits has it; it is kept, and made if it is not there."""
    about = best.fitted(name, "best", best.BUDGET, place)
    model = load(best.kept(name, "best", best.BUDGET, place))
    return Scored(
        log_p=model.score_samples(data_set(name, place).test, n_threads=place.n_threads).tolist(),
        chosen=f"{best.BUDGET:g} s, {about['members']} members: {best.words(about['chosen'])}",
        cpu_seconds=about["cpu_seconds"],
    )


OURS: dict[str, Callable[[str, Place], Scored]] = {'preset="best"': preset, f"MADE, {MEMBERS} orderings": one_recipe}
"""Our models by their names in the table; all that follow the first are measured against it."""


def rivals(sets: Sequence[str], place: Place) -> Iterator[dict[str, Any]]:
    """Yield a row for each set and model, ours first; one whose difference is above 0 is worse than our first."""
    for name in sets:
        ours, *others = ((title, model(name, place)) for title, model in OURS.items())
        yield _row(name, *ours, None)
        for title, other in others:
            yield _row(name, title, other, ours[1])
        for model, rival in RIVALS.items():
            if rival.fits(*data_set(name, place).train.shape):
                yield _row(name, model, _scored(name, model, rival, place), ours[1])


def _row(name: str, model: str, scored: Scored, ours: Scored | None) -> dict[str, Any]:
    nll = -np.array(scored["log_p"])
    row = {
        "set": name,
        "model": model,
        "test NLL": _with_half(nll, "{:.2f}"),
        "above ours": None if ours is None else _with_half(nll + ours["log_p"], "{:+.2f}"),
        "training, CPU s": scored["cpu_seconds"],
        "chosen": scored["chosen"],
    }
    say(f"{name}: {model}: test {row['test NLL']}, above ours {row['above ours']}: {scored['chosen']}")
    return row


def _with_half(values: Floats, form: str) -> str:
    """Return the mean, and half of its 95 % interval."""
    return f"{form.format(values.mean())} ± {1.96 * values.std(ddof=1) / np.sqrt(len(values)):.2f}"


def _scored(name: str, model: str, rival: Rival, place: Place) -> Scored:
    """Return a rival as it is kept, or fit all of its settings and score the test rows by the best on the validation rows."""
    rows = data_set(name, place)
    settings = {words: _settings(rival, how, len(rows.train), place) for words, how in rival.settings.items()}
    asked = json.dumps([name, model, settings, place.quick])
    kept = place.work / f"rival-{hashlib.sha256(asked.encode()).hexdigest()[:16]}.json"
    if kept.exists():
        scored: Scored = json.loads(kept.read_text())
        return scored
    begin, winner, lowest, chosen = time.process_time(), None, np.inf, ""
    for words, how in settings.items():
        fitted = rival.make(**how).fit(rows.train, rows.valid)
        nll = -float(fitted.score_samples(rows.valid).mean())
        say(f"{name}: {model}: validation {nll:.3f}, {time.process_time() - begin:.0f} CPU s so far: {words}")
        if winner is None or nll < lowest:
            winner, lowest, chosen = fitted, nll, words
    assert winner is not None
    seconds = time.process_time() - begin
    scored = Scored(log_p=winner.score_samples(rows.test).tolist(), chosen=chosen, cpu_seconds=seconds)
    keep(kept, scored)
    return scored


def _settings(rival: Rival, how: dict[str, Any], n_rows: int, place: Place) -> dict[str, Any]:
    """Return all settings of a fit: with the epochs of a NADE, and cut down if it is quick."""
    if rival is RIVALS["NADE"]:
        how = {**how, "max_epochs": max(1, STEPS // -(-n_rows // 100))}
    small = {"n_components": 3, "hidden_size": QUICK["hidden"], "max_epochs": 2, "max_iter": 3}
    return {**how, **{key: value for key, value in small.items() if key in how}} if place.quick else how
