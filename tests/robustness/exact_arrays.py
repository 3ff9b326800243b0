"""A pytest plugin: aligned arrays end where their memory ends, so that AddressSanitizer sees the first byte beyond.

The package aligns an array by cutting it out of a somewhat larger one, and the tests of the kernels leave room behind theirs,
to see what is written there. A kernel that *reads* a few numbers too many would go unnoticed in both. ``sanitize.py`` loads
this plugin; on its own it finds nothing.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

BOUNDARY = 64

_libc = ctypes.CDLL(None)
_libc.free.argtypes = [ctypes.c_void_p]
_libc.free.restype = None


def cut(raw: NDArray[np.uint8], n: int, dtype: Any) -> NDArray[Any]:
    """Return n numbers that begin as ``raw`` does, in memory of just that size, on a 64-byte boundary."""
    size = n * np.dtype(dtype).itemsize
    start = ctypes.c_void_p()
    if _libc.posix_memalign(ctypes.byref(start), ctypes.c_size_t(BOUNDARY), ctypes.c_size_t(max(size, 1))) or not start.value:
        raise MemoryError(f"{size} bytes")
    memory = (ctypes.c_uint8 * size).from_address(start.value)
    weakref.finalize(memory, _libc.free, start.value)
    found = np.frombuffer(memory, np.uint8)
    found[:] = raw[:size]
    return found.view(dtype)


def room(shape: int | tuple[int, ...], dtype: Any, fill: Any = np.nan) -> NDArray[Any]:
    """Return the array of ``kernel_cases.room``, with no room behind it."""
    from made_fast.kernels import layout

    found = layout.aligned_empty(math.prod(np.atleast_1d(shape).tolist()), dtype)
    found[:] = fill
    return found.reshape(shape)


def pytest_configure() -> None:
    """Put these in the places of the functions that leave room behind. Test modules are imported later."""
    import kernel_cases

    from made_fast.kernels import layout

    for module, name, ours in ((layout, "_aligned", cut), (kernel_cases, "room", room)):
        assert hasattr(module, name), name
        setattr(module, name, ours)
