"""Has a model become worse than it was when its bundle was exported?

Both a window's labeled images and the bundle's validation images are right or wrong. If the model
is as good as it was, each division of all of them into two parts of these sizes is as likely as the
real one; the p-value is the share of divisions whose part has at most as many right as the window:
Fisher's exact test, one-sided (1935), which holds at any size and knows that the bundle's own
quality was measured on some images only.

The accuracy is tested at half of the level and the recalls of the classes at the other half, by
Holm's method (1979), so that a thousand classes do not hide a lower accuracy. The adjusted p-values
below are comparable with the level itself. With enough labels every decline is certain, so an alarm
also needs a size.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from vision.reference.quality import Bins, Quality, bins_of, error_of
from vision.reference.shares import wilson
from vision.reference.verdict import holm

LEAST_CLASS_LABELS = 10  # of a class, in the window and in the reference, for a test of its recall


@dataclasses.dataclass(frozen=True)
class Limits:
    """When a window alarms.

    Attributes:
        alpha: the chance of a false alarm in a window, at most.
        effect: how much lower the accuracy or a recall is, at least.
        labels: a window's labels, at least.
    """

    alpha: float = 0.01
    effect: float = 0.02
    labels: int = 100


def assess(
    quality: Quality,
    classes: Sequence[str],
    answers: tuple[np.ndarray, np.ndarray, np.ndarray],
    limits: Limits,
) -> dict[str, Any]:
    """Returns how good the labeled answers of a window are, and whether that is an alarm.

    Args:
        quality: the bundle's own.
        classes: names of its C classes.
        answers: (predicted, truth, confidence), integers (N,) in [0, C), integers (N,), of which C
            and more are classes that the bundle does not have, and float (N,); N may be 0.
        limits: when the window alarms.

    Returns:
        {"labels": N, "alarm"} and, of any labels, "accuracy", {"value", "low", "high"} with
        Wilson's 95 % interval; "recall", the same and "labels" and "expected" by name of each class
        that has labels; "calibration", {"error", "confidence" (their means), "images", "right" (by
        bin)}. Of enough labels the accuracy and the recalls of classes with enough of them have
        {"expected", "drop", "p", "adjusted", "alarm"}, too.
    """
    predicted, truth, confidence = answers
    labels = len(truth)
    if not labels:
        return {"labels": 0, "alarm": False}
    right = predicted == truth
    images = np.bincount(truth, minlength=len(classes))[: len(classes)]
    hits = np.bincount(truth[right], minlength=len(classes))
    accuracy = _shares([int(hits.sum())], [labels])[0] | {"expected": quality.accuracy}
    recalls = _recalls(quality, hits, images, classes)
    if labels >= limits.labels:
        _test(quality, accuracy, recalls, (hits, images, labels), limits)
    is_alarm = any(share.get("alarm", False) for share in (accuracy, *recalls.values()))
    return {
        "labels": labels,
        "alarm": is_alarm,
        "accuracy": accuracy,
        "recall": {classes[place]: share for place, share in recalls.items()},
        "calibration": {
            "error": error_of(confidence, right),
            "mean_confidence": float(confidence.mean(dtype=np.float64)),
            **_lists(bins_of(confidence, right)),
        },
    }


def p_values(
    right: np.ndarray, images: np.ndarray, right_before: np.ndarray, images_before: np.ndarray
) -> np.ndarray:
    """Returns the p-values of Fisher's one-sided tests that shares have become lower, (...).

    Args:
        right: of a window's images, (...).
        images: of how many, (...).
        right_before: of the reference's, (...).
        images_before: of how many, (...).
    """
    from scipy.stats import hypergeom

    all_right = np.asarray(right) + right_before
    return hypergeom.cdf(right, np.asarray(images) + images_before, all_right, images)


def _shares(hits, totals):
    """Returns [{"value", "low", "high"}] of shares of at least one."""
    lows, highs = wilson(np.array(hits), np.array(totals))
    return [
        {"value": float(hit / total), "low": float(low), "high": float(high)}
        for hit, total, low, high in zip(hits, totals, lows, highs, strict=True)
    ]


def _recalls(quality, hits, images, classes):
    """Returns {place of a class: its share} of those that have labels."""
    places = [place for place in range(len(classes)) if images[place]]
    recalls = dict(zip(places, _shares(hits[places], images[places]), strict=True))
    for place, share in recalls.items():
        before = quality.images[place]
        expected = float(quality.right[place] / before) if before else None
        share |= {"labels": int(images[place]), "expected": expected}
    return recalls


def _test(quality, accuracy, recalls, counts, limits):
    """Adds the tests to the shares that have enough labels."""
    hits, images, labels = counts
    is_tested = np.minimum(images, quality.images) >= LEAST_CLASS_LABELS
    places = np.flatnonzero(is_tested)
    total = p_values(hits.sum(), labels, quality.right.sum(), quality.images.sum())
    by_class = p_values(hits[places], images[places], quality.right[places], quality.images[places])
    _decide(accuracy, float(total), 2 * float(total), limits)
    for place, p, adjusted in zip(places, by_class, 2 * holm(by_class), strict=True):
        _decide(recalls[int(place)], float(p), float(adjusted), limits)


def _decide(share, p, adjusted, limits):
    drop = share["expected"] - share["value"]
    adjusted = min(adjusted, 1.0)
    is_alarm = adjusted <= limits.alpha and drop >= limits.effect and drop > 0
    share |= {"drop": drop, "p": p, "adjusted": adjusted, "alarm": bool(is_alarm)}


def _lists(bins: Bins) -> dict[str, list]:
    return {
        "images": bins.images.tolist(),
        "right": bins.right.tolist(),
        "confidence": bins.confidence.tolist(),
    }
