"""The doors of plain JSON: what each takes, and the method of a model that answers.

Rows are a list of objects, ``[{"age": 30, "sex": "Male"}]``, or an object of columns, ``{"age": [30], "sex": ["Male"]}``, or
a list of lists in the order of the model's columns; null is a missing entry. Every row has all columns: a name that is
misspelt is refused, and so is one that is left out. Rows come back in the form in which they came.

The options of a door, their JSON schemas and what they may be follow from the tables here. The methods of the models check
all else, and their texts are the refusals. Not here: HTTP (``app.py``), the Open Inference Protocol (``v2.py``).
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast.inference.density import ApproximationWarning
from made_fast.serving.bodies import RefusedError, refusing
from made_fast.serving.models import Served
from made_fast.serving.settings import Settings
from made_fast.tables import arguments
from made_fast.tables.arguments import shown
from made_fast.tables.choices import METHODS, N_WALKS
from made_fast.tables.columns.values import column_number

__all__ = ["DOORS", "ESTIMATES", "Door", "Question", "check_options", "check_walks", "hear_estimates", "heard", "question"]

MOST_CELLS = 4_000_000
"""Entries of an answer, rows times columns or levels."""

MOST_WALKS = 4_000_000
"""Walks behind the answers of a request, over all rows and members."""

FORMS = ("objects", "columns", "lists")

Json = dict[str, Any]
Texts = tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """A request to a door, taken apart; its rows are not checked yet."""

    served: Served
    rows: Any
    form: str
    n_rows: int
    context: Any
    options: Json
    n_threads: int | None

    @property
    def asking(self) -> Json:
        """The options that are those of the model's methods, by their names."""
        found = {name: self.options[name] for name in ("n_members", "n_walks", "random_state") if name in self.options}
        return found | {"n_threads": self.n_threads}

    def given(self) -> Json:
        """Return the rows' context, as an argument. Raises ValueError where the model is of 0/1 rows and has none."""
        self.served.check_context(self.context)
        return {} if self.served.table is None else {"context": self.context}


@dataclass(frozen=True)
class Door:
    """A question that models answer.

    ``answer`` gets a question, checked but for its rows, and returns what becomes JSON; it raises what models raise. The door
    to scores has none: they are computed for several requests together (``work.py``).
    """

    title: str
    takes_rows: bool
    options: Mapping[str, Any]
    """The options, and their defaults; ``...`` for those that must be given."""
    answer: Callable[[Question], Json] | None
    walks: str = ""
    """Which rows may take walks: "all", those with "gaps", or "" if that is checked when they are prepared."""
    tables_only: bool = False

    def schema(self) -> Json:
        """Return the JSON schema of a request."""
        properties: Json = {"rows": ROWS} if self.takes_rows else {}
        properties["context"] = CONTEXT
        for name, default in self.options.items():
            properties[name] = OPTIONS[name] | ({} if default is ... else {"default": default})
        needed = ["rows"] * self.takes_rows + [name for name, default in self.options.items() if default is ...]
        return {"type": "object", "properties": properties, "required": needed, "additionalProperties": False}


_entry: Json = {"type": ["number", "string", "boolean", "null"]}
ROWS: Json = {
    "description": "A list of objects, an object of columns, or a list of lists; null is a missing entry.",
    "anyOf": [
        {"type": "array", "items": {"type": "object", "additionalProperties": _entry}},
        {"type": "object", "additionalProperties": {"type": "array", "items": _entry}},
        {"type": "array", "items": {"type": "array", "items": _entry}},
    ],
}
CONTEXT: Json = {
    "description": "Rows of the context, for models that were fitted with one: as many as there are rows, or one for all.",
    "anyOf": [*ROWS["anyOf"], {"type": "null"}],
}
OPTIONS: dict[str, Json] = {
    "form": {"enum": list(FORMS), "description": "How rows are written; for 0/1 rows, lists are the shortest."},
    "method": {"enum": list(METHODS), "description": "The likelier value, the mean, or a draw."},
    "n": {"type": "integer", "minimum": 1, "description": "Rows to draw, for each row of a context."},
    "n_members": {"type": "integer", "minimum": 1, "maximum": 1000, "description": "Masks that answer for incomplete rows."},
    "n_walks": {"type": "integer", "minimum": 1, "maximum": 1_000_000, "description": "Walks behind each estimate."},
    "proba": {"type": "boolean", "description": "Whether the answer has the probability of every level."},
    "quantiles": {
        "type": ["array", "null"],
        "items": {"type": "number", "minimum": 0, "maximum": 1},
        "maxItems": 100,
        "description": "Of a column whose values have an order.",
    },
    "query": {"type": "string", "description": "Conditions: age > 40 and sex = 'Male'."},
    "random_state": {
        "type": ["integer", "null"],
        "minimum": 0,
        "maximum": 2**63 - 1,
        "description": "Of draws and estimates: the same number gives the same ones; null: fresh ones.",
    },
    "relative": {"type": "boolean", "description": "For anomalies: numbers count by how wide their level is."},
    "target": {"type": ["string", "integer"], "description": "A column, by name or by number from 0."},
}

ESTIMATES = {"n_members": 1, "n_walks": N_WALKS, "random_state": 0}


def question(served: Served, door: Door, body: Any, settings: Settings) -> Question:
    """Take a request apart. Raises RefusedError for what is not of the door's form, or too much."""
    if not isinstance(body, dict):
        raise RefusedError(422, f"the body must be an object, got {shown(body)}.")
    known = (("rows",) if door.takes_rows else ()) + ("context", *door.options)
    for name in body:
        if name not in known:
            raise RefusedError(422, f"the body may have {', '.join(known)}, got {shown(name)}.")
    for name in ("rows",) * door.takes_rows + tuple(name for name, default in door.options.items() if default is ...):
        if name not in body:
            raise RefusedError(422, f"the body must have {name!r}.")
    if door.tables_only and served.table is None:
        raise RefusedError(422, f"{served.name} is a model of 0/1 rows; this question is for one of a table.")
    options = {name: body.get(name, default) for name, default in door.options.items()}
    rows, form, n_rows = None, "", 1
    if door.takes_rows:
        rows, form, n_rows = _rows(body["rows"], "rows", settings.max_rows)
    given, _, n_given = (None, "", 1) if body.get("context") is None else _rows(body["context"], "context", settings.max_rows)
    check_options(options)
    if door.walks == "all":
        check_walks(max(n_rows, n_given), options)
    elif door.walks == "gaps":
        check_walks(_n_gaps(rows), options)
    return Question(served, rows, form, max(n_rows, n_given), given, options, settings.threads)


def check_options(options: Json) -> None:
    """Refuse wrong options of estimates, also where nothing has to be estimated."""
    for name in ("n_walks", "n_members"):
        _bound(options, name)
    if options.get("random_state") is not None:
        with refusing():
            arguments.non_negative_int(options["random_state"], "random_state")


def check_walks(n_rows: int, options: Json) -> None:
    """Refuse, with 413, a question about incomplete rows that may take more than ``MOST_WALKS``."""
    walks = n_rows * _bound(options, "n_walks") * _bound(options, "n_members")
    if walks > MOST_WALKS:
        raise RefusedError(
            413, f"incomplete rows x n_walks x n_members must be at most {MOST_WALKS:,}, got {walks:,}. Send fewer rows."
        )


def _n_gaps(rows: Any) -> int:
    """Return how many rows have a null."""
    if not isinstance(rows, dict):
        return sum(isinstance(row, list) and None in row for row in rows)
    gone: set[int] = set()
    for values in rows.values():
        if isinstance(values, list) and None in values:
            gone.update(i for i, value in enumerate(values) if value is None)
    return len(gone)


def _bound(options: Json, name: str) -> int:
    """Return a number of members or walks, at most what its schema says; 1 where the door has none."""
    if name not in options:
        return 1
    with refusing():
        value = arguments.count(options[name], name)
    if value > OPTIONS[name]["maximum"]:
        raise RefusedError(422, f"{name} must be at most {OPTIONS[name]['maximum']:,}, got {value:,}.")
    return value


def _rows(given: Any, name: str, most: int) -> tuple[Any, str, int]:
    """Return rows as the models take them, their form, and how many; RefusedError for too many, and for other forms."""
    found: Any = given
    if isinstance(given, dict):
        n, form = max((len(values) for values in given.values() if isinstance(values, list)), default=0), "columns"
    elif isinstance(given, list):
        n = len(given)
        form = "objects" if n and isinstance(given[0], dict) else "lists"
    else:
        raise RefusedError(
            422, f"{name} must be a list of objects, an object of columns or a list of lists, got {shown(given)}."
        )
    if n > most:
        raise RefusedError(413, f"{name} must be at most {most:,} rows, got {n:,}. Send them in parts.")
    if form == "objects":
        found = _columns(given, name)
    return found, form, n


def _columns(rows: list[Any], name: str) -> dict[str, list[Any]]:
    """Return a list of objects as columns; all must have the names of the first."""
    first = rows[0]
    found: dict[str, list[Any]] = {}
    try:
        for label in first:
            found[label] = [row[label] for row in rows]
        odd = next((i for i, row in enumerate(rows) if len(row) != len(first)), None)
    except (KeyError, TypeError, IndexError):
        odd = next(i for i, row in enumerate(rows) if not isinstance(row, dict) or row.keys() != first.keys())
    if odd is None:
        return found
    row = rows[odd]
    if not isinstance(row, dict):
        raise RefusedError(422, f"{name} must be a list of objects, got {shown(row)} for row {odd}.")
    differing = shown(sorted(row.keys() ^ first.keys())[:5])
    raise RefusedError(
        422, f"{name} must have the same names in every row, got others in row {odd} than in row 0: {differing}."
    )


def _as(form: str, columns: Mapping[str, NDArray[Any]]) -> Any:
    """Return columns in a form of rows."""
    lists = {name: values.tolist() for name, values in columns.items()}
    if form == "columns":
        return lists
    rows = zip(*lists.values(), strict=True)
    return [list(row) for row in rows] if form == "lists" else [dict(zip(lists, row, strict=True)) for row in rows]


def _check_cells(n: int, width: int, what: str) -> None:
    if n * width > MOST_CELLS:
        raise RefusedError(413, f"an answer must have at most {MOST_CELLS:,} entries, got {n:,} rows of {width:,} {what}.")


def _explain(asked: Question) -> Json:
    _check_cells(asked.n_rows, len(asked.served.names), "columns")
    X, table = asked.served.rows(asked.rows), asked.served.table
    if table is not None:
        options = {name: asked.options[name] for name in ("relative", "n_walks", "random_state")}
        found = table.explain(X, n_threads=asked.n_threads, **asked.given(), **options)
    else:
        asked.given()
        if arguments.boolean(asked.options["relative"], "relative"):
            raise ValueError("relative must be left out: the model is of 0/1 rows, which have no units.")
        found = asked.served.density.explain(X, n_threads=asked.n_threads)
    return {"columns": list(asked.served.names), "contributions": found}


def _sample(asked: Question) -> Json:
    served, form = asked.served, arguments.choice(asked.options["form"], "form", FORMS)
    n = arguments.positive_int(asked.options["n"], "n")
    _check_cells(n * asked.n_rows, len(served.names), "columns")
    draws = (n, asked.options["random_state"])
    found: Any = (served.table or served.density).sample(*draws, n_threads=asked.n_threads, **asked.given())
    return {"rows": _as(form, found if served.table is not None else dict(zip(served.names, found.T, strict=True)))}


def _impute(asked: Question) -> Json:
    served = asked.served
    _check_cells(asked.n_rows, len(served.names), "columns")
    X, given = served.rows(asked.rows), asked.given()
    model: Any = served.table or served.density
    found = model.impute(X, asked.options["method"], **given, **asked.asking)
    return {"rows": _as(asked.form, found if served.table is not None else dict(zip(served.names, found.T, strict=True)))}


def _conditional(asked: Question) -> Json:
    served, options, table = asked.served, asked.options, asked.served.table
    wants_proba, quantiles = arguments.boolean(options["proba"], "proba"), options["quantiles"]
    if quantiles is not None and not (isinstance(quantiles, list) and all(type(q) in (int, float) for q in quantiles)):
        raise TypeError(f"quantiles must be a list of numbers or null, got {shown(quantiles)}.")
    if quantiles is not None and len(quantiles) > OPTIONS["quantiles"]["maxItems"]:
        raise ValueError(f"quantiles must be at most {OPTIONS['quantiles']['maxItems']}, got {len(quantiles)}.")
    v = column_number(options["target"], served.names, "target")
    X, given = served.rows(asked.rows), asked.given()
    if table is None:
        if quantiles is not None:
            raise ValueError("quantiles must be left out: the model is of 0/1 rows.")
        one = np.asarray(served.density.conditional(X, v, **asked.asking))
        proba = np.column_stack([1 - one, one])
        found: Json = {"values": [0, 1], "mode": (one > 0.5).astype(np.int64), "mean": one}
    else:
        _check_cells(asked.n_rows, int(table.columns.n_levels[v]), "levels")
        known = table.conditional(X, v, **given, **asked.asking)
        proba = known.proba
        found = {"values": known.values.tolist(), "mode": known.mode().tolist()}
        if table.columns.columns[v].kind == "numeric":
            found["mean"] = known.mean()
        if quantiles is not None:
            found["quantiles"] = [known.quantile(q).tolist() for q in quantiles]
    return {"column": served.names[v], **found} | ({"proba": proba} if wants_proba else {})


def _query(asked: Question) -> Json:
    assert asked.served.table is not None
    options = {"return_std": True, **asked.asking}
    found = asked.served.table.probability(_text(asked.options["query"]), context=asked.context, **options)
    p, std = (np.atleast_1d(each) for each in found)
    return {"p": p, "std": std}


def _text(query: Any) -> str:
    if not isinstance(query, str):
        raise TypeError(f"query must be text, got {shown(query)}.")
    return query


DOORS: dict[str, Door] = {
    "score": Door("Log-likelihood of rows, in nats; of what is there of incomplete ones.", True, ESTIMATES, None),
    "explain": Door(
        "What each column adds to the negative log-likelihood of a row, in nats.",
        True,
        {"relative": False, "n_walks": N_WALKS, "random_state": 0},
        _explain,
        "gaps",
    ),
    "sample": Door("Draws of rows.", False, {"n": 1, "random_state": None, "form": FORMS[0]}, _sample),
    "impute": Door("Rows with what is missing filled in.", True, {"method": METHODS[0], **ESTIMATES}, _impute, "gaps"),
    "conditional": Door(
        "The distribution of a column of each row, given all else that is there.",
        True,
        {"target": ..., "proba": True, "quantiles": None, **ESTIMATES},
        _conditional,
        "all",
    ),
    "query": Door(
        "The probability that a row satisfies a query.", False, {"query": ..., **ESTIMATES}, _query, "all", tables_only=True
    ),
}
"""The doors of every model, by the last part of their address."""


_hearing = threading.local()


def hear_estimates() -> None:
    """Let warnings of estimates go into the answers of this process; Python's own way to catch them is not for threads."""
    warnings.simplefilter("always", ApproximationWarning)
    shown_before = warnings.showwarning

    def hear(message: Warning | str, *rest: Any, **more: Any) -> None:
        notes = getattr(_hearing, "notes", None)
        if isinstance(message, ApproximationWarning) and notes is not None:
            notes.append(message.finding)
        else:
            shown_before(message, *rest, **more)

    warnings.showwarning = hear


@contextmanager
def heard() -> Iterator[list[str]]:
    """Yield a list that gets what this thread is warned of."""
    _hearing.notes = []
    try:
        yield _hearing.notes
    finally:
        _hearing.notes = None
