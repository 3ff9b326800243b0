"""Pictures: grids of rows, curves of scores."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from made_fast.cli import images


def test_a_grid_shows_probabilities_and_gaps():
    picture = images.grid([[0.5, np.nan, 1.0]], (1, 3), scale=1)
    shade = round((images.INK + images.PAPER) / 2)
    assert abs(int(picture[images.GAP, images.GAP]) - shade) <= 1
    assert list(picture[images.GAP, images.GAP + 1 : images.GAP + 3]) == [images.UNKNOWN, images.INK]


def test_a_grid_has_every_tile_in_its_place():
    X = np.random.default_rng(0).integers(0, 2, (5, 6))
    picture = images.grid(X, (3, 2), columns=2, scale=4)
    gap = images.GAP
    assert picture.dtype == np.uint8
    assert picture.shape == (3 * (12 + gap) + gap, 2 * (8 + gap) + gap)
    for i, x in enumerate(X):
        top, left = gap + i // 2 * (12 + gap), gap + i % 2 * (8 + gap)
        tile = picture[top : top + 12, left : left + 8]
        assert (tile == np.kron(np.where(x.reshape(3, 2), images.INK, images.PAPER), np.ones((4, 4)))).all()
        picture[top : top + 12, left : left + 8] = images.LINE
    assert (picture == images.LINE).all()


@pytest.mark.parametrize(("shape", "side"), [((8, 8), 593), ((28, 28), 593), ((100, 100), 1033)])
def test_a_grid_of_a_hundred_is_a_square_of_readable_size(shape, side):
    assert images.grid(np.zeros((100, shape[0] * shape[1]), bool), shape).shape == (side, side)


@pytest.mark.parametrize("X", [np.zeros((0, 4)), np.zeros(4), np.zeros((3, 5))])
def test_a_grid_refuses_what_does_not_fit(X):
    with pytest.raises(ValueError, match=r"X must have shape \(rows, 4\)"):
        images.grid(X, (2, 2))


def test_the_ticks_of_a_plot_do_not_stand_on_each_other(tmp_path):
    curve = {m: (90 - np.log(m), 0.1) for m in (1, 2, 4, 8, 16, 32, 64, 128, 256, 300)}
    images.save_curves(tmp_path / "x.png", {"test": curve, "one row": {1: (3.0, np.nan)}}, "some data")
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.format == "PNG"
