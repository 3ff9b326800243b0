"""What user input is taken, what is refused, and in which words."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from made_fast import MADE, MixtureModel, load
from made_fast.kernels import layout
from made_fast.network.masks import Connectivity, check_connectivity, draw_connectivity
from made_fast.system import threads
from made_fast.tables import arguments, checks

FORMATS = ("csr", "csc", "coo", "bsr", "lil", "dok", "dia")
DTYPES = ("?", "i1", "u1", "<i2", ">i2", "<u4", "<i8", ">i8", "<u8", "<f2", "<f4", ">f4", "<f8", ">f8", "g", "O")


@pytest.fixture
def X():
    return (np.random.default_rng(0).random((7, 5)) < 0.5).astype(np.uint8)


def ones(X, binarize=None, **kwargs):
    return checks.ones(checks.matrix(X), binarize, **kwargs)


# Tables that are taken


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("binarize", [None, 0.5])
def test_every_dtype_gives_the_same_ones(X, dtype, binarize):
    assert (ones(X.astype(dtype), binarize) == X).all()


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
    rows = checks.matrix(change(X), 5)
    assert type(rows) is np.ndarray
    assert (checks.ones(rows) == X).all()


def test_read_only_memmap_is_neither_read_nor_copied(X, tmp_path):
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    rows = checks.matrix(mapped)
    assert np.shares_memory(rows, mapped)
    assert (checks.ones(rows[2:4]) == X[2:4]).all()


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


def test_sparse_storage_past_the_last_row_is_not_read(X):
    S = sp.csr_array(X)
    S.data, S.indices = np.append(S.data, [7, 7]), np.append(S.indices, [0, 0])
    assert (ones(S) == X).all()


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
        checks.matrix(X, 3)


@pytest.mark.parametrize("shape", [(1, 2**40), (1, 2**31), (2**20, 2**31)])
def test_more_columns_than_the_kernels_can_number_are_refused_at_once(shape):
    with pytest.raises(ValueError, match="X must have at most 2147483647 columns, got shape"):
        checks.matrix(np.broadcast_to(np.uint8(0), shape))
    with pytest.raises(ValueError, match=r"X has .* features, but MADE is expecting 3"):
        checks.matrix(np.broadcast_to(np.uint8(0), shape), 3)


class Convertible:
    """What NumPy asks for an array, and what it then gives."""

    def __init__(self, answer):
        self.answer = answer

    def __array__(self, dtype=None, copy=None):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_an_object_that_gives_an_array_is_taken_and_one_that_fails_to_is_refused(X):
    assert (checks.matrix(Convertible(X), 5) == X).all()
    for error in (AttributeError("no"), KeyError("no"), UserWarning("no")):
        with pytest.raises(TypeError, match=r"X must be a table of numbers, got Convertible, .* \(\w+: .*no"):
            checks.matrix(Convertible(error))
    with pytest.raises(ValueError, match="got rows that form no table"):
        checks.matrix(Convertible([[1]]))
    with pytest.raises(MemoryError):
        checks.matrix(Convertible(MemoryError()))


def test_masked_rows_in_a_list_keep_their_masks():
    row = np.ma.masked_array([1, 0, 1], mask=[0, 1, 0])
    with pytest.raises(ValueError, match="X must hold no masked entries, got some"):
        checks.matrix([row, row])
    assert checks.matrix([np.ma.masked_array([1, 0, 1])] * 2).shape == (2, 3)


def test_what_only_looks_sparse_is_not():
    class HalfSparse:
        def tocsr(self):
            return 5

    assert not checks.is_sparse(HalfSparse())
    assert not checks.is_sparse(sp.csr_array)
    with pytest.raises(TypeError, match=r"got HalfSparse. Pass an array"):
        checks.matrix(HalfSparse())


def test_refusal_names_the_argument_and_the_fewest_rows():
    with pytest.raises(ValueError, match=r"X_val must have shape \(rows, features\), got \(3,\)\."):
        checks.matrix([1, 0, 1], name="X_val")
    with pytest.raises(ValueError, match=r"1 sample\(s\) \(shape=\(1, 3\)\) while a minimum of 2"):
        checks.matrix(np.zeros((1, 3)), min_rows=2)
    assert checks.matrix(np.zeros((0, 3)), min_rows=0).shape == (0, 3)


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


@pytest.mark.parametrize(("value", "binarize", "found", "way_out"), WRONG)
@pytest.mark.parametrize("change", [np.asarray, np.asfortranarray, sp.csr_array, sp.csc_array, lambda X: X.astype(object)])
def test_first_wrong_value_is_named_with_its_row_and_column(X, value, binarize, found, way_out, change):
    wrong = X.astype(float)
    wrong[5, 0] = wrong[4, 3] = wrong[4, 4] = value
    with pytest.raises(ValueError, match=rf"X must hold {found} at row 4, column 3 \(counted from 0\)\. .*{way_out}"):
        ones(change(wrong), binarize)
    rows = checks.matrix(change(wrong))[3:]
    with pytest.raises(ValueError, match=r"table must hold .* at row 103, column 3"):
        checks.ones(rows, binarize, "table", 102)


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != "?"])
def test_every_dtype_refuses_two(X, dtype):
    wrong = X.astype(dtype)
    wrong[1, 2] = 2
    with pytest.raises(ValueError, match=r"got 2(\.0)? at row 1, column 2"):
        ones(wrong)
    assert (ones(wrong, 1.5) == (np.arange(35).reshape(7, 5) == 7)).all()


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
        checks.matrix(BROKEN[how](S), name="table")


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
    assert checks.matrix(S) is S
    S.indptr[n - 1 :] = n  # the last two entries are in one row now, and are one
    with pytest.raises(ValueError, match=rf"got 2\.0 at row {n - 2}, column 0"):
        ones(S)


def test_duplicates_that_sum_to_two_are_refused():
    S = sp.coo_array(([1, 1, 1], ([0, 1, 1], [0, 2, 2])), shape=(2, 3))
    with pytest.raises(ValueError, match="got 2 at row 1, column 2"):
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
    rows = checks.matrix(change(np.where(nan, np.nan, X).astype(dtype)))
    assert (checks.missing(rows) == nan).all()
    assert checks.missing(rows).dtype == bool
    want = (X if binarize is None else np.greater(X, binarize)) & ~nan
    assert (checks.ones(rows, binarize, missing=True) == want).all()
    with pytest.raises(ValueError, match="got NaN at row 0, column 4"):
        checks.ones(rows, binarize)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("change", [np.asarray, sp.csr_array])
def test_nothing_missing(X, dtype, change):
    assert checks.missing(checks.matrix(change(X.astype(known_to(change, dtype))))) is None


@pytest.mark.parametrize(("value", "binarize", "found", "way_out"), [case for case in WRONG if not np.isnan(case[0])])
@pytest.mark.parametrize("change", [np.asarray, sp.csr_array, lambda X: X.astype(object)])
def test_missing_entries_excuse_no_others(X, value, binarize, found, way_out, change):
    wrong = X.astype(float)
    wrong[0, 0] = wrong[4, 2] = np.nan
    wrong[4, 3] = value
    with pytest.raises(ValueError, match=rf"X must hold {found} at row 4, column 3 \(counted from 0\)\. .*{way_out}"):
        ones(change(wrong), binarize, missing=True)


# Hyper-parameters


@pytest.mark.parametrize(
    ("value", "sizes"),
    [((), ()), ([], ()), ((500,), (500,)), ([3, 4], (3, 4)), (np.array([7, 8], np.int16), (7, 8)), (range(1, 3), (1, 2))],
)
def test_hidden_sizes(value, sizes):
    assert arguments.hidden_sizes(value) == sizes
    assert all(type(size) is int for size in arguments.hidden_sizes(value))


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        (500, TypeError, r"hidden_sizes must be a sequence of ints, got 500\. Write one hidden layer as \(500,\)"),
        (np.int64(500), TypeError, r"\(500,\)"),
        ("500", TypeError, "got '500' of type str"),
        (None, TypeError, "got None of type NoneType"),
        ((5, 0), ValueError, r"hidden_sizes\[1\] must be an int >= 1, got 0"),
        ((5.0,), TypeError, r"hidden_sizes\[0\] must be an int >= 1, got 5.0 of type float"),
        ((True,), TypeError, r"hidden_sizes\[0\] must be an int >= 1, got True of type bool"),
        ((1,) * layout.MAX_LAYERS, ValueError, f"at most {layout.MAX_LAYERS - 1} layers, got {layout.MAX_LAYERS}"),
        (itertools.count(1), ValueError, f"at most {layout.MAX_LAYERS - 1} layers, got more than {layout.MAX_LAYERS - 1}"),
        (np.array(5), TypeError, r"hidden_sizes must be a sequence of ints, got array\(5\)"),
        ((2**31,), ValueError, r"hidden_sizes\[0\] must be an int >= 1 and at most 2147483647, got 2147483648"),
        ((np.timedelta64(3, "s"),), TypeError, r"hidden_sizes\[0\] must be an int >= 1, got np.timedelta64\(3,'s'\)"),
    ],
)
def test_refused_hidden_sizes(value, error, match):
    with pytest.raises(error, match=match):
        arguments.hidden_sizes(value)


@given(st.permutations(range(1, 9)), st.sampled_from([list, tuple, np.array, pd.Series]))
def test_ordering_takes_every_permutation_of_the_places(places, container):
    found = arguments.ordering(container(places), 8)
    assert found.dtype == np.int32
    assert found.tolist() == places
    assert [arguments.ordering(name, 8) for name in ("natural", "random")] == ["natural", "random"]


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        ("reverse", ValueError, r"'natural', 'random' or the places 1\.\.3 of the features, each once, got 'reverse'"),
        ([0, 2, 1], ValueError, r"got places 0\.\.2\. Places count from 1: add 1 to each"),
        ([1, 2], ValueError, "got 2 places for 3 features"),
        ([3, 1, 3], ValueError, "got place 3 2 times and place 2 not at all"),
        ([1, 2, 4], ValueError, "got place 4 for feature 2"),
        ([-1, 2, 3], ValueError, "got place -1 for feature 0"),
        ([1.0, 2.0, 3.0], TypeError, "got 1.0 of type float for feature 0"),
        ([True, 2, 3], TypeError, "got True of type bool"),
        (np.eye(3, dtype=int), TypeError, "of type ndarray for feature 0"),
        (None, TypeError, "got None of type NoneType"),
        (itertools.count(1), ValueError, "got more than 3 places for 3 features"),
        (np.array(1), TypeError, r"got array\(1\)"),
        ([1, 2, 10**5000], ValueError, "got place something without a repr for feature 2"),
    ],
)
def test_refused_orderings(value, error, match):
    with pytest.raises(error, match=match):
        arguments.ordering(value, 3)


NUMBERS = [
    (arguments.positive_int, [1, 5, np.int8(3), np.uint64(2)], [0, -1], [1.0, "1", None, True, np.True_, [1]]),
    (arguments.positive_float, [1, 1e-300, np.float32(0.5), np.int64(2)], [0, -1.0, np.nan, np.inf], ["1", None, True, 1j]),
    (arguments.fraction, [0.5, np.float32(0.1), 1e-9], [0, 1, 1.5, -0.1, np.nan], ["0.5", None, True]),
    (arguments.non_negative_float, [0, 0.0, 1, np.float32(0.5), 1e300], [-1, -1e-300, np.nan, np.inf], ["1", None, True, 1j]),
    (arguments.probability, [0, 0.0, 0.5, np.float32(0.1), 1 - 1e-16], [1, 1.0, -0.1, np.nan, np.inf], ["0.5", None, True]),
    (arguments.threshold, [None, 0, -1.5, np.float32(0.5)], [np.nan, np.inf], ["0.5", True, [0.5]]),
]


@pytest.mark.parametrize(("check", "good", "wrong_value", "wrong_type"), NUMBERS)
def test_numbers(check, good, wrong_value, wrong_type):
    for value in good:
        found = check(value, "alpha")
        assert found == value
        assert type(found) in (int, float, type(None))
    for value in wrong_value:
        with pytest.raises(ValueError, match=re.escape(f"got {value}") + "|" + re.escape(f"got {value!r}")):
            check(value, "alpha")
    for value in wrong_type:
        with pytest.raises(TypeError, match=rf"alpha must be .*, got {re.escape(repr(value))} of type"):
            check(value, "alpha")


def test_numbers_beyond_all_bounds_are_refused_in_words():
    for check in (arguments.positive_float, arguments.non_negative_float, arguments.threshold, arguments.fraction):
        for value in (10**400, Fraction(10**400), 10**5000, np.longdouble("1e4000")):
            with pytest.raises(ValueError, match="alpha must be"):
                check(value, "alpha")
        with pytest.raises(TypeError, match=r"alpha must be .* of type timedelta64"):
            check(np.timedelta64(1, "D"), "alpha")
    with pytest.raises(ValueError, match="n must be an int >= 1, got something without a repr"):
        arguments.positive_int(-(10**5000), "n")
    with pytest.raises(ValueError, match="n must be an int >= 1 and at most 10, got 11"):
        arguments.positive_int(11, "n", largest=10)
    assert arguments.positive_int(10**5000, "n") == 10**5000
    assert len(arguments.shown("a" * 1000)) < 300


def test_how_many():
    assert arguments.how_many(np.int8(3), "n", 100) == 3
    assert arguments.how_many(1, "n", 2**70) == 1
    assert arguments.how_many(2**61, "n", 2) == 2**61
    with pytest.raises(ValueError, match=f"n must be an int >= 1 and at most {2**61}, got {2**61 + 1}"):
        arguments.how_many(2**61 + 1, "n", 2)


def test_n_jobs_and_verbosity():
    assert [arguments.n_jobs(n) for n in (None, 2, -1, np.int64(3))] == [None, 2, -1, 3]
    with pytest.raises(ValueError, match="n_jobs must be None or an int other than 0, got 0"):
        arguments.n_jobs(0)
    with pytest.raises(TypeError, match="n_jobs must be None or an int, got '2' of type str"):
        arguments.n_jobs("2")
    assert [arguments.verbosity(v) for v in (0, 2, True, np.False_)] == [0, 2, 1, 0]
    for value in ("loud", 1.5, -1, None):
        with pytest.raises((TypeError, ValueError), match="verbose must be an int >= 0, got"):
            arguments.verbosity(value)


def test_path_and_mapping():
    assert [arguments.path(p) for p in ("a", b"a", Path("a"))] == ["a", "a", "a"]
    for value in (None, 5, ["a"], True):
        with pytest.raises(TypeError, match=r"path must be a str, bytes or os\.PathLike, got .* of type"):
            arguments.path(value)
    with pytest.raises(ValueError, match=r"checkpoint must have no null characters, got 'a\\x00'"):
        arguments.path("a\0", "checkpoint")
    given_ = {"a": 1}
    assert arguments.mapping(given_, "hyper") == given_
    assert arguments.mapping(given_, "hyper") is not given_
    assert arguments.mapping(None, "hyper") == {}
    with pytest.raises(TypeError, match="hyper must be a mapping, got 5 of type int"):
        arguments.mapping(5, "hyper")


def test_vectors_that_are_none_are_refused_by_name():
    masked = np.ma.masked_array([1, 2, 3], mask=[0, 1, 0])
    for check, name in (
        (lambda value: arguments.observed(value, 3), "observed"),
        (lambda value: arguments.target(value, 3, 5), "target"),
        (lambda value: arguments.sample_weight(value, 3), "sample_weight"),
    ):
        with pytest.raises(ValueError, match=f"{name} must be .*, got a list of which NumPy makes no array"):
            check([1, [2, 3], 4])
        with pytest.raises(TypeError, match=f"{name} must be .*, got a Convertible of which NumPy makes no array"):
            check(Convertible(KeyError()))
        with pytest.raises(ValueError, match=f"{name} must be .*, got masked entries"):
            check(masked)
    with pytest.raises(ValueError, match="sample_weight must be finite"):
        arguments.sample_weight(np.full(3, np.longdouble("1e4000")), 3)


def test_n_threads():
    assert arguments.n_threads(None) == threads.available()
    assert arguments.n_threads(np.int64(2)) == 2
    with pytest.raises(ValueError, match=r"n_threads must be an int >= 1, got -1\. Leave it at None"):
        arguments.n_threads(-1)
    with pytest.raises(TypeError, match=r"n_threads must be an int >= 1, got 2\.0 of type float"):
        arguments.n_threads(2.0)


def test_boolean():
    for value in (True, False, np.True_, np.False_):
        assert arguments.boolean(value, "flag") is bool(value)
    for value in (1, 0, None, "yes", 1.0, [True]):
        with pytest.raises(TypeError, match=rf"flag must be True or False, got {re.escape(repr(value))} of type"):
            arguments.boolean(value, "flag")


def test_mask_number():
    assert [arguments.mask_number(k, 3) for k in (0, np.int64(2), np.uint8(1))] == [0, 2, 1]
    assert type(arguments.mask_number(np.int64(2), 3)) is int
    with pytest.raises(ValueError, match=r"mask must be one of the model's masks 0\.\.2, got 3"):
        arguments.mask_number(3, 3)
    with pytest.raises(ValueError, match="mask must be an int >= 0, got -1"):
        arguments.mask_number(-1, 3)
    for value in (None, True, 1.0, "0", [0], slice(2)):
        with pytest.raises(TypeError, match=r"mask must be an int >= 0, got .* of type"):
            arguments.mask_number(value, 3)


def test_the_mask():
    assert arguments.the_mask(None, 1) == 0
    assert arguments.the_mask(2, 3) == 2
    assert arguments.the_mask("odd", 1) == "odd"  # to be checked as a number
    with pytest.raises(ValueError, match=r"mask must say which member is meant: .* a mixture over 3 masks.*any up to 2"):
        arguments.the_mask(None, 3)


def test_connectivity():
    good = draw_connectivity(5, (4, 3), "random", "uniform", np.random.default_rng(0))
    assert check_connectivity(good, 5, (4, 3)) is good
    one = draw_connectivity(1, (2,), "random", "uniform", np.random.default_rng(0))
    assert check_connectivity(one, 1, (2,)) is one  # its units have degree 1, though there is none to have
    for n, sizes in ((4, (4, 3)), (6, (4, 3)), (5, (4,)), (5, (3, 4)), (5, (4, 3, 1))):
        with pytest.raises(ValueError, match=rf"must be of {n} inputs and hidden layers of .* units, got 5 and"):
            check_connectivity(good, n, sizes)
    for places in ([1, 2, 3, 4, 4], [0, 1, 2, 3, 4], [1, 2, 3, 4, 6]):
        with pytest.raises(ValueError, match=r"ordering must hold each place 1\.\.5 once"):
            check_connectivity(Connectivity(np.array(places, np.int32), good.degrees), 5, (4, 3))
    for broken in (
        Connectivity(good.ordering.astype(float), good.degrees),
        Connectivity(good.ordering.tolist(), good.degrees),
        Connectivity(good.ordering[:, None], good.degrees),
        Connectivity(good.ordering, (good.degrees[0], good.degrees[1] + 0.5)),
        Connectivity(good.ordering, None),
    ):
        with pytest.raises(TypeError, match="the connectivity must be made of vectors of ints, got Connectivity"):
            check_connectivity(broken, 5, (4, 3))
    cast = check_connectivity(Connectivity(good.ordering.astype("i8"), tuple(m.astype("u2") for m in good.degrees)), 5, (4, 3))
    assert [m.dtype for m in (cast.ordering, *cast.degrees)] == [np.int32] * 3
    assert all(map(np.array_equal, (cast.ordering, *cast.degrees), (good.ordering, *good.degrees)))
    for m in ([0, 1, 1], [1, 1, 5], [-1, 2, 2]):
        with pytest.raises(ValueError, match=r"degrees must be in 1\.\.4, got"):
            check_connectivity(Connectivity(good.ordering, (good.degrees[0], np.array(m, np.int32))), 5, (4, 3))


def test_constants():
    assert arguments.constants(None, "extra", ["a"]) == {}
    found = arguments.constants({"b": np.float32(0.5), "a": 1}, "extra", ["a", "b", "c"])
    assert found == {"b": 0.5, "a": 1.0}
    assert all(type(number) is float for number in found.values())
    with pytest.raises(ValueError, match="extra may have 'a', 'b' with this optimizer, got 'd'"):
        arguments.constants({"d": 1}, "extra", ["a", "b"])
    with pytest.raises(ValueError, match="extra may have nothing with this optimizer, got 'd'"):
        arguments.constants({"d": 1}, "extra", [])
    for value in (-1, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"extra\['a'\] must be a finite number >= 0"):
            arguments.constants({"a": value}, "extra", ["a"])
    with pytest.raises(TypeError, match=r"extra\['a'\] must be a finite number >= 0, got '1' of type str"):
        arguments.constants({"a": "1"}, "extra", ["a"])
    for value in (0.5, "a", [("a", 1)]):
        with pytest.raises(TypeError, match=r"extra must be a mapping of names to numbers, got .* of type"):
            arguments.constants(value, "extra", ["a"])


@pytest.mark.parametrize(
    "value",
    [[2, 0, -1], (2.0, 0.0, -1.0), np.array([2, 0, -1], "i1"), np.array([2, 9, 0, 9, -1], "f4")[::2], pd.Series([2, 0, -1])],
)
def test_sample_weight(value):
    found = arguments.sample_weight(value, 3)
    assert found.tolist() == [2.0, 0.0, -1.0]
    assert found.dtype == np.float64
    assert found.flags.c_contiguous


def test_sample_weight_of_all_rows_and_none():
    assert arguments.sample_weight(None, 3).shape == (0,)
    assert arguments.sample_weight(2, 3).tolist() == [2.0, 2.0, 2.0]
    assert arguments.sample_weight([True, False], 2).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        ([1, 2], ValueError, r"sample_weight must have shape \(3,\), one number a row, got \(2,\)"),
        (np.ones((3, 1)), ValueError, r"sample_weight must have shape \(3,\), .* got \(3, 1\)"),
        ([], ValueError, r"sample_weight must have shape \(3,\), .* got \(0,\)"),
        ([1, np.nan, 2], ValueError, "sample_weight must be finite"),
        ([1, -np.inf, 2], ValueError, "sample_weight must be finite"),
        (["1", "2", "3"], TypeError, "sample_weight must hold numbers, got dtype <U1"),
        ([1, None, 2], TypeError, "sample_weight must hold numbers, got dtype object"),
        (np.ones(3, complex), TypeError, "sample_weight must hold numbers, got dtype complex128"),
    ],
)
def test_refused_sample_weights(value, error, match):
    with pytest.raises(error, match=match):
        arguments.sample_weight(value, 3)


def test_choice():
    assert arguments.choice("adam", "optimizer", ("adam", "sgd")) == "adam"
    with pytest.raises(ValueError, match="optimizer must be one of 'adam', 'sgd', got 'adm'"):
        arguments.choice("adm", "optimizer", ("adam", "sgd"))
    with pytest.raises(TypeError, match="optimizer must be one of 'adam', 'sgd', got None of type NoneType"):
        arguments.choice(None, "optimizer", ("adam", "sgd"))


@pytest.mark.parametrize("value", ["float32", np.float32, np.dtype("f4"), "float64", float, "d"])
def test_dtype(value):
    assert arguments.dtype(value) in (np.float32, np.float64)
    assert arguments.dtype(value).isnative


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("float16", ValueError),
        (np.int32, ValueError),
        (">f4", ValueError),
        (None, TypeError),
        ("real", TypeError),
        ("a5", TypeError),  # NumPy warns of these,
        ("(2, 3)f4", TypeError),  # and parses those
        (",", TypeError),
        ([("a", "f4")], TypeError),
        ({"names": ["a"], "formats": [1, 2]}, TypeError),
        (str, ValueError),
        (32, TypeError),
    ],
)
def test_refused_dtypes(value, error):
    with pytest.raises(error, match="dtype must be 'float32' or 'float64', got"):
        arguments.dtype(value)


@pytest.mark.parametrize(
    "make", [lambda: 7, lambda: np.int64(7), lambda: np.random.SeedSequence(7), lambda: np.random.RandomState(7)]
)
def test_generator_repeats(make):
    assert arguments.generator(make()).random() == arguments.generator(make()).random()


def test_generator_uses_a_generator_and_moves_a_random_state():
    rng = np.random.default_rng(0)
    assert arguments.generator(rng) is rng
    state = np.random.RandomState(0)
    assert arguments.generator(state).random() != arguments.generator(state).random()
    assert arguments.generator(None).random() != arguments.generator(None).random()


def test_the_module_of_random_numbers_stands_for_its_global_state():
    """As it does for scikit-learn's ``check_random_state``: whoever has seeded it gets the same numbers again."""
    state = np.random.mtrand._rand
    before = state.get_state()
    try:
        state.seed(7)
        first, second = (arguments.generator(np.random).random() for _ in range(2))
        state.seed(7)
        assert arguments.generator(np.random).random() == first != second
    finally:
        state.set_state(before)


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        (-1, ValueError, "random_state must be an int >= 0, got -1"),
        (True, TypeError, "random_state must be None, an int >= 0, .*, got True of type bool"),
        (1.0, TypeError, "got 1.0 of type float"),
        ("seed", TypeError, "got 'seed' of type str"),
    ],
)
def test_refused_random_states(value, error, match):
    with pytest.raises(error, match=match):
        arguments.generator(value)


def test_checks_need_numpy_alone():
    code = (
        "import sys, numpy as np; from made_fast.tables import checks, data; data.pack_rows(np.ones((2, 3)), np.arange(3));"
        "assert not {'scipy', 'pandas', 'sklearn'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_lack_of_memory_is_never_taken_for_bad_input(tmp_path):
    class Short(os.PathLike):
        """Whatever is asked of it, there is no memory for the answer."""

        def __fspath__(self, *_, **__):
            raise MemoryError

        __iter__ = __array__ = __float__ = __fspath__

    short, table = Short(), np.full((1, 4), 0, object)
    table[0, 0] = short
    made = MADE((4,), max_epochs=1, random_state=0).fit(np.eye(4))
    for call in (
        lambda: load(short),
        lambda: MADE.resume(short),
        lambda: made.save(short),
        lambda: MixtureModel(short),
        lambda: MADE(short).fit(np.eye(4)),
        lambda: made.score_samples(short),
        lambda: made.score_samples(table),
        lambda: MADE(ordering=short).fit(np.eye(4)),
    ):
        with pytest.raises(MemoryError):
            call()
