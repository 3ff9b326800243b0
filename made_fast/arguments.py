"""Arguments other than tables: cast or refused here, hyper-parameters and the options of methods alike.

A refusal says the name, the demand, what was found, and the way out: ``TypeError`` for a wrong type, ``ValueError`` for a
wrong value. Nothing below checks again. Not here: tables of rows (:mod:`made_fast.checks`), defaults (the estimator).
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast import threads
from made_fast.kernels import layout
from made_fast.masks import Connectivity

__all__ = [
    "boolean",
    "choice",
    "connectivity",
    "constants",
    "dtype",
    "fraction",
    "generator",
    "hidden_sizes",
    "mask_number",
    "member_number",
    "n_threads",
    "non_negative_float",
    "non_negative_int",
    "observed",
    "ordering",
    "positive_float",
    "positive_int",
    "probability",
    "sample_weight",
    "target",
    "the_mask",
    "threshold",
]

IntVector = NDArray[np.int32]


def _int(value: Any, name: str, smallest: int, way_out: str = "") -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an int >= {smallest}, got {value!r} of type {type(value).__name__}.{way_out}")
    if value < smallest:
        raise ValueError(f"{name} must be an int >= {smallest}, got {value}.{way_out}")
    return operator.index(value)


def _real(value: Any, name: str, demand: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be {demand}, got {value!r} of type {type(value).__name__}.")
    return float(value)


def positive_int(value: Any, name: str) -> int:
    """Return ``value`` as an int that is at least 1."""
    return _int(value, name, 1)


def non_negative_int(value: Any, name: str) -> int:
    """Return ``value`` as an int that is at least 0."""
    return _int(value, name, 0)


def n_threads(value: Any) -> int:
    """Return a number of threads; None is as many as the process may use."""
    if value is None:
        return threads.available()
    return _int(value, "n_threads", 1, " Leave it at None to use all the cores there are.")


def mask_number(value: Any, n_masks: int) -> int:
    """Return the number of a mask, 0..K - 1."""
    k = _int(value, "mask", 0)
    if k >= n_masks:
        raise ValueError(f"mask must be one of the model's masks 0..{n_masks - 1}, got {k}.")
    return k


def member_number(value: Any, n_members: int) -> int:
    """Return the number of a member of a mixture, 0..M - 1."""
    m = _int(value, "member", 0)
    if m >= n_members:
        raise ValueError(f"member must be one of the mixture's 0..{n_members - 1}, got {m}.")
    return m


def observed(value: Any, n_inputs: int) -> NDArray[np.bool_]:
    """Return a mask (n_inputs,) bool, True where an input is observed."""
    mask = np.asarray(value)
    if mask.dtype != np.bool_:
        raise TypeError(
            f"observed must be a mask of bools, True where an input is observed, got dtype {mask.dtype}. Of a row x with NaN "
            "for missing it is ~np.isnan(x)."
        )
    if mask.shape != (n_inputs,):
        raise ValueError(f"observed must have shape ({n_inputs},), got {mask.shape}. Pass one bool for each input.")
    return mask


def target(value: Any, n_rows: int, n_inputs: int) -> NDArray[np.intp]:
    """Return one column for each row, (n_rows,) intp, from that or from one for all."""
    columns = np.asarray(value)
    if columns.dtype.kind not in "iu":
        raise TypeError(f"target must be an int or an array of ints, columns counted from 0, got {value!r}.")
    if columns.shape not in ((), (n_rows,)):
        raise ValueError(f"target must be one column, or one for each of the {n_rows} rows, got shape {columns.shape}.")
    wrong = columns[(columns < 0) | (columns >= n_inputs)]
    if wrong.size:
        raise ValueError(f"target must be in 0..{n_inputs - 1}, got {wrong.flat[0]}. Columns are counted from 0.")
    return np.broadcast_to(columns, n_rows).astype(np.intp)


def the_mask(value: Any, n_masks: int) -> Any:
    """Return ``value``, or 0 for None where there is one mask only."""
    if value is not None:
        return value
    if n_masks > 1:
        raise ValueError(
            f"mask must say which member is meant: the model is a mixture over {n_masks} masks, each with its own ordering. "
            f"Pass mask=0, say, or any up to {n_masks - 1}."
        )
    return 0


def connectivity(value: Connectivity, n_features: int, hidden_sizes: Sequence[int]) -> Connectivity:
    """Return ``value`` if it is a connectivity of a network of these sizes."""
    found = (value.n_inputs, *value.hidden_sizes)
    if found != (n_features, *hidden_sizes):
        raise ValueError(
            f"the connectivity must be of {n_features} inputs and hidden layers of {tuple(hidden_sizes)} units, "
            f"got {found[0]} and {found[1:]}."
        )
    largest = max(n_features - 1, 1)
    if (np.sort(value.ordering) != np.arange(1, n_features + 1)).any():
        raise ValueError(f"the connectivity's ordering must hold each place 1..{n_features} once, got {value.ordering!r}.")
    for m in value.degrees:
        if m.min() < 1 or m.max() > largest:
            raise ValueError(f"the connectivity's degrees must be in 1..{largest}, got {m.min()}..{m.max()}.")
    return value


def positive_float(value: Any, name: str) -> float:
    """Return ``value`` as a finite float that is larger than 0."""
    number = _real(value, name, "a finite number > 0")
    if not 0 < number < np.inf:
        raise ValueError(f"{name} must be a finite number > 0, got {value!r}.")
    return number


def non_negative_float(value: Any, name: str) -> float:
    """Return ``value`` as a finite float that is at least 0."""
    number = _real(value, name, "a finite number >= 0")
    if not 0 <= number < np.inf:
        raise ValueError(f"{name} must be a finite number >= 0, got {value!r}.")
    return number


def probability(value: Any, name: str) -> float:
    """Return ``value`` as a float of at least 0 and below 1."""
    number = _real(value, name, "a number from 0 to below 1")
    if not 0 <= number < 1:
        raise ValueError(f"{name} must be a number from 0 to below 1, got {value!r}.")
    return number


def boolean(value: Any, name: str) -> bool:
    """Return True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r} of type {type(value).__name__}.")
    return bool(value)


def constants(value: Any, name: str, known: Sequence[str]) -> dict[str, float]:
    """Return a mapping of some of the ``known`` names to finite numbers >= 0; None is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping of names to numbers, got {value!r} of type {type(value).__name__}.")
    for key in value:
        if key not in known:
            raise ValueError(f"{name} may have {', '.join(map(repr, known)) or 'nothing'} with this optimizer, got {key!r}.")
    return {key: non_negative_float(number, f"{name}[{key!r}]") for key, number in value.items()}


def sample_weight(value: Any, n_rows: int) -> NDArray[np.float64]:
    """Return the weights of n_rows rows, (n,) float64; None gives length 0, which stands for 1 everywhere."""
    if value is None:
        return np.empty(0)
    weights = np.asarray(value)
    if weights.dtype.kind not in "biuf":
        raise TypeError(f"sample_weight must hold numbers, got dtype {weights.dtype}.")
    if weights.ndim == 0:
        weights = np.full(n_rows, weights)
    if weights.shape != (n_rows,):
        raise ValueError(f"sample_weight must have shape ({n_rows},), one number a row, got {weights.shape}.")
    weights = weights.astype(np.float64)
    if not np.isfinite(weights).all():
        raise ValueError("sample_weight must be finite, got NaN or infinity. Drop those rows, or give them weight 0.")
    return np.ascontiguousarray(weights)


def fraction(value: Any, name: str) -> float:
    """Return ``value`` as a float strictly between 0 and 1."""
    number = _real(value, name, "a number between 0 and 1")
    if not 0 < number < 1:
        raise ValueError(f"{name} must be a number between 0 and 1, both excluded, got {value!r}.")
    return number


def threshold(value: Any, name: str = "binarize") -> float | None:
    """Return the threshold above which an input counts as 1, or None for input that is 0/1 already."""
    if value is None:
        return None
    number = _real(value, name, "None or a finite number")
    if not isfinite(number):
        raise ValueError(f"{name} must be None or a finite number, got {value!r}.")
    return number


def choice(value: Any, name: str, options: Sequence[str]) -> str:
    """Return ``value`` if it is one of ``options``."""
    listed = ", ".join(map(repr, options))
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {listed}, got {value!r} of type {type(value).__name__}.")
    if value not in options:
        raise ValueError(f"{name} must be one of {listed}, got {value!r}.")
    return value


def dtype(value: Any) -> np.dtype[Any]:
    """Return float32 or float64 in the machine's byte order."""
    try:
        found: np.dtype[Any] | None = None if value is None else np.dtype(value)
    except TypeError:
        found = None
    if found is None:
        raise TypeError(f"dtype must be 'float32' or 'float64', got {value!r} of type {type(value).__name__}.")
    if found not in (np.float32, np.float64):
        raise ValueError(f"dtype must be 'float32' or 'float64', got {value!r}.")
    return found


def hidden_sizes(value: Any) -> tuple[int, ...]:
    """Return the number of units of each hidden layer; the empty tuple is a model without hidden units."""
    if isinstance(value, Integral):
        raise TypeError(f"hidden_sizes must be a sequence of ints, got {value!r}. Write one hidden layer as ({value},).")
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise TypeError(f"hidden_sizes must be a sequence of ints, got {value!r} of type {type(value).__name__}.")
    sizes = tuple(_int(size, f"hidden_sizes[{l}]", 1) for l, size in enumerate(value))
    most = layout.MAX_LAYERS - 1
    if len(sizes) > most:
        raise ValueError(f"hidden_sizes must name at most {most} layers, got {len(sizes)}.")
    return sizes


def ordering(value: Any, n_features: int) -> str | IntVector:
    """Return ``"natural"``, ``"random"``, or the place 1..D of each of the D features as (D,) int32."""
    demand = f"ordering must be 'natural', 'random' or the places 1..{n_features} of the features, each once"
    if isinstance(value, str):
        if value not in ("natural", "random"):
            raise ValueError(f"{demand}, got {value!r}.")
        return value
    if isinstance(value, bytes) or not isinstance(value, Iterable):
        raise TypeError(f"{demand}, got {value!r} of type {type(value).__name__}.")
    places = list(value)
    for d, place in enumerate(places):
        if isinstance(place, bool) or not isinstance(place, Integral):
            raise TypeError(f"{demand}, got {place!r} of type {type(place).__name__} for feature {d}.")
    if len(places) != n_features:
        raise ValueError(f"{demand}, got {len(places)} places for {n_features} features.")
    if set(places) == set(range(n_features)):
        raise ValueError(f"{demand}, got places 0..{n_features - 1}. Places count from 1: add 1 to each.")
    for d, place in enumerate(places):
        if not 1 <= place <= n_features:
            raise ValueError(f"{demand}, got place {place} for feature {d}.")
    place, count = Counter(places).most_common(1)[0]
    if count > 1:
        missing = min(set(range(1, n_features + 1)) - set(places))
        raise ValueError(f"{demand}, got place {place} {count} times and place {missing} not at all.")
    return np.array(places, dtype=np.int32)


def generator(random_state: Any) -> np.random.Generator:
    """Return the source of random numbers that ``random_state`` stands for.

    None is a fresh one, an int or ``SeedSequence`` a repeatable one; a ``Generator`` is used as it is, a ``RandomState`` gives
    a seed (and moves on).
    """
    if isinstance(random_state, np.random.Generator):
        return random_state
    if isinstance(random_state, np.random.RandomState):
        return np.random.default_rng(random_state.randint(0, 2**32, size=4, dtype=np.uint32))
    if random_state is None or isinstance(random_state, np.random.SeedSequence):
        return np.random.default_rng(random_state)
    if isinstance(random_state, bool) or not isinstance(random_state, Integral):
        raise TypeError(
            "random_state must be None, an int >= 0, a SeedSequence, a Generator or a RandomState, "
            f"got {random_state!r} of type {type(random_state).__name__}."
        )
    return np.random.default_rng(_int(random_state, "random_state", 0))
