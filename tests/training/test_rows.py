"""Rows that a fit is given: what each counts, in training and validation, and what is said of missing entries."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from fits import KINDS, initial, kind, parameters, rows, same_fit, small, with_gaps
from sklearn.model_selection import GridSearchCV, cross_val_score

from made_fast import MADE, ApproximationWarning, MADEEnsemble
from made_fast.estimators.ensemble import em_weights
from made_fast.training import rows as rows_module
from made_fast.training.rows import Order, hold_out


def split(made, n):
    """Return the rows of n that a fit has trained on, and those that it has held out."""
    return hold_out(n, made.validation_fraction, made._fit_state.split_seed)


@pytest.mark.parametrize("name", KINDS)
def test_weights_of_one_change_no_bit(name):
    params, X = kind(name, 50)
    params.update(batch_size=12, max_epochs=2, dtype="float32", optimizer="adam")
    made = MADE(**params).fit(X)
    for weights in (np.ones(50), 1, [True] * 50):
        same_fit(MADE(**params).fit(X, sample_weight=weights), made)
        by_parts = MADE(**params).partial_fit(X, sample_weight=weights).partial_fit(X)
        assert (parameters(by_parts) == parameters(made)).all()


@pytest.mark.parametrize("name", KINDS)
def test_a_weight_of_two_is_the_row_twice_and_of_none_the_row_left_out(name):
    """The loss is a mean over all rows of the batch, whatever their weights: learning rates make up for that."""
    n, lr = 30, 0.3
    params, X = kind(name, n)
    if name == "missing":
        assert np.isnan(X[1:]).any()
    twice, weights = np.concatenate([X, X[4:5]]), np.ones(n)
    weights[4] = 2
    a = MADE(**params, learning_rate=lr).fit(X, sample_weight=weights)
    b = MADE(**params, learning_rate=lr * (n + 1) / n).fit(twice)
    np.testing.assert_allclose(parameters(a), parameters(b), rtol=1e-10, atol=1e-14)
    assert a.history_[0]["train_nll"] * n == pytest.approx(b.history_[0]["train_nll"] * (n + 1), rel=1e-12)
    weights[4] = 0
    a = MADE(**params, learning_rate=lr).fit(X, sample_weight=weights)
    b = MADE(**params, learning_rate=lr * (n - 1) / n).fit(np.delete(X, 4, axis=0))
    np.testing.assert_allclose(parameters(a), parameters(b), rtol=1e-10, atol=1e-14)
    plain = MADE(**params, learning_rate=lr).fit(X)
    assert not np.allclose(parameters(plain), parameters(a), rtol=1e-6)


@pytest.mark.parametrize("name", ["fixed", "masks"])
def test_a_negative_weight_makes_a_row_less_likely(name):
    params, X = kind(name, 20)
    params["max_epochs"] = 5
    weights = np.zeros(20)
    weights[3] = -1
    before = initial({**params, "learning_rate": 0.1}, X)
    after = MADE(**params, learning_rate=0.1).fit(X, sample_weight=weights)
    assert after.score_samples(X[3:4])[0] < before.score_samples(X[3:4])[0] - 0.01
    up = MADE(**params, learning_rate=0.1).fit(X, sample_weight=-weights)
    assert up.score_samples(X[3:4])[0] > before.score_samples(X[3:4])[0] + 0.01
    assert after.history_[0]["train_nll"] == -up.history_[0]["train_nll"]


def test_weights_are_those_of_the_rows_that_are_left_for_training():
    params, X = kind("fixed", 40)
    weights = np.random.default_rng(0).random(40)
    made = MADE(**params, validation_fraction=0.25).fit(X, sample_weight=weights)
    train, _ = split(made, 40)
    nll = -initial(params, X).score_samples(X[train])
    assert made.history_[0]["train_nll"] == pytest.approx(np.mean(weights[train] * nll), rel=1e-12)


@pytest.mark.parametrize("gaps", [False, True], ids=["whole", "gaps"])
@pytest.mark.parametrize("weights", ["equal", "em"])
def test_validation_rows_of_weight_0_are_as_good_as_not_there(gaps, weights):
    """For X_val of a MADE and of an ensemble, its EM included; the same bits, whatever those rows hold."""
    X, V, noise = rows(80), rows(40, seed=1), rows(40, seed=2, flip=0.5)
    if gaps:
        V, noise = with_gaps(V), with_gaps(noise)
    w = np.r_[np.ones(40), np.zeros(40)]
    options = {"n_masks": None, "n_eval_masks": 2} if gaps else {}
    ensemble = MADEEnsemble(2, weights=weights, **small(**options).get_params())
    both = ensemble.fit(X, X_val=np.r_[V, noise], sample_weight_val=w).score_samples(X)
    np.testing.assert_allclose(both, ensemble.fit(X, X_val=V).score_samples(X), rtol=1e-6)
    made = small(**options).fit(X, X_val=np.r_[V, noise], sample_weight_val=w)
    other = small(**options).fit(X, X_val=V)
    np.testing.assert_allclose(
        [record["validation_nll"] for record in made.history_], [record["validation_nll"] for record in other.history_]
    )
    assert made.best_epoch_ == other.best_epoch_


def test_a_weight_of_two_is_the_validation_row_twice():
    X, V = rows(80), rows(9, seed=1)
    w = np.arange(9) % 3
    made = small().fit(X, X_val=V, sample_weight_val=w)
    other = small().fit(X, X_val=V.repeat(w, axis=0))
    for a, b in zip(made.history_, other.history_, strict=True):
        assert abs(a["validation_nll"] - b["validation_nll"]) < 1e-12


def test_rows_held_out_count_by_their_sample_weight():
    X, w = np.r_[rows(100), rows(100, seed=1, flip=0.5)], np.r_[np.ones(100), np.zeros(100)]
    made = small(validation_fraction=0.3).fit(X, sample_weight=w)
    _, held = split(made, 200)
    score = made.model_.score_samples(X[held])
    expected = -np.average(score, weights=w[held])
    best = made.history_[made.best_epoch_ - 1]["validation_nll"]
    assert abs(best - expected) < 1e-9
    assert abs(best + score.mean()) > 0.1  # the mean over all rows is another


@pytest.mark.parametrize("make", [small, lambda **params: MADEEnsemble(2, **small(**params).get_params())])
def test_weights_that_leave_nothing_are_refused(make):
    X = rows(40)
    made = make(validation_fraction=0.5).fit(X)
    made.random_state = 0
    before = made.score_samples(X)
    for w, match in [
        (np.zeros(40), "sample_weight must not be zero for all rows: nothing"),
        (-np.ones(40), "weights of validation rows must be >= 0"),
    ]:
        with pytest.raises(ValueError, match=match):
            made.fit(X, sample_weight=w)
    with pytest.raises(ValueError, match="sample_weight_val must come with X_val"):
        made.fit(X, sample_weight_val=np.ones(40))
    for w in (np.zeros(5), np.r_[-1, np.ones(4)]):
        with pytest.raises(ValueError, match="weights of validation rows must be >= 0 and not all zero"):
            made.fit(X, X_val=X[:5], sample_weight_val=w)
    with pytest.raises(ValueError, match=r"sample_weight_val must have shape \(5,\)"):
        made.fit(X, X_val=X[:5], sample_weight_val=np.ones(4))
    assert (made.score_samples(X) == before).all()


def test_all_weight_in_the_rows_held_out_is_refused():
    X = rows(40)
    _, held = split(small(validation_fraction=0.5).fit(X), 40)
    w = np.zeros(40)
    w[held] = 1
    with pytest.raises(ValueError, match="zero for all rows but those held out for validation: nothing would be learned"):
        small(validation_fraction=0.5).fit(X, sample_weight=w)
    w[:] = 1
    w[held] = 0
    with pytest.raises(ValueError, match="weights of validation rows must be >= 0 and not all zero"):
        small(validation_fraction=0.5).fit(X, sample_weight=w)


def test_em_counts_rows_by_their_weights():
    log_p = np.random.default_rng(0).normal(size=(3, 20))
    times = np.arange(20) % 4
    weights, scores = em_weights(log_p, times.astype(float))
    expected, same = em_weights(log_p.repeat(times, axis=1))
    np.testing.assert_allclose(weights, expected, atol=1e-9)
    np.testing.assert_allclose(scores, same, atol=1e-12)


def test_scores_of_rows_with_gaps_are_those_of_what_is_observed():
    X = with_gaps(rows(120))
    gaps = np.isnan(X).any(axis=1)
    assert 0 < gaps.sum() < len(X)
    for made in (
        small(n_masks=None, n_eval_masks=2).fit(X),
        MADEEnsemble(2, **small(n_masks=None, n_eval_masks=2).get_params()).fit(X),
    ):
        each = np.empty(len(X))  # a row has its score, whatever its neighbours miss
        each[gaps], each[~gaps] = made.log_marginal(X[gaps]), made.score_samples(X[~gaps])
        assert made.score(X) == made.model_.score(X) == each.mean()
        assert made.score(X[gaps]) == each[gaps].mean()
        assert made.score(sp.csr_array(X)) == each.mean()
    made = small(n_masks=None, n_eval_masks=2).fit(X)
    assert np.isfinite(cross_val_score(made, X, cv=3)).all()
    wide = with_gaps(np.tile(rows(60), 3), 0.6)
    with pytest.warns(ApproximationWarning):
        assert np.isfinite(small(ordering="natural").fit(wide).score(wide))


def test_a_search_finds_the_better_setting_on_rows_with_gaps():
    X = with_gaps(rows(200))
    search = GridSearchCV(small(n_masks=None, n_eval_masks=2, max_epochs=20), {"learning_rate": [1e-6, 0.01]}, cv=3).fit(X)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_params_ == {"learning_rate": 0.01}


@pytest.mark.parametrize("make", [small, lambda **params: MADEEnsemble(2, **small(**params).get_params())])
def test_columns_without_an_entry_are_told_of_and_tables_without_one_refused(make):
    X = with_gaps(rows(60))
    X[:, [2, 7]] = np.nan
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make(n_masks=None, n_eval_masks=2).fit(X)
    assert [str(w.message)[:49] for w in caught] == ["X has no observed entry in 2 column(s): 2, 7. Not"]
    assert caught[0].filename == __file__
    pd = pytest.importorskip("pandas")
    with pytest.warns(UserWarning, match=r"in 2 column\(s\): 'c2', 'c7'\."):
        make(n_masks=None, n_eval_masks=2).fit(pd.DataFrame(X, columns=[f"c{d}" for d in range(12)]))
    for nothing in (np.full((5, 12), np.nan), sp.csr_array(np.full((5, 12), np.nan)), [[None] * 12]):
        with pytest.raises(ValueError, match="X must have an entry that is not missing, got NaN everywhere"):
            make(n_masks=None, n_eval_masks=2).fit(nothing)
    with pytest.raises(ValueError, match="an entry that is not missing"):
        small(n_masks=None).partial_fit(np.full((5, 12), np.nan))


@pytest.mark.parametrize("n", [1, 2, 3, 64, 1000, 65537])
def test_the_order_of_very_many_rows_has_each_of_them_once(n):
    order = Order(n, np.random.default_rng(0))
    whole = order[0:n]
    assert (np.sort(whole) == np.arange(n)).all()
    assert (np.concatenate([order[i : i + 97] for i in range(0, n, 97)]) == whole).all()
    if n > 100:
        assert abs(np.corrcoef(whole, np.arange(n))[0, 1]) < 4 / n**0.5
        assert abs(np.corrcoef(whole[1:], whole[:-1])[0, 1]) < 4 / n**0.5
        assert (Order(n, np.random.default_rng(1))[0:n] != whole).mean() > 0.99


def test_a_fit_in_an_order_that_takes_no_memory_sees_every_row_once_an_epoch(monkeypatch):
    monkeypatch.setattr(rows_module, "MOST_PERMUTED", 0)
    params, X = kind("fixed", 50)
    params["max_epochs"] = 1
    made = MADE(**params, learning_rate=1e-12).fit(X)
    assert made.history_[0]["train_nll"] == pytest.approx(-initial(params, X).score(X), rel=1e-9)
