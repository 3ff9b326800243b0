"""Fixtures that several test files share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"

sys.path.append(str(ROOT))  # the bench is not installed: tests find it here, each file also when run alone


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let a process without tests take those that wait for another: some take a minute, most a hundredth of a second."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getoption("dist") == "load" else None


@pytest.fixture
def real_set() -> Callable[[str], dict[str, NDArray[np.uint8]]]:
    """Return a loader of the real benchmark sets; the test is skipped where they are not at hand."""

    def load(name: str) -> dict[str, NDArray[np.uint8]]:
        path = SHARED / f"{name}.npz"
        if not path.exists():
            pytest.skip(f"the benchmark set {name} is not on this machine")
        with np.load(path) as file:
            n = int(file["n_features"])
            return {split: np.unpackbits(file[split], axis=1, count=n) for split in ("train", "valid", "test")}

    return load
