"""Augmentation as a whole: mixing, erasing, normalization, and the properties that training relies
on."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy import stats

from vision.config import default
from vision.data.augment import STREAMS, augment, mix, normalize
from vision.errors import UserError

KEY = jax.random.key(0)
CLASSES = 5


def config(**values):
    c = default().augment
    c.update(values)
    return c


EVERYTHING = {
    "pad_crop": 2,
    "random_resized_crop": True,
    "flip_horizontal": True,
    "flip_vertical": True,
    "rot90": True,
    "affine": True,
    "shear": 10.0,
    "translate": 0.1,
    "scale": (0.8, 1.25),
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "jitter": 0.8,
    "grayscale": 0.2,
    "blur": 0.5,
    "solarize": 0.2,
    "randaugment_layers": 2,
    "random_erasing": 0.5,
    "mixup": 0.2,
    "cutmix": 1.0,
}


def batch(size, side=8, channels=3):
    rng = np.random.default_rng(1)
    return (
        rng.integers(0, 256, (size, side, side, channels)).astype(np.uint8),
        rng.integers(0, CLASSES, size).astype(np.int32),
    )


@functools.cache
def compiled_everything():
    return jax.jit(
        lambda key, images, labels: augment(config(**EVERYTHING), key, images, labels, CLASSES)
    )


@pytest.mark.parametrize(
    ("values", "share"),
    [
        ({"brightness": 0.8, "jitter": 0.25}, 0.25),
        ({"grayscale": 0.2}, 0.2),
        ({"blur": 0.5}, 0.5),
        ({"solarize": 0.2}, 0.2),
    ],
    ids=["jitter", "grayscale", "blur", "solarize"],
)
def test_what_happens_to_a_share_of_the_images(values, share):
    images, labels = batch(2000)
    changed = augment(config(**values), KEY, jnp.asarray(images), jnp.asarray(labels), CLASSES)[0]
    rate = (np.asarray(changed) != images).any((1, 2, 3)).mean()
    assert rate == pytest.approx(share, abs=0.04)


def test_mixup_is_the_weighted_sum_that_the_labels_tell():
    images, _ = batch(8)
    mixed, labels = jax.jit(mix.mixup)(KEY, jnp.asarray(images, jnp.float32), jnp.eye(8), 0.8)
    np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(
        mixed, np.einsum("ij,jhwc->ihwc", labels, images.astype(np.float32)), atol=1e-3
    )
    assert len(np.unique(np.diag(labels))) == 8


def test_cutmix_labels_are_the_pixel_shares():
    images = np.broadcast_to(np.arange(16, dtype=np.uint8)[:, None, None, None], (16, 9, 7, 3))
    mixed, labels = jax.jit(mix.cutmix)(KEY, jnp.asarray(images), jnp.eye(16), 1.0)
    shares = (np.asarray(mixed)[:, :, :, 0].reshape(16, 63, 1) == np.arange(16)).mean(1)
    np.testing.assert_allclose(labels, shares, atol=1e-6)
    np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
    for image in np.asarray(mixed)[..., 0]:
        foreign = np.argwhere(image != np.bincount(image.ravel()).argmax())
        if len(foreign):
            # it is a box, or around one
            assert np.prod(foreign.max(0) - foreign.min(0) + 1) in (len(foreign), 63)
    assert len(np.unique(np.diag(labels))) > 8


def test_mixing_draws_from_the_beta_distribution():
    """Images of 255 whose partners are 0: what stays is the share."""
    images = jnp.tile(jnp.array([0.0, 255.0])[:, None, None, None], (2000, 1, 1, 1))
    mixed, _ = jax.jit(mix.mixup)(KEY, images, jnp.zeros((4000, 1)), 0.4)
    share = np.asarray(mixed)[1::2].ravel() / 255
    assert stats.kstest(share, stats.beta(0.4, 0.4).cdf).pvalue > 0.01


def test_with_both_each_batch_draws_one():
    """Images of 0 and 255: CutMix makes no gray, mixup nothing but gray."""
    images = jnp.tile(jnp.array([0.0, 255.0])[:, None, None, None], (4, 6, 6, 1))
    run = jax.jit(lambda key: mix.mixup_or_cutmix(key, images, jnp.eye(8), 1.0, 1.0))
    was_cut = []
    for seed in range(12):
        mixed, labels = run(jax.random.key(seed))
        np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
        gray = ((mixed > 0) & (mixed < 255)).mean((1, 2, 3))
        assert (gray == 0).all() or (gray == 1).all()
        was_cut.append(bool((gray == 0).all()))
    assert 0 < sum(was_cut) < 12


def test_random_erasing():
    images = np.random.default_rng(4).uniform(0, 255, (2000, 10, 12, 3)).astype(np.float32)
    result = np.asarray(
        jax.jit(lambda k, x: mix.random_erasing(k, x, 0.3, (0.1, 0.4)))(KEY, images)
    )
    changed = (result != images).any(-1)
    share = changed.mean((1, 2))
    hit = share > 0
    assert abs(hit.mean() - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 2000)
    low = share[hit].min()
    high = share[hit].max()
    assert 0.06 < low < 0.15 and 0.35 < high < 0.44  # whole pixels round the drawn area
    for i in np.flatnonzero(hit)[:20]:
        box = result[i][changed[i]]
        np.testing.assert_allclose(
            box, np.broadcast_to(images[i].mean((0, 1)), box.shape), rtol=1e-5
        )
        assert np.prod(np.ptp(np.argwhere(changed[i]), 0) + 1) == changed[i].sum()
    assert changed.any(0).all()  # every place can be covered


# The driver


def test_off_is_the_identity():
    images, labels = batch(6)
    result, soft = augment(config(), KEY, jnp.asarray(images), jnp.asarray(labels), CLASSES)
    assert result.dtype == jnp.uint8
    np.testing.assert_array_equal(result, images)
    np.testing.assert_array_equal(soft, np.eye(CLASSES, dtype=np.float32)[labels])


def test_everything_on_keeps_shape_and_dtype_and_follows_the_key():
    images, labels = batch(16)
    run = compiled_everything()
    result, soft = run(KEY, images, labels)
    assert result.shape == images.shape and result.dtype == jnp.uint8
    assert soft.shape == (16, CLASSES) and soft.dtype == jnp.float32
    np.testing.assert_allclose(soft.sum(1), 1, atol=1e-6)
    again, soft_again = run(KEY, images, labels)
    np.testing.assert_array_equal(result, again)
    np.testing.assert_array_equal(soft, soft_again)
    other, _ = run(jax.random.key(1), images, labels)
    assert (np.asarray(other) != result).any((1, 2, 3)).all()


def test_the_same_image_twice_gets_two_draws():
    images = np.repeat(batch(1)[0], 16, 0)
    result, _ = compiled_everything()(KEY, images, np.zeros(16, np.int32))
    assert len(np.unique(result, axis=0)) == 16


def test_the_number_of_devices_changes_nothing():
    images, labels = batch(16)
    count = math.gcd(16, jax.device_count())
    mesh = jax.make_mesh(
        (count,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count]
    )
    split = NamedSharding(mesh, PartitionSpec("data"))
    key = jax.device_put(KEY, NamedSharding(mesh, PartitionSpec()))
    alone = compiled_everything()(KEY, images, labels)
    run = compiled_everything()
    shared = run(key, jax.device_put(images, split), jax.device_put(labels, split))
    np.testing.assert_array_equal(shared[0], alone[0])
    np.testing.assert_allclose(shared[1], alone[1], atol=1e-6)


def test_turning_one_on_changes_no_other_draw():
    images, labels = (jnp.asarray(part) for part in batch(8))
    erased, _ = augment(config(random_erasing=1.0), KEY, images, labels, CLASSES)
    both, _ = augment(config(random_erasing=1.0, flip_vertical=True), KEY, images, labels, CLASSES)
    flipped, _ = augment(config(flip_vertical=True), KEY, images, labels, CLASSES)
    erased, both, flipped = (np.asarray(part) for part in (erased, both, flipped))
    np.testing.assert_array_equal((erased != images).all(-1), (both != flipped).all(-1))
    assert len(set(STREAMS)) == len(STREAMS)


def test_float_images_stay_float():
    images = jnp.asarray(batch(4)[0], jnp.float32)
    result, _ = augment(config(brightness=0.5), KEY, images, jnp.zeros(4, jnp.int32), CLASSES)
    assert result.dtype == jnp.float32
    assert (np.asarray(result) % 1 != 0).any()  # not rounded


# Normalization and ranges


def test_normalize():
    images = np.array([0, 51, 255], np.uint8).reshape(1, 1, 1, 3)
    np.testing.assert_allclose(normalize(images, "unit").ravel(), [0, 0.2, 1], atol=1e-6)
    np.testing.assert_allclose(normalize(images, "symmetric").ravel(), [-1, -0.6, 1], atol=1e-6)
    scaled = normalize(images, "mean_std", (0.5, 0.4, 0.3), (0.5, 0.1, 0.35))
    np.testing.assert_allclose(scaled.ravel(), [-1, -2, 2], atol=1e-5)
    assert normalize(images, "symmetric", dtype=jnp.bfloat16).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("symetric",), "did you mean 'symmetric'.*unit, symmetric, mean_std"),
        (
            ("mean_std", (0.5,), (0.5, 0.5, 0.5)),
            "data.mean = .* has 1 numbers, but the images have 3 channels",
        ),
        (("mean_std", (0.5,) * 3, ()), "data.std"),
        (("mean_std", (0.5,) * 3, (0.5, 0.0, 0.5)), "above 0"),
    ],
)
def test_normalize_names_what_is_wrong(arguments, message):
    with pytest.raises(UserError, match=message):
        normalize(np.zeros((1, 2, 2, 3), np.uint8), *arguments)
