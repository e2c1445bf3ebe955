"""Vision Transformer. Dosovitskiy et al. 2020 (arXiv:2010.11929), table 1.

Ti and S are DeiT's (arXiv:2012.12877). Pre-norm blocks, exact GELU, LayerNorm eps 1e-6, so that
weights trained by PyTorch libraries load unchanged. `pool="mean"` with `positions="sincos"` is the
better plain ViT of Beyer et al. 2022 (arXiv:2205.01580). `distilled=True` is DeiT's distillation
token (Touvron et al. 2020, arXiv:2012.12877, section 4).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from vision.errors import UserError, check_choice
from vision.models.layers.attention import choose_attention
from vision.models.layers.blocks import Dropout, StochasticDepth, apply_blocks, linear_rates
from vision.models.layers.dtypes import at_least_float32
from vision.models.layers.norms import LayerNorm
from vision.models.layers.options import check_options
from vision.models.layers.positions import resize_positions, sincos_2d
from vision.models.layers.transformer import Attention, Mlp
from vision.models.weights.augreg import from_augreg
from vision.models.weights.published import INCEPTION_MEAN, INCEPTION_STD, Weights
from vision.models.weights.transformers import from_vit

SHAPES = {  # width, depth, heads; the MLP is four times as wide
    "mu": (32, 1, 2),  # for tests
    "nano": (96, 6, 3),  # for small gray images on a CPU
    "Ti": (192, 12, 3),
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
}
VARIANTS = tuple(f"{size}/PATCH" for size in SHAPES)  # PATCH: side of a patch, pixels
LISTED = ("Ti/16", "S/16", "S/32", "B/16", "B/32", "L/16")  # the rows in a table of models
# trained on ImageNet-1k: arXiv:2012.12877, table 5
PAPER_TOP1 = {"Ti/16": 72.2, "S/16": 79.8, "B/16": 81.8}
POOLS = ("token", "mean")
POSITIONS = ("learned", "sincos")

_augreg = functools.partial(Weights, crop=0.9, mean=INCEPTION_MEAN, std=INCEPTION_STD)
_deit = functools.partial(Weights, crop=0.9)
_distilled = functools.partial(_deit, options={"distilled": True})
WEIGHTS = {  # top-1 as timm lists it, results/results-imagenet.csv
    "hf:timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k": _augreg("Ti/16", 75.452),
    "hf:timm/vit_small_patch16_224.augreg_in21k_ft_in1k": _augreg("S/16", 81.402),
    "hf:timm/vit_small_patch32_224.augreg_in21k_ft_in1k": _augreg("S/32", 76.010),
    "hf:timm/vit_base_patch16_224.augreg_in1k": _augreg("B/16", 79.154),
    "hf:timm/vit_base_patch16_224.augreg_in21k_ft_in1k": _augreg("B/16", 84.534),
    "hf:timm/vit_base_patch16_224.augreg2_in21k_ft_in1k": _augreg("B/16", 85.108),
    "hf:timm/vit_base_patch16_384.augreg_in21k_ft_in1k": _augreg(
        "B/16", 86.010, size=384, crop=1.0
    ),
    "hf:timm/vit_base_patch32_224.augreg_in21k_ft_in1k": _augreg("B/32", 80.732),
    "hf:timm/vit_large_patch16_224.augreg_in21k_ft_in1k": _augreg("L/16", 85.856),
    "hf:timm/deit_tiny_patch16_224.fb_in1k": _deit("Ti/16", 72.190),
    "hf:timm/deit_small_patch16_224.fb_in1k": _deit("S/16", 79.856),
    "hf:timm/deit_base_patch16_224.fb_in1k": _deit("B/16", 81.980),
    "hf:timm/deit_tiny_distilled_patch16_224.fb_in1k": _distilled("Ti/16", 74.538),
    "hf:timm/deit_small_distilled_patch16_224.fb_in1k": _distilled("S/16", 81.204),
    "hf:timm/deit_base_distilled_patch16_224.fb_in1k": _distilled("B/16", 83.384),
}


def build(variant: str, num_classes: int, **options: Any) -> "ViT":
    """Builds the `ViT` of a variant SIZE/PATCH, such as "Ti/4" or "B/16".

    Args:
        variant: one of `VARIANTS`, with PATCH the side of a patch in pixels.
        num_classes: length of the logits.
        options: those of `ViT`.

    Raises:
        UserError: an unknown variant, an option's value is invalid, or patches do not divide the
            image.
    """
    size, _, patch = str(variant).partition("/")
    if size not in SHAPES or not patch.isdecimal() or int(patch) == 0:
        hint = ", where PATCH is the side of a patch in pixels, as in Ti/4"
        check_choice("model.variant", variant, VARIANTS, hint)
    return ViT(*SHAPES[size], int(patch), num_classes, **options)


class ViT(nnx.Module):
    """Images (B, H, W, C), normalized -> embeddings (B, D) -> logits (B, num_classes), float32.

    D is the width; with a distillation token twice that, whose embedding follows the class token's.

    Args:
        width: length of a token; a multiple of `heads`, and of 4 for sincos positions.
        depth: number of blocks.
        heads: attention heads per block.
        patch: side of a patch, pixels.
        num_classes: length of the logits.
        rngs: nnx random streams: `params`, and `dropout` if there is any.
        dtype: compute dtype, float32 or bfloat16. Parameters, statistics and softmax are float32.
        image_size: side of the images, pixels; a multiple of `patch`.
        channels: image channels.
        pool: "token": the class token's embedding. "mean": the mean over the normalized patches'
            (no class token).
        positions: "learned", or "sincos": fixed, 2-D, only for the patches.
        distilled: adds a distillation token beside the class token, and a `DistilledHead`.
        dropout: probability, after the positions and each dense layer except qkv (the paper's
            appendix B.1).
        stochastic_depth: probability of dropping each branch of the last block; linear in depth.
        attention: "auto", "plain", "xla" or "cudnn"; see `layers.attention.choose_attention`.
        remat: "none", "dots" or "blocks": what the backward pass recomputes; see
            `layers.blocks.apply_blocks`.

    The initialization is the paper's.

    Raises:
        UserError: an option's value is unknown or does not fit the others.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        patch: int,
        num_classes: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        image_size: int = 224,
        channels: int = 3,
        pool: str = "token",
        positions: str = "learned",
        distilled: bool = False,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        attention: str = "auto",
        remat: str = "none",
    ):
        check_options(dropout=dropout, stochastic_depth=stochastic_depth, remat=remat)
        _check_tokens(width, patch, image_size, pool, positions, distilled)
        self.grid = image_size // patch
        self.dtype = dtype
        self.remat = remat
        tokens = self.grid**2 + (pool == "token") + distilled
        attention = choose_attention(attention, tokens, width // heads, dtype)
        normal = nnx.initializers.normal(0.02)
        self.patches = Patches(patch, channels, width, dtype=dtype, rngs=rngs)
        self.class_token = nnx.Param(jnp.zeros((1, 1, width))) if pool == "token" else None
        self.distillation_token = (
            nnx.Param(normal(rngs.params(), (1, 1, width))) if distilled else None
        )
        self.positions = (
            nnx.Param(normal(rngs.params(), (1, tokens, width))) if positions == "learned" else None
        )
        self.dropout = Dropout(dropout, rngs=rngs)
        block = functools.partial(Block, width, heads, dropout, dtype=dtype, rngs=rngs)
        rates = linear_rates(stochastic_depth, depth)
        self.blocks = nnx.List([block(rate, attention) for rate in rates])
        self.norm = LayerNorm(width, rngs=rngs)
        self.head = (DistilledHead if distilled else nnx.Linear)(
            width,
            num_classes,
            kernel_init=nnx.initializers.zeros_init(),
            dtype=at_least_float32(dtype),
            rngs=rngs,
        )

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits (B, num_classes), float32, of images (B, H, W, C)."""
        return self.head(self.embed(images))

    def embed(self, images: jax.Array) -> jax.Array:
        """Returns embeddings (B, D), float32, of images (B, H, W, C).

        Raises:
            UserError: the images do not have the model's size.
        """
        return self.pool(self.encode(self.tokens(images)))

    def features(self, images: jax.Array) -> dict[str, jax.Array]:
        """Returns {"tokens": ..., "blocks.0": ..., ...}: tokens (B, N, width), without final norm.

        Raises:
            UserError: the images do not have the model's size.
        """
        x = self.tokens(images)
        maps = {"tokens": x}
        for i, block in enumerate(self.blocks):
            x = apply_blocks([block], x, self.remat)
            maps[f"blocks.{i}"] = x
        return maps

    def encode(self, tokens: jax.Array) -> jax.Array:
        """Returns the last block's tokens (B, N, width), without final norm.

        Args:
            tokens: (B, N, width), those of `tokens` or some of them.
        """
        return apply_blocks(self.blocks, tokens, self.remat)

    def pool(self, x: jax.Array) -> jax.Array:
        """Returns embeddings (B, D), float32, of the last block's tokens x (B, N, width)."""
        x = x.astype(at_least_float32(self.dtype))
        if self.class_token is None:
            return self.norm(x).mean(1)
        # The norm acts on each token separately, so the other tokens need none.
        if self.distillation_token is None:
            return self.norm(x[:, 0])
        return self.norm(x[:, :2]).reshape(x.shape[0], -1)

    def tokens(self, images: jax.Array) -> jax.Array:
        """Returns the first block's input (B, N, width): class, distillation, then patch tokens.

        Raises:
            UserError: the images do not have the model's size.
        """
        side = self.grid * self.patches.kernel.shape[0]
        if images.shape[1:3] != (side, side):
            raise UserError(
                f"the model takes images of {side} px, not {images.shape[1]} x {images.shape[2]}"
            )
        x = self.patches(images.astype(self.dtype))
        if self.positions is None:
            x = x + jnp.asarray(sincos_2d(self.grid, x.shape[-1]), self.dtype)
        shape = (x.shape[0], 1, x.shape[-1])
        leading = [
            jnp.broadcast_to(token[...].astype(self.dtype), shape)
            for token in (self.class_token, self.distillation_token)
            if token is not None
        ]
        if leading:
            x = jnp.concatenate([*leading, x], axis=1)
        if self.positions is not None:
            x = x + self.positions[...].astype(self.dtype)
        return self.dropout(x)


def _check_tokens(width, patch, image_size, pool, positions, distilled):
    """Raises `UserError` for unknown or conflicting options of the tokens."""
    check_choice("model.pool", pool, POOLS)
    check_choice("model.positions", positions, POSITIONS)
    if image_size % patch:
        raise UserError(
            f"images of {image_size} px cannot be cut into patches of {patch} px: "
            "choose a patch in model.variant that divides data.image_size"
        )
    if positions == "sincos" and width % 4:
        raise UserError(
            f"sincos positions need a width divisible by 4, not {width}: use learned positions"
        )
    if distilled and pool != "token":
        raise UserError(
            "model.distilled adds a second token to the class token: "
            f"set model.pool to token, not {pool}"
        )


class Patches(nnx.Module):
    """Cuts images (B, H, W, C) into patches and projects them: (B, N, width), row by row.

    The kernel (patch, patch, C, width) is that of a convolution with stride `patch`; as one matrix
    product it is faster on a CPU.
    """

    def __init__(self, patch: int, channels: int, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        init = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(init(rngs.params(), (patch, patch, channels, width)))
        self.bias = nnx.Param(jnp.zeros(width))
        self.dtype = dtype

    def __call__(self, images: jax.Array) -> jax.Array:
        patch, _, _, width = self.kernel.shape
        kernel = self.kernel[...].reshape(-1, width).astype(self.dtype)
        return patchify(images, patch) @ kernel + self.bias[...].astype(self.dtype)


def patchify(images: jax.Array, patch: int) -> jax.Array:
    """Cuts images (B, H, W, C) into patches (B, N, patch * patch * C), row by row.

    Args:
        images: whose sides are multiples of `patch`.
        patch: side of a patch, pixels.
    """
    batch, height, width, channels = images.shape
    x = images.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return x.swapaxes(2, 3).reshape(batch, -1, patch * patch * channels)


class Block(nnx.Module):
    """Pre-norm block on tokens (B, N, width): attention, then an MLP, each a residual branch."""

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float,
        stochastic_depth: float,
        attention: str,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.norm1 = LayerNorm(width, rngs=rngs)
        self.attention = Attention(width, heads, dropout, attention, dtype=dtype, rngs=rngs)
        self.norm2 = LayerNorm(width, rngs=rngs)
        self.mlp = Mlp(width, 4 * width, dropout, dtype=dtype, rngs=rngs)
        self.drop = StochasticDepth(stochastic_depth, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        x = x + self.drop(self.attention(self.norm1(x), mask))
        return x + self.drop(self.mlp(self.norm2(x)))


class DistilledHead(nnx.Module):
    """DeiT's two classifiers on embeddings (B, 2 width): of the class and the distillation token.

    Args:
        width: width of each token; `in_features` is twice that.
        num_classes: length of the logits.
        options: those of `nnx.Linear`.
    """

    def __init__(self, width: int, num_classes: int, **options: Any):
        self.token = nnx.Linear(width, num_classes, **options)
        self.distillation = nnx.Linear(width, num_classes, **options)
        self.in_features = 2 * width
        self.out_features = num_classes
        self.dtype = self.token.dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns logits (B, num_classes): the mean of both, as DeiT evaluates (section 4)."""
        token, distillation = self.both(x)
        return (token + distillation) / 2

    def both(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the logits (B, num_classes) of the class token and of the distillation token.

        The first follow the labels, the second the teacher.
        """
        token, distillation = jnp.split(x, 2, axis=-1)
        return self.token(token), self.distillation(distillation)


TIMM = (
    (r"^patches", "patch_embed.proj"),
    (r"^class_token", "cls_token"),
    (r"^distillation_token", "dist_token"),
    (r"^positions", "pos_embed"),
    (r"attention\.qkv", "attn.qkv"),
    (r"attention\.out", "attn.proj"),
    (r"mlp\.hidden", "mlp.fc1"),
    (r"mlp\.out", "mlp.fc2"),
    (r"^head\.token", "head"),
    (r"^head\.distillation", "head_dist"),
)
TORCHVISION = (
    (r"^patches", "conv_proj"),
    (r"^positions", "encoder.pos_embedding"),
    (r"^norm", "encoder.ln"),
    (r"^head", "heads.head"),
    (r"^blocks\.(\d+)\.", r"encoder.layers.encoder_layer_\1."),
    (r"\.norm(\d)", r".ln_\1"),
    (r"attention\.qkv\.kernel", "self_attention.in_proj_weight"),
    (r"attention\.qkv\.bias", "self_attention.in_proj_bias"),
    (r"attention\.out", "self_attention.out_proj"),
    (r"mlp\.hidden", "mlp.0"),
    (r"mlp\.out", "mlp.3"),
)


def from_old_torchvision(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames the MLP's layers, whose original names torchvision's published files still have."""
    return {
        name.replace("mlp.linear_1", "mlp.0").replace("mlp.linear_2", "mlp.3"): array
        for name, array in arrays.items()
    }


NAMES = {"timm": TIMM, "torchvision": TORCHVISION, "augreg": TIMM, "transformers": TIMM}
REWRITE = {
    "torchvision": from_old_torchvision,
    "augreg": from_augreg,
    "transformers": from_vit,
}
IGNORED = r"^pre_logits"  # a layer before the head, only for pre-training
ADAPT = {r"^positions$": resize_positions}
