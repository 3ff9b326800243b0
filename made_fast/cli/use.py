"""The commands that use a model file: evaluate, score, sample, impute, query, export, info.

Not here: models of tables (``tables.py``), files (``files.py``), texts.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from made_fast.cli import files, images, report, tables
from made_fast.cli.files import refusing
from made_fast.cli.options import UsageError
from made_fast.cli.readers import STDOUT
from made_fast.cli.report import AnyModel
from made_fast.inference.tablemodel import TableModel
from made_fast.system.console import say
from made_fast.tables import arguments, names
from made_fast.tables.reading import datasets
from made_fast.tables.reading.datasets import Dataset
from made_fast.tables.sparse import is_sparse

__all__ = ["evaluate", "export", "impute", "info", "query", "sample", "score"]

PICTURED = 20
"""Most rows in the picture that ``impute --samples`` draws, side by side."""

LINES = 1 << 14
"""Lines of scores that are printed at a time."""

CSV_ENTRIES = 1 << 20
"""Entries sampled and written at a time: a pipe gets its first lines at once, and any number of rows fits in memory."""


def evaluate(args: argparse.Namespace) -> int:
    """Score data under a model."""
    model = files.load_model(args.model)
    if isinstance(model, TableModel):
        return tables.evaluate(args, model)
    if args.samples is not None:
        raise UsageError("--samples draws the columns of a table, but the model is of 0/1 rows: see made-fast sample.")
    if args.plot is not None:
        if getattr(model, "n_masks", 1) == 1:
            raise UsageError(f"--plot draws the NLL against the number of masks, but {args.model} is no model of several.")
        if not images.has_matplotlib():
            raise UsageError(
                "--plot needs matplotlib, which is not installed. Run: pip install 'made_fast[plot]'. "
                "Without --plot, the same figures are printed as a table."
            )
    ask = _asking(model, args)
    dataset, model = _load_data_for(model, args)
    chosen = files.chosen_splits(args, dataset)
    if args.plot is not None and all(map(datasets.n_missing, chosen.values())):
        raise UsageError("--plot needs complete rows; all of these have missing entries.")
    print(f"data        {report.describe_data(dataset, dataset.shape, args.threshold)}")
    print(f"model       {report.describe_model(model)}\n", flush=True)
    curves = report.print_report(dataset, chosen, model, ask, parts=True)
    if args.plot is not None:
        files.write(args.plot, lambda stream: images.save_curves(stream, curves, dataset.name))
        print(f"\nplot        {report.describe_file(args.plot)}")
    return 0


def score(args: argparse.Namespace) -> int:
    """Print or write the log-likelihood of every row."""
    model = files.load_model(args.model)
    if isinstance(model, TableModel):
        return tables.score(args, model)
    _check_no_parquet(args)
    ask = _asking(model, args)
    dataset, model = _load_data_for(model, args)
    found = [report.score(model, X, ask) for X in files.chosen_splits(args, dataset).values()]
    log_p, std = -np.concatenate([each.nll for each in found]), np.concatenate([each.std for each in found])
    columns = {"log_p": log_p, "std": std} if args.std else {"log_p": log_p}
    if args.explain:
        with refusing(ValueError):
            parts = [model.explain(X, n_threads=args.threads) for X in files.chosen_splits(args, dataset).values()]
        labels = dataset.feature_names or [f"x{d}" for d in range(model.n_features_in)]
        columns |= dict(zip(labels, np.concatenate(parts).T, strict=True))
    if std.any() and not args.std:
        files.note(f"{np.count_nonzero(std)} of {len(std)} rows are estimates; --std tells their standard errors.")
    table = np.column_stack(list(columns.values()))
    if files.kind(args.out) == ".npy":
        files.write(args.out, lambda stream: np.save(stream, table if len(columns) > 1 else log_p))
    else:
        files.write_lines(args.out, _lines(list(columns), table))
    return 0


def sample(args: argparse.Namespace) -> int:
    """Draw rows from a model."""
    suffix = files.kind(args.out)
    if args.shape is not None and suffix != ".png":
        raise UsageError("--shape is for pictures: give --out FILE.png with it.")
    model = files.load_model(args.model)
    if isinstance(model, TableModel):
        return tables.sample(args, model)
    if args.contexts is not None:
        raise UsageError(f"--context is for models of tables that were fitted with one; {args.model} is of 0/1 rows.")
    shape = args.shape or files.remembered_shape(model)
    if suffix == ".png":
        files.check_shape(shape, model.n_features_in)
    rng = arguments.generator(args.seed)
    if suffix == ".csv":
        files.write_lines(args.out, _sampled_lines(model, args.n_samples, rng, args.threads))
        return 0
    X = model.sample(args.n_samples, rng, n_threads=args.threads)
    if suffix == ".png":
        files.write_png(args.out, X, shape)
    else:
        files.write(args.out, lambda stream: np.save(stream, X))
    return 0


def impute(args: argparse.Namespace) -> int:
    """Fill in missing entries."""
    model = files.load_model(args.model)
    if isinstance(model, TableModel):
        return tables.impute(args, model)
    if args.out is None and args.samples is None and args.hide is None:
        raise UsageError("nothing to write: give --out FILE, --samples FILE.png or --hide A:B. See made-fast impute --help.")
    if args.shape is not None and args.samples is None:
        raise UsageError("--shape is for pictures: give --samples FILE.png with it.")
    _check_no_parquet(args)
    _asking(model, args)
    tell = say if args.out == STDOUT else print
    D = model.n_features_in
    shape = args.shape or files.remembered_shape(model)
    if args.samples is not None:
        files.check_shape(shape, D)
    if args.hide is not None and args.hide[1] > D:
        raise UsageError(f"--hide must name columns of the {D} there are, 0:{D} at most, got {args.hide[0]}:{args.hide[1]}.")
    dataset, model = _load_data_for(model, args)
    given = {name: X[: args.rows] for name, X in files.chosen_splits(args, dataset).items()}
    if args.out is not None and len(given) > 1 and files.kind(args.out) != ".npz":
        raise UsageError(f"{args.out} holds one table, not {', '.join(given)}. Choose one by --split, or write a .npz.")
    if args.out not in (None, STDOUT) and files.is_same(args.out, args.data):
        _check_nothing_is_lost(args, dataset, given)
    asked = given if args.hide is None else {name: _hide(X, args.hide) for name, X in given.items()}
    n_missing = sum(map(datasets.n_missing, asked.values()))
    tell(f"data        {report.describe_data(dataset, dataset.shape, args.threshold)}")
    tell(f"model       {report.describe_model(model)}")
    filled = {name: _fill(model, X, args) for name, X in asked.items()}
    rows = sum(len(X) for X in filled.values())
    of_rows = f"{rows:,} row{'s' if rows != 1 else ''}"
    if n_missing:
        tell(f"imputed     {n_missing:,} entries in {of_rows}, by {args.method}")
    else:
        tell(f"imputed     nothing: no entry of {of_rows} is missing")
    if args.hide is not None:
        frequent = report.majority(dataset.train)
        for name, X in given.items():
            tell(f"{name:12}{_hits(X, asked[name], filled[name], frequent)}")
    if args.out is not None:
        header = dataset.feature_names
        files.write(args.out, lambda stream: _save(stream, files.kind(args.out), filled, header))
        size = "standard output" if args.out == STDOUT else report.describe_file(args.out)
        tell(f"output      {size}{_way_back(args, header)}")
    if args.samples is not None:
        name = list(filled)[-1]
        _draw(args, given[name], asked[name], filled[name], shape)
        tell(f"samples     {report.describe_file(args.samples)}")
    return 0


def info(args: argparse.Namespace) -> int:
    """Print what a model file holds."""
    model = files.load_model(args.model)
    about = tables.info(model) if isinstance(model, TableModel) else report.model_facts(model)
    facts = {"file": report.describe_file(args.model)} | about
    for name, fact in facts.items():
        print(f"{name:26}{fact}".rstrip())
    return 0


def query(args: argparse.Namespace) -> int:
    """Print the probability of a query."""
    model = files.load_model(args.model)
    if not isinstance(model, TableModel):
        raise UsageError(f"{args.model} is a model of 0/1 rows; a query is for one of a table, by made-fast train TABLE.csv.")
    return tables.query(args, model)


def _check_no_parquet(args: argparse.Namespace) -> None:
    if args.out is not None and files.kind(args.out) == ".parquet":
        raise UsageError("--out FILE.parquet is for models of tables; of 0/1 rows, give --out FILE.csv or FILE.npy.")


def export(args: argparse.Namespace) -> int:
    """Write a model as an ONNX graph."""
    model = files.load_model(args.model)
    with refusing(ImportError, ValueError, TypeError):
        proto = model.to_onnx(conditionals=not args.scores_only)
    files.write(args.onnx, lambda stream: stream.write(proto.SerializeToString()))  # type: ignore[arg-type]
    described = tables.describe_model(model) if isinstance(model, TableModel) else report.describe_model(model)
    print(f"model       {described}")
    for name, values in (("inputs", proto.graph.input), ("outputs", proto.graph.output)):
        print(f"{name:12}{report.describe_values(values)}")
    print(f"onnx        {report.describe_file(args.onnx)}")
    return 0


def _load_data_for(model: AnyModel, args: argparse.Namespace) -> tuple[Dataset, AnyModel]:
    """Load DATA through the model's threshold, or that of the user; return it and the model for 0/1 input.

    Columns that have names must be those of the model, if it knows their names.
    """
    if args.threshold is None:
        args.threshold = model.binarize
    dataset = files.load_data(args, model.n_features_in, model.hyper.get("index_base"))
    with refusing(ValueError):
        way_out = "Put the columns in the order of the model; --drop leaves columns out. made-fast info shows the names."
        names.check(dataset.feature_names, model.feature_names, args.data, way_out)
    return dataset, model.with_input(None)


def _asking(model: AnyModel, args: argparse.Namespace) -> report.Asking:
    """Return the options of answers; refuse --members if the model has fewer, and a number of --walks that is too large."""
    with refusing(ValueError):
        n_members, n_walks = arguments.count(args.members, "--members"), arguments.count(args.walks, "--walks")
    for single in report.single_models(model):
        most = single.most_members
        if most is not None and n_members > most:
            raise UsageError(
                f"--members must be at most {most}, for the model holds {most} mask(s), got {n_members}. A model trained with "
                "--masks unlimited answers by as many as are asked for."
            )
    return report.Asking(args.threads, n_members, n_walks)


def _check_nothing_is_lost(args: argparse.Namespace, dataset: Dataset, given: dict[str, Any]) -> None:
    """Refuse to replace DATA by the chosen rows if it holds more."""
    n, n_given = (sum(X.shape[0] for X in found.values()) for found in (dataset.splits, given))
    if n_given < n:
        raise UsageError(f"{args.out} is DATA, of {n} rows, and would keep {n_given}. Choose another --out.")
    if args.drop or (files.kind(args.out) == ".npz" and dataset.notes):  # arrays beside the rows
        raise UsageError(f"{args.out} is DATA, and would lose what is left out of it. Choose another --out.")


def _fill(model: AnyModel, X: Any, args: argparse.Namespace) -> NDArray[Any]:
    """Return X with its missing entries filled in; a line on standard error tells of estimates."""
    with report.noting():
        return model.impute(
            X, args.method, n_members=args.members, n_walks=args.walks, random_state=args.seed, n_threads=args.threads
        )


def _lines(names: list[str], table: NDArray[Any]) -> Iterator[str]:
    """Yield a table of numbers as lines of text, below a line of names; the numbers keep all their digits."""
    yield ",".join(names) + "\n"
    for begin in range(0, len(table), LINES):
        yield "".join(",".join(map(repr, row)) + "\n" for row in table[begin : begin + LINES].tolist())


def _sampled_lines(model: AnyModel, n: int, rng: np.random.Generator, n_threads: int | None) -> Iterator[str]:
    """Draw n rows and yield them as lines of 0/1, a few at a time."""
    step = max(1, CSV_ENTRIES // model.n_features_in)
    for begin in range(0, n, step):
        X = model.sample(min(step, n - begin), rng, n_threads=n_threads)
        text = np.full((len(X), 2 * X.shape[1]), ord(","), np.uint8)
        text[:, ::2] = X + ord("0")
        text[:, -1] = ord("\n")
        yield text.tobytes().decode("ascii")


def _hits(X: Any, asked: NDArray[np.float32], filled: NDArray[Any], frequent: NDArray[np.bool_]) -> str:
    """Return a line about the hidden entries that are right."""
    truth = _dense(X)
    hidden = np.isnan(asked) & ~np.isnan(truth)
    right = ((filled > 0.5) == (truth > 0.5))[hidden].mean()
    baseline = (frequent == (truth > 0.5))[hidden].mean()
    entries = f"{hidden.sum():,} hidden entries"
    return f"{right:.2%} of {entries} are right; by the most frequent value of each column in training rows {baseline:.2%}"


def _way_back(args: argparse.Namespace, names: Sequence[str] | None) -> str:
    """Return how to read the rows again if their values differ from those of the model's data or their names are numbers."""
    ways = []
    if args.method == "mean":
        ways.append("probabilities; to read them as 0/1, give --threshold 0.5")
    elif args.threshold is not None and not 0 <= args.threshold < 1:
        ways.append(f"0/1; where the model has the threshold {args.threshold:g}, give --threshold 0.5 with it")
    if files.kind(args.out) in (".csv", ".txt") and any(map(_is_number, names or ())):
        ways.append("names that are numbers; to read them, give --header yes")
    return "".join(f": {way}" for way in ways)


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def _draw(args: argparse.Namespace, given: Any, asked: Any, filled: Any, shape: tuple[int, int] | None) -> None:
    """Draw columns of three pictures: a row, the row with hidden entries, the imputed row; without --hide, the last two.

    The rows are spread over the split: many files hold one class after the other.
    """
    rows = np.linspace(0, len(filled) - 1, min(PICTURED, len(filled))).round().astype(np.intp)
    bands = [given, asked, filled] if args.hide is not None else [asked, filled]
    pictures = np.concatenate([_dense(band[rows]) for band in bands])
    files.write_png(args.samples, pictures, shape, columns=len(rows))


def _hide(X: Any, columns: tuple[int, int]) -> NDArray[np.float32]:
    """Return a copy of a table whose columns ``columns[0] .. columns[1] - 1`` are missing."""
    out = _dense(X)
    out[:, slice(*columns)] = np.nan
    return out


def _dense(X: Any) -> NDArray[np.float32]:
    """Return a copy of a table of 0, 1 and NaN as an array."""
    return np.array(X.toarray() if is_sparse(X) else X, np.float32)  # type: ignore[attr-defined]  # SciPy's


def _save(stream: IO[bytes], suffix: str, tables: dict[str, NDArray[Any]], header: Sequence[str] | None) -> None:
    """Write tables by name in the format of a suffix, several of them as .npz only.

    In text, numbers that are not 0 or 1 have six digits, and names of the columns come first, quoted where need be.
    """
    if suffix == ".npz":
        np.savez_compressed(stream, **tables)  # type: ignore[arg-type]  # a keyword is an array's name
        return
    (X,) = tables.values()
    if suffix == ".npy":
        np.save(stream, X)
        return
    delimiter = "," if suffix == ".csv" else " "
    if header is not None:
        stream.write(f"{delimiter.join(map(_quoted, header))}\n".encode())
    np.savetxt(stream, X, fmt="%d" if X.dtype.kind in "iu" else "%.6g", delimiter=delimiter)


def _quoted(name: str) -> str:
    """Return a name as a cell of text: in quotes where another separator, or a comment, might be seen in it."""
    return name if re.fullmatch(r'[^\s",;#]+', name) else '"' + name.replace('"', '""') + '"'
