"""Questions about rows with missing inputs, for tests: models, rows, and the answers that enumeration finds."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import all_inputs, dense_log_p, random_model

from made_fast import MADEModel, MixtureModel
from made_fast.network.masks import Connectivity

D = 10
EVERY = all_inputs(D)
MODELS = {
    "unlimited": {"n_masks": None},
    "unlimited, of everything": {"n_masks": None, "connectivity_weights": True, "direct": "all"},
    "unlimited orderings": {"n_masks": None, "resample": "order", "direct": "output"},
    "unlimited degrees": {"n_masks": None, "resample": "connectivity"},
    "one mask": {"n_masks": 1, "direct": "all"},
    "one mask with U": {"n_masks": 1, "connectivity_weights": True},
    "three masks": {"n_masks": 3, "connectivity_weights": True, "direct": "output"},
}
MIXTURES = {
    "mixture": ["unlimited", "three masks", "unlimited, of everything"],
    "mixture of one mask each": ["one mask", "one mask with U"],
}
WEIGHTS = {"mixture": [0.5, 0.3, 0.2], "mixture of one mask each": [0.4, 0.6]}
every_kind = pytest.mark.parametrize("name", [*MODELS, *MIXTURES])
some_members = pytest.mark.parametrize(
    ("name", "n_members"), [(name, n) for name in [*MODELS, *MIXTURES] for n in ((1,) if "one mask" in name else (1, 3))]
)


def make(name: str, **kwargs) -> MADEModel | MixtureModel:
    if name in MIXTURES:
        return MixtureModel([make(part, seed=m) for m, part in enumerate(MIXTURES[name])], WEIGHTS[name])
    return random_model(D, (14, 11), **{"seed": 3, **MODELS[name], **kwargs})


def joint(model: MADEModel, connectivity: Connectivity) -> np.ndarray:
    """Return p(x) of all 2^D inputs under one member, from its dense form."""
    return np.exp(dense_log_p(model.to_dense(connectivity), EVERY))


def members_of(model: MADEModel | MixtureModel) -> tuple[MADEModel, ...]:
    return model.members if isinstance(model, MixtureModel) else (model,)


def mixture(model: MADEModel | MixtureModel, observed: np.ndarray, n_members: int) -> np.ndarray:
    """Return p(x) of all inputs under the mixture that answers when these inputs are observed."""
    if isinstance(model, MixtureModel):
        return sum(w * mixture(member, observed, n_members) for w, member in zip(model.weights, model.members, strict=True))
    return np.mean([joint(model, model.member_for(observed, draw=j)) for j in range(n_members)], axis=0)


def fits(row: np.ndarray) -> np.ndarray:
    """Return which of all inputs agree with what is observed of the row."""
    return ((row == EVERY) | np.isnan(row)).all(axis=1)


def rows_of(model: MADEModel | MixtureModel, seed: int = 0, n: int = 2) -> np.ndarray:
    """Return rows whose evidence stands early, late and mixed in the (first) ordering; all of it; none."""
    rng = np.random.default_rng(seed)
    m0 = members_of(model)[0].masks.orderings[0]
    seen = [m0 <= 4, m0 > 7, m0 == D, m0 % 2 == 0, m0 % 3 == 0, np.isin(m0, [1, 2, 9]), m0 > 0, m0 < 0, m0 > 1, m0 < D]
    seen += list(rng.random((6, D)) < 0.5)
    X = (rng.random((n * len(seen), D)) < 0.5).astype(float)
    X[~np.repeat(seen, n, axis=0)] = np.nan
    return rng.permutation(X)


def late_rows(model: MADEModel, n: int = 2) -> np.ndarray:
    """Return rows with evidence at places 5, 8 and 10 of the ordering of the only mask."""
    X = (np.random.default_rng(5).random((n, D)) < 0.5).astype(float)
    X[:, ~np.isin(model.masks.orderings[0], [5, 8, 10])] = np.nan
    return X


def greedy(p: np.ndarray, ordering: np.ndarray, row: np.ndarray) -> np.ndarray:
    row = row.copy()
    for d in np.argsort(ordering):
        if np.isnan(row[d]):
            alike = p * fits(row)
            row[d] = alike[EVERY[:, d] == 1].sum() > alike.sum() / 2
    return row.astype(np.uint8)
