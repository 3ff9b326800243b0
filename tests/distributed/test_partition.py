"""The plain functions of a partition, and the files that they map; Spark and Ray call them where they are installed."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
from helpers import python

from made_fast import MADE, distributed, load
from made_fast.distributed import partition


def test_scores_of_parts_are_those_of_all(bits, table):
    for fitted in (bits, table):
        expected = fitted.made.score_samples(fitted.complete)
        for model in (str(fitted.path), fitted.path, fitted.made, fitted.made.model_, distributed.located(fitted.path)):
            parts = [distributed.scored(fitted.complete[i : i + 37], model) for i in range(0, len(expected), 37)]
            assert np.array_equal(np.concatenate(parts), expected)


def test_a_frame_keeps_its_index_and_columns(bits, table):
    scores = distributed.scored(table.complete, table.path)
    assert scores.name == "log_p"
    assert scores.index.equals(table.complete.index)
    for method in ("mode", "mean", "sample"):
        filled = distributed.imputed(table.gaps, table.path, method)
        assert filled.index.equals(table.gaps.index)
        assert filled.columns.equals(table.gaps.columns)
        assert not filled.isna().any().any()
    frame = pd.DataFrame(bits.gaps, index=np.arange(len(bits.gaps)) + 7)
    filled = distributed.imputed(frame, bits.path)
    assert filled.index.equals(frame.index)
    assert np.array_equal(filled.to_numpy(), bits.made.impute(bits.gaps))


CONTEXT = ["where", "when"]


def test_the_context_stands_beside_the_other_columns(given, table):
    expected = given.made.score_samples(table.complete, context=given.complete[CONTEXT])
    assert np.array_equal(distributed.scored(given.complete, given.path), expected)
    assert not np.array_equal(distributed.scored(given.complete.assign(where="x"), given.path), expected)
    for method in ("mode", "mean", "sample"):
        filled = distributed.imputed(given.gaps, given.path, method)
        own = given.made.impute(table.gaps, method, context=given.gaps[CONTEXT], random_state=0)
        pd.testing.assert_frame_equal(filled, given.gaps.assign(**own))
        said = distributed.imputed(table.gaps, given.path, method, context=given.gaps[CONTEXT])
        pd.testing.assert_frame_equal(said, own)
        assert distributed.imputed(given.gaps.iloc[:0], given.path, method).dtypes.equals(filled.dtypes)
    assert distributed.scored(given.complete.iloc[:0], given.path).shape == (0,)
    one = {"where": ["y"], "when": [1]}
    drawn = distributed.sampled(7, given.path, 0, context=one)
    pd.testing.assert_frame_equal(drawn, given.made.sample(7, 0, context=one))


def test_a_model_of_a_dict_of_columns_answers_in_frames():
    columns = {"a": np.arange(40) % 3, "b": np.linspace(0, 1, 40)}
    given = {"c": np.arange(40) % 2}
    params = {"hidden_sizes": (5,), "max_epochs": 1, "random_state": 0, "columns": {"a": "categorical"}}
    for context in (None, given):
        model = MADE(**params).fit(columns, context=context).model_
        frame = pd.DataFrame(columns if context is None else columns | context)
        one = None if context is None else {"c": [1]}
        assert distributed.sampled(9, model, 0, context=one).shape == (9, 2)
        assert distributed.scored(frame, model).shape == (40,)
        assert distributed.imputed(frame, model).columns.tolist() == frame.columns.tolist()


def test_a_context_that_is_not_there_is_refused(given, table, bits):
    with pytest.raises(ValueError, match=r"rows must have the columns of the context.* got none called 'when'"):
        distributed.scored(given.complete.drop(columns="when"), given.path)
    with pytest.raises(TypeError, match=r"rows must be a data frame of pandas, .*, got dict"):
        distributed.scored(given.complete.to_dict("series"), given.path)
    with pytest.raises(ValueError, match="context must have one row, which all draws are for, got 2"):
        distributed.sampled(7, given.path, 0, context={"where": ["y", "x"], "when": [1, 2]})
    with pytest.raises(ValueError, match="context"):
        distributed.sampled(7, given.path, 0)
    with pytest.raises(ValueError, match="has beside them 'where', 'when'"):
        distributed.scored(given.complete, table.path)


def test_an_empty_partition_is_answered(bits, table):
    assert distributed.scored(bits.complete[:0], bits.path).shape == (0,)
    assert distributed.scored(table.complete.iloc[:0], table.path).dtype == np.float64
    for method, dtype in (("mode", np.uint8), ("mean", np.float64), ("sample", np.uint8)):
        found = distributed.imputed(bits.gaps[:0], bits.path, method)
        assert (found.shape, found.dtype) == ((0, 20), dtype)
        whole = distributed.imputed(table.gaps, table.path, method)
        assert distributed.imputed(table.gaps.iloc[:0], table.path, method).dtypes.equals(whole.dtypes)


def test_draws_depend_on_the_seed_of_their_partition_alone(bits, table):
    for fitted in (bits, table):
        one, again, other = (distributed.sampled(50, fitted.path, partition.seed_of(3, i)) for i in (0, 0, 1))
        assert np.array_equal(np.asarray(one), np.asarray(again))
        assert not np.array_equal(np.asarray(one), np.asarray(other))
    assert distributed.sampled(5, table.path, 0).dtypes.equals(table.made.sample(5, 0).dtypes)


def test_a_file_is_mapped_once_and_a_new_one_is_noticed(bits, table, tmp_path):
    path = tmp_path / "model.safetensors"
    shutil.copy(bits.path, path)
    known, first = distributed.located(path), partition.model_of(path)
    assert partition.model_of(known) is first is partition.model_of(str(path))
    table.made.save(path)
    assert partition.model_of(path).n_features_in == 3
    with pytest.raises(ValueError, match="must hold the model that was there when the question was asked"):
        distributed.scored(bits.complete, known)
    bits.made.save(path)  # the same again, in another file
    assert np.array_equal(distributed.scored(bits.complete, known), bits.made.score_samples(bits.complete))


def test_identity_is_that_of_content(bits, tmp_path):
    load(bits.path).save(tmp_path / "same")
    assert distributed.located(tmp_path / "same").identity == distributed.located(bits.path).identity


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        distributed.located(tmp_path / "nothing")
    (tmp_path / "text").write_text("nothing")
    with pytest.raises(ValueError, match="the length of the header"):
        distributed.scored(np.zeros((1, 2)), tmp_path / "text")
    with pytest.raises(TypeError, match="model must be a model, a fitted estimator, or the path of a model file, got 3"):
        distributed.scored(np.zeros((1, 2)), 3)


def test_maps_need_no_estimators_and_no_dask():
    found = "{'dask', 'sklearn', 'scipy', 'pandas', 'mpi4py'} & set(sys.modules)"
    code = f"import sys, made_fast.distributed; print(*sorted({found}))"
    assert python("-c", code, seconds=60) == ""


SPARK = """
import sys
from pyspark.sql import SparkSession
from made_fast.distributed import scored
import numpy as np, pandas as pd
path, rows = sys.argv[1:]
frame = pd.read_pickle(rows)
spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
spark.conf.set("spark.sql.shuffle.partitions", "3")
asked = spark.createDataFrame(frame).repartition(3)

def score(parts):
    for part in parts:
        yield part.assign(log_p=scored(part[["kind", "n", "x"]], path))[["number", "log_p"]]

found = asked.mapInPandas(score, "number long, log_p double").toPandas().sort_values("number")
np.save(rows + ".npy", found.log_p.to_numpy())
"""

RAY = """
import sys
import ray
from made_fast.distributed import scored
import numpy as np, pandas as pd
path, rows = sys.argv[1:]
frame = pd.read_pickle(rows)
ray.init(num_cpus=2, include_dashboard=False, logging_level="error")
asked = ray.data.from_pandas(frame).repartition(3)

def score(part):
    return part.assign(log_p=scored(part[["kind", "n", "x"]], path))[["number", "log_p"]]

found = asked.map_batches(score, batch_format="pandas", batch_size=17).to_pandas().sort_values("number")
np.save(rows + ".npy", found.log_p.to_numpy())
"""


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "code"), [("pyspark", SPARK), ("ray", RAY)])
def test_spark_and_ray_call_the_plain_functions(engine, code, table, tmp_path):
    if find_spec(engine) is None or (engine == "pyspark" and shutil.which("java") is None):
        pytest.skip(f"{engine} is not installed, or there is no Java for it")
    rows = tmp_path / "rows.pickle"
    table.complete.assign(number=np.arange(len(table.complete))).to_pickle(rows)
    env = {"PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable, "RAY_DEDUP_LOGS": "0"}
    python("-c", code, str(table.path), str(rows), seconds=240, **env)
    assert np.array_equal(np.load(f"{rows}.npy"), table.made.score_samples(table.complete))
