"""A ResNet with BatchNorm that compiles in a second: a research module by dotted name."""

from vision.models.resnet import ResNet


def build(variant, num_classes, *, rngs, dtype, image_size, channels, dropout=0.0):
    del variant, image_size
    return ResNet(
        (1, 1),
        4,
        num_classes,
        bottleneck=False,
        cifar=True,
        option_a=True,
        rngs=rngs,
        dtype=dtype,
        channels=channels,
        dropout=dropout,
    )
