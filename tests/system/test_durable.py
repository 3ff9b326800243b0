"""Any file that is written is the old one or the new one, whole; signals leave nothing behind, errors name the file."""

import errno
import fcntl
import io
import os
import resource
import signal
import stat
import textwrap
from contextlib import nullcontext

import numpy as np
import pytest
from helpers import descriptors, put, python, raising

from made_fast.system import durable
from made_fast.system.durable import check_writable, replace

# What is written


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


@pytest.mark.parametrize(
    "error",
    [ValueError("no"), TimeoutError(), KeyboardInterrupt(), SystemExit(3), FileNotFoundError(2, "no", "/nowhere")],
)
def test_an_error_in_the_writer_leaves_the_old_file(old, tmp_path, error):
    before, streams = descriptors(), []

    def fill(stream):
        stream.write(b"new")
        streams.append(stream)
        raise error

    with pytest.raises(type(error)) as caught:
        replace(old, fill)
    assert caught.value is error
    assert getattr(error, "filename", None) in (None, "/nowhere")  # an error of another file keeps its name
    assert streams[0].closed
    assert old.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]
    assert descriptors() == before


# Errors of the system


@pytest.mark.parametrize("existing", [True, False])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("call", ["os.write", "os.fsync", "os.fchmod", "os.replace"])
def test_an_error_of_the_disk_names_the_file_and_leaves_the_old_one(tmp_path, old, monkeypatch, number, call, existing):
    path = old if existing or call == "os.fchmod" else tmp_path / "new"
    monkeypatch.setattr(call, raising(OSError(number, os.strerror(number))))
    with pytest.raises(OSError, match=str(path)) as caught:
        replace(path, put(b"new"))
    assert (caught.value.errno, caught.value.filename) == (number, str(path))
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["file"]
    assert old.read_bytes() == b"old"
    replace(path, put(b"new"))
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize(("number", "found"), [(errno.EIO, pytest.raises(OSError, match="no")), (errno.EINVAL, nullcontext())])
def test_the_folder_is_fsynced_last(tmp_path, monkeypatch, number, found):
    """A file system that answers EINVAL cannot do better: no error."""
    synced = []

    def fsync(descriptor):
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        if synced[-1]:
            assert os.listdir(tmp_path) == ["file"]
            raise OSError(number, "no")

    monkeypatch.setattr(os, "fsync", fsync)
    with found:
        replace(tmp_path / "file", put(b"new"))
    assert synced == [False, True]
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_large_file_is_fsynced_in_pieces(old, monkeypatch):
    """Between two of which Ctrl-C is answered."""
    monkeypatch.setattr(durable, "PIECE", 10_000)
    sizes, fsync = [0], os.fsync

    def watched(descriptor):
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            sizes.append(os.fstat(descriptor).st_size)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    parts = [os.urandom(160_000), b"", os.urandom(8), os.urandom(16_008)]
    replace(old, lambda stream: [stream.write(part) for part in parts])
    assert sizes[-1] == old.stat().st_size
    assert max(np.diff(sizes)) < 2 * 10_000
    assert old.read_bytes() == b"".join(parts)


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


# Several writers


def test_the_leftover_of_a_killed_writer_goes_with_the_next_write(old, tmp_path):
    code = """
        import os, signal, sys
        from made_fast.system.durable import replace
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        replace(sys.argv[1], lambda stream: stream.write(b"new"))
    """
    with pytest.raises(RuntimeError, match="exit -9"):
        python("-c", textwrap.dedent(code), old, seconds=60)
    assert len(os.listdir(tmp_path)) == 2
    assert old.read_bytes() == b"old"
    replace(tmp_path / "other", put(b"x"))
    assert len(os.listdir(tmp_path)) == 3  # another name's leftovers are not its business
    replace(old, put(b"new"))
    assert sorted(os.listdir(tmp_path)) == ["file", "other"]


def test_writers_at_work_are_left_alone(old, tmp_path, monkeypatch):
    rename = os.replace

    def write_meanwhile(source, target):
        monkeypatch.setattr(os, "replace", rename)
        assert len(os.listdir(tmp_path)) == 2
        replace(target, put(b"meanwhile"))
        rename(source, target)

    monkeypatch.setattr(os, "replace", write_meanwhile)
    replace(old, put(b"last"))
    assert os.listdir(tmp_path) == ["file"]
    assert old.read_bytes() == b"last"


@pytest.mark.parametrize("moment", ["holds the lock", "has removed it"])
def test_a_temporary_file_that_someone_clears_up_before_its_lock_is_given_up(old, tmp_path, monkeypatch, moment):
    flock = fcntl.flock

    def clear_up_first(descriptor, how):
        monkeypatch.setattr(fcntl, "flock", flock)
        if moment == "holds the lock":
            raise BlockingIOError
        next(path for path in tmp_path.iterdir() if path != old).unlink()
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", clear_up_first)
    replace(old, put(b"new"))
    assert len(os.listdir(tmp_path)) == (2 if moment == "holds the lock" else 1)
    replace(old, put(b"newer"))
    assert os.listdir(tmp_path) == ["file"]
    assert old.read_bytes() == b"newer"


# What is kept


def test_the_mode_is_that_of_the_umask_or_of_the_old_file(tmp_path):
    path, old = tmp_path / "new", os.umask(0o027)
    try:
        for mode in (0o640, 0o600, 0o664, 0o444):
            replace(path, put(b"new"))
            assert stat.S_IMODE(path.stat().st_mode) == 0o640
            path.chmod(mode)
            replace(path, put(b"new"))
            assert stat.S_IMODE(path.stat().st_mode) == mode
            path.unlink()
    finally:
        os.umask(old)


def test_a_link_is_followed_and_a_long_name_will_do(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder/file")
    replace(tmp_path / "link", put(b"new"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder/file").read_bytes() == b"new"
    monkeypatch.chdir(tmp_path)
    replace("m" * 255, put(b"new"))
    assert (tmp_path / ("m" * 255)).read_bytes() == b"new"


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


@pytest.mark.parametrize("lacking", ["os.listxattr", "fcntl.flock"])
def test_file_systems_without_attributes_or_locks_will_do(old, monkeypatch, lacking):
    monkeypatch.setattr(lacking, raising(OSError(errno.ENOTSUP, "no")), raising=False)
    replace(old, put(b"new"))
    assert old.read_bytes() == b"new"
