"""The fitted model of a table: a density over the levels of its columns, and the columns, which know values and units.

It turns tables into codes, asks the density, and turns codes into tables. Not here: the density (``model.py``,
``mixture.py``), columns (``tables/columns``), training.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast.inference import modelfile, tensorfile
from made_fast.inference.answering import Answers
from made_fast.inference.density import Density, log_p_observed, warn_of_estimates
from made_fast.inference.explaining import contributions
from made_fast.inference.pattern import Floats, Streams
from made_fast.inference.rows import LevelRows
from made_fast.tables import arguments
from made_fast.tables.bits import pack_bits
from made_fast.tables.choices import METHODS, N_WALKS
from made_fast.tables.coded import Coded
from made_fast.tables.columns import query as queries
from made_fast.tables.columns.encoder import Encoder
from made_fast.tables.columns.schema import Columns
from made_fast.tables.columns.values import called

__all__ = ["Conditional", "TableModel"]

WITHIN = b"within"
"""Purpose of a stream: where in its level a number lies."""

EACH_AT_ONCE = 1 << 16
"""Rows times levels of a target that are asked at once."""


@dataclass(frozen=True)
class Conditional:
    """The distribution of one column of each row, given what else is known of the row.

    Attributes
    ----------
    name : str
        Of the column.
    values : (L,) ndarray
        What its levels stand for: a category (None, or NaN, is a missing one), or the median of a bin.
    proba : (n, L) float64
        The probability of each level.
    """

    name: str
    values: NDArray[Any]
    proba: Floats
    _columns: Columns
    _v: int

    def __repr__(self) -> str:
        return f"Conditional({self.name!r}, {self.proba.shape[1]} levels, {len(self.proba)} rows)"

    def mode(self) -> NDArray[Any]:
        """Return the value of the likeliest level, (n,)."""
        return self.values[np.argmax(self.proba, axis=1)]  # type: ignore[no-any-return]

    def mean(self) -> Floats:
        """Return the mean of a column of numbers, (n,), among values that are not missing. Raises TypeError for text."""
        means = self._columns.level_means(self._v)
        there = np.isfinite(means)
        proba = np.ascontiguousarray(self.proba[:, there])  # no BLAS: the bits of a row would depend on the others
        out: Floats = (proba * means[there]).sum(axis=1) / proba.sum(axis=1)
        return out

    def quantile(self, q: float) -> NDArray[Any]:
        """Return the q-quantile of a column whose levels are in order, (n,), among values that are not missing.

        Raises TypeError for a column without an order, ValueError for a q outside of 0..1.
        """
        n = int(self._columns.n_ordered[self._v])
        if not n:
            raise TypeError(f"quantiles must be of a column whose values have an order, got {called(self.name)}.")
        if not 0 <= (q := float(q)) <= 1:
            raise ValueError(f"q must be in 0..1, got {q}.")
        up_to = np.cumsum(self.proba[:, :n], axis=1)
        at = q * up_to[:, -1]
        level = np.minimum((up_to < at[:, None]).sum(axis=1), n - 1)
        rows = np.arange(len(level))
        own = self.proba[rows, level]
        inside = np.where(own > 0, (at - (up_to[rows, level] - own)) / np.where(own > 0, own, 1), 0.5)
        return self._columns.columns[self._v].decode(level, np.clip(inside, 0, 1 - 1e-12))


class TableModel:
    """A density over the rows of a table with columns of any kind: binary, categorical and numeric.

    ``log p(x)`` is the log-probability of the levels of a row plus the log-density of its numbers within their levels: nats of
    the original units. X is any table with the columns of training: a data frame (pandas, polars, Arrow), whose columns are
    matched by name, a mapping of names to columns, or an array. Tables that come back are like that of training. A missing
    entry (NaN, None, NA) may be anything, unless the model was fitted with ``missing="value"``.

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

    Every method but ``sample`` and ``save`` takes the ``context`` that belongs to its rows, if the model was fitted with one,
    and raises TypeError or ValueError for tables that are not like those of training, by the name of the column. For
    ``n_members``, ``n_walks``, ``random_state`` and ``n_threads`` see ``Density``.
    """

    binarize: float | None = None

    def __init__(self, density: Density, encoder: Encoder) -> None:
        self.density, self.encoder, self.columns = density, encoder, encoder.columns
        variables, coding = _variables(density), encoder.coding
        ours = (coding.widths[coding.n_context :], coding.codings[coding.n_context :], coding.n_context_inputs)
        if variables is None or (tuple(variables.widths), tuple(variables.codings), variables.n_context) != ours:
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
        gone, threads = codes.codes < 0, arguments.n_threads(n_threads)
        out = np.empty(codes.shape)
        complete = np.flatnonzero(~gone.any(axis=1))
        if len(complete):
            out[complete] = contributions(self.density, codes.take(complete), threads)
        rest = np.flatnonzero(gone.any(axis=1))
        if len(rest):
            seed = int(arguments.generator(random_state).integers(2**62))
            out[rest] = self._by_marginals(codes.take(rest), n_walks, seed, threads)
        return out - within

    def _by_marginals(self, table: Coded, n_walks: int, seed: int, n_threads: int) -> Floats:
        """Return what each column adds to ``-log p(observed)``, (n, V): the chain rule over the observed ones."""
        first, out, before = table.coding.n_context, np.zeros(table.shape), np.zeros(len(table))
        seen = table.rows.copy()
        seen[:, first:] = -1
        for v in _first_order(self.density):
            seen[:, first + v] = table.codes[:, v]
            there = np.flatnonzero(table.codes[:, v] >= 0)
            if len(there):  # a seed for each column: the estimates of a row depend on no other row
                rows = Coded(seen[there], table.coding)
                log_p, _ = self.density._asked(rows, 1, n_walks, seed + int(v), n_threads).log_marginal()
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
        codes = self.density._rows(len(given), rng, arguments.n_threads(n_threads), bits)
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
        places = _places(asked, n)
        return [self.columns.completed(X, self.columns.decode(*each)) for each in zip(drawn, places, strict=True)]

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
            arrays = self.columns.decode(filled, _places(asked, 1)[0])
        elif how == "mode":
            filled, effective = asked.modes()
            arrays = [self.columns.level_values(v)[filled[:, v]] for v in range(self.n_features_in)]
        else:
            proba, effective = asked.means()
            arrays = [self._mean(v, proba) for v in range(self.n_features_in)]
        warn_of_estimates("impute", asked, effective=effective)
        return self.columns.completed(X, arrays)

    def _mean(self, v: int, proba: Floats) -> NDArray[Any]:
        """Return the means of a column of numbers, or its likeliest values, by the probabilities of all levels."""
        first = self.encoder.coding.first_levels
        own = self._conditional(v, proba[:, first[v] : first[v + 1]])
        return own.mean() if self.columns.columns[v].kind == "numeric" else own.mode()

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
        n_levels = int(table.coding.levels_of[v])
        proba, deviation = np.empty((len(table), n_levels)), np.zeros((len(table), n_levels))
        at_once = max(1, EACH_AT_ONCE // n_levels)
        seed = int(arguments.generator(random_state).integers(2**63))  # one for all parts: a row does not depend on its part
        for start in range(0, len(table), at_once):
            asked = self.density._asked(table[start : start + at_once], n_members, n_walks, seed, n_threads)
            assert isinstance(asked.rows, LevelRows)
            log_p, std = (each.reshape(n_levels, -1).T for each in asked.about(asked.rows.with_levels(v)).log_marginal())
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
        return self.density.member_for(observed, draw=draw)  # type: ignore[attr-defined]  # a mixture has none, and says so

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to one file, durably. ``made_fast.load`` reads it. Raises OSError where it cannot be written."""
        tensorfile.write(arguments.path(path), *modelfile.with_columns(self.density._encoded(), self.encoder.to_json()))

    def _coded(self, X: Any, context: Any, density: bool | str = True, skip: int | None = None) -> tuple[Coded, Floats]:
        """Return a table as codes, and the log-density of each entry within its level, (n, V) or, without, (0, V)."""
        found = self.columns.encode(X, density=density, skip=skip)
        codes = np.concatenate([self.encoder.given(context, len(found.codes)), found.codes], axis=1)
        within = np.zeros((0, len(self.columns))) if found.log_density is None else found.log_density
        return Coded(codes, self.encoder.coding), within

    def _complete(self, X: Any, context: Any, relative: bool) -> tuple[Coded, Floats]:
        codes, within = self._coded(X, context, "relative" if relative else True)
        if (gone := codes.codes < 0).any():
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
        weights = tuple(queries.parse(query, self.columns))
        given = self.encoder.given(context)
        codes = np.concatenate([given, np.full((len(given), len(self.columns)), -1, given.dtype)], axis=1)
        table = Coded(codes, self.encoder.coding)
        return self.density._asked(table, n_members, n_walks, random_state, n_threads, weights)


def _places(asked: Answers, n_draws: int) -> Floats:
    """Return where in their levels the numbers of draws lie, (n_draws, n, V); those of a row depend on no other row."""
    rows = asked.rows.counted()
    assert isinstance(rows, LevelRows)
    n, V = rows.codes.shape
    uniforms = Streams(asked.options.rng.bytes(16), rows.names()).uniforms(WITHIN, n_draws * V)
    return uniforms.reshape(n, n_draws, V).transpose(1, 0, 2)


def _variables(density: Any) -> Any:
    first = density.members[0] if hasattr(density, "members") else density
    return first.architecture.variables


def _first_order(density: Any) -> NDArray[np.intp]:
    """Return the variables in the order of the first mask."""
    first = density.members[0] if hasattr(density, "members") else density
    return np.argsort(first.masks.orderings[0])
