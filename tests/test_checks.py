"""What user input is taken, what is refused, and in which words."""

from __future__ import annotations

import re
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from made_fast import arguments, checks, threads
from made_fast.kernels import layout
from made_fast.masks import Connectivity, draw_connectivity

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
        (pd.NA, TypeError, "X must hold numbers, got objects that are none"),
        (None, ValueError, "got NaN at row 1, column 2"),
        (1j, TypeError, "X must hold numbers"),
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
    assert arguments.connectivity(good, 5, (4, 3)) is good
    one = draw_connectivity(1, (2,), "random", "uniform", np.random.default_rng(0))
    assert arguments.connectivity(one, 1, (2,)) is one  # its units have degree 1, though there is none to have
    for n, sizes in ((4, (4, 3)), (6, (4, 3)), (5, (4,)), (5, (3, 4)), (5, (4, 3, 1))):
        with pytest.raises(ValueError, match=rf"must be of {n} inputs and hidden layers of .* units, got 5 and"):
            arguments.connectivity(good, n, sizes)
    for places in ([1, 2, 3, 4, 4], [0, 1, 2, 3, 4], [1, 2, 3, 4, 6]):
        with pytest.raises(ValueError, match=r"ordering must hold each place 1\.\.5 once"):
            arguments.connectivity(Connectivity(np.array(places, np.int32), good.degrees), 5, (4, 3))
    for m in ([0, 1, 1], [1, 1, 5], [-1, 2, 2]):
        with pytest.raises(ValueError, match=r"degrees must be in 1\.\.4, got"):
            arguments.connectivity(Connectivity(good.ordering, (good.degrees[0], np.array(m, np.int32))), 5, (4, 3))


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
        "import sys, numpy as np; from made_fast import checks, data; data.pack_rows(np.ones((2, 3)), np.arange(3));"
        "assert not {'scipy', 'pandas', 'sklearn'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
