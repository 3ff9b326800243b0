"""A fit to a table in chunks ends with the bits of the fit to the table in memory."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse as sp
from fits import parameters, same_fit
from pyarrow import parquet

from made_fast import MADE, Chunks, MADEEnsemble
from made_fast.tables.reading import chunks as chunks_module

RNG = np.random.default_rng(0)
N = 420
X = (RNG.random((N, 70)) < 0.3).astype(np.uint8)
GAPS = np.where(RNG.random(X.shape) < 0.05, np.nan, X)
SMALL = {"hidden_sizes": (12,), "max_epochs": 2, "random_state": 0, "batch_size": 50}
FRESH = {"n_masks": None, "n_eval_masks": 3}
FRAME = pd.DataFrame(
    {
        "number": RNG.normal(size=N),
        "price": np.where(RNG.random(N) < 0.1, np.nan, RNG.normal(size=N).round(1)),
        "count": RNG.integers(0, 30, N),
        "flag": RNG.random(N) < 0.3,
        "text": np.where(np.arange(N) < 60, None, RNG.choice(list("uvwxyz"), N)),  # nothing in the first chunks
        "grade": pd.Categorical(RNG.choice(["low", "mid", "high"], N), ["low", "mid", "high"], ordered=True),
        "late": [None if i < 100 else i % 5 for i in range(N)],
    }
)


def cut(table, size=50):
    """Return a table in chunks, which can be read again and again."""
    return Chunks(lambda: (table[start : start + size] for start in range(0, N, size)))


@pytest.mark.parametrize(
    "params",
    [{}, {"n_masks": 2}, {"validation_fraction": 0.2}, {"latent_points": 2}, {"ordering": "natural"}],
    ids=lambda params: "_".join(params) or "plain",
)
@pytest.mark.parametrize("kind", ["arrays", "frames", "sparse"])
def test_rows_of_0_and_1(kind, params):
    names = [f"x{d}" for d in range(70)]
    table = {"arrays": X, "frames": pd.DataFrame(X, columns=names), "sparse": sp.csr_array(X)}[kind]
    params = SMALL | params
    whole = MADE(**params).fit(table)
    ours = MADE(**params).fit(Chunks(iter([table[:0], table[:1], table[1:300], table[300:]])))  # one pass is enough
    same_fit(ours, whole)
    assert ours.n_features_in_ == 70
    assert list(getattr(ours, "feature_names_in_", [])) == list(getattr(whole, "feature_names_in_", []))


@pytest.mark.parametrize("table", [X, FRAME], ids=["0/1", "columns"])
def test_weights_of_rows_come_as_an_array(table):
    params, weights = SMALL | {"missing": "value", "validation_fraction": 0.2}, RNG.integers(0, 3, N)
    ours, whole = (MADE(**params).fit(rows, sample_weight=weights) for rows in (cut(table), table))
    same_fit(ours, whole)


@pytest.mark.parametrize("params", [{}, {"validation_fraction": 0.2}], ids=["plain", "validation"])
def test_rows_with_gaps(params):
    whole = MADE(**SMALL, **FRESH, **params).fit(GAPS)
    same_fit(MADE(**SMALL, **FRESH, **params).fit(cut(GAPS)), whole)
    late = np.concatenate([X[:400], GAPS[400:]])  # the first chunks miss nothing
    same_fit(MADE(**SMALL, **FRESH).fit(cut(late)), MADE(**SMALL, **FRESH).fit(late))


def test_a_threshold_and_validation_rows():
    rows = RNG.normal(size=(N, 9))
    whole = MADE(**SMALL, binarize=0.3).fit(rows, X_val=rows[:100])
    same_fit(MADE(**SMALL, binarize=0.3).fit(cut(rows), X_val=Chunks([rows[:70], rows[70:100]])), whole)


@pytest.mark.parametrize("at_once", [1, 1 << 28], ids=["column by column", "all at once"])
@pytest.mark.parametrize(
    "params",
    [{"validation_fraction": 0.2}, {"missing": "value", "n_masks": 1, "max_categories": 3, "n_bins": 9}],
    ids=["gaps", "values"],
)
def test_tables_of_columns(params, at_once, monkeypatch, tmp_path):
    monkeypatch.setattr(chunks_module, "LEARNED_AT_ONCE", at_once)
    params = SMALL | FRESH | params
    path = tmp_path / "f.parquet"
    FRAME.to_parquet(path, row_group_size=64)
    for table, chunks in ((FRAME, cut(FRAME)), (parquet.read_table(path), Chunks(path, rows=33))):
        whole, ours = MADE(**params).fit(table), MADE(**params).fit(chunks)
        same_fit(ours, whole)
        assert ours.model_.encoder.to_json().keys() == whole.model_.encoder.to_json().keys()
        assert ours.model_.columns.describe() == whole.model_.columns.describe()
        assert type(ours.sample(3, 0)) is type(whole.sample(3, 0)) is type(table)


def test_validation_rows_of_columns_in_chunks():
    for frame in (FRAME, FRAME[["number", "flag"]]):
        whole = MADE(**SMALL, **FRESH).fit(frame, X_val=frame[:90])
        same_fit(MADE(**SMALL, **FRESH).fit(cut(frame), X_val=Chunks([frame[:50], frame[50:90]])), whole)


def test_arrays_of_columns_and_columns_of_many_values():
    array = RNG.normal(size=(N, 3)).astype(np.float32)
    whole, ours = (MADE(**SMALL, columns="infer").fit(table) for table in (array, cut(array)))
    same_fit(ours, whole)
    assert ours.sample(2, 0).dtype == whole.sample(2, 0).dtype == np.float32
    codes = pd.DataFrame({"code": [f"{i % 1100}" for i in range(3000)], "kind": [i % 1100 // 300 for i in range(3000)]})
    parts = Chunks([codes[:1000], codes[1000:]])
    same_fit(MADE(**SMALL).fit(parts), MADE(**SMALL).fit(codes))


def test_a_frame_is_of_columns_if_any_of_its_chunks_is():
    frame = pd.DataFrame({"a": [0, 1] * 210, "b": [0] * 419 + [2]})
    whole, ours = MADE(**SMALL).fit(frame), MADE(**SMALL).fit(cut(frame))
    assert ours.model_.columns.describe() == whole.model_.columns.describe()
    same_fit(ours, whole)


def test_fits_go_on_with_chunks(tmp_path):
    half = MADE(**SMALL).partial_fit(cut(X)).partial_fit(X)
    assert (parameters(half) == parameters(MADE(**SMALL).partial_fit(X).partial_fit(cut(X)))).all()
    path = tmp_path / "fit.ckpt"
    for table in (X, FRAME):
        params = SMALL | ({} if table is X else FRESH)
        whole = MADE(**params).fit(table)
        MADE(**{**params, "max_epochs": 1}).fit(cut(table), checkpoint=path)
        same_fit(MADE.resume(path).set_params(max_epochs=2).fit(cut(table)), whole)
        MADE(**{**params, "max_epochs": 1}).fit(table, checkpoint=path)
        with pytest.raises(ValueError, match="X must be what the fit began with"):
            MADE.resume(path).fit(Chunks([table[:50]]))


def test_what_goes_wrong_midway_leaves_the_model_as_it_was():
    def breaks():
        yield X[:100]
        raise error

    made = MADE(**SMALL).fit(X)
    before, model = parameters(made).copy(), made.model_
    for error in (RuntimeError("the line is down"), KeyboardInterrupt()):
        for call in (made.fit, made.partial_fit):
            with pytest.raises(type(error)):
                call(Chunks(breaks))
            assert made.model_ is model
            assert (parameters(made) == before).all()
    assert len(made.history_) == 2


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: MADE().fit(cut(FRAME), context=FRAME[["flag"]]), "context must be left out for X in chunks"),
        (lambda: MADE().fit(FRAME, X_val=cut(FRAME), context_val=FRAME), "context_val must be left out for X_val in chunks"),
        (lambda: MADE().fit(cut(X), sample_weight=np.ones(7)), r"sample_weight must have shape \(420,\)"),
        (lambda: MADE().fit(cut(FRAME), sample_weight=np.ones(7)), r"sample_weight must have shape \(420,\)"),
        (lambda: MADE(**SMALL).fit(X).partial_fit(cut(X[:, :5])), "chunk 0 of X must have shape"),
        (lambda: MADE(**SMALL).fit(FRAME).partial_fit(cut(FRAME.assign(grade="top"))), "chunk 0 of X must hold"),
        (lambda: MADEEnsemble(2, **SMALL).fit(cut(X)), "chunks are for MADE.fit, .* a table in memory"),
        (lambda: MADE().fit(X for _ in range(2)), r"X must have shape .*, got generator.* or made_fast.Chunks"),
        (lambda: MADE().fit("x.parquet"), r"X must have shape .*, got str.* or made_fast.Chunks"),
    ],
)
def test_what_chunks_cannot_do_is_refused(call, match):
    with pytest.raises((TypeError, ValueError), match=match):
        call()


def test_names_of_chunks_are_those_of_the_fit():
    frame = pd.DataFrame(X[:, :3], columns=list("abc"))
    made = MADE(**SMALL).fit(frame)
    with pytest.raises(ValueError, match="chunk 0 of X"):
        made.partial_fit(cut(frame.rename(columns={"a": "z"})))
    with pytest.raises(ValueError, match="chunk 0 of X_val"):
        made.fit(frame, X_val=cut(frame.rename(columns={"a": "z"})))


def test_a_table_of_arrow_with_nulls(tmp_path):
    table = pa.table({"a": pa.array([1, None, 0, 1] * 105), "b": pa.array([True, False, None, True] * 105)})
    parquet.write_table(table, tmp_path / "t.parquet", row_group_size=100)
    same_fit(MADE(**SMALL, **FRESH).fit(Chunks(tmp_path / "t.parquet", rows=70)), MADE(**SMALL, **FRESH).fit(table))
