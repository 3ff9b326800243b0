"""What the report measures and what it demands: groups of rows, and the table of targets.

A row is a list of runs that take turns. A target is a number made of what was measured, and what it must come to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from bench import layers, whole
from bench.cases import Run
from bench.layers import KERNELS
from bench.nets import BATCHES, DENSITIES, DNA, EPOCH, MNIST, SCALING_D, SCALING_H, STEP_SIZES, TINY, Layer, Size

__all__ = ["GROUPS", "TARGETS", "Figures", "Target"]

OURS = ("numpy", "jit", "native")
EVERYONE = ("numpy", "torch", "torch-compile", "jax", "jit", "native", "native-2")
AFRESH = ("numpy", "torch-compile", "jax", "jit", "native", "native-2")
"""Those that can train under another connectivity with every step."""

FRESH_SIZES = STEP_SIZES[:3]
LARGE_BATCH = Size(784, (1024, 1024), "binarized_mnist", batch=1024)
COMPILED = ("torch-compile", "jax")
BELOW = DENSITIES[:5]
"""Densities of ones up to that of MNIST."""


def runs(case: str, size: Size | Layer, *implementations: str) -> list[Run]:
    """Return a case at a size by several implementations."""
    return [Run(case, size, implementation) for implementation in implementations]


GROUPS: dict[str, list[list[Run]]] = {
    "kernels": [runs(name, layer, *layers.implementations(name)) for name in KERNELS for layer in KERNELS[name]],
    "training step": [
        *(runs("step", size, *EVERYONE) for size in STEP_SIZES[:5]),
        runs("step", TINY, *OURS, "native-2"),
        *(runs("fresh", size, *AFRESH) + runs("step", size, "native") for size in FRESH_SIZES),
    ],
    "density": [
        [Run("step", size) for size in BELOW],
        *([Run("step", size)] for size in DENSITIES[5:]),
    ],
    "epoch": [runs("epoch", EPOCH, *OURS, "native-2")],
    "score": [runs("score-1000", MNIST, *EVERYONE), runs("score-1000", DNA, *EVERYONE), runs("score-32", TINY, *EVERYONE)],
    "latency": [runs("score-1", size, *EVERYONE) for size in (MNIST, DNA, TINY)],
    "sample": [
        *(runs("sample-100", size, "numpy", "numpy-incremental", "jit", "native") for size in (MNIST, DNA)),
        runs("sample-1000", MNIST, "jit", "native", "native-2") + runs("score-1000", MNIST, "jit", "native", "native-2"),
        runs("sample-32", TINY, "numpy", "jit", "native", "native-2"),
    ],
    "mixture": [runs("mixture", MNIST, *OURS, "native-2") + runs("apart", MNIST, *OURS, "native-2")],
    "scaling in D": [runs("step", size, *OURS) for size in SCALING_D],
    "scaling in H": [runs("step", size, *OURS) for size in SCALING_H],
    "batch size": [
        *(runs("step", size, *OURS) for size in BATCHES[:-1]),
        *(runs("step", size, *OURS, *COMPILED) for size in (BATCHES[-1], LARGE_BATCH)),
    ],
}


class Figures:
    """What was measured: median seconds of each run of each row, and what whole runs told."""

    def __init__(self) -> None:
        self.rows: list[dict[Run, float]] = []
        self.whole: dict[str, float] = {}

    def row_of(self, *wanted: Run) -> dict[Run, float]:
        """Return the first row that has all these runs; an empty one if none has."""
        return next((row for row in self.rows if row.keys() >= set(wanted)), {})

    def time(self, run: Run) -> float | None:
        """Return the seconds of a run."""
        return self.row_of(run).get(run)

    def microseconds(self, run: Run) -> float | None:
        """Return the microseconds of a run."""
        seconds = self.time(run)
        return seconds and 1e6 * seconds

    def ratio(self, a: Run, b: Run) -> float | None:
        """Return the time of a in those of b, both from one row."""
        row = self.row_of(a, b)
        return row[a] / row[b] if row else None

    def share_of_peak(self, run: Run) -> float | None:
        """Return the rate of a kernel's live multiply-adds as a share of what the core can do."""
        return self.ratio(run._replace(implementation="peak"), run)


class Target(NamedTuple):
    """A demand.

    Attributes
    ----------
    what : str
    value : callable
        Makes the number of what was measured; None where something is missing.
    least, aim : float or None
        What it must come to, and what is hoped for.
    unit : str
        A format: where the number goes.
    at_most : bool
        The number must not be more than that, rather than not less.
    """

    what: str
    value: Callable[[Figures], float | None]
    least: float
    aim: float | None = None
    unit: str = "{:.4g}x"
    at_most: bool = False

    def verdict(self, value: float | None) -> str:
        """Say whether a value is what is demanded."""
        if value is None:
            return "not measured"
        sign = -1 if self.at_most else 1
        if self.aim is not None and sign * value >= sign * self.aim:
            return "yes, and the aim"
        return "yes" if sign * value >= sign * self.least else "**no**"


def faster(what: str, run: Run, than: str, least: float, aim: float | None = None) -> Target:
    """Demand that a run is so many times as fast as the same by another implementation."""
    return Target(what, partial(Figures.ratio, a=run._replace(implementation=than), b=run), least, aim)


def faster_than_compiled(what: str, run: Run, least: float, aim: float) -> Target:
    """Demand that a run is so many times as fast as the better of torch.compile and jax.jit."""

    def value(f: Figures) -> float | None:
        found = [f.ratio(run._replace(implementation=name), run) for name in COMPILED]
        return min((ratio for ratio in found if ratio is not None), default=None)

    return Target(f"{what}, against the better of {' and '.join(COMPILED)}", value, least, aim)


def at_most(what: str, a: Run, b: Run, most: float, aim: float) -> Target:
    """Demand that one run takes at most so many times what another does."""
    return Target(what, partial(Figures.ratio, a=a, b=b), most, aim, at_most=True)


def of_whole(name: str, most: float, aim: float | None = None, unit: str = "{:.3g}x") -> Target:
    """Demand something of a whole run."""
    return Target(name, lambda f: f.whole.get(name), most, aim, unit, at_most=True)


def _targets() -> Iterator[Target]:
    step = Run("step", MNIST)
    yield faster(f"training step, {MNIST}, against dense NumPy", step, "numpy", 3.5, 4.5)
    yield faster_than_compiled(f"training step, {MNIST}", step, 3.3, 4)
    for size in STEP_SIZES[1:5]:
        yield faster(f"training step, {size}, against dense NumPy", Run("step", size), "numpy", 3, 4)
        yield faster_than_compiled(f"training step, {size}", Run("step", size), 3, 4)
    for size in (BATCHES[-1], LARGE_BATCH):
        yield faster_than_compiled(f"training step, {size}", Run("step", size), 3, 4)
    yield faster("training step, fresh connectivity, against NumPy doing the same", Run("fresh", MNIST), "numpy", 3, 4)
    for size in FRESH_SIZES:
        yield faster_than_compiled(f"training step, fresh connectivity, {size}", Run("fresh", size), 2.7, 3.5)
    yield at_most("training step, fresh connectivity, in times of one", Run("fresh", MNIST), step, 1.3, 1.15)
    yield faster("score 1000 rows, against dense NumPy", Run("score-1000", MNIST), "numpy", 2.5, 3.5)
    yield faster_than_compiled("score 1000 rows", Run("score-1000", MNIST), 2.8, 3.5)
    for size, least, aim in ((MNIST, 20, 15), (DNA, 12, 8), (TINY, 8, 5)):
        microseconds = partial(Figures.microseconds, run=Run("score-1", size))
        yield Target(f"score one row, {size}", microseconds, least, aim, "{:.3g} µs", True)
    yield faster("sample 100 rows, against D dense passes", Run("sample-100", MNIST), "numpy", 500, 1000)
    yield at_most("sample 1000 rows in times of scoring them", Run("sample-1000", MNIST), Run("score-1000", MNIST), 1.7, 1.3)
    yield at_most("32-mask mixture in times of 32 single-mask scores", Run("mixture", MNIST), Run("apart", MNIST), 1.1, 1.0)
    for name in (layers.FORWARD, layers.BACKWARD_INPUT, layers.BACKWARD):
        for layer in KERNELS[name]:
            share = partial(Figures.share_of_peak, run=Run(name, layer))
            yield Target(f"{name}, {layer}: share of FMA peak", share, 0.85, 0.92, "{:.0%}")
    for size in STEP_SIZES[:5]:
        yield _threads(f"training step, {size}", Run("step", size))
    for what, case in {"training step, fresh connectivity": "fresh", "score 1000 rows": "score-1000"}.items():
        yield _threads(what, Run(case, MNIST))
    for what, case in {"sample 1000 rows": "sample-1000", "32-mask mixture": "mixture"}.items():
        yield _threads(what, Run(case, MNIST))
    for what, case in {"step": "step", "score 32 rows": "score-32", "sample 32 rows": "sample-32"}.items():
        tiny = Run(case, TINY, "native-2")
        yield faster(f"tiny, {what}: two threads against one, 5 % for noise", tiny, "native", 0.95)
        yield faster(f"tiny, {what}: two threads against NumPy", tiny, "numpy", 1, 3)
    for size in BELOW[:-1]:
        gain = partial(Figures.ratio, a=Run("step", BELOW[-1]), b=Run("step", size))
        yield Target(f"density {size.density:.0%}: step against that of 13 %", gain, 1)
    jit = Run("step", MNIST, "jit")
    yield at_most("jit kernels in times of native ones, training step", jit, step, 2, 1.3)
    for size in (STEP_SIZES[0], STEP_SIZES[4]):
        yield of_whole(whole.MEMORY_SHARE.format(size), 1.2, 1.1)
    yield of_whole(whole.EPOCH_SHARE, 1.05)
    yield of_whole(whole.VALIDATION_SHARE, 1.05)
    yield of_whole(whole.SERVING, 0.05, None, "{:.3f} s")
    yield of_whole(whole.FIRST_FIT, 0.3, None, "{:.3f} s")


def _threads(what: str, run: Run) -> Target:
    return faster(f"two threads against one, {what}", run._replace(implementation="native-2"), "native", 1.75, 1.9)


TARGETS = list(_targets())
