"""Tables that are taken, tables that are refused, and in which words."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from made_fast.tables.sparse import is_sparse
from made_fast.tables.table import Table

FORMATS = ("csr", "csc", "coo", "bsr", "lil", "dok", "dia")
DTYPES = ("?", "i1", "u1", "<i2", ">i2", "<u4", "<i8", ">i8", "<u8", "<f2", "<f4", ">f4", "<f8", ">f8", "g", "O")


@pytest.fixture
def X():
    return (np.random.default_rng(0).random((7, 5)) < 0.5).astype(np.uint8)


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


@pytest.mark.parametrize(
    ("X", "error", "match"),
    [
        (
            [1, 0, 1],
            ValueError,
            r"X must have shape \(rows, 3\), got \(3,\).*Expected 2D array, got 1D array instead.*Reshape",
        ),
        (1, ValueError, "Expected 2D array, got scalar array instead.*Reshape your data"),
        (np.zeros((2, 3, 3)), ValueError, r"got \(2, 3, 3\).*Expected 2D array, got 3D array instead.*Reshape your data"),
        (
            np.zeros((0, 3)),
            ValueError,
            r"Found array with 0 sample\(s\) \(shape=\(0, 3\)\) while a minimum of 1 is required\.",
        ),
        (np.zeros((3, 0)), ValueError, r"0 feature\(s\) \(shape=\(3, 0\)\) while a minimum of 1 is required\."),
        (np.zeros((7, 2)), ValueError, r"got \(7, 2\): X has 2 features, but MADE is expecting 3 features as input"),
        (sp.csr_array((7, 2)), ValueError, "X has 2 features, but MADE is expecting 3 features as input"),
        (sp.coo_array(np.ones(3)), ValueError, "Expected 2D array, got 1D array instead.*Reshape your data"),
        (np.zeros((2, 3), complex), ValueError, "Complex data not supported: X must hold real numbers, got complex128"),
        (sp.csr_array((2, 3), dtype=complex), ValueError, "Complex data not supported"),
        ([[1, 0, 1], [1, 0]], ValueError, "got rows that form no table.*same length"),
        (
            np.ma.masked_array([[1, 0, 1]], mask=[[0, 1, 0]]),
            ValueError,
            r"X must hold no masked entries.*Mark missing ones by NaN: X\.astype\(float\)\.filled\(np\.nan\)",
        ),
        ([["1", "0", "1"]], TypeError, "X must hold numbers, got dtype <U1"),
        ([[b"1", b"0", b"1"]], TypeError, "X must hold numbers, got dtype"),
        (np.zeros((2, 3), "M8[s]"), TypeError, "X must hold numbers, got dtype datetime64"),
        (np.zeros((2, 3), "f4,f4"), TypeError, "X must hold numbers, got dtype"),
        (None, TypeError, r"X must have shape \(rows, 3\), got NoneType"),
        ({"a": 1}, TypeError, "got dict. Pass an array, a data frame or a scipy.sparse matrix"),
    ],
)
def test_refused_shapes_and_kinds(X, error, match):
    with pytest.raises(error, match=match):
        Table.of(X, 3)


@pytest.mark.parametrize("shape", [(1, 2**40), (1, 2**31), (2**20, 2**31)])
def test_more_columns_than_the_kernels_can_number_are_refused_at_once(shape):
    with pytest.raises(ValueError, match="X must have at most 2147483647 columns, got shape"):
        Table.of(np.broadcast_to(np.uint8(0), shape))
    with pytest.raises(ValueError, match=r"X has .* features, but MADE is expecting 3"):
        Table.of(np.broadcast_to(np.uint8(0), shape), 3)


class Convertible:
    """What NumPy asks for an array, and what it then gives."""

    def __init__(self, answer):
        self.answer = answer

    def __array__(self, dtype=None, copy=None):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_an_object_that_gives_an_array_is_taken_and_one_that_fails_to_is_refused(X):
    assert (Table.of(Convertible(X), 5).rows == X).all()
    for error in (AttributeError("no"), KeyError("no"), UserWarning("no")):
        with pytest.raises(TypeError, match=r"X must be a table of numbers, got Convertible, .* \(\w+: .*no"):
            Table.of(Convertible(error))
    with pytest.raises(ValueError, match="got rows that form no table"):
        Table.of(Convertible([[1]]))
    with pytest.raises(MemoryError):
        Table.of(Convertible(MemoryError()))
    row = np.ma.masked_array([1, 0, 1], mask=[0, 1, 0])
    with pytest.raises(ValueError, match="X must hold no masked entries, got some"):
        Table.of([row, row])
    assert Table.of([np.ma.masked_array([1, 0, 1])] * 2).shape == (2, 3)

    class HalfSparse:
        def tocsr(self):
            return 5

    assert not is_sparse(HalfSparse())
    assert not is_sparse(sp.csr_array)
    with pytest.raises(TypeError, match=r"got HalfSparse. Pass an array"):
        Table.of(HalfSparse())


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


def _with(S, name, value):
    setattr(S, name, value)
    return S


def _list_of(S, name, value):
    getattr(S, name)[0] = value
    return S


BROKEN = {
    "csr, a column beyond the last": lambda S: _with(S, "indices", np.array([0, 4, 2, 5, 1])),
    "csr, a column below 0": lambda S: _with(S, "indices", np.array([0, 4, 2, -1, 1])),
    "csr, fewer columns than values": lambda S: _with(S, "indices", S.indices[:4]),
    "csr, columns that are floats": lambda S: _with(S, "indices", S.indices.astype(float)),
    "csr, columns that are unsigned": lambda S: _with(S, "indices", S.indices.astype("u8")),
    "csr, columns that are a list": lambda S: _with(S, "indices", S.indices.tolist()),
    "csr, starts that go back": lambda S: _with(S, "indptr", np.array([0, 4, 2, 5])),
    "csr, starts below 0": lambda S: _with(S, "indptr", np.array([0, -2, 3, 5])),
    "csr, starts that begin later": lambda S: _with(S, "indptr", np.array([1, 2, 4, 5])),
    "csr, starts that end later": lambda S: _with(S, "indptr", np.array([0, 2, 4, 10**9])),
    "csr, a start too few": lambda S: _with(S, "indptr", S.indptr[:3]),
    "csr, no starts": lambda S: _with(S, "indptr", S.indptr[:0]),
    "csr, values of two dimensions": lambda S: _with(S, "data", S.data[:, None]),
    "csr, values that SciPy does not work on": lambda S: _with(S, "data", S.data.astype(object)),
    "csr, values of half precision": lambda S: _with(S, "data", S.data.astype("f2")),
    "csc, a row beyond the last": lambda S: _with(S.tocsc(), "indices", np.array([0, 10**8, 1, 1, 0])),
    "csc, starts that end later": lambda S: _with(S.tocsc(), "indptr", np.array([0, 1, 2, 3, 4, 10**9])),
    "bsr, a column beyond the last": lambda S: _with(S.tobsr((1, 5)), "indices", np.array([0, 1, 0])),
    "bsr, blocks that do not fit": lambda S: _with(S.tobsr((1, 5)), "data", np.ones((3, 2, 5))),
    "bsr, empty blocks": lambda S: _with(S.tobsr((1, 5)), "data", np.ones((3, 0, 5))),
    "coo, a row beyond the last": lambda S: _with(S.tocoo(), "row", np.array([0, 10**8, 1, 1, 2])),
    "coo, a column below 0": lambda S: _with(S.tocoo(), "col", np.array([0, -1, 1, 1, 2])),
    "coo, fewer values": lambda S: _with(S.tocoo(), "data", np.ones(3)),
    "dia, fewer diagonals": lambda S: _with(S.todia(), "data", np.ones((1, 5))),
    "dia, an offset that 32 bits do not hold": lambda S: _with(S.todia(), "offsets", S.todia().offsets.astype("i8") + 2**32),
    "lil, more values": lambda S: _list_of(S.tolil(), "data", [1.0] * 50_000),
    "lil, more columns": lambda S: _list_of(S.tolil(), "rows", [0] * 50_000),
    "lil, a column beyond the last": lambda S: _list_of(S.tolil(), "rows", [0, 9]),
    "lil, a column that is text": lambda S: _list_of(S.tolil(), "rows", [0, "a"]),
    "lil, a row that is none": lambda S: _list_of(S.tolil(), "rows", None),
    "lil, no rows": lambda S: _with(S.tolil(), "rows", np.empty(0, object)),
}


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("kind", ["array", "matrix"])
def test_sparse_arrays_that_do_not_fit_together_are_refused_before_scipy_uses_them(how, kind):
    """SciPy looks at them when a matrix is made. Afterwards it reads and writes wherever they point to."""
    S = getattr(sp, f"csr_{kind}")((np.ones(5), [0, 4, 2, 3, 1], [0, 2, 4, 5]), shape=(3, 5))
    S.has_canonical_format  # noqa: B018  # SciPy notes what it finds, and does not look again
    with pytest.raises(
        ValueError, match=r"table must be a sound sparse matrix, got (csr|csc|bsr|coo|dia|lil) with .*Make it anew"
    ):
        Table.of(BROKEN[how](S), name="table")


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


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        ({"foo": "bar"}, TypeError, "argument must be .* string.* number"),  # the words of scikit-learn's check
        ("1", TypeError, "X must hold numbers, got text"),
        (b"1", TypeError, "X must hold numbers, got text"),
        (pd.NA, ValueError, "got NaN at row 1, column 2"),
        (None, ValueError, "got NaN at row 1, column 2"),
        (1j, TypeError, "X must hold numbers"),
        (np.complex64(1), TypeError, "X must hold numbers, got np.complex64"),
        (np.datetime64("1970-01-02"), TypeError, "X must hold numbers, got np.datetime64"),
        (np.timedelta64(1, "D"), TypeError, "X must hold numbers, got np.timedelta64"),
        (np.longdouble("1e4000"), ValueError, "got inf at row 1, column 2"),
        (Fraction(10**400), ValueError, "X must hold numbers"),
        (10**400, ValueError, "X must hold numbers"),
        ([1], (TypeError, ValueError), "X must hold numbers"),
    ],
)
def test_objects_must_be_numbers(X, value, error, match):
    wrong = X.astype(object)
    wrong[1, 2] = value
    with pytest.raises(error, match=match):
        ones(wrong)


@given(st.data())
def test_ones_or_the_first_wrong_entry(data):
    """Any small table of any dtype: all ones are found, or the first entry in row order that is neither 0 nor 1 is named."""
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    values = [0, 1] if dtype.kind == "b" else [0, 1, 0, 1, 0, 1, 2] if dtype.kind in "uO" else [0, 1, 0, 1, 0, 1, -1]
    n, D = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 9))
    flat = data.draw(st.lists(st.sampled_from(values), min_size=n * D, max_size=n * D))
    X = np.array(flat).reshape(n, D).astype(dtype)
    if data.draw(st.booleans()):
        X = np.asfortranarray(X)
    if dtype.str[1:] in ("i1", "u1", "i8", "f4", "f8") and dtype.isnative and data.draw(st.booleans()):
        X = sp.csr_array(X)
    wrong = [k for k, value in enumerate(flat) if value not in (0, 1)]
    if wrong:
        with pytest.raises(ValueError, match=f"at row {wrong[0] // D}, column {wrong[0] % D} "):
            ones(X)
    else:
        assert ones(X).ravel().tolist() == [bool(value) for value in flat]


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


def test_tables_need_numpy_alone():
    code = (
        "import sys, numpy as np; from made_fast.tables.table import Table; Table.of(np.ones((2, 3))).ones();"
        "assert not {'scipy', 'pandas', 'sklearn'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
