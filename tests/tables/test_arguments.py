"""Arguments other than tables: values that are taken, values that are refused, and in which words."""

from __future__ import annotations

import itertools
import re
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_fast.kernels import layout
from made_fast.network.masks import Connectivity, check_connectivity, draw_connectivity
from made_fast.system import threads
from made_fast.tables import arguments

NUMBERS = [
    (arguments.positive_int, [1, 5, np.int8(3), np.uint64(2)], [0, -1], [1.0, "1", None, True, np.True_, [1]]),
    (arguments.positive_float, [1, 1e-300, np.float32(0.5)], [0, -1.0, np.nan, np.inf], ["1", None, True, 1j]),
    (arguments.fraction, [0.5, np.float32(0.1), 1e-9], [0, 1, 1.5, np.nan], ["0.5", None, True]),
    (arguments.non_negative_float, [0, 0.0, np.float32(0.5), 1e300], [-1, np.nan, np.inf], ["1", None, True, 1j]),
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
    assert len(arguments.shown("a" * 1000)) < 300


def optimizer(value):
    return arguments.choice(value, "optimizer", ("adam", "sgd"))


TAKEN = [
    (lambda value: arguments.positive_int(value, "n"), [10**5000]),
    (lambda value: arguments.how_many(value, "n", 2), [np.int8(3), 2**61]),
    (lambda value: arguments.how_many(value, "n", 2**70), [1]),
    (arguments.n_jobs, [None, 2, -1, np.int64(3)]),
    (arguments.verbosity, [0, 2, True, np.False_]),
    (lambda value: arguments.boolean(value, "flag"), [True, False, np.True_, np.False_]),
    (lambda value: arguments.mask_number(value, 3), [0, np.int64(2), np.uint8(1)]),
    (lambda value: arguments.the_mask(value, 3), [2]),
    (lambda value: arguments.the_mask(value, 1), ["odd"]),  # to be checked as a number
    (optimizer, ["adam"]),
    (arguments.hidden_sizes, [(), (500,), (3, 4)]),
    (arguments.n_threads, [np.int64(2)]),
]


@pytest.mark.parametrize(("check", "values"), TAKEN)
def test_taken(check, values):
    for value in values:
        found = check(value)
        assert found == value
        assert not isinstance(found, np.generic)


REFUSED = [
    (lambda value: arguments.positive_int(value, "n", largest=10), "n", [
        (11, ValueError, "an int >= 1 and at most 10, got 11"),
        (-(10**5000), ValueError, ".*got something without a repr")]),
    (lambda value: arguments.how_many(value, "n", 2), "n", [
        (2**61 + 1, ValueError, f"an int >= 1 and at most {2**61}, got {2**61 + 1}")]),
    (arguments.n_jobs, "n_jobs", [
        (0, ValueError, "None or an int other than 0, got 0"), ("2", TypeError, "None or an int, got '2' of type str")]),
    (arguments.verbosity, "verbose", [
        (value, (TypeError, ValueError), "an int >= 0, got") for value in ("loud", 1.5, -1, None)]),
    (arguments.n_threads, "n_threads", [
        (-1, ValueError, r"an int >= 1, got -1\. Leave it at None"),
        (2.0, TypeError, r"an int >= 1, got 2\.0 of type float")]),
    (lambda value: arguments.boolean(value, "flag"), "flag", [
        (value, TypeError, f"True or False, got {re.escape(repr(value))} of type")
        for value in (1, 0, None, "yes", 1.0, [True])]),
    (lambda value: arguments.mask_number(value, 3), "mask", [
        (3, ValueError, r"one of the model's masks 0\.\.2, got 3"), (-1, ValueError, "an int >= 0, got -1"),
        *((value, TypeError, "an int >= 0, got .* of type") for value in (None, True, 1.0, "0", [0], slice(2)))]),
    (lambda value: arguments.path(value, "checkpoint"), "checkpoint", [
        ("a\0", ValueError, r"no null characters, got 'a\\x00'"),
        *((value, TypeError, r"a str, bytes or os\.PathLike, got .* of type") for value in (None, 5, ["a"], True))]),
    (lambda value: arguments.mapping(value, "hyper"), "hyper", [(5, TypeError, "a mapping, got 5 of type int")]),
    (optimizer, "optimizer", [
        ("adm", ValueError, "one of 'adam', 'sgd', got 'adm'"),
        (None, TypeError, "one of 'adam', 'sgd', got None of type NoneType")]),
    (arguments.dtype, "dtype", [
        (value, error, "'float32' or 'float64', got") for error, values in (
            (ValueError, ["float16", np.int32, ">f4", str]),
            # NumPy warns of the third, and parses the next two
            (TypeError, [None, "real", "a5", "(2, 3)f4", ",", [("a", "f4")], {"names": ["a"], "formats": [1, 2]}, 32]),
        ) for value in values]),
    (arguments.generator, "random_state", [
        (-1, ValueError, "an int >= 0, got -1"), (True, TypeError, "None, an int >= 0, .*, got True of type bool"),
        (1.0, TypeError, ".*got 1.0 of type float"), ("seed", TypeError, ".*got 'seed' of type str")]),
    (arguments.hidden_sizes, "hidden_sizes", [
        (500, TypeError, r"a sequence of ints, got 500\. Write one hidden layer as \(500,\)"),
        (None, TypeError, ".*got None of type NoneType"),
        (np.array(5), TypeError, r"a sequence of ints, got array\(5\)"),
        ((1,) * layout.MAX_LAYERS, ValueError, f".*at most {layout.MAX_LAYERS - 1} layers, got {layout.MAX_LAYERS}"),
        (itertools.count(1), ValueError, f".*at most {layout.MAX_LAYERS - 1} layers, got more than {layout.MAX_LAYERS - 1}")]),
    (arguments.hidden_sizes, r"hidden_sizes\[\d\]", [
        ((5, 0), ValueError, "an int >= 1, got 0"), ((5.0,), TypeError, "an int >= 1, got 5.0 of type float"),
        ((True,), TypeError, "an int >= 1, got True of type bool"),
        ((2**31,), ValueError, "an int >= 1 and at most 2147483647, got 2147483648"),
        ((np.timedelta64(3, "s"),), TypeError, r"an int >= 1, got np.timedelta64\(3,'s'\)")]),
    (lambda value: arguments.ordering(value, 3), "ordering", [
        ("reverse", ValueError, r"'natural', 'random' or the places 1\.\.3 of the features, each once, got 'reverse'"),
        ([0, 2, 1], ValueError, r".*got places 0\.\.2\. Places count from 1: add 1 to each"),
        ([3, 1, 3], ValueError, ".*got place 3 2 times and place 2 not at all"),
        ([1, 2, 4], ValueError, ".*got place 4 for feature 2"),
        ([-1, 2, 3], ValueError, ".*got place -1 for feature 0"),
        ([1.0, 2.0, 3.0], TypeError, ".*got 1.0 of type float for feature 0"),
        (np.eye(3, dtype=int), TypeError, ".*of type ndarray for feature 0"),
        (None, TypeError, ".*got None of type NoneType"),
        (itertools.count(1), ValueError, ".*got more than 3 places for 3 features"),
        (np.array(1), TypeError, r".*got array\(1\)"),
        ([1, 2, 10**5000], ValueError, ".*got place something without a repr for feature 2")]),
    (lambda value: arguments.sample_weight(value, 3), "sample_weight", [
        ([1, 2], ValueError, r"have shape \(3,\), one number a row, got \(2,\)"),
        (np.ones((3, 1)), ValueError, r"have shape \(3,\), .* got \(3, 1\)"),
        ([1, np.nan, 2], ValueError, "be finite"), ([1, -np.inf, 2], ValueError, "be finite"),
        (["1", "2", "3"], TypeError, "hold numbers, got dtype <U1"),
        ([1, None, 2], TypeError, "hold numbers, got dtype object"),
        (np.ones(3, complex), TypeError, "hold numbers, got dtype complex128")]),
    (lambda value: arguments.constants(value, "extra", ["a"]), "extra", [
        (value, TypeError, "a mapping of names to numbers, got .* of type") for value in (0.5, "a", [("a", 1)])]),
    (lambda value: arguments.constants(value, "extra", ["a"]), r"extra\['a'\]", [
        *(({"a": value}, ValueError, "a finite number >= 0") for value in (-1, np.nan, np.inf)),
        ({"a": "1"}, TypeError, "a finite number >= 0, got '1' of type str")]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("check", "name", "value", "error", "match"),
    [pytest.param(check, name, *case, id=f"{name} {i}") for check, name, cases in REFUSED for i, case in enumerate(cases)],
)
def test_refused(check, name, value, error, match):
    with pytest.raises(error, match=rf"{name} must (be |have )?({match})"):
        check(value)


def test_what_counts_as_the_same():
    assert arguments.n_threads(None) == threads.available()
    assert [arguments.path(p) for p in ("a", b"a", Path("a"))] == ["a", "a", "a"]
    given_ = {"a": 1}
    assert arguments.mapping(given_, "hyper") == given_
    assert arguments.mapping(given_, "hyper") is not given_
    assert arguments.mapping(None, "hyper") == {}
    for same in ([3, 4], np.array([3, 4], np.int16), range(3, 5)):
        assert arguments.hidden_sizes(same) == (3, 4)
    for value in ("float32", np.float32, np.dtype("f4"), "float64", float, "d"):
        assert arguments.dtype(value) in (np.float32, np.float64)
        assert arguments.dtype(value).isnative
    assert arguments.the_mask(None, 1) == 0
    with pytest.raises(ValueError, match=r"mask must say which member is meant: .* a mixture over 3 masks.*any up to 2"):
        arguments.the_mask(None, 3)


@given(st.permutations(range(1, 9)), st.sampled_from([list, tuple, np.array, pd.Series]))
def test_ordering_takes_every_permutation_of_the_places(places, container):
    found = arguments.ordering(container(places), 8)
    assert found.dtype == np.int32
    assert found.tolist() == places
    assert [arguments.ordering(name, 8) for name in ("natural", "random")] == ["natural", "random"]


class Failing:
    """An object that NumPy can make no array of."""

    def __array__(self, dtype=None, copy=None):
        raise KeyError


@pytest.mark.parametrize(
    ("check", "name"),
    [
        (lambda value: arguments.observed(value, 3), "observed"),
        (lambda value: arguments.target(value, 3, 5), "target"),
        (lambda value: arguments.sample_weight(value, 3), "sample_weight"),
    ],
)
def test_vectors_that_are_none_are_refused_by_name(check, name):
    with pytest.raises(ValueError, match=f"{name} must be .*, got a list of which NumPy makes no array"):
        check([1, [2, 3], 4])
    with pytest.raises(TypeError, match=f"{name} must be .*, got a Failing of which NumPy makes no array"):
        check(Failing())
    with pytest.raises(ValueError, match=f"{name} must be .*, got masked entries"):
        check(np.ma.masked_array([1, 2, 3], mask=[0, 1, 0]))


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
    for known, text in ((["a", "b"], "'a', 'b'"), ([], "nothing")):
        with pytest.raises(ValueError, match=f"extra may have {text} with this optimizer, got 'd'"):
            arguments.constants({"d": 1}, "extra", known)


def test_sample_weight():
    table = np.array([2, 9, 0, 9, -1], "f4")
    for value in ([2, 0, -1], (2.0, 0.0, -1.0), np.array([2, 0, -1], "i1"), table[::2], pd.Series([2, 0, -1])):
        found = arguments.sample_weight(value, 3)
        assert found.tolist() == [2.0, 0.0, -1.0]
        assert found.dtype == np.float64
        assert found.flags.c_contiguous
    assert arguments.sample_weight(None, 3).shape == (0,)
    assert arguments.sample_weight(2, 3).tolist() == [2.0, 2.0, 2.0]
    assert arguments.sample_weight([True, False], 2).tolist() == [1.0, 0.0]


def test_generators():
    for make in (partial(int, 7), partial(np.int64, 7), partial(np.random.SeedSequence, 7), partial(np.random.RandomState, 7)):
        assert arguments.generator(make()).random() == arguments.generator(make()).random()
    rng, state = np.random.default_rng(0), np.random.RandomState(0)
    assert arguments.generator(rng) is rng
    assert arguments.generator(state).random() != arguments.generator(state).random()
    assert arguments.generator(None).random() != arguments.generator(None).random()
    state = np.random.mtrand._rand  # numpy.random stands for its global state, as for scikit-learn
    before = state.get_state()
    try:
        state.seed(7)
        first, second = (arguments.generator(np.random).random() for _ in range(2))
        state.seed(7)
        assert arguments.generator(np.random).random() == first != second
    finally:
        state.set_state(before)
