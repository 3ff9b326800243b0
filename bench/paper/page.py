"""The page of results: one Markdown file of whatever JSON there is. Not here: measuring (``tables.py``, ``figures.py``)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.paper import published
from bench.paper.runs import describe

__all__ = ["write"]

SECTIONS = {
    "table4": (
        "Table 4: binary sets",
        "The paper's grid, cut down by the rule in `recipes.py`, and our recipe: the best of four or five.",
    ),
    "table6": (
        "Table 6: binarized MNIST",
        "AdaGrad, 150 epochs at most; the published networks have layers of 8000 units. The best figure known of fully "
        f"connected networks is {published.BEST['binarized_mnist']:.2f}, of EoNADE-5.",
    ),
    "figure2": ("Figure 2: the number of masks", "Binarized MNIST, one layer of 500 units, AdaGrad."),
    "best": (
        "The best fit: the DEBD sets and those of the paper",
        'Plain `MADE()`, and `MADEEnsemble(preset="best")` in a few minutes of wall time for each set; the seconds of the '
        "plain fit come first. Binarized MNIST has an ensemble of stated settings in place of the search. All see training "
        "and validation rows only, and their test rows are scored once; but the defaults and the walk of the preset were "
        "worked out on some of these sets. *Best known*: the lowest published of ID-SPN, HCLT, continuous mixtures, MoAT, "
        "LearnPSDD, MADE. Means are compared, to two decimals.",
    ),
    "refit": (
        "The best fit, with the validation rows put back",
        '`MADEEnsemble(preset="best", refit=True)`: half of the time that members have is for training them again, for as '
        "many epochs, on training and validation rows together. The published figures are of models that saw training rows "
        "only.",
    ),
    "ideas": (
        "Ideas that are not in the engine",
        "What each would bring to one network, in nats of the validation rows (+ is better), with half of the 95 % interval "
        "of the paired difference; two seeds. The first three are of `MADE()`, the others of a dense network in PyTorch with "
        "one layer of 500, or two (`ideas.py` says what they are); of L1 and L2 the best of three and of two strengths.",
    ),
    "rivals": (
        "Rivals on the same rows",
        "Each with a few settings (`rivals.py`), chosen on the validation rows; ours come first. *Above ours*: the mean "
        "difference of NLL to the first of them over the test rows, and half of the 95 % interval of that difference: rows "
        "are paired. CPU seconds are of all settings.",
    ),
    "baselines": ("Other models", "Small reference implementations (`bench/baselines/`), each trained as it stands."),
    "table1": ("Table 1: the time of a test NLL", ""),
}
WHY = {
    "table4": "at most 14 settings of the paper's 120 were tried and four or five of ours, for 1000 epochs at most",
    "table6": "150 epochs at most were made, and the published layers have 8000 units",
}
"""What may be behind a run that falls short."""

PICTURES = {
    "figure2.png": "Test NLL of binarized MNIST against the number of masks",
    "figure3.png": "Samples, and beside each its nearest neighbour among the training rows",
}

INTRODUCTION = """\
Made by `python -m bench.paper`. What is chosen is chosen on validation rows; test rows are looked at once, after that. NLL is
the mean over the test rows, in nats, with half of its 95 % interval (1.96 standard errors). *Within*: the published figure is
not below that interval. CPU seconds, of all threads together, are those of the chosen run's training; in brackets, of all the
runs it was chosen from."""


def write(results: Path) -> Path:
    """Write ``README.md`` in the folder of results, of all tables and pictures that are there; return its path."""
    lines = ["# The paper, reproduced", "", INTRODUCTION]
    for name, (title, about) in SECTIONS.items():
        if (path := results / f"{name}.json").exists():
            lines += ["", f"## {title}", "", *_section(name, json.loads(path.read_text()), about)]
            if (results / f"{name}.png").exists():
                lines += ["", f"![{PICTURES[f'{name}.png']}]({name}.png)"]
    if (results / "figure3.png").exists():
        lines += [
            "",
            "## Figure 3: samples",
            "",
            f"![{PICTURES['figure3.png']}](figure3.png)",
            "",
            "`python -m bench.paper figure3`",
        ]
    page = results / "README.md"
    page.write_text("\n".join(lines) + "\n")
    return page


def _section(name: str, result: dict[str, Any], about: str) -> Iterator[str]:
    """Yield the lines of a section."""
    if result["quick"]:
        yield "**A quick run: it shows that all of it works; its figures mean nothing.**"
        yield ""
    spent = sum(row.get("all_cpu_seconds", 0) for row in result["rows"])
    took = f", {spent / 60:.0f} minutes of CPU time in all" if spent else ""
    sets = dict.fromkeys(row["set"] for row in result["rows"] if "set" in row)  # of many only some are asked for
    command = " ".join([name, *(["--sets", *sets] if sets else [])])
    yield f"{about} `python -m bench.paper {command}`, {result['machine']}{took}.".strip()
    yield ""
    yield from _table(name, result["rows"])
    if name == "best":
        yield ""
        at_or_below = sum(row["at or below"] == "yes" for row in result["rows"])
        yield f"At or below the best known: {at_or_below} of {len(result['rows'])}."
    for row in result["rows"] if name in WHY else ():
        if row["published"] is not None and _above(row) > 0:
            yield ""
            yield f"- {row['data_set']}, {row['variant']}: short by {_above(row):.3f} nats; {WHY[name]}."


def _table(name: str, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a table: of runs, or of rows that have columns of their own, words to the left."""
    if "params" in rows[0]:
        shown = [_of_a_run(name, row) for row in rows]
        words = {"set", "model", "within", "at or below", "chosen"}
    else:
        shown, words = rows, {column for column, value in rows[0].items() if isinstance(value, str)}
    columns = dict.fromkeys(column for cells in shown for column in cells)
    yield f"| {' | '.join(columns)} |"
    yield f"| {' | '.join('---' if column in words else '---:' for column in columns)} |"
    for cells in shown:
        yield f"| {' | '.join(_cell(cells.get(column)) for column in columns)} |"


def _of_a_run(name: str, row: dict[str, Any]) -> dict[str, Any]:
    """Return the cells of a run by column."""
    known = row["published"] is not None
    figure = f"{row['published']:.2f}" if known else None
    cells = {"set": row["data_set"], "model": row["variant"], "test NLL": f"{row['nll']:.2f} ± {row['interval']:.2f}"}
    cells |= {"published": figure, "within": ("no" if _above(row) > 0 else "yes") if known else None}
    if name == "table4":
        best_known = published.BEST.get(row["data_set"])
        cells["best known"] = None if best_known is None else f"{best_known:.2f}"
    spent = f" ({row['all_cpu_seconds']:.0f})" if row["n_runs"] > 1 else ""
    return cells | {
        "parameters": f"{row['n_parameters']:,}",
        "masks": row["n_masks"],
        "epochs": str(row["epochs"]),
        "CPU s": f"{row['cpu_seconds']:.0f}{spent}",
        "threads": row["n_threads"],
        "chosen": describe(row["params"]),
    }


def _above(row: dict[str, Any]) -> float:
    """Return by how much the published figure is below our interval; 0 or less if it is not."""
    return float(row["nll"] - row["interval"] - row["published"])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
