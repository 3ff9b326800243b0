"""Ancestral sampling of 100 rows, drawing of the random numbers included, one thread.

``numpy`` makes D full passes, as most code does; ``numpy-incremental`` keeps the hidden sums up from input to input, the best
way that was found in NumPy for one hidden layer.
"""

from __future__ import annotations

from typing import Any

import pytest

from bench.cases import IMPLEMENTATIONS, SIZES, Size


@pytest.mark.parametrize("implementation", [*IMPLEMENTATIONS, "numpy-incremental"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sample(clock: Any, size: Size, implementation: str) -> None:
    clock("sample", size, implementation)
