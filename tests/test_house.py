"""Rules that a reader relies on: imports between rooms, first lines of files, docstring examples and a README that run."""

from __future__ import annotations

import ast
import doctest
import importlib
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import python

import made_fast
from made_fast import kernels
from made_fast.cli import options

KERNELS = "from made_fast import kernels"
ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(
    module.name for module in pkgutil.walk_packages(made_fast.__path__, "made_fast.") if "kernels" not in module.name
)


def test_imports_follow_the_rules(tmp_path):
    """Rooms import downwards only, and so on: the contracts are in ``pyproject.toml``."""
    shutil.copytree(ROOT / "made_fast", tmp_path / "made_fast", ignore=shutil.ignore_patterns("__pycache__", "kernels"))
    shutil.copytree(ROOT / "kernels", tmp_path / "made_fast" / "kernels", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    command = [sys.executable, "-c", "from importlinter.cli import import_linter; import_linter()"]
    command += ["lint", "--no-cache", str(ROOT / "pyproject.toml")]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": "."}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name):
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0


def test_public_names_are_there_and_documented():
    for name in made_fast.__all__:
        assert getattr(made_fast, name).__doc__
    with pytest.raises(AttributeError, match="no attribute"):
        made_fast.nothing  # noqa: B018
    assert set(made_fast.__all__) <= set(dir(made_fast))


def test_python_in_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    X = (np.random.default_rng(0).random((60, 9)) < 0.3).astype(np.uint8)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert blocks
    names = {"X": X, "X_val": X[:20], "X_test": X[20:40]}
    for block in blocks:
        exec(block, names)


def test_commands_in_the_readme_parse():
    commands = re.findall(
        r"made-fast ((?:train|evaluate|score|sample|impute|query|ensemble|export|info) [^#&`\n]*)",
        (ROOT / "README.md").read_text(),
    )
    assert len(commands) >= 5
    for command in commands:
        if "--help" not in command:
            options.parser().parse_args(shlex.split(command))


@pytest.mark.parametrize("name", MODULES)
def test_no_module_asks_for_the_class_of_parameters_or_turns(name):
    """A class answers for itself; other modules call its methods instead of asking what it is."""
    classes = {"Latent", "Network", "Points", "Shared", "Trainer", "Turns"}
    tree = ast.parse(Path(importlib.import_module(name).__file__).read_text())
    own = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance")
    asked = {getattr(part, "attr", getattr(part, "id", "")) for call in calls for part in ast.walk(call.args[1])}
    assert not asked & classes - own


@pytest.mark.parametrize("folder", ["made_fast", "kernels"])
def test_every_file_says_in_its_first_line_what_it_is(folder):
    files = [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".pyx", ".c", ".h")]
    files = [path for path in files if path.name != "_native.c"]  # Cython writes it
    assert len(files) > 10
    for path in files:
        first = re.match(r'r?("""|/\* )\S.*?[.](\s|"""|$)', path.read_text().split("\n\n")[0])
        assert first, f"{path} does not begin with a sentence that says what it is"


@pytest.mark.parametrize("name", kernels.IMPLEMENTATIONS)
def test_environment_chooses_the_implementation(name):
    told = python("-W", "error", "-c", f"{KERNELS}; print(kernels.implementation)", seconds=60, MADE_FAST_KERNELS=name)
    assert told == name


@pytest.mark.parametrize("level", kernels.load("native").levels())
def test_environment_chooses_the_cpu_level(level):
    assert python("-c", f"{KERNELS}; print(kernels.active.level())", seconds=60, MADE_FAST_CPU=level) == level


BROKEN = """
import importlib
def broken(name):
    raise ImportError("undefined symbol")
importlib.import_module = broken
import made_fast.kernels
"""


@pytest.mark.parametrize(
    ("code", "environment", "match"),
    [
        (KERNELS, {"MADE_FAST_KERNELS": "c"}, "MADE_FAST_KERNELS must be one of native, jit, reference"),
        (KERNELS, {"MADE_FAST_CPU": "x86-64-v9"}, "x86-64-v9"),
        (BROKEN, {}, "ImportError: undefined symbol"),
    ],
)
def test_unknown_choices_and_a_broken_extension_are_errors(code, environment, match):
    with pytest.raises(RuntimeError, match=match):
        python("-c", code, seconds=60, **environment)


def test_without_the_extension_numba_takes_over_and_says_so_once():
    code = """
import importlib.util, warnings
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.endswith("._native") else find(name, *rest)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import made_fast.kernels, made_fast.inference.model
print(made_fast.kernels.implementation, [warning.category.__name__ for warning in caught].count("RuntimeWarning"))
"""
    assert python("-c", code, seconds=60) == "jit 1"


def test_programs_that_pack_others_see_the_kernels():
    """They follow the imports in the code, whether these are run or not; a name that is put together at run time is none."""
    for path, package, names in [
        (ROOT / "kernels" / "__init__.py", "made_fast.kernels", kernels._MODULES.values()),
        (ROOT / "made_fast" / "__init__.py", "made_fast", made_fast._HOMES.values()),
    ]:
        seen = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                seen |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        assert {f"{package}.{name}" for name in names} <= seen
