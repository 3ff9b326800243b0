"""Many threads share models: a small share of what ``python tests/robustness/thread_stress.py`` does."""

from __future__ import annotations

import sys

import pytest
from robustness import thread_stress

from made_fast.system import threads

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def test_no_thread_notices_the_others(tmp_path):
    figures = thread_stress.stress(tmp_path, seconds=3, round_seconds=0.5)
    thread_stress.print_stress(figures)
    assert figures.calls.total() >= 2 * 64
    assert len(figures.calls) > 30
    assert figures.different == {}
    assert figures.errors == []
    assert (figures.hanging, figures.left) == (0, 0)


def test_first_use_may_be_by_all_threads_at_once(tmp_path):
    calls, wrong = thread_stress.first_use(tmp_path, 2)
    assert calls == 128
    assert wrong == []


def test_idle_threads_sleep_and_small_calls_start_none(tmp_path):
    small, busy, cpu = thread_stress.quiet(tmp_path, seconds=1)
    assert small == 0
    assert 0 < busy <= threads.HELPERS
    assert cpu < 10 * thread_stress.MOST_IDLE_CPU  # 0.1 ms as measured; a thread that polls would take far more
