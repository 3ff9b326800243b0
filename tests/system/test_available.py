"""The default number of threads: affinity, control groups, environment; odd contents of these never fail a call."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from helpers import raising

from made_fast.system import threads


@pytest.fixture
def quota(tmp_path, monkeypatch):
    """Return a function that makes what the kernel shows of control groups, and returns the limit found there."""
    monkeypatch.setattr(threads, "CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(threads, "OWN_CGROUPS", tmp_path / "own")

    def make(lines, files):
        (tmp_path / "own").write_text("\n".join(lines), errors="surrogateescape")
        for name, text in files.items():
            path = tmp_path / "groups" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, errors="surrogateescape")
        return threads._quota.__wrapped__()

    return make


def version_1(group, quota, period=100000):
    return {f"{group}/cpu.cfs_quota_us": f"{quota}\n", f"{group}/cpu.cfs_period_us": f"{period}\n"}


@pytest.mark.parametrize(
    ("lines", "files", "limit"),
    [
        ([], {}, None),
        (["0::/"], {"cpu.max": "max 100000\n"}, None),
        (["0::/"], {"cpu.max": "200000 100000"}, 2),
        (["0::/"], {"cpu.max": "250000 100000"}, 3),
        (["0::/"], {"cpu.max": "1000 100000\n"}, 1),
        (["0::/"], {"cpu.max": ""}, None),
        (["0::/"], {"cpu.max": "100000 0"}, None),  # loky has no answer
        ([], {"cpu.max": "300000 100000"}, 3),
        ([], version_1("cpu", 150000), 2),
        ([], version_1("cpu", -1), None),
        ([], {"cpu/cpu.cfs_quota_us": "150000"}, None),  # nor here
        (["0::/a.slice/b.service"], {"a.slice/b.service/cpu.max": "100000 100000"}, 1),
        (["0::/a.slice/b.service"], {"a.slice/b.service/cpu.max": "max 100000", "a.slice/cpu.max": "300000 100000"}, 3),
        (["0::/a/b"], {"a/b/cpu.max": "400000 100000", "a/cpu.max": "200000 100000", "cpu.max": "500000 100000"}, 2),
        (["0::/a/b"], {"a/c/cpu.max": "100000 100000"}, None),
        (["0::/docker/id"], {"cpu.max": "200000 100000"}, 2),  # the container's own group is mounted as the root
        (["0::/../x"], {"cpu.max": "200000 100000"}, 2),  # a group outside of what is mounted
        (["4:memory:/m", "2:cpu,cpuacct:/a/b", "0::/"], version_1("cpu/a/b", 50000), 1),
        (["2:cpu,cpuacct:/a/b"], version_1("cpu/a", 350000), 4),
        (["2:cpuacct:/a"], version_1("cpu/a", 50000), None),
        (["2:cpu:/a:b"], version_1("cpu/a:b", 50000), 1),
        (["nonsense"], {"cpu.max": "200000 100000"}, 2),
    ],
)
def test_the_quota_of_our_group_and_of_every_group_above_counts(tmp_path, monkeypatch, quota, lines, files, limit):
    found = quota(lines, files)
    assert found == (limit or np.inf)
    monkeypatch.setattr(threads, "_quota", lambda: found)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(6))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert threads.available() == (limit or 6)
    if lines not in ([], ["0::/"]) or files.get("cpu.max") == "100000 0" or list(files) == ["cpu/cpu.cfs_quota_us"]:
        return
    context = pytest.importorskip("joblib.externals.loky.backend.context")  # it answers the same at the top

    def here(path):
        return str(path).replace("/sys/fs/cgroup", str(tmp_path / "groups"))

    exists = os.path.exists
    monkeypatch.setattr(context.os.path, "exists", lambda path: exists(here(path)))
    monkeypatch.setattr(context, "open", lambda path: io.StringIO(Path(here(path)).read_text()), raising=False)
    assert context._cpu_count_cgroup(64) == min(found, 64)


def test_available_follows_affinity_and_environment(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    most = threads.available()
    assert 1 <= most <= len(os.sched_getaffinity(0))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert threads.available() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "64,2")
    assert threads.available() == most
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert threads.available() == most


@pytest.mark.parametrize(
    "text", ["", "²", "2²", "①", "٢", "\uff12", "1_0", "9" * 5000, "0" * 5000, "0", "-1", "+1", "1.0", "1e0", "\udcff", "1 1"]
)  # fmt: skip
def test_an_environment_that_holds_no_plain_number_counts_for_nothing(monkeypatch, text):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(6))
    monkeypatch.setattr(threads, "_quota", lambda: np.inf)
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert threads.available() == 6
    monkeypatch.setenv("OMP_NUM_THREADS", " 2 , 3")  # spaces are allowed there
    assert threads.available() == 2


@pytest.mark.parametrize(
    "text", ["", "²00000 100000", "1 2 3", "-1 100000", "100000 -1", "1.5 1", "9" * 5000 + " 1", "\0", "\udcff\udcfe 1"]
)  # fmt: skip
@pytest.mark.parametrize("lines", [["0::/"], ["0::/a\udcff"], ["::", ":", "\udcff", "0:cpu"], ["2:cpu:/"]])
def test_an_odd_control_group_is_no_limit(quota, lines, text):
    names = ("cpu.max", "a\udcff/cpu.max", "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")
    assert quota(lines, dict.fromkeys(names, text)) == np.inf


def test_a_time_limit_while_files_of_the_system_are_read_is_raised(monkeypatch):
    monkeypatch.setattr(Path, "read_text", raising(TimeoutError("time is up")))
    with pytest.raises(TimeoutError, match="time is up"):
        threads._quota.__wrapped__()
