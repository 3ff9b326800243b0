"""A density of another library as a member of a mixture: it scores and draws complete rows, and refuses all else by name.

Not here: the mixture (``mixture.py``).
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from made_fast.inference.answering import Options
from made_fast.inference.density import Density
from made_fast.inference.pattern import Floats
from made_fast.inference.rows import Rows
from made_fast.network.masks import Connectivity
from made_fast.tables import arguments
from made_fast.tables.table import MatrixLike, Table

__all__ = ["DensityMember"]

ABOVE_1 = 1e-3
"""Nats by which rounding may lift the log-probability of a row above 0."""


class DensityMember(Density):
    """Any density of 0/1 rows as a member of a :class:`MixtureModel`.

    Parameters
    ----------
    density : object
        With ``score_samples(X)``, log-probabilities (n,) in nats of (n, D) uint8 rows, which over all rows of 0 and 1 must be
        those of a distribution; and ``sample(n, random_state=seed)``, (n, D) of 0/1 (or a tuple that begins with them, as
        scikit-learn's mixtures return). It is not copied, and is called on the caller's thread.
    n_features_in, binarize, feature_names
        As those of the other members.
    """

    n_parameters = 0  # none that are known

    def __init__(
        self, density: Any, n_features_in: int, binarize: float | None, feature_names: tuple[str, ...] | None
    ) -> None:
        self.density = density
        self.n_features_in, self.binarize, self.feature_names = n_features_in, binarize, feature_names
        self.hyper = {}

    def __repr__(self) -> str:
        return repr(self.density)

    def score_samples(self, X: MatrixLike, *, n_threads: int | None = None) -> Floats:
        """Return ``log p(x)`` of each row, as the density says. See :meth:`Density.score_samples`."""
        table = self._table(X)
        log_p = np.empty(len(table))
        for part, rows in table.chunks():
            found = np.asarray(self.density.score_samples(rows.ones(self.binarize).astype(np.uint8)))
            if found.shape != (len(rows),) or found.dtype.kind != "f":
                self._refuse(f"score_samples must return ({len(rows)},) float, got {found.shape} of {found.dtype}")
            if not (found <= ABOVE_1).all():
                worst = found[~(found <= ABOVE_1)][0]
                self._refuse(
                    f"the log-probability of a row of 0 and 1 is at most 0, got {worst}: densities of real numbers do not mix"
                )
            log_p[part] = found
        return log_p

    def sample(self, n_samples: int = 1, random_state: Any = None, *, n_threads: int | None = None) -> NDArray[np.uint8]:
        """Draw independent rows, as the density does. See :meth:`Density.sample`."""
        n, rng = arguments.how_many(n_samples, "n_samples", self.n_features_in), arguments.generator(random_state)
        drawn = self.density.sample(n, random_state=int(rng.integers(2**31)))
        table = Table.of(drawn[0] if isinstance(drawn, tuple) else drawn, self.n_features_in, name="what sample returns")
        if len(table) != n:
            self._refuse(f"sample must return the {n} rows that it is asked for, got {len(table)}")
        return table.ones().astype(np.uint8)

    def _rows(self, n: int, rng: np.random.Generator, n_threads: int, context: Any) -> NDArray[np.uint8]:
        return self.sample(n, rng)

    def with_input(self, binarize: float | None) -> DensityMember:
        """Return a member that takes other input: see ``binarize``."""
        return DensityMember(self.density, self.n_features_in, binarize, self.feature_names)

    def conditional_proba(self, X: MatrixLike, *, mask: int | None = None, n_threads: int | None = None) -> NoReturn:
        """Refuse it: the density does not tell its conditionals."""
        self._cannot("has no conditionals")

    def to_dense(self, mask: int | Connectivity | None = None) -> NoReturn:
        """Refuse it: the density is no network."""
        self._cannot("is no network")

    def _answers(self, rows: Rows, options: Options) -> NoReturn:
        self._cannot("knows no marginals, conditionals or completions of rows that miss something")

    def _content(self) -> NoReturn:
        self._cannot("cannot be saved in a model file")

    def _encoded(self) -> NoReturn:
        self._content()

    def _cannot(self, why: str) -> NoReturn:
        raise TypeError(
            f"all members must be MADE models for this, got a {type(self.density).__name__}, which {why}: of a density of "
            "another library, a mixture only scores and draws complete rows. Ask a mixture of the other members."
        )

    def _refuse(self, why: str) -> NoReturn:
        raise ValueError(f"the member {type(self.density).__name__} must be a density of 0/1 rows: {why}.")
