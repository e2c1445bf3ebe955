"""Augmentation on the device: what happens to a uint8 batch inside the training step, before the
model sees it.

`augment` runs what `config.augment` turns on, `normalize` makes the model's input, and
`test_time_views` gives the variants of it that an evaluation may average over.

Every operation is a small function `op(key, images, ...) -> images` with its own key and a draw for
each image; it takes uint8 or float32 pixels in [0, 255] and returns the dtype it got. Crops by
whole pixels, flips and quarter turns run on the uint8 batch, which is exact and moves a quarter of
the bytes; the rest runs in float32, and `augment` rounds once at the end. All of it is written for
the global batch under one `jax.jit`: the result does not depend on how many devices share the
batch.
"""

import jax
import jax.numpy as jnp

from vision.data.augment import color, geometry, mix, randaugment
from vision.data.augment.geometry import alternating_flips
from vision.data.augment.pixels import normalize, restore, to_float
from vision.data.augment.views import test_time_views
from vision.errors import UserError, check_choice

__all__ = ["alternating_flips", "augment", "normalize", "test_time_views"]

# An operation's key is folded from its place here, so that turning one on changes no other's draw.
# Append only.
STREAMS = (
    "pad_crop",
    "flip_horizontal",
    "flip_vertical",
    "rot90",
    "random_resized_crop",
    "affine",
    "brightness",
    "contrast",
    "saturation",
    "hue",
    "randaugment",
    "random_erasing",
    "mix",
)


def augment(c, key, images, labels, num_classes, *, flips=None):
    """Returns an augmented batch and its soft labels.

    Order: crops, flips and turns; resampling; colors; RandAugment; erasing; mixup or CutMix.

    Args:
      c: `config.augment`, static.
      key: a random key; the same key gives the same result.
      images: uint8 (B, H, W, C), C = 1 or 3; or float32 in [0, 255], which stays float32 and is not
          rounded.
      labels: int (B,). A label outside 0 .. num_classes - 1 becomes a row of zeros.
      num_classes: length of a soft label.
      flips: bool (B,), from `alternating_flips`; read where `c.flip_alternating` is on, and needed
          there.

    Returns:
      Images of the same shape and dtype (uint8 is rounded once, at the end), and float32 labels (B,
      num_classes).

    Raises:
      UserError: an unknown pad_mode, or both kinds of horizontal flip.
    """
    check_choice("augment.pad_mode", c.pad_mode, tuple(geometry.PAD_MODES))
    if c.flip_horizontal and c.flip_alternating:
        raise UserError(
            "augment.flip_horizontal and augment.flip_alternating are both on: choose one of them"
        )
    keys = {name: jax.random.fold_in(key, index) for index, name in enumerate(STREAMS)}
    labels = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
    pixels = to_float(_move_whole(c, keys, images, flips))
    pixels = _recolor(c, keys, _resample(c, keys, pixels))
    if c.randaugment_layers:
        settings = c.randaugment_layers, c.randaugment_magnitude
        pixels = randaugment.randaugment(keys["randaugment"], pixels, *settings)
    if c.random_erasing:
        pixels = mix.random_erasing(
            keys["random_erasing"], pixels, c.random_erasing, c.erasing_area
        )
    if c.mixup and c.cutmix:
        pixels, labels = mix.mixup_or_cutmix(keys["mix"], pixels, labels, c.mixup, c.cutmix)
    elif c.mixup:
        pixels, labels = mix.mixup(keys["mix"], pixels, labels, c.mixup)
    elif c.cutmix:
        pixels, labels = mix.cutmix(keys["mix"], pixels, labels, c.cutmix)
    return restore(pixels, images.dtype), labels


def _move_whole(c, keys, images, flips):
    """Runs what only moves whole pixels, in the batch's own dtype."""
    if c.pad_crop:
        images = geometry.pad_crop(keys["pad_crop"], images, c.pad_crop, c.pad_mode)
    if c.flip_alternating:
        images = geometry.mirror(images, flips)
    for name in ("flip_horizontal", "flip_vertical", "rot90"):
        if c[name]:
            images = getattr(geometry, name)(keys[name], images)
    return images


def _resample(c, keys, pixels):
    if c.random_resized_crop:
        pixels = geometry.random_resized_crop(
            keys["random_resized_crop"], pixels, c.crop_area, c.crop_ratio
        )
    if c.affine:
        pixels = geometry.affine(keys["affine"], pixels, c.rotate, c.shear, c.translate, c.scale)
    return pixels


def _recolor(c, keys, pixels):
    for name in ("brightness", "contrast", "saturation", "hue"):
        if c[name]:
            pixels = getattr(color, name)(keys[name], pixels, c[name])
    return pixels
