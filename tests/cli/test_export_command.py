"""``made-fast export``: what it writes and prints of models of every kind, and what it refuses."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_cases import run
from helpers import random_latent, random_model
from onnx_cases import of_table, outputs
from table_cases import all_rows, context_frame, model_of

from made_fast import MixtureModel, load
from made_fast.cli import main
from made_fast.inference.onnx import export


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random_model(8, (8,), dtype="float32").save("one")


KINDS = {
    "one mask": lambda: random_model(8, (8,)),
    "masks": lambda: random_model(8, (8,), n_masks=3),
    "points": lambda: random_latent(8, (8,), 3),
    "members": lambda: MixtureModel([random_model(8, (8,), n_masks=3), random_latent(8, (8,), 3)], [0.2, 0.8]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_of_a_model_file_gives_what_the_model_gives(kind, capsys):
    KINDS[kind]().save("m")
    X = (np.random.default_rng(0).random((50, 8)) < 0.4).astype(float)
    out, err = run("export m --onnx m.onnx", capsys)
    found = outputs(onnx.load("m.onnx"), {"X": X})
    np.testing.assert_allclose(found["log_p"], load("m").score_samples(X), rtol=1e-12)
    n_parts = {"masks": "3, ", "members": "4, "}.get(kind, "")
    assert f'\ninputs      "X" double (N, 8)\noutputs     "log_p" double (N), "conditionals" double (N, {n_parts}8)\n' in out
    assert out.splitlines()[-1].startswith("onnx        m.onnx (")
    assert err == ""


@pytest.mark.parametrize("context", [False, True])
def test_a_table_has_an_input_for_each_column(context, capsys):
    model_of("digits, members", context=context).save("m")
    out, _ = run("export m --onnx m.onnx", capsys)
    X, given = all_rows(), context_frame(len(all_rows())) if context else None
    found = of_table(onnx.load("m.onnx"), X, given)
    np.testing.assert_allclose(found["log_p"], load("m").score_samples(X, context=given), rtol=1e-12)
    assert '\ninputs      "colour" string (N, 1), "flag" bool (N, 1), "size" int64 (N, 1), ' in out


def test_scores_alone(capsys):
    out, _ = run("export one --onnx m.onnx --scores-only", capsys)
    assert '\noutputs     "log_p" double (N)\n' in out
    assert [value.name for value in onnx.load("m.onnx").graph.output] == ["log_p"]


def test_names_cannot_send_control_codes_and_are_not_all_shown(capsys):
    import pandas as pd
    from table_cases import levels_model

    from made_fast.inference.tablemodel import TableModel
    from made_fast.tables.columns.encoder import Encoder
    from made_fast.tables.columns.learn import learn

    encoder = Encoder(learn(pd.DataFrame({"\x1b[31m": [0, 1, 2] * 9} | {f"c{d}": [0, 1] * 13 + [1] for d in range(12)})))
    TableModel(levels_model(encoder), encoder).save("m")
    out, _ = run("export m --onnx m.onnx", capsys)
    assert "\x1b" not in out
    assert '"\\u001b[31m" int64 (N, 1), "c0" int64' in out
    assert '"c8" int64 (N, 1) and 3 more\n' in out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("export one", "the following arguments are required: --onnx"),
        ("export --onnx m.onnx", "required: MODEL"),
        ("export one --onnx m.txt", "cannot write m.txt: the name must end in .onnx"),
        ("export one --onnx -", "the name must end in .onnx"),
        ("export one --onnx folder.onnx/", "it names a folder"),
        ("export one --onnx folder.onnx", "cannot write folder.onnx"),
        ("export one --onnx no/m.onnx", "cannot write no/m.onnx"),
        ("export copy.onnx --onnx copy.onnx", "--onnx must not be the MODEL file, got copy.onnx for both"),
        ("export copy.onnx --onnx link.onnx", "--onnx must not be the MODEL file"),
        ("export nofile --onnx m.onnx", "nofile: No such file"),
        ("export old.onnx --onnx m.onnx", "old.onnx: "),
    ],
)
def test_a_mistake_is_one_clear_line_and_changes_nothing(command, message, capsys):
    shutil.copy("one", "copy.onnx")
    Path("link.onnx").symlink_to("copy.onnx")
    Path("folder.onnx").mkdir()
    Path("old.onnx").write_bytes(random_model(2, ()).to_onnx().SerializeToString())
    assert_refused(command, message, capsys)


def test_what_the_graph_refuses_is_one_clear_line(capsys, monkeypatch):
    monkeypatch.setattr(export, "MOST_BYTES", 100)
    assert_refused("export one --onnx m.onnx", "the dense weights to export must have at most", capsys)


def test_without_onnx_a_line_says_what_to_install(capsys, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "onnx"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert_refused("export one --onnx m.onnx", "Run: pip install 'made_fast[onnx]'.", capsys)


def assert_refused(command, message, capsys):
    before = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    assert main(command.split()) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), message in err) == ("", 1, True), err
    assert {path: path.read_bytes() for path in Path().iterdir() if path.is_file()} == before
    assert not os.path.exists("m.onnx")
