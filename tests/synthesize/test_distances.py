"""The distances against scipy and plain loops."""

import tracemalloc
import types

import numpy as np
import pytest
import scipy.linalg

from vision.data.decode import UnreadableImage
from vision.errors import UserError
from vision.synthesize.distances import (
    frechet,
    kernel_distance,
    nearest,
    precision_and_recall,
    radii,
)
from vision.synthesize.quality import Embedded, embed, judge

RNG = np.random.RandomState(0)
REAL = RNG.randn(40, 6)
MADE = 0.7 * RNG.randn(30, 6) + 0.5


def test_frechet_with_the_root_of_a_matrix():
    means = REAL.mean(0) - MADE.mean(0)
    first, second = np.cov(REAL.T), np.cov(MADE.T)
    root = scipy.linalg.sqrtm(first @ second).real
    expected = means @ means + np.trace(first + second - 2 * root)
    assert frechet(REAL, MADE) == pytest.approx(expected, rel=1e-9)
    assert frechet(MADE, REAL) == pytest.approx(expected, rel=1e-9)


def test_frechet_of_a_shift_and_a_scale():
    assert frechet(REAL, REAL) == pytest.approx(0, abs=1e-9)
    assert frechet(REAL, REAL + 2) == pytest.approx(6 * 4)
    expected = np.trace(np.cov(REAL.T)) + np.square(REAL.mean(0)).sum()  # (2 - 1)^2 each
    assert frechet(REAL, 2 * REAL) == pytest.approx(expected)


@pytest.mark.parametrize("count", [2, 5], ids=["2 images", "5 images"])
def test_frechet_of_fewer_images_than_numbers(count):
    first, second = np.cov(REAL[:count].T), np.cov(MADE.T)
    root = scipy.linalg.sqrtm(first @ second + 1e-12 * np.eye(6)).real
    means = REAL[:count].mean(0) - MADE.mean(0)
    expected = means @ means + np.trace(first + second - 2 * root)
    assert frechet(REAL[:count], MADE) == pytest.approx(expected, rel=1e-4)


def test_kernel_distance_with_loops():
    def kernel(x, y):
        return (x @ y / len(x) + 1) ** 3

    def within(rows):
        pairs = [(a, b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
        return np.mean([kernel(a, b) for a, b in pairs])

    between = np.mean([kernel(a, b) for a in REAL for b in MADE])
    expected = within(REAL) + within(MADE) - 2 * between
    assert kernel_distance(REAL, MADE) == pytest.approx(expected, rel=1e-9)


def test_kernel_distance_is_unbiased():
    """Of two halves of one distribution it is 0 on average, however few images there are."""
    random = np.random.RandomState(1)
    values = [kernel_distance(random.randn(5, 3), random.randn(7, 3)) for _ in range(3000)]
    assert abs(np.mean(values)) < 4 * np.std(values) / len(values) ** 0.5
    assert min(values) < 0


@pytest.mark.parametrize("neighbors", [1, 3])
def test_precision_and_recall_with_loops(neighbors):
    def covered(queries, references):
        radius = [
            sorted(np.linalg.norm(r - o) for j, o in enumerate(references) if j != i)[neighbors - 1]
            for i, r in enumerate(references)
        ]
        return np.mean(
            [
                any(np.linalg.norm(q - r) <= d for r, d in zip(references, radius, strict=True))
                for q in queries
            ]
        )

    precision, recall = precision_and_recall(REAL, MADE, neighbors)
    assert precision == covered(MADE, REAL) and recall == covered(REAL, MADE)
    assert 0 < recall < precision


def test_radii_of_equal_images():
    """A copy is a neighbor at distance 0: only the image itself is left out."""
    np.testing.assert_allclose(radii(np.array([[0.0], [0.0], [3.0]]), 1), [0, 0, 9])


def test_nearest(monkeypatch):
    monkeypatch.setattr("vision.synthesize.distances.ROWS", 7)  # several blocks
    found, distances = nearest(MADE, REAL)
    every = np.linalg.norm(MADE[:, None] - REAL[None], axis=2)
    np.testing.assert_array_equal(found, every.argmin(1))
    np.testing.assert_allclose(distances, every.min(1))


def test_nearest_other(monkeypatch):
    monkeypatch.setattr("vision.synthesize.distances.CELLS", 5 * len(REAL))  # several blocks
    places, distances = nearest(REAL, REAL, np.arange(len(REAL)))
    every = np.linalg.norm(REAL[:, None] - REAL[None], axis=2) + np.diag(np.full(len(REAL), np.inf))
    np.testing.assert_array_equal(places, every.argmin(1))
    np.testing.assert_allclose(distances, every.min(1))
    np.testing.assert_array_equal(nearest(REAL, REAL)[1], 0)
    assert nearest(REAL[:1], REAL[:1], np.zeros(1, int))[1] == np.inf


@pytest.mark.parametrize(
    "measure",
    [lambda x: nearest(x[:40], x), lambda x: radii(x, 3), lambda x: precision_and_recall(x, x)],
    ids=["nearest", "radii", "precision and recall"],
)
def test_memory_does_not_grow_with_the_width_of_an_embedding(measure, monkeypatch):
    """Three matrices of `CELLS` and a few rows, 0.6 MB, where the embeddings have 4 MB."""
    x = RNG.randn(1000, 500)
    monkeypatch.setattr("vision.synthesize.distances.CELLS", 20 * len(x))
    tracemalloc.start()
    try:
        measure(x)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * 8 * 20 * len(x) < x.nbytes / 6


def embedded(labels, shift=0.0):
    labels = np.asarray(labels)
    return Embedded(
        np.random.RandomState(2).randn(len(labels), 4) + labels[:, None] + shift,
        labels,
        np.arange(len(labels)),
    )


def test_classes_are_compared_in_equal_shares():
    """A long tail that is filled up is as near as its images are, not as its shares are."""
    real = {"train": embedded(60 * [0] + 8 * [1]), "val": embedded(20 * [0] + 6 * [1])}
    made = embedded(5 * [0] + 52 * [1], 0.1)
    quality = judge(real, made, ("cat", "dog"))
    assert quality["overall"]["real"] == quality["overall"]["compared"] == 5 + 8
    assert quality["classes"]["dog"]["real"] == 8 and quality["classes"]["dog"]["compared"] == 52
    assert quality["validation"]["compared"] == 26
    unequal = kernel_distance(real["train"].embeddings, made.embeddings)
    assert quality["overall"]["kernel"] < unequal / 2


def test_too_few_images_have_no_distance():
    quality = judge(
        {"train": embedded(9 * [0] + 9 * [1]), "val": embedded(4 * [0])},
        embedded(3 * [0] + 20 * [1]),
        ("cat", "dog"),
    )
    assert quality["classes"]["cat"]["frechet"] is None
    assert quality["classes"]["dog"]["frechet"] > 0


def test_without_validation_images_nothing_says_how_good_a_number_can_get():
    quality = judge({"train": embedded(9 * [0])}, embedded(8 * [0], 0.1), ("cat", "dog"))
    assert quality["validation"] is None and quality["overall"]["frechet"] > 0


def test_copies_are_precise_and_varied():
    train = embedded(50 * [0])
    copies = train._replace(embeddings=train.embeddings + 1e-3)
    quality = judge({"train": train, "val": embedded(40 * [0], 0.5)}, copies, ("cat", "dog"))
    assert quality["overall"]["precision"] == quality["overall"]["recall"] == 1


def test_no_image_can_be_read():
    class Broken:
        def __len__(self):
            return 2

        def image(self, row):
            raise UnreadableImage("broken")

    classifier = types.SimpleNamespace(prepare=np.asarray)
    with pytest.raises(UserError, match="none of the 2 images of 'validation' can be read"):
        embed(classifier, Broken(), np.zeros(2, np.int64), "validation")
