"""Numbers of images and of classes from their logits, a block at a time.

The logits of 10,000 images of 10,000 classes are 400 MB; no step may hold several copies of them.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from vision.inference import softmax

CELLS = 2_000_000  # numbers of a block


def row_blocks(logits: np.ndarray) -> Iterator[slice]:
    """Yields slices of the rows of float (N, C) logits, of at most `CELLS` numbers or one row."""
    images, classes = np.shape(logits)
    step = max(1, CELLS // max(1, classes))
    for start in range(0, images, step):
        yield slice(start, start + step)


def by_rows(function: Callable[..., Any], logits: np.ndarray, *others: np.ndarray) -> Any:
    """Returns `function(logits, *others)`, computed for a block of rows at a time.

    Args:
        function: returns an array, or a tuple of arrays, whose first axis is that of the images.
        logits: float (N, C), N >= 1.
        others: arrays of N rows.
    """
    parts = [
        function(np.asarray(logits[rows]), *(np.asarray(other)[rows] for other in others))
        for rows in row_blocks(logits)
    ]
    if isinstance(parts[0], tuple):
        return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return np.concatenate(parts)


def confidences(
    logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the probability of each image's likeliest class and of its label, float64 (N,) each.

    Args:
        logits: float (N, C).
        labels: int (N,).
        temperature: divides the logits.
    """

    def block(logits, labels):
        probabilities = softmax(np.asarray(logits, np.float64) / temperature)
        return probabilities.max(1), probabilities[np.arange(len(labels)), labels]

    return by_rows(block, logits, labels)


def columns(logits: np.ndarray, classes: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (class, float64 (N,): its probability in each image) for some classes.

    Args:
        logits: float (N, C).
        classes: which columns.
    """

    def block(logits):
        highest = logits.max(1)
        shifted = np.exp(np.asarray(logits, np.float64) - highest[:, None])
        return highest, shifted.sum(1)

    highest, total = by_rows(block, logits)  # step by step as in softmax: equal ones stay equal
    wanted = np.asarray(list(classes), np.int64)
    step = max(1, CELLS // len(logits))
    for start in range(0, len(wanted), step):
        chosen = wanted[start : start + step]
        shifted = np.exp(np.ascontiguousarray(logits[:, chosen].T, np.float64) - highest)
        yield from zip(chosen.tolist(), shifted / total, strict=True)


def best_classes(logits: np.ndarray, count: int) -> np.ndarray:
    """Returns the `count` classes of the highest logits of each image, int64 (N, count).

    Among equal logits the class of lower index comes first.
    """
    return by_rows(lambda block: np.argsort(-block, axis=1, kind="stable")[:, :count], logits)
