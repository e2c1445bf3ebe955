"""DiffAugment against loops in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.objectives import diff_augment

RNG = np.random.RandomState(0)
IMAGES = RNG.uniform(-1, 1, (3, 8, 6, 3))
KEY = jax.random.key(0)


def test_colors(float64):
    brightness, saturation, contrast = [0.3, -0.2, 0.0], [0.0, 1.5, 1.0], [0.5, 1.2, 1.0]
    changed = diff_augment.change_colors(
        jnp.asarray(IMAGES), *map(jnp.array, (brightness, saturation, contrast))
    )
    for number, image in enumerate(IMAGES):
        expected = image + brightness[number]
        for pixel in np.ndindex(8, 6):
            gray = expected[pixel].mean()
            expected[pixel] = gray + saturation[number] * (expected[pixel] - gray)
        expected = expected.mean() + contrast[number] * (expected - expected.mean())
        np.testing.assert_allclose(changed[number], expected, atol=1e-12)


def test_translation(float64):
    down, right = [2, -1, 0], [-1, 0, 3]
    moved = diff_augment.translate(jnp.asarray(IMAGES), jnp.array(down), jnp.array(right))
    for number, image in enumerate(IMAGES):
        expected = np.zeros_like(image)
        for row, column in np.ndindex(8, 6):
            source = row - down[number], column - right[number]
            if 0 <= source[0] < 8 and 0 <= source[1] < 6:
                expected[row, column] = image[source]
        np.testing.assert_array_equal(moved[number], expected)


def test_cutout(float64):
    top, left = [0, -2, 5], [1, 2, -1]
    cut = diff_augment.cut_out(jnp.asarray(IMAGES), jnp.array(top), jnp.array(left))
    for number, image in enumerate(IMAGES):
        expected = image.copy()
        for row, column in np.ndindex(8, 6):
            if 0 <= row - top[number] < 4 and 0 <= column - left[number] < 3:
                expected[row, column] = 0
        np.testing.assert_array_equal(cut[number], expected)


@pytest.mark.parametrize("policy", diff_augment.POLICIES)
def test_each_policy_has_a_gradient(policy, float64):
    """As central differences say; the draws depend on the key only."""
    images = jnp.asarray(IMAGES[:, :, :, :1])
    weights = jnp.asarray(RNG.randn(*images.shape))

    def total(images):
        return (weights * diff_augment.augment(KEY, images, (policy,))).sum()

    slope = np.asarray(jax.grad(total)(images))
    direction = jnp.asarray(RNG.randn(*images.shape))
    numeric = (total(images + 1e-6 * direction) - total(images - 1e-6 * direction)) / 2e-6
    assert float((slope * direction).sum()) == pytest.approx(float(numeric), rel=1e-6)
    assert np.abs(slope).max() > 0


def test_draws_are_in_the_ranges_of_the_paper():
    ones = jnp.ones((500, 16, 16, 1))
    cut = np.asarray(diff_augment.augment(KEY, ones, ("cutout",)))[..., 0]
    holes = (cut == 0).sum((1, 2))
    assert holes.max() == 64 and holes.min() == 16  # at a corner, a quarter of it is in the image
    moved = np.asarray(diff_augment.augment(KEY, ones, ("translation",)))[..., 0]
    rows = (moved.max(2) == 0).sum(1)
    assert set(rows) == {0, 1, 2}
    colored = np.asarray(diff_augment.augment(KEY, ones, ("color",)))[:, 0, 0, 0] - 1
    assert -0.5 <= colored.min() < -0.45 and 0.45 < colored.max() <= 0.5
    assert diff_augment.augment(KEY, ones, ()) is ones
