"""Files of data and paths: a file is a table of bits or is refused by name, in one line on the command line.

Not here: options of methods (``test_options.py``), model files (``fuzz.py``). About ``--hypothesis-profile=long``:
``test_doors.py``.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from helpers import rows
from hypothesis import given
from hypothesis import strategies as st
from robustness.any_values import outcome, things
from robustness.doors import WIDTH, check_refusal, hold, small, world

from made_fast import MADE, load
from made_fast.cli import entry as cli
from made_fast.tables.reading import datasets


@pytest.mark.parametrize("door", ["load", "resume", "save", "save a mixture", "checkpoint"])
def test_a_path_is_one_or_is_refused_by_name(door, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, mixture, X = world()["MADEModel"], world()["MixtureModel"], rows(4, WIDTH)
    call, parameter = {
        "load": (load, "source"),
        "resume": (MADE.resume, "path"),
        "save": (model.save, "path"),
        "save a mixture": (mixture.save, "path"),
        "checkpoint": (lambda path: small().fit(X, checkpoint=path), "checkpoint"),
    }[door]
    before = model.score_samples(X).tobytes()

    taken = str | bytes | Path | (bytearray | memoryview | io.BytesIO if door == "load" else str)

    @given(thing=things)
    def holds(thing):
        path = thing()
        if isinstance(path, taken) or (path is None and door == "checkpoint"):
            with contextlib.suppress(OSError, ValueError):
                call(path)
        else:
            with pytest.raises(TypeError) as caught:
                call(path)
            check_refusal(caught.value, parameter)

    hold(holds, 60, door)
    assert model.score_samples(X).tobytes() == before


def _npy(X, version=(1, 0)):
    out = io.BytesIO()
    np.lib.format.write_array(out, X, version, allow_pickle=True)
    return out.getvalue()


def _npy_of(descr, order, shape, data=b"\0" * 64, version=b"\1\0"):
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    length = struct.pack("<H", len(header) + 1) if version[0] == 1 else struct.pack("<I", len(header) + 1)
    return b"\x93NUMPY" + version + length + header + b"\n" + data


def _zip(members, method=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", method) as file:
        warnings.simplefilter("ignore")  # of a name twice
        for name, content in members:
            file.writestr(zipfile.ZipInfo(name), content, method)  # of 1980, not of now
    return out.getvalue()


def _text(X, delimiter=","):
    return "".join(delimiter.join(map(str, row)) + "\n" for row in X.tolist()).encode()


def _libsvm(X):
    return b"".join(b"1 " + b" ".join(b"%d:1" % (j + 1) for j in np.flatnonzero(row)) + b"\n" for row in X)


DESCRS = [
    "'<u1'", "'|O'", "'<f8'", "'>f4'", "'|V8'", "'<U3'", "'<c16'", "'<M8[s]'", "[('a', '<f4')]", "1", "None", "'nonsense'",
    "''", "('<f4', (2,))", "[1, 2]", "'<f8,<f8'", "[('a', [('b', '<f4')])]", "{}", "'<i3'",
]  # fmt: skip
SHAPES = [
    "(4, 5)", "()", "(5,)", "(-1, 5)", "(2**40, 5)", "(1099511627776, 5)", "(4611686018427387904, 4)",
    "(9223372036854775808,)", "(0, 5)", "(4, 0)", "[4, 5]", "4", "'a'", "(4.0, 5)", "(True, 5)", "(None,)", "(4, 5",
    "(1,) * 70",
]  # fmt: skip
TOKENS = [
    b"nan", b"inf", b"-1", b"2", b"0.5", b"1e999", b"1_0", "\u0661".encode(), b"", b" ", b"\0", b'"1"', b"'0'", b"#", b"?",
    b"NA", b"0x1", b"1,0", b"1\n", b"\r", b"\xff", b"\xef\xbb\xbf", b"True", b"99999999999999999999", b"1:1", b"0:1",
    b"-5:1", b":", b"3:nan", b"2147483648:1", b"9223372036854775807:1", b"2:1 1:1", b"qid:3", b"1:1:1", b"(", b"[1]", b"e",
    b"+", b"1j",
]  # fmt: skip
SUFFIXES = [".npy", ".npz", ".npz", ".csv", ".data", ".amat", ".txt", ".libsvm", ".svm", ".csv.gz"]
MEMBERS = ["train.npy", "valid.npy", "test.npy", "a.npy", "n_features.npy", "train", "n_features", "x/train.npy"]
METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
WIDTHS = [_npy(np.array(n)) for n in (WIDTH, 0, -1, 2**62, 5.0)] + [_npy(np.ones(2, int)), b"5"]


def _changed(draw, raw):
    at = draw(st.integers(0, len(raw)))
    match draw(st.sampled_from(["cut", "drop", "flip", "token", "twice", "bytes"])):
        case "cut":
            return raw[:at]
        case "drop":
            return raw[:at] + raw[at + draw(st.integers(1, 9)) :]
        case "flip":
            return raw[:at] + bytes(b ^ 1 << draw(st.integers(0, 7)) for b in raw[at : at + 1]) + raw[at + 1 :]
        case "token":
            return raw[:at] + draw(st.sampled_from(TOKENS)) + raw[at + draw(st.integers(0, 1)) :]
        case "twice":
            return raw[:at] + raw
        case _:
            return raw[:at] + draw(st.binary(max_size=5)) + raw[at:]


@st.composite
def files(draw):
    """Draw a suffix and the bytes of a file: right ones, right ones with something changed, or a hostile header."""
    X = rows(draw(st.integers(1, 4)), WIDTH, draw(st.integers(0, 9)))
    suffix = draw(st.sampled_from(SUFFIXES))
    dressed = X.astype(draw(st.sampled_from(["u1", "?", "<f4", ">f8", "<i8", "O", "f2", "g", "c8", "U1"])))
    array = _npy(dressed, draw(st.sampled_from([(1, 0), (2, 0), (3, 0)])))
    if draw(st.integers(0, 3)) == 0:
        descr, shape = draw(st.sampled_from(DESCRS)), draw(st.sampled_from(SHAPES))
        order, version = draw(st.sampled_from(["False", "True", "3", "'x'"])), bytes([draw(st.sampled_from([1, 2, 3, 7])), 0])
        array = _npy_of(descr, order, shape, version=version)
    if suffix == ".npy":
        raw = array
    elif suffix == ".npz":
        width = draw(st.sampled_from([*WIDTHS, array]))
        names = draw(st.lists(st.sampled_from(MEMBERS), max_size=4))
        members = [(name, width if name.startswith("n_features") else array) for name in names]
        if draw(st.booleans()):
            members = [("train.npy", _npy(np.packbits(X, axis=1))), ("n_features.npy", width)]
        raw = _zip(members, draw(st.sampled_from(METHODS)))
    else:
        raw = _libsvm(X) if suffix in (".libsvm", ".svm") else _text(X, " " if suffix in (".amat", ".txt") else ",")
    for _ in range(draw(st.integers(0, 3))):
        raw = _changed(draw, raw)
    if suffix.endswith(".gz"):
        raw = gzip.compress(raw, 1, mtime=0)
        if draw(st.booleans()):
            raw = _changed(draw, raw)
    return suffix, raw


def _is_binary(table, missing):
    values = np.asarray(table.toarray() if sp.issparse(table) else table).astype(float)
    return bool((np.isin(values, (0, 1)) | (np.isnan(values) & missing)).all())


def test_a_file_of_data_is_a_table_of_bits_or_is_refused_by_name(tmp_path):
    @given(files(), st.booleans(), st.sampled_from([None, None, 0.5]), st.sampled_from([None, WIDTH]))
    def holds(file, missing, threshold, n_features):
        path = tmp_path / f"data{file[0]}"
        path.write_bytes(file[1])
        options = {"missing": missing, "threshold": threshold, "n_features": n_features}
        found, error = outcome(datasets.load, path, **options)
        if error is None:
            assert all(table is None or _is_binary(table, missing) for table in (found.train, found.valid, found.test))
        else:
            assert type(error) is ValueError
            assert str(path) in str(error)
            assert len(str(error).splitlines()) == 1

    hold(holds, 500)


def test_the_command_line_says_in_a_line_what_is_wrong_with_a_file(tmp_path):
    model = tmp_path / "model.safetensors"
    world()["MADEModel"].save(model)

    @given(file=files())
    def holds(file):
        path = tmp_path / f"data{file[0]}"
        path.write_bytes(file[1])
        out, error = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            code = cli.main(["evaluate", str(model), str(path), "--threads", "1"])
        assert code in (0, 2)
        if code == 2:
            assert error.getvalue().startswith("made-fast: error: ")
            assert error.getvalue().count("\n") == 1

    hold(holds, 60)
