"""Turns pixels as EXIF's orientation says."""

from collections.abc import Callable

import cv2
import numpy as np

_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda image: cv2.flip(image, 1),
    3: lambda image: cv2.rotate(image, cv2.ROTATE_180),
    4: lambda image: cv2.flip(image, 0),
    5: cv2.transpose,
    6: lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
    7: lambda image: cv2.flip(cv2.transpose(image), -1),
    8: lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


def turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """Returns uint8 (H, W, C) upright, from EXIF's orientation; unchanged unless it is 2 to 8.

    5 and above swap height and width.
    """
    if orientation not in _TURNS:
        return image
    upright = _TURNS[orientation](image)
    return upright if upright.ndim == 3 else upright[..., None]  # cv2 drops a single channel
