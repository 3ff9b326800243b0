"""Rows a second of training and scoring on tables, beside torch.compile: ``python -m bench.tables.speed --data DIR``.

Both have the same masks, indicators, direct connections, softmax groups and optimizer (Adam, batches of 100, no dropout, no
average), float32, on as many threads; rounds take turns, and the median counts. Encoding of the raw table is told apart. Torch
is left out, and said to be, where it is not installed. Not here: binary rows (``bench/report.py``).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench import machine
from bench.tables.synthetic import load
from made_fast import MADE

RESULTS = Path(__file__).parent / "results" / "speed.json"
SETS = ("adult", "diamonds")
BATCH = 100


def torch_twin(made: Any, indicators: Any, n_threads: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return an epoch of training, and scoring of all rows, of the same network in torch.compile."""
    import torch
    from torch import nn
    from torch.nn import functional

    torch.set_num_threads(n_threads)
    torch.manual_seed(0)
    model = made.model_
    net, coding = model.density.to_dense(), model.encoder.coding
    masks = [torch.tensor(M.astype(np.float32)) for M in net["masks"]]
    direct = torch.tensor((net["direct"][-1] != 0).astype(np.float32)) if net["direct"][-1] is not None else None
    W1, W2 = (nn.Parameter(torch.tensor(W.copy())) for W in net["weights"])
    b1, b2 = (nn.Parameter(torch.tensor(b.copy())) for b in net["biases"])
    A = None if direct is None else nn.Parameter(torch.tensor(net["direct"][-1].copy()))
    parameters = [W1, W2, b1, b2, *([] if A is None else [A])]
    x = torch.tensor(indicators.astype(np.float32))
    widths = coding.widths
    codes = torch.tensor(_codes(made, indicators).astype(np.int64))

    def nll(x: Any, codes: Any) -> Any:
        h = functional.relu(functional.linear(x, W1 * masks[0], b1))
        z = functional.linear(h, W2 * masks[1], b2)
        if A is not None:
            z = z + functional.linear(x, A * direct)
        total, first = torch.zeros(len(x)), 0
        for v, width in enumerate(widths):
            if width == 1:
                total = total + functional.binary_cross_entropy_with_logits(z[:, first], codes[:, v].float(), reduction="none")
            elif width:
                total = total + functional.cross_entropy(z[:, first : first + width], codes[:, v], reduction="none")
            first += width
        return total

    compiled = torch.compile(nll)
    adam = torch.optim.Adam(parameters, lr=2e-3)

    def epoch() -> None:
        order = torch.randperm(len(x))
        for start in range(0, len(x) - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            adam.zero_grad(set_to_none=True)
            compiled(x[rows], codes[rows]).mean().backward()
            adam.step()

    scoring = torch.compile(nll)

    def score() -> None:
        with torch.inference_mode():
            for start in range(0, len(x), 1000):
                scoring(x[start : start + 1000], codes[start : start + 1000])

    return epoch, score


def _codes(made: Any, indicators: Any) -> Any:
    """Return the level of each variable, by its last indicator that is 1."""
    coding = made.model_.encoder.coding
    out = np.zeros((len(indicators), coding.n_variables), np.int32)
    for v, width in enumerate(coding.widths):
        own = indicators[:, coding.starts[v] : coding.starts[v + 1]]
        if width == 1:
            out[:, v] = own[:, 0]
        elif width:
            out[:, v] = width - 1 - np.argmax(own[:, ::-1], axis=1)
    return out


def run(name: str, data: Path, n_threads: int, rounds: int) -> dict[str, float]:
    """Return the figures of a set."""
    train, _ = load(name, data)
    params: dict[str, Any] = {"missing": "value", "dropout": 0.0, "averaging": 0.0, "random_state": 0, "n_threads": n_threads}
    made = MADE(**params, max_epochs=1).fit(train)
    coded = made.model_.encoder.encode(train)
    indicators = coded.coding.indicators(coded.rows)
    n = len(train)
    theirs = None
    try:
        theirs = torch_twin(made, indicators, n_threads)
        for work in theirs:
            work()  # compiled here
    except ImportError as error:
        print(f"{name}: torch is left out: {error}")
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        again = MADE(**params, max_epochs=2).fit(train)
        found.setdefault("made_fast, training", []).append(n / again.history_[-1]["seconds"])
        found.setdefault("made_fast, scoring codes", []).append(n / _seconds(lambda: made.model_.density.score_samples(coded)))
        found.setdefault("made_fast, scoring the frame", []).append(n / _seconds(lambda: made.score_samples(train)))
        if theirs is not None:
            found.setdefault("torch.compile, training", []).append(n / _seconds(theirs[0]))
            found.setdefault("torch.compile, scoring indicators", []).append(n / _seconds(theirs[1]))
    return {key: statistics.median(values) for key, values in found.items()}


def _seconds(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def main() -> None:
    """Run the bench and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the tables")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    figures = {name: run(name, args.data, args.threads, args.rounds) for name in args.sets}
    for name, values in figures.items():
        for key, rate in values.items():
            print(f"| {name} | {key} | {rate:,.0f} rows/s |")
    about = {"cpu": machine.cpu(), "threads": args.threads, "python": platform.python_version()}
    about["command"] = "python -m bench.tables.speed --data DIR"
    args.results.write_text(json.dumps({"about": about, "rows a second": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
