"""Data sets for the command line: a name or a file in, 0/1 matrices out.

A reader turns a file into the splits it holds; :func:`load` then checks all of them the same way, so that a failure is one
error that names the file and the way out.

Not here: formats (``tables/readers.py``), packing (``tables/data.py``), what counts as 0/1 (``tables/checks.py``).
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

from made_fast.tables import arguments, checks, data
from made_fast.tables.checks import Matrix
from made_fast.tables.choices import HEADER, SPLITS
from made_fast.tables.columns import Columns, Found, Reading
from made_fast.tables.readers import READERS, STDIN

__all__ = ["FORMATS", "Dataset", "load", "split"]

FORMATS = tuple(READERS)
"""Ends of the names of files that :func:`load` reads."""

DIGITS_THRESHOLD = 7.0
"""The grey values of ``digits`` go from 0 to 16."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Up to three binary matrices of one width.

    Attributes
    ----------
    name : str
    train : (n, D) array, memmap or CSR of 0/1; where entries are missing, float32 of 0, 1 and NaN
    valid, test : like ``train``, or None
    shape : (rows, columns) of a row seen as an image, or None
    feature_names : D str, or None
        What the file calls the columns: the header of text, as it is written there; the columns of a .parquet.
    notes : tuple of str
        What was read otherwise than it may look, a line each: arrays that are not used, an index that is left out.
    index_base : int or None
        Number of the first column in a LIBSVM file.
    """

    name: str
    train: Matrix
    valid: Matrix | None = None
    test: Matrix | None = None
    shape: tuple[int, int] | None = None
    feature_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    index_base: int | None = None

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
) -> Dataset:
    """Load a data set; every value in it has been checked to be 0 or 1.

    Parameters
    ----------
    source : str or path
        ``"digits"`` (1797 images of 8 x 8 that come with scikit-learn; split 1297/250/250), ``"-"`` for standard input, which
        is read into memory as a .csv is, or a file:

        - ``.npz``: arrays ``train``, ``valid`` (``val``, ``validation``, ``dev``), ``test``, or a single array of any name;
          with a number ``n_features`` beside them they are ``np.packbits(0/1 matrix, axis=1)``. Or what
          ``scipy.sparse.save_npz`` writes
        - ``.npy``: one array; it stays on disk
        - ``.csv``, ``.data`` (semicolons, commas or tabs), ``.tsv`` (tabs), ``.amat``, ``.txt`` (blanks): a row a line of
          numbers, True or False; quotes are fine, ``#`` starts a comment. A first column without a name that counts the
          rows is left out, and so is the empty last one where every line ends with a separator
        - ``.parquet``: columns of numbers or booleans; needs pyarrow
        - ``.libsvm``, ``.svm``, ``.svmlight``: ``label index:value ..`` a line, becomes CSR; the labels are dropped

        Text may be compressed (``.csv.gz``). A file of one matrix has it as ``train``.
    threshold : float, optional
        Values larger than this become 1, the others 0.
    n_features : int, optional
        Width that the data must have. A LIBSVM file does not tell its own if the last features are never set.
    missing : bool
        Let entries be missing: NaN in arrays; in text an empty cell, NA, N/A, NaN, null, None, <NA> or ?, in any case.
    drop : str, or sequence of str or int
        Columns to leave out, by name, or by number, counted from 0, where none has that name.
    header : {"auto", "yes", "no"}
        Whether the first line of text holds names. ``"auto"``: if there is no value in it, or more than two whole numbers
        that count on.
    index_base : {0, 1}, optional
        Number of the first column in a LIBSVM file. None: 0 if an index is 0; 1 if an index is ``n_features``, or if
        ``n_features`` is not given; otherwise the file is refused.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It cannot be read, or is no table of 0/1.
    """
    if header not in HEADER or index_base not in (None, 0, 1):
        raise ValueError(
            f"header must be one of {', '.join(HEADER)}, and index_base 0, 1 or None, got {header!r} and {index_base!r}."
        )
    columns = (drop,) if isinstance(drop, str) else tuple(map(str, drop))
    reading = Reading(threshold, n_features, missing, columns, header, index_base)
    if source == "digits":
        return _digits(reading)
    path, suffix, reader = Path(source), "", STDIN
    if source != "-":
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file, and no built-in data set of that name (there is 'digits').")
        suffixes = [suffix.lower() for suffix in path.suffixes]
        compressed = suffixes[-1:] == [".gz"]
        suffix = suffixes[-2 if compressed else -1] if len(suffixes) > compressed else ""
        if not path.is_file() or suffix not in READERS or (compressed and not READERS[suffix].gzip):
            raise ValueError(
                f"{path} must be a file whose name ends in one of {', '.join(FORMATS)}; text also with .gz. "
                "Convert or rename it."
            )
        reader = READERS[suffix]
    label, thing = (str(path), f"A {suffix} file") if source != "-" else ("standard input", "It")
    try:
        found = reader.read(path, reading)
    except _UNREADABLE as error:
        if isinstance(error, TimeoutError) and error.errno is None:  # a host's limit, raised by a signal handler of its own
            raise
        cause = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ValueError(f"{label} cannot be read: {cause}. {thing} must hold {reader.form}.") from error
    try:
        return _checked(found, label, _name(path) if source != "-" else "stdin", reading)
    except TypeError as error:  # to whoever names a file, text in it is a wrong value
        raise ValueError(str(error)) from error


def _name(path: Path) -> str:
    """Return what a file is called, as text that UTF-8 can hold: names of files are bytes."""
    return os.fsencode(path.name.split(".")[0]).decode("utf-8", "backslashreplace")


def split(dataset: Dataset, *, valid: float | None = 0.1, test: float | None = 0.1, seed: int = 0) -> Dataset:
    """Take the splits that ``dataset`` lacks out of its training rows.

    The rows are drawn at random, the same ones for the same ``seed``, and keep their order within each split.

    Parameters
    ----------
    dataset : Dataset
        A validation or test split that it has stays as it is.
    valid, test : float, optional
        Fraction of the training rows for each; None leaves a missing split missing.
    seed : int
    """
    n = dataset.train.shape[0]
    n_valid = _share(valid, "valid", n) if dataset.valid is None else 0
    n_test = _share(test, "test", n) if dataset.test is None else 0
    if n_valid + n_test == 0:
        return dataset
    if n_valid + n_test >= n:
        raise ValueError(
            f"{dataset.name} must keep at least 1 training row, got {n} rows to share with {n_valid} for validation and "
            f"{n_test} for test. Lower the fractions."
        )
    shuffled = np.random.default_rng(seed).permutation(n)
    parts = [dataset.train[np.sort(part)] for part in np.split(shuffled, [n_valid, n_valid + n_test])]
    return replace(
        dataset,
        valid=parts[0] if n_valid else dataset.valid,
        test=parts[1] if n_test else dataset.test,
        train=parts[2],
    )


def _share(fraction: float | None, name: str, n: int) -> int:
    return 0 if fraction is None else max(1, round(arguments.fraction(fraction, name) * n))


def _digits(reading: Reading) -> Dataset:
    from sklearn.datasets import load_digits

    grey = load_digits().data
    found = Found({"train": grey}, drop=reading.drop)
    threshold = DIGITS_THRESHOLD if reading.threshold is None else reading.threshold
    dataset = _checked(found, "digits", "digits", replace(reading, threshold=threshold))
    return split(dataset, valid=250 / 1797, test=250 / 1797)


def _checked(found: Found, label: str, name: str, reading: Reading) -> Dataset:
    """Check widths and values of the splits, and leave out the empty ones, and the columns that are still to be dropped."""
    splits: dict[str, Any] = {}
    n_features = reading.n_features
    for key, X in found.splits.items():
        table = f"{key} of {label}" if len(found.splits) > 1 else label
        rows: Any = checks.matrix(X, name=table, min_rows=0)
        if not rows.shape[0]:
            continue
        if found.drop:
            rows = checks.matrix(rows[:, _kept(rows.shape[1], found.drop, table)], name=table)
        if n_features not in (None, rows.shape[1]):
            more = " --drop leaves columns out." if rows.shape[1] > n_features else ""
            raise ValueError(f"{table} must have {n_features} columns, got {rows.shape[1]}. Use data of one width.{more}")
        splits[key] = _binary(rows, reading.threshold, table, reading.missing, found.names)
        n_features = rows.shape[1]
    if "train" not in splits:
        rest = f" only {', '.join(splits)}" if splits else ""
        raise ValueError(f"{label} must have training rows, got{rest or ' no rows at all'}. Save the rows to use as 'train'.")
    r = math.isqrt(splits["train"].shape[1])
    return Dataset(
        name,
        **splits,
        shape=(r, r) if r * r == splits["train"].shape[1] else None,
        feature_names=found.names,
        notes=tuple(f"{label}: {note}" for note in found.notes),
        index_base=found.index_base,
    )


def _kept(width: int, drop: Sequence[str], name: str) -> list[int]:
    try:
        return Columns(width, drop=drop).kept
    except ValueError as error:
        raise ValueError(f"{name}: {error}.") from error


def _binary(rows: Matrix, threshold: float | None, name: str, missing: bool, columns: Sequence[str] | None) -> Matrix:
    """Return ``rows`` after a look at every value, or a matrix made of them where there is a threshold or a gap."""
    gaps = missing and any(checks.missing(rows[part], name) is not None for part in data.chunks(*rows.shape))
    out: Any = np.empty(rows.shape, np.float32 if gaps else np.uint8) if gaps or threshold is not None else None
    for part in data.chunks(*rows.shape):
        one = checks.ones(rows[part], threshold, name, part.start, missing=missing, columns=columns, setting="--threshold ")
        if out is not None:
            out[part] = one
        if gaps and (nan := checks.missing(rows[part], name)) is not None:
            out[part][nan] = np.nan
    if gaps and np.isnan(out).all():
        raise ValueError(f"{name} must have an entry that is not missing. Check that it is the file you mean.")
    return rows if out is None else out


_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    TypeError,
    MemoryError,
    NotImplementedError,
    RecursionError,
    lzma.LZMAError,
    SyntaxError,
    UserWarning,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What NumPy, zipfile, gzip and scikit-learn were seen to raise for files that are cut short, foreign or wrong.

Few of these are what a signal handler raises to end a call; RuntimeError, which is, is none of them."""
