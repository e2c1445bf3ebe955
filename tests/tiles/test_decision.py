"""One decision of many tiles: the rule, its ties, and what it says in JSON."""

import numpy as np
import pytest

from vision.errors import RunError
from vision.tiles.decision import TiledPrediction, decide
from vision.tiles.grid import Tiling, grid_of

CLASSES = ("good", "scratch", "dent")
TILES = np.array(
    [
        [0.90, 0.05, 0.05],
        [0.30, 0.25, 0.45],
        [0.35, 0.40, 0.25],
        [0.99, 0.005, 0.005],
    ]
)


@pytest.mark.parametrize(
    ("normal", "threshold", "label", "score", "tile"),
    [
        (None, 0.5, 0, 0.99, 3),  # the greatest of all
        (0, 0.5, 0, 0.55, 1),  # no defect exceeds the threshold: 1 - 0.45
        (0, 0.45, 0, 0.55, 1),  # it must exceed it
        (0, 0.4, 2, 0.45, 1),  # also below that class's rival in the same tile
        (2, 0.5, 0, 0.99, 3),
    ],
)
def test_the_rule(normal, threshold, label, score, tile):
    decision = decide(TILES, normal, threshold)
    assert (decision.label, decision.tile) == (label, tile)
    assert decision.score == pytest.approx(score) and decision.score == decision.scores[label]


def test_scores_are_maxima_and_the_first_of_equal_tiles_decides():
    decision = decide(np.tile(TILES, (3, 1)), None, 0.5)
    np.testing.assert_allclose(decision.scores, TILES.max(0))
    assert decision.tile == 3


def test_tiles_without_a_defect_do_not_add_up_to_one():
    tiles = np.full((1000, 2), (0.99, 0.01))
    decision = decide(tiles, 0, 0.5)
    assert (decision.label, decision.score) == (0, 0.99)
    assert 1 - np.prod(1 - tiles[:, 1]) == pytest.approx(0.99996, abs=1e-5)  # noisy-or


def test_what_is_no_number_decides_nothing():
    tiles = TILES.copy()
    tiles[2, 1] = np.nan
    with pytest.raises(RunError, match="NaN"):
        decide(tiles, None, 0.5)


def prediction(**tiling):
    return TiledPrediction(
        CLASSES, grid_of(30, 20, Tiling(16, 0.0, **tiling), 4), Tiling(16, **tiling), TILES
    )


def test_the_decision_comes_first_even_if_another_score_is_greater():
    tiled = prediction(normal="good", defect_threshold=0.4)
    assert [name for name, _ in tiled.top(3)] == ["dent", "good", "scratch"]
    assert tiled.top(2)[1] == ("good", pytest.approx(0.55))


def test_json():
    tiled = prediction(normal="good", defect_threshold=0.4)
    summary = tiled.summary(2)
    assert summary["tile"] == {"x": 14, "y": 0, "width": 16, "height": 16}
    assert (summary["class"], summary["score"]) == ("dent", 0.45)
    assert (summary["width"], summary["height"], len(summary["top"])) == (30, 20, 2)
    tile = tiled.tile(2, 1)
    assert tile == {
        "x": 0,
        "y": 4,
        "width": 16,
        "height": 16,
        "top": [{"class": "scratch", "probability": 0.4}],
    }
