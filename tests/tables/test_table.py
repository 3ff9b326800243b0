"""Tables that are taken, tables that are refused, and in which words."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from helpers import python, rows
from hypothesis import given
from hypothesis import strategies as st
from robustness.any_tables import FORMATS, Liar, all_refused

from made_fast.tables.sparse import is_sparse
from made_fast.tables.table import Table

DTYPES = ("?", "i1", "u1", "<i2", ">i2", "<u4", "<i8", ">i8", "<u8", "<f2", "<f4", ">f4", "<f8", ">f8", "g", "O")


@pytest.fixture
def X():
    return rows(7, 5)


def ones(X, binarize=None, **kwargs):
    return Table.of(X).ones(binarize, **kwargs)


# Tables that are taken


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_gives_the_same_ones_and_refuses_two(X, dtype):
    assert (ones(X.astype(dtype)) == X).all()
    assert (ones(X.astype(dtype), 0.5) == X).all()
    if dtype != "?":
        wrong = X.astype(dtype)
        wrong[1, 2] = 2
        with pytest.raises(ValueError, match=r"got 2(\.0)? at row 1, column 2"):
            ones(wrong)
        assert (ones(wrong, 1.5) == (np.arange(35).reshape(7, 5) == 7)).all()


@pytest.mark.parametrize(
    "change",
    [
        np.asfortranarray,
        lambda X: X.repeat(2, axis=1)[:, ::2],
        lambda X: np.ascontiguousarray(X[::-1, ::-1])[::-1, ::-1],
        lambda X: np.broadcast_to(X, (1, *X.shape))[0],
        lambda X: X.tolist(),
        lambda X: pd.DataFrame(X),
        lambda X: pd.DataFrame(X).astype({0: "int64", 1: bool, 2: "float32"}),
        lambda X: pd.DataFrame(X).astype("boolean"),
        lambda X: np.ma.masked_array(X, mask=False),
        lambda X: np.vectorize(Fraction, otypes=[object])(X),
        np.asmatrix,
    ],
)
@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_every_container_gives_the_same_ones(X, change):
    table = Table.of(change(X), 5)
    assert type(table.rows) is np.ndarray
    assert (table.ones() == X).all()
    assert Table.of(table, 5) is table


def test_read_only_memmap_is_neither_read_nor_copied(X, tmp_path):
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    table = Table.of(mapped)
    assert np.shares_memory(table.rows, mapped)
    assert (table[2:4].ones() == X[2:4]).all()


@pytest.mark.parametrize("kind", ["array", "matrix"])
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("index", [np.int32, np.int64])
@pytest.mark.parametrize("binarize", [None, 0.5, -0.5])
def test_every_sparse_format_gives_the_same_ones(X, kind, form, index, binarize):
    S = getattr(sp, f"csr_{kind}")(X.astype(float)).asformat(form)
    for part in ("indices", "indptr"):
        if hasattr(S, part):
            setattr(S, part, getattr(S, part).astype(index))
    before = S.toarray()
    want = X if binarize is None else before > binarize
    assert (ones(S, binarize) == want).all()
    assert (S.toarray() == before).all()


def test_sparse_duplicates_are_summed_and_order_and_explicit_zeros_do_not_matter():
    data, indices, indptr = [0.25, 1.0, 0.75, 0.0], [3, 1, 3, 2], [0, 3, 4]
    S = sp.csr_array((data, indices, indptr), shape=(2, 4))
    assert (ones(S) == [[0, 1, 0, 1], [0, 0, 0, 0]]).all()
    assert S.data.tolist() == data
    assert S.indices.tolist() == indices
    S.data, S.indices = np.append(S.data, [7, 7]), np.append(S.indices, [0, 0])  # past the last row
    assert (ones(S) == [[0, 1, 0, 1], [0, 0, 0, 0]]).all()
    S.data[2] = 1.75
    with pytest.raises(ValueError, match=r"got 2\.0 at row 0, column 3"):
        ones(S)


@given(st.data())
def test_threshold_means_larger_than(data):
    value = st.floats(allow_nan=False, allow_infinity=False, width=32)
    X = np.array(data.draw(st.lists(st.lists(value, min_size=3, max_size=3), min_size=1, max_size=4)), np.float32)
    t = data.draw(value | st.sampled_from([0.0, -0.0, *X.flat]))
    want = [[x > t for x in row] for row in X.tolist()]
    assert ones(X, t).tolist() == want
    assert ones(sp.csr_array(X), t).tolist() == want


@pytest.mark.parametrize("dtype", ["f2", "f4", "u1", "i8", "?"])
def test_threshold_may_lie_beyond_the_range_of_the_values(dtype):
    X = np.ones((1, 2), dtype)
    assert not ones(X, 1e300).any()
    assert ones(X, -1e300).all()


# Tables that are refused


RESHAPE = "Expected 2D array, got {} array instead.*Reshape your data"
NONE = r"{} \(shape=\({}\)\) while a minimum of 1 is required\."
NARROW = r"got \(7, 2\): X has 2 features, but MADE is expecting 3 features as input"


@pytest.mark.parametrize(
    ("X", "match"),
    [
        ([1, 0, 1], r"X must have shape \(rows, 3\), got \(3,\).*" + RESHAPE.format("1D")),
        (1, RESHAPE.format("scalar")),
        (np.zeros((2, 3, 3)), r"got \(2, 3, 3\).*" + RESHAPE.format("3D")),
        (sp.coo_array(np.ones(3)), RESHAPE.format("1D")),
        (np.zeros((0, 3)), "Found array with " + NONE.format(r"0 sample\(s\)", "0, 3")),
        (np.zeros((3, 0)), NONE.format(r"0 feature\(s\)", "3, 0")),
        (np.zeros((7, 2)), NARROW),
        (sp.csr_array((7, 2)), NARROW),
        (np.zeros((2, 3), complex), "Complex data not supported: X must hold real numbers, got complex128"),
        ([[1, 0, 1], [1, 0]], "got rows that form no table.*same length"),
        (
            np.ma.masked_array([[1, 0, 1]], mask=[[0, 1, 0]]),
            r"X must hold no masked entries.*\.filled\(np\.nan\)",
        ),
        ([["1", "0", "1"]], "X must hold numbers, got dtype <U1"),
        (None, r"X must have shape \(rows, 3\), got NoneType"),
        ({"a": 1}, "got dict. Pass an array, a data frame or a scipy.sparse matrix"),
        (Liar(KeyError("no")), r"X must be a table of numbers, got Liar, .* \(\w+: .*no"),
        (np.array([[1, 0, {"foo": "bar"}]]), "argument must be .* string.* number"),  # the words of scikit-learn's check
    ],
)
def test_a_refusal_says_what_was_found(X, match):
    with pytest.raises((TypeError, ValueError), match=match):
        Table.of(X, 3).ones()


def test_all_that_is_no_table_is_refused_by_name():
    """SciPy checks the arrays of a sparse matrix when it makes one. Afterwards it reads and writes wherever they point to."""
    for table in all_refused(5):
        if table.how.startswith("broadcast to"):  # larger than memory: see tests/robustness
            continue
        broken = is_sparse(table.given) and " with " in table.how
        match = (
            r"table must be a sound sparse matrix, got \w+ with .*Make it anew" if broken else "table|Complex|argument must"
        )
        with pytest.raises((TypeError, ValueError), match=match):
            Table.of(table.given, 5, name="table").ones()


@pytest.mark.parametrize("shape", [(1, 2**40), (1, 2**31), (2**20, 2**31)])
def test_more_columns_than_the_kernels_can_number_are_refused_at_once(shape):
    with pytest.raises(ValueError, match="X must have at most 2147483647 columns, got shape"):
        Table.of(np.broadcast_to(np.uint8(0), shape))
    with pytest.raises(ValueError, match=r"X has .* features, but MADE is expecting 3"):
        Table.of(np.broadcast_to(np.uint8(0), shape), 3)


def test_an_object_that_gives_an_array_is_taken(X):
    assert (Table.of(Liar(X), 5).rows == X).all()
    assert Table.of([np.ma.masked_array([1, 0, 1])] * 2).shape == (2, 3)
    with pytest.raises(MemoryError):
        Table.of(Liar(MemoryError()))


def test_refusal_names_the_argument_and_the_fewest_rows():
    with pytest.raises(ValueError, match=r"X_val must have shape \(rows, features\), got \(3,\)\."):
        Table.of([1, 0, 1], name="X_val")
    with pytest.raises(ValueError, match=r"1 sample\(s\) \(shape=\(1, 3\)\) while a minimum of 2"):
        Table.of(np.zeros((1, 3)), min_rows=2)
    assert Table.of(np.zeros((0, 3)), min_rows=0).shape == (0, 3)


WRONG = [
    (2, None, r"only 0 and 1, got 2(\.0)?", "binarize=0.5"),
    (-1, None, r"only 0 and 1, got -1(\.0)?", "binarize=0.5"),
    (0.5, None, "only 0 and 1, got 0.5", "binarize=0.5"),
    (np.nextafter(1, 2), None, r"only 0 and 1, got 1\.0000000000000002", "binarize=0.5"),
    (np.nan, None, "only 0 and 1, got NaN", "Rows with missing entries can be fitted and imputed"),
    (np.inf, None, "only 0 and 1, got inf", "infinite"),
    (np.nan, 0.5, "finite numbers, got NaN", "Rows with missing entries can be fitted and imputed"),
    (-np.inf, 0.5, "finite numbers, got -inf", "infinite"),
]


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize(("value", "binarize", "found", "way_out"), WRONG)
@pytest.mark.parametrize("change", [np.asarray, np.asfortranarray, sp.csr_array, sp.csc_array, lambda X: X.astype(object)])
def test_first_wrong_value_is_named_with_its_row_and_column(X, value, binarize, found, way_out, change, missing):
    wrong = X.astype(float)
    wrong[5, 0] = wrong[4, 3] = wrong[4, 4] = value
    if missing:  # missing entries excuse no others
        if np.isnan(value):
            return
        wrong[0, 0] = wrong[4, 2] = np.nan
    table = Table.of(change(wrong), name="table")
    for part in (table, table[3:7][1:4]):
        with pytest.raises(ValueError, match=rf"table must hold {found} at row 4, column 3 \(counted from 0\)\. .*{way_out}"):
            part.ones(binarize, missing=missing)
    with pytest.raises(ValueError, match=r"table must hold .* at row 1, column 3 'd' "):
        table.take(np.array([1, 4])).ones(binarize, missing=missing, columns=["a", "b", "c", "d", "e"])


def test_what_scipy_has_noted_of_a_sparse_matrix_is_not_trusted():
    S = sp.csr_array((np.ones(2), [0, 1], [0, 2]), shape=(1, 3))
    assert S.has_canonical_format
    S.indices[:] = 1
    with pytest.raises(ValueError, match=r"got 2\.0 at row 0, column 1"):
        ones(S)
    S = sp.csr_array((np.array([1.0, 0, 1]), [2, 0, 1], [0, 2, 3]), shape=(2, 3))
    S.has_sorted_indices = S.has_canonical_format = True
    assert (ones(S) == [[0, 0, 1], [0, 1, 0]]).all()


def test_the_order_of_columns_is_looked_at_in_every_part_of_a_large_matrix():
    n = (1 << 18) + 10
    S = sp.csr_array((np.ones(n), np.zeros(n, "i4"), np.arange(n + 1)), shape=(n, 3))
    assert Table.of(S).rows is S
    S.indptr[n - 1 :] = n  # the last two entries are in one row now, and are one
    with pytest.raises(ValueError, match=rf"got 2\.0 at row {n - 2}, column 0"):
        ones(S)


# Missing entries


def known_to(change, dtype):
    """Return a dtype that a container can hold: scipy.sparse has few."""
    if change in (np.asarray, np.asfortranarray, pd.DataFrame):
        return dtype
    return "f8" if dtype in ("<f2", "g", "O") else np.dtype(dtype).newbyteorder("=")


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if np.dtype(dtype).kind in "fO"])
@pytest.mark.parametrize("change", [np.asarray, np.asfortranarray, sp.csr_array, sp.csc_matrix, pd.DataFrame])
@pytest.mark.parametrize("binarize", [None, 0.5, -0.5, 1.0])
def test_missing_entries_are_found_and_taken_for_zeros(X, dtype, change, binarize):
    nan = np.zeros(X.shape, bool)
    nan[[0, 3, 6], [4, 0, 2]] = True
    dtype = known_to(change, dtype)
    table = Table.of(change(np.where(nan, np.nan, X).astype(dtype)))
    assert (table.missing() == nan).all()
    assert table.missing().dtype == bool
    want = (X if binarize is None else np.greater(X, binarize)) & ~nan
    assert (table.ones(binarize, missing=True) == want).all()
    with pytest.raises(ValueError, match="got NaN at row 0, column 4"):
        table.ones(binarize)
    assert table[1:3].missing() is Table.of(change(X.astype(dtype))).missing() is None


@pytest.mark.parametrize("value", [pd.NA, None, np.longdouble("1e4000")])
def test_objects_that_stand_for_nan_or_overflow_are_named(X, value):
    wrong = X.astype(object)
    wrong[1, 2] = value
    with pytest.raises(ValueError, match=r"got (NaN|inf) at row 1, column 2"):
        ones(wrong)


def test_tables_need_numpy_alone():
    code = (
        "import sys, numpy; from made_fast.tables.table import Table; Table.of(numpy.ones((2, 3))).ones(); print(*sys.modules)"
    )
    assert not {"scipy", "pandas", "sklearn"} & set(python("-c", code, seconds=60).split())
