"""``MADE``, the scikit-learn estimator: hyper-parameters in, a fitted ``MADEModel`` out. Thin: it checks and delegates."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from made_fast.estimators.fitted import FittedDensity, check_columns, learn_columns
from made_fast.inference.header import file_error
from made_fast.inference.model import MADEModel
from made_fast.network.masks import Connectivity
from made_fast.tables import arguments, checks
from made_fast.training import checkpoint as checkpoint_file
from made_fast.training import recipe, rows
from made_fast.training.run import FitRun, Settings
from made_fast.training.state import EpochRecord, FitState

__all__ = ["MADE"]


class MADE(FittedDensity):
    """Masked autoencoder for distribution estimation: an exact density model of binary data, trained on CPUs.

    ``p(x) = prod_d p(x_d | x_<d)``, where the conditionals are the outputs of a feed-forward net whose weights are masked so
    that output d depends on the inputs before d in an ordering, and on nothing else. With several masks, one set of weights
    is trained under all of them in turn, and the model is the mixture of what it is under each.

    Parameters
    ----------
    hidden_sizes : sequence of int
        Units of each hidden layer. Empty: logistic autoregression (a fully visible sigmoid belief network, FVSBN).
    activation : {"relu", "softplus", "tanh", "sigmoid", "softsign"}
        Of the hidden layers.
    ordering : {"random", "natural"} or (D,) sequence of places 1..D
        The order in which the inputs are factored; with several masks, that of the first.
    degrees : {"stratified", "uniform"}
        How the units' degrees are drawn. "uniform" is the paper's rule; "stratified" spreads them evenly, so that every
        output that can have inputs has some.
    optimizer : {"adam", "adadelta", "adagrad", "rmsprop", "momentum", "sgd"}
        See ``made_fast.kernels.optimizers`` for the rules and their sources.
    learning_rate : float or None
        None takes the optimizer's own.
    batch_size : int
        Rows of a mini-batch.
    max_epochs : int
        Most passes over the training rows.
    patience : int
        Stop after this many epochs without a better validation score.
    weight_init : {"glorot_uniform", "glorot_normal", "orthogonal", "zeros"}
    dtype : {"float32", "float64"}
        Of parameters and arithmetic. Log-likelihoods are float64 always.
    n_threads : int, optional
        By default the CPUs this process may use. No result depends on it, to the bit.
    random_state : None, int, Generator, SeedSequence or RandomState
        An int makes ``fit`` repeatable to the bit.
    verbose : int
        1 shows a progress bar, or a line a minute where there is no terminal; 2 a line an epoch.
    n_masks : int or None
        Connectivities that take turns, one a mini-batch; the model is the mixture over exactly these. None draws a fresh one
        for every mini-batch (sections 4.1 and 4.2); the model is then the mixture over ``n_eval_masks`` further ones.
    resample : {"both", "order", "connectivity"}
        What differs between masks: ordering and hidden degrees, the ordering only, the degrees only.
    n_eval_masks : int
        Masks of the model when ``n_masks`` is None.
    n_val_masks : int
        Most masks, the first ones of the model, that validation rows are scored under while training.
    direct_connections : {"none", "output", "all"}
        Weights A from the inputs to the output layer (section 4.4), or to every layer but the first, masked to be
        strictly autoregressive.
    connectivity_weights : bool
        Weights U that tell a unit how many inputs it is connected to (section 4.3).
    optimizer_params : mapping, optional
        The optimizer's constants other than the learning rate, by name: sgd ``lr_decay`` (c of 1 / (1 + c t)); momentum
        ``lr_decay, momentum``; adagrad ``eps``; adadelta and rmsprop ``rho, eps``; adam ``beta_1, beta_2, eps``.
    learning_rate_schedule : {"constant", "linear", "cosine"} or callable
        What the learning rate is multiplied by in each epoch: 1; falling to 0 over ``max_epochs`` along a line or half a
        cosine; or a function of the epoch's number (from 1).
    weight_decay : float
        Weights, not biases, shrink by the factor ``1 - learning_rate * weight_decay`` a step, apart from the gradient.
    clip_norm : float, optional
        Scale a larger gradient down to this Euclidean norm.
    dropout : float
        Probability that a hidden unit is dropped for a row in training; the others are scaled up.
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

    _warns = True
    """Whether ``fit`` tells of columns that are never observed; who trains several at a time has told already."""

    model_: MADEModel
    _fit_state: FitState

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
        n_masks: int | None = 1,
        resample: str = "both",
        n_eval_masks: int = 300,
        n_val_masks: int = 8,
        direct_connections: str = "none",
        connectivity_weights: bool = False,
        optimizer_params: Mapping[str, float] | None = None,
        learning_rate_schedule: str | Callable[[int], float] = "constant",
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        dropout: float = 0.0,
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
        self.n_masks = n_masks
        self.resample = resample
        self.n_eval_masks = n_eval_masks
        self.n_val_masks = n_val_masks
        self.direct_connections = direct_connections
        self.connectivity_weights = connectivity_weights
        self.optimizer_params = optimizer_params
        self.learning_rate_schedule = learning_rate_schedule
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.dropout = dropout
        self.validation_fraction = validation_fraction
        self.binarize = binarize

    def fit(
        self,
        X: checks.MatrixLike,
        y: Any = None,
        *,
        X_val: checks.MatrixLike | None = None,
        sample_weight: Any = None,
        sample_weight_val: Any = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 1,
        callback: Callable[[EpochRecord], Any] | None = None,
    ) -> MADE:
        """Draw the masks and train from scratch; after :meth:`resume`, go on instead.

        Parameters
        ----------
        X : (n, D) of 0/1
            bool, any int or float dtype, any memory order, memmap, data frame or scipy.sparse. Kept packed, a bit an entry.
            NaN marks a missing entry: the row is then trained under orderings that have its missing inputs last, and only the
            factors of the others count.
        y : ignored
        X_val : (n_val, D) of 0/1, optional
            Rows for early stopping: the parameters of the epoch that scores best on them are kept.
        sample_weight : (n,) of float, optional
            The loss of a mini-batch of B rows is ``1/B sum_b weight[b] nll[b]``: weights are not normalised, and may be
            negative (policy gradients). Rows that ``validation_fraction`` holds out count in the validation score by theirs,
            which must be >= 0.
        sample_weight_val : (n_val,) of float, optional
            What the rows of ``X_val`` count in the validation score, >= 0; by default all the same.
        checkpoint : path, optional
            Write there, every ``checkpoint_every`` epochs and at the end, all that :meth:`resume` needs to go on to the bit.
        callback : callable, optional
            Called after every epoch with its record, see ``history_``; if it returns True, the fit ends there as if
            ``max_epochs`` were reached. What it raises ends the fit as Ctrl-C does: the best parameters so far are kept.

        Raises
        ------
        ValueError
            A parameter or the data is not as demanded; after :meth:`resume`, rows, weights or parameters are not those that
            the fit began with.
        FloatingPointError
            The loss became infinite or NaN; the text says in which epoch, at which step. ``model_`` then has the best
            parameters that validation rows have seen; without such rows, those from before the epoch.

        Warns
        -----
        UserWarning
            Columns of X have no observed entry: nothing is learned of them.
        """
        params = self.get_params(deep=False)
        settings = Settings.of(params, checkpoint, checkpoint_every, callback)
        resumed = hasattr(self, "_fit_state") and self._fit_state.resumed
        state, train = self._look(X, sample_weight, params, resumed)
        held = rows.look_at_validation(X_val, sample_weight_val, train)
        rows.check_observed(train, warn=self._warns and not resumed)
        run = FitRun.prepare(state, settings, train, held)
        del train, held  # a frame that was converted would stay as long as the fit takes
        self._begin(X, state)
        try:
            run.start()
        finally:
            self._show()
        return self

    def partial_fit(self, X: checks.MatrixLike, y: Any = None, *, sample_weight: Any = None) -> MADE:
        """Make one pass over X in mini-batches; the first call draws the masks and the initial parameters.

        Takes what ``fit`` does. Rows with missing entries need a model that was started with some, or whose masks vary. It
        goes on from ``model_``: after a fit that kept the parameters of an earlier epoch than its last, from those, and the
        optimizer then begins anew.

        Raises
        ------
        ValueError
            The data is not as demanded, or a parameter that the network or the optimizer was made with has changed. What may
            change are ``batch_size``, ``learning_rate`` and its schedule, ``max_epochs``, ``n_threads``.
        """
        params = self.get_params(deep=False)
        settings = Settings.of(params)
        state, train = self._look(X, sample_weight, params, hasattr(self, "_fit_state"))
        rows.check_observed(train, warn=False)
        run = FitRun(state, settings, rows.pack(train, state.trainer.parameters, self.binarize))
        self._begin(X, state)
        run.once_more()
        self._show()
        return self

    def member_for(self, observed: Any, *, draw: int = 0) -> Connectivity:
        """Return the connectivity that answers when these inputs are observed; see ``MADEModel.member_for``."""
        connectivity: Connectivity = self._fitted().member_for(observed, draw=draw)
        return connectivity

    @classmethod
    def resume(cls, path: str | os.PathLike[str]) -> MADE:
        """Return the estimator as it was when ``fit`` wrote a checkpoint.

        Its next ``fit``, on the same rows, goes on from there; it ends with the bits of a fit that was never interrupted.
        ``set_params(max_epochs=...)`` before it makes that longer. ``partial_fit`` and ``model_`` work too. The file is
        untrusted: ``made_fast.ModelFileError`` if it is no whole, consistent checkpoint.
        """
        state = checkpoint_file.read(path := arguments.path(path))
        try:
            made = cls(**state.params)
            state.params = recipe.plain(made.get_params(deep=False))
            made.n_features_in_ = state.trainer.architecture.n_inputs
            if state.names is not None:
                made.feature_names_in_ = np.array(state.names, dtype=object)
            made._fit_state, made.history_ = state, state.history
            made._show()
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise file_error(path, "what it says of the estimator must be whole", str(error)) from error
        return made

    def _look(
        self, X: checks.MatrixLike, sample_weight: Any, params: recipe.Params, going_on: bool
    ) -> tuple[FitState, rows.Rows]:
        """Check X and every parameter; return the state, a fresh one unless the fit goes on, and X as it was checked."""
        if going_on:
            state = self._fit_state
            recipe.check_unchanged(state.params, params)
            train = rows.look(X, sample_weight, self._names, state.trainer.architecture.n_inputs)
            check_columns(self, X)
            return state, train
        arguments.threshold(self.binarize)
        train = rows.look(X, sample_weight, self._names)
        trainer, split_seed = recipe.start(params, train.table.shape[1], train.missing is not None)
        return FitState(trainer, recipe.plain(params), train.names, split_seed), train

    def _begin(self, X: checks.MatrixLike, state: FitState) -> None:
        """Forget the last fit, unless this one goes on with it; nothing that the user gave can be refused any more."""
        if state is getattr(self, "_fit_state", None):
            return
        learn_columns(self, X, self._names)
        self._fit_state, self.history_, self.best_epoch_ = state, state.history, 0

    def _show(self) -> None:
        """Make ``model_`` of the best parameters so far. It holds them, not a copy: they change no more when a fit goes on."""
        self._fit_state.take_in()  # Ctrl-C may have come amid it
        self.best_epoch_ = self._fit_state.best_epoch
        self.model_ = self._fit_state.model(self.get_params(deep=False))
