"""The command line, ``made-fast``: what its options mean, what its commands do, what they print and draw."""

from made_fast.cli.entry import main

__all__ = ["main"]
