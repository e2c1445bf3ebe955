"""What an image is like, in seven numbers: one function for the exporter and the server.

Brightness, contrast, sharpness, colorfulness and saturation are those of the pixels that the model
gets, after decoding and resizing: what the model cannot see is not a reason for an alarm, images
that come as pixels are measured like those that come as files, and the cost does not grow with the
size of a photo. Aspect ratio and size are those of the decoded image before it is resized, and
unknown (NaN) if the client has resized it.

All sums are exact, so the numbers do not depend on the order of summation: the same pixels give the
same bits everywhere. An image of 28 x 28 gray pixels takes 10 microseconds, 4 among many, and one
of 224 x 224 colored ones 100. `vision.audit.scan` measures sharpness otherwise, at a common size
and with uneven light removed, which makes images of any size comparable but takes a millisecond.
"""

import math

import cv2
import numpy as np

NAMES = (
    "brightness",
    "contrast",
    "sharpness",
    "colorfulness",
    "saturation",
    "aspect_ratio",
    "size",
)
# Of gray images that are measured at a time: they stay in the cache, and float64 holds all sums.
PIXELS = 2**14
COLOR_SIDE = 64  # pixels; colors are measured on at most this many rows and columns


def measure(image: np.ndarray, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Returns the numbers `NAMES` of an image, float32 (7,).

    brightness     mean of the gray values, in [0, 1]
    contrast       their standard deviation, in [0, 0.5]
    sharpness      mean squared difference of neighbors over twice the variance: 0 is smooth, 1 is
                   noise. Gradient energy, a measure of focus (Pertuz et al. 2013,
                   doi:10.1016/j.patcog.2012.11.011), without the influence of contrast
    colorfulness   Hasler and Suesstrunk 2003 (doi:10.1117/12.477378), over 255; 0 for gray images
    saturation     mean of HSV's saturation, in [0, 1]; 0 for gray images
    aspect_ratio   width over height; NaN if `shape` is None
    size           square root of the number of pixels; NaN if `shape` is None

    Args:
        image: uint8 (S, S, 1 or 3), as the model takes it.
        shape: (H, W, ...) of the decoded image before it was resized; None if that is unknown.
    """
    has_color = image.shape[2] == 3
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if has_color else image[..., 0]
    mean, variance = _moments(gray)
    colorfulness, saturation = _color(image) if has_color else (0.0, 0.0)
    aspect_ratio = size = math.nan
    if shape is not None:
        aspect_ratio = shape[1] / shape[0]
        size = math.sqrt(shape[0] * shape[1])
    numbers = (
        mean / 255,
        math.sqrt(variance) / 255,
        _gradient_energy(gray) / (2 * variance) if variance else 0.0,
        colorfulness,
        saturation,
        aspect_ratio,
        size,
    )
    return np.array(numbers, np.float32)


def measure_all(images: np.ndarray) -> np.ndarray:
    """Returns `measure` of images whose size before resizing is unknown, float32 (N, 7).

    Args:
        images: uint8 (N, S, S, 1 or 3), as the model takes them.
    """
    numbers = np.empty((len(images), len(NAMES)), np.float32)
    pixels = math.prod(images.shape[1:])
    if images.shape[3] == 3 or pixels > PIXELS:
        for row, image in zip(numbers, images, strict=True):
            row[:] = measure(image)
        return numbers
    at_a_time = PIXELS // pixels
    for begin in range(0, len(images), at_a_time):
        rows = slice(begin, begin + at_a_time)
        numbers[rows] = _measure_gray(images[rows, ..., 0])
    return numbers


def _measure_gray(gray):
    """Returns the numbers of uint8 (N, H, W) gray images, float64 (N, 7): `measure` of many."""
    gray = gray.astype(np.float64)  # in which these sums are exact, and faster than in integers
    size = gray[0].size
    total = gray.sum((1, 2))
    variance = (size * _squares(gray) - total**2) / size**2
    height, width = gray.shape[1:]
    pairs = (height - 1) * width + height * (width - 1)
    down = _squares(gray[:, 1:] - gray[:, :-1])
    energy = (down + _squares(gray[:, :, 1:] - gray[:, :, :-1])) / max(pairs, 1)
    zeros = np.zeros(len(gray))
    unknown = np.full(len(gray), math.nan)
    sharpness = np.divide(energy, 2 * variance, out=zeros.copy(), where=variance > 0)
    numbers = (
        total / size / 255,
        np.sqrt(variance) / 255,
        sharpness,
        zeros,
        zeros,
        unknown,
        unknown,
    )
    return np.stack(numbers, 1)


def _squares(images):
    """Returns the sums of squares of float64 (N, H, W), float64 (N,)."""
    return np.einsum("nhw,nhw->n", images, images)


def _moments(gray):
    """Returns (mean, variance) of uint8 (H, W), from exact sums: 0 if all pixels are equal."""
    total = int(cv2.sumElems(gray)[0])
    squares = round(cv2.norm(gray, cv2.NORM_L2SQR))  # it may be a little below
    return total / gray.size, (gray.size * squares - total**2) / gray.size**2


def _gradient_energy(gray):
    """Returns the mean squared difference of neighbors, of both directions; 0 for one pixel."""
    height, width = gray.shape
    pairs = (height - 1) * width + height * (width - 1)
    total = 0
    if height > 1:
        total += round(cv2.norm(gray[1:], gray[:-1], cv2.NORM_L2SQR))
    if width > 1:
        total += round(cv2.norm(gray[:, 1:], gray[:, :-1], cv2.NORM_L2SQR))
    return total / pairs if pairs else 0.0


def _color(image):
    """Returns (colorfulness, saturation) of an RGB image."""
    if max(image.shape) > COLOR_SIDE:
        size = min(COLOR_SIDE, image.shape[1]), min(COLOR_SIDE, image.shape[0])
        image = cv2.resize(image, size, interpolation=cv2.INTER_NEAREST)
    red, green, blue = cv2.split(image)
    opponents = (
        cv2.subtract(red, green, dtype=cv2.CV_32F),
        cv2.subtract(
            cv2.addWeighted(red, 0.5, green, 0.5, 0, dtype=cv2.CV_32F), blue, dtype=cv2.CV_32F
        ),
    )
    means, deviations = zip(*map(cv2.meanStdDev, opponents), strict=True)
    spread = math.hypot(deviations[0][0, 0], deviations[1][0, 0])
    distance = math.hypot(means[0][0, 0], means[1][0, 0])
    saturation = cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))[1]
    return (spread + 0.3 * distance) / 255, saturation / 255
