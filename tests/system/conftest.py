"""Fixtures of the tests of this room."""

import pytest


@pytest.fixture
def old(tmp_path):
    """Return the path of a file that is there already, alone in its folder."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    return path
