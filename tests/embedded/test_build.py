"""How the C library is built: its names, its flags, the constants that it repeats, and the two examples."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys

import pytest
from embedded.building import KERNELS, ROOM, make
from helpers import random_model, rows
from robustness.common import compiler

from made_fast import MADEModel, load
from made_fast.inference import model, modelfile, tensorfile
from made_fast.kernels import layout
from made_fast.network import architecture, network
from made_fast.tables import choices

HEADER = (ROOM / "made_fast.h").read_text()
NAMES = set(re.findall(r"\bmade_fast_\w+(?=\()", re.sub(r"/\*.*?\*/", "", HEADER, flags=re.S)))


def run(*command, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, **options)
    return done.returncode, done.stdout, done.stderr


def test_only_the_names_of_the_header_are_exported(built):
    if shutil.which("nm") is None:
        pytest.skip("there is no nm on this machine")
    if sys.platform != "linux":
        pytest.skip("other linkers name things otherwise")
    for file, options in [("libmade_fast.so", ("-D",)), ("libmade_fast.a", ("-g",))]:
        _, told, _ = run("nm", *options, "--defined-only", built / file)
        assert {line.split()[-1] for line in told.splitlines() if len(line.split()) == 3} == NAMES
    assert len(NAMES) > 10


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF files")
def test_it_needs_the_c_library_alone(built):
    if shutil.which("readelf") is None:
        pytest.skip("there is no readelf on this machine")
    _, told, _ = run("readelf", "-d", built / "libmade_fast.so")
    assert set(re.findall(r"NEEDED.*\[(\w+)", told)) <= {"libm", "libc", "ld"}


def test_the_flags_are_those_of_setup():
    tree = ast.parse((ROOM.parents[1] / "setup.py").read_text())
    constants = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    makefile = (ROOM / "Makefile").read_text()
    flags = re.search(r"^FLAGS := (.*)$", makefile, re.M)[1].split()
    assert set(flags) == {flag for flag in constants if re.match(r"-(std|f|W)[\w=-]+", flag)}
    assert set(re.search(r"^CFLAGS \?= (.*)$", makefile, re.M)[1].split()) <= constants
    assert "-mprefer-vector-width=512" in constants
    assert re.search(r"^level_v4 := (.*)$", makefile, re.M)[1].split() == ["-march=x86-64-v4", "-mprefer-vector-width=512"]


def test_constants_are_those_of_python():
    text = "".join(path.read_text() for path in ROOM.glob("*.[ch]"))
    found = {name: eval(value) for name, value in re.findall(r"\b([A-Z_0-9]{3,}) = (\(?\d[\d <>()+*]*)", text)}
    expected = {
        "BLOCK": architecture.BLOCK, "KEPT_BYTES": model.KEPT_BYTES, "MASKS_AT_ONCE": model.MASKS_AT_ONCE,
        "PROBES": network.PROBES, "MAX_HEADER": tensorfile.MAX_HEADER, "MAX_JSON": tensorfile.MAX_JSON,
        "MAX_VALUES": tensorfile.MAX_VALUES, "MAX_DIMENSIONS": tensorfile.MAX_DIMENSIONS,
        "FREE_UNITS": modelfile.FREE_UNITS, "PARAMETERS_PER_UNIT": modelfile.PARAMETERS_PER_UNIT,
        "ROUNDING": architecture.ROUNDING, "STRIDE": layout.STRIDE, "MAX_POINTS": choices.MOST_POINTS,
        "ALIGNMENT": tensorfile.ALIGNMENT,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected


def test_the_header_serves_strict_c_and_cpp(built, tmp_path):
    assert run(*compiler(), "-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", ROOM / "example.c")[
        ::2
    ] == (0, "")
    if shutil.which("g++") is None:
        pytest.skip("there is no C++ compiler on this machine")
    (tmp_path / "use.cpp").write_text('#include "made_fast.h"\nint main() { made_fast_close(nullptr); }\n')
    assert run("g++", "-Wall", "-Wextra", "-Werror", f"-I{ROOM}", tmp_path / "use.cpp", built / "libmade_fast.a", "-lm",
               "-o", tmp_path / "use")[::2] == (0, "")  # fmt: skip
    assert run(tmp_path / "use")[0] == 0


def test_the_library_compiles_without_warnings(tmp_path):
    """Even with more of them; the kernels are compiled elsewhere."""
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wshadow", "-Wstrict-prototypes", "-fsyntax-only", f"-I{KERNELS}"]
    for path in ROOM.glob("*.c"):
        assert run(*compiler(), *flags, path)[::2] == (0, "")


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model"
    random_model(13, (9,), dtype="float32").save(path)
    return path


def lines(X):
    return "".join("".join(map(str, row)) + "\n" for row in X.tolist())


def test_the_example_in_c_prints_what_python_computes(built, path):
    X, made = rows(40, 13), load(path)
    code, told, _ = run(built / "example", path, input=lines(X))
    assert (code, list(map(float, told.split()))) == (0, made.score_samples(X).tolist())
    assert run(built / "example", path, "sample", 30, 7) == (0, lines(made.sample(30, random_state=7)), "")
    code, told, _ = run(built / "example", path, "time")
    assert code == 0
    assert re.fullmatch(r"one row of 13: median [\d.]+ us, .*\n", told)


def test_the_example_in_c_says_what_is_wrong(built, path):
    example = built / "example"
    assert run(example)[::2] == (2, f"usage: {example} MODEL [sample N SEED | time]\n")
    assert run(example, "nothing")[::2] == (1, "nothing: the file cannot be opened: No such file or directory.\n")
    for text, match in [
        ("010\n", "model's 13 columns, got 3"),
        ("0" * 14 + "\n", "more than 13"),
        ("0" * 12 + "2\n", "got 2 at row 0"),
    ]:
        code, _, told = run(example, path, input=text)
        assert code == 1
        assert match in told


def test_the_example_in_python_needs_numpy_alone(built, path):
    script = f"import sys, runpy; sys.argv[1:] = {[str(next(built.glob('libmade_fast.[sd]*'))), str(path), '6']}\n"
    script += f"runpy.run_path({str(ROOM / 'example.py')!r}, run_name='__main__')\nassert 'made_fast' not in sys.modules"
    code, told, error = run(sys.executable, "-c", script)
    assert (code, error) == (0, "")
    made = load(path)
    drawn = made.sample(6, random_state=0)
    expected = [(row, log_p) for row, log_p in zip(lines(drawn).split(), made.score_samples(drawn).tolist(), strict=True)]
    assert [(row, float(log_p)) for row, log_p in map(str.split, told.splitlines())] == expected


def test_install_puts_the_files_where_they_are_wanted(built, tmp_path):
    make(built, "install", PREFIX=str(tmp_path))
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"include/made_fast.h", "lib/libmade_fast.a", f"lib/{next(built.glob('libmade_fast.[sd]*')).name}"}


def test_names_of_columns_with_a_zero_in_them(library, tmp_path):
    """A C string ends there; nothing is read behind it."""
    made = random_model(3, (2,))
    MADEModel(made.source, feature_names=["a\0b", "", "c"]).save(tmp_path / "model")
    assert library.open(str(tmp_path / "model")).feature_names == ("a", "", "c")
