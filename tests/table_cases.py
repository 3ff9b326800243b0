"""Small models of tables of several levels, whose rows can all be enumerated, and their exact answers by brute force."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from helpers import random_parameters

from made_fast.inference.mixture import MixtureModel
from made_fast.inference.model import MADEModel
from made_fast.inference.tablemodel import TableModel
from made_fast.network.architecture import Architecture
from made_fast.network.masks import MaskRule, Variables, draw_connectivity
from made_fast.network.network import Shared
from made_fast.tables.columns.encoder import Encoder
from made_fast.tables.columns.learn import learn

N = 400
KINDS = ("one mask", "masks", "fresh", "members", "digits", "digits, fresh", "digits, members")
COUNTS = (3, 2, 4, 1, 6)
VALUES = (["blue", "green", "red"], [False, True], [1, 2, 3, 7], ["same"], ["a", "b", "c", "d", "e", "f"])
NAMES = ("colour", "flag", "size", "constant", "letter")


def frame(n: int = N, seed: int = 0) -> pd.DataFrame:
    """Return rows of five columns: text, booleans, four whole numbers, one constant, text."""
    rng = np.random.default_rng(seed)
    columns = [rng.choice(np.array(values, object), n) for values in VALUES]
    found = pd.DataFrame(dict(zip(NAMES, columns, strict=True)))
    return found.astype({"flag": bool, "size": np.int64})


def context_frame(n: int = N, seed: int = 1) -> pd.DataFrame:
    """Return a context of two columns."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"class": rng.choice(["x", "y", "z"], n), "level": rng.integers(0, 4, n)})


def levels_model(encoder: Encoder, kind: str = "one mask", seed: int = 0, dtype: str = "float64", scale: float = 2.0) -> Any:
    """Return a model of levels with random parameters."""
    rng, coding = np.random.default_rng(seed), encoder.coding
    variables = Variables.of(coding)
    V, hidden, direct = coding.n_variables, (9, 8), ("output", "none", "all")[seed % 3]
    if kind == "members":
        members = [levels_model(encoder, one, seed + m, dtype) for m, one in enumerate(("one mask", "fresh"))]
        return MixtureModel(members, [0.25, 0.75])
    a = Architecture(variables.n_inputs, hidden, "relu", direct, False, variables)
    rule = MaskRule(draw_connectivity(V, hidden, "random", "stratified", rng, a.variables), "stratified", "both", a.variables)
    shared = Shared(a, random_parameters(a, dtype, rng, scale))
    if kind == "one mask":
        return MADEModel(shared.network(rule.base))
    return MADEModel(shared, rule.mask_set(3, rng), rule=rule if kind == "fresh" else None)


def model_of(
    kind: str = "one mask", *, context: bool = False, seed: int = 0, dtype: str = "float64", **options: Any
) -> TableModel:
    """Return a model of ``frame()`` with random parameters; with "digits", two columns have two digits."""
    given = learn(context_frame()) if context else None
    options = {"columns": {"size": "ordered"}} | options
    columns, (digits, _, other) = learn(frame(), **options), kind.partition(", ")
    if digits == "digits":
        kind = other or "one mask"
        bases = {"size": 2, "letter": 3}
        columns = replace(columns, columns=tuple(replace(c, base=bases.get(c.name, 1)) for c in columns.columns))
    encoder = Encoder(columns, given)
    return TableModel(levels_model(encoder, kind, seed, dtype), encoder)


def all_rows() -> pd.DataFrame:
    """Return every row that there is, each once."""
    found = pd.DataFrame(list(product(*VALUES)), columns=list(NAMES))
    return found.astype({"flag": bool, "size": np.int64})
