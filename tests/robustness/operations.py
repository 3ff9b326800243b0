"""Public methods of fitted models, stated once for all programs of this folder, and models of every kind.

Not here: fits and files, which each program does in its own way.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from helpers import rows, small

from made_fast import MADEModel, MixtureModel, load

ROWS, GAPS, WALKS, COUNT, NOTHING = "rows", "rows with gaps", "rows with gaps, walks", "a number of rows", "nothing"

Model = MADEModel | MixtureModel


class Operation(NamedTuple):
    """A public method of a model."""

    call: Callable[..., Any]  # of the model, X, and options
    takes: str  # X is ROWS; GAPS (NaN is missing); WALKS (the same, and ``n_walks`` is an option); COUNT; NOTHING
    of_one: bool = False  # it is about one network: of a mixture ``member`` must be given, of several masks ``mask``


def _impute(method: str) -> Operation:
    return Operation(lambda m, X, **o: m.impute(X, method, random_state=3, **o), WALKS)


OPERATIONS = {
    "score_samples": Operation(lambda m, X, **o: m.score_samples(X, **o), ROWS),
    "score": Operation(lambda m, X, **o: m.score(X, **o), GAPS),
    "conditional_proba": Operation(lambda m, X, **o: m.conditional_proba(X, **o), ROWS, of_one=True),
    "log_marginal": Operation(lambda m, X, **o: m.log_marginal(X, return_std=True, random_state=3, **o), WALKS),
    "conditional": Operation(lambda m, X, **o: m.conditional(X, 1, return_std=True, random_state=3, **o), WALKS),
    "sample_conditional": Operation(lambda m, X, **o: m.sample_conditional(X, 2, random_state=3, **o), WALKS),
    "impute, mode": _impute("mode"),
    "impute, mean": _impute("mean"),
    "impute, sample": _impute("sample"),
    "sample": Operation(lambda m, n, **o: m.sample(n, 7, **o), COUNT),
    "to_dense": Operation(lambda m, _, n_threads=1, **o: m.to_dense(**o), NOTHING, of_one=True),
}


def ask(name: str, model: Any, X: Any = None, *, n_walks: int = 16, **options: Any) -> Any:
    """Ask a model or an estimator; ``options`` go to the method."""
    call, takes, of_one = OPERATIONS[name]
    if takes == WALKS:
        options["n_walks"] = n_walks
    if of_one:
        fitted = getattr(model, "model_", model)
        members = getattr(fitted, "members", None)
        if members is not None:
            options["member"] = 1
        if (fitted if members is None else members[1]).n_masks > 1:
            options["mask"] = 1
    return call(model, X, **options)


N_INPUTS = 90
"""Of the models of a folder: more than a word of bits, and no whole number of words."""

KINDS: dict[str, dict[str, Any]] = {
    "one": {"hidden_sizes": (96, 64)},
    "wide": {"hidden_sizes": (500,), "direct_connections": "output", "activation": "tanh"},
    "several": {"hidden_sizes": (70,), "n_masks": 6, "dtype": "float64"},
    "fresh": {"hidden_sizes": (60, 50), "n_masks": None, "n_eval_masks": 5, "connectivity_weights": True},
}


def make_models(folder: Path, *kinds: str) -> None:
    """Fit a model of each kind, by default of all, and save them and a mixture of all but the wide one."""
    fitted = {kind: small(max_epochs=2, **KINDS[kind]).fit(rows(400, N_INPUTS)).model_ for kind in kinds or KINDS}
    for name, model in fitted.items():
        model.save(folder / name)
    MixtureModel([model for name, model in fitted.items() if name != "wide"]).save(folder / "mixture")


def load_models(folder: Path) -> dict[str, Model]:
    """Load every model of a folder, and mixtures a second time as a map."""
    models = {path.name: load(path) for path in sorted(folder.iterdir()) if path.suffix != ".npy"}
    return models | {f"mapped {name}": load(folder / name, mmap=True) for name in models if name in ("wide", "mixture")}
