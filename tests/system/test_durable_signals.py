"""A signal while a file is written: its exception is raised, and neither a temporary file nor a descriptor is left."""

import fcntl
import os
import signal

import numpy as np
import pytest
from helpers import descriptors, put, raising

from made_fast import MADE
from made_fast.system import threads
from made_fast.system.durable import check_writable, replace

RAISED = [KeyboardInterrupt(), TimeoutError("time is up"), RuntimeError("stop"), OSError("stop")]


def leftover_of(path):
    """Return the beginning of the name of the temporary file of ``path``."""
    names = []
    replace(path, lambda _: names.extend(os.listdir(path.parent)))
    replace(path, put(b"old"))
    return next(name[:-20] for name in names if name.endswith(".tmp"))


@pytest.fixture(params=RAISED, ids=lambda error: type(error).__name__)
def raised(request):
    """Return what the handler of SIGUSR1 raises."""

    def handler(*_):
        raise request.param

    before = signal.signal(signal.SIGUSR1, handler)
    yield request.param
    signal.signal(signal.SIGUSR1, before)


CALLS = ["os.open", "os.close", "os.fsync", "os.write", "os.replace", "os.stat", "os.fstat", "os.fchmod", "fcntl.flock"]


@pytest.mark.parametrize("what", CALLS)
def test_a_signal_at_any_call_leaves_no_descriptor_and_no_temporary_file(old, tmp_path, monkeypatch, raised, what):
    made = MADE((3,), max_epochs=1, random_state=0, n_threads=1).fit(np.eye(4, dtype=np.uint8))
    made.save(old)
    before, raw, call = descriptors(), old.read_bytes(), getattr(os, what[3:], None) or fcntl.flock
    for n in range(1, 9):
        left = n

        def struck(*args, **options):
            nonlocal left
            result = call(*args, **options)
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGUSR1)
            return result

        monkeypatch.setattr(what, struck)
        found = None
        try:
            made.save(old)
        except type(raised) as error:
            found = error
        monkeypatch.undo()
        assert found is (raised if left <= 0 else None)
        assert descriptors() == before
        assert os.listdir(tmp_path) == ["file"]
        assert old.read_bytes() == raw


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_a_writer_that_does_not_end_is_called_off(old, tmp_path, raised, size):
    before = descriptors()

    def fill(stream):
        stream.write(b"new")
        os.kill(os.getpid(), signal.SIGUSR1)
        while True:
            stream.seek(0)
            stream.write(b"x" * size)
            stream.flush()

    with pytest.raises(type(raised)) as caught:
        replace(old, fill)
    assert caught.value is raised
    assert old.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]
    assert descriptors() == before


def test_without_threads_the_caller_writes_it(old, tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "_idle", [])
    monkeypatch.setattr(threads, "_Worker", raising(RuntimeError("can't start new thread")))
    replace(old, put(b"new"))
    assert old.read_bytes() == b"new"
    check_writable(old)
    with pytest.raises(ValueError, match="no"):
        replace(old, raising(ValueError("no")))
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("leftovers", [True, False])
@pytest.mark.parametrize("moment", ["os.listxattr", "os.unlink", "os.fchown", "fcntl.flock"])
def test_a_time_limit_is_no_error_of_the_system(old, tmp_path, monkeypatch, moment, leftovers):
    """A handler may raise TimeoutError, an OSError, in the caller's thread, where it does the work itself."""

    if leftovers:
        (tmp_path / f"{leftover_of(old)}0.tmp").touch()
    elif moment == "os.unlink":
        pytest.skip("nothing to remove")
    if moment == "os.fchown":
        monkeypatch.setattr(
            os, "fstat", lambda file, fstat=os.fstat: os.stat_result([*fstat(file)[:4], 1, 2, *fstat(file)[6:]])
        )
    monkeypatch.setattr(threads, "run", lambda work, *_, **__: work(0))
    monkeypatch.setattr(moment, raising(TimeoutError("time is up")))
    with pytest.raises(TimeoutError, match="time is up"):
        replace(old, put(b"new"))
    monkeypatch.undo()
    assert old.read_bytes() == b"old"
    replace(old, put(b"new"))
    assert os.listdir(tmp_path) == ["file"]
