"""Networks of variables of several levels, as a model will ask them: scores, conditionals and walks against each other."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from helpers import random_parameters

from made_fast.kernels.layout import ONE_HOT, THERMOMETER
from made_fast.network.architecture import Architecture
from made_fast.network.masks import MaskRule, Variables, draw_connectivity
from made_fast.network.network import Network, Shared
from made_fast.tables.bits import pack_rows, unpack_rows
from made_fast.tables.table import Table

VARIABLES = Variables((3, 1, 4, 0, 2), (ONE_HOT, ONE_HOT, THERMOMETER, ONE_HOT, ONE_HOT), 2)
COUNTS = (3, 2, 4, 1, 2)


def network_of(direct: str = "output", seed: int = 0, dtype: str = "float64") -> tuple[Shared, Network]:
    rng = np.random.default_rng(seed)
    a = Architecture(VARIABLES.n_inputs, (9, 8), "relu", direct, False, VARIABLES)
    shared = Shared(a, random_parameters(a, dtype, rng))
    return shared, shared.network(draw_connectivity(5, (9, 8), "random", "stratified", rng, a.variables))


def rows_of(network: Network, levels: Any, context: Any) -> Any:
    """Return the bits of rows of levels (n, V), in the order of the variables, as the network reads them."""
    columns = [np.asarray(context)]
    for width, coding, level in zip(VARIABLES.widths, VARIABLES.codings, levels.T, strict=True):
        each, own = np.arange(width), level[:, None]
        columns.append((own == 1)[:, :width] if width < 2 else each <= own if coding == THERMOMETER else each == own)
    return pack_rows(Table(np.concatenate(columns, axis=1).astype(np.uint8)), network.order)


@pytest.fixture
def all_levels() -> Any:
    return np.array(list(product(*map(range, COUNTS))), np.int32)


@pytest.mark.parametrize("direct", ["none", "output", "all"])
def test_scores_conditionals_and_walks_agree(all_levels, direct):
    _, network = network_of(direct)
    n, order = len(all_levels), np.argsort(network.connectivity.ordering)
    context = np.tile([1, 0], (n, 1))
    bits = rows_of(network, all_levels, context)
    log_p = network.score(bits, 2)
    assert abs(np.exp(log_p).sum() - 1) < 1e-12
    levels, log_mass = network.walk_levels(
        all_levels[:, order], np.zeros((n, 5)), context=pack_rows(Table(context), np.arange(2))
    )
    assert np.array_equal(levels, all_levels[:, order])
    np.testing.assert_allclose(log_mass, log_p, rtol=1e-12)
    proba = network.conditionals(bits, 2, by_feature=True)
    assert proba.shape == (n, sum(VARIABLES.widths))
    total, first = np.zeros(n), 0
    for width, level in zip(VARIABLES.widths, all_levels.T, strict=True):
        if width == 1:
            total += np.log(np.where(level == 1, proba[:, first], 1 - proba[:, first]))
        elif width:
            total += np.log(proba[np.arange(n), first + level])
        first += width
    np.testing.assert_allclose(total, log_p, rtol=1e-12)


def test_fewer_places_are_the_marginal_of_the_first(all_levels):
    _, network = network_of()
    order = np.argsort(network.connectivity.ordering)
    bits = rows_of(network, all_levels, np.tile([0, 1], (len(all_levels), 1)))
    log_p = network.score(bits, 1)
    for n_places in range(6):
        first = all_levels[:, order[:n_places]]
        same = (first[:, None] == first[None]).all(axis=2)
        np.testing.assert_allclose(network.score(bits, 1, n_places), np.log(same @ np.exp(log_p)), atol=1e-12)


def test_bits_depend_on_no_thread_nor_row(all_levels):
    _, network = network_of(dtype="float32")
    rows = np.random.default_rng(0).integers(0, len(all_levels), 3000)
    bits = rows_of(network, all_levels[rows], np.tile([1, 1], (3000, 1)))
    log_p = network.score(bits, 1)
    assert np.array_equal(network.score(bits, 3), log_p)
    assert np.array_equal(np.concatenate([network.score(bits[i : i + 7], 1) for i in range(0, 70, 7)]), log_p[:70])


def test_biases_start_where_they_belong():
    shared, _ = network_of()
    shared.vector[:] = 0
    logits = np.arange(1.0, 11)
    shared.start_at(logits)
    a = shared.architecture
    for connectivity in MaskRule(
        draw_connectivity(5, (9, 8), "random", "uniform", np.random.default_rng(1), a.variables),
        "uniform",
        "both",
        a.variables,
    ).draw(3, np.random.default_rng(2)):
        network = shared.network(connectivity)
        bits = rows_of(network, np.zeros((1, 5), np.int32), np.zeros((1, 2)))
        found = network.conditionals(bits, 1, by_feature=True)[0]
        for first, width in ((0, 3), (4, 4), (8, 2)):
            own = np.exp(logits[first : first + width])
            np.testing.assert_allclose(found[first : first + width], own / own.sum(), rtol=1e-12)
        np.testing.assert_allclose(found[3], 1 / (1 + np.exp(-logits[3])), rtol=1e-12)
    assert a.n_outputs == len(logits)


@pytest.mark.parametrize("direct", ["none", "output", "all"])
def test_plain_arrays_give_the_same_logits(direct, all_levels):
    _, network = network_of(direct)
    bits = rows_of(network, all_levels, np.tile([1, 0], (len(all_levels), 1)))
    x = np.empty((len(bits), VARIABLES.n_inputs))
    x[:, network.order] = unpack_rows(bits, VARIABLES.n_inputs)
    net, h = network.dense(), x
    for W, M in zip(net["weights"], net["masks"], strict=True):
        assert (W[M == 0] == 0).all()
    for W, b, A in zip(net["weights"][:-1], net["biases"][:-1], net["direct"][:-1], strict=True):
        h = np.maximum(h @ W.T + b + (0 if A is None else x @ A.T), 0)
    A = net["direct"][-1]
    logits = h @ net["weights"][-1].T + net["biases"][-1] + (0 if A is None else x @ A.T)
    found, first = network.conditionals(bits, 1, by_feature=True), 0
    for width in VARIABLES.widths:
        z = logits[:, first : first + width]
        own = 1 / (1 + np.exp(-z)) if width == 1 else np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(found[:, first : first + width], own, rtol=1e-10)
        first += width
