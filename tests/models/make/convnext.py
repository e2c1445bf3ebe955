"""Writes references/convnext*.npz: timm's, on a side that 4 and 2 do not divide, and
torchvision's."""

from common import save
from timm.models.convnext import ConvNeXt
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.convnext import ConvNeXt as Torchvision


def main():
    net = ConvNeXt(depths=(2, 1, 1, 1), dims=(4, 8, 16, 32), num_classes=5)
    features = {"stem": net.stem} | {f"stages.{i}": stage for i, stage in enumerate(net.stages)}
    save("convnext", net, 37, features, net.head.drop)
    net = Torchvision([CNBlockConfig(4, 8, 2), CNBlockConfig(8, None, 1)], num_classes=5)
    features = {"stem": net.features[0], "stages.0": net.features[1], "stages.1": net.features[3]}
    save("convnext_torchvision", net, 16, features, net.classifier[1])


if __name__ == "__main__":
    main()
