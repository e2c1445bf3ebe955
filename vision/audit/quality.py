"""Problems of single images and of the classes: size, blur, balance, spelling."""

from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vision.audit.images import Images
from vision.audit.issues import Issue
from vision.audit.scan import Scan
from vision.data.labels import alike

KINDS = ("unreadable", "blank", "tiny", "odd_aspect", "blurred", "spelling")
_ENOUGH = 20  # images of a class from which its own median sharpness is used
# Least spread of the logarithm of sharpness: if all images are equally sharp, a little less is not
# blur.
_LEAST_SPREAD = 0.2


def find_quality_issues(images: Images, scan: Scan, c: ConfigDict) -> list[Issue]:
    """Finds unreadable, blank, tiny, oddly shaped and blurred images, and misspelled classes.

    Scores: `blank`, 255 minus the standard deviation of the gray values; `tiny`, pixels by which
    the shorter side is too short; `odd_aspect`, the longer side over the shorter one; `blurred`,
    robust deviations below the median of the logarithm of sharpness of its class (from 3.5 on,
    Iglewicz and Hoaglin 1993 call a value an outlier).

    Args:
        images: the images.
        scan: their scan.
        c: config.audit.

    Returns:
        Issues by kind, the worst of each first. A blank image is not reported as blurred too.
    """
    issues = [
        Issue(int(i), "unreadable", 1.0, str(scan.reason[i]), "drop")
        for i in np.flatnonzero(~scan.readable)
    ]
    blank = scan.readable & (scan.std < c.blank)
    issues += _worst_first(
        blank,
        "blank",
        255 - scan.std,
        lambda i: f"standard deviation of the gray values: {scan.std[i]:.1f}",
        "drop",
    )
    issues += _size_issues(scan, c)
    deviations = blur(images, scan, scan.readable & ~blank)
    issues += _worst_first(
        (deviations >= c.blur) & ~blank,
        "blurred",
        deviations,
        lambda i: f"{deviations[i]:.1f} robust deviations below the sharpness of its class",
    )
    return issues + find_misspelled_classes(images)


def _size_issues(scan, c):
    """Returns the issues of kinds "tiny" and "odd_aspect"."""
    shorter = np.minimum(scan.height, scan.width)
    longer = np.maximum(scan.height, scan.width)
    # If most images are as small, so is the dataset.
    median = np.median(shorter[scan.readable]) if scan.readable.any() else 0
    tiny = scan.readable & (shorter < c.tiny) & (median >= c.tiny)
    aspect = longer / np.maximum(shorter, 1)
    odd = scan.readable & (aspect > c.aspect)

    def size(i):
        return f"{scan.width[i]}x{scan.height[i]} pixels"

    return [
        *_worst_first(tiny, "tiny", c.tiny - shorter, size),
        *_worst_first(odd, "odd_aspect", aspect, size),
    ]


def _worst_first(
    selected: np.ndarray,
    kind: str,
    scores: np.ndarray,
    suggestion: Callable[[int], str],
    action: str = "",
) -> list[Issue]:
    rows = np.flatnonzero(selected)
    return [
        Issue(int(i), kind, float(scores[i]), suggestion(i), action)
        for i in rows[np.argsort(-scores[rows], kind="stable")]
    ]


def blur(images: Images, scan: Scan, judged: np.ndarray) -> np.ndarray:
    """Returns float (N,): robust deviations (median, MAD) of log sharpness below the class median.

    A class with few images is compared with all images. Classes differ: sky and steel are smooth.

    Args:
        images: the images.
        scan: their scan.
        judged: bool (N,), the images that count; the others get 0.
    """
    deviations = np.zeros(len(scan))
    level = np.log(scan.sharpness + 1e-6)
    rows = np.flatnonzero(judged)
    for label in np.unique(images.labels[rows]):
        in_class = rows[images.labels[rows] == label]
        reference = level[in_class if len(in_class) >= _ENOUGH else rows]
        median = np.median(reference)
        spread = max(1.4826 * np.median(np.abs(reference - median)), _LEAST_SPREAD)
        deviations[in_class] = (median - level[in_class]) / spread
    return deviations


def find_misspelled_classes(images: Images) -> list[Issue]:
    """Returns an issue for each image of a class that has a more common spelling.

    The action is to relabel it to that spelling.
    """
    counts = np.bincount(images.labels, minlength=len(images.classes))
    issues = []
    for group in alike(images.classes):
        labels = sorted(
            (images.classes.index(name) for name in group), key=lambda label: -counts[label]
        )
        right = images.classes[labels[0]]
        for label in labels[1:]:
            spelling = images.classes[label]
            suggestion = f"spelled {spelling!r}, but {right!r} {counts[labels[0]]:,} times"
            rows = np.flatnonzero(images.labels == label)
            issues += [Issue(int(i), "spelling", 1.0, suggestion, f"relabel:{right}") for i in rows]
    return issues


def balance(images: Images) -> dict[str, Any]:
    """Counts the images of each class.

    Returns:
        {"counts": {split: {class: images}}, "ratio": images of train's largest class over those of
        its smallest, "absent": [(class, split) without images]}. The ratio ignores classes without
        images in train.
    """
    counts = {}
    for i, split in enumerate(images.names):
        labels = images.labels[images.split == i]
        numbers = np.bincount(labels, minlength=len(images.classes)).tolist()
        counts[split] = dict(zip(images.classes, numbers, strict=True))
    train = [n for n in counts["train"].values() if n]
    absent = [
        (label, split)
        for split, class_counts in counts.items()
        for label, n in class_counts.items()
        if not n
    ]
    return {"counts": counts, "ratio": max(train) / min(train), "absent": absent}
