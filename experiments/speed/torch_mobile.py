"""The mobile networks in PyTorch: EfficientNet-Lite and MobileNetV3; see `torch_models.py`.

EfficientNet-Lite: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite,
after Tan and Le 2019 (arXiv:1905.11946), table 1, without squeeze-and-excitation. MobileNetV3:
Howard et al. 2019 (arXiv:1905.02244), tables 1 and 2. Both pad by half the kernel on each side.
"""

import functools

from torch import nn

# blocks, kernel, stride, expansion, channels
LITE = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
# kernel, expanded channels, channels, squeeze-and-excitation, activation, stride
LARGE = (
    (3, 16, 16, False, "RE", 1),
    (3, 64, 24, False, "RE", 2),
    (3, 72, 24, False, "RE", 1),
    (5, 72, 40, True, "RE", 2),
    (5, 120, 40, True, "RE", 1),
    (5, 120, 40, True, "RE", 1),
    (3, 240, 80, False, "HS", 2),
    (3, 200, 80, False, "HS", 1),
    (3, 184, 80, False, "HS", 1),
    (3, 184, 80, False, "HS", 1),
    (3, 480, 112, True, "HS", 1),
    (3, 672, 112, True, "HS", 1),
    (5, 672, 160, True, "HS", 2),
    (5, 960, 160, True, "HS", 1),
    (5, 960, 160, True, "HS", 1),
)
SMALL = (
    (3, 16, 16, True, "RE", 2),
    (3, 72, 24, False, "RE", 2),
    (3, 88, 24, False, "RE", 1),
    (5, 96, 40, True, "HS", 2),
    (5, 240, 40, True, "HS", 1),
    (5, 240, 40, True, "HS", 1),
    (5, 120, 48, True, "HS", 1),
    (5, 144, 48, True, "HS", 1),
    (5, 288, 96, True, "HS", 2),
    (5, 576, 96, True, "HS", 1),
    (5, 576, 96, True, "HS", 1),
)
V3 = {"large": (LARGE, 960, 1280), "small": (SMALL, 576, 1024)}  # rows, channels of the last layers
ACTIVATIONS = {"RE": nn.ReLU, "HS": nn.Hardswish}


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0: 32 channels at the start, 1,280 at the end, ReLU6, dropout 0.2."""

    def __init__(self, classes, channels):
        super().__init__()
        layers = [conv_norm(channels, 32, 3, 2, act=nn.ReLU6)]
        features = 32
        for depth, kernel, stride, expansion, width in LITE:
            for i in range(depth):
                expanded = expansion * features
                block = InvertedResidual(
                    features, expanded, width, kernel, 1 if i else stride, nn.ReLU6
                )
                layers.append(block)
                features = width
        self.layers = nn.Sequential(*layers, conv_norm(features, 1280, 1, act=nn.ReLU6))
        self.head = nn.Sequential(nn.Dropout(0.2, inplace=True), nn.Linear(1280, classes))

    def forward(self, x):
        return self.head(self.layers(x).mean((2, 3)))


class MobileNetV3(nn.Module):
    """MobileNetV3 of a variant, "large" or "small", with dropout 0.2."""

    def __init__(self, variant, classes, channels):
        super().__init__()
        rows, last, width = V3[variant]
        layers = [conv_norm(channels, 16, 3, 2, act=nn.Hardswish)]
        features = 16
        for kernel, expanded, out, squeezes, act, stride in rows:
            layers.append(
                InvertedResidual(
                    features, expanded, out, kernel, stride, ACTIVATIONS[act], squeezes
                )
            )
            features = out
        self.layers = nn.Sequential(*layers, conv_norm(features, last, 1, act=nn.Hardswish))
        self.head = nn.Sequential(
            nn.Linear(last, width),
            nn.Hardswish(inplace=True),
            nn.Dropout(0.2, inplace=True),
            nn.Linear(width, classes),
        )

    def forward(self, x):
        return self.head(self.layers(x).mean((2, 3)))


class InvertedResidual(nn.Module):
    """Widens, filters and weights each channel, narrows; adds the input if the shape stays."""

    def __init__(self, features_in, expanded, features, kernel, stride, act, squeezes=False):
        super().__init__()
        conv = functools.partial(conv_norm, act=act)
        layers = [conv(features_in, expanded, 1)] if expanded != features_in else []
        layers.append(conv(expanded, expanded, kernel, stride, groups=expanded))
        if squeezes:
            layers.append(SqueezeExcite(expanded, round_width(expanded / 4)))
        self.layers = nn.Sequential(*layers, conv_norm(expanded, features, 1))
        self.adds = stride == 1 and features == features_in

    def forward(self, x):
        return x + self.layers(x) if self.adds else self.layers(x)


class SqueezeExcite(nn.Module):
    """Weights the channels by their means over the image."""

    def __init__(self, features, squeezed):
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(features, squeezed, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(squeezed, features, 1),
            nn.Hardsigmoid(inplace=True),
        )

    def forward(self, x):
        return x * self.gate(x)


def conv_norm(features_in, features, kernel, stride=1, groups=1, act=None):
    """Returns a convolution without bias, its BatchNorm and, in place, its activation."""
    convolution = nn.Conv2d(
        features_in, features, kernel, stride, kernel // 2, groups=groups, bias=False
    )
    layers = [convolution, nn.BatchNorm2d(features)]
    if act is not None:
        layers.append(act(inplace=True))
    return nn.Sequential(*layers)


def round_width(width):
    """Returns the multiple of 8 nearest to `width` channels: at least 8, and at least 90 % of
    it."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded
