"""The fitted model of a table: a density over the levels of its columns, and the columns, which know values and units.

It turns tables into codes, asks the density, and turns codes into tables. Not here: the density (``model.py``,
``mixture.py``), columns (``tables/columns``), training.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from made_fast.inference import modelfile, tensorfile
from made_fast.inference.answering import Answers
from made_fast.inference.chunked import by_chunk
from made_fast.inference.conditional import Conditional, of_digits
from made_fast.inference.density import Density, log_p_observed, warn_of_estimates
from made_fast.inference.explaining import contributions
from made_fast.inference.pattern import Floats, Streams
from made_fast.inference.rows import LevelRows
from made_fast.network.masks import Variables
from made_fast.tables import arguments
from made_fast.tables.bits import pack_bits
from made_fast.tables.choices import METHODS, N_WALKS
from made_fast.tables.coded import Coded
from made_fast.tables.columns import query as queries
from made_fast.tables.columns.encoder import Encoder
from made_fast.tables.columns.values import called

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["Conditional", "TableModel"]

WITHIN = b"within"
"""Purpose of a stream: where in its level a number lies."""

EACH_AT_ONCE = 1 << 16
"""Rows times levels of a target that are asked at once."""


class TableModel:
    """A density over the rows of a table with columns of any kind: binary, categorical and numeric.

    ``log p(x)`` is the log-probability of the levels of a row plus the log-density of its numbers within their levels: nats of
    the original units. X is any table with the columns of training: a data frame (pandas, polars, Arrow), whose columns are
    matched by name, a mapping of names to columns, or an array. Tables that come back are like that of training. A missing
    entry (NaN, None, NA) may be anything, unless the model was fitted with ``missing="value"``.

    Every method but ``sample`` and ``save`` takes the ``context`` that belongs to its rows, if the model was fitted with one,
    and raises TypeError or ValueError for tables that are not like those of training, by the name of the column. For
    ``n_members``, ``n_walks``, ``random_state`` and ``n_threads`` see ``Density``.

    Parameters
    ----------
    density : Density
        Over the levels of the columns.
    encoder : Encoder
        The columns, and those of a context.

    Attributes
    ----------
    columns : Columns
    n_features_in, n_parameters : int
    feature_names : tuple of str or None
        Names of the columns, if the table of training had such.
    hyper : dict
        Notes on how the model came to be.
    """

    binarize: float | None = None

    def __init__(self, density: Density, encoder: Encoder) -> None:
        self.density, self.encoder, self.columns = density, encoder, encoder.columns
        self._digits = encoder.digits
        if _variables(density) != Variables.of(encoder.coding):
            raise ValueError("the columns must have the levels that the density is over, got others")
        self.n_features_in = len(encoder.columns)
        self.feature_names = encoder.columns.names if encoder.columns.named else None

    @property
    def hyper(self) -> dict[str, Any]:
        """Notes on how the model came to be."""
        return self.density.hyper

    @property
    def n_parameters(self) -> int:
        """The number of weights and biases."""
        return int(self.density.n_parameters)  # type: ignore[attr-defined]  # all but members of other libraries have it

    def __repr__(self) -> str:
        return f"TableModel({self.columns.kinds}: {self.density!r})"

    @by_chunk
    def score_samples(self, X: Any, *, context: Any = None, relative: bool = False, n_threads: int | None = None) -> Floats:
        """Return ``log p(x)`` of each row, (n,) in nats of the original units. Exact.

        ``relative``: numbers count by how wide their level is, in typical widths of their column, and not at all where it is
        narrow. That is no density, but free of units, and a value is not likely for being often repeated: for anomalies.
        Rows that miss something raise ValueError; :meth:`log_marginal` tells how likely what is there is.
        """
        codes, within = self._complete(X, context, arguments.boolean(relative, "relative"))
        log_p: Floats = self.density.score_samples(codes, n_threads=n_threads) + within.sum(axis=1)
        return log_p

    def score(self, X: Any, *, context: Any = None, n_threads: int | None = None) -> float:
        """Return the mean log-likelihood of the rows, or of what is there of rows that miss something, in nats."""
        return float(np.mean(self.log_observed(X, context=context, n_threads=n_threads)[0]))

    def log_observed(
        self, X: Any, *, context: Any = None, n_threads: int | None = None, warn: bool = True, **asking: Any
    ) -> tuple[Floats, Floats]:
        """Return log p of what is there of each row, and its standard error, (n,) both.

        Complete rows are scored under the whole model, the others by :meth:`log_marginal`, which takes ``asking``.
        """
        codes, within = self._coded(X, context)
        log_p, std = log_p_observed(self.density, codes, n_threads, warn=warn, **asking)
        return log_p + within.sum(axis=1), std

    def log_marginal(
        self,
        X: Any,
        *,
        context: Any = None,
        n_members: int = 1,
        n_walks: int = N_WALKS,
        random_state: Any = 0,
        return_std: bool = False,
        n_threads: int | None = None,
    ) -> Floats | tuple[Floats, Floats]:
        """Return the log-likelihood of what is there of each row, in nats. See ``Density.log_marginal``."""
        codes, within = self._coded(X, context)
        asked = self.density._asked(codes, n_members, n_walks, random_state, n_threads)
        log_p, std = asked.log_marginal()
        log_p += within.sum(axis=1)
        if return_std:
            return log_p, std
        warn_of_estimates("log_marginal", asked, std=std, unit=" nats")
        return log_p

    def explain(
        self,
        X: Any,
        *,
        context: Any = None,
        relative: bool = False,
        n_walks: int = N_WALKS,
        random_state: Any = 0,
        n_threads: int | None = None,
    ) -> Floats:
        """Return what each column adds to ``-log p(x)`` of each row, (n, V) in nats: the largest one makes the row odd.

        They add up to the negative log-likelihood, see ``inference/explaining.py``; ``relative`` as in :meth:`score_samples`.
        A missing entry adds nothing; what the others of such a row add is told by marginals, one column after the other.
        """
        codes, within = self._coded(X, context, "relative" if arguments.boolean(relative, "relative") else True)
        gone, threads = self._missing(codes), arguments.n_threads(n_threads)
        out = np.empty(gone.shape)
        complete = np.flatnonzero(~gone.any(axis=1))
        if len(complete):
            out[complete] = self._digits.total(contributions(self.density, codes.take(complete), threads))
        rest = np.flatnonzero(gone.any(axis=1))
        if len(rest):
            seed = int(arguments.generator(random_state).integers(2**62))
            out[rest] = self._by_marginals(codes.take(rest), n_walks, seed, threads)
        return out - within

    def _by_marginals(self, table: Coded, n_walks: int, seed: int, n_threads: int) -> Floats:
        """Return what each column adds to ``-log p(observed)``, (n, V): the chain rule over the observed ones."""
        first, gone, before = table.coding.n_context, self._missing(table), np.zeros(len(table))
        seen, out = table.rows.copy(), np.zeros(gone.shape)
        seen[:, first:] = -1
        for v in dict.fromkeys(self._digits.column_of[_first_order(self.density)].tolist()):
            seen[:, first:][:, self._digits.of(v)] = table.codes[:, self._digits.of(v)]
            there = np.flatnonzero(~gone[:, v])
            if len(there):  # a seed for each column: the estimates of a row depend on no other row
                rows = Coded(seen[there], table.coding)
                log_p, _ = self.density._asked(rows, 1, n_walks, seed + v, n_threads).log_marginal()
                out[there, v] = before[there] - log_p
                before[there] = log_p
        return out

    def sample(
        self,
        n_samples: int = 1,
        random_state: Any = None,
        *,
        context: Any = None,
        n_threads: int | None = None,
    ) -> Any:
        """Draw independent rows, as a table like that of training.

        With a context of several rows, ``n_samples`` are drawn for each: all for the first, then for the next.
        """
        n, rng = arguments.how_many(n_samples, "n_samples", max(8, self.n_features_in)), arguments.generator(random_state)
        given, coding = np.repeat(self.encoder.given(context), n, axis=0), self.encoder.coding
        bits = pack_bits(coding.indicators(given, 0, coding.n_context)) if coding.n_context else None
        codes = self._digits.join(self.density._rows(len(given), rng, arguments.n_threads(n_threads), bits))
        return self.columns.frame(self.columns.decode(codes, rng.random(codes.shape)))

    def sample_conditional(
        self,
        X: Any,
        n_draws: int = 1,
        *,
        context: Any = None,
        n_members: int = 1,
        n_walks: int = N_WALKS,
        random_state: Any = None,
        n_threads: int | None = None,
    ) -> list[Any]:
        """Draw what is missing of each row, given what is there; return n_draws tables. See ``Density.sample_conditional``."""
        codes, _ = self._coded(X, context, False)
        asked = self.density._asked(codes, n_members, n_walks, random_state, n_threads)
        n = arguments.how_many(n_draws, "n_draws", 64 * codes.rows.size)
        drawn, effective = asked.draws(n)
        warn_of_estimates("sample_conditional", asked, effective=effective)
        return [
            self.columns.completed(X, self.columns.decode(self._digits.join(each), places))
            for each, places in zip(drawn, self._places(asked, n), strict=True)
        ]

    @by_chunk
    def impute(
        self,
        X: Any,
        method: str = "mode",
        *,
        context: Any = None,
        n_members: int = 1,
        n_walks: int = N_WALKS,
        random_state: Any = 0,
        n_threads: int | None = None,
    ) -> Any:
        """Fill in what is missing; return the table.

        Parameters
        ----------
        method : {"mode", "mean", "sample"}
            "mode": one walk that gives each missing column its likeliest level, one after the other: a category, or the median
            of a bin. "mean": the mean of numbers, the likeliest category of other columns, each by itself. "sample": a draw.
            See ``Density.impute``.
        """
        how = arguments.choice(method, "method", METHODS)
        codes, _ = self._coded(X, context, False)
        asked = self.density._asked(codes, n_members, n_walks, random_state, n_threads)
        if how == "sample":
            (filled,), effective = asked.draws(1)
            arrays = self.columns.decode(self._digits.join(filled), self._places(asked, 1)[0])
        elif how == "mode":
            filled, effective = asked.modes()
            arrays = [self.columns.level_values(v)[code] for v, code in enumerate(self._digits.join(filled).T)]
        else:
            proba, effective = self._proba(asked)
            arrays = [self._mean(v, own) for v, own in enumerate(proba)]
        warn_of_estimates("impute", asked, effective=effective, within=1)
        return self.columns.completed(X, arrays)

    def _mean(self, v: int, proba: Floats) -> NDArray[Any]:
        """Return the means of a column of numbers, or its likeliest values, by the probabilities of its levels."""
        found = self._conditional(v, proba)
        return found.mean() if self.columns.columns[v].kind == "numeric" else found.mode()

    def _proba(self, asked: Answers) -> tuple[list[Floats], Floats]:
        """Return the probability of each level of each column, (n, C) each, and effective numbers of walks.

        Those of a column of two digits are estimates, which may be below 0.
        """
        first, digits = self.encoder.coding.first_levels, self._digits
        proba, effective = asked.means()
        if not digits.single:
            drawn, of_draws = asked.draws(asked.options.n_walks)
            drawn, effective = digits.join(drawn), np.minimum(effective, of_draws)
        out = []
        for v, column in enumerate(self.columns.columns):
            own = proba[:, first[digits.starts[v]] : first[digits.starts[v] + 1]]
            if digits.bases[v] > 1:
                own = of_digits(own, drawn[..., v], digits.bases[v], column)
            out.append(own)
        return out, effective

    def conditional(
        self,
        X: Any,
        target: Any,
        *,
        context: Any = None,
        n_members: int = 1,
        n_walks: int = N_WALKS,
        random_state: Any = 0,
        n_threads: int | None = None,
    ) -> Conditional:
        """Return the distribution of one column of each row given all else that is there: a classifier, or a regression.

        ``target`` is the name or the number of the column; X may lack it, and what it has there is ignored.
        """
        v = self.columns.number(target, "target")
        table, _ = self._coded(X, context, False, skip=v)
        n_levels = int(self.columns.n_levels[v])
        proba, deviation = np.empty((len(table), n_levels)), np.zeros((len(table), n_levels))
        at_once = max(1, EACH_AT_ONCE // n_levels)
        seed = int(arguments.generator(random_state).integers(2**63))  # one for all parts: a row does not depend on its part
        for start in range(0, len(table), at_once):
            asked = self.density._asked(table[start : start + at_once], n_members, n_walks, seed, n_threads)
            assert isinstance(asked.rows, LevelRows)
            log_p, std = (
                each.reshape(n_levels, -1).T for each in asked.about(asked.rows.with_levels(self._digits.of(v))).log_marginal()
            )
            part = slice(start, start + len(log_p))
            proba[part] = np.exp(log_p - np.logaddexp.reduce(log_p, axis=1)[:, None])
            deviation[part] = proba[part] * std
        warn_of_estimates("conditional", asked, std=deviation.max(axis=1))
        return self._conditional(v, proba)

    def _conditional(self, v: int, proba: Floats) -> Conditional:
        return Conditional(self.columns.names[v], self.columns.level_values(v), proba, self.columns, v)

    def probability(
        self,
        query: str | Mapping[Any, Any],
        *,
        context: Any = None,
        n_members: int = 1,
        n_walks: int = N_WALKS,
        random_state: Any = 0,
        return_std: bool = False,
        n_threads: int | None = None,
    ) -> Any:
        """Return the probability that a row satisfies a query: a float, or (n,) for a context of n rows.

        Parameters
        ----------
        query : str or mapping
            Conditions that are joined by and: ``"age > 40 and sex = 'Male'"``, with ``=``, ``!=``, ``<``, ``<=``, ``>``,
            ``>=``, ``in (...)``, ``between ... and ...``, ``is null``; or a mapping of columns to a value, a list of values,
            or a range (lowest, highest): ``{"age": (40, None), "sex": "Male"}``.
        return_std : bool
            Return the standard error too, instead of a warning; 0 where the answer is exact: where at most 4096 combinations
            of levels stand before the last column of the query in the ordering that answers.
        """
        asked = self._where(query, context, n_members, n_walks, random_state, n_threads)
        log_p, std = asked.log_marginal()
        p = np.exp(log_p)
        std = np.where(p > 0, p * std, 0)
        found: tuple[Any, Any] = (float(p[0]), float(std[0])) if self.encoder.context is None else (p, std)
        if return_std:
            return found
        warn_of_estimates("probability", asked, std=std)
        return found[0]

    def member_for(self, observed: Any, *, draw: int = 0) -> Any:
        """Return the connectivity that answers when these columns are known. See ``MADEModel.member_for``."""
        observed = arguments.observed(observed, self.n_features_in)[self._digits.column_of]
        return self.density.member_for(observed, draw=draw)  # type: ignore[attr-defined]  # a mixture has none, and says so

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to one file, durably. ``made_fast.load`` reads it. Raises OSError where it cannot be written."""
        tensorfile.write(arguments.path(path), *modelfile.with_columns(self.density._encoded(), self.encoder.to_json()))

    def to_onnx(self, path: str | os.PathLike[str] | None = None, *, conditionals: bool = True) -> ModelProto:
        """Return the model as an ONNX graph of raw columns; see ``Density.to_onnx`` for what is not said here.

        Inputs, (N, 1) each, are the columns and those of the context, by name (and ``_`` where that is taken): strings;
        bool; int64; float16, float32, float64 as in training. Ints and booleans with gaps in training are float64.
        ``log_p``, (N,) float64, is :meth:`score_samples`; in float32 they agree to 1e-5 of the log-probability of the levels,
        which densities may cancel. ``conditionals``, (N, L) or (N, P, L), are the probabilities of the levels of every column
        in turn, given the columns before it in the ordering: categories, bins of numbers; the high digits and then, given the
        actual one, the low digits of a column that has two.

        NaN, or ``""`` where that is no category, is missing. If missing entries have a level (``missing="value"``), it is
        scored; else the row has NaN in all outputs. So has one with what the model refuses (unknown categories, infinite
        numbers), and one with an unseen value if several levels are for such.
        """
        from made_fast.inference.onnx import export  # no server needs it

        return export.to_onnx(self, path, conditionals)

    def _coded(self, X: Any, context: Any, density: bool | str = True, skip: int | None = None) -> tuple[Coded, Floats]:
        """Return a table as codes, and the log-density of each entry within its level, (n, V) or, without, (0, V)."""
        found = self.columns.encode(X, density=density, skip=skip)
        codes = np.concatenate([self.encoder.given(context, len(found.codes)), self._digits.split(found.codes)], axis=1)
        within = np.zeros((0, len(self.columns))) if found.log_density is None else found.log_density
        return Coded(codes, self.encoder.coding), within

    def _complete(self, X: Any, context: Any, relative: bool) -> tuple[Coded, Floats]:
        codes, within = self._coded(X, context, "relative" if relative else True)
        if (gone := self._missing(codes)).any():
            row, v = (int(at[0]) for at in np.nonzero(gone))
            raise ValueError(
                f"X must hold no missing values here, got NaN or the like in row {row} of {called(self.columns.names[v])}. "
                "log_marginal tells how likely what is there is, impute fills it in; missing='value' at fit makes it a level."
            )
        return codes, within

    def _where(
        self, query: Any, context: Any, n_members: int, n_walks: int, random_state: Any, n_threads: int | None
    ) -> Answers:
        """Return the answers about one row of which no more is known than a query, or one for each row of a context."""
        weights = self._digits.weights(queries.parse(query, self.columns))
        given = self.encoder.given(context)
        codes = np.concatenate([given, np.full((len(given), len(weights)), -1, given.dtype)], axis=1)
        table = Coded(codes, self.encoder.coding)
        return self.density._asked(table, n_members, n_walks, random_state, n_threads, weights)

    def _missing(self, codes: Coded) -> NDArray[np.bool_]:
        """Return where entries of columns are missing, (n, V)."""
        gone: NDArray[np.bool_] = codes.codes[:, self._digits.starts[:-1]] < 0
        return gone

    def _places(self, asked: Answers, n_draws: int) -> Floats:
        """Return where in their levels the numbers of draws lie, (n_draws, n, V); those of a row depend on no other row."""
        rows, V = asked.rows.counted(), self.n_features_in
        uniforms = Streams(asked.options.rng.bytes(16), rows.names()).uniforms(WITHIN, n_draws * V)
        return uniforms.reshape(rows.n_rows, n_draws, V).transpose(1, 0, 2)


def _variables(density: Any) -> Any:
    first = density.members[0] if hasattr(density, "members") else density
    return first.architecture.variables


def _first_order(density: Any) -> NDArray[np.intp]:
    """Return the variables in the order of the first mask."""
    first = density.members[0] if hasattr(density, "members") else density
    return np.argsort(first.masks.orderings[0])
