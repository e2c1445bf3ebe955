"""Operations that change pixel values, as defined by PIL's ImageEnhance and ImageOps.

Most blend the image with a plain version of itself, out = plain + factor * (image - plain), clipped
to [0, 255]: brightness with black, contrast with its mean gray, saturation with its gray, sharpness
with its smoothed self. Factor 1 changes nothing, 0 gives the plain version, above 1 exaggerates.

Every operation takes uint8 or float images (B, H, W, C) in [0, 255], C = 1 or 3, and returns the
same shape and dtype. The random ones draw one number per image; the others take it, as (B,). With
one channel, saturation and hue do not change the image.
"""

import jax
import jax.numpy as jnp

from vision.data.augment.geometry import take_pixels
from vision.data.augment.pixels import from_float, mean_color, per_image, to_float


def brightness(key: jax.Array, images: jax.Array, amount: float) -> jax.Array:
    """Scales each image by a factor drawn from [1 - amount, 1 + amount]."""
    return blend(images, 0.0, _factors(key, images, amount))


def contrast(key: jax.Array, images: jax.Array, amount: float) -> jax.Array:
    """Scales each image's distance from its mean gray.

    The factor is drawn from [1 - amount, 1 + amount].
    """
    return blend(images, mean_gray(images), _factors(key, images, amount))


def saturation(key: jax.Array, images: jax.Array, amount: float) -> jax.Array:
    """Scales each pixel's distance from its gray.

    The factor is drawn from [1 - amount, 1 + amount], once per image.
    """
    return blend(images, gray(images), _factors(key, images, amount))


def hue(key: jax.Array, images: jax.Array, amount: float) -> jax.Array:
    """Rotates each image's colors by a share of the color circle drawn from [-amount, amount]."""
    turns = amount * jax.random.uniform(key, (len(images),), minval=-1.0, maxval=1.0)
    return shift_hue(images, turns)


def blend(images: jax.Array, plain: jax.Array | float, factor: jax.Array) -> jax.Array:
    """Returns plain + factor * (images - plain), clipped to [0, 255].

    Args:
        images: uint8 or float (B, H, W, C) in [0, 255].
        plain: broadcasts to `images`.
        factor: (B,).
    """
    mixed = plain + per_image(factor) * (to_float(images) - plain)
    return from_float(jnp.clip(mixed, 0, 255), images.dtype)


def gray(images: jax.Array) -> jax.Array:
    """Returns the ITU-R 601 luma, float32 (B, H, W, 1)."""
    images = to_float(images)
    if images.shape[-1] == 1:
        return images
    # Written out, since a matrix product may run at a lower precision on an accelerator.
    return (0.299 * images[..., 0] + 0.587 * images[..., 1] + 0.114 * images[..., 2])[..., None]


def mean_gray(images: jax.Array) -> jax.Array:
    """Returns each image's mean luma, float32 (B, 1, 1, 1)."""
    return gray(mean_color(images))


def smooth(images: jax.Array) -> jax.Array:
    """Applies PIL's SMOOTH filter: 3 x 3 with weights 1, except 5 in the center.

    Returns float32 images. The border is unchanged.
    """
    images = to_float(images)
    rows = images[:, :-2] + images[:, 1:-1] + images[:, 2:]
    box = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    return images.at[:, 1:-1, 1:-1].set((box + 4 * images[:, 1:-1, 1:-1]) / 13)


def shift_hue(images: jax.Array, turns: jax.Array) -> jax.Array:
    """Adds `turns`, (B,) in full turns, to the hue of the HSV color model."""
    if images.shape[-1] != 3:
        return images
    red, green, blue = jnp.moveaxis(to_float(images), -1, 0)
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    divisor = jnp.where(chroma > 0, chroma, 1)
    sixths = jnp.where(
        value == red,
        (green - blue) / divisor,
        jnp.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    sixths = sixths + 6 * turns[:, None, None]

    def channel(offset):
        k = offset + sixths
        k = k - 6 * jnp.floor(k / 6)  # `%` is ten times slower on a CPU
        return value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)

    return from_float(jnp.stack([channel(5), channel(3), channel(1)], -1), images.dtype)


def posterize(images: jax.Array, bits: jax.Array) -> jax.Array:
    """Keeps the upper `bits`, (B,) in 1 .. 8, of each pixel."""
    step = per_image(2.0 ** (8 - bits))
    return from_float(jnp.floor(jnp.round(to_float(images)) / step) * step, images.dtype)


def solarize(images: jax.Array, threshold: jax.Array) -> jax.Array:
    """Inverts the pixels at or above the threshold, (B,) in [0, 256]: 0 inverts all, 256 none."""
    pixels = to_float(images)
    return from_float(jnp.where(pixels < per_image(threshold), pixels, 255 - pixels), images.dtype)


def autocontrast(images: jax.Array) -> jax.Array:
    """Stretches each channel of each image to [0, 255]; a constant channel is unchanged."""
    pixels = to_float(images)
    low = pixels.min((1, 2), keepdims=True)
    high = pixels.max((1, 2), keepdims=True)
    scale = 255 / jnp.where(high > low, high - low, 1)
    return from_float(jnp.where(high > low, (pixels - low) * scale, pixels), images.dtype)


def equalize(images: jax.Array) -> jax.Array:
    """Equalizes each channel's histogram, to exactly PIL's integers.

    Pixels are first rounded to integers.
    """
    batch, height, width, channels = images.shape
    first_bin = 256 * jnp.arange(channels)
    levels = jnp.clip(jnp.round(to_float(images)), 0, 255).astype(jnp.int32)
    bins = (levels + first_bin).reshape(batch, -1)
    # One scatter per image, not one over the batch: otherwise a batch over several devices would
    # need an exchange.
    zeros = jnp.zeros(channels * 256, jnp.int32)
    counts = jax.vmap(lambda b: zeros.at[b].add(1, mode="promise_in_bounds"))(bins)
    counts = counts.reshape(batch, channels, 256)
    # PIL excludes the highest level that occurs from the total, and does not change a channel with
    # too few pixels below it.
    below = jnp.cumsum(counts, -1) - counts
    step = jnp.where(counts > 0, below, 0).max(-1, keepdims=True) // 255
    table = jnp.clip((below + step // 2) // jnp.maximum(step, 1), 0, 255)
    table = jnp.where(step > 0, table, jnp.arange(256)).reshape(batch, -1)
    return take_pixels(table, bins).reshape(images.shape).astype(images.dtype)


def _factors(key, images, amount):
    return 1 + amount * jax.random.uniform(key, (len(images),), minval=-1.0, maxval=1.0)
