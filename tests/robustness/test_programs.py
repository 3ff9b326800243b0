"""A small share of the programs kill, thread_stress, fork_stress, guests and interrupts.

Not here: faults (``test_faults.py``), the fuzzer (``test_fuzz.py``), doors (``test_doors.py``).
"""

from __future__ import annotations

import sys

import pytest
from robustness import fork_stress, guests, interrupts, kill, thread_stress

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc; elsewhere a system may not survive fork"),
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),  # fork in a process that has threads: the point
]

GENEROUS = 2.0
"""Seconds for the answer to Ctrl-C. The promise is 0.1, and 0.01 to 0.05 is usual; but here others may have the CPUs."""


def figures_of(report):
    """Return the figures of a report, if all promises were kept."""
    assert not report.show()
    return report.figures


def test_a_model_file_is_the_old_one_or_the_new_one_whenever_its_writer_is_killed(tmp_path):
    figures = figures_of(kill.kill_savers(90, tmp_path))
    assert figures["kills"] == 90
    assert figures["kills that left a temporary file"]  # some struck in the middle of a write


def test_a_fit_that_is_killed_and_resumed_has_the_bits_of_one_that_is_not(tmp_path):
    figures = figures_of(kill.kill_fits(110, tmp_path))
    assert figures["kills"] >= 110
    assert figures["distinct steps at which it was killed"] >= 10


def test_no_thread_notices_the_others(tmp_path):
    figures = figures_of(thread_stress.stress(tmp_path, seconds=3, round_seconds=0.5))
    assert figures["calls"] >= 2 * 64
    assert figures["calls that fit"] >= 4


def test_first_use_may_be_by_all_threads_at_once(tmp_path):
    assert figures_of(thread_stress.first_use(tmp_path, 2))["calls"] == 128


def test_idle_threads_sleep_and_small_calls_start_none(tmp_path):
    figures_of(thread_stress.quiet(tmp_path, seconds=1))


def test_children_forked_in_the_midst_of_everything_find_the_same_bits(tmp_path):
    figures = figures_of(fork_stress.stress(tmp_path, 24))
    assert (figures["children"], figures["grandchildren"]) == (24, 3)
    assert figures["calls of the parent meanwhile"] > 0


def test_a_fork_before_first_use_is_fine_too(tmp_path):
    assert figures_of(fork_stress.early(tmp_path, 1))["processes"] == 4


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn", "loky"])
def test_workers_of_every_kind_find_the_same_bits(tmp_path, method):
    assert figures_of(fork_stress.pools(tmp_path, method))[f"calls, {method}"] == 6


@pytest.mark.parametrize("server", fork_stress.SERVERS)
def test_a_server_that_loads_and_scores_before_it_forks_serves(tmp_path, server):
    if fork_stress.missing(server):
        pytest.skip("gunicorn is not installed")
    assert figures_of(fork_stress.serve(tmp_path, server, 60))["requests"] == 60


@pytest.mark.parametrize("guest", guests.GUESTS)
def test_neither_disturbs_the_other_nor_a_forked_child(guest):
    if not guests.installed(guest):
        pytest.skip(f"{guest} is not installed")
    assert figures_of(guests.beside(guest))["processes"] == 2


def test_by_default_there_are_as_many_threads_as_cpus_or_as_told():
    figures_of(guests.counts())


def test_ctrl_c_is_answered_and_leaves_all_as_it_was():
    names = [name for name in interrupts.ALL if name not in interrupts.THEIRS]
    found = list(interrupts.run(names, 2, scale=0.02))
    for figures in found:
        interrupts.show(figures)
    assert [figures.name for figures in found] == names
    assert {figures.name: figures.wrong for figures in found if figures.wrong} == {}
    assert sum(len(figures.latencies) for figures in found) > len(names)
    assert [figures.name for figures in found if figures.is_late(GENEROUS)] == []
