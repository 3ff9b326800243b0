"""What only the kernels on shared parameters do: gather them for a mask, and give each mask's gradient back to them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from kernel_cases import (
    CLIPPED,
    PLAIN,
    SEVERAL,
    assert_close,
    both_types,
    copied,
    everywhere,
    optimizers,
    pack_bits,
    room,
    run_crew,
)
from level_cases import SharedLevelCase
from shared_cases import N_ROWS, K, SharedCase

from made_fast.kernels import layout as panels
from made_fast.kernels import reference
from made_fast.kernels.layout import N_OUT
from made_fast.kernels.records import Net, TrainScratch
from made_fast.kernels.reference import dense

case = lru_cache(SharedCase)


def integers(n: int, seed: int) -> Any:
    """Return n small integers as reals: all their sums are exact, so that results can be compared bit for bit."""
    return np.random.default_rng(seed).integers(1, 9, n).astype(float)


@everywhere
@both_types
@pytest.mark.parametrize("shape", [*SharedCase.SHAPES, *SharedLevelCase.SHAPES], ids=str)
def test_pack_gathers_what_is_live_and_sums_connectivity_weights(module, dtype, shape):
    c = case(shape, dtype)
    shared = copied(integers(len(c.shared), 0), dtype)  # fill-up included: it must not come through
    for k in range(K):
        found, layout = c.pack(module, k, shared), c.layouts.of_mask(k)
        expected = Net(np.zeros(panels.n_parameters(layout)), *layout)
        for l, ((W, b, U), (M, order)) in enumerate(zip(c.dense(shared), c.sorted_layers(k), strict=True)):
            bias = (b + (U * M[: len(U)]).sum(axis=0))[order[1][0]] if len(b) else np.zeros(layout.layers[l, N_OUT])
            dense.pack_layer(expected, l, (W * M)[order], bias)
            assert np.array_equal(dense.unpack_layer(found, l)[1], M[order])
        assert np.array_equal(found.theta, expected.theta)


@everywhere
def test_pack_takes_parameters_that_are_read_only(module):
    c, read_only = case(SharedCase.SMALL, "float32"), copied(case(SharedCase.SMALL, "float32").shared)
    read_only.flags.writeable = False
    assert np.array_equal(c.pack(module, 1, read_only).theta, c.pack(module, 1, c.shared).theta)


@everywhere
@both_types
def test_live_weights_get_gradient_and_dead_ones_stay(module, dtype):
    c = case((9, (70, 33), "all", True), dtype, "softsign")
    plan = np.arange(16) % 8, np.array([(0, 8, 0, 9, 0, 16), (8, 16, 1, 9, 0, 16)])
    live = c.live(range(2))  # under one mask or both
    for l, (W, _, U) in enumerate(c.dense(live)):
        assert not W.all(), l  # else there is nothing to see
        assert U.any() == (len(U) > 0)
    _, _, state = c.train(module, "gradient", SEVERAL, plan=plan, steps=slice(1))
    assert np.array_equal(state[0] != 0, live)
    _, shared, _ = c.train(module, "sgd", SEVERAL, plan=plan, steps=slice(1), decay=0)
    assert np.array_equal(shared[~live], c.shared[~live])


@everywhere
@both_types
@optimizers
@pytest.mark.parametrize("options", [PLAIN, CLIPPED], ids=["plain", "clipped"])
def test_one_mask_is_trained_as_by_train(module, dtype, optimizer, options):
    shape = (65, (33, 9), "all", False)
    c, D, rows = case(shape, dtype, None, 1), shape[0], np.arange(21) * 5 % N_ROWS
    plan = rows, np.array([(0, 8, 0, D, 0, 8), (8, 16, 0, D, 1, 8), (16, 21, 0, D, 2, 5)])
    fixed = c.arguments(optimizer, options._replace(weighted=True), plan=plan)
    nll, shared, _ = c.train_with(module, fixed)
    net, update = c.pack(reference, 0, c.shared), fixed["update"]
    reals, ints = panels.train_workspace(c.layouts.of_mask(0), 8)
    sizes = (len(net.theta) if options.clip else 0, 0, 0, reals)
    scratch = TrainScratch(*(room(size, dtype) for size in sizes), room(ints, np.int32, -7))
    batches, alone = fixed["batches"]._replace(bits=pack_bits(c.x[:, c.orders[0, :D]])), room(3, "float64")
    update = update._replace(state=room((len(update.state), len(net.theta)), dtype, 0))
    run_crew(module, "train", net, batches, fixed["dropout"], update, scratch, alone)
    assert_close(nll, alone, dtype, "trained")
    assert_close(c.pack(reference, 0, shared).theta, net.theta, dtype, "trained")


@everywhere
@both_types
def test_certain_logits_give_no_nan_when_half_of_the_places_count(module, dtype):
    c, found = case((100, (7,), "output", True), dtype), []
    for implementation in (module, reference):
        fixed = c.arguments("gradient", SEVERAL, plan=(np.arange(8), np.array([(0, 8, 1, 50, 0, 8)])))
        b = c.dense(fixed["shared"].values)[1][1]
        b[:] = np.resize([200, -200, -89.4, -710.5], 100)  # exp(89.4) is infinite in float32, exp(710.5) in float64
        found.append(c.train_with(implementation, fixed))
    for a, b in zip(*found, strict=True):
        assert_close(a, b, dtype, "trained")
    assert found[1][2].any()
