"""Calibration against its definition, and a temperature that is found again."""

import numpy as np
import pytest

from vision.config import default
from vision.evaluation.measures import calibration
from vision.inference import softmax


def draw(count=4000, classes=6, scale=1.0, seed=0):
    """Returns (logits, labels): labels are drawn with softmax(logits), and the logits then
    multiplied by `scale`."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(count, classes)) * 2
    labels = (softmax(logits).cumsum(1) > random.random((count, 1))).argmax(1)
    return logits * scale, labels


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_again(scale):
    logits, labels = draw(count=20000, scale=scale)
    temperature = calibration.fit_temperature(logits, labels)
    assert temperature == pytest.approx(scale, rel=0.05)
    c = default().evaluation
    c.bootstrap = 0
    fitted, plain = (calibration.calibrate(logits, labels, t, c) for t in (temperature, 1.0))
    assert fitted["nll"] <= plain["nll"] and fitted["ece"]["value"] < 0.02
    for near in (0.99 * temperature, 1.01 * temperature):
        assert calibration.calibrate(logits, labels, near, c)["nll"] > fitted["nll"]


def test_degenerate_input_gives_a_finite_temperature():
    logits = np.array([[5.0, -5.0], [5.0, -5.0]])
    # the lower, the better
    assert calibration.RANGE[0] <= calibration.fit_temperature(logits, [0, 0]) < 0.5
    assert calibration.fit_temperature(logits, [1, 1]) == pytest.approx(
        calibration.RANGE[1], rel=1e-2
    )
    assert calibration.fit_temperature(np.zeros((3, 2)), [0, 1, 0]) > 0


def test_the_interval_holds_the_value_and_narrows():
    c = default().evaluation
    c.bootstrap = 200
    wide, narrow = (
        calibration.calibrate(*draw(count, scale=2.0), 1.0, c)["ece"] for count in (200, 4000)
    )
    assert narrow["high"] - narrow["low"] < wide["high"] - wide["low"]
    assert narrow["low"] <= narrow["value"] <= narrow["high"]


def test_a_temperature_that_does_not_help_is_not_used():
    """Calibrated already; few images whose best temperature says nothing; and one that helps."""
    random = np.random.default_rng(3)
    logits = random.normal(size=(4000, 5)) * 2
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (p.cumsum(1) > random.random((4000, 1))).argmax(1)
    assert calibration.helpful_temperature(3 * logits, labels) == pytest.approx(3, rel=0.1)
    worse = 0
    for start in range(0, 400, 20):
        rows = slice(start, start + 20)
        t = calibration.helpful_temperature(logits[rows], labels[rows])
        assert t == 1 or calibration.mean_loss(logits[rows], labels[rows], t) < (
            calibration.mean_loss(logits[rows], labels[rows])
        )
        worse += t != 1
    assert worse < 15  # a temperature fitted to 20 images differs from 1 in all of them
    assert calibration.helpful_temperature(logits[:3], labels[:3]) == 1
