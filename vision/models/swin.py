"""Swin Transformer. Liu et al. 2021 (arXiv:2103.14030), section 3.

Attention within windows, which every second block shifts by half their side, with a learned bias
for each relative position; LayerNorm eps 1e-5. If the windows do not divide a map, zeros are padded
on the far side before the shift, as in the authors' detection code and in torchvision (timm pads
after it). Initialization follows the authors' code: normal with deviation 0.02, biases 0.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from vision.errors import UserError, check_choice
from vision.models.layers.blocks import Dropout, StochasticDepth, apply_blocks, linear_rates
from vision.models.layers.convolution import Conv
from vision.models.layers.dtypes import at_least_float32
from vision.models.layers.linear import Linear
from vision.models.layers.norms import LayerNorm
from vision.models.layers.options import check_options
from vision.models.layers.transformer import Mlp
from vision.models.layers.windows import (
    from_windows,
    pad_to_multiple,
    regions,
    relative_positions,
    resize_biases,
    to_windows,
)
from vision.models.weights.published import Weights
from vision.models.weights.transformers import from_swin

# width of the first stage, doubled by each further one; blocks of each stage; width of a head
VARIANTS = {
    "mu": (8, (2, 1), 4),  # for tests
    "T": (96, (2, 2, 6, 2), 32),
    "S": (96, (2, 2, 18, 2), 32),
    "B": (128, (2, 2, 18, 2), 32),
}
PAPER_TOP1 = {"T": 81.3, "S": 83.0, "B": 83.5}  # table 1: ImageNet-1k at 224 px
PATCH = 4
EPSILON = 1e-5

_swin = functools.partial(Weights, crop=0.9)
_large = functools.partial(Weights, size=384, crop=1.0, options={"window": 12})
WEIGHTS = {  # top-1 as timm lists it, results/results-imagenet.csv
    "hf:timm/swin_tiny_patch4_window7_224.ms_in1k": _swin("T", 81.388),
    "hf:timm/swin_small_patch4_window7_224.ms_in1k": _swin("S", 83.228),
    "hf:timm/swin_small_patch4_window7_224.ms_in22k_ft_in1k": _swin("S", 83.330),
    "hf:timm/swin_base_patch4_window7_224.ms_in1k": _swin("B", 83.604),
    "hf:timm/swin_base_patch4_window7_224.ms_in22k_ft_in1k": _swin("B", 85.276),
    "hf:timm/swin_base_patch4_window12_384.ms_in1k": _large("B", 84.478),
    "hf:timm/swin_base_patch4_window12_384.ms_in22k_ft_in1k": _large("B", 86.442),
}


def build(variant: str, num_classes: int, *, image_size: int = 224, **options: Any) -> "Swin":
    """Builds the `Swin` of a variant: "T", "S" or "B".

    Args:
        variant: one of `VARIANTS`.
        num_classes: length of the logits.
        image_size: a multiple of 4, the side of the patches. No padding is needed if the window
            divides a fourth, an eighth, a 16th and a 32nd of it.
        options: those of `Swin`.

    Raises:
        UserError: an unknown variant, an image size that 4 does not divide, or an option's value is
            invalid.
    """
    check_choice("model.variant", variant, tuple(VARIANTS))
    _check_side(image_size, ": set data.image_size")
    return Swin(*VARIANTS[variant], num_classes, **options)


def _check_side(side, advice=""):
    if side < PATCH or side % PATCH:
        raise UserError(
            f"model 'swin' takes images whose side is a multiple of {PATCH}, not {side} px{advice}"
        )


class Swin(nnx.Module):
    """Images (B, H, W, C), normalized -> embeddings (B, D) -> logits (B, num_classes), float32.

    Args:
        width: channels of the first stage; each further stage has twice as many, and half the
            image's side.
        depths: blocks of each stage; every second one of a stage has shifted windows.
        head_width: channels of each attention head; divides `width`.
        num_classes: length of the logits.
        rngs: nnx random streams: `params`, and `dropout` if there is any.
        dtype: compute dtype, float32 or bfloat16. Parameters, statistics and softmax are float32.
        channels: image channels.
        window: side of the windows, patches. The paper has 7 at 224 px, and 12 at 384 px.
        dropout: probability, after the patches and each dense layer except qkv.
        stochastic_depth: probability of dropping each branch of the last block; linear in depth.
            The paper has 0.2, 0.3, 0.5 for T, S, B.
        remat: "none", "dots" or "blocks": what the backward pass recomputes; see
            `layers.blocks.apply_blocks`.

    Raises:
        UserError: an option's value is invalid.
    """

    def __init__(
        self,
        width: int,
        depths: Sequence[int],
        head_width: int,
        num_classes: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        channels: int = 3,
        window: int = 7,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        remat: str = "none",
    ):
        check_options(dropout=dropout, stochastic_depth=stochastic_depth, remat=remat)
        if window < 1:
            raise UserError(f"model.options.window must be at least 1 patch, got {window}")
        self.dtype = dtype
        self.remat = remat
        self.stem = Stem(channels, width, dropout, dtype=dtype, rngs=rngs)
        make_stage = functools.partial(
            Stage, head_width=head_width, window=window, dropout=dropout, dtype=dtype, rngs=rngs
        )
        rates = iter(linear_rates(stochastic_depth, sum(depths)))
        stages = []
        for i, depth in enumerate(depths):
            stage_rates = [next(rates) for _ in range(depth)]
            stages.append(make_stage(width * 2**i, stage_rates, merge=i > 0))
        self.stages = nnx.List(stages)
        features = width * 2 ** (len(depths) - 1)
        self.norm = LayerNorm(features, epsilon=EPSILON, rngs=rngs)
        self.head = nnx.Linear(
            features,
            num_classes,
            kernel_init=nnx.initializers.normal(0.02),
            dtype=at_least_float32(dtype),
            rngs=rngs,
        )

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits (B, num_classes), float32, of images (B, H, W, C)."""
        return self.head(self.embed(images))

    def embed(self, images: jax.Array) -> jax.Array:
        """Returns embeddings (B, D), float32, of images (B, H, W, C).

        Raises:
            UserError: as `features`.
        """
        *_, last = self.features(images).values()
        return self.pool(last)

    def features(self, images: jax.Array) -> dict[str, jax.Array]:
        """Returns {"stem": map, "stages.0": map, ...} of images (B, H, W, C).

        Maps are (B, H / 4, W / 4, width), and half as large after each further stage.

        Raises:
            UserError: 4 does not divide the images' sides.
        """
        for side in images.shape[1:3]:
            _check_side(side)
        x = self.stem(images.astype(self.dtype))
        maps = {"stem": x}
        for i, stage in enumerate(self.stages):
            x = stage(x, self.remat)
            maps[f"stages.{i}"] = x
        return maps

    def pool(self, x: jax.Array) -> jax.Array:
        """Returns embeddings (B, D), float32: the mean over the normalized last map."""
        return self.norm(x.astype(at_least_float32(self.dtype))).mean((1, 2))


class Stem(nnx.Module):
    """Patches of 4x4 pixels, normalized: (B, H, W, C) -> (B, H / 4, W / 4, width)."""

    def __init__(
        self, channels: int, width: int, dropout: float, *, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.conv = Conv(
            channels,
            width,
            PATCH,
            PATCH,
            padding="VALID",
            bias=True,
            kernel_init=nnx.initializers.normal(0.02),
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = LayerNorm(width, epsilon=EPSILON, rngs=rngs)
        self.dropout = Dropout(dropout, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dropout(self.norm(self.conv(x)))


class Stage(nnx.Module):
    """Blocks of one width, after a `Merge` in all stages but the first.

    Args:
        width: channels of the result.
        rates: stochastic depth of each block.
        merge: whether the input has half the channels and twice the side.
        dtype: compute dtype.
        rngs: nnx random streams.
        options: those of `Block`.
    """

    def __init__(
        self,
        width: int,
        rates: Sequence[float],
        *,
        merge: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        self.merge = Merge(width // 2, dtype=dtype, rngs=rngs) if merge else None
        blocks = []
        for i, rate in enumerate(rates):
            shifted = i % 2 == 1
            blocks.append(Block(width, rate, shifted=shifted, dtype=dtype, rngs=rngs, **options))
        self.blocks = nnx.List(blocks)

    def __call__(self, x: jax.Array, remat: str = "none") -> jax.Array:
        x = x if self.merge is None else self.merge(x)
        return apply_blocks(self.blocks, x, remat)


class Merge(nnx.Module):
    """Halves the map and doubles the channels: (B, H, W, C) -> (B, H / 2, W / 2, 2 C).

    An odd side is padded with zeros.
    """

    def __init__(self, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.norm = LayerNorm(4 * width, epsilon=EPSILON, rngs=rngs)
        init = nnx.initializers.normal(0.02)
        self.reduction = Linear(
            4 * width, 2 * width, use_bias=False, kernel_init=init, dtype=dtype, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        x = pad_to_multiple(x, 2)
        batch, height, side, width = x.shape
        x = x.reshape(batch, height // 2, 2, side // 2, 2, width)
        # The four pixels column by column, as in the authors' code.
        x = x.transpose(0, 1, 3, 4, 2, 5).reshape(batch, height // 2, side // 2, 4 * width)
        return self.reduction(self.norm(x))


class Block(nnx.Module):
    """Pre-norm block on x (B, H, W, width): window attention, then an MLP, in residual branches.

    Args:
        width: channels.
        stochastic_depth: probability of dropping each branch.
        head_width, window, dropout: see `Swin`.
        shifted: whether the windows are shifted.
        dtype: compute dtype.
        rngs: nnx random streams.
    """

    def __init__(
        self,
        width: int,
        stochastic_depth: float,
        *,
        head_width: int,
        window: int,
        dropout: float,
        shifted: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        init = nnx.initializers.normal(0.02)
        self.norm1 = LayerNorm(width, epsilon=EPSILON, rngs=rngs)
        shift = window // 2 if shifted else 0
        self.attention = WindowAttention(
            width, width // head_width, window, shift, dropout, dtype=dtype, rngs=rngs
        )
        self.norm2 = LayerNorm(width, epsilon=EPSILON, rngs=rngs)
        inits = {"kernel_init": init, "bias_init": nnx.initializers.zeros_init()}
        self.mlp = Mlp(width, 4 * width, dropout, **inits, dtype=dtype, rngs=rngs)
        self.drop = StochasticDepth(stochastic_depth, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.drop(self.attention(self.norm1(x)))
        return x + self.drop(self.mlp(self.norm2(x)))


class WindowAttention(nnx.Module):
    """Multi-head self-attention within windows of x (B, H, W, width), shifted cyclically.

    The paper's section 3.2.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        window: int,
        shift: int,
        dropout: float,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        init = nnx.initializers.normal(0.02)
        self.qkv = Linear(width, 3 * width, kernel_init=init, dtype=dtype, rngs=rngs)
        self.positions = nnx.Param(init(rngs.params(), ((2 * window - 1) ** 2, heads)))
        self.out = Linear(width, width, kernel_init=init, dtype=dtype, rngs=rngs)
        self.dropout = Dropout(dropout, rngs=rngs)
        self.depth = width // heads
        self.window = window
        self.shift = shift

    def __call__(self, x: jax.Array) -> jax.Array:
        height, side = x.shape[1:3]
        x = pad_to_multiple(x, self.window)
        padded_sides = x.shape[1:3]
        # Nothing needs a shift if one window spans the map.
        shifts = [self.shift if length > self.window else 0 for length in padded_sides]
        shifted_regions = None
        if any(shifts):
            x = jnp.roll(x, [-shift for shift in shifts], (1, 2))
            shifted_regions = regions(padded_sides, self.window, shifts)
        x = self._attend(to_windows(x, self.window), shifted_regions)
        x = from_windows(x, self.window, padded_sides)
        if any(shifts):
            x = jnp.roll(x, shifts, (1, 2))
        return self.dropout(x[:, :height, :side])

    def _attend(self, x, shifted_regions):
        """Returns attention on windows of tokens (B, windows, N, width).

        Tokens attend only within their region (windows, N), unless the regions are None.
        """
        batch, windows, tokens, _ = x.shape
        # Batch and windows are one axis at first: Core ML has at most five.
        qkv = self.qkv(x).reshape(batch * windows, tokens, 3, -1, self.depth)
        shape = (batch, windows, -1, tokens, self.depth)  # (B, windows, heads, N, depth)
        query, key, value = (part.reshape(shape) for part in qkv.transpose(2, 0, 3, 1, 4))
        scores = (query @ key.swapaxes(-1, -2)).astype(at_least_float32(x.dtype))
        scores = scores * self.depth**-0.5 + self._bias()
        if shifted_regions is not None:
            apart = (shifted_regions[:, :, None] != shifted_regions[:, None, :])[:, None]
            # -100 instead of minus infinity, as in the authors' code
            scores = scores + jnp.where(apart, -100.0, 0.0)
        x = jax.nn.softmax(scores).astype(value.dtype) @ value
        return self.out(x.swapaxes(2, 3).reshape(batch, windows, tokens, -1))

    def _bias(self):
        """Returns each score's bias, by the tokens' relative position: (heads, N, N), float32."""
        return self.positions[...][relative_positions(self.window)].transpose(2, 0, 1)


IGNORED = r"relative_position_index$|attn_mask$"  # determined by the shapes
ADAPT = {r"attention\.positions$": resize_biases}
BLOCK = (
    (r"attention\.positions", "attn.relative_position_bias_table"),
    (r"attention\.qkv", "attn.qkv"),
    (r"attention\.out", "attn.proj"),
)
NAMES = {
    "timm": (
        (r"^stem\.conv", "patch_embed.proj"),
        (r"^stem\.norm", "patch_embed.norm"),
        (r"^stages\.(\d)\.merge", r"layers.\1.downsample"),
        (r"^stages", "layers"),
        (r"^head", "head.fc"),
        *BLOCK,
        (r"mlp\.hidden", "mlp.fc1"),
        (r"mlp\.out", "mlp.fc2"),
    ),
    "torchvision": (
        (r"^stem\.conv", "features.0.0"),
        (r"^stem\.norm", "features.0.2"),
        (r"^stages\.(\d)\.merge", lambda m: f"features.{2 * int(m[1])}"),
        (r"^stages\.(\d)\.blocks", lambda m: f"features.{2 * int(m[1]) + 1}"),
        *BLOCK,
        (r"mlp\.hidden", "mlp.0"),
        (r"mlp\.out", "mlp.3"),
    ),
}
NAMES["transformers"] = NAMES["timm"]
REWRITE = {"transformers": from_swin}
