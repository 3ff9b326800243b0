"""Scores, imputed rows and draws as Dask collections: lazy, with the right meta, and the same bits whatever the partitions.

Each is a map of a function of ``partition.py`` over blocks of rows, nothing else; where and when they are computed is Dask's
business. Dask is imported when one is asked for.

Not here: models, which are loaded by the workers.
"""

from __future__ import annotations

import importlib
import os
import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np

from made_fast.distributed import partition
from made_fast.tables import arguments
from made_fast.tables.choices import METHODS

__all__ = ["impute", "sample", "score_samples"]

ROWS = 100_000
"""Rows of a partition of draws."""


def score_samples(model: Any, X: Any, *, n_threads: int = 1) -> Any:
    """Return log p of each row of a Dask array or data frame, lazily, in nats.

    Parameters
    ----------
    model : path, model or fitted estimator
        A path is read here, and must be readable by all workers: each process maps the file once. If the file is replaced
        before the rows are scored, they are refused. A model travels to every worker.
    X : dask array (n, D) or dask data frame
        As for ``score_samples`` of the model. Chunks of columns are joined. The context of a model that was fitted with one
        stands in columns of its own, beside the others, in a data frame.
    n_threads : int
        Of each task; Dask runs a task on each thread of its workers.

    Returns
    -------
    dask array (n,) of float64, or dask series ``log_p``
        With the chunks, or the partitions and the index, of X. The bits are those of ``model.score_samples``.

    Raises
    ------
    TypeError
        X is no Dask collection of rows. What is wrong with a row is raised when it is computed.
    """
    asked, _ = _asked(model)
    if _kind(X) == "array":
        da = _dask("array")
        return da.map_blocks(
            partition.scored, _whole_rows(X), model=asked, n_threads=n_threads, drop_axis=1, meta=np.empty(0, np.float64)
        )
    meta = X._meta.index.to_series(name="log_p").astype(object).iloc[:0].astype(np.float64)
    return X.map_partitions(partition.scored, asked, n_threads=n_threads, meta=meta)


def impute(
    model: Any, X: Any, method: str = "mode", *, random_state: int | None = 0, n_threads: int = 1, **options: Any
) -> Any:
    """Return a Dask array or data frame with its missing entries filled in, lazily; see ``impute`` of the model.

    ``model``, ``X`` and ``n_threads`` are as for :func:`score_samples`. With "mode" and "mean", the bits are those of
    ``model.impute`` with the same ``random_state``, an int or None. With "sample", each partition draws from a seed of its
    own: the bits depend on the partitions, but on no worker. Warnings of estimates are in the logs of the workers.
    """
    how, seed = arguments.choice(method, "method", METHODS), _seed(random_state)
    asked, known = _asked(model)
    options |= {"model": asked, "method": how, "random_state": seed, "n_threads": n_threads}
    if _kind(X) == "array":
        da = _dask("array")
        rows = _whole_rows(X)
        like = partition.imputed(np.empty((0, X.shape[1])), known, how)
        return da.map_blocks(_imputed_block, rows, **options, meta=like, dtype=like.dtype)
    meta = partition.imputed(X._meta.iloc[:0], known, how)
    return X.map_partitions(_imputed_partition, **options, meta=meta)


def sample(
    model: Any,
    n_samples: int,
    *,
    context: Any = None,
    rows: int = ROWS,
    random_state: int | None = None,
    n_threads: int = 1,
) -> Any:
    """Return draws of a model, lazily: a Dask array, or a Dask data frame of a model of columns.

    ``model`` and ``n_threads`` are as for :func:`score_samples`; ``rows`` are those of a partition. Each partition draws
    from a seed that is made of ``random_state``, an int or None, and its number: bits depend on ``rows``, but on no worker.
    ``context``: one row, for all draws of a model that was fitted with a context.
    """
    delayed = _dask("delayed").delayed

    n, part, seed = arguments.positive_int(n_samples, "n_samples"), arguments.positive_int(rows, "rows"), _seed(random_state)
    asked, known = _asked(model)
    like = partition.sampled(1, known, 0, context=context)
    sizes = [min(part, n - start) for start in range(0, n, part)]
    draw = delayed(partition.sampled, pure=True)
    options = {"context": context, "n_threads": n_threads}
    parts = [draw(size, asked, partition.seed_of(seed, i), **options) for i, size in enumerate(sizes)]
    if isinstance(like, np.ndarray):
        da = _dask("array")
        blocks = zip(parts, sizes, strict=True)
        return da.concatenate([da.from_delayed(p, (size, like.shape[1]), meta=like[:0]) for p, size in blocks])
    return _dask("dataframe").from_delayed(parts, meta=like.iloc[:0], verify_meta=False)


def _dask(part: str) -> Any:
    """Import a part of Dask."""
    try:
        return importlib.import_module(f"dask.{part}")
    except ImportError as error:
        raise ImportError(f"dask.{part} is needed: pip install 'made_fast[dask]'. {error}") from error


def _imputed_block(rows: Any, *, block_id: Sequence[int] = (), **options: Any) -> Any:
    return _imputed(rows, int(block_id[0]) if block_id else 0, options)


def _imputed_partition(rows: Any, *, partition_info: Any = None, **options: Any) -> Any:
    return _imputed(rows, int(partition_info["number"]) if partition_info else 0, options)


def _imputed(rows: Any, number: int, options: dict[str, Any]) -> Any:
    if options["method"] == "sample":
        options["random_state"] = partition.seed_of(options["random_state"], number)
    return partition.imputed(rows, **options)


def _asked(model: Any) -> tuple[Any, Any]:
    """Return what tells a worker the model, and the model itself."""
    if isinstance(model, str | os.PathLike):
        model = partition.located(model)
    known = partition.model_of(model)
    if isinstance(model, partition.ModelAt):
        return model, known
    delayed = _dask("delayed").delayed

    return delayed(known), known


def _seed(random_state: Any) -> int:
    return secrets.randbits(64) if random_state is None else arguments.non_negative_int(random_state, "random_state")


def _kind(X: Any) -> str:
    """Return "array" or "frame"; TypeError for anything else."""
    library = type(X).__module__.partition(".")[0]
    if library in ("dask", "dask_expr") and hasattr(X, "map_blocks") and getattr(X, "ndim", 0) == 2:
        return "array"
    if library in ("dask", "dask_expr") and hasattr(X, "map_partitions") and getattr(X, "ndim", 0) == 2:
        return "frame"
    raise TypeError(
        f"X must be a dask array (n, D) or a dask data frame, got {type(X).__module__}.{type(X).__name__}. Rows in memory "
        "need no Dask: ask the model itself; dask.array.from_array and dask.dataframe.from_pandas make partitions of them."
    )


def _whole_rows(X: Any) -> Any:
    return X if X.numblocks[1] == 1 else X.rechunk({1: -1})
