"""Names of columns on the command line: they go with the model, and other columns are refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from made_fast import load
from made_fast.cli import main
from made_fast.inference import modelfile

QUICK = "--hidden 8 --max-epochs 2 --quiet --seed 0"
NAMES = ["smokes", "is ill", "a,b", "d\x1b[31m"]
COMMANDS = ["evaluate", "score", "impute --hide 0:1 --out y.csv"]


def write(path, names, columns=(0, 1, 2, 3)):
    X = (np.random.default_rng(0).random((60, 4)) < (0.9, 0.1, 0.5, 0.3)).astype(int)
    lines = [",".join(map(str, row)) for row in X[:, list(columns)]]
    head = [",".join(f'"{name}"' for name in names)] if names else []
    Path(path).write_text("\n".join(head + lines) + "\n")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Go to a folder with one table in several forms."""
    monkeypatch.chdir(tmp_path)
    write("x.csv", NAMES)
    write("reversed.csv", NAMES[::-1], (3, 2, 1, 0))
    write("other.csv", [*NAMES[:3], "new"])
    write("none.csv", None)
    write("more.csv", ["id", *NAMES], (0, 0, 1, 2, 3))


@pytest.mark.parametrize("kind", ["train", "ensemble --members 2", "train --masks unlimited --eval-masks 2"])
def test_names_go_with_the_model_and_are_compared(kind, capsys):
    command, *options = kind.split()
    assert main([command, "x.csv", *options, *QUICK.split(), "--out", "m.safetensors"]) == 0
    assert load("m.safetensors").feature_names == tuple(NAMES)
    assert main(["info", "m.safetensors"]) == 0
    assert '"smokes", "is ill", "a,b", "d\\u001b[31m"\n' in capsys.readouterr().out
    for asked in COMMANDS:
        name, *options = asked.split()
        for data, code in (("x.csv", 0), ("none.csv", 0), ("more.csv --drop id", 0), ("reversed.csv", 2), ("other.csv", 2)):
            assert main([name, "m.safetensors", *data.split(), *options]) == code, (asked, data)
            err = capsys.readouterr().err
            if code:
                assert err.count("\n") == 1
                assert f"{data} must have the same columns, in the same order: " in err
                assert ("the order is another: column 0 is" if "reversed" in data else "unknown are 'new'") in err
    assert Path("y.csv").read_text().startswith('smokes,"is ill","a,b",')


def test_a_fit_does_not_go_on_under_other_names(capsys):
    common = f"train {{}} {QUICK} --checkpoint c --out {{}}"
    assert main(common.format("x.csv", "m.safetensors").split()) == 0
    shutil.copy("c", "kept")
    go_on = f"{common} --max-epochs 4 --resume"
    for data in ("reversed.csv", "other.csv"):
        assert main(go_on.format(data, "n.safetensors").split()) == 2
        assert "Give the data of the first run." in capsys.readouterr().err
    assert not Path("n.safetensors").exists()
    write("changed.csv", NAMES, (0, 1, 3, 2))
    assert main(go_on.format("changed.csv", "n.safetensors").split()) == 2
    assert "X must be what the fit began with" in capsys.readouterr().err
    assert Path("c").read_bytes() == Path("kept").read_bytes()
    assert main(go_on.format("x.csv", "n.safetensors").split()) == 0
    assert capsys.readouterr().err == ""
    assert load("n.safetensors").feature_names == tuple(NAMES)


def test_names_that_no_file_can_hold_do_not_cost_the_model(capsys, monkeypatch):
    def encode(names):
        if names is not None:
            raise ValueError("too long.")
        return {}

    monkeypatch.setattr(modelfile, "encode_names", encode)
    assert main(["train", "x.csv", *QUICK.split()]) == 0
    assert capsys.readouterr().err == "made-fast: note: the model does without names of columns: too long.\n"
    assert load("model.safetensors").feature_names is None


def test_the_base_of_the_indices_goes_with_the_model():
    Path("zero.svm").write_text("1 0:1 2:1\n0 1:1\n" * 20)
    Path("later.svm").write_text("1 1:1\n0 2:1\n" * 20)  # does not tell by itself
    assert main(f"train zero.svm {QUICK}".split()) == 0
    model = load("model.safetensors")
    assert model.hyper["index_base"] == 0
    assert main(["score", "model.safetensors", "later.svm", "--out", "y.npy"]) == 0
    assert (np.load("y.npy") == model.score_samples(np.array([[0, 1, 0], [0, 0, 1]] * 20))).all()
