"""``MADE``, the scikit-learn estimator: hyper-parameters in, a fitted ``MADEModel`` out. Thin: it checks and delegates."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from made_fast.estimators.base import FittedDensity, check_columns, learn_columns
from made_fast.inference.model import MADEModel
from made_fast.inference.tensorfile import file_error
from made_fast.kernels.layout import aligned_copy
from made_fast.network.masks import Connectivity
from made_fast.tables import arguments
from made_fast.tables.table import MatrixLike
from made_fast.training import checkpoint as checkpoint_file
from made_fast.training import given, recipe, training
from made_fast.training.progress import Progress
from made_fast.training.recipe import SCHEDULES
from made_fast.training.trainers import SharedTrainer, Trainer

__all__ = ["MADE"]


class MADE(FittedDensity[MADEModel]):
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
        X: MatrixLike,
        y: Any = None,
        *,
        X_val: MatrixLike | None = None,
        sample_weight: Any = None,
        sample_weight_val: Any = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 1,
        callback: Callable[[training.EpochRecord], Any] | None = None,
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
        batch_size, n_threads = arguments.positive_int(self.batch_size, "batch_size"), arguments.n_threads(self.n_threads)
        max_epochs = arguments.positive_int(self.max_epochs, "max_epochs")
        patience = arguments.positive_int(self.patience, "patience")
        every, verbose = arguments.positive_int(checkpoint_every, "checkpoint_every"), arguments.verbosity(self.verbose)
        checkpoint = None if checkpoint is None else arguments.path(checkpoint, "checkpoint")
        callback = arguments.function(callback, "callback")
        n_val_masks = arguments.positive_int(self.n_val_masks, "n_val_masks")
        schedule = recipe.schedule(self.get_params(deep=False), max_epochs)
        resumed = getattr(self, "_resumed", False)
        trainer, train = self._trainer_for(X, sample_weight, resumed)
        held = given.look_at_validation(X_val, sample_weight_val, train)
        given.check_observed(train, warn=self._warns and not resumed)
        rows, packed = given.pack(train, trainer, self.binarize), None
        if held is not None:
            packed = given.pack(held, trainer, self.binarize, "X_val")
        elif self.validation_fraction is not None:
            first, rest = self._hold_out(len(rows.bits))
            rows, packed, held = rows.take(first), rows.take(rest), train.take(rest)
        given.check_weights(rows.weights, packed and packed.weights)
        names = train.names
        del train  # a frame that was converted would stay as long as the fit takes
        digests = given.digests(rows, packed) if resumed or checkpoint is not None else {}
        if resumed:
            given.check_same(digests, self._digests)
        if checkpoint is not None:
            self._try_checkpoint(checkpoint, trainer, names, resumed)
        if resumed:
            self._resumed = False
        else:
            self._begin(X, trainer)
        self._digests: dict[str, str] = digests
        validate = None
        if held is not None and packed is not None:
            model = partial(self._model, trainer=trainer)
            validate = given.validator(held, packed, trainer, self.binarize, n_val_masks, n_threads, model)
        state = self._fit_state
        if state.best_parameters is not None:  # ``model_`` holds them, or the trainer's, and may be in use
            state.best_parameters = aligned_copy(state.best_parameters)
        elif resumed:
            trainer.detach()
        trainer.own()
        try:
            with Progress(verbose, max_epochs) as progress:

                def on_epoch(record: training.EpochRecord, best_epoch: int) -> bool:
                    self.best_epoch_ = best_epoch
                    progress.show(record, best_epoch)
                    if checkpoint is not None and record["epoch"] % every == 0:
                        self._write_checkpoint(checkpoint)
                    if self._called_off():
                        raise KeyboardInterrupt
                    return callback is not None and arguments.is_true(callback(record))

                training.fit(
                    trainer,
                    rows,
                    validate,
                    state=state,
                    batch_size=batch_size,
                    max_epochs=max_epochs,
                    patience=patience,
                    schedule=schedule,
                    n_threads=n_threads,
                    on_epoch=on_epoch,
                )
            if checkpoint is not None and state.epoch % every:
                self._write_checkpoint(checkpoint)
        finally:
            self._show()
        return self

    def partial_fit(self, X: MatrixLike, y: Any = None, *, sample_weight: Any = None) -> MADE:
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
        batch_size, n_threads = arguments.positive_int(self.batch_size, "batch_size"), arguments.n_threads(self.n_threads)
        schedule = recipe.schedule(self.get_params(deep=False), arguments.positive_int(self.max_epochs, "max_epochs"))
        going_on = hasattr(self, "_trainer")
        trainer, given_rows = self._trainer_for(X, sample_weight, going_on)
        given.check_observed(given_rows, warn=False)
        rows = given.pack(given_rows, trainer, self.binarize)
        if not going_on:
            self._begin(X, trainer)
        trainer.own()
        state, number = self._fit_state, len(self.history_) + 1
        if state.best_parameters is not None and state.best_epoch != state.epoch:
            trainer.go_back(state.best_parameters)
        trainer.hyper[0] = schedule(number)
        record = training.run_epoch(trainer, rows, batch_size, n_threads, number, trainer.detach())
        self.history_.append(record)
        self.best_epoch_ = state.epoch = state.best_epoch = number
        state.best_parameters = None  # whatever was best is behind us
        self._show()
        return self

    def member_for(self, observed: Any, *, draw: int = 0) -> Connectivity:
        """Return the connectivity that answers when these inputs are observed; see ``MADEModel.member_for``."""
        return self._fitted().member_for(observed, draw=draw)

    def _called_off(self) -> bool:
        """Say whether nobody waits for this fit any more; who trains several at a time puts something else here."""
        return False

    @classmethod
    def resume(cls, path: str | os.PathLike[str]) -> MADE:
        """Return the estimator as it was when ``fit`` wrote a checkpoint.

        Its next ``fit``, on the same rows, goes on from there; it ends with the bits of a fit that was never interrupted.
        ``set_params(max_epochs=...)`` before it makes that longer. ``partial_fit`` and ``model_`` work too. The file is
        untrusted: ``made_fast.ModelFileError`` if it is no whole, consistent checkpoint.
        """
        trainer, state, about = checkpoint_file.read(path := arguments.path(path))
        try:
            made = cls(**about["params"])
            names = about["feature_names"]
            made.history_ = state.history = list(about["history"])
            made._split_seed = int(about["split_seed"])
            made._trainer, made._fit_state, made._resumed = trainer, state, True
            made._begun, made._digests = recipe.plain(made.get_params(deep=False)), dict(about.get("digests", {}))
            made.best_epoch_, made.n_features_in_ = state.best_epoch, trainer.architecture.n_inputs
            if names is not None:
                made.feature_names_in_ = np.array(names, dtype=object)
            made._show()
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise file_error(path, "what it says of the estimator must be whole", str(error)) from error
        return made

    def _try_checkpoint(self, path: str, trainer: Trainer, names: Sequence[str] | None, resumed: bool) -> None:
        """Refuse, before training, a checkpoint that could not be written after an epoch of it."""
        if callable(self.learning_rate_schedule):
            raise TypeError(
                f"a checkpoint cannot hold a function: learning_rate_schedule must be one of {', '.join(SCHEDULES)} with it, "
                f"got {self.learning_rate_schedule!r}."
            )
        state = self._fit_state if resumed else training.FitState()
        checkpoint_file.encode(path, trainer, state, self._about(state, names))
        checkpoint_file.check_writable(path)

    def _write_checkpoint(self, path: str) -> None:
        about = self._about(self._fit_state, getattr(self, "feature_names_in_", None))
        checkpoint_file.write(path, self._trainer, self._fit_state, about)

    def _about(self, state: training.FitState, names: Any) -> dict[str, Any]:
        params = recipe.plain(self.get_params(deep=False))
        if not isinstance(self.random_state, int | None):
            params["random_state"] = None  # it has done its work: the trainer has its own
        return {
            "params": params,
            "history": state.history,
            "split_seed": self._split_seed,
            "feature_names": None if names is None else [str(name) for name in names],
            "digests": getattr(self, "_digests", {}),
        }

    def _trainer_for(self, X: MatrixLike, sample_weight: Any, going_on: bool) -> tuple[Trainer, given.Rows]:
        """Check X and every parameter; return the trainer, a fresh one unless it goes on, and X as it was checked."""
        if going_on:
            recipe.check_unchanged(getattr(self, "_begun", {}), self.get_params(deep=False))
            rows = given.look(X, sample_weight, self._names, self._trainer.architecture.n_inputs)
            check_columns(self, X)
            return self._trainer, rows
        arguments.threshold(self.binarize)
        rows = given.look(X, sample_weight, self._names)
        missing, n_features = rows.missing is not None, rows.table.shape[1]
        trainer, self._split_seed = recipe.start(self.get_params(deep=False), n_features, missing)
        return trainer, rows

    def _begin(self, X: Any, trainer: Trainer) -> None:
        """Forget the last fit; from here on nothing the user gave can be refused."""
        learn_columns(self, X, self._names)
        self._trainer = trainer
        self._begun: dict[str, Any] = recipe.plain(self.get_params(deep=False))
        self._fit_state = training.FitState()
        self.history_ = self._fit_state.history
        self.best_epoch_ = 0

    def _hold_out(self, n: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the numbers of the rows to train on and of those to validate on; the same ones after ``resume``."""
        return given.hold_out(n, self.validation_fraction, self._split_seed)

    def _model(self, parameters: NDArray[Any] | None = None, *, trainer: Trainer) -> MADEModel:
        """Return the model that has these parameters, by default the trainer's."""
        return MADEModel(
            trainer.source(trainer.parameters if parameters is None else parameters),
            trainer.masks,
            rule=trainer.rule if isinstance(trainer, SharedTrainer) else None,
            binarize=self.binarize,
            hyper=recipe.notes(self.get_params(deep=False)),
            feature_names=getattr(self, "feature_names_in_", None),
        )

    def _show(self) -> None:
        """Make ``model_`` of the best parameters so far. It holds them, not a copy: who goes on leaves them as they are."""
        self._fit_state.take_in(self._trainer.parameters)  # Ctrl-C may have come amid it, or before ``on_epoch`` could tell
        best = self._fit_state.best_parameters
        self.best_epoch_ = self._fit_state.best_epoch
        self.model_ = self._model(best, trainer=self._trainer)
