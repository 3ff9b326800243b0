"""Training by Adam, one thread: a call is an epoch of some steps, 20 or fewer; divide its time by them.

Under one connectivity, under a fresh one each step, and with inputs of any density: ``native`` chooses how to read them,
``native-sparse`` and ``native-dense`` read them one way.
"""

from __future__ import annotations

from typing import Any

import pytest

from bench.implementations import DENSE, IMPLEMENTATIONS
from bench.nets import DENSITIES, DNA, MNIST, STEP_SIZES, Size

EVERYONE = (*DENSE, "jit", "native")


@pytest.mark.parametrize("implementation", EVERYONE)
@pytest.mark.parametrize("size", STEP_SIZES, ids=str)
def test_training_step(clock: Any, size: Size, implementation: str) -> None:
    clock("training step", "step", size, implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("size", [MNIST, DNA], ids=str)
def test_training_step_with_fresh_masks(clock: Any, size: Size, implementation: str) -> None:
    clock("training step", "fresh", size, implementation)


@pytest.mark.parametrize("implementation", ["native", "native-sparse", "native-dense"])
@pytest.mark.parametrize("size", DENSITIES, ids=str)
def test_training_step_by_density(clock: Any, size: Size, implementation: str) -> None:
    clock("training step", "step", size, implementation)
