"""Scores and imputations of a table in chunks: one result a chunk, in order, with the bits of one call about the table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers import random_model

from made_fast import MADE, Chunks, MixtureModel

RNG = np.random.default_rng(0)
X = (RNG.random((120, 10)) < 0.3).astype(float)
GAPS = np.where(RNG.random(X.shape) < 0.3, np.nan, X)
GAPS[::4], GAPS[::9] = GAPS[0], np.nan  # equal rows in several chunks
METHODS = ("mode", "mean", "sample")


def cut(table, size=17):
    return Chunks(table[start : start + size] for start in range(0, len(table), size))


@pytest.fixture(scope="module")
def made():
    return MADE(hidden_sizes=(9,), max_epochs=1, n_masks=2, random_state=0).fit(GAPS)


@pytest.fixture(scope="module")
def frame():
    n = 300
    columns = {"a": RNG.normal(size=n), "m": RNG.normal(size=n).round(1), "c": RNG.choice(list("xyz"), n)}
    return pd.DataFrame(columns)


@pytest.fixture(scope="module")
def table_model(frame):
    """Return a model of a table, of which some columns have two digits."""
    many = pd.concat([frame] * 20, ignore_index=True)
    return MADE(hidden_sizes=(9,), max_epochs=1, n_masks=2, random_state=0, batch_size=500).fit(many)


def test_scores(made, frame, table_model):
    mixture = MixtureModel([random_model(10, (5,), seed=seed) for seed in (0, 1)])
    for model, table in ((made, X), (made.model_, X), (mixture, X), (table_model, frame), (table_model.model_, frame)):
        found = list(model.score_samples(cut(table)))
        assert [len(log_p) for log_p in found] == [17] * (len(table) // 17) + [len(table) % 17]
        assert (np.concatenate(found) == model.score_samples(table)).all()
    assert (np.concatenate(list(made.score_samples(cut(X), mask=1))) == made.score_samples(X, mask=1)).all()


@pytest.mark.filterwarnings("ignore::made_fast.ApproximationWarning")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", [3, None, "generator"])
def test_imputations_of_0_and_1(made, method, seed):
    mixture = MixtureModel([made.model_, random_model(10, (5,), seed=1)])
    for model, options in ((made, {}), (made.model_, {"n_members": 2}), (mixture, {})):
        ours, whole = ({"random_state": np.random.default_rng(5) if seed == "generator" else seed} for _ in range(2))
        if seed is None:
            ours, whole = {}, {}  # the default repeats, too
        found = list(model.impute(cut(GAPS), method, **ours, **options))
        np.testing.assert_array_equal(np.concatenate(found), model.impute(GAPS, method, **whole, **options), strict=True)
        if seed == "generator":
            assert ours["random_state"].random() == whole["random_state"].random()


@pytest.mark.filterwarnings("ignore::made_fast.ApproximationWarning")
@pytest.mark.parametrize("method", METHODS)
def test_imputations_of_columns(table_model, frame, method):
    assert max(table_model.model_.encoder.digits.bases) > 1
    gaps = frame.mask(np.random.default_rng(1).random(frame.shape) < 0.3)[:100].reset_index(drop=True)
    gaps.loc[::7] = np.nan
    gaps.loc[3::7, "c"], gaps.loc[3::7, ["a", "m"]] = "x", np.nan
    found = pd.concat(list(table_model.impute(cut(gaps), method)))
    pd.testing.assert_frame_equal(found, table_model.impute(gaps, method))


def test_what_is_wrong_names_the_chunk(made, frame, table_model):
    wrong = frame.assign(c=np.where(np.arange(len(frame)) == 20, "w", frame["c"]))
    scores = table_model.score_samples(cut(wrong))
    assert len(next(scores)) == 17
    with pytest.raises(
        ValueError, match=r"chunk 1 of X: X must hold the categories of training in column 'c', got 'w' in row 3"
    ):
        next(scores)
    with pytest.raises(ValueError, match=r"chunk 0 of X: X must have shape \(rows, 10\)"):
        next(made.score_samples(cut(X[:, :4])))
    with pytest.raises(ValueError, match="context must be left out for X in chunks"):
        table_model.score_samples(cut(frame), context=frame)
    with pytest.raises(TypeError, match=r"chunks are for MADE\.fit"):
        made.log_marginal(cut(X))
