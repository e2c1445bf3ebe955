"""Writes references/inception.npz and inception_auxiliary.npz: torchvision's Inception v3 with a
32nd of its channels and one of each kind of block, and its auxiliary head on a map of 17 px."""

import functools

import numpy as np
import torch
from common import FOLDER, disturb, nhwc, save
from torch import nn
from torchvision.models import inception as theirs


def narrow(features_in, features, **options):
    """A convolution with a 32nd of the channels; gray images stay as they are."""
    return theirs.BasicConv2d(max(1, features_in // 32), features // 32, **options)


def main():
    a, b, c, d, e, auxiliary = (
        functools.partial(getattr(theirs, f"Inception{kind}"), conv_block=narrow)
        for kind in (*"ABCDE", "Aux")
    )
    none = lambda *_, **__: nn.Identity()  # noqa: E731
    net = theirs.Inception3(
        5,
        aux_logits=False,
        init_weights=False,
        inception_blocks=[
            narrow,
            a,
            lambda _: b(256),
            lambda *_, **__: c(736, 128),
            lambda _: d(768),
            e,
            none,
        ],
    )
    net.Conv2d_1a_3x3 = narrow(1, 32, kernel_size=3, stride=2)
    for name in ("5c", "5d", "6c", "6d", "6e", "7c"):  # one of each kind
        setattr(net, f"Mixed_{name}", nn.Identity())
    net.fc = nn.Linear(64, 5)
    maps = {
        "stem": net.maxpool2,
        "stages.0": net.Mixed_5b,
        "stages.1": net.Mixed_6b,
        "stages.2": net.Mixed_7b,
    }
    save("inception", net, 107, maps, (net.avgpool, lambda x: x.flatten(1)), batch=1, channels=1)

    net = auxiliary(768, 5)
    net.fc = nn.Linear(24, 5)
    disturb(net)
    net.eval()
    features = torch.randn(1, 24, 17, 17)
    with torch.no_grad():
        logits = net(features)
    arrays = {
        f"weights/AuxLogits.{k}": v for k, v in net.state_dict().items() if "num_batches" not in k
    }
    arrays |= {"features": nhwc(features), "logits": logits}
    np.savez_compressed(
        FOLDER / "inception_auxiliary.npz", **{k: v.numpy() for k, v in arrays.items()}
    )


if __name__ == "__main__":
    main()
