"""Model files: what goes in comes out, whatever is broken is refused by name, and no crash costs the old file."""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import pickle
import re
import resource
import signal
import stat
import subprocess
import sys
import textwrap
import tracemalloc

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import made_fast
from made_fast import MADE, checkpoint, header, masks, modelfile, storage
from made_fast.header import ModelFileError
from made_fast.kernels import layout
from made_fast.kernels.records import Net
from made_fast.kernels.reference import dense
from made_fast.masks import DIRECT_CONNECTIONS, MaskRule, MaskSet
from made_fast.modelfile import Content, EnsembleContent, decode, decode_ensemble, encode, encode_ensemble
from made_fast.network import Architecture, Network, Shared
from made_fast.storage import read, write

HYPER = {"learning_rate": 1e-3, "hidden_sizes": [500], "note": "größer", "random_state": None, "nested": {"a": [True, 1]}}
SHAPES = [(1, ()), (1, (3,)), (2, ()), (2, (1,)), (5, (7, 3)), (65, (64, 65)), (130, (200,)), (9, (70, 1, 130, 4, 66))]


def make_model(
    n_inputs, hidden_sizes, dtype=np.float32, *, activation="relu", degrees="stratified", direct="none", hyper=HYPER
):
    """Return a model of one mask, every live entry of whose theta differs from 0."""
    rng = np.random.default_rng(n_inputs)
    architecture = Architecture(n_inputs, hidden_sizes, activation, direct)
    connectivity = masks.draw_connectivity(n_inputs, hidden_sizes, "random", degrees, rng)
    plan = architecture.layout(connectivity.staircase(direct))
    theta = layout.aligned_zeros(layout.n_parameters(plan), dtype)
    for l, row in enumerate(plan.layers):
        n_in, n_out = row[layout.N_IN], row[layout.N_OUT]
        bias = 1 + rng.random(n_out) if row[layout.DIRECT] >= 0 else np.zeros(n_out)
        dense.pack_layer(Net(theta, *plan), l, 1 + rng.random((n_in, n_out)), bias)
    return Content(Network(architecture, connectivity, theta), MaskSet.of([connectivity]), None, hyper)


def make_shared(n_inputs, hidden_sizes, dtype=np.float32, *, n_masks=3, direct="output", connectivity_weights=True, rule=True):
    """Return a model of several masks that share random parameters."""
    rng = np.random.default_rng(n_inputs)
    architecture = Architecture(n_inputs, hidden_sizes, "tanh", direct, connectivity_weights)
    base = masks.draw_connectivity(n_inputs, hidden_sizes, "random", "uniform", rng)
    drawing = MaskRule(base, "uniform", "both")
    values = layout.aligned_zeros(architecture.n_shared, dtype)
    values[:] = 1 + rng.random(len(values))
    return Content(Shared(architecture, values), drawing.mask_set(n_masks, rng), drawing if rule else None, HYPER)


def encoded(n_inputs=2, hidden_sizes=(), dtype=np.float32, *, several=False, **options):
    return encode((make_shared if several else make_model)(n_inputs, hidden_sizes, dtype, **options))


def load(path, **options):
    return decode(*read(path, **options), path)


@pytest.fixture(params=[False, True], ids=["one mask", "several"])
def small(request, tmp_path):
    """Return the path of a model of two inputs."""
    path = tmp_path / "small.safetensors"
    write(path, *encoded(several=request.param))
    return path


def split(raw):
    """Return the header, as JSON, and the data of a file."""
    end = 8 + int.from_bytes(raw[:8], "little")
    return json.loads(raw[8:end]), raw[end:]


def seal(text, data=b""):
    """Return the file of a header's JSON text, the checksum of the header put right by the rule in the docs of storage."""
    text = re.sub(rb'"header_sha256":"[^"]*"', b'"header_sha256":"' + b"0" * 64 + b'"', text)
    text += b" " * (-(8 + len(text)) % 64)
    head = len(text).to_bytes(8, "little") + text
    digest = hashlib.sha256(head).hexdigest().encode()
    return head.replace(b'"header_sha256":"' + b"0" * 64, b'"header_sha256":"' + digest) + data


def forge(header, data):
    """Return the file of a header and data, all checksums put right."""
    header["__metadata__"]["data_sha256"] = hashlib.sha256(data).hexdigest()
    return seal(compact(header), data)


def compact(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def refuse(path, raw, match=None, mmap=False):
    path.write_bytes(raw)
    with pytest.raises(ModelFileError, match=match) as caught:
        load(path, mmap=mmap)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).endswith(".")
    assert len(str(caught.value)) < 500


# ---------------------------------------------------------------------------------------------------------------------------
# Round trips
# ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n_inputs", "hidden_sizes"), SHAPES)
@pytest.mark.parametrize("direct", DIRECT_CONNECTIONS)
def test_a_model_comes_back_as_it_was(tmp_path, n_inputs, hidden_sizes, dtype, mmap, direct):
    model = make_model(n_inputs, hidden_sizes, dtype, activation="tanh", direct=direct)
    path = tmp_path / "model.safetensors"
    write(path, *encode(model))
    content = load(path, mmap=mmap)
    theta, connectivity = content.source.theta, content.source.connectivity
    assert theta.dtype == dtype
    np.testing.assert_array_equal(theta, model.source.theta)
    assert theta.ctypes.data % 64 == 0
    np.testing.assert_array_equal(connectivity.ordering, model.source.connectivity.ordering)
    assert connectivity.hidden_sizes == hidden_sizes
    for found, m in zip(connectivity.degrees, model.source.connectivity.degrees, strict=True):
        np.testing.assert_array_equal(found, m)
    assert len(content.masks) == 1
    assert content.source.architecture == model.source.architecture
    assert (content.rule, content.hyper) == (None, HYPER)
    for array in (theta, connectivity.ordering, *connectivity.degrees):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n_inputs", "hidden_sizes"), SHAPES)
@pytest.mark.parametrize(
    ("n_masks", "direct", "connectivity_weights", "rule"),
    [(1, "none", False, False), (5, "all", True, True), (2, "output", False, True)],
)
def test_a_model_of_several_masks_comes_back_as_it_was(
    tmp_path, n_inputs, hidden_sizes, dtype, mmap, n_masks, direct, connectivity_weights, rule
):
    options = {"n_masks": n_masks, "direct": direct, "connectivity_weights": connectivity_weights, "rule": rule}
    model = make_shared(n_inputs, hidden_sizes, dtype, **options)
    path = tmp_path / "model.safetensors"
    write(path, *encode(model))
    content = load(path, mmap=mmap)
    values = content.source.values
    assert values.dtype == dtype
    np.testing.assert_array_equal(values, model.source.values)
    assert values.ctypes.data % 64 == 0
    assert content.source.architecture == model.source.architecture
    assert len(content.masks) == n_masks
    arrays = [values, content.masks.orderings, *content.masks.degrees]
    for found, m in zip(arrays[1:], [model.masks.orderings, *model.masks.degrees], strict=True):
        np.testing.assert_array_equal(found, m, strict=True)
    assert (content.rule is not None) == rule
    if rule:
        assert (content.rule.degrees, content.rule.resample) == ("uniform", "both")
        np.testing.assert_array_equal(content.rule.base.ordering, model.rule.base.ordering)
    assert content.hyper == HYPER
    for array in arrays:
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_a_file_of_the_first_version_still_opens():
    """It had no word of direct connections or connectivity weights."""
    tensors, metadata = encoded(5, (7,))
    assert metadata.pop("direct") == "none"
    assert decode(tensors, metadata, "x").source.architecture == Architecture(5, (7,), "relu")


@pytest.mark.parametrize("several", [False, True])
def test_the_deepest_model_is_kept_and_a_deeper_one_refused(tmp_path, several):
    write(tmp_path / "deep", *encoded(3, (2,) * (layout.MAX_LAYERS - 1), several=several, direct="all"))
    assert len(load(tmp_path / "deep").masks.degrees) == layout.MAX_LAYERS - 1
    with pytest.raises(ModelFileError, match="up to 63 degrees"):
        encoded(3, (2,) * layout.MAX_LAYERS, several=several)


@pytest.mark.parametrize("mmap", [False, True])
def test_any_tensors_come_back(tmp_path, mmap):
    rng = np.random.default_rng(0)
    tensors = {
        "wide": rng.random((3, 0)),
        "F": np.asfortranarray(rng.random((4, 5))),
        "big-endian": rng.random(7).astype(">f8"),
        "strided": np.arange(40, dtype=np.int64)[::3],
        "scalar": np.array(3, np.int32),
        "bytes é": np.arange(5, dtype=np.uint8),
        "empty": np.zeros((2, 0, 3), np.uint8),
    }
    write(tmp_path / "file", tensors, {"a": "ü", "twin": '"header_sha256":"' + "0" * 64 + '"'})
    found, metadata = read(tmp_path / "file", mmap=mmap)
    assert metadata == {"a": "ü", "twin": '"header_sha256":"' + "0" * 64 + '"'}
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(found[name], array, strict=name != "big-endian")
    write(tmp_path / "file", *read(tmp_path / "file", mmap=mmap))  # over itself
    assert read(tmp_path / "file")[1] == metadata


def test_no_tensors_at_all(tmp_path):
    write(tmp_path / "file", {}, {})
    assert read(tmp_path / "file") == read(tmp_path / "file", mmap=True) == ({}, {})


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("several", [False, True])
def test_the_safetensors_package_opens_it(tmp_path, dtype, several):
    tensors, metadata = encoded(70, (130, 65), dtype, several=several)
    write(tmp_path / "model.safetensors", tensors, metadata)
    found = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
    with safetensors.safe_open(tmp_path / "model.safetensors", "np") as file:
        assert metadata.items() <= file.metadata().items()
        assert (file.metadata()["format"], file.metadata()["format_version"]) == ("made_fast", "1")


def test_the_file_is_as_the_docs_say(small):
    raw = small.read_bytes()
    header, data = split(raw)
    assert (len(raw) - len(data)) % 64 == 0
    assert next(iter(header)) == "__metadata__"
    assert list(header)[1:] == ["parameters", "ordering"]
    assert header["parameters"]["data_offsets"][0] == 0
    assert header["__metadata__"]["data_sha256"] == hashlib.sha256(data).hexdigest()
    assert forge(header, data) == seal(raw[8 : len(raw) - len(data)], data) == raw


# ---------------------------------------------------------------------------------------------------------------------------
# Broken files
# ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mmap", [False, True])
def test_every_flipped_bit_is_refused(small, mmap):
    raw = small.read_bytes()
    assert len(raw) < 1800
    with open(small, "r+b", buffering=0) as file:
        for place, byte in enumerate(raw):
            for bit in range(8) if not mmap else [place % 8]:
                os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), place)
                with pytest.raises(ModelFileError):
                    read(small, mmap=mmap)
            os.pwrite(file.fileno(), bytes([byte]), place)
    load(small, mmap=mmap)


@pytest.mark.parametrize("mmap", [False, True])
def test_every_truncation_is_refused(small, mmap):
    for length in reversed(range(small.stat().st_size)):
        os.truncate(small, length)
        with pytest.raises(ModelFileError):
            read(small, mmap=mmap)


@pytest.mark.parametrize("extra", [b"\0", b" " * 64, b"\0" * 4096])
def test_trailing_bytes_are_refused(small, extra):
    refuse(small, small.read_bytes() + extra, "header announces")


@pytest.mark.parametrize("length", [0, 1, 2**20 + 56, 2**31, 2**63, 2**64 - 1])
def test_header_lengths_out_of_bounds_are_refused(small, length):
    refuse(small, length.to_bytes(8, "little") + b" " * 2**21, "length of the header")


def test_a_header_longer_than_the_file_is_refused(small):
    raw = small.read_bytes()
    refuse(small, raw[: int.from_bytes(raw[:8], "little") + 7], "fit into the file's")


def test_a_header_off_its_boundary_is_refused(small):
    header, data = split(small.read_bytes())
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64)
    refuse(small, len(text).to_bytes(8, "little") + text + data, "multiple of 64")


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
    ],
)
def test_headers_that_are_none_are_refused(small, text, match):
    refuse(small, seal(text), match)


@pytest.mark.parametrize("version", ["2", "10", "1.0", "", "x" * 10_000])
def test_other_versions_are_refused(small, version):
    header, data = split(small.read_bytes())
    header["__metadata__"]["format_version"] = version
    refuse(small, forge(header, data), "version of the format must be '1', got .*Update made_fast")


@pytest.mark.parametrize("key", header.OWN_METADATA)
def test_missing_metadata_are_refused(small, key):
    header, data = split(small.read_bytes())
    del header["__metadata__"][key]
    refuse(small, seal(compact(header), data))


def test_a_wrong_checksum_of_the_data_is_refused(small):
    header, data = split(small.read_bytes())
    header["__metadata__"]["data_sha256"] = hashlib.sha256(b"").hexdigest()
    refuse(small, seal(compact(header), data), "must be that of the data")


def test_a_checksum_that_stands_twice_is_refused(small):
    text = b'{"__metadata__":{"format":"made_fast","header_sha256":"0"},"header_sha256":"0"}'
    refuse(small, seal(text), "must be that of the header")


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


def places_of(value, path=()):
    """Yield the path of every value inside a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places_of(inner, (*path, key))


def nested(depth, width):
    return [nested(depth - 1, width) if depth else "x" * 100] * width


@pytest.mark.parametrize("value", [nested(2, 6), {"x" * 99 * i: nested(1, 6) for i in range(9)}, ["x" * 999] * 9])
def test_whatever_was_found_the_text_is_short(small, value):
    raw = small.read_bytes()
    header, data = split(raw)
    for path in places_of(header):
        forged, _ = split(raw)
        inner = forged
        for key in path[:-1]:
            inner = inner[key]
        if path and path[-1] != "__metadata__":
            inner[path[-1]] = value
            refuse(small, seal(compact(forged), data))
    refuse(small, seal(compact([value])))
    refuse(small, seal(compact({"__metadata__": value})))


def test_every_part_of_the_header_replaced_is_refused(small):
    raw = small.read_bytes()
    header, data = split(raw)
    for path in places_of(header):
        for value in (None, True, -1, 0, 3, 2**62, 1.5, "x", "\0", [], [[]], {}, {"a": {}}):
            forged, _ = split(raw)
            inner = forged
            for key in path[:-1]:
                inner = inner[key]
            if path:
                inner[path[-1]] = value
            else:
                forged = value
            if seal(compact(forged), data) != raw:
                refuse(small, seal(compact(forged), data))


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
@pytest.mark.parametrize("several", [False, True])
def test_edited_headers_are_refused_or_read(tmp_path, several, data):
    """Behind a right checksum, any text leads to ModelFileError or to arrays, never to another exception."""
    tensors, metadata = encoded(3, (2,), several=several)
    raw = header.make_header(tensors, metadata, "0" * 64)
    rest = b"".join(array.tobytes() for array in tensors.values())
    text = raw[8:].rstrip().replace(b"0" * 64, hashlib.sha256(rest).hexdigest().encode())
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        length = data.draw(st.integers(0, 30))
        piece = data.draw(st.one_of(st.binary(max_size=4), st.sampled_from([b"0", b'"', b"{}", b",", b"1e9", b"-", b"null"])))
        text = text[:start] + piece + text[start + length :]
    (tmp_path / "edited").write_bytes(seal(text, rest))
    try:
        load(tmp_path / "edited")
    except ModelFileError as error:
        assert len(str(error)) < 500  # noqa: PT017


def test_what_a_file_announces_is_not_allocated(small):
    header = {"__metadata__": split(small.read_bytes())[0]["__metadata__"], "a": tensor("F64", [2**31], 0, 2**34)}
    small.write_bytes(forge(header, b""))
    tracemalloc.start()
    with pytest.raises(ModelFileError):
        read(small)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def peak_of(call):
    """Return the most memory that a call holds at once, refused or not."""
    tracemalloc.start()
    with contextlib.suppress(ModelFileError):
        call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


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


@pytest.mark.parametrize("mostly", BIG)
def test_a_file_of_64_mb_takes_little_more_than_its_size(tmp_path, mostly):
    metadata = {"kind": "ensemble" if mostly == "weights" else "model", "activation": "relu", "hyper": "{}"}
    write(tmp_path / "big", BIG[mostly](), metadata)
    size = (tmp_path / "big").stat().st_size
    assert size >= 8 * MANY
    assert peak_of(lambda: made_fast.load(tmp_path / "big")) < size + (24 << 20)
    assert peak_of(lambda: made_fast.load(tmp_path / "big", mmap=True)) < 24 << 20


MOST_LISTS = header.MAX_VALUES // 2 - 2


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [' + "[]," * MOST_LISTS + "0]}",
        '{"a": [' + ",".join(["[" * 900 + "]" * 900] * (MOST_LISTS // 460)) + "]}",
        "{" + ",".join(f'"{i:05}":{i}.5' for i in range(header.MAX_VALUES - 2)) + "}",
        '{"a": "\\u0001' + "x" * (header.MAX_JSON - 30) + '\U0001f600"}',
    ],
    ids=["lists", "nested lists", "names", "one string"],
)
def test_the_largest_json_takes_no_64_mb(text):
    assert peak_of(lambda: header.json_object(text.encode(), "it", "x")) < 64 << 20
    assert isinstance(header.json_object(text.encode(), "it", "x"), dict)  # so it was not refused


@pytest.mark.parametrize(
    "text", ['{"a": "' + "x" * header.MAX_JSON + '"}', '{"a": [' + "0," * header.MAX_VALUES + "0]}", "[" * (1 << 20)]
)
def test_larger_json_is_refused_before_it_is_parsed(text):
    def parse():
        with pytest.raises(ModelFileError, match="it must be at most 4194304 bytes of JSON and 150000 values, got"):
            header.json_object(raw, "it", "x")

    raw = text.encode()
    assert peak_of(parse) < 1 << 20


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


def test_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        read(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ModelFileError, match="regular file"):
            read(path)


# ---------------------------------------------------------------------------------------------------------------------------
# Files in order that are no model
# ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("several", [False, True])
def test_weights_that_are_not_finite_are_refused(tmp_path, dtype, value, mmap, several):
    tensors, metadata = encoded(5, (7,), dtype, several=several)
    write(tmp_path / "model", tensors, metadata)
    header, data = split((tmp_path / "model").read_bytes())
    theta = tensors["parameters"].copy()
    theta[0] = value
    refuse(tmp_path / "model", forge(header, theta.tobytes() + data[theta.nbytes :]), "'parameters' must be finite", mmap)
    before = (tmp_path / "model").read_bytes()
    with pytest.raises(ValueError, match="'parameters' must be finite"):
        write(tmp_path / "model", {**tensors, "parameters": theta}, metadata)
    assert (tmp_path / "model").read_bytes() == before


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("kind", "checkpoint", "kind of the file must be 'model', got 'checkpoint'"),
        ("activation", "identity", "one of relu, softplus"),
        ("activation", "gelu", "one of relu, softplus"),
        ("hyper", "", "hyper must be strict JSON"),
        ("hyper", "[]", "hyper must be a JSON object"),
        ("hyper", '{"a": NaN}', "hyper must be strict JSON"),
        ("hyper", '{"a": 1, "a": 1}', "hyper must be strict JSON"),
        ("hyper", "[" * 100_000, "hyper must be strict JSON"),
    ],
)
@pytest.mark.parametrize("several", [False, True])
def test_metadata_of_no_model_are_refused(key, value, match, several):
    tensors, metadata = encoded(4, (5,), several=several)
    with pytest.raises(ModelFileError, match=match):
        decode(tensors, {**metadata, key: value}, "x")
    del metadata[key]
    with pytest.raises(ModelFileError):
        decode(tensors, metadata, "x")


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("direct", "input", "direct must be one of none, output, all, got 'input'"),
        ("direct", "", "direct must be one of none, output, all, got ''"),
        ("direct", "none", "parameters, by ordering and degrees"),
        ("direct", "all", "parameters, by ordering and degrees"),
        ("connectivity_weights", "True", "connectivity weights must be one of false, true, got 'True'"),
        ("connectivity_weights", "false", "parameters, by ordering and degrees"),
        ("rule", "", "rule must be strict JSON"),
        ("rule", "[]", "rule must be a JSON object"),
        ("rule", "{}", "rule must be of degrees and resample"),
        ("rule", '{"degrees": "uniform"}', "rule must be of degrees and resample"),
        ("rule", '{"degrees": "uniform", "resample": "both", "n": "1"}', "rule must be of degrees and resample"),
        ("rule", '{"degrees": "uniform", "resample": ["both"]}', "rule must be of degrees and resample"),
        ("rule", '{"degrees": "uniform", "resample": null}', "rule must be of degrees and resample"),
        ("rule", '{"degrees": "even", "resample": "both"}', "degrees must be one of stratified, uniform"),
        ("rule", '{"degrees": "uniform", "resample": "some"}', "resample must be one of both, order, connectivity"),
        ("rule", '{"degrees": "uniform", "resample": "both", "resample": "both"}', "rule must be strict JSON"),
        ("rule", "[" * 100_000, "rule must be strict JSON"),
    ],
)
def test_metadata_of_no_model_of_several_masks_are_refused(key, value, match):
    tensors, metadata = encoded(4, (5, 6), several=True)
    with pytest.raises(ModelFileError, match=match):
        decode(tensors, {**metadata, key: value}, "x")


def test_connectivity_weights_of_one_packed_mask_are_refused():
    tensors, metadata = encoded(4, (5,))
    with pytest.raises(ModelFileError, match="connectivity weights need parameters that several masks may share"):
        decode(tensors, {**metadata, "connectivity_weights": "true"}, "x")


def changed(name, change, several=False):
    """Return the tensors of a model of 4 inputs and 5, 6 hidden units with one of them changed."""
    tensors, metadata = encoded(4, (5, 6), several=several)
    return {**tensors, name: change(tensors[name].copy())}, metadata


def put(place, value):
    def change(array):
        array[place] = value
        return array

    return change


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("ordering", put(0, 0), "each place 1..4 once"),
        ("ordering", put(slice(None), [1, 2, 3, 3]), "each place 1..4 once"),
        ("ordering", put(slice(None), [1, 2, 3, 5]), "each place 1..4 once"),
        ("ordering", put(0, -(2**31)), "each place 1..4 once"),
        ("degrees.0", put(2, 0), "degrees.0 must be in 1..3"),
        ("degrees.1", put(2, 4), "degrees.1 must be in 1..3"),
        ("degrees.1", put(2, 2**31 - 1), "degrees.1 must be in 1..3"),
        ("degrees.1", lambda m: m[:0], "degrees.1 must not be empty"),
        ("degrees.1", lambda m: m[None], "degrees.1 must be I32, a vector or K of them"),
        ("degrees.1", lambda m: m[0], "degrees.1 must be I32, a vector or K of them"),
        ("degrees.1", lambda m: m.astype(np.int64), "degrees.1 must be I32, a vector or K of them"),
        ("degrees.1", lambda m: np.tile(m, 1000), "nor longer than the"),
        ("degrees.1", lambda m: np.broadcast_to(np.int32(1), 2**31), "nor longer than the"),
        ("ordering", lambda m: m.astype(np.float32), "ordering must be I32, a vector or K of them"),
        ("ordering", lambda m: m[:0], "ordering must not be empty"),
        ("ordering", lambda m: m[None], "degrees.0 must be I32, a vector or K of them"),
        ("ordering", lambda m: m[None, None], "ordering must be I32, a vector or K of them"),
        ("ordering", lambda m: m[0], "ordering must be I32, a vector or K of them"),
        ("ordering", lambda m: np.arange(1, 66, dtype=np.int32), "parameters, by ordering and degrees"),
        ("parameters", lambda theta: theta[:-1], "parameters, by ordering and degrees"),
        ("parameters", lambda theta: theta[:-64], "parameters, by ordering and degrees"),
        ("parameters", lambda theta: np.append(theta, theta[:64]), "parameters, by ordering and degrees"),
        ("parameters", lambda theta: theta[None], "vector of F32 or F64"),
        ("parameters", lambda theta: theta.astype(np.int32), "vector of F32 or F64"),
        ("parameters", lambda theta: theta.astype(">f4"), "vector of F32 or F64"),
    ],
)
def test_tensors_of_no_model_are_refused(name, change, match):
    with pytest.raises(ModelFileError, match=match):
        decode(*changed(name, change), "x")


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("ordering", put((2, 0), 0), "each place 1..4 once"),
        ("ordering", put(2, [1, 2, 3, 3]), r"each place 1..4 once, got \[1, 2, 3, 3\]"),  # the wrong one, not the first
        ("ordering", put(1, [1, 2, 3, 5]), "each place 1..4 once"),
        ("ordering", put((0, 0), -(2**31)), "each place 1..4 once"),
        ("degrees.0", put((2, 2), 0), "degrees.0 must be in 1..3"),
        ("degrees.1", put((1, 2), 4), "degrees.1 must be in 1..3"),
        ("degrees.1", put((2, 5), 2**31 - 1), "degrees.1 must be in 1..3"),
        ("degrees.1", lambda m: m[:, :0], "degrees.1 must not be empty"),
        ("degrees.1", lambda m: m[0], "degrees.1 must be I32, a vector or K of them"),
        ("degrees.1", lambda m: m[:2], "degrees.1 must be I32, a vector or K of them"),
        ("degrees.1", lambda m: m[:0], "degrees.1 must be I32, a vector or K of them"),
        ("degrees.1", lambda m: np.tile(m, (2, 1)), "degrees.1 must be I32, a vector or K of them"),
        ("degrees.0", lambda m: m[None], "degrees.0 must be I32, a vector or K of them"),
        ("degrees.1", lambda m: m.astype(np.int64), "degrees.1 must be I32, a vector or K of them"),
        ("degrees.1", lambda m: np.tile(m, (1, 1000)), "nor longer than the"),
        ("degrees.1", lambda m: np.broadcast_to(np.int32(1), (3, 2**31)), "nor longer than the"),
        ("degrees.1", lambda m: m[:, :-1], "parameters, by ordering and degrees"),
        ("ordering", lambda m: m[0], "degrees.0 must be I32, a vector or K of them"),
        ("ordering", lambda m: m[:2], "degrees.0 must be I32, a vector or K of them"),
        ("ordering", lambda m: m[:0], "ordering must be I32, a vector or K of them"),
        ("ordering", lambda m: m.astype(np.float32), "ordering must be I32, a vector or K of them"),
        ("ordering", lambda m: np.tile(np.arange(1, 66, dtype=np.int32), (3, 1)), "parameters, by ordering and degrees"),
        ("parameters", lambda values: values[:-1], "parameters, by ordering and degrees"),
        ("parameters", lambda values: np.append(values, values[:16]), "parameters, by ordering and degrees"),
        ("parameters", lambda values: values[None], "vector of F32 or F64"),
        ("parameters", lambda values: values.astype(np.int32), "vector of F32 or F64"),
        ("parameters", lambda values: values.astype(">f4"), "vector of F32 or F64"),
    ],
)
def test_tensors_of_no_model_of_several_masks_are_refused(name, change, match):
    with pytest.raises(ModelFileError, match=match):
        decode(*changed(name, change, several=True), "x")


@pytest.mark.parametrize("several", [False, True])
def test_units_are_bounded_by_the_parameters(monkeypatch, several):
    """A model of 4 + 5 + 6 units, counted once even if there are several masks."""
    tensors, metadata = encoded(4, (5, 6), several=several)
    free = 15 - len(tensors["parameters"]) // modelfile.PARAMETERS_PER_UNIT
    monkeypatch.setattr(modelfile, "FREE_UNITS", free)
    decode(tensors, metadata, "x")
    monkeypatch.setattr(modelfile, "FREE_UNITS", free - 1)
    with pytest.raises(ModelFileError, match="must not have more than 14 inputs and hidden units, got 15"):
        decode(tensors, metadata, "x")


def test_units_of_all_members_are_bounded_by_their_parameters(monkeypatch):
    """Two of 11 units each, either of which would pass alone."""
    tensors, metadata = encode_ensemble(EnsembleContent([make_shared(4, (7,))] * 2, np.array([0.5, 0.5]), {}))
    free = 22 - 2 * len(tensors["member.0.parameters"]) // modelfile.PARAMETERS_PER_UNIT
    monkeypatch.setattr(modelfile, "FREE_UNITS", free)
    decode_ensemble(tensors, metadata, "x")
    monkeypatch.setattr(modelfile, "FREE_UNITS", free - 1)
    with pytest.raises(ModelFileError, match="x: 896 parameters must not have more than 21 inputs and hidden units, got 22"):
        decode_ensemble(tensors, metadata, "x")


@pytest.mark.parametrize("k", range(7))
def test_a_wrong_ordering_is_found_wherever_it_is(monkeypatch, k):
    monkeypatch.setattr(modelfile, "CHUNK", 9)  # so two at a time
    tensors, metadata = encoded(4, (5,), several=True, n_masks=7)
    decode(tensors, metadata, "x")
    orderings = tensors["ordering"].copy()
    orderings[k] = [4, 3, 2, 2]
    with pytest.raises(ModelFileError, match=r"each place 1..4 once, got \[4, 3, 2, 2\]"):
        decode({**tensors, "ordering": orderings}, metadata, "x")


def test_a_model_is_no_ensemble():
    with pytest.raises(ModelFileError, match="kind of the file must be 'ensemble', got 'model'"):
        decode_ensemble(*encoded(), "x")


def test_the_best_parameters_of_a_checkpoint_are_of_the_type_of_the_others(tmp_path):
    X = np.eye(4, dtype=np.uint8)
    MADE(hidden_sizes=(3,), max_epochs=1).fit(X, X_val=X, checkpoint=tmp_path / "checkpoint")
    tensors, metadata = read(tmp_path / "checkpoint")
    best = tensors["best"].astype(np.float64)
    text = tensors.pop("text")
    first = {name: tensors.pop(name) for name in ("parameters", "state")}
    write(tmp_path / "checkpoint", {**first, **tensors, "best": best, "text": text}, metadata)
    with pytest.raises(ModelFileError, match="best parameters must be"):
        checkpoint.read(tmp_path / "checkpoint")


def test_an_empty_mask_set_is_refused():
    tensors, metadata = encoded(4, (5, 6), several=True)
    with pytest.raises(ModelFileError, match="ordering must be I32, a vector or K of them"):
        decode({name: v if name == "parameters" else v[:0] for name, v in tensors.items()}, metadata, "x")


@pytest.mark.parametrize("several", [False, True])
def test_other_tensors_are_refused(several):
    tensors, metadata = encoded(4, (5, 6), several=several)
    one = tensors["ordering"]
    reordered = {name: tensors[name] for name in ("ordering", "parameters", "degrees.0", "degrees.1")}
    without = {name: tensors[name] for name in ("parameters", "ordering", "degrees.1")}
    for wrong in ({}, {"parameters": one}, {**tensors, "extra": one}, {**tensors, "degrees.3": one}, without, reordered):
        with pytest.raises(ModelFileError, match="tensors must be parameters, ordering"):
            decode(wrong, metadata, "x")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n_inputs", "hidden_sizes"), [*SHAPES[:5], (70, (65,))])
@pytest.mark.parametrize("direct", DIRECT_CONNECTIONS)
def test_every_dead_entry_must_be_zero(n_inputs, hidden_sizes, dtype, direct):
    """The entries that may differ from 0 are exactly those that the dense weights, masked, are packed into."""
    model = make_model(n_inputs, hidden_sizes, dtype, degrees="uniform", direct=direct)
    theta = model.source.theta
    tensors, metadata = encode(model)
    dead = np.flatnonzero(theta == 0)
    assert len(dead)
    for place in dead if len(dead) < 500 else np.random.default_rng(0).choice(dead, 500, replace=False):
        theta[place] = 1e-30
        with pytest.raises(ModelFileError, match="dead weights and fill-up units must be 0"):
            decode(tensors, metadata, "x")
        theta[place] = 0
    decode(tensors, metadata, "x")


@pytest.mark.parametrize("hyper", [{"a": np.nan}, {"a": np.inf}, {1: 1, "1": 2}])
def test_hyper_parameters_that_are_no_json_are_not_encoded(hyper):
    with pytest.raises(ValueError, match="JSON"):
        encode(make_model(3, (2,), hyper=hyper))
    with pytest.raises(ValueError, match="JSON"):
        encode(make_shared(3, (2,))._replace(hyper=hyper))


# ---------------------------------------------------------------------------------------------------------------------------
# Durable writes
# ---------------------------------------------------------------------------------------------------------------------------


def content(n):
    return {"a": np.full(100_000, n, np.float32)}, {"n": str(n)}


def fail(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("what", "existing"),
    [("os.fchmod", True), *itertools.product(["os.fsync", "os.replace", "write", "interrupt"], [True, False])],
)
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, what, existing):
    path = tmp_path / "model"
    if existing:
        write(path, *content(1))
    if what == "interrupt":
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    elif what == "write":
        old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))
    else:
        monkeypatch.setattr(what, fail)
    try:
        with pytest.raises(KeyboardInterrupt if what == "interrupt" else OSError):
            write(path, *content(2))
    finally:
        monkeypatch.undo()
        if what == "write":
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
            signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(tmp_path) == ["model"] * existing
    if existing:
        assert read(path)[1] == {"n": "1"}
    write(path, *content(3))
    assert read(path)[1] == {"n": "3"}


@pytest.mark.parametrize("number", [errno.EIO, errno.EINVAL])
def test_the_folder_is_fsynced_last(tmp_path, monkeypatch, number):
    synced = []

    def fsync(descriptor):
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        if synced[-1]:
            assert os.listdir(tmp_path) == ["model"]
            raise OSError(number, "no")

    monkeypatch.setattr(os, "fsync", fsync)
    if number == errno.EIO:
        with pytest.raises(OSError, match="no"):
            write(tmp_path / "model", *content(1))
    else:  # such a file system cannot do better
        write(tmp_path / "model", *content(1))
    assert synced == [False, True]
    assert read(tmp_path / "model")[1] == {"n": "1"}


def test_a_large_file_is_fsynced_in_pieces(tmp_path, monkeypatch):
    """Between two of which Ctrl-C is answered."""
    monkeypatch.setattr(storage, "PIECE", 10_000)
    sizes, fsync = [0], os.fsync

    def watched(descriptor):
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            sizes.append(os.fstat(descriptor).st_size)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    tensors = {"large": np.arange(20_000.0), "none": np.zeros((0, 3)), "scalar": np.float64(3), "small": np.arange(2_001.0)}
    write(tmp_path / "model", tensors, {})
    assert sizes[-1] == (tmp_path / "model").stat().st_size
    assert max(np.diff(sizes)) < 2 * 10_000
    found = read(tmp_path / "model")[0]
    assert all((found[name] == tensor).all() for name, tensor in tensors.items())


def test_the_leftover_of_a_killed_writer_goes_with_the_next_write(tmp_path):
    write(tmp_path / "model", *content(1))
    code = """
        import os, signal, sys
        import numpy as np
        from made_fast import storage
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        storage.write(sys.argv[1], {"a": np.ones(1000, np.float32)}, {})
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), tmp_path / "model"], check=False)
    assert done.returncode == -9
    assert len(os.listdir(tmp_path)) == 2
    assert read(tmp_path / "model")[1] == {"n": "1"}
    write(tmp_path / "other", *content(1))
    assert len(os.listdir(tmp_path)) == 3  # another name's leftovers are not its business
    write(tmp_path / "model", *content(2))
    assert sorted(os.listdir(tmp_path)) == ["model", "other"]


def test_writers_at_work_are_left_alone(tmp_path, monkeypatch):
    replace = os.replace

    def write_meanwhile(source, target):
        monkeypatch.setattr(os, "replace", replace)
        assert len(os.listdir(tmp_path)) == 1
        write(target, *content(2))
        replace(source, target)

    monkeypatch.setattr(os, "replace", write_meanwhile)
    write(tmp_path / "model", *content(1))
    assert os.listdir(tmp_path) == ["model"]
    assert read(tmp_path / "model")[1] == {"n": "1"}  # who comes last


@pytest.mark.parametrize("moment", ["holds the lock", "has removed it"])
def test_a_temporary_file_that_someone_clears_up_before_its_lock_is_given_up(tmp_path, monkeypatch, moment):
    flock = storage.fcntl.flock

    def clear_up_first(descriptor, how):
        monkeypatch.setattr(storage.fcntl, "flock", flock)
        if moment == "holds the lock":
            raise BlockingIOError
        (temporary,) = tmp_path.iterdir()
        temporary.unlink()
        flock(descriptor, how)

    monkeypatch.setattr(storage.fcntl, "flock", clear_up_first)
    write(tmp_path / "model", *content(1))
    assert len(os.listdir(tmp_path)) == (2 if moment == "holds the lock" else 1)
    assert read(tmp_path / "model")[1] == {"n": "1"}
    write(tmp_path / "model", *content(2))
    assert os.listdir(tmp_path) == ["model"]


def test_an_interrupt_while_the_temporary_file_is_locked_leaves_nothing(tmp_path, monkeypatch):
    write(tmp_path / "model", *content(1))
    monkeypatch.setattr(storage.fcntl, "flock", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "model", *content(2))
    assert os.listdir(tmp_path) == ["model"]
    assert read(tmp_path / "model")[1] == {"n": "1"}


def test_file_systems_without_locks_will_do(tmp_path, monkeypatch):
    monkeypatch.setattr(storage.fcntl, "flock", fail)
    write(tmp_path / "model", *content(1))
    assert read(tmp_path / "model")[1] == {"n": "1"}


def test_permissions(tmp_path):
    path = tmp_path / "model"
    old = os.umask(0o027)
    try:
        write(path, *content(1))
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        for mode in (0o600, 0o664, 0o444):
            path.chmod(mode)
            write(path, *content(2))
            assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        os.umask(old)


def test_a_link_is_followed_and_other_things_are_kept(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder/model")
    write(tmp_path / "link", *content(1))
    assert (tmp_path / "link").is_symlink()
    assert read(tmp_path / "folder/model")[1] == {"n": "1"}
    os.mkfifo(tmp_path / "pipe")
    for there in (tmp_path / "pipe", tmp_path / "folder"):
        with pytest.raises(FileExistsError, match="choose another path"):
            write(there, *content(1))
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "none" / "model", *content(1))
    monkeypatch.chdir(tmp_path)
    write("m" * 255, *content(1))
    assert read("m" * 255)[1] == {"n": "1"}


def test_a_mapped_file_may_be_replaced(tmp_path):
    write(tmp_path / "model", *content(1))
    old, _ = read(tmp_path / "model", mmap=True)
    write(tmp_path / "model", {"a": np.zeros(1, np.float32)}, {})
    np.testing.assert_array_equal(old["a"], content(1)[0]["a"])
    assert read(tmp_path / "model", mmap=True)[0]["a"].shape == (1,)


@pytest.mark.parametrize(
    ("tensors", "metadata", "match"),
    [
        ({"a": np.zeros(3, complex)}, {}, "must have one of the dtypes F32, .* got complex128"),
        ({"a": np.array(["x"])}, {}, "must have one of the dtypes"),
        ({"a": np.array([None])}, {}, "must have one of the dtypes"),
        ({"a": np.zeros(3, np.uint8), "b": np.zeros(3)}, {}, "multiple of 8 bytes, got 3. Put wider dtypes first"),
        ({"a": np.zeros([1] * 9)}, {}, "up to 8 counts"),
        ({"__metadata__": np.zeros(3)}, {}, "__metadata__"),
        ({}, {"format": "x"}, "format_version"),
        ({}, {"a": "x" * 2**20}, "length of the header"),
        ({}, {"a": "\ud800"}, "surrogates"),
        ({}, {"a": 1}, "an object of strings"),
    ],
)
def test_what_could_not_be_read_is_not_written(tmp_path, tensors, metadata, match):
    with pytest.raises(ValueError, match=match):
        write(tmp_path / "model", tensors, metadata)
    assert os.listdir(tmp_path) == []
