"""Benchmarks: what masks are worth on this machine, against MADE in dense NumPy done well.

Where ``made_fast`` is installed as it is shipped, the checkout's folder ``made_fast/`` must not be taken for it: that folder
alone has no kernels. So the checkout, which ``python -m`` puts first, goes to the end of the path. An editable install, and
a process that has imported ``made_fast`` before, are as they were.
"""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_here = [entry for entry in sys.path if Path(entry).resolve() == _ROOT]  # "" is the current folder
sys.path[:] = [entry for entry in sys.path if entry not in _here] + _here
