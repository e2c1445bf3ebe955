"""Digital: low contrast, elastic distortion, coarse pixels, JPEG. See the package.

The severities of the elastic distortion are the paper's: the first two (at 224 px) shift and shear
the whole image, the later ones do so less, and ripple it more. Both moves are done in one
resampling, where the original does two.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vision.data.augment.geometry import take_pixels
from vision.evaluation.corruptions.tables import (
    LARGE,
    between,
    gaussian_matrices,
    pick,
    round_stable,
    separable,
)

# Quantization steps of luma, and the upper left quarter of those of chroma, whose others are 99:
# ITU-T T.81 (1992), annex K.
LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA = ((17, 18, 24, 47), (18, 21, 26, 66), (24, 26, 56, 99), (47, 66, 99, 99))


def contrast(key, images, severity):
    """Moves each pixel toward its channel's mean."""
    small = (0.75, 0.5, 0.4, 0.3, 0.15)  # share of the contrast that is kept
    large = (0.4, 0.3, 0.2, 0.1, 0.05)
    kept = pick(between(small, large, images.shape[1]), severity)
    mean = images.mean((1, 2), keepdims=True)
    return mean + kept * (images - mean)


def elastic_transform(key, images, severity):
    """Bends the image: an affine map through three points moved at random, and ripples."""
    y, x = elastic_places(key, len(images), images.shape[1], severity)
    return read_at(images, y, x)


def elastic_places(
    key: jax.Array, count: int, side: int, severity: int | jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns where each pixel is read, (y, x) in pixels, float32 (count, side, side) each."""
    table = _elastic_constants(side)
    strength, _, longest_move = side * pick(table, severity)
    smooth = pick(gaussian_matrices(side * table[:, 1], side, "symmetric", 3), severity)
    point, ripple = jax.random.split(key)
    ripples = jax.random.uniform(ripple, (count, side, side, 2), minval=-1, maxval=1)
    ripples = strength * separable(ripples, smooth)
    center = (side - 1) / 2
    at = jnp.arange(side) - center
    y = at[:, None] + ripples[..., 0]
    x = at + ripples[..., 1]
    moves = longest_move * jax.random.uniform(point, (3, count, 2, 1, 1), minval=-1, maxval=1)
    moved = _affine_moves(moves, y, x, max(side // 3, 1))
    return y + moved[:, 0] + center, x + moved[:, 1] + center


def _elastic_constants(side):
    """Returns strength and sigma of the ripples and the longest move of a point, float64 (5, 3).

    All are shares of the side.
    """
    small = (
        (0, 0, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    )
    large = (
        (2, 0.7, 0.1),
        (2, 0.08, 0.2),
        (0.05, 0.01, 0.02),
        (0.07, 0.01, 0.02),
        (0.12, 0.01, 0.02),
    )
    # The original counts in shares of 244 px, for an image of 224 px.
    return between(small, np.asarray(large) * 244 / LARGE, side)


def _affine_moves(moves, y, x, t):
    """Returns the move (y, x) of each pixel under an affine map, float32 (B, 2, S, S).

    Args:
        moves: of three points, which are (t, t), (t, -t) and (-t, -t) from the center in (y, x),
            float32 (3, B, 2, 1, 1).
        y: position of each pixel from the center, (B, S, S).
        x: position of each pixel from the center, (B, S, S).
        t: pixels.
    """
    moved = (moves[0] + moves[2]) / 2 + (moves[1] - moves[2]) / (2 * t) * y[:, None]
    moved += (moves[0] - moves[1]) / (2 * t) * x[:, None]
    return moved


def read_at(images: jax.Array, y: jax.Array, x: jax.Array) -> jax.Array:
    """Returns images (B, S, S, C) read at places (B, S, S), bilinearly, mirrored at the border."""
    batch, side, _, channels = images.shape
    flat = images.reshape(batch, side * side, channels)

    def ends(place):
        period = 2 * (side - 1)
        place = jnp.mod(place, period)
        place = jnp.minimum(place, period - place)
        low = jnp.clip(jnp.floor(place), 0, side - 2)
        return (low.astype(jnp.int32), 1 - (place - low)), (low.astype(jnp.int32) + 1, place - low)

    result = jnp.zeros_like(images)
    for row, weight_y in ends(y):
        for column, weight_x in ends(x):
            pixels = take_pixels(flat, (row * side + column).reshape(batch, -1))
            result += (weight_y * weight_x)[..., None] * pixels.reshape(images.shape)
    return result


def pixelate(key, images, severity):
    """Shrinks the image by means over boxes, and enlarges it again the same way."""
    side = images.shape[1]
    shares = between((0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25), side)
    sizes = [max(int(side * share + 1e-6), 1) for share in shares]
    table = [box_matrix(size, side) @ box_matrix(side, size) for size in sizes]
    return separable(images, pick(np.stack(table), severity))


def box_matrix(old: int, new: int) -> np.ndarray:
    """Returns the matrix (new, old) that resizes a row of pixels as PIL's BOX filter does."""
    support = max(old / new, 1) / 2
    center = (np.arange(new)[:, None] + 0.5) * old / new
    at = (np.arange(old) + 0.5 - center) / (2 * support)
    inside = ((at > -0.5) & (at <= 0.5)).astype(np.float64)
    return inside / inside.sum(1, keepdims=True)


def jpeg_compression(key, images, severity):
    """Stores the image as baseline JPEG, with chroma at half the resolution, and reads it again."""
    side = images.shape[1]
    channels = images.shape[-1]
    qualities = np.round(between((80, 65, 58, 50, 40), (25, 18, 15, 10, 7), side))
    luma, chroma = (pick(table, severity) for table in quantization(qualities))
    block = 8 if channels == 1 else 16
    more = -side % block
    pixels = jnp.pad(jnp.round(images), ((0, 0), (0, more), (0, more), (0, 0)), "edge")
    if channels == 1:
        coded = _code(pixels[..., 0], luma)[..., None]
    else:
        coded = _code_colors(pixels, luma, chroma)
    return coded[:, :side, :side]


def _code_colors(pixels, luma, chroma):
    """Returns pixels (B, S, S, 3) after they went through YCbCr and quantization."""
    red, green, blue = jnp.moveaxis(pixels, -1, 0)
    y = round_stable(0.299 * red + 0.587 * green + 0.114 * blue)
    cb = round_stable(128 + (blue - y) * (0.5 / 0.886))
    cr = round_stable(128 + (red - y) * (0.5 / 0.701))
    y = _code(y, luma)
    cb = _double(_code(_halve(cb), chroma)) - 128
    cr = _double(_code(_halve(cr), chroma)) - 128
    red = y + 1.402 * cr
    green = y - (0.299 * 1.402 * cr + 0.114 * 1.772 * cb) / 0.587
    blue = y + 1.772 * cb
    return jnp.stack([red, green, blue], -1)


def quantization(qualities: np.ndarray) -> list[np.ndarray]:
    """Returns the steps of luma and chroma, as libjpeg scales them to each quality.

    Args:
        qualities: (N,).

    Returns:
        Two arrays float64 (N, 8, 8).
    """
    scale = np.where(qualities < 50, 5000 // qualities, 200 - 2 * qualities)[:, None, None]
    chroma = np.full((8, 8), 99)
    chroma[:4, :4] = CHROMA
    return [np.clip((table * scale + 50) // 100, 1, 255) for table in (np.asarray(LUMA), chroma)]


def _code(plane, steps):
    """Returns a plane after its cosine coefficients were rounded to multiples of their steps.

    Args:
        plane: (B, S, S) in [0, 255], S a multiple of 8.
        steps: (8, 8).
    """
    batch, side, _ = plane.shape
    k = np.arange(8)
    cosines = np.cos((2 * k + 1) * k[:, None] * np.pi / 16) / 2
    cosines[0] /= np.sqrt(2)
    cosines = jnp.asarray(cosines, jnp.float32)
    exact = jax.lax.Precision.HIGHEST
    blocks = plane.reshape(batch, side // 8, 8, side // 8, 8) - 128
    coefficients = jnp.einsum("bmynx,uy,vx->bmnuv", blocks, cosines, cosines, precision=exact)
    # to 1/1024 first: see `round_stable`
    coefficients = jnp.round(jnp.round(coefficients * 1024) / 1024 / steps) * steps
    blocks = jnp.einsum("bmnuv,uy,vx->bmynx", coefficients, cosines, cosines, precision=exact)
    return jnp.clip(round_stable(blocks.reshape(plane.shape) + 128), 0, 255)


def _halve(plane):
    batch, side, _ = plane.shape
    return jnp.round(plane.reshape(batch, side // 2, 2, side // 2, 2).mean((2, 4)))


def _double(plane):
    """Returns a plane of twice the side, by libjpeg's triangle filter: 3/4 nearer, 1/4 farther."""
    batch, side, _ = plane.shape
    return jax.image.resize(plane, (batch, 2 * side, 2 * side), "linear")
