"""Files of tensors: what goes in comes out, in the format that the docs describe; what could not be read is not written."""

import hashlib
import os

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from model_files import encoded, forge, seal, split

from made_fast import ModelFileError
from made_fast.inference.tensorfile import read, write


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


@pytest.mark.parametrize("several", [False, True])
def test_the_file_is_as_the_docs_say(tmp_path, several):
    write(tmp_path / "file", *encoded(several=several))
    raw = (tmp_path / "file").read_bytes()
    header, data = split(raw)
    assert (len(raw) - len(data)) % 64 == 0
    assert next(iter(header)) == "__metadata__"
    assert list(header)[1:] == ["parameters", "ordering"]
    assert header["parameters"]["data_offsets"][0] == 0
    assert header["__metadata__"]["data_sha256"] == hashlib.sha256(data).hexdigest()
    assert forge(header, data) == seal(raw[8 : len(raw) - len(data)], data) == raw


def test_a_mapped_file_may_be_replaced(tmp_path):
    write(tmp_path / "file", {"a": np.ones(100_000, np.float32)}, {})
    old, _ = read(tmp_path / "file", mmap=True)
    write(tmp_path / "file", {"a": np.zeros(1, np.float32)}, {})
    assert (old["a"] == 1).all()
    assert read(tmp_path / "file", mmap=True)[0]["a"].shape == (1,)


def test_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        read(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ModelFileError, match="regular file"):
            read(path)


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
