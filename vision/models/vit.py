"""Vision Transformer. Dosovitskiy et al. 2020 (arXiv:2010.11929), table 1; Ti and S are DeiT's
(arXiv:2012.12877).

Pre-norm blocks, exact GELU, LayerNorm eps 1e-6, so that weights trained by PyTorch libraries load
unchanged. `pool="mean"` with `positions="sincos"` is the better plain ViT of Beyer et al. 2022
(arXiv:2205.01580). `distilled=True` is DeiT's distillation token (Touvron et al. 2020,
arXiv:2012.12877, section 4).
"""

import functools

import jax.numpy as jnp
from flax import nnx

from vision.errors import UserError, check_choice
from vision.models.layers.activations import gelu
from vision.models.layers.attention import attention, choose_attention
from vision.models.layers.blocks import REMATS, Dropout, StochasticDepth, apply_blocks, linear_rates
from vision.models.layers.dtypes import at_least_float32
from vision.models.layers.linear import Linear
from vision.models.layers.norms import LayerNorm
from vision.models.layers.options import check_rates
from vision.models.layers.positions import resize_positions, sincos_2d
from vision.models.weights.augreg import from_augreg
from vision.models.weights.published import INCEPTION_MEAN, INCEPTION_STD, Weights

SHAPES = {  # width, depth, heads; the MLP is four times as wide
    "mu": (32, 1, 2),  # for tests
    "nano": (96, 6, 3),  # for small gray images on a CPU
    "Ti": (192, 12, 3),
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
}
VARIANTS = tuple(f"{size}/PATCH" for size in SHAPES)  # PATCH: side of a patch, pixels
LISTED = ("Ti/16", "S/16", "S/32", "B/16", "B/32", "L/16")  # what a table of models shows of them
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
    distilled=False,
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
    if size not in SHAPES or not patch.isdecimal() or int(patch) == 0:
        check_choice(
            "model.variant",
            variant,
            VARIANTS,
            ", with PATCH the side of a patch in pixels, as in Ti/4",
        )
    width, depth, heads = SHAPES[size]
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
        distilled=distilled,
        dropout=dropout,
        stochastic_depth=stochastic_depth,
        attention=attention,
        remat=remat,
    )


class ViT(nnx.Module):
    """Images (B, H, W, C), normalized floats -> embeddings (B, D) -> logits (B, num_classes), both
    float32.

    D is the width; twice that with a distillation token, whose embedding follows the class token's.
    """

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
        distilled=False,
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
            dtype: of the computation, float32 or bfloat16. Parameters, statistics and softmax are
                float32.
            image_size: side of the images, pixels; a multiple of `patch`.
            channels: of the images.
            pool: "token": a class token's embedding. "mean": the mean over the normalized patches'
                (no class token).
            positions: "learned", or "sincos": fixed, 2-D, for the patches only.
            distilled: a distillation token beside the class token, and a `DistilledHead`.
            dropout: probability, after the positions and each dense layer but qkv (the paper's
                appendix B.1).
            stochastic_depth: probability of dropping each branch of the last block; linear in
                depth.
            attention: "auto", "plain", "xla" or "cudnn"; see `layers.choose_attention`.
            remat: "none", "dots" or "blocks": what the backward pass computes again; see
                `layers.apply_blocks`.

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
            raise UserError(
                f"sincos positions need a width that 4 divides, not {width}: use learned positions"
            )
        if distilled and pool != "token":
            raise UserError(
                f"model.distilled adds a token beside the class token: set model.pool to token, not {pool}"
            )
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
        rates = linear_rates(stochastic_depth, depth)
        make = functools.partial(Block, width, heads, dropout, dtype=dtype, rngs=rngs)
        self.blocks = nnx.List([make(rate, attention) for rate in rates])
        self.norm = LayerNorm(width, rngs=rngs)
        zeros = nnx.initializers.zeros_init()
        wide = at_least_float32(dtype)
        make_head = DistilledHead if distilled else nnx.Linear
        self.head = make_head(width, num_classes, kernel_init=zeros, dtype=wide, rngs=rngs)

    def __call__(self, images):
        """Returns logits (B, num_classes), float32, of images (B, H, W, C)."""
        return self.head(self.embed(images))

    def embed(self, images):
        """Returns embeddings (B, D), float32, of images (B, H, W, C).

        Raises:
            UserError: images of another size than the model's.
        """
        return self.pool(apply_blocks(self.blocks, self.tokens(images), self.remat))

    def features(self, images):
        """Returns {"tokens": ..., "blocks.0": ..., ...}: tokens (B, N, width), the last ones before
        the norm.

        Raises:
            UserError: images of another size than the model's.
        """
        maps = {"tokens": self.tokens(images)}
        for i, block in enumerate(self.blocks):
            *_, last = maps.values()
            maps[f"blocks.{i}"] = apply_blocks([block], last, self.remat)
        return maps

    def pool(self, x):
        """Returns embeddings (B, D), float32, of the last block's tokens x (B, N, width)."""
        x = x.astype(at_least_float32(self.dtype))
        if self.class_token is None:
            return self.norm(x).mean(1)
        # The norm is each token's own, so the others need none.
        if self.distillation_token is None:
            return self.norm(x[:, 0])
        return self.norm(x[:, :2]).reshape(x.shape[0], -1)

    def tokens(self, images):
        """Returns what enters the first block: tokens (B, N, width): class, distillation, then the
        patches'.

        Raises:
            UserError: images of another size than the model's.
        """
        side = self.grid * self.patches.kernel.shape[0]
        if images.shape[1:3] != (side, side):
            raise UserError(
                f"the model takes images of {side} px, not {images.shape[1]} x {images.shape[2]}"
            )
        x = self.patches(images.astype(self.dtype))
        if self.positions is None:
            x = x + jnp.asarray(sincos_2d(self.grid, x.shape[-1]), self.dtype)
        first = [
            token for token in (self.class_token, self.distillation_token) if token is not None
        ]
        if first:
            first = [
                jnp.broadcast_to(t[...].astype(self.dtype), (x.shape[0], 1, x.shape[-1]))
                for t in first
            ]
            x = jnp.concatenate([*first, x], axis=1)
        if self.positions is not None:
            x = x + self.positions[...].astype(self.dtype)
        return self.dropout(x)


class Patches(nnx.Module):
    """Cuts images (B, H, W, C) into patches and projects them: (B, N, width), row by row.

    The kernel (patch, patch, C, width) is that of a convolution with stride `patch`; as one matrix
    product it is faster on a CPU.
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
        return x @ self.kernel[...].reshape(-1, width).astype(self.dtype) + self.bias[...].astype(
            self.dtype
        )


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
    """Multi-head self-attention on tokens (B, N, width); `qkv` holds queries, keys, values in this
    order, by head."""

    def __init__(self, width, heads, dropout, implementation="auto", *, dtype, rngs):
        # On the fused (width, 3 width) kernel, this is Xavier's uniform on each of the three
        # (width, width) parts.
        qkv_init = nnx.initializers.variance_scaling(2.0, "fan_avg", "uniform")
        self.qkv = Linear(width, 3 * width, kernel_init=qkv_init, dtype=dtype, rngs=rngs)
        self.out = Linear(
            width, width, kernel_init=nnx.initializers.xavier_uniform(), dtype=dtype, rngs=rngs
        )
        self.dropout = Dropout(dropout, rngs=rngs)
        self.depth = width // heads
        self.implementation = implementation

    @property
    def heads(self):
        """How many there are: pruning leaves fewer, of the same depth."""
        return self.qkv.out_features // (3 * self.depth)

    def __call__(self, x):
        query, key, value = self._split(x)
        x = attention(query, key, value, self.implementation)
        return self.dropout(self.out(x.reshape(*x.shape[:2], -1)))

    def probabilities(self, x):
        """Returns how much each token attends to each other, at least float32 (B, heads, N, N);
        rows sum to 1."""
        query, key, _ = self._split(x)
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key).astype(at_least_float32(x.dtype))
        return nnx.softmax(scores * query.shape[-1] ** -0.5)

    def _split(self, x):
        qkv = self.qkv(x).reshape(*x.shape[:2], 3, -1, self.depth)
        return qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]


class Mlp(nnx.Module):
    """Two dense layers with GELU between, on x (..., width); by default with ViT's
    initialization."""

    def __init__(self, width, hidden, dropout, *, kernel_init=None, bias_init=None, dtype, rngs):
        kernel_init = kernel_init or nnx.initializers.xavier_uniform()
        inits = {
            "kernel_init": kernel_init,
            "bias_init": bias_init or nnx.initializers.normal(1e-6),
        }
        self.hidden = Linear(width, hidden, **inits, dtype=dtype, rngs=rngs)
        self.out = Linear(hidden, width, **inits, dtype=dtype, rngs=rngs)
        self.dropout = Dropout(dropout, rngs=rngs)

    def __call__(self, x):
        x = self.dropout(gelu(self.hidden(x)))
        return self.dropout(self.out(x))


class DistilledHead(nnx.Module):
    """DeiT's two classifiers, on embeddings (B, 2 width): the class token's, then the distillation
    token's.

    Args:
        width: of each token; `in_features` is twice that.
        num_classes: length of the logits.
        options: as for `nnx.Linear`.
    """

    def __init__(self, width, num_classes, **options):
        self.token = nnx.Linear(width, num_classes, **options)
        self.distillation = nnx.Linear(width, num_classes, **options)
        self.in_features = 2 * width
        self.out_features = num_classes
        self.dtype = self.token.dtype

    def __call__(self, x):
        """Returns logits (B, num_classes): the mean of the two, as in evaluation (arXiv:2012.12877,
        section 4)."""
        token, distillation = self.both(x)
        return (token + distillation) / 2

    def both(self, x):
        """Returns (class token's logits, distillation token's), each (B, num_classes): one follows
        the labels, the other the teacher."""
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


def from_old_torchvision(arrays):
    """torchvision's published files still have the first names of the MLP's layers."""
    return {
        k.replace("mlp.linear_1", "mlp.0").replace("mlp.linear_2", "mlp.3"): v
        for k, v in arrays.items()
    }


NAMES = {"timm": TIMM, "torchvision": TORCHVISION, "augreg": TIMM}
REWRITE = {"torchvision": from_old_torchvision, "augreg": from_augreg}
IGNORED = r"^pre_logits"  # a layer before the head, of pre-training only
ADAPT = {r"^positions$": resize_positions}
