"""Test-time augmentation: the views of an image whose logits an evaluation averages."""

import jax.numpy as jnp

from vision.errors import check_choice

CHOICES = ("none", "flip", "flip_shift")


def test_time_views(name, images):
    """Returns what to evaluate, as a list of (weight, images); the weights' sum is 1.

    "flip" is each image and its mirror image. "flip_shift" is the six views of Jordan 2024 (arXiv:2404.00498), section
    3.5: these two with half of the weight, and both moved by a pixel to the upper left and to the lower right, what
    comes in at the border being mirrored at it, with the other half.

    Args:
      name: one of `CHOICES`.
      images: (B, H, W, C) of any dtype, pixels or normalized.

    Raises:
      UserError: an unknown name.
    """
    check_choice("train.test_time_augmentation", name, CHOICES)
    if name == "none":
        return [(1.0, images)]
    if name == "flip":
        return _both_ways(1.0, images)
    _, height, width, _ = images.shape
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
    lower_right, upper_left = padded[:, :height, :width], padded[:, 2:, 2:]
    return _both_ways(0.5, images) + _both_ways(0.25, upper_left) + _both_ways(0.25, lower_right)


def _both_ways(weight, images):
    return [(weight / 2, images), (weight / 2, images[:, :, ::-1])]
