"""Orderings, degrees and the staircase against the masks written out."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy.stats import chisquare

from made_fast.kernels.reference import dense
from made_fast.network.masks import Connectivity, MaskRule, MaskSet, Variables, draw_connectivity
from made_fast.tables.choices import DEGREE_RULES, DIRECT_CONNECTIONS, RESAMPLE

SHAPES = [
    (1, ()), (1, (4,)), (2, (1,)), (5, ()), (7, (3,)), (9, (40,)), (12, (12, 12)), (30, (7, 64, 5)), (6, (8, 3, 9, 4, 8)),
]  # fmt: skip


def same(a: Connectivity, b: Connectivity) -> bool:
    return all(np.array_equal(m, n) for m, n in zip((a.ordering, *a.degrees), (b.ordering, *b.degrees), strict=True))


@pytest.mark.parametrize(("n_inputs", "hidden_sizes"), SHAPES)
@pytest.mark.parametrize("rule", ["stratified", "uniform"])
def test_degrees_keep_to_their_range(n_inputs, hidden_sizes, rule):
    for seed in range(20):
        smallest, rng = 1, np.random.default_rng(seed)
        connectivity = draw_connectivity(n_inputs, hidden_sizes, "natural", rule, rng)
        assert (connectivity.n_inputs, connectivity.hidden_sizes) == (n_inputs, hidden_sizes)
        for m in connectivity.degrees:
            assert m.dtype == np.int32
            assert m.min() >= smallest
            assert m.max() <= max(n_inputs - 1, 1)
            smallest = m.min()


@pytest.mark.parametrize(("n_inputs", "hidden_sizes"), SHAPES)
def test_stratified_degrees_reach_every_output_that_can_have_inputs(n_inputs, hidden_sizes):
    for seed in range(20):
        connectivity = draw_connectivity(n_inputs, hidden_sizes, "random", "stratified", np.random.default_rng(seed))
        masks = dense.masks(connectivity.ordering, connectivity.degrees)
        paths = np.eye(n_inputs)
        for mask in masks:
            paths = mask @ paths
        reached = (paths > 0).any(axis=1)
        assert (reached == (connectivity.ordering > 1)).all()


def test_uniform_degrees_do_leave_outputs_without_input():
    """The paper's rule has the gap that the default closes; if it had not, the default would need no reason."""
    m = draw_connectivity(784, (500,), "natural", "uniform", np.random.default_rng(0)).degrees[0]
    assert m.min() > 1  # the output at place 2 sees nothing


@pytest.mark.parametrize(("n_inputs", "hidden_sizes"), SHAPES)
def test_product_of_masks_is_autoregressive(n_inputs, hidden_sizes):
    connectivity = draw_connectivity(n_inputs, hidden_sizes, "random", "uniform", np.random.default_rng(3))
    m0, masks = connectivity.ordering, dense.masks(connectivity.ordering, connectivity.degrees)
    for direct in DIRECT_CONNECTIONS:
        paths, staircase = np.eye(n_inputs), connectivity.staircase(direct)
        for l, mask in enumerate(masks):
            paths = mask @ paths
            if staircase.direct[l] is not None:
                seen = np.arange(n_inputs) < staircase.direct[l][:, None]
                paths[np.ix_(staircase.sorts[l + 1], staircase.sorts[0])] += seen
        earlier = m0[:, None] > m0[None, :]
        assert (paths[~earlier] == 0).all()
        if direct != "none" and hidden_sizes:
            assert (paths[earlier] > 0).all()


@pytest.mark.parametrize(("n_inputs", "hidden_sizes"), SHAPES)
@pytest.mark.parametrize("rule", ["stratified", "uniform"])
def test_staircase_is_the_sorted_mask(n_inputs, hidden_sizes, rule):
    connectivity = draw_connectivity(n_inputs, hidden_sizes, "random", rule, np.random.default_rng(5))
    staircase = connectivity.staircase()
    masks = dense.masks(connectivity.ordering, connectivity.degrees)
    for l, (mask, n_live) in enumerate(zip(masks, staircase.n_live, strict=True)):
        in_order = mask[np.ix_(staircase.sorts[l + 1], staircase.sorts[l])]
        assert (in_order == (np.arange(mask.shape[1]) < n_live[:, None])).all()
        assert (np.diff(n_live) >= 0).all()
    assert (connectivity.ordering[staircase.sorts[0]] == np.arange(1, n_inputs + 1)).all()


def test_orderings():
    rng = np.random.default_rng(0)
    assert draw_connectivity(4, (), "natural", "uniform", rng).ordering.tolist() == [1, 2, 3, 4]
    assert draw_connectivity(3, (), [3, 1, 2], "uniform", rng).ordering.tolist() == [3, 1, 2]
    drawn = [draw_connectivity(3, (), "random", "uniform", rng).ordering for _ in range(3000)]
    assert chisquare(np.unique(drawn, axis=0, return_counts=True)[1]).pvalue > 1e-4


def test_digits_stand_side_by_side():
    variables = Variables((3, 2, 4, 1, 1, 5), (0,) * 6, 0, (1, 2, 1, 2))
    rng = np.random.default_rng(1)
    assert variables.together(np.array([[2, 4, 1, 3]], np.int32)).tolist() == [[2, 5, 6, 1, 3, 4]]
    assert draw_connectivity(6, (), [2, 4, 1, 3], "uniform", rng, variables).ordering.tolist() == [2, 5, 6, 1, 3, 4]
    assert draw_connectivity(6, (), "natural", "uniform", rng, variables).ordering.tolist() == [1, 2, 3, 4, 5, 6]
    base = draw_connectivity(6, (7,), "random", "uniform", rng, variables)
    rule = MaskRule(base, "uniform", "both", variables)
    orderings = rule.draw(4000, rng).orderings
    assert (np.sort(orderings, axis=1) == np.arange(1, 7)).all()
    assert (orderings[:, 2] == orderings[:, 1] + 1).all()
    assert (orderings[:, 5] == orderings[:, 4] + 1).all()
    assert np.array_equal(variables.together(orderings), orderings)
    of_columns = orderings[:, [0, 1, 3, 4]].argsort(axis=1)
    assert chisquare(np.unique(of_columns, axis=0, return_counts=True)[1]).pvalue > 1e-4
    assert len(np.unique(of_columns, axis=0)) == 24
    apart = rule.with_orderings(np.array([[1, 2, 3, 4, 5, 6], [2, 1, 4, 6, 3, 5]], np.int32), rng).orderings
    assert np.array_equal(apart, variables.together(apart))


@pytest.mark.parametrize(("n_inputs", "hidden_sizes"), SHAPES)
@pytest.mark.parametrize("direct", DIRECT_CONNECTIONS)
def test_direct_connections_are_those_written_out(n_inputs, hidden_sizes, direct):
    connectivity = draw_connectivity(n_inputs, hidden_sizes, "random", "stratified", np.random.default_rng(6))
    staircase, m0 = connectivity.staircase(direct), connectivity.ordering
    expected = [None] * (len(hidden_sizes) + 1)
    if direct == "all":
        for l, m in list(enumerate(connectivity.degrees))[1:]:
            expected[l] = m[:, None] >= m0  # a unit of degree m may see the first m inputs
    if direct != "none" and hidden_sizes:
        expected[-1] = m0[:, None] > m0
        assert (staircase.direct[-1] == np.arange(n_inputs)).all()  # strictly lower triangular in order of place
    assert len(staircase.direct) == len(expected)
    for l, (found, mask) in enumerate(zip(staircase.direct, expected, strict=True)):
        assert (found is None) == (mask is None)
        if found is not None:
            assert found.dtype == np.int32
            in_order = mask[np.ix_(staircase.sorts[l + 1], staircase.sorts[0])]
            assert (in_order == (np.arange(n_inputs) < found[:, None])).all()
            assert (np.diff(found) >= 0).all()


@pytest.mark.parametrize(("n_inputs", "hidden_sizes"), SHAPES)
@pytest.mark.parametrize("direct", DIRECT_CONNECTIONS)
def test_stacked_staircase_is_the_single_ones(n_inputs, hidden_sizes, direct):
    connectivities = [
        draw_connectivity(n_inputs, hidden_sizes, "random", rule, np.random.default_rng(seed))
        for seed, rule in enumerate(["stratified", "uniform", "stratified"])
    ]
    mask_set = MaskSet.of(connectivities)
    assert len(mask_set) == 3
    stacked = mask_set.staircase(direct)
    for k, connectivity in enumerate(connectivities):
        assert same(mask_set[k], connectivity)
        found, single = stacked[k], connectivity.staircase(direct)
        for vectors, right in ((found.sorts, single.sorts), (found.n_live, single.n_live), (found.direct, single.direct)):
            for a, b in zip(vectors, right, strict=True):
                assert (a is None) == (b is None)
                assert a is None or (np.array_equal(a, b) and a.dtype == b.dtype)


@pytest.mark.parametrize("rule", DEGREE_RULES)
@pytest.mark.parametrize("resample", RESAMPLE)
def test_only_what_is_resampled_varies(rule, resample):
    base = draw_connectivity(30, (40, 20), "random", rule, np.random.default_rng(7))
    drawn = MaskRule(base, rule, resample).draw(5, np.random.default_rng(8))
    for k in range(5):
        assert np.array_equal(np.sort(drawn.orderings[k]), np.arange(1, 31))
        assert np.array_equal(drawn.orderings[k], base.ordering) == (resample == "connectivity")
        for m, below, mine in zip(drawn.degrees, (np.ones((5, 1)), *drawn.degrees), base.degrees, strict=False):
            assert np.array_equal(m[k], mine) == (resample == "order")
            assert below[k].min() <= m[k].min()
            assert m[k].max() <= 29
    if resample != "connectivity":
        assert len(np.unique(drawn.orderings, axis=0)) == 5
    if resample != "order":
        assert all(len(np.unique(m, axis=0)) == 5 for m in drawn.degrees)


@pytest.mark.parametrize("rule", DEGREE_RULES)
def test_layers_of_equal_width_draw_different_degrees_under_every_mask(rule):
    base = draw_connectivity(100, (200, 200), "random", rule, np.random.default_rng(0))
    first, second = MaskRule(base, rule, "both").draw(4, np.random.default_rng(1)).degrees
    assert (first != second).any(axis=1).all()
    assert (np.sort(first) != np.sort(second)).any(axis=1).all()


def test_every_mask_keeps_to_the_rule_and_is_shuffled_anew():
    base = draw_connectivity(21, (20, 20), "random", "stratified", np.random.default_rng(0))
    for rule in DEGREE_RULES:
        drawn = MaskRule(base, rule, "connectivity").draw(4, np.random.default_rng(1))
        one_of_each = (np.sort(drawn.degrees, axis=-1) == np.arange(1, 21)).all(axis=-1)
        assert one_of_each.tolist() == [[rule == "stratified"] * 4] * 2  # a stratum for every degree
        assert len(np.unique(np.concatenate(drawn.degrees), axis=0)) == 8


@pytest.mark.parametrize("resample", RESAMPLE)
def test_a_mask_set_begins_with_the_base_and_is_fixed_by_the_seed(resample):
    base = draw_connectivity(9, (7, 8), "random", "stratified", np.random.default_rng(10))
    rule = MaskRule(base, "stratified", resample)
    sets = [rule.mask_set(4, np.random.default_rng(seed)) for seed in (11, 11, 12)]
    for mask_set in sets:
        assert len(mask_set) == 4
        assert same(mask_set[0], base)
        assert mask_set.orderings.dtype == np.int32
        assert all(m.dtype == np.int32 for m in mask_set.degrees)
    assert all(same(sets[0][k], sets[1][k]) for k in range(4))
    assert not all(same(sets[0][k], sets[2][k]) for k in range(4))
    alone = rule.mask_set(1, np.random.default_rng(11))
    assert len(alone) == 1
    assert same(alone[0], base)


def test_degrees_may_be_drawn_for_given_orderings():
    base = draw_connectivity(9, (7, 8), "random", "stratified", np.random.default_rng(10))
    rule, orderings = MaskRule(base, "stratified", "both"), np.array([[3, 2, 1, 4, 5, 6, 7, 8, 9]] * 2, np.int32)
    found = rule.with_orderings(orderings, np.random.default_rng(0))
    assert np.array_equal(found.orderings, orderings)
    assert not np.array_equal(found.degrees[0][0], found.degrees[0][1])


def test_orderings_are_drawn_uniformly():
    def draw(n_inputs, n):
        base = draw_connectivity(n_inputs, (), "natural", "stratified", np.random.default_rng(0))
        return MaskRule(base, "stratified", "both").draw_orderings(n, np.random.default_rng(13))

    _, counts = np.unique(draw(4, 24_000), axis=0, return_counts=True)
    assert len(counts) == 24
    assert chisquare(counts).pvalue > 1e-3
    orderings = draw(30, 30_000)
    places = np.stack([np.bincount(column, minlength=31)[1:] for column in orderings.T])
    assert min(chisquare(places[d]).pvalue for d in range(30)) > 1e-4
    pairs = np.bincount(orderings[:, 0] * 31 + orderings[:, 1], minlength=31 * 31).reshape(31, 31)[1:, 1:]
    assert not np.diag(pairs).any()
    assert chisquare(pairs[~np.eye(30, dtype=bool)]).pvalue > 1e-3


@pytest.mark.parametrize("n", [1, 8])
def test_a_large_mask_set_is_small(n):
    base = draw_connectivity(1000, (8000, 8000), "random", "stratified", np.random.default_rng(0))
    tracemalloc.start()
    MaskRule(base, "stratified", "both").mask_set(n, np.random.default_rng(1)).staircase("all")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < n * 1000 * 8000 / 4  # no array of K x D x H
