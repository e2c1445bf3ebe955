"""Test-time augmentation: the views of an image whose logits an evaluation averages."""

import jax
import jax.numpy as jnp

from vision.data.augment.pixels import restore
from vision.errors import check_choice

CHOICES = ("none", "flip", "flip_shift", "five_crop", "ten_crop")
CROP = 224 / 256  # a crop's share of the side


def test_time_views(name, images):
    """Returns what to evaluate, as a list of (weight, images); the weights' sum is 1.

    "flip" is each image and its mirror image. "flip_shift" is the six views of Jordan 2024
    (arXiv:2404.00498), section 3.5: these two with half of the weight, and both moved by a pixel to
    the upper left and to the lower right, what comes in at the border being mirrored at it, with
    the other half.

    "five_crop" is the four corners and the center, each 7/8 of the side and enlarged to the whole,
    bilinearly; "ten_crop" these and their mirror images: Krizhevsky et al. 2012, ImageNet
    classification with deep convolutional neural networks, section 4.1, whose crops of 224 out of
    256 pixels the network takes as they are.

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
    if name == "five_crop":
        return [(1 / 5, crop) for crop in _crops(images)]
    if name == "ten_crop":
        return [view for crop in _crops(images) for view in _both_ways(1 / 5, crop)]
    _, height, width, _ = images.shape
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
    lower_right = padded[:, :height, :width]
    upper_left = padded[:, 2:, 2:]
    return _both_ways(0.5, images) + _both_ways(0.25, upper_left) + _both_ways(0.25, lower_right)


def _both_ways(weight, images):
    return [(weight / 2, images), (weight / 2, images[:, :, ::-1])]


def _crops(images):
    """Returns the corners and the center, each resized to the whole."""
    _, height, width, _ = images.shape
    h = round(CROP * height)
    w = round(CROP * width)
    below = height - h
    right = width - w
    corners = [(0, 0), (0, right), (below, 0), (below, right), (below // 2, right // 2)]
    # integers would be resized as integers
    wide = images.astype(jnp.promote_types(images.dtype, jnp.float32))
    crops = [
        jax.image.resize(wide[:, y : y + h, x : x + w], images.shape, "linear") for y, x in corners
    ]
    return [restore(crop, images.dtype) for crop in crops]
