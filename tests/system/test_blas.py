"""No result depends on the threads of BLAS, which ``OMP_NUM_THREADS`` and the affinity mask set as they set ours."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import nullcontext

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from made_fast import MADE
from made_fast.estimators.ensemble import em_weights
from made_fast.system.blas import one_thread, weighted_sum
from made_fast.training.recipe import _orthogonal

pytestmark = pytest.mark.skipif(
    not any(pool["user_api"] == "blas" for pool in threadpool_info()), reason="the threads of this BLAS cannot be set"
)


def blas_threads():
    return {pool["filepath"]: pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def same_for_any_threads(compute):
    found = []
    for n in (1, 2, 3):
        with threadpool_limits(n, user_api="blas"):
            before = blas_threads()
            found.append(compute())
            assert blas_threads() == before
    return all(np.array_equal(found[0], other) for other in found)


@pytest.mark.parametrize("shape", [(180, 500), (784, 500)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_orthogonal_weights(shape, dtype):
    assert same_for_any_threads(lambda: _orthogonal(*shape, np.dtype(dtype), np.random.default_rng(0)))


@pytest.mark.filterwarnings("ignore::made_fast.ApproximationWarning")
def test_means_of_missing_inputs():
    rng = np.random.default_rng(0)
    X = (rng.random((300, 784)) < 0.3).astype(np.uint8)
    model = MADE(hidden_sizes=(32,), max_epochs=1, n_masks=4, random_state=0).fit(X).model_
    rows = X[:2].astype(float)
    rows[:, 100:700] = np.nan
    assert same_for_any_threads(lambda: model.impute(rows, "mean", n_walks=1024))


def test_weights_of_members():
    log_p = np.random.default_rng(0).normal(size=(12, 50_000)) * 3 - 100
    assert same_for_any_threads(lambda: em_weights(log_p)[0])


def test_weighted_sums_are_sums():
    rng = np.random.default_rng(0)
    weights, rows = rng.random(1000), rng.random((1000, 300))
    assert np.allclose(weighted_sum(weights, rows), weights @ rows, rtol=1e-13)


def test_calls_wait_for_each_other_and_give_the_threads_back():
    before, inside = blas_threads(), []

    def call(fails):
        with pytest.raises(ArithmeticError) if fails else nullcontext(), one_thread():
            inside.append(blas_threads())
            if fails:
                raise ArithmeticError

    threads = [threading.Thread(target=call, args=(fails,)) for fails in (False, True) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert inside == [dict.fromkeys(before, 1)] * len(threads)
    assert blas_threads() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_does_not_wait_for_a_thread_of_its_parent():
    with one_thread():
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # ends a child that hangs
            code = 1
            try:
                with one_thread():
                    code = 7
            finally:
                os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
