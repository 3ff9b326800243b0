"""Many threads share models: a small share of what ``python tests/robustness/thread_stress.py`` does."""

from __future__ import annotations

import sys

import pytest
from robustness import thread_stress

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def test_no_thread_notices_the_others(tmp_path):
    report = thread_stress.stress(tmp_path, seconds=3, round_seconds=0.5)
    assert not report.show()
    assert report.figures["calls"] >= 2 * 64
    assert report.figures["calls that fit"] >= 4


def test_first_use_may_be_by_all_threads_at_once(tmp_path):
    report = thread_stress.first_use(tmp_path, 2)
    assert not report.show()
    assert report.figures["calls"] == 128


def test_idle_threads_sleep_and_small_calls_start_none(tmp_path):
    assert not thread_stress.quiet(tmp_path, seconds=1).show()
