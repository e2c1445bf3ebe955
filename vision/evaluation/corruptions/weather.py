"""Weather: snow, frost, fog, bright light. See the package.

Frost is made after the original, which lays photographs of frosted windows over the image: here the
ice is drawn (`crystals`), so it looks alike and is not the same.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vision.data.augment.color import gray
from vision.data.augment.pixels import per_image
from vision.evaluation.corruptions.blur import move_along, zoom_matrix
from vision.evaluation.corruptions.tables import between, lengths, pick, separable

NEEDLES = 8  # directions in which ice grows, of each image its own
ICE = (0.86, 0.95, 1.0)  # its color


def snow(key, images, severity):
    """Whitens the image, and lets flakes fall across it."""
    side = images.shape[1]
    # The noise's mean and deviation, its zoom, the threshold of a flake; radius and sigma of the
    # fall; image's share.
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
    layer = separable(layer, zoom_matrix(side, zoom * max(side / 224, 1)))
    layer = jnp.clip(jnp.where(layer < threshold, 0, layer), 0, 1)
    degrees = jax.random.uniform(fall, (len(images),), minval=-135, maxval=-45)
    layer = move_along(layer, lengths(small, large, side)[:, 4:6], severity, degrees)
    unit = images / 255
    unit = share * unit + (1 - share) * jnp.maximum(unit, 1.5 * gray(unit) + 0.5)
    return 255 * (unit + layer + layer[:, ::-1, ::-1])


def frost(key, images, severity):
    """Lays ice over the image."""
    small = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))  # shares of image and ice
    large = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))
    own, ice = pick(between(small, large, images.shape[1]), severity)
    color = 1.0 if images.shape[-1] == 1 else jnp.asarray(ICE)
    return own * images + ice * 255 * color * crystals(key, len(images), images.shape[1])


def crystals(key, count, side):
    """Returns ice, float32 (count, side, side, 1) in [0, 1]: needles that cross, on a veil, thicker
    in places."""
    cloud, seed, turn = jax.random.split(key, 3)
    decays = jnp.repeat(jnp.asarray([1.6, 1.25]), count)[:, None, None]
    thick, veil = plasma(cloud, 2 * count, side, decays).reshape(2, count, side, side, 1)
    length = max(side // 12, 4)
    margin = 2 * length  # so that needles also grow in from outside
    wide = side + 2 * margin
    seeds = jax.random.uniform(seed, (count * NEEDLES, wide, wide, 1)) ** 250  # few are bright
    degrees = 360 * jax.random.uniform(turn, (count * NEEDLES,))
    grown = move_along(seeds, np.full((5, 2), length), 1, degrees)[
        :, margin:-margin, margin:-margin
    ]
    # A bright seed alone gives a needle whose root is 1.
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


def plasma(key, count, side, decay):
    """Returns clouds, float32 (count, side, side) in [0, 1], by the diamond-square algorithm on a
    torus.

    Fournier et al. 1982, Computer rendering of stochastic models. The noise shrinks by decay^2 with
    each halving of the step, as in the original. `decay` is one number, or one an image, (count, 1,
    1).
    """
    grid = jnp.zeros((count, 1, 1))
    levels = max(side - 1, 1).bit_length()
    # One draw for all levels, and a wall between them: unlike this, compiling it takes ten times as
    # long.
    draws = jax.random.uniform(key, (count, 4**levels - 1), minval=-1, maxval=1)
    for level in range(levels):
        grid, size = jax.lax.optimization_barrier(grid), grid.shape[1]
        noise = draws[:, 4**level - 1 : 4 ** (level + 1) - 1].reshape(count, 3, size, size)
        centers, horizontal, vertical = (decay ** (-2.0 * level) * noise[:, i] for i in range(3))
        right = jnp.roll(grid, -1, 2)
        below = jnp.roll(grid, -1, 1)
        centers += (grid + right + below + jnp.roll(right, -1, 1)) / 4
        horizontal += (grid + right + centers + jnp.roll(centers, 1, 1)) / 4
        vertical += (grid + below + centers + jnp.roll(centers, 1, 2)) / 4
        rows = jnp.stack([_interleave(grid, horizontal), _interleave(vertical, centers)], 2)
        grid = rows.reshape(count, 2 * size, 2 * size)
    low = grid.min((1, 2), keepdims=True)
    high = grid.max((1, 2), keepdims=True)
    return ((grid - low) / jnp.maximum(high - low, 1e-6))[:, :side, :side]


def _interleave(even, odd):
    """Returns (B, H, 2 W) whose columns alternate between the two (B, H, W)."""
    return jnp.stack([even, odd], -1).reshape(*even.shape[:2], -1)


def brightness(key, images, severity):
    """Adds to the value of hue, saturation, value."""
    more = pick(
        between((0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5), images.shape[1]), severity
    )
    value = images.max(-1, keepdims=True)
    brighter = jnp.minimum(value + 255 * more, 255)
    return jnp.where(value > 0, images * brighter / jnp.maximum(value, 1), brighter)
