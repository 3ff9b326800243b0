"""``preset="best"``: what the search tries and keeps, the members that follow, and how it ends."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from fits import rows, with_gaps

from made_fast import MADE, MADEEnsemble
from made_fast.estimators import search, settings
from made_fast.estimators.search import Search
from made_fast.training.rows import Rows, hold_out

FOREVER = 1e6
QUICK = {"hidden_sizes": (8,), "batch_size": 20, "learning_rate": 0.01, "patience": 2, "n_threads": 2}
X, V = rows(200), rows(60, seed=1)


POINTS, FEW_ONES = Search._try_points, search.FEW_ONES


@pytest.fixture(autouse=True)
def without_costly_settings(monkeypatch):
    """Ever fresh masks take a hundred epochs of patience, several and points as many times as long; a few tests try them."""
    monkeypatch.setattr(search, "FEW_ROWS", 0)
    monkeypatch.setattr(search, "FEW_ONES", -1)
    monkeypatch.setattr(Search, "_try_points", lambda self, until: None)


def best(n_members=3, **params):
    return MADEEnsemble(n_members, **{"preset": "best", "time_budget": FOREVER, "random_state": 0, **QUICK, **params})


def vectors(made):
    return [member.model_.source.vector for member in made.members_]


def same(one, other):
    for a, b in zip(vectors(one), vectors(other), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


def test_the_search_keeps_what_the_validation_rows_prefer():
    made = best().fit(X, X_val=V)
    walk = [record for record in made.search_ if "setting" in record and "latent_points" not in record["setting"]]
    tried = [set(record["setting"]) for record in walk]
    for name in (
        "dropout",
        "weight_decay",
        "optimizer",
        "hidden_sizes",
        "batch_size",
        "averaging",
        "learning_rate",
        "direct_connections",
    ):
        assert any(name in setting for setting in tried)
    chosen = [record for record in walk if record["better"]]
    nll = [record["validation_nll"] for record in chosen]
    assert nll == sorted(nll, reverse=True)
    assert nll[-1] == min(record["validation_nll"] for record in walk)
    assert all(record["whole"] for record in made.search_)
    assert made.chosen_ == chosen[-1]["setting"] or "latent_points" in made.chosen_
    assert min(record["validation_nll"] for record in made.search_) == pytest.approx(-made.score(V), rel=search.CHANCE)
    assert -made.score(V) <= nll[-1] + 1e-12 < -MADE(**QUICK, random_state=0).fit(X, X_val=V).score(V)
    for member in made.members_:
        assert {name: getattr(member, name) for name in made.chosen_} == made.chosen_
    assert made.model_.hyper["preset"] == "best"
    assert made.model_.hyper["chosen"].keys() == made.chosen_.keys()


def test_the_same_choices_give_the_same_members():
    """However many run at a time; and those of an ensemble of the chosen parameters."""
    one = best(n_jobs=1).fit(X, X_val=V)
    same(best(n_jobs=2).fit(X, X_val=V), one)
    params = {**QUICK, **one.chosen_, "max_epochs": search.MAX_EPOCHS}
    same(MADEEnsemble(len(one.members_), random_state=0, **params).fit(X, X_val=V), one)


def test_members_that_bring_little_are_the_last(monkeypatch):
    """And if they make it worse, they are left out; members at the same time that were not asked for do not count."""
    monkeypatch.setattr(search, "alternatives", lambda params: [])
    monkeypatch.setattr(Search, "_try_masks", lambda self, until: None)
    for enough, most in ((1.0, 3), (-1.0, 6)):
        monkeypatch.setattr(search, "ENOUGH", enough)
        made = best(6, n_jobs=2).fit(X, X_val=V)
        first, *rest = [
            record["validation_nll"] for record in made.search_ if "latent_points" not in record.get("setting", {})
        ]
        assert len(rest) == most - 1
        curve = np.array([first, *rest])
        assert len(made.members_) == 1 + np.flatnonzero(curve <= curve.min() * (1 + search.CHANCE))[-1]
        same(best(6, n_jobs=1).fit(X, X_val=V), made)


def test_little_time_still_gives_a_model():
    made = best(None, time_budget=1e-3, n_jobs=1).fit(X, X_val=V)
    assert len(made.members_) >= 1
    assert {record["epochs"] for record in made.search_} == {1}
    assert not made.search_[0]["whole"]
    assert np.isfinite(made.score(V))


@pytest.mark.parametrize("kind", ["array", "sparse", "fraction"])
def test_refit_trains_on_the_validation_rows_too(monkeypatch, kind):
    monkeypatch.setattr(search, "alternatives", lambda params: [])
    w = np.random.default_rng(0).random(200)
    made, plain = best(2, refit=True), best(2)
    if kind == "fraction":
        made.fit(X, sample_weight=w)
        plain.fit(X, sample_weight=w)
        seed = int(np.random.default_rng(0).spawn(3)[0].integers(2**63))
        order = np.concatenate(hold_out(200, 0.1, seed))
        everything, weights = X[order], w[order]
    else:
        train = sp.csr_array(X) if kind == "sparse" else X
        made.fit(train, X_val=V, sample_weight=w)
        plain.fit(train, X_val=V, sample_weight=w)
        everything, weights = np.concatenate([X, V]), np.concatenate([w, np.ones(60)])
    epochs = round(np.mean([member.best_epoch_ for member in plain.members_]))
    for member, was in zip(made.members_, plain.members_, strict=True):
        params = {**member.get_params(), "max_epochs": epochs}
        assert member.random_state == was.random_state
        again = MADE(**params).fit(everything, sample_weight=weights)
        np.testing.assert_array_equal(again.model_.source.vector, member.model_.source.vector)
        assert [record["validation_nll"] for record in member.history_] == [None] * epochs


def test_refit_says_how_many_members_it_had_no_time_for(monkeypatch):
    """A slow member does not keep faster ones from being trained again."""
    judged, fits = Search._judged, []

    def second_is_slow(self, setting, *rest):
        fit = judged(self, setting, *rest)
        fits.append(fit)
        return fit._replace(seconds=1e6) if len(fits) == 2 else fit

    monkeypatch.setattr(search, "alternatives", lambda params: [])
    monkeypatch.setattr(Search, "_try_masks", lambda self, until: None)
    monkeypatch.setattr(Search, "_judged", second_is_slow)
    monkeypatch.setattr(Search, "_cut_back", lambda self: None)
    monkeypatch.setattr(search, "ENOUGH", -1.0)
    params = {"n_jobs": 1, "refit": True, "time_budget": 1e5}
    with pytest.warns(UserWarning, match="^2 of 3 members were trained again .* Raise time_budget = 1"):
        made = best(3, **params).fit(X, X_val=V)
    again = [member.history_[0]["validation_nll"] is None for member in made.members_]
    assert again == [True, False, True]


def test_without_validation_rows_a_tenth_is_held_out():
    made = best(2, weights="em").fit(X)
    assert made.weights_.shape == (len(made.members_),)
    assert made.members_[0].history_[0]["validation_nll"] is not None
    gaps = best(2, hidden_sizes=()).fit(with_gaps(X))
    assert np.isfinite(gaps.score(with_gaps(V)))
    assert not any("dropout" in record.get("setting", {}) for record in gaps.search_)


def test_what_is_trained_so_far_becomes_the_model(monkeypatch):
    def interrupted(self, *_):
        raise KeyboardInterrupt

    made = best()
    monkeypatch.setattr(Search, "_try_masks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made.fit(X, X_val=V)
    assert len(made.members_) > 1
    assert np.isfinite(made.score(V))
    assert made.search_[0]["better"]
    monkeypatch.setattr(Search, "_walk", interrupted)
    before = made.score(V)
    with pytest.raises(KeyboardInterrupt):
        made.fit(X, X_val=V)
    assert made.score(V) == before
    assert not hasattr(best(), "model_")


def test_a_setting_that_diverges_is_not_chosen(monkeypatch):
    monkeypatch.setattr(search, "alternatives", lambda params: [lambda p: [{"learning_rate": 1e30}, {"dropout": 0.0}]])
    made = best(2).fit(X, X_val=V)
    record = next(record for record in made.search_ if record.get("setting", {}).get("learning_rate") == 1e30)
    assert record["validation_nll"] == np.inf
    assert not record["better"]
    assert "learning_rate" not in made.chosen_
    monkeypatch.setattr(search, "FEW_ONES", FEW_ONES)
    lost = best(2, learning_rate=1e30)
    with pytest.raises(FloatingPointError, match="the loss of every setting became infinite"):
        lost.fit(X, X_val=V)
    assert not hasattr(lost, "model_")


def test_masks_that_vary_must_beat_an_ensemble(monkeypatch):
    monkeypatch.setattr(search, "FEW_ROWS", 1000)
    monkeypatch.setattr(search, "alternatives", lambda params: [])
    made = best(2).fit(X, X_val=V)
    masks = [record for record in made.search_ if "n_masks" in record.get("setting", {})]
    assert [record["setting"]["n_masks"] for record in masks] == [None, None, None]
    members = [record for record in made.search_ if "members" in record]
    rival = min(record["validation_nll"] for record in members[:1])
    assert any(record["better"] for record in masks) == (min(record["validation_nll"] for record in masks) < rival)
    monkeypatch.setattr(search, "FEW_ROWS", 100)
    many = best(2).fit(X, X_val=V)
    assert [record["setting"]["n_masks"] for record in many.search_ if "n_masks" in record.get("setting", {})] == [8, 32]
    assert best(2, n_masks=3).fit(X, X_val=V).members_[0].n_masks == 3


@pytest.mark.parametrize("score", [1e9, -1e9])
def test_points_of_a_latent_mixture_must_beat_one_network(monkeypatch, score):
    judged = Search._judged

    def of_points(self, setting, seed, made, held):
        fit = judged(self, setting, seed, made, held)
        return fit._replace(nll=score, log_p=fit.log_p - score) if made.latent_points > 1 else fit

    monkeypatch.setattr(Search, "_try_points", POINTS)
    monkeypatch.setattr(Search, "_judged", of_points)
    monkeypatch.setattr(search, "alternatives", lambda params: [])
    made = best(3, n_jobs=1).fit(X, X_val=V)
    points = [record for record in made.search_ if record.get("setting", {}).get("latent_points", 1) > 1]
    assert [(record["setting"], record["better"]) for record in points] == [({"latent_points": 16}, score < 0)]
    assert {member.latent_points for member in made.members_} == {16 if score < 0 else 1}
    assert made.chosen_ == ({"latent_points": 16} if score < 0 else {})


TWO_LAYERS, NARROW = ({**settings.TWO_LAYERS, "hidden_sizes": sizes} for sizes in ((8, 8), (5, 5)))


def as_judged(monkeypatch, **shares):
    """Let two layers have NLLs in shares of what one has, by their width; the wide ones are four times the work."""
    judged, found = Search._judged, {}

    def other(self, setting, seed, made, held):
        fit = judged(self, setting, seed, made, held)
        if len(made.hidden_sizes) == 1:
            found.setdefault("one", fit)
            return fit
        nll = found["one"].nll * shares["wide" if made.hidden_sizes[0] == 8 else "narrow"]
        return fit._replace(nll=nll, log_p=fit.log_p - fit.log_p.mean() - nll)

    def work(fit):
        return 0.0 if np.isinf(fit.nll) else 4000.0 if fit.made.hidden_sizes == (8, 8) else 1000.0

    monkeypatch.setattr(search, "FEW_ONES", FEW_ONES)
    monkeypatch.setattr(search, "alternatives", lambda params: [])
    monkeypatch.setattr(Search, "_judged", other)
    monkeypatch.setattr(search.Fit, "work", property(work))


@pytest.mark.parametrize(
    ("wide", "narrow", "chosen"),
    [
        (0.99, 1.0, TWO_LAYERS),
        (0.99, 0.991, NARROW),
        (0.99, 0.993, TWO_LAYERS),
        (1.02, 1.01, {}),
        (0.999, np.inf, TWO_LAYERS),
        (np.inf, 0.999, NARROW),
    ],
)
def test_two_layers_under_masks_must_beat_one(monkeypatch, wide, narrow, chosen):
    """Four times the work is worth twice twice the members, each 0.1 % of the NLL."""
    as_judged(monkeypatch, wide=wide, narrow=narrow)
    monkeypatch.setattr(Search, "_join", lambda self: None)
    made = best(3, n_jobs=1).fit(sp.csr_array(X), X_val=V)
    several = [record for record in made.search_ if record.get("setting", {}).get("n_masks") == 8]
    assert {record["setting"]["hidden_sizes"]: record["better"] for record in several[:2]} == {
        sizes: chosen.get("hidden_sizes") == sizes for sizes in ((8, 8), (5, 5))
    }
    assert len(several) == (2 if chosen else 3)  # masks of the setting that is chosen are tried after it
    assert made.chosen_.get("hidden_sizes") == chosen.get("hidden_sizes")
    assert {len(member.hidden_sizes) for member in made.members_} == {2 if chosen else 1}


@pytest.mark.parametrize(
    "params", [{"hidden_sizes": ()}, {"n_masks": 2}, {"latent_points": 2}, {"connectivity_weights": True}]
)
def test_two_layers_are_tried_where_they_may_be(monkeypatch, params):
    monkeypatch.setattr(search, "alternatives", lambda params: [])
    monkeypatch.setattr(Search, "_try_masks", lambda self, until: None)

    def tried(X, V, **params):
        records = best(1, **params).fit(X, X_val=V).search_
        return [record["setting"]["hidden_sizes"] for record in records if "hidden_sizes" in record.get("setting", {})]

    ones = float(V.sum() / len(V))
    monkeypatch.setattr(search, "FEW_ONES", ones - 0.01)
    assert not tried(X, V)
    monkeypatch.setattr(search, "FEW_ONES", ones)
    assert sorted(tried(X, V)) == [(5, 5), (8, 8)]
    assert sorted(tried(X, with_gaps(V, 0.01), hidden_sizes=(1, 2, 6))) == [(1, 1, 4), (1, 2, 6)]
    assert not tried(X, V, **params)
    assert not tried(with_gaps(X), V)


def test_two_layers_have_no_more_time_than_is_left(monkeypatch):
    judged, tried, given = Search._judged, Search._tried, {}
    monkeypatch.setattr(search, "FEW_ONES", FEW_ONES)
    monkeypatch.setattr(search, "alternatives", lambda params: [])
    monkeypatch.setattr(Search, "_judged", lambda self, *rest: judged(self, *rest)._replace(seconds=1e9))

    def noted(self, settings, seconds):
        given[len(settings)] = seconds
        return tried(self, settings, seconds)

    monkeypatch.setattr(Search, "_tried", noted)
    best(1, time_budget=3600.0, n_jobs=1).fit(X, X_val=V)
    assert 1000 < given[2] <= 1800


def test_points_are_tried_against_two_layers_with_one_of_one_mask(monkeypatch):
    as_judged(monkeypatch, wide=0.99, narrow=1.0)
    monkeypatch.setattr(Search, "_try_points", POINTS)
    made = best(1).fit(X, X_val=V)
    found = [(record["setting"], record["better"]) for record in made.search_[1:4]]
    points = "latent_points" in made.chosen_ and "n_masks" not in made.chosen_
    assert found == [(TWO_LAYERS, True), (NARROW, False), ({"latent_points": 16}, points)]


def test_a_setting_without_time_for_members_must_bring_more(monkeypatch):
    wider = [lambda p: [{"hidden_sizes": (32,)}]]
    monkeypatch.setattr(search, "alternatives", lambda params: wider)
    made = best(1, max_epochs=30, time_budget=60.0).fit(X, X_val=V)
    assert made.chosen_ == {"hidden_sizes": (32,)}
    one, other = (record["validation_nll"] for record in made.search_[:2])
    assert other < one
    slow = Search._judged
    monkeypatch.setattr(
        Search, "_judged", lambda self, setting, *rest: slow(self, setting, *rest)._replace(seconds=1e6 if setting else 1e-3)
    )
    monkeypatch.setattr(search, "PRICE", 1.0)
    assert best(1, max_epochs=30, time_budget=60.0).fit(X, X_val=V).chosen_ == {}


@pytest.mark.parametrize("nll", [0.99, 0.9])
def test_points_are_tried_with_a_setting_that_is_fast_enough_for_them(monkeypatch, nll):
    """The best setting takes an hour; with points none of it would be done in time. Those far behind it are not tried."""
    judged, others = Search._judged, []

    def of_wide(self, setting, *rest):
        fit = judged(self, setting, *rest)
        if "hidden_sizes" in setting:
            return fit._replace(seconds=3600.0, nll=nll * min(others))
        others.append(fit.nll)
        return fit

    monkeypatch.setattr(Search, "_try_points", POINTS)
    monkeypatch.setattr(Search, "_judged", of_wide)
    monkeypatch.setattr(Search, "_try_masks", lambda self, until: None)
    monkeypatch.setattr(search, "alternatives", lambda params: [lambda p: [{"batch_size": 10}, {"hidden_sizes": (32,)}]])
    made = best(1, time_budget=7200.0).fit(X, X_val=V)
    assert {"hidden_sizes": (32,)} in [
        record["setting"] for record in made.search_ if record["better"] and "setting" in record
    ]
    tried = [record["setting"] for record in made.search_ if "latent_points" in record.get("setting", {})]
    assert sorted(tried, key=len) == ([{"latent_points": 16}, {"latent_points": 16, "batch_size": 10}] if nll > 0.98 else [])


def test_points_help_where_rows_are_of_kinds(monkeypatch):
    """Rows of four patterns with noise: a network without hidden units has no other way to tell them apart."""
    monkeypatch.setattr(Search, "_try_points", POINTS)
    monkeypatch.setattr(search, "alternatives", lambda params: [])
    made = best(1, hidden_sizes=(), direct_connections="none", max_epochs=50).fit(X, X_val=V)
    assert made.chosen_ == {"latent_points": 16}
    assert best(1, n_masks=2).fit(X, X_val=V).chosen_ == {}


def test_fits_of_other_settings_join_the_members_if_they_help(monkeypatch):
    """Masks that vary, where there is no time for more like them; the record shows it, and ``refit`` keeps their setting."""
    monkeypatch.setattr(Search, "_masks", lambda self, left: ([{"n_masks": 2}], 1e-9))
    mixed = {1: 3.0, 2: 2.0}
    monkeypatch.setattr(Search, "_mixed", lambda self, fits: mixed[max(fit.made.n_masks for fit in fits)] - 0.01 * len(fits))
    monkeypatch.setattr(search, "ENOUGH", 0.4)
    monkeypatch.setattr(search, "alternatives", lambda params: [])
    for refit in (False, True):
        made = best(4, n_jobs=1, refit=refit).fit(X, X_val=V)
        assert [member.n_masks for member in made.members_] == [1, 1, 1, 2]
        assert made.chosen_ == {}
        assert len(made.members_[3].history_) == 1
        assert made.search_[-1]["members"] == 4
        total = np.logaddexp.reduce([member.score_samples(V) for member in made.members_], axis=0) - np.log(4)
        np.testing.assert_allclose(made.score_samples(V), total, rtol=1e-12)
    full = best(3, n_jobs=1).fit(X, X_val=V)
    assert [member.n_masks for member in full.members_] == [1, 1, 1]
    monkeypatch.setattr(search, "ENOUGH", 1.0)
    assert [member.n_masks for member in best(4, n_jobs=1).fit(X, X_val=V).members_] == [1, 1, 1]


def test_points_of_a_latent_mixture_need_complete_rows(monkeypatch):
    monkeypatch.setattr(Search, "_try_points", POINTS)
    monkeypatch.setattr(search, "alternatives", lambda params: [])
    made = best(2).fit(with_gaps(X))
    assert not any(record.get("setting", {}).get("latent_points", 1) > 1 for record in made.search_)


def test_the_callback_is_told_of_members_only(monkeypatch):
    told = []
    monkeypatch.setattr(search, "alternatives", lambda params: [])
    made = best(3, n_jobs=1).fit(X, X_val=V, callback=lambda m, record: told.append((m, record["epoch"])))
    assert {m for m, _ in told} >= set(range(1, len(made.members_)))  # member 0 is of the search
    for m in range(1, len(made.members_)):
        assert [epoch for number, epoch in told if number == m] == list(range(1, len(made.members_[m].history_) + 1))


def test_verbose_shows_what_was_tried(capfd, monkeypatch):
    monkeypatch.setattr(search, "alternatives", lambda params: [lambda p: [{"dropout": 0.0}]])
    made = best(2, verbose=1, refit=True).fit(X, X_val=V)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == len(made.search_) + 1
    assert "as given: validation " in lines[0]
    assert lines[0].endswith(", better")
    n = len(made.members_)
    assert f"{n} of {n} members trained again on all rows" in lines[-1]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"preset": "good"}, "preset must be one of 'none', 'best', got 'good'"),
        ({"time_budget": 0}, "time_budget must be"),
        ({"refit": "yes"}, "refit must be"),
        ({"n_members": 0}, "n_members must be"),
        ({"hidden_sizes": (0,)}, "hidden_sizes"),
        ({"dropout": 2.0}, "dropout must be"),
        ({"direct_connections": "never"}, "direct_connections must be"),
        ({"hidden_sizes": None}, "hidden_sizes must be"),
    ],
)
def test_wrong_parameters_are_refused(params, message):
    made = best()
    with pytest.raises((ValueError, TypeError), match=message):
        made.set_params(**params).fit(X, X_val=V)
    assert not hasattr(made, "model_")


def test_rows_are_joined_with_their_weights_and_gaps():
    one, other = Rows.of(X, None, None), Rows.of(with_gaps(V), np.arange(60.0), None)
    both = one.joined(other)
    np.testing.assert_array_equal(both.weights, np.r_[np.ones(200), np.arange(60.0)])
    assert both.missing.shape == (260, 1)
    assert not both.missing[:200].any()
    np.testing.assert_array_equal(both.missing[200:], other.missing)
    mixed = Rows.of(sp.csr_array(X), None, None).joined(Rows.of(V, None, None))
    np.testing.assert_array_equal(mixed.table.rows.toarray(), np.concatenate([X, V]))
    assert len(mixed.weights) == 0


def test_more_of_a_rival_join_as_long_as_they_help(monkeypatch):
    """The rival's members are others: of seeds of their own, as many as the user asks for and no more."""
    masks = [{"n_masks": 2}]
    monkeypatch.setattr(Search, "_try_masks", lambda self, until: self._compete(self._tried(masks, 60.0), 60.0, -np.inf))
    monkeypatch.setattr(Search, "_is_enough", lambda self: len(self.members) >= 2)
    gains = {1: 0.01, 2: 1.0}  # what a member brings, by its masks
    monkeypatch.setattr(Search, "_mixed", lambda self, fits: 3.9 - sum(gains[fit.made.n_masks] for fit in fits))
    monkeypatch.setattr(search, "alternatives", lambda params: [])
    made = best(5, n_jobs=1).fit(X, X_val=V)
    assert [member.n_masks for member in made.members_] == [1, 1, 2, 2, 2]
    assert len({member.random_state for member in made.members_}) == 4  # what was tried has the first seed
    assert made.chosen_ == {}
    gains[2] = -1.0
    assert [member.n_masks for member in best(5, n_jobs=1).fit(X, X_val=V).members_] == [1, 1]


def test_points_that_are_slow_leave_time_for_masks_that_vary(monkeypatch):
    judged = Search._judged

    def of_points(self, setting, *rest):
        fit = judged(self, setting, *rest)
        return fit._replace(seconds=1000.0, nll=0.1) if "latent_points" in setting and "n_masks" not in setting else fit

    monkeypatch.setattr(Search, "_try_points", POINTS)
    monkeypatch.setattr(Search, "_judged", of_points)
    monkeypatch.setattr(search, "alternatives", lambda params: [])
    made = best(2, time_budget=3600.0, n_jobs=1).fit(X, X_val=V)
    assert made.chosen_ == {"latent_points": 16}
    assert [record["setting"]["n_masks"] for record in made.search_ if "n_masks" in record.get("setting", {})] == [8, 32]
