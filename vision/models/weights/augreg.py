"""Reads the Vision Transformers that Google published as .npz files, by timm's names."""

import re
from collections.abc import Mapping

import numpy as np

from vision.models.weights.names import to_torch_layout

AUGREG = (  # (pattern in Google's name, its replacement in timm's), in order
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


def from_augreg(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rewrites the arrays of vision_transformer's and big_vision's .npz files for timm's names.

    Steiner et al. 2021 (arXiv:2106.10270).

    Args:
        arrays: {"Transformer/encoderblock_0/LayerNorm_0/scale": array, ...}.

    Returns:
        {timm's name: array in PyTorch's layout}; queries, keys and values are one array.

    Raises:
        KeyError: the arrays are of another kind.
    """
    prefix = next(
        (p for p in ("", "params/", "opt/target/") if p + "embedding/kernel" in arrays), None
    )
    if prefix is None:
        raise KeyError("embedding/kernel")
    renamed = {}
    attention_parts: dict[str, dict[str, np.ndarray]] = {}
    for full_name, array in arrays.items():
        if not full_name.startswith(prefix):  # the optimizer's
            continue
        array = _torch_layout(full_name, np.asarray(array))
        name = full_name.removeprefix(prefix)
        # big_vision adds positions before the class token.
        if name == "pos_embedding" and prefix + "cls" in arrays:
            array = np.pad(array, ((0, 0), (1, 0), (0, 0)))
        for pattern, replacement in AUGREG:
            name = re.sub(pattern, replacement, name)
        attention, part, suffix = _split_attention(name)
        if part:
            attention_parts.setdefault(f"{attention}qkv{suffix}", {})[part] = array
        else:
            renamed[name] = array
    for name, parts in attention_parts.items():
        renamed[name] = np.concatenate([parts["query"], parts["key"], parts["value"]])
    return renamed


def _split_attention(name):
    """Returns ("blocks.0.attn.", "query", ".weight") of "blocks.0.attn.query.weight".

    The second is None if the name is not that of a query, key or value.
    """
    match = re.fullmatch(r"(.*attn\.)?(query|key|value)?(.*)", name)
    return match.groups() if match else (None, None, name)


def _torch_layout(name, array):
    """Returns one of big_vision's arrays without the attention's axis for heads, transposed."""
    if re.search(r"(query|key|value)/", name):
        array = array.reshape(*array.shape[:-2], -1)
    elif name.endswith("out/kernel"):
        array = array.reshape(-1, array.shape[-1])
    return to_torch_layout(array, name.endswith("kernel"))
