"""The commands that fit, train and ensemble: what they print and write, checkpoints, fits that end early."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_cases import QUICK, SCRIPT, TINY, run, scores, shown, stop_after, table, train
from PIL import Image

from made_fast import MADE, load
from made_fast.cli import images, main, options, report
from made_fast.inference import tensorfile
from made_fast.kernels.layout import ACTIVATIONS
from made_fast.kernels.optimizers import OPTIMIZERS
from made_fast.tables import choices
from made_fast.tables.reading import datasets
from made_fast.training.hyper import HYPER


def test_train_beats_the_baseline_and_prints_what_it_did(digits):
    folder, text = digits
    assert "digits: 64 inputs (8 x 8); 1297 train, 250 valid, 250 test rows\n" in text
    model = load(folder / "model.safetensors")
    assert f"64-64-64 relu, direct connections (output), {model.n_parameters:,} parameters, float32, random ordering\n" in text
    assert re.search(r"training +epoch \d+ of 40 is the best, [\d.]+ s, [\d,]+ rows/s, \d+ threads?, seed 0\n", text)
    assert re.search(r"model file +\S+model\.safetensors \([\d.]+ kB\)\nsamples +\S+samples\.png \([\d.]+ kB\)\n$", text)
    data = datasets.load("digits")
    p = (data.train.sum(axis=0) + 1) / (len(data.train) + 2)
    for name, (rows, made, bits, independent) in scores(text).items():
        X = getattr(data, name)
        nll, baseline = -model.score_samples(X), -np.where(X == 1, np.log(p), np.log(1 - p)).sum(axis=1)
        assert rows == str(len(X))
        assert (made, bits, independent) == (shown(nll), f"{nll.mean() / 64 / np.log(2):.4f}", shown(baseline))
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
        "bias_init": "zeros", "averaging": 0.5,
    }  # fmt: skip
    options = (word for name, value in given.items() for word in (HYPER[name].option.flag, value))
    constants = ("--optimizer-param", "rho=0.8", "--optimizer-param", "eps=1e-4")
    train("--out", path, "--hidden", 20, 30, "--connectivity-weights", *constants, *options)
    given |= {"connectivity_weights": True, "hidden_sizes": [20, 30], "optimizer_params": {"rho": 0.8, "eps": 1e-4}}
    model = load(path)
    assert {name: model.hyper[name] for name in given} == given
    of_tables = {name for name, about in HYPER.items() if about.option and about.option.group == "columns"}
    # points take one mask
    assert {*given, "latent_points"} | of_tables == {name for name, about in HYPER.items() if about.option}
    a = model.architecture
    assert (a.direct, a.connectivity_weights, a.activation) == ("all", True, "softsign")
    assert (model.n_masks, model.dtype) == (3, np.float64)
    assert list(model.masks.orderings[0]) == list(range(1, 65))


def test_names_and_defaults_are_those_of_the_package():
    assert ACTIVATIONS[1:] == choices.ACTIVATIONS
    assert set(choices.OPTIMIZERS) == set(OPTIMIZERS)
    args = vars(options.parser().parse_args(["train", "digits"]))
    assert OPTIMIZERS["adam"].constants[0] == MADE().learning_rate
    assert {name: args[name] for name in HYPER if name in args} == {
        name: None if about.option.unset else about.option.default or getattr(MADE(), name)
        for name, about in HYPER.items()
        if about.option
    }
    assert [name for name, about in HYPER.items() if about.option and about.option.default] == ["handle_unknown"]


@pytest.mark.parametrize("command", ["train", "ensemble --members 2"])
def test_real_values_go_through_the_threshold_then_and_later(command, real_csv, tmp_path, capsys):
    path, data = str(tmp_path / "model.safetensors"), str(real_csv)
    trained = run(f"{command} {data} --threshold 0.7 --out {path} {' '.join(QUICK)}", capsys).out
    assert "160 train, 20 valid, 20 test rows; values > 0.7 are 1\n" in trained
    again = run(f"evaluate {path} {data} --valid-fraction 0.1 --test-fraction 0.1", capsys).out
    assert scores(again) == scores(trained)
    model, X = load(path), np.loadtxt(real_csv, delimiter=",")
    assert model.binarize == 0.7
    assert (model.score_samples(X) == model.with_input(None).score_samples(X > 0.7)).all()
    assert "numbers; those > 0.7 count as 1" in run(f"info {path}", capsys).out


def test_without_validation_rows_the_last_epoch_is_kept(real_csv, tmp_path, capsys):
    options = f"--threshold 0.7 --valid-fraction 0 --test-fraction 0 --out {tmp_path}/m.safetensors {' '.join(QUICK)}"
    text = run(f"train {real_csv} {options}", capsys).out
    assert "6 inputs; 200 train rows;" in text
    assert "training    40 epochs, " in text
    assert list(scores(text)) == ["train"]


def test_progress_is_shown_on_stderr_unless_quiet(tmp_path, capsys):
    quick = [*QUICK[:-1], "--max-epochs", "2", "--out", str(tmp_path / "m.safetensors")]
    assert main(["train", "digits", *quick]) == 0
    assert "validation" in capsys.readouterr().err
    assert main(["train", "digits", *quick, "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_a_model_of_one_mask_learns_from_gaps(tiny, tmp_path, capsys):
    options = f"{' '.join(TINY)} --max-epochs 5 --out {tmp_path}/m.safetensors"
    text, err = run(f"train {tiny}/gaps.csv {options}", capsys)
    assert "gaps: 12 inputs; 82 train, 10 valid, 10 test rows; " in text
    assert err == ""


# Cut short


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (FloatingPointError("the loss became nan."), 2)], ids=["ctrl-c", "nan"]
)
@pytest.mark.parametrize(
    ("command", "epochs", "end"),
    [
        ("train", 3, r"The best parameters so far, those of epoch 3, are saved in m\.safetensors\."),
        ("train", 0, r"Nothing was saved: no epoch was finished\."),
        ("ensemble --members 2 --jobs 1", 1, r"Nothing was saved(: the ensemble was not complete)?\."),
    ],
)
def test_a_fit_that_is_cut_short_keeps_the_best_parameters(command, epochs, end, error, code, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        stop_after(epochs, error, patch)
        assert main(f"{command} digits --out m.safetensors --seed 0 {' '.join(QUICK)}".split()) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(f"made-fast: .*{end}\n", err)
    assert os.listdir() == ["m.safetensors"] * (epochs == 3)
    if epochs == 3:
        train("--out", "whole.safetensors", "--max-epochs", 3, "--seed", 0)
        cut, whole, X = load("m.safetensors"), load("whole.safetensors"), datasets.load("digits").test
        assert cut.hyper["best_epoch"] == 3
        assert (cut.score_samples(X) == whole.score_samples(X)).all()


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
        (["--hidden", "20"], "c was made with --hidden = [500], but the options say [20]. Repeat the options"),
        (["--masks", "3"], "--masks = 1, but the options say 3"),
        (["--seed", "2"], "--seed = 1, but the options say 2"),
        (["--bias-init", "zeros"], '--bias-init = "marginals", but the options say "zeros"'),
        (["--optimizer-param", "eps=0.1"], '--optimizer-param = null, but the options say {"eps": 0.1}'),
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
def test_resume_without_an_option_that_its_version_did_not_have(capsys):
    """Old checkpoints began with biases at 0; the options that wrote them are all that their resuming takes."""
    common, old = "train x.npz --hidden 20 --quiet --seed 5", "--bias-init zeros --averaging 0"
    run(f"{common} {old} --max-epochs 4 --out whole.safetensors", capsys)
    run(f"{common} {old} --max-epochs 2 --out half.safetensors --checkpoint c", capsys)
    resume = f"{common} --max-epochs 4 --out resumed.safetensors --checkpoint c --resume"
    assert main(resume.split()) == 2  # this version wrote what it was told, and holds the user to it
    assert '--bias-init = "zeros", but the options say "marginals"' in capsys.readouterr().err
    tensors, metadata = tensorfile.read("c")
    text = json.loads(tensors["text"].tobytes())
    for name in ("bias_init", "averaging", "latent_points"):
        del text["about"]["params"][name]
    tensors["text"] = np.frombuffer(json.dumps(text).encode(), np.uint8)
    tensorfile.write("c", tensors, metadata)
    run(resume, capsys)
    assert Path("resumed.safetensors").read_bytes() == Path("whole.safetensors").read_bytes()


@pytest.mark.usefixtures("in_tiny")
def test_a_fit_cut_short_can_go_on(monkeypatch, capsys):
    common = "train x.npz --hidden 20 --quiet --seed 5 --max-epochs 6 --checkpoint c --out"
    with monkeypatch.context() as patch:
        stop_after(3, KeyboardInterrupt(), patch)
        assert main([*common.split(), "m.safetensors"]) == 130
    assert capsys.readouterr().err.endswith("are saved in m.safetensors. To go on, add --resume.\n")
    run(f"{common} m.safetensors --resume", capsys)
    run(f"{common} whole.safetensors", capsys)
    assert Path("m.safetensors").read_bytes() == Path("whole.safetensors").read_bytes()


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
    assert re.search(
        rf"^  member 1 +weight {model.weights[1]:.4f}, 12-16-12 relu, direct connections \(output\), 2 masks, ", text, re.M
    )
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


@pytest.mark.usefixtures("in_tiny")
def test_the_best_preset_searches_and_says_what_it_chose(capsys):
    common = "ensemble x.npz --preset best --hidden 5 --patience 2 --members 2 --seed 1 --refit"
    done = run(f"{common} --time-budget 100000 --out b.safetensors", capsys)
    chosen = json.loads(re.search(r"training +chosen (\{.*?\}), best epochs ", done.out)[1])
    assert re.search(r"^ +\d+ s  as given: validation [\d.]+ \(epoch", done.err, re.MULTILINE)
    model = load("b.safetensors")
    assert model.hyper["chosen"] == chosen
    assert (model.hyper["preset"], model.hyper["random_state"]) == ("best", 1)
    assert "--refit has no effect" not in done.err
    quiet = run("ensemble x.npz --members 2 --max-epochs 1 --refit --time-budget 9 --quiet --out q.safetensors", capsys)
    for flag in ("--time-budget", "--refit"):
        assert f"note: {flag} has no effect: --preset is not best." in quiet.err


@pytest.mark.usefixtures("in_tiny")
def test_members_trained_before_ctrl_c_are_saved(monkeypatch, capsys):
    def interrupted(self, *_):
        raise KeyboardInterrupt

    from made_fast.estimators.search import Search

    monkeypatch.setattr(Search, "_try_masks", interrupted)
    words = "ensemble x.npz --preset best --hidden 5 --patience 2 --members 2 --quiet --out part.safetensors"
    assert main(words.split()) == 130
    said = re.search(r"interrupted\. The (\d) members trained so far are saved in part.safetensors", capsys.readouterr().err)
    assert load("part.safetensors").n_members == int(said[1])
