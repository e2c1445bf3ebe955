"""Preparation of images inside an exported graph: for callers that cannot prepare them.

MediaPipe passes color images only, stretched to the size that the graph takes, without a filter
against aliasing. A graph can take such an image and do the rest as a bundle's reader does.
"""

import dataclasses
from collections.abc import Callable

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from vision.errors import UserError, check_range
from vision.export.program import Program

# OpenCV's ITU-R 601 luma for bytes: these shares, exactly, rounded to the nearest gray level
LUMA = np.array([9798, 19235, 3735], np.float32) / 32768
LARGEST_SHRINKAGE = 4  # beyond, the resize costs more than the model
EXACT = jax.lax.Precision.HIGHEST


def prepared_inside(program: Program, rgb: bool = False, side: int = 0) -> Program:
    """Returns a program that takes other images than a model does, and converts them.

    In float32 its gray levels are those that `vision.data.decode` would make of an image of `side`
    pixels; of a few in a hundred, the last bit differs, because PIL and OpenCV round differently.
    A photo that is first stretched to `side` is resized twice.

    Args:
        program: the model's own program.
        rgb: take three channels, of which a gray model's graph makes one.
        side: take images of this many pixels, which the graph resizes and crops; 0 for the
            model's own size.

    Raises:
        UserError: the model takes colors already, or `side` is out of range.
    """
    if rgb and program.channels == 3:
        raise UserError("--rgb is for gray models: this one takes three channels already")
    if side:
        shorter = int(program.image_size / program.resize["crop_fraction"])
        largest = LARGEST_SHRINKAGE * shorter
        rule = (
            f"from {shorter} to {largest} pixels, 1 to {LARGEST_SHRINKAGE} times the {shorter} "
            "that this model's images are resized to before they are cropped"
        )
        check_range("--resize-inside", side, shorter <= side <= largest, rule)
        program = _around(program, resizing(program, side), image_size=side)
    # the conversion added last runs first: like the reader, the graph resizes what is gray already
    return _around(program, _to_gray, channels=3) if rgb else program


def resizing(program: Program, side: int) -> Callable[[jax.Array], jax.Array]:
    """Returns a function from float32 images (B, side, side, C) to (B, image_size, image_size, C).

    The values are whole gray levels from 0 to 255.

    Args:
        program: the program with the size and the way of resizing.
        side: side of the images, pixels.
    """
    size = program.image_size
    interpolation = program.resize["interpolation"]
    shorter = int(size / program.resize["crop_fraction"])
    first = round((shorter - size) / 2)
    weights = resize_weights(side, shorter, interpolation)[first : first + size]
    used = np.flatnonzero(weights.any(0))
    middle = slice(used[0], used[-1] + 1)
    weights = weights[:, middle]

    def resize(images):
        pixels = images[:, middle, middle].transpose(0, 1, 3, 2)  # rows, channels, columns
        rows = _along_last(pixels, weights)
        if interpolation != "area":  # PIL rounds after each direction, OpenCV's areas once
            rows = _rounded_levels(rows)
        resized = _along_last(rows.transpose(0, 3, 2, 1), weights)  # columns, channels, rows
        return _rounded_levels(resized).transpose(0, 3, 1, 2)

    return resize


def _along_last(values, weights):
    """Returns (A, B, C, target) of values (A, B, C, source) and weights (target, source).

    As a convolution of one pixel: TFLite's converter refuses some of such products.
    """
    kernel = weights.T[None, None]
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        values, kernel, (1, 1), "VALID", dimension_numbers=numbers, precision=EXACT
    )


def resize_weights(source: int, target: int, interpolation: str) -> np.ndarray:
    """Returns the weights of each pixel's neighbors, float32 (target, source), in one direction.

    They are what the library makes of single bright pixels.

    Args:
        source, target: sides before and after, pixels; target at most source.
        interpolation: one of `vision.data.decode.INTERPOLATIONS`.
    """
    single = np.eye(source, dtype=np.float32)
    if source == target:
        return single
    if interpolation == "area":
        return cv2.resize(single, (source, target), interpolation=cv2.INTER_AREA)
    kind = Image.Resampling[interpolation.upper()]
    return np.array(Image.fromarray(single).resize((source, target), kind))


def _around(program, convert, **changes):
    """Returns a program that converts its images, float32 in [0, 255], before it runs another."""
    run, weights = program.reference

    def before(function):
        return lambda images: function(convert(images.astype(jnp.float32)))

    def reference(weights, images, **options):
        return before(lambda pixels: run(weights, pixels, **options))(images)

    return dataclasses.replace(
        program,
        function=before(program.function),
        reference=(reference, weights),
        explained=before(program.explained) if program.explained else None,
        **changes,
        resize=program.resize | ({"crop_fraction": 1.0} if "image_size" in changes else {}),
    )


def _to_gray(images):
    """Converts RGB to gray as `vision.data.decode.to_channels` does."""
    return jnp.floor(jnp.einsum("bhwc,co->bhwo", images, LUMA[:, None], precision=EXACT) + 0.5)


def _rounded_levels(values):
    """Rounds to gray levels from 0 to 255."""
    return jnp.floor(jnp.clip(values, 0, 255) + 0.5)
