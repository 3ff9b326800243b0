"""Orderings, degrees and the staircase against the masks written out."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest
from scipy.stats import chisquare

from made_fast.kernels import reference
from made_fast.masks import Connectivity, draw_connectivity, draw_degrees, draw_ordering

SHAPES = [
    (1, ()),
    (1, (4,)),
    (2, (1,)),
    (5, ()),
    (7, (3,)),
    (9, (40,)),
    (12, (12, 12)),
    (30, (7, 64, 5)),
    (6, (8, 3, 9, 4, 8)),
]


@pytest.mark.parametrize(("n_inputs", "hidden_sizes"), SHAPES)
@pytest.mark.parametrize("rule", ["stratified", "uniform"])
def test_degrees_keep_to_their_range(n_inputs, hidden_sizes, rule):
    for seed in range(20):
        smallest = 1
        for m, size in zip(draw_degrees(n_inputs, hidden_sizes, rule, np.random.default_rng(seed)), hidden_sizes, strict=True):
            assert m.shape == (size,)
            assert m.dtype == np.int32
            assert m.min() >= smallest
            assert m.max() <= max(n_inputs - 1, 1)
            smallest = m.min()


@pytest.mark.parametrize(("n_inputs", "hidden_sizes"), SHAPES)
def test_stratified_degrees_reach_every_output_that_can_have_inputs(n_inputs, hidden_sizes):
    for seed in range(20):
        connectivity = draw_connectivity(n_inputs, hidden_sizes, "random", "stratified", np.random.default_rng(seed))
        masks = reference.masks(connectivity.ordering, connectivity.degrees)
        paths = np.eye(n_inputs)
        for mask in masks:
            paths = mask @ paths
        reached = (paths > 0).any(axis=1)
        assert (reached == (connectivity.ordering > 1)).all()


def test_uniform_degrees_do_leave_outputs_without_input():
    """The paper's rule has the gap that the default closes; if it had not, the default would need no reason."""
    m = draw_degrees(784, (500,), "uniform", np.random.default_rng(0))[0]
    assert m.min() > 1  # the output at place 2 sees nothing


@pytest.mark.parametrize(("n_inputs", "hidden_sizes"), SHAPES)
def test_product_of_masks_is_autoregressive(n_inputs, hidden_sizes):
    connectivity = draw_connectivity(n_inputs, hidden_sizes, "random", "uniform", np.random.default_rng(3))
    paths = np.eye(n_inputs)
    for mask in reference.masks(connectivity.ordering, connectivity.degrees):
        paths = mask @ paths
    m0 = connectivity.ordering
    assert (paths[m0[:, None] <= m0[None, :]] == 0).all()


@pytest.mark.parametrize(("n_inputs", "hidden_sizes"), SHAPES)
@pytest.mark.parametrize("rule", ["stratified", "uniform"])
def test_staircase_is_the_sorted_mask(n_inputs, hidden_sizes, rule):
    connectivity = draw_connectivity(n_inputs, hidden_sizes, "random", rule, np.random.default_rng(5))
    staircase = connectivity.staircase()
    masks = reference.masks(connectivity.ordering, connectivity.degrees)
    for l, (mask, n_live) in enumerate(zip(masks, staircase.n_live, strict=True)):
        in_order = mask[np.ix_(staircase.sorts[l + 1], staircase.sorts[l])]
        assert (in_order == (np.arange(mask.shape[1]) < n_live[:, None])).all()
        assert (np.diff(n_live) >= 0).all()
    assert (connectivity.ordering[staircase.sorts[0]] == np.arange(1, n_inputs + 1)).all()


def test_layers_of_equal_width_draw_different_degrees():
    for rule in ("stratified", "uniform"):
        first, second = draw_degrees(100, (200, 200), rule, np.random.default_rng(0))
        assert (first != second).any()
        assert (np.sort(first) != np.sort(second)).any()


def test_orderings():
    rng = np.random.default_rng(0)
    assert draw_ordering(4, "natural", rng).tolist() == [1, 2, 3, 4]
    assert draw_ordering(3, [3, 1, 2], rng).tolist() == [3, 1, 2]
    counts = np.zeros((4, 4))
    for _ in range(4000):
        counts[np.arange(4), draw_ordering(4, "random", rng) - 1] += 1
    assert chisquare(counts[0]).pvalue > 1e-4
    assert chisquare(counts[:, 0]).pvalue > 1e-4


def test_a_large_connectivity_is_quick_and_small():
    tracemalloc.start()
    start = time.perf_counter()
    connectivity = draw_connectivity(1000, (8000, 8000), "random", "stratified", np.random.default_rng(0))
    connectivity.staircase()
    seconds = time.perf_counter() - start
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1000 * 8000 / 4  # no array of D x H
    assert seconds < 1  # some milliseconds; a guard against a quadratic step, not a benchmark


def test_connectivity_knows_its_sizes():
    connectivity = Connectivity(np.array([2, 1], np.int32), (np.array([1, 1, 1], np.int32),))
    assert connectivity.n_inputs == 2
    assert connectivity.hidden_sizes == (3,)
