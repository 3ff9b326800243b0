"""Tables in text as other programs write them: one row a line, cells between separators, names of the columns above.

NumPy reads a table of plain numbers. A table with anything else (True, quotes, gaps, an index, a mistake) is read cell by
cell, which is slower and knows the line and the column of every cell.

The separator of a .csv is the first of semicolon, comma and tab that cuts the first lines into the same number of cells, more
than one.

Not here: other formats (``formats.py``), the rules about columns (``columns.py``).
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from made_fast.tables.reading.columns import Columns, Found, Options, narrow, shown

__all__ = ["BLANKS", "COMMAS", "TABS", "read"]

COMMAS, TABS, BLANKS = (";", ",", "\t"), ("\t",), (" ",)  # a blank stands for any number of blanks and tabs
GAPS = ("", "na", "n/a", "nan", "null", "none", "<na>", "?")
WORDS = {"true": 1.0, "false": 0.0} | dict.fromkeys(GAPS, math.nan)  # cells beside numbers, in lower case
MARKERS = "A missing entry is an empty cell, NA, N/A, NaN, null, None, <NA> or ?"

PEEK = 10  # records that show the layout of a text
QUOTED_LINES = 100  # most lines of one record: a quote that is never closed must not take in the file
CHUNK = 1 << 18  # cells worked on at once
REMEMBERED = 1 << 16  # most texts whose numbers are remembered


class _Record(NamedTuple):
    first: int  # number of its first line, counted from 1
    last: int
    cells: list[str]


class _Layout(NamedTuple):
    separator: str
    names: tuple[str, ...] | None  # above the table
    skip: int  # lines above the first row
    first: _Record
    trailing: bool  # each line ends with a separator


def read(open_text: Callable[[], TextIO], path: str | None, separators: tuple[str, ...], options: Options) -> Found:
    """Read a table. ``open_text`` opens it at its beginning, with universal newlines. NumPy reads a ``path`` faster than that.

    Raises ValueError, which names the line and the column, if it is no table.
    """
    try:
        layout = _layout(open_text, separators, options.header)
        names = layout.names
        by_cells = options.drop or layout.trailing or (names and names[0] == "")
        X = None if by_cells else _plain(path if path is not None else open_text(), layout)
        if X is None or (names is not None and len(names) != X.shape[1]):
            X, columns, notes = _by_cells(open_text, layout, options)
        else:
            columns, notes = Columns(X.shape[1], names), []
    except UnicodeDecodeError as error:
        raise ValueError("it is no text in UTF-8. Save it as CSV in UTF-8") from error
    if options.header == "auto":
        if names is None:
            _refuse_header_of_numbers(X)
        elif options.threshold is not None and any(map(str.isdigit, names)):  # without a threshold it could be no row
            notes.append("the first line holds numbers that count on and is taken for names; --header no makes it a row")
    return Found({"train": X}, columns, notes)


def _records(lines: TextIO, separator: str) -> Iterator[_Record]:
    """Cut a text into records, without blank lines and comments, which ``#`` starts outside quotes."""
    blank = separator == " "
    ends = "\n " if separator == "\t" else None  # a tab may begin or end a row of gaps
    numbered = enumerate(lines, start=1)
    for number, line in numbered:
        if number == 1 and re.fullmatch(r"sep=.\n", line):  # a line for Excel
            continue
        last = number
        if '"' in line or "#" in line:
            while (cells := _cut(line, separator)) is None:
                last, more = next(numbered, (0, ""))
                if not more or last - number >= QUOTED_LINES:
                    raise ValueError(f"line {number} opens a quote that is never closed")
                line += more
            if cells:
                yield _Record(number, last, cells)
        elif text := line.strip(ends):
            yield _Record(number, last, text.split() if blank else text.split(separator))


_QUOTED = r'"([^"]*(?:""[^"]*)*)"'
_CELLS = {
    separator: (re.compile(rf"[{pad}]*{_QUOTED}[{pad}]*({separator}|#|\n|\Z)"), re.compile(rf"([^{separator}#\n]*)(.|\n|\Z)"))
    for separator, pad in ((";", " \t"), (",", " \t"), ("\t", " "))
} | {" ": (re.compile(rf"[ \t]*{_QUOTED}([ \t]+|#|\n|\Z)"), re.compile(r"[ \t]*([^ \t#\n]*)([ \t]+|#|\n|\Z)"))}
"""Patterns of a quoted and of another cell, by separator: their text and their end."""
_WHOLE = re.compile(rf"[ \t]*{_QUOTED}")


def _cut(text: str, separator: str) -> list[str] | None:
    """Cut a record with quotes or comments into cells, [] if it is only a comment; None if a quote is still open."""
    quoted, plain = _CELLS[separator]
    cells, at = [], 0
    while True:
        if found := quoted.match(text, at):
            cell = found[1].replace('""', '"')
        else:
            found = plain.match(text, at)
            assert found is not None  # it matches anything
            cell = found[1].strip()
            if cell.startswith('"') and not _WHOLE.match(text, at):
                return None
        at, end = found.end(), found[2]
        if separator != " " or cell or found.re is quoted:
            cells.append(cell)
        if end in ("#", "\n", ""):
            return cells if cells != [""] or '"' in text[:at] else []


def _layout(open_text: Callable[[], TextIO], separators: tuple[str, ...], header: str) -> _Layout:
    """Find the separator and the header in the first records."""
    heads: dict[str, list[_Record]] = {}
    open_quote = None
    for separator in separators:
        with open_text() as lines:
            try:
                heads[separator] = list(islice(_records(lines, separator), PEEK))
            except UnicodeDecodeError:
                raise
            except ValueError as error:  # with another separator there may be no quote
                open_quote = error
    separator = next((s for s, head in heads.items() if _agree(head)), "")
    if not separator:
        if open_quote is not None:
            raise open_quote
        separator = max(heads, key=lambda s: (len(heads[s][0].cells), s == ",") if heads[s] else (0, False))
    head = heads[separator]
    if not head:
        raise ValueError("it holds no data")
    named = header == "yes" or (header == "auto" and _is_header(head))
    rows = head[1:] if named else head
    if not rows:
        raise ValueError("it holds no data below its names")
    names = [cell.strip() for cell in head[0].cells] if named else None
    width = len(rows[0].cells)
    trailing = width > 1 and all(len(row.cells) == width and not row.cells[-1].strip() for row in rows)
    if names is not None and len(names) == width - 1:
        if trailing:
            names = [*names, ""]
        elif "" not in names and not all(map(_is_value, names)):  # as R writes names of rows
            names = ["", *names]
    trailing = trailing and (names is None or (len(names) == width and names[-1] == ""))
    return _Layout(separator, None if names is None else tuple(names), head[0].last if named else 0, rows[0], trailing)


def _agree(head: list[_Record]) -> bool:
    """Return whether the first records have the same number of cells; the first may have one less, as R writes names."""
    counts = [len(record.cells) for record in head]
    return bool(counts) and counts[-1] > 1 and set(counts[1:]) <= {counts[-1]} and counts[0] in (counts[-1], counts[-1] - 1)


def _is_header(head: list[_Record]) -> bool:
    """Return whether the first record has no value in it, or numbers that count on, as pandas calls columns without names."""
    cells = [cell.strip() for cell in head[0].cells]
    given = [cell for cell in cells if cell.lower() not in GAPS]
    if given and not any(map(_is_value, given)):
        return True
    unnamed = cells[0] == ""
    numbers = cells[unnamed : -1 if cells[-1] == "" else None]
    if not numbers or not all(re.fullmatch(r"[0-9]{1,9}", n) for n in numbers) or not _count_on(numbers, int(numbers[0])):
        return False
    below = [record.cells[0].strip() for record in head[1:]]
    return len(numbers) > 2 or (unnamed and len(below) > 1 and (_count_on(below, 0) or _count_on(below, 1)))


def _count_on(cells: list[str], start: int) -> bool:
    return cells == [str(start + i) for i in range(len(cells))]


def _number(cell: str) -> float:
    """Return the number in a cell, NaN for a gap; ValueError for anything else."""
    text = cell.strip()
    if (word := WORDS.get(text.lower())) is not None:
        return word
    if not text.isascii() or "_" in text:  # Python reads more than other programs
        raise ValueError
    return float(text)


def _is_value(cell: str) -> bool:
    try:
        _number(cell)
    except ValueError:
        return False
    return True


def _plain(source: str | TextIO, layout: _Layout) -> NDArray[Any] | None:
    """Read plain numbers, as uint8 if they fit; None if there is anything else."""
    for dtype in (np.uint8, np.float64):
        if not isinstance(source, str):
            source.seek(0)
        with warnings.catch_warnings():
            # NumPy 1.26 warns when it cuts 0.5 to an integer, every version about an empty file
            warnings.filterwarnings("error", message="(?s).*loadtxt")
            try:
                delimiter = None if layout.separator == " " else layout.separator
                X = np.loadtxt(source, dtype, delimiter=delimiter, skiprows=layout.skip, ndmin=2, encoding="utf-8-sig")
                return X if dtype == np.uint8 else narrow(X)
            except (ValueError, DeprecationWarning, UserWarning):
                continue
    return None


def _by_cells(open_text: Callable[[], TextIO], layout: _Layout, options: Options) -> tuple[NDArray[Any], Columns, list[str]]:
    """Read a table cell by cell; return it, its columns and remarks."""
    width, trailing = len(layout.first.cells), layout.trailing
    _check_width(layout.first, width if layout.names is None else len(layout.names))
    columns = Columns(width, layout.names, options.drop)
    notes = []
    start = _start_of_index(columns, layout)
    if start is not None:
        columns.kept.remove(0)
        notes.append("the first column has no name and counts the rows; it is left out")
    number = lru_cache(REMEMBERED)(_number)
    blocks: list[NDArray[Any]] = []
    done = 0
    with open_text() as lines:
        records = (record for record in _records(lines, layout.separator) if record.last > layout.skip)
        while chunk := list(islice(records, 1 + CHUNK // width)):
            for record in chunk:
                _check_width(record, width)
            cells = list(zip(*(record.cells for record in chunk), strict=True))
            if start is not None:
                _check_index(cells[0], start, done)
            trailing = trailing and not any(map(str.strip, cells[-1]))
            blocks.append(_block(cells, chunk, number, columns, done))
            done += len(chunk)
    X = np.concatenate(blocks)
    if trailing and columns.kept[-1] == width - 1 and len(columns.kept) not in (1, options.n_features):
        columns.kept.remove(width - 1)
        X = narrow(X[:, :-1])
        notes.append("the last column has neither a name nor a value, as every line ends with a separator; it is left out")
    return X, columns, notes


def _check_width(record: _Record, width: int) -> None:
    if len(record.cells) != width:
        found = f"the number of columns changed from {width} to {len(record.cells)} at line {record.first}"
        raise ValueError(f"{found}. Give every line as many cells; outside quotes a # starts a comment")


def _block(cells: list[tuple[str, ...]], chunk: list[_Record], number: Any, columns: Columns, done: int) -> NDArray[Any]:
    """Return the numbers of a chunk, whose cells are given by column; ``done`` rows come before it."""
    block = np.empty((len(chunk), len(columns.kept)))
    wrong = []
    for k, j in enumerate(columns.kept):
        try:
            block[:, k] = np.fromiter(map(number, cells[j]), np.float64, len(chunk))
        except ValueError:
            wrong.append(j)
    if wrong:
        j = wrong[0]
        i = next(i for i, cell in enumerate(cells[j]) if not _is_value(cell))
        text = cells[j][i].strip()
        ways_out = [MARKERS]
        if len(wrong) < len(columns.kept):
            ways_out.append(f"{columns.option(*wrong)} leaves out what is text")
        if len(cells) > 1 and re.fullmatch(r"[+-]?[0-9]*,[0-9]+", text):
            ways_out.append("Decimal commas are not read: write 0.5 for 0,5")
        if done + i == 0 and columns.names is None:
            ways_out.append("If the line holds names, give --header yes")
        place = f"line {chunk[i].first} (row {done + i}), {columns.describe(j)}"
        raise ValueError(f"could not convert string {shown(text)} to a number at {place}. {'. '.join(ways_out)}")
    return narrow(block)


def _start_of_index(columns: Columns, layout: _Layout) -> int | None:
    """Return the first number of an index: a first column that alone, but for an empty last one, has no name."""
    names = columns.names
    if names is None or names[0] != "" or columns.kept[0] != 0 or len(columns.kept) == 1:
        return None
    others = names[1:-1] if layout.trailing else names[1:]
    return None if "" in others else int(layout.first.cells[0].strip() == "1")


def _check_index(cells: tuple[str, ...], start: int, done: int) -> None:
    """Refuse a first column without a name that does not count the rows; ``done`` rows come before these cells."""
    for i, cell in enumerate(cells, start=done):
        if cell.strip() != str(start + i):
            found = f"does not count the rows: {shown(cell.strip())} in row {i}"
            ways_out = "--drop 0 leaves it out; give it a name in the first line to keep it"
            raise ValueError(f"the first column has no name, as an index has none, but {found}. {ways_out}")


def _refuse_header_of_numbers(X: NDArray[Any]) -> None:
    """Refuse a table of 0/1 whose first row has other numbers, all different."""
    if len(X) < 2:
        return
    first = X[0].astype(np.float64)
    binary = np.isin(first, (0, 1))
    if binary.all() or (binary.any() and len(first) < 3) or not np.isfinite(first).all() or len(np.unique(first)) < len(first):
        return
    rest = X[1:]
    if ((rest == 0) | (rest == 1) | np.isnan(rest)).all():
        numbers = ", ".join(f"{number:g}" for number in first[:3]) + (", .." if len(first) > 3 else "")
        found = f"the first line, {numbers}, looks like a header of numbers: all that is below it is 0 or 1"
        raise ValueError(f"{found}. --header yes takes it for names, --header no for a row")
