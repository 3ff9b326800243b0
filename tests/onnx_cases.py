"""What tests of exported graphs share: graphs that are checked and run by ONNX Runtime, and what they are fed."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime

DTYPES = {"double": np.float64, "float": np.float32, "float16": np.float16, "int64": np.int64, "bool": np.bool_}


def session(proto):
    """Return a session of a graph, which onnx finds sound."""
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def outputs(proto, feeds):
    """Return what a graph gives, by name."""
    found = session(proto)
    names = [each.name for each in found.get_outputs()]
    return dict(zip(names, found.run(None, feeds), strict=True))


def of_table(proto, X, context=None):
    """Return what the graph of a table gives for data frames, whose missing entries are NaN, or "" in text."""
    about, feeds = facts(proto), {}
    kinds = {value.name: value.type for value in session(proto).get_inputs()}
    for part, frame in (("columns", X), ("context", context)):
        for column in about.get(part, ()):
            feeds[column["input"]] = fed(frame[column["name"]], kinds[column["input"]])[:, None]
    return outputs(proto, feeds)


def fed(values, kind):
    """Return a column as an input of a type takes it."""
    kind = kind.removeprefix("tensor(").removesuffix(")")
    if kind == "string":
        return np.array(["" if value is None or value != value else value for value in values], object)
    if values.dtype == object or str(values.dtype) in ("Int64", "boolean"):
        values = values.astype("Float64").to_numpy(np.float64, na_value=np.nan)
    return np.asarray(values).astype(DTYPES[kind])


def facts(proto):
    """Return the metadata of a graph."""
    return {prop.key: json.loads(prop.value) for prop in proto.metadata_props}


def log_p_by_conditionals(proto, found, codes):
    """Return log p of the levels of rows (n, V) by what a graph of a table gives as conditionals, and its metadata."""
    about, log_p = facts(proto), []
    columns = [column["name"] for column in about["columns"]]
    proba = found["conditionals"].astype(float)
    proba = proba if proba.ndim == 3 else proba[:, None]
    for k in range(proba.shape[1]):
        total = np.zeros(len(codes))
        for one in about["conditionals"]:
            code, base = codes[:, columns.index(one["column"])].astype(int), one.get("base", 1)
            level = code if base == 1 else (code // base, code % base)[one["digit"]]
            own = proba[:, k, one["start"] : one["stop"]]
            np.testing.assert_allclose(own.sum(axis=1), 1, atol=1e-6)
            total += np.log(own[np.arange(len(codes)), level])
        log_p.append(total)
    return log_p, [part["weight"] for part in about["parts"]]
