"""The one place where user input is cast or refused: tables of 0/1 rows, and hyper-parameters.

Every public method hands what it was given to a function of this file and trusts what comes back; nothing below checks
again. A refusal says the name, the demand, what was found, and the way out: ``TypeError`` for a wrong type, ``ValueError``
for a wrong value. Where scikit-learn's own checks look for certain words, the texts hold those words.

Not here: packing of rows (:mod:`made_fast.data`), files (:mod:`made_fast.datasets`), defaults (the estimator). SciPy and
pandas are recognised by what their objects can do and are never imported.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from numbers import Integral, Real
from typing import Any, Protocol, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray

from made_fast import threads
from made_fast.kernels import layout
from made_fast.masks import Connectivity

__all__ = [
    "Matrix",
    "MatrixLike",
    "SparseRows",
    "boolean",
    "choice",
    "connectivity",
    "constants",
    "dtype",
    "fraction",
    "generator",
    "hidden_sizes",
    "is_sparse",
    "mask_number",
    "matrix",
    "missing",
    "n_threads",
    "non_negative_float",
    "ones",
    "ordering",
    "positive_float",
    "positive_int",
    "probability",
    "sample_weight",
    "the_mask",
    "threshold",
]

IntVector = NDArray[np.int32]


class SparseRows(Protocol):
    """What is used of a ``scipy.sparse`` matrix or array in CSR format."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    data: NDArray[Any]
    indices: NDArray[np.integer[Any]]
    indptr: NDArray[np.integer[Any]]

    def __getitem__(self, rows: slice | NDArray[np.intp]) -> SparseRows: ...


Matrix: TypeAlias = NDArray[Any] | SparseRows
"""What :func:`matrix` returns: an array, or CSR rows."""

MatrixLike: TypeAlias = Any
"""What :func:`matrix` takes: array-like, data frame or ``scipy.sparse``; no type of NumPy's covers them all."""


# Tables


def is_sparse(X: object) -> TypeGuard[SparseRows]:
    """Say whether ``X`` is a ``scipy.sparse`` container, in whatever format."""
    return not isinstance(X, np.ndarray) and hasattr(X, "tocsr")


def matrix(X: MatrixLike, n_features: int | None = None, *, name: str = "X", min_rows: int = 1) -> Matrix:
    """Check the shape and the kind of a table; its values are checked chunk by chunk in :func:`ones`.

    Parameters
    ----------
    X : array-like or sparse of shape (rows, features)
        An array of any order, strides and byte order, a memmap, lists of lists, a data frame, any ``scipy.sparse`` format.
    n_features : int, optional
        The width demanded; None takes any from 1 on.
    name : str
        What the caller calls ``X``; error texts start with it.
    min_rows : int
        Fewest rows.

    Returns
    -------
    ndarray or CSR
        A view of ``X`` where it is an array; a memmap stays on disk. Sparse input as CSR with sorted column numbers and no
        duplicates (summed). ``X`` itself is never changed.
    """
    sparse = is_sparse(X)
    rows: Any = X if sparse or type(X) is np.ndarray else _array(X, name)
    if rows.ndim != 2:
        raise _wrong_ndim(rows, n_features, name)
    if rows.dtype.kind not in "biufO":
        raise _wrong_kind(rows.dtype, name)
    n_rows, width = rows.shape
    if n_rows < min_rows:
        raise ValueError(
            f"{name} must have at least {min_rows} row(s). "
            f"Found array with {n_rows} sample(s) (shape={rows.shape}) while a minimum of {min_rows} is required."
        )
    if width < 1:
        raise ValueError(
            f"{name} must have at least 1 column. "
            f"Found array with 0 feature(s) (shape={rows.shape}) while a minimum of 1 is required."
        )
    if n_features is not None and width != n_features:
        raise ValueError(
            f"{name} must have shape (rows, {n_features}), got {rows.shape}: {name} has {width} features, but MADE is "
            f"expecting {n_features} features as input. Pass the columns that the model was fitted on."
        )
    return _canonical_csr(rows) if sparse else rows


def ones(
    rows: Matrix, binarize: float | None = None, name: str = "X", first_row: int = 0, *, missing: bool = False
) -> NDArray[np.bool_]:
    """Return where a chunk of rows is 1; refuse what is neither 0 nor 1.

    Parameters
    ----------
    rows : (n, D) array or CSR
        A chunk of what :func:`matrix` returned. Bool, any int, any float, or objects that are numbers.
    binarize : float, optional
        A value is 1 if it is larger than this. None demands values that are exactly 0 or 1. Infinity is always refused.
    name, first_row
        What the error text calls the table, and the number of the chunk's first row in it.
    missing : bool
        Take NaN, which marks a missing entry, for 0 (see :func:`missing`); otherwise it is refused.

    Returns
    -------
    (n, D) bool
        May share memory with ``rows``: to be read only.
    """
    values = rows if isinstance(rows, np.ndarray) else rows.data[: rows.indptr[-1]]
    if values.dtype == object:
        values = _numbers(values, name)
    if missing and values.dtype.kind == "f":
        values = np.where(np.isnan(values), 0 if binarize is None else binarize, values)
    one = _ones(values, binarize)
    if one is None:
        raise _wrong_value(rows, values, binarize, name, first_row)
    if isinstance(rows, np.ndarray):
        return one
    dense = np.full(rows.shape, binarize is not None and binarize < 0, dtype=np.bool_)
    dense[np.repeat(np.arange(len(dense)), np.diff(rows.indptr)), rows.indices[: len(one)]] = one
    return dense


def missing(rows: Matrix, name: str = "X") -> NDArray[np.bool_] | None:
    """Return where a chunk of rows is missing (NaN), (n, D) bool, or None where nothing is."""
    values = rows if isinstance(rows, np.ndarray) else rows.data[: rows.indptr[-1]]
    if values.dtype == object:
        values = _numbers(values, name)
    if values.dtype.kind != "f":
        return None
    nan = np.isnan(values)
    if not nan.any():
        return None
    if isinstance(rows, np.ndarray):
        return nan
    dense = np.zeros(rows.shape, np.bool_)
    dense[np.repeat(np.arange(len(dense)), np.diff(rows.indptr)), rows.indices[: len(nan)]] = nan
    return dense


def _canonical_csr(X: Any) -> SparseRows:
    csr = X.tocsr()
    if not csr.has_canonical_format:
        csr = csr.copy()
        csr.sum_duplicates()
    return csr  # type: ignore[no-any-return]


def _array(X: Any, name: str) -> NDArray[Any]:
    if isinstance(X, np.ndarray) and np.any(getattr(X, "mask", False)):  # numpy.ma, which np.asarray would strip in silence
        raise ValueError(f"{name} must hold no masked entries. Mark missing ones by NaN: {name}.astype(float).filled(np.nan).")
    try:
        return np.asarray(X)
    except ValueError as error:
        raise ValueError(
            f"{name} must have shape (rows, features), got rows that form no table ({error}). Give every row the same length."
        ) from error


def _wrong_ndim(rows: NDArray[Any], n_features: int | None, name: str) -> Exception:
    demand = f"{name} must have shape (rows, {'features' if n_features is None else n_features})"
    if rows.ndim == 0 and rows.dtype == object:
        return TypeError(f"{demand}, got {type(rows.item()).__name__}. Pass an array, a data frame or a scipy.sparse matrix.")
    if rows.ndim == 0:
        return ValueError(
            f"{demand}, got a single number. Expected 2D array, got scalar array instead. "
            f"Reshape your data: np.reshape({name}, (1, 1)) is one row of one feature."
        )
    if rows.ndim == 1:
        return ValueError(
            f"{demand}, got {rows.shape}. Expected 2D array, got 1D array instead. "
            f"Reshape your data: np.reshape({name}, (1, -1)) is one row, np.reshape({name}, (-1, 1)) one feature."
        )
    return ValueError(
        f"{demand}, got {rows.shape}. Expected 2D array, got {rows.ndim}D array instead. "
        f"Reshape your data: np.reshape({name}, (len({name}), -1)) gives one row for each item."
    )


def _wrong_kind(found: np.dtype[Any], name: str) -> Exception:
    if found.kind == "c":
        return ValueError(f"Complex data not supported: {name} must hold real numbers, got {found}. Pass {name}.real.")
    return TypeError(f"{name} must hold numbers, got dtype {found}. Convert it: np.asarray({name}).astype(float), say.")


def _wrong_value(rows: Matrix, values: NDArray[Any], binarize: float | None, name: str, first_row: int) -> ValueError:
    """Name the first value, row by row, that is not 0 or 1 (not finite, with a threshold)."""
    fine = (values == 0) | (values == 1) if binarize is None else np.isfinite(values)
    first = int(np.argmin(fine))
    value = values.flat[first]
    if isinstance(rows, np.ndarray):
        row, column = divmod(first, rows.shape[1])
    else:
        row, column = int(np.searchsorted(rows.indptr, first, side="right")) - 1, int(rows.indices[first])
    demand = "only 0 and 1" if binarize is None else "finite numbers"
    found, way_out = str(value), "Set a threshold (binarize=0.5, say) to turn real values into 0/1."
    if np.isnan(value):
        found = "NaN"
        way_out = "Rows with missing entries can be fitted and imputed, and log_marginal tells how likely what is there is."
    elif np.isinf(value):
        way_out = "Drop or replace infinite values."
    return ValueError(
        f"{name} must hold {demand}, got {found} at row {first_row + row}, column {column} (counted from 0). {way_out}"
    )


def _ones(values: NDArray[Any], binarize: float | None) -> NDArray[np.bool_] | None:
    """Return where ``values`` are 1, or None if some value is neither 0 nor 1 (not finite, with a threshold)."""
    kind = values.dtype.kind
    if binarize is not None:
        if kind == "f" and not np.isfinite(values).all():
            return None
        with np.errstate(over="ignore"):  # a threshold beyond the range of float16 becomes infinite, as it should
            return values > binarize
    if kind == "b":
        return values
    if values.itemsize == 1:  # no copy, one pass; negative int8 are large uint8
        return values.view(np.bool_) if values.view(np.uint8).max(initial=0) <= 1 else None
    one: NDArray[np.bool_] = values == 1
    return one if ((values == 0) | one).all() else None


def _numbers(values: NDArray[Any], name: str) -> NDArray[np.float64]:
    """Convert an array of objects; NumPy alone would take text for numbers."""
    if any(isinstance(value, str | bytes) for value in values.flat):
        raise TypeError(f"{name} must hold numbers, got text. Convert it: {name}.astype(float), say.")
    try:
        return values.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        cause = TypeError if isinstance(error, TypeError) else ValueError
        raise cause(f"{name} must hold numbers, got objects that are none: {error}. Convert or drop them.") from error


# Hyper-parameters


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
