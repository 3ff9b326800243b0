"""Pictures: binary rows as a grid of tiles, curves of scores. Pillow and matplotlib are imported when a file is written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from math import ceil, sqrt
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["grid", "has_matplotlib", "save_curves", "save_png"]

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
