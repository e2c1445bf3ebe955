"""How well embeddings tell classes apart, against formulas and chance."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from vision.audit import power
from vision.config import default


class Labels:
    """Images of which only the labels are known."""

    def __init__(self, labels):
        self.labels = np.asarray(labels)


def measure(probabilities, images):
    return power.measure(probabilities, images, default().audit)


def predictions(predicted, classes):
    return np.eye(classes, dtype=np.float32)[np.asarray(predicted)]


def test_accuracy_and_chance_are_those_of_cohens_kappa():
    random = np.random.default_rng(0)
    labels = random.choice(4, 300, p=[0.55, 0.25, 0.15, 0.05])
    predicted = np.where(random.random(300) < 0.6, labels, random.integers(0, 4, 300))
    measured = measure(predictions(predicted, 4), Labels(labels))
    kappa = (measured.accuracy - measured.chance) / (1 - measured.chance)
    assert kappa == pytest.approx(cohen_kappa_score(labels, predicted))
    assert measured.low < measured.accuracy < measured.high and measured.kappa < kappa


def test_the_interval_is_wilsons():
    labels = np.zeros(100, int)
    labels[:50] = 1
    predicted = labels.copy()
    predicted[40:60] = 1 - predicted[40:60]
    measured = measure(predictions(predicted, 2), Labels(labels))
    # 80 of 100: Wilson 1927, by hand
    z = 1.959964
    center = (0.8 + z**2 / 200) / (1 + z**2 / 100)
    half = z * np.sqrt(0.8 * 0.2 / 100 + z**2 / 40_000) / (1 + z**2 / 100)
    assert measured.low == pytest.approx(center - half, abs=1e-6)
    assert measured.high == pytest.approx(center + half, abs=1e-6)


def test_the_most_frequent_class_for_every_image_tells_nothing_apart():
    """Nine of ten labels are reproduced, and none is known."""
    labels = np.repeat([0, 1], [900, 100])
    measured = measure(predictions(np.zeros(1000, int), 2), Labels(labels))
    assert measured.accuracy == 0.9 and measured.kappa <= 0 and not measured.suffices


def test_few_images_prove_little():
    labels = np.arange(10) % 2
    few = measure(predictions(labels, 2), Labels(labels))
    assert few.accuracy == 1 and few.kappa < 0.5 and not few.suffices
    labels = np.arange(200) % 2
    assert measure(predictions(labels, 2), Labels(labels)).suffices


def test_without_predictions_nothing_is_measured():
    nothing = np.full((5, 2), np.nan, np.float32)
    assert measure(nothing, Labels(np.zeros(5, int))) is None


def test_why_labels_were_not_checked():
    """Without predictions it is the folds; else the embeddings, and by how much."""
    assert "lower audit.folds" in power.describe(None, "pixels")
    labels = np.arange(10) % 2
    few = measure(predictions(labels, 2), Labels(labels))
    sentence = power.describe(few, "pixels")
    assert f"a kappa of at least {few.kappa:.2f}, but 0.75 is needed" in sentence
    assert "--embeddings: pretrained or a trained run" in sentence
    assert "pretrained" not in power.describe(few, "runs/pets")
