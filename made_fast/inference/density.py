"""The public questions to a fitted density: scores, samples, and answers about rows with missing inputs (NaN).

:class:`Density` checks and packs a table, and warns of estimates; ``MADEModel`` (``model.py``) and ``MixtureModel``
(``mixture.py``) say which networks answer. Not here: the answers of a network about rows that miss the same inputs
(``pattern.py``), and a call spread over patterns, networks and threads (``answering.py``).

A network with the observed inputs first in its ordering answers by one pass: their marginal is the product of the first
conditionals, and one walk along the rest of the ordering draws the missing ones (Uria, Murray, Larochelle, "A deep and
tractable density estimator", ICML 2014, section 3). If missing inputs stand before the last observed one ("early" ones), they
are summed out by enumeration where they are few, and else by importance sampling: walks that keep to the evidence propose, and
the weight of a walk is the probability of the evidence along it (Owen, "Monte Carlo theory, methods and examples", chapter 9).
Such an estimate comes with its standard error, or with an :class:`ApproximationWarning`.
"""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from made_fast.inference import tensorfile
from made_fast.inference.answering import Answers, Options
from made_fast.inference.chunked import Turn, by_chunk
from made_fast.inference.pattern import ENUMERATED, Floats
from made_fast.inference.rows import LevelRows, PackedRows, Rows
from made_fast.network.masks import Connectivity
from made_fast.tables import arguments
from made_fast.tables.bits import pack_missing, pack_rows
from made_fast.tables.choices import METHODS, N_WALKS
from made_fast.tables.coded import Coded
from made_fast.tables.digits import Weights
from made_fast.tables.table import MatrixLike, Table

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["ENUMERATED", "N_WALKS", "ApproximationWarning", "Density", "log_p_observed", "warn_of_estimates"]


class ApproximationWarning(UserWarning):
    """An answer is an estimate: no ordering of the model puts the evidence first, and too much is missing to enumerate.

    ``finding`` says which answers and how good they are, without the way out.
    """

    finding = ""


class Density(ABC):
    """A fitted density over binary vectors of D inputs; the base of ``MADEModel`` and ``MixtureModel``.

    One network of a ``MADEModel`` answers for all rows with the same inputs missing, see ``MADEModel.member_for``, or the
    mixture of ``n_members`` networks, ``p = 1/M sum_m p_m``. Every member of a ``MixtureModel`` answers so, and weighs
    ``w_m p_m(observed)``. Parameters common to the methods about missing inputs:

    X : (n, D) of 0, 1 and NaN
        As for :meth:`score_samples`, but NaN marks a missing input; or any numbers, if the model has a threshold ``binarize``.
    n_members : int
        How many networks of a model answer together. A model with a fixed set of K masks has K.
    n_walks : int
        Walks per row (and network), where an answer is an estimate; each takes 8 ceil(D / 64) bytes while a row is worked on.
    random_state : None, int, Generator, SeedSequence or RandomState
        For estimates and draws. An int gives the same bits every time, and those of a row do not depend on the other rows of
        the call, their order, ``n_draws`` or the number of threads. Equal rows get equal estimates; the draws of the k-th of
        them are its own, and a row alone gets those of the first.
    n_threads : int, optional
        By default the CPUs of this process. No result depends on it.

    All of them raise what :meth:`score_samples` raises, and warn of estimates by an :class:`ApproximationWarning`.
    """

    n_features_in: int
    """Number of inputs, D."""
    binarize: float | None
    feature_names: tuple[str, ...] | None
    hyper: dict[str, Any]

    @abstractmethod
    def score_samples(self, X: MatrixLike, *, n_threads: int | None = None) -> Floats:
        """Return the log-likelihood of each row, ``log p(x)`` (eq. 5, section 4.1). Exact.

        Parameters
        ----------
        X : (n, D) of 0/1
            Dense of any dtype and layout, a data frame, scipy.sparse, or ``made_fast.Chunks`` of such.
        mask : int, optional
            A ``MADEModel`` only: of one mask alone, ``log p_k(x)``.
        member : int, optional
            A ``MixtureModel`` only: of one member alone, ``log p_m(x)``.
        n_threads : int, optional
            Threads to use; by default the CPUs of this process. No bit of the result depends on it.

        Returns
        -------
        (n,) float64
            In nats. Of ``Chunks``, an iterator over those of each chunk.

        Raises
        ------
        TypeError, ValueError
            X is not a 0/1 matrix of D columns, or there is no such mask or member.
        FloatingPointError
            The weights are so large that arithmetic overflows; so do all methods that answer.
        """

    @abstractmethod
    def conditional_proba(self, X: MatrixLike, *, n_threads: int | None = None) -> NDArray[Any]:
        """Return every conditional, ``P[i, d] = p(x_d = 1 | x_i's inputs at places before d's)`` (eq. 8), of one network.

        Takes and raises what :meth:`score_samples` does; returns (n, D) of the model's dtype, columns in the order of X's. The
        ordering must be clear: where there are several, ``mask``, and ``member`` of a mixture, say which is meant.
        """

    @abstractmethod
    def sample(self, n_samples: int = 1, random_state: Any = None, *, n_threads: int | None = None) -> NDArray[np.uint8]:
        """Draw independent rows from the model by ancestral sampling, (n_samples, D) uint8. Exact.

        Parameters
        ----------
        n_samples : int
            Rows to draw, each from a mask or a member that is drawn for it. A row costs about as much as its score.
        random_state : None, int, Generator, SeedSequence or RandomState
            An int gives the same rows every time, for any number of threads.
        mask, member, n_threads
            As in :meth:`score_samples`: all rows come from this mask or member.
        """

    def score(self, X: MatrixLike, *, n_threads: int | None = None) -> float:
        """Return the mean log-likelihood of the rows of X in nats, or of the observed entries of rows that miss some (NaN)."""
        return float(np.mean(log_p_observed(self, X, n_threads)[0]))

    def explain(self, X: MatrixLike, *, n_threads: int | None = None) -> Floats:
        """Return what each input adds to the negative log-likelihood of its row: the largest ones make it odd.

        Takes and raises what :meth:`score_samples` does. Returns (n, D) in nats, which add up to ``-log p(x)``: under one
        network ``-log p(x_d | the inputs before d)``, under several the mean over those that the row is likely to be of.
        """
        from made_fast.inference.explaining import contributions  # it knows all models

        return contributions(self, self._table(X), arguments.n_threads(n_threads))

    def log_marginal(
        self,
        X: MatrixLike,
        *,
        n_members: int = 1,
        n_walks: int = N_WALKS,
        random_state: Any = 0,
        return_std: bool = False,
        n_threads: int | None = None,
    ) -> Floats | tuple[Floats, Floats]:
        """Return the log-likelihood of the observed inputs of each row, ``log sum_missing p(x)``; 0 for a row without any.

        A complete row has its log-likelihood under the answering networks, not under the whole model as in
        :meth:`score_samples`. For X and the other options see :class:`Density`.

        Parameters
        ----------
        return_std : bool
            Return standard errors too, instead of a warning.

        Returns
        -------
        (n,) float64, or two of them
            In nats; the standard errors are 0 where the answer is exact. An estimate is the log of an unbiased mean, and so
            too low on average, by about half the square of its standard error; that is itself estimated from the walks, and
            both are too low where hardly any walk happens to suit the evidence.
        """
        asked = self._asked(X, n_members, n_walks, random_state, n_threads)
        log_p, std = asked.log_marginal()
        if return_std:
            return log_p, std
        warn_of_estimates("log_marginal", asked, std=std, unit=" nats")
        return log_p

    def conditional(
        self,
        X: MatrixLike,
        target: Any,
        *,
        n_members: int = 1,
        n_walks: int = N_WALKS,
        random_state: Any = 0,
        return_std: bool = False,
        n_threads: int | None = None,
    ) -> Floats | tuple[Floats, Floats]:
        """Return ``p(x_t = 1 | the observed inputs of the row)`` for one input t of each row.

        It is ``p(x_t = 1, observed) / p(observed)`` under the networks that answer for the observed inputs and t together.
        For X and the other options see :class:`Density`.

        Parameters
        ----------
        target : int, or (n,) of int
            Column t, counted from 0; the same for all rows, or one for each. The entry of a row at t is ignored.
        return_std : bool
            Return standard errors too, instead of a warning; 0 where the answer is exact.

        Returns
        -------
        (n,) float64, or two of them
        """
        asked = self._asked(X, n_members, n_walks, random_state, n_threads)
        rows, n = asked.rows, asked.rows.n_rows
        assert isinstance(rows, PackedRows)
        columns = arguments.target(target, n, self.n_features_in)
        log_p, std = asked.about(rows.with_target(columns)).log_marginal()
        proba: Floats = np.exp(-np.logaddexp(0, log_p[:n] - log_p[n:]))
        std = proba * (1 - proba) * np.hypot(std[:n], std[n:])  # the delta method, on the logit
        if return_std:
            return proba, std
        warn_of_estimates("conditional", asked, std=std)
        return proba

    def sample_conditional(
        self,
        X: MatrixLike,
        n_draws: int = 1,
        *,
        n_members: int = 1,
        n_walks: int = N_WALKS,
        random_state: Any = None,
        n_threads: int | None = None,
    ) -> NDArray[np.uint8]:
        """Draw the missing inputs of each row, given the observed ones.

        Draws are independent; those of a mixture come from network m with probability ``p_m(observed) / sum_m p_m(observed)``.
        Where evidence stands late in the ordering, the early missing inputs are drawn jointly: from their enumerated
        posterior, or else from ``n_walks`` weighted walks (sampling-importance-resampling, Rubin 1988); the warning then gives
        the smallest effective number of walks, ``(sum w)^2 / sum w^2``. For X and the options see :class:`Density`.

        Returns
        -------
        (n_draws, n, D) uint8
            Whole rows; observed entries are as they were.
        """
        asked = self._asked(X, n_members, n_walks, random_state, n_threads)
        drawn, effective = asked.draws(arguments.how_many(n_draws, "n_draws", 64 * asked.rows.kept.size))
        warn_of_estimates("sample_conditional", asked, effective=effective)
        return drawn

    @by_chunk
    def impute(
        self,
        X: MatrixLike,
        method: str = "mode",
        *,
        n_members: int = 1,
        n_walks: int = N_WALKS,
        random_state: Any = 0,
        n_threads: int | None = None,
    ) -> NDArray[Any]:
        """Fill in the missing inputs of each row. For X and the other options see :class:`Density`.

        Parameters
        ----------
        method : {"mode", "mean", "sample"}
            "mode": one walk that sets each missing input, in the order of the answering network, to 1 if that is likelier than
            0 given the observed ones and those set before. It is greedy: other rows may be more probable as a whole. Of the
            rows of several networks or members, the one most probable under their mixture is taken. Where evidence stands late
            and the early missing inputs are too many to sum out, it is the most probable of a greedy walk that ignores such
            evidence and of ``n_walks`` drawn ones.
            "mean": ``E[x_d | observed]``. If no more than ``ENUMERATED`` inputs are missing it is exact; otherwise the
            conditionals along ``n_walks`` walks are averaged, which is unbiased, with a standard error of at most
            ``0.5 / sqrt(n_walks)``.
            "sample": one draw of :meth:`sample_conditional`.

        Returns
        -------
        (n, D) uint8, or float64 for "mean"
            Observed entries are as they were. Of ``Chunks``, an iterator over those of each chunk.
        """
        how = arguments.choice(method, "method", METHODS)
        asked = self._asked(X, n_members, n_walks, random_state, n_threads)
        filled: NDArray[Any]
        if how == "sample":
            (filled,), effective = asked.draws(1)
        else:
            filled, effective = asked.modes() if how == "mode" else asked.means()
        warn_of_estimates("impute", asked, effective=effective, within=1)
        return filled

    @abstractmethod
    def to_dense(self, *, mask: int | Connectivity | None = None) -> dict[str, Any]:
        """Return one network as plain arrays in the original order of features and units.

        Parameters
        ----------
        mask : int or Connectivity, optional
            Which, if there are several; of a mixture, ``member`` says of which model. The network of member m that answers for
            a pattern: ``mixture.to_dense(member=m, mask=mixture.members[m].member_for(observed))``.

        Returns
        -------
        dict
            ``ordering`` (D,) places 1..D; ``degrees``: L vectors (H_l,); ``masks`` and ``weights`` (masked): L + 1 matrices
            (n_out, n_in); ``biases``: L + 1 vectors (n_out,), with the sums of the live connectivity weights U in them;
            ``direct``: L + 1 matrices (n_out, D), or None for layers without direct connections.

        Examples
        --------
        Recompute the logits of a relu network::

            net, h = model.to_dense(), X
            for W, b, A in zip(net["weights"][:-1], net["biases"][:-1], net["direct"][:-1]):
                h = np.maximum(h @ W.T + b + (0 if A is None else X @ A.T), 0)
            A = net["direct"][-1]
            logits = h @ net["weights"][-1].T + net["biases"][-1] + (0 if A is None else X @ A.T)
        """

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to one file, durably: the path always holds the old file or the new one, whole.

        ``made_fast.load`` reads it. Raises OSError where it cannot be written.
        """
        tensorfile.write(arguments.path(path), *self._encoded())

    def to_onnx(self, path: str | os.PathLike[str] | None = None, *, conditionals: bool = True) -> ModelProto:
        """Return the model as an ONNX graph (opset 17), and write it to ``path``, durably, if there is one.

        It needs onnx (``pip install 'made_fast[onnx]'``). Metadata of the file, in JSON, say what inputs and outputs are.

        Parameters
        ----------
        path : path, optional
        conditionals : bool
            With the output ``conditionals``; the graph is faster without it, the more so the more networks there are.

        Returns
        -------
        onnx.ModelProto
            Input ``X``, (N, D) of the model's dtype: rows of 0/1 or, with a threshold ``binarize``, any finite numbers. A row
            with another value, or NaN, has NaN in all outputs: a graph knows no marginals. ``log_p``, (N,) float64, is
            :meth:`score_samples`, and ``conditionals``, of the model's dtype, :meth:`conditional_proba`: (N, D) where there is
            one ordering, else (N, P, D), of each mask of each member in turn. ``log_p`` agrees to ``1e-5 max(1, |log p|)`` in
            float32, as sums over units have another order, and to 1e-10 of that in float64. Where arithmetic overflows and the
            model raises FloatingPointError, a graph gives NaN or infinite numbers.

        Raises
        ------
        ImportError, ValueError, TypeError, OSError
            There is no onnx; the dense weights have more than the 2 GB that an ONNX file holds; a member of the mixture is no
            MADE model; the file cannot be written.

        Examples
        --------
        Score rows by ONNX Runtime::

            model.to_onnx("model.onnx")
            (log_p,) = onnxruntime.InferenceSession("model.onnx").run(["log_p"], {"X": X.astype(np.float32)})
        """
        from made_fast.inference.onnx import export  # no server needs it

        return export.to_onnx(self, path, conditionals)

    @abstractmethod
    def _encoded(self) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
        """Return the tensors and the metadata of the model's file."""

    @abstractmethod
    def _answers(self, rows: Rows, options: Options) -> Answers:
        """Return the answers of the networks of this model, which are computed on demand."""

    def _table(self, X: MatrixLike) -> Table:
        return Table.of(X, self.n_features_in, feature_names=self.feature_names)

    @abstractmethod
    def _rows(self, n: int, rng: np.random.Generator, n_threads: int, context: NDArray[np.uint64] | None) -> NDArray[Any]:
        """Return rows drawn from the whole model, of 0/1 or, in contexts (n, W) if there are any, of levels, (n, D)."""

    def _asked(
        self, X: MatrixLike, n_members: Any, n_walks: Any, random_state: Any, n_threads: Any, weights: Weights = ()
    ) -> Answers:
        """Check what a caller passes, and pack the rows; for ``weights`` of levels see ``LevelRows``."""
        counts = arguments.count(n_members, "n_members"), arguments.count(n_walks, "n_walks")
        turn = random_state if isinstance(random_state, Turn) else Turn(arguments.generator(random_state), None)
        options = Options(*counts, arguments.n_threads(n_threads), turn.rng)
        table, order = self._table(X), np.arange(self.n_features_in)
        rows: Rows
        if isinstance(table, Coded):
            rows = LevelRows.of(table, weights)
        else:
            bits, missing = pack_rows(table, order, self.binarize, missing=True), pack_missing(table, order)
            rows = PackedRows(bits, np.zeros_like(bits) if missing is None else missing, len(order))
        return self._answers(rows if turn.copies is None else rows.counted_by(turn.copies), options)


def log_p_observed(
    model: Density, X: MatrixLike, n_threads: int | None, *, warn: bool = True, **asking: Any
) -> tuple[Floats, Floats]:
    """Return log p of the observed inputs of each row in nats, and its standard error, (n,) both.

    Complete rows get their ``score_samples``, under the whole model; the others get their ``log_marginal``, which takes
    ``asking``. With ``warn``, estimates come with an ApproximationWarning and no standard error.
    """
    table = model._table(X)
    log_p, std = np.zeros((2, len(table)))  # a table that is too large is refused before the search
    gaps = np.zeros(len(table), np.bool_)
    for part, rows in table.chunks():
        if (nan := rows.missing()) is not None:
            gaps[part] = nan.any(axis=1)
    if not gaps.any():
        return model.score_samples(table, n_threads=n_threads), std
    if not gaps.all():
        if not isinstance(table, Coded):
            pack_rows(table, np.arange(table.shape[1]), model.binarize, missing=True)  # wrong values: rows have numbers here
        log_p[~gaps] = model.score_samples(table.take(np.flatnonzero(~gaps)), n_threads=n_threads)
        table = table.take(np.flatnonzero(gaps))
    found = model.log_marginal(table, return_std=not warn, n_threads=n_threads, **asking)
    log_p[gaps], std[gaps] = found if isinstance(found, tuple) else (found, 0)
    return log_p, std


def warn_of_estimates(
    method: str,
    asked: Answers,
    *,
    std: Floats | None = None,
    effective: Floats | None = None,
    unit: str = "",
    within: int = 0,
) -> None:
    """Warn of rows whose answers are estimates: they have a standard error, or an effective number of walks.

    ``within``: how many functions stand around the method.
    """
    if std is not None:
        estimated = std > 0
        how_good = f"the largest standard error is {std.max():.2g}{unit} (return_std=True returns them all)"
    else:
        assert effective is not None
        estimated = np.isfinite(effective)
        how_good = f"the smallest effective number of walks is {effective.min():.1f}"
    if estimated.any():
        finding = (
            f"{method}: {estimated.sum()} of {len(estimated)} rows are estimates by importance sampling, "
            f"{asked.options.n_walks} walks each, since no ordering of the model puts what they observe first; {how_good}"
        )
        way_out = "More walks (n_walks) come closer; a model trained with n_masks=None needs none."
        warning = ApproximationWarning(f"{finding}. {way_out}")
        warning.finding = finding
        warnings.warn(warning, stacklevel=3 + within)
