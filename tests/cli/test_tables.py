"""The command line on raw tables: what it reads without preparation, every command on a model of a table, refusals."""

from __future__ import annotations

import gzip
import io

import numpy as np
import pandas as pd
import pytest

import made_fast
from made_fast.cli import main
from made_fast.tables.reading.csvtable import read_table

N = 400
QUICK = ["--max-epochs", "8", "--hidden", "20", "--seed", "0", "--quiet"]


def table(n=N, seed=0):
    """Return rows of text with blanks, reals with gaps, whole numbers, words for truth."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(["small one", "large, one", "other"], n, p=[0.5, 0.3, 0.2])
    weight = np.where(kind == "small one", rng.normal(10, 1, n), rng.normal(40, 5, n)).round(2)
    weight = np.where(rng.random(n) < 0.1, np.nan, weight)
    return pd.DataFrame({"kind": kind, "weight": weight, "count": rng.poisson(3, n), "sold": rng.random(n) < 0.3})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a table and a model of it."""
    path = tmp_path_factory.mktemp("tables")
    table().to_csv(path / "things.csv", index=False)
    fitting = ["--masks", "unlimited", "--learning-rate", "0.01", "--batch-size", "40", *QUICK, "--max-epochs", "60"]
    assert main(["train", str(path / "things.csv"), "--out", str(path / "m.safetensors"), *fitting]) == 0
    return path


@pytest.fixture
def run(capsys, folder, monkeypatch):
    monkeypatch.chdir(folder)

    def run(text, *more):
        code = main([*text.split(), *more])
        return code, *capsys.readouterr()

    return run


def forms(frame):
    """Return one table as the files of the world have it."""
    plain = frame.to_csv(index=False)
    rows = plain.partition("\n")[2]
    return {
        "plain.csv": plain.encode(),
        "headless.data": rows.encode(),
        "semicolons.csv": frame.to_csv(index=False, sep=";", decimal=",").encode(),
        "bom.csv": b"\xef\xbb\xbf" + plain.replace("\n", "\r\n").encode(),
        "questions.csv": frame.to_csv(index=False, na_rep="?").encode(),
        "words.csv": frame.to_csv(index=False, na_rep="NA").encode(),
        "quoted.csv": frame.to_csv(index=False, quoting=1).encode(),
        "packed.csv.gz": gzip.compress(plain.encode()),
        "tabs.tsv": frame.to_csv(index=False, sep="\t").encode(),
        "index.csv": frame.to_csv().encode(),
    }


@pytest.mark.parametrize("name", forms(table(3)))
def test_train_takes_every_form(name, tmp_path, capsys):
    frame = table(120)
    (tmp_path / name).write_bytes(forms(frame)[name])
    assert main(["train", str(tmp_path / name), "--out", str(tmp_path / "m.safetensors"), *QUICK]) == 0
    out = capsys.readouterr().out
    assert "4 columns; 96 train, 12 valid, 12 test rows" in out
    model = made_fast.load(tmp_path / "m.safetensors")
    assert [column.kind for column in model.columns.columns] == ["categorical", "numeric", "numeric", "categorical"]
    if "headless" not in name:
        assert model.columns.names == ("kind", "weight", "count", "sold")


def test_parquet_is_a_table(tmp_path, capsys):
    table(120).to_parquet(tmp_path / "t.parquet")
    assert main(["train", str(tmp_path / "t.parquet"), "--out", str(tmp_path / "m.safetensors"), *QUICK]) == 0
    assert "1 binary" in capsys.readouterr().out  # its booleans are such


def test_the_report_beats_independent_columns(folder, run):
    code, out, err = run("evaluate m.safetensors things.csv")
    assert (code, err) == (0, "")
    line = next(line for line in out.splitlines() if line.startswith("train "))
    ours, theirs = (float(cell) for cell in (line.split()[2], line.split()[5]))
    assert ours < theirs - 0.3
    expected = made_fast.load("m.safetensors").score(read_table("things.csv"))
    assert ours == pytest.approx(-expected, abs=1e-3)


def test_score_and_explain(run):
    code, out, _ = run("score m.safetensors things.csv --std --explain")
    assert code == 0
    found = pd.read_csv(io.StringIO(out))
    assert list(found.columns) == ["log_p", "std", "kind", "weight", "count", "sold"]
    model, rows = made_fast.load("m.safetensors"), read_table("things.csv")
    np.testing.assert_array_equal(found["log_p"], model.log_observed(rows)[0])
    complete = ~np.isnan(rows["weight"])
    np.testing.assert_allclose(found.iloc[:, 2:].sum(axis=1)[complete], -found["log_p"][complete])


def test_sample_is_a_table_that_reads_back(run):
    code, out, _ = run("sample m.safetensors -n 300 --seed 1 --out s.csv")
    assert (code, out) == (0, "")
    drawn = read_table("s.csv")
    assert list(drawn) == ["kind", "weight", "count", "sold"]
    assert set(drawn["kind"]) <= {"small one", "large, one", "other", None}
    again = made_fast.load("m.safetensors").sample(300, 1)
    np.testing.assert_array_equal(drawn["weight"], again["weight"])
    code, text, _ = run("sample m.safetensors -n 2 --seed 1")
    assert text.splitlines()[0] == "kind,weight,count,sold"


def test_impute_fills_and_keeps(run):
    code, out, _ = run("impute m.safetensors things.csv --out f.csv --method mean")
    assert code == 0
    assert "imputed" in out
    before, after = read_table("things.csv"), read_table("f.csv")
    there = ~np.isnan(before["weight"])
    np.testing.assert_array_equal(before["weight"][there], after["weight"][there])
    assert not np.isnan(after["weight"]).any()
    assert (before["kind"] == after["kind"]).all()
    gap = after["weight"][~there]
    assert gap[before["kind"][~there] == "small one"].mean() < gap[before["kind"][~there] != "small one"].mean() - 10


def test_query(run):
    code, out, _ = run("query m.safetensors", "kind = 'small one' and weight < 20")
    assert code == 0
    frame = table()
    expected = ((frame.kind == "small one") & (frame.weight.fillna(10) < 20)).mean()
    assert abs(float(out) - expected) < 0.1


def test_info_shows_the_columns(run):
    code, out, _ = run("info m.safetensors")
    assert code == 0
    assert "kind" in out
    assert "categorical, 3 values: large, one, other, small one" in out
    assert "numeric, multiples of 0.01" in out
    assert "missing" in out


def test_the_picture(run, folder):
    code, out, _ = run("evaluate m.safetensors things.csv --samples c.png")
    assert code == 0
    assert "picture     c.png" in out
    assert (folder / "c.png").read_bytes()[:4] == b"\x89PNG"


def test_an_ensemble_and_a_resumed_fit_of_a_table(run, folder):
    code, out, _ = run("ensemble things.csv --members 2 --out e.safetensors", *QUICK)
    assert code == 0
    assert "ensemble of 2" in out
    assert run("query e.safetensors", "count > 2")[0] == 0
    options = ["--checkpoint", "c.checkpoint", "--hidden", "20", "--seed", "0", "--quiet"]
    assert run("train things.csv --out whole.safetensors --max-epochs 6", *options)[0] == 0
    (folder / "c.checkpoint").unlink()
    assert run("train things.csv --out part.safetensors --max-epochs 3", *options)[0] == 0
    assert run("train things.csv --out part.safetensors --max-epochs 6 --resume", *options)[0] == 0
    assert (folder / "whole.safetensors").read_bytes() == (folder / "part.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("text", "more", "error"),
    [
        ("query m.safetensors", "weigth > 3", "must name columns of the table, got 'weigth'. Did you mean 'weight'?"),
        ("query m.safetensors", "kind = huge", "must have known values for column 'kind', got 'huge'"),
        ("query m.safetensors", "kind >", "must have a value"),
        ("score m.safetensors things.csv --drop count", None, "lacks 'count'"),
        ("impute m.safetensors things.csv --drop count --out f.csv", None, "lacks 'count'"),
        ("score m.safetensors things.csv --threshold 1", None, "--threshold is for models of 0/1 rows"),
        ("impute m.safetensors things.csv --out f.npy", None, "give --out FILE.csv"),
        ("impute m.safetensors things.csv --out f.csv --hide 0:1", None, "are for 0/1 rows"),
        ("impute m.safetensors things.csv --out things.csv --rows 3", None, "would lose what is left out of it"),
        ("sample m.safetensors --out s.png", None, "written as .csv"),
        ("train things.csv --kind table --threshold 3", None, "--threshold makes 0/1"),
        ("train things.csv --kind table --shape 2x2", None, "--shape is for pictures of 0/1 rows"),
        ("train ids.csv", None, "got column 'id' with 59 different texts in as many rows. Drop a column that names rows"),
        ("train dates.csv --max-categories 1", None, "--max-categories must be an int >= 2"),
    ],
)
def test_a_mistake_is_one_line(run, folder, text, more, error):
    pd.DataFrame({"id": [f"r{i}" for i in range(75)], "x": np.arange(75.0)}).to_csv("ids.csv", index=False)
    table(20).to_csv("dates.csv", index=False)
    code, out, err = run(text, *([more] if more else []))
    assert (code, out) == (2, "")
    assert error in err
    assert err.count("\n") == 1


def test_a_query_of_binary_rows_is_refused(run, folder):
    np.savetxt("bits.csv", np.random.default_rng(0).integers(0, 2, (60, 4)), "%d", ",")
    assert run("train bits.csv --out b.safetensors", *QUICK)[0] == 0
    code, _, err = run("query b.safetensors", "x0 = 1")
    assert code == 2
    assert "is a model of 0/1 rows" in err
    code, out, _ = run("score b.safetensors bits.csv --explain")
    assert code == 0
    found = pd.read_csv(io.StringIO(out))
    np.testing.assert_allclose(found.iloc[:, 1:].sum(axis=1), -found["log_p"], rtol=1e-5)


@pytest.mark.parametrize("command", ["evaluate", "score", "sample"])
def test_a_model_with_a_context_is_refused_in_a_line(command, run, folder):
    frame = table(80)
    made_fast.MADE(max_epochs=1, hidden_sizes=(5,)).fit(frame[["count"]], context=frame[["sold"]]).save("given.safetensors")
    frame[["count"]].to_csv("counts.csv", index=False)
    code, _, err = run(f"{command} given.safetensors" + " counts.csv" * (command != "sample"))
    assert code == 2
    assert "context must come with X" in err
    assert err.count("\n") == 1
