"""Accuracy and disagreement from logs that the server's own writer has written."""

import dataclasses
import time

import numpy as np
import pytest

from tests.monitoring.rollout.conftest import PLAN
from vision.errors import UserError
from vision.monitoring.abtest.comparisons import two_proportions
from vision.monitoring.abtest.moments import of_counts
from vision.monitoring.abtest.sequential import always_valid_p
from vision.monitoring.rollout import answers
from vision.monitoring.rollout.readings import SCALE
from vision.monitoring.rollout.rules import describe
from vision.serving.logs.prediction_log import PredictionLog
from vision.serving.request import Answer, Request

CLASSES = ("cat", "dog", "eel")
WATCHED = dataclasses.replace(PLAN, guards=("disagreement", "accuracy"))


class Writer:
    """Writes a log into `directory`, and labels into `labels`."""

    def __init__(self, root):
        self.directory = root / "log"
        self.labels = root / "labels"
        self.labels.mkdir()
        self._log = PredictionLog(self.directory, 100_000, 60.0)
        self._count = 0
        self.rows = []

    def put(self, version, predicted, model="pets", shadow_of=None):
        """Logs a request with an image for each predicted class; returns its identifier."""
        probabilities = np.eye(3, dtype=np.float32)[predicted]
        self._count += shadow_of is None
        name = shadow_of or f"r{self._count}"
        answer = Answer(model, version, CLASSES, probabilities, probabilities, {})
        request = Request(model, [b"image"] * len(predicted), id=name)
        self._log.put(request, answer, shadow=shadow_of is not None)
        return name

    def label(self, name, truth):
        self.rows += [f"{name},{i},{CLASSES[label]}" for i, label in enumerate(truth)]

    def close(self):
        self._log.write(everything=True)
        if self.rows:
            (self.labels / "a.csv").write_text("\n".join(["id,image,label", *self.rows]))

    def read(self, plan=WATCHED, since=0.0, classes=CLASSES):
        logged = answers.read_step(self.directory, plan, classes, self.labels, since)
        return logged, {reading.name: reading for reading in logged.readings}


@pytest.fixture
def writer(tmp_path):
    return Writer(tmp_path)


def test_accuracy_is_of_labeled_answers_that_were_given(writer):
    random = np.random.default_rng(0)
    for number in range(600):
        version = "12"[number % 2]
        truth = int(random.integers(3))
        is_right = random.random() < {"1": 0.9, "2": 0.5}[version]
        name = writer.put(version, [truth if is_right else (truth + 1) % 3])
        writer.put("21"[number % 2], [truth], shadow_of=name)
        if number < 500:
            writer.label(name, [truth])
    writer.put("3", [0])
    writer.put("2", [0], model="other")
    writer.close()
    logged, readings = writer.read()
    accuracy = readings["accuracy"]
    assert (logged.requests, logged.labels, accuracy.units) == (300, 250, 250)
    assert accuracy.old == pytest.approx(0.9, abs=0.06)
    assert accuracy.new == pytest.approx(0.5, abs=0.1)
    assert accuracy.excess == pytest.approx(accuracy.old - accuracy.new - 0.02)
    assert accuracy.p < 1e-6


def test_images_of_one_request_are_one_unit(writer):
    for number in range(300):
        right = number % 4 < 2
        name = writer.put("12"[number % 2], [0 if right else 1] * 8)
        writer.label(name, [0] * 8)
    writer.close()
    logged, readings = writer.read()
    assert (logged.requests, logged.labels) == (150, 1200)
    assert readings["accuracy"].units == 150


@pytest.mark.parametrize("new_share", [0.5, 0.9])
def test_labels_of_mostly_one_version_are_seen(writer, new_share):
    random = np.random.default_rng(3)
    for number in range(600):
        version = "12"[number % 2]
        name = writer.put(version, [0, 1])
        writer.put("21"[number % 2], [1, 1], shadow_of=name)
        if random.random() < {"1": 0.5, "2": new_share}[version]:
            writer.label(name, [0, 0])
    writer.close()
    logged, _ = writer.read()
    assert logged.labeled == pytest.approx((0.5, new_share), abs=0.07) and not logged.doubts
    assert (logged.labeled_p < 1e-3) == (new_share == 0.9)


def test_labels_that_come_late_raise_no_false_doubt():
    """A/A rollouts looked at 40 times, while requests arrive and their labels follow in waves."""
    random = np.random.default_rng(4)
    looks = np.arange(1, 41)
    shape = (3000, 2)
    labeled = np.zeros((*shape, len(looks)))
    waiting = np.zeros(shape, int)
    total = np.zeros(shape, int)
    for place, look in enumerate(looks):
        waiting = waiting + (100 if look <= 20 else 0)  # then only labels arrive
        new = random.binomial(waiting, 0.05 if look % 4 else 0.3)
        waiting = waiting - new
        total = total + new
        labeled[..., place] = total
    requests = np.broadcast_to(100 * np.minimum(looks, 20), labeled[:, 0].shape)
    old, new = (of_counts(labeled[:, side], requests) for side in (0, 1))
    difference = two_proportions(old, new)
    p = always_valid_p(difference, SCALE)
    assert (difference.p < 0.05).any(1).mean() > 0.15
    assert (p < 0.05).any(1).mean() <= 0.05 and (p < 0.001).any(1).sum() <= 9  # 3 may be expected


def test_without_labels_accuracy_is_not_measured(writer):
    for version in "12" * 100:
        writer.put(version, [0])
    writer.close()
    _, readings = writer.read()
    assert readings["accuracy"].units == 0 and readings["accuracy"].p == 1
    (writer.labels / "a.csv").write_text("id,label\nsomeone-elses,cat\n")
    assert writer.read()[1]["accuracy"].units == 0  # those of our requests may come later


def test_shadows_are_compared_image_by_image(writer):
    random = np.random.default_rng(1)
    for _ in range(400):
        truth = int(random.integers(3))
        name = writer.put("1", [truth])
        writer.put("2", [truth if random.random() < 0.6 else (truth + 1) % 3], shadow_of=name)
    writer.close()
    reading = writer.read()[1]["disagreement"]
    assert "of images differ (limit 0.2), of 400 images" in describe(WATCHED, reading)
    assert reading.units == 400 and reading.new == pytest.approx(0.4, abs=0.08)
    assert reading.excess == pytest.approx(reading.new - 0.2) and reading.p < 1e-4


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_without_shadows_classes_are_compared(writer, shift):
    random = np.random.default_rng(2)
    shares = {"1": [0.6, 0.3, 0.1], "2": [0.6 - shift, 0.3 + shift, 0.1]}
    for version in "12" * 300:
        writer.put(version, [int(random.choice(3, p=shares[version]))])
    writer.close()
    reading = writer.read()[1]["disagreement"]
    assert reading.units == 300
    assert (reading.excess > 0, reading.p < 0.001) == (shift > 0.2, shift > 0.2)
    if shift:
        assert reading.note in ("'cat'", "'dog'")
        assert "of the answers are of one class" in describe(WATCHED, reading)


def test_only_rows_of_the_step_count(writer):
    writer.put("2", [0])
    writer.close()
    assert writer.read(since=time.time() - 60)[0].requests == 1
    assert writer.read(since=time.time() + 60)[0].requests == 0


def test_a_label_of_no_class_is_an_error(writer):
    name = writer.put("2", [0])
    writer.close()
    (writer.labels / "a.csv").write_text(f"id,label\n{name},cta\n")
    with pytest.raises(UserError, match="cta"):
        writer.read()


def test_a_log_of_another_model_is_refused(writer):
    answers.check_log(writer.directory, "pets")  # which has no file yet
    writer.put("2", [0], model="cars")
    writer.close()
    with pytest.raises(UserError, match="no row of model pets: its rows are of cars"):
        answers.check_log(writer.directory, "pets")
    answers.check_log(writer.directory, "cars")
    with pytest.raises(UserError, match="there is no directory --log"):
        answers.check_log(writer.directory / "else", "pets")
