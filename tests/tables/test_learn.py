"""What columns are: kinds that are inferred or said, levels, and refusals that name the column."""

from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from tables.column_cases import FRAME, NUMBERS, column_of, density

from made_fast.tables.columns.learn import learn

# What columns are


def kinds(X, **kwargs):
    return [column.kind for column in learn(X, **kwargs).columns]


def test_kinds_are_inferred_and_overridden():
    X = {
        "flag": [True, False, True],
        "bit": [0, 1, 1],
        "float bit": [0.0, 1.0, np.nan],
        "two": ["a", "b", "a"],
        "text": ["a", "b", "c"],
        "number": [1, 2, 5],
        "zip": ["01", "02", "03"],
        "constant": [1, 1, 1],
    }
    assert kinds(X) == ["binary", "binary", "binary", "binary", "categorical", "numeric", "categorical", "numeric"]
    assert learn(X).widths.tolist() == [1, 1, 1, 1, 3, 0, 3, 0] or learn(X).n_levels[5] == 1
    asked = {"number": "categorical", 1: "numeric", "text": ["c", "b", "a"], "zip": "ordered", "two": "ordered"}
    columns = learn(X, columns=asked)
    assert kinds(X, columns=asked)[5] == "categorical"
    assert columns.columns[1].kind == "numeric"
    assert columns.columns[4].values == ("c", "b", "a")
    assert columns.ordered.tolist() == [False, True, False, True, True, False, True, True]
    assert kinds(X, categorical_features=["number"])[5] == "categorical"
    assert kinds(X, categorical_features=[5])[5] == "categorical"
    assert kinds(X, categorical_features=[False] * 5 + [True] + [False] * 2)[5] == "categorical"
    assert kinds(X, categorical_features=["number"], columns={"number": "numeric"})[5] == "numeric"
    categories = pd.DataFrame({"c": pd.Categorical([3, 1, 3], [3, 2, 1], ordered=True)})
    column = learn(categories).columns[0]
    assert (column.kind, column.values, column.ordered) == ("binary", (3, 1), True)
    assert learn(categories, columns={"c": "numeric"}).columns[0].kind == "numeric"


def test_the_rarest_categories_share_a_level_with_what_is_unseen():
    values = np.array(["a"] * 40 + ["b"] * 30 + ["c"] * 6 + ["d"] * 3 + ["e"], object)
    columns, column = column_of(values, max_categories=3)
    assert (column.values, column.folded) == (("a", "b"), ("c", "d", "e"))
    codes, log_share = density(columns, values)
    assert np.bincount(codes).tolist() == [40, 30, 10]
    assert np.exp(log_share[[0, 70, 76, 79]]) == pytest.approx([1, 0.6, 0.3, 0.1])
    (drawn,) = columns.decode(np.full((1000, 1), 2), ((np.arange(1000) + 0.5) / 1000)[:, None])
    assert [int((drawn == value).sum()) for value in "cde"] == [600, 300, 100]
    with pytest.raises(ValueError, match="column 'x', got 'f' in row 0"):
        columns.encode({"x": ["f"]})
    columns, column = column_of(values, max_categories=3, handle_unknown="rare")
    codes, log_share = density(columns, np.array(["c", "f"], object))
    assert codes.tolist() == [2, 2]
    assert np.exp(log_share) == pytest.approx([6 / 11, 1 / 11])
    columns, column = column_of(values, handle_unknown="rare")
    assert column.n_levels == 6
    assert density(columns, np.array(["z"], object))[0].tolist() == [5]
    assert columns.decode(np.array([[5]]), np.zeros((1, 1)))[0].tolist() == [None]
    columns, _ = column_of(np.array([0, 1] * 9), handle_unknown="rare")
    assert columns.widths.tolist() == [1]
    with pytest.raises(ValueError, match=r"got 7 in row 0.* columns=\{'x': 'numeric'\} at fit takes any number"):
        columns.encode({"x": [7]})


def test_means_of_levels():
    columns = learn(
        {"b": [0, 1, 1], "t": ["x", "y", "x"], "f": [True, False, None], "c": [10, 20, 20]}, columns={"c": "categorical"}
    )
    assert [columns.level_means(v).tolist() for v in (0, 2, 3)] == [[0, 1], [0, 1], [10, 20]]
    with pytest.raises(TypeError, match="column 't' holds text"):
        columns.level_means(1)


def test_lines_on_the_columns():
    X = {"age": FRAME["age"], "t": FRAME["job"], "z": NUMBERS["spiked"][:40], "d": np.round(NUMBERS["normal"][:40], 1)}
    lines = learn(X, handle_unknown="rare", missing="value").describe()
    assert lines[0] == "age: numeric, whole numbers, 4 values from 22 to 41"
    assert lines[1] == "t: categorical, 3 values: a, b, c; a level for unseen ones; 25 % missing, a level of its own"
    assert "multiples of 0.1" in lines[3]


def test_all_missing_is_fine_once_there_are_columns():
    columns = learn(TRAINED)
    assert (columns.encode({name: [None, np.nan] for name in TRAINED}).codes == -1).all()


# Refusals

GOOD = {"x": [1.5, 2.5, 3.5], "t": ["a", "b", "c"]}
LEARN = [
    ({"x": [np.nan, None]}, {}, ValueError, "column 'x' with nothing but missing ones. Drop the column"),
    ({"x": [1.0, np.inf]}, {}, ValueError, "finite numbers, got inf in row 1 of column 'x'"),
    ({"x": ["a", 1]}, {}, TypeError, r"text \('a' in row 0\) beside numbers \(1 in row 1\) in column 'x'"),
    ({"x": [datetime.date(2020, 1, 1)]}, {}, TypeError, "column 'x'. Turn dates into numbers"),
    ({"x": np.array(["2020-01-01"], "M8[D]")}, {}, TypeError, "column 'x'. Turn dates into numbers"),
    (pd.DataFrame({"x": pd.date_range("2020", periods=3)}), {}, TypeError, "column 'x'. Turn dates into numbers"),
    (pd.DataFrame({"x": pd.date_range("2020", periods=3, tz="UTC")}), {}, TypeError, "column 'x'. Turn dates into numbers"),
    (pd.DataFrame({"x": pd.to_timedelta([1, 2], "s")}), {}, TypeError, "column 'x'. Turn dates into numbers"),
    (pd.DataFrame({"x": pd.period_range("2020", periods=3)}), {}, TypeError, "column 'x'. Turn dates into numbers"),
    (pl.DataFrame({"x": [datetime.date(2020, 1, 1)]}), {}, TypeError, "column 'x'. Turn dates into numbers"),
    (pl.DataFrame({"x": [[1]]}), {}, TypeError, "got List.* in column 'x'"),
    (pl.DataFrame({"x": [1]}).lazy(), {}, TypeError, "in memory, got LazyFrame. Collect it"),
    (pa.table({"x": [{"a": 1}]}), {}, TypeError, "got Struct.* in column 'x'"),
    ({"x": [[1], [2, 3]]}, {}, TypeError, r"got \[1\] of type list in row 0 in column 'x'"),
    ({"x": [{}, {}]}, {}, TypeError, "of type dict in row 0 in column 'x'"),
    ({"x": [1j, 2]}, {}, TypeError, "column 'x'. Pass the real"),
    ({"x": np.array([b"a"])}, {}, TypeError, "column 'x'. Decode it"),
    ({"x": [b"a"]}, {}, TypeError, "column 'x'. Decode it"),
    ({"x": [2**60]}, {}, ValueError, "at most 9.0072e.15 in column 'x', got 1152921504606846976 in row 0. Numbers that name"),
    ({"x": [1e301, 2.0]}, {}, ValueError, "at most 1e.300 in column 'x'"),
    ({"x": [10**400]}, {}, TypeError, "an int of hundreds of digits in column 'x'"),
    (
        {"x": [str(i) for i in range(70_000)]},
        {},
        ValueError,
        "at most 65536 different .* got 70000 in column 'x'. max_categories=100",
    ),
    ({"x": [str(i) for i in range(5000)]}, {"max_categories": 9}, ValueError, "at most 2304 different"),
    ({"x": [1, 2, 3]}, {"columns": {"x": "binary"}}, ValueError, "column 'x' has 3 values"),
    ({"x": ["a", "b"]}, {"columns": {"x": "numeric"}}, TypeError, "numbers in column 'x', got text, 'a' in row 0"),
    ({"x": [True, False]}, {"columns": {"x": "numeric"}}, TypeError, "booleans in column 'x'"),
    (GOOD, {"columns": {"y": "numeric"}}, ValueError, "columns must name columns of the table, got 'y'. There are 'x', 't'"),
    (GOOD, {"columns": {2: "numeric"}}, ValueError, r"columns 0\.\.1, got 2"),
    (GOOD, {"columns": {"t": "text"}}, ValueError, r"columns\['t'\] must be one of 'binary'"),
    (GOOD, {"columns": {"t": 3}}, TypeError, r"columns\['t'\] must be one of"),
    (GOOD, {"columns": {"t": ["a", "b"]}}, ValueError, "got none that is 'c'. Add it"),
    (GOOD, {"columns": {"t": ["a", "b", "b"]}}, ValueError, "more than once"),
    (GOOD, {"columns": {"t": ["a", 1]}}, TypeError, "got 1 where it holds text"),
    (GOOD, {"columns": "numeric"}, TypeError, "columns must be a mapping"),
    (GOOD, {"categorical_features": "t"}, ValueError, r"Write \['t'\]"),
    (GOOD, {"categorical_features": ["u"]}, ValueError, "categorical_features must name columns"),
    (GOOD, {"categorical_features": [True]}, ValueError, "one flag for each of the 2 columns"),
    (GOOD, {"categorical_features": [1.5]}, TypeError, "names or numbers of columns, got 1.5"),
    (GOOD, {"n_bins": 0}, ValueError, "n_bins must be an int >= 1"),
    (GOOD, {"max_categories": 1}, ValueError, "max_categories must be None or an int >= 2"),
    (GOOD, {"handle_unknown": "ignore"}, ValueError, "handle_unknown must be one of"),
    (GOOD, {"missing": "drop"}, ValueError, "missing must be one of"),
    (GOOD, {"sample_weight": [1, 2]}, ValueError, "sample_weight must have shape"),
    (GOOD, {"sample_weight": [0, 0, 0]}, ValueError, "not 0 for all rows"),
    (GOOD, {"names": ["a", "b"]}, ValueError, "has names of its own"),
    ([[1, 2]], {"names": ["a"]}, ValueError, "names of 2 columns, got 1"),
    ([[1, 2]], {"names": ["a", "a"]}, ValueError, "'a' more than once"),
    (pd.DataFrame([[1, 2]], columns=["a", "a"]), {}, ValueError, "'a' more than once"),
    ([], {}, ValueError, "at least 1 row"),
    ({}, {}, ValueError, "at least 1 row"),
    (np.zeros((3, 0)), {}, ValueError, "at least 1 column"),
    (np.zeros(3), {}, ValueError, r"shape \(rows, columns\), got shape \(3,\)"),
    (np.zeros((1, 2, 3)), {}, ValueError, r"got shape \(1, 2, 3\)"),
    (3, {}, ValueError, "got 3 of type int"),
    ("text", {}, ValueError, "got 'text' of type str"),
    (object(), {}, TypeError, "got <object"),
    ([[1, 2], [3]], {}, ValueError, "got 1 values in row 1 and 2 in others|got . values in row"),
    ([1, 2], {}, TypeError, "got 1 for a row|for a row"),
    ([{"a": 1}], {}, TypeError, "for a row. A dict of columns is one"),
    ({1: [1]}, {}, TypeError, "got 1 for a name"),
    ({"x": 3}, {}, ValueError, "got 3 in column 'x'"),
    ({"x": [1], "y": [1, 2]}, {}, ValueError, "got 2 in column 'y' and 1 in column 'x'"),
    ({"x": np.zeros((2, 2))}, {}, ValueError, r"got shape \(2, 2\) in column 'x'"),
]


@pytest.mark.parametrize(("X", "options", "cause", "match"), LEARN)
def test_what_cannot_be_learned_is_refused_in_one_line(X, options, cause, match):
    with pytest.raises(cause, match=match) as caught:
        learn(X, **options)
    assert "\n" not in str(caught.value)


TRAINED = {"age": [20, 30, 40] * 9, "sex": ["F", "M", "F"] * 9, "r": [0.5, 1.25, 3.0] * 9, "b": [0, 1, 1] * 9}
ENCODE = [
    ({"sex": ["f", "M"]}, ValueError, "column 'sex', got 'f' in row 0. Did you mean|There are"),
    ({"sex": [1, 2]}, TypeError, "text in column 'sex', as in training, got numbers, 1 in row 0"),
    ({"age": ["a", "b"]}, TypeError, "numbers in column 'age', got text, 'a' in row 0"),
    ({"age": [1.5, 2]}, ValueError, "whole numbers in column 'age', as in training, got 1.5 in row 0"),
    ({"r": [1.0, -np.inf]}, ValueError, "finite numbers, got -inf in row 1 of column 'r'"),
    ({"b": [1, 2]}, ValueError, r"column 'b', got 2 in row 1.*columns=\{'b': 'numeric'\}"),
    ({"age": None}, ValueError, "X must have the columns of training, in any order: it lacks 'age'"),
    ({"Age": [1, 2]}, ValueError, "it has beside them 'Age'"),
    ({"age": None, "Age": [1, 2]}, ValueError, "it lacks 'age'; it has beside them 'Age'. Did you mean 'age'"),
]


@pytest.mark.parametrize(("change", "cause", "match"), ENCODE)
def test_what_does_not_fit_the_columns_is_refused_in_one_line(change, cause, match):
    columns = learn(TRAINED)
    X = {name: column[:2] for name, column in TRAINED.items()} | change
    with pytest.raises(cause, match=match) as caught:
        columns.encode({name: column for name, column in X.items() if column is not None})
    assert "\n" not in str(caught.value)


def test_other_numbers_of_columns_are_refused():
    columns = learn(TRAINED)
    with pytest.raises(ValueError, match="X has 3 features, but MADE is expecting 4 features as input"):
        columns.encode(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="more than once 'age'"):
        columns.encode(pd.DataFrame([[1, 1, "F", 0.5, 0]], columns=["age", "age", "sex", "r", "b"]))
    with pytest.raises(ValueError, match=r"target must name columns of the table, got 'Sex'\. Did you mean 'sex'"):
        columns.number("Sex", "target")
    with pytest.raises(ValueError, match=r"target must have columns 0\.\.3, got 4"):
        columns.number(4, "target")
