"""The Open Inference Protocol, version 2 (KServe's V2 REST), with its extension for binary tensors.

A model of 0/1 rows takes one tensor ``rows`` (n, D), of any datatype of numbers; a model of a table takes one tensor (n,) for
each column, by its name, and one for each column of a context, by ``context.NAME``. NaN is a missing entry, and so is null in
JSON. All give ``log_p`` (n,), in nats, of what is there of each row, and its standard error ``std``, 0 where it is exact.

The tensors follow a JSON text in the body where the header Inference-Header-Content-Length says where that ends; a tensor of
BYTES is a length of four bytes and the text, one after the other. What a request has that is not known is refused.

Not here: HTTP (``app.py``), the doors of plain JSON (``doors.py``).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast.serving.bodies import RefusedError, dumps, loads
from made_fast.serving.doors import ESTIMATES, check_options
from made_fast.serving.models import Served
from made_fast.serving.settings import Settings
from made_fast.tables.arguments import shown
from made_fast.tables.columns.categories import Categories
from made_fast.tables.columns.schema import Column

__all__ = ["EXTENSIONS", "LENGTH", "REQUEST", "VERSION", "Infer", "answer", "infer", "metadata"]

EXTENSIONS = ("binary_tensor_data",)
LENGTH = "Inference-Header-Content-Length"
VERSION = "1"
"""The version of every model: a file holds one."""

DTYPES = {
    "BOOL": np.dtype(np.bool_),
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
OUTPUTS = ("log_p", "std")
HARMLESS = "content_type"
"""A parameter by which MLServer's clients say what a tensor was in Python."""

CONTEXT = "context."
FOUR_BYTES = struct.Struct("<I")

Json = dict[str, Any]

_parameters: Json = {"type": "object", "description": "Of a tensor: binary_data_size, binary_data."}
REQUEST: Json = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "parameters": {
            "type": "object",
            "description": "binary_data_output: whether all outputs are binary; n_members, n_walks, random_state: see score.",
        },
        "inputs": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "maxItems": 2},
                    "datatype": {"enum": [*DTYPES, "BYTES"]},
                    "parameters": _parameters,
                    "data": {"type": "array"},
                },
                "required": ["name", "shape", "datatype"],
            },
        },
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"name": {"enum": list(OUTPUTS)}, "parameters": _parameters},
                "required": ["name"],
            },
        },
    },
    "required": ["inputs"],
}
"""The JSON schema of a request."""


@dataclass(frozen=True)
class Infer:
    """A request, taken apart: rows and context as the model takes them, not checked yet."""

    X: Any
    context: Any
    n_rows: int
    options: Json
    outputs: tuple[tuple[str, bool], ...]
    """Names of the outputs, and whether each is binary."""
    id: str | None


def metadata(served: Served) -> Json:
    """Return the metadata of a model: its tensors."""
    if served.table is None:
        inputs = [{"name": "rows", "datatype": "UINT8" if served.density.binarize is None else "FP64",
                   "shape": [-1, len(served.names)]}]  # fmt: skip
    else:
        inputs = [{"name": name, "datatype": _datatype(c), "shape": [-1]} for name, c in columns_of(served).items()]
    outputs = [{"name": name, "datatype": "FP64", "shape": [-1]} for name in OUTPUTS]
    return {"name": served.name, "versions": [VERSION], "platform": "made_fast", "inputs": inputs, "outputs": outputs}


def columns_of(served: Served) -> dict[str, Column]:
    """Return the columns that a table and its context have, by the names of their tensors."""
    assert served.table is not None
    found = {column.name: column for column in served.table.columns.columns}
    for column in () if served.context is None else served.context.columns:
        found[CONTEXT + column.name] = column
    return found


def infer(served: Served, body: bytes, length: str | None, settings: Settings) -> Infer:
    """Take the body of a request apart; ``length`` is the header that says where its JSON ends. Raises RefusedError."""
    view = memoryview(body)
    end = len(body) if length is None else _length(length, len(body))
    request, tail = _Fields("the body", loads(view[:end])), _Tail(view[end:])
    inputs: dict[str, NDArray[Any]] = {}
    for given in request.a_list("inputs", needed=True):
        name, tensor = _input(_Fields("an input", given), tail)
        if name in inputs:
            raise RefusedError(400, f"inputs must have different names, got {shown(name)} twice.")
        inputs[name] = tensor
    if len(tail.bytes) > tail.at:
        raise RefusedError(400, f"the body must end with its tensors, got {len(tail.bytes) - tail.at} bytes beyond.")
    parameters = request.fields("parameters")
    binary = parameters.take("binary_data_output", bool, False)
    options = {name: parameters.take(name, int, default) for name, default in ESTIMATES.items()}
    parameters.take(HARMLESS, str, None)
    parameters.end()
    outputs = []
    for given in request.a_list("outputs") or [{"name": name} for name in OUTPUTS]:
        output = _Fields("an output", given)
        name = output.take("name", str)
        if name not in OUTPUTS:
            raise RefusedError(400, f"outputs may be {', '.join(OUTPUTS)}, got {shown(name)}.")
        of_output = output.fields("parameters")
        outputs.append((name, of_output.take("binary_data", bool, binary)))
        of_output.take(HARMLESS, str, None)
        of_output.end()
        output.end()
    if len({name for name, _ in outputs}) < len(outputs):
        raise RefusedError(400, "outputs must have different names, got one of them twice.")
    request_id = request.take("id", str, None)
    request.end()
    X, context, n_rows = _rows(served, inputs)
    if n_rows > settings.max_rows:
        raise RefusedError(413, f"a request must have at most {settings.max_rows:,} rows, got {n_rows:,}. Send parts.")
    if options != ESTIMATES:  # ints, all of them
        check_options(options)
    return Infer(X, context, n_rows, options, tuple(outputs), request_id)


def answer(served: Served, asked: Infer, log_p: NDArray[np.float64], std: NDArray[np.float64]) -> tuple[bytes, int | None]:
    """Return the body of the answer, and the length of its JSON if tensors follow that."""
    values = {"log_p": log_p, "std": std}
    outputs, tail = [], []
    for name, binary in asked.outputs:
        output: Json = {"name": name, "datatype": "FP64", "shape": list(values[name].shape)}
        if binary:
            tail.append(np.ascontiguousarray(values[name], "<f8").tobytes())
            output["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            output["data"] = values[name]
        outputs.append(output)
    found: Json = {"model_name": served.name, "model_version": VERSION, "outputs": outputs}
    if asked.id is not None:
        found["id"] = asked.id
    head = dumps(found)
    return (b"".join([head, *tail]), len(head)) if tail else (head, None)


class _Fields:
    """The fields of a JSON object; what nobody takes is refused."""

    def __init__(self, name: str, found: Any) -> None:
        if not isinstance(found, dict):
            raise RefusedError(400, f"{name} must be an object, got {shown(found)}.")
        self.name, self.found = name, dict(found)

    def take(self, field: str, kind: type, default: Any = ...) -> Any:
        if field not in self.found:
            if default is ...:
                raise RefusedError(400, f"{self.name} must have {field!r}.")
            return default
        value = self.found.pop(field)
        if type(value) is not kind:
            raise RefusedError(400, f"{field} of {self.name} must be of type {kind.__name__}, got {shown(value)}.")
        return value

    def a_list(self, field: str, needed: bool = False) -> list[Any]:
        found: list[Any] = self.take(field, list, ... if needed else [])
        return found

    def fields(self, field: str) -> _Fields:
        return _Fields(f"{field} of {self.name}", self.take(field, dict, {}))

    def end(self) -> None:
        if self.found:
            raise RefusedError(400, f"{self.name} has {shown(next(iter(self.found)))}, which is not known here.")


class _Tail:
    """The binary tensors behind the JSON of a body, in the order of the inputs."""

    def __init__(self, found: memoryview) -> None:
        self.bytes, self.at = found, 0

    def next(self, size: int, name: str) -> memoryview:
        if not 0 <= size <= len(self.bytes) - self.at:
            raise RefusedError(
                400, f"input {shown(name)} must have {size} bytes, but the body has {len(self.bytes) - self.at} left for it."
            )
        self.at += size
        return self.bytes[self.at - size : self.at]


def _length(text: str, n_bytes: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 12 and int(text) <= n_bytes):
        raise RefusedError(400, f"{LENGTH} must be a whole number up to the length of the body, {n_bytes}, got {shown(text)}.")
    return int(text)


def _input(given: _Fields, tail: _Tail) -> tuple[str, NDArray[Any]]:
    """Return the name and the tensor of an input."""
    name, datatype = given.take("name", str), given.take("datatype", str)
    shape = given.take("shape", list)
    if not (1 <= len(shape) <= 4 and all(type(n) is int and 0 <= n < 2**31 for n in shape)):
        raise RefusedError(400, f"shape of input {shown(name)} must be one to four whole numbers, got {shown(shape)}.")
    if datatype not in DTYPES and datatype != "BYTES":
        raise RefusedError(400, f"datatype must be BYTES, {', '.join(DTYPES)}, got {shown(datatype)} for input {shown(name)}.")
    parameters = given.fields("parameters")
    size = parameters.take("binary_data_size", int, None)
    parameters.take(HARMLESS, str, None)
    parameters.end()
    n = math.prod(shape)
    if size is None:
        found = _of_json(given.take("data", list), datatype, n, name)
    elif datatype == "BYTES":
        found = _texts(tail.next(size, name), n, name)
    else:
        dtype = DTYPES[datatype]
        if size != n * dtype.itemsize:
            raise RefusedError(
                400,
                f"input {shown(name)} of shape {shape} and type {datatype} must have {n * dtype.itemsize} bytes, got {size}.",
            )
        found = np.frombuffer(tail.next(size, name), dtype)
        if datatype == "BOOL" and size and np.frombuffer(found, np.uint8).max() > 1:
            raise RefusedError(400, f"input {shown(name)} of datatype BOOL must have bytes 0 and 1.")
    given.end()
    return name, found.reshape(shape)


def _of_json(data: list[Any], datatype: str, n: int, name: str) -> NDArray[Any]:
    """Return a list, or lists of lists, as a vector of n entries."""
    demand = f"data of input {shown(name)} must be {n} values of {datatype}"
    if datatype == "BYTES":
        found = np.array(_flat(data, n, demand), object)
        if not all(value is None or type(value) is str for value in found):
            raise RefusedError(400, f"{demand}, texts or null, got others.")
        return found
    values = _flat(data, n, demand)
    dtype, types = DTYPES[datatype], set(map(type, values))
    if not types <= {bool, int, float, type(None)} or (type(None) in types and dtype.kind != "f"):
        raise RefusedError(400, f"{demand}, got others. A missing entry is null, in a tensor of floats.")
    try:
        found = np.array(values, np.float64 if dtype.kind == "f" and bool not in types else None)
    except OverflowError as error:
        raise RefusedError(400, f"{demand}, got an int that is no float.") from error
    kinds = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[dtype.kind]
    if found.size and found.dtype.kind not in kinds:
        raise RefusedError(400, f"{demand}, got others.")
    if dtype.kind in "iu" and found.size:
        most = np.iinfo(dtype)
        if int(found.min()) < most.min or int(found.max()) > most.max:
            raise RefusedError(400, f"{demand}, from {most.min} to {most.max}, got others.")
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as such
        return found.astype(dtype)


def _flat(data: list[Any], n: int, demand: str) -> list[Any]:
    """Return the n values of a list, or of lists in it."""
    while data and all(type(value) is list for value in data) and len(set(map(len, data))) == 1:
        data = [value for each in data for value in each]
    if len(data) != n:
        raise RefusedError(400, f"{demand}, got {len(data)}.")
    return data


def _texts(found: memoryview, n: int, name: str) -> NDArray[Any]:
    """Return the n texts of a binary tensor of BYTES."""
    raw, at, parts = bytes(found), 0, list[bytes]()
    try:
        while at < len(raw):
            start = at + 4
            at = start + FOUR_BYTES.unpack_from(raw, at)[0]
            parts.append(raw[start:at])
        distinct = {part: part.decode() for part in set(parts)}
    except (struct.error, UnicodeDecodeError) as error:
        raise RefusedError(400, f"input {shown(name)} must have texts in UTF-8, each behind its length: {error}.") from error
    if at != len(raw) or len(parts) != n:
        raise RefusedError(
            400, f"input {shown(name)} must have {n} texts, each behind its length, got {len(parts)} in other bytes."
        )
    texts = [distinct[part] for part in parts]
    out = np.empty(n, object)
    out[:] = texts
    return out


def _rows(served: Served, inputs: Mapping[str, NDArray[Any]]) -> tuple[Any, Any, int]:
    """Return the rows and the context of a request as the model takes them, and how many rows there are."""
    if served.table is None:
        if list(inputs) != ["rows"]:
            raise RefusedError(400, f"inputs must be one, 'rows', got {shown(list(inputs)[:5])}.")
        return inputs["rows"], None, len(inputs["rows"])
    found: Json = {}
    for name, tensor in inputs.items():
        if tensor.ndim > 2 or (tensor.ndim == 2 and tensor.shape[1] != 1):
            raise RefusedError(400, f"input {shown(name)} must have shape [n] or [n, 1], got {list(tensor.shape)}.")
        found[name] = tensor.ravel()
    known = columns_of(served)
    context = {
        name.removeprefix(CONTEXT): found.pop(name) for name in list(found) if name in known and _of_context(served, name)
    }
    n_rows = max((len(values) for values in (*found.values(), *context.values())), default=0)
    return found, context or None, n_rows


def _of_context(served: Served, name: str) -> bool:
    return served.context is not None and name.startswith(CONTEXT) and name.removeprefix(CONTEXT) in served.context.names


def _datatype(column: Column) -> str:
    if isinstance(column, Categories) and column.text:
        return "BYTES"
    return NAMES.get(column.dtype.newbyteorder("<"), "FP64")
