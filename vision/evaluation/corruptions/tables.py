"""Constants of five severities for any side, and separable maps as matrices."""

import math

import jax
import jax.numpy as jnp
import numpy as np

# pixels a side, of CIFAR-10-C and of ImageNet-C
SMALL = 32
LARGE = 224


def between(small, large, side):
    """Returns constants for images of `side` pixels, float64 of the shape of `small`.

    They are linear in the logarithm of the side from 32 px to 224 px, and constant outside: lengths
    do not shrink further below 32 px, where a blur of less than a pixel would do nothing.

    Args:
        small, large: constants of each severity at 32 px and at 224 px, (5, ...).
        side: pixels.
    """
    share = np.clip(math.log(side / SMALL) / math.log(LARGE / SMALL), 0, 1)
    return (1 - share) * np.asarray(small, np.float64) + share * np.asarray(large, np.float64)


def lengths(small, large, side):
    """Returns `between` of lengths in pixels, which grow with the side above 224 px."""
    return between(small, large, side) * max(side / LARGE, 1)


def pick(table, severity):
    """Returns a severity's row of a table (5, ...), as float32."""
    return jnp.asarray(table, jnp.float32)[severity - 1]


def whole(values):
    """Returns float32 values rounded to integers, halves alike everywhere.

    Sums that end in a half by mathematics do so by floats only up to their order, which differs
    between devices and programs: so they are first rounded to 1/1024.
    """
    return jnp.round(jnp.round(values * 1024) / 1024)


def separable(images, matrix):
    """Applies a matrix (M, S) to the rows and to the columns of images (B, S, S, C) -> (B, M, M,
    C)."""
    # A matrix product may run at a lower precision on an accelerator unless told otherwise.
    exact = jax.lax.Precision.HIGHEST
    images = jnp.einsum("bhwc,ih->biwc", images, matrix, precision=exact)
    return jnp.einsum("bhwc,jw->bhjc", images, matrix, precision=exact)


def gaussian_matrices(sigmas, side, mode, truncate):
    """Returns matrices (5, side, side) that smooth a row of pixels with each sigma; 0 leaves it
    alone.

    Args:
        sigmas: pixels, (5,).
        side: pixels.
        mode: what lies outside, in NumPy's words: "edge" or "symmetric".
        truncate: radius of the kernel in sigmas, rounded to a pixel.
    """
    found = []
    for sigma in sigmas:
        radius = int(truncate * sigma + 0.5)
        taps = np.arange(-radius, radius + 1)
        weights = np.exp(-0.5 * (taps / max(sigma, 1e-6)) ** 2)
        source = np.pad(np.arange(side), radius, mode)  # which pixel stands at each place
        matrix = np.zeros((side, side))
        for tap, weight in zip(taps + radius, weights / weights.sum(), strict=True):
            np.add.at(matrix, (np.arange(side), source[tap : tap + side]), weight)
        found.append(matrix)
    return np.stack(found)
