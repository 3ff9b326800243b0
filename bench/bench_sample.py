"""Ancestral sampling, drawing of the random numbers included, one thread.

``numpy`` makes D full passes, as most code does; ``numpy-incremental`` keeps the hidden sums up from input to input, the best
way that was found in NumPy for one hidden layer.
"""

from __future__ import annotations

from typing import Any

import pytest

from bench.implementations import IMPLEMENTATIONS
from bench.nets import DNA, MNIST, Size


@pytest.mark.parametrize("implementation", [*IMPLEMENTATIONS, "numpy-incremental"])
@pytest.mark.parametrize("size", [MNIST, DNA], ids=str)
def test_sample(clock: Any, size: Size, implementation: str) -> None:
    clock("sample", "sample-100", size, implementation)


@pytest.mark.parametrize("implementation", ["numpy-incremental", "jit", "native"])
@pytest.mark.parametrize("size", [MNIST, DNA], ids=str)
def test_sample_many(clock: Any, size: Size, implementation: str) -> None:
    clock("sample", "sample-1000", size, implementation)
