"""What is timed, and how it is held to the truth: (case, size, implementation) -> a call and its check.

The bench files and ``bench.report`` both take their calls from here. Truth is the ``reference`` implementation of the kernels
in float64; it checks the very arrays that are timed, after one warm-up call and before the clock (``Work.warm_up``).

Everything runs on one thread: ``n_threads=1`` for native, the Numba kernels have no threads, BLAS is held to one thread by
threadpoolctl (``one_blas_thread``). Calls go through the public methods, so user input is checked and packed inside the clock.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_info, threadpool_limits

from bench.dense_numpy import DenseMADE, FreshDenseMADE
from made_fast import MADEModel, data, kernels
from made_fast.kernels.layout import N_IN, N_OUT, ROW
from made_fast.kernels.optimizers import OPTIMIZERS
from made_fast.masks import Connectivity, MaskRule, MaskSet, draw_connectivity
from made_fast.network import Architecture, Shared
from made_fast.trainers import POOL, FixedTrainer, SharedTrainer, Trainer, TrainingRows
from made_fast.training import initial_parameters

__all__ = ["CASES", "IMPLEMENTATIONS", "SIZES", "Case", "Size", "Work", "available", "machine", "one_blas_thread", "using"]

IMPLEMENTATIONS = ("numpy", "jit", "native")

BATCH, STEPS = 100, 20
SEED = 0
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

FLOAT32 = 1e-5
"""Error allowed: relative in a score and in the way that parameters went, absolute in a probability."""


FRESH = 1e-4
"""The same under fresh connectivities, where some weights get their first gradients late: Adam goes by the sign of those."""


class Size(NamedTuple):
    """A network and the data set that it is timed on; random bits of the same density where the set is not at hand."""

    n_features: int
    hidden_sizes: tuple[int, ...]
    data_set: str
    density: float

    def __str__(self) -> str:
        return f"D={self.n_features}-H={'x'.join(map(str, self.hidden_sizes))}"

    @property
    def path(self) -> Path:
        """Where the real rows are, if they are."""
        return SHARED / f"{self.data_set}.npz"

    @property
    def source(self) -> str:
        """Say what the rows are."""
        return self.data_set if self.path.exists() else f"random bits, {self.density:.0%} ones"


SIZES = (Size(784, (500,), "binarized_mnist", 0.13), Size(180, (500,), "dna_made", 0.25))


@dataclass
class Work:
    """A call that is timed.

    Attributes
    ----------
    implementation : str
        One of ``IMPLEMENTATIONS``.
    run : callable
        What is timed.
    check : callable
        Takes what the first ``run`` returned, and raises AssertionError unless it is right.
    units : int
        Units of work in one call; a time is divided by it.
    """

    implementation: str
    run: Callable[[], Any]
    check: Callable[[Any], None]
    units: int = 1

    def warm_up(self) -> None:
        """Call once, which compiles and fills caches, and check the result."""
        with using(self.implementation):
            result = self.run()
        self.check(result)


class Case(NamedTuple):
    """One thing to do, at any size, by any implementation; the report compares with ``baseline``, ``note`` tells of it."""

    title: str
    build: Callable[[Size, str], Work]
    baseline: str = "numpy"
    note: str = ""


@contextmanager
def using(implementation: str) -> Iterator[None]:
    """Switch to the kernels called ``implementation``, and back at the end; ``numpy`` has none."""
    before = kernels.implementation
    if implementation in kernels.IMPLEMENTATIONS:
        kernels.use(implementation)
    try:
        yield
    finally:
        kernels.use(before)


# ---------------------------------------------------------------------------------------------------------------------------
# Rows, trainers, models; the truth
# ---------------------------------------------------------------------------------------------------------------------------


@cache
def rows(size: Size) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return BATCH * STEPS rows to train on and 1000 to score."""
    n, n_test, D = BATCH * STEPS, 1000, size.n_features
    if size.path.exists():
        with np.load(size.path) as file:
            train, valid, test = (np.unpackbits(file[split], axis=1, count=D) for split in ("train", "valid", "test"))
        X = np.concatenate([train[:n], valid[: n - len(train[:n])], test[:n_test]])
    else:
        X = np.random.default_rng(SEED).random((n + n_test, D)) < size.density
    X = X.astype(np.uint8, order="C")  # unpackbits does not promise it
    return X[:n], X[n:]


def new_trainer(size: Size) -> FixedTrainer:
    """Return an untrained network, the same every time."""
    rng, adam = np.random.default_rng(SEED), OPTIMIZERS["adam"]
    architecture = Architecture(size.n_features, size.hidden_sizes, "relu")
    connectivity = draw_connectivity(size.n_features, size.hidden_sizes, "random", "stratified", rng)
    parameters = initial_parameters(architecture, "glorot_uniform", np.dtype(np.float32), rng)
    theta = Shared(architecture, parameters).network(connectivity).theta
    hyper = np.array([*adam.hyper, 0.0, 0.0])  # neither weight decay nor clipping
    return FixedTrainer(architecture, MaskSet.of([connectivity]), theta, adam, hyper, rng)


def new_shared_trainer(size: Size, dtype: str = "float32") -> SharedTrainer:
    """Return an untrained network that gets a fresh connectivity with every mini-batch, the same ones every time."""
    rng, adam = np.random.default_rng(SEED), OPTIMIZERS["adam"]
    architecture = Architecture(size.n_features, size.hidden_sizes, "relu")
    rule = MaskRule(draw_connectivity(size.n_features, size.hidden_sizes, "random", "stratified", rng), "stratified", "both")
    parameters = initial_parameters(architecture, "glorot_uniform", np.dtype(np.float32), rng).astype(dtype)
    hyper = np.array([*adam.hyper, 0.0, 0.0])
    fresh, noise = rng.spawn(2)
    return SharedTrainer(architecture, MaskSet.of([rule.base]), parameters, adam, hyper, rng, rule, fresh, noise)


def flatten_shared(trainer: SharedTrainer) -> NDArray[Any]:
    """Return the shared parameters without the fill-up of their rows."""
    parts, done = [], 0
    for layer, row in zip(trainer.architecture.layers, trainer.architecture.shared_layout, strict=True):
        size = (layer[N_IN] + 1) * row[ROW]
        parts.append(trainer.parameters[done : done + size].reshape(-1, row[ROW])[:, : layer[N_OUT]].ravel())
        done += size
    return np.concatenate(parts)


def pack(size: Size, trainer: Trainer) -> TrainingRows:
    """Return the training rows as ``Trainer.epoch`` takes them."""
    return TrainingRows(data.pack_rows(rows(size)[0], trainer.column_order), None, np.empty(0))


def to_model(trainer: FixedTrainer) -> MADEModel:
    """Return the model that is being trained; it shares the parameters."""
    return MADEModel(trainer.source(trainer.parameters))


@cache
def trained_model(size: Size) -> MADEModel:
    """Return a model that has seen enough rows for its samples to look like data: sampling is the faster, the fewer ones."""
    trainer = new_trainer(size)
    packed = pack(size, trainer)
    for _ in range(10):
        trainer.epoch(packed, BATCH, 1)
    return to_model(trainer)


@cache
def true_epoch(size: Size) -> tuple[float, NDArray[np.float64], float]:
    """Return the mean NLL and the parameters after one epoch of the float64 reference, and how far they have moved."""
    start = new_trainer(size)
    theta = start.parameters.astype(np.float64)
    trainer = replace(start, parameters=theta.copy())
    packed = pack(size, trainer)
    with using("reference"):
        nll = trainer.epoch(packed, BATCH, 1)
    return nll, flatten(to_model(trainer).to_dense()), float(np.linalg.norm(trainer.parameters - theta))


@cache
def true_fresh_epoch(size: Size) -> tuple[float, NDArray[Any], float]:
    """Do ``true_epoch`` under a fresh connectivity in every step."""
    trainer = new_shared_trainer(size, "float64")
    start, packed = flatten_shared(trainer).copy(), pack(size, trainer)
    with using("reference"):
        nll = trainer.epoch(packed, BATCH, 1)
    return nll, flatten_shared(trainer), float(np.linalg.norm(flatten_shared(trainer) - start))


@cache
def true_logits(model: MADEModel, X_bytes: bytes) -> NDArray[np.float64]:
    """Return the logits of rows of 0/1 in float64, from plain arrays."""
    h: NDArray[Any] = np.frombuffer(X_bytes, np.uint8).reshape(-1, model.n_features_in).astype(np.float64)
    net = model.to_dense()
    for l, (W, b) in enumerate(zip(net["weights"], net["biases"], strict=True)):
        h = (np.maximum(h, 0) if l else h) @ W.T.astype(np.float64) + b
    return h


def flatten(net: dict[str, Any]) -> NDArray[np.float64]:
    """Return all weights and biases of ``to_dense()`` in one vector."""
    parts = [part.ravel() for W, b in zip(net["weights"], net["biases"], strict=True) for part in (W.T, b)]
    return np.concatenate(parts).astype(np.float64)


# ---------------------------------------------------------------------------------------------------------------------------
# Cases
# ---------------------------------------------------------------------------------------------------------------------------


def training_step(size: Size, implementation: str) -> Work:
    """Adam on mini-batches of 100: one call is an epoch of 20 steps, shuffling, gathering of rows and loss included."""
    trainer = new_trainer(size)

    def dense() -> tuple[DenseMADE, Callable[[], None]]:
        return DenseMADE(to_model(trainer).to_dense(), n_rows=BATCH), lambda: None

    def parameters() -> NDArray[Any]:
        return flatten(to_model(trainer).to_dense())

    return _epochs(size, implementation, trainer, dense, parameters, partial(true_epoch, size), FLOAT32)


def fresh_step(size: Size, implementation: str) -> Work:
    """Do ``training_step`` under a fresh connectivity, ordering and degrees, in every step; drawing it is included."""
    trainer = new_shared_trainer(size)

    def dense() -> tuple[DenseMADE, Callable[[], None]]:
        net = FreshDenseMADE(to_model(new_trainer(size)).to_dense(), flatten_shared(trainer), n_rows=BATCH)
        drawn = _connectivities(trainer)

        def connect() -> None:
            connectivity = next(drawn)
            net.connect(connectivity.ordering, list(connectivity.degrees))

        return net, connect

    return _epochs(
        size, implementation, trainer, dense, partial(flatten_shared, trainer), partial(true_fresh_epoch, size), FRESH
    )


def _connectivities(trainer: SharedTrainer) -> Iterator[Connectivity]:
    """Yield the connectivities of the trainer's steps, drawn as it draws them."""
    assert trainer.rule is not None
    while True:
        masks = trainer.rule.draw(POOL, trainer.fresh)
        yield from (masks[k] for k in range(POOL))


def _epochs(
    size: Size,
    implementation: str,
    trainer: Trainer,
    dense: Callable[[], tuple[DenseMADE, Callable[[], None]]],
    parameters: Callable[[], NDArray[Any]],
    truth: Callable[[], tuple[float, NDArray[Any], float]],
    tolerance: float,
) -> Work:
    """Return an epoch of the trainer, or of the dense net, which has something to do before each step, as work."""
    run: Callable[[], float]
    if implementation == "numpy":
        net, before_step = dense()
        X, shuffle = rows(size)[0].astype(np.float32), trainer.shuffle
        batch = np.empty((BATCH, size.n_features), np.float32)

        def run() -> float:
            order, nll = shuffle.permutation(len(X)), 0.0
            for start in range(0, len(X), BATCH):
                before_step()
                np.take(X, order[start : start + BATCH], axis=0, out=batch, mode="clip")
                nll += net.step(batch)
            return nll / len(X)

        parameters = partial(getattr, net, "theta")
    else:
        run = partial(trainer.epoch, pack(size, trainer), BATCH, 1)

    def check(nll: float) -> None:
        true_nll, theta, moved = truth()
        np.testing.assert_allclose(nll, true_nll, rtol=FLOAT32)
        error = float(np.linalg.norm(parameters() - theta)) / moved
        assert error < tolerance, f"after {STEPS} steps the parameters are off by {error:.2g} of the way they went"

    return Work(implementation, run, check, units=STEPS)


def score(size: Size, implementation: str, n: int) -> Work:
    """Log-likelihood of n rows of uint8."""
    model, X = trained_model(size), rows(size)[1][:n]
    if implementation == "numpy":
        run: Callable[[], Any] = partial(DenseMADE(model.to_dense()).score, X)
    else:
        run = partial(model.score_samples, X, n_threads=1)

    def check(log_p: NDArray[np.float64]) -> None:
        a = true_logits(model, X.tobytes())
        np.testing.assert_allclose(log_p, -np.logaddexp(0, (1 - 2.0 * X) * a).sum(axis=1), rtol=FLOAT32)

    return Work(implementation, run, check)


def sample(size: Size, implementation: str, n: int) -> Work:
    """Draw n rows, the same for every implementation; drawing the uniforms is included."""
    model, D = trained_model(size), size.n_features
    if implementation in ("numpy", "numpy-incremental"):
        dense = DenseMADE(model.to_dense())
        draw = dense.sample if implementation == "numpy" else dense.sample_incremental

        def run() -> NDArray[np.uint8]:
            return draw(np.random.default_rng(SEED).random((n, D)))
    else:

        def run() -> NDArray[np.uint8]:
            return model.sample(n, SEED, n_threads=1)

    def check(X: NDArray[np.uint8]) -> None:
        # one pass tells every conditional that a row was drawn from, so the whole row is right if each entry is
        uniforms = np.random.default_rng(SEED).random((n, D))[:, model.to_dense()["ordering"] - 1]
        p = 1 / (1 + np.exp(-true_logits(model, X.tobytes())))
        wrong = ((uniforms < p) != X) & (np.abs(uniforms - p) > FLOAT32)  # closer than that is a tie
        assert not wrong.any(), f"{wrong.any(axis=1).sum()} of {n} rows are not what these uniforms give"

    return Work(implementation, run, check)


CASES = {
    "step": Case("training step, 100 rows", training_step),
    "fresh": Case("training step, 100 rows, fresh connectivity", fresh_step),
    "score-1000": Case("score 1000 rows", partial(score, n=1000)),
    "score-1": Case("score one row", partial(score, n=1)),
    "sample": Case("sample 100 rows", partial(sample, n=100), note=" (NumPy: D full passes)"),
    "sample-incremental": Case(
        "sample 100 rows", partial(sample, n=100), "numpy-incremental", note=" (NumPy: hidden sums kept up)"
    ),
}


# ---------------------------------------------------------------------------------------------------------------------------
# The machine
# ---------------------------------------------------------------------------------------------------------------------------


def available(implementation: str) -> bool:
    """Say whether an implementation can run here; ``native`` is missing where no compiler was."""
    if implementation in kernels.IMPLEMENTATIONS:
        try:
            kernels.load(implementation)
        except ModuleNotFoundError:
            return False
    return True


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold BLAS to one thread."""
    with threadpool_limits(limits=1, user_api="blas"):
        yield


def machine() -> dict[str, str]:
    """Return what a figure depends on: CPU, level of the native kernels, threads, versions."""
    cpu = Path("/proc/cpuinfo")
    models = [line.partition(": ")[2] for line in cpu.read_text().splitlines() if line.startswith("model name")]
    blas: dict[str, Any] = next((pool for pool in threadpool_info() if pool["user_api"] == "blas"), {})
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "numba", "made_fast")}
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "native": kernels.load("native").level() if available("native") else "missing",
        "threads": "1 (native by n_threads=1, BLAS by threadpoolctl)",
        "python": platform.python_version(),
        **versions,
        "blas": f"{blas.get('internal_api', 'unknown')} {blas.get('version', '')} {blas.get('architecture', '')}".strip(),
    }
