"""A model's parameters, masks and names as the tensors and metadata of its file, and back, checked.

Not here: bytes and headers (``tensorfile.py``); the model classes, which pass and get :class:`Content` and
:class:`EnsembleContent`.

A model has these tensors, in this order (the big one first, for its alignment), and these further metadata:

- ``parameters`` (n,) F32 or F64: ``theta`` in the panel layout of ``kernels/layout.py``, corners and fill-up 0;
- ``ordering`` (D,) I32: the place 1..D of each input; ``degrees.0``, ... (H_l,) I32: the degrees of hidden layer l;
- ``kind``: ``model``; ``activation``: of the hidden layers; ``direct``: none (if absent), output or all; ``hyper``: a JSON
  object, anything else that the writer wants back.

A model whose inputs have names has one more tensor, the last: ``feature_names`` U8, the UTF-8 JSON object ``{"names": [...]}``
with D strings in the list.

If several connectivities share the parameters, ``parameters`` are ``shared`` in the shared layout, ordering and degrees have K
rows, (K, D) and (K, H_l), and there may be two more metadata: ``connectivity_weights`` (``true``: they are among the
parameters), and ``rule``, a JSON object of ``degrees`` and ``resample``: how further connectivities may be drawn.

A model of variables of several levels has a metadata ``variables``, a JSON object of ``widths`` and ``codings``, a number for
each, and ``context``, how many inputs come before them. Its D are the variables, and degrees may be 0 if there is a context.
The model of a table has one more tensor, the last: ``columns`` U8, the UTF-8 JSON of its columns (``tables/columns``).

A latent mixture of K points has K in a metadata ``points``, and behind theta K tables of biases in ``parameters``; while it is
trained, E behind those, and ``trained`` is ``true``.

A mixture of M models is of kind ``ensemble``. Tensors and metadata of member m = 0 .. M - 1 are those of its own file, with
``member.<m>.`` before their names, and without ``kind``. First come the ``parameters`` of all members (whole cache lines, so
that each is aligned), then ``weights`` (M,) F64, positive and adding up to 1, then the rest. ``hyper`` and
``feature_names`` are those of the mixture; members have no names of their own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from made_fast.inference.tensorfile import CHUNK, FOREIGN, MAX_JSON, file_error, json_object
from made_fast.kernels import layout as panels
from made_fast.network.architecture import Architecture
from made_fast.network.latent import Latent, Points
from made_fast.network.masks import MaskRule, MaskSet, Variables, least_degree
from made_fast.network.network import Network, Parameters, Shared
from made_fast.system.durable import StrPath
from made_fast.tables.choices import DEGREE_RULES, DIRECT_CONNECTIONS, MOST_POINTS, RESAMPLE

__all__ = [
    "Content", "EnsembleContent", "decode", "decode_ensemble", "encode", "encode_ensemble", "encode_names", "take_columns",
    "with_columns",
]  # fmt: skip

Tensor = NDArray[Any]
PREFIX = "member."
WEIGHT_TOLERANCE = 1e-9  # on the sum of a mixture's weights, which is 1
FREE_UNITS, PARAMETERS_PER_UNIT = 1 << 20, 64
"""A file may have a million inputs and hidden units, all members together, and one more for every 64 parameters. Their tables
take up to 50 bytes a unit, which a hostile file could use to fill the memory."""


class Content(NamedTuple):
    """The content of a model file: parameters, masks and the rule for more, a JSON object, names of inputs."""

    source: Parameters
    masks: MaskSet
    rule: MaskRule | None
    hyper: dict[str, Any]
    feature_names: tuple[str, ...] | None = None


class EnsembleContent(NamedTuple):
    """The content of a mixture's file: its members, their weights (M,) float64, a JSON object, names of inputs."""

    members: Sequence[Content]
    weights: NDArray[np.float64]
    hyper: dict[str, Any]
    feature_names: tuple[str, ...] | None = None


def encode(content: Content) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the (tensors, metadata) of a model, for :func:`write`, after :func:`decode` has accepted them.

    In ``hyper``, a JSON object, tuples come back as lists, and NumPy's numbers and NaN are refused.
    """
    source, masks, rule, hyper, feature_names = content
    a = source.architecture
    metadata = {"kind": "model", "activation": a.activation, "direct": a.direct, "hyper": _json(hyper)}
    if a.variables is not None:
        about = {"widths": a.variables.widths, "codings": a.variables.codings, "context": a.n_context}
        if a.variables.n_digits:
            about["digits"] = a.variables.n_digits
        metadata["variables"] = _json(about)
    if source.connectivity is not None:
        vectors = list(masks[0].vectors)
        if source.n_points > 1:
            metadata |= {"points": str(source.n_points), "trained": "false" if source.served() is source else "true"}
    else:
        vectors = [masks.orderings, *masks.degrees]
        metadata["connectivity_weights"] = "true" if a.connectivity_weights else "false"
        if rule is not None:
            metadata["rule"] = _json({"degrees": rule.degrees, "resample": rule.resample})
    names = ["parameters", "ordering", *(f"degrees.{l}" for l in range(len(vectors) - 1))]
    tensors = dict(zip(names, [source.vector, *vectors], strict=True)) | encode_names(feature_names)
    decode(tensors, metadata, "the model to be saved")
    return tensors, metadata


def decode(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: StrPath) -> Content:
    """Return the content of a file that :func:`read` has read from ``path``; ModelFileError if the kernels cannot run it."""
    tensors, hyper, feature_names = _opened(tensors, metadata, "model", path)
    activation = _one_of(metadata, "activation", panels.ACTIVATIONS[1:], path)
    direct = _one_of(metadata, "direct", DIRECT_CONNECTIONS, path, "none")
    connectivity_weights = _one_of(metadata, "connectivity_weights", ("false", "true"), path, "false") == "true"
    variables = _variables(metadata, path)
    theta, masks, is_shared = _decode_tensors(tensors, path, variables)
    first = masks[0]
    _check_names(feature_names, first.n_inputs, path)
    n_inputs = first.n_inputs if variables is None else variables.n_inputs
    architecture = Architecture(n_inputs, first.hidden_sizes, activation, direct, connectivity_weights, variables)
    if connectivity_weights and not is_shared:
        raise file_error(path, "connectivity weights need parameters that several masks may share", "those of one mask")
    rule = None
    if is_shared and "rule" in metadata:
        kinds = json_object(metadata["rule"].encode(), "rule", path)
        if kinds.keys() != {"degrees", "resample"} or not all(isinstance(kind, str) for kind in kinds.values()):
            raise file_error(path, "the rule must be of degrees and resample", kinds)
        degrees, resample = _one_of(kinds, "degrees", DEGREE_RULES, path), _one_of(kinds, "resample", RESAMPLE, path)
        rule = MaskRule(first, degrees, resample, variables)
    layout = None if is_shared else architecture.layout(architecture.staircase(first))
    n_points, trained = (
        _points(metadata, is_shared, path),
        _one_of(metadata, "trained", ("false", "true"), path, "false") == "true",
    )
    n_parameters = panels.n_parameters(layout) if layout else architecture.n_shared
    if layout and n_points > 1:
        n_parameters += (n_points + trained * panels.MAX_FEATURES) * panels.n_biases(layout.layers)
    if len(theta) != n_parameters:
        raise file_error(path, f"there must be {n_parameters} parameters, by ordering and degrees", len(theta))
    if layout and (unclean := [l for l in range(len(layout.layers)) if not _is_clean(theta, layout, l)]):
        raise file_error(path, "dead weights and fill-up units must be 0", f"others in layers {unclean}")
    source: Parameters
    if n_points > 1:
        source = (Latent if trained else Points)(architecture, first, theta, n_points)
        if source.fill_up().any():
            raise file_error(path, "the biases of fill-up units must be 0 at all points", "others")
    else:
        source = Shared(architecture, theta) if is_shared else Network(architecture, first, theta, layout=layout)
    return Content(source, masks, rule, hyper, feature_names)


def _variables(metadata: Mapping[str, str], path: StrPath) -> Variables | None:
    """Return what the inputs are, None if they are binary."""
    if "variables" not in metadata:
        return None
    found = json_object(metadata["variables"].encode(), "variables", path)
    widths, codings, context, digits = (found.get(key) for key in ("widths", "codings", "context", "digits"))
    demand = "variables must be widths and codings of at least one variable, and the number of inputs of a context"
    if (
        found.keys() - {"digits"} != {"widths", "codings", "context"}
        or not isinstance(widths, list)
        or not isinstance(codings, list)
    ):
        raise file_error(path, demand, found)
    if not all(type(number) is int and 0 <= number < 2**31 for number in (*widths, *codings, context)):
        raise file_error(path, demand, found)
    assert isinstance(context, int)
    if not widths or len(widths) != len(codings) or not set(codings) <= {panels.ONE_HOT, panels.THERMOMETER}:
        raise file_error(path, demand, found)
    if not sum(widths) or sum(widths) + context >= 2**31:
        raise file_error(path, "variables must have at least one indicator, and fewer than 2^31", found)
    if "digits" in found:
        whole = isinstance(digits, list) and all(type(number) is int and 0 < number < 2**31 for number in digits)
        if not whole or sum(digits) != len(widths):  # type: ignore[arg-type]  # it is a list of ints
            raise file_error(path, "digits must be numbers of variables, of all together", found)
    return Variables(tuple(widths), tuple(codings), context, tuple(digits or ()))


def with_columns(encoded: tuple[dict[str, Tensor], dict[str, str]], columns: dict[str, Any]) -> Any:
    """Return the (tensors, metadata) of a model with the columns of its table; ValueError if a file cannot hold these."""
    text = _json(columns).encode()
    json_object(text, "the columns", "the model to be saved")
    tensors, metadata = encoded
    return {**tensors, "columns": np.frombuffer(text, np.uint8)}, metadata


def take_columns(tensors: dict[str, Tensor], path: StrPath) -> dict[str, Any] | None:
    """Take the columns of a table out of the tensors of a file, and return them, None if there are none."""
    if "columns" not in tensors:
        return None
    last, tensor = list(tensors)[-1], tensors.pop("columns")
    if last != "columns" or tensor.dtype != np.uint8 or tensor.ndim != 1:
        raise file_error(path, "columns must be the last tensor, a vector of U8", f"{last}, {tensor.dtype} {tensor.shape}")
    return json_object(tensor[: MAX_JSON + 1].tobytes(), "columns", path)


def encode_names(names: Sequence[str] | None) -> dict[str, Tensor]:
    """Return the tensor of the names of the inputs, {} without names; ValueError for names that a file cannot hold."""
    if names is None:
        return {}
    try:
        text = _json({"names": list(names)}).encode()
        json_object(text, "the names of the columns", "the model to be saved")
    except ValueError as error:
        found = f"{type(error).__name__}: {error} Rename them, or pass the values alone: X.to_numpy(), say."
        raise ValueError(f"the names of the columns must be text that a model file can hold, got {found}") from error
    return {"feature_names": np.frombuffer(text, np.uint8)}


def _opened(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], kind: str, path: StrPath
) -> tuple[dict[str, Tensor], dict[str, Any], tuple[str, ...] | None]:
    """Check the kind of a file; return its tensors without the names of the inputs, ``hyper``, and the names."""
    found = metadata.get("kind", "")
    if found != kind:
        way_out = "Finish that fit: MADE.resume, or made-fast train --resume." if found == "checkpoint" else FOREIGN
        raise file_error(path, f"the kind of the file must be {kind!r}", found, way_out)
    hyper = json_object(metadata.get("hyper", "").encode(), "hyper", path)
    rest = dict(tensors)
    if "feature_names" not in rest:
        return rest, hyper, None
    last, tensor = list(rest)[-1], rest.pop("feature_names")
    if last != "feature_names" or tensor.dtype != np.uint8 or tensor.ndim != 1:
        found = f"{last}, {tensor.dtype} {tensor.shape}"
        raise file_error(path, "feature_names must be the last tensor, a vector of U8", found)
    text = json_object(tensor[: MAX_JSON + 1].tobytes(), "feature_names", path)  # a longer one is refused without the rest
    names = text.get("names")
    if text.keys() != {"names"} or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise file_error(path, "feature_names must be an object of names, a list of strings", text)
    return rest, hyper, tuple(names)


def _check_names(names: Sequence[str] | None, n_inputs: int, path: StrPath) -> None:
    if names is not None and len(names) != n_inputs:
        raise file_error(path, f"there must be names for {n_inputs} inputs", len(names))


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def encode_ensemble(content: EnsembleContent) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the (tensors, metadata) of a mixture, for :func:`write`, as :func:`encode` does for a model."""
    metadata = {"kind": "ensemble", "hyper": _json(content.hyper)}
    first: dict[str, Tensor] = {}
    rest: dict[str, Tensor] = {"weights": content.weights}
    for m, member in enumerate(content.members):
        tensors, about = encode(member)
        first[f"{PREFIX}{m}.parameters"] = tensors.pop("parameters")
        rest |= {f"{PREFIX}{m}.{name}": tensor for name, tensor in tensors.items()}
        metadata |= {f"{PREFIX}{m}.{name}": text for name, text in about.items() if name != "kind"}
    tensors = first | rest | encode_names(content.feature_names)
    decode_ensemble(tensors, metadata, "the model to be saved")
    return tensors, metadata


def decode_ensemble(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: StrPath) -> EnsembleContent:
    """Return the content of a file that :func:`read` has read from ``path``; ModelFileError if it is no mixture of models."""
    tensors, hyper, feature_names = _opened(tensors, metadata, "ensemble", path)
    weights = tensors.get("weights")
    if weights is None or weights.dtype != np.float64 or weights.ndim != 1:
        found = None if weights is None else f"{weights.dtype} {weights.shape}"
        raise file_error(path, "weights must be a vector of F64", found)
    M = len(weights)
    if not 0 < M < len(tensors):
        raise file_error(path, f"there must be members, as many as weights ({M})", f"{len(tensors)} tensors")
    if (weights <= 0).any() or not abs(weights.sum() - 1) <= WEIGHT_TOLERANCE:
        found = f"{weights[:8].tolist()}, sum {float(weights.sum())!r}"
        raise file_error(path, "weights must be positive and add up to 1", found)
    first = [f"{PREFIX}{m}.parameters" for m in range(M)]
    if list(tensors)[: M + 1] != [*first, "weights"]:
        raise file_error(path, "tensors must begin with the parameters of each member, then weights", list(tensors))
    del tensors["weights"]
    vectors = [tensor for tensor in tensors.values() if tensor.dtype == np.int32 and tensor.ndim]
    _check_units(vectors, sum(tensors[name].size for name in first), path)
    parts = _by_member(tensors, M, path)
    abouts = _by_member({name: text for name, text in metadata.items() if name not in ("kind", "hyper")}, M, path)
    members = [
        decode(part, {**about, "kind": "model"}, f"{os.fspath(path)}: member {m}")
        for m, (part, about) in enumerate(zip(parts, abouts, strict=True))
    ]
    widths = [member.source.architecture.n_variables for member in members]
    if len({(member.source.architecture.n_inputs, member.source.architecture.variables) for member in members}) > 1:
        raise file_error(path, "all members must have as many inputs as the first", widths)
    if any(member.feature_names is not None for member in members):
        raise file_error(path, "names of inputs must be those of the mixture", "a member with names of its own")
    _check_names(feature_names, widths[0], path)
    return EnsembleContent(members, weights, hyper, feature_names)


def _by_member(entries: Mapping[str, Any], n_members: int, path: StrPath) -> list[dict[str, Any]]:
    """Return the entries of each member, in their order, without the prefix of their names."""
    parts: dict[str, dict[str, Any]] = {str(m): {} for m in range(n_members)}
    for name, entry in entries.items():
        m, _, own = name.removeprefix(PREFIX).partition(".")
        if not name.startswith(PREFIX) or m not in parts:
            raise file_error(path, f"names must begin with {PREFIX}0. to {PREFIX}{n_members - 1}.", name)
        parts[m][own] = entry
    return list(parts.values())


def _check_units(vectors: Iterable[Tensor], n_parameters: int, path: StrPath) -> None:
    """Bound the sizes of all layers before anything is made of them."""
    n_units, most = sum(vector.shape[-1] for vector in vectors), FREE_UNITS + n_parameters // PARAMETERS_PER_UNIT
    if n_units > most:
        raise file_error(path, f"{n_parameters} parameters must not have more than {most} inputs and hidden units", n_units)


def _one_of(values: Mapping[str, str], name: str, options: Sequence[str], path: StrPath, absent: str | None = None) -> str:
    value = values.get(name, absent)
    if value is None or value not in options:
        raise file_error(path, f"the {name.replace('_', ' ')} must be one of {', '.join(options)}", value or "")
    return value


def _points(metadata: Mapping[str, str], is_shared: bool, path: StrPath) -> int:
    """Return the number of points of a latent mixture, 1 if there are none."""
    text = metadata.get("points", "1")
    if not (text.isascii() and text.isdigit() and 0 < int(text[:9]) <= MOST_POINTS and len(text) < 9):
        raise file_error(path, f"points must be a number in 1..{MOST_POINTS}", text)
    if int(text) > 1 and is_shared:
        raise file_error(path, "points need parameters of one mask", "those that several masks share")
    return int(text)


def _decode_tensors(tensors: Mapping[str, Tensor], path: StrPath, variables: Variables | None) -> tuple[Tensor, MaskSet, bool]:
    """Return the parameters, the mask set, and whether its masks share the parameters."""
    names = ["parameters", "ordering", *(f"degrees.{l}" for l in range(len(tensors) - 2))]
    if list(tensors) != names or len(names) - 1 > panels.MAX_LAYERS:
        up_to = panels.MAX_LAYERS - 1
        raise file_error(path, f"tensors must be parameters, ordering, up to {up_to} degrees.<l>", list(tensors))
    theta, *vectors = tensors.values()
    if theta.dtype not in (np.float32, np.float64) or theta.ndim != 1:
        raise file_error(path, "parameters must be a vector of F32 or F64", f"{theta.dtype} {theta.shape}")
    n_masks = vectors[0].shape[:-1]
    for name, vector in zip(names[1:], vectors, strict=True):
        if vector.dtype != np.int32 or vector.ndim not in (1, 2) or vector.shape[:-1] != n_masks or n_masks == (0,):
            found = f"{vector.dtype} {vector.shape}"
            raise file_error(path, f"{name} must be I32, a vector or K of them (K x n), like the ordering", found)
        if not 1 <= vector.shape[-1] <= len(theta):
            raise file_error(path, f"{name} must not be empty nor longer than the {len(theta)} parameters", vector.shape)
    _check_units(vectors, len(theta), path)
    if variables is not None and (len(variables.widths) != vectors[0].shape[-1] or variables.n_inputs > len(theta)):
        found = f"{len(variables.widths)} variables, {variables.n_inputs} inputs"
        raise file_error(path, f"there must be {vectors[0].shape[-1]} variables and parameters for their inputs", found)
    ordering, *degrees = (np.atleast_2d(vector) for vector in vectors)
    places = np.arange(1, ordering.shape[1] + 1, dtype=np.int32)
    at_once = max(1, CHUNK // len(places))
    for rows in (ordering[k : k + at_once] for k in range(0, len(ordering), at_once)):
        if (wrong := (np.sort(rows, axis=1) != places).any(axis=1)).any():
            raise file_error(path, f"the ordering must hold each place 1..{len(places)} once", rows[wrong][0, :8].tolist())
        if variables is not None and (wrong := (variables.together(rows) != rows).any(axis=1)).any():
            raise file_error(path, "digits must stand side by side in every ordering", rows[wrong][0, :8].tolist())
    least = least_degree(variables)
    largest = max(len(places) - 1, least)
    for name, m in zip(names[2:], degrees, strict=True):
        if m.min() < least or m.max() > largest:
            raise file_error(path, f"{name} must be in {least}..{largest}", f"{m.min()}..{m.max()}")
    return theta, MaskSet(ordering, tuple(degrees)), bool(n_masks)


def _is_clean(theta: Tensor, layout: panels.Layout, l: int) -> bool:
    """Return whether dead corners, fill-up units and biases of direct connections in layer l are 0. Reads no whole panel."""
    bias, n_out, count = (int(layout.layers[l, column]) for column in (panels.BIAS, panels.N_OUT, panels.N_PANELS))
    used = 0 if layout.layers[l, panels.DIRECT] < 0 else n_out
    fill_up = theta[bias + used : bias + panels.PANEL * count]
    return not (fill_up.any() or any(part.any(where=dead) for part, dead in panels.dead_entries(theta, layout, l)))
