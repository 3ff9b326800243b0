"""The checks of packages find what is missing, what does not belong there, and what is too large."""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

import check

EXTENSION = "made_fast/kernels/native/_native.cpython-311-x86_64-linux-gnu.so"
WHEEL = {
    *(name for name in check.files("made_fast") if name.endswith((".py", ".typed")) and "/embedded/" not in name),
    *(f"made_fast/{name}" for name in check.files("kernels") if name.endswith(".py")),
    "made_fast/serving/page.html",
    EXTENSION,
    "made_fast-0.1.0.dist-info/METADATA",
    "made_fast-0.1.0.dist-info/licenses/LICENSE",
}


@pytest.mark.parametrize(
    ("added", "left_out", "complaint"),
    [
        ((), (), None),
        (("made_fast/kernels/native/net.h",), (), "net.h does not belong there"),
        (("made_fast/__pycache__/cli.cpython-311.pyc",), (), "pyc does not belong there"),
        (("tests/helpers.py",), (), "tests/helpers.py does not belong there"),
        (("made_fast/embedded/example.py",), (), "example.py does not belong there"),
        ((), ("made_fast/inference/model.py",), "model.py is not there"),
        ((), ("made_fast/py.typed",), "py.typed is not there"),
        ((), (EXTENSION,), "there must be one extension"),
    ],
)
def test_wheel(tmp_path, added, left_out, complaint):
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as file:
        for name in (WHEEL | {*added}) - {*left_out}:
            file.writestr(name, "")
    found = check.wheel_errors(tmp_path / "w.whl")
    assert not found if complaint is None else complaint in "\n".join(found)


def sdist_of(tmp_path: Path, change=lambda names: names) -> Path:
    path = tmp_path / "s.tar.gz"
    names = check.files("made_fast", "kernels", "tests", "bench", "docs")
    names |= {"README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "setup.py", "docs/index.md"}
    with tarfile.open(path, "w:gz") as file:
        for name in change(names):
            file.addfile(tarfile.TarInfo(f"made_fast-0.1.0/{name}"), io.BytesIO())
    return path


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda names: names, None),
        (lambda names: names - {"kernels/native/net.h"}, "kernels/native/net.h is not there"),
        (lambda names: names - {"kernels/native/_native.pyx"}, "_native.pyx is not there"),
        (lambda names: names - {"docs/index.md"}, "docs/index.md is not there"),
        (lambda names: names | {"kernels/native/_native.c"}, "_native.c does not belong there"),
        (lambda names: names | {"kernels/jit/__pycache__/rows.nbi"}, "rows.nbi does not belong there"),
        (lambda names: names | {"docs/generated/staircase-dark.svg"}, "svg does not belong there"),
        (lambda names: names | {"docs/tutorials/model.safetensors"}, "model.safetensors does not belong there"),
        (lambda names: names | {"docs/tutorials/.ruff_cache/0"}, "0 does not belong there"),
    ],
)
def test_sdist(tmp_path, change, complaint):
    found = check.sdist_errors(sdist_of(tmp_path, change))
    assert not found if complaint is None else complaint in "\n".join(found)


def test_size(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(bytes(check.MOST_BYTES))
    assert not check.size_errors(path)
    path.write_bytes(bytes(check.MOST_BYTES + 1))
    assert "at most 3000000 bytes" in check.size_errors(path)[0]
