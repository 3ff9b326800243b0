"""``python -m made_fast``: the command line, for where ``made-fast`` is not on the path."""

from __future__ import annotations

import sys

from made_fast.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
