"""What a figure depends on: CPU, versions, threads; and the peaks of the machine, measured by ``peak.c``.

Without a C compiler there are no peaks, and who asks is told None. It knows no MADE but its version.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from threadpoolctl import threadpool_info

from made_fast import kernels, threads

__all__ = ["MEMORY", "Peaks", "cpu", "facts", "multiply_adds", "peaks", "slug"]

MEMORY = {"256 KB": 256 << 10, "1 MB": 1 << 20, "6 MB": 6 << 20, "100 MB": 100 << 20}
"""How much memory each thread goes over."""

FLAGS: tuple[list[str], ...] = (["-march=native", "-mprefer-vector-width=512"], ["-march=native"], [])
"""The first that the compiler takes; what it makes measures this machine and is thrown away."""


class Peaks(NamedTuple):
    """What the machine can do; by thread count 1 and 2 where there are two CPUs.

    Attributes
    ----------
    flops : dict
        Floating-point operations a second, a multiply-add is two.
    read, read_write : dict
        (a key of ``MEMORY``, threads) -> bytes a second; reading and writing back counts twice.
    round_trip : float
        Seconds for a cache line to the other core and back; 0 where there is none.
    """

    flops: dict[int, float]
    read: dict[tuple[str, int], float]
    read_write: dict[tuple[str, int], float]
    round_trip: float


def cpu() -> str:
    """Return the model of the CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def slug(name: str) -> str:
    """Return a name as part of a file name."""
    plain = re.sub(r"\((?:r|tm)\)|@.*|\bcpu\b", " ", name.lower())
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def facts() -> dict[str, str]:
    """Return what a figure depends on beside the code."""
    pools: list[dict[str, Any]] = threadpool_info()
    blas = next((pool for pool in pools if pool["user_api"] == "blas"), {})
    native = kernels.load("native") if find_spec("made_fast.kernels.native._native") else None
    names = ("numpy", "scipy", "numba", "torch", "jax", "made_fast")
    return {
        "CPU": cpu(),
        "CPUs": f"{threads.available()} of {os.cpu_count()}",
        "native kernels": native.level() if native else "missing",
        "threads": "1 (BLAS by threadpoolctl), native-2: 2",
        "Python": platform.python_version(),
        **{name: version for name in names if (version := _version(name))},
        "BLAS": f"{blas.get('internal_api', 'unknown')} {blas.get('version', '')} {blas.get('architecture', '')}".strip(),
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


@cache
def peaks() -> Peaks | None:
    """Measure the machine, in a second or two; None without a compiler."""
    library = _library()
    if library is None:
        return None
    counts = [1, 2] if threads.available() > 1 else [1]
    library.fma_peak.restype = library.bandwidth.restype = library.round_trip.restype = ctypes.c_double

    def over(write: int) -> dict[tuple[str, int], float]:
        sizes = [(name, n, ctypes.c_size_t(size)) for name, size in MEMORY.items() for n in counts]
        return {(name, n): library.bandwidth(n, size, write) for name, n, size in sizes}

    flops = {n: library.fma_peak(n) for n in counts}
    return Peaks(flops, over(0), over(1), library.round_trip() if len(counts) > 1 else 0.0)


def multiply_adds(flops: float) -> Callable[[], Any] | None:
    """Return a call that does so many floating-point operations and nothing else, to be timed among others."""
    library = _library()
    if library is None:
        return None
    return partial(library.fma_turns, ctypes.c_long(round(flops / library.flops_per_turn())))


@cache
def _library() -> ctypes.CDLL | None:
    source = Path(__file__).with_name("peak.c")
    with TemporaryDirectory() as folder:
        out = Path(folder) / "peak.so"
        for flags in FLAGS:
            command = [os.environ.get("CC", "cc"), "-O2", *flags, "-pthread", "-shared", "-fPIC", str(source), "-o", str(out)]
            try:
                if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                    return ctypes.CDLL(str(out))  # it stays loaded when the file is gone
            except OSError:
                return None
    return None
