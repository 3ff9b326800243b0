"""A training step as the inputs and the hidden units grow in number, one thread; ``bench.report`` draws it."""

from __future__ import annotations

from typing import Any

import pytest

from bench.implementations import IMPLEMENTATIONS
from bench.nets import SCALING_D, SCALING_H, Size


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("size", SCALING_D, ids=str)
def test_scaling_in_d(clock: Any, size: Size, implementation: str) -> None:
    clock("scaling in D", "step", size, implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("size", SCALING_H, ids=str)
def test_scaling_in_h(clock: Any, size: Size, implementation: str) -> None:
    clock("scaling in H", "step", size, implementation)
