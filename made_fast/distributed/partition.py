"""Plain functions of one partition, an array or a pandas frame in memory: scores, imputed rows, draws.

They say ``model`` by the path of its file, by :class:`ModelAt`, or as an object. A process maps a file once, and again when
another one is there under its name; where one question is asked of many processes, ``ModelAt`` makes them all answer with the
same model, or not at all.

Not here: which engine calls them, and where.
"""

from __future__ import annotations

import os
import sys
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from made_fast.inference import tensorfile
from made_fast.inference.loading import load
from made_fast.inference.tablemodel import TableModel
from made_fast.tables import arguments

__all__ = ["ModelAt", "imputed", "located", "model_of", "sampled", "scored", "seed_of"]


class ModelAt(NamedTuple):
    """A model file, and which one it is.

    Attributes
    ----------
    path : str
        Absolute.
    identity : str
        SHA-256 of the header of the file, which has that of its data.
    """

    path: str
    identity: str


class _Mapped(NamedTuple):
    stat: tuple[int, ...]
    identity: str
    model: Any


_mapped: dict[str, _Mapped] = {}
_lock = Lock()


def _new_lock() -> None:
    global _lock
    _lock = Lock()


if hasattr(os, "register_at_fork"):  # a thread of the parent may have had it
    os.register_at_fork(after_in_child=_new_lock)


def located(path: str | os.PathLike[str]) -> ModelAt:
    """Return which model is in a file now; maps that are given it refuse another one that takes its place.

    Raises OSError if there is no file to be read, ModelFileError if it is no model file.
    """
    whole = os.path.abspath(arguments.path(path, "model"))
    return ModelAt(whole, _open(whole).identity)


def model_of(model: Any) -> Any:
    """Return a model for inference: that of a file, which this process maps once, of a fitted estimator, or itself.

    Raises ValueError if another model has taken the place of the one that is meant; what ``load`` raises; TypeError.
    """
    if isinstance(model, ModelAt):
        found = _open(model.path)
        if found.identity != model.identity:
            raise ValueError(
                f"{model.path} must hold the model that was there when the question was asked, got another one. Ask again, or "
                "save a new model under another name."
            )
        return found.model
    if isinstance(model, str | os.PathLike):
        return _open(os.path.abspath(arguments.path(model, "model"))).model
    model = getattr(model, "model_", model)
    if not all(hasattr(model, name) for name in ("score_samples", "impute", "sample")):
        raise TypeError(
            f"model must be a model, a fitted estimator, or the path of a model file, got {arguments.shown(model)} of type "
            f"{type(model).__name__}."
        )
    return model


def _open(path: str) -> _Mapped:
    with _lock:  # one of the threads of a worker maps it
        kept = _mapped.get(path)
        while kept is None or kept.stat != _stat(path):
            before = _stat(path)
            found = _Mapped(before, tensorfile.identity(path), load(path, mmap=True))
            if _stat(path) == before:  # or it was replaced meanwhile
                kept = _mapped[path] = found
        return kept


def _stat(path: str) -> tuple[int, ...]:
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def seed_of(random_state: int, number: int) -> np.random.SeedSequence:
    """Return the seed of a partition: it depends on its number, and on nothing that a worker has."""
    return np.random.SeedSequence(random_state, spawn_key=(number,))


def scored(rows: Any, model: Any, *, n_threads: int = 1) -> Any:
    """Return log p of each row in nats: (n,) float64, of a pandas frame a series ``log_p`` with its index.

    Takes and raises what ``score_samples`` of the model does, but a partition may be empty. The context of a model that was
    fitted with one stands in columns of its own, beside the others. One thread is the default: engines run as many tasks as
    there are CPUs. No bit depends on it, nor on how rows are cut into partitions.

    Examples
    --------
    Spark: ``frame.mapInPandas(lambda parts: (scored(part, path).to_frame() for part in parts), "log_p double")``; Ray Data:
    ``rows.map_batches(lambda part: scored(part, path).to_frame(), batch_format="pandas")``.
    """
    log_p = np.empty(0)
    if len(rows):
        found = model_of(model)
        own, context = _apart(rows, found)
        log_p = found.score_samples(own, n_threads=n_threads, **context)
    return sys.modules["pandas"].Series(log_p, index=rows.index, name="log_p") if _is_pandas(rows) else log_p


def imputed(rows: Any, model: Any, method: str = "mode", *, random_state: Any = 0, n_threads: int = 1, **options: Any) -> Any:
    """Return the rows with their missing entries filled in, see ``impute`` of the model; a frame with its index.

    The context of a model that was fitted with one stands in columns of its own, beside the others, and stays there.
    With the same ``random_state`` for all partitions, "mode" and "mean" have the bits of one call for all rows. For "sample",
    give each partition a seed of its own, or equal rows of different partitions get equal draws: :func:`seed_of`.
    """
    found = model_of(model)
    own, context = (rows, {}) if "context" in options else _apart(rows, found)
    if not len(rows):
        out = _like_rows(found, arguments.choice(method, "method", ("mode", "mean", "sample")))
    else:
        out = found.impute(own, method, **context, random_state=random_state, n_threads=n_threads, **options)
    if not _is_pandas(rows):
        return out
    filled = _to_pandas(out, own)
    return filled if filled.shape[1] == rows.shape[1] else rows.assign(**filled)


def sampled(n: int, model: Any, random_state: Any, *, context: Any = None, n_threads: int = 1) -> Any:
    """Return n draws of the model: an array, or the table that its ``sample`` gives; a data frame is one of pandas.

    ``context``: one row, for all draws of a model that was fitted with a context.
    """
    given = {} if context is None else {"context": context}
    found = model_of(model).sample(n, random_state, n_threads=n_threads, **given)
    out = found if isinstance(found, np.ndarray) else _to_pandas(found)
    if len(out) != n:
        raise ValueError(f"context must have one row, which all draws are for, got {len(out) // n}. Ask for each by itself.")
    return out


def _apart(rows: Any, model: Any) -> tuple[Any, dict[str, Any]]:
    """Return the rows without the columns of the context that a model was fitted with, and this as an option."""
    context = getattr(getattr(model, "encoder", None), "context", None)
    if context is None:
        return rows, {}
    shown = arguments.shown(list(context.names))
    if not _is_pandas(rows):
        raise TypeError(
            f"rows must be a data frame of pandas, in which the columns of the context, {shown}, stand beside the others, got "
            f"{type(rows).__name__}. Convert it."
        )
    if lacking := [name for name in context.names if name not in rows.columns]:
        raise ValueError(
            f"rows must have the columns of the context, {shown}, beside the others, got none called "
            f"{', '.join(map(arguments.shown, lacking))}."
        )
    own = [name for name in context.names if name not in model.columns.names]
    return rows.drop(columns=own), {"context": rows[list(context.names)]}


def _like_rows(model: Any, method: str) -> Any:
    """Return no rows, with the columns and dtypes of imputed ones."""
    if isinstance(model, TableModel):
        none = (0, len(model.columns))
        return model.columns.frame(model.columns.decode(np.zeros(none, np.int32), np.zeros(none)))
    return np.empty((0, model.n_features_in), np.float64 if method == "mean" else np.uint8)


def _is_pandas(rows: Any) -> bool:
    return isinstance(rows, getattr(sys.modules.get("pandas"), "DataFrame", ()))


def _to_pandas(table: Any, rows: Any = None) -> Any:
    """Return a table as a frame of pandas, with the index of ``rows`` and, where it has no names, their columns."""
    import pandas as pd

    index = None if rows is None else rows.index
    if isinstance(table, pd.DataFrame):
        return table if index is None else table.set_axis(index)
    if isinstance(table, np.ndarray) and not table.dtype.names:
        return pd.DataFrame(table, index, None if rows is None else rows.columns)
    if isinstance(table, dict | np.ndarray):
        return pd.DataFrame(table).set_axis(pd.RangeIndex(len(pd.DataFrame(table))) if index is None else index)
    import narwhals as nw

    found = nw.from_native(table).to_pandas()
    return found if index is None else found.set_axis(index)
