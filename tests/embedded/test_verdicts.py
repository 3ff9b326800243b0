"""Mutated files: the C library, under sanitizers, refuses what Python refuses and answers as Python does, a few hundred times.

Not here: the long runs (``python tests/embedded/verdicts.py --n 100000``).
"""

from __future__ import annotations

import subprocess
import sys

import pytest
from embedded import building, verdicts

from made_fast import kernels

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sanitizers are looked for on Linux"),
    pytest.mark.skipif(kernels.implementation != "native", reason="the bits are those of the native kernels"),
]

OVERRUN = "#include <stdlib.h>\nint main(int n, char **a) { (void)a; char *p = malloc(8); p[7 + n] = 1; return p[7 + n]; }\n"


@pytest.fixture
def sanitizers(tmp_path):
    """Skip the test where the compiler has none; see that they find a fault."""
    if reason := building.missing():
        pytest.skip(reason)
    (tmp_path / "overrun.c").write_text(OVERRUN)
    command = [
        *building.compiler(),
        *building.SANITIZERS.split(),
        str(tmp_path / "overrun.c"),
        "-o",
        str(tmp_path / "overrun"),
    ]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("the compiler has no sanitizers")
    assert b"heap-buffer-overflow" in subprocess.run([tmp_path / "overrun"], capture_output=True, check=False).stderr


@pytest.mark.usefixtures("sanitizers")
def test_c_and_python_agree_about_mutants(tmp_path):
    report = verdicts.run(700, tmp_path / "work", seed=1)
    assert not report.show()
    assert report.figures["refused by both"] > 100
    assert report.figures["the same bits"] > 50


@pytest.mark.parametrize(
    ("said", "python", "agree"),
    [
        ("0 5 ab 01", "0 5 ab 01", True),
        ("0 5 ab 01", "0 5 ac 01", False),
        ("2 damaged", "0 5 ab 01", False),
        ("0 5 ab 01", None, False),
        ("2 damaged", None, True),
        ("3 columns", "unsupported", True),
        ("0 5 ab 01", "unsupported", False),
        ("0 5 ab 01", "overflow", False),
    ],
)
def test_disagreements_are_seen(said, python, agree):
    assert verdicts.verdict(said, python)[1] == agree


def test_a_crash_is_seen(tmp_path):
    program = tmp_path / "crash"
    program.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    program.chmod(0o700)
    with pytest.raises(RuntimeError, match="broken"):
        verdicts.Judge(program).ask(b"")
