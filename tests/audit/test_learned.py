"""What embeddings show of real digits: outliers, wrong labels, confusable classes."""

import numpy as np
import pytest

from vision.audit import confusable, outliers, wrong_labels
from vision.audit.embed import PARTS, describe, embed
from vision.audit.images import Images
from vision.config import default
from vision.data.changes import flip
from vision.data.sources import open_splits
from vision.data.sources.arrays import ArraySource
from vision.data.splits import make_splits

RNG = np.random.RandomState(0)


def open_images(source):
    opened = {"all": source}
    return Images(make_splits(opened), opened, "digits")


@pytest.fixture(scope="module")
def digits():
    """scikit-learn's digits with 5 % of the labels flipped, and six images of noise among them."""
    source = open_splits("digits")["all"]
    labels = flip(source.labels, 10, 0.05, [0])
    pixels = source.images.copy()
    noise = np.arange(100, 700, 100)
    pixels[noise] = RNG.randint(0, 256, pixels[noise].shape)
    labels[noise] = source.labels[noise]
    return open_images(ArraySource(pixels, labels, source.classes, "digits")), source.labels, noise


@pytest.fixture(scope="module")
def vectors(digits):
    images = digits[0]
    readable = np.ones(len(images), bool)
    readable[[3, 50]] = False
    return embed("pixels", images, default(), readable)


@pytest.fixture(scope="module")
def probabilities(digits, vectors):
    return wrong_labels.predict(vectors, digits[0], default())


def position(images, row):
    return int(images.name(row).removeprefix("digits[").removesuffix("]"))


def test_what_is_not_readable_has_no_embedding(vectors, probabilities):
    for rows in (vectors, probabilities):
        assert (
            np.flatnonzero(np.isnan(rows).any(1)).tolist() == [3, 50]
            and np.isnan(rows[[3, 50]]).all()
        )
    finite = np.delete(probabilities, [3, 50], axis=0)
    np.testing.assert_allclose(finite.sum(1), 1, atol=1e-5)
    assert vectors.dtype == probabilities.dtype == np.float32 and vectors.shape[1] <= 128


def test_a_description_does_not_depend_on_size_or_channels():
    image = RNG.randint(0, 256, (64, 64, 1)).astype(np.uint8)
    description = describe(image)
    assert description.dtype == np.uint8 and description.shape == (sum(PARTS),)
    np.testing.assert_array_equal(description, describe(np.repeat(image, 3, -1)))
    larger = describe(np.repeat(np.repeat(image, 2, 0), 2, 1))
    assert np.abs(description.astype(int) - larger).mean() < 2


def test_wrong_labels_are_found(digits, probabilities):
    """By pixels alone; what is planted is known."""
    images, truth, _ = digits
    true = np.array([truth[position(images, row)] for row in range(len(images))])
    planted = set(np.flatnonzero(true != images.labels).tolist())
    issues = wrong_labels.find_wrong_labels(probabilities, images, default().audit)
    reported = {issue.row for issue in issues}
    assert (
        len(reported & planted) / len(reported) > 0.9
        and len(reported & planted) / len(planted) > 0.65
    )
    assert [i.score for i in issues] == sorted((i.score for i in issues), reverse=True)
    relabeled = [i for i in issues if i.row in planted and i.action.startswith("relabel:")]
    right = [i.action == f"relabel:{true[i.row]}" for i in relabeled]
    assert len(relabeled) > 0.7 * len(reported) and np.mean(right) > 0.95
    assert {i.kind for i in issues} == {"wrong_label"} and "looks like" in issues[0].suggestion


def test_noise_among_digits_is_found(digits, vectors):
    images, _, noise = digits
    issues = outliers.find_outliers(vectors, images, default().audit)
    places = [position(images, issue.row) for issue in issues]
    assert set(noise) <= set(places) and len(places) < len(noise) + 15
    assert all(issue.kind == "outlier" and not issue.action and issue.score > 5 for issue in issues)


def test_a_class_of_few_images_is_left_out(digits, vectors):
    """Its labels are not checked, and a finding reports that."""
    images = digits[0]
    config = default()
    config.audit.folds = 500  # more than any class has images
    probabilities = wrong_labels.predict(vectors, images, config)
    assert np.isnan(probabilities).all() and not any(probabilities.strides)  # no memory
    assert wrong_labels.find_wrong_labels(probabilities, images, config.audit) == []
    assert len(wrong_labels.unchecked_classes(vectors, images, config)) == 10
    assert wrong_labels.unchecked_classes(vectors, images, default()) == []


def test_one_class_under_two_names_cannot_be_told_apart():
    """Half of the 3s are called by another name."""
    source = open_splits("digits")["all"]
    labels = np.where((source.labels == 3) & (np.arange(len(source)) % 2 == 0), 10, source.labels)
    images = open_images(ArraySource(source.images, labels, (*source.classes, "three"), "digits"))
    vectors = embed("pixels", images, default(), np.ones(len(images), bool))
    pairs = confusable.find_confusable_pairs(
        wrong_labels.predict(vectors, images, default()), images, default().audit
    )
    assert [(pair.first, pair.second) for pair in pairs] == [("3", "three")]
    assert (
        pairs[0].share > 0.3
        and 0 < len(pairs[0].rows) <= 8
        and pairs[0].count >= len(pairs[0].rows)
    )
    assert {images.class_of(row) for row in pairs[0].rows} <= {"3", "three"}


def test_the_network_of_a_run(digits, tiny_run):
    images = digits[0]
    readable = np.zeros(len(images), bool)
    readable[:70] = True
    vectors = embed(str(tiny_run), images, default(), readable)
    from vision import inference

    classifier = inference.from_run(tiny_run)
    expected = classifier(np.stack([classifier.prepare(images.image(row)) for row in (0, 69)]))[1]
    np.testing.assert_allclose(vectors[[0, 69]], expected, atol=1e-5)
    assert np.isnan(vectors[70:]).all()
