"""One model on several ranks: ``mpiexec -n 2 python -m bench.distributed``, from the root of the repository.

Prints rows a second, the time of a step and of what travels, and the test NLL where ``--data`` has test rows;
without it, rows are random, 784 inputs. ``python -m bench.distributed --table``, alone, measures the steps of three networks
on this machine and computes from these and from the bytes that travel how training scales over networks: no network is
measured there.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from statistics import median
from typing import Any

import numpy as np

from bench import machine
from made_fast import MADE, kernels
from made_fast.kernels.layout import aligned_zeros
from made_fast.kernels.optimizers import GRADIENT
from made_fast.kernels.records import Batches, Update
from made_fast.training.reduce import Shards
from made_fast.training.rows import Rows

__all__ = ["main"]

NETWORKS = ((500,), (2000, 2000), (8000, 8000))
LINKS = (("1 Gbit/s", 1e9 / 8, 1e-4), ("10 Gbit/s", 1e10 / 8, 5e-5), ("100 Gbit/s", 1e11 / 8, 1e-5))
"""Names, bytes a second, seconds of latency."""
RANKS = (2, 4, 8, 16, 32, 64)
ROWS = 100  # of each rank in a mini-batch
EVERY = 20


def rows_of(path: str | None) -> dict[str, Any]:
    """Return train, valid and test rows; random ones without a path."""
    if path is None:
        return {"train": (np.random.default_rng(0).random((20_000, 784)) < 0.13).astype(np.uint8), "valid": None, "test": None}
    with np.load(path) as file:
        n = int(file["n_features"]) if "n_features" in file else None
        return {s: file[s] if n is None else np.unpackbits(file[s], axis=1, count=n) for s in ("train", "valid", "test")}


def train(args: argparse.Namespace) -> None:
    """Fit on all ranks, and print what rank 0 knows."""
    from mpi4py import MPI

    comm, moving = MPI.COMM_WORLD, {}

    def timed(name: str) -> None:
        move, times = getattr(Shards, name), moving.setdefault(name, [])

        def moved(self: Shards, vector: Any) -> Any:
            begin = time.perf_counter()
            found = move(self, vector)
            times.append(time.perf_counter() - begin)
            return found

        setattr(Shards, name, moved)

    timed("scatter")
    timed("gather")
    data = rows_of(args.data)
    own = {split: None if X is None else X[comm.rank :: comm.size] for split, X in data.items()}
    made = MADE(
        tuple(args.hidden), max_epochs=args.epochs, batch_size=args.batch, n_threads=args.threads, random_state=args.seed
    )
    made.fit(own["train"], X_val=own["valid"], comm=comm, average_every=args.average_every if comm.size > 1 else None)
    if comm.rank:
        return
    seconds, n = median(record["seconds"] for record in made.history_), len(data["train"])
    vector = made._fit_state.trainer.parameters.vector
    print(", ".join(machine.facts().values()))
    print(f"{comm.size} ranks of {args.threads} thread(s), {data['train'].shape[1]}-{args.hidden}, batches of {args.batch}")
    step = seconds / -(-n // args.batch)
    print(f"{n / seconds:,.0f} rows/s, {1e3 * step:.2f} ms a step, {vector.nbytes:,} bytes of parameters")
    for name, times in moving.items():
        if times:
            print(f"{name}: {1e3 * median(times):.2f} ms, with the wait for the other ranks; {len(times)} times")
    test = "" if data["test"] is None else f"test NLL {-made.score(data['test']):.3f} nats, "
    print(f"{test}digest {hashlib.sha256(vector.data).hexdigest()[:16]}")


def steps_of(hidden: tuple[int, ...]) -> tuple[float, float, float, int]:
    """Return the least seconds, of CPU time, of a step, of a gradient, and of an update by it, and the bytes of a gradient."""
    X = rows_of(None)["train"][:ROWS]
    made = MADE(hidden, max_epochs=1, n_threads=1, random_state=0).fit(X)
    trainer = made._fit_state.trainer
    packed = Rows.of(X, None, None).pack(trainer.parameters, None)
    pace, order, nll = trainer.pace(packed, ROWS, 1), np.arange(ROWS), np.empty(1)
    gradient = aligned_zeros(len(trainer.parameters.vector), trainer.parameters.dtype)
    whole = Update(GRADIENT, 1, trainer.constants, gradient[None])
    batches = Batches(packed.bits, packed.weights, order, ROWS)

    def step(update: Update) -> float:
        work, *_ = trainer.call(batches, packed, pace, nll, update, trainer.noise)
        begin = time.thread_time()
        work(0)
        return time.thread_time() - begin

    def apply() -> float:
        begin = time.thread_time()
        kernels.active.apply_gradient(trainer.parameters.vector, gradient, trainer.parameters.runs, trainer.update())
        np.multiply(gradient, np.float32(0.5), out=gradient)
        return time.thread_time() - begin

    n = 5 if len(gradient) > 10**7 else 50
    fused, alone = min(step(trainer.update()) for _ in range(n)), min(step(whole) for _ in range(n))
    return fused, alone, min(apply() for _ in range(n)), gradient.nbytes


def table() -> None:
    """Print how many times as many rows a second R machines train, each with ROWS rows of a mini-batch."""
    print(f"| 784-H-784, {ROWS} rows a rank | link | what travels | " + " | ".join(map(str, RANKS)) + " |")
    print("| --- | --- | --- |" + " ---: |" * len(RANKS))
    for hidden in NETWORKS:
        fused, alone, update, size = steps_of(hidden)
        times = f"step {1e3 * fused:.2f} ms, gradient {1e3 * alone:.2f}, update {1e3 * update:.2f}"
        about = f"{list(hidden)}: {times}, {size / 1e6:.1f} MB"
        for name, speed, latency in LINKS:
            for what, every in (("gradients", 1), (f"averages every {EVERY}", EVERY)):
                cells = []
                for n in RANKS:
                    moving = 2 * (n - 1) / n * size / speed + 2 * (n - 1) * latency
                    adding = size / 4e9  # of a core's memory: the sum of a part from each rank is as long as the vector
                    step = alone + update / n + moving + adding if every == 1 else fused + (moving + adding) / every
                    cells.append(f"{n * fused / step:.1f}")
                print(f"| {about} | {name} | {what} | " + " | ".join(cells) + " |")
                about = ""


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--data")
    parser.add_argument("--hidden", type=int, nargs="*", default=[500])
    for name, default in (("--epochs", 5), ("--batch", 100), ("--threads", 1), ("--seed", 0), ("--average-every", None)):
        parser.add_argument(name, type=int, default=default)
    args = parser.parse_args()
    table() if args.table else train(args)


if __name__ == "__main__":
    main()
