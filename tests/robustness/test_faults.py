"""Calls of the C library that fail: a share of ``python tests/robustness/faults.py``."""

from __future__ import annotations

import os
import re
import shutil
import sys

import pytest
from robustness import faults
from robustness.common import compiler

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="preloads a library for glibc"),
    pytest.mark.skipif(shutil.which(compiler()[0]) is None, reason="needs a C compiler"),
    pytest.mark.skipif("LD_PRELOAD" in os.environ, reason="something else is preloaded"),
]

OPERATIONS = "^(save|fit with|load|resume|score, |sample, 2|fit, 2|fit under fresh masks, 2)"
KINDS = "^(?!write: I/O|fsync: disk|rename: I/O|open: disk|malloc: no memory)"


@pytest.fixture(scope="module")
def cells():
    return {(cell.operation, cell.fault): cell for cell in faults.run(OPERATIONS, KINDS, 2)}


def assert_whole(cells):
    for cell in cells:
        cell.show()
    assert [text for cell in cells for text in cell.broken] == []
    assert sum(cell.ends.total() for cell in cells)


def test_a_save_that_is_killed_before_or_amid_any_system_call_leaves_a_whole_file(cells):
    assert_whole([cell for cell in cells.values() if "killed" in cell.fault])
    cell = cells["save over another model", "killed before a call"]
    assert cell.ends == {"killed": cell.calls}
    assert re.fullmatch("[^wsn]*w+[^wsn]*sc?nc?[^wsn]*s[^wsn]*", cell.order), "write, fsync, rename, fsync of the folder"
    assert cells["save over another model", "killed amid a write"].ends["killed"] >= 2


def test_a_file_that_cannot_be_written_or_read_is_an_error_and_the_old_one_stays(cells):
    assert_whole([cell for cell in cells.values() if not re.match("malloc|thread|killed", cell.fault)])
    assert cells["save over another model", "write: disk full"].ends.keys() == {"OSError"}
    assert cells["save over another model", "fsync: I/O error"].ends == {
        "OSError": 1,
        "OSError after the file was replaced": 1,
    }
    assert cells["fit with checkpoints", "rename: disk full"].ends == {"OSError": 2}
    assert cells["load", "read: half of it from then on"].ends.keys() == {"success"}
    assert cells["load as a map", "mmap: no memory"].ends == {"OSError": 1}


def test_without_memory_or_threads_an_operation_ends_in_an_error_and_goes_well_the_next_time(cells):
    assert_whole([cell for cell in cells.values() if re.match("malloc|thread", cell.fault)])
    assert cells["score, 1 thread", "malloc: no big memory"].ends == {"MemoryError": 2}
    assert cells["fit, 2 threads", "thread: none to be had"].ends.keys() <= {"RuntimeError", "success"}


def test_any_little_object_may_be_refused():
    found = list(faults.run("^(save over|load$|score, 1)", f"^{faults.EVERY_MALLOC}$", 10))
    assert_whole(found)
    assert all(cell.ends["MemoryError"] > 5 for cell in found)
