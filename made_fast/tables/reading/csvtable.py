"""A raw CSV of the world as columns of numbers and text, and columns as a CSV that reads back to the same values.

Separators are commas, semicolons, tabs or bars, quotes are double or single ones; there may be a byte order mark, a line
``sep=;``, gzip, decimal commas (where commas do not separate), blanks around cells, and names in the first line or not. Where
only some cells are in quotes, what is in them is text: "NA" is a word then, and "12" no number.

Not here: files of 0/1 rows (``text.py``), what the columns mean (``tables/columns``).
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from math import nan
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from made_fast.system import durable
from made_fast.tables import arguments
from made_fast.tables.choices import HEADER
from made_fast.tables.reading.columns import shown
from made_fast.tables.reading.text import GAPS, QUOTED_LINES

__all__ = ["GAPS", "first_cells", "read_table", "write_table"]

SEPARATORS = (";", ",", "\t", "|")  # the first of them that cuts the first records alike is meant
TEXT_GAPS = frozenset(("", "?", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None", "<NA>"))  # in a column of text
PEEK = 100  # records that show the layout
CHUNK = 1 << 18  # cells that are worked on at once
REMEMBERED = 1 << 16  # most texts whose numbers are remembered
INT = re.compile(r"[+-]?(0|[1-9][0-9]*)")
NUMBER = re.compile(r"[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?inf", re.I)  # 007 is a code
DECIMAL_COMMA = re.compile(r"[+-]?(0|[1-9][0-9]*),[0-9]+([eE][+-]?[0-9]+)?")
SINGLE_QUOTED = re.compile(r"(?:^|[,;\t|]) *'[^']*' *(?:[,;\t|]|\r?$)", re.M)


class _Quoted(str):
    """A cell that was in quotes."""

    __slots__ = ()


class _Record(NamedTuple):
    line: int  # number of its first line, counted from 1
    cells: list[str]


class _Layout(NamedTuple):
    separator: str
    quote: str
    names: list[str] | None
    width: int
    all_quoted: bool  # in which case quotes do not tell text from numbers


class _FlawError(ValueError):
    """What is wrong with a file."""


class _IsTextError(Exception):
    """A column that began with numbers goes on with text."""


def read_table(path: str | PathLike[str], *, header: str = "auto") -> dict[str, NDArray[Any]]:
    """Return the columns of a table in a text file by name (x0, x1, ... without names).

    Whole numbers are int64, other numbers float64 with NaN for missing ones, text is objects with None. ``header`` says
    whether the first line has names: with "auto", if it is text above numbers, or all is text and it is not also below.
    Raises ValueError, one line with the number of the line, for what is no table.
    """
    arguments.choice(header, "header", HEADER)
    file = Path(path)
    try:
        layout = _layout(file, header)
        as_text: set[int] = set()
        while True:
            try:
                return _columns(file, layout, as_text)
            except _IsTextError as found:
                as_text.add(found.args[0])
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be text in UTF-8, got other bytes. Save it as CSV in UTF-8.") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} must be a whole gzip file, got one that is cut off or broken ({error}).") from error
    except _FlawError as error:
        raise ValueError(f"{path} must be a table, rows of cells: {error}.") from error


def first_cells(path: str | PathLike[str], *, header: str = "auto") -> dict[str, list[str]]:
    """Return the cells of the first records by column; raises ValueError for what is no table."""
    file = Path(path)
    try:
        layout = _layout(file, header)
        records = islice(_records(file, layout.separator, layout.quote), PEEK)
        rows = [record.cells for record in records][0 if layout.names is None else 1 :]
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error, _FlawError) as error:
        raise ValueError(f"{path} must be a table, rows of cells: {error}.") from error
    names = layout.names or [""] * layout.width
    columns = zip(*(row for row in rows if len(row) == layout.width), strict=True)
    return {name or f"x{j}": list(cells) for j, (name, cells) in enumerate(zip(names, columns, strict=True))}


def _open(path: Path) -> TextIO:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    opener: Any = gzip.open if packed else open
    return opener(path, "rt", encoding="utf-8-sig", newline="")  # type: ignore[no-any-return]


def _records(path: Path, separator: str, quote: str) -> Iterator[_Record]:
    """Cut a text into records, without blank lines."""
    blanks, sep = "[ ]*" if separator == "\t" else r"[ \t]*", re.escape(separator)
    inside = f"[^{quote}]*(?:{quote}{quote}[^{quote}]*)*"
    in_quotes = re.compile(rf"{blanks}{quote}({inside}){quote}{blanks}({sep}|\r?\n|\r|\Z)")
    bare = re.compile(rf"([^{sep}\r\n]*)({sep}|\r?\n|\r|\Z)")
    opened = re.compile(rf"{blanks}{quote}{inside}\Z")
    with _open(path) as lines:
        numbered = enumerate(lines, start=1)
        for number, line in numbered:
            if "\0" in line:
                raise _FlawError(f"line {number} holds a zero byte")
            if not line.strip(" \r\n") or (number == 1 and re.fullmatch(r"sep=.[\r\n]*", line)):  # which is for Excel
                continue
            if quote not in line:
                yield _Record(number, list(map(str.strip, line.rstrip("\r\n").split(separator))))
                continue
            last = number
            while (cells := _cut(line, in_quotes, bare, opened, quote)) is None:
                last, more = next(numbered, (0, ""))
                if not more or last - number >= QUOTED_LINES:
                    raise _FlawError(f"line {number} opens a quote that is never closed")
                line += more
            yield _Record(number, cells)


def _cut(
    text: str, in_quotes: re.Pattern[str], bare: re.Pattern[str], opened: re.Pattern[str], quote: str
) -> list[str] | None:
    """Cut a record with quotes into cells; None if a quote is still open."""
    cells: list[str] = []
    at = 0
    while True:
        if found := in_quotes.match(text, at):
            cells.append(_Quoted(found[1].replace(2 * quote, quote)))
        elif opened.match(text, at):
            return None
        else:
            found = bare.match(text, at)
            assert found is not None  # it matches anything
            cells.append(found[1].strip())
        at = found.end()
        if found[2][:1] in ("", "\r", "\n"):
            return cells


def _layout(path: Path, header: str) -> _Layout:
    """Find separator, quotes and names in the first records."""
    with _open(path) as lines:
        start = "".join(islice(lines, PEEK))
    if not start.strip():
        raise _FlawError("it holds no data")
    quote = "'" if '"' not in start and SINGLE_QUOTED.search(start) else '"'
    tabs = path.name.removesuffix(".gz").endswith(".tsv")
    heads: dict[str, list[_Record]] = {}
    flaw = _FlawError("it holds no data")
    for separator in ("\t", *SEPARATORS) if tabs else SEPARATORS:
        try:
            heads[separator] = list(islice(_records(path, separator, quote), PEEK))
        except _FlawError as error:  # with another separator there may be none
            flaw = error
    alike = next((separator for separator, head in heads.items() if _agree(head)), None)
    separator = alike or max(heads, key=lambda s: (len(heads[s][0].cells) if heads[s] else 0, s == ","), default="")
    if not separator or not heads[separator]:
        raise flaw
    head = heads[separator]
    named = header == "yes" or (header == "auto" and _is_header(head, separator))
    rows = head[1:] if named else head
    if not rows:
        raise _FlawError("it holds no data below its names")
    names, width = list(map(str, head[0].cells)) if named else None, len(rows[0].cells)
    if names is not None and len(names) == width - 1:  # the first column is an index, as R writes it, or each row ends so
        names = [*names, ""] if all(not row.cells[-1] for row in rows) else ["", *names]
    if names is not None and len(names) != width:
        raise _FlawError(f"line {rows[0].line} has {width} cells, but there are {len(names)} names in line {head[0].line}")
    in_quotes = [type(cell) is _Quoted for row in rows for cell in row.cells if cell.lower() not in GAPS]
    return _Layout(separator, quote, names, width, all(in_quotes))


def _agree(head: list[_Record]) -> bool:
    """Return whether the first records have the same number of cells; the first may have one less, as R writes names."""
    counts = [len(record.cells) for record in head]
    return bool(counts) and counts[-1] > 1 and set(counts[1:]) <= {counts[-1]} and counts[0] in (counts[-1], counts[-1] - 1)


def _is_header(head: list[_Record], separator: str) -> bool:
    """Return whether the first record has names."""
    first, rows = head[0].cells, [record.cells for record in head[1:]]
    given = [cell for cell in first if cell.lower() not in GAPS]
    if not given or any(_is_number(cell, separator) for cell in given):
        counting = [str(number) for number in range(len(first))]  # as pandas calls columns without names
        return (
            len(first) > 2
            and (first == counting or first[1:] == counting[:-1] or first[1:] == counting[1:])
            and first[0] in ("", "0")
        )
    again = False
    for name, *cells in zip(first, *(row for row in rows if len(row) == len(first)), strict=True):
        below = [cell for cell in cells if cell.lower() not in GAPS]
        if name.lower() not in GAPS and below and all(_is_number(cell, separator) for cell in below):
            return True
        again |= name in below
    return not again


def _is_number(cell: str, separator: str) -> bool:
    return bool(NUMBER.fullmatch(cell) or (separator != "," and DECIMAL_COMMA.fullmatch(cell)))


def _columns(path: Path, layout: _Layout, as_text: set[int]) -> dict[str, NDArray[Any]]:
    """Read all columns. Those in ``as_text`` hold text; raises _IsTextError for another that turns out to do so late."""
    width, names = layout.width, layout.names
    blocks: list[list[NDArray[Any]]] = [[] for _ in range(width)]
    same: list[dict[str, str]] = [{} for _ in range(width)]  # equal texts share memory
    numbers: list[dict[str, float | int]] = [{} for _ in range(width)]
    records = _records(path, layout.separator, layout.quote)
    if names is not None:
        next(records)
    while chunk := list(islice(records, 1 + CHUNK // width)):
        for record in chunk:
            if len(record.cells) != width:
                found = f"the number of cells changes from {width} to {len(record.cells)} in line {record.line}"
                raise _FlawError(
                    f"{found}. Give every line as many, or put cells with {shown(layout.separator)} in them in quotes"
                )
        for j, cells in enumerate(zip(*(record.cells for record in chunk), strict=True)):
            found_numbers = None if j in as_text else _numbers(cells, layout, numbers[j])
            if found_numbers is None and j not in as_text:
                as_text.add(j)
                if any((block == block).any() for block in blocks[j]):  # not only missing ones so far
                    raise _IsTextError(j)
                blocks[j] = [np.full(len(block), None, object) for block in blocks[j]]
            blocks[j].append(_text(cells, layout, same[j]) if found_numbers is None else found_numbers)
    labels = [name or f"x{j}" for j, name in enumerate(names or [""] * width)]
    columns = [np.concatenate(each) for each in blocks]
    if width > 1 and not (names and names[-1]) and columns[-1].dtype == np.float64 and np.isnan(columns[-1]).all():
        labels, columns = labels[:-1], columns[:-1]  # every line ends with a separator
    if len(set(labels)) < len(labels):
        twice = next(name for j, name in enumerate(labels) if name in labels[:j])
        raise _FlawError(
            f"two columns are called {shown(twice)}. Rename one of them; header 'no' takes the first line for a row"
        )
    return dict(zip(labels, columns, strict=True))


def _numbers(cells: Sequence[str], layout: _Layout, seen: dict[str, float | int]) -> NDArray[Any] | None:
    """Return cells as int64, or as float64 if some are missing or no whole numbers; None if there is text."""
    values: list[float | int] = []
    comma = layout.separator != ","
    words = False  # such as "NA" in quotes
    for cell in cells:
        if type(cell) is _Quoted and not layout.all_quoted:
            if cell.lower() not in GAPS:
                return None
            words = True
        value = seen.get(cell)
        if value is None:
            if cell.lower() in GAPS:
                value = nan
            elif INT.fullmatch(cell) and len(cell) < 400:
                value = int(cell)
            elif NUMBER.fullmatch(cell):
                value = float(cell)
            elif comma and DECIMAL_COMMA.fullmatch(cell):
                value = float(cell.replace(",", "."))
            else:
                return None
            if len(seen) < REMEMBERED:
                seen[str(cell)] = value
        values.append(value)
    if all(type(value) is int and -(2**63) <= value < 2**63 for value in values):
        return np.array(values, np.int64)
    numbers = np.array(list(map(float, values)), np.float64)
    return None if words and np.isnan(numbers).all() else numbers


def _text(cells: Sequence[str], layout: _Layout, same: dict[str, str]) -> NDArray[Any]:
    """Return cells as text, None for missing ones."""
    out = np.full(len(cells), None, object)
    for i, cell in enumerate(cells):
        if cell not in TEXT_GAPS or (type(cell) is _Quoted and not layout.all_quoted):
            out[i] = same.setdefault(cell, str(cell))
    return out


def write_table(target: str | PathLike[str] | TextIO, arrays: Sequence[NDArray[Any]], names: Sequence[str]) -> None:
    """Write columns (n,) as CSV with names, to a path (all of it, durably, or nothing) or to an open text file.

    :func:`read_table` gives the same values back: text that looks like a number or like a missing entry is in quotes. Only
    where all cells would have to be, or a column holds nothing but missing text, quotes cannot tell.
    """
    if not arrays or len(arrays) != len(names):
        raise ValueError(f"arrays must be columns, at least one, and names one for each, got {len(arrays)} and {len(names)}.")
    cells = [_written(array, "NA" if len(arrays) == 1 else "") for array in arrays]  # a blank line is none
    lines = (",".join(row) + "\n" for row in zip(*cells, strict=True))
    first = ",".join(map(_in_quotes, names)) + "\n"

    def fill(stream: Any) -> None:
        with io.TextIOWrapper(stream, encoding="utf-8", newline="\n") as file:
            file.write(first)
            file.writelines(lines)

    if isinstance(target, str | PathLike):
        durable.replace(target, fill)
    else:
        target.write(first)
        target.writelines(lines)


def _written(array: NDArray[Any], gap: str) -> Iterable[str]:
    """Return the cells of a column as they are written."""
    if array.dtype.kind in "iub":
        return map(str, array.tolist())
    if array.dtype.kind == "f":
        if array.dtype == np.float64:
            return (gap if value != value else repr(value) for value in array.tolist())
        return (gap if value != value else str(value) for value in array)  # the shortest that this dtype reads as the same
    return (gap if value is None or value != value else _in_quotes(value) for value in array)


def _in_quotes(value: Any) -> str:
    """Return a value as a cell, in quotes where it would be read as something else without."""
    text = str(value)
    if not isinstance(value, str):
        return text
    risky = (
        text.lower() in GAPS or text in TEXT_GAPS or _is_number(text, ";") or text != text.strip() or text.startswith("sep=")
    )
    if risky or re.search("[,;\t|\"'\r\n]", text) or not text.isprintable():
        return '"' + text.replace('"', '""') + '"'
    return text
