"""Random nets of variables of several levels, for the tests of the kernels: cases like the binary ones, and walks."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from kernel_cases import Case, copied, pack_bits, room, run
from shared_cases import SharedCase
from variable_cases import inputs_of, n_levels

from made_fast.kernels import layout as panels


class LevelCase(Case):
    """A net as in ``Case``, with a context and variables of other widths than 1; levels, (n, V), are in order of place."""

    SMALL = ("3: 3 1 5t 0 2", (8, 9), 9, "all")
    LARGE = ("3: 70t 5 1 0 130 2t", (31, 70), 31, "all")
    # Beside the edges of ``Case``: groups of logits within a panel, up to its end, across one and over more than one.
    SHAPES = (
        ("0: 5", (), 7, "none"),
        ("0: 2t", (9,), 1, "output"),
        ("0: 1 3 1 2t 0", (31,), 8, "none"),
        ("3: 0 1 5t 0", (), 31, "none"),
        ("3: 1 1 70t 0 1", (7,), 9, "output"),
        ("70: 2 3t", (20, 7), 33, "all"),
        ("0: 70 130t 1 5 2t", (70,), 17, "none"),
        ("70: 130 3 0 1 70t 5t", (9, 8), 16, "output"),
        ("3: 2 130t 1 70 3t 5 0 1", (70, 90), 31, "all"),
    )

    def walk(
        self,
        module: ModuleType,
        given: Any,
        uniforms: Any,
        weights: Any = (),
        n_places: int | None = None,
        partners: Any = (),
        block: int = 7,
    ) -> tuple[Any, Any]:
        """Return (levels, log_mass) of walks with the contexts of the case's rows."""
        bits = np.resize(self.bits, (len(given), self.bits.shape[1]))
        context = bits if self.in_order.n_context else np.zeros((0, 0), np.uint64)
        levels, log_mass = room(given.shape, np.int32, -7), room(len(given), "float64")
        scratch = self.scratch(*panels.walk_workspace(self.layout, block))
        places = self.n_places if n_places is None else n_places
        args = copied(given, np.int32), np.array(weights, float), np.array(partners, np.int32), uniforms, places
        run(module, "walk", self.net, context, *args, block, scratch, levels, log_mass)
        return levels, log_mass

    def inputs(self, levels: Any) -> Any:
        """Return rows of inputs that tell levels, each with the context of ``walk``."""
        return inputs_of(
            self.in_order, levels, np.resize(self.x, (len(levels), self.x.shape[1]))[:, : self.in_order.n_context]
        )

    def probabilities(self, module: ModuleType, x: Any) -> list[Any]:
        """Return the conditional probabilities of the levels of each variable, (n, levels) float64 each."""
        proba, found, first = self.conditionals(module, x).astype(float), [], 0
        for width in self.in_order.widths:
            p = proba[:, first : first + width]
            found.append((np.ones((len(p), 1)), np.concatenate([1 - p, p], axis=1))[width] if width < 2 else p)
            first += width
        return found

    def enumerate(self) -> Any:
        """Make the rows all those of one context; return their levels."""
        sizes = n_levels(self.in_order)
        self.levels = np.stack(np.unravel_index(np.arange(np.prod(sizes)), sizes), axis=1)
        self.x = self.inputs(self.levels)
        self.x[:] = inputs_of(
            self.in_order, self.levels, np.repeat(self.x[:1, : self.in_order.n_context], len(self.x), axis=0)
        )
        self.bits = pack_bits(self.x)
        return self.levels


class SharedLevelCase(SharedCase):
    """A net as in ``SharedCase`` with such variables; levels are in original order."""

    SMALL = ("3: 3 1 5t 0 2", (9, 8), "all", True)
    LARGE = ("3: 70t 5 1 0 130 2t", (65, 33), "all", True)
    SHAPES = (
        ("0: 5", (), "none", True),
        ("3: 1 0 2t 3", (7,), "output", True),
        ("0: 5t 70 1", (31,), "none", False),
        ("70: 3 1 130t 2", (9, 8), "all", False),
        ("3: 130 5t 0 1 70t 2", (65, 33), "all", True),
    )
