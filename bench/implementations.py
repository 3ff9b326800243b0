"""Who is timed: the implementations by name, whether each can run here, and how to switch to one.

``numpy``, ``torch``, ``torch-compile`` and ``jax`` are dense nets of one interface; ``jit`` and ``native`` are kernels of
the package, ``native-2`` is native on two threads. All others are held to one: the Numba kernels have none, BLAS is held by
``one_blas_thread``, torch and jax where they are loaded. Not here: what is done (``cases.py``) and on what (``nets.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from bench import machine
from bench.dense_numpy import DenseMADE, FreshDenseMADE
from made_fast import kernels
from made_fast.system import threads

__all__ = [
    "DENSE", "IMPLEMENTATIONS", "dense_net", "fresh_net", "kernels_of", "missing", "n_threads", "one_blas_thread", "using",
]  # fmt: skip

IMPLEMENTATIONS = ("numpy", "jit", "native")
"""Those that are always compared."""

DENSE = ("numpy", "torch", "torch-compile", "jax")
"""Those that are dense nets, whatever the masks."""


def dense_net(implementation: str, net: dict[str, Any], n_rows: int) -> DenseMADE:
    """Return the dense net of that name, made of what ``to_dense()`` returns.

    All have ``step``, ``score``, ``sample`` and ``theta`` of ``DenseMADE``.
    """
    dense = DenseMADE(net, n_rows)
    if implementation == "jax":
        dense = import_module("bench.dense_jax").JaxMADE(net, n_rows)
    elif implementation in ("torch", "torch-compile"):
        import_module("torch").set_num_threads(1)
        dense = import_module("bench.dense_torch").TorchMADE(net, n_rows, compiled=implementation == "torch-compile")
    return dense


def fresh_net(implementation: str, net: dict[str, Any], theta: NDArray[np.float32], n_rows: int) -> FreshDenseMADE:
    """Return the dense net of that name that has another connectivity with every step, and these weights under no mask."""
    if implementation == "jax":
        fresh: FreshDenseMADE = import_module("bench.dense_jax").FreshJaxMADE(net, theta, n_rows)
    elif implementation == "torch-compile":
        fresh = import_module("bench.dense_torch").FreshTorchMADE(net, theta, n_rows)
    else:
        fresh = FreshDenseMADE(net, theta, n_rows)
    return fresh


def kernels_of(implementation: str) -> str:
    """Return the kernels that an implementation uses; none of ours: its own name."""
    return "native" if implementation.startswith("native-") else implementation


def n_threads(implementation: str) -> int:
    """Return how many threads an implementation runs on."""
    return 2 if implementation == "native-2" else 1


@cache
def missing(implementation: str) -> str:
    """Say why an implementation cannot run here; nothing if it can."""
    package = implementation.partition("-")[0]
    if package in ("torch", "jax") and find_spec(package) is None:
        return f"{package} is not installed"
    if implementation == "torch-compile":
        try:
            _try_compile()
        except Exception as error:  # any: a compiler of its own runs in there
            return f"torch.compile does not work here: {type(error).__name__}"
    if kernels_of(implementation) == "native" and find_spec("made_fast.kernels.native._native") is None:
        return "made_fast was installed without its native kernels"
    if implementation == "peak" and machine.multiply_adds(0) is None:
        return "no C compiler, so no peak is measured"
    if n_threads(implementation) > threads.available():
        return f"{n_threads(implementation)} threads need as many CPUs"
    return ""


def _try_compile() -> None:
    one, weight = np.ones((1, 1), np.uint8), np.zeros((1, 1), np.float32)
    net = {"ordering": np.array([1]), "degrees": [np.array([1])], "masks": [one, 0 * one], "weights": [weight] * 2}
    dense_net("torch-compile", net | {"biases": [weight[0]] * 2, "direct": [None] * 2}, 1).step(weight)


@contextmanager
def using(implementation: str) -> Iterator[None]:
    """Switch to the kernels of ``implementation``, and back at the end; dense nets have none."""
    before = kernels.implementation
    if kernels_of(implementation) in kernels.IMPLEMENTATIONS:
        kernels.use(kernels_of(implementation))
    try:
        yield
    finally:
        kernels.use(before)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold BLAS to one thread."""
    with threadpool_limits(limits=1, user_api="blas"):
        yield
