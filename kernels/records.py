"""The records that kernels take: a few named tuples of arrays, the same in Python, Numba and C (``native/native.h``).

A record only names what belongs together; it holds references, copies nothing and checks nothing. Not here: where each
number stands inside those arrays (``layout.py``), what the constants of an update mean (``optimizers.py``).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Batches", "Crew", "Dropout", "Masks", "Net", "Scratch", "Shared", "TrainScratch", "Update"]

BINARY = np.zeros((0, 2), np.int32)
"""The table of variables of a network all of whose variables are binary."""


class Net(NamedTuple):
    """A network under one connectivity: ``theta`` and the tables of :class:`made_fast.kernels.layout.Layout`."""

    theta: NDArray[Any]
    layers: NDArray[np.int64]
    n_live: NDArray[np.int32]
    panel_start: NDArray[np.int64]
    variables: NDArray[np.int32] = BINARY


class Shared(NamedTuple):
    """Parameters that several connectivities share, (n,), and their ``SharedLayout``."""

    values: NDArray[Any]
    layout: NDArray[np.int64]


class Masks(NamedTuple):
    """The tables of K connectivities, each with K as its first dimension: ``orders`` and those of ``Layout``."""

    orders: NDArray[np.int32]
    layers: NDArray[np.int64]
    n_live: NDArray[np.int32]
    panel_start: NDArray[np.int64]
    variables: NDArray[np.int32] = BINARY[None]


class Batches(NamedTuple):
    """Rows to train on, in mini-batches.

    Attributes
    ----------
    bits : (n, W) uint64
    weights : (n,) float64, or (0,) for 1 everywhere
    rows : (m,) int64
        The rows in the order of use.
    batch_size : int
        Rows of a step; the last one may be shorter.
    """

    bits: NDArray[np.uint64]
    weights: NDArray[np.float64]
    rows: NDArray[np.int64]
    batch_size: int


class Dropout(NamedTuple):
    """Which hidden units are kept.

    Attributes
    ----------
    keep : (m, sum of hidden panels) uint64, or (0, 1): all are
        Unit 64 p + u of a hidden layer is dropped for row i where bit u of word p of that layer is 0.
    rate : float
        Probability that a unit is dropped; kept ones are multiplied by ``1 / (1 - rate)``.
    """

    keep: NDArray[np.uint64]
    rate: float


class Update(NamedTuple):
    """An optimiser at work: its code, updates made before, its constants (6,) float64, its state (n_state, n)."""

    optimizer: int
    step: int
    constants: NDArray[np.float64]
    state: NDArray[Any]


class Scratch(NamedTuple):
    """Room to work in; what is in it means nothing."""

    reals: NDArray[Any]
    ints: NDArray[np.int32]


class TrainScratch(NamedTuple):
    """Room for training steps.

    Attributes
    ----------
    gradient
        Like the parameters, or of length 0 where nothing is clipped and, for ``train_shared``, no step has two groups of rows.
    theta, dtheta
        As long as the longest theta of a connectivity, ``dtheta`` of zeros; of length 0 where no parameters are shared.
        For ``train_latent``, ``jit`` always needs ``gradient`` and ``dtheta``, both like the parameters.
    reals, ints
        See ``layout.train_workspace``, ``layout.shared_train_workspace`` and ``layout.latent_train_workspace``.
    """

    gradient: NDArray[Any]
    theta: NDArray[Any]
    dtheta: NDArray[Any]
    reals: NDArray[Any]
    ints: NDArray[np.int32]


class Crew(NamedTuple):
    """The threads that share the work of a call: this one's rank, how many there are, and where they meet, (64,) int32."""

    rank: int
    n_ranks: int
    sync: NDArray[np.int32]
