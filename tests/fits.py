"""What tests of training share: noisy rows, small estimators, what came of a fit."""

from __future__ import annotations

import numpy as np

from made_fast import MADE
from made_fast.kernels import layout as panels

PLAIN = {"direct_connections": "none", "dropout": 0.0, "averaging": 0.0}  # a network and its steps, nothing beside
SHARED = {"n_masks": 4, "direct_connections": "output", "connectivity_weights": True}
FRESH = {"n_masks": None, "n_eval_masks": 5}
EVERYTHING = {
    "connectivity_weights": True, "direct_connections": "all", "dropout": 0.2, "clip_norm": 0.5, "weight_decay": 0.01,
}  # fmt: skip

ONE_STEP = {
    "optimizer": "sgd", "batch_size": 10_000, "max_epochs": 1, "dtype": "float64", "activation": "tanh", "n_threads": 1,
    "hidden_sizes": (7,), "random_state": 0,
    "bias_init": "zeros",  # then every weight has a gradient in the first step
    **PLAIN,
}  # fmt: skip
KINDS = {
    "fixed": {},
    "masks": {"n_masks": 2, "connectivity_weights": True, "direct_connections": "output"},
    "fresh": {"n_masks": None, "n_eval_masks": 2},
    "missing": {"missing": 0.2},
}


def rows(n, D=12, missing=0.0, seed=0, flip=0.05):
    """Return noisy copies of four patterns: uint8, or float64 with a share of entries missing."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(99).random((4, D)) < 0.5
    X = (patterns[rng.integers(4, size=n)] ^ (rng.random((n, D)) < flip)).astype(np.uint8)
    return np.where(rng.random((n, D)) < missing, np.nan, X) if missing else X


def kind(name, n, D=6):
    """Return the parameters of one step of full-batch gradient descent, and rows."""
    params = {**ONE_STEP, **KINDS[name]}
    return params, rows(n, D, params.pop("missing", 0.0))


def small(**params):
    defaults = {"hidden_sizes": (10, 9), "batch_size": 20, "learning_rate": 0.01, "random_state": 0, "max_epochs": 5}
    return MADE(**{**PLAIN, **defaults, "n_eval_masks": 3, "n_threads": 1, **params})


def initial(params, X, **fit):
    """Return the estimator before its first update: one epoch at a learning rate of 0."""
    return MADE(**{**params, "learning_rate_schedule": lambda epoch: 0.0, "max_epochs": 1}).fit(X, **fit)


def trainer_of(made):
    return made._fit_state.trainer


def parameters(made):
    """Return the parameters of the model, which are those of the best epoch."""
    return getattr(made.model_, "density", made.model_).source.vector


def told(made):
    """Return what the history says, times left out."""
    return [(record["epoch"], record["train_nll"], record["validation_nll"]) for record in made.history_]


def same_fit(a, b):
    np.testing.assert_array_equal(parameters(a), parameters(b), strict=True)
    one, other = trainer_of(a), trainer_of(b)
    np.testing.assert_array_equal(one.parameters.vector, other.parameters.vector, strict=True)
    np.testing.assert_array_equal(one.state, other.state, strict=True)
    assert told(a) == told(b)
    assert (a.best_epoch_, one.step) == (b.best_epoch_, other.step)


def shared_matrices(architecture, values):
    """Return, for every row of the layout, W (n_out, n_in), b (n_out,) or None and U (n_out, n_in) or None, as views."""
    found = []
    for (n_in, n_out, *_), row in zip(architecture.layers, architecture.shared_layout, strict=True):
        W, b, U = (
            None if row[column] < 0 else values[row[column] :][: n * row[panels.ROW]].reshape(n, -1)[:, :n_out].T
            for column, n in ((panels.SHARED_WEIGHTS, n_in), (panels.SHARED_BIAS, 1), (panels.SHARED_U, n_in))
        )
        found.append((W, None if b is None else b[:, 0], U))
    return found


def with_gaps(X, share=0.2, seed=1):
    return np.where(np.random.default_rng(seed).random(X.shape) < share, np.nan, X)
