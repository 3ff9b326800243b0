"""Tables for the command line, missing entries (NaN) included: counted, hidden, written. ``tables/reading`` reads them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from made_fast.tables.reading.datasets import Dataset
from made_fast.tables.sparse import is_sparse
from made_fast.tables.table import chunks

__all__ = ["dense", "hide", "n_missing", "save", "splits"]

SPLITS = ("train", "valid", "test")


def splits(dataset: Dataset) -> dict[str, Any]:
    """Return the splits that there are, by name."""
    named = {name: getattr(dataset, name) for name in SPLITS}
    return {name: X for name, X in named.items() if X is not None}


def n_missing(X: Any) -> int:
    """Return how many entries of a table are missing."""
    if is_sparse(X) or X.dtype.kind != "f":
        return 0
    return sum(int(np.isnan(X[part]).sum()) for part in chunks(*X.shape)) if len(X) else 0


def hide(X: Any, columns: tuple[int, int]) -> NDArray[np.float32]:
    """Return a copy of a table whose columns ``columns[0] .. columns[1] - 1`` are missing."""
    out = dense(X)
    out[:, slice(*columns)] = np.nan
    return out


def dense(X: Any) -> NDArray[np.float32]:
    """Return a copy of a table of 0, 1 and NaN as an array."""
    return np.array(X.toarray() if is_sparse(X) else X, np.float32)  # type: ignore[attr-defined]  # SciPy's


def save(stream: IO[bytes], suffix: str, tables: dict[str, NDArray[Any]], names: Sequence[str] | None) -> None:
    """Write tables by name in the format of a suffix, several of them as .npz only.

    In text, numbers that are not 0 or 1 have six digits, and names of the columns come first, quoted where need be.
    """
    if suffix == ".npz":
        np.savez_compressed(stream, **tables)  # type: ignore[arg-type]  # a keyword is an array's name
        return
    (X,) = tables.values()
    if suffix == ".npy":
        np.save(stream, X)
        return
    delimiter = "," if suffix == ".csv" else " "
    if names is not None:
        stream.write(f"{delimiter.join(map(_quoted, names))}\n".encode())
    np.savetxt(stream, X, fmt="%d" if X.dtype.kind in "iu" else "%.6g", delimiter=delimiter)


def _quoted(name: str) -> str:
    """Return a name as a cell of text: in quotes where another separator, or a comment, might be seen in it."""
    return name if re.fullmatch(r'[^\s",;#]+', name) else '"' + name.replace('"', '""') + '"'
