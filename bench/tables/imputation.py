"""Missing entries filled in, ours beside what people use now: ``python -m bench.tables.imputation --data DIR``.

Some entries of a table are hidden, completely at random or a run of neighbouring columns of each row. Every method is fitted
on the table with the holes, and fills them in. Told are, of the hidden entries: the share of categories that are right; the
root mean square of the errors of numbers, in standard deviations of their column; and, of those methods that have one, the
log-likelihood of the hidden values given what is there of their row, in nats an entry. What was missing before stays so, and
does not count. A number is a column of numbers with more than two values; all other columns are categories. Log-likelihoods
are of each hidden value by itself: two hidden ones of a row do not help each other.

Each method beside ours is compared with ours on the same entries; the noise of a difference is its standard deviation over
samples, with replacement, of the rows. Seconds are those of the clock, on one thread. Results are kept in WORK: the same
command, given again, does what is left.

Not here: how fast the filling in is in service (``bench/serving.py``), 0/1 tables with holes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench import machine
from made_fast import MADE, MADEImputer
from made_fast.tables.columns.learn import learn
from made_fast.tables.reading.csvtable import read_table

__all__ = ["METHODS", "OURS", "SETS", "hide", "main", "table_of"]

HERE = Path(__file__).parent
Floats = NDArray[np.float64]
Holes = NDArray[np.bool_]

SETS = {
    "titanic": "titanic.csv.gz",
    "german": "german.csv.gz",
    "adult": "adult-train.csv.gz",
    "diamonds": "diamonds.csv.gz",
    "abalone": "abalone.csv.gz",
    "breast-cancer": "breast-cancer.csv.gz",
    "auto_imports": "auto_imports.csv.gz",
}
MOST_ROWS = 1000
"""Rows of a table, drawn from all: what the slowest method can do in a minute or two."""

HOLES = ("entries 0.1", "entries 0.3", "entries 0.5", "blocks 0.3")
"""Kinds of holes: how entries are hidden, and the share of them."""
SAMPLES = 500
"""Samples of the rows that tell the noise of a difference."""


class Answer(NamedTuple):
    """What a method makes of a table with holes; ``log_p`` is that of the hidden values of each row, if it has one."""

    filled: pd.DataFrame
    seconds_fit: float
    seconds_fill: float
    log_p: Floats | None = None


class Scored(NamedTuple):
    """How good an answer is: (n, columns), NaN where nothing was hidden, and log p of each row or NaN."""

    hits: Floats
    errors: Floats
    log_p: Floats
    seconds: Floats


def table_of(path: Path, most_rows: int, seed: int = 0) -> pd.DataFrame:
    """Return a table whose categories are text or None, and whose numbers are float64 or NaN."""
    columns = read_table(path)
    n = len(next(iter(columns.values())))
    rows = np.sort(np.random.default_rng(seed).permutation(n)[:most_rows])
    found = {}
    for name, column in columns.items():
        values = column[rows]
        if values.dtype.kind in "iuf" and len(np.unique(values[~np.isnan(values.astype(float))])) > 2:
            found[name] = values.astype(np.float64)
        else:
            found[name] = np.array([None if v is None or v != v else str(v) for v in values.tolist()], object)
    frame = pd.DataFrame({name: pd.Series(values, dtype=values.dtype) for name, values in found.items()})
    return frame.loc[:, [frame[name].nunique() > 1 for name in frame]]


def hide(frame: pd.DataFrame, share: float, pattern: str, rng: np.random.Generator) -> Holes:
    """Draw which of the entries that are there are hidden, (n, V); two of every column stay."""
    n, V = frame.shape
    if pattern == "entries":
        hidden = rng.random((n, V)) < share
    else:
        length = np.rint(rng.random(n) * 2 * share * V).astype(int).clip(0, V)
        start = np.floor(rng.random(n) * (V - length + 1)).astype(int)
        place = np.arange(V)
        hidden = (place >= start[:, None]) & (place < (start + length)[:, None])
    there = frame.notna().to_numpy()
    hidden &= there
    for v in range(V):
        hidden[np.flatnonzero(there[:, v])[:2], v] = False
    return hidden


def numbers(frame: pd.DataFrame) -> list[str]:
    """Return the names of the columns of numbers."""
    return [name for name in frame if frame[name].dtype.kind == "f"]


# Ours

OURS: dict[str, Any] = {
    "n_masks": None,
    "n_eval_masks": 8,
    "hidden_sizes": (100,),
    "dropout": 0.25,
    "learning_rate": 5e-3,
    "learning_rate_schedule": "cosine",
    "batch_size": 20,
    "max_epochs": 80,
    "n_bins": 16,
    "handle_unknown": "rare",
    "n_threads": 1,
    "random_state": 0,
}
"""One setting for all tables. It was chosen by what was hidden in "entries 0.3" of seed 0, so that other seeds are fairer."""

WALKS = 50
"""Walks that the means are means over."""


MEMBERS = 4
"""Networks of one model, under orderings and degrees of their own, that answer together."""

TOGETHER = f"{MEMBERS} networks"


def ours(holes: pd.DataFrame, whole: pd.DataFrame) -> Iterator[tuple[str, Answer]]:
    """Yield the answers of a MADE: columns each by itself, and one after the other, by one network or several."""
    begin = time.perf_counter()
    imputer = MADEImputer(MADE(**OURS), n_walks=WALKS, random_state=0, n_threads=1).fit(holes)
    fit = time.perf_counter() - begin
    log_p = log_p_hidden(imputer.model_, holes, whole, MEMBERS)
    for words, n_members, method in (("1 network", 1, "mode"), ("1 network", 1, "mean"), (TOGETHER, MEMBERS, "mean")):
        begin = time.perf_counter()
        filled = imputer.set_params(method=method, n_members=n_members).transform(holes)
        seconds = time.perf_counter() - begin
        yield f"{words}, {method}", Answer(filled, fit, seconds, log_p if n_members == MEMBERS else None)


def log_p_hidden(model: Any, holes: pd.DataFrame, whole: pd.DataFrame, n_members: int) -> Floats:
    """Return the sum over the hidden entries of each row of log p of each, given what is there, (n,)."""
    truth, out = model.columns.encode(whole, density=True), np.zeros(len(holes))
    for v, name in enumerate(holes):
        rows = np.flatnonzero((holes[name].isna() & whole[name].notna()).to_numpy())
        if len(rows):
            proba = model.conditional(holes.iloc[rows], name, n_members=n_members, n_threads=1).proba
            own = proba[np.arange(len(rows)), truth.codes[rows, v]]
            out[rows] += np.log(np.maximum(own, 1e-300)) + truth.log_density[rows, v]
    return out


# The others


def marginal(holes: pd.DataFrame, whole: pd.DataFrame) -> Iterator[tuple[str, Answer]]:
    """Yield the most frequent category, the mean; log p is that of the levels that ours would have, one by one."""
    from sklearn.impute import SimpleImputer

    begin = time.perf_counter()
    filled = holes.copy()
    for name in holes:
        strategy = "mean" if holes[name].dtype.kind == "f" else "most_frequent"
        own = holes[[name]].where(holes[[name]].notna(), np.nan)
        filled[name] = SimpleImputer(strategy=strategy).fit_transform(own).ravel()
    seconds = time.perf_counter() - begin
    columns = learn(holes, n_bins=OURS["n_bins"], handle_unknown=OURS["handle_unknown"])
    seen, asked = columns.encode(holes), columns.encode(whole, density=True)
    log_p = np.zeros(holes.shape)
    for v, n_levels in enumerate(columns.n_levels):
        counts = np.bincount(seen.codes[seen.codes[:, v] >= 0, v], minlength=n_levels) + 0.5
        log_p[:, v] = np.log(counts / counts.sum())[asked.codes[:, v]] + asked.log_density[:, v]
    hidden = holes.isna().to_numpy() & whole.notna().to_numpy()
    yield "", Answer(filled, seconds, 0.0, np.where(hidden, log_p, 0).sum(axis=1))


class OneHot:
    """A table as numbers, each standardised, and 0/1 columns for every category; and back, by the largest of these.

    ``but_first`` leaves the first category of each column out: its 0/1 is 1 less the others, and a regression of it on these
    would never move from where the missing entries of both began.
    """

    def __init__(self, holes: pd.DataFrame, but_first: bool = False) -> None:
        self.frame, self.numbers, self.but_first = holes, numbers(holes), but_first
        self.mean, self.std = holes[self.numbers].mean(), holes[self.numbers].std().replace(0, 1).fillna(1)
        self.categories = {name: sorted(holes[name].dropna().unique()) for name in holes if name not in self.numbers}

    def encode(self) -> Floats:
        """Return the table, (n, columns), NaN where an entry is missing."""
        parts = [((self.frame[self.numbers] - self.mean) / self.std).to_numpy()]
        for name, listed in self.categories.items():
            own = self.frame[name].to_numpy()[:, None] == np.array(listed[self.but_first :], object)[None]
            parts.append(np.where(self.frame[name].isna().to_numpy()[:, None], np.nan, own.astype(float)))
        return np.concatenate(parts, axis=1)

    def decode(self, filled: Floats) -> pd.DataFrame:
        """Return the table with its missing entries filled in."""
        out, at = self.frame.copy(), len(self.numbers)
        for j, name in enumerate(self.numbers):
            out[name] = out[name].fillna(pd.Series(filled[:, j] * self.std[name] + self.mean[name], index=out.index))
        for name, listed in self.categories.items():
            own = filled[:, at : (at := at + len(listed) - self.but_first)]
            if self.but_first:
                own = np.concatenate([1 - own.sum(axis=1, keepdims=True), own], axis=1)
            best = np.array(listed, object)[np.argmax(own, axis=1)]
            out[name] = np.where(out[name].isna(), best, out[name])
        return out


def by_scikit_learn(
    holes: pd.DataFrame, _: pd.DataFrame, make: Callable[[Floats], Any], but_first: bool = False
) -> Iterator[tuple[str, Answer]]:
    """Yield the answer of an imputer of scikit-learn, which sees numbers and indicators of categories."""
    begin = time.perf_counter()
    coder = OneHot(holes, but_first)
    X = coder.encode()
    filled = coder.decode(make(X).fit_transform(X))
    yield "", Answer(filled, time.perf_counter() - begin, 0.0)


def neighbours(k: int) -> Callable[[Floats], Any]:
    """Return what makes a KNNImputer."""
    from sklearn.impute import KNNImputer

    return lambda X: KNNImputer(n_neighbors=k)


def ridge(X: Floats) -> Any:
    """Return an IterativeImputer of Bayesian ridge regressions that keeps to the range of each column."""
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401  # it must be imported before
    from sklearn.impute import IterativeImputer

    low, high = np.nanmin(X, axis=0), np.nanmax(X, axis=0)
    high = np.where(high > low, high, low + 1e-9)
    return IterativeImputer(max_iter=10, random_state=0, min_value=low, max_value=high)


FOREST_ROUNDS, FOREST_SECONDS = 6, 60.0
"""Most rounds over all columns, and seconds after which no further one begins."""


def forests(holes: pd.DataFrame, _: pd.DataFrame, kind: str) -> Iterator[tuple[str, Answer]]:
    """Yield the answer of missForest (Stekhoven, Buehlmann, Bioinformatics 2012) with scikit-learn's forests.

    From means and most frequent categories on, each column in turn, that with the fewest holes first, is predicted by a forest
    of the others, until the changes of a round are larger than those of the one before; the answer is that of this one.
    """
    from sklearn import ensemble

    begin = time.perf_counter()
    told, names = numbers(holes), list(holes)
    codes, categories = np.empty(holes.shape), {}
    for v, name in enumerate(names):
        if name in told:
            codes[:, v] = holes[name]
        else:
            place, categories[v] = pd.factorize(holes[name], sort=True)
            codes[:, v] = np.where(place < 0, np.nan, place)
    gone = np.isnan(codes)
    is_number = np.array([name in told for name in names])
    X = codes.copy()
    for v in range(len(names)):
        known = codes[~gone[:, v], v]
        X[gone[:, v], v] = known.mean() if is_number[v] else np.bincount(known.astype(int)).argmax()
    order = [int(v) for v in np.argsort(gone.sum(axis=0), kind="stable") if gone[:, v].any()]
    before = (np.inf, np.inf)
    for round_number in range(FOREST_ROUNDS):
        new = X.copy()
        for v in order:
            others = np.delete(new, v, axis=1)
            made = getattr(ensemble, f"{kind}{'Regressor' if is_number[v] else 'Classifier'}")
            forest = made(100, max_features="sqrt", random_state=round_number, n_jobs=1)
            forest.fit(others[~gone[:, v]], codes[~gone[:, v], v])
            new[gone[:, v], v] = forest.predict(others[gone[:, v]])
        changed, of_numbers = new != X, gone & is_number
        far = ((new - X)[of_numbers] ** 2).sum() / max((new[of_numbers] ** 2).sum(), 1e-300)
        now = (far, changed[gone & ~is_number].mean() if (gone & ~is_number).any() else 0.0)
        if all(a > b or a == b == 0 for a, b in zip(now, before, strict=True)):
            break
        X, before = new, now
        if time.perf_counter() - begin > FOREST_SECONDS:
            break
    filled = holes.copy()
    for v, name in enumerate(names):
        found = X[:, v] if v not in categories else np.array(categories[v], object)[X[:, v].astype(int)]
        filled[name] = np.where(gone[:, v], found, holes[name])
    yield "", Answer(filled, time.perf_counter() - begin, 0.0)


JUDGED = f"MADE, {TOGETHER}, mean"
"""Of our answers, the one that the others are compared with."""

METHODS: dict[str, Callable[[pd.DataFrame, pd.DataFrame], Iterator[tuple[str, Answer]]]] = {
    "MADE": ours,
    "SimpleImputer": marginal,
    "KNNImputer, 5": partial(by_scikit_learn, make=neighbours(5)),
    "KNNImputer, 20": partial(by_scikit_learn, make=neighbours(20)),
    "IterativeImputer, BayesianRidge": partial(by_scikit_learn, make=ridge, but_first=True),
    "missForest, RandomForest": partial(forests, kind="RandomForest"),
    "missForest, ExtraTrees": partial(forests, kind="ExtraTrees"),
}


def scored(whole: pd.DataFrame, hidden: Holes, answer: Answer) -> Scored:
    """Compare an answer with what was hidden."""
    told = numbers(whole)
    hits, errors = [], []
    for v, name in enumerate(whole):
        truth, found = whole[name].to_numpy(), answer.filled[name].to_numpy()
        if name in told:
            errors.append(np.where(hidden[:, v], (found.astype(float) - truth) / np.nanstd(truth), np.nan))
        else:
            hits.append(np.where(hidden[:, v], (found == truth).astype(float), np.nan))
    empty = np.empty((len(whole), 0))
    log_p = np.full(len(whole), np.nan) if answer.log_p is None else answer.log_p
    seconds = np.array([answer.seconds_fit, answer.seconds_fill])
    return Scored(np.array(hits).T if hits else empty, np.array(errors).T if errors else empty, log_p, seconds)


def answers(name: str, method: str, share: float, pattern: str, given: argparse.Namespace) -> dict[str, Scored]:
    """Return the answers of a method, by what they are called, as they are kept, or computed."""
    settings: list[Any] = [FOREST_ROUNDS] if "Forest" in method else []
    if method in ("MADE", "SimpleImputer"):  # whose log p is that of our levels
        settings = [OURS, MEMBERS, WALKS]
    asked = json.dumps([name, method, share, pattern, given.rows, given.seed, settings])
    kept = given.work / f"{hashlib.sha256(asked.encode()).hexdigest()[:20]}.npz"
    if not kept.exists():
        whole = table_of(given.data / SETS[name], given.rows)
        rng = np.random.default_rng([given.seed, *name.encode(), round(100 * share), int(pattern == "blocks")])
        hidden = hide(whole, share, pattern, rng)
        holes = whole.mask(hidden)
        out = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of convergence, and of rare classes
            for how, answer in METHODS[method](holes, whole):
                for field, value in scored(whole, hidden, answer)._asdict().items():
                    out[f"{how}/{field}"] = value
        np.savez_compressed(kept, **out)
    with np.load(kept) as found:
        fields: dict[str, dict[str, Any]] = {}
        for key in found.files:
            how, _, field = key.partition("/")
            fields.setdefault(f"{method}, {how}" if how else method, {})[field] = found[key]
    return {label: Scored(**each) for label, each in fields.items()}


class Means(NamedTuple):
    """What is told of an answer, on rows that count so often (samples, n)."""

    accuracy: Floats
    nrmse: Floats


def means(answer: Scored, counts: Floats) -> Means:
    """Return accuracy and error of samples of the rows, NaN where there is no such entry."""

    def mean(values: Floats) -> Floats:
        total, n = np.nansum(values, axis=1), (~np.isnan(values)).sum(axis=1)
        return np.asarray((counts @ total) / np.where(counts @ n > 0, counts @ n, np.nan))

    return Means(mean(answer.hits), np.sqrt(mean(answer.errors**2)))


def rows(given: argparse.Namespace) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of a table with holes of one kind: one for each answer, with its difference from ours."""
    for name in given.sets:
        for kind in given.holes:
            pattern, share = kind.split()
            found: dict[str, Scored] = {}
            for method in given.methods:
                found |= answers(name, method, float(share), pattern, given)
            yield compared(name, pattern, float(share), found)


def compared(name: str, pattern: str, share: float, found: dict[str, Scored]) -> list[dict[str, Any]]:
    """Return a row for each answer about the same holes."""
    n = len(next(iter(found.values())).log_p)
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), SAMPLES).astype(float)
    counts = np.concatenate([np.ones((1, n)), drawn])
    told = {label: means(answer, counts) for label, answer in found.items()}
    own = told.get(JUDGED)
    out = []
    for label, answer in found.items():
        cells = int((~np.isnan(answer.hits)).sum() + (~np.isnan(answer.errors)).sum())
        row: dict[str, Any] = {"set": name, "rows": n, "holes": pattern, "share": share, "method": label}
        for field in Means._fields:
            values = getattr(told[label], field)
            row[field] = None if np.isnan(values[0]) else round(float(values[0]), 4)
            if own is not None and row[field] is not None:
                difference = values - getattr(own, field)
                row[f"{field} above ours"] = round(float(difference[0]), 4)
                row[f"{field} noise"] = round(float(np.std(difference[1:])), 4)
        log_p = answer.log_p.sum() / cells
        row["log p of a hidden entry"] = None if np.isnan(log_p) else round(float(log_p), 4)
        row["seconds to fit"], row["seconds to fill"] = (round(float(s), 3) for s in answer.seconds)
        out.append(row)
    return out


def summary(table: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return, for each table and kind of holes, ours and the best of the others, and whether ours is as good but for noise."""
    out = []
    for key in dict.fromkeys((row["set"], row["holes"], row["share"]) for row in table):
        here = [row for row in table if (row["set"], row["holes"], row["share"]) == key]
        own = next((row for row in here if row["method"] == JUDGED), None)
        others = [row for row in here if "MADE" not in row["method"]]
        if own is None or not others:
            continue
        found: dict[str, Any] = dict(zip(("set", "holes", "share"), key, strict=True))
        for field, sign in (("accuracy", 1), ("nrmse", -1)):
            if own[field] is None:
                continue
            best = max(others, key=lambda row: sign * row[field])
            behind = sign * best[f"{field} above ours"]
            found[field] = own[field]
            found[f"best other {field}"] = [best["method"], best[field]]
            found[f"{field} verdict"] = (
                "best" if behind <= 0 else "within noise" if behind <= 2 * best[f"{field} noise"] else "behind"
            )
        out.append(found)
    return out


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what is asked for."""
    parser = argparse.ArgumentParser("python -m bench.tables.imputation", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="where the tables are, NAME.csv.gz")
    parser.add_argument("--sets", nargs="+", choices=tuple(SETS), default=tuple(SETS), metavar="NAME", help=", ".join(SETS))
    parser.add_argument("--work", type=Path, default=HERE / "kept", metavar="DIR", help="where answers are kept")
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="DIR", help="where the JSON is written")
    parser.add_argument("--rows", type=int, default=MOST_ROWS, help="most rows of a table")
    parser.add_argument("--holes", nargs="+", choices=HOLES, default=HOLES, metavar="KIND", help=", ".join(HOLES))
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=tuple(METHODS), help="by default all")
    parser.add_argument("--seed", type=int, default=0, help="of the holes")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill in the holes of all tables; write the JSON and print what came of it."""
    given = parse(arguments)
    given.work.mkdir(parents=True, exist_ok=True)
    given.results.mkdir(parents=True, exist_ok=True)
    table: list[dict[str, Any]] = []
    command = " ".join(["python -m bench.tables.imputation --data DIR", *_options(given)])
    for some in rows(given):
        table += some
        result = {
            "machine": machine.cpu(),
            "threads": 1,
            "versions": {name: version(name) for name in ("made_fast", "numpy", "pandas", "scikit-learn")},
            "command": command,
            "ours": {**OURS, "n_members": MEMBERS, "n_walks": WALKS},
            "summary": summary(table),
            "rows": table,
        }
        (given.results / "imputation.json").write_text(json.dumps(result, indent=1) + "\n")
        for row in some:
            told = [f"{field} {row[field]}" for field in (*Means._fields, "log p of a hidden entry") if row[field] is not None]
            print(f"{row['set']}, {row['share']:.0%} {row['holes']}: {row['method']}: {', '.join(told)}", flush=True)
    for found in summary(table):
        print(json.dumps(found))
    return 0


def _options(given: argparse.Namespace) -> list[str]:
    """Return the options that are not as usual, without any folder."""
    usual = parse(["--data", "."])
    out = []
    for name in ("sets", "rows", "holes", "methods", "seed"):
        value = getattr(given, name)
        if value != getattr(usual, name):
            listed = value if isinstance(value, list | tuple) else [value]
            out.append(f"--{name} {shlex.join(map(str, listed))}")
    return out


if __name__ == "__main__":
    sys.exit(main())
