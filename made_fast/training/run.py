"""The fit run: epochs, validation, early stopping, checkpoints and the progress on standard error.

Not here: what the user types (``estimators``), steps (``steps.py``), where a fit stands (``checkpoint.py``).
"""

from __future__ import annotations

import sys
import time
import zlib
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast.inference.density import log_p_observed
from made_fast.kernels.layout import aligned_copy, aligned_empty, copy_into
from made_fast.kernels.optimizers import LR
from made_fast.system.console import Stream, is_of_stream, is_terminal, say
from made_fast.tables import arguments
from made_fast.tables.bits import pack_rows
from made_fast.training import checkpoint, recipe
from made_fast.training.checkpoint import EpochRecord, FitState
from made_fast.training.reduce import Alone, Ranks, joined
from made_fast.training.replicas import Replica
from made_fast.training.rows import Rows, TrainingRows, check_same, check_weights, digests, hold_out
from made_fast.training.steps import Trainer

__all__ = ["FitRun", "Progress", "Validation"]

INTERVAL = 60.0
"""Fewest seconds between two lines of progress where there is no terminal: the log of a day stays small."""


class Validation:
    """Rows to validate on, packed for each of the first ``n_val_masks`` masks, which are mixed.

    ``packed`` are the same rows as ``held``, packed as the trainer's rows are.
    """

    def __init__(self, held: Rows, packed: TrainingRows, trainer: Trainer, binarize: float | None, n_val_masks: int) -> None:
        self.weights, self.within, self.n_rows = held.weights, packed.within, len(packed.bits)
        self.binarize, self.n_masks = binarize, n_val_masks
        self.table = None if held.missing is None else held.table
        self.bits: list[NDArray[np.uint64]] = []
        own, variables, masks = trainer.parameters.order, trainer.architecture.variables, trainer.masks.first(n_val_masks)
        self.masks = trainer.architecture.prepared([masks[k] for k in range(len(masks))])
        orders = np.argsort(masks.orderings, axis=1)
        if variables is not None:
            orders = variables.inputs(orders)
        for order in orders if held.missing is None else ():
            same = np.array_equal(order, own)
            self.bits.append(packed.bits if same else pack_rows(held.table, order, binarize))

    @property
    def weight(self) -> float:
        """What the rows count together."""
        return float(self.weights.sum()) if len(self.weights) else float(self.n_rows)

    def nll(self, trainer: Trainer, n_threads: int) -> float:
        """Return the mean NLL of the observed entries of the rows under the present parameters; NaN if it is not finite."""
        try:
            log_p = self._log_p(trainer, n_threads)
            if self.within is not None:
                log_p = log_p + self.within
            mean = np.average(log_p, weights=self.weights) if len(self.weights) else np.mean(log_p)
            nll = float(np.log(max(1, len(self.bits) * trainer.parameters.n_points)) - mean)
        except FloatingPointError:  # the model's arithmetic overflows
            nll = np.nan
        return nll

    def _log_p(self, trainer: Trainer, n_threads: int) -> NDArray[np.float64]:
        """Return log p of each row, summed over the networks that are mixed."""
        if self.table is not None:
            model = trainer.model(n_masks=self.n_masks, binarize=self.binarize)
            return log_p_observed(model, self.table, n_threads, warn=False)[0]
        total: Any = -np.inf
        scored, shared = trainer.scored, trainer.parameters.connectivity is None
        room = aligned_empty(trainer.architecture.n_packed, scored.dtype) if shared else None
        for mask, bits in zip(self.masks, self.bits, strict=True):
            for network in scored.networks(mask, room):
                total = np.logaddexp(total, network.score(bits, n_threads))
        return np.asarray(total)


class FitRun:
    """One call of ``fit`` or ``partial_fit``: its arguments, checked, then the state that it changes.

    Parameters
    ----------
    params : mapping
        Hyper-parameters of ``MADE``.
    checkpoint, every, callback, average_every
        Arguments of ``MADE.fit``.
    ranks : Alone
        The processes that make the fit together; ``rows`` and ``validation`` are those of this one.

    Attributes
    ----------
    state : FitState
        It is up to date and holds the best parameters however the run ends.
    rows : TrainingRows
    validation : Validation or None
    """

    def __init__(
        self,
        params: recipe.Params,
        checkpoint: Any = None,
        every: Any = 1,
        callback: Any = None,
        ranks: Alone | None = None,
        average_every: Any = None,
    ) -> None:
        self.params, self.ranks = params, ranks or Alone()
        self.options = recipe.adjustable(params)
        self.schedule = recipe.schedule(params, self.options["max_epochs"])
        self.checkpoint = None if checkpoint is None else arguments.path(checkpoint, "checkpoint")
        if self.ranks.rank:
            self.checkpoint = None
        self.average_every = None if average_every is None else arguments.positive_int(average_every, "average_every")
        self.replica: Replica | None = None
        self.validates = False
        self.every = arguments.positive_int(every, "checkpoint_every")
        self.callback: Callable[[EpochRecord], Any] | None = arguments.function(callback, "callback")
        self.validation: Validation | None = None
        self.digests: dict[str, str] = {}

    def take(self, state: FitState, train: Rows, held: Rows | None, fraction: float | None) -> None:
        """Pack the rows to train on and those to validate on, ``held`` or a fraction of the others.

        All errors of the user are raised here, before the state changes.
        """
        parameters, binarize, ranks = state.trainer.parameters, self.params["binarize"], self.ranks
        with ranks.agreed():
            rows, packed = train.pack(parameters, binarize), None
            if held is not None:
                packed = held.pack(parameters, binarize, "X_val")
            elif fraction is not None:
                first, rest = hold_out(len(rows.bits), fraction, state.split_seed)
                rows, packed, held = rows.take(first), rows.take(rest), train.take(rest)
            check_weights(rows.weights, None if packed is None else packed.weights)
            if state.resumed or self.checkpoint is not None or ranks.size > 1:
                self.digests = digests(rows, packed)
        if isinstance(ranks, Ranks):
            self._spread(ranks, state.trainer, rows)
        with ranks.agreed():
            if state.resumed:
                self._check_spread(state.digests)
                check_same(self.digests, state.digests)
            if self.checkpoint is not None:
                checkpoint.check(self.checkpoint, state, self.params)
            if held is not None and packed is not None:
                self.validation = Validation(held, packed, state.trainer, binarize, self.options["n_val_masks"])
        self.validates = any(ranks.all(self.validation is not None))
        self.state, self.rows = state, rows

    def _spread(self, ranks: Ranks, trainer: Trainer, rows: TrainingRows) -> None:
        """Make the trainer one of several; where the rows are is part of what a fit that is resumed must find again."""
        ranks.check_same({"the fit": f"at step {trainer.step}", "its parameters": zlib.crc32(trainer.parameters.vector.data)})
        options = self.options["batch_size"], self.options["n_threads"], self.average_every
        self.replica = Replica(trainer, rows, ranks, *options)
        self.digests = self._how_spread() | joined(ranks.all(self.digests))

    def _how_spread(self) -> dict[str, str]:
        return {"the number of ranks": str(self.ranks.size), "average_every": str(self.average_every)}

    def _check_spread(self, begun: dict[str, str]) -> None:
        """Refuse to continue a fit on another number of ranks, or in the other way."""
        for (name, now), usual in zip(self._how_spread().items(), ("1", "None"), strict=True):
            if (was := begun.get(name, usual)) != now:
                raise ValueError(
                    f"{name} must stay {was}, with which the fit began, got {now}: other ranks have other rows, and other "
                    "bits. Set it back, or begin anew."
                )

    def start(self) -> None:
        """Train until ``max_epochs`` are made, or ``patience`` of them have brought no better validation score.

        If the loss is not finite, the trainer goes back to the best parameters; without validation, to those before the epoch.
        """
        state, trainer = self.state, self.state.trainer
        if state.best_parameters is not None:  # ``model_`` holds them, or the trainer's, and may be in use
            state.best_parameters = aligned_copy(state.best_parameters)
        elif state.resumed:
            trainer.detach()
        trainer.own()
        state.resumed, state.digests = False, self.digests
        vector = trainer.parameters.vector
        kept = aligned_empty(len(vector) if state.best_parameters is None else 0, vector.dtype)
        with Progress(0 if self.ranks.rank else self.options["verbose"], self.options["max_epochs"]) as progress:
            while not self._is_over():
                if state.best_parameters is None:
                    copy_into(kept, vector)
                state.made = self.epoch(kept if state.best_parameters is None else state.best_parameters)
                state.take_in()
                record = state.history[-1]
                progress.show(record, state.best_epoch)
                with self.ranks.agreed():
                    if self.checkpoint is not None and state.epoch % self.every == 0:
                        checkpoint.write(self.checkpoint, state, self.params)
                    ends = self.callback is not None and arguments.is_true(self.callback(record))
                if any(self.ranks.all(ends)):
                    break
        with self.ranks.agreed():
            if self.checkpoint is not None and state.epoch % self.every:
                checkpoint.write(self.checkpoint, state, self.params)

    def once_more(self, state: FitState, rows: TrainingRows) -> None:
        """Make one pass over rows from the best parameters on; the old vector no longer changes."""
        self.state, self.rows, trainer = state, rows, state.trainer
        trainer.own()
        if state.best_parameters is not None and state.best_epoch != state.epoch:
            trainer.go_back(state.best_parameters)
        record = self.epoch(trainer.detach())
        state.history.append(record)
        state.epoch = state.best_epoch = record["epoch"]
        state.best_parameters = None

    def epoch(self, good: NDArray[Any]) -> EpochRecord:
        """Make one pass over the rows and score the validation rows.

        If a loss is not finite, the trainer goes back to the parameters ``good``, and FloatingPointError is raised.
        """
        trainer, number, n_threads, ranks = self.state.trainer, self.state.epoch + 1, self.options["n_threads"], self.ranks
        trainer.constants[LR] = self.schedule(number)
        begin = time.perf_counter()
        try:
            if self.replica is None:
                train_nll = trainer.epoch(self.rows, self.options["batch_size"], n_threads) + self.rows.nll_within
            else:
                train_nll = self.replica.epoch()
            trainer.average_in(number)
            seconds = max(ranks.all(time.perf_counter() - begin))
            validation_nll = self._validation_nll(n_threads) if self.validates else None
        except FloatingPointError as error:
            trainer.go_back(good)
            text = (
                f"epoch {number}: {error}. Try a smaller learning_rate (now {trainer.constants[LR]:g}), clip_norm, or "
                "dtype='float64'. The last good parameters are kept."
            )
            ranks.refuse(FloatingPointError(text))
        return EpochRecord(
            epoch=number,
            train_nll=train_nll,
            validation_nll=validation_nll,
            seconds=seconds,
            rows_per_second=sum(ranks.all(len(self.rows.bits))) / seconds,
        )

    def _validation_nll(self, n_threads: int) -> float:
        """Return the mean NLL of the validation rows of all ranks; raise FloatingPointError if it is not finite."""
        trainer, own = self.state.trainer, self.validation
        nll, weight = (0.0, 0.0) if own is None else (own.nll(trainer, n_threads), own.weight)
        nll = self.ranks.mean(nll, weight)
        if not np.isfinite(nll):
            self.ranks.refuse(FloatingPointError(f"the validation loss became {nll} with the update of step {trainer.step}"))
        return nll

    def _is_over(self) -> bool:
        state = self.state
        late = self.validates and state.epoch - state.best_epoch >= self.options["patience"]
        return bool(late or state.epoch >= self.options["max_epochs"])


class Progress:
    """Shows epochs as they end, on standard error: nothing (verbose 0), one bar (1), or a line an epoch (2 and more).

    A log gets lines in place of the bar: for the first epoch, for the last one, and every ``INTERVAL`` between them.
    """

    def __init__(self, verbose: int, max_epochs: int) -> None:
        self._verbose = verbose
        self._bar = _bar(max_epochs) if verbose == 1 else None
        self._untold = ""
        self._due = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            _unless_broken(self._bar.close)
        elif self._untold:
            say(self._untold)

    def show(self, record: EpochRecord, best_epoch: int) -> None:
        """Show the record of an epoch and which epoch is the best so far."""
        if self._verbose == 0:
            return
        text = f"train {record['train_nll']:.3f}"
        if record["validation_nll"] is not None:
            text += f", validation {record['validation_nll']:.3f} (best: epoch {best_epoch})"
        text += f", {record['rows_per_second']:,.0f} rows/s"
        if self._bar is not None:
            _unless_broken(self._bar.set_postfix_str, text, refresh=False)
            _unless_broken(self._bar.update)
            return
        self._untold = f"epoch {record['epoch']}: {text}"
        if self._verbose > 1 or time.monotonic() >= self._due:
            say(self._untold)
            self._untold = ""
            self._due = time.monotonic() + INTERVAL


def _bar(max_epochs: int) -> Any:
    """Return a bar of tqdm, which is imported here, in a terminal or a notebook, and None elsewhere."""
    if not is_terminal() and "ipykernel" not in sys.modules:
        return None

    def draw() -> Any:
        from tqdm.auto import tqdm

        file = Stream(sys.stderr)
        return tqdm(total=max_epochs, unit="epoch", desc="fit", dynamic_ncols=file.has_size(), file=file)

    return _unless_broken(draw)


def _unless_broken(do: Any, *arguments: Any, **options: Any) -> Any:
    """Return what a call of tqdm returns, or None if tqdm is missing or does not work here."""
    try:
        return do(*arguments, **options)
    except Exception as error:
        if not (is_of_stream(error) or isinstance(error, ImportError | NameError | SyntaxError | Warning)):
            raise
        return None
