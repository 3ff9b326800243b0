"""Who computes when: scores together, bounds on what waits, time limits; on an event loop of our own, with real models."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest
from helpers import random_model
from served import bits, mixed_frame

pytest.importorskip("fastapi", reason="needs made_fast[serve]")

from made_fast import MADE
from made_fast.serving.bodies import RefusedError
from made_fast.serving.models import Served, named
from made_fast.serving.work import Batcher, Crew, Gate, Reader

D = 12


@pytest.fixture(scope="module")
def served():
    return Served("bits", random_model(D, (9,)))


class Slow(Served):
    """A model that waits before it scores."""

    def __init__(self, model, go):
        super().__init__("slow", model)
        self.go = go

    def score_together(self, rows, n_threads):
        assert self.go.wait(30)
        return super().score_together(rows, n_threads)


def batcher(served, seconds=30.0, most_rows=10_000):
    sizes = []
    return Batcher(served, 1, most_rows, seconds, sizes.append), sizes


def test_requests_that_come_together_are_scored_together_to_the_bit(served):
    X = bits(600)
    expected = served.density.score_samples(X)

    async def main():
        batch, sizes = batcher(served)
        await batch.score(served.prepare(X[:1]))  # the guess of the time is gone
        sizes.clear()
        parts = np.split(X, [1, 2, 5, 40, 41])
        found = await asyncio.gather(*(batch.score(served.prepare(part)) for part in parts))
        return np.concatenate(found), sizes

    found, sizes = asyncio.run(main())
    np.testing.assert_array_equal(found, expected)
    assert sizes == [600]


def test_scores_that_take_long_are_for_a_thread_and_those_who_come_meanwhile_wait_for_one_batch():
    go = threading.Event()
    served = Slow(random_model(D, (9,)), go)
    X = bits(20)

    async def main():
        batch, sizes = batcher(served)
        first = asyncio.ensure_future(batch.score(served.prepare(X[:2])))
        while not sizes:
            await asyncio.sleep(0)
        rest = [asyncio.ensure_future(batch.score(served.prepare(X[i : i + 1]))) for i in range(2, 20)]
        await asyncio.sleep(0.01)
        assert not first.done()
        go.set()
        return np.concatenate(await asyncio.gather(first, *rest)), sizes

    found, sizes = asyncio.run(main())
    np.testing.assert_array_equal(found, served.density.score_samples(X))
    assert sizes == [2, 18]


def test_more_rows_than_may_wait_are_refused_and_one_request_alone_never_is():
    go = threading.Event()
    served = Slow(random_model(D, (9,)), go)

    async def main():
        batch, sizes = batcher(served, most_rows=5)
        tasks = [asyncio.ensure_future(batch.score(served.prepare(bits(9))))]
        while not sizes:
            await asyncio.sleep(0)
        tasks += [asyncio.ensure_future(batch.score(served.prepare(bits(n)))) for n in (9, 1)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        go.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, second, third = asyncio.run(main())
    assert (len(first), len(second)) == (9, 9)
    assert third.status == 429
    assert third.headers["Retry-After"] == "1"


def test_a_model_that_cannot_answer_one_request_answers_the_others():
    class Odd(Served):
        def score_together(self, rows, n_threads):
            if any(len(each) == 3 for each in rows):
                raise FloatingPointError("the weights are so large")
            return super().score_together(rows, n_threads)

    served = Odd("odd", random_model(D, (9,)))

    async def main():
        batch, _ = batcher(served)
        return await asyncio.gather(*(batch.score(served.prepare(bits(n))) for n in (2, 3, 4)), return_exceptions=True)

    first, second, third = asyncio.run(main())
    np.testing.assert_array_equal(first, served.density.score_samples(bits(2)))
    np.testing.assert_array_equal(third, served.density.score_samples(bits(4)))
    assert isinstance(second, FloatingPointError)


@pytest.mark.parametrize(("waits", "status"), [(False, 504), (True, 503)])
def test_time_limits_of_scores(waits, status):
    go = threading.Event()
    served = Slow(random_model(D, (9,)), go)

    async def main():
        batch, sizes = batcher(served, seconds=0.05)
        first = asyncio.ensure_future(batch.score(served.prepare(bits(1))))
        if waits:
            while not sizes:
                await asyncio.sleep(0)
        second = asyncio.ensure_future(batch.score(served.prepare(bits(1)))) if waits else first
        with pytest.raises(RefusedError) as caught:
            await second
        go.set()
        await asyncio.gather(first, return_exceptions=True)
        while batch.busy:
            await asyncio.sleep(0.001)
        assert len(await batch.score(served.prepare(bits(2)))) == 2  # as before
        assert sizes == [1, 2]  # nobody scores what nobody waits for
        return caught.value.status

    assert asyncio.run(main()) == status


def test_time_limits_of_other_work():
    go = threading.Event()

    async def main():
        crew, begun = Crew(0.05), []
        running = [asyncio.ensure_future(crew.do(go.wait)) for _ in range(crew.pool._max_workers)]
        await asyncio.sleep(0.01)
        waiting = asyncio.ensure_future(crew.do(lambda: begun.append(1)))
        found = await asyncio.gather(*running, waiting, return_exceptions=True)
        go.set()
        assert await crew.do(lambda: 3) == 3
        return [error.status for error in found], begun

    statuses, begun = asyncio.run(main())
    assert statuses == [504] * (len(statuses) - 1) + [503]
    assert begun == []  # what has not begun in time never does


def test_a_gate_counts_requests_and_bytes():
    gate = Gate(2, 100)
    with gate.entered() as take, gate.entered() as other:
        take(60)
        with pytest.raises(RefusedError) as caught:
            other(41)
        assert caught.value.status == 429
        other(40)
        with pytest.raises(RefusedError) as caught, gate.entered():
            pass
        assert caught.value.status == 429
    assert (gate.inside, gate.bytes) == (0, 0)


@pytest.fixture(scope="module")
def table():
    """Return a model of texts, a boolean, whole and other numbers, in digits, and the rows that it has learnt from."""
    frame = mixed_frame(6000).astype({"sex": object, "a town": object})
    return Served("table", MADE(hidden_sizes=(8,), max_epochs=1, random_state=0).fit(frame).model_), frame


def columns(frame):
    return {name: frame[name].to_numpy() for name in frame}


def read(served, given):
    """Return what the reader makes of tables that come together, and of how many rows each call was."""
    calls, prepare = [], served.prepare

    def counted(X, context=None):
        calls.append(len(next(iter(X.values()), ())))
        return prepare(X, context)

    async def main():
        reader = Reader(served)
        return await asyncio.gather(*(reader.read(X, None) for X in given), return_exceptions=True)

    served.prepare = counted
    try:
        return asyncio.run(main()), calls
    finally:
        del served.prepare


def test_tables_that_come_together_are_read_together_to_the_bit(table):
    served, frame = table
    gaps = frame[:9].copy()
    gaps.loc[[1, 4], "income"] = np.nan
    gaps.loc[4, "a town"] = None
    given = [columns(part) for part in (frame[:1], gaps[:3], gaps[3:9], frame[70:300])]
    found, calls = read(served, given)
    assert calls == [240]
    for rows, X in zip(found, given, strict=True):
        alone = served.prepare(X)
        assert rows.n_gaps == alone.n_gaps
        np.testing.assert_array_equal(rows.table.rows, alone.table.rows, strict=True)
        np.testing.assert_array_equal(rows.within, alone.within, strict=True)
    assert [rows.n_gaps for rows in found] == [0, 1, 1, 0]
    together = served.score_together([found[0], found[3]], 1)
    np.testing.assert_array_equal(together, served.table.score_samples(frame.iloc[[0, *range(70, 300)]]))


def test_tables_of_another_form_are_read_by_themselves_and_a_wrong_one_harms_no_other(table):
    served, frame = table
    a, b, c = (columns(frame[i : i + 2]) for i in (0, 2, 4))
    ragged = [{**a, "age": a["age"][:1]}, {**b, "age": np.append(b["age"], 30)}]  # of equal length, put together
    others = [{**a, "age": a["age"].astype(np.float64)}, {**c, "income": c["income"].astype(np.float32)}]
    wrong = [{**b, "sex": np.array(["male", "none"], object)}, {name: values[:0] for name, values in b.items()}, {}]
    given = [a, *ragged, *others, *wrong, b, {**c, "sex": [1, 2]}]
    found, _ = read(served, given)
    for rows, X in zip(found, given, strict=True):
        (alone,), _ = read(served, [X])
        if isinstance(alone, Exception):
            assert (type(rows), str(rows)) == (type(alone), str(alone))
        else:
            np.testing.assert_array_equal(rows.table.rows, alone.table.rows)
            np.testing.assert_array_equal(rows.within, alone.within)
    assert [isinstance(rows, Exception) for rows in found] == [False, True, True, False, False, True, True, True, False, True]


def test_models_have_different_names(tmp_path):
    odd = tmp_path / "a=b.safetensors"
    odd.write_bytes(b"")
    assert named([str(odd), "x=y.safetensors", "v1.2.safetensors"]) == {
        "a=b": str(odd), "x": "y.safetensors", "v1.2": "v1.2.safetensors",
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"different names, got 'a' for x/a.safetensors and y/a.safetensors"):
        named(["x/a.safetensors", "y/a.safetensors"])
    for text in ("", "=a", "a="):
        with pytest.raises(ValueError, match="FILE or NAME=FILE"):
            named([text])
