"""Files of tensors in the safetensors format, written durably and read as untrusted data.

Not here: the meaning of the tensors of a model (``modelfile.py``) or a checkpoint (``checkpoint.py``); the header's checks
(``header.py``). A file that breaks the format raises :class:`ModelFileError` before memory is taken for what it announces.

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
import mmap as memory_map
import os
import stat
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from made_fast.inference.header import DTYPES, FOREIGN, NAMES, OWN_METADATA, file_error, make_header, read_header, short
from made_fast.kernels import layout as panels
from made_fast.system.durable import StrPath, replace

__all__ = ["read", "read_metadata", "write"]

CHUNK = 1 << 18  # items that are worked on at a time, while they are in cache
DIVERGED = "Save a model that is finite: an earlier state, or one trained again with a smaller learning rate."


def write(path: StrPath, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    """Write a file of ``tensors``, in the order given, and ``metadata``, by :func:`replace`.

    Raises
    ------
    ValueError
        :func:`read` would refuse the result: a tensor of another dtype, not finite or off its alignment, a long header.
    OSError
        The file cannot be written; see :func:`replace`.
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
    of the file that processes share. :func:`write` over a mapped file is harmless. A change in place changes the arrays, and
    a file cut short (by cp or rsync --inplace) kills the processes that use it, by SIGBUS. With the ``content`` of a file,
    ``path`` is only its name in errors. Raises ModelFileError, or OSError if there is no file to be read.
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


def _open(path: StrPath) -> io.BufferedReader:
    """Open a file, and refuse what is none before: opening a pipe would block."""
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
