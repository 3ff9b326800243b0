"""Untrusted files: a broken file is refused by name, in a short text, before memory is allocated for what it announces.

Mutated headers and tensors behind right checksums: ``tests/robustness/fuzz.py``.
"""

import contextlib
import hashlib
import os
import pickle

import numpy as np
import pytest
import safetensors.numpy
from helpers import peak, random_model
from model_files import compact, encoded, forge, refuse, seal, split, tensor

import made_fast
from made_fast import MixtureModel, ModelFileError
from made_fast.inference import tensorfile
from made_fast.inference.tensorfile import read, write


@pytest.fixture(params=["one mask", "several", "ensemble"])
def small(request, tmp_path):
    """Return the path of a model of two inputs."""
    path = tmp_path / "small.safetensors"
    if request.param == "ensemble":
        MixtureModel([random_model(2, (), seed=seed, dtype="float32") for seed in (0, 1)]).save(path)
    else:
        write(path, *encoded(several=request.param == "several"))
    return path


@pytest.mark.parametrize("mmap", [False, True])
def test_every_flipped_bit_is_refused(small, mmap):
    raw = small.read_bytes()
    assert len(raw) < 3000
    with open(small, "r+b", buffering=0) as file:
        for place, byte in enumerate(raw):
            for bit in range(8) if not mmap else [place % 8]:
                os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), place)
                with pytest.raises(ModelFileError):
                    read(small, mmap=mmap)
            os.pwrite(file.fileno(), bytes([byte]), place)
    made_fast.load(small, mmap=mmap)


@pytest.mark.parametrize("mmap", [False, True])
def test_every_truncation_is_refused(small, mmap):
    for length in reversed(range(small.stat().st_size)):
        os.truncate(small, length)
        with pytest.raises(ModelFileError):
            read(small, mmap=mmap)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        *((lambda raw, extra=extra: raw + extra, "header announces") for extra in (b"\0", b" " * 64, b"\0" * 4096)),
        (lambda raw: raw[: int.from_bytes(raw[:8], "little") + 7], "fit into the file's"),
        (lambda raw: (64).to_bytes(8, "little") + b"{}".ljust(64), "multiple of 64"),
        *(
            (lambda _, length=length: length.to_bytes(8, "little") + b" " * 2**21, "length of the header")
            for length in (0, 1, 2**20 + 56, 2**31, 2**63, 2**64 - 1)
        ),
    ],
)
def test_wrong_lengths_are_refused(small, change, match):
    refuse(small, change(small.read_bytes()), match)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"", "JSON"),
        (b"[]", "JSON object"),
        (b"null", "JSON object"),
        (b"[" * 100_000, "recursion"),
        (b'{"":' * 100_000, "recursion"),
        (b'{"a":"\xff"}', "codec"),
        (b'{"a":NaN}', "NaN, no finite"),
        (b'{"a":-Infinity}', "-Infinity, no finite"),
        (b'{"a":1e999}', "1e999, no finite"),
        (b'{"a":' + b"9" * 5000 + b"}", "strict JSON"),
        (b'{"a":"\\ud800"}', "surrogates"),
        (b'{"a":1,"b":{"c":1,"c":1}}', r"a name twice among \['c', 'c'\]"),
        (b'{"__metadata__":{},"__metadata__":{}}', "a name twice"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b"{} {}", "Extra data"),
        (b"{}\0", "Extra data"),
        (b"{}", "__metadata__"),
        (b'{"__metadata__":{"format":1}}', "__metadata__"),
        (b'{"__metadata__":[]}', "__metadata__"),
        (b'{"__metadata__":{}}', "must be 'made_fast', got ''"),
        (b'{"__metadata__":{"format":"pt"}}', "must be 'made_fast', got 'pt'"),
        (b'{"__metadata__":{"format":"made_fast"}}', "SHA-256"),
        (b'{"__metadata__":{"format":"made_fast","header_sha256" :"00"}}', "SHA-256"),
        (b'{"__metadata__":{"format":"made_fast","header_sha256":"0"},"header_sha256":"0"}', "must be that of the header"),
    ],
)
def test_headers_that_are_none_are_refused(small, text, match):
    refuse(small, seal(text), match)


def resealed(header, data):
    return seal(compact(header), data)


@pytest.mark.parametrize(
    ("make", "changes", "match"),
    [
        *(
            (forge, {"format_version": version}, "version of the format must be '1', got .*Update made_fast")
            for version in ("2", "10", "1.0", "", "x" * 10_000)
        ),
        *((resealed, {key: None}, None) for key in tensorfile.OWN_METADATA),
        (resealed, {"data_sha256": hashlib.sha256(b"").hexdigest()}, "must be that of the data"),
    ],
)
def test_wrong_metadata_are_refused(small, make, changes, match):
    header, data = split(small.read_bytes())
    metadata = header["__metadata__"] | changes
    refuse(small, make(header | {"__metadata__": {k: v for k, v in metadata.items() if v is not None}}, data), match)


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({"a": tensor("F32", [16], 0, 64), "b": tensor("U8", [64], 60, 124)}, "'b' must begin at byte 64.*an overlap"),
        ({"a": tensor("F32", [16], 0, 64), "b": tensor("F32", [16], 0, 64)}, "'b' must begin at byte 64.*an overlap"),
        ({"a": tensor("F32", [16], 0, 64), "b": tensor("U8", [60], 68, 128)}, "'b' must begin at byte 64.*a hole"),
        ({"a": tensor("F32", [31], 4, 128)}, "'a' must begin at byte 0.*a hole"),
        ({"a": tensor("F32", [31], 0, 124)}, "announces 124 bytes"),
        ({}, "announces 0 bytes"),
        ({"a": tensor("F32", [32], 0, 124)}, "must have 128 bytes"),
        ({"a": tensor("F32", [32], 128, 0)}, "must have 128 bytes"),
        ({"a": tensor("F32", [2**62, 4], 0, 0)}, "shape"),
        ({"a": tensor("F32", [2**62, 4], 0, 2**66)}, "shape"),
        ({"a": tensor("F32", [0, 2**62], 0, 0)}, "shape"),
        ({"a": tensor("F32", [0, 500, 500, 500], 0, 0)}, "shape"),
        ({"a": tensor("F32", [32, *[1] * 8], 0, 128)}, "shape"),
        ({"a": tensor("F32", [-32], 0, 128)}, "shape"),
        ({"a": tensor("F32", [-1, -32], 0, 128)}, "shape"),
        ({"a": tensor("F32", [True] * 5, 0, 4)}, "shape"),
        ({"a": tensor("F32", [32.0], 0, 128)}, "shape"),
        ({"a": tensor("F32", ["32"], 0, 128)}, "shape"),
        ({"a": tensor("F32", 32, 0, 128)}, "shape"),
        ({"a": tensor("F32", [10**4000], 0, 128)}, "shape"),
        ({"a": tensor("F32", [32], 0, 10**4000)}, "data_offsets"),
        ({"a": tensor("F32", [32], -128, 0)}, "data_offsets"),
        ({"a": tensor("F32", [32], 0, 2**63)}, "data_offsets"),
        ({"a": tensor("F32", [32], 0, 128.0)}, "data_offsets"),
        ({"a": tensor("F32", [32], False, 128)}, "data_offsets"),
        ({"a": {"dtype": "F32", "shape": [32], "data_offsets": [0, 64, 128]}}, "data_offsets"),
        ({"a": {"dtype": "F32", "shape": [32], "data_offsets": None}}, "data_offsets"),
        ({"a": tensor("BF16", [64], 0, 128)}, "dtype of tensor 'a' must be one of F32, F64"),
        ({"a": tensor("f32", [32], 0, 128)}, "dtype"),
        ({"a": tensor(["F32"], [32], 0, 128)}, "dtype"),
        ({"a": {"dtype": "F32", "shape": [32]}}, "must have dtype, shape and data_offsets"),
        ({"a": {**tensor("F32", [32], 0, 128), "stride": 1}}, "must have dtype, shape and data_offsets"),
        ({"a": [tensor("F32", [32], 0, 128)]}, "must have dtype, shape and data_offsets"),
        ({"x" * 9999: None}, "must have dtype, shape and data_offsets"),
        ({"a": tensor("U8", [2], 0, 2), "b": tensor("F32", [1], 2, 6)}, "multiple of 4"),
    ],
)
@pytest.mark.parametrize("mmap", [False, True])
def test_tensors_that_do_not_fit_are_refused(small, tensors, match, mmap):
    header = {"__metadata__": split(small.read_bytes())[0]["__metadata__"], **tensors}
    refuse(small, forge(header, b"\0" * 128), match, mmap)


MANY = 8 << 20
BIG = {
    "an ordering": lambda: {"parameters": np.zeros(MANY, np.float32), "ordering": np.arange(MANY, 0, -1, dtype=np.int32)},
    "an ordering that is none": lambda: {"parameters": np.zeros(MANY, np.float32), "ordering": np.ones(MANY, np.int32)},
    "degrees": lambda: {
        "parameters": np.zeros(MANY, np.float32),
        "ordering": np.arange(1, 3, dtype=np.int32),
        "degrees.0": np.ones(MANY, np.int32),
    },
    "masks": lambda: {"parameters": np.zeros(32, np.float32), "ordering": np.ones((2 * MANY, 1), np.int32)},
    "weights": lambda: {"weights": np.full(MANY, 1 / MANY)},
}


def test_what_a_file_announces_is_not_allocated(small):
    header = {"__metadata__": split(small.read_bytes())[0]["__metadata__"], "a": tensor("F64", [2**31], 0, 2**34)}
    raw = forge(header, b"")
    assert peak(lambda: refuse(small, raw)) < 1 << 20


@pytest.mark.parametrize("mostly", BIG)
def test_a_file_of_64_mb_takes_little_more_than_its_size(tmp_path, mostly):
    metadata = {"kind": "ensemble" if mostly == "weights" else "model", "activation": "relu", "hyper": "{}"}
    write(tmp_path / "big", BIG[mostly](), metadata)
    size = (tmp_path / "big").stat().st_size
    assert size >= 8 * MANY

    def load_or_refuse(mmap):
        with contextlib.suppress(ModelFileError):
            made_fast.load(tmp_path / "big", mmap=mmap)

    assert peak(lambda: load_or_refuse(False)) < size + (24 << 20)
    assert peak(lambda: load_or_refuse(True)) < 24 << 20


MOST_LISTS = tensorfile.MAX_VALUES // 2 - 2


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [' + "[]," * MOST_LISTS + "0]}",
        '{"a": [' + ",".join(["[" * 900 + "]" * 900] * (MOST_LISTS // 460)) + "]}",
        "{" + ",".join(f'"{i:05}":{i}.5' for i in range(tensorfile.MAX_VALUES - 2)) + "}",
        '{"a": "\\u0001' + "x" * (tensorfile.MAX_JSON - 30) + '\U0001f600"}',
    ],
    ids=["lists", "nested lists", "names", "one string"],
)
def test_the_largest_json_takes_no_64_mb(text):
    assert peak(lambda: tensorfile.json_object(text.encode(), "it", "x")) < 64 << 20
    assert isinstance(tensorfile.json_object(text.encode(), "it", "x"), dict)  # so it was not refused


@pytest.mark.parametrize(
    "text", ['{"a": "' + "x" * tensorfile.MAX_JSON + '"}', '{"a": [' + "0," * tensorfile.MAX_VALUES + "0]}", "[" * (1 << 20)]
)
def test_larger_json_is_refused_before_it_is_parsed(text):
    def parse():
        with pytest.raises(ModelFileError, match="it must be at most 4194304 bytes of JSON and 150000 values, got"):
            tensorfile.json_object(raw, "it", "x")

    raw = text.encode()
    assert peak(parse) < 1 << 20


@pytest.mark.parametrize("write_foreign", ["safetensors", "npz", "npy", "pickle", "text", "zeros", "empty", "png"])
def test_foreign_files_are_refused(tmp_path, write_foreign):
    path = tmp_path / "foreign"
    array = np.ones(100, np.float32)
    with open(path, "wb") as file:
        if write_foreign == "npz":
            np.savez(file, parameters=array)
        elif write_foreign == "npy":
            np.save(file, array)
        else:
            file.write(
                {
                    "safetensors": safetensors.numpy.save({"parameters": array}, {"format": "pt"}),
                    "pickle": pickle.dumps({"parameters": array}),
                    "text": b"0,1,0\n1,1,0\n" * 50,
                    "zeros": bytes(1000),
                    "empty": b"",
                    "png": b"\x89PNG\r\n\x1a\n" + bytes(100),
                }[write_foreign]
            )
    refuse(path, path.read_bytes(), "no made_fast model")
