"""Every public door takes right tables in any container and refuses the rest by name: the promise of ``doors.py``.

A few dozen examples for each door by default, always the same ones; with ``--hypothesis-profile=long`` 10,000, drawn
afresh (the profile is in this folder's ``conftest.py``; so name the folder or the file).
"""

from __future__ import annotations

import numpy as np
import pytest
from helpers import rows
from robustness import doors
from robustness.any_tables import all_refused
from robustness.common import limited_memory
from robustness.doors import WIDTH, hold, world


@pytest.fixture(autouse=True, scope="module")
def little_memory():
    with limited_memory(doors.MEMORY):
        yield


@pytest.mark.parametrize("name", doors.doors())
def test_a_table_is_answered_as_plain_rows_are_or_refused_by_name(name):
    hold(doors.property_of(doors.doors()[name]), 60, name)


@pytest.mark.parametrize(
    "name", ["MADEModel.score_samples", "MADEModel.impute, mode", "MADE.partial_fit, one more, of several masks"]
)
def test_all_that_is_no_table_is_refused(name):
    for table in all_refused(WIDTH):
        doors.knock(doors.doors()[name], table, 8)


def test_polars_frames_too():
    pl = pytest.importorskip("polars")
    model, X = world()["MADEModel"], rows(3, WIDTH)
    frame = pl.DataFrame({str(j): X[:, j] for j in range(WIDTH)})
    assert (model.score_samples(frame) == model.score_samples(X)).all()
    holes = frame.with_columns(pl.lit(None).alias("1"))
    assert np.isfinite(model.log_marginal(holes)).all()
