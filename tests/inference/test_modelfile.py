"""Models in files: what is saved comes back, and tensors in good order that are no model are refused by name."""

import numpy as np
import pytest
from model_files import HYPER, encoded, forge, load, make_model, make_shared, refuse, split

from made_fast import MADE, ModelFileError
from made_fast.inference import modelfile
from made_fast.inference.modelfile import EnsembleContent, decode, decode_ensemble, encode, encode_ensemble
from made_fast.inference.tensorfile import read, write
from made_fast.kernels import layout
from made_fast.network.architecture import Architecture
from made_fast.tables.choices import DIRECT_CONNECTIONS
from made_fast.training import checkpoint

SHAPES = [(1, ()), (1, (3,)), (2, ()), (2, (1,)), (5, (7, 3)), (65, (64, 65)), (130, (200,)), (9, (70, 1, 130, 4, 66))]


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n_inputs", "hidden_sizes"), SHAPES)
@pytest.mark.parametrize(
    ("make", "options"),
    [
        *((make_model, {"activation": "tanh", "direct": direct}) for direct in DIRECT_CONNECTIONS),
        (make_shared, {"n_masks": 1, "direct": "none", "connectivity_weights": False, "rule": False}),
        (make_shared, {"n_masks": 5, "direct": "all", "connectivity_weights": True, "rule": True}),
        (make_shared, {"n_masks": 2, "direct": "output", "connectivity_weights": False, "rule": True}),
    ],
)
def test_a_model_comes_back_as_it_was(tmp_path, n_inputs, hidden_sizes, dtype, mmap, make, options):
    model = make(n_inputs, hidden_sizes, dtype, **options)
    tensors, metadata = encode(model)
    write(tmp_path / "model", tensors, metadata)
    content = load(tmp_path / "model", mmap=mmap)
    found, about = encode(content)
    assert about == metadata
    assert list(found) == list(tensors)
    for name, array in found.items():
        np.testing.assert_array_equal(array, tensors[name], strict=True)
        assert not array.flags.writeable
    assert found["parameters"].ctypes.data % 64 == 0
    assert content.source.architecture == model.source.architecture
    assert len(content.masks) == options.get("n_masks", 1)
    assert content.hyper == HYPER
    assert (content.rule is not None) == options.get("rule", False)
    if content.rule is not None:
        assert (content.rule.degrees, content.rule.resample) == ("uniform", "both")
        np.testing.assert_array_equal(content.rule.base.ordering, model.rule.base.ordering)


def test_a_file_of_the_first_version_still_opens():
    """It had no word of direct connections or connectivity weights."""
    tensors, metadata = encoded(5, (7,))
    assert metadata.pop("direct") == "none"
    assert decode(tensors, metadata, "x").source.architecture == Architecture(5, (7,), "relu")


@pytest.mark.parametrize("several", [False, True])
def test_the_deepest_model_is_kept_and_a_deeper_one_refused(tmp_path, several):
    write(tmp_path / "deep", *encoded(3, (2,) * (layout.MAX_LAYERS - 1), several=several, direct="all"))
    assert len(load(tmp_path / "deep").masks.degrees) == layout.MAX_LAYERS - 1
    with pytest.raises(ModelFileError, match="up to 63 degrees"):
        encoded(3, (2,) * layout.MAX_LAYERS, several=several)


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("several", [False, True])
def test_weights_that_are_not_finite_are_refused(tmp_path, dtype, value, mmap, several):
    tensors, metadata = encoded(5, (7,), dtype, several=several)
    write(tmp_path / "model", tensors, metadata)
    header, data = split((tmp_path / "model").read_bytes())
    theta = tensors["parameters"].copy()
    theta[0] = value
    refuse(tmp_path / "model", forge(header, theta.tobytes() + data[theta.nbytes :]), "'parameters' must be finite", mmap)
    before = (tmp_path / "model").read_bytes()
    with pytest.raises(ValueError, match="'parameters' must be finite"):
        write(tmp_path / "model", {**tensors, "parameters": theta}, metadata)
    assert (tmp_path / "model").read_bytes() == before


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("kind", "checkpoint", "kind of the file must be 'model', got 'checkpoint'"),
        ("activation", "identity", "one of relu, softplus"),
        ("activation", "gelu", "one of relu, softplus"),
        ("hyper", "", "hyper must be strict JSON"),
        ("hyper", "[]", "hyper must be a JSON object"),
        ("hyper", '{"a": NaN}', "hyper must be strict JSON"),
        ("hyper", '{"a": 1, "a": 1}', "hyper must be strict JSON"),
        ("hyper", "[" * 100_000, "hyper must be strict JSON"),
        ("direct", "input", "direct must be one of output, none, all, got 'input'"),
        ("direct", "", "direct must be one of output, none, all, got ''"),
        ("direct", "all", "parameters, by ordering and degrees"),
        ("connectivity_weights", "True", "connectivity weights must be one of false, true, got 'True'"),
    ],
)
@pytest.mark.parametrize("several", [False, True])
def test_metadata_of_no_model_are_refused(key, value, match, several):
    tensors, metadata = encoded(4, (5, 6), several=several)
    with pytest.raises(ModelFileError, match=match):
        decode(tensors, {**metadata, key: value}, "x")
    metadata.pop(key, "")
    if key in ("kind", "activation", "hyper") or several:  # "false" and "none" need not be there
        with pytest.raises(ModelFileError):
            decode(tensors, metadata, "x")


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("direct", "none", "parameters, by ordering and degrees"),
        ("connectivity_weights", "false", "parameters, by ordering and degrees"),
        ("rule", "", "rule must be strict JSON"),
        ("rule", "[]", "rule must be a JSON object"),
        ("rule", "{}", "rule must be of degrees and resample"),
        ("rule", '{"degrees": "uniform"}', "rule must be of degrees and resample"),
        ("rule", '{"degrees": "uniform", "resample": "both", "n": "1"}', "rule must be of degrees and resample"),
        ("rule", '{"degrees": "uniform", "resample": ["both"]}', "rule must be of degrees and resample"),
        ("rule", '{"degrees": "uniform", "resample": null}', "rule must be of degrees and resample"),
        ("rule", '{"degrees": "even", "resample": "both"}', "degrees must be one of stratified, uniform"),
        ("rule", '{"degrees": "uniform", "resample": "some"}', "resample must be one of both, order, connectivity"),
        ("rule", '{"degrees": "uniform", "resample": "both", "resample": "both"}', "rule must be strict JSON"),
        ("rule", "[" * 100_000, "rule must be strict JSON"),
    ],
)
def test_metadata_of_no_model_of_several_masks_are_refused(key, value, match):
    tensors, metadata = encoded(4, (5, 6), several=True)
    with pytest.raises(ModelFileError, match=match):
        decode(tensors, {**metadata, key: value}, "x")


def test_connectivity_weights_of_one_packed_mask_are_refused():
    tensors, metadata = encoded(4, (5,))
    with pytest.raises(ModelFileError, match="connectivity weights need parameters that several masks may share"):
        decode(tensors, {**metadata, "connectivity_weights": "true"}, "x")


def put(place, value):
    def change(array):
        array[place] = value
        return array

    return change


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("ordering", put((..., 0), 0), "each place 1..4 once"),
        ("ordering", put(..., [1, 2, 3, 3]), r"each place 1..4 once, got \[1, 2, 3, 3\]"),
        ("ordering", put(..., [1, 2, 3, 5]), "each place 1..4 once"),
        ("ordering", put((..., 0), -(2**31)), "each place 1..4 once"),
        ("degrees.0", put((..., 2), 0), "degrees.0 must be in 1..3"),
        ("degrees.1", put((..., 2), 4), "degrees.1 must be in 1..3"),
        ("degrees.1", put((..., 5), 2**31 - 1), "degrees.1 must be in 1..3"),
        ("degrees.1", lambda m: m[..., :0], "degrees.1 must not be empty"),
        ("degrees.1", lambda m: m[None], "degrees.1 must be I32, a vector or K of them"),
        ("degrees.1", lambda m: m[0], "degrees.1 must be I32, a vector or K of them"),
        ("degrees.1", lambda m: m.astype(np.int64), "degrees.1 must be I32, a vector or K of them"),
        ("degrees.1", lambda m: np.tile(m, 1000), "nor longer than the"),
        ("degrees.1", lambda m: np.broadcast_to(np.int32(1), (*m.shape[:-1], 2**31)), "nor longer than the"),
        ("degrees.1", lambda m: m[..., :-2], "parameters, by ordering and degrees"),
        ("ordering", lambda m: m.astype(np.float32), "ordering must be I32, a vector or K of them"),
        ("ordering", lambda m: m[..., :0], "ordering must not be empty"),
        ("ordering", lambda m: m[None, None], "ordering must be I32, a vector or K of them"),
        ("ordering", lambda m: m.ravel()[0], "ordering must be I32, a vector or K of them"),
        ("ordering", lambda m: m[None] if m.ndim == 1 else m[0], "degrees.0 must be I32, a vector or K of them"),
        ("ordering", lambda m: m[..., :1] * 0 + np.arange(1, 66, dtype=np.int32), "parameters, by ordering and degrees"),
        ("parameters", lambda theta: theta[:-1], "parameters, by ordering and degrees"),
        ("parameters", lambda theta: theta[:-64], "parameters, by ordering and degrees"),
        ("parameters", lambda theta: np.append(theta, theta[:64]), "parameters, by ordering and degrees"),
        ("parameters", lambda theta: theta[None], "vector of F32 or F64"),
        ("parameters", lambda theta: theta.astype(np.int32), "vector of F32 or F64"),
        ("parameters", lambda theta: theta.astype(">f4"), "vector of F32 or F64"),
    ],
)
@pytest.mark.parametrize("several", [False, True])
def test_tensors_of_no_model_are_refused(name, change, match, several):
    tensors, metadata = encoded(4, (5, 6), several=several)
    with pytest.raises(ModelFileError, match=match):
        decode({**tensors, name: change(tensors[name].copy())}, metadata, "x")


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("ordering", put(2, [1, 2, 3, 3]), r"each place 1..4 once, got \[1, 2, 3, 3\]"),  # the wrong one, not the first
        ("degrees.1", put((1, 2), 4), "degrees.1 must be in 1..3"),
        ("degrees.1", lambda m: m[:2], "degrees.1 must be I32, a vector or K of them"),
        ("degrees.1", lambda m: m[:0], "degrees.1 must be I32, a vector or K of them"),
        ("degrees.1", lambda m: np.tile(m, (2, 1)), "degrees.1 must be I32, a vector or K of them"),
        ("ordering", lambda m: m[:2], "degrees.0 must be I32, a vector or K of them"),
        ("ordering", lambda m: m[:0], "ordering must be I32, a vector or K of them"),
    ],
)
def test_vectors_of_another_number_of_masks_are_refused(name, change, match):
    tensors, metadata = encoded(4, (5, 6), several=True)
    with pytest.raises(ModelFileError, match=match):
        decode({**tensors, name: change(tensors[name].copy())}, metadata, "x")


@pytest.mark.parametrize("several", [False, True])
def test_units_are_bounded_by_the_parameters(monkeypatch, several):
    """A model of 4 + 5 + 6 units, counted once even if there are several masks."""
    tensors, metadata = encoded(4, (5, 6), several=several)
    free = 15 - len(tensors["parameters"]) // modelfile.PARAMETERS_PER_UNIT
    monkeypatch.setattr(modelfile, "FREE_UNITS", free)
    decode(tensors, metadata, "x")
    monkeypatch.setattr(modelfile, "FREE_UNITS", free - 1)
    with pytest.raises(ModelFileError, match="must not have more than 14 inputs and hidden units, got 15"):
        decode(tensors, metadata, "x")


def test_units_of_all_members_are_bounded_by_their_parameters(monkeypatch):
    """Two of 11 units each, either of which would pass alone."""
    tensors, metadata = encode_ensemble(EnsembleContent([make_shared(4, (7,))] * 2, np.array([0.5, 0.5]), {}))
    free = 22 - 2 * len(tensors["member.0.parameters"]) // modelfile.PARAMETERS_PER_UNIT
    monkeypatch.setattr(modelfile, "FREE_UNITS", free)
    decode_ensemble(tensors, metadata, "x")
    monkeypatch.setattr(modelfile, "FREE_UNITS", free - 1)
    with pytest.raises(ModelFileError, match="x: 896 parameters must not have more than 21 inputs and hidden units, got 22"):
        decode_ensemble(tensors, metadata, "x")


@pytest.mark.parametrize("k", range(7))
def test_a_wrong_ordering_is_found_wherever_it_is(monkeypatch, k):
    monkeypatch.setattr(modelfile, "CHUNK", 9)  # so two at a time
    tensors, metadata = encoded(4, (5,), several=True, n_masks=7)
    decode(tensors, metadata, "x")
    orderings = tensors["ordering"].copy()
    orderings[k] = [4, 3, 2, 2]
    with pytest.raises(ModelFileError, match=r"each place 1..4 once, got \[4, 3, 2, 2\]"):
        decode({**tensors, "ordering": orderings}, metadata, "x")


def test_a_model_is_no_ensemble():
    with pytest.raises(ModelFileError, match="kind of the file must be 'ensemble', got 'model'"):
        decode_ensemble(*encoded(), "x")


def test_the_best_parameters_of_a_checkpoint_are_of_the_type_of_the_others(tmp_path):
    X = np.eye(4, dtype=np.uint8)
    MADE(hidden_sizes=(3,), max_epochs=1).fit(X, X_val=X, checkpoint=tmp_path / "checkpoint")
    tensors, metadata = read(tmp_path / "checkpoint")
    best = tensors["best"].astype(np.float64)
    text = tensors.pop("text")
    first = {name: tensors.pop(name) for name in ("parameters", "state")}
    write(tmp_path / "checkpoint", {**first, **tensors, "best": best, "text": text}, metadata)
    with pytest.raises(ModelFileError, match="best parameters must be"):
        checkpoint.read(tmp_path / "checkpoint")


def test_an_empty_mask_set_is_refused():
    tensors, metadata = encoded(4, (5, 6), several=True)
    with pytest.raises(ModelFileError, match="ordering must be I32, a vector or K of them"):
        decode({name: v if name == "parameters" else v[:0] for name, v in tensors.items()}, metadata, "x")


@pytest.mark.parametrize("several", [False, True])
def test_other_tensors_are_refused(several):
    tensors, metadata = encoded(4, (5, 6), several=several)
    one = tensors["ordering"]
    reordered = {name: tensors[name] for name in ("ordering", "parameters", "degrees.0", "degrees.1")}
    without = {name: tensors[name] for name in ("parameters", "ordering", "degrees.1")}
    for wrong in ({}, {"parameters": one}, {**tensors, "extra": one}, {**tensors, "degrees.3": one}, without, reordered):
        with pytest.raises(ModelFileError, match="tensors must be parameters, ordering"):
            decode(wrong, metadata, "x")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n_inputs", "hidden_sizes"), [*SHAPES[:5], (70, (65,))])
@pytest.mark.parametrize("direct", DIRECT_CONNECTIONS)
def test_every_dead_entry_must_be_zero(n_inputs, hidden_sizes, dtype, direct):
    """The entries that may differ from 0 are exactly those that the dense weights, masked, are packed into."""
    model = make_model(n_inputs, hidden_sizes, dtype, degrees="uniform", direct=direct)
    theta = model.source.vector
    tensors, metadata = encode(model)
    dead = np.flatnonzero(theta == 0)
    assert len(dead)
    for place in dead if len(dead) < 500 else np.random.default_rng(0).choice(dead, 500, replace=False):
        theta[place] = 1e-30
        with pytest.raises(ModelFileError, match="dead weights and fill-up units must be 0"):
            decode(tensors, metadata, "x")
        theta[place] = 0
    decode(tensors, metadata, "x")


@pytest.mark.parametrize("hyper", [{"a": np.nan}, {"a": np.inf}, {1: 1, "1": 2}])
def test_hyper_parameters_that_are_no_json_are_not_encoded(hyper):
    with pytest.raises(ValueError, match="JSON"):
        encode(make_model(3, (2,), hyper=hyper))
    with pytest.raises(ValueError, match="JSON"):
        encode(make_shared(3, (2,))._replace(hyper=hyper))
