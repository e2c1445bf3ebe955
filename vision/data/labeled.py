"""The training images that keep their labels: what `config.data.labels` asks for."""

import re
from collections.abc import Sequence

import numpy as np

from vision.errors import UserError

PER_CLASS = re.compile(r"(<=)?(\d+)/class")
SHARE = re.compile(r"(\d+(?:\.\d+)?)%")
NUMBER = re.compile(r"\d+")


def draw_labeled(
    spec: str,
    labels: np.ndarray,
    classes: Sequence[str],
    seed: int,
    key: str = "data.labels",
) -> np.ndarray:
    """Draws the labeled images, stratified: every class that occurs is among them.

    Args:
        spec: "25/class", of each class; "4000", of all; or "1%", of all. In the last two, each
            class has its share of the images, but at least one. "<=25/class" takes all of a class
            that has fewer.
        labels: int (N,), in [0, C).
        classes: the C class names.
        seed: seed of the draw. A larger draw with the same seed has the images of a smaller one,
            class by class.
        key: the key of the config that has the spec.

    Returns:
        int64, sorted positions in `labels`.

    Raises:
        UserError: the spec has another form, or asks for more images than there are, or for fewer
            than there are classes.
    """
    counts = count_labeled(spec, labels, classes, key)
    order = np.random.RandomState(seed % 2**32).permutation(len(labels))
    drawn = [order[labels[order] == label][:count] for label, count in enumerate(counts)]
    return np.sort(np.concatenate(drawn))


def count_labeled(spec: str, labels: np.ndarray, classes: Sequence[str], key: str) -> np.ndarray:
    """Returns the number of images to draw from each class, int (C,); see `draw_labeled`."""
    available = np.bincount(labels, minlength=len(classes))
    total = int(available.sum())
    if match := PER_CLASS.fullmatch(spec):
        count = int(match[2])
        if match[1]:
            return np.minimum(count, available)
        return _of_each_class(f"{key} = '{spec}'", count, available, classes)
    if match := SHARE.fullmatch(spec):
        count = round(total * float(match[1]) / 100)
    elif NUMBER.fullmatch(spec):
        count = int(spec)
    else:
        raise UserError(
            f"{key} = '{spec}' must be a number per class, such as 25/class, a total, such "
            "as 4000, or a share, such as 1%"
        )
    present = np.count_nonzero(available)
    if not present <= count <= total:
        raise UserError(
            f"{key} = '{spec}' asks for {count:,} of {total:,} training images of "
            f"{present:,} classes: ask for at least one per class, and at most all"
        )
    return _stratified(count, available)


def _of_each_class(
    setting: str, count: int, available: np.ndarray, classes: Sequence[str]
) -> np.ndarray:
    if count == 0:
        raise UserError(f"{setting} must be at least 1/class")
    present = available > 0
    smallest = int(np.argmin(np.where(present, available, available.max() + 1)))
    if available[smallest] < count:
        raise UserError(
            f"{setting}, but the class '{classes[smallest]}' has only "
            f"{available[smallest]:,} training images: ask for at most {available[smallest]}/class,"
            " or for a total or a share"
        )
    return np.where(present, count, 0)


def _stratified(count: int, available: np.ndarray) -> np.ndarray:
    """Divides a number among the classes by their sizes; every class that occurs gets one first.

    By the highest averages of Webster and Sainte-Lague: a larger number gives no class fewer.
    """
    counts = np.minimum(available, 1)
    more = [np.arange(1, size) for size in available]  # what each class may still get
    averages = [size / (2 * given + 1) for size, given in zip(available, more, strict=True)]
    labels = np.repeat(np.arange(len(available)), [len(given) for given in more])
    # Stable, so that the first of equal classes comes first, whatever the sort's algorithm.
    order = np.argsort(-np.concatenate(averages), kind="stable")
    chosen = labels[order[: count - counts.sum()]]
    return counts + np.bincount(chosen, minlength=len(available))
