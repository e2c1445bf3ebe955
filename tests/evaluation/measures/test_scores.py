"""Metrics equal scikit-learn's, also where classes are absent, alone or tied."""

import json

import numpy as np
import pytest
from sklearn import metrics

from vision.evaluation.measures import scores
from vision.inference import softmax


def made(images, classes, seed=0, present=None, ties=False):
    """Logits that are mostly right, and labels; `present` = the classes that occur."""
    random = np.random.default_rng(seed)
    labels = random.choice(classes if present is None else present, images)
    logits = random.normal(size=(images, classes)) + 1.5 * np.eye(classes)[labels]
    return (np.round(logits) if ties else logits).astype(np.float32), labels


CASES = {
    "random": made(300, 5),
    "two classes": made(200, 2),
    "ties": made(300, 6, ties=True),
    "an absent class": made(300, 7, present=[0, 2, 3, 6]),
    "one class": made(50, 4, present=[2]),
    "one image": made(1, 3),
    "all alike": (np.zeros((20, 3), np.float32), np.arange(20) % 3),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:y_pred contains classes")
def test_scores_are_scikit_learns(case, recwarn):
    logits, labels = CASES[case]
    numbers = scores.score(logits, labels)
    p = softmax(logits)
    predicted = logits.argmax(1)
    assert not recwarn.list
    count = logits.shape[1]
    present = np.unique(labels)
    one_hot = np.eye(count)[labels]
    macro = {"average": "macro", "labels": present, "zero_division": 0}
    expected = {
        "accuracy": metrics.accuracy_score(labels, predicted),
        "balanced_accuracy": metrics.balanced_accuracy_score(labels, predicted),
        "macro_precision": metrics.precision_score(labels, predicted, **macro),
        "macro_recall": metrics.recall_score(labels, predicted, **macro),
        "macro_f1": metrics.f1_score(labels, predicted, **macro),
        "weighted_precision": metrics.precision_score(
            labels, predicted, average="weighted", zero_division=0
        ),
        "weighted_recall": metrics.recall_score(
            labels, predicted, average="weighted", zero_division=0
        ),
        "weighted_f1": metrics.f1_score(labels, predicted, average="weighted", zero_division=0),
        "average_precision": metrics.average_precision_score(
            one_hot[:, present], p[:, present], average="macro"
        ),
        "matthews_corrcoef": metrics.matthews_corrcoef(labels, predicted),
        "nll": metrics.log_loss(labels, p, labels=np.arange(count)),
        "brier": ((p - one_hot) ** 2).sum(1).mean(),
    }
    for name, value in expected.items():
        assert numbers[name] == pytest.approx(value, abs=1e-9), name
    if len(present) > 1:
        auc = metrics.roc_auc_score(one_hot[:, present], p[:, present], average="macro")
        kappa = metrics.cohen_kappa_score(labels, predicted)
        assert (numbers["roc_auc"], numbers["cohen_kappa"]) == pytest.approx((auc, kappa), abs=1e-9)
    else:
        assert numbers["roc_auc"] is None
    assert ("top5_accuracy" in numbers) == (count > 5)
    json.dumps(numbers, allow_nan=False)


def test_top5_breaks_ties_by_index():
    logits = np.zeros((8, 8), np.float32)
    assert scores.top5(logits, np.arange(8)).tolist() == [True] * 5 + [False] * 3
    logits, labels = made(400, 9, ties=True)
    best = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    assert (scores.top5(logits, labels) == (best == labels[:, None]).any(1)).all()


@pytest.mark.parametrize("case", CASES)
def test_each_class_and_the_confusion_matrix(case):
    logits, labels = CASES[case]
    names = [f"c{i}" for i in range(logits.shape[1])]
    rows = scores.per_class(logits, labels, names)
    cells = scores.confusion_cells(labels, logits.argmax(1))
    matrix = np.zeros((len(names), len(names)), int)
    matrix[cells[:, 0], cells[:, 1]] = cells[:, 2]
    assert (
        matrix == metrics.confusion_matrix(labels, logits.argmax(1), labels=range(len(names)))
    ).all()
    p = softmax(logits)
    assert matrix.shape == (len(names),) * 2 and matrix.sum() == len(labels)
    for i, row in enumerate(rows):
        own = labels == i
        called = logits.argmax(1) == i
        assert (row["class"], row["support"], row["predicted"]) == (
            names[i],
            own.sum(),
            called.sum(),
        )
        assert (row["support"], row["predicted"]) == (matrix[i].sum(), matrix[:, i].sum())
        for name in ("precision", "recall", "f1"):
            if name != "precision" and not own.any():
                assert row[name] is None
                continue
            value = getattr(metrics, f"{name}_score")(own, called, zero_division=0)
            assert row[name] == pytest.approx(value, abs=1e-9)
        if 0 < own.sum() < len(own):
            assert row["roc_auc"] == pytest.approx(metrics.roc_auc_score(own, p[:, i]), abs=1e-9)
        else:
            assert row["roc_auc"] is None
        assert (row["average_precision"] is None) == (not own.any())
    json.dumps(rows, allow_nan=False)


@pytest.mark.parametrize("wanted", [0.5, 0.7, 0.95, 1.0])
def test_the_threshold_is_the_highest_that_meets_the_recall(wanted):
    random = np.random.default_rng(1)
    positive = random.random(400) < 0.3
    p = np.round(np.clip(random.normal(0.3 + 0.4 * positive, 0.2), 0, 1), 2)  # with ties
    point = scores.operating_point(p, positive, wanted)
    assert 1 - point["at_threshold"]["miss_rate"] >= wanted
    higher = min(v for v in np.unique(p) if v > point["threshold"])
    assert 1 - scores.rates(p, positive, higher)["miss_rate"] < wanted
    called = p >= point["threshold"]
    at = point["at_threshold"]
    assert at["miss_rate"] == pytest.approx(1 - metrics.recall_score(positive, called))
    assert at["false_alarm_rate"] == pytest.approx(1 - metrics.recall_score(~positive, ~called))
    assert at["precision"] == pytest.approx(metrics.precision_score(positive, called))
    assert point["at_argmax"]["misses"] == (positive & (p <= 0.5)).sum()
    assert (at["positives"], at["negatives"]) == (positive.sum(), (~positive).sum())


def test_operating_points_without_positives_or_negatives():
    point = scores.operating_point([0.2, 0.9], [False, False], 0.9)
    assert point["threshold"] is None and point["at_argmax"]["miss_rate"] is None
    assert point["at_argmax"]["false_alarm_rate"] == 0.5 and point["at_argmax"]["precision"] == 0
    point = scores.operating_point([0.2, 0.9], [True, True], 0.9)
    assert point["threshold"] == 0.2 and point["at_threshold"]["false_alarm_rate"] is None
    called = scores.operating_point([0.4, 0.3], [True, False], 1.0, is_called=[True, False])[
        "at_argmax"
    ]
    assert (called["misses"], called["false_alarms"]) == (0, 0)
