"""``MADE``, the scikit-learn estimator: hyper-parameters in, a fitted ``MADEModel`` or ``TableModel`` out.

It checks and delegates.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from made_fast.estimators.base import FittedDensity, check_columns, learn_columns
from made_fast.estimators.columns import in_chunks, learned
from made_fast.inference.tensorfile import file_error
from made_fast.network.masks import Connectivity
from made_fast.tables import arguments
from made_fast.tables.columns.encoder import Encoder
from made_fast.tables.reading.chunks import Chunks
from made_fast.tables.table import MatrixLike, Table
from made_fast.training import checkpoint as checkpoint_file
from made_fast.training import recipe
from made_fast.training.checkpoint import EpochRecord, FitState
from made_fast.training.hyper import HyperParameters, documented
from made_fast.training.reduce import Alone, ranks_of
from made_fast.training.rows import Rows, TrainingRows, variables_of
from made_fast.training.run import FitRun

__all__ = ["MADE"]


@documented
class MADE(HyperParameters, FittedDensity):
    """Masked autoencoder for distribution estimation: an exact density model of tables, binary or not, trained on CPUs.

    ``p(x) = prod_d p(x_d | x_<d)``, where the conditionals are the outputs of a feed-forward net whose weights are masked so
    that output d depends on the inputs before d in an ordering, and on nothing else. With several masks, one set of weights
    is trained under all of them in turn, and the model is the mixture of what it is under each.

    Rows are 0/1, or those of a data frame with columns of any kind: binary, categorical and numeric ones, see ``columns``.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    model_ : MADEModel
        The fitted model, for inference; with ``latent_points``, a ``LatentModel``; of columns, a ``TableModel``.
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
    """Whether ``fit`` warns of columns that are never observed; an ensemble warns once, for all its members."""

    _encoder: Encoder | None = None
    """What makes codes of tables, where the caller has learned that from more rows than ``fit`` gets."""

    _fit_state: FitState

    def fit(
        self,
        X: MatrixLike,
        y: Any = None,
        *,
        X_val: MatrixLike | None = None,
        context: Any = None,
        context_val: Any = None,
        sample_weight: Any = None,
        sample_weight_val: Any = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 1,
        callback: Callable[[EpochRecord], Any] | None = None,
        comm: Any = None,
        average_every: int | None = None,
    ) -> MADE:
        """Draw the masks and train from scratch; after :meth:`resume`, continue instead.

        Parameters
        ----------
        X : (n, D) of 0/1, or a table
            bool, any int or float dtype, any memory order, memmap, data frame or scipy.sparse. Kept packed, a bit an entry.
            NaN marks a missing entry: the row is then trained under orderings that have its missing inputs last, and only the
            factors of the others count. A data frame, or with ``columns`` an array, of other values: see ``columns``. A table
            larger than memory comes as ``made_fast.Chunks``, without a context.
        y : ignored
        X_val : (n_val, D) of 0/1, optional
            Rows for early stopping: the parameters of the epoch that scores best on them are kept.
        context, context_val : tables of n and n_val rows, optional
            Columns of any kind that every conditional may depend on and that are not modelled themselves, ``p(x | context)``:
            classes, covariates of a forecast. The methods then take the ``context`` that belongs to their rows.
        sample_weight : (n,) of float, optional
            The loss of a mini-batch of B rows is ``1/B sum_b weight[b] nll[b]``: weights are not normalised, and may be
            negative (policy gradients). Rows that ``validation_fraction`` holds out count in the validation score by theirs,
            which must be >= 0.
        sample_weight_val : (n_val,) of float, optional
            What the rows of ``X_val`` count in the validation score, >= 0; by default all the same.
        checkpoint : path, optional
            Write there, every ``checkpoint_every`` epochs and at the end, all that :meth:`resume` needs: it ends with the
            same bits.
        callback : callable, optional
            Called after every epoch with its record, see ``history_``; if it returns True, the fit ends there as if
            ``max_epochs`` were reached. What it raises ends the fit as Ctrl-C does: the best parameters so far are kept.

        comm : MPI communicator of mpi4py, optional
            Train one model on all its ranks, each of which calls ``fit`` with rows of its own (none may be without), all with
            the same parameters and an int, or None, as ``random_state``. A mini-batch of ``batch_size`` rows is that of all
            ranks together; validation rows may be on some ranks only. Columns that are not 0/1 are learned from the rows of
            rank 0, the start of the biases is the mean over the ranks. Every rank ends with the same model. The same ranks
            get the same bits. Rank 0 writes ``checkpoint``; all can resume from it, on as many ranks, with the same rows. What
            is wrong on one rank before training is raised on all; a rank that fails later ends the job (``Abort``), and the
            last checkpoint serves.
        average_every : int, optional
            With ``comm``: send no gradients; every rank makes so many steps by its own share of the mini-batches, then
            parameters are averaged. For networks so slow that gradients take longer than steps.

        Raises
        ------
        ValueError
            A parameter or the data is not as demanded; after :meth:`resume`, rows, weights or parameters are not those that
            the fit began with; with ``comm``, ranks differ in what must be the same.
        FloatingPointError
            The loss became infinite or NaN; the text says in which epoch, at which step. ``model_`` then has the best
            parameters that validation rows have seen; without such rows, those from before the epoch.

        Warns
        -----
        UserWarning
            Columns of X have no observed entry: nothing is learned of them.
        """
        with ranks_of(comm) as ranks:
            resumed = hasattr(self, "_fit_state") and self._fit_state.resumed
            with ranks.agreed():
                run = FitRun(self.get_params(deep=False), checkpoint, checkpoint_every, callback, ranks, average_every)
                if average_every is not None and comm is None:
                    raise ValueError("average_every must come with comm, the ranks that average, got it alone.")
            run.params = recipe.common(run.params, ranks)
            state, train = self._look(X, context, sample_weight, run.params, resumed, ranks)
            with ranks.agreed():
                if isinstance(X_val, Chunks):
                    if context_val is not None:
                        raise ValueError("context_val must be left out for X_val in chunks, got one.")
                    X_val = self._packed(X_val, state.encoder, state.names, train.table.shape[1], "X_val")
                    X_val = X_val.take(np.arange(len(X_val))) if state.encoder is not None else X_val
                elif state.encoder is not None and X_val is not None:
                    X_val = state.encoder.encode(X_val, context_val, name="X_val", within=True)
                elif context_val is not None:
                    raise ValueError("context_val must come with X_val and a context, got it alone.")
                held = train.validation(X_val, sample_weight_val)
                train.check_observed(warn=self._warns and not resumed)
            run.take(state, train, held, self.validation_fraction)
            del train, held  # a frame that was converted would stay as long as the fit takes
            self._begin(X, state, run.rows, ranks)
            try:
                run.start()
            finally:
                self._show()
        return self

    def partial_fit(self, X: MatrixLike, y: Any = None, *, context: Any = None, sample_weight: Any = None) -> MADE:
        """Make one pass over X in mini-batches; the first call draws the masks and the initial parameters.

        Takes the same X as ``fit``; the first call learns what the columns are. Rows with missing entries need a model that
        was started with some, or whose masks vary. It continues from ``model_``; if its parameters are those of an earlier
        epoch than the last, the optimizer begins anew.

        Raises
        ------
        ValueError
            The data is not as demanded, or a parameter that the network or the optimizer was made with has changed. What may
            change are ``batch_size``, ``learning_rate`` and its schedule, ``max_epochs``, ``n_threads``.
        """
        run = FitRun(self.get_params(deep=False))
        alone = Alone()
        state, train = self._look(X, context, sample_weight, run.params, hasattr(self, "_fit_state"), alone)
        train.check_observed(warn=False)
        packed = train.pack(state.trainer.parameters, self.binarize)
        self._begin(X, state, packed, alone)
        run.once_more(state, packed)
        self._show()
        return self

    def member_for(self, observed: Any, *, draw: int = 0) -> Connectivity:
        """Return the connectivity that answers when these inputs are observed; see ``MADEModel.member_for``."""
        connectivity: Connectivity = self._fitted().member_for(observed, draw=draw)
        return connectivity

    @property
    def best_epoch_(self) -> int:
        """The epoch of the best parameters so far, also while ``fit`` runs; 0 before the first."""
        return self._fit_state.best_epoch

    @classmethod
    def resume(cls, path: str | os.PathLike[str]) -> MADE:
        """Return the estimator as it was when ``fit`` wrote a checkpoint.

        Its next ``fit``, on the same rows, continues; it ends with the bits of a fit that was never interrupted.
        ``set_params(max_epochs=...)`` before it makes it longer. ``partial_fit`` and ``model_`` work too. The file is
        untrusted: ``made_fast.ModelFileError`` if it is no whole, consistent checkpoint.
        """
        state = checkpoint_file.read(path := arguments.path(path))
        try:
            made = cls(**state.params)
            state.params = recipe.plain(made.get_params(deep=False))
            made.n_features_in_ = state.trainer.architecture.n_variables
            if state.encoder is not None:
                learn_columns(made, None, encoder=state.encoder)
            elif state.names is not None:
                made.feature_names_in_ = np.array(state.names, dtype=object)
            made._fit_state, made.history_ = state, state.history
            made._show()
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise file_error(path, "what it says of the estimator must be whole", str(error)) from error
        return made

    def _look(
        self, X: MatrixLike, context: Any, sample_weight: Any, params: recipe.Params, continues: bool, ranks: Alone
    ) -> tuple[FitState, Rows]:
        """Check X and every parameter; return the state, a fresh one unless the fit continues, and X as it was checked."""
        if continues:
            with ranks.agreed():
                state = self._fit_state
                recipe.check_unchanged(state.params, params)
                n_features = state.trainer.architecture.n_variables
                if isinstance(X, Chunks):
                    if context is not None:
                        raise ValueError("context must be left out for X in chunks, got one.")
                    packed: Any = self._packed(X, state.encoder, state.names, n_features, "X")
                    train = Rows.of(packed, sample_weight, state.names)
                elif state.encoder is None:
                    if context is not None:
                        raise ValueError("context must be left out: training began without one. Begin anew with a new MADE.")
                    train = Rows.of(X, sample_weight, self._names, n_features)
                    check_columns(self, X)
                else:
                    train = Rows.of(state.encoder.encode(X, context, within=True), sample_weight, None, n_features)
            return state, train
        with ranks.agreed():
            arguments.threshold(self.binarize)
            encoder, packed = self._encoder, None
            if encoder is None and not ranks.rank:
                if isinstance(X, Chunks):
                    encoder, packed = in_chunks(X, context, params, self._names, sample_weight)
                else:
                    encoder = learned(X, context, params, self._names, sample_weight)
        encoder = ranks.of_first(encoder)
        with ranks.agreed():
            if isinstance(X, Chunks):
                packed = self._packed(X, encoder, self._names, None, "X") if packed is None else packed
                train = Rows.of(packed, sample_weight, None if encoder is not None else X.names or self._names)
            elif encoder is None:
                train = Rows.of(X, sample_weight, self._names)
            else:
                train = Rows.of(encoder.encode(X, context, within=True), sample_weight, None)
        ranks.check_same({"the number of columns": train.table.shape[1], "the names of the columns": train.names})
        missing = any(ranks.all(train.missing is not None))
        with ranks.agreed():
            trainer, split_seed = recipe.start(params, train.table.shape[1], missing, variables_of(train.table))
        return FitState(trainer, recipe.plain(params), train.names, split_seed, encoder=encoder), train

    def _packed(
        self, X: Chunks, encoder: Encoder | None, names: tuple[str, ...] | None, n_features: int | None, name: str
    ) -> Table:
        """Return chunks as rows of the kind that the fit began with."""
        if encoder is not None:
            return X.coded(encoder, name=name)
        found = X.binary(self.binarize, n_features, name=name, feature_names=names)
        assert found is not None  # nobody has asked whether it has columns
        return found

    def _begin(self, X: MatrixLike, state: FitState, rows: TrainingRows, ranks: Alone) -> None:
        """Forget the last fit, unless this one continues it, and begin with these rows; all arguments are checked by now."""
        if state is getattr(self, "_fit_state", None):
            return
        recipe.start_biases(state.trainer, self.bias_init, rows, ranks)
        learn_columns(self, X, self._names, state.encoder)
        self._fit_state, self.history_ = state, state.history

    def _belong_to(self, encoder: Encoder) -> None:
        """Become the model of a table, after a fit to its codes."""
        self._fit_state.encoder = encoder
        learn_columns(self, None, encoder=encoder)
        self._show()

    def _show(self) -> None:
        """Make ``model_`` of the best parameters so far. It holds them, not a copy: a fit that continues leaves them alone."""
        self._fit_state.take_in()  # Ctrl-C may have cut it short
        self.model_ = self._fit_state.model(self.get_params(deep=False))
