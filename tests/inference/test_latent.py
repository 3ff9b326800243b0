"""Latent mixtures: the model against enumeration and by hand, its questions, its file, what training refuses."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from fits import rows, same_fit, small
from helpers import all_inputs, assert_drawn_from, random_latent

from made_fast import MADE, MADEEnsemble, ModelFileError, load
from made_fast.inference import modelfile
from made_fast.inference.tensorfile import read, write
from made_fast.kernels import layout as panels
from made_fast.network.latent import features

D, K = 8, 5
SHAPES = [((), "none"), ((12,), "output"), ((9, 70), "all")]
shapes = pytest.mark.parametrize(("hidden", "direct"), SHAPES)


def by_hand(model):
    """Return log p of all inputs at each point, (K, 2^D), by the dense network of each."""
    found = []
    for k in range(model.n_points):
        dense, h = model.point(k).to_dense(), all_inputs(D).astype(float)
        x, last = h, len(dense["weights"]) - 1
        for l, (W, b, A) in enumerate(zip(dense["weights"], dense["biases"], dense["direct"], strict=True)):
            h = h @ W.T + b + (0 if A is None else x @ A.T)
            h = np.maximum(h, 0) if l < last else h
        found.append(-np.logaddexp(0, np.where(x == 1, -h, h)).sum(axis=1))
    return np.stack(found)


@shapes
def test_score_is_the_mixture_by_hand(hidden, direct):
    model, X = random_latent(D, hidden, K, direct=direct), all_inputs(D)
    parts = by_hand(model)
    assert parts.std(axis=0).mean() > 0.5  # points differ
    expected = np.logaddexp.reduce(parts, axis=0) - np.log(K)
    np.testing.assert_allclose(model.score_samples(X), expected, rtol=1e-12)
    assert abs(np.exp(expected).sum() - 1) < 1e-12
    *_, last = model.score_parts(X)
    np.testing.assert_allclose(last, expected, rtol=1e-12)
    np.testing.assert_allclose(model.point(3).score_samples(X), parts[3], rtol=1e-12)
    assert (model.score_samples(X, mask=0, n_threads=2) == model.score_samples(X, n_threads=1)).all()
    assert_drawn_from(model.sample(20_000, 0), np.exp(expected))


@shapes
def test_conditionals_are_those_of_the_mixture(hidden, direct):
    model, X = random_latent(D, hidden, K, direct=direct), all_inputs(D)
    p, P, place = np.exp(model.score_samples(X)), model.conditional_proba(X), model.masks.orderings[0]
    for d in range(D):
        before = place < place[d]
        for x, found in zip(X[::17], P[::17], strict=True):
            same = (X[:, before] == x[before]).all(axis=1)
            assert found[d] == pytest.approx(p[same & (X[:, d] == 1)].sum() / p[same].sum(), rel=1e-10)


def test_rows_that_no_point_gives_a_chance_have_conditionals():
    model = random_latent(200, (), K, dtype="float32", scale=200)
    P = model.conditional_proba(np.random.default_rng(0).integers(0, 2, (20, 200), np.uint8))
    assert ((P >= 0) & (P <= 1)).all()


def test_conditionals_know_what_hardly_possible_inputs_tell_of_the_point():
    """The probability of an input that float32 takes for 1 is not 1: how little it leaves decides which point it was."""
    model, X = random_latent(D, (), K, dtype="float32", scale=30), all_inputs(D)
    log_p, P, place = model.score_samples(X), model.conditional_proba(X), model.masks.orderings[0]
    assert (log_p < -50).any()
    for d in range(D):
        before = place < place[d]
        for x, found in zip(X, P, strict=True):
            same = (X[:, before] == x[before]).all(axis=1)
            one = np.logaddexp.reduce(log_p[same & (X[:, d] == 1)]) - np.logaddexp.reduce(log_p[same])
            assert found[d] == pytest.approx(np.exp(one), abs=1e-3)


def test_answers_about_missing_inputs():
    model, X = random_latent(D, (12,), K, direct="output"), all_inputs(D)
    p, gaps = np.exp(model.score_samples(X)), X[::9].astype(float)
    gaps[:, [1, 4]] = np.nan
    seen = ~np.isnan(gaps[0])
    same = [(X[:, seen] == x[seen]).all(axis=1) for x in gaps]
    np.testing.assert_allclose(model.log_marginal(gaps), [np.log(p[these].sum()) for these in same], rtol=1e-10)
    expected = [p[these & (X[:, 4] == 1)].sum() / p[these].sum() for these in same]
    np.testing.assert_allclose(model.impute(gaps, "mean")[:, 4], expected, rtol=1e-10)
    np.testing.assert_allclose(model.conditional(gaps, target=4), expected, rtol=1e-10)
    draws = model.sample_conditional(gaps[:1], 20_000, random_state=0)[:, 0]
    assert_drawn_from(draws, np.where(same[0], p, 0) / p[same[0]].sum())
    with pytest.raises(ValueError, match="n_members must be at most 1"):
        model.log_marginal(gaps, n_members=2)


def test_what_a_latent_model_tells_of_itself():
    model = random_latent(D, (12,), K, dtype="float32")
    one = model.point(0)
    assert repr(model).startswith("LatentModel(8-12-8, relu, float32, ")
    assert repr(model).endswith(", 5 points)")
    assert model.n_parameters == one.n_parameters + (K - 1) * (12 + D)
    assert model.with_input(0.5).score_samples(all_inputs(D) * 0.9).shape == (2**D,)
    for wrong in (lambda: model.point(5), lambda: model.score_samples(all_inputs(D), mask=1), model.to_dense):
        with pytest.raises(ValueError, match=r"points|masks"):
            wrong()


@pytest.mark.parametrize("mmap", [False, True])
def test_files_and_pickles_hold_the_same_bits_once(tmp_path, mmap):
    model, X, path = random_latent(40, (30,), K, direct="all", dtype="float32"), rows(100, 40), tmp_path / "latent.safetensors"
    model.save(path)
    again = load(path, mmap=mmap)
    for other in (again, pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert repr(other) == repr(model)
        assert (other.score_samples(X) == model.score_samples(X)).all()
        assert (other.sample(50, 1) == model.sample(50, 1)).all()
    assert len(pickle.dumps(model)) < 1.2 * model.source.vector.nbytes + 5000
    with pytest.raises(ValueError, match="read-only"):
        again.source.vector[0] = 1


def edited(model, change):
    tensors, metadata = modelfile.encode(model._content())
    tensors["parameters"] = tensors["parameters"].copy()
    change(tensors, metadata)
    return tensors, metadata


@pytest.mark.parametrize(
    ("change", "match"),
    [
        *((lambda _, about, points=points: about.update(points=points), "points must be a number in 1..256")
          for points in ("0", "-1", "x", "", "257", "1e3", "²", "9" * 5000)),
        (lambda _, about: about.update(points="4"), "there must be [0-9]+ parameters"),
        (lambda _, about: about.update(trained="true"), "there must be [0-9]+ parameters"),
        (lambda _, about: about.update(trained="maybe"), "trained must be one of"),
        (lambda tensors, _: tensors["parameters"].__setitem__(-1, 1), "fill-up units must be 0 at all points"),
    ],
)  # fmt: skip
def test_broken_files_are_refused(tmp_path, change, match):
    path = tmp_path / "broken.safetensors"
    write(path, *edited(random_latent(D, (12,), K), change))
    with pytest.raises(ModelFileError, match=match):
        load(path)


def test_points_and_several_masks_are_refused_in_a_file(tmp_path):
    path = tmp_path / "broken.safetensors"
    small(n_masks=2).fit(rows(50)).save(path)
    tensors, metadata = read(path)
    write(path, tensors, metadata | {"points": "3"})
    with pytest.raises(ModelFileError, match="points need parameters of one mask"):
        load(path)


# Training


def test_features_are_smooth_bounded_and_fixed():
    found = features(32)
    assert found.shape == (32, panels.MAX_FEATURES)
    assert abs(found).max() < 1
    assert np.linalg.matrix_rank(found) == 32
    np.testing.assert_array_equal(features(8), found[:8])  # more points leave the first ones where they are
    np.testing.assert_allclose(found[0, :3], [0.747375, -0.320558, -0.416746], atol=1e-6)


def test_fits_are_better_than_one_point_and_repeat_their_bits():
    X, X_val = rows(900), rows(300, seed=1)
    options = {"max_epochs": 40, "patience": 40, "dropout": 0.1, "latent_points": 6}
    fits = [small(**options, n_threads=n).fit(X, X_val=X_val) for n in (1, 2)]
    same_fit(*fits)
    model = fits[0].model_
    assert fits[0].history_[fits[0].best_epoch_ - 1]["validation_nll"] == pytest.approx(-model.score(X_val), rel=1e-6)
    assert model.score(X_val) > small(**options | {"latent_points": 1}).fit(X, X_val=X_val).score(X_val)
    assert abs(np.exp(model.score_samples(all_inputs(12))).sum() - 1) < 1e-5


@pytest.mark.parametrize("more", [{}, {"direct_connections": "all", "dropout": 0.2, "clip_norm": 0.5, "weight_decay": 0.01}])
def test_a_fit_that_is_resumed_ends_with_the_same_bits(tmp_path, more):
    X, X_val, path = rows(300), rows(100, seed=1), tmp_path / "latent.checkpoint"
    small(latent_points=3, max_epochs=2, **more).fit(X, X_val=X_val, checkpoint=path)
    resumed = MADE.resume(path).set_params(max_epochs=5).fit(X, X_val=X_val)
    same_fit(resumed, small(latent_points=3, **more).fit(X, X_val=X_val))
    with pytest.raises(ModelFileError, match="kind of the file must be 'model'"):
        load(path)


def test_partial_fit_goes_on_and_leaves_the_old_model_alone():
    X = rows(400)
    made = small(latent_points=3, max_epochs=2).fit(X)
    before, scores = made.model_, made.score_samples(X)
    made.partial_fit(X)
    assert made.score(X) > scores.mean()
    assert (before.score_samples(X) == scores).all()
    tables = made._fit_state.trainer.parameters
    kept = tables.vector.copy()
    tables.settle()
    np.testing.assert_allclose(tables.vector, kept, atol=1e-6)  # the kernel has left the tables in step with E


def test_a_member_of_an_ensemble(tmp_path):
    X = rows(200)
    made = MADEEnsemble(2, hidden_sizes=(10,), latent_points=3, max_epochs=2, random_state=0).fit(X)
    parts = [member.score_samples(X) for member in made.members_]
    np.testing.assert_allclose(made.score_samples(X), np.logaddexp(*parts) - np.log(2), rtol=1e-12)
    made.save(tmp_path / "both.safetensors")
    again = load(tmp_path / "both.safetensors")
    assert (again.score_samples(X) == made.score_samples(X)).all()
    gaps = np.where(np.arange(12) % 3 == 0, np.nan, X[:5])
    np.testing.assert_array_equal(again.log_marginal(gaps), made.log_marginal(gaps))


@pytest.mark.parametrize(
    ("params", "X", "match"),
    [
        ({"n_masks": 4}, rows(20), "must be 1 with n_masks = 4, got 3"),
        ({"n_masks": None}, rows(20), "must be 1 with n_masks = None"),
        ({"connectivity_weights": True}, rows(20), "must be 1 with connectivity_weights = True"),
        ({}, rows(20, missing=0.3), "must be 1 for rows with missing entries"),
        ({"latent_points": 257}, rows(20), "latent_points must be an int >= 1 and at most 256, got 257"),
        ({"latent_points": 0}, rows(20), "latent_points must be an int >= 1, got 0"),
    ],
)
def test_what_training_refuses(params, X, match):
    with pytest.raises(ValueError, match=match):
        small(**{"latent_points": 3, **params}).fit(X)
