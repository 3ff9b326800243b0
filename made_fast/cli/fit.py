"""The commands that fit a model and write its file: train, ensemble. Not here: the fit (``estimators/``), the report."""

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

import numpy as np

from made_fast.cli import files, images, ranks, report, tables
from made_fast.cli.files import refusing
from made_fast.cli.options import TILES, UsageError
from made_fast.inference import modelfile
from made_fast.inference.density import ApproximationWarning
from made_fast.inference.tablemodel import TableModel
from made_fast.inference.tensorfile import ModelFileError
from made_fast.system import signals, threads
from made_fast.system.console import is_terminal, say
from made_fast.tables import names
from made_fast.tables.choices import TIME_BUDGET
from made_fast.tables.reading import rawtable
from made_fast.tables.reading.datasets import Dataset, n_missing
from made_fast.tables.reading.rawtable import RawTable
from made_fast.training import checkpoint, recipe
from made_fast.training.hyper import DEFAULTS, HARMLESS, HYPER
from made_fast.training.reduce import ranks_of

if TYPE_CHECKING:  # scikit-learn is imported when the options and the data are right
    from made_fast.estimators.estimator import MADE

__all__ = ["ensemble", "train"]

FLAGS = {name: about.option.flag for name, about in HYPER.items() if about.option}
"""The options that set parameters of MADE."""

OF_TABLES = tuple(name for name, about in HYPER.items() if about.option and about.option.group == "columns")
"""The parameters about columns that are not 0/1."""


class _Plan(NamedTuple):
    """The data and the parameters of a fit."""

    dataset: Dataset | RawTable
    shape: tuple[int, int] | None  # of a row as a picture
    params: dict[str, Any]  # of MADE, but for random_state
    seed: int
    names: tuple[str, ...] | None  # of the columns
    notes: dict[str, Any]  # further notes of the model's file
    context: tuple[str, ...] = ()  # columns of a table that are given

    def rows(self) -> dict[str, Any]:
        """Return the arguments of fit that are rows."""
        train, valid = self.dataset.train, self.dataset.valid
        if not self.context:
            return {"X": train, "X_val": valid}
        assert isinstance(train, dict)
        X, context = rawtable.parted(train, self.context, self.dataset.name, "--context")
        given = {"X": X, "context": context}
        if isinstance(valid, dict):
            given["X_val"], given["context_val"] = rawtable.parted(valid, self.context, self.dataset.name, "--context")
        return given


def train(args: argparse.Namespace) -> int:
    """Fit a model and write it to a file."""
    comm = ranks.world() if args.mpi else None
    if args.average_every is not None and comm is None:
        raise UsageError("--average-every needs --mpi, the ranks that average.")
    with ranks_of(comm) as crew:
        with crew.agreed(UsageError), ranks.first_speaks(crew):
            made, plan = _begun(args)
        plan = plan._replace(seed=crew.of_first(plan.seed))
        made.set_params(random_state=crew.of_first(made.random_state))
        with crew.agreed(UsageError), refusing(TypeError, ValueError):
            given = ranks.share(crew, made, plan.rows())
    done = len(getattr(made, "history_", ()))

    def save() -> None:
        _save(_noted(made.model_, args, plan, random_state=made.random_state, best_epoch=made.best_epoch_), args.out)

    begin = time.perf_counter()
    try:
        with _quietly(), refusing(ValueError):
            made.fit(
                **given,
                checkpoint=args.checkpoint,
                checkpoint_every=args.checkpoint_every,
                comm=comm,
                average_every=args.average_every,
            )
        del given
        if crew.rank:
            return 0
        seconds = time.perf_counter() - begin
        with signals.held():
            save()
    except FloatingPointError as error:
        if crew.rank:
            raise UsageError(str(error)) from error
        raise UsageError(f"{error} {_save_unfinished(made, plan, save, args)}") from error
    except OSError as error:
        if args.checkpoint is None or error.errno is None:
            raise
        why = f"cannot write {args.checkpoint}: {error.strerror or error}."
        raise UsageError(f"{why} {_save_unfinished(made, plan, save, args)}") from error
    except KeyboardInterrupt as stop:
        say(f"made-fast: interrupted. {_save_unfinished(made, plan, save, args)}")
        return signals.code_of(stop)
    n, records = len(made.history_), made.history_[done:]
    course = [f"{n} epochs" if plan.dataset.valid is None else f"epoch {made.best_epoch_} of {n} is the best"]
    course += [f"on from epoch {done}"] if done else []
    course.append(f"{seconds:.1f} s")
    course += [f"{crew.size} ranks"] if crew.size > 1 else []
    if records:
        n_rows = _n_rows(plan.dataset.train) * len(records)
        course.append(f"{n_rows / sum(record['seconds'] for record in records):,.0f} rows/s")
    return _report(args, plan, made, course)


def _begun(args: argparse.Namespace) -> tuple[MADE, _Plan]:
    """Return the estimator, new or from a checkpoint, and what it is to be fitted to."""
    if args.resume and args.checkpoint is None:
        raise UsageError("--resume needs --checkpoint FILE, to know what to go on from.")
    if args.checkpoint is not None:
        with refusing(OSError):
            checkpoint.check_writable(str(args.checkpoint))
    plan = _plan(args)
    from made_fast.estimators.estimator import MADE

    made = MADE(**plan.params, random_state=plan.seed)
    made._names = plan.names
    if args.checkpoint is not None and args.resume != args.checkpoint.exists():
        begun = "there is none yet" if args.resume else "it is replaced; --resume would go on from it"
        files.note(f"training begins anew with the checkpoint {args.checkpoint}: {begun}.")
    elif args.resume:
        made = _resumed(args, plan)
    return made, plan


def ensemble(args: argparse.Namespace) -> int:
    """Fit several models and write their mixture to a file."""
    plan = _plan(args)
    best = args.preset == "best"
    for flag, given, usual in (("--time-budget", args.time_budget, TIME_BUDGET), ("--refit", args.refit, False)):
        if given != usual and not best:
            files.note(f"{flag} has no effect: --preset is not best.")
    if args.weights == "em" and plan.dataset.valid is None and not best:
        raise UsageError("--weights em needs validation rows: DATA has none, and --valid-fraction is 0.")
    from made_fast.estimators.ensemble import MADEEnsemble

    made = MADEEnsemble(
        args.members,
        weights=args.weights,
        n_jobs=args.jobs,
        preset=args.preset,
        time_budget=args.time_budget,
        refit=args.refit,
        random_state=plan.seed,
        **plan.params,
    )
    made._names = plan.names
    begin = time.perf_counter()
    try:
        with _quietly(), refusing(ValueError):
            made.fit(**plan.rows())
    except FloatingPointError as error:
        raise UsageError(f"{error} Nothing was saved.") from error
    except KeyboardInterrupt as stop:
        below_the_bars = "\n" if is_terminal() and not args.quiet and not best else ""
        if not hasattr(made, "model_"):
            say(f"{below_the_bars}made-fast: interrupted. Nothing was saved: the ensemble was not complete.")
            return signals.code_of(stop)
        with signals.held(drop=True):
            _save(_noted(made.model_, args, plan, random_state=plan.seed), args.out)
        say(f"made-fast: interrupted. The {len(made.members_)} members trained so far are saved in {args.out}.")
        return signals.code_of(stop)
    seconds = time.perf_counter() - begin
    best_epochs = [member.best_epoch_ for member in made.members_]
    epochs = ", ".join(f"{member.best_epoch_} of {len(member.history_)}" for member in made.members_)
    try:
        with signals.held():
            _save(_noted(made.model_, args, plan, random_state=plan.seed, best_epochs=best_epochs), args.out)
    except KeyboardInterrupt as stop:
        return _interrupted_report(args, stop)
    course = [f"best epochs {epochs}", f"{seconds:.1f} s"]
    if best:
        course.insert(0, f"chosen {json.dumps(recipe.plain(made.chosen_))}")
    return _report(args, plan, made, course, parts=True)


def _plan(args: argparse.Namespace) -> _Plan:
    """Check the options and load the data."""
    import secrets

    params: dict[str, Any] = {name: getattr(args, name) for name in FLAGS}
    params["hidden_sizes"] = () if args.hidden_sizes == [0] else tuple(args.hidden_sizes)
    params["optimizer_params"] = dict(args.optimizer_params or ()) or None
    with refusing(ValueError):
        recipe.checked(params, called=FLAGS)
    dataset: Dataset | RawTable
    shape = None
    if files.is_table(args):
        dataset = files.load_table(args)
        if args.shape is not None:
            raise UsageError("--shape is for pictures of 0/1 rows; --samples draws the columns of a table.")
        if args.samples is not None and not images.has_matplotlib():
            raise UsageError("--samples of a table needs matplotlib, which is not installed: pip install 'made_fast[plot]'.")
    else:
        if args.context:
            raise UsageError("--context is for a table of any columns; --kind table reads 0/1 rows as one.")
        dataset = files.load_data(args)
        shape = args.shape or dataset.shape
        if args.shape is not None or args.samples is not None:
            files.check_shape(shape, dataset.train.shape[1])
    params |= {"n_threads": args.threads or threads.available(), "verbose": 0 if args.quiet else 1}
    seed = secrets.randbits(32) if args.seed is None else args.seed
    notes: dict[str, Any] = {"data": dataset.name}
    columns = None
    context: tuple[str, ...] = ()
    if isinstance(dataset, RawTable):
        with refusing(TypeError, ValueError):  # now, not after the options have been noted
            if args.context:
                assert isinstance(dataset.train, dict)  # read as a whole
                context = rawtable.named(args.context, dataset.train, "--context")
                rawtable.parted(dataset.train, context, args.data, "--context")
    else:
        notes["shape"] = shape
        if dataset.index_base is not None:
            notes["index_base"] = dataset.index_base
        columns = dataset.feature_names
    with refusing(UnicodeError):
        json.dumps(notes, ensure_ascii=False).encode()  # now, not when a model is to be lost
    try:
        modelfile.encode_names(columns)
    except ValueError as error:
        files.note(f"the model does without names of columns: {error}")
        columns = None
    plan = _Plan(dataset, shape, params, seed, columns, notes, context)
    for flag, why in _without_effect(args, plan):
        files.note(f"{flag} has no effect: {why}.")
    return plan


def _without_effect(args: argparse.Namespace, plan: _Plan) -> Iterator[tuple[str, str]]:
    """Yield the options that are given but have no effect, and why."""
    is_table = isinstance(plan.dataset, RawTable)
    gaps: Any = rawtable.n_missing if is_table else n_missing
    in_memory = not isinstance(plan.dataset.train, rawtable.FileRows)  # a note is not worth a pass over a large file
    one_mask = args.n_masks == 1 and in_memory and not any(map(gaps, plan.dataset.splits.values()))
    idle = {
        "there are no validation rows": ("patience", "n_val_masks") if plan.dataset.valid is None else (),
        "there is one mask": ("resample", "n_val_masks") if one_mask else (),
        "--masks is not unlimited": () if args.n_masks is None else ("n_eval_masks",),
        "DATA is of 0/1 rows": () if is_table else OF_TABLES,
        "there is no hidden layer": () if plan.params["hidden_sizes"] else ("activation", "degrees", "dropout"),
    }
    told = set()
    for why, idle_names in idle.items():
        for name in idle_names:
            if name not in told and plan.params[name] != _default(name):
                told.add(name)
                yield FLAGS[name], why
    if getattr(args, "checkpoint_every", 1) != 1 and args.checkpoint is None:
        yield "--checkpoint-every", "there is no --checkpoint"


def _resumed(args: argparse.Namespace, plan: _Plan) -> MADE:
    """Return the estimator of the checkpoint, if it is one of the fit that the options describe."""
    from made_fast.estimators.estimator import MADE

    with refusing(OSError, ModelFileError):
        made = MADE.resume(args.checkpoint)
    known, rows = made.get_params(), plan.dataset.train
    D = len(rawtable.labels(rows)) - len(plan.context) if isinstance(rows, dict | rawtable.FileRows) else rows.shape[1]
    if made.n_features_in_ != D:
        raise UsageError(f"{args.checkpoint} is a checkpoint for {made.n_features_in_} inputs, but {args.data} has {D}.")
    with refusing(ValueError):
        names.check(plan.names, getattr(made, "feature_names_in_", None), args.data, "Give the data of the first run.")
    seed = {} if args.seed is None else {"random_state": args.seed}
    for name, value in (plan.params | seed).items():
        if name in made._fit_state.unsaid and value == DEFAULTS[name]:
            continue  # a version wrote it that had no such option
        was, now = json.dumps(known[name]), json.dumps(value)
        if HYPER[name].change != HARMLESS and was != now:
            raise UsageError(
                f"{args.checkpoint} was made with {FLAGS.get(name, '--seed')} = {was}, but the options say {now}. "
                "Repeat the options of the first run, or leave --resume out to begin anew."
            )
    made.set_params(**{name: value for name, value in plan.params.items() if HYPER[name].change == HARMLESS})
    return made


def _default(name: str) -> Any:
    """Return the default of the option that sets a parameter."""
    option = HYPER[name].option
    return DEFAULTS[name] if option is None or option.default is None else option.default


def _n_rows(rows: Any) -> int:
    return rawtable.length(rows) if isinstance(rows, dict | rawtable.FileRows) else int(rows.shape[0])


@contextmanager
def _quietly() -> Iterator[None]:
    """Ignore warnings about estimates, which the report shows, and about names, which ``_resumed`` has compared."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ApproximationWarning)
        warnings.filterwarnings("ignore", "X does not have valid feature names")
        yield


def _noted(model: Any, args: argparse.Namespace, plan: _Plan, **notes: Any) -> Any:
    """Return the model with the threshold of the data and notes, which the estimator does not know."""
    if isinstance(model, TableModel):
        return TableModel(_noted(model.density, args, plan, **notes), model.encoder)
    model = model.with_input(args.threshold)
    for single in report.single_models(model):
        single.hyper["ordering"] = args.ordering
    model.hyper |= notes | plan.notes
    return model


def _save(model: Any, path: Path) -> None:
    """Save the model; if the disk is full by now, in a folder for temporary files, with an error that names it."""
    try:
        model.save(path)
    except OSError as error:
        why = f"cannot write {path}: {error.strerror or error}."
        try:
            refuge = Path(mkdtemp(prefix="made_fast-")) / path.name
            model.save(refuge)
        except OSError:
            raise UsageError(f"{why} The model is lost.") from error
        raise UsageError(f"{why} The model is saved in {refuge}.") from error


def _save_unfinished(made: MADE, plan: _Plan, save: Callable[[], None], args: argparse.Namespace) -> str:
    """Save the model of a fit that was cut short, if it has an epoch and is finite; return a text about it."""
    go_on = " To go on, add --resume." if args.checkpoint and args.checkpoint.exists() else ""
    if not getattr(made, "best_epoch_", 0):
        return "Nothing was saved: no epoch was finished."
    if not np.isfinite(getattr(made.model_, "density", made.model_).source.vector).all():
        return "Nothing was saved: without validation rows no earlier parameters were kept."
    with signals.held(drop=True):
        save()
    which = "parameters after" if plan.dataset.valid is None else "best parameters so far, those of"
    return f"The {which} epoch {made.best_epoch_}, are saved in {args.out}.{go_on}"


def _report(args: argparse.Namespace, plan: _Plan, made: Any, course: list[str], *, parts: bool = False) -> int:
    """Print data, model, training and scores, and draw samples if asked to. The model is saved by now."""
    if isinstance(plan.dataset, RawTable):
        return _report_of_table(args, plan.dataset, made, course)
    course += [f"{made.n_threads} thread{'s' if made.n_threads != 1 else ''}", f"seed {made.random_state}"]
    try:
        not_drawn = None
        if args.samples is not None:
            try:
                files.write_png(args.samples, made.sample(TILES, made.random_state), plan.shape)
            except UsageError as error:
                not_drawn = error
        print(f"data        {report.describe_data(plan.dataset, plan.shape, args.threshold)}")
        print(f"model       {report.describe_model(made.model_)}, {args.ordering} ordering")
        print(f"training    {', '.join(course)}\n", flush=True)
        report.print_report(plan.dataset, plan.dataset.splits, made.model_, report.Asking(made.n_threads), parts=parts)
        print(f"\nmodel file  {report.describe_file(args.out)}")
        if not_drawn is not None:
            raise not_drawn
        if args.samples is not None:
            print(f"samples     {report.describe_file(args.samples)}")
    except KeyboardInterrupt as stop:
        return _interrupted_report(args, stop)
    return 0


def _report_of_table(args: argparse.Namespace, table: RawTable, made: Any, course: list[str]) -> int:
    """Print what :func:`_report` does, of a table."""
    course += [f"{made.n_threads} thread{'s' if made.n_threads != 1 else ''}", f"seed {made.random_state}"]
    try:
        print(f"data        {tables.describe_data(table)}")
        print(f"model       {tables.describe_model(made.model_)}, {args.ordering} ordering")
        print(f"training    {', '.join(course)}\n", flush=True)
        tables.print_report(table, table.splits, made.model_, report.Asking(made.n_threads))
        print(f"\nmodel file  {report.describe_file(args.out)}")
        if args.samples is not None:
            tables.picture(args, made.model_, table.train)
            print(f"picture     {report.describe_file(args.samples)}")
    except KeyboardInterrupt as stop:
        return _interrupted_report(args, stop)
    return 0


def _interrupted_report(args: argparse.Namespace, stop: KeyboardInterrupt) -> int:
    say(f"made-fast: interrupted. The model is saved in {args.out}.")
    return signals.code_of(stop)
