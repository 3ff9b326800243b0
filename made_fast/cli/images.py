"""Pictures: binary rows as a grid of tiles, curves of scores, the columns of a table.

Pillow and matplotlib are imported when a file is written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from math import ceil, sqrt
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from made_fast.tables.columns.schema import Columns

__all__ = ["grid", "has_matplotlib", "save_columns", "save_curves", "save_png"]

File: TypeAlias = str | os.PathLike[str] | IO[bytes]
"""A path, or a binary stream."""

INK, PAPER, LINE, UNKNOWN = 24, 255, 222, 190
"""Grey values of ones, of zeros, of the lines between the tiles, and of missing entries."""

GAP = 3
"""Pixels from tile to tile."""

TILE = 56
"""Small tiles are scaled up by a whole factor to about this many pixels: 8 x 8 by seven, 28 x 28 by two."""


def grid(X: ArrayLike, shape: tuple[int, int], columns: int | None = None, scale: int | None = None) -> NDArray[np.uint8]:
    """Draw each row of X, (n, D) of 0/1, as a tile, dark ones on white, tile after tile with thin lines between them.

    Probabilities become shades, NaN an even grey. ``shape`` is (height, width) of a tile, ``height * width`` is D, pixels are
    row-major. ``columns`` tiles stand side by side, by default about as many as make a square; an entry of X is ``scale``
    pixels wide, by default so many that small tiles are readable. Returns grey values, (height, width) uint8.

    Examples
    --------
    >>> grid([[1, 0]], (1, 2), scale=1)[2:5, 2:6]
    array([[222, 222, 222, 222],
           [222,  24, 255, 222],
           [222, 222, 222, 222]], dtype=uint8)
    """
    height, width = shape
    ones = np.asarray(X)
    if ones.ndim != 2 or len(ones) == 0 or ones.shape[1] != height * width:
        raise ValueError(
            f"X must have shape (rows, {height * width}) for tiles of {height} x {width}, and a row, got {ones.shape}."
        )
    n = len(ones)
    if columns is None:
        columns = min(n, max(1, round(sqrt(n * height / width))))
    if scale is None:
        scale = max(1, TILE // max(height, width))
    shades = np.round(PAPER + (INK - PAPER) * ones.astype(np.float32).reshape(n, height, width))
    tiles = np.where(np.isnan(shades), UNKNOWN, shades).astype(np.uint8)
    tiles = tiles.repeat(scale, axis=1).repeat(scale, axis=2)
    high, wide = height * scale + GAP, width * scale + GAP
    picture = np.full((ceil(n / columns) * high + GAP, columns * wide + GAP), LINE, dtype=np.uint8)
    for i, tile in enumerate(tiles):
        top, left = i // columns * high + GAP, i % columns * wide + GAP
        picture[top : top + height * scale, left : left + width * scale] = tile
    return picture


def save_png(file: File, picture: NDArray[Any]) -> None:
    """Write grey values (height, width) uint8, as ``grid`` gives them, as PNG to a path or a binary stream."""
    from PIL import Image

    Image.fromarray(picture).save(file, format="PNG")


def has_matplotlib() -> bool:
    """Say whether :func:`save_curves` has what it needs."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return False
    return True


def save_curves(file: File, curves: Mapping[str, Mapping[int, tuple[float, float]]], title: str) -> None:
    """Draw ``{name: {number of masks: (mean NLL, half of its 95 % interval)}}`` as lines with error bars, as PNG."""
    from matplotlib.figure import Figure  # no pyplot: no window, no global state

    figure = Figure(figsize=(6.4, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot(xlabel="number of masks", ylabel="NLL in nats, 95 % intervals")
    axes.set_title(title, parse_math=False)  # a file's name: its dollars are dollars
    axes.set_xscale("log", base=2)
    for name, points in curves.items():
        means, errors = zip(*points.values(), strict=True)
        axes.errorbar(list(points), means, errors, marker="o", markersize=4, capsize=3, label=name)
    ticks = sorted({m for points in curves.values() for m in points})
    ticks = [m for m in ticks if m == ticks[-1] or m <= 0.7 * ticks[-1]]  # 256 and 300 would stand on each other
    axes.set_xticks(ticks, [str(m) for m in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, format="png")


MOST_GROUPS = 48
"""Most groups of levels of a column that are told apart."""

MOST_BARS = 24
"""Most levels that a column shows; of more categories, the most frequent ones."""

MOST_COLUMNS = 40
"""Most columns in a picture."""

DATA_COLOUR, MODEL_COLOUR = "#9aa5b1", "#c2410c"


def save_columns(file: File, columns: Columns, data: NDArray[Any], drawn: NDArray[Any]) -> None:
    """Draw, as PNG, the share of every level of each column in rows and in draws of the model, and below how pairs depend.

    ``data`` and ``drawn`` are codes (n, V). The dependence of two columns is the mutual information of their levels in nats.
    Of columns with more than ``MOST_GROUPS`` levels, neighbouring ones are put together: noise would hide what there is.
    """
    from matplotlib.figure import Figure  # no pyplot: no window, no global state

    V = min(len(columns), MOST_COLUMNS)
    across = min(5, V)
    n_rows = ceil(V / across)
    figure = Figure(figsize=(3.0 * across, 2.1 * n_rows + 4.4), dpi=110, layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[2.1 * n_rows, 4.4])
    top, bottom = parts
    axes = top.subplots(n_rows, across, squeeze=False)
    for v, axis in enumerate(axes.ravel()):
        if v < V:
            _draw_column(axis, columns, v, data[:, v], drawn[:, v])
        else:
            axis.axis("off")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    top.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    steps = -(-columns.n_levels[:V] // MOST_GROUPS)
    measured = [_dependence(codes[:, :V] // steps, -(-columns.n_levels[:V] // steps)) for codes in (data, drawn)]
    most = max(float(found.max()) for found in measured) or 1.0
    left, middle, right = bottom.subplots(1, 3, width_ratios=[1, 1, 1])
    for axis, found, title in ((left, measured[0], "rows"), (middle, measured[1], "draws")):
        image = axis.imshow(found, vmin=0, vmax=most, cmap="viridis")
        axis.set_title(f"mutual information, {title} (nats)", fontsize=8)
        axis.set_xticks(range(V), [_short(columns.names[v], 10) for v in range(V)], rotation=90, fontsize=5)
        axis.set_yticks(range(V), [_short(columns.names[v], 10) for v in range(V)], fontsize=5)
    bottom.colorbar(image, ax=[left, middle], shrink=0.7)
    pairs = np.triu_indices(V, 1)
    right.plot([0, most], [0, most], color="#cbd2d9", linewidth=1)
    right.scatter(measured[0][pairs], measured[1][pairs], s=9, color=MODEL_COLOUR)
    right.set_xlabel("rows", fontsize=8)
    right.set_ylabel("draws", fontsize=8)
    right.set_title("of every pair of columns", fontsize=8)
    right.tick_params(labelsize=7)
    figure.savefig(file, format="png")


def _draw_column(axis: Any, columns: Columns, v: int, data: NDArray[Any], drawn: NDArray[Any]) -> None:
    n_levels, values = int(columns.n_levels[v]), columns.level_values(v)
    step = -(-n_levels // MOST_GROUPS) if columns.ordered[v] else 1
    if step > 1:
        middle = np.minimum(np.arange(0, n_levels, step) + step // 2, n_levels - 1)
        data, drawn, values, n_levels = data // step, drawn // step, values[middle], len(middle)
    shares = [np.bincount(codes[codes >= 0], minlength=n_levels) / max(1, (codes >= 0).sum()) for codes in (data, drawn)]
    levels = np.arange(n_levels)
    if n_levels > MOST_BARS and not columns.ordered[v]:
        levels = np.sort(np.argsort(-shares[0], kind="stable")[:MOST_BARS])
    at = np.arange(len(levels))
    axis.bar(at, shares[0][levels], width=0.9, color=DATA_COLOUR, label="rows")
    axis.plot(at, shares[1][levels], ".", markersize=5, color=MODEL_COLOUR, label="draws of the model")
    axis.set_title(_short(columns.names[v], 28), fontsize=8, parse_math=False)
    every = max(1, ceil(len(levels) / 8))
    gap = int(columns.missing_levels[v]) if step == 1 else -1
    shown = [_short("missing" if level == gap else _label(values[level]), 9) for level in levels[::every]]
    axis.set_xticks(at[::every], shown, rotation=45, ha="right", fontsize=6, parse_math=False)
    axis.tick_params(axis="y", labelsize=6)
    axis.spines[["top", "right"]].set_visible(False)


def _label(value: Any) -> str:
    if value is None or value != value:
        return "unseen"
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "\u2026"


def _dependence(codes: NDArray[Any], n_levels: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mutual information of each pair of columns, (V, V), in rows that have both; 0 on the diagonal."""
    V = codes.shape[1]
    out = np.zeros((V, V))
    for i in range(V):
        for j in range(i):
            both = (codes[:, i] >= 0) & (codes[:, j] >= 0)
            if not both.any():
                continue
            cells = codes[both, i].astype(np.int64) * int(n_levels[j]) + codes[both, j]
            joint = (
                np.bincount(cells, minlength=int(n_levels[i]) * int(n_levels[j])).reshape(int(n_levels[i]), -1) / both.sum()
            )
            alone = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
            there = joint > 0
            out[i, j] = out[j, i] = max(0.0, float((joint[there] * np.log(joint[there] / alone[there])).sum()))
    return out
