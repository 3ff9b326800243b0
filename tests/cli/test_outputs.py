"""What commands write: never over what they still read, whole or not at all, under any name, tried before the work begins."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import random_model
from PIL import Image

from made_fast import load
from made_fast.cli import images, main
from made_fast.inference import tensorfile
from made_fast.tables.reading import datasets
from made_fast.training import checkpoint
from made_fast.training.run import FitRun

QUICK = "--hidden 8 --max-epochs 2 --quiet --seed 0"
STRANGE = os.fsdecode(b"caf\xe9")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Go to a folder with data of 6 inputs and a model of them that answers every question."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", rows())
    random_model(6, (8,), n_masks=None).save("m.safetensors")


def rows(n=80):
    return (np.random.default_rng(0).random((n, 6)) < 0.4).astype(np.uint8)


def run(command: str) -> int:
    return main(command.split())


def refused(command, capsys):
    """Run a command that is refused; return what it says."""
    assert run(command) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


# What is read


@pytest.mark.parametrize("dtype", ["int64", "uint8", "float32"])
@pytest.mark.parametrize("name", ["x.npy", "link.npy", "../here/x.npy"])
def test_an_imputed_table_may_take_the_place_of_its_data(dtype, name, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir("here")
    np.save("x.npy", rows(3000).astype(dtype))
    Path("link.npy").symlink_to("x.npy")
    command = "impute ../m.safetensors x.npy --hide 0:3 --shape 2x3 --samples {}.png --out {}"
    assert run(command.format("right", "other.npy")) == 0
    assert run(command.format("found", name)) == 0
    assert Path("found.png").read_bytes() == Path("right.png").read_bytes()
    assert (np.load("x.npy") == np.load("other.npy")).all()
    assert Path("link.npy").is_symlink()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train x.npy --out y.safetensors --checkpoint y.safetensors", "--checkpoint and --out must be two files"),
        ("train x.npy --out y.safetensors --checkpoint ./sub/../y.safetensors", "--checkpoint and --out must be two files"),
        ("train x.npy --out y.safetensors --checkpoint link", "--checkpoint and --out must be two files"),
        ("train x.npy --samples y.png --checkpoint y.png --shape 2x3", "--checkpoint and --samples must be two files"),
        ("train x.npy --checkpoint x.npy", "--checkpoint must not be the DATA file, got x.npy for both"),
        ("train link.npy --checkpoint x.npy", "--checkpoint must not be the DATA file"),
        ("train x.npy --checkpoint link.npy", "--checkpoint must not be the DATA file"),
        ("impute m.csv x.npy --hide 0:3 --out m.csv", "--out must not be the MODEL file"),
        ("impute m.png x.npy --hide 0:3 --samples m.png --shape 2x3", "--samples must not be the MODEL file"),
        ("evaluate m.png x.npy --plot m.png", "--plot must not be the MODEL file"),
        ("sample m.csv --out m.csv", "--out must not be the MODEL file"),
        ("score m.csv x.npy --out m.csv", "--out must not be the MODEL file"),
        ("score m.csv x.npy --out x.npy", "--out must not be the DATA file"),
        ("train x.npy --out x.safetensors/", "cannot write 'x.safetensors/': it names a folder"),
        ("train x.npy --out models.safetensors/.", "it names a folder"),
        ("train x.npy --checkpoint new/", "it names a folder"),
        ("train x.npy --checkpoint .", "it names a folder"),
        ("train x.npy --samples s.png/", "it names a folder"),
        ("sample m.csv --out y.csv/", "it names a folder"),
        ("train x.npy --checkpoint folder", "cannot write folder"),
        ("train x.npy --checkpoint m.csv", "m.csv: a file that is no checkpoint is there, and would be lost"),
        ("impute m.csv x.npz --split test --out x.npz --hide 0:1", "x.npz is DATA, of 100 rows, and would keep 20"),
        ("impute m.csv x.npy --rows 5 --out x.npy --hide 0:1", "x.npy is DATA, of 80 rows, and would keep 5"),
        ("impute m.csv id.csv --drop id --out id.csv", "would lose what is left out of it. Choose another --out."),
        ("impute m.csv y.npz --out y.npz", "would lose what is left out of it. Choose another --out."),
    ],
)
def test_outputs_are_files_of_their_own(command, message, capsys, monkeypatch):
    monkeypatch.setattr(FitRun, "start", lambda *_, **__: pytest.fail("it trained first"))
    for name in ("m.csv", "m.png"):
        shutil.copy("m.safetensors", name)
    np.savez("x.npz", train=rows(), test=rows(20))
    np.savez("y.npz", train=rows(), y=np.arange(80))
    Path("id.csv").write_text("id,a,b,c,d,e,f\n" + "".join(f"{i * i},0,1,0,1,0,1\n" for i in range(9)))
    Path("link.npy").symlink_to("x.npy")
    Path("link").symlink_to("y.safetensors")
    Path("folder").mkdir()
    before = {path.name: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    assert main(command.split()) == 2
    out, err = capsys.readouterr()
    assert (out, message in err) == ("", True)
    assert {path.name: path.read_bytes() for path in Path().iterdir() if path.is_file()} == before


def test_a_checkpoint_may_have_the_name_of_a_data_set_that_is_no_file():
    assert run(f"train digits {QUICK} --checkpoint digits") == 0
    assert Path("digits").is_file()


# Whole or not at all


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("impute m.safetensors x.npy --hide 0:3 --out", "x.npy"),
        ("impute m.safetensors x.npy --hide 0:3 --out", "y.csv"),
        ("sample m.safetensors --out", "y.csv"),
        ("sample m.safetensors --out", "y.npy"),
        ("sample m.safetensors --shape 2x3 --out", "y.png"),
        ("score m.safetensors x.npy --out", "y.csv"),
        ("score m.safetensors x.npy --out", "y.npy"),
        ("evaluate m.safetensors x.npy --plot", "y.png"),
        ("export m.safetensors --onnx", "y.onnx"),
    ],
)
def test_what_cannot_be_written_to_the_end_leaves_the_file_as_it_was(command, output, capsys, monkeypatch):
    if output != "x.npy":
        Path(output).write_text("as it was")
    before = {path.name: path.read_bytes() for path in Path().iterdir()}
    monkeypatch.setattr(os, "fsync", full)
    assert run(f"{command} {output}") == 2
    assert capsys.readouterr().err == f"made-fast: error: cannot write {output}: No space left on device.\n"
    assert {path.name: path.read_bytes() for path in Path().iterdir()} == before


def test_a_model_for_which_there_is_no_room_goes_elsewhere(tmp_path, capsys, monkeypatch):
    write, refuge = tensorfile.write, tmp_path / "refuge"
    refuge.mkdir()
    monkeypatch.setattr(tensorfile, "write", lambda path, *rest: write(path, *rest) if "refuge" in str(path) else full())
    monkeypatch.setattr("tempfile.tempdir", str(refuge))
    for command, code in (("train", 2), ("ensemble --members 2", 2)):
        assert run(f"{command} x.npy {QUICK} --out y.safetensors") == code
        out, err = capsys.readouterr()
        found = Path(err.split("The model is saved in ")[1].rstrip("\n."))
        assert err.startswith("made-fast: error: cannot write y.safetensors: No space left on device. The model is saved in ")
        assert (out, load(found).n_features_in) == ("", 6)
    monkeypatch.setattr(tensorfile, "write", full)
    assert refused(f"train x.npy {QUICK}", capsys).endswith("No space left on device. The model is lost.\n")


def test_a_checkpoint_for_which_there_is_no_room_does_not_cost_the_model(capsys, monkeypatch):
    write, calls = checkpoint.write, []
    monkeypatch.setattr(checkpoint, "write", lambda *args: calls.append(0) or (write if len(calls) < 3 else full)(*args))
    err = refused(f"train x.npy {QUICK} --max-epochs 9 --checkpoint c", capsys)
    assert err.startswith("made-fast: error: cannot write c: No space left on device. The best parameters so far, ")
    assert load("model.safetensors").hyper["best_epoch"] <= 3


def test_samples_that_cannot_be_drawn_leave_a_model_and_its_report(capsys, monkeypatch):
    monkeypatch.setattr(images, "save_png", full)
    assert run(f"train x.npy {QUICK} --samples s.png --shape 2x3") == 2
    out, err = capsys.readouterr()
    assert "\nmodel file  model.safetensors (" in out
    assert err == "made-fast: error: cannot write s.png: No space left on device.\n"
    assert load("model.safetensors").n_features_in == 6
    assert not Path("s.png").exists()


# Names


def test_names_that_are_no_text_work_everywhere(capsys):
    np.savez(f"{STRANGE}.npz", rows())
    np.save("$\\frac$.npy", rows())
    names = f"--out {STRANGE}.safetensors --samples {STRANGE}.png --shape 2x3 --checkpoint {STRANGE}.c"
    assert run(f"train {STRANGE}.npz {QUICK} {names}") == 0
    model = load(f"{STRANGE}.safetensors")
    assert model.hyper["data"].encode() == b"caf\\xe9"
    assert np.asarray(Image.open(f"{STRANGE}.png")).ndim == 2
    for command in (
        f"train {STRANGE}.npz {QUICK} {names} --resume",
        f"ensemble {STRANGE}.npz {QUICK} --members 2",
        f"evaluate m.safetensors {STRANGE}.npz --plot {STRANGE}.png",
        "evaluate m.safetensors $\\frac$.npy --plot y.png",  # dollars are no mathematics
        f"score {STRANGE}.safetensors {STRANGE}.npz --out {STRANGE}.csv",
        f"sample {STRANGE}.safetensors --out {STRANGE}.npy",
        f"impute {STRANGE}.safetensors {STRANGE}.npz --hide 0:3 --out {STRANGE}.txt",
        f"export {STRANGE}.safetensors --onnx {STRANGE}.onnx",
        f"info {STRANGE}.safetensors",
    ):
        assert run(command) == 0, command
    assert capsys.readouterr().err == ""


# impute


@pytest.mark.parametrize("method", ["mode", "mean"])
@pytest.mark.parametrize("suffix", ["csv", "txt", "npy", "npz"])
def test_a_table_without_gaps_comes_out_as_it_is(suffix, method, capsys):
    np.savetxt("full.csv", rows(), fmt="%d", delimiter=",")
    assert run(f"impute m.safetensors full.csv --method {method} --out y.{suffix}") == 0
    out, err = capsys.readouterr()
    assert "\nimputed     nothing: no entry of 80 rows is missing\noutput      y." in out
    assert err == ""
    if suffix == "csv":
        assert Path("y.csv").read_bytes() == Path("full.csv").read_bytes()
    if suffix in ("csv", "txt"):
        found = np.loadtxt(f"y.{suffix}", delimiter="," if suffix == "csv" else " ")
    else:
        found = np.load(f"y.{suffix}")
    assert ((found["train"] if suffix == "npz" else found) == rows()).all()


@pytest.mark.parametrize("suffix", ["csv", "txt"])
def test_the_header_that_was_read_is_written_again(suffix):
    names = ["a", "b c", "d,e;f", 'say "so"', "#1", "two\nlines"]
    header = ",".join('"' + name.replace('"', '""') + '"' for name in names)
    lines = [f"{i}," + ",".join(map(str, row)) for i, row in enumerate(rows())]
    lines[3] = lines[3][:-1]  # a gap
    Path("index.csv").write_text("\n".join([f",{header}", *lines]) + "\n")
    assert run(f"impute m.safetensors index.csv --out y.{suffix}") == 0
    found, before = datasets.load(f"y.{suffix}"), datasets.load("index.csv", missing=True)
    assert found.feature_names == before.feature_names == tuple(names)
    assert found.notes == ()
    assert (found.train == before.train)[~np.isnan(before.train)].all()


def test_a_pipe_line_fills_gaps():
    names = ["a", "b", "c", "d", "e", "f\xe9"]
    Path("x.csv").write_text("\n".join([",".join(names), "1,0,,1,0,1", "0,0,0,0,0,1", "1,1,1,1,,"]) + "\n", encoding="utf-8")
    done = shell("cat x.csv | made-fast impute m.safetensors - --out - | cat > y.csv", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["data", "model", "imputed", "output"]
    assert run("impute m.safetensors x.csv --out z.csv") == 0
    assert Path("y.csv").read_bytes() == Path("z.csv").read_bytes()


def test_names_that_are_numbers_say_how_to_read_them(capsys):
    np.savetxt("x.csv", rows(), fmt="%d", delimiter=",", header="3,1,2,5,6,7", comments="")
    assert run("impute m.safetensors x.csv --header yes --out y.csv") == 0
    assert "y.csv (1.0 kB): names that are numbers; to read them, give --header yes\n" in capsys.readouterr().out
    assert datasets.load("y.csv", header="yes").feature_names == ("3", "1", "2", "5", "6", "7")


def test_a_sparse_table_without_gaps_comes_out_as_it_is():
    text = "".join("1 " + " ".join(f"{d + 1}:1" for d in np.flatnonzero(row)) + "\n" for row in rows())
    Path("x.svm").write_text(text)
    assert run("impute m.safetensors x.svm --out y.npy") == 0
    assert (np.load("y.npy") == rows()).all()


# What changes nothing


@pytest.mark.parametrize(
    ("options", "note"),
    [
        ("--patience 3 --valid-fraction 0", "--patience has no effect: there are no validation rows"),
        ("--val-masks 3", "--val-masks has no effect: there is one mask"),
        ("--resample order", "--resample has no effect: there is one mask"),
        ("--eval-masks 5 --masks 2", "--eval-masks has no effect: --masks is not unlimited"),
        ("--hidden none --dropout 0.1", "--dropout has no effect: there is no hidden layer"),
        ("--checkpoint-every 3", "--checkpoint-every has no effect: there is no --checkpoint"),
        ("--index-base 1", "--index-base has no effect: x.npy is no LIBSVM file"),
        ("--header yes", "--header has no effect: x.npy is no text with a first line"),
        ("--checkpoint c --resume", "training begins anew with the checkpoint c: there is none yet"),
        ("--checkpoint old", "training begins anew with the checkpoint old: it is replaced; --resume would go on from it"),
    ],
)
def test_options_that_change_nothing_are_told_of(options, note, capsys):
    assert run(f"train x.npy {QUICK} --checkpoint old") == 0
    capsys.readouterr()
    assert run(f"train x.npy {QUICK} {options}") == 0
    assert capsys.readouterr().err == f"made-fast: note: {note}.\n"
    assert run(f"train x.npy {QUICK} --masks 2 --resample order --val-masks 2 --patience 3") == 0
    assert capsys.readouterr().err == ""


# Standard streams and the way in


def shell(command: str, **env: str) -> subprocess.CompletedProcess[str]:
    python = f"{sys.executable} -m made_fast"
    return subprocess.run(
        ["bash", "-c", command.replace("made-fast", python)], env=os.environ | env, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("redirect", ["2>&-", "2>/dev/full", "2> >(true)", "<&- >&- 2>&-"])
def test_a_training_needs_no_standard_stream(redirect):
    if "full" in redirect and not os.path.exists("/dev/full"):
        pytest.skip("Linux only")
    done = shell(f"made-fast train x.npy --hidden 8 --max-epochs 2 {redirect}")
    assert (done.returncode, done.stderr) == (0, "")
    assert load("model.safetensors").n_features_in == 6


@pytest.mark.parametrize(
    ("command", "written"),
    [
        (f"train x.npy {QUICK} --samples s.png --shape 2x3", ["model.safetensors", "s.png"]),
        ("impute m.safetensors x.npy --hide 0:3 --out y.csv --samples s.png --shape 2x3", ["y.csv", "s.png"]),
    ],
)
def test_who_does_not_read_the_report_gets_the_files(command, written):
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as nobody:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        process = [sys.executable, "-m", "made_fast", *command.split()]
        done = subprocess.run(process, stdout=nobody, stderr=subprocess.PIPE, env=environment, check=False)
    assert (done.returncode, done.stderr) == (141, b"")
    assert all(map(os.path.exists, written))


def test_where_standard_error_is_full_a_mistake_is_exit_code_2_all_the_same():
    if not os.path.exists("/dev/full"):
        pytest.skip("Linux only")
    assert shell("made-fast train nofile.npy 2>/dev/full").returncode == 2


@pytest.mark.parametrize(
    "command", ["sample m.safetensors", "score m.safetensors x.npy", "impute m.safetensors x.npy --out -"]
)
def test_rows_that_nobody_could_read_are_refused(command):
    done = shell(f"made-fast {command} >&-")
    assert done.returncode == 2
    assert done.stderr == "made-fast: error: cannot write the output: standard output is closed. Give --out FILE.\n"


@pytest.mark.parametrize("module", ["made_fast", "made_fast.cli"])
def test_the_package_runs_as_a_module(module):
    done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"made-fast \d+\.\d+\.\d+\n", done.stdout)


@pytest.mark.parametrize("name", ["MADE_FAST_KERNELS", "MADE_FAST_CPU"])
def test_an_environment_that_asks_for_what_is_not_there_is_one_line(name):
    done = shell("made-fast info m.safetensors", **{name: "nope"})
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("made-fast: error: the kernels cannot be loaded. ")
    assert name in done.stderr
    assert "got 'nope'" in done.stderr


def test_kernels_that_do_not_load_are_one_line(capsys, monkeypatch):
    monkeypatch.delattr("made_fast.kernels")
    monkeypatch.setitem(sys.modules, "made_fast.kernels", None)
    assert refused("info m.safetensors", capsys).startswith("made-fast: error: the kernels cannot be loaded. ")
