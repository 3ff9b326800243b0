"""``made-fast score``: a log-likelihood a row, in the order of the rows, for scripts to read."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from cli_cases import run
from helpers import random_model

from made_fast import load
from made_fast.cli import use


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Go to a folder with tables of 8 inputs and two models, one that answers all exactly, and one that has to estimate."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("made_fast.inference.pattern.ENUMERATED", 2)
    random_model(8, (8,), n_masks=None).save("fresh")
    random_model(8, (8,)).save("one")
    rng = np.random.default_rng(0)
    X = (rng.random((50, 8)) < 0.4).astype(np.uint8)
    np.save("x.npy", X)
    np.savez("x.npz", test=X[:10], train=X[10:], valid=X[5:8])
    gaps = np.where(rng.random(X.shape) < 0.3, np.nan, X)
    np.save("gaps.npy", gaps)
    lines = [",".join("" if np.isnan(x) else f"{x:g}" for x in row) for row in gaps]
    Path("gaps.csv").write_text("\n".join([",".join("abcdefgh"), *lines]) + "\n")


def score(command, capsys):
    return run(f"score {command}", capsys)


def read(text):
    """Return the columns of a table of text by their names."""
    names, rest = text.split("\n", 1)
    return dict(zip(names.split(","), np.loadtxt(io.StringIO(rest), delimiter=",", ndmin=2).T, strict=True))


@pytest.mark.parametrize("model", ["fresh", "one"])
def test_every_row_gets_the_number_that_the_model_gives(model, capsys, monkeypatch):
    monkeypatch.setattr(use, "LINES", 7)
    out, err = score(f"{model} x.npy", capsys)
    assert (list(read(out)), err) == (["log_p"], "")
    assert (read(out)["log_p"] == load(model).score_samples(np.load("x.npy"))).all()  # to the bit
    assert score(f"{model} x.npy --threads 1 --out -", capsys).out == out
    assert score(f"{model} x.npy --out y.csv", capsys) == ("", "")
    assert Path("y.csv").read_text() == out
    score(f"{model} x.npy --out y.npy", capsys)
    assert (np.load("y.npy") == read(out)["log_p"]).all()


def test_splits_come_one_after_the_other(capsys):
    X = np.load("x.npz")
    log_p = {name: load("one").score_samples(X[name]) for name in ("train", "valid", "test")}
    assert (read(score("one x.npz", capsys).out)["log_p"] == np.concatenate(list(log_p.values()))).all()
    assert (read(score("one x.npz --split valid", capsys).out)["log_p"] == log_p["valid"]).all()


@pytest.mark.parametrize("data", ["gaps.npy", "gaps.csv"])
def test_of_a_row_with_gaps_what_is_observed_is_scored(data, capsys):
    X = np.load("gaps.npy")
    found = score(f"fresh {data} --members 3", capsys)
    assert found.err == ""
    model, gaps = load("fresh"), np.isnan(X).any(axis=1)
    log_p = read(found.out)["log_p"]
    assert (log_p[gaps] == model.log_marginal(X[gaps], n_members=3)).all()
    assert (log_p[~gaps] == model.score_samples(X[~gaps])).all()  # whatever the other rows miss
    assert 0 < gaps.sum() < len(X)


def test_the_columns_depend_on_the_options_alone(capsys):
    X = np.load("gaps.npy")
    log_p, std = load("one").log_marginal(X, n_walks=40, return_std=True, random_state=0)
    out, err = score("one gaps.npy --walks 40", capsys)
    assert list(read(out)) == ["log_p"]
    assert err == f"made-fast: note: {np.count_nonzero(std)} of 50 rows are estimates; --std tells their standard errors.\n"
    out, err = score("one gaps.npy --walks 40 --std", capsys)
    assert err == ""
    assert (read(out)["log_p"] == log_p).all()
    assert (read(out)["std"] == std).all()
    assert (std == 0).any()
    assert (read(score("one x.npy --std", capsys).out)["std"] == 0).all()
    score("one gaps.npy --walks 40 --std --out y.npy", capsys)
    assert (np.load("y.npy") == np.column_stack([log_p, std])).all()
