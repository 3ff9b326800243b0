"""Packing: the bits are the matrix, whatever the matrix is made of, and memory stays small."""

from __future__ import annotations

import signal
import time
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from helpers import unpack_rows
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from made_fast.tables import checks, data

WIDTHS = (1, 7, 8, 9, 63, 64, 65, 128, 200, 784)


def binary(n, D, seed=0):
    return (np.random.default_rng(seed).random((n, D)) < 0.3).astype(np.uint8)


def bit(bits, row, p):
    return int(bits[row, p // 64]) >> (p % 64) & 1


@pytest.mark.parametrize("D", WIDTHS)
def test_bit_p_is_the_input_at_place_p(D):
    X, order = binary(5, D), np.random.default_rng(1).permutation(D)
    bits = data.pack_rows(X, order)
    assert bits.dtype == np.uint64
    assert bits.shape == (5, -(-D // 64))
    assert bits.flags.c_contiguous
    assert [[bit(bits, i, p) for p in range(D)] for i in range(5)] == X[:, order].tolist()
    assert not any(bit(bits, i, p) for i in range(5) for p in range(D, 64 * bits.shape[1]))


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=150), elements=st.integers(0, 1)), st.randoms())
def test_unpacking_is_the_inverse_and_density_the_mean(X, random):
    order = np.array(random.sample(range(X.shape[1]), X.shape[1]))
    bits = data.pack_rows(X, order)
    unpacked = unpack_rows(bits, order)
    assert unpacked.dtype == np.uint8
    assert (unpacked == X).all()
    assert data.density(bits, X.shape[1]) == pytest.approx(X.mean(), abs=1e-12)


@given(hnp.arrays(np.uint64, st.tuples(st.integers(0, 30), st.integers(1, 3)), elements=st.sampled_from([0, 1, 2**63])))
def test_distinct_rows_are_the_rows_once_each_as_they_come(bits):
    distinct, of_row = data.distinct_rows(bits)
    assert (distinct[of_row] == bits).all()
    assert len(np.unique(distinct, axis=0)) == len(distinct)
    assert list(dict.fromkeys(of_row.tolist())) == list(range(len(distinct)))


def test_an_interrupt_among_distinct_rows_is_an_interrupt():
    # As numpy.unique compares rows it makes a TypeError of it: here, of every fourth.
    def interrupt(*_):
        raise KeyboardInterrupt

    def search(seconds):
        signal.setitimer(signal.ITIMER_REAL, seconds)
        while True:
            data.distinct_rows(bits)

    before = signal.signal(signal.SIGALRM, interrupt)
    bits = np.random.default_rng(0).integers(2**63, size=(40, 200)).astype(np.uint64)
    try:
        for microseconds in range(100, 2100, 20):
            with pytest.raises(KeyboardInterrupt):
                search(microseconds * 1e-6)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_density_without_bitwise_count(monkeypatch):
    bits = data.pack_rows(binary(50, 70), np.arange(70))
    want = data.density(bits, 70)
    monkeypatch.delattr(np, "bitwise_count", raising=False)  # NumPy 1.26 has none
    assert data.density(bits, 70) == want


@pytest.mark.parametrize(
    "change",
    [
        np.asarray,
        np.asfortranarray,
        lambda X: X[::-1, ::-1].copy()[::-1, ::-1],
        lambda X: X.astype(bool),
        lambda X: X.astype(">f4"),
        lambda X: X.astype(np.longdouble),
        lambda X: X.astype(object),
        lambda X: pd.DataFrame(X),
        sp.csr_array,
        sp.csc_matrix,
        sp.lil_array,
    ],
)
@pytest.mark.parametrize("n", [1, 3, 2 * data.CHUNK // 300 + 5])
def test_input_of_every_kind_gives_the_same_bits_in_one_chunk_or_many(change, n):
    X, order = binary(n, 300), np.random.default_rng(1).permutation(300)
    want = np.packbits(np.pad(X[:, order], ((0, 0), (0, 20))), axis=1, bitorder="little").copy("C").view("<u8")
    given_ = change(X)
    assert (data.pack_rows(given_, order) == want).all()
    rows = checks.matrix(given_)
    parts = [data.pack_rows(rows[i : i + 100], order, first_row=i) for i in range(0, n, 100)]
    assert (np.concatenate(parts) == want).all()
    assert (unpack_rows(want, order) == X).all()


@pytest.mark.parametrize("change", [np.asarray, sp.csr_array])
def test_threshold(change):
    X = np.random.default_rng(0).normal(size=(1000, 300))
    order = np.random.default_rng(1).permutation(300)
    for t in (-0.5, 0.0, 1.0):
        bits = data.pack_rows(change(X), order, binarize=t)
        np.testing.assert_array_equal(unpack_rows(bits, order), np.greater(X, t))


@pytest.mark.parametrize("change", [np.asarray, sp.csr_array])
def test_errors_count_rows_from_the_start_of_the_table(change):
    X = binary(5000, 100).astype(float)
    X[4321, 17] = 3
    with pytest.raises(ValueError, match=r"X must hold only 0 and 1, got 3\.0 at row 4321, column 17 "):
        data.pack_rows(change(X), np.arange(100)[::-1])
    with pytest.raises(ValueError, match=r"X_val must hold .* at row 4321, column 17 "):
        data.pack_rows(change(X)[4000:], np.arange(100), name="X_val", first_row=4000)


@pytest.mark.parametrize("change", [np.asarray, np.asfortranarray, sp.csr_array, sp.csc_matrix, pd.DataFrame])
@pytest.mark.parametrize("n", [1, 3, 2 * data.CHUNK // 300 + 5])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_missing_entries_are_bits_of_their_own(change, n, dtype):
    X, order = binary(n, 300).astype(dtype), np.random.default_rng(1).permutation(300)
    nan = binary(n, 300, seed=2) == 1
    nan[:, 0] = True
    X[nan] = np.nan
    found = data.pack_missing(change(X), order)
    assert (unpack_rows(found, order) == nan).all()
    assert found.dtype == np.uint64
    assert found.shape == (n, 5)
    bits = data.pack_rows(change(X), order, missing=True)
    assert (unpack_rows(bits, order) == (np.where(nan, 0, X) == 1)).all()
    assert not (found & bits).any()
    with pytest.raises(ValueError, match="got NaN at row 0, column 0 "):
        data.pack_rows(change(X), order)


def test_a_missing_entry_in_the_last_chunk_is_found():
    X = np.zeros((2 * data.CHUNK // 300 + 5, 300), np.float32)
    assert data.pack_missing(X, np.arange(300)) is None
    X[-1, 7] = np.nan
    found = data.pack_missing(X, np.arange(300)[::-1])
    assert np.argwhere(unpack_rows(found, np.arange(300)[::-1])).tolist() == [[len(X) - 1, 7]]


@pytest.mark.parametrize("dtype", ["?", "u1", "f4", "O"])
def test_a_table_beyond_all_memory_is_refused_before_it_is_searched(dtype):
    X = np.broadcast_to(np.zeros((), dtype), (2**53, 3))
    with pytest.raises(MemoryError):
        data.pack_rows(X, np.arange(3))
    if dtype in ("?", "u1"):
        assert data.pack_missing(X, np.arange(3)) is None  # there is nothing to search
    else:
        with pytest.raises(MemoryError):
            data.pack_missing(X, np.arange(3))


def test_width_is_that_of_the_order():
    with pytest.raises(ValueError, match="X has 3 features, but MADE is expecting 5 features as input"):
        data.pack_rows(np.ones((2, 3)), np.arange(5))


def test_input_is_left_as_it_was():
    for X in (binary(9, 70), binary(9, 70).astype(bool), binary(9, 70).astype(float)):
        before = X.copy()
        X.flags.writeable = False
        data.pack_rows(X, np.arange(70)[::-1])
        np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize("n", [1, 999, 1000, 1001])
def test_chunks_cover_the_rows_once(n):
    assert [i for part in data.chunks(n, data.CHUNK // 10) for i in range(n)[part]] == list(range(n))
    assert all(part.stop - part.start == 1 for part in data.chunks(3, 10 * data.CHUNK))


@pytest.mark.parametrize("change", [np.asarray, lambda X: X.astype(np.float32), sp.csr_array])
def test_packing_takes_little_more_memory_than_the_bits(change):
    X, order = change(binary(20_000, 784)), np.random.default_rng(1).permutation(784)
    tracemalloc.start()
    try:
        bits = data.pack_rows(X, order)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < bits.nbytes + 2.5e6


def test_memmap_is_packed_from_disk(tmp_path):
    X, order = binary(2000, 784), np.random.default_rng(1).permutation(784)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    assert (unpack_rows(data.pack_rows(mapped, order), order) == X).all()


def test_packing_is_quick():
    """Ten times slack over what was measured: 23 ms for 50,000 rows of 784 bytes, 5 us for one row."""
    X, order = binary(50_000, 784), np.random.default_rng(1).permutation(784)

    def best(call, times):
        durations = []
        for _ in range(times):
            start = time.perf_counter()
            call()
            durations.append(time.perf_counter() - start)
        return min(durations)

    assert best(lambda: data.pack_rows(X, order), 3) < 0.25
    row = checks.matrix(X)[:1]
    assert best(lambda: data.pack_rows(row, order), 200) < 50e-6


def test_real_set(real_set):
    X = real_set("dna_made")["train"]
    order = np.random.default_rng(0).permutation(X.shape[1])
    bits = data.pack_rows(X, order)
    assert (unpack_rows(bits, order) == X).all()
    assert data.density(bits, X.shape[1]) == pytest.approx(X.mean(), abs=1e-12)
