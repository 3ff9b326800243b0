"""Conditions on columns, ``age > 40 and sex in (Male, Female)``, as the share of each level that satisfies them.

A query is a conjunction. Its text is untrusted: it is cut into tokens and read by the grammar below, nothing is evaluated.

    query       condition {"and" condition}
    condition   name ("=" | "==" | "!=" | "<>" | "<" | "<=" | ">" | ">=") value
              | name ["not"] "in" "(" value {"," value} ")"
              | name ["not"] "between" value "and" value
              | name "is" ["not"] "null"
    name        bare word, "in double quotes" or `in backticks`
    value       bare word or number, 'in quotes' or "in double quotes"

A quote in quotes is doubled; keywords are of either case. As in SQL, a missing value satisfies "is null" alone.

Not here: what a condition leaves of a column's levels (``conditions.py``), probabilities of levels, which are the model's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from made_fast.tables.arguments import shown
from made_fast.tables.columns.conditions import Condition, Weights, weights
from made_fast.tables.columns.schema import Columns
from made_fast.tables.columns.values import called

__all__ = ["parse"]

MOST_CHARACTERS = 1 << 14  # of a query
MOST_VALUES = 1000  # of a list in it
FORMS = (
    "Conditions are x = 1, x != 1, x < 1 (<=, >, >=), x in (1, 2), x between 1 and 2, x is null; several are joined by and."
)
KEYWORDS = ("and", "between", "in", "is", "not", "null")
OPERATORS = {"==": "=", "<>": "!="} | {each: each for each in ("=", "!=", "<", "<=", ">", ">=")}
TOKEN = re.compile(
    r"""\s*(?:(?P<quoted>'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`)|(?P<sign><=|>=|<>|!=|==|[=<>(),])|(?P<word>[^\s,()=<>!'"`]+))"""
)


def parse(query: Any, columns: Columns) -> list[Weights | None]:
    """Return for each column the share of each level that satisfies the query, (n_levels,), or None for no condition.

    ``query`` is text, as above, or a mapping of columns to a value, a list of values, a tuple (lowest, highest) of which
    either may be None, or None for missing: ``{"age": (40, None), "sex": ["Male"]}``. Raises ValueError or TypeError, which
    says what is known, for an unknown column or value, and for a single value of a column that has a density.
    """
    if isinstance(query, str):
        conditions = list(_Parser(query, columns).conditions())
    elif isinstance(query, Mapping):
        conditions = [_of_pair(label, demand, columns) for label, demand in query.items()]
    else:
        raise TypeError(
            f"a query must be text or a mapping of columns to values, got {shown(query)} of type {type(query).__name__}."
        )
    by_column: dict[int, list[Condition]] = {}
    for condition in conditions:
        by_column.setdefault(condition.v, []).append(condition)
    out: list[Weights | None] = [None] * len(columns)
    for v, demands in by_column.items():
        column = columns.columns[v]
        nulls = [demand.operator for demand in demands if demand.operator.endswith("null")]
        if "null" in nulls and not column.missing:
            raise ValueError(
                f"a query for null must be of a column with a level for missing values, got {called(column.name)}, where they "
                "may be any value. Fit with missing='value', on rows in which it has missing values."
            )
        others = [demand for demand in demands if not demand.operator.endswith("null")]
        if others or column.missing:
            out[v] = weights(column, others, "null" in nulls, "not null" in nulls)
    return out


def _of_pair(label: Any, demand: Any, columns: Columns) -> Condition:
    """Return the condition that an entry of a mapping is."""
    v = columns.number(label, "a query")
    if demand is None:
        return Condition(v, "null", ())
    if isinstance(demand, tuple):
        if len(demand) != 2 or demand == (None, None):
            raise ValueError(
                f"a range must be (lowest, highest), one of which may be None, got {shown(demand)} for {called(label)}."
            )
        return Condition(v, "range", demand)
    if isinstance(demand, list | set | frozenset | np.ndarray):
        values = tuple(value.item() if isinstance(value, np.generic) else value for value in demand)
        if not values:
            raise ValueError(f"a list of values must have at least one, got none for {called(label)}.")
        return Condition(v, "in", values)
    return Condition(v, "=", (demand.item() if isinstance(demand, np.generic) else demand,))


class _Parser:
    """The text of a query, token by token."""

    def __init__(self, text: str, columns: Columns) -> None:
        if len(text) > MOST_CHARACTERS:
            raise ValueError(f"a query must have at most {MOST_CHARACTERS} characters, got {len(text)}.")
        self.columns = columns
        self.tokens: list[tuple[str, str, int]] = []  # text, kind, place
        at, end = 0, len(text.rstrip())
        while at < end:
            found = TOKEN.match(text, at)
            if found is None:
                at += len(text[at:]) - len(text[at:].lstrip())
                raise ValueError(f"a query must have its quotes closed, got {shown(text[at:])} at character {at}. {FORMS}")
            kind = str(found.lastgroup)
            self.tokens.append((found[kind], kind, found.start(kind)))
            at = found.end()
        self.at = 0

    def conditions(self) -> Iterator[Condition]:
        yield self._condition()
        while self.at < len(self.tokens):
            self._keyword("and")
            yield self._condition()

    def _wrong(self, demand: str) -> ValueError:
        if self.at < len(self.tokens):
            text, _, place = self.tokens[self.at]
            found = f"{shown(text)} at character {place}"
        else:
            found = "the end of the query"
        return ValueError(f"a query must have {demand} here, got {found}. {FORMS}")

    def _next(self) -> str:
        """Return the next token in lower case if it is a bare word or a sign, otherwise nothing."""
        if self.at < len(self.tokens) and self.tokens[self.at][1] != "quoted":
            return self.tokens[self.at][0].lower()
        return ""

    def _skip(self, word: str) -> bool:
        if self._next() != word:
            return False
        self.at += 1
        return True

    def _keyword(self, word: str) -> None:
        if not self._skip(word):
            raise self._wrong(word)

    def _text(self, what: str, quotes: str) -> str:
        """Return a bare word, or what is in one of these quotes."""
        text, kind, _ = self.tokens[self.at] if self.at < len(self.tokens) else ("", "", 0)
        bare = kind == "word" and text.lower() not in KEYWORDS
        if not bare and not (kind == "quoted" and text[0] in quotes):
            raise self._wrong(what)
        self.at += 1
        return text if bare else text[1:-1].replace(2 * text[0], text[0])

    def _value(self) -> str:
        return self._text("a value (in quotes if it is a keyword or has blanks)", "'\"")

    def _condition(self) -> Condition:
        v = self.columns.number(self._text("the name of a column", '"`'), "a query")
        if self._skip("is"):
            negated = self._skip("not")
            self._keyword("null")
            return Condition(v, "not null" if negated else "null", ())
        if (operator := OPERATORS.get(self._next())) is not None:
            self.at += 1
            return Condition(v, operator, (self._value(),))
        negated = self._skip("not")
        if self._skip("between"):
            low = self._value()
            self._keyword("and")
            return Condition(v, "not range" if negated else "range", (low, self._value()))
        if not self._skip("in"):
            raise self._wrong("in or between" if negated else "=, !=, <, <=, >, >=, in, between or is")
        self._keyword("(")
        values = [self._value()]
        while self._skip(","):
            values.append(self._value())
        if len(values) > MOST_VALUES:
            raise ValueError(f"a query must have at most {MOST_VALUES} values in a list, got {len(values)}.")
        self._keyword(")")
        return Condition(v, "not in" if negated else "in", tuple(values))
