"""What the server counts, for Prometheus: over all workers, in files of a folder that they share.

Not here: what happens where (``app.py``, ``workers.py``).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

__all__ = ["Metrics", "share"]

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)


def share(folder: Path) -> None:
    """Count in files of a folder, which processes share; call it before ``Metrics`` is made."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)


class Metrics:
    """The counters."""

    def __init__(self) -> None:
        import prometheus_client as prometheus  # it looks for the folder when it is imported

        self.registry = prometheus.CollectorRegistry()
        of: dict[str, Any] = {"registry": self.registry, "namespace": "made_fast"}
        self.requests = prometheus.Counter(
            "requests", "Requests, by the model asked, the door and the status.", ("model", "door", "status"), **of
        )
        self.seconds = prometheus.Histogram(
            "request_seconds", "Time from the first byte of a request to its answer.", ("door",), buckets=SECONDS, **of
        )
        self.rows = prometheus.Counter("rows", "Rows that were answered about.", ("model", "door"), **of)
        self.batches = prometheus.Histogram("batch_rows", "Rows that were scored together.", ("model",), buckets=ROWS, **of)
        self.reloads = prometheus.Counter("reloads", "Reloads of the models (SIGHUP), by outcome.", ("outcome",), **of)

    def page(self) -> tuple[bytes, str]:
        """Return the figures of all workers, and the type of that text."""
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = self.registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry), CONTENT_TYPE_LATEST
