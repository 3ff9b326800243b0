"""Files of tensors in the safetensors format, written durably and read as untrusted data.

A file that breaks the format raises :class:`ModelFileError` before memory is taken for what it announces. Not here: the
meaning of the tensors of a model (``modelfile.py``) or a checkpoint (``checkpoint.py``).

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
  times 0. The bytes ``"header_sha256":"<digits>"`` stand in the header exactly once.

No JSON, be it the header or inside a string or tensor, is longer than 4 MiB or has more than 150,000 values: each ``[``, ``{``
and ``,`` counts as one.

The safetensors package opens these files (https://github.com/huggingface/safetensors); the checks here are stricter.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import mmap as memory_map
import os
import reprlib
import stat
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from made_fast.kernels import layout as panels
from made_fast.system.durable import StrPath, replace

__all__ = ["ModelFileError", "file_error", "identity", "json_object", "read", "read_metadata", "write"]

OWN_METADATA = ("format", "format_version", "data_sha256", "header_sha256")
FORMAT, VERSION, UNSEALED = "made_fast", "1", "0" * 64
ALIGNMENT, MAX_DIMENSIONS, MAX_HEADER = 64, 8, 1 << 20
MAX_JSON, MAX_VALUES = 1 << 22, 150_000  # bytes and values: as Python objects they take 64 MB at the most
NO_JSON = (json.JSONDecodeError, UnicodeDecodeError, UnicodeEncodeError, ValueError, RecursionError)  # not their subclasses
CHUNK = 1 << 18  # items that are worked on at a time, while they are in cache
DTYPES = {"F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8", "U8": "|u1"}  # np.dtype(...).str of each
NAMES = {dtype: name for name, dtype in DTYPES.items()}

DAMAGED = "The file is damaged or cut short: save it again or fetch a fresh copy."
FOREIGN = "This is no made_fast model (save one with MADE.save), or its first bytes are damaged."
NEWER = "Update made_fast, or save the model again with this version."
DIVERGED = "Save a model that is finite: an earlier state, or one trained again with a smaller learning rate."

_brief = reprlib.Repr()  # at most a line, for a hostile file too
_brief.maxlevel, _brief.maxstring, _brief.maxother = 2, 80, 80


class ModelFileError(ValueError):
    """A file breaks the format of model files; the text names the file, the demand, what it found, and a way out."""


class Tensor(NamedTuple):
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int  # bytes from the start of the data
    end: int


def write(path: StrPath, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    """Write a file of ``tensors``, in the order given, and ``metadata``, by :func:`replace`.

    Raises ValueError if :func:`read` would refuse the result, OSError if the file cannot be written.
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
    read_header(io.BytesIO(head), len(head) + sum(array.nbytes for array in arrays.values()), path)

    def fill(stream: BinaryIO) -> None:
        stream.write(head)
        for array in arrays.values():
            stream.write(array.reshape(-1).view(np.uint8).data)

    replace(path, fill)


def read(path: StrPath, *, mmap: bool = False, content: bytes | None = None) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Read and check a file of :func:`write`; return its tensors in their order, and its metadata without the file's own.

    The arrays are read-only views of one block that starts on a 64-byte boundary: a copy of the data or, with ``mmap``, a map
    of the file that processes share. With the ``content`` of a file, ``path`` is only its name in errors. Raises
    ModelFileError, or OSError if there is no file to be read.
    """
    with _open(path) if content is None else io.BytesIO(content) as file:
        size = os.fstat(file.fileno()).st_size if content is None else len(content)
        announced, metadata, digest = read_header(file, size, path)
        start = file.tell()
        if mmap:
            data = np.frombuffer(memory_map.mmap(file.fileno(), size, access=memory_map.ACCESS_READ), np.uint8)[start:]
        else:
            data = panels.aligned_empty(size - start, np.uint8)
            file.readinto(data.data)
            data.flags.writeable = False
    tensors = {t.name: data[t.begin : t.end].view(t.dtype).reshape(t.shape) for t in announced}
    if (found := _digest(tensors, path)) != digest:
        raise file_error(path, f"the SHA-256 in the metadata must be that of the data, {found}", digest)
    return tensors, metadata


def read_metadata(path: StrPath) -> dict[str, str]:
    """Read and check the header of a file alone; return its metadata without the file's own. Raises what :func:`read` does."""
    with _open(path) as file:
        return read_header(file, os.fstat(file.fileno()).st_size, path)[1]


def identity(path: StrPath) -> str:
    """Return the SHA-256 of the header of a file, which has that of the data. Raises what :func:`read_metadata` does."""
    with _open(path) as file:
        read_header(file, os.fstat(file.fileno()).st_size, path)
        length = file.tell()
        file.seek(0)
        return hashlib.sha256(file.read(length)).hexdigest()


def _open(path: StrPath) -> io.BufferedReader:
    """Open a regular file; refuse others first, because opening a pipe blocks."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # open raises its own error for a folder
        raise file_error(path, "a model file must be a regular file", "a device, pipe or socket", FOREIGN)
    return open(path, "rb")


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


def make_header(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str], digest: str) -> bytes:
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
    """Return the bytes of the checksum's entry in the file. No string can hold them: its quotes would be escaped."""
    return f'"header_sha256":"{digest}"'.encode()


def read_header(file: BinaryIO, size: int, path: StrPath) -> tuple[list[Tensor], dict[str, str], str]:
    """Read and check the first 8 + N bytes of a file of ``size`` bytes; return tensors, metadata, SHA-256 of the data."""
    head = file.read(8)
    length = int.from_bytes(head, "little")
    if len(head) < 8 or not 2 <= length <= min(MAX_HEADER, size - 8):
        demand = f"the length of the header (first 8 bytes) must be 2 to {MAX_HEADER} and fit into the file's {size} bytes"
        raise file_error(path, demand, length, FOREIGN)
    if (8 + length) % ALIGNMENT:
        raise file_error(path, f"the data must start on a multiple of {ALIGNMENT} bytes", 8 + length, FOREIGN)
    head += file.read(length)
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
            raise file_error(path, f"tensor {short(t.name)} must begin at byte {end} of the data", found)
        end = t.end
    if end != size - len(head):
        raise file_error(path, f"the header announces {end} bytes of data, all the file's, none more", size - len(head))
    return tensors, metadata, digest


def _parse_tensor(name: str, entry: Any, size: int, path: StrPath) -> Tensor:
    """Check one tensor's entry as far as possible without the others; bound every number before its use."""
    tensor = f"tensor {short(name)}"
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
        demand = f"{tensor} must begin on a multiple of {dtype.itemsize} bytes"
        raise file_error(path, demand, begin, "Put wider dtypes first.")
    return Tensor(name, dtype, tuple(shape), begin, end)


def _are_counts(value: Any, most: int) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n <= most for n in value)  # True is no count


def json_object(text: bytes, what: str, path: StrPath) -> dict[str, Any]:
    """Return the object that strict JSON holds: no name twice, no NaN, no infinity, no half of a surrogate pair."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(value := dict(pairs)) != len(pairs):
            raise ValueError(f"a name twice among {short([name for name, _ in pairs])}")
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
        if type(error) not in NO_JSON:  # raised by a host's signal handler
            raise
        raise file_error(path, f"{what} must be strict JSON", str(error)) from None
    if not isinstance(value, dict):
        raise file_error(path, f"{what} must be a JSON object", value)
    return value


def short(value: object) -> str:
    text = _brief.repr(value)
    return text if len(text) <= 120 else f"{text[:120]}..."


def file_error(path: StrPath, demand: str, found: object, way_out: str = DAMAGED) -> ModelFileError:
    """Return the error for the file at ``path``, which has ``found`` instead of what the format demands."""
    return ModelFileError(f"{os.fspath(path)}: {demand}, got {short(found)}. {way_out}")
