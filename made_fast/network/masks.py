"""Orderings, degrees and the staircase, which decide which unit sees which.

Pure functions of small integer vectors. Nothing here holds a mask matrix, a weight or a row of data; only
``kernels/reference/dense.py`` makes a mask of ``D x H`` booleans.

Source: Germain, Gregor, Murray, Larochelle, "MADE: Masked Autoencoder for Distribution Estimation", ICML 2015,
arXiv:1502.03509, sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast.kernels import layout
from made_fast.kernels.records import BINARY
from made_fast.tables import arguments
from made_fast.tables.coded import Coding

__all__ = [
    "Connectivity", "MaskRule", "MaskSet", "Staircase", "Variables", "check_connectivity", "draw_connectivity", "read_only",
]  # fmt: skip

IntVector = NDArray[np.int32]


class _ReadOnly:
    """Base of records that models share: they hold read-only views of the arrays they get."""

    def __post_init__(self) -> None:
        fields = self.__dict__
        for name in fields:
            fields[name] = read_only(fields[name])

    def __reduce__(self) -> tuple[Any, ...]:  # arrays from a pickle or a deep copy would be writable
        return type(self), tuple(self.__dict__.values())


def read_only(value: Any) -> Any:
    """Return a read-only view of an array, or of all arrays in a tuple; other values are returned unchanged."""
    if isinstance(value, tuple):
        return tuple([read_only(part) for part in value])
    if isinstance(value, np.ndarray) and value.flags.writeable:
        value = value.view()
        value.flags.writeable = False
    return value


@dataclass(frozen=True)
class Variables(_ReadOnly):
    """What the variables of a network are, where they are not all binary: the inputs are the indicators of each in turn.

    Attributes
    ----------
    widths : tuple of int
        Indicators of each variable: 1 of a binary one, 0 of one with a single level, else as many as it has levels.
    codings : tuple of int
        ``layout.ONE_HOT`` or ``layout.THERMOMETER`` for each.
    n_context : int
        Inputs before the first variable, which every unit may see and which are not modelled.
    n_digits : tuple of int
        How many variables, one after the other, are the digits of one value: they stand side by side in every ordering, the
        first one first. (): each variable stands alone.
    """

    widths: tuple[int, ...]
    codings: tuple[int, ...]
    n_context: int = 0
    n_digits: tuple[int, ...] = ()

    @classmethod
    def of(cls, coding: Coding) -> Variables:
        """Return the variables that codes are of."""
        first = coding.n_context
        return cls(coding.widths[first:], coding.codings[first:], coding.n_context_inputs, coding.n_digits)

    @property
    def n_inputs(self) -> int:
        """Number of inputs of the network."""
        return self.n_context + sum(self.widths)

    @property
    def least_degree(self) -> int:
        """The smallest degree of a hidden unit: with a context, a unit that sees no variable is of use."""
        return 0 if self.n_context else 1

    @property
    def n_columns(self) -> int:
        """The number of values that the variables are the digits of."""
        return len(self.n_digits) or len(self.widths)

    def together(self, orderings: IntVector) -> IntVector:
        """Return orderings (K, V), or of the values, (K, n_columns), with digits side by side, where the first one is."""
        if not self.n_digits:
            return orderings
        first = np.cumsum((0, *self.n_digits[:-1])) if orderings.shape[1] > self.n_columns else np.arange(self.n_columns)
        places = np.repeat(orderings[:, first], self.n_digits, axis=1)
        return np.argsort(_argsort(places), axis=1).astype(np.int32) + np.int32(1)

    def up_to(self, order: NDArray[np.intp]) -> IntVector:
        """Return how many inputs stand before each place, and in all, (K, V + 1), where variables are in ``order`` (K, V)."""
        widths = np.array(self.widths, np.int32)[order]
        starts = np.zeros((len(order), order.shape[1] + 1), np.int32)
        np.cumsum(widths, axis=1, out=starts[:, 1:])
        return starts + np.int32(self.n_context)

    def inputs(self, order: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the inputs in order of place, (K, n_inputs), where variables are in ``order`` (K, V)."""
        widths, K = np.array(self.widths, np.intp), len(order)
        starts = np.concatenate([[0], np.cumsum(widths)[:-1]]) + self.n_context
        several, before = widths[order], np.cumsum(widths[order], axis=1) - widths[order]
        shift = np.repeat((starts[order] - before).ravel(), several.ravel()).reshape(K, -1)
        found = np.arange(shift.shape[1]) + shift
        return np.concatenate([np.broadcast_to(np.arange(self.n_context), (K, self.n_context)), found], axis=1)

    def table(self, order: NDArray[np.intp]) -> IntVector:
        """Return the table of variables of ``Layout``, (K, V + 1, 2)."""
        found = np.zeros((len(order), order.shape[1] + 1, layout.VARIABLE_COLUMNS), np.int32)
        found[:, :, layout.START] = self.up_to(order)
        found[:, :-1, layout.CODING] = np.array(self.codings, np.int32)[order]
        return found


@dataclass(frozen=True)
class Connectivity(_ReadOnly):
    """One draw of an ordering and of all hidden degrees; it fixes every mask of the network. Its arrays are read-only.

    With ``Variables``, D is their number, and a place is that of a variable.

    Attributes
    ----------
    ordering : (D,) int32
        ``ordering[d]`` in 1..D is the place of input d (the paper's m^0).
    degrees : tuple of (H_l,) int32
        ``degrees[l][k]`` is the largest place that unit k of hidden layer l may see (the paper's m^l).
    """

    ordering: IntVector
    degrees: tuple[IntVector, ...]

    @property
    def n_inputs(self) -> int:
        """Number of inputs, D."""
        return len(self.ordering)

    @property
    def hidden_sizes(self) -> tuple[int, ...]:
        """Number of units of each hidden layer."""
        return tuple(len(m) for m in self.degrees)

    @property
    def vectors(self) -> tuple[IntVector, ...]:
        """The ordering, then the degrees of every hidden layer."""
        return (self.ordering, *self.degrees)

    def staircase(self, direct: str = "none", variables: Variables | None = None) -> Staircase:
        """Sort every layer by degree, so that each unit sees a prefix of the layer below."""
        return MaskSet.of([self]).staircase(direct, variables)[0]


@dataclass(frozen=True)
class MaskSet(_ReadOnly):
    """K connectivities of one network: the mask set that one set of weights is trained and evaluated under.

    Attributes
    ----------
    orderings : (K, D) int32
        Row k is the ordering of mask k.
    degrees : tuple of (K, H_l) int32
        Likewise the degrees of every hidden layer.
    """

    orderings: IntVector
    degrees: tuple[IntVector, ...]

    @classmethod
    def of(cls, connectivities: Sequence[Connectivity]) -> MaskSet:
        """Stack connectivities of equal sizes."""
        if len(connectivities) == 1:
            (c,) = connectivities
            return cls(c.ordering[None].copy(), tuple(m[None].copy() for m in c.degrees))
        orderings = np.stack([c.ordering for c in connectivities])
        return cls(orderings, tuple(np.stack(m) for m in zip(*(c.degrees for c in connectivities), strict=True)))

    def __len__(self) -> int:
        return len(self.orderings)

    def check_sizes(self, n_variables: int, hidden_sizes: Sequence[int]) -> None:
        """Raise ValueError unless these are the sizes of the connectivities."""
        found = self.orderings.shape[1], tuple(m.shape[1] for m in self.degrees)
        if found != (n_variables, tuple(hidden_sizes)) or any(len(m) != len(self) for m in self.degrees):
            raise ValueError(
                f"the masks must be of {n_variables} inputs and hidden layers of {tuple(hidden_sizes)} units, got {found[0]} "
                f"and {found[1]}. Pass the mask set that the parameters were trained under."
            )

    def first(self, n: int) -> MaskSet:
        """Return the first n connectivities."""
        return self if n >= len(self) else MaskSet(self.orderings[:n], tuple(m[:n] for m in self.degrees))

    def __getitem__(self, k: int) -> Connectivity:
        return Connectivity(self.orderings[k], tuple(m[k] for m in self.degrees))

    def staircase(self, direct: str = "none", variables: Variables | None = None) -> Staircase:
        """Sort every layer of every connectivity by degree; the vectors of the result have K rows.

        With ``variables``, a unit of degree m sees all indicators at the first m places, and every logit is an output.
        """
        D, order = self.orderings.shape[1], _argsort(self.orderings)
        below = np.broadcast_to(np.arange(1, D + 1, dtype=np.int32), self.orderings.shape)  # degrees, sorted
        sorts, n_live, direct_live = [order if variables is None else variables.inputs(order)], [], []
        up_to = None if variables is None else variables.up_to(order)

        def inputs(places: IntVector) -> IntVector:
            """Return how many inputs stand at the first so many places."""
            return places if up_to is None else np.take_along_axis(up_to, places, axis=1)

        for l, m in enumerate(self.degrees):
            sort = _argsort(m)
            above = np.take_along_axis(m, sort, axis=1)
            n_live.append(inputs(above) if l == 0 else _count(below, above, D))
            direct_live.append(inputs(above) if direct == "all" and l > 0 else None)  # one of degree m sees the first m inputs
            sorts.append(sort)
            below = above
        before = np.broadcast_to(np.arange(D, dtype=np.int32), self.orderings.shape)  # the output at place p + 1 sees p inputs
        if variables is not None:  # one output for every logit
            widths = np.array(variables.widths, np.intp)[order]
            before = np.repeat(before.ravel(), widths.ravel()).reshape(len(self), -1)
        n_live.append(_count(below, before, D) if self.degrees else inputs(before))
        direct_live.append(inputs(before) if direct != "none" and self.degrees else None)
        if variables is None:
            table, sorts = np.broadcast_to(BINARY, (len(self), *BINARY.shape)), [*sorts, order]
        else:
            table, outputs = variables.table(order), sorts[0][:, variables.n_context :] - variables.n_context
            sorts = [*sorts, outputs if variables.n_context else sorts[0]]
        return Staircase(tuple(sorts), tuple(n_live), tuple(direct_live), table)


def _argsort(degrees: IntVector) -> NDArray[np.intp]:
    narrow = degrees.astype(np.uint16) if degrees.max(initial=0) < 2**16 else degrees  # NumPy sorts these by radix
    return np.argsort(narrow, axis=1, kind="stable")


def _count(degrees: IntVector, limits: IntVector, D: int) -> IntVector:
    """Return how many of each row's ``degrees`` are at most each of the row's ``limits``; all in 0..D."""
    K = len(degrees)
    cells = degrees + np.arange(K, dtype=np.int64)[:, None] * (D + 1)
    up_to = np.bincount(cells.ravel(), minlength=K * (D + 1)).reshape(K, D + 1).cumsum(axis=1)
    return np.take_along_axis(up_to, limits, axis=1).astype(np.int32)


@dataclass(frozen=True)
class Staircase(_ReadOnly):
    """The masks of one connectivity, or of K at once, after both sides of each are sorted by degree.

    Every vector has the shape (n,) for one connectivity and (K, n) for K.

    Attributes
    ----------
    sorts : tuple of L + 2 intp vectors
        ``sorts[l][j]`` is the original number of the unit that stands at sorted position j of layer l. Layer 0 are
        the inputs (sorted position = place - 1), the last layer are the outputs (the same permutation).
    n_live : tuple of L + 1 int32 vectors
        Sorted unit j of layer l + 1 sees exactly the first ``n_live[l][j]`` sorted units of layer l. Never decreases.
    direct : tuple of L + 1 int32 vectors or None
        Sorted unit j of layer l + 1 has direct connections from exactly the first ``direct[l][j]`` inputs.
    variables : (V + 1, 2) or (0, 2) int32
        See ``layout.Layout``.
    """

    sorts: tuple[NDArray[np.intp], ...]
    n_live: tuple[IntVector, ...]
    direct: tuple[IntVector | None, ...]
    variables: IntVector = field(default_factory=lambda: BINARY)

    def __post_init__(self) -> None:
        self.sorts[0].flags.writeable = False  # models hand this one out

    def __getitem__(self, k: int) -> Staircase:
        """Return the staircase of mask k."""
        direct = tuple(None if live is None else live[k] for live in self.direct)
        sorts, n_live = tuple(sort[k] for sort in self.sorts), tuple(live[k] for live in self.n_live)
        return Staircase(sorts, n_live, direct, self.variables[k])


@dataclass(frozen=True)
class MaskRule:
    """How the connectivities of a network are drawn: what varies, and what all of them share.

    Attributes
    ----------
    base : Connectivity
        The first mask; the others have its ordering or degrees where these are not resampled.
    degrees : {"stratified", "uniform"}
        How degrees are drawn.
    resample : {"both", "order", "connectivity"}
        What varies: ordering and degrees, the ordering only, the degrees only (sections 4.1 and 4.2).
    variables : Variables or None
        What has places in an ordering; None: inputs that are binary variables.
    """

    base: Connectivity
    degrees: str
    resample: str
    variables: Variables | None = None

    def draw(self, n: int, rng: np.random.Generator) -> MaskSet:
        """Draw n connectivities, independent of each other."""
        return self.with_orderings(self.draw_orderings(n, rng), rng)

    def draw_orderings(self, n: int, rng: np.random.Generator) -> IntVector:
        """Draw the orderings of n connectivities, (n, D)."""
        if self.resample == "connectivity":
            return np.tile(self.base.ordering, (n, 1))
        return _draw_orderings(n, self.base.n_inputs, rng, self.variables)

    def with_orderings(self, orderings: IntVector, rng: np.random.Generator) -> MaskSet:
        """Draw the degrees of connectivities whose orderings (n, D) are given, but for digits, which come together."""
        n, base = len(orderings), self.base
        if self.variables is not None:
            orderings = self.variables.together(orderings)
        if self.resample == "order":
            return MaskSet(orderings, tuple(np.tile(m, (n, 1)) for m in base.degrees))
        drawn = _draw_degrees(n, base.n_inputs, base.hidden_sizes, self.degrees, rng, least_degree(self.variables))
        return MaskSet(orderings, drawn)

    def mask_set(self, n: int, rng: np.random.Generator) -> MaskSet:
        """Return the base and n - 1 further draws."""
        drawn = self.draw(n - 1, rng)
        orderings = np.concatenate([self.base.ordering[None], drawn.orderings])
        return MaskSet(
            orderings, tuple(np.concatenate([a[None], b]) for a, b in zip(self.base.degrees, drawn.degrees, strict=True))
        )


def least_degree(variables: Variables | None) -> int:
    """Return the smallest degree of a hidden unit."""
    return 1 if variables is None else variables.least_degree


def _draw_orderings(n: int, n_inputs: int, rng: np.random.Generator, variables: Variables | None) -> IntVector:
    drawn = rng.permuted(np.tile(np.arange(1, n_inputs + 1, dtype=np.int32), (n, 1)), axis=1)
    return drawn if variables is None else variables.together(drawn)


def _draw_degrees(
    n: int, n_inputs: int, hidden_sizes: Sequence[int], how: str, rng: np.random.Generator, least: int = 1
) -> tuple[IntVector, ...]:
    """Draw the degrees of every hidden layer n times, (n, H_l), ``how`` as in :func:`draw_connectivity`."""
    largest = max(n_inputs - 1, least)
    smallest: Any = np.full((n, 1), least, np.int64)
    layers: list[IntVector] = []
    for size in hidden_sizes:
        if how == "uniform":
            m = rng.integers(smallest, largest + 1, size=(n, size))
        else:
            stratum = (np.arange(size) + rng.random((n, size))) / size
            m = smallest + np.floor(stratum * (largest - smallest + 1)).astype(np.int64)
            m = np.minimum(m, largest)  # the last stratum may round up to 1
            m[:, :1] = smallest
            m = rng.permuted(m, axis=1)
        smallest = m.min(axis=1, keepdims=True)
        layers.append(m.astype(np.int32))
    return tuple(layers)


def draw_connectivity(
    n_inputs: int,
    hidden_sizes: Sequence[int],
    ordering: str | Sequence[int] | IntVector,
    degrees: str,
    rng: np.random.Generator,
    variables: Variables | None = None,
) -> Connectivity:
    """Draw one connectivity: the ordering first, then the degrees layer by layer (sections 4.1 and 4.2).

    ``ordering``: ``"natural"`` keeps the order of the columns, ``"random"`` draws a uniform permutation, a sequence is the
    places of the columns themselves, which :func:`made_fast.tables.arguments.ordering` has checked.

    ``degrees``: each is in {smallest degree of the layer below, ..., D - 1}. ``"uniform"`` is the paper's rule: independent
    uniform draws. Some outputs may be left with no input. ``"stratified"`` cuts the range into H equal strata, draws one
    degree from each, gives the first stratum the smallest degree, and shuffles: every output from place 2 on is reached by at
    least one input, whatever D and H. With D = 1 the units get degree 1 and no output sees them: the model is the output bias.
    """
    if not isinstance(ordering, str):
        m0 = np.array(ordering, dtype=np.int32)
        m0 = m0 if variables is None else variables.together(m0[None])[0]
    else:
        m0 = (
            _draw_orderings(1, n_inputs, rng, variables)[0]
            if ordering == "random"
            else np.arange(1, n_inputs + 1, dtype=np.int32)
        )
    least = least_degree(variables)
    return Connectivity(m0, tuple(m[0] for m in _draw_degrees(1, n_inputs, hidden_sizes, degrees, rng, least)))


def check_connectivity(
    value: Connectivity, n_features: int, hidden_sizes: Sequence[int], least_degree: int = 1
) -> Connectivity:
    """Return ``value`` if it is a connectivity of a network of these sizes."""
    vectors = value.ordering, *(value.degrees if isinstance(value.degrees, tuple) else [None])
    if not all(isinstance(m, np.ndarray) and m.ndim == 1 and m.dtype.kind in "iu" for m in vectors):
        raise TypeError(
            f"the connectivity must be made of vectors of ints, got {arguments.shown(value)}. Use np.array(..., np.int32)."
        )
    found = (value.n_inputs, *value.hidden_sizes)
    if found != (n_features, *hidden_sizes):
        raise ValueError(
            f"the connectivity must be of {n_features} inputs and hidden layers of {tuple(hidden_sizes)} units, "
            f"got {found[0]} and {found[1:]}."
        )
    largest = max(n_features - 1, least_degree)
    if (np.sort(value.ordering) != np.arange(1, n_features + 1)).any():
        raise ValueError(
            f"the connectivity's ordering must hold each place 1..{n_features} once, got {arguments.shown(value.ordering)}."
        )
    for m in value.degrees:
        if m.min() < least_degree or m.max() > largest:
            raise ValueError(f"the connectivity's degrees must be in {least_degree}..{largest}, got {m.min()}..{m.max()}.")
    if all(m.dtype == np.int32 for m in vectors):
        return value
    return Connectivity(value.ordering.astype(np.int32), tuple(m.astype(np.int32) for m in value.degrees))
