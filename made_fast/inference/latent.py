"""The fitted latent mixture: one network with biases for each of K points, mixed in equal parts.

Not here: one network or several masks (``model.py``), parameters (``network/latent.py``), training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from made_fast.inference import modelfile
from made_fast.inference.answering import MixtureAnswers, Options
from made_fast.inference.model import MADEModel
from made_fast.inference.rows import Rows
from made_fast.inference.tensorfile import ModelFileError
from made_fast.network.latent import Points
from made_fast.network.masks import Connectivity, MaskRule, MaskSet
from made_fast.network.network import Network, Parameters
from made_fast.tables import arguments
from made_fast.tables.bits import pack_rows, unpack_rows
from made_fast.tables.table import MatrixLike

__all__ = ["LatentModel", "from_content", "model_of"]

PRECISE = 1e-4
"""Probability down to which 1 less a float32 is right to a thousandth."""


class LatentModel(MADEModel):
    """A density over binary vectors: the mixture ``p(x) = 1/K sum_k p(x | point k)`` of one network with K sets of biases.

    It has one mask; what the inputs at earlier places say about the point, later conditionals know. Marginals and completions
    are those of the mixture of the K networks, each of which answers as a ``MADEModel`` of one mask does.

    Parameters
    ----------
    source : Points
    binarize, hyper, feature_names
        See ``MADEModel``.

    Attributes
    ----------
    n_points : int
        K. The others are those of ``MADEModel``.
    """

    source: Points

    def __init__(
        self,
        source: Points,
        *,
        binarize: float | None = None,
        hyper: Mapping[str, Any] | None = None,
        feature_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(source, binarize=binarize, hyper=hyper, feature_names=feature_names)
        self._cut()

    def _cut(self) -> None:
        self._points = tuple(
            MADEModel(network, binarize=self.binarize) for network in map(self.source.at, range(self.n_points))
        )

    def __getstate__(self) -> dict[str, Any]:  # without the points, which hold the same vector
        return {name: value for name, value in super().__getstate__().items() if name != "_points"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._cut()

    def __repr__(self) -> str:
        return f"Latent{super().__repr__().removeprefix('MADE')[:-1]}, {self.n_points} points)"

    def _only(self, mask: int | None) -> int | None:
        arguments.mask_number(0 if mask is None else mask, 1)
        return None

    @property
    def n_parts(self) -> int:
        """The networks that are mixed: K."""
        return self.n_points

    def part(self, k: int, room: NDArray[Any] | None = None) -> Network:
        """Return the network at point k, which needs no room."""
        return self._points[k].member(0)

    def point(self, k: int) -> MADEModel:
        """Return the model at point k alone, ``p(x | point k)``; it shares the parameters."""
        return self._points[arguments.point_number(k, self.n_points)]

    def conditional_proba(self, X: MatrixLike, *, mask: int | None = None, n_threads: int | None = None) -> NDArray[Any]:
        """Return every conditional of the mixture, given the places before. See :meth:`Density.conditional_proba`."""
        self._only(mask)
        table, n_threads = self._table(X), arguments.n_threads(n_threads)
        order, out = self.part(0).order, np.empty(table.shape, self.dtype)
        for part, rows in table.chunks():
            packed = pack_rows(rows, order, self.binarize)
            x = unpack_rows(packed, self.n_features_in) == 1
            most, total, mean = np.full(x.shape, -np.inf), np.zeros(x.shape), np.zeros(x.shape)
            for k in range(self.n_points):  # sums over points of p(places before) and of that times the conditional
                proba = self.part(k).conditionals(packed, n_threads).astype(np.float64)
                own = np.where(x, proba, 1 - proba)
                odd = np.flatnonzero((own < PRECISE).any(axis=1))
                own[odd] = 1
                before = np.concatenate([np.zeros((len(x), 1)), np.log(own[:, :-1]).cumsum(axis=1)], axis=1)
                if len(odd):
                    before[odd] = self.part(k).scores_up_to(packed[odd])[:, :-1]
                largest = np.maximum(most, before)
                scale, share = np.exp(most - largest), np.exp(before - largest)
                total, mean, most = total * scale + share, mean * scale + share * proba, largest
            out[part, order] = mean / total
        return out

    def member(self, mask: int | Connectivity = 0) -> Network:
        """Refuse: one network is not the model. ``model.point(k)`` has that at a point."""
        raise ValueError(f"a latent mixture has a network at each of {self.n_points} points: ask one, model.point(k).")

    def to_dense(self, mask: int | Connectivity | None = None) -> dict[str, Any]:
        """Refuse, as :meth:`member` does."""
        return self.member().dense()

    def with_input(self, binarize: float | None) -> LatentModel:
        """See ``MADEModel.with_input``."""
        return LatentModel(self.source, binarize=binarize, hyper=self.hyper, feature_names=self.feature_names)

    def _answers(self, rows: Rows, options: Options) -> MixtureAnswers:
        self._within(options.n_members, "n_members", 1)
        return MixtureAnswers.of(rows, options, self._points, np.full(self.n_points, 1 / self.n_points))


def model_of(source: Parameters, masks: MaskSet, rule: MaskRule | None, **more: Any) -> MADEModel:
    """Return the model of parameters; ``more`` are the other arguments of ``MADEModel``."""
    if source.n_points > 1:
        return LatentModel(cast(Points, source.served()), **more)
    return MADEModel(source, masks, rule=rule, **more)


def from_content(content: modelfile.Content, path: str) -> MADEModel:
    """Return the model of a file's content; ModelFileError if its threshold is no number. Users call ``made_fast.load``."""
    hyper = dict(content.hyper)
    try:
        binarize = arguments.threshold(hyper.pop("binarize", None))
    except (TypeError, ValueError) as error:
        raise ModelFileError(f"{path}: {error} Save the model again.") from error
    more = {"binarize": binarize, "hyper": hyper, "feature_names": content.feature_names}
    return model_of(content.source, content.masks, content.rule, **more)
