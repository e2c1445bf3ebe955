"""Positions of an image's patches: fixed ones, and learned ones of another size."""

import math

import jax
import jax.numpy as jnp
import numpy as np


def sincos_2d(grid, width, temperature=10_000.0):
    """Returns fixed positions (grid * grid, width), float32: sin x, cos x, sin y, cos y, a quarter
    each.

    As in MoCo v3 (Chen et al. 2021, arXiv:2104.02057) and arXiv:2205.01580.
    """
    frequencies = 1 / temperature ** np.linspace(0, 1, width // 4)
    y, x = (np.outer(axis.ravel(), frequencies) for axis in np.mgrid[:grid, :grid])
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1).astype(np.float32)


def resize_positions(array, shape):
    """Resizes learned positions (1, N, D) to another image's `shape` (1, M, D); those of other
    tokens stay.

    Returns them unchanged where N and M are no grids behind the same number of tokens.
    """
    for extra in range(3):
        old, new = (math.isqrt(max(0, tokens - extra)) for tokens in (array.shape[1], shape[1]))
        if old and new and (old**2 + extra, new**2 + extra) == (array.shape[1], shape[1]):
            return np.concatenate(
                [array[:, :extra], resize_square(array[0, extra:], new)[None]], axis=1
            )
    return array


def resize_square(rows, side):
    """Resizes a square of (n * n, D) to (side * side, D), float32: bicubic, with antialiasing."""
    n = math.isqrt(len(rows))
    square = jnp.asarray(rows, jnp.float32).reshape(n, n, -1)
    return np.asarray(
        jax.image.resize(square, (side, side, square.shape[-1]), "cubic").reshape(side * side, -1)
    )
