"""The tables of runs: Table 4, Table 6 and Figure 2, its row of 500 units. Each gives rows for ``page.py``.

Not here: the best fit (``best.py``), what is trained (``recipes.py``), how a run is kept (``runs.py``), other models
(``others.py``).
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypedDict

from bench.paper import published, recipes
from bench.paper.recipes import Choice, Params
from bench.paper.runs import Place, data_set, evaluate, train

__all__ = ["Row", "figure_2", "say", "table_4", "table_6"]


class Row(TypedDict):
    """A line of a table: NLL in nats with half of its 95 % interval, what it took, and what was published."""

    data_set: str
    variant: str
    nll: float
    interval: float
    n_test_rows: int
    published: float | None
    n_parameters: int
    epochs: int
    seconds: float
    cpu_seconds: float
    n_threads: int
    n_runs: int
    all_cpu_seconds: float
    params: Params
    n_masks: int


def say(line: str) -> None:
    """Tell of progress, a line at a time."""
    print(line, file=sys.stderr, flush=True)


def row(choice: Choice, variant: str, value: float | None, place: Place) -> Row:
    """Evaluate the chosen run on the test rows."""
    record, score = choice.record, evaluate(choice.record, place)
    say(f"{record['data_set']}: {variant}: test {score['nll']:.3f} +- {score['interval']:.3f}, published {value}")
    return Row(
        data_set=record["data_set"],
        variant=variant,
        nll=score["nll"],
        interval=score["interval"],
        n_test_rows=score["n_rows"],
        published=value,
        n_parameters=record["n_parameters"],
        epochs=record["epochs"],
        seconds=record["seconds"],
        cpu_seconds=record["cpu_seconds"],
        n_threads=record["n_threads"],
        n_runs=len(choice.runs),
        all_cpu_seconds=sum(run["cpu_seconds"] for run in choice.runs),
        params=record["params"],
        n_masks=record["n_masks"],
    )


def table_4(sets: Sequence[str], variants: Sequence[str], place: Place, jobs: int, changes: Params) -> Iterator[Row]:
    """Yield the rows of Table 4, of these columns."""
    return _side_by_side(partial(_rows_of_table_4, variants=variants, changes=changes), sets, place, jobs)


def _rows_of_table_4(name: str, place: Place, variants: Sequence[str], changes: Params) -> list[Row]:
    values = published.TABLE_4.get(name)
    shown: dict[str, float | None] = dict.fromkeys(recipes.VARIANTS)
    if values is not None:
        sampling = values.one_mask if values.mask_sampling is None else values.mask_sampling
        shown = {"one mask": values.one_mask, "mask sampling": sampling, "our recipe": min(values.one_mask, sampling)}
    n_rows = data_set(name, place).train.shape[0]
    choices = recipes.table_4(lambda params: train(name, {**params, **changes}, place, say), n_rows, variants)
    return [row(choice, variant, shown[variant], place) for variant, choice in choices.items()]


def _side_by_side(work: Callable[..., list[Row]], sets: Sequence[str], place: Place, jobs: int) -> Iterator[Row]:
    """Do the sets in ``jobs`` processes. Ctrl-C ends them at once: their runs go on from checkpoints another time."""
    if jobs == 1:
        for name in sets:
            yield from work(name, place=place)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(jobs, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)) as pool:
        for rows in pool.imap(partial(work, place=place), sets):
            yield from rows


def table_6(
    place: Place, widths: Sequence[int], layers: Sequence[int], masks: Sequence[int], changes: Params
) -> Iterator[Row]:
    """Yield the rows of Table 6: binarized MNIST, of each width with so many layers and masks.

    The paper's two layers of 8000 are 70 million weights: an epoch takes one core a minute, or two and a half with 32 masks.
    """
    for width in widths:
        for (n_layers, n_masks), value in published.MNIST.items():
            if n_layers in layers and n_masks in masks:
                params = {**recipes.mnist(width, n_layers, n_masks), **changes}
                variant = f"{n_layers} layer{'s' * (n_layers > 1)} of {width}, {_masks(n_masks)}"
                yield _one_run("binarized_mnist", params, variant, value, place)


def figure_2(place: Place, changes: Params) -> Iterator[Row]:
    """Yield the NLL of binarized MNIST for growing numbers of masks, one layer of 500 units."""
    for n_masks in (1, 2, 4, 8, 16, 32, 64):
        yield _one_run("binarized_mnist", {**recipes.MNIST, "n_masks": n_masks, **changes}, _masks(n_masks), None, place)


def _masks(n: int) -> str:
    return "one mask" if n == 1 else f"{n} masks"


def _one_run(name: str, params: Params, variant: str, value: float | None, place: Place) -> Row:
    record = train(name, params, place, say)
    return row(Choice(params, record, [record]), variant, value, place)
