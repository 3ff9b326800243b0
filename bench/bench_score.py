"""Log-likelihood of 1000 rows and of one row through the public call, checking and packing included, one thread."""

from __future__ import annotations

from typing import Any

import pytest

from bench.cases import IMPLEMENTATIONS, SIZES, Size


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("case", ["score-1000", "score-1"])
def test_score(clock: Any, case: str, size: Size, implementation: str) -> None:
    clock(case, size, implementation)
