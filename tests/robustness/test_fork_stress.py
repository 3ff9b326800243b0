"""Forks in the midst of everything: a small share of what ``python tests/robustness/fork_stress.py`` does."""

from __future__ import annotations

import sys

import pytest
from robustness import fork_stress

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the system itself may not survive fork"),
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),  # fork in a process that has threads: the point
]


def test_children_forked_in_the_midst_of_everything_find_the_same_bits(tmp_path):
    report = fork_stress.stress(tmp_path, 24)
    assert not report.show()
    assert (report.figures["children"], report.figures["grandchildren"]) == (24, 3)
    assert report.figures["calls of the parent meanwhile"] > 0


def test_a_fork_before_first_use_is_fine_too(tmp_path):
    assert not fork_stress.early(tmp_path, 1).show()


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn", "loky"])
def test_workers_of_every_kind_find_the_same_bits(tmp_path, method):
    assert not fork_stress.pools(tmp_path, method).show()


@pytest.mark.parametrize("server", fork_stress.SERVERS)
def test_a_server_that_loads_and_scores_before_it_forks_serves(tmp_path, server):
    if fork_stress.missing(server):
        pytest.skip("gunicorn is not installed")
    assert not fork_stress.serve(tmp_path, server, 60).show()
