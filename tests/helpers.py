"""Helpers of several test files: models, quick fits, rows, digests, fresh processes, a dense network, tests of draws."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chisquare

from made_fast import MADEModel
from made_fast.inference.latent import LatentModel
from made_fast.kernels import layout as panels
from made_fast.network.architecture import Architecture
from made_fast.network.latent import Latent
from made_fast.network.masks import MaskRule, draw_connectivity
from made_fast.network.network import Shared


def random_model(
    n_inputs: int,
    hidden_sizes: tuple[int, ...],
    *,
    activation: str = "relu",
    dtype: str = "float64",
    ordering: str = "random",
    degrees: str = "stratified",
    direct: str = "none",
    connectivity_weights: bool = False,
    n_masks: int | None = 1,
    resample: str = "both",
    seed: int = 0,
    scale: float = 2.0,
) -> MADEModel:
    """Return a model with random parameters, large enough that its conditionals are far from 1/2.

    With ``n_masks=None`` it is one that was trained under ever fresh masks, and a mixture over 5.
    """
    rng = np.random.default_rng(seed)
    architecture = Architecture(n_inputs, hidden_sizes, activation, direct, connectivity_weights)
    rule = MaskRule(draw_connectivity(n_inputs, hidden_sizes, ordering, degrees, rng), degrees, resample)
    shared = Shared(architecture, random_parameters(architecture, dtype, rng, scale))
    if n_masks == 1 and not connectivity_weights:
        return MADEModel(shared.network(rule.base))
    return MADEModel(shared, rule.mask_set(n_masks or 5, rng), rule=rule if n_masks is None else None)


def random_latent(
    n_inputs: int, hidden_sizes: tuple[int, ...], n_points: int, *, seed: int = 0, **of_model: Any
) -> LatentModel:
    """Return a latent mixture with random parameters, whose points differ much."""
    network = random_model(n_inputs, hidden_sizes, seed=seed, **of_model).member(0)
    latent = Latent.of(network, n_points, np.random.default_rng(seed))
    latent.E[:] *= 20
    latent.start_at(np.random.default_rng(seed).normal(size=n_inputs))
    return LatentModel(latent.served())


def random_parameters(architecture: Architecture, dtype: str, rng: np.random.Generator, scale: float = 2.0) -> NDArray[Any]:
    """Return random shared parameters, 0 in the fill-up: weights of N(0, scale^2 / n_in), biases of N(0, 1)."""
    values = panels.aligned_zeros(architecture.n_shared, np.dtype(dtype))
    for (n_in, n_out, *_), row in zip(architecture.layers, architecture.shared_layout, strict=True):
        starts = [
            (row[panels.SHARED_WEIGHTS], n_in, scale),
            (row[panels.SHARED_U], n_in, 0.3),
            (row[panels.SHARED_BIAS], 1, 1),
        ]
        for start, n_rows, size in starts:
            if start >= 0:
                block = values[start : start + n_rows * row[panels.ROW]].reshape(n_rows, -1)
                block[:, :n_out] = rng.normal(size=(n_rows, n_out)) * size / np.sqrt(n_rows)
    return values


def all_inputs(n_inputs: int) -> NDArray[np.uint8]:
    """Return all 2^D binary vectors, (2^D, D)."""
    return ((np.arange(2**n_inputs)[:, None] >> np.arange(n_inputs)) & 1).astype(np.uint8)


def unpack_rows(bits: NDArray[np.uint64], order: NDArray[np.intp]) -> NDArray[np.uint8]:
    """Unpack rows that ``pack_rows`` has packed: return (n, D) in the order of the features."""
    out = np.empty((len(bits), len(order)), np.uint8)
    out[:, order] = np.unpackbits(bits.astype("<u8").view(np.uint8), axis=1, count=len(order), bitorder="little")
    return out


def rows(n: int, D: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return random rows of 0/1, a third of them ones."""
    return (np.random.default_rng(seed).integers(0, 3, (n, D), np.uint8) == 0).view(np.uint8)


def with_missing(n: int, D: int, share: float, n_patterns: int, seed: int = 0) -> NDArray[np.float32]:
    """Return rows with a share of the entries NaN, in ``n_patterns`` patterns."""
    X = rows(n, D, seed).astype(np.float32)
    patterns = np.random.default_rng(seed + 1).random((n_patterns, D)) < share
    X[patterns[np.arange(n) % n_patterns]] = np.nan
    return X


def small(**params: Any) -> Any:
    from made_fast import MADE  # not above: workers of pools need no scikit-learn

    common = {"hidden_sizes": (4,), "max_epochs": 1, "n_threads": 1, "random_state": 0, "learning_rate": 0.01}
    return MADE(**(common | params))


def digest(*things: Any) -> str:
    """Return a digest of values: types, shapes and bits of arrays, also within lists and dicts, and the repr of the others."""
    sha = hashlib.sha256()

    def add(thing: Any) -> None:
        if isinstance(thing, np.ndarray | np.generic):
            sha.update(f"{thing.dtype}{thing.shape}".encode() + thing.tobytes())
        elif isinstance(thing, list | tuple):
            for one in thing:
                add(one)
        elif isinstance(thing, dict):
            add([*thing.items()])
        else:
            sha.update(repr(thing).encode())

    add(things)
    return sha.hexdigest()


def python(*arguments: Any, seconds: float, **environment: str | None) -> str:
    """Run Python in a fresh process, without variables that are None; return what it prints; RuntimeError if it fails."""
    command = [sys.executable, "-W", "ignore:This process:DeprecationWarning", *map(str, arguments)]
    env = {name: value for name, value in (os.environ | environment).items() if value is not None}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds, env=env)
    except subprocess.TimeoutExpired:
        raise RuntimeError("the process hangs") from None
    if done.returncode:
        raise RuntimeError(f"exit {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout.strip()


def peak(call: Callable[[], Any]) -> int:
    """Return the most bytes that a call holds at once."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def raising(error: BaseException | type[BaseException]) -> Callable[..., NoReturn]:
    """Return a function that takes any arguments and raises an error."""

    def call(*_: Any, **__: Any) -> NoReturn:
        raise error

    return call


def put(content: bytes) -> Callable[[BinaryIO], Any]:
    """Return a function that writes bytes to a stream."""
    return lambda stream: stream.write(content)


def descriptors() -> set[str]:
    """Return the open descriptors, without the one that lists them."""
    return {fd for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")}


def dense(X: Any) -> NDArray[Any]:
    """Return the array of a table, dense or sparse."""
    return np.asarray(X.toarray() if hasattr(X, "toarray") else X)


ACTIVATIONS = {
    "relu": lambda z: np.maximum(z, 0),
    "softplus": lambda z: np.logaddexp(z, 0),
    "tanh": np.tanh,
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "softsign": lambda z: z / (1 + abs(z)),
}


def dense_log_p(net: dict[str, Any], X: NDArray[Any], activation: str = "relu") -> NDArray[np.float64]:
    """Compute log p(x) of each row from what ``to_dense`` returned, in plain NumPy and float64."""
    x = h = X.astype(np.float64)
    for W, b, A in zip(net["weights"], net["biases"], net["direct"], strict=True):
        z = h @ W.T.astype(np.float64) + b + (0 if A is None else x @ A.T.astype(np.float64))
        h = ACTIVATIONS[activation](z)
    return -np.logaddexp(0, np.where(X == 1, -z, z)).sum(axis=1)


def assert_drawn_from(draws: NDArray[np.uint8], p: NDArray[np.float64]) -> None:
    """Check that draws (n, D) have the probabilities p (2^D,) of all inputs, or shares of them, by a chi-square test."""
    counts = np.bincount(draws @ (1 << np.arange(draws.shape[1])), minlength=len(p))
    assert (counts[p == 0] == 0).all()
    expected = len(draws) * p / p.sum()
    rare = expected < 10
    counts, expected = [np.append(v[~rare], v[rare].sum()) for v in (counts, expected)]
    used = expected > 0
    if used.sum() > 1:
        assert chisquare(counts[used], expected[used] * counts[used].sum() / expected[used].sum()).pvalue > 1e-4
