"""Five and ten crops of test-time augmentation."""

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from vision.data.augment import views

SIDE = 32
CUT = 28
CORNERS = ((0, 0), (0, 4), (4, 0), (4, 4), (2, 2))


@pytest.fixture(scope="module")
def photos(shared_data):
    from vision.data.sources import open_splits

    source = open_splits(f"parquet:{shared_data}/cifar10-test.parquet")["all"]
    return np.stack([source[i]["image"] for i in range(3)])


@pytest.mark.parametrize("name", views.CHOICES)
def test_weights_sum_to_1_and_a_constant_image_stays(name):
    images = np.full((2, 8, 8, 3), 0.3, np.float32)
    weighted_views = views.test_time_views(name, jnp.asarray(images))
    assert sum(weight for weight, _ in weighted_views) == pytest.approx(1)
    for _, view in weighted_views:
        np.testing.assert_allclose(view, images, rtol=1e-6)


def test_five_crops_are_slices_that_opencv_enlarges(photos):
    weighted_views = views.test_time_views("five_crop", jnp.asarray(photos, jnp.float32))
    assert len(weighted_views) == 5
    for (_, view), (y, x) in zip(weighted_views, CORNERS, strict=True):
        for enlarged, image in zip(view, photos, strict=True):
            crop = image[y : y + CUT, x : x + CUT].astype(np.float32)
            expected = cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
            np.testing.assert_allclose(enlarged, expected, atol=0.01)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, jnp.bfloat16])
def test_ten_crops_are_the_five_and_their_mirror_images(photos, dtype):
    images = jnp.asarray(photos, dtype)
    five = [view for _, view in views.test_time_views("five_crop", images)]
    ten = views.test_time_views("ten_crop", images)
    assert [weight for weight, _ in ten] == pytest.approx([0.1] * 10)
    for i, view in enumerate(five):
        assert view.dtype == dtype and view.shape == photos.shape
        np.testing.assert_array_equal(ten[2 * i][1], view)
        np.testing.assert_array_equal(ten[2 * i + 1][1], view[:, :, ::-1])
