"""Print what masks are worth on this machine: ``python -m bench.report``, from the root of the repository.

Implementations take turns, a few milliseconds each, in one process (A B C A B C ...): when the machine slows down it does so
for all of them. A figure is the median over the rounds; a ratio is a ratio of medians. Where other programs hold the CPU, long
calls suffer and short ones slip through: the last line says so, and ``--cpu-time`` counts only what was ours. Not shown: more
than one thread, other sizes, the first call (Numba compiles in it), memory.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from statistics import median

from bench import cases

TURN = 0.02
"""Least seconds that an implementation runs for when it is its turn."""

LEAST_ROUNDS = 5


def measure(case: cases.Case, size: cases.Size, seconds: float, clock: Callable[[], float]) -> dict[str, float]:
    """Return the median seconds per unit of work of each implementation."""
    works = [case.build(size, name) for name in (case.baseline, *cases.IMPLEMENTATIONS[1:]) if cases.available(name)]
    repeats = []
    for work in works:
        work.warm_up()
        repeats.append(max(1, int(TURN / timed(work, 1, clock))))
    times: dict[str, list[float]] = {work.implementation: [] for work in works}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[works[0].implementation]) < LEAST_ROUNDS:
        for work, repeat in zip(works, repeats, strict=True):
            times[work.implementation].append(timed(work, repeat, clock) / work.units)
    return {name: median(values) for name, values in times.items()}


def timed(work: cases.Work, repeat: int, clock: Callable[[], float]) -> float:
    """Return the seconds of one call, as the mean of ``repeat``; collection of garbage waits."""
    with cases.using(work.implementation):
        gc.disable()
        begin = clock()
        for _ in range(repeat):
            work.run()
        elapsed = clock() - begin
        gc.enable()
    return elapsed / repeat


def show(seconds: float | None) -> str:
    """Return a time in the unit that suits it."""
    if seconds is None:
        return "-"
    unit, factor = next((u, f) for u, f in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)) if seconds * f >= 1 or u == "µs")
    return f"{seconds * factor:.3g} {unit}"


def main() -> None:
    """Measure every case at every size and print a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description="Time made_fast against dense NumPy.")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each row of the table (default 5)")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--cpu-time", action="store_true", help="count CPU time: for a machine that others use too")
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    wall, cpu = time.perf_counter(), time.process_time()
    with cases.one_blas_thread():
        facts = cases.machine()
        print(f"{facts.pop('cpu')}; " + ", ".join(f"{name} {value}" for name, value in facts.items()))
        sources = ", ".join(f"{size} {size.source}" for size in cases.SIZES)
        print(f"\nMedians of {'CPU' if options.cpu_time else 'wall'} time; float32; data: {sources}.")
        print("\n| what | dense NumPy | jit | native | native against NumPy |\n| --- | ---: | ---: | ---: | ---: |")
        for size in cases.SIZES:
            for case in cases.CASES.values():
                name = f"{case.title}{case.note}, {size}"
                if options.only not in name:
                    continue
                found = measure(case, size, options.seconds, clock)
                numpy, jit, native = (found.get(key) for key in (case.baseline, "jit", "native"))
                ratio = f"{numpy / native:.3g}x" if numpy and native else "-"
                print(f"| {name} | {show(numpy)} | {show(jit)} | {show(native)} | {ratio} |", flush=True)
    share = (time.process_time() - cpu) / (time.perf_counter() - wall)
    if share < 0.95:
        print(f"\nOthers were running: this process had a CPU for {share:.0%} of the time. Take the figures as rough.")


if __name__ == "__main__":
    main()
