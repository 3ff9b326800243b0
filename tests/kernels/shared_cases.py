"""A random net whose masks share parameters, for the tests of the kernels, and its loss written out in original order.

The formulas here work on the original order of units, with masks written out: no staircase, no panel, no sorting.
"""

from __future__ import annotations

import itertools
from types import ModuleType
from typing import Any

import numpy as np
from kernel_cases import Options, Trained, copied, new_update, pack_bits, room, run, written_out_masks
from variable_cases import levels_and_inputs, nll_of_levels, places_of, variables_of

from made_fast.kernels import layout as panels
from made_fast.kernels import records
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
from made_fast.network.architecture import Architecture
from made_fast.network.masks import MaskRule, draw_connectivity

K = 3
N_ROWS = 12
Shape = tuple[int | str, tuple[int, ...], str, bool]  # D or variables, hidden sizes, direct connections, connectivity weights


class SharedCase(Trained):
    """A random net with parameters that its masks share, and rows for it. The parameters are the same in both types."""

    kernel = "train_shared"
    SMALL = (9, (9, 8, 7), "all", True)
    LARGE = (100, (65, 33), "all", True)
    SHAPES = (
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
    )

    def __init__(self, shape: Shape, dtype: str, activation: str | None = None, n_masks: int = K) -> None:
        inputs, hidden, self.direct, has_u = shape
        self.variables = variables_of(inputs)
        D = inputs if isinstance(inputs, int) else self.variables.n_inputs
        rng = np.random.default_rng([D, *hidden, has_u])
        activation = activation or ACTIVATIONS[1 + (D + sum(hidden)) % 5]
        network = Architecture(D, hidden, activation, self.direct, has_u, self.variables)
        self.n_places = network.n_variables
        base = draw_connectivity(self.n_places, hidden, "random", "stratified", rng, network.variables)
        self.mask_set = MaskRule(base, "stratified", "both", network.variables).mask_set(n_masks, rng)
        self.orders, *layouts = network.tables(self.mask_set)
        self.layouts = panels.Layout(*layouts)
        self.layers = self.layouts.layers[0]  # but for its offsets, those of every mask
        self.chain = panels.n_chain(self.layers)
        self.table = panels.make_shared_layout(self.layers, has_u)
        self.dtype = dtype
        self.shared = room(panels.n_shared(self.table, self.layers), dtype, 0)
        for l, (W, b, U) in enumerate(self.dense(self.shared)):
            W[:] = rng.normal(size=W.shape).astype("f4") * 1.5 / np.sqrt(len(W)).astype("f4")
            if l < self.chain:
                b[:] = rng.normal(size=b.shape).astype("f4")
            U[:] = rng.normal(size=U.shape).astype("f4") / np.sqrt(D).astype("f4")
        self.parameters = self.shared
        self.derived = np.zeros(len(self.shared), bool)
        self.bias, self.padding = np.zeros(len(self.shared), bool), np.ones(len(self.shared), bool)
        for row in self.table[: self.chain]:
            self.bias[row[SHARED_BIAS] :][: row[ROW]] = True
        for part in itertools.chain(*self.dense(self.padding)):
            part[:] = False
        self.x = self.levels = (rng.random((N_ROWS, D)) < 0.4).astype(np.uint8)
        self.x[0] = 1  # so that every input is on somewhere
        if self.variables is not None:
            self.levels, self.x = levels_and_inputs(self.variables, N_ROWS, rng)
        self.weights = rng.normal(size=N_ROWS) + 0.5  # some are negative
        self.kept = rng.random((64, max(1, self.layers[: self.chain - 1, N_PANELS].sum()) * PANEL)) < 0.6

    def runs(self) -> Any:
        return panels.shared_runs_of(self.table, self.layers)

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
        inputs, outputs = places_of(connectivity.ordering, self.variables)
        sorts = [np.argsort(m, kind="stable") for m in (inputs, *connectivity.degrees, outputs)]
        fed = [*range(self.chain), *(l for l in range(self.chain) if self.layers[l, DIRECT] > 0)]
        masks = written_out_masks(connectivity, self.direct, self.variables)
        return [
            (M, np.ix_(sorts[l if i < self.chain else 0], sorts[l + 1]))
            for i, (M, l) in enumerate(zip(masks, fed, strict=True))
        ]

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

    def plan(self, several: bool, n_steps: int = 4) -> tuple[Any, Any]:
        """Return the rows of the steps, and their groups."""
        D = self.n_places
        if n_steps != 4:
            groups = [(4 * i, 4 * i + 4, i % len(self.mask_set), D, i, 4) for i in range(n_steps)]
            return np.arange(4 * n_steps) * 5 % N_ROWS, np.array(groups)
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
        *,
        n_steps: int = 4,
        steps: slice | None = None,
        n_ranks: int = 1,
        plan: Any = None,
        **constants: float,
    ) -> dict[str, Any]:
        """Return the arguments of ``train_shared`` but the crew, for some steps of a plan, or else of ``n_steps``."""
        rows, groups = plan or self.plan(options.several, n_steps)
        steps = steps or slice(n_steps)
        groups = groups[np.isin(groups[:, STEP], np.arange(len(groups))[steps])]
        n_steps, started = len(np.unique(groups[:, STEP])), steps.start or 0
        groups[:, STEP] -= started  # of a copy
        with_gradient = options.gradient or options.several or options.clip > 0
        length = max(panels.n_parameters(self.layouts.of_mask(k)) for k in range(len(self.mask_set)))
        reals, ints = panels.shared_train_workspace(self.layouts, self.table, 8, n_ranks)
        return {
            "shared": records.Shared(copied(self.shared), self.table),
            "masks": Masks(self.orders, *self.layouts),
            "batches": Batches(pack_bits(self.x), self.weights if options.weighted else np.zeros(0), rows, 8),
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

    def loss(self, shared: Any, options: Options) -> float:
        """Return the loss of the first step in original order, formula by formula."""
        rows, groups = self.plan(options.several)
        groups = groups[groups[:, STEP] == 0]
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
            widths = np.ones(len(x[0]), int) if self.variables is None else self.variables.widths
            nll = nll_of_levels(h, self.levels[rows[first:stop]], widths)
            counts = self.mask_set.orderings[k] <= n_places
            weights = self.weights[rows[first:stop]] if options.weighted else np.ones(stop - first)
            total += weights @ nll[:, counts].sum(axis=1) / n_rows
        return total
