"""Batches of images with what a model takes beside them."""

import numpy as np
import pytest

from vision.data import inputs
from vision.errors import UserError

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (5, 4, 4, 3), np.uint8)
FIELDS = {
    "text": RANDOM.integers(0, 9, (5, 6)).astype(np.int32),
    "numbers": RANDOM.normal(size=(5, 2)).astype(np.float32),
}


def test_a_batch_is_cut_and_joined_like_images():
    batch = inputs.pack(IMAGES, FIELDS)
    parts = np.concatenate([batch[3:], batch[:3]])
    arrays = inputs.unpack(parts)
    order = [3, 4, 0, 1, 2]
    np.testing.assert_array_equal(arrays["image"], IMAGES[order])
    for name, values in FIELDS.items():
        np.testing.assert_array_equal(arrays[name], values[order])
        assert arrays[name].dtype == values.dtype and arrays[name].flags.c_contiguous
    np.testing.assert_array_equal(inputs.image_of(batch), IMAGES)


def test_images_alone_stay_as_they_are():
    assert inputs.pack(IMAGES, {}) is IMAGES
    assert inputs.unpack(IMAGES) is IMAGES and inputs.image_of(IMAGES) is IMAGES
    inputs.check(IMAGES, ())


def test_only_the_images_change():
    changed = inputs.with_image({"image": IMAGES} | FIELDS, lambda x: x + 1)
    np.testing.assert_array_equal(changed["image"], IMAGES + 1)
    assert changed["text"] is FIELDS["text"]
    np.testing.assert_array_equal(inputs.with_image(IMAGES, lambda x: x + 1), IMAGES + 1)


def test_a_model_of_more_than_images_refuses_images_alone():
    with pytest.raises(UserError, match="takes text, numbers in addition to .* only images"):
        inputs.check(IMAGES, ("text", "numbers"))
    with pytest.raises(UserError, match="this stage provides only numbers"):
        inputs.check(inputs.pack(IMAGES, {"numbers": FIELDS["numbers"]}), ("text", "numbers"))
