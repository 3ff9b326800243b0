"""The kernels: functions on arrays that do all arithmetic of MADE. They know no file, no estimator, no random number.

``KERNELS`` are what production calls. Each exists three times under one signature: ``reference`` (dense NumPy, slow, obviously
right), ``jit`` (Numba) and ``native`` (C for each CPU level, behind Cython). ``native`` is the default; ``MADE_FAST_KERNELS``
chooses another. The docstrings of ``reference`` say what each computes. ``BLOCKS`` are what ``reference`` and ``native`` make
them of, for tests and the bench.

Contract. A kernel gets records (``records.py``) of C-contiguous arrays of the right sizes and trusts them. It writes only its
outputs, allocates nothing, starts no thread, needs no GIL, draws no random number, and raises only errors about the type of an
array. ``reference`` allocates; it is the oracle.

Letters, here and in the C sources:

====== ============================================================================================================
B, m   rows of a mini-batch, rows worked on
D, H   inputs (= outputs), hidden units
L      hidden layers; there are L + 1 affine layers, l = 0 reads the inputs, l = L gives the logits; A: direct connections
W, b   weights (n_in, n_out) and bias of a layer; M its mask
x, z   binary input; sum of a unit before its activation
h      output of a layer, h = g(z); a stands for the output layer's z, the logits
d...   gradient of the mean loss: dz, dh, dW, db
p, k, j panel; unit of the layer below, or place; unit of the layer
bits   (n, ceil(D / 64)) uint64: bit p % 64 of word p // 64 is the input at place p + 1
theta  all parameters of one connectivity in one vector; where each stands: ``layout.py``
shared all parameters in one vector, in original order, when several connectivities share them
E      how the biases of a latent mixture depend on the features of its K points, (R, n_biases)
====== ============================================================================================================

Unit numbers are sorted positions (units of each layer in order of degree, inputs and outputs in order of place) but in
``shared``. Activation buffers are ``(panels, B, 64)``: unit j of row i is at ``[j // 64, i, j % 64]``, fill-up units end the
last panel.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from types import ModuleType
from typing import TYPE_CHECKING

from made_fast.kernels import layout, optimizers

if TYPE_CHECKING:  # programs that pack others into one file look for imports, wherever they stand
    from made_fast.kernels import jit, reference  # noqa: F401
    from made_fast.kernels.native import _native  # type: ignore[attr-defined]  # noqa: F401

__all__ = ["BLOCKS", "IMPLEMENTATIONS", "KERNELS", "active", "implementation", "layout", "load", "optimizers", "use"]

IMPLEMENTATIONS = ("native", "jit", "reference")

KERNELS = (
    "apply_gradient", "conditionals", "pack", "pack_bits", "sample", "score", "score_row", "train", "train_latent",
    "train_shared", "walk",
)  # fmt: skip
"""Names that every implementation has."""

BLOCKS = ("affine_backward_input", "affine_backward_weights", "affine_forward", "bernoulli_nll")
"""Names that ``reference`` and ``native`` have beside them."""

_MODULES = {"native": "native._native", "jit": "jit", "reference": "reference"}


def load(name: str) -> ModuleType:
    """Import the implementation called ``name`` and return its module."""
    if name not in _MODULES:
        raise ValueError(f"MADE_FAST_KERNELS must be one of {', '.join(IMPLEMENTATIONS)}; got {name!r}.")
    return importlib.import_module(f"made_fast.kernels.{_MODULES[name]}")


def use(name: str) -> None:
    """Do all further work in this process with the implementation called ``name``."""
    global active, implementation
    active, implementation = load(name), name


def _choose() -> str:
    wanted = os.environ.get("MADE_FAST_KERNELS")
    if wanted:
        return wanted
    if importlib.util.find_spec("made_fast.kernels.native._native") is None:
        warnings.warn(
            "made_fast was installed without its compiled kernels (no C compiler was found) and runs on the slower Numba "
            "kernels. Install a C compiler and reinstall, or set MADE_FAST_KERNELS=jit to say that this is meant.",
            RuntimeWarning,
            stacklevel=3,
        )
        return "jit"
    return "native"


active: ModuleType
"""The implementation in use: a module that has every name of ``KERNELS``."""
implementation: str
"""Its name."""

use(_choose())
