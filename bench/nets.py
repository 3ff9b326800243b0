"""On what it is timed: sizes, rows, untrained and trained networks; and the truth they are held to.

Rows are those of a real data set where it is at hand, else random bits of the same density. Truth is the ``reference``
implementation of the kernels in float64. Everything is drawn from one seed, so a size gives the same every time. Not here:
what is done with them (``cases.py``).
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.implementations import using
from made_fast import MADE, MADEModel
from made_fast.kernels.layout import N_IN, N_OUT, ROW
from made_fast.tables.bits import pack_rows
from made_fast.tables.table import Table
from made_fast.training import recipe
from made_fast.training.rows import TrainingRows
from made_fast.training.steps import Trainer

__all__ = [
    "BATCHES", "DENSITIES", "DNA", "EPOCH", "KEPT", "MNIST", "PLAIN", "SCALING_D", "SCALING_H", "SEED", "STEP_SIZES", "TINY",
    "Layer", "Size", "Truth", "draw_rows", "estimator", "flatten", "mixture_model", "new_trainer", "pack", "parameters_of",
    "rows", "to_model", "trained_model", "true_epoch", "true_log_p", "true_logits", "true_mixture",
]  # fmt: skip

SEED = 0
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
N_MASKS = 32
"""Of a mixture."""

PLAIN: dict[str, Any] = {
    "direct_connections": "none", "dropout": 0.0, "averaging": 0.0, "learning_rate": 1e-3, "bias_init": "zeros",
}  # fmt: skip
"""What makes a network no more than that, trained in steps that are no more than that, from a start that has seen no rows."""

KEPT = 2
"""Of each kind: large nets are not kept for long, and whoever times them goes from one to the next."""


class Size(NamedTuple):
    """A network, the data it is timed on, and the mini-batch."""

    n_features: int
    hidden_sizes: tuple[int, ...]
    data_set: str = ""
    density: float = 0.13
    batch: int = 100
    n_steps: int = 0

    def __str__(self) -> str:
        other = [f"-B={self.batch}"] * (self.batch != 100) + [f"-ones={self.density:.0%}"] * (not self.data_set)
        return f"D={self.n_features}-H={'x'.join(map(str, self.hidden_sizes))}{''.join(other)}"

    @property
    def path(self) -> Path:
        """Where the real rows are, if they are."""
        return SHARED / f"{self.data_set or 'none'}.npz"

    @property
    def source(self) -> str:
        """Say what the rows are."""
        return self.data_set if self.path.exists() else f"random bits, {self.density:.0%} ones"

    @property
    def steps(self) -> int:
        """Training steps in one timed call: 20, or as many of a large net as the reference makes in some seconds."""
        weights = sum(a * b for a, b in pairwise((self.n_features, *self.hidden_sizes, self.n_features)))
        return self.n_steps or max(4, min(20, 1_600_000_000 // (weights * self.batch)))


class Layer(NamedTuple):
    """One masked layer, the first or the last of a network of one hidden layer."""

    n_in: int
    n_out: int
    l: int

    def __str__(self) -> str:
        return f"{self.n_in}x{self.n_out}"

    @property
    def size(self) -> Size:
        """The network it is of."""
        return Size(self.n_out, (self.n_in,)) if self.l else Size(self.n_in, (self.n_out,))

    @property
    def source(self) -> str:
        """Say what the rows are."""
        return self.size.source


MNIST = Size(784, (500,), "binarized_mnist")
DNA = Size(180, (500,), "dna_made", 0.25)
EPOCH = MNIST._replace(n_steps=100)
TINY = Size(16, (50,), density=0.25, batch=32)
STEP_SIZES = (MNIST, DNA, *(MNIST._replace(hidden_sizes=hidden) for hidden in ((500, 500), (2000, 2000), (8000,))), TINY)

DENSITIES = tuple(MNIST._replace(data_set="", density=ones) for ones in (0.01, 0.02, 0.05, 0.10, 0.13, 0.3, 0.4, 0.6))
SCALING_D = tuple(MNIST if D == 784 else Size(D, (500,)) for D in (64, 256, 784, 1536, 3072))
SCALING_H = tuple(MNIST._replace(hidden_sizes=(H,)) for H in (64, 250, 500, 1000, 2000, 8000))
BATCHES = tuple(MNIST._replace(batch=B) for B in (1, 4, 16, 64, 256, 1024, 4096))


class Truth(NamedTuple):
    """What the reference made of an epoch: mean NLL of a row, parameters after it, and how far those have moved."""

    nll: float
    parameters: NDArray[np.float64]
    moved: float


@lru_cache(KEPT)
def rows(size: Size) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the rows to train on, ``size.steps`` mini-batches of them, and 1000 to score."""
    return draw_rows(size, size.batch * size.steps, 1000)


def draw_rows(size: Size, n: int, n_test: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return so many rows to train on and to score."""
    D = size.n_features
    if size.path.exists():
        with np.load(size.path) as file:
            train, valid, test = (np.unpackbits(file[split], axis=1, count=D) for split in ("train", "valid", "test"))
        X = np.concatenate([train[:n], valid[: n - len(train[:n])], test[:n_test]])
    else:
        X = np.random.default_rng(SEED).random((n + n_test, D)) < size.density
    X = X.astype(np.uint8, order="C")  # unpackbits does not promise it
    return X[:n], X[n:]


def estimator(size: Size, n_masks: int | None = 1, **params: Any) -> MADE:
    """Return an unfitted estimator of the size; it trains what ``new_trainer`` returns."""
    fixed = {"batch_size": size.batch, "random_state": SEED, "n_masks": n_masks, "n_eval_masks": 1, "n_threads": 1}
    return MADE(size.hidden_sizes, **{**PLAIN, **fixed, **params})


def new_trainer(size: Size, n_masks: int | None = 1, dtype: str = "float32") -> Trainer:
    """Return an untrained network: of one mask, of several, or (None) of a fresh one with every mini-batch."""
    trainer, _ = recipe.start(estimator(size, n_masks).get_params(deep=False), size.n_features, missing=False)
    parameters = trainer.parameters
    same = parameters.dtype == dtype
    return trainer if same else replace(trainer, parameters=parameters.with_vector(parameters.vector.astype(dtype)))


def pack(size: Size, trainer: Trainer) -> TrainingRows:
    """Return the training rows as ``Trainer.epoch`` takes them."""
    return TrainingRows(pack_rows(Table(rows(size)[0]), trainer.parameters.order), None, np.empty(0))


def to_model(trainer: Trainer) -> MADEModel:
    """Return the model that is being trained; it shares the parameters."""
    return MADEModel(trainer.parameters, trainer.masks)


def flatten(net: dict[str, Any]) -> NDArray[Any]:
    """Return all weights and biases of ``to_dense()`` in one vector, the order of ``DenseMADE.theta``."""
    return np.concatenate([part.ravel() for W, b in zip(net["weights"], net["biases"], strict=True) for part in (W.T, b)])


def parameters_of(trainer: Trainer) -> NDArray[Any]:
    """Return the trainer's parameters in one vector, the order of ``DenseMADE.theta``; shared ones without their fill-up."""
    if trainer.turns is None:
        return flatten(to_model(trainer).to_dense())
    parts, done = [], 0
    for layer, row in zip(trainer.architecture.layers, trainer.architecture.shared_layout, strict=True):
        size = (layer[N_IN] + 1) * row[ROW]
        parts.append(trainer.parameters.vector[done : done + size].reshape(-1, row[ROW])[:, : layer[N_OUT]].ravel())
        done += size
    return np.concatenate(parts)


@lru_cache(KEPT)
def true_epoch(size: Size, n_masks: int | None = 1) -> Truth:
    """Make an epoch of the float64 reference."""
    trainer = new_trainer(size, n_masks, "float64")
    start, packed = parameters_of(trainer).copy(), pack(size, trainer)
    with using("reference"):
        nll = trainer.epoch(packed, size.batch, 1)
    theta = parameters_of(trainer)
    return Truth(nll, theta, float(np.linalg.norm(theta - start)))


@lru_cache(KEPT)
def trained_model(size: Size) -> MADEModel:
    """Return a model that has seen enough rows for its samples to look like data: sampling is the faster, the fewer ones."""
    return _trained(size, 1)


@lru_cache(KEPT)
def mixture_model(size: Size) -> MADEModel:
    """Return a mixture over 32 masks."""
    return _trained(size, N_MASKS)


def _trained(size: Size, n_masks: int) -> MADEModel:
    trainer = new_trainer(size, n_masks)
    packed = pack(size, trainer)
    for _ in range(10):
        trainer.epoch(packed, size.batch, 1)
    return to_model(trainer)


def true_logits(model: MADEModel, X: NDArray[np.uint8], mask: int = 0) -> NDArray[np.float64]:
    """Return the logits of rows in float64, from plain arrays."""
    h: NDArray[Any] = X.astype(np.float64)
    net = model.to_dense(mask)
    for l, (W, b) in enumerate(zip(net["weights"], net["biases"], strict=True)):
        h = (np.maximum(h, 0) if l else h) @ W.T.astype(np.float64) + b
    return h


def true_log_p(model: MADEModel, X: NDArray[np.uint8], mask: int = 0) -> NDArray[np.float64]:
    """Return the log-likelihood of rows under one mask."""
    log_p: NDArray[np.float64] = -np.logaddexp(0, (1 - 2.0 * X) * true_logits(model, X, mask)).sum(axis=1)
    return log_p


@lru_cache(KEPT)
def true_mixture(size: Size) -> NDArray[np.float64]:
    """Return the log-likelihoods of the rows to score under each mask of ``mixture_model``, (32, 1000)."""
    of_mask = partial(true_log_p, mixture_model(size), rows(size)[1])
    return np.stack([of_mask(k) for k in range(N_MASKS)])
