"""Whether two pictures show the same: one is laid over the other, and then they are compared part
by part."""

import cv2
import numpy as np

# sides that pictures are compared at, pixels
LARGEST = 128
SMALLEST = 48
# of a side: what is moved or scaled by more is no crop by some percent
SHIFT = 0.12
SCALE = 0.16
# after three steps, pictures that correlate less are others
_STEPS = 12
_HOPELESS = 0.6


def likeness(a, b, crop=(0, 0, 0, 0)):
    """Returns how alike two pictures are, in [-1, 1]; above 0.95 they were made from one.

    The second is moved and scaled along both axes until it lies over the first. Both are then
    smoothed, which takes the noise of JPEG away but leaves what they show, and correlated in
    windows of a fifth of the side, so that brightness and contrast do not matter. The likeness is
    that of the worst windows, those that hold a twentieth of the pictures' contrast: unlike a
    correlation of the whole it sees that of two digits one ends in a hook.

    Args:
        a, b: uint8 (H, W, 1 or 3), of any sizes.
        crop: shares (top, bottom, left, right) of `a` that `b` shows without, as a first guess.
    """
    if a.shape[-1] != b.shape[-1]:
        a, b = (
            image if image.shape[-1] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
            for image in (a, b)
        )
    a, b = _to_one_size(a, b)
    place = _lay_over(_gray(a), _gray(b), _guess(crop))
    if place is None:
        return -1.0
    a, b = _common_part(a, b, place)
    smooth = max(1.0, min(a.shape[:2]) / SMALLEST)
    a, b = (cv2.GaussianBlur(image, (0, 0), smooth).reshape(a.shape) for image in (a, b))
    return min(_worst_windows(_gray(a), _gray(b)), _correlation(a, b))


def _gray(image):
    return image.mean(-1)


def _to_one_size(a, b):
    """Returns both as float32 at the smaller one's size: detail that only the larger has is no
    difference."""
    height = min(a.shape[0], b.shape[0])
    width = min(a.shape[1], b.shape[1])
    shrink = min(1.0, LARGEST / max(height, width))
    size = max(8, round(width * shrink)), max(8, round(height * shrink))
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
    """Returns (scale, shift) for x and y, as `_lay_over` takes them, of a crop."""
    top, bottom, left, right = crop
    scale_x = 1 / (1 - left - right)
    scale_y = 1 / (1 - top - bottom)
    return np.array([scale_x, (0.5 - left) * scale_x - 0.5, scale_y, (0.5 - top) * scale_y - 0.5])


def _lay_over(a, b, place):
    """Finds what lays `b` over `a`: x_b = scale x_a + shift, likewise y, from the center, in shares
    of the side.

    Least squares on brightness, which may differ by a factor and an offset, as Lucas and Kanade
    1981.

    Returns:
        float64 (4,): scale and shift of x, then of y; None where they do not fit within `SHIFT` and
            `SCALE`.
    """
    height, width = a.shape
    x = ((np.arange(width, dtype=np.float32) + 0.5) / width - 0.5)[None]
    y = ((np.arange(height, dtype=np.float32) + 0.5) / height - 0.5)[:, None]
    a = cv2.GaussianBlur(a, (0, 0), 1)
    b = cv2.GaussianBlur(b, (0, 0), 1)
    slopes = (
        cv2.Sobel(b, cv2.CV_32F, 1, 0, scale=width / 8),
        cv2.Sobel(b, cv2.CV_32F, 0, 1, scale=height / 8),
    )
    b = cv2.merge((b, *slopes))
    for step in range(_STEPS):
        columns, rows = _covered(place, a.shape)
        if columns.stop - columns.start < width / 2 or rows.stop - rows.start < height / 2:
            return None
        moved, along_x, along_y = cv2.split(_move(b, place)[rows, columns])
        target = a[rows, columns]
        if step == 3 and _correlation(moved, target) < _HOPELESS:
            return None
        terms = (
            along_x * x[:, columns],
            along_x,
            along_y * y[rows],
            along_y,
            -target,
            -np.ones_like(target),
        )
        terms = np.stack(terms).reshape(6, -1)
        square = (terms @ terms.T).astype(np.float64)
        # a picture of stripes says nothing of one direction
        square += 1e-7 * np.trace(square) * np.eye(6)
        change = np.linalg.solve(square, -(terms @ moved.ravel()).astype(np.float64))[:4]
        place = place + change
        if min(place[[0, 2]]) <= 0:
            return None
        if np.abs(change).max() < 5e-4:
            break
    scale = place[[0, 2]]
    shift = place[[1, 3]]
    return place if np.abs(np.log(scale)).max() <= SCALE and np.abs(shift).max() <= SHIFT else None


def _move(b, place):
    """Returns what `b` shows at each pixel of the other picture, which has the same size."""
    height, width = b.shape[:2]
    scale_x, shift_x, scale_y, shift_y = place
    # Pixel i lies at (i + 1/2) / side - 1/2.
    matrix = np.array(
        [
            [scale_x, 0, (0.5 - scale_x / 2 + shift_x) * width + scale_x / 2 - 0.5],
            [0, scale_y, (0.5 - scale_y / 2 + shift_y) * height + scale_y / 2 - 0.5],
        ]
    )
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(
        b, matrix, (width, height), flags=how, borderMode=cv2.BORDER_REPLICATE
    ).reshape(b.shape)


def _covered(place, shape):
    """Returns the columns and rows, as slices, where the moved picture shows something."""
    found = []
    for side, (scale, shift) in zip((shape[1], shape[0]), (place[:2], place[2:]), strict=True):
        first, last = (
            ((edge - 0.5 - shift) / scale + 0.5) * side - 0.5
            for edge in (0.5 / side, 1 - 0.5 / side)
        )
        found.append(
            slice(max(0, int(np.ceil(first - 0.01))), max(0, min(side, int(last + 0.01) + 1)))
        )
    return found


def _common_part(a, b, place):
    columns, rows = _covered(place, a.shape)
    return a[rows, columns], _move(b, place)[rows, columns]


def _correlation(a, b):
    """Of all values; differences between the channels' means count, so that red is not green."""
    a = a - a.mean()
    b = b - b.mean()
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum() + 1e-6))


def _worst_windows(a, b):
    """Returns the likeness of the windows that are least alike, of those that hold a twentieth of
    the contrast."""
    side = max(a.shape) // 5 | 1
    mean_a = cv2.blur(a, (side, side))
    mean_b = cv2.blur(b, (side, side))
    var_a = np.maximum(cv2.blur(a * a, (side, side)) - mean_a**2, 0)
    var_b = np.maximum(cv2.blur(b * b, (side, side)) - mean_b**2, 0)
    both = np.sqrt(var_a * var_b)
    noise = 0.5 + 0.05 * both.mean()  # in a flat window there is nothing else
    alike = ((cv2.blur(a * b, (side, side)) - mean_a * mean_b + noise) / (both + noise)).ravel()
    order = np.argsort(alike)
    contrast = np.cumsum(both.ravel()[order])
    return float(alike[order[min(np.searchsorted(contrast, 0.05 * contrast[-1]), len(order) - 1)]])
