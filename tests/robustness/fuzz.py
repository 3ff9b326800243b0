"""A mutation fuzzer of model files and checkpoints: whatever a file holds, it is refused by name, or the model in it works.

``python tests/robustness/fuzz.py --n 100000`` makes that many mutants of small files of every kind and gives each to the
public door, ``made_fast.load`` (read or mapped) or ``MADE.resume``. What is promised of every one of them:

- it is refused by ModelFileError with a text of less than 500 characters that begins with the path, or the model in it scores
  and samples, and its probabilities add up to 1 (and a resumed fit goes on, or says why not). If a parameter is beyond 1000,
  scores need not be finite: products of such numbers may overflow, which is counted and is no fault of the file;
- nothing crashes, and nothing takes longer than a second;
- loading it allocates no more than the size of the file and 64 MB beside it.

Mutants are made and loaded in child processes, so a crash or a hang costs a child and not the fuzzer; files that break a
promise are kept. Mutant i of a seed is the same whenever it is made: ``--only I`` makes it again and loads it in this process.

There are four classes, in turn. ``raw``: bytes of the file changed as they come; nearly all are stopped by the checksums.
``header``: the JSON at the head. ``json``: the JSON inside (hyper-parameters, rules, the text of a checkpoint). ``tensors``:
values, sizes, types, names and order of the tensors. In the last three all checksums and offsets are put right afterwards.

Not here: coverage guided search (``atheris_model_file.py``), single faults with their messages (``tests/test_storage.py``).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import mmap
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

import made_fast
from made_fast.kernels import layout as panels
from made_fast.masks import Connectivity
from made_fast.network import Architecture

CLASSES = ("raw", "header", "json", "tensors")
SECONDS = 1.0
MARGIN = 64 << 20
LONGEST_TEXT = 500
LARGEST = 64 << 20  # bytes of a mutant: more take their time to be read, as they should
LARGEST_PARAMETER = 1000.0
KILL_AFTER = 10.0  # seconds; what takes longer than SECONDS is run again alone before it counts as a hang
TRIES, ENOUGH = 3, 5  # runs alone; hangs after which no further suspect is run alone

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


class Seed(NamedTuple):
    """A file in order to make mutants of."""

    name: str
    raw: bytes
    is_checkpoint: bool


class Mutant(NamedTuple):
    """What is to be loaded, and how."""

    number: int
    kind: str
    seed: Seed
    raw: bytes
    resume: bool
    mapped: bool


# ---------------------------------------------------------------------------------------------------------------------------
# Seeds
# ---------------------------------------------------------------------------------------------------------------------------


def make_seeds() -> list[Seed]:
    """Return a small file of every kind, written by the public API; the same ones every time."""
    from made_fast import MADE, MixtureModel

    rng = np.random.default_rng(0)
    X = rng.integers(0, 2, (24, 5))
    fits: dict[str, dict[str, Any]] = {
        "one mask": {"hidden_sizes": (7,)},
        "no hidden layer": {"hidden_sizes": ()},
        "float64": {"hidden_sizes": (3,), "dtype": "float64", "activation": "softplus", "binarize": 0.5},
        "deep": {"hidden_sizes": (2, 3, 2, 2), "activation": "sigmoid"},
        "direct": {"hidden_sizes": (3, 2), "direct_connections": "all"},
        "several masks": {"hidden_sizes": (7,), "n_masks": 3, "activation": "tanh"},
        "connectivity weights": {"hidden_sizes": (4,), "n_masks": 2, "connectivity_weights": True, "dtype": "float64"},
        "rule": {"hidden_sizes": (3, 4), "n_masks": None, "n_eval_masks": 3, "direct_connections": "output"},
    }
    checkpoints: dict[str, dict[str, Any]] = {
        "checkpoint of one mask": {"hidden_sizes": (3,)},
        "checkpoint of several masks": {"hidden_sizes": (3,), "n_masks": 2, "optimizer": "sgd", "clip_norm": 1.0},
        "checkpoint of a rule": {"hidden_sizes": (2, 3), "n_masks": None, "n_eval_masks": 2, "dropout": 0.25},
    }
    files: dict[str, bytes] = {}
    models = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        for name, options in (fits | checkpoints).items():
            made = MADE(max_epochs=2, batch_size=8, random_state=0, n_threads=1, **options)
            made.fit(X, X_val=X if name != "checkpoint of several masks" else None, checkpoint=path)
            if name in fits:
                models[name] = made.model_
                made.save(path)
            files[name] = path.read_bytes()
        MixtureModel([models["one mask"], models["no hidden layer"]], [0.25, 0.75]).save(path)
        files["mixture"] = path.read_bytes()
        MixtureModel([models["several masks"], models["rule"], models["direct"]]).save(path)
        files["mixture of mixtures"] = path.read_bytes()
    for name in checkpoints:
        files[name] = _timeless(files[name])
    return [Seed(name, raw, name in checkpoints) for name, raw in files.items()]


def _timeless(raw: bytes) -> bytes:
    """Return a checkpoint with other times in its history, which would be others in every run."""
    tensors, metadata = take_apart(raw)
    text = json.loads(tensors["text"].tobytes())
    for record in text["about"]["history"]:
        record |= {"seconds": 0.001, "rows_per_second": 24000.0}
    tensors["text"] = np.frombuffer(compact(text), np.uint8)
    return put_together(tensors, metadata)


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


def make_mutant(seeds: list[Seed], seed: int, number: int) -> Mutant:
    """Return mutant ``number``; it depends on nothing else."""
    rng = random.Random(seed << 64 | number)
    kind = CLASSES[number % len(CLASSES)]
    source = seeds[number // len(CLASSES) % len(seeds)]
    with np.errstate(all="ignore"):
        raw = _mutated(rng, kind, source.raw, rng.choice(seeds).raw)[:LARGEST]
    other_door = rng.random() < 0.05
    return Mutant(number, kind, source, raw, source.is_checkpoint != other_door, rng.random() < 0.3)


def _mutated(rng: random.Random, kind: str, raw: bytes, other: bytes) -> bytes:
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


# ---------------------------------------------------------------------------------------------------------------------------
# One mutant
# ---------------------------------------------------------------------------------------------------------------------------


class Verdict(NamedTuple):
    """What became of a mutant: ``outcome`` is one of OUTCOMES or, if a promise was broken, of BROKEN."""

    outcome: str
    text: str = ""
    load_seconds: float = 0.0


OUTCOMES = ("refused", "works", "works, but huge parameters overflow")
BROKEN = ("crash", "hang", "memory", "wrong exception", "wrong text", "does not work")


FEW_INPUTS = 5
ALL_ROWS = (np.arange(2**FEW_INPUTS)[:, None] >> np.arange(FEW_INPUTS) & 1).astype(np.uint8)


class Door:
    """A file in memory that mutants are written to and loaded from, and the limit on memory while they are."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("mutant")
        self.path = f"/proc/self/fd/{self.descriptor}"

    def check(self, mutant: Mutant) -> Verdict:
        """Load a mutant and use what comes out."""
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, mutant.raw, 0)
        limits = resource.getrlimit(resource.RLIMIT_AS)
        most = _address_space() + len(mutant.raw) + MARGIN
        begin = time.perf_counter()
        try:
            resource.setrlimit(resource.RLIMIT_AS, (most, limits[1]))
            try:
                loaded = self._load(mutant)
            finally:
                resource.setrlimit(resource.RLIMIT_AS, limits)
                seconds = time.perf_counter() - begin
        except made_fast.ModelFileError as error:
            text = str(error)
            good = text.startswith(f"{self.path}: ") and len(text) < LONGEST_TEXT
            return Verdict("refused" if good else "wrong text", f"{len(text)} characters: {text[:LONGEST_TEXT]}", seconds)
        except MemoryError:
            return Verdict("memory", traceback.format_exc(), seconds)
        except Exception:
            return Verdict("wrong exception", traceback.format_exc(), seconds)
        try:
            return Verdict(use(loaded, resumed=mutant.resume), "", seconds)
        except Exception:
            return Verdict("does not work", traceback.format_exc(), seconds)

    def _load(self, mutant: Mutant) -> Any:
        if mutant.resume:
            return made_fast.MADE.resume(self.path)
        return made_fast.load(self.path, mmap=mutant.mapped)


def use(loaded: Any, *, resumed: bool) -> str:
    """Score and sample a few rows, and go on with a resumed fit; return the outcome.

    Of few inputs all rows are scored: their probabilities add up to 1, or a degree or a dead weight is wrong.
    """
    model = loaded.model_ if resumed else loaded
    D = model.n_features_in
    X = ALL_ROWS[: 2**D, :D] if D <= FEW_INPUTS else np.repeat(np.array([[0], [1]], np.uint8), D, axis=1)
    log_p = model.score_samples(X, n_threads=1)
    rows = model.sample(2, 0, n_threads=1)
    assert log_p.shape == (len(X),)
    assert rows.shape == (2, D)
    assert ((rows == 0) | (rows == 1)).all()
    for member in _members(model):
        assert (np.sort(member.masks.orderings, axis=1) == np.arange(1, D + 1)).all()
    all_rows = len(X) == 2**D and 0 <= (model.binarize or 0) < 1  # a threshold beyond makes them all one
    good = np.isfinite(log_p).all() and (log_p <= 1e-6).all() and (not all_rows or abs(np.exp(log_p).sum() - 1) < 1e-4)
    assert good or _largest_parameter(model) > LARGEST_PARAMETER, log_p
    if resumed:  # a parameter that is none, or a loss that is none, may end it
        with contextlib.suppress(TypeError, ValueError, FloatingPointError):
            loaded.set_params(n_threads=1).partial_fit(X)
    return OUTCOMES[1] if good else OUTCOMES[2]


def _members(model: Any) -> Any:
    return getattr(model, "members", [model])


def _largest_parameter(model: Any) -> float:
    sources = [member.source for member in _members(model)]
    vectors = [source.theta if hasattr(source, "theta") else source.values for source in sources]
    return max(float(np.abs(values).max()) for values in vectors)


def _address_space() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * mmap.PAGESIZE


# ---------------------------------------------------------------------------------------------------------------------------
# Workers
# ---------------------------------------------------------------------------------------------------------------------------

NUMBER, BEGIN, LONGEST, LONGEST_NUMBER, LONGEST_LOAD, COUNTS = range(6)
STATE = COUNTS + len(CLASSES) * len(OUTCOMES)
"""What a worker tells while it works, int64 each, in a file that both have mapped: it outlives a crash."""


def worker(seed: int, numbers: range, folder: Path, name: str) -> None:
    """Check mutants; tell of the state in ``name.state``, and of what is to be looked at in lines of ``name.jsonl``."""
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    state = _mapped_state(folder / f"{name}.state")
    seeds, door, parent = make_seeds(), Door(), os.getppid()
    for _ in range(2):  # whatever is imported or allocated on first use
        for source in seeds:
            verdict = door.check(Mutant(-1, "", source, source.raw, source.is_checkpoint, False))
            assert verdict.outcome == "works", (source.name, verdict)
    with open(folder / f"{name}.jsonl", "a", buffering=1) as report:
        for number in numbers:
            state[NUMBER], state[BEGIN] = number, 0
            mutant = make_mutant(seeds, seed, number)
            state[BEGIN] = begin = time.monotonic_ns()
            verdict = door.check(mutant)
            spent = time.monotonic_ns() - begin
            state[BEGIN] = 0
            if spent > state[LONGEST]:
                state[LONGEST], state[LONGEST_NUMBER] = spent, number
            state[LONGEST_LOAD] = max(state[LONGEST_LOAD], int(verdict.load_seconds * 1e9))
            if verdict.outcome in OUTCOMES:
                state[COUNTS + CLASSES.index(mutant.kind) * len(OUTCOMES) + OUTCOMES.index(verdict.outcome)] += 1
            else:
                print(json.dumps({"number": number, "what": verdict.outcome, "text": verdict.text}), file=report)
            if spent > SECONDS * 1e9:
                print(json.dumps({"number": number, "what": "slow", "text": f"{spent / 1e9:.2f} s"}), file=report)
            if os.getppid() != parent:
                return


def _mapped_state(path: Path) -> NDArray[np.int64]:
    with open(path, "r+b") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 8 * STATE), np.int64)


FRUGAL = {"OMP_NUM_THREADS": "1", "MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}
"""What keeps the address space of a child small: glibc gives freed memory back, so that it hides no later allocation."""


class Worker:
    """A child that checks some of the mutants; after a crash or a hang the next child goes on behind the culprit."""

    def __init__(self, seed: int, numbers: range, folder: Path, name: str) -> None:
        self.seed, self.folder, self.name = seed, folder, name
        (folder / f"{name}.state").write_bytes(bytes(8 * STATE))
        self.state = _mapped_state(folder / f"{name}.state")
        self.start(numbers)

    def start(self, numbers: range) -> None:
        """Start a child on these mutants."""
        self.numbers = numbers
        self.state[NUMBER], self.state[BEGIN] = -1, 0
        words: tuple[Any, ...] = ("--worker", self.name, "--folder", self.folder, "--seed", self.seed, "--range")
        command = [sys.executable, __file__, *map(str, (*words, numbers.start, numbers.stop))]
        with open(self.folder / f"{self.name}.stderr", "wb") as stderr:
            self.process = subprocess.Popen(command, stderr=stderr, env={**os.environ, **FRUGAL})

    def poll(self) -> tuple[str, int, str] | None:
        """Return a crash or a hang (what, mutant, text), if there was one; whoever is left starts again behind it."""
        code, number, begin = self.process.poll(), int(self.state[NUMBER]), int(self.state[BEGIN])
        if code is None and begin and time.monotonic_ns() - begin > KILL_AFTER * 1e9:
            self.process.kill()
            self.process.wait()
            found = "slow", number, f"killed after {KILL_AFTER:.0f} s"
        elif code:
            stderr = (self.folder / f"{self.name}.stderr").read_text(errors="replace")
            if number < 0 or code > 0:
                raise RuntimeError(f"a worker failed, not in a mutant:\n{stderr}")
            found = "crash", number, f"signal {-code}\n{stderr}"
        else:
            return None
        self.start(range(number + 1, self.numbers.stop))
        return found

    @property
    def is_done(self) -> bool:
        """Say whether all mutants were checked."""
        return self.process.poll() == 0

    def lines(self) -> list[tuple[str, int, str]]:
        """Return what the children wrote down: (what, mutant, text)."""
        path = self.folder / f"{self.name}.jsonl"
        entries = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [(entry["what"], entry["number"], entry["text"]) for entry in entries]


@dataclass
class Result:
    """What became of a range of mutants."""

    seed: int
    n: int
    seconds: float
    cpu_seconds: float
    longest: float
    longest_number: int
    longest_load: float
    counts: NDArray[np.int64]
    broken: list[tuple[str, int, str]] = field(default_factory=list)
    not_repeated: list[int] = field(default_factory=list)


def run(n: int, folder: Path, *, seed: int = 0, first: int = 0, jobs: int = 1) -> Result:
    """Check mutants first .. first + n - 1; those that break a promise are kept in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    begin, cpu_begin = time.monotonic(), _cpu_of_children()
    share = -(-n // jobs)
    parts = [range(i, min(i + share, first + n)) for i in range(first, first + n, share)]
    with tempfile.TemporaryDirectory() as scratch:
        workers = [Worker(seed, part, Path(scratch), f"worker{j}") for j, part in enumerate(parts)]
        found = _watch(workers)
        states = np.stack([w.state.copy() for w in workers])
        hangs: dict[int, float] = {}
        for suspect in sorted({number for what, number, _ in found if what == "slow"}):
            hangs[suspect] = _alone(seed, suspect, Path(scratch))
            if sum(seconds > SECONDS for seconds in hangs.values()) == ENOUGH:
                break
    worst = states[np.argmax(states[:, LONGEST])]
    counts = states[:, COUNTS:].sum(axis=0).reshape(len(CLASSES), len(OUTCOMES))
    longest, number, load = worst[LONGEST] / 1e9, int(worst[LONGEST_NUMBER]), states[:, LONGEST_LOAD].max() / 1e9
    seconds, cpu_seconds = time.monotonic() - begin, _cpu_of_children() - cpu_begin
    result = Result(seed, n, seconds, cpu_seconds, longest, number, load, counts)
    result.broken = [entry for entry in found if entry[0] != "slow"]
    for number, seconds in hangs.items():
        if seconds > SECONDS:
            result.broken.append(("hang", number, f"{seconds:.2f} s alone, the best of {TRIES}"))
        else:
            result.not_repeated.append(number)
    if result.broken:
        seeds = make_seeds()
        for what, number, text in result.broken:
            stem = f"{what.replace(' ', '-')}-seed{seed}-{number}"
            (folder / f"{stem}.safetensors").write_bytes(make_mutant(seeds, seed, number).raw)
            (folder / f"{stem}.txt").write_text(text)
    return result


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _watch(workers: list[Worker]) -> list[tuple[str, int, str]]:
    """Wait until all are done; return what is to be looked at."""
    found = []
    try:
        while not all(w.is_done for w in workers):
            time.sleep(0.02)
            found += [event for w in workers if (event := w.poll())]
    finally:
        for w in workers:
            w.process.kill()
            w.process.wait()
    return found + [line for w in workers for line in w.lines()]


def _alone(seed: int, number: int, folder: Path) -> float:
    """Return the seconds that one mutant takes while nothing else of ours runs, the best of a few."""
    best = math.inf
    for i in range(TRIES):
        w = Worker(seed, range(number, number + 1), folder, f"alone{number}-{i}")
        killed = any(what == "slow" and "killed" in text for what, _, text in _watch([w]))
        best = min(best, math.inf if killed else w.state[LONGEST] / 1e9)
        if best <= SECONDS:
            break
    return best


# ---------------------------------------------------------------------------------------------------------------------------
# The command line
# ---------------------------------------------------------------------------------------------------------------------------


def describe(result: Result, folder: Path) -> str:
    """Return the figures, a line each."""
    rate = result.n / result.cpu_seconds
    lines = [f"mutants: {result.n:,} (seed {result.seed}) in {result.seconds:.1f} s, {rate:,.0f} a second of CPU"]
    for kind, row in zip(CLASSES, result.counts.tolist(), strict=True):
        lines.append(f"  {kind}: " + ", ".join(f"{count:,} {outcome}" for count, outcome in zip(row, OUTCOMES, strict=True)))
    kinds = [what for what, _, _ in result.broken]
    lines += [f"{what}: {kinds.count(what)}" for what in BROKEN]
    lines.append(
        f"longest: {result.longest:.3f} s (mutant {result.longest_number}), to load {result.longest_load:.3f} s; "
        f"over {SECONDS:g} s, but not when run alone: {result.not_repeated or 'none'}"
    )
    lines += [
        f"broken: {what}, --only {number}: {text.strip().splitlines()[-1][:300]}" for what, number, text in result.broken[:20]
    ]
    if result.broken:
        lines.append(f"{len(result.broken)} promises broken; files in {folder}")
    return "\n".join(lines)


def main() -> int:
    """Run from the command line; 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=20_000, help="mutants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--only", type=int, help="make this mutant alone, and load it in this process")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "made_fast-fuzz", help="where to keep culprits"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--range", type=int, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.seed, range(*args.range), args.folder, args.worker)
        return 0
    if args.only is not None:
        mutant = make_mutant(make_seeds(), args.seed, args.only)
        path = args.folder / f"mutant-seed{args.seed}-{args.only}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(mutant.raw)
        how = "MADE.resume" if mutant.resume else f"load, mmap={mutant.mapped}"
        print(
            f"mutant {args.only}: {mutant.kind} of {mutant.seed.name}, {len(mutant.raw)} bytes, {how}, kept as {path}",
            flush=True,
        )
        begin = time.perf_counter()
        verdict = Door().check(mutant)
        print(f"{verdict.outcome} in {time.perf_counter() - begin:.3f} s\n{verdict.text}")
        return verdict.outcome in BROKEN
    result = run(args.n, args.folder, seed=args.seed, first=args.first, jobs=args.jobs)
    print(describe(result, args.folder))
    return bool(result.broken)


if __name__ == "__main__":
    sys.exit(main())
