"""Checkpoints: all that a fit needs to go on, to the bit, in one file, written durably and read as untrusted data.

A checkpoint is a model file (``modelfile.py``) of kind ``checkpoint`` with more tensors: ``state`` (n_state, n), the memory of
the optimiser; ``best`` (n,), the best parameters so far, if there were validation rows; and ``text``, UTF-8 JSON as U8:
counters, generators, hyper-parameters, history.

Not here: what the hyper-parameters mean (the estimator hands over a JSON object of its own and gets it back).
"""

from __future__ import annotations

import errno
import json
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast.inference import modelfile, tensorfile
from made_fast.inference.tensorfile import FOREIGN, MAX_JSON, ModelFileError, file_error, json_object
from made_fast.kernels.layout import aligned_copy, copy_into
from made_fast.kernels.optimizers import OPTIMIZERS
from made_fast.network.network import Network
from made_fast.system import durable
from made_fast.system.durable import StrPath
from made_fast.tables import arguments
from made_fast.training.trainers import FixedTrainer, SharedTrainer, Trainer
from made_fast.training.training import FitState

__all__ = ["check_writable", "encode", "read", "write"]


def write(path: StrPath, trainer: Trainer, state: FitState, about: dict[str, Any]) -> None:
    """Write where a fit stands, between two epochs; for what it takes and raises see :func:`encode`.

    Raises OSError if the file cannot be written; the old one is untouched.
    """
    tensorfile.write(path, *encode(path, trainer, state, about))


def check_writable(path: StrPath) -> None:
    """Raise the OSError that :func:`write` would meet, as far as it can be known, or if a file is there that is no checkpoint.

    It would be lost: a model, or a table, that was named by mistake.
    """
    durable.check_writable(path)
    try:
        kind = tensorfile.read_metadata(path).get("kind")
    except FileNotFoundError:
        return
    except ModelFileError:
        kind = None
    if kind != "checkpoint" and os.path.getsize(path):
        raise FileExistsError(
            errno.EEXIST, "a file that is no checkpoint is there, and would be lost; choose another path", path
        )


def encode(
    path: StrPath, trainer: Trainer, state: FitState, about: dict[str, Any]
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return the tensors and the metadata of a checkpoint. ``about`` is any JSON object.

    Raises ValueError if the trainer's random numbers come from a generator other than NumPy's default, or if ``about`` is no
    JSON that a checkpoint can hold.
    """
    rule = trainer.rule if isinstance(trainer, SharedTrainer) else None
    content = modelfile.Content(trainer.source(trainer.parameters), trainer.masks, rule, {})
    tensors, metadata = modelfile.encode(content)
    text: dict[str, Any] = {
        "about": about,
        "optimizer": next(name for name, known in OPTIMIZERS.items() if known == trainer.optimizer),
        "hyper": trainer.hyper.tolist(),
        "step": trainer.step,
        "shuffle": _state(trainer.shuffle),
        "epoch": state.epoch,
        "best_epoch": state.best_epoch,
        "best_nll": None if state.best_parameters is None else state.best_nll,
    }
    if isinstance(trainer, SharedTrainer):
        text |= {"fresh": _state(trainer.fresh), "pool_start": trainer.pool_start, "noise": _state(trainer.noise)}
        text["dropout"] = trainer.dropout
    encoded = json.dumps(text, ensure_ascii=False, allow_nan=False).encode()
    json_object(encoded, "the text", path)  # what nobody could read is not written
    vectors = {"state": trainer.state} if trainer.state.size else {}
    if state.best_parameters is not None:
        vectors["best"] = state.best_parameters
    parameters = tensors.pop("parameters")
    everything = {"parameters": parameters, **vectors, **tensors, "text": np.frombuffer(encoded, np.uint8)}
    return everything, {**metadata, "kind": "checkpoint"}


def _state(generator: np.random.Generator) -> dict[str, Any]:
    state = generator.bit_generator.state
    if state["bit_generator"] != "PCG64":
        raise ValueError(f"a checkpoint needs random numbers of PCG64, got {state['bit_generator']}. Use an int random_state.")
    return dict(state)


def read(path: StrPath) -> tuple[Trainer, FitState, dict[str, Any]]:
    """Return what :func:`write` wrote. Raises OSError, or ModelFileError if it is no whole, consistent checkpoint."""
    tensors, metadata = tensorfile.read(path)
    if metadata.get("kind") != "checkpoint":
        demand = "the kind of the file must be 'checkpoint'"
        raise file_error(
            path, demand, metadata.get("kind", ""), "Read models with made_fast.load; write checkpoints with fit."
        )
    extra = {name: tensors.pop(name, None) for name in ("state", "best", "text")}
    content = modelfile.decode(tensors, {**metadata, "kind": "model"}, path)
    if extra["best"] is not None:  # these must do for a model too
        modelfile.decode({**tensors, "parameters": extra["best"]}, {**metadata, "kind": "model"}, path)
    if extra["text"] is None or extra["text"].dtype != np.uint8:
        raise file_error(path, "there must be a text", None, FOREIGN)
    beginning = extra["text"].reshape(-1)[: MAX_JSON + 1]  # enough to refuse it, if it is longer
    text = json_object(beginning.tobytes(), "the text", path)
    try:
        return _decode(content, text, extra["state"], extra["best"])
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise file_error(
            path, "the text must be what a checkpoint's writer wrote", f"{type(error).__name__}: {error}"
        ) from error


def _decode(
    content: modelfile.Content, text: dict[str, Any], memory: NDArray[Any] | None, best: NDArray[Any] | None
) -> tuple[Trainer, FitState, dict[str, Any]]:
    source, masks, rule, *_ = content
    optimizer, hyper = OPTIMIZERS[text["optimizer"]], np.array(text["hyper"], np.float64)
    if hyper.shape != (6,) or not (np.isfinite(hyper) & (hyper >= 0)).all():
        raise ValueError("hyper must be 6 numbers >= 0")
    shuffle = _generator(text["shuffle"])
    trainer: Trainer
    if isinstance(source, Network):
        trainer = FixedTrainer(source.architecture, masks, aligned_copy(source.theta), optimizer, hyper, shuffle)
    else:
        trainer = SharedTrainer(
            source.architecture, masks, aligned_copy(source.values), optimizer, hyper, shuffle, rule,
            _generator(text["fresh"]), _generator(text["noise"]), arguments.probability(text["dropout"], "dropout"),
        )  # fmt: skip
    trainer.step = _count(text["step"])
    if isinstance(trainer, SharedTrainer) and rule is not None and text["pool_start"] is not None:
        trainer.fresh = _generator(text["pool_start"])
        trainer.draw_pool()
    if (0 if memory is None else memory.size) != trainer.state.size or (
        memory is not None and memory.dtype != trainer.state.dtype
    ):
        raise ValueError(f"the state must be {trainer.state.shape} of {trainer.state.dtype}")
    if memory is not None:
        copy_into(trainer.state.reshape(-1), memory.reshape(-1))
    state = FitState(_count(text["epoch"]), _count(text["best_epoch"]))
    if best is not None:
        if best.shape != trainer.parameters.shape or best.dtype != trainer.parameters.dtype:
            raise ValueError(f"the best parameters must be {trainer.parameters.shape} of {trainer.parameters.dtype}")
        state.best_nll, state.best_parameters = float(text["best_nll"]), aligned_copy(best)
    if not isinstance(text["about"], dict):
        raise TypeError("about must be an object")
    return trainer, state, text["about"]


def _generator(state: Any) -> np.random.Generator:
    bits = np.random.PCG64()
    bits.state = state
    return np.random.Generator(bits)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError(f"a count must be an int >= 0 and below 2^62, got {value!r}")
    return value
