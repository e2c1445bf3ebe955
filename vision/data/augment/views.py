"""Test-time augmentation: the views of an image whose logits an evaluation averages."""

from typing import Any

import jax
import jax.numpy as jnp

from vision.data.augment.pixels import from_float
from vision.errors import check_choice

CHOICES = ("none", "flip", "flip_shift", "five_crop", "ten_crop")
CROP = 224 / 256  # a crop's share of the side


def test_time_views(name: str, images: Any) -> list[tuple[float, Any]]:
    """Returns the views to evaluate, as a list of (weight, images); the weights sum to 1.

    "flip" is each image and its mirror image. "flip_shift" is the six views of Jordan 2024
    (arXiv:2404.00498), section 3.5: these two with half of the weight, and with the other half both
    of them shifted by one pixel to the upper left and to the lower right, reflected at the border.

    "five_crop" is the four corners and the center, each 7/8 of the side, enlarged bilinearly to the
    full size; "ten_crop" is these and their mirror images: Krizhevsky et al. 2012, ImageNet
    classification with deep convolutional neural networks, section 4.1, whose network takes its
    crops of 224 out of 256 pixels without enlarging them.

    Args:
        name: one of `CHOICES`.
        images: (B, H, W, C) of any dtype, pixels or normalized; or the input of a model of more
            than images, a mapping whose "image" they are.

    Raises:
        UserError: an unknown name.
    """
    check_choice("train.test_time_augmentation", name, CHOICES)
    if isinstance(images, dict):
        views = test_time_views(name, images["image"])
        return [(weight, images | {"image": view}) for weight, view in views]
    if name == "none":
        return [(1.0, images)]
    if name == "flip":
        return _with_mirror(1.0, images)
    if name == "five_crop":
        return [(1 / 5, crop) for crop in _crops(images)]
    if name == "ten_crop":
        return [view for crop in _crops(images) for view in _with_mirror(1 / 5, crop)]
    _, height, width, _ = images.shape
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
    lower_right = padded[:, :height, :width]
    upper_left = padded[:, 2:, 2:]
    return [
        *_with_mirror(0.5, images),
        *_with_mirror(0.25, upper_left),
        *_with_mirror(0.25, lower_right),
    ]


def _with_mirror(weight, images):
    return [(weight / 2, images), (weight / 2, images[:, :, ::-1])]


def _crops(images):
    """Returns the four corners and the center, each resized to the full size."""
    _, height, width, _ = images.shape
    crop_height = round(CROP * height)
    crop_width = round(CROP * width)
    bottom = height - crop_height
    right = width - crop_width
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
    # integers would be resized as integers
    wide = images.astype(jnp.promote_types(images.dtype, jnp.float32))
    crops = []
    for y, x in corners:
        crop = wide[:, y : y + crop_height, x : x + crop_width]
        resized = jax.image.resize(crop, images.shape, "linear")
        crops.append(from_float(resized, images.dtype))
    return crops
