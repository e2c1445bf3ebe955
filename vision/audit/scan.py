"""One pass over all images in parallel processes.

It measures enough of each image to compare them without reading them again. Imports no JAX.
"""

import dataclasses
import functools
from typing import Any

import cv2
import numpy as np

from vision.audit.images import Images
from vision.data.alike.hashes import CROPS, THUMBNAIL, digest, hashes, thumbnail, to_common_size
from vision.data.decode import UnreadableImage, decode, to_channels
from vision.data.formats import format_of
from vision.support.processes import cores, ordered
from vision.support.progress import track

_CHUNK = 128  # images per task
# Standard deviation, of 160 pixels, of the filter that removes light and keeps detail.
_SMOOTH = 8


@dataclasses.dataclass
class Scan:
    """Measurements of each image; zeros for unreadable ones.

    Attributes:
        reason: N strings, why an image is unreadable; "" for readable ones.
        height, width, channels: int32 (N,).
        format: N strings, format by the file's first bytes; "array" for images without a file of
            their own.
        bytes: int64 (N,), file size; 0 without a file.
        digest: bytes (N,), SHA-256 of shape and decoded pixels.
        mean, std: float32 (N,), of the gray values, 0 to 255.
        sharpness: float32 (N,), variance of the Laplacian, Pech-Pacheco et al. 2000
            (doi:10.1109/ICPR.2000.903548), at `COMMON` size, over the variance of all detail, so
            that neither contrast nor uneven light matters: 0 is entirely smooth.
        hashes: uint64 (N, 6), ImageHash's perceptual hash of the image and of its `CROPS`.
        thumbnail: uint8 (N, 32, 32), gray.
        channel_mean, channel_square: float64 (N, 3), means of the values in [0, 1] and of their
            squares; a gray image counts as three equal channels.
    """

    reason: np.ndarray
    height: np.ndarray
    width: np.ndarray
    channels: np.ndarray
    format: np.ndarray
    bytes: np.ndarray
    digest: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    sharpness: np.ndarray
    hashes: np.ndarray
    thumbnail: np.ndarray
    channel_mean: np.ndarray
    channel_square: np.ndarray

    def __len__(self) -> int:
        return len(self.reason)

    @functools.cached_property
    def readable(self) -> np.ndarray:
        """bool (N,): whether each image is readable."""
        return np.array([not reason for reason in self.reason], bool)

    def normalization(self, rows: np.ndarray | slice) -> tuple[list[float], list[float]]:
        """Returns (mean, std) per channel of some images, in [0, 1], for `data.mean`, `data.std`.

        Each image has the same weight whatever its size, as in training, where all are resized to
        one size.

        Args:
            rows: bool (N,), indices or a slice, without unreadable images.

        Returns:
            Two lists of 1 number if all images are gray, else of 3.
        """
        channels = int(self.channels[rows].max(initial=1))
        mean = self.channel_mean[rows].mean(0)
        std = np.sqrt(np.maximum(self.channel_square[rows].mean(0) - mean**2, 0))
        return mean[:channels].tolist(), std[:channels].tolist()


def scan(images: Images) -> Scan:
    """Reads and measures every image once."""
    chunks = [range(i, min(i + _CHUNK, len(images))) for i in range(0, len(images), _CHUNK)]
    measured = ordered(_measure_all, chunks, cores(), images)
    parts = list(track(measured, len(images), "scanning", "images", size=_CHUNK))
    return Scan(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def _measure_all(images, rows):
    """Returns {field of `Scan`: array} of some rows."""
    measurements = []
    for row in rows:
        try:
            data = images.file(row)
            reason = ""
            pixels = (
                images.image(row) if data is None else decode(data, bits=images.bits)
            )  # reads the file once
        except UnreadableImage as error:
            pixels = None
            data = b""
            reason = error.reason
        fields = _EMPTY if pixels is None else measure(pixels, data)
        measurements.append({"reason": reason} | fields)
    return {
        name: np.stack([np.asarray(fields[name]) for fields in measurements])
        for name in measurements[0]
    }


_EMPTY = {
    "height": np.int32(0),
    "width": np.int32(0),
    "channels": np.int32(0),
    "format": "",
    "bytes": np.int64(0),
    "digest": np.bytes_(bytes(64)),
    "mean": np.float32(0),
    "std": np.float32(0),
    "sharpness": np.float32(0),
    "hashes": np.zeros(len(CROPS), np.uint64),
    "thumbnail": np.zeros((THUMBNAIL, THUMBNAIL), np.uint8),
    "channel_mean": np.zeros(3),
    "channel_square": np.zeros(3),
}


def measure(image: np.ndarray, data: bytes | None) -> dict[str, Any]:
    """Returns {field of `Scan`: value} of one image.

    Args:
        image: uint8 (H, W, 1 or 3).
        data: bytes of its file, or None.
    """
    height, width, channels = image.shape
    gray = to_channels(image, 1)[..., 0]
    common = to_common_size(gray)
    mean, std = (np.resize(x[:, 0], 3) / 255 for x in cv2.meanStdDev(image))
    gray = gray.astype(np.float32)
    return {
        "height": np.int32(height),
        "width": np.int32(width),
        "channels": np.int32(channels),
        "format": format_of(data),
        "bytes": np.int64(len(data or b"")),
        "digest": np.bytes_(digest(image)),
        "mean": np.float32(gray.mean()),
        "std": np.float32(gray.std()),
        "sharpness": _sharpness(common),
        "hashes": hashes(common),
        "thumbnail": thumbnail(common),
        "channel_mean": mean,
        "channel_square": std**2 + mean**2,
    }


def _sharpness(gray):
    gray = gray.astype(np.float32)
    detail = gray - cv2.GaussianBlur(gray, (0, 0), _SMOOTH)
    return np.float32(cv2.Laplacian(gray, cv2.CV_32F).var() / (detail.var() + 1))
