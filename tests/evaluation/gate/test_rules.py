"""Rules on made-up answers: few images prove nothing, and the class that decides is the worst."""

import json
import pathlib

import numpy as np
import pytest

from vision.evaluation.compare.comparison import Run, compare
from vision.evaluation.gate import judge, rules

CLASSES = ("cat", "dog")


def run(title, labels, correct, confidence=0.9):
    """Returns a run of two classes that is right as given."""
    labels = np.asarray(labels)
    correct = np.asarray(correct, bool)
    header = {"classes": list(CLASSES), "source": "x", "split": "", "model": "m"}
    predicted = np.where(correct, labels, 1 - labels)
    columns = {
        "row": np.arange(len(labels)),
        "label": np.array(CLASSES, object)[labels],
        "label_index": labels,
        "predicted_index": predicted,
        "correct": correct,
        "confidence": np.full(len(labels), confidence),
        "nll": np.where(correct, 0.1, 2.0),
    }
    return Run(title, pathlib.Path(), header, {}, columns)


def measured(kind, old, new, decide, class_images=1):
    runs = [old, new]
    pair = compare(runs)["comparisons"][0]
    rule = rules.Rule(kind, "old", 0.01)
    numbers = rules.measure(rule, runs, pair, class_images, decide)
    return numbers, rules.keeps(rule, numbers, decide)


@pytest.mark.parametrize("kind", ["max-loss", "max-class-loss", "max-calibration-loss"])
def test_few_images_do_not_pass_for_sure(kind):
    few = [run(title, [0, 1, 1], [1, 1, 1]) for title in "ab"]
    assert measured(kind, *few, "estimate")[1] and not measured(kind, *few, "interval")[1]
    many = [run(title, [0, 1] * 1000, [1] * 2000) for title in "ab"]
    assert measured(kind, *many, "interval")[1]


def test_the_class_with_the_worst_interval_decides():
    labels = [0] * 1000 + [1] * 10
    old = run("a", labels, [1] * 1010)
    new = run("b", labels, [0] * 5 + [1] * 1005)  # 0.5 % of the cats are lost, and no dog
    by_estimate, kept = measured("max-class-loss", old, new, "estimate")
    assert by_estimate["class"] == "cat" and by_estimate["value"] == 0.005 and kept
    by_interval, kept = measured("max-class-loss", old, new, "interval")
    assert by_interval["class"] == "dog" and by_interval["high"] > 0.2 and not kept


def test_classes_that_nobody_could_judge_pass_by_the_estimate_only():
    runs = [run(title, [0, 1], [1, 1]) for title in "ab"]
    numbers, kept = measured("max-class-loss", *runs, "estimate", class_images=20)
    assert numbers["value"] is None and kept
    assert not measured("max-class-loss", *runs, "interval", class_images=20)[1]


def test_no_change_has_no_sign():
    runs = [run(title, [0, 1] * 50, [1, 1] * 50) for title in "ab"]
    for kind in rules.TITLES:
        numbers, _ = measured(kind, *runs, "estimate")
        assert not json.dumps(numbers["value"]).startswith("-"), kind
        assert "-0.0 points" not in judge._value(numbers), kind
    assert judge._value({"value": -0.0001, "low": -0.02, "high": 0.02}).startswith("+0.0 points")
