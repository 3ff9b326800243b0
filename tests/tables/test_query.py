"""Conditions on columns: their shares of levels are those of values drawn from these, and any text is read or refused."""

from __future__ import annotations

import operator
import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_fast.tables.columns.learn import learn
from made_fast.tables.columns.query import MOST_CHARACTERS, parse

RNG = np.random.default_rng(3)
N = 900
TABLE = {
    "age": RNG.integers(17, 91, N),
    "income": np.where(RNG.random(N) < 0.7, 0.0, RNG.lognormal(3, 1, N)),
    "price": np.round(RNG.normal(10, 3, N), 1),
    "years": np.where(RNG.random(N) < 0.2, np.nan, RNG.integers(0, 60, N)),
    "sex": RNG.choice(["Male", "Female"], N).astype(object),
    "home town": RNG.choice(["Bonn", "St. Gallen", "O'Hara", 'the "Q"', "and"], N).astype(object),
    "size": RNG.choice(["S", "M", "L", "XL"], N).astype(object),
    "grade": RNG.choice([1.0, 1.5, 4.0], N),
    "member": RNG.random(N) < 0.3,
    "bit": RNG.integers(0, 2, N),
    "word": RNG.choice([f"w{i:02d}" for i in range(30)], N).astype(object),
}
OPTIONS = {"columns": {"size": ["S", "M", "L", "XL"], "grade": "categorical"}, "max_categories": 8}
COLUMNS = learn(TABLE, **OPTIONS)
WITH_MISSING = learn(TABLE | {"sex": np.where(RNG.random(N) < 0.1, None, TABLE["sex"])}, missing="value", **OPTIONS)
M = 4000  # draws from each level
COMPARE = {"=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def draws(columns, v):
    """Return what is at evenly spaced places in each level of a column, (n_levels, M)."""
    n = int(columns.n_levels[v])
    uniforms = np.zeros((n * M, len(columns)))
    uniforms[:, v] = np.tile((np.arange(M) + 0.5) / M, n)
    codes = np.zeros((n * M, len(columns)), np.int32)
    codes[:, v] = np.repeat(np.arange(n), M)
    return columns.decode(codes, uniforms)[v].reshape(n, M)


DRAWS = {name: draws(COLUMNS, v) for v, name in enumerate(COLUMNS.names)}
SIZES = ["S", "M", "L", "XL"]


def holds(name, op, values):
    """Return the share of the draws of each level that meet a condition, as Python compares."""
    found = DRAWS[name]
    if name == "size" and op in ("<", "<=", ">", ">=", "between", "not between"):
        found = np.vectorize(SIZES.index)(found)
        values = [SIZES.index(value) for value in values]
    if op in COMPARE:
        true = COMPARE[op](found, values[0])
    elif op.endswith("between"):
        true = (found >= values[0]) & (found <= values[1])
    else:
        true = np.isin(found, values) if found.dtype != object else np.vectorize(lambda x: x in values)(found)
    return ~true if op.startswith("not") else true


def quoted(value):
    text = str(value)
    return "'" + text.replace("'", "''") + "'" if isinstance(value, str) else text


def as_text(name, op, values):
    called = '"' + name + '"' if " " in name else name
    if op in COMPARE:
        return f"{called} {op} {quoted(values[0])}"
    if op.endswith("between"):
        return f"{called} {op} {quoted(values[0])} and {quoted(values[1])}"
    return f"{called} {op} ({', '.join(map(quoted, values))})"


def random_condition(seed):
    name = seed.choice([name for name in TABLE if name != "years"])
    exact = {"income": [0.0], "price": np.round(TABLE["price"], 1).tolist()}.get(name, TABLE[name].tolist())
    near = {"income": seed.uniform(-5, 300), "price": seed.uniform(-3, 25), "age": seed.randint(0, 120)}
    ops = ["=", "!=", "in", "not in"]
    if name in ("age", "income", "price", "size", "grade", "bit"):
        ops += ["<", "<=", ">", ">=", "between", "not between"]
    op = seed.choice(ops)
    if op in ("=", "!=", "in", "not in"):
        return name, op, [seed.choice(exact) for _ in range(1 if op in COMPARE else seed.randint(1, 4))]
    values = [near[name] if name in near and seed.random() < 0.5 else seed.choice(exact) for _ in range(2)]
    if name in near and seed.random() < 0.5:
        values[1] = values[0] + seed.choice([0, 5, 40])
    return name, op, values[:1] if op in COMPARE else values


@pytest.mark.parametrize("seed", range(150))
def test_weights_are_the_shares_of_what_is_drawn(seed):
    rng = random.Random(seed)
    conditions = [random_condition(rng) for _ in range(rng.randint(1, 4))]
    if seed % 2:  # several on one column
        name = conditions[0][0]
        more = (random_condition(rng) for _ in range(200))
        conditions = [*conditions, *[each for each in more if each[0] == name][:2]]
    weights = parse(" and ".join(as_text(*condition) for condition in conditions), COLUMNS)
    for v, name in enumerate(COLUMNS.names):
        mine = [holds(*condition) for condition in conditions if condition[0] == name]
        if not mine:
            assert weights[v] is None
            continue
        expected = np.logical_and.reduce(mine).mean(axis=1)
        assert weights[v].shape == (COLUMNS.n_levels[v],)
        assert weights[v] == pytest.approx(expected, abs=6 / M)
        whole = np.isin(expected, (0, 1)) & (COLUMNS.columns[v].kind != "numeric")
        assert (weights[v][whole] == expected[whole]).all()


def test_a_partition_of_a_column_sums_to_one():
    for name, cut in (("age", 40), ("income", 17.3), ("price", 10.0), ("size", "M"), ("grade", 1.5)):
        v = COLUMNS.names.index(name)
        parts = [parse(f"{name} {op} {cut}", COLUMNS)[v] for op in ("<", ">=")]
        assert sum(parts) == pytest.approx(np.ones(COLUMNS.n_levels[v]))
        one = parse(f"{name} <= {cut} and {name} >= {cut}", COLUMNS)[v]
        if name != "income":
            assert one == pytest.approx(parse(f"{name} = {cut}", COLUMNS)[v])
            assert one.sum() > 0
    v = COLUMNS.names.index("income")
    tails = parse("income > 1e4", COLUMNS)[v]
    assert tails[:-1].sum() == 0
    assert 0 < tails[-1] < 1e-5


def test_null_has_a_level_or_is_refused():
    v = WITH_MISSING.names.index("years")
    s = WITH_MISSING.names.index("sex")
    last = WITH_MISSING.n_levels[v] - 1
    assert parse("years is null", WITH_MISSING)[v].tolist() == [0.0] * last + [1.0]
    assert parse("years IS NOT NULL", WITH_MISSING)[v].tolist() == [1.0] * last + [0.0]
    assert parse("sex != Male and sex is not null", WITH_MISSING)[s].tolist() == [1, 0, 0]
    assert parse("sex not in (Male)", WITH_MISSING)[s].tolist() == [1, 0, 0]
    assert parse("sex is null and sex = Male", WITH_MISSING)[s].tolist() == [0, 0, 0]
    assert parse("years is null and years is not null", WITH_MISSING)[v].tolist() == [0.0] * (last + 1)
    assert parse({"sex": None}, WITH_MISSING)[s].tolist() == [0, 0, 1]
    assert parse("years is not null", COLUMNS)[v] is None
    with pytest.raises(ValueError, match=r"got column 'years', where .* missing='value'"):
        parse("years is null", COLUMNS)


def same(a, b, columns=COLUMNS):
    a, b = parse(a, columns), parse(b, columns)
    return all((x is None and y is None) or np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_forms_of_one_condition():
    assert same("age > 40 and sex = Male", "AGE >40".replace("AGE", "age") + '\n AND sex== "Male" ')
    assert same({"age": (40, None), "sex": ["Male"]}, "age >= 40 and sex in (Male)")
    assert same({"age": (None, 40)}, "age <= 40")
    assert same({"age": (20, 40)}, "`age` between 20 and 40")
    assert same({0: np.array([20, 21])}, "age in (20, 21)")
    assert same({"age": 20, "member": True, "bit": np.int64(1)}, "age = 20.0 and member = true and bit = 1")
    assert same("sex <> Male", "sex not in ('Male')")
    assert same('"home town" in (\'O\'\'Hara\', "the ""Q""")', {"home town": {"O'Hara", 'the "Q"'}})
    assert same("`home town` = 'and'", {"home town": "and"})
    assert same({}, {})
    assert parse({}, COLUMNS) == [None] * len(COLUMNS)
    assert same("price = 10", "price between 9.95 and 10.04")
    assert same("age > 40.5", "age >= 41")
    assert same("age < -1e9", "age < 20 and age > 30")


def test_single_precision_numbers_are_compared_as_such():
    columns = learn({"x": np.float32([0.1, 0.2, 0.3] * 20 + [np.pi])}, columns={"x": "categorical"})
    assert parse("x = 0.1", columns)[0].tolist() == [1, 0, 0, 0]
    assert parse("x <= 0.2", columns)[0].tolist() == [1, 1, 0, 0]
    columns = learn({"x": np.float32([0.1, 0.2, np.pi] * 20)})
    assert parse("x = 0.1", columns)[0][0] > 0.9
    assert parse("x <= 0.1", columns)[0][0] > 0.9


REFUSED = [
    ("", ValueError, "the name of a column .*, got the end of the query"),
    ("age", ValueError, "=, !=, .* got the end of the query"),
    ("age 40", ValueError, "got '40' at character 4"),
    ("age > ", ValueError, "a value .* got the end"),
    ("age > 40 or sex = Male", ValueError, "must have and here, got 'or' at character 9"),
    ("age > 40 and", ValueError, "the name of a column here, got the end"),
    ("age between 1", ValueError, "must have and here"),
    ("age in 40", ValueError, r"must have \( here, got '40'"),
    ("age in (40", ValueError, r"must have \) here, got the end"),
    ("age in ()", ValueError, r"a value .*, got '\)'"),
    ("age is 40", ValueError, "must have null here"),
    ("age not 40", ValueError, "must have in or between here"),
    ("not age = 40", ValueError, "the name of a column .*, got 'not'"),
    ("(age = 40)", ValueError, r"the name of a column .*, got '\('"),
    ("age = 'x", ValueError, 'quotes closed, got "\'x" at character 6'),
    ("'age' = 40", ValueError, "the name of a column"),
    ("home town = Bonn", ValueError, "a query must name columns of the table, got 'home'"),
    ("Age = 40", ValueError, "a query must name columns of the table, got 'Age'. Did you mean 'age'"),
    ("sex = male", ValueError, "column 'sex', got 'male'. Did you mean 'Male'"),
    ("sex in (Male, Man)", ValueError, "column 'sex', got 'Man'"),
    ("sex < Male", ValueError, "column 'sex', whose values have no order"),
    ("size < small", ValueError, "column 'size', got 'small'. There are 'S', 'M', 'L', 'XL'"),
    ("age = forty", ValueError, "a number for column 'age', got 'forty'"),
    ("age = nan", ValueError, "a number for column 'age', got 'nan'"),
    ("age = inf", ValueError, "finite numbers, got inf"),
    ("age = 40.5", ValueError, "has whole numbers, got 40.5, whose probability is 0"),
    ("price = 10.05", ValueError, "has multiples of 0.1, got 10.05"),
    ("income = 12.5", ValueError, "column 'income', which has any numbers, got 12.5, whose probability is 0. Ask for a range"),
    ("grade = 2", ValueError, "column 'grade', got 2.0"),
    ("member = yes", ValueError, "true or false for column 'member', got 'yes'"),
    ("age = 4 " + "and age = 4 " * 5000, ValueError, f"at most {MOST_CHARACTERS} characters"),
    (f"age in ({','.join(['1'] * 1001)})", ValueError, "at most 1000 values"),
    ({"age": "x"}, ValueError, "a number for column 'age', got 'x'"),
    ({"age": (1, 2, 3)}, ValueError, "a range must be"),
    ({"age": (None, None)}, ValueError, "a range must be"),
    ({"age": []}, ValueError, "at least one, got none for column 'age'"),
    ({"sex": 3}, TypeError, "text for column 'sex', got 3"),
    ({"town": 3}, ValueError, "a query must name columns of the table, got 'town'"),
    ({99: 3}, ValueError, "a query must have columns 0"),
    ({1.5: 3}, TypeError, "names or numbers of columns, got 1.5"),
    ({"age": {1: 2}}, ValueError, "a number for column 'age'"),
    (None, TypeError, "text or a mapping of columns to values, got None"),
    (["age = 3"], TypeError, "text or a mapping"),
]


@pytest.mark.parametrize(("query", "cause", "match"), REFUSED, ids=[str(query)[:30] for query, *_ in REFUSED])
def test_what_is_no_query_is_refused_in_one_line(query, cause, match):
    with pytest.raises(cause, match=match) as caught:
        parse(query, COLUMNS)
    assert "\n" not in str(caught.value)


WORDS = [
    "age",
    "sex",
    "size",
    "and",
    "in",
    "not",
    "is",
    "null",
    "between",
    "(",
    ")",
    ",",
    "=",
    "<=",
    "<",
    "40",
    "Male",
    "'",
    '"',
]


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)))
def test_any_text_is_read_or_refused(text):
    try:
        found = parse(text, COLUMNS)
    except ValueError:
        return
    for weights in found:
        assert weights is None or ((weights >= 0) & (weights <= 1)).all()


@pytest.mark.parametrize(
    "text", ["'" * 16000, "''" * 8000 + "'", "age not in (" + "1," * 900 + "1) and ", "`" * 16000, "(" * 16000]
)
def test_hostile_text_takes_no_time(text):
    start = time.perf_counter()
    with pytest.raises(ValueError, match=r"query|column"):
        parse((text * (MOST_CHARACTERS // len(text)))[:MOST_CHARACTERS], COLUMNS)
    parse(
        "age not in (" + ",".join(map(str, range(1000))) + ") and age not in (" + ",".join(map(str, range(2000, 3000))) + ")",
        COLUMNS,
    )
    assert time.perf_counter() - start < 5
