"""Augmentation: parity with PIL, scipy, numpy and colorsys, and the properties that training relies on."""

import colorsys
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from scipy import ndimage, stats

from vision.config import default
from vision.data.augment import STREAMS, augment, color, geometry, mix, normalize, randaugment
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
    "randaugment_layers": 2,
    "random_erasing": 0.5,
    "mixup": 0.2,
    "cutmix": 1.0,
}


@pytest.fixture(scope="module")
def photos():
    """Smooth, colored, not square: eight images of 12 x 10 that span the whole range."""
    noise = np.random.default_rng(0).normal(size=(8, 12, 10, 3))
    images = ndimage.gaussian_filter(noise, (0, 1, 1, 0))
    images -= images.min((1, 2, 3), keepdims=True)
    return np.round(255 * images / images.max((1, 2, 3), keepdims=True)).astype(np.uint8)


def batch(size, side=8, channels=3):
    rng = np.random.default_rng(1)
    return (
        rng.integers(0, 256, (size, side, side, channels)).astype(np.uint8),
        rng.integers(0, CLASSES, size).astype(np.int32),
    )


@functools.cache
def compiled_everything():
    return jax.jit(lambda key, images, labels: augment(config(**EVERYTHING), key, images, labels, CLASSES))


def close(ours, reference, tolerance=1):
    assert np.abs(np.asarray(ours, int) - np.asarray(reference, int)).max() <= tolerance


# Geometry


def test_pad_crop_is_a_window_of_the_padded_image(photos):
    result = np.asarray(geometry.pad_crop(KEY, jnp.asarray(photos), 2))
    padded = np.pad(photos, ((0, 0), (2, 2), (2, 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (12, 10), (1, 2))  # (B, 5, 5, C, 12, 10)
    same = (windows == result.transpose(0, 3, 1, 2)[:, None, None]).all((-1, -2, -3))
    assert same.any((1, 2)).all()
    assert len({tuple(np.argwhere(found)[0]) for found in same}) > 2  # each image has its own corner


@pytest.mark.parametrize("operation, axis", [(geometry.flip_horizontal, 1), (geometry.flip_vertical, 0)])
def test_flips(photos, operation, axis):
    flipped = np.array([np.flip(image, axis) for image in photos])
    result = np.asarray(operation(KEY, jnp.asarray(photos)))
    is_flipped = (result == flipped).all((1, 2, 3))
    assert (is_flipped | (result == photos).all((1, 2, 3))).all()
    assert 0 < is_flipped.sum() < len(photos)


def test_quarter_turns_match_numpy(photos):
    square = photos[:4, :10]
    result = geometry.quarter_turns(jnp.asarray(square), jnp.arange(4))
    for turns in range(4):
        np.testing.assert_array_equal(result[turns], np.rot90(square[turns], turns))


def test_rot90_of_an_oblong_turns_by_0_or_180(photos):
    result = np.asarray(geometry.rot90(KEY, jnp.asarray(photos)))
    is_turned = (result == photos[:, ::-1, ::-1]).all((1, 2, 3))
    assert (is_turned | (result == photos).all((1, 2, 3))).all()
    assert 0 < is_turned.sum() < len(photos)


def scipy_resample(image, inverse, mode="grid-constant"):
    """Reads an image, as float, where `inverse` (2, 3) maps each place to, in (x, y, 1) from the center."""
    height, width, channels = image.shape
    center = np.array([(width - 1) / 2, (height - 1) / 2])
    y, x = np.mgrid[:height, :width]
    places = inverse @ np.stack([x.ravel() - center[0], y.ravel() - center[1], np.ones(x.size)]) + center[:, None]
    read = [
        ndimage.map_coordinates(image[..., i].astype(float), places[::-1], order=1, mode=mode) for i in range(channels)
    ]
    return np.stack(read, -1).reshape(image.shape)


@pytest.mark.parametrize("edge, mode", [(False, "grid-constant"), (True, "nearest")])
def test_resample_matches_scipy(photos, edge, mode):
    inverse = np.random.default_rng(2).normal(size=(8, 2, 3)) * 0.2 + [[1, 0, 1], [0, 1, -2]]
    result = jax.jit(geometry.resample, static_argnames="edge")(
        jnp.asarray(photos, jnp.float32), jnp.asarray(inverse, jnp.float32), edge=edge
    )
    expected = np.array([scipy_resample(i, m, mode) for i, m in zip(photos, inverse, strict=True)])
    np.testing.assert_allclose(result, expected, atol=2e-2)


def test_inverse_map_undoes_shear_rotation_zoom_shift():
    angle, slope_x, slope_y, shift_x, shift_y, zoom = 0.3, 0.2, -0.1, 3.0, -2.0, 1.3
    # y points downwards, so that a counterclockwise rotation has this sign.
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    forward = np.eye(3)
    forward[:2, :2] = zoom * rotation @ [[1, slope_x], [slope_y, 1]]
    forward[:2, 2] = shift_x, shift_y
    values = (jnp.full(1, value) for value in (angle, slope_x, slope_y, shift_x, shift_y, zoom))
    np.testing.assert_allclose(geometry.inverse_map(*values)[0], np.linalg.inv(forward)[:2], atol=1e-6)


def test_a_right_angle_is_counterclockwise_and_exact(photos):
    square = photos[:, :10]

    @jax.jit
    def turn(images):
        zero, one = jnp.zeros(8), jnp.ones(8)
        return geometry.resample(images, geometry.inverse_map(one * math.pi / 2, zero, zero, zero, zero, one))

    result = turn(square)
    np.testing.assert_array_equal(result, np.rot90(square, axes=(1, 2)))


def test_affine_draws_within_its_ranges():
    """A linear ramp shows where each image was read: its center gives the shift, its slopes the matrix."""
    side = 33
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    ramp = np.broadcast_to(np.stack([x, y, np.ones_like(x)], -1)[None], (256, side, side, 3)).astype(np.float32)
    result = np.asarray(jax.jit(lambda k, x: geometry.affine(k, x, 20.0, 0.0, 0.1, (0.8, 1.25)))(KEY, ramp))
    middle = side // 2
    d_x = result[:, middle, middle + 1, :2] - result[:, middle, middle, :2]
    zoom, angle = 1 / np.hypot(*d_x.T), np.degrees(np.arctan2(d_x[:, 1], d_x[:, 0]))
    assert 0.8 - 1e-3 <= zoom.min() < 0.85 and 1.2 < zoom.max() <= 1.25 + 1e-3
    assert -20.01 <= angle.min() < -17 and 17 < angle.max() <= 20.01
    moved = np.abs(result[:, middle, middle, :2]).max()
    assert 2 < moved <= 0.1 * side * math.sqrt(2) / 0.8


def test_random_resized_crop_reads_a_box_of_the_asked_area_and_ratio():
    height, width = 24, 32
    y, x = np.mgrid[:height, :width].astype(np.float32)
    ramp = np.broadcast_to(np.stack([x, y, y], -1)[None], (256, height, width, 3))
    result = np.asarray(jax.jit(lambda k, x: geometry.random_resized_crop(k, x, (0.3, 0.6), (0.75, 4 / 3)))(KEY, ramp))
    # Away from the border, where reading is clipped, one step in the result is the box's share of the side.
    share_x = result[:, 12, 16, 0] - result[:, 12, 15, 0]
    share_y = result[:, 12, 16, 1] - result[:, 11, 16, 1]
    area = share_x * share_y
    assert 0.3 - 1e-3 <= area.min() < 0.35 and 0.55 < area.max() <= 0.6 + 1e-3
    ratio = share_x * width / (share_y * height)
    assert 0.75 - 1e-3 <= ratio.min() < 0.8 and 1.25 < ratio.max() <= 4 / 3 + 1e-3
    assert result[..., 0].min() < 1 and result[..., 0].max() > 30  # boxes reach both sides


# Color


def pil_each(photos, function):
    return np.array([np.asarray(function(Image.fromarray(image))) for image in photos])


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.7])
def test_blends_match_pil(photos, factor):
    images, factors = jnp.asarray(photos), jnp.full(len(photos), factor)
    for plain, enhance in (
        (0.0, ImageEnhance.Brightness),
        (color.mean_gray(images), ImageEnhance.Contrast),
        (color.gray(images), ImageEnhance.Color),
    ):
        expected = pil_each(photos, lambda image, enhance=enhance: enhance(image).enhance(factor))
        close(color.blend(images, plain, factors), expected)


def test_smooth_matches_pil(photos):
    close(np.round(color.smooth(jnp.asarray(photos))), pil_each(photos, lambda i: i.filter(ImageFilter.SMOOTH)), 0)


@pytest.mark.parametrize("operation", [color.brightness, color.contrast, color.saturation])
def test_factors_are_drawn_for_each_image_within_range(operation):
    """Two pixels at equal distance from gray: what stays of their difference is the factor."""
    image = np.full((1, 1, 2, 3), 100, np.float32)
    image[0, 0, 0] += [10, 0, 0]
    images = jnp.asarray(np.repeat(image, 512, 0))
    result = np.asarray(operation(KEY, images, 0.3))
    axis = (result[:, 0, 0, 0] - result[:, 0, 0, 1]) / 10
    assert 0.7 - 1e-3 <= axis.min() < 0.72 and 1.28 < axis.max() <= 1.3 + 1e-3


@pytest.mark.parametrize("turns", [-0.5, -0.1, 0.0, 0.3])
def test_hue_matches_colorsys(photos, turns):
    pixels = photos[:2, :4, :4]

    def shift(pixel):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255))
        return 255 * np.array(colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value))

    expected = np.apply_along_axis(shift, -1, pixels)
    result = color.shift_hue(jnp.asarray(pixels, jnp.float32), jnp.full(2, turns))
    np.testing.assert_allclose(result, expected, atol=1e-2)


@pytest.mark.parametrize(
    "ours, theirs, tolerance",
    [
        (color.autocontrast, ImageOps.autocontrast, 1),  # PIL truncates, we round
        (jax.jit(color.equalize), ImageOps.equalize, 0),
        (lambda x: color.posterize(x, jnp.full(len(x), 3)), lambda i: ImageOps.posterize(i, 3), 0),
        (lambda x: color.solarize(x, jnp.full(len(x), 90)), lambda i: ImageOps.solarize(i, 90), 0),
    ],
    ids=["autocontrast", "equalize", "posterize", "solarize"],
)
def test_pointwise_maps_match_pil(photos, ours, theirs, tolerance):
    rng = np.random.default_rng(3)
    large = rng.integers(40, 200, (3, 40, 40, 3)).astype(np.uint8)
    few = rng.choice(np.array([7, 80, 250], np.uint8), (2, 40, 40, 3), p=[0.5, 0.2, 0.3])
    flat = np.full((1, 40, 40, 3), 77, np.uint8)
    for images in (photos, np.concatenate([large, few, flat])):
        close(ours(jnp.asarray(images)), pil_each(images, theirs), tolerance)


def test_one_channel():
    images = jnp.asarray(batch(4, channels=1)[0])
    np.testing.assert_array_equal(color.hue(KEY, images, 0.5), images)
    np.testing.assert_array_equal(color.saturation(KEY, images, 0.9), images)
    image = Image.fromarray(np.asarray(images[0, ..., 0]))
    for plain, enhance in ((0.0, ImageEnhance.Brightness), (color.mean_gray(images), ImageEnhance.Contrast)):
        result = color.blend(images, plain, jnp.full(4, 0.6))
        close(result[0, ..., 0], enhance(image).enhance(0.6))


# RandAugment


def test_randaugment_operations_match_pil_and_scipy(photos):
    """All operations in one batch: image i gets operation i, at magnitude 15 and in positive direction."""
    image = photos[0]
    names = randaugment.OPERATIONS
    copies = jnp.asarray(np.repeat(image[None], len(names), 0))
    result = jax.jit(randaugment.apply, static_argnames="magnitude")(
        copies, jnp.arange(len(names)), jnp.ones(len(names)), magnitude=15.0
    )
    angle, picture = math.radians(15), Image.fromarray(image)
    moves = {
        "shear_x": [[1, -0.15, 0], [0, 1, 0]],
        "shear_y": [[1, 0, 0], [-0.15, 1, 0]],
        "translate_x": [[1, 0, -10 * 75 / 331], [0, 1, 0]],
        "translate_y": [[1, 0, 0], [0, 1, -12 * 75 / 331]],
        "rotate": [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0]],
    }
    expected = {name: scipy_resample(image, np.array(m)).round() for name, m in moves.items()} | {
        "identity": image,
        "brightness": ImageEnhance.Brightness(picture).enhance(1.45),
        "color": ImageEnhance.Color(picture).enhance(1.45),
        "contrast": ImageEnhance.Contrast(picture).enhance(1.45),
        "sharpness": ImageEnhance.Sharpness(picture).enhance(1.45),
        "posterize": ImageOps.posterize(picture, 6),
        "solarize": ImageOps.solarize(picture, 127.5),
        "autocontrast": ImageOps.autocontrast(picture),
        "equalize": ImageOps.equalize(picture),
    }
    assert set(expected) == set(names) and len(names) == 14
    for name, ours in zip(names, result, strict=True):
        close(ours, np.asarray(expected[name]))


def test_randaugment_draws_for_each_image():
    images = jnp.asarray(np.repeat(batch(1)[0], 64, 0))
    result = np.asarray(randaugment.randaugment(KEY, images, 1, 10.0))
    assert result.dtype == np.uint8 and result.shape == images.shape
    assert 14 <= len(np.unique(result, axis=0)) <= 23  # 9 operations have two directions


# Mixing and erasing


def test_mixup_is_the_weighted_sum_that_the_labels_tell():
    images, _ = batch(8)
    mixed, labels = jax.jit(mix.mixup)(KEY, jnp.asarray(images, jnp.float32), jnp.eye(8), 0.8)
    np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(mixed, np.einsum("ij,jhwc->ihwc", labels, images.astype(np.float32)), atol=1e-3)
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
            assert np.prod(foreign.max(0) - foreign.min(0) + 1) in (len(foreign), 63)  # it is a box, or around one
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
    result = np.asarray(jax.jit(lambda k, x: mix.random_erasing(k, x, 0.3, (0.1, 0.4)))(KEY, images))
    changed = (result != images).any(-1)
    share = changed.mean((1, 2))
    hit = share > 0
    assert abs(hit.mean() - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 2000)
    low, high = share[hit].min(), share[hit].max()
    assert 0.06 < low < 0.15 and 0.35 < high < 0.44  # whole pixels round the drawn area
    for i in np.flatnonzero(hit)[:20]:
        box = result[i][changed[i]]
        np.testing.assert_allclose(box, np.broadcast_to(images[i].mean((0, 1)), box.shape), rtol=1e-5)
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
    mesh = jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])
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
        (("mean_std", (0.5,), (0.5, 0.5, 0.5)), "data.mean = .* has 1 numbers and the images have 3 channels"),
        (("mean_std", (0.5,) * 3, ()), "data.std"),
        (("mean_std", (0.5,) * 3, (0.5, 0.0, 0.5)), "above 0"),
    ],
)
def test_normalize_names_what_is_wrong(arguments, message):
    with pytest.raises(UserError, match=message):
        normalize(np.zeros((1, 2, 2, 3), np.uint8), *arguments)
