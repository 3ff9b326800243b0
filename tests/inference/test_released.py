"""Files that a released version wrote are read by this one: models and mixtures answer as they did, checkpoints go on.

Version 0.1.0 (format version 1) wrote ``released/``: models of 7 inputs, fitted to 60 rows for 2 epochs, one of each kind, by
``save``, ``fit(checkpoint=...)`` and the command line. ``expected.json`` has what that version answered, and how it was asked.
"""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from made_fast import MADE, load

FOLDER = Path(__file__).parent / "released"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
X, X_VAL = ((np.random.default_rng(seed).random((n, 7)) < 0.4).astype(np.uint8) for seed, n in ((5, 60), (6, 20)))
GAPS = np.where(np.arange(7) < 4, X[:4], np.nan)


def same(found, expected):
    """Compare numbers that another CPU may round otherwise."""
    np.testing.assert_allclose(np.array(found, float), np.array(expected, float), rtol=1e-6)


def check(model, expected):
    assert repr(model) == expected["repr"]
    assert model.binarize == expected["binarize"]
    assert model.feature_names == (expected["feature_names"] and tuple(expected["feature_names"]))
    same(model.score_samples(X[:4]), expected["log_likelihoods"])
    same(model.log_marginal(GAPS, random_state=0, return_std=True)[0], expected["log_marginals"])
    assert " ".join("".join(map(str, row)) for row in model.sample(5, 3)) == expected["sample"]


def test_every_file_is_expected():
    names = {*EXPECTED["models"], *EXPECTED["checkpoints"], "expected.json"}
    assert {path.name for path in FOLDER.iterdir()} == names


@pytest.mark.parametrize("name", EXPECTED["models"])
def test_a_released_model_answers_as_it_did(name):
    model = load(FOLDER / name)
    assert model.hyper == EXPECTED["models"][name]["hyper"]
    check(model, EXPECTED["models"][name])


@pytest.mark.parametrize("name", EXPECTED["checkpoints"])
def test_a_released_checkpoint_goes_on(name):
    expected = EXPECTED["checkpoints"][name]
    made = MADE.resume(FOLDER / name)
    check(made.model_, expected["before"])
    if "after" in expected:
        params = json.loads(json.dumps(made.get_params()))  # tuples become lists
        assert params.items() >= expected["params"].items()
        made.set_params(max_epochs=4).fit(X, X_val=X_VAL if expected["has_validation"] else None)
        check(made.model_, expected["after"])
        assert made.best_epoch_ == expected["best_epoch"]
        same(made.score(X), expected["score"])
    same([[r["epoch"], r["train_nll"], r["validation_nll"] or np.nan] for r in made.history_], expected["history"])


@pytest.mark.parametrize("name", EXPECTED["checkpoints"])
def test_a_released_checkpoint_began_with_biases_at_0(name):
    """That version knew no other start; what it began goes on, also by ``partial_fit`` on any rows."""
    made = MADE.resume(FOLDER / name)
    assert (made.bias_init, made.averaging) == ("zeros", 0.0)
    before = made.model_.source.vector.copy()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "X does not have valid feature names")  # one began with names
        made.set_params(learning_rate=1e-12).partial_fit(1 - X)
    np.testing.assert_allclose(made.model_.source.vector, before, atol=1e-6)
