"""Training: initial parameters, epochs, validation, early stopping. The steps themselves are in ``trainers.py``.

Not here: what the user typed (``estimator.py``), the finished model (``model.py``), files (``checkpoint.py``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from made_fast.kernels import layout as panels
from made_fast.network.network import Architecture, Network
from made_fast.tables.table import chunks
from made_fast.training.trainers import Trainer, TrainingRows

__all__ = [
    "WEIGHT_INITS", "EpochRecord", "FitState", "fit", "initial_parameters", "run_epoch", "validator", "weighted_mean",
]  # fmt: skip

WEIGHT_INITS = ("glorot_uniform", "glorot_normal", "orthogonal", "zeros")


class EpochRecord(TypedDict):
    """What ``history_`` tells of one epoch; NLL is the mean negative log-likelihood of a row in nats.

    ``train_nll`` is the mean over the epoch's mini-batches, each scored before its update, weighted if there are weights;
    ``seconds`` are those of training, without validation.
    """

    epoch: int
    train_nll: float
    validation_nll: float | None
    seconds: float
    rows_per_second: float


def initial_parameters(
    architecture: Architecture, weight_init: str, dtype: np.dtype[Any], rng: np.random.Generator
) -> NDArray[Any]:
    """Return shared parameters with random weights W and A, and with b and U of 0.

    ``"glorot_uniform"``: U(-r, r) with r = sqrt(6 / (n_in + n_out)); ``"glorot_normal"``: N(0, 2 / (n_in + n_out)) (Glorot and
    Bengio 2010); ``"orthogonal"``: orthonormal rows or columns, whichever are fewer (Saxe, McClelland, Ganguli 2014);
    ``"zeros"``. Sizes are those of the full layers.
    """
    shared = panels.aligned_zeros(architecture.n_shared, dtype)
    for (n_in, n_out, *_), row in zip(architecture.layers, architecture.shared_layout, strict=True):
        start, stride = row[panels.SHARED_WEIGHTS], row[panels.ROW]
        W = shared[start : start + n_in * stride].reshape(n_in, stride)[:, :n_out]
        if weight_init == "orthogonal":
            W[:] = _orthogonal(int(n_in), int(n_out), dtype, rng)
            continue
        for part in chunks(int(n_in), int(n_out)):  # Ctrl-C is answered in between; the numbers are the same
            if weight_init == "glorot_uniform":
                W[part] = (2 * rng.random(W[part].shape, dtype=dtype) - 1) * dtype.type(np.sqrt(6.0 / (n_in + n_out)))
            elif weight_init == "glorot_normal":
                W[part] = rng.standard_normal(W[part].shape, dtype=dtype) * dtype.type(np.sqrt(2.0 / (n_in + n_out)))
    return shared


def _orthogonal(n_in: int, n_out: int, dtype: np.dtype[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Draw an (n_in, n_out) matrix with orthonormal columns (rows, if those are fewer), uniform among all of them.

    The thin QR factorisation of a Gaussian matrix; with the signs of R's diagonal taken out it is uniform (Mezzadri 2007).
    """
    from scipy.linalg import qr  # works in single precision, which NumPy's does not, and so in a third of the time

    tall = rng.standard_normal((max(n_in, n_out), min(n_in, n_out)), dtype=dtype)
    Q: NDArray[Any]
    Q, R = qr(tall, mode="economic", overwrite_a=True, check_finite=False)
    Q *= np.where(np.diagonal(R) < 0, -1, 1).astype(dtype)
    return Q if n_in >= n_out else Q.T


def validator(
    trainer: Trainer, tables: Sequence[NDArray[np.uint64]], weights: NDArray[np.float64], n_threads: int
) -> Callable[[], float]:
    """Return what tells the mean NLL of validation rows under the trainer's parameters as they are.

    ``tables[k]`` are the rows packed for mask k, for as many of the first masks as shall be mixed; ``weights`` are what each
    row counts in the mean, see :func:`weighted_mean`.
    """

    def nll() -> float:
        source = trainer.source(trainer.parameters)
        log_p: Any = -np.inf
        for k, bits in enumerate(tables):
            network = source if isinstance(source, Network) else source.network(trainer.masks[k])
            log_p = np.logaddexp(log_p, network.score(bits, n_threads))
        return float(np.log(len(tables)) - weighted_mean(log_p, weights))

    return nll


def weighted_mean(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Return the mean of what rows have; weights of length 0 stand for 1 everywhere."""
    return float(np.average(values, weights=weights) if len(weights) else np.mean(values))


def run_epoch(
    trainer: Trainer, rows: TrainingRows, batch_size: int, n_threads: int, number: int, good: NDArray[Any]
) -> EpochRecord:
    """Make one pass over the rows and tell of it as epoch ``number``.

    Raises FloatingPointError if the loss did not stay finite; the trainer has gone back to the parameters ``good`` then.
    """
    begin = time.perf_counter()
    try:
        train_nll = trainer.epoch(rows, batch_size, n_threads)
    except FloatingPointError as error:
        raise _diverged(trainer, good, number, str(error)) from None
    seconds = time.perf_counter() - begin
    return EpochRecord(
        epoch=number,
        train_nll=train_nll,
        validation_nll=None,
        seconds=seconds,
        rows_per_second=len(rows.bits) / seconds,
    )


def _diverged(trainer: Trainer, good: NDArray[Any], number: int, what: str) -> FloatingPointError:
    """Go back to ``good``; return the error that says so."""
    trainer.go_back(good)
    return FloatingPointError(
        f"epoch {number}: {what}. Try a smaller learning_rate (now {trainer.hyper[0]:g}), clip_norm, or dtype='float64'. "
        f"The last good parameters are kept."
    )


@dataclass
class FitState:
    """Where a fit stands: epochs made, and the best one so far. ``made`` is an epoch that is not taken in yet."""

    epoch: int = 0
    best_epoch: int = 0
    best_nll: float = np.inf
    best_parameters: NDArray[Any] | None = None
    history: list[EpochRecord] = field(default_factory=list)
    made: EpochRecord | None = None

    def take_in(self, parameters: NDArray[Any]) -> None:
        """Count the epoch that was made, if there is one, and keep its parameters if they are the best.

        Ctrl-C may come between any two lines: called once more, it does what is left. So the best NLL, which says whether the
        rest is to be done, is written after it, and ``made`` is forgotten last.
        """
        if self.made is None:
            return
        number, nll = self.made["epoch"], self.made["validation_nll"]
        if nll is None:
            self.best_epoch = number
        elif nll < self.best_nll:
            if self.best_parameters is None:
                self.best_parameters = panels.aligned_copy(parameters)
            else:
                panels.copy_into(self.best_parameters, parameters)
            self.best_epoch = number
            self.best_nll = nll
        if self.epoch < number:
            self.history[number - 1 :] = [self.made]
            self.epoch = number
        self.made = None


def fit(
    trainer: Trainer,
    rows: TrainingRows,
    validate: Callable[[], float] | None,
    *,
    state: FitState,
    batch_size: int,
    max_epochs: int,
    patience: int,
    schedule: Callable[[int], float],
    n_threads: int,
    on_epoch: Callable[[EpochRecord, int], bool],
) -> None:
    """Train for at most ``max_epochs`` epochs, or until ``patience`` of them have brought no better validation score.

    ``schedule(epoch)`` is the learning rate, ``validate()`` the mean NLL of the validation rows under the parameters as they
    are. ``on_epoch(record, best_epoch)`` is told of every epoch, and says whether to stop after it. ``state`` is where to go
    on from, and is kept up; the best parameters seen on the validation rows are in it, whatever ends the fit. If the loss does
    not stay finite, the trainer goes back to those; without validation, to where it was before the epoch.
    """
    kept = panels.aligned_empty(len(trainer.parameters) if state.best_parameters is None else 0, trainer.parameters.dtype)
    while state.epoch < max_epochs and (validate is None or state.epoch - state.best_epoch < patience):
        number = state.epoch + 1
        trainer.hyper[0] = schedule(number)
        if state.best_parameters is None:
            panels.copy_into(kept, trainer.parameters)
        good = kept if state.best_parameters is None else state.best_parameters
        record = run_epoch(trainer, rows, batch_size, n_threads, number, good)
        if validate is not None:
            try:
                nll = validate()
            except FloatingPointError:  # a model whose arithmetic overflows says so itself
                nll = np.nan
            if not np.isfinite(nll):
                what = f"the validation loss became {nll} with the update of step {trainer.step}"
                raise _diverged(trainer, good, number, what)
            record["validation_nll"] = nll
        state.made = record
        state.take_in(trainer.parameters)
        if on_epoch(record, state.best_epoch):
            return
