"""The doors of plain JSON: the same bits as Python's methods, and their texts where these refuse."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from served import D, bits, mixed_frame, records
from table_cases import context_frame, frame

GAPS = mixed_frame(6, 5).astype({"age": float}).assign(income=lambda f: f["income"].where(f["age"] > 50))


def ask(server, name, door, **body):
    found = server.ask(f"/models/{name}/{door}", body)
    assert found.status == 200, found.body
    assert found.headers["content-type"] == "application/json"
    return found.json


def forms(X):
    """Return a frame in all forms of rows."""
    rows = records(X)
    return rows, {name: [row[name] for row in rows] for name in X.columns}, [list(row.values()) for row in rows]


@pytest.mark.parametrize("form", range(3))
def test_scores_of_tables_are_those_of_python(server, models, form):
    X = mixed_frame(40, 3)
    found = ask(server, "mixed", "score", rows=forms(X)[form])
    np.testing.assert_array_equal(found["log_p"], models["mixed"].score_samples(X))
    assert found["std"] == [0.0] * 40


@pytest.mark.parametrize("name", ["bits", "masks"])
def test_scores_of_bits_are_those_of_python(server, models, name):
    X = bits(30)
    columns = {f"x{d}": X[:, d].tolist() for d in reversed(range(D))}
    listed = [{label: values[i] for label, values in columns.items()} for i in range(30)]
    for rows in (X.tolist(), X.astype(bool).tolist(), X.astype(float).tolist(), columns, listed):
        found = ask(server, name, "score", rows=rows)
        np.testing.assert_array_equal(found["log_p"], models[name].score_samples(X))


def test_what_is_missing_is_summed_out_and_estimates_say_so(server, models):
    X = bits(20).astype(float)
    X[:, :4] = np.nan
    X[3] = bits(20)[3]
    gaps = [[None if math.isnan(x) else x for x in row] for row in X.tolist()]
    from made_fast.inference.density import log_p_observed

    for options in ({}, {"n_members": 2, "random_state": 7, "n_walks": 50}):
        found = ask(server, "masks", "score", rows=gaps, **options)
        log_p, std = log_p_observed(models["masks"], X, None, warn=False, **{"random_state": 0} | options)
        np.testing.assert_array_equal(found["log_p"], log_p)
        np.testing.assert_array_equal(found["std"], std)
    found = ask(server, "mixed", "score", rows=records(GAPS))
    log_p, std = models["mixed"].log_observed(GAPS, warn=False, random_state=0)
    np.testing.assert_array_equal(found["log_p"], log_p)


def test_explanations(server, models):
    X = mixed_frame(9, 4)
    found = ask(server, "mixed", "explain", rows=records(X))
    assert found["columns"] == list(X.columns)
    np.testing.assert_array_equal(found["contributions"], models["mixed"].explain(X))
    np.testing.assert_allclose(np.sum(found["contributions"], axis=1), -models["mixed"].score_samples(X))
    relative = ask(server, "mixed", "explain", rows=records(X), relative=True)
    np.testing.assert_array_equal(relative["contributions"], models["mixed"].explain(X, relative=True))
    gone = ask(server, "mixed", "explain", rows=records(GAPS), random_state=3)
    np.testing.assert_array_equal(gone["contributions"], models["mixed"].explain(GAPS, random_state=3))
    binary = ask(server, "bits", "explain", rows=bits(5).tolist())
    np.testing.assert_array_equal(binary["contributions"], models["bits"].explain(bits(5)))


def test_draws(server, models):
    expected = models["mixed"].sample(8, 11)
    for form, found in zip(("objects", "columns", "lists"), forms(expected), strict=True):
        assert ask(server, "mixed", "sample", n=8, random_state=11, form=form)["rows"] == found
    drawn = ask(server, "bits", "sample", n=6, random_state=2, form="lists")["rows"]
    np.testing.assert_array_equal(drawn, models["bits"].sample(6, 2))
    assert ask(server, "mixed", "sample", n=30) != ask(server, "mixed", "sample", n=30)


@pytest.mark.parametrize("method", ["mode", "mean", "sample"])
def test_imputation(server, models, method):
    expected = records(pd.DataFrame(models["mixed"].impute(GAPS, method, random_state=1)))
    found = ask(server, "mixed", "impute", rows=records(GAPS), method=method, random_state=1)["rows"]
    assert [{k: pytest.approx(v) for k, v in row.items()} for row in expected] == found
    X = bits(4).tolist()
    X[0][3] = X[1][0] = None
    as_array = np.array(X, float)
    filled = ask(server, "masks", "impute", rows=X, method=method, random_state=1)["rows"]
    np.testing.assert_array_equal(filled, models["masks"].impute(as_array, method, random_state=1))


def test_numbers_beyond_the_ints_of_training_stay_as_they_are(server):
    rows = [ROW | {"age": 1e300, "sex": None}]
    (found,) = ask(server, "mixed", "impute", rows=rows)["rows"]
    assert found["age"] == 1e300


def test_conditionals(server, models):
    known = models["mixed"].conditional(GAPS, "income")
    found = ask(server, "mixed", "conditional", rows=records(GAPS), target="income", quantiles=[0.1, 0.9])
    np.testing.assert_array_equal(found["proba"], known.proba)
    np.testing.assert_array_equal(found["mean"], known.mean())
    np.testing.assert_array_equal(found["quantiles"], [known.quantile(q) for q in (0.1, 0.9)])
    assert found["mode"] == known.mode().tolist()
    assert found["column"] == "income"
    without = records(GAPS.drop(columns="sex"))  # the target may be left out
    short = ask(server, "mixed", "conditional", rows=without, target="sex", proba=False)
    assert short["mode"] == models["mixed"].conditional(GAPS, "sex").mode().tolist()
    assert "proba" not in short
    binary = ask(server, "bits", "conditional", rows=bits(3).tolist(), target=2)
    np.testing.assert_array_equal(np.array(binary["proba"])[:, 1], models["bits"].conditional(bits(3), 2))
    assert binary["column"] == "x2"


def test_queries(server, models):
    query = "age > 40 and sex = male"
    assert ask(server, "mixed", "query", query=query)["p"] == [models["mixed"].probability(query)]
    given = context_frame(3)
    p, std = models["given"].probability("size > 2", context=given, return_std=True)
    found = ask(server, "given", "query", query="size > 2", context=records(given))
    assert (found["p"], found["std"]) == (p.tolist(), std.tolist())


def test_estimates_have_a_note(server):
    late = [[1 if d == i else None for d in range(24)] for i in range(24)]  # some stand late in the ordering
    for door, more in (("impute", {}), ("conditional", {"target": 0})):
        (note,) = ask(server, "wide", door, rows=late, n_walks=8, **more)["notes"]
        assert "rows are estimates by importance sampling, 8 walks" in note
    assert "notes" not in ask(server, "bits", "impute", rows=bits(2).tolist())
    assert max(ask(server, "wide", "score", rows=late)["std"]) > 0


def test_contexts(server, models):
    X, given = frame(5, 2), context_frame(5, 3)
    model = models["given"]
    body = {"rows": records(X), "context": records(given)}
    np.testing.assert_array_equal(ask(server, "given", "score", **body)["log_p"], model.score_samples(X, context=given))
    one = records(given)[:1]
    np.testing.assert_array_equal(
        ask(server, "given", "score", rows=records(X), context=one)["log_p"], model.score_samples(X, context=given[:1])
    )
    np.testing.assert_array_equal(ask(server, "given", "explain", **body)["contributions"], model.explain(X, context=given))
    drawn = ask(server, "given", "sample", n=2, context=records(given), random_state=0)["rows"]
    assert drawn == records(pd.DataFrame(model.sample(2, 0, context=given)))
    refused = server.ask("/models/given/score", {"rows": records(X)})
    assert refused.status == 422
    assert "context must come with X" in refused.error
    refused = server.ask("/models/bits/score", {"rows": bits(1).tolist(), "context": [{"a": 1}]})
    assert "context must be left out" in refused.error


def test_descriptions(server):
    assert server.ask("/models").json == {"models": ["bits", "wide", "masks", "mixed", "levels", "given"]}
    mixed = server.ask("/models/mixed").json
    assert [column["name"] for column in mixed["columns"]] == list(mixed_frame().columns)
    town = mixed["columns"][1]
    assert (sorted(town["values"]), town["other_values"]) == (sorted(["Köln", 'say "hi"', "New, York"]), True)
    assert {"lowest": 18.0, "highest": 79.0, "whole": True}.items() <= mixed["columns"][3].items()
    given = server.ask("/models/given").json
    assert [column["name"] for column in given["context"]] == ["class", "level"]
    assert server.ask("/models/bits").json["columns"][D - 1] == {"name": f"x{D - 1}", "kind": "binary", "values": [0, 1]}


ROW = records(mixed_frame(1))[0]
REFUSED = [
    ("mixed", "score", {"rows": [ROW | {"agee": 3}]}, "it has beside them 'agee'"),
    ("mixed", "score", {"rows": [{k: v for k, v in ROW.items() if k != "age"}]}, "it lacks 'age'"),
    ("mixed", "score", {"rows": [ROW, ROW | {"x": 1}]}, r"others in row 1 than in row 0: \['x'\]"),
    ("mixed", "score", {"rows": [ROW, {**ROW, "sex": None, "y": 1}, 3]}, "same names in every row, got others in row 1"),
    ("mixed", "score", {"rows": [ROW, 3]}, "got 3 for row 1"),
    ("mixed", "score", {"rows": [ROW | {"age": "old"}]}, "must hold numbers in column 'age'"),
    ("mixed", "score", {"rows": [ROW | {"age": 3.5}]}, "must hold whole numbers in column 'age'"),
    ("mixed", "score", {"rows": [ROW | {"sex": 1}]}, "must hold text in column 'sex'"),
    ("mixed", "score", {"rows": [ROW | {"sex": ["male"]}]}, "an array of one dimension for each name"),
    ("mixed", "score", {"rows": [ROW | {"income": 10**400}]}, "an int of hundreds of digits"),
    ("mixed", "score", {"rows": []}, "X must have at least"),
    ("mixed", "score", {"rows": {}}, "X must have at least"),
    ("mixed", "score", {"rows": {k: [v] * (1 + (k == "age")) for k, v in ROW.items()}}, "columns of one length"),
    ("mixed", "score", {"rows": "male"}, "rows must be a list of objects, an object of columns or a list of lists"),
    ("mixed", "score", {}, "the body must have 'rows'"),
    ("mixed", "score", {"rows": [ROW], "walks": 3}, "got 'walks'"),
    ("mixed", "score", {"rows": [ROW], "n_walks": 0}, "n_walks must be an int >= 1"),
    ("mixed", "score", {"rows": [ROW], "n_walks": True}, "n_walks must be an int >= 1, got True of type bool"),
    ("mixed", "score", {"rows": [ROW], "n_walks": 10**9}, "n_walks must be at most 1,000,000"),
    ("mixed", "impute", {"rows": [ROW], "method": "median"}, "method must be one of"),
    ("mixed", "impute", {"rows": [ROW], "random_state": -1}, "random_state must be an int >= 0"),
    ("mixed", "score", {"rows": [ROW], "random_state": "1"}, "random_state must be an int >= 0, got '1'"),
    ("mixed", "explain", {"rows": [ROW], "random_state": -1}, "random_state must be an int >= 0"),
    ("mixed", "sample", {"n": 0}, "n must be an int >= 1"),
    ("mixed", "sample", {"form": "csv"}, "form must be one of"),
    ("mixed", "conditional", {"rows": [ROW]}, "must have 'target'"),
    ("mixed", "conditional", {"rows": [ROW], "target": "agee"}, "Did you mean 'age'"),
    ("mixed", "conditional", {"rows": [ROW], "target": "sex", "quantiles": [0.5]}, "whose values have an order"),
    ("mixed", "conditional", {"rows": [ROW], "target": "age", "quantiles": [2]}, "q must be in 0..1"),
    ("mixed", "query", {"query": "age >"}, "the end of the query"),
    ("mixed", "query", {"query": {"age": 3}}, "query must be text"),
    ("bits", "query", {"query": "x0 = 1"}, "bits is a model of 0/1 rows"),
    ("bits", "score", {"rows": [[2] + [0] * (D - 1)]}, "only 0 and 1, got 2 at row 0, column 0"),
    ("bits", "score", {"rows": [[0.5] + [0] * (D - 1)]}, "only 0 and 1, got 0.5"),
    ("bits", "score", {"rows": [["1"] + [0] * (D - 1)]}, "must hold numbers, got text"),
    ("bits", "score", {"rows": [[0] * D, [0]]}, r"X must have shape \(rows, 12\)"),
    ("bits", "score", {"rows": [3]}, r"X must have shape \(rows, 12\)"),
    ("bits", "score", {"rows": {"x0": [1]}}, "missing are 'x1'"),
    ("bits", "explain", {"rows": [[None] * D]}, "only 0 and 1, got NaN"),
]


@pytest.mark.parametrize(("name", "door", "body", "match"), REFUSED)
def test_what_a_model_refuses_is_told_in_its_words(server, name, door, body, match):
    found = server.ask(f"/models/{name}/{door}", body)
    assert found.status == 422, found.body
    assert re.search(match, found.error), found.error


def test_too_much_is_refused_before_work(server):
    for door, body, match in [
        ("score", {"rows": [ROW] * 100_001}, "at most 100,000 rows, got 100,001"),
        ("sample", {"n": 10**9}, "at most 4,000,000 entries"),
        (
            "impute",
            {"rows": [ROW | {"age": None}] * 5, "n_walks": 1_000_000},
            "n_members must be at most 4,000,000, got 5,000,000",
        ),
        ("score", {"rows": [ROW, ROW | {"age": None}] * 5, "n_walks": 1_000_000}, "at most 4,000,000, got 5,000,000"),
        ("explain", {"rows": {k: [v, None] * 5 for k, v in ROW.items()}, "n_walks": 1_000_000}, "got 5,000,000"),
        ("conditional", {"rows": [ROW] * 6, "target": "age", "n_walks": 1_000_000}, "got 6,000,000"),
    ]:
        found = server.ask(f"/models/mixed/{door}", body)
        assert found.status == 413, found.body
        assert match in found.error
    for door in ("score", "explain", "impute"):  # nothing is to be estimated
        assert server.ask(f"/models/mixed/{door}", {"rows": [ROW] * 9, "n_walks": 1_000_000}).status == 200
    many = server.ask("/models/bits/score", {"rows": bits(1).tolist() * 100_000})
    assert (many.status, len(many.json["log_p"])) == (200, 100_000)


BROKEN = [
    (b"", "Expecting value"),
    (b"{", "Expecting property name"),
    (b"[1, 2", "delimiter"),
    (b'{"rows": NaN}', "NaN is no number of JSON"),
    (b'{"rows": -Infinity}', "-Infinity is no number of JSON"),
    (b'{"rows": [], "rows": [[0]]}', "'rows' stands twice"),
    (b'{"rows": [{"age": 1, "age": 2}]}', "'age' stands twice"),
    (b"\xff{}", "utf-8"),
    (b'{"rows": "\\ud800"}', "half of a surrogate pair"),
    (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
    (b'{"rows": ' + b"9" * 5000 + b"}", "4300"),
    (b"{} {}", "Extra data"),
]


@pytest.mark.parametrize(("body", "match"), BROKEN)
def test_what_is_no_json_is_refused(server, body, match):
    found = server.ask("/models/mixed/score", body)
    assert found.status == 400, found.body
    assert match in found.error


def test_addresses_that_are_not_there(server):
    for path, status in [
        ("/models/nobody/score", 404),
        ("/models/..%2F..%2Fetc%2Fpasswd", 404),
        ("/models/%00", 404),
        ("/models/%FF%FE", 404),
        ("/nothing", 404),
        ("/docs", 404),
        ("/v2/models/bits/versions/2/infer", 404),
    ]:
        found = server.ask(path, {} if path.endswith(("score", "infer")) else None)
        assert (found.status, list(found.json)) == (status, ["error"])
    assert server.ask("/models/bits/score", method="DELETE").status == 405
    assert server.ask("/models/bits/score", b"{}", content_encoding="gzip").status == 415


def test_openapi_describes_every_door(server):
    found = server.ask("/openapi.json").json
    doors = [path for path in found["paths"] if path.startswith("/models/{name}/")]
    assert sorted(doors) == [f"/models/{{name}}/{d}" for d in ("conditional", "explain", "impute", "query", "sample", "score")]
    schema = found["paths"]["/models/{name}/score"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["rows"]
    assert schema["properties"]["n_walks"]["default"] == 256
    assert "http" not in json.dumps(found)
