"""Where chunks come from, and which are refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse as sp
from pyarrow import dataset, parquet

from made_fast import MADE, Chunks

FRAME = pd.DataFrame({"a": [0.5, 1.5, 2.5, 3.5, 9.0], "b": list("xyxyx")})


@pytest.fixture
def path(tmp_path):
    FRAME.to_parquet(tmp_path / "f.parquet", row_group_size=2)
    return tmp_path / "f.parquet"


def lengths(chunks):
    return [len(chunk) for _, chunk, _ in chunks.tables()]


def test_files_are_read_in_chunks(path):
    with parquet.ParquetFile(path) as file:
        for source in (path, str(path), file, dataset.dataset(path)):
            chunks = Chunks(source, rows=2)
            assert lengths(chunks) == [2, 2, 1] == lengths(chunks)
            assert chunks.names == ("a", "b")
            for _, chunk, _ in chunks.tables(columns=["b"]):
                assert chunk.column_names == ["b"]


def test_what_begins_anew_is_read_again_and_an_iterator_once():
    parts = [FRAME[:2], FRAME[:0], FRAME[2:]]
    for chunks in (Chunks(parts), Chunks(lambda: iter(parts)), Chunks(tuple(parts))):
        assert lengths(chunks) == [2, 3] == lengths(chunks)
    once = Chunks(iter(parts))
    assert lengths(once) == [2, 3]
    with pytest.raises(ValueError, match="X must be chunks that can be read more than once, got an iterator, which was read"):
        lengths(once)


@pytest.mark.parametrize(
    ("source", "error", "match"),
    [
        (FRAME, TypeError, "got DataFrame. A table that is in memory is passed as it is"),
        (np.zeros((3, 3)), TypeError, "got ndarray"),
        ({"a": [1, 2]}, TypeError, "got dict"),
        (sp.eye(3).tocsr(), TypeError, "got csr"),
        (pa.table({"a": [1]}), TypeError, "got Table"),
        (3, TypeError, "got int"),
        ("nowhere.parquet", FileNotFoundError, "nowhere.parquet: no such file"),
        (__file__, ValueError, r"source must be a .parquet file, got .*Chunks\(lambda: pandas.read_csv"),
        ("/", ValueError, "pyarrow.dataset.dataset"),
    ],
)
def test_what_is_no_source_is_refused(source, error, match):
    with pytest.raises(error, match=match):
        Chunks(source)


def test_a_broken_file_is_refused(path):
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"f.parquet cannot be read"):
        lengths(Chunks(path))


def changed(**columns):
    return FRAME.assign(**columns)


ZEROS = np.zeros((2, 3), np.uint8)


@pytest.mark.parametrize(
    ("parts", "error", "match"),
    [
        ([], ValueError, "X must have at least 1 row, got no chunk"),
        ([FRAME[:0], FRAME[:0]], ValueError, "X must have at least 1 row, got 2 without any"),
        ([FRAME, FRAME.drop(columns="b")], ValueError, "chunk 1 of X must have the columns of those before it: it lacks 'b'"),
        ([FRAME, changed(c=1)], ValueError, "chunk 1 of X .* it has beside them 'c'"),
        ([FRAME, FRAME.rename(columns={"b": "c"})], ValueError, "it lacks 'b'; it has beside them 'c'"),
        (
            [FRAME, FRAME[["b", "a"]]],
            ValueError,
            "chunk 1 of X must have its columns in the order .* got 'b' in the place of 'a'",
        ),
        ([FRAME, FRAME.to_dict("list")], TypeError, "chunk 1 of X must be a table like those before it, pandas, got dict"),
        ([FRAME, changed(a=1)], TypeError, "chunk 1 of X .* got int64 for float64 in column 'a'"),
        ([FRAME, changed(b=1.5)], TypeError, "chunk 1 of X .* in column 'b'"),
        (
            [changed(b=FRAME.b.astype(object)), changed(b=pd.Series([1, 2, 3, 4, None], dtype=object))],
            TypeError,
            r"\(int\) for .*\(text\)",
        ),
        ([changed(b=FRAME.b.astype("category")), changed(b=pd.Categorical(list("zzxyx")))], TypeError, "of other categories"),
        ([FRAME, 7], ValueError, "chunk 1 of X must be a table"),
        ([ZEROS, ZEROS[:, :2]], ValueError, "chunk 1 of X must have 3 columns, as those before it, got 2"),
        ([ZEROS, ZEROS + 2], ValueError, "chunk 1 of X must hold only 0 and 1, got 2"),
        ([ZEROS, ZEROS[0]], ValueError, "chunk 1 of X must be a table of shape"),
    ],
)
def test_chunks_that_make_no_table_are_refused(parts, error, match):
    with pytest.raises(error, match=match):
        MADE(hidden_sizes=(2,), max_epochs=1).fit(Chunks(parts))


def test_a_source_that_does_not_begin_anew_is_refused():
    left = iter([FRAME, FRAME])
    with pytest.raises(ValueError, match=r"X must have at least 1 row, got no chunk"):
        MADE().fit(Chunks(lambda: left))
    sizes = iter([4, 5, 3, 4])
    with pytest.raises(ValueError, match=r"X must have the same rows each time it is read, got [345], then [345]"):
        MADE().fit(Chunks(lambda: [FRAME[: next(sizes)]]))
    with pytest.raises(TypeError, match="X must be chunks, one after the other, got DataFrame from its source"):
        MADE().fit(Chunks(lambda: FRAME))
    with pytest.raises(TypeError, match="got NoneType from its source"):
        MADE().fit(Chunks(lambda: None))


def test_columns_of_an_iterator_are_refused():
    with pytest.raises(
        ValueError, match="X must be chunks that can be read more than once, for what its columns are is learned"
    ):
        MADE().fit(Chunks(iter([FRAME])))
