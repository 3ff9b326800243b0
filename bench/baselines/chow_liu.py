"""A mixture of Chow-Liu trees, trained by EM: ``p(x) = sum_k pi_k prod_d p_k(x_d | x_parent(k, d))``.

The tree of a distribution: Chow and Liu, "Approximating discrete probability distributions with dependence trees" (IEEE
Transactions on Information Theory, 1968): the spanning tree of the largest mutual information. Mixtures: Meila and Jordan,
"Learning with mixtures of trees" (JMLR 2000). The log-likelihood of a row is exact; one component is the Chow-Liu tree.

As in ``bernoulli_mixture.py``, each component and the weights are given ``s`` rows of average content, here pairs of inputs
of the training rows, add-one smoothed, so that no probability becomes 0 or 1. The tree and the tables of a component then
maximise its share of the log-posterior together, and EM climbs that. It begins with the shares that the rows have in products
of Bernoullis half-way between random training rows and the marginals.

Not here: a choice of K, or of s. An EM step takes O(n D^2) a component, in the matrix products of NumPy; ``n_threads``
threads take components, and BLAS may use threads of its own besides.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bench.baselines.common import Floats, Learner, Rows
from made_fast.system import threads
from made_fast.tables import arguments

__all__ = ["ChowLiuMixture", "mutual_information", "spanning_tree"]


class ChowLiuMixture(Learner):
    """A mixture of trees.

    Parameters
    ----------
    n_components : int
        K.
    smoothing : float
        s of the prior, in rows; more than 0.
    max_epochs : int
        Most EM steps, each over all rows.
    patience : int
        Stop after this many without a better validation score.
    **learning
        As of ``Learner``; everything is worked out in float64.
    """

    def __init__(
        self,
        n_components: int = 10,
        smoothing: float = 1.0,
        *,
        max_epochs: int = 100,
        patience: int = 5,
        **learning: Any,
    ) -> None:
        super().__init__(max_epochs=max_epochs, patience=patience, **{"dtype": "float64", **learning})
        self.n_components = arguments.positive_int(n_components, "n_components")
        self.smoothing = arguments.positive_float(smoothing, "smoothing")

    def fit(self, X: Any, X_val: Any = None) -> Self:
        """See ``Baseline.fit``; an epoch is an EM step, its loss minus the log-posterior before it, but for a constant."""
        X, X_val, rng = self._begin(X, X_val)
        D, K = X.shape[1], self.n_components
        x = X.astype(np.float64)
        self._average: Floats = (x.T @ x + 0.5) / (len(x) + 2.0)  # P(x_i = x_j = 1) of the training rows
        np.fill_diagonal(self._average, (x.sum(axis=0) + 1.0) / (len(x) + 2.0))
        self.theta_ = np.empty(K * (1 + 3 * D))
        self.log_weights_ = self.theta_[:K]
        self._parents = self.theta_[K : K * (1 + D)].reshape(K, D)  # whole numbers, in theta_ to be kept with the rest
        self.log_odds_ = self.theta_[K * (1 + D) :].reshape(K, D, 2)  # of x_d = 1 where the parent is 0, and where it is 1
        self._m_step(x, self._beginning(x, rng))
        self._learn(lambda epoch: -self._step(x) / len(x), None if X_val is None else lambda: -self.score(X_val))
        return self

    @property
    def parents_(self) -> NDArray[np.intp]:
        """The parent of each input in each tree, (K, D); the root, input 0, is its own."""
        return self._parents.astype(np.intp)

    def score_samples(self, X: Any) -> Floats:
        """See ``Baseline.score_samples``; exact."""
        log_p: Floats = np.logaddexp.reduce(self._joint(self._rows(X).astype(np.float64)), axis=1)
        return log_p

    def sample(self, n_samples: int, random_state: Any = None) -> Rows:
        """See ``Baseline.sample``: a component for each row, then its inputs, parents before children."""
        rng = arguments.generator(random_state)
        weights = np.exp(self.log_weights_)
        n = arguments.positive_int(n_samples, "n_samples")
        k_of_row = rng.choice(self.n_components, n, p=weights / weights.sum())
        X = np.zeros((n, self.n_features_in_), np.uint8)
        noise = rng.logistic(size=X.shape)
        for k in np.unique(k_of_row):
            rows, parents = np.flatnonzero(k_of_row == k), self.parents_[k]
            for d in _from_the_root(parents):
                X[rows, d] = noise[rows, d] < self.log_odds_[k, d, X[rows, parents[d]]]
        return X

    @property
    def n_parameters(self) -> int:
        """K weights, one of which follows from the rest; for each component two probabilities of an input, of the root one."""
        return self.n_components * 2 * self.n_features_in_ - 1

    def _beginning(self, x: Floats, rng: np.random.Generator) -> Floats:
        """Return the shares that the rows have in a product of Bernoullis around each of K random rows, (n, K)."""
        K = self.n_components
        rows = x[rng.choice(len(x), K, replace=len(x) < K)]
        mu = (rows + self._average.diagonal()) / 2
        return _shares(x @ np.log(mu / (1 - mu)).T + np.log1p(-mu).sum(axis=1))

    def _step(self, x: Floats) -> float:
        """Make one EM step; return the log-posterior (but for a constant) of the parameters before it."""
        joint = self._joint(x)
        prior = self.log_weights_.sum() + sum(self._expected(k) for k in range(self.n_components))
        objective = float(np.logaddexp.reduce(joint, axis=1).sum() + self.smoothing * prior)
        self._m_step(x, _shares(joint))
        return objective

    def _joint(self, x: Floats) -> Floats:
        """Return ``log p(k, x)`` of each row, (n, K).

        The logarithm of a factor is linear in x_d, x_parent and their product: so a tree costs one product with a vector,
        and one sum over its edges.
        """
        joint, parents = np.empty((len(x), self.n_components)), self.parents_

        def work(k: int, rank: int) -> None:
            odds, zero = self.log_odds_[k].T, -np.logaddexp(0.0, self.log_odds_[k].T)
            linear = odds[0] + np.bincount(parents[k], zero[1] - zero[0], len(odds[0]))
            joint[:, k] = self.log_weights_[k] + zero[0].sum() + x @ linear + (x * x[:, parents[k]]) @ (odds[1] - odds[0])

        threads.for_each(work, self.n_components, self.n_threads)
        return joint

    def _expected(self, k: int) -> float:
        """Return the mean of log p_k of rows of average content."""
        odds, parents, own = self.log_odds_[k], self.parents_[k], np.arange(self.n_features_in_)
        one = self._average.diagonal()[parents]
        both = self._average[own, parents]
        above = np.stack([1 - one, one], axis=1)
        ones = np.stack([self._average.diagonal() - both, both], axis=1)
        return float((ones * odds - above * np.logaddexp(0.0, odds)).sum())

    def _m_step(self, x: Floats, shares: Floats) -> None:
        """Give each component the tree and the tables of its share of the rows, (n, K)."""
        s, n_rows = self.smoothing, shares.sum(axis=0)
        self.log_weights_[:] = np.log((n_rows + s) / (len(x) + self.n_components * s))

        def work(k: int, rank: int) -> None:
            both = (x.T @ (shares[:, k : k + 1] * x) + s * self._average) / (n_rows[k] + s)
            parents = spanning_tree(mutual_information(both))
            one = both.diagonal()
            ones = np.stack([one - both[np.arange(len(both)), parents], both[np.arange(len(both)), parents]], axis=1)
            above = np.stack([1 - one[parents], one[parents]], axis=1)
            ones[0], above[0] = one[0], 1.0  # the root
            least = s * 0.4 / ((len(x) + 2) * (n_rows[k] + s))  # what every cell has, less what rounding may take
            self.log_odds_[k] = np.log(np.maximum(ones, least)) - np.log(np.maximum(above - ones, least))
            self._parents[k] = parents

        threads.for_each(work, self.n_components, self.n_threads)


def mutual_information(both: Floats) -> Floats:
    """Return the mutual information of each two inputs in nats, (D, D), from P(x_i = x_j = 1), on the diagonal P(x_i = 1)."""
    one = both.diagonal()
    cells = {
        (1, 1): both,
        (1, 0): one[:, None] - both,
        (0, 1): one[None, :] - both,
        (0, 0): 1 - one[:, None] - one[None, :] + both,
    }
    log_of = {1: np.log(one), 0: np.log1p(-one)}
    found = np.zeros_like(both)
    for (a, b), p in cells.items():
        p = np.maximum(p, np.finfo(float).tiny)
        found += p * (np.log(p) - log_of[a][:, None] - log_of[b][None, :])
    return found


def spanning_tree(weight: Floats) -> NDArray[np.intp]:
    """Return the parents (D,) of the spanning tree of the largest weight (D, D), by Prim; input 0 is its own: the root."""
    parents, best = np.zeros(len(weight), np.intp), weight[0].copy()
    outside = np.arange(len(weight)) > 0
    for _ in range(len(weight) - 1):
        j = int(np.argmax(np.where(outside, best, -np.inf)))
        outside[j] = False
        closer = outside & (weight[j] > best)
        best[closer], parents[closer] = weight[j][closer], j
    return parents


def _from_the_root(parents: NDArray[np.intp]) -> list[int]:
    """Return the inputs of a tree, parents before children."""
    order = [0]
    for above in order:  # grows on the way
        order += [int(d) for d in np.flatnonzero(parents == above) if d != 0]
    return order


def _shares(joint: Floats) -> Floats:
    """Return each component's share of each row from ``log p(k, x)``, (n, K)."""
    shares = np.exp(joint - joint.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return shares
