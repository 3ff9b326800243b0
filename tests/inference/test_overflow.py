"""Weights so large that arithmetic overflows: every public answer raises an error, and none is wrong silently."""

import pickle

import numpy as np
import pytest
from helpers import random_model

from made_fast import MADE, MADEModel, MixtureModel, load
from made_fast.network.architecture import Architecture
from made_fast.network.masks import MaskSet
from made_fast.network.network import Network, Shared

D = 20
X = (np.random.default_rng(0).random((40, D)) < 0.5).astype(np.uint8)
GAPS = np.where(np.random.default_rng(1).random(X.shape) < 0.3, np.nan, X)
KINDS = {"one mask": {"n_masks": 1}, "several": {"n_masks": 3, "direct": "all"}, "fresh": {"n_masks": None}}
pytestmark = pytest.mark.filterwarnings("ignore::made_fast.ApproximationWarning")


def scaled(factor, *, mixed=False, dtype="float32", **options):
    """Return a model whose random weights are larger by a factor, as far as their type goes."""
    model = random_model(D, options.pop("hidden_sizes", (30, 30)), dtype=dtype, seed=1, **options)
    source, most = model.source, np.finfo(dtype).max
    with np.errstate(over="ignore"):
        parameters = (source.vector) * np.dtype(dtype).type(factor)
    parameters = np.clip(parameters, -most, most)
    if source.connectivity is not None:
        found = MADEModel(Network(model.architecture, source.connectivity, parameters))
    else:
        found = MADEModel(Shared(model.architecture, parameters), model.masks, rule=model.rule)
    return MixtureModel([random_model(D, (5,), dtype="float32"), found]) if mixed else found


ANSWERS = {
    "score_samples": lambda model: model.score_samples(X),
    "a row": lambda model: model.score_samples(X[:1]),
    "two rows, on threads": lambda model: model.score_samples(X[:2], n_threads=2),
    "score": lambda model: model.score(X),
    "conditional_proba": lambda model: getattr(model, "members", [model])[-1].conditional_proba(X, mask=0),
    "sample": lambda model: model.sample(50, random_state=0),
    "log_marginal": lambda model: model.log_marginal(GAPS),
    "log_marginal, estimated": lambda model: model.log_marginal(GAPS, n_walks=3, return_std=True),
    "conditional": lambda model: model.conditional(GAPS, 3),
    "sample_conditional": lambda model: model.sample_conditional(GAPS, 2, random_state=0),
    "impute mode": lambda model: model.impute(GAPS),
    "impute mean": lambda model: model.impute(GAPS, "mean"),
    "impute sample": lambda model: model.impute(GAPS, "sample"),
}


@pytest.mark.parametrize("mixed", [False, True], ids=["model", "mixture"])
@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("factor", "activation"), [(1e15, "relu"), (1e20, "softplus"), (3e38, "relu"), (3e38, "tanh")])
def test_every_answer_says_that_arithmetic_overflows(factor, activation, kind, answer, mixed):
    model = scaled(factor, activation=activation, mixed=mixed, **KINDS[kind])
    with pytest.raises(FloatingPointError, match=r"weights are so large.* got (nan|-?inf) for \d+ of \d+ rows\. Train"):
        ANSWERS[answer](model)


@pytest.mark.parametrize("way", ["pickled", "loaded", "mapped"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_said_wherever_the_model_comes_from(tmp_path, kind, way):
    model = scaled(3e38, **KINDS[kind])
    if way == "pickled":
        model = pickle.loads(pickle.dumps(model))
    else:
        model.save(tmp_path / "model")
        model = load(tmp_path / "model", mmap=way == "mapped")
    with pytest.raises(FloatingPointError, match="overflows"):
        model.score_samples(X)


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "softplus", "softsign"])
@pytest.mark.parametrize("factor", [1.0, 1e10, 1e15, 1e17, 1e19, 1e25, 3e38])
def test_an_answer_is_right_or_an_error(activation, factor):
    """The same weights in float64, whose range is wide enough, tell what is right."""
    options = {"activation": activation, "hidden_sizes": (30,)}
    model = scaled(factor, **options)
    wide = MADEModel(Network(model.architecture, model.masks[0], model.source.vector.astype(np.float64)))
    expected = wide.score_samples(X)
    for i in range(len(X)):
        try:
            found = model.score_samples(X[i : i + 1], n_threads=1)[0]
        except FloatingPointError:
            assert factor > 1e15
        else:
            np.testing.assert_allclose(found, expected[i], rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_sound_models_are_not_looked_at(kind):
    model = random_model(D, (500, 500), dtype="float32", **KINDS[kind])
    assert not model.source.guarded
    assert not model.member(0).guarded
    assert not MADE((500,), max_epochs=1, random_state=0).fit(X).model_.source.guarded
    assert not random_model(D, (64,) * 30, dtype="float64").source.guarded


@pytest.mark.parametrize("largest", [1e10, 1e18, 1e19, 1e37])
@pytest.mark.parametrize("activation", ["relu", "tanh", "softplus"])
def test_the_bound_is_one(largest, activation):
    """All weights as large as the largest, all inputs 1: nothing overflows where the bound says that nothing can."""
    architecture = Architecture(D, (30,), activation, "all", True)
    values = np.full(architecture.n_shared, largest, np.float32)
    masks = random_model(D, (30,), n_masks=2).masks
    model = MADEModel(Shared(architecture, values), MaskSet(masks.orderings, masks.degrees))
    if not model.source.guarded:
        assert np.isfinite(model.score_samples(np.ones((2, D)))).all()
        assert np.isfinite(model.score_samples(np.zeros((2, D)))).all()


@pytest.mark.parametrize("gaps", [False, True])
def test_a_fit_that_diverges_says_it_in_its_own_words_and_goes_back(gaps):
    rows = GAPS if gaps else X
    made = MADE((30, 30), n_masks=None, max_epochs=30, optimizer="sgd", learning_rate=1e9, random_state=0, n_threads=1)
    with pytest.raises(FloatingPointError, match=r"epoch .*The last good parameters are kept"):
        made.fit(rows, X_val=rows)
    assert np.isfinite(made.score_samples(X)).all()
