"""Rows in an ONNX graph: what networks read of them, and how likely they are by the logits of a network.

Not here: networks and mixtures (``export.py``), the levels of raw columns (``raw.py``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from made_fast.inference.density import Density
from made_fast.inference.onnx import columns as raw
from made_fast.inference.onnx.graph import Graph
from made_fast.kernels.layout import THERMOMETER
from made_fast.tables.columns.encoder import Encoder

__all__ = ["DOUBLE", "BinaryRows", "Dtype", "Rows", "TableRows", "softplus"]

Dtype: TypeAlias = np.dtype[Any]

DOUBLE = np.dtype(np.float64)


class Rows(ABC):
    """Rows in a graph: what networks read of them, and how likely they are by the logits of a network.

    Attributes
    ----------
    fine : str
        (N,) bool, whether a row is complete and has values that the model takes.
    log_density : str or None
        (N, 1) of rows within their levels.
    variable_of : (L,) intp
        The variable that each conditional is of.
    """

    log_density: str | None = None
    variable_of: NDArray[np.intp]
    fine: str

    def __init__(self, g: Graph, bits: str) -> None:
        self.g, self._bits = g, bits
        self._kept: dict[tuple[str, Dtype], str] = {}

    def x(self, dtype: Dtype) -> str:
        """Return the inputs of a network."""
        return self._once("x", dtype, lambda: self.g.cast(self._bits, dtype))

    def log_p(self, logits: str, dtype: Dtype) -> str:
        """Return log p of the rows or of their levels under a network, (N, 1) float64."""
        return self.g.total(self.log_inputs(logits, dtype), 1)

    @abstractmethod
    def log_inputs(self, logits: str, dtype: Dtype) -> str:
        """Return log p of each input or variable given those before it, (N, V) float64."""

    @abstractmethod
    def proba(self, logits: str, dtype: Dtype) -> str:
        """Return the conditionals, (N, L) of the dtype of the model."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return what a reader of the file should know of the rows."""

    def _once(self, name: str, dtype: Dtype, make: Callable[[], str]) -> str:
        if (name, dtype) not in self._kept:
            self._kept[name, dtype] = make()
        return self._kept[name, dtype]

    def _log_sigmoid(self, logits: str, ones: str, dtype: Dtype) -> str:
        """Return log p of inputs that are 0 or 1, from their logits, as float64."""
        g = self.g
        sign = self._once(ones, dtype, lambda: g("Sub", np.ones((), dtype), g("Mul", g.cast(ones, dtype), np.array(2, dtype))))
        return g("Neg", g.cast(softplus(g, g("Mul", sign, logits), dtype), DOUBLE))


class BinaryRows(Rows):
    """Rows of 0/1: one input of the graph, ``X``."""

    def __init__(self, g: Graph, density: Density, dtype: Dtype) -> None:
        D = density.n_features_in
        self.variable_of = np.arange(D)
        if density.binarize is None:
            meaning = "rows of 0 and 1; another value, or NaN, makes what is told of its row NaN"
        else:
            meaning = f"rows of numbers; those above {density.binarize:g} count as 1; one that is not finite makes its row NaN"
        X = g.input("X", dtype, D, meaning)
        if density.binarize is None:
            bits = g("Equal", X, np.ones((), dtype))
            fine = g("Or", bits, g("Equal", X, np.zeros((), dtype)))
        else:
            with np.errstate(over="ignore"):
                bits = g("Greater", X, np.array(density.binarize, dtype))
            fine = g("LessOrEqual", g("Abs", X), np.array(np.finfo(dtype).max))
        super().__init__(g, bits)
        self.fine = g.cast(g("ReduceMin", g.cast(fine, np.float32), axes=[1], keepdims=0), np.bool_)
        names = density.feature_names
        self._about = {"X": meaning, "feature_names": None if names is None else list(names)}

    def log_inputs(self, logits: str, dtype: Dtype) -> str:
        """See ``Rows``."""
        return self._log_sigmoid(logits, self._bits, dtype)

    def proba(self, logits: str, dtype: Dtype) -> str:
        """See ``Rows``."""
        return self.g("Sigmoid", logits)

    def facts(self) -> dict[str, Any]:
        """See ``Rows``."""
        what = "p(x_d = 1 | the inputs before d in the ordering)"
        return {"kind": "rows of 0/1"} | self._about | {"conditionals": what}


class TableRows(Rows):
    """Rows of a table: an input of the graph for each column, and then for each of a context."""

    def __init__(self, g: Graph, encoder: Encoder) -> None:
        self._encoder, coding, digits = encoder, encoder.coding, encoder.digits
        self._table = raw.declare(g, encoder.columns)
        self._context = raw.declare(g, encoder.context, "context") if encoder.context is not None else None
        levels, self.log_density = raw.encode(g, self._table)
        if not digits.single:
            levels = _split(g, levels, np.array(digits.bases), digits.starts)
        self._levels = codes = levels
        if self._context is not None:
            codes = g.join([raw.encode(g, self._context).levels, levels])
        least = g("ReduceMin", codes, axes=[1], keepdims=0)
        widths = np.array(coding.widths)
        of = np.repeat(np.arange(len(widths)), widths)  # the column of each indicator
        number = np.arange(len(of)) - np.array(coding.starts)[of]
        low = np.where(widths[of] == 1, 1, number)
        high = np.where((np.array(coding.codings)[of] == THERMOMETER) & (widths[of] > 1), np.array(coding.n_levels)[of], low)
        code = g("Gather", codes, of, axis=1)
        super().__init__(g, g("And", g("GreaterOrEqual", code, low), g("LessOrEqual", code, high)))
        self.fine = g("GreaterOrEqual", least, np.array(0))
        self._of_width: dict[int, NDArray[np.intp]] = {
            width: np.flatnonzero(widths[coding.n_context :] == width)
            for width in np.unique(widths[coding.n_context :]).tolist()
        }
        self._outputs = np.array(coding.starts[coding.n_context :]) - coding.n_context_inputs
        self._n_levels = coding.levels_of
        self.variable_of = np.repeat(np.arange(coding.n_variables), self._n_levels)

    def log_inputs(self, logits: str, dtype: Dtype) -> str:
        """See ``Rows``."""
        g, found = self.g, []
        for width, members in self._of_width.items():
            if width > 1:
                picked = g("GatherElements", self._log_softmax(logits, width), self._level(members[:, None]), axis=2)
                found.append(g("Squeeze", picked, np.array([2])))
            elif width:
                found.append(self._log_sigmoid(self._own(logits, width), self._one(), dtype))
            else:
                found.append(g.cast(g("Mul", self._level(members), np.array(0)), DOUBLE))
        return self._in_order(found, np.concatenate(list(self._of_width.values())))

    def proba(self, logits: str, dtype: Dtype) -> str:
        """See ``Rows``."""
        g, found, at = self.g, [], []
        first = np.append(0, np.cumsum(self._n_levels))
        for width, members in self._of_width.items():
            if width > 1:
                p = g("Reshape", g("Exp", self._log_softmax(logits, width)), np.array([0, width * len(members)]))
                at.append((first[members][:, None] + np.arange(width)).ravel())
            elif width:
                one = g.cast(self._own(logits, width), DOUBLE)
                p = g.join([g("Sigmoid", g("Neg", one)), g("Sigmoid", one)])
                at.append(np.concatenate([first[members], first[members] + 1]))
            else:
                level = self._level(members)
                p = g.cast(g("Equal", level, level), DOUBLE)
                at.append(first[members])
            found.append(p)
        return g.cast(self._in_order(found, np.concatenate(at)), dtype)

    def facts(self) -> dict[str, Any]:
        """See ``Rows``."""
        names, digits = self._encoder.columns.names, self._encoder.digits
        listed: list[dict[str, Any]] = []
        for v, (n, column) in enumerate(zip(self._n_levels.tolist(), digits.column_of.tolist(), strict=True)):
            start = int(self._n_levels[:v].sum())
            about = {"column": names[column], "start": start, "stop": start + n}
            if digits.bases[column] > 1:
                about |= {"digit": int(v - digits.starts[column]), "base": digits.bases[column]}
            listed.append(about)
        context = {} if self._context is None else {"context": self._context.facts()}
        return {"kind": "table", "columns": self._table.facts()} | context | {"conditionals": listed}

    def _level(self, members: NDArray[np.intp]) -> str:
        """Return the levels of some variables, in the shape of ``members`` behind N."""
        make = partial(self.g, "Gather", self._levels, members, axis=1)
        return self._once(f"level {members.ndim} {members.ravel()[0]}", DOUBLE, make)

    def _one(self) -> str:
        """Return which of the variables of two levels have the second one."""
        return self._once("one", DOUBLE, lambda: self.g("Equal", self._level(self._of_width[1]), np.array(1)))

    def _own(self, logits: str, width: int) -> str:
        """Return the logits of the variables of a width, (N, n) for 1, else (N, n, width)."""
        starts = self._outputs[self._of_width[width]]
        which = starts if width == 1 else starts[:, None] + np.arange(width)
        return self._once(f"{width} of {logits}", DOUBLE, lambda: self.g("Gather", logits, which, axis=1))

    def _log_softmax(self, logits: str, width: int) -> str:
        g, own = self.g, self._own(logits, width)
        return self._once(f"log {own}", DOUBLE, lambda: g("LogSoftmax", g.cast(own, DOUBLE), axis=-1))

    def _in_order(self, found: Sequence[str], at: NDArray[np.intp]) -> str:
        joined = self.g.join(found)
        order = np.argsort(at)
        return joined if (order == np.arange(len(order))).all() else self.g("Gather", joined, order, axis=1)


def _split(g: Graph, levels: str, bases: NDArray[np.intp], starts: NDArray[np.intp]) -> str:
    """Return the levels of variables (N, P) of those of columns (N, V): see ``Digits.split``."""
    high = g("Div", levels, bases)
    low = g("Sub", levels, g("Mul", high, bases))
    both = g.join([high, low])  # of -1, one of them is -1, however a division rounds
    V, two = len(bases), bases > 1
    order = np.empty(int(starts[-1]), np.intp)
    order[starts[:-1]] = np.arange(V)
    order[starts[:-1][two] + 1] = V + np.flatnonzero(two)
    return g("Gather", both, order, axis=1)


def softplus(g: Graph, z: str, dtype: Dtype) -> str:
    """Return ``log(1 + exp(z))``; ONNX Runtime has it in float32 only."""
    if dtype != DOUBLE:
        return g("Softplus", z)
    tail = g("Log", g("Add", g("Exp", g("Neg", g("Abs", z))), np.ones((), dtype)))
    return g("Add", g("Relu", z), tail)
