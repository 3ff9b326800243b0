"""The header of a file of tensors, written and read as untrusted data; and the error for a file that breaks the format.

The format is described in ``tensorfile.py``. Not here: the bytes of the tensors, files.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import reprlib
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from made_fast.system.durable import StrPath

__all__ = ["ModelFileError", "Tensor", "file_error", "json_object", "make_header", "read_header"]

OWN_METADATA = ("format", "format_version", "data_sha256", "header_sha256")
FORMAT, VERSION, UNSEALED = "made_fast", "1", "0" * 64
ALIGNMENT, MAX_DIMENSIONS = 64, 8
MAX_HEADER = 1 << 20
MAX_JSON, MAX_VALUES = 1 << 22, 150_000  # bytes and values: as Python objects they take 64 MB at the most
NO_JSON = (json.JSONDecodeError, UnicodeDecodeError, UnicodeEncodeError, ValueError, RecursionError)  # not their subclasses
DTYPES = {"F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8", "U8": "|u1"}  # np.dtype(...).str of each
NAMES = {dtype: name for name, dtype in DTYPES.items()}

DAMAGED = "The file is damaged or cut short: save it again or fetch a fresh copy."
FOREIGN = "This is no made_fast model (save one with MADE.save), or its first bytes are damaged."
NEWER = "Update made_fast, or save the model again with this version."

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


def short(value: object) -> str:
    text = _brief.repr(value)
    return text if len(text) <= 120 else f"{text[:120]}..."


def file_error(path: StrPath, demand: str, found: object, way_out: str = DAMAGED) -> ModelFileError:
    """Return the error for the file at ``path``: what is demanded, what was found, what to do."""
    return ModelFileError(f"{os.fspath(path)}: {demand}, got {short(found)}. {way_out}")


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
    """Return the bytes of the checksum's entry in the file. No string can imitate them: its quotes would be escaped."""
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
    """Check one tensor's entry as far as possible without the others; every number is bounded before it is used."""
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
