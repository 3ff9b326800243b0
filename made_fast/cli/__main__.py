"""``python -m made_fast.cli``: the same as ``made-fast``."""

import sys

from made_fast.cli.entry import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
