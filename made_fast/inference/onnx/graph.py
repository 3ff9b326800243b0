"""An ONNX graph while it is built: inputs, constants, nodes, outputs, and the model in the end.

It is the only module that imports onnx, and does so when the first graph is begun. Not here: what a density is as a graph
(``export.py``), columns (``raw.py``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from made_fast import __version__

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["MISSING_PACKAGE", "TEXT", "Graph", "Value", "unicode"]

OPSET, ML_OPSET, IR_VERSION = 17, 3, 8
"""Versions of the standard operators, of those of ai.onnx.ml, and of the file: ONNX Runtime reads these since 1.13 (2022)."""

ML = "ai.onnx.ml"

MISSING_PACKAGE = "an export to ONNX needs onnx, which is not installed. Run: pip install 'made_fast[onnx]'."

TEXT = np.dtype(object)
"""The dtype of texts."""

SHARED = 1 << 12
"""Bytes of the largest constant that is looked for among those that there are."""

Value: TypeAlias = "str | NDArray[Any]"
"""What a node takes: a value of the graph by its name, or an array, which becomes a constant of the graph."""


class Graph:
    """A graph whose nodes are added one after the other; calling it adds one.

    Parameters
    ----------
    outputs : sequence of str
        Names that inputs must not take.

    Raises ImportError, which says what to install, if there is no onnx.
    """

    def __init__(self, outputs: Sequence[str]) -> None:
        try:
            import onnx
        except ModuleNotFoundError as error:
            if error.name != "onnx":
                raise
            raise ImportError(MISSING_PACKAGE, name="onnx") from error
        self._onnx: Any = onnx
        self._taken, self._last = set(outputs), 0
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._shared: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def input(self, name: str, dtype: DTypeLike, width: int, meaning: str) -> str:
        """Add an input of (N, width); return its name: that one, with _ behind it while it is taken."""
        name = unicode(name) or "column"
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        self._inputs.append(self._onnx.helper.make_tensor_value_info(name, self._kind(dtype), ["N", width], unicode(meaning)))
        return name

    def output(self, value: str, name: str, dtype: DTypeLike, shape: Sequence[int | str], meaning: str) -> None:
        """Make a value an output, under one of the names that were set apart for them."""
        self._nodes.append(self._onnx.helper.make_node("Identity", [value], [name], f"{name}_out"))
        self._outputs.append(self._onnx.helper.make_tensor_value_info(name, self._kind(dtype), shape, meaning))

    def __call__(self, kind: str, *values: Value, **attributes: Any) -> str:
        """Add a node of a standard operator; return the name of its output."""
        domain, name = ML if kind == "LabelEncoder" else "", self._name(kind)
        inputs = [value if isinstance(value, str) else self._constant(value) for value in values]
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, [name], name, domain=domain, **attributes))
        return name

    def cast(self, value: Value, dtype: DTypeLike) -> str:
        """Return a value in another dtype."""
        return self("Cast", value, to=self._kind(dtype))

    def total(self, value: Value, axis: int, *, keep: bool = True) -> str:
        """Return sums along an axis."""
        return self("ReduceSum", value, np.array([axis]), keepdims=int(keep))

    def join(self, values: Sequence[str], axis: int = 1) -> str:
        """Return values side by side."""
        return values[0] if len(values) == 1 else self("Concat", *values, axis=axis)

    def model(self, meaning: str, facts: Mapping[str, Any]) -> ModelProto:
        """Return the model; ``facts`` become metadata, in JSON. Raises ValueError for text that no file can hold."""
        make = self._onnx.helper
        graph = make.make_graph(self._nodes, "made_fast", self._inputs, self._outputs, self._constants, meaning)
        opsets = [make.make_opsetid("", OPSET), make.make_opsetid(ML, ML_OPSET)]
        told = {"producer_name": "made_fast", "producer_version": __version__, "doc_string": meaning}
        model: ModelProto = make.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, **told)
        texts = {name: unicode(json.dumps(fact, ensure_ascii=False)) for name, fact in facts.items()}
        make.set_model_props(model, texts)
        return model

    def _kind(self, dtype: DTypeLike) -> int:
        dtype = np.dtype(dtype)
        kinds = self._onnx.TensorProto
        found: int = kinds.STRING if dtype == TEXT else self._onnx.helper.np_dtype_to_tensor_dtype(dtype)
        return found

    def _constant(self, array: NDArray[Any]) -> str:
        array = np.ascontiguousarray(array) if array.ndim else array
        key = (array.dtype.str, array.shape, array.tobytes()) if array.nbytes <= SHARED else None
        if key in self._shared:
            return self._shared[key]
        name = self._name("constant")
        self._constants.append(self._onnx.numpy_helper.from_array(array, name))
        if key is not None:
            self._shared[key] = name
        return name

    def _name(self, kind: str) -> str:
        """Return a name that no input and no other value has."""
        while True:
            self._last += 1
            if (name := f"{kind.lower()}_{self._last}") not in self._taken:
                self._taken.add(name)
                return name


def unicode(text: str) -> str:
    """Return a text; ValueError if it has halves of characters, which no ONNX file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"names and categories must be Unicode text to be exported, got {error.object[:100]!r}.") from error
    return text
