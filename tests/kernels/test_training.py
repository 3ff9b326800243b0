"""The training kernels, on one connectivity and on shared parameters, against the float64 reference and against formulas."""

from __future__ import annotations

import itertools
import threading
import time
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from kernel_cases import (
    CLIPPED,
    CONSTANTS,
    FULL,
    NATIVE,
    PLAIN,
    SEVERAL,
    Case,
    Options,
    assert_close,
    assert_same,
    both_types,
    compiled,
    copied,
    everywhere,
    native,
    new_update,
    on_every_level,
    optimizers,
    pack_bits,
    room,
    run,
)
from latent_cases import LatentCase
from level_cases import LevelCase, SharedLevelCase
from shared_cases import SharedCase

from made_fast.kernels import layout as panels
from made_fast.kernels import reference
from made_fast.kernels.layout import ACTIVATIONS, CALL_OFF, SYNC
from made_fast.kernels.optimizers import MOMENTUM, OPTIMIZERS
from made_fast.kernels.records import Batches, Crew, Dropout, Net, TrainScratch
from made_fast.kernels.reference import dense

KINDS = (Case, SharedCase, LatentCase, LevelCase, SharedLevelCase)
every_kernel = pytest.mark.parametrize("make", KINDS, ids=[make.__name__ for make in KINDS])
every_update = pytest.mark.parametrize("make", KINDS[:3], ids=[make.__name__ for make in KINDS[:3]])
"""The kernels that update parameters; what an update does with a gradient does not depend on the kinds of variables."""
small_and_large = pytest.mark.parametrize(
    ("make", "shape"), [(make, shape) for make in KINDS for shape in (make.SMALL, make.LARGE)], ids=str
)
every_shape = pytest.mark.parametrize(("make", "shape"), [(make, shape) for make in KINDS for shape in make.SHAPES], ids=str)
ways = [PLAIN, PLAIN._replace(gradient=True), SEVERAL, CLIPPED, FULL]
all_options = pytest.mark.parametrize("options", ways, ids=["plain", "gradient", "several", "clipped", "full"])
plain_and_full = pytest.mark.parametrize("options", [PLAIN, FULL], ids=["plain", "full"])


@lru_cache
def case(make: Any, shape: Any, dtype: str, activation: str | None = None) -> Any:
    return make(shape, dtype, activation)


@lru_cache
def right(make: Any, shape: Any, optimizer: str, options: Options, n_steps: int = 4) -> Any:
    return case(make, shape, "float64").train(reference, optimizer, options, n_steps=n_steps)


def check(c: Any, found: Any, expected: Any) -> None:
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, c.dtype, "trained")
    _, parameters, state = found
    assert not parameters[c.padding].any()
    assert not state[:, c.padding].any()


def without_weight(arguments: Any) -> Any:
    """Return arguments whose rows weigh nothing, so that the gradient is 0."""
    batches = arguments["batches"]
    return arguments | {"batches": batches._replace(weights=np.zeros(len(batches.bits)))}


@on_every_level
@both_types
@every_shape
def test_steps_of_every_shape(module, dtype, make, shape):
    c = case(make, shape, dtype)
    for optimizer, options in (("adam", FULL), ("sgd", PLAIN)):
        check(c, c.train(module, optimizer, options), right(make, shape, optimizer, options))


@everywhere
@both_types
@optimizers
@all_options
@every_update
def test_steps_of_every_optimizer(module, dtype, optimizer, options, make):
    c = case(make, make.SMALL, dtype)
    found = c.train(module, optimizer, options)
    check(c, found, right(make, make.SMALL, optimizer, options))
    assert (found[1] != c.parameters)[c.bias & ~c.padding].all()


@everywhere
@both_types
@optimizers
def test_ten_steps_of_a_larger_net(module, dtype, optimizer):
    c = case(Case, Case.LARGE, dtype)
    check(c, c.train(module, optimizer, PLAIN, n_steps=10), right(Case, Case.LARGE, optimizer, PLAIN, 10))


@everywhere
@both_types
@optimizers
@every_update
def test_a_gradient_and_its_update_are_a_step_to_the_bit(module, dtype, optimizer, make):
    c, options = case(make, make.SMALL, dtype), SEVERAL._replace(gradient=True)
    _, _, gradient = c.train(module, "gradient", options, steps=slice(1, 2))
    expected = c.arguments(optimizer, options, steps=slice(1, 2), decay=0.1)
    start = expected["update"].state
    start[:, ~(c.padding | c.derived)] = 0.25
    values, state = copied(c.parameters), copied(start)
    _, parameters, right_state = c.train_with(module, expected)
    runs = c.runs()
    stops = np.maximum(runs[:, :1] + 16, runs[:, 1:2] - 16)  # cut, and in another order
    cut = np.concatenate([np.hstack([stops, runs[:, 1:]]), np.hstack([runs[:, :1], stops, runs[:, 2:]])])
    run(module, "apply_gradient", values, gradient[0], cut, expected["update"]._replace(state=state))
    own = ~c.derived
    if module is reference:  # which may round elsewhere
        assert_close(values[own], parameters[own], dtype, "trained")
        assert_close(state[:, own], right_state[:, own], dtype, "trained")
    else:
        assert_same((values[own], state[:, own]), (parameters[own], right_state[:, own]))
    assert not np.array_equal(values[own], c.parameters[own])


@everywhere
@both_types
@pytest.mark.parametrize(("activation", "dropout"), [(name, 0.0) for name in ACTIVATIONS[1:]] + [("tanh", 0.4)])
@every_kernel
def test_gradient_by_central_differences(module, dtype, activation, dropout, make):
    """All at once: direct connections, row weights; of shared parameters also U, two masks in a step and fewer places."""
    c, options = case(make, make.SMALL, dtype, activation), SEVERAL._replace(dropout=dropout)
    loss, expected = differences(make, activation, options)
    nll, parameters, state = c.train(module, "gradient", options, steps=slice(1))
    assert_close(nll / 8, loss, dtype, "difference")
    assert_close(state[0], expected, dtype, "difference")
    assert np.array_equal(parameters, c.parameters)
    _, parameters, _ = c.train(module, "sgd", options, steps=slice(1), lr=1, a=0, decay=0)
    own = ~c.derived
    assert_close(parameters[own], (c.parameters - expected)[own], dtype, "difference")


@lru_cache
def differences(make: Any, activation: str, options: Options) -> tuple[float, Any]:
    """Return the loss of the first step and its gradient, by central differences."""
    c = case(make, make.SMALL, "float64", activation)
    parameters, gradient = c.parameters.copy(), np.zeros(len(c.parameters))
    for i in np.flatnonzero(parameters):
        for sign in (1, -1):
            parameters[i] = c.parameters[i] + sign * 4e-6
            gradient[i] += sign * c.loss(parameters, options) / 8e-6
        parameters[i] = c.parameters[i]
    return c.loss(parameters, options), gradient


@everywhere
@both_types
@optimizers
@every_update
def test_decay_is_apart_from_the_gradient_and_spares_biases(module, dtype, optimizer, make):
    """Rows that weigh nothing leave the weights to the decay, dead or live ones."""
    c, (lr, a, _, _, decay, _) = case(make, make.SMALL, dtype), CONSTANTS[optimizer]
    rates = [lr / (1 + a * step) if OPTIMIZERS[optimizer].code <= MOMENTUM else lr for step in range(3, 7)]
    for options in (PLAIN, Options(clip=0.5)):
        _, found, state = c.train_with(module, without_weight(c.arguments(optimizer, options)))
        left = np.where(c.bias, 1, np.prod([1 - rate * decay for rate in rates]))
        assert_close(found, left * c.parameters, dtype, "trained")
        assert np.array_equal(found[c.bias], c.parameters[c.bias])
        assert not state.any()


@everywhere
@both_types
@small_and_large
def test_a_long_gradient_is_cut_to_the_clip_and_keeps_its_direction(module, dtype, make, shape):
    c, once = case(make, shape, dtype), {"steps": slice(1), "lr": 1, "a": 0, "decay": 0}
    _, _, (gradient,) = case(make, shape, "float64").train(reference, "gradient", SEVERAL, **once)
    norm = np.linalg.norm(gradient)
    for clip in (norm / 50, norm * 0.99, norm * 1.01):
        for optimizer in ("gradient", "sgd"):
            _, found, state = c.train(module, optimizer, SEVERAL._replace(clip=clip), **once)
            step = state[0] if optimizer == "gradient" else (c.parameters - found) * ~c.derived
            assert_close(step, gradient * min(1, clip / norm), dtype, "trained")


@everywhere
@both_types
@every_kernel
def test_keeping_every_unit_is_no_dropout(module, dtype, make):
    c = case(make, make.SMALL, dtype)
    kept = c.arguments("adam", SEVERAL._replace(dropout=0.4))
    kept["dropout"] = Dropout(np.full_like(kept["dropout"].keep, 2**64 - 1), 0.0)
    assert_close(c.train_with(module, kept)[1], c.train(module, "adam", SEVERAL)[1], dtype, "trained")


OFF = (100, (130, 100), 200, "all")
"""Units of more than two panels, and more rows than kernels take at a time."""


def one_batch(c: Case, optimizer: str, keep: Any, rate: float, n_ranks: int = 1) -> dict[str, Any]:
    """Return the arguments of one step on all rows of a case."""
    n, none = len(c.bits), room(0, c.dtype)
    net = c.net._replace(theta=copied(c.net.theta))
    return {
        "net": net,
        "batches": Batches(c.bits, np.zeros(0), np.arange(n), n),
        "dropout": Dropout(keep, rate),
        "update": new_update(optimizer, len(net.theta), c.dtype),
        "scratch": TrainScratch(none, none, none, *c.scratch(*panels.train_workspace(c.layout, n, n_ranks))),
        "nll": room(1, "float64"),
    }


@on_every_level
@both_types
@pytest.mark.parametrize("density", [0.02, 0.7, 0.97])
def test_inputs_of_few_and_of_many_ones(module, dtype, density):
    found = []
    for kernels, c in ((module, Case(OFF, dtype, "relu")), (reference, Case(OFF, "float64", "relu"))):
        c.x = (np.random.default_rng(0).random(c.x.shape) < density).astype(np.uint8)
        c.bits = pack_bits(c.x)
        batch = one_batch(c, "gradient", np.zeros((0, 5), np.uint64), 0.0)
        found.append((c.score(kernels, block=32), c.conditionals(kernels), *c.train_with(kernels, batch)))
    for *pair, kind in zip(*found, ("log_p", "value", "trained", "trained", "trained"), strict=True):
        assert_close(*pair, dtype, kind)


@on_every_level
@both_types
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.7, 1.0])
def test_units_that_are_mostly_off_are_left_out(module, dtype, rate):
    """From none of the units, by way of a third and two thirds, to all of them: after relu, half of those that are kept."""
    keep = pack_bits(np.random.default_rng(0).random((200, 64 * 5)) >= rate)
    right_batch = one_batch(case(Case, OFF, "float64", "relu"), "gradient", keep, min(rate, 0.7))
    expected = case(Case, OFF, "float64", "relu").train_with(reference, right_batch)
    for n_ranks in (1, 3) if "native" in module.__name__ else (1,):
        c = case(Case, OFF, dtype, "relu")
        check(c, c.train_with(module, one_batch(c, "gradient", keep, min(rate, 0.7), n_ranks), n_ranks), expected)


@native
@both_types
@pytest.mark.parametrize("unit", [0, 37, 129])
def test_the_gradient_of_a_unit_has_the_same_bits_whether_its_neighbours_are_off(module, dtype, unit):
    """A unit of tanh is never 0 by itself; where only one has weights to the outputs, it alone decides about the losses."""
    c = Case((100, (130,), 200, "none"), dtype, "tanh")
    W, _, bias = dense.unpack_layer(c.net, 1)
    dense.pack_layer(c.net, 1, np.where(np.arange(130)[:, None] == unit, W, 0), bias)
    found = []
    for others in (True, False):
        kept = np.full((200, 192), others)
        kept[::2, unit] = True
        kept[1::2, unit] = False
        _, _, gradient = c.train_with(module, one_batch(c, "gradient", pack_bits(kept), 0.5))
        found.append([dense.unpack_layer(Net(gradient[0], *c.layout), l)[0] for l in range(2)])
    (first, among), (same, alone) = found
    assert np.array_equal(among[unit], alone[unit])
    assert np.array_equal(first[:, unit], same[:, unit])
    assert alone[unit].any()
    assert not np.delete(alone, unit, axis=0).any()
    assert np.delete(among, unit, axis=0).any()


@everywhere
@both_types
@all_options
@every_update
def test_bits_do_not_depend_on_where_a_run_is_cut(module, dtype, options, make):
    c = case(make, make.SMALL, dtype)
    whole = c.train(module, "adam", options)
    first, second = (c.arguments("adam", options, steps=steps) for steps in (slice(0, 2), slice(2, 4)))
    head, parameters, state = c.train_with(module, first)
    next(iter(second.values()))[0][:], second["update"].state[:] = parameters, state
    tail, *rest = c.train_with(module, second)
    assert_same((np.concatenate([head, tail]), *rest), whole)


@native
@both_types
@pytest.mark.parametrize(("options", "n_ranks"), [(PLAIN, 2), (CLIPPED, 3), (FULL, 3)], ids=["plain-2", "clipped-3", "full-3"])
@every_shape
def test_bits_do_not_depend_on_the_number_of_threads(module, dtype, options, n_ranks, make, shape):
    c = case(make, shape, dtype)
    alone = c.train(module, "adadelta", options)
    assert_same(c.train(module, "adadelta", options, n_ranks=n_ranks), alone)


@compiled
@both_types
@pytest.mark.parametrize("optimizer", ["momentum", "adadelta", "rmsprop", "adam"])
@plain_and_full
@every_update
def test_state_that_decays_ends_at_zero_and_not_among_the_denormals(module, dtype, optimizer, options, make):
    """Of an input that is never on, say. A denormal stays for ever (0.9 times the smallest is the smallest) and is slow."""
    c, tiny = case(make, make.SMALL, dtype), np.finfo(dtype).tiny
    fixed = without_weight(c.arguments(optimizer, options))
    fixed["update"].state[:] = 1.5 * tiny
    for _ in range(5):
        fixed["scratch"].dtheta[:] = 0
        _, _, state = c.train_with(module, fixed)
    state = state[:, ~c.padding]
    assert ((state == 0) | (state >= tiny)).all()
    assert (state == 0).any()


@native
@plain_and_full
@every_kernel
def test_a_rank_that_waits_in_vain_can_be_called_off(module, options, make):
    c, sync = case(make, make.SMALL, "float32"), np.zeros(SYNC, np.int32)
    parameters, *args = c.arguments("momentum", options, n_ranks=2).values()
    given = module, c.kernel, parameters, *args, Crew(0, 2, sync)
    rank = threading.Thread(target=run, args=given, daemon=True)
    rank.start()
    time.sleep(0.02)
    assert rank.is_alive()
    sync[CALL_OFF] = 1
    rank.join(60)
    assert not rank.is_alive()
    assert np.array_equal(parameters[0], c.parameters)


@pytest.mark.parametrize("module", NATIVE[:1], indirect=True)  # when ranks look is the same on every CPU level
@pytest.mark.parametrize("n_ranks", [1, 2])  # more of them than CPUs wait long for each other
@pytest.mark.parametrize("options", [PLAIN, Options(clip=0.5)], ids=["plain", "clipped"])
@every_kernel
def test_training_that_is_called_off_leaves_every_weight_at_a_step(module, options, n_ranks, make):
    """All ranks have made the same steps; of one more step, some weights have been made, each with its state."""
    c = case(make, make.LARGE, "float32")
    n_steps = c.MANY
    train = getattr(module, c.kernel)

    def begin(steps: slice) -> tuple[Any, Any, Any]:
        parameters, *_ = args = c.arguments("momentum", options, n_steps=n_steps, steps=steps, n_ranks=n_ranks)
        return [*args.values()], args[parameters][0], args["update"].state

    _, parameters, state = begin(slice(0))
    known = [np.stack([parameters, *state])]
    for step in range(n_steps):
        args, parameters, state = begin(slice(step, step + 1))
        parameters[:], state[:] = known[-1][0], known[-1][1:]
        train(*args, Crew(0, 1, np.zeros(SYNC, np.int32)))
        known.append(np.stack([parameters, *state]))
    reached: list[int | None] = []
    whole = 0.0
    for i in range(300):  # the first one runs to its end, and tells how long that takes
        (args, parameters, state), sync = begin(slice(n_steps)), np.zeros(SYNC, np.int32)
        crew = [threading.Thread(target=train, args=(*args, Crew(rank, n_ranks, sync))) for rank in range(n_ranks)]
        started = time.perf_counter()
        for rank in crew:
            rank.start()
        if i:
            time.sleep(whole * (i % 60) / 60)
            sync[CALL_OFF] = 1
        for rank in crew:
            rank.join()
        took = time.perf_counter() - started
        now = np.stack([parameters, *state])
        found = (
            step + (now == after).all()
            for step, (before, after) in enumerate(itertools.pairwise(known))
            if ((now == before).all(axis=0) | (now == after).all(axis=0)).all()
        )
        reached.append(next(found, None))
        if reached[-1] == n_steps:  # the first run may have met a busy machine
            whole = min(whole or took, took)
        if i >= 59 and set(reached[1:]) - {0, reached[0]}:  # more of them where a busy machine lets none be amid its steps
            break
    assert None not in reached
    assert reached[0] == n_steps
    assert set(reached[1:]) - {0, reached[0]}  # some were called off on the way
