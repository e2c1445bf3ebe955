"""16-bit images with colors or transparency, of which PIL keeps the upper 8 bits only."""

import io

import cv2
import numpy as np
from PIL import Image

# PIL's own limit, 0.5 GiB as RGB: a small file that unpacks to more is an attack or a mistake
MAX_PIXELS = 178_956_970
PNG = b"\x89PNG\r\n\x1a\n"
_DEEP = (b"\x10\x02", b"\x10\x04", b"\x10\x06")  # depth and kind of RGB, gray with alpha, RGBA
_GRAY_ALPHA = b"\x10\x04"
_BITS_PER_SAMPLE = 258
_PHOTOMETRIC = 262
_RGB = 2


class NotRead(ValueError):
    """A 16-bit image whose lower bits cannot be read."""


def read_deep(data: bytes) -> np.ndarray | None:
    """Returns the pixels of a 16-bit PNG or TIFF with colors or transparency.

    Args:
        data: the file.

    Returns:
        uint16 (H, W, C), upright: RGB, gray and alpha, or RGB and alpha. None for any other image.

    Raises:
        NotRead: it is such an image, but of a kind that only PIL reads.
        Exception: PIL's or OpenCV's, if the file is broken.
    """
    if data.startswith(PNG):
        return _read_png(data) if data[24:26] in _DEEP else None
    if data.startswith((b"II", b"MM")):
        return _read_tiff(data)
    return None


def is_plain_png(data: bytes, kinds: tuple[bytes, ...] = (b"\x08\x00", b"\x08\x02")) -> bool:
    """Whether a PNG is complete, of moderate size, without tags that change what is shown, and of a
    kind, its depth and color type; the default is 8-bit gray and RGB."""
    width = int.from_bytes(data[16:20], "big")
    height = int.from_bytes(data[20:24], "big")
    return (
        data[24:26] in kinds
        and b"tRNS" not in data
        and b"eXIf" not in data
        and data.endswith(b"IEND\xaeB`\x82")
        and height * width <= MAX_PIXELS
        and _is_regular(data)
    )


def _is_regular(data):
    """Whether a PNG's chunks fill the file and its size is given once.

    OpenCV allocates whatever length a chunk declares, and uses the last size.
    """
    position = 8
    while position < len(data):
        position += 12 + int.from_bytes(data[position : position + 4], "big")
    return position == len(data) and data.count(b"IHDR") == 1


def _read_png(data):
    if not is_plain_png(data, _DEEP):
        raise NotRead("the lower bits of its 16-bit colors cannot be read: save it without tags")
    pixels = _decode(data)
    return pixels[..., [0, 3]] if data[24:26] == _GRAY_ALPHA else pixels


def _read_tiff(data):
    with Image.open(io.BytesIO(data)) as image:
        bits = image.tag_v2.get(_BITS_PER_SAMPLE, ()) if image.format == "TIFF" else ()
        if len(bits) < 3 or bits[0] != 16:
            return None
        is_rgb = image.tag_v2.get(_PHOTOMETRIC) == _RGB
        if not is_rgb or image.width * image.height > MAX_PIXELS:
            raise NotRead("the lower bits of its 16-bit colors cannot be read: save it as RGB")
    return _decode(data)


def _decode(data):
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3:
        raise NotRead("the lower bits of its 16-bit colors cannot be read: save it as PNG")
    return pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
