"""The fit run: what a fit does from checked input to its end, epochs, validation, early stopping and checkpoints.

Not here: what the user types (``estimators``), steps (``steps.py``), what is left to go on with (``state.py``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from made_fast.inference.model import MADEModel
from made_fast.inference.queries import log_p_observed
from made_fast.kernels.layout import aligned_copy, aligned_empty, copy_into
from made_fast.tables import arguments, data
from made_fast.training import checkpoint, recipe
from made_fast.training import rows as given
from made_fast.training.progress import Progress
from made_fast.training.rows import Rows, TrainingRows
from made_fast.training.state import EpochRecord, FitState
from made_fast.training.steps import Trainer

__all__ = ["FitRun", "Settings", "Validation"]


class Settings(NamedTuple):
    """What a fit looks at whenever it goes on, checked: hyper-parameters that may have changed, and arguments of ``fit``."""

    params: recipe.Params
    batch_size: int
    n_threads: int
    max_epochs: int
    patience: int
    n_val_masks: int
    verbose: int
    schedule: Callable[[int], float]
    checkpoint: str | None
    every: int
    callback: Callable[[EpochRecord], Any] | None

    @classmethod
    def of(cls, params: recipe.Params, checkpoint: Any = None, every: Any = 1, callback: Any = None) -> Settings:
        """Check them; ``params`` are those of ``MADE``."""
        max_epochs = arguments.positive_int(params["max_epochs"], "max_epochs")
        return cls(
            params,
            arguments.positive_int(params["batch_size"], "batch_size"),
            arguments.n_threads(params["n_threads"]),
            max_epochs,
            arguments.positive_int(params["patience"], "patience"),
            arguments.positive_int(params["n_val_masks"], "n_val_masks"),
            arguments.verbosity(params["verbose"]),
            recipe.schedule(params, max_epochs),
            None if checkpoint is None else arguments.path(checkpoint, "checkpoint"),
            arguments.positive_int(every, "checkpoint_every"),
            arguments.function(callback, "callback"),
        )


class Validation:
    """Rows to validate on, packed for as many of the first masks as are mixed.

    Parameters
    ----------
    held : Rows
    packed : TrainingRows
        The same, packed as the trainer's rows are.
    trainer : Trainer
    binarize : float or None
    n_val_masks : int
        Most masks to mix.
    """

    def __init__(self, held: Rows, packed: TrainingRows, trainer: Trainer, binarize: float | None, n_val_masks: int) -> None:
        self.weights = held.weights
        self.binarize = binarize
        self.table = None if held.missing is None else held.table
        self.bits: list[NDArray[np.uint64]] = []
        own, orders = trainer.parameters.order, np.argsort(trainer.masks.orderings[:n_val_masks], axis=1)
        for order in orders if held.missing is None else ():
            same = np.array_equal(order, own)
            self.bits.append(packed.bits if same else data.pack_rows(held.table, order, binarize=binarize))

    def nll(self, trainer: Trainer, n_threads: int) -> float:
        """Return the mean NLL of what is observed of the rows, under the parameters as they are.

        Raises FloatingPointError if it is not finite.
        """
        try:
            log_p = self._log_p(trainer, n_threads)
            mean = np.average(log_p, weights=self.weights) if len(self.weights) else np.mean(log_p)
            nll = float(np.log(max(1, len(self.bits))) - mean)
        except FloatingPointError:  # a model whose arithmetic overflows says so itself
            nll = np.nan
        if not np.isfinite(nll):
            raise FloatingPointError(f"the validation loss became {nll} with the update of step {trainer.step}")
        return nll

    def _log_p(self, trainer: Trainer, n_threads: int) -> NDArray[np.float64]:
        """Return log p of each row, added up over the masks that are mixed."""
        if self.table is not None:
            model = MADEModel(trainer.parameters, trainer.masks, rule=trainer.rule, binarize=self.binarize)
            log_p: NDArray[np.float64] = log_p_observed(model, self.table, n_threads)
            return log_p
        total: Any = -np.inf
        for k, bits in enumerate(self.bits):
            total = np.logaddexp(total, trainer.parameters.network(trainer.masks[k]).score_bits(bits, n_threads))
        return np.asarray(total)


@dataclass
class FitRun:
    """One call of ``fit`` or ``partial_fit``: a state, and the rows and settings that it goes on with.

    Attributes
    ----------
    state : FitState
        It is kept up, and holds the best parameters, whatever ends the run.
    settings : Settings
    rows : TrainingRows
    validation : Validation or None
    digests : dict
        Of the rows.
    """

    state: FitState
    settings: Settings
    rows: TrainingRows
    validation: Validation | None = None
    digests: dict[str, str] = field(default_factory=dict)

    @classmethod
    def prepare(cls, state: FitState, settings: Settings, train: Rows, held: Rows | None) -> FitRun:
        """Pack the rows to train on and to validate on, and refuse what the run could not do; nothing has changed until then.

        ``held`` are the rows to validate on; if there are none, some may be held out.
        """
        trainer, binarize = state.trainer, settings.params["binarize"]
        rows, packed = given.pack(train, trainer.parameters, binarize), None
        if held is not None:
            packed = given.pack(held, trainer.parameters, binarize, "X_val")
        elif (fraction := settings.params["validation_fraction"]) is not None:
            first, rest = given.hold_out(len(rows.bits), fraction, state.split_seed)
            rows, packed, held = rows.take(first), rows.take(rest), train.take(rest)
        given.check_weights(rows.weights, None if packed is None else packed.weights)
        digests = given.digests(rows, packed) if state.resumed or settings.checkpoint is not None else {}
        if state.resumed:
            given.check_same(digests, state.digests)
        if settings.checkpoint is not None:
            checkpoint.check(settings.checkpoint, state, settings.params)
        validation = None
        if held is not None and packed is not None:
            validation = Validation(held, packed, trainer, binarize, settings.n_val_masks)
        return cls(state, settings, rows, validation, digests)

    def start(self) -> None:
        """Train until ``max_epochs`` are made, or ``patience`` of them have brought no better validation score.

        If the loss does not stay finite, the trainer goes back to the best parameters; without validation, to those from
        before the epoch.
        """
        state, settings, trainer = self.state, self.settings, self.state.trainer
        if state.best_parameters is not None:  # ``model_`` holds them, or the trainer's, and may be in use
            state.best_parameters = aligned_copy(state.best_parameters)
        elif state.resumed:
            trainer.detach()
        trainer.own()
        state.resumed, state.digests = False, self.digests
        vector = trainer.parameters.vector
        kept = aligned_empty(len(vector) if state.best_parameters is None else 0, vector.dtype)
        with Progress(settings.verbose, settings.max_epochs) as progress:
            while not self._is_over():
                if state.best_parameters is None:
                    copy_into(kept, vector)
                state.made = self.epoch(kept if state.best_parameters is None else state.best_parameters)
                state.take_in()
                record = state.history[-1]
                progress.show(record, state.best_epoch)
                if settings.checkpoint is not None and state.epoch % settings.every == 0:
                    checkpoint.write(settings.checkpoint, state, settings.params)
                if settings.callback is not None and arguments.is_true(settings.callback(record)):
                    break
        if settings.checkpoint is not None and state.epoch % settings.every:
            checkpoint.write(settings.checkpoint, state, settings.params)

    def once_more(self) -> None:
        """Make one pass, on from the best parameters; those of before no longer change."""
        state, trainer = self.state, self.state.trainer
        trainer.own()
        if state.best_parameters is not None and state.best_epoch != state.epoch:
            trainer.go_back(state.best_parameters)
        record = self.epoch(trainer.detach())
        state.history.append(record)
        state.epoch = state.best_epoch = record["epoch"]
        state.best_parameters = None  # whatever was best is behind us

    def epoch(self, good: NDArray[Any]) -> EpochRecord:
        """Make one pass over the rows and score the validation rows.

        Raises FloatingPointError if a loss did not stay finite; the trainer has gone back to the parameters ``good`` then.
        """
        trainer, settings, number = self.state.trainer, self.settings, self.state.epoch + 1
        trainer.constants[0] = settings.schedule(number)
        begin = time.perf_counter()
        try:
            train_nll = trainer.epoch(self.rows, settings.batch_size, settings.n_threads)
            seconds = time.perf_counter() - begin
            validation_nll = None if self.validation is None else self.validation.nll(trainer, settings.n_threads)
        except FloatingPointError as error:
            trainer.go_back(good)
            raise FloatingPointError(
                f"epoch {number}: {error}. Try a smaller learning_rate (now {trainer.constants[0]:g}), clip_norm, or "
                "dtype='float64'. The last good parameters are kept."
            ) from None
        return EpochRecord(
            epoch=number,
            train_nll=train_nll,
            validation_nll=validation_nll,
            seconds=seconds,
            rows_per_second=len(self.rows.bits) / seconds,
        )

    def _is_over(self) -> bool:
        state = self.state
        late = self.validation is not None and state.epoch - state.best_epoch >= self.settings.patience
        return late or state.epoch >= self.settings.max_epochs
