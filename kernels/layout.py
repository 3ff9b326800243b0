"""Where every weight stands in memory: the panel layout and the shared layout, the same for all implementations.

Not here: orderings and degrees (``network/masks.py``), arithmetic on weights (the kernels), names of features. This file
turns the staircase (one vector of live counts per layer) into tables of offsets, and says how wide each buffer is.

Under one connectivity, parameters are one flat array ``theta``. For layer after layer it holds the panels, then the bias::

    theta = [ panel 0 | panel 1 | ... | bias ]  [ panel 0 | ... | bias ]  ...

Panel p of a layer holds the incoming weights of its sorted units 64 p .. 64 p + 63 as a contiguous ``(depth, 64)`` block,
where ``depth`` is the live count of its last unit. Units see prefixes of growing length, so a block has a zero corner: the
entry (k, j) with ``k >= n_live[j]`` is dead, is stored as 0 and stays 0. The last panel is filled up with units whose weights
and bias are 0 and stay 0.

Direct connections are layers too. After the layers 0 .. L of the chain come those that read the inputs and add to the sums of
a layer of the chain; their bias is 0 and stays 0.

Parameters that several connectivities share are one flat array ``shared``, in the original order of units. For layer after
layer it holds a dense W (n_in, stride), then b (stride), and with connectivity weights U (n_in, stride); a layer of direct
connections holds its weights only. Rows are filled up with 0 to whole vectors.

A latent mixture has one theta, and for each of K points biases of its own: behind theta come K tables, and, while it is
trained, E, whose R rows are as long as a table::

    [ theta | table 0 | ... | table K - 1 ] [ E ]

A table holds the biases of the layers of the chain, one layer after the other, in full panels. At point k, a layer's bias is
that of table k, not that of theta.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from made_fast.kernels.records import BINARY

__all__ = [
    "ACTIVATIONS", "MAX_FEATURES", "MAX_LAYERS", "ONE_HOT", "PANEL", "THERMOMETER", "Layout", "SharedLayout", "aligned_copy",
    "aligned_empty", "aligned_zeros", "copy_into", "dead_entries", "latent_train_workspace", "loss_room", "make_layout",
    "make_layouts", "make_shared_layout", "n_biases", "n_chain", "n_levels", "n_panels", "n_parameters", "n_shared",
    "of_points", "row_workspace", "sample_workspace", "score_workspace", "shared_train_workspace",
    "train_workspace", "walk_workspace", "width",
]  # fmt: skip

PANEL = 64
"""Units in a panel. A panel row is four AVX-512 vectors of float32: one register tile wide."""

ROWS_AT_ONCE = 4096
"""Most rows of a panel that ``dead_entries`` makes a mask of."""

COPIED_AT_ONCE = 1 << 18
"""Numbers that ``copy_into`` copies in one go. Memory fresh from the system can cost 9 us a page."""

MAX_LAYERS = 64
"""Most affine layers of the chain, and most layers of direct connections; native kernels keep small tables of that length."""

MAX_FEATURES = 64
"""Most features of a point; native kernels keep so many rows of 64 numbers on the stack."""

STRIP = 16
"""Rows of weights whose gradient native kernels sum at a time."""

STRIDE = 16
"""Rows of shared weights are filled up to a multiple of this many numbers: whole vectors at every CPU level."""

ACTIVATIONS = ("identity", "relu", "softplus", "tanh", "sigmoid", "softsign")
"""Activation codes are the positions in this tuple."""

N_IN, N_OUT, N_PANELS, WEIGHTS, BIAS, UNITS, PANELS, ACTIVATION, DIRECT, LAYER_COLUMNS = range(10)
"""Columns of ``Layout.layers``, and how many there are; ``native.h`` repeats this and what follows."""

SHARED_WEIGHTS, SHARED_BIAS, SHARED_U, ROW, IN_ORDER, OUT_ORDER, SHARED_COLUMNS = range(7)
"""Columns of ``SharedLayout``."""

FIRST, STOP, MASK, PLACES, STEP, STEP_ROWS, GROUP_COLUMNS = range(7)
"""Columns of ``groups``, which ``train_shared`` takes."""

RUN_START, RUN_STOP, RUN_DECAYS, RUN_COLUMNS = range(4)
"""Columns of ``runs``, which ``apply_gradient`` takes: parameters that follow each other, all weights or all biases."""

START, CODING, VARIABLE_COLUMNS = range(3)
"""Columns of ``Layout.variables``."""

ONE_HOT, THERMOMETER = range(2)
"""Codings of a variable's level by its indicators: the one of that number is 1; or it and all before it."""

LOSS_ROWS = 16
"""Rows that native kernels take the loss of at a time, where variables are not all binary: a number in each lane."""

RECENT = 16
"""Units of the last hidden layer that native kernels keep apart on a walk: those that have become final last."""

ARRIVED, ASLEEP, ROUND, CALL_OFF, SYNC = 0, 1, 32, 48, 64
"""Entries of ``Crew.sync``, and how many there are: how many ranks have come to a meeting, and how many of these have gone to
sleep, how many meetings there were, and whether the call is off. Only ``CALL_OFF`` is the caller's: when that is set to 1, all
ranks return soon."""

SharedLayout: TypeAlias = "NDArray[np.int64]"
"""(layers, 6) int64, one row per row of ``Layout.layers``: start of W in ``shared``, of b, of U (-1: the layer has none),
length of a row (the stride), and where the order of the layer's inputs and that of its units begin in ``order``.

``order`` (D + sum of H_l,) int32 belongs to a connectivity: the original numbers of the inputs in order of place, then of the
units of each hidden layer in order of degree. The outputs have the order of the inputs; where there are fewer of them than of
inputs, because of a context, theirs comes at the end.
"""


class Layout(NamedTuple):
    """Tables of offsets; every kernel that touches parameters takes these three arrays after ``theta``.

    For K connectivities at once, each has K as its first dimension.

    Attributes
    ----------
    layers : (layers, 9) int64
        One row per affine layer, the chain 0 .. L first, then direct connections: n_in, n_out, number of panels, start of the
        weights in theta, start of the bias in theta, start of the layer's units in ``n_live``, start of its panels in
        ``panel_start``, activation code, and the row of the direct connections that add to this layer's sums (0: none; -1:
        this is such a row itself).
    n_live : (sum of padded units,) int32
        Live count of every sorted unit; the fill-up units of a last panel repeat the count of the last true unit.
    panel_start : (sum of panels,) int64
        Start of each panel in theta.
    variables : (V + 1, 2) int32, or (0, 2)
        If variables are not all binary, one row per variable in order of place: its first indicator, and its coding; then a
        row of the number of indicators. A variable has as many logits as indicators, and they have the same places, but
        indicators before the first variable (context) have no logits. One of width 1 is binary, one of width 0 has one level,
        any other has as many levels as indicators. Without rows, every indicator is a binary variable.
    """

    layers: NDArray[np.int64]
    n_live: NDArray[np.int32]
    panel_start: NDArray[np.int64]
    variables: NDArray[np.int32] = BINARY

    def of_mask(self, k: int) -> Layout:
        """Return the tables of connectivity k out of those of K."""
        return Layout(self.layers[k], self.n_live[k], self.panel_start[k], self.variables[k])


def n_panels(n_units: int) -> int:
    """Return the number of panels that hold ``n_units`` units."""
    return -(-n_units // PANEL)


def width(n_units: int) -> int:
    """Return how many numbers an activation buffer holds for a row of ``n_units`` units: full panels."""
    return PANEL * n_panels(n_units)


def make_layout(
    n_inputs: int,
    n_live: Sequence[NDArray[np.int32]],
    activation: str,
    direct: Sequence[NDArray[np.int32] | None] = (),
    variables: NDArray[np.int32] = BINARY,
) -> Layout:
    """Lay out the network whose layer l has the live counts ``n_live[l]`` (sorted, never decreasing).

    ``activation`` is that of every hidden layer; the output layer gives logits (``"identity"``). ``direct[l]``, if not None,
    are the live counts of layer l's direct connections. For ``variables`` see :class:`Layout`.
    """
    stacked = [None if live is None else live[None] for live in direct]
    return make_layouts(n_inputs, [live[None] for live in n_live], activation, stacked, variables[None]).of_mask(0)


def make_layouts(
    n_inputs: int,
    n_live: Sequence[NDArray[np.int32]],
    activation: str,
    direct: Sequence[NDArray[np.int32] | None] = (),
    variables: NDArray[np.int32] | None = None,
) -> Layout:
    """Do ``make_layout`` for K connectivities: live counts are (K, n), and so the tables have K first."""
    identity = ACTIVATIONS.index("identity")
    added = [l for l, live in enumerate(direct) if live is not None]
    adds = {l: len(n_live) + i for i, l in enumerate(added)}
    rows: list[tuple[Any, int, int]] = [(live, ACTIVATIONS.index(activation), adds.get(l, 0)) for l, live in enumerate(n_live)]
    rows[-1] = rows[-1][0], identity, rows[-1][2]
    rows += [(direct[l], identity, -1) for l in added]
    K = len(n_live[0])
    layers = np.zeros((K, len(rows), LAYER_COLUMNS), dtype=np.int64)
    counts, starts = [], []
    position: Any = np.zeros(K, np.int64)
    units = panels = 0
    for l, (live, code, fed_by) in enumerate(rows):
        n_out = live.shape[1]
        n_in = n_inputs if l == 0 or l >= len(n_live) else rows[l - 1][0].shape[1]
        count = n_panels(n_out)
        padded = np.empty((K, count * PANEL), np.int32)
        padded[:, :n_out] = live
        padded[:, n_out:] = live[:, -1:]
        ends = PANEL * np.cumsum(padded[:, PANEL - 1 :: PANEL], axis=1, dtype=np.int64)
        starts.append(position[:, None] + np.concatenate([np.zeros((K, 1), np.int64), ends[:, :-1]], axis=1))
        layers[:, l] = n_in, n_out, count, 0, 0, units, panels, code, fed_by
        layers[:, l, WEIGHTS], layers[:, l, BIAS] = position, position + ends[:, -1]
        counts.append(padded)
        position = layers[:, l, BIAS] + count * PANEL
        units += count * PANEL
        panels += count
    if variables is None:
        variables = np.broadcast_to(BINARY, (K, *BINARY.shape))
    return Layout(layers, np.concatenate(counts, axis=1), np.concatenate(starts, axis=1), np.ascontiguousarray(variables))


def n_chain(layers: NDArray[np.int64]) -> int:
    """Return the number of layers of the chain, L + 1, in one connectivity's ``layers``."""
    n = 0
    while n < len(layers) and layers[n, DIRECT] >= 0:
        n += 1
    return n


def make_shared_layout(layers: NDArray[np.int64], connectivity_weights: bool) -> SharedLayout:
    """Lay out the parameters that all connectivities of a network share; ``layers`` are those of any one of them."""
    table = np.full((len(layers), SHARED_COLUMNS), -1, dtype=np.int64)
    chain = n_chain(layers)
    order = np.concatenate([[0], np.cumsum(layers[:chain, N_IN])])  # where each layer's inputs begin; its units come next
    if layers[chain - 1, N_OUT] == layers[0, N_IN]:
        order[chain] = 0
    position = 0
    for l, (row, layer) in enumerate(zip(table, layers, strict=True)):
        n_in, n_out = int(layer[N_IN]), int(layer[N_OUT])
        stride = -(-n_out // STRIDE) * STRIDE
        row[SHARED_WEIGHTS], row[ROW] = position, stride
        position += n_in * stride
        fed = l
        if l < chain:
            row[SHARED_BIAS] = position
            position += stride
            if connectivity_weights:
                row[SHARED_U] = position
                position += n_in * stride
        else:
            fed = int(np.flatnonzero(layers[:chain, DIRECT] == l)[0])
        row[IN_ORDER], row[OUT_ORDER] = order[l] if l < chain else 0, order[fed + 1]
    return table


def n_shared(shared_layout: SharedLayout, layers: NDArray[np.int64]) -> int:
    """Return the length of ``shared``, fill-up included."""
    row, n_in = shared_layout[-1], layers[-1, N_IN]
    if row[SHARED_U] >= 0:
        return int(row[SHARED_U] + n_in * row[ROW])
    return int(row[SHARED_BIAS] + row[ROW] if row[SHARED_BIAS] >= 0 else row[SHARED_WEIGHTS] + n_in * row[ROW])


def runs_of(layers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return which parameters of theta are trained, as runs (n, 3): the weights of every layer, the biases of the chain."""
    chain = layers[: n_chain(layers)]
    biases = [(bias, bias + PANEL * count, 0) for count, bias in chain[:, [N_PANELS, BIAS]]]
    return np.array([*((start, stop, 1) for start, stop in layers[:, [WEIGHTS, BIAS]]), *biases], np.int64)


def shared_runs_of(shared_layout: SharedLayout, layers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the parameters of ``shared`` as runs (n, 3)."""
    runs = []
    for (weights, bias, u, row, *_), n_in in zip(shared_layout, layers[:, N_IN], strict=True):
        runs += [(start, start + n_in * row, 1) for start in (weights, u) if start >= 0]
        runs += [(bias, bias + row, 0)] if bias >= 0 else []
    return np.array(runs, np.int64)


def n_biases(layers: NDArray[np.int64]) -> int:
    """Return the length of a table of biases: those of the chain in one connectivity's ``layers``, in full panels."""
    return PANEL * int(layers[: n_chain(layers), N_PANELS].sum())


def of_points(layout: Layout, n_points: int) -> NDArray[np.int64]:
    """Return ``layout.layers`` for each of K points, (K, layers, 9), with the biases of the chain in the point's table."""
    chain, length = n_chain(layout.layers), n_biases(layout.layers)
    points = np.repeat(layout.layers[None], n_points, axis=0)
    within = PANEL * np.cumsum(layout.layers[:chain, N_PANELS]) - PANEL * layout.layers[:chain, N_PANELS]
    points[:, :chain, BIAS] = n_parameters(layout) + length * np.arange(n_points)[:, None] + within
    return points


def n_levels(variables: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return how many levels each variable of a table has, (V,): 1 without an indicator, 2 with one, else as many."""
    widths = np.diff(variables[:, START].astype(np.int64))
    return np.where(widths == 1, 2, np.maximum(widths, 1))


def dead_entries(theta: NDArray[Any], layout: Layout, l: int) -> Iterator[tuple[NDArray[Any], NDArray[np.bool_]]]:
    """Yield parts of layer l's panels as views of theta, each with a mask of its dead entries; together they are all of them.

    A panel's corner comes in parts of so many rows that the masks stay small; the last panel's fill-up columns are one more.
    """
    n_out, count, units, panels = layout.layers[l, [N_OUT, N_PANELS, UNITS, PANELS]]
    for p in range(count):
        live = layout.n_live[units + PANEL * p :][:PANEL]
        first, depth = int(live[0]), int(live[-1])
        block = theta[layout.panel_start[panels + p] :][: PANEL * depth].reshape(depth, PANEL)
        for top in range(first, depth, ROWS_AT_ONCE):
            corner = block[top : top + ROWS_AT_ONCE]
            yield corner, np.arange(top, top + len(corner), dtype=live.dtype)[:, None] >= live
        if p == count - 1:
            fill_up = block[:, n_out - PANEL * p :]
            yield fill_up, np.broadcast_to(np.True_, fill_up.shape)


def n_parameters(layout: Layout) -> int:
    """Return the length of ``theta``, zero corners and fill-up units included."""
    last = layout.layers[-1]
    return int(last[BIAS] + PANEL * last[N_PANELS])


def _activations(layers: NDArray[np.int64], n_rows: int) -> int:
    return n_rows * sum(width(int(n)) for n in layers[:, N_OUT])


def score_workspace(layout: Layout, n_rows: int) -> tuple[int, int]:
    """Return (reals, int32s) of scratch that ``score`` and ``conditionals`` need to work on ``n_rows`` rows at once.

    Reals: the output of every layer, then, if variables are not all binary, ``LOSS_ROWS`` rows of logits. For ``jit``: before
    them, the inputs as numbers; and as integers how many ones every row has, and which.
    """
    n_inputs = int(layout.layers[0, N_IN])
    reals = n_rows * width(n_inputs) + _activations(layout.layers, n_rows) + loss_room(layout)
    return reals, n_rows * (n_inputs + 1)


def row_workspace(layout: Layout) -> tuple[int, int]:
    """Return (reals, int32s) of scratch that ``score_row`` needs: integers of the bits and of ``place``, then as ``score``."""
    n_inputs = int(layout.layers[0, N_IN])
    reals, ints = score_workspace(layout, 1)
    return reals, width(2 * -(-n_inputs // 64) + n_inputs) + ints


def loss_room(layout: Layout) -> int:
    """Return how many numbers a rank needs to take the loss of variables that are not all binary; part of all workspaces."""
    last = layout.layers[n_chain(layout.layers) - 1]
    return LOSS_ROWS * width(int(last[N_OUT])) if len(layout.variables) else 0


def walk_workspace(layout: Layout, n_rows: int) -> tuple[int, int]:
    """Return (reals, int32s) of scratch that ``walk`` needs to work on ``n_rows`` rows at once.

    As ``sample``, then, of each level of a variable, a logit and a share, and three numbers more, for every row; then, for
    ``jit``, the inputs as numbers.
    """
    reals, ints = sample_workspace(layout, n_rows)
    widest = int(np.diff(layout.variables[:, START]).max(initial=2))
    return reals + (2 * widest + 3) * -(-n_rows // 16) * 16 + n_rows * width(int(layout.layers[0, N_IN])), ints


def sample_workspace(layout: Layout, n_rows: int) -> tuple[int, int]:
    """Return (reals, int32s) of scratch that ``sample`` needs to work on ``n_rows`` rows at once.

    Reals: one column and ``RECENT`` more, then the output of every layer, then room for eight float64 a row. Integers:
    the bits that are drawn so far (as uint64); or, for ``jit``, how many units of each layer are final.
    """
    n_inputs = int(layout.layers[0, N_IN])
    reals = (1 + RECENT) * -(-n_rows // 16) * 16 + _activations(layout.layers, n_rows) + 16 * n_rows
    return reals, max(2 * n_rows * n_panels(n_inputs), len(layout.layers))


def train_workspace(layout: Layout, batch_size: int, n_ranks: int = 1) -> tuple[int, int]:
    """Return (reals, int32s) of scratch that ``train`` needs; shared by all ranks, on an 8-byte boundary.

    Reals: as ``score``, the rows of logits for every rank, then the gradient of the sums of every layer of the chain, then the
    output of one more hidden layer.
    Integers: the batch's bits (as uint64), a bit for every row of every input of a layer of the chain (as uint64), the NLL of
    every row and panel of outputs (as float64), a float64 for every row of ``theta``. Or, for ``jit``, the batch's bits, the
    NLL of every row, then as ``score``.
    """
    layers, n_inputs = layout.layers, int(layout.layers[0, N_IN])
    reals, ints = score_workspace(layout, batch_size)
    chain = layers[: n_chain(layers)]
    reals += (
        (n_ranks - 1) * loss_room(layout)
        + _activations(chain, batch_size)
        + batch_size * width(int(chain[:-1, N_OUT].max(initial=0)))
    )
    marks = -(-batch_size // 64) * sum(width(int(n)) for n in chain[:, N_IN])
    ints = 4 * batch_size * n_panels(n_inputs) + max(ints, 2 * marks)
    return reals, ints + ints % 2 + 2 * (n_parameters(layout) // PANEL)


def shared_train_workspace(layouts: Layout, shared_layout: SharedLayout, batch_size: int, n_ranks: int = 1) -> tuple[int, int]:
    """Return (reals, int32s) of scratch that ``train_shared`` needs beside theta and its gradient; shared by all ranks.

    Reals: as ``train``, then for every rank STRIP + 1 of the longest rows of shared. Integers: as ``train``, but a float64 for
    every row of ``shared``, then for every rank, twice, the place of every input, hidden unit and output.
    """
    layers = layouts.layers[0]
    reals, ints = train_workspace(layouts.of_mask(0), batch_size, n_ranks)
    rows = int(2 * layers[:, N_IN].sum() + len(layers))
    places = int(layers[: n_chain(layers), N_IN].sum() + layers[n_chain(layers) - 1, N_OUT])
    return reals + n_ranks * (STRIP + 1) * int(shared_layout[:, ROW].max()), ints + 2 * rows + 2 * n_ranks * places


def latent_train_workspace(layout: Layout, batch_size: int, n_points: int, n: int) -> tuple[int, int]:
    """Return (reals, int32s) of scratch that ``train_latent`` needs for a vector of n parameters; shared by all ranks.

    Reals: as ``score``, then for every layer of the chain its output for a row at each point, the gradient of its sums, and
    that summed over points, then the output of one more hidden layer. Integers: the batch's bits (as uint64); as float64 the
    NLL of every row at each point and panel of outputs, the shares of the points in every row, its NLL, and one for every 64
    parameters; a bit for every row of every input, and for every row at each point of every hidden unit (as uint64). Or, for
    ``jit``, the batch's bits and the NLL of every row, then as ``score``, and at the end, as float64, the shares and NLL.
    """
    layers, n_inputs = layout.layers, int(layout.layers[0, N_IN])
    reals, ints = score_workspace(layout, batch_size)
    chain, words = layers[: n_chain(layers)], n_panels(n_inputs)
    reals += (2 * n_points + 1) * _activations(chain, batch_size)
    reals += n_points * batch_size * width(int(chain[:-1, N_OUT].max(initial=0)))
    doubles = batch_size * (words + n_points * words + n_points + 2) + n_panels(n)
    marks = width(n_inputs) * -(-batch_size // 64) + _activations(chain[:-1], -(-batch_size * n_points // 64))
    return reals, ints + 2 * (doubles + marks)


def aligned_empty(n: int, dtype: DTypeLike) -> NDArray[Any]:
    """Return an uninitialised vector that starts on a 64-byte boundary: a panel row is then whole cache lines."""
    return _aligned(np.empty(n * np.dtype(dtype).itemsize + 64, dtype=np.uint8), n, np.dtype(dtype))


def aligned_zeros(n: int, dtype: DTypeLike) -> NDArray[Any]:
    """Return a vector of zeros that starts on a 64-byte boundary."""
    return _aligned(np.zeros(n * np.dtype(dtype).itemsize + 64, dtype=np.uint8), n, np.dtype(dtype))


def aligned_copy(values: NDArray[Any]) -> NDArray[Any]:
    """Return a copy of a vector, on a 64-byte boundary."""
    copy = aligned_empty(len(values), values.dtype)
    copy_into(copy, values)
    return copy


def aligned(values: NDArray[Any]) -> NDArray[Any]:
    """Return a vector that kernels can read: itself, or a copy if its numbers lie across their addresses.

    Arrays that came from another process do, where a library has cut them out of a message.
    """
    return values if values.flags.aligned else aligned_copy(values)


def copy_into(to: NDArray[Any], values: NDArray[Any]) -> None:
    """Copy a vector over another, in pieces: Ctrl-C is answered in between."""
    for start in range(0, len(to), COPIED_AT_ONCE):
        to[start : start + COPIED_AT_ONCE] = values[start : start + COPIED_AT_ONCE]


def _aligned(raw: NDArray[np.uint8], n: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    skip = -raw.__array_interface__["data"][0] % 64
    return raw[skip : skip + n * dtype.itemsize].view(dtype)
