"""The command line: ``made-fast train | evaluate | sample | info``.

Thin: it calls the estimator and the model, checks output files beforehand, and prints. Whatever the user got wrong is one line
on standard error and exit code 2; 130 after Ctrl-C; 141 when nobody reads the output any more. Other exceptions are bugs and
keep their traceback. NumPy and the rest of the package are imported when a command runs: ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from made_fast.options import TILES, UsageError, parser

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from made_fast.datasets import Dataset
    from made_fast.estimator import MADE
    from made_fast.model import MADEModel

__all__ = ["main"]

CSV_ENTRIES = 1 << 20
"""Entries sampled and written at a time: a pipe gets its first lines at once, and any number of rows fits in memory."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may hold anything
    try:
        try:
            args = parser().parse_args(argv)
            code: int = _COMMANDS[args.command](args)
        finally:
            print(end="", flush=True)  # here, not at exit, is where a closed pipe must show
    except UsageError as error:
        return _fail(error)
    except MemoryError as error:
        return _fail(f"not enough memory. {error}")
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to write would fail again, at exit
        return 141 if error.errno == errno.EPIPE else _fail(f"cannot write the output: {error.strerror}.")
    except KeyboardInterrupt:
        print("made-fast: interrupted", file=sys.stderr)
        return 130
    return code


def _fail(message: object) -> int:
    print("made-fast: error:", " ".join(str(message).split()), file=sys.stderr)
    return 2


@contextmanager
def _refusing(*kinds: type[Exception]) -> Iterator[None]:
    """Turn exceptions that are the user's to put right into the one line to show. Keep the block small: others are bugs."""
    try:
        yield
    except kinds as error:
        if isinstance(error, OSError) and error.filename:
            raise UsageError(f"{error.filename}: {error.strerror}") from error
        raise UsageError(str(error)) from error


# Commands


def _train(args: argparse.Namespace) -> int:
    _check_writable(args.out, (".safetensors",))
    if args.samples is not None:
        _check_writable(args.samples, (".png",))
    import secrets
    import time

    from made_fast import checks, report, threads
    from made_fast.estimator import MADE

    with _refusing(ValueError):
        hidden_sizes = checks.hidden_sizes([] if args.hidden == [0] else args.hidden)
    dataset = _load_data(args)
    splits = report.splits(dataset)
    shape = args.shape or dataset.shape
    if args.shape is not None or args.samples is not None:
        _check_shape(shape, dataset.train.shape[1])
    made = MADE(
        hidden_sizes,
        args.activation,
        ordering=args.ordering,
        degrees=args.degrees,
        optimizer=args.optimizer,
        learning_rate=args.learning_rate,
        batch_size=args.batch_size,
        max_epochs=args.max_epochs,
        patience=args.patience,
        weight_init=args.weight_init,
        dtype=args.dtype,
        n_threads=args.threads or threads.available(),
        random_state=secrets.randbits(32) if args.seed is None else args.seed,
        verbose=0 if args.quiet else 1,
    )

    def save() -> None:
        notes = {"best_epoch": made.best_epoch_, "data": dataset.name, "shape": shape}
        _save(made, args.out, args.threshold, notes)

    begin = time.perf_counter()
    try:
        made.fit(splits["train"], X_val=splits.get("valid"))
    except FloatingPointError as error:
        raise UsageError(f"{error} {_save_unfinished(made, dataset, save, args.out)}") from error
    except KeyboardInterrupt:
        print(f"made-fast: interrupted. {_save_unfinished(made, dataset, save, args.out)}", file=sys.stderr)
        return 130
    seconds = time.perf_counter() - begin
    save()
    if args.samples is not None:
        _write_png(args.samples, made.sample(TILES, made.random_state), shape)
    print(f"data        {report.describe_data(dataset, shape, args.threshold)}")
    print(f"model       {report.describe_model(made.model_)}, {made.ordering} ordering")
    print(f"training    {report.describe_training(made, dataset, seconds)}\n")
    report.print_scores(made.model_, dataset, splits, made.n_threads)
    print(f"\nmodel file  {report.describe_file(args.out)}")
    if args.samples is not None:
        print(f"samples     {report.describe_file(args.samples)}")
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from made_fast import report

    model = _load_model(args.model)
    if args.threshold is None:
        args.threshold = model.binarize
    dataset = _load_data(args, model.n_features_in)
    splits = report.splits(dataset)
    if args.split is not None:
        if args.split not in splits:
            raise UsageError(f"{args.data} has no {args.split} rows, only {', '.join(splits)}.")
        splits = {args.split: splits[args.split]}
    model.binarize = None  # the data set has been through the threshold
    print(f"data        {report.describe_data(dataset, dataset.shape, args.threshold)}")
    print(f"model       {report.describe_model(model)}\n")
    report.print_scores(model, dataset, splits, args.threads)
    return 0


def _sample(args: argparse.Namespace) -> int:
    if args.out is not None:
        _check_writable(args.out, (".npy", ".csv", ".png"))
    import numpy as np

    from made_fast import checks

    model = _load_model(args.model)
    suffix = ".csv" if args.out is None else args.out.suffix.lower()
    shape = args.shape or _remembered_shape(model)
    if args.shape is not None or suffix == ".png":
        _check_shape(shape, model.n_features_in)
    rng = checks.generator(args.seed)
    if args.out is None:
        _write_csv(sys.stdout, model, args.n_samples, rng, args.threads)
        return 0
    if suffix == ".csv":
        with _refusing(OSError), args.out.open("w", encoding="ascii") as stream:
            _write_csv(stream, model, args.n_samples, rng, args.threads)
        return 0
    X = model.sample(args.n_samples, rng, n_threads=args.threads)
    if suffix == ".png":
        _write_png(args.out, X, shape)
    else:
        with _refusing(OSError), args.out.open("wb") as stream:
            np.save(stream, X)
    return 0


def _info(args: argparse.Namespace) -> int:
    from made_fast import report

    model = _load_model(args.model)
    print(f"{'file':24}{report.describe_file(args.model)}")
    for name, fact in report.model_facts(model).items():
        print(f"{name:24}{fact}".rstrip())
    return 0


_COMMANDS = {"train": _train, "evaluate": _evaluate, "sample": _sample, "info": _info}


# Files


def _load_data(args: argparse.Namespace, n_features: int | None = None) -> Dataset:
    """Load DATA and take the splits that it lacks out of its training rows, the same ones every time."""
    from made_fast import datasets

    with _refusing(OSError, ValueError, TypeError):
        try:
            dataset = datasets.load(args.data, threshold=args.threshold, n_features=n_features)
        except ValueError as error:
            raise UsageError(str(error).replace("binarize=", "--threshold ")) from error
        if n_features not in (None, dataset.train.shape[1]):
            raise UsageError(f"{args.data} must have {n_features} columns, as the model has, got {dataset.train.shape[1]}.")
        return datasets.split(dataset, valid=args.valid_fraction or None, test=args.test_fraction or None)


def _save(made: MADE, path: Path, threshold: float | None, notes: dict[str, Any]) -> None:
    """Write the model with what the estimator does not know: the threshold that the data came through, and notes."""
    from made_fast.model import MADEModel

    model = made.model_
    hyper = {**model.hyper, "ordering": made.ordering, "random_state": made.random_state, **notes}
    with _refusing(OSError):
        MADEModel(model.connectivity, model.theta, model.activation, binarize=threshold, hyper=hyper).save(path)


def _save_unfinished(made: MADE, dataset: Dataset, save: Callable[[], None], path: Path) -> str:
    """Save the model of a fit that was cut short, if it is of any use, and say what happened."""
    import numpy as np

    if not getattr(made, "best_epoch_", 0):
        return "Nothing was saved: no epoch was finished."
    if not np.isfinite(made.model_.theta).all():
        return "Nothing was saved: without validation rows no earlier parameters were kept."
    save()
    which = "best parameters so far, those of" if dataset.valid is not None else "parameters after"
    return f"The {which} epoch {made.best_epoch_}, are saved in {path}."


def _load_model(path: Path) -> MADEModel:
    from made_fast.model import load
    from made_fast.storage import ModelFileError

    with _refusing(OSError, ModelFileError):
        return load(path)


def _check_writable(path: Path, suffixes: tuple[str, ...]) -> None:
    """Refuse an output file that could not be written later on."""
    from tempfile import TemporaryFile

    if path.suffix.lower() not in suffixes:
        raise UsageError(f"cannot write {path}: the name must end in {' or '.join(suffixes)}.")
    try:
        if path.exists() and not (path.is_file() and os.access(path, os.W_OK)):
            raise UsageError(f"cannot write {path}: it is there already and is no file that may be written.")
        with TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror} (folder {path.parent}).") from error


def _check_shape(shape: tuple[int, int] | None, D: int) -> None:
    if shape is None:
        raise UsageError(f"a picture of {D} inputs needs --shape ROWSxCOLS, with ROWS * COLS = {D}.")
    if shape[0] * shape[1] != D:
        raise UsageError(f"--shape must have {D} entries, as many as there are inputs, got {shape[0]}x{shape[1]}.")


def _remembered_shape(model: MADEModel) -> tuple[int, int] | None:
    """Return the shape that ``train`` noted in the file (which may be anybody's), or that of a square."""
    from math import isqrt

    D = model.n_features_in
    match model.hyper.get("shape"):
        case [int(rows), int(columns)] if rows > 0 and rows * columns == D:
            return rows, columns
    side = isqrt(D)
    return (side, side) if side * side == D else None


def _write_png(path: Path, X: NDArray[np.uint8], shape: tuple[int, int] | None) -> None:
    from made_fast import images

    assert shape is not None  # by _check_shape
    with _refusing(OSError):
        images.save_png(path, images.grid(X, shape))


def _write_csv(stream: Any, model: MADEModel, n: int, rng: np.random.Generator, n_threads: int | None) -> None:
    import numpy as np

    D = model.n_features_in
    step = max(1, CSV_ENTRIES // D)
    for begin in range(0, n, step):
        X = model.sample(min(step, n - begin), rng, n_threads=n_threads)
        text = np.full((len(X), 2 * D), ord(","), np.uint8)
        text[:, ::2] = X + ord("0")
        text[:, -1] = ord("\n")
        print(text.tobytes().decode("ascii"), end="", file=stream)
