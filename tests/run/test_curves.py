"""The picture of the learning curves, and what is read from a run's log."""

import io

import numpy as np
from PIL import Image

from vision.config import default
from vision.run import curves
from vision.run.readings import best_point, curve, metric_lines

LINES = [
    {"step": 1, "train/loss": 2.0, "train/learning_rate": 0.1},
    {"step": 1, "val/loss": 1.5, "val/accuracy": 0.5},
    {"step": 2, "train/loss": None, "train/learning_rate": 0.05},
    {"step": 2, "val/loss": 1.0, "val/accuracy": 0.75},
    {"step": 3, "val/loss": 1.2, "val/accuracy": 0.75},
]


def test_damaged_lines_of_a_log_are_passed_over(tmp_path):
    assert metric_lines(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_bytes(
        b'{"step": 1, "val/loss": 2}\n[1]\n\xff\n{"step": "2"}\n{"step": 3, "val/lo'
    )
    assert metric_lines(tmp_path) == [{"step": 1, "val/loss": 2}]


def test_a_curve_has_the_last_value_of_each_step():
    assert curve(LINES, "train/loss") == [(1, 2.0)]
    again = [*LINES, {"step": 1, "val/loss": 1.25}]
    assert curve(again, "val/loss") == [(1, 1.25), (2, 1.0), (3, 1.2)]


def test_the_best_of_equal_validations_is_the_last_as_in_the_checkpoints():
    assert best_point(curve(LINES, "val/accuracy"), "max") == (3, 0.75)
    assert best_point(curve(LINES, "val/loss"), "min") == (2, 1.0)
    assert best_point([], "max") is None


def test_the_best_step_follows_the_metric():
    c = default().checkpoint
    assert curves.best_step(LINES, c) == 3
    c.metric = "val/loss"
    assert curves.best_step(LINES, c) == 2


def pixels(picture):
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), np.int64)


def test_both_curves_are_drawn():
    lines = [*LINES, {"step": 3, "train/loss": 0.5}]
    picture = pixels(curves.draw(lines, default().checkpoint))
    assert picture.shape[1] == 1200 and picture.shape[0] < 700
    for color in (curves.BLUE, curves.AMBER):
        rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(picture - rgb).sum(-1) < 12).sum() > 100


def test_nothing_is_drawn_of_an_empty_log(tmp_path):
    c = default()
    assert curves.draw([], c.checkpoint) == b""
    curves.write_curves(tmp_path, c)
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_has_its_curves(tiny_run):
    picture = pixels((tiny_run / "curves.png").read_bytes())
    assert picture.std() > 10
