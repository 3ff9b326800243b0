"""Draws the masks of a small network as they are, and sorted by degree: the staircase. ``conf.py`` runs it."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from numpy.typing import NDArray

from made_fast import MADE, Connectivity

D, H = 12, 24
SHADES = {False: ("#24292f", "#d8dee4", "#0f6fb8", "#d9480f"), True: ("#ced4da", "#373e47", "#4dabf7", "#ff922b")}
"""Of text, dead entries, live entries, and the edge of the staircase, on a light page and on a dark one."""


def masks() -> tuple[Connectivity, list[NDArray[np.uint8]]]:
    """Return the connectivity of a network of the package, and its masks (n_out, n_in)."""
    X = np.random.default_rng(0).integers(0, 2, (20, D), dtype=np.uint8)
    made = MADE((H,), ordering="random", max_epochs=1, direct_connections="none", random_state=3).fit(X)
    return made.model_.member_for([True] * D), made.to_dense()["masks"]


def draw(path: Path, dark: bool) -> None:
    """Write the picture."""
    text, dead, live, edge = SHADES[dark]
    connectivity, (first, last) = masks()
    (degrees,) = connectivity.degrees
    inputs, units = np.argsort(connectivity.ordering), np.argsort(degrees, kind="stable")
    style = {"svg.fonttype": "none", "svg.hashsalt": "made_fast", "text.color": text, "axes.labelcolor": text}
    style |= {"font.family": "sans-serif", "font.size": 10}
    with plt.rc_context(style):
        figure, axes = plt.subplots(2, 2, figsize=(8.2, 6.2), width_ratios=(H, D), layout="constrained")
        # A column is a unit, a row what it may see: units stand side by side, and the live rows of each are a prefix.
        colours = ListedColormap([dead, live])
        show(axes[0, 0], first.T, colours, "inputs, as in the table", "hidden units, as drawn")
        show(axes[0, 1], last.T, colours, "hidden units, as drawn", "outputs")
        sorted_first, sorted_last = first.T[np.ix_(inputs, units)], last.T[np.ix_(units, inputs)]
        show(axes[1, 0], sorted_first, colours, "inputs, by place", "hidden units, by degree")
        show(axes[1, 1], sorted_last, colours, "hidden units, by degree", "outputs, by place")
        stairs(axes[1, 0], sorted_first, edge)
        stairs(axes[1, 1], sorted_last, edge)
        figure.savefig(path, transparent=True, metadata={"Date": None})
        plt.close(figure)


def show(axes: Axes, mask: NDArray[np.uint8], colours: ListedColormap, below: str, above: str) -> None:
    """Draw one mask; rows are units of the layer below, columns units of the layer above."""
    axes.pcolormesh(mask, cmap=colours, vmin=0, vmax=1)
    axes.invert_yaxis()
    axes.set_xlabel(above)
    axes.set_ylabel(below)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_frame_on(False)


def stairs(axes: Axes, mask: NDArray[np.uint8], colour: str) -> None:
    """Draw the edge of a staircase: how many units below each unit sees, ``n_live``, which never decreases."""
    n_live = mask.sum(axis=0)
    axes.stairs(n_live, np.arange(len(n_live) + 1), baseline=None, color=colour, lw=2)
