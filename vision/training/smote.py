"""Synthetic embeddings for rare classes: SMOTE, Chawla et al. 2002 (arXiv:1106.1813)."""

import copy

import numpy as np

from vision.data.order import Order
from vision.errors import UserError

NEIGHBORS = 5


class _WithSynthetic:
    """A source with further rows that no image stands behind."""

    def __init__(self, source, labels):
        self.source, self.labels, self.classes, self.encoded = source, labels, source.classes, source.encoded

    def __len__(self):
        return len(self.labels)

    def name(self, index):
        return self.source.name(index) if index < len(self.source) else f"synthetic[{index - len(self.source)}]"


def oversample(embeddings, labels, seed):
    """Makes every class as large as the largest, by points between an embedding and one of its neighbors.

    A class of one embedding has no neighbors: it is repeated.

    Args:
        embeddings: float (N, D).
        labels: int (N,).
        seed: of the draw.

    Returns:
        (embeddings (M, D), labels (M,)) of the synthetic ones alone.

    Raises:
        UserError: imbalanced-learn is not installed.
    """
    try:
        from imblearn.over_sampling import SMOTE, RandomOverSampler
    except ImportError as error:
        raise UserError("imbalance.sampling = 'smote' needs imbalanced-learn: pip install 'vision[audit]'") from error
    counts = dict(zip(*np.unique(labels, return_counts=True), strict=True))
    most, several = max(counts.values()), [n for n in counts.values() if n > 1]
    points, of = embeddings, labels
    if several:
        neighbors = min(NEIGHBORS, min(several) - 1)
        wanted = {label: most for label, n in counts.items() if n > 1}
        points, of = SMOTE(sampling_strategy=wanted, k_neighbors=neighbors, random_state=seed % 2**32).fit_resample(
            points, of
        )
    if len(several) < len(counts):
        points, of = RandomOverSampler(random_state=seed % 2**32).fit_resample(points, of)
    return points[len(embeddings) :].astype(embeddings.dtype), of[len(embeddings) :]


def extend(rows, embeddings, seed):
    """Adds synthetic embeddings to a training split.

    Args:
        rows: the split's `Rows`.
        embeddings: list of float (D,), None for an unreadable image.
        seed: of the draw.

    Returns:
        (rows, embeddings) with the synthetic ones behind the others.
    """
    readable = [i for i, embedding in enumerate(embeddings) if embedding is not None]
    known = np.stack([embeddings[i] for i in readable])
    made, labels = oversample(known, rows.source.labels[readable], seed)
    rows = copy.copy(rows)
    rows.source = _WithSynthetic(rows.source, np.concatenate([rows.source.labels, labels.astype(np.int32)]))
    rows.order = Order(seed, rows.source.labels)
    return rows, [*embeddings, *made]
