"""MADEs fitted at the same time by joblib: on threads of this process, or wherever ``joblib.parallel_config`` says.

Not here: what becomes of them (``ensemble.py``, ``search.py``).
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import joblib

from made_fast.estimators.estimator import MADE
from made_fast.system import threads
from made_fast.tables import arguments
from made_fast.training.checkpoint import EpochRecord
from made_fast.training.rows import Rows

__all__ = ["at_a_time", "fit_all"]


def at_a_time(n_jobs: int | None, n_members: int, n_threads: int) -> int | None:
    """Return the number of members at a time for joblib; None is what its context says."""
    if n_jobs is None:
        backend, of_context = joblib.parallel.get_active_backend()
        nested, of_backend = backend.nesting_level, getattr(backend, "default_n_jobs", 1)  # a cluster has its own number
        if of_context is None and not nested and of_backend == 1:
            return min(n_members, n_threads)
    return n_jobs


_running: set[str] = set()
"""The calls of this process that train members. When one fails or Ctrl-C comes, joblib does not wait for the other threads:
a member whose call is no longer here stops after its epoch."""


def fit_all(
    members: Sequence[MADE],
    rows: Rows,
    held: Rows | None,
    callback: Callable[[int, EpochRecord], Any] | None,
    n_jobs: int | None,
    *,
    own_threads: bool,
    seconds: float | None = None,
) -> list[MADE]:
    """Fit the members and return them, as copies if in other processes; ``own_threads``: the user has set their number.

    With ``seconds``, each ends with the first epoch that is over after so many, and one whose loss becomes infinite has the
    model of its last good epoch, or no epoch at all.
    """
    call = f"{os.getpid()} {secrets.token_hex(8)}"
    parallel = joblib.Parallel(n_jobs=n_jobs, prefer="threads")
    data = {
        "X": rows.table,
        "X_val": None if held is None else held.table,
        "sample_weight": rows.weights if len(rows.weights) else None,
        "sample_weight_val": held.weights if held is not None and len(held.weights) else None,
    }
    tasks = []
    for m, made in enumerate(members):
        made._names = rows.names
        own = _Callback(call, callback and partial(callback, m), seconds)
        tasks.append(joblib.delayed(_fit)(made, data, own, own_threads))
    _running.add(call)
    try:
        return list(parallel(tasks))
    finally:
        _running.discard(call)


@dataclass
class _Callback:
    """The callback of a member: it ends the fit if the call has ended or time is up, and calls the user's callback."""

    call: str
    user: Callable[[EpochRecord], Any] | None
    seconds: float | None = None
    begin: float = 0.0

    def __call__(self, record: EpochRecord) -> Any:
        if self.is_called_off():
            raise KeyboardInterrupt
        if self.user is not None and arguments.is_true(self.user(record)):
            return True
        return self.seconds is not None and time.monotonic() - self.begin > self.seconds

    def is_called_off(self) -> bool:
        """Say whether the call has ended, if it was one of this process."""
        return self.call.split()[0] == str(os.getpid()) and self.call not in _running


def _fit(made: MADE, data: dict[str, Any], callback: _Callback, own_threads: bool) -> MADE:
    """Fit one member, on a thread of the process that called or in another process."""
    if not own_threads:
        made.set_params(n_threads=min(made.n_threads or 1, threads.available()))  # another machine may have fewer
    made._warns = False  # the ensemble has warned, once for all members
    callback.begin = time.monotonic()
    try:
        return made.fit(callback=callback, **data)
    except FloatingPointError:
        if callback.seconds is None:
            raise
        return made
    except KeyboardInterrupt:
        if not callback.is_called_off():
            raise
        return made
    finally:
        del made._warns, made._names
