"""Each run of the report's plan as a benchmark of its own: ``pytest bench/ -k "score and native"``; ``plan.py`` says which.

A training step is timed as an epoch of some steps, 20 or fewer, so its time is to be divided by them (``units``). Two threads
can be trusted only where a cache line is no further off than some 100 ns (``python -m bench.report --only machine``).
"""

from __future__ import annotations

from typing import Any

import pytest

from bench.cases import Run
from bench.plan import GROUPS

RUNS = {
    f"{group}-{run.case}-{run.size}-{run.implementation}".replace(", ", "-"): (group, run)
    for group, rows in GROUPS.items()
    for row in rows
    for run in row
}


@pytest.mark.parametrize(("group", "run"), RUNS.values(), ids=RUNS.keys())
def test_run(clock: Any, group: str, run: Run) -> None:
    clock(group, run)
