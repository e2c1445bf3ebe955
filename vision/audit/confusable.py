"""Pairs of classes that the embeddings cannot tell apart: alike by nature, or one class under two
names."""

import dataclasses

import numpy as np

EXAMPLES = 8  # images of a pair


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two classes that are taken for each other.

    Attributes:
        first, second: their names.
        share: of the images of both that are taken for the other.
        count: how many they are.
        rows: some of them, the surest first.
    """

    first: str
    second: str
    share: float
    count: int
    rows: tuple


def find(probabilities, images, c):
    """Finds pairs of which at least a share of config.audit.confusable is taken for the other.

    Args:
        probabilities: what `vision.audit.wrong_labels.predict` returns.
        images: `vision.audit.images.Images`.
        c: config.audit.

    Returns:
        List of `Pair`, the largest share first.
    """
    rows = np.flatnonzero(np.isfinite(probabilities[:, 0]))
    if not len(rows):
        return []
    labels = images.labels[rows]
    found = probabilities[rows].argmax(1)
    size = len(images.classes)
    confused = np.bincount(labels * size + found, minlength=size**2).reshape(size, size)
    counts = confused.sum(1)
    both = confused + confused.T
    share = both / np.maximum(1, counts[:, None] + counts)
    pairs = []
    for a, b in np.argwhere(np.triu((share >= c.confusable) & (both > 0), 1)):
        of_pair = np.flatnonzero(((labels == a) & (found == b)) | ((labels == b) & (found == a)))
        surest = of_pair[np.argsort(-probabilities[rows[of_pair], found[of_pair]], kind="stable")][
            :EXAMPLES
        ]
        names = images.classes[a], images.classes[b]
        pairs.append(
            Pair(*names, float(share[a, b]), int(both[a, b]), tuple(map(int, rows[surest])))
        )
    return sorted(pairs, key=lambda pair: -pair.share)
