"""Log-likelihood of 1000 rows under a mixture of 32 masks, and under each of the 32 one after the other; one thread."""

from __future__ import annotations

from typing import Any

import pytest

from bench.implementations import IMPLEMENTATIONS
from bench.nets import MNIST


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("case", ["mixture", "apart"])
def test_mixture(clock: Any, case: str, implementation: str) -> None:
    clock("mixture", case, MNIST, implementation)
