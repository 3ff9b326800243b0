"""Tables of other libraries become the numbers that they hold, of any dtype; errors that a host raises come through."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest
from helpers import random_model

from made_fast import MADE, MixtureModel, load
from made_fast.tables import arguments
from made_fast.tables.arrays import column_names, numbers, of_frame, plain
from made_fast.tables.table import Table

RNG = np.random.default_rng(0)
X = (RNG.random((40, 4)) < 0.4).astype(float)
GAPS = np.where(RNG.random(X.shape) < 0.2, np.nan, X)
FRAME = pd.DataFrame(GAPS, columns=list("abcd"))


def arrow(dtype):
    pytest.importorskip("pyarrow")
    return FRAME.astype("boolean" if "bool" in dtype else "Int64").astype(dtype)


NULLABLE = {
    "boolean": lambda: FRAME.astype("boolean"),
    "Int8": lambda: FRAME.astype("Int8"),
    "UInt64": lambda: FRAME.astype("UInt64"),
    "Float32": lambda: FRAME.astype("Float32"),
    "convert_dtypes": FRAME.convert_dtypes,
    "objects with pandas.NA": lambda: FRAME.astype(object).where(FRAME.notna(), pd.NA),
    "objects with None": lambda: FRAME.astype(object).where(FRAME.notna(), None),
    "an array of objects with pandas.NA": lambda: FRAME.astype("Int64").to_numpy(),
    "lists with pandas.NA": lambda: FRAME.astype("boolean").to_numpy().tolist(),
    "category": lambda: FRAME.astype("category"),
    "a table of arrow": lambda: pytest.importorskip("pyarrow").Table.from_pandas(FRAME.astype("boolean")),
    "a frame of polars": lambda: pytest.importorskip("polars").from_pandas(FRAME.astype("boolean")),
    "bool[pyarrow]": lambda: arrow("bool[pyarrow]"),
    "int8[pyarrow]": lambda: arrow("int8[pyarrow]"),
    "double[pyarrow]": lambda: arrow("double[pyarrow]"),
    "one of each": lambda: FRAME.astype({"a": "boolean", "b": "Int64", "c": object, "d": "float32"}),
}


@pytest.mark.parametrize("make", NULLABLE.values(), ids=NULLABLE)
def test_nullable_values_are_what_they_stand_for(make):
    """Fitted on and asked about: the same bits as of floats with NaN."""
    params = {
        "hidden_sizes": (8,), "n_masks": None, "n_eval_masks": 2, "max_epochs": 2, "random_state": 0, "n_threads": 1
    }  # fmt: skip
    right = MADE(**params).fit(GAPS).log_marginal(GAPS)
    assert (MADE(**params).fit(make()).log_marginal(make()) == right).all()


def test_a_frame_of_several_dtypes_is_as_small_as_its_columns_allow():
    frame = pd.DataFrame(X.astype(np.int8), columns=list("abcd")).astype({"a": bool, "c": np.uint8})
    assert of_frame(frame, "X").dtype == np.int16  # int8 and uint8
    assert of_frame(frame.drop(columns="c"), "X").dtype == np.int8
    assert of_frame(frame[["a"]].astype("boolean"), "X").dtype == bool
    assert of_frame(FRAME.astype("boolean"), "X").dtype == np.float16  # the smallest that has NaN
    assert (of_frame(frame, "X") == X).all()
    assert of_frame(frame.to_numpy(), "X") is None


def test_values_of_nullable_columns_are_kept_to_the_last_bit():
    """1 + 2^-40 is not 1, 2^53 + 1 is odd: neither becomes a 1 by a narrower dtype."""
    assert of_frame(pd.DataFrame({"a": [1 + 2.0**-40, None]}, dtype="Float64"), "X")[0, 0] != 1
    with pytest.raises(ValueError, match=r"X must hold only 0 and 1, got 1\.0"):
        Table.of(pd.DataFrame({"a": [1 + 2.0**-40]}, dtype="Float64")).ones()
    with pytest.raises(ValueError, match=r"got 65537"):
        Table.of(pd.DataFrame({"a": [65537, 0], "b": [True, False]})).ones()


@pytest.mark.parametrize(
    ("column", "found"),
    [
        (["0", "1"], "got text in column 'bad'"),
        (pd.Series(["0", "1"], dtype="string"), "got text in column 'bad'"),
        (pd.Series(["x", "y"], dtype="category"), "got text in column 'bad'"),
        (pd.to_datetime(["2020", "2021"]), r"got dtype datetime64\[.*\] in column 'bad'"),
        (pd.Series([pd.Timedelta("1s")] * 2), r"got dtype timedelta64\[.*\] in column 'bad'"),
        ([1j, 2j], "got dtype complex128 in column 'bad'"),
        ([{}, []], "got objects that are none in column 'bad'"),
    ],
)
def test_a_column_that_holds_no_numbers_is_named(column, found):
    with pytest.raises(TypeError, match=f"X must hold numbers, {found}"):
        Table.of(pd.DataFrame({"good": [1, 0], "bad": column}))


def test_names_of_columns():
    assert column_names(FRAME) == ("a", "b", "c", "d")
    assert column_names(pd.DataFrame(X)) is None
    assert column_names(X) is column_names(X.tolist()) is None
    assert column_names(pd.Series([1, 0], name="a")) is None
    with pytest.raises(TypeError, match="must all have names that are text, or none of them"):
        column_names(FRAME.rename(columns={"a": 7}))


def test_vectors_of_objects_are_the_numbers_that_they_hold():
    weights = np.arange(40.0)
    made = MADE((4,), max_epochs=1, random_state=0)
    right = made.fit(X, sample_weight=weights).score_samples(X)
    for same in (weights.astype(object), pd.Series(weights, dtype="Float64"), pd.Series(weights).astype(object)):
        assert (made.fit(X, sample_weight=same).score_samples(X) == right).all()
    assert (MixtureModel([random_model(4, (3,))] * 2, np.array([0.25, 0.75], object)).weights == [0.25, 0.75]).all()
    assert arguments.observed(pd.Series([True, False], dtype="boolean"), 2).tolist() == [True, False]
    for bad in (np.array(["1"] * 40, object), np.array([None] * 40), pd.Series([1, None] * 20, dtype="Int64")):
        with pytest.raises((TypeError, ValueError), match="sample_weight must"):
            made.fit(X, sample_weight=bad)
    assert plain(np.array([2**70], object)).dtype == object


class TimeLimitError(Exception):
    """What the signal handler of a host raises."""


class Slow(os.PathLike):
    """Every conversion of it raises the error."""

    def __init__(self, limit):
        self.limit = limit

    def fail(self, *_, **__):
        raise self.limit

    __array__ = __iter__ = __fspath__ = __float__ = __repr__ = __index__ = fail
    __len__ = __getitem__ = None


@pytest.mark.parametrize("limit", [TimeLimitError("time is up"), TimeoutError("time is up"), MemoryError("time is up")])
def test_what_a_host_raises_comes_through_every_door(limit):
    model, slow, made = random_model(4, (3,)), Slow(limit), MADE((4,), max_epochs=1)
    doors = [
        lambda: load(slow),
        lambda: model.score_samples(slow),
        lambda: model.score_samples(np.array([[slow, 0, 0, 0]], object)),
        lambda: model.impute(slow),
        lambda: made.fit(slow),
        lambda: made.fit(X, X_val=slow),
        lambda: made.fit(X, sample_weight=slow),
        lambda: made.fit(X, sample_weight=[slow] * 40),
        lambda: made.fit(np.array([[slow]], object)),
        lambda: MADE(slow).fit(X),
        lambda: MADE(ordering=slow).fit(X),
        lambda: MADE(batch_size=slow).fit(X),
        lambda: MADE(optimizer=slow).fit(X),
        lambda: MADE.resume(slow),
        lambda: made.fit(X, checkpoint=slow),
        lambda: model.save(slow),
        lambda: model.member_for(slow),
        lambda: model.conditional(X, slow),
        lambda: MixtureModel(slow),
        lambda: MixtureModel([model], slow),
        lambda: model.sample(1, random_state=slow),
    ]
    for door in doors:
        with pytest.raises(type(limit), match="time is up"):
            door()


def test_objects_whose_conversion_fails_are_refused():
    class Bad:
        def __float__(self):
            raise ZeroDivisionError("no")

    with pytest.raises(ValueError, match="X must hold numbers, got objects that are none: no"):
        numbers(np.array([[Bad()]], object), "X")
