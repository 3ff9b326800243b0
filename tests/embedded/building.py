"""Builds the C library for tests, with no more CPU levels than this machine needs, and imports the example that calls it.

Not here: the tests.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

from robustness.common import compiler

ROOM = Path(__file__).resolve().parents[2] / "made_fast" / "embedded"
KERNELS = ROOM.parents[1] / "kernels" / "native"
SANITIZERS = "-fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all -fno-omit-frame-pointer"


def missing() -> str:
    """Return what is missing to build the library, or nothing."""
    for name in ("make", compiler()[0]):
        if shutil.which(name) is None:
            return f"there is no {name} on this machine"
    return ""


def levels() -> str:
    """Return the CPU levels to build: the least one and the best one of this machine."""
    from made_fast.kernels import load

    names = [name.removeprefix("x86-64-") for name in load("native").levels()]
    return " ".join(dict.fromkeys((names[0], "baseline")))


def make(folder: Path, *targets: str, **variables: str) -> str:
    """Run make; return what it said."""
    variables = {"BUILD": str(folder), "LEVELS": levels(), "CC": " ".join(compiler()), **variables}
    command = [
        "make",
        "-C",
        str(ROOM),
        f"-j{len(os.sched_getaffinity(0))}",
        *targets,
        *(f"{k}={v}" for k, v in variables.items()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def build(folder: Path, *, programs: list[Path], CFLAGS: str, **variables: str) -> Path:
    """Build the static library and programs that use it, with these flags; return the folder."""
    make(folder, str(folder / "libmade_fast.a"), CFLAGS=CFLAGS, **variables)
    for program in programs:
        command = [
            *compiler(),
            *CFLAGS.split(),
            "-std=c99",
            "-pedantic",
            "-Wall",
            "-Wextra",
            "-Werror",
            f"-I{ROOM}",
            str(program),
        ]
        subprocess.run([*command, str(folder / "libmade_fast.a"), "-lm", "-o", str(folder / program.stem)], check=True)
    return folder


def example() -> ModuleType:
    """Import ``example.py``, which is no module of the package."""
    spec = importlib.util.spec_from_file_location("embedded_example", ROOM / "example.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
