"""Models of rows and of tables, as files, and a Dask cluster of processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from helpers import rows, with_missing

from made_fast import MADE


class Fitted(NamedTuple):
    made: MADE
    path: Path
    complete: Any
    gaps: Any


@pytest.fixture(scope="session")
def bits(tmp_path_factory: Any) -> Fitted:
    """Return a model of 0/1 rows that answers about missing ones by estimates and exactly."""
    X, gaps = rows(210, 20), with_missing(210, 20, 0.7, 6)
    made = MADE(hidden_sizes=(9,), n_masks=None, n_eval_masks=3, max_epochs=2, random_state=0, n_threads=1).fit(X)
    made.save(path := tmp_path_factory.mktemp("bits") / "model.safetensors")
    return Fitted(made, path, X, gaps)


@pytest.fixture(scope="session")
def table(tmp_path_factory: Any) -> Fitted:
    """Return a model of a table with text, integers and numbers, some of which are missing."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"kind": rng.choice(["a", "b", "c"], 200), "n": rng.integers(0, 9, 200), "x": rng.normal(size=200)})
    frame.index = rng.permutation(200) + 1000
    gaps = frame.copy()
    gaps.loc[gaps.index[::3], "kind"] = None
    gaps.loc[gaps.index[1::3], "x"] = np.nan
    made = MADE(hidden_sizes=(9,), n_masks=None, n_eval_masks=3, max_epochs=2, random_state=0, n_threads=1).fit(frame)
    made.save(path := tmp_path_factory.mktemp("table") / "model.safetensors")
    return Fitted(made, path, frame, gaps)


@pytest.fixture(scope="session")
def given(table: Fitted, tmp_path_factory: Any) -> Fitted:
    """Return a model of that table with a context, which stands in columns of its own in the rows."""
    rng = np.random.default_rng(1)
    context = pd.DataFrame({"where": rng.choice(["x", "y"], 200), "when": rng.integers(0, 3, 200)}, table.complete.index)
    made = MADE(hidden_sizes=(9,), n_masks=None, n_eval_masks=3, max_epochs=2, random_state=0, n_threads=1)
    made.fit(table.complete, context=context).save(path := tmp_path_factory.mktemp("given") / "model.safetensors")
    whole, gaps = (pd.concat([context[["where"]], part, context[["when"]]], axis=1) for part in (table.complete, table.gaps))
    return Fitted(made, path, whole, gaps)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Return a client of two workers, each a process of one thread; no thread of its own is left for the tests that follow."""
    distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")
    import dask

    quiet = {
        "distributed.logging.distributed": "critical",
        "distributed.scheduler.allowed-failures": 5,
        "distributed.worker.profile.enabled": False,  # a thread that keeps what it sees of all others
    }
    with (
        dask.config.set(quiet),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=0
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client
