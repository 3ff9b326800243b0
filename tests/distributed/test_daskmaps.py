"""Dask: scores, imputed rows and draws, lazily and with the bits of one process; on a cluster, also when a worker dies."""

from __future__ import annotations

import os
import shutil
import signal
import time

import numpy as np
import pandas as pd
import pytest
from helpers import digest

from made_fast import MADE, MADEEnsemble, distributed

da = pytest.importorskip("dask.array", reason="dask is not installed")
dd = pytest.importorskip("dask.dataframe", reason="dask.dataframe is not installed")

METHODS = ("mode", "mean", "sample")


def frame_of(table, n):
    return dd.from_pandas(table, npartitions=n, sort=False)


@pytest.mark.parametrize("chunks", [(210, 20), (50, 20), (37, 6), (1, 20)])
def test_scores_of_arrays_have_the_bits_of_one_process(bits, chunks):
    expected = bits.made.score_samples(bits.complete)
    for model in (bits.path, bits.made):
        lazy = distributed.score_samples(model, da.from_array(bits.complete, chunks=chunks))
        assert (lazy.shape, lazy.dtype, lazy.numblocks[0]) == ((210,), np.float64, -(-210 // chunks[0]))
        assert np.array_equal(lazy.compute(), expected)


def test_scores_of_frames_have_the_bits_of_one_process(table):
    for model in (table.path, table.made.model_):
        lazy = distributed.score_samples(model, frame_of(table.complete, 4))
        assert (lazy.name, lazy.dtype, lazy.npartitions) == ("log_p", np.float64, 4)
        found = lazy.compute()
        assert found.index.equals(table.complete.index)
        assert np.array_equal(found, table.made.score_samples(table.complete))


def test_frames_have_their_context_with_them(given):
    lazy = distributed.score_samples(given.path, frame_of(given.complete, 3))
    assert np.array_equal(lazy.compute(), distributed.scored(given.complete, given.path))
    lazy = distributed.impute(given.path, frame_of(given.gaps, 3))
    filled = lazy.compute()
    assert lazy.dtypes.equals(filled.dtypes)
    pd.testing.assert_frame_equal(filled, distributed.imputed(given.gaps, given.path), check_dtype=False)
    drawn = distributed.sample(given.path, 10, context={"where": ["x"], "when": [0]}, rows=6, random_state=1).compute()
    assert drawn.shape == (10, 3)


@pytest.mark.parametrize("method", METHODS)
def test_imputed_rows_have_the_meta_they_are_told_to_have(bits, table, method):
    for n in (2, 5):
        lazy = distributed.impute(bits.path, da.from_array(bits.gaps, chunks=(-(-210 // n), 20)), method)
        found = lazy.compute()
        assert (lazy.shape, lazy.dtype) == (found.shape, found.dtype)
        assert np.array_equal(found[~np.isnan(bits.gaps)], bits.gaps[~np.isnan(bits.gaps)])
        lazy = distributed.impute(table.path, frame_of(table.gaps, n), method)
        filled = lazy.compute()
        assert lazy.dtypes.equals(filled.dtypes)
        assert filled.index.equals(table.gaps.index)
        if method != "sample":
            assert np.array_equal(found, bits.made.impute(bits.gaps, method, random_state=0))
            pd.testing.assert_frame_equal(filled, table.made.impute(table.gaps, method, random_state=0), check_dtype=False)


def test_equal_rows_of_different_partitions_get_draws_of_their_own(bits):
    rows = np.full((40, 20), np.nan)
    lazy = distributed.impute(bits.path, da.from_array(rows, chunks=(10, 20)), "sample", random_state=1)
    parts = np.split(lazy.compute(), 4)
    assert len({part.tobytes() for part in parts}) == 4
    assert np.array_equal(np.concatenate(parts), lazy.compute(scheduler="sync"))
    other = distributed.impute(bits.path, da.from_array(rows, chunks=(10, 20)), "sample", random_state=2)
    assert not np.array_equal(np.concatenate(parts), other.compute())


def test_draws_depend_on_the_seed_and_the_partitions(bits, table):
    lazy = distributed.sample(bits.path, 100, rows=30, random_state=5)
    assert (lazy.shape, lazy.dtype, lazy.chunks[0]) == ((100, 20), np.uint8, (30, 30, 30, 10))
    found = lazy.compute()
    assert np.array_equal(found, distributed.sample(bits.made, 100, rows=30, random_state=5).compute(scheduler="sync"))
    assert not np.array_equal(found[:30], found[30:60])
    assert not np.array_equal(found, distributed.sample(bits.path, 100, rows=30).compute())
    lazy = distributed.sample(table.path, 100, rows=30, random_state=5)
    drawn = lazy.compute()
    assert len(drawn) == 100
    assert lazy.dtypes.equals(drawn.dtypes)


def test_a_file_that_is_replaced_before_the_answer_is_refused(bits, table, tmp_path):
    path = tmp_path / "model.safetensors"
    shutil.copy(table.path, path)
    lazy = distributed.score_samples(path, frame_of(table.complete, 2))
    bits.made.save(path)
    with pytest.raises(ValueError, match="must hold the model that was there when the question was asked"):
        lazy.compute()


def test_what_is_no_collection_of_rows_is_refused(bits, table):
    for X in (bits.complete, table.complete, da.zeros(3), frame_of(table.complete, 2)["x"]):
        with pytest.raises(TypeError, match="X must be a dask array"):
            distributed.score_samples(bits.path, X)
        with pytest.raises(TypeError, match="X must be a dask array"):
            distributed.impute(bits.path, X)
    with pytest.raises(ValueError, match="method must be one of"):
        distributed.impute(bits.path, da.zeros((3, 20)), "guess")
    with pytest.raises(TypeError, match="random_state must be an int"):
        distributed.sample(bits.path, 5, random_state=np.random.default_rng(0))


def _slow(rows, path):
    time.sleep(0.2)
    return distributed.scored(rows, path)


def test_a_worker_that_dies_changes_no_bit(bits, cluster):
    X = da.from_array(bits.complete, chunks=(21, 20))
    lazy = da.map_blocks(_slow, X, str(bits.path), drop_axis=1, meta=np.empty(0))
    future = cluster.compute(lazy)
    pids = cluster.run(os.getpid)
    time.sleep(0.3)
    os.kill(next(iter(pids.values())), signal.SIGKILL)
    assert np.array_equal(future.result(timeout=60), bits.made.score_samples(bits.complete))
    assert set(cluster.run(os.getpid).values()) != set(pids.values())


def test_the_cluster_answers_with_the_same_bits(bits, table, cluster):
    cluster.wait_for_workers(2, timeout=60)
    for model in (bits.path, bits.made):
        lazy = distributed.score_samples(model, da.from_array(bits.complete, chunks=(60, 20)))
        assert np.array_equal(lazy.compute(), bits.made.score_samples(bits.complete))
    drawn = distributed.sample(table.path, 60, rows=20, random_state=5)
    assert drawn.compute().equals(drawn.compute(scheduler="sync"))


def test_ensembles_and_searches_on_the_cluster_have_the_bits_of_one_process(bits, cluster):
    import joblib
    from sklearn.model_selection import GridSearchCV

    params = {"hidden_sizes": (5,), "max_epochs": 2, "random_state": 0, "n_threads": 1}

    def ensemble():
        return MADEEnsemble(3, **params).fit(bits.complete, X_val=bits.complete[:40])

    def search():
        return GridSearchCV(MADE(**params), {"hidden_sizes": [(3,), (6,)]}, cv=2).fit(bits.complete)

    told, found, here = cluster.run(os.getpid), [], os.getpid()
    with joblib.parallel_config("dask"):
        found = [ensemble(), search()]
        where = joblib.Parallel()(joblib.delayed(os.getpid)() for _ in range(4))
    assert here not in where
    assert set(where) <= set(told.values())
    alone = [ensemble(), search()]
    for a, b in zip(found[0].members_, alone[0].members_, strict=True):
        assert digest(a.model_.source.vector) == digest(b.model_.source.vector)
    assert found[1].best_params_ == alone[1].best_params_
    assert np.array_equal(found[1].cv_results_["mean_test_score"], alone[1].cv_results_["mean_test_score"])
    assert np.array_equal(found[1].score_samples(bits.complete), alone[1].score_samples(bits.complete))
