"""Writes references/swin*.npz: timm's Swin where the windows divide the maps, torchvision's where
they do not."""

from common import save
from timm.models.swin_transformer import SwinTransformer
from torchvision.models.swin_transformer import SwinTransformer as Torchvision


def same(x):
    return x


def main():
    sizes = {"embed_dim": 8, "depths": (2, 2), "num_heads": (2, 4), "num_classes": 5}
    net = SwinTransformer(img_size=32, window_size=4, **sizes)
    features = {"stem": net.patch_embed, "stages.0": net.layers[0], "stages.1": net.layers[1]}
    # The pooled values are where the head's dropout is.
    save("swin", net, 32, {k: (m, same) for k, m in features.items()}, net.head.drop)
    net = Torchvision([4, 4], window_size=[3, 3], **sizes)
    # Maps of 7 and 4 pixels: padded to 9 and 6, and to 8 between.
    features = {"stem": net.features[0], "stages.0": net.features[1], "stages.1": net.features[3]}
    save("swin_torchvision", net, 28, {k: (m, same) for k, m in features.items()}, net.flatten)


if __name__ == "__main__":
    main()
