"""Models that several tests of the command line use: of the digits, and of small tables with and without gaps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cli_cases import TINY, rows_of_twelve, train, with_gaps


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Return a folder with a model of digits, a picture of samples, and what the training printed."""
    folder = tmp_path_factory.mktemp("digits")
    text = train("--out", folder / "model.safetensors", "--samples", folder / "samples.png", "--seed", 0)
    return folder, text


@pytest.fixture
def model_file(digits):
    return str(digits[0] / "model.safetensors")


@pytest.fixture
def real_csv(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "real.csv"
    np.savetxt(path, rng.random((200, 1)) + 0.3 * rng.random((200, 6)), fmt="%.3f", delimiter=",")
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Return a folder with data of 12 inputs, complete and with gaps, and models of it."""
    folder = tmp_path_factory.mktemp("tiny")
    sets = {name: rows_of_twelve(n, n) for name, n in (("train", 600), ("valid", 101), ("test", 102))}
    np.savez(folder / "x.npz", **sets)
    gaps = {name: with_gaps(X) for name, X in sets.items()}
    np.savez(folder / "gaps.npz", **gaps)
    lines = [",".join(f"c{d}" for d in range(12))]
    lines += [",".join("" if np.isnan(x) else f"{x:.0f}" for x in row) for row in gaps["test"]]
    (folder / "gaps.csv").write_text("\n".join(lines) + "\n")
    models = {
        "one": ["x.npz", "--ordering", "natural"],
        "five": ["x.npz", "--masks", "5", "--direct", "output", "--connectivity-weights"],
        "fresh": ["gaps.npz", "--masks", "unlimited", "--eval-masks", "6", "--max-epochs", "60", "--direct", "output"],
    }
    for name, (data, *more) in models.items():
        text = train(*TINY, *more, "--out", f"{folder}/{name}.safetensors", data=folder / data)
        (folder / f"{name}.out").write_text(text)
    return folder


@pytest.fixture
def in_tiny(tiny, tmp_path, monkeypatch):
    """Go to a folder of its own with links to what ``tiny`` has."""
    monkeypatch.chdir(tmp_path)
    for path in tiny.iterdir():
        Path(path.name).symlink_to(path)
