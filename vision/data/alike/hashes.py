"""What is kept of a picture to find its copies: perceptual hashes and a thumbnail."""

import hashlib

import cv2
import numpy as np

# Side to which every gray image is resized before it is measured, pixels: this makes sharpness
# comparable.
COMMON = 160
CROP = 0.05  # fraction of a side
# (top, bottom, left, right) cut off: the full image, and its crops.
CROPS = (
    (0, 0, 0, 0),
    (CROP, 0, 0, 0),
    (0, CROP, 0, 0),
    (0, 0, CROP, 0),
    (0, 0, 0, CROP),
    (CROP,) * 4,
)
THUMBNAIL = 32  # pixels


def digest(image: np.ndarray) -> bytes:
    """Returns the SHA-256 of an image's shape and pixels, 64 hexadecimal digits."""
    data = f"{image.shape}".encode() + np.ascontiguousarray(image).data
    return hashlib.sha256(data).hexdigest().encode()


def to_common_size(gray: np.ndarray) -> np.ndarray:
    """Returns a gray image, uint8 (H, W), resized to uint8 (160, 160)."""
    shrinks = min(gray.shape) >= COMMON
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(gray, (COMMON, COMMON), interpolation=interpolation)


def hashes(common: np.ndarray) -> np.ndarray:
    """Returns ImageHash's perceptual hash of an image and of its `CROPS`, uint64 (6,).

    Args:
        common: uint8 (160, 160), from `to_common_size`.
    """
    return np.array([_hash(_cut(common, *crop)) for crop in CROPS], np.uint64)


def thumbnail(common: np.ndarray) -> np.ndarray:
    """Returns uint8 (32, 32) of an image of the common size."""
    return cv2.resize(common, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)


def _cut(image, top, bottom, left, right):
    height, width = image.shape
    top = round(top * height)
    bottom = round(bottom * height)
    left = round(left * width)
    right = round(right * width)
    return image[top : height - bottom, left : width - right]


def _hash(gray):
    """Returns ImageHash's `phash` as a 64-bit number.

    Shrinks the image to 32 x 32 first: ImageHash would do it too, but slower.
    """
    import imagehash
    from PIL import Image

    small = cv2.resize(np.ascontiguousarray(gray), (32, 32), interpolation=cv2.INTER_AREA)
    bits = imagehash.phash(Image.fromarray(small)).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
