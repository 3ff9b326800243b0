"""The plots of the report: time of a training step against live weights, and kernels under the roofs of the core."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from bench import layers, machine, nets
from bench.cases import Run
from bench.layers import KERNELS
from bench.nets import SCALING_D, SCALING_H
from bench.plan import Figures

__all__ = ["roofline", "scaling"]

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


def roofline(figures: Figures, path: Path) -> bool:
    """Draw the live flops a second of the dense kernels against live flops a byte; False if something is missing.

    The bytes are those of the live weights, of their gradients, or with Adam of weights and moments, read and written, and of
    inputs and outputs, each once a call. The roofs are what ``peak.c`` measures on one core; a share is that of the
    multiply-adds that took turns with the kernel.
    """
    peaks = machine.peaks()
    marks = {layers.FORWARD: "o", layers.BACKWARD_INPUT: "s", layers.BACKWARD: "^", layers.BACKWARD_ADAM: "v"}
    found = [(name, layer, figures.time(Run(name, layer))) for name in marks for layer in KERNELS[name]]
    if find_spec("matplotlib") is None or peaks is None or any(seconds is None for _, _, seconds in found):
        return False
    from matplotlib.figure import Figure

    numbers = {layers.FORWARD: 1, layers.BACKWARD_INPUT: 1, layers.BACKWARD: 1, layers.BACKWARD_ADAM: 6}
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    axes = figure.subplots()
    top, left, right = peaks.flops[1] / 1e9, 0.1, 100.0
    for size, style in zip(machine.MEMORY, ("-", "--", "-.", ":"), strict=True):
        rate = peaks.read_write[size, 1] / 1e9
        axes.loglog([left, top / rate], [rate * left, top], style, color="grey", lw=1, label=f"memory: {size}")
    axes.loglog([left, right], [top, top], color="black", lw=1)
    axes.annotate(f"multiply-adds: {top:.0f} GFLOP/s", (right, top), (0, 4), textcoords="offset points", ha="right")
    colors = dict(zip(dict.fromkeys(layer for _, layer, _ in found), ("C0", "C1", "C2"), strict=True))
    for name, layer, seconds in found:
        flops, batch = layers.Arrays(name, layer, "float32").flops, layer.size.batch
        moved = 4 * (flops / (2 * batch) * numbers[name] + batch * (layer.n_in + layer.n_out))
        label = f"{name[7:]}, {layer}: {figures.share_of_peak(Run(name, layer)) or 0:.0%}"
        axes.loglog(flops / moved, flops / (seconds or 1) / 1e9, marks[name], color=colors[layer], label=label)
    axes.set(title=machine.cpu(), xlabel="live flops a byte", ylabel="live GFLOP/s", xlim=(left, right), ylim=(5, 2 * top))
    axes.grid(which="both", alpha=0.3)
    figure.legend(fontsize=7, loc="outside right upper")
    figure.savefig(path, dpi=110)
    return True
