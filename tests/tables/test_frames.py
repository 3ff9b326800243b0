"""Tables of every library: the same codes from each, and back to what it was."""

from __future__ import annotations

import json
import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse as sp
from helpers import python
from tables.column_cases import FRAME, KINDS, RNG, all_kinds

from made_fast.tables.columns.learn import learn
from made_fast.tables.columns.schema import Columns


@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_gives_the_same_codes_and_comes_back_as_it_was(kind):
    X = all_kinds()[kind]
    columns = learn(FRAME)
    codes = columns.encode(X).codes
    assert (codes == columns.encode(FRAME).codes).all()
    own = learn(X)
    assert own.names == tuple(FRAME)
    n_levels = own.n_levels.tolist()
    assert n_levels == [4, 2, 3, 3, 2]
    codes = own.encode(X).codes
    assert codes.dtype == np.int8
    kept = Columns.from_json(json.loads(json.dumps(own.to_json())))
    back = kept.frame(kept.decode(codes, np.full(codes.shape, 0.5)))
    assert (own.encode(back).codes == codes).all()
    assert (own.encode(kept.completed(X, kept.decode(codes, np.full(codes.shape, 0.1)))).codes == codes).all()
    if isinstance(X, pd.DataFrame):
        assert back.dtypes.equals(X.dtypes)
    elif isinstance(X, pl.DataFrame):
        assert back.schema == X.schema
        assert back.equals(X.fill_nan(None))
    elif isinstance(X, pa.Table):
        assert list(back.schema.types) == [pa.string() if t == pa.large_string() else t for t in X.schema.types]
    else:
        assert isinstance(back, pa.Table if kind == "Arrow, batch" else dict)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("missing", ["marginal", "value"])
def test_missing_values_stay_missing(kind, missing):
    X = all_kinds()[kind]
    columns = learn(X, missing=missing)
    codes = columns.encode(X).codes
    gone = [False, False, True, True, False]
    assert columns.missing_levels.tolist() == [{True: 3, False: -1}[g] if missing == "value" else -1 for g in gone]
    rows = np.flatnonzero(codes[:, 3] == (3 if missing == "value" else -1))
    assert rows.tolist() == list(range(1, 40, 4))
    back = columns.frame(columns.decode(codes, np.full(codes.shape, 0.5)))
    assert (columns.encode(back).codes == codes).all()
    full = np.where(codes < 0, 0, codes)
    if missing == "marginal":
        completed = columns.completed(X, columns.decode(full, np.full(codes.shape, 0.5)))
        assert (columns.encode(completed).codes == full).all()


def test_arrays_records_rows_and_sparse_matrices_go_by_place():
    A = RNG.integers(0, 3, (40, 3)).astype(float)
    for X in (
        A,
        A.tolist(),
        [tuple(row) for row in A],
        np.asfortranarray(A),
        sp.csc_array(A),
        A.astype(">f8"),
        A.astype(object),
    ):
        columns = learn(X)
        assert columns.names == ("x0", "x1", "x2")
        assert (columns.encode(A).codes == A).all()
        assert (columns.encode(X).codes == A).all()
        back = columns.frame(columns.decode(columns.encode(X).codes, np.full(A.shape, 0.5)))
        assert isinstance(back, np.ndarray)
        assert back.dtype == (X.dtype if isinstance(X, np.ndarray) and X.dtype != object else float)
        assert (back == A).all()
    mixed = np.array([[1, "a", True], [2, "b", False]] * 10, object)
    columns = learn(mixed, names=["i", "t", "b"])
    assert [column.kind for column in columns.columns] == ["numeric", "binary", "binary"]
    back = columns.frame(columns.decode(columns.encode(mixed).codes, np.full(mixed.shape, 0.5)))
    assert back.dtype == object
    assert (back == mixed).all()
    texts = np.array([["a", "b"], ["c", "d"]] * 10)
    columns = learn(texts)
    assert columns.frame(columns.decode(columns.encode(texts).codes, np.zeros(texts.shape))).dtype == texts.dtype
    records = np.array([(1, "a", 0.5), (2, "b", 1.5)] * 10, [("i", "i4"), ("t", "U3"), ("f", "f4")])
    columns = learn(records)
    assert columns.names == ("i", "t", "f")
    back = columns.frame(columns.decode(columns.encode(records).codes, np.full((20, 3), 0.5)))
    assert back.dtype == records.dtype
    assert (back == records).all()
    masked = np.ma.array([1.0, 2.0, 3.0] * 9, mask=[0, 0, 1] * 9)
    assert learn({"x": masked}).encode({"x": masked}).codes[:3, 0].tolist() == [0, 1, -1]
    labels = pd.DataFrame(A)  # whose columns are called 0, 1 and 2
    assert learn(labels).names == ("x0", "x1", "x2")
    assert learn(labels).frame(list(A.T), index=labels.index).equals(labels)


def test_without_its_library_a_table_comes_back_as_a_dict(monkeypatch):
    for kind, module in (("pandas", "pandas"), ("polars", "narwhals")):
        columns = learn(all_kinds()[kind])
        arrays = columns.decode(columns.encode(FRAME).codes, np.full((40, 5), 0.5))
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            back = columns.frame(arrays)
        assert list(back) == list(FRAME)
        assert all(isinstance(column, np.ndarray) for column in back.values())


def test_nothing_but_numpy_is_imported():
    code = """
import sys
from made_fast.tables.columns import learn, query, schema, stored
columns = learn.learn({"x": [1.5, 2.5, 3.5], "t": ["a", "b", "a"]})
columns.frame(columns.decode(columns.encode({"x": [2.5], "t": ["b"]}).codes, __import__("numpy").zeros((1, 2))))
print([name for name in ("pandas", "polars", "pyarrow", "narwhals", "scipy", "sklearn") if name in sys.modules])
"""
    assert python("-c", code, seconds=60) == "[]"


def test_columns_are_matched_by_name():
    columns = learn(FRAME)
    codes = columns.encode(FRAME).codes
    turned = pd.DataFrame(FRAME)[list(FRAME)[::-1]]
    assert (columns.encode(turned).codes == codes).all()
    rows = [list(row) for row in zip(*FRAME.values(), strict=True)]
    assert (columns.encode(rows).codes == codes).all()
