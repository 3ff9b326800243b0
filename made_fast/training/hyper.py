"""The hyper-parameters of ``MADE``, each stated once: name, type, default, meaning, check, option of the command line.

The ``__init__`` and the docstring of ``MADE``, the checks of ``recipe.py``, the notes of a model's file and the options of the
command line follow from this table. Not here: the checks themselves (``tables/arguments.py``), the use of the values
(``recipe.py``). Only the standard library, so that ``made-fast --help`` answers at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from made_fast.tables import choices

if TYPE_CHECKING:
    from numpy.random import Generator, RandomState, SeedSequence

__all__ = ["ADJUSTABLE", "DEFAULTS", "FIXED", "HARMLESS", "HYPER", "About", "HyperParameters", "Option", "documented"]

FIXED, ADJUSTABLE, HARMLESS = range(3)
"""Effects of a change on a fit that continues: it is refused, as the trainer depends on the value; the next epochs have the
new value; no result of an epoch depends on the value, so that ``made-fast train --resume`` takes it from its options."""


class Option(NamedTuple):
    """The option of the command line that sets a parameter."""

    group: str  # its heading in --help
    flag: str
    metavar: str = "NAME"
    help: str = ""  # by default the first sentence of the meaning
    unset: str = ""  # what it means to leave the option out, where the parameter then is None and not its default
    read: str = ""  # the name in cli/options.py of the reader of its text; by default that of the check
    default: Any = None  # of the command line, where that is not the parameter's


class About(NamedTuple):
    """The entry of a hyper-parameter, without name, type and default."""

    meaning: str  # for the docstring
    check: str  # the function of tables/arguments.py that checks a value
    option: Option | None = None  # None: the command line has none, or one of its own
    choices: tuple[str, ...] = ()  # the names that it takes, if it takes names
    or_else: str = ""  # what it takes beside names
    optional: bool = False  # None means something and needs no check
    change: int = FIXED
    noted: bool = True  # whether the file of a model notes it
    before: Any = None  # what fits did before there was such a parameter, where that is not the default


def _value(default: Any, meaning: str, check: str, option: Option | None = None, **more: Any) -> Any:
    return field(default=default, metadata={"about": About(meaning, check, option, **more)})


def _one_of(names: tuple[str, ...], meaning: str, option: Option, check: str = "choice", **more: Any) -> Any:
    return field(default=names[0], metadata={"about": About(meaning, check, option, names, **more)})


@dataclass(eq=False, repr=False, match_args=False)
class HyperParameters:
    """The table, in the order of the signature."""

    hidden_sizes: Sequence[int] = _value(
        (500,),
        "Units of each hidden layer. Empty: logistic autoregression (a fully visible sigmoid belief network, FVSBN).",
        "hidden_sizes",
        Option("network", "--hidden", "N", "units of each hidden layer; 'none' for no hidden layer, FVSBN", read="units"),
    )
    activation: str = _one_of(choices.ACTIVATIONS, "Of the hidden layers.", Option("network", "--activation"))
    ordering: str | Sequence[int] = _one_of(
        choices.ORDERINGS,
        "The order in which the inputs are factored; with several masks, that of the first.",
        Option("masks", "--ordering", help="order of the inputs, under the first mask"),
        "ordering",
        or_else=" or (D,) sequence of places 1..D",
        noted=False,  # the masks have it
    )
    degrees: str = _one_of(
        choices.DEGREE_RULES,
        'How hidden degrees are drawn. "uniform" is the paper\'s rule; "stratified" spreads them evenly, so that every output '
        "that can have inputs has some.",
        Option("masks", "--degrees"),
    )
    optimizer: str = _one_of(
        choices.OPTIMIZERS,
        "How parameters are updated. ``made_fast.kernels.optimizers`` has the rules and their sources.",
        Option("optimizer", "--optimizer"),
    )
    learning_rate: float | None = _value(
        2e-3, "Step size. None takes the optimizer's own.", "positive_float",
        Option("optimizer", "--learning-rate", "R", unset="the optimizer's own"), optional=True, change=ADJUSTABLE,
    )  # fmt: skip
    batch_size: int = _value(
        100, "Rows of a mini-batch.", "positive_int", Option("training", "--batch-size", "N"), change=ADJUSTABLE
    )
    max_epochs: int = _value(
        200, "Most passes over the training rows.", "positive_int", Option("training", "--max-epochs", "N"), change=HARMLESS
    )
    patience: int = _value(
        30, "Stop after this many epochs without a better validation score.", "positive_int",
        Option("training", "--patience", "N", "stop after N epochs without a better validation NLL"), change=HARMLESS,
    )  # fmt: skip
    weight_init: str = _one_of(
        choices.WEIGHT_INITS,
        'How weights are drawn. Those to the outputs are 0 unless ``bias_init`` is "zeros".',
        Option("network", "--weight-init"),
    )
    dtype: str = _one_of(
        choices.DTYPES,
        "Of parameters and arithmetic. Log-likelihoods are float64 always.",
        Option("network", "--dtype"),
        "dtype",
    )
    n_threads: int | None = _value(
        None, "Threads to use; by default the CPUs of this process. No bit of a result depends on it.", "n_threads",
        change=HARMLESS, noted=False,
    )  # fmt: skip
    random_state: int | Generator | SeedSequence | RandomState | None = _value(
        None, "An int makes ``fit`` repeat its bits.", "generator", noted=False
    )
    verbose: int = _value(
        0, "1 shows a progress bar, or a line a minute where there is no terminal; 2 a line an epoch.", "verbosity",
        change=HARMLESS, noted=False,
    )  # fmt: skip
    _: KW_ONLY
    n_masks: int | None = _value(
        1,
        "Connectivities that take turns, one a mini-batch; the model is the mixture over exactly these. None draws a fresh "
        "one for every mini-batch (sections 4.1 and 4.2); the model is then the mixture over ``n_eval_masks`` further ones.",
        "count",
        Option(
            "masks", "--masks", "N", "masks that take turns and then mix; 'unlimited': a fresh one each time", read="masks"
        ),
        optional=True,
    )
    resample: str = _one_of(
        choices.RESAMPLE,
        "What differs between masks: ordering and hidden degrees, the ordering only, the degrees only.",
        Option("masks", "--resample", help="what masks differ in"),
    )
    n_eval_masks: int = _value(
        300, "Masks of the model when ``n_masks`` is None.", "count",
        Option("masks", "--eval-masks", "N", "masks of the mixture after --masks unlimited"),
    )  # fmt: skip
    n_val_masks: int = _value(
        8, "Most masks, the first ones of the model, that validation rows are scored under while training.", "positive_int",
        Option("masks", "--val-masks", "N", "most masks that validation rows are scored under in training"), change=ADJUSTABLE,
    )  # fmt: skip
    direct_connections: str = _one_of(
        choices.DIRECT_CONNECTIONS,
        "Weights A from the inputs to the output layer (section 4.4), or to every layer but the first, masked to be strictly "
        "autoregressive.",
        Option("network", "--direct", help="layers with direct connections from the inputs"),
    )
    connectivity_weights: bool = _value(
        False, "Weights U that tell a unit how many inputs it is connected to (section 4.3).", "boolean",
        Option("network", "--connectivity-weights", help="give each unit weights for how many inputs it is connected to"),
    )  # fmt: skip
    bias_init: str = _one_of(
        choices.BIAS_INITS,
        "Where the biases of the outputs start: at the log-odds of the training rows' columns, "
        "``log((ones + 1) / (zeros + 1))``, counted by weight and among observed entries, with the weights to the outputs at "
        "0, so that training begins with independent Bernoulli variables; or at 0, as in the paper, with random weights.",
        Option("network", "--bias-init", help="where biases of outputs start: at the log-odds of the training rows, at 0"),
        before="zeros",
    )
    latent_points: int = _value(
        1,
        "With K > 1, the model is a latent mixture ``1/K sum_k p(x | z_k)``: one network, under one mask, whose biases depend "
        "on the point z_k; training minimises the NLL of the mixture. A step takes about K / 2 times as long.",
        "points",
        Option(
            "network",
            "--latent-points",
            "K",
            "mix K networks that differ in their biases; a step takes about K / 2 times as long",
            read="count",
        ),
    )
    optimizer_params: Mapping[str, float] | None = _value(
        None,
        "The optimizer's constants other than the learning rate, by name: sgd ``lr_decay`` (c of 1 / (1 + c t)); momentum "
        "``lr_decay, momentum``; adagrad ``eps``; adadelta and rmsprop ``rho, eps``; adam ``beta_1, beta_2, eps``.",
        "constants",
        Option("optimizer", "--optimizer-param", "NAME=X", "another constant, see below; may be repeated", read="constant"),
    )
    learning_rate_schedule: str | Callable[[int], float] = _one_of(
        choices.SCHEDULES,
        "What the learning rate is multiplied by in each epoch: 1; falling to 0 over ``max_epochs`` along a line or half a "
        "cosine; or a function of the epoch's number (from 1).",
        Option("optimizer", "--schedule", help="how the learning rate falls to 0 over --max-epochs"),
        "choice_or_function",
        or_else=" or callable",
        change=ADJUSTABLE,
    )
    weight_decay: float = _value(
        0.0,
        "Weights, not biases, shrink by the factor ``1 - learning_rate * weight_decay`` a step, apart from the gradient.",
        "non_negative_float",
        Option("optimizer", "--weight-decay", "R", "weights shrink by rate * R a step"),
    )
    clip_norm: float | None = _value(
        None, "Scale a larger gradient down to this Euclidean norm.", "positive_float",
        Option("optimizer", "--clip-norm", "R", unset="never"), optional=True,
    )  # fmt: skip
    dropout: float = _value(
        0.25, "Probability that a hidden unit is dropped for a row in training; the others are scaled up.", "probability",
        Option("optimizer", "--dropout", "P", "probability that a hidden unit is dropped"),
    )  # fmt: skip
    averaging: float = _value(
        0.5,
        "The model has an exponential moving average of the parameters after each epoch, which keeps this share of itself "
        "when an epoch is added; validation rows score it too. 0: the parameters themselves.",
        "probability",
        Option("optimizer", "--averaging", "P", "share that a moving average over epochs keeps of itself; 0: no average"),
        before=0.0,
    )
    validation_fraction: float | None = _value(
        None, "Hold out this share of the rows given to ``fit`` for early stopping, when no ``X_val`` is given.", "fraction",
        optional=True, change=ADJUSTABLE,
    )  # fmt: skip
    binarize: float | None = _value(
        None, "Inputs above it count as 1, the others as 0. None demands 0/1 input.", "threshold", noted=False
    )
    columns: str | Mapping[str | int, Any] | None = _value(
        None,
        "What the columns of a table are that is not all 0/1. None infers it of a data frame (pandas, polars, Arrow, a dict "
        'of columns), and takes an array for 0/1; "infer" does so of an array, too; a mapping says it of some columns, by '
        'name or number: "binary", "categorical", "numeric", "ordered" (categories in ascending order), or a list of all '
        "categories in their order.",
        "columns",
        noted=False,
        optional=True,
    )
    categorical_features: Any = _value(
        "from_dtype",
        'Columns of categories, as in scikit-learn: their names, numbers, or a mask; "from_dtype": text, and what a data '
        "frame says to be categories.",
        "anything",
        noted=False,
    )
    n_bins: int | None = _value(
        None,
        "Levels of a numeric column, about; None: the square root of the number of rows, or a hundredth of it if that is "
        "more, 8 to 512, and fewer where there are more than 80 columns. A value that more rows than a bin's share have is a "
        "level of its own.",
        "count",
        Option("columns", "--bins", "N", "levels of a numeric column, about", unset="by the size of the table, 8 to 512"),
        optional=True,
        noted=False,
    )
    max_categories: int | None = _value(
        None, "Most levels of a categorical column: its rarest categories share one. None: as many as there are.",
        "categories", Option("columns", "--max-categories", "N", unset="all", read="count"), optional=True,
        noted=False,
    )  # fmt: skip
    handle_unknown: str = _one_of(
        choices.HANDLE_UNKNOWN,
        'What a category gets later that training does not show: an error, or with "rare" a level with the rarest ones.',
        Option("columns", "--unknown", help="what becomes of a category that training does not show", default="rare"),
        noted=False,
    )
    missing: str = _one_of(
        choices.MISSING,
        'What a missing entry is, in columns that are not 0/1: with "marginal" any value, and summed out; with "value" a '
        "level of its own in columns that have such in training.",
        Option("columns", "--missing", help="what a missing entry is: any value, or one of its own"),
        noted=False,
    )


HYPER: dict[str, About] = {stated.name: stated.metadata["about"] for stated in fields(HyperParameters)}
DEFAULTS: dict[str, Any] = {stated.name: stated.default for stated in fields(HyperParameters)}

Class = TypeVar("Class", bound=type)


def documented(cls: Class) -> Class:
    """Put the parameters into a class's docstring, in the place of ``{parameters}``; errors of its ``__init__`` name it."""
    from textwrap import fill

    entries, indent = [], 8 * " "
    for stated in fields(HyperParameters):
        about = HYPER[stated.name]
        names = ", ".join(f'"{name}"' for name in about.choices)
        kind = f"{{{names}}}{about.or_else}" if names else stated.type
        meaning = fill(about.meaning, 127, initial_indent=indent, subsequent_indent=indent)
        entries.append(f"{stated.name} : {kind}, default {stated.default!r}\n{meaning}")
    cls.__doc__ = cls.__doc__ and cls.__doc__.replace("{parameters}", "\n    ".join(entries))
    vars(cls).get("__init__", HyperParameters.__init__).__qualname__ = f"{cls.__name__}.__init__"
    return cls
