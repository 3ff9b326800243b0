"""Files of tensors: safetensors, written durably, read as untrusted data.

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
import json
import math
import mmap as memory_map
import os
import reprlib
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from made_fast import threads
from made_fast.kernels import layout as panels

__all__ = ["ModelFileError", "check_writable", "file_error", "json_object", "read", "replace", "write"]

OWN_METADATA = ("format", "format_version", "data_sha256", "header_sha256")
FORMAT, VERSION, UNSEALED = "made_fast", "1", "0" * 64
ALIGNMENT, MAX_DIMENSIONS = 64, 8
MAX_HEADER = 1 << 20
MAX_JSON, MAX_VALUES = 1 << 22, 150_000  # bytes and values: as Python objects they take 64 MB at the most
CHUNK = 1 << 18  # items that are worked on at a time, while they are in cache
PAGE = 1 << 12  # bytes that small writes are gathered to
PIECE = 1 << 23  # bytes to one fsync: one of the whole file would keep Ctrl-C waiting for as long as the disk takes
DTYPES = {"F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8", "U8": "|u1"}  # np.dtype(...).str of each
NAMES = {dtype: name for name, dtype in DTYPES.items()}

DAMAGED = "The file is damaged or cut short: save it again or fetch a fresh copy."
FOREIGN = "This is no made_fast model (save one with MADE.save), or its first bytes are damaged."
DIVERGED = "Save a model that is finite: an earlier state, or one trained again with a smaller learning rate."
NEWER = "Update made_fast, or save the model again with this version."

StrPath = str | os.PathLike[str]
_brief = reprlib.Repr()  # at most a line, whatever a hostile file holds
_brief.maxlevel, _brief.maxstring, _brief.maxother = 2, 80, 80


class ModelFileError(ValueError):
    """A file breaks the format of model files; the text names the file, the demand, what was found, and a way out."""


class Tensor(NamedTuple):
    """A tensor as the header announces it; ``begin`` and ``end`` count bytes from the start of the data."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


def _short(value: object) -> str:
    text = _brief.repr(value)
    return text if len(text) <= 120 else f"{text[:120]}..."


def file_error(path: StrPath, demand: str, found: object, way_out: str = DAMAGED) -> ModelFileError:
    """Return the error for the file at ``path``: what is demanded, what was found, what to do."""
    return ModelFileError(f"{os.fspath(path)}: {demand}, got {_short(found)}. {way_out}")


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
    head = _make_header(arrays, metadata, _digest(arrays, path))
    size = len(head) + sum(array.nbytes for array in arrays.values())
    _header_length(head, size, path)
    _parse_header(head, size, path)  # what nobody could read is not written
    data: list[bytes | memoryview] = [head, *(array.reshape(-1).view(np.uint8).data for array in arrays.values())]

    def fill(stream: BinaryIO) -> None:
        for part in data:
            stream.write(part)

    replace(path, fill)


def _make_header(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str], digest: str) -> bytes:
    """Return the first 8 + N bytes of the file."""
    own = dict(zip(OWN_METADATA, (FORMAT, VERSION, digest, UNSEALED), strict=True))
    header: dict[str, Any] = {"__metadata__": {**own, **metadata}}
    begin = 0
    for name, array in arrays.items():
        end = begin + array.nbytes
        header[name] = {"dtype": NAMES[array.dtype.str], "shape": array.shape, "data_offsets": (begin, end)}
        begin = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    length = len(text) + -(8 + len(text)) % ALIGNMENT
    head = length.to_bytes(8, "little") + text.ljust(length)
    return head.replace(_seal(UNSEALED), _seal(hashlib.sha256(head).hexdigest()))


def _seal(digest: str) -> bytes:
    """Return the entry of the header's checksum as it stands in the file. No string imitates it: quotes are escaped there."""
    return f'"header_sha256":"{digest}"'.encode()


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
        with _naming(path), _temporary_file(_target(path)) as (temporary, _, _):
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
    name = os.fspath(path)
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
            error.filename = os.fspath(path)
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
        try:
            os.fchown(descriptor, old.st_uid, old.st_gid)
        except OSError:
            with _ignoring_errors():
                os.fchown(descriptor, -1, old.st_gid)
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


def read(path: StrPath, *, mmap: bool = False) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Read and check a file of :func:`write`; return its tensors in their order, and its metadata without the file's own.

    The arrays are read-only views of one block that starts on a 64-byte boundary: a copy of the data or, with ``mmap``, a map
    of the file that processes share. :func:`write` over a mapped file is harmless; who changes it in place changes the arrays,
    who cuts it short kills the processes that use it. Raises ModelFileError, or OSError if there is no file to be read.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:  # a pipe would block
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise file_error(path, "a model file must be a regular file", "a device, pipe or socket", FOREIGN)
        size = status.st_size
        head = file.read(8)
        head += file.read(_header_length(head, size, path))
        announced, metadata, digest = _parse_header(head, size, path)
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


def _digest(tensors: Mapping[str, NDArray[Any]], path: StrPath) -> str:
    """Return the SHA-256 of the bytes of all tensors, one after the other; refuse floats that are not finite on the way."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        flat = tensor.reshape(-1)
        for start in range(0, flat.size, CHUNK):
            part = flat[start : start + CHUNK]
            digest.update(part.view(np.uint8).data)
            if part.dtype.kind == "f" and not np.isfinite(part).all():
                raise file_error(path, f"tensor {_short(name)} must be finite", "NaN or infinity", DIVERGED)
    return digest.hexdigest()


def _header_length(head: bytes, size: int, path: StrPath) -> int:
    """Return N from the first 8 bytes of a file of ``size`` bytes."""
    length = int.from_bytes(head[:8], "little")
    if len(head) < 8 or not 2 <= length <= min(MAX_HEADER, size - 8):
        demand = f"the length of the header (first 8 bytes) must be 2 to {MAX_HEADER} and fit into the file's {size} bytes"
        raise file_error(path, demand, length, FOREIGN)
    if (8 + length) % ALIGNMENT:
        raise file_error(path, f"the data must start on a multiple of {ALIGNMENT} bytes", 8 + length, FOREIGN)
    return length


def _parse_header(head: bytes, size: int, path: StrPath) -> tuple[list[Tensor], dict[str, str], str]:
    """Check the first 8 + N bytes of a file of ``size`` bytes; return the tensors by offset, metadata, SHA-256 of the data."""
    header = json_object(head[8:], "the header", path)
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise file_error(path, "the header must have __metadata__, an object of strings", metadata, FOREIGN)
    name, version, digest, seal = (metadata.pop(key, "") for key in OWN_METADATA)
    if name != FORMAT:
        raise file_error(path, f"the format in its metadata must be {FORMAT!r}", name, FOREIGN)
    unsealed = head.replace(_seal(seal), _seal(UNSEALED))
    if head.count(_seal(seal)) != 1 or hashlib.sha256(unsealed).hexdigest() != seal:
        raise file_error(path, "the SHA-256 in the metadata must be that of the header", seal)
    if version != VERSION:
        raise file_error(path, f"the version of the format must be {VERSION!r}", version, NEWER)
    tensors = sorted((_parse_tensor(*item, size, path) for item in header.items()), key=lambda t: (t.begin, t.end))
    end = 0
    for t in tensors:
        if t.begin != end:
            found = f"{t.begin}, {'an overlap' if t.begin < end else 'a hole'}"
            raise file_error(path, f"tensor {_short(t.name)} must begin at byte {end} of the data", found)
        end = t.end
    if end != size - len(head):
        raise file_error(path, f"the header announces {end} bytes of data, all the file's, none more", size - len(head))
    return tensors, metadata, digest


def _parse_tensor(name: str, entry: Any, size: int, path: StrPath) -> Tensor:
    """Check one tensor's entry as far as possible without the others; every number is bounded before it is used."""
    tensor = f"tensor {_short(name)}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise file_error(path, f"{tensor} must have dtype, shape and data_offsets", entry)
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        raise file_error(path, f"the dtype of {tensor} must be one of {', '.join(DTYPES)}", code)
    if not _are_counts(shape, size) or len(shape) > MAX_DIMENSIONS or math.prod(n or 1 for n in shape) > size:
        raise file_error(path, f"the shape of {tensor} must be up to {MAX_DIMENSIONS} counts and fit into the file", shape)
    if not _are_counts(offsets, size) or len(offsets) != 2:
        raise file_error(path, f"the data_offsets of {tensor} must be two counts of bytes in the file", offsets)
    dtype, (begin, end) = np.dtype(DTYPES[code]), offsets
    n_bytes = dtype.itemsize * math.prod(shape)
    if end - begin != n_bytes:
        raise file_error(path, f"{tensor} must have {n_bytes} bytes, by its dtype and shape", end - begin)
    if begin % dtype.itemsize:
        raise file_error(
            path, f"{tensor} must begin on a multiple of {dtype.itemsize} bytes", begin, "Put wider dtypes first."
        )
    return Tensor(name, dtype, tuple(shape), begin, end)


def _are_counts(value: Any, most: int) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n <= most for n in value)  # True is no count


def json_object(text: bytes, what: str, path: StrPath) -> dict[str, Any]:
    """Return the object that strict JSON holds: no name twice, no NaN, no infinity, no half of a surrogate pair."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(value := dict(pairs)) != len(pairs):
            raise ValueError(f"a name twice among {_short([name for name, _ in pairs])}")
        return value

    def finite(number: str) -> float:
        if not math.isfinite(value := float(number)):
            raise ValueError(f"{number[:20]}, no finite number")
        return value

    n_values = sum(map(text.count, (b"[", b"{", b",")))  # or more, if strings have such characters
    if len(text) > MAX_JSON or n_values > MAX_VALUES:
        demand = f"{what} must be at most {MAX_JSON} bytes of JSON and {MAX_VALUES} values"
        raise file_error(path, demand, f"{len(text)} bytes, {n_values} values", "Keep less in it.")
    try:
        value = json.loads(text.decode(), object_pairs_hook=unique, parse_float=finite, parse_constant=finite)
        if b"\\u" in text:  # else nothing can be half of a pair
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise file_error(path, f"{what} must be strict JSON", str(error)) from None
    if not isinstance(value, dict):
        raise file_error(path, f"{what} must be a JSON object", value)
    return value
