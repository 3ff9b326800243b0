"""When the names of a table's columns agree with those that a model was fitted on: the same ones in the same order.

Without names on one side (an array, say) nothing is compared.

Not here: how names are read off a table (``tables/arrays.py``) or kept in a file (``inference/modelfile.py``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

__all__ = ["check", "check_different"]

SHOWN = 5  # most names in an error text
WAY_OUT = "Select them by name, in the order of the model's feature_names."


def check(found: Sequence[str] | None, expected: Sequence[str] | None, name: str, way_out: str = WAY_OUT) -> None:
    """Refuse a table called ``name`` whose columns are named ``found`` where ``expected`` are demanded.

    Raises ValueError; scikit-learn's checks look for its first sentence.
    """
    if found is None or expected is None or tuple(found) == tuple(expected):
        return
    had, has = set(expected), set(found)
    differing = {"unknown": [c for c in found if c not in had], "missing": [c for c in expected if c not in has]}
    words = [f"{how} are {_listed(names)}" for how, names in differing.items() if names]
    if not words and sorted(found) == sorted(expected):
        at = next(i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b)
        words.append(f"the order is another: column {at} is {found[at]!r} where {expected[at]!r} was")
    raise ValueError(
        f"The feature names should match those that were passed during fit. {name} must have the same columns, in the same "
        f"order: {'; '.join(words) or 'some are there more than once'}. {way_out}"
    )


def check_different(found: Sequence[str] | None) -> None:
    """Raise ValueError for names to be learned of which some are the same."""
    if found is not None and len(set(found)) < len(found):
        twice = [name for name, n in Counter(found).items() if n > 1]
        raise ValueError(
            f"the names of the columns must differ, got {_listed(twice)} more than once. "
            "Rename them, or pass the values alone: X.to_numpy(), say."
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:SHOWN])) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
