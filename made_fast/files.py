"""Files of the command line: data and models in, pictures and rows out; what cannot be read or written is a UsageError.

Only the standard library is imported until something is done.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from made_fast.options import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from made_fast.datasets import Dataset
    from made_fast.report import AnyModel

__all__ = [
    "check_shape", "check_writable", "chosen_splits", "load_data", "load_model", "refusing", "remembered_shape", "write_csv",
    "write_png",
]  # fmt: skip

CSV_ENTRIES = 1 << 20
"""Entries sampled and written at a time: a pipe gets its first lines at once, and any number of rows fits in memory."""


@contextmanager
def refusing(*kinds: type[Exception]) -> Iterator[None]:
    """Turn exceptions that are the user's to put right into the one line to show. Keep the block small: others are bugs."""
    try:
        yield
    except kinds as error:
        if isinstance(error, OSError) and error.filename:
            raise UsageError(f"{error.filename}: {error.strerror}") from error
        raise UsageError(str(error)) from error


def load_data(args: argparse.Namespace, n_features: int | None = None, index_base: object = None) -> Dataset:
    """Load DATA and take the splits that it lacks out of its training rows, the same ones every time.

    ``index_base`` is what a model file, which may be anybody's, remembers of the LIBSVM file that it was trained on.
    """
    from made_fast import datasets

    remembered = index_base if type(index_base) is int and index_base in (0, 1) else None
    with refusing(OSError, ValueError, TypeError):
        try:
            dataset = datasets.load(
                args.data,
                threshold=args.threshold,
                n_features=n_features,
                missing=True,
                drop=args.drop or (),
                header=args.header,
                index_base=remembered if args.index_base is None else args.index_base,
            )
        except ValueError as error:
            raise UsageError(str(error).replace("binarize=", "--threshold ")) from error
        for note in dataset.notes:
            print(f"made-fast: note: {note}", file=sys.stderr)
        valid, test = (getattr(args, name, None) or None for name in ("valid_fraction", "test_fraction"))
        return datasets.split(dataset, valid=valid, test=test)


def chosen_splits(args: argparse.Namespace, dataset: Dataset) -> dict[str, Any]:
    """Return the splits that --split asks for: that one, or all."""
    from made_fast import tables

    found = tables.splits(dataset)
    if args.split is None:
        return found
    if args.split not in found:
        raise UsageError(f"{args.data} has no {args.split} rows, only {', '.join(found)}.")
    return {args.split: found[args.split]}


def load_model(path: Path) -> AnyModel:
    """Read a model file."""
    import made_fast
    from made_fast.storage import ModelFileError

    with refusing(OSError, ModelFileError):
        return made_fast.load(path)


def check_writable(path: Path | None, *suffixes: str) -> None:
    """Refuse an output file that could not be written later on; None is no output. Without suffixes, any name will do."""
    from tempfile import TemporaryFile

    if path is None:
        return
    if suffixes and path.suffix.lower() not in suffixes:
        raise UsageError(f"cannot write {path}: the name must end in {' or '.join(suffixes)}.")
    try:
        if path.exists() and not (path.is_file() and os.access(path, os.W_OK)):
            raise UsageError(f"cannot write {path}: it is there already and is no file that may be written.")
        with TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror} (folder {path.parent}).") from error


def check_shape(shape: tuple[int, int] | None, D: int) -> None:
    """Refuse a shape of pictures that does not have D entries."""
    if shape is None:
        raise UsageError(f"a picture of {D} inputs needs --shape ROWSxCOLS, with ROWS * COLS = {D}.")
    if shape[0] * shape[1] != D:
        raise UsageError(f"--shape must have {D} entries, as many as there are inputs, got {shape[0]}x{shape[1]}.")


def remembered_shape(model: AnyModel) -> tuple[int, int] | None:
    """Return the shape that ``train`` noted in the file (which may be anybody's), or that of a square."""
    from math import isqrt

    D = model.n_features_in
    match model.hyper.get("shape"):
        case [int(rows), int(columns)] if rows > 0 and rows * columns == D:
            return rows, columns
    side = isqrt(D)
    return (side, side) if side * side == D else None


def write_png(path: Path, X: NDArray[Any], shape: tuple[int, int] | None, columns: int | None = None) -> None:
    """Write rows as a grid of pictures."""
    from made_fast import images

    assert shape is not None  # by check_shape
    with refusing(OSError):
        images.save_png(path, images.grid(X, shape, columns))


def write_csv(stream: Any, model: AnyModel, n: int, rng: np.random.Generator, n_threads: int | None) -> None:
    """Draw n rows and write them as lines of 0/1, a few at a time."""
    import numpy as np

    D = model.n_features_in
    step = max(1, CSV_ENTRIES // D)
    for begin in range(0, n, step):
        X = model.sample(min(step, n - begin), rng, n_threads=n_threads)
        text = np.full((len(X), 2 * D), ord(","), np.uint8)
        text[:, ::2] = X + ord("0")
        text[:, -1] = ord("\n")
        print(text.tobytes().decode("ascii"), end="", file=stream)
