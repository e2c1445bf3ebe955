"""Pairs of classes that the embeddings cannot tell apart: similar, or one class with two names."""

import dataclasses

import numpy as np
from ml_collections import ConfigDict

from vision.audit.images import Images

EXAMPLES = 8  # images shown of a pair


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two classes that are taken for each other.

    Attributes:
        first, second: names of the classes.
        share: fraction of the images of both classes that is taken for the other.
        count: number of those images.
        rows: rows of some of them, the most confident prediction first.
    """

    first: str
    second: str
    share: float
    count: int
    rows: tuple[int, ...]


def find_confusable_pairs(probabilities: np.ndarray, images: Images, c: ConfigDict) -> list[Pair]:
    """Finds pairs of classes of which config.audit.confusable or more is taken for the other.

    Args:
        probabilities: result of `vision.audit.wrong_labels.predict`, (N, C).
        images: the images.
        c: config.audit.

    Returns:
        Pairs, the largest share first.
    """
    rows = np.flatnonzero(np.isfinite(probabilities[:, 0]))
    if not len(rows):
        return []
    labels = images.labels[rows]
    predicted = probabilities.argmax(1)[rows]
    counts = np.bincount(labels, minlength=len(images.classes))
    # by pair, the smaller class first: a table of all pairs would be large for many classes
    confused = np.sort(np.stack([labels, predicted], 1), 1)[labels != predicted]
    pairs = []
    for (a, b), number in zip(*np.unique(confused, axis=0, return_counts=True), strict=True):
        share = number / (counts[a] + counts[b])
        if share < c.confusable:
            continue
        mistaken = np.flatnonzero(
            ((labels == a) & (predicted == b)) | ((labels == b) & (predicted == a))
        )
        confidence = probabilities[rows[mistaken], predicted[mistaken]]
        examples = mistaken[np.argsort(-confidence, kind="stable")][:EXAMPLES]
        pair = Pair(
            first=images.classes[a],
            second=images.classes[b],
            share=float(share),
            count=int(number),
            rows=tuple(map(int, rows[examples])),
        )
        pairs.append(pair)
    return sorted(pairs, key=lambda pair: -pair.share)
