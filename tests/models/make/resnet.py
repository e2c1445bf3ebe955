"""Tiny residual networks of timm's own blocks: ResNeXt's bottlenecks, squeeze-and-excitation, and
CBAM.

CBAM is built here from the paper's equations, under timm's names; the script checks that timm's
computes the same.
"""

import torch
from common import disturb, save
from timm.layers.cbam import CbamModule
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn
from torch.nn import functional as F


class Cbam(nn.Module):
    """arXiv:1807.06521, eq. 1 to 3, and the norm of the authors' code."""

    def __init__(self, channels, reduction=16, **_):
        super().__init__()
        self.channel = nn.Module()
        self.spatial = nn.Module()
        self.channel.fc1 = nn.Conv2d(channels, max(1, channels // reduction), 1, bias=False)
        self.channel.fc2 = nn.Conv2d(max(1, channels // reduction), channels, 1, bias=False)
        self.spatial.conv = nn.Module()
        self.spatial.conv.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.spatial.conv.bn = nn.BatchNorm2d(1)

    def forward(self, x):
        def mlp(y):
            return self.channel.fc2(F.relu(self.channel.fc1(y)))

        x = x * torch.sigmoid(mlp(F.adaptive_avg_pool2d(x, 1)) + mlp(F.adaptive_max_pool2d(x, 1)))
        both = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True).values], 1)
        return x * torch.sigmoid(self.spatial.conv.bn(self.spatial.conv.conv(both)))


class OptionA(nn.Module):
    def __init__(self, missing, stride):
        super().__init__()
        self.missing = missing
        self.stride = stride

    def forward(self, x):
        return F.pad(F.avg_pool2d(x, 1, self.stride), (0, 0, 0, 0, 0, self.missing))


class ResNet(nn.Module):
    """timm's names; `block` takes `options`."""

    def __init__(self, block, depths, width, cifar=False, **options):
        super().__init__()
        self.conv1 = (
            nn.Conv2d(3, width, 3, 1, 1, bias=False)
            if cifar
            else nn.Conv2d(3, width, 7, 2, 3, bias=False)
        )
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.Identity() if cifar else nn.MaxPool2d(3, 2, 1)
        inner = width
        self.depth = len(depths)
        for stage, depth in enumerate(depths):
            blocks = []
            for i in range(depth):
                stride = 2 if i == 0 and stage else 1
                planes = width * 2**stage
                outer = planes * block.expansion
                shortcut = None
                if cifar and stride > 1:
                    shortcut = OptionA(outer - inner, stride)
                elif stride > 1 or inner != outer:
                    shortcut = nn.Sequential(
                        nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer)
                    )
                blocks.append(block(inner, planes, stride, shortcut, **options))
                inner = outer
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(inner, 5)

    def forward(self, x):
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        for stage in range(self.depth):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.fc(self.pool(x))


def write(name, net, side):
    stages = {f"stages.{i}": getattr(net, f"layer{i + 1}") for i in range(net.depth)}
    save(name, net, side, {"stem": net.maxpool} | stages, net.pool)


def compare_with_timm():
    ours = Cbam(32).eval()
    theirs = CbamModule(32).eval()
    disturb(ours)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 32, 9, 9)
    torch.testing.assert_close(ours(x), theirs(x))


if __name__ == "__main__":
    compare_with_timm()
    write("resnet_se", ResNet(BasicBlock, (1, 2), 8, attn_layer="se"), 33)
    # 4 groups of 4 channels: twice the width
    write(
        "resnet_next",
        ResNet(Bottleneck, (1, 1), 8, cardinality=4, base_width=32, attn_layer="se"),
        33,
    )
    write("resnet_cbam", ResNet(Bottleneck, (1, 1), 8, attn_layer=Cbam), 37)
    write("resnet_cifar_cbam", ResNet(BasicBlock, (1, 1), 16, cifar=True, attn_layer=Cbam), 9)
