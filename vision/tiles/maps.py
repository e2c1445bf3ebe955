"""Writes maps of defects beside each other: a picture to look at, and the numbers."""

import os

import cv2
import numpy as np

from vision.support import disk
from vision.support.files import replacing
from vision.support.outputs import place_below
from vision.tiles.picture import draw
from vision.tiles.stream import TiledImage

PICTURE = ".map.png"
NUMBERS = ".map.npz"


def write(directory: str, tiled: TiledImage) -> str:
    """Writes an image's picture and its map; returns the path of the map.

    Both are where `vision.support.outputs.place_below` says, with the suffixes `PICTURE` and
    `NUMBERS`. A map has `probabilities`, `x` and `y`, as `vision.tiles.grid.DefectMap` has them,
    and `classes`.

    Args:
        directory: of all maps.
        tiled: the image and the prediction.

    Raises:
        UserError, RunError: they cannot be written.
    """
    numbers = os.path.join(directory, place_below(tiled.file, NUMBERS))
    place = os.path.join(directory, place_below(tiled.file, PICTURE))
    defects = tiled.prediction.defect_map
    picture = cv2.cvtColor(draw(tiled.image, tiled.prediction), cv2.COLOR_RGB2BGR)
    try:
        os.makedirs(os.path.dirname(numbers), exist_ok=True)
        with replacing(numbers, binary=True) as file:
            names = [name.encode("utf-8", "replace").decode() for name in tiled.prediction.classes]
            np.savez_compressed(file, **defects._asdict(), classes=np.array(names))
        with replacing(place, binary=True) as file:
            file.write(cv2.imencode(".png", picture)[1])
    except OSError as error:
        raise disk.failed(f"--maps {directory}", error) from error
    return numbers
