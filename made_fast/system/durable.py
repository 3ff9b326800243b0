"""Files that are written durably: a path always holds the old file or the new one, whole. Not here: what files hold."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from made_fast.system import threads

__all__ = ["StrPath", "check_writable", "replace"]

StrPath = str | os.PathLike[str]

PAGE = 1 << 12  # bytes that small writes are gathered to
PIECE = 1 << 23  # bytes to one fsync: one of the whole file would keep Ctrl-C waiting for as long as the disk takes


def replace(path: StrPath, fill: Callable[[BinaryIO], None]) -> None:
    """Put a file with the bytes that ``fill(stream)`` writes in the place of ``path``: all of it, durably, or nothing.

    The bytes go to a temporary file in the same folder, which is fsynced and renamed; then the folder is fsynced. A symbolic
    link is followed. Owner, group, extended attributes (so ACLs too) and mode of an existing file are kept, as far as this
    process may set them; a new file's mode honours the umask. A process that has the old file mapped or open keeps it.

    ``stream`` is buffered and seekable, and ``fill`` may close it. Another thread does the work of the main thread, so that
    Ctrl-C takes effect at the next write. Raises OSError if the file cannot be written; the old file is then untouched, unless
    a step after the rename failed, such as the folder's fsync.
    """
    called_off: list[None] = []

    def check() -> None:
        if called_off:
            raise _CalledOff

    threads.run(lambda _: _replace(path, fill, check), 1, lambda: called_off.append(None), all_n=False, aside=True)


def check_writable(path: StrPath) -> None:
    """Raise the OSError that :func:`replace` would raise, as far as it is known before: make and remove a temporary file."""

    def check(_: int) -> None:
        with _naming(path), _temporary_file(_target(path)) as (temporary, *_rest):
            os.unlink(temporary)

    threads.run(check, 1, all_n=False, aside=True)


class _CalledOff(BaseException):
    """Ends the writing for an interrupted caller, which raises the interrupt instead of this."""


class _Growing(io.FileIO):
    """A file that is fsynced as it grows; ``check`` raises to give it up. The descriptor stays open when this is closed."""

    def __init__(self, descriptor: int, check: Callable[[], None]) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self._descriptor, self._check, self._written = descriptor, check, 0
        self.dropped = False  # then bytes still in a buffer above go nowhere: the descriptor may be another file's by now

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")  # or NumPy hands a whole array to the system at once, and Ctrl-C waits

    def write(self, data: Any, /) -> int:
        if self.dropped:
            return len(data)
        self._check()
        n = os.write(self._descriptor, data[:PIECE])
        self._written += n
        if self._written >= PIECE:
            os.fsync(self._descriptor)
            self._written = 0
        return n


def _replace(path: StrPath, fill: Callable[[BinaryIO], None], check: Callable[[], None]) -> None:
    target = _target(path)
    with _naming(path):
        with _temporary_file(target) as (temporary, file, old):
            raw = _Growing(file, check)
            stream = io.BufferedWriter(raw, PAGE)
            try:
                fill(stream)
                if not stream.closed:
                    stream.flush()
            finally:
                raw.dropped = True
                stream.close()
            if old is not None:
                _take_over(file, target, old)
            os.fsync(file)
            check()
            os.replace(temporary, target)  # while we have the lock
        folder = os.open(os.path.dirname(target), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot fsync folders
                raise
        finally:
            os.close(folder)


def _target(path: StrPath) -> str:
    """Return the real path of the file; refuse the name of a folder, which realpath would accept."""
    name = os.fsdecode(path)
    if os.path.basename(name) in ("", os.curdir, os.pardir):
        raise IsADirectoryError(errno.EISDIR, "a path must end with the name of a file; append one", name)
    return os.path.realpath(name)


@contextlib.contextmanager
def _naming(path: StrPath) -> Iterator[None]:
    """Add the file's name to errors of the system that have none: those of write and fsync."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = os.fsdecode(path)
        raise


@contextlib.contextmanager
def _ignoring_errors() -> Iterator[None]:
    """Ignore errors of the system. A signal handler raises those without a number, at a time limit say."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise


@contextlib.contextmanager
def _temporary_file(target: str) -> Iterator[tuple[str, int, os.stat_result | None]]:
    """Make a locked temporary file beside ``target``; yield its path, its descriptor, the old status. An error removes it."""
    old = None
    with contextlib.suppress(FileNotFoundError):
        old = os.stat(target)
    if old is not None and not stat.S_ISREG(old.st_mode):
        raise FileExistsError(errno.EEXIST, "a folder or device is there, not a file; choose another path", target)
    folder, name = os.path.split(target)
    prefix = f".made_fast-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}-"
    _remove_leftovers(folder, prefix)
    temporary, descriptor = _create_locked(folder, prefix, 0o666 if old is None else 0o600)
    try:
        yield temporary, descriptor, old
    except BaseException:
        with _ignoring_errors():
            os.unlink(temporary)
        raise
    finally:
        os.close(descriptor)


def _take_over(descriptor: int, target: str, old: os.stat_result) -> None:
    """Give a new file the owner, group, extended attributes and mode of ``target``. Only a mode that fails is an error."""
    new = os.fstat(descriptor)
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        for owner in (-1, old.st_uid):  # the group first: a process that may not give the file away may be a member
            with _ignoring_errors():
                os.fchown(descriptor, owner, old.st_gid)
    if hasattr(os, "listxattr"):
        with _ignoring_errors():  # of a file system that has none
            names = os.listxattr(target)
            for name in {*os.listxattr(descriptor)} - {*names}:  # an ACL that the folder gives to new files
                with _ignoring_errors():
                    os.removexattr(descriptor, name)
            for name in names:
                with _ignoring_errors():
                    os.setxattr(descriptor, name, os.getxattr(target, name))
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))  # last: a change of owner may take bits away


def _create_locked(folder: str, prefix: str, mode: int) -> tuple[str, int]:
    """Create a temporary file and lock it. The lock ends with this process: a file without a lock is a leftover."""
    while True:
        temporary = os.path.join(folder, f"{prefix}{secrets.token_hex(8)}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            blocked = False
            with _ignoring_errors():  # of a file system without locks: there, leftovers stay
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    blocked = True
            if not blocked and os.fstat(descriptor).st_nlink:
                return temporary, descriptor
        except BaseException:
            os.close(descriptor)
            os.unlink(temporary)
            raise
        os.close(descriptor)  # another writer, clearing up, came in between


def _remove_leftovers(folder: str, prefix: str) -> None:
    """Remove the temporary files of killed writers; writers at work, in any container, hold their lock."""
    with os.scandir(folder) as entries:
        leftovers = [entry.path for entry in entries if entry.name.startswith(prefix)]
    for leftover in leftovers:
        with _ignoring_errors():
            descriptor = os.open(leftover, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(leftover)
            finally:
                os.close(descriptor)
