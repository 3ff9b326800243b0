"""Variables of several levels for the tests of the kernels: random ones, their indicators, their loss, formula by formula."""

from __future__ import annotations

from typing import Any

import numpy as np

from made_fast.kernels.layout import ONE_HOT, THERMOMETER
from made_fast.network.masks import Variables


def variables_of(inputs: int | str) -> Variables | None:
    """Return the variables of "context: widths", a t behind a width for thermometer coding; of a number of inputs, None."""
    if isinstance(inputs, int):
        return None
    context, _, widths = inputs.partition(":")
    codings = [THERMOMETER if width.endswith("t") else ONE_HOT for width in widths.split()]
    return Variables(tuple(int(width.rstrip("t")) for width in widths.split()), tuple(codings), int(context))


def n_levels(variables: Variables) -> list[int]:
    """Return the number of levels of each variable."""
    return [(1, 2)[width] if width < 2 else width for width in variables.widths]


def levels_and_inputs(variables: Variables, n_rows: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """Return random levels of each variable, (n, V), and the inputs that tell them, after a random context."""
    levels = rng.integers(0, n_levels(variables), (n_rows, len(variables.widths)))
    return levels, inputs_of(variables, levels, rng.random((n_rows, variables.n_context)) < 0.5)


def inputs_of(variables: Variables, levels: Any, context: Any) -> Any:
    """Return the inputs of rows of levels, (n, V), and of a context, indicator by indicator."""
    x = [list(row) for row in context]
    for v, (width, coding) in enumerate(zip(variables.widths, variables.codings, strict=True)):
        for row, level in zip(x, levels[:, v], strict=True):
            if width < 2:
                row += [level] * width
            else:
                row += [q <= level if coding == THERMOMETER else q == level for q in range(width)]
    return np.array(x, np.uint8).reshape(len(levels), variables.n_inputs)


def nll_of_levels(logits: Any, levels: Any, widths: Any) -> Any:
    """Return -log p of the level of each variable, (n, V), formula by formula."""
    found, first = np.zeros(levels.shape), 0
    for v, width in enumerate(widths):
        a, own = logits[:, first : first + width], levels[:, v]
        if width == 1:
            found[:, v] = np.logaddexp(0, a[:, 0]) - own * a[:, 0]
        elif width:
            top = a.max(axis=1, keepdims=True)
            found[:, v] = np.log(np.exp(a - top).sum(axis=1)) + top[:, 0] - a[np.arange(len(a)), own]
        first += width
    return found


def in_order(variables: Variables, ordering: Any) -> Variables:
    """Return variables in order of place."""
    widths, codings = (tuple(np.array(of)[np.argsort(ordering)].tolist()) for of in (variables.widths, variables.codings))
    return Variables(widths, codings, variables.n_context)


def places_of(ordering: Any, variables: Variables | None) -> tuple[Any, Any]:
    """Return the places of the inputs, 0 of the context, and of the outputs, in original order."""
    if variables is None:
        return ordering, ordering
    outputs = np.repeat(ordering, variables.widths)
    return np.concatenate([np.zeros(variables.n_context, np.int32), outputs]), outputs
