"""Kill -9 while files are written: a small share of what ``python tests/robustness/kill.py`` does."""

from __future__ import annotations

import os

import pytest
from robustness import kill

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),  # fork in a process that has threads: the point
]


def test_a_model_file_is_the_old_one_or_the_new_one_whenever_its_writer_is_killed(tmp_path):
    report = kill.kill_savers(90, tmp_path)
    assert not report.show()
    assert report.figures["kills"] == 90
    assert report.figures["kills that left a temporary file"]  # some struck in the middle of a write


def test_a_fit_that_is_killed_and_resumed_has_the_bits_of_one_that_is_not(tmp_path):
    report = kill.kill_fits(110, tmp_path)
    assert not report.show()
    assert report.figures["kills"] >= 110
    assert report.figures["distinct steps at which it was killed"] >= 10
