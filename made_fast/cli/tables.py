"""The commands on models of tables of any columns: evaluate, score, sample, impute, query, info, and the report of a fit.

Not here: models of 0/1 rows (``use.py``), options, files.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from copy import deepcopy
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from made_fast.cli import files, images, report
from made_fast.cli.files import refusing
from made_fast.cli.options import UsageError
from made_fast.cli.readers import STDOUT
from made_fast.inference.chunked import Copies, Turn
from made_fast.inference.tablemodel import TableModel
from made_fast.system.console import say
from made_fast.tables import arguments
from made_fast.tables.columns import frames
from made_fast.tables.columns.values import Values
from made_fast.tables.reading import rawtable
from made_fast.tables.reading.chunks import require_pyarrow
from made_fast.tables.reading.csvtable import write_table
from made_fast.tables.reading.rawtable import AnyRows, RawTable, Rows

__all__ = [
    "describe_data",
    "describe_model",
    "evaluate",
    "impute",
    "info",
    "picture",
    "print_report",
    "query",
    "sample",
    "score",
]

ROWS_AT_ONCE = 1 << 16
"""Rows that are drawn and written at a time."""

PICTURED = 20_000
"""Most rows behind a picture."""


def evaluate(args: argparse.Namespace, model: TableModel) -> int:
    """Score the splits of a table."""
    if args.plot is not None:
        raise UsageError(
            "--plot is for models of 0/1 rows and several masks; --samples FILE.png draws the columns of a table."
        )
    table = files.load_table(args)
    chosen = files.chosen_splits(args, table)
    print(f"data        {describe_data(table)}")
    print(f"model       {describe_model(model)}\n", flush=True)
    print_report(table, chosen, model, _asking(args))
    if args.samples is not None:
        picture(args, model, table.train)
        print(f"\npicture     {report.describe_file(args.samples)}")
    return 0


def score(args: argparse.Namespace, model: TableModel) -> int:
    """Print or write log p of every row and, with --explain, what each column adds to -log p."""
    chosen = files.chosen_splits(args, files.load_table(args))
    estimated = [0, 0]

    def scored() -> Iterator[Rows]:
        for rows in chosen.values():
            for part in _parts(rows):
                log_p, std = _scores(model, part, _asking(args))
                columns = {"log_p": log_p} | ({"std": std} if args.std else {})
                if args.explain:
                    with report.noting(), refusing(ValueError, TypeError):
                        X, context = _parted(model, part)
                        each = model.explain(X, context=context, n_walks=args.walks, n_threads=args.threads)
                    columns |= dict(zip(model.columns.names, each.T, strict=True))
                elif not args.std:
                    estimated[0] += int(np.count_nonzero(std))
                estimated[1] += len(std)
                yield columns

    if files.kind(args.out) == ".npy":
        values = np.concatenate([np.column_stack(list(columns.values())) for columns in scored()])
        files.write(args.out, lambda stream: np.save(stream, values if values.shape[1] > 1 else values[:, 0]))
    else:
        _write_parts(args.out, scored())
    if estimated[0]:
        files.note(f"{estimated[0]} of {estimated[1]} rows are estimates; --std tells their standard errors.")
    return 0


def sample(args: argparse.Namespace, model: TableModel) -> int:
    """Draw rows as a table."""
    suffix = files.kind(args.out)
    if suffix != ".csv" or args.shape is not None:
        raise UsageError(f"rows of a table are written as .csv, got --out {args.out}. Give --out FILE.csv, or leave it out.")
    rng, contexts = arguments.generator(args.seed), _contexts(args, model)
    n_contexts = 1 if contexts is None else len(next(iter(contexts.values())))
    each = max(1, ROWS_AT_ONCE // args.n_samples)  # contexts at a time

    def lines() -> Iterator[str]:
        for first in range(0, n_contexts, each):
            some = None if contexts is None else {name: values[first : first + each] for name, values in contexts.items()}
            for begin in range(0, args.n_samples, ROWS_AT_ONCE):
                n, text = min(ROWS_AT_ONCE, args.n_samples - begin), io.StringIO()
                drawn = _columns(model, model.sample(n, rng, context=some, n_threads=args.threads))
                if some is not None:
                    drawn |= {name: np.repeat(values, n) for name, values in some.items()}
                write_table(text, list(drawn.values()), list(drawn))
                yield text.getvalue() if not (first or begin) else text.getvalue().partition("\n")[2]

    with refusing(ValueError, TypeError):
        files.write_lines(args.out, lines())
    return 0


def impute(args: argparse.Namespace, model: TableModel) -> int:
    """Fill in what is missing of a table."""
    if args.hide is not None or args.samples is not None or args.shape is not None:
        raise UsageError(
            "--hide, --samples and --shape are for 0/1 rows; the rows of a table are filled in by --out FILE.csv."
        )
    if args.out is None or files.kind(args.out) not in (".csv", ".parquet"):
        raise UsageError(
            "rows of a table are written as .csv or .parquet: give --out FILE.csv, or --out - for standard output."
        )
    table = files.load_table(args)
    chosen = files.chosen_splits(args, table)
    if len(chosen) > 1:
        raise UsageError(f"{args.out} holds one table, not {', '.join(chosen)}. Choose one by --split.")
    (rows,) = chosen.values()
    n_rows = rawtable.length(rows) if args.rows is None else min(args.rows, rawtable.length(rows))
    if args.out != STDOUT and files.is_same(args.out, args.data) and (args.drop or n_rows < rawtable.length(table.train)):
        raise UsageError(f"{args.out} is DATA, and would lose what is left out of it. Choose another --out.")
    tell = say if args.out == STDOUT else print
    options = {"n_members": args.members, "n_walks": args.walks, "n_threads": args.threads}
    rng, copies = arguments.generator(args.seed), Copies()
    done = [0, 0]

    def filled() -> Iterator[Rows]:
        for part in _parts(rows):
            some = {name: values[: n_rows - done[0]] for name, values in part.items()}
            X, context = _parted(model, some)
            with report.noting(), refusing(ValueError, TypeError):
                whole = model.impute(X, args.method, context=context, random_state=Turn(deepcopy(rng), copies), **options)
            given = {} if context is None else {name: values.masked() for name, values in frames.read(context).items()}
            columns = _columns(model, whole) | {str(name): values for name, values in given.items()}
            done[0] += rawtable.length(columns)
            done[1] += rawtable.n_missing(X)
            yield columns
            if done[0] == n_rows:
                return

    _write_parts(args.out, filled())
    tell(f"data        {describe_data(table)}")
    tell(f"model       {describe_model(model)}")
    tell(f"imputed     {done[1]:,} entries in {done[0]:,} row{'s' if done[0] != 1 else ''}, by {args.method}")
    if args.out != STDOUT:
        tell(f"output      {report.describe_file(args.out)}")
    return 0


def query(args: argparse.Namespace, model: TableModel) -> int:
    """Print the probability that a row satisfies a query."""
    options = {"n_members": args.members, "n_walks": args.walks, "random_state": args.seed, "n_threads": args.threads}
    contexts = _contexts(args, model)
    with refusing(ValueError, TypeError):
        found = model.probability(args.query, context=contexts, return_std=True, **options)
    for p, std in zip(*map(np.atleast_1d, found), strict=True):
        print(f"{p:.6g}" + (f" ± {std:.2g} (standard error, {args.walks} walks)" if std > 0 else ""))
    return 0


def info(model: TableModel) -> dict[str, str]:
    """Return facts about a model: its columns, and those about its density."""
    facts = {"columns": f"{len(model.columns)}"}
    for line in model.columns.describe():
        name, _, rest = line.partition(": ")
        facts[f"  {name[:40]}"] = rest
    if model.encoder.context is not None:
        facts["context"] = f"{len(model.encoder.context)}"
        for line in model.encoder.context.describe():
            name, _, rest = line.partition(": ")
            facts[f"  {name[:40]} "] = rest
    rest_of = report.model_facts(model.density)  # type: ignore[arg-type]  # a file holds no other densities
    return facts | {name: fact for name, fact in rest_of.items() if name != "inputs"}


def describe_data(table: RawTable) -> str:
    """Return one line: name, columns, rows of each split, missing entries."""
    found = table.splits
    sizes, width = {name: rawtable.length(rows) for name, rows in found.items()}, len(rawtable.labels(table.train))
    n_gaps, n = sum(map(rawtable.n_missing, found.values())), sum(sizes.values()) * width
    missing = f"; {n_gaps:,} entries ({n_gaps / n:.1%}) are missing" if n_gaps else ""
    return f"{table.name}: {width} columns; {', '.join(f'{n} {name}' for name, n in sizes.items())} rows{missing}"


def describe_model(model: TableModel) -> str:
    """Return one line: kinds of columns, then the network or the networks."""
    return f"{model.columns.kinds}; {report.describe_model(model.density)}"  # type: ignore[arg-type]  # a file holds no other densities


def print_report(table: RawTable, chosen: dict[str, AnyRows], model: TableModel, ask: report.Asking) -> None:
    """Print the mean NLL of each split, beside that of independent columns."""
    missing = any(map(rawtable.n_missing, chosen.values()))
    if missing:
        print(f"Of rows with missing entries, what is there is scored (log_marginal, n_members={ask.n_members}).\n")
    rows, estimated = [("NLL in nats", "rows", "MADE", "independent columns")], []
    with refusing(ValueError, TypeError):
        alone = _Independent(model, table.train)
    for name, part in chosen.items():
        found = [(*_scores(model, some, ask), alone.nll(some)) for some in _parts(part)]
        log_p, std, nll_alone = (np.concatenate(each) for each in zip(*found, strict=True))
        rows.append((name, str(len(log_p)), report.mean_of(-log_p), report.mean_of(nll_alone)))
        if std.any():
            estimated.append(f"{np.count_nonzero(std)} rows of {name}")
    report.print_table(rows)
    if estimated:
        print(f"\nBy {ask.n_walks} walks each, and so not exact: {', '.join(estimated)}.")
        print("A model trained with --masks unlimited answers exactly.")
    print("\nNLL is in nats, numbers in the units of their columns.", end=" ")
    print(f"± is half of the 95 % interval of a mean, {report.HALF} standard errors.")


def picture(args: argparse.Namespace, model: TableModel, rows: AnyRows) -> None:
    """Draw every column of a table, the model's draws against its rows, and how pairs of columns depend."""
    some = np.sort(np.random.default_rng(0).permutation(rawtable.length(rows))[:PICTURED])
    X, context = _parted(model, rawtable.taken(rows, some))
    each = min(PICTURED, 10 * len(some)) if context is None else max(1, min(10, PICTURED // len(some)))
    codes = model.columns.encode(X).codes
    drawn = model.columns.encode(model.sample(each, 0, context=context, n_threads=args.threads)).codes
    files.write(args.samples, lambda stream: images.save_columns(stream, model.columns, codes, drawn))


class _Independent:
    """The baseline: the shares of the levels of each column in training rows, (count + 1) / (n + levels)."""

    def __init__(self, model: TableModel, train: AnyRows) -> None:
        self.model = model
        counts = [np.ones(n_levels) for n_levels in model.columns.n_levels]
        for part in _parts(train):
            codes = model.columns.encode(_parted(model, part)[0]).codes
            for v, count in enumerate(counts):
                count += np.bincount(codes[codes[:, v] >= 0, v], minlength=len(count))
        self.log_shares = [np.log(count / count.sum()) for count in counts]

    def nll(self, rows: Rows) -> NDArray[np.float64]:
        """Return the NLL of what is there of rows, (n,) in nats."""
        found = self.model.columns.encode(_parted(self.model, rows)[0], density=True, per_column=False)
        assert found.log_density is not None
        nll = -found.log_density
        for v, log_share in enumerate(self.log_shares):
            nll -= np.append(log_share, 0)[found.codes[:, v]]  # of -1, the last: what is missing counts nothing
        return nll


def _scores(model: TableModel, rows: Rows, ask: report.Asking) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    options = {"n_members": ask.n_members, "n_walks": ask.n_walks, "random_state": 0}
    with refusing(ValueError, TypeError):
        X, context = _parted(model, rows)
        return model.log_observed(X, context=context, n_threads=ask.n_threads, warn=False, **options)


def _asking(args: argparse.Namespace) -> report.Asking:
    with refusing(ValueError):
        members, walks = arguments.count(args.members, "--members"), arguments.count(args.walks, "--walks")
    return report.Asking(args.threads, members, walks)


def _columns(model: TableModel, table: Any) -> Rows:
    """Return the columns of a table that the model made, by name."""
    arrays = [values.masked() for _, values in frames.read(table).items()]
    return dict(zip(model.columns.names, arrays, strict=True))


def _parted(model: TableModel, rows: Rows) -> tuple[Rows, Rows | None]:
    """Return the columns that a model is of, and those of its context, if it has one."""
    context = model.encoder.context
    with refusing(ValueError, TypeError):
        return rawtable.parted(rows, () if context is None else context.names, "DATA", "the context of the model")


def _contexts(args: argparse.Namespace, model: TableModel) -> Rows | None:
    """Return the rows of --context FILE, those columns of it that are the context of the model."""
    context = model.encoder.context
    if args.contexts is None:
        if context is not None:
            raise UsageError(
                f"--context must be given: the model was fitted with a context, of {', '.join(context.names[:8])}. Give "
                "--context FILE, a table with these columns."
            )
        return None
    if context is None:
        raise UsageError("--context must be left out: the model was fitted without one.")
    with refusing(OSError, ValueError, TypeError):
        (rows,) = rawtable.parts(rawtable.load(str(args.contexts)).train)  # it is in memory
        return rawtable.chosen(rows, context.names, "the context of the model")


def _parts(rows: AnyRows) -> Iterator[Rows]:
    """Yield rows part by part; what is wrong with a file comes to light while it is read."""
    with refusing(OSError, ValueError, TypeError):
        yield from rawtable.parts(rows)


def _write_parts(path: Any, parts: Iterable[Rows]) -> None:
    """Write columns by name, part by part: as .parquet, or as text below a line of their names."""
    if files.kind(path) == ".parquet":
        with refusing(ValueError):
            require_pyarrow(path)
        files.write(path, lambda stream: _fill_parquet(stream, parts))
        return

    def lines() -> Iterator[str]:
        header = 0
        for columns in parts:
            for start in range(0, rawtable.length(columns), ROWS_AT_ONCE):
                text = io.StringIO()
                write_table(text, [values[start : start + ROWS_AT_ONCE] for values in columns.values()], list(columns))
                yield text.getvalue()[header:]
                if not header:
                    text = io.StringIO()
                    write_table(text, [values[:0] for values in columns.values()], list(columns))
                    header = len(text.getvalue())

    files.write_lines(path, lines())


def _fill_parquet(stream: BinaryIO, parts: Iterable[Rows]) -> None:
    """Write columns by name, part by part, in the types of the first part."""
    import pyarrow as pa
    from pyarrow import parquet

    def column(values: Values) -> Any:
        return pa.array(values.values, pa.string() if values.base in ("text", "null") else None, mask=values.null)

    with ExitStack() as stack:  # it is closed before the file, whatever happens
        writer = None
        for part in parts:
            table = pa.table({str(name): column(values) for name, values in frames.read(part).items()})
            writer = writer or stack.enter_context(parquet.ParquetWriter(stream, table.schema))
            writer.write_table(table.cast(writer.schema))
