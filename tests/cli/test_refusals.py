"""Mistakes are one clear line and exit code 2; the help; what ends a process."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_cases import QUICK, SCRIPT

from made_fast.cli import main, report
from made_fast.training.run import FitRun


@pytest.fixture
def wrong_files(model_file, tmp_path, monkeypatch):
    """Go to a folder with one wrong file of each kind, and a right model."""
    monkeypatch.chdir(tmp_path)
    Path("model.safetensors").write_bytes(Path(model_file).read_bytes())
    Path("short.safetensors").write_bytes(Path(model_file).read_bytes()[:5000])
    Path("foreign.safetensors").write_text("no model at all, but text of some length")
    Path("text.foo").write_text("0,1\n")
    Path("folder").mkdir()
    Path("taken.safetensors").mkdir()
    np.save("two.npy", np.full((30, 6), 2))
    np.save("nan.npy", np.full((30, 6), np.nan))
    np.save("six.npy", np.eye(6))
    np.save("eye.npy", np.eye(64))
    np.save("row.npy", np.eye(6)[:1])
    np.save("words.npy", np.array([["a", "b"]]))
    Path("ragged.csv").write_text("0,1\n1\n")
    Path("gaps.csv").write_text("0,\n1,3\n")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "required: COMMAND"),
        ("paint", "invalid choice: 'paint'"),
        ("train", "required: DATA. See made-fast train --help."),
        ("train digits --frobnicate", "unrecognized arguments: --frobnicate"),
        ("train digits --hidden 0", "--hidden: must be a whole number >= 1, got '0'"),
        ("train --hidden 50 digits", "DATA goes before the options"),
        ("train digits --hidden none 5", "--hidden[0] must be an int >= 1"),
        ("train digits --hidden" + 70 * " 5", "at most 63 layers"),
        ("train digits --hidden 99999999999", "--hidden[0] must be an int >= 1 and at most 2147483647"),
        ("train digits --activation swish", "invalid choice: 'swish'"),
        ("train digits --learning-rate 0", "--learning-rate: must be > 0"),
        ("train digits --learning-rate nan", "must be a finite number, got 'nan'"),
        ("train digits --batch-size 0", "--batch-size: must be a whole number >= 1, got '0'"),
        ("train digits --max-epochs 1.5", "--max-epochs: must be a whole number >= 1, got '1.5'"),
        ("train digits --masks 0", "--masks: must be a whole number >= 1 or 'unlimited', got '0'"),
        ("train digits --masks all", "--masks: must be a whole number >= 1 or 'unlimited', got 'all'"),
        ("train digits --optimizer-param rho", "--optimizer-param: must be NAME=X, rho=0.95 say, got 'rho'"),
        ("train digits --optimizer-param rho=x", "--optimizer-param: must be a finite number, got 'x'"),
        ("train digits --optimizer-param rho=0.9", "may have 'beta_1', 'beta_2', 'eps' with this optimizer, got 'rho'"),
        ("train digits --optimizer sgd --optimizer-param lr_decay=-1", "must be a finite number >= 0"),
        ("train digits --weight-decay -1", "--weight-decay: must be >= 0"),
        ("train digits --clip-norm 0", "--clip-norm: must be > 0"),
        ("train digits --dropout 1", "--dropout: must be in 0 <= F < 1"),
        ("train digits --resume", "--resume needs --checkpoint FILE"),
        ("train digits --checkpoint no/x", "cannot write no/x: No such file or directory"),
        (
            "train digits --checkpoint model.safetensors --out x.safetensors --resume",
            "model.safetensors: a file that is no checkpoint is there",
        ),
        ("ensemble digits --weights best", "invalid choice: 'best'"),
        ("ensemble six.npy --weights em --valid-fraction 0", "--weights em needs validation rows"),
        ("ensemble digits --resume", "unrecognized arguments: --resume"),
        ("train digits --seed -1", "--seed: must be a whole number >= 0"),
        ("train digits --threshold x", "--threshold: must be a finite number"),
        ("train digits --valid-fraction 1", "--valid-fraction: must be in 0 <= F < 1"),
        ("train six.npy --valid-fraction 0.6 --test-fraction 0.6", "must keep at least 1 training row"),
        ("train row.npy", "must keep at least 1 training row"),
        ("train nofile.npz", "nofile.npz: no such file"),
        ("train text.foo", "text.foo must be"),
        ("train folder", "folder must be"),
        ("train two.npy", "Set a threshold (--threshold 0.5, say)"),
        ("train nan.npy", "nan.npy must have an entry that is not missing"),
        ("train gaps.csv --kind binary", "gaps.csv must hold only 0 and 1, got 3.0 at row 1, column 1"),
        ("train words.npy", "must hold numbers"),
        ("train ragged.csv", "ragged.csv cannot be read"),
        ("train digits --out x.bin", "cannot write x.bin: the name must end in .safetensors"),
        ("train digits --out no/x.safetensors", "cannot write no/x.safetensors: No such file or directory"),
        ("train digits --out taken.safetensors", "cannot write taken.safetensors: a folder or device is there"),
        ("train digits --samples x.jpg", "cannot write x.jpg: the name must end in .png"),
        ("train six.npy --samples x.png", "a picture of 6 inputs needs --shape"),
        ("train six.npy --shape 2x2", "--shape must have 6 entries"),
        ("train digits --shape 8", "--shape: must be ROWSxCOLS"),
        ("evaluate model.safetensors", "required: DATA"),
        ("evaluate nofile digits", "nofile: No such file or directory"),
        ("evaluate folder digits", "folder: Is a directory"),
        ("evaluate foreign.safetensors digits", "foreign.safetensors: "),
        ("evaluate short.safetensors digits", "short.safetensors: "),
        ("evaluate model.safetensors six.npy", "six.npy must have"),
        ("evaluate model.safetensors digits --split all", "invalid choice: 'all'"),
        ("evaluate model.safetensors eye.npy --split test", "has no test rows, only train."),
        ("evaluate model.safetensors digits --plot x.pdf", "the name must end in .png"),
        ("evaluate model.safetensors digits --plot x.png", "model.safetensors is no model of several"),
        ("evaluate model.safetensors digits --members 2", "--members must be at most 1"),
        ("impute model.safetensors digits", "nothing to write: give --out FILE, --samples FILE.png or --hide A:B."),
        ("impute model.safetensors digits --hide 0:8 --shape 8x8", "--shape is for pictures: give --samples FILE.png"),
        ("impute model.safetensors digits --out x.foo", "the name must end in .npz or .npy or .csv or .txt"),
        ("impute model.safetensors digits --out x.csv --hide 0:8", "x.csv holds one table, not train, valid, test"),
        ("impute model.safetensors digits --hide 8:8", "--hide: must be A:B with A < B"),
        ("impute model.safetensors digits --hide 8", "--hide: must be A:B with A < B, 392:784 say, got '8'"),
        ("impute model.safetensors digits --hide 8:65", "--hide must name columns of the 64 there are, 0:64 at most"),
        ("impute model.safetensors digits --hide 0:8 --rows 0", "--rows: must be a whole number >= 1"),
        ("impute model.safetensors digits --hide 0:8 --members 2", "trained with --masks unlimited answers by as many"),
        ("impute model.safetensors digits --hide 0:8 --samples x.png --shape 2x2", "--shape must have 64 entries"),
        ("impute model.safetensors six.npy --out x.csv", "six.npy must have"),
        ("score model.safetensors digits --walks 99999999999", "--walks must be an int >= 1 and at most"),
        ("score model.safetensors digits --out x.txt", "cannot write x.txt: the name must end in .csv or .npy"),
        ("sample nofile", "nofile: No such file"),
        ("sample model.safetensors -n 0", "-n/--n-samples: must be a whole number >= 1"),
        ("sample model.safetensors -n 99999999999999 --out x.npy", "not enough memory"),
        ("sample model.safetensors --shape 8x8", "--shape is for pictures: give --out FILE.png"),
        ("sample model.safetensors --out x.txt", "the name must end in .npy or .csv or .png"),
        ("sample model.safetensors --out no/x.csv", "cannot write no/x.csv"),
        ("sample model.safetensors --out x.png --shape 2x2", "--shape must have 64 entries"),
        ("info two.npy", "two.npy: "),
        ("info", "required: MODEL"),
    ],
)
@pytest.mark.usefixtures("wrong_files")
def test_a_mistake_is_one_clear_line_and_exit_code_2(command, message, capsys, monkeypatch):
    if "memory" not in message:
        monkeypatch.setattr(FitRun, "start", lambda *_, **__: pytest.fail("it trained first"))
    before = sorted(os.listdir())
    assert main(command.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("made-fast: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert sorted(os.listdir()) == before


def test_a_diverging_run_is_a_mistake_of_its_learning_rate(tmp_path, capsys):
    path = str(tmp_path / "m.safetensors")
    assert main(["train", "digits", *QUICK, "--learning-rate", "1e38", "--out", path]) == 2
    assert "Try a smaller learning_rate (now 1e+38)" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt, IndexError])
def test_a_bug_keeps_its_traceback_and_ctrl_c_is_one_line(error, model_file, monkeypatch, capsys):
    monkeypatch.setattr(report, "model_facts", lambda _: (_ for _ in ()).throw(error))
    with contextlib.nullcontext() if error is KeyboardInterrupt else pytest.raises(error):
        assert main(["info", model_file]) == 130
    assert capsys.readouterr().err == ("made-fast: interrupted\n" if error is KeyboardInterrupt else "")


# Help, and the real thing


@pytest.mark.parametrize("command", ["", "train", "ensemble", "evaluate", "score", "sample", "impute", "export", "info"])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: made-fast {command}")
    assert f"  made-fast {command or 'train'} " in text[text.index("example") :]
    assert max(map(len, text.splitlines())) <= 105
    assert "default: None" not in text
    if command == "train":
        shown = re.findall(r"\(default:\s+([^)]+)\)", text)
        defaults = {"500", "relu", "random", "stratified", "float32", "adam", "the optimizer's own", "100", "200", "30", "0.1"}
        assert defaults <= set(shown)


def test_help_imports_nothing_heavy():
    code = f"import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); {SCRIPT}"
    done = subprocess.run([sys.executable, "-c", code, "train", "--help"], capture_output=True, text=True, check=True)
    assert "--hidden" in done.stdout
    assert "argparse" in done.stderr.split()
    assert not {"numpy", "sklearn", "numba", "tqdm", "PIL", "matplotlib", "joblib"} & set(done.stderr.split())


@pytest.mark.parametrize(
    ("command", "first"), [("sample {} -n 200000 --seed 0", rb"([01],){63}[01]\n"), ("score {} many.npy", rb"log_p\n")]
)
def test_a_reader_that_goes_away_makes_no_noise(command, first, model_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("many.npy", np.zeros((200_000, 64), np.uint8))
    command = [sys.executable, "-c", SCRIPT, *command.format(model_file).split()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert re.fullmatch(first, process.stdout.readline())
        process.stdout.close()
        err = process.stderr.read()
    assert (process.returncode, err) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_a_full_disk_under_stdout_is_one_line(model_file):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", SCRIPT, "sample", model_file]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "made-fast: error: cannot write the output: No space left on device.\n")
