"""The same architectures in PyTorch, for comparison.

Nothing here imports what is not in this folder, since it may run in another environment. The mobile
networks are in `torch_mobile.py`, ConvNeXt and Swin in `torch_stages.py`.

ViT: Dosovitskiy et al. 2020 (arXiv:2010.11929) with a fused qkv and PyTorch's fused attention.
ResNets: He et al. 2015 (arXiv:1512.03385), the ImageNet nets with the bottleneck's stride in its
3x3, the CIFAR nets with option A.
"""

import torch
import torch.nn.functional as F
from torch import nn

from experiments.speed import torch_mobile, torch_stages

SIZES = {  # width, depth, heads
    "mu": (32, 1, 2),
    "nano": (96, 6, 3),
    "Ti": (192, 12, 3),
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
}
TIMM_SIZES = {"Ti": "tiny", "S": "small", "B": "base", "L": "large"}
DEPTHS = {
    "18": (2, 2, 2, 2),
    "34": (3, 4, 6, 3),
    "50": (3, 4, 6, 3),
    "101": (3, 4, 23, 3),
    "152": (3, 8, 36, 3),
}


def build(name, variant, classes, image_size, channels=3):
    """Returns the `nn.Module`: images (B, C, H, W) -> logits (B, classes).

    Raises:
        ValueError: this file does not have the model.
    """
    if name == "vit":
        size, patch = variant.split("/")
        return ViT(*SIZES[size], int(patch), classes, image_size, channels)
    if name == "resnet" and variant.startswith("cifar"):
        depth = (int(variant.removeprefix("cifar")) - 2) // 6
        return ResNet((depth,) * 3, 16, classes, channels, bottleneck=False, cifar=True)
    if name == "resnet" and variant in DEPTHS:
        return ResNet(
            DEPTHS[variant], 64, classes, channels, bottleneck=int(variant) >= 50, cifar=False
        )
    if name == "efficientnet_lite" and variant == "0":
        return torch_mobile.EfficientNetLite0(classes, channels)
    if name == "mobilenet" and variant in torch_mobile.V3:
        return torch_mobile.MobileNetV3(variant, classes, channels)
    if name == "convnext" and variant in torch_stages.CONVNEXTS:
        return torch_stages.ConvNeXt(variant, classes, channels)
    if name == "swin" and variant in torch_stages.SWINS:
        return torch_stages.Swin(variant, classes, image_size, channels)
    raise ValueError(f"torch_models.py does not have {name} {variant}")


def build_timm(name, variant, classes, image_size, channels=3):
    """Returns timm's module of the same architecture.

    Raises:
        ImportError: timm is not installed.
        ValueError: timm does not have the model.
    """
    import timm

    options = {"num_classes": classes, "in_chans": channels}
    if name == "resnet" and variant in DEPTHS:
        return timm.create_model(f"resnet{variant}", **options)
    size, _, patch = variant.partition("/")
    if name == "vit" and size in TIMM_SIZES:
        timm_name = f"vit_{TIMM_SIZES[size]}_patch16_224"
        return timm.create_model(timm_name, img_size=image_size, patch_size=int(patch), **options)
    raise ValueError(f"timm does not have {name} {variant}")


class ViT(nn.Module):
    """A pre-norm vision transformer with a class token and learned positions."""

    def __init__(self, width, depth, heads, patch, classes, image_size, channels):
        super().__init__()
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, (image_size // patch) ** 2 + 1, width) * 0.02)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.blocks(x)[:, 0]))


class TransformerBlock(nn.Module):
    """Attention, then an MLP with exact GELU, both as residual branches."""

    def __init__(self, width, heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.heads = heads

    def forward(self, x):
        batch, tokens, width = x.shape
        qkv = (
            self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        )
        y = F.scaled_dot_product_attention(*qkv).transpose(1, 2).reshape(batch, tokens, width)
        x = x + self.out(y)
        return x + self.mlp(self.norm2(x))


class ResNet(nn.Module):
    """Stages of residual blocks, each at half the resolution of the one before, then the mean and a
    dense layer."""

    def __init__(self, depths, width, classes, channels, bottleneck, cifar):
        super().__init__()
        stem = conv_norm(channels, width, 3) if cifar else conv_norm(channels, width, 7, 2)
        layers = [stem, nn.ReLU(inplace=True)] + ([] if cifar else [nn.MaxPool2d(3, 2, 1)])
        features = width
        for stage, depth in enumerate(depths):
            for i in range(depth):
                block = ResidualBlock(
                    features, width * 2**stage, 2 if i == 0 and stage else 1, bottleneck, cifar
                )
                features = block.features
                layers.append(block)
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(features, classes)

    def forward(self, x):
        return self.head(self.layers(x).mean((2, 3)))


class ResidualBlock(nn.Module):
    """A basic or bottleneck block; the shortcut is option A (`cifar`) or B."""

    def __init__(self, features_in, width, stride, bottleneck, cifar):
        super().__init__()
        self.features = 4 * width if bottleneck else width
        self.stride = stride
        relu = nn.ReLU(inplace=True)
        if bottleneck:
            parts = [conv_norm(features_in, width, 1), relu, conv_norm(width, width, 3, stride)]
            parts += [relu, conv_norm(width, self.features, 1)]
        else:
            parts = [conv_norm(features_in, width, 3, stride), relu, conv_norm(width, width, 3)]
        self.branch = nn.Sequential(*parts)
        self.projection = None
        if not cifar and (stride != 1 or features_in != self.features):
            self.projection = conv_norm(features_in, self.features, 1, stride)

    def forward(self, x):
        return F.relu(self.shortcut(x) + self.branch(x), inplace=True)

    def shortcut(self, x):
        if self.projection is not None:
            return self.projection(x)
        missing = self.features - x.shape[1]
        if self.stride == 1 and not missing:
            return x
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, missing))


def conv_norm(features_in, features, kernel, stride=1):
    """Returns a convolution without bias and its BatchNorm."""
    convolution = nn.Conv2d(features_in, features, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(features))
