"""One pass over all images, in parallel processes: what they are, and enough of each to compare
them without reading them again. Imports no JAX."""

import dataclasses
import functools
import hashlib

import cv2
import numpy as np

from vision.data.decode import UnreadableImage, decode, format_of, to_channels
from vision.support.processes import cores, ordered
from vision.support.progress import track

# side that every gray image is brought to before it is measured, pixels: sharpness can then be
# compared
COMMON = 160
CROP = 0.05  # of a side; below are top, bottom, left and right of the whole image and of its crops
CROPS = (
    (0, 0, 0, 0),
    (CROP, 0, 0, 0),
    (0, CROP, 0, 0),
    (0, 0, CROP, 0),
    (0, 0, 0, CROP),
    (CROP,) * 4,
)
THUMBNAIL = 32  # pixels
_CHUNK = 128  # images a task
# standard deviation of the filter that takes away what is no detail but light, of 160 pixels
_SMOOTH = 8


@dataclasses.dataclass
class Scan:
    """What one pass says of each image; zeros where it is unreadable.

    Attributes:
        reason: N texts, why an image is unreadable; "" = it is readable.
        height, width, channels: int32 (N,).
        format: N texts, by the file's first bytes; "array" where an image has no file of its own.
        bytes: int64 (N,), of the file; 0 where there is none.
        digest: bytes (N,), SHA-256 of shape and decoded pixels.
        mean, std: float32 (N,), of the gray values, 0 to 255.
        sharpness: float32 (N,), variance of the Laplacian, Pech-Pacheco et al. 2000
            (doi:10.1109/ICPR.2000.903548), at `COMMON` size, over that of all detail, so that
            neither contrast nor uneven light matter: 0 = all is smooth.
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

    def __len__(self):
        return len(self.reason)

    @functools.cached_property
    def readable(self):
        """bool (N,)."""
        return np.array([not reason for reason in self.reason], bool)

    def normalization(self, rows):
        """Returns (mean, std) of each channel over some images, in [0, 1]: what `data.mean` and
        `data.std` take.

        Each image weighs the same whatever its size, as in training, where all are brought to one
        size.

        Args:
            rows: bool (N,) or indices; unreadable images among them must be left out.

        Returns:
            Two lists of 1 number where all images are gray, else of 3.
        """
        channels = int(self.channels[rows].max(initial=1))
        mean = self.channel_mean[rows].mean(0)
        std = np.sqrt(np.maximum(self.channel_square[rows].mean(0) - mean**2, 0))
        return mean[:channels].tolist(), std[:channels].tolist()


def scan(images):
    """Reads every image once.

    Args:
        images: `vision.audit.images.Images`.
    """
    chunks = [range(i, min(i + _CHUNK, len(images))) for i in range(0, len(images), _CHUNK)]
    parts = ordered(_measure_all, chunks, cores(), images)
    parts = list(track(parts, len(chunks), f"scan, parts of {_CHUNK} images"))
    return Scan(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def _measure_all(images, rows):
    """Returns {field of `Scan`: array} of some rows."""
    found = []
    for row in rows:
        try:
            data = images.file(row)
            reason = ""
            pixels = images.image(row) if data is None else decode(data)  # a file is read once
        except UnreadableImage as error:
            pixels = None
            data = b""
            reason = error.reason
        found.append({"reason": reason} | (_EMPTY if pixels is None else measure(pixels, data)))
    return {name: np.stack([np.asarray(image[name]) for image in found]) for name in found[0]}


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


def measure(image, data):
    """Returns {field of `Scan`: value} of an image uint8 (H, W, 1 or 3) and its file's bytes, or
    None."""
    height, width, channels = image.shape
    gray = to_channels(image, 1)[..., 0]
    shrinks = min(height, width) >= COMMON
    common = cv2.resize(
        gray, (COMMON, COMMON), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    mean, std = cv2.meanStdDev(image)
    mean = np.resize(mean[:, 0], 3) / 255
    std = np.resize(std[:, 0], 3) / 255
    whole = gray.astype(np.float32)
    return {
        "height": np.int32(height),
        "width": np.int32(width),
        "channels": np.int32(channels),
        "format": format_of(data),
        "bytes": np.int64(len(data or b"")),
        "digest": np.bytes_(_digest(image)),
        "mean": np.float32(whole.mean()),
        "std": np.float32(whole.std()),
        "sharpness": _sharpness(common),
        "hashes": np.array([_hash(_cut(common, *crop)) for crop in CROPS], np.uint64),
        "thumbnail": cv2.resize(common, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA),
        "channel_mean": mean,
        "channel_square": std**2 + mean**2,
    }


def _digest(image):
    return (
        hashlib.sha256(f"{image.shape}".encode() + np.ascontiguousarray(image).data)
        .hexdigest()
        .encode()
    )


def _sharpness(gray):
    gray = gray.astype(np.float32)
    detail = gray - cv2.GaussianBlur(gray, (0, 0), _SMOOTH)
    return np.float32(cv2.Laplacian(gray, cv2.CV_32F).var() / (detail.var() + 1))


def _cut(image, top, bottom, left, right):
    height, width = image.shape
    top = round(top * height)
    bottom = round(bottom * height)
    left = round(left * width)
    right = round(right * width)
    return image[top : height - bottom, left : width - right]


def _hash(gray):
    """Returns ImageHash's `phash` as a number of 64 bits; it would shrink the image to 32 x 32
    itself, but slower."""
    import imagehash
    from PIL import Image

    small = cv2.resize(np.ascontiguousarray(gray), (32, 32), interpolation=cv2.INTER_AREA)
    return int.from_bytes(
        np.packbits(imagehash.phash(Image.fromarray(small)).hash).tobytes(), "big"
    )
