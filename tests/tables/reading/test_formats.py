"""Formats that are no text: what each is taken for, what is told, and what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.datasets import dump_svmlight_file

from made_fast.cli import options
from made_fast.cli.files import load_data
from made_fast.tables.reading import datasets

X = np.array([[1, 0, 0, 1], [0, 1, 1, 0], [0, 0, 1, 1], [1, 1, 0, 1]])
GAP = np.nan


# npz


@pytest.mark.parametrize("valid", ["valid", "val", "validation", "dev", "Val"])
@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("training", "testing")])
@pytest.mark.parametrize("packed", [False, True])
def test_names_of_splits(tmp_path, train, valid, test, packed):
    parts = {test: X[:1], valid: X[:2], train: X}
    extra = {"labels": np.arange(4), "ids": np.arange(4)}
    if packed:
        parts = {name: np.packbits(part.astype(np.uint8), axis=1) for name, part in parts.items()} | {"n_features": 4}
    np.savez(tmp_path / "x.npz", **parts)
    assert datasets.load(tmp_path / "x.npz").notes == ()
    np.savez(tmp_path / "x.npz", **parts, **extra)
    found = datasets.load(tmp_path / "x.npz")
    for part, want in ((found.train, X), (found.valid, X[:2]), (found.test, X[:1])):
        assert np.array_equal(part, want)
    assert found.notes == (f"{tmp_path / 'x.npz'}: arrays labels, ids are not used",)


@pytest.mark.parametrize("names", [("valid", "val"), ("dev", "validation"), ("train", "training"), ("test", "Test")])
def test_two_names_for_one_split_are_refused(tmp_path, names):
    np.savez(tmp_path / "x.npz", **{"train": X, **dict.fromkeys(names, X)})
    with pytest.raises(ValueError, match=f"it holds {names[0]} and {names[1]}, two names for one split"):
        datasets.load(tmp_path / "x.npz")


# Sparse matrices in npz


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr", "dia"])
@pytest.mark.parametrize("kind", ["array", "matrix"])
def test_sparse_matrices_that_scipy_has_saved(tmp_path, form, kind):
    sp.save_npz(tmp_path / "x.npz", getattr(sp, f"{form}_{kind}")(X))
    found = datasets.load(tmp_path / "x.npz")
    assert (found.train.toarray() == X).all()
    assert found.valid is None
    assert found.notes == ()


CSR = {"format": "csr", "shape": [2, 3], "data": [1.0, 1.0], "indices": [0, 2], "indptr": [0, 1, 2]}
UNSOUND = {
    "index": CSR | {"indices": [0, 7]},
    "pointers": CSR | {"indptr": [0, 9, 2]},
    "no indices": {name: part for name, part in CSR.items() if name != "indices"},
    "format": CSR | {"format": "lil"},
    "no format": CSR | {"format": 3},
    "shape": CSR | {"shape": 3},
    "rows": {"format": "coo", "shape": [10**15, 3], "data": [1.0], "row": [0], "col": [0]},
    "flat": {"format": "coo", "shape": [3], "data": [1.0], "coords": [[0]], "_is_array": True},
    "objects": CSR | {"data": np.array([None, None])},
    "wide": {"format": "coo", "shape": [2, 2**40], "data": [1.0], "row": [0], "col": [0]},
}


@pytest.mark.parametrize("what", UNSOUND)
def test_unsound_sparse_matrices(tmp_path, what):
    np.savez(tmp_path / "x.npz", **UNSOUND[what])
    with pytest.raises(ValueError, match=r"x\.npz (cannot|must) .*") as caught:
        datasets.load(tmp_path / "x.npz")
    assert "\n" not in str(caught.value)


# LIBSVM


def svm(tmp_path, text, **options):
    path = tmp_path / "x.svm"
    path.write_text(text)
    return datasets.load(path, **options)


FROM_0, FROM_1, BETWEEN = "1 0:1 2:1 # c\n-1 1:1\n", "1 qid:7 1:1 4:1\n#\n2 qid:7 3:1\n", "1 1:1 3:1\n1 2:1\n"


@pytest.mark.parametrize(
    ("text", "options", "base", "expected"),
    [
        (FROM_0, {}, 0, [[1, 0, 1], [0, 1, 0]]),
        (FROM_0, {"n_features": 4}, 0, [[1, 0, 1, 0], [0, 1, 0, 0]]),
        (FROM_0, {"n_features": 3, "index_base": 0}, 0, [[1, 0, 1], [0, 1, 0]]),
        (FROM_1, {}, 1, [[1, 0, 0, 1], [0, 0, 1, 0]]),
        (FROM_1, {"n_features": 4}, 1, [[1, 0, 0, 1], [0, 0, 1, 0]]),
        (BETWEEN, {"n_features": 4, "index_base": 0}, 0, [[0, 1, 0, 1], [0, 0, 1, 0]]),
        (BETWEEN, {"n_features": 4, "index_base": 1}, 1, [[1, 0, 1, 0], [0, 1, 0, 0]]),
        (BETWEEN, {"index_base": 0}, 0, [[0, 1, 0, 1], [0, 0, 1, 0]]),
        (BETWEEN, {"n_features": 3, "drop": ["0"], "index_base": 0}, 0, [[1, 0, 1], [0, 1, 0]]),
        (BETWEEN, {"n_features": 2, "drop": ["0"]}, 1, [[0, 1], [1, 0]]),
        ("1\n0\n", {"n_features": 2}, None, [[0, 0], [0, 0]]),
        ("1 1:1 2:0\n", {"n_features": 2}, 1, [[1, 0]]),
    ],
)
def test_the_first_index_of_libsvm(tmp_path, text, options, base, expected):
    found = svm(tmp_path, text, **options)
    assert found.train.toarray().tolist() == expected
    assert found.index_base == base
    assert len(found.notes) == (base == 1 and options == {})
    assert all("no index is 0, so they are taken to count from 1" in note for note in found.notes)


@pytest.mark.parametrize(
    ("text", "options", "match"),
    [
        (BETWEEN, {"n_features": 4}, r"1\.\.3 may count the 4 columns from 0 or from 1\. Say which: --index-base 0 or 1"),
        (FROM_0, {"index_base": 1}, r"it has the index 0, but indices count from 1"),
        (FROM_0, {"n_features": 2}, "it has the index 2, but the last of 2 columns is 1, counted from 0"),
        (FROM_1, {"n_features": 3}, "it has the index 4, but the last of 3 columns is 3, counted from 1"),
        (FROM_1, {"n_features": 4, "index_base": 0}, "it has the index 4, but the last of 4 columns is 3, counted from 0"),
        (FROM_0.replace("2", "4"), {"n_features": 4}, "it has the index 4, but the last of 4 columns is 3"),
        ("1\n0\n", {}, "it has no index at all"),
        ("1 -1:1\n", {}, "cannot be read"),
        ("a,b\n0,1\n", {}, "A .svm file must hold lines of the form"),
        ("0 1 0\n", {}, "A .svm file must hold lines of the form"),
    ],
)  # fmt: skip
def test_libsvm_that_is_refused(tmp_path, text, options, match):
    with pytest.raises(ValueError, match=match):
        svm(tmp_path, text, **options)


def test_what_the_training_file_told_is_used_unless_an_option_says_otherwise(tmp_path):
    rows = X.copy()
    rows[:, 0] = 0
    rows[:, 3] = 0
    dump_svmlight_file(rows, np.zeros(4), str(tmp_path / "x.svm"))

    def load(*given, **remembered):
        args = options.parser().parse_args(["evaluate", "m", str(tmp_path / "x.svm"), *given])
        return load_data(args, 4, **remembered).train.toarray()

    assert (load(index_base=0) == rows).all()
    assert (load("--index-base", "0") == rows).all()
    assert (load("--index-base", "0", index_base=1) == rows).all()
    assert not (load(index_base=1) == rows).all()
    for nonsense in (None, 7, "0", [0], True):
        with pytest.raises(options.UsageError, match="--index-base 0 or 1"):
            load(index_base=nonsense)
    np.save(tmp_path / "x.npy", X)
    args = options.parser().parse_args(["evaluate", "m", str(tmp_path / "x.npy"), "--index-base", "1"])
    assert (load_data(args, 4, index_base=0).train == X).all()


# Parquet


@pytest.fixture
def parquet(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "x.parquet"

    def load(frame, drop=(), **options):
        frame.to_parquet(path)
        return datasets.load(path, missing=True, drop=drop, **options)

    return load


KINDS = pd.DataFrame(
    {
        "bool": [True, False, True],
        "int": [0, 1, 1],
        "float 32": np.array([0, np.nan, 1], np.float32),
        "nullable": pd.array([1, None, 0], dtype="Int8"),
        "maybe": pd.array([None, True, False], dtype="boolean"),
        "nothing": [None] * 3,
        "category": pd.Categorical([0, 1, 0]),
    }
)
VALUES = [[1, 0, 0, 1, GAP, GAP, 0], [0, 1, GAP, GAP, 1, GAP, 1], [1, 1, 1, 0, 0, GAP, 0]]


def test_columns_of_numbers_of_any_type(parquet):
    found = parquet(KINDS)
    assert np.array_equal(found.train, VALUES, equal_nan=True)
    assert found.feature_names == tuple(KINDS)
    assert found.notes == ()
    assert parquet(KINDS, ["float 32", "3", "maybe", "nothing"]).train.dtype == np.uint8


def test_many_rows_of_parquet(parquet):
    table = np.random.default_rng(0).integers(0, 2, (100_000, 30))
    frame = pd.DataFrame(table, columns=[f"x{d}" for d in range(30)])
    assert (parquet(frame).train == table).all()


@pytest.mark.parametrize("name", [None, "id"])
@pytest.mark.parametrize("index", [["x", "y", "z"], [5, 3, 9]])
def test_the_index_of_a_frame_is_left_out(parquet, name, index):
    found = parquet(KINDS.set_index(pd.Index(index, name=name)))
    assert np.array_equal(found.train, VALUES, equal_nan=True)
    assert found.feature_names == tuple(KINDS)
    assert f"{name or '__index_level_0__'!s}' (7, counted from 0) is the data frame's index; it is left out" in found.notes[0]


def test_parquet_that_is_refused(parquet, tmp_path, monkeypatch):
    words = KINDS.assign(sex=["m", "f", "m"], days=pd.to_datetime(["2020-01-01"] * 3))
    with pytest.raises(ValueError, match=r"column 'sex' .* holds .*string, no numbers\. --drop sex --drop days leaves"):
        parquet(words)
    assert np.array_equal(parquet(words, ["sex", "days"]).train, VALUES, equal_nan=True)
    for threshold in (None, 0.5):
        with pytest.raises(ValueError, match=r"column 'Unnamed: 0' .* looks like an index.*--drop 'Unnamed: 0' leaves it out"):
            parquet(KINDS.assign(**{"Unnamed: 0": range(3)}), threshold=threshold)
    with pytest.raises(ValueError, match=r"only 0 and 1, got 0.25 at row 1, column 0 'a'"):
        parquet(pd.DataFrame({"a": [0, 0.25, 0.5]}))
    with pytest.raises(ValueError, match="must have training rows, got no rows at all"):
        parquet(KINDS[:0])
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and no more PAR1")
    with pytest.raises(ValueError, match=r"x\.parquet cannot be read: "):
        datasets.load(tmp_path / "x.parquet")
    monkeypatch.setattr("pyarrow.__version__", "14.0.0")
    with pytest.raises(ValueError, match=r"too old to read it safely. Run: pip install 'pyarrow>=15'"):
        datasets.load(tmp_path / "x.parquet")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"pyarrow, which is not installed. Run: pip install pyarrow"):
        datasets.load(tmp_path / "x.parquet")
