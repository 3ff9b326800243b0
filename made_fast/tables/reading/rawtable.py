"""Raw tables for the command line: a file's columns of numbers and text, and which files hold such.

Not here: text (``csvtable.py``), files of 0/1 rows (``datasets.py``), what the columns mean (``tables/columns``).
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from made_fast.tables import arguments
from made_fast.tables.arguments import shown
from made_fast.tables.choices import SPLITS
from made_fast.tables.columns import frames
from made_fast.tables.columns.values import Values, column_number
from made_fast.tables.reading import csvtable, formats
from made_fast.tables.reading.chunks import Chunks, open_parquet

__all__ = [
    "AnyRows",
    "FileRows",
    "RawTable",
    "Rows",
    "chosen",
    "holds_a_table",
    "labels",
    "length",
    "load",
    "n_missing",
    "named",
    "parted",
    "parts",
    "split",
    "taken",
]

TEXT = (".csv", ".data", ".tsv", ".txt")
PARQUET = ".parquet"
BINARY = frozenset(("0", "1", "0.0", "1.0", "true", "false"))

Rows: TypeAlias = "dict[str, NDArray[Any]]"
"""Columns (n,) by name."""


class FileRows(Chunks):
    """Rows of a .parquet file that stay there, and come in parts: columns by name, as of a table in memory.

    ``rows`` are the numbers of some, in ascending order; None: all.
    """

    def __init__(self, path: Path, labels: Sequence[str], n_rows: int, rows: NDArray[np.intp] | None = None) -> None:
        super().__init__(path)
        self.path, self.labels, self._in_file, self._some = path, tuple(labels), n_rows, rows

    def __len__(self) -> int:
        return self._in_file if self._some is None else len(self._some)

    def take(self, rows: NDArray[np.intp]) -> FileRows:
        """Return some of the rows, by their numbers in ascending order."""
        return FileRows(self.path, self.labels, self._in_file, rows if self._some is None else self._some[rows])

    def _of_file(self, path: Path, columns: Sequence[str] | None) -> Iterator[Rows]:
        first = 0
        for table in super()._of_file(path, list(self.labels if columns is None else columns)):
            part, stop = table, first + len(table)
            if self._some is not None:
                begin, end = np.searchsorted(self._some, (first, stop))
                part = table.take(self._some[begin:end] - first)
            if len(part):
                read = frames.read(part, str(path)).items()
                yield {
                    str(name): values.masked()
                    if values.base in ("text", "null")
                    else np.ma.array(values.values, mask=values.null)
                    for name, values in read
                }
            first = stop

    @cached_property
    def n_missing(self) -> int:
        """The number of missing entries."""
        return sum(n_missing(part) for part in parts(self))


AnyRows: TypeAlias = "Rows | FileRows"


@dataclass(frozen=True)
class RawTable:
    """A table as columns by name, in up to three splits."""

    name: str
    train: AnyRows
    valid: AnyRows | None = None
    test: AnyRows | None = None

    @property
    def splits(self) -> dict[str, AnyRows]:
        """The splits that there are, by name."""
        return {name: rows for name in SPLITS if (rows := getattr(self, name)) is not None}


def holds_a_table(source: str, header: str = "auto", drop: Sequence[str] = ()) -> bool:
    """Return whether a file is a table with a column that is not 0/1, by the first records; False for what is none.

    A column counts if more than half of its values are neither 0 nor 1: a stray one among them is a mistake in a file of 0/1.
    """
    path = Path(source)
    suffix = _suffix(path)
    if source in ("-", "digits") or not path.is_file() or suffix not in (*TEXT, PARQUET):
        return False
    try:
        if suffix == PARQUET:
            columns = {name: list(map(str, values[:100])) for name, values in _parquet(path, 100).items()}
        else:
            columns = csvtable.first_cells(path, header=header)
    except (ValueError, OSError):
        return False  # the reader of 0/1 rows says what is wrong
    dropped = {name for name in columns if name in drop or str(list(columns).index(name)) in drop}
    for name, cells in columns.items():
        there = [cell.lower() for cell in cells if cell.lower() not in csvtable.GAPS]
        if name not in dropped and 2 * sum(cell not in BINARY for cell in there) > len(there):
            return True
    return False


def load(source: str, *, header: str = "auto", drop: Sequence[str] = (), large: bool = False) -> RawTable:
    """Read a table: a text file, also with .gz, a .parquet, or "-" for text on standard input.

    With ``large``, the rows of a .parquet of more than ``formats.IN_MEMORY`` entries stay in the file. ``drop`` are names or
    numbers of columns to leave out. Raises OSError, or ValueError, one line, for what is no table.
    """
    if source == "-":
        with tempfile.NamedTemporaryFile(suffix=".csv") as copy:
            shutil.copyfileobj(sys.stdin.buffer, copy)
            copy.flush()
            try:
                found = _without_index(csvtable.read_table(copy.name, header=header))
            except ValueError as error:
                raise ValueError(str(error).replace(copy.name, "standard input")) from error
        return RawTable("stdin", _without(found, drop, "standard input"))
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file.")
    suffix = _suffix(path)
    if not path.is_file() or suffix not in (*TEXT, PARQUET):
        demand = f"must be a file of rows whose name ends in one of {', '.join((*TEXT, PARQUET))}; text also with .gz"
        raise ValueError(f"{path} {demand}. Convert or rename it.")
    rows: AnyRows
    if suffix == PARQUET and large and (there := _stays(path, drop)) is not None:
        rows = there
    else:
        found = _parquet(path) if suffix == PARQUET else _without_index(csvtable.read_table(path, header=header))
        rows = _without(found, drop, str(path))
    name = os.fsencode(path.name.split(".")[0]).decode("utf-8", "backslashreplace")
    return RawTable(name, rows)


def _stays(path: Path, drop: Sequence[str]) -> FileRows | None:
    """Return the rows of a file that is too large for memory, None for another one."""
    with open_parquet(path) as file:
        n_rows, names = file.metadata.num_rows, file.schema_arrow.names
    if n_rows * len(names) <= formats.IN_MEMORY or len(set(names)) < len(names):
        return None
    return FileRows(path, list(_without(dict.fromkeys(names, np.empty(0)), drop, str(path))), n_rows)


def labels(rows: AnyRows) -> tuple[str, ...]:
    """Return the names of columns."""
    return rows.labels if isinstance(rows, FileRows) else tuple(rows)


def length(rows: AnyRows) -> int:
    """Return the number of rows."""
    return len(rows) if isinstance(rows, FileRows) else len(next(iter(rows.values())))


def parts(rows: AnyRows) -> Iterator[Rows]:
    """Yield rows part by part: those in memory as they are."""
    if isinstance(rows, FileRows):
        yield from (part for _, part, _ in rows.tables(str(rows.path)))
    else:
        yield rows


def taken(rows: AnyRows, numbers: NDArray[np.intp]) -> Rows:
    """Return some rows, by their numbers in ascending order, in memory."""
    if not isinstance(rows, FileRows):
        return {label: column[numbers] for label, column in rows.items()}
    found = list(parts(rows.take(numbers)))
    join: Any = np.ma.concatenate
    return {label: join([part[label] for part in found]) for label in rows.labels}


def n_missing(rows: AnyRows) -> int:
    """Return the number of missing entries of columns."""
    if isinstance(rows, FileRows):
        return rows.n_missing
    return sum(int(values.null.sum()) for _, values in frames.read(rows).items())


def chosen(rows: Rows, columns: Sequence[str], what: str) -> Rows:
    """Return some columns, by their names; ValueError, which calls the source of these ``what``, for one that is not there."""
    names = list(rows)
    return {name: rows[name] for name in (names[column_number(column, names, what)] for column in columns)}


def parted(rows: Rows, context: Sequence[str], label: str, what: str) -> tuple[Rows, Rows | None]:
    """Return the columns that are modelled, and those of a context, by their names; None if it has no columns.

    Raises ValueError, which calls the source of the names ``what``, for columns that ``label`` lacks, and if none is left.
    """
    given = chosen(rows, context, what)
    rest = {name: values for name, values in rows.items() if name not in given}
    if not rest:
        raise ValueError(
            f"{label} must have a column beside those of the context, got {shown(', '.join(context))}, all of its."
        )
    return rest, given or None


def named(columns: Sequence[str], rows: Rows, what: str) -> tuple[str, ...]:
    """Return the names of the columns that a user calls by name or, if none has that name, by number, each once."""
    names = list(rows)
    labels = (int(column) if column.isdigit() and column not in names else column for column in columns)
    return tuple(dict.fromkeys(names[column_number(label, names, what)] for label in labels))


def split(table: RawTable, *, valid: float | None, test: float | None, seed: int = 0) -> RawTable:
    """Take rows for validation and test out of those for training, a fraction each, the same ones every time."""
    n = length(table.train)
    shares = {"valid": valid, "test": test}
    counts = [0 if f is None else max(1, round(arguments.fraction(f, name) * n)) for name, f in shares.items()]
    if not any(counts):
        return table
    if sum(counts) >= n:
        found = f"{n} rows to share with {counts[0]} for validation and {counts[1]} for test"
        raise ValueError(f"{table.name} must keep at least 1 training row, got {found}. Lower the fractions.")
    permuted = np.split(np.random.default_rng(seed).permutation(n), np.cumsum(counts))
    chosen: dict[str, Any] = {}
    for name, part in zip(("valid", "test", "train"), permuted, strict=True):
        if len(part):
            own = np.sort(part)
            chosen[name] = table.train.take(own) if isinstance(table.train, FileRows) else taken(table.train, own)
    return replace(table, **chosen)


def _of_one_dtype(values: Values) -> NDArray[Any]:
    """Return the values of a column in an array whose dtype does not depend on whether some are missing."""
    return values.masked() if values.base in ("text", "null") else np.ma.array(values.values, mask=values.null)


def _suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compressed = suffixes[-1:] == [".gz"]
    return suffixes[-2 if compressed else -1] if len(suffixes) > compressed else ""


def _without_index(rows: Rows) -> Rows:
    """Return columns without a first one that has no name, where others have, and counts the rows."""
    (first, counts), *others = rows.items()
    unnamed = first == "x0" and others and others[0][0] != "x1" and counts.dtype.kind == "i"
    if unnamed and any(np.array_equal(counts, np.arange(start, start + len(counts))) for start in (0, 1)):
        return dict(others)
    return rows


def _without(rows: Rows, drop: Sequence[str], label: str) -> Rows:
    gone = named(drop, rows, "--drop")
    kept = {name: values for name, values in rows.items() if name not in gone}
    if not kept:
        raise ValueError(f"{label} must keep a column, got {shown(', '.join(drop))} to leave out, which are all.")
    return kept


def _parquet(path: Path, most: int | None = None) -> Rows:
    with open_parquet(path) as file:
        table = file.read() if most is None else next(file.iter_batches(most), None)
    if table is None:
        raise ValueError(f"{path} must hold rows, got none.")
    return {str(name): values.masked() for name, values in frames.read(table, str(path)).items()}
