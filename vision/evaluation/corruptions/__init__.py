"""The 15 corruptions of ImageNet-C at 5 severities, on the device.

Hendrycks and Dietterich 2019 (arXiv:1903.12261). The constants are those of the released ImageNet-C
at 224 px and of CIFAR-10-C at 32 px, interpolated in between (`tables.between`). The images are not
bit-identical to the released ones: everything is written for whole batches, random draws are JAX's,
and an original that runs pixel by pixel or reads photographs (glass blur, frost) is imitated; the
file of each group says how. So an accuracy measured here is near the one on the released files, but
not equal to it.

Every operation is `op(key, images, severity) -> images` of float32 (B, S, S, C) in [0, 255], C = 1
or 3, with separate draws for each image; the result is neither clipped nor rounded. The severity
may be traced: one compilation serves all.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vision.data.augment.pixels import to_float
from vision.errors import check_choice, check_range
from vision.evaluation.corruptions import blur, digital, noise, weather
from vision.evaluation.corruptions.tables import round_stable

OPERATIONS = {
    "noise": (noise.gaussian_noise, noise.shot_noise, noise.impulse_noise),
    "blur": (blur.defocus_blur, blur.glass_blur, blur.motion_blur, blur.zoom_blur),
    "weather": (weather.snow, weather.frost, weather.fog, weather.brightness),
    "digital": (
        digital.contrast,
        digital.elastic_transform,
        digital.pixelate,
        digital.jpeg_compression,
    ),
}
GROUPS = {
    group: tuple(op.__name__ for op in operations) for group, operations in OPERATIONS.items()
}
_BY_NAME = {op.__name__: op for operations in OPERATIONS.values() for op in operations}
NAMES = tuple(_BY_NAME)
SEVERITIES = (1, 2, 3, 4, 5)


def corrupt(
    name: str, images: jax.Array | np.ndarray, severity: int | jax.Array, key: jax.Array
) -> jax.Array:
    """Returns corrupted images, float32 (B, S, S, C), integers in [0, 255] as in an 8-bit image.

    Args:
        name: one of `NAMES`, static.
        images: uint8 or float32 (B, S, S, C) in [0, 255], square, C = 1 or 3.
        severity: int in 1 .. 5; may be traced.
        key: a random key; the same key gives the same result.

    Raises:
        UserError: if the name is unknown, or a severity that is not traced is out of range.
    """
    check_choice("corruption", name, NAMES)
    if isinstance(severity, int):
        check_range("severity", severity, severity in SEVERITIES, "1, 2, 3, 4 or 5")
    corrupted = _BY_NAME[name](key, to_float(jnp.asarray(images)), severity)
    return round_stable(jnp.clip(corrupted, 0, 255))
