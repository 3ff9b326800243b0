"""One epoch of 10,000 rows by ``partial_fit``, one thread: rows are checked and packed, batches drawn, the model kept."""

from __future__ import annotations

from typing import Any

import pytest

from bench.implementations import IMPLEMENTATIONS
from bench.nets import EPOCH


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_epoch(clock: Any, implementation: str) -> None:
    clock("epoch", "epoch", EPOCH, implementation)
