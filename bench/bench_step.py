"""Training by Adam on mini-batches of 100 rows, one thread. A call is an epoch of 20 steps: divide its time by 20."""

from __future__ import annotations

from typing import Any

import pytest

from bench.cases import IMPLEMENTATIONS, SIZES, Size


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_training_step(clock: Any, size: Size, implementation: str) -> None:
    clock("step", size, implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_training_step_with_fresh_masks(clock: Any, size: Size, implementation: str) -> None:
    clock("fresh", size, implementation)
