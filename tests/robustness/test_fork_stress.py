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
    figures = fork_stress.stress(tmp_path, 24)
    fork_stress.print_stress(figures)
    assert figures.ends == {"same bits": 24}
    assert figures.grandchildren == 3
    assert figures.calls > 0
    assert figures.wrong == []


def test_a_fork_before_first_use_is_fine_too(tmp_path):
    assert fork_stress.early(tmp_path, 1) == []


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn", "loky"])
def test_workers_of_every_kind_find_the_same_bits(tmp_path, method):
    assert fork_stress.pools(tmp_path, [method]) == {method: "same bits"}


@pytest.mark.parametrize("server", fork_stress.SERVERS)
def test_a_server_that_loads_and_scores_before_it_forks_serves(tmp_path, server):
    if fork_stress.missing(server):
        pytest.skip("gunicorn is not installed")
    workers, wrong = fork_stress.serve(tmp_path, server, 60)
    assert wrong == []
    assert workers == fork_stress.WORKERS
