"""The fixture of the tests of the kernels."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest
from kernel_cases import implementation


@pytest.fixture
def module(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """Return the implementation of the kernels that a mark of ``kernel_cases`` names."""
    yield from implementation(request.param)
