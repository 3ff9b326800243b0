"""Data sets for the command line: from a name or a file to matrices of 0/1, checked in one way for all formats.

Not here: formats (``formats.py``, ``text.py``), packing (``tables/bits.py``), which values are 0/1 (``tables/table.py``).
"""

from __future__ import annotations

import lzma
import math
import os
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from made_fast.tables import arguments
from made_fast.tables.choices import HEADER, SPLITS
from made_fast.tables.packed import Packed
from made_fast.tables.reading.columns import Columns, Found, Options
from made_fast.tables.reading.formats import READERS, STDIN
from made_fast.tables.table import Matrix, Table

__all__ = ["FORMATS", "Dataset", "load", "n_missing", "split"]

FORMATS = tuple(READERS)  # ends of the names of files that ``load`` reads
DIGITS_THRESHOLD = 7.0  # its grey values go from 0 to 16

_UNREADABLE = (
    OSError, EOFError, ValueError, OverflowError, TypeError, MemoryError, NotImplementedError, RecursionError, lzma.LZMAError,
    SyntaxError, UserWarning, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""Errors of NumPy, zipfile, gzip and scikit-learn for broken files, without RuntimeError: signal handlers often raise that."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Up to three matrices of 0/1 of one width: (n, D) arrays, memmaps or CSR; float32 with NaN where entries are missing.

    Those of a large .parquet file may be ``Packed``.
    """

    name: str
    train: Matrix
    valid: Matrix | None = None
    test: Matrix | None = None
    shape: tuple[int, int] | None = None  # (rows, columns) of a row as an image, if D is a square
    feature_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()  # remarks on columns and names that are read otherwise than they may look
    index_base: int | None = None  # the number of the first column in LIBSVM

    @property
    def splits(self) -> dict[str, Matrix]:
        """The splits that there are, by name."""
        return {name: X for name in SPLITS if (X := getattr(self, name)) is not None}


def load(
    source: str | PathLike[str],
    *,
    threshold: float | None = None,
    n_features: int | None = None,
    missing: bool = False,
    drop: str | Sequence[str | int] = (),
    header: str = "auto",
    index_base: int | None = None,
    large: bool = False,
) -> Dataset:
    """Load a data set; every value in it has been checked to be 0 or 1. For the options see :class:`Options`.

    ``source`` is ``"digits"`` (1797 images of 8 x 8 that come with scikit-learn; split 1297/250/250), ``"-"`` for standard
    input, read into memory like a .csv, or a file in one of :data:`FORMATS`: text also with ``.gz``. A .npy stays on disk. A
    file of one matrix has it as ``train``. Raises FileNotFoundError, or ValueError if it cannot be read or is no table of 0/1.
    """
    if header not in HEADER or index_base not in (None, 0, 1):
        demand = f"header must be one of {', '.join(HEADER)}, and index_base 0, 1 or None"
        raise ValueError(f"{demand}, got {header!r} and {index_base!r}.")
    columns = (drop,) if isinstance(drop, str) else tuple(map(str, drop))
    options = Options(threshold, n_features, missing, columns, header, large, index_base)
    if source == "digits":
        return _digits(options)
    path, label, name, thing, reader = Path(), "standard input", "stdin", "It", STDIN
    if source != "-":
        path = Path(source)
        label = str(path)
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file, and no built-in data set of that name (there is 'digits').")
        suffixes = [suffix.lower() for suffix in path.suffixes]
        compressed = suffixes[-1:] == [".gz"]
        suffix = suffixes[-2 if compressed else -1] if len(suffixes) > compressed else ""
        if not path.is_file() or suffix not in READERS or (compressed and not READERS[suffix].gzip):
            demand = f"must be a file whose name ends in one of {', '.join(FORMATS)}; text also with .gz"
            raise ValueError(f"{path} {demand}. Convert or rename it.")
        thing, reader = f"A {suffix} file", READERS[suffix]
        name = os.fsencode(path.name.split(".")[0]).decode("utf-8", "backslashreplace")  # names of files are bytes
    try:
        found = reader.read(path, options)
        if found.columns is not None:
            if not isinstance(found.splits["train"], Packed):  # whose entries are all 0/1
                found.columns.refuse_index(found.splits["train"], threshold)
            found.notes += found.columns.same_names()
    except _UNREADABLE as error:
        if isinstance(error, TimeoutError) and error.errno is None:  # a host's limit, raised by its signal handler
            raise
        cause = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ValueError(f"{label} cannot be read: {cause}. {thing} must hold {reader.form}.") from error
    try:
        return _checked(found, label, name, options)
    except TypeError as error:  # text in a file is a wrong value, not a wrong type
        raise ValueError(str(error)) from error


def n_missing(X: Matrix) -> int:
    """Return the number of missing entries of a matrix of a data set."""
    found = (rows.missing() for _, rows in Table.of(X).chunks())
    return sum(int(nan.sum()) for nan in found if nan is not None)


def split(dataset: Dataset, *, valid: float | None = 0.1, test: float | None = 0.1, seed: int = 0) -> Dataset:
    """Take the splits that ``dataset`` lacks out of its training rows, a fraction each; None leaves a split missing.

    The rows are drawn at random, the same ones for the same ``seed``, and keep their order within each split.
    """
    n = dataset.train.shape[0]

    def share(fraction: float | None, name: str) -> int:
        missing = fraction is not None and getattr(dataset, name) is None
        return max(1, round(arguments.fraction(fraction, name) * n)) if missing else 0

    n_valid, n_test = share(valid, "valid"), share(test, "test")
    if n_valid + n_test == 0:
        return dataset
    if n_valid + n_test >= n:
        found = f"{n} rows to share with {n_valid} for validation and {n_test} for test"
        raise ValueError(f"{dataset.name} must keep at least 1 training row, got {found}. Lower the fractions.")
    parts = np.split(np.random.default_rng(seed).permutation(n), [n_valid, n_valid + n_test])
    drawn: dict[str, Any] = {}
    for name, part in zip(("valid", "test", "train"), parts, strict=True):
        if len(part):
            rows: Any = dataset.train
            drawn[name] = rows.take(np.sort(part)) if isinstance(rows, Packed) else rows[np.sort(part)]
    return replace(dataset, **drawn)


def _digits(options: Options) -> Dataset:
    from sklearn.datasets import load_digits

    threshold = DIGITS_THRESHOLD if options.threshold is None else options.threshold
    dataset = _checked(Found({"train": load_digits().data}), "digits", "digits", replace(options, threshold=threshold))
    return split(dataset, valid=250 / 1797, test=250 / 1797)


def _checked(found: Found, label: str, name: str, options: Options) -> Dataset:
    """Check widths and values of the splits, and leave out empty splits, and columns that the reader has not dropped."""
    splits: dict[str, Any] = {}
    n_features = options.n_features
    names = found.columns.kept_names() if found.columns is not None else None
    for key, X in found.splits.items():
        table = f"{key} of {label}" if len(found.splits) > 1 else label
        rows = Table.of(X, name=table, min_rows=0)
        if not len(rows):
            continue
        if options.drop and found.columns is None:
            try:
                kept = Columns(rows.shape[1], drop=options.drop).kept
            except ValueError as error:
                raise ValueError(f"{table}: {error}.") from error
            rows = Table.of(rows.rows[:, kept], name=table)  # type: ignore[index]  # SciPy's rows have columns
        if n_features not in (None, rows.shape[1]):
            more = " --drop leaves columns out." if rows.shape[1] > n_features else ""
            raise ValueError(f"{table} must have {n_features} columns, got {rows.shape[1]}. Use data of one width.{more}")
        splits[key] = _binary(rows, options, names)
        n_features = rows.shape[1]
    if "train" not in splits:
        rest = f"only {', '.join(splits)}" if splits else "no rows at all"
        raise ValueError(f"{label} must have training rows, got {rest}. Save the rows to use as 'train'.")
    r = math.isqrt(splits["train"].shape[1])
    shape = (r, r) if r * r == splits["train"].shape[1] else None
    notes = tuple(f"{label}: {note}" for note in found.notes)
    return Dataset(name, **splits, shape=shape, feature_names=names, notes=notes, index_base=found.index_base)


def _binary(table: Table, options: Options, columns: Sequence[str] | None) -> Any:
    """Return the rows after a check of every value, or a new matrix where there is a threshold or a gap."""
    if isinstance(table, Packed):  # checked as they were packed
        return table
    threshold, missing = options.threshold, options.missing
    gaps = missing and any(rows.missing() is not None for _, rows in table.chunks())
    out: Any = np.empty(table.shape, np.float32 if gaps else np.uint8) if gaps or threshold is not None else None
    for part, rows in table.chunks():
        one = rows.ones(threshold, missing=missing, columns=columns, setting="--threshold ")
        if out is not None:
            out[part] = one
        if gaps and (nan := rows.missing()) is not None:
            out[part][nan] = np.nan
    if gaps and np.isnan(out).all():
        raise ValueError(f"{table.name} must have an entry that is not missing. Check that it is the file you mean.")
    return table.rows if out is None else out
