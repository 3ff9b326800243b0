"""A training step on mini-batches of 1 to 4096 rows, one thread; a call is an epoch of 20 steps or fewer."""

from __future__ import annotations

from typing import Any

import pytest

from bench.implementations import IMPLEMENTATIONS
from bench.nets import BATCHES, Size


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("size", BATCHES, ids=str)
def test_batch_size(clock: Any, size: Size, implementation: str) -> None:
    clock("batch size", "step", size, implementation)
