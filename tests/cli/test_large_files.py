"""Parquet files that are not read as a whole: commands print and write what they do of the same table in memory."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from cli_cases import run
from helpers import random_model

from made_fast import load
from made_fast.cli import main
from made_fast.tables.packed import Packed
from made_fast.tables.reading import chunks, datasets, formats, rawtable

N = 500
RNG = np.random.default_rng(0)
TRAIN = "train d.parquet --out m.safetensors --seed 1 --max-epochs 2 --masks 2 --hidden 9 --quiet --batch-size 50"


@pytest.fixture(scope="module")
def frame():
    columns = {
        "a": RNG.normal(size=N),
        "count": np.where(RNG.random(N) < 0.1, None, RNG.integers(0, 40, N)),
        "flag": RNG.random(N) < 0.4,
        "name": np.where(RNG.random(N) < 0.1, None, RNG.choice(list("xyz"), N)),
    }
    return pd.DataFrame(columns).astype({"count": "Int64"})


@pytest.fixture
def large(monkeypatch):
    """Return a function that makes every .parquet one that is too large for memory."""

    def begin():
        monkeypatch.setattr(formats, "IN_MEMORY", 0)
        monkeypatch.setattr(chunks, "CELLS", 300)

    return begin


def commands(folder, frame, monkeypatch, capsys):
    """Yield what commands print and write, one after the other."""
    folder.mkdir()
    monkeypatch.chdir(folder)
    frame.to_parquet("d.parquet", row_group_size=90)
    for command in (
        f"{TRAIN} --samples p.png",
        "score m.safetensors d.parquet",
        "score m.safetensors d.parquet --std --explain --out s.csv",
        "score m.safetensors d.parquet --out s.npy",
        "impute m.safetensors d.parquet --out i.csv",
        "impute m.safetensors d.parquet --method sample --rows 333 --out -",
        "score m.safetensors d.parquet --std --out s.parquet",
        "impute m.safetensors d.parquet --out i.parquet",
        "evaluate m.safetensors d.parquet",
    ):
        yield command, [re.sub(r"[\d.,]+ (s|rows/s|kB)\b", "", text) for text in run(command, capsys)]
    for name in ("p.png", "s.csv", "s.npy", "i.csv"):
        yield name, (folder / name).read_bytes()
    yield from ((f"{name}.parquet", pd.read_parquet(f"{name}.parquet").to_csv()) for name in "si")
    pd.testing.assert_frame_equal(pd.read_parquet("i.parquet"), pd.read_csv("i.csv"), check_dtype=False)


def test_a_large_file_gives_what_a_table_in_memory_gives(tmp_path, frame, monkeypatch, capsys, large):
    in_memory = list(commands(tmp_path / "a", frame, monkeypatch, capsys))
    large()
    monkeypatch.setattr(rawtable, "_parquet", None)  # which reads it as a whole
    monkeypatch.setattr(rawtable, "holds_a_table", lambda *_: True)
    for (what, ours), (_, whole) in zip(commands(tmp_path / "b", frame, monkeypatch, capsys), in_memory, strict=True):
        assert ours == whole, what
    one, other = (load(tmp_path / folder / "m.safetensors") for folder in "ab")
    assert (one.density.source.vector == other.density.source.vector).all()
    assert one.columns.describe() == other.columns.describe()


@pytest.mark.parametrize("gaps", [False, True], ids=["whole", "gaps"])
def test_rows_of_0_and_1_are_packed_as_they_are_read(gaps, tmp_path, monkeypatch, capsys, large):
    monkeypatch.chdir(tmp_path)
    rows = pd.DataFrame(RNG.random((N, 9)) < 0.3, columns=list("abcdefghi")).astype(float)
    rows.mask(RNG.random(rows.shape) < 0.05 * gaps).to_parquet("d.parquet", row_group_size=90)
    found = []
    for _ in range(2):
        told = [run(f"{TRAIN} --masks {1 + gaps}", capsys), run("evaluate m.safetensors d.parquet --split train", capsys)]
        told += [run("score m.safetensors d.parquet", capsys)]
        found.append((re.sub(r"[\d.,]+ (s|rows/s)\b", "", str(told)), (tmp_path / "m.safetensors").read_bytes()))
        large()
    assert found[0] == found[1]
    assert isinstance(datasets.load("d.parquet", missing=True, large=True).train, Packed)
    rows.assign(d=np.arange(N)).to_parquet("e.parquet")
    for option in ("", "--threshold 0.5"):
        assert main(f"train e.parquet --kind binary {option} --out n.safetensors".split()) != 0
        assert "e.parquet cannot be read" in capsys.readouterr().err


def test_columns_are_dropped_and_contexts_are_read_as_a_whole(tmp_path, frame, monkeypatch, capsys, large):
    monkeypatch.chdir(tmp_path)
    frame.to_parquet("d.parquet")
    large()
    run(f"{TRAIN} --drop a", capsys)
    assert load("m.safetensors").columns.names == ("count", "flag", "name")
    run(f"{TRAIN} --context flag", capsys)
    written = run("score m.safetensors d.parquet", capsys).out.splitlines()  # part by part, each with its context
    assert len(written) == N + 1
    model = load("m.safetensors")
    complete = frame.notna().all(axis=1).to_numpy()
    log_p = model.score_samples(frame.drop(columns="flag")[complete], context=frame[["flag"]][complete])
    np.testing.assert_allclose(np.array(written[1:], float)[complete], log_p, rtol=1e-12)
    run("impute m.safetensors d.parquet --out i.csv", capsys)
    assert pd.read_csv("i.csv").notna().all(axis=None)
    assert list(pd.read_csv("i.csv").columns) == ["a", "count", "name", "flag"]


@pytest.mark.parametrize(
    ("command", "match"),
    [
        ("score m.safetensors d.parquet --split test", "has no test rows, only train"),
        ("score m.safetensors d.parquet --drop nope", "--drop"),
        ("score b.safetensors d.parquet --out s.parquet", "is for models of tables; of 0/1 rows, give --out FILE.csv"),
        ("impute b.safetensors d.parquet --out s.parquet", "is for models of tables; of 0/1 rows, give --out FILE.csv"),
        ("score m.safetensors e.parquet --out s.parquet", "chunk 1 of e.parquet|must hold"),
        ("score m.safetensors e.parquet --out s.csv", "chunk 1 of e.parquet|must hold"),
    ],
)
def test_wrong_files_are_refused_and_leave_nothing(command, match, tmp_path, frame, monkeypatch, capsys, large):
    monkeypatch.chdir(tmp_path)
    frame.to_parquet("d.parquet")
    run(TRAIN, capsys)
    random_model(4, (2,)).save("b.safetensors")
    strange = frame.assign(a=np.where(np.arange(N) == 400, np.inf, frame["a"]))
    strange.to_parquet("e.parquet")
    large()
    assert main(command.split()) != 0
    assert re.search(match, capsys.readouterr().err)
    assert not list(tmp_path.glob("s.*"))
