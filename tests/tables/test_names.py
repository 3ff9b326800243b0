"""Columns that have names are taken by them: one rule for every door, and for files."""

from __future__ import annotations

import pickle
from functools import partial

import numpy as np
import pandas as pd
import pytest
from helpers import random_model

from made_fast import MADE, MADEEnsemble, MADEImputer, MADEModel, MixtureModel, ModelFileError, load
from made_fast.inference import modelfile, tensorfile
from made_fast.tables.names import check

NAMES = ("smokes", "ill", "owns a car", "größe", "")
RNG = np.random.default_rng(0)
X = (RNG.random((60, 5)) < [0.9, 0.1, 0.8, 0.2, 0.5]).astype(np.uint8)
FRAME = pd.DataFrame(X, columns=NAMES)
REVERSED, OTHER = FRAME[list(NAMES[::-1])], FRAME.rename(columns={"ill": "ILL"})
MATCH = "feature names should match"


FEW = {"hidden_sizes": (6,), "n_masks": None, "n_eval_masks": 2, "max_epochs": 2, "random_state": 0}
small, ensemble = partial(MADE, **FEW), partial(MADEEnsemble, 2, **FEW)


DOORS = {
    "score_samples": lambda model, X: model.score_samples(X),
    "score": lambda model, X: model.score(X),
    "conditional_proba": lambda model, X: model.conditional_proba(X, mask=0),
    "log_marginal": lambda model, X: model.log_marginal(X),
    "conditional": lambda model, X: model.conditional(X, 1),
    "sample_conditional": lambda model, X: model.sample_conditional(X, 2, random_state=0),
    "impute": lambda model, X: model.impute(X),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return everything that knows names: fitted, in memory, pickled, from a file, each as a single model and as a mixture."""
    folder, found = tmp_path_factory.mktemp("models"), {}
    for kind, made in {"MADE": small().fit(FRAME), "MADEEnsemble": ensemble().fit(FRAME)}.items():
        made.save(folder / kind)
        found |= {
            kind: made,
            f"model_ of {kind}": made.model_,
            f"file of {kind}": load(folder / kind),
            f"map of {kind}": load(folder / kind, mmap=True),
            f"pickle of {kind}": pickle.loads(pickle.dumps(made)).model_,
        }
    return found


@pytest.mark.parametrize("door", DOORS)
def test_every_door_refuses_other_names_and_another_order(models, door):
    for name, model in models.items():
        if door == "conditional_proba" and "Ensemble" in name:
            continue  # takes a member's number
        ask = DOORS[door]
        right = np.asarray(ask(model, FRAME))
        for wrong in (REVERSED, OTHER):
            with pytest.raises(ValueError, match=MATCH):
                ask(model, wrong)
        if name in ("MADE", "MADEEnsemble"):
            with pytest.warns(UserWarning, match="does not have valid feature names"):
                assert (np.asarray(ask(model, X)) == right).all()
        else:
            assert (np.asarray(ask(model, X)) == right).all()  # without names, the position says what a column is


def test_polars_and_arrow_names_count_too(models):
    model = models["file of MADE"]
    pl, pa = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    for table in (pl.from_pandas, pa.Table.from_pandas):
        assert (model.score_samples(table(FRAME)) == model.score_samples(X)).all()
        with pytest.raises(ValueError, match=MATCH):
            model.score_samples(table(REVERSED))
        made = small().fit(table(FRAME))
        assert made.model_.feature_names == NAMES


@pytest.mark.parametrize("make", [small, ensemble])
def test_validation_rows_are_taken_by_name(make):
    right = make().fit(FRAME, X_val=FRAME).score_samples(FRAME)
    for wrong in (REVERSED, OTHER):
        with pytest.raises(ValueError, match=f"{MATCH}.* X_val must have the same columns"):
            make().fit(FRAME, X_val=wrong)
    assert (make().fit(FRAME, X_val=X).score_samples(FRAME) == right).all()
    assert make().fit(X, X_val=REVERSED).model_.feature_names is None  # nothing to compare with


def test_partial_fit_and_a_resumed_fit_are_held_to_the_names(tmp_path):
    with pytest.raises(ValueError, match=MATCH):
        small().partial_fit(FRAME).partial_fit(REVERSED)
    whole = small().fit(FRAME, checkpoint=tmp_path / "c").model_
    resumed = MADE.resume(tmp_path / "c")
    assert resumed.model_.feature_names == whole.feature_names == NAMES
    with pytest.raises(ValueError, match=MATCH):
        resumed.set_params(max_epochs=3).fit(REVERSED)


def test_members_of_an_ensemble_know_the_names_of_that_fit_alone():
    member = ensemble().fit(FRAME).members_[0]
    assert member.model_.feature_names == tuple(member.feature_names_in_) == NAMES
    with pytest.raises(ValueError, match=MATCH):
        member.score(REVERSED)
    assert member.fit(X).model_.feature_names is None


def test_an_imputer_is_held_to_the_names():
    imputer = MADEImputer(small()).fit(FRAME.astype(float))
    with pytest.raises(ValueError, match=MATCH):
        imputer.transform(REVERSED)
    assert imputer.model_.feature_names == NAMES


def test_names_are_kept_in_files(models, tmp_path):
    for model in models.values():
        assert getattr(model, "model_", model).feature_names == NAMES
    model = random_model(5, (4,))
    named = MADEModel(model.source, feature_names=list(NAMES))
    named.save(tmp_path / "named")
    model.save(tmp_path / "bare")
    assert load(tmp_path / "named").feature_names == NAMES
    assert load(tmp_path / "bare").feature_names is None
    mixture = MixtureModel([named, named])
    mixture.save(tmp_path / "mixture")
    assert [m.feature_names for m in load(tmp_path / "mixture").members] == [NAMES] * 2
    with pytest.raises(ValueError, match="members must have the same feature_names"):
        MixtureModel([named, model])


def tampered(tmp_path, change, *, ensemble=False):
    """Return a file of good checksums whose tensors were changed."""
    model = MADEModel(random_model(5, (4,)).source, feature_names=NAMES)
    (MixtureModel([model]) if ensemble else model).save(tmp_path / "good")
    tensors, metadata = tensorfile.read(tmp_path / "good")
    tensorfile.write(tmp_path / "bad", change(dict(tensors)), metadata)
    return tmp_path / "bad"


def text(content: bytes):
    return lambda tensors: tensors | {"feature_names": np.frombuffer(content, np.uint8)}


@pytest.mark.parametrize("ensemble", [False, True])
@pytest.mark.parametrize(
    ("change", "match"),
    [
        (text(b'{"names": ["a"]}'), "names for 5 inputs, got 1"),
        (text(b'{"names": ["a", "b", "c", "d", 5]}'), "a list of strings"),
        (text(b'{"names": "abcde"}'), "a list of strings"),
        (text(b'{"names": [], "more": 1}'), "an object of names"),
        (text(b"[]"), "feature_names must be a JSON object"),
        (text(b'{"names": ["\\ud800", "b", "c", "d", "e"]}'), "strict JSON"),
        (text(b'{"names": ["\xff"]}'), "strict JSON"),
        (text(b"{" * 5_000_000), "at most 4194304 bytes"),
        (lambda tensors: tensors | {"feature_names": np.zeros((2, 2), np.uint8)}, "a vector of U8"),
        (lambda tensors: tensors | {"feature_names": np.zeros(4, np.int32)}, "a vector of U8"),
        (lambda tensors: tensors | {"more": np.zeros(4, np.uint8)}, "must be the last tensor"),
    ],
)
def test_names_in_a_file_are_not_trusted(tmp_path, change, match, ensemble):
    with pytest.raises(ModelFileError, match=match):
        load(tampered(tmp_path, change, ensemble=ensemble))


@pytest.mark.parametrize("names", [["\ud800", "b"], [f"{d:05}" for d in range(151_000)]], ids=["half a pair", "too many"])
def test_names_that_no_file_could_hold_are_refused_before_training(names):
    frame = pd.DataFrame(np.zeros((1, len(names)), np.uint8), columns=pd.Index(names, dtype=object))
    for make in (small, ensemble):
        with pytest.raises(ValueError, match=r"names of the columns must be text that a model file can hold.*to_numpy"):
            make().fit(frame)
    with pytest.raises(ValueError, match="names of the columns"):
        modelfile.encode_names(names)


def test_names_of_which_some_are_the_same_are_refused_before_training(monkeypatch):
    monkeypatch.setattr("made_fast.training.run.FitRun.start", lambda *_, **__: pytest.fail("training began"))
    for make in (small, ensemble):
        with pytest.raises(ValueError, match=r"names of the columns must differ, got 'a', 'c' more than once.*to_numpy"):
            make().fit(pd.DataFrame(X, columns=list("aabcc")))


@pytest.mark.parametrize(
    ("value", "error"), [("abcde", TypeError), (5, TypeError), ([1, 2, 3, 4, 5], TypeError), (["a"] * 4, ValueError)]
)
def test_names_given_to_a_model_must_be_names_of_its_inputs(value, error):
    with pytest.raises(error, match="feature_names must be None or the names of 5 columns"):
        MADEModel(random_model(5, ()).source, feature_names=value)


def test_the_error_says_what_differs():
    with pytest.raises(ValueError, match=r"unknown are 'x'; missing are 'b'\. Do this\."):
        check(["a", "x"], ["a", "b"], "X", "Do this.")
    with pytest.raises(ValueError, match="column 0 is 'b' where 'a' was"):
        check(["b", "a"], ["a", "b"], "X")
    with pytest.raises(ValueError, match="more than once"):
        check(["a", "b", "b"], ["a", "a", "b"], "X")
    many = [str(d) for d in range(1000)]
    with pytest.raises(ValueError, match="unknown are '0', '1', '2', '3', '4' and 995 more"):
        check(many, ["a"], "X")
    check(None, ["a"], "X")
    check(["a"], None, "X")
