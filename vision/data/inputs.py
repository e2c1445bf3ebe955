"""The inputs of a model of more than images, as one NumPy array.

Such a batch is a structured array with the fields "image", uint8 (H, W, C), and those that the
model takes beside it: whatever counts, cuts, pads or joins batches of images does so with it too.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vision.errors import UserError

IMAGE = "image"


def pack(images: np.ndarray, fields: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns a batch of images (B, H, W, C) with their fields, {name: (B, ...)}.

    Without fields it is the images.
    """
    if not fields:
        return images
    arrays = {IMAGE: np.asarray(images)} | {k: np.asarray(v) for k, v in fields.items()}
    batch = np.empty(len(images), [(k, a.dtype, a.shape[1:]) for k, a in arrays.items()])
    for name, array in arrays.items():
        batch[name] = array
    return batch


def unpack(batch: np.ndarray) -> Any:
    """Returns {name: (B, ...)} of a packed batch; a batch of images as it is."""
    names = batch.dtype.names
    return batch if names is None else {name: np.ascontiguousarray(batch[name]) for name in names}


def image_of(batch: np.ndarray) -> np.ndarray:
    """Returns the images of a batch, packed or not."""
    return batch if batch.dtype.names is None else batch[IMAGE]


def check(batch: np.ndarray, fields: tuple[str, ...]) -> None:
    """Checks that a batch has the fields that a model takes.

    Raises:
        UserError: it has others. Whatever gives a model images alone ends here if it takes more.
    """
    given = tuple(name for name in batch.dtype.names or () if name != IMAGE)
    missing = [name for name in fields if name not in given]
    if missing:
        raise UserError(
            f"this model takes {', '.join(fields)} in addition to the image, but this stage "
            f"provides only {', '.join(given) or 'images'}: docs/fusion.md lists the stages that "
            "support it"
        )


def require_images_alone(fields: Sequence[str], subject: str) -> None:
    """Raises `UserError` if a model takes `fields` beside images, and `subject` gives it none."""
    if fields:
        raise UserError(
            f"{subject} needs a model that takes only images, but this one also takes "
            f"{', '.join(fields)}: docs/fusion.md lists the stages that support it"
        )


def with_image(inputs: Any, change: Callable[[Any], Any]) -> Any:
    """Returns a model's inputs, images or a mapping, with changed images."""
    if isinstance(inputs, dict):
        return inputs | {IMAGE: change(inputs[IMAGE])}
    return change(inputs)
