"""Which tables have columns of several kinds, and what these are: the door of an estimator for what is not all 0/1.

A data frame of 0, 1 and missing values is binary, whatever else it is; any other one has columns. An array has columns if the
caller says so. Not here: what columns are (``tables/columns``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from made_fast.tables import arguments
from made_fast.tables.columns import frames
from made_fast.tables.columns.encoder import Encoder
from made_fast.tables.columns.learn import learn
from made_fast.tables.packed import Packed
from made_fast.tables.reading.chunks import Chunks
from made_fast.tables.sparse import is_sparse
from made_fast.tables.table import Table
from made_fast.training.recipe import Params

__all__ = ["has_columns", "in_chunks", "learned"]


def learned(
    X: Any, context: Any, params: Params, names: tuple[str, ...] | None = None, sample_weight: Any = None
) -> Encoder | None:
    """Return what the columns of a table and of its context are, or None if X is to be read as 0/1.

    Raises TypeError or ValueError, which names the column, for a column that cannot be modelled, and for parameters that
    contradict each other.
    """
    return _learned(X, context, params, names, sample_weight) if has_columns(X, context, params) else None


def in_chunks(
    X: Chunks, context: Any, params: Params, names: tuple[str, ...] | None = None, sample_weight: Any = None
) -> tuple[Encoder | None, Packed]:
    """Return what the columns of a table in chunks are, see :func:`learned`, and its rows, packed."""
    if context is not None:
        raise ValueError("context must be left out for X in chunks, got one. Fit the table in memory, or without a context.")
    said = has_columns(X, None, params)
    found = None
    if not said:
        found = X.binary(params["binarize"], has_columns=lambda chunk: has_columns(chunk, None, params))
    if found is not None:
        return None, found
    X.check_again()
    encoder = _learned(X.frame(), None, params, names, sample_weight)
    return encoder, X.coded(encoder)


def _learned(X: Any, context: Any, params: Params, names: tuple[str, ...] | None, sample_weight: Any) -> Encoder:
    options = {name: params[name] for name in ("n_bins", "max_categories", "handle_unknown", "missing")}
    frame = frames.read(X)
    weights = None
    if sample_weight is not None:  # a negative one is for the loss
        weights = np.maximum(arguments.sample_weight(sample_weight, frame.shape[0]), 0)
    about = None if isinstance(params["columns"], str) else params["columns"]
    own = None if frame.names is not None else names
    columns = learn(
        frame, columns=about, categorical_features=params["categorical_features"], sample_weight=weights, names=own, **options
    )
    if int(columns.n_levels.max()) == 1:
        raise ValueError("X must have a column with more than one value, got only constant ones. There is nothing to learn.")
    given = None if context is None else learn(context, sample_weight=weights, name="context", digits=False, **options)
    return Encoder(columns, given)


def has_columns(X: Any, context: Any, params: Params) -> bool:
    """Return whether a table is to be read as columns, and not as 0/1; see :func:`learned` for what it raises."""
    if isinstance(X, Table):  # a member of an ensemble gets what its fit has read
        return False
    said = params["columns"] is not None or not _is_from_dtype(params["categorical_features"]) or context is not None
    if params["binarize"] is not None:
        if said:
            raise ValueError(
                "binarize must be None for a table with columns or a context, got "
                f"{params['binarize']!r}. Leave it out: numbers are modelled as they are."
            )
        return False
    return said or _is_frame_of_columns(X, as_levels=params["missing"] == "value")


def _is_from_dtype(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value == "from_dtype")


def _is_frame_of_columns(X: Any, *, as_levels: bool) -> bool:
    """Return whether a table is a data frame, or a mapping of columns, of more than 0, 1 and missing values.

    It is, too, if its missing values are to be levels, ``as_levels``: bits have none.
    """
    if isinstance(X, np.ndarray):
        return X.dtype.names is not None
    if is_sparse(X) or isinstance(X, list | tuple):
        return False
    is_frame = isinstance(X, Mapping) or hasattr(X, "__narwhals_dataframe__") or hasattr(X, "__arrow_c_stream__")
    if not is_frame and type(X).__module__.partition(".")[0] not in ("pandas", "polars", "pyarrow"):
        return False
    if len(getattr(X, "shape", (0, 0))) != 2 and not isinstance(X, Mapping):  # a series, which the usual door refuses
        return False
    for _, values in frames.read(X).items():
        if as_levels and values.null.any():
            return True
        if values.base == "text":
            return True
        if values.base in ("int", "float"):
            x = values.values
            if not ((x == 0) | (x == 1) | values.null).all():
                return True
    return isinstance(X, Mapping)
