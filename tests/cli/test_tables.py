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


@pytest.fixture(scope="module")
def given(folder):
    """Return the path of a model of the table given two of its columns."""
    path = folder / "given.safetensors"
    context = ["--context", "sold", "--context", "kind"]
    assert main(["train", str(folder / "things.csv"), "--out", str(path), *context, *QUICK, "--max-epochs", "20"]) == 0
    return path


def test_a_context_is_given_and_not_modelled(run, given):
    model, frame = made_fast.load(given), table()
    assert model.encoder.context.names == ("sold", "kind")
    assert set(model.columns.names) == set(frame) - {"sold", "kind"}
    code, out, _ = run("score given.safetensors things.csv --explain")
    assert code == 0
    found = pd.read_csv(io.StringIO(out))
    own = frame.drop(columns=["sold", "kind"])
    right, _ = model.log_observed(own, context=frame[["sold", "kind"]].astype(str))
    np.testing.assert_allclose(found.log_p, right, rtol=1e-6)
    assert "sold" not in found
    code, out, _ = run("evaluate given.safetensors things.csv --split train")
    assert code == 0
    assert "independent columns" in out
    code, out, _ = run("info given.safetensors")
    assert "sold" in out
    code, out, _ = run("impute given.safetensors things.csv --out given.csv")
    assert code == 0
    filled = pd.read_csv("given.csv")
    assert set(filled) == set(frame)
    assert not filled[list(own)].isna().any().any()
    assert (filled.kind == frame.kind).all()


def test_rows_are_drawn_and_asked_for_each_row_of_a_context(run, given, folder):
    contexts = table().loc[[0, 1, 2], ["kind", "sold"]].assign(more=1.5)
    contexts.to_csv(folder / "contexts.csv", index=False)
    code, out, _ = run("sample given.safetensors -n 2 --context contexts.csv --seed 0")
    assert code == 0
    drawn = pd.read_csv(io.StringIO(out))
    assert len(drawn) == 6
    assert drawn.kind.tolist() == np.repeat(contexts.kind.to_numpy(), 2).tolist()
    assert set(drawn) == set(table())
    again = run("sample given.safetensors -n 2 --context contexts.csv --seed 0")
    assert again[1] == out
    code, out, _ = run("query given.safetensors --context contexts.csv", "count > 3")
    assert code == 0
    right = made_fast.load(given).probability("count > 3", context=contexts[["sold", "kind"]].astype(str))
    np.testing.assert_allclose([float(line.split()[0]) for line in out.splitlines()], right, rtol=1e-5)


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("sample given.safetensors", "--context must be given: the model was fitted with a context, of sold, kind"),
        ("query given.safetensors count>3", "--context must be given"),
        ("sample m.safetensors --context things.csv", "--context must be left out: the model was fitted without one"),
        ("sample given.safetensors --context nothing.csv", "no such file"),
        (
            "sample given.safetensors --context counts.csv",
            "the context of the model must name columns of the table, got 'sold'",
        ),
        ("score given.safetensors counts.csv", "the context of the model must name columns of the table, got 'sold'"),
        ("evaluate given.safetensors counts.csv", "the context of the model must name columns of the table, got 'sold'"),
        ("impute given.safetensors counts.csv --out x.csv", "the context of the model must name columns"),
        ("train things.csv --context nobody", "--context must name columns of the table, got 'nobody'"),
        ("train counts.csv --context count", "must have a column beside those of the context"),
        ("train digits --context 3", "--context is for a table of any columns"),
        ("sample given.safetensors --context contexts.csv --out contexts.csv", "--out must not be the CONTEXTS file"),
        ("sample bits.safetensors --context counts.csv", "bits.safetensors is of 0/1 rows"),
    ],
)
def test_a_wrong_context_is_one_line(command, error, run, given, folder):
    table()[["count"]].to_csv(folder / "counts.csv", index=False)
    table()[["kind", "sold"]].to_csv(folder / "contexts.csv", index=False)
    bits = np.random.default_rng(0).integers(0, 2, (60, 4))
    made_fast.MADE(max_epochs=1, hidden_sizes=(5,)).fit(bits).model_.save(folder / "bits.safetensors")
    code, _, err = run(command)
    assert code == 2
    assert len(table()) == len(pd.read_csv(folder / "contexts.csv"))
    assert error in err
    assert err.count("\n") == 1


def test_a_context_may_be_named_twice_by_number_and_by_an_ensemble(run, folder):
    command = "ensemble things.csv --context kind --context 0 --members 2 --out e.safetensors"
    code, _, err = run(command, *QUICK)
    assert code == 0, err
    assert made_fast.load(folder / "e.safetensors").encoder.context.names == ("kind",)
    assert run("evaluate e.safetensors things.csv")[0] == 0
    first = run("train things.csv --context 0 --checkpoint c.ckpt --out c.safetensors", *QUICK)
    assert first[0] == 0, first[2]
    again = run("train things.csv --context kind --context 0 --checkpoint c.ckpt --resume --out c.safetensors", *QUICK)
    assert again[0] == 0, again[2]


def test_a_number_is_a_column_for_who_trains_alone(run, folder):
    """A model's context called "1" is that name, and never the second column of other data."""
    frame = table()[["kind", "count"]].rename(columns={"kind": "1"})
    frame.to_csv(folder / "numbered.csv", index=False)
    assert run("train numbered.csv --context 1 --header yes --out numbered.safetensors", *QUICK)[0] == 0
    assert made_fast.load(folder / "numbered.safetensors").encoder.context.names == ("1",)
    frame.rename(columns={"1": "other"}).to_csv(folder / "other.csv", index=False)
    code, _, err = run("score numbered.safetensors other.csv")
    assert code == 2
    assert "got '1'" in err
