"""Two threads against one, native kernels. Trust it only where a cache line is no further off than some 100 ns.

(``python -m bench.report --only machine`` measures that.)
"""

from __future__ import annotations

from typing import Any

import pytest

from bench.nets import MNIST, STEP_SIZES, TINY, Size

one_and_two = pytest.mark.parametrize("implementation", ["native", "native-2"])


@one_and_two
@pytest.mark.parametrize("size", STEP_SIZES, ids=str)
def test_training_step(clock: Any, size: Size, implementation: str) -> None:
    clock("threads", "step", size, implementation)


@one_and_two
@pytest.mark.parametrize("case", ["fresh", "score-1000", "sample-1000", "mixture"])
def test_other(clock: Any, case: str, implementation: str) -> None:
    clock("threads", case, MNIST, implementation)


@one_and_two
@pytest.mark.parametrize("case", ["score-32", "sample-32"])
def test_tiny(clock: Any, case: str, implementation: str) -> None:
    clock("threads", case, TINY, implementation)
