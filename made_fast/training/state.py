"""Where a fit stands: the trainer, the epochs made, the best of them; all that it takes to go on. A checkpoint holds the same.

Not here: how it gets on (``run.py``), the file (``checkpoint.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from made_fast.inference.model import MADEModel
from made_fast.kernels.layout import aligned_copy, copy_into
from made_fast.training import recipe
from made_fast.training.steps import Trainer

__all__ = ["EpochRecord", "FitState"]


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


@dataclass
class FitState:
    """Where a fit stands.

    Attributes
    ----------
    trainer : Trainer
    params : dict
        Hyper-parameters as JSON knows them, with which the fit began.
    names : tuple of str or None
        Of the columns.
    split_seed : int
        Decides which rows are held out.
    digests : dict
        Of the rows and weights; {}: there are none.
    resumed : bool
        It was read from a checkpoint, and the next ``fit`` goes on from it.
    epoch, best_epoch, best_nll, best_parameters, history
        Epochs made, and the best one so far by the validation rows.
    made : EpochRecord or None
        An epoch that is not taken in yet.
    """

    trainer: Trainer
    params: dict[str, Any]
    names: tuple[str, ...] | None
    split_seed: int
    digests: dict[str, str] = field(default_factory=dict)
    resumed: bool = False
    epoch: int = 0
    best_epoch: int = 0
    best_nll: float = np.inf
    best_parameters: NDArray[Any] | None = None
    history: list[EpochRecord] = field(default_factory=list)
    made: EpochRecord | None = None

    def take_in(self) -> None:
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
                self.best_parameters = aligned_copy(self.trainer.parameters.vector)
            else:
                copy_into(self.best_parameters, self.trainer.parameters.vector)
            self.best_epoch = number
            self.best_nll = nll
        if self.epoch < number:
            self.history[number - 1 :] = [self.made]
            self.epoch = number
        self.made = None

    def model(self, params: recipe.Params) -> MADEModel:
        """Return the model that has the best parameters so far: themselves, not a copy, read-only."""
        more = {"binarize": params["binarize"], "hyper": recipe.notes(params), "feature_names": self.names}
        return self.trainer.model(self.best_parameters, **more)
