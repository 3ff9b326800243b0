"""Steps: every option does what it says and nothing else; no bit depends on threads or on how calls are cut."""

from __future__ import annotations

import numpy as np
import pytest
from fits import (
    EVERYTHING,
    KINDS,
    ONE_STEP,
    initial,
    kind,
    parameters,
    rows,
    same_fit,
    shared_matrices,
    small,
    told,
    trainer_of,
)
from helpers import all_inputs

from made_fast import MADE
from made_fast.kernels.optimizers import OPTIMIZERS
from made_fast.network.network import Shared
from made_fast.training import steps
from made_fast.training.rows import Rows
from made_fast.training.steps import Trainer

OPTIONS = {
    "fixed": {},
    "masks": {"n_masks": 3},
    "fresh": {"n_masks": None},
    "connectivity weights": {"connectivity_weights": True},
    "direct": {"n_masks": 3, "direct_connections": "all"},
    "dropout": {"dropout": 0.3},
    "clipped": {"clip_norm": 0.05},
    "missing": {"missing": 0.1},
    "everything": {"n_masks": None, "missing": 0.1, "optimizer": "momentum", **EVERYTHING},
}


@pytest.mark.parametrize("case", OPTIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_number_of_threads_changes_no_bit(case, dtype):
    params = {"hidden_sizes": (200, 70), "batch_size": 100, "max_epochs": 2, "dtype": dtype, **OPTIONS[case]}
    X = rows(250, 64, params.pop("missing", 0.0))  # the last mini-batch is a short one
    weights = np.random.default_rng(0).normal(1, 1, len(X))
    made = [small(**params, n_threads=n).fit(X, sample_weight=weights) for n in (1, 2, 3)]
    assert [trainer_of(made[0])._ranks(100, n) for n in (1, 2, 3)] == [1, 2, 3]
    for other in made[1:]:
        same_fit(other, made[0])


@pytest.mark.parametrize("case", OPTIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_how_steps_are_cut_into_calls_changes_no_bit(monkeypatch, case, dtype):
    params = {"max_epochs": 3, "batch_size": 7, "dtype": dtype, **OPTIONS[case]}
    X = rows(300, missing=params.pop("missing", 0.0))
    made = []
    for seconds, slow in ((0, 1), (0, 8), (1e9, 8), (1e-4, 8)):  # a step a call; slow ones; ever more; as it happens
        monkeypatch.setattr(steps, "CALL_SECONDS", seconds)
        monkeypatch.setattr(steps, "SLOW_STEPS", slow)
        made.append(small(**params).fit(X))
    assert trainer_of(made[0])._steps_per_call == 1
    assert trainer_of(made[1])._steps_per_call == (1 if trainer_of(made[1]).turns is None else 8)
    assert trainer_of(made[2])._steps_per_call > 100
    for other in made[1:]:
        same_fit(other, made[0])


@pytest.mark.parametrize("case", OPTIONS)
def test_a_seed_repeats_a_fit_and_another_does_not(case):
    params = {"max_epochs": 2, **OPTIONS[case]}
    X = rows(100, missing=params.pop("missing", 0.0))
    made = small(**params).fit(X)
    same_fit(small(**params).fit(X), made)
    assert told(small(**params, random_state=1).fit(X)) != told(made)


def test_options_leave_each_others_random_numbers_alone():
    """The same masks, initial weights and order of rows, whatever else is drawn."""
    X = rows(100)
    made = [small(n_masks=3, max_epochs=1, **more).fit(X) for more in ({}, {"dropout": 0.3}, {"validation_fraction": 0.1})]
    for other in made[1:]:
        assert (other.model_.masks.orderings == made[0].model_.masks.orderings).all()
    assert told(made[0])[0][1] != told(made[1])[0][1]
    a, b = (initial(small(n_masks=3, **more).get_params(), X) for more in ({}, {"dropout": 0.3, "clip_norm": 1.0}))
    np.testing.assert_array_equal(parameters(a), parameters(b))


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [1, 1, 1, 1]),
        ("linear", [1, 0.75, 0.5, 0.25]),
        ("cosine", [1, (1 + np.sqrt(0.5)) / 2, 0.5, (1 - np.sqrt(0.5)) / 2]),
        (lambda epoch: 1 / epoch, [1, 1 / 2, 1 / 3, 1 / 4]),
        ([3, 0, 0.5, 1].__getitem__, [0, 0.5, 1]),
    ],
)
@pytest.mark.parametrize("options", [{}, {"n_masks": 2}], ids=str)
def test_learning_rate_schedules(monkeypatch, schedule, factors, options):
    seen, epoch = [], Trainer.epoch

    def spy(self, *args):
        seen.append(self.constants[0])
        return epoch(self, *args)

    monkeypatch.setattr(Trainer, "epoch", spy)
    params = {"max_epochs": len(factors), "learning_rate_schedule": schedule, "learning_rate": 0.02, **options}
    made = small(**params).fit(rows(40))
    np.testing.assert_allclose(seen, 0.02 * np.array(factors), rtol=1e-14)
    by_parts = small(**params)
    for _ in factors:
        by_parts.partial_fit(rows(40))
    np.testing.assert_allclose(seen[len(factors) :], 0.02 * np.array(factors), rtol=1e-14)
    assert (parameters(by_parts) == parameters(made)).all()


def test_a_default_learning_rate_is_scheduled_too():
    made = small(optimizer="sgd", learning_rate=None, learning_rate_schedule="linear", max_epochs=2).fit(rows(40))
    assert trainer_of(made).constants[0] == OPTIMIZERS["sgd"].constants[0] / 2
    assert made.model_.hyper["learning_rate"] == OPTIMIZERS["sgd"].constants[0]


def gradients(net, X):
    """Return the gradient of the mean NLL of complete rows with respect to W, b and A of a tanh net, as the formula says."""
    hs, x = [X.astype(float)], X.astype(float)
    for W, b, A in zip(net["weights"], net["biases"], net["direct"], strict=True):
        z = hs[-1] @ W.T + b + (0 if A is None else x @ A.T)
        hs.append(np.tanh(z))
    dz = (1 / (1 + np.exp(-z)) - x) / len(x)
    found = []
    for l in reversed(range(len(net["weights"]))):
        dA = None
        if net["direct"][l] is not None:
            above = net["degrees"][l] if l < len(net["degrees"]) else net["ordering"] - 1
            dA = (dz.T @ x) * (above[:, None] >= net["ordering"])
        found.insert(0, ((dz.T @ hs[l]) * net["masks"][l], dz.sum(axis=0), dA))
        if l:
            dz = (dz @ net["weights"][l]) * (1 - hs[l] ** 2)
    return found


@pytest.mark.parametrize("options", [{}, {"n_masks": 2}, {"clip_norm": 1e6}], ids=str)
@pytest.mark.parametrize("hidden_sizes", [(), (7,), (8, 5)])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adagrad"])
def test_weight_decay_shrinks_weights_apart_from_the_gradient(options, hidden_sizes, optimizer):
    params = {**ONE_STEP, "hidden_sizes": hidden_sizes, "optimizer": optimizer, "direct_connections": "all", **options}
    X, lr, decay = rows(30, 6), 0.2, 0.7
    before = initial({**params, "learning_rate": lr}, X)
    after = MADE(**params, learning_rate=lr, weight_decay=decay).fit(X)
    net, found = before.model_.to_dense(0), after.model_.to_dense(0)
    step = {
        "sgd": lambda g: lr * g,
        "adam": lambda g: lr * g / (np.abs(g) + 1e-8),
        "adagrad": lambda g: lr * g / np.sqrt(g * g + 1e-6),
    }[optimizer]
    for l, (dW, db, dA) in enumerate(gradients(net, X)):
        close = {"rtol": 1e-9, "atol": 1e-7 if optimizer == "adam" else 1e-12}  # adam blows up what is 0 but for rounding
        np.testing.assert_allclose(found["weights"][l], net["weights"][l] * (1 - lr * decay) - step(dW), **close)
        np.testing.assert_allclose(found["biases"][l], net["biases"][l] - step(db), **close)
        if dA is not None:
            np.testing.assert_allclose(found["direct"][l], net["direct"][l] * (1 - lr * decay) - step(dA), **close)


def test_connectivity_weights_decay_and_biases_do_not():
    params, X = kind("masks", 30)
    params.update(max_epochs=3, learning_rate=0.1)
    decayed, plain = MADE(**params, weight_decay=5.0).fit(X), MADE(**params).fit(X)
    a, first = plain.model_.architecture, initial(params, X)
    start = MADE(**{**params, "learning_rate": 1e-300}, weight_decay=1e300 / 2).fit(X)  # halves weights three times, no more
    for (W0, b0, _), (W, b, _) in zip(
        shared_matrices(a, parameters(first)), shared_matrices(a, parameters(start)), strict=True
    ):
        np.testing.assert_allclose(W, W0 / 8, rtol=1e-12)
        assert b is None or np.abs(b - b0).max() < 1e-290
    for (_, _, U), (_, _, U_decayed) in zip(
        shared_matrices(a, parameters(plain))[:2], shared_matrices(a, parameters(decayed))[:2], strict=True
    ):
        assert 0 < np.linalg.norm(U_decayed) < 0.8 * np.linalg.norm(U)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("clip_norm", [1e-3, 0.05, 1e6])
def test_clipping_bounds_the_update(name, clip_norm):
    params, X = kind(name, 40)
    lr = 0.5
    before = parameters(initial({**params, "clip_norm": 1.0}, X))
    free = parameters(MADE(**params, learning_rate=lr, clip_norm=1e9).fit(X)) - before
    bound = parameters(MADE(**params, learning_rate=lr, clip_norm=clip_norm).fit(X)) - before
    norm = np.linalg.norm(free) / lr
    assert 0.05 < norm < 1e6
    assert np.linalg.norm(bound) / lr == pytest.approx(min(norm, clip_norm), rel=1e-9)
    np.testing.assert_allclose(bound, free * min(1, clip_norm / norm), rtol=1e-8, atol=1e-14)


def test_clipping_serves_one_mask_too():
    """It stays packed, and is the same network where nothing is clipped."""
    X = rows(60)
    a, b = small(max_epochs=2, dtype="float64").fit(X), small(max_epochs=2, dtype="float64", clip_norm=1e9).fit(X)
    np.testing.assert_allclose(a.score_samples(X), b.score_samples(X), rtol=1e-9)
    assert b.model_.n_parameters == a.model_.n_parameters


OTHER = {
    "sgd": {"lr_decay": 0.5},
    "momentum": {"lr_decay": 0.5, "momentum": 0.5},
    "adagrad": {"eps": 0.1},
    "adadelta": {"rho": 0.5, "eps": 0.1},
    "rmsprop": {"rho": 0.5, "eps": 0.1},
    "adam": {"beta_1": 0.5, "beta_2": 0.5, "eps": 0.1},
}


@pytest.mark.parametrize(("optimizer", "name"), [(optimizer, name) for optimizer, others in OTHER.items() for name in others])
@pytest.mark.parametrize("options", [{}, {"n_masks": 2}], ids=str)
def test_the_optimizers_constants_reach_the_kernels(optimizer, name, options):
    value, rule = OTHER[optimizer][name], OPTIMIZERS[optimizer]
    params = {"optimizer": optimizer, "max_epochs": 2, **options}
    plain = small(**params).fit(rows(60))
    other = small(**params, optimizer_params={name: value}).fit(rows(60))
    assert (parameters(other) != parameters(plain)).any()
    assert trainer_of(plain).constants.tolist() == [0.01, *rule.constants[1:], 0, 0]
    expected = dict(zip(rule.names, trainer_of(plain).constants, strict=False)) | {name: value}
    assert trainer_of(other).constants[:4].tolist() == [expected[key] for key in rule.names[:4]]
    default = {name: dict(zip(rule.names, rule.constants, strict=True))[name]}
    same_fit(small(**params, optimizer_params=default).fit(rows(60)), plain)


@pytest.mark.parametrize("options", [{}, {"n_masks": 3}], ids=str)
def test_constants_mean_what_they_say(options):
    X = rows(50)
    params = {"batch_size": 50, "max_epochs": 5, "learning_rate": 0.2, "dtype": "float64", **options}
    sgd = small(optimizer="sgd", **params).fit(X)
    momentum = small(optimizer="momentum", optimizer_params={"momentum": 0.0}, **params).fit(X)
    np.testing.assert_allclose(parameters(momentum), parameters(sgd), rtol=1e-12, atol=1e-15)
    decay = small(optimizer="sgd", optimizer_params={"lr_decay": 0.5}, **params).fit(X)  # one step an epoch
    schedule = small(optimizer="sgd", learning_rate_schedule=lambda epoch: 1 / (1 + 0.5 * (epoch - 1)), **params).fit(X)
    np.testing.assert_allclose(parameters(decay), parameters(schedule), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("n_masks", [1, 2])
def test_dropout_drops_and_scales(n_masks):
    """A network whose hidden units are all the same: dropping some only scales its logits by how many are kept."""
    X = np.ones((400, 2), np.uint8)
    H, p = 64, 0.25
    params = {**ONE_STEP, "hidden_sizes": (H,), "activation": "relu", "n_masks": n_masks, "dropout": p, "ordering": "natural"}
    made = initial(params, X)
    trainer = trainer_of(made)
    values = np.zeros(trainer.architecture.n_shared)
    ((W, b, _), (V, _, _)) = shared_matrices(trainer.architecture, values)
    W[:], b[:], V[:] = 0, 1, 0.1  # every hidden unit is 1, whatever the input; one output sees them all, the other none
    shared = Shared(trainer.architecture, values)
    trainer.parameters.vector[:] = (shared if n_masks > 1 else shared.network(trainer.masks[0])).vector
    kept = np.unpackbits(trainer._keep(4000, trainer.noise).view(np.uint8), axis=1, count=H, bitorder="little")
    assert abs(kept.mean() - (1 - p)) < 0.005
    assert abs(np.corrcoef(kept[:, 0], kept[:, 1])[0, 1]) < 0.08
    trainer.constants[0] = 0
    nll = trainer.epoch(Rows.of(X, None, None).pack(trainer.parameters, None), 400, 1)
    # the logit of output 1 is 0.1 times the number of units kept, divided by 1 - p
    n = np.arange(H + 1)
    weights = np.array([np.prod([(H - j) / (j + 1) for j in range(k)]) * (1 - p) ** k * p ** (H - k) for k in n])
    expected = np.log(2) + (weights * np.log1p(np.exp(-0.1 * n / (1 - p)))).sum()
    spread = np.sqrt((weights * np.log1p(np.exp(-0.1 * n / (1 - p))) ** 2).sum() - (expected - np.log(2)) ** 2)
    assert abs(nll - expected) < 4 * spread / np.sqrt(400)
    assert abs(np.log1p(np.exp(-0.1 * H)) + np.log(2) - expected) < 0.01  # as without dropout, by the scaling
    assert abs(np.log1p(np.exp(-0.1 * H * (1 - p))) + np.log(2) - expected) > 4 * spread / np.sqrt(400)


@pytest.mark.parametrize("p", [1e-9, 0.1, 0.25, 1 / 3, 0.5, 1 - 2**-24, 1 - 1e-9])
def test_units_are_dropped_as_by_floats(p):
    """Checkpoints of earlier versions, which drew floats, go on to the same bits."""
    trainer = trainer_of(initial({**ONE_STEP, "hidden_sizes": (70, 300), "dropout": p}, rows(20)))
    words = 2 + 5
    for n in (1, 100):
        kept = np.unpackbits(trainer._keep(n, np.random.default_rng(n)).view(np.uint8), axis=1, bitorder="little")
        floats = np.random.default_rng(n).random((n, 64 * words), dtype=np.float32)
        np.testing.assert_array_equal(kept, floats >= np.float32(p))


def test_dropout_is_off_when_the_model_is_used():
    made = small(dropout=0.5, max_epochs=3).fit(rows(100))
    assert (made.score_samples(rows(50)) == made.score_samples(rows(50))).all()
    assert abs(np.exp(made.score_samples(all_inputs(12))).sum() - 1) < 1e-5
