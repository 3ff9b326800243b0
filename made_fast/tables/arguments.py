"""Arguments other than tables: cast or refused here, hyper-parameters and the options of methods alike.

A refusal says the name, the demand, what was found, and the way out: ``TypeError`` for a wrong type, ``ValueError`` for a
wrong value. Nothing below checks again. Not here: tables of rows (``table.py``), defaults (``training/hyper.py``).
"""

from __future__ import annotations

import operator
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from contextlib import suppress
from functools import partial
from itertools import islice
from math import inf, isfinite
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast.kernels import layout
from made_fast.system import threads
from made_fast.tables.arrays import CONVERSION_ERRORS, plain
from made_fast.tables.choices import MOST_POINTS

MOST = 2**31 - 1  # units of a layer, which are int32 in the kernels, and everything else that is counted in memory
MOST_BYTES = 2**62  # NumPy refuses an array of so many bytes without saying which argument is too large


def shown(value: Any) -> str:
    """Return the repr for an error text, cut short; numbers of thousands of digits have none."""
    try:
        text = repr(value)
    except CONVERSION_ERRORS:
        return "something without a repr"
    return text if len(text) <= 200 else f"{text[:200]}..."


def _wrong_type(demand: str, value: Any, way_out: str = "") -> TypeError:
    return TypeError(f"{demand}, got {shown(value)} of type {type(value).__name__}.{way_out}")


def _is_int(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool | np.timedelta64)  # which NumPy counts as an int


def _int(value: Any, name: str, smallest: int, way_out: str = "", *, largest: int | None = None) -> int:
    """Return ``value`` as an int in these bounds."""
    if type(value) is int and smallest <= value and (largest is None or value <= largest):
        return value
    demand = f"{name} must be an int >= {smallest}"
    if not _is_int(value):
        raise _wrong_type(demand, value, way_out)
    number = operator.index(value)
    if number < smallest:
        raise ValueError(f"{demand}, got {shown(number)}.{way_out}")
    if largest is not None and number > largest:
        raise ValueError(f"{demand} and at most {largest}, got {shown(number)}.{way_out}")
    return number


def _real(value: Any, name: str, demand: str, fits: Callable[[float], bool]) -> float:
    """Return ``value`` as a float that fits the demand."""
    demand = f"{name} must be {demand}"
    if isinstance(value, bool | np.timedelta64) or not isinstance(value, Real):
        raise _wrong_type(demand, value)
    try:
        number = float(value)
    except OverflowError:  # an int or a fraction of hundreds of digits
        number = inf
    if not fits(number):
        raise ValueError(f"{demand}, got {shown(value)}.")
    return number


def vector(value: Any, name: str, demand: str) -> NDArray[Any]:
    """Return ``value`` as an array of any dtype and shape; objects that are all numbers, or all booleans, become those."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(f"{name} must be {demand}, got masked entries. Fill them in: {name}.filled(...).")
    try:
        return plain(np.asarray(value))
    except CONVERSION_ERRORS as error:
        cause = ValueError if isinstance(error, ValueError) else TypeError
        raise cause(
            f"{name} must be {demand}, got a {type(value).__name__} of which NumPy makes no array ({error})."
        ) from error


def _first(value: Any, n: int, demand: str) -> tuple[list[Any], int | str]:
    """Return the first n items of an iterable, which may be endless, and their number in all."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise _wrong_type(demand, value)
    try:
        found = list(islice(value, n + 1))
        in_all = len(found) if len(found) <= n else len(value) if isinstance(value, Sized) else f"more than {n}"
    except CONVERSION_ERRORS as error:  # a 0-dimensional array, say
        raise _wrong_type(demand, value) from error
    return found[:n], in_all


positive_int = partial(_int, smallest=1)
non_negative_int = partial(_int, smallest=0)
count = partial(_int, smallest=1, largest=MOST)
points = partial(_int, smallest=1, largest=MOST_POINTS)


def how_many(value: Any, name: str, n_bytes: int) -> int:
    """Return ``value`` as a positive number of things of ``n_bytes`` each."""
    return _int(value, name, 1, largest=max(MOST_BYTES // max(n_bytes, 1), 1))


def n_threads(value: Any, name: str = "n_threads") -> int:
    """Return a number of threads; None is as many as the process may use."""
    return threads.available() if value is None else _int(value, name, 1, " Leave it at None to use all the cores there are.")


def n_jobs(value: Any) -> int | None:
    """Return the number of jobs at a time, as joblib takes it: None, or any int but 0."""
    if value is not None and not _is_int(value):
        raise _wrong_type("n_jobs must be None or an int", value)
    if value == 0:
        raise ValueError("n_jobs must be None or an int other than 0, got 0. Pass -1 for as many as there are CPUs.")
    return None if value is None else operator.index(value)


def verbosity(value: Any, name: str = "verbose") -> int:
    """Return the verbosity, 0 for nothing."""
    return int(value) if isinstance(value, bool | np.bool_) else _int(value, name, 0)


def path(value: Any, name: str = "path") -> str:
    """Return a path as text."""
    try:
        found = os.fsdecode(value)
    except CONVERSION_ERRORS as error:
        raise _wrong_type(f"{name} must be a str, bytes or os.PathLike", value) from error
    if "\0" in found:
        raise ValueError(f"{name} must have no null characters, got {shown(found)}.")
    return found


def mapping(value: Any, name: str, of: str = "") -> dict[Any, Any]:
    """Return a copy of a mapping; None is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _wrong_type(f"{name} must be a mapping{of}", value)
    return dict(value)


def columns(value: Any, name: str = "columns") -> Any:
    """Return "infer", or a mapping of columns to what they are; None is for a table that says it."""
    if isinstance(value, str):
        return choice(value, name, ("infer",))
    return mapping(value, name, ' of names or numbers to kinds, or "infer"')


def anything(value: Any, name: str) -> Any:
    """Return a value that its reader checks, beside what it is about."""
    return value


def categories(value: Any, name: str = "max_categories") -> int:
    """Return the most levels of a column, at least 2."""
    return _int(value, name, 2, " Drop a column that should have one level.", largest=MOST)


def _numbered(value: Any, n: int, name: str, owner: str) -> int:
    """Return the number of one of n things, counted from 0."""
    number = _int(value, name, 0)
    if number >= n:
        raise ValueError(f"{name} must be one of the {owner} 0..{n - 1}, got {shown(number)}.")
    return number


mask_number = partial(_numbered, name="mask", owner="model's masks")
point_number = partial(_numbered, name="k", owner="model's points")
member_number = partial(_numbered, name="member", owner="mixture's")


def observed(value: Any, n_inputs: int) -> NDArray[np.bool_]:
    """Return a mask (n_inputs,) bool, True where an input is observed."""
    mask = vector(value, "observed", f"a mask of {n_inputs} bools")
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
    demand = "an int or an array of ints, columns counted from 0"
    columns = vector(value, "target", demand)
    if columns.dtype.kind not in "iu":
        raise TypeError(f"target must be {demand}, got {shown(value)}.")
    if columns.shape not in ((), (n_rows,)):
        raise ValueError(f"target must be one column, or one for each of the {n_rows} rows, got shape {columns.shape}.")
    wrong = columns[(columns < 0) | (columns >= n_inputs)]
    if wrong.size:
        raise ValueError(f"target must be in 0..{n_inputs - 1}, got {wrong.flat[0]}. Columns are counted from 0.")
    return np.broadcast_to(columns, n_rows).astype(np.intp)


def _the(value: Any, n: int, name: str, which: str, mixture: str) -> Any:
    """Return ``value``, or 0 for None where there is one thing only."""
    if value is None and n > 1:
        found = f"the model is a mixture {mixture.format(n)}, each with its own ordering"
        raise ValueError(f"{name} must say {which} is meant: {found}. Pass {name}=0, say, or any up to {n - 1}.")
    return 0 if value is None else value


the_mask = partial(_the, name="mask", which="which member", mixture="over {} masks")
the_member = partial(_the, name="member", which="which", mixture="of {}")


positive_float = partial(_real, demand="a finite number > 0", fits=lambda number: 0 < number < inf)
non_negative_float = partial(_real, demand="a finite number >= 0", fits=lambda number: 0 <= number < inf)
probability = partial(_real, demand="a number from 0 to below 1", fits=lambda number: 0 <= number < 1)
fraction = partial(_real, demand="a number between 0 and 1, both excluded", fits=lambda number: 0 < number < 1)


def threshold(value: Any, name: str = "binarize") -> float | None:
    """Return the threshold above which an input counts as 1, or None for input that is 0/1 already."""
    return None if value is None else _real(value, name, "None or a finite number", isfinite)


def boolean(value: Any, name: str) -> bool:
    """Return True or False."""
    if not isinstance(value, bool | np.bool_):
        raise _wrong_type(f"{name} must be True or False", value)
    return bool(value)


def is_true(value: Any) -> bool:
    """Return whether this is the boolean True, Python's or NumPy's; other values that count as true are not."""
    return isinstance(value, bool | np.bool_) and bool(value)


def constants(value: Any, name: str, known: Sequence[str]) -> dict[str, float]:
    """Return a mapping of some of the ``known`` names to finite numbers >= 0; None is an empty one."""
    given = mapping(value, name, " of names to numbers")
    for key in given:
        if key not in known:
            listed = ", ".join(map(repr, known)) or "nothing"
            raise ValueError(f"{name} may have {listed} with this optimizer, got {shown(key)}.")
    return {key: non_negative_float(number, f"{name}[{shown(key)}]") for key, number in given.items()}


def sample_weight(value: Any, n_rows: int, name: str = "sample_weight") -> NDArray[np.float64]:
    """Return the weights of n_rows rows, (n,) float64; None gives length 0, which stands for 1 everywhere."""
    if value is None:
        return np.empty(0)
    given = vector(value, name, "one number a row")
    weights = floats(np.full(n_rows, given) if given.ndim == 0 else given, name, n_rows, "row", "biuf")
    if not np.isfinite(weights).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity. Drop those rows, or give them weight 0.")
    return weights


def floats(value: Any, name: str, n: int, of: str, kinds: str = "iuf") -> NDArray[np.float64]:
    """Return one number for each of n things as a new array (n,) float64."""
    found = vector(value, name, f"one number a {of}")
    if found.dtype.kind not in kinds:
        raise TypeError(f"{name} must hold numbers, got dtype {found.dtype}.")
    if found.shape != (n,):
        raise ValueError(f"{name} must have shape ({n},), one number a {of}, got {found.shape}.")
    with np.errstate(over="ignore"):  # the largest longdoubles become infinite
        return found.astype(np.float64, order="C")


def feature_names(value: Any, n_features: int) -> tuple[str, ...] | None:
    """Return the names of so many columns, or None for columns without names."""
    if value is None:
        return None
    demand = f"feature_names must be None or the names of {n_features} columns"
    listed, n = _first(value, n_features, demand)
    for name in listed:
        if not isinstance(name, str):
            raise _wrong_type(demand, name, " Convert it: str(name).")
    if n != n_features:
        raise ValueError(f"{demand}, got {n} of them.")
    return tuple(map(str, listed))


def function(value: Any, name: str) -> Any:
    """Return a callable, or None."""
    if value is not None and not callable(value):
        raise _wrong_type(f"{name} must be None or callable", value)
    return value


def choice(value: Any, name: str, options: Sequence[str]) -> str:
    """Return ``value`` if it is one of ``options``."""
    demand = f"{name} must be one of {', '.join(map(repr, options))}"
    if not isinstance(value, str):
        raise _wrong_type(demand, value)
    if value not in options:
        raise ValueError(f"{demand}, got {shown(value)}.")
    return value


def choice_or_function(value: Any, name: str, options: Sequence[str]) -> Any:
    """Return ``value`` if it is callable, or one of ``options``."""
    return value if callable(value) else choice(value, name, options)


def dtype(value: Any, name: str = "dtype") -> np.dtype[Any]:
    """Return float32 or float64 in the machine's byte order."""
    found: np.dtype[Any] | None = None
    # NumPy takes much more: lists, calls of other dtypes, names that it warns of ("a5") or parses as Python ("(2, 3)f4").
    if isinstance(value, np.dtype | type) or (isinstance(value, str) and re.fullmatch("[<>=|]?[b-zA-Z][a-z]*[0-9]*", value)):
        with suppress(SyntaxError, *CONVERSION_ERRORS):
            found = np.dtype(value)
    if found is None:
        raise _wrong_type(f"{name} must be 'float32' or 'float64'", value)
    if found not in (np.float32, np.float64):
        raise ValueError(f"{name} must be 'float32' or 'float64', got {shown(value)}.")
    return found


def hidden_sizes(value: Any, name: str = "hidden_sizes") -> tuple[int, ...]:
    """Return the number of units of each hidden layer; the empty tuple is a model without hidden units."""
    demand, most = f"{name} must be a sequence of ints", layout.MAX_LAYERS - 1
    if isinstance(value, Integral):
        raise TypeError(f"{demand}, got {shown(value)}. Write one hidden layer as (500,), say.")
    listed, n = _first(value, most, demand)
    if n != len(listed):
        raise ValueError(f"{name} must name at most {most} layers, got {n}.")
    return tuple(_int(size, f"{name}[{l}]", 1, largest=MOST) for l, size in enumerate(listed))


def ordering(value: Any, n_features: int) -> str | NDArray[np.int32]:
    """Return ``"natural"``, ``"random"``, or the place 1..D of each of the D features as (D,) int32."""
    demand = f"ordering must be 'natural', 'random' or the places 1..{n_features} of the features, each once"
    if isinstance(value, str):
        if value not in ("natural", "random"):
            raise ValueError(f"{demand}, got {shown(value)}.")
        return value
    places, n = _first(value, n_features, demand)
    for d, place in enumerate(places):
        if not _is_int(place):
            raise TypeError(f"{demand}, got {shown(place)} of type {type(place).__name__} for feature {d}.")
    if n != n_features:
        raise ValueError(f"{demand}, got {n} places for {n_features} features.")
    if set(places) == set(range(n_features)):
        raise ValueError(f"{demand}, got places 0..{n_features - 1}. Places count from 1: add 1 to each.")
    for d, place in enumerate(places):
        if not 1 <= place <= n_features:
            raise ValueError(f"{demand}, got place {shown(place)} for feature {d}.")
    place, count = Counter(places).most_common(1)[0]
    if count > 1:
        missing = min(set(range(1, n_features + 1)) - set(places))
        raise ValueError(f"{demand}, got place {place} {count} times and place {missing} not at all.")
    return np.array(places, dtype=np.int32)


def generator(random_state: Any, name: str = "random_state") -> np.random.Generator:
    """Return the generator that ``random_state`` stands for: a Generator itself, or one that it seeds; None gives a fresh one.

    A ``RandomState``, or ``numpy.random`` itself for the global one, gives a seed and moves on.
    """
    if isinstance(random_state, np.random.Generator):
        return random_state
    if isinstance(random_state, np.random.RandomState) or random_state is np.random:
        return np.random.default_rng(random_state.randint(0, 2**32, size=4, dtype=np.uint32))
    if random_state is None or isinstance(random_state, np.random.SeedSequence):
        return np.random.default_rng(random_state)
    if not _is_int(random_state):
        raise _wrong_type(f"{name} must be None, an int >= 0, a SeedSequence, a Generator or a RandomState", random_state)
    return np.random.default_rng(_int(random_state, name, 0))
