"""An example of the C library through ctypes: NumPy arrays in, NumPy arrays out, without the package ``made_fast``.

``python example.py libmade_fast.so MODEL [N_DRAWS]`` draws rows from a model and prints each with its log-likelihood.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Library", "MadeFastError", "Model"]


class _Error(ctypes.Structure):
    _fields_ = (("status", ctypes.c_int), ("text", ctypes.c_char * 508))


class MadeFastError(Exception):
    """What the library says; ``status`` is one of ``MADE_FAST_BAD_FILE`` and so on in ``made_fast.h``."""

    def __init__(self, error: _Error) -> None:
        super().__init__(error.text.decode(errors="replace"))
        self.status = error.status


class Library:
    """The functions of a ``libmade_fast.so``."""

    def __init__(self, path: str) -> None:
        self.c = ctypes.CDLL(path)
        pointer, size, text, error = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.POINTER(_Error)
        signatures: dict[str, tuple[Any, ...]] = {
            "open": (pointer, text, error),
            "map": (pointer, text, error),
            "open_bytes": (pointer, text, size, error),
            "close": (None, pointer),
            "n_inputs": (size, pointer),
            "n_networks": (size, pointer),
            "column_name": (text, pointer, size),
            "has_threshold": (ctypes.c_int, pointer, ctypes.POINTER(ctypes.c_double)),
            "cpu": (text, pointer),
            "score": (ctypes.c_int, pointer, pointer, size, size, pointer, error),
            "conditionals": (ctypes.c_int, pointer, pointer, size, size, pointer, error),
            "sample": (ctypes.c_int, pointer, size, size, ctypes.c_uint64, pointer, error),
        }
        for name, (result, *arguments) in signatures.items():
            function = getattr(self.c, f"made_fast_{name}")
            function.restype, function.argtypes = result, arguments

    def open(self, source: str | bytes, *, mmap: bool = False) -> Model:
        """Open a model from the path of its file, or from its content."""
        error = _Error()
        if isinstance(source, bytes):
            handle = self.c.made_fast_open_bytes(source, len(source), error)
        else:
            handle = (self.c.made_fast_map if mmap else self.c.made_fast_open)(source.encode(), error)
        if not handle:
            raise MadeFastError(error)
        return Model(self.c, handle)


class Model:
    """A model that is open until this object is gone; any number of threads may use it."""

    def __init__(self, c: ctypes.CDLL, handle: int) -> None:
        self.c, self.handle = c, handle
        self.n_inputs: int = c.made_fast_n_inputs(handle)
        self.n_networks: int = c.made_fast_n_networks(handle)
        self.cpu: str = c.made_fast_cpu(handle).decode()
        threshold = ctypes.c_double()
        self.binarize = threshold.value if c.made_fast_has_threshold(handle, threshold) else None
        names = [c.made_fast_column_name(handle, d) for d in range(self.n_inputs)]
        self.feature_names = None if names[0] is None else tuple(name.decode() for name in names)

    def __del__(self) -> None:
        self.c.made_fast_close(self.handle)

    def score_samples(self, rows: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return log p of rows (n, D), in nats."""
        return self._of_rows(self.c.made_fast_score, rows, np.empty(len(rows)))

    def conditional_proba(self, rows: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return p(x_d = 1 | the inputs before d) for every entry of rows (n, D)."""
        return self._of_rows(self.c.made_fast_conditionals, rows, np.empty(rows.shape))

    def sample(self, n: int, seed: int) -> NDArray[np.uint8]:
        """Draw n rows, (n, D)."""
        rows, error = np.empty((n, self.n_inputs), np.uint8), _Error()
        if self.c.made_fast_sample(self.handle, n, self.n_inputs, seed, rows.ctypes.data, error):
            raise MadeFastError(error)
        return rows

    def _of_rows(self, function: Any, rows: NDArray[np.uint8], out: NDArray[np.float64]) -> NDArray[np.float64]:
        rows, error = np.ascontiguousarray(rows, np.uint8), _Error()
        if function(self.handle, rows.ctypes.data, *rows.shape, out.ctypes.data, error):
            raise MadeFastError(error)
        return out


if __name__ == "__main__":
    library, path, n_draws = sys.argv[1], sys.argv[2], int((*sys.argv, "5")[3])
    model = Library(library).open(path)
    drawn = model.sample(n_draws, seed=0)
    for row, log_p in zip(drawn, model.score_samples(drawn), strict=True):
        print("".join(map(str, row)), f"{log_p:.17g}")
