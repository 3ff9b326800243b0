"""Readers of files, one for each format: from a path to the tables in the file, by split, unchecked.

Nothing here unpickles. Not here: the checks of values, the same for all formats (``datasets.py``); text (``text.py``), columns
(``columns.py``).
"""

from __future__ import annotations

import gzip
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from made_fast.tables.packed import Packed
from made_fast.tables.reading import text
from made_fast.tables.reading.columns import Columns, Found, Options, narrow
from made_fast.tables.table import Table

__all__ = ["IN_MEMORY", "READERS", "STDIN", "Reader"]

SPLITS = {"train": ("train", "training"), "valid": ("valid", "val", "validation", "dev"), "test": ("test", "testing")}
IN_MEMORY = 1 << 22
"""Entries of a .parquet file that is read as a whole; of a larger one, rows may be packed, or read when they are worked on."""

BATCH = 1 << 20  # cells of a .parquet that are turned into numbers at a time


class Reader(NamedTuple):
    """A function that reads a format, the form of such a file in words, and whether it may be compressed by gzip."""

    read: Callable[[Path, Options], Found]
    form: str
    gzip: bool = False


def _read_npz(path: Path, options: Options) -> Found:
    with path.open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        if isinstance(arrays, np.ndarray):
            raise ValueError("it holds a bare array; is it a .npy file?")
        with closing(arrays):
            if any(member.flag_bits & 1 for member in arrays.zip.infolist()):
                raise ValueError("it is encrypted")
            if {"format", "shape", "data"} <= set(arrays.files):
                file.seek(0)
                return Found({"train": _sparse(file)})
            names, width = _split_names(arrays.files), None
            if "n_features" in arrays:
                n = _member(arrays, "n_features")
                if not names or n.shape != () or n.dtype.kind not in "iu" or n < 1:
                    raise ValueError(f"it holds {', '.join(arrays)}, with n_features = {n}")
                width = int(n)
            elif not names:
                if len(arrays.files) != 1:
                    raise ValueError(f"it holds {', '.join(arrays) or 'nothing'}")
                names = {"train": arrays.files[0]}
            splits = {split: _member(arrays, name, width) for split, name in names.items()}
            unused = [name for name in arrays.files if name not in (*names.values(), "n_features")]
    return Found(splits, notes=[f"arrays {', '.join(unused)} are not used"] if unused else [])


def _split_names(names: list[str]) -> dict[str, str]:
    """Return the name of the array of each split."""
    found = {split: [name for name in names if name.lower() in known] for split, known in SPLITS.items()}
    for called in found.values():
        if len(called) > 1:
            raise ValueError(f"it holds {called[0]} and {called[1]}, two names for one split")
    return {split: called[0] for split, called in found.items() if called}


def _member(arrays: Any, name: str, width: int | None = None) -> NDArray[Any]:
    """Return an array of the file; with a width, the bits that are packed in it."""
    array = arrays[name]
    if not isinstance(array, np.ndarray):  # NumPy returns the bytes of a member that is no array
        raise ValueError(f"{name} in it is no array")
    if width is None:
        return array
    n_bytes = -(-width // 8)
    if array.dtype != np.uint8 or array.ndim != 2 or array.shape[1] != n_bytes:
        demand = f"{name} must be packed bits of shape (rows, {n_bytes}) and dtype uint8"
        raise ValueError(f"with n_features = {width}, {demand}, got {array.shape} of {array.dtype}")
    return np.unpackbits(array, axis=1, count=width)


def _sparse(file: Any) -> Any:
    """Read a matrix that SciPy has saved, and check it before SciPy works on it."""
    from scipy.sparse import load_npz

    try:
        return Table.of(load_npz(file), name="the sparse matrix in it", min_rows=0).rows
    except (KeyError, AttributeError) as error:  # an array of the format is missing, or is no array
        raise ValueError(f"it holds no sound sparse matrix ({error})") from error


def _read_npy(path: Path, options: Options) -> Found:
    with np.errstate(over="ignore"):  # a shape beyond all memory is refused later
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError("it holds several arrays; is it a .npz file?")
    return Found({"train": array})


def _read_text(separators: tuple[str, ...], path: Path, options: Options) -> Found:
    opener: Any = gzip.open if path.suffix.lower() == ".gz" else open
    return text.read(lambda: opener(path, "rt", encoding="utf-8-sig"), str(path), separators, options)


def _read_stdin(_: Path, options: Options) -> Found:
    if sys.stdin is None:
        raise ValueError("it is closed")
    raw = getattr(sys.stdin, "buffer", sys.stdin).read()
    try:
        raw = raw if isinstance(raw, str) else raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError("it is no text in UTF-8") from error
    if "\0" in raw:
        raise ValueError("it is no text: it holds zero bytes")
    return text.read(lambda: io.StringIO(raw, newline=None), None, text.COMMAS, options)


def _read_libsvm(path: Path, options: Options) -> Found:
    """Read sparse rows. The options, the demanded width, or the file say whether indices count from 0 or from 1."""
    from sklearn.datasets import load_svmlight_file

    X = load_svmlight_file(str(path), zero_based=True)[0]
    n = None if options.n_features is None else options.n_features + len(set(options.drop))
    base, notes = options.index_base, []
    if len(X.indices):
        least, most = int(X.indices.min()), int(X.indices.max())
        if base is None and n is not None and least > 0 and most < n:
            found = f"its indices {least}..{most} may count the {n} columns from 0 or from 1"
            raise ValueError(f"{found}. Say which: --index-base 0 or 1")
        if base is None:
            base = min(least, 1)
            if base == 1 and n is None:
                notes.append("no index is 0, so they are taken to count from 1; if they count from 0, give --index-base 0")
        if least < base:
            raise ValueError("it has the index 0, but indices count from 1 (--index-base 1)")
        if n is not None and most - base >= n:
            raise ValueError(f"it has the index {most}, but the last of {n} columns is {n - 1 + base}, counted from {base}")
        X.indices -= base
        n = n or most - base + 1
    elif n is None and X.shape[0]:
        raise ValueError("it has no index at all")
    X = type(X)((X.data, X.indices, X.indptr), shape=(X.shape[0], n or 1))
    return Found({"train": X}, notes=notes, index_base=base)


def _read_parquet(path: Path, options: Options) -> Found:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError("this takes pyarrow, which is not installed. Run: pip install pyarrow") from error
    if int(pyarrow.__version__.split(".")[0]) < 15:  # before 14.0.1, a file could have it unpickle
        raise ValueError(f"pyarrow {pyarrow.__version__} is too old to read it safely. Run: pip install 'pyarrow>=15'")
    try:
        with path.open("rb") as stream, parquet.ParquetFile(stream, pre_buffer=False) as file:
            return _parquet_table(file, options)
    except pyarrow.ArrowException as error:
        raise ValueError(str(error)) from error


def _parquet_table(file: Any, options: Options) -> Found:
    import pyarrow

    schema = file.schema_arrow
    columns = Columns(len(schema.names), schema.names, options.drop)
    notes = []
    for j in list(columns.kept):
        if schema.names[j] in _index_names(schema) and len(columns.kept) > 1:
            columns.kept.remove(j)
            notes.append(f"{columns.describe(j)} is the data frame's index; it is left out")
    t = pyarrow.types
    numeric = (t.is_boolean, t.is_integer, t.is_floating, t.is_decimal, t.is_null)
    other = [j for j in columns.kept if not any(is_type(schema.types[j]) for is_type in numeric)]
    if other:
        found = f"{columns.describe(other[0])} holds {schema.types[other[0]]}"
        raise ValueError(f"{found}, no numbers. {columns.option(*other)} leaves out what is none")

    def blocks() -> Iterator[NDArray[Any]]:
        yield np.empty((0, len(columns.kept)), np.uint8)
        for batch in file.iter_batches(max(1, BATCH // len(schema.names)), use_threads=False):
            numbers = [
                batch.column(j).cast(pyarrow.float64(), safe=False).to_numpy(zero_copy_only=False) for j in columns.kept
            ]
            yield narrow(np.stack(numbers, axis=1))

    def tables() -> Iterator[Table]:
        first = 0
        for rows in blocks():
            table = Table(rows, "its table", first)
            table.ones(missing=True, columns=columns.kept_names(), setting="--threshold ")  # an error in the user's words
            yield table
            first += len(rows)

    large = file.metadata.num_rows * len(columns.kept) > IN_MEMORY and options.large and options.missing
    if large and options.threshold is None:
        return Found({"train": Packed.of_tables(tables())}, columns, notes)
    return Found({"train": np.concatenate(list(blocks()))}, columns, notes)


def _index_names(schema: Any) -> list[str]:
    """Return the columns that hold a data frame's index, by the notes of pandas."""
    about = schema.pandas_metadata
    names = about.get("index_columns") if isinstance(about, dict) else None
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


_ARRAYS = "arrays 'train', 'valid' (or 'val'), 'test', or a single one, or what scipy.sparse.save_npz writes; "
_ROWS = "rows of 0 and 1 of one length, separated by"
_CSV = Reader(partial(_read_text, text.COMMAS), f"{_ROWS} commas, semicolons or tabs", gzip=True)
_BLANKS = Reader(partial(_read_text, text.BLANKS), f"{_ROWS} blanks", gzip=True)
_LIBSVM = Reader(_read_libsvm, "lines of the form 'label index:1 index:1', with rising indices", gzip=True)

STDIN = Reader(_read_stdin, f"{_CSV.form}, as a .csv file does")

READERS = {  # by the end of the file's name
    ".npz": Reader(_read_npz, f"{_ARRAYS}if there is a number 'n_features', they are packed bits"),
    ".npy": Reader(_read_npy, "one two-dimensional array"),
    **dict.fromkeys((".csv", ".data"), _CSV),
    ".tsv": Reader(partial(_read_text, text.TABS), f"{_ROWS} tabs", gzip=True),
    **dict.fromkeys((".amat", ".txt"), _BLANKS),
    ".parquet": Reader(_read_parquet, "columns of 0 and 1, of any type of numbers"),
    **dict.fromkeys((".libsvm", ".svm", ".svmlight"), _LIBSVM),
}
