"""How many rows satisfy a query? MADE against what databases keep, in the way of the Naru paper.

``python -m bench.tables.selectivity --data DIR`` from the root of the repository; DIR has ``adult-train.csv.gz``,
``adult-test.csv.gz`` (asked as one table, as in a database) and ``diamonds.csv.gz``. Writes ``results/selectivity.json``.

Queries are those of Yang et al., "Deep Unsupervised Learning for Selectivity Estimation" (VLDB 2020, section 6): conjunctions
of 5 to 11 filters on columns drawn at random, with the literals of a row drawn at random, so that no query is empty. Operators
are =, in columns of ten values or more =, <= or >= at random (text is in alphabetical order); a missing literal is asked for
by "is null". The truth is counted.

    q-error = max(estimate / truth, truth / estimate)    in rows, both at least 1

All that estimate know the table that is asked about: nothing is held out. Bytes are those of a model's file; of the others,
those of their numbers alone, without names and literals, which is in their favour. Independence has the count of every
single value, and so cannot take more bytes; the tree has the levels of ``one``, or as many as bring its tables near the bytes
of a model; a sample has as many rows as fit, each place packed in the smallest int. Times are of one CPU.

The settings were chosen on queries of another seed. Not here: joins, updates, the tree (``chow_liu_levels.py``).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench import machine
from bench.tables.chow_liu_levels import ChowLiuLevels
from made_fast import MADE, MADEEnsemble
from made_fast.inference.tablemodel import TableModel
from made_fast.tables.columns.learn import learn
from made_fast.tables.columns.query import parse
from made_fast.tables.columns.schema import Columns
from made_fast.tables.reading.csvtable import read_table

__all__ = ["Filter", "Indexed", "draw_queries", "main", "q_errors"]

HERE = Path(__file__).parent
SETS = ("adult", "diamonds")
ADULT = (
    "age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship", "race", "sex",
    "capital-gain", "capital-loss", "hours-per-week", "native-country", "income",
)  # fmt: skip

FEWEST, MOST = 5, 11
"""Filters of a query."""

MANY_VALUES = 10
"""From so many values on, filters of a column may be ranges."""

COMMON: dict[str, Any] = {
    "dropout": 0.0,  # the rows of training are those that are asked about: what is learned by heart is right
    "batch_size": 256,
    "learning_rate": 5e-3,
    "learning_rate_schedule": "cosine",
    "missing": "value",
    "n_threads": 1,
    "random_state": 0,
}
ONE: dict[str, Any] = {"hidden_sizes": (64,), "direct_connections": "none", "n_bins": 64, "max_epochs": 40}
MODELS: dict[str, dict[str, Any]] = {
    "one": ONE,
    "one, direct": ONE | {"direct_connections": "output"},
    "one, 32 bins": ONE | {"n_bins": 32},
    "one, 128 bins": ONE | {"n_bins": 128},
    "one, 256 bins": ONE | {"n_bins": 256},
    "four orderings": ONE | {"hidden_sizes": (128,), "direct_connections": "output", "n_masks": 4},
    "any order": ONE
    | {
        "hidden_sizes": (128,),
        "direct_connections": "output",
        "n_masks": None,
        "n_eval_masks": 1,
        "max_epochs": 60,
    },
    "ensemble": ONE | {"n_members": 4, "hidden_sizes": (128,), "max_epochs": 20, "n_jobs": 1},
}
OF_SETS: dict[str, dict[str, dict[str, Any]]] = {"adult": {"one, ages as categories": ONE | {"columns": {"age": "ordered"}}}}
"""Models of one set alone: adult has 74 ages, some of which share a bin of 64."""

TREE_BINS = (16, 32, 64, 128, 256, 512, 1024)
WALKS = (64, 256, 1024, 4096)
MORE_WALKS = 1024  # than the 256 that are the default
REFERENCE_WALKS = 16384

Table = Mapping[str, NDArray[Any]]
Floats = NDArray[np.float64]


class Filter(NamedTuple):
    """A condition on a column; ``value`` is None for a missing one."""

    column: str
    operator: str
    value: Any


Query = list[Filter]
Estimate = Callable[[Query], float]


class Indexed:
    """A table by the places of its values among the different ones of each column, which counts rows exactly.

    Missing values have place -1, and satisfy ``= None`` alone.
    """

    def __init__(self, values: dict[str, NDArray[Any]], places: dict[str, NDArray[np.int32]]) -> None:
        self.values, self.places = values, places
        self.n_rows = len(next(iter(places.values())))

    @classmethod
    def of(cls, table: Table) -> Indexed:
        """Return a table of any columns, indexed."""
        values, places = {}, {}
        for name, column in table.items():
            column = np.asarray(column)
            if column.dtype == object:
                gone = np.fromiter((value is None for value in column), np.bool_, len(column))
                different = sorted({value for value in column if value is not None})
                at = {value: i for i, value in enumerate(different)} | {None: -1}
                places[name] = np.fromiter((at[value] for value in column), np.int32, len(column))
                values[name] = np.array(different, object)
            else:
                gone = column != column
                values[name], place = np.unique(column[~gone], return_inverse=True)
                places[name] = np.full(len(column), -1, np.int32)
                places[name][~gone] = place
        return cls(values, places)

    def take(self, rows: NDArray[np.intp]) -> Indexed:
        """Return some of the rows."""
        return Indexed(self.values, {name: places[rows] for name, places in self.places.items()})

    def bounds(self, condition: Filter) -> tuple[int, int]:
        """Return the first place that satisfies a condition and the one after the last."""
        if condition.value is None:
            return -1, 0
        values = self.values[condition.column]
        first, after = (int(np.searchsorted(values, condition.value, side)) for side in ("left", "right"))
        return {"=": (first, after), "<=": (0, after), ">=": (first, len(values))}[condition.operator]

    def count(self, query: Query) -> int:
        """Return how many rows satisfy a query."""
        found = np.ones(self.n_rows, np.bool_)
        for condition in query:
            first, after = self.bounds(condition)
            places = self.places[condition.column]
            found &= (places >= first) & (places < after)
        return int(found.sum())

    def demands(self, query: Query) -> dict[str, Any]:
        """Return a query as a mapping for ``TableModel.probability``; ranges of text, which has no order there, are lists."""
        out: dict[str, Any] = {}
        for condition in query:
            name, operator, value = condition
            if value is None or operator == "=":
                out[name] = value
            elif isinstance(value, str):
                first, after = self.bounds(condition)
                out[name] = self.values[name][first:after].tolist()
            else:
                out[name] = (None, value) if operator == "<=" else (value, None)
        return out

    @property
    def row_bytes(self) -> int:
        """The bytes of a row if each place is the smallest int that holds those of its column."""
        return sum(np.min_scalar_type(len(values)).itemsize for values in self.values.values())


def draw_queries(table: Indexed, n: int, rng: np.random.Generator, n_filters: int | None = None) -> list[Query]:
    """Draw queries of so many filters each or, by default, of 5 to 11, as far as there are columns."""
    names, out = list(table.values), []
    for _ in range(n):
        k = int(rng.integers(min(FEWEST, len(names)), min(MOST, len(names)) + 1)) if n_filters is None else n_filters
        row = int(rng.integers(table.n_rows))
        query = []
        for name in rng.choice(names, size=k, replace=False).tolist():
            operator = str(rng.choice(["=", "<=", ">="]))
            place = int(table.places[name][row])
            value = None if place < 0 else table.values[name][place]
            if value is None or len(table.values[name]) < MANY_VALUES:
                operator = "="
            query.append(Filter(name, operator, value.item() if isinstance(value, np.generic) else value))
        out.append(query)
    return out


def q_errors(estimates: Floats, truths: NDArray[Any]) -> Floats:
    """Return the q-errors of numbers of rows."""
    estimates, truths = np.maximum(estimates, 1), np.maximum(truths, 1)
    return np.maximum(estimates / truths, truths / estimates)


def read(name: str, data: Path) -> dict[str, NDArray[Any]]:
    """Return a table; adult is its two files together."""
    if name != "adult":
        return read_table(data / f"{name}.csv.gz")
    parts = [list(read_table(data / f"adult-{part}.csv.gz").values()) for part in ("train", "test")]
    table = dict(zip(ADULT, (np.concatenate(pair) for pair in zip(*parts, strict=True)), strict=True))
    table["income"] = np.array([value.rstrip(".") for value in table["income"]], object)  # those of the test rows end in one
    return table


class Asked(NamedTuple):
    """A table, and queries with their truths, by name."""

    table: Indexed
    queries: dict[str, tuple[list[Query], NDArray[np.int64]]]

    def report(self, estimate: Estimate, **more: Any) -> dict[str, Any]:
        """Return quantiles of the q-errors of what estimates probabilities, the time it takes, and what else is known."""
        row = dict(more)
        n, began = 0, time.process_time()
        for name, (queries, truths) in self.queries.items():
            found = np.array([estimate(query) for query in queries]) * self.table.n_rows
            n += len(queries)
            row[name] = summary(q_errors(found, truths))
            if name == "all" and (most := [len(query) == MOST for query in queries]) and any(most):
                row[f"those of all with {MOST} filters"] = summary(q_errors(found, truths)[most])
        row["ms_per_query"] = round(1e3 * (time.process_time() - began) / n, 3)
        return row


def summary(errors: Floats) -> dict[str, float]:
    """Return the quantiles of q-errors that the papers print."""
    at = {"median": 0.5, "95 %": 0.95, "99 %": 0.99, "max": 1.0}
    return {"n": len(errors)} | {name: round(float(np.quantile(errors, q)), 3) for name, q in at.items()}


def fitted(table: Table, settings: Mapping[str, Any]) -> tuple[TableModel, dict[str, Any]]:
    """Return a fitted model, and its settings, the time of its fit and the size of its file."""
    began = time.process_time()
    kind = MADEEnsemble if "n_members" in settings else MADE
    model = kind(**COMMON, **settings).fit(table).model_
    seconds = time.process_time() - began
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        model.save(path)
        n_bytes = path.stat().st_size
    return model, {
        "settings": dict(settings),
        "fit_cpu_s": round(seconds, 1),
        "bytes": n_bytes,
        "n_parameters": model.n_parameters,
        "nll": round(-model.score(table, n_threads=1), 3),
    }


def asking(model: TableModel, table: Indexed, **how: Any) -> Estimate:
    """Return what estimates by a model."""
    return lambda query: model.probability(table.demands(query), return_std=True, n_threads=1, **how)[0]


def independence(table: Indexed) -> tuple[Estimate, int]:
    """Return what multiplies the shares of each column, of which it knows the count of every value; its bytes."""
    up_to = {
        name: np.cumsum(np.append(0, np.bincount(places + 1, minlength=len(table.values[name]) + 1))) / table.n_rows
        for name, places in table.places.items()
    }

    def estimate(query: Query) -> float:
        p = 1.0
        for condition in query:
            first, after = table.bounds(condition)
            p *= up_to[condition.column][after + 1] - up_to[condition.column][first + 1]
        return p

    return estimate, sum(4 * (len(shares) - 1) for shares in up_to.values())


def sampling(table: Indexed, n: int, rng: np.random.Generator) -> tuple[Estimate, int]:
    """Return what counts in a sample of n rows; its bytes."""
    sample = table.take(np.sort(rng.choice(table.n_rows, n, replace=False)))
    return lambda query: sample.count(query) / n, n * table.row_bytes


def tree(table: Table, columns: Columns, indexed: Indexed) -> tuple[Estimate, int, float]:
    """Return what asks a Chow-Liu tree over the levels of columns; its bytes, and the seconds of its fit."""
    began = time.process_time()
    made = ChowLiuLevels(columns.n_levels.tolist()).fit(columns.encode(table).codes)
    seconds = time.process_time() - began
    # bins that a query cuts need their borders and counts, as those of the model do: four numbers a level
    n_bytes = made.n_bytes + 16 * sum(column.n_levels for column in columns.columns if column.kind == "numeric")
    return lambda query: made.probability(parse(indexed.demands(query), columns)), n_bytes, seconds


def trees(table: Table, indexed: Indexed, n_bytes: int, tree_bins: Sequence[int]) -> Iterator[tuple[str, Any]]:
    """Yield trees over the levels of the first model, and of about as many bytes."""
    found = {n: tree(table, learn(table, n_bins=n, missing="value"), indexed) for n in tree_bins}
    nearest = min(found, key=lambda n: abs(np.log(found[n][1] / n_bytes)))
    yield f"tree, the levels of one ({ONE['n_bins']} bins)", found[ONE["n_bins"]]
    yield f"tree, about the bytes of one ({nearest} bins)", found[nearest]


def estimators(asked: Asked, table: Table, n_bytes: dict[str, int], rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Yield rows of what is not a MADE."""
    indexed = asked.table
    estimate, size = independence(indexed)
    yield asked.report(estimate, estimator="independence, every value counted", bytes=size)
    samples = {"sample, 1 %": indexed.n_rows // 100}
    samples |= {f"sample, the bytes of {name}": size // indexed.row_bytes for name, size in n_bytes.items()}
    for name, n in samples.items():
        if n < indexed.n_rows:  # more would be the table itself
            estimate, size = sampling(indexed, n, rng)
            yield asked.report(estimate, estimator=name, bytes=size, n_sampled=n)
    for name, (estimate, size, seconds) in trees(table, indexed, n_bytes["one"], TREE_BINS):
        yield asked.report(estimate, estimator=name, bytes=size, fit_cpu_s=round(seconds, 1))


def walks(model: TableModel, table: Indexed, queries: Sequence[Query], reference: int) -> list[dict[str, Any]]:
    """Return how far estimates by several numbers of walks are from those by very many."""
    best = np.array([model.probability(table.demands(q), n_walks=reference, return_std=True, n_threads=1) for q in queries])
    known = best[:, 0] > 0
    out = []
    for n in WALKS:
        began = time.process_time()
        found = np.array([asking(model, table, n_walks=n, random_state=1)(query) for query in queries])
        ms = 1e3 * (time.process_time() - began) / len(queries)
        off = np.abs(found[known] / best[known, 0] - 1)
        quantiles = {f"relative error, {name}": round(float(np.quantile(off, q)), 4) for name, q in QUANTILES.items()}
        q_error = summary(q_errors(found * table.n_rows, best[:, 0] * table.n_rows))
        out.append({"n_walks": n, "ms_per_query": round(ms, 3), **quantiles, "q_error to the reference": q_error})
    worst = float((best[known, 1] / best[known, 0]).max())
    return [*out, {"n_walks": reference, "reference": True, "largest relative standard error": round(worst, 4)}]


QUANTILES = {"median": 0.5, "90 %": 0.9, "99 %": 0.99}


def by_samples(model: TableModel, table: Indexed, queries: Sequence[Query], n: int, reference: int) -> dict[str, Any]:
    """Return how far probabilities are from counts in n rows drawn from the model, in standard errors of the difference."""
    counts, drawn, parts = np.zeros(len(queries)), 0, max(1, n // 100_000)
    for part in range(parts):
        sample = Indexed.of({name: np.asarray(column) for name, column in model.sample(n // parts, part, n_threads=1).items()})
        counts += [sample.count(query) for query in queries]
        drawn += sample.n_rows
    found = np.array([model.probability(table.demands(q), n_walks=reference, return_std=True, n_threads=1) for q in queries])
    share = counts / drawn
    z = (share - found[:, 0]) / np.hypot(np.sqrt(found[:, 0] * (1 - found[:, 0]) / drawn), found[:, 1])
    return {
        "n_queries": len(queries),
        "n_sampled": drawn,
        "root mean square of z (1 is right)": round(float(np.sqrt((z**2).mean())), 2),
        "largest |z|": round(float(np.abs(z).max()), 2),
    }


def of_set(name: str, given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """Yield what is found of a set, by name; "rows" comes again with every row."""
    table = read(name, given.data)
    indexed = Indexed.of(table)
    rng = np.random.default_rng(given.seed)
    drawn = {"all": draw_queries(indexed, given.queries, rng)}
    if len(table) >= MOST:
        drawn[f"{MOST} filters"] = draw_queries(indexed, given.queries, rng, MOST)
    asked = Asked(
        indexed,
        {kind: (queries, np.array([indexed.count(query) for query in queries])) for kind, queries in drawn.items()},
    )
    yield "n_rows", indexed.n_rows
    yield "n_columns", len(table)
    yield "bytes of the table, each place in the smallest int", indexed.n_rows * indexed.row_bytes
    for kind, (_, truths) in asked.queries.items():
        at = {str(q): int(np.quantile(truths, q)) for q in (0, 0.25, 0.5, 0.75, 1)}
        yield f"quantiles of the truth, {kind}", at
    models, rows = {}, []
    for kind, settings in (MODELS | OF_SETS.get(name, {})).items():
        model, about = fitted(table, settings | ({"max_epochs": 1} if given.quick else {}))
        if kind in ("one", "ensemble"):
            models[kind] = model, about["bytes"]
        rows.append(asked.report(asking(model, indexed), estimator=kind, **about))
        yield "rows", rows
        if kind == "one":
            rows.append(
                asked.report(asking(model, indexed, n_walks=MORE_WALKS), estimator=f"one, {MORE_WALKS} walks", **about)
            )
            yield "rows", rows
    for row in estimators(asked, table, {kind: size for kind, (_, size) in models.items()}, rng):
        rows.append(row)
        yield "rows", rows
    queries, truths = asked.queries["all"]
    reference = 1024 if given.quick else REFERENCE_WALKS
    yield "walks of one", walks(models["one"][0], indexed, queries[:100], reference)
    frequent = [query for query, truth in zip(queries, truths, strict=True) if truth > indexed.n_rows / 500][:20]
    if frequent:
        n = 10_000 if given.quick else 1_000_000
        yield "probabilities of one and counts of its samples", by_samples(models["one"][0], indexed, frequent, n, reference)


def printed(row: Mapping[str, Any]) -> str:
    """Return a row of results as a line."""
    words = [f"{row['estimator']:44s} {row['bytes']:9d} B {row['ms_per_query']:7.2f} ms"]
    words += [f"fit {row['fit_cpu_s']:5.1f} s" if "fit_cpu_s" in row else " " * 11]
    for kind in ("all", f"{MOST} filters"):
        if kind in row:
            words.append(f"{kind}: " + " ".join(f"{row[kind][q]:7.2f}" for q in ("median", "95 %", "99 %", "max")))
    return "  ".join(words)


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask all queries of all estimators, write what is found, print it; return the exit code."""
    parser = argparse.ArgumentParser("python -m bench.tables.selectivity", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="where the tables are, NAME.csv.gz")
    parser.add_argument("--queries", type=int, default=2000, metavar="N", help="of a kind")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--work", type=Path, default=HERE / "results", metavar="DIR", help="where selectivity.json is written")
    parser.add_argument("--seed", type=int, default=2, help="of the queries")
    parser.add_argument("--quick", action="store_true", help="hardly any training: does it work?")
    given = parser.parse_args(arguments)
    given.work.mkdir(parents=True, exist_ok=True)
    path = given.work / "selectivity.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    sets: dict[str, Any] = before.get("sets", {}) if before.get("quick") == given.quick else {}
    for name in given.sets:
        command = f"python -m bench.tables.selectivity --data DIR --queries {given.queries} --sets {name} --seed {given.seed}"
        sets[name] = {"command": command}
        for what, found in of_set(name, given):
            sets[name][what] = found
            result = {
                "quick": given.quick,
                "machine": {"CPU": machine.cpu(), "CPUs": os.cpu_count(), "threads": 1, "Python": platform.python_version()},
                "versions": {package: version(package) for package in ("made_fast", "numpy")},
                "common settings": COMMON,
                "sets": sets,
            }
            temporary = path.with_suffix(".tmp")
            temporary.write_text(json.dumps(result, indent=1) + "\n")
            os.replace(temporary, path)
            print(f"{name}: {printed(found[-1]) if what == 'rows' else f'{what}: {json.dumps(found)}'}", flush=True)
    print(path)
    return 0


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sys.exit(main())
