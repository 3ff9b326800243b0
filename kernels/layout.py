"""Where every live weight stands in memory: the panel layout shared by all implementations of the kernels.

Not here: orderings and degrees (``made_fast.masks``), arithmetic on weights (the kernels), names of features. This file
turns the staircase (one vector of live counts per layer) into tables of offsets, and says how wide each buffer is.

Parameters are one flat array ``theta``. For layer after layer it holds the panels, then the bias::

    theta = [ panel 0 | panel 1 | ... | bias ]  [ panel 0 | ... | bias ]  ...

Panel p of a layer holds the incoming weights of its sorted units 64 p .. 64 p + 63 as a contiguous ``(depth, 64)`` block,
where ``depth`` is the live count of its last unit. Units see prefixes of growing length, so a block has a zero corner: the
entry (k, j) with ``k >= n_live[j]`` is dead, is stored as 0 and stays 0. The last panel is filled up with units whose weights
and bias are 0 and stay 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = [
    "ACTIVATIONS",
    "MAX_LAYERS",
    "PANEL",
    "Layout",
    "aligned_empty",
    "aligned_zeros",
    "dead_entries",
    "make_layout",
    "n_panels",
    "n_parameters",
    "sample_workspace",
    "score_workspace",
    "train_workspace",
    "width",
]

PANEL = 64
"""Units in a panel. A panel row is four AVX-512 vectors of float32: one register tile wide."""

MAX_LAYERS = 64
"""Most affine layers of a network; native kernels keep a small table of that length."""

ACTIVATIONS = ("identity", "relu", "softplus", "tanh", "sigmoid", "softsign")
"""Activation codes are the positions in this tuple."""

N_IN, N_OUT, N_PANELS, WEIGHTS, BIAS, UNITS, PANELS, ACTIVATION = range(8)
"""Columns of ``Layout.layers``."""


class Layout(NamedTuple):
    """Tables of offsets; every kernel that touches parameters takes these three arrays after ``theta``.

    Attributes
    ----------
    layers : (L + 1, 8) int64
        One row per affine layer: n_in, n_out, number of panels, start of the weights in theta, start of the bias in theta,
        start of the layer's units in ``n_live``, start of its panels in ``panel_start``, activation code.
    n_live : (sum of padded units,) int32
        Live count of every sorted unit; the fill-up units of a last panel repeat the count of the last true unit.
    panel_start : (sum of panels,) int64
        Start of each panel in theta.
    """

    layers: NDArray[np.int64]
    n_live: NDArray[np.int32]
    panel_start: NDArray[np.int64]


def n_panels(n_units: int) -> int:
    """Return the number of panels that hold ``n_units`` units."""
    return -(-n_units // PANEL)


def width(n_units: int) -> int:
    """Return how many numbers an activation buffer holds for a row of ``n_units`` units: full panels."""
    return PANEL * n_panels(n_units)


def make_layout(n_inputs: int, n_live: Sequence[NDArray[np.int32]], activation: str) -> Layout:
    """Lay out the network whose layer l has the live counts ``n_live[l]`` (sorted, never decreasing).

    ``activation`` is that of every hidden layer; the output layer gives logits (``"identity"``).
    """
    layers = np.zeros((len(n_live), 8), dtype=np.int64)
    counts, starts = [], []
    position = units = panels = 0
    n_in = n_inputs
    for row, live in zip(layers, n_live, strict=True):
        count = n_panels(len(live))
        padded = np.concatenate([live, np.full(count * PANEL - len(live), live[-1], np.int32)]).astype(np.int32)
        sizes = PANEL * padded[PANEL - 1 :: PANEL].astype(np.int64)
        bias = position + int(sizes.sum())
        row[:] = n_in, len(live), count, position, bias, units, panels, ACTIVATIONS.index(activation)
        counts.append(padded)
        starts.append(position + np.cumsum(sizes) - sizes)
        position = bias + count * PANEL
        units += count * PANEL
        panels += count
        n_in = len(live)
    layers[-1, ACTIVATION] = ACTIVATIONS.index("identity")
    return Layout(layers, np.concatenate(counts), np.concatenate(starts))


def dead_entries(theta: NDArray[Any], layout: Layout, l: int) -> Iterator[tuple[NDArray[Any], NDArray[np.bool_]]]:
    """Yield parts of layer l's panels as views of theta, each with a mask of its dead entries; together they are all of them.

    One part per panel is its corner; the last panel's fill-up columns are another.
    """
    _, n_out, count, _, _, units, panels, _ = layout.layers[l]
    for p in range(count):
        live = layout.n_live[units + PANEL * p :][:PANEL]
        first, depth = int(live[0]), int(live[-1])
        block = theta[layout.panel_start[panels + p] :][: PANEL * depth].reshape(depth, PANEL)
        yield block[first:], np.arange(first, depth)[:, None] >= live
        if p == count - 1:
            fill_up = block[:, n_out - PANEL * p :]
            yield fill_up, np.ones(fill_up.shape, np.bool_)


def n_parameters(layout: Layout) -> int:
    """Return the length of ``theta``, zero corners and fill-up units included."""
    last = layout.layers[-1]
    return int(last[BIAS] + PANEL * last[N_PANELS])


def _activations(layout: Layout, n_rows: int) -> int:
    return n_rows * sum(width(int(n)) for n in layout.layers[:, N_OUT])


def score_workspace(layout: Layout, n_rows: int) -> tuple[int, int]:
    """Return (reals, int32s) of scratch that ``score`` and ``conditionals`` need to work on ``n_rows`` rows at once.

    Reals: the inputs as numbers, then the output of every layer. Integers: how many ones every row has, and which.
    """
    n_inputs = int(layout.layers[0, N_IN])
    return n_rows * width(n_inputs) + _activations(layout, n_rows), n_rows * (n_inputs + 1)


def sample_workspace(layout: Layout, n_rows: int) -> tuple[int, int]:
    """Return (reals, int32s) of scratch that ``sample`` needs to work on ``n_rows`` rows at once.

    Reals: one column, then the output of every layer. Integers: how many ones every row has so far, a read position, and
    which they are.
    """
    n_inputs = int(layout.layers[0, N_IN])
    return -(-n_rows // 16) * 16 + _activations(layout, n_rows), n_rows * (n_inputs + 2)


def train_workspace(layout: Layout, batch_size: int) -> tuple[int, int]:
    """Return (reals, int32s) of scratch that ``train`` needs; shared by all ranks, on an 8-byte boundary.

    Reals: as ``score``, then the gradient of every layer's sums. Integers: the batch's bits (as uint64), the rows' NLL (as
    float64), the ones of every place, then as ``score``.
    """
    n_inputs = int(layout.layers[0, N_IN])
    reals, ints = score_workspace(layout, batch_size)
    words = -(-n_inputs // 64)
    return reals + _activations(layout, batch_size), ints + 2 * batch_size * (words + 1) + n_inputs * (batch_size + 1)


def aligned_empty(n: int, dtype: DTypeLike) -> NDArray[Any]:
    """Return an uninitialised vector that starts on a 64-byte boundary: a panel row is then whole cache lines."""
    dtype = np.dtype(dtype)
    return _aligned(np.empty(n * dtype.itemsize + 64, dtype=np.uint8), n, dtype)


def aligned_zeros(n: int, dtype: DTypeLike) -> NDArray[Any]:
    """Return a vector of zeros that starts on a 64-byte boundary."""
    dtype = np.dtype(dtype)
    return _aligned(np.zeros(n * dtype.itemsize + 64, dtype=np.uint8), n, dtype)


def _aligned(raw: NDArray[np.uint8], n: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    skip = -raw.__array_interface__["data"][0] % 64
    return raw[skip : skip + n * dtype.itemsize].view(dtype)
