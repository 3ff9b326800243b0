"""Exported graphs of tables in ONNX Runtime against their models: raw columns, gaps, contexts, names, refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from onnx_cases import facts, fed, log_p_by_conditionals, of_table, outputs, session
from table_cases import KINDS, all_rows, context_frame, levels_model, model_of
from tables.column_cases import INTEGERS, NUMBERS

from made_fast.inference.tablemodel import TableModel
from made_fast.tables.columns.encoder import Encoder
from made_fast.tables.columns.learn import learn

N = 700


def model_for(X, kind="one mask", context=None, dtype="float64", **options):
    """Return a model of random parameters with the columns of a table."""
    encoder = Encoder(learn(X, **options), None if context is None else learn(context, **options))
    return TableModel(levels_model(encoder, kind, dtype=dtype), encoder)


def compare(model, X, context=None, tolerance=1e-10):
    """Compare a graph with the model on rows that the model scores; return what the graph gives."""
    found = of_table(model.to_onnx(), X, context)
    np.testing.assert_allclose(found["log_p"], model.score_samples(X, context=context), rtol=tolerance, atol=tolerance)
    return found


def mixed(n=N, seed=0):
    """Return columns of every sort, some with gaps."""
    rng = np.random.default_rng(seed)
    hole = rng.random((n, 4)) < 0.2
    words = np.array([f"wörd {k}" for k in range(40)], object)
    return pd.DataFrame(
        {
            "text": words[np.minimum(rng.geometric(0.1, n) - 1, 39)],
            "text with gaps": np.where(hole[:, 0], None, rng.choice(np.array(["a", "b", "c"], object), n)),
            "flag": rng.random(n) < 0.3,
            "flag with gaps": pd.array(np.where(hole[:, 1], None, rng.random(n) < 0.5), "boolean"),
            "whole": rng.integers(-50, 900, n),
            "whole with gaps": pd.array(np.where(hole[:, 2], None, rng.integers(0, 99, n)), "Int64"),
            "code": rng.choice([-(2**62), 2**62, 2**62 + 1, 7], n),
            "number as category": rng.choice([0.1, 2.5, np.pi], n).astype(np.float32),
            "real": np.where(hole[:, 3], np.nan, rng.normal(size=n)),
            "amount": np.where(rng.random(n) < 0.6, 0, np.round(rng.lognormal(3, 2, n), 2)),
            "half": rng.normal(size=n).astype(np.float16),
            "constant": np.full(n, "same", object),
        }
    )


COLUMNS = {"code": "categorical", "number as category": "categorical", "text with gaps": ["c", "a", "b"]}


@pytest.mark.parametrize("context", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_gives_what_the_model_gives(kind, context):
    model, X = model_of(kind, context=context), all_rows()
    given = context_frame(len(X)) if context else None
    proto, found = model.to_onnx(), compare(model, X, given)
    if not context:
        assert abs(np.exp(found["log_p"]).sum() - 1) < 1e-12
    each, weights = log_p_by_conditionals(proto, found, model.columns.encode(X).codes)
    whole = np.logaddexp.reduce([np.log(w) + log_p for w, log_p in zip(weights, each, strict=True)], axis=0)
    np.testing.assert_allclose(whole, found["log_p"], rtol=1e-10)
    assert found["conditionals"].shape[1:-1] == ((len(weights),) if len(weights) > 1 else ())


@pytest.mark.parametrize("kind", ["one mask", "members"])
def test_in_float32(kind):
    model = model_of(kind, dtype="float32")
    found = compare(model, all_rows(), tolerance=1e-5)
    assert found["conditionals"].dtype == np.float32


def test_conditionals_are_those_of_the_network():
    model, X = model_of("one mask"), all_rows()
    (table, _), network = model._coded(X, None), model.density.member(0)
    from made_fast.tables.bits import pack_rows

    proba = network.conditionals(pack_rows(table, network.order), 1, by_feature=True)
    expected = np.exp(model.encoder.coding.log_levels(proba))
    np.testing.assert_allclose(of_table(model.to_onnx(), X)["conditionals"], expected, rtol=1e-10)


@pytest.mark.parametrize("missing", ["marginal", "value"])
@pytest.mark.parametrize("unknown", ["error", "rare"])
def test_columns_of_every_sort_and_their_gaps(missing, unknown):
    options = {"columns": COLUMNS, "missing": missing, "handle_unknown": unknown, "max_categories": 8}
    model, X = model_for(mixed(), **options), mixed(300, 1)
    proto, gone = model.to_onnx(), X.isna().any(axis=1).to_numpy()
    found = of_table(proto, X)
    assert 50 < gone.sum() < 250
    if missing == "marginal":
        assert np.isnan(found["log_p"][gone]).all()
        assert np.isnan(found["conditionals"][gone]).all()
        found, X = {name: values[~gone] for name, values in found.items()}, X[~gone]
    np.testing.assert_allclose(found["log_p"], model.score_samples(X), rtol=1e-10)
    kinds = {value.name: value.type[7:-1] for value in session(proto).get_inputs()}
    assert [kinds[name] for name in X] == [
        "string", "string", "bool", "double", "int64", "double", "int64", "float", "double", "double", "float16", "string",
    ]  # fmt: skip
    if unknown == "rare":
        X = X.assign(text="never seen", code=5, **{"number as category": np.float32(9)})
        np.testing.assert_allclose(of_table(proto, X)["log_p"], model.score_samples(X), rtol=1e-10)


OF_NUMBERS = NUMBERS | {f"whole {name}": x for name, x in INTEGERS.items()}
UNKNOWN = {
    "text": "never seen", "whole with gaps": 1.5, "code": 2**62 + 2, "number as category": np.inf, "real": -np.inf,
    "amount": np.inf, "constant": "other",
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_the_model_refuses_makes_its_row_nan(name):
    model = model_for(mixed(), columns=COLUMNS, missing="value")
    X = mixed(3, 1).astype({"whole with gaps": "Float64"})
    proto = model.to_onnx()
    before = of_table(proto, X)["log_p"]
    X.loc[1, name] = UNKNOWN[name]
    with pytest.raises(ValueError, match="X must hold"):
        model.score_samples(X)
    found = of_table(proto, X)
    assert np.isnan(found["log_p"]).tolist() == [False, True, False]
    assert np.isnan(found["conditionals"]).all(axis=1).tolist() == [False, True, False]
    assert (found["log_p"][[0, 2]] == before[[0, 2]]).all()


@pytest.mark.parametrize("name", OF_NUMBERS)
def test_numbers_are_as_likely_as_in_the_model(name):
    x = np.resize(OF_NUMBERS[name], max(len(OF_NUMBERS[name]), 2))
    model = model_for({"x": x, "y": np.resize(["a", "b"], len(x))}, n_bins=40)
    column = model.columns.columns[0]
    known = x[~np.isnan(x)].astype(np.float64)
    reach = known.max() - known.min() + 1
    ends = np.concatenate([column.low, column.high, column.cells.borders])
    asked = [known, ends, np.nextafter(ends, -np.inf), np.nextafter(ends, np.inf), (ends[1:] + ends[:-1]) / 2]
    asked = np.concatenate([*asked, known.min() - reach * 10.0 ** np.arange(8), known.max() + reach * 10.0 ** np.arange(8)])
    if column.whole:
        info = np.iinfo(x.dtype)
        asked = np.floor(np.clip(asked, info.min, min(info.max, 2**53)))
    with np.errstate(over="ignore"):
        asked = asked.astype(x.dtype)
    asked = asked[np.isfinite(asked)]
    compare(model, pd.DataFrame({"x": asked, "y": np.resize(["a", "b"], len(asked))}))


def test_many_levels_are_two_digits_and_unseen_ones_of_several_levels_are_not_told():
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"id": [f"i{k}" for k in range(1100)] * 5, "x": rng.normal(size=5500), "n": rng.integers(0, 10**6, 5500)})
    model = model_for(X)
    assert {column.base > 1 for column in model.columns.columns} == {True}
    assert model.columns.columns[0].spare
    X = X[::50].reset_index(drop=True)
    found = compare(model, X)
    ((log_p,), _) = log_p_by_conditionals(model.to_onnx(), found, model.columns.encode(X).codes)
    within = model.columns.encode(X, density=True, per_column=False).log_density
    np.testing.assert_allclose(log_p + within, found["log_p"], rtol=1e-10)
    X.loc[4, "id"] = "never seen"
    assert np.isfinite(model.score_samples(X)).all()
    assert np.flatnonzero(np.isnan(of_table(model.to_onnx(), X)["log_p"])).tolist() == [4]


@pytest.mark.parametrize("n", [0, 1])
def test_any_number_of_rows(n):
    X = mixed()
    model = model_for(X, columns=COLUMNS, missing="value")
    found = of_table(model.to_onnx(), X[:n])
    assert found["log_p"].shape == (n,)
    assert len(found["conditionals"]) == n


@pytest.mark.parametrize("name", ["colour", "size", "class"])
def test_columns_of_other_lengths_are_refused(name):
    feeds = {value.name: value for value in session(model_of(context=True).to_onnx()).get_inputs()}
    rows = pd.concat([all_rows()[:5], context_frame(5)], axis=1)
    feeds = {label: fed(rows[label], value.type)[: 1 if label == name else 5, None] for label, value in feeds.items()}
    with pytest.raises(Exception, match="Concat"):
        session(model_of(context=True).to_onnx()).run(None, feeds)


def test_an_empty_text_is_a_category_where_training_has_it():
    X = pd.DataFrame({"a": ["", "b", "c"] * 20, "y": np.arange(60) % 2})
    for missing in ("marginal", "value"):
        compare(model_for(X, missing=missing), X)
    with_gaps = X.assign(a=[None, "", "c"] * 20)
    model = model_for(with_gaps, missing="value")
    compare(model, with_gaps.dropna())
    assert "'' is a category" in next(value.doc_string for value in model.to_onnx().graph.input if value.name == "a")


def test_names_that_are_taken_or_empty():
    X = pd.DataFrame({name: [0, 1, 1, 0] * 9 for name in ("log_p", "conditionals", "gather_1", "constant_2", "ü b", "")})
    context = pd.DataFrame({name: [0, 0, 1, 1] * 9 for name in ("ü b", "log_p_")})
    model = model_for(X, context=context)
    compare(model, X, context)
    about = facts(model.to_onnx())
    assert [column["name"] for column in about["columns"]] == list(X)
    assert [column["input"] for part in ("columns", "context") for column in about[part]] == [
        "log_p_", "conditionals_", "gather_1", "constant_2", "ü b", "column", "ü b_", "log_p__",
    ]  # fmt: skip


def test_metadata_say_what_levels_are():
    X = pd.DataFrame({"a": ["u", None, "v"] * 20, "x": [0.5, 1.5, 2.5] * 20})
    proto = model_for(X, columns={"a": "categorical"}, missing="value").to_onnx()
    about = facts(proto)
    assert about["columns"] == [
        {"name": "a", "input": "a", "kind": "categorical", "values": ["u", "v", None]},
        {"name": "x", "input": "x", "kind": "numeric", "values": [0.5, 1.5, 2.5]},
    ]
    assert about["conditionals"] == [
        {"column": "a", "start": 0, "stop": 3}, {"column": "x", "start": 3, "stop": 6},
    ]  # fmt: skip
    assert "'' is missing" in proto.graph.input[0].doc_string


def test_arrays_without_names():
    X = np.random.default_rng(0).integers(0, 4, (50, 3))
    model = model_for(X, context=X[:, :1])
    feeds = {name: X[:, j : j + 1] for name, j in (("x0", 0), ("x1", 1), ("x2", 2), ("x0_", 0))}
    log_p = outputs(model.to_onnx(), feeds)["log_p"]
    np.testing.assert_allclose(log_p, model.score_samples(X, context=X[:, :1]), rtol=1e-10)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (np.array([2**64 - 1, 2, 3] * 9, np.uint64), r"column 'x' must hold numbers that int64 tells apart"),
        (pd.array([2**60, None, 3] * 9, "Int64"), "column 'x' must hold numbers that float64 tells apart"),
    ],
)
def test_numbers_that_no_input_holds_are_refused(values, match):
    model = model_for(pd.DataFrame({"x": values}), columns={"x": "categorical"}, missing="value")
    with pytest.raises(ValueError, match=match):
        model.to_onnx()


def test_half_characters_and_models_without_their_columns_are_refused(tmp_path):
    model = model_of()
    with pytest.raises(TypeError, match="Export the TableModel"):
        model.density.to_onnx()
    columns = model.columns
    odd = replace(columns.columns[0], values=("\ud800", "green", "red"))
    broken = TableModel(model.density, Encoder(replace(columns, columns=(odd, *columns.columns[1:]))))
    with pytest.raises(ValueError, match="must be Unicode text to be exported"):
        broken.to_onnx(tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
