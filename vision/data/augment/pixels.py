"""Pixel types: how operations enter and leave float32, and how a batch is normalized for the
model."""

import jax.numpy as jnp

from vision.errors import UserError, check_choice

KINDS = ("auto", "unit", "symmetric", "mean_std")


def to_float(images):
    """Returns pixels as float32, still in [0, 255]."""
    return images.astype(jnp.float32)


def restore(images, dtype):
    """Returns float32 pixels in `dtype`: rounded and clipped to [0, 255] for integers, as they are
    for floats."""
    if jnp.issubdtype(dtype, jnp.integer):
        images = jnp.clip(jnp.round(images), 0, 255)
    return images.astype(dtype)


def per_image(values):
    """Returns one number an image, (B,), in the shape that broadcasts over pixels, (B, 1, 1, 1)."""
    return values[:, None, None, None]


def mean_color(images):
    """Returns each image's mean over its pixels, float32 (B, 1, 1, C)."""
    # rows first: six times faster on a CPU
    return to_float(images).mean(1, keepdims=True).mean(2, keepdims=True)


def normalize(images, kind, mean=(), std=(), dtype=jnp.float32):
    """Returns what the model sees, computed in at least float32 and cast last.

    Args:
      images: uint8 or float (B, H, W, C) in [0, 255].
      kind: "unit" for [0, 1], "symmetric" (and "auto") for [-1, 1], "mean_std" for (x / 255 - mean)
          / std.
      mean: for "mean_std", one number a channel.
      std: for "mean_std", one number a channel, above 0.
      dtype: of the result.

    Raises:
      UserError: an unknown kind, a mean or std of the wrong length, or a std that is not above 0.
    """
    check_choice("data.normalize", kind, KINDS)
    wide = jnp.promote_types(dtype, jnp.float32)
    images = images.astype(wide)
    if kind == "unit":
        images = images / 255
    elif kind in ("auto", "symmetric"):
        images = images / 127.5 - 1
    else:
        channels = images.shape[-1]
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != channels:
                raise UserError(
                    f"data.{name} = {tuple(values)} has {len(values)} numbers and the images have {channels} channels: "
                    "data.normalize = 'mean_std' takes one a channel (the other choices are unit and symmetric)"
                )
        if not all(value > 0 for value in std):
            raise UserError(
                f"data.std = {tuple(std)}: a standard deviation lies above 0 (pixels count in [0, 1])"
            )
        images = (images / 255 - jnp.asarray(mean, wide)) / jnp.asarray(std, wide)
    return images.astype(dtype)
