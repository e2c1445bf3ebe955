"""When a window alarms: exact tests against scipy's, their level by simulation, and real decay."""

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.multitest import multipletests

from tests.support.answering import CLASSES, answer
from vision.monitoring.quality.decay import Limits, assess, p_values
from vision.reference import quality

NAMES = [f"class {i}" for i in range(CLASSES)]


def quality_of(count, random):
    return quality.parse({"quality": quality.describe(*answer(count, random))}, NAMES, "file")


def window_of(count, random, **options):
    probabilities, truth = answer(count, random, **options)
    return probabilities.argmax(1), truth, probabilities.max(1)


def test_p_values_are_fishers():
    random = np.random.default_rng(0)
    images = random.integers(1, 300, 50)
    images_before = random.integers(1, 300, 50)
    right = random.binomial(images, 0.7)
    before = random.binomial(images_before, 0.8)
    expected = [
        scipy.stats.fisher_exact([[a, n - a], [b, m - b]], alternative="less").pvalue
        for a, n, b, m in zip(right, images, before, images_before, strict=True)
    ]
    np.testing.assert_allclose(p_values(right, images, before, images_before), expected, rtol=1e-8)


def test_half_of_the_level_is_the_accuracys_and_half_the_recalls():
    random = np.random.default_rng(1)
    own = quality_of(800, random)
    result = assess(own, NAMES, window_of(500, random, wrong=0.05), Limits())
    accuracy = result["accuracy"]
    assert accuracy["adjusted"] == pytest.approx(min(2 * accuracy["p"], 1))
    assert accuracy["drop"] == pytest.approx(own.accuracy - accuracy["value"])
    shares = list(result["recall"].values())
    corrected = multipletests([share["p"] for share in shares], method="holm")[1]
    adjusted = [share["adjusted"] for share in shares]
    assert adjusted == pytest.approx(np.minimum(2 * corrected, 1).tolist())


@pytest.mark.parametrize("count, before", [(100, 300), (1000, 1000)])
def test_stable_windows_keep_the_level(count, before, monkeypatch):
    """Each has a reference of its own, so that they are independent; no floor of size helps."""
    monkeypatch.setattr(quality, "DRAWS", 0)  # of the calibration error, which decides nothing
    random = np.random.default_rng(2)
    limits = Limits(alpha=0.05, effect=0.0)
    alarms = [
        assess(quality_of(before, random), NAMES, window_of(count, random), limits)["alarm"]
        for _ in range(200)
    ]
    assert sum(alarms) <= 200 * 0.05


def test_the_exact_test_keeps_its_level_at_any_size():
    random = np.random.default_rng(7)
    for images, before, accuracy in ((100, 300, 0.9), (1000, 1000, 0.7), (30, 1000, 0.99)):
        right = random.binomial(images, accuracy, 20_000)
        right_before = random.binomial(before, accuracy, 20_000)
        p = p_values(right, np.full(20_000, images), right_before, np.full(20_000, before))
        assert 0.01 < (p <= 0.05).mean() <= 0.05


def test_decay_alarms():
    """With 500 labels, 12 % of whose classes have changed, nine of ten windows alarm."""
    random = np.random.default_rng(3)
    own = quality_of(1000, random)
    windows = [assess(own, NAMES, window_of(500, random, wrong=0.12), Limits()) for _ in range(50)]
    assert sum(window["accuracy"]["alarm"] for window in windows) >= 45
    harder = assess(own, NAMES, window_of(500, random, hardness=2.5), Limits())
    assert harder["accuracy"]["alarm"] and harder["alarm"]


def test_a_large_window_does_not_cry_over_nothing():
    random = np.random.default_rng(4)
    own = quality_of(100_000, random)
    window = window_of(100_000, random, wrong=0.015)
    accuracy = assess(own, NAMES, window, Limits())["accuracy"]
    assert accuracy["p"] < 1e-4 and 0 < accuracy["drop"] < 0.02 and not accuracy["alarm"]
    assert assess(own, NAMES, window, Limits(effect=0.005))["accuracy"]["alarm"]


def test_a_class_alone_may_decay():
    random = np.random.default_rng(5)
    own = quality_of(1000, random)
    predicted, truth, confidence = window_of(1000, random)
    predicted[truth == 2] = np.where(random.random((truth == 2).sum()) < 0.4, 1, 2)
    predicted[truth != 2] = truth[truth != 2]  # better than before, so the accuracy is not lower
    result = assess(own, NAMES, (predicted, truth, confidence), Limits())
    assert result["alarm"] and not result["accuracy"]["alarm"]
    assert [name for name, share in result["recall"].items() if share["alarm"]] == ["class 2"]


def test_few_labels_are_shown_and_not_tested():
    random = np.random.default_rng(6)
    own = quality_of(500, random)
    assert assess(own, NAMES, window_of(0, random), Limits()) == {"labels": 0, "alarm": False}
    few = assess(own, NAMES, window_of(99, random, wrong=1.0), Limits())
    assert "p" not in few["accuracy"] and not few["alarm"] and few["accuracy"]["value"] < 0.5
    predicted, truth, confidence = window_of(300, random)
    truth[truth == 3] = 0
    truth[:9] = 3
    result = assess(own, NAMES, (predicted, truth, confidence), Limits())
    assert "p" not in result["recall"]["class 3"] and "p" in result["recall"]["class 0"]
