"""Packing: the bits are those of the table, of whichever kind it is, and memory stays small."""

from __future__ import annotations

import signal

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from helpers import peak, random_model, rows
from helpers import unpack_rows as unpack
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from made_fast.tables import sparse
from made_fast.tables.bits import Packing, distinct_rows, pack_missing, pack_rows
from made_fast.tables.table import CHUNK, Table, chunks

TABLES = [np.asarray, np.asfortranarray, sp.csr_array, sp.csc_matrix, pd.DataFrame]
WIDTHS = (1, 7, 8, 9, 63, 64, 65, 128, 200, 784)


def bit(bits, row, p):
    return int(bits[row, p // 64]) >> (p % 64) & 1


@pytest.mark.parametrize("D", WIDTHS)
def test_bit_p_is_the_input_at_place_p(D):
    X, order = rows(5, D), np.random.default_rng(1).permutation(D)
    bits = pack_rows(Table.of(X), order)
    assert bits.dtype == np.uint64
    assert bits.shape == (5, -(-D // 64))
    assert bits.flags.c_contiguous
    assert [[bit(bits, i, p) for p in range(D)] for i in range(5)] == X[:, order].tolist()
    assert not any(bit(bits, i, p) for i in range(5) for p in range(D, 64 * bits.shape[1]))


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=150), elements=st.integers(0, 1)), st.randoms())
def test_unpacking_is_the_inverse(X, random):
    order = np.array(random.sample(range(X.shape[1]), X.shape[1]))
    bits = pack_rows(Table.of(X), order)
    unpacked = unpack(bits, order)
    assert unpacked.dtype == np.uint8
    assert (unpacked == X).all()


@given(hnp.arrays(np.uint64, st.tuples(st.integers(0, 30), st.integers(1, 3)), elements=st.sampled_from([0, 1, 2**63])))
def test_distinct_rows_are_the_rows_once_each_as_they_come(bits):
    distinct, of_row = distinct_rows(bits)
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
            distinct_rows(bits)

    before = signal.signal(signal.SIGALRM, interrupt)
    bits = np.random.default_rng(0).integers(2**63, size=(40, 200)).astype(np.uint64)
    try:
        for microseconds in range(100, 2100, 20):
            with pytest.raises(KeyboardInterrupt):
                search(microseconds * 1e-6)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_table_is_checked_once_for_all_chunks_and_masks(monkeypatch):
    """Neither a chunk nor a mask looks at the rows of the others again."""
    seen, S = [], sp.csr_array(rows(3 * CHUNK // 300, 300))
    monkeypatch.setattr(sparse, "canonical_csr", lambda X, name, real=sparse.canonical_csr: seen.append(X) or real(X, name))
    model = random_model(300, (5,), n_masks=3)
    model.score_samples(S, n_threads=2)
    model.impute(S[:5], n_members=3)
    assert [len(X.data) for X in seen] == [S.nnz, S[:5].nnz]


@pytest.mark.parametrize(
    "change", [*TABLES, lambda X: X[::-1, ::-1].copy()[::-1, ::-1], lambda X: X.astype(object), sp.lil_array]
)
@pytest.mark.parametrize("n", [1, 3, 2 * CHUNK // 300 + 5])
def test_input_of_every_kind_gives_the_same_bits_in_one_chunk_or_many(change, n):
    X, order = rows(n, 300), np.random.default_rng(1).permutation(300)
    want = np.packbits(np.pad(X[:, order], ((0, 0), (0, 20))), axis=1, bitorder="little").copy("C").view("<u8")
    table = Table.of(change(X))
    assert (pack_rows(table, order) == want).all()
    packing = Packing(table, order)
    assert (np.concatenate([packing[i : min(n, i + 100)] for i in range(0, len(packing), 100)]) == want).all()
    assert (unpack(want, order) == X).all()


@pytest.mark.parametrize("change", [np.asarray, sp.csr_array])
def test_errors_count_rows_from_the_start_of_the_table(change):
    X = rows(5000, 100).astype(float)
    X[4321, 17] = 3
    with pytest.raises(ValueError, match=r"X must hold only 0 and 1, got 3\.0 at row 4321, column 17 "):
        pack_rows(Table.of(change(X)), np.arange(100)[::-1])
    with pytest.raises(ValueError, match=r"X_val must hold .* at row 4321, column 17 "):
        Packing(Table.of(change(X), name="X_val"), np.arange(100))[4000:5000]


@pytest.mark.parametrize("change", TABLES)
@pytest.mark.parametrize("n", [1, 3, 2 * CHUNK // 300 + 5])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_missing_entries_are_bits_of_their_own(change, n, dtype):
    X, order = rows(n, 300).astype(dtype), np.random.default_rng(1).permutation(300)
    nan = rows(n, 300, seed=2) == 1
    nan[:, 0] = True
    X[nan] = np.nan
    found = pack_missing(Table.of(change(X)), order)
    assert (unpack(found, order) == nan).all()
    assert found.dtype == np.uint64
    assert found.shape == (n, 5)
    bits = pack_rows(Table.of(change(X)), order, missing=True)
    assert (unpack(bits, order) == (np.where(nan, 0, X) == 1)).all()
    assert not (found & bits).any()
    with pytest.raises(ValueError, match="got NaN at row 0, column 0 "):
        pack_rows(Table.of(change(X)), order)
    X = rows(n, 300).astype(dtype)
    assert pack_missing(Table.of(change(X)), order) is None
    X[-1, 7] = np.nan  # in the last chunk
    assert np.argwhere(unpack(pack_missing(Table.of(change(X)), order), order)).tolist() == [[n - 1, 7]]


@pytest.mark.parametrize("dtype", ["?", "u1", "f4", "O"])
def test_a_table_beyond_all_memory_is_refused_before_it_is_searched(dtype):
    X = np.broadcast_to(np.zeros((), dtype), (2**53, 3))
    with pytest.raises(MemoryError):
        pack_rows(Table.of(X), np.arange(3))
    if dtype in ("?", "u1"):
        assert pack_missing(Table.of(X), np.arange(3)) is None  # there is nothing to search
    else:
        with pytest.raises(MemoryError):
            pack_missing(Table.of(X), np.arange(3))


@pytest.mark.parametrize("n", [1, 999, 1000, 1001])
def test_chunks_cover_the_rows_once(n):
    assert [i for part in chunks(n, CHUNK // 10) for i in range(n)[part]] == list(range(n))
    assert all(part.stop - part.start == 1 for part in chunks(3, 10 * CHUNK))


@pytest.mark.parametrize("change", [np.asarray, lambda X: X.astype(np.float32), sp.csr_array])
def test_packing_takes_little_more_memory_than_the_bits(change):
    X, order = change(rows(20_000, 784)), np.random.default_rng(1).permutation(784)
    assert peak(lambda: pack_rows(Table.of(X), order)) < 8 * 20_000 * 13 + 2.5e6
