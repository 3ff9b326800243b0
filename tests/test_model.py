"""The fitted model through its public methods: normalised, autoregressive, the same bits always, and light to import."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest
from helpers import all_inputs, random_model
from scipy.stats import chisquare

from made_fast import ModelFileError, load
from made_fast.kernels import layout as panels

NORMALISED = {"float32": 1e-5, "float64": 1e-10}
DEEP = [(1, ()), (1, (5,)), (2, (3,)), (5, ()), (8, (4,)), (10, (70, 9)), (12, (30, 30, 30)), (9, (8, 7, 6, 5, 4))]
ACTIVATIONS = panels.ACTIVATIONS[1:]


def dense_log_likelihood(model, X):
    """Recompute log p(x) from ``to_dense`` alone, in float64."""
    net, h = model.to_dense(), X.astype(np.float64)
    g = {
        "relu": lambda z: np.maximum(z, 0),
        "softplus": lambda z: np.logaddexp(z, 0),
        "tanh": np.tanh,
        "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
        "softsign": lambda z: z / (1 + abs(z)),
    }[model.activation]
    for W, b in zip(net["weights"][:-1], net["biases"][:-1], strict=True):
        h = g(h @ W.T.astype(np.float64) + b)
    a = h @ net["weights"][-1].T.astype(np.float64) + net["biases"][-1]
    return -np.logaddexp(0, np.where(X == 1, -a, a)).sum(axis=1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("n_inputs", "hidden_sizes"), DEEP)
def test_probabilities_of_all_inputs_sum_to_one(n_inputs, hidden_sizes, activation, dtype):
    model = random_model(n_inputs, hidden_sizes, activation=activation, dtype=dtype)
    total = np.exp(model.score_samples(all_inputs(n_inputs))).sum()
    assert abs(total - 1) < NORMALISED[dtype]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("n_inputs", "hidden_sizes"), [*DEEP, (130, (200, 65)), (784, (500,))])
def test_score_matches_the_dense_network(n_inputs, hidden_sizes, activation, dtype):
    model = random_model(n_inputs, hidden_sizes, activation=activation, dtype=dtype, scale=1.0)
    X = (np.random.default_rng(0).random((50, n_inputs)) < 0.3).astype(np.uint8)
    np.testing.assert_allclose(
        model.score_samples(X), dense_log_likelihood(model, X), rtol=1e-5 if dtype == "float32" else 1e-12
    )
    assert model.score(X) == model.score_samples(X).mean()


@pytest.mark.parametrize(("n_inputs", "hidden_sizes"), [*DEEP[1:], (70, (100, 130)), (100, ())])
def test_an_input_changes_no_conditional_at_or_before_its_place(n_inputs, hidden_sizes):
    model = random_model(n_inputs, hidden_sizes, dtype="float32", activation="tanh")
    m0 = model.to_dense()["ordering"]
    x = (np.random.default_rng(1).random((1, n_inputs)) < 0.5).astype(np.uint8)
    flipped = x ^ np.eye(n_inputs, dtype=np.uint8)
    before, after = model.conditional_proba(x), model.conditional_proba(flipped)
    at_or_before = m0[None, :] <= m0[:, None]
    assert (after.view(np.uint32) == before.view(np.uint32))[at_or_before].all()
    later = after[~at_or_before].reshape(-1)
    assert n_inputs == 1 or (later != np.broadcast_to(before, after.shape)[~at_or_before]).mean() > 0.2


def test_conditionals_make_up_the_score():
    model = random_model(40, (60, 20))
    X = model.sample(30, 0)
    P = model.conditional_proba(X)
    np.testing.assert_allclose(np.log(np.where(X == 1, P, 1 - P)).sum(axis=1), model.score_samples(X), rtol=1e-10)


@pytest.mark.parametrize("hidden_sizes", [(), (9,), (20, 20), (5, 30, 5)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sample_frequencies_follow_the_density(hidden_sizes, dtype):
    model = random_model(6, hidden_sizes, activation="tanh", dtype=dtype, scale=1.0, seed=4)
    n = 100_000
    X = model.sample(n, random_state=1)
    counts = np.bincount(X @ (1 << np.arange(6)), minlength=64)
    expected = n * np.exp(model.score_samples(all_inputs(6)))
    rare = expected < 5
    counts, expected = [np.append(v[~rare], v[rare].sum()) for v in (counts, expected)]
    used = expected > 0
    assert chisquare(counts[used], expected[used] * counts.sum() / expected[used].sum()).pvalue > 1e-4


@pytest.mark.parametrize(("n_inputs", "hidden_sizes"), [(1, (3,)), (7, ()), (50, (20,)), (130, (200, 70)), (90, (64, 64, 65))])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_pass_sampling_is_what_full_passes_would_draw(n_inputs, hidden_sizes, dtype):
    model = random_model(n_inputs, hidden_sizes, dtype=dtype, activation="softplus", scale=1.0)
    n = 130
    uniforms = np.random.default_rng(7).random((n, n_inputs))[:, model.to_dense()["ordering"] - 1]
    X = np.zeros((n, n_inputs), np.uint8)
    for d in np.argsort(model.to_dense()["ordering"]):  # the full passes
        X[:, d] = uniforms[:, d] < model.conditional_proba(X)[:, d]
    assert (model.sample(n, np.random.default_rng(7)) == X).all()


def test_same_bits_for_every_batch_size_and_thread_count():
    model = random_model(100, (150, 70), dtype="float32", activation="softplus")
    X = (np.random.default_rng(0).random((5000, 100)) < 0.3).astype(np.uint8)
    whole = model.score_samples(X, n_threads=1)
    P = model.conditional_proba(X[:2000], n_threads=1)
    for n_threads in (1, 2, 3):
        assert (model.score_samples(X, n_threads=n_threads) == whole).all()
        assert (model.conditional_proba(X[:2000], n_threads=n_threads) == P).all()
        assert (model.sample(3000, 5, n_threads=n_threads) == model.sample(3000, 5, n_threads=1)).all()
    for size in (1, 2, 3, 100, 1000):
        rows = slice(0, max(size, 300))
        parts = [model.score_samples(X[i : i + size]) for i in range(0, max(size, 300), size)]
        assert (np.concatenate(parts) == whole[rows]).all()


def test_dense_and_sparse_first_layers_give_the_same_bits():
    """Rows of all densities, so that chunks fall on both sides of the threshold, alone and together."""
    model = random_model(70, (90,), dtype="float32")
    X = (np.random.default_rng(0).random((200, 70)) < np.linspace(0, 1, 200)[:, None]).astype(np.uint8)
    assert (model.score_samples(X) == np.concatenate([model.score_samples(x[None]) for x in X])).all()


def test_calls_from_many_threads_at_once():
    model = random_model(60, (100,), dtype="float32")
    X = (np.random.default_rng(0).random((3000, 60)) < 0.3).astype(np.uint8)
    expected, wrong = model.score_samples(X), []

    def call():
        for _ in range(5):
            wrong.append((model.score_samples(X) != expected).any())

    callers = [threading.Thread(target=call) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(wrong) == 40
    assert not any(wrong)


def test_extreme_logits_give_finite_scores():
    model = random_model(8, (), dtype="float32")
    model.theta[model.layout.layers[0, panels.BIAS] :] *= 1e4
    X = all_inputs(8)
    assert np.isfinite(model.score_samples(X)).all()
    P = model.conditional_proba(X)
    assert ((P >= 0) & (P <= 1)).all()


def test_to_dense_has_the_masked_weights_in_feature_order():
    model = random_model(20, (15, 30), dtype="float32")
    net = model.to_dense()
    assert sorted(net["ordering"]) == list(range(1, 21))
    assert [m.shape for m in net["degrees"]] == [(15,), (30,)]
    assert [W.shape for W in net["weights"]] == [(15, 20), (30, 15), (20, 30)]
    assert [b.shape for b in net["biases"]] == [(15,), (30,), (20,)]
    for W, M in zip(net["weights"], net["masks"], strict=True):
        assert ((W != 0) == (M == 1)).all()
    assert model.n_parameters == sum(int(M.sum()) for M in net["masks"]) + 15 + 30 + 20


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("binarize", [None, 0.25])
def test_save_and_load(tmp_path, mmap, binarize):
    model = random_model(33, (40, 20), dtype="float32", activation="sigmoid")
    model.binarize = binarize
    model.hyper = {"learning_rate": 0.5, "hidden_sizes": [40, 20]}
    model.save(tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors", mmap=mmap)
    X = model.sample(50, 0)
    assert (loaded.score_samples(X) == model.score_samples(X)).all()
    assert (loaded.sample(50, 1) == model.sample(50, 1)).all()
    assert (loaded.binarize, loaded.hyper, repr(loaded)) == (binarize, model.hyper, repr(model))


@pytest.mark.parametrize("binarize", ["high", True, [1]])
def test_a_file_with_a_senseless_threshold_is_refused(tmp_path, binarize):
    model, path = random_model(3, ()), tmp_path / "m.safetensors"
    model.binarize = binarize
    model.save(path)
    with pytest.raises(ModelFileError, match="binarize"):
        load(path)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.array([[0, 1, np.nan]]), "NaN"),
        (np.array([[0, 1, np.inf]]), "inf"),
        (np.array([[0, 1, 2]]), "only 0 and 1"),
        (np.array([[0, 1, 0.5]]), "only 0 and 1"),
        (np.array([[0, 1]]), "features"),
        (np.zeros((0, 3)), "0 sample"),
        (np.zeros(3), "2D"),
        (np.zeros((1, 1, 3)), "2D|dim"),
        ([["a", "b", "c"]], "str|number"),
        (np.zeros((2, 3), complex), "[Cc]omplex"),
    ],
)
def test_bad_input_gets_one_clear_error(X, message):
    model = random_model(3, (4,))
    for method in (model.score_samples, model.score, model.conditional_proba):
        with pytest.raises((ValueError, TypeError), match=message):
            method(X)


def test_good_input_in_odd_clothes():
    model = random_model(5, (8,))
    X = model.sample(20, 0)
    expected = model.score_samples(X)
    read_only = X.copy()
    read_only.setflags(write=False)
    wide = np.zeros((40, 10), np.uint8)
    wide[::2, ::2] = X
    for same in (X.astype(bool), X.astype(">f8"), X.astype(">i2"), np.asfortranarray(X), read_only, wide[::2, ::2],
                 X[::-1][::-1], X.astype(np.float16), X.tolist(), X.astype(object)):  # fmt: skip
        assert (model.score_samples(same) == expected).all()


@pytest.mark.parametrize("n_samples", [0, -1, 2.5, "3", True])
def test_sample_refuses_a_bad_count(n_samples):
    with pytest.raises((ValueError, TypeError), match="n_samples"):
        random_model(3, ()).sample(n_samples)


def test_numpy_still_has_its_denormals():
    """The kernels take them as 0; the thread that called must not notice."""
    model = random_model(9, (20,), dtype="float32")
    model.score_samples(model.sample(50, 0), n_threads=1)
    smallest = np.array([np.finfo(np.float32).tiny], np.float32)
    assert (smallest / 2)[0] > 0
    assert (smallest.astype(np.float64) / 2)[0] > 0


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True).stdout


def test_import_is_light():
    loaded = run_python("import sys, made_fast; print(*sys.modules)").split()
    assert not {"numba", "sklearn", "scipy", "tqdm", "PIL", "pandas"} & set(loaded)


def test_a_server_needs_numpy_and_the_extension_alone(tmp_path):
    model = random_model(10, (20,), dtype="float32")
    model.save(tmp_path / "model.safetensors")
    out = run_python(f"""
import sys
for name in ("numba", "llvmlite", "sklearn", "scipy", "tqdm", "PIL", "pandas", "joblib", "safetensors", "Cython"):
    sys.modules[name] = None
import numpy as np, made_fast
model = made_fast.load({str(tmp_path / "model.safetensors")!r})
X = model.sample(5, 0)
print(repr(float(model.score_samples(X).sum())), model.conditional_proba(X).shape)
""")
    assert out.split()[0] == repr(float(model.score_samples(model.sample(5, 0)).sum()))
