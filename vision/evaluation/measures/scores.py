"""How good a classifier is: every number of a report, from logits and labels, through scikit-learn.

A number that is not defined, such as the ROC-AUC where all images are of one class, is None.
"""

import warnings

import numpy as np

from vision.inference import softmax

TOP = 5  # of top5_accuracy


def score(logits, labels, ranks=None):
    """Returns the numbers that judge a classifier as a whole.

    Args:
        logits: float (N, C), N >= 1.
        labels: int (N,), in [0, C).
        ranks: what `ranked` has returned for them, where that is known already.

    Returns:
        {name: float or None}. accuracy and top5_accuracy (of equal logits the class of lower index
        comes first); balanced_accuracy, the mean recall of the classes that occur; macro_ and
        weighted_precision, _recall and _f1 over the classes that occur or are predicted, 0 where
        there is nothing to divide by; roc_auc and average_precision, one class against the rest,
        the mean over the classes where they are defined; cohen_kappa; matthews_corrcoef; nll, mean
        cross-entropy in nats; brier, the mean over images of the sum of squares over classes, in
        [0, 2] (Brier 1950, eq. 2).
    """
    from sklearn import metrics

    predicted = np.argmax(logits, axis=-1)
    auc, precision = ranked(softmax(logits), labels) if ranks is None else ranks
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that do not occur
        found = {
            "accuracy": metrics.accuracy_score(labels, predicted),
            "top5_accuracy": top5(logits, labels).mean(),
            "balanced_accuracy": metrics.balanced_accuracy_score(labels, predicted),
        }
        for average in ("macro", "weighted"):
            values = metrics.precision_recall_fscore_support(
                labels, predicted, average=average, zero_division=0
            )
            found |= {
                f"{average}_{name}": v
                for name, v in zip(("precision", "recall", "f1"), values, strict=False)
            }
        found |= {
            "roc_auc": _mean(auc),
            "average_precision": _mean(precision),
            "cohen_kappa": metrics.cohen_kappa_score(labels, predicted),
            "matthews_corrcoef": metrics.matthews_corrcoef(labels, predicted),
        }
    nll, brier = losses(logits, labels)
    found |= {"nll": nll.mean(), "brier": brier.mean()}
    return {name: plain(value) for name, value in found.items()}


def per_class(logits, labels, classes, ranks=None):
    """Returns [{"class", "support", "predicted", "precision", "recall", "f1", "roc_auc",
    "average_precision"}].

    support and predicted are images. precision, recall and f1 are 0 where there is nothing to
    divide by; roc_auc is None for a class without positives or without negatives, average_precision
    for one without positives.

    Args:
        logits, labels, ranks: see `score`.
        classes: C names.
    """
    from sklearn import metrics

    predicted = np.argmax(logits, axis=-1)
    every = np.arange(len(classes))
    auc, average = ranked(softmax(logits), labels) if ranks is None else ranks
    columns = metrics.precision_recall_fscore_support(
        labels, predicted, labels=every, zero_division=0
    )
    count = np.bincount(predicted, minlength=len(classes))
    return [
        {"class": name, "support": int(support), "predicted": int(count[i])}
        | {"precision": float(p), "recall": float(r), "f1": float(f)}
        | {"roc_auc": plain(auc[i]), "average_precision": plain(average[i])}
        for i, (name, p, r, f, support) in enumerate(zip(classes, *columns, strict=True))
    ]


def confusion(logits, labels):
    """Returns int64 (C, C), images of each true class by predicted class, of logits (N, C) and
    labels (N,)."""
    from sklearn import metrics

    return metrics.confusion_matrix(
        labels, np.argmax(logits, axis=-1), labels=np.arange(np.shape(logits)[1])
    )


def ranked(probabilities, labels):
    """Returns (ROC-AUC, average precision) of each class against the rest, float64 (C,); NaN where
    not defined.

    Args:
        probabilities: float64 (N, C).
        labels: int (N,).
    """
    from sklearn import metrics

    classes = probabilities.shape[1]
    counts = np.bincount(labels, minlength=classes)
    auc = np.full(classes, np.nan)
    average = np.full(classes, np.nan)
    for i in np.flatnonzero(counts):
        own = labels == i
        column = np.ascontiguousarray(probabilities[:, i])
        average[i] = metrics.average_precision_score(own, column)
        if counts[i] < len(labels):
            auc[i] = metrics.roc_auc_score(own, column)
    return auc, average


def top5(logits, labels):
    """Returns bool (N,): the label is among the five highest logits, of equal ones those of lower
    index."""
    logits = np.asarray(logits)
    labels = np.asarray(labels)[:, None]
    own = np.take_along_axis(logits, labels, axis=1)
    before = (logits > own).sum(1) + ((logits == own) & (np.arange(logits.shape[1]) < labels)).sum(
        1
    )
    return before < TOP


def losses(logits, labels):
    """Returns (cross-entropy in nats, Brier score) of each image, float64 (N,).

    The cross-entropy is that of the logits: unlike `sklearn.metrics.log_loss` it clips no small
    probability.
    """
    from scipy.special import log_softmax

    log_p = log_softmax(np.asarray(logits, np.float64), axis=1)
    own = np.take_along_axis(log_p, np.asarray(labels)[:, None], axis=1)[:, 0]
    squares = (np.exp(log_p) ** 2).sum(1)
    return -own, squares - 2 * np.exp(own) + 1


def rates(probability, is_positive, threshold):
    """Returns how a detector errs that calls positive what has at least a threshold's probability.

    Args:
        probability: float (N,), of the positive class.
        is_positive: bool (N,), the truth.
        threshold: in [0, 1].

    Returns:
        {"threshold", "false_alarm_rate": share of the negatives called positive, "miss_rate": share
        of the positives not called so, "precision": share of the calls that are right, "positives",
        "negatives", "misses", "false_alarms": images}; a rate is None where there is nothing to
        divide by.
    """
    return {"threshold": float(threshold)} | _errors(
        np.asarray(probability) >= threshold, is_positive
    )


def operating_point(probability, is_positive, wanted_recall, is_called=None):
    """Returns how a detector errs as it is, and at the highest threshold that meets a wanted
    recall.

    Args:
        probability, is_positive: see `rates`.
        wanted_recall: share of the positives to be found, in (0, 1].
        is_called: bool (N,), the positive class has the highest logit; None = its probability is
            above 1/2, which is the same for two classes, and for more leaves out calls with less.

    Returns:
        {"at_argmax": as `rates` without a threshold, "threshold": float, "at_threshold": `rates`};
        the latter two are None where there are no positives.
    """
    probability = np.asarray(probability, np.float64)
    is_positive = np.asarray(is_positive, bool)
    called = probability > 0.5 if is_called is None else is_called
    found = {"at_argmax": _errors(called, is_positive), "threshold": None, "at_threshold": None}
    positives = np.sort(probability[is_positive])[::-1]
    if not len(positives):
        return found
    # Recalls are compared, not counts: 0.7 * 10 is not quite 7.
    needed = int(np.argmax(np.arange(1, len(positives) + 1) / len(positives) >= wanted_recall))
    at = rates(probability, is_positive, positives[needed])
    return found | {"threshold": at["threshold"], "at_threshold": at}


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


def plain(value):
    """Returns a number as JSON has it: a float, or None for NaN."""
    return None if value is None or np.isnan(value) else float(value)


def _mean(values):
    held = values[~np.isnan(values)]
    return held.mean() if len(held) else np.nan
