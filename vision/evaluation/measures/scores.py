"""How good a classifier is: every number of a report, from logits and labels.

A number that is not defined, such as the ROC-AUC if all images are of one class, is None.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vision.evaluation.measures.blocks import by_rows, columns
from vision.evaluation.measures.margins import from_margins, margins
from vision.metrics import TOP

RANKABLE = 2_000_000_000  # images x classes up to which ROC-AUC and average precision are measured

Ranks = tuple[np.ndarray, np.ndarray]


def score(logits: np.ndarray, labels: np.ndarray, ranks: Ranks | None = None) -> dict[str, Any]:
    """Returns the numbers that describe a classifier over all classes.

    Args:
        logits: float (N, C), N >= 1.
        labels: int (N,), in [0, C).
        ranks: the result of `ranked` for them, if it is known already.

    Returns:
        {name: float or None}. accuracy and, of more than five classes, top5_accuracy (among equal
        logits the class of lower index comes first); balanced_accuracy, the mean recall of the
        classes that occur; macro_ and weighted_precision, _recall and _f1 over the classes that
        occur, 0 if the divisor is 0; roc_auc and average_precision, one class against the rest, the
        mean over the classes for which they are defined; cohen_kappa; matthews_corrcoef; nll, mean
        cross-entropy in nats; brier, the mean over images of the sum of squares over classes, in
        [0, 2] (Brier 1950, eq. 2).
    """
    auc, precision = ranked(logits, labels) if ranks is None else ranks
    counts, _ = from_margins(*_margins(logits, labels))
    counted = {name: values[0] for name, values in counts.items()}
    numbers = {"accuracy": counted.pop("accuracy")}
    if np.shape(logits)[1] > TOP:
        numbers["top5_accuracy"] = top5(logits, labels).mean()
    kappa = {name: counted.pop(name) for name in ("cohen_kappa", "matthews_corrcoef")}
    numbers |= counted
    numbers |= {"roc_auc": _mean(auc), "average_precision": _mean(precision)} | kappa
    nll, brier = losses(logits, labels)
    numbers |= {"nll": nll.mean(), "brier": brier.mean()}
    return {name: _plain(value) for name, value in numbers.items()}


def per_class(
    logits: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    ranks: Ranks | None = None,
) -> list[dict[str, Any]]:
    """Returns the numbers of each class.

    Args:
        logits: see `score`.
        labels: see `score`.
        classes: C names.
        ranks: see `score`.

    Returns:
        [{"class", "support", "predicted", "true_positives", "precision", "recall", "f1", "roc_auc",
        "average_precision"}]. support, predicted and true_positives are numbers of images. recall
        and f1 are None for a class without images; precision and f1 are 0 if the divisor is 0;
        roc_auc is None for a class without positives or without negatives, average_precision for
        one without positives.
    """
    auc, average = ranked(logits, labels) if ranks is None else ranks
    hits, support, predicted = _margins(logits, labels)
    _, numbers = from_margins(hits, support, predicted)
    numbers["precision"] = np.where(predicted > 0, hits / np.maximum(predicted, 1), 0)
    return [
        {
            "class": name,
            "support": int(support[i, 0]),
            "predicted": int(predicted[i, 0]),
            "true_positives": int(hits[i, 0]),
            "precision": float(numbers["precision"][i, 0]),
            "recall": _plain(numbers["recall"][i, 0]),
            "f1": _plain(numbers["f1"][i, 0]),
            "roc_auc": _plain(auc[i]),
            "average_precision": _plain(average[i]),
        }
        for i, name in enumerate(classes)
    ]


def _margins(logits, labels):
    """Returns the margins of the confusion matrix, float64 (C, 1) each."""
    predicted = np.argmax(logits, axis=-1)
    weights = np.ones((len(labels), 1))
    return margins(np.asarray(labels), predicted, np.shape(logits)[1], weights)


def confusion_cells(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Returns the cells of a confusion matrix that are not 0, by row and column.

    Args:
        labels: int (N,).
        predicted: int (N,).

    Returns:
        int64 (K, 3): true class, predicted class, images.
    """
    pairs, images = np.unique(np.stack([labels, predicted], 1), axis=0, return_counts=True)
    return np.column_stack([pairs, images]).astype(np.int64)


def ranked(logits: np.ndarray, labels: np.ndarray) -> Ranks:
    """Returns (ROC-AUC, average precision) of each class against the rest, by its probability.

    As `roc_auc_score` and `average_precision_score` of scikit-learn, which take too long for
    thousands of classes.

    Args:
        logits: float (N, C).
        labels: int (N,).

    Returns:
        Two arrays float64 (C,), NaN where not defined, or not measured: for more than `RANKABLE`
        numbers.
    """
    labels = np.asarray(labels)
    images, classes = np.shape(logits)
    auc = np.full(classes, np.nan)
    precision = np.full(classes, np.nan)
    if images * classes > RANKABLE:
        return auc, precision
    for i, column in columns(logits, np.unique(labels)):
        positives = np.sort(column[labels == i])
        ordered = np.sort(column)
        below = np.searchsorted(ordered, positives, "left")
        equal = np.searchsorted(ordered, positives, "right") - below
        own_below = np.searchsorted(positives, positives, "left")
        own_equal = np.searchsorted(positives, positives, "right") - own_below
        precision[i] = np.mean((len(positives) - own_below) / (images - below))
        if len(positives) < images:
            lower = below - own_below + (equal - own_equal) / 2
            auc[i] = lower.sum() / (len(positives) * (images - len(positives)))
    return auc, precision


def top5(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns bool (N,): whether the label is among the five highest logits.

    Among equal logits the class of lower index comes first.
    """

    def block(logits, labels):
        labels = labels[:, None]
        true_logits = np.take_along_axis(logits, labels, axis=1)
        ties_before = (logits == true_logits) & (np.arange(logits.shape[1]) < labels)
        return (logits > true_logits).sum(1) + ties_before.sum(1) < TOP

    return by_rows(block, logits, labels)


def losses(
    logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (cross-entropy in nats, Brier score) of each image, float64 (N,) each.

    They are those of softmax(logits / temperature). The cross-entropy is computed from the logits:
    unlike `sklearn.metrics.log_loss` it does not clip small probabilities.
    """
    from scipy.special import log_softmax

    def block(logits, labels):
        log_p = log_softmax(np.asarray(logits, np.float64) / temperature, axis=1)
        true_log_p = np.take_along_axis(log_p, labels[:, None], axis=1)[:, 0]
        squares = (np.exp(log_p) ** 2).sum(1)
        return -true_log_p, squares - 2 * np.exp(true_log_p) + 1

    return by_rows(block, logits, labels)


def rates(probability: np.ndarray, is_positive: np.ndarray, threshold: float) -> dict[str, Any]:
    """Returns the errors of a detector that calls an image positive from a threshold on.

    Args:
        probability: float (N,), of the positive class.
        is_positive: bool (N,), the truth.
        threshold: lowest probability that is called positive, in [0, 1].

    Returns:
        A dict of
            threshold: as given.
            false_alarm_rate: share of the negatives that are called positive.
            miss_rate: share of the positives that are not called positive.
            precision: share of the calls that are right.
            positives, negatives, misses, false_alarms: numbers of images.
        A rate is None if its divisor is 0.
    """
    called = np.asarray(probability) >= threshold
    return {"threshold": float(threshold)} | _errors(called, is_positive)


def operating_point(
    probability: np.ndarray,
    is_positive: np.ndarray,
    wanted_recall: float,
    is_called: np.ndarray | None = None,
) -> dict[str, Any]:
    """Returns the errors of a detector as it is, and at the highest threshold with a wanted recall.

    Args:
        probability: see `rates`.
        is_positive: see `rates`.
        wanted_recall: share of the positives to be detected, in (0, 1].
        is_called: bool (N,), whether the positive class has the highest logit; None for a
            probability above 1/2, which is the same for two classes, and for more leaves out calls
            with less.

    Returns:
        {"at_argmax": as `rates` without a threshold, "threshold": float, "at_threshold": `rates`};
        the latter two are None if there are no positives.
    """
    probability = np.asarray(probability, np.float64)
    is_positive = np.asarray(is_positive, bool)
    called = probability > 0.5 if is_called is None else is_called
    point = {"at_argmax": _errors(called, is_positive), "threshold": None, "at_threshold": None}
    positives = np.sort(probability[is_positive])[::-1]
    if not len(positives):
        return point
    # Compare recalls, not counts: 0.7 * 10 is not exactly 7.
    recalls = np.arange(1, len(positives) + 1) / len(positives)
    needed = int(np.argmax(recalls >= wanted_recall))
    at_threshold = rates(probability, is_positive, positives[needed])
    return point | {"threshold": at_threshold["threshold"], "at_threshold": at_threshold}


def _errors(called, is_positive):
    called = np.asarray(called, bool)
    truth = np.asarray(is_positive, bool)
    positives = int(truth.sum())
    hits = int((called & truth).sum())
    false_alarms = int((called & ~truth).sum())
    negatives = len(truth) - positives
    misses = positives - hits
    return {
        "false_alarm_rate": false_alarms / negatives if negatives else None,
        "miss_rate": misses / positives if positives else None,
        "precision": hits / (hits + false_alarms) if hits + false_alarms else None,
        "positives": positives,
        "negatives": negatives,
        "misses": misses,
        "false_alarms": false_alarms,
    }


def _plain(value):
    """Returns a number as JSON has it: a float, or None for NaN."""
    return None if value is None or np.isnan(value) else float(value)


def _mean(values):
    """Returns the mean of the numbers that are defined; NaN if none is."""
    defined = values[~np.isnan(values)]
    return defined.mean() if len(defined) else np.nan
