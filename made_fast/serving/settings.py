"""What the server is told: where it listens, and how much it takes. Only the standard library, for ``--help``.

Not here: the options of the command line (``cli/options.py``), which have these defaults.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["TOKEN", "Settings", "is_loopback"]

TOKEN = "MADE_FAST_TOKEN"
"""The environment variable that may hold the bearer token."""


@dataclass(frozen=True)
class Settings:
    """How a server runs; all limits are of one worker."""

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    threads: int | None = None
    """Threads of one computation; None: the CPUs there are, shared among the workers."""
    token: str | None = None
    """What requests must bring, but those for health and for the page of people; None: nothing."""
    timeout: float = 30.0
    """Seconds that a request may take, and as many for its body to come."""
    max_body: int = 32
    """Megabytes of a request's body."""
    max_rows: int = 100_000
    """Rows of a request."""
    queue: int = 256
    """Requests that are worked on, or wait for it, at a time."""
    connections: int = 1000
    """Connections at a time."""
    grace: float = 30.0
    """Seconds that requests in flight have when the server stops."""


def is_loopback(host: str) -> bool:
    """Return whether only programs of this machine reach a host."""
    return host in ("localhost", "::1") or host.startswith("127.")


def read_token(file: Path | None, variable: str | None) -> str | None:
    """Return the token of a file, or else of an environment variable's text; None where neither is given.

    Raises OSError where the file cannot be read, ValueError for what is no token.
    """
    if file is None and variable is None:
        return None
    where = f"${TOKEN}" if file is None else str(file)
    token = (variable or "" if file is None else file.read_text("utf-8", "replace")).strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(f"the token must be printable ASCII without blanks, in one line, which {where} does not hold.")
    return token
