"""What BLAS does in an order that depends on its threads, in one order: sums without it, decompositions on one thread.

Not here: our own threads (``threads.py``), the sums of the kernels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["one_thread", "weighted_sum"]

_lock = Lock()  # BLAS has one number of threads for the whole process: who sets it gives it back before the next


def weighted_sum(weights: NDArray[Any], rows: NDArray[Any]) -> NDArray[np.float64]:
    """Return the sums of the columns of rows, (n, D), each row in times of its weight, (n,), row by row."""
    return np.asarray(np.einsum("n,nd->d", weights, rows), np.float64)


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep BLAS on one thread, in the whole process, while this lasts; calls wait for each other.

    A program that itself holds the number of these threads, by threadpoolctl on another of its threads, keeps its own number.
    """
    from threadpoolctl import threadpool_limits

    with _lock, threadpool_limits(1, user_api="blas"):
        yield


def _new_lock() -> None:
    global _lock
    _lock = Lock()


if hasattr(os, "register_at_fork"):  # a thread of the parent may have had it
    os.register_at_fork(after_in_child=_new_lock)
