"""Weather: snow, frost, fog, bright light. See the package.

Frost imitates the original, which overlays photographs of frosted windows: here the ice is drawn
(`crystals`), so it looks similar but is not the same.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vision.data.augment.color import gray
from vision.data.augment.pixels import per_image
from vision.evaluation.corruptions.blur import smear, zoom_matrix
from vision.evaluation.corruptions.tables import LARGE, between, lengths, pick, separable

NEEDLES = 8  # directions in which ice grows, drawn for each image
ICE = (0.86, 0.95, 1.0)  # color of ice


def snow(key, images, severity):
    """Whitens the image, and lets flakes fall across it."""
    side = images.shape[1]
    # mean and deviation of the noise, its zoom, threshold of a flake; radius and sigma of the fall;
    # share of the image
    small = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )
    large = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )
    mean, deviation, zoom, threshold, _, _, share = pick(between(small, large, side), severity)
    fall, drop = jax.random.split(key)
    layer = mean + deviation * jax.random.normal(drop, (*images.shape[:3], 1))
    layer = separable(layer, zoom_matrix(side, zoom * max(side / LARGE, 1)))
    layer = jnp.clip(jnp.where(layer < threshold, 0, layer), 0, 1)
    degrees = jax.random.uniform(fall, (len(images),), minval=-135, maxval=-45)
    layer = smear(layer, lengths(small, large, side)[:, 4:6], severity, degrees)
    unit = images / 255
    unit = share * unit + (1 - share) * jnp.maximum(unit, 1.5 * gray(unit) + 0.5)
    return 255 * (unit + layer + layer[:, ::-1, ::-1])


def frost(key, images, severity):
    """Overlays the image with ice."""
    small = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))  # shares of image and ice
    large = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))
    image_share, ice_share = pick(between(small, large, images.shape[1]), severity)
    color = 1.0 if images.shape[-1] == 1 else jnp.asarray(ICE)
    ice = crystals(key, len(images), images.shape[1])
    return image_share * images + ice_share * 255 * color * ice


def crystals(key: jax.Array, count: int, side: int) -> jax.Array:
    """Returns ice, float32 (count, side, side, 1) in [0, 1]: crossing needles on an uneven veil."""
    cloud, seed, turn = jax.random.split(key, 3)
    decays = jnp.repeat(jnp.asarray([1.6, 1.25]), count)[:, None, None]
    thick, veil = plasma(cloud, 2 * count, side, decays).reshape(2, count, side, side, 1)
    length = max(side // 12, 4)
    margin = 2 * length  # so that needles also grow in from outside
    wide = side + 2 * margin
    seeds = jax.random.uniform(seed, (count * NEEDLES, wide, wide, 1)) ** 250  # few are bright
    degrees = 360 * jax.random.uniform(turn, (count * NEEDLES,))
    grown = smear(seeds, np.full((5, 2), length), 1, degrees)
    grown = grown[:, margin:-margin, margin:-margin]
    # An isolated bright seed gives a needle whose root is 1.
    grown = length * np.sqrt(np.pi / 2) * grown.reshape(count, NEEDLES, side, side, 1).max(1)
    return jnp.clip(2.2 * thick - 0.2, 0, 1) * jnp.clip(0.5 * veil + 0.9 * grown - 0.1, 0, 1)


def fog(key, images, severity):
    """Hides the image in a cloud, and keeps its brightest value."""
    # thickness, decay of the cloud's detail
    small = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))
    large = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))
    thickness, decay = pick(between(small, large, images.shape[1]), severity)
    brightest = per_image(images.max((1, 2, 3))) / 255
    clouds = plasma(key, len(images), images.shape[1], decay)[..., None]
    return (images + 255 * thickness * clouds) * brightest / (brightest + thickness)


def plasma(key: jax.Array, count: int, side: int, decay: jax.Array) -> jax.Array:
    """Returns clouds, float32 (count, side, side) in [0, 1]: the diamond-square algorithm.

    Fournier et al. 1982, Computer rendering of stochastic models; on a torus. The noise shrinks by
    decay^2 with each halving of the step, as in the original.

    Args:
        key: a random key.
        count: number of clouds.
        side: pixels.
        decay: one number, or one per cloud, (count, 1, 1).
    """
    grid = jnp.zeros((count, 1, 1))
    levels = max(side - 1, 1).bit_length()
    # One draw for all levels, and a barrier between them: otherwise compiling takes ten times as
    # long.
    draws = jax.random.uniform(key, (count, 4**levels - 1), minval=-1, maxval=1)
    for level in range(levels):
        size = grid.shape[1]
        grid = jax.lax.optimization_barrier(grid)
        noise = draws[:, 4**level - 1 : 4 ** (level + 1) - 1].reshape(count, 3, size, size)
        grid = _refine(grid, *(decay ** (-2.0 * level) * noise[:, i] for i in range(3)))
    low = grid.min((1, 2), keepdims=True)
    high = grid.max((1, 2), keepdims=True)
    return ((grid - low) / jnp.maximum(high - low, 1e-6))[:, :side, :side]


def _refine(grid, centers, horizontal, vertical):
    """Returns a grid (B, 2 S, 2 S) whose new points are means of their neighbors plus noise.

    Args:
        grid: (B, S, S).
        centers: noise of the points in the middle of four, (B, S, S).
        horizontal: noise of the points between horizontal neighbors, (B, S, S).
        vertical: noise of the points between vertical neighbors, (B, S, S).
    """
    count, size, _ = grid.shape
    right = jnp.roll(grid, -1, 2)
    below = jnp.roll(grid, -1, 1)
    centers += (grid + right + below + jnp.roll(right, -1, 1)) / 4
    horizontal += (grid + right + centers + jnp.roll(centers, 1, 1)) / 4
    vertical += (grid + below + centers + jnp.roll(centers, 1, 2)) / 4
    rows = jnp.stack([_interleave(grid, horizontal), _interleave(vertical, centers)], 2)
    return rows.reshape(count, 2 * size, 2 * size)


def _interleave(even, odd):
    """Returns (B, H, 2 W) whose columns alternate between the two (B, H, W)."""
    return jnp.stack([even, odd], -1).reshape(*even.shape[:2], -1)


def brightness(key, images, severity):
    """Adds to the value of hue, saturation, value."""
    small = (0.05, 0.1, 0.15, 0.2, 0.3)
    large = (0.1, 0.2, 0.3, 0.4, 0.5)
    more = pick(between(small, large, images.shape[1]), severity)
    value = images.max(-1, keepdims=True)
    brighter = jnp.minimum(value + 255 * more, 255)
    return jnp.where(value > 0, images * brighter / jnp.maximum(value, 1), brighter)
