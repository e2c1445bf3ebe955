"""Which images a person should look at: the worst errors, confused classes, the hardest and the
easiest of each."""

import numpy as np


def worst_errors(own, correct, count):
    """Returns the wrongly classified images whose own class the model thinks least likely, worst
    first: int64 (K,).

    Args:
        own: float (N,), the probability of each image's true class.
        correct: bool (N,).
        count: K at most.
    """
    wrong = np.flatnonzero(~correct)
    return wrong[np.argsort(own[wrong], kind="stable")][:count]


def confused_pairs(confusion, count):
    """Returns [(true, predicted)] of the cells off the diagonal with the most images, at most
    `count`.

    Of cells with equally many, the one whose class has fewer images comes first.

    Args:
        confusion: int (C, C), true class by predicted class.
    """
    wrong = np.array(confusion)
    np.fill_diagonal(wrong, 0)
    true, predicted = np.nonzero(wrong)
    support = np.asarray(confusion).sum(1)
    order = np.lexsort((support[true], -wrong[true, predicted]))[:count]
    return [(int(true[i]), int(predicted[i])) for i in order]


def of_pair(labels, predicted, confidence, pair, count):
    """Returns the images of a confused pair, the surest mistakes first: int64 (K,), K <= count."""
    found = np.flatnonzero((labels == pair[0]) & (predicted == pair[1]))
    return found[np.argsort(-confidence[found], kind="stable")][:count]


def of_class(own, labels, label, count):
    """Returns (hardest, easiest) of a class, each int64 (K,), K <= count; no image is in both.

    Args:
        own: float (N,), the probability of each image's true class.
        labels: int (N,).
        label: the class.
        count: images of either kind.
    """
    order = np.flatnonzero(labels == label)
    order = order[np.argsort(own[order], kind="stable")]
    count = min(count, (len(order) + 1) // 2)
    return order[:count], order[::-1][: min(count, len(order) - count)]
