"""The commands that fit and write a model file: train, ensemble. Only the standard library until one of them runs."""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, NamedTuple

from made_fast.cli import files
from made_fast.cli.files import refusing
from made_fast.cli.options import TILES, UsageError, parser
from made_fast.system import signals
from made_fast.system.console import is_terminal, say

if TYPE_CHECKING:
    from made_fast.cli.report import AnyModel
    from made_fast.estimators.estimator import MADE
    from made_fast.inference.model import MADEModel
    from made_fast.tables.datasets import Dataset

__all__ = ["ensemble", "train"]

PARAMS = (
    "activation", "ordering", "degrees", "optimizer", "learning_rate", "batch_size", "max_epochs", "patience", "weight_init",
    "dtype", "n_masks", "resample", "n_eval_masks", "n_val_masks", "direct_connections", "connectivity_weights",
    "learning_rate_schedule", "weight_decay", "clip_norm", "dropout",
)  # fmt: skip
"""The parameters of MADE that the options give just so."""

MAY_CHANGE = ("max_epochs", "patience", "n_threads", "verbose")
"""The parameters that a resumed fit takes from the options; those of the checkpoint must be the same in all others."""


class _Plan(NamedTuple):
    """What is to be fitted to what: data, its splits, shape of a row as a picture, parameters of MADE, seed.

    ``names`` are those of the columns, ``notes`` what else the model file keeps.
    """

    dataset: Dataset
    splits: dict[str, Any]
    shape: tuple[int, int] | None
    params: dict[str, Any]
    seed: int
    names: tuple[str, ...] | None
    notes: dict[str, Any]


def train(args: argparse.Namespace) -> int:
    """Fit a model and write it to a file."""
    if args.resume and args.checkpoint is None:
        raise UsageError("--resume needs --checkpoint FILE, to know what to go on from.")
    if args.checkpoint is not None:
        from made_fast.training import checkpoint

        with refusing(OSError):
            checkpoint.check_writable(str(args.checkpoint))
    plan = _plan(args)
    from made_fast.estimators.estimator import MADE

    made = MADE(**plan.params, random_state=plan.seed)
    made._names = plan.names
    done = 0
    if args.checkpoint is not None and args.resume != args.checkpoint.exists():
        begun = "there is none yet" if args.resume else "it is replaced; --resume would go on from it"
        files.note(f"training begins anew with the checkpoint {args.checkpoint}: {begun}.")
    elif args.resume:
        made = _resumed(args, plan)
        done = len(made.history_)

    def save() -> None:
        _save(_with_notes(made.model_, args, plan, random_state=made.random_state, best_epoch=made.best_epoch_), args)

    begin = time.perf_counter()
    try:
        with _quietly(), refusing(ValueError):
            made.fit(
                plan.splits["train"],
                X_val=plan.splits.get("valid"),
                checkpoint=args.checkpoint,
                checkpoint_every=args.checkpoint_every,
            )
        seconds = time.perf_counter() - begin
        with signals.held():
            save()
    except FloatingPointError as error:
        raise UsageError(f"{error} {_save_unfinished(made, plan, save, args)}") from error
    except OSError as error:
        if args.checkpoint is None or error.errno is None:
            raise
        why = f"cannot write {args.checkpoint}: {error.strerror or error}."
        raise UsageError(f"{why} {_save_unfinished(made, plan, save, args)}") from error
    except KeyboardInterrupt as stop:
        say(f"made-fast: interrupted. {_save_unfinished(made, plan, save, args)}")
        return signals.code_of(stop)
    course = f"{_course(made, plan)}, {_circumstances(args, plan, made, seconds, done)}"
    return _report(args, plan, made, course)


def ensemble(args: argparse.Namespace) -> int:
    """Fit several models and write their mixture to a file."""
    plan = _plan(args)
    if args.weights == "em" and "valid" not in plan.splits:
        raise UsageError("--weights em needs validation rows: DATA has none, and --valid-fraction is 0.")
    from made_fast.estimators.ensemble import MADEEnsemble

    jobs = min(args.members, args.jobs or plan.params["n_threads"])
    made = MADEEnsemble(args.members, weights=args.weights, n_jobs=jobs, random_state=plan.seed, **plan.params)
    made._names = plan.names
    begin = time.perf_counter()
    try:
        with _quietly(), refusing(ValueError):
            made.fit(plan.splits["train"], X_val=plan.splits.get("valid"))
    except FloatingPointError as error:
        raise UsageError(f"{error} Nothing was saved.") from error
    except KeyboardInterrupt as stop:
        below_the_bars = "\n" if is_terminal() and not args.quiet else ""
        say(f"{below_the_bars}made-fast: interrupted. Nothing was saved: the ensemble was not complete.")
        return signals.code_of(stop)
    seconds = time.perf_counter() - begin
    epochs = ", ".join(f"{member.best_epoch_} of {len(member.history_)}" for member in made.members_)
    best = [member.best_epoch_ for member in made.members_]
    model = _with_notes(made.model_, args, plan, random_state=plan.seed, best_epochs=best)
    course = f"best epochs {epochs}, {_circumstances(args, plan, made, seconds)}"
    try:
        with signals.held():
            _save(model, args)
    except KeyboardInterrupt as stop:
        return _interrupted_report(args, stop)
    return _report(args, plan, made, course, parts=True)


# Before


def _plan(args: argparse.Namespace) -> _Plan:
    """Check the options and load the data."""
    import secrets

    from made_fast.cli import tables
    from made_fast.inference import modelfile
    from made_fast.kernels.optimizers import OPTIMIZERS
    from made_fast.system import threads
    from made_fast.tables import arguments

    constants = dict(args.optimizer_params or ())
    with refusing(ValueError):
        hidden_sizes = arguments.hidden_sizes([] if args.hidden == [0] else args.hidden)
        arguments.constants(constants, "--optimizer-param", [name for name in OPTIMIZERS[args.optimizer].names[1:] if name])
    dataset = files.load_data(args)
    shape = args.shape or dataset.shape
    if args.shape is not None or args.samples is not None:
        files.check_shape(shape, dataset.train.shape[1])
    params: dict[str, Any] = {name: getattr(args, name) for name in PARAMS}
    params |= {"hidden_sizes": hidden_sizes, "optimizer_params": constants or None}
    params |= {"n_threads": args.threads or threads.available(), "verbose": 0 if args.quiet else 1}
    seed = secrets.randbits(32) if args.seed is None else args.seed
    notes = {"data": dataset.name, "shape": shape}
    if dataset.index_base is not None:
        notes["index_base"] = dataset.index_base
    names = dataset.feature_names
    with refusing(UnicodeError):
        json.dumps(notes, ensure_ascii=False).encode()  # now, not when a model is to be lost
    try:
        modelfile.encode_names(names)
    except ValueError as error:
        files.note(f"the model does without names of columns: {error}")
        names = None
    plan = _Plan(dataset, tables.splits(dataset), shape, params, seed, names, notes)
    for flag, why in _without_effect(args, plan):
        files.note(f"{flag} has no effect: {why}.")
    return plan


def _without_effect(args: argparse.Namespace, plan: _Plan) -> Iterator[tuple[str, str]]:
    """Tell which options change nothing, though they were given, and why."""
    from made_fast.cli import tables

    default, valid = parser().parse_args([args.command, "digits"]), "valid" in plan.splits
    one_mask = args.n_masks == 1 and not any(map(tables.n_missing, plan.splits.values()))
    idle = {
        "there are no validation rows": () if valid else ("patience", "n_val_masks"),
        "there is one mask": ("resample", "n_val_masks") if one_mask else (),
        "--masks is not unlimited": () if args.n_masks is None else ("n_eval_masks",),
        "there is no hidden layer": () if plan.params["hidden_sizes"] else ("activation", "degrees", "dropout"),
        "there is no --checkpoint": () if getattr(args, "checkpoint", None) else ("checkpoint_every",),
    }
    told = set()
    for why, names in idle.items():
        for name in names:
            if name not in told and getattr(args, name, None) != getattr(default, name, None):
                told.add(name)
                yield f"--{name.removeprefix('n_').replace('_', '-')}", why


def _resumed(args: argparse.Namespace, plan: _Plan) -> MADE:
    """Return the estimator of the checkpoint, if it is one of the fit that the options describe."""
    from made_fast.estimators.estimator import MADE
    from made_fast.inference.header import ModelFileError
    from made_fast.tables import names

    with refusing(OSError, ModelFileError):
        made = MADE.resume(args.checkpoint)
    known, D = made.get_params(), plan.dataset.train.shape[1]
    if made.n_features_in_ != D:
        raise UsageError(f"{args.checkpoint} is a checkpoint for {made.n_features_in_} inputs, but {args.data} has {D}.")
    with refusing(ValueError):
        names.check(plan.names, getattr(made, "feature_names_in_", None), args.data, "Give the data of the first run.")
    seed = {} if args.seed is None else {"random_state": args.seed}
    for name, value in (plan.params | seed).items():
        if name not in MAY_CHANGE and json.dumps(value) != json.dumps(known[name]):
            was, now = json.dumps(known[name]), json.dumps(value)
            raise UsageError(
                f"{args.checkpoint} was made with {name} = {was}, but the options say {now}. "
                "Repeat the options of the first run, or leave --resume out to begin anew."
            )
    made.set_params(**{name: plan.params[name] for name in MAY_CHANGE})
    return made


@contextmanager
def _quietly() -> Iterator[None]:
    """Let validation scores of rows with missing entries be estimates, and rows without names, without a word.

    The report tells of the estimates in the end; the names were compared by ``_resumed``.
    """
    from made_fast.inference.queries import ApproximationWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ApproximationWarning)
        warnings.filterwarnings("ignore", "X does not have valid feature names")
        yield


# After


def _with_notes(model: AnyModel, args: argparse.Namespace, plan: _Plan, **notes: Any) -> AnyModel:
    """Return the model with what the estimator does not know: the threshold that the data came through, and notes."""
    from made_fast.inference.mixture import MixtureModel
    from made_fast.inference.model import MADEModel

    def with_threshold(single: MADEModel, **more: Any) -> MADEModel:
        hyper = {**single.hyper, "ordering": args.ordering, **more}
        options = {"rule": single.rule, "binarize": args.threshold, "hyper": hyper, "feature_names": single.feature_names}
        return MADEModel(single.source, single.masks, **options)

    notes |= plan.notes
    if isinstance(model, MixtureModel):
        return MixtureModel([with_threshold(m) for m in model.members], model.weights, hyper={**model.hyper, **notes})
    return with_threshold(model, **notes)


def _save(model: AnyModel, args: argparse.Namespace) -> None:
    """Save the model; where the disk has become full meanwhile, say, in a folder for temporary files, and say so."""
    try:
        model.save(args.out)
    except OSError as error:
        why = f"cannot write {args.out}: {error.strerror or error}."
        try:
            refuge = Path(mkdtemp(prefix="made_fast-")) / args.out.name
            model.save(refuge)
        except OSError:
            raise UsageError(f"{why} The model is lost.") from error
        raise UsageError(f"{why} The model is saved in {refuge}.") from error


def _save_unfinished(made: MADE, plan: _Plan, save: Callable[[], None], args: argparse.Namespace) -> str:
    """Save the model of a fit that was cut short, if it is of any use, and say what happened."""
    import numpy as np

    go_on = " To go on, add --resume." if args.checkpoint and args.checkpoint.exists() else ""
    if not getattr(made, "best_epoch_", 0):
        return "Nothing was saved: no epoch was finished."
    if not np.isfinite(made.model_.source.vector).all():
        return "Nothing was saved: without validation rows no earlier parameters were kept."
    with signals.held(drop=True):
        save()
    which = "best parameters so far, those of" if plan.dataset.valid is not None else "parameters after"
    return f"The {which} epoch {made.best_epoch_}, are saved in {args.out}.{go_on}"


def _course(made: MADE, plan: _Plan) -> str:
    n = len(made.history_)
    return f"epoch {made.best_epoch_} of {n} is the best" if plan.dataset.valid is not None else f"{n} epochs"


def _circumstances(args: argparse.Namespace, plan: _Plan, made: Any, seconds: float, done: int = 0) -> str:
    """Return where a fit went on, its time, its speed (of the training passes alone), threads and seed."""
    words = [f"on from epoch {done}"] if done else []
    words.append(f"{seconds:.1f} s")
    records = getattr(made, "history_", [])[done:]
    if records:
        speed = plan.dataset.train.shape[0] * len(records) / sum(record["seconds"] for record in records)
        words.append(f"{speed:,.0f} rows/s")
    words.append(f"{made.n_threads} thread{'s' if made.n_threads != 1 else ''}")
    return ", ".join([*words, f"seed {made.random_state}"])


def _report(args: argparse.Namespace, plan: _Plan, made: Any, course: str, *, parts: bool = False) -> int:
    """Print what was fitted, how it went and what it scores; draw samples, if asked to. The model is saved by now."""
    try:
        _print_all(args, plan, made, course, parts)
    except KeyboardInterrupt as stop:
        return _interrupted_report(args, stop)
    return 0


def _interrupted_report(args: argparse.Namespace, stop: KeyboardInterrupt) -> int:
    say(f"made-fast: interrupted. The model is saved in {args.out}.")
    return signals.code_of(stop)


def _print_all(args: argparse.Namespace, plan: _Plan, made: Any, course: str, parts: bool) -> None:
    from made_fast.cli import report

    model, not_drawn = made.model_, None
    if args.samples is not None:
        try:
            files.write_png(args.samples, made.sample(TILES, made.random_state), plan.shape)
        except UsageError as error:
            not_drawn = error
    print(f"data        {report.describe_data(plan.dataset, plan.shape, args.threshold)}")
    print(f"model       {report.describe_model(model)}, {args.ordering} ordering")
    print(f"training    {course}\n", flush=True)
    ask = report.Asking(made.n_threads)
    scores = {name: report.score(model, X, ask, parts=parts) for name, X in plan.splits.items()}
    report.print_scores(plan.dataset, plan.splits, scores, ask)
    report.print_parts(model, scores)
    print(f"\nmodel file  {report.describe_file(args.out)}")
    if not_drawn is not None:
        raise not_drawn
    if args.samples is not None:
        print(f"samples     {report.describe_file(args.samples)}")
