"""What is timed, and how it is held to the truth: (case, size, implementation) -> a call and its check.

The bench files and the report both take their calls from here. A check is of the very arrays that are timed, after one
warm-up call and before the clock (``Work.warm_up``). Calls go through the public methods, so user input is checked and packed
inside the clock; but a training step is timed where ``fit`` makes it, on rows that are packed already: a user calls epochs.
Single kernels are in ``layers.py``; sizes, rows and the truth in ``nets.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench import layers, nets
from bench.dense_numpy import DenseMADE, FreshDenseMADE
from bench.implementations import DENSE, dense_net, fresh_net, n_threads
from bench.nets import SEED, Layer, Size
from bench.work import FLOAT32, TRAINED, Work
from made_fast.training.steps import Trainer
from made_fast.training.turns import POOL, Turns

__all__ = ["CASES", "Case", "Run"]


class Case(NamedTuple):
    """One thing to do, at any size, by any implementation."""

    title: str
    build: Callable[[Any, str], Work]


class Run(NamedTuple):
    """A case at a size by an implementation: what is timed by itself."""

    case: str
    size: Size | Layer
    implementation: str = "native"

    def build(self) -> Work:
        """Return the call and its check."""
        return CASES[self.case].build(self.size, self.implementation)


def training_step(size: Size, implementation: str, n_masks: int | None = 1) -> Work:
    """Adam on mini-batches: one call is an epoch of ``size.steps`` steps, shuffling, gathering of rows and loss included.

    With ``n_masks=None`` every step has a fresh connectivity, ordering and degrees; drawing it is included.
    """
    trainer = nets.new_trainer(size, n_masks)
    if implementation in DENSE:
        run, parameters = _dense_epochs(size, implementation, trainer)
    else:
        run = partial(trainer.epoch, nets.pack(size, trainer), size.batch, n_threads(implementation))
        parameters = partial(nets.parameters_of, trainer)
    check = partial(_check_epoch, size, n_masks, parameters)
    return Work(implementation, run, check, units=size.steps)


def epoch(size: Size, implementation: str) -> Work:
    """One ``partial_fit``: rows of uint8 are checked, packed and trained on; NumPy has its rows in float32 already."""
    if implementation in DENSE:
        run, parameters = _dense_epochs(size, implementation, nets.new_trainer(size))
    else:
        made, X = nets.estimator(size, n_threads=n_threads(implementation)), nets.rows(size)[0]

        def run() -> float:
            return float(made.partial_fit(X).history_[-1]["train_nll"])

        def parameters() -> NDArray[Any]:
            return nets.flatten(made.model_.to_dense())

    return Work(implementation, run, partial(_check_epoch, size, 1, parameters))


def _dense_epochs(size: Size, implementation: str, trainer: Trainer) -> tuple[Callable[[], float], Callable[[], NDArray[Any]]]:
    """Return what makes an epoch of a dense net, on the rows and under the masks of the trainer, and its parameters."""
    if trainer.turns is not None:
        shapes = nets.to_model(nets.new_trainer(size)).to_dense()
        fresh = fresh_net(implementation, shapes, nets.parameters_of(trainer), size.batch)
        step = partial(_fresh_step, fresh, _connectivities(trainer.turns))
        net: Any = fresh
    else:
        net = dense_net(implementation, nets.to_model(trainer).to_dense(), size.batch)
        step = net.step
    X, shuffle = nets.rows(size)[0].astype(np.float32), trainer.shuffle
    batch = np.empty((size.batch, size.n_features), np.float32)

    def run() -> float:
        order, nll = shuffle.permutation(len(X)), 0.0
        for start in range(0, len(X), size.batch):
            np.take(X, order[start : start + size.batch], axis=0, out=batch, mode="clip")
            nll += step(batch)
        return nll / len(X)

    return run, lambda: net.theta


def _connectivities(turns: Turns) -> Iterator[Any]:
    """Yield the connectivities of steps, drawn as they are drawn in training."""
    assert turns.rule is not None
    while True:
        masks = turns.rule.draw(POOL, turns.fresh)
        yield from (masks[k] for k in range(POOL))


def _fresh_step(net: FreshDenseMADE, connectivities: Iterator[Any], batch: NDArray[np.float32]) -> float:
    connectivity = next(connectivities)
    net.connect(connectivity.ordering, list(connectivity.degrees))
    return net.step(batch)


def _check_epoch(size: Size, n_masks: int | None, parameters: Callable[[], NDArray[Any]], nll: float) -> None:
    truth = nets.true_epoch(size, n_masks)
    np.testing.assert_allclose(nll, truth.nll, rtol=FLOAT32)
    error = float(np.linalg.norm(parameters() - truth.parameters)) / truth.moved
    assert error < TRAINED, f"after {size.steps} steps parameters are off by {error:.2g} of their way"


def score(size: Size, implementation: str, n: int) -> Work:
    """Log-likelihood of n rows of uint8."""
    model, X = nets.trained_model(size), nets.rows(size)[1][:n]
    if implementation in DENSE:
        run: Callable[[], Any] = partial(dense_net(implementation, model.to_dense(), min(n, 500)).score, X)
    else:
        run = partial(model.score_samples, X, n_threads=n_threads(implementation))
    return Work(implementation, run, lambda log_p: np.testing.assert_allclose(log_p, nets.true_log_p(model, X), rtol=FLOAT32))


def sample(size: Size, implementation: str, n: int) -> Work:
    """Draw n rows, the same for every implementation; drawing the uniforms is included.

    Dense nets make D full passes, as most code does; ``numpy-incremental`` keeps the hidden sums up from input to input, the
    best way that was found in NumPy for one hidden layer.
    """
    model, D = nets.trained_model(size), size.n_features
    if implementation in (*DENSE, "numpy-incremental"):
        numpy = DenseMADE(model.to_dense(), min(n, 500))
        dense = numpy if implementation.startswith("numpy") else dense_net(implementation, model.to_dense(), min(n, 500))
        draw = numpy.sample_incremental if implementation == "numpy-incremental" else dense.sample

        def run() -> NDArray[np.uint8]:
            return draw(np.random.default_rng(SEED).random((n, D)))
    else:

        def run() -> NDArray[np.uint8]:
            return model.sample(n, SEED, n_threads=n_threads(implementation))

    def check(X: NDArray[np.uint8]) -> None:
        # one pass tells every conditional that a row was drawn from, so the whole row is right if each entry is
        uniforms = np.random.default_rng(SEED).random((n, D))[:, model.to_dense()["ordering"] - 1]
        p = 1 / (1 + np.exp(-nets.true_logits(model, X)))
        wrong = ((uniforms < p) != X) & (np.abs(uniforms - p) > FLOAT32)  # closer than that is a tie
        assert not wrong.any(), f"{wrong.any(axis=1).sum()} of {n} rows are not what these uniforms give"

    return Work(implementation, run, check)


def mixture(size: Size, implementation: str, apart: bool = False) -> Work:
    """Log-likelihood of 1000 rows under the mixture over 32 masks, or (``apart``) under each of them, one after the other."""
    model, X = nets.mixture_model(size), nets.rows(size)[1]
    masks = range(model.n_masks)
    if implementation == "numpy":
        dense, members = DenseMADE(model.to_dense(0)), [model.to_dense(k) for k in masks]
        transposed = [[np.ascontiguousarray(W.T) for W in net["weights"]] for net in members]

        def score_mask(k: int) -> Any:
            dense.layers = list(zip(transposed[k], members[k]["biases"], strict=True))
            return dense.score(X)
    else:

        def score_mask(k: int) -> Any:
            return model.score_samples(X, mask=k, n_threads=n_threads(implementation))

    def run() -> Any:
        if apart:
            return [score_mask(k) for k in masks]
        if implementation == "numpy":
            return np.logaddexp.reduce([score_mask(k) for k in masks], axis=0) - np.log(model.n_masks)
        return model.score_samples(X, n_threads=n_threads(implementation))

    def check(log_p: Any) -> None:
        truth = nets.true_mixture(size)
        right = truth if apart else np.logaddexp.reduce(truth, axis=0) - np.log(model.n_masks)
        np.testing.assert_allclose(log_p, right, rtol=FLOAT32)

    return Work(implementation, run, check)


CASES = {
    "step": Case("training step", training_step),
    "fresh": Case("training step, fresh connectivity", partial(training_step, n_masks=None)),
    "epoch": Case("an epoch of 100 mini-batches, by partial_fit", epoch),
    "score-1000": Case("score 1000 rows", partial(score, n=1000)),
    "score-32": Case("score 32 rows", partial(score, n=32)),
    "score-1": Case("score one row", partial(score, n=1)),
    "sample-1000": Case("sample 1000 rows", partial(sample, n=1000)),
    "sample-100": Case("sample 100 rows", partial(sample, n=100)),
    "sample-32": Case("sample 32 rows", partial(sample, n=32)),
    "mixture": Case("score 1000 rows, mixture of 32 masks", mixture),
    "apart": Case("score 1000 rows, 32 masks one by one", partial(mixture, apart=True)),
    **{name: Case(name, partial(layers.work, name)) for name in layers.KERNELS},
}
