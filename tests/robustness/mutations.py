"""Mutations of model files and checkpoints: ways to make a file wrong, or another one that is right.

There are four classes. ``raw``: bytes of the file changed as they come; nearly all are stopped by the checksums.
``header``: the JSON at the head. ``json``: the JSON inside (hyper-parameters, rules, the text of a checkpoint). ``tensors``:
values, sizes, types, names and order of the tensors. In the last three all checksums and offsets are put right afterwards.

Not here: the files that mutants are made of, and what is promised of a mutant (``fuzz.py``).
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from made_fast.kernels import layout as panels
from made_fast.network.architecture import Architecture
from made_fast.network.masks import Connectivity

CLASSES = ("raw", "header", "json", "tensors")

Tensors: TypeAlias = dict[str, NDArray[Any]]

DTYPES = {"F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8", "U8": "|u1"}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
UNSEALED = b"0" * 64
SEAL = re.compile(rb'"header_sha256":"[^"]*"')

INTS = (
    0, 1, -1, 2, 3, 5, 7, 63, 64, 65, 255, 256, 2**31 - 1, -(2**31), 2**31, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64,
    10**400,
)  # fmt: skip
FLOATS = (0.0, -0.0, 5e-324, 1e-45, 1e-30, 0.5, -1.0, 1e10, 1e30, 3.4e38, -3.4e38, 1e308, -1e308)
STRINGS = (
    "", "0", "-1", "1", "2", "{}", "[]", "null", "true", "false", "\0", "\ud800", "größer", "x" * 3000, "é" * 300,
    "made_fast", "pt", "model", "ensemble", "checkpoint", "relu", "softplus", "tanh", "sigmoid", "softsign", "identity",
    "none", "output", "all", "uniform", "stratified", "both", "order", "connectivity", "F32", "F64", "I32", "I64", "U8",
    "BF16", "__metadata__", "format", "kind", "hyper", "rule", "binarize", "parameters", "ordering", "degrees.0", "degrees.63",
    "weights", "text", "state", "best", "member.", "member.0.parameters", "member.1.ordering", "member.00.hyper", "member.9.x",
    "PCG64", "MT19937", "adam", "adagrad", "adadelta", "rmsprop", "momentum", "sgd", "float32", "float64", "natural", "linear",
)  # fmt: skip
TOKENS = (
    "NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 4000, "9" * 5000, "0.1e-400", "01", "+1", "nul", '"', '"\\ud800"',
    "'x'", "{", "}", "[", "]", ",", ":", "\\", "\x00", " ", "\ufeff", "/**/", '"a":1,', '{"a":1,"a":2}', '"__metadata__":{},',
    *("[" * n + "]" * n for n in (8, 480, 960, 5000)), *('{"a":' * n + "1" + "}" * n for n in (8, 300, 960)), "[" * 50_000,
    str([[[[[0] * 6] * 6] * 6] * 6] * 6), "[" + ",".join(["{}"] * 5000) + "]",
    "{" + ",".join(f'"{i}":{i}' for i in range(3000)) + "}",
)  # fmt: skip
"""What Python's JSON would not write. A value ``"@i@"`` is replaced by ``TOKENS[i]`` in the text."""

MARK = re.compile(r'"@(\d+)@"')


# ---------------------------------------------------------------------------------------------------------------------------
# The format: files taken apart and put together, by the docs of storage
# ---------------------------------------------------------------------------------------------------------------------------


def split(raw: bytes) -> tuple[bytes, bytes]:
    """Return the JSON of the header and the data."""
    end = 8 + int.from_bytes(raw[:8], "little")
    return raw[8:end].rstrip(b" "), raw[end:]


def seal(text: bytes, data: bytes) -> bytes:
    """Return the file of a header's JSON and data, the checksum of the header put right."""
    text = SEAL.sub(b'"header_sha256":"' + UNSEALED + b'"', text)
    text += b" " * (-(8 + len(text)) % 64)
    head = len(text).to_bytes(8, "little") + text
    return SEAL.sub(b'"header_sha256":"' + hashlib.sha256(head).hexdigest().encode() + b'"', head) + data


def compact(value: Any) -> bytes:
    """Return JSON without spaces, with the tokens that the marks in it stand for."""
    text = json.dumps(value, separators=(",", ":"))
    return (MARK.sub(_token, text) if '"@' in text else text).encode()


def _token(mark: re.Match[str]) -> str:
    return TOKENS[int(mark[1]) % len(TOKENS)]


def take_apart(raw: bytes) -> tuple[Tensors, dict[str, Any]]:
    """Return the tensors and the metadata of a file in order."""
    text, data = split(raw)
    header = json.loads(text)
    metadata = header.pop("__metadata__")
    tensors = {}
    for name, entry in header.items():
        dtype, count = np.dtype(DTYPES[entry["dtype"]]), math.prod(entry["shape"])
        tensors[name] = np.frombuffer(data, dtype, count, entry["data_offsets"][0]).reshape(entry["shape"])
    return tensors, metadata


def lay_out(tensors: Tensors, metadata: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Return the header and the data of tensors one after the other, the checksum of the data put right."""
    header: dict[str, Any] = {"__metadata__": metadata}
    parts, begin = [], 0
    for name, tensor in tensors.items():
        parts.append(tensor.tobytes())
        end = begin + len(parts[-1])
        header[name] = {"dtype": NAMES[tensor.dtype.str], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    data = b"".join(parts)
    metadata["data_sha256"] = hashlib.sha256(data).hexdigest()
    return header, data


def put_together(tensors: Tensors, metadata: dict[str, Any]) -> bytes:
    """Return the file of tensors and metadata, all checksums put right."""
    header, data = lay_out(tensors, metadata)
    return seal(compact(header), data)


# ---------------------------------------------------------------------------------------------------------------------------
# Mutations
# ---------------------------------------------------------------------------------------------------------------------------


def mutate(rng: random.Random, kind: str, raw: bytes, other: bytes) -> bytes:
    """Return a file with changes of a class; ``other`` is a file that pieces may come from."""
    if kind == "raw":
        return mutate_raw(rng, raw, other)
    mixed = rng.random() < 0.1
    tensors, metadata = take_apart(raw)
    if kind == "json" or mixed:
        mutate_documents(rng, tensors, metadata)
    if kind == "tensors" or mixed:
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            rng.choice(TENSOR_CHANGES)(rng, tensors, metadata)
    header, data = lay_out(tensors, metadata)
    return seal(mutate_json(rng, header) if kind == "header" or mixed else compact(header), data)


def mutate_raw(rng: random.Random, raw: bytes, other: bytes) -> bytes:
    """Change bytes as they come."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        a, b = sorted((rng.randrange(len(raw) + 1), rng.randrange(len(raw) + 1)))
        stop = min(b, a + rng.choice((1, 2, 4, 8, 64)))
        match rng.randrange(11):
            case 0 | 1 if raw:
                place = rng.randrange(len(raw))
                raw = raw[:place] + bytes([raw[place] ^ 1 << rng.randrange(8)]) + raw[place + 1 :]
            case 2:
                raw = raw[:a] + rng.randbytes(stop - a) + raw[stop:]
            case 3:
                raw = raw[:a]
            case 4:
                raw += rng.choice((b"\0", b" " * 64, b"\0" * 4096, raw[a:b], other))
            case 5:
                raw = raw[:a] + other[rng.randrange(len(other)) :]
            case 6:
                raw = raw[:a] + bytes(b - a) + raw[b:]
            case 7:
                raw = raw[:a] + raw[a:b] * 2 + raw[b:]
            case 8:
                length = rng.choice((*INTS[:-1], len(raw), len(raw) - 8, len(raw) - 64, 2**20, 2**20 - 8, 2**20 + 56))
                raw = (length % 2**64).to_bytes(8, "little") + raw[8:]
            case 9:
                piece = np.array(rng.choice((*FLOATS, np.nan, np.inf)), rng.choice(("<f4", "<f8"))).tobytes()
                raw = raw[:a] + piece + raw[a + len(piece) :]
            case _:
                piece = (rng.choice(INTS[:-1]) % 2**64).to_bytes(8, "little")
                raw = raw[:a] + piece + raw[a + 8 :]
    return raw


def json_value(rng: random.Random) -> Any:
    """Return a value to put anywhere."""
    match rng.randrange(8):
        case 0 | 1:
            return rng.choice(INTS)
        case 2:
            return rng.choice(FLOATS)
        case 3 | 4:
            return rng.choice(STRINGS)
        case 5:
            return f"@{rng.randrange(len(TOKENS))}@"
        case 6:
            return rng.choice((None, True, False))
        case _:
            return rng.choice(([], {}, [[]], [{}], {"a": {}}, [0], [1, 2], [None] * 9, {"": 0}))


def mutate_json(rng: random.Random, value: Any) -> bytes:
    """Return the JSON of a value, some of it changed."""
    if rng.random() < 0.85:
        box = [value]
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            change_node(rng, box)
        text = compact(box[0] if box else None)
        if rng.random() < 0.9:
            return text
    else:
        text = compact(value)
    for _ in range(rng.choice((1, 1, 2))):
        text = change_text(rng, text)
    return text


def change_node(rng: random.Random, box: list[Any]) -> None:
    """Change one value somewhere inside a JSON value."""
    at: Any = box
    key: Any = 0
    while at and isinstance(at[key], dict | list) and at[key] and rng.random() < 0.85:
        at = at[key]
        key = rng.choice(list(at)) if isinstance(at, dict) else rng.randrange(len(at))
    if not at:
        return
    value = at[key]
    match rng.randrange(8):
        case 0:
            at[key] = json_value(rng)
        case 1:
            del at[key]
        case 2:
            at[key] = rng.choice(([value], {"a": value}, [value, value], str(value), compact(value).decode()))
        case 3 if isinstance(at, dict):
            at[rng.choice((*STRINGS, *at))] = value
        case 3:
            at.insert(rng.randrange(len(at) + 1), value)
        case 4 if isinstance(at, dict):  # under another name, and there it comes last
            at[rng.choice(STRINGS)] = at.pop(key)
        case 5 if len(at) > 1:
            other = rng.choice(list(at)) if isinstance(at, dict) else rng.randrange(len(at))
            at[key], at[other] = at[other], at[key]
        case _:
            at[key] = near(rng, value)


def near(rng: random.Random, value: Any) -> Any:
    """Return a value of the same type that differs."""
    match value:
        case bool():
            return not value
        case int():
            return rng.choice(
                (
                    value + 1,
                    value - 1,
                    value + 64,
                    2 * value,
                    -value,
                    value // 2,
                    float(max(-(2**60), min(value, 2**60))),
                    rng.choice(INTS),
                )
            )
        case float():
            return rng.choice((-value, 2 * value, value * 1e30, value + 1, rng.choice(FLOATS)))
        case str():
            place = rng.randrange(len(value) + 1)
            return rng.choice((value[:place], value + "x", value[place:], value * 2, value.upper(), rng.choice(STRINGS)))
        case list():
            return rng.choice((value * 2, value[::-1], value[:-1], [*value, 1], sorted(value, key=str)))
        case dict():
            names = list(value)
            rng.shuffle(names)
            return {name: value[name] for name in names}
        case _:
            return json_value(rng)


def change_text(rng: random.Random, text: bytes) -> bytes:
    """Change JSON as text: tokens out of place, a part twice (so names come twice), a part less."""
    a = rng.randrange(len(text) + 1)
    b = min(len(text), a + rng.choice((0, 1, 1, 2, 5, 30)))
    match rng.randrange(4):
        case 0:
            commas = [i for i, byte in enumerate(text) if byte == 44]
            if len(commas) > 1:
                i = rng.randrange(len(commas) - 1)
                return text[: commas[i]] + text[commas[i] : commas[i + 1]] + text[commas[i] :]
            return text + text
        case 1:
            return text[:a] + text[b:]
        case 2:
            return text[:a] + rng.choice(TOKENS).encode() + text[b:]
        case _:
            return text[:a] + rng.randbytes(b - a) + text[b:]


def mutate_documents(rng: random.Random, tensors: Tensors, metadata: dict[str, Any]) -> None:
    """Change metadata, or the JSON that one of them or the text of a checkpoint holds."""
    if "text" in tensors and rng.random() < 0.75:
        tensors["text"] = np.frombuffer(mutate_json(rng, json.loads(tensors["text"].tobytes())), np.uint8)
        return
    own = ("format", "format_version", "data_sha256", "header_sha256")
    names = [name for name in metadata if name not in own]
    documents = [name for name in names if metadata[name].startswith("{")]
    if documents and rng.random() < 0.6:
        name = rng.choice(documents)
        metadata[name] = mutate_json(rng, json.loads(metadata[name])).decode(errors="replace")
        return
    name = rng.choice(names)
    match rng.randrange(4):
        case 0:
            metadata[name] = rng.choice(STRINGS)
        case 1:
            del metadata[name]
        case 2:
            metadata[rng.choice(STRINGS)] = metadata[name]
        case _:
            metadata[rng.choice(("rule", "connectivity_weights", "direct", "kind", "activation"))] = rng.choice(STRINGS)


def some(rng: random.Random, tensors: Tensors) -> str:
    """Choose a tensor; there may be none."""
    return rng.choice(list(tensors)) if tensors else ""


def number_for(rng: random.Random, dtype: np.dtype[Any]) -> Any:
    """Return a number that a tensor may hold."""
    if dtype.kind == "f":
        largest = float(np.finfo(dtype).max)
        value = rng.choice((*FLOATS, rng.gauss(0, 1), largest, -largest, math.nan, math.inf))
        return max(-largest, min(largest, value)) if abs(value) < math.inf else value
    limits = np.iinfo(dtype)
    return max(limits.min, min(limits.max, rng.choice(INTS)))


def set_values(rng: random.Random, tensors: Tensors, metadata: dict[str, Any]) -> None:
    """Set a few entries."""
    if tensors.get(name := some(rng, tensors), np.empty(0)).size:
        tensors[name] = changed = tensors[name].copy()
        for _ in range(rng.choice((1, 1, 2, 5))):
            changed.reshape(-1)[rng.randrange(changed.size)] = number_for(rng, changed.dtype)


def set_all(rng: random.Random, tensors: Tensors, metadata: dict[str, Any]) -> None:
    """Set all entries, or all that are not 0."""
    if name := some(rng, tensors):
        value = number_for(rng, tensors[name].dtype)
        full = np.full_like(tensors[name], value)
        tensors[name] = np.where(tensors[name] == 0, tensors[name], full) if rng.random() < 0.5 else full


def scale(rng: random.Random, tensors: Tensors, metadata: dict[str, Any]) -> None:
    """Multiply all entries; dead weights stay 0, so the model may still be one."""
    if name := next((name for name, tensor in tensors.items() if tensor.dtype.kind == "f"), ""):
        factor = rng.choice((-1.0, 0.0, 1e-30, 100.0, 1e4, 1e10, 1e20, 1e30, 1e37))
        tensors[name] = (tensors[name] * tensors[name].dtype.type(factor)).astype(tensors[name].dtype)


def move_values(rng: random.Random, tensors: Tensors, metadata: dict[str, Any]) -> None:
    """Let entries change places."""
    if name := some(rng, tensors):
        values = tensors[name]
        flat = values.reshape(-1)
        order = np.random.default_rng(rng.getrandbits(32)).permutation(flat.size)
        moved = rng.choice((flat[::-1], np.sort(flat), flat[order], np.roll(flat, 1)))
        tensors[name] = moved.reshape(values.shape)


def swap_values(rng: random.Random, tensors: Tensors, metadata: dict[str, Any]) -> None:
    """Let two entries change places: an ordering stays one."""
    if tensors.get(name := some(rng, tensors), np.empty(0)).size:
        tensors[name] = changed = tensors[name].copy()
        flat = changed.reshape(-1)
        a, b = rng.randrange(flat.size), rng.randrange(flat.size)
        flat[[a, b]] = flat[[b, a]]


def change_bytes(rng: random.Random, tensors: Tensors, metadata: dict[str, Any]) -> None:
    """Change a few bytes."""
    if tensors.get(name := some(rng, tensors), np.empty(0)).size:
        values = tensors[name]
        raw = bytearray(values.tobytes())
        for _ in range(rng.choice((1, 1, 4, 16))):
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        tensors[name] = np.frombuffer(bytes(raw), values.dtype).reshape(values.shape)


def change_length(rng: random.Random, tensors: Tensors, metadata: dict[str, Any]) -> None:
    """Cut or lengthen a tensor, or all of as many masks, along one of its axes."""
    name = some(rng, tensors)
    if not name or not (shape := tensors[name].shape):
        return
    axis = rng.randrange(len(shape))
    n = shape[axis]
    length = rng.choice((0, 1, n - 1, n + 1, n // 2, 2 * n, n + 16, n + 64, n - 64, n - 16, 7 * n))
    together = axis == 0 and len(shape) == 2 and rng.random() < 0.7
    for other in [name for name in tensors if tensors[name].shape[:1] == shape[:1]] if together else [name]:
        tensors[other] = np.take(tensors[other], np.arange(max(length, 0)) % max(n, 1), axis=axis) if n else tensors[other]


def change_shape(rng: random.Random, tensors: Tensors, metadata: dict[str, Any]) -> None:
    """Give the same entries another shape."""
    if name := some(rng, tensors):
        values = tensors[name]
        shapes: list[tuple[int, ...]] = [(1, *values.shape), (*values.shape, 1), (values.size,), values.shape[::-1]]
        shapes += [(1,) * (8 - values.ndim) + values.shape, (1,) * 9 + values.shape, (0, *values.shape)]
        shape = rng.choice(shapes)
        tensors[name] = values.reshape(shape) if 0 not in shape else np.empty(shape, values.dtype)


def change_type(rng: random.Random, tensors: Tensors, metadata: dict[str, Any]) -> None:
    """Give the same numbers, or the same bytes, another type."""
    if name := some(rng, tensors):
        values, dtype = tensors[name], np.dtype(rng.choice(list(NAMES)))
        if rng.random() < 0.5:
            tensors[name] = values.astype(dtype)
        elif values.nbytes % dtype.itemsize == 0:
            tensors[name] = np.frombuffer(values.tobytes(), dtype)


def change_names(rng: random.Random, tensors: Tensors, metadata: dict[str, Any]) -> None:
    """Drop, rename, repeat, swap or reorder tensors."""
    name = some(rng, tensors)
    if not name:
        return
    match rng.randrange(5):
        case 0:
            del tensors[name]
        case 1:
            tensors[rng.choice(STRINGS)] = tensors.pop(name)
        case 2:
            tensors[rng.choice(STRINGS)] = tensors[name]
        case 3:
            other = some(rng, tensors)
            tensors[name], tensors[other] = tensors[other], tensors[name]
        case _:
            names = list(tensors)
            rng.shuffle(names)
            for name in names:
                tensors[name] = tensors.pop(name)


def change_model(rng: random.Random, tensors: Tensors, metadata: dict[str, Any]) -> None:
    """Put another model in the place of one, of other sizes and masks, consistent (or nearly) in all of its tensors."""
    own = rng.choice([name for name in tensors if name.endswith("parameters")] or [""])
    prefix = own.removesuffix("parameters")
    if not own or f"{prefix}ordering" not in tensors:
        return
    values = np.random.default_rng(rng.getrandbits(32))
    old = tensors[f"{prefix}ordering"]
    same = old.shape[-1] if old.ndim and old.size else 5
    D = rng.choice((1, 2, 3, 5, 17, 64, 65, same, same, same))
    sizes = tuple(rng.choice((1, 2, 3, 5, 63, 64, 65)) for _ in range(rng.choice((0, 1, 1, 1, 2, 3))))
    K = rng.choice((1, 2, 3, 40)) if (old.ndim == 2) != (rng.random() < 0.1) else 0
    direct = metadata.setdefault(f"{prefix}direct", "none")
    if rng.random() < 0.3:
        direct = metadata[f"{prefix}direct"] = rng.choice(("none", "output", "all"))
    ordering = values.permuted(np.tile(np.arange(1, D + 1, dtype=np.int32), (K or 1, 1)), axis=1)
    top = max(D - 1, 1)
    lows = [rng.choice((1, 1, top)) for _ in sizes]
    highs = [rng.choice((top, top, low)) for low in lows]
    degrees = [values.integers(a, b + 1, (K or 1, n), np.int32) for a, b, n in zip(lows, highs, sizes, strict=True)]
    dtype = np.dtype(rng.choice((np.float32, np.float64)))
    architecture = Architecture(D, sizes, "relu", direct, metadata.get(f"{prefix}connectivity_weights") == "true")
    if direct not in ("none", "output", "all"):
        return
    if K:
        theta = values.normal(size=architecture.n_shared)
    else:
        ordering, degrees = ordering[0], [m[0] for m in degrees]
        theta = _packed(architecture, Connectivity(ordering, tuple(degrees)), values)
    n = len(theta)
    for name in [
        name for name in tensors if name.startswith(prefix) and name[len(prefix) :].startswith(("degrees", "ordering"))
    ]:
        del tensors[name]
    vectors: Tensors = {f"{prefix}ordering": ordering} | {f"{prefix}degrees.{l}": m for l, m in enumerate(degrees)}
    text = tensors.pop("text", None)
    tensors |= {own: theta.astype(dtype), **vectors}
    for name in ("state", "best"):
        if name in tensors and rng.random() < 0.9:
            tensors[name] = np.zeros((*tensors[name].shape[:-1], n), dtype)
    if text is not None:
        tensors["text"] = text


def _packed(architecture: Architecture, connectivity: Connectivity, values: np.random.Generator) -> NDArray[Any]:
    """Return random parameters of one mask, 0 where they must be."""
    layout = architecture.layout(connectivity.staircase(architecture.direct))
    theta: NDArray[Any] = values.normal(size=panels.n_parameters(layout))
    for l, row in enumerate(layout.layers):
        for part, dead in panels.dead_entries(theta, layout, l):
            part[dead] = 0
        used = 0 if row[panels.DIRECT] < 0 else row[panels.N_OUT]
        theta[row[panels.BIAS] + used : row[panels.BIAS] + panels.PANEL * row[panels.N_PANELS]] = 0
    return theta


Change: TypeAlias = Callable[[random.Random, Tensors, dict[str, Any]], None]
TENSOR_CHANGES: tuple[Change, ...] = (
    set_values, set_values, set_all, scale, move_values, swap_values, change_bytes, change_length, change_shape, change_type,
    change_names, change_model, change_model,
)  # fmt: skip
