"""What the C library answers, bit for bit beside Python: models of every kind, read, mapped or from memory.

Not here: files that are refused (``test_errors.py``), mutated ones (``test_verdicts.py``), the build (``test_build.py``).
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers import random_latent, random_model, rows

from made_fast import MADE, MADEModel, MixtureModel, kernels, load

RELEASED = Path(__file__).parents[1] / "inference" / "released"
EXPECTED = json.loads((RELEASED / "expected.json").read_text())

pytestmark = pytest.mark.skipif(kernels.implementation != "native", reason="the bits are those of the native kernels")


def check(library, path, X, seeds=(0,), **options):
    """Compare all answers about X, and draws."""
    model, found = load(path), library.open(str(path), **options)
    D = X.shape[1]
    assert (found.n_inputs, found.binarize) == (model.n_features_in, model.binarize)
    members = getattr(model, "members", [model])
    assert found.n_networks == sum(member.n_parts for member in members)
    np.testing.assert_array_equal(found.score_samples(X), model.score_samples(X))
    for n in (1, 5):
        np.testing.assert_array_equal(found.score_samples(X[:n]), model.score_samples(X[:n]))
    if found.n_networks == 1:
        np.testing.assert_array_equal(found.conditional_proba(X[:100]), model.conditional_proba(X[:100]))
    for seed in seeds:
        drawn = found.sample(130, seed)
        np.testing.assert_array_equal(drawn, model.sample(130, random_state=seed))
        assert drawn.shape == (130, D)
    return found


@pytest.mark.parametrize("name", EXPECTED["models"])
def test_released_models(library, name):
    found = check(library, RELEASED / name, rows(200, 7), seeds=(0, 1, 2**32, 2**64 - 1))
    names = EXPECTED["models"][name]["feature_names"]
    assert found.feature_names == (names and tuple(names))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("direct", ["none", "output", "all"])
@pytest.mark.parametrize("n_masks", [1, 3])
@pytest.mark.parametrize(
    ("D", "hidden"), [(1, ()), (1, (3,)), (2, (1,)), (9, ()), (64, (65,)), (65, (64, 130)), (130, (3, 200, 7)), (5, (2,) * 8)]
)
def test_every_shape_of_network(library, tmp_path, D, hidden, n_masks, direct, dtype):
    activation = ("relu", "softplus", "tanh", "sigmoid", "softsign")[(D + len(direct)) % 5]
    shape = {"activation": activation, "direct": direct, "dtype": dtype, "degrees": "uniform" if D % 2 else "stratified"}
    model = random_model(D, hidden, n_masks=n_masks, connectivity_weights=n_masks > 1 and D != 64, seed=D, **shape)
    model.save(tmp_path / "model")
    check(library, tmp_path / "model", rows(200, D))


@pytest.mark.parametrize("options", [{}, {"mmap": True}])
def test_a_hundred_thousand_rows(library, tmp_path, options):
    random_model(40, (70,), dtype="float32", direct="output").save(tmp_path / "model")
    check(library, tmp_path / "model", rows(100_001, 40), **options)


@pytest.mark.parametrize("n_masks", [2, 31, 32, 33, 70])
def test_sums_over_masks_are_taken_as_python_takes_them(library, tmp_path, n_masks):
    random_model(12, (20,), n_masks=n_masks, connectivity_weights=True).save(tmp_path / "model")
    check(library, tmp_path / "model", rows(300, 12), seeds=(4, 5))


def test_networks_that_are_not_kept_are_packed_in_every_call(library, tmp_path):
    model = random_model(784, (500,), n_masks=26, dtype="float64")
    model.save(tmp_path / "model")
    assert 26 * model.architecture.n_packed * 8 > 64 << 20
    found = check(library, tmp_path / "model", rows(20, 784), mmap=True)
    X = rows(3, 784, 7)
    expected = load(tmp_path / "model").score_samples(X)
    with ThreadPoolExecutor(4) as pool:
        for log_p in pool.map(lambda _: found.score_samples(X), range(8)):
            np.testing.assert_array_equal(log_p, expected)


@pytest.mark.parametrize("hidden", [(), (9,), (5, 70)])
@pytest.mark.parametrize("n_points", [2, 40])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_latent_mixtures(library, tmp_path, hidden, n_points, dtype):
    random_latent(11, hidden, n_points, dtype=dtype, direct="output", activation="tanh").save(tmp_path / "model")
    check(library, tmp_path / "model", rows(200, 11))


def test_mixtures_of_members_of_every_kind(library, tmp_path):
    members = [
        random_model(17, (8,), dtype="float32", seed=1),
        random_model(17, (), n_masks=3, seed=2),
        random_latent(17, (4,), 5, dtype="float64"),
        random_model(17, (4, 4), n_masks=None, direct="all", connectivity_weights=True, seed=3),
    ]
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    MixtureModel(members, weights).save(tmp_path / "model")
    check(library, tmp_path / "model", rows(300, 17), seeds=(0, 1, 2))
    MixtureModel(members[:1]).save(tmp_path / "alone")
    check(library, tmp_path / "alone", rows(30, 17))
    MixtureModel(members[:1], [1 - 5e-10]).save(tmp_path / "nearly")  # its weight counts
    check(library, tmp_path / "nearly", rows(30, 17))
    MixtureModel([random_model(6, (3,), seed=seed) for seed in range(40)]).save(tmp_path / "many")
    check(library, tmp_path / "many", rows(300, 6))


def test_fitted_models_and_ways_to_open_them(library, tmp_path):
    path = tmp_path / "grüße model"
    X = rows(150, 20)
    MADE(n_masks=None, n_eval_masks=5, max_epochs=2, random_state=0).fit(X).save(path)
    check(library, path, X)
    check(library, path, X, mmap=True)
    expected, model = load(path).score_samples(X), library.open(path.read_bytes())
    path.unlink()
    np.testing.assert_array_equal(model.score_samples(X), expected)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 100.25, -1.0, 300.0])
def test_a_threshold_makes_0_and_1_of_any_bytes(library, tmp_path, threshold):
    model = random_model(9, (4,), dtype="float32")
    MADEModel(model.source, binarize=threshold).save(tmp_path / "model")
    check(library, tmp_path / "model", np.random.default_rng(0).integers(0, 256, (150, 9), np.uint8))


def test_every_cpu_level_that_is_built(library, tmp_path, monkeypatch):
    random_model(70, (90,), dtype="float32").save(tmp_path / "model")
    native, X = kernels.load("native"), rows(200, 70)
    best, found = native.level(), []
    assert library.open(str(tmp_path / "model")).cpu == best
    try:
        for level in (best, "baseline"):
            monkeypatch.setenv("MADE_FAST_CPU", level)
            native.select_level(level)
            model = check(library, tmp_path / "model", X)
            assert model.cpu == level
            found.append(model.score_samples(X))
    finally:
        native.select_level(best)
    np.testing.assert_allclose(*found, rtol=1e-4)


def test_threads_share_a_model(library, tmp_path):
    MixtureModel([random_model(50, (60,), n_masks=3), random_latent(50, (20,), 4)]).save(tmp_path / "model")
    model, X = library.open(str(tmp_path / "model")), rows(400, 50)
    expected, drawn = model.score_samples(X), model.sample(64, 9)

    def work(i):
        part = slice(i, i + 1 + i * 37 % 200)
        np.testing.assert_array_equal(model.score_samples(X[part]), expected[part])
        np.testing.assert_array_equal(model.sample(64, 9), drawn)
        return i

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(200))) == list(range(200))
