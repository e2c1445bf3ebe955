"""Synthetic embeddings for rare classes: SMOTE, Chawla et al. 2002 (arXiv:1106.1813)."""

import copy

import numpy as np

from vision.data.loading.sampler import Sampler
from vision.errors import UserError

NEIGHBORS = 5


class _WithSynthetic:
    """A source with further rows that no image stands behind."""

    def __init__(self, source, labels):
        self.source = source
        self.labels = labels
        self.classes = source.classes
        self.encoded = source.encoded

    def __len__(self):
        return len(self.labels)

    def name(self, index):
        return (
            self.source.name(index)
            if index < len(self.source)
            else f"synthetic[{index - len(self.source)}]"
        )


def oversample(embeddings, labels, seed):
    """Makes every class as large as the largest, by points between an embedding and one of its
    neighbors.

    Of each embedding 5 neighbors, in its own class, or all where that has fewer. A class of one is
    repeated.

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
        raise UserError(
            "imbalance.sampling = 'smote' needs imbalanced-learn: pip install 'vision[audit]'"
        ) from error
    counts = dict(zip(*np.unique(labels, return_counts=True), strict=True))
    neighbors = {label: min(NEIGHBORS, n - 1) for label, n in counts.items()}
    made = []
    of = []
    for k in sorted(set(neighbors.values())):
        wanted = {label: max(counts.values()) for label in counts if neighbors[label] == k}
        options = {"sampling_strategy": wanted, "random_state": seed % 2**32}
        sampler = SMOTE(k_neighbors=k, **options) if k else RandomOverSampler(**options)
        points, classes = sampler.fit_resample(embeddings, labels)
        made.append(points[len(embeddings) :].astype(embeddings.dtype))
        of.append(classes[len(embeddings) :])
    return np.concatenate(made), np.concatenate(of)


def extend(rows, embeddings, seed):
    """Adds synthetic embeddings to a training split.

    Args:
        rows: the split's `Dataset`.
        embeddings: list of float (D,), None for an unreadable image.
        seed: of the draw.

    Returns:
        (rows, embeddings) with the synthetic ones behind the others.
    """
    readable = [i for i, embedding in enumerate(embeddings) if embedding is not None]
    known = np.stack([embeddings[i] for i in readable])
    made, labels = oversample(known, rows.source.labels[readable], seed)
    rows = copy.copy(rows)
    rows.source = _WithSynthetic(
        rows.source, np.concatenate([rows.source.labels, labels.astype(np.int32)])
    )
    rows.sampler = Sampler(seed, rows.source.labels)
    return rows, [*embeddings, *made]
