"""The rows that a fit gets: tables checked once, split, packed; their weights; digests that tell whether they changed.

Not here: hyper-parameters (``recipe.py``), the fit itself (``run.py``).
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from made_fast.inference.modelfile import encode_names
from made_fast.kernels.layout import THERMOMETER
from made_fast.network.masks import Variables
from made_fast.network.network import Parameters
from made_fast.system.blas import weighted_sum
from made_fast.system.once import once
from made_fast.tables import arguments
from made_fast.tables.arrays import column_names
from made_fast.tables.bits import distinct_rows, pack_missing, pack_rows, unpack_rows
from made_fast.tables.coded import Coded
from made_fast.tables.names import check_different
from made_fast.tables.packed import Packed
from made_fast.tables.table import MatrixLike, Table, chunks

__all__ = [
    "Rows",
    "TrainingRows",
    "check_same",
    "check_weights",
    "digests",
    "hold_out",
    "not_observed",
    "order_of",
    "variables_of",
]


MOST_PERMUTED, MIXED = 1 << 26, 6
"""Rows whose order is drawn as a whole, in eight bytes a row; steps that mix the numbers of more."""


@dataclass(frozen=True)
class TrainingRows:
    """Rows packed in the order of columns of the parameters that they train.

    Attributes
    ----------
    bits : (n, W) uint64
    missing : (n, W) uint64 or None
        Where an entry is missing; its bit in ``bits`` is 0.
    weights : (n,) float64, or (0,)
        Weight of each row in the loss; none is 1 for all.
    within : (n,) float64 or None
        The log-density of each row within its levels, in nats; None: 0, as of binary rows.
    """

    bits: NDArray[np.uint64]
    missing: NDArray[np.uint64] | None
    weights: NDArray[np.float64]
    within: NDArray[np.float64] | None = None

    @once
    def patterns(self) -> tuple[NDArray[np.uint64], NDArray[np.intp]]:
        """Return the different rows of ``missing``, and which of them each row has."""
        assert self.missing is not None
        return distinct_rows(self.missing)

    def log_odds(self, n_columns: int) -> NDArray[np.float64]:
        """Return ``log((ones + c) / (zeros + c))`` of each column as it is packed, (n_columns,).

        Rows count by their weights, those of a negative one not at all, and only where they are observed. c is 1, or the
        largest weight if that is smaller: weights may add up to 1.
        """
        weights, c = self._counting()
        if not c:
            return np.zeros(n_columns)
        ones, zeros = np.zeros(n_columns), np.zeros(n_columns)
        for part in chunks(len(self.bits), n_columns):
            x = unpack_rows(self.bits[part], n_columns)
            ones += weighted_sum(weights[part], x)
            zeros += weighted_sum(
                weights[part], 1 - x if self.missing is None else 1 - (x | unpack_rows(self.missing[part], n_columns))
            )
        return np.log((ones + c) / (zeros + c))

    def log_levels(self, variables: Variables, order: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return logits of the shares of all levels, in the order of the features, (n_outputs,); of two levels the log-odds.

        ``order`` has the feature of each column of ``bits``. Rows count, and c, as for :meth:`log_odds`.
        """
        weights, c = self._counting()
        V, n_inputs = len(variables.widths), len(order)
        out = np.zeros(n_inputs - variables.n_context)
        if not c:
            return out
        ones, observed = np.zeros(n_inputs), np.zeros(V)
        for part in chunks(len(self.bits), n_inputs):
            ones += weighted_sum(weights[part], unpack_rows(self.bits[part], n_inputs))
            observed += (
                weights[part].sum()
                if self.missing is None
                else weighted_sum(weights[part], 1 - unpack_rows(self.missing[part], V))
            )
        by_feature = np.empty(n_inputs)
        by_feature[order] = ones
        start = variables.n_context
        for width, coding, n in zip(variables.widths, variables.codings, observed, strict=True):
            own = slice(start, start + width)
            counts = by_feature[own]
            if width == 1:
                found = np.log((counts + c) / np.maximum(n - counts + c, c))
            else:  # of a thermometer, those with at least this level
                several = counts - np.append(counts[1:], 0) if coding == THERMOMETER else counts
                found = np.log((np.maximum(several, 0) + c) / (n + c * max(width, 1)))
            out[start - variables.n_context : start - variables.n_context + width] = found
            start += width
        return out

    def _counting(self) -> tuple[NDArray[np.float64], float]:
        """Return what each row counts, (n,), and c; 0 if none does."""
        weights = np.maximum(self.weights, 0) if len(self.weights) else np.ones(1)
        if not (largest := float(weights.max())):
            return weights, 0.0
        return np.broadcast_to(weights / largest, len(self.bits)), min(1.0, 1 / largest)  # so that no sum overflows

    def take(self, rows: NDArray[np.intp]) -> TrainingRows:
        """Return some of the rows."""
        within = None if self.within is None else self.within[rows]
        return TrainingRows(self.bits[rows], *_taken(self, rows), within)

    @once
    def nll_within(self) -> float:
        """Add up what the rows' places within their levels are of their mean loss, in nats."""
        if self.within is None:
            return 0.0
        return -float(np.mean(self.within * self.weights if len(self.weights) else self.within))


class Rows(NamedTuple):
    """Rows as the user gave them, checked.

    Attributes
    ----------
    table : Table of shape (n, D)
    missing : (n, ceil(D / 64)) uint64, or None
        Where an entry is missing, packed; None where none is.
    weights : (n,) float64, or (0,)
        Weight of each row in the loss; none is 1 for all.
    names : tuple of str or None
        Of the columns.
    """

    table: Table
    missing: NDArray[np.uint64] | None
    weights: NDArray[np.float64]
    names: tuple[str, ...] | None

    @classmethod
    def of(cls, X: MatrixLike, sample_weight: Any, names: tuple[str, ...] | None, n_features: int | None = None) -> Rows:
        """Check rows to train on, all but their values; names that no file could hold are refused.

        ``names`` are those of the columns if X has none.
        """
        table, own = Table.of(X, n_features), column_names(X)
        check_different(own)
        encode_names(own)
        return cls._weighted(table, sample_weight, "sample_weight", own or names)

    def validation(self, X_val: Any, sample_weight_val: Any) -> Rows | None:
        """Check rows to validate on: their columns must be those of these rows, by name if both have names."""
        if X_val is None:
            if sample_weight_val is not None:
                raise ValueError("sample_weight_val must come with X_val, got none. Rows held out keep their sample_weight.")
            return None
        table = Table.of(X_val, self.table.shape[1], name="X_val", feature_names=self.names)
        return self._weighted(table, sample_weight_val, "sample_weight_val", self.names)

    @classmethod
    def _weighted(cls, table: Table, weights: Any, name: str, names: tuple[str, ...] | None) -> Rows:
        weights = arguments.sample_weight(weights, table.shape[0], name)
        missing = table.gaps if isinstance(table, Packed) else pack_missing(table, np.arange(table.shape[1]))
        return cls(table, missing, weights, names)

    def take(self, rows: NDArray[np.intp]) -> Rows:
        """Return some of the rows."""
        return Rows(self.table.take(rows), *_taken(self, rows), self.names)

    def joined(self, more: Rows) -> Rows:
        """Return these rows and more of them as one table; weights are 1 where the others have some."""
        weights = self.weights
        if len(self.weights) or len(more.weights):
            weights = np.concatenate(
                [part.weights if len(part.weights) else np.ones(len(part.table)) for part in (self, more)]
            )
        table = self.table.joined(more.table)
        return Rows(table, pack_missing(table, np.arange(table.shape[1])), weights, self.names)

    def pack(self, parameters: Parameters, binarize: float | None, name: str = "X") -> TrainingRows:
        """Pack the rows for the parameters that they train, and check every value."""
        if self.missing is not None and name == "X" and parameters.connectivity is not None:
            raise ValueError(
                "X must be complete here, got NaN: training began on complete rows, under one mask of a fixed ordering. "
                "Begin with rows that miss something, or set n_masks=None."
            )
        if isinstance(self.table, Packed):
            bits = self.table.arranged(parameters.order)
        else:
            bits = pack_rows(self.table, parameters.order, binarize, missing=self.missing is not None)
        within = self.table.within if isinstance(self.table, Coded | Packed) else None
        return TrainingRows(bits, self.missing, self.weights, within)  # with missing entries, columns stay in their order

    def check_observed(self, *, warn: bool) -> None:
        """Refuse rows to train on of which nothing is observed; ``warn`` of columns that are never observed."""
        if self.missing is None:
            return
        never = self.table.never_observed()
        if len(never) == self.table.shape[1]:
            raise ValueError(
                "X must have an entry that is not missing, got NaN everywhere. Check that it is the table you mean."
            )
        if warn and len(never):
            warnings.warn(
                f"{not_observed(never, self.names)}: what the model says of them comes from its initial weights.",
                UserWarning,
                stacklevel=3,
            )


class Order:
    """A random order of n rows, of which slices are computed as they are needed: it takes no memory.

    Numbers below a power of two are mixed by steps that can be undone, products with odd numbers and shifted sums, keyed by
    random numbers; one that becomes n or more is mixed on until it is below.
    """

    def __init__(self, n: int, rng: np.random.Generator) -> None:
        self.n, self.n_bits = n, max(2, (n - 1).bit_length())
        self.keys = rng.integers(1 << self.n_bits, size=(MIXED, 2), dtype=np.uint64)

    def __getitem__(self, part: slice) -> NDArray[np.int64]:
        rows = self._mixed(np.arange(*part.indices(self.n), dtype=np.uint64))
        beyond = np.flatnonzero(rows >= self.n)
        while len(beyond):
            rows[beyond] = self._mixed(rows[beyond])
            beyond = beyond[rows[beyond] >= self.n]
        return rows.view(np.int64)

    def _mixed(self, x: NDArray[np.uint64]) -> NDArray[np.uint64]:
        mask, shift = np.uint64((1 << self.n_bits) - 1), np.uint64(self.n_bits // 2)
        for odd, add in self.keys:
            x = ((x + add) * (odd | np.uint64(1))) & mask
            x ^= x >> shift
        return x


def order_of(n: int, rng: np.random.Generator) -> NDArray[np.int64] | Order:
    """Return a random order of n rows: a permutation, or where that would take too much memory, something like it."""
    return rng.permutation(n) if n <= MOST_PERMUTED else Order(n, rng)


def variables_of(table: Table) -> Variables | None:
    """Return what the features of a table are, None if they are binary."""
    coding = table.coding if isinstance(table, Coded | Packed) else None
    return None if coding is None else Variables.of(coding)


def _taken(of: Rows | TrainingRows, rows: NDArray[np.intp]) -> tuple[NDArray[np.uint64] | None, NDArray[np.float64]]:
    """Return where some of the rows have missing entries, and their weights."""
    return None if of.missing is None else of.missing[rows], of.weights[rows] if len(of.weights) else of.weights


def hold_out(n: int, fraction: Any, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the numbers of the rows to train on and of those to validate on, which the seed decides."""
    n_val = round(n * arguments.fraction(fraction, "validation_fraction"))
    if not 0 < n_val < n:
        raise ValueError(
            f"validation_fraction={fraction} of {n} rows leaves {n - n_val} for training "
            f"and {n_val} for validation; both must have some. Give more rows, another fraction, or X_val."
        )
    rows = np.random.default_rng(seed).permutation(n)
    return rows[n_val:], rows[:n_val]


def check_weights(train: NDArray[np.float64], held: NDArray[np.float64] | None) -> None:
    """Refuse weights of rows that leave nothing to learn from, or nothing to validate on; those of length 0 are 1."""
    if len(train) and not train.any():
        rest = " but those held out for validation" if held is not None and held.any() else ""
        raise ValueError(
            f"sample_weight must not be zero for all rows{rest}: nothing would be learned. Drop it, or give weights."
        )
    if held is not None and len(held) and ((held < 0).any() or not held.any()):
        raise ValueError(
            "the weights of validation rows must be >= 0 and not all zero: they say what a row counts in the mean. "
            "Pass X_val with other weights, or without."
        )


def not_observed(never: NDArray[np.intp], names: Sequence[str] | None) -> str:
    """Return the beginning of a warning of columns that are never observed."""
    shown = ", ".join(str(d) if names is None else repr(names[d]) for d in never[:10])
    more = ", ..." if len(never) > 10 else ""
    return f"X has no observed entry in {len(never)} column(s): {shown}{more}. Nothing is learned of them"


def digests(train: TrainingRows, held: TrainingRows | None) -> dict[str, str]:
    """Return digests of rows and weights, by the name of the argument: two fits of the same ones have the same digests."""

    def digest(*parts: NDArray[Any] | None) -> str:
        found = hashlib.sha256()
        for part in parts:
            found.update(b"none" if part is None else repr(part.shape).encode())
            for start in range(0, 0 if part is None else len(part), 1 << 16):
                found.update(np.ascontiguousarray(part[start : start + (1 << 16)]).data)  # type: ignore[index]
        return found.hexdigest()

    found = {"X": digest(train.bits, train.missing), "sample_weight": digest(train.weights)}
    if held is not None:
        found |= {"X_val": digest(held.bits, held.missing), "sample_weight_val": digest(held.weights)}
    return found


def check_same(found: dict[str, str], begun: dict[str, str]) -> None:
    """Refuse rows or weights other than those that a fit began with; an old checkpoint has no digests."""
    if not begun:
        return
    for name in dict.fromkeys((*begun, *found)):
        if begun.get(name) != found.get(name):
            was = "others" if name in begun and name in found else "none" if name in begun else "some where there were none"
            raise ValueError(
                f"{name} must be what the fit began with, got {was}. A resumed fit goes on with the same rows, weights and "
                "validation rows (X_val or validation_fraction); to train on others, call partial_fit, or fit a new MADE."
            )
