"""The table of hyper-parameters: what the signature, the docstring, the checks and the file's notes make of it."""

from __future__ import annotations

import inspect
import math
import pickle

import pytest

from made_fast import MADE, MADEEnsemble
from made_fast.cli.readers import READERS
from made_fast.tables import arguments
from made_fast.training import recipe
from made_fast.training.hyper import DEFAULTS, FIXED, HYPER


def test_the_signature_is_the_table():
    found = inspect.signature(MADE).parameters
    assert {name: parameter.default for name, parameter in found.items()} == DEFAULTS
    positional = [name for name, parameter in found.items() if parameter.kind == parameter.POSITIONAL_OR_KEYWORD]
    assert positional[::13] == ["hidden_sizes", "verbose"]
    assert MADE((3,), "tanh", dtype="float64").get_params() == DEFAULTS | {
        "hidden_sizes": (3,), "activation": "tanh", "dtype": "float64",
    }  # fmt: skip
    assert DEFAULTS.items() <= vars(MADEEnsemble()).items()
    with pytest.raises(TypeError, match="positional argument"):
        MADEEnsemble(3, (5,))
    old = pickle.loads(pickle.dumps(MADE()))
    del old.dropout  # saved before there was such a parameter
    assert old.get_params() == DEFAULTS


def test_the_docstring_explains_every_parameter():
    for name, about in HYPER.items():
        assert f"\n    {name} : " in MADE.__doc__
        assert " ".join(about.meaning.split()) in " ".join(MADE.__doc__.split())
    assert "{parameters}" not in MADE.__doc__


def test_checks_and_readers_are_there():
    for about in HYPER.values():
        assert callable(getattr(arguments, about.check))
        if about.option and not about.choices and about.check != "boolean":
            assert callable(READERS[about.option.read or about.check])


def test_checked_values_and_what_a_file_notes():
    found = recipe.checked(DEFAULTS, 5)
    assert (found["n_masks"], found["clip_norm"], found["optimizer_params"]) == (1, None, {})
    assert found["n_threads"] >= 1
    with pytest.raises(ValueError, match=r"--hidden\[1\] must be an int >= 1, got 0"):
        recipe.checked({"hidden_sizes": (3, 0)}, called={"hidden_sizes": "--hidden"})
    of_columns = {
        "columns",
        "categorical_features",
        "n_bins",
        "max_categories",
        "handle_unknown",
        "missing",
    }  # in the file apart
    others = {"random_state", "verbose", "n_threads", "binarize", "ordering"}
    assert DEFAULTS.keys() - recipe.notes(DEFAULTS).keys() == others | of_columns
    assert {name for name, about in HYPER.items() if about.change != FIXED} == {
        "batch_size", "learning_rate", "learning_rate_schedule", "max_epochs", "n_threads", "n_val_masks", "patience",
        "validation_fraction", "verbose",
    }  # fmt: skip


class Halved:
    def __call__(self, epoch):
        return 0.5**epoch


@pytest.mark.parametrize(
    ("schedule", "name"),
    [(math.sqrt, "math.sqrt"), (Halved(), f"{__name__}.Halved"), (Halved.__call__, f"{__name__}.Halved.__call__")],
)
def test_the_notes_name_a_function_without_its_address(schedule, name):
    assert recipe.notes({**DEFAULTS, "learning_rate_schedule": schedule})["learning_rate_schedule"] == name
