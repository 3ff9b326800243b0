"""Tables of several test files: numbers of every sort, one table in every form with names."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa

from made_fast.tables.columns.learn import learn

RNG = np.random.default_rng(5)
N = 600


def spiked(n=N):
    """Return numbers of which most are 0, and the others have long tails."""
    return np.where(RNG.random(n) < 0.8, 0.0, RNG.lognormal(3, 2, n))


NUMBERS = {
    "normal": RNG.normal(size=N),
    "float32": RNG.normal(size=N).astype(np.float32),
    "float16": RNG.normal(size=N).astype(np.float16),
    "spiked": spiked(),
    "spiked, two decimals": np.round(spiked(), 2),
    "one decimal": np.round(RNG.normal(size=N), 1),
    "halves": RNG.integers(0, 30, N) / 2,
    "ages": RNG.integers(17, 91, N).astype(float),
    "float32, one decimal": np.round(RNG.normal(size=N), 1).astype(np.float32),
    "two clusters": np.concatenate([RNG.normal(size=N // 2), 1e6 + RNG.normal(size=N // 2)]),
    "an outlier": np.append(RNG.random(N), 1e9),
    "a marker": np.where(RNG.random(N) < 0.2, -999.0, RNG.random(N)),
    "few": RNG.choice([1.0, 2.5, np.pi], N),
    "one row": np.array([np.pi]),
    "two rows": np.array([1.0, 2.0]),
    "seven rows": RNG.normal(size=7),
    "constant": np.full(9, 0.25),
    "huge": RNG.normal(size=N) * 1e299,
    "tiny": RNG.normal(size=N) * 1e-300,
    "missing": np.where(RNG.random(N) < 0.3, np.nan, RNG.normal(size=N)),
}
INTEGERS = {
    "ages": RNG.integers(17, 91, N),
    "few": RNG.choice([1, 2, 3, 7], N),
    "uint8": RNG.integers(0, 256, N).astype(np.uint8),
    "int8": RNG.integers(-128, 128, N).astype(np.int8),
    "spiked": np.where(RNG.random(N) < 0.9, 0, RNG.integers(1, 10_000, N)),
    "hundreds": RNG.integers(0, 50, N) * 100,
    "large": RNG.integers(2**52, 2**53, N),
    "constant": np.full(9, 5),
    "one row": np.array([3]),
    "gaps": np.concatenate([np.arange(10), 10_000 + np.arange(10)]).repeat(3),
}
FLOATS = sorted(set(NUMBERS) - {"huge", "tiny", "float16"})  # whose widths are not to be multiplied with, or hardly numbers


def column_of(values, **kwargs):
    """Return columns of one column, and this."""
    columns = learn({"x": values}, **kwargs)
    return columns, columns.columns[0]


def density(columns, x):
    """Return the level and the log-density of each number."""
    codes, log_density = columns.encode({"x": x}, density=True)
    return codes[:, 0], log_density[:, 0]


FRAME = {
    "age": np.array([30, 41, 22, 35] * 10),
    "sex": np.array(["M", "F", "F", "M"] * 10, object),
    "income": np.array([0.5, 1.25, np.nan, 3.0] * 10),
    "job": np.array(["a", None, "b", "c"] * 10, object),
    "member": np.array([True, False, True, True] * 10),
}


def all_kinds():
    """Return the same table in every form with names."""
    pandas = pd.DataFrame(FRAME)
    return {
        "dict": FRAME,
        "lists": {name: column.tolist() for name, column in FRAME.items()},
        "pandas": pandas,
        "nullable": pandas.convert_dtypes(),
        "objects": pandas.astype(object),
        "pandas of Arrow": pandas.convert_dtypes(dtype_backend="pyarrow"),
        "categories": pandas.astype({"sex": "category", "job": pd.CategoricalDtype(["c", "b", "a", "z"])}),
        "polars": pl.DataFrame({name: column.tolist() for name, column in FRAME.items()}).with_columns(
            pl.col("income").fill_nan(None)
        ),
        "polars, categories": pl.DataFrame({name: column.tolist() for name, column in FRAME.items()}).with_columns(
            pl.col("job").cast(pl.Categorical), pl.col("sex").cast(pl.Enum(["M", "F"])), pl.col("age").cast(pl.Int8)
        ),
        "Arrow": pa.Table.from_pandas(pandas),
        "Arrow, batch": pa.RecordBatch.from_pandas(pandas),
    }


KINDS = list(all_kinds())
