"""From an image file's bytes to pixels of a fixed size, on the CPU.

JPEG goes through libjpeg-turbo and plain PNG through OpenCV, which take half of PIL's time; all
else goes through PIL. The pixels are those that PIL gives, so the path taken cannot be seen in a
result.
"""

import io
import math
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageOps

# 0.5 GiB as RGB: a small file that unpacks to more is an attack or a mistake. PIL's own limit
MAX_PIXELS = 178_956_970
INTERPOLATIONS = ("area", "bilinear", "bicubic")
_EXIF_ORIENTATION = 0x0112
_FORMATS = {
    b"\xff\xd8": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}


class UnreadableImage(ValueError):
    """An image that cannot be decoded.

    Attributes:
        reason: why, in a few words.
        name: which image; "" where only its bytes are known.
    """

    def __init__(self, reason, name=""):
        # both, or the exception does not survive the way back from a worker process
        super().__init__(reason, name)
        self.reason = reason
        self.name = name

    def __str__(self):
        return f"{self.name}: {self.reason}" if self.name else self.reason


def decode(data, channels=0, name=""):
    """Decodes an image of any format that PIL reads.

    EXIF orientation is applied. Transparency is composited over white, as on a page. 16-bit gray
    keeps its upper 8 bits. Of an animation or a document the first frame or page is taken.

    Args:
        data: the file's bytes, or its path.
        channels: 1 (gray) or 3 (RGB); 0 = the image's own: 1 for a gray image, 3 for any other.
        name: the image's name for error messages; a path is its own name.

    Returns:
        uint8 (H, W, channels).

    Raises:
        UnreadableImage: missing, empty, cut short, corrupt, too large or no image. A flipped bit
            inside a JPEG that still decodes is not noticed: the format has no checksum.
    """
    if not isinstance(data, bytes):
        name = name or str(data)
        data = read_file(data)
    try:
        image = _decode(data)
    except UnreadableImage as error:
        raise UnreadableImage(error.reason, name) from error
    return to_channels(image, channels)


def read_file(path):
    """Returns a file's bytes; raises `UnreadableImage` where that fails."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UnreadableImage(error.strerror or str(error), str(path)) from error


def read_size(path):
    """Returns the (width, height) that an image file will have when decoded; see `read_header`."""
    size, orientation = read_header(path)
    return size[::-1] if orientation >= 5 else size


def read_header(path):
    """Returns ((width, height), orientation) of an image file as it is stored, from its header
    alone.

    The orientation is EXIF's: what decoding does to it, 1 (nothing) to 8; 5 and above swap width
    and height.

    Raises:
        UnreadableImage: missing, or the header cannot be read.
    """
    try:
        with Image.open(path) as image:
            orientation = _exif_orientation(image)
            # Of a TIFF, PIL's own size is the turned one, in some versions only.
            size = (image.tag_v2[256], image.tag_v2[257]) if image.format == "TIFF" else image.size
            return size, orientation if orientation in range(1, 9) else 1
    except Exception as error:  # PIL's parsers raise all sorts on broken files
        raise UnreadableImage(
            getattr(error, "strerror", None) or "no image that PIL knows", str(path)
        ) from error


def format_of(data):
    """Returns the name of an image file's format, by its first bytes; "array" for None, "other"
    where it is unknown."""
    if data is None:
        return "array"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    return next((name for magic, name in _FORMATS.items() if data.startswith(magic)), "other")


def to_channels(image, channels):
    """Converts uint8 (H, W, 1 or 3) to 1 (ITU-R 601 luma) or 3 channels; 0 leaves it as it is."""
    if channels in (0, image.shape[-1]):
        return image
    if channels == 1:
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    if channels == 3:
        return np.repeat(image, 3, axis=-1)
    raise ValueError(f"channels must be 0, 1 or 3, not {channels}")


def resize_crop(image, size, crop_fraction=1.0, rng=None, area=(), interpolation="area"):
    """Brings an image to a fixed square.

    Without `area`, resizes the shorter side to `size / crop_fraction` and cuts out the center,
    rounding as torchvision and timm do; an image that already has the size comes back untouched.
    With `area`, cuts out a random part first: the Inception crop of Szegedy et al. 2014
    (arXiv:1409.4842), with a side ratio from 3/4 to 4/3.

    Args:
        image: uint8 (H, W, C).
        size: side of the result, pixels.
        crop_fraction: the center crop's share of the resized image's side; 0.875 is usual for
            ImageNet.
        rng: a numpy `Generator`, needed with `area`.
        area: (low, high), the random crop's share of the image's area.
        interpolation: one of `INTERPOLATIONS`: "area", OpenCV's mean over areas where the image
            shrinks and bicubic where it grows; "bilinear" and "bicubic" are PIL's, which take five
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
    image = _resize(
        image, *((shorter, longer) if height <= width else (longer, shorter)), interpolation
    )
    top, left = (round((side - size) / 2) for side in image.shape[:2])
    return np.ascontiguousarray(image[top : top + size, left : left + size])


def _decode(data):
    if not data:
        raise UnreadableImage("empty file")
    image = None
    if data.startswith(b"\xff\xd8"):
        image = _decode_jpeg(data)
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        image = _decode_png(data)
    return _decode_pil(data) if image is None else image


def _decode_jpeg(data):
    """Returns the pixels of a gray or YCbCr JPEG that needs no turning; None where PIL has to
    decide."""
    if (b"Exif\0\0" in data or b"tiff:Orientation" in data) and _orientation(data) != 1:
        return None
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        if colorspace not in ("Gray", "YCbCr", "RGB") or height * width > MAX_PIXELS:
            return None
        return simplejpeg.decode_jpeg(data, "GRAY" if colorspace == "Gray" else "RGB")
    except ValueError as error:
        reason = str(error)
        # Bytes between segments are common and harmless. Any other complaint means that part of the
        # image is gone, and PIL would fill it with gray.
        if reason.startswith(("Premature end", "Corrupt JPEG data")) and "extraneous" not in reason:
            raise UnreadableImage(reason) from error
        return None


def _orientation(data):
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _exif_orientation(image)
    # PIL's parsers raise all sorts on broken files; _decode_pil turns them into one
    except Exception:
        return 0


def _exif_orientation(image):
    """Returns 1 (upright) to 8; 5 and above swap width and height."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # PIL would decode the whole image to look for it behind the pixels
    return image.getexif().get(_EXIF_ORIENTATION, 1)


def _decode_png(data):
    """Returns the pixels of an 8-bit gray or RGB PNG; None where PIL has to decide."""
    height = int.from_bytes(data[20:24], "big")
    width = int.from_bytes(data[16:20], "big")
    plain = data[24:26] in (b"\x08\x00", b"\x08\x02") and not any(
        chunk in data for chunk in (b"tRNS", b"eXIf")
    )
    if (
        not plain
        or not data.endswith(b"IEND\xaeB`\x82")
        or height * width > MAX_PIXELS
        or not _is_regular(data)
    ):
        return None
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        return None
    return image[..., None] if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _is_regular(data):
    """Whether a PNG's chunks fill the file and its size is told once.

    OpenCV makes room for as much as a chunk says that it holds, and believes the last size.
    """
    at = 8
    while at < len(data):
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return at == len(data) and data.count(b"IHDR") == 1


def _decode_pil(data):
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _pixels(ImageOps.exif_transpose(image))
    except UnreadableImage:
        raise
    except Image.UnidentifiedImageError as error:
        raise UnreadableImage("no image that PIL knows") from error
    # PIL's parsers raise OSError, SyntaxError, struct.error, EOFError, ... on broken files
    except Exception as error:
        raise UnreadableImage(f"{error}" or type(error).__name__) from error


def _pixels(image):
    """Returns a PIL image's pixels as uint8 (H, W, 1 or 3)."""
    if image.mode.startswith("I;16"):
        return (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)[..., None]
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
    """Cuts out a part of the area's share; after ten draws that do not fit, the largest centered
    one."""
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
        filtered = Image.fromarray(pixels).resize(
            (width, height), Image.Resampling[interpolation.upper()]
        )
        return np.array(filtered).reshape(height, width, image.shape[-1])
    # Averaging over areas is what keeps a shrunk image free of aliasing; cv2's other filters look
    # at few pixels.
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    resized = cv2.resize(
        image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    )
    return resized.reshape(height, width, image.shape[-1])  # cv2 drops a single channel
