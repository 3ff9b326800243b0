"""Synthetic rows, ours beside what people use now: ``python -m bench.tables.synthetic --data DIR``.

Every method is fitted on the same training rows and draws as many rows. Told are:

- ``c2st``: how hard boosted trees find it to tell drawn rows from rows of the test set, ``1 - max(0, 2 AUC - 1)``: 1 is
  indistinguishable, 0 is told apart always;
- ``trend``: how well pairs of columns agree, as SDMetrics has it: 1 - half of the difference of correlations for two
  numeric columns, 1 - total variation distance for others, numbers in ten bins;
- ``tstr``: what boosted trees that are trained on drawn rows achieve on the test set, AUC, or R^2 of a numeric target;
- the seconds of the fit and of drawing.

"real rows" are what training rows themselves would get. Peers that are not installed are left out, and said to be:
``mostlyai-engine`` (TabularARGN, torch) and ``sdv`` (Gaussian copula, CTGAN).

Not here: the other benches on tables.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.preprocessing import OrdinalEncoder

import made_fast
from bench import machine
from made_fast import MADE, MADEEnsemble
from made_fast.tables.reading.csvtable import read_table

RESULTS = Path(__file__).parent / "results" / "synthetic.json"
TARGETS = {"adult": "x14", "diamonds": "price", "german": "x20"}
BINS = 10

Fit = Callable[[pd.DataFrame, int, int], tuple[pd.DataFrame, float, float]]
"""From training rows, a number of rows and of threads to drawn rows, seconds of the fit and of drawing."""


def load(name: str, data: Path, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the training and the test rows of a set; of adult as published, of the others 80 and 20 % at random."""
    if name == "adult":
        parts = [pd.DataFrame(read_table(data / f"adult-{part}.csv.gz")) for part in ("train", "test")]
        for part in parts:
            part["x14"] = part["x14"].str.rstrip(".")
        return parts[0], parts[1]
    frame = pd.DataFrame(read_table(data / f"{name}.csv.gz"))
    order = np.random.default_rng(seed).permutation(len(frame))
    cut = round(0.8 * len(frame))
    return frame.iloc[order[:cut]].reset_index(drop=True), frame.iloc[order[cut:]].reset_index(drop=True)


def _made(**params: Any) -> Fit:
    def fit(train: pd.DataFrame, n: int, n_threads: int) -> tuple[pd.DataFrame, float, float]:
        begin = time.perf_counter()
        shared = {"missing": "value", "validation_fraction": 0.1, "random_state": 0, "n_threads": n_threads}
        members = params.get("n_members", 1)
        own = {name: value for name, value in params.items() if name != "n_members"}
        made: Any = MADE(**shared, **own) if members == 1 else MADEEnsemble(members, **shared, **own)
        made.fit(train)
        fitted = time.perf_counter()
        drawn = made.sample(n, random_state=0)
        return drawn, fitted - begin, time.perf_counter() - fitted

    return fit


def _copula(train: pd.DataFrame, n: int, n_threads: int) -> tuple[pd.DataFrame, float, float]:
    return _sdv("GaussianCopulaSynthesizer", train, n)


def _ctgan(train: pd.DataFrame, n: int, n_threads: int) -> tuple[pd.DataFrame, float, float]:
    import torch

    torch.set_num_threads(n_threads)
    return _sdv("CTGANSynthesizer", train, n)


def _sdv(kind: str, train: pd.DataFrame, n: int) -> tuple[pd.DataFrame, float, float]:
    from sdv import single_table
    from sdv.metadata import Metadata

    kinds = {name: "numerical" if train[name].dtype.kind in "iuf" else "categorical" for name in train.columns}
    columns = {name: {"sdtype": kind} for name, kind in kinds.items()}
    metadata = Metadata.load_from_dict({"tables": {"table": {"columns": columns}}})
    synthesizer = getattr(single_table, kind)(metadata)
    begin = time.perf_counter()
    synthesizer.fit({"table": train})
    fitted = time.perf_counter()
    drawn = synthesizer.sample(n)
    return drawn["table"] if isinstance(drawn, dict) else drawn, fitted - begin, time.perf_counter() - fitted


def _argn(train: pd.DataFrame, n: int, n_threads: int) -> tuple[pd.DataFrame, float, float]:
    import torch
    from mostlyai import engine

    torch.set_num_threads(n_threads)
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        engine.split(workspace_dir=folder, tgt_data=train, model_type="TABULAR")
        engine.analyze(workspace_dir=folder)
        engine.encode(workspace_dir=folder)
        engine.train(workspace_dir=folder)
        fitted = time.perf_counter()
        engine.generate(workspace_dir=folder, sample_size=n)
        parts = [pd.read_parquet(path) for path in sorted((Path(folder) / "SyntheticData").glob("*.parquet"))]
        return pd.concat(parts, ignore_index=True), fitted - begin, time.perf_counter() - fitted


METHODS: dict[str, Fit] = {
    "made_fast": _made(max_epochs=60, patience=8, learning_rate=5e-4),
    "made_fast, 5 members": _made(n_members=5, max_epochs=60, patience=8, learning_rate=5e-4),
    "SDV Gaussian copula": _copula,
    "SDV CTGAN": _ctgan,
    "TabularARGN (mostlyai-engine)": _argn,
}


def codes_of(frames: list[pd.DataFrame], like: pd.DataFrame) -> list[pd.DataFrame]:
    """Return frames as numbers: categories by their order, -1 for missing and for ones that are not in the first frame."""
    out = [frame[like.columns].copy() for frame in frames]
    for name in like.columns:
        if like[name].dtype.kind not in "iuf":
            encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
            texts = [frame[[name]].astype(object).where(frame[[name]].notna(), "none").astype(str) for frame in out]
            encoder.fit(pd.concat(texts))
            for frame, text in zip(out, texts, strict=True):
                frame[name] = encoder.transform(text)[:, 0]
        else:
            for frame in out:
                frame[name] = pd.to_numeric(frame[name]).astype(np.float64)
    return out


def c2st(real: pd.DataFrame, drawn: pd.DataFrame) -> float:
    """Return how hard drawn rows are to tell from real ones, 0..1."""
    n = min(len(real), len(drawn))
    ours, theirs = codes_of([real.iloc[:n], drawn.iloc[:n]], real)
    X = pd.concat([ours, theirs])
    y = np.repeat([0, 1], n)
    categorical = [name for name in real.columns if real[name].dtype.kind not in "iuf" and X[name].nunique() <= 255]
    trees = HistGradientBoostingClassifier(categorical_features=categorical, random_state=0)
    order = np.random.default_rng(0).permutation(2 * n)
    proba = cross_val_predict(trees, X.iloc[order], y[order], cv=5, method="predict_proba")[:, 1]
    return float(1 - max(0.0, 2 * roc_auc_score(y[order], proba) - 1))


def trend(real: pd.DataFrame, drawn: pd.DataFrame) -> float:
    """Return how well pairs of columns agree, the mean over all pairs, 0..1."""
    numeric = {name for name in real.columns if real[name].dtype.kind in "iuf"}
    binned = [pd.DataFrame(index=frame.index) for frame in (real, drawn)]
    for name in real.columns:
        if name in numeric:
            edges = np.histogram_bin_edges(real[name].dropna().astype(float), BINS)[1:-1]
            cells: list[Any] = [np.where(f[name].isna(), -1, np.digitize(f[name].astype(float), edges)) for f in (real, drawn)]
        else:
            cells = [f[name].astype(object).where(f[name].notna(), "none").astype(str) for f in (real, drawn)]
        for frame, cell in zip(binned, cells, strict=True):
            frame[name] = np.asarray(cell)
    scores = []
    names = list(real.columns)
    for i, a in enumerate(names):
        for b in names[:i]:
            if a in numeric and b in numeric:
                rho = [f[[a, b]].astype(float).corr().iloc[0, 1] for f in (real, drawn)]
                scores.append(1 - abs(np.nan_to_num(rho[0]) - np.nan_to_num(rho[1])) / 2)
            else:
                shares = [f.groupby([a, b]).size() / len(f) for f in binned]
                scores.append(1 - 0.5 * float(shares[0].sub(shares[1], fill_value=0).abs().sum()))
    return float(np.mean(scores))


def tstr(train: pd.DataFrame, test: pd.DataFrame, target: str) -> float:
    """Return what trees that are trained on ``train`` achieve on ``test``: AUC, or R^2 of a numeric target."""
    a, b = codes_of([train, test], test)
    features = [name for name in test.columns if name != target]
    if test[target].nunique() > 2:
        model: Any = HistGradientBoostingRegressor(random_state=0).fit(a[features], a[target])
        return float(r2_score(b[target], model.predict(b[features])))
    if a[target].nunique() < 2:
        return 0.5
    model = HistGradientBoostingClassifier(random_state=0).fit(a[features], a[target] == b[target].max())
    return float(roc_auc_score(b[target] == b[target].max(), model.predict_proba(b[features])[:, 1]))


def run(name: str, data: Path, methods: list[str], n_threads: int) -> dict[str, dict[str, Any]]:
    """Return the scores of each method on a set."""
    train, test = load(name, data)
    target = TARGETS[name]
    found: dict[str, dict[str, Any]] = {
        "real rows": {
            "c2st": c2st(test, train.sample(min(len(train), len(test)), random_state=0)),
            "trend": trend(test, train),
            "tstr": tstr(train, test, target),
        }
    }
    _tell(name, "real rows", found["real rows"])
    for method in methods:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                drawn, fitting, drawing = METHODS[method](train, len(train), n_threads)
        except ImportError as error:
            print(f"{name}: {method} is left out: {error}", flush=True)
            continue
        found[method] = {
            "c2st": c2st(test, drawn),
            "trend": trend(test, drawn),
            "tstr": tstr(drawn, test, target),
            "fit_seconds": fitting,
            "draw_seconds": drawing,
        }
        _tell(name, method, found[method])
    return found


def _tell(name: str, method: str, scores: dict[str, Any]) -> None:
    cells = [f"{scores[key]:.3f}" for key in ("c2st", "trend", "tstr")]
    cells += [f"{scores[key]:.1f} s" for key in ("fit_seconds", "draw_seconds") if key in scores]
    print(f"| {name} | {method} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Run the bench, print a table, and add its rows to the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the tables")
    parser.add_argument("--sets", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    print("| set | method | c2st | trend | tstr | fit | draw |\n| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    found: dict[str, Any] = json.loads(args.results.read_text()) if args.results.exists() else {}
    about = {
        "cpu": machine.cpu(),
        "threads": args.threads,
        "python": platform.python_version(),
        "made_fast": made_fast.__version__,
    }
    for name in args.sets:
        scores = run(name, args.data, args.methods, args.threads)
        found.setdefault("sets", {}).setdefault(name, {}).update(scores)
        found["about"] = about | {"command": "python -m bench.tables.synthetic --data DIR"}
        args.results.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
