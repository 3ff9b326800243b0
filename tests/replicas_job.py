"""What ranks do in the tests of ``training/test_replicas.py``: ``mpiexec -n N python replicas_job.py FOLDER TASK ...``.

Each task is a function of the communicator and a folder; what it returns is written to ``FOLDER/TASK.RANK.json``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
from helpers import digest, rows, with_missing

from made_fast import MADE, Chunks

X, X_VAL = rows(301, 12), rows(40, 12, seed=1)
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"weight_decay": 0.01},
    "clipped": {"clip_norm": 0.3, "optimizer": "momentum", "learning_rate": 0.1},
    "masks": {"n_masks": 3, "connectivity_weights": True},
    "fresh": {"n_masks": None, "n_eval_masks": 3, "optimizer": "adagrad"},
    "latent": {"latent_points": 3},
}


def made(**params: Any) -> MADE:
    common = {"hidden_sizes": (20,), "max_epochs": 3, "batch_size": 30, "n_threads": 1, "random_state": 0}
    return MADE(**(common | params))


def part(table: Any, comm: Any) -> Any:
    return table[comm.rank :: comm.size]


def bits(fitted: MADE) -> str:
    state = fitted._fit_state
    return digest(state.trainer.parameters.vector, state.trainer.state, fitted.model_.source.vector)


def fitted(comm: Any, table: Any = X, *, every: int | None = None, more: Any = None, **params: Any) -> MADE:
    more = {"X_val": part(X_VAL, comm)} if more is None else more
    return made(**params).fit(part(table, comm), comm=comm, average_every=every, **more)


def kinds(comm: Any, folder: Path) -> Any:
    """Fit every kind of parameters, by gradients and by averages, some of them twice."""
    found = {}
    for name, params in KINDS.items():
        for every in (None, 4):
            one = fitted(comm, every=every, **params)
            found[f"{name} {every}"] = bits(one), [record["validation_nll"] for record in one.history_]
    found["plain None again"] = bits(fitted(comm, **KINDS["plain"])), None
    found["two threads"] = bits(fitted(comm, **KINDS["plain"], n_threads=2)), None
    gaps = with_missing(200, 12, 0.3, 5)
    gaps[::2] = X[:100]  # those of rank 0 are complete
    one = fitted(comm, gaps, more={})
    found["missing"] = bits(one), [record["train_nll"] for record in one.history_]
    return found


def whole_batches(comm: Any, folder: Path) -> Any:
    """Make steps by the gradient of all rows: so many ranks must then do what one process does, but for rounding."""
    exact = {"dtype": "float64", "dropout": 0.0, "averaging": 0.0, "batch_size": 301, "bias_init": "zeros", "max_epochs": 4}
    found = {}
    for name, params in KINDS.items():
        weights = np.linspace(0.5, 1.5, len(X))
        one = fitted(
            comm, more={"sample_weight": part(weights, comm), "X_val": X_VAL if comm.rank else None}, **exact, **params
        )
        found[name] = one.score_samples(X).tolist(), [[r["train_nll"], r["validation_nll"]] for r in one.history_]
    return found


def tables(comm: Any, folder: Path) -> Any:
    import pandas as pd

    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.choice(["x", "y", "z"], 240), "b": rng.normal(size=240)})
    one = made(optimizer="adam").fit(part(frame, comm), X_val=part(frame, comm), comm=comm)
    return one.score(frame), digest(one.model_.density.source.vector), [in_chunks(comm, table) for table in (X, frame)]


def in_chunks(comm: Any, table: Any) -> bool:
    """Say whether a fit to chunks of this rank's rows has the bits of one to the rows."""
    own = part(table, comm)
    chunks = Chunks([own[start : start + 40] for start in range(0, len(own), 40)])
    one, other = (made().fit(rows, comm=comm)._fit_state.trainer for rows in (own, chunks))
    return digest(one.parameters.vector) == digest(other.parameters.vector)


def early_stop(comm: Any, folder: Path) -> Any:
    told = []
    one = fitted(comm, max_epochs=50, patience=2, learning_rate=0.1, dropout=0.0, averaging=0.0)
    ended = made(max_epochs=9).fit(
        part(X, comm), comm=comm, callback=lambda r: told.append(r) or (comm.rank and len(told) == 2)
    )
    return len(one.history_), one.best_epoch_, len(ended.history_)


def resume(comm: Any, folder: Path) -> Any:
    """Stop after two epochs, and go on from the file of rank 0."""
    found = []
    for every in (None, 4):
        path = folder / f"resume{every}.ckpt"
        params = KINDS["plain"]
        whole = fitted(comm, every=every, **params, max_epochs=5)
        more = {"X_val": part(X_VAL, comm), "checkpoint": path}
        fitted(comm, every=every, more=more, **params, max_epochs=2)
        again = MADE.resume(path).set_params(max_epochs=5)
        again.fit(part(X, comm), X_val=part(X_VAL, comm), comm=comm, average_every=every)
        found.append((bits(whole), bits(again)))
    return found


def refusals(comm: Any, folder: Path) -> Any:
    """Return the error of every wrong call, on this rank."""
    first = comm.rank == 0
    path = folder / "kept.ckpt"
    fitted(comm, more={"checkpoint": path})
    other = MADE.resume(path)
    wrong = {
        "columns": lambda: made().fit(part(X[:, : 12 - comm.rank], comm), comm=comm),
        "empty": lambda: made().fit(X if first else X[:0], comm=comm),
        "few rows": lambda: made(batch_size=10).fit(X[:200] if first else X[:3], comm=comm),
        "parameters": lambda: fitted(comm, learning_rate=0.1 * (1 + comm.rank)),
        "masks": lambda: fitted(comm, n_masks=1 + comm.rank),
        "seed": lambda: fitted(comm, random_state=np.random.default_rng(0)),
        "bad value": lambda: fitted(comm, dropout=0.1 if first else 7.0),
        "values": lambda: made().fit(X if first else X + 2, comm=comm),
        "average_every": lambda: fitted(comm, every=0),
        "loss": lambda: fitted(comm, optimizer="sgd", learning_rate=1e30),
        "loss of averages": lambda: fitted(comm, optimizer="sgd", learning_rate=1e30, every=3),
        "rows": lambda: other.set_params(max_epochs=9).fit(part(X_VAL, comm), comm=comm),
        "ranks": lambda: MADE.resume(path).fit(X),
        "checkpoint": lambda: fitted(comm, more={"checkpoint": folder / "none" / "x"}),
        "callback": lambda: fitted(comm, more={"callback": None if first else (lambda _: 1 / 0)}),
    }
    found = {}
    for name, call in wrong.items():
        try:
            call()
            found[name] = None
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def killed(comm: Any, folder: Path) -> Any:
    """Lose rank 1 in the third epoch."""

    def die(record: Any) -> None:
        if comm.rank == 1 and record["epoch"] == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    fitted(comm, more={"checkpoint": folder / "killed.ckpt", "callback": die}, max_epochs=10**6)


def leaves(comm: Any, folder: Path) -> Any:
    """Interrupt rank 1 alone, amid an epoch."""
    from made_fast.training.steps import Trainer

    call, calls = Trainer.call, []

    def interrupted(self: Trainer, *arguments: Any) -> Any:
        calls.append(1)
        if comm.rank == 1 and len(calls) == 15:
            raise KeyboardInterrupt
        return call(self, *arguments)

    Trainer.call = interrupted  # type: ignore[method-assign]
    fitted(comm, more={}, max_epochs=10**6)


if __name__ == "__main__":
    from mpi4py import MPI

    place, world = Path(sys.argv[1]), MPI.COMM_WORLD
    for task in sys.argv[2:]:
        result = globals()[task](world, place)
        (place / f"{task}.{world.rank}.json").write_text(json.dumps(result))
