"""Images as they are put into a page: small, and inside it."""

import base64

import cv2

from vision.data.decode import to_channels

SIDE = 160  # at most, pixels
_PNG = 64  # a picture up to this side is shown enlarged, and JPEG would be seen


def picture(image):
    """Returns an image, uint8 (H, W, 1 or 3), as a data URI of at most `SIDE` pixels a side."""
    shrink = min(1.0, SIDE / max(image.shape[:2]))
    size = max(1, round(image.shape[1] * shrink)), max(1, round(image.shape[0] * shrink))
    image = cv2.resize(to_channels(image, 3), size, interpolation=cv2.INTER_AREA)
    kind, options = ("png", []) if max(size) <= _PNG else ("jpeg", [cv2.IMWRITE_JPEG_QUALITY, 85])
    data = cv2.imencode(f".{kind}", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1].tobytes()
    return data_uri(data, kind)


def data_uri(data, kind="png"):
    """Returns the bytes of a picture's file, "png" or "jpeg", as what an `img` takes in place of a
    URL."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
