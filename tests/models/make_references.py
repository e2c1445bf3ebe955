"""Writes tests/models/references/*.npz: tiny networks built from PyTorch's own layers, with what
they compute.

    python tests/models/make_references.py          # needs torch and numpy; made with torch 2.13.0

The tests need the files only. A file holds arrays by name: `weights/...` (PyTorch's names and
layouts), `images` (B, H, W, C), `labels`, `outputs/...` after each layer in evaluation mode,
`views/...`: the logits under test-time augmentation, and `train/...`: loss, gradients and running
statistics after one forward pass in training mode.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

FOLDER = Path(__file__).parent / "references"


class Basic(nn.Module):
    """Two 3x3 convolutions; `option_a`: a shortcut without parameters."""

    expansion = 1

    def __init__(self, inner, width, stride, option_a=False):
        super().__init__()
        self.conv1 = nn.Conv2d(inner, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(inner, width, stride, option_a)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.downsample(x) + self.bn2(self.conv2(y)))


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride, 1x1."""

    expansion = 4

    def __init__(self, inner, width, stride, option_a=False):
        super().__init__()
        self.conv1 = nn.Conv2d(inner, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = shortcut(inner, 4 * width, stride, option_a)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.downsample(x) + self.bn3(self.conv3(y)))


class OptionA(nn.Module):
    def __init__(self, missing, stride):
        super().__init__()
        self.missing = missing
        self.stride = stride

    def forward(self, x):
        x = F.avg_pool2d(x, 1, self.stride)  # a window of one pixel: every other pixel
        return torch.cat([x, x.new_zeros(x.shape[0], self.missing, *x.shape[2:])], dim=1)


def shortcut(inner, outer, stride, option_a):
    if inner == outer and stride == 1:
        return nn.Identity()
    if option_a:
        return OptionA(outer - inner, stride)
    return nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))


class ResNet(nn.Module):
    def __init__(self, block, depths, width, cifar, option_a=False):
        super().__init__()
        self.conv1 = (
            nn.Conv2d(3, width, 3, 1, 1, bias=False)
            if cifar
            else nn.Conv2d(3, width, 7, 2, 3, bias=False)
        )
        self.bn1 = nn.BatchNorm2d(width)
        self.pool = nn.Identity() if cifar else nn.MaxPool2d(3, 2, 1)
        self.stages = nn.ModuleList()
        inner = width
        for stage, depth in enumerate(depths):
            self.stages.append(nn.ModuleList())
            for i in range(depth):
                outer = width * 2**stage
                stride = 2 if i == 0 and stage else 1
                self.stages[-1].append(block(inner, outer, stride, option_a))
                inner = outer * block.expansion
        self.fc = nn.Linear(inner, 5)

    def layers(self, x):
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        yield "stem", x
        for stage, blocks in enumerate(self.stages):
            for i, block in enumerate(blocks):
                x = block(x)
                yield f"stages.{stage}.{i}", x
        x = x.mean((2, 3))
        yield "embedding", x
        yield "logits", self.fc(x)


class ViT(nn.Module):
    """A class token, learned positions, and PyTorch's own encoder layer."""

    def __init__(self, width=24, depth=2, heads=3, patch=4, grid=3):
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, grid**2 + 1, width))
        layer = {
            "dropout": 0.0,
            "activation": "gelu",
            "layer_norm_eps": 1e-6,
            "batch_first": True,
            "norm_first": True,
        }
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 4 * width, **layer) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.fc = nn.Linear(width, 5)

    def layers(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.positions
        yield "tokens", x
        for i, block in enumerate(self.blocks):
            x = block(x)
            yield f"blocks.{i}", x
        x = self.norm(x)[:, 0]
        yield "embedding", x
        yield "logits", self.fc(x)


class Airbench(nn.Module):
    """As the paper's author builds it (arXiv:2404.00498), for images of 25 to 32 px."""

    def __init__(self, widths, depth):
        super().__init__()
        self.depth = depth
        inner = 24
        self.whiten = nn.Conv2d(3, inner, 2)
        self.whiten.weight.requires_grad = False
        groups = []
        for width in widths:
            group = nn.ModuleDict()
            for i in range(1, depth + 1):
                group[f"conv{i}"] = nn.Conv2d(inner, width, 3, padding="same", bias=False)
                group[f"norm{i}"] = nn.BatchNorm2d(width, eps=1e-12, momentum=0.4)
                group[f"norm{i}"].weight = None
                inner = width
            groups.append(group)
        self.groups = nn.ModuleList(groups)
        self.fc = nn.Linear(inner, 5, bias=False)

    def layers(self, x):
        x = F.gelu(self.whiten(x))
        for i, group in enumerate(self.groups):
            x = y = F.gelu(group["norm1"](F.max_pool2d(group["conv1"](x), 2)))
            y = F.gelu(group["norm2"](group["conv2"](y)))
            x = y if self.depth == 2 else F.gelu(group["norm3"](group["conv3"](y)) + x)
            yield f"groups.{i}", x
        x = F.max_pool2d(x, 3).flatten(1)
        yield "embedding", x / 9
        yield "logits", self.fc(x) / 9


def views(net, x):
    """Yields the logits of each test-time augmentation."""

    def logits(x):
        return dict(net.layers(x))["logits"]

    def both(x):
        return 0.5 * logits(x) + 0.5 * logits(x.flip(-1))

    padded = F.pad(x, (1, 1, 1, 1), "reflect")
    moved = 0.5 * (both(padded[:, :, :-2, :-2]) + both(padded[:, :, 2:, 2:]))
    yield from {
        "none": logits(x),
        "flip": both(x),
        "flip_shift": 0.5 * both(x) + 0.5 * moved,
    }.items()


def main():
    torch.manual_seed(0)
    FOLDER.mkdir(exist_ok=True)
    save("resnet_basic", ResNet(Basic, (1, 2), 8, cifar=False), side=32)
    save("resnet_bottleneck", ResNet(Bottleneck, (1, 2), 4, cifar=False), side=33)
    save("resnet_cifar", ResNet(Basic, (2, 1, 1), 4, cifar=True, option_a=True), side=14)
    save("vit", ViT(), side=12)
    save("airbench", Airbench((4, 6, 8), depth=2), side=25)
    save("airbench_deep", Airbench((4, 6, 8), depth=3), side=25)
    save("resnet_small", ResNet(Basic, (1, 2, 1, 1), 4, cifar=True), side=17)


def save(name, net, side, batch=4):
    disturb(net)
    images = torch.randn(batch, 3, side, side)
    labels = torch.arange(batch) % 5
    # Copies: the pass in training mode below changes the running statistics in place.
    arrays = {
        f"weights/{k}": v.clone() for k, v in net.state_dict().items() if "num_batches" not in k
    }
    arrays |= {"images": images.permute(0, 2, 3, 1), "labels": labels}
    with torch.no_grad():
        arrays |= {f"outputs/{k}": nhwc(v) for k, v in net.eval().layers(images)}
        if isinstance(net, Airbench):
            arrays |= {f"views/{k}": v for k, v in views(net, images)}
    # Four images are too few for the statistics of a deep net's 1 x 1 features, so only the CIFAR
    # net is trained.
    if name not in ("resnet_basic", "resnet_bottleneck", "resnet_small"):
        loss = F.cross_entropy(dict(net.train().layers(images))["logits"], labels)
        loss.backward()
        gradients = {k: v.grad for k, v in net.named_parameters() if v.requires_grad}
        arrays |= {"train/loss": loss} | {f"train/gradients/{k}": v for k, v in gradients.items()}
        arrays |= {f"train/{k}": v for k, v in net.named_buffers() if "num_batches" not in k}
    np.savez_compressed(
        FOLDER / f"{name}.npz", **{k: v.detach().numpy() for k, v in arrays.items()}
    )


def disturb(net):
    """Gives every parameter and statistic a value that is not its initial one, so that none can be
    mistaken."""
    for key, value in net.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 2.0)
        elif key.endswith("running_mean") or (value.is_floating_point() and value.ndim == 1):
            value.add_(0.2 * torch.randn_like(value))


def nhwc(x):
    return x.permute(0, 2, 3, 1) if x.ndim == 4 else x


if __name__ == "__main__":
    main()
