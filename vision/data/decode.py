"""From an image file's bytes to pixels of a fixed size, on the CPU.

JPEG is decoded by libjpeg-turbo and plain PNG by OpenCV, in half of PIL's time; everything else by
PIL. The pixels are the same as PIL's, so the path taken does not affect a result.
"""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from vision.data.deep import MAX_PIXELS, PNG, is_plain_png, read_deep
from vision.data.formats import format_of, register_formats, why_unknown
from vision.data.orientation import turned
from vision.errors import brief, printable

LONGEST_TEXT = 5_000  # characters of an error; a path has up to 4,096
INTERPOLATIONS = ("area", "bilinear", "bicubic")
_EXIF_ORIENTATION = 0x0112


class UnreadableImage(ValueError):
    """An image that cannot be decoded.

    Attributes:
        reason: why, in a few words.
        name: which image; "" if only its bytes are known.
    """

    def __init__(self, reason: str, name: str = ""):
        # both, or the exception cannot be unpickled when it returns from a worker process
        super().__init__(reason, name)
        self.reason = reason
        self.name = name

    def __str__(self):
        text = f"{self.name}: {self.reason}" if self.name else self.reason
        return printable(text, LONGEST_TEXT)


def decode(
    data: bytes | Path | str, channels: int = 0, name: str = "", bits: int = 0
) -> np.ndarray:
    """Decodes an image of any format that PIL reads.

    EXIF orientation is applied. Transparency is composited over white, as on a page. 16-bit images
    keep the upper 8 of their significant bits. An animation or a document gives its first frame or
    page.

    Args:
        data: the file's bytes, or its path.
        channels: 1 (gray) or 3 (RGB); 0 keeps the image's own: 1 for a gray image, 3 for any other.
        name: the image's name for error messages; a path is its own name.
        bits: significant bits of 16-bit images, 8 to 16; 0 for 16.

    Returns:
        uint8 (H, W, channels).

    Raises:
        UnreadableImage: missing, empty, truncated, corrupt, too large or not an image. A flipped
            bit in a JPEG that still decodes is not noticed: the format has no checksum.
    """
    if not isinstance(data, bytes):
        name = name or str(data)
        data = read_file(data)
    try:
        image = _decode(data, bits or 16)
    except Image.UnidentifiedImageError as error:
        raise UnreadableImage(why_unknown(data, name), name) from error
    except UnreadableImage as error:
        raise UnreadableImage(error.reason, name) from error
    return to_channels(image, channels)


def from_pil(image: Image.Image, name: str = "", bits: int = 0) -> np.ndarray:
    """Returns the pixels of an image that PIL has opened, as `decode` gives them.

    Args:
        image: the image.
        name: what it is called in an error.
        bits: significant bits of 16-bit images, 8 to 16; 0 for 16.

    Returns:
        uint8 (H, W, 1 or 3).

    Raises:
        UnreadableImage: its file is broken, or its pixels have no known range.
    """
    try:
        return _pixels(ImageOps.exif_transpose(image), _stored_bits(image) or bits or 16)
    except UnreadableImage as error:
        raise UnreadableImage(error.reason, name) from error
    # PIL reads the pixels only now, and its parsers raise all kinds of errors
    except Exception as error:
        raise UnreadableImage(str(error) or type(error).__name__, name) from error


def read_file(path: Path | str) -> bytes:
    """Returns a file's bytes; raises `UnreadableImage` if that fails."""
    try:
        # not Path.read_bytes: pathlib interns each name, and the interpreter's table of them grows
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UnreadableImage(brief(error), str(path)) from error


def read_size(path: Path | str) -> tuple[int, int]:
    """Returns the (width, height) that an image file will have when decoded; see `read_header`."""
    size, orientation = read_header(path)
    return size[::-1] if orientation >= 5 else size


def read_header(file: Path | str | io.BytesIO) -> tuple[tuple[int, int], int]:
    """Returns ((width, height), orientation) of an image file as stored, reading only its header.

    The orientation is EXIF's, which decoding applies: 1 (upright) to 8; 5 and above swap width and
    height.

    Raises:
        UnreadableImage: missing, or the header cannot be read.
    """
    register_formats()
    try:
        with Image.open(file) as image:
            orientation = _exif_orientation(image)
            size = image.size
            if image.format == "TIFF":  # some versions of PIL give the rotated size
                tags = image.tag_v2  # type: ignore[attr-defined]
                size = tags[256], tags[257]
            return size, orientation if orientation in range(1, 9) else 1
    except Exception as error:  # PIL's parsers raise all kinds of errors on broken files
        reason = getattr(error, "strerror", None) or why_unknown(b"", str(file))
        raise UnreadableImage(reason, str(file)) from error


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Converts uint8 (H, W, 1 or 3) to 1 (ITU-R 601 luma) or 3 channels; 0 changes nothing."""
    if channels in (0, image.shape[-1]):
        return image
    if channels == 1:
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    if channels == 3:
        return np.repeat(image, 3, axis=-1)
    raise ValueError(f"channels must be 0, 1 or 3, got {channels}")


def resize_crop(
    image: np.ndarray,
    size: int,
    crop_fraction: float = 1.0,
    rng: np.random.Generator | None = None,
    area: Sequence[float] = (),
    interpolation: str = "area",
) -> np.ndarray:
    """Resizes and crops an image to a square of fixed size.

    Without `area`, resizes the shorter side to `size / crop_fraction` and crops the center,
    rounding as torchvision and timm do; an image that already has the size is returned unchanged.
    With `area`, crops a random part first: the Inception crop of Szegedy et al. 2014
    (arXiv:1409.4842), with an aspect ratio from 3/4 to 4/3.

    Args:
        image: uint8 (H, W, C).
        size: side of the result, pixels.
        crop_fraction: the center crop's share of the resized image's side; 0.875 is common for
            ImageNet.
        rng: random generator, needed with `area`.
        area: (low, high), the random crop's share of the image's area.
        interpolation: one of `INTERPOLATIONS`. "area" is OpenCV's area averaging if the image
            shrinks and bicubic if it grows; "bilinear" and "bicubic" are PIL's, which take five
            times as long and are what most pretrained weights were evaluated with.

    Returns:
        uint8 (size, size, C).
    """
    if area:
        return _resize(_random_crop(image, rng, area), size, size, interpolation)
    height, width = image.shape[:2]
    if height == width == size:
        return image
    shorter = int(size / crop_fraction)
    longer = shorter * max(height, width) // min(height, width)
    if height <= width:
        image = _resize(image, shorter, longer, interpolation)
    else:
        image = _resize(image, longer, shorter, interpolation)
    top, left = (round((side - size) / 2) for side in image.shape[:2])
    return np.ascontiguousarray(image[top : top + size, left : left + size])


def prepare(
    image: np.ndarray, image_size: int, channels: int, resize: Mapping[str, Any]
) -> np.ndarray:
    """Returns an image as a model takes it: uint8 (image_size, image_size, channels).

    Args:
        image: uint8 (H, W, 1 or 3), of any size.
        image_size, channels: of the model's images.
        resize: {"crop_fraction", "interpolation"}, as `resize_crop` takes them.
    """
    return resize_crop(to_channels(image, channels), image_size, **resize)


def _decode(data, bits):
    if not data:
        raise UnreadableImage("empty file")
    image = None
    if data.startswith(b"\xff\xd8"):
        image = _decode_jpeg(data)
    elif data.startswith(PNG):
        image = _decode_png(data)
    return _decode_pil(data, bits) if image is None else image


def _decode_jpeg(data):
    """Returns the pixels of a gray or YCbCr JPEG; None if PIL has to decide."""
    has_tags = b"Exif\0\0" in data or b"tiff:Orientation" in data
    orientation = _orientation(data) if has_tags else 1
    if not 1 <= orientation <= 8:
        return None
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        if colorspace not in ("Gray", "YCbCr", "RGB") or height * width > MAX_PIXELS:
            return None
        image = simplejpeg.decode_jpeg(data, "GRAY" if colorspace == "Gray" else "RGB")
        return turned(image, orientation)
    except ValueError as error:
        reason = str(error)
        # Bytes between segments are common and harmless. Any other complaint means that part of the
        # image is missing, and PIL would fill it with gray.
        if reason.startswith(("Premature end", "Corrupt JPEG data")) and "extraneous" not in reason:
            raise UnreadableImage(reason) from error
        return None


def _orientation(data):
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _exif_orientation(image)
    # PIL's parsers raise all kinds of errors on broken files; _decode_pil turns them into one
    except Exception:
        return 0


def _exif_orientation(image):
    """Returns 1 (upright) to 8; 5 and above swap width and height."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # PIL would decode the whole image to search for it after the pixels
    return image.getexif().get(_EXIF_ORIENTATION, 1)


def _decode_png(data):
    """Returns the pixels of an 8-bit gray or RGB PNG; None if PIL has to decide."""
    if not is_plain_png(data):
        return None
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        return None
    return image[..., None] if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _shift(values, bits):
    """Returns the upper 8 of the significant bits of 16-bit values."""
    largest = int(values.max(initial=0))
    if largest >> bits:
        raise UnreadableImage(f"its values reach {largest:,}, too large for data.bits={bits}")
    return (values.astype(np.uint16) >> bits - 8).astype(np.uint8)


def _shift_deep(values, bits):
    """Returns a PIL image of the upper 8 of the significant bits of colors, and 8 of alpha's 16."""
    count = values.shape[2]
    colors = values if count == 3 else values[..., :-1]
    eight = _shift(colors, bits)
    if count == 3:
        return Image.fromarray(eight)
    alpha = (values[..., -1:] >> 8).astype(np.uint8)
    return Image.fromarray(np.concatenate([eight, alpha], 2), {2: "LA", 4: "RGBA"}[count])


def _decode_pil(data, bits):
    register_formats()
    try:
        if bits < 16 and (deep := read_deep(data)) is not None:
            return _pixels(_shift_deep(deep, bits), bits)
        with Image.open(io.BytesIO(data)) as image:
            bits = _stored_bits(image) or bits
            if image.mode == "I" and image.format == "PPM":
                bits = 16  # PIL scales the values of PGM by the depth in its header
                image = image.convert("I;16")
            return _pixels(ImageOps.exif_transpose(image), bits)
    except (UnreadableImage, Image.UnidentifiedImageError):
        raise
    # PIL's parsers raise OSError, SyntaxError, struct.error, EOFError, ... on broken files
    except Exception as error:
        raise UnreadableImage(str(error) or type(error).__name__) from error


def _stored_bits(image):
    """Returns the bits of a TIFF with 12 bits a pixel, which PIL reads into 16; 0 for others."""
    if image.format != "TIFF" or not image.mode.startswith("I;16"):
        return 0
    stored = image.tag_v2.get(258, (16,))  # BitsPerSample
    return 12 if stored[0] == 12 else 0


def largest_value(data: bytes) -> int | None:
    """Returns the largest value of a 16-bit image; None for any other, or one that is broken."""
    try:
        if format_of(data) in ("JPEG", "WebP", "GIF") or (data.startswith(PNG) and data[24] != 16):
            return None
        if (deep := read_deep(data)) is not None:
            return int(deep[..., : 1 if deep.shape[2] == 2 else 3].max())
        with Image.open(io.BytesIO(data)) as opened:
            is_deep = opened.mode.startswith("I;16") and not _stored_bits(opened)
            return int(np.asarray(opened).max()) if is_deep else None
    except Exception:  # PIL's parsers raise all kinds of errors, which decoding reports
        return None


def _pixels(image, bits):
    """Returns a PIL image's pixels as uint8 (H, W, 1 or 3)."""
    if image.mode.startswith("I;16"):
        return _shift(np.asarray(image), bits)[..., None]
    if image.mode in ("I", "F"):
        raise UnreadableImage(
            "32-bit pixels, whose range is unknown: save the image with 8 or 16 bits"
        )
    gray = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = np.array(image.convert("L" if gray else "RGB"))
    return image[..., None] if gray else image


def _random_crop(image, rng, area):
    """Crops a random part with a share of the area in `area`.

    After ten draws that do not fit, returns the largest centered crop.
    """
    height, width = image.shape[:2]
    for _ in range(10):
        pixels = height * width * rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w = round(math.sqrt(pixels * ratio))
        h = round(math.sqrt(pixels / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = rng.integers(height - h + 1)
            left = rng.integers(width - w + 1)
            return image[top : top + h, left : left + w]
    h = min(height, round(width * 4 / 3))
    w = min(width, round(height * 4 / 3))
    top = (height - h) // 2
    left = (width - w) // 2
    return image[top : top + h, left : left + w]


def _resize(image, height, width, interpolation):
    if image.shape[:2] == (height, width):
        return np.ascontiguousarray(image)
    if interpolation != "area":
        pixels = image[..., 0] if image.shape[-1] == 1 else image
        pil_filter = Image.Resampling[interpolation.upper()]
        filtered = Image.fromarray(pixels).resize((width, height), pil_filter)
        return np.array(filtered).reshape(height, width, image.shape[-1])
    # Area averaging keeps a shrunk image free of aliasing; cv2's other filters read few pixels.
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    cv2_filter = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    resized = cv2.resize(image, (width, height), interpolation=cv2_filter)
    return resized.reshape(height, width, image.shape[-1])  # cv2 drops a single channel
