"""Model files for tests: models with every live parameter set; files taken apart and put together by the format's rules."""

from __future__ import annotations

import hashlib
import json
import re

import numpy as np
import pytest

from made_fast import ModelFileError
from made_fast.inference import modelfile, tensorfile
from made_fast.inference.modelfile import Content
from made_fast.kernels import layout
from made_fast.kernels.records import Net
from made_fast.kernels.reference import dense
from made_fast.network import masks
from made_fast.network.architecture import Architecture
from made_fast.network.masks import MaskRule, MaskSet
from made_fast.network.network import Network, Shared

HYPER = {"learning_rate": 1e-3, "hidden_sizes": [500], "note": "größer", "random_state": None, "nested": {"a": [True, 1]}}


def make_model(
    n_inputs, hidden_sizes, dtype=np.float32, *, activation="relu", degrees="stratified", direct="none", hyper=HYPER
):
    """Return a model of one mask, every live entry of whose theta differs from 0."""
    rng = np.random.default_rng(n_inputs)
    architecture = Architecture(n_inputs, hidden_sizes, activation, direct)
    connectivity = masks.draw_connectivity(n_inputs, hidden_sizes, "random", degrees, rng)
    plan = architecture.layout(connectivity.staircase(direct))
    theta = layout.aligned_zeros(layout.n_parameters(plan), dtype)
    for l, row in enumerate(plan.layers):
        n_in, n_out = row[layout.N_IN], row[layout.N_OUT]
        bias = 1 + rng.random(n_out) if row[layout.DIRECT] >= 0 else np.zeros(n_out)
        dense.pack_layer(Net(theta, *plan), l, 1 + rng.random((n_in, n_out)), bias)
    return Content(Network(architecture, connectivity, theta), MaskSet.of([connectivity]), None, hyper)


def make_shared(n_inputs, hidden_sizes, dtype=np.float32, *, n_masks=3, direct="output", connectivity_weights=True, rule=True):
    """Return a model of several masks that share random parameters."""
    rng = np.random.default_rng(n_inputs)
    architecture = Architecture(n_inputs, hidden_sizes, "tanh", direct, connectivity_weights)
    base = masks.draw_connectivity(n_inputs, hidden_sizes, "random", "uniform", rng)
    drawing = MaskRule(base, "uniform", "both")
    values = layout.aligned_zeros(architecture.n_shared, dtype)
    values[:] = 1 + rng.random(len(values))
    return Content(Shared(architecture, values), drawing.mask_set(n_masks, rng), drawing if rule else None, HYPER)


def encoded(n_inputs=2, hidden_sizes=(), dtype=np.float32, *, several=False, **options):
    return modelfile.encode((make_shared if several else make_model)(n_inputs, hidden_sizes, dtype, **options))


def load(path, **options):
    return modelfile.decode(*tensorfile.read(path, **options), path)


def split(raw):
    """Return the header, as JSON, and the data of a file."""
    end = 8 + int.from_bytes(raw[:8], "little")
    return json.loads(raw[8:end]), raw[end:]


def seal(text, data=b""):
    """Return the file of a header's JSON text, the checksum of the header put right by the rule in the docs of the format."""
    text = re.sub(rb'"header_sha256":"[^"]*"', b'"header_sha256":"' + b"0" * 64 + b'"', text)
    text += b" " * (-(8 + len(text)) % 64)
    head = len(text).to_bytes(8, "little") + text
    digest = hashlib.sha256(head).hexdigest().encode()
    return head.replace(b'"header_sha256":"' + b"0" * 64, b'"header_sha256":"' + digest) + data


def forge(header, data):
    """Return the file of a header and data, all checksums put right."""
    header["__metadata__"]["data_sha256"] = hashlib.sha256(data).hexdigest()
    return seal(compact(header), data)


def compact(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def refuse(path, raw, match=None, mmap=False):
    path.write_bytes(raw)
    with pytest.raises(ModelFileError, match=match) as caught:
        load(path, mmap=mmap)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).endswith(".")
    assert len(str(caught.value)) < 500
