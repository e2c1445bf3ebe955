"""Vision Transformer. Dosovitskiy et al. 2020 (arXiv:2010.11929), table 1; Ti and S are DeiT's (arXiv:2012.12877).

Pre-norm blocks, exact GELU, LayerNorm eps 1e-6, so that weights trained by PyTorch libraries load unchanged.
`pool="mean"` with `positions="sincos"` is the better plain ViT of Beyer et al. 2022 (arXiv:2205.01580).
"""

import functools

import jax.numpy as jnp
import numpy as np
from flax import nnx

from vision.errors import UserError, check_choice
from vision.models.layers import (
    REMATS,
    Dropout,
    LayerNorm,
    Linear,
    StochasticDepth,
    apply_blocks,
    at_least_float32,
    attention,
    check_rates,
    choose_attention,
    gelu,
    linear_rates,
)

SIZES = {  # width, depth, heads; the MLP is four times as wide
    "mu": (32, 1, 2),  # for tests
    "nano": (96, 6, 3),  # for small gray images on a CPU
    "Ti": (192, 12, 3),
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
}
VARIANTS = tuple(f"{size}/PATCH" for size in SIZES)  # PATCH: side of a patch, pixels
POOLS = ("token", "mean")
POSITIONS = ("learned", "sincos")


def build(
    variant,
    num_classes,
    *,
    rngs,
    dtype=jnp.float32,
    image_size=224,
    channels=3,
    pool="token",
    positions="learned",
    dropout=0.0,
    stochastic_depth=0.0,
    attention="auto",
    remat="none",
):
    """Returns the `ViT` of a variant such as "Ti/4" or "B/16": SIZE/PATCH. Options: see `ViT`.

    Raises:
        UserError: an unknown variant or option value, or patches that do not divide the image.
    """
    size, _, patch = str(variant).partition("/")
    if size not in SIZES or not patch.isdecimal() or int(patch) == 0:
        check_choice("model.variant", variant, VARIANTS, ", with PATCH the side of a patch in pixels, as in Ti/4")
    width, depth, heads = SIZES[size]
    return ViT(
        width,
        depth,
        heads,
        int(patch),
        num_classes,
        rngs=rngs,
        dtype=dtype,
        image_size=image_size,
        channels=channels,
        pool=pool,
        positions=positions,
        dropout=dropout,
        stochastic_depth=stochastic_depth,
        attention=attention,
        remat=remat,
    )


class ViT(nnx.Module):
    """Images (B, H, W, C), normalized floats -> embeddings (B, width) -> logits (B, num_classes), both float32."""

    def __init__(
        self,
        width,
        depth,
        heads,
        patch,
        num_classes,
        *,
        rngs,
        dtype=jnp.float32,
        image_size=224,
        channels=3,
        pool="token",
        positions="learned",
        dropout=0.0,
        stochastic_depth=0.0,
        attention="auto",
        remat="none",
    ):
        """Creates the network with the paper's initialization.

        Args:
            width: length of a token; a multiple of `heads`, and of 4 for sincos positions.
            depth: number of blocks.
            heads: attention heads a block.
            patch: side of a patch, pixels.
            num_classes: length of the logits.
            rngs: nnx's streams: `params`, and `dropout` where there is any.
            dtype: of the computation, float32 or bfloat16. Parameters, statistics and softmax are float32.
            image_size: side of the images, pixels; a multiple of `patch`.
            channels: of the images.
            pool: "token": a class token's embedding. "mean": the mean over the normalized patches' (no class token).
            positions: "learned", or "sincos": fixed, 2-D, for the patches only.
            dropout: probability, after the positions and each dense layer but qkv (the paper's appendix B.1).
            stochastic_depth: probability of dropping each branch of the last block; linear in depth.
            attention: "auto", "plain", "xla" or "cudnn"; see `layers.choose_attention`.
            remat: "none", "dots" or "blocks": what the backward pass computes again; see `layers.apply_blocks`.

        Raises:
            UserError: an option's value that is unknown or does not fit the others.
        """
        check_choice("model.pool", pool, POOLS)
        check_choice("model.positions", positions, POSITIONS)
        check_choice("model.remat", remat, REMATS)
        check_rates(**{"model.dropout": dropout, "model.stochastic_depth": stochastic_depth})
        if image_size % patch:
            raise UserError(
                f"images of {image_size} px cannot be cut into patches of {patch} px: "
                "choose a patch in model.variant that divides data.image_size"
            )
        if positions == "sincos" and width % 4:
            raise UserError(f"sincos positions need a width that 4 divides, not {width}: use learned positions")
        self.grid, self.dtype, self.remat = image_size // patch, dtype, remat
        tokens = self.grid**2 + (pool == "token")
        attention = choose_attention(attention, tokens, width // heads, dtype)
        normal = nnx.initializers.normal(0.02)
        self.patches = Patches(patch, channels, width, dtype=dtype, rngs=rngs)
        self.class_token = nnx.Param(jnp.zeros((1, 1, width))) if pool == "token" else None
        self.positions = nnx.Param(normal(rngs.params(), (1, tokens, width))) if positions == "learned" else None
        self.dropout = Dropout(dropout, rngs=rngs)
        rates = linear_rates(stochastic_depth, depth)
        make = functools.partial(Block, width, heads, dropout, dtype=dtype, rngs=rngs)
        self.blocks = nnx.List([make(rate, attention) for rate in rates])
        self.norm = LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(
            width, num_classes, kernel_init=nnx.initializers.zeros_init(), dtype=at_least_float32(dtype), rngs=rngs
        )

    def __call__(self, images):
        """Returns logits (B, num_classes), float32, of images (B, H, W, C)."""
        return self.head(self.embed(images))

    def embed(self, images):
        """Returns embeddings (B, width), float32, of images (B, H, W, C).

        Raises:
            UserError: images of another size than the model's.
        """
        x = apply_blocks(self.blocks, self.tokens(images), self.remat)
        x = x.astype(at_least_float32(self.dtype))
        if self.class_token is None:
            return self.norm(x).mean(1)
        return self.norm(x[:, 0])  # the norm is each token's own, so the others need none

    def tokens(self, images):
        """Returns what enters the first block: tokens (B, N, width), the class token first where there is one.

        Raises:
            UserError: images of another size than the model's.
        """
        side = self.grid * self.patches.kernel.shape[0]
        if images.shape[1:3] != (side, side):
            raise UserError(f"the model takes images of {side} px, not {images.shape[1]} x {images.shape[2]}")
        x = self.patches(images.astype(self.dtype))
        if self.positions is None:
            x = x + jnp.asarray(sincos_2d(self.grid, x.shape[-1]), self.dtype)
        if self.class_token is not None:
            token = jnp.broadcast_to(self.class_token[...].astype(self.dtype), (len(x), 1, x.shape[-1]))
            x = jnp.concatenate([token, x], axis=1)
        if self.positions is not None:
            x = x + self.positions[...].astype(self.dtype)
        return self.dropout(x)


class Patches(nnx.Module):
    """Cuts images (B, H, W, C) into patches and projects them: (B, N, width), row by row.

    The kernel (patch, patch, C, width) is that of a convolution with stride `patch`; as one matrix product it is
    faster on a CPU.
    """

    def __init__(self, patch, channels, width, *, dtype, rngs):
        init = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(init(rngs.params(), (patch, patch, channels, width)))
        self.bias = nnx.Param(jnp.zeros(width))
        self.dtype = dtype

    def __call__(self, images):
        patch, _, channels, width = self.kernel.shape
        batch, height, side = images.shape[:3]
        x = images.reshape(batch, height // patch, patch, side // patch, patch, channels)
        x = x.swapaxes(2, 3).reshape(batch, -1, patch * patch * channels)
        return x @ self.kernel[...].reshape(-1, width).astype(self.dtype) + self.bias[...].astype(self.dtype)


class Block(nnx.Module):
    """Pre-norm block on tokens (B, N, width): attention, then an MLP, each a residual branch."""

    def __init__(self, width, heads, dropout, stochastic_depth, attention, *, dtype, rngs):
        self.norm1 = LayerNorm(width, rngs=rngs)
        self.attention = Attention(width, heads, dropout, attention, dtype=dtype, rngs=rngs)
        self.norm2 = LayerNorm(width, rngs=rngs)
        self.mlp = Mlp(width, 4 * width, dropout, dtype=dtype, rngs=rngs)
        self.drop = StochasticDepth(stochastic_depth, rngs=rngs)

    def __call__(self, x):
        x = x + self.drop(self.attention(self.norm1(x)))
        return x + self.drop(self.mlp(self.norm2(x)))


class Attention(nnx.Module):
    """Multi-head self-attention on tokens (B, N, width); `qkv` holds queries, keys, values in this order, by head."""

    def __init__(self, width, heads, dropout, implementation="auto", *, dtype, rngs):
        # On the fused (width, 3 width) kernel, this is Xavier's uniform on each of the three (width, width) parts.
        qkv_init = nnx.initializers.variance_scaling(2.0, "fan_avg", "uniform")
        self.qkv = Linear(width, 3 * width, kernel_init=qkv_init, dtype=dtype, rngs=rngs)
        self.out = Linear(width, width, kernel_init=nnx.initializers.xavier_uniform(), dtype=dtype, rngs=rngs)
        self.dropout = Dropout(dropout, rngs=rngs)
        self.heads, self.implementation = heads, implementation

    def __call__(self, x):
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        x = attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], self.implementation)
        return self.dropout(self.out(x.reshape(batch, tokens, width)))


class Mlp(nnx.Module):
    """Two dense layers with GELU between, on tokens (B, N, width)."""

    def __init__(self, width, hidden, dropout, *, dtype, rngs):
        kernel_init, bias_init = nnx.initializers.xavier_uniform(), nnx.initializers.normal(1e-6)
        inits = {"kernel_init": kernel_init, "bias_init": bias_init}
        self.hidden = Linear(width, hidden, **inits, dtype=dtype, rngs=rngs)
        self.out = Linear(hidden, width, **inits, dtype=dtype, rngs=rngs)
        self.dropout = Dropout(dropout, rngs=rngs)

    def __call__(self, x):
        x = self.dropout(gelu(self.hidden(x)))
        return self.dropout(self.out(x))


def sincos_2d(grid, width, temperature=10_000.0):
    """Returns fixed positions (grid * grid, width), float32: sin x, cos x, sin y, cos y, a quarter each.

    As in MoCo v3 (Chen et al. 2021, arXiv:2104.02057) and arXiv:2205.01580.
    """
    frequencies = 1 / temperature ** np.linspace(0, 1, width // 4)
    y, x = (np.outer(axis.ravel(), frequencies) for axis in np.mgrid[:grid, :grid])
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1).astype(np.float32)
