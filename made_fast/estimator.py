"""``MADE``, the scikit-learn estimator: hyper-parameters in, a fitted ``MADEModel`` out. Thin: it checks and delegates."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from made_fast import checks, data, threads, training
from made_fast.kernels.layout import ACTIVATIONS, aligned_empty
from made_fast.kernels.optimizers import OPTIMIZERS
from made_fast.masks import DEGREE_RULES
from made_fast.model import MADEModel
from made_fast.progress import Progress

__all__ = ["MADE"]


class MADE(DensityMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Masked autoencoder for distribution estimation: an exact density model of binary data, trained on CPUs.

    ``p(x) = prod_d p(x_d | x_<d)``, where the conditionals are the outputs of a feed-forward net whose weights are masked so
    that output d depends on the inputs before d in an ordering, and on nothing else.

    Parameters
    ----------
    hidden_sizes : sequence of int
        Units of each hidden layer. Empty: logistic autoregression (a fully visible sigmoid belief network).
    activation : {"relu", "softplus", "tanh", "sigmoid", "softsign"}
        Of the hidden layers.
    ordering : {"random", "natural"} or (D,) sequence of places 1..D
        The order in which the inputs are factored.
    degrees : {"stratified", "uniform"}
        How the units' degrees are drawn. "uniform" is the paper's rule; "stratified" spreads them evenly, so that every
        output that can have inputs has some.
    optimizer : {"adam", "adadelta", "adagrad", "rmsprop", "momentum", "sgd"}
        Its remaining constants are the published ones, see ``made_fast.kernels.optimizers``.
    learning_rate : float or None
        None takes the optimizer's own.
    batch_size : int
        Rows of a mini-batch.
    max_epochs : int
        Most passes over the training rows.
    patience : int
        Stop after this many epochs without a better validation score.
    weight_init : {"glorot_uniform", "glorot_normal", "zeros"}
    dtype : {"float32", "float64"}
        Of parameters and arithmetic. Log-likelihoods are float64 always.
    n_threads : int, optional
        By default the CPUs this process may use. No result depends on it, to the bit.
    random_state : None, int, Generator, SeedSequence or RandomState
        An int makes ``fit`` repeatable to the bit.
    verbose : int
        1 shows a progress bar, 2 a line an epoch.
    validation_fraction : float, optional
        Hold out this share of the rows given to ``fit`` for early stopping, when no ``X_val`` is given.
    binarize : float, optional
        Inputs above it count as 1, the others as 0. None demands 0/1 input.

    Attributes
    ----------
    model_ : MADEModel
        The fitted model, for inference.
    history_ : list of dict
        One per epoch: ``epoch``, ``train_nll``, ``validation_nll``, ``seconds``, ``rows_per_second``.
    best_epoch_ : int
        The epoch whose parameters ``model_`` has.
    n_features_in_ : int
    feature_names_in_ : (D,) ndarray of str
        If X had column names.

    References
    ----------
    M. Germain, K. Gregor, I. Murray, H. Larochelle. MADE: Masked Autoencoder for Distribution Estimation. ICML 2015,
    arXiv:1502.03509.

    Examples
    --------
    >>> import numpy as np
    >>> from made_fast import MADE
    >>> X = np.repeat([[0, 0, 1, 1], [1, 1, 0, 0]], 50, axis=0)
    >>> made = MADE(hidden_sizes=(16,), batch_size=10, learning_rate=0.01, random_state=0).fit(X)
    >>> bool(made.score(X) > -0.8)  # the best possible is log(1 / 2) = -0.69
    True
    >>> made.sample(2, random_state=0).shape
    (2, 4)
    """

    def __init__(
        self,
        hidden_sizes: Sequence[int] = (500,),
        activation: str = "relu",
        ordering: str | Sequence[int] = "random",
        degrees: str = "stratified",
        optimizer: str = "adam",
        learning_rate: float | None = 1e-3,
        batch_size: int = 100,
        max_epochs: int = 200,
        patience: int = 30,
        weight_init: str = "glorot_uniform",
        dtype: str = "float32",
        n_threads: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
        *,
        validation_fraction: float | None = None,
        binarize: float | None = None,
    ) -> None:
        self.hidden_sizes = hidden_sizes
        self.activation = activation
        self.ordering = ordering
        self.degrees = degrees
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.weight_init = weight_init
        self.dtype = dtype
        self.n_threads = n_threads
        self.random_state = random_state
        self.verbose = verbose
        self.validation_fraction = validation_fraction
        self.binarize = binarize

    def fit(self, X: checks.MatrixLike, y: Any = None, *, X_val: checks.MatrixLike | None = None) -> MADE:
        """Draw a connectivity and train from scratch.

        Parameters
        ----------
        X : (n, D) of 0/1
            bool, any int or float dtype, any memory order, memmap or scipy.sparse. Kept packed, a bit an entry.
        y : ignored
        X_val : (n_val, D) of 0/1, optional
            Rows for early stopping: the parameters of the epoch that scores best on them are kept.

        Raises
        ------
        ValueError
            A parameter or the data is not as demanded.
        FloatingPointError
            The loss became infinite or NaN. With validation rows ``model_`` then has the best parameters seen; without, the
            last, which are of no use.
        """
        batch_size, n_threads = checks.positive_int(self.batch_size, "batch_size"), self._n_threads()
        max_epochs = checks.positive_int(self.max_epochs, "max_epochs")
        patience = checks.positive_int(self.patience, "patience")
        trainer, bits = self._start(X)
        bits_val = None
        if X_val is not None:
            bits_val = self._pack(X_val, trainer, "X_val")
        elif self.validation_fraction is not None:
            bits, bits_val = self._hold_out(bits, trainer)
        self._begin(X, trainer)
        try:
            with Progress(self.verbose, max_epochs) as progress:

                def on_epoch(record: training.EpochRecord, best_epoch: int) -> None:
                    self.history_.append(record)
                    self.best_epoch_ = best_epoch
                    progress.show(record, best_epoch)

                training.fit(
                    trainer,
                    bits,
                    bits_val,
                    batch_size=batch_size,
                    max_epochs=max_epochs,
                    patience=patience,
                    n_threads=n_threads,
                    on_epoch=on_epoch,
                )
        finally:
            self._snapshot()
        return self

    def partial_fit(self, X: checks.MatrixLike, y: Any = None) -> MADE:
        """Make one pass over X in mini-batches; the first call draws the connectivity and the initial parameters."""
        batch_size, n_threads = checks.positive_int(self.batch_size, "batch_size"), self._n_threads()
        if hasattr(self, "_trainer"):
            trainer = self._trainer
            bits = self._pack(X, trainer, "X")
            validate_data(self, X, reset=False, skip_check_array=True)
        else:
            trainer, bits = self._start(X)
            self._begin(X, trainer)
        number = len(self.history_) + 1
        record = training.run_epoch(trainer, bits, batch_size, n_threads, number)
        self.history_.append(record)
        self.best_epoch_ = number
        self._snapshot()
        return self

    def score_samples(self, X: checks.MatrixLike) -> NDArray[np.float64]:
        """Return log p(x) of each row in nats, (n,) float64; see ``MADEModel.score_samples``."""
        table = self._table(X)
        return self.model_.score_samples(table, n_threads=self.n_threads)

    def score(self, X: checks.MatrixLike, y: Any = None) -> float:
        """Return the mean log-likelihood of the rows of X in nats."""
        return float(np.mean(self.score_samples(X)))

    def conditional_proba(self, X: checks.MatrixLike) -> NDArray[Any]:
        """Return ``p(x_d = 1 | x_<d)`` for every row and input, (n, D); see ``MADEModel.conditional_proba``."""
        table = self._table(X)
        return self.model_.conditional_proba(table, n_threads=self.n_threads)

    def sample(self, n_samples: int = 1, random_state: Any = None) -> NDArray[np.uint8]:
        """Draw rows from the model, (n_samples, D) uint8; see ``MADEModel.sample``."""
        check_is_fitted(self, "model_")
        return self.model_.sample(n_samples, random_state, n_threads=self.n_threads)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted model to a file that ``made_fast.load`` reads."""
        check_is_fitted(self, "model_")
        self.model_.save(path)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _start(self, X: checks.MatrixLike) -> tuple[training.Trainer, NDArray[np.uint64]]:
        """Check every parameter and X; return a fresh trainer and the packed rows."""
        checks.threshold(self.binarize)
        X_checked = checks.matrix(X)
        n_features = X_checked.shape[1]
        trainer = training.Trainer.start(
            n_features,
            hidden_sizes=checks.hidden_sizes(self.hidden_sizes),
            activation=checks.choice(self.activation, "activation", ACTIVATIONS[1:]),
            ordering=checks.ordering(self.ordering, n_features),
            degrees=checks.choice(self.degrees, "degrees", DEGREE_RULES),
            optimizer=checks.choice(self.optimizer, "optimizer", tuple(OPTIMIZERS)),
            learning_rate=self._learning_rate(),
            weight_init=checks.choice(self.weight_init, "weight_init", training.WEIGHT_INITS),
            dtype=checks.dtype(self.dtype),
            rng=checks.generator(self.random_state),
        )
        return trainer, self._pack(X_checked, trainer, "X")

    def _pack(self, X: Any, trainer: training.Trainer, name: str) -> NDArray[np.uint64]:
        X = checks.matrix(X, trainer.connectivity.n_inputs, name=name)
        order = trainer.connectivity.staircase().sorts[0]
        return data.pack_rows(X, order, binarize=self.binarize, name=name)

    def _begin(self, X: Any, trainer: training.Trainer) -> None:
        """Forget the last fit; from here on nothing the user gave can be refused."""
        validate_data(self, X, reset=True, skip_check_array=True)
        self._trainer = trainer
        self.history_: list[training.EpochRecord] = []
        self.best_epoch_ = 0

    def _hold_out(self, bits: NDArray[np.uint64], trainer: training.Trainer) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        n_val = round(len(bits) * checks.fraction(self.validation_fraction, "validation_fraction"))
        if not 0 < n_val < len(bits):
            raise ValueError(
                f"validation_fraction={self.validation_fraction} of {len(bits)} rows leaves {len(bits) - n_val} for training "
                f"and {n_val} for validation; both must have some. Give more rows, another fraction, or X_val."
            )
        rows = trainer.shuffle.permutation(len(bits))
        return bits[rows[n_val:]], bits[rows[:n_val]]

    def _snapshot(self) -> None:
        """Make ``model_`` from a copy of the parameters: further training does not change a model that is in use."""
        trainer = self._trainer
        theta = aligned_empty(len(trainer.theta), trainer.theta.dtype)
        theta[:] = trainer.theta
        hyper = {name: _plain(value) for name, value in self.get_params(deep=False).items() if name not in _NOT_SAVED}
        hyper["learning_rate"] = float(trainer.hyper[0])
        self.model_ = MADEModel(trainer.connectivity, theta, trainer.activation, binarize=self.binarize, hyper=hyper)

    def _table(self, X: checks.MatrixLike) -> Any:
        check_is_fitted(self, "model_")
        table = checks.matrix(X, self.n_features_in_)
        validate_data(self, X, reset=False, skip_check_array=True)  # the names of the columns
        return table

    def _learning_rate(self) -> float:
        if self.learning_rate is None:
            return OPTIMIZERS[self.optimizer].hyper[0]
        return checks.positive_float(self.learning_rate, "learning_rate")

    def _n_threads(self) -> int:
        return checks.n_threads(self.n_threads) or threads.available()


_NOT_SAVED = ("random_state", "verbose", "n_threads", "binarize", "ordering")


def _plain(value: Any) -> Any:
    """Return a hyper-parameter as JSON knows it."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)
