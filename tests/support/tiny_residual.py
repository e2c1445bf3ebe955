"""Residual networks of all kinds that compile in a second: a research module by dotted name."""

from vision.models.resnet import ResNet

KINDS = {
    "cifar": {"bottleneck": False, "cifar": True, "option_a": True},
    "small": {"bottleneck": False, "cifar": True},
    "bottleneck": {"bottleneck": True, "cifar": False},
    "next": {"bottleneck": True, "cifar": False, "widening": 2, "cardinality": 4},
}


def build(variant, num_classes, *, rngs, dtype, image_size, channels):
    del image_size
    return ResNet(
        (1, 1), 4, num_classes, **KINDS[variant], rngs=rngs, dtype=dtype, channels=channels
    )
