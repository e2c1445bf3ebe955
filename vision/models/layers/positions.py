"""Positions of an image's patches: fixed ones, and resizing of learned ones."""

import math

import jax
import jax.numpy as jnp
import numpy as np


def sincos_2d(grid: int, width: int, temperature: float = 10_000.0) -> np.ndarray:
    """Returns fixed positions (grid * grid, width), float32.

    A quarter of the width each is sin x, cos x, sin y, cos y, as in MoCo v3 (Chen et al. 2021,
    arXiv:2104.02057) and arXiv:2205.01580.
    """
    frequencies = 1 / temperature ** np.linspace(0, 1, width // 4)
    y, x = (np.outer(axis.ravel(), frequencies) for axis in np.mgrid[:grid, :grid])
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1).astype(np.float32)


def resize_positions(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resizes learned positions (1, N, D) to `shape` (1, M, D), for another image size.

    The positions of up to two leading tokens, such as a class token, are kept. Returns `array`
    unchanged if N and M are not both square grids after the same number of leading tokens.
    """
    for extra in range(3):
        old, new = (math.isqrt(max(0, tokens - extra)) for tokens in (array.shape[1], shape[1]))
        if old and new and (old**2 + extra, new**2 + extra) == (array.shape[1], shape[1]):
            grid = resize_square(array[0, extra:], new)
            return np.concatenate([array[:, :extra], grid[None]], axis=1)
    return array


def resize_square(rows: np.ndarray, side: int) -> np.ndarray:
    """Resizes a square grid (n * n, D) to (side * side, D), float32: bicubic, with antialiasing."""
    n = math.isqrt(len(rows))
    square = jnp.asarray(rows, jnp.float32).reshape(n, n, -1)
    resized = jax.image.resize(square, (side, side, square.shape[-1]), "cubic")
    return np.asarray(resized.reshape(side * side, -1))
