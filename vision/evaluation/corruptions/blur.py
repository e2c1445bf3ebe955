"""Blur: out of focus, through frosted glass, in motion, while zooming. See the package.

Kernels are applied through the Fourier transform, whose cost does not grow with theirs. Where the
original differs:
- Glass blur swaps each pixel with a random neighbor, one after another, so that a pixel takes part
  in two swaps on average, at either end. Here each pixel reads such a neighbor, all at once, first
  at the one end, then at the other.
- Motion blur rounds the places of its taps to whole pixels; here they are shared out bilinearly.
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
    # radius, sigma of the disk's edge
    small = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))
    table = lengths(small, ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)), images.shape[1])
    reach = max(int(table[:, 0].max()), 8)
    kernels = np.stack([disk(radius, sigma, reach) for radius, sigma in table])
    return convolve(images, pick(kernels, severity)[None], "reflect")


def disk(radius, sigma, reach):
    """Returns a disk's kernel, float64 (2 reach + 1, 2 reach + 1), smoothed by 3 x 3 or 5 x 5
    pixels.

    As in the original it is drawn on 17 x 17 pixels, or as many as it needs, at whose border the
    smoothing mirrors it.
    """
    half = max(int(radius), 8)
    at = np.arange(-half, half + 1)
    kernel = (at**2 + at[:, None] ** 2 <= radius**2).astype(np.float64)
    edge = 2 if radius > 8 else 1
    taps = np.arange(-edge, edge + 1)
    weights = np.exp(-0.5 * (taps / sigma) ** 2)
    smooth = sum(
        w * np.pad(np.eye(len(at)), edge, "reflect")[edge + t : edge + t + len(at), edge:-edge]
        for t, w in zip(taps, weights / weights.sum(), strict=True)
    )
    return np.pad(smooth @ kernel @ smooth.T / kernel.sum(), reach - half)


def glass_blur(key, images, severity):
    """Smooths, moves pixels about, and smooths again."""
    side = images.shape[1]
    # sigma, furthest move, rounds
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
    """Draws each pixel out along a line, up to 45 degrees off the horizontal."""
    small = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))  # radius, sigma
    table = lengths(small, ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)), images.shape[1])
    return move_along(
        images, table, severity, jax.random.uniform(key, (len(images),), minval=-45, maxval=45)
    )


def move_along(images, table, severity, degrees):
    """Returns images (B, S, S, C) drawn out to one side, by half of a Gaussian cut off at twice its
    radius.

    Args:
        images: float.
        table: (radius, sigma) in pixels of each severity, (5, 2).
        severity: 1 .. 5.
        degrees: direction of each image, (B,), from the horizontal.
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


def convolve(images, kernels, mode):
    """Convolves images (B, S, S, C) with kernels (B or 1, 2 R + 1, 2 R + 1); `mode` is `jnp.pad`'s,
    for the outside."""
    side = images.shape[1]
    reach = kernels.shape[1] // 2
    padded = jnp.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode)
    size = padded.shape[1:3]
    spectrum = (
        jnp.fft.rfft2(padded, axes=(1, 2)) * jnp.fft.rfft2(kernels, size, axes=(1, 2))[..., None]
    )
    return jnp.fft.irfft2(spectrum, size, axes=(1, 2))[:, 2 * reach :, 2 * reach :][:, :side, :side]


def zoom_blur(key, images, severity):
    """Averages the image with enlargements of itself about the center."""
    side = images.shape[1]
    largest = pick(
        between((1.06, 1.11, 1.15, 1.20, 1.25), (1.11, 1.15, 1.20, 1.24, 1.30), side), severity
    )

    def add(i, total):
        zoom = 1 + (largest - 1) * i / (ZOOMS - 1)
        return total + separable(images, zoom_matrix(side, zoom))

    return jax.lax.fori_loop(0, ZOOMS, add, images) / (ZOOMS + 1)


def zoom_matrix(side, zoom):
    """Returns the matrix, float32 (side, side), that enlarges a row of pixels about its center,
    bilinearly."""
    places = jnp.arange(side, dtype=jnp.float32)
    center = (side - 1) / 2
    read = center + (places - center) / zoom
    return jnp.maximum(0, 1 - jnp.abs(read[:, None] - places))
