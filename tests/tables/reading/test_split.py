"""Splits that a data set lacks are drawn from its training rows."""

import numpy as np
import pytest
import scipy.sparse as sp
from helpers import dense, rows

from made_fast.tables.reading import datasets
from made_fast.tables.reading.datasets import Dataset


@pytest.mark.parametrize("make", [np.asarray, sp.csr_array])
def test_split_shares_out_the_rows(make):
    X = np.arange(100).reshape(50, 2)
    parts = datasets.split(Dataset("x", make(X)), valid=0.2, test=0.3, seed=1)
    assert [part.shape[0] for part in (parts.valid, parts.test, parts.train)] == [10, 15, 25]
    found_rows = np.concatenate([dense(part) for part in (parts.train, parts.valid, parts.test)])
    assert (np.sort(found_rows, axis=0) == X).all()
    assert (np.diff(dense(parts.train)[:, 0]) > 0).all()
    again, other = (datasets.split(Dataset("x", make(X)), valid=0.2, test=0.3, seed=seed) for seed in (1, 2))
    assert (dense(again.test) == dense(parts.test)).all()
    assert not (dense(other.test) == dense(parts.test)).all()


def test_split_keeps_what_is_known():
    known = {"feature_names": ("a", "b"), "notes": ("x: a remark",), "index_base": 0}
    parts = datasets.split(Dataset("x", rows(20, 2), **known))
    assert {name: getattr(parts, name) for name in known} == known


def test_split_leaves_what_is_there():
    X = rows(20, 3)
    whole = Dataset("x", X, X[:2], X[:3], shape=(1, 3))
    assert datasets.split(whole) is whole
    parts = datasets.split(Dataset("x", X, None, X[:3]), valid=0.25)
    assert len(parts.train) == 15
    assert (parts.test == X[:3]).all()
    parts = datasets.split(Dataset("x", X), valid=None, test=0.01)
    assert (parts.valid, len(parts.test)) == (None, 1)


def test_refused_splits():
    one = Dataset("x", rows(1, 3))
    with pytest.raises(
        ValueError, match=r"x must keep at least 1 training row, got 1 rows to share with 1 .* Lower the fractions"
    ):
        datasets.split(one, test=None)
    with pytest.raises(ValueError, match="valid must be a number between 0 and 1"):
        datasets.split(one, valid=1.0)
