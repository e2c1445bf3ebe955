"""RandAugment. Cubuk et al. 2019 (arXiv:1909.13719).

Each image runs through `layers` operations, each drawn from the paper's fourteen, all at one
magnitude in 0 .. 30. With a draw for each image, a switch over fourteen functions computes all
fourteen for all images. So a layer has three parts, and an operation is a choice of numbers in one
of them and nothing in the others:

- one affine resampling: shear x and y, translate x and y, rotate;
- one blend with a plain version: brightness, color, contrast, sharpness;
- one selection among pointwise maps: posterize, solarize, autocontrast, equalize.

How far magnitude 30 goes differs between implementations; here it is a shear of slope 0.3, a shift
of 150/331 of the side, a rotation by 30 degrees, a factor of 1 +- 0.9, 4 bits left, all pixels
inverted. Directions are drawn. What comes in from outside the image is zero.
"""

import math

import jax
import jax.numpy as jnp

from vision.data.augment import color
from vision.data.augment.geometry import inverse_map, resample
from vision.data.augment.pixels import per_image, restore, to_float

MOVES = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
BLENDS = ("brightness", "color", "contrast", "sharpness")
OPERATIONS = ("identity", *MOVES, *BLENDS, "posterize", "solarize", "autocontrast", "equalize")


def randaugment(key, images, layers, magnitude):
    """Returns images under `layers` random operations each, drawn with replacement.

    Args:
      key: a random key.
      images: uint8 or float (B, H, W, C) in [0, 255], C = 1 or 3; shape and dtype are kept.
      layers: operations an image.
      magnitude: 0 to 30.
    """
    layer_keys = jax.random.split(key, layers)

    def layer(index, pixels):
        key_choice, key_sign = jax.random.split(layer_keys[index])
        choice = jax.random.randint(key_choice, (len(images),), 0, len(OPERATIONS))
        sign = jax.random.rademacher(key_sign, (len(images),), jnp.float32)
        return apply(pixels, choice, sign, magnitude)

    return restore(jax.lax.fori_loop(0, layers, layer, to_float(images)), images.dtype)


def apply(images, choice, sign, magnitude):
    """Returns images under one operation each: choice (B,) indexes OPERATIONS, sign (B,) is -1 or
    1."""
    pixels = to_float(images)
    level = magnitude / 30

    def chosen(*names):
        return sum(choice == OPERATIONS.index(name) for name in names) > 0

    # All parts read the layer's own input, never each other's result: XLA's CPU compiler would
    # compute that again for each place that reads it.
    result = jnp.where(per_image(chosen(*MOVES)), _move(pixels, chosen, sign * level), pixels)
    result = jnp.where(
        per_image(chosen(*BLENDS)), _blend(pixels, chosen, 1 + 0.9 * sign * level), result
    )
    each = jnp.ones(len(pixels))
    for name, mapped in (
        ("posterize", color.posterize(pixels, (8 - round(4 * level)) * each)),
        ("solarize", color.solarize(pixels, 255 * (1 - level) * each)),
        ("autocontrast", color.autocontrast(pixels)),
        ("equalize", color.equalize(pixels)),
    ):
        result = jnp.where(per_image(chosen(name)), mapped, result)
    return restore(result, images.dtype)


def _move(pixels, chosen, level):
    _, height, width, _ = pixels.shape

    def amount(name, most):
        return jnp.where(chosen(name), most * level, 0.0)

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
