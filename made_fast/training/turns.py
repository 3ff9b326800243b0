"""Turns of masks: the connectivity of each mini-batch, where several connectivities share one set of parameters.

Not here: how masks are drawn (``network/masks.py``), the steps under them (``steps.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast.kernels.records import Masks
from made_fast.network.architecture import Architecture
from made_fast.network.masks import MaskRule, MaskSet
from made_fast.network.network import Turn
from made_fast.tables.bits import unpack_rows
from made_fast.training.rows import TrainingRows

__all__ = ["POOL", "Turns"]

POOL = 32
"""Fresh connectivities are drawn so many at a time, which takes a third of the time of single draws."""

GROUPS_AT_ONCE = 256
"""Most groups of rows with a connectivity of their own in one call, where rows have missing entries."""


class Turns:
    """Masks that take turns, one a mini-batch.

    Attributes
    ----------
    masks : MaskSet
        These take turns, unless there is a rule.
    rule : MaskRule or None
        Draws a fresh connectivity for every step.
    fresh : Generator
        Its random numbers.
    pool_start : mapping or None
        The state of ``fresh`` before the last pool was drawn.
    """

    def __init__(
        self,
        architecture: Architecture,
        masks: MaskSet,
        rule: MaskRule | None,
        fresh: np.random.Generator,
        pool_start: Mapping[str, Any] | None = None,
    ) -> None:
        self.architecture = architecture
        self.masks = masks
        self.rule = rule
        self.fresh = fresh
        self.pool_start = pool_start
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_pool", "_tables")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def _forget(self) -> None:
        self._pool: MaskSet | None = None
        self._tables: Masks | None = None

    def steps_ahead(self, step: int, rows: TrainingRows, batch_size: int, most: int) -> int:
        """Return the most steps, from ``step`` on, that one call may make."""
        if self.rule is not None:
            most = min(most, POOL - step % POOL)
        return most if rows.missing is None else max(1, min(most, GROUPS_AT_ONCE // batch_size))

    def take(self, step: int, rows: TrainingRows, part: NDArray[np.int64], batch_size: int) -> tuple[NDArray[np.int64], Turn]:
        """Return the rows ``part`` in the order of use, and their masks, for the steps from ``step`` on.

        Rows with missing entries get the mask of their step, but with their missing inputs at the end of the ordering.
        """
        masks = self._masks(step)
        if rows.missing is not None:
            part, groups, masks = _pattern_groups(part, batch_size, step, masks, *rows.patterns)
            return part, Turn(self.architecture.tables(masks), groups)
        if self._tables is None:
            self._tables = self.architecture.tables(masks)
        return part, Turn(self._tables, _groups(len(part), batch_size, step, len(masks), self.architecture.n_variables))

    def _masks(self, step: int) -> MaskSet:
        """Return the masks of the steps around ``step``, drawn anew where a pool begins."""
        if self.rule is None:
            return self.masks
        if self._pool is None or step % POOL == 0:
            if step % POOL and self.pool_start is not None:  # a copy, or a resumed fit, amid a pool: it is drawn again
                self.fresh.bit_generator.state = self.pool_start
            self.pool_start = self.fresh.bit_generator.state
            self._pool, self._tables = self.rule.draw(POOL, self.fresh), None
        return self._pool


def _groups(n_rows: int, batch_size: int, step: int, n_masks: int, n_places: int) -> NDArray[np.int64]:
    """Return the table of groups of ``train_shared``: one a step, the masks in turn."""
    first = np.arange(0, n_rows, batch_size)
    stop = np.minimum(first + batch_size, n_rows)
    steps = np.arange(len(first))
    columns = first, stop, (step + steps) % n_masks, np.full(len(first), n_places), steps, stop - first
    return np.stack(columns, axis=1).astype(np.int64)


def _pattern_groups(
    rows: NDArray[np.int64], batch_size: int, step: int, masks: MaskSet, patterns: NDArray[np.uint64], of_row: NDArray[np.intp]
) -> tuple[NDArray[np.int64], NDArray[np.int64], MaskSet]:
    """Cut every step into groups of rows that miss the same inputs; return rows in order, groups, and a mask for each group.

    The mask is that of the step with the missing inputs moved to the end of the ordering: observed inputs depend on observed
    ones alone, and only they count in the loss.
    """
    ordered, chosen = [], []
    table: list[tuple[int, ...]] = []
    done = 0
    for i, start in enumerate(range(0, len(rows), batch_size)):
        batch = rows[start : start + batch_size]
        batch = batch[np.argsort(of_row[batch], kind="stable")]
        found, counts = np.unique(of_row[batch], return_counts=True)
        for pattern, count in zip(found, counts, strict=True):
            table.append((done, done + count, len(table), i, len(batch)))
            chosen.append(((step + i) % len(masks), pattern))
            done += count
        ordered.append(batch)
    of_step, which = np.array(chosen).T
    places = masks.orderings[of_step]
    D = places.shape[1]
    gone = unpack_rows(patterns[which], D)
    groups = np.insert(np.array(table, np.int64), 3, D - gone.sum(axis=1), axis=1)
    late = places + D * gone.astype(np.int32)
    orderings = np.argsort(np.argsort(late, axis=1), axis=1).astype(np.int32) + np.int32(1)
    degrees = tuple(m[of_step] for m in masks.degrees)
    return np.concatenate(ordered), groups, MaskSet(orderings, degrees)
