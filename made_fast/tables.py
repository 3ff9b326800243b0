"""Tables for the command line, missing entries (NaN) included: read, hidden, written.

Complete data is read by :mod:`made_fast.datasets`, which refuses NaN; only when it has refused a file is that read again here,
with an eye to missing entries. What is written here can be read here.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast import checks, data, datasets
from made_fast.datasets import Dataset

__all__ = ["SUFFIXES", "dense", "hide", "load", "n_missing", "save", "splits"]

SPLITS = ("train", "valid", "test")
SUFFIXES = (".npz", ".npy", ".csv", ".txt")
"""What :func:`save` writes."""

DELIMITERS = {".csv": ",", ".data": ",", ".txt": None, ".amat": None}


def splits(dataset: Dataset) -> dict[str, Any]:
    """Return the splits that there are, by name."""
    named = {name: getattr(dataset, name) for name in SPLITS}
    return {name: X for name, X in named.items() if X is not None}


def load(source: str | PathLike[str], *, threshold: float | None = None, n_features: int | None = None) -> Dataset:
    """Load a data set as :func:`made_fast.datasets.load` does, but let entries be missing.

    Where some are, all splits become float32 matrices of 0, 1 and NaN. In text an empty cell, nan, NA and ? stand for a
    missing entry; an array has NaN.
    """
    try:
        return datasets.load(source, threshold=threshold, n_features=n_features)
    except ValueError as refusal:
        path = Path(source)
        try:
            found = _read(path)
        except Exception:  # whatever it is: the refusal of a complete file says it better
            raise refusal from None
        if not any(n_missing(X) for X in found.values()):
            raise
    return _checked(found, path, threshold, n_features)


def _checked(found: dict[str, NDArray[Any]], path: Path, threshold: float | None, n_features: int | None) -> Dataset:
    tables = {}
    for name, X in found.items():
        label = f"{name} of {path}" if len(found) > 1 else str(path)
        rows: Any = checks.matrix(X, n_features, name=label, min_rows=0)
        if len(rows):
            n_features = rows.shape[1]
            binary = tables[name] = _binary(rows, threshold, label)
            if np.isnan(binary).all():
                raise ValueError(f"{label} must have an entry that is not missing. Check that it is the file you mean.")
    if "train" not in tables:
        raise ValueError(f"{path} must have training rows, got only {', '.join(tables)}. Save the rows to use as 'train'.")
    D = tables["train"].shape[1]
    side = round(D**0.5)
    return Dataset(path.name.split(".")[0], **tables, shape=(side, side) if side * side == D else None)


def _binary(rows: NDArray[Any], threshold: float | None, label: str) -> NDArray[np.float32]:
    out = np.empty(rows.shape, np.float32)
    for part in data.chunks(*rows.shape):
        out[part] = checks.ones(rows[part], threshold, label, part.start, missing=True)
        nan = checks.missing(rows[part], label)
        if nan is not None:
            out[part][nan] = np.nan
    return out


def _read(path: Path) -> dict[str, NDArray[Any]]:
    """Read a file that may miss entries; anything may be raised."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compressed = suffixes[-1:] == [".gz"]
    suffix = suffixes[-1 - compressed]
    if suffix == ".npy":
        return {"train": np.load(path, allow_pickle=False)}
    if suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            names = [name for name in SPLITS if name in arrays] or arrays.files[:1]
            return {name if name in SPLITS else "train": arrays[name] for name in names}
    lines = _lines(path, DELIMITERS[suffix], gzip.open if compressed else open)
    return {"train": np.loadtxt(lines, np.float32, comments=None, delimiter=DELIMITERS[suffix], ndmin=2)}


def _lines(path: Path, delimiter: str | None, open_text: Callable[..., Any]) -> Iterator[str]:
    """Yield the rows of a text file with ``nan`` for whatever stands for a missing entry; a header is left out."""
    missing = re.compile(r"(?:(?<=,)|^)\s*(?:NA|\?)?\s*(?=,|$)" if delimiter else r"(?<!\S)(?:NA|\?)(?!\S)")
    first = True
    with open_text(path, "rt", encoding="utf-8-sig") as file:
        for line in file:
            text = line.split("#")[0].strip("\r\n" if delimiter else None)
            if not text.strip():
                continue
            row = missing.sub("nan", text)
            if not (first and _is_header(row.split(delimiter))):
                yield row
            first = False


def _is_header(fields: list[str]) -> bool:
    """Say whether a first line names columns: it has words, and no number but 0, 1, .., D - 1 in turn."""
    if len(fields) > 2 and [field.strip() for field in fields] == [str(d) for d in range(len(fields))]:
        return True
    words = [field for field in fields if not _is_number(field)]
    return bool(words) and all(field in words or field == "nan" for field in fields)


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def n_missing(X: Any) -> int:
    """Return how many entries of a table are missing."""
    if checks.is_sparse(X) or X.dtype.kind != "f":
        return 0
    return sum(int(np.isnan(X[part]).sum()) for part in data.chunks(*X.shape)) if len(X) else 0


def hide(X: Any, columns: tuple[int, int]) -> NDArray[np.float32]:
    """Return a copy of a table whose columns ``columns[0] .. columns[1] - 1`` are missing."""
    out = dense(X)
    out[:, slice(*columns)] = np.nan
    return out


def dense(X: Any) -> NDArray[np.float32]:
    """Return a copy of a table of 0, 1 and NaN as an array."""
    return np.array(X.toarray() if checks.is_sparse(X) else X, np.float32)  # type: ignore[attr-defined]  # SciPy's


def save(path: Path, tables: dict[str, NDArray[Any]]) -> None:
    """Write tables by name, several of them as .npz only; numbers that are not 0 or 1 with six digits in text."""
    suffix = path.suffix.lower()
    with path.open("wb") as stream:
        if suffix == ".npz":
            np.savez_compressed(stream, **tables)  # type: ignore[arg-type]  # a keyword is an array's name
            return
        (X,) = tables.values()
        if suffix == ".npy":
            np.save(stream, X)
        else:
            np.savetxt(stream, X, fmt="%d" if X.dtype.kind in "iu" else "%.6g", delimiter="," if suffix == ".csv" else " ")
