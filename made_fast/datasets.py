"""Data sets for the command line: a name or a file in, 0/1 matrices out.

Each reader turns one format into the splits it holds; :func:`load` then checks all of them the same way, so that a failure is
one error that names the file and the way out. Nothing here unpickles. scikit-learn is imported when a source needs it.

Not here: packing (:mod:`made_fast.data`), what counts as 0/1 (:mod:`made_fast.checks`).
"""

from __future__ import annotations

import gzip
import lzma
import math
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast import arguments, checks, data
from made_fast.checks import Matrix

__all__ = ["FORMATS", "Dataset", "load", "split"]

SPLITS = ("train", "valid", "test")
DIGITS_THRESHOLD = 7.0
"""The grey values of ``digits`` go from 0 to 16."""


MISSING = ("", "NA", "?")
"""What stands for a missing entry in text, beside ``nan``."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Up to three binary matrices of one width.

    Attributes
    ----------
    name : str
    train : (n, D) array, memmap or CSR of 0/1; where entries are missing, float32 of 0, 1 and NaN
    valid, test : like ``train``, or None
    shape : (rows, columns) of a row seen as an image, or None
    """

    name: str
    train: Matrix
    valid: Matrix | None = None
    test: Matrix | None = None
    shape: tuple[int, int] | None = None


def load(
    source: str | PathLike[str], *, threshold: float | None = None, n_features: int | None = None, missing: bool = False
) -> Dataset:
    """Load a data set; every value in it has been checked to be 0 or 1.

    Parameters
    ----------
    source : str or path
        ``"digits"`` (1797 images of 8 x 8 that come with scikit-learn; split 1297/250/250), or a file:

        - ``.npz``: arrays ``train``, ``valid``, ``test``, or a single array of any name; with a number ``n_features`` beside
          them they are ``np.packbits(0/1 matrix, axis=1)``
        - ``.npy``: one array; it stays on disk
        - ``.csv``, ``.data`` (commas), ``.amat``, ``.txt`` (blanks): a row a line, ``#`` starts a comment. A first line
          without a number, or of the numbers 0, 1, .., D - 1, is a header
        - ``.libsvm``, ``.svm``, ``.svmlight``: ``label index:value ..`` a line, becomes CSR; the labels are dropped

        Text may be compressed (``.csv.gz``). A file of one matrix has it as ``train``.
    threshold : float, optional
        Values larger than this become 1, the others 0.
    n_features : int, optional
        Width that the data must have. A LIBSVM file does not tell its own if the last features are never set.
    missing : bool
        Let entries be missing: NaN in arrays, and in text an empty cell, ``nan``, ``NA`` or ``?`` too.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It cannot be read, or is no table of 0/1.
    """
    if source == "digits":
        return _digits(DIGITS_THRESHOLD if threshold is None else threshold)
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file, and no built-in data set of that name (there is 'digits').")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compressed = suffixes[-1:] == [".gz"]
    suffix = suffixes[-2 if compressed else -1] if len(suffixes) > compressed else ""
    if not path.is_file() or suffix not in _READERS or (compressed and suffix in (".npz", ".npy")):
        raise ValueError(
            f"{path} must be a file whose name ends in one of {', '.join(FORMATS)}; text also with .gz. Convert or rename it."
        )
    read, form = _READERS[suffix]
    try:
        splits = read(path, n_features, missing)
    except _UNREADABLE as error:
        cause = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ValueError(f"{path} cannot be read: {cause}. A {suffix} file must hold {form}.") from error
    try:
        return _checked(splits, path, threshold, n_features, missing)
    except TypeError as error:  # to whoever names a file, text in it is a wrong value
        raise ValueError(str(error)) from error


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


def _digits(threshold: float) -> Dataset:
    from sklearn.datasets import load_digits

    X = (load_digits().data > threshold).astype(np.uint8)
    return split(Dataset("digits", X, shape=(8, 8)), valid=250 / 1797, test=250 / 1797)


def _checked(splits: dict[str, Any], path: Path, threshold: float | None, n_features: int | None, missing: bool) -> Dataset:
    """Check widths and values of the splits, and leave out the empty ones."""
    found = {}
    for name, X in splits.items():
        label = f"{name} of {path}" if len(splits) > 1 else str(path)
        rows = checks.matrix(X, name=label, min_rows=0)
        if rows.shape[0]:
            if n_features not in (None, rows.shape[1]):
                raise ValueError(f"{label} must have {n_features} columns, got {rows.shape[1]}. Use data of one width.")
            found[name] = _binary(rows, threshold, label, missing)
            n_features = rows.shape[1]
    if "train" not in found:
        rest = f" only {', '.join(found)}" if found else ""
        raise ValueError(f"{path} must have training rows, got{rest or ' no rows at all'}. Save the rows to use as 'train'.")
    r = math.isqrt(found["train"].shape[1])
    shape = (r, r) if r * r == found["train"].shape[1] else None
    return Dataset(path.name.split(".")[0], **found, shape=shape)


def _binary(rows: Matrix, threshold: float | None, name: str, missing: bool) -> Matrix:
    """Return ``rows`` after a look at every value, or a matrix made of them where there is a threshold or a gap."""
    gaps = missing and any(checks.missing(rows[part], name) is not None for part in data.chunks(*rows.shape))
    out: Any = np.empty(rows.shape, np.float32 if gaps else np.uint8) if gaps or threshold is not None else None
    for part in data.chunks(*rows.shape):
        one = checks.ones(rows[part], threshold, name, part.start, missing=missing)
        if out is not None:
            out[part] = one
        if gaps and (nan := checks.missing(rows[part], name)) is not None:
            out[part][nan] = np.nan
    if gaps and np.isnan(out).all():
        raise ValueError(f"{name} must have an entry that is not missing. Check that it is the file you mean.")
    return rows if out is None else out


def _read_npz(path: Path, *_: Any) -> dict[str, Any]:
    with path.open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        if isinstance(arrays, np.ndarray):
            raise ValueError("it holds a bare array; is it a .npy file?")
        names = [name for name in SPLITS if name in arrays]
        if "n_features" in arrays:
            width = _member(arrays, "n_features")
            if not names or width.shape != () or width.dtype.kind not in "iu" or width < 1:
                raise ValueError(f"it holds {', '.join(arrays)}, with n_features = {width}")
            return {name: _unpacked(_member(arrays, name), int(width), name) for name in names}
        if not names and len(arrays.files) != 1:
            raise ValueError(f"it holds {', '.join(arrays) or 'nothing'}")
        return {name: _member(arrays, name) for name in names} or {"train": _member(arrays, arrays.files[0])}


def _member(arrays: Any, name: str) -> NDArray[Any]:
    array = arrays[name]
    if not isinstance(array, np.ndarray):  # NumPy hands over the bytes of a member that is none
        raise ValueError(f"{name} in it is no array")
    return array


def _unpacked(packed: NDArray[Any], width: int, name: str) -> NDArray[np.uint8]:
    if packed.dtype != np.uint8 or packed.ndim != 2 or packed.shape[1] != -(-width // 8):
        raise ValueError(
            f"with n_features = {width}, {name} must be packed bits of shape (rows, {-(-width // 8)}) and dtype uint8, "
            f"got {packed.shape} of {packed.dtype}"
        )
    return np.unpackbits(packed, axis=1, count=width)


def _read_npy(path: Path, *_: Any) -> dict[str, Any]:
    with np.errstate(over="ignore"):  # a shape that is beyond all memory is then refused
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError("it holds several arrays; is it a .npz file?")
    return {"train": array}


def _read_text(path: Path, delimiter: str | None, missing: bool) -> dict[str, Any]:
    """Read lines of numbers: as uint8 if they are, which is quick and small, or else as float32."""
    options: dict[str, Any] = {
        "delimiter": delimiter,
        "skiprows": _header_lines(path, delimiter),
        "ndmin": 2,
        "encoding": "utf-8-sig",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # NumPy 1.26 warns when it cuts 0.5 to an integer; every version, of an empty file
        try:
            X = np.loadtxt(path, dtype=np.uint8, **options)
        except (ValueError, DeprecationWarning):
            try:
                X = np.loadtxt(path, dtype=np.float32, **options)
            except ValueError:
                if not missing:
                    raise
                X = np.loadtxt(path, dtype=np.float32, converters=_entry, **options)
    return {"train": X}


def _entry(text: str) -> float:
    return math.nan if text.strip() in MISSING else float(text)


def _header_lines(path: Path, delimiter: str | None) -> int:
    """Return how many lines come before the first row of numbers."""
    open_text: Callable[..., Any] = gzip.open if path.suffix.lower() == ".gz" else open
    with open_text(path, "rt", encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            fields = [field.strip() for field in line.split("#")[0].strip().split(delimiter)]
            if any(fields):
                numbered = len(fields) > 2 and fields == [str(d) for d in range(len(fields))]
                given = [field for field in fields if field not in MISSING]
                return number if numbered or (given and not any(map(_is_number, given))) else 0
    return 0


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _read_csv(path: Path, _: int | None, missing: bool) -> dict[str, Any]:
    return _read_text(path, ",", missing)


def _read_amat(path: Path, _: int | None, missing: bool) -> dict[str, Any]:
    return _read_text(path, None, missing)


def _read_libsvm(path: Path, n_features: int | None, _: bool) -> dict[str, Any]:
    from sklearn.datasets import load_svmlight_file

    return {"train": load_svmlight_file(str(path), n_features=n_features)[0]}


_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    TypeError,
    MemoryError,
    RuntimeError,
    lzma.LZMAError,
    SyntaxError,
    UserWarning,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What NumPy, zipfile, gzip and scikit-learn were seen to raise for files that are cut short, foreign or wrong."""

_NPZ = "arrays 'train', 'valid', 'test' or a single one; if there is a number 'n_features', they are packed bits"
_CSV = "rows of 0 and 1 of one length, separated by commas"
_AMAT = "rows of 0 and 1 of one length, separated by blanks"
_LIBSVM = "lines of the form 'label index:1 index:1', with rising indices"
_READERS: dict[str, tuple[Callable[[Path, int | None, bool], dict[str, Any]], str]] = {
    ".npz": (_read_npz, _NPZ),
    ".npy": (_read_npy, "one two-dimensional array"),
    ".csv": (_read_csv, _CSV),
    ".data": (_read_csv, _CSV),
    ".amat": (_read_amat, _AMAT),
    ".txt": (_read_amat, _AMAT),
    ".libsvm": (_read_libsvm, _LIBSVM),
    ".svm": (_read_libsvm, _LIBSVM),
    ".svmlight": (_read_libsvm, _LIBSVM),
}
FORMATS = tuple(_READERS)
"""Suffixes of the files that :func:`load` reads."""
