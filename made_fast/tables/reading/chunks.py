"""Tables that come in chunks of rows: where they come from, that all chunks are of one table, and what is made of them.

A chunk is read, packed and forgotten. What the columns are is learned from all rows, a few columns at a time, as from a table
in memory, so that a model is the same, bit for bit.

Not here: packed rows (``tables/packed.py``), what a chunk holds (``tables/table.py``, ``tables/columns``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from made_fast.tables import arguments, names
from made_fast.tables.arguments import shown
from made_fast.tables.columns import frames
from made_fast.tables.columns.encoder import Encoder
from made_fast.tables.columns.frames import Frame
from made_fast.tables.columns.values import Values, called
from made_fast.tables.packed import Packed
from made_fast.tables.sparse import is_sparse
from made_fast.tables.table import Table

__all__ = ["Chunks", "open_parquet", "require_pyarrow"]

CELLS = 1 << 20
"""Entries of a file that are read at once."""

LEARNED_AT_ONCE = 1 << 27
"""Bytes of columns that are learned in one pass over all chunks; one column at least."""

OF_A_TEXT = 64
"""Bytes that a text takes, about, beside the eight by which each row knows it."""

AGAIN = (
    "Pass a function that begins anew each time it is called: Chunks(lambda: pandas.read_csv(path, chunksize=100_000)), say."
)


class _Layout(NamedTuple):
    """What all chunks have in common."""

    kind: str
    names: tuple[str, ...] | None
    width: int
    dtype: Any


class _ColumnsFoundError(Exception):
    """A chunk is no table of 0/1."""


class Chunks:
    """A table larger than memory, or one that comes bit by bit: chunks of its rows, one after the other.

    ``MADE.fit`` and ``partial_fit`` take it for X and X_val: they keep the rows packed, a bit an indicator, and no chunk. The
    model is, bit for bit, that of the same table in memory. ``score_samples`` and ``impute`` of every model yield their
    result chunk by chunk.

    A fit takes the memory of the packed rows (``ceil(inputs / 64)`` times 8 bytes a row, and of columns 8 more, and of gaps
    ``ceil(columns / 64)`` times 8), of 64 MB, of a few chunks, and of the order of the rows, 8 bytes a row. While the columns
    are learned, before rows are packed, it is 128 MB and some 60 bytes a row. ``validation_fraction`` copies the packed rows;
    ``X_val`` does not.

    All chunks must have the same columns, with the same names and dtypes in the same order (of 0/1 any dtype), and come in the
    same order each time. Empty ones count as nothing.

    Parameters
    ----------
    source
        A .parquet file, by its path or as ``pyarrow.parquet.ParquetFile``; a ``pyarrow.dataset.Dataset``; a function without
        arguments that returns tables one by one, from the beginning each time; a list of tables, or anything else that begins
        anew when it is iterated over; or an iterator, such as a generator, which can be read once. Once is enough for rows of
        0/1; what other columns are must be learned before they are packed, and takes several passes. A table is whatever
        ``fit`` takes: an array, a data frame, ``scipy.sparse``, a dict of columns.
    rows : int, optional
        Most rows of a chunk of a file, by default as many as have a million entries.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError
        The source is none of these.

    Examples
    --------
    >>> import numpy as np
    >>> from made_fast import MADE, Chunks
    >>> X = np.repeat([[0, 0, 1, 1], [1, 1, 0, 0]], 50, axis=0)
    >>> chunks = Chunks(lambda: (X[start : start + 30] for start in range(0, 100, 30)))
    >>> made = MADE(hidden_sizes=(16,), max_epochs=2, random_state=0).fit(chunks)
    >>> [len(log_p) for log_p in made.score_samples(chunks)]
    [30, 30, 30, 10]
    """

    def __init__(self, source: Any, *, rows: int | None = None) -> None:
        self._rows = None if rows is None else arguments.count(rows, "rows")
        self._layout: _Layout | None = None
        self._n_rows: int | None = None
        self._spent = False
        self._open, self.again, self._projects = self._source(source)
        self._called = shown(source) if isinstance(source, str | os.PathLike) else type(source).__name__

    def __repr__(self) -> str:
        return f"Chunks({self._called})"

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(
            "chunks are for MADE.fit, MADE.partial_fit, score_samples and impute; all else is asked of a table in memory, "
            "each chunk, say"
        )

    def _source(self, source: Any) -> tuple[Callable[[Sequence[str] | None], Iterable[Any]], bool, bool]:
        """Return what begins a pass, whether it can more than once, and whether it reads only the columns it is asked for."""
        if isinstance(source, str | bytes | os.PathLike):
            path = Path(arguments.path(source, "source"))
            if not path.exists():
                raise FileNotFoundError(f"{path}: no such file.")
            if path.suffix.lower() != ".parquet" or not path.is_file():
                raise ValueError(
                    f"source must be a .parquet file, got {path}. Of a folder, pass pyarrow.dataset.dataset(folder); of text, "
                    "a function that reads it in chunks: Chunks(lambda: pandas.read_csv(path, chunksize=100_000))."
                )
            return lambda columns: self._of_file(path, columns), True, True
        library = type(source).__module__.partition(".")[0]
        if library == "pyarrow" and hasattr(source, "iter_batches"):
            return lambda columns: self._of_parquet(source, columns), True, True
        if library == "pyarrow" and hasattr(source, "to_batches") and hasattr(source, "scanner"):
            return lambda columns: self._of_dataset(source, columns), True, True
        if callable(source):
            return lambda columns: source(), True, False
        is_iterator = hasattr(source, "__next__")
        if not is_iterator and (isinstance(source, Mapping) or hasattr(source, "shape") or not hasattr(source, "__iter__")):
            raise TypeError(
                "source must be a .parquet file, a Dataset, a function that returns tables one by one, or tables to iterate "
                f"over, got {type(source).__name__}. A table that is in memory is passed as it is."
            )
        return lambda columns: source, not is_iterator, False

    def _of_file(self, path: Path, columns: Sequence[str] | None) -> Iterator[Any]:
        with open_parquet(path) as file:
            yield from self._of_parquet(file, columns)

    def _of_parquet(self, file: Any, columns: Sequence[str] | None) -> Iterator[Any]:
        from pyarrow import Table as Arrow

        rows = self._rows or max(1, CELLS // max(1, len(file.schema_arrow.names)))
        for batch in file.iter_batches(rows, columns=columns, use_threads=False):
            yield Arrow.from_batches([batch])

    def _of_dataset(self, dataset: Any, columns: Sequence[str] | None) -> Iterator[Any]:
        from pyarrow import Table as Arrow

        rows = self._rows or max(1, CELLS // max(1, len(dataset.schema.names)))
        options = {"batch_size": rows, "batch_readahead": 1, "fragment_readahead": 1, "use_threads": False}
        for batch in dataset.to_batches(columns=columns, **options):
            yield Arrow.from_batches([batch])

    @property
    def names(self) -> tuple[str, ...] | None:
        """The names of the columns, once a chunk has been read."""
        return None if self._layout is None else self._layout.names

    @property
    def width(self) -> int:
        """The number of columns, once a chunk has been read."""
        return self._known.width

    @property
    def _known(self) -> _Layout:
        assert self._layout is not None  # a chunk has been read
        return self._layout

    def tables(self, name: str = "X", columns: Sequence[str] | None = None) -> Iterator[tuple[str, Any, Frame | None]]:
        """Make a pass: yield what error texts call each chunk, the chunk, and its frame if it may have columns of any kind.

        Raises ValueError or TypeError for a chunk that is not like the first one, if there are no rows, if there are more or
        fewer than in the last pass, and for a second pass where there is only one. ``columns``: only these are needed.
        """
        if self._spent:
            raise ValueError(
                f"{name} must be chunks that can be read more than once, got an iterator, which was read. {AGAIN}"
            )
        self._spent = not self.again
        passed = self._open(columns if self._projects else None)
        if not hasattr(passed, "__iter__") or hasattr(passed, "shape") or isinstance(passed, Mapping):
            raise TypeError(
                f"{name} must be chunks, one after the other, got {type(passed).__name__} from its source. {AGAIN}"
            )
        number, n = -1, 0
        chunks: Any = iter(passed)
        with closing(chunks) if hasattr(chunks, "close") else nullcontext():
            for number, chunk in enumerate(chunks):
                label = f"chunk {number} of {name}"
                if getattr(chunk, "shape", (1,))[:1] == (0,):
                    continue
                plain = is_sparse(chunk) or (isinstance(chunk, np.ndarray) and chunk.ndim == 2)
                frame = None if plain else frames.read(chunk, label, 0)
                n_rows = len(chunk) if isinstance(chunk, np.ndarray) else (frame or chunk).shape[0]
                if columns is None or not self._projects:
                    self._check(label, chunk, frame)
                if n_rows:
                    yield label, chunk, frame
                    n += n_rows
        if not n:
            found = f"{number + 1} without any" if number >= 0 else "no chunk"
            raise ValueError(f"{name} must have at least 1 row, got {found}. Check what its source returns.")
        if self._n_rows not in (None, n):
            raise ValueError(f"{name} must have the same rows each time it is read, got {self._n_rows}, then {n}. {AGAIN}")
        self._n_rows = n

    def _check(self, label: str, chunk: Any, frame: Frame | None) -> None:
        """Refuse a chunk whose columns are not those of the first one."""
        if frame is None:
            plain = isinstance(chunk, np.ndarray) and not chunk.dtype.hasobject
            found = _Layout("array", None, chunk.shape[1], chunk.dtype if plain else None)
        else:
            found = _Layout(frame.kind, frame.names, frame.shape[1], frame.dtype)
        first = self._layout = self._layout or found
        if found.kind != first.kind:
            raise TypeError(f"{label} must be a table like those before it, {first.kind}, got {found.kind}. Convert it.")
        ours, theirs = first.names or (), found.names or ()
        lacks, more = [name for name in ours if name not in theirs], [name for name in theirs if name not in ours]
        if lacks or more:
            words = [
                f"it {what} {', '.join(map(shown, which[:5]))}{' ...' if which[5:] else ''}"
                for what, which in (("lacks", lacks), ("has beside them", more))
                if which
            ]
            raise ValueError(
                f"{label} must have the columns of those before it: {'; '.join(words)}. Select the columns where it is read."
            )
        if found.width != first.width:
            raise ValueError(f"{label} must have {first.width} columns, as those before it, got {found.width}.")
        for own, other in zip(ours, theirs, strict=True):
            if own != other:
                raise ValueError(
                    f"{label} must have its columns in the order of those before it, got {shown(other)} in the place of "
                    f"{shown(own)}. Select them in this order where it is read."
                )

    def binary(
        self,
        binarize: float | None = None,
        n_features: int | None = None,
        *,
        name: str = "X",
        feature_names: Sequence[str] | None = None,
        has_columns: Callable[[Any], bool] | None = None,
    ) -> Packed | None:
        """Make a pass and return all rows packed, as ``Table.of`` checks them; None if a chunk ``has_columns``."""

        def rows() -> Iterator[Table]:
            for label, chunk, _ in self.tables(name):
                if has_columns is not None and has_columns(chunk):
                    raise _ColumnsFoundError
                table = Table.of(chunk, n_features, name=label, feature_names=feature_names)
                names.check_different(self.names)
                yield table

        try:
            return Packed.of_tables(rows(), binarize, name)
        except _ColumnsFoundError:
            return None

    def coded(self, encoder: Encoder, *, name: str = "X") -> Packed:
        """Make a pass and return all rows packed as the indicators of their codes."""
        return Packed.of_tables(
            (
                encoder.encode(chunk if frame is None else frame, name=label, within=True)
                for label, chunk, frame in self.tables(name)
            ),
            name=name,
        )

    def frame(self, name: str = "X") -> Frame:
        """Return the whole table as a frame, whose columns are read when they are asked for, the first one first."""
        columns = _Columns(self, name)
        columns.read(0)
        kind, own, width, dtype = self._known
        assert self._n_rows is not None
        return Frame(kind, name, own, (self._n_rows, width), lambda j, label: columns.column(j), dtype)

    def check_again(self, name: str = "X") -> None:
        """Refuse chunks that can be read only once."""
        if not self.again:
            raise ValueError(
                f"{name} must be chunks that can be read more than once, for what its columns are is learned before they are "
                f"packed, got an iterator. {AGAIN}"
            )


def require_pyarrow(path: Path) -> None:
    """Raise ValueError if a .parquet file can be neither read nor written."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise ValueError(f"{path} takes pyarrow, which is not installed. Run: pip install pyarrow") from error


@contextmanager
def open_parquet(path: Path) -> Iterator[Any]:
    """Open a .parquet file, whose pages are then read one after the other; OSError, or ValueError for what is none."""
    require_pyarrow(path)
    import pyarrow
    from pyarrow import parquet

    try:
        with path.open("rb") as stream, parquet.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20) as file:
            yield file
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


@dataclass
class _Columns:
    """The columns of a table in chunks, a few at a time: as many as ``LEARNED_AT_ONCE``, in one pass."""

    chunks: Chunks
    name: str
    found: dict[int, Values] = field(default_factory=dict)
    at_once: int | None = None

    def column(self, j: int) -> Values:
        """Return column j; it is not kept."""
        if j not in self.found:
            self.found.clear()
            self.read(j)
        return self.found.pop(j)

    def read(self, first: int) -> None:
        """Read column ``first``, and those after it as far as they fit."""
        parts: dict[int, _Parts] | None = None
        size = 0
        known = self.chunks.names
        some = None if known is None or self.at_once is None else known[first : first + self.at_once]
        for label, chunk, frame in self.chunks.tables(self.name, some):
            frame = frames.read(chunk, label) if frame is None else frame
            projected = frame.shape[1] == len(some or ()) and frame.names == some
            start = first if projected else 0
            if parts is None:
                stop = start + frame.shape[1]
                parts = {j: _Parts() for j in range(first, stop if self.at_once is None else min(stop, first + self.at_once))}
            for j, own in parts.items():
                size += own.add(frame.column(j - start), frame.name, frame.label(j - start))
            while size > LEARNED_AT_ONCE and len(parts) > 1:
                size -= parts.popitem()[1].size
        assert parts is not None  # there are rows
        self.at_once = len(parts)
        for j in list(parts):
            self.found[j] = parts.pop(j).whole()


@dataclass
class _Parts:
    """The parts of a column, and how many bytes they take; equal texts share memory."""

    values: list[Values] = field(default_factory=list)
    texts: dict[Any, Any] = field(default_factory=dict)
    size: int = 0
    of: Values | None = None  # the first part of which the type is known

    def add(self, part: Values, name: str, label: str | int) -> int:
        """Take the values of the next chunk, and return how many bytes that takes; TypeError for those of another dtype."""
        first = self.of or (self.values[0] if self.values else part)
        untold = "null" in (first.base, part.base)
        about = (part.native, part.categories, part.ordered, None if untold else part.values.dtype)
        if about != (first.native, first.categories, first.ordered, None if untold else first.values.dtype):
            differs = part.native != first.native or part.values.dtype != first.values.dtype
            ours, theirs = (_dtype(each) if differs else f"{each.native} of other categories" for each in (first, part))
            raise TypeError(
                f"{name} must have columns of the dtypes of the chunks before it, got {theirs} for {ours} in {called(label)}. "
                "Say the dtype where it is read: dtype= of pandas.read_csv, say, or .astype()."
            )
        n_texts = len(self.texts)
        if part.base == "text":
            texts = self.texts
            values = np.array([None, *(texts.setdefault(text, text) for text in part.values)], object)[1:]
            part = part._replace(values=values)
        if self.of is None and part.base != "null":
            self.of = part
        self.values.append(part)
        size = part.values.nbytes + part.null.nbytes + OF_A_TEXT * (len(self.texts) - n_texts)
        self.size += size
        return size

    def whole(self) -> Values:
        """Return the column."""
        of = self.of or self.values[0]
        if of.base != "text":  # a part of nothing but None has objects
            for i, part in enumerate(self.values):
                if part.values.dtype != of.values.dtype:
                    self.values[i] = part._replace(values=np.zeros(len(part.null), of.values.dtype))
        null = np.concatenate([part.null for part in self.values])
        return of._replace(values=np.concatenate([part.values for part in self.values]), null=null)


def _dtype(values: Values) -> str:
    plain = values.base != "text" and values.native == str(values.values.dtype)
    return values.native if plain else f"{values.native} ({values.base})"
