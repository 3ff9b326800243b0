"""The options of the command line, for ``cli.py``. Only the standard library, so that ``--help`` answers at once."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn

from made_fast import __version__
from made_fast.cli import values

__all__ = ["UsageError", "parser"]

# The package's own tables stand beside code that imports NumPy; tests/test_cli.py compares.
ACTIVATIONS = ("relu", "softplus", "tanh", "sigmoid", "softsign")
ORDERINGS = ("random", "natural")
DEGREES = ("stratified", "uniform")
RESAMPLE = ("both", "order", "connectivity")
DIRECT = ("none", "output", "all")
OPTIMIZERS = ("adam", "adadelta", "adagrad", "rmsprop", "momentum", "sgd")
WEIGHT_INITS = ("glorot_uniform", "glorot_normal", "orthogonal", "zeros")
SCHEDULES = ("constant", "linear", "cosine")
DTYPES = ("float32", "float64")
METHODS = ("mode", "mean", "sample")
WEIGHTS = ("equal", "em")
SPLITS = ("train", "valid", "test")
HEADER = ("auto", "yes", "no")

TABLES = (".npz", ".npy", ".csv", ".txt")
"""What ``impute --out`` writes."""

SHARE = 0.1
"""Share of the rows that ``train`` takes for validation, and for test, where DATA has none apart."""

TILES = 100
"""Samples in the picture that ``train --samples`` draws."""

DATA = """\
DATA is 'digits' (1797 images of 8 x 8 that come with scikit-learn), '-' or a file of 0/1 rows:
  .npz                     arrays train, valid (or val), test, or one array; packed bits if n_features
                           is there; or what scipy.sparse.save_npz writes
  .npy                     one array
  .csv .data   .tsv        a row a line, separated by commas, semicolons or tabs; by tabs
  .amat .txt               a row a line, separated by blanks
  .parquet                 columns of numbers or booleans (needs pyarrow)
  .libsvm .svm .svmlight   'label index:1 index:1 ...'; labels are dropped
Text may be compressed (.csv.gz); '-' is standard input, read as a .csv is. Cells are numbers, True or
False; a missing entry is NaN, or in text an empty cell, NA, N/A, NaN, null, none, <NA> or ?, in any
case. A first column without a name that counts the rows is left out."""

CONSTANTS = """\
--optimizer-param: sgd has lr_decay, the c of 1 / (1 + c t); momentum lr_decay and momentum; adagrad eps;
adadelta and rmsprop rho and eps; adam beta_1, beta_2 and eps."""


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
  made-fast score model.safetensors digits --split test
  made-fast sample model.safetensors -n 5
  made-fast impute model.safetensors digits --hide 32:64 --samples imputed.png
  made-fast ensemble digits --members 5 --out ensemble.safetensors
  made-fast info model.safetensors

'made-fast COMMAND --help' tells the options of a command.""",
    )
    top.add_argument("--version", action="version", version=f"made-fast {__version__}", help="show the version and leave")
    commands = top.add_subparsers(dest="command", required=True, title="commands", metavar="COMMAND")
    _add_train(commands)
    _add_ensemble(commands)
    _add_evaluate(commands)
    _add_score(commands)
    _add_sample(commands)
    _add_impute(commands)
    _add_info(commands)
    return top


def _add_train(commands: Any) -> None:
    train = _command(
        commands,
        "train",
        "DATA [options]",
        "fit a model to data and write it to a file",
        "Fit a model, write it to a file, and print its negative log-likelihood (NLL) on every split\n"
        "beside that of independent Bernoulli variables. Ctrl-C, SIGTERM and a closed terminal stop it early and\n"
        "keep the best parameters.",
        f"{DATA}\n\n{CONSTANTS}\n\nexamples:\n"
        "  made-fast train digits --samples samples.png --seed 0\n"
        "  made-fast train mnist.npz --hidden 500 500 --activation softplus --out deep.safetensors\n"
        "  made-fast train dna.npz --masks unlimited --direct output --weight-init orthogonal --optimizer adadelta\n"
        "  made-fast train mnist.npz --masks 32 --checkpoint mnist.checkpoint --resume",
    )
    _add_training(train, "model.safetensors")
    checkpoint = train.add_argument_group("checkpoints")
    _option(checkpoint, "--checkpoint", "FILE", "write there all that it takes to go on to the bit", values.output())
    _option(checkpoint, "--checkpoint-every", "N", "every so many epochs, and at the end", values.positive_int, default=1)
    resume = "go on from the checkpoint, if it is there; repeat the other options, but --max-epochs and --patience may change"
    checkpoint.add_argument("--resume", action="store_true", help=resume)


def _add_ensemble(commands: Any) -> None:
    ensemble = _command(
        commands,
        "ensemble",
        "DATA [options]",
        "fit several models, independent of each other, and mix them",
        "Fit members that differ in every random draw, mix them, write the mixture to a file, and print what\n"
        "each member and the mixture score. Every other command takes the file as it takes a model's.",
        f"{DATA}\n\n{CONSTANTS}\n\nexample:\n  made-fast ensemble digits --members 5 --weights em --out ensemble.safetensors",
    )
    mixture = ensemble.add_argument_group("mixture")
    _option(mixture, "--members", "N", "models to fit", values.positive_int, default=5)
    _choice(mixture, "--weights", WEIGHTS, "parts of the members, em: fitted to the validation rows: ")
    _option(mixture, "--jobs", "N", "members to fit at the same time (default: one for each CPU)", values.positive_int)
    _add_training(ensemble, "ensemble.safetensors")


def _add_training(command: Any, out: str) -> None:
    """Add all that there is to say about data, network and training."""
    command.add_argument("data", metavar="DATA", help="'digits' or a file, see below")

    output = command.add_argument_group("output")
    _option(output, "--out", "FILE", "model file, replaced if it exists", values.output(".safetensors"), default=Path(out))
    _option(output, "--samples", "FILE.png", f"draw a picture of {TILES} samples, too", values.output(".png"))
    _option(output, "--shape", "ROWSxCOLS", "shape of a row as a picture (default: a square)", values.shape)
    output.add_argument("--quiet", action="store_true", help="show no progress")

    rows = command.add_argument_group("data")
    _add_threshold(rows, "demand 0/1")
    _add_fractions(rows, SHARE, "share of the rows for {}, if DATA has none apart; 0: none")

    network = command.add_argument_group("network")
    hidden = "units of each hidden layer; 'none' for no hidden layer, FVSBN (default: 500)"
    network.add_argument("--hidden", metavar="N", nargs="*", type=values.units, default=[500], help=hidden)
    _choice(network, "--activation", ACTIVATIONS)
    _choice(network, "--direct", DIRECT, "layers with direct connections from the inputs: ", dest="direct_connections")
    weights = "give each unit weights for how many inputs it is connected to"
    network.add_argument("--connectivity-weights", action="store_true", help=weights)
    _choice(network, "--weight-init", WEIGHT_INITS)
    _choice(network, "--dtype", DTYPES)

    masks = command.add_argument_group("masks")
    n_masks = "masks that take turns, one a mini-batch, and then mix; 'unlimited': a fresh one each time"
    _option(masks, "--masks", "N", n_masks, values.masks, default=1, dest="n_masks")
    _choice(masks, "--resample", RESAMPLE, "what masks differ in: ")
    mixed = "masks of the mixture after --masks unlimited"
    _option(masks, "--eval-masks", "N", mixed, values.positive_int, default=300, dest="n_eval_masks")
    most = "most masks that validation rows are scored under in training"
    _option(masks, "--val-masks", "N", most, values.positive_int, default=8, dest="n_val_masks")
    _choice(masks, "--ordering", ORDERINGS, "order of the inputs, under the first mask: ")
    _choice(masks, "--degrees", DEGREES, "how hidden degrees are drawn: ")

    optimizer = command.add_argument_group("optimizer")
    _choice(optimizer, "--optimizer", OPTIMIZERS)
    _option(optimizer, "--learning-rate", "R", "step size (default: the optimizer's own)", values.positive_float)
    _option(
        optimizer, "--optimizer-param", "NAME=X", "another constant, see below; may be repeated", values.constant,
        action="append", dest="optimizer_params",
    )  # fmt: skip
    falls = "how the learning rate falls to 0 over --max-epochs: "
    _choice(optimizer, "--schedule", SCHEDULES, falls, dest="learning_rate_schedule")
    _option(optimizer, "--weight-decay", "R", "weights shrink by rate * R a step", values.non_negative_float, default=0.0)
    _option(optimizer, "--clip-norm", "R", "scale larger gradients down to this norm (default: never)", values.positive_float)
    _option(optimizer, "--dropout", "P", "probability that a hidden unit is dropped", values.fraction, default=0.0)

    training = command.add_argument_group("training")
    _option(training, "--batch-size", "N", "rows of a mini-batch", values.positive_int, default=100)
    _option(training, "--max-epochs", "N", "most passes over the training rows", values.positive_int, default=200)
    patience = "stop after N epochs without a better validation NLL"
    _option(training, "--patience", "N", patience, values.positive_int, default=30)
    _add_seed(training, "makes the run repeatable to the bit")
    _add_threads(training)


def _add_evaluate(commands: Any) -> None:
    evaluate = _command(
        commands,
        "evaluate",
        "MODEL DATA [options]",
        "score data under a model",
        "Print the mean negative log-likelihood (NLL, with its standard error) of every split of DATA under\n"
        "MODEL, beside that of independent Bernoulli variables fitted to DATA's training rows. For a model of\n"
        "several masks, also the NLL of the mixture over the first 1, 2, 4, ... of them. Of rows with missing\n"
        "entries, what is observed is scored (the others are summed out).",
        f"{DATA}\n\nexamples:\n"
        "  made-fast evaluate model.safetensors digits --split test\n"
        "  made-fast evaluate masks32.safetensors digits --plot masks.png",
    )
    evaluate.add_argument("model", metavar="MODEL", type=Path, help="model file")
    evaluate.add_argument("data", metavar="DATA", help="'digits' or a file, see below")
    _add_split(evaluate)
    plot = "draw the NLL against the number of masks (needs matplotlib)"
    _option(evaluate, "--plot", "FILE.png", plot, values.output(".png"))
    _add_threshold(evaluate, "that of the model")
    _add_fractions(evaluate, None, "as in train, to find its {} rows again")
    _add_answering(evaluate)
    _add_threads(evaluate)


def _add_score(commands: Any) -> None:
    score = _command(
        commands,
        "score",
        "MODEL DATA [options]",
        "print the log-likelihood of each row",
        "Print log p(x) in nats of every row of DATA under MODEL: a line 'log_p', then a line a row, in the order\n"
        "of DATA; of several splits one after the other, train, valid, test. Of a row with missing entries, it is\n"
        "that of what is observed.",
        f"{DATA}\n\nexamples:\n"
        "  made-fast score model.safetensors new.csv --out log_p.csv\n"
        "  zcat baskets.csv.gz | made-fast score model.safetensors - --std",
    )
    score.add_argument("model", metavar="MODEL", type=Path, help="model file")
    score.add_argument("data", metavar="DATA", help="'digits' or a file, see below")
    out = "write a .csv or .npy; '-': standard output"
    _option(score, "--out", "FILE", out, values.output(".csv", ".npy", dash=True), default=values.STDOUT)
    std = "add a column 'std': standard errors of what has to be estimated, 0 for what is exact"
    score.add_argument("--std", action="store_true", help=std)
    _add_split(score)
    _add_threshold(score, "that of the model")
    _add_answering(score)
    _add_threads(score)


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
    _option(sample, "-n", "N", "rows to draw", values.positive_int, "--n-samples", default=100)
    out = "write a .npy, .csv or .png (a grid of pictures); '-': standard output"
    _option(sample, "--out", "FILE", out, values.output(".npy", ".csv", ".png", dash=True), default=values.STDOUT)
    _option(sample, "--shape", "ROWSxCOLS", "shape of a row in a .png (default: that of the training data)", values.shape)
    _add_seed(sample, "gives the same rows every time")
    _add_threads(sample)


def _add_impute(commands: Any) -> None:
    impute = _command(
        commands,
        "impute",
        "MODEL DATA [options]",
        "fill in missing entries",
        "Fill in the missing entries of DATA, given the others of their row, and write the rows to a file that\n"
        "every command reads. With --hide, entries of complete rows are hidden first: what comes out is then\n"
        "compared with the truth, and with the value that is the most frequent of its column.",
        f"{DATA}\n\nexamples:\n"
        "  made-fast impute model.safetensors survey.csv --out filled.csv\n"
        "  zcat survey.csv.gz | made-fast impute model.safetensors - --out - | gzip > filled.csv.gz\n"
        "  made-fast impute model.safetensors digits --split test --hide 32:64 --rows 20 --samples imputed.png",
    )
    impute.add_argument("model", metavar="MODEL", type=Path, help="model file")
    impute.add_argument("data", metavar="DATA", help="'digits' or a file, see below")

    output = impute.add_argument_group("output")
    out = (
        "write a .npz, .npy, .csv or .txt of the filled rows, with the header of DATA; may be DATA itself; "
        "'-': standard output, and the report goes to standard error"
    )
    _option(output, "--out", "FILE", out, values.output(*TABLES, dash=True))
    samples = "draw 20 rows, from all over the last split, as given, hidden and filled"
    _option(output, "--samples", "FILE.png", samples, values.output(".png"))
    shape = "shape of a row in the picture (default: that of the training data)"
    _option(output, "--shape", "ROWSxCOLS", shape, values.shape)

    rows = impute.add_argument_group("data")
    _add_split(rows)
    _option(rows, "--rows", "N", "only the first N rows of each split (default: all)", values.positive_int)
    _option(rows, "--hide", "A:B", "hide the columns A .. B - 1, counted from 0", values.columns)
    _add_threshold(rows, "that of the model")

    answers = impute.add_argument_group("answers")
    _choice(answers, "--method", METHODS, "the likelier value, one entry after the other; probabilities; a draw: ")
    _add_answering(answers)
    _option(answers, "--seed", "N", "of draws and estimates", values.whole, default=0)
    _add_threads(answers)


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
    shown = "" if default is None else f"(default: %(default){'g' if isinstance(default, float) else 's'})"
    group.add_argument(flag, *flags, metavar=metavar, type=type_, default=default, help=f"{text} {shown}".strip(), **more)


def _choice(group: Any, flag: str, options: tuple[str, ...], text: str = "", **more: Any) -> None:
    """Add an option that takes one of some names; the first is the default."""
    _option(group, flag, "NAME", text + ", ".join(options), default=options[0], choices=options, **more)


def _add_split(group: Any) -> None:
    _option(group, "--split", "NAME", f"only this one: {', '.join(SPLITS)} (default: all)", choices=SPLITS)


def _add_answering(group: Any) -> None:
    """Add who answers for rows with missing entries, and how long it may think."""
    members = "masks or members that answer for a row with missing entries"
    _option(group, "--members", "N", members, values.positive_int, default=1)
    _option(group, "--walks", "N", "walks behind each answer that has to be estimated", values.positive_int, default=256)


def _add_threshold(group: Any, default: str) -> None:
    """Add what there is to say about how DATA is read."""
    _option(group, "--threshold", "T", f"values > T are 1, the others 0 (default: {default})", values.number)
    drop = "leave out a column, by name or by number from 0; may be repeated"
    _option(group, "--drop", "COLUMN", drop, action="append")
    header = "whether the first line of text names the columns: "
    _choice(group, "--header", HEADER, header)
    base = "LIBSVM: number of the first column, 0 or 1 (default: as the model's data or DATA tell)"
    _option(group, "--index-base", "N", base, int, choices=(0, 1))


def _add_fractions(group: Any, default: float | None, text: str) -> None:
    _option(group, "--valid-fraction", "F", text.format("validation"), values.fraction, default=default)
    _option(group, "--test-fraction", "F", text.format("test"), values.fraction, default=default)


def _add_seed(group: Any, text: str) -> None:
    _option(group, "--seed", "N", f"{text} (default: drawn)", values.whole)


def _add_threads(group: Any) -> None:
    _option(group, "--threads", "N", "no result depends on it (default: the CPUs there are)", values.positive_int)
