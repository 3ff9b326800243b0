"""Every option of every method is taken at its plain value, or refused by name.

Not here: tables (``test_doors.py``), paths and files (``test_data_files.py``). About ``--hypothesis-profile=long``:
``test_doors.py``.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from helpers import digest, rows
from hypothesis import given
from robustness import any_values as rule
from robustness import doors
from robustness.any_values import EITHER, REFUSED, SKIP, or_none, outcome
from robustness.common import limited_memory, parameters_of
from robustness.doors import WIDTH, check_refusal, hold, small, small_ensemble, state_of, world

from made_fast import MADE, MADEEnsemble, MADEImputer, MADEModel, MixtureModel


@pytest.fixture(autouse=True, scope="module")
def little_memory():
    with limited_memory(doors.MEMORY):
        yield


X = rows(4, WIDTH)
GAPS = np.where(rows(4, WIDTH, 1) == 1, np.nan, X)


def bits(result):
    if isinstance(result, MADE | MADEEnsemble):
        return digest(state_of(result))
    if isinstance(result, MADEModel):
        return digest(parameters_of(result), result.binarize, result.hyper)
    if isinstance(result, MixtureModel):
        return digest(result.weights, result.hyper)
    if hasattr(result, "vector"):
        return digest(result.vector)
    return digest([result.ordering, *result.degrees] if hasattr(result, "ordering") else result)


def of_models():
    """Yield name of the door, call, and the rules of its parameters, for all methods of fitted models."""
    w = world()
    one, several, free = w["MADEModel"], w["MADEModel of several masks"], w["MADEModel with a threshold below 0"]
    mixture, made = w["MixtureModel"], w["MADE"]
    first, second, third = (rule.number_of(n) for n in (1, 2, 3))
    n, state = rule.count(64), rule.random_state
    yield "MADEModel.score_samples", partial(several.score_samples, X), {"mask": or_none(third)}
    yield "MixtureModel.score_samples", partial(mixture.score_samples, X), {"member": or_none(second)}
    yield "MADE.score_samples", partial(made.score_samples, X), {"mask": or_none(first)}
    yield "MADEModel.conditional_proba", partial(several.conditional_proba, X), {"mask": third}
    yield "MixtureModel.conditional_proba", partial(mixture.conditional_proba, X, mask=0), {"member": second}
    yield "MADEModel.member", several.member, {"mask": third}
    yield "MADEModel.to_dense", several.to_dense, {"mask": third}
    yield "MixtureModel.to_dense", partial(mixture.to_dense, mask=0), {"member": second}
    yield "MADEModel.member_for", partial(several.member_for, [True] * WIDTH), {"draw": third}
    yield "MADE.sample", partial(made.sample, random_state=0), {"n_samples": n}
    yield "MADEEnsemble.sample", partial(w["MADEEnsemble"].sample, 2), {"random_state": state}
    yield "MADE.member_for", made.member_for, {"observed": rule.observed}
    for name, m in (("MADEModel", several), ("MADEModel of fresh masks", free)):
        yield f"{name}.member_for", m.member_for, {"observed": rule.observed}
    for name, m, members in (
        ("MADEModel", several, lambda v: REFUSED if rule.is_int(v) and v > 3 else rule.any_positive(v)),
        ("MADEModel of fresh masks", free, n),
        ("MixtureModel", mixture, lambda v: REFUSED if rule.is_int(v) and v > 1 else rule.any_positive(v)),
    ):
        yield f"{name}.score_samples", partial(m.score_samples, X), {"n_threads": rule.threads}
        yield (
            f"{name}.sample",
            partial(m.sample, n_samples=3, random_state=0),
            {"n_samples": n, "random_state": state, "n_threads": rule.threads},
        )
        yield f"{name}.log_marginal", partial(m.log_marginal, GAPS), {"n_walks": n, "n_members": members}
        call = partial(m.sample_conditional, GAPS, random_state=0)
        yield f"{name}.sample_conditional", call, {"n_draws": n, "random_state": state}
        yield f"{name}.impute", partial(m.impute, GAPS), {"method": rule.method}
        yield f"{name}.conditional", partial(m.conditional, GAPS), {"target": rule.target}
    yield "MADEModel(...)", partial(MADEModel, one.source), {"binarize": or_none(rule.real()), "hyper": or_none(rule.mapping)}
    yield "MADEModel(...)", MADEModel, {"source": lambda v: REFUSED}
    yield "MixtureModel(...)", MixtureModel, {"members": rule.not_endless}
    yield "MixtureModel(...)", partial(MixtureModel, [one]), {"hyper": or_none(rule.mapping), "weights": or_none(rule.the_one)}


def of_fits():
    """Yield the same for fits: parameters of estimators, then arguments of ``fit``."""
    count, one_of, weights, zeros = rule.count, rule.one_of, rule.weights, rule.weights_or_zeros
    parameters = {
        "hidden_sizes": rule.hidden_sizes,
        "activation": one_of("relu", "softplus", "tanh", "sigmoid", "softsign"),
        "ordering": rule.ordering,
        "degrees": one_of("stratified", "uniform"),
        "optimizer": one_of("adam", "adadelta", "adagrad", "rmsprop", "momentum", "sgd"),
        "learning_rate": or_none(rule.positive),
        "batch_size": rule.any_positive,
        "max_epochs": lambda v: rule.any_positive(v) if not rule.is_int(v) or v <= 3 else SKIP,
        "patience": rule.any_positive,
        "weight_init": one_of("glorot_uniform", "glorot_normal", "orthogonal", "zeros"),
        "bias_init": one_of("marginals", "zeros"),
        "dtype": rule.dtype,
        "n_threads": rule.threads,
        "random_state": rule.random_state,
        "verbose": rule.verbosity,
        "n_masks": or_none(count(8)),
        "resample": one_of("both", "order", "connectivity"),
        "n_val_masks": rule.any_positive,
        "direct_connections": one_of("none", "output", "all"),
        "connectivity_weights": rule.flag,
        "optimizer_params": or_none(rule.constants("beta_1", "beta_2", "eps")),
        "learning_rate_schedule": rule.schedule,
        "weight_decay": rule.not_negative,
        "clip_norm": or_none(rule.positive),
        "dropout": rule.real(lambda x: 0 <= x < 1),
        "validation_fraction": or_none(rule.real(lambda x: 0.125 < x < 0.875)),
        "binarize": or_none(rule.real()),
    }
    yield "MADE.fit", lambda **o: small(**{"n_eval_masks": 2} | o).fit(X), parameters
    yield "MADE.fit", lambda **o: small(n_masks=None, **o).fit(X), {"n_eval_masks": count(8)}
    yield (
        "MADE.fit",
        lambda **o: small().fit(X, **o),
        {"sample_weight": or_none(weights), "checkpoint_every": rule.any_positive},
    )
    yield "MADE.partial_fit", lambda **o: small().partial_fit(X, **o), {"sample_weight": or_none(zeros)}
    parameters = {"n_members": count(3), "weights": one_of("equal"), "n_jobs": or_none(rule.jobs)}
    parameters |= {"random_state": rule.random_state, "n_threads": rule.threads, "learning_rate": or_none(rule.positive)}
    yield "MADEEnsemble.fit", lambda **o: small_ensemble(**o).fit(X), parameters

    def impute(**o):
        return MADEImputer(**{"estimator": small(n_masks=None, n_eval_masks=1), "random_state": 0} | o).fit(X).transform(GAPS)

    parameters = {"method": rule.method, "n_members": count(8), "n_walks": count(8)}
    yield "MADEImputer.fit", impute, {"estimator": lambda v: SKIP if v is None else REFUSED} | parameters
    yield "MADEImputer.transform", partial(impute, method="sample"), {"random_state": rule.random_state}


OPTIONS = {
    f"{door}: {parameter}": (parameter, its_rule, call)
    for door, call, rules in (*of_models(), *of_fits())
    for parameter, its_rule in rules.items()
}


def hand_in(parameter, its_rule, call, thing):
    """Check that a value is taken for the plain value of the rule, or refused."""
    plain = its_rule(thing())
    if plain is SKIP:
        return
    result, error = outcome(call, **{parameter: thing()})
    if isinstance(error, FloatingPointError):  # a step so large that the loss is no longer finite
        assert "loss" in str(error)
        assert isinstance(plain, float | np.ndarray | dict)
    elif error is not None:
        assert plain is REFUSED or plain is EITHER, f"refused: {error}"
        assert not isinstance(error, MemoryError) or thing() >= 2**46
        check_refusal(error, parameter)
    else:
        assert plain is not REFUSED, "taken"
        if plain is not EITHER:
            assert bits(result) == bits(call(**{parameter: plain}))


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_is_taken_for_what_it_plainly_is_or_refused_by_name(name):
    models = {door.bits for door in doors.doors().values()}
    before = [model_bits() for model_bits in models]

    @given(thing=rule.things)
    def holds(thing):
        hand_in(*OPTIONS[name], thing)

    hold(holds, 60, name)
    assert before == [model_bits() for model_bits in models], "a model is not what it was"
