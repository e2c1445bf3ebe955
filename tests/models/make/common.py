"""What the scripts of this folder share: they write tests/models/references/*.npz, which the tests
read without torch.

    python tests/models/make/NAME.py     # needs torch, and timm or torchvision where the script
                                         names them

A file holds arrays by name: `weights/...`, under the reference library's names and in its layouts;
`images` (B, H, W, C); `outputs/...`: the maps that our `features` gives, by our names, channels
last, then "embedding" and "logits". All in evaluation mode, float32.
"""

from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent.parent / "references"


def save(name, net, side, features, embedding, batch=2, channels=3):
    """Writes references/NAME.npz of a tiny network whose head is small too.

    Args:
        name: of the file.
        net: the torch module, called with images (B, C, H, W); its result is the logits.
        side: of the images, pixels.
        features: {our name of a map: the submodule of `net` whose output it is}, or (submodule,
            function) where the output is changed first. Maps (B, C, H, W) are stored channels last;
            others as they are.
        embedding: likewise, for the embedding.
        batch: images.
        channels: of the images.
    """
    disturb(net)
    net.eval()
    images = torch.randn(batch, channels, side, side)
    outputs = {}
    for key, where in (features | {"embedding": embedding}).items():
        module, change = where if isinstance(where, tuple) else (where, nhwc)
        module.register_forward_hook(
            lambda _, __, out, key=key, change=change: outputs.__setitem__(key, change(out))
        )
    with torch.no_grad():
        outputs["logits"] = net(images)
    arrays = {f"weights/{k}": v for k, v in net.state_dict().items() if "num_batches" not in k}
    arrays |= {"images": nhwc(images)} | {f"outputs/{k}": v for k, v in outputs.items()}
    np.savez_compressed(
        FOLDER / f"{name}.npz", **{k: v.detach().numpy() for k, v in arrays.items()}
    )
    print(
        name,
        (FOLDER / f"{name}.npz").stat().st_size // 1000,
        "kB",
        {k: tuple(v.shape) for k, v in outputs.items()},
    )


def disturb(net, seed=0):
    """Gives every parameter and statistic a value of its own, so that none can be mistaken for
    another."""
    torch.manual_seed(seed)
    for key, value in net.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 2.0)
        elif value.is_floating_point() and value.ndim == 1:
            value.add_(0.2 * torch.randn_like(value))
        elif value.is_floating_point() and value.ndim > 1:
            value.copy_(torch.randn_like(value) * value[0].numel() ** -0.5)


def nhwc(x):
    return x.permute(0, 2, 3, 1) if x.ndim == 4 else x
