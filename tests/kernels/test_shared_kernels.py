"""Parameters that several connectivities share: every implementation against the float64 reference, and that against formulas.

The formulas here work on the original order of units, with masks written out: no staircase, no panel, no sorting.
"""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
from kernel_cases import (
    activations,
    assert_close,
    assert_same,
    both_types,
    check_a_rank_that_waits,
    check_called_off,
    compiled,
    copied,
    everywhere,
    native,
    new_update,
    optimizers,
    pack_bits,
    room,
    run,
    run_crew,
    written_out_masks,
)

from made_fast.kernels import layout as panels
from made_fast.kernels import records, reference
from made_fast.kernels.layout import (
    ACTIVATION,
    ACTIVATIONS,
    DIRECT,
    N_IN,
    N_OUT,
    N_PANELS,
    PANEL,
    ROW,
    SHARED_BIAS,
    SHARED_U,
    SHARED_WEIGHTS,
    STEP,
)
from made_fast.kernels.records import Batches, Dropout, Masks, Net, Scratch, TrainScratch
from made_fast.kernels.reference import dense
from made_fast.network.masks import MaskRule, draw_connectivity

K = 3
N_ROWS = 12
# (D, hidden sizes, direct connections, connectivity weights)
SHAPES = [
    (1, (), "none", True),
    (1, (7,), "output", True),
    (9, (), "none", False),
    (9, (7,), "output", False),
    (9, (70,), "none", True),
    (9, (9, 8, 7), "all", True),
    (65, (), "output", True),
    (65, (7,), "none", False),
    (65, (65, 33), "all", False),
    (65, (9, 8, 7), "output", True),
    (100, (70,), "output", True),
    (100, (65, 33), "none", False),
    (100, (65, 33), "all", True),
    (100, (9, 8, 7), "all", False),
]
SMALL = (9, (9, 8, 7), "all", True)
LARGE = (100, (65, 33), "all", True)
Shape = tuple[int, tuple[int, ...], str, bool]


class Options(NamedTuple):
    """What a run of ``train_shared`` may ask for beside an optimiser."""

    several: bool = False  # groups in a step, some with fewer places
    clip: float = 0.0
    dropout: float = 0.0
    weighted: bool = False
    gradient: bool = False  # give room for the gradient even where none is needed


PLAIN = Options()
FULL = Options(several=True, clip=0.5, dropout=0.4, weighted=True)
SEVERAL = Options(several=True, weighted=True)
CLIPPED = Options(clip=0.5, dropout=0.4)
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
two_shapes = pytest.mark.parametrize("shape", [SMALL, LARGE], ids=str)
all_options = pytest.mark.parametrize(
    "options",
    [PLAIN, PLAIN._replace(gradient=True), SEVERAL, CLIPPED, FULL],
    ids=["plain", "gradient", "several", "clipped", "full"],
)


class Case:
    """A random net with parameters that its masks share, and rows for it. The parameters are the same in both types."""

    def __init__(self, shape: Shape, dtype: str, activation: str | None = None, n_masks: int = K) -> None:
        D, hidden, self.direct, has_u = shape
        rng = np.random.default_rng([D, *hidden, has_u])
        base = draw_connectivity(D, hidden, "random", "stratified", rng)
        self.mask_set = MaskRule(base, "stratified", "both").mask_set(n_masks, rng)
        staircase = self.mask_set.staircase(self.direct)
        activation = activation or ACTIVATIONS[1 + (D + sum(hidden)) % 5]
        self.layouts = panels.make_layouts(D, staircase.n_live, activation, staircase.direct)
        self.layers = self.layouts.layers[0]  # but for its offsets, those of every mask
        self.chain = panels.n_chain(self.layers)
        self.table = panels.make_shared_layout(self.layers, has_u)
        self.orders = np.concatenate(staircase.sorts[:-1], axis=1).astype(np.int32)
        self.dtype = dtype
        self.shared = room(panels.n_shared(self.table, self.layers), dtype, 0)
        for l, (W, b, U) in enumerate(self.dense(self.shared)):
            W[:] = rng.normal(size=W.shape).astype("f4") * 1.5 / np.sqrt(len(W)).astype("f4")
            if l < self.chain:
                b[:] = rng.normal(size=b.shape).astype("f4")
            U[:] = rng.normal(size=U.shape).astype("f4") / np.sqrt(D).astype("f4")
        self.x = (rng.random((N_ROWS, D)) < 0.4).astype(np.uint8)
        self.x[0] = 1  # so that every input is on somewhere
        self.weights = rng.normal(size=N_ROWS) + 0.5  # some are negative
        self.kept = rng.random((64, max(1, self.layers[: self.chain - 1, N_PANELS].sum()) * PANEL)) < 0.6

    def dense(self, shared: Any) -> list[tuple[Any, Any, Any]]:
        """Return (W, b, U) of every layer in original order as views of ``shared``, with no rows where there are none."""
        found = []
        for layer, row in zip(self.layers, self.table, strict=True):
            n_in, n_out, stride = layer[N_IN], layer[N_OUT], row[ROW]
            W, U = (
                shared[at : at + n_in * stride * (at >= 0)].reshape(-1, stride)[:, :n_out]
                for at in row[[SHARED_WEIGHTS, SHARED_U]]
            )
            found.append((W, shared[row[SHARED_BIAS] :][: n_out * (row[SHARED_BIAS] >= 0)], U))
        return found

    def sorted_layers(self, k: int) -> list[tuple[Any, Any]]:
        """Return, for every layer under mask k, its mask in original order and what sorts that."""
        connectivity = self.mask_set[k]
        sorts = [np.argsort(m, kind="stable") for m in (connectivity.ordering, *connectivity.degrees, connectivity.ordering)]
        fed = [*range(self.chain), *(l for l in range(self.chain) if self.layers[l, DIRECT] > 0)]
        masks = written_out_masks(connectivity, self.direct)
        return [
            (M, np.ix_(sorts[l if i < self.chain else 0], sorts[l + 1]))
            for i, (M, l) in enumerate(zip(masks, fed, strict=True))
        ]

    def is_bias(self) -> Any:
        """Return which of the shared parameters are biases, fill-up included."""
        found = np.zeros(len(self.shared), bool)
        for row in self.table[: self.chain]:
            found[row[SHARED_BIAS] :][: row[ROW]] = True
        return found

    def live(self, masks: range) -> Any:
        """Return which of the shared parameters count under any of these masks."""
        found = np.zeros(len(self.shared), bool)
        for k in masks:
            for (W, b, U), (M, _) in zip(self.dense(found), self.sorted_layers(k), strict=True):
                W |= M
                b[:] = True
                U |= M[: len(U)]
        return found

    def pack(self, module: ModuleType, k: int, shared: Any) -> Net:
        """Return the network under mask k."""
        layout = self.layouts.of_mask(k)
        net = Net(room(panels.n_parameters(layout), shared.dtype), *layout)
        run(module, "pack", records.Shared(shared, self.table), self.orders[k], net)
        return net

    def plan(self, several: bool) -> tuple[Any, Any]:
        """Return the rows of four steps, and their groups."""
        D = len(self.x[0])
        half = (D + 1) // 2
        steps = [[(0, 8, D)], [(1, 8, half)], [(2, 5, D)], [(0, 1, D)]]
        if several:
            steps = [[(0, 5, D), (1, 3, half)], [(2, 8, D)], [(1, 1, 1), (2, 4, D), (1, 2, half)], [(0, 6, half), (2, 1, D)]]
        groups, first = [], 0
        for i, step in enumerate(steps):
            for k, n, n_places in step:
                groups.append((first, first + n, k % len(self.mask_set), n_places, i, sum(n for _, n, _ in step)))
                first += n
        return np.arange(first) * 5 % N_ROWS, np.array(groups)

    def keep(self, n: int, dropout: float) -> Any:
        """Return which hidden units stay, n rows of words; the bits of fill-up units are whatever they are."""
        return pack_bits(self.kept[:n]) if dropout and self.chain > 1 else np.zeros((0, 1), np.uint64)

    def arguments(
        self,
        optimizer: str,
        options: Options,
        sparse: bool = True,
        steps: slice = slice(4),
        plan: Any = None,
        n_ranks: int = 1,
        **constants: float,
    ) -> dict[str, Any]:
        """Return the arguments of ``train_shared`` but the crew, in order, for some of the steps planned."""
        rows, groups = self.plan(options.several) if plan is None else (plan[0], plan[1].copy())
        groups = groups[np.isin(groups[:, STEP], np.arange(len(groups))[steps])]
        n_steps, started = len(np.unique(groups[:, STEP])), steps.start or 0
        groups[:, STEP] -= started
        with_gradient = options.gradient or options.several or options.clip > 0
        length = max(panels.n_parameters(self.layouts.of_mask(k)) for k in range(len(self.mask_set)))
        reals, ints = panels.shared_train_workspace(self.layouts, self.table, 8, n_ranks)
        return {
            "shared": records.Shared(copied(self.shared), self.table),
            "masks": Masks(self.orders, *self.layouts),
            "batches": Batches(pack_bits(self.x), self.weights if options.weighted else np.zeros(0), rows, 8, sparse),
            "groups": groups,
            "dropout": Dropout(self.keep(len(rows), options.dropout), options.dropout),
            "update": new_update(optimizer, len(self.shared), self.dtype, 3 + started, clip=options.clip, **constants),
            "scratch": TrainScratch(
                room(len(self.shared) if with_gradient else 0, self.dtype),
                room(length, self.dtype),
                room(length, self.dtype, 0),
                *Scratch(room(reals, self.dtype), room(ints, np.int32, -7)),
            ),
            "nll": room(n_steps, "float64"),
        }

    def train(self, module: ModuleType, *args: Any, n_ranks: int = 1, **kwargs: Any) -> tuple[Any, Any, Any]:
        """Return (losses, shared, state); what to do is as for ``arguments``."""
        return self.train_with(module, self.arguments(*args, n_ranks=n_ranks, **kwargs), n_ranks)

    def train_with(self, module: ModuleType, arguments: dict[str, Any], n_ranks: int = 1) -> tuple[Any, Any, Any]:
        """Return (losses, shared, state)."""
        run_crew(module, "train_shared", *arguments.values(), n_ranks=n_ranks)
        return arguments["nll"], arguments["shared"].values, arguments["update"].state

    def loss(self, shared: Any, rows: Any, groups: Any, options: Options) -> float:
        """Return the loss of one step in original order, formula by formula."""
        total, keep = 0.0, self.keep(len(rows), options.dropout)
        words = np.concatenate([[0], np.cumsum(self.layers[: self.chain, N_PANELS])])
        for first, stop, k, n_places, _, n_rows in groups:
            x, net = self.x[rows[first:stop]].astype(float), self.sorted_layers(k)
            parameters = self.dense(shared)
            h = x
            for l in range(self.chain):
                (W, b, U), (M, (_, units)) = parameters[l], net[l]
                z = h @ (W * M) + b + (U * M[: len(U)]).sum(axis=0)
                if direct := self.layers[l, DIRECT]:
                    z += x @ (parameters[direct][0] * net[direct][0])
                h = dense.activate(z, self.layers[l, ACTIVATION])
                if len(keep) and l + 1 < self.chain:
                    kept = np.zeros_like(h)
                    part = np.ascontiguousarray(keep[first:stop, words[l] : words[l + 1]])
                    kept[:, units[0]] = dense.unpack_bits(part, h.shape[1]) / (1 - options.dropout)
                    h *= kept
            nll = np.logaddexp(0, h) - x * h
            counts = self.mask_set.orderings[k] <= n_places
            weights = self.weights[rows[first:stop]] if options.weighted else np.ones(stop - first)
            total += weights @ nll[:, counts].sum(axis=1) / n_rows
        return total


case = lru_cache(Case)


@lru_cache
def right(shape: Shape, optimizer: str, options: Options, activation: str | None = None) -> tuple[Any, Any, Any]:
    return case(shape, "float64", activation).train(reference, optimizer, options)


def integers(n: int, seed: int) -> Any:
    """Return n small integers as reals: all their sums are exact, so that results can be compared bit for bit."""
    return np.random.default_rng(seed).integers(1, 9, n).astype(float)


# ---------------------------------------------------------------------------------------------------------------------------
# pack
# ---------------------------------------------------------------------------------------------------------------------------


@everywhere
@both_types
@shapes
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
    c, read_only = case(SMALL, "float32"), copied(case(SMALL, "float32").shared)
    read_only.flags.writeable = False
    assert np.array_equal(c.pack(module, 1, read_only).theta, c.pack(module, 1, c.shared).theta)


# ---------------------------------------------------------------------------------------------------------------------------
# train_shared
# ---------------------------------------------------------------------------------------------------------------------------


def check_run(c: Case, found: Any, expected: Any) -> None:
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, c.dtype, "trained")


@everywhere
@both_types
@shapes
def test_four_steps_of_every_shape(module, dtype, shape):
    c = case(shape, dtype)
    for optimizer, options, sparse in (("adam", FULL, True), ("sgd", PLAIN, False)):
        found = c.train(module, optimizer, options, sparse=sparse)
        check_run(c, found, right(shape, optimizer, options))
        fill_up = np.ones(len(c.shared), bool)
        for part in c.dense(fill_up):
            for a in part:
                a[:] = False
        assert not found[1][fill_up].any()
        assert not found[2][:, fill_up].any()


@everywhere
@both_types
@optimizers
@all_options
def test_four_steps_of_every_optimizer(module, dtype, optimizer, options):
    c = case(SMALL, dtype)
    check_run(c, c.train(module, optimizer, options), right(SMALL, optimizer, options))


@everywhere
@both_types
@activations
def test_gradient_of_every_shared_parameter_by_central_differences(module, dtype, activation):
    """All at once: direct connections, connectivity weights, dropout, row weights, two masks, fewer places."""
    c = case(SMALL, dtype, activation)
    (loss, expected), options = differences(activation), SEVERAL._replace(dropout=0.4)
    for sparse in (False, True):
        nll, shared, state = c.train(module, "gradient", options, sparse=sparse, steps=slice(1))
        assert_close(nll / 8, loss, dtype, "difference")
        assert_close(state[0], expected, dtype, "difference")
        assert np.array_equal(shared, c.shared)
        _, shared, _ = c.train(module, "sgd", options, sparse=sparse, steps=slice(1), lr=1, a=0, decay=0)
        assert_close(shared, c.shared - expected, dtype, "difference")


@lru_cache
def differences(activation: str) -> tuple[float, Any]:
    """Return the loss of the first step and its gradient, by central differences."""
    c, options = case(SMALL, "float64", activation), SEVERAL._replace(dropout=0.4)
    rows, groups = c.plan(several=True)
    args = rows, groups[groups[:, 4] == 0], options
    shared, gradient = c.shared.copy(), np.zeros(len(c.shared))
    for i in np.flatnonzero(shared):
        for sign in (1, -1):
            shared[i] = c.shared[i] + sign * 4e-6
            gradient[i] += sign * c.loss(shared, *args) / 8e-6
        shared[i] = c.shared[i]
    return c.loss(shared, *args), gradient


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
@optimizers
def test_decay_is_apart_from_the_gradient_and_spares_biases(module, dtype, optimizer):
    """Rows that weigh nothing leave the weights to the decay: every W, A and U, dead or live."""
    c = case(SMALL, dtype)
    groups = np.array([(0, 8, 1, 9, 0, 8)])
    fixed = c.arguments(optimizer, PLAIN, plan=(np.arange(8), groups), lr=0.5, a=0.9, decay=0.25)
    fixed["batches"] = fixed["batches"]._replace(weights=np.zeros(N_ROWS))
    _, shared, state = c.train_with(module, fixed)
    rate = 0.5 / (1 + 0.9 * 3) if optimizer in ("sgd", "momentum") else 0.5
    assert_close(shared, np.where(c.is_bias(), 1, 1 - 0.25 * rate) * c.shared, dtype, "trained")
    assert np.array_equal(shared[c.is_bias()], c.shared[c.is_bias()])
    assert not state.any()


@everywhere
@both_types
@two_shapes
def test_a_long_gradient_is_cut_to_the_clip_and_keeps_its_direction(module, dtype, shape):
    c, once = case(shape, dtype), {"steps": slice(1), "lr": 1, "a": 0, "decay": 0}
    _, _, (gradient,) = case(shape, "float64").train(reference, "gradient", SEVERAL, **once)
    norm = np.linalg.norm(gradient)
    for clip in (norm / 50, norm * 0.99, norm * 1.01):
        options = SEVERAL._replace(clip=clip)
        for optimizer in ("gradient", "sgd"):
            _, shared, state = c.train(module, optimizer, options, **once)
            step = state[0] if optimizer == "gradient" else c.shared - shared
            assert_close(step, gradient * min(1, clip / norm), dtype, "trained")


@everywhere
@both_types
def test_keeping_every_unit_is_no_dropout(module, dtype):
    c = case(SMALL, dtype)
    without, kept = (c.arguments("adam", SEVERAL) for _ in range(2))
    words = c.layers[: c.chain - 1, N_PANELS].sum()
    kept["dropout"] = Dropout(np.full((len(kept["batches"].rows), words), 2**64 - 1, np.uint64), 0.0)
    assert_close(c.train_with(module, kept)[1], c.train_with(module, without)[1], dtype, "trained")


@everywhere
@both_types
def test_certain_logits_give_no_nan_when_half_of_the_places_count(module, dtype):
    c, found = case((100, (7,), "output", True), dtype), []
    for implementation in (module, reference):
        fixed = c.arguments("gradient", SEVERAL, plan=(np.arange(8), np.array([(0, 8, 1, 50, 0, 8)])))
        b = c.dense(fixed["shared"].values)[1][1]
        b[:] = np.where(np.arange(100) % 3, 200, -200)
        found.append(c.train_with(implementation, fixed))
    check_run(c, *found)
    assert found[1][2].any()


@compiled
@both_types
@pytest.mark.parametrize("options", [PLAIN, FULL], ids=["plain", "full"])
@pytest.mark.parametrize("shape", [(1, (7,), "output", True), SMALL, (65, (), "none", True), LARGE], ids=str)
def test_bits_do_not_depend_on_sparse_or_dense(module, dtype, options, shape):
    c = case(shape, dtype)
    assert_same(*(c.train(module, "adam", options, sparse=sparse) for sparse in (False, True)))


@everywhere
@both_types
@all_options
def test_bits_do_not_depend_on_where_a_run_is_cut(module, dtype, options):
    c = case(SMALL, dtype)
    whole = c.train(module, "adam", options, sparse=False)
    first, second = (c.arguments("adam", options, sparse=False, steps=steps) for steps in (slice(0, 2), slice(2, 4)))
    head, shared, state = c.train_with(module, first)
    second["shared"].values[:], second["update"].state[:] = shared, state
    tail, *rest = c.train_with(module, second)
    assert_same((np.concatenate([head, tail]), *rest), whole)


@native
@both_types
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("options", [PLAIN, CLIPPED, FULL], ids=["plain", "clipped", "full"])
@pytest.mark.parametrize("shape", [(1, (7,), "output", True), (65, (), "none", True), SMALL, LARGE], ids=str)
def test_bits_do_not_depend_on_the_number_of_threads(module, dtype, sparse, options, shape):
    c = case(shape, dtype)
    for optimizer in ("adadelta", "sgd"):
        alone = c.train(module, optimizer, options, sparse=sparse)
        for n_ranks in (2, 3):
            assert_same(c.train(module, optimizer, options, sparse=sparse, n_ranks=n_ranks), alone)


@compiled
@both_types
@pytest.mark.parametrize("optimizer", ["momentum", "adadelta", "rmsprop", "adam"])
@pytest.mark.parametrize("options", [PLAIN, FULL], ids=["plain", "full"])
def test_state_that_decays_ends_at_zero_and_not_among_the_denormals(module, dtype, optimizer, options):
    c, tiny = case(SMALL, dtype), np.finfo(dtype).tiny
    fixed = c.arguments(optimizer, options)
    fixed["batches"] = fixed["batches"]._replace(weights=np.zeros(N_ROWS))
    fixed["update"].state[:] = 1.5 * tiny
    for _ in range(5):
        fixed["scratch"].dtheta[:] = 0
        _, _, state = c.train_with(module, fixed)
    assert ((state == 0) | (state >= tiny)).all()
    assert (state == 0).any()


@native
@pytest.mark.parametrize("options", [PLAIN, FULL], ids=["plain", "full"])
def test_a_rank_that_waits_in_vain_can_be_called_off(module, options):
    c = case(SMALL, "float32")
    fixed = c.arguments("momentum", options, n_ranks=2)
    check_a_rank_that_waits(module, "train_shared", *fixed.values())
    assert np.array_equal(fixed["shared"].values, c.shared)
    assert not fixed["update"].state.any()


@native
@pytest.mark.parametrize("n_ranks", [1, 2, 3])
@pytest.mark.parametrize("options", [PLAIN, Options(clip=0.5)], ids=["plain", "clipped"])
def test_training_that_is_called_off_leaves_every_weight_at_a_step(module, options, n_ranks):
    n_steps, c = 200, case(LARGE, "float32")
    groups = [(4 * i, 4 * i + 4, i % K, 100, i, 4) for i in range(n_steps)]
    plan = np.arange(4 * n_steps) * 5 % N_ROWS, np.array(groups)

    def begin(steps):
        fixed = c.arguments("momentum", options, steps=steps, plan=plan, n_ranks=n_ranks)
        return [*fixed.values()], fixed["shared"].values, fixed["update"].state

    check_called_off(module, "train_shared", begin, n_steps, n_ranks)
