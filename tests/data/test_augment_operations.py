"""Augmentation, one operation at a time: parity with PIL, scipy, numpy and colorsys."""

import colorsys
import math

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from scipy import ndimage

from vision.data.augment import color, geometry, randaugment
from vision.data.augment.blur import gaussian_blur

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def photos():
    """Smooth, colored, not square: eight images of 12 x 10 that span the whole range."""
    noise = np.random.default_rng(0).normal(size=(8, 12, 10, 3))
    images = ndimage.gaussian_filter(noise, (0, 1, 1, 0))
    images -= images.min((1, 2, 3), keepdims=True)
    return np.round(255 * images / images.max((1, 2, 3), keepdims=True)).astype(np.uint8)


def close(ours, reference, tolerance=1):
    assert np.abs(np.asarray(ours, int) - np.asarray(reference, int)).max() <= tolerance


# Geometry


def test_pad_crop_is_a_window_of_the_padded_image(photos):
    result = np.asarray(geometry.pad_crop(KEY, jnp.asarray(photos), 2))
    padded = np.pad(photos, ((0, 0), (2, 2), (2, 2), (0, 0)))
    # (B, 5, 5, C, 12, 10)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (12, 10), (1, 2))
    same = (windows == result.transpose(0, 3, 1, 2)[:, None, None]).all((-1, -2, -3))
    assert same.any((1, 2)).all()
    # each image has its own corner
    assert len({tuple(np.argwhere(changed)[0]) for changed in same}) > 2


@pytest.mark.parametrize(
    "operation, axis", [(geometry.flip_horizontal, 1), (geometry.flip_vertical, 0)]
)
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
    """Reads an image, as float, where `inverse` (2, 3) maps each place to, in (x, y, 1) from the
    center."""
    height, width, channels = image.shape
    center = np.array([(width - 1) / 2, (height - 1) / 2])
    y, x = np.mgrid[:height, :width]
    places = (
        inverse @ np.stack([x.ravel() - center[0], y.ravel() - center[1], np.ones(x.size)])
        + center[:, None]
    )
    read = [
        ndimage.map_coordinates(image[..., i].astype(float), places[::-1], order=1, mode=mode)
        for i in range(channels)
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
    angle = 0.3
    slope_x = 0.2
    slope_y = -0.1
    shift_x = 3.0
    shift_y = -2.0
    zoom = 1.3
    # y points downwards, so that a counterclockwise rotation has this sign.
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    forward = np.eye(3)
    forward[:2, :2] = zoom * rotation @ [[1, slope_x], [slope_y, 1]]
    forward[:2, 2] = shift_x, shift_y
    values = (jnp.full(1, value) for value in (angle, slope_x, slope_y, shift_x, shift_y, zoom))
    np.testing.assert_allclose(
        geometry.inverse_map(*values)[0], np.linalg.inv(forward)[:2], atol=1e-6
    )


def test_a_right_angle_is_counterclockwise_and_exact(photos):
    square = photos[:, :10]

    @jax.jit
    def turn(images):
        zero = jnp.zeros(8)
        ones = jnp.ones(8)
        return geometry.resample(
            images, geometry.inverse_map(ones * math.pi / 2, zero, zero, zero, zero, ones)
        )

    result = turn(square)
    np.testing.assert_array_equal(result, np.rot90(square, axes=(1, 2)))


def test_affine_draws_within_its_ranges():
    """A linear ramp shows where each image was read: its center gives the shift, its slopes the
    matrix."""
    side = 33
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    ramp = np.broadcast_to(
        np.stack([x, y, np.ones_like(x)], -1)[None], (256, side, side, 3)
    ).astype(np.float32)
    result = np.asarray(
        jax.jit(lambda k, x: geometry.affine(k, x, 20.0, 0.0, 0.1, (0.8, 1.25)))(KEY, ramp)
    )
    middle = side // 2
    d_x = result[:, middle, middle + 1, :2] - result[:, middle, middle, :2]
    zoom = 1 / np.hypot(*d_x.T)
    angle = np.degrees(np.arctan2(d_x[:, 1], d_x[:, 0]))
    assert 0.8 - 1e-3 <= zoom.min() < 0.85 and 1.2 < zoom.max() <= 1.25 + 1e-3
    assert -20.01 <= angle.min() < -17 and 17 < angle.max() <= 20.01
    moved = np.abs(result[:, middle, middle, :2]).max()
    assert 2 < moved <= 0.1 * side * math.sqrt(2) / 0.8


def test_random_resized_crop_reads_a_box_of_the_asked_area_and_ratio():
    height = 24
    width = 32
    y, x = np.mgrid[:height, :width].astype(np.float32)
    ramp = np.broadcast_to(np.stack([x, y, y], -1)[None], (256, height, width, 3))
    result = np.asarray(
        jax.jit(lambda k, x: geometry.random_resized_crop(k, x, (0.3, 0.6), (0.75, 4 / 3)))(
            KEY, ramp
        )
    )
    # Away from the border, where reading is clipped, one step in the result is the box's share of
    # the side.
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
    images = jnp.asarray(photos)
    factors = jnp.full(len(photos), factor)
    for plain, enhance in (
        (0.0, ImageEnhance.Brightness),
        (color.mean_gray(images), ImageEnhance.Contrast),
        (color.gray(images), ImageEnhance.Color),
    ):
        expected = pil_each(photos, lambda image, enhance=enhance: enhance(image).enhance(factor))
        close(color.blend(images, plain, factors), expected)


def test_smooth_matches_pil(photos):
    close(
        np.round(color.smooth(jnp.asarray(photos))),
        pil_each(photos, lambda i: i.filter(ImageFilter.SMOOTH)),
        0,
    )


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


def test_one_channel(photos):
    images = jnp.asarray(photos[:4, ..., :1])
    np.testing.assert_array_equal(color.hue(KEY, images, 0.5), images)
    np.testing.assert_array_equal(color.saturation(KEY, images, 0.9), images)
    image = Image.fromarray(np.asarray(images[0, ..., 0]))
    for plain, enhance in (
        (0.0, ImageEnhance.Brightness),
        (color.mean_gray(images), ImageEnhance.Contrast),
    ):
        result = color.blend(images, plain, jnp.full(4, 0.6))
        close(result[0, ..., 0], enhance(image).enhance(0.6))


@pytest.mark.parametrize("sigma", [0.1, 0.8, 2.0])
def test_blur_matches_opencv(sigma):
    images = np.random.default_rng(4).uniform(0, 255, (2, 64, 48, 3)).astype(np.float32)
    result = gaussian_blur(KEY, jnp.asarray(images), (sigma, sigma))
    expected = [
        cv2.GaussianBlur(image, (5, 7), sigma, borderType=cv2.BORDER_REFLECT_101)
        for image in images
    ]
    np.testing.assert_allclose(result, np.array(expected), atol=2e-3)


def test_blur_draws_for_each_image():
    spot = np.zeros((64, 32, 32, 1), np.float32)
    spot[:, 16, 16] = 255
    peaks = np.asarray(gaussian_blur(KEY, jnp.asarray(spot), (0.1, 2.0)))[:, 16, 16, 0]
    assert len(np.unique(peaks.round(3))) > 50 and peaks.max() > 250 and peaks.min() < 50


# RandAugment


def test_randaugment_operations_match_pil_and_scipy(photos):
    """All operations in one batch: image i gets operation i, at magnitude 15 and in positive
    direction."""
    image = photos[0]
    names = randaugment.OPERATIONS
    copies = jnp.asarray(np.repeat(image[None], len(names), 0))
    result = jax.jit(randaugment.apply, static_argnames="magnitude")(
        copies, jnp.arange(len(names)), jnp.ones(len(names)), magnitude=15.0
    )
    angle = math.radians(15)
    picture = Image.fromarray(image)
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


def test_randaugment_draws_for_each_image(photos):
    images = jnp.asarray(np.repeat(photos[:1], 64, 0))
    result = np.asarray(randaugment.randaugment(KEY, images, 1, 10.0))
    assert result.dtype == np.uint8 and result.shape == images.shape
    assert 14 <= len(np.unique(result, axis=0)) <= 23  # 9 operations have two directions


# Mixing and erasing
