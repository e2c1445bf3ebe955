"""Writes maps of defects beside each other: a picture to look at, and the numbers."""

import glob
import os
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np

from vision.errors import UserError
from vision.support import disk
from vision.support.files import replacing
from vision.tiles.picture import draw
from vision.tiles.stream import TiledImage

PICTURE = ".map.png"
NUMBERS = ".map.npz"


def check_outside(directory: str, words: Sequence[str]) -> None:
    """Raises `UserError` if maps would be written where images are looked for.

    A later run, or this one, would take them for images.

    Args:
        directory: the directory of the maps.
        words: files, folders and patterns that name the images.
    """
    place = pathlib.Path(os.path.realpath(directory))
    for word in words:
        if os.path.isfile(word):
            continue
        root = word
        while glob.has_magic(root) and not os.path.isdir(root):
            root = os.path.dirname(root)
        folder = pathlib.Path(os.path.realpath(root or "."))
        goes_deeper = os.path.isdir(word) or "**" in word or root != os.path.dirname(word)
        if place == folder or (goes_deeper and place.is_relative_to(folder)):
            raise UserError(
                f"--maps {directory} is where {word} looks for images: give a directory outside"
            )


def write(directory: str, tiled: TiledImage) -> str:
    """Writes an image's picture and its map; returns the path of the map.

    Both have the path of the image below the directory, with `PICTURE` and `NUMBERS` in addition. A
    map has `probabilities`, `x` and `y`, as `vision.tiles.grid.DefectMap` has them, and `classes`.

    Args:
        directory: of all maps.
        tiled: the image and the prediction.

    Raises:
        UserError, RunError: they cannot be written.
    """
    path = os.path.join(directory, _inside(tiled.file))
    defects = tiled.prediction.defect_map
    picture = cv2.cvtColor(draw(tiled.image, tiled.prediction), cv2.COLOR_RGB2BGR)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with replacing(path + NUMBERS, binary=True) as file:
            names = [name.encode("utf-8", "replace").decode() for name in tiled.prediction.classes]
            np.savez_compressed(file, **defects._asdict(), classes=np.array(names))
        with replacing(path + PICTURE, binary=True) as file:
            file.write(cv2.imencode(".png", picture)[1])
    except OSError as error:
        raise disk.failed(f"--maps {directory}", error) from error
    return path + NUMBERS


def _inside(file):
    """Returns a path as one that stays below a directory: "../a/b.png" is "__/a/b.png"."""
    parts = pathlib.PurePath(os.path.normpath(file)).parts
    return os.path.join(*("__" if part == ".." else part for part in parts if part != os.sep))
