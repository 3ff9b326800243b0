"""Numba kernels: those of ``reference`` as compiled loops over live panels, for machines without a C compiler.

One tile serves all products, and every sum of products is a single chain of multiply-adds in ascending order. So, on one
machine, few or many ones, any ``block`` and the one-pass sampler give the same bits. Not here: several threads (training
is for one rank), a choice of CPU level (LLVM compiles for the machine it runs on), the bits of ``native``.

Importing this package compiles nothing. A kernel is compiled on its first call, and kept in Numba's cache where one can be
written. With ``NUMBA_DISABLE_JIT=1`` all of it runs as plain Python.
"""

from made_fast.kernels.jit.latent import train_latent
from made_fast.kernels.jit.network import apply_gradient, conditionals, pack_bits, score, score_row, train
from made_fast.kernels.jit.shared import pack, train_shared
from made_fast.kernels.jit.walks import sample, walk

__all__ = [
    "apply_gradient", "conditionals", "pack", "pack_bits", "sample", "score", "score_row", "train", "train_latent",
    "train_shared", "walk",
]  # fmt: skip
