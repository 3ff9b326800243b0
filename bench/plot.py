"""The plot of the report: time of a training step against live weights, a line for each implementation."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from bench import nets
from bench.cases import Run
from bench.nets import SCALING_D, SCALING_H
from bench.plan import Figures

__all__ = ["scaling"]

LABELS = {"numpy": "dense NumPy", "jit": "made_fast, Numba", "native": "made_fast, native"}
PANELS = {"D inputs, 500 hidden units": SCALING_D, "784 inputs, H hidden units": SCALING_H}


def scaling(figures: Figures, path: Path) -> bool:
    """Draw the groups "scaling in D" and "scaling in H" to a file; False if they or matplotlib are not there."""
    sizes = [size for panel in PANELS.values() for size in panel]
    if find_spec("matplotlib") is None or any(figures.time(Run("step", size)) is None for size in sizes):
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for axes, (title, panel) in zip(figure.subplots(1, 2, sharey=True), PANELS.items(), strict=True):
        live = [nets.to_model(nets.new_trainer(size)).n_parameters for size in panel]
        for name, label in LABELS.items():
            times = [figures.time(Run("step", size, name)) for size in panel]
            if None not in times:
                axes.loglog(live, [1e3 * seconds for seconds in times if seconds], "o-", label=label)
        for size, x in zip(panel, live, strict=True):
            number = size.n_features if panel is SCALING_D else size.hidden_sizes[0]
            point = x, 1e3 * (figures.time(Run("step", size)) or 0)
            axes.annotate(str(number), point, (0, -16), textcoords="offset points", ha="center")
        axes.margins(0.1)
        axes.set(title=title, xlabel="live weights")
        axes.grid(which="both", alpha=0.3)
    figure.axes[0].set_ylabel("training step on 100 rows, ms")
    figure.axes[0].legend()
    figure.savefig(path, dpi=110)
    return True
