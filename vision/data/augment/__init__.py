"""Augmentation on the device: what happens to a uint8 batch inside the training step, before the model sees it.

`augment` runs what `config.augment` turns on, `normalize` makes the model's input.

Every operation is a small function `op(key, images, ...) -> images` with its own key and a draw for each image; it
takes uint8 or float32 pixels in [0, 255] and returns the dtype it got. Crops by whole pixels, flips and quarter turns
run on the uint8 batch, which is exact and moves a quarter of the bytes; the rest runs in float32, and `augment` rounds
once at the end. All of it is written for the global batch under one `jax.jit`: the result does not depend on how many
devices share the batch.
"""

import jax
import jax.numpy as jnp

from vision.data.augment import color, geometry, mix, randaugment
from vision.data.augment.pixels import normalize, restore, to_float

__all__ = ["augment", "normalize"]

# An operation's key is folded from its place here, so that turning one on changes no other's draw. Append only.
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


def augment(c, key, images, labels, num_classes):
    """Returns an augmented batch and its soft labels.

    Order: crops, flips and turns; resampling; colors; RandAugment; erasing; mixup or CutMix.

    Args:
      c: `config.augment`, static.
      key: a random key; the same key gives the same result.
      images: uint8 (B, H, W, C), C = 1 or 3; or float32 in [0, 255], which stays float32 and is not rounded.
      labels: int (B,). A label outside 0 .. num_classes - 1 becomes a row of zeros.
      num_classes: length of a soft label.

    Returns:
      Images of the same shape and dtype (uint8 is rounded once, at the end), and float32 labels (B, num_classes).
    """
    keys = {name: jax.random.fold_in(key, index) for index, name in enumerate(STREAMS)}
    labels = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
    pixels = to_float(_move_whole(c, keys, images))
    pixels = _recolor(c, keys, _resample(c, keys, pixels))
    if c.randaugment_layers:
        settings = c.randaugment_layers, c.randaugment_magnitude
        pixels = randaugment.randaugment(keys["randaugment"], pixels, *settings)
    if c.random_erasing:
        pixels = mix.random_erasing(keys["random_erasing"], pixels, c.random_erasing, c.erasing_area)
    if c.mixup and c.cutmix:
        pixels, labels = mix.mixup_or_cutmix(keys["mix"], pixels, labels, c.mixup, c.cutmix)
    elif c.mixup:
        pixels, labels = mix.mixup(keys["mix"], pixels, labels, c.mixup)
    elif c.cutmix:
        pixels, labels = mix.cutmix(keys["mix"], pixels, labels, c.cutmix)
    return restore(pixels, images.dtype), labels


def _move_whole(c, keys, images):
    """Runs what only moves whole pixels, in the batch's own dtype."""
    if c.pad_crop:
        images = geometry.pad_crop(keys["pad_crop"], images, c.pad_crop)
    for name in ("flip_horizontal", "flip_vertical", "rot90"):
        if c[name]:
            images = getattr(geometry, name)(keys[name], images)
    return images


def _resample(c, keys, pixels):
    if c.random_resized_crop:
        pixels = geometry.random_resized_crop(keys["random_resized_crop"], pixels, c.crop_area, c.crop_ratio)
    if c.affine:
        pixels = geometry.affine(keys["affine"], pixels, c.rotate, c.shear, c.translate, c.scale)
    return pixels


def _recolor(c, keys, pixels):
    for name in ("brightness", "contrast", "saturation", "hue"):
        if c[name]:
            pixels = getattr(color, name)(keys[name], pixels, c[name])
    return pixels
