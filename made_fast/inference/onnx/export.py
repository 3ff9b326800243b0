"""``to_onnx``: a fitted density as an ONNX graph, which ONNX Runtime and others score without this package.

Its weights are dense, the dead ones zeros, as those of ``to_dense``: they leave the house, and others know no masks.

Not here: rows (``rows.py``), raw columns (``raw.py``), nodes and the form of the file (``graph.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from made_fast.inference.density import Density
from made_fast.inference.mixture import MixtureModel
from made_fast.inference.model import MADEModel
from made_fast.inference.onnx.graph import Graph
from made_fast.inference.onnx.rows import DOUBLE, BinaryRows, Dtype, Rows, TableRows, softplus
from made_fast.inference.tablemodel import TableModel
from made_fast.system import durable
from made_fast.tables import arguments

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["MOST_BYTES", "to_onnx"]

LOG_P, CONDITIONALS = "log_p", "conditionals"
"""The outputs."""

MOST_BYTES = (1 << 31) - (1 << 26)
"""Of the weights in a file, which holds 2 GB: protocol buffers have no more."""


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
    parts = _parts(model.density if isinstance(model, TableModel) else model)
    if not isinstance(model, TableModel) and parts[0].model.architecture.variables is not None:
        raise TypeError("a model of levels knows no columns, which a graph takes. Export the TableModel, which does.")
    _check_size(parts)
    dtype = np.result_type(*(part.model.dtype for part in parts))
    g = Graph((LOG_P, CONDITIONALS))
    rows: Rows = TableRows(g, model.encoder) if isinstance(model, TableModel) else BinaryRows(g, model, dtype)
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
        _add_conditionals(g, rows, parts, logits, dtype)
    facts = rows.facts() | {"parts": [{"member": m, "mask": k, "weight": weight} for m, k, weight, *_ in parts]}
    if not conditionals:
        del facts[CONDITIONALS]
    proto = g.model(f"log p of rows under {model!r}", facts)
    if where is not None:
        durable.replace(where, lambda stream: stream.write(proto.SerializeToString()))  # type: ignore[arg-type]
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
        found, most = n_bytes / 2**30, MOST_BYTES / 2**30
        raise ValueError(
            f"the dense weights to export must have at most {most:.3g} GB, as an ONNX file has, got {found:.3g} GB of "
            f"{n} network(s). Export fewer: each member of a mixture by itself, or MADEModel(model.source, "
            "model.masks.first(8))."
        )


def _logits(g: Graph, model: MADEModel, k: int, rows: Rows) -> str:
    """Return the logits (N, O) of network k of a model, in the order of its outputs."""
    a, net, x = model.architecture, model.part(k).dense(), rows.x(model.dtype)
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
        return softplus(g, z, dtype)
    if name == "softsign":
        return g("Div", z, g("Add", g("Abs", z), np.ones((), dtype)))
    if name == "identity":
        return z
    return g({"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}[name], z)


def _add_conditionals(g: Graph, rows: Rows, parts: Sequence[_Part], logits: Sequence[list[str]], dtype: Dtype) -> None:
    """Add the output of the conditionals: of the only part (N, L), or of each of P parts (N, P, L)."""
    L = len(rows.variable_of)
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


def _of_points(g: Graph, rows: Rows, part: _Part, logits: Sequence[str]) -> str:
    """Return the conditionals of a latent mixture, whose points are as likely as what stands before makes them."""
    dtype, ordering, axes = part.model.dtype, part.model.masks.orderings[0] - 1, np.array([1])
    log_p = g.join([g("Unsqueeze", rows.log_inputs(a, dtype), axes) for a in logits])  # (N, K, V)
    placed = g("Gather", log_p, np.argsort(ordering), axis=2)
    share = g("Softmax", g("CumSum", placed, np.array(2), exclusive=1), axis=1)
    proba = g.join([g("Unsqueeze", g.cast(rows.proba(a, dtype), DOUBLE), axes) for a in logits])
    weighed = g("Mul", proba, g("Gather", share, ordering[rows.variable_of], axis=2))
    return g.cast(g.total(weighed, 1, keep=False), dtype)
