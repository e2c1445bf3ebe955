"""Accuracy under corruption: the right images, the right means."""

import types

import numpy as np
import pytest

from vision.evaluation.corruptions import GROUPS, NAMES, SEVERITIES
from vision.evaluation.measures.robustness import change, robustness, summarize


def outputs(logits, labels):
    return types.SimpleNamespace(logits=logits, labels=labels)


@pytest.fixture(scope="module")
def images():
    """uint8 (4, 8, 8, 1): two dark and two bright ones."""
    level = np.array([40, 60, 180, 200]).reshape(4, 1, 1, 1)
    return (level + np.random.default_rng(0).integers(-9, 10, (4, 8, 8, 1))).astype(np.uint8)


def test_every_corruption_is_measured_on_its_own_images(images):
    """A stand-in for the model: it calls an image bright above a mean of 110."""
    seen = []

    def collect(forward, loader, batch_size, change, embedded, label):
        assert (forward, loader, batch_size, embedded) == ("forward", "loader", 4, 0)
        changed = np.asarray(change(images, np.arange(4)))
        assert changed.dtype == np.uint8 and changed.shape == images.shape
        seen.append(changed)
        mean = changed.mean((1, 2, 3))
        # the source's own labels
        return outputs(np.stack([110 - mean, mean - 110], 1), np.array([7, 7, 8, 8]))

    labels = np.array([0, 0, 1, 1])
    plain = outputs(np.eye(2)[[0, 0, 1, 0]], labels)
    result = robustness("forward", "loader", 4, plain, collect)
    assert len(seen) == 75 and result["images"] == 4 and result["clean_accuracy"] == 0.75
    assert list(result["corruptions"]) == list(NAMES)
    expected = [float(((changed.mean((1, 2, 3)) > 110) == labels).mean()) for changed in seen]
    assert sum(result["corruptions"].values(), []) == expected
    assert (
        sum((changed != images).any() for changed in seen) > 70
    )  # 1 % of 256 values may change none
    assert (
        min(result["corruptions"]["brightness"]) < 1 == result["corruptions"]["gaussian_noise"][0]
    )


def test_draws_are_each_images_own_in_any_batch(images):
    places = np.arange(4)
    first, again, later = (
        np.asarray(change("gaussian_noise", 3)(images, at)) for at in (places, places, places + 4)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != later).any()
    assert (first != np.asarray(change("gaussian_noise", 4)(images, places))).any()
    np.testing.assert_array_equal(change("gaussian_noise", 3)(images[2:], places[2:]), first[2:])


def test_means():
    random = np.random.default_rng(0)
    accuracies = {name: random.uniform(size=len(SEVERITIES)).tolist() for name in NAMES}
    means = summarize(accuracies, 0.9)
    table = np.array(list(accuracies.values()))
    assert means["mean_corruption_accuracy"] == pytest.approx(table.mean())
    assert means["mean_corruption_error"] == pytest.approx((1 - table).mean())
    assert means["relative"] == pytest.approx((1 - table).mean() - 0.1)
    for group, names in GROUPS.items():
        assert means["groups"][group]["names"] == list(names)
        assert means["groups"][group]["mean_accuracy"] == pytest.approx(
            np.mean([accuracies[name] for name in names])
        )
