"""Machine code that Numba keeps is used again, and not after a change in any file that it was made from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CALL = """
import numpy as np
from made_fast.kernels.jit import pack_bits
pack_bits(np.eye(3, dtype=np.uint8), np.arange(3), np.zeros(3, np.int32), np.zeros((3, 1), np.uint64), np.zeros(1, np.uint8))
print(sum(pack_bits.stats.cache_hits.values()))
"""


@pytest.mark.skipif(os.environ.get("NUMBA_DISABLE_JIT") == "1", reason="nothing is compiled")
def test_a_change_in_any_file_of_a_kernel_makes_it_be_compiled_anew(tmp_path):
    (tmp_path / "made_fast").mkdir()
    (tmp_path / "made_fast" / "__init__.py").touch()
    shutil.copytree(ROOT / "kernels", tmp_path / "made_fast" / "kernels")
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "MADE_FAST_KERNELS": "jit", "PYTHONPATH": str(tmp_path)}

    def hits() -> int:
        return int(subprocess.check_output([sys.executable, "-c", CALL], env=env, cwd=tmp_path, text=True))

    assert [hits(), hits()] == [0, 1]
    for changed in ("layout.py", "jit/rows.py"):  # pack_bits itself is in neither
        with (tmp_path / "made_fast" / "kernels" / changed).open("a") as file:
            file.write("\n# changed\n")
        assert [hits(), hits()] == [0, 1]
