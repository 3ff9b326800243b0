"""``load`` takes a path, the content of a file, or an open file; errors say which."""

import io
import json
import mmap
import os
import pathlib
import signal
import tempfile

import numpy as np
import pytest
from helpers import descriptors, raising, small

import made_fast
from made_fast import MADE, MADEEnsemble, ModelFileError, load

X = np.eye(9, dtype=np.uint8)


@pytest.fixture(params=["one", "mixture"])
def model(request):
    return (small() if request.param == "one" else MADEEnsemble(2, **small().get_params())).fit(X).model_


@pytest.fixture
def path(model, tmp_path):
    model.save(tmp_path / "model")
    return tmp_path / "model"


class Once(io.RawIOBase):
    """A stream that cannot seek and gives a little at a time, as a socket does."""

    def __init__(self, raw):
        self._rest = raw

    def readable(self):
        return True

    def readinto(self, out):
        part, self._rest = self._rest[: min(7, len(out))], self._rest[min(7, len(out)) :]
        out[: len(part)] = part
        return len(part)


SOURCES = {
    "str": str,
    "Path": pathlib.Path,
    "bytes": pathlib.Path.read_bytes,
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "memoryview in steps": lambda path: memoryview(bytes(b for byte in path.read_bytes() for b in (byte, 0)))[::2],
    "BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "file": lambda path: open(path, "rb"),  # noqa: SIM115
    "raw file": lambda path: open(path, "rb", buffering=0),  # noqa: SIM115
    "stream": lambda path: Once(path.read_bytes()),
    "buffered stream": lambda path: io.BufferedReader(Once(path.read_bytes())),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_a_model_comes_from_any_source(kind, model, path):
    source = SOURCES[kind](path)
    try:
        found = load(source)
    finally:
        if hasattr(source, "close"):
            source.close()
    assert (found.score_samples(X, n_threads=1) == model.score_samples(X, n_threads=1)).all()
    assert repr(found) == repr(model)


def test_a_file_is_read_from_where_it_stands_to_its_end(model, path):
    with tempfile.TemporaryFile() as file:
        file.write(b"in front" + path.read_bytes())
        file.seek(8)
        assert repr(load(file)) == repr(model)
        assert file.read() == b""
        file.seek(0)
        with pytest.raises(ModelFileError, match="length of the header"):
            load(file)
        file.seek(0, os.SEEK_END)
        file.write(b"behind")
        file.seek(8)
        with pytest.raises(ModelFileError, match="bytes of data, all the file's, none more"):
            load(file)


@pytest.mark.parametrize("flip", [0, 3, 40, -1])
def test_content_is_as_untrusted_as_a_file(path, flip):
    raw = bytearray(path.read_bytes())
    raw[flip] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ModelFileError) as by_path:
        load(path)
    with open(path, "rb") as file, pytest.raises(ModelFileError) as by_file:
        load(file)
    with pytest.raises(ModelFileError) as by_content:
        load(bytes(raw))
    assert str(by_file.value) == str(by_path.value)
    assert str(by_content.value) == str(by_path.value).replace(str(path), "bytes")
    for cut in (0, 4, 9, len(raw) // 2, len(raw) - 1):
        with pytest.raises(ModelFileError, match=r"^memoryview: .*\.$"):
            load(memoryview(raw)[:cut])


def test_errors_name_what_was_open(path):
    with open(path, "rb") as file:
        file.seek(3)
        with pytest.raises(ModelFileError, match=f"^{path}: "):
            load(file)
        with (
            open(file.fileno(), "rb", closefd=False) as same,
            pytest.raises(ModelFileError, match=r"^an open BufferedReader: "),
        ):
            load(same)
    with pytest.raises(ModelFileError, match=r"^an open BytesIO: "):
        load(io.BytesIO(b"nothing"))


@pytest.mark.parametrize(
    ("sources", "error", "match"),
    [
        ([b"model.safetensors", b"/no/such", b"", bytearray(b"model")], ModelFileError, r"os\.fsdecode"),
        ([None, 3, 3.0, [b"x"], np.zeros(9, np.uint8), MADE()], TypeError, "source must be a path"),
    ],
)
def test_other_sources_are_refused(sources, error, match):
    for source in sources:
        with pytest.raises(error, match=match):
            load(source)


@pytest.mark.parametrize("text", [io.StringIO("text"), "a file"])
def test_a_file_open_for_text_is_refused(text, tmp_path):
    (tmp_path / "text").write_text("text")
    with open(tmp_path / "text") as file, pytest.raises(TypeError, match="binary mode"):
        load(file if text == "a file" else text)


def test_a_map_needs_a_path(path):
    for source in (path.read_bytes(), io.BytesIO(path.read_bytes())):
        with pytest.raises(ValueError, match="mmap=True needs the path"):
            load(source, mmap=True)
    assert load(os.fspath(path), mmap=True).n_features_in == 9


def test_the_docs_say_how_to_replace_a_file_that_is_served():
    for word in ("rename", "in place", "cut short", "cp", "rsync"):
        assert word in made_fast.load.__doc__


@pytest.mark.parametrize("error", [TimeoutError, ValueError, KeyboardInterrupt])
def test_a_signal_while_a_file_is_read_is_raised_and_leaves_no_descriptor(path, monkeypatch, error):
    def handler(*_):
        raise error("time is up")  # a new one: it holds the frames, and so the files, that it went through

    def struck(call):
        def then(*args, **options):
            result = call(*args, **options)
            os.kill(os.getpid(), signal.SIGUSR1)
            return result

        return then

    before, old = descriptors(), signal.signal(signal.SIGUSR1, handler)
    try:
        for module, name in ((os, "stat"), (os, "fstat"), (mmap, "mmap")):
            monkeypatch.setattr(module, name, struck(getattr(module, name)))
            with pytest.raises(error, match=r"^time is up$"):
                load(path, mmap=True)
            monkeypatch.undo()
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert descriptors() == before


def test_a_time_limit_while_a_header_is_parsed_is_raised(path, monkeypatch):
    class TooSlowError(ValueError):
        pass

    monkeypatch.setattr(json, "loads", raising(TooSlowError))
    with pytest.raises(TooSlowError):
        load(path)
