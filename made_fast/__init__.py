"""MADE, the masked autoencoder for distribution estimation: an exact, fast density model of tables on CPUs.

    from made_fast import MADE, load

    made = MADE(hidden_sizes=(500,)).fit(X)     # X: rows of 0/1, or a data frame with columns of any kind
    made.score_samples(X)                       # log p(x) of each row, in nats
    made.save("model.safetensors")
    load("model.safetensors").sample(10)        # in a server: NumPy and the compiled kernels are all it needs

Names are loaded on first use: scikit-learn comes with the estimators, not with ``load``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from made_fast.estimators.ensemble import MADEEnsemble
    from made_fast.estimators.estimator import MADE
    from made_fast.estimators.imputer import MADEImputer
    from made_fast.estimators.outliers import MADEOutlierDetector
    from made_fast.inference.density import ApproximationWarning
    from made_fast.inference.latent import LatentModel
    from made_fast.inference.loading import load
    from made_fast.inference.mixture import MixtureModel
    from made_fast.inference.model import MADEModel
    from made_fast.inference.tablemodel import TableModel
    from made_fast.inference.tensorfile import ModelFileError
    from made_fast.network.masks import Connectivity
    from made_fast.tables.reading.chunks import Chunks

__all__ = [
    "MADE",
    "ApproximationWarning",
    "Chunks",
    "Connectivity",
    "LatentModel",
    "MADEEnsemble",
    "MADEImputer",
    "MADEModel",
    "MADEOutlierDetector",
    "MixtureModel",
    "ModelFileError",
    "TableModel",
    "__version__",
    "load",
]

__version__ = "0.1.0"

_HOMES = {
    "MADE": "estimators.estimator",
    "ApproximationWarning": "inference.density",
    "Chunks": "tables.reading.chunks",
    "Connectivity": "network.masks",
    "LatentModel": "inference.latent",
    "MADEEnsemble": "estimators.ensemble",
    "MADEImputer": "estimators.imputer",
    "MADEModel": "inference.model",
    "MADEOutlierDetector": "estimators.outliers",
    "MixtureModel": "inference.mixture",
    "ModelFileError": "inference.tensorfile",
    "TableModel": "inference.tablemodel",
    "load": "inference.loading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"made_fast.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
