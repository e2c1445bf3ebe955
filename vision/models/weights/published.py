"""Descriptions of published weights: the source, how images were prepared, and the accuracy."""

import dataclasses
import functools
import pathlib
from typing import Any

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INCEPTION_MEAN = (0.5, 0.5, 0.5)
INCEPTION_STD = (0.5, 0.5, 0.5)


@dataclasses.dataclass(frozen=True)
class Weights:
    """Published weights of one variant.

    An architecture's `WEIGHTS` maps values of `config.model.pretrained` to them.

    Attributes:
        variant: config.model.variant.
        top1: ImageNet accuracy at `size`, percent, as reported by their publisher, or None.
        size: side of the images, pixels.
        crop: side of the center crop as a fraction of the resized image's side.
        interpolation: interpolation of the resize, bilinear or bicubic.
        mean, std: normalization (x / 255 - mean) / std, one number per channel.
        classes: number of logits.
        class_names: name of each logit; () for ImageNet's if there are a thousand, else unknown.
        tensor: pattern of a tensor's name that only the files of this publisher have, so that one
            that was renamed, or saved by a trainer, is told by it; "" if there is none.
        options: keyword arguments of `build` that the weights need, such as {"padding": "SAME"}.
    """

    variant: str
    top1: float | None = None
    size: int = 224
    crop: float = 0.875
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    classes: int = 1000
    class_names: tuple[str, ...] = ()
    tensor: str = ""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@functools.cache
def imagenet_classes() -> tuple[tuple[str, ...], ...]:
    """Returns the 1,000 ImageNet classes in the order of the logits: ("n01440764", "tench"), ..."""
    lines = (pathlib.Path(__file__).parent / "imagenet_classes.txt").read_text().splitlines()
    return tuple(tuple(line.split(" ", 1)) for line in lines)
