"""Orderings, degrees and the staircase: what decides which unit sees which.

Pure functions of small integer vectors. Nothing here holds a mask matrix, a weight or a row of data; a mask of
``D x H`` booleans is only ever written down by :mod:`made_fast.kernels.reference`.

Source: Germain, Gregor, Murray, Larochelle, "MADE: Masked Autoencoder for Distribution Estimation", ICML 2015,
arXiv:1502.03509, sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["DEGREE_RULES", "Connectivity", "Staircase", "draw_connectivity", "draw_degrees", "draw_ordering"]

DEGREE_RULES = ("stratified", "uniform")
IntVector = NDArray[np.int32]


@dataclass(frozen=True)
class Connectivity:
    """One draw of an ordering and of all hidden degrees; it fixes every mask of the network.

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

    def staircase(self) -> Staircase:
        """Sort every layer by degree, so that each unit sees a prefix of the layer below."""
        below = np.sort(self.ordering)
        sorts = [np.argsort(self.ordering, kind="stable")]
        n_live = []
        for m in self.degrees:
            sort = np.argsort(m, kind="stable")
            above = m[sort]
            n_live.append(np.searchsorted(below, above, side="right").astype(np.int32))
            sorts.append(sort)
            below = above
        places = np.arange(1, self.n_inputs + 1, dtype=np.int32)
        n_live.append(np.searchsorted(below, places, side="left").astype(np.int32))
        sorts.append(sorts[0])
        return Staircase(tuple(sorts), tuple(n_live))


@dataclass(frozen=True)
class Staircase:
    """The masks of one connectivity after both sides of each are sorted by degree.

    Attributes
    ----------
    sorts : tuple of L + 2 intp vectors
        ``sorts[l][j]`` is the original number of the unit that stands at sorted position j of layer l. Layer 0 are
        the inputs (sorted position = place - 1), the last layer are the outputs (the same permutation).
    n_live : tuple of L + 1 int32 vectors
        Sorted unit j of layer l + 1 sees exactly the first ``n_live[l][j]`` sorted units of layer l. Never decreases.
    """

    sorts: tuple[NDArray[np.intp], ...]
    n_live: tuple[IntVector, ...]


def draw_ordering(n_inputs: int, ordering: str | Sequence[int], rng: np.random.Generator) -> IntVector:
    """Return the place 1..D of each input, shape (D,).

    ``"natural"`` keeps the order of the columns, ``"random"`` draws a uniform permutation, a sequence is taken as the
    places themselves. It has been checked by :func:`made_fast.checks.ordering`.
    """
    if isinstance(ordering, str):
        places = np.arange(1, n_inputs + 1, dtype=np.int32)
        return rng.permutation(places) if ordering == "random" else places
    return np.array(ordering, dtype=np.int32)


def draw_degrees(n_inputs: int, hidden_sizes: Sequence[int], rule: str, rng: np.random.Generator) -> tuple[IntVector, ...]:
    """Draw the degrees of every hidden layer, each in {smallest degree of the layer below, ..., D - 1}.

    ``"uniform"`` is the paper's rule (section 4.2): independent uniform draws. Some outputs may be left with no input.
    ``"stratified"`` cuts the range into H equal strata, draws one degree from each, gives the first stratum the smallest
    degree, and shuffles: every output from place 2 on is reached by at least one input, whatever D and H.

    With D = 1 no degree exists; the units get degree 1 and no output sees them: the model is the output bias.
    """
    largest = max(n_inputs - 1, 1)
    smallest = 1
    layers: list[IntVector] = []
    for size in hidden_sizes:
        if rule == "uniform":
            m = rng.integers(smallest, largest + 1, size=size)
        else:
            stratum = (np.arange(size) + rng.random(size)) / size
            m = smallest + np.floor(stratum * (largest - smallest + 1)).astype(np.int64)
            m = np.minimum(m, largest)  # the last stratum may round up to 1
            m[0] = smallest
            rng.shuffle(m)
        smallest = int(m.min())
        layers.append(m.astype(np.int32))
    return tuple(layers)


def draw_connectivity(
    n_inputs: int,
    hidden_sizes: Sequence[int],
    ordering: str | Sequence[int],
    degrees: str,
    rng: np.random.Generator,
) -> Connectivity:
    """Draw one connectivity: the ordering first, then the degrees layer by layer (sections 4.1 and 4.2)."""
    m0 = draw_ordering(n_inputs, ordering, rng)
    return Connectivity(m0, draw_degrees(n_inputs, hidden_sizes, degrees, rng))
