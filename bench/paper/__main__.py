"""The paper's tables and figures: ``python -m bench.paper TABLE``, from the root of the repository.

Trains, chooses on the validation rows, evaluates on the test rows once, and writes ``bench/paper/results/TABLE.json`` and the
page ``bench/paper/results/README.md`` of all tables that are there. Rows that were there and are not made anew stay. Every run
is kept, and goes on from a checkpoint if it was cut off: the same command, given again, does what is left. One line to stderr
for each run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import machine
from bench.nets import SHARED
from bench.paper import best, figures, page, published, recipes, tables
from bench.paper.runs import Place, find
from made_fast.system import threads

__all__ = ["main"]

HERE = Path(__file__).parent
WIDTHS = (500, 2000, 8000)
TABLES = ("table4", "table6", "figure2", "figure3", "table1", "best", "refit", "ideas", "baselines", "rivals", "page")


class RefusedError(Exception):
    """What was asked for cannot be done; the text is the one line to say."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what is asked for."""
    parser = argparse.ArgumentParser("python -m bench.paper", description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=TABLES, help="what to make; 'page' only writes the page anew")
    parser.add_argument(
        "--sets",
        nargs="+",
        metavar="NAME",
        help="data sets (table4, best, refit, ideas, baselines, rivals); by default those in DIR",
    )
    parser.add_argument("--data", type=Path, default=SHARED, metavar="DIR", help="where NAME.npz (or .amat, ...) are")
    parser.add_argument("--work", type=Path, default=HERE / "kept", metavar="DIR", help="where runs are kept")
    parser.add_argument("--results", type=Path, metavar="DIR", help="where tables are written; with --quick, by default WORK")
    parser.add_argument("--jobs", type=int, default=threads.available(), help="sets at a time, each on one thread (table4)")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, help="hidden units of table6")
    layers, masks = (sorted({row[i] for row in published.MNIST}) for i in (0, 1))
    parser.add_argument("--layers", type=int, nargs="+", choices=layers, default=layers, help="hidden layers of table6")
    parser.add_argument("--masks", type=int, nargs="+", choices=masks, default=masks, help="masks of table6")
    parser.add_argument("--variants", nargs="+", choices=recipes.VARIANTS, default=recipes.VARIANTS, help="columns of table4")
    parser.add_argument("--budget", type=float, default=best.BUDGET, help="seconds for a set of best or refit")
    parser.add_argument("--max-epochs", type=int, help="of table4, table6 and figure2")
    parser.add_argument("--quick", action="store_true", help="tiny runs on a few rows: does it work?")
    given = parser.parse_args(arguments)
    given.results = given.results or (given.work if given.quick else HERE / "results")
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Make what is asked for; return the exit code."""
    given = parse(arguments)
    try:
        made = make(given)
    except KeyboardInterrupt:
        tables.say("interrupted; what was done is kept, and the same command goes on from there")
        return 130
    except (RefusedError, OSError, ValueError, FloatingPointError) as error:
        tables.say(f"bench.paper: {error}")
        return 2
    print(made)
    return 0


def make(given: argparse.Namespace) -> Path:
    """Make a table or a figure; return the path of the page. What there is of a table is written with every row."""
    wide = given.table != "table4"
    jobs = 1 if wide else max(1, given.jobs)
    place = Place(given.data, given.work, max(1, threads.available() // jobs), given.quick)
    given.results.mkdir(parents=True, exist_ok=True)
    path = given.results / f"{given.table}.json"
    machines, there = earlier(path, given.quick)
    table = {which(row): row for row in there}
    for row in rows(given, place, jobs):
        table[which(row)] = row
        result = {
            "machine": " and ".join(dict.fromkeys([*machines, machine.cpu()])),
            "quick": given.quick,
            "rows": list(table.values()),
        }
        path.write_text(json.dumps(result, indent=1) + "\n")
    if given.table == "figure2":
        figures.curve(list(table.values()), given.results / "figure2.png")
    elif given.table == "figure3":
        figures.samples(place, given.results)
    return page.write(given.results)


def earlier(path: Path, quick: bool) -> tuple[list[str], list[dict[str, Any]]]:
    """Return where a table was made, and its rows, as it is; rows of quick runs do not mix with others."""
    result = json.loads(path.read_text()) if path.exists() else None
    if result is None or result["quick"] != quick:
        return [], []
    return result["machine"].split(" and "), result["rows"]


def which(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what a row is about: one with the same takes its place."""
    return tuple(row.get(name) for name in ("data_set", "variant", "set", "model", "D", "H", "R"))


def rows(given: argparse.Namespace, place: Place, jobs: int) -> Iterator[Any]:
    """Yield the rows of a table as they are made; ``page`` and ``figure3`` have none."""
    changes = {} if given.max_epochs is None else {"max_epochs": given.max_epochs}
    if given.table == "table4":
        yield from tables.table_4(names(given, tuple(published.TABLE_4)), given.variants, place, jobs, changes)
    elif given.table == "best":
        yield from best.rows(names(given, tuple(published.KNOWN)), place, given.budget)
    elif given.table == "refit":
        yield from best.refitted_rows(names(given, tuple(published.KNOWN)), place, given.budget)
    elif given.table == "ideas":
        from bench.paper import ideas  # compiles kernels by Numba

        yield from ideas.rows(names(given, ideas.SETS), place)
    elif given.table == "table6":
        yield from tables.table_6(place, given.widths, given.layers, given.masks, changes)
    elif given.table == "figure2":
        yield from tables.figure_2(place, changes)
    elif given.table == "table1":
        yield from figures.times(given.quick)
    elif given.table == "baselines":
        from bench.paper import others  # compiles kernels by Numba

        yield from others.baselines(names(given, others.SETS), place)
    elif given.table == "rivals":
        from bench.paper import rivals  # compiles kernels by Numba

        yield from rivals.rivals(names(given, rivals.SETS), place)


def names(given: argparse.Namespace, known: Sequence[str]) -> list[str]:
    """Return the sets to work on; refuse one that is asked for by name and is not known or not there."""
    asked = list(given.sets or [])
    if unknown := [name for name in asked if name not in known]:
        raise RefusedError(f"{given.table} knows no set {', '.join(unknown)}; it knows {', '.join(known)}")
    there = [name for name in asked or known if find(name, given.data)]
    if lacking := [name for name in asked if name not in there]:
        raise RefusedError(
            f"{', '.join(lacking)}: no such file in {given.data} (NAME.npz or NAME.amat, ...); --data DIR says where"
        )
    if not there:
        raise RefusedError(
            f"no data set in {given.data}; --data DIR says where they are ({', '.join(known)}, as .npz or .amat)"
        )
    return there


if __name__ == "__main__":
    sys.exit(main())
