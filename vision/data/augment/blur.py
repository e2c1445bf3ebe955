"""Gaussian blur, as in SimCLR. Chen et al. 2020 (arXiv:2002.05709), appendix A."""

import jax
import jax.numpy as jnp

from vision.data.augment.pixels import from_float, to_float

SHARE = 0.1  # of the side that the kernel covers


def gaussian_blur(key: jax.Array, images: jax.Array, sigma: tuple[float, float]) -> jax.Array:
    """Blurs each image with a standard deviation of its own, mirrored at the border.

    Args:
        key: a random key.
        images: uint8 or float (B, H, W, C) in [0, 255]; shape and dtype are kept.
        sigma: the range of the standard deviation, pixels, drawn uniformly.
    """
    low, high = sigma
    drawn = jax.random.uniform(key, (len(images),), minval=low, maxval=high)
    pixels = to_float(images)
    for axis in (1, 2):
        radius = _radius(pixels.shape[axis])
        weights = _weights(drawn, radius)
        pixels = _along(pixels, weights, radius, axis)
    return from_float(pixels, images.dtype)


def _radius(side: int) -> int:
    """Returns half the width of the kernel, which is odd and at least 3."""
    return max(1, min(round(SHARE * side) // 2, side - 1))


def _weights(sigma: jax.Array, radius: int) -> jax.Array:
    """Returns the kernels, (B, 2 radius + 1), each with the sum 1."""
    offsets = jnp.arange(-radius, radius + 1, dtype=sigma.dtype)
    logits = -0.5 * jnp.square(offsets / sigma[:, None])
    return jax.nn.softmax(logits, axis=-1)


def _along(pixels: jax.Array, weights: jax.Array, radius: int, axis: int) -> jax.Array:
    """Returns the weighted sum of an image's shifted copies along one axis."""
    side = pixels.shape[axis]
    pads = [(radius, radius) if i == axis else (0, 0) for i in range(pixels.ndim)]
    padded = jnp.pad(pixels, pads, "reflect")
    total = jnp.zeros_like(pixels)
    for i in range(2 * radius + 1):
        shifted = jax.lax.slice_in_dim(padded, i, i + side, axis=axis)
        total += weights[:, i, None, None, None] * shifted
    return total
