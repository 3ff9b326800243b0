"""Signals that end a command: what is kept, which exit code, and that nothing of it outlives the command."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from made_fast import load
from made_fast.cli import main, use
from made_fast.inference import modelfile, tensorfile
from made_fast.inference.mixture import MixtureModel
from made_fast.inference.model import MADEModel
from made_fast.system import signals
from made_fast.tables.reading import datasets
from made_fast.training.run import FitRun

SIGNALS = [signal.SIGTERM, signal.SIGHUP, signal.SIGINT]
every_signal = pytest.mark.parametrize("number", SIGNALS)
TRAIN = "train x.npy --hidden 8 --quiet --seed 0 --max-epochs"
ENSEMBLE = f"ensemble {TRAIN[6:]}"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Go to a folder with data; the handlers are those that a shell gives, before and after."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", (np.random.default_rng(0).random((80, 6)) < 0.4).astype(np.uint8))
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, default in signals.DEFAULTS.items():
        signal.signal(number, default)
    monkeypatch.setattr(signals, "SAME", 0.0)  # a test sends many
    yield
    assert {number: signal.getsignal(number) for number in SIGNALS} == signals.DEFAULTS
    for number, handler in before.items():
        signal.signal(number, handler)


def run(command: str) -> int:
    return main(command.split())


def sent(number, function, *, before=lambda *_: True):
    """Return the function, with a signal that comes when it is called."""

    def call(*args, **kwargs):
        if before(*args):
            os.kill(os.getpid(), number)
        return function(*args, **kwargs)

    return call


def from_epoch(n):
    return lambda run, good: run.state.epoch >= n


@every_signal
def test_train_saves_the_best_parameters_so_far(number, monkeypatch, capsys):
    assert run(f"{TRAIN} 3 --out whole.safetensors") == 0
    capsys.readouterr()
    monkeypatch.setattr(FitRun, "epoch", sent(number, FitRun.epoch, before=from_epoch(3)))
    assert run(f"{TRAIN} 9") == 128 + number
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("made-fast: interrupted. The best parameters so far, those of epoch ")
    assert err.endswith("are saved in model.safetensors.\n")
    assert (load("model.safetensors").source.vector == load("whole.safetensors").source.vector).all()


@every_signal
@pytest.mark.parametrize(
    ("command", "first"),
    [
        (f"{TRAIN} 9", signal.SIGTERM),
        (f"{TRAIN} 2", None),
        (f"{ENSEMBLE} 2 --members 2 --out model.safetensors", None),
    ],
)
def test_a_signal_amid_the_saving_waits_and_loses_no_model(command, first, number, monkeypatch, capsys):
    if first is not None:
        monkeypatch.setattr(FitRun, "epoch", sent(first, FitRun.epoch, before=from_epoch(2)))
    monkeypatch.setattr(tensorfile, "make_header", sent(number, tensorfile.make_header))
    assert run(command) == 128 + (first or number)
    assert "saved in model.safetensors" in capsys.readouterr().err
    assert load("model.safetensors").n_features_in == 6
    assert sorted(os.listdir()) == ["model.safetensors", "x.npy"]


@every_signal
def test_a_signal_while_a_checkpoint_is_written_leaves_the_last_one_and_a_model(number, monkeypatch):
    calls = []
    third = sent(number, tensorfile.make_header, before=lambda *_: calls.append(0) or len(calls) == 3)
    with monkeypatch.context() as patch:
        patch.setattr(tensorfile, "make_header", third)
        assert run(f"{TRAIN} 9 --checkpoint c") == 128 + number
    assert run(f"{TRAIN} 2 --checkpoint c --resume --out resumed.safetensors") == 0
    assert load("model.safetensors").hyper["best_epoch"] >= load("resumed.safetensors").hyper["best_epoch"]


@every_signal
@pytest.mark.parametrize(
    ("command", "owner", "name", "told"),
    [
        (f"{TRAIN} 2", datasets, "load", "made-fast: interrupted\n"),
        (f"{TRAIN} 2", MADEModel, "score_samples", "made-fast: interrupted. The model is saved in model.safetensors.\n"),
        (f"{ENSEMBLE} 9 --members 2 --jobs 1", FitRun, "epoch", "Nothing was saved"),
    ],
)
def test_a_command_that_is_ended_says_what_is_saved(command, owner, name, told, number, monkeypatch, capsys):
    before = from_epoch(1) if name == "epoch" else lambda *_: True
    monkeypatch.setattr(owner, name, sent(number, getattr(owner, name), before=before))
    assert run(command) == 128 + number
    out, err = capsys.readouterr()
    assert err == told if told.endswith("\n") else told in err
    assert out == "" or name != "load"
    assert os.path.exists("model.safetensors") == (name == "score_samples")


@every_signal
@pytest.mark.parametrize(
    ("command", "owner", "name"),
    [
        ("sample model.safetensors --out y.npy", MADEModel, "sample"),
        ("score model.safetensors x.npy --out y.csv", MADEModel, "score_samples"),
        ("evaluate model.safetensors x.npy", MADEModel, "score_samples"),
        ("impute model.safetensors x.npy --hide 0:3 --out x.npy", MADEModel, "impute"),
        ("info model.safetensors", modelfile, "decode"),
    ],
)
def test_other_commands_leave_nothing_half_written(command, owner, name, number, monkeypatch):
    assert run(f"{TRAIN} 1") == 0
    Path("y.csv").write_text("as it was")
    before = {path.name: path.read_bytes() for path in Path().iterdir()}
    monkeypatch.setattr(owner, name, sent(number, getattr(owner, name)))
    assert run(command) == 128 + number
    assert {path.name: path.read_bytes() for path in Path().iterdir()} == before


@every_signal
def test_lines_that_are_drawn_as_they_are_written_stay_whole_or_away(number, monkeypatch):
    assert run(f"{TRAIN} 1") == 0
    Path("y.csv").write_text("as it was")
    monkeypatch.setattr(use, "CSV_ENTRIES", 60)
    monkeypatch.setattr(MADEModel, "sample", sent(number, MADEModel.sample))
    assert run("sample model.safetensors -n 20000 --out y.csv") == 128 + number
    assert Path("y.csv").read_text() == "as it was" or len(Path("y.csv").read_text().splitlines()) == 20_000
    assert sorted(os.listdir()) == ["model.safetensors", "x.npy", "y.csv"]


@every_signal
def test_what_is_ignored_stays_ignored(number, monkeypatch):
    signal.signal(number, signal.SIG_IGN)
    monkeypatch.setattr(FitRun, "epoch", sent(number, FitRun.epoch))
    assert run(f"{TRAIN} 3") == 0
    assert signal.getsignal(number) is signal.SIG_IGN
    signal.signal(number, signals.DEFAULTS[number])


def test_a_handler_of_the_host_stays(monkeypatch):
    seen = []
    signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    monkeypatch.setattr(FitRun, "epoch", sent(signal.SIGTERM, FitRun.epoch))
    assert run(f"{TRAIN} 3") == 0
    assert seen == [signal.SIGTERM] * 3
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_on_another_thread_no_handler_is_touched():
    codes = []
    thread = threading.Thread(target=lambda: codes.append(run(f"{TRAIN} 1")))
    thread.start()
    thread.join()
    assert codes == [0]


def test_the_same_wish_twice_is_one(monkeypatch):
    monkeypatch.setattr(signals, "SAME", 60.0)
    with signals.raised():
        with pytest.raises(signals.Stopped, match="SIGHUP") as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
        monkeypatch.setattr(signals, "SAME", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signals.code_of(stop.value) == 129


@pytest.mark.parametrize(("number", "module"), [(signal.SIGTERM, "made_fast"), (signal.SIGHUP, "made_fast.cli")])
def test_a_real_training_that_is_told_to_end(number, module):
    command = [sys.executable, "-m", module, *f"{TRAIN} 999999 --patience 999999".replace("--quiet ", "").split()]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr.readline().startswith("epoch 1: ")
        process.send_signal(number)
        process.send_signal(number)
        err = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number
    assert "are saved in model.safetensors.\n" in err
    assert isinstance(load("model.safetensors"), MADEModel | MixtureModel)


def test_a_terminal_that_is_closed():
    command = [sys.executable, "-m", "made_fast", *f"{TRAIN} 999999 --patience 999999".replace("--quiet ", "").split()]
    process, terminal = pty.fork()
    if not process:
        os.execv(sys.executable, command)
    shown = b""
    while b"validation" not in shown:
        shown += os.read(terminal, 4096)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 128 + signal.SIGHUP
    assert load("model.safetensors").n_features_in == 6
