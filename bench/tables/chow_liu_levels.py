"""A Chow-Liu tree over variables of several levels, with exact answers about weighted levels by message passing.

``p(x) = prod_v p(x_v | x_parent(v))`` over the spanning tree of the largest mutual information: Chow and Liu, "Approximating
discrete probability distributions with dependence trees" (IEEE Transactions on Information Theory, 1968). Each table of a
variable given its parent is smoothed by ``smoothing`` rows for each level of the parent, which are like the column at large.

Not here: mixtures of trees of binary variables (``bench/baselines/chow_liu.py``), columns and their levels, which are those of
``made_fast``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench.baselines.chow_liu import spanning_tree

__all__ = ["ChowLiuLevels"]

Floats = NDArray[np.float64]
Codes = NDArray[np.integer]


class ChowLiuLevels:
    """A tree of variables of so many levels each.

    Parameters
    ----------
    n_levels : sequence of int
        Of each variable.
    smoothing : float
        Rows that each level of a parent is given beside its own; more than 0.

    Attributes
    ----------
    parents_ : (V,) ndarray
        Of each variable; the root, variable 0, is its own.
    tables_ : list of ndarray
        Of each variable, p(level | level of the parent), (levels of the parent, levels); of the root (1, levels). Float32.
    """

    def __init__(self, n_levels: Sequence[int], smoothing: float = 0.1) -> None:
        self.n_levels, self.smoothing = [int(n) for n in n_levels], float(smoothing)

    def fit(self, codes: Codes) -> ChowLiuLevels:
        """Learn tree and tables of complete rows (n, V)."""
        V = len(self.n_levels)
        information = np.zeros((V, V))
        for v in range(V):
            for u in range(v):
                information[u, v] = information[v, u] = mutual_information(self._counts(codes, u, v))
        self.parents_ = spanning_tree(information)
        self.tables_: list[NDArray[np.float32]] = []
        for v, n in enumerate(self.n_levels):
            own = np.bincount(codes[:, v], minlength=n) + self.smoothing / n
            own = own / own.sum()
            table = own[None, :]
            if v:
                table = self._counts(codes, int(self.parents_[v]), v) + self.smoothing * own
                table /= table.sum(axis=1, keepdims=True)
            self.tables_.append(table.astype(np.float32))
        order = [0]
        for above in order:  # grows on the way
            order += [int(v) for v in np.flatnonzero(self.parents_ == above) if v]
        self._upwards = order[::-1]
        return self

    @property
    def n_bytes(self) -> int:
        """The bytes of all tables."""
        return sum(table.nbytes for table in self.tables_)

    def probability(self, weights: Sequence[Floats | None]) -> float:
        """Return the mean of the product of the weights of the levels of a row; None: all levels of a variable weigh 1."""
        # what comes up from the children of each variable, by its level
        message: list[Floats | None] = [None if w is None else np.asarray(w, np.float64) for w in weights]
        for v in self._upwards:
            own = message[v]
            if own is None:
                continue  # nothing is known of the variable and of all below: the message is 1
            up = self.tables_[v] @ own
            if not v:
                return float(up[0])
            parent = int(self.parents_[v])
            above = message[parent]
            message[parent] = up if above is None else above * up
        return 1.0

    def score_samples(self, codes: Codes) -> Floats:
        """Return ``log p(x)`` of complete rows (n, V), in nats."""
        log_p = np.zeros(len(codes))
        for v, table in enumerate(self.tables_):
            above = codes[:, self.parents_[v]] if v else 0
            log_p += np.log(table[above, codes[:, v]])
        return log_p

    def _counts(self, codes: Codes, u: int, v: int) -> Floats:
        n, m = self.n_levels[u], self.n_levels[v]
        both = np.bincount(codes[:, u].astype(np.intp) * m + codes[:, v], minlength=n * m)
        return both.reshape(n, m).astype(np.float64)


def mutual_information(counts: Floats) -> float:
    """Return the mutual information of two variables in nats from the rows of each two levels, (n, m)."""
    p = counts / counts.sum()
    product = p.sum(axis=1, keepdims=True) * p.sum(axis=0, keepdims=True)
    there = p > 0
    return float((p[there] * np.log(p[there] / product[there])).sum())
