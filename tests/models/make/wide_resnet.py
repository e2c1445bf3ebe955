"""Writes references/wide_resnet.npz and wide_resnet_leaky.npz: tiny Wide ResNets of torch's own
layers, under the names of https://github.com/xternalz/WideResNet-pytorch."""

from common import save
from torch import nn


class Block(nn.Module):
    def __init__(self, inner, outer, stride, act):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.act = act
        if inner != outer or stride != 1:
            self.convShortcut = nn.Conv2d(inner, outer, 1, stride, bias=False)

    def forward(self, x):
        activated = self.act(self.bn1(x))
        if hasattr(self, "convShortcut"):
            x = self.convShortcut(activated)
        return x + self.conv2(self.act(self.bn2(self.conv1(activated))))


class Stage(nn.Module):
    def __init__(self, blocks):
        super().__init__()
        self.layer = nn.Sequential(*blocks)

    def forward(self, x):
        return self.layer(x)


class WideResNet(nn.Module):
    def __init__(self, depth, widening, width, act):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        inner = width
        for i, stride in enumerate((1, 2, 2)):
            outer = widening * width * 2**i
            first = Block(inner, outer, stride, act)
            rest = [Block(outer, outer, 1, act) for _ in range(depth - 1)]
            setattr(self, f"block{i + 1}", Stage([first, *rest]))
            inner = outer
        self.bn1 = nn.BatchNorm2d(inner)
        self.last = nn.Sequential(act)
        self.mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(inner, 5)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(self.mean(self.last(self.bn1(x))))


def write(name, side, *arguments):
    net = WideResNet(*arguments)
    stages = {f"stages.{i}": getattr(net, f"block{i + 1}") for i in range(3)}
    save(name, net, side, {"stem": net.conv1, **stages, "last": net.last}, net.mean)


if __name__ == "__main__":
    write("wide_resnet", 13, 2, 2, 2, nn.ReLU())
    # Not widened, so the first block's shortcut is the identity.
    write("wide_resnet_leaky", 12, 1, 1, 4, nn.LeakyReLU(0.1))
