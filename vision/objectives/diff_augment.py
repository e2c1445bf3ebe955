"""DiffAugment: what a discriminator sees is augmented, whether it is real or generated.

Zhao et al. 2020 (arXiv:2006.10738), section 3.2: the same policy for both, differentiable, so that
the generator learns through it and does not learn to draw augmented images. The ranges are those of
the authors' code. Images are float (B, H, W, C) in [-1, 1] before they are augmented.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

POLICIES = ("color", "translation", "cutout")  # in the order in which they are applied
BRIGHTNESS = 0.5  # largest shift
SATURATION = (0.0, 2.0)
CONTRAST = (0.5, 1.5)
SHIFT = 1 / 8  # largest translation, share of the side
HOLE = 1 / 2  # side of the cutout, share of the image's


def augment(key: jax.Array, images: jax.Array, policies: Sequence[str]) -> jax.Array:
    """Returns images, each augmented by its own draw.

    Args:
        key: where the draws come from.
        images: float (B, H, W, C).
        policies: some of `POLICIES`.
    """
    changes = {"color": _color, "translation": _translation, "cutout": _cutout}
    for number, name in enumerate(POLICIES):
        if name in policies:
            images = changes[name](jax.random.fold_in(key, number), images)
    return images


def change_colors(
    images: jax.Array, brightness: jax.Array, saturation: jax.Array, contrast: jax.Array
) -> jax.Array:
    """Returns images with other colors: brightness, then saturation, then contrast.

    Args:
        images: float (B, H, W, C).
        brightness: (B,), added to each pixel.
        saturation: (B,), factor of a pixel's distance from the mean of its channels.
        contrast: (B,), factor of a pixel's distance from the mean of its image.
    """
    images = images + brightness[:, None, None, None]
    gray = images.mean(3, keepdims=True)
    images = gray + (images - gray) * saturation[:, None, None, None]
    mean = images.mean((1, 2, 3), keepdims=True)
    return mean + (images - mean) * contrast[:, None, None, None]


def translate(images: jax.Array, down: jax.Array, right: jax.Array) -> jax.Array:
    """Returns images (B, H, W, C), moved by whole pixels, int (B,) each; 0 fills the gap."""
    rows = jnp.arange(images.shape[1])[None, :] - down[:, None]
    columns = jnp.arange(images.shape[2])[None, :] - right[:, None]
    # A product with a matrix of 0 and 1 has a gradient that every device computes fast.
    from_rows = jax.nn.one_hot(rows, images.shape[1], dtype=images.dtype)
    from_columns = jax.nn.one_hot(columns, images.shape[2], dtype=images.dtype)
    exact = jax.lax.Precision.HIGHEST
    moved = jnp.einsum("bij,bjwc->biwc", from_rows, images, precision=exact)
    return jnp.einsum("bij,bhjc->bhic", from_columns, moved, precision=exact)


def cut_out(images: jax.Array, top: jax.Array, left: jax.Array) -> jax.Array:
    """Returns images (B, H, W, C) with a hole of zeros, of half the side, at int (B,) corners.

    The hole may reach beyond the image.
    """
    height, width = images.shape[1:3]
    rows = jnp.arange(height)[None, :] - top[:, None]
    columns = jnp.arange(width)[None, :] - left[:, None]
    in_rows = (rows >= 0) & (rows < _share(height, HOLE))
    in_columns = (columns >= 0) & (columns < _share(width, HOLE))
    hole = in_rows[:, :, None] & in_columns[:, None, :]
    return jnp.where(hole[..., None], 0, images)


def _share(side, share):
    return int(side * share + 0.5)


def _color(key, images):
    keys = jax.random.split(key, 3)
    ranges = ((-BRIGHTNESS, BRIGHTNESS), SATURATION, CONTRAST)
    draws = [
        jax.random.uniform(key, (len(images),), images.dtype, low, high)
        for key, (low, high) in zip(keys, ranges, strict=True)
    ]
    return change_colors(images, *draws)


def _translation(key, images):
    steps = []
    for axis_key, side in zip(jax.random.split(key), images.shape[1:3], strict=True):
        largest = _share(side, SHIFT)
        steps.append(jax.random.randint(axis_key, (len(images),), -largest, largest + 1))
    return translate(images, *steps)


def _cutout(key, images):
    corners = []
    for axis_key, side in zip(jax.random.split(key), images.shape[1:3], strict=True):
        hole = _share(side, HOLE)
        center = jax.random.randint(axis_key, (len(images),), 0, side + 1 - hole % 2)
        corners.append(center - hole // 2)
    return cut_out(images, *corners)
