"""Data files become 0/1 matrices, or one clear error. Damaged files of all kinds: ``tests/robustness/test_data_files.py``."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import dense, raising, rows

from made_fast.tables.reading import datasets

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
TEXT = {".csv": ",", ".data": ",", ".tsv": "\t", ".amat": " ", ".txt": " "}


def text(X, delimiter):
    return "".join(delimiter.join(map(str, row)) + "\n" for row in X.tolist())


def libsvm(X):
    return "".join("+1 " + " ".join(f"{d + 1}:{value:g}" for d, value in enumerate(row) if value) + "\n" for row in X)


def write(path, X):
    """Write X to ``path`` in the format that its suffix says."""
    suffix = path.suffix
    if suffix == ".npy":
        np.save(path, X)
    elif suffix == ".npz":
        np.savez_compressed(path, train=X)
    elif suffix == ".parquet":
        pytest.importorskip("pyarrow")
        pd.DataFrame(X, columns=[f"x{d}" for d in range(X.shape[1])]).to_parquet(path)
    elif suffix in TEXT:
        path.write_text(text(X, TEXT[suffix]))
    else:
        path.write_text(libsvm(X))
    return path


# What is read


def test_digits():
    from sklearn.datasets import load_digits

    digits, again = datasets.load("digits"), datasets.load("digits")
    assert digits.name == "digits"
    assert digits.shape == (8, 8)
    assert [len(X) for X in (digits.train, digits.valid, digits.test)] == [1297, 250, 250]
    assert (digits.test == again.test).all()
    found_rows = np.concatenate([digits.train, digits.valid, digits.test])
    assert found_rows.dtype == np.uint8
    assert sorted(map(bytes, found_rows)) == sorted(map(bytes, (load_digits().data > 7).astype(np.uint8)))
    assert datasets.load("digits", threshold=0.5).train.mean() > digits.train.mean()


@pytest.mark.parametrize("D", [16, 5])
@pytest.mark.parametrize("suffix", [*datasets.FORMATS, *(f"{suffix}.gz" for suffix in (*TEXT, ".libsvm"))])
def test_every_format_gives_back_the_matrix(tmp_path, suffix, D):
    X = rows(30, D)
    X[0, -1] = 1
    path = write(tmp_path / f"small{suffix.removesuffix('.gz')}", X)
    if suffix.endswith(".gz"):
        (tmp_path / f"small{suffix}").write_bytes(gzip.compress(path.read_bytes()))
    found = datasets.load(str(tmp_path / f"small{suffix}"))
    assert (found.name, found.valid, found.test) == ("small", None, None)
    assert (dense(found.train) == X).all()
    assert found.shape == ((4, 4) if D == 16 else None)


@pytest.mark.parametrize("D", [1, 7, 8, 9, 20])
def test_packed_npz(tmp_path, D):
    parts = {"train": rows(9, D), "valid": rows(0, D), "test": rows(4, D)}
    np.savez(tmp_path / "p.npz", n_features=D, **{name: np.packbits(X, axis=1) for name, X in parts.items()})
    found = datasets.load(tmp_path / "p.npz")
    assert found.valid is None
    assert all((getattr(found, name) == parts[name]).all() for name in ("train", "test"))


def test_one_array_is_enough_and_npy_stays_on_disk(tmp_path):
    np.savez(tmp_path / "one.npz", pictures=rows(9, 4))
    assert (datasets.load(tmp_path / "one.npz").train == rows(9, 4)).all()
    train = datasets.load(write(tmp_path / "X.npy", rows(9, 4))).train
    assert isinstance(train, np.memmap) or isinstance(train.base, np.memmap)
    assert not train.flags.writeable


@pytest.mark.parametrize("suffix", datasets.FORMATS)
def test_threshold(tmp_path, suffix):
    X = np.random.default_rng(0).integers(0, 256, (20, 6))
    if suffix == ".npz":
        np.savez(tmp_path / "grey.npz", X)
    else:
        write(tmp_path / f"grey{suffix}", X)
    with pytest.raises(ValueError, match=rf"grey{suffix} must hold only 0 and 1, got .* at row 0, column 0 .*threshold"):
        datasets.load(tmp_path / f"grey{suffix}")
    found = datasets.load(tmp_path / f"grey{suffix}", threshold=127)
    assert found.train.dtype == np.uint8
    assert (found.train == (X > 127)).all()


def test_libsvm_of_a_known_width(tmp_path):
    path = tmp_path / "a.svm"
    path.write_text("+1 1:1 3:1\n-1 2:1\n1\n")
    assert datasets.load(path).train.toarray().tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert datasets.load(path, n_features=5, index_base=1).train.shape == (3, 5)
    with pytest.raises(ValueError, match=r"a\.svm cannot be read: .*A \.svm file must hold lines of the form"):
        datasets.load(path, n_features=2)


@pytest.mark.parametrize("name", ["adult", "dna_made", "binarized_mnist"])
def test_real_sets(real_set, name):
    want, found = real_set(name), datasets.load(SHARED / f"{name}.npz")
    for split in ("train", "valid", "test"):
        assert (getattr(found, split) == want[split]).all()
    assert found.shape == ((28, 28) if name == "binarized_mnist" else None)


# What is refused

NPZ = {"train": rows(4, 9), "valid": rows(2, 9)}

WRONG = {
    "notes.doc": ("x", r"notes\.doc must be a file whose name ends in one of \.npz, "),
    "noname": ("x", "noname must be a file whose name ends"),
    "z.npy.gz": ("x", "text also with .gz"),
    "ragged.csv": ("0,1\n1\n", r"ragged\.csv cannot be read: .*columns changed from 2 to 1.*separated by commas"),
    "blanks.csv": ("x y\n0 1\n1 0\n", "blanks.csv cannot be read: .*could not convert.*separated by commas"),
    "commas.txt": ("0,1\n1,0\n", "commas.txt cannot be read: .*separated by blanks"),
    "half.csv": ("0,1\n0,0.5\n", r"half\.csv must hold only 0 and 1, got 0\.5 at row 1, column 1 .*Set a threshold"),
    "gap.csv": ("0,1\n0,nan\n", "gap.csv must hold only 0 and 1, got NaN at row 1, column 1 .*missing entries"),
    "hole.csv": ("0,1\n0,\n", "hole.csv must hold only 0 and 1, got NaN at row 1, column 1 .*missing entries"),
    "empty.csv": ("", "empty.csv cannot be read: .*no data"),
    "empty.libsvm": ("", "empty.libsvm must have training rows, got no rows at all"),
    "bytes.csv": (b"\xff\xfe\x00\x01", "bytes.csv cannot be read"),
    "twice.svm": ("1 2:1 2:1\n", "twice.svm cannot be read: .*sorted and unique.*rising indices"),
    "nolabel.svm": ("1:1 3:1\n", "nolabel.svm cannot be read: .*label index:1"),
    "huge.svm": ("1 99999999999999:1\n", "huge.svm cannot be read"),
    "two.svm": ("1 1:1 4:2\n", "two.svm must hold only 0 and 1, got 2.0 at row 0, column 3"),
    "foreign.npy": (b"hello world, this is text", "foreign.npy cannot be read"),
    "foreign.npz": (b"hello world, this is text", "foreign.npz cannot be read"),
    "empty.npz": (b"", "empty.npz cannot be read"),
    "plain.csv.gz": ("0,1\n", "plain.csv.gz cannot be read"),
    "cut.csv.gz": (gzip.compress(b"0,1\n" * 1000)[:-9], "cut.csv.gz cannot be read"),
    "text.npy": (np.array([["a", "b"]]), "text.npy must hold numbers, got dtype <U1"),
    "flat.npy": (np.zeros(3), r"flat\.npy must have shape \(rows, features\), got \(3,\)"),
    "none.npy": (np.zeros((0, 3)), "none.npy "),
    "object.npy": (np.array([[None]]), "object.npy cannot be read"),
    "two.npz": ({"a": rows(2, 3), "b": rows(2, 3)}, "two.npz cannot be read: it holds a, b. A .npz file must hold arrays"),
    "nothing.npz": ({}, "nothing.npz cannot be read: it holds nothing"),
    "widths.npz": ({"train": rows(4, 9), "test": rows(2, 8)}, r"test of .*widths\.npz must have 9 columns, got 8"),
    "grey.npz": ({"train": rows(4, 9), "test": 3 * rows(2, 9)}, "test of .*grey.npz must hold only 0 and 1, got 3"),
    "notrain.npz": ({"train": rows(0, 9), "test": rows(2, 9)}, "notrain.npz must have training rows, got only test"),
    "valid.npz": ({"valid": rows(2, 9), "test": rows(2, 9)}, "valid.npz must have training rows, got only valid, test"),
    "object.npz": ({"train": np.array([[None]])}, "object.npz cannot be read: Object arrays cannot be loaded"),
    "unpacked.npz": (NPZ | {"n_features": 9}, r"n_features = 9, train must be packed bits of shape \(rows, 2\)"),
    "zero.npz": (NPZ | {"n_features": 0}, "zero.npz cannot be read: it holds train, valid, n_features, with n_features = 0"),
    "only.npz": ({"n_features": 9}, "only.npz cannot be read: it holds n_features"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files(tmp_path, name):
    content, match = WRONG[name]
    path = tmp_path / name
    if isinstance(content, dict):
        np.savez(path, **content)
    elif isinstance(content, np.ndarray):
        np.save(path, content)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=match) as caught:
        datasets.load(path)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


# Columns


@pytest.mark.parametrize("suffix", datasets.FORMATS)
def test_columns_are_left_out_by_number_in_every_format(tmp_path, suffix):
    X = rows(30, 5)
    X[0, -1] = 1
    found = datasets.load(write(tmp_path / f"x{suffix}", X), drop=["1", "4", "1"], n_features=3)
    assert (dense(found.train) == X[:, [0, 2, 3]]).all()
    with pytest.raises(ValueError, match=r"x\S+ .*--drop must name a column, 0\.\.4\b.*, got '5'"):
        datasets.load(tmp_path / f"x{suffix}", drop=["5"])
    with pytest.raises(ValueError, match="--drop leaves none of its 5 columns"):
        datasets.load(tmp_path / f"x{suffix}", drop=range(5))


def test_columns_are_left_out_of_every_split(tmp_path):
    parts = {"train": rows(9, 4), "val": rows(3, 4), "test": rows(4, 4)}
    np.savez(tmp_path / "x.npz", **parts)
    found = datasets.load(tmp_path / "x.npz", drop=["0"])
    for X, want in zip((found.train, found.valid, found.test), parts.values(), strict=True):
        assert np.array_equal(X, want[:, 1:])
    digits = datasets.load("digits", drop=["0", "63"])
    assert (digits.test == datasets.load("digits").test[:, 1:63]).all()
    assert digits.shape is None


def test_a_name_is_before_a_number(tmp_path):
    (tmp_path / "x.csv").write_text("b,0,c\n1,0,0\n0,1,0\n")
    for drop, names in (("0", ("b", "c")), ("2", ("b", "0")), ("b", ("0", "c"))):
        assert datasets.load(tmp_path / "x.csv", header="yes", drop=[drop]).feature_names == names
    with pytest.raises(ValueError, match=r"a column, 0\.\.2 or 'b', '0', 'c', got 'B'"):
        datasets.load(tmp_path / "x.csv", header="yes", drop=["B"])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n_features": 3}, r"must have 3 columns, got 4\. .* --drop leaves columns out"),
        ({"header": "maybe"}, "header must be one of auto, yes, no, and index_base 0, 1 or None"),
        ({"index_base": 2}, "header must be one of auto, yes, no, and index_base 0, 1 or None"),
    ],
)
def test_wrong_options(tmp_path, options, match):
    with pytest.raises(ValueError, match=match):
        datasets.load(write(tmp_path / "x.npy", rows(5, 4)), **options)


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz: no such file, and no built-in data set.*'digits'"):
        datasets.load(tmp_path / "nowhere.npz")
    with pytest.raises(FileNotFoundError, match="digitz: no such file"):
        datasets.load("digitz")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ValueError, match=r"folder\.csv must be a file"):
        datasets.load(tmp_path / "folder.csv")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_unreadable_file(tmp_path):
    path = write(tmp_path / "secret.csv", rows(3, 3))
    path.chmod(0)
    with pytest.raises(ValueError, match=r"secret\.csv cannot be read: .*Permission denied"):
        datasets.load(path)


class TimeIsUpError(Exception):
    pass


@pytest.mark.parametrize("limit", [TimeIsUpError, TimeoutError, RuntimeError])
@pytest.mark.parametrize("name", ["plain.csv", "words.csv", "x.npz", "x.svm"])
def test_a_time_limit_of_the_host_is_no_fault_of_the_file(tmp_path, monkeypatch, limit, name):
    """A signal handler may raise anywhere: here, where a file is opened and wherever its rows are read."""

    place = {"plain.csv": "numpy.loadtxt", "words.csv": "made_fast.tables.reading.text._block", "x.npz": "numpy.load"}
    (tmp_path / "plain.csv").write_text("0,1\n")
    (tmp_path / "words.csv").write_text("True,False\n")
    (tmp_path / "x.npz").write_bytes(b"")
    (tmp_path / "x.svm").write_text("1 1:1\n")
    monkeypatch.setattr(place.get(name, "sklearn.datasets.load_svmlight_file"), raising(limit("time is up")))
    with pytest.raises(limit, match=r"^time is up$"):
        datasets.load(tmp_path / name)


def test_an_encrypted_npz(tmp_path):
    np.savez(tmp_path / "x.npz", train=rows(3, 3))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.npz cannot be read: it is encrypted"):
        datasets.load(tmp_path / "x.npz")


# Missing entries


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.csv", "a,b,c\n1,,0\n,,\n0,1,\n"),
        ("x.csv", "1,,0\n , ,\n0,1, # no more\n\n"),
        ("x.csv", "1,NA,0\nNA,NA,NA\n0,1,?\n"),
        ("x.data", ",a,\n1.0,nan,0\nnan,NaN, nan\n0,1,nan\n"),
        ("x.csv", "0,1,2\n1,,0\n,,\n0,1,\n"),
        ("x.txt", "1 NA 0\n? ? ?\n 0  1 nan\n"),
        ("x.csv.gz", "\ufeffa,b,c\r\n1,,0\r\n,,\r\n0,1,\r\n"),
    ],
)
def test_a_missing_entry_of_text_may_look_like(name, text, tmp_path):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    for threshold, X in ((None, [[1, 0], [0, 1]]), (-0.5, [[1, 1], [1, 1]])):
        found = datasets.load(path, threshold=threshold, missing=True).train
        assert found.dtype == np.float32
        expected = [[X[0][0], np.nan, X[0][1]], [np.nan] * 3, [X[1][0], X[1][1], np.nan]]
        assert np.array_equal(found, expected, equal_nan=True)


def test_arrays_with_gaps(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.integers(2, size=(50, 12)).astype(float)
    X[rng.random(X.shape) < 0.1] = np.nan
    test = rng.integers(2, size=(5, 12))
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "one.npz", rows=X)
    np.savez(tmp_path / "x.npz", train=X.astype(np.float16), valid=np.zeros((0, 12)), test=test)
    for name in ("x.npy", "one.npz", "x.npz"):
        assert np.array_equal(datasets.load(tmp_path / name, missing=True).train, X, equal_nan=True)
    found = datasets.load(tmp_path / "x.npz", missing=True)
    assert found.valid is None
    assert (found.test == test).all()
    with pytest.raises(ValueError, match=r"train of .* must have 5 columns"):
        datasets.load(tmp_path / "x.npz", n_features=5, missing=True)
    np.savez(tmp_path / "x.npz", valid=X)
    with pytest.raises(ValueError, match="must have training rows, got only valid"):
        datasets.load(tmp_path / "x.npz", missing=True)
