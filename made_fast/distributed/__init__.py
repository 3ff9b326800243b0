"""Maps over the partitions of a table on engines that exist: Dask here, Spark and Ray by the same plain functions.

``score_samples``, ``impute`` and ``sample`` take and give Dask collections (``daskmaps.py``); ``scored``, ``imputed`` and
``sampled`` are what they call on a partition, and what ``mapInPandas`` of Spark or ``map_batches`` of Ray Data can call, too
(``partition.py``). A model is given by the path of its file, which each process maps once, or as an object, which travels.
Only inference is needed; Dask is imported on first use.

Not here: ensembles and searches, which joblib takes to a cluster; one model on many machines (``MADE.fit(comm=...)``).
"""

from __future__ import annotations

from made_fast.distributed.daskmaps import impute, sample, score_samples
from made_fast.distributed.partition import ModelAt, imputed, located, sampled, scored

__all__ = ["ModelAt", "impute", "imputed", "located", "sample", "sampled", "score_samples", "scored"]
