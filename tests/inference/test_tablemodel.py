"""Models of tables against sums over all rows: scores, marginals, conditionals, queries, draws, completions."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from helpers import python
from scipy.stats import chisquare
from table_cases import COUNTS, KINDS, NAMES, VALUES, all_rows, context_frame, frame, model_of

import made_fast
from made_fast import ApproximationWarning, ModelFileError
from made_fast.inference import levels

HOLES = ([], [0], [2, 4], [0, 1, 2], [1, 3, 4], [0, 1, 2, 3, 4])


def answering(model, observed):
    """Return log p of every row under the networks that answer when these columns are known (one network)."""
    density, observed = model.density, observed[model.encoder.digits.column_of]
    if hasattr(density, "members"):
        parts = [one.member(one._answering(observed, 0)) for one in density.members]
        weights = density.weights
    else:
        parts, weights = [density.member(density._answering(observed, 0))], [1.0]
    table, _ = model._coded(all_rows(), None)
    from made_fast.tables.bits import pack_rows

    log_p = [np.log(w) + net.score(pack_rows(table, net.order), 1) for net, w in zip(parts, weights, strict=True)]
    return np.logaddexp.reduce(log_p, axis=0)


def with_holes(rows, holes):
    out = rows.astype(object)
    for v in holes:
        out[NAMES[v]] = None
    return out


def exact_marginal(model, rows, holes):
    """Return log p of what is there of rows, by a sum over all rows that agree with it."""
    observed = np.array([v not in holes for v in range(5)])
    every, log_p = all_rows(), answering(model, observed)
    seen = [NAMES[v] for v in range(5) if observed[v]]
    return np.array(
        [np.logaddexp.reduce(log_p[(every[seen] == row[seen]).all(axis=1).to_numpy()]) for _, row in rows.iterrows()]
    )


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_of_all_rows_add_up_to_1(kind, dtype):
    log_p = model_of(kind, dtype=dtype).score_samples(all_rows())
    assert len(log_p) == np.prod(COUNTS)
    assert abs(np.exp(log_p).sum() - 1) < (1e-10 if dtype == "float64" else 1e-5)


@pytest.mark.parametrize("holes", HOLES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_marginals_are_sums_over_what_is_missing(kind, holes):
    model, rows = model_of(kind), frame(9, 3)
    found, std = model.log_marginal(with_holes(rows, holes), return_std=True)
    np.testing.assert_allclose(found, exact_marginal(model, rows, holes), atol=1e-10)
    assert (std == 0).all()


@pytest.mark.parametrize("kind", ["one mask", "members"])
def test_estimates_agree_with_sums(kind, monkeypatch):
    model, rows = model_of(kind, seed=2), frame(20, 4)
    holes = [0, 2]
    exact = exact_marginal(model, rows, holes)
    monkeypatch.setattr(levels, "COMBINATIONS", 0)
    holed = with_holes(rows, holes)
    found, std = model.log_marginal(holed, n_walks=4000, return_std=True)
    assert (std > 0).any()
    assert (abs(found - exact) < 5 * std + 1e-9).all()
    with pytest.warns(ApproximationWarning, match="log_marginal"):
        model.log_marginal(holed, n_walks=4)


@pytest.mark.parametrize("target", range(5))
@pytest.mark.parametrize("kind", KINDS)
def test_conditionals_are_ratios(kind, target):
    model, rows = model_of(kind), frame(7, 5)
    holes = [(target + 1) % 5]
    found = model.conditional(with_holes(rows, holes), NAMES[target])
    joint = []
    for value in found.values:
        asked = rows.copy()
        asked[NAMES[target]] = value
        joint.append(exact_marginal(model, asked, holes))
    expected = np.exp(joint - np.logaddexp.reduce(joint, axis=0)).T
    np.testing.assert_allclose(found.proba, expected, atol=1e-10)
    np.testing.assert_allclose(found.proba.sum(axis=1), 1)
    assert (found.mode() == found.values[expected.argmax(axis=1)]).all()
    without = model.conditional(with_holes(rows, holes).drop(columns=NAMES[target]), target)
    assert np.array_equal(without.proba, found.proba)


QUERIES = {
    "colour = 'red'": lambda x: x.colour == "red",
    "size > 1 and letter in (a, b, e)": lambda x: (x["size"] > 1) & x.letter.isin(["a", "b", "e"]),
    "flag = true and size between 2 and 3 and colour != blue": lambda x: (
        x.flag & x["size"].between(2, 3) & (x.colour != "blue")
    ),
    "size <= 3 and size > 3": lambda x: x["size"] < 0,
    "size <= 3 and size > 3 and letter = a and letter = b and flag = true": lambda x: x["size"] < 0,
    "letter in (b, c, f) and size in (1, 7, 3) and colour != red": lambda x: (
        x.letter.isin(["b", "c", "f"]) & x["size"].isin([1, 7, 3]) & (x.colour != "red")
    ),
    "constant = same": lambda x: x["size"] > 0,
    "size < 4 and letter != c and colour in (red, green) and flag = false": lambda x: (
        (x["size"] < 4) & (x.letter != "c") & x.colour.isin(["red", "green"]) & ~x.flag
    ),
}


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("kind", KINDS)
def test_queries_are_sums(kind, query):
    model = model_of(kind, seed=1)
    every = all_rows()
    columns = [name for name in NAMES if name in query]
    log_p = answering(model, np.isin(NAMES, columns))
    expected = np.exp(log_p)[QUERIES[query](every).to_numpy()].sum()
    found, std = model.probability(query, return_std=True)
    assert found == pytest.approx(expected, abs=1e-10)
    assert std == 0


@pytest.mark.parametrize("query", QUERIES)
def test_queries_by_walks_agree(query, monkeypatch):
    model = model_of("one mask", seed=2)
    exact = model.probability(query)
    monkeypatch.setattr(levels, "COMBINATIONS", 0)
    found, std = model.probability(query, n_walks=20_000, return_std=True)
    assert abs(found - exact) <= 5 * std + 1e-9


def test_a_mapping_asks_the_same():
    model = model_of()
    asked = {"size": (2, None), "letter": ["a", "b"], "colour": "red"}
    assert model.probability(asked) == model.probability("size >= 2 and letter in (a, b) and colour = red")


@pytest.mark.parametrize("kind", KINDS)
def test_draws_have_the_frequencies_of_the_rows(kind):
    model, n = model_of(kind), 20_000
    every = all_rows()
    p = np.exp(model.score_samples(every))
    drawn = model.sample(n, random_state=0)
    assert list(drawn.columns) == list(NAMES)
    assert (drawn.dtypes == frame().dtypes).all()
    numbered = every.assign(i=range(len(every)))
    counts = np.bincount(drawn.merge(numbered, on=list(NAMES), how="left").i, minlength=len(every))
    often = p * n > 5
    observed, expected = np.append(counts[often], counts[~often].sum()), np.append(p[often], p[~often].sum()) * n
    assert chisquare(observed, expected).pvalue > 1e-4


@pytest.mark.parametrize("enumerated", [4096, 0])
@pytest.mark.parametrize("kind", KINDS)
def test_conditional_draws_have_the_frequencies_of_what_is_missing(kind, enumerated, monkeypatch):
    monkeypatch.setattr(levels, "COMBINATIONS", enumerated)
    model, n = model_of(kind, seed=1), 4000
    row = frame(1, 6)
    holed = with_holes(pd.concat([row] * 50, ignore_index=True), [0, 2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ApproximationWarning)
        drawn = pd.concat(model.sample_conditional(holed, n // 50, n_walks=200, random_state=0))
    rest = ["flag", "constant", "letter"]
    assert (drawn[rest] == row[rest].iloc[0]).all().all()
    observed = np.array([False, True, False, True, True])
    every, log_p = all_rows(), answering(model, observed)
    keep = (every[rest] == row[rest].iloc[0]).all(axis=1).to_numpy()
    p = np.exp(log_p[keep] - np.logaddexp.reduce(log_p[keep]))
    numbered = every[keep].assign(i=range(keep.sum()))
    counts = np.bincount(drawn.astype(frame().dtypes).merge(numbered, on=list(NAMES)).i, minlength=keep.sum())
    spread = 1 if enumerated else 0.5  # walks that are drawn again add some noise of their own
    often = p * n > 5
    observed_counts, expected = np.append(counts[often], counts[~often].sum()), np.append(p[often], p[~often].sum()) * n
    statistic = (spread * (observed_counts - expected) ** 2 / np.maximum(expected, 1)).sum()
    assert statistic < 60 + often.sum()


@pytest.mark.parametrize("kind", ["one mask", "masks", "digits"])
def test_contributions_of_hardly_possible_rows_add_up(kind):
    model = model_of(kind, dtype="float32")
    source = model.density.source
    density = type(model.density)(source.with_vector(source.vector * 30), *([model.density.masks] if kind == "masks" else []))
    model, rows = type(model)(density, model.encoder), all_rows()
    log_p = model.score_samples(rows)
    assert log_p.min() < -200  # a conditional below what float32 holds
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = model.explain(rows)
    np.testing.assert_allclose(found.sum(axis=1), -log_p, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_means_are_marginals(kind):
    model, rows = model_of(kind), frame(6, 7)
    holed = with_holes(rows, [1, 2, 4])
    codes, _ = model._coded(holed, None)
    proba, effective = model._proba(model.density._asked(codes, 1, 5000, 0, None))
    assert np.isinf(effective).all()
    filled = model.impute(holed, "mean")
    for v in (1, 2, 4):
        expected = conditional_of(model, rows, [1, 2, 4], v)
        by_draws = model.encoder.digits.bases[v] > 1
        np.testing.assert_allclose(proba[v], expected, atol=0.03 if by_draws else 1e-10)
        np.testing.assert_allclose(proba[v].sum(axis=1), 1)
        sure = np.ptp(np.sort(expected)[:, -2:], axis=1) > 0.1 if by_draws else slice(None)
        right = np.array(sorted(VALUES[v]), object)[expected.argmax(axis=1)]
        assert (filled[NAMES[v]].to_numpy()[sure] == right[sure]).all()
    assert (filled.colour == rows.colour).all()


def conditional_of(model, rows, holes, v):
    """Return the probability of each level of a missing column given what is there, by sums."""
    observed = np.array([u not in holes for u in range(5)])
    every, log_p = all_rows(), answering(model, observed)
    seen = [NAMES[u] for u in range(5) if observed[u]]
    out = []
    for _, row in rows.iterrows():
        keep = (every[seen] == row[seen]).all(axis=1).to_numpy()
        p = np.exp(log_p[keep] - np.logaddexp.reduce(log_p[keep]))
        values = sorted(every[NAMES[v]].unique())
        out.append([p[(every[NAMES[v]][keep] == value).to_numpy()].sum() for value in values])
    return np.array(out)


@pytest.mark.parametrize("enumerated", [4096, 0])
@pytest.mark.parametrize("kind", KINDS)
def test_modes_keep_what_is_there_and_are_likely(kind, enumerated, monkeypatch):
    model, rows = model_of(kind, seed=3), frame(30, 8)
    holed = with_holes(rows, [0, 4])
    monkeypatch.setattr(levels, "COMBINATIONS", enumerated)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ApproximationWarning)
        filled, drawn = model.impute(holed), model.impute(holed, "sample")
    rest = ["flag", "size", "constant"]
    assert (filled[rest] == rows[rest]).all().all()
    assert (drawn[rest] == rows[rest]).all().all()
    assert not filled.isna().any().any()
    ours, theirs = (model.score_samples(each.astype(frame().dtypes)).mean() for each in (filled, drawn))
    assert ours > theirs


@pytest.mark.parametrize("kind", KINDS)
def test_contributions_add_up(kind):
    model, rows = model_of(kind), frame(25, 9)
    parts = model.explain(rows)
    np.testing.assert_allclose(parts.sum(axis=1), -model.score_samples(rows), rtol=1e-10)
    assert (abs(parts[:, 3]) < 0.5).all()  # a constant tells nothing but its part of the rest
    holed = with_holes(rows, [1, 4])
    parts = model.explain(holed)
    np.testing.assert_allclose(parts.sum(axis=1), -model.log_marginal(holed), atol=1e-9)
    assert (parts[:, [1, 4]] == 0).all()


def test_contributions_of_one_mask_are_conditionals():
    model, rows = model_of(), frame(5, 10)
    parts, order = model.explain(rows), np.argsort(model.density.masks.orderings[0])
    before = np.zeros(5)
    for p in range(5):
        holes = [v for v in range(5) if v not in order[: p + 1]]
        log_p = exact_marginal(model, rows, holes)
        np.testing.assert_allclose(parts[:, order[p]], before - log_p, atol=1e-10)
        before = log_p


@pytest.mark.parametrize("kind", KINDS)
def test_a_context_is_given(kind):
    model, every = model_of(kind, context=True), all_rows()
    contexts = context_frame(3, 11)
    for i in range(3):
        log_p = model.score_samples(every, context=contexts.iloc[[i]])
        assert abs(np.exp(log_p).sum() - 1) < 1e-10
    p = model.probability("size > 2 and flag = true", context=contexts)
    assert p.shape == (3,)
    assert len(set(np.round(p, 6))) > 1
    drawn = model.sample(500, random_state=0, context=contexts)
    assert len(drawn) == 1500
    rows = frame(3, 1)
    both = model.log_marginal(with_holes(rows, [0]), context=contexts)
    alone = [model.log_marginal(with_holes(rows.iloc[[i]], [0]), context=contexts.iloc[[i]])[0] for i in range(3)]
    assert both.tolist() == alone
    with pytest.raises(ValueError, match="context must come with X"):
        model.score_samples(rows)
    gone = contexts.astype(object)
    gone.iloc[1, 0] = None
    with pytest.raises(ValueError, match="context must hold no missing values, got one in row 1 of column 'class'"):
        model.score_samples(rows, context=gone)
    with pytest.raises(ValueError, match="one row for each of the 3 rows, or one for all, got 2"):
        model.score_samples(rows, context=contexts.iloc[:2])


@pytest.mark.parametrize("kind", KINDS)
def test_bits_depend_on_no_thread_nor_on_the_other_rows(kind):
    model, rows = model_of(kind, dtype="float32"), frame(300, 12)
    holed = with_holes(rows, [0, 4])
    log_p, marginal = model.score_samples(rows, n_threads=1), model.log_marginal(holed, n_threads=1)
    assert np.array_equal(model.score_samples(rows, n_threads=3), log_p)
    assert np.array_equal(model.log_marginal(holed, n_threads=3), marginal)
    assert np.array_equal(model.score_samples(rows.iloc[7:20]), log_p[7:20])
    assert np.array_equal(model.log_marginal(holed.iloc[7:20]), marginal[7:20])
    first, second = (model.sample(500, 0, n_threads=n) for n in (1, 3))
    assert first.equals(second)


@pytest.mark.parametrize("context", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_gives_the_same_model(kind, context, tmp_path):
    model, rows = model_of(kind, context=context), frame(20, 13)
    given = context_frame(20, 2) if context else None
    model.save(tmp_path / "model.safetensors")
    for mmap in (False, True):
        again = made_fast.load(tmp_path / "model.safetensors", mmap=mmap)
        assert repr(again) == repr(model)
        assert np.array_equal(again.score_samples(rows, context=given), model.score_samples(rows, context=given))
        assert again.sample(9, 0, context=given).equals(model.sample(9, 0, context=given))
        assert np.array_equal(
            again.log_marginal(with_holes(rows, [0]), context=given), model.log_marginal(with_holes(rows, [0]), context=given)
        )


def test_a_file_whose_columns_are_of_another_model_is_refused(tmp_path):
    from made_fast.inference import modelfile, tensorfile

    one, other = model_of(), model_of(columns={"letter": ["e", "d", "c", "b", "a", "f"]})
    found = modelfile.with_columns(one.density._encoded(), other.encoder.to_json())
    tensorfile.write(str(tmp_path / "mixed.safetensors"), *found)
    with pytest.raises(ModelFileError, match="columns must have the levels that the density is over"):
        made_fast.load(tmp_path / "mixed.safetensors")


def test_columns_are_matched_by_name():
    model, rows = model_of(), frame(10, 14)
    turned = rows[list(NAMES[::-1])]
    assert np.array_equal(model.score_samples(turned), model.score_samples(rows))
    with pytest.raises(ValueError, match="lacks 'flag'"):
        model.score_samples(rows.drop(columns="flag"))
    with pytest.raises(ValueError, match="has beside them 'more'"):
        model.score_samples(rows.assign(more=1))


def test_refusals_name_column_and_way_out():
    model, rows = model_of(), frame(4, 15)
    holed = with_holes(rows, [2])
    with pytest.raises(ValueError, match=r"no missing values here, got NaN .* row 0 of column 'size'.*log_marginal"):
        model.score_samples(holed)
    unknown = rows.assign(colour="mauve")
    with pytest.raises(ValueError, match=r"got 'mauve' in row 0.*handle_unknown='rare'"):
        model.score_samples(unknown)
    with pytest.raises(ValueError, match=r"target must name columns of the table, got 'colours'\. Did you mean 'colour'"):
        model.conditional(rows, "colours")
    with pytest.raises(ValueError, match="known values for column 'colour', got 'mauve'"):
        model.probability("colour = mauve")
    with pytest.raises(TypeError, match="holds text, which has no mean"):
        model.conditional(rows, "colour").mean()
    with pytest.raises(TypeError, match="values have an order, got column 'colour'"):
        model.conditional(rows, "colour").quantile(0.5)
    with pytest.raises(TypeError, match="coded for a model of levels"):
        model.density.score_samples(np.zeros((2, 5)))


def test_quantiles_are_of_the_values():
    model, rows = model_of(), frame(50, 16)
    found = model.conditional(rows, "size")
    lower, middle, upper = (found.quantile(q) for q in (0.0, 0.5, 1.0))
    assert (lower <= middle).all()
    assert (middle <= upper).all()
    up_to = np.cumsum(found.proba, axis=1)
    assert (middle == found.values[(up_to < 0.5).sum(axis=1)]).all()


def test_a_server_needs_numpy_and_the_kernels_alone(tmp_path):
    model_of(context=True).save(tmp_path / "model.safetensors")
    program = f"""
import sys
sys.modules["pandas"] = None  # the library of the table of training is not there
import made_fast
model = made_fast.load({str(tmp_path / "model.safetensors")!r})
rows = {{"colour": ["red", None], "flag": [True, False], "size": [3, 1], "constant": ["same"] * 2, "letter": ["a", "b"]}}
given = {{"class": ["x"], "level": [2]}}
model.log_marginal(rows, context=given)
model.impute(rows, context=given)
model.conditional(rows, "size", context=given)
model.probability("size > 1 and letter in (a, b)", context=given)
model.explain(rows, context=given)
assert isinstance(model.sample(2, 0, context=given), dict)
heavy = {{"sklearn", "scipy", "joblib", "numba", "narwhals", "polars", "pyarrow"}} & set(sys.modules)
print(sorted(heavy))
"""
    assert python("-W", "error", "-c", program, seconds=60) == "[]"
