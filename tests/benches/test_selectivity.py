"""``bench.tables.selectivity``: queries are counted, asked and judged right, and the tree's answers are sums over all rows."""

import gzip
import itertools
import json

import numpy as np
import pytest

from bench.tables import selectivity
from bench.tables.chow_liu_levels import ChowLiuLevels, mutual_information
from bench.tables.selectivity import Filter, Indexed
from made_fast.tables.columns.learn import learn
from made_fast.tables.columns.query import parse


@pytest.fixture
def table():
    """Return a table of a few kinds of columns, with missing texts."""
    rng = np.random.default_rng(0)
    n = 400
    a = rng.integers(0, 12, n)
    text = np.array([None if value == 3 else "abcdefghijkl"[value] for value in a], object)
    few = np.array(["x", "y"], object)[(a + rng.integers(0, 3, n)) % 2]
    return {"number": a * 2, "text": text, "few": few, "real": np.round(a + rng.random(n), 1)}


def satisfies(row, query):
    """Return whether a row, a dict, satisfies a query."""
    for name, operator, value in query:
        found = row[name]
        if value is None:
            if found is not None:
                return False
        elif found is None or not {"=": found == value, "<=": found <= value, ">=": found >= value}[operator]:
            return False
    return True


def test_rows_are_counted(table):
    indexed = Indexed.of(table)
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    queries = selectivity.draw_queries(indexed, 60, np.random.default_rng(1))
    assert {len(query) for query in queries} == {4}
    assert {each.operator for query in queries for each in query if each.column != "few"} == {"=", "<=", ">="}
    assert {each.operator for query in queries for each in query if each.column == "few"} == {"="}
    assert any(each.value is None for query in queries for each in query)
    for query in queries:
        assert indexed.count(query) == sum(satisfies(row, query) for row in rows) >= 1
    # literals that no row has, as in samples of a model
    for operator in ("=", "<=", ">="):
        query = [Filter("number", operator, 7)]
        assert indexed.count(query) == sum(satisfies(row, query) for row in rows)


def test_columns_hear_the_same_query(table):
    """The levels that a query leaves are those of the rows that satisfy it, where each value has one; the tails are small."""
    indexed = Indexed.of({name: table[name] for name in ("number", "text", "few")})
    few = {name: table[name] for name in indexed.values}
    columns = learn(few, missing="value")
    codes = columns.encode(few).codes
    for query in selectivity.draw_queries(indexed, 40, np.random.default_rng(2), 2):
        kept = np.ones(len(codes))
        for v, weights in enumerate(parse(indexed.demands(query), columns)):
            kept *= 1 if weights is None else weights[codes[:, v]]
        assert kept.sum() == pytest.approx(indexed.count(query), rel=0.1)


def test_q_errors_are_of_at_least_one_row():
    found = selectivity.q_errors(np.array([0.0, 2.0, 10.0, 0.3]), np.array([4, 1, 10, 1]))
    assert found.tolist() == [4.0, 2.0, 1.0, 1.0]


def test_the_tree_sums_over_all_rows():
    rng = np.random.default_rng(3)
    n_levels = [3, 1, 4, 2, 3]
    codes = np.stack([rng.integers(0, n, 200) for n in n_levels], axis=1)
    codes[:, 4] = np.where(rng.random(200) < 0.8, codes[:, 0], codes[:, 4])
    codes[:, 3] = codes[:, 2] % 2
    tree = ChowLiuLevels(n_levels, smoothing=0.5).fit(codes)
    assert tree.parents_[4] == 0
    assert 2 in (tree.parents_[3], tree.parents_[2]) or tree.parents_[2] == 3
    rows = np.array(list(itertools.product(*map(range, n_levels))))
    p = np.exp(tree.score_samples(rows))
    assert p.sum() == pytest.approx(1, abs=1e-6)
    assert tree.probability([None] * 5) == 1
    for some in itertools.product([False, True], repeat=5):
        weights = [rng.random(n) if there else None for n, there in zip(n_levels, some, strict=True)]
        each = p.copy()
        for v, w in enumerate(weights):
            each *= 1 if w is None else w[rows[:, v]]
        assert tree.probability(weights) == pytest.approx(each.sum(), rel=1e-6)


def test_independent_variables_have_no_information():
    assert mutual_information(np.outer([1.0, 2.0, 0.0], [3.0, 4.0])) == pytest.approx(0, abs=1e-12)
    assert mutual_information(np.diag([2.0, 2.0])) == pytest.approx(np.log(2))


def test_independence_and_samples(table):
    indexed = Indexed.of(table)
    estimate, _ = selectivity.independence(indexed)
    one = [[Filter("number", "<=", 8)], [Filter("text", "=", None)], [Filter("text", ">=", "d")]]
    for query in one:
        assert estimate(query) == pytest.approx(indexed.count(query) / 400)
    assert estimate([*one[0], *one[2]]) == pytest.approx(estimate(one[0]) * estimate(one[2]))
    whole, n_bytes = selectivity.sampling(indexed, 400, np.random.default_rng(0))
    assert whole(one[0]) == indexed.count(one[0]) / 400
    assert n_bytes == 4 * 400


@pytest.mark.slow
def test_all_of_it(tmp_path, capsys):
    rng = np.random.default_rng(4)
    carat, cut = rng.gamma(2, 1, 600).round(2), rng.integers(0, 3, 600)
    lines = [f"{c},{'abc'[k]},{(3 + k) * c:.2f}" for c, k in zip(carat, cut, strict=True)]
    with gzip.open(tmp_path / "diamonds.csv.gz", "wt") as file:
        file.write("\n".join(["carat,cut,price", *lines]) + "\n")
    places = ["--data", str(tmp_path), "--work", str(tmp_path)]
    assert selectivity.main([*places, "--sets", "diamonds", "--queries", "6", "--quick"]) == 0
    assert "independence" in capsys.readouterr().out
    found = json.loads((tmp_path / "selectivity.json").read_text())["sets"]["diamonds"]
    assert found["n_rows"] == 600
    assert {row["estimator"] for row in found["rows"]} >= {"one", "ensemble", "sample, 1 %"}
    assert all(row["all"]["max"] >= row["all"]["median"] >= 1 for row in found["rows"])
