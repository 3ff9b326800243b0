"""Networks of variables of several levels: against enumeration, formulas, and the float64 reference on the same parameters.

How they are trained is tested in ``test_training.py``, with all other networks.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from kernel_cases import FULL, PLAIN, assert_close, both_types, compiled, everywhere, on_every_level
from level_cases import LevelCase
from variable_cases import n_levels, nll_of_levels, places_of

from made_fast.kernels import reference
from made_fast.kernels.layout import BIAS
from made_fast.kernels.records import BINARY
from made_fast.kernels.reference import dense

case = lru_cache(LevelCase)
shapes = pytest.mark.parametrize("shape", LevelCase.SHAPES, ids=str)
ENUMERATED = [("0: 3 1 5t 0 2", (9,), 4, "output"), ("3: 2t 1 3", (), 4, "none"), ("2: 3t 0 1 4 1", (7, 8), 4, "all")]
enumerated = pytest.mark.parametrize("shape", ENUMERATED, ids=str)
SURE = np.nextafter(1, 0)  # the largest uniform


def evidence(c: LevelCase, n: int, rng: np.random.Generator) -> tuple[Any, Any, Any]:
    """Return (given, uniforms, weights) of n walks: some variables given, some drawn as the likeliest, some levels without
    weight, but in no variable all of them."""
    sizes = n_levels(c.in_order)
    given = np.where(rng.random((n, c.n_places)) < 0.3, rng.integers(0, sizes, (n, c.n_places)), -1)
    uniforms = rng.random((n, c.n_places))
    uniforms[0], uniforms[-1] = 0, SURE
    uniforms[rng.random(uniforms.shape) < 0.2] = -1
    weights = [rng.random(size) * (rng.random(size) < 0.6) for size in sizes]
    for w in weights:
        w[rng.integers(len(w))] = 0.7
    return given, uniforms, weights


def paired(c: LevelCase, weights: Any, rng: np.random.Generator) -> tuple[Any, Any]:
    """Return (partners, weights): some variables have weights for each level of an earlier one, of one level all 0."""
    sizes, weights = n_levels(c.in_order), list(weights)
    partners = np.full(c.n_places, -1)
    for v in range(1, c.n_places, 2):
        u = partners[v] = rng.integers(v)
        weights[v] = np.tile(weights[v], (sizes[u], 1)) * rng.random((sizes[u], 1))
        if sizes[u] > 1:
            weights[v][-1] = np.roll(weights[v][-1], 1)
    return partners, weights


def flat(weights: Any) -> Any:
    """Return weights as a walk takes them."""
    return np.concatenate([np.ravel(w) for w in weights])


@on_every_level
@both_types
@shapes
def test_score_and_conditionals(module, dtype, shape):
    c = case(shape, dtype)
    assert_close(c.conditionals(module), c.exact.conditionals(reference), dtype, "value")
    logits = dense.forward(c.exact.net, c.x.astype(float))[-1]
    right = -nll_of_levels(logits, c.levels, c.in_order.widths)
    for n_places in {0, 1, c.n_places // 2, c.n_places}:
        assert_close(c.score(module, n_places=n_places), right[:, :n_places].sum(axis=1), dtype, "log_p")


@compiled
@both_types
@shapes
def test_bits_do_not_depend_on_block_or_rows(module, dtype, shape):
    c = case(shape, dtype)
    half = (c.n_places + 1) // 2
    c.check_same_bits(module, half)
    given, uniforms, weights = evidence(c, len(c.x), np.random.default_rng(0))
    alone = np.full(c.n_places, -1), weights
    for partners, each in (alone, paired(c, weights, np.random.default_rng(1))):
        walked = c.walk(module, given, uniforms, flat(each), partners=partners)
        for block in (1, 2, 3, 16, 100):
            again = c.walk(module, given, uniforms, flat(each), partners=partners, block=block)
            for found, right in zip(again, walked, strict=True):
                assert np.array_equal(found, right)


@everywhere
@pytest.mark.parametrize("shape", [("3: 5t 0 1 3", (40,), 7, "output"), ("0: 1 70 2 1", (90, 80), 5, "all")], ids=str)
def test_conditionals_depend_on_all_earlier_places_and_the_context_and_on_no_other(module, shape):
    c = case(shape, "float64", "tanh")
    inputs, outputs = (np.sort(places) for places in places_of(c.connectivity.ordering, c.variables))
    before, seen = c.conditionals(module), np.zeros((len(inputs), len(outputs)), bool)
    for i in range(len(inputs)):
        x = c.x.copy()
        x[:, i] ^= 1
        seen[i] = (c.conditionals(module, x) != before).any(axis=0)
    assert np.array_equal(seen, inputs[:, None] < outputs)


@everywhere
@both_types
@enumerated
def test_probabilities_of_all_rows_add_up_to_one(module, dtype, shape):
    c = LevelCase(shape, dtype)
    levels = c.enumerate()
    log_p, (walked, log_mass) = c.score(module), c.walk(module, levels, np.ones(levels.shape))
    assert abs(np.exp(log_p).sum() - 1) < {"float32": 1e-6, "float64": 1e-10}[dtype]
    assert np.array_equal(walked, levels)
    assert_close(log_mass, log_p, dtype, "walk")


@everywhere
@enumerated
def test_mean_mass_of_walks_is_the_probability_of_the_evidence(module, shape):
    c, rng = LevelCase(shape, "float64"), np.random.default_rng(1)
    levels, free = c.enumerate(), np.full((4000, c.n_places), -1)
    p, (_, _, weights) = np.exp(c.score(module)), evidence(c, 2, rng)
    partners, weights = paired(c, weights, rng)
    own = [w[levels[:, v]] if partners[v] < 0 else w[levels[:, partners[v]], levels[:, v]] for v, w in enumerate(weights)]
    each = p * np.prod(own, axis=0)

    def check(shares: Any, right: float) -> None:
        assert abs(shares.mean() - right) < 5 * shares.std() / np.sqrt(len(shares)) + 1e-12

    walked, log_mass = c.walk(module, free, rng.random(free.shape), flat(weights), partners=partners)
    check(np.exp(log_mass), each.sum())
    for v, size in enumerate(n_levels(c.in_order)):
        for level in range(size):
            check(np.exp(log_mass) * (walked[:, v] == level), each[levels[:, v] == level].sum())
        given = free.copy()
        given[:, v] = size - 1  # and the others as they come
        check(np.exp(c.walk(module, given, rng.random(free.shape))[1]), p[levels[:, v] == size - 1].sum())


@everywhere
@both_types
@shapes
@pytest.mark.parametrize("weighted", ["", "weighted", "paired"])
def test_walks_draw_from_the_conditionals_of_what_they_have_drawn(module, dtype, shape, weighted):
    c, n = case(shape, dtype), 50
    given, uniforms, weights = evidence(c, n, np.random.default_rng(2))
    partners = np.full(c.n_places, -1)
    if weighted == "paired":
        partners, weights = paired(c, weights, np.random.default_rng(3))
    levels, log_mass = c.walk(module, given, uniforms, flat(weights) if weighted else (), partners=partners)
    each, right, slack = np.arange(n), np.zeros(n), {"float32": 1e-5, "float64": 1e-13}[dtype]
    for v, p in enumerate(c.probabilities(module, c.inputs(levels))):  # the first levels fix conditional v: one pass shows all
        level, u, known = levels[:, v], uniforms[:, v], given[:, v] >= 0
        own = weights[v] if partners[v] < 0 else weights[v][levels[:, partners[v]]]
        share = p * own if weighted else p
        total = share.sum(axis=1)
        with np.errstate(divide="ignore"):
            right += np.log(np.where(known, p[each, level], total if weighted else 1))
        assert np.array_equal(level[known], given[known, v])
        up_to = np.cumsum(share[:, ::-1], axis=1)[:, ::-1][each, level]  # the last level comes first
        own = share[each, level]
        drawn, likeliest = ~known & (u >= 0), ~known & (u < 0)
        drawn &= total > 0
        assert (u * total < up_to + slack)[drawn].all()
        assert (u * total >= up_to - own - slack)[drawn].all()
        assert (own >= share.max(axis=1) - slack)[likeliest].all()
        assert (share[each, level] > 0)[~known & (total > 0)].all() or not weighted
    assert_close(log_mass, right, dtype, "walk")


@everywhere
@both_types
def test_walks_over_fewer_places_leave_the_others(module, dtype):
    c = case(LevelCase.SHAPES[-1], dtype)
    given, uniforms, weights = evidence(c, 9, np.random.default_rng(3))
    whole, _ = c.walk(module, given, uniforms, np.concatenate(weights))
    for n_places in range(c.n_places + 1):
        levels, log_mass = c.walk(module, given, uniforms, np.concatenate(weights), n_places)
        assert np.array_equal(levels[:, :n_places], whole[:, :n_places])
        assert (levels[:, n_places:] == -7).all()
        free = given.copy()
        free[:, n_places:] = -1
        none = [np.ones_like(w) if v >= n_places else w for v, w in enumerate(weights)]
        assert_close(log_mass, c.walk(module, free, uniforms, np.concatenate(none))[1], dtype, "walk")


@everywhere
@both_types
def test_levels_of_equal_probability(module, dtype):
    c = LevelCase(("0: 4 1 2t", (), 1, "none"), dtype)
    c.net.theta[:] = 0
    for u, drawn in (
        (0, (3, 1, 1)),
        (0.25, (2, 1, 1)),
        (0.5, (1, 0, 0)),
        (0.74, (1, 0, 0)),
        (SURE, (0, 0, 0)),
        (-1, (0, 0, 0)),
    ):
        levels, log_mass = c.walk(module, np.full((1, 3), -1), np.full((1, 3), float(u)))
        assert levels[0].tolist() == [drawn[v] for v in np.argsort(c.connectivity.ordering)]
        assert log_mass[0] == 0


@everywhere
@both_types
def test_evidence_of_no_weight_has_no_mass(module, dtype):
    c = LevelCase(("3: 4 1 2t 0", (5,), 9, "none"), dtype)
    sizes = n_levels(c.in_order)
    for v in range(4):
        weights, free = np.ones(sum(sizes)), np.full((9, 4), -1)
        weights[sum(sizes[:v]) :][: sizes[v]] = 0
        for u in (0.0, 0.5, SURE, -1.0):
            levels, log_mass = c.walk(module, free, np.full((9, 4), u), weights)
            assert (log_mass == -np.inf).all()
            assert ((levels >= 0) & (levels < sizes)).all()


@everywhere
@both_types
def test_certain_levels_are_finite(module, dtype):
    c = LevelCase(("0: 5 1 3t", (), 9, "none"), dtype)
    logits = np.resize([-200, 200, 0, 88, -88.5, 200, 1e4, -1e4, 30], 9).astype(dtype)
    dense.pack_layer(c.net, 0, np.zeros((9, 9)), logits)
    levels = c.enumerate()
    right = -nll_of_levels(np.repeat(logits[None].astype(float), len(levels), axis=0), levels, c.in_order.widths).sum(axis=1)
    assert_close(c.score(module), right, dtype, "log_p")
    _, log_mass = c.walk(module, levels, np.ones(levels.shape))
    assert_close(log_mass, right, dtype, "walk")
    assert_close(c.conditionals(module), c.conditionals(reference).astype(float), dtype, "value")
    found, expected = (c.train(implementation, "gradient", PLAIN, steps=slice(1)) for implementation in (module, reference))
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, dtype, "trained")


@compiled
@both_types
def test_logits_that_are_no_numbers_give_scores_that_are_none(module, dtype):
    c = LevelCase(("3: 5t 0 70 1 2", (9,), 18, "output"), dtype)
    bias, first = c.net.theta[c.layout.layers[1, BIAS] :], 0
    for v, width in enumerate(c.in_order.widths):
        for j in {first, first + width // 2, first + width - 1} if width else ():
            before, bias[j] = bias[j], np.nan
            assert np.isfinite(c.score(module, n_places=v)).all()
            assert np.isnan(c.score(module)).all()
            bias[j] = before
        first += width


@everywhere
@both_types
def test_binary_variables_in_a_table_are_those_without_one(module, dtype):
    c = LevelCase(("0:" + 67 * " 1", (20, 9), 21, "all"), dtype)
    table = c.net
    score, proba, trained = c.score(module), c.conditionals(module), c.train(module, "adam", FULL)
    given, uniforms, weights = evidence(c, 21, np.random.default_rng(4))
    walked = c.walk(module, given, uniforms, np.concatenate(weights))
    c.net = table._replace(variables=BINARY)
    assert_close(score, c.score(module), dtype, "log_p")
    assert_close(proba, c.conditionals(module), dtype, "value")
    for a, b in zip(trained, c.train(module, "adam", FULL), strict=True):
        assert_close(a, b, dtype, "trained")
    levels, log_mass = c.walk(module, given, uniforms, np.concatenate(weights))
    assert np.array_equal(levels, walked[0])
    assert_close(log_mass, walked[1], dtype, "walk")
    uniforms, free = np.abs(uniforms), np.full(given.shape, -1)
    assert np.array_equal(c.walk(module, free, uniforms)[0], c.sample(module, uniforms))
