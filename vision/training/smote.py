"""Synthetic embeddings for rare classes: SMOTE, Chawla et al. 2002 (arXiv:1106.1813)."""

import copy
from collections.abc import Sequence

import numpy as np

from vision.data.loading.dataset import Dataset
from vision.data.loading.sampler import Sampler
from vision.data.sources import Source
from vision.support.extras import require

NEIGHBORS = 5


class _WithSynthetic:
    """A source with further labels, for embeddings that no image stands behind."""

    def __init__(self, source: Source, labels: np.ndarray):
        self.source = source
        self.labels = labels
        self.classes = source.classes
        self.encoded = source.encoded
        self.findings = source.findings

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        return self.source[index]

    def file(self, index: int) -> bytes | None:
        return self.source.file(index) if index < len(self.source) else None

    def name(self, index: int) -> str:
        if index < len(self.source):
            return self.source.name(index)
        return f"synthetic[{index - len(self.source)}]"


def oversample(
    embeddings: np.ndarray, labels: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Makes every class as large as the largest, by points between an embedding and a neighbor.

    Uses 5 neighbors of the same class (all, if there are fewer). The only embedding of a class is
    repeated.

    Args:
        embeddings: float (N, D).
        labels: int (N,).
        seed: seed of the draw.

    Returns:
        (embeddings (M, D), labels (M,)) of the synthetic points only.

    Raises:
        UserError: imbalanced-learn is not installed.
    """
    require("imbalance.sampling = 'smote'", "audit", only=("imbalanced-learn",))
    from imblearn.over_sampling import SMOTE, RandomOverSampler

    counts = dict(zip(*np.unique(labels, return_counts=True), strict=True))
    neighbors = {label: min(NEIGHBORS, count - 1) for label, count in counts.items()}
    largest = max(counts.values())
    synthetic = []
    synthetic_labels = []
    for k in sorted(set(neighbors.values())):
        options = {
            "sampling_strategy": {label: largest for label in counts if neighbors[label] == k},
            "random_state": seed % 2**32,
        }
        sampler = SMOTE(k_neighbors=k, **options) if k else RandomOverSampler(**options)
        points, classes = sampler.fit_resample(embeddings, labels)
        synthetic.append(points[len(embeddings) :].astype(embeddings.dtype))
        synthetic_labels.append(classes[len(embeddings) :])
    return np.concatenate(synthetic), np.concatenate(synthetic_labels)


def extend(
    dataset: Dataset, embeddings: Sequence[np.ndarray | None], seed: int
) -> tuple[Dataset, list[np.ndarray | None]]:
    """Adds synthetic embeddings to a training split.

    Args:
        dataset: the split's dataset.
        embeddings: float (D,) for each image, None for an unreadable one.
        seed: seed of the draw.

    Returns:
        (dataset, embeddings) with the synthetic ones after the others.
    """
    readable = [i for i, embedding in enumerate(embeddings) if embedding is not None]
    real = np.stack([embedding for embedding in embeddings if embedding is not None])
    synthetic, labels = oversample(real, dataset.source.labels[readable], seed)
    all_labels = np.concatenate([dataset.source.labels, labels.astype(np.int32)])
    extended = copy.copy(dataset)
    extended.source = _WithSynthetic(dataset.source, all_labels)
    extended.sampler = Sampler(seed, all_labels)
    return extended, [*embeddings, *synthetic]
