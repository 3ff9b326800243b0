"""The command ``made-fast serve``: what its options say, and a clear word where the extra is not installed.

Not here: the server (``made_fast/serving``).
"""

from __future__ import annotations

import argparse
import os

from made_fast.cli import files
from made_fast.cli.files import refusing
from made_fast.cli.options import UsageError
from made_fast.serving.settings import TOKEN, Settings, is_loopback, read_token

__all__ = ["serve"]

EXTRA = ("fastapi", "httptools", "orjson", "prometheus_client", "uvicorn", "uvloop")
"""What the extra ``[serve]`` brings."""


def serve(args: argparse.Namespace) -> int:
    """Serve models until a signal ends it."""
    from made_fast.inference.tensorfile import ModelFileError

    try:
        from made_fast.serving.models import named
        from made_fast.serving.workers import serve as serve_models
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        raise UsageError(f"serve needs {error.name}, which is not installed. Run: pip install 'made_fast[serve]'.") from error
    with refusing(OSError, ValueError):
        token = read_token(args.token_file, os.environ.get(TOKEN))
        paths = named(args.models)
    if token is None and not is_loopback(args.host):
        files.note(f"whoever reaches {args.host} may ask; give --token-file FILE or set {TOKEN} to demand a token.")
    settings = Settings(
        args.host, args.port, args.workers, args.threads, token, args.timeout, args.max_body, args.max_rows, args.queue,
        args.connections, args.grace,
    )  # fmt: skip
    with refusing(OSError, ModelFileError, ValueError):
        return serve_models(paths, settings)
