"""Ideas that are not in the engine, and what each would bring to one network: gains in nats, on validation rows alone.

- *Epochs by conditional*: of each input the parameters of its own best epoch, in place of one epoch for all. Half of the
  validation rows choose, the other half are scored, and the other way round.
- *By information*: an ordering in which the next input is always the one that has the most mutual information with one before
  it; and the same backwards.
- *Two layers*, *residual* (the second layer adds to the first), *L1* and *L2* (weights that shrink beside the gradient): in a
  small dense network of PyTorch, of its own, since the engine has no such layers. Left out where PyTorch is not installed, and
  on sets of many rows.

A gain is that over the same network without the idea, a mean over seeds and rows; rows are paired. Not here: the ingredients
that the preset chooses from (``made_fast.estimators.settings``), test rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.baselines.chow_liu import mutual_information
from bench.paper import published
from bench.paper.runs import QUICK, Place, data_set
from bench.paper.tables import say
from made_fast import MADE

__all__ = ["SETS", "by_conditional", "by_information", "dense", "rows"]

Floats = NDArray[np.float64]

SETS = tuple(name for name in published.KNOWN if name not in ("binarized_mnist", "kdd", "msnbc"))
SEEDS, PATIENCE, MAX_EPOCHS = 2, 10, 200
HIDDEN, RATE, DROPOUT, BATCH = 500, 1e-3, 0.25, 100
L1, L2 = (0.003, 0.01, 0.03), (0.2, 1.0)
"""What weights shrink by in a step, in times of the rate: all by the same, or in proportion to themselves."""

DENSE_ROWS = 13_000
"""Most training rows of a set for the dense network: minutes."""


def rows(sets: Sequence[str], place: Place) -> Iterator[dict[str, Any]]:
    """Yield the row of each set."""
    for name in sets:
        data = data_set(name, place)
        train, valid = np.asarray(data.train), np.asarray(data.valid)
        gains = dict(_of_engine(train, valid, place))
        if find_spec("torch") and len(train) <= DENSE_ROWS:
            gains |= dict(_of_dense(train, valid, place))
        say(f"{name}: {', '.join(f'{idea} {_with_half(gain)}' for idea, gain in gains.items())}")
        yield {"set": name, **{idea: _with_half(gains[idea]) if idea in gains else None for idea in IDEAS}}


IDEAS = ("epochs by conditional", "by information", "backwards", "two layers", "residual", "L1", "L2")


def _with_half(gains: Floats) -> str:
    return f"{gains.mean():+.3f} ± {1.96 * gains.std(ddof=1) / np.sqrt(len(gains)):.3f}"


def _of_engine(train: NDArray[Any], valid: NDArray[Any], place: Place) -> Iterator[tuple[str, Floats]]:
    """Yield ideas, and the gain of each validation row, (n,)."""
    params: dict[str, Any] = {"patience": PATIENCE, "n_threads": place.n_threads}
    if place.quick:
        params |= {"hidden_sizes": (QUICK["hidden"],), "max_epochs": QUICK["max_epochs"]}

    def log_p(**change: Any) -> Floats:
        fits = [MADE(**params | change, random_state=seed).fit(train, X_val=valid) for seed in range(SEEDS)]
        return np.mean([made.score_samples(valid) for made in fits], axis=0)

    yield IDEAS[0], np.mean([by_conditional(MADE(**params, random_state=seed), train, valid) for seed in range(SEEDS)], axis=0)
    places, plain = np.argsort(by_information(train)) + 1, log_p()
    yield IDEAS[1], log_p(ordering=places) - plain
    yield IDEAS[2], log_p(ordering=len(places) + 1 - places) - plain


def by_conditional(made: MADE, train: NDArray[Any], valid: NDArray[Any]) -> Floats:
    """Return what each validation row gains if every input has the epoch that is best for it on the other half, (n,)."""
    found: list[NDArray[np.float32]] = []
    best = 0
    while len(found) - best <= made.patience and len(found) < min(made.max_epochs, MAX_EPOCHS):
        made.partial_fit(train)
        found.append(made.model_.explain(valid).astype(np.float32))
        best = len(found) if found[-1].mean() < min((nll.mean() for nll in found[:-1]), default=np.inf) else best
    gains = np.empty(len(valid))
    for half in (0, 1):
        chooses, scored = slice(half, None, 2), slice(1 - half, None, 2)
        means = np.array([nll[chooses].mean(axis=0, dtype=np.float64) for nll in found])  # (epochs, D)
        common = found[int(means.sum(axis=1).argmin())][scored].sum(axis=1, dtype=np.float64)
        own = sum(found[epoch][scored, d].astype(np.float64) for d, epoch in enumerate(means.argmin(axis=0)))
        gains[scored] = common - own
    return gains


def by_information(X: NDArray[Any]) -> list[int]:
    """Return the columns of X, (n, D) of 0/1, in order: next is what has the most mutual information with one before."""
    ones = X.astype(np.float64)
    both = (ones.T @ ones + 0.5) / (len(X) + 2.0)  # add-one smoothed, so that no probability is 0 or 1
    np.fill_diagonal(both, (ones.sum(axis=0) + 1.0) / (len(X) + 2.0))
    information = mutual_information(both)
    np.fill_diagonal(information, 0.0)
    order = [int(information.sum(axis=0).argmax())]
    most = information[order[0]].copy()
    for _ in range(X.shape[1] - 1):
        most[order] = -np.inf
        order.append(int(most.argmax()))
        most = np.maximum(most, information[order[-1]])
    return order


def _of_dense(train: NDArray[Any], valid: NDArray[Any], place: Place) -> Iterator[tuple[str, Floats]]:
    """Yield ideas, and the gain of each validation row, (n,): of L1 and L2 the gain of the best one."""
    hidden = QUICK["hidden"] if place.quick else HIDDEN
    max_epochs = QUICK["max_epochs"] if place.quick else MAX_EPOCHS

    def log_p(**how: Any) -> Floats:
        fits = [dense(train, valid, hidden=hidden, max_epochs=max_epochs, seed=seed, **how) for seed in range(SEEDS)]
        return np.mean(fits, axis=0)

    plain, two = log_p(), log_p(n_layers=2)
    yield IDEAS[3], two - plain
    yield IDEAS[4], log_p(n_layers=2, residual=True) - two
    yield IDEAS[5], max((log_p(l1=by) for by in L1), key=np.mean) - plain
    yield IDEAS[6], max((log_p(l2=by) for by in L2), key=np.mean) - plain


def dense(
    train: NDArray[Any],
    valid: NDArray[Any],
    *,
    hidden: int,
    max_epochs: int,
    seed: int,
    n_layers: int = 1,
    residual: bool = False,
    l1: float = 0.0,
    l2: float = 0.0,
) -> Floats:
    """Train a dense MADE with Adam, dropout and direct connections; return log p of the validation rows, (n,), at its best.

    All layers have the same degrees, so that a unit of the second may add to that of the first.
    """
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits as nll
    from torch.nn.functional import dropout

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    D = train.shape[1]
    place, degree = np.argsort(rng.permutation(D)), np.arange(hidden) % max(D - 1, 1) + 1
    ranks = [place, *[degree - 1] * n_layers]  # what is after what: an input sees those before it, a unit its degree and below
    masks = [torch.tensor(a[:, None] <= b, dtype=torch.float32) for a, b in pairwise(ranks)]
    masks += [torch.tensor(degree[:, None] <= place, dtype=torch.float32)]
    masks += [torch.tensor(place[:, None] < place, dtype=torch.float32)]
    weights = [torch.nn.init.xavier_uniform_(torch.empty_like(mask)) * mask for mask in masks[:-1]] + [torch.zeros(D, D)]
    log_odds = np.log(train.sum(axis=0) + 1.0) - np.log(len(train) - train.sum(axis=0) + 1.0)
    biases = [torch.zeros(hidden) for _ in range(n_layers)] + [torch.tensor(log_odds, dtype=torch.float32)]
    for parameter in [*weights, *biases]:
        parameter.requires_grad_()
    adam = torch.optim.Adam([*weights, *biases], lr=RATE)

    def logits(x: torch.Tensor, rate: float) -> torch.Tensor:
        h = x
        for i in range(n_layers):
            z = torch.relu(h @ (weights[i] * masks[i]) + biases[i])
            h = dropout(z, rate, training=rate > 0) + (h if residual and i else 0)
        return h @ (weights[-2] * masks[-2]) + x @ (weights[-1] * masks[-1]) + biases[-1]

    X, V = (torch.tensor(table, dtype=torch.float32) for table in (train, valid))
    found, best, epoch = np.empty(0), 0, 0
    while epoch < max_epochs and epoch - best <= PATIENCE:
        epoch += 1
        for part in torch.randperm(len(X)).split(BATCH):
            adam.zero_grad()
            (nll(logits(X[part], DROPOUT), X[part], reduction="sum") / len(part)).backward()
            adam.step()
            with torch.no_grad():
                for weight in weights if l1 or l2 else ():
                    weight.mul_(1 - RATE * l2).copy_(torch.nn.functional.softshrink(weight, RATE * l1))
        with torch.no_grad():
            log_p = -nll(logits(V, 0.0), V, reduction="none").sum(1).numpy().astype(np.float64)
        if best == 0 or log_p.mean() > found.mean():
            found, best = log_p, epoch
    return found
