"""Names of columns, and when they agree: one rule for every table that comes in.

A model knows the names of the columns that it was fitted on, if they had any. A table whose columns have names must then have
the same ones in the same order: another order is refused, not put right, as scikit-learn does it. Where one side has no names
(an array, say) nothing can be compared, and the position of a column says what it is.

Not here: how names are read off a table (``tables/arrays.py``) or kept in a file (``inference/modelfile.py``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

__all__ = ["check", "check_different"]

SHOWN = 5
"""Most names in an error text."""

WAY_OUT = "Select them by name, in the order of the model's feature_names."


def check(found: Sequence[str] | None, expected: Sequence[str] | None, name: str, way_out: str = WAY_OUT) -> None:
    """Refuse a table called ``name`` whose columns are named ``found`` where ``expected`` are demanded.

    Raises ValueError; scikit-learn's checks look for its first sentence.
    """
    if found is None or expected is None or tuple(found) == tuple(expected):
        return
    words = []
    had, has = set(expected), set(found)
    unseen, gone = [c for c in found if c not in had], [c for c in expected if c not in has]
    if unseen:
        words.append(f"unknown are {_listed(unseen)}")
    if gone:
        words.append(f"missing are {_listed(gone)}")
    if not words and sorted(found) == sorted(expected):
        at = next(i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b)
        words.append(f"the order is another: column {at} is {found[at]!r} where {expected[at]!r} was")
    raise ValueError(
        f"The feature names should match those that were passed during fit. {name} must have the same columns, in the same "
        f"order: {'; '.join(words) or 'some are there more than once'}. {way_out}"
    )


def check_different(found: Sequence[str] | None) -> None:
    """Refuse names to be learned of which some are the same: they would not say which column is which. Raises ValueError."""
    if found is not None and len(set(found)) < len(found):
        twice = [name for name, n in Counter(found).items() if n > 1]
        raise ValueError(
            f"the names of the columns must differ, got {_listed(twice)} more than once. "
            "Rename them, or pass the values alone: X.to_numpy(), say."
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:SHOWN])) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
