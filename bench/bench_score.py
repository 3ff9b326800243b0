"""Log-likelihood of 1000 rows and (latency) of one row by the public call, checking and packing included, one thread."""

from __future__ import annotations

from typing import Any

import pytest

from bench.implementations import DENSE
from bench.nets import DNA, MNIST, Size

EVERYONE = (*DENSE, "jit", "native")


@pytest.mark.parametrize("implementation", EVERYONE)
@pytest.mark.parametrize("size", [MNIST, DNA], ids=str)
def test_score(clock: Any, size: Size, implementation: str) -> None:
    clock("score", "score-1000", size, implementation)


@pytest.mark.parametrize("implementation", EVERYONE)
@pytest.mark.parametrize("size", [MNIST, DNA], ids=str)
def test_latency(clock: Any, size: Size, implementation: str) -> None:
    clock("latency", "score-1", size, implementation)
