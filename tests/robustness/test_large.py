"""More than 2^31 elements: tables, memory maps and parameters whose positions do not fit into 32 bits.

The large arrays are mostly zeros that nobody has written: a sparse table, a file of holes, pages that the system maps to
one page of zeros. So a test takes seconds and little memory; a position cut to 32 bits would be read or written elsewhere,
and show.

Not here: the time that large tables take (``bench/``). The file of 8.7 GB is made and read with ``MADE_FAST_LARGE=1`` or
``--hypothesis-profile=long`` only.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from helpers import random_model
from hypothesis import settings

from made_fast import MADE, MADEModel, load
from made_fast.inference import modelfile, tensorfile
from made_fast.kernels import layout
from made_fast.network.architecture import Architecture
from made_fast.network.masks import Connectivity, MaskSet, draw_connectivity
from made_fast.network.network import Network, Shared
from made_fast.tables import bits as packing
from made_fast.tables.table import Table

D = 30_000
N = 2**31 // D + 16
"""Rows of D columns, a few more than have 2^31 entries."""

LARGE = os.environ.get("MADE_FAST_LARGE") == "1" or settings.default.max_examples >= 10_000


def available(gigabytes):
    """Skip the test where there is not so much memory to be had."""
    if not Path("/proc/meminfo").exists():
        pytest.skip("how much memory there is can be read on Linux only")
    lines = Path("/proc/meminfo").read_text().splitlines()
    (kilobytes,) = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable")]
    if kilobytes < gigabytes * 1e6:
        pytest.skip(f"{gigabytes} GB of memory are needed, {kilobytes / 1e6:.1f} are there")


def file_of_holes(path, size):
    """Make a file of zeros that takes no room; skip where it would."""
    with open(path, "wb") as file:
        file.truncate(size)
    if os.stat(path).st_blocks * 512 > size / 100:
        pytest.skip("this file system fills holes")
    if shutil.disk_usage(path.parent).free < 1e9:
        pytest.skip("the disk is nearly full")


def far_rows():
    """Return the numbers of some rows, most of them behind element 2^31, and random rows of 0/1 for them."""
    numbers = np.array([0, 1, N // 2, *range(N - 40, N)])
    assert (N - 5) * D > 2**31
    X = (np.random.default_rng(0).random((len(numbers), D)) < 0.01).astype(np.uint8)
    X[-1, -1] = 1
    return numbers, X


@pytest.fixture(scope="module")
def model():
    """Return a model whose scores depend on every input, and which costs little."""
    return random_model(D, (1,), dtype="float32")


@pytest.mark.slow
@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_a_sparse_table_of_more_than_2_31_entries_is_scored(model, index):
    numbers, X = far_rows()
    r, c = np.nonzero(X)
    S = sp.coo_array((np.ones(len(r), np.uint8), (numbers[r], c)), shape=(N, D)).tocsr()
    S.indices, S.indptr = S.indices.astype(index), S.indptr.astype(index)
    if index is np.int32:  # the same, of the last rows: the kinds of index agree
        S, numbers = S[N - 1000 :], numbers[3:] - (N - 1000)
        X = X[3:]
    log_p = model.score_samples(S)
    assert (log_p[numbers] == model.score_samples(X)).all()
    rest = np.delete(log_p, numbers)
    assert (rest == model.score_samples(np.zeros((1, D), np.uint8))[0]).all()


def memory_map(path, numbers, X):
    """Return N rows of zeros, some of them X."""
    file_of_holes(path, N * D)
    mapped = np.memmap(path, np.uint8, "r+", shape=(N, D))
    mapped[numbers] = X
    mapped.flush()
    return np.memmap(path, np.uint8, "r", shape=(N, D))


@pytest.mark.slow
def test_a_memory_map_of_more_than_2_31_entries_is_packed_and_scored(model, tmp_path):
    available(4)
    numbers, X = far_rows()
    mapped = memory_map(tmp_path / "rows", numbers, X)
    bits = packing.pack_rows(Table.of(mapped), np.arange(D))
    assert (packing.unpack_rows(bits[numbers], D) == X).all()
    assert sum(int.from_bytes(bits[i : i + 10**6].tobytes(), "little").bit_count() for i in range(0, N, 10**6)) == X.sum()
    for part in (slice(0, 3), slice(N - 300, N)):
        assert (model.score_samples(mapped[part]) == model.score_samples(np.array(mapped[part]))).all()


@pytest.mark.slow
def test_a_memory_map_of_more_than_2_31_entries_is_trained_on(tmp_path):
    available(5)
    mapped = memory_map(tmp_path / "rows", slice(N - 4000, N), np.arange(D) >= D - 8)
    made = MADE(hidden_sizes=(1,), batch_size=1000, optimizer="sgd", learning_rate=1.0, random_state=0).partial_fit(mapped)
    P = made.conditional_proba(np.zeros((1, D), np.uint8))[0]
    assert P[-8:].min() > 1.5 * P[:-8].max()  # the last rows have been seen, and nothing else has


def zeros(n):
    """Return n zeros, which take memory when they are written to."""
    try:
        return layout.aligned_zeros(n, np.float32)
    except MemoryError:
        pytest.skip(f"the system promises no {4e-9 * n:.0f} GB")


def wide():
    """Return a network of more than 2^31 parameters, no hidden units, and those of its last outputs, which are not 0."""
    n_inputs = 66_000
    architecture = Architecture(n_inputs, (), "relu")
    connectivity = draw_connectivity(n_inputs, (), "natural", "stratified", np.random.default_rng(0))
    plan = architecture.layout(connectivity.staircase())
    theta = zeros(layout.n_parameters(plan))
    start, bias = int(plan.panel_start[-1]), int(plan.layers[0, layout.BIAS])
    assert start > 2**31
    first = 64 * (layout.n_panels(n_inputs) - 1)
    rng = np.random.default_rng(1)
    for j in range(first, n_inputs):
        theta[start + j - first : start + 64 * j : 64] = rng.normal(size=j) / 100  # unit j sees the first j inputs
    theta[bias : bias + n_inputs] = rng.normal(size=n_inputs) / 10
    W = theta[start:bias].reshape(-1, 64)[:, : n_inputs - first].copy()
    return Network(architecture, connectivity, theta), first, W, theta[bias : bias + n_inputs].copy()


def check_wide(model, first, W, b):
    """Compare a model with the formula: few inputs on (rows of weights are added), and many (multiplied)."""
    n_inputs = len(b)
    for density in (0.001, 0.5):
        x = np.random.default_rng(2).random((1, n_inputs)) < density
        logits = b.astype(float)
        logits[first:] += x[0, : len(W)] @ W.astype(float)
        np.testing.assert_allclose(model.conditional_proba(x), 1 / (1 + np.exp(-logits))[None], rtol=1e-4)
        signs = np.where(x[0], -1.0, 1.0)
        np.testing.assert_allclose(model.score_samples(x), [-np.logaddexp(0, signs * logits).sum()], rtol=1e-6)


def sample_of(n_inputs, first, W, b, seed):
    """Return the sample of the seed's uniforms, drawn input by input."""
    uniforms = np.random.default_rng(seed).random(n_inputs)
    x = np.zeros(n_inputs, np.uint8)
    x[:first] = uniforms[:first] < 1 / (1 + np.exp(-b[:first].astype(float)))
    for j in range(first, n_inputs):
        logit = b[j] + x[:j].astype(float) @ W[:j, j - first]
        x[j] = uniforms[j] < 1 / (1 + np.exp(-logit))
    return x


def test_parameters_behind_the_2_31st_are_read():
    network, first, W, b = wide()
    model = MADEModel(network)
    check_wide(model, first, W, b)
    assert (model.sample(1, 5)[0] == sample_of(len(b), first, W, b, 5)).all()


def test_shared_parameters_behind_the_2_31st_are_packed():
    """Two hidden layers between which there are more than 2^31 weights, none of which is live: so nothing is written there."""
    H = 47_000
    architecture = Architecture(3, (H, H), "relu", connectivity_weights=False)
    degrees = (np.full(H, 2, np.int32), np.full(H, 1, np.int32))
    connectivity = Connectivity(np.arange(1, 4, dtype=np.int32), degrees)
    values = zeros(architecture.n_shared)
    table, rng = architecture.shared_layout, np.random.default_rng(0)
    bias, out = int(table[1, layout.SHARED_BIAS]), int(table[2, layout.SHARED_WEIGHTS])
    assert bias > 2**31
    b = values[bias : bias + H]
    V = values[out : out + H * int(table[2, layout.ROW])].reshape(H, -1)[:, :3]
    b[:], V[:] = rng.normal(size=H), rng.normal(size=(H, 3)) / 100
    model = MADEModel(Shared(architecture, values), MaskSet.of([connectivity]))
    logits = np.maximum(b, 0).astype(float) @ V
    logits[0] = 0  # the first output sees nothing
    np.testing.assert_allclose(model.conditional_proba(np.ones((1, 3), bool)), 1 / (1 + np.exp(-logits))[None], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not LARGE, reason="reads 8.7 GB; set MADE_FAST_LARGE=1")
def test_a_mapped_model_file_of_more_than_2_31_parameters_is_read(tmp_path):
    available(12)
    network, first, W, b = wide()
    theta, path = network.vector, tmp_path / "wide.safetensors"
    content = modelfile.Content(network, MaskSet.of([network.connectivity]), None, {})
    tensors, metadata = modelfile.encode(content)
    assert list(tensors) == ["parameters", "ordering"]
    digest = hashlib.sha256(theta.data)
    digest.update(tensors["ordering"].data)
    head = tensorfile.make_header(tensors, metadata, digest.hexdigest())
    file_of_holes(path, len(head) + theta.nbytes + tensors["ordering"].nbytes)
    start = int(network.layout.panel_start[-1])
    with path.open("r+b") as file:
        file.write(head)
        file.seek(len(head) + 4 * start)
        file.write(theta[start:].data)
        file.write(tensors["ordering"].data)
    model = load(path, mmap=True)
    assert model.n_features_in == len(b)
    check_wide(model, first, W, b)
