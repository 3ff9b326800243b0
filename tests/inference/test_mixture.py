"""Mixtures of independent members: the model against enumeration, its questions, its file, its refusals."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from helpers import all_inputs, assert_drawn_from, random_model

from made_fast import MADE, MADEEnsemble, MixtureModel, ModelFileError, load
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


# The mixture


def test_score_is_the_mixture_by_hand():
    model, X = mixture(), all_inputs(D)
    parts = np.stack([member.score_samples(X) for member in model.members])
    expected = np.log((np.array(WEIGHTS)[:, None] * np.exp(parts)).sum(axis=0))
    np.testing.assert_allclose(model.score_samples(X), expected, rtol=1e-13)
    assert abs(np.exp(expected).sum() - 1) < 1e-12
    assert_drawn_from(model.sample(20_000, 0), np.exp(expected))
    assert (model.sample(50, 3, member=2) == model.members[2].sample(50, 3)).all()
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


# Densities of other libraries


class Independent:
    """Independent Bernoulli variables, with the methods that scikit-learn's densities have."""

    def __init__(self, p):
        self.p = np.array(p)

    def score_samples(self, X):
        assert X.dtype == np.uint8
        assert type(X) is np.ndarray
        return np.log(np.where(X == 1, self.p, 1 - self.p)).sum(axis=1)

    def sample(self, n_samples=1, random_state=None):
        return (np.random.RandomState(random_state).random_sample((n_samples, len(self.p))) < self.p).astype(float)


def mixed() -> MixtureModel:
    """Return a mixture of a model and of another density."""
    return MixtureModel([random_model(D, (16,), seed=1), Independent(np.linspace(0.1, 0.9, D))], [0.6, 0.4])


def test_any_density_may_be_a_member():
    model, X = mixed(), all_inputs(D)
    mine, other = (member.score_samples(X) for member in model.members)
    np.testing.assert_allclose(other, Independent(np.linspace(0.1, 0.9, D)).score_samples(X.astype(np.uint8)))
    expected = np.log(0.6 * np.exp(mine) + 0.4 * np.exp(other))
    np.testing.assert_allclose(model.score_samples(sp.csr_array(X)), expected, rtol=1e-13)
    assert model.score(X) == pytest.approx(expected.mean())
    assert_drawn_from(model.sample(20_000, 0), np.exp(expected))
    assert (model.sample(50, 1) == model.sample(50, 1)).all()
    assert (model.with_input(0.5).score_samples(X * 0.7) == model.score_samples(X)).all()
    alone = MixtureModel([Independent(np.full(D, 0.5)), mixed()])
    np.testing.assert_allclose(alone.weights, [0.5, 0.3, 0.2])
    assert alone.n_members == 3


def test_what_another_density_cannot_do_is_said_by_its_name():
    model, X = mixed(), all_inputs(D)[:3].astype(float)
    gaps = np.where(np.arange(D) < 3, np.nan, X)
    for ask in (
        lambda: model.log_marginal(gaps), lambda: model.conditional(X, 2), lambda: model.impute(gaps),
        lambda: model.sample_conditional(gaps), lambda: model.score(gaps), lambda: model.conditional_proba(X, member=1),
        lambda: model.to_dense(member=1), lambda: model.save("never.safetensors"),
    ):  # fmt: skip
        with pytest.raises(TypeError, match="all members must be MADE models for this, got a Independent, which"):
            ask()
    assert model.conditional_proba(X, member=0).shape == (3, D)
    with pytest.raises(ValueError, match="X must hold only 0 and 1, got NaN at row 0"):
        model.score_samples(gaps)


@pytest.mark.parametrize(
    ("method", "returned", "message"),
    [
        ("score_samples", lambda n: np.zeros((n, 1)), r"score_samples must return \(5,\) float, got \(5, 1\)"),
        ("score_samples", lambda n: np.full(n, 0.5), "at most 0, got 0.5"),
        ("score_samples", lambda n: np.full(n, np.nan), "at most 0, got nan"),
        ("sample", lambda n: np.zeros((n + 1, D)), "the 5 rows that it is asked for, got 6"),
        ("sample", lambda n: np.full((n, D), 0.5), "what sample returns must hold only 0 and 1"),
        ("sample", lambda n: np.zeros((n, D + 1)), r"what sample returns must have shape \(rows, 8\)"),
    ],
)
def test_a_density_that_is_none_of_rows_of_0_and_1_is_refused(method, returned, message):
    other = Independent(np.full(D, 0.5))
    model = MixtureModel([random_model(D, (3,)), other], [1e-9, 1 - 1e-9])
    setattr(other, method, lambda X, **_: returned(X if isinstance(X, int) else len(X)))
    with pytest.raises(ValueError, match=message):
        model.score_samples(all_inputs(D)[:5]) if method == "score_samples" else model.sample(5, 0)


def test_estimators_count_as_their_models():
    X = all_inputs(D)
    made = MADE((4,), max_epochs=1, random_state=0).fit(X)
    ensemble = MADEEnsemble(2, hidden_sizes=(4,), max_epochs=1, random_state=0).fit(X)
    model = MixtureModel([made, ensemble])
    assert model.members == (made.model_, *ensemble.model_.members)
    assert model.weights.tolist() == [0.5, 0.25, 0.25]
    with pytest.raises(ValueError, match="n_features_in, got none that says it"):
        MixtureModel([Independent([0.5])])
    other = Independent(np.full(D, 0.5))
    other.n_features_in_ = D
    assert MixtureModel([other]).score_samples(X)[0] == pytest.approx(-D * np.log(2))
    with pytest.raises(ValueError, match=r"the same n_features_in, got \[8, 8, 3\]"):
        MixtureModel([made, other, with_width(3)])


def with_width(n):
    other = Independent(np.full(n, 0.5))
    other.n_features_in_ = n
    return other


# Missing inputs


def test_standard_errors_of_estimates_are_honest():
    members = [random_model(40, (30,), seed=seed, scale=1.0) for seed in (0, 1)]
    model, x = MixtureModel(members, [0.7, 0.3]), np.full((1, 40), np.nan)
    x[0, [int(np.argmax(member.masks.orderings[0])) for member in members]] = 1
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


def without(name):
    return lambda tensors, _: tensors.pop(name)


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
        (put("member.1.ordering", np.zeros((4, D), np.int32)), "member 1: the ordering"),
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
    members[1].binarize = 0.5
    with pytest.raises(ValueError, match="same binarize"):
        MixtureModel(members)
