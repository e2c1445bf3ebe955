"""Writes references/vit_*.npz: timm's DeiT with a distillation token, and torchvision's ViT; timm's
ViT with weights that it read from an .npz in the layout of vision_transformer, which the file
holds; and timm's resized positions.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from common import FOLDER, disturb, save
from timm.layers import resample_abs_pos_embed
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torchvision.models.vision_transformer import VisionTransformer as Torchvision

SIZES = {
    "img_size": 12,
    "patch_size": 4,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "num_classes": 5,
}


def same(x):
    return x


def flat(x):
    return x[:, :2].flatten(1)


def main():
    net = VisionTransformerDistilled(**SIZES)
    save("vit_distilled", net, 12, maps(net.norm_pre, net.blocks), (net.norm, flat))
    net = Torchvision(12, 4, 2, 2, 16, 64, num_classes=5)
    blocks = {f"blocks.{i}": (block, same) for i, block in enumerate(net.encoder.layers)}
    save("vit_torchvision", net, 12, blocks, (net.encoder.ln, lambda x: x[:, 0]))
    augreg()
    positions()


def maps(tokens, blocks):
    return {"tokens": (tokens, same)} | {
        f"blocks.{i}": (block, same) for i, block in enumerate(blocks)
    }


def augreg(width=16, heads=2, depth=1, patch=4, tokens=10, classes=5):
    """The reference with the arrays that timm's own reader took, in their place."""
    random = np.random.default_rng(0)
    d = width // heads

    def norm(name):
        return {f"{name}/scale": (width,), f"{name}/bias": (width,)}

    def dense(name, inputs, outputs):
        return {f"{name}/kernel": (*inputs, *outputs), f"{name}/bias": outputs}

    shapes = dense("embedding", (patch, patch, 3), (width,)) | dense("head", (width,), (classes,))
    shapes |= {"cls": (1, 1, width), "Transformer/posembed_input/pos_embedding": (1, tokens, width)}
    shapes |= norm("Transformer/encoder_norm") | dense("pre_logits", (width,), (width,))
    for i in range(depth):
        block = f"Transformer/encoderblock_{i}"
        shapes |= norm(f"{block}/LayerNorm_0") | norm(f"{block}/LayerNorm_2")
        attention = f"{block}/MultiHeadDotProductAttention_1"
        for name in ("query", "key", "value"):
            shapes |= dense(f"{attention}/{name}", (width,), (heads, d))
        shapes |= dense(f"{attention}/out", (heads, d), (width,))
        shapes |= dense(f"{block}/MlpBlock_3/Dense_0", (width,), (4 * width,))
        shapes |= dense(f"{block}/MlpBlock_3/Dense_1", (4 * width,), (width,))
    arrays = {
        name: random.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()
    }
    net = VisionTransformer(**(SIZES | {"depth": depth}))
    disturb(net)
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "augreg.npz", **arrays)
        net.load_pretrained(str(Path(folder) / "augreg.npz"))
    images = torch.randn(2, 3, 12, 12)
    outputs = {}
    net.blocks[0].register_forward_hook(lambda _, __, out: outputs.__setitem__("blocks.0", out))
    with torch.no_grad():
        outputs["embedding"], outputs["logits"] = (
            net.eval().forward_features(images)[:, 0],
            net(images),
        )
    stored = {f"weights/{k}": v for k, v in arrays.items()} | {
        f"outputs/{k}": v.numpy() for k, v in outputs.items()
    }
    np.savez_compressed(
        FOLDER / "vit_augreg.npz", images=images.permute(0, 2, 3, 1).numpy(), **stored
    )


def positions():
    """Learned positions behind 0 to 2 tokens, and timm's resizing of them to a larger and a smaller
    grid."""
    arrays = {}
    for extra in range(3):
        array = torch.randn(1, 25 + extra, 4)
        arrays[f"{extra}/5"] = array
        for side in (3, 8):
            arrays[f"{extra}/{side}"] = resample_abs_pos_embed(
                array, [side, side], num_prefix_tokens=extra
            )
    np.savez_compressed(FOLDER / "vit_positions.npz", **{k: v.numpy() for k, v in arrays.items()})


if __name__ == "__main__":
    main()
