"""The architecture that all networks of a model have in common, with the tables and workspaces that follow from it.

Not here: masks (``masks.py``), parameters and arithmetic on them (``network.py``).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from made_fast.kernels import layout as panels
from made_fast.kernels.records import BINARY, Masks, Scratch
from made_fast.network.masks import Connectivity, MaskSet, Staircase, Variables, least_degree
from made_fast.system.once import once

__all__ = ["BLOCK", "Architecture", "Prepared", "order_of", "scratch"]

BLOCK = 96
"""Rows that a kernel takes through all layers at once: sixteen register tiles, so the activations stay in the L2 cache."""

MOST_KEPT = 8 << 20
"""Bytes of scratch that a thread keeps at the most."""

BOUNDED = ("tanh", "sigmoid", "softsign")
"""Activations that are at most 1 in size."""

ROUNDING = 16
"""Inexact sums may exceed the bound by this factor."""


class Prepared(NamedTuple):
    """A connectivity with its tables."""

    connectivity: Connectivity
    staircase: Staircase
    layout: panels.Layout


@dataclass(frozen=True)
class Architecture:
    """Sizes, activation and kinds of connections: what all networks of a model have in common.

    Attributes
    ----------
    n_inputs : int
    hidden_sizes : tuple of int
    activation : str
        Of the hidden layers.
    direct : {"none", "output", "all"}
        Where direct connections A from the inputs lead (section 4.4 of the paper): nowhere; to the output layer; to every
        layer but the first. Without a hidden layer the output layer reads the inputs anyway.
    connectivity_weights : bool
        Whether every layer has U: ``h = g((W * M) x + (U * M) 1 + b)`` (section 4.3).
    variables : Variables or None
        What the inputs are indicators of; None: each is a binary variable.
    """

    n_inputs: int
    hidden_sizes: tuple[int, ...]
    activation: str
    direct: str = "none"
    connectivity_weights: bool = False
    variables: Variables | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, field.name) for field in fields(self))

    @once
    def n_variables(self) -> int:
        """How many variables there are, which have places in an ordering."""
        return self.n_inputs if self.variables is None else len(self.variables.widths)

    @property
    def n_context(self) -> int:
        """Number of inputs that are not modelled."""
        return 0 if self.variables is None else self.variables.n_context

    @property
    def n_outputs(self) -> int:
        """Number of logits."""
        return self.n_inputs - self.n_context

    @property
    def least_degree(self) -> int:
        """The smallest degree of a hidden unit."""
        return least_degree(self.variables)

    def staircase(self, masks: MaskSet | Connectivity) -> Staircase:
        """Return the staircase of one connectivity or of K."""
        return masks.staircase(self.direct, self.variables)

    def tables(self, masks: MaskSet) -> Masks:
        """Return the tables of K connectivities, as the kernels take them."""
        staircase = self.staircase(masks)
        found = staircase.n_live, self.activation, staircase.direct, staircase.variables
        return Masks(order_of(staircase), *panels.make_layouts(self.n_inputs, *found))

    def layout(self, staircase: Staircase) -> panels.Layout:
        """Return the tables of a staircase of one connectivity."""
        found = staircase.n_live, self.activation, staircase.direct, staircase.variables
        return panels.make_layout(self.n_inputs, *found)

    def prepared(self, connectivities: Sequence[Connectivity]) -> list[Prepared]:
        """Return connectivities with their tables, which are made for all of them at once."""
        staircase = self.staircase(MaskSet.of(connectivities))
        found = staircase.n_live, self.activation, staircase.direct, staircase.variables
        layouts = panels.make_layouts(self.n_inputs, *found)
        return [Prepared(each, staircase[k], layouts.of_mask(k)) for k, each in enumerate(connectivities)]

    @once
    def _no_layout(self) -> panels.Layout:
        """Return a layout with every weight live, for sizes that do not depend on the connectivity."""
        full = [np.full(n, below, np.int32) for below, n in pairwise((self.n_inputs, *self.hidden_sizes, self.n_outputs))]
        direct = [self.has_direct(l) for l in range(len(full))]
        extra = [np.full(len(live), self.n_inputs, np.int32) if d else None for live, d in zip(full, direct, strict=True)]
        table = BINARY if self.variables is None else self.variables.table(np.arange(self.n_variables)[None])[0]
        return panels.make_layout(self.n_inputs, full, self.activation, extra, table)

    def may_overflow(self, parameters: NDArray[Any]) -> bool:
        """Say whether arithmetic on these parameters can leave the range of their type, by a coarse but cheap bound."""
        largest = max(abs(float(parameters.min())), abs(float(parameters.max())))
        most = h = 1.0  # of any sum so far, of any unit of the layer below
        for below in (self.n_inputs, *self.hidden_sizes):
            z = largest * (below * h + below + self.n_inputs + 1) + 1  # W, U, A, b; softplus may be larger than z by log 2
            most, h = max(z, most), 1.0 if self.activation in BOUNDED else z  # a NaN stays one, and says yes
        return not most * self.n_inputs * ROUNDING < float(np.finfo(parameters.dtype).max)

    def has_direct(self, l: int) -> bool:
        """Say whether layer l of the chain has direct connections."""
        last = len(self.hidden_sizes)
        return l > 0 and (self.direct == "all" or (self.direct == "output" and l == last))

    @once
    def shared_layout(self) -> panels.SharedLayout:
        """Where each parameter stands when they are shared."""
        return panels.make_shared_layout(self.layers, self.connectivity_weights)

    @once
    def layers(self) -> NDArray[np.int64]:
        """Table of layers with every weight live: sizes are right for every connectivity, offsets for none."""
        return self._no_layout.layers

    @once
    def chunk_rows(self) -> int:
        """Rows that a thread takes at a time, for any number of threads: whole blocks, about a millisecond of work."""
        blocks = 100_000_000 // (BLOCK * (self.n_packed + 2000))
        return BLOCK * min(max(blocks, 1), 64)

    @once
    def walk_room(self) -> tuple[int, int]:
        """Sizes of the scratch of ``Network.walk``, for a block of rows."""
        return panels.sample_workspace(self._no_layout, BLOCK)

    @once
    def evidence_room(self) -> tuple[int, int]:
        """Sizes of the scratch of ``Network.walk_levels``, for a block of rows."""
        return panels.walk_workspace(self._no_layout, BLOCK)

    @once
    def score_room(self) -> tuple[int, int]:
        """Sizes of the scratch of ``Network.score`` for one row, without :attr:`loss_room`."""
        reals, ints = panels.score_workspace(self._no_layout, 1)
        return reals - self.loss_room, ints

    @once
    def row_room(self) -> tuple[int, int]:
        """Sizes of the scratch of ``Network.score_row``."""
        return panels.row_workspace(self._no_layout)

    @once
    def loss_room(self) -> int:
        """How many more numbers the scratch of ``Network.score`` has, whatever the number of rows."""
        return panels.loss_room(self._no_layout)

    def train_room(self, batch_size: int, n_ranks: int, *, shared: bool) -> tuple[int, int]:
        """Return the sizes of the scratch of training steps on parameters of one connectivity or shared ones."""
        asked = batch_size, n_ranks, shared
        room = self._rooms.get(asked)
        if room is None:
            if shared:
                layers, n_live, panel_start, variables = self._no_layout
                layouts = panels.Layout(layers[None], n_live[None], panel_start[None], variables[None])
                room = panels.shared_train_workspace(layouts, self.shared_layout, batch_size, n_ranks)
            else:
                room = panels.train_workspace(self._no_layout, batch_size, n_ranks)
            self._rooms[asked] = room
        return room

    @once
    def _rooms(self) -> dict[tuple[int, int, bool], tuple[int, int]]:
        """Sizes of scratch by what was asked for: to compute them takes a hundredth of a small call of ``partial_fit``."""
        return {}

    @once
    def n_shared(self) -> int:
        """Length of the vector of shared parameters."""
        return panels.n_shared(self.shared_layout, self.layers)

    @once
    def n_packed(self) -> int:
        """Length that is enough for the packed parameters of any connectivity."""
        return panels.n_parameters(self._no_layout)


def order_of(staircase: Staircase) -> NDArray[np.int32]:
    """Return the original numbers of inputs and hidden units, sorted by degree, in one vector for each connectivity.

    Those of the outputs, too, if they are fewer than the inputs.
    """
    fewer = staircase.sorts[-1].shape[-1] < staircase.sorts[0].shape[-1]
    return np.concatenate(staircase.sorts if fewer else staircase.sorts[:-1], axis=-1).astype(np.int32)


_kept = threading.local()
"""The scratch ``raw`` that a thread keeps for its next call."""


def scratch(reals: int, ints: int, dtype: np.dtype[Any]) -> Scratch:
    """Return a workspace, not initialised, for a kernel that this thread calls; the next call gets it too.

    Memory fresh from the system costs a page fault every 4 KB, which costs up to a tenth of the time of scoring. The same
    workspace as last time takes a sixth of the time of views of it, which is 0.6 of 10 us of a small row's score.
    """
    asked = reals, ints, dtype
    if asked == getattr(_kept, "asked", None):
        found: Scratch = _kept.found
        return found
    start = -(-reals * dtype.itemsize // 64) * 64  # of the integers
    n = start + 4 * ints
    raw = getattr(_kept, "raw", None)
    if raw is None or len(raw) < n:
        raw = panels.aligned_empty(n, np.uint8)
    found = Scratch(raw[: reals * dtype.itemsize].view(dtype), raw[start:n].view(np.int32))
    if n <= MOST_KEPT:
        _kept.raw, _kept.asked, _kept.found = raw, asked, found
    return found
