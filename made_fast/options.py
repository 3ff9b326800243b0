"""The options of the command line, for ``cli.py``. Only the standard library, so that ``--help`` answers at once."""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path
from typing import Any, NoReturn

from made_fast import __version__

__all__ = ["UsageError", "parser"]

# The package's own tables stand beside code that imports NumPy; tests/test_cli.py compares.
ACTIVATIONS = ("relu", "softplus", "tanh", "sigmoid", "softsign")
ORDERINGS = ("random", "natural")
DEGREES = ("stratified", "uniform")
OPTIMIZERS = ("adam", "adadelta", "adagrad", "rmsprop", "momentum", "sgd")
WEIGHT_INITS = ("glorot_uniform", "glorot_normal", "zeros")
DTYPES = ("float32", "float64")
SPLITS = ("train", "valid", "test")

TILES = 100
"""Samples in the picture that ``train --samples`` draws."""

DATA = """\
DATA is 'digits' (1797 images of 8 x 8 that come with scikit-learn) or a file of 0/1 rows:
  .npz                     arrays train, valid, test, or one array; packed bits if n_features is there
  .npy                     one array
  .csv .data  .amat .txt   a row a line, separated by commas, by blanks
  .libsvm .svm .svmlight   'label index:1 index:1 ...'; labels are dropped"""


class UsageError(Exception):
    """Something that the user can put right; the text is the line to show."""


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options, formatter_class=_Help, allow_abbrev=False, add_help=False)
        self.add_argument("-h", "--help", action="help", help="show this text and leave")

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}. See {self.prog} --help.")


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26)


def parser() -> argparse.ArgumentParser:
    """Return the parser; what it parses has ``command`` and the options of that command."""
    top = _Parser(
        prog="made-fast",
        usage="made-fast COMMAND ...",
        description="MADE, the masked autoencoder for distribution estimation:\n"
        "an exact, fast density model of binary data, trained and used on the CPU.",
        epilog="""\
examples:
  made-fast train digits --out model.safetensors --samples samples.png
  made-fast evaluate model.safetensors digits
  made-fast sample model.safetensors -n 5
  made-fast info model.safetensors

'made-fast COMMAND --help' tells the options of a command.""",
    )
    top.add_argument("--version", action="version", version=f"made-fast {__version__}", help="show the version and leave")
    commands = top.add_subparsers(dest="command", required=True, title="commands", metavar="COMMAND")
    _add_train(commands)
    _add_evaluate(commands)
    _add_sample(commands)
    _add_info(commands)
    return top


def _add_train(commands: Any) -> None:
    train = _command(
        commands,
        "train",
        "DATA [options]",
        "fit a model to data and write it to a file",
        "Fit a model, write it to a file, and print its negative log-likelihood (NLL) on every split\n"
        "beside that of independent Bernoulli variables. Ctrl-C stops early and keeps the best parameters.",
        f"{DATA}\n\nexamples:\n"
        "  made-fast train digits --samples samples.png --seed 0\n"
        "  made-fast train mnist.npz --hidden 500 500 --activation softplus --out deep.safetensors",
    )
    train.add_argument("data", metavar="DATA", help="'digits' or a file, see below")

    output = train.add_argument_group("output")
    _option(output, "--out", "FILE", "model file, replaced if it exists", Path, default=Path("model.safetensors"))
    _option(output, "--samples", "FILE.png", f"draw a picture of {TILES} samples, too", Path)
    _option(output, "--shape", "ROWSxCOLS", "shape of a row as a picture (default: a square)", _shape)
    output.add_argument("--quiet", action="store_true", help="show no progress bar")

    rows = train.add_argument_group("data")
    _add_threshold(rows, "demand 0/1")
    _add_fractions(rows, 0.1, "share of the rows for {}, if DATA has none apart; 0: none")

    model = train.add_argument_group("model")
    hidden = "units of each hidden layer; 'none' for no hidden layer (default: 500)"
    model.add_argument("--hidden", metavar="N", nargs="*", type=_units, default=[500], help=hidden)
    _choice(model, "--activation", ACTIVATIONS)
    _choice(model, "--ordering", ORDERINGS, "order of the inputs: ")
    _choice(model, "--degrees", DEGREES, "how hidden degrees are drawn: ")
    _choice(model, "--dtype", DTYPES)

    training = train.add_argument_group("training")
    _choice(training, "--optimizer", OPTIMIZERS)
    _option(training, "--learning-rate", "R", "step size (default: the optimizer's own)", _positive_float)
    _option(training, "--batch-size", "N", "rows of a mini-batch", _positive_int, default=100)
    _option(training, "--max-epochs", "N", "most passes over the training rows", _positive_int, default=200)
    _option(training, "--patience", "N", "stop after N epochs without a better validation NLL", _positive_int, default=30)
    _choice(training, "--weight-init", WEIGHT_INITS)
    _add_seed(training, "makes the run repeatable to the bit")
    _add_threads(training)


def _add_evaluate(commands: Any) -> None:
    evaluate = _command(
        commands,
        "evaluate",
        "MODEL DATA [options]",
        "score data under a model",
        "Print the mean negative log-likelihood (NLL, with its standard error) of every split of DATA under\n"
        "MODEL, beside that of independent Bernoulli variables fitted to DATA's training rows.",
        f"{DATA}\n\nexample:\n  made-fast evaluate model.safetensors digits --split test",
    )
    evaluate.add_argument("model", metavar="MODEL", type=Path, help="model file")
    evaluate.add_argument("data", metavar="DATA", help="'digits' or a file, see below")
    _option(evaluate, "--split", "NAME", f"only this one: {', '.join(SPLITS)} (default: all)", choices=SPLITS)
    _add_threshold(evaluate, "that of the model")
    _add_fractions(evaluate, None, "as in train, to find its {} rows again")
    _add_threads(evaluate)


def _add_sample(commands: Any) -> None:
    sample = _command(
        commands,
        "sample",
        "MODEL [options]",
        "draw rows from a model",
        "Draw independent rows from MODEL; by default they are printed, 0/1 separated by commas.",
        "examples:\n"
        "  made-fast sample model.safetensors -n 5\n"
        "  made-fast sample model.safetensors --out samples.png --shape 8x8 --seed 0",
    )
    sample.add_argument("model", metavar="MODEL", type=Path, help="model file")
    _option(sample, "-n", "N", "rows to draw", _positive_int, "--n-samples", default=100)
    _option(sample, "--out", "FILE", "write a .npy, .csv or .png (a grid of pictures) instead", Path)
    _option(sample, "--shape", "ROWSxCOLS", "shape of a row as a picture (default: that of the training data)", _shape)
    _add_seed(sample, "gives the same rows every time")
    _add_threads(sample)


def _add_info(commands: Any) -> None:
    info = _command(
        commands,
        "info",
        "MODEL",
        "tell what a model file holds",
        "Tell what a model file holds: the network and how it was trained.",
        "example:\n  made-fast info model.safetensors",
    )
    info.add_argument("model", metavar="MODEL", type=Path, help="model file")


def _command(commands: Any, name: str, usage: str, title: str, description: str, epilog: str) -> Any:
    prog = f"made-fast {name}"
    return commands.add_parser(name, prog=prog, usage=f"{prog} {usage}", help=title, description=description, epilog=epilog)


def _option(
    group: Any, flag: str, metavar: str, text: str, type_: Any = str, *flags: str, default: Any = None, **more: Any
) -> None:
    shown = "" if default is None else "(default: %(default)s)"
    group.add_argument(flag, *flags, metavar=metavar, type=type_, default=default, help=f"{text} {shown}".strip(), **more)


def _choice(group: Any, flag: str, options: tuple[str, ...], text: str = "") -> None:
    """Add an option that takes one of some names; the first is the default."""
    _option(group, flag, "NAME", text + ", ".join(options), default=options[0], choices=options)


def _add_threshold(group: Any, default: str) -> None:
    _option(group, "--threshold", "T", f"values > T are 1, the others 0 (default: {default})", _number)


def _add_fractions(group: Any, default: float | None, text: str) -> None:
    _option(group, "--valid-fraction", "F", text.format("validation"), _fraction, default=default)
    _option(group, "--test-fraction", "F", text.format("test"), _fraction, default=default)


def _add_seed(group: Any, text: str) -> None:
    _option(group, "--seed", "N", f"{text} (default: drawn)", _whole)


def _add_threads(group: Any) -> None:
    _option(group, "--threads", "N", "no result depends on it (default: the CPUs there are)", _positive_int)


# Values; ArgumentTypeError makes argparse show "argument --option: ..."


def _whole(text: str, smallest: int = 0) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) < smallest:
        raise argparse.ArgumentTypeError(f"must be a whole number >= {smallest}, got {text!r}")
    return int(text)


def _positive_int(text: str) -> int:
    return _whole(text, 1)


def _units(text: str) -> int:
    if text == "none":
        return 0
    try:
        return _whole(text, 1)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error} (DATA goes before the options)") from error


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"must be a finite number, got {text!r}")
    return number


def _positive_float(text: str) -> float:
    number = _number(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"must be > 0, got {text!r}")
    return number


def _fraction(text: str) -> float:
    number = _number(text)
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"must be in 0 <= F < 1, got {text!r}")
    return number


def _shape(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9][0-9]{0,8})x([1-9][0-9]{0,8})", text)
    if not found:
        raise argparse.ArgumentTypeError(f"must be ROWSxCOLS, 28x28 say, got {text!r}")
    return int(found[1]), int(found[2])
