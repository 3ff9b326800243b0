"""A server of several small models, one for all tests of a process, and these models."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("fastapi", reason="needs made_fast[serve]")

from served import running, save_models

collect_ignore = [] if sys.platform.startswith("linux") else ["test_workers.py"]  # which looks at /proc


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="session")
def models(folder):
    return save_models(folder)


@pytest.fixture(scope="session")
def server(folder, models):
    with running(*(folder / f"{name}.safetensors" for name in models)) as found:
        yield found
