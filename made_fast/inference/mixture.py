"""A mixture of models that were trained apart, ``p(x) = sum_m w_m p_m(x)``.

Each member, a ``MADEModel``, may itself be a mixture, in equal parts, over its masks. Not here: training of members and
weights (``ensemble.py``), the public questions (``density.py``), densities of other libraries as members (``member.py``), the
file (``modelfile.py``, ``loading.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import log
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from made_fast.inference import modelfile
from made_fast.inference.answering import MixtureAnswers, Options, choose
from made_fast.inference.chunked import by_chunk
from made_fast.inference.density import Density
from made_fast.inference.member import DensityMember
from made_fast.inference.model import MADEModel
from made_fast.inference.pattern import Floats
from made_fast.inference.rows import Rows
from made_fast.network.masks import Connectivity
from made_fast.tables import arguments
from made_fast.tables.arrays import CONVERSION_ERRORS
from made_fast.tables.table import MatrixLike

__all__ = ["MixtureModel"]


Member: TypeAlias = MADEModel | DensityMember


class MixtureModel(Density):
    """A density over binary vectors: the mixture ``p(x) = sum_m w_m p_m(x)`` of M models of the same inputs.

    Parameters
    ----------
    members : sequence of MADEModel, or of other densities
        With the same inputs (how many, ``feature_names``, ``binarize``); sizes, masks and dtypes may differ. A fitted MADE
        counts as its ``model_``, a mixture (a fitted MADEEnsemble) as its members in their parts. Any other density of 0/1
        rows that has ``score_samples(X)`` and ``sample(n, random_state=seed)`` may be a member, see ``DensityMember``: the
        mixture then scores and draws complete rows; what it cannot do for that member (answers about missing inputs,
        conditionals, a file) raises TypeError.
    weights : (M,) of float, optional
        Positive, adding up to 1. By default all are 1/M.
    hyper : mapping, optional
        Notes on how the mixture came to be; saved with it, beside those of each member. JSON values only.

    Attributes
    ----------
    members : tuple of MADEModel and DensityMember
    weights : (M,) float64
        Read-only.
    n_features_in, n_members, n_parameters : int
        D, M, and the weights and biases of all MADE models, without the M mixture weights.
    """

    def __init__(self, members: Sequence[Any], weights: Any = None, *, hyper: Mapping[str, Any] | None = None) -> None:
        given = _given(members)
        parts = _weights(np.full(len(given), 1 / len(given)) if weights is None else weights, len(given))
        self.members, self.weights = _members(given), _flat(given, parts)
        self.n_members = len(self.members)
        self.n_parameters = sum(model.n_parameters for model in self.members)
        self.hyper = arguments.mapping(hyper, "hyper")
        first = self.members[0]
        self.n_features_in, self.binarize, self.feature_names = first.n_features_in, first.binarize, first.feature_names

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.weights.flags.writeable = False  # a pickle of an array does not hold that

    def __repr__(self) -> str:
        weights = ", ".join(f"{w:.3g}" for w in self.weights[:8]) + ", ..." * (self.n_members > 8)
        kinds = list(dict.fromkeys(map(repr, self.members)))
        some = kinds[0] if len(kinds) == 1 else f"{kinds[0]} and others"
        return f"MixtureModel({self.n_members} members, weights {weights}, {self.n_parameters} parameters: {some})"

    @by_chunk
    def score_samples(self, X: MatrixLike, *, member: int | None = None, n_threads: int | None = None) -> Floats:
        """Return ``log p(x)`` of each row, or ``log p_m(x)`` with ``member=m``. See :meth:`Density.score_samples`."""
        table, n_threads = self._table(X), arguments.n_threads(n_threads)
        if member is not None:
            return self._member(member).score_samples(table, n_threads=n_threads)
        *_, total = self.score_parts(table, n_threads=n_threads)
        return total

    def conditional_proba(
        self, X: MatrixLike, *, member: int | None = None, mask: int | None = None, n_threads: int | None = None
    ) -> NDArray[Any]:
        """Return every conditional of one member under one mask; say which. See :meth:`Density.conditional_proba`."""
        return self._member(member).conditional_proba(X, mask=mask, n_threads=n_threads)

    def sample(
        self, n_samples: int = 1, random_state: Any = None, *, member: int | None = None, n_threads: int | None = None
    ) -> NDArray[np.uint8]:
        """Draw independent rows, each from a member drawn by weight, or all from ``member``. See :meth:`Density.sample`."""
        n, rng = arguments.how_many(n_samples, "n_samples", max(self.n_features_in, 8)), arguments.generator(random_state)
        if member is not None:
            return self._member(member).sample(n, rng, n_threads=n_threads)
        return self._rows(n, rng, arguments.n_threads(n_threads))

    def _rows(self, n: int, rng: np.random.Generator, n_threads: int, context: Any = None) -> NDArray[Any]:
        X: NDArray[Any] | None = None
        chosen = choose(self.weights[:, None], rng.random(n))
        for m in np.unique(chosen):
            rows = np.flatnonzero(chosen == m)
            drawn = self.members[m]._rows(len(rows), rng, n_threads, None if context is None else context[rows])
            X = np.empty((n, self.n_features_in), drawn.dtype) if X is None else X
            X[rows] = drawn
        assert X is not None
        return X

    def to_dense(self, *, member: int | None = None, mask: int | Connectivity | None = None) -> dict[str, Any]:
        """Return one member, under one mask or connectivity, as plain arrays. See :meth:`Density.to_dense`."""
        return self._member(member).to_dense(mask)

    def score_parts(self, X: MatrixLike, *, n_threads: int | None = None) -> Iterator[Floats]:
        """Yield the log-likelihood of each row, (n,) in nats, under member 0, 1, ..., M - 1, and last under the mixture.

        X is read once a member, and memory does not grow with M.
        """
        table = self._table(X)
        total = np.full(len(table), -np.inf)
        for model, log_w in zip(self.members, map(log, self.weights), strict=True):
            yield (log_p := model.score_samples(table, n_threads=n_threads))
            total = np.logaddexp(total, log_w + log_p)
        yield total

    def with_input(self, binarize: float | None) -> MixtureModel:
        """Return a mixture of the same members and notes that takes other input: see ``binarize``."""
        return MixtureModel([model.with_input(binarize) for model in self.members], self.weights, hyper=self.hyper)

    def _encoded(self) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
        contents = [model._content()._replace(feature_names=None) for model in self.members]
        return modelfile.encode_ensemble(modelfile.EnsembleContent(contents, self.weights, self.hyper, self.feature_names))

    def _answers(self, rows: Rows, options: Options) -> MixtureAnswers:
        return MixtureAnswers.of(rows, options, self.members, self.weights)

    def _member(self, member: Any) -> Member:
        """Return that member, or the only one there is."""
        return self.members[arguments.member_number(arguments.the_member(member, self.n_members), self.n_members)]


def _given(value: Any) -> list[Any]:
    """Return members as they are given, but for estimators, which count as their ``model_``."""
    try:
        given = list(value)
    except CONVERSION_ERRORS as error:
        raise TypeError(f"members must be a sequence of MADEModels, got {type(value).__name__}.") from error
    if not given:
        raise ValueError("members must be at least one MADEModel, got none.")
    for m, member in enumerate(given):
        if isinstance(found := getattr(member, "model_", None), Density):
            given[m] = member = found
        if isinstance(member, type) or not all(callable(getattr(member, name, None)) for name in ("score_samples", "sample")):
            raise TypeError(
                "members must be MADEModels, fitted MADEs, or densities with score_samples(X) and sample(n, random_state=), "
                f"got {type(member).__name__} for member {m}."
            )
        if hasattr(member, "get_params") and not hasattr(member, "n_features_in_"):
            raise TypeError(
                f"members must be fitted, got an unfitted {type(member).__name__} for member {m}. Call its fit; a fitted MADE "
                "has its MADEModel in model_."
            )
    return given


def _members(given: Sequence[Any]) -> tuple[Member, ...]:
    """Check that members have the same inputs; return them flat."""
    flat = [member for one in given for member in (one.members if isinstance(one, MixtureModel) else [one])]
    own = [member for member in flat if isinstance(member, Density)]
    for name in ("n_features_in", "binarize", "feature_names"):
        found = [getattr(model, name) for model in own]
        if found and found.count(found[0]) < len(found):
            raise ValueError(f"members must have the same {name}, got {arguments.shown(found)}.")
    variables = [model.architecture.variables for model in own if isinstance(model, MADEModel)]
    if any(one != variables[0] for one in variables):
        raise ValueError("members must be of the same columns with the same levels, got different ones. Fit a MADEEnsemble.")
    widths = [getattr(member, "n_features_in", getattr(member, "n_features_in_", None)) for member in flat]
    known = [int(width) for width in widths if width is not None]
    if known.count(known[0] if known else 0) < len(known) or not known:
        shown = arguments.shown(known) if known else "none that says it (n_features_in_)"
        raise ValueError(f"members must have the same n_features_in, got {shown}.")
    binarize, names = (own[0].binarize, own[0].feature_names) if own else (None, None)
    return tuple(
        one if isinstance(one, MADEModel | DensityMember) else DensityMember(one, known[0], binarize, names) for one in flat
    )


def _flat(given: Sequence[Any], parts: Floats) -> Floats:
    """Return the weights of the members of a mixture whose members, mixtures or not, have these parts."""
    flat = [
        part * (one.weights if isinstance(one, MixtureModel) else np.ones(1)) for one, part in zip(given, parts, strict=True)
    ]
    weights = np.concatenate(flat)
    weights.flags.writeable = False
    return weights


def _weights(value: Any, n_members: int) -> Floats:
    weights = arguments.floats(value, "weights", n_members, "member")
    if not (np.isfinite(weights) & (weights > 0)).all():
        raise ValueError(f"weights must be finite and > 0, got {weights.tolist()}. Leave out members that shall not count.")
    if abs(weights.sum() - 1) > modelfile.WEIGHT_TOLERANCE:
        raise ValueError(f"weights must add up to 1, got {float(weights.sum())!r}. Divide them by their sum.")
    weights.flags.writeable = False
    return weights
