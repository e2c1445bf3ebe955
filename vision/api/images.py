"""The images that a model is given: files, folders, arrays, PIL images, or lists of these."""

import dataclasses
import glob
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from vision.data.decode import decode, from_pil
from vision.errors import UserError, shown
from vision.predict import find

Pixels = str | np.ndarray | Image.Image  # a path, uint8 (H, W, 1 or 3), or an image


@dataclasses.dataclass(frozen=True)
class Given:
    """An image as it was given.

    Attributes:
        pixels: where its pixels are.
        name: what it is called in a message.
    """

    pixels: Pixels
    name: str

    @property
    def path(self) -> str | None:
        """The path of its file; None if no path was given."""
        return self.pixels if isinstance(self.pixels, str) else None

    def read(self, bits: int) -> np.ndarray:
        """Returns its pixels, uint8 (H, W, 1 or 3); raises `UnreadableImage`.

        Args:
            bits: significant bits of 16-bit images; 0 for 16.
        """
        if isinstance(self.pixels, str):
            return decode(self.pixels, bits=bits)
        if isinstance(self.pixels, Image.Image):
            return from_pil(self.pixels, self.name, bits)
        return self.pixels


def list_images(images: Any) -> tuple[list[Given], bool]:
    """Returns (the images, whether a single image was given), all of them checked first.

    Args:
        images: the path of a file; a folder, for all images below it, or a pattern; an array,
            uint8 (H, W), (H, W, 1 or 3), or (B, H, W, 1 or 3) for several; a PIL image; or an
            iterable of these.

    Raises:
        UserError: a file is missing, a folder has no images, or it is something else.
    """
    pixels, is_single = _expand(images)
    return [Given(p, _name(p, number)) for number, p in enumerate(pixels)], is_single


def _expand(images: Any) -> tuple[list[Pixels], bool]:
    if isinstance(images, Image.Image):
        return [images], True
    if isinstance(images, str | os.PathLike):
        path = os.fspath(images)
        is_several = os.path.isdir(path) or (glob.has_magic(path) and not os.path.exists(path))
        return list(find([path])), not is_several
    if hasattr(images, "__array__"):  # NumPy's and other libraries' arrays
        return _expand_array(np.asarray(images))
    if not isinstance(images, Iterable) or isinstance(images, bytes | dict):
        raise UserError(
            f"cannot read an image from {shown(images)}: give a path, a folder, a uint8 array, a "
            "PIL image, or a list of these"
        )
    pixels = []
    for image in images:
        pixels += _expand(image)[0]
    return pixels, False


def _expand_array(array: np.ndarray) -> tuple[list[Pixels], bool]:
    if array.dtype != np.uint8:
        raise UserError(
            f"the pixels of an array must be uint8 from 0 to 255, got {array.dtype}: for numbers "
            "in [0, 1], give (255 * images).round().astype('uint8')"
        )
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim not in (3, 4) or array.shape[-1] not in (1, 3) or 0 in array.shape[-3:]:
        raise UserError(
            "an array must have the shape (H, W, 1 or 3), or (B, H, W, 1 or 3) for several images, "
            f"got {array.shape}: gray images (B, H, W) are images[..., None]"
        )
    return ([array], True) if array.ndim == 3 else (list(array), False)


def _name(pixels: Pixels, number: int) -> str:
    return pixels if isinstance(pixels, str) else f"image {number} of those given"
