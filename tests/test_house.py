"""Rules that a reader relies on: imports between rooms, first lines of files, examples and pages that run."""

from __future__ import annotations

import ast
import doctest
import importlib
import itertools
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import python

import made_fast
from made_fast import kernels
from made_fast.cli import options

KERNELS = "from made_fast import kernels"
ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted(page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts)]
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_in_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    X = (np.random.default_rng(0).random((60, 9)) < 0.3).astype(np.uint8)
    frame = pd.DataFrame(
        {"sex": ["male", "female", "female"] * 20, "age": [22.0, 38.0, None] * 20, "survived": [0, 1, 1] * 20}
    )
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    assert blocks or page.name != "README.md"
    names = {"X": X, "X_val": X[:20], "X_test": X[20:40], "frame": frame}
    for block in blocks:
        exec(block, names)


def test_commands_in_the_pages_parse():
    known = "train|evaluate|score|sample|impute|query|ensemble|export|serve|info"
    found = [text for page in PAGES for text in re.findall(rf"made-fast ((?:{known}) [^`\n]*)", page.read_text())]
    assert len(found) >= 20
    for text in found:
        words = shlex.shlex(text, posix=True, punctuation_chars="|&>;")  # it leaves out comments
        words.whitespace_split = True
        command = list(itertools.takewhile(lambda word: not set(word) <= set("|&>;"), words))
        if "--help" not in command:
            options.parser().parse_args(command)


def test_links_between_pages_lead_to_files():
    """What is generated is known to Sphinx alone, which checks these when it builds the pages."""
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text()):
            assert "generated/" in link or (page.parent / link).exists(), f"{page}: {link}"


def test_the_reference_has_every_public_name():
    listed = re.findall(r"^   (\w+)$", (ROOT / "docs" / "reference" / "index.rst").read_text(), re.M)
    assert set(made_fast.__all__) - {"__version__"} == set(listed)


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
