"""The fitted model through its public methods: normalised, autoregressive, the same bits always, and light to import."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import all_inputs, assert_drawn_from, dense_log_p, python, random_model, rows

from made_fast import MADEModel, MixtureModel
from made_fast.inference import model as inference_model
from made_fast.inference.explaining import contributions
from made_fast.kernels import layout as panels
from made_fast.network.architecture import Architecture
from made_fast.network.network import Network, Shared

DEEP = [(1, ()), (1, (5,)), (2, (3,)), (5, ()), (8, (4,)), (10, (70, 9)), (12, (30, 30, 30)), (9, (8, 7, 6, 5, 4))]
ACTIVATIONS = panels.ACTIVATIONS[1:]
OPTIONS = [{}, {"direct": "output"}, {"direct": "all", "connectivity_weights": True}, {"n_masks": 3, "direct": "all"}]


def mask_of(options):
    """Return what says which member is meant, where a model with these options has several."""
    return {"mask": 1} if options.get("n_masks", 1) != 1 else {}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("n_inputs", "hidden_sizes"), [*DEEP, (130, (200, 65)), (784, (500,))])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_density_is_that_of_the_dense_network_and_normalised(n_inputs, hidden_sizes, activation, dtype, options):
    model = random_model(n_inputs, hidden_sizes, activation=activation, dtype=dtype, scale=1.0, **options)
    X, mask, single = rows(50, n_inputs), mask_of(options), dtype == "float32"
    log_p, P = model.score_samples(X, **mask), model.conditional_proba(X, **mask)
    np.testing.assert_allclose(log_p, dense_log_p(model.to_dense(**mask), X, activation), rtol=1e-5 if single else 1e-12)
    np.testing.assert_allclose(np.log(np.where(X == 1, P, 1 - P)).sum(axis=1), log_p, rtol=1e-4 if single else 1e-10)
    assert model.score(X) == model.score_samples(X).mean()
    if n_inputs <= 12:
        assert abs(np.exp(model.score_samples(all_inputs(n_inputs))).sum() - 1) < (1e-5 if single else 1e-10)


@pytest.mark.parametrize(("n_inputs", "hidden_sizes"), [*DEEP[1:], (70, (100, 130)), (100, ())])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_an_input_changes_no_conditional_at_or_before_its_place(n_inputs, hidden_sizes, options):
    model = random_model(n_inputs, hidden_sizes, dtype="float32", activation="tanh", **options)
    mask = mask_of(options)
    m0 = model.to_dense(**mask)["ordering"]
    x = (np.random.default_rng(1).random((1, n_inputs)) < 0.5).astype(np.uint8)
    flipped = x ^ np.eye(n_inputs, dtype=np.uint8)
    before, after = model.conditional_proba(x, **mask), model.conditional_proba(flipped, **mask)
    at_or_before = m0[None, :] <= m0[:, None]
    assert (after.view(np.uint32) == before.view(np.uint32))[at_or_before].all()
    later = after[~at_or_before].reshape(-1)
    assert n_inputs == 1 or (later != np.broadcast_to(before, after.shape)[~at_or_before]).mean() > 0.2


@pytest.mark.parametrize("hidden_sizes", [(), (9,), (20, 20), (5, 30, 5)])
@pytest.mark.parametrize(("dtype", "options"), [("float32", {}), *(("float64", options) for options in OPTIONS)], ids=str)
def test_sample_frequencies_follow_the_density(hidden_sizes, dtype, options):
    model = random_model(6, hidden_sizes, activation="tanh", dtype=dtype, scale=1.0, seed=4, **options)
    assert_drawn_from(model.sample(100_000, random_state=1), np.exp(model.score_samples(all_inputs(6))))


@pytest.mark.parametrize(("n_inputs", "hidden_sizes"), [(1, (3,)), (7, ()), (50, (20,)), (130, (200, 70)), (90, (64, 64, 65))])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_one_pass_sampling_is_what_full_passes_would_draw(n_inputs, hidden_sizes, dtype, options):
    model = random_model(n_inputs, hidden_sizes, dtype=dtype, activation="softplus", scale=1.0, **options)
    n, mask = 130, mask_of(options)
    ordering = model.to_dense(**mask)["ordering"]
    uniforms = np.random.default_rng(7).random((n, n_inputs))[:, ordering - 1]
    X = np.zeros((n, n_inputs), np.uint8)
    for d in np.argsort(ordering):  # the full passes
        X[:, d] = uniforms[:, d] < model.conditional_proba(X, **mask)[:, d]
    assert (model.sample(n, np.random.default_rng(7), **mask) == X).all()


@pytest.mark.parametrize("members", ["members kept", "some members kept", "members packed anew"])
@pytest.mark.parametrize("options", [*OPTIONS[:3], {"n_masks": 40, "direct": "output"}, None], ids=str)
def test_same_bits_for_every_batch_size_and_thread_count(options, members, monkeypatch):
    kinds = [{}, {"n_masks": 3}] if options is None else [options]
    models = [random_model(100, (150, 70), dtype="float32", activation="softplus", **kind) for kind in kinds]
    if members != "members kept":
        room = models[0].architecture.n_packed * 4
        monkeypatch.setattr(inference_model, "KEPT_BYTES", 2 * room if members == "some members kept" else 0)
    model = models[0] if len(models) == 1 else MixtureModel(models, [0.75, 0.25])
    X, named = rows(5000, 100), {"member": 1} if options is None else {}
    whole, drawn = model.score_samples(X, n_threads=1), model.sample(3000, 5, n_threads=1)
    P = model.conditional_proba(X[:2000], mask=0, n_threads=1, **named)
    for n_threads in (2, 3, None):
        assert (model.score_samples(X, n_threads=n_threads) == whole).all()
        assert (model.conditional_proba(X[:2000], mask=0, n_threads=n_threads, **named) == P).all()
        assert (model.sample(3000, np.random.default_rng(5), n_threads=n_threads) == drawn).all()
    assert (model.sample(3000, 6) != drawn).any()
    for size in (1, 3, 95, 97, 1000):
        stop = max(size, 200)
        parts = [model.score_samples(X[i : min(i + size, stop)]) for i in range(0, stop, size)]
        assert (np.concatenate(parts) == whole[:stop]).all()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_rows_of_few_and_of_many_ones_have_the_same_bits_alone_and_together(options):
    model = random_model(70, (90,), dtype="float32", **options)
    X = (np.random.default_rng(0).random((200, 70)) < np.linspace(0, 1, 200)[:, None]).astype(np.uint8)
    assert (model.score_samples(X) == np.concatenate([model.score_samples(x[None]) for x in X])).all()


def test_a_lone_row_scores_as_in_a_table_whatever_its_type_and_strides():
    model = random_model(70, (90,), dtype="float32")
    X = (np.random.default_rng(0).random((6, 140)) < 0.4).astype(np.uint8)
    for x, right in zip(X[:, ::2], model.score_samples(X[:, ::2]), strict=True):
        for row in (
            x[None],
            x[None].copy(),
            x[None].astype(bool),
            x[None].astype(np.int8),
            x[None].astype(float),
            [x.tolist()],
        ):
            assert model.score_samples(row) == model.score_samples(row, n_threads=2) == right
        assert model.score_samples((x[None] * 200).view(bool)) == right  # NumPy takes any other byte for true


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
@pytest.mark.parametrize("value", [2, 3, 64, -1])
def test_wrong_values_of_a_lone_row_are_named(kind, value):
    row = np.zeros((1, 70), kind)
    row[0, 69] = np.array(value).astype(kind)
    with pytest.raises(ValueError, match=rf"only 0 and 1, got {row[0, 69]} at row 0, column 69"):
        random_model(70, (90,)).score_samples(row)


def test_extreme_logits_give_finite_scores():
    model = random_model(8, (), dtype="float32")
    network = model.member()
    network._given[network.layout.layers[0, panels.BIAS] :] *= 1e4
    X = all_inputs(8)
    assert np.isfinite(model.score_samples(X)).all()
    P = model.conditional_proba(X)
    assert ((P >= 0) & (P <= 1)).all()


@pytest.mark.parametrize(("direct", "layers"), [("none", []), ("output", [2]), ("all", [1, 2])])
def test_to_dense_has_the_live_weights_in_feature_order(direct, layers):
    model = random_model(20, (15, 30), dtype="float32", direct=direct)
    net = model.to_dense()
    m0 = net["ordering"]
    assert sorted(m0) == list(range(1, 21))
    assert [m.shape for m in net["degrees"]] == [(15,), (30,)]
    assert [W.shape for W in net["weights"]] == [(15, 20), (30, 15), (20, 30)]
    assert [b.shape for b in net["biases"]] == [(15,), (30,), (20,)]
    for W, M in zip(net["weights"], net["masks"], strict=True):
        assert ((W != 0) == (M == 1)).all()
    assert [l for l, A in enumerate(net["direct"]) if A is not None] == layers
    degrees = [None, net["degrees"][1], m0 - 1]  # of those that A leads to: an output sees the places before its own
    for l in layers:
        assert ((net["direct"][l] != 0) == (degrees[l][:, None] >= m0)).all()
    live = sum(int((net["direct"][l] != 0).sum()) for l in layers)
    assert model.n_parameters == live + sum(int(M.sum()) for M in net["masks"]) + 15 + 30 + 20


def test_shared_parameters_are_counted_whole():
    a = Architecture(20, (15, 30), "relu", "all", True)
    model = random_model(20, (15, 30), direct="all", connectivity_weights=True, n_masks=3)
    weights = 20 * 15 + 15 * 30 + 30 * 20
    assert model.n_parameters == 2 * weights + (15 + 30 + 20) + (20 * 30 + 20 * 20)
    assert repr(model) == (
        f"MADEModel(20-15-30-20, relu, direct=all, connectivity weights, 3 masks, float64, {model.n_parameters} parameters)"
    )
    with pytest.raises(TypeError, match="masks must be a MaskSet"):
        MADEModel(Shared(a, model.source.vector))
    for other in (random_model(9, (15, 30), n_masks=2), random_model(20, (15, 31), n_masks=2)):
        with pytest.raises(ValueError, match=r"masks must be of 20 inputs and hidden layers of \(15, 30\) units, got"):
            MADEModel(model.source, other.masks)


def test_connectivity_weights_count_the_connections_in_the_bias():
    """b + (U * M) 1, from the shared parameters as the layout of the kernels says they stand."""
    model = random_model(7, (9, 5), connectivity_weights=True, n_masks=2)
    table, values = model.architecture.shared_layout, model.source.vector
    for k in range(2):
        net = model.to_dense(k)
        for (n_in, n_out, *_), row, M, b, W in zip(
            model.architecture.layers, table, net["masks"], net["biases"], net["weights"], strict=True
        ):
            stride = row[panels.ROW]
            shared_W, U = [
                values[start : start + n_in * stride].reshape(n_in, stride)[:, :n_out].T
                for start in (row[panels.SHARED_WEIGHTS], row[panels.SHARED_U])
            ]
            np.testing.assert_array_equal(W, shared_W * M)
            np.testing.assert_allclose(b, values[row[panels.SHARED_BIAS] :][:n_out] + (U * M).sum(axis=1), rtol=1e-13)


def test_a_model_of_given_parameters_is_that_network():
    """The constructor that an embedding program uses: nothing is copied, nothing drawn."""
    connectivity = random_model(6, (8,)).masks[0]
    architecture = Architecture(6, (8,), "relu")
    theta = random_model(6, (8,)).source.vector
    model = MADEModel(Network(architecture, connectivity, theta), binarize=0.5, hyper={"a": 1})
    assert model.source.vector is theta
    assert (model.n_features_in, model.n_masks, model.binarize, model.hyper) == (6, 1, 0.5, {"a": 1})
    X = all_inputs(6)
    assert (model.score_samples(X * 0.9) == random_model(6, (8,)).score_samples(X)).all()


def test_numpy_still_has_its_denormals():
    """The kernels take them as 0; the thread that called must not notice."""
    model = random_model(9, (20,), dtype="float32")
    model.score_samples(model.sample(50, 0), n_threads=1)
    smallest = np.array([np.finfo(np.float32).tiny], np.float32)
    assert (smallest / 2)[0] > 0
    assert (smallest.astype(np.float64) / 2)[0] > 0


def test_import_is_light():
    loaded = python("-W", "error", "-c", "import sys, made_fast; print(*sys.modules)", seconds=60).split()
    assert not {"numba", "sklearn", "scipy", "tqdm", "PIL", "pandas"} & set(loaded)


SERVER = """
import sys
for name in ("numba", "llvmlite", "sklearn", "scipy", "tqdm", "PIL", "pandas", "joblib", "safetensors", "Cython"):
    sys.modules[name] = None
import made_fast
model = made_fast.load(sys.argv[1])
print(repr(float(model.score_samples(model.sample(5, 0)).sum())), model.impute([[0, float("nan")] * 5], "mean").shape)
"""


@pytest.mark.parametrize("n_masks", [1, 3, "mixture"])
def test_a_server_needs_numpy_and_the_extension_alone(tmp_path, n_masks):
    models = [random_model(10, (20,), dtype="float32", n_masks=n) for n in ((1, 3) if n_masks == "mixture" else (n_masks,))]
    model = MixtureModel(models) if n_masks == "mixture" else models[0]
    model.save(tmp_path / "model.safetensors")
    out = python("-W", "error", "-c", SERVER, tmp_path / "model.safetensors", seconds=60)
    assert out.split()[0] == repr(float(model.score_samples(model.sample(5, 0)).sum()))


def test_contributions_of_hardly_possible_rows_add_up():
    X, model = rows(40, 9), random_model(9, (7,), dtype="float32", scale=60)
    log_p = model.score_samples(X)
    assert log_p.min() < -200
    found = contributions(model, model._table(X), 1)
    np.testing.assert_allclose(found.sum(axis=1), -log_p, rtol=1e-4, atol=1e-3)
