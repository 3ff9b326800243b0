"""Averages of the parameters over epochs: by hand, in validation, over checkpoints, in later passes."""

from __future__ import annotations

import numpy as np
import pytest
from fits import parameters, rows, same_fit, small, trainer_of

from made_fast import MADE
from made_fast.inference.latent import model_of

X, X_VAL = rows(200), rows(100, seed=1)
kinds = pytest.mark.parametrize("kind", [{}, {"n_masks": 3}, {"n_masks": None}, {"latent_points": 3, "dropout": 0.1}], ids=str)


def by_hand(kept, kind, epochs):
    """Return the averages after each epoch, of parameters that no average changes."""
    seen = []
    made = small(max_epochs=epochs, **kind)
    made.fit(X, callback=lambda _: seen.append(trainer_of(made).parameters.vector.copy()))
    average, found = seen[0].astype(float), []
    for epoch, vector in enumerate(seen, 1):
        share = min(kept, 1 - 1 / epoch)
        average = share * average + (1 - share) * vector
        found.append(average)
    return found


@kinds
def test_the_model_has_the_average_of_the_epochs(kind):
    *_, expected = by_hand(0.7, kind, 6)
    made = small(max_epochs=6, averaging=0.7, **kind).fit(X)
    served = parameters(made)
    np.testing.assert_allclose(served, expected[: len(served)], atol=1e-6)
    assert abs(trainer_of(made).parameters.vector[: len(served)] - served).max() > 1e-3


def test_validation_scores_the_average_and_the_best_one_is_kept():
    made = small(max_epochs=12, averaging=0.5, learning_rate=0.05, dropout=0.2).fit(X, X_val=X_VAL)
    scores, trainer = [], trainer_of(made)
    for vector in by_hand(0.5, {"learning_rate": 0.05, "dropout": 0.2}, 12):
        model = model_of(trainer.parameters.with_vector(vector.astype("f4")), trainer.masks, None)
        scores.append(-model.score(X_VAL))
    np.testing.assert_allclose([record["validation_nll"] for record in made.history_], scores, rtol=1e-5)
    assert made.best_epoch_ == np.argmin(scores) + 1
    assert -made.score(X_VAL) == pytest.approx(min(scores), rel=1e-5)


@kinds
def test_a_fit_that_is_resumed_ends_with_the_same_bits(tmp_path, kind):
    path = tmp_path / "average.checkpoint"
    small(averaging=0.6, max_epochs=2, **kind).fit(X, X_val=X_VAL, checkpoint=path)
    resumed = MADE.resume(path)
    np.testing.assert_array_equal(trainer_of(resumed).average.dtype, np.float32)
    same_fit(resumed.set_params(max_epochs=5).fit(X, X_val=X_VAL), small(averaging=0.6, **kind).fit(X, X_val=X_VAL))


def test_a_pass_goes_on_from_the_average_and_leaves_the_old_model_alone():
    made = small(averaging=0.8, max_epochs=3).fit(X)
    before, scores = made.model_, made.score_samples(X)
    made.partial_fit(X)
    assert (before.score_samples(X) == scores).all()
    assert (made.score_samples(X) != scores).any()
    np.testing.assert_allclose(parameters(made), by_hand(0.8, {}, 4)[3], atol=1e-6)


def test_no_average_is_what_was():
    same_fit(small(averaging=0.0).fit(X, X_val=X_VAL), small().fit(X, X_val=X_VAL))
    assert trainer_of(small().fit(X)).average is None
    with pytest.raises(ValueError, match="averaging must be"):
        small(averaging=1.0).fit(X)
