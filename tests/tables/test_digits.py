"""Columns of two digits: levels to digits and back, weights of digits, and which columns get them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from made_fast.tables.columns import bins, learn
from made_fast.tables.columns.schema import Columns
from made_fast.tables.digits import Digits

SIZES, BASES = (3, 12, 1, 35, 2), (1, 4, 1, 7, 1)


def test_levels_come_back_from_their_digits():
    digits, rng = Digits(SIZES, BASES), np.random.default_rng(0)
    assert digits.n_levels == (3, 3, 4, 1, 5, 7, 2)
    codes = np.stack([rng.integers(-1, size, 500) for size in SIZES], axis=1).astype(np.int8)
    parts = digits.split(codes)
    assert parts.shape == (500, 7)
    assert ((parts >= -1) & (parts < digits.n_levels)).all()
    assert ((parts[:, 1] < 0) == (codes[:, 1] < 0)).all()
    assert ((parts[:, 2] < 0) == (codes[:, 1] < 0)).all()
    assert np.array_equal(digits.join(parts), codes)
    assert np.array_equal(digits.join(parts.reshape(5, 100, 7)), codes.reshape(5, 100, 5))
    assert np.array_equal(digits.total(parts.astype(float))[:, 1], parts[:, 1] + parts[:, 2])
    assert [digits.of(v) for v in (0, 1, 2)] == [slice(0, 1), slice(1, 3), slice(3, 4)]
    assert digits.column_of.tolist() == [0, 1, 1, 2, 3, 3, 4]


def test_columns_of_one_digit_stay_as_they_are():
    digits, codes = Digits(SIZES, (1,) * 5), np.zeros((4, 5), np.int8)
    assert digits.single
    assert digits.split(codes) is codes
    assert digits.join(codes) is codes


WEIGHTS = {
    "one level": np.eye(35)[17],
    "a range": np.arange(35) > 9,
    "high digits": np.repeat([1.0, 0, 0, 1, 0], 7),
    "low digits": np.tile([0, 0.5, 0, 1, 0, 0, 0], 5),
    "shares": np.random.default_rng(1).random(35) * (np.arange(35) % 3 > 0),
    "nothing": np.zeros(35),
    "all": np.ones(35),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_of_digits_multiply_to_those_of_levels(name):
    weights = WEIGHTS[name].astype(float)
    found = Digits(SIZES, BASES).weights([None, None, np.ones(1), weights, np.array([0.0, 1])])
    assert [each is None for each in found[:3]] == [True] * 3
    high, low = found[4:6]
    of_high = np.ones(5) if high is None else high
    of_low = np.ones((5, 7)) if low is None else np.broadcast_to(low, (5, 7))
    np.testing.assert_allclose((of_high[:, None] * of_low).ravel(), weights)
    assert (low is None or low.ndim == 1) == (name not in ("a range", "shares"))


@pytest.mark.parametrize("n", [1025, 1300, 1999, 5000, 40_000])
def test_a_column_of_many_categories_has_two_digits_and_room_for_unseen_ones(n):
    rng = np.random.default_rng(n)
    names = [f"v{i:05}" for i in range(n)]
    column = learn.learn({"x": np.append(names, rng.choice(names, n)).astype(object)}).columns[0]
    assert column.unseen
    assert column.n_levels == n + 1 + column.spare
    assert column.n_levels % column.base == 0
    assert column.spare < column.base / 2
    assert 0.5 < column.base / n**0.5 < 2
    codes = np.arange(column.n_levels)
    values = column.decode(codes, np.zeros(len(codes)))
    assert values[:n].tolist() == names
    assert (values[n:] == None).all()  # noqa: E711  # what training did not show has no value
    columns = Columns((column,))
    kept = Columns.from_json(json.loads(json.dumps(Columns((column,), natives=learn.learn({"x": ["a"]}).natives).to_json())))
    unseen = [f"new {i}" for i in range(50)]
    for each in (columns, kept):
        assert np.array_equal(each.encode({"x": names}).codes[:, 0], np.arange(n))
        found = each.encode({"x": unseen}, density=True)
        assert set(found.codes[:, 0]) == set(range(n, column.n_levels))  # spread over all of theirs, and no other
        assert (found.log_density == 0).all()
    assert "two digits" in column.describe()


def test_a_few_hundred_categories_have_one_digit():
    names = [f"v{i}" for i in range(1024)]
    column = learn.learn({"x": names * 2}).columns[0]
    assert (column.base, column.spare, column.unseen) == (1, 0, False)


def test_rare_categories_share_a_level_of_many():
    names = [f"v{i:04}" for i in range(4000)]
    column = learn.learn({"x": names * 2 + names[:2000]}, max_categories=1500).columns[0]
    assert len(column.values) == 1499
    assert column.base > 1
    known = Columns((column,)).encode({"x": names}, density=True)
    assert set(known.codes[1500:, 0]) == {1499}
    np.testing.assert_allclose(np.exp(known.log_density[known.codes[:, 0] == 1499]).sum(), 1 - column.unseen_share)


@pytest.mark.parametrize("missing", ["marginal", "value"])
@pytest.mark.parametrize("n_bins", [None, 40, 100, 512])
@pytest.mark.parametrize("kind", ["normal", "whole", "ages", "spiked", "few"])
def test_numbers_of_many_rows_have_two_digits(kind, n_bins, missing):
    rng, n = np.random.default_rng(3), 6000
    x = {
        "normal": rng.normal(size=n),
        "whole": rng.integers(0, 5000, n).astype(float),
        "ages": np.clip(rng.normal(40, 15, n), 17, 90).round(),
        "spiked": np.where(rng.random(n) < 0.7, 0, rng.lognormal(size=n)),
        "few": rng.integers(0, 5, n).astype(float),
    }[kind]
    x[rng.random(n) < 0.1] = np.nan
    column = learn.learn({"x": x}, n_bins=n_bins, missing=missing).columns[0]
    assert column.n_levels % column.base == 0
    assert (column.base > 1) == (column.n_levels >= bins.MOST_IN_ONE)
    assert (column.base > 1) == (kind != "few")
    assert column.counts.sum() == pytest.approx((~np.isnan(x)).sum())
    assert (column.low[1:] >= column.high[:-1]).all()
    fewer = learn.learn({"x": x[:4000]}, n_bins=n_bins, missing=missing).columns[0]
    assert fewer.base == 1
    context = learn.learn({"x": x}, n_bins=n_bins, missing=missing, digits=False).columns[0]
    assert context.base == 1
    assert 0 <= context.n_levels - column.n_levels < column.base


def groups(n: int, n_groups: int, seed: int = 0):
    """Return two columns of n values each that go together by groups, and a column that tells the group."""
    rng, rows = np.random.default_rng(seed), 20 * n
    group = rng.integers(0, n_groups, rows)
    one, two = (group + n_groups * rng.integers(0, n // n_groups, rows) for _ in range(2))  # neighbours are not alike
    return one, two, group


def test_categories_that_are_alike_share_a_high_digit(monkeypatch):
    monkeypatch.setattr(learn, "MOST_IN_ONE", 100)
    one, two, group = groups(400, 20)
    X = {
        "one": np.array([f"v{i:03}" for i in one], object),
        "two": np.array([f"w{i:03}" for i in two], object),
        "group": group,
    }
    columns = learn.learn(X, columns={"group": "categorical"})
    for name, numbers in (("one", one), ("two", two)):
        column = columns.columns[columns.names.index(name)]
        level = np.array([column.levels[value] for value in X[name]])
        assert sorted(column.values) == sorted(set(X[name]))
        shown = [len(np.unique(numbers[level // column.base == high] % 20)) for high in range(19)]
        assert np.mean(shown) < 6  # of 20 groups; 13 in the order of the names
    assert column.counts.tolist() == [np.sum(X["two"] == value) for value in column.values]
    again = learn.learn(X, columns={"group": "categorical"})
    assert again.to_json() == columns.to_json()


def test_an_order_that_says_as_much_is_kept(monkeypatch):
    monkeypatch.setattr(learn, "MOST_IN_ONE", 100)
    rng = np.random.default_rng(0)
    x = rng.normal(size=20_000)
    names = np.array([f"v{i:03}" for i in np.clip(x * 60 + 200, 0, 399).astype(int)], object)
    ordered = learn.learn({"name": names, "x": x + rng.normal(size=len(x)) / 3}, n_bins=30).columns[0]
    assert ordered.base > 1
    assert list(ordered.values) == sorted(ordered.values)
    alone = learn.learn({"name": names}).columns[0]  # nothing to tell by
    assert list(alone.values) == sorted(alone.values)
    said = [f"v{i:03}" for i in rng.permutation(400)]
    listed = learn.learn({"name": names, "x": x}, columns={"name": said}).columns[0]
    assert list(listed.values) == said  # an order that was given stays


@pytest.mark.parametrize(
    ("n_rows", "n_columns", "n_bins"),
    [(10, 3, 8), (900, 3, 30), (10_000, 10, 100), (60_000, 10, 512), (10**6, 80, 512), (10**6, 200, 64), (10**6, 400, 10),
     (10**6, 5000, 8), (100, 5000, 8), (4000, 240, 17)],
)  # fmt: skip
def test_how_many_bins_there_are_depends_on_the_size_of_the_table(n_rows, n_columns, n_bins):
    assert bins.usual(n_rows, n_columns) == n_bins
