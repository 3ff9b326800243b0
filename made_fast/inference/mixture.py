"""A mixture of models that were trained apart: ``p(x) = sum_m w_m p_m(x)``. Inference only.

Like a single model (``model.py``), it is for a server: NumPy and the compiled kernels are all it needs. Each member, a
``MADEModel``, may itself be a mixture, in equal parts, over the masks of its set. Not here: training of members and weights
(``ensemble.py``), arithmetic of a network (``network.py``), how a member deals with missing inputs (``queries.py``), the file
(``modelfile.py``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from made_fast.inference import modelfile, queries, tensorfile
from made_fast.inference.evidence import pack
from made_fast.inference.inquiry import Inquiry, Table, choose
from made_fast.inference.model import MADEModel
from made_fast.network.masks import Connectivity
from made_fast.tables import arguments, checks
from made_fast.tables.arrays import CONVERSION_ERRORS
from made_fast.tables.choices import METHODS

__all__ = ["MixtureModel"]

Floats: TypeAlias = "NDArray[np.float64]"


class MixtureModel:
    """A density over binary vectors: the mixture ``p(x) = sum_m w_m p_m(x)`` of M models of the same inputs.

    Parameters
    ----------
    members : sequence of MADEModel
        With the same inputs (how many, ``feature_names``, ``binarize``); sizes, masks and dtypes may differ.
    weights : (M,) of float, optional
        Positive, adding up to 1. By default all are 1/M.
    hyper : mapping, optional
        Anything to remember about how the mixture came to be; saved with it, beside that of each member. JSON values only.

    Attributes
    ----------
    members : tuple of MADEModel
    weights : (M,) float64
        Read-only.

    Notes
    -----
    Questions about rows with missing inputs (NaN) are put to every member, which answers by one connectivity that is chosen
    for what is missing, or by ``n_members`` of them in equal parts: ``members[m].member_for(observed)`` says which. The answer
    is then that of the mixture of those, where member m weighs ``w_m p_m(observed)``. It is exact where every member's is
    (see ``MADEModel.log_marginal``); what is estimated has a standard error or an ``ApproximationWarning``. Parameters that
    these methods have in common:

    X : (n, D) of 0, 1 and NaN
        As for :meth:`score_samples`, but NaN marks a missing input.
    n_members, n_walks, random_state, n_threads
        As for ``MADEModel.log_marginal``. Every member has its own random numbers, so that errors of estimates do not add up;
        those of a row do not depend on the other rows of the call.
    """

    def __init__(self, members: Sequence[MADEModel], weights: Any = None, *, hyper: Mapping[str, Any] | None = None) -> None:
        self.members = _members(members)
        M = len(self.members)
        self.weights = _weights(np.full(M, 1 / M) if weights is None else weights, M)
        self.hyper = arguments.mapping(hyper, "hyper")

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.weights.flags.writeable = False  # a pickle of an array does not hold that

    @property
    def n_members(self) -> int:
        """Number of models that are mixed, M."""
        return len(self.members)

    @property
    def n_features_in(self) -> int:
        """Number of inputs, D."""
        return self.members[0].n_features_in

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """What the inputs are called, if they have names; see ``MADEModel``."""
        return self.members[0].feature_names

    @property
    def n_parameters(self) -> int:
        """Number of weights and biases of all members; the M mixture weights are not among them."""
        return sum(model.n_parameters for model in self.members)

    @property
    def binarize(self) -> float | None:
        """Inputs above it count as 1, the others as 0. None demands 0/1 input."""
        return self.members[0].binarize

    def __repr__(self) -> str:
        weights = ", ".join(f"{w:.3g}" for w in self.weights[:8]) + ", ..." * (self.n_members > 8)
        kinds = list(dict.fromkeys(map(repr, self.members)))
        some = kinds[0] if len(kinds) == 1 else f"{kinds[0]} and others"
        return f"MixtureModel({self.n_members} members, weights {weights}, {self.n_parameters} parameters: {some})"

    def score_samples(
        self, X: checks.MatrixLike, *, member: int | None = None, n_threads: int | None = None
    ) -> NDArray[np.float64]:
        """Return the log-likelihood of each row: ``log p(x) = logsumexp_m(log w_m + log p_m(x))``. Exact.

        Parameters
        ----------
        X : (n, D) of 0/1
            Dense of any dtype and layout, or scipy.sparse.
        member : int, optional
            Of one member alone, ``log p_m(x)``.
        n_threads : int, optional
            Threads to use; by default the CPUs of this process. The result does not depend on it, to the bit.

        Returns
        -------
        (n,) float64
            In nats.

        Raises
        ------
        ValueError
            X is not a 0/1 matrix of D columns, or there is no such member.
        """
        X, n_threads = self._table(X), arguments.n_threads(n_threads)
        if member is not None:
            return self._member(member).score_samples(X, n_threads=n_threads)
        *_, total = self.score_parts(X, n_threads=n_threads)
        return total

    def score(self, X: checks.MatrixLike, *, n_threads: int | None = None) -> float:
        """Return the mean log-likelihood of the rows of X in nats; if some miss entries (NaN), of what is observed of them."""
        return float(np.mean(queries.log_p_observed(self, self._table(X), n_threads)))

    def conditional_proba(
        self, X: checks.MatrixLike, *, member: int | None = None, mask: int | None = None, n_threads: int | None = None
    ) -> NDArray[Any]:
        """Return ``p(x_d = 1 | the inputs before d)`` for every row and input, (n, D), of one member.

        What comes before an input depends on the member, and on the mask if the member has several; so ``member`` and ``mask``
        must say which if there is a choice. See ``MADEModel.conditional_proba``.
        """
        return self._one_member(member).conditional_proba(X, mask=mask, n_threads=n_threads)

    def sample(
        self, n_samples: int = 1, random_state: Any = None, *, member: int | None = None, n_threads: int | None = None
    ) -> NDArray[np.uint8]:
        """Draw independent rows, each from a member that is drawn for it with probability w_m. Exact.

        Parameters
        ----------
        n_samples : int
            Rows to draw.
        random_state : None, int, Generator, SeedSequence or RandomState
            An int gives the same rows every time, whatever the number of threads.
        member : int, optional
            Draw from this member alone.
        n_threads : int, optional
            As in ``score_samples``.

        Returns
        -------
        (n_samples, D) uint8
        """
        n = arguments.how_many(n_samples, "n_samples", max(self.n_features_in, 8))
        X, rng = np.empty((n, self.n_features_in), np.uint8), arguments.generator(random_state)
        if member is not None:
            return self._member(member).sample(n, rng, n_threads=n_threads)
        who = choose(self.weights[:, None], rng.random(n))
        for m in np.unique(who):
            rows = np.flatnonzero(who == m)
            X[rows] = self.members[m].sample(len(rows), rng, n_threads=n_threads)
        return X

    def log_marginal(
        self,
        X: checks.MatrixLike,
        *,
        n_members: int = 1,
        n_walks: int = queries.N_WALKS,
        random_state: Any = 0,
        return_std: bool = False,
        n_threads: int | None = None,
    ) -> Floats | tuple[Floats, Floats]:
        """Return the log-likelihood of what is observed of each row, ``logsumexp_m(log w_m + log p_m(observed))``.

        Exact where every ``p_m(observed)`` is. Returns (n,) float64 in nats; with ``return_std`` also the standard errors, 0
        where exact. Without it, estimates come with an ``ApproximationWarning``. For the other parameters see the class.
        """
        asked = self._asked(X, n_members, n_walks, random_state, n_threads)
        log_p, std = self._log_marginal(asked)
        if return_std:
            return log_p, std
        if std.any():
            queries._warn("log_marginal", std > 0, asked[0], queries._worst(std, " nats"))
        return log_p

    def conditional(
        self,
        X: checks.MatrixLike,
        target: Any,
        *,
        n_members: int = 1,
        n_walks: int = queries.N_WALKS,
        random_state: Any = 0,
        return_std: bool = False,
        n_threads: int | None = None,
    ) -> Floats | tuple[Floats, Floats]:
        """Return ``p(x_t = 1 | what is observed of the row)`` for one input t of each row, (n,) float64.

        It is ``sum_m w_m p_m(x_t = 1, observed) / sum_m w_m p_m(observed)``: a member counts by how well it explains what is
        observed. Exact where every member's marginals are. ``target`` is the column t, counted from 0: an int, or one for each
        row, (n,); what X has there is ignored. ``return_std`` and warnings as for :meth:`log_marginal`.
        """
        asked = self._asked(X, n_members, n_walks, random_state, n_threads)
        n = len(asked[0].table.bits)
        columns = arguments.target(target, n, self.n_features_in)
        log_p, std = self._log_marginal([replace(one, table=one.table.with_target(columns)) for one in asked])
        proba: Floats = np.exp(-np.logaddexp(0, log_p[:n] - log_p[n:]))
        std = proba * (1 - proba) * np.hypot(std[:n], std[n:])  # the delta method, on the logit
        if return_std:
            return proba, std
        if std.any():
            queries._warn("conditional", std > 0, asked[0], queries._worst(std))
        return proba

    def sample_conditional(
        self,
        X: checks.MatrixLike,
        n_draws: int = 1,
        *,
        n_members: int = 1,
        n_walks: int = queries.N_WALKS,
        random_state: Any = None,
        n_threads: int | None = None,
    ) -> NDArray[np.uint8]:
        """Draw what is missing of each row given what is observed; ``n_draws`` independent draws, (n_draws, n, D) uint8.

        Every draw comes from a member that is drawn for it with probability ``w_m p_m(observed) / p(observed)``. Exact where
        the members' marginals and draws are; an ``ApproximationWarning`` tells of others. Observed entries are as they were.
        """
        asked = self._asked(X, n_members, n_walks, random_state, n_threads)
        n_draws = arguments.how_many(n_draws, "n_draws", 64 * asked[0].table.bits.size)
        rows, effective = self._draws(asked, n_draws)
        if np.isfinite(effective).any():
            queries._warn("sample_conditional", np.isfinite(effective), asked[0], queries._fewest(effective))
        return rows

    def impute(
        self,
        X: checks.MatrixLike,
        method: str = "mode",
        *,
        n_members: int = 1,
        n_walks: int = queries.N_WALKS,
        random_state: Any = 0,
        n_threads: int | None = None,
    ) -> NDArray[Any]:
        """Fill in what is missing of each row: (n, D) uint8, or float64 for "mean"; observed entries are as they were.

        - "mode": of the rows that the members come up with (greedily, see ``MADEModel.impute``), the one that is the most
          probable under the mixture, by its :meth:`log_marginal`. Rows that no member proposes may be more probable.
        - "mean": ``E[x_d | observed]``, the members' means weighed by ``w_m p_m(observed)``; exact where those are.
        - "sample": one draw of :meth:`sample_conditional`.

        An ``ApproximationWarning`` tells of rows that rest on weighted walks.
        """
        how = arguments.choice(method, "method", METHODS)
        asked = self._asked(X, n_members, n_walks, random_state, n_threads)
        filled: NDArray[Any]
        if how == "sample":
            drawn, effective = self._draws(asked, 1)
            filled = drawn[0]
        else:
            filled, effective = self._modes(asked) if how == "mode" else self._means(asked)
        if np.isfinite(effective).any():
            queries._warn("impute", np.isfinite(effective), asked[0], queries._fewest(effective))
        return filled

    def to_dense(self, *, member: int | None = None, mask: int | Connectivity | None = None) -> dict[str, Any]:
        """Return one member, under one mask or connectivity, as plain arrays; see ``MADEModel.to_dense``.

        ``mixture.to_dense(member=m, mask=mixture.members[m].member_for(observed))`` is what answers for member m.
        """
        return self._one_member(member).to_dense(mask)

    def score_parts(self, X: checks.Matrix, *, n_threads: int | None = None) -> Iterator[NDArray[np.float64]]:
        """Yield the log-likelihood of each row, (n,) in nats, under member 0, 1, ..., M - 1, and last under the mixture.

        X is read once a member, and memory does not grow with M.
        """
        total = np.full(X.shape[0], -np.inf)
        for model, log_w in zip(self.members, np.log(self.weights), strict=True):
            yield (log_p := model.score_samples(X, n_threads=n_threads))
            total = np.logaddexp(total, log_w + log_p)
        yield total

    def with_input(self, binarize: float | None) -> MixtureModel:
        """Return a mixture of the same members and notes that takes other input: see ``binarize``."""
        return MixtureModel([model.with_input(binarize) for model in self.members], self.weights, hyper=self.hyper)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the mixture to one file, durably; ``made_fast.load`` reads it."""
        contents = [
            modelfile.Content(model.source, model.masks, model.rule, {**model.hyper, "binarize": model.binarize})
            for model in self.members
        ]
        content = modelfile.EnsembleContent(contents, self.weights, self.hyper, self.feature_names)
        tensorfile.write(arguments.path(path), *modelfile.encode_ensemble(content))

    def _table(self, X: checks.MatrixLike) -> checks.Matrix:
        return checks.matrix(X, self.n_features_in, feature_names=self.feature_names)

    def _member(self, member: Any) -> MADEModel:
        return self.members[arguments.member_number(member, self.n_members)]

    def _one_member(self, member: Any) -> MADEModel:
        """Return that member, or the only one there is."""
        if member is None and self.n_members > 1:
            raise ValueError(
                f"member must say which is meant: the model is a mixture of {self.n_members}, each with its own ordering. "
                f"Pass member=0, say, or any up to {self.n_members - 1}."
            )
        return self._member(0 if member is None else member)

    def _asked(self, X: checks.MatrixLike, n_members: Any, n_walks: Any, random_state: Any, n_threads: Any) -> list[Inquiry]:
        """Return what to ask each member."""
        X = self._table(X)
        seeds = arguments.generator(random_state).integers(2**63, size=self.n_members).tolist()
        return [model._asked(X, n_members, n_walks, seed, n_threads) for model, seed in zip(self.members, seeds, strict=True)]

    def _joint(self, asked: Sequence[Inquiry]) -> tuple[Floats, Floats]:
        """Return ``log(w_m p_m(observed))`` and the standard error of each, (M, n) both."""
        log_p, std = np.stack([one.log_marginal() for one in asked], axis=1)
        return log_p + np.log(self.weights)[:, None], std

    def _log_marginal(self, asked: Sequence[Inquiry]) -> tuple[Floats, Floats]:
        joint, std = self._joint(asked)
        total = _log_sum(joint)
        return total, np.sqrt(sum((np.exp(joint - total) * std) ** 2))

    def _shares(self, asked: Sequence[Inquiry]) -> Floats:
        """Return the probability of each member given what is observed, (M, n)."""
        joint, _ = self._joint(asked)
        return np.exp(joint - _log_sum(joint))

    def _draws(self, asked: Sequence[Inquiry], n_draws: int) -> tuple[NDArray[np.uint8], Floats]:
        """Return draws (n_draws, n, D) and the smallest effective number of walks of each row (inf: exact)."""
        table = asked[0].table.counted()
        asked = [replace(one, table=table) for one in asked]
        who = asked[0].who(self._shares(asked), n_draws)
        out, effective = np.empty((*who.shape, table.n_inputs), np.uint8), np.full(who.shape[1], np.inf)
        for m, one in enumerate(asked):
            count = (who == m).sum(axis=0)
            rows = np.flatnonzero(count)
            if len(rows):
                # As many draws for each row as the neediest has: a row's first ones are the same however many there are.
                drawn, found = replace(one, table=table.take(rows)).draws(int(count.max()))
                mine = who[:, rows] == m
                draws, which = np.nonzero(mine)
                out[draws, rows[which]] = drawn[np.cumsum(mine, axis=0)[draws, which] - 1, which]
                effective[rows] = np.minimum(effective[rows], found)
        return out, effective

    def _means(self, asked: Sequence[Inquiry]) -> tuple[Floats, Floats]:
        table, shares = asked[0].table, self._shares(asked)
        mean, effective = np.zeros((len(table.bits), table.n_inputs)), np.full(len(table.bits), np.inf)
        for one, share in zip(asked, shares, strict=True):
            part, found = one.means()
            mean += share[:, None] * part
            effective = np.minimum(effective, found)
        missing, ones = table.columns(table.missing), table.columns(table.bits)
        return np.where(missing, np.clip(mean, 0, 1), ones), effective

    def _modes(self, asked: Sequence[Inquiry]) -> tuple[NDArray[np.uint8], Floats]:
        """Return each row filled in as the member does it whose way is the most probable under the mixture."""
        proposals, effective = zip(*(one.modes() for one in asked), strict=True)
        log_p = []
        for rows in proposals if len(asked) > 1 else ():
            bits = pack(rows)
            whole = Table(bits, np.zeros_like(bits), self.n_features_in)
            log_p.append(self._log_marginal([replace(one, table=whole) for one in asked])[0])
        best = np.argmax(log_p, axis=0) if log_p else 0
        return np.stack(proposals)[best, np.arange(len(proposals[0]))], np.min(effective, axis=0)


def _log_sum(joint: Floats) -> Floats:
    total: Floats = np.logaddexp.reduce(joint, axis=0)
    return total


# At the door


def _members(value: Any) -> tuple[MADEModel, ...]:
    try:
        members = tuple(value)
    except CONVERSION_ERRORS as error:
        raise TypeError(f"members must be a sequence of MADEModels, got {type(value).__name__}.") from error
    if not members:
        raise ValueError("members must be at least one MADEModel, got none.")
    for m, model in enumerate(members):
        if not isinstance(model, MADEModel):
            raise TypeError(
                f"members must be MADEModels, got {type(model).__name__} for member {m}. A fitted MADE has it in model_."
            )
    for name in ("n_features_in", "binarize", "feature_names"):
        found = [getattr(model, name) for model in members]
        if found.count(found[0]) < len(found):
            raise ValueError(f"members must have the same {name}, got {arguments.shown(found)}.")
    return members


def _weights(value: Any, n_members: int) -> Floats:
    weights = arguments.vector(value, "weights", "one number a member")
    if weights.dtype.kind not in "iuf":
        raise TypeError(f"weights must hold numbers, got dtype {weights.dtype}.")
    if weights.shape != (n_members,):
        raise ValueError(f"weights must have shape ({n_members},), one number a member, got {weights.shape}.")
    with np.errstate(over="ignore"):
        weights = weights.astype(np.float64)  # a copy
    if not (np.isfinite(weights) & (weights > 0)).all():
        raise ValueError(f"weights must be finite and > 0, got {weights.tolist()}. Leave out members that shall not count.")
    if abs(weights.sum() - 1) > modelfile.WEIGHT_TOLERANCE:
        raise ValueError(f"weights must add up to 1, got {float(weights.sum())!r}. Divide them by their sum.")
    weights.flags.writeable = False
    return weights
