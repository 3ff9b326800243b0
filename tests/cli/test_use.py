"""The commands that use a model, evaluate, sample, impute, info: what they print and write. ``score`` has its own file."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_cases import rows_of_twelve, run, scores, shown, table, train, with_gaps
from helpers import random_model
from PIL import Image

from made_fast import load
from made_fast.cli import images, main, use
from made_fast.tables.reading import datasets


def test_evaluate_prints_the_table_of_the_training(digits, model_file, tmp_path, capsys):
    text = run(f"evaluate {model_file} digits", capsys).out
    assert scores(text) == scores(digits[1])
    meaning = "\n± is half of the 95 % interval of a mean, 1.96 standard errors over the rows.\n"
    assert [meaning in printed for printed in (text, digits[1])] == [True, True]
    assert scores(run(f"evaluate {model_file} digits --split test --threads 1", capsys).out) == {"test": scores(text)["test"]}
    np.save(tmp_path / "row.npy", np.zeros((1, 64), np.uint8))
    assert "±" not in run(f"evaluate {model_file} {tmp_path}/row.npy", capsys).out


@pytest.mark.usefixtures("in_tiny")
def test_evaluate_shows_the_nll_against_the_number_of_masks(capsys):
    text = run("evaluate five.safetensors x.npz --plot masks.png", capsys).out
    model, found = load("five.safetensors"), table(text, "masks")
    assert list(found) == ["1", "2", "4", "5"]
    for column, (name, X) in enumerate(np.load("x.npz").items()):
        log_p = np.stack([model.score_samples(X, mask=k) for k in range(5)])
        for m, cells in found.items():
            assert cells[column] == shown(np.log(int(m)) - np.logaddexp.reduce(log_p[: int(m)], axis=0))
        assert scores(text)[name][1] == found["5"][column]
    assert re.search(r"plot +masks\.png \([\d.]+ kB\)\n$", text)
    with Image.open("masks.png") as picture:
        assert picture.format == "PNG"
    assert scores(text) == scores(Path("five.out").read_text())
    assert "masks" not in table(run("evaluate one.safetensors x.npz --split test", capsys).out, "NLL in nats")


@pytest.mark.usefixtures("in_tiny")
@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("x.npz", "--plot needs matplotlib, which is not installed. Run: pip install 'made_fast["),
        ("gaps.npz", "--plot needs complete rows; all of these have missing"),
    ],
)
def test_a_plot_that_cannot_be_drawn_is_refused(data, message, capsys, monkeypatch):
    if data == "x.npz":
        monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["evaluate", "five.safetensors", data, "--plot", "masks.png"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"made-fast: error: {message}")
    assert err.count("\n") == 1
    assert not Path("masks.png").exists()


@pytest.mark.usefixtures("in_tiny")
def test_what_is_observed_is_scored(capsys):
    text, model, sets = Path("fresh.out").read_text(), load("fresh.safetensors"), np.load("gaps.npz")
    n_missing = sum(np.isnan(X).sum() for X in sets.values())
    assert f"12 inputs; 600 train, 101 valid, 102 test rows; {n_missing:,} entries (2" in text
    title = "Of rows with missing entries, what is observed is scored (log_marginal, n_members={}).\n\nlog-marginal NLL in "
    assert title.format(1) in text
    observed = ~np.isnan(sets["train"])
    p = (np.nansum(sets["train"], axis=0) + 1) / (observed.sum(axis=0) + 2)
    for name, X in sets.items():
        coins = np.where(np.isnan(X), 0, -np.where(X == 1, np.log(p), np.log1p(-p))).sum(axis=1)
        nll = -model.log_marginal(X)
        bits = f"{nll.sum() / (~np.isnan(X)).sum() / np.log(2):.4f}"
        assert scores(text)[name] == [str(len(X)), shown(nll), bits, shown(coins)]
    assert float(scores(text)["test"][1].split()[0]) < float(scores(text)["test"][3].split()[0])
    assert scores(run("evaluate fresh.safetensors gaps.npz", capsys).out) == scores(text)
    text = run("evaluate fresh.safetensors gaps.npz --members 4", capsys).out
    assert title.format(4) in text
    assert scores(text)["valid"][1] == shown(-model.log_marginal(sets["valid"], n_members=4))
    assert "By " not in text


@pytest.mark.usefixtures("in_tiny")
def test_estimates_are_called_so(capsys, monkeypatch):
    monkeypatch.setattr("made_fast.inference.pattern.ENUMERATED", 2)
    text = run("evaluate one.safetensors gaps.npz --split test --walks 40", capsys).out
    log_p, std = load("one.safetensors").log_marginal(np.load("gaps.npz")["test"], n_walks=40, return_std=True)
    off = np.sqrt((std**2).sum()) / len(std)
    how_many = f"{(std > 0).sum()} rows of test (the mean is off by about {off:.3f})"
    assert f"\nBy 40 walks each, and so not exact: {how_many}.\n" in text
    assert scores(text)["test"][1] == shown(-log_p)
    err = run("impute one.safetensors gaps.npz --split test --out x.csv --walks 40", capsys).err
    assert err.startswith("made-fast: note: ")
    assert err.count("\n") == 1
    assert "--walks" in err
    assert "n_walks" not in err


def test_samples_are_the_same_in_every_format(digits, model_file, tmp_path, capsys, monkeypatch):
    X = load(model_file).sample(100, random_state=0)
    for suffix in ("npy", "csv", "png"):
        assert main(["sample", model_file, "--seed", "0", "--out", f"{tmp_path}/x.{suffix}"]) == 0
    assert capsys.readouterr() == ("", "")
    assert (np.load(tmp_path / "x.npy") == X).all()
    assert (np.loadtxt(tmp_path / "x.csv", delimiter=",", dtype=np.uint8) == X).all()
    assert (np.asarray(Image.open(tmp_path / "x.png")) == images.grid(X, (8, 8))).all()
    assert (tmp_path / "x.png").read_bytes() == (digits[0] / "samples.png").read_bytes()
    monkeypatch.setattr(use, "CSV_ENTRIES", 7 * 64)  # in several steps
    for more in ("--threads 2", "--out -"):
        assert run(f"sample {model_file} -n 100 --seed 0 {more}", capsys).out == (tmp_path / "x.csv").read_text()


def test_samples_differ_without_a_seed(model_file, capsys):
    texts = [run(f"sample {model_file} -n 5", capsys).out for _ in range(2)]
    assert texts[0] != texts[1]
    assert re.fullmatch(r"(([01],){63}[01]\n){5}", texts[0])


def test_the_shape_of_pictures_is_remembered_or_given(tmp_path, capsys):
    data, path, png = tmp_path / "a.npy", str(tmp_path / "m.safetensors"), tmp_path / "x.png"
    np.save(data, np.random.default_rng(0).random((50, 6)) < 0.3)
    train("--shape", "3x2", "--out", path, data=data)
    for shape, more in (((3, 2), ""), ((1, 6), "--shape 1x6")):
        run(f"sample {path} --out {png} --seed 0 -n 7 {more}", capsys)
        X = load(path).sample(7, random_state=0)
        assert (np.asarray(Image.open(png)) == images.grid(X, shape)).all()


def test_info_tells_what_the_file_holds(model_file, capsys):
    model = load(model_file)
    network, training_run = run(f"info {model_file}", capsys).out.split("trained with\n")
    facts, hyper = (
        dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in part.splitlines()) for part in (network, training_run)
    )
    assert re.fullmatch(r"\S+model\.safetensors \([\d.]+ kB\)", facts["file"])
    expected = {
        "inputs": "64, 0/1 values", "activation": "relu", "hidden layers": "64", "degrees": "1..63", "masks": "1",
        "direct connections": "inputs to outputs", "connectivity weights": "no", "dtype": "float32",
    }  # fmt: skip
    assert {name: facts[name] for name in expected} == expected
    assert facts["ordering"].startswith(f"permutation {' '.join(map(str, model.masks.orderings[0, :8]))}")
    assert facts["parameters"].startswith(f"{model.n_parameters:,} ")
    assert {name: json.loads(value) for name, value in hyper.items()} == model.hyper
    assert {"degrees", "optimizer", "learning_rate", "random_state", "best_epoch", "data"} <= set(hyper)


@pytest.mark.usefixtures("in_tiny")
def test_the_report_of_a_model_tells_of_masks_and_weights(capsys):
    assert "12-32-12 relu, direct connections (output), connectivity weights, 5 masks, " in Path("five.out").read_text()
    model, text = load("five.safetensors"), run("info five.safetensors", capsys).out
    for line in (
        r"direct connections +inputs to outputs", r"connectivity weights +yes", r"masks +5", r"ordering +.* \(of mask 0\)",
        rf"parameters +{model.n_parameters:,} weights and biases, shared by all masks",
    ):  # fmt: skip
        assert re.search(rf"^{line}$", text, re.M), line
    text = run("info fresh.safetensors", capsys).out
    assert re.search(r"^masks +6 of unlimited; to differ: both$", text, re.M)
    assert load("fresh.safetensors").rule.resample == "both"
    assert re.search(r"^parameters +[\d,]+ live weights and biases$", run("info one.safetensors", capsys).out, re.M)


def test_what_a_stranger_wrote_into_a_file_is_shown_harmlessly(tmp_path, capsys):
    model = random_model(5, (4, 3))
    model.hyper = {"\x1b[31m": "\x1b]0;title\x07", "shape": [2, "x"]}
    model.save(tmp_path / "m.safetensors")
    assert main(["info", str(tmp_path / "m.safetensors")]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert main(["sample", str(tmp_path / "m.safetensors"), "--out", str(tmp_path / "x.png")]) == 2
    assert "needs --shape ROWSxCOLS" in capsys.readouterr().err


# impute


@pytest.mark.usefixtures("in_tiny")
@pytest.mark.parametrize("method", ["mode", "mean", "sample"])
def test_imputed_rows_are_the_models_in_every_format(method, capsys):
    X, model = np.load("gaps.npz"), load("fresh.safetensors")
    filled = {name: model.impute(rows, method, n_members=2, random_state=3) for name, rows in X.items()}
    options = f"--method {method} --members 2 --seed 3"
    text = run(f"impute fresh.safetensors gaps.npz --out x.npz {options}", capsys).out
    n_missing = sum(np.isnan(rows).sum() for rows in X.values())
    assert f"\nimputed     {n_missing:,} entries in 803 rows, by {method}\noutput      x.npz (" in text
    assert ("give --threshold 0.5" in text) == (method == "mean")
    for name, rows in np.load("x.npz").items():
        assert (rows == filled[name]).all()
        assert rows.dtype == (np.float64 if method == "mean" else np.uint8)
        assert (rows == X[name])[~np.isnan(X[name])].all()
    for suffix in ("npy", "csv", "txt"):
        run(f"impute fresh.safetensors gaps.csv --out x.{suffix} {options}", capsys)
        found = datasets.load(f"x.{suffix}", threshold=0.5).train
        assert (found == (filled["test"] > 0.5)).all()
        run(f"evaluate fresh.safetensors x.{suffix} --threshold 0.5", capsys)


@pytest.mark.usefixtures("in_tiny")
def test_hidden_entries_are_compared_with_the_truth(capsys):
    sets, model = np.load("x.npz"), load("fresh.safetensors")
    text = run("impute fresh.safetensors x.npz --hide 6:12 --rows 50 --samples x.png --shape 3x4", capsys).out
    assert "imputed     900 entries in 150 rows, by mode\n" in text
    frequent = sets["train"].mean(axis=0) > 0.5
    for name, X in sets.items():
        given = X[:50].astype(float)
        given[:, 6:] = np.nan
        filled = model.impute(given, random_state=0)
        right, baseline = ((X[:50] == Y)[:, 6:].mean() for Y in (filled, frequent))
        assert f"\n{name:12}{right:.2%} of 300 hidden entries are right; " in text
        assert f"by the most frequent value of each column in training rows {baseline:.2%}\n" in text
        assert right > baseline + 0.15
    rows = np.linspace(0, len(filled) - 1, 20).round().astype(int)  # from all over the split
    picture = images.grid(np.concatenate([sets["test"][rows], given[rows], filled[rows]]), (3, 4), columns=20)
    assert (np.asarray(Image.open("x.png")) == picture).all()
    run("impute fresh.safetensors gaps.csv --rows 7 --samples x.png --shape 3x4", capsys)
    given = with_gaps(sets["test"])[:7]
    picture = images.grid(np.concatenate([given, model.impute(given, random_state=0)]), (3, 4), columns=7)
    assert (np.asarray(Image.open("x.png")) == picture).all()


def test_rows_that_came_through_a_threshold_say_how_to_read_them(tmp_path, capsys):
    X = np.where(rows_of_twelve(100, 0) == 1, 9.0, 2.0)
    np.save(tmp_path / "x.npy", X)
    path, out = tmp_path / "m.safetensors", tmp_path / "y.csv"
    train("--threshold", 7, "--out", path, "--max-epochs", 2, data=tmp_path / "x.npy")
    X[:, 3] = np.nan
    np.save(tmp_path / "x.npy", X)
    text = run(f"impute {path} {tmp_path}/x.npy --out {out}", capsys).out
    assert "0/1; where the model has the threshold 7, give --threshold 0.5 with it\n" in text
    found = np.loadtxt(out, delimiter=",")
    assert (np.delete(found, 3, axis=1) == np.delete(X > 7, 3, axis=1)).all()
