"""Blur: out of focus, through frosted glass, in motion, while zooming. See the package.

Kernels are applied by Fourier transform, whose cost does not grow with the kernel. Differences from
the original:
- Glass blur swaps each pixel with a random neighbor, one after the other, so that a pixel takes
  part in two swaps on average, at either end. Here all pixels read such a neighbor at once, first
  at one end, then at the other.
- Motion blur rounds the positions of its taps to whole pixels; here they are interpolated
  bilinearly.
- Zoom blur averages 7 to 26 zooms in equal steps; here it is always 16.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vision.data.augment.geometry import take_pixels
from vision.evaluation.corruptions.tables import (
    between,
    gaussian_matrices,
    lengths,
    pick,
    separable,
)

ZOOMS = 16


def defocus_blur(key, images, severity):
    """Spreads each pixel over a disk."""
    small = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))  # radius, sigma of the edge
    large = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))
    table = lengths(small, large, images.shape[1])
    reach = max(int(table[:, 0].max()), 8)
    kernels = np.stack([disk(radius, sigma, reach) for radius, sigma in table])
    return convolve(images, pick(kernels, severity)[None], "reflect")


def disk(radius: float, sigma: float, reach: int) -> np.ndarray:
    """Returns the kernel of a disk, float64 (2 reach + 1, 2 reach + 1).

    It is smoothed over 3 x 3 or 5 x 5 pixels. As in the original, it is drawn on 17 x 17 pixels, or
    as many as it needs, and the smoothing mirrors it at their border.

    Args:
        radius: pixels.
        sigma: standard deviation of the smoothing, pixels.
        reach: half the side of the kernel, pixels.
    """
    half = max(int(radius), 8)
    at = np.arange(-half, half + 1)
    kernel = (at**2 + at[:, None] ** 2 <= radius**2).astype(np.float64)
    edge = 2 if radius > 8 else 1
    taps = np.arange(-edge, edge + 1)
    weights = np.exp(-0.5 * (taps / sigma) ** 2)
    identity = np.pad(np.eye(len(at)), edge, "reflect")
    smooth = sum(
        weight * identity[edge + tap : edge + tap + len(at), edge:-edge]
        for tap, weight in zip(taps, weights / weights.sum(), strict=True)
    )
    return np.pad(smooth @ kernel @ smooth.T / kernel.sum(), reach - half)


def glass_blur(key, images, severity):
    """Smooths, moves pixels about, and smooths again."""
    side = images.shape[1]
    # sigma, longest move, rounds
    small = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))
    large = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))
    sigma, reach = lengths(small, large, side)[:, :2].T
    smooth = pick(gaussian_matrices(sigma, side, "edge", 4), severity)
    reach = jnp.asarray(np.round(reach), jnp.int32)[severity - 1]
    rounds = jnp.asarray(np.round(between(small, large, side)[:, 2]), jnp.int32)[severity - 1]
    places = jnp.arange(side)

    def move(i, flat):
        shift = jax.random.randint(
            jax.random.fold_in(key, i), (len(images), 2, side, side), -reach, reach
        )
        shift = jnp.where(i % 2 == 0, shift, -shift)
        row = jnp.clip(places[:, None] + shift[:, 0], 0, side - 1)
        column = jnp.clip(places + shift[:, 1], 0, side - 1)
        return take_pixels(flat, (row * side + column).reshape(len(images), -1))

    smoothed = separable(images, smooth)
    moved = jax.lax.fori_loop(0, 2 * rounds, move, smoothed.reshape(len(images), side * side, -1))
    return separable(moved.reshape(images.shape), smooth)


def motion_blur(key, images, severity):
    """Smears each pixel along a line, up to 45 degrees off the horizontal."""
    small = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))  # radius, sigma
    large = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))
    degrees = jax.random.uniform(key, (len(images),), minval=-45, maxval=45)
    return smear(images, lengths(small, large, images.shape[1]), severity, degrees)


def smear(
    images: jax.Array, table: np.ndarray, severity: int | jax.Array, degrees: jax.Array
) -> jax.Array:
    """Returns images (B, S, S, C) smeared to one side, by half of a Gaussian.

    The Gaussian is cut off at twice its radius.

    Args:
        images: float.
        table: (radius, sigma) in pixels of each severity, (5, 2).
        severity: 1 .. 5.
        degrees: direction for each image, from the horizontal, (B,).
    """
    radius, sigma = pick(table, severity)
    reach = int(np.ceil(2 * table[:, 0].max()))
    taps = jnp.arange(reach + 1)
    weights = jnp.where(taps <= 2 * radius, jnp.exp(-0.5 * (taps / sigma) ** 2), 0)
    angle = jnp.deg2rad(degrees)[:, None]
    at = jnp.arange(-reach, reach + 1)

    # (B, taps) -> (B, taps, 2 reach + 1): how much of a tap falls on each pixel
    def shares(places):
        return jnp.maximum(0, 1 - jnp.abs(places[..., None] - at))

    exact = jax.lax.Precision.HIGHEST
    rows = shares(taps * jnp.sin(angle))
    columns = shares(taps * jnp.cos(angle))
    kernels = jnp.einsum("t,bty,btx->byx", weights / weights.sum(), rows, columns, precision=exact)
    return convolve(images, kernels, "edge")


def convolve(images: jax.Array, kernels: jax.Array, mode: str) -> jax.Array:
    """Returns images convolved with kernels.

    Args:
        images: float (B, S, S, C).
        kernels: float (B or 1, 2 R + 1, 2 R + 1).
        mode: `jnp.pad`'s mode for pixels outside.
    """
    side = images.shape[1]
    reach = kernels.shape[1] // 2
    padded = jnp.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode)
    size = padded.shape[1:3]
    transformed = jnp.fft.rfft2(kernels, size, axes=(1, 2))[..., None]
    spectrum = jnp.fft.rfft2(padded, axes=(1, 2)) * transformed
    return jnp.fft.irfft2(spectrum, size, axes=(1, 2))[:, 2 * reach :, 2 * reach :][:, :side, :side]


def zoom_blur(key, images, severity):
    """Averages the image with enlargements of itself about the center."""
    side = images.shape[1]
    small = (1.06, 1.11, 1.15, 1.20, 1.25)  # largest zoom
    large = (1.11, 1.15, 1.20, 1.24, 1.30)
    largest = pick(between(small, large, side), severity)

    def add(i, total):
        zoom = 1 + (largest - 1) * i / (ZOOMS - 1)
        return total + separable(images, zoom_matrix(side, zoom))

    return jax.lax.fori_loop(0, ZOOMS, add, images) / (ZOOMS + 1)


def zoom_matrix(side: int, zoom: float | jax.Array) -> jax.Array:
    """Returns the matrix that enlarges a row of pixels about its center, bilinearly.

    Returns:
        float32 (side, side).
    """
    places = jnp.arange(side, dtype=jnp.float32)
    center = (side - 1) / 2
    read = center + (places - center) / zoom
    return jnp.maximum(0, 1 - jnp.abs(read[:, None] - places))
