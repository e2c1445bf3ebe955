"""Which images a person should see: worst errors, confused classes, hardest and easiest."""

from collections.abc import Sequence

import numpy as np


def worst_errors(true_probability: np.ndarray, correct: np.ndarray, count: int) -> np.ndarray:
    """Returns the misclassified images whose true class has the lowest probability, worst first.

    Args:
        true_probability: float (N,), the probability of each image's true class.
        correct: bool (N,).
        count: number of images, at most.

    Returns:
        int64 (K,), K <= count.
    """
    wrong = np.flatnonzero(~correct)
    return wrong[np.argsort(true_probability[wrong], kind="stable")][:count]


def confused_pairs(cells: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """Returns [(true, predicted, images)] of the cells off the diagonal with the most images.

    Among cells with equally many, the one whose class has fewer images comes first.

    Args:
        cells: int (K, 3), from `vision.evaluation.measures.scores.confusion_cells`.
        count: number of pairs, at most.
    """
    true, predicted, images = cells.T
    support = np.bincount(true, images)
    wrong = np.flatnonzero(true != predicted)
    order = wrong[np.lexsort((support[true[wrong]], -images[wrong]))][:count]
    return [tuple(row) for row in cells[order].tolist()]


def of_pair(
    labels: np.ndarray,
    predicted: np.ndarray,
    confidence: np.ndarray,
    pair: tuple[int, int],
    count: int,
) -> np.ndarray:
    """Returns the images of a confused pair, the most confident mistakes first.

    Args:
        labels: int (N,).
        predicted: int (N,).
        confidence: float (N,), the probability of the predicted class.
        pair: (true, predicted).
        count: number of images, at most.

    Returns:
        int64 (K,), K <= count.
    """
    mistakes = np.flatnonzero((labels == pair[0]) & (predicted == pair[1]))
    return mistakes[np.argsort(-confidence[mistakes], kind="stable")][:count]


def of_class(
    true_probability: np.ndarray,
    labels: np.ndarray,
    label: int,
    count: int,
    shown: Sequence[int] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (hardest, easiest) images of a class, each int64 (K,), K <= count; none is in both.

    Args:
        true_probability: float (N,), the probability of each image's true class.
        labels: int (N,).
        label: the class.
        count: number of images of either kind, at most.
        shown: images that are left out, because the report shows them elsewhere.
    """
    order = np.setdiff1d(np.flatnonzero(labels == label), np.asarray(shown, np.int64))
    order = order[np.argsort(true_probability[order], kind="stable")]
    count = min(count, (len(order) + 1) // 2)
    return order[:count], order[::-1][: min(count, len(order) - count)]
