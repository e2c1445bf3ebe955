"""RandAugment. Cubuk et al. 2019 (arXiv:1909.13719).

Each image passes through `layers` operations, each drawn from the paper's fourteen, all at one
magnitude in 0 .. 30. With a draw for each image, a switch over fourteen functions would compute all
fourteen for all images. Therefore a layer has three parts, and an operation is a choice of
parameters in one of them and the identity in the others:

- one affine resampling: shear x and y, translate x and y, rotate;
- one blend with a plain version: brightness, color, contrast, sharpness;
- one selection among pointwise maps: posterize, solarize, autocontrast, equalize.

The effect of magnitude 30 differs between implementations; here it is a shear of slope 0.3, a shift
of 150/331 of the side, a rotation by 30 degrees, a factor of 1 +- 0.9, 4 bits left, all pixels
inverted. Directions are drawn. Pixels from outside the image are zero.
"""

import math

import jax
import jax.numpy as jnp

from vision.data.augment import color
from vision.data.augment.geometry import inverse_map, resample
from vision.data.augment.pixels import from_float, per_image, to_float

MOVES = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
BLENDS = ("brightness", "color", "contrast", "sharpness")
OPERATIONS = ("identity", *MOVES, *BLENDS, "posterize", "solarize", "autocontrast", "equalize")


def randaugment(key: jax.Array, images: jax.Array, layers: int, magnitude: float) -> jax.Array:
    """Applies `layers` random operations to each image, drawn with replacement.

    Args:
        key: a random key.
        images: uint8 or float (B, H, W, C) in [0, 255], C = 1 or 3; shape and dtype are kept.
        layers: number of operations per image.
        magnitude: 0 to 30.
    """
    layer_keys = jax.random.split(key, layers)

    def layer(index, pixels):
        key_choice, key_sign = jax.random.split(layer_keys[index])
        choice = jax.random.randint(key_choice, (len(images),), 0, len(OPERATIONS))
        sign = jax.random.rademacher(key_sign, (len(images),), jnp.float32)
        return apply(pixels, choice, sign, magnitude)

    return from_float(jax.lax.fori_loop(0, layers, layer, to_float(images)), images.dtype)


def apply(images: jax.Array, choice: jax.Array, sign: jax.Array, magnitude: float) -> jax.Array:
    """Applies one operation to each image.

    Args:
        images: uint8 or float (B, H, W, C) in [0, 255]; shape and dtype are kept.
        choice: int (B,), indices into `OPERATIONS`.
        sign: float32 (B,), -1 or 1.
        magnitude: 0 to 30.
    """
    pixels = to_float(images)
    level = magnitude / 30

    def chosen(*names):
        return sum(choice == OPERATIONS.index(name) for name in names) > 0

    # All parts read the layer's own input, never each other's result, which XLA's CPU compiler
    # would compute again for each place that reads it.
    result = jnp.where(per_image(chosen(*MOVES)), _move(pixels, chosen, sign * level), pixels)
    blended = _blend(pixels, chosen, 1 + 0.9 * sign * level)
    result = jnp.where(per_image(chosen(*BLENDS)), blended, result)
    ones = jnp.ones(len(pixels))
    mapped = {
        "posterize": color.posterize(pixels, (8 - round(4 * level)) * ones),
        "solarize": color.solarize(pixels, 255 * (1 - level) * ones),
        "autocontrast": color.autocontrast(pixels),
        "equalize": color.equalize(pixels),
    }
    for name, mapped_pixels in mapped.items():
        result = jnp.where(per_image(chosen(name)), mapped_pixels, result)
    return from_float(result, images.dtype)


def _move(pixels, chosen, level):
    _, height, width, _ = pixels.shape

    def amount(name, maximum):
        return jnp.where(chosen(name), maximum * level, 0.0)

    inverse = inverse_map(
        amount("rotate", math.radians(30)),
        amount("shear_x", 0.3),
        amount("shear_y", 0.3),
        amount("translate_x", 150 / 331 * width),
        amount("translate_y", 150 / 331 * height),
        jnp.ones(len(pixels)),
    )
    return resample(pixels, inverse)


def _blend(pixels, chosen, factor):
    plain = jnp.where(per_image(chosen("contrast")), color.mean_gray(pixels), 0.0)
    plain = jnp.where(per_image(chosen("color")), color.gray(pixels), plain)
    plain = jnp.where(per_image(chosen("sharpness")), color.smooth(pixels), plain)
    return color.blend(pixels, plain, factor)
