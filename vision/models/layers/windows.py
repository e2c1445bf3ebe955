"""Windows of a feature map: cutting, cyclic shifts, and relative positions, for Swin."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vision.models.layers.positions import resize_square


def pad_to_multiple(x: jax.Array, divisor: int) -> jax.Array:
    """Pads x (B, H, W, C) with zeros on the far side, to sides that `divisor` divides."""
    missing = [-length % divisor for length in x.shape[1:3]]
    if not any(missing):
        return x
    return jnp.pad(x, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))


def to_windows(x: jax.Array, window: int) -> jax.Array:
    """Cuts x (B, H, W, C) into windows: (B, windows, window * window, C), row by row."""
    batch, height, side, width = x.shape
    x = x.reshape(batch, height // window, window, side // window, window, width)
    return x.swapaxes(2, 3).reshape(batch, -1, window * window, width)


def from_windows(x: jax.Array, window: int, sides: Sequence[int]) -> jax.Array:
    """Returns the map (B, H, W, C) with these sides (H, W) whose windows are x."""
    batch, *_, width = x.shape
    height, side = sides
    x = x.reshape(batch, height // window, side // window, window, window, width)
    return x.swapaxes(2, 3).reshape(batch, height, side, width)


def regions(sides: Sequence[int], window: int, shifts: Sequence[int]) -> np.ndarray:
    """Returns the region of each pixel of a shifted map: (windows, window * window) integers.

    Windows on the far side contain pixels that the cyclic shift brought there from the near side.
    They are not neighbors of the others, so they have another region.
    """
    rows, columns = (
        (np.arange(side) >= side - window).astype(int) + (np.arange(side) >= side - shift)
        for side, shift in zip(sides, shifts, strict=True)
    )
    grid = 3 * rows[:, None] + columns
    return np.asarray(to_windows(grid[None, :, :, None], window)[0, :, :, 0])


def relative_positions(window: int) -> np.ndarray:
    """Returns the row in the table of biases for each pair of tokens of a window.

    The result is (N, N) integers, with N = window * window.
    """
    places = np.indices((window, window)).reshape(2, -1)
    rows, columns = places[:, :, None] - places[:, None, :] + window - 1
    return rows * (2 * window - 1) + columns


def resize_biases(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Resizes a table of biases (rows, heads) to another window's `shape`, for fine-tuning.

    Section 4.1 of the Swin paper. A table for another number of heads is returned unchanged.
    """
    if array.shape[1] != shape[1]:
        return array
    return resize_square(array, round(shape[0] ** 0.5))
