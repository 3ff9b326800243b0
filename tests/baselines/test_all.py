"""Behaviour that all baselines share: arguments, tables, repeated fits, early stopping, threads, a line an epoch."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from baselines.rows import every_row, some_rows, two_kinds

from bench.baselines import bernoulli_mixture, rbm
from bench.baselines.autoencoder import Autoencoder
from bench.baselines.bernoulli_mixture import BernoulliMixture
from bench.baselines.darn import DARN
from bench.baselines.dbm import DBM
from bench.baselines.dbn import DBN
from bench.baselines.eonade import EoNADE
from bench.baselines.fvsbn import FVSBN
from bench.baselines.nade import NADE
from bench.baselines.rbm import RBM

X = some_rows(30, 8)

SMALL = {
    "mixture": partial(BernoulliMixture, 3),
    "FVSBN": FVSBN,
    "NADE": partial(NADE, 5),
    "EoNADE": partial(EoNADE, (5,), n_orderings=2),
    "RBM": partial(RBM, 2, cd_steps=1),
    "DARN": partial(DARN, 5),
    "DBN": partial(DBN, (3, 2), cd_steps=1),
    "DBM": partial(DBM, (3, 2), gibbs_steps=1),
    "autoencoder": partial(Autoencoder, 5),
}
EACH = pytest.mark.parametrize("make", SMALL.values(), ids=SMALL.keys())


@EACH
def test_a_model_can_be_fitted_again_on_other_columns(make):
    model = make(max_epochs=2, random_state=0).fit(X)
    rows = some_rows(30, 4)
    again = model.fit(rows, rows).score_samples(every_row(4))
    np.testing.assert_array_equal(again, make(max_epochs=2, random_state=0).fit(rows, rows).score_samples(every_row(4)))
    if "bound" not in model.log_likelihood and make is not SMALL["autoencoder"]:
        assert np.exp(again).sum() == pytest.approx(1, abs=1e-5)
    if make is not SMALL["autoencoder"]:
        assert model.sample(3, random_state=0).shape == (3, 4)


@pytest.mark.parametrize(("name", "n"), [*zip(SMALL, (26, 36, 93, 133, 26, 136, 46, 43, 93), strict=True)])
def test_parameters_are_counted(name, n):
    assert SMALL[name](max_epochs=1).fit(X).n_parameters == n


MANY = two_kinds(1000, 30), two_kinds(200, 30, 1)
BINARY = {"cd_steps": 2, "batch_size": 40, "exact_units": 0, "n_temperatures": 30, "dtype": "float64"}


@pytest.mark.parametrize(
    ("make", "rows", "how"),
    [
        (partial(BernoulliMixture, 7, max_epochs=10), MANY, {}),
        (partial(FVSBN, max_epochs=3), (two_kinds(500, 70), None), {}),
        (partial(NADE, 130), MANY, {}),
        (partial(EoNADE, (130,), n_orderings=3), MANY, {}),
        (partial(EoNADE, (20, 10), n_orderings=3), MANY, {}),
        (partial(RBM, 5, **BINARY), (two_kinds(90, 70), two_kinds(30, 70, 1)), {"n_steps": 9}),
        (partial(DARN, 10, n_samples=20), MANY, {}),
        (partial(DARN, 20, n_samples=20), MANY, {}),
        (partial(DBN, (5, 4), n_samples=3, **BINARY), (two_kinds(90, 70), two_kinds(30, 70, 1)), {"n_steps": 9}),
        (
            partial(DBM, (5, 4), gibbs_steps=2, n_samples=3, **{key: BINARY[key] for key in BINARY if key != "cd_steps"}),
            (two_kinds(90, 70), two_kinds(30, 70, 1)),
            {"n_steps": 9},
        ),
        (partial(Autoencoder, 20), MANY, None),
    ],
)
def test_threads_change_no_bit(make, rows, how, monkeypatch):
    monkeypatch.setattr(bernoulli_mixture, "BLOCK", 64)
    monkeypatch.setattr(rbm, "BLOCK", 7)
    make = partial(make, **{"max_epochs": 2, "random_state": 3} | make.keywords)
    one, *others = (make(n_threads=n).fit(*rows) for n in (1, 2, 3))
    for model in others:
        np.testing.assert_array_equal(model.score_samples(rows[0]), one.score_samples(rows[0]))
        if how is not None:  # there are samples
            np.testing.assert_array_equal(model.sample(200, random_state=0, **how), one.sample(200, random_state=0, **how))
        np.testing.assert_array_equal(getattr(model, "theta_", 0), getattr(one, "theta_", 0))
    assert (make(random_state=1).fit(*rows).score_samples(rows[0]) != one.score_samples(rows[0])).any()


@pytest.mark.parametrize(
    ("make", "patience"),
    [
        (partial(BernoulliMixture, 20, smoothing=0.01), 4),
        (partial(FVSBN, learning_rate=0.1), 5),
        (partial(NADE, 50, learning_rate=0.02), 5),
        (partial(EoNADE, (50,), learning_rate=0.02, n_orderings=4), 5),
        (partial(DARN, 5, learning_rate=0.03), 8),
    ],
)
def test_early_stopping_keeps_the_best_parameters(make, patience, capsys):
    X, X_val = some_rows(30, 7, seed=1), some_rows(500, 7, seed=2)
    make = partial(make, random_state=0)
    stopped = make(max_epochs=100, patience=patience, verbose=1).fit(X, X_val)
    best = stopped.best_epoch_
    assert len(capsys.readouterr().err.splitlines()) == best + patience < 100
    again = make(max_epochs=best).fit(X, X_val if make.func is EoNADE else None)  # which draws orderings for validation
    assert (again.score_samples(X_val) == stopped.score_samples(X_val)).all()
    assert stopped.score(X_val) > make(max_epochs=100).fit(X).score(X_val)
    if make.func not in (EoNADE, DARN):  # DARN validates by its bound
        assert np.argmax([make(max_epochs=n).fit(X).score(X_val) for n in range(1, best + patience)]) + 1 == best


@pytest.mark.parametrize(
    ("make", "off"),
    [
        (partial(NADE, 20, learning_rate=0.02), 0.02),
        (partial(EoNADE, (40,), n_orderings=10, learning_rate=0.01), 0.1),
        (partial(EoNADE, (30, 20), n_orderings=10, learning_rate=0.01), 0.1),
    ],
)
def test_it_learns_what_depends_on_what(make, off):
    a, b = np.random.default_rng(0).integers(0, 2, (2, 2000, 1))
    X = np.hstack([a, b, a ^ b, a & b, a | b]).astype(np.uint8)  # two free bits, under any ordering
    assert -make(max_epochs=60, random_state=0).fit(X).score(X) == pytest.approx(2 * np.log(2), abs=off)


@EACH
def test_bad_tables_are_refused(make):
    model = make(max_epochs=1, random_state=0)
    with pytest.raises(ValueError, match="X must hold only 0 and 1"):
        model.fit(X + 1)
    with pytest.raises(ValueError, match="X_val must have shape"):
        model.fit(X, X[:, :3])
    before = model.fit(X).score_samples(X)
    with pytest.raises(ValueError, match="X_val must have shape"):
        model.fit(X[:, :4], X)
    np.testing.assert_array_equal(model.score_samples(X), before)  # what was refused changed nothing
    with pytest.raises(ValueError, match=r"X must have shape .* 8 features"):
        model.score_samples(X[:, :3])
    if make is not SMALL["autoencoder"]:
        with pytest.raises(ValueError, match="n_samples"):
            model.sample(0)


@pytest.mark.parametrize(
    ("make", "params", "error"),
    [
        (BernoulliMixture, {"n_components": 2.5}, TypeError),
        (BernoulliMixture, {"smoothing": 0}, ValueError),
        (RBM, {"cd_steps": 0}, ValueError),
        (RBM, {"momentum": 1}, ValueError),
        (NADE, {"hidden_size": 0}, ValueError),
        (NADE, {"hidden_size": 2.5}, TypeError),
        (NADE, {"activation": "tanh"}, ValueError),
        (NADE, {"learning_rate": -1.0}, ValueError),
        (NADE, {"learning_rate_schedule": "cosine"}, ValueError),
        (NADE, {"dtype": "int8"}, ValueError),
        (NADE, {"depth": 3}, TypeError),
        (EoNADE, {"hidden_sizes": ()}, ValueError),
        (EoNADE, {"hidden_sizes": 5}, TypeError),
        (EoNADE, {"n_orderings": 0}, ValueError),
        (EoNADE, {"activation": "tanh"}, ValueError),
        (EoNADE, {"batch_size": 0}, ValueError),
        (DARN, {"n_hidden": 0}, ValueError),
        (DARN, {"n_samples": 0}, ValueError),
        (DARN, {"autoregressive_prior": 1}, TypeError),
        (DARN, {"patience": 0}, ValueError),
        (DBN, {"cd_steps": 0}, ValueError),
        (DBN, {"n_samples": 0}, ValueError),
        (DBM, {"n_mean_field": 0}, ValueError),
        (DBM, {"n_samples": 0}, ValueError),
        (DBM, {"gibbs_steps": 0}, ValueError),
        (DBM, {"hidden_sizes": 5}, TypeError),
        (Autoencoder, {"hidden_size": 0}, ValueError),
    ],
)
def test_bad_parameters_are_refused(make, params, error):
    with pytest.raises(error, match=next(iter(params))):
        make(**params)


@pytest.mark.parametrize(
    ("ask", "name"),
    [
        (lambda: NADE(ordering=[1, 2]).fit(X), "ordering"),
        (lambda: FVSBN([1, 2, 3]).fit(X), "ordering"),
        (lambda: EoNADE((3,), max_epochs=1).fit(X).score_samples(X, n_orderings=0), "n_orderings"),
        (lambda: RBM(2, cd_steps=1, max_epochs=1).fit(X).sample(3, n_steps=0), "n_steps"),
    ],
)
def test_bad_arguments_that_only_one_model_has_are_refused(ask, name):
    with pytest.raises(ValueError, match=name):
        ask()


@EACH
def test_verbose_tells_a_line_an_epoch(make, capsys):
    for X_val in (None, X):
        make(max_epochs=3, verbose=1).fit(X, X_val)
        lines = capsys.readouterr().err.splitlines()
        trainings = 2 if make is SMALL["DBN"] else 1
        assert [line.split(":")[0] for line in lines] == trainings * ["epoch 1", "epoch 2", "epoch 3"]
        assert all(("validation" in line) == (X_val is not None) for line in lines)
        assert all(("train" in line) == (make not in (SMALL["RBM"], SMALL["DBN"], SMALL["DBM"])) for line in lines)
    make(max_epochs=1).fit(X)
    assert capsys.readouterr().err == ""
