"""The bench is not installed: the tests of its baselines find it in the root of the repository."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))
