"""Any file that is written is the old one or the new one, whole; signals leave nothing behind, errors name the file."""

import errno
import io
import os
import resource
import signal
import stat

import numpy as np
import pytest

from made_fast import MADE
from made_fast.system import durable, threads
from made_fast.system.durable import check_writable, replace


class HostError(Exception):
    """What a host's time limit may raise."""


RAISED = [KeyboardInterrupt(), TimeoutError("time is up"), HostError("stop"), RuntimeError("stop"), OSError("stop")]


def put(content):
    return lambda stream: stream.write(content)


def descriptors():
    """Return what is open, but for the one that it takes to look."""
    return {fd for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")}


@pytest.fixture
def old(tmp_path):
    """Return the path of a file that is there already, alone in its folder."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    return path


# ---------------------------------------------------------------------------------------------------------------------------
# What is written
# ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("existing", [True, False])
@pytest.mark.parametrize("size", [0, 1, 5_000, 100_000])
def test_a_file_holds_what_was_written(tmp_path, old, existing, size, monkeypatch):
    monkeypatch.setattr(durable, "PIECE", 10_000)
    path = old if existing else tmp_path / "new"
    replace(path, put(content := os.urandom(size)))
    assert path.read_bytes() == content
    replace(str(path), lambda stream: [stream.write(content[i : i + 7]) for i in range(0, size, 7)])
    assert path.read_bytes() == content
    assert sorted(os.listdir(tmp_path)) == sorted({"file", path.name})


def test_the_stream_serves_writers_of_many_kinds(old):
    X = np.arange(30_000).reshape(100, 300)
    replace(old, lambda stream: np.save(stream, X))
    np.testing.assert_array_equal(np.load(old), X)
    replace(old, lambda stream: np.savez_compressed(stream, X=X, y=X[0]))
    with np.load(old) as found:
        np.testing.assert_array_equal(found["X"], X)
        np.testing.assert_array_equal(found["y"], X[0])

    def text(stream):
        with io.TextIOWrapper(stream, "utf-8", newline="") as lines:  # closes the stream
            lines.write("größer\n")

    replace(old, text)
    assert old.read_bytes() == "größer\n".encode()

    def patch(stream):
        stream.write(b"....and more")
        stream.seek(0)
        stream.write(b"1234")
        assert stream.tell() == 4
        stream.seek(8)
        stream.truncate()

    replace(old, patch)
    assert old.read_bytes() == b"1234and "
    with pytest.raises(io.UnsupportedOperation):
        replace(old, lambda stream: stream.fileno())


@pytest.mark.parametrize("error", [ValueError("no"), HostError(), KeyboardInterrupt(), SystemExit(3), MemoryError()])
def test_who_fails_to_fill_a_file_leaves_the_old_one(old, tmp_path, error):
    before, streams = descriptors(), []

    def fill(stream):
        stream.write(b"new")
        streams.append(stream)
        raise error

    with pytest.raises(type(error)) as caught:
        replace(old, fill)
    assert caught.value is error
    assert streams[0].closed
    assert old.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]
    assert descriptors() == before


# ---------------------------------------------------------------------------------------------------------------------------
# Signals
# ---------------------------------------------------------------------------------------------------------------------------


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
    before, raw, call = descriptors(), old.read_bytes(), getattr(os, what[3:], None) or durable.fcntl.flock
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
    def none(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads, "_idle", [])
    monkeypatch.setattr(threads, "_Worker", none)
    replace(old, put(b"new"))
    assert old.read_bytes() == b"new"
    check_writable(old)
    with pytest.raises(ValueError, match="no"):
        replace(old, lambda _: (_ for _ in ()).throw(ValueError("no")))
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("leftovers", [True, False])
@pytest.mark.parametrize("moment", ["os.listxattr", "os.unlink", "os.fchown", "fcntl.flock"])
def test_a_time_limit_is_no_error_of_the_system(old, tmp_path, monkeypatch, moment, leftovers):
    """A handler may raise TimeoutError, an OSError, in the caller's thread, where it does the work itself."""

    def time_is_up(*_):
        raise TimeoutError("time is up")

    if leftovers:
        (tmp_path / f"{next(iter(leftover_of(old)))}0.tmp").touch()
    elif moment == "os.unlink":
        pytest.skip("nothing to remove")
    if moment == "os.fchown":
        monkeypatch.setattr(
            os, "fstat", lambda file, fstat=os.fstat: os.stat_result([*fstat(file)[:4], 1, 2, *fstat(file)[6:]])
        )
    monkeypatch.setattr(threads, "run", lambda work, *_, **__: work(0))
    monkeypatch.setattr(moment, time_is_up)
    with pytest.raises(TimeoutError, match="time is up"):
        replace(old, put(b"new"))
    monkeypatch.undo()
    assert old.read_bytes() == b"old"
    replace(old, put(b"new"))
    assert os.listdir(tmp_path) == ["file"]


def leftover_of(path):
    """Return the beginning of the names of the temporary files of ``path``."""
    names = []
    replace(path, lambda _: names.extend(os.listdir(path.parent)))
    replace(path, put(b"old"))
    return {name[:-20] for name in names if name.endswith(".tmp")}


# ---------------------------------------------------------------------------------------------------------------------------
# Errors of the system
# ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("call", ["os.write", "os.fsync", "os.fchmod"])
def test_an_error_of_the_disk_names_the_file(old, monkeypatch, number, call):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(call, fail)
    with pytest.raises(OSError, match=str(old)) as caught:
        replace(old, put(b"new"))
    assert (caught.value.errno, caught.value.filename) == (number, str(old))


def test_a_file_that_grows_too_large_is_named(old, tmp_path):
    limit, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))
    try:
        with pytest.raises(OSError, match=f"File too large: '{old}'"):
            replace(old, put(bytes(20_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(tmp_path) == ["file"]


def test_an_error_of_another_file_keeps_its_name(old):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        replace(old, lambda _: os.stat("/nowhere/at/all"))


@pytest.mark.parametrize("write", [lambda path: replace(path, put(b"new")), check_writable], ids=["replace", "check_writable"])
@pytest.mark.parametrize("name", ["models/", "models//", "models/.", "models/..", "there/", "", ".", "/", b"models/"])
def test_a_path_without_the_name_of_a_file_is_refused(tmp_path, monkeypatch, write, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    with pytest.raises(IsADirectoryError, match="name of a file") as caught:
        write(name)
    assert caught.value.filename == os.fsdecode(name)
    assert os.listdir(tmp_path) == ["there"]


def test_what_cannot_be_written_is_told_before(tmp_path, old):
    check_writable(old)
    check_writable(tmp_path / "new")
    assert os.listdir(tmp_path) == ["file"]
    (tmp_path / "link").symlink_to("none/file")
    os.mkfifo(tmp_path / "pipe")
    for path, error in [
        (tmp_path / "none" / "file", FileNotFoundError),
        (tmp_path / "link", FileNotFoundError),
        (tmp_path / "file" / "below", NotADirectoryError),
        (tmp_path, FileExistsError),
        (tmp_path / "pipe", FileExistsError),
        (tmp_path / ("n" * 300), OSError),
        ("/dev/null", FileExistsError),
        ("/proc/made_fast", OSError),
    ]:
        with pytest.raises(error) as caught:
            check_writable(path)
        with pytest.raises(type(caught.value)) as later:
            replace(path, put(b"new"))
        assert later.value.errno == caught.value.errno
        assert caught.value.filename
    assert old.read_bytes() == b"old"


# ---------------------------------------------------------------------------------------------------------------------------
# Whose it is
# ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize(("owner", "group", "mode"), [(1234, 1234, 0o640), (1234, 0, 0o4755), (0, 1234, 0o2664), (1, 2, 0)])
def test_owner_group_and_mode_are_kept(old, owner, group, mode):
    os.chown(old, owner, group)
    old.chmod(mode)
    replace(old, put(b"new"))
    found = old.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (owner, group, mode)


@pytest.mark.parametrize("allowed", ["group", "nothing"])
def test_what_may_not_be_kept_is_no_error(old, monkeypatch, allowed):
    given, status = [], os.stat

    def others(path, **options):  # the file of another user, of another group
        found = list(status(path, **options))
        return os.stat_result([*found[:4], 1234, 1235, *found[6:]])

    def fchown(_, *owner):
        if owner[0] != -1 or allowed == "nothing":
            raise PermissionError(errno.EPERM, "no")
        given.append(owner)

    old.chmod(0o640)
    monkeypatch.setattr(os, "stat", others)
    monkeypatch.setattr(os, "fchown", fchown)
    replace(old, put(b"new"))
    monkeypatch.undo()
    assert given == [(-1, 1235)] * (allowed == "group")
    assert old.read_bytes() == b"new"
    assert stat.S_IMODE(old.stat().st_mode) == 0o640


def test_extended_attributes_are_kept(old):
    try:
        os.setxattr(old, "user.note", b"mine")
    except (OSError, AttributeError):
        pytest.skip("none on this file system")
    replace(old, put(b"new"))
    assert os.getxattr(old, "user.note") == b"mine"


def test_file_systems_without_attributes_will_do(old, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOTSUP, "no")

    monkeypatch.setattr(os, "listxattr", none, raising=False)
    replace(old, put(b"new"))
    assert old.read_bytes() == b"new"
