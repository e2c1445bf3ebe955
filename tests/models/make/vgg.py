"""Writes references/vgg{,_bn}.npz: timm's and torchvision's VGG with other widths, on gray images;
their last maps are 3x3 and 2x2, which 7 cells share."""

from common import save
from timm.layers import ClassifierHead
from timm.models.vgg import VGG as Timm
from timm.models.vgg import ConvMlp
from torch import nn
from torchvision.models.vgg import VGG, make_layers

LAYERS = [4, "M", 4, 4, "M", 8, "M", 8, "M", 8, "M"]


def stages(net):
    pools = [layer for layer in net.features if isinstance(layer, nn.MaxPool2d)]
    return {f"stages.{i}": layer for i, layer in enumerate(pools)}


def main():
    net = Timm(LAYERS, 5, in_chans=1)
    net.pre_logits = ConvMlp(8, 16, 7)
    net.head = ClassifierHead(16, 5)
    save("vgg", net, 99, stages(net), (net.pre_logits, lambda x: x.flatten(1)), batch=1, channels=1)

    net = VGG(make_layers(LAYERS, batch_norm=True), 5, init_weights=False)
    net.features[0] = nn.Conv2d(1, 4, 3, padding=1)
    net.classifier[0], net.classifier[3] = nn.Linear(8 * 49, 16), nn.Linear(16, 16)
    net.classifier[6] = nn.Linear(16, 5)
    save("vgg_bn", net, 70, stages(net), net.classifier[5], batch=1, channels=1)


if __name__ == "__main__":
    main()
