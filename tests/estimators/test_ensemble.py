"""Mixtures of independent members: the model against enumeration, its file, EM, the estimator by its public methods."""

from __future__ import annotations

import hashlib
import json
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings

import joblib
import numpy as np
import pytest
import scipy.sparse
import scipy.stats
from helpers import all_inputs, random_model
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from made_fast import MADE, ApproximationWarning, MADEEnsemble, MADEModel, MixtureModel, ModelFileError, load
from made_fast.estimators import ensemble
from made_fast.estimators.ensemble import em_weights
from made_fast.inference import modelfile
from made_fast.inference.tensorfile import read, write

WEIGHTS = [0.5, 0.3, 0.2]
D = 8


def mixture(dtype: str = "float64", n_inputs: int = D) -> MixtureModel:
    """Return a mixture of a model of one mask, one of four, and one that was trained under ever fresh masks."""
    members = [
        random_model(n_inputs, (16,), seed=1, dtype=dtype),
        random_model(n_inputs, (9, 12), seed=2, dtype=dtype, n_masks=4, connectivity_weights=True, direct="all"),
        random_model(n_inputs, (20,), seed=3, dtype=dtype, n_masks=None, direct="output"),
    ]
    return MixtureModel(members, WEIGHTS, hyper={"name": "größer", "sizes": [1, 2]})


def any_order() -> MixtureModel:
    """Return a mixture of models that answer every question exactly."""
    return MixtureModel([random_model(D, (14,), seed=seed, n_masks=None) for seed in (1, 2, 3)], WEIGHTS)


def blobs(n: int, n_inputs: int = 12, seed: int = 0):
    """Noisy copies of four patterns: data with structure, unlike independent bits."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(99).random((4, n_inputs)) < 0.5
    return (patterns[rng.integers(4, size=n)] ^ (rng.random((n, n_inputs)) < 0.05)).astype(np.uint8)


def dense_log_p(net, X):
    """Return log p of a relu network as plain arrays, computed here."""
    h = X.astype(np.float64)
    for l, (W, b, A) in enumerate(zip(net["weights"], net["biases"], net["direct"], strict=True)):
        h = h @ W.T + b + (0 if A is None else X @ A.T)
        if l < len(net["weights"]) - 1:
            h = np.maximum(h, 0)
    return -np.logaddexp(0, np.where(X == 1, -h, h)).sum(axis=1)


def joint(model: MixtureModel, observed) -> np.ndarray:
    """Return p of all inputs under the mixture of the members that answer when these inputs are observed, by plain arrays."""
    nets = [model.to_dense(member=m, mask=a.member_for(observed)) for m, a in enumerate(model.members)]
    return sum(w * np.exp(dense_log_p(net, all_inputs(D))) for w, net in zip(model.weights, nets, strict=True))


def questions(n: int = 12, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    X = (rng.random((n, D)) < 0.5).astype(float)
    X[rng.random((n, D)) < rng.random((n, 1))] = np.nan
    return X


# The mixture


def test_sums_to_one_over_all_inputs():
    model = mixture(n_inputs=10)
    X = all_inputs(10)
    assert abs(np.exp(model.score_samples(X)).sum() - 1) < 1e-12
    for m in range(3):
        assert abs(np.exp(model.score_samples(X, member=m)).sum() - 1) < 1e-12


def test_score_is_the_mixture_by_hand():
    model, X = mixture(), all_inputs(D)
    parts = np.stack([member.score_samples(X) for member in model.members])
    expected = np.log((np.array(WEIGHTS)[:, None] * np.exp(parts)).sum(axis=0))
    np.testing.assert_allclose(model.score_samples(X), expected, rtol=1e-13)
    assert model.score(X) == model.score_samples(X).mean()
    for m in range(3):
        assert (model.score_samples(X, member=m) == parts[m]).all()
    alone = MixtureModel(model.members[:1])
    assert (alone.score_samples(X) == parts[0]).all()


def test_unlikely_rows_do_not_underflow():
    X = np.zeros((2, 2000), np.uint8)
    model = MixtureModel([random_model(2000, (), seed=seed, scale=80) for seed in (0, 1)], [0.5, 0.5])
    log_p = model.score_samples(X)
    assert (log_p < -1000).all()
    assert np.isfinite(log_p).all()


def test_same_bits_for_any_number_of_threads_and_rows():
    model, X = mixture("float32"), np.tile(all_inputs(D), (3, 1))
    expected = model.score_samples(X, n_threads=1)
    for n_threads in (2, 3, 8):
        assert (model.score_samples(X, n_threads=n_threads) == expected).all()
        assert (model.sample(500, 1, n_threads=n_threads) == model.sample(500, 1, n_threads=1)).all()
        for method in ("mode", "mean", "sample"):
            answers = [model.impute(questions(), method, n_threads=n) for n in (1, n_threads)]
            assert (answers[0] == answers[1]).all()
    assert (np.concatenate([model.score_samples(X[i : i + 100]) for i in range(0, len(X), 100)]) == expected).all()


def test_samples_have_the_distribution_of_the_mixture():
    model, n = mixture(), 20_000
    p = np.exp(model.score_samples(all_inputs(D)))
    codes = model.sample(n, 0) @ (1 << np.arange(D))
    observed = np.bincount(codes, minlength=len(p))
    rare = n * p < 5
    f_obs, f_exp = np.append(observed[~rare], observed[rare].sum()), n * np.append(p[~rare], p[rare].sum())
    assert scipy.stats.chisquare(f_obs, f_exp * (n / f_exp.sum())).pvalue > 1e-3
    assert (model.sample(50, 3, member=2) == model.members[2].sample(50, 3)).all()
    assert model.sample(1).shape == (1, D)


def test_what_a_mixture_tells_of_itself():
    model = mixture("float32")
    assert (model.n_features_in, model.n_members, model.binarize) == (D, 3, None)
    assert model.n_parameters == sum(member.n_parameters for member in model.members)
    assert repr(model).startswith("MixtureModel(3 members, weights 0.5, 0.3, 0.2, ")
    P = model.conditional_proba(all_inputs(D), member=1, mask=3)
    assert (model.members[1].conditional_proba(all_inputs(D), mask=3) == P).all()
    assert (model.conditional_proba(all_inputs(D), member=0) == model.members[0].conditional_proba(all_inputs(D))).all()
    assert (model.to_dense(member=0)["weights"][0] == model.members[0].to_dense()["weights"][0]).all()
    assert MixtureModel(model.members).weights.tolist() == [1 / 3] * 3
    with pytest.raises(ValueError, match="read-only"):
        model.weights[0] = 1
    assert (pickle.loads(pickle.dumps(model)).score_samples(all_inputs(D)) == model.score_samples(all_inputs(D))).all()


# Missing inputs


def test_marginals_and_conditionals_match_enumeration():
    model, X = any_order(), questions(30)
    log_p, std = model.log_marginal(X, return_std=True)
    assert not std.any()
    targets = np.arange(len(X)) % D
    proba = model.conditional(X, targets)
    for i, x in enumerate(X):
        p, fits = joint(model, ~np.isnan(x)), (np.isnan(x) | (all_inputs(D) == x)).all(axis=1)
        assert log_p[i] == pytest.approx(np.log(p[fits].sum()), abs=1e-12)
        y, t = x.copy(), targets[i]
        y[t] = 1
        p = joint(model, ~np.isnan(y))
        y[t] = np.nan
        fits = (np.isnan(y) | (all_inputs(D) == y)).all(axis=1)
        assert proba[i] == pytest.approx(p[fits & (all_inputs(D)[:, t] == 1)].sum() / p[fits].sum(), abs=1e-12)


def test_one_fixed_ordering_a_member_is_exact_too_where_little_is_missing():
    """Members of one mask: the mixture is one and the same for every question, and it is what score_samples tells."""
    members = [random_model(D, (14,), seed=seed) for seed in (1, 2, 3)]
    model, X = MixtureModel(members, WEIGHTS), questions(30, seed=1)
    p = np.exp(model.score_samples(all_inputs(D)))
    means = model.impute(X, "mean")
    for i, x in enumerate(X):
        fits = (np.isnan(x) | (all_inputs(D) == x)).all(axis=1)
        assert model.log_marginal(X[i : i + 1])[0] == pytest.approx(np.log(p[fits].sum()), abs=1e-12)
        assert model.conditional(X[i : i + 1], 3)[0] == pytest.approx(conditional(p, x, 3), abs=1e-12)
        np.testing.assert_allclose(means[i], (p[fits] @ all_inputs(D)[fits]) / p[fits].sum(), atol=1e-12)
    whole = all_inputs(D)[:20]
    np.testing.assert_allclose(model.log_marginal(whole), model.score_samples(whole), rtol=1e-13)


def conditional(p, x, t):
    x = x.copy()
    x[t] = np.nan
    fits = (np.isnan(x) | (all_inputs(D) == x)).all(axis=1)
    return p[fits & (all_inputs(D)[:, t] == 1)].sum() / p[fits].sum()


@pytest.mark.parametrize("observed", [[0], [1, 4, 6], [2, 3, 7], []])
def test_draws_given_evidence_have_the_distribution_of_the_mixture(observed):
    model, n = any_order(), 20_000
    x = np.full(D, np.nan)
    x[observed] = np.arange(len(observed)) % 2
    draws = model.sample_conditional(np.stack([x, np.zeros(D), x]), n // 2, random_state=0)
    assert draws.shape == (n // 2, 3, D)
    assert not draws[:, 1].any()
    p, fits = joint(model, ~np.isnan(x)), (np.isnan(x) | (all_inputs(D) == x)).all(axis=1)
    p = np.where(fits, p, 0) / p[fits].sum()
    count = np.bincount((draws[:, [0, 2]].reshape(-1, D) @ (1 << np.arange(D))), minlength=len(p))
    assert not count[~fits].any()
    common = n * p >= 5
    f_obs, f_exp = np.append(count[common], count[~common].sum()), n * np.append(p[common], p[~common].sum())
    f_obs, f_exp = f_obs[f_exp > 0], f_exp[f_exp > 0]
    assert scipy.stats.chisquare(f_obs, f_exp * (n / f_exp.sum())).pvalue > 1e-3
    assert (draws == model.sample_conditional(np.stack([x, np.zeros(D), x]), n // 2, random_state=0)).all()


def test_imputed_mode_is_the_best_of_the_members_and_observed_entries_stay():
    model, X = any_order(), questions(40)
    there = ~np.isnan(X)
    filled = {method: model.impute(X, method, random_state=0) for method in ("mode", "mean", "sample")}
    assert [filled[method].dtype for method in filled] == [np.uint8, np.float64, np.uint8]
    for method in filled:
        assert (filled[method][there] == X[there]).all()
    candidates = np.stack([member.impute(X, "mode") for member in model.members])
    scores = np.stack([model.log_marginal(rows) for rows in candidates])
    best = candidates[scores.argmax(axis=0), np.arange(len(X))]
    assert (filled["mode"] == best).all()
    assert len(np.unique(scores.argmax(axis=0))) > 1
    assert (filled["sample"] == model.sample_conditional(X, 1, random_state=0)[0]).all()


def test_several_connectivities_a_member_answer_as_their_mixture():
    model, X = MixtureModel(any_order().members[:2], [0.9, 0.1]), questions(20)
    each = [np.exp(member.log_marginal(X, n_members=3)) for member in model.members]
    np.testing.assert_allclose(np.exp(model.log_marginal(X, n_members=3)), 0.9 * each[0] + 0.1 * each[1], rtol=1e-12)
    with pytest.raises(ValueError, match="n_members"):
        mixture().log_marginal(X, n_members=5)


def test_estimates_say_so_and_have_standard_errors():
    members = [random_model(40, (30,), seed=seed, scale=1.0) for seed in (0, 1)]
    model, x = MixtureModel(members, [0.7, 0.3]), np.full((1, 40), np.nan)
    x[0, [int(np.argmax(member.masks.orderings[0])) for member in members]] = 1
    answers = {
        "log_marginal": lambda **options: model.log_marginal(x, **options),
        "conditional": lambda **options: model.conditional(x, 0, **options),
        "sample_conditional": lambda **options: model.sample_conditional(x, 3, **options),
        "impute": lambda **options: model.impute(x, "mode", **options),
    }
    for name, answer in answers.items():
        with pytest.warns(ApproximationWarning, match=name) as caught:
            answer(n_walks=50)
        assert [warning.filename for warning in caught] == [__file__]
    one = np.array([model.log_marginal(x, return_std=True, random_state=seed, n_walks=200) for seed in range(40)])[:, :, 0]
    assert one[:, 0].std() == pytest.approx(one[:, 1].mean(), rel=0.5)
    exact, std = model.log_marginal(x, return_std=True, n_walks=20_000)
    assert abs(one[:, 0].mean() - exact[0]) < 4 * np.hypot(one[:, 0].std() / np.sqrt(40), std[0]) + one[:, 0].var()


# The file


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_saved_mixture_comes_back_to_the_bit(tmp_path, dtype, mmap):
    model, X = mixture(dtype, 11), all_inputs(11)[::3]
    for member in model.members:
        member.binarize, member.hyper = 0.25, {"rate": member.n_masks}
    model.save(tmp_path / "m.safetensors")
    loaded = load(tmp_path / "m.safetensors", mmap=mmap)
    assert isinstance(loaded, MixtureModel)
    assert loaded.weights.tobytes() == model.weights.tobytes()
    assert (loaded.score_samples(X) == model.score_samples(X)).all()
    assert (loaded.sample(50, 1) == model.sample(50, 1)).all()
    holes = np.where(X[:20] == 1, np.nan, 0.0)
    assert (loaded.impute(holes, "mean") == model.impute(holes, "mean")).all()
    assert (loaded.binarize, loaded.hyper, repr(loaded)) == (0.25, model.hyper, repr(model))
    for found, member in zip(loaded.members, model.members, strict=True):
        assert (found.hyper, found.rule is None) == (member.hyper, member.rule is None)
        values = found.source.vector
        assert values.ctypes.data % 64 == 0
        assert not values.flags.writeable
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "m.safetensors").read_bytes()


def test_a_single_model_is_still_loaded_as_one(tmp_path):
    random_model(D, (5,)).save(tmp_path / "m.safetensors")
    assert isinstance(load(tmp_path / "m.safetensors"), MADEModel)


def without(name):
    return lambda tensors, metadata: tensors.pop(name)


def weights(*values, dtype=np.float64):
    return lambda tensors, metadata: tensors.update(weights=np.array(values, dtype))


def other_width(tensors, metadata):
    wider = random_model(D + 1, (20,), dtype="float32", direct="output")
    for name, part in modelfile.encode(modelfile.Content(wider.source, wider.masks, None, {}))[0].items():
        tensors[f"member.2.{name}"] = part
    metadata.pop("member.2.rule")


def moved(tensors, metadata):
    items = list(tensors.items())
    tensors.clear()
    tensors.update([items[1], items[0], *items[2:]])


def put(name, value):
    return lambda tensors, metadata: tensors.update({name: value})


def say(**entries):
    return lambda tensors, metadata: metadata.update({name.replace("__", "."): text for name, text in entries.items()})


def damaged_ordering(tensors, metadata):
    tensors["member.1.ordering"] = tensors["member.1.ordering"] * 0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("weights"), "weights must be a vector"),
        (weights(0.5, 0.5), "member.2"),
        (weights(), "members, as many as weights"),
        (weights(*[1 / 50] * 50), "members, as many as weights"),
        (weights(0.5, 0.3, 0.3), "add up to 1"),
        (weights(1.2, 0.3, -0.5), "positive"),
        (weights(1.0, 0.0, 0.0), "positive"),
        (weights(0.5, 0.3, 0.2, dtype=np.float32), "vector of F64"),
        (weights([0.5, 0.3, 0.2]), "vector of F64"),
        (without("member.1.parameters"), "begin with the parameters"),
        (moved, "begin with the parameters"),
        (without("member.1.ordering"), "member 1: tensors must be"),
        (without("member.1.degrees.0"), "member 1"),
        (damaged_ordering, "member 1: the ordering"),
        (put("member.3.ordering", np.arange(3, dtype=np.int32)), "member.0. to member.2."),
        (put("member.01.ordering", np.arange(3, dtype=np.int32)), "member.0. to member.2."),
        (put("extra", np.arange(3, dtype=np.int32)), "names must begin"),
        (put("crowd.0.degrees.1", np.arange(3, dtype=np.int32)), "names must begin"),
        (put("member.0.extra", np.arange(3, dtype=np.int32)), "member 0: tensors must be"),
        (put("member.0.parameters", np.zeros(64, np.float32)), "member 0"),
        (other_width, "as many inputs"),
        (say(hyper="[]"), "hyper"),
        (say(member__0__hyper="{"), "member 0: hyper"),
        (say(member__0__activation="gelu"), "member 0: the activation"),
        (say(member__2__rule="{}"), "member 2: the rule"),
        (say(member__9__activation="relu"), "names must begin"),
        (say(note="x"), "names must begin"),
        (say(kind="crowd"), "kind"),
        (say(member__1__hyper='{"binarize": 0.5}'), "binarize"),
        (say(member__1__hyper='{"binarize": "high"}'), "binarize"),
    ],
)
def test_a_senseless_ensemble_file_is_refused_by_name(tmp_path, damage, message):
    path = tmp_path / "m.safetensors"
    mixture("float32").save(path)
    tensors, metadata = read(path)
    damage(tensors, metadata)
    write(path, tensors, metadata)
    with pytest.raises(ModelFileError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 600


def test_every_flipped_bit_of_an_ensemble_file_is_found(tmp_path):
    path = tmp_path / "m.safetensors"
    MixtureModel([random_model(3, (2,), seed=seed, dtype="float32") for seed in (0, 1)]).save(path)
    raw = bytearray(path.read_bytes())
    for at in np.random.default_rng(0).integers(len(raw), size=150):
        raw[at] ^= 4
        path.write_bytes(raw)
        with pytest.raises(ModelFileError):
            load(path)
        raw[at] ^= 4
    for size in (0, 7, 8, 100, len(raw) - 1):
        path.write_bytes(raw[:size])
        with pytest.raises(ModelFileError):
            load(path)


def test_what_could_not_be_read_is_not_written(tmp_path):
    model = mixture()
    model.members[1].hyper = {"rate": float("nan")}
    with pytest.raises(ValueError, match="JSON"):
        model.save(tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()


def test_a_server_needs_numpy_and_the_extension_alone(tmp_path):
    model = mixture("float32")
    model.save(tmp_path / "m.safetensors")
    code = f"""
import sys
for name in ("numba", "llvmlite", "sklearn", "scipy", "tqdm", "PIL", "pandas", "joblib", "safetensors", "Cython"):
    sys.modules[name] = None
import made_fast
model = made_fast.load({str(tmp_path / "m.safetensors")!r})
print(repr(float(model.score_samples(model.sample(5, 0)).sum())), model.impute([[0, float("nan")] * 4], "mean").shape)
"""
    out = subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.split()[0] == repr(float(model.score_samples(model.sample(5, 0)).sum()))


# What is refused


@pytest.mark.parametrize(
    ("members", "weights", "error", "message"),
    [
        ([], None, ValueError, "at least one"),
        ([MADE()], None, TypeError, "MADE for member 0.*model_"),
        ([random_model(3, ()), random_model(4, ())], None, ValueError, "same n_features_in.*3, 4"),
        ([random_model(3, ())], [0.5], ValueError, "add up to 1"),
        ([random_model(3, ())] * 2, [1.0], ValueError, r"shape \(2,\)"),
        ([random_model(3, ())] * 2, [1.0, 0.0], ValueError, "> 0"),
        ([random_model(3, ())] * 2, [np.nan, 1.0], ValueError, "finite"),
        ([random_model(3, ())] * 2, ["a", "b"], TypeError, "numbers"),
    ],
)
def test_a_senseless_mixture_is_refused(members, weights, error, message):
    with pytest.raises(error, match=message):
        MixtureModel(members, weights)


def test_a_mixture_refuses_different_thresholds_and_wrong_numbers():
    members = [random_model(D, (4,), seed=seed) for seed in (0, 1)]
    model, X = MixtureModel(members), all_inputs(D)[:3]
    for member, error in ((2, ValueError), (-1, ValueError), ("0", TypeError), (True, TypeError), (0.0, TypeError)):
        with pytest.raises(error, match="member must be"):
            model.score_samples(X, member=member)
    for call in (model.conditional_proba, lambda _: model.to_dense()):
        with pytest.raises(ValueError, match="member must say which"):
            call(X)
    with pytest.raises(ValueError, match="8 features"):
        model.score_samples(X[:, :4])
    with pytest.raises(ValueError, match="NaN"):
        model.score_samples(questions())
    with pytest.raises(ValueError, match="method"):
        model.impute(X, "median")
    with pytest.raises(ValueError, match="target"):
        model.conditional(X, D)
    with pytest.raises(ValueError, match="n_samples"):
        model.sample(0)
    members[1].binarize = 0.5
    with pytest.raises(ValueError, match="same binarize"):
        MixtureModel(members)


# EM


def test_em_is_monotone_and_recovers_the_weights_of_a_known_mixture():
    model = mixture()
    X = model.sample(20_000, 5)
    log_p = np.stack([member.score_samples(X) for member in model.members])
    found, scores = em_weights(log_p)
    assert len(scores) > 3
    assert (np.diff(scores) > 0).all()
    assert scores[0] == pytest.approx(MixtureModel(model.members).score(X), rel=1e-12)
    assert scores[-1] == pytest.approx(MixtureModel(model.members, found).score(X), rel=1e-12)
    np.testing.assert_allclose(found, WEIGHTS, atol=0.02)
    p, w = np.exp(log_p), found
    np.testing.assert_allclose((p / (w @ p)).mean(axis=1), 1, atol=2e-3)  # the gradient of the likelihood on the simplex


def test_em_has_its_limits():
    rng = np.random.default_rng(0)
    log_p = rng.normal(size=(4, 300)) - 1000 * np.arange(4)[:, None]  # all but the first never count
    found, _ = em_weights(log_p)
    assert found[0] == pytest.approx(1)
    assert (found > 0).all()
    assert abs(found.sum() - 1) < 1e-12
    same, scores = em_weights(np.zeros((3, 5)))
    assert same.tolist() == [1 / 3] * 3
    assert scores == [0.0]
    assert em_weights(rng.normal(size=(1, 9)))[0].tolist() == [1.0]
    slow = np.log(rng.random((5, 1000)))
    assert len(em_weights(slow, max_iterations=3)[1]) == 4
    assert len(em_weights(slow, tolerance=1e-3)[1]) < len(em_weights(slow)[1])


# The estimator


def small(n_members: int = 3, **params) -> MADEEnsemble:
    made = {"hidden_sizes": (12,), "max_epochs": 3, "batch_size": 20, "learning_rate": 0.01, "random_state": 0}
    return MADEEnsemble(n_members, **{**made, **params})


def bits(fitted: MADEEnsemble) -> str:
    """Return a digest of all that was fitted."""
    digest = hashlib.sha256(fitted.weights_.tobytes())
    for made in fitted.members_:
        for vectors in made.model_.to_dense(0).values():
            for vector in vectors if isinstance(vectors, list) else [vectors]:
                digest.update(b"" if vector is None else vector.tobytes())
        digest.update(json.dumps([[record["train_nll"], record["validation_nll"]] for record in made.history_]).encode())
    return digest.hexdigest()


@parametrize_with_checks([MADEEnsemble(2, binarize=0.0, max_epochs=2, hidden_sizes=(6,), n_threads=1, n_jobs=1)])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learn_conventions(estimator, check):
    check(estimator)


def test_parameters_of_the_members_are_parameters():
    made = small(optimizer="adagrad")
    params = made.get_params()
    assert params.keys() == MADE().get_params().keys() | {"n_members", "weights", "n_jobs"}
    assert (params["optimizer"], params["hidden_sizes"], params["dropout"], params["n_members"]) == ("adagrad", (12,), 0.0, 3)
    assert MADEEnsemble().get_params() == {**MADE().get_params(), "n_members": 5, "weights": "equal", "n_jobs": None}
    again = clone(made.set_params(hidden_sizes=[7], weights="em", n_members=4))
    assert (again.hidden_sizes, again.weights, again.n_members, again.optimizer) == ([7], "em", 4, "adagrad")
    assert pickle.loads(pickle.dumps(made)).get_params() == made.get_params()
    assert "optimizer='adagrad'" in repr(made)
    with pytest.raises(ValueError, match="hidden_size"):
        made.set_params(hidden_size=3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'hidden_size'"):
        MADEEnsemble(hidden_size=3)


def test_members_are_mades_that_differ():
    X = blobs(200)
    fitted = small(4).fit(X)
    assert [type(made) for made in fitted.members_] == [MADE] * 4
    assert len({made.random_state for made in fitted.members_}) == 4
    assert len({tuple(made.model_.masks.orderings[0]) for made in fitted.members_}) > 1
    assert fitted.weights_.tolist() == [0.25] * 4
    for made in fitted.members_:
        params = {**made.get_params(), "random_state": 0}
        assert params == {name: value for name, value in small(4).get_params().items() if name in params}
        assert (clone(made).fit(X).score_samples(X) == made.score_samples(X)).all()
    expected = np.logaddexp.reduce([made.score_samples(X) for made in fitted.members_], axis=0) - np.log(4)
    np.testing.assert_allclose(fitted.score_samples(X), expected, rtol=1e-13)
    assert fitted.score(X) > np.mean([made.score(X) for made in fitted.members_])  # by Jensen's inequality
    fewer = small(2).fit(X)
    assert (fewer.score_samples(X, member=1) == fitted.score_samples(X, member=1)).all()


def test_the_same_bits_whoever_trains_the_members():
    X = blobs(120)
    options = {"weights": "em", "validation_fraction": 0.25, "n_masks": 2}
    expected = bits(small(**options).fit(X))
    for n_jobs, n_threads in ((2, None), (-1, 3), (3, 2), (1, 1)):
        assert bits(small(**options, n_jobs=n_jobs, n_threads=n_threads).fit(X)) == expected
    for backend in ("threading", "loky"):
        with joblib.parallel_config(backend=backend, n_jobs=2):
            assert bits(small(**options).fit(X)) == expected
    assert bits(small(**options, random_state=1).fit(X)) != expected


def test_no_more_threads_than_there_are(monkeypatch):
    used, running, most, lock = [], [0], [0], threading.Lock()
    fit = MADE.fit

    def watched(self, *args, **options):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
            used.append(self.n_threads)
        time.sleep(0.05)
        try:
            return fit(self, *args, **options)
        finally:
            with lock:
                running[0] -= 1

    monkeypatch.setattr(MADE, "fit", watched)
    monkeypatch.setattr(ensemble.arguments.threads, "available", lambda: 6)
    for n_jobs, n_threads, each, at_once in ((1, None, 6, 1), (2, None, 3, 2), (4, None, 2, 3), (2, 9, 4, 2), (3, 2, 1, 3)):
        used.clear()
        most[0] = 0
        fitted = small(n_jobs=n_jobs, n_threads=n_threads, max_epochs=1).fit(blobs(30))
        assert (set(used), most[0]) == ({each}, at_once)
        assert [made.n_threads for made in fitted.members_] == [n_threads] * 3


def test_validation_rows_are_held_out_once_for_all(monkeypatch):
    X, seen, fit = blobs(200), [], MADE.fit
    X[:, 0] = 0

    def watched(self, X, y=None, *, X_val=None, **options):
        seen.append((X, X_val, options))
        return fit(self, X, y, X_val=X_val, **options)

    monkeypatch.setattr(MADE, "fit", watched)
    fitted = small(validation_fraction=0.25).fit(X, sample_weight=np.arange(200) % 7)
    assert len(seen) == 3
    for train, held_out, options in seen:
        assert (len(train), len(held_out), len(options["sample_weight"])) == (150, 50, 150)
        assert (held_out == seen[0][1]).all()
    assert (np.sort(np.concatenate(seen[0][:2]), axis=0) == np.sort(X, axis=0)).all()
    weight_of = {x.tobytes(): set() for x in X}
    for x, w in zip(X, np.arange(200) % 7, strict=True):
        weight_of[x.tobytes()].add(w)
    assert all(w in weight_of[x.tobytes()] for x, w in zip(seen[0][0], seen[0][2]["sample_weight"], strict=True))
    assert all(record["validation_nll"] is not None for made in fitted.members_ for record in made.history_)
    assert fitted.members_[0].validation_fraction == 0.25


def test_em_prefers_the_better_member(monkeypatch):
    fit, X, X_val = MADE.fit, blobs(300), blobs(100, seed=1)

    def lazy(self, X, *args, **options):
        self.set_params(max_epochs=15 if self.random_state == best else 1)
        return fit(self, X, *args, **options)

    best = small().fit(X).members_[1].random_state
    monkeypatch.setattr(MADE, "fit", lazy)
    fitted = small(weights="em").fit(X, X_val=X_val)
    assert fitted.weights_[1] > 0.8
    assert abs(fitted.weights_.sum() - 1) < 1e-12
    assert fitted.score(X_val) >= MixtureModel(fitted.model_.members).score(X_val)
    assert (fitted.model_.weights == fitted.weights_).all()


def test_weights_by_em_need_validation_rows():
    with pytest.raises(ValueError, match=r"weights='em' needs validation rows.*X_val.*validation_fraction"):
        small(weights="em").fit(blobs(30))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_members": 0}, "n_members"),
        ({"n_members": 2.0}, "n_members"),
        ({"weights": "best"}, "weights.*'equal', 'em'"),
        ({"weights": [1.0]}, "weights"),
        ({"n_threads": 0}, "n_threads"),
        ({"random_state": "seed"}, "random_state"),
        ({"validation_fraction": 2}, "validation_fraction"),
        ({"activation": "gelu"}, "activation"),
        ({"hidden_sizes": 12}, "hidden_sizes"),
    ],
)
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_bad_parameters_are_named_and_leave_what_was_fitted(params, message, n_jobs):
    made, X = small(2, n_jobs=n_jobs), blobs(40)
    before = made.fit(X).score(X)
    good = made.get_params()
    with pytest.raises((ValueError, TypeError), match=message):
        made.set_params(**params).fit(blobs(40, 5))
    assert made.set_params(**good).score(X) == before


def test_bad_data_are_named():
    made, X = small(2), blobs(40)
    for bad in (np.full((5, 12), 2), np.zeros((0, 12)), np.zeros(12)):
        with pytest.raises(ValueError, match="X"):
            made.fit(bad)
    with pytest.raises(ValueError, match="X_val"):
        made.fit(X, X_val=X[:, :5])
    with pytest.raises(ValueError, match="sample_weight"):
        made.fit(X, sample_weight=np.ones(3))
    assert not hasattr(made, "model_")
    for method in ("score", "score_samples", "conditional_proba", "log_marginal", "impute", "sample_conditional"):
        with pytest.raises(NotFittedError):
            getattr(made, method)(X)
    for call in (made.sample, lambda: made.save("nowhere"), lambda: made.conditional(X, 0)):
        with pytest.raises(NotFittedError):
            call()
    with pytest.raises(ValueError, match="12 features"):
        made.fit(X).score(X[:, :5])


def test_every_way_to_write_the_same_data_gives_the_same_mixture(tmp_path):
    pd = pytest.importorskip("pandas")
    X = blobs(60)
    expected = small(2, validation_fraction=0.2).fit(X)
    frame = pd.DataFrame(X, columns=[f"c{i}" for i in range(12)])
    np.save(tmp_path / "X.npy", X)
    for same in (X.astype(float), X.tolist(), scipy.sparse.csr_matrix(X), scipy.sparse.coo_array(X), frame,
                 np.load(tmp_path / "X.npy", mmap_mode="r")):  # fmt: skip
        assert bits(small(2, validation_fraction=0.2).fit(same)) == bits(expected)
    fitted = small(2).fit(frame)
    assert fitted.feature_names_in_.tolist() == list(frame.columns)
    assert fitted.members_[0].score(frame) < 0  # without a warning about names
    with pytest.raises(ValueError, match="feature names"):
        fitted.score(frame[list(frame.columns)[::-1]])
    real = np.where(X == 1, 0.9, 0.1)
    assert (small(2, binarize=0.5).fit(real).score_samples(real) == small(2).fit(X).score_samples(X)).all()


def test_questions_go_to_the_mixture_and_the_saved_file(tmp_path):
    X = blobs(150)
    fitted = small(n_masks=None, n_eval_masks=3, weights="em", n_threads=2).fit(X, X_val=blobs(60, seed=1))
    fitted.save(tmp_path / "m.safetensors")
    model = load(tmp_path / "m.safetensors")
    assert model.hyper == {"n_members": 3, "weights": "em"}
    assert model.members[0].hyper["learning_rate"] == 0.01
    holes = X[:20].astype(float)
    holes[:, ::3] = np.nan
    for ask in (
        lambda m: m.score_samples(X),
        lambda m: m.score_samples(X, member=1),
        lambda m: m.conditional_proba(X, member=1, mask=2),
        lambda m: m.sample(9, 0),
        lambda m: m.sample(9, 0, member=2),
        lambda m: m.log_marginal(holes, n_members=2),
        lambda m: m.conditional(holes, 5),
        lambda m: m.sample_conditional(holes, 2, random_state=0),
        lambda m: m.impute(holes),
        lambda m: m.impute(holes, "mean"),
    ):
        answers = [ask(asked) for asked in (fitted, model, pickle.loads(pickle.dumps(fitted)))]
        assert (answers[0] == answers[1]).all()
        assert (answers[0] == answers[2]).all()


def test_missing_entries_in_training_and_validation_rows():
    X = blobs(120).astype(float)
    X[np.random.default_rng(0).random(X.shape) < 0.2] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ApproximationWarning)
        fitted = small(n_masks=None, n_eval_masks=2, weights="em", validation_fraction=0.3).fit(X)
    assert np.isfinite(fitted.log_marginal(X)).all()


def test_members_that_fail_say_so_and_stop_the_others():
    made = small(2, optimizer="sgd", learning_rate=1e30, max_epochs=50)
    for n_jobs in (1, 2):
        with pytest.raises(FloatingPointError, match="learning_rate"):
            made.set_params(n_jobs=n_jobs).fit(blobs(100))
    assert not hasattr(made, "model_")
    assert not ensemble._running


def test_an_interrupt_stops_members_on_threads(monkeypatch):
    """joblib leaves its threads alone when Ctrl-C comes; what they train must end all the same."""
    rows, begun, epochs, fit, main = blobs(3000), [], [], MADE.fit, threading.get_ident()

    def fit_and_count(self, *args, **options):
        begun.append(self)
        if len(begun) == 2:
            threading.Timer(0.2, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
        try:
            return fit(self, *args, **options)
        finally:
            epochs.append(len(self.history_))

    monkeypatch.setattr(MADE, "fit", fit_and_count)
    begin = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        small(4, max_epochs=100_000, n_jobs=2).fit(rows)
    assert time.perf_counter() - begin < 10
    deadline = time.perf_counter() + 10
    while len(epochs) < 2 and time.perf_counter() < deadline:
        time.sleep(0.02)
    assert len(epochs) == 2
    assert max(epochs) < 100_000
    assert not ensemble._running
