"""Files: any, written durably; those of tensors, safetensors, read as untrusted data.

Not here: what the tensors of a model mean (``modelfile.py``) or those of a checkpoint (``checkpoint.py``), pickle, guessing. A
file that breaks the format is refused by name (:class:`ModelFileError`), before memory for what it announces is taken.

The file, byte by byte; numbers are little-endian::

    0      .. 8        N, the length of the header, uint64; N <= 1 MiB and 8 + N is a multiple of 64
    8      .. 8 + N    the header: UTF-8 JSON, an object without duplicate keys, filled up with spaces
    8 + N  .. the end  the data: the tensors back to back, row-major, without a hole, in the order the writer was given

The header maps a tensor's name to ``{"dtype": "F32", "shape": [3, 4], "data_offsets": [begin, end]}``, in bytes from the start
of the data. dtype is F32, F64, I32, I64 or U8; a tensor begins on a multiple of its item size, so the first one is on a
64-byte boundary of the file and of a map of it. Floats are finite. ``__metadata__`` maps strings to strings. Four of its
entries are the file's own and mean the same in every version of the format:

- ``format``: ``made_fast``; ``format_version``: ``1``; ``data_sha256``: SHA-256 of the data, 64 small hexadecimal digits;
- ``header_sha256``: SHA-256 of the first 8 + N bytes (length, JSON and spaces) with the digits of this entry written as 64
  times 0. The bytes ``"header_sha256":"<digits>"`` stand in the header once, just so.

No JSON, be it the header or inside a string or tensor, is longer than 4 MiB or has more than 150,000 values: each ``[``, ``{``
and ``,`` counts as one.

The safetensors package opens these files (https://github.com/huggingface/safetensors); the checks here are stricter.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import mmap as memory_map
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from made_fast.inference.header import (
    DTYPES,
    FOREIGN,
    NAMES,
    OWN_METADATA,
    StrPath,
    file_error,
    header_length,
    make_header,
    parse_header,
    short,
)  # fmt: skip
from made_fast.kernels import layout as panels
from made_fast.system import threads
from made_fast.tables import arguments

__all__ = ["check_writable", "content_of", "read", "read_metadata", "replace", "write"]

CHUNK = 1 << 18  # items that are worked on at a time, while they are in cache
PAGE = 1 << 12  # bytes that small writes are gathered to
PIECE = 1 << 23  # bytes to one fsync: one of the whole file would keep Ctrl-C waiting for as long as the disk takes
DIVERGED = "Save a model that is finite: an earlier state, or one trained again with a smaller learning rate."


def write(path: StrPath, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    """Write a file of ``tensors``, in the order given, and ``metadata``, by :func:`replace`.

    Raises
    ------
    ValueError
        If :func:`read` would refuse the result: a tensor of another dtype, not finite or off its alignment, a long header.
    OSError
        If it cannot be written; see :func:`replace`.
    """
    arrays = {}
    for name, tensor in tensors.items():
        dtype = tensor.dtype.newbyteorder("<")
        if dtype.str not in NAMES:
            raise ValueError(f"tensor {name!r} must have one of the dtypes {', '.join(DTYPES)}, got {tensor.dtype}. Cast it.")
        arrays[name] = np.asarray(tensor, dtype, order="C")
    if "__metadata__" in arrays or metadata.keys() & set(OWN_METADATA):
        raise ValueError(f"names must not be __metadata__ (tensors) or {OWN_METADATA} (metadata). Choose others.")
    head = make_header(arrays, metadata, _digest(arrays, path))
    size = len(head) + sum(array.nbytes for array in arrays.values())
    header_length(head, size, path)
    parse_header(head, size, path)  # what nobody could read is not written
    data: list[bytes | memoryview] = [head, *(array.reshape(-1).view(np.uint8).data for array in arrays.values())]

    def fill(stream: BinaryIO) -> None:
        for part in data:
            stream.write(part)

    replace(path, fill)


class _CalledOff(BaseException):
    """The caller has been interrupted: no more is written. Nobody sees it, for the interrupt is what the caller raises."""


class _Growing(io.RawIOBase):
    """A file that is written to, fsynced as it grows, given up as soon as it is called off. Its descriptor is another's.

    It has no ``fileno``: who finds one (NumPy) hands a whole array to the system at once, and Ctrl-C waits.
    """

    def __init__(self, descriptor: int, check: Callable[[], None]) -> None:
        self._descriptor, self._check = descriptor, check
        self._written = 0
        self.dropped = False
        """Whatever is still in a buffer above goes nowhere: the descriptor may be another file's by now."""

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return os.lseek(self._descriptor, offset, whence)

    def truncate(self, size: int | None = None, /) -> int:
        size = self.tell() if size is None else size
        os.ftruncate(self._descriptor, size)
        return size

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


def replace(path: StrPath, fill: Callable[[BinaryIO], None]) -> None:
    """Put a file with what ``fill(stream)`` writes in the place of ``path``: all of it and for good, or none.

    Whatever happens, ``path`` is afterwards the old file or the new one, whole: the bytes go to a temporary file in the same
    folder, which is fsynced and renamed, and the folder is fsynced. A symbolic link is followed. Owner, group, extended
    attributes (ACLs are such) and mode of an existing file are kept, owner and attributes as far as this process may give
    them, the group at least if it is a member; the mode of a new file honours the umask. Who has the old file mapped or open
    keeps it.

    Where Ctrl-C and other signals come to the caller, the work is on another thread: an exception that a signal handler raises
    is answered when the next piece is written, and leaves neither a temporary file nor a descriptor.

    Parameters
    ----------
    path : str or path-like
        Where the file shall be; its folder must exist.
    fill : (stream) -> None
        Writes the whole content to ``stream``, a buffered, seekable binary stream. No signal reaches it: it should compute
        nothing that takes long between two writes. It may close the stream.

    Raises
    ------
    OSError
        If it cannot be written; IsADirectoryError if ``path`` ends with a separator. The old file is untouched, unless it was
        a step after the rename, such as the folder's fsync.
    """
    called_off = False

    def call_off() -> None:
        nonlocal called_off
        called_off = True

    def check() -> None:
        if called_off:
            raise _CalledOff

    threads.run(lambda _: _replace(path, fill, check), 1, call_off, all_n=False, aside=True)


def check_writable(path: StrPath) -> None:
    """Raise the OSError that :func:`replace` would meet, as far as it can be known: a temporary file is made and removed.

    Who computes for long before there is something to write calls this first.
    """

    def check(_: int) -> None:
        with _naming(path), _temporary_file(_target(path)) as (temporary, _descriptor, _old):
            os.unlink(temporary)

    threads.run(check, 1, all_n=False, aside=True)


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
    """Return the file that ``path`` stands for, links followed; refuse what names a folder, which realpath would overlook."""
    name = os.fsdecode(path)
    if os.path.basename(name) in ("", os.curdir, os.pardir):
        raise IsADirectoryError(errno.EISDIR, "a path must end with the name of a file; append one", name)
    return os.path.realpath(name)


@contextlib.contextmanager
def _naming(path: StrPath) -> Iterator[None]:
    """Let errors of the system name the file that could not be written; those of write and fsync name none."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = os.fsdecode(path)
        raise


@contextlib.contextmanager
def _ignoring_errors() -> Iterator[None]:
    """Pass over errors of the system. One without a number is no such thing, but a time limit that a signal handler raises."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise


@contextlib.contextmanager
def _temporary_file(target: str) -> Iterator[tuple[str, int, os.stat_result | None]]:
    """Make a locked temporary file beside ``target``; yield it, its descriptor, the old status. After an error it is gone."""
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
    """Give a new file owner, group, extended attributes and mode of the old one, ``target``. Only the mode must be had."""
    new = os.fstat(descriptor)
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        for owner in (-1, old.st_uid):  # the group first: whoever may not give the file away may still be a member
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
    """Create a temporary file and lock it. The lock ends with this process at the latest; without one, it is a leftover."""
    while True:
        temporary = os.path.join(folder, f"{prefix}{secrets.token_hex(8)}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            blocked = False
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:  # of another kind on a file system without locks: there, leftovers stay
                blocked = isinstance(error, BlockingIOError)
                if not blocked and error.errno is None:  # see _ignoring_errors
                    raise
            if not blocked and os.fstat(descriptor).st_nlink:
                return temporary, descriptor
        except BaseException:
            os.close(descriptor)
            os.unlink(temporary)
            raise
        os.close(descriptor)  # another writer, clearing up, came in between


def _remove_leftovers(folder: str, prefix: str) -> None:
    """Remove the temporary files of writers that were killed; those at work, in whatever container, hold their lock."""
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


def read(path: StrPath, *, mmap: bool = False, content: bytes | None = None) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Read and check a file of :func:`write`; return its tensors in their order, and its metadata without the file's own.

    The arrays are read-only views of one block that starts on a 64-byte boundary: a copy of the data or, with ``mmap``, a map
    of the file that processes share. :func:`write` over a mapped file is harmless; who changes it in place changes the arrays,
    who cuts it short (as cp and rsync --inplace do) kills the processes that use it, by SIGBUS. If the ``content`` of a file
    is at hand, ``path`` is what errors call it. Raises ModelFileError, or OSError if there is no file to be read.
    """
    with _open(path) if content is None else io.BytesIO(content) as file:
        size = os.fstat(file.fileno()).st_size if content is None else len(content)
        head = _read_head(file, size, path)
        announced, metadata, digest = parse_header(head, size, path)
        if mmap:
            data = np.frombuffer(memory_map.mmap(file.fileno(), size, access=memory_map.ACCESS_READ), np.uint8)[len(head) :]
        else:
            data = panels.aligned_empty(size - len(head), np.uint8)
            file.readinto(data.data)
            data.flags.writeable = False
    tensors = {t.name: data[t.begin : t.end].view(t.dtype).reshape(t.shape) for t in announced}
    if (found := _digest(tensors, path)) != digest:
        raise file_error(path, f"the SHA-256 in the metadata must be that of the data, {found}", digest)
    return tensors, metadata


def read_metadata(path: StrPath) -> dict[str, str]:
    """Read and check the header of a file alone; return its metadata without the file's own. Raises what :func:`read` does."""
    with _open(path) as file:
        size = os.fstat(file.fileno()).st_size
        return parse_header(_read_head(file, size, path), size, path)[1]


def _read_head(file: BinaryIO, size: int, path: StrPath) -> bytes:
    """Return the first 8 + N bytes."""
    head = file.read(8)
    return head + file.read(header_length(head, size, path))


def _open(path: StrPath) -> io.BufferedReader:
    """Open a file; look before, for a pipe would block."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # of a folder, open has its own to say
        raise file_error(path, "a model file must be a regular file", "a device, pipe or socket", FOREIGN)
    return open(path, "rb")


def content_of(source: Any) -> tuple[str, bytes | None]:
    """Return what errors call a source, and its content: None if it is a path, to be opened; else it has been read.

    Raises TypeError if it is neither a path (str or os.PathLike) nor bytes, a bytearray, a memoryview or a file open for
    reading bytes; of that all is read, from where it stands to its end.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        content = bytes(source)
        if len(content) < 1 << 12 and b"\0" not in content:  # the length of a header has zeros
            way_out = "Bytes are the content of a file; if they are its path, pass os.fsdecode(path)."
            raise file_error(type(source).__name__, "it must hold a model file", content, way_out)
        return type(source).__name__, content
    if isinstance(source, str | os.PathLike):
        return arguments.path(source, "source"), None
    if not callable(getattr(source, "read", None)):
        raise TypeError(
            "source must be a path (str or os.PathLike), the content of a file (bytes) or a file open for reading bytes, "
            f"got {arguments.shown(source)} of type {type(source).__name__}."
        )
    name = getattr(source, "name", None)
    name = name if isinstance(name, str) else f"an open {type(source).__name__}"
    content = source.read()
    if not isinstance(content, bytes | bytearray | memoryview):
        raise TypeError(
            f"source must be a file open for reading bytes, got one that reads {type(content).__name__} ({name}). "
            "Open it in binary mode, open(path, 'rb')."
        )
    return name, bytes(content)


def _digest(tensors: Mapping[str, NDArray[Any]], path: StrPath) -> str:
    """Return the SHA-256 of the bytes of all tensors, one after the other; refuse floats that are not finite on the way."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        flat = tensor.reshape(-1)
        for start in range(0, flat.size, CHUNK):
            part = flat[start : start + CHUNK]
            digest.update(part.view(np.uint8).data)
            if part.dtype.kind == "f" and not np.isfinite(part).all():
                raise file_error(path, f"tensor {short(name)} must be finite", "NaN or infinity", DIVERGED)
    return digest.hexdigest()
