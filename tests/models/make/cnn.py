"""Writes references/cnn.npz: a CNN of torch's own layers under our names, on images whose sides 2
does not divide."""

from common import save
from torch import nn


def layer(features_in, features):
    parts = {
        "conv": nn.Conv2d(features_in, features, 3, padding=1, bias=False),
        "norm": nn.BatchNorm2d(features),
    }
    net = nn.Sequential()
    for name, part in parts.items():
        net.add_module(name, part)
    net.append(nn.ReLU())
    return net


class CNN(nn.Module):
    def __init__(self, widths):
        super().__init__()
        inputs = [3, *widths]
        stages = zip(inputs, widths, strict=False)
        self.stages = nn.ModuleList(nn.ModuleList([layer(i, n), layer(n, n)]) for i, n in stages)
        self.pools = nn.ModuleList(nn.MaxPool2d(2) for _ in widths)
        self.mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(widths[-1], 5)

    def forward(self, x):
        for layers, pool in zip(self.stages, self.pools, strict=True):
            for part in layers:
                x = part(x)
            x = pool(x)
        return self.head(self.mean(x))


net = CNN((4, 8, 8))
save("cnn", net, 21, {f"stages.{i}": pool for i, pool in enumerate(net.pools)}, net.mean)
