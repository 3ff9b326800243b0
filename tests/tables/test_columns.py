"""Columns of a table: a true density within levels, and codes and back."""

from __future__ import annotations

import copy
import itertools
import json
import random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from tables.column_cases import FLOATS, FRAME, INTEGERS, NUMBERS, RNG, column_of, density

from made_fast.tables.columns.learn import learn
from made_fast.tables.columns.schema import Columns

# A true density


@pytest.mark.parametrize("name", FLOATS)
def test_the_density_of_each_level_of_reals_integrates_to_one(name):
    columns, column = column_of(NUMBERS[name])
    ends = np.unique(np.concatenate([column.low, column.high, (column.high[:-1] + column.low[1:]) / 2]))
    ends = np.concatenate([[ends[0] - 60 * column.scales[0]], ends, [ends[-1] + 60 * column.scales[1]]])
    total = np.zeros(column.n_levels)
    for i, (a, b) in enumerate(itertools.pairwise(ends)):
        middle = a + (b - a) / 2
        if column.dtype != np.float64:
            middle = np.float64(column.dtype.type(middle))
            if not a < middle < b:
                continue  # nothing of that precision is in between
        code, at = density(columns, np.array([middle], column.dtype))
        if 0 < i < len(ends) - 2:
            total[code[0]] += np.exp(at[0] + np.log(b - a))
        else:  # a tail

            def p(t, a=a, b=b):
                return np.exp(density(columns, np.array([a + t * (b - a)], column.dtype))[1][0] + np.log(b - a))

            total[code[0]] += quad(p, 0, 1, limit=200, epsabs=1e-8)[0]
    atoms = np.unique(column.low[column.low == column.high])
    if len(atoms):
        codes, at = density(columns, atoms.astype(column.dtype))
        np.add.at(total, codes, np.exp(at))
    assert total == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", sorted(set(INTEGERS) - {"large"}))
def test_the_probabilities_of_each_level_of_integers_sum_to_one(name):
    columns, column = column_of(INTEGERS[name])
    below, above = (int(40 * scale) + 1 for scale in column.scales)
    x = np.arange(int(column.low[0]) - below, int(column.high[-1]) + above + 1)
    codes, log_p = density(columns, x)
    assert (np.diff(codes) >= 0).all()
    assert np.bincount(codes, np.exp(log_p)) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("values", [*NUMBERS.values(), *INTEGERS.values()], ids=[*NUMBERS, *INTEGERS])
def test_values_of_levels_have_these_levels(values):
    columns, column = column_of(values)
    n = column.n_levels
    codes = np.tile(np.arange(n), 101)[:, None]
    uniforms = np.repeat(np.append(np.arange(100) / 100, 1 - 2**-53), n)[:, None]
    (decoded,) = columns.decode(codes, uniforms)
    assert decoded.dtype == values.dtype
    again, log_density = density(columns, decoded)
    assert (again == codes[:, 0]).all()
    assert np.isfinite(log_density).all()
    assert (columns.encode({"x": columns.level_values(0)}).codes[:, 0] == np.arange(n)).all()


@pytest.mark.parametrize("name", ["normal", "spiked", "two clusters", "a marker", "seven rows", "missing"])
def test_the_place_in_a_level_is_by_the_inverse_of_its_distribution(name):
    columns, column = column_of(NUMBERS[name])
    u = (np.arange(4000) + 0.5) / 4000
    for level in (0, column.n_levels // 2, column.n_levels - 1):
        (x,) = columns.decode(np.full((4000, 1), level), u[:, None])
        assert (np.diff(x) >= 0).all()
        _, at = density(columns, x)
        if column.low[level] < column.high[level]:  # dF / du = 1, where x is not on both sides of an end of the core
            inside = np.diff(x) * np.exp(at[:-1]) * 4000
            assert np.median(inside) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("name", ["one decimal", "halves", "ages", "float32, one decimal", "spiked, two decimals"])
def test_rounded_numbers_come_back_rounded_and_weigh_as_what_is_rounded_to_them(name):
    values = NUMBERS[name]
    columns, column = column_of(values)
    (x,) = columns.decode(np.tile(np.arange(column.n_levels), 50)[:, None], RNG.random((50 * column.n_levels, 1)))
    assert (np.round(x, column.decimals).astype(x.dtype) == x).all()
    k = (x - np.float64(values.min())) / column.step
    assert np.abs(k - np.round(k)).max() < 1e-4
    assert (column.low < column.high).all()  # no atom
    at = density(columns, values)[1]
    near = density(columns, (values + 0.2 * column.step).astype(values.dtype))[1]
    assert near == pytest.approx(at)


def test_levels_say_as_much_as_they_may():
    """A frequent value is a level of its own, and bins have about as many rows each, none too few of them."""
    values = NUMBERS["spiked"]
    columns, column = column_of(values, n_bins=16)
    codes = columns.encode({"x": values}).codes[:, 0]
    rows = np.bincount(codes)
    assert rows.tolist() == column.counts.tolist()
    zero = np.flatnonzero(column.single())
    assert column.low[zero].tolist() == [0]
    others = np.delete(rows, zero)
    assert others.min() >= 4
    assert others.max() <= 3 * others.min()
    _, few = column_of(np.repeat([1, 2, 5], 20))
    assert few.low.tolist() == few.high.tolist() == [1, 2, 5]
    _, rare = column_of(np.arange(20))
    assert rare.n_levels == 4


@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_what_is_stored_of_a_level_is_of_its_rows(name):
    values = NUMBERS[name]
    columns, column = column_of(values)
    codes = columns.encode({"x": values}).codes[:, 0]
    for level in range(column.n_levels):
        rows = values[codes == level].astype(np.float64)
        assert columns.level_means(0)[level] == pytest.approx(rows.mean())
        assert columns.level_values(0)[level] in rows
        assert column.low[level] <= rows.min() <= rows.max() <= column.high[level]


def test_weights_are_repeated_rows():
    values, times = RNG.normal(size=50), RNG.integers(0, 4, 50)
    weighted = column_of(values, sample_weight=times, n_bins=6)[1]
    repeated = column_of(np.repeat(values, times), n_bins=6)[1]
    share = weighted.counts.sum() / repeated.counts.sum()
    assert weighted.low == pytest.approx(repeated.low)
    assert weighted.counts / share == pytest.approx(repeated.counts)
    texts = np.array(list("abcdefghij"))[RNG.integers(0, 10, 50)].astype(object)
    weighted = column_of(texts, sample_weight=times, max_categories=4)[1]
    repeated = column_of(np.repeat(texts, times), max_categories=4)[1]
    assert weighted.values == repeated.values


def test_a_number_means_the_same_in_either_precision():
    for values in (NUMBERS["float32"], NUMBERS["float32, one decimal"], np.float32([0.1, 0.1, 0.2, 0.7] * 9)):
        columns, _ = column_of(values)
        assert (density(columns, values.astype(np.float64))[0] == density(columns, values)[0]).all()
    values = np.array([0.1, 0.2, np.pi] * 20)
    columns, _ = column_of(values)
    single = density(columns, values.astype(np.float32))
    assert single[1] == pytest.approx(density(columns, values)[1])
    assert density(columns, np.array([1e300, -1e300]))[1].max() < -700


def test_a_relative_density_has_no_unit_and_no_spikes():
    values = NUMBERS["spiked, two decimals"]
    parts = []
    for scale in (1, 1000):
        columns, _ = column_of(values * scale)
        parts.append(columns.encode({"x": values * scale}, density="relative").log_density)
    assert parts[0] == pytest.approx(parts[1], abs=0.1)
    assert parts[0].max() <= 0


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(st.floats(-1e300, 1e300), st.sampled_from([0.0, 1.0, -1.0, 0.1, 5e-324, 1e300, -1e300])),
        min_size=1,
        max_size=60,
    ),
    st.integers(1, 40),
)
def test_any_numbers_make_sound_levels(values, n_bins):
    x = np.array(values)
    columns, column = column_of(x, n_bins=n_bins, columns={"x": "numeric"})
    codes, log_density = density(columns, x)
    assert np.isfinite(log_density).all()
    assert np.bincount(codes, minlength=column.n_levels).min() > 0
    u = RNG.random((column.n_levels, 1))
    (back,) = columns.decode(np.arange(column.n_levels)[:, None], u)
    assert (density(columns, back)[0] == np.arange(column.n_levels)).all()
    assert Columns.from_json(json.loads(json.dumps(columns.to_json()))).to_json() == columns.to_json()


# Files


def every_field(found, path=()):
    """Yield the path to each field of what JSON holds."""
    items = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from every_field(value, (*path, key))


def changed(found, path, value):
    found = copy.deepcopy(found)
    at = found
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return found


def stored():
    X = {**FRAME, "z": NUMBERS["spiked"][:40], "c": np.arange(40), "w": np.array(list("abcdefgh") * 5, object)}
    return learn(pd.DataFrame(X), max_categories=5, missing="value", columns={"c": "categorical"}).to_json()


def test_json_comes_back_exactly():
    for values in (*NUMBERS.values(), *INTEGERS.values()):
        columns, column = column_of(values)
        back = Columns.from_json(json.loads(json.dumps(columns.to_json())))
        for field in ("low", "high", "counts", "medians", "means", "scales", "step", "decimals", "dtype"):
            assert np.array_equal(getattr(back.columns[0], field), getattr(column, field))
    assert Columns.from_json(stored()).to_json() == stored()


JUNK = [
    None,
    True,
    -1,
    0,
    3,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    [],
    {},
    [None],
    [[]],
    "os.system",
    10**400,
    ["a"],
    [1, 1],
]


def test_every_field_of_a_file_is_checked():
    """A changed field is refused in one line, or makes columns that work."""
    sound = stored()
    seed, texts = random.Random(0), []
    for path in every_field(sound):
        for value in seed.sample(JUNK, 6):
            found = changed(sound, path, value)
            try:
                columns = Columns.from_json(found)
            except ValueError as error:
                texts.append(str(error))
                continue
            n = columns.n_levels
            for u in (0.0, 0.999):
                codes = np.stack([np.arange(max(n)) % n_levels for n_levels in n], axis=1)
                arrays = columns.decode(codes, np.full(codes.shape, u))
                columns.frame(arrays)
                columns.describe()
                columns.encode(dict(zip(columns.names, arrays, strict=True)), density=True)
    assert len(texts) > 500
    assert not [text for text in texts if "\n" in text or len(text) > 500]


@pytest.mark.parametrize("found", JUNK)
def test_what_is_no_columns_is_refused(found):
    with pytest.raises(ValueError, match="columns must be"):
        Columns.from_json(found)
