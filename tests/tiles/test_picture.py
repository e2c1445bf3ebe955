"""What a map looks like: colors where a class is probable, gray elsewhere, a legend below."""

import numpy as np
import pytest

from vision.tiles import picture
from vision.tiles.decision import TiledPrediction
from vision.tiles.grid import Tiling, grid_of


def prediction(rows, width, height, side, normal="good", classes=("good", "scratch", "dent")):
    tiling = Tiling(side, 0.0, normal)
    grid = grid_of(width, height, tiling, 10_000)
    return TiledPrediction(classes, grid, tiling, np.array(rows, np.float32))


def test_colors_lie_where_their_class_is():
    image = np.full((400, 1200, 1), 100, np.uint8)
    rows = [(0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.3, 0.1, 0.6)]
    drawn = picture.draw(image, prediction(rows, 1200, 400, 400))
    assert drawn.shape[1] == 1200 and drawn.shape[0] > 400
    for x, color, probability in ((200, 0, 1.0), (600, 0, 0.0), (1000, 1, 0.6)):
        opacity = picture.OPACITY * probability
        expected = (1 - opacity) * 100 + opacity * picture.COLORS[color]
        np.testing.assert_allclose(drawn[200, x], expected, atol=1)
    assert (drawn[0, :399] == 255).all() and (drawn[0, 500] != 255).any()  # the frame, white
    legend = drawn[400:]
    assert (legend[-1] == 255).all() and (legend == 0).any()  # text on white
    assert (legend.min(0) < 255).all(-1).any()


@pytest.mark.parametrize(
    ("size", "drawn_size"),
    [((9, 9), (648, 648)), ((5000, 1000), (4096, 819)), ((1000, 4), (1000, 4))],
)
def test_pictures_are_neither_tiny_nor_huge(size, drawn_size):
    width, height = size
    tiled = prediction([], width, height, 4096)
    rows = np.tile([0.2, 0.3, 0.5], (len(tiled.grid), 1))
    tiled = prediction(rows, width, height, 4096)
    drawn = picture.draw(np.zeros((height, width, 3), np.uint8), tiled)
    assert drawn.shape[1] == max(drawn_size[0], picture.NARROWEST)
    assert drawn.shape[0] > drawn_size[1]


def test_of_many_classes_those_of_the_most_area_have_colors():
    """The tenth class wins in most tiles; the last of the nine others share a color."""
    classes = ("good", *(f"defect {i}" for i in range(1, 11)))
    tiles = [min(i, 10) for i in range(1, 17)]
    rows = np.full((16, 11), 0.01)
    rows[range(16), tiles] = 0.9
    image = np.zeros((100, 1600, 1), np.uint8)
    drawn = picture.draw(image, prediction(rows, 1600, 100, 100, classes=classes))
    middles = [drawn[50, 50 + 100 * i].astype(int) for i in range(16)]
    for color, place in ((0, 15), (1, 0), (6, 5), (7, 6), (7, 8)):
        expected = picture.OPACITY * 0.9 * picture.COLORS[color]
        np.testing.assert_allclose(middles[place], expected, atol=2)


def test_names_of_classes_do_no_harm():
    names = ("good", "Kratzer Ünïcode 傷", "a\nb\x1b[31m" + "x" * 300)
    rows = [(0.0, 0.4, 0.6)]
    drawn = picture.draw(
        np.zeros((50, 50, 3), np.uint8), prediction(rows, 50, 50, 64, classes=names)
    )
    assert drawn.shape[1] >= 640
