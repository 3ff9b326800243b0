"""One model trained by several processes: real ranks of MPI, as many as are asked for on this machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from replicas_job import KINDS, X_VAL, X, bits, made

from made_fast import MADE, load

TESTS = Path(__file__).parents[1]
JOB = TESTS / "replicas_job.py"


def mpiexec(n: int, *command: Any, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a Python program on n ranks."""
    beside = Path(sys.executable).with_name("mpiexec")  # of a wheel in this environment
    starter = str(beside) if beside.exists() else shutil.which("mpiexec") or "mpiexec"
    env = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    env |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_mpi_yield_when_idle": "1"}
    env |= {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe", "OMPI_MCA_rmaps_base_oversubscribe": "1"}
    env |= {"PRTE_MCA_hwloc_default_binding_policy": "none", "OMPI_MCA_hwloc_base_binding_policy": "none"}
    return subprocess.run(
        [starter, "-n", str(n), sys.executable, *map(str, command)],
        capture_output=True, text=True, timeout=seconds, check=False, env=env,
    )  # fmt: skip


@pytest.fixture(scope="session")
def mpi() -> None:
    """Skip where MPI does not work."""
    pytest.importorskip("mpi4py", reason="mpi4py is not installed")
    try:
        done = mpiexec(2, "-c", "from mpi4py import MPI; print(MPI.COMM_WORLD.size)")
    except (OSError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"there is no mpiexec that works: {error}")
    if done.stdout.split() != ["2", "2"]:
        pytest.skip(f"mpiexec and mpi4py do not work together: {done.stdout} {done.stderr[-300:]}")


def job(folder: Path, n: int, *tasks: str) -> list[list[Any]]:
    """Return what each task returned on each rank."""
    done = mpiexec(n, JOB, folder, *tasks, seconds=100)
    assert done.returncode == 0, done.stderr
    return [[json.loads((folder / f"{task}.{rank}.json").read_text()) for rank in range(n)] for task in tasks]


@pytest.fixture(scope="module")
def two(mpi: None, tmp_path_factory: Any) -> dict[str, list[Any]]:
    """Return what the tasks return on two ranks."""
    tasks = ("kinds", "whole_batches", "tables", "early_stop", "resume", "refusals")
    return dict(zip(tasks, job(tmp_path_factory.mktemp("two"), 2, *tasks), strict=True))


@pytest.fixture(scope="module")
def four(mpi: None, tmp_path_factory: Any) -> dict[str, list[Any]]:
    """Return what the tasks return on four ranks."""
    tasks = ("kinds", "whole_batches")
    return dict(zip(tasks, job(tmp_path_factory.mktemp("four"), 4, *tasks), strict=True))


@pytest.mark.parametrize("ranks", ["two", "four"])
def test_all_ranks_have_the_same_bits_and_have_them_again(ranks, request):
    first, *others = request.getfixturevalue(ranks)["kinds"]
    assert all(other == first for other in others)
    assert first["plain None"][0] == first["plain None again"][0] == first["two threads"][0]
    assert len({each[0] for each in first.values()}) == len(first) - 2


@pytest.mark.parametrize("ranks", ["two", "four"])
def test_training_works_as_well_as_by_one_process(ranks, request):
    found = request.getfixturevalue(ranks)["kinds"][0]
    for name, params in KINDS.items():
        alone = made(**params).fit(X, X_val=X_VAL)
        for every in (None, 4):
            scores = found[f"{name} {every}"][1]
            assert len(scores) == len(alone.history_)
            assert abs(scores[-1] - alone.history_[-1]["validation_nll"]) < 0.05


@pytest.mark.parametrize("ranks", ["two", "four"])
@pytest.mark.parametrize("kind", KINDS)
def test_steps_by_all_rows_are_those_of_one_process(kind, ranks, request):
    """The gradient, its norm, weights of rows, both losses: whatever ranks add up is what one process computes at once."""
    exact = {"dtype": "float64", "dropout": 0.0, "averaging": 0.0, "batch_size": 301, "bias_init": "zeros", "max_epochs": 4}
    alone = made(**exact, **KINDS[kind])
    alone.fit(X, X_val=np.tile(X_VAL, (1, 1)), sample_weight=np.linspace(0.5, 1.5, len(X)))
    log_p, history = request.getfixturevalue(ranks)["whole_batches"][0][kind]
    assert np.allclose(log_p, alone.score_samples(X), rtol=1e-9, atol=1e-9)
    assert np.allclose(history, [[r["train_nll"], r["validation_nll"]] for r in alone.history_], rtol=1e-9)


def test_columns_of_a_table_are_those_of_the_first_rank(two):
    (score, first, _), (_, second, _) = two["tables"]
    assert first == second
    assert np.isfinite(score)


def test_chunks_on_every_rank_have_the_bits_of_its_rows(two):
    assert [same for *_, same in two["tables"]] == [[True, True]] * 2


def test_all_ranks_stop_at_the_same_epoch(two):
    first, second = two["early_stop"]
    assert first == second
    epochs, best, ended = first
    assert epochs == best + 2 < 50
    assert ended == 2  # a callback of the other rank ended it


def test_a_resumed_fit_ends_with_the_bits_of_one_that_was_never_interrupted(two):
    assert two["resume"][0] == two["resume"][1]
    for whole, again in two["resume"][0]:
        assert whole == again


REFUSED = {
    "columns": "the number of columns must be the same on all ranks, got 12 on rank 0 and 11 on rank 1",
    "empty": "X must have",
    "few rows": "every rank must have a row for each of the 21 mini-batches of an epoch, got 3 rows on rank 1 of 2",
    "parameters": "learning_rate must be the same on all ranks, got 0.1 on rank 0 and 0.2 on rank 1",
    "masks": "n_masks must be the same on all ranks, got 1 on rank 0 and 2 on rank 1",
    "seed": "random_state must be an int or None for a fit on several ranks",
    "bad value": "dropout must be",
    "values": "X must",
    "average_every": "average_every must be an int >= 1",
    "loss": "became",
    "loss of averages": "became",
    "rows": "X must be what the fit began with, got others",
    "ranks": "the number of ranks must stay 2, with which the fit began, got 1",
    "checkpoint": "none",
    "callback": "division by zero",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_on_one_rank_is_raised_on_all(name, two):
    for told in two["refusals"]:
        assert told[name] is not None
        assert REFUSED[name] in told[name]
    kinds = {told[name].split(":")[0] for told in two["refusals"]}
    assert ("FloatingPointError" in kinds) == name.startswith("loss")


def test_a_rank_that_is_killed_ends_the_job_and_the_checkpoint_serves(mpi, tmp_path):
    done = mpiexec(2, JOB, tmp_path, "killed")
    assert done.returncode != 0
    found = MADE.resume(tmp_path / "killed.ckpt")
    assert found._fit_state.epoch in (2, 3)  # rank 0 may be writing the third; no epoch before is lost
    assert bits(found)


def test_a_rank_that_leaves_ends_the_job_with_one_line(mpi, tmp_path):
    done = mpiexec(2, JOB, tmp_path, "leaves")
    assert done.returncode != 0
    assert re.findall("made_fast: rank.*", done.stderr) == ["made_fast: rank 1 of 2 ends the job: KeyboardInterrupt"]


def test_something_else_than_a_communicator_is_refused():
    with pytest.raises(TypeError, match="comm must be an MPI communicator of mpi4py, got 3 of type int"):
        made().fit(X, comm=3)
    with pytest.raises(ValueError, match="average_every must come with comm"):
        made().fit(X, average_every=3)


def test_the_command_line_trains_on_its_ranks(mpi, tmp_path):
    np.savez(tmp_path / "x.npz", train=X, valid=X_VAL)
    command = ["-m", "made_fast", "train", tmp_path / "x.npz", "--mpi", "--hidden", "9", "--seed", "1", "--quiet"]
    command += ["--checkpoint", tmp_path / "fit.ckpt"]
    done = mpiexec(2, *command, "--max-epochs", "2", "--out", tmp_path / "a.safetensors")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("model file") == 1
    assert ", 2 ranks," in done.stdout
    assert load(tmp_path / "a.safetensors").n_features_in == 12
    wrong = mpiexec(2, *command, "--resume", "--max-epochs", "3", "--average-every", "2", "--out", tmp_path / "b.safetensors")
    said = [line for line in wrong.stderr.splitlines() if line.startswith("made-fast")]
    assert (wrong.returncode, len(said), len(set(said))) == (2, 2, 1)
    assert "average_every must stay None, with which the fit began, got 2" in said[0]
    assert not (tmp_path / "b.safetensors").exists()
