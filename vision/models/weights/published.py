"""What is known of published weights: where they are, how their images were prepared, and how good
they are."""

import dataclasses
import functools
import pathlib

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INCEPTION_MEAN = INCEPTION_STD = (0.5, 0.5, 0.5)


@dataclasses.dataclass(frozen=True)
class Weights:
    """Published weights of one variant. An architecture's `WEIGHTS` maps what
    `config.model.pretrained` takes to it.

    Attributes:
        variant: config.model.variant.
        top1: ImageNet accuracy at `size`, percent, as their publisher states it; None where there
            is none.
        size: side of the images, pixels.
        crop: the centre crop's share of the resized image's side.
        interpolation: of the resize, bilinear or bicubic.
        mean, std: of the normalization (x / 255 - mean) / std, one number a channel.
        classes: length of their logits.
        class_names: of their logits; () = ImageNet's, for a thousand, or unknown.
        options: keyword arguments of `build` that they need, such as {"padding": "SAME"}.
    """

    variant: str
    top1: float | None = None
    size: int = 224
    crop: float = 0.875
    interpolation: str = "bicubic"
    mean: tuple = IMAGENET_MEAN
    std: tuple = IMAGENET_STD
    classes: int = 1000
    class_names: tuple = ()
    options: dict = dataclasses.field(default_factory=dict)


@functools.cache
def imagenet_classes():
    """Returns ((synset, name), ...), the 1,000 ImageNet classes in the usual order, such as
    ("n01440764", "tench")."""
    lines = (pathlib.Path(__file__).parent / "imagenet_classes.txt").read_text().splitlines()
    return tuple(tuple(line.split(" ", 1)) for line in lines)
