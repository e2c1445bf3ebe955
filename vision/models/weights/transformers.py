"""Rewrites the names of Hugging Face's transformers to timm's.

Queries, keys and values, which transformers stores separately, become one array.
"""

import functools
import re
from collections.abc import Iterable, Mapping

import numpy as np

Rules = Iterable[tuple[str, str]]

_LAYER = (  # the names of release 5, then those of its files and of earlier releases
    (r"attention\.q_proj", "attn.query"),
    (r"attention\.k_proj", "attn.key"),
    (r"attention\.v_proj", "attn.value"),
    (r"attention\.o_proj", "attn.proj"),
    (r"attention\.relative_position_bias\.", "attn."),
    (r"layernorm_before", "norm1"),
    (r"layernorm_after", "norm2"),
    (r"attention\.(attention|self)\.", "attn."),
    (r"attention\.output\.dense", "attn.proj"),
    (r"intermediate\.dense", "mlp.fc1"),
    (r"output\.dense", "mlp.fc2"),
)
_VIT = (
    (r"^embeddings\.cls_token", "cls_token"),
    (r"^embeddings\.distillation_token", "dist_token"),
    (r"^embeddings\.position_embeddings", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    (r"^layernorm", "norm"),
    (r"^(cls_)?classifier", "head"),
    (r"^distillation_classifier", "head_dist"),
    (r"^(encoder\.layer|layers)\.", "blocks."),
    *_LAYER,
)
_BERT = (
    (r"^embeddings\.word_embeddings\.weight", "embedding"),
    (r"^embeddings\.position_embeddings\.weight", "positions"),
    (r"^embeddings\.token_type_embeddings\.weight", "segments"),
    (r"^embeddings\.LayerNorm", "norm"),
    (r"^encoder\.layer", "blocks"),
    (r"attention\.output\.LayerNorm", "norm1"),
    (r"\.output\.LayerNorm", ".norm2"),
    *_LAYER,
)
_SWIN = (
    (r"^embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    (r"^embeddings\.norm", "patch_embed.norm"),
    (r"^layernorm", "norm"),
    (r"^classifier", "head.fc"),
    (r"^encoder\.", ""),
    *_LAYER,
)
_CONVNEXT = (
    (r"^embeddings\.patch_embeddings", "stem.0"),
    (r"^embeddings\.layernorm", "stem.1"),
    (r"^layernorm", "head.norm"),
    (r"^classifier", "head.fc"),
    (r"^encoder\.", ""),
    (r"downsampling_layer", "downsample"),
    (r"\.layers\.", ".blocks."),
    (r"dwconv", "conv_dw"),
    (r"\.layernorm", ".norm"),
    (r"pwconv1", "mlp.fc1"),
    (r"pwconv2", "mlp.fc2"),
    (r"layer_scale_parameter", "gamma"),
)
_RESNET = (
    (r"^embedder\.embedder\.convolution", "conv1"),
    (r"^embedder\.embedder\.normalization", "bn1"),
    (r"^classifier\.1", "fc"),
    *((rf"^encoder\.stages\.{i}\.layers", f"layer{i + 1}") for i in range(4)),
    (r"shortcut\.convolution", "downsample.0"),
    (r"shortcut\.normalization", "downsample.1"),
    *((rf"\.layer\.{i}\.convolution", f".conv{i + 1}") for i in range(3)),
    *((rf"\.layer\.{i}\.normalization", f".bn{i + 1}") for i in range(3)),
)
# Layers that a classifier does not use.
_UNUSED = re.compile(r"^(pooler\.|embeddings\.mask_token)")


def _rewrite(arrays: Mapping[str, np.ndarray], model: str, rules: Rules) -> dict[str, np.ndarray]:
    """Returns {timm's name: array}.

    Args:
        arrays: {transformers' name: array}, with or without the model's prefix.
        model: pattern of the prefix.
        rules: (pattern, replacement), in order.

    Raises:
        KeyError: the arrays are of another kind.
    """
    renamed = {}
    parts: dict[str, dict[str, np.ndarray]] = {}
    for full_name, array in arrays.items():
        name = re.sub(rf"^({model})\.", "", full_name)
        if _UNUSED.match(name):
            continue
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        match = re.fullmatch(r"(.*\.attn\.)(query|key|value)(\.\w+)", name)
        if match:
            attention, part, suffix = match.groups()
            parts.setdefault(f"{attention}qkv{suffix}", {})[part] = array
        else:
            renamed[name] = array
    for name, by_part in parts.items():
        renamed[name] = np.concatenate([by_part["query"], by_part["key"], by_part["value"]])
    return renamed


def _swin(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Also moves the merging of patches from the end of a stage to the beginning of the next."""
    return {
        re.sub(
            r"^layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", name
        ): a
        for name, a in _rewrite(arrays, "swin", _SWIN).items()
    }


def from_bert(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns {our name: array} of BERT, dense layers still as PyTorch stores them."""
    names = {"attn.qkv": "attention.qkv", "attn.proj": "attention.out"}
    names |= {"mlp.fc1": "mlp.hidden", "mlp.fc2": "mlp.out"}
    renamed = {}
    for name, array in _rewrite(arrays, "bert", _BERT).items():
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        if name != "embeddings.position_ids":
            renamed[name] = array
    return renamed


from_vit = functools.partial(_rewrite, model="vit|deit", rules=_VIT)
from_swin = _swin
from_convnext = functools.partial(_rewrite, model="convnext", rules=_CONVNEXT)
from_resnet = functools.partial(_rewrite, model="resnet", rules=_RESNET)
