"""Augmentation on the device, applied to a uint8 batch inside the training step.

`augment` applies what `config.augment` turns on, `normalize` makes the model's input, and
`test_time_views` gives the views of it that an evaluation may average over.

Every operation is a small function `op(key, images, ...) -> images` with its own key and a draw for
each image; it takes uint8 or float32 pixels in [0, 255] and returns the same dtype. Crops by whole
pixels, flips and quarter turns run on the uint8 batch, which is exact and moves a quarter of the
bytes; the rest runs in float32, and `augment` rounds once at the end. Everything is written for the
global batch under one `jax.jit`: the result does not depend on how many devices share the batch.
"""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vision.data.augment import blur, color, geometry, mix, randaugment
from vision.data.augment.geometry import alternating_flips
from vision.data.augment.pixels import from_float, normalize, per_image, to_float
from vision.data.augment.views import test_time_views
from vision.errors import UserError, check_choice

__all__ = ["alternating_flips", "augment", "normalize", "test_time_views"]

# An operation's key is folded from its position here, so that turning it on changes no other
# operation's draw. Append only.
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
    "jitter",
    "grayscale",
    "blur",
    "solarize",
)
# In this order: names of config keys, and of functions of `color` that take the key's value.
COLORS = ("brightness", "contrast", "saturation", "hue")


def augment(
    config: ConfigDict,
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    num_classes: int,
    *,
    flips: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns an augmented batch and its soft labels.

    Order: crops, flips and turns; resampling; colors, gray, blur and solarization; RandAugment;
    erasing; mixup or CutMix.

    Args:
        config: the run's `config.augment`, static.
        key: a random key; the same key gives the same result.
        images: uint8 (B, H, W, C), C = 1 or 3; or float32 in [0, 255], which stays float32 and is
            not rounded.
        labels: int (B,). A label outside 0 .. num_classes - 1 becomes a row of zeros.
        num_classes: length of a soft label.
        flips: bool (B,), from `alternating_flips`; read only if `flip_alternating` is on, and
            required then.

    Returns:
        Images of the same shape and dtype (uint8 is rounded once, at the end), and float32 labels
        (B, num_classes).

    Raises:
        UserError: an unknown pad_mode, or both kinds of horizontal flip.
    """
    check_choice("augment.pad_mode", config.pad_mode, tuple(geometry.PAD_MODES))
    if config.flip_horizontal and config.flip_alternating:
        raise UserError(
            "augment.flip_horizontal and augment.flip_alternating are both on: choose one of them"
        )
    keys = {name: jax.random.fold_in(key, index) for index, name in enumerate(STREAMS)}
    soft_labels = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
    pixels = to_float(_move_whole_pixels(config, keys, images, flips))
    pixels = _change_colors(config, keys, _resample(config, keys, pixels))
    pixels = _degrade(config, keys, pixels)
    if config.randaugment_layers:
        pixels = randaugment.randaugment(
            keys["randaugment"], pixels, config.randaugment_layers, config.randaugment_magnitude
        )
    if config.random_erasing:
        pixels = mix.random_erasing(
            keys["random_erasing"], pixels, config.random_erasing, config.erasing_area
        )
    pixels, soft_labels = _mix(config, keys["mix"], pixels, soft_labels)
    return from_float(pixels, images.dtype), soft_labels


def _move_whole_pixels(config, keys, images, flips):
    """Applies the operations that only move whole pixels, in the batch's own dtype."""
    if config.pad_crop:
        images = geometry.pad_crop(keys["pad_crop"], images, config.pad_crop, config.pad_mode)
    if config.flip_alternating:
        images = geometry.mirror(images, flips)
    for name in ("flip_horizontal", "flip_vertical", "rot90"):
        if config[name]:
            images = getattr(geometry, name)(keys[name], images)
    return images


def _resample(config, keys, pixels):
    if config.random_resized_crop:
        pixels = geometry.random_resized_crop(
            keys["random_resized_crop"], pixels, config.crop_area, config.crop_ratio
        )
    if config.affine:
        pixels = geometry.affine(
            keys["affine"], pixels, config.rotate, config.shear, config.translate, config.scale
        )
    return pixels


def _change_colors(config, keys, pixels):
    jittered = pixels
    for name in COLORS:
        if config[name]:
            jittered = getattr(color, name)(keys[name], jittered, config[name])
    return _sometimes(keys["jitter"], config.jitter, jittered, pixels)


def _degrade(config, keys, pixels):
    """Takes away colors, sharpness or the order of brightness, each of some images."""
    if config.grayscale:
        colorless = jnp.broadcast_to(color.gray(pixels), pixels.shape)
        pixels = _sometimes(keys["grayscale"], config.grayscale, colorless, pixels)
    if config.blur:
        key_draw, key_sigma = jax.random.split(keys["blur"])
        blurred = blur.gaussian_blur(key_sigma, pixels, config.blur_sigma)
        pixels = _sometimes(key_draw, config.blur, blurred, pixels)
    if config.solarize:
        solarized = color.solarize(pixels, jnp.full(len(pixels), 128.0))
        pixels = _sometimes(keys["solarize"], config.solarize, solarized, pixels)
    return pixels


def _sometimes(key, probability, changed, pixels):
    """Returns the changed version of each image with a probability, else the image."""
    if probability == 1:
        return changed
    draws = jax.random.uniform(key, (len(pixels),)) < probability
    return jnp.where(per_image(draws), changed, pixels)


def _mix(config, key, pixels, soft_labels):
    if config.mixup and config.cutmix:
        return mix.mixup_or_cutmix(key, pixels, soft_labels, config.mixup, config.cutmix)
    if config.mixup:
        return mix.mixup(key, pixels, soft_labels, config.mixup)
    if config.cutmix:
        return mix.cutmix(key, pixels, soft_labels, config.cutmix)
    return pixels, soft_labels
