"""Synthetic embeddings."""

import numpy as np

from vision.training.smote import extend, oversample

RNG = np.random.RandomState(0)
LABELS = np.repeat([0, 1, 2, 3], [30, 9, 2, 1])
POINTS = (RNG.randn(len(LABELS), 5) + 4 * LABELS[:, None]).astype(np.float32)


def test_every_class_becomes_as_large_as_the_largest():
    points, labels = oversample(POINTS, LABELS, 0)
    assert np.bincount(np.concatenate([LABELS, labels])).tolist() == [30] * 4
    assert points.dtype == np.float32 and points.shape == (len(labels), 5) and 0 not in labels
    again, _ = oversample(POINTS, LABELS, 0)
    np.testing.assert_array_equal(points, again)


def test_a_synthetic_point_lies_between_two_of_its_class():
    points, labels = oversample(POINTS, LABELS, 0)
    for point, label in zip(points, labels, strict=True):
        own = POINTS[label == LABELS].astype(np.float64)
        if len(own) == 1:
            np.testing.assert_array_equal(point, own[0])
            continue
        # the sum of distances to two ends is least on the line between them
        a = own[:, None]
        b = own[None]
        detour = (
            np.linalg.norm(point - a, axis=-1)
            + np.linalg.norm(point - b, axis=-1)
            - np.linalg.norm(a - b, axis=-1)
        )
        np.fill_diagonal(detour, np.inf)
        assert detour.min() < 1e-4


def test_a_small_class_does_not_take_the_neighbors_of_others():
    """Between its nearest ones alone, 21 points of the class of 9 would have few directions."""
    points, labels = oversample(POINTS, LABELS, 0)
    own = POINTS[LABELS == 1]
    made = points[labels == 1]
    ends = np.linalg.norm(made[:, None, None] - own[:, None], axis=-1) + np.linalg.norm(
        made[:, None, None] - own, axis=-1
    )
    ends -= np.linalg.norm(own[:, None] - own, axis=-1)
    ends[:, np.arange(9), np.arange(9)] = np.inf
    used = {tuple(sorted(np.unravel_index(e.argmin(), e.shape))) for e in ends}
    nearest = np.linalg.norm(own[:, None] - own, axis=-1) + np.where(np.eye(9), np.inf, 0)
    assert len(used - {tuple(sorted((i, int(j)))) for i, j in enumerate(nearest.argmin(1))}) > 5


def test_a_split_with_synthetic_rows():
    """An unreadable image has no embedding and no part in it."""

    class Source:
        labels = LABELS.astype(np.int32)
        classes = tuple("abcd")
        encoded = False
        findings = ()

        def __len__(self):
            return len(LABELS)

        def name(self, index):
            return f"image[{index}]"

    class Dataset:
        source = Source()
        sampler = None

    given = [None if i == 4 else point for i, point in enumerate(POINTS)]
    rows, embeddings = extend(Dataset(), given, 0)
    # as large as what can be read
    assert np.bincount(rows.source.labels).tolist() == [30, 29, 29, 29]
    assert len(embeddings) == len(rows.source) and embeddings[4] is None
    assert rows.source.name(3) == "image[3]" and rows.source.name(len(LABELS)) == "synthetic[0]"
    indices = np.concatenate([rows.sampler.indices(step, 9) for step in range(13)])
    assert set(indices) == set(range(len(rows.source)))
