"""``to_onnx``: a fitted density as an ONNX graph, which ONNX Runtime and others score without this package.

An exported file holds dense weights, the dead ones as zeros: as ``to_dense`` does, it leaves the house, where masks are none
of anybody's business. Not here: nodes and the file's form (``onnxgraph.py``), raw columns (``onnxcolumns.py``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from made_fast.inference import onnxcolumns
from made_fast.inference.density import Density
from made_fast.inference.mixture import MixtureModel
from made_fast.inference.model import MADEModel
from made_fast.inference.onnxgraph import Graph
from made_fast.inference.tablemodel import TableModel
from made_fast.kernels.layout import THERMOMETER
from made_fast.system import durable
from made_fast.tables import arguments
from made_fast.tables.columns.encoder import Encoder

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["MOST_BYTES", "to_onnx"]

LOG_P, CONDITIONALS = "log_p", "conditionals"
"""The outputs."""

MOST_BYTES = (1 << 31) - (1 << 26)
"""Of the weights in a file, which holds 2 GB: protocol buffers have no more."""

Dtype: TypeAlias = np.dtype[Any]

DOUBLE = np.dtype(np.float64)


class _Part(NamedTuple):
    """A density with one ordering: a network, or the mixture of those of a latent mixture; and its weight in the whole."""

    member: int
    mask: int
    weight: float
    model: MADEModel
    networks: range


def to_onnx(model: Density | TableModel, path: Any, conditionals: bool) -> ModelProto:
    """Return a density as an ONNX model, and write it to ``path`` if that is not None. See ``Density.to_onnx``."""
    conditionals = arguments.boolean(conditionals, "conditionals")
    where = None if path is None else arguments.path(path)
    table = isinstance(model, TableModel)
    parts = _parts(model.density if isinstance(model, TableModel) else model)
    _check_levels(parts, table)
    _check_size(parts)
    g = Graph((LOG_P, CONDITIONALS))
    rows: _Rows = _Columns(g, model.encoder) if isinstance(model, TableModel) else _Bits(g, model, parts)
    logits = [[_logits(g, part.model, k, rows) for k in part.networks] for part in parts]
    scores = [
        g("Add", rows.log_p(a, part.model.dtype), np.array(np.log(part.weight / len(part.networks))))
        for part, each in zip(parts, logits, strict=True)
        for a in each
    ]
    log_p = g("ReduceLogSumExp", g.join(scores), axes=[1], keepdims=0)
    if rows.log_density is not None:
        log_p = g("Add", log_p, g("Squeeze", rows.log_density, np.array([1])))
    nan = np.array(np.nan)
    g.output(g("Where", rows.fine, log_p, nan), LOG_P, DOUBLE, ["N"], "log p of each row, in nats; NaN: see the inputs")
    if conditionals:
        _add_conditionals(g, rows, parts, logits)
    facts = rows.facts() | {
        "parts": [{"member": part.member, "mask": part.mask, "weight": part.weight} for part in parts],
    }
    proto = g.model(f"log p of rows under {model!r}", facts)
    if where is not None:
        durable.replace(where, lambda stream: stream.write(proto.SerializeToString()))  # type: ignore[arg-type,return-value]
    return proto


def _parts(density: Density) -> list[_Part]:
    members, weights = [density], [1.0]
    if isinstance(density, MixtureModel):
        members, weights = list(density.members), density.weights.tolist()
    found = []
    for m, (member, weight) in enumerate(zip(members, weights, strict=True)):
        if not isinstance(member, MADEModel):
            member.to_dense()  # which refuses
        assert isinstance(member, MADEModel)
        K, points = member.n_masks, member.n_points
        found += [_Part(m, k, weight / K, member, range(k, k + 1) if points == 1 else range(points)) for k in range(K)]
    return found


def _check_levels(parts: Sequence[_Part], table: bool) -> None:
    if not table and parts[0].model.architecture.variables is not None:
        raise TypeError("a model of levels knows no columns. Ask the TableModel, which does.")


def _check_size(parts: Sequence[_Part]) -> None:
    """Refuse weights that no ONNX file holds, before any of them is made dense."""
    n_bytes = 0
    for part in parts:
        a = part.model.architecture
        sizes = (a.n_inputs, *a.hidden_sizes, a.n_outputs)
        own = sum((below + 1 + a.n_inputs * a.has_direct(l)) * above for l, (below, above) in enumerate(pairwise(sizes)))
        n_bytes += own * len(part.networks) * part.model.dtype.itemsize
    if n_bytes > MOST_BYTES:
        n = sum(len(part.networks) for part in parts)
        raise ValueError(
            f"the dense weights must have at most {MOST_BYTES / 2**30:.3g} GB, what an ONNX file holds, got {n_bytes / 2**30:.3g} "
            f"GB, of {n} network(s). Export fewer of them: the members of a mixture, or "
            "MADEModel(model.source, model.masks.first(8)), each to a file."
        )


def _logits(g: Graph, model: MADEModel, k: int, rows: _Rows) -> str | None:
    """Return the logits (N, O) of network k of a model, in the order of its outputs; None if there is none."""
    a = model.architecture
    if not a.n_outputs:
        return None
    net, x = model.part(k).dense(), rows.x(model.dtype)
    h, last = x, len(a.hidden_sizes)
    for l, (W, b, A) in enumerate(zip(net["weights"], net["biases"], net["direct"], strict=True)):
        z = g("Gemm", h, W.T, b)
        if A is not None:
            z = g("Gemm", x, A.T, z)
        h = z if l == last else _activation(g, a.activation, z, model.dtype)
    return h


def _activation(g: Graph, name: str, z: str, dtype: Dtype) -> str:
    """Return g(z); ONNX Runtime has softplus and softsign in float32 only."""
    if name == "softplus":
        return _softplus(g, z, dtype)
    if name == "softsign":
        return g("Div", z, g("Add", g("Abs", z), np.ones((), dtype)))  # type: ignore[no-any-return]
    if name == "identity":
        return z
    return g({"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}[name], z)  # type: ignore[no-any-return]


def _softplus(g: Graph, z: str, dtype: Dtype) -> str:
    if dtype != DOUBLE:
        return g("Softplus", z)  # type: ignore[no-any-return]
    tail = g("Log", g("Add", g("Exp", g("Neg", g("Abs", z))), np.ones((), dtype)))
    return g("Add", g("Relu", z), tail)  # type: ignore[no-any-return]


class _Rows(ABC):
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

    def log_p(self, logits: str | None, dtype: Dtype) -> str:
        """Return log p of the rows or of their levels under a network, (N, 1) float64."""
        return self.g.total(self.log_inputs(logits, dtype), 1)

    @abstractmethod
    def log_inputs(self, logits: str | None, dtype: Dtype) -> str:
        """Return log p of each input or variable given those before it, (N, V) float64."""

    @abstractmethod
    def proba(self, logits: str | None, dtype: Dtype) -> str:
        """Return the conditionals, (N, L) of the dtype of the model."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return what a reader of the file should know of the rows."""

    def _once(self, name: str, dtype: Dtype, make: Any) -> str:
        if (name, dtype) not in self._kept:
            self._kept[name, dtype] = make()
        return self._kept[name, dtype]

    def _log_sigmoid(self, logits: str, ones: str, dtype: Dtype) -> str:
        """Return log p of inputs that are 0 or 1, from their logits, as float64."""
        g = self.g
        sign = self._once(ones, dtype, lambda: g("Sub", np.ones((), dtype), g("Mul", g.cast(ones, dtype), np.array(2, dtype))))
        return g("Neg", g.cast(_softplus(g, g("Mul", sign, logits), dtype), DOUBLE))  # type: ignore[no-any-return]


class _Bits(_Rows):
    """Rows of 0/1: one input of the graph, ``X``."""

    def __init__(self, g: Graph, density: Density, parts: Sequence[_Part]) -> None:
        D, dtype = density.n_features_in, _dtype(parts)
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

    def log_inputs(self, logits: str | None, dtype: Dtype) -> str:
        """See ``_Rows``."""
        assert logits is not None
        return self._log_sigmoid(logits, self._bits, dtype)

    def proba(self, logits: str | None, dtype: Dtype) -> str:
        """See ``_Rows``."""
        assert logits is not None
        return self.g("Sigmoid", logits)  # type: ignore[no-any-return]

    def facts(self) -> dict[str, Any]:
        """See ``_Rows``."""
        what = "p(x_d = 1 | the inputs before d in the ordering)"
        return {"kind": "rows of 0/1"} | self._about | {CONDITIONALS: what}


class _Columns(_Rows):
    """Rows of a table: an input of the graph for each column, and then for each of a context."""

    def __init__(self, g: Graph, encoder: Encoder) -> None:
        self._encoder, coding, digits = encoder, encoder.coding, encoder.digits
        self._table = onnxcolumns.declare(g, encoder.columns)
        self._context = onnxcolumns.declare(g, encoder.context, "context") if encoder.context is not None else None
        levels, self.log_density = onnxcolumns.encode(g, self._table)
        if not digits.single:
            levels = _split(g, levels, np.array(digits.bases), digits.starts)
        self._levels = codes = levels
        if self._context is not None:
            codes = g.join([onnxcolumns.encode(g, self._context).levels, levels])
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

    def log_inputs(self, logits: str | None, dtype: Dtype) -> str:
        """See ``_Rows``."""
        g, found = self.g, []
        for width, members in self._of_width.items():
            if width > 1:
                level = self._once(f"level {width}", DOUBLE, lambda m=members: g("Gather", self._levels, m[:, None], axis=1))
                picked = g("GatherElements", self._log_softmax(logits, width), level, axis=2)
                found.append(g("Squeeze", picked, np.array([2])))
            else:
                own = self._once(f"bit {width}", DOUBLE, lambda m=members: g("Gather", self._levels, m, axis=1))
                if width:
                    ones = self._once("one", DOUBLE, lambda own=own: g("Equal", own, np.array(1)))
                    found.append(self._log_sigmoid(self._own(logits, width), ones, dtype))
                else:
                    found.append(g.cast(g("Mul", own, np.array(0)), DOUBLE))
        return self._in_order(found, np.concatenate(list(self._of_width.values())))

    def proba(self, logits: str | None, dtype: Dtype) -> str:
        """See ``_Rows``."""
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
                certain = g("Gather", self._levels, members, axis=1)
                p = g.cast(g("Equal", certain, certain), DOUBLE)
                at.append(first[members])
            found.append(p)
        return g.cast(self._in_order(found, np.concatenate(at)), dtype)

    def facts(self) -> dict[str, Any]:
        """See ``_Rows``."""
        names, digits = self._encoder.columns.names, self._encoder.digits
        listed: list[dict[str, Any]] = []
        for v, (n, column) in enumerate(zip(self._n_levels.tolist(), digits.column_of.tolist(), strict=True)):
            start = int(self._n_levels[:v].sum())
            about = {"column": names[column], "start": start, "stop": start + n}
            if digits.bases[column] > 1:
                about |= {"digit": int(v - digits.starts[column]), "base": digits.bases[column]}
            listed.append(about)
        context = {} if self._context is None else {"context": self._context.facts()}
        return {"kind": "table", "columns": self._table.facts()} | context | {CONDITIONALS: listed}

    def _own(self, logits: str | None, width: int) -> str:
        """Return the logits of the variables of a width, (N, n) for 1, else (N, n, width)."""
        assert logits is not None
        starts = self._outputs[self._of_width[width]]
        which = starts if width == 1 else starts[:, None] + np.arange(width)
        return self._once(f"{width} of {logits}", DOUBLE, lambda: self.g("Gather", logits, which, axis=1))

    def _log_softmax(self, logits: str | None, width: int) -> str:
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
    known = g("GreaterOrEqual", levels, np.array(0))
    both = g.join([g("Where", known, digit, np.array(-1)) for digit in (high, low)])
    V, two = len(bases), bases > 1
    order = np.empty(int(starts[-1]), np.intp)
    order[starts[:-1]] = np.arange(V)
    order[starts[:-1][two] + 1] = V + np.flatnonzero(two)
    return g("Gather", both, order, axis=1)  # type: ignore[no-any-return]


def _add_conditionals(g: Graph, rows: _Rows, parts: Sequence[_Part], logits: Sequence[list[str | None]]) -> None:
    """Add the output of the conditionals: of the only part (N, L), or of each of P parts (N, P, L)."""
    dtype, L = _dtype(parts), len(rows.variable_of)
    found = []
    for part, each in zip(parts, logits, strict=True):
        own = rows.proba(each[0], part.model.dtype) if len(each) == 1 else _of_points(g, rows, part, each)
        found.append(g.cast(own, dtype))
    meaning = "probabilities given what stands before in the ordering, see the metadata"
    shape: list[int | str] = ["N", L]
    fine, axes = g("Unsqueeze", rows.fine, np.array([1])), np.array([1])
    if len(parts) > 1:
        found, shape = [g("Unsqueeze", own, axes) for own in found], ["N", len(parts), L]
        fine = g("Unsqueeze", fine, axes)
    g.output(g("Where", fine, g.join(found), np.array(np.nan, dtype)), CONDITIONALS, dtype, shape, meaning)


def _of_points(g: Graph, rows: _Rows, part: _Part, logits: Sequence[str | None]) -> str:
    """Return the conditionals of a latent mixture, whose points are as likely as what stands before makes them."""
    dtype, ordering, axes = part.model.dtype, part.model.masks.orderings[0] - 1, np.array([1])
    log_p = g.join([g("Unsqueeze", rows.log_inputs(a, dtype), axes) for a in logits])  # (N, K, V)
    placed = g("Gather", log_p, np.argsort(ordering), axis=2)
    share = g("Softmax", g("CumSum", placed, np.array(2), exclusive=1), axis=1)
    proba = g.join([g("Unsqueeze", g.cast(rows.proba(a, dtype), DOUBLE), axes) for a in logits])
    weighed = g("Mul", proba, g("Gather", share, ordering[rows.variable_of], axis=2))
    return g.cast(g.total(weighed, 1, keep=False), dtype)


def _dtype(parts: Sequence[_Part]) -> Dtype:
    return np.result_type(*(part.model.dtype for part in parts))
