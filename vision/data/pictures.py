"""Pictures for people: small ones as data URIs for a page, heat maps over their images."""

import base64

import cv2
import numpy as np

from vision.data.decode import to_channels

SIDE = 160  # at most, pixels
_PNG_SIDE = 64  # pictures up to this size are shown enlarged, which makes JPEG artifacts visible
OPACITY = 0.7  # of the hottest pixel's color
COLORS = "inferno"  # matplotlib's; its lightness increases evenly


def picture(image: np.ndarray) -> str:
    """Returns an image as a data URI of at most `SIDE` pixels per side.

    Args:
        image: uint8 (H, W, 1 or 3).
    """
    scale = min(1.0, SIDE / max(image.shape[:2]))
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    image = cv2.resize(to_channels(image, 3), size, interpolation=cv2.INTER_AREA)
    kind = "png"
    options: list[int] = []
    if max(size) > _PNG_SIDE:
        kind = "jpeg"
        options = [cv2.IMWRITE_JPEG_QUALITY, 85]
    data = cv2.imencode(f".{kind}", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1].tobytes()
    return data_uri(data, kind)


def data_uri(data: bytes, kind: str = "png") -> str:
    """Returns the bytes of a picture's file, "png" or "jpeg", as a data URI for an `img`."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Returns an image in gray under its heat map in color, uint8 (H, W, 3).

    The colder a pixel, the more of the image shows.

    Args:
        image: uint8 (H, W, 1 or 3).
        heat: float (H, W) in [0, 1].
    """
    from matplotlib import colormaps

    gray = to_channels(image, 1).astype(np.float32)
    color = colormaps[COLORS](np.asarray(heat))[..., :3] * 255
    opacity = OPACITY * np.asarray(heat)[..., None]
    return np.round((1 - opacity) * gray + opacity * color).astype(np.uint8)
