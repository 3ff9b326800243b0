"""Mutations of model files and checkpoints: ways to make a file wrong, or another one that is right.

There are four classes. ``raw``: bytes of the file changed as they come; nearly all are stopped by the checksums.
``header``: the JSON at the head. ``json``: the JSON inside (hyper-parameters, rules, the text of a checkpoint). ``tensors``:
values, sizes, types, names and order of the tensors. In the last three all checksums and offsets are put right afterwards.

Not here: the files that are changed, and the promises (``fuzz.py``).
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
import tempfile
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from helpers import rows, small
from numpy.typing import NDArray

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
    "weights", "text", "state", "best", "average", "points", "trained", "member.", "member.0.parameters",
    "member.1.ordering", "member.00.hyper", "member.9.x",
    "PCG64", "MT19937", "adam", "adagrad", "adadelta", "rmsprop", "momentum", "sgd", "float32", "float64", "natural", "linear",
)  # fmt: skip
TOKENS = (
    "NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 4000, "9" * 5000, "0.1e-400", "01", "+1", "nul", '"', '"\\ud800"',
    "'x'", "{", "}", "[", "]", ",", ":", "\\", "\x00", " ", "\ufeff", "/**/", '"a":1,', '{"a":1,"a":2}', '"__metadata__":{},',
    *("[" * n + "]" * n for n in (8, 480, 960, 5000)), *('{"a":' * n + "1" + "}" * n for n in (8, 300, 960)), "[" * 50_000,
    str([[[[[0] * 6] * 6] * 6] * 6] * 6), "[" + ",".join(["{}"] * 5000) + "]",
    "{" + ",".join(f'"{i}":{i}' for i in range(3000)) + "}",
)  # fmt: skip
"""Text that Python's JSON does not write. A value ``"@i@"`` is replaced by ``TOKENS[i]`` in the text."""

MARK = re.compile(r'"@(\d+)@"')


# The format: files taken apart and put together


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
    return (MARK.sub(lambda mark: TOKENS[int(mark[1]) % len(TOKENS)], text) if '"@' in text else text).encode()


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
    header, data = lay_out(tensors, metadata)
    return seal(compact(header), data)


# Mutations


def mutate(rng: random.Random, kind: str, raw: bytes, other: bytes) -> bytes:
    """Return a file with changes of a class; ``other`` is a file that pieces may come from."""
    if kind == "raw":
        for _ in range(rng.choice((1, 1, 2, 4))):
            raw = change_raw(rng, raw, other)
        return raw
    mixed = rng.random() < 0.1
    tensors, metadata = take_apart(raw)
    if kind == "json" or mixed:
        mutate_documents(rng, tensors, metadata)
    if kind == "tensors" or mixed:
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            rng.choice(TENSOR_CHANGES)(rng, tensors, metadata)
    header, data = lay_out(tensors, metadata)
    return seal(mutate_json(rng, header) if kind == "header" or mixed else compact(header), data)


def change_raw(rng: random.Random, raw: bytes, other: bytes) -> bytes:
    a, b = sorted((rng.randrange(len(raw) + 1), rng.randrange(len(raw) + 1)))
    stop, place = min(b, a + rng.choice((1, 2, 4, 8, 64))), rng.randrange(len(raw)) if raw else 0
    flipped = bytes(byte ^ 1 << rng.randrange(8) for byte in raw[place : place + 1])
    length = rng.choice((*INTS[:-1], len(raw), len(raw) - 8, len(raw) - 64, 2**20, 2**20 - 8, 2**20 + 56))
    number = np.array(rng.choice((*FLOATS, np.nan, np.inf)), rng.choice(("<f4", "<f8"))).tobytes()
    return rng.choice((
        raw[:place] + flipped + raw[place + 1 :],
        raw[:place] + flipped + raw[place + 1 :],
        raw[:a] + rng.randbytes(stop - a) + raw[stop:],
        raw[:a],
        raw + rng.choice((b"\0", b" " * 64, b"\0" * 4096, raw[a:b], other)),
        raw[:a] + other[rng.randrange(len(other)) :],
        raw[:a] + bytes(b - a) + raw[b:],
        raw[:a] + raw[a:b] * 2 + raw[b:],
        (length % 2**64).to_bytes(8, "little") + raw[8:],
        raw[:a] + number + raw[a + len(number) :],
        raw[:a] + (rng.choice(INTS[:-1]) % 2**64).to_bytes(8, "little") + raw[a + 8 :],
    ))  # fmt: skip


def json_value(rng: random.Random) -> Any:
    boxes = ([], {}, [[]], [{}], {"a": {}}, [0], [1, 2], [None] * 9, {"": 0})
    token = f"@{rng.randrange(len(TOKENS))}@"
    kinds = (INTS, INTS, FLOATS, STRINGS, STRINGS, (token,), (None, True, False), boxes)
    return rng.choice(rng.choice(kinds))  # type: ignore[arg-type]


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
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        whole = float(max(-(2**60), min(value, 2**60)))
        return rng.choice((value + 1, value - 1, value + 64, 2 * value, -value, value // 2, whole, rng.choice(INTS)))
    if isinstance(value, float):
        return rng.choice((-value, 2 * value, value * 1e30, value + 1, rng.choice(FLOATS)))
    if isinstance(value, str):
        place = rng.randrange(len(value) + 1)
        return rng.choice((value[:place], value + "x", value[place:], value * 2, value.upper(), rng.choice(STRINGS)))
    if isinstance(value, list):
        return rng.choice((value * 2, value[::-1], value[:-1], [*value, 1], sorted(value, key=str)))
    return dict(rng.sample(list(value.items()), len(value))) if isinstance(value, dict) else json_value(rng)


def change_text(rng: random.Random, text: bytes) -> bytes:
    """Change JSON as text: a part twice (so names come twice), a part less, tokens out of place."""
    a = rng.randrange(len(text) + 1)
    b = min(len(text), a + rng.choice((0, 1, 1, 2, 5, 30)))
    commas = [i for i, byte in enumerate(text) if byte == 44] or [0, len(text)]
    i = rng.randrange(max(1, len(commas) - 1))
    twice = text[: commas[i]] + text[commas[i] : commas[-1 if i + 1 == len(commas) else i + 1]] + text[commas[i] :]
    token, noise = rng.choice(TOKENS).encode(), rng.randbytes(b - a)
    return rng.choice((twice, text[:a] + text[b:], text[:a] + token + text[b:], text[:a] + noise + text[b:]))


def mutate_documents(rng: random.Random, tensors: Tensors, metadata: dict[str, Any]) -> None:
    """Change metadata, or the JSON that one of them or the text of a checkpoint holds."""
    for name in ("columns", "text"):
        if name in tensors and rng.random() < 0.6:
            tensors[name] = np.frombuffer(mutate_json(rng, json.loads(tensors[name].tobytes())), np.uint8)
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


def number_for(rng: random.Random, dtype: np.dtype[Any]) -> Any:
    if dtype.kind == "f":
        largest = float(np.finfo(dtype).max)
        value = rng.choice((*FLOATS, rng.gauss(0, 1), largest, -largest, math.nan, math.inf))
        return max(-largest, min(largest, value)) if abs(value) < math.inf else value
    limits = np.iinfo(dtype)
    return max(limits.min, min(limits.max, rng.choice(INTS)))


# Changes of the values of one tensor that has some: of the random numbers and the values, which may be written to


def set_values(rng: random.Random, values: NDArray[Any]) -> NDArray[Any]:
    for _ in range(rng.choice((1, 1, 2, 5))):
        values.reshape(-1)[rng.randrange(values.size)] = number_for(rng, values.dtype)
    return values


def set_all(rng: random.Random, values: NDArray[Any]) -> NDArray[Any]:
    full = np.full_like(values, number_for(rng, values.dtype))
    return np.where(values == 0, values, full) if rng.random() < 0.5 else full


def move_values(rng: random.Random, values: NDArray[Any]) -> NDArray[Any]:
    flat = values.reshape(-1)
    order = np.random.default_rng(rng.getrandbits(32)).permutation(flat.size)
    moved: NDArray[Any] = rng.choice((flat[::-1], np.sort(flat), flat[order], np.roll(flat, 1)))
    return moved.reshape(values.shape)


def swap_values(rng: random.Random, values: NDArray[Any]) -> NDArray[Any]:
    """Let two entries change places: an ordering stays one."""
    flat, a, b = values.reshape(-1), rng.randrange(values.size), rng.randrange(values.size)
    flat[[a, b]] = flat[[b, a]]
    return values


def change_bytes(rng: random.Random, values: NDArray[Any]) -> NDArray[Any]:
    raw = bytearray(values.tobytes())
    for _ in range(rng.choice((1, 1, 4, 16))):
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return np.frombuffer(bytes(raw), values.dtype).reshape(values.shape)


def change_shape(rng: random.Random, values: NDArray[Any]) -> NDArray[Any]:
    shapes: list[tuple[int, ...]] = [(1, *values.shape), (*values.shape, 1), (values.size,), values.shape[::-1]]
    shapes += [(1,) * (8 - values.ndim) + values.shape, (1,) * 9 + values.shape, (0, *values.shape)]
    shape = rng.choice(shapes)
    return values.reshape(shape) if 0 not in shape else np.empty(shape, values.dtype)


def change_type(rng: random.Random, values: NDArray[Any]) -> NDArray[Any]:
    """Give the same numbers, or the same bytes, another type."""
    dtype = np.dtype(rng.choice(list(NAMES)))
    if rng.random() < 0.5:
        return values.astype(dtype)
    return np.frombuffer(values.tobytes(), dtype) if values.nbytes % dtype.itemsize == 0 else values


VALUE_CHANGES = (
    set_values, set_values, set_all, move_values, swap_values, change_bytes, change_shape, change_type,
)  # fmt: skip


# Changes of all tensors


def change_values(rng: random.Random, tensors: Tensors, metadata: dict[str, Any]) -> None:
    if names := [name for name, values in tensors.items() if values.size]:
        name = rng.choice(names)
        tensors[name] = rng.choice(VALUE_CHANGES)(rng, tensors[name].copy())


def scale(rng: random.Random, tensors: Tensors, metadata: dict[str, Any]) -> None:
    """Multiply all entries; dead weights stay 0, so the model may still be one."""
    if name := next((name for name, tensor in tensors.items() if tensor.dtype.kind == "f"), ""):
        factor = rng.choice((-1.0, 0.0, 1e-30, 100.0, 1e4, 1e10, 1e20, 1e30, 1e37))
        tensors[name] = (tensors[name] * tensors[name].dtype.type(factor)).astype(tensors[name].dtype)


def change_length(rng: random.Random, tensors: Tensors, metadata: dict[str, Any]) -> None:
    """Cut or lengthen a tensor, or all of as many masks, along one of its axes."""
    name = rng.choice(list(tensors) or [""])
    if not name or not (shape := tensors[name].shape):
        return
    axis = rng.randrange(len(shape))
    n = shape[axis]
    length = rng.choice((0, 1, n - 1, n + 1, n // 2, 2 * n, n + 16, n + 64, n - 64, n - 16, 7 * n))
    together = axis == 0 and len(shape) == 2 and rng.random() < 0.7
    for other in [name for name in tensors if tensors[name].shape[:1] == shape[:1]] if together else [name]:
        tensors[other] = np.take(tensors[other], np.arange(max(length, 0)) % max(n, 1), axis=axis) if n else tensors[other]


def change_names(rng: random.Random, tensors: Tensors, metadata: dict[str, Any]) -> None:
    """Drop, rename, repeat, swap or reorder tensors."""
    if not tensors:
        return
    name, other = rng.choice(list(tensors)), rng.choice(list(tensors))
    match rng.randrange(5):
        case 0:
            del tensors[name]
        case 1:
            tensors[rng.choice(STRINGS)] = tensors.pop(name)
        case 2:
            tensors[rng.choice(STRINGS)] = tensors[name]
        case 3:
            tensors[name], tensors[other] = tensors[other], tensors[name]
        case _:
            for name in rng.sample(list(tensors), len(tensors)):
                tensors[name] = tensors.pop(name)


def change_model(rng: random.Random, tensors: Tensors, metadata: dict[str, Any]) -> None:
    """Put another model in the place of one, of other sizes and masks, consistent (or nearly) in all of its tensors."""
    own = rng.choice([name for name in tensors if name.endswith("parameters")] or [""])
    prefix = own.removesuffix("parameters")
    if not own or f"{prefix}ordering" not in tensors:
        return
    old, several = tensors[f"{prefix}ordering"], metadata.get(f"{prefix}connectivity_weights") == "true"
    same = old.shape[-1] if old.ndim and old.size else 5
    D = min(70, rng.choice((1, 2, 3, 5, 17, 64, 65, same, same, same)))
    direct = metadata.setdefault(f"{prefix}direct", "none")
    if rng.random() < 0.3 or direct not in ("none", "output", "all"):
        direct = metadata[f"{prefix}direct"] = rng.choice(("none", "output", "all"))
    params = {
        "hidden_sizes": tuple(rng.choice((1, 2, 3, 5, 63, 64, 65)) for _ in range(rng.choice((0, 1, 1, 1, 2, 3)))),
        "n_masks": rng.choice((2, 3, 40)) if (old.ndim == 2) != (rng.random() < 0.1) else 1,
        "dtype": rng.choice(("float32", "float64")), "degrees": rng.choice(("uniform", "stratified")), "ordering": "random",
        "direct_connections": direct, "connectivity_weights": several, "random_state": rng.getrandbits(16),
    }  # fmt: skip
    with tempfile.NamedTemporaryFile() as file:
        small(**params).fit(rows(4, D)).model_.save(file.name)
        new, _ = take_apart(Path(file.name).read_bytes())
    for name in [name for name in tensors if name.startswith((f"{prefix}degrees", f"{prefix}ordering"))]:
        del tensors[name]
    text = tensors.pop("text", None)
    tensors |= {f"{prefix}{name}": values for name, values in new.items()}
    for name in ("state", "best"):
        if name in tensors and rng.random() < 0.9:
            tensors[name] = np.zeros((*tensors[name].shape[:-1], len(new["parameters"])), new["parameters"].dtype)
    if text is not None:
        tensors["text"] = text


TENSOR_CHANGES = (*[change_values] * 8, scale, change_length, change_names, change_model, change_model)
