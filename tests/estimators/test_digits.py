"""``MADE`` on tables some of whose columns have two digits: every answer in terms of the columns."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import made_fast
from made_fast import MADE, MADEEnsemble, MADEImputer, MADEOutlierDetector
from made_fast.inference import levels
from made_fast.tables.columns import bins, learn

QUICK = {"hidden_sizes": (24,), "batch_size": 40, "learning_rate": 0.01, "max_epochs": 8, "random_state": 0, "n_threads": 1}
NAMES = [f"n{i:02}" for i in range(11)]
UNSEEN = "abcdefghijklmnop"


def split_early(patch):
    """Give two digits to columns of more than eight levels, however many rows there are."""
    patch.setattr(learn, "MOST_IN_ONE", 8)
    patch.setattr(bins, "MOST_IN_ONE", 8)
    patch.setattr(bins, "HIGH_DIGITS", 4)
    patch.setattr(bins, "ROWS_FOR_DIGITS", 0)


@pytest.fixture(autouse=True)
def early(monkeypatch):
    split_early(monkeypatch)


def rows(n=600, seed=0):
    rng = np.random.default_rng(seed)
    number = rng.integers(0, 11, n)
    x = number - 5 + rng.normal(size=n)
    return pd.DataFrame({"x": x, "name": [NAMES[i] for i in number], "flag": x > rng.normal(size=n)})


@pytest.fixture(scope="module")
def made():
    with pytest.MonkeyPatch.context() as patch:
        split_early(patch)
        return MADE(**QUICK, n_masks=None, n_eval_masks=4, dtype="float64", n_bins=16).fit(rows())


def test_columns_stay_columns(made):
    model = made.model_
    assert [column.base > 1 for column in model.columns.columns] == [True, True, False]
    assert made.n_features_in_ == model.n_features_in == 3
    assert model.density.n_features_in == 5
    drawn = made.sample(500, random_state=0)
    assert list(drawn) == ["x", "name", "flag"]
    assert (drawn.dtypes == rows().dtypes).all()
    known = drawn[drawn.name.notna()]
    assert set(known.name) <= set(NAMES)
    assert len(known) > 450
    assert np.corrcoef(known.x, [NAMES.index(name) for name in known.name])[0, 1] > 0.7
    places = model.density.masks.orderings
    assert (places[:, 1] == places[:, 0] + 1).all()
    assert (places[:, 3] == places[:, 2] + 1).all()
    assert len(np.unique(places, axis=0)) > 1


def test_the_density_integrates_to_one(made):
    column = made.model_.columns.columns[0]
    edges = np.unique(np.concatenate([column.low, column.high, column.cells.borders]))
    grid = np.unique(np.concatenate([edges, *([edges[0] - d, edges[-1] + d] for d in np.geomspace(0.01, 500, 60))]))
    nodes, weights = np.polynomial.legendre.leggauss(12)
    width = (grid[1:] - grid[:-1])[:, None] / 2
    x, w = (grid[:-1, None] + width * (1 + nodes)).ravel(), (width * weights).ravel()
    column = made.model_.columns.columns[1]
    one_each = {column._level(letter): letter for letter in UNSEEN if column._level(letter) >= len(column.values)}
    assert len(one_each) == 1 + column.spare
    total = 0.0
    for name in (*NAMES, *one_each.values()):
        for flag in (False, True):
            total += float(w @ np.exp(made.score_samples(pd.DataFrame({"x": x, "name": name, "flag": flag}))))
    assert abs(total - 1) < 1e-6


def test_contributions_are_of_columns_and_add_up(made):
    table = rows(50, 1)
    log_p = made.score_samples(table)
    found = made.model_.explain(table)
    assert found.shape == (50, 3)
    np.testing.assert_allclose(found.sum(axis=1), -log_p)
    holed = table.astype({"name": object})
    holed.loc[::2, "name"] = None
    found = made.model_.explain(holed)
    assert (found[::2, 1] == 0).all()
    np.testing.assert_allclose(found.sum(axis=1)[::2], -made.model_.log_marginal(holed[::2]))
    by_marginals = made.model_._by_marginals(made.model_._coded(table, None, False)[0], 50, 0, 1)
    assert by_marginals.shape == (50, 3)


def test_conditionals_are_over_all_values(made):
    table = rows(40, 2)
    found = made.model_.conditional(table.drop(columns="name"), "name")
    np.testing.assert_allclose(found.proba.sum(axis=1), 1)
    assert found.proba.shape[1] == made.model_.columns.n_levels[1]
    true = np.array([NAMES.index(name) for name in table.name])
    level = np.array([made.model_.columns.columns[1].levels[name] for name in NAMES])
    assert abs(found.proba[:, level] @ np.arange(11) - true).mean() < 2.5
    of_x = made.model_.conditional(table, "x")
    mean, median = of_x.mean(), of_x.quantile(0.5)
    assert np.corrcoef(mean, table.x)[0, 1] > 0.85
    assert abs(median - mean).mean() < 1
    chances = [np.exp(made.model_.score_samples(table.assign(name=name))) for name in NAMES]
    assert (np.argmax(chances, axis=0) == np.argmax(found.proba[:, level], axis=1)).mean() > 0.6  # other orderings answer


@pytest.mark.parametrize("method", ["mode", "mean", "sample"])
def test_imputation_fills_in_values_of_the_columns(made, method):
    table = rows(60, 3).astype({"name": object})
    table.loc[::3, "name"] = None
    table.loc[1::3, "x"] = np.nan
    filled = made.model_.impute(table, method)
    true = rows(60, 3)
    assert not filled.x.isna().any()
    assert (filled.x[::3] == true.x[::3]).all()
    assert np.corrcoef(filled.x[1::3], true.x[1::3])[0, 1] > 0.6
    right = abs(np.array([NAMES.index(a) - NAMES.index(b) for a, b in zip(filled.name[::3], true.name[::3], strict=True)]))
    assert right.mean() < 3


QUERIES = {
    "x > 0.3": lambda t: t.x > 0.3,
    "name in (n01, n04, n07)": lambda t: t["name"].isin(["n01", "n04", "n07"]),
    "name != n03 and x between -2 and 1.5 and flag = true": lambda t: (t["name"] != "n03") & t.x.between(-2, 1.5) & t.flag,
    "name = n05 and x < 1": lambda t: (t["name"] == "n05") & (t.x < 1),
}


@pytest.mark.parametrize("seed", [0, 1])  # another ordering
@pytest.mark.parametrize("query", QUERIES)
def test_queries_have_the_shares_of_draws_and_walks_agree(query, seed, monkeypatch):
    made = MADE(**QUICK | {"random_state": seed, "max_epochs": 3}, n_bins=16).fit(rows())
    exact, std = made.model_.probability(query, return_std=True)
    assert std == 0
    drawn = made.sample(20_000, random_state=1).rename(columns=str)
    assert abs(exact - QUERIES[query](drawn).mean()) < 5 * 0.5 / 20_000**0.5
    monkeypatch.setattr(levels, "COMBINATIONS", 0)
    found, std = made.model_.probability(query, n_walks=20_000, return_std=True)
    assert abs(found - exact) <= 5 * std + 1e-9


def test_weights_of_pairs_of_digits_agree_with_a_sum_over_levels(made):
    answer = made.model_.probability("name in (n01, n04, n07)")
    each = sum(made.model_.probability(f"name = {name}") for name in ("n01", "n04", "n07"))
    assert answer == pytest.approx(each, abs=1e-12)
    assert sum(made.model_.probability({"name": name}) for name in NAMES) == pytest.approx(
        made.model_.probability({"name": NAMES}), abs=1e-12
    )


def test_files_checkpoints_and_further_fits(made, tmp_path):
    made.model_.save(tmp_path / "m.safetensors")
    loaded, table = made_fast.load(tmp_path / "m.safetensors"), rows(30, 4)
    assert np.array_equal(loaded.score_samples(table), made.score_samples(table))
    assert loaded.sample(5, random_state=0).equals(made.sample(5, random_state=0))
    assert np.array_equal(
        loaded.member_for([True, False, False]).ordering, made.model_.member_for([True, False, False]).ordering
    )
    path = tmp_path / "c.ckpt"
    whole = MADE(**QUICK, n_masks=None, n_eval_masks=2).fit(rows())
    MADE(**{**QUICK, "max_epochs": 3}, n_masks=None, n_eval_masks=2).fit(rows(), checkpoint=path)
    resumed = MADE.resume(path).set_params(max_epochs=QUICK["max_epochs"]).fit(rows())
    assert resumed.n_features_in_ == 3
    assert np.array_equal(resumed.score_samples(table), whole.score_samples(table))
    more = MADE(**QUICK).partial_fit(rows()).partial_fit(rows(seed=9))
    assert np.isfinite(more.score_samples(table)).all()


def test_orderings_are_of_columns():
    made = MADE(**{**QUICK, "max_epochs": 1}, ordering=[3, 1, 2], n_bins=16).fit(rows())
    assert made.model_.density.masks.orderings.tolist() == [[4, 5, 1, 2, 3]]
    natural = MADE(**{**QUICK, "max_epochs": 1}, ordering="natural", n_bins=16).fit(rows())
    assert natural.model_.density.masks.orderings.tolist() == [[1, 2, 3, 4, 5]]
    with pytest.raises(ValueError, match="ordering"):
        MADE(**QUICK, ordering=[4, 5, 1, 2, 3], n_bins=16).fit(rows())


def test_missing_rows_train_and_ensembles_mix():
    table = rows().astype({"name": object})
    table.loc[::5, "name"] = None
    table.loc[3::7, "x"] = np.nan
    made = MADEEnsemble(2, **{**QUICK, "max_epochs": 3}).fit(table)
    assert np.isfinite(made.model_.log_marginal(table, return_std=True)[0]).all()
    assert made.model_.explain(rows(9, 5)).shape == (9, 3)


@pytest.mark.parametrize("digits", [[2, 2], [1, 2, 2], [2, 2, 0, 1], [2, 2, 1.0], "x", [5], None])
def test_a_file_with_other_digits_is_refused(made, digits, tmp_path):
    import json

    from made_fast.inference import tensorfile

    made.model_.save(path := tmp_path / "m.safetensors")
    tensors, metadata = tensorfile.read(path)
    variables = json.loads(metadata["variables"])
    assert variables["digits"] == [2, 2, 1]
    tensorfile.write(path, tensors, metadata | {"variables": json.dumps(variables | {"digits": digits})})
    with pytest.raises(made_fast.ModelFileError):
        made_fast.load(path)


def test_a_file_with_digits_apart_is_refused(made, tmp_path):
    from made_fast.inference import tensorfile

    made.model_.save(path := tmp_path / "m.safetensors")
    tensors, metadata = tensorfile.read(path)
    name = next(name for name in tensors if name.startswith("ordering"))
    apart = tensors[name].copy()
    apart[..., [1, 4]] = apart[..., [4, 1]]
    tensorfile.write(path, tensors | {name: apart}, metadata)
    with pytest.raises(made_fast.ModelFileError, match="digits must stand side by side"):
        made_fast.load(path)


@pytest.mark.parametrize("bandwidth", [None, 1.0])
def test_odd_rows_are_found(bandwidth):
    table = rows()
    table.loc[7, "x"] = 40.0
    found = MADEOutlierDetector(MADE(**QUICK, n_bins=16), contamination=0.01, bandwidth=bandwidth).fit(table)
    assert found.density_.model_.encoder.digits.bases[0] > 1
    assert found.decision_scores_[7] >= np.sort(found.decision_scores_)[-5]
    assert found.explain(table).shape == (600, 3)
    assert np.argmax(found.explain(table)[7]) in (0, 1)  # the number, or the name that says where it should be


def test_an_imputer_in_a_pipeline_fills_columns_of_two_digits():
    table = rows().astype({"name": object})
    table.loc[::4, "name"] = None
    table.loc[1::4, "x"] = np.nan
    filled = MADEImputer(MADE(**QUICK, n_bins=16, n_masks=None, n_eval_masks=4), n_walks=20).fit_transform(table)
    assert not pd.DataFrame(filled).isna().any().any()
