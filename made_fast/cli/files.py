"""Files of the command line: data and models in, pictures and rows out; what cannot be read or written is a UsageError.

Only the standard library is imported until something is done.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from made_fast.cli.options import SHARE, UsageError
from made_fast.cli.readers import STDOUT
from made_fast.system.console import say

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from made_fast.cli.report import AnyModel
    from made_fast.tables.reading.datasets import Dataset
    from made_fast.tables.reading.rawtable import RawTable

__all__ = [
    "check_outputs", "check_shape", "chosen_splits", "is_same", "is_table", "kind", "load_data", "load_model", "load_table",
    "note", "refusing",
    "remembered_shape", "write", "write_lines", "write_png", "writing",
]  # fmt: skip

OUTPUTS = ("checkpoint", "out", "samples", "plot", "onnx")
"""The options that name a file to write, in all commands."""

NO_FILES = ("digits", "-")
"""Values of DATA that are no files."""


@contextmanager
def refusing(*kinds: type[Exception]) -> Iterator[None]:
    """Turn errors that the user can put right into a UsageError. Keep the block small: others are bugs."""
    try:
        yield
    except kinds as error:
        if isinstance(error, OSError) and error.filename:
            raise UsageError(f"{error.filename}: {error.strerror}") from error
        raise UsageError(str(error)) from error


def note(text: object) -> None:
    """Print a line about something that the user may not expect on standard error."""
    say(f"made-fast: note: {' '.join(str(text).split())}")


def load_data(args: argparse.Namespace, n_features: int | None = None, index_base: object = None) -> Dataset:
    """Load DATA and take the splits that it lacks out of its training rows, the same ones every time.

    ``index_base`` is what the model file, which may come from anywhere, notes of a LIBSVM file.
    """
    from made_fast.tables.reading import datasets

    remembered = index_base if type(index_base) is int and index_base in (0, 1) else None
    with refusing(OSError, ValueError, TypeError):
        dataset = datasets.load(
            args.data,
            threshold=args.threshold,
            n_features=n_features,
            missing=True,
            drop=args.drop or (),
            header=args.header,
            index_base=remembered if args.index_base is None else args.index_base,
            large=args.command in ("train", "evaluate", "score") and not getattr(args, "mpi", False),
        )
        for remark in dataset.notes:
            note(remark)
        shares = {name: getattr(args, f"{name}_fraction", None) for name in ("valid", "test")}
        idle = {
            f"--{name}-fraction": f"has {name} rows of its own"
            for name, share in shares.items()
            if share not in (None, SHARE) and getattr(dataset, name) is not None
        }
        if args.index_base is not None and dataset.index_base is None:
            idle["--index-base"] = "is no LIBSVM file"
        if args.header == "yes" and dataset.feature_names is None:
            idle["--header"] = "is no text with a first line"
        for option, why in idle.items():
            note(f"{option} has no effect: {args.data} {why}.")
        valid, test = (share or None for share in shares.values())
        return datasets.split(dataset, valid=valid, test=test)


def is_table(args: argparse.Namespace) -> bool:
    """Say whether DATA of a command that fits is a table of any columns, and no rows of 0/1."""
    from made_fast.tables.reading import rawtable

    if args.kind != "auto" or args.threshold is not None:
        if args.kind == "table" and args.threshold is not None:
            raise UsageError(
                "--threshold makes 0/1 of numbers, which a table keeps as they are. Leave out it or --kind table."
            )
        return bool(args.kind == "table")
    return rawtable.holds_a_table(args.data, args.header, args.drop or ())


def load_table(args: argparse.Namespace) -> RawTable:
    """Load DATA as a table, and take the splits that it lacks out of its training rows, the same ones every time."""
    from made_fast.tables.reading import rawtable

    if args.threshold is not None:
        raise UsageError("--threshold is for models of 0/1 rows; this one is of a table, whose numbers count as they are.")
    with refusing(OSError, ValueError, TypeError):
        in_memory = args.command == "ensemble" or getattr(args, "context", None) or getattr(args, "mpi", False)
        table = rawtable.load(args.data, header=args.header, drop=args.drop or (), large=not in_memory)
        valid, test = (getattr(args, f"{name}_fraction", None) or None for name in ("valid", "test"))
        return rawtable.split(table, valid=valid, test=test)


def chosen_splits(args: argparse.Namespace, dataset: Dataset | RawTable) -> dict[str, Any]:
    """Return the splits that --split asks for: that one, or all."""
    found = dataset.splits
    if args.split is None:
        return found
    if args.split not in found:
        raise UsageError(f"{args.data} has no {args.split} rows, only {', '.join(found)}.")
    return {args.split: found[args.split]}


def load_model(path: Path) -> Any:
    """Read a model file."""
    import made_fast
    from made_fast.inference.tensorfile import ModelFileError

    with refusing(OSError, ModelFileError):
        return made_fast.load(path)


def check_outputs(args: argparse.Namespace) -> None:
    """Refuse, before any work, outputs that cannot be written, that are one file, or that the command reads.

    ``impute --out`` may be DATA: it is put in its place when all is done.
    """
    from made_fast.system import durable

    if getattr(args, "out", None) == STDOUT and sys.stdout is None:
        raise UsageError("cannot write the output: standard output is closed. Give --out FILE.")
    outputs = {f"--{name}": path for name in OUTPUTS if (path := getattr(args, name, None)) not in (None, STDOUT)}
    inputs = {
        name: path for name in ("model", "data", "contexts") if (path := getattr(args, name, None)) not in (None, *NO_FILES)
    }
    for (option, path), (other, second) in combinations(outputs.items(), 2):
        if is_same(path, second):
            raise UsageError(f"{option} and {other} must be two files, got {path} for both.")
    for option, path in outputs.items():
        for name, read in inputs.items():
            if is_same(path, read) and (args.command, option, name) != ("impute", "--out", "data"):
                raise UsageError(f"{option} must not be the {name.upper()} file, got {path} for both. Choose another name.")
        with writing(path):
            durable.check_writable(path)


def is_same(path: str | Path, other: str | Path) -> bool:
    """Say whether two names are of one file, also through links; neither need be there."""
    if os.path.realpath(path) == os.path.realpath(other):
        return True
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the errors of writing a file into a UsageError."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}.") from error


def kind(path: Path) -> str:
    """Return the suffix that chooses the format; standard output gets that of a .csv."""
    return ".csv" if path == STDOUT else path.suffix.lower()


def write(path: Path, fill: Callable[[BinaryIO], None]) -> None:
    """Replace a file by what ``fill(stream)`` writes, all of it or nothing; or print it, if it is text."""
    from made_fast.system import durable

    if path == STDOUT:
        stream = io.BytesIO()
        fill(stream)
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # as in a file, not that of the terminal
        print(stream.getvalue().decode(), end="")
        return
    with writing(path):
        durable.replace(path, fill)


def write_lines(path: Path, parts: Iterable[str]) -> None:
    """Write text part by part."""
    if path == STDOUT:
        for part in parts:
            print(part, end="")
    else:
        write(path, lambda stream: stream.writelines(map(str.encode, parts)))


def check_shape(shape: tuple[int, int] | None, D: int) -> None:
    """Refuse a shape of pictures that does not have D entries."""
    if shape is None:
        raise UsageError(f"a picture of {D} inputs needs --shape ROWSxCOLS, with ROWS * COLS = {D}.")
    if shape[0] * shape[1] != D:
        raise UsageError(f"--shape must have {D} entries, as many as there are inputs, got {shape[0]}x{shape[1]}.")


def remembered_shape(model: AnyModel) -> tuple[int, int] | None:
    """Return the shape that ``train`` noted in the file, which may come from anywhere, or that of a square."""
    from math import isqrt

    D = model.n_features_in
    match model.hyper.get("shape"):
        case [int(rows), int(columns)] if rows > 0 and rows * columns == D:
            return rows, columns
    side = isqrt(D)
    return (side, side) if side * side == D else None


def write_png(path: Path, X: NDArray[Any], shape: tuple[int, int] | None, columns: int | None = None) -> None:
    """Write rows as a grid of pictures."""
    from made_fast.cli import images

    assert shape is not None  # by check_shape
    picture = images.grid(X, shape, columns)
    write(path, lambda stream: images.save_png(stream, picture))
