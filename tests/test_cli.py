"""The command line as its users meet it: what is printed, what is written, exit codes."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import random_model
from PIL import Image

from made_fast import MADE, cli, images, load, options, report, training
from made_fast.cli import main
from made_fast.datasets import load as load_data
from made_fast.kernels.layout import ACTIVATIONS
from made_fast.kernels.optimizers import OPTIMIZERS

QUICK = ["--hidden", "64", "--max-epochs", "40", "--learning-rate", "0.003", "--quiet"]
SCRIPT = "import sys; from made_fast.cli import main; sys.exit(main())"


def train(*args: object) -> str:
    """Train on digits, quickly, and return what was printed."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["train", "digits", *QUICK, *map(str, args)]) == 0
    return out.getvalue()


def scores(text: str) -> dict[str, list[str]]:
    """Return the table of scores: for each split its cells."""
    lines = text[text.index("NLL in nats") :].split("\n\n")[0].splitlines()[1:]
    return {cells[0]: cells[1:] for cells in (re.split(r"\s{2,}", line.strip()) for line in lines)}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Return a folder with a model of digits, a picture of samples, and what the training printed."""
    folder = tmp_path_factory.mktemp("digits")
    text = train("--out", folder / "model.safetensors", "--samples", folder / "samples.png", "--seed", 0)
    return folder, text


@pytest.fixture
def model_file(digits):
    return str(digits[0] / "model.safetensors")


# train


def test_train_beats_the_baseline_and_prints_what_it_did(digits):
    folder, text = digits
    assert "digits: 64 inputs (8 x 8); 1297 train, 250 valid, 250 test rows\n" in text
    model = load(folder / "model.safetensors")
    assert f"64-64-64 relu, {model.n_parameters:,} parameters, float32, random ordering\n" in text
    assert re.search(r"training +epoch \d+ of 40 is the best, [\d.]+ s, [\d,]+ rows/s, \d+ threads?, seed 0\n", text)
    assert re.search(r"model file +\S+model\.safetensors \([\d.]+ kB\)\nsamples +\S+samples\.png \([\d.]+ kB\)\n$", text)
    data = load_data("digits")
    p = (data.train.sum(axis=0) + 1) / (len(data.train) + 2)
    for name, (rows, made, bits, independent) in scores(text).items():
        X = getattr(data, name)
        nll, baseline = -model.score_samples(X), -np.where(X == 1, np.log(p), np.log(1 - p)).sum(axis=1)
        assert rows == str(len(X))
        assert made == f"{nll.mean():.3f} ± {nll.std(ddof=1) / np.sqrt(len(X)):.3f}"
        assert bits == f"{nll.mean() / 64 / np.log(2):.4f}"
        assert independent == f"{baseline.mean():.3f} ± {baseline.std(ddof=1) / np.sqrt(len(X)):.3f}"
    assert list(scores(text)) == ["train", "valid", "test"]
    assert -model.score(data.test) < baseline.mean() - 5


@pytest.mark.parametrize(("name", "figure"), [("adult", 25.772), ("dna_made", 100.388)])
def test_the_baseline_has_the_figures_of_the_data_sheet(name, figure, real_set):
    sets = real_set(name)
    assert report.independent_nll(sets["train"], sets["test"]).mean() == pytest.approx(figure, abs=5e-4)


def test_a_seed_repeats_the_run_to_the_bit_for_any_number_of_threads(tmp_path):
    def run(*more: object) -> tuple[object, ...]:
        path, png = tmp_path / "m.safetensors", tmp_path / "s.png"
        text = train("--hidden", 500, "--max-epochs", 5, "--out", path, "--samples", png, *more)
        return scores(text), path.read_bytes(), png.read_bytes()

    first = run("--seed", 0, "--threads", 1)
    assert run("--seed", 0, "--threads", 2) == run("--seed", 0, "--threads", 3) == run("--seed", 0) == first
    other = run("--seed", 1)
    assert all(mine != others for mine, others in zip(first, other, strict=True))


def test_a_run_without_seed_says_which_one_it_drew(tmp_path):
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    seed = re.search(r"seed (\d+)", train("--out", first, "--max-epochs", 2))[1]
    train("--out", second, "--max-epochs", 2, "--seed", seed)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("hidden", [["--hidden", "none"], ["--hidden"], ["--hidden", "20", "30", "10"]])
def test_hidden_layers(hidden, tmp_path):
    path = tmp_path / "model.safetensors"
    text = train("--out", path, *hidden)
    sizes = tuple(int(n) for n in hidden[1:] if n != "none")
    assert load(path).connectivity.hidden_sizes == sizes
    assert f"model       {'-'.join(map(str, (64, *sizes, 64)))}{' relu' if sizes else ''}," in text


def test_every_option_reaches_the_estimator(tmp_path):
    path = tmp_path / "model.safetensors"
    given = {
        "activation": "softsign", "ordering": "natural", "degrees": "uniform", "optimizer": "rmsprop", "learning_rate": 0.002,
        "batch_size": 33, "max_epochs": 3, "patience": 2, "weight_init": "glorot_normal", "dtype": "float64",
    }  # fmt: skip
    train("--out", path, *(word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", value)))
    model = load(path)
    assert {name: model.hyper[name] for name in given} == given
    assert model.activation == "softsign"
    assert model.theta.dtype == np.float64
    assert list(model.connectivity.ordering) == list(range(1, 65))


def test_names_and_defaults_are_those_of_the_package():
    assert set(options.ACTIVATIONS) == set(ACTIVATIONS[1:])
    assert set(options.OPTIMIZERS) == set(OPTIMIZERS)
    assert set(options.WEIGHT_INITS) == set(training.WEIGHT_INITS)
    args = vars(options.parser().parse_args(["train", "digits"]))
    assert tuple(args["hidden"]) == MADE().hidden_sizes
    own = {"hidden_sizes", "n_threads", "random_state", "verbose", "validation_fraction", "binarize"}
    defaults = {name: p.default for name, p in inspect.signature(MADE).parameters.items() if name not in own}
    assert args["learning_rate"] is None
    assert OPTIMIZERS["adam"].hyper[0] == defaults.pop("learning_rate")
    assert {name: args[name] for name in defaults} == defaults


@pytest.fixture
def real_csv(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "real.csv"
    np.savetxt(path, rng.random((200, 1)) + 0.3 * rng.random((200, 6)), fmt="%.3f", delimiter=",")
    return path


def test_real_values_go_through_the_threshold_then_and_later(real_csv, tmp_path, capsys):
    path = str(tmp_path / "model.safetensors")
    assert main(["train", str(real_csv), "--threshold", "0.7", "--out", path, *QUICK]) == 0
    trained = capsys.readouterr().out
    assert "160 train, 20 valid, 20 test rows; values > 0.7 are 1\n" in trained
    assert main(["evaluate", path, str(real_csv), "--valid-fraction", "0.1", "--test-fraction", "0.1"]) == 0
    assert scores(capsys.readouterr().out) == scores(trained)
    model, X = load(path), np.loadtxt(real_csv, delimiter=",")
    log_p = model.score_samples(X)
    model.binarize = None
    assert (log_p == model.score_samples(X > 0.7)).all()
    assert main(["info", path]) == 0
    assert "numbers; those > 0.7 count as 1" in capsys.readouterr().out


def test_without_validation_rows_the_last_epoch_is_kept(real_csv, tmp_path, capsys):
    path = str(tmp_path / "model.safetensors")
    fractions = ["--valid-fraction", "0", "--test-fraction", "0"]
    assert main(["train", str(real_csv), "--threshold", "0.7", *fractions, "--out", path, *QUICK]) == 0
    text = capsys.readouterr().out
    assert "6 inputs; 200 train rows;" in text
    assert "training    40 epochs, " in text
    assert list(scores(text)) == ["train"]


def test_progress_is_shown_on_stderr_unless_quiet(tmp_path, capsys):
    quick = [*QUICK[:-1], "--max-epochs", "2", "--out", str(tmp_path / "m.safetensors")]
    assert main(["train", "digits", *quick]) == 0
    assert "validation" in capsys.readouterr().err
    assert main(["train", "digits", *quick, "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def stop_after(n_epochs, error, monkeypatch):
    run_epoch = training.run_epoch

    def run(trainer, bits, batch_size, n_threads, number):
        if number > n_epochs:
            raise error
        return run_epoch(trainer, bits, batch_size, n_threads, number)

    monkeypatch.setattr(training, "run_epoch", run)


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (FloatingPointError("the loss became nan."), 2)], ids=["ctrl-c", "nan"]
)
def test_training_that_is_cut_short_keeps_the_best_parameters(error, code, monkeypatch, tmp_path, capsys):
    path = tmp_path / "model.safetensors"
    stop_after(3, error, monkeypatch)
    assert main(["train", "digits", *QUICK, "--out", str(path), "--seed", "0"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("made-fast: ")
    assert err.endswith(f"The best parameters so far, those of epoch 3, are saved in {path}.\n")
    assert err.count("\n") == 1
    assert load(path).hyper["best_epoch"] == 3
    monkeypatch.undo()
    train("--out", tmp_path / "whole.safetensors", "--max-epochs", 3, "--seed", 0)
    assert (load(path).theta == load(tmp_path / "whole.safetensors").theta).all()


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (FloatingPointError("the loss became nan."), 2)], ids=["ctrl-c", "nan"]
)
def test_nothing_is_saved_before_the_first_epoch_ends(error, code, monkeypatch, tmp_path, capsys):
    stop_after(0, error, monkeypatch)
    assert main(["train", "digits", *QUICK, "--out", str(tmp_path / "model.safetensors")]) == code
    assert capsys.readouterr().err.endswith("Nothing was saved: no epoch was finished.\n")
    assert list(tmp_path.iterdir()) == []


# evaluate, sample, info


def test_evaluate_prints_the_table_of_the_training(digits, model_file, capsys):
    assert main(["evaluate", model_file, "digits"]) == 0
    text = capsys.readouterr().out
    assert scores(text) == scores(digits[1])
    assert main(["evaluate", model_file, "digits", "--split", "test", "--threads", "1"]) == 0
    assert scores(capsys.readouterr().out) == {"test": scores(text)["test"]}


def test_evaluate_takes_one_row(model_file, tmp_path, capsys):
    np.save(tmp_path / "row.npy", np.zeros((1, 64), np.uint8))
    assert main(["evaluate", model_file, str(tmp_path / "row.npy")]) == 0
    assert "±" not in capsys.readouterr().out


def test_samples_are_the_same_in_every_format(digits, model_file, tmp_path, capsys, monkeypatch):
    X = load(model_file).sample(100, random_state=0)
    for suffix in ("npy", "csv", "png"):
        assert main(["sample", model_file, "--seed", "0", "--out", f"{tmp_path}/x.{suffix}"]) == 0
    assert capsys.readouterr() == ("", "")
    assert (np.load(tmp_path / "x.npy") == X).all()
    assert (np.loadtxt(tmp_path / "x.csv", delimiter=",", dtype=np.uint8) == X).all()
    assert (np.asarray(Image.open(tmp_path / "x.png")) == images.grid(X, (8, 8))).all()
    assert (tmp_path / "x.png").read_bytes() == (digits[0] / "samples.png").read_bytes()
    monkeypatch.setattr(cli, "CSV_ENTRIES", 7 * 64)  # in several steps
    assert main(["sample", model_file, "-n", "100", "--seed", "0", "--threads", "2"]) == 0
    assert capsys.readouterr().out == (tmp_path / "x.csv").read_text()


def test_samples_differ_without_a_seed(model_file, capsys):
    texts = []
    for _ in range(2):
        assert main(["sample", model_file, "-n", "5"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] != texts[1]
    assert re.fullmatch(r"(([01],){63}[01]\n){5}", texts[0])


def test_the_shape_of_pictures_is_remembered_or_given(tmp_path):
    data = tmp_path / "a.npy"
    path, png = str(tmp_path / "m.safetensors"), tmp_path / "x.png"
    np.save(data, np.random.default_rng(0).random((50, 6)) < 0.3)
    assert main(["train", str(data), "--shape", "3x2", "--out", path, *QUICK]) == 0
    for shape, more in (((3, 2), []), ((1, 6), ["--shape", "1x6"])):
        assert main(["sample", path, "--out", str(png), "--seed", "0", "-n", "7", *more]) == 0
        X = load(path).sample(7, random_state=0)
        assert (np.asarray(Image.open(png)) == images.grid(X, shape)).all()


def test_info_tells_what_the_file_holds(model_file, capsys):
    model = load(model_file)
    assert main(["info", model_file]) == 0
    network, training_run = capsys.readouterr().out.split("trained with\n")
    facts, hyper = (
        dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in part.splitlines()) for part in (network, training_run)
    )
    assert re.fullmatch(r"\S+model\.safetensors \([\d.]+ kB\)", facts["file"])
    assert facts["inputs"] == "64, 0/1 values"
    assert facts["activation"] == "relu"
    assert facts["hidden layers"] == "64"
    assert facts["degrees"] == "1..63"
    assert facts["ordering"].startswith(f"permutation {' '.join(map(str, model.connectivity.ordering[:8]))}")
    assert facts["parameters"].startswith(f"{model.n_parameters:,} ")
    assert facts["dtype"] == "float32"
    assert {name: json.loads(value) for name, value in hyper.items()} == model.hyper
    assert {"degrees", "optimizer", "learning_rate", "random_state", "best_epoch", "data"} <= set(hyper)


def test_what_a_stranger_wrote_into_a_file_is_shown_harmlessly(tmp_path, capsys):
    model = random_model(5, (4, 3))
    model.hyper = {"\x1b[31m": "\x1b]0;title\x07", "shape": [2, "x"]}
    model.save(tmp_path / "m.safetensors")
    assert main(["info", str(tmp_path / "m.safetensors")]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert main(["sample", str(tmp_path / "m.safetensors"), "--out", str(tmp_path / "x.png")]) == 2
    assert "needs --shape ROWSxCOLS" in capsys.readouterr().err


# Refusals


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
    np.save("row.npy", np.eye(6)[:1])
    np.save("words.npy", np.array([["a", "b"]]))
    Path("ragged.csv").write_text("0,1\n1\n")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "required: COMMAND"),
        ("paint", "invalid choice: 'paint'"),
        ("train", "required: DATA. See made-fast train --help."),
        ("train digits --frobnicate", "unrecognized arguments: --frobnicate"),
        ("train digits --hidden 0", "--hidden: must be a whole number >= 1, got '0'"),
        ("train --hidden 50 digits", "DATA goes before the options"),
        ("train digits --hidden none 5", "hidden_sizes[0] must be an int >= 1"),
        ("train digits --hidden" + 70 * " 5", "at most 63 layers"),
        ("train digits --hidden 99999999999", "not enough memory"),
        ("train digits --activation swish", "invalid choice: 'swish'"),
        ("train digits --ordering best", "invalid choice: 'best'"),
        ("train digits --learning-rate 0", "--learning-rate: must be > 0"),
        ("train digits --learning-rate nan", "must be a finite number, got 'nan'"),
        ("train digits --batch-size 0", "--batch-size: must be a whole number >= 1, got '0'"),
        ("train digits --max-epochs 1.5", "--max-epochs: must be a whole number >= 1, got '1.5'"),
        ("train digits --patience -1", "--patience"),
        ("train digits --threads 0", "--threads"),
        ("train digits --seed -1", "--seed: must be a whole number >= 0"),
        ("train digits --threshold x", "--threshold: must be a finite number"),
        ("train digits --valid-fraction 1", "--valid-fraction: must be in 0 <= F < 1"),
        ("train six.npy --valid-fraction 0.6 --test-fraction 0.6", "must keep at least 1 training row"),
        ("train row.npy", "must keep at least 1 training row"),
        ("train nofile.npz", "nofile.npz: no such file"),
        ("train text.foo", "text.foo must be"),
        ("train folder", "folder must be"),
        ("train two.npy", "Set a threshold (--threshold 0.5, say)"),
        ("train nan.npy", "got NaN at row 0, column 0"),
        ("train words.npy", "must hold numbers"),
        ("train ragged.csv", "ragged.csv cannot be read"),
        ("train digits --out x.bin", "cannot write x.bin: the name must end in .safetensors"),
        ("train digits --out no/x.safetensors", "cannot write no/x.safetensors: No such file or directory"),
        ("train digits --out taken.safetensors", "cannot write taken.safetensors: it is there already"),
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
        ("evaluate model.safetensors nofile.csv", "nofile.csv: no such file"),
        ("evaluate model.safetensors digits --split all", "invalid choice: 'all'"),
        ("sample nofile", "nofile: No such file"),
        ("sample model.safetensors -n 0", "-n/--n-samples: must be a whole number >= 1"),
        ("sample model.safetensors -n 99999999999999 --out x.npy", "not enough memory"),
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
        monkeypatch.setattr(training, "fit", lambda *_, **__: pytest.fail("it trained first"))
    before = sorted(os.listdir())
    assert main(command.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("made-fast: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert sorted(os.listdir()) == before


def test_a_split_that_is_not_there(model_file, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.eye(64))
    assert main(["evaluate", model_file, str(tmp_path / "x.npy"), "--split", "test"]) == 2
    assert "has no test rows, only train." in capsys.readouterr().err


def test_a_diverging_run_is_a_mistake_of_its_learning_rate(tmp_path, capsys):
    path = str(tmp_path / "m.safetensors")
    assert main(["train", "digits", *QUICK, "--learning-rate", "1e38", "--out", path]) == 2
    assert "Try a smaller learning_rate (now 1e+38)" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(model_file, monkeypatch):
    monkeypatch.setattr(report, "model_facts", lambda _: [][1])
    with pytest.raises(IndexError):
        main(["info", model_file])


def test_ctrl_c_elsewhere(model_file, monkeypatch, capsys):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "model_facts", interrupt)
    assert main(["info", model_file]) == 130
    assert capsys.readouterr().err == "made-fast: interrupted\n"


# Help, and the real thing


@pytest.mark.parametrize("command", ["", "train", "evaluate", "sample", "info"])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: made-fast {command}")
    assert f"  made-fast {command or 'train'} " in text[text.index("example") :]
    assert max(map(len, text.splitlines())) <= 105
    assert "None" not in text
    if command == "train":
        shown = re.findall(r"\(default:\s+([^)]+)\)", text)
        defaults = {"500", "relu", "random", "stratified", "float32", "adam", "the optimizer's own", "100", "200", "30", "0.1"}
        assert defaults <= set(shown)


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert re.fullmatch(r"made-fast \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_help_imports_nothing_heavy():
    code = f"import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); {SCRIPT}"
    done = subprocess.run([sys.executable, "-c", code, "train", "--help"], capture_output=True, text=True, check=True)
    assert "--hidden" in done.stdout
    assert "argparse" in done.stderr.split()
    assert not {"numpy", "sklearn", "numba", "tqdm", "PIL"} & set(done.stderr.split())


def test_a_pipe_that_closes_early_makes_no_noise(model_file):
    command = [sys.executable, "-c", SCRIPT, "sample", model_file, "-n", "200000", "--seed", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        first = process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
    assert re.fullmatch(rb"([01],){63}[01]\n", first)
    assert (process.returncode, err) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_a_full_disk_under_stdout_is_one_line(model_file):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", SCRIPT, "sample", model_file]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "made-fast: error: cannot write the output: No space left on device.\n")


def test_ctrl_c_in_a_real_training(tmp_path):
    path = tmp_path / "model.safetensors"
    script = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {SCRIPT}"  # a job may inherit none
    endless = ["train", "digits", "--max-epochs", "99999", "--patience", "99999", "--out", str(path)]
    process = subprocess.Popen([sys.executable, "-c", script, *endless], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with process:
        seen = b""
        while b"best: epoch" not in seen:
            line = os.read(process.stderr.fileno(), 4096)
            assert line, seen
            seen += line
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=10)
        finally:
            process.kill()
    assert (process.returncode, out) == (130, b"")
    assert re.search(rb"\nmade-fast: interrupted. The best parameters so far, those of epoch \d+, are saved in ", err)
    assert -load(path).score(load_data("digits").test) < 25


# Pictures


def test_a_grid_has_every_tile_in_its_place():
    X = np.random.default_rng(0).integers(0, 2, (5, 6))
    picture = images.grid(X, (3, 2), columns=2, scale=4)
    gap = images.GAP
    assert picture.dtype == np.uint8
    assert picture.shape == (3 * (12 + gap) + gap, 2 * (8 + gap) + gap)
    for i, x in enumerate(X):
        top, left = gap + i // 2 * (12 + gap), gap + i % 2 * (8 + gap)
        tile = picture[top : top + 12, left : left + 8]
        assert (tile == np.kron(np.where(x.reshape(3, 2), images.INK, images.PAPER), np.ones((4, 4)))).all()
        picture[top : top + 12, left : left + 8] = images.LINE
    assert (picture == images.LINE).all()


@pytest.mark.parametrize(("shape", "side"), [((8, 8), 593), ((28, 28), 593), ((100, 100), 1033)])
def test_a_grid_of_a_hundred_is_a_square_of_readable_size(shape, side):
    assert images.grid(np.zeros((100, shape[0] * shape[1]), bool), shape).shape == (side, side)


@pytest.mark.parametrize("X", [np.zeros((0, 4)), np.zeros(4), np.zeros((3, 5))])
def test_a_grid_refuses_what_does_not_fit(X):
    with pytest.raises(ValueError, match=r"X must have shape \(rows, 4\)"):
        images.grid(X, (2, 2))
