"""The C library, built once for all tests of a run."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
from embedded import building


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the library and the example; processes of one run share it."""
    if reason := building.missing():
        pytest.skip(reason)
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "embedded"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        building.make(folder)
    return folder


@pytest.fixture(scope="session")
def library(built: Path) -> building.example().Library:
    """Return the library through the ctypes of ``example.py``."""
    return building.example().Library(str(next(built.glob("libmade_fast.[sd]*"))))
