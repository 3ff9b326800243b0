"""Exported graphs in ONNX Runtime against the models they are of: scores, conditionals, sums over all rows, gaps, refusals."""

from __future__ import annotations

import builtins
import os

import numpy as np
import onnx
import pytest
from helpers import all_inputs, python, raising, random_latent, random_model, rows, small
from onnx_cases import facts, outputs, session
from query_cases import MIXTURES, MODELS, make

from made_fast import MADEEnsemble, MADEModel, MixtureModel
from made_fast.inference.onnx import export
from made_fast.kernels.layout import ACTIVATIONS

EVERY = all_inputs(10)
TOLERANCES = {"float64": 1e-12, "float32": 1e-5}


def with_points(seed=0, dtype="float64", D=10):
    return random_latent(D, (9, 7), 4, direct="output", dtype=dtype, seed=seed)


def of_all_kinds():
    """Return a mixture of a latent mixture, masks, fresh masks and a network in the other precision."""
    single = random_model(10, (8,), dtype="float32", activation="tanh")
    return MixtureModel([with_points(), make("three masks"), make("unlimited"), single], [0.4, 0.3, 0.2, 0.1])


OTHERS = {"points": with_points, "all kinds": of_all_kinds, "no hidden layer": lambda: random_model(10, ())}
KINDS = [*MODELS, *MIXTURES, *OTHERS]


def model_of(kind):
    return OTHERS[kind]() if kind in OTHERS else make(kind)


def conditionals_of(model, X):
    """Return the conditionals of each ordering of a model, in the order of the graph, (n, P, D)."""
    members = model.members if isinstance(model, MixtureModel) else [model]
    return np.stack([one.conditional_proba(X, mask=k) for one in members for k in range(one.n_masks)], axis=1)


def check(model, X):
    """Compare all outputs with the model; return log p."""
    dtypes = [one.dtype for one in getattr(model, "members", [model])]
    dtype, tolerance = np.result_type(*dtypes), max(TOLERANCES[str(dtype)] for dtype in dtypes)
    found = outputs(model.to_onnx(), {"X": X.astype(dtype)})
    log_p, expected = found["log_p"], conditionals_of(model, X)
    assert (log_p.dtype, log_p.shape) == (np.float64, (len(X),))
    np.testing.assert_allclose(log_p, model.score_samples(X), rtol=tolerance, atol=tolerance)
    proba = found["conditionals"]
    assert proba.dtype == dtype
    assert proba.shape == (len(X), *expected.shape[1 if expected.shape[1] > 1 else 2 :])
    np.testing.assert_allclose(proba.reshape(expected.shape), expected, atol=tolerance)
    return log_p


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_gives_what_the_model_gives_and_a_distribution(kind):
    model = model_of(kind)
    log_p = check(model, EVERY)
    mixed = kind == "all kinds"  # one of its members is of float32
    assert abs(np.exp(log_p).sum() - 1) < (1e-6 if mixed else 1e-12)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation, dtype):
    model = random_model(70, (90, 33), activation=activation, dtype=dtype, direct="all")
    check(model, rows(200, 70))


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_logits_far_from_0_are_right(dtype):
    model = random_model(10, (12,), dtype=dtype, scale=200)
    log_p = check(model, EVERY)
    assert np.isfinite(log_p).all()
    assert log_p.min() < -500


def test_conditionals_of_points_of_which_all_but_one_are_ruled_out_are_ratios():
    model = random_latent(10, (6,), 3, scale=60)
    found = outputs(model.to_onnx(), {"X": EVERY.astype(float)})
    p, place = np.exp(found["log_p"]), model.masks.orderings[0]
    np.testing.assert_allclose(found["log_p"], model.score_samples(EVERY), rtol=1e-12)
    for i in np.argsort(-p)[::29]:  # of other rows, sums of small numbers lose digits
        for d in range(10):
            same = (EVERY[:, place < place[d]] == EVERY[i, place < place[d]]).all(axis=1)
            if p[same].sum() > 1e-200:
                exact = p[same & (EVERY[:, d] == 1)].sum() / p[same].sum()
                assert found["conditionals"][i, d] == pytest.approx(exact, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("D", [1, 2])
def test_few_inputs(D):
    assert abs(np.exp(check(random_model(D, (3,)), all_inputs(D))).sum() - 1) < 1e-12


@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("kind", ["points", "three masks"])
def test_any_number_of_rows(kind, n):
    found = outputs(model_of(kind).to_onnx(), {"X": EVERY[:n].astype(float)})
    assert found["log_p"].shape == (n,)
    assert len(found["conditionals"]) == n


@pytest.mark.parametrize("wrong", [np.nan, 2, -1, 0.5, np.inf, 1 + 1e-15])
def test_a_row_that_the_model_refuses_is_nan_in_all_outputs(wrong):
    model, X = model_of("three masks"), EVERY[:5].astype(float)
    expected = outputs(model.to_onnx(), {"X": X})
    X[3, 9] = wrong
    with pytest.raises(ValueError, match="only 0 and 1"):
        model.score_samples(X)
    for name, values in outputs(model.to_onnx(), {"X": X}).items():
        assert np.isnan(values[3]).all()
        others = [0, 1, 2, 4]
        assert (values[others] == expected[name][others]).all()


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("threshold", [0.3, -0.1, 0, 1e300])
def test_a_threshold_makes_bits(threshold, dtype):
    model = random_model(10, (8,), dtype=dtype).with_input(threshold)
    X = np.random.default_rng(0).normal(size=(60, 10)).astype(dtype)
    X[::2, 3] = threshold if threshold < 2 else 5
    check(model, X)
    X[7, 2], X[8, 1] = np.nan, -np.inf
    log_p = outputs(model.to_onnx(), {"X": X})["log_p"]
    assert np.flatnonzero(np.isnan(log_p)).tolist() == [7, 8]


def test_without_conditionals_scores_are_the_same():
    model = of_all_kinds()
    feeds = {"X": EVERY.astype(float)}
    alone = outputs(model.to_onnx(conditionals=False), feeds)
    assert list(alone) == ["log_p"]
    assert "conditionals" not in facts(model.to_onnx(conditionals=False))
    assert (alone["log_p"] == outputs(model.to_onnx(), feeds)["log_p"]).all()


def test_metadata_say_what_there_is():
    names = [f"pixel {d}" for d in range(9)] + ['"ü']
    nameless = random_model(10, (8,), n_masks=2)
    model = MADEModel(nameless.source, nameless.masks, feature_names=names)
    proto = MixtureModel([model, model], [0.25, 0.75]).to_onnx()
    assert (proto.producer_name, proto.ir_version) == ("made_fast", 8)
    assert {opset.domain: opset.version for opset in proto.opset_import} == {"": 17, "ai.onnx.ml": 3}
    about = facts(proto)
    assert about["feature_names"] == names
    assert [(part["member"], part["mask"], part["weight"]) for part in about["parts"]] == [
        (0, 0, 0.125), (0, 1, 0.125), (1, 0, 0.375), (1, 1, 0.375),
    ]  # fmt: skip
    assert facts(make("one mask").to_onnx())["feature_names"] is None


# The file


def test_the_file_is_the_graph_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "m.onnx"
    proto = make("one mask").to_onnx(path)
    assert path.read_bytes() == proto.SerializeToString()
    assert outputs(onnx.load(path), {"X": EVERY.astype(float)})["log_p"].shape == (1024,)
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", raising(OSError(28, "no room")))
        with pytest.raises(OSError, match="no room"):
            make("three masks").to_onnx(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m.onnx"]
    with pytest.raises(FileNotFoundError):
        make("one mask").to_onnx(tmp_path / "no" / "m.onnx")
    with pytest.raises(TypeError, match="path must be a str"):
        make("one mask").to_onnx(3)


def test_estimators_export_their_model(tmp_path):
    X = rows(80, 6)
    made, both = small().fit(X), MADEEnsemble(2, hidden_sizes=(4,), max_epochs=1, random_state=0, n_jobs=1).fit(X)
    for estimator in (made, both):
        found = outputs(estimator.to_onnx(tmp_path / "m.onnx", conditionals=False), {"X": X.astype(np.float32)})
        np.testing.assert_allclose(found["log_p"], estimator.score_samples(X), rtol=1e-5)
        assert list(found) == ["log_p"]


# Refusals


def test_without_onnx_a_line_says_what_to_install(monkeypatch):
    find = builtins.__import__

    def gone(name, *rest):
        if name.partition(".")[0] == "onnx":
            raise ModuleNotFoundError("No module named 'onnx'", name="onnx")
        return find(name, *rest)

    monkeypatch.setattr(builtins, "__import__", gone)
    with pytest.raises(ImportError, match=r"not installed. Run: pip install 'made_fast\[onnx\]'\."):
        make("one mask").to_onnx()


def test_nothing_imports_onnx_before_the_first_export(tmp_path):
    path = str(tmp_path / "m")
    make("one mask").save(path)
    program = f"import sys, made_fast; made_fast.load({path!r}).sample(2); print('onnx' in sys.modules)"
    assert python("-c", program, seconds=60) == "False"


@pytest.mark.parametrize("kind", ["one mask", "three masks", "points", "all kinds"])
def test_weights_that_no_file_holds_are_refused_before_any_work(kind, monkeypatch):
    model = model_of(kind)
    dense = [initializer for initializer in model.to_onnx().graph.initializer if len(initializer.raw_data) > 200]
    members = getattr(model, "members", [model])
    n_networks = sum(one.n_masks * one.n_points for one in members)
    monkeypatch.setattr(export, "MOST_BYTES", sum(len(each.raw_data) for each in dense) - 1)
    monkeypatch.setattr(export, "Graph", lambda *_: pytest.fail("it began"))
    with pytest.raises(ValueError, match=rf"GB of {n_networks} network\(s\). Export fewer"):
        model.to_onnx()


def test_what_is_no_network_or_no_boolean_is_refused():
    class Coin:
        n_features_in_ = 10

        def score_samples(self, X):
            return np.full(len(X), -10 * np.log(2))

        def sample(self, n, random_state=None):
            return np.zeros((n, 10), np.uint8)

    with pytest.raises(TypeError, match="all members must be MADE models for this, got a Coin, which is no network"):
        MixtureModel([make("one mask"), Coin()]).to_onnx()
    with pytest.raises(TypeError, match="conditionals must be True or False"):
        make("one mask").to_onnx(conditionals=1)


def test_half_characters_are_refused():
    names = [f"x{d}" for d in range(9)] + ["\ud800"]
    model = MADEModel(make("one mask").source, feature_names=names)
    with pytest.raises(ValueError, match="must be Unicode text to be exported"):
        model.to_onnx()


def test_a_graph_refuses_other_widths():
    with pytest.raises(Exception, match="INVALID_ARGUMENT"):
        session(make("one mask").to_onnx()).run(None, {"X": EVERY[:, :9].astype(float)})
