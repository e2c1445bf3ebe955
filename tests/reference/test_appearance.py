"""What an image is like: against plain NumPy, and how changes of an image show."""

import math

import cv2
import numpy as np
import pytest

from vision.reference import appearance

NAMES = appearance.NAMES


def image(side=24, channels=3, seed=0):
    random = np.random.default_rng(seed)
    smooth = cv2.GaussianBlur(random.normal(size=(side, side, 3)), (0, 0), 2)
    pixels = np.clip(128 + 300 * smooth, 0, 255).astype(np.uint8)
    return pixels if channels == 3 else pixels[..., :1]


def by_formula(pixels, shape):
    """The same seven numbers by NumPy, in float64."""
    pixels = pixels.astype(np.float64)
    gray = pixels[..., 0]
    colorfulness = saturation = 0.0
    if pixels.shape[2] == 3:
        weights = np.array([0.299, 0.587, 0.114])
        gray = np.round(pixels @ weights)
        red, green, blue = np.moveaxis(pixels, 2, 0)
        opponents = red - green, (red + green) / 2 - blue
        spread = np.hypot(*(plane.std() for plane in opponents))
        distance = np.hypot(*(plane.mean() for plane in opponents))
        colorfulness = (spread + 0.3 * distance) / 255
        largest = pixels.max(2)
        chroma = largest - pixels.min(2)
        saturation = np.divide(chroma, largest, where=largest > 0, out=np.zeros_like(chroma)).mean()
    steps = np.concatenate([np.diff(gray, axis=0).ravel(), np.diff(gray, axis=1).ravel()])
    sharpness = np.square(steps).mean() / (2 * gray.var()) if gray.var() else 0.0
    numbers = [gray.mean() / 255, gray.std() / 255, sharpness, colorfulness, saturation]
    return [*numbers, shape[1] / shape[0], math.sqrt(shape[0] * shape[1])]


@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_what_the_formulas_say(channels):
    pixels = image(channels=channels)
    measured = appearance.measure(pixels, (30, 40, channels))
    assert measured.dtype == np.float32 and measured.shape == (7,)
    # gray values and saturation are rounded to 8 bits
    np.testing.assert_allclose(measured, by_formula(pixels, (30, 40)), atol=3e-3)


def test_gray_as_three_channels_is_gray():
    gray = image(channels=1)
    ours = appearance.measure(np.repeat(gray, 3, 2))
    np.testing.assert_array_equal(ours, appearance.measure(gray))
    assert ours[NAMES.index("colorfulness")] == ours[NAMES.index("saturation")] == 0


def test_the_size_of_pixels_that_a_client_has_resized_is_unknown():
    several = appearance.measure_all(np.stack([image(seed=0), image(seed=1)]))
    assert np.isnan(several[:, -2:]).all() and np.isfinite(several[:, :-2]).all()
    np.testing.assert_array_equal(several[1], appearance.measure(image(seed=1)))


@pytest.mark.parametrize(
    "shape", [(28, 28, 1), (1, 1, 1), (1, 5, 1), (7, 1, 1), (700, 700, 1), (16, 16, 3)]
)
def test_many_images_are_measured_as_one_is(shape, monkeypatch):
    """To the same bits, also in several parts, and if an image is plain."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (11, *shape), np.uint8)
    images[4] = 7
    alone = np.stack([appearance.measure(pixels) for pixels in images])
    np.testing.assert_array_equal(appearance.measure_all(images), alone)
    monkeypatch.setattr(appearance, "PIXELS", 3 * shape[0] * shape[1])
    np.testing.assert_array_equal(appearance.measure_all(images), alone)
    assert appearance.measure_all(images[:0]).shape == (0, 7)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 3), (1, 5, 1), (224, 224, 3)])
def test_any_size_and_plain_images(shape):
    plain = appearance.measure(np.full(shape, 200, np.uint8), shape)
    assert np.isfinite(plain).all() and plain[1] == plain[2] == 0
    assert plain[0] == pytest.approx(200 / 255)


def test_what_is_done_to_an_image_shows_where_it_should():
    pixels = image(64)
    before = dict(zip(NAMES, appearance.measure(pixels), strict=True))

    def after(changed):
        return dict(zip(NAMES, appearance.measure(changed), strict=True))

    assert after(pixels // 2)["brightness"] == pytest.approx(before["brightness"] / 2, abs=0.01)
    assert after(cv2.GaussianBlur(pixels, (0, 0), 3))["sharpness"] < 0.5 * before["sharpness"]
    noise = np.random.default_rng(0).integers(-40, 40, pixels.shape)
    noisy = after(np.clip(pixels + noise, 0, 255).astype(np.uint8))
    assert noisy["sharpness"] > 2 * before["sharpness"]
    gray = np.repeat(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
    faded = after((pixels * 0.3 + gray * 0.7).astype(np.uint8))
    assert faded["colorfulness"] < 0.5 * before["colorfulness"]
    assert faded["saturation"] < 0.7 * before["saturation"]
    flat = after((128 + (pixels.astype(int) - 128) // 4).astype(np.uint8))
    assert flat["contrast"] == pytest.approx(before["contrast"] / 4, rel=0.05)


def test_the_same_pixels_give_the_same_bits_however_they_lie_in_memory():
    pixels = image(65)
    crop = pixels[1:, :-1]
    np.testing.assert_array_equal(appearance.measure(crop), appearance.measure(crop.copy()))
    gray = crop[..., 1:2]
    np.testing.assert_array_equal(appearance.measure(gray), appearance.measure(gray.copy()))
