"""Where a fit stands, in memory and in the file of a checkpoint, which is written durably and read as untrusted data.

A checkpoint is a model file (``modelfile.py``) of kind ``checkpoint`` with more tensors: ``state`` (n_state, n), the memory of
the optimizer; ``best`` (n,), the best parameters so far, if there were validation rows; ``average`` (n,), the average over
epochs, if there is one; ``text``, UTF-8 JSON as U8: counters, generators, hyper-parameters, history; and ``columns``, as in a
model file, if the table is not binary.

Not here: what the hyper-parameters mean (``hyper.py``), when a checkpoint is written (``run.py``).
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from made_fast.inference import modelfile, tensorfile
from made_fast.inference.model import MADEModel
from made_fast.inference.tablemodel import TableModel
from made_fast.inference.tensorfile import FOREIGN, MAX_JSON, ModelFileError, file_error, json_object
from made_fast.kernels.layout import aligned_copy, copy_into
from made_fast.kernels.optimizers import OPTIMIZERS
from made_fast.system import durable
from made_fast.system.durable import StrPath
from made_fast.tables import arguments
from made_fast.tables.choices import SCHEDULES
from made_fast.tables.columns.encoder import Encoder
from made_fast.training import recipe
from made_fast.training.hyper import HYPER
from made_fast.training.steps import Trainer
from made_fast.training.turns import Turns

__all__ = ["EpochRecord", "FitState", "check", "check_writable", "encode", "read", "write"]


class EpochRecord(TypedDict):
    """One epoch in ``history_``; NLL is the mean negative log-likelihood of a row in nats.

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
    """Where a fit stands: all that it takes to continue it.

    Attributes
    ----------
    trainer : Trainer
    params : dict
        Hyper-parameters as JSON knows them, with which the fit began.
    names : tuple of str or None
        Of the columns.
    encoder : Encoder or None
        What makes codes of tables, if they are not binary.
    split_seed : int
        Decides which rows are held out.
    digests : dict
        Of the rows and weights; {}: there are none.
    unsaid : frozenset of str
        Hyper-parameters that its file does not name, as a version wrote it that had none such.
    resumed : bool
        It was read from a checkpoint, and the next ``fit`` continues it.
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
    unsaid: frozenset[str] = frozenset()
    resumed: bool = False
    epoch: int = 0
    best_epoch: int = 0
    best_nll: float = np.inf
    best_parameters: NDArray[Any] | None = None
    history: list[EpochRecord] = field(default_factory=list)
    made: EpochRecord | None = None
    encoder: Encoder | None = None

    def take_in(self) -> None:
        """Count the epoch that was made, if there is one, and keep its parameters if they are the best.

        Ctrl-C may come between any two lines, and a second call does the rest. So the best NLL, which decides about the rest,
        is written after it, and ``made`` is forgotten last.
        """
        if self.made is None:
            return
        number, nll = self.made["epoch"], self.made["validation_nll"]
        if nll is None:
            self.best_epoch = number
        elif nll < self.best_nll:
            if self.best_parameters is None:
                self.best_parameters = aligned_copy(self.trainer.scored.vector)
            else:
                copy_into(self.best_parameters, self.trainer.scored.vector)
            self.best_epoch = number
            self.best_nll = nll
        if self.epoch < number:
            self.history[number - 1 :] = [self.made]
            self.epoch = number
        self.made = None

    def model(self, params: recipe.Params) -> MADEModel | TableModel:
        """Return the model of the best parameters so far, which it holds read-only, not as a copy."""
        if self.encoder is not None:
            levels = self.trainer.model(self.best_parameters, hyper=recipe.notes(params))
            return TableModel(levels, self.encoder)
        more = {"binarize": params["binarize"], "hyper": recipe.notes(params), "feature_names": self.names}
        return self.trainer.model(self.best_parameters, **more)


def write(path: StrPath, state: FitState, params: recipe.Params) -> None:
    """Write where a fit stands, between two epochs; :func:`encode` says what it takes and raises.

    Raises OSError if the file cannot be written; the old one is untouched.
    """
    tensorfile.write(path, *encode(path, state, params))


def check(path: StrPath, state: FitState, params: recipe.Params) -> None:
    """Refuse, before training, a checkpoint that could not be written after an epoch of it."""
    if callable(schedule := params["learning_rate_schedule"]):
        raise TypeError(
            "a checkpoint cannot hold a function: learning_rate_schedule must be one of "
            f"{', '.join(SCHEDULES)} with it, got {schedule!r}."
        )
    encode(path, state, params)
    check_writable(path)


def check_writable(path: StrPath) -> None:
    """Raise the OSError that :func:`write` would meet, as far as it is known; a file that is no checkpoint would be lost."""
    durable.check_writable(path)
    try:
        kind = tensorfile.read_metadata(path).get("kind")
    except FileNotFoundError:
        return
    except ModelFileError:
        kind = None
    if kind != "checkpoint" and os.path.getsize(path):
        what = "a file that is no checkpoint is there, and would be lost; choose another path"
        raise FileExistsError(errno.EEXIST, what, path)


def encode(path: StrPath, state: FitState, params: recipe.Params) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return the tensors and the metadata of a checkpoint; ``params`` are the present hyper-parameters.

    Raises ValueError if random numbers come from a generator other than NumPy's default, or if a checkpoint cannot hold the
    text as JSON.
    """
    trainer, turns = state.trainer, state.trainer.turns
    rule = None if turns is None else turns.rule
    tensors, metadata = modelfile.encode(modelfile.Content(trainer.parameters, trainer.masks, rule, {}))
    plain = recipe.plain(params)
    if not isinstance(params["random_state"], int | None):
        plain["random_state"] = None  # its work is done: the trainer has its own generators
    text: dict[str, Any] = {
        "about": {
            "params": plain,
            "history": state.history,
            "split_seed": state.split_seed,
            "feature_names": None if state.names is None else [str(name) for name in state.names],
            "digests": state.digests,
        },
        "optimizer": next(name for name, known in OPTIMIZERS.items() if known == trainer.optimizer),
        "hyper": trainer.constants.tolist(),
        "step": trainer.step,
        "shuffle": _state(trainer.shuffle),
        "epoch": state.epoch,
        "best_epoch": state.best_epoch,
        "best_nll": None if state.best_parameters is None else state.best_nll,
    }
    if turns is not None:
        text |= {"fresh": _state(turns.fresh), "pool_start": turns.pool_start}
    if turns is not None or trainer.dropout:
        text |= {"noise": _state(trainer.noise), "dropout": trainer.dropout}
    vectors = {"state": trainer.state} if trainer.state.size else {}
    if state.best_parameters is not None:
        vectors["best"] = state.best_parameters
    if trainer.averaging:
        text["averaging"] = trainer.averaging
    if trainer.average is not None:
        vectors["average"] = trainer.average
    encoded = json.dumps(text, ensure_ascii=False, allow_nan=False).encode()
    json_object(encoded, "the text", path)  # a text that could not be read is not written
    everything = {"parameters": tensors.pop("parameters"), **vectors, **tensors, "text": np.frombuffer(encoded, np.uint8)}
    found = everything, {**metadata, "kind": "checkpoint"}
    return found if state.encoder is None else modelfile.with_columns(found, state.encoder.to_json())


def _state(generator: np.random.Generator) -> dict[str, Any]:
    state = generator.bit_generator.state
    if state["bit_generator"] != "PCG64":
        raise ValueError(f"a checkpoint needs random numbers of PCG64, got {state['bit_generator']}. Use an int random_state.")
    return dict(state)


def read(path: StrPath) -> FitState:
    """Return the state that :func:`write` wrote; the next fit continues it.

    Raises OSError, or ModelFileError if it is no whole, consistent checkpoint.
    """
    tensors, metadata = tensorfile.read(path)
    if metadata.get("kind") != "checkpoint":
        demand, way_out = "the kind of the file must be 'checkpoint'", "Read models with made_fast.load."
        raise file_error(path, demand, metadata.get("kind", ""), way_out)
    metadata["kind"] = "model"
    columns = modelfile.take_columns(tensors, path)
    memory, best, average, raw = (tensors.pop(name, None) for name in ("state", "best", "average", "text"))
    content = modelfile.decode(tensors, metadata, path)
    for vector in (best, average):
        if vector is not None:  # a model must be able to have these too
            modelfile.decode({**tensors, "parameters": vector}, metadata, path)
    if raw is None or raw.dtype != np.uint8:
        raise file_error(path, "there must be a text", None, FOREIGN)
    text = json_object(raw.reshape(-1)[: MAX_JSON + 1].tobytes(), "the text", path)  # one more is enough to refuse it
    try:
        state = _decode(content, text, memory, best, average)
        if columns is not None:
            state.encoder = Encoder.from_json(columns)
            state.model(state.params)  # the columns must be those of the network
        return state
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        found = f"{type(error).__name__}: {error}"
        raise file_error(path, "the text must be what a checkpoint's writer wrote", found) from error


def _decode(
    content: modelfile.Content,
    text: dict[str, Any],
    memory: NDArray[Any] | None,
    best: NDArray[Any] | None,
    average: NDArray[Any] | None,
) -> FitState:
    source, masks, rule, *_ = content
    optimizer, constants = OPTIMIZERS[text["optimizer"]], np.array(text["hyper"], np.float64)
    if constants.shape != (6,) or not (np.isfinite(constants) & (constants >= 0)).all():
        raise ValueError("hyper must be 6 numbers >= 0")
    turns = None
    if source.connectivity is None:
        pool_start = None if text["pool_start"] is None else _generator(text["pool_start"]).bit_generator.state
        turns = Turns(source.architecture, masks, rule, _generator(text["fresh"]), pool_start)
    shuffle, dropout = _generator(text["shuffle"]), text["dropout"] if turns is not None else text.get("dropout", 0.0)
    dropout = arguments.probability(dropout, "dropout")
    noise = _generator(text["noise"]) if turns is not None or dropout else shuffle  # without dropout it is not used
    parameters = source.with_vector(aligned_copy(source.vector))
    averaging = arguments.probability(text.get("averaging", 0.0), "averaging")
    trainer = Trainer(parameters, masks, optimizer, constants, shuffle, turns, dropout, noise, averaging)
    for what, vector in (("best", best), ("average", average)):
        if vector is not None and (vector.shape != parameters.vector.shape or vector.dtype != parameters.dtype):
            raise ValueError(f"the {what} parameters must be {parameters.vector.shape} of {parameters.dtype}")
    if average is not None and averaging:
        trainer.average = aligned_copy(average)
    trainer.step = _count(text["step"])
    memory = trainer.state[:0] if memory is None else memory
    if memory.size != trainer.state.size or memory.dtype != trainer.state.dtype:
        raise ValueError(f"the state must be {trainer.state.shape} of {trainer.state.dtype}")
    copy_into(trainer.state.reshape(-1), memory.reshape(-1))
    about = text["about"]
    names = None if about["feature_names"] is None else tuple(about["feature_names"])
    seed, digests = int(about["split_seed"]), dict(about.get("digests", {}))
    params = dict(about["params"])
    before = {name: stated.before for name, stated in HYPER.items() if stated.before is not None and name not in params}
    state = FitState(trainer, before | params, names, seed, digests, frozenset(before), resumed=True)
    state.epoch, state.best_epoch, state.history = _count(text["epoch"]), _count(text["best_epoch"]), list(about["history"])
    if best is not None:
        state.best_nll, state.best_parameters = float(text["best_nll"]), aligned_copy(best)
    return state


def _generator(state: Any) -> np.random.Generator:
    bits = np.random.PCG64()
    bits.state = state
    return np.random.Generator(bits)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError(f"a count must be an int >= 0 and below 2^62, got {value!r}")
    return value
