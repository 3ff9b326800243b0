"""made_fast beside other libraries with threads: once through what ``python tests/robustness/guests.py`` does many times."""

from __future__ import annotations

import sys

import pytest
from robustness import guests

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc; elsewhere fork may not be safe")


@pytest.mark.parametrize("guest", guests.GUESTS)
def test_neither_disturbs_the_other_nor_a_forked_child(guest):
    if not guests.installed(guest):
        pytest.skip(f"{guest} is not installed")
    report = guests.beside(guest)
    assert not report.show()
    assert report.figures["processes"] == 2


def test_by_default_there_are_as_many_threads_as_cpus_or_as_told():
    assert not guests.counts().show()
