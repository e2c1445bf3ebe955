"""How good a classifier is: every number of a report, from logits and labels, by scikit-learn.

A number that is not defined, such as the ROC-AUC if all images are of one class, is None.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from vision.inference import softmax

TOP = 5  # of top5_accuracy

Ranks = tuple[np.ndarray, np.ndarray]


def score(logits: np.ndarray, labels: np.ndarray, ranks: Ranks | None = None) -> dict[str, Any]:
    """Returns the numbers that describe a classifier over all classes.

    Args:
        logits: float (N, C), N >= 1.
        labels: int (N,), in [0, C).
        ranks: the result of `ranked` for them, if it is known already.

    Returns:
        {name: float or None}. accuracy and top5_accuracy (among equal logits the class of lower
        index comes first); balanced_accuracy, the mean recall of the classes that occur; macro_ and
        weighted_precision, _recall and _f1 over the classes that occur or are predicted, 0 if the
        divisor is 0; roc_auc and average_precision, one class against the rest, the mean over the
        classes for which they are defined; cohen_kappa; matthews_corrcoef; nll, mean cross-entropy
        in nats; brier, the mean over images of the sum of squares over classes, in [0, 2] (Brier
        1950, eq. 2).
    """
    from sklearn import metrics

    predicted = np.argmax(logits, axis=-1)
    auc, precision = ranked(softmax(logits), labels) if ranks is None else ranks
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about classes that do not occur
        numbers = {
            "accuracy": metrics.accuracy_score(labels, predicted),
            "top5_accuracy": top5(logits, labels).mean(),
            "balanced_accuracy": metrics.balanced_accuracy_score(labels, predicted),
        }
        for average in ("macro", "weighted"):
            averages = metrics.precision_recall_fscore_support(
                labels, predicted, average=average, zero_division=0
            )
            for name, value in zip(("precision", "recall", "f1"), averages, strict=False):
                numbers[f"{average}_{name}"] = value
        numbers |= {
            "roc_auc": _mean(auc),
            "average_precision": _mean(precision),
            "cohen_kappa": metrics.cohen_kappa_score(labels, predicted),
            "matthews_corrcoef": metrics.matthews_corrcoef(labels, predicted),
        }
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
        [{"class", "support", "predicted", "precision", "recall", "f1", "roc_auc",
        "average_precision"}]. support and predicted are numbers of images. precision, recall and f1
        are 0 if the divisor is 0; roc_auc is None for a class without positives or without
        negatives, average_precision for one without positives.
    """
    from sklearn import metrics

    predicted = np.argmax(logits, axis=-1)
    auc, average = ranked(softmax(logits), labels) if ranks is None else ranks
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        labels, predicted, labels=np.arange(len(classes)), zero_division=0
    )
    counts = np.bincount(predicted, minlength=len(classes))
    return [
        {
            "class": name,
            "support": int(support[i]),
            "predicted": int(counts[i]),
            "precision": float(precision[i]),
            "recall": float(recall[i]),
            "f1": float(f1[i]),
            "roc_auc": _plain(auc[i]),
            "average_precision": _plain(average[i]),
        }
        for i, name in enumerate(classes)
    ]


def confusion(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the number of images by true class (rows) and predicted class, int64 (C, C).

    Args:
        logits: float (N, C).
        labels: int (N,).
    """
    from sklearn import metrics

    classes = np.arange(np.shape(logits)[1])
    return metrics.confusion_matrix(labels, np.argmax(logits, axis=-1), labels=classes)


def ranked(probabilities: np.ndarray, labels: np.ndarray) -> Ranks:
    """Returns (ROC-AUC, average precision) of each class against the rest.

    Args:
        probabilities: float64 (N, C).
        labels: int (N,).

    Returns:
        Two arrays float64 (C,), NaN where not defined.
    """
    from sklearn import metrics

    classes = probabilities.shape[1]
    counts = np.bincount(labels, minlength=classes)
    auc = np.full(classes, np.nan)
    precision = np.full(classes, np.nan)
    for i in np.flatnonzero(counts):
        is_positive = labels == i
        column = np.ascontiguousarray(probabilities[:, i])
        precision[i] = metrics.average_precision_score(is_positive, column)
        if counts[i] < len(labels):
            auc[i] = metrics.roc_auc_score(is_positive, column)
    return auc, precision


def top5(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns bool (N,): whether the label is among the five highest logits.

    Among equal logits the class of lower index comes first.
    """
    logits = np.asarray(logits)
    labels = np.asarray(labels)[:, None]
    true_logits = np.take_along_axis(logits, labels, axis=1)
    ties_before = (logits == true_logits) & (np.arange(logits.shape[1]) < labels)
    return (logits > true_logits).sum(1) + ties_before.sum(1) < TOP


def losses(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (cross-entropy in nats, Brier score) of each image, float64 (N,) each.

    The cross-entropy is computed from the logits: unlike `sklearn.metrics.log_loss` it does not
    clip small probabilities.
    """
    from scipy.special import log_softmax

    log_p = log_softmax(np.asarray(logits, np.float64), axis=1)
    true_log_p = np.take_along_axis(log_p, np.asarray(labels)[:, None], axis=1)[:, 0]
    squares = (np.exp(log_p) ** 2).sum(1)
    return -true_log_p, squares - 2 * np.exp(true_log_p) + 1


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
