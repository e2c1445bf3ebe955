"""Reads the Vision Transformers that Google published as .npz files, by timm's names."""

import re

import numpy as np

from vision.models.weights.names import to_theirs

AUGREG = (  # their names, timm's
    (r"^embedding/", "patch_embed.proj/"),
    (r"^cls$", "cls_token"),
    (r"^(Transformer/posembed_input/)?pos_embedding$", "pos_embed"),
    (r"^Transformer/encoderblock_(\d+)/", r"blocks.\1."),
    (r"^Transformer/encoder_norm", "norm"),
    (r"LayerNorm_0", "norm1"),
    (r"LayerNorm_[12]", "norm2"),
    (r"MultiHeadDotProductAttention_\d/out", "attn.proj"),
    (r"MultiHeadDotProductAttention_\d/", "attn."),
    (r"MlpBlock_\d/Dense_0", "mlp.fc1"),
    (r"MlpBlock_\d/Dense_1", "mlp.fc2"),
    (r"/(kernel|scale)$", ".weight"),
    (r"/bias$", ".bias"),
)


def from_augreg(arrays):
    """Rewrites the .npz files of vision_transformer (Steiner et al. 2021, arXiv:2106.10270) and of
    big_vision.

    Args:
        arrays: {"Transformer/encoderblock_0/LayerNorm_0/scale": array, ...}.

    Returns:
        {timm's name: array in PyTorch's layout}, queries, keys and values as one.

    Raises:
        KeyError: the arrays are of another kind.
    """
    prefix = next(
        (p for p in ("", "params/", "opt/target/") if p + "embedding/kernel" in arrays), None
    )
    if prefix is None:
        raise KeyError("embedding/kernel")
    found = {}
    parts = {}
    for name, array in arrays.items():
        if not name.startswith(prefix):  # the optimizer's
            continue
        name, array = name.removeprefix(prefix), _torch_layout(name, np.asarray(array))
        # big_vision adds them before the class token
        if name == "pos_embedding" and prefix + "cls" in arrays:
            array = np.pad(array, ((0, 0), (1, 0), (0, 0)))
        for theirs, replacement in AUGREG:
            name = re.sub(theirs, replacement, name)
        block, part, kind = re.fullmatch(r"(.*attn\.)?(query|key|value)?(.*)", name).groups()
        if part:
            parts.setdefault(f"{block}qkv{kind}", {})[part] = array
        else:
            found[name] = array
    return found | {
        name: np.concatenate([p["query"], p["key"], p["value"]]) for name, p in parts.items()
    }


def _torch_layout(name, array):
    """One of big_vision's arrays; those of attention have an axis for the heads."""
    if re.search(r"(query|key|value)/", name):
        array = array.reshape(*array.shape[:-2], -1)
    elif name.endswith("out/kernel"):
        array = array.reshape(-1, array.shape[-1])
    return to_theirs(array, name.endswith("kernel"))
