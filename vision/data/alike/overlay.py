"""Whether two pictures show the same: they are aligned, then compared part by part."""

from collections.abc import Sequence

import cv2
import numpy as np

# Sides at which pictures are compared, pixels.
LARGEST = 128
SMALLEST = 48
# Largest shift, as a fraction of the side, and largest scale, as its logarithm: beyond them a
# picture is not a crop by some percent.
SHIFT = 0.12
SCALE = 0.16
_STEPS = 12
_HOPELESS = 0.6  # after three steps, pictures that correlate less are different


def likeness(a: np.ndarray, b: np.ndarray, crop: Sequence[float] = (0, 0, 0, 0)) -> float:
    """Returns how alike two pictures are, in [-1, 1]; above 0.95 they have the same origin.

    The second is shifted and scaled along both axes until it is aligned with the first. Both are
    then smoothed, which removes JPEG noise but keeps their content, and correlated in windows of a
    fifth of the side, so that brightness and contrast do not matter. The likeness is that of the
    worst windows, which hold a twentieth of the pictures' contrast: unlike a correlation of the
    entire pictures, it detects that one of two digits ends in a hook.

    Args:
        a, b: uint8 (H, W, 1 or 3), of any sizes.
        crop: fractions (top, bottom, left, right) of `a` that `b` is assumed to lack, as a first
            guess.
    """
    if a.shape[-1] != b.shape[-1]:
        a, b = (
            image if image.shape[-1] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
            for image in (a, b)
        )
    a, b = _to_one_size(a, b)
    alignment = _align(_gray(a), _gray(b), _guess(crop))
    if alignment is None:
        return -1.0
    a, b = _common_part(a, b, alignment)
    smooth = max(1.0, min(a.shape[:2]) / SMALLEST)
    a, b = (cv2.GaussianBlur(image, (0, 0), smooth).reshape(a.shape) for image in (a, b))
    return min(_worst_windows(_gray(a), _gray(b)), _correlation(a, b))


def _gray(image):
    return image.mean(-1)


def _to_one_size(a, b):
    """Returns both as float32 at the size of the smaller.

    Detail that only the larger can have is not a difference.
    """
    height = min(a.shape[0], b.shape[0])
    width = min(a.shape[1], b.shape[1])
    shrink = min(1.0, LARGEST / max(height, width))
    size = (max(8, round(width * shrink)), max(8, round(height * shrink)))
    a, b = (_resize(image, size, cv2.INTER_AREA) for image in (a, b))
    if min(size) < SMALLEST:
        size = tuple(round(side * SMALLEST / min(size)) for side in size)
        a, b = (_resize(image, size, cv2.INTER_LINEAR) for image in (a, b))
    return a.astype(np.float32), b.astype(np.float32)


def _resize(image, size, interpolation):
    if image.shape[1::-1] == size:
        return image
    return cv2.resize(image, size, interpolation=interpolation).reshape(size[1], size[0], -1)


def _guess(crop):
    """Returns the alignment of a picture with its crop, see `_align`."""
    top, bottom, left, right = crop
    scale_x = 1 / (1 - left - right)
    scale_y = 1 / (1 - top - bottom)
    return np.array([scale_x, (0.5 - left) * scale_x - 0.5, scale_y, (0.5 - top) * scale_y - 0.5])


def _align(a, b, alignment):
    """Aligns `b` with `a`: x_b = scale x_a + shift, and y in the same way.

    Coordinates are fractions of the side, from the center. Least squares on brightness, which may
    differ by a factor and an offset, as in Lucas and Kanade 1981.

    Args:
        a, b: float32 (H, W).
        alignment: float64 (4,), the start: scale and shift of x, then of y.

    Returns:
        float64 (4,), or None if they do not align within `SHIFT` and `SCALE`.
    """
    height, width = a.shape
    a = cv2.GaussianBlur(a, (0, 0), 1)
    b = _with_slopes(cv2.GaussianBlur(b, (0, 0), 1))
    for step in range(_STEPS):
        columns, rows = _covered(alignment, a.shape)
        if columns.stop - columns.start < width / 2 or rows.stop - rows.start < height / 2:
            return None
        moved = cv2.split(_move(b, alignment)[rows, columns])
        target = a[rows, columns]
        if step == 3 and _correlation(moved[0], target) < _HOPELESS:
            return None
        x = _centered(width)[None, columns]
        y = _centered(height)[rows, None]
        change = _gauss_newton_step(moved, target, x, y)
        alignment = alignment + change
        if min(alignment[[0, 2]]) <= 0:
            return None
        if np.abs(change).max() < 5e-4:
            break
    return alignment if _is_within_limits(alignment) else None


def _is_within_limits(alignment):
    """Returns whether an alignment's scales and shifts are at most `SCALE` and `SHIFT`."""
    scale = alignment[[0, 2]]
    shift = alignment[[1, 3]]
    return np.abs(np.log(scale)).max() <= SCALE and np.abs(shift).max() <= SHIFT


def _centered(side):
    """Returns float32 (side,), the pixels' coordinates: fractions of the side, from the center."""
    return (np.arange(side, dtype=np.float32) + 0.5) / side - 0.5


def _with_slopes(b):
    """Returns (H, W, 3): a picture, and its slopes along x and y per side."""
    height, width = b.shape
    along_x = cv2.Sobel(b, cv2.CV_32F, 1, 0, scale=width / 8)
    along_y = cv2.Sobel(b, cv2.CV_32F, 0, 1, scale=height / 8)
    return cv2.merge((b, along_x, along_y))


def _gauss_newton_step(moved, target, x, y):
    """Returns float64 (4,), the change of the alignment that lowers the squared difference most.

    Args:
        moved: three (h, w), the moved picture and its slopes along x and y.
        target: (h, w), the other picture.
        x, y: (1, w) and (h, 1), coordinates.
    """
    brightness, along_x, along_y = moved
    terms = (along_x * x, along_x, along_y * y, along_y, -target, -np.ones_like(target))
    terms = np.stack(terms).reshape(6, -1)
    square = (terms @ terms.T).astype(np.float64)
    # A picture of stripes determines only one direction.
    square += 1e-7 * np.trace(square) * np.eye(6)
    return np.linalg.solve(square, -(terms @ brightness.ravel()).astype(np.float64))[:4]


def _move(b, alignment):
    """Returns `b` resampled at each pixel of the other picture, which has the same size."""
    height, width = b.shape[:2]
    scale_x, shift_x, scale_y, shift_y = alignment
    # Pixel i is at (i + 1/2) / side - 1/2.
    matrix = np.array(
        [
            [scale_x, 0, (0.5 - scale_x / 2 + shift_x) * width + scale_x / 2 - 0.5],
            [0, scale_y, (0.5 - scale_y / 2 + shift_y) * height + scale_y / 2 - 0.5],
        ]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(b, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return moved.reshape(b.shape)


def _covered(alignment, shape):
    """Returns the columns and rows, as slices, that the moved picture covers."""
    slices = []
    axes = ((shape[1], alignment[:2]), (shape[0], alignment[2:]))
    for side, (scale, shift) in axes:
        first, last = (
            ((edge - 0.5 - shift) / scale + 0.5) * side - 0.5
            for edge in (0.5 / side, 1 - 0.5 / side)
        )
        start = max(0, int(np.ceil(first - 0.01)))
        stop = max(0, min(side, int(last + 0.01) + 1))
        slices.append(slice(start, stop))
    return slices


def _common_part(a, b, alignment):
    columns, rows = _covered(alignment, a.shape)
    return a[rows, columns], _move(b, alignment)[rows, columns]


def _correlation(a, b):
    """Returns the correlation of all values together.

    Differences between the channels' means count, so that red is not green.
    """
    a = a - a.mean()
    b = b - b.mean()
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum() + 1e-6))


def _worst_windows(a, b):
    """Returns the likeness of the least alike windows, which hold a twentieth of the contrast."""
    side = max(a.shape) // 5 | 1
    mean_a = cv2.blur(a, (side, side))
    mean_b = cv2.blur(b, (side, side))
    var_a = np.maximum(cv2.blur(a * a, (side, side)) - mean_a**2, 0)
    var_b = np.maximum(cv2.blur(b * b, (side, side)) - mean_b**2, 0)
    deviation = np.sqrt(var_a * var_b)
    noise = 0.5 + 0.05 * deviation.mean()  # all that a flat window contains
    covariance = cv2.blur(a * b, (side, side)) - mean_a * mean_b
    alike = ((covariance + noise) / (deviation + noise)).ravel()
    order = np.argsort(alike)
    contrast = np.cumsum(deviation.ravel()[order])
    last = min(np.searchsorted(contrast, 0.05 * contrast[-1]), len(order) - 1)
    return float(alike[order[last]])
