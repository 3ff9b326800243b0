"""``made-fast train --mpi`` where there is nothing to train with; with ranks, see ``training/test_replicas.py``."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from made_fast.cli import main


def refused(capsys, *options):
    assert main(["train", "digits", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_averages_need_ranks(capsys):
    assert "--average-every needs --mpi" in refused(capsys, "--average-every", "3")


def test_without_mpi4py_the_line_says_how_to_get_it(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert "--mpi needs mpi4py and an MPI library: pip install 'made_fast[mpi]'" in refused(capsys, "--mpi")


@pytest.mark.parametrize("name", ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"])
def test_an_mpiexec_of_another_library_is_noticed(name, capsys, monkeypatch):
    """Each process would train by itself, and all write the same file."""
    alone, package = ModuleType("mpi4py.MPI"), ModuleType("mpi4py")
    alone.COMM_WORLD = type("World", (), {"Get_size": staticmethod(lambda: 1)})()
    package.MPI = alone
    monkeypatch.setitem(sys.modules, "mpi4py", package)
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", alone)
    monkeypatch.setenv(name, "4")
    assert "mpiexec has started 4 processes, but mpi4py sees only one" in refused(capsys, "--mpi")
