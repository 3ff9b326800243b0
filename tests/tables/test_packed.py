"""Tables that are packed as they come: they hold what the tables held, in the memory of the bits."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from made_fast.kernels.layout import ONE_HOT, THERMOMETER
from made_fast.tables import packed as packed_module
from made_fast.tables.bits import pack_missing, pack_rows
from made_fast.tables.coded import Coded, Coding
from made_fast.tables.packed import Packed
from made_fast.tables.table import Table

RNG = np.random.default_rng(0)
X = (RNG.random((100, 70)) < 0.3).astype(np.float32)
GAPS = np.where((RNG.random(X.shape) < 0.1) & (np.arange(100) > 40)[:, None], np.nan, X)
CODING = Coding((3, 1, 2, 5, 130, 7), (ONE_HOT, ONE_HOT, ONE_HOT, THERMOMETER, THERMOMETER, ONE_HOT), 1)
CODES = np.stack([RNG.integers(0, n, 100) for n in CODING.n_levels], axis=1).astype(np.int16)


def of(rows, *sizes):
    """Pack rows that come in tables of these sizes, and the rest."""
    ends = np.cumsum(sizes)
    return Packed.of_tables(map(Table, np.split(rows, ends)))


@pytest.fixture(params=[1 << 26, 100])
def _blocks(request, monkeypatch):
    monkeypatch.setattr(packed_module, "BLOCK", request.param)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("rows", [X, GAPS], ids=["whole", "gaps"])
@pytest.mark.parametrize("sizes", [(), (1, 1, 30), (50, 49)])
def test_packed_rows_are_those_of_the_table_in_every_order(rows, sizes):
    table, ours = Table(rows), of(rows, *sizes)
    for order in (np.arange(70), RNG.permutation(70)):
        wanted = pack_rows(table, order, missing=True)
        assert (pack_rows(ours, order, missing=True) == wanted).all()
        assert ours.arranged(order) is ours.bits
        assert (ours.bits == wanted).all()
        assert (pack_rows(ours, np.arange(70)) == pack_rows(table, np.arange(70), missing=True)).all()
        some = RNG.permutation(100)[:30]
        assert (pack_rows(ours.take(some), order) == wanted[some]).all()
        assert (pack_rows(ours.joined(ours.take(some)), order) == np.concatenate([wanted, wanted[some]])).all()
    gaps = pack_missing(table, np.arange(70))
    assert (gaps is None) == (ours.gaps is None)
    if gaps is not None:
        assert (ours.gaps == gaps).all()
        assert (pack_missing(ours, np.arange(70)) == gaps).all()
        assert (pack_missing(ours[10:60], np.arange(70)) == gaps[10:60]).all()
        assert ours[0:30].missing() is None


def test_a_threshold_is_applied_while_rows_are_packed():
    rows = RNG.normal(size=(40, 9))
    ours = Packed.of_tables(map(Table, np.split(rows, 4)), binarize=0.5)
    assert (ours.one_byte(None) == (rows > 0.5)).all()


def test_wrong_values_name_the_table_and_the_row():
    wrong = [Table(X[:50], "chunk 0"), Table(np.where(np.arange(50)[:, None] == 3, 2, X[50:]), "chunk 1")]
    with pytest.raises(ValueError, match=r"chunk 1 must hold only 0 and 1, got 2.0 at row 3, column 0"):
        Packed.of_tables(wrong)


def test_codes_come_back_from_their_indicators():
    codes = CODES.copy()
    codes[::7, 2] = codes[1::7, 4] = -1
    within = RNG.normal(size=100)
    ours = Packed.of_tables(Coded(codes[i : i + 9], CODING, within=within[i : i + 9]) for i in range(0, 100, 9))
    assert ours.shape == (100, 5)
    assert (ours.coded().rows == codes).all()
    ours.arranged(RNG.permutation(CODING.starts[-1]))
    assert (ours.coded().rows == codes).all()
    assert (ours.within == within).all()
    some = np.array([99, 3, 7])
    assert (ours.take(some).rows == codes[some]).all()
    assert (ours.take(some).within == within[some]).all()


def test_it_takes_the_memory_of_the_bits_a_block_and_a_table(monkeypatch):
    monkeypatch.setattr(packed_module, "BLOCK", 1 << 20)
    n, D = 1 << 16, 640
    tables = (Table((np.random.default_rng(i).random((1 << 11, D), np.float32) < 0.2).view(np.uint8)) for i in range(n >> 11))
    packed = n * D // 8
    tracemalloc.start()
    try:
        ours = Packed.of_tables(tables)
        ours.arranged(RNG.permutation(D))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert ours.bits.nbytes == packed
    assert peak < packed + (1 << 20) + 7 * (D << 11)  # a table of floats, of booleans, and packed
