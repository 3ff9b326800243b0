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

from made_fast import MADE, load
from made_fast.cli import files, fitting, images, main, options, report
from made_fast.estimators.ensemble import WEIGHTS
from made_fast.inference import queries
from made_fast.kernels.layout import ACTIVATIONS
from made_fast.kernels.optimizers import OPTIMIZERS
from made_fast.network.masks import DEGREE_RULES, DIRECT_CONNECTIONS, RESAMPLE
from made_fast.tables import datasets
from made_fast.training import recipe
from made_fast.training.run import FitRun

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
    data = datasets.load("digits")
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
    assert load(path).architecture.hidden_sizes == sizes
    assert f"model       {'-'.join(map(str, (64, *sizes, 64)))}{' relu' if sizes else ''}," in text


def test_every_option_reaches_the_estimator(tmp_path):
    path = tmp_path / "model.safetensors"
    given = {
        "activation": "softsign", "ordering": "natural", "degrees": "uniform", "optimizer": "rmsprop", "learning_rate": 0.002,
        "batch_size": 33, "max_epochs": 3, "patience": 2, "weight_init": "orthogonal", "dtype": "float64", "n_masks": 3,
        "resample": "connectivity", "n_eval_masks": 7, "n_val_masks": 2, "direct_connections": "all",
        "learning_rate_schedule": "cosine", "weight_decay": 0.1, "clip_norm": 2.5, "dropout": 0.25,
    }  # fmt: skip
    flags = {"direct_connections": "direct", "learning_rate_schedule": "schedule"}
    flags |= {f"n_{name}": name for name in ("masks", "eval_masks", "val_masks")}
    options = (word for name, value in given.items() for word in (f"--{flags.get(name, name).replace('_', '-')}", value))
    constants = ("--optimizer-param", "rho=0.8", "--optimizer-param", "eps=1e-4")
    train("--out", path, "--hidden", 20, 30, "--connectivity-weights", *constants, *options)
    given |= {"connectivity_weights": True, "hidden_sizes": [20, 30], "optimizer_params": {"rho": 0.8, "eps": 1e-4}}
    model = load(path)
    assert {name: model.hyper[name] for name in given} == given
    assert set(given) >= {*fitting.PARAMS, "hidden_sizes", "optimizer_params"}
    assert (model.architecture.direct, model.architecture.connectivity_weights, model.n_masks) == ("all", True, 3)
    assert model.architecture.activation == "softsign"
    assert model.dtype == np.float64
    assert list(model.masks.orderings[0]) == list(range(1, 65))


def test_names_and_defaults_are_those_of_the_package():
    assert set(options.ACTIVATIONS) == set(ACTIVATIONS[1:])
    assert set(options.OPTIMIZERS) == set(OPTIMIZERS)
    assert set(options.WEIGHT_INITS) == set(recipe.WEIGHT_INITS)
    assert (options.RESAMPLE, options.DIRECT, options.DEGREES) == (RESAMPLE, DIRECT_CONNECTIONS, DEGREE_RULES)
    assert (options.SCHEDULES, options.WEIGHTS, options.METHODS) == (recipe.SCHEDULES, WEIGHTS, queries.METHODS)
    assert options.parser().parse_args(["evaluate", "m", "digits"]).walks == queries.N_WALKS
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
    epoch = FitRun.epoch

    def run(self, good):
        if self.state.epoch == n_epochs:
            raise error
        return epoch(self, good)

    monkeypatch.setattr(FitRun, "epoch", run)


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
    assert (load(path).source.vector == load(tmp_path / "whole.safetensors").source.vector).all()


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
    monkeypatch.setattr(files, "CSV_ENTRIES", 7 * 64)  # in several steps
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
    assert facts["masks"] == "1"
    assert facts["direct connections"] == "none"
    assert facts["connectivity weights"] == "no"
    assert facts["ordering"].startswith(f"permutation {' '.join(map(str, model.masks.orderings[0, :8]))}")
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


# Masks


def rows_of_twelve(n, seed):
    """Draw rows of 12 inputs, 3 x 4: six coins, and the same six again but for one in ten."""
    rng = np.random.default_rng(seed)
    half = rng.random((n, 6)) < np.linspace(0.3, 0.7, 6)
    return np.hstack([half, half ^ (rng.random((n, 6)) < 0.1)]).astype(np.uint8)


TINY = ["--hidden", "32", "--max-epochs", "30", "--learning-rate", "0.01", "--quiet", "--seed", "0"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Return a folder with data of 12 inputs, complete and with gaps, and models of it."""
    folder = tmp_path_factory.mktemp("tiny")
    sets = {name: rows_of_twelve(n, n) for name, n in (("train", 600), ("valid", 101), ("test", 102))}
    np.savez(folder / "x.npz", **sets)
    gaps = {name: with_gaps(X) for name, X in sets.items()}
    np.savez(folder / "gaps.npz", **gaps)
    lines = [",".join(f"c{d}" for d in range(12))]
    lines += [",".join("" if np.isnan(x) else f"{x:.0f}" for x in row) for row in gaps["test"]]
    (folder / "gaps.csv").write_text("\n".join(lines) + "\n")
    models = {
        "one": ["x.npz", "--ordering", "natural"],
        "five": ["x.npz", "--masks", "5", "--direct", "output", "--connectivity-weights"],
        "fresh": ["gaps.npz", "--masks", "unlimited", "--eval-masks", "6", "--max-epochs", "60", "--direct", "output"],
    }
    for name, (data, *more) in models.items():
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert main(["train", f"{folder}/{data}", *TINY, *more, "--out", f"{folder}/{name}.safetensors"]) == 0
        (folder / f"{name}.out").write_text(out.getvalue())
    return folder


def with_gaps(X):
    """Return X with a quarter of its entries missing, in one of six patterns."""
    rng = np.random.default_rng(0)
    return np.where((rng.random((6, X.shape[1])) < 0.25)[rng.integers(6, size=len(X))], np.nan, X)


@pytest.fixture
def in_tiny(tiny, tmp_path, monkeypatch):
    """Go to a folder of its own with links to what ``tiny`` has."""
    monkeypatch.chdir(tmp_path)
    for path in tiny.iterdir():
        Path(path.name).symlink_to(path)


def run(command, capsys):
    """Run a command that succeeds; return what it prints, and says on standard error."""
    assert main(command.split()) == 0
    return capsys.readouterr()


def table(text, title):
    """Return the rows below a line that starts with the title, as cells by the first of them."""
    lines = text[text.index(f"\n{title}") + 1 :].split("\n\n")[0].splitlines()[1:]
    return {cells[0]: cells[1:] for cells in (re.split(r"\s{2,}", line.strip()) for line in lines)}


def shown(nll):
    return f"{nll.mean():.3f} ± {nll.std(ddof=1) / len(nll) ** 0.5:.3f}"


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
def test_without_matplotlib_a_plot_is_refused_with_the_way_out(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["evaluate", "five.safetensors", "x.npz", "--plot", "masks.png"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("made-fast: error: --plot needs matplotlib, which is not installed. Run: pip install 'made_fast[")
    assert err.count("\n") == 1


@pytest.mark.usefixtures("in_tiny")
def test_a_plot_of_incomplete_rows_is_refused(capsys):
    assert main(["evaluate", "five.safetensors", "gaps.npz", "--plot", "masks.png"]) == 2
    assert "--plot needs complete rows" in capsys.readouterr().err
    assert not Path("masks.png").exists()


def test_the_ticks_of_a_plot_do_not_stand_on_each_other(tmp_path):
    curve = {m: (90 - np.log(m), 0.1) for m in (1, 2, 4, 8, 16, 32, 64, 128, 256, 300)}
    images.save_curves(tmp_path / "x.png", {"test": curve, "one row": {1: (3.0, np.nan)}}, "some data")
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.format == "PNG"


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


# Checkpoints


@pytest.mark.usefixtures("in_tiny")
def test_resume_goes_on_to_the_bit(capsys):
    common = "train x.npz --masks unlimited --eval-masks 3 --hidden 20 --dropout 0.1 --quiet"
    whole = run(f"{common} --seed 5 --max-epochs 7 --out whole.safetensors", capsys).out
    run(f"{common} --seed 5 --max-epochs 4 --out half.safetensors --checkpoint c --checkpoint-every 3", capsys)
    resumed = run(f"{common} --max-epochs 7 --out resumed.safetensors --checkpoint c --resume", capsys).out
    assert Path("resumed.safetensors").read_bytes() == Path("whole.safetensors").read_bytes()
    assert scores(resumed) == scores(whole)
    course = r"training +epoch \d of 7 is the best, on from epoch 4, [\d.]+ s, [\d,]+ rows/s, \d+ threads?, seed 5\n"
    assert re.search(course, resumed)
    again = run(f"{common} --max-epochs 7 --out again.safetensors --checkpoint c --resume", capsys).out
    assert "on from epoch 7," in again
    assert Path("again.safetensors").read_bytes() == Path("whole.safetensors").read_bytes()


@pytest.mark.usefixtures("in_tiny")
def test_resume_refuses_what_the_checkpoint_does_not_go_with(capsys):
    common = ["train", "x.npz", "--max-epochs", "2", "--quiet", "--out", "m.safetensors", "--checkpoint", "c", "--seed", "1"]
    assert main([*common, "--resume"]) == 0  # nothing is there yet: it begins
    np.save("wide.npy", np.eye(16))
    for change, message in (
        (["--hidden", "20"], "c was made with hidden_sizes = [500], but the options say [20]. Repeat the options"),
        (["--masks", "3"], "n_masks = 1, but the options say 3"),
        (["--seed", "2"], "random_state = 1, but the options say 2"),
        (["--optimizer-param", "eps=0.1"], 'optimizer_params = null, but the options say {"eps": 0.1}'),
    ):
        assert main([*common, "--resume", *change]) == 2
        assert message in capsys.readouterr().err
    for data, message in (("wide.npy", "c is a checkpoint for 12 inputs, but wide.npy has 16."), ("gaps.npz", "got NaN")):
        assert main(["train", data, *common[2:], "--max-epochs", "4", "--resume"]) == 2
        assert message in capsys.readouterr().err
    Path("c").unlink()
    Path("c").write_bytes(b"x" * 100)
    assert main([*common, "--resume"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.usefixtures("in_tiny")
def test_a_fit_cut_short_can_go_on(monkeypatch, capsys):
    common, epoch = "train x.npz --hidden 20 --quiet --seed 5 --max-epochs 6 --checkpoint c --out", FitRun.epoch
    stop_after(3, KeyboardInterrupt(), monkeypatch)
    assert main([*common.split(), "m.safetensors"]) == 130
    assert capsys.readouterr().err.endswith("are saved in m.safetensors. To go on, add --resume.\n")
    monkeypatch.setattr(FitRun, "epoch", epoch)
    run(f"{common} m.safetensors --resume", capsys)
    run(f"{common} whole.safetensors", capsys)
    assert Path("m.safetensors").read_bytes() == Path("whole.safetensors").read_bytes()


# Missing entries


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
    monkeypatch.setattr("made_fast.inference.evidence.ENUMERATED", 2)
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


def test_a_model_of_one_mask_learns_from_gaps(tiny, tmp_path, capsys):
    path = tmp_path / "m.safetensors"
    assert main(["train", str(tiny / "gaps.csv"), *TINY, "--out", str(path), "--max-epochs", "5"]) == 0
    text, err = capsys.readouterr()
    assert "gaps: 12 inputs; 82 train, 10 valid, 10 test rows; " in text
    assert err == ""


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
    assert main(["train", str(tmp_path / "x.npy"), *TINY, "--threshold", "7", "--out", str(path), "--max-epochs", "2"]) == 0
    X[:, 3] = np.nan
    np.save(tmp_path / "x.npy", X)
    assert main(["impute", str(path), str(tmp_path / "x.npy"), "--out", str(out)]) == 0
    assert "0/1; where the model has the threshold 7, give --threshold 0.5 with it\n" in capsys.readouterr().out
    found = np.loadtxt(out, delimiter=",")
    assert (np.delete(found, 3, axis=1) == np.delete(X > 7, 3, axis=1)).all()


# ensemble


@pytest.mark.usefixtures("in_tiny")
@pytest.mark.parametrize("weights", ["equal", "em"])
def test_an_ensemble_is_a_file_for_every_command(weights, capsys):
    options = f"--members 3 --weights {weights} --masks 2 --hidden 16 --max-epochs 8 --learning-rate 0.01 --seed 0 --quiet"
    text = run(f"ensemble x.npz {options} --out e.safetensors --samples s.png --shape 3x4 --jobs 2", capsys).out
    model, sets = load("e.safetensors"), np.load("x.npz")
    found = table(text, "members")
    assert re.search(r"training +best epochs \d of 8, \d of 8, \d of 8, [\d.]+ s, \d+ threads?, seed 0\n", text)
    for m, (cells, weight) in enumerate(zip(found.values(), model.weights, strict=True)):
        assert cells == [f"{weight:.4f}", *(shown(-model.score_samples(X, member=m)) for X in sets.values())]
    assert list(found) == ["member 0", "member 1", "member 2"]
    assert (model.weights == 1 / 3).all() == (weights == "equal")
    for name, X in sets.items():
        assert scores(text)[name][1] == shown(-model.score_samples(X))
    assert (np.asarray(Image.open("s.png")) == images.grid(model.sample(100, 0), (3, 4))).all()
    again = run("evaluate e.safetensors x.npz", capsys).out
    assert (scores(again), table(again, "members")) == (scores(text), found)
    assert "ensemble of 3, " in again
    run("sample e.safetensors --out s.npy --seed 1 -n 20", capsys)
    assert (np.load("s.npy") == model.sample(20, 1)).all()
    run("impute e.safetensors gaps.csv --out x.npy --members 2", capsys)
    assert (np.load("x.npy") == model.impute(np.load("gaps.npz")["test"], n_members=2)).all()
    text = run("info e.safetensors", capsys).out
    assert re.search(rf"^  member 1 +weight {model.weights[1]:.4f}, 12-16-12 relu, 2 masks, ", text, re.M)
    assert re.search(rf'^  weights +"{weights}"$', text, re.M)
    assert re.search(r"^  n_masks +2$", text, re.M)
    assert main(["evaluate", "e.safetensors", "x.npz", "--plot", "x.png"]) == 2
    assert "e.safetensors is no model of several" in capsys.readouterr().err


@pytest.mark.usefixtures("in_tiny")
def test_an_ensemble_repeats_to_the_bit(capsys):
    options = "--members 2 --hidden 16 --max-epochs 3 --seed 4 --quiet"
    for name, more in (("a", "--jobs 1"), ("b", "--jobs 2 --threads 3")):
        run(f"ensemble gaps.npz {options} --out {name}.safetensors {more}", capsys)
    assert Path("a.safetensors").read_bytes() == Path("b.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (FloatingPointError("the loss became nan."), 2)], ids=["ctrl-c", "nan"]
)
@pytest.mark.usefixtures("in_tiny")
def test_an_ensemble_that_is_cut_short_is_not_saved(error, code, monkeypatch, capsys):
    stop_after(1, error, monkeypatch)
    assert main(["ensemble", "x.npz", "--members", "2", "--quiet", "--jobs", "1", "--out", "e.safetensors"]) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "Nothing was saved" in err
    assert not Path("e.safetensors").exists()


def test_a_threshold_stays_with_an_ensemble(real_csv, tmp_path, capsys):
    path = str(tmp_path / "e.safetensors")
    fractions = ["--valid-fraction", "0.1", "--test-fraction", "0.1"]
    assert main(["ensemble", str(real_csv), "--threshold", "0.7", *QUICK, "--members", "2", "--out", path]) == 0
    trained = capsys.readouterr().out
    assert main(["evaluate", path, str(real_csv), *fractions]) == 0
    assert scores(capsys.readouterr().out) == scores(trained)
    assert load(path).binarize == 0.7


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
        ("train digits --hidden none 5", "hidden_sizes[0] must be an int >= 1"),
        ("train digits --hidden" + 70 * " 5", "at most 63 layers"),
        ("train digits --hidden 99999999999", "hidden_sizes[0] must be an int >= 1 and at most 2147483647"),
        ("train digits --activation swish", "invalid choice: 'swish'"),
        ("train digits --ordering best", "invalid choice: 'best'"),
        ("train digits --learning-rate 0", "--learning-rate: must be > 0"),
        ("train digits --learning-rate nan", "must be a finite number, got 'nan'"),
        ("train digits --batch-size 0", "--batch-size: must be a whole number >= 1, got '0'"),
        ("train digits --max-epochs 1.5", "--max-epochs: must be a whole number >= 1, got '1.5'"),
        ("train digits --patience -1", "--patience"),
        ("train digits --masks 0", "--masks: must be a whole number >= 1 or 'unlimited', got '0'"),
        ("train digits --masks all", "--masks: must be a whole number >= 1 or 'unlimited', got 'all'"),
        ("train digits --resample none", "invalid choice: 'none'"),
        ("train digits --direct input", "invalid choice: 'input'"),
        ("train digits --schedule step", "invalid choice: 'step'"),
        ("train digits --optimizer-param rho", "--optimizer-param: must be NAME=X, rho=0.95 say, got 'rho'"),
        ("train digits --optimizer-param rho=x", "--optimizer-param: must be a finite number, got 'x'"),
        ("train digits --optimizer-param rho=0.9", "may have 'beta_1', 'beta_2', 'eps' with this optimizer, got 'rho'"),
        ("train digits --optimizer sgd --optimizer-param lr_decay=-1", "must be a finite number >= 0"),
        ("train digits --weight-decay -1", "--weight-decay: must be >= 0"),
        ("train digits --clip-norm 0", "--clip-norm: must be > 0"),
        ("train digits --dropout 1", "--dropout: must be in 0 <= F < 1"),
        ("train digits --resume", "--resume needs --checkpoint FILE"),
        ("train digits --checkpoint model.safetensors", "--checkpoint and --out must be two files"),
        ("train digits --checkpoint no/x", "cannot write no/x: No such file or directory"),
        (
            "train digits --checkpoint model.safetensors --out x.safetensors --resume",
            "model.safetensors: a file that is no checkpoint is there",
        ),
        ("ensemble digits --members 0", "--members: must be a whole number >= 1"),
        ("ensemble digits --weights best", "invalid choice: 'best'"),
        ("ensemble six.npy --weights em --valid-fraction 0", "--weights em needs validation rows"),
        ("ensemble digits --resume", "unrecognized arguments: --resume"),
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
        ("train nan.npy", "nan.npy must have an entry that is not missing"),
        ("train gaps.csv", "gaps.csv must hold only 0 and 1, got 3.0 at row 1, column 1"),
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
        ("evaluate model.safetensors nofile.csv", "nofile.csv: no such file"),
        ("evaluate model.safetensors digits --split all", "invalid choice: 'all'"),
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
        ("score nofile digits", "nofile: No such file"),
        ("score model.safetensors six.npy", "six.npy must have"),
        ("score model.safetensors digits --members 2", "--members must be at most 1"),
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


@pytest.mark.parametrize("command", ["", "train", "ensemble", "evaluate", "score", "sample", "impute", "info"])
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


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert re.fullmatch(r"made-fast \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_help_imports_nothing_heavy():
    code = f"import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); {SCRIPT}"
    done = subprocess.run([sys.executable, "-c", code, "train", "--help"], capture_output=True, text=True, check=True)
    assert "--hidden" in done.stdout
    assert "argparse" in done.stderr.split()
    assert not {"numpy", "sklearn", "numba", "tqdm", "PIL", "matplotlib", "joblib"} & set(done.stderr.split())


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
    assert re.search(rb"(?m)^made-fast: interrupted. The best parameters so far, those of epoch \d+, are saved in ", err)
    assert -load(path).score(datasets.load("digits").test) < 64 * np.log(2)  # however few epochs there were


# Pictures


def test_a_grid_shows_probabilities_and_gaps():
    picture = images.grid([[0.5, np.nan, 1.0]], (1, 3), scale=1)
    shade = round((images.INK + images.PAPER) / 2)
    assert abs(int(picture[images.GAP, images.GAP]) - shade) <= 1
    assert list(picture[images.GAP, images.GAP + 1 : images.GAP + 3]) == [images.UNKNOWN, images.INK]


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
