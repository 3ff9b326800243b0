"""Kernels on one masked layer, against the dense product of NumPy; ``peak`` is its live multiply-adds and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from bench.layers import KERNELS, implementations
from bench.nets import Layer

RUNS = [(name, layer, i) for name, layers in KERNELS.items() for layer in layers for i in implementations(name)]


@pytest.mark.parametrize(("name", "layer", "implementation"), RUNS, ids=lambda value: str(value).replace(", ", "-"))
def test_kernel(clock: Any, name: str, layer: Layer, implementation: str) -> None:
    clock("kernels", name, layer, implementation)
