"""Ctrl-C at random moments: a small share of what ``python tests/robustness/interrupts.py`` does, on small models."""

from __future__ import annotations

import sys

import pytest
from robustness import interrupts

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

GENEROUS = 2.0
"""Seconds. The promise is 0.1, and 0.01 to 0.05 is what it takes; but here others may have the CPUs."""


def test_ctrl_c_is_answered_and_leaves_all_as_it_was():
    names = [name for name in interrupts.ALL if name not in interrupts.THEIRS]
    found = list(interrupts.run(names, 2, scale=0.02))
    for figures in found:
        interrupts.show(figures)
    assert [figures.name for figures in found] == names
    assert {figures.name: figures.wrong for figures in found if figures.wrong} == {}
    assert sum(len(figures.latencies) for figures in found) > len(names)
    assert [figures.name for figures in found if figures.is_late(GENEROUS)] == []
