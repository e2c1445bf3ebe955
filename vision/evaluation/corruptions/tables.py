"""Constants of five severities for images of any side, and separable maps as matrices."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

SMALL = 32  # side of CIFAR-10-C's images, pixels
LARGE = 224  # side of ImageNet-C's images, pixels


def between(small: Sequence | np.ndarray, large: Sequence | np.ndarray, side: int) -> np.ndarray:
    """Returns constants for images of `side` pixels, float64 of the shape of `small`.

    They are linear in the logarithm of the side from 32 px to 224 px, and constant beyond: lengths
    do not shrink further below 32 px, where a blur of less than a pixel would have no effect.

    Args:
        small: constants of each severity at 32 px, (5, ...).
        large: constants of each severity at 224 px, (5, ...).
        side: pixels.
    """
    share = np.clip(math.log(side / SMALL) / math.log(LARGE / SMALL), 0, 1)
    return (1 - share) * np.asarray(small, np.float64) + share * np.asarray(large, np.float64)


def lengths(small: Sequence | np.ndarray, large: Sequence | np.ndarray, side: int) -> np.ndarray:
    """Returns `between` for lengths in pixels, which grow with the side above 224 px."""
    return between(small, large, side) * max(side / LARGE, 1)


def pick(table: Sequence | np.ndarray, severity: int | jax.Array) -> jax.Array:
    """Returns a severity's row of a table (5, ...), float32."""
    return jnp.asarray(table, jnp.float32)[severity - 1]


def round_stable(values: jax.Array) -> jax.Array:
    """Returns float32 values rounded to integers, with the same result everywhere.

    A sum that is mathematically a half is one in floating point only for some orders of summation,
    which differ between devices and programs. Values are therefore rounded to 1/1024 first.
    """
    return jnp.round(jnp.round(values * 1024) / 1024)


def separable(images: jax.Array, matrix: jax.Array | np.ndarray) -> jax.Array:
    """Applies a matrix (M, S) to rows and columns of images: (B, S, S, C) to (B, M, M, C)."""
    # A matrix product on an accelerator may otherwise run at a lower precision.
    exact = jax.lax.Precision.HIGHEST
    images = jnp.einsum("bhwc,ih->biwc", images, matrix, precision=exact)
    return jnp.einsum("bhwc,jw->bhjc", images, matrix, precision=exact)


def gaussian_matrices(
    sigmas: Sequence[float] | np.ndarray, side: int, mode: str, truncate: float
) -> np.ndarray:
    """Returns matrices (5, side, side) that smooth a row of pixels, one for each sigma.

    A sigma of 0 changes nothing.

    Args:
        sigmas: pixels, (5,).
        side: pixels.
        mode: `np.pad`'s mode for pixels outside: "edge" or "symmetric".
        truncate: radius of the kernel in sigmas, rounded to a pixel.
    """
    matrices = []
    for sigma in sigmas:
        radius = int(truncate * sigma + 0.5)
        taps = np.arange(-radius, radius + 1)
        weights = np.exp(-0.5 * (taps / max(sigma, 1e-6)) ** 2)
        source = np.pad(np.arange(side), radius, mode)  # type: ignore[call-overload]
        matrix = np.zeros((side, side))
        for tap, weight in zip(taps + radius, weights / weights.sum(), strict=True):
            np.add.at(matrix, (np.arange(side), source[tap : tap + side]), weight)
        matrices.append(matrix)
    return np.stack(matrices)
