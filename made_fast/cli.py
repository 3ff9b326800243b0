"""The command line: ``made-fast train | evaluate | sample | info``.

Thin: it reads options, calls the estimator and the model, and prints. Whatever the user got wrong is one line on standard
error and exit code 2; 130 after Ctrl-C; 141 when nobody reads the output any more. Other exceptions are bugs and keep their
traceback. NumPy and the rest of the package are imported when a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from made_fast import __version__

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from made_fast.datasets import Dataset
    from made_fast.estimator import MADE
    from made_fast.model import MADEModel

__all__ = ["main"]

# The package's own tables stand beside code that imports NumPy; tests/test_cli.py compares.
ACTIVATIONS = ("relu", "softplus", "tanh", "sigmoid", "softsign")
ORDERINGS = ("random", "natural")
DEGREES = ("stratified", "uniform")
OPTIMIZERS = ("adam", "adadelta", "adagrad", "rmsprop", "momentum", "sgd")
WEIGHT_INITS = ("glorot_uniform", "glorot_normal", "zeros")
DTYPES = ("float32", "float64")
SPLITS = ("train", "valid", "test")

TILES = 100
"""Samples in the picture that ``train --samples`` draws."""

CSV_ENTRIES = 1 << 20
"""Entries sampled and written at a time: a pipe gets its first lines at once, and any number of rows fits in memory."""


class _Refused(Exception):
    """Something that the user can put right; the text is the line to show."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may hold anything
    try:
        try:
            args = _parser().parse_args(argv)
            code: int = args.run(args)
        finally:
            print(end="", flush=True)  # here, not at exit, is where a closed pipe must show
    except _Refused as error:
        return _fail(error)
    except MemoryError as error:
        return _fail(f"not enough memory. {error}")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("made-fast: interrupted", file=sys.stderr)
        return 130
    return code


def _fail(message: object) -> int:
    print("made-fast: error:", " ".join(str(message).split()), file=sys.stderr)
    return 2


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn the exceptions by which the package refuses input and files into the one line for the user."""
    try:
        yield
    except OSError as error:
        raise _Refused(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from error
    except (ValueError, TypeError) as error:
        raise _Refused(str(error)) from error


# Commands


def _train(args: argparse.Namespace) -> int:
    _check_writable(args.out, (".safetensors",))
    if args.samples is not None:
        _check_writable(args.samples, (".png",))
    import secrets
    import time

    from made_fast import checks, datasets, threads
    from made_fast.estimator import MADE

    with _refusing():
        hidden_sizes = checks.hidden_sizes([] if args.hidden == [0] else args.hidden)
        dataset = datasets.load(args.data, threshold=args.threshold)
        dataset = datasets.split(dataset, valid=args.valid_fraction or None, test=args.test_fraction or None)
    D = dataset.train.shape[1]
    shape = args.shape or dataset.shape
    if args.shape is not None or args.samples is not None:
        _check_shape(shape, D)
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
    begin = time.perf_counter()
    try:
        made.fit(dataset.train, X_val=dataset.valid)
    except FloatingPointError as error:
        raise _Refused(f"{error} {_save_unfinished(made, dataset, shape, args)}") from error
    except KeyboardInterrupt:
        print(f"made-fast: interrupted. {_save_unfinished(made, dataset, shape, args)}", file=sys.stderr)
        return 130
    seconds = time.perf_counter() - begin
    _save(made, dataset, shape, args)
    if args.samples is not None:
        X = made.model_.sample(TILES, made.random_state, n_threads=made.n_threads)
        _write_png(args.samples, X, shape)
    _print_summary(made, dataset, shape, seconds)
    print(f"\nmodel file  {args.out} ({_bytes(args.out)})")
    if args.samples is not None:
        print(f"samples     {args.samples} ({TILES} draws)")
    return 0


def _save(made: MADE, dataset: Dataset, shape: tuple[int, int] | None, args: argparse.Namespace) -> None:
    """Write the model, with what this file knows about it and the estimator does not."""
    model = made.model_
    model.hyper |= {
        "data": dataset.name,
        "shape": shape,
        "ordering": made.ordering,
        "random_state": made.random_state,
        "best_epoch": made.best_epoch_,
    }
    binarize, model.binarize = model.binarize, args.threshold  # the data set came through the threshold already
    with _refusing():
        model.save(args.out)
    model.binarize = binarize


def _save_unfinished(made: MADE, dataset: Dataset, shape: tuple[int, int] | None, args: argparse.Namespace) -> str:
    """Save the model of a training run that was cut short, if it has one; say what happened."""
    import numpy as np

    if not getattr(made, "best_epoch_", 0) or not np.isfinite(made.model_.theta).all():
        return "Nothing was saved: there are no parameters of a finished epoch yet."
    _save(made, dataset, shape, args)
    which = "best parameters so far, of" if dataset.valid is not None else "parameters after"
    return f"The {which} epoch {made.best_epoch_}, are saved in {args.out}."


def _evaluate(args: argparse.Namespace) -> int:
    from made_fast import datasets

    model = _load_model(args.model)
    with _refusing():
        dataset = datasets.load(args.data, threshold=model.binarize, n_features=model.n_features_in)
        dataset = datasets.split(dataset, valid=args.valid_fraction or None, test=args.test_fraction or None)
    if dataset.train.shape[1] != model.n_features_in:
        raise _Refused(f"{args.data} has {dataset.train.shape[1]} columns, but the model in {args.model} has {model.n_features_in}.")
    splits = _splits(dataset)
    if args.split is not None:
        if args.split not in splits:
            raise _Refused(f"{args.data} has no {args.split} rows, only {', '.join(splits)}. See --valid-fraction, --test-fraction.")
        splits = {args.split: splits[args.split]}
    threshold = "" if model.binarize is None else f", values > {model.binarize:g} are 1"
    model.binarize = None  # the data set came through it already
    print(f"data        {_describe_data(dataset, dataset.shape)}{threshold}")
    print(f"model       {_describe_model(model)}\n")
    _print_scores(model, dataset, splits, args.threads)
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
    with _refusing():
        if suffix == ".csv":
            with args.out.open("w", encoding="ascii") as stream:
                _write_csv(stream, model, args.n_samples, rng, args.threads)
        else:
            X = model.sample(args.n_samples, rng, n_threads=args.threads)
            if suffix == ".png":
                _write_png(args.out, X, shape)
            else:
                with args.out.open("wb") as stream:
                    np.save(stream, X)
    return 0


def _info(args: argparse.Namespace) -> int:
    import json

    model = _load_model(args.model)
    places = model.connectivity.ordering
    natural = all(place == d for d, place in enumerate(places, start=1))
    first = " ".join(str(place) for place in places[:8])
    facts: dict[str, Any] = {
        "file": f"{args.model} ({_bytes(args.model)})",
        "model": _describe_model(model),
        "inputs": model.n_features_in,
        "takes": "0/1 values" if model.binarize is None else f"numbers; those > {model.binarize:g} count as 1",
        "hidden layers": " ".join(map(str, model.connectivity.hidden_sizes)) or "none",
        "activation": model.activation,
        "ordering": "natural" if natural else f"a permutation: places {first}{' ...' if len(places) > 8 else ''}",
        "degrees": ", ".join(f"{m.min()}..{m.max()}" for m in model.connectivity.degrees) or "none",
        "parameters": f"{model.n_parameters:,} live weights and biases, {model.theta.dtype}",
    }
    print("\n".join(f"{name:15}{fact}" for name, fact in facts.items()))
    if model.hyper:
        print("\ntrained with")
        for name, value in model.hyper.items():  # a model file is untrusted: as JSON, it cannot send codes to the terminal
            print(f"  {json.dumps(name)[1:-1]:20} {json.dumps(value)}")
    return 0


# Files


def _load_model(path: Path) -> MADEModel:
    from made_fast.model import load

    with _refusing():
        return load(path)


def _check_writable(path: Path, suffixes: tuple[str, ...]) -> None:
    """Refuse an output file that could not be written later on."""
    from tempfile import TemporaryFile

    if path.suffix.lower() not in suffixes:
        raise _Refused(f"cannot write {path}: the name must end in {' or '.join(suffixes)}.")
    try:
        if path.exists() and not (path.is_file() and os.access(path, os.W_OK)):
            raise _Refused(f"cannot write {path}: it is there already and is no file that may be written.")
        with TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise _Refused(f"cannot write {path}: {error.strerror} (folder {path.parent}).") from error


def _check_shape(shape: tuple[int, int] | None, D: int) -> None:
    if shape is None:
        raise _Refused(f"a picture of {D} inputs needs --shape ROWSxCOLS, with ROWS * COLS = {D}.")
    if shape[0] * shape[1] != D:
        raise _Refused(f"--shape must have {D} entries, as many as there are inputs, got {shape[0]}x{shape[1]}.")


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
    with _refusing():
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
        stream.write(text.tobytes().decode("ascii"))


# What is printed


def _splits(dataset: Dataset) -> dict[str, Any]:
    return {name: X for name in SPLITS if (X := getattr(dataset, name)) is not None}


def _describe_data(dataset: Dataset, shape: tuple[int, int] | None) -> str:
    sizes = ", ".join(f"{X.shape[0]} {name}" for name, X in _splits(dataset).items())
    image = f" ({shape[0]} x {shape[1]})" if shape else ""
    return f"{dataset.name}: {dataset.train.shape[1]} inputs{image}; {sizes} rows"


def _describe_model(model: MADEModel) -> str:
    D = model.n_features_in
    sizes = "-".join(str(n) for n in (D, *model.connectivity.hidden_sizes, D))
    return f"{sizes} {model.activation}, {model.n_parameters:,} parameters, {model.theta.dtype}"


def _bytes(path: Path) -> str:
    n = path.stat().st_size
    return f"{n / 1e6:.1f} MB" if n >= 1e6 else f"{n / 1e3:.1f} kB"


def _print_summary(made: MADE, dataset: Dataset, shape: tuple[int, int] | None, seconds: float) -> None:
    records = made.history_
    speed = dataset.train.shape[0] * len(records) / sum(record["seconds"] for record in records)
    which = f"best epoch {made.best_epoch_} of" if dataset.valid is not None else "all of"
    threads = f"{made.n_threads} thread{'s' if made.n_threads != 1 else ''}"
    print(f"data        {_describe_data(dataset, shape)}")
    print(f"model       {_describe_model(made.model_)}, {made.ordering} ordering")
    print(f"training    {which} {len(records)}, {seconds:.1f} s, {speed:,.0f} rows/s, {threads}, seed {made.random_state}\n")
    _print_scores(made.model_, dataset, _splits(dataset), made.n_threads)


def _print_scores(model: MADEModel, dataset: Dataset, splits: dict[str, Any], n_threads: int | None) -> None:
    """Print, for each split, mean NLL and its standard error for the model and for the baseline."""
    from math import log

    rows = [("NLL in nats", "rows", "MADE", "bits/dim", "independent Bernoulli")]
    for name, X in splits.items():
        nll = -model.score_samples(X, n_threads=n_threads)
        bits = nll.mean() / (model.n_features_in * log(2))
        rows.append((name, str(len(nll)), _mean(nll), f"{bits:.4f}", _mean(_independent_nll(dataset.train, X))))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        print("   ".join(cells))


def _mean(nll: NDArray[np.float64]) -> str:
    error = f" ± {nll.std(ddof=1) / len(nll) ** 0.5:.3f}" if len(nll) > 1 else ""
    return f"{nll.mean():.3f}{error}"


def _independent_nll(train: Any, X: Any) -> NDArray[np.float64]:
    """Return the NLL of each row of X when every input is a coin, p = (ones in train + 1) / (train rows + 2)."""
    import numpy as np

    from made_fast import checks, data

    ones = sum(checks.ones(train[part]).sum(axis=0) for part in data.chunks(*train.shape))
    p = (ones + 1) / (train.shape[0] + 2)
    weights = np.log(p) - np.log1p(-p)
    log_p = [checks.ones(X[part]) @ weights for part in data.chunks(*X.shape)]
    return -(np.concatenate(log_p) + np.log1p(-p).sum())
