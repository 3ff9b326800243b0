"""Report what masks are worth on this machine: ``python -m bench.report``, from the root of the repository.

Measures the groups of ``plan.py`` in some minutes and writes ``bench/results/<cpu>.md``: targets first, then every group, then
the machine. Implementations take turns in one process; a figure is the median over the rounds, a ratio one of medians. Where
other programs hold the CPU, long calls suffer and short ones slip through: the last line says so, and ``--cpu-time`` counts
only what was ours (and leaves two threads out). Not shown: the compilation of the Numba kernels.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import machine, plot
from bench.cases import CASES, Run
from bench.implementations import missing, n_threads, one_blas_thread
from bench.nets import DNA, MNIST
from bench.plan import GROUPS, TARGETS, Figures
from bench.whole import WHOLE
from bench.work import measure

__all__ = ["main"]

RESULTS = Path(__file__).parent / "results"
SHORT = {"kernels": 1 / 3}
"""Groups of many small rows get this share of the seconds."""


class Report:
    """Lines of Markdown, printed as they come."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, *lines: str) -> None:
        """Print lines and keep them."""
        print(*lines, sep="\n", flush=True)
        self.lines += lines

    def head(self, *columns: str) -> None:
        """Begin a table: its first column holds words, the others figures."""
        self.add("", f"| {' | '.join(columns)} |", f"| --- |{' ---: |' * (len(columns) - 1)}")

    def row(self, *cells: str) -> None:
        """Add a row to the table."""
        self.add(f"| {' | '.join(cells)} |")


def show(seconds: float | None) -> str:
    """Return a time in the unit that suits it."""
    if seconds is None:
        return "-"
    unit, factor = next((u, f) for u, f in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)) if seconds * f >= 1 or u == "µs")
    return f"{seconds * factor:.3g} {unit}"


def ratio(a: float | None, b: float | None) -> str:
    """Return one time in times of another."""
    return f"{a / b:.3g}x" if a and b else "-"


def measure_group(name: str, rows: Sequence[list[Run]], options: argparse.Namespace, figures: Figures, report: Report) -> None:
    """Measure the rows of a group, and show a line for each case at each size."""
    present = list(dict.fromkeys(run.implementation for row in rows for run in row))
    extra = [
        *["native against NumPy"] * ({"numpy", "native"} <= set(present)),
        *["two threads against one"] * ("native-2" in present),
        *["native, share of FMA peak"] * ("peak" in present),
    ]
    report.add("", f"## {name[0].upper()}{name[1:]}")
    report.head("what", *present, *extra)
    for row in rows:
        times = figures.row_of(*row)
        if not times:
            works = []
            for run in row:
                works.append(run.build())
                works[-1].warm_up()  # at once, while rows and truth of its size are kept
            clock = time.process_time if options.cpu_time else time.perf_counter
            times = dict(zip(row, measure(works, options.seconds * SHORT.get(name, 1), clock), strict=True))
            figures.rows.append(times)
        for case, size in dict.fromkeys((run.case, run.size) for run in row):
            found = {run.implementation: times[run] for run in row if (run.case, run.size) == (case, size)}
            share = figures.share_of_peak(Run(case, size))
            more = {
                "native against NumPy": ratio(found.get("numpy"), found.get("native")),
                "two threads against one": ratio(found.get("native"), found.get("native-2")),
                "native, share of FMA peak": f"{share:.0%}" if share else "-",
            }
            report.row(f"{CASES[case].title}, {size}", *(show(found.get(i)) for i in present), *(more[name] for name in extra))


def chosen(options: argparse.Namespace) -> Iterator[tuple[str, list[list[Run]]]]:
    """Yield the groups with the rows that are asked for, and of those what can run here."""
    for name, rows in GROUPS.items():
        asked = [row for row in rows if any(options.only in f"{name}: {CASES[run.case].title}, {run.size}" for run in row)]
        here = [[run for run in row if can_run(run.implementation, options)] for row in asked]
        if any(here):
            yield name, [row for row in here if row]


def can_run(implementation: str, options: argparse.Namespace) -> bool:
    """Say whether an implementation is timed: it must be here, and CPU time of two threads is no time."""
    return not missing(implementation) and not (options.cpu_time and n_threads(implementation) > 1)


def add_targets(figures: Figures, report: Report, all_of_them: bool) -> None:
    """Show what was demanded and what was found."""
    found = [(target, target.value(figures)) for target in TARGETS]
    shown = [pair for pair in found if all_of_them or pair[1] is not None]
    if not shown:
        return
    report.add("", "## Targets")
    report.head("what", "at least", "measured", "met?")
    for target, value in shown:
        least, *aim = (target.unit.format(number) for number in (target.least, target.aim) if number is not None)
        demand = f"{'at most ' * target.at_most}{least}{''.join(f' (aim: {number})' for number in aim)}"
        report.row(target.what, demand, "-" if value is None else target.unit.format(value), target.verdict(value))


def add_machine(report: Report) -> None:
    """Show what the machine is and can do."""
    report.add("", "## Machine")
    report.head("what", "")
    for name, value in machine.facts().items():
        report.row(name, value)
    absent = dict.fromkeys(missing(run.implementation) for rows in GROUPS.values() for row in rows for run in row)
    report.row("left out", "; ".join(reason for reason in absent if reason) or "nothing")
    peaks = machine.peaks()
    if peaks is None:
        report.add("", "Its peaks were not measured: there is no C compiler.")
        return
    threads = list(peaks.flops)
    for n, flops in peaks.flops.items():
        report.row(f"FMA peak, float32, {n} thread{'s' * (n > 1)}", f"{flops / 1e9:.0f} GFLOP/s")
    if peaks.round_trip:
        report.row("a cache line to the other core and back", f"{peaks.round_trip * 1e9:.0f} ns")
        report.add("", "Figures of two threads are to be trusted where that is not far above 100 ns.")
    kinds = {"read": peaks.read, "read and write back": peaks.read_write}
    report.head("memory for each thread, GB/s", *(f"{kind}, {n}" for kind in kinds for n in threads))
    for size in machine.MEMORY:
        report.row(size, *(f"{rates[size, n] / 1e9:.0f}" for rates in kinds.values() for n in threads))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the report."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description="Time made_fast against dense NumPy.")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each row of the tables (default 3)")
    parser.add_argument("--only", default="", help="groups and rows whose name contains this")
    parser.add_argument("--out", help="where to write it; - only prints (default bench/results/<cpu>.md, with --only -)")
    parser.add_argument("--cpu-time", action="store_true", help="count CPU time: for a machine that others use too")
    options = parser.parse_args(arguments)
    out = options.out or ("-" if options.only else str(RESULTS / f"{machine.slug(machine.cpu())}.md"))
    figures, tables, top = Figures(), Report(), Report()
    wall, cpu = time.perf_counter(), time.process_time()
    with one_blas_thread():
        for name, rows in chosen(options):
            measure_group(name, rows, options, figures, tables)
        share = (time.process_time() - cpu) / (time.perf_counter() - wall)
        for name in (name for name in WHOLE if options.only in name):
            tables.add("", f"## {name[0].upper()}{name[1:]}")
            tables.head("what", "")
            found = WHOLE[name]()
            for what, value in found.items():
                tables.row(what, f"{value:.3g}")
            figures.whole |= found
        if options.only in "machine":
            add_machine(tables)
    if figures.rows and share < 0.95:
        tables.add("", f"Others were running: this process had a CPU for {share:.0%} of the time. Take the figures as rough.")
    data = ", ".join(f"{size} {size.source}" for size in (MNIST, DNA))
    top.add(
        "",
        f"# {machine.cpu()}",
        "",
        f"By `python -m bench.report`: medians of {'CPU' if options.cpu_time else 'wall'} time over interleaved rounds in one "
        f"process; float32, one thread but for native-2; mini-batches of 100 rows but where B says else; data: {data}, "
        "otherwise random bits of 13 % ones or as said. Versions and the peaks of the machine stand at the end.",
    )
    add_targets(figures, top, all_of_them=not options.only)
    if out != "-":
        path = Path(out)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = path.with_name(f"{path.stem}-scaling.png")
        if plot.scaling(figures, picture):
            top.add("", f"![Time of a training step against live weights]({picture.name})")
        roofs = path.with_name(f"{path.stem}-roofline.png")
        if plot.roofline(figures, roofs):
            top.add("", f"![Kernels under the roofs of the core]({roofs.name})")
        path.write_text("\n".join([*top.lines[1:], *tables.lines, ""]))
        print(f"\n{path}")


if __name__ == "__main__":
    main()
