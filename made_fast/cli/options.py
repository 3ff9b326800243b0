"""The options of the command line. Only the standard library: ``--help`` answers at once.

Options of hyper-parameters follow from their table (``training/hyper.py``). Not here: how their texts are read
(``readers.py``), what the commands do with them (``fit.py``, ``use.py``, ``serve.py``).
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Any, NoReturn

from made_fast import __version__
from made_fast.cli.readers import (
    PNG,
    READERS,
    STDOUT,
    columns,
    file_to_write,
    number,
    port,
    positive_int,
    probability,
    seconds,
    shape,
    whole,
)
from made_fast.serving.settings import TOKEN, Settings
from made_fast.tables import choices
from made_fast.training.hyper import DEFAULTS, HYPER

__all__ = ["SHARE", "TILES", "UsageError", "parser"]

SHARE = 0.1
"""Share of the rows that ``train`` takes for validation, and for test, where DATA has none apart."""

TILES = 100
"""Samples in the picture that ``train --samples`` draws."""

DATA = """\
DATA is 'digits' (1797 images of 8 x 8 that come with scikit-learn), '-', a file of 0/1 rows, or a table:
  .npz                     arrays train, valid (or val), test, or one array; packed bits if n_features
                           is there; or what scipy.sparse.save_npz writes
  .npy                     one array
  .csv .data   .tsv        a row a line, separated by commas, semicolons or tabs; by tabs
  .amat .txt               a row a line, separated by blanks
  .parquet                 columns of numbers or booleans (needs pyarrow)
  .libsvm .svm .svmlight   'label index:1 index:1 ...'; labels are dropped
Text may be compressed (.csv.gz); '-' is standard input, read as a .csv is. Cells are numbers, True or
False; a missing entry is NaN, or in text an empty cell, NA, N/A, NaN, null, none, <NA> or ?, in any
case. A first column without a name that counts the rows is left out.
A table is a .csv, .data, .tsv, .txt or .parquet whose columns hold text and any numbers; commands that
fit tell it by its values (see --kind), the others by their model."""

CONSTANTS = fill(HYPER["optimizer_params"].meaning.replace("``", "").replace("The", "--optimizer-param: the", 1), 105)


class UsageError(Exception):
    """Something that the user can put right; the text is the line to show."""


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        layout = partial(argparse.RawDescriptionHelpFormatter, max_help_position=26)
        super().__init__(**options, formatter_class=layout, allow_abbrev=False, add_help=False)
        self.add_argument("-h", "--help", action="help", help="show this text and leave")

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}. See {self.prog} --help.")


def parser() -> argparse.ArgumentParser:
    """Return the parser; its result has ``command`` and the options of that command."""
    top = _Parser(
        prog="made-fast",
        usage="made-fast COMMAND ...",
        description="MADE, the masked autoencoder for distribution estimation:\n"
        "an exact, fast density model of binary data, and of tables of any columns, trained and used on the CPU.",
        epilog="""\
examples:
  made-fast train digits --out model.safetensors --samples samples.png
  made-fast evaluate model.safetensors digits
  made-fast score model.safetensors digits --split test
  made-fast sample model.safetensors -n 5
  made-fast impute model.safetensors digits --hide 32:64 --samples imputed.png
  made-fast ensemble digits --members 5 --out ensemble.safetensors
  made-fast train adult.csv --masks unlimited --out adult.safetensors
  made-fast query adult.safetensors "age > 40 and sex = 'Male'"
  made-fast export model.safetensors --onnx model.onnx
  made-fast serve adult.safetensors
  made-fast info model.safetensors

'made-fast COMMAND --help' shows the options of a command.""",
    )
    top.add_argument("--version", action="version", version=f"made-fast {__version__}", help="show the version and leave")
    commands = top.add_subparsers(dest="command", required=True, title="commands", metavar="COMMAND")
    answering = (_add_evaluate, _add_score, _add_sample, _add_impute, _add_query)
    for add in (_add_train, _add_ensemble, *answering, _add_export, _add_serve):
        add(commands)
    shown = "Show what a model file holds: the network and how it was trained."
    example = "example:\n  made-fast info model.safetensors"
    _command(commands, "info MODEL", "show what a model file holds", shown, example)
    return top


def _add_train(commands: Any) -> None:
    train = _command(
        commands,
        "train DATA [options]",
        "fit a model to data and write it to a file",
        "Fit a model, write it to a file, and print its negative log-likelihood (NLL) on every split\n"
        "beside that of independent columns. Ctrl-C, SIGTERM and a closed terminal stop it early and keep the best\n"
        "parameters.",
        f"{CONSTANTS}\n\nexamples:\n"
        "  made-fast train digits --samples samples.png --seed 0\n"
        "  made-fast train mnist.npz --hidden 500 500 --activation softplus --out deep.safetensors\n"
        "  made-fast train dna.npz --masks unlimited --direct output --weight-init orthogonal --optimizer adadelta\n"
        "  made-fast train mnist.npz --masks 32 --checkpoint mnist.checkpoint --resume\n"
        "  mpiexec -n 4 made-fast train mnist.npz --mpi --checkpoint mnist.checkpoint",
    )
    _add_fitting(train, "model.safetensors")
    checkpoint = train.add_argument_group("checkpoints")
    _option(checkpoint, "--checkpoint", "FILE", "write there what a later run needs to go on exactly", file_to_write())
    _option(checkpoint, "--checkpoint-every", "N", "every so many epochs, and at the end", positive_int, default=1)
    resume = "go on from the checkpoint, if it is there; repeat the other options, but --max-epochs and --patience may change"
    checkpoint.add_argument("--resume", action="store_true", help=resume)
    machines = train.add_argument_group("machines")
    mpi = "train on all processes that mpiexec has started, each on its share of the rows of DATA (needs mpi4py)"
    machines.add_argument("--mpi", action="store_true", help=mpi)
    every = "average parameters every N steps, where gradients take too long"
    _option(machines, "--average-every", "N", every, positive_int, unset="gradients are added up in every step")


def _add_ensemble(commands: Any) -> None:
    ensemble = _command(
        commands,
        "ensemble DATA [options]",
        "fit several models, independent of each other, and mix them",
        "Fit members that differ in every random draw, mix them, write the mixture to a file, and print what\n"
        "each member and the mixture score. Every other command takes the file as it takes a model's.",
        f"{CONSTANTS}\n\nexamples:\n  made-fast ensemble digits --members 5 --weights em --out ensemble.safetensors\n"
        "  made-fast ensemble baskets.csv --preset best --time-budget 180 --out best.safetensors",
    )
    mixture = ensemble.add_argument_group("mixture")
    _option(mixture, "--members", "N", "models to fit", positive_int, unset="5; with --preset best as many as help, up to 32")
    _choice(mixture, "--weights", choices.WEIGHTS, "parts of the members, em: fitted to the validation rows")
    _option(mixture, "--jobs", "N", "members to fit at the same time", positive_int, unset="one for each CPU")
    search = ensemble.add_argument_group("search")
    _choice(search, "--preset", choices.PRESETS, "best: search for good settings by the validation rows, then add members")
    positive = READERS["positive_float"]
    budget = "seconds for --preset best, its search and its members"
    _option(search, "--time-budget", "S", budget, positive, default=choices.TIME_BUDGET)
    search.add_argument("--refit", action="store_true", help="train them again at last, with the validation rows put back")
    _add_fitting(ensemble, "ensemble.safetensors")


def _add_fitting(command: Any, out: str) -> None:
    """Add the options about data, network and training."""
    output = command.add_argument_group("output")
    _option(output, "--out", "FILE", "model file, replaced if it exists", file_to_write(".safetensors"), default=Path(out))
    _option(output, "--samples", "FILE.png", f"draw a picture of {TILES} samples, or of the columns of a table, too", PNG)
    _option(output, "--shape", "ROWSxCOLS", "shape of a row as a picture", shape, unset="a square")
    output.add_argument("--quiet", action="store_true", help="show no progress")
    rows = command.add_argument_group("data")
    kinds = "what DATA holds, rows of 0/1 or a table of any columns; auto: a table, if a column's values are mostly others"
    _choice(rows, "--kind", choices.DATA_KINDS, kinds)
    _add_reading(rows, "demand 0/1")
    _add_fractions(rows, SHARE, "share of the rows for {}, if DATA has none apart; 0: none")
    for title in ("columns", "network", "masks", "optimizer", "training"):
        group = command.add_argument_group(title)
        if title == "columns":
            text = "a column that is given and not modelled: p(other columns | it); by name or number; may be repeated"
            _option(group, "--context", "COLUMN", text, action="append")
        for name, about in HYPER.items():
            if about.option and about.option.group == title:
                _add_parameter(group, name)
    _add_threads(group, "repeats the run, bit for bit")


def _add_parameter(group: Any, name: str) -> None:
    """Add the option of a hyper-parameter."""
    about, option = HYPER[name], HYPER[name].option
    assert option is not None
    sentence = about.meaning.partition(". ")[0].rstrip(".")
    text = option.help or sentence[0].lower() + sentence[1:]
    if about.choices:
        _choice(group, option.flag, about.choices, text, default=option.default, dest=name)
    elif about.check == "boolean":
        group.add_argument(option.flag, action="store_true", help=text, dest=name)
    else:
        more = {"hidden_sizes": {"nargs": "*"}, "optimizer_params": {"action": "append"}}.get(name, {})
        read, default = READERS[option.read or about.check], None if option.unset else DEFAULTS[name]
        _option(group, option.flag, option.metavar, text, read, default=default, unset=option.unset, dest=name, **more)


def _add_evaluate(commands: Any) -> None:
    evaluate = _command(
        commands,
        "evaluate MODEL DATA [options]",
        "score data under a model",
        "Print the mean negative log-likelihood (NLL, ± half of its 95 % interval over the rows) of every split of\n"
        "DATA under MODEL, beside that of independent Bernoulli variables fitted to DATA's training rows. For a\n"
        "model of several masks, also the NLL of the mixture over the first 1, 2, 4, ... of them. Of rows with\n"
        "missing entries, what is observed is scored (the others are summed out).",
        "examples:\n"
        "  made-fast evaluate model.safetensors digits --split test\n"
        "  made-fast evaluate masks32.safetensors digits --plot masks.png",
    )
    _add_split(evaluate)
    _option(evaluate, "--samples", "FILE.png", "draw the columns of a table, rows against draws (needs matplotlib)", PNG)
    _option(evaluate, "--plot", "FILE.png", "draw the NLL against the number of masks (needs matplotlib)", PNG)
    _add_reading(evaluate)
    _add_fractions(evaluate, None, "as in train, to find its {} rows again")
    _add_answering(evaluate)


def _add_score(commands: Any) -> None:
    score = _command(
        commands,
        "score MODEL DATA [options]",
        "print the log-likelihood of each row",
        "Print log p(x) in nats of every row of DATA under MODEL: a line 'log_p', then a line a row, in the order\n"
        "of DATA; of several splits one after the other, train, valid, test. Of a row with missing entries, it is\n"
        "that of what is observed.",
        "examples:\n"
        "  made-fast score model.safetensors new.csv --out log_p.csv\n"
        "  zcat baskets.csv.gz | made-fast score model.safetensors - --std",
    )
    out = "write a .csv or .npy, or of a table a .parquet; '-': standard output"
    _option(score, "--out", "FILE", out, file_to_write(".csv", ".npy", ".parquet", dash=True), default=STDOUT)
    std = "add a column 'std': standard errors of what has to be estimated, 0 for what is exact"
    score.add_argument("--std", action="store_true", help=std)
    parts = "add a column for each column of DATA: what it adds to -log p; the largest makes the row odd"
    score.add_argument("--explain", action="store_true", help=parts)
    _add_split(score)
    _add_reading(score)
    _add_answering(score)


def _add_sample(commands: Any) -> None:
    sample = _command(
        commands,
        "sample MODEL [options]",
        "draw rows from a model",
        "Draw independent rows from MODEL; by default they are printed, 0/1 separated by commas.",
        "examples:\n"
        "  made-fast sample model.safetensors -n 5\n"
        "  made-fast sample model.safetensors --out samples.png --shape 8x8 --seed 0",
    )
    _option(sample, "-n --n-samples", "N", "rows to draw", positive_int, default=100)
    out = "write a .npy, .csv or .png (a grid of pictures); '-': standard output"
    _option(sample, "--out", "FILE", out, file_to_write(".npy", ".csv", ".png", dash=True), default=STDOUT)
    _option(sample, "--shape", "ROWSxCOLS", "shape of a row in a .png", shape, unset="that of the training data")
    _add_contexts(sample, "draw N rows for each row of FILE")
    _add_threads(sample, "gives the same rows every time")


def _add_impute(commands: Any) -> None:
    impute = _command(
        commands,
        "impute MODEL DATA [options]",
        "fill in missing entries",
        "Fill in the missing entries of DATA, given the others of their row, and write the rows to a file that\n"
        "every command reads. With --hide, entries of complete rows are hidden first: what comes out is then\n"
        "compared with the truth, and with the value that is the most frequent of its column.",
        "examples:\n"
        "  made-fast impute model.safetensors survey.csv --out filled.csv\n"
        "  zcat survey.csv.gz | made-fast impute model.safetensors - --out - | gzip > filled.csv.gz\n"
        "  made-fast impute model.safetensors digits --split test --hide 32:64 --rows 20 --samples imputed.png",
    )
    output = impute.add_argument_group("output")
    out = (
        "write a .npz, .npy, .csv or .txt of the filled rows, with the header of DATA, of a table a .csv or .parquet; may be "
        "DATA itself; "
        "'-': standard output, and the report goes to standard error"
    )
    _option(output, "--out", "FILE", out, file_to_write(".npz", ".npy", ".csv", ".txt", ".parquet", dash=True))
    _option(output, "--samples", "FILE.png", "draw 20 rows, from all over the last split, as given, hidden and filled", PNG)
    _option(output, "--shape", "ROWSxCOLS", "shape of a row in it", shape, unset="that of the training data")
    rows = impute.add_argument_group("data")
    _add_split(rows)
    _option(rows, "--rows", "N", "only the first N rows of each split", positive_int, unset="all")
    _option(rows, "--hide", "A:B", "hide the columns A .. B - 1, counted from 0", columns)
    _add_reading(rows)
    answers = impute.add_argument_group("answers")
    _choice(answers, "--method", choices.METHODS, "the likelier value, one entry after the other; probabilities; a draw")
    _option(answers, "--seed", "N", "of draws and estimates", whole, default=0)
    _add_answering(answers)


def _add_query(commands: Any) -> None:
    query = _command(
        commands,
        "query MODEL QUERY [options]",
        "print the probability that a row of a table satisfies a query",
        "Print the probability of the rows that satisfy QUERY under MODEL, which is of a table. Conditions are joined\n"
        "by and: x = 1, x != 1, x < 1 (<=, >, >=), x in (1, 2), x between 1 and 2, x is null; text with blanks, and\n"
        "names with blanks, stand in quotes.",
        "example:\n  made-fast query adult.safetensors \"age > 40 and sex = 'Male'\"",
    )
    query.add_argument("query", metavar="QUERY", help="conditions, in quotes for the shell")
    answers = query.add_argument_group("answers")
    _add_contexts(answers, "print a line for each row of FILE")
    _option(answers, "--seed", "N", "of estimates", whole, default=0)
    _add_answering(answers)


def _add_export(commands: Any) -> None:
    export = _command(
        commands,
        "export MODEL --onnx FILE [options]",
        "write a model in a form that others score",
        "Write MODEL as an ONNX graph, which ONNX Runtime and others score without this package. Of 0/1 rows it\n"
        "takes one input, X; of a table one for each column, raw, (rows, 1). The output log_p has the\n"
        "log-likelihood of each row in nats, NaN where an entry is missing; conditionals has the probability of\n"
        "every entry given those before it. The file's metadata says what inputs and outputs are.",
        "example:\n  made-fast export model.safetensors --onnx model.onnx",
    )
    onnx = "file to write, replaced if it exists (needs onnx)"
    _option(export, "--onnx", "FILE", onnx, file_to_write(".onnx"), required=True)
    scores = "leave out the conditionals: the graph is faster, the more so the more masks or members there are"
    export.add_argument("--scores-only", action="store_true", help=scores)


def _add_serve(commands: Any) -> None:
    serve = _command(
        commands,
        "serve FILE [FILE ...] [options]",
        "serve models over HTTP",
        "Serve models: the Open Inference Protocol (KServe V2) under /v2, doors of plain JSON to score, explain, sample,\n"
        "impute, conditional and query under /models/NAME, a page for people at /, figures for Prometheus at /metrics,\n"
        "all of it described by /openapi.json. A model's name is that of its file, or NAME in NAME=FILE.\n\n"
        "Answers are for whoever reaches the address, unless there is a token; the server does not speak TLS, which is\n"
        "for a proxy before it (nginx, Caddy, an ingress). Nothing is loaded that a request names.\n\n"
        "SIGTERM and Ctrl-C end it when requests in flight are finished. SIGHUP loads the files again, which must be\n"
        "replaced by a rename; if one is broken, the old models stay in service. Needs made_fast[serve].",
        "examples:\n"
        "  made-fast serve adult.safetensors\n"
        '  curl -d \'{"query": "age > 40"}\' http://127.0.0.1:8000/models/adult/query\n'
        "  made-fast serve adult.safetensors digits=old.safetensors --workers 4 --token-file token",
    )
    serve.add_argument("models", metavar="FILE", nargs="+", help="model file, or NAME=FILE")
    address = serve.add_argument_group("address")
    _option(address, "--host", "HOST", "where to listen; 0.0.0.0: on all networks", default=Settings.host)
    _option(address, "--port", "N", "0: any that is free", port, default=Settings.port)
    token = f"demand the token that FILE holds, or else the environment variable {TOKEN}, in Authorization: Bearer"
    _option(address, "--token-file", "FILE", token, Path)
    processes = serve.add_argument_group("processes")
    _option(processes, "--workers", "N", "processes, which share one mapped copy of the models", positive_int, default=1)
    _option(processes, "--threads", "N", "of one computation", positive_int, unset="the CPUs there are, shared by workers")
    _option(processes, "--grace", "S", "seconds for requests in flight at the end", seconds, default=Settings.grace)
    limits = serve.add_argument_group("limits of each worker")
    _option(
        limits,
        "--timeout",
        "S",
        "seconds of a request: 503 if nobody was free, or else 504",
        seconds,
        default=Settings.timeout,
    )
    _option(limits, "--max-body", "MB", "of a request's body, 413 beyond", positive_int, default=Settings.max_body)
    _option(limits, "--max-rows", "N", "of a request, 413 beyond", positive_int, default=Settings.max_rows)
    _option(limits, "--queue", "N", "requests in work or waiting, 429 beyond", positive_int, default=Settings.queue)
    _option(limits, "--connections", "N", "at a time, 503 beyond", positive_int, default=Settings.connections)


def _command(commands: Any, usage: str, title: str, description: str, epilog: str) -> Any:
    """Add a command that takes the files named in its usage."""
    name, _, rest = usage.partition(" ")
    prog = f"made-fast {name}"
    epilog = f"{DATA}\n\n{epilog}" if "DATA" in rest else epilog
    made = commands.add_parser(name, prog=prog, usage=f"{prog} {rest}", help=title, description=description, epilog=epilog)
    if "MODEL" in rest:
        made.add_argument("model", metavar="MODEL", type=Path, help="model file")
    if "DATA" in rest:
        made.add_argument("data", metavar="DATA", help="'digits' or a file, see below")
    return made


def _option(
    group: Any, flag: str, metavar: str, text: str, read: Any = str, *, default: Any = None, unset: str = "", **more: Any
) -> None:
    """Add an option; ``unset`` says what its absence means where there is no default."""
    if isinstance(default, tuple):
        unset = " ".join(map(str, default))
    elif default is not None:
        unset = f"{default:g}" if isinstance(default, float) else str(default)
    shown = f"{text} (default: {unset})" if unset else text
    group.add_argument(*flag.split(), metavar=metavar, type=read, default=default, help=shown.replace("%", "%%"), **more)


def _choice(group: Any, flag: str, names: tuple[str, ...], text: str, *, default: str | None = None, **more: Any) -> None:
    """Add an option that takes one of some names; the first is the default if there is no other."""
    _option(group, flag, "NAME", f"{text}: {', '.join(names)}", default=default or names[0], choices=names, **more)


def _add_answering(group: Any) -> None:
    """Add the options about answers for rows with missing entries."""
    members = "masks or members that answer for a row with missing entries"
    _option(group, "--members", "N", members, positive_int, default=1)
    _option(group, "--walks", "N", "walks behind each estimated answer", positive_int, default=choices.N_WALKS)
    _add_threads(group)


def _add_reading(group: Any, threshold: str = "that of the model") -> None:
    """Add the options about how DATA is read."""
    _option(group, "--threshold", "T", "values > T are 1, the others 0", number, unset=threshold)
    _option(group, "--drop", "COLUMN", "leave out a column, by name or by number from 0; may be repeated", action="append")
    _choice(group, "--header", choices.HEADER, "whether the first line of text names the columns")
    base = "LIBSVM: number of the first column, 0 or 1"
    _option(group, "--index-base", "N", base, int, choices=(0, 1), unset="as the model's data or DATA tell")


def _add_contexts(group: Any, text: str) -> None:
    _option(
        group,
        "--context",
        "FILE",
        f"{text}, a table of the context of a model that was fitted with --context",
        Path,
        dest="contexts",
    )


def _add_split(group: Any) -> None:
    text = f"only this one: {', '.join(choices.SPLITS)}"
    _option(group, "--split", "NAME", text, choices=choices.SPLITS, unset="all")


def _add_fractions(group: Any, default: float | None, text: str) -> None:
    for flag, split in (("--valid-fraction", "validation"), ("--test-fraction", "test")):
        _option(group, flag, "F", text.format(split), probability, default=default)


def _add_threads(group: Any, seed: str = "") -> None:
    if seed:
        _option(group, "--seed", "N", seed, whole, unset="drawn")
    _option(group, "--threads", "N", "no result depends on it", positive_int, unset="the CPUs there are")
